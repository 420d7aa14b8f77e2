//! Merges the reports of the shards of a run into one.
//!
//! ```text
//!  shard 0: report-A, report-B ──┐
//!  shard 1: report-C           ──┼─ scan ─► verdicts ─ emit ─► header, one line per object, footer
//!  retries: report-D           ──┘
//! ```
//! A shard that ran several times has several reports. The latest one decides which objects there
//! are. An earlier one may have the better receipt of an object, with the proof of its copy. The
//! report of a retry is about some objects of any shards, and is later than those of the shards.
//!
//! The reports of each shard are read twice: first to decide which line of each object counts (the
//! verdicts), and then to copy these lines. Only the verdicts of one shard and of the retries are
//! in memory, and if there are many, only a part of them ([`Partition`]). The result is a report
//! like any other, and is produced line by line.

mod file;
mod fold;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use tokio::sync::mpsc;

pub use self::file::MergedFile;
use self::fold::{LatestLine, MergeLine, ObjectHasher, Partition, Verdicts};
use super::error::ReportError;
use super::frame::{Footer, FooterShards, ReportHeader, footer, is_gap, time_of_run};
use super::lines::ReportLines;
use super::read::{ReadError, ReceiptStatus};
use super::stored::{StoredReport, StoredRuns};
use super::{CountedLines, checksum};
use crate::printable::cut;

/// About the most objects whose verdicts are in memory at a time.
const AT_ONCE: u64 = 1 << 19;
/// The bytes of a chunk of the result.
const CHUNK: usize = 256 * 1024;
/// The most chunks that wait for the reader.
const WAITING: usize = 4;
/// The most incomplete shards that the footer names, because the last line of a report must be
/// short.
const MOST_NAMED: usize = 50;
/// The most bytes of the reason for each.
const MOST_BYTES: usize = 160;

/// The reports of one shard.
#[derive(Clone, Debug, Default)]
pub struct ShardReports {
    /// The shard.
    pub shard: u32,
    /// Its reports.
    pub runs: StoredRuns,
    /// The reason why the shard has not ended, even if its reports say otherwise.
    pub unfinished: Option<String>,
}

/// The report of a retry.
#[derive(Clone, Debug)]
pub struct LaterReport {
    /// The report.
    pub report: StoredReport,
    /// True if the retry was about failed objects, and not only about lost attributes.
    pub is_of_failures: bool,
}

/// The shards to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeScope {
    /// All shards.
    All,
    /// The shards with an object that failed, was stopped, waits for a restore, or lost an
    /// attribute. The objects of the others are only counted, from their footers.
    Undone,
}

/// The reports of all shards of a run.
#[derive(Clone, Debug)]
pub struct ReportMerge {
    place: String,
    origin: ReportHeader,
    shards: Arc<Vec<ShardReports>>,
    later: Arc<Vec<LaterReport>>,
}

impl ReportMerge {
    /// Prepares a merge, and reads the header of one of the reports. Returns `None` if there are no
    /// reports. `later` must be complete reports of retries, the oldest first. `run` is the name of
    /// the merged run.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn open(
        place: String,
        run: &str,
        began: Timestamp,
        shards: Vec<ShardReports>,
        later: Vec<LaterReport>,
    ) -> Result<Option<Self>, ReadError> {
        let mut reports = shards.iter().filter_map(|shard| shard.runs.reports.last());
        let Some(first) = reports.next() else {
            return Ok(None);
        };
        let header = ReportLines::of_pieces(first).next().await?;
        let origin: ReportHeader = serde_json::from_str(header.as_deref().unwrap_or_default())
            .map_err(|error| ReadError::Foreign {
                place: first.location().to_string(),
                error: error.to_string(),
            })?;
        Ok(Some(Self {
            place,
            origin: ReportHeader {
                run: run.to_owned(),
                time: Some(began),
                command: without_shard(origin.command),
                ..origin
            },
            shards: Arc::new(shards),
            later: Arc::new(later),
        }))
    }

    /// Returns the header of the result.
    #[must_use]
    pub fn origin(&self) -> &ReportHeader {
        &self.origin
    }

    /// Returns the lines of the result, which are produced as they are read.
    #[must_use]
    pub fn lines(&self, scope: MergeScope) -> ReportLines {
        let (chunks, receiver) = mpsc::channel(WAITING);
        let task = MergeTask {
            merge: self.clone(),
            scope,
            hasher: ObjectHasher::default(),
            chunks,
            chunk: Vec::new(),
            sum: checksum(),
            lines: 0,
            // If no report has a footer, the run has not gone further than its beginning.
            footer: empty_footer(self.origin.time.unwrap_or_default()),
            unfinished: BTreeMap::new(),
        };
        tokio::spawn(task.run());
        let chunks = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        });
        ReportLines::of_chunks(self.place.clone(), chunks.boxed())
    }
}

/// Returns the command of a shard without its `--shard`.
fn without_shard(command: Vec<String>) -> Vec<String> {
    let mut words = command.into_iter();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word == "--shard" {
            words.next();
        } else if !word.starts_with("--shard=") {
            kept.push(word);
        }
    }
    kept
}

fn empty_footer(time: Timestamp) -> Footer {
    Footer {
        time,
        exit: 0,
        complete: true,
        done_objects: 0,
        done_bytes: 0,
        skipped_objects: 0,
        failed_objects: 0,
        objects_with_losses: 0,
        stopped_objects: 0,
        restoring_objects: 0,
        archived_objects: 0,
        excluded_objects: 0,
        sessions: 0,
        seconds: 0.0,
        shards: None,
        lines: None,
        checksum: None,
    }
}

/// The reason why a merge ends early.
enum MergeStop {
    /// A report cannot be read.
    Report(ReportError),
    /// The reader of the result is gone.
    Unread,
}

impl From<ReportError> for MergeStop {
    fn from(error: ReportError) -> Self {
        Self::Report(error)
    }
}

/// The task that produces the lines of a merged report.
struct MergeTask {
    merge: ReportMerge,
    scope: MergeScope,
    hasher: ObjectHasher,
    chunks: mpsc::Sender<Result<Bytes, ReportError>>,
    /// The lines of the next chunk.
    chunk: Vec<u8>,
    /// The checksum of all lines so far.
    sum: crc_fast::Digest,
    /// The number of receipts so far.
    lines: u64,
    /// The footer so far.
    footer: Footer,
    /// The shards whose reports are not complete, and the reasons.
    unfinished: BTreeMap<u32, String>,
}

impl MergeTask {
    async fn run(mut self) {
        if let Err(MergeStop::Report(error)) = self.make().await {
            // If the reader is gone, the error does not matter.
            let _ = self.chunks.send(Err(error)).await;
        }
    }

    async fn make(&mut self) -> Result<(), MergeStop> {
        let damaged = |error: serde_json::Error| ReportError::Damaged {
            place: self.merge.place.clone(),
            what: error.to_string(),
        };
        let header = serde_json::to_string(&self.merge.origin).map_err(damaged)?;
        self.line(&header).await?;
        self.lines = 0;
        let (shards, later) = (
            Arc::clone(&self.merge.shards),
            Arc::clone(&self.merge.later),
        );
        let receipts = later.iter().map(|later| later.report.receipts()).sum();
        for (pass, partition) in Partition::outer(receipts, AT_ONCE).enumerate() {
            let mut retries = Verdicts::new(&self.hasher, partition);
            for (number, later) in (0..).zip(later.iter()) {
                scan(&later.report, number, &mut retries).await?;
            }
            for shard in shards.iter() {
                self.shard(shard, partition, &mut retries, pass == 0)
                    .await?;
            }
            self.count(retries.iter());
            for (number, later) in (0..).zip(later.iter()) {
                self.emit(&later.report, &retries.lines_of(number)).await?;
            }
        }
        self.end(shards.len()).await
    }

    /// Adds the lines of a shard.
    async fn shard(
        &mut self,
        shard: &ShardReports,
        partition: Partition,
        retries: &mut Verdicts,
        is_first_pass: bool,
    ) -> Result<(), MergeStop> {
        let reports = &shard.runs.reports;
        let latest = match reports.last() {
            Some(report) => report.footer().await?,
            None => None,
        };
        if is_first_pass {
            self.begin_shard(shard, latest.as_ref());
        }
        let is_whole = latest.as_ref().is_some_and(|footer| footer.complete);
        if let ([_], Some(footer)) = (reports.as_slice(), &latest)
            && self.scope == MergeScope::Undone
            && is_clean(footer)
            && shard.runs.damage.is_none()
        {
            if is_first_pass {
                self.count_footer(footer);
            }
            return Ok(());
        }
        let receipts = reports.iter().map(StoredReport::receipts).sum();
        for partition in partition.inner(receipts, AT_ONCE) {
            let mut verdicts = Verdicts::new(&self.hasher, partition);
            let mut damage = None;
            for (number, report) in (0..).zip(reports) {
                damage = scan(report, number, &mut verdicts).await?;
            }
            if let Some(damage) = damage {
                self.leave_unfinished(shard.shard, damage);
            } else if let (true, Some(latest)) = (is_whole, reports.len().checked_sub(1)) {
                verdicts.require_seen_in(u32::try_from(latest).unwrap_or(u32::MAX));
            }
            if self.is_settled(latest.as_ref()) {
                verdicts.forget_lists();
            }
            verdicts.give_way_to(retries);
            self.count(verdicts.iter());
            for (number, report) in (0..).zip(reports) {
                self.emit(report, &verdicts.lines_of(number)).await?;
            }
        }
        Ok(())
    }

    /// Adds the end of a shard's latest run to the footer.
    fn begin_shard(&mut self, shard: &ShardReports, latest: Option<&Footer>) {
        if let Some(footer) = latest {
            self.footer.time = self.footer.time.max(footer.time);
            self.footer.excluded_objects += footer.excluded_objects;
            self.footer.sessions += footer.sessions;
            self.footer.seconds += footer.seconds;
        }
        let why = match (&shard.unfinished, &shard.runs.damage, latest) {
            (Some(why), ..) => Some(why.clone()),
            (_, Some(damage), _) => Some(format!("its report is damaged: {damage}")),
            (.., None) if shard.runs.reports.is_empty() => None,
            (.., None) => Some("its report has no footer: it is at work, or was killed".to_owned()),
            (.., Some(footer)) if !footer.complete => {
                Some("it was stopped before its end".to_owned())
            }
            _ => None,
        };
        if let Some(why) = why {
            self.leave_unfinished(shard.shard, why);
        }
    }

    /// Records the first reason why a shard is not complete.
    fn leave_unfinished(&mut self, shard: u32, why: String) {
        self.unfinished.entry(shard).or_insert(why);
    }

    /// Returns true if a retry of failed objects began after a shard ended. It has repeated the
    /// lists that had failed.
    fn is_settled(&self, shard: Option<&Footer>) -> bool {
        let began = |later: &LaterReport| time_of_run(later.report.run());
        let mut later = self.merge.later.iter();
        shard.is_some_and(|ended| later.any(|it| it.is_of_failures && began(it) > ended.time))
    }

    /// Counts the objects of these verdicts.
    fn count<'v>(&mut self, verdicts: impl Iterator<Item = &'v LatestLine>) {
        let footer = &mut self.footer;
        for verdict in verdicts {
            match verdict.status {
                ReceiptStatus::Done => {
                    footer.done_objects += 1;
                    footer.done_bytes = footer.done_bytes.saturating_add(verdict.bytes);
                    footer.objects_with_losses += u64::from(verdict.has_losses);
                }
                ReceiptStatus::Skipped if verdict.is_archived => footer.archived_objects += 1,
                ReceiptStatus::Skipped => footer.skipped_objects += 1,
                ReceiptStatus::Restoring => footer.restoring_objects += 1,
                ReceiptStatus::Failed => footer.failed_objects += 1,
                ReceiptStatus::Stopped => footer.stopped_objects += 1,
            }
        }
    }

    /// Counts the objects of a shard by its footer, because its report is not read.
    fn count_footer(&mut self, told: &Footer) {
        let footer = &mut self.footer;
        footer.done_objects += told.done_objects;
        footer.done_bytes = footer.done_bytes.saturating_add(told.done_bytes);
        footer.skipped_objects += told.skipped_objects;
        footer.archived_objects += told.archived_objects;
    }

    /// Copies the lines of a report with these numbers.
    async fn emit(&mut self, report: &StoredReport, numbers: &[u64]) -> Result<(), MergeStop> {
        let mut numbers = numbers.iter().copied().peekable();
        let mut lines = NumberedLines::of(report);
        while numbers.peek().is_some() {
            match lines.next().await? {
                Some((number, Ok(line))) => {
                    if numbers.next_if_eq(&number).is_some() {
                        self.line(&line).await?;
                    }
                }
                Some((_, Err(_))) => {}
                None => {
                    let place = report.location().to_string();
                    let what = "it has become shorter while it was read".to_owned();
                    return Err(ReportError::Damaged { place, what }.into());
                }
            }
        }
        Ok(())
    }

    async fn line(&mut self, line: &str) -> Result<(), MergeStop> {
        self.lines += 1;
        for bytes in [line.as_bytes(), b"\n"] {
            self.sum.update(bytes);
            self.chunk.extend_from_slice(bytes);
        }
        if self.chunk.len() >= CHUNK {
            self.send().await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), MergeStop> {
        let chunk = std::mem::take(&mut self.chunk).into();
        let sent = self.chunks.send(Ok(chunk)).await;
        sent.map_err(|_| MergeStop::Unread)
    }

    /// Adds the footer.
    async fn end(&mut self, shards: usize) -> Result<(), MergeStop> {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let reasons = self.unfinished.iter().take(MOST_NAMED);
        let footer = &mut self.footer;
        footer.shards = Some(FooterShards {
            total: number(shards),
            incomplete: number(self.unfinished.len()),
            reasons: reasons
                .map(|(shard, why)| (*shard, cut(why.clone(), MOST_BYTES)))
                .collect(),
        });
        footer.complete = self.unfinished.is_empty() && footer.stopped_objects == 0;
        footer.exit = match (footer.complete, footer.failed_objects) {
            (false, _) => 4,
            (true, 0) if footer.restoring_objects > 0 => 5,
            (true, 0) => 0,
            (true, _) => 1,
        };
        footer.lines = Some(self.lines);
        footer.checksum = Some(format!("{:016x}", self.sum.finalize()));
        let line = footer.line().map_err(|error| ReportError::Damaged {
            place: self.merge.place.clone(),
            what: error.to_string(),
        })?;
        self.chunk.extend_from_slice(&line);
        self.send().await
    }
}

/// Returns true if no object of a shard with this footer is left to do.
fn is_clean(footer: &Footer) -> bool {
    let left = [
        footer.failed_objects,
        footer.stopped_objects,
        footer.restoring_objects,
        footer.objects_with_losses,
    ];
    footer.complete && left == [0; 4]
}

/// The lines of a report in S3, with their numbers.
struct NumberedLines {
    lines: ReportLines,
    number: u64,
}

impl NumberedLines {
    fn of(report: &StoredReport) -> Self {
        Self {
            lines: ReportLines::of_pieces(report),
            number: 0,
        }
    }

    /// Returns the next line with its number, or the reason why it cannot be used.
    async fn next(&mut self) -> Result<Option<(u64, Result<String, String>)>, ReportError> {
        self.number += 1;
        match self.lines.next().await {
            Ok(line) => Ok(line.map(|line| (self.number, Ok(line)))),
            Err(ReadError::Store(error @ ReportError::Store { .. })) => Err(error),
            Err(error) => Ok(Some((self.number, Err(error.to_string())))),
        }
    }
}

/// Reads a report into verdicts. Returns its first damage, if it has any.
async fn scan(
    report: &StoredReport,
    number: u32,
    verdicts: &mut Verdicts,
) -> Result<Option<String>, ReportError> {
    let mut lines = NumberedLines::of(report);
    let mut counted: Option<CountedLines> = None;
    let (mut damage, mut last) = (None, None);
    let mut wrong = |line: u64, what: &str| {
        damage.get_or_insert_with(|| format!("its report is damaged: line {line}: {what}"));
    };
    while let Some((at, line)) = lines.next().await? {
        let line = match line {
            Ok(line) => line,
            Err(what) => {
                wrong(at, &what);
                continue;
            }
        };
        let Some(counted) = &mut counted else {
            counted = Some(CountedLines::of_head(format!("{line}\n").as_bytes()));
            continue;
        };
        if last.is_some() {
            wrong(at, "it is behind the footer");
        } else if is_gap(&line) {
            wrong(at, "receipts of an earlier session are missing here");
        } else if let Ok(receipt) = serde_json::from_str::<MergeLine>(&line) {
            counted.lines += 1;
            counted.sum.update(line.as_bytes());
            counted.sum.update(b"\n");
            verdicts.take(number, at, &receipt);
        } else if let Some(footer) = footer(&line) {
            last = Some(footer);
        } else {
            wrong(at, "it is not a receipt");
        }
    }
    let (Some(footer), Some(counted)) = (last, counted) else {
        return Ok(damage);
    };
    let sum = format!("{:016x}", counted.sum.finalize());
    let is_changed = footer.lines.is_some_and(|lines| lines != counted.lines)
        || footer.checksum.is_some_and(|told| told != sum);
    if is_changed && damage.is_none() {
        damage = Some("its report is damaged: the footer was written for other lines".to_owned());
    }
    Ok(damage)
}
