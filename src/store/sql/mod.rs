//! What the stores in databases share.

pub(super) mod batch;
pub(super) mod columns;
pub(super) mod credits;
pub(super) mod deadline;
pub(super) mod listing;
pub(super) mod listing_slots;
pub(super) mod migrations;
