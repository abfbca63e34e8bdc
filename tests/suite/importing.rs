//! Taking over keys by the thousand, through the registry.

use tower_api_key::{
    Attempt, EventAction, KeyDigest, KeyErrorKind, KeyImport, NewKey, Requirements,
};

use crate::support::Bench;

fn import(text: &str) -> KeyImport {
    KeyImport::new(NewKey::named(text), KeyDigest::sha256(text)).start("leg")
}

#[tokio::test]
async fn each_key_has_its_own_outcome_and_event() {
    let bench = Bench::new();
    let keys = bench.keys.acting_as("migration");
    let batch = [
        import("one"),
        KeyImport::new(NewKey::named(""), KeyDigest::sha256("nameless")),
        import("two"),
        import("one"),
        import("three").start("not visible"),
        KeyImport::new(NewKey::named("x").prefix("rk"), KeyDigest::sha256("x")),
    ];
    let outcomes = keys.import_all(batch).await.unwrap();
    let told: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            outcome
                .as_ref()
                .err()
                .map(|error| (error.kind(), error.field()))
        })
        .collect();
    let invalid = |field| Some((KeyErrorKind::Invalid, Some(field)));
    assert_eq!(
        told,
        [
            None,
            invalid("name"),
            None,
            Some((KeyErrorKind::Duplicate, None)),
            invalid("start"),
            invalid("prefix"),
        ]
    );
    for (name, outcome) in [("one", &outcomes[0]), ("two", &outcomes[2])] {
        let id = *outcome.as_ref().unwrap();
        let key = keys.get(id).await.unwrap();
        assert_eq!(
            (key.record.name.as_str(), &*key.credentials[0].start),
            (name, "leg")
        );
        let events = keys.events(id, None, 10).await.unwrap().events;
        assert_eq!((events.len(), events[0].action), (1, EventAction::Imported));
        assert_eq!(events[0].actor.as_deref(), Some("migration"));
    }
    assert_eq!(bench.store.writes(), 1, "a batch is one write");
    assert_eq!(keys.import_all([]).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_key_works_from_the_moment_it_is_imported() {
    for others in [0, 200] {
        let bench = Bench::with(|builder| builder.accept_imported(true));
        let verify = async || {
            let verified = bench.keys.verifier();
            verified
                .verify(Attempt::new("one"), &Requirements::new())
                .await
        };
        assert!(verify().await.is_err(), "and that is remembered");
        let mut batch: Vec<_> = (0..others).map(|n| import(&format!("other {n}"))).collect();
        batch.push(import("one"));
        bench.keys.import_all(batch).await.unwrap();
        assert!(verify().await.is_ok(), "with {others} others");
    }
}

#[tokio::test]
async fn a_batch_that_failed_can_be_given_again() {
    let bench = Bench::new();
    bench.store.fail(true);
    let failed = bench.keys.import_all([import("one")]).await.unwrap_err();
    assert_eq!(failed.kind(), KeyErrorKind::Store);
    bench.store.fail(false);
    let again = bench.keys.import_all([import("one"), import("two")]).await;
    assert!(again.unwrap().iter().all(Result::is_ok));
}
