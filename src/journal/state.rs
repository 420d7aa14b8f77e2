//! What has happened so far, folded from events by one pure function.
//!
//! [`RunState::apply`] is used while a run writes its journal and when the next session reads it, so that both see the same
//! state. The state does not grow with the number of objects. A range is walked in key order, so it is enough to know how
//! far the planner came and which of the planned objects are not over, range by range; both are bounded, because the executor looks only
//! so many objects ahead. (The other way round, "all is over up to here, and these beyond it are too", would not do: an
//! object of terabytes at the front would hold the mark for hours while millions end behind it.)
//!
//! The function is total: an event about something unknown changes nothing. A journal that was written must be readable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::{Ended, Event, FailedObject, InPlace, Passed, PlannedObject, RunInfo};
use super::uploads::{BegunUpload, Completing, OpenUpload, PartMarks};
use crate::location::ObjectKey;
use crate::pace::learned::Learned;
use crate::plan::cause::{CauseCounts, Failed};
use crate::plan::decide::Reason;
use crate::plan::loss::{LossCounts, whole};
use crate::plan::unchanged::Unchanged;

/// Failed objects that are kept with their message, the latest ones; all are counted and stand in the report.
const FAILURES_KEPT: usize = 20;
/// Of a message, no more characters than this are kept.
const MESSAGE_KEPT: usize = 500;

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// There is no run yet.
    #[default]
    Empty,
    /// A session is at work, or was when it was killed.
    Running,
    /// It was stopped in an orderly way and can go on.
    Stopped,
    /// It came to its end.
    Ended,
}

/// Everything that a journal says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// The run.
    pub run: Option<RunInfo>,
    /// Where it stands.
    pub phase: Phase,
    /// When it began.
    pub began: Option<Timestamp>,
    /// When the last event happened.
    pub last: Option<Timestamp>,
    /// How often it was gone on with.
    pub resumed: u32,
    /// When the last session began.
    #[serde(default)]
    pub session: Option<Timestamp>,
    /// How long the sessions before that one lasted, in milliseconds.
    #[serde(default)]
    pub worked_ms: u64,
    /// Transfers that are over.
    pub ended_transfers: BTreeSet<u32>,
    /// Ranges of the other transfers.
    pub ranges: BTreeMap<u32, RangeState>,
    /// Uploads that the server has, or may have; also those that an earlier run left.
    pub uploads: BTreeMap<u64, OpenUpload>,
    /// Sums.
    pub totals: Totals,
    /// The latest failures.
    pub failures: VecDeque<FailedObject>,
    /// The next number for an object or upload.
    pub next_id: u64,
    /// What the servers accept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<Remembered>,
}

/// What was learned about the servers, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// When.
    pub at: Timestamp,
    /// What.
    pub learned: Learned,
}

/// How far a range of keys is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RangeState {
    /// Its transfer, by position in the job.
    pub transfer: u32,
    /// Keys come in the order of their bytes.
    pub ordered: bool,
    /// All keys up to this one are known, and all of them are over but for the pending ones.
    pub passed: Option<ObjectKey>,
    /// Where it ends: the last key that may be in it. None is the last key of the transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<ObjectKey>,
    /// All keys are known.
    pub planned: bool,
    /// Planned objects that are not over, by number.
    pub pending: BTreeMap<u64, PlannedObject>,
}

/// Sums over a run, over all of its sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Objects found that were to be copied.
    pub planned_objects: u64,
    /// Their bytes.
    pub planned_bytes: u64,
    /// Objects copied or uploaded, and proven.
    pub done_objects: u64,
    /// Their bytes.
    pub done_bytes: u64,
    /// Those of them that were changed in place.
    pub in_place_objects: u64,
    /// Versions that are left of what these were before.
    pub old_versions: u64,
    /// Their parts.
    pub parts: u64,
    /// Objects that the destination has.
    pub skipped_objects: u64,
    /// Their bytes.
    pub skipped_bytes: u64,
    /// By what they were found equal.
    pub unchanged: Unchanged,
    /// Copied objects by the reason for which they were copied.
    pub reasons: BTreeMap<Reason, u64>,
    /// Objects in an archive that are left out.
    pub archived_objects: u64,
    /// Objects in an archive that are being restored.
    pub restoring_objects: u64,
    /// Their bytes.
    pub restoring_bytes: u64,
    /// Objects that the selection leaves out.
    pub excluded_objects: u64,
    /// What is no object or regular file.
    pub ignored: u64,
    /// Objects that failed.
    pub failed_objects: u64,
    /// Objects of which something could not be kept.
    pub objects_with_losses: u64,
    /// What could not be kept, and of how many objects.
    #[serde(with = "whole")]
    pub losses: LossCounts,
    /// Objects by the proof that they rest on.
    pub proofs: BTreeMap<String, u64>,
    /// Failed objects by the kind of failure.
    pub failures: BTreeMap<String, u64>,
    /// The same by cause.
    pub causes: CauseCounts,
}

impl RunState {
    /// Takes an event in that happened at a time.
    pub fn apply(&mut self, at: Timestamp, event: &Event) {
        let before = self.last.replace(at);
        match event {
            Event::RunBegan(info) => {
                *self = Self {
                    run: Some(info.clone()),
                    phase: Phase::Running,
                    began: Some(at),
                    last: Some(at),
                    session: Some(at),
                    uploads: std::mem::take(&mut self.uploads),
                    next_id: self.next_id,
                    ..Self::default()
                };
            }
            Event::RunResumed => {
                self.phase = Phase::Running;
                self.resumed += 1;
                self.worked_ms = self.worked_ms.saturating_add(between(self.session, before));
                self.session = Some(at);
                // A list without order can not be gone on with in its middle: it is read again, and finds these again.
                for range in self.ranges.values_mut().filter(|range| !range.ordered && !range.planned) {
                    range.pending.clear();
                }
            }
            Event::JobChanged(fingerprint) => {
                if let Some(run) = &mut self.run {
                    run.fingerprint.clone_from(fingerprint);
                }
            }
            Event::RunStopped => self.phase = Phase::Stopped,
            Event::RunEnded => self.phase = Phase::Ended,
            Event::PaceLearned(learned) => self.learned = Some(Remembered { at, learned: learned.clone() }),
            Event::RangeBegan { range, transfer, ordered } => {
                let fresh = RangeState { transfer: *transfer, ordered: *ordered, ..RangeState::default() };
                self.ranges.retain(|_, other| other.transfer != *transfer);
                self.ranges.insert(*range, fresh);
            }
            Event::KeysPassed(passed) => self.pass(passed),
            Event::RangePlanned { range } => {
                if let Some(range) = self.ranges.get_mut(range) {
                    range.planned = true;
                }
                self.forget(*range);
            }
            Event::RangeCut { range, at, new } => {
                let Some(cut) = self.ranges.get_mut(range) else { return };
                let (passed, until) = (Some(at.clone()), cut.until.replace(at.clone()));
                let transfer = cut.transfer;
                let behind = RangeState { transfer, ordered: true, passed, until, ..RangeState::default() };
                self.ranges.insert(*new, behind);
            }
            Event::TransferEnded { transfer } => {
                self.ended_transfers.insert(*transfer);
                self.ranges.retain(|_, range| range.transfer != *transfer);
            }
            Event::ObjectPlanned { range, object, entry } => {
                self.next_id = self.next_id.max(object.saturating_add(1));
                let Some(range) = self.ranges.get_mut(range) else { return };
                if range.ordered {
                    range.passed = Some(entry.key.clone());
                }
                range.pending.insert(*object, entry.clone());
                self.totals.planned_objects += 1;
                self.totals.planned_bytes += entry.size;
            }
            Event::ObjectEnded { range, object, ended, receipt: _ } => {
                if let (Some(range), Some(object)) = (self.ranges.get_mut(range), object) {
                    range.pending.remove(object);
                }
                self.forget(*range);
                self.end(ended);
            }
            _ => self.apply_to_upload(at, event),
        }
    }

    /// Drops a range with which nothing is left to do, unless it is the last one of its transfer, which says that all keys are
    /// known. So there are no more ranges than are being listed or have pending objects.
    fn forget(&mut self, range: u32) {
        let Some(over) = self.ranges.get(&range).filter(|range| range.planned && range.pending.is_empty())
        else {
            return;
        };
        if self.ranges.values().filter(|other| other.transfer == over.transfer).count() > 1 {
            self.ranges.remove(&range);
        }
    }

    fn apply_to_upload(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::UploadIntended { upload, object, place, server } => {
                self.next_id = self.next_id.max(upload.saturating_add(1));
                let (place, server) = (place.clone(), server.clone());
                let open = OpenUpload { object: *object, place, server, intended: at, begun: None };
                self.uploads.insert(*upload, open);
            }
            Event::UploadBegan { upload, id, source, parts, attributes, kms, losses, claimed } => {
                let Some(open) = self.uploads.get_mut(upload) else { return };
                open.begun = Some(BegunUpload {
                    id: id.clone(),
                    source: source.clone(),
                    parts: parts.clone(),
                    attributes: attributes.clone(),
                    kms: *kms,
                    losses: losses.clone(),
                    claimed: *claimed,
                    stored: PartMarks::default(),
                    stored_bytes: 0,
                    completing: None,
                });
            }
            Event::PartStored { upload, number, size, etag } => {
                if let Some(begun) = self.begun(*upload)
                    && begun.stored.insert(*number, etag)
                {
                    begun.stored_bytes += size;
                }
            }
            Event::CompleteIntended { upload, etag } => {
                if let Some(begun) = self.begun(*upload) {
                    begun.completing = Some(Completing { etag: etag.clone() });
                }
            }
            Event::UploadEnded { upload } => {
                self.uploads.remove(upload);
            }
            _ => {}
        }
    }

    fn begun(&mut self, upload: u64) -> Option<&mut BegunUpload> {
        self.uploads.get_mut(&upload)?.begun.as_mut()
    }

    fn pass(&mut self, passed: &Passed) {
        if let Some(range) = self.ranges.get_mut(&passed.range)
            && range.ordered
            && passed.to.is_some()
        {
            range.passed.clone_from(&passed.to);
        }
        self.totals.skipped_objects += passed.skipped_objects;
        self.totals.skipped_bytes += passed.skipped_bytes;
        self.totals.unchanged.merge(&passed.unchanged);
        self.totals.archived_objects += passed.archived_objects;
        self.totals.excluded_objects += passed.excluded_objects;
        self.totals.ignored += passed.ignored;
    }

    fn end(&mut self, ended: &Ended) {
        let totals = &mut self.totals;
        match ended {
            Ended::Done { bytes, parts, proof, reason, losses, in_place } => {
                totals.done_objects += 1;
                totals.in_place_objects += u64::from(in_place.is_some());
                totals.old_versions += u64::from(*in_place == Some(InPlace::OldVersionLeft));
                totals.done_bytes += bytes;
                totals.parts += u64::from(*parts);
                totals.objects_with_losses += u64::from(!losses.is_empty());
                for loss in losses {
                    totals.losses.add(loss);
                }
                *totals.proofs.entry(proof.clone()).or_default() += 1;
                if let Some(reason) = reason {
                    *totals.reasons.entry(*reason).or_default() += 1;
                }
            }
            Ended::Skipped { archived: true, .. } => totals.archived_objects += 1,
            Ended::Skipped { bytes, archived: false, unchanged } => {
                totals.skipped_objects += 1;
                totals.skipped_bytes += bytes;
                totals.unchanged.merge(unchanged);
            }
            Ended::Restoring { bytes } => {
                totals.restoring_objects += 1;
                totals.restoring_bytes += bytes;
            }
            Ended::Failed(failed) => {
                totals.failed_objects += 1;
                *totals.failures.entry(failed.kind.clone()).or_default() += 1;
                totals.causes.add(&Failed {
                    operation: &failed.operation,
                    code: &failed.code,
                    message: &failed.message,
                    source: &failed.source,
                    destination: &failed.destination,
                });
                if self.failures.len() == FAILURES_KEPT {
                    self.failures.pop_front();
                }
                let message = failed.message.chars().take(MESSAGE_KEPT).collect();
                self.failures.push_back(FailedObject { message, ..failed.clone() });
            }
        }
    }

    /// What a new run takes over from this one: no more than its open uploads.
    #[must_use]
    pub fn left_behind(self) -> Self {
        let Self { last, uploads, next_id, .. } = self;
        Self { last, uploads, next_id, ..Self::default() }
    }

    /// True when there is a run that can be gone on with.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Stopped)
    }

    /// How long all sessions so far were at work, in milliseconds. One that was killed counts until it was heard of last.
    #[must_use]
    pub fn session_ms(&self) -> u64 {
        self.worked_ms.saturating_add(between(self.session, self.last))
    }

    /// The ranges of a transfer, by number.
    pub fn ranges_of(&self, transfer: u32) -> impl Iterator<Item = (u32, &RangeState)> {
        let ranges = self.ranges.iter().filter(move |(_, range)| range.transfer == transfer);
        ranges.map(|(number, range)| (*number, range))
    }

    /// Objects that were planned and are not over, over all ranges.
    #[must_use]
    pub fn pending_objects(&self) -> usize {
        self.ranges.values().map(|range| range.pending.len()).sum()
    }

    /// Bytes of all stored parts of open uploads.
    #[must_use]
    pub fn open_bytes(&self) -> u64 {
        self.uploads.values().filter_map(|open| open.begun.as_ref()).map(|begun| begun.stored_bytes).sum()
    }

    /// The open uploads of an object, the latest last. More than one only if an abort failed.
    pub fn uploads_of(&self, object: u64) -> impl Iterator<Item = (u64, &OpenUpload)> {
        self.uploads
            .iter()
            .filter(move |(_, open)| open.object == object)
            .map(|(upload, open)| (*upload, open))
    }
}

/// Milliseconds; none when a clock was set back, or nothing has happened.
fn between(from: Option<Timestamp>, until: Option<Timestamp>) -> u64 {
    let took = from.zip(until).map(|(from, until)| until.as_millisecond() - from.as_millisecond());
    took.and_then(|took| u64::try_from(took).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
