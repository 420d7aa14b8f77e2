//! Writes to standard output and, through [`crate::telemetry`], to standard error. Nothing else of
//! the command line does, so that untrusted text is always escaped ([`crate::printable`]).

use std::io::{self, Write as _};

use serde::Serialize;

use super::{CliError, Exit};
use crate::printable::{printable, printable_json, printable_lines};
use crate::telemetry::Note;

/// Prints a result. A reader that has gone away (`| head`) is not a failure.
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
    tell(&Note::of_text(line));
}

/// Writes a note of one line to standard error.
pub(crate) fn tell(note: &Note) {
    note.write(|text| printable(text).into_owned());
}

/// Writes a note to standard error while its thread panics.
pub(crate) fn tell_panic(note: &Note) {
    note.write_in_a_panic(|text| printable(text).into_owned());
}

/// Writes a note to standard error whose text may have several lines. It may have colours if
/// `is_safe`, which promises that everything else in it is escaped.
pub(crate) fn tell_lines(note: &Note, is_safe: bool) {
    note.write(|text| {
        if is_safe {
            text.to_owned()
        } else {
            printable_lines(text).into_owned()
        }
    });
}

/// Moves the cursor of the terminal that is standard error up by one row.
pub(crate) fn row_up() {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(b"\x1b[1A").and_then(|()| stderr.flush());
}

fn print(text: &str) -> Result<Exit, CliError> {
    put(text).map(|_| Exit::Done)
}

/// Writes a result. Returns false if its reader has gone away.
fn put(text: &str) -> Result<bool, CliError> {
    match writeln!(io::stdout().lock(), "{text}") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            let message = format!("standard output: {error}");
            Err(io::Error::new(error.kind(), message).into())
        }
    }
}

/// A result that is shown again and again. On a terminal, each page takes the place of the one
/// before.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    /// The rows of the last page.
    rows: usize,
}

impl Screen {
    /// Shows a page. Returns false if its reader has gone away.
    pub(crate) fn show(&mut self, text: &str) -> Result<bool, CliError> {
        let text = printable_lines(text);
        let terminal = console::Term::stdout();
        let columns = terminal
            .size_checked()
            .filter(|_| terminal.is_term())
            .map(|(_, columns)| usize::from(columns).max(1));
        let before = match (self.rows, columns) {
            (0, _) => String::new(),
            (rows, Some(_)) => format!("\x1b[{rows}A\x1b[J"),
            (_, None) => "\n".to_owned(),
        };
        let rows = |line: &str| {
            let width = console::measure_text_width(line).max(1);
            columns.map_or(1, |columns| width.div_ceil(columns))
        };
        self.rows = text.lines().map(rows).sum();
        put(&format!("{before}{text}"))
    }

    /// Shows a document as one line. Returns false if its reader has gone away.
    pub(crate) fn show_json(value: &impl Serialize) -> Result<bool, CliError> {
        put(&printable_json(
            &serde_json::to_string(value).map_err(io::Error::from)?,
        ))
    }
}
