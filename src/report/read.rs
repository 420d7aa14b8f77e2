//! A report read again: the command that it came from, and which of its objects failed.
//!
//! Lines are read one after another and only failures are kept, so that a report of any length can be read. A later
//! line about the same object replaces an earlier one, because a run that was gone on with reports it again. But an object that
//! failed and was then left as it is stays failed: what was wrong with it, no comparison by lists sees.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::Origin;

/// Why a report can not be used.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It could not be read.
    #[error("can't read the report {}: {error}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It is something else.
    #[error("{} is no report of s3haul: line {line}: {error}; name a file that --report or `report.json` wrote", path.display())]
    Malformed {
        /// Where.
        path: PathBuf,
        /// 1 for the first.
        line: usize,
        /// What is wrong.
        error: String,
    },
}

/// An object that failed, as the report names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailedObject {
    /// The transfer's name.
    pub transfer: String,
    /// `s3://bucket/key`, or a path; the prefix or directory itself when it could not be listed.
    pub source: String,
    /// The version that was to be read.
    pub version: Option<String>,
}

/// What a report says, as far as running again needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The command that wrote it.
    pub origin: Origin,
    /// Without those that a later line says are done.
    pub failed: Vec<FailedObject>,
}

#[derive(Deserialize)]
struct Line {
    transfer: String,
    source: String,
    source_version: Option<String>,
    status: String,
}

/// Reads a report.
///
/// # Errors
/// [`ReadError`]. A line that was cut off at the very end, by a crash or a full disk, is no error.
pub fn read(path: &Path) -> Result<Report, ReadError> {
    let io = |error| ReadError::Io { path: path.to_owned(), error };
    let malformed =
        |line, error: String| ReadError::Malformed { path: path.to_owned(), line: line + 1, error };
    let mut lines = BufReader::new(File::open(path).map_err(io)?).lines().enumerate().peekable();
    let first = lines.next().map(|(_, line)| line).transpose().map_err(io)?.unwrap_or_default();
    let origin: Origin = serde_json::from_str(&first).map_err(|error| malformed(0, error.to_string()))?;
    let mut failed = BTreeSet::new();
    while let Some((number, line)) = lines.next() {
        let line = match serde_json::from_str::<Line>(&line.map_err(io)?) {
            Ok(line) => line,
            Err(_) if lines.peek().is_none() => break,
            Err(error) => return Err(malformed(number, error.to_string())),
        };
        let object = (line.transfer, line.source, line.source_version);
        match line.status.as_str() {
            "failed" => _ = failed.insert(object),
            "done" => _ = failed.remove(&object),
            // Skipped, stopped or being restored: what failed before has not succeeded since.
            _ => {}
        }
    }
    let failed = failed
        .into_iter()
        .map(|(transfer, source, version)| FailedObject { transfer, source, version })
        .collect();
    Ok(Report { origin, failed })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HEAD: &str = r#"{"report":1,"tool":"0.1.0","command":["run","job.yaml"],"directory":"/work"}"#;

    fn line(source: &str, status: &str) -> String {
        format!(r#"{{"transfer":"t","source":"{source}","destination":"s3://b/k","status":"{status}"}}"#)
    }

    fn of(lines: &[&str]) -> Result<Report, ReadError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), lines.join("\n")).unwrap();
        read(file.path())
    }

    #[test]
    fn what_failed_last_is_what_failed() {
        let (a_failed, a_done, b_failed) = (line("a", "failed"), line("a", "done"), line("b", "failed"));
        let report = of(&[HEAD, &a_failed, &b_failed, &line("b", "skipped"), &a_done]).unwrap();
        assert_eq!(report.origin.command, ["run", "job.yaml"]);
        let failed: Vec<_> = report.failed.iter().map(|failed| failed.source.as_str()).collect();
        assert_eq!(failed, ["b"]);
    }

    #[test]
    fn a_cut_last_line_is_ignored_and_other_files_are_refused() {
        let cut = &line("b", "failed")[..30];
        assert_eq!(of(&[HEAD, &line("a", "failed"), cut]).unwrap().failed.len(), 1);
        let error = of(&[HEAD, cut, &line("a", "failed")]).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        let error = of(&["version: 1", "transfers: []"]).unwrap_err().to_string();
        assert!(error.contains("is no report of s3haul: line 1"), "{error}");
        assert!(of(&[]).is_err());
    }
}
