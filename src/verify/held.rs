use std::sync::Arc;

use crate::bill::Bill;
use crate::cache::CachedKey;

/// The credits of a request that waits for something else: given back when it goes away.
pub(super) struct Held(Option<(Arc<CachedKey>, Bill)>);

impl Held {
    pub(super) fn new(key: Arc<CachedKey>, bill: Bill) -> Self {
        Self(Some((key, bill)))
    }

    /// The wait is over: the credits are the bill's.
    pub(super) fn release(mut self) -> (Arc<CachedKey>, Bill) {
        self.0.take().expect("it is released once")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((key, bill)) = &self.0 {
            bill.give_back_credits(key);
        }
    }
}
