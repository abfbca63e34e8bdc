//! What is logged, for tests that read it.

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

/// Everything that is logged by one test, at every level.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Logged>>);

#[derive(Default)]
struct Logged {
    text: String,
    begun: usize,
}

impl Log {
    pub(crate) fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        Self::capture_of("trace")
    }

    /// Only what these directives let through.
    pub(crate) fn capture_of(directives: &str) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(directives)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap()).text
    }

    pub(crate) fn begin(&self) {
        let mut logged = self.0.lock().unwrap();
        logged.begun = logged.text.len();
    }

    pub(crate) fn all(&self) -> String {
        self.0.lock().unwrap().text.clone()
    }

    pub(crate) fn since(&self) -> String {
        let logged = self.0.lock().unwrap();
        logged.text[logged.begun..].to_owned()
    }
}

impl io::Write for &Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
        self.0.lock().unwrap().text.push_str(text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a Log;

    fn make_writer(&'a self) -> &'a Log {
        self
    }
}
