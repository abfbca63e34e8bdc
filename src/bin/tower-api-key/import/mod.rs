//! Takes over digests by the million.

mod csv;
mod json_lines;
mod lines;
mod reason;
mod report;
mod row;

use tower_api_key::{KeyErrorKind, KeyImport};

use self::csv::Csv;
use self::lines::{Line, Lines};
use self::report::Report;
use crate::Answer;
use crate::failure::Failure;
use crate::global::Global;
use crate::output::Output;
use crate::store::Missing;

/// Takes over the digests of keys that were issued elsewhere
///
/// The file is CSV, with the names of the columns in its first line, or JSON lines, one object a
/// line. `digest` (64 hexadecimal digits of the text's SHA-256) and `name` are needed; `owner`,
/// `prefix`, `environment`, `scopes`, `limits`, `credits`, `expires_at`, `metadata`,
/// `allowed_addresses` and `start` (what may be shown of the secret) can be there. In CSV several
/// scopes, networks and limits (`burst=100/60s`) have spaces between them, `metadata` is a JSON
/// object, and `refill` (`1000/month`) belongs to `credits`. In JSON it is a member of them.
///
/// What is stored already is skipped, so an import that was cut short is continued by the same
/// command. Lines that cannot be imported are told by number, and the others are imported.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tower-api-key import keys.csv")]
pub(crate) struct Args {
    /// The file; - for standard input
    file: String,
}

/// How many keys are read before they are written, in the order of their digests. Those are as good
/// as random, and an index keeps them in order: each batch then touches one stretch of it, and not
/// most of its pages.
const READ: usize = 150_000;

/// How many bytes of the file are read for them at most, so that keys with much to them do not fill
/// the memory.
const READ_BYTES: u64 = 24 << 20;

/// How many keys are written at once. Nobody else can write to a file of SQLite meanwhile.
const BATCH: usize = 10_000;

pub(crate) async fn run(
    args: &Args,
    global: &Global,
    output: &mut Output,
) -> Result<Answer, Failure> {
    let mut lines = Lines::open(&args.file)?;
    let mut format = Format::of(&mut lines)?;
    let keys = global.keys(Missing::Create).await?;
    let mut report = Report::new(lines.total_bytes());
    loop {
        let begun = lines.read_bytes();
        let imports = read(&mut lines, &mut format, &mut report)?;
        if lines.at_end() && imports.is_empty() {
            return report.finish(output);
        }
        let stretch = lines.read_bytes() - begun;
        let (count, mut done) = (imports.len() as u64, 0);
        let mut imports = imports.into_iter().peekable();
        while imports.peek().is_some() {
            let (numbers, batch): (Vec<_>, Vec<_>) = imports.by_ref().take(BATCH).unzip();
            let outcomes = keys.import_all(batch).await;
            let outcomes = outcomes.map_err(|error| report.cut_short(&error))?;
            done += numbers.len() as u64;
            for (number, outcome) in numbers.into_iter().zip(outcomes) {
                match outcome {
                    Ok(_) => report.imported += 1,
                    Err(error) if error.kind() == KeyErrorKind::Duplicate => report.stored += 1,
                    Err(error) => report.invalid(number, reason::of_key(&error)),
                }
            }
            report.progress(begun + stretch * done / count);
        }
    }
}

/// The next lines' keys with the numbers of the lines, by their digests.
fn read(
    lines: &mut Lines,
    format: &mut Format,
    report: &mut Report,
) -> Result<Vec<(u64, KeyImport)>, Failure> {
    let end = lines.read_bytes() + READ_BYTES;
    let mut imports = Vec::new();
    while imports.len() < READ && lines.read_bytes() < end {
        let Some(line) = lines.next_line()? else {
            break;
        };
        match format.read(&line) {
            Ok(Some(import)) => imports.push((line.number, import)),
            Ok(None) => {}
            Err(reason) => report.invalid(line.number, reason),
        }
    }
    // A stable order: of two lines with one digest the first is imported.
    imports.sort_by_cached_key(|(_, import)| *import.digest().as_bytes());
    Ok(imports)
}

enum Format {
    Csv(Box<Csv>),
    JsonLines,
}

impl Format {
    /// What the first line says: an object begins with a brace, and no column's name does.
    fn of(lines: &mut Lines) -> Result<Self, Failure> {
        let Some(first) = lines.peek()? else {
            return Err(Failure::new(
                "there is nothing to import: the file is empty",
            ));
        };
        if first.starts_with(b"{") {
            return Ok(Self::JsonLines);
        }
        let columns = lines.next_line()?.map(|line| Csv::with_columns(&line));
        match columns {
            Some(Ok(csv)) => Ok(Self::Csv(Box::new(csv))),
            Some(Err(reason)) => Err(Failure::new(format!("line 1: {reason}"))),
            None => Err(Failure::new(
                "there is nothing to import: the file is empty",
            )),
        }
    }

    /// The key of a line, none of an empty one, or why it is none.
    fn read(&mut self, line: &Line<'_>) -> Result<Option<KeyImport>, String> {
        let bytes = line.bytes.ok_or_else(lines::too_long)?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let row = match self {
            Self::Csv(csv) => csv.read(bytes)?,
            Self::JsonLines => json_lines::read(bytes)?,
        };
        row.into_import().map(Some)
    }
}
