use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tower_api_key::KeyError;

use crate::Answer;
use crate::failure::{Failure, with_causes};
use crate::output::{Output, note, plain};

/// What has become of the lines so far.
pub(super) struct Report {
    pub(super) imported: u64,
    /// Skipped, because they are stored already.
    pub(super) stored: u64,
    invalid: u64,
    /// The first few of them, for JSON.
    errors: Vec<LineError>,
    bar: ProgressBar,
}

#[derive(Serialize)]
struct LineError {
    line: u64,
    reason: String,
}

#[derive(Serialize)]
struct Summary {
    imported: u64,
    already_stored: u64,
    invalid: u64,
    errors: Vec<LineError>,
}

/// How many errors the JSON has at most; standard error has all of them.
const FEW: usize = 1_000;

impl Report {
    /// A report on a file of that many bytes, with a bar on standard error where that is a terminal.
    pub(super) fn new(total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = match total {
            Some(_) => "{bar:32} {percent:>3} %  {msg}  {eta} left",
            None => "{spinner} {msg}  {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            imported: 0,
            stored: 0,
            invalid: 0,
            errors: Vec::new(),
            bar,
        }
    }

    /// That much of the file is done.
    pub(super) fn progress(&self, bytes: u64) {
        self.bar.set_message(self.counts());
        self.bar.set_position(bytes);
    }

    pub(super) fn invalid(&mut self, line: u64, reason: String) {
        self.invalid += 1;
        let message = format!("line {line}: {}", plain(&reason));
        self.bar.suspend(|| note(&message));
        if self.errors.len() < FEW {
            self.errors.push(LineError { line, reason });
        }
    }

    /// The store has failed. What it had taken over by then remains.
    pub(super) fn cut_short(&self, error: &KeyError) -> Failure {
        self.bar.finish_and_clear();
        Failure::new(format!(
            "{}. So far: {}. The same command continues from there",
            with_causes(error),
            self.counts()
        ))
    }

    pub(super) fn finish(self, output: &mut Output) -> Result<Answer, Failure> {
        self.bar.finish_and_clear();
        let answer = match self.invalid {
            0 => Answer::Good,
            _ => Answer::Bad,
        };
        if output.is_json() {
            output.json(&Summary {
                imported: self.imported,
                already_stored: self.stored,
                invalid: self.invalid,
                errors: self.errors,
            })?;
        } else {
            output.line(&self.counts())?;
        }
        Ok(answer)
    }

    fn counts(&self) -> String {
        let Self {
            imported,
            stored,
            invalid,
            ..
        } = self;
        format!("{imported} imported, {stored} stored already, {invalid} not valid")
    }
}
