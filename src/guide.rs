//! Guides: how to do a thing from its beginning to its end. They are the files in `docs/`, and the
//! programs in them compile and run as tests.
//!
//! The [crate's documentation](crate#where-to-read-on) says which is for what.

#[allow(unused_imports, reason = "for the links of the guides")]
use crate::*;

/// A guide: the name of its module and file, the features that its programs need, the guides that
/// it links to, and what it names of this crate.
///
/// In the files, guides link to each other as files. The definitions before the text turn these
/// links into links to modules: of two definitions of one label the first counts.
macro_rules! guide {
    ($name:ident, $file:literal, [$($feature:literal),*], [$($other:literal),*], $names:literal) => {
        #[cfg(any(not(doctest), all($(feature = $feature),*)))]
        $(#[doc = concat!("[", $other, "]: self::", $other)])*
        #[doc = ""]
        #[doc = include_str!(concat!("../docs/", $file))]
        #[doc = ""]
        #[doc = "# In this crate"]
        #[doc = ""]
        #[cfg_attr(
            all(feature = "admin", feature = "postgres", feature = "redis", feature = "testing"),
            doc = $names
        )]
        pub mod $name {}
    };
}

guide!(
    rotation,
    "rotation.md",
    ["axum", "testing"],
    ["cli", "fleet", "leaked_key"],
    "[`ApiKeys::rotate`], [`Issued`], [`Credential`], [`KeyPrincipal::expires_at`], \
     [`Builder::flush_interval`], [`admin`]"
);
guide!(
    migrating,
    "migrating.md",
    [],
    ["cli", "rotation"],
    "[`ApiKeys::import`], [`Builder::accept_imported`], [`KeyDigest`], [`KeyHasher::peppered`], \
     [`Builder::failed_attempts`], [`NewKey`]"
);
guide!(
    limits,
    "limits.md",
    [],
    ["fleet", "scaling"],
    "[`RateLimit`], [`NewKey::limit`], [`KeyUpdate::limits`], [`ApiKeyLayer::default_limits`], \
     [`ApiKeyLayer::route_limits`], [`ApiKeyLayer::cost`], [`LimitBy`], [`limit::Window`], \
     [`limit::RedisLimiter`], [`limit::OutagePolicy`], [`ApiKeyLayer::legacy_limit_headers`]"
);
guide!(
    testing,
    "testing.md",
    ["axum", "testing"],
    ["custom_store"],
    "[`TestPrincipal`](crate::testing::TestPrincipal), \
     [`PrincipalLayer`](crate::testing::PrincipalLayer), \
     [`ManualClock`](crate::testing::ManualClock), \
     [`ScriptedStore`](crate::testing::ScriptedStore), \
     [`conformance`](crate::testing::conformance), [`Denial`]"
);
guide!(
    custom_store,
    "custom_store.md",
    ["testing"],
    ["credits"],
    "[`KeyStore`], [`KeyRepository`], [`KeyChange`], [`CreditBalance`], [`StoreError`], [`Verifier::builder`], \
     [`InvalidationBus`], [`RedisBus`], [`CacheConfig`], \
     [`conformance`](crate::testing::conformance)"
);
guide!(
    fleet,
    "fleet.md",
    ["axum", "postgres", "redis"],
    ["limits", "scaling"],
    "[`PostgresStore`], [`RedisBus`], [`limit::RedisLimiter`], [`CacheConfig`], \
     [`TrustedProxies`], [`ApiKeyLayer::trust_proxies`], [`ApiKeyLayer::require_tls`], \
     [`ApiKeyLayer::disable_exposed`], [`KeyFormat::secret_prefix`], [`SecureTransport`], \
     [`ApiKeys::shutdown`]"
);
guide!(
    leaked_key,
    "leaked_key.md",
    [],
    ["cli", "fleet", "limits", "rotation"],
    "[`KeyFormat::pattern`], [`KeyFormat::parse`], [`KeyStore::find`], [`Denial::key_id`], \
     [`ApiKeys::usage`], [`ApiKeys::events`], [`ApiKeyLayer::disable_exposed`], \
     [`ApiKeyLayer::accept_prefixes`], [`ApiKeyLayer::environments`]"
);
guide!(
    scaling,
    "scaling.md",
    [],
    [],
    "[`CacheConfig`], [`limit::RedisLimiter`], [`limit::OutagePolicy`], [`FLUSH_INTERVAL`]"
);
guide!(
    cli,
    "cli.md",
    [],
    [],
    "[`ApiKeys`], [`Builder::accept_imported`], [`KeyFormat::pattern`], [`admin`]"
);
guide!(
    comparison,
    "comparison.md",
    [],
    ["limits"],
    "[`ApiKeyLayer`], [`Verifier`], [`ApiKeys`], [`admin`]"
);
guide!(
    credits,
    "credits.md",
    [],
    ["custom_store", "limits"],
    "[`Credits`], [`Refill`], [`NewKey::credits`], [`KeyUpdate::credits`], [`ApiKeys::credits`], \
     [`ApiKeyLayer::cost`], [`Builder::flush_interval`], [`ApiKeys::shutdown`], \
     [`CreditBalance`], [`DenialKind::CreditsExhausted`]"
);
