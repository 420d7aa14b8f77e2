//! Merges the reports of the shards of a run into one.
//!
//! ```text
//!  shard 0: report-A, report-B ──┐
//!  shard 1: report-C           ──┼─ scan ─► verdicts ─ emit ─► header, one line per object, footer
//!  retries: report-D           ──┘
//! ```
//! A shard that ran several times has several reports. The latest one decides which objects exist.
//! An earlier one may have the better receipt of an object, with the proof of its copy. The report
//! of a retry covers some objects of any shards, and counts as later than all reports of shards.
//!
//! The merge reads the reports of each shard twice: first to decide which line of each object
//! counts (the verdicts), and then to copy these lines. Only the verdicts of one shard and of the
//! retries are in memory; if there are many, only one [`Partition`] of them. The result is an
//! ordinary report, which is produced line by line.

mod file;
mod fold;
mod scan;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use tokio::sync::mpsc;

pub use self::file::MergedFile;
use self::fold::{LineVerdict, ObjectHasher, Partition, Verdicts};
use self::scan::{NumberedLines, histories, scan};
use super::checksum;
use super::error::ReportError;
use super::frame::{Footer, FooterShards, ReportHeader, time_of_run};
use super::lines::ReportLines;
use super::read::{ReadError, ReceiptStatus};
use super::stored::{StoredReport, StoredRuns};
use crate::printable::cut;

/// The approximate maximum number of verdicts in memory.
const MAX_VERDICTS: u64 = 1 << 19;
/// The bytes of a chunk of the result.
const CHUNK: usize = 256 * 1024;
/// The maximum number of chunks that wait for the reader.
const WAITING: usize = 4;
/// The maximum number of incomplete shards that the footer names, because the last line of a report
/// must be short.
const MAX_NAMED: usize = 50;
/// The maximum number of damaged retries that the footer names. Their places may be long.
const MAX_NAMED_RETRIES: usize = 3;
/// The maximum number of bytes of each reason or damage in the footer.
const MAX_BYTES: usize = 160;

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

/// The reports of all retries of a run in shards.
#[derive(Clone, Debug, Default)]
pub struct LaterReports {
    /// The complete and readable reports, the oldest first.
    pub reports: Vec<LaterReport>,
    /// The damage of each unreadable report, by its place.
    pub damaged: BTreeMap<String, String>,
}

/// The shards to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeScope {
    /// All shards.
    All,
    /// The shards with an object that failed, was stopped, waits for a restore, or lost an
    /// attribute. The objects of other shards are only counted, from their footers.
    Undone,
}

/// The reports of all shards of a run.
#[derive(Clone, Debug)]
pub struct ReportMerge {
    place: String,
    origin: ReportHeader,
    shards: Arc<Vec<ShardReports>>,
    later: Arc<LaterReports>,
}

impl ReportMerge {
    /// Prepares a merge. Reads headers until one is usable, and reads more if that header does not
    /// name the histories. Returns `None` if there are no reports. `run` is the name of the merged
    /// run.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn open(
        place: String,
        run: &str,
        began: Timestamp,
        shards: Vec<ShardReports>,
        later: LaterReports,
    ) -> Result<Option<Self>, ReadError> {
        let reports = shards.iter().filter_map(|shard| shard.runs.reports.last());
        let mut origin = None;
        let mut damage = None;
        for report in reports {
            match header_of(report).await {
                Ok(header) => {
                    origin = Some(header);
                    break;
                }
                Err(error @ ReadError::Store(ReportError::Store { .. })) => return Err(error),
                // The merge names the damage of each shard.
                Err(error) => _ = damage.get_or_insert(error),
            }
        }
        let Some(origin) = origin else {
            return damage.map_or(Ok(None), Err);
        };
        let histories = histories(&origin, &shards, &later.reports).await?;
        Ok(Some(Self {
            place,
            origin: ReportHeader {
                histories,
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
            // Without any footer, the start is the best known end time.
            footer: empty_footer(self.origin.time.unwrap_or_default()),
            unfinished: BTreeMap::new(),
            damaged_retries: self.later.damaged.clone(),
        };
        tokio::spawn(task.run());
        let chunks = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        });
        ReportLines::of_chunks(self.place.clone(), chunks.boxed())
    }
}

/// Reads the header of a report.
async fn header_of(report: &StoredReport) -> Result<ReportHeader, ReadError> {
    let header = ReportLines::of_pieces(report).next().await?;
    serde_json::from_str(header.as_deref().unwrap_or_default()).map_err(|error| {
        ReadError::Foreign {
            place: report.location().to_string(),
            error: error.to_string(),
        }
    })
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
    /// The reader of the result was dropped.
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
    /// The places of retries whose reports are damaged, and the damages.
    damaged_retries: BTreeMap<String, String>,
}

impl MergeTask {
    async fn run(mut self) {
        if let Err(MergeStop::Report(error)) = self.make().await {
            // If the reader was dropped, the error does not matter.
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
        let later = &later.reports;
        let receipts = later.iter().map(|later| later.report.receipts()).sum();
        for (pass, partition) in Partition::outer(receipts, MAX_VERDICTS).enumerate() {
            let mut retries = Verdicts::new(&self.hasher, partition);
            for (number, later) in (0..).zip(later.iter()) {
                let damage = scan(&later.report, number, &mut retries, &self.merge.origin).await?;
                if let Some(damage) = damage {
                    let place = later.report.location().to_string();
                    self.damaged_retries.entry(place).or_insert(damage);
                }
            }
            let mut clean = Vec::new();
            let may_count = self.scope == MergeScope::Undone && partition.is_whole();
            for shard in shards.iter() {
                let clean = may_count.then_some(&mut clean);
                self.shard(shard, partition, &mut retries, pass == 0, clean)
                    .await?;
            }
            for (shard, footer) in clean {
                // A retry that listed its transfer again has lines about objects of such shards.
                if retries.has_unmet() {
                    self.shard(shard, partition, &mut retries, false, None)
                        .await?;
                } else {
                    self.count_footer(&footer);
                }
            }
            self.count(retries.iter());
            for (number, later) in (0..).zip(later.iter()) {
                self.emit(&later.report, &retries.lines_of(number)).await?;
            }
        }
        self.end(shards.len()).await
    }

    /// Adds the lines of a shard, or only adds the shard to `clean` if nothing of it is left to do.
    async fn shard<'s>(
        &mut self,
        shard: &'s ShardReports,
        partition: Partition,
        retries: &mut Verdicts,
        is_first_pass: bool,
        clean: Option<&mut Vec<(&'s ShardReports, Footer)>>,
    ) -> Result<(), MergeStop> {
        let reports = &shard.runs.reports;
        let mut latest = None;
        if let Some(report) = reports.last() {
            match report.footer().await {
                Ok(footer) => latest = footer,
                Err(error) => self.leave_unfinished(shard.shard, damaged(&error.into_damage()?)),
            }
        }
        if is_first_pass {
            self.begin_shard(shard, latest.as_ref());
        }
        let is_whole = latest.as_ref().is_some_and(|footer| footer.complete);
        if let ([_], Some(footer), Some(clean)) = (reports.as_slice(), &latest, clean)
            && is_clean(footer)
            && shard.runs.latest_damage().is_none()
        {
            clean.push((shard, footer.clone()));
            return Ok(());
        }
        let receipts = reports.iter().map(StoredReport::receipts).sum();
        for partition in partition.inner(receipts, MAX_VERDICTS) {
            let mut verdicts = Verdicts::new(&self.hasher, partition);
            let mut damages = Vec::new();
            for (number, report) in (0..).zip(reports) {
                let origin = &self.merge.origin;
                damages.push(scan(report, number, &mut verdicts, origin).await?);
            }
            let latest_damage = damages.last_mut().and_then(Option::take);
            if let Some(damage) = latest_damage {
                self.leave_unfinished(shard.shard, damaged(&damage));
            } else if let (true, Some(latest)) = (is_whole, reports.len().checked_sub(1)) {
                verdicts.drop_unseen_in(u32::try_from(latest).unwrap_or(u32::MAX));
            }
            if self.is_settled(latest.as_ref()) {
                verdicts.forget_lists();
            }
            verdicts.resolve_with_later(retries);
            self.count(verdicts.iter());
            for ((number, report), damage) in (0..).zip(reports).zip(damages) {
                let lines = verdicts.lines_of(number);
                // A damaged report of an earlier run does no harm if none of its lines count.
                if let Some(damage) = damage.filter(|_| !lines.is_empty()) {
                    self.leave_unfinished(shard.shard, damaged(&damage));
                }
                self.emit(report, &lines).await?;
            }
        }
        Ok(())
    }

    /// Adds the end of a shard's latest run to the footer.
    fn begin_shard(&mut self, shard: &ShardReports, latest: Option<&Footer>) {
        if let Some(footer) = latest {
            let Footer {
                time,
                excluded_objects,
                sessions,
                seconds,
                // The end of the merged run follows from the ends of all shards.
                exit: _,
                complete: _,
                // Counted by the objects, or by `count_footer`.
                done_objects: _,
                done_bytes: _,
                skipped_objects: _,
                failed_objects: _,
                objects_with_losses: _,
                stopped_objects: _,
                restoring_objects: _,
                archived_objects: _,
                // About the lines of this report only.
                shards: _,
                lines: _,
                checksum: _,
            } = footer;
            self.footer.time = self.footer.time.max(*time);
            self.footer.excluded_objects += excluded_objects;
            self.footer.sessions += sessions;
            self.footer.seconds += seconds;
        }
        let why = match (&shard.unfinished, shard.runs.latest_damage(), latest) {
            (Some(why), ..) => Some(why.clone()),
            (_, Some(damage), _) => Some(damaged(&damage.what)),
            (.., None) if shard.runs.reports.is_empty() => None,
            (.., None) => {
                Some("its report has no footer: it is still running, or was killed".to_owned())
            }
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

    /// Returns true if a retry of failed objects began after a shard ended. Such a retry repeats
    /// the lists that had failed.
    fn is_settled(&self, shard: Option<&Footer>) -> bool {
        let began = |later: &LaterReport| time_of_run(later.report.run());
        let mut later = self.merge.later.reports.iter();
        shard.is_some_and(|ended| later.any(|it| it.is_of_failures && began(it) > ended.time))
    }

    /// Counts the objects of these verdicts.
    fn count<'v>(&mut self, verdicts: impl Iterator<Item = &'v LineVerdict>) {
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

    /// Counts the objects of a clean shard from its footer, because its report is not read.
    fn count_footer(&mut self, told: &Footer) {
        let Footer {
            done_objects,
            done_bytes,
            skipped_objects,
            archived_objects,
            // A clean shard has none.
            failed_objects: _,
            objects_with_losses: _,
            stopped_objects: _,
            restoring_objects: _,
            // Added by `begin_shard`.
            time: _,
            excluded_objects: _,
            sessions: _,
            seconds: _,
            // About this report only.
            exit: _,
            complete: _,
            shards: _,
            lines: _,
            checksum: _,
        } = told;
        let footer = &mut self.footer;
        footer.done_objects += done_objects;
        footer.done_bytes = footer.done_bytes.saturating_add(*done_bytes);
        footer.skipped_objects += skipped_objects;
        footer.archived_objects += archived_objects;
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
        let reasons = self.unfinished.iter().take(MAX_NAMED);
        let footer = &mut self.footer;
        footer.shards = Some(FooterShards {
            total: number(shards),
            incomplete: number(self.unfinished.len()),
            reasons: reasons
                .map(|(shard, why)| (*shard, cut(why.clone(), MAX_BYTES)))
                .collect(),
            damaged_retries: self
                .damaged_retries
                .iter()
                .take(MAX_NAMED_RETRIES)
                .map(|(place, damage)| (place.clone(), cut(damage.clone(), MAX_BYTES)))
                .collect(),
        });
        let is_whole = self.unfinished.is_empty() && self.damaged_retries.is_empty();
        footer.complete = is_whole && footer.stopped_objects == 0;
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

/// Returns true if a shard with this footer has no objects left to retry.
fn is_clean(footer: &Footer) -> bool {
    let Footer {
        complete,
        failed_objects,
        stopped_objects,
        restoring_objects,
        objects_with_losses,
        // Objects with a final result.
        done_objects: _,
        done_bytes: _,
        skipped_objects: _,
        archived_objects: _,
        excluded_objects: _,
        // Other facts about the run.
        time: _,
        exit: _,
        sessions: _,
        seconds: _,
        shards: _,
        lines: _,
        checksum: _,
    } = footer;
    let left = [
        failed_objects,
        stopped_objects,
        restoring_objects,
        objects_with_losses,
    ];
    *complete && left == [&0; 4]
}

/// Returns the reason why a shard with this damage is not complete.
fn damaged(damage: &str) -> String {
    format!("its report is damaged: {damage}")
}
