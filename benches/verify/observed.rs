//! What it adds to be observed, and to count failed attempts.
//!
//! Who listens, listens to the whole process, so each way is measured in processes of its own, in
//! turn.

use std::env;
use std::process::Command;

use metrics_exporter_prometheus::PrometheusBuilder;
use tower_api_key::RateLimit;
use tracing::level_filters::LevelFilter;

use crate::contenders::{OURS, plain};
use crate::table::{Column, median};
use crate::traffic::Traffic;

const TURNS: usize = 9;

const PLAIN: &str = "nobody listens";
const OBSERVED: &str = "metrics, logs of warnings, failed attempts";
const SPANS: &str = "the same, and logs of what is told to `info`";

pub(crate) fn print() {
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..TURNS {
        for (watch, times) in [PLAIN, OBSERVED, SPANS].into_iter().zip(&mut times) {
            times.push(measured_apart(watch));
        }
    }
    let times = times.map(|times| median(times.into_iter()));
    println!("nanoseconds added to a request, median of {TURNS} processes in turn\n");
    for (watch, time) in [PLAIN, OBSERVED, SPANS].into_iter().zip(times) {
        println!("{watch:<48}{time:>14.2}");
    }
    let more = (times[1] / times[0] - 1.0) * 100.0;
    println!("\nmore for metrics and failed attempts, at most 15 %{more:>10.1} %");
}

fn measured_apart(watch: &str) -> f64 {
    let program = env::current_exe().expect("this program is a file");
    let told = Command::new(program).args(["once", watch]).output();
    let told = told.expect("this program can be run again").stdout;
    let told = String::from_utf8_lossy(&told);
    told.trim().parse().expect("it tells a number")
}

/// The nanoseconds that are added in this process.
pub(crate) fn print_once(watch: &str) {
    let count = 1_000;
    let mut traffic = if watch == PLAIN {
        Traffic::among(count)
    } else {
        let recorder = PrometheusBuilder::new().install_recorder();
        recorder.expect("there is no other recorder");
        let level = if watch == SPANS {
            LevelFilter::INFO
        } else {
            LevelFilter::WARN
        };
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(std::io::sink)
            .init();
        Traffic::among_keys_of(count, |keys| {
            keys.failed_attempts(RateLimit::per_minute(10))
        })
    };
    println!("{}", Column::measure(&mut traffic, plain).added(OURS));
}
