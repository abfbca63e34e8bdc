//! The store conformance suite: whether a store keeps the contracts of
//! [`KeyStore`] and [`KeyRepository`].
//!
//! ```
//! use tower_api_key::MemoryStore;
//! use tower_api_key::testing::conformance;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! conformance::check(async || MemoryStore::new()).await;
//! # });
//! ```

mod batches;
mod changing;
mod crediting;
mod finding;
mod inserting;
mod listing;
mod sample;
mod using;

use std::error::Error;
use std::sync::Arc;

use crate::key::KeyDigest;
use crate::record::KeyId;
use crate::store::{KeyRepository, KeyStore, StoreErrorKind};

/// Checks a store against every clause of both contracts but the fourth of `KeyStore`, for which
/// see [`check_unreadable_row`].
///
/// `fresh` makes a store for each check. The store need not be empty, so it can also return
/// handles of one database: each check uses keys, owners and environments of its own. A store with
/// replicas is checked without them, as every lookup is expected to see what was just written.
///
/// It needs a tokio runtime with the timer enabled, and finds more on a multi-threaded one.
///
/// # Panics
///
/// When the store breaks a contract. The message names it and the clause's number, as in
/// `KeyRepository contract 4`, or the method whose description is not met.
pub async fn check<S: KeyRepository>(fresh: impl AsyncFn() -> S) {
    let store = async || Arc::new(fresh().await) as Store;

    finding::a_credential_is_found_whatever_its_state(store().await).await;
    finding::an_unknown_digest_is_none(store().await).await;
    finding::the_latest_lookup_sees_every_change(store().await).await;
    finding::a_lookup_sees_no_half_of_a_change(store().await).await;

    inserting::a_key_comes_back_as_it_was_written(store().await).await;
    inserting::times_are_kept_to_the_microsecond(store().await).await;
    inserting::a_duplicate_leaves_no_trace(store().await).await;
    inserting::of_concurrent_duplicates_one_is_written(store().await).await;
    inserting::an_abandoned_insert_is_whole_or_not_at_all(store().await).await;

    batches::a_batch_is_written_as_it_is_given(store().await).await;
    batches::duplicates_in_a_batch_leave_no_trace(store().await).await;
    batches::of_concurrent_batches_each_key_is_written_once(store().await).await;
    batches::an_abandoned_batch_can_be_given_again(store().await).await;

    changing::a_change_is_applied_with_its_event(store().await).await;
    changing::a_stale_change_is_not_applied(store().await).await;
    changing::of_concurrent_changes_one_is_applied(store().await).await;
    changing::an_end_is_set_and_never_moved_back(store().await).await;
    changing::removed_credentials_are_gone_and_nothing_else(store().await).await;
    changing::a_duplicate_credential_changes_nothing(store().await).await;
    changing::an_abandoned_change_is_whole_or_not_at_all(store().await).await;

    crediting::what_is_taken_is_nobody_elses(store().await).await;
    crediting::a_balance_is_set_with_the_version_that_says_so(store().await).await;
    crediting::credits_come_back_to_where_they_were_taken_from(store().await).await;

    listing::every_filter_pages_through_all_that_fit(store().await).await;

    using::counts_add_up(store().await).await;
    using::a_batch_that_is_given_again_counts_once(store().await).await;
    using::last_use_never_moves_back(store().await).await;
    using::what_does_not_exist_is_passed_over(store().await).await;
    using::a_range_is_half_open(store().await).await;
    using::events_come_by_pages_newest_first(store().await).await;
    using::an_unknown_key_has_nothing(store().await).await;
}

/// Checks clause 4 of [`KeyStore`], once a test has made the stored row of key `id`, or of its
/// credential with `digest`, unreadable by whatever means the database offers.
///
/// # Panics
///
/// When looking `digest` up is anything but a [`StoreErrorKind::Corrupt`] error that names the key
/// and has a source.
pub async fn check_unreadable_row<S: KeyStore + ?Sized>(store: &S, digest: &KeyDigest, id: KeyId) {
    const CONTRACT: &str = "KeyStore contract 4: a row that cannot be read is a corrupt error";
    let error = match store.find(digest).await {
        Ok(found) => panic!("{CONTRACT}, not {found:?}"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{CONTRACT}");
    let message = error.to_string();
    assert!(
        message.contains(&id.to_string()),
        "{CONTRACT} that names the key, not {message:?}"
    );
    assert!(error.source().is_some(), "{CONTRACT} with a source");
}

type Store = Arc<dyn KeyRepository>;
