//! Finds keys where they should not be.

mod files;
mod text;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tower_api_key::{ApiKeys, FoundKey, KeyFormat, Requirements, Verifier};

use self::text::Place;
use crate::Answer;
use crate::failure::Failure;
use crate::global::{Global, format_of};
use crate::output::{Output, note, plain};
use crate::standing;
use crate::store::Missing;
use crate::values;
use crate::veil::veiled;

/// Finds keys in files, directories or standard input
///
/// Prints the place of each and what may be shown of it, never the secret. Directories are searched
/// with their hidden files, but without what .gitignore names and without .git. A look-alike with a
/// wrong checksum is no key.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
    tower-api-key scan . --check\n  \
    git diff --cached | tower-api-key scan -")]
pub(crate) struct Args {
    /// Files and directories; - for standard input
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<PathBuf>,
    /// Looks for keys of this prefix instead of --prefixes; more than once for more
    #[arg(long = "prefix", value_name = "PREFIX", value_parser = values::prefix)]
    only_prefixes: Vec<String>,
    /// Looks the keys up in the store and tells which of them work
    #[arg(long)]
    check: bool,
    /// Searches what .gitignore names, too
    #[arg(long)]
    no_ignore: bool,
}

#[derive(Serialize)]
struct Finding {
    path: String,
    line: u64,
    column: u64,
    start: String,
    prefix: String,
    environment: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
}

#[derive(Serialize)]
struct Findings {
    findings: Vec<Finding>,
}

pub(crate) async fn run(
    args: &Args,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let prefixes = if args.only_prefixes.is_empty() {
        &global.prefixes
    } else {
        &args.only_prefixes
    };
    let format = format_of(prefixes, &global.environments);
    let mut scan = Scan {
        check: if args.check {
            Some(Check::new(global, prefixes, &format).await?)
        } else {
            None
        },
        format,
        output,
        findings: Vec::new(),
        count: 0,
        failures: 0,
    };
    match scan.paths(args).await.and_then(|()| scan.finish()) {
        // What is written is findings.
        Err(Failure::ClosedPipe) => Ok(Answer::Bad),
        outcome => outcome,
    }
}

struct Scan<'a> {
    format: KeyFormat,
    check: Option<Check>,
    output: &'a mut Output,
    /// For JSON, which is written at the end.
    findings: Vec<Finding>,
    count: u64,
    failures: u64,
}

impl Scan<'_> {
    async fn paths(&mut self, args: &Args) -> Result<(), Failure> {
        for path in &args.paths {
            if path == Path::new("-") {
                self.reader(path, io::stdin().lock()).await?;
                continue;
            }
            for file in files::under(path, args.no_ignore) {
                self.file(file).await?;
            }
        }
        Ok(())
    }

    async fn file(&mut self, file: Result<PathBuf, String>) -> Result<(), Failure> {
        let opened = file.and_then(|path| {
            let file = std::fs::File::open(&path);
            let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
            Ok((path, file))
        });
        match opened {
            Ok((path, file)) => self.reader(&path, file).await,
            Err(message) => {
                self.unread(&message);
                Ok(())
            }
        }
    }

    async fn reader(&mut self, path: &Path, reader: impl Read) -> Result<(), Failure> {
        let mut text = text::Text::new(reader, self.format.max_len());
        loop {
            match text.next_part() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    self.unread(&format!("{}: {error}", path.display()));
                    return Ok(());
                }
            }
            for key in self.format.find_all(text.part()) {
                if let Some(place) = text.place(&key) {
                    let standing = match &self.check {
                        Some(check) => Some(check.look_up(&key).await?),
                        None => None,
                    };
                    self.count += 1;
                    let path = without_keys(&path.display().to_string(), &self.format);
                    let finding = finding(path, place, &key, standing);
                    if self.output.is_json() {
                        self.findings.push(finding);
                    } else {
                        write(&finding, self.output)?;
                    }
                }
            }
        }
    }

    fn unread(&mut self, message: &str) {
        self.failures += 1;
        note(&format!("error: {}", plain(&veiled(message))));
    }

    fn finish(self) -> Result<Answer, Failure> {
        let Self {
            output,
            findings,
            count,
            failures,
            ..
        } = self;
        if output.is_json() {
            output.json(&Findings { findings })?;
        }
        output.finish()?;
        if failures > 0 {
            return Err(Failure::new(format!(
                "{failures} could not be read, so the search is not complete; {count} found"
            )));
        }
        Ok(if count > 0 { Answer::Bad } else { Answer::Good })
    }
}

/// A path with no more of a key in it than may be shown: a file may be called like one.
fn without_keys(path: &str, format: &KeyFormat) -> String {
    let mut shown = path.to_owned();
    for key in format.find_all(path.as_bytes()) {
        let start = format!("{}…", key.text().start());
        shown = shown.replace(key.expose(), &start);
    }
    shown
}

fn finding(
    path: String,
    place: Place,
    key: &FoundKey<'_>,
    standing: Option<(&'static str, Option<String>)>,
) -> Finding {
    let text = key.text();
    let (status, key_id) = standing.unzip();
    Finding {
        path,
        line: place.line,
        column: place.column,
        start: text.start().to_owned(),
        prefix: text.prefix().to_owned(),
        environment: text.environment().to_owned(),
        status,
        key_id: key_id.flatten(),
    }
}

fn write(finding: &Finding, output: &mut Output) -> Result<(), Failure> {
    let Finding {
        path,
        line,
        column,
        start,
        status,
        key_id,
        ..
    } = finding;
    let status = status.map_or(String::new(), |status| format!(" {status}"));
    let key_id = key_id.as_ref().map_or(String::new(), |id| format!(" {id}"));
    output.line(&format!(
        "{}:{line}:{column}: {start}…{status}{key_id}",
        plain(path)
    ))
}

/// The store, for `--check`.
struct Check {
    verifier: Verifier,
    keys: ApiKeys,
    needs: Requirements,
}

impl Check {
    async fn new(
        global: &Global,
        prefixes: &[String],
        format: &KeyFormat,
    ) -> Result<Self, Failure> {
        let store = global.open(Missing::Refuse).await?;
        let prefixes: BTreeSet<&String> = prefixes.iter().collect();
        Ok(Self {
            verifier: global.verifier(Arc::clone(&store), format.clone())?,
            keys: ApiKeys::builder(store).deaf().build(),
            // Whatever it opens, a leaked key is one.
            needs: Requirements::new().accept_prefixes(prefixes),
        })
    }

    async fn look_up(&self, key: &FoundKey<'_>) -> Result<(&'static str, Option<String>), Failure> {
        let Self {
            verifier,
            keys,
            needs,
        } = self;
        let standing = standing::of(key.expose(), None, needs, 0, verifier, keys).await?;
        let id = standing.key.map(|key| key.record.id.to_string());
        Ok((standing::word(standing.refused), id))
    }
}
