use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use crate::failure::Failure;

/// The longest line that is read, in bytes. Whatever a key can have fits; what is longer is another
/// kind of file, and must not fill the memory.
const LONGEST: usize = 1 << 20;

/// A file, line by line.
pub(super) struct Lines {
    what: String,
    reader: Box<dyn BufRead>,
    line: Vec<u8>,
    number: u64,
    /// Whether `line` was read ahead.
    peeked: bool,
    at_end: bool,
    read: u64,
    total: Option<u64>,
}

/// A line without its end.
pub(super) struct Line<'a> {
    pub(super) number: u64,
    /// None where it is too long.
    pub(super) bytes: Option<&'a [u8]>,
}

/// Why a line has no bytes.
pub(super) fn too_long() -> String {
    "it is longer than a mebibyte".to_owned()
}

impl Lines {
    pub(super) fn open(path: &str) -> Result<Self, Failure> {
        let what = format!("{path:?} cannot be read");
        let (input, total): (Box<dyn Read>, _) = if path == "-" {
            (Box::new(io::stdin()), None)
        } else {
            let file = File::open(path).map_err(|error| Failure::caused_by(&what, &error))?;
            let total = file.metadata().ok().map(|metadata| metadata.len());
            (Box::new(file), total)
        };
        Ok(Self {
            what,
            reader: Box::new(BufReader::with_capacity(1 << 16, input)),
            line: Vec::new(),
            number: 0,
            peeked: false,
            at_end: false,
            read: 0,
            total: total.filter(|total| *total > 0),
        })
    }

    /// How long the file is, where that is known.
    pub(super) fn total_bytes(&self) -> Option<u64> {
        self.total
    }

    pub(super) fn read_bytes(&self) -> u64 {
        self.read
    }

    /// Whether the last line was read.
    pub(super) fn at_end(&self) -> bool {
        self.at_end
    }

    /// The first line, which remains to be read.
    pub(super) fn peek(&mut self) -> Result<Option<&[u8]>, Failure> {
        if self.next_line()?.is_none() {
            return Ok(None);
        }
        self.peeked = true;
        Ok(Some(&self.line))
    }

    pub(super) fn next_line(&mut self) -> Result<Option<Line<'_>>, Failure> {
        if !std::mem::take(&mut self.peeked) && !self.advance()? {
            return Ok(None);
        }
        Ok(Some(Line {
            number: self.number,
            bytes: (self.line.len() <= LONGEST).then_some(&self.line),
        }))
    }

    fn advance(&mut self) -> Result<bool, Failure> {
        let failed = |error: io::Error| Failure::caused_by(&self.what, &error);
        self.line.clear();
        // One more than fits tells that a line is too long, and two are its end.
        let mut limited = self.reader.by_ref().take(LONGEST as u64 + 3);
        let mut read = limited.read_until(b'\n', &mut self.line).map_err(failed)? as u64;
        if read == 0 {
            self.at_end = true;
            return Ok(false);
        }
        if self.line.last() != Some(&b'\n') && self.line.len() > LONGEST {
            read += skip_line(&mut self.reader).map_err(failed)?;
        }
        self.read += read;
        self.number += 1;
        if self.line.ends_with(b"\n") {
            self.line.pop();
        }
        if self.line.ends_with(b"\r") {
            self.line.pop();
        }
        // Spreadsheets put a byte order mark before UTF-8.
        if self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
            self.line.drain(..3);
        }
        Ok(true)
    }
}

/// Reads up to the next line, and tells how much that was.
fn skip_line(reader: &mut dyn BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let end = memchr::memchr(b'\n', buffer);
        let length = end.map_or(buffer.len(), |end| end + 1);
        if length == 0 {
            return Ok(skipped);
        }
        reader.consume(length);
        skipped += length as u64;
        if end.is_some() {
            return Ok(skipped);
        }
    }
}
