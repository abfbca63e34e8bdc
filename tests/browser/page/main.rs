//! The page that administers keys, as people use it: in a browser.

mod answer;
mod browser;
mod failures;
mod keyboard;
mod life;
mod listing;
mod privacy;

use std::future::IntoFuture;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_api_key::testing::ScriptedStore;
use tower_api_key::{
    ApiKeyLayer, ApiKeys, Issued, KeyFormat, MemoryStore, NewKey, RateLimit, admin,
};

use browser::Browser;

/// A service with the page at `/admin`, on a port of its own.
struct Service {
    app: Router,
    keys: ApiKeys,
    store: ScriptedStore<MemoryStore>,
    /// The secret of a key that may do everything.
    root: String,
    page: String,
}

impl Service {
    async fn start() -> Self {
        let store = ScriptedStore::new(MemoryStore::new());
        let keys = ApiKeys::builder(store.clone())
            .format(KeyFormat::new("sk").prefix("pk"))
            .build();
        let root = secret(&keys, NewKey::named("root").scopes(["*"])).await;
        let orders = get(|| async { "orders" });
        let app = Router::new()
            .nest("/admin", admin::router(&keys).merge(admin::page()))
            .route(
                "/orders",
                orders.layer(ApiKeyLayer::new(&keys).scopes(["orders:read"])),
            );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let page = format!("http://{}/admin", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, app.clone()).into_future());
        Self {
            app,
            keys,
            store,
            root,
            page,
        }
    }

    /// A browser at the page, signed in with the key that may do everything.
    async fn signed_in(&self) -> Browser {
        let browser = Browser::start().await;
        browser.open(&self.page).await;
        browser.sign_in(&self.root).await;
        browser
    }

    /// What a client with this secret is answered.
    async fn use_secret(&self, secret: &str) -> StatusCode {
        let request = Request::get("/orders").header("x-api-key", secret);
        let request = request.body(Body::empty()).unwrap();
        self.app.clone().oneshot(request).await.unwrap().status()
    }

    async fn issue(&self, key: NewKey) -> Issued {
        self.keys.issue(key).await.unwrap()
    }
}

async fn secret(keys: &ApiKeys, key: NewKey) -> String {
    keys.issue(key).await.unwrap().secret().expose().to_owned()
}

/// A limit of so many requests in a minute.
fn per_minute(quota: u64) -> RateLimit {
    RateLimit::per_minute(quota)
}
