//! What happens, for Prometheus.

use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

/// From ten microseconds, for a key in the cache, to the deadline of a lookup.
const SECONDS: [f64; 12] = [
    1e-6, 2.5e-6, 1e-5, 5e-5, 2.5e-4, 1e-3, 2.5e-3, 1e-2, 5e-2, 0.25, 1.0, 2.5,
];

/// Installs the recorder, before anything is counted, and answers with what it has recorded.
pub(super) fn route() -> Result<MethodRouter, BuildError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .install_recorder()?;
    tower_api_key::telemetry::describe();
    let upkeep = recorder.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    Ok(get(async move || {
        let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
        (kind, recorder.render()).into_response()
    }))
}
