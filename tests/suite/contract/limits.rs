//! Answers over a limit.

use tower_api_key::NewKey;

use super::{answer, app, from};
use crate::support::{Bench, SECOND, bearing, limit, send};

#[tokio::test]
async fn over_a_limit_nothing_is_charged_to_any() {
    let bench = Bench::new();
    let key = NewKey::named("x")
        .limit(limit("burst", 2, 16))
        .limit(limit("daily", 10, 1_600));
    let issued = bench.issue(key).await;
    let app = app(&bench.layer());
    let request = || bearing(issued.secret().expose());
    assert_eq!(send(&app, request()).await.status, 200);
    assert_eq!(send(&app, request()).await.status, 200);
    for _ in 0..3 {
        let refused = answer(
            429,
            concat!(
                r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","#,
                r#""title":"Too Many Requests","status":429,"code":"rate_limited","#,
                r#""detail":"the API key's rate limit is exceeded","#,
                r#""violated-policies":["burst"]}"#
            )
            .into(),
            &[
                ("retry-after", "16"),
                (
                    "ratelimit-policy",
                    r#""burst";q=2;w=16, "daily";q=10;w=1600"#,
                ),
                // A client that waits for the last `t` waits no longer than it has to.
                ("ratelimit", r#""burst";r=0;t=16, "daily";r=8;t=16"#),
            ],
        );
        assert_eq!(send(&app, request()).await, refused);
    }
    bench.clock.advance(16 * SECOND);
    let answer = send(&app, request()).await;
    assert_eq!(answer.status, 200);
    let state = answer.header("ratelimit").unwrap();
    assert_eq!(state, r#""burst";r=1;t=16, "daily";r=7;t=1584"#);
}

#[tokio::test]
async fn what_costs_more_than_the_quota_is_never_told_to_wait() {
    let bench = Bench::new();
    let key = NewKey::named("x")
        .limit(limit("burst", 4, 16))
        .limit(limit("daily", 10, 1_600));
    let key = bench.secret(key).await;
    let answer_to_all = answer(
        429,
        concat!(
            r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","#,
            r#""title":"Too Many Requests","status":429,"code":"rate_limited","#,
            r#""detail":"the request costs more than the limit ever allows, so it cannot succeed","#,
            r#""violated-policies":["burst"]}"#
        )
        .into(),
        &[
            ("ratelimit-policy", r#""burst";q=4;w=16, "daily";q=10;w=1600"#),
            ("ratelimit", r#""burst";r=4;t=0, "daily";r=10;t=0"#),
        ],
    );
    let app = app(&bench.layer().cost(5));
    assert_eq!(send(&app, bearing(&key)).await, answer_to_all);
}

#[tokio::test]
async fn refused_requests_take_no_quota() {
    let bench = Bench::new();
    let network = "192.0.2.0/24".parse().unwrap();
    let key = NewKey::named("x")
        .environment("test")
        .allowed_addresses([network])
        .limit(limit("burst", 2, 16));
    let key = bench.secret(key).await;
    let request = || from("192.0.2.1", bearing(&key));
    let (open, scoped) = (app(&bench.layer()), app(&bench.layer().scopes(["a"])));
    let live = app(&bench.layer().environments(["live"]));
    for _ in 0..5 {
        assert_eq!(send(&scoped, request()).await.status, 403);
        assert_eq!(send(&open, bearing(&key)).await.status, 403);
        assert_eq!(send(&live, request()).await.status, 401);
    }
    let answer = send(&open, request()).await;
    assert_eq!(answer.header("ratelimit").unwrap(), r#""burst";r=1;t=16"#);
}
