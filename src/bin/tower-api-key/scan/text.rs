use std::io::{self, Read};

use tower_api_key::FoundKey;

/// How much is read at once, in bytes: a file may be larger than the memory.
const PART: u64 = 1 << 20;

/// A text that is read in parts. Each part begins with the end of the one before, so that no key is
/// cut in two.
pub(super) struct Text<R> {
    reader: R,
    overlap: usize,
    part: Vec<u8>,
    /// How much of the part has been seen as the end of the one before.
    seen: usize,
    /// Where the part begins.
    start: Place,
}

/// Where something is, both counted from 1, columns in characters.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

impl<R: Read> Text<R> {
    /// The text in `reader`, in which nothing is longer than `longest` bytes.
    pub(super) fn new(reader: R, longest: usize) -> Self {
        Self {
            reader,
            overlap: longest.saturating_sub(1),
            part: Vec::new(),
            seen: 0,
            start: Place { line: 1, column: 1 },
        }
    }

    /// Reads the next part; false at the end.
    pub(super) fn next_part(&mut self) -> io::Result<bool> {
        let done = self.part.len().saturating_sub(self.overlap);
        self.start = self.start.after(&self.part[..done]);
        self.part.drain(..done);
        self.seen = self.part.len();
        let read = self
            .reader
            .by_ref()
            .take(PART)
            .read_to_end(&mut self.part)?;
        Ok(read > 0)
    }

    pub(super) fn part(&self) -> &[u8] {
        &self.part
    }

    /// Where `key` is, if it was not in the part before already.
    pub(super) fn place(&self, key: &FoundKey<'_>) -> Option<Place> {
        let end = key.offset() + key.expose().len();
        (end > self.seen).then(|| self.start.after(&self.part[..key.offset()]))
    }
}

impl Place {
    /// The place behind `bytes` that begin here.
    fn after(self, bytes: &[u8]) -> Self {
        // A character's further bytes in UTF-8 are no columns.
        let width = |bytes: &[u8]| bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count() as u64;
        match memchr::memrchr(b'\n', bytes) {
            None => Self {
                line: self.line,
                column: self.column + width(bytes),
            },
            Some(last) => Self {
                line: self.line + memchr::memchr_iter(b'\n', bytes).count() as u64,
                column: 1 + width(&bytes[last + 1..]),
            },
        }
    }
}
