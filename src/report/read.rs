//! Reads a report for commands that act on it: the command that wrote it, and the objects that
//! failed or were not done.
//!
//! Lines are read one after another, and only failures are kept, so a report of any length can be
//! read. A later line about an object replaces an earlier one, because a resumed run may report the
//! object again. But an object that failed and was then skipped counts as failed, because a
//! comparison by lists cannot show the fault.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher as _;
use std::io;

use jiff::Timestamp;
use serde::Deserialize;

use crate::manifest::job::{Attribute, PublishedCopy};
use crate::plan::loss::Loss;

use super::ReportLines;
use super::frame::{FORMAT, Footer, ReportHeader, footer, is_gap};
use super::object::ObjectId;

mod error;
mod losses;
mod there;

use self::losses::LostObjects;
use self::there::Reported;
pub use self::there::ReportedObject;

pub use self::error::{ReadError, ReportLine};

/// An object that failed, as the report names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReportedFailure {
    /// The transfer's name.
    pub transfer: String,
    /// `s3://bucket/key`, or a path. The prefix or directory itself if it could not be listed.
    pub source: String,
    /// The version that was to be read.
    pub version: Option<String>,
    /// `s3://bucket/key`. The transfer's destination if the source could not be listed.
    pub destination: String,
    /// Its size in bytes, as far as it was known.
    pub size: u64,
    /// The number of its line in the report.
    pub line: usize,
}

/// A copied object that lost attributes.
#[derive(Clone, Debug, PartialEq)]
pub struct LostObject {
    /// The object.
    pub object: ReportedFailure,
    /// The attributes that it lacks.
    pub attributes: BTreeSet<Attribute>,
    /// The copy; absent in reports of old versions.
    pub copy: Option<PublishedCopy>,
}

/// The content of a report that a retry needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The command that wrote it.
    pub origin: ReportHeader,
    /// The footer; `None` in a report of format 1.
    pub footer: Option<Footer>,
    /// The objects that failed or were stopped, except those that a later line reports as done. If
    /// the run did not end by itself, also those that were still being restored.
    pub failed: Vec<ReportedFailure>,
    /// Copied objects that lost attributes.
    pub lost: Vec<LostObject>,
    /// The numbers of lines that another line about the same object supersedes: the line of its
    /// copy or, without a copy, the newest line. Covers only objects that were copied or skipped,
    /// and only the first million.
    pub superseded: BTreeSet<usize>,
    /// A sample of the objects that are at the destination, according to their lines.
    pub there: Vec<ReportedObject>,
}

impl Report {
    /// Returns true if the run was stopped or gave up, and so may not have listed all objects, or
    /// if the report of a retry is damaged.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.footer.as_ref().is_some_and(|footer| !footer.complete)
    }
}

#[derive(Deserialize)]
struct ParsedReceipt {
    transfer: String,
    source: String,
    source_version: Option<String>,
    source_etag: Option<String>,
    source_modified: Option<Timestamp>,
    destination: String,
    #[serde(default)]
    size: u64,
    status: ReceiptStatus,
    reason: Option<String>,
    route: Option<String>,
    #[serde(default)]
    losses: Vec<Loss>,
    etag: Option<String>,
    destination_version: Option<String>,
    proof: Option<String>,
    at: Option<Timestamp>,
}

impl ParsedReceipt {
    fn copy(&self) -> Option<PublishedCopy> {
        Some(PublishedCopy {
            source_version: self.source_version.clone(),
            source_etag: self.source_etag.clone(),
            source_modified: self.source_modified,
            etag: self.etag.clone()?,
            version: self.destination_version.clone(),
            proof: self.proof.clone(),
        })
    }

    /// Returns the object of this receipt as one to copy again.
    fn failure(&self, line: usize) -> ReportedFailure {
        ReportedFailure {
            transfer: self.transfer.clone(),
            source: self.source.clone(),
            version: self.source_version.clone(),
            destination: self.destination.clone(),
            size: self.size,
            line,
        }
    }
}

/// The status of an object. A line with any other word is not a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ReceiptStatus {
    /// Copied or uploaded.
    Done,
    /// Not copied, because the job requires no copy.
    Skipped,
    /// Being restored from an archive.
    Restoring,
    /// Not copied.
    Failed,
    /// Not finished, because the run was stopped.
    Stopped,
}

impl ReceiptStatus {
    /// Returns the word of the status in a receipt.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Restoring => "restoring",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// The number of lines that are remembered to find repeated ones. In a longer report, only the
/// footer's count shows a repeated line.
const REMEMBERED: usize = 1 << 20;

/// The hashes of the lines that were read, up to [`REMEMBERED`].
#[derive(Default)]
struct SeenLines {
    numbers: HashMap<u64, usize>,
    hasher: RandomState,
}

impl SeenLines {
    /// Remembers a line. Returns the number of an equal line before it, if there is one.
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

/// The lines of the first [`REMEMBERED`] copied or equal objects, by the objects' hashes.
#[derive(Default)]
struct ObjectLines {
    lines: HashMap<u64, (usize, ReceiptStatus)>,
    superseded: BTreeSet<usize>,
    hasher: RandomState,
}

impl ObjectLines {
    fn take(&mut self, object: &ObjectId, status: ReceiptStatus, number: usize) {
        if !matches!(status, ReceiptStatus::Done | ReceiptStatus::Skipped) {
            return;
        }
        let hash = self.hasher.hash_one(object);
        let has_room = self.lines.len() < REMEMBERED;
        match self.lines.get_mut(&hash) {
            // The line of the copy has the proof and the version. A later session only found the
            // object equal.
            Some((_, ReceiptStatus::Done)) if status == ReceiptStatus::Skipped => {
                self.superseded.insert(number);
            }
            Some(before) => {
                self.superseded.insert(before.0);
                *before = (number, status);
            }
            None if has_room => {
                self.lines.insert(hash, (number, status));
            }
            None => {}
        }
    }
}

/// The state of an object that is not done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Undone {
    Failed,
    Stopped,
    Restoring,
}

/// Reads a report to its end.
///
/// # Errors
/// [`ReadError`]. A truncated report is an error, because the missing lines are unknown.
pub async fn read(mut lines: ReportLines) -> Result<Report, ReadError> {
    let first = lines.next().await?.unwrap_or_default();
    let origin = origin(lines.place(), &first)?;
    let mut reader = ReportReader {
        place: lines.place().to_owned(),
        origin: &origin,
        undone: BTreeMap::new(),
        lossy: LostObjects::default(),
        footer: None,
        last: 1,
        seen: SeenLines::default(),
        objects: ObjectLines::default(),
        there: Reported::default(),
        sum: super::CountedLines::of_head(format!("{first}\n").as_bytes()).sum,
    };
    let mut number = 1;
    loop {
        number += 1;
        match lines.next().await {
            Ok(None) => break,
            Ok(Some(line)) => reader.take(number, &line)?,
            Err(ReadError::Io { error, .. }) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(reader.torn(number, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    reader.check_footer()?;
    let ReportReader {
        undone,
        lossy,
        footer,
        objects,
        there,
        ..
    } = reader;
    let is_stopped = footer.as_ref().is_some_and(Footer::is_stopped);
    let failed = undone
        .into_iter()
        .filter(|(_, (what, _))| is_stopped || *what != Undone::Restoring)
        .map(|(_, (_, failure))| failure)
        .collect();
    Ok(Report {
        origin,
        footer,
        failed,
        lost: lossy.into_objects(),
        superseded: objects.superseded,
        there: there.into_objects(),
    })
}

/// Parses the header. Refuses a report of a later format, or of a run with `--sandbox`.
fn origin(place: &str, first: &str) -> Result<ReportHeader, ReadError> {
    let place = place.to_owned();
    let origin: ReportHeader = match serde_json::from_str(first) {
        Ok(origin) => origin,
        Err(error) => {
            let error = error.to_string();
            return Err(ReadError::Foreign { place, error });
        }
    };
    if origin.report > FORMAT {
        let (format, version) = (origin.report, origin.version);
        return Err(ReadError::Newer {
            place,
            format,
            version,
        });
    }
    if origin.is_of_sandbox() {
        return Err(ReadError::Sandbox {
            place,
            command: origin.command_line(),
            directory: origin.directory,
        });
    }
    Ok(origin)
}

/// The content of the lines that were read so far.
struct ReportReader<'a> {
    place: String,
    origin: &'a ReportHeader,
    /// The objects that are not done.
    undone: BTreeMap<ObjectId, (Undone, ReportedFailure)>,
    /// The objects that lost attributes.
    lossy: LostObjects,
    footer: Option<Footer>,
    /// The number of the last line.
    last: usize,
    seen: SeenLines,
    objects: ObjectLines,
    there: Reported,
    sum: crc_fast::Digest,
}

impl ReportReader<'_> {
    fn at(&self, line: usize) -> ReportLine {
        ReportLine {
            place: self.place.clone(),
            line,
            command: self.origin.command_line(),
            directory: self.origin.directory.clone(),
        }
    }

    fn torn(&self, line: usize, error: String) -> ReadError {
        let at = self.at(line);
        ReadError::Torn { at, error }
    }

    /// Reads a line.
    fn take(&mut self, number: usize, text: &str) -> Result<(), ReadError> {
        if self.footer.is_some() {
            return Err(self.torn(number, "it is behind the footer".to_owned()));
        }
        if is_gap(text) {
            return Err(ReadError::Gap(self.at(number)));
        }
        if let Some(of) = self.seen.repeated(text, number) {
            let at = self.at(number);
            return Err(ReadError::Repeated { at, of });
        }
        self.last = number;
        let line = match serde_json::from_str::<ParsedReceipt>(text) {
            Ok(line) => line,
            Err(error) => match footer(text) {
                Some(footer) => {
                    self.footer = Some(footer);
                    return Ok(());
                }
                None => return Err(self.torn(number, error.to_string())),
            },
        };
        self.sum.update(text.as_bytes());
        self.sum.update(b"\n");
        let object = self.origin.object(
            line.transfer.clone(),
            line.source.clone(),
            line.source_version.clone(),
        );
        self.lossy.take(self.origin, &object, &line, number);
        self.there.take(&line);
        self.objects.take(&object, line.status, number);
        let before = self.undone.get(&object).map(|(what, _)| *what);
        let mut insert =
            |object, what| _ = self.undone.insert(object, (what, line.failure(number)));
        match (line.status, before) {
            (ReceiptStatus::Failed, _) => insert(object, Undone::Failed),
            (ReceiptStatus::Done, _) => _ = self.undone.remove(&object),
            // Only a copy ends a failure.
            (_, Some(Undone::Failed)) => {}
            (ReceiptStatus::Stopped, _) => insert(object, Undone::Stopped),
            (ReceiptStatus::Restoring, _) => insert(object, Undone::Restoring),
            (ReceiptStatus::Skipped, _) => _ = self.undone.remove(&object),
        }
        Ok(())
    }

    /// Refuses a report without a footer, or with a footer that was written for other lines.
    fn check_footer(&mut self) -> Result<(), ReadError> {
        let at = self.at(self.last);
        let Some(footer) = &self.footer else {
            // Only format 1 has no footer. (A flipped bit may turn 2 into any other number.)
            if self.origin.report != 1 {
                return Err(ReadError::Unfinished(at));
            }
            return Ok(());
        };
        // The header and the footer are not receipts.
        let receipts = self.last.saturating_sub(2);
        if let Some(counted) = footer.lines
            && counted != receipts as u64
        {
            return Err(ReadError::Miscounted {
                at,
                receipts,
                counted,
            });
        }
        if let Some(checksum) = &footer.checksum
            && *checksum != format!("{:016x}", self.sum.finalize())
        {
            return Err(ReadError::Changed(at));
        }
        Ok(())
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
        futures::executor::block_on(read(ReportLines::of_file(file.path())?))
    }

    #[test]
    fn an_object_has_failed_if_its_last_line_says_so() {
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
            error.contains("no footer after line 2") && error.contains("`s3haul run job.yaml`"),
            "{error}"
        );
        assert!(
            of(&[&head])
                .unwrap_err()
                .to_string()
                .contains("no footer after line 1")
        );
        let error = of(&[&head, &a, &foot(true), &b, &foot(true)])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 4 is not a receipt: it is behind the footer"),
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

    /// A receipt names the version only if the object was read.
    #[test]
    fn a_receipt_that_names_no_version_is_about_the_same_object() {
        let version = |line: &str, version: &str| {
            line.replace(
                r#""status""#,
                &format!(r#""source_version":"{version}","status""#),
            )
        };
        let current = HEAD.replace(r#""directory""#, r#""histories":[],"directory""#);
        let history = HEAD.replace(r#""directory""#, r#""histories":["t"],"directory""#);
        let (failed, done) = (line("a", "failed"), version(&line("a", "done"), "v1"));
        let stopped = version(&line("b", "stopped"), "v1");
        let b_done = version(&line("b", "done"), "v2");
        let skipped = line("a", "skipped");
        let lines = |head: &str| of(&[head, &failed, &stopped, &done, &b_done, &skipped]).unwrap();
        let report = lines(&current);
        assert_eq!(report.failed, []);
        // The line of the copy counts.
        assert_eq!(Vec::from_iter(report.superseded), [6]);
        // In a history, the two versions of `b` are two objects.
        let failed = lines(&history).failed;
        assert!(failed.iter().map(|it| it.line).eq([2, 3]), "{failed:?}");
    }

    #[test]
    fn a_copy_of_another_version_takes_losses_back_except_in_a_history() {
        let done = |version: &str, losses: &str| {
            let more = format!(r#""source_version":"{version}","losses":[{losses}],"status""#);
            line("a", "done").replace(r#""status""#, &more)
        };
        let loss = r#"{"attribute":"tags","loss":"not-set","reason":"denied"}"#;
        let (first, second) = (done("v1", loss), done("v2", ""));
        for (histories, lost) in [
            ("", 0),
            (r#""histories":[],"#, 0),
            (r#""histories":["t"],"#, 1),
        ] {
            let head = HEAD.replace(r#""directory""#, &format!(r#"{histories}"directory""#));
            let report = of(&[&head, &first, &second]).unwrap();
            assert_eq!(report.lost.len(), lost, "{head}");
        }
    }

    #[test]
    fn one_line_per_object_counts() {
        let lines = [
            ("a", "done"),
            ("b", "skipped"),
            ("a", "skipped"),
            ("b", "done"),
        ];
        let lines = lines.map(|(source, status)| line(source, status));
        let changed = line("b", "skipped").replace("s3://b/k", "s3://b/other");
        let report = of(&[HEAD, &lines[0], &lines[1], &lines[2], &lines[3], &changed]).unwrap();
        assert_eq!(Vec::from_iter(report.superseded), [3, 4, 6]);
    }

    #[test]
    fn cut_lines_and_other_files_are_refused() {
        let cut = &line("b", "failed")[..30];
        let error = of(&[HEAD, &line("a", "failed"), cut])
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 3 is not a receipt"), "{error}");
        let error = of(&[HEAD, cut, &line("a", "failed")])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2 is not a receipt") && error.contains("`s3haul run job.yaml`"),
            "{error}"
        );
        let error = of(&["version: 1", "transfers: []"])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("is not a report of s3haul: its first line"),
            "{error}"
        );
        assert!(of(&[]).is_err());
    }
}
