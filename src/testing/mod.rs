//! For tests, with the feature `testing`.

pub mod conformance;
