//! Summarizes a report: its totals, which objects are not done, and why.
//!
//! A report of any length is read line by line, even if it is not complete. Memory grows with the
//! objects that are not done, up to [`MAX_OBJECTS`].

use std::collections::{BTreeMap, HashMap};
use std::io;

use serde::{Deserialize, Serialize};

use super::frame::{FORMAT, Footer, ReportHeader, footer, is_gap};
use super::lines::ReportLines;
use super::object::ObjectId;
use super::read::{ReadError, ReceiptStatus};
use crate::printable::cut;

/// The maximum number of objects that are remembered because they are not done.
const MAX_OBJECTS: usize = 1 << 20;
/// The maximum number of causes that are counted separately.
const MAX_CAUSES: usize = 100;
/// The maximum number of bytes of a message or a name.
const MAX_BYTES: usize = 1024;
/// The maximum number of proofs that are counted separately. s3haul has fewer.
const MAX_PROOFS: usize = 32;

/// The summary of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// The report.
    pub report: String,
    /// The state of the report.
    pub state: ReportState,
    /// The damage of a damaged report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// The run that it comes from.
    pub origin: ReportHeader,
    /// The end of the run. Absent while the run is in progress, and after it was killed.
    pub footer: Option<Footer>,
    /// The numbers of receipts. A resumed run may have several receipts of one object.
    pub receipts: ReceiptCounts,
    /// The receipts of copied objects, by proof.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub proofs: BTreeMap<String, u64>,
    /// The number of objects that are not done, by the last receipt of each.
    pub not_done: u64,
    /// The causes, the most frequent one first.
    pub causes: Vec<UndoneCause>,
}

/// The state of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReportState {
    /// The run ended by itself, and all its receipts are here.
    Complete,
    /// The run was stopped or gave up, and may not have listed all objects.
    Stopped,
    /// There is no footer: the run is in progress, or was killed.
    Unfinished,
    /// Lines are missing or were changed.
    Damaged,
}

/// Numbers of receipts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReceiptCounts {
    /// All receipts.
    pub lines: u64,
    /// Objects copied or uploaded.
    pub done: u64,
    /// Their bytes.
    pub done_bytes: u64,
    /// Unchanged objects.
    pub skipped: u64,
    /// Objects that failed.
    pub failed: u64,
    /// Objects that a stop left undone.
    pub stopped: u64,
    /// Objects that are being restored from an archive.
    pub restoring: u64,
    /// Copies that lack attributes.
    pub with_losses: u64,
}

/// A reason why objects are not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UndoneCause {
    /// `failed`, `stopped`, or `restoring`.
    pub status: &'static str,
    /// The request that failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// The error code of the response.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// The message of the response.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The remedy.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// The number of objects.
    pub objects: u64,
    /// The sources of the first ones.
    pub first: Vec<String>,
}

#[derive(Deserialize)]
struct ReceiptView {
    transfer: String,
    source: String,
    source_version: Option<String>,
    status: ReceiptStatus,
    #[serde(default)]
    size: u64,
    proof: Option<String>,
    #[serde(default)]
    losses: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    error: ErrorView,
}

#[derive(Default, Deserialize)]
struct ErrorView {
    #[serde(default)]
    operation: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    remedy: String,
}

/// The content of the lines that were read so far.
struct OverviewReader<'a> {
    origin: &'a ReportHeader,
    counts: ReceiptCounts,
    proofs: BTreeMap<String, u64>,
    /// Each object that is not done, with its cause.
    undone: BTreeMap<ObjectId, (ReceiptStatus, usize)>,
    causes: Vec<UndoneCause>,
    known: HashMap<(ReceiptStatus, String, String, String), usize>,
    footer: Option<Footer>,
    damage: Option<String>,
    sum: crc_fast::Digest,
    /// True if there were more objects than are remembered.
    is_full: bool,
}

/// Reads a report, and names at most `shown` objects for each cause.
///
/// # Errors
/// [`ReadError::Foreign`] for a file that is not a report, [`ReadError::Newer`], and errors of
/// reading.
pub async fn overview(lines: ReportLines, shown: usize) -> Result<Overview, ReadError> {
    overview_and(lines, shown, |_| ()).await
}

/// Does the same as [`overview`], and calls `each` with each line.
///
/// # Errors
/// Those of [`overview`].
pub async fn overview_and(
    mut lines: ReportLines,
    shown: usize,
    mut each: impl FnMut(&str) + Send,
) -> Result<Overview, ReadError> {
    let first = lines.next().await?.unwrap_or_default();
    let place = lines.place().to_owned();
    let origin: ReportHeader =
        serde_json::from_str(&first).map_err(|error| ReadError::Foreign {
            place: place.clone(),
            error: error.to_string(),
        })?;
    if origin.report > FORMAT {
        return Err(ReadError::Newer {
            place,
            format: origin.report,
            version: origin.version,
        });
    }
    each(&first);
    let mut reader = OverviewReader {
        origin: &origin,
        counts: ReceiptCounts::default(),
        proofs: BTreeMap::new(),
        undone: BTreeMap::new(),
        causes: Vec::new(),
        known: HashMap::new(),
        footer: None,
        damage: None,
        sum: super::CountedLines::of_head(format!("{first}\n").as_bytes()).sum,
        is_full: false,
    };
    for number in 2.. {
        match lines.next().await {
            Ok(None) => break,
            Ok(Some(line)) => {
                each(&line);
                reader.take(number, &line);
            }
            Err(ReadError::Io { error, .. }) if error.kind() == io::ErrorKind::InvalidData => {
                reader.damaged(number, &error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(reader.end(place, shown))
}

impl OverviewReader<'_> {
    /// Remembers the first damage.
    fn damaged(&mut self, number: u64, what: &str) {
        let what = || cut(format!("line {number}: {what}"), MAX_BYTES);
        self.damage.get_or_insert_with(what);
    }

    fn take(&mut self, number: u64, text: &str) {
        if self.footer.is_some() {
            return self.damaged(number, "it is behind the footer");
        }
        if is_gap(text) {
            self.sum.update(text.as_bytes());
            self.sum.update(b"\n");
            return self.damaged(number, "receipts of an earlier session are missing here");
        }
        match serde_json::from_str::<ReceiptView>(text) {
            Ok(receipt) => {
                self.sum.update(text.as_bytes());
                self.sum.update(b"\n");
                self.count(&receipt);
                self.fold(receipt);
            }
            Err(error) => match footer(text) {
                Some(footer) => self.footer = Some(footer),
                None => self.damaged(number, &error.to_string()),
            },
        }
    }

    fn count(&mut self, receipt: &ReceiptView) {
        let counts = &mut self.counts;
        counts.lines += 1;
        match receipt.status {
            ReceiptStatus::Done => {
                counts.done += 1;
                counts.done_bytes = counts.done_bytes.saturating_add(receipt.size);
                counts.with_losses += u64::from(!receipt.losses.is_empty());
                let proof = receipt.proof.as_deref().unwrap_or_default();
                if let Some(proven) = self.proofs.get_mut(proof) {
                    *proven += 1;
                } else if !proof.is_empty() && self.proofs.len() < MAX_PROOFS {
                    self.proofs.insert(cut(proof.to_owned(), MAX_BYTES), 1);
                }
            }
            ReceiptStatus::Skipped => counts.skipped += 1,
            ReceiptStatus::Restoring => counts.restoring += 1,
            ReceiptStatus::Failed => counts.failed += 1,
            ReceiptStatus::Stopped => counts.stopped += 1,
        }
    }

    /// Keeps the last status of each object, like [`read`](super::read::read).
    fn fold(&mut self, receipt: ReceiptView) {
        let ReceiptView {
            transfer,
            source,
            source_version,
            status,
            error,
            ..
        } = receipt;
        let object = self.origin.object(transfer, source, source_version);
        let has_failed = |(before, _): &(ReceiptStatus, usize)| *before == ReceiptStatus::Failed;
        match status {
            ReceiptStatus::Done => _ = self.undone.remove(&object),
            _ if status != ReceiptStatus::Failed
                && self.undone.get(&object).is_some_and(has_failed) => {}
            ReceiptStatus::Skipped => _ = self.undone.remove(&object),
            _ if self.undone.len() >= MAX_OBJECTS && !self.undone.contains_key(&object) => {
                self.is_full = true;
            }
            _ => {
                let cause = self.cause(status, error);
                self.undone.insert(object, (status, cause));
            }
        }
    }

    /// Returns the index of a cause.
    fn cause(&mut self, status: ReceiptStatus, error: ErrorView) -> usize {
        let short = |text: String| cut(text, MAX_BYTES);
        let (operation, code) = (short(error.operation), short(error.code));
        let message = short(error.message);
        let key = (status, operation.clone(), code.clone(), message.clone());
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let is_last = self.causes.len() >= MAX_CAUSES;
        let other = (status, String::new(), String::new(), OTHER.to_owned());
        if is_last && let Some(known) = self.known.get(&other) {
            return *known;
        }
        let remedy = short(error.remedy);
        let mut cause = UndoneCause {
            status: status.name(),
            operation,
            code,
            message,
            remedy,
            objects: 0,
            first: Vec::new(),
        };
        if is_last {
            (cause.operation, cause.code) = (String::new(), String::new());
            (cause.message, cause.remedy) = (OTHER.to_owned(), String::new());
        }
        self.known
            .insert(if is_last { other } else { key }, self.causes.len());
        self.causes.push(cause);
        self.causes.len() - 1
    }

    fn end(mut self, report: String, shown: usize) -> Overview {
        self.check_footer();
        let not_done = self.undone.len() as u64;
        for (object, (_, cause)) in self.undone {
            let Some(cause) = self.causes.get_mut(cause) else {
                continue;
            };
            cause.objects += 1;
            if cause.first.len() < shown {
                cause.first.push(cut(object.source, MAX_BYTES));
            }
        }
        self.causes.retain(|cause| cause.objects > 0);
        self.causes
            .sort_by_key(|cause| std::cmp::Reverse(cause.objects));
        let state = match &self.footer {
            _ if self.damage.is_some() => ReportState::Damaged,
            None if self.origin.report > 1 => ReportState::Unfinished,
            Some(footer) if !footer.complete => ReportState::Stopped,
            _ => ReportState::Complete,
        };
        Overview {
            report,
            state,
            damage: self.damage,
            origin: self.origin.clone(),
            footer: self.footer,
            receipts: self.counts,
            proofs: self.proofs,
            not_done,
            causes: self.causes,
        }
    }

    /// Checks that the footer was written for these lines.
    fn check_footer(&mut self) {
        let Some(footer) = &self.footer else { return };
        let sum = format!("{:016x}", self.sum.finalize());
        let lines = self.counts.lines;
        let is_changed = footer.lines.is_some_and(|counted| counted != lines)
            || footer.checksum.as_ref().is_some_and(|told| *told != sum);
        if is_changed && self.damage.is_none() {
            self.damage = Some("the footer was written for other lines".to_owned());
        }
        if self.is_full && self.damage.is_none() {
            tracing::warn!(
                "more than {MAX_OBJECTS} objects are not done; the others are not shown"
            );
        }
    }
}

/// The message that stands for the causes beyond [`MAX_CAUSES`].
const OTHER: &str = "other causes";
