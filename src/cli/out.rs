//! Writes to standard output and standard error. Nothing else of the command line does, so that
//! untrusted text is always escaped ([`crate::printable`]).

use std::io::{self, Write as _};

use serde::Serialize;

use super::{CliError, Exit};
use crate::printable::{printable, printable_json, printable_lines};

/// Prints a result. A reader that has gone away (`| head`) is no failure.
///
/// Lines are kept: text that a stranger chose must be escaped before it becomes part of several
/// lines.
pub(crate) fn say(text: &str) -> Result<Exit, CliError> {
    print(&printable_lines(text))
}

/// Prints a result that is one line.
pub(crate) fn say_line(line: &str) -> Result<Exit, CliError> {
    print(&printable(line))
}

/// Prints a result as one line of JSON.
pub(crate) fn say_json(value: &impl Serialize) -> Result<Exit, CliError> {
    print(&printable_json(
        &serde_json::to_string(value).map_err(io::Error::from)?,
    ))
}

/// Writes a line to standard error.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(line));
}

/// Writes a line of JSON to standard error.
pub(crate) fn note_json(value: &serde_json::Value) {
    let _ = writeln!(
        io::stderr().lock(),
        "{}",
        printable_json(&value.to_string())
    );
}

/// Moves the cursor of the terminal that is standard error up by one row.
pub(crate) fn row_up() {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(b"\x1b[1A").and_then(|()| stderr.flush());
}

/// Writes a message of several lines to standard error. It may have colours if `is_safe`, which
/// promises that everything else in it is escaped.
pub(crate) fn note_lines(text: &str, is_safe: bool) {
    let text = if is_safe {
        text.into()
    } else {
        printable_lines(text)
    };
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn print(text: &str) -> Result<Exit, CliError> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let message = format!("standard output: {error}");
            Err(io::Error::new(error.kind(), message).into())
        }
        _ => Ok(Exit::Done),
    }
}
