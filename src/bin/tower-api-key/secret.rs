use std::fs::File;
use std::io::{self, IsTerminal, Read};

use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::output::note;
use crate::veil::veiled;

/// No key is nearly that long, and whatever is longer is another file.
const MOST: usize = 4_096;

/// Reads the one secret in a file, or on standard input for `-`. Never an argument: those are in
/// the list of processes and in the shell's history.
pub(crate) fn read(path: &str) -> Result<Zeroizing<String>, Failure> {
    // The path may be the secret itself, where somebody took one for the other.
    let what = format!("the secret in {:?}", veiled(path));
    let failed = |error: io::Error| Failure::caused_by(&what, &error);
    // With its capacity at once: to grow would leave copies in freed memory.
    let mut text = Zeroizing::new(String::with_capacity(2 * MOST));
    if path == "-" {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            note("The secret, and Enter:");
            stdin.read_line(&mut text).map_err(failed)?;
        } else {
            stdin
                .take(MOST as u64 + 1)
                .read_to_string(&mut text)
                .map_err(failed)?;
        }
    } else {
        let file = File::open(path).map_err(failed)?;
        file.take(MOST as u64 + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
    }
    let secret = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if secret.is_empty() {
        let message = "no secret: write it to standard input, or name a file with --secret-file";
        return Err(Failure::new(message));
    }
    if text.len() > MOST || secret.contains('\n') {
        let message = "one secret on one line is expected; `tower-api-key scan` finds keys in text";
        return Err(Failure::new(message));
    }
    Ok(secret)
}
