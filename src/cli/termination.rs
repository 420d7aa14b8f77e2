//! Writes the reason why a command ended to the file where Kubernetes looks for it.
//!
//! When a container has ended, the kubelet reads this file and shows its text in the status of the
//! pod (`kubectl describe pod`). It reads at most 4,096 bytes. A command that succeeds leaves the
//! file empty.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing::Level;

use super::Exit;
use super::out::tell;
use crate::printable::{cut, printable};
use crate::telemetry::Note;

/// The variable that names the file.
pub(super) const VARIABLE: &str = "S3HAUL_TERMINATION_LOG";
/// The default file of a container in Kubernetes.
const DEFAULT_FILE: &str = "/dev/termination-log";
/// The maximum length of a reason in bytes. With the truncation note, the text is at most 4,096
/// bytes.
const MAX_BYTES: usize = 4000;

/// The reason why the command ends with its exit code.
static REASON: Mutex<Option<String>> = Mutex::new(None);

/// Sets the reason why the command ends. The last call wins.
pub(super) fn set_reason(reason: &str) {
    *REASON.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
}

/// Returns the reason why the command ends.
pub(super) fn reason(exit: Exit) -> String {
    let noted = REASON.lock().unwrap_or_else(PoisonError::into_inner);
    noted.clone().unwrap_or_else(|| exit.reason().to_owned())
}

/// Writes the reason to the named file. Without a name, writes to the default file if it exists.
pub(super) fn write(named: Option<PathBuf>, exit: Exit) {
    let path = match named {
        Some(path) => path,
        None if Path::new(DEFAULT_FILE).exists() => DEFAULT_FILE.into(),
        None => return,
    };
    let text = match exit {
        Exit::Done => String::new(),
        exit => text(exit),
    };
    if text.is_empty() && !path.exists() {
        return;
    }
    if let Err(error) = put(&path, &text) {
        let path = path.display();
        let message = format!(
            "the reason of this end cannot be written to {path}: {error}; name another file with --termination-log"
        );
        let note = Note::new(Level::WARN, "log", &message).in_text(format!("warning: {message}"));
        tell(&note);
    }
}

/// Returns the reason as one line.
fn text(exit: Exit) -> String {
    let reason = reason(exit);
    let words: Vec<_> = reason.split_whitespace().collect();
    cut(printable(&words.join(" ")).into_owned(), MAX_BYTES)
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    // Opening a pipe without a reader would block the exit.
    if fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        return Err(io::Error::other("it is a pipe"));
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_of_several_lines_is_one_line_that_the_kubelet_reads() {
        set_reason(&format!("two\n  lines \u{1b}{}", "ü".repeat(5000)));
        let text = text(Exit::Failures);
        assert!(text.starts_with(r"two lines \u{1b}ü"), "{text}");
        assert!(
            text.len() <= 4096 && text.contains("cut after"),
            "{}",
            text.len()
        );
    }
}
