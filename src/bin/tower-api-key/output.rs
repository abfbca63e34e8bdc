use std::io::{self, BufWriter, Stdout, Write};

use serde::Serialize;
use tower_api_key::{ApiKey, CreditBalance, Issued, KeyId};

use crate::failure::Failure;
use crate::json::SecretBody;
use jiff::Timestamp;

/// Standard output, for people or as JSON.
pub(crate) struct Output {
    json: bool,
    out: BufWriter<Stdout>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            out: BufWriter::new(io::stdout()),
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.out.write_all(bytes);
        written.map_err(|error| Failure::output(&error))
    }

    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value);
        let text = text.map_err(|error| Failure::caused_by("the answer as JSON", &error))?;
        self.line(&text)
    }

    /// A new secret, this once: alone on its line, so that a script can take it as it is. The key
    /// is told beside it, on standard error.
    pub(crate) fn secret(
        &mut self,
        issued: &Issued,
        balance: Option<CreditBalance>,
        what: &str,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let (secret, id): (&ApiKey, KeyId) = (issued.secret(), issued.key().record.id);
        let written = if self.json {
            self.json(&SecretBody::new(issued, balance, now))
        } else {
            let name = plain(&issued.key().record.name);
            note(&format!(
                "{what} {id} ({name}). Its secret, shown only this once:"
            ));
            self.line(secret.expose())
        };
        if !issued.is_propagated() {
            note(NOT_PROPAGATED);
        }
        written.and_then(|()| self.finish()).map_err(|_| {
            Failure::new(format!(
                "the new secret of {id} could not be written and is lost: \
                 `tower-api-key rotate {id}` makes another one"
            ))
        })
    }

    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| Failure::output(&error))
    }
}

/// The note on a change that [did not reach](tower_api_key::Changed::is_propagated) the servers.
pub(crate) const NOT_PROPAGATED: &str = "The change is stored, but running servers could not be \
    notified: they may go by the old state for up to their caches' time to live.";

/// Something beside the answer, on standard error. Where that is closed, nobody wants to know.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// `text` without what could move a terminal's cursor or turn what follows around.
pub(crate) fn plain(text: &str) -> String {
    let is_plain = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_plain(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_unicode());
        }
    }
    shown
}
