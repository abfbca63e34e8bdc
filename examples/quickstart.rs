//! The README's program: keys in memory, two routes.

use axum::routing::get;
use axum::{Json, Router};
use tower_api_key::{
    ApiKeyLayer, ApiKeys, KeyFormat, KeyPrincipal, MemoryStore, NewKey, RateLimit,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys = ApiKeys::builder(MemoryStore::new())
        .format(KeyFormat::new("sk"))
        .build();

    let billing = NewKey::named("billing")
        .scopes(["orders:read"])
        .limit(RateLimit::per_minute(100));
    let issued = keys.issue(billing).await?;
    println!("{}", issued.secret().expose()); // the only time it is visible

    let auth = ApiKeyLayer::new(&keys);
    let app = Router::new()
        .route("/orders", get(list).layer(auth.scopes(["orders:read"])))
        .route("/whoami", get(whoami).layer(auth));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn list() -> Json<Vec<u64>> {
    Json(vec![1, 2, 3])
}

async fn whoami(principal: KeyPrincipal) -> String {
    format!("you are {}\n", principal.name())
}
