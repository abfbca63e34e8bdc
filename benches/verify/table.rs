//! What each contender adds to the bare service, and the ratios that count.

use std::time::Duration;

use crate::KEYS;
use crate::contenders::{
    ANOTHER_LIMIT, AXUM_GOVERNOR, CREDITS, Contender, FLOOR, OURS, TOWER_GOVERNOR, contenders,
    variants,
};
use crate::traffic::Traffic;

const ROUNDS: usize = 4_001;
const REQUESTS_PER_ROUND: u32 = 256;

/// Measures and prints.
pub(crate) fn print() {
    let columns = KEYS.map(|count| Column::measure(&mut Traffic::among(count), contenders));
    head();
    row("(bare, whole)", |column| column.bare, &columns);
    for name in [FLOOR, OURS, TOWER_GOVERNOR, AXUM_GOVERNOR] {
        row(name, |column| column.added(name), &columns);
    }
    println!();
    for (other, wanted) in [(FLOOR, 1.5), (TOWER_GOVERNOR, 0.8), (AXUM_GOVERNOR, 0.4)] {
        let title = format!("{OURS} / {other}, at most {wanted}");
        let ratio = |column: &Column| column.added(OURS) / column.added(other);
        row(&title, ratio, &columns);
    }
}

/// The same for what a key can have.
pub(crate) fn print_variants() {
    let columns = KEYS.map(|count| Column::measure(&mut Traffic::among(count), variants));
    head();
    row("(bare, whole)", |column| column.bare, &columns);
    for name in [OURS, ANOTHER_LIMIT, CREDITS] {
        row(name, |column| column.added(name), &columns);
    }
    println!();
    for name in [ANOTHER_LIMIT, CREDITS] {
        let more = |column: &Column| column.added(name) - column.added(OURS);
        row(&format!("more for {name}"), more, &columns);
    }
}

fn head() {
    println!("nanoseconds added to a request, median of {ROUNDS} rounds in turn\n");
    print!("{:<48}", "");
    for count in KEYS {
        print!("{:>14}", format!("{count} keys"));
    }
    println!();
}

fn row(title: &str, value: impl Fn(&Column) -> f64, columns: &[Column]) {
    print!("{title:<48}");
    for column in columns {
        print!("{:>14.2}", value(column));
    }
    println!();
}

/// The nanoseconds for one number of keys.
pub(crate) struct Column {
    bare: f64,
    added: Vec<(&'static str, f64)>,
}

impl Column {
    pub(crate) fn measure(traffic: &mut Traffic, made: fn(&Traffic) -> Vec<Contender>) -> Self {
        let mut contenders = made(traffic);
        let mut rounds: Vec<Vec<f64>> = (0..ROUNDS)
            .map(|number| round(number, &mut contenders, traffic))
            .collect();
        let bare = median(rounds.iter().map(|times| times[0]));
        // The difference within each round, for from one to the next the machine may change.
        for times in &mut rounds {
            let bare = times[0];
            for (time, contender) in times.iter_mut().zip(&contenders) {
                // The floor has no service in it.
                if contender.name != FLOOR {
                    *time -= bare;
                }
            }
        }
        let added = contenders.iter().enumerate().map(|(index, contender)| {
            let median = median(rounds.iter().map(|times| times[index]));
            (contender.name, median)
        });
        Self {
            bare,
            added: added.collect(),
        }
    }

    pub(crate) fn added(&self, name: &str) -> f64 {
        let found = self.added.iter().find(|(known, _)| *known == name);
        found.expect("all were measured").1
    }
}

/// The time that one request takes each of them, with the same keys.
fn round(number: usize, contenders: &mut [Contender], traffic: &mut Traffic) -> Vec<f64> {
    let start = traffic.position();
    let mut times = vec![0.0; contenders.len()];
    for turn in 0..contenders.len() {
        // Each has to come after each of the others at times.
        let index = (turn + number) % contenders.len();
        traffic.go_to(start);
        let time = traffic.send(REQUESTS_PER_ROUND.into(), &mut contenders[index]);
        times[index] = nanos(time) / f64::from(REQUESTS_PER_ROUND);
    }
    times
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
