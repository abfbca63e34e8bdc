//! What of a batch is to be written, and in which order.

use std::collections::HashSet;

use crate::key::KeyDigest;
use crate::record::KeyId;
use crate::store::KeyInsertion;

/// The keys of a batch that are new.
pub(in crate::store) struct NewKeys<'a> {
    /// By their digests. Those are as good as random: to add them in the order in which an index
    /// keeps them touches each of its pages once.
    pub(in crate::store) sorted: Vec<&'a KeyInsertion>,
    /// For each of the batch whether it is among them.
    pub(in crate::store) written: Vec<bool>,
}

impl<'a> NewKeys<'a> {
    /// Those of `batch` that are neither stored already nor there twice.
    pub(in crate::store) fn of(
        batch: &'a [KeyInsertion],
        mut known_ids: HashSet<KeyId>,
        mut known_digests: HashSet<KeyDigest>,
    ) -> Self {
        let mut is_new = |new: &KeyInsertion| {
            let (id, digest) = (new.record.id, new.credential.digest);
            // Both are asked before either is noted: one that is passed over stands in nobody's
            // way.
            let is_new = !known_ids.contains(&id) && !known_digests.contains(&digest);
            if is_new {
                known_ids.insert(id);
                known_digests.insert(digest);
            }
            is_new
        };
        let written: Vec<bool> = batch.iter().map(&mut is_new).collect();
        let chosen = batch.iter().zip(&written);
        let mut sorted: Vec<_> = chosen
            .filter_map(|(new, &written)| written.then_some(new))
            .collect();
        sorted.sort_unstable_by_key(|new| *new.credential.digest.as_bytes());
        Self { sorted, written }
    }
}
