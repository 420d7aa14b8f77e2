//! A report read again: the command that it came from, and which of its objects failed or were left
//! undone.
//!
//! Lines are read one after another and only failures are kept, so that a report of any length can
//! be read. A later line about the same object replaces an earlier one, because a run that was gone
//! on with reports it again. But an object that failed and was then left as it is stays failed:
//! what was wrong with it, no comparison by lists sees.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::hash::BuildHasher as _;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;
use thiserror::Error;

use crate::manifest::job::{Attribute, PublishedCopy};
use crate::plan::loss::Loss;

use super::frame::{FORMAT, Footer, Origin, footer, is_gap};

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
    #[error(
        "{} is no report of s3haul: its first line does not say which command wrote it: {error}; name a file that --report or \
         `report.json` wrote", path.display()
    )]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        error: String,
    },
    /// It is the report of a run with `--sandbox`.
    #[error(
        "the report {} comes from a run with --sandbox: the buckets that it names were in that process and are gone. Run \
         `{command}` again in {}, without --sandbox for a report of real buckets", path.display(), directory.display()
    )]
    Sandbox {
        /// Where.
        path: PathBuf,
        /// The command that wrote it.
        command: String,
        /// The directory of that command.
        directory: PathBuf,
    },
    /// A later version of s3haul wrote it.
    #[error(
        "the report {} has format {format}, and this version of s3haul reads up to {FORMAT}; use the version that wrote it, \
         {version}, or a later one", path.display()
    )]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// The version that wrote it.
        version: String,
    },
    /// A line was cut or changed.
    #[error(
        "the report {}: line {line} is no receipt: {error}; the file was cut or changed. Run `{command}` again in {}, which \
         writes the report anew", path.display(), directory.display()
    )]
    Torn {
        /// Where.
        path: PathBuf,
        /// 1 for the first.
        line: usize,
        /// What is wrong.
        error: String,
        /// The command that wrote it.
        command: String,
        /// The directory of that command.
        directory: PathBuf,
    },
    /// A line stands there twice.
    #[error(
        "the report {}: line {line} repeats line {of}; the file was changed. Run `{command}` again in {}, which writes the \
         report anew", path.display(), directory.display()
    )]
    Repeated {
        /// Where.
        path: PathBuf,
        /// 1 for the first.
        line: usize,
        /// The line that it is equal to.
        of: usize,
        /// The command that wrote it.
        command: String,
        /// The directory of that command.
        directory: PathBuf,
    },
    /// It has another number of receipts than its footer says.
    #[error(
        "the report {} has {receipts} receipts in lines 2 to {}, and its footer in line {line} counts {counted}: lines were \
         {}. Run `{command}` again in {}, which writes the report anew", path.display(), line - 1,
        if *receipts as u64 > *counted { "added" } else { "removed" }, directory.display()
    )]
    Miscounted {
        /// Where.
        path: PathBuf,
        /// The footer.
        line: usize,
        /// Receipts in the file.
        receipts: usize,
        /// Receipts that the run wrote.
        counted: u64,
        /// The command that wrote it.
        command: String,
        /// The directory of that command.
        directory: PathBuf,
    },
    /// A line was changed and is a receipt all the same.
    #[error(
        "the report {}: lines 1 to {} are not those that the footer in line {line} was written for: the file was changed. Run \
         `{command}` again in {}, which writes the report anew", path.display(), line - 1, directory.display()
    )]
    Changed {
        /// Where.
        path: PathBuf,
        /// The footer.
        line: usize,
        /// The command that wrote it.
        command: String,
        /// The directory of that command.
        directory: PathBuf,
    },
    /// It has no footer.
    #[error(
        "the report {} has no footer behind line {line}: its run is still at work or was killed, or the file was cut. Wait for \
         the run, or run `{command}` again in {}: that resumes the run if it has a journal, and completes the report",
        path.display(), directory.display()
    )]
    Unfinished {
        /// Where.
        path: PathBuf,
        /// The last line.
        line: usize,
        /// The command that wrote it.
        command: String,
        /// The directory of that command.
        directory: PathBuf,
    },
    /// Receipts of an earlier session are not in it.
    #[error(
        "the report {} lacks receipts of an earlier session of its run (line {line}), because the file was moved or another \
         one was named when the run was resumed. Run `{command}` again in {} for a whole report", path.display(),
        directory.display()
    )]
    Gap {
        /// Where.
        path: PathBuf,
        /// 1 for the first.
        line: usize,
        /// The command that wrote it.
        command: String,
        /// The directory of that command.
        directory: PathBuf,
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
    /// `s3://bucket/key`; the transfer's destination when the source could not be listed.
    pub destination: String,
    /// The number of the line that says so.
    pub line: usize,
}

/// A copied object of which something was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct LostObject {
    /// The object.
    pub object: FailedObject,
    /// The attributes that it lacks.
    pub attributes: BTreeSet<Attribute>,
    /// The copy; absent in reports of old versions.
    pub copy: Option<PublishedCopy>,
}

/// What a report says, as far as running again needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The command that wrote it.
    pub origin: Origin,
    /// How the run ended; `None` in a report of format 1.
    pub footer: Option<Footer>,
    /// What failed or was stopped, without what a later line says is done. Where the run did not
    /// end by itself, also what it left in an archive.
    pub failed: Vec<FailedObject>,
    /// Copied objects of which something was lost.
    pub lost: Vec<LostObject>,
}

impl Report {
    /// Returns true if the run was stopped or gave up, so that objects may be missing here that it
    /// never listed.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.footer.as_ref().is_some_and(|footer| !footer.complete)
    }
}

#[derive(Deserialize)]
struct Line {
    transfer: String,
    source: String,
    source_version: Option<String>,
    destination: String,
    status: Status,
    #[serde(default)]
    losses: Vec<Loss>,
    etag: Option<String>,
    destination_version: Option<String>,
    proof: Option<String>,
    at: Option<Timestamp>,
}

impl Line {
    fn copy(&self) -> Option<PublishedCopy> {
        Some(PublishedCopy {
            source_version: self.source_version.clone(),
            etag: self.etag.clone()?,
            version: self.destination_version.clone(),
            proof: self.proof.clone(),
            at: self.at?,
        })
    }
}

/// How an object ended. A line with another word is not a receipt.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    Done,
    Skipped,
    Restoring,
    Failed,
    Stopped,
}

/// Lines that are remembered to find one that stands there twice. In a longer report, only the
/// footer's count tells.
const REMEMBERED: usize = 1 << 20;

/// The hashes of the lines that were read, up to [`REMEMBERED`].
#[derive(Default)]
struct Lines {
    numbers: HashMap<u64, usize>,
    hasher: RandomState,
}

impl Lines {
    /// Remembers a line, and returns the number of an equal one.
    fn repeated(&mut self, line: &str, number: usize) -> Option<usize> {
        let hash = self.hasher.hash_one(line);
        if self.numbers.len() >= REMEMBERED {
            return self.numbers.get(&hash).copied();
        }
        match self.numbers.entry(hash) {
            Entry::Occupied(entry) => Some(*entry.get()),
            Entry::Vacant(entry) => {
                entry.insert(number);
                None
            }
        }
    }
}

/// What became of an object that is not done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Undone {
    Failed,
    Stopped,
    Restoring,
}

/// Reads a report to its end.
///
/// # Errors
/// [`ReadError`]. A report that was cut is one, wherever it was cut: nobody knows what it would
/// have said.
pub fn read(path: &Path) -> Result<Report, ReadError> {
    let io = |error| ReadError::Io {
        path: path.to_owned(),
        error,
    };
    let path_of = || path.to_owned();
    let mut lines = BufReader::new(File::open(path).map_err(io)?).lines();
    let first = lines.next().transpose().map_err(io)?.unwrap_or_default();
    let origin: Origin = serde_json::from_str(&first).map_err(|error| ReadError::Foreign {
        path: path_of(),
        error: error.to_string(),
    })?;
    let (command, directory) = (origin.command_line(), origin.directory.clone());
    if origin.report > FORMAT {
        let (format, version) = (origin.report, origin.version);
        return Err(ReadError::Newer {
            path: path_of(),
            format,
            version,
        });
    }
    if origin.is_of_sandbox() {
        return Err(ReadError::Sandbox {
            path: path_of(),
            command,
            directory,
        });
    }
    let torn = |line, error: String| {
        let (command, directory) = (command.clone(), directory.clone());
        ReadError::Torn {
            path: path_of(),
            line,
            error,
            command,
            directory,
        }
    };
    let mut undone: BTreeMap<_, (Undone, usize, String)> = BTreeMap::new();
    let mut lossy: BTreeMap<_, LostObject> = BTreeMap::new();
    let (mut end, mut last, mut seen) = (None, 1, Lines::default());
    let mut sum = super::Counted::of_head(format!("{first}\n").as_bytes()).sum;
    for (number, line) in (2..).zip(lines) {
        let line = match line {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(torn(number, error.to_string()));
            }
            line => line.map_err(io)?,
        };
        if end.is_some() {
            return Err(torn(number, "it is behind the footer".to_owned()));
        }
        if is_gap(&line) {
            return Err(ReadError::Gap {
                path: path_of(),
                line: number,
                command,
                directory,
            });
        }
        if let Some(of) = seen.repeated(&line, number) {
            return Err(ReadError::Repeated {
                path: path_of(),
                line: number,
                of,
                command,
                directory,
            });
        }
        last = number;
        let text = line;
        let line = match serde_json::from_str::<Line>(&text) {
            Ok(line) => line,
            Err(error) => match footer(&text) {
                Some(footer) => {
                    end = Some(footer);
                    continue;
                }
                None => return Err(torn(number, error.to_string())),
            },
        };
        sum.update(text.as_bytes());
        sum.update(b"\n");
        note_losses(&mut lossy, &line, number);
        let object = (line.transfer, line.source, line.source_version);
        let before = undone.get(&object).map(|(what, ..)| *what);
        let insert = |object, what| _ = undone.insert(object, (what, number, line.destination));
        match (line.status, before) {
            (Status::Failed, _) => insert(object, Undone::Failed),
            (Status::Done, _) => _ = undone.remove(&object),
            // What failed before has not succeeded since.
            (_, Some(Undone::Failed)) => {}
            (Status::Stopped, _) => insert(object, Undone::Stopped),
            (Status::Restoring, _) => insert(object, Undone::Restoring),
            (Status::Skipped, _) => _ = undone.remove(&object),
        }
    }
    if end.is_none() && origin.report > 1 {
        return Err(ReadError::Unfinished {
            path: path_of(),
            line: last,
            command,
            directory,
        });
    }
    // The header and the footer are not receipts.
    let receipts = last.saturating_sub(2);
    if let Some(counted) = end.as_ref().and_then(|footer| footer.lines)
        && counted != receipts as u64
    {
        let path = path_of();
        return Err(ReadError::Miscounted {
            path,
            line: last,
            receipts,
            counted,
            command,
            directory,
        });
    }
    if let Some(checksum) = end.as_ref().and_then(|footer| footer.checksum.as_deref())
        && checksum != format!("{:016x}", sum.finalize())
    {
        return Err(ReadError::Changed {
            path: path_of(),
            line: last,
            command,
            directory,
        });
    }
    let is_incomplete = end.as_ref().is_some_and(|footer| !footer.complete);
    let failed = undone
        .into_iter()
        .filter(|(_, (what, ..))| is_incomplete || *what != Undone::Restoring)
        .map(
            |((transfer, source, version), (_, line, destination))| FailedObject {
                transfer,
                source,
                version,
                destination,
                line,
            },
        )
        .collect();
    Ok(Report {
        origin,
        footer: end,
        failed,
        lost: lossy.into_values().collect(),
    })
}

/// Remembers an object that was copied with losses, until a later line says otherwise.
fn note_losses(lost: &mut BTreeMap<(String, String), LostObject>, line: &Line, number: usize) {
    let key = (line.transfer.clone(), line.source.clone());
    if line.status == Status::Done && !line.losses.is_empty() {
        let object = FailedObject {
            transfer: line.transfer.clone(),
            source: line.source.clone(),
            version: line.source_version.clone(),
            destination: line.destination.clone(),
            line: number,
        };
        let attributes = line.losses.iter().map(|loss| loss.attribute).collect();
        lost.insert(
            key,
            LostObject {
                object,
                attributes,
                copy: line.copy(),
            },
        );
    } else if !lost.is_empty() && line.status == Status::Done {
        lost.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HEAD: &str =
        r#"{"report":1,"tool":"0.1.0","command":["run","job.yaml"],"directory":"/work"}"#;

    fn line(source: &str, status: &str) -> String {
        format!(
            r#"{{"transfer":"t","source":"{source}","destination":"s3://b/k","status":"{status}"}}"#
        )
    }

    fn of(lines: &[&str]) -> Result<Report, ReadError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), lines.join("\n")).unwrap();
        read(file.path())
    }

    #[test]
    fn what_failed_last_is_what_failed() {
        let (a_failed, a_done, b_failed) =
            (line("a", "failed"), line("a", "done"), line("b", "failed"));
        let report = of(&[HEAD, &a_failed, &b_failed, &line("b", "skipped"), &a_done]).unwrap();
        assert_eq!(report.origin.command, ["run", "job.yaml"]);
        let failed: Vec<_> = report
            .failed
            .iter()
            .map(|failed| failed.source.as_str())
            .collect();
        assert_eq!(failed, ["b"]);
    }

    #[test]
    fn a_stopped_object_is_undone_until_it_is_found_done_or_equal() {
        let (head, foot) = (
            HEAD.replace(r#""report":1"#, r#""report":2"#),
            |complete: bool| {
                format!(
                    r#"{{"footer":{{"time":"2026-01-01T00:00:00Z","exit":4,"complete":{complete}}}}}"#
                )
            },
        );
        let (a, b, c) = (
            line("a", "stopped"),
            line("b", "stopped"),
            line("c", "restoring"),
        );
        let report = of(&[&head, &a, &b, &c, &line("b", "skipped"), &foot(false)]).unwrap();
        let failed: Vec<_> = report
            .failed
            .iter()
            .map(|failed| failed.source.as_str())
            .collect();
        assert!(failed == ["a", "c"] && report.is_incomplete());
        assert!(of(&[&head, &c, &foot(true)]).unwrap().failed.is_empty());
        let error = of(&[&head, &a]).unwrap_err().to_string();
        assert!(
            error.contains("no footer behind line 2") && error.contains("`s3haul run job.yaml`"),
            "{error}"
        );
        assert!(
            of(&[&head])
                .unwrap_err()
                .to_string()
                .contains("no footer behind line 1")
        );
        let error = of(&[&head, &a, &foot(true), &b, &foot(true)])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 4 is no receipt: it is behind the footer"),
            "{error}"
        );
        let error = of(&[&head, super::super::frame::GAP.trim_end(), &a, &foot(true)]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("lacks receipts of an earlier session"),
            "{error}"
        );
    }

    #[test]
    fn cut_lines_and_other_files_are_refused() {
        let cut = &line("b", "failed")[..30];
        let error = of(&[HEAD, &line("a", "failed"), cut])
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 3 is no receipt"), "{error}");
        let error = of(&[HEAD, cut, &line("a", "failed")])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2 is no receipt") && error.contains("`s3haul run job.yaml`"),
            "{error}"
        );
        let error = of(&["version: 1", "transfers: []"])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("is no report of s3haul: its first line"),
            "{error}"
        );
        assert!(of(&[]).is_err());
    }
}
