//! Writes to standard output and, through [`crate::telemetry`], to standard error. No other module
//! of the command line does, so that untrusted text is always escaped ([`crate::printable`]).

use std::borrow::Cow;
use std::io::{self, Write as _};

use serde::Serialize;

use super::{CliError, Exit};
use crate::printable::{printable, printable_json, printable_lines};
use crate::telemetry::Note;

/// Prints a result. A closed pipe (`| head`) is not a failure.
///
/// Keeps line breaks: text from an untrusted source must be escaped before it becomes part of
/// several lines.
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

/// Writes a note to standard error while the thread is panicking.
pub(crate) fn tell_panic(note: &Note) {
    note.write_in_a_panic(|text| printable(text).into_owned());
}

/// Writes a note to standard error whose text may have several lines. `is_safe` promises that its
/// only unescaped control characters are colors.
pub(crate) fn tell_lines(note: &Note, is_safe: bool) {
    note.write(|text| {
        if is_safe {
            text.to_owned()
        } else {
            printable_lines(text).into_owned()
        }
    });
}

/// Moves the cursor up by one row, if standard error is a terminal.
pub(crate) fn row_up() {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(b"\x1b[1A").and_then(|()| stderr.flush());
}

fn print(text: &str) -> Result<Exit, CliError> {
    put(text).map(|_| Exit::Done)
}

/// Writes a result. Returns false if the reader has closed the pipe.
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

/// Wraps a text at this many columns, without breaking words. The first line starts with `start`,
/// and the others with `indent` spaces.
pub(crate) fn wrapped(start: &str, text: &str, columns: usize, indent: usize) -> Vec<String> {
    let (text, indent) = (format!("{start}{}", printable(text)), " ".repeat(indent));
    let options = textwrap::Options::new(columns)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .subsequent_indent(&indent);
    let lines = textwrap::wrap(&text, options).into_iter();
    lines.map(Cow::into_owned).collect()
}

/// Returns the width of the terminal, if standard output is one.
pub(crate) fn columns() -> Option<usize> {
    let terminal = console::Term::stdout();
    terminal
        .size_checked()
        .filter(|_| terminal.is_term())
        .map(|(_, columns)| usize::from(columns).max(1))
}

/// A result that is shown repeatedly. On a terminal, each page replaces the previous one.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    /// The number of rows of the previous page.
    rows: usize,
}

impl Screen {
    /// Shows a page. Returns false if the reader has closed the pipe.
    pub(crate) fn show(&mut self, text: &str) -> Result<bool, CliError> {
        let text = printable_lines(text);
        let columns = columns();
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

    /// Shows a document as one line. Returns false if the reader has closed the pipe.
    pub(crate) fn show_json(value: &impl Serialize) -> Result<bool, CliError> {
        put(&printable_json(
            &serde_json::to_string(value).map_err(io::Error::from)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_wider_than_a_terminal() {
        let lines = wrapped("FAIL name: ", &"word and other words ".repeat(20), 80, 4);
        assert!(
            lines.len() > 3 && lines.iter().all(|line| line.chars().count() <= 80),
            "{lines:?}"
        );
        assert!(
            lines[0].starts_with("FAIL name: word") && lines[1].starts_with("    and"),
            "{lines:?}"
        );
        assert_eq!(wrapped("", "one two", 80, 4), ["one two"]);
        assert_eq!(wrapped("", &"x".repeat(100), 80, 4).len(), 1);
    }
}
