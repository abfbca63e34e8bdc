use csv_core::{ReadRecordResult, Reader};

use super::reason::expected;
use super::row::Row;
use crate::issue::network;
use crate::values;

/// CSV as in RFC 4180, but a record is one line: nothing of a key has a line break in it, and a
/// quote that is not closed spoils one line and not the rest of the file.
pub(super) struct Csv {
    columns: Vec<Column>,
    reader: Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    AllowedAddresses,
    Credits,
    Digest,
    Environment,
    ExpiresAt,
    Limits,
    Metadata,
    Name,
    Owner,
    Prefix,
    Refill,
    Scopes,
    Start,
}

impl Column {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "allowed_addresses" => Self::AllowedAddresses,
            "credits" => Self::Credits,
            "digest" => Self::Digest,
            "environment" => Self::Environment,
            "expires_at" => Self::ExpiresAt,
            "limits" => Self::Limits,
            "metadata" => Self::Metadata,
            "name" => Self::Name,
            "owner" => Self::Owner,
            "prefix" => Self::Prefix,
            "refill" => Self::Refill,
            "scopes" => Self::Scopes,
            "start" => Self::Start,
            _ => return None,
        })
    }
}

impl Csv {
    /// Begins with the first line, which names the columns.
    pub(super) fn with_columns(line: &super::Line<'_>) -> Result<Self, String> {
        let mut csv = Self {
            columns: Vec::new(),
            reader: Reader::new(),
            text: Vec::new(),
            // Twice as many as there are columns: a line with more is told so.
            ends: vec![0; 26],
        };
        let bytes = line.bytes.ok_or_else(super::lines::too_long)?;
        let mut columns = Vec::new();
        for (index, name) in csv.fields(bytes)?.enumerate() {
            let name = name.trim();
            // Not with the field itself, which may be a key where there is no such line.
            let column = Column::named(name).ok_or_else(|| {
                let number = index + 1;
                format!("its field {number} names no column; the first line has to name them")
            })?;
            if columns.contains(&column) {
                return Err(format!("the column {name:?} is there twice"));
            }
            columns.push(column);
        }
        if !columns.contains(&Column::Digest) || !columns.contains(&Column::Name) {
            return Err("the columns `digest` and `name` are needed".to_owned());
        }
        csv.columns = columns;
        Ok(csv)
    }

    /// The record in `line`. An empty field is one that is not there.
    pub(super) fn read(&mut self, line: &[u8]) -> Result<Row, String> {
        let columns = self.columns.clone();
        let fields = self.fields(line)?;
        let mut row = Row::default();
        let mut count = 0;
        for (index, field) in fields.enumerate() {
            count += 1;
            if let (Some(column), false) = (columns.get(index), field.is_empty()) {
                set(&mut row, *column, field)?;
            }
        }
        if count != columns.len() {
            return Err(format!("it has {count} fields, and not {}", columns.len()));
        }
        Ok(row)
    }

    fn fields(&mut self, line: &[u8]) -> Result<impl Iterator<Item = &str>, String> {
        let Self {
            reader, text, ends, ..
        } = self;
        reader.reset();
        text.resize(line.len() + 1, 0);
        let (first, _, mut written, mut count) = reader.read_record(line, text, ends);
        let mut result = first;
        if result == ReadRecordResult::InputEmpty {
            let (last, _, more, ended) =
                reader.read_record(b"\n", &mut text[written..], &mut ends[count..]);
            (result, written, count) = (last, written + more, count + ended);
        }
        match result {
            ReadRecordResult::Record => {}
            ReadRecordResult::InputEmpty => return Err("a quote is not closed".to_owned()),
            ReadRecordResult::OutputEndsFull => return Err("it has too many fields".to_owned()),
            ReadRecordResult::OutputFull | ReadRecordResult::End => {
                return Err("it is no line of CSV".to_owned());
            }
        }
        let text = str::from_utf8(&text[..written]).map_err(|_| "it is not UTF-8".to_owned())?;
        let starts = std::iter::once(0).chain(ends[..count].iter().copied());
        let bounds = starts.zip(ends[..count].iter().copied());
        let fields: Option<Vec<&str>> = bounds.map(|(from, to)| text.get(from..to)).collect();
        Ok(fields.ok_or("it is not UTF-8")?.into_iter())
    }
}

fn set(row: &mut Row, column: Column, field: &str) -> Result<(), String> {
    let text = || Some(field.to_owned());
    let words = || field.split_ascii_whitespace();
    match column {
        Column::AllowedAddresses => {
            let networks = words().map(network).collect::<Result<_, _>>();
            row.allowed_addresses =
                networks.map_err(|error| format!("allowed_addresses: {error}"))?;
        }
        Column::Credits => {
            let invalid = |_| "credits: write a whole number".to_owned();
            row.credits = Some(field.parse().map_err(invalid)?);
        }
        Column::Digest => row.digest = field.to_owned(),
        Column::Environment => row.environment = text(),
        Column::ExpiresAt => {
            let invalid = |_| format!("expires_at: {}", expected("expires_at"));
            row.expires_at = Some(field.parse().map_err(invalid)?);
        }
        Column::Limits => {
            let limits = words().map(values::limit).collect::<Result<_, _>>();
            row.limits = limits.map_err(|error| format!("limits: {error}"))?;
        }
        Column::Metadata => {
            let invalid = |_| format!("metadata: {}", expected("metadata"));
            row.metadata = serde_json::from_str(field).map_err(invalid)?;
        }
        Column::Name => row.name = field.to_owned(),
        Column::Owner => row.owner = text(),
        Column::Prefix => row.prefix = text(),
        Column::Refill => {
            let refill = values::refill(field);
            row.refill = Some(refill.map_err(|error| format!("refill: {error}"))?);
        }
        Column::Scopes => row.scopes = words().map(str::to_owned).collect(),
        Column::Start => row.start = text(),
    }
    Ok(())
}
