//! The state of a run, folded from its events by one pure function.
//!
//! The writer calls [`RunState::apply`] during a run, and the next session calls it when it reads
//! the journal, so both compute the same state. The state does not grow with the number of objects.
//! A range is listed in key order, so per range the state holds only the last planned key and the
//! planned objects that have not ended. Their number is bounded, because the planner runs only a
//! limited number of objects ahead. (A low-water mark below which all objects have ended, with a
//! list of the objects that ended above it, would not be bounded: one object of terabytes would
//! hold the mark for hours while millions end above it.)
//!
//! The function is total: an event about something unknown changes nothing. So every journal that
//! could be written can be read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::{Ended, FailedObject, JournalEvent, Passed, PlannedObject, RunInfo, is_zero};
use super::sample::{RecordedObject, Sample};
pub use super::tally::{RunTotals, Tally};
use super::unproven::UnprovenCopies;
use super::uploads::{Completing, JournaledUpload, Kept, PartMarks, UploadDetails};
use crate::location::ObjectKey;
use crate::pace::learned::Learned;

/// The number of failed objects that are kept with their messages. Later failures replace earlier
/// ones; the report has all.
const FAILURES_KEPT: usize = 20;
/// The number of characters to which a kept message is truncated.
const MESSAGE_KEPT: usize = 500;

/// The phase of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No run has begun.
    #[default]
    Empty,
    /// A session is running, or was killed while it ran.
    Running,
    /// The run was stopped in an orderly way, and can be resumed.
    Stopped,
    /// The run ended by itself.
    Ended,
}

/// The state that a journal records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// The run.
    pub run: Option<RunInfo>,
    /// Its phase.
    pub phase: Phase,
    /// The time at which it began.
    pub began: Option<Timestamp>,
    /// The time of the last event.
    pub last: Option<Timestamp>,
    /// The number of times that the run was resumed.
    pub resumed: u32,
    /// The time at which the last session began.
    #[serde(default)]
    pub session: Option<Timestamp>,
    /// The total duration of all earlier sessions, in milliseconds.
    #[serde(default)]
    pub worked_ms: u64,
    /// The transfers that have ended.
    pub ended_transfers: BTreeSet<u32>,
    /// The ranges of the other transfers.
    pub ranges: BTreeMap<u32, RangeState>,
    /// Uploads that the server has or may have, including those of an earlier run.
    pub uploads: BTreeMap<u64, JournaledUpload>,
    /// The sums over all objects.
    pub totals: RunTotals,
    /// The counts of the transfers that have not ended.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tallies: BTreeMap<u32, Tally>,
    /// Some of the objects that were copied or found equal. The next session checks that the
    /// destination still has them.
    #[serde(default, skip_serializing_if = "Sample::is_empty")]
    pub sample: Sample,
    /// The number of objects that ended without a receipt, because their session wrote no report.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unreported: u64,
    /// The latest failures.
    pub failures: VecDeque<FailedObject>,
    /// The next number for an object or upload.
    pub next_id: u64,
    /// The copies of this run and of earlier ones that failed their proof and were kept.
    #[serde(default, skip_serializing_if = "UnprovenCopies::is_empty")]
    pub unproven: UnprovenCopies,
    /// The rates that the servers accept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<Remembered>,
}

/// The learned rates of the servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// The time at which they were recorded.
    pub at: Timestamp,
    /// The rates.
    pub learned: Learned,
}

/// The progress of a range of keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RangeState {
    /// The transfer of the range, by position in the job.
    pub transfer: u32,
    /// True if keys come in the order of their bytes.
    pub ordered: bool,
    /// The last key that was planned. All objects up to it have ended, except the pending ones.
    pub passed: Option<ObjectKey>,
    /// The last key that may be in the range; `None` if the range ends with the transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<ObjectKey>,
    /// True once all keys are known.
    pub planned: bool,
    /// The planned objects that have not ended, by number.
    pub pending: BTreeMap<u64, PlannedObject>,
}

impl RunState {
    /// Applies an event that happened at the time `at`.
    pub fn apply(&mut self, at: Timestamp, event: &JournalEvent) {
        let before = self.last.replace(at);
        match event {
            JournalEvent::RunBegan(info) => {
                *self = Self {
                    run: Some(info.clone()),
                    phase: Phase::Running,
                    began: Some(at),
                    last: Some(at),
                    session: Some(at),
                    uploads: for_next_run(std::mem::take(&mut self.uploads)),
                    next_id: self.next_id,
                    unproven: std::mem::take(&mut self.unproven),
                    ..Self::default()
                };
            }
            JournalEvent::RunResumed => {
                self.phase = Phase::Running;
                self.resumed += 1;
                self.worked_ms = self.worked_ms.saturating_add(between(self.session, before));
                self.session = Some(at);
                self.restart_unordered_ranges();
            }
            JournalEvent::JobChanged(fingerprint) => {
                if let Some(run) = &mut self.run {
                    run.fingerprint.clone_from(fingerprint);
                }
            }
            JournalEvent::RunStopped => self.phase = Phase::Stopped,
            JournalEvent::RunEnded => self.phase = Phase::Ended,
            JournalEvent::PaceLearned(learned) => {
                self.learned = Some(Remembered {
                    at,
                    learned: learned.clone(),
                });
            }
            JournalEvent::RangeBegan { .. }
            | JournalEvent::RangeCut { .. }
            | JournalEvent::KeysPassed(_)
            | JournalEvent::RangePlanned { .. }
            | JournalEvent::TransferEnded { .. }
            | JournalEvent::ObjectPlanned { .. }
            | JournalEvent::ObjectEnded { .. } => self.apply_to_range(at, event),
            JournalEvent::UploadIntended { .. }
            | JournalEvent::UploadBegan { .. }
            | JournalEvent::PartStored { .. }
            | JournalEvent::CompleteIntended { .. }
            | JournalEvent::UploadEnded { .. }
            | JournalEvent::UploadKept { .. } => self.apply_to_upload(at, event),
        }
    }

    /// Drops the pending objects of unordered lists. An unordered list cannot resume in the middle,
    /// so it starts over and finds these objects again.
    fn restart_unordered_ranges(&mut self) {
        for range in self
            .ranges
            .values_mut()
            .filter(|range| !range.ordered && !range.planned)
        {
            range.pending.clear();
        }
    }

    fn apply_to_range(&mut self, at: Timestamp, event: &JournalEvent) {
        match event {
            JournalEvent::RangeBegan {
                range,
                transfer,
                ordered,
                after,
                until,
            } => {
                let fresh = RangeState {
                    transfer: *transfer,
                    ordered: *ordered,
                    passed: after.clone(),
                    until: until.clone(),
                    ..RangeState::default()
                };
                self.ranges.retain(|_, other| other.transfer != *transfer);
                self.ranges.insert(*range, fresh);
                self.relist(*transfer);
            }
            JournalEvent::KeysPassed(passed) => {
                self.unreported += passed
                    .objects()
                    .saturating_sub(passed.receipts.len() as u64);
                self.pass(at, passed);
            }
            JournalEvent::RangePlanned { range } => {
                if let Some(range) = self.ranges.get_mut(range) {
                    range.planned = true;
                }
                self.drop_finished(*range);
            }
            JournalEvent::RangeCut { range, at, new } => {
                let Some(cut) = self.ranges.get_mut(range) else {
                    return;
                };
                let (passed, until) = (Some(at.clone()), cut.until.replace(at.clone()));
                let transfer = cut.transfer;
                let behind = RangeState {
                    transfer,
                    ordered: true,
                    passed,
                    until,
                    ..RangeState::default()
                };
                self.ranges.insert(*new, behind);
            }
            JournalEvent::TransferEnded { transfer } => {
                self.ended_transfers.insert(*transfer);
                self.ranges.retain(|_, range| range.transfer != *transfer);
                self.tallies.remove(transfer);
            }
            JournalEvent::ObjectPlanned {
                range,
                object,
                entry,
            } => {
                self.next_id = self.next_id.max(object.saturating_add(1));
                let Some(range) = self.ranges.get_mut(range) else {
                    return;
                };
                if range.ordered {
                    range.passed = Some(entry.key.clone());
                }
                range.pending.insert(*object, entry.clone());
                let transfer = range.transfer;
                self.totals.plan(entry.size);
                self.tallies
                    .entry(transfer)
                    .or_default()
                    .void
                    .plan(entry.size);
            }
            JournalEvent::ObjectEnded {
                range,
                object,
                ended,
                receipt,
            } => {
                self.unreported += u64::from(receipt.is_none());
                self.end(at, *range, *object, ended);
            }
            JournalEvent::RunBegan(_)
            | JournalEvent::RunResumed
            | JournalEvent::JobChanged(_)
            | JournalEvent::RunStopped
            | JournalEvent::RunEnded
            | JournalEvent::UploadIntended { .. }
            | JournalEvent::UploadBegan { .. }
            | JournalEvent::PartStored { .. }
            | JournalEvent::CompleteIntended { .. }
            | JournalEvent::UploadEnded { .. }
            | JournalEvent::UploadKept { .. }
            | JournalEvent::PaceLearned(_) => {}
        }
    }

    /// Drops a range without remaining work, unless it is the last one of its transfer, which shows
    /// that all keys are known. So every other range is being listed or has pending objects.
    fn drop_finished(&mut self, range: u32) {
        let Some(over) = self
            .ranges
            .get(&range)
            .filter(|range| range.planned && range.pending.is_empty())
        else {
            return;
        };
        if self
            .ranges
            .values()
            .filter(|other| other.transfer == over.transfer)
            .count()
            > 1
        {
            self.ranges.remove(&range);
        }
    }

    fn apply_to_upload(&mut self, at: Timestamp, event: &JournalEvent) {
        match event {
            JournalEvent::UploadIntended {
                upload,
                object,
                place,
                server,
            } => {
                self.next_id = self.next_id.max(upload.saturating_add(1));
                let (place, server) = (place.clone(), server.clone());
                let open = JournaledUpload {
                    object: *object,
                    place,
                    server,
                    intended: at,
                    kept: Kept::No,
                    created: None,
                };
                self.uploads.insert(*upload, open);
            }
            JournalEvent::UploadBegan {
                upload,
                id,
                source,
                parts,
                attributes,
                kms,
                losses,
                adopted,
            } => {
                let Some(open) = self.uploads.get_mut(upload) else {
                    return;
                };
                open.created = Some(UploadDetails {
                    id: id.clone(),
                    source: source.clone(),
                    parts: parts.clone(),
                    attributes: attributes.clone(),
                    kms: *kms,
                    losses: losses.clone(),
                    adopted: *adopted,
                    stored: PartMarks::default(),
                    stored_bytes: 0,
                    completing: None,
                });
            }
            JournalEvent::PartStored {
                upload,
                number,
                size,
                etag,
            } => {
                if let Some(created) = self.created(*upload)
                    && created.stored.insert(*number, etag)
                {
                    created.stored_bytes += size;
                }
            }
            JournalEvent::CompleteIntended { upload, etag } => {
                if let Some(created) = self.created(*upload) {
                    created.completing = Some(Completing { etag: etag.clone() });
                }
            }
            JournalEvent::UploadEnded { upload } => {
                self.uploads.remove(upload);
            }
            JournalEvent::UploadKept { upload } => {
                if let Some(open) = self.uploads.get_mut(upload) {
                    open.kept = Kept::ForNextRun;
                }
            }
            JournalEvent::RunBegan(_)
            | JournalEvent::RunResumed
            | JournalEvent::JobChanged(_)
            | JournalEvent::RunStopped
            | JournalEvent::RunEnded
            | JournalEvent::RangeBegan { .. }
            | JournalEvent::RangeCut { .. }
            | JournalEvent::KeysPassed(_)
            | JournalEvent::RangePlanned { .. }
            | JournalEvent::TransferEnded { .. }
            | JournalEvent::ObjectPlanned { .. }
            | JournalEvent::ObjectEnded { .. }
            | JournalEvent::PaceLearned(_) => {}
        }
    }

    fn created(&mut self, upload: u64) -> Option<&mut UploadDetails> {
        self.uploads.get_mut(&upload)?.created.as_mut()
    }

    fn pass(&mut self, at: Timestamp, passed: &Passed) {
        let Some(range) = self.ranges.get_mut(&passed.range) else {
            return self.totals.pass(passed);
        };
        if range.ordered && passed.to.is_some() {
            range.passed.clone_from(&passed.to);
        }
        let transfer = range.transfer;
        let each = passed.skipped_objects / (passed.equal.len() as u64).max(1);
        for entry in &passed.equal {
            let copied = RecordedObject {
                transfer,
                found: true,
                at,
                bytes: entry.size,
                entry: entry.clone(),
            };
            self.sample.take_for(copied, each);
        }
        self.totals.pass(passed);
        self.tallies.entry(transfer).or_default().void.pass(passed);
    }

    /// Records the ending of an object, which has a number if it was planned.
    fn end(&mut self, at: Timestamp, number: u32, object: Option<u64>, ended: &Ended) {
        self.totals.end(ended);
        self.unproven.take(ended);
        if let Some(range) = self.ranges.get_mut(&number) {
            let transfer = range.transfer;
            let entry = object.and_then(|object| range.pending.remove(&object));
            let planned = entry.as_ref().map(|entry| entry.size);
            self.tallies
                .entry(transfer)
                .or_default()
                .end(ended, planned);
            if let (Some(entry), Some((bytes, found))) = (entry, ended.is_there()) {
                self.sample.take(RecordedObject {
                    transfer,
                    found,
                    at,
                    bytes,
                    entry,
                });
            }
        }
        self.drop_finished(number);
        if let Ended::Failed(failed) = ended {
            if self.failures.len() == FAILURES_KEPT {
                self.failures.pop_front();
            }
            let message = failed.message.chars().take(MESSAGE_KEPT).collect();
            self.failures.push_back(FailedObject {
                message,
                ..failed.clone()
            });
        }
    }

    /// Subtracts the counts of a transfer whose list starts over, because the new list counts these
    /// objects again. Returns the number of objects that stay in the sums although the new list
    /// finds them too.
    pub fn relist(&mut self, transfer: u32) -> u64 {
        let Some(tally) = self.tallies.get_mut(&transfer) else {
            return 0;
        };
        self.totals.take_back(&std::mem::take(&mut tally.void));
        tally.settled
    }

    /// Returns the state that a new run takes over from this one: its open uploads, and the copies
    /// that failed their proof.
    #[must_use]
    pub fn left_behind(self) -> Self {
        let Self {
            last,
            uploads,
            next_id,
            unproven,
            ..
        } = self;
        Self {
            last,
            uploads: for_next_run(uploads),
            next_id,
            unproven,
            ..Self::default()
        }
    }

    /// Returns true if there is a run to resume.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Stopped)
    }

    /// Returns the total duration of all sessions so far, in milliseconds. A session that was
    /// killed counts up to its last event.
    #[must_use]
    pub fn session_ms(&self) -> u64 {
        self.worked_ms
            .saturating_add(between(self.session, self.last))
    }

    /// Returns the ranges of a transfer, by number.
    pub fn ranges_of(&self, transfer: u32) -> impl Iterator<Item = (u32, &RangeState)> {
        let ranges = self
            .ranges
            .iter()
            .filter(move |(_, range)| range.transfer == transfer);
        ranges.map(|(number, range)| (*number, range))
    }

    /// Returns the number of planned objects that have not ended, over all ranges.
    #[must_use]
    pub fn pending_objects(&self) -> usize {
        self.ranges.values().map(|range| range.pending.len()).sum()
    }

    /// Returns the bytes of the planned objects that have not ended.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        let pending = self
            .ranges
            .values()
            .flat_map(|range| range.pending.values());
        pending.fold(0, |bytes, object| bytes.saturating_add(object.size))
    }

    /// Returns the bytes of all stored parts of open uploads.
    #[must_use]
    pub fn open_bytes(&self) -> u64 {
        self.open_bytes_of_uploads().map(|(_, bytes)| bytes).sum()
    }

    /// Returns the bytes of the stored parts of each open upload, by its number.
    pub(crate) fn open_bytes_of_uploads(&self) -> impl Iterator<Item = (u64, u64)> {
        let created = |(upload, open): (&u64, &JournaledUpload)| {
            Some((*upload, open.created.as_ref()?.stored_bytes))
        };
        self.uploads.iter().filter_map(created)
    }
}

/// Returns the open uploads for a new run.
fn for_next_run(mut uploads: BTreeMap<u64, JournaledUpload>) -> BTreeMap<u64, JournaledUpload> {
    for open in uploads.values_mut() {
        open.kept = open.kept.in_next_run();
    }
    uploads
}

/// Returns the milliseconds between two times, or 0 if one is missing or the clock was set back.
fn between(from: Option<Timestamp>, until: Option<Timestamp>) -> u64 {
    let took = from
        .zip(until)
        .map(|(from, until)| until.as_millisecond() - from.as_millisecond());
    took.and_then(|took| u64::try_from(took).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
