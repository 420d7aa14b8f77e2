//! The outcome of a run, counted receipt by receipt.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::receipt::{COPIED_BEFORE, Ending, MAY_BE_OURS, Proof, Receipt};
use crate::journal::state::RunState;
use crate::pace::PaceCounts;
use crate::plan::cause::{CauseCounts, Failed, as_list};
use crate::plan::decide::{Reason, Skip};
use crate::plan::empty::EmptySelection;
use crate::plan::loss::LossCounts;
use crate::plan::unchanged::Unchanged;
use crate::plan::unlisted::{Cause, UnlistedCounts};

/// The outcome of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Outcome {
    /// Objects copied or uploaded, and proven; versions where all of them are copied.
    pub done_objects: u64,
    /// Delete markers written.
    pub delete_markers: u64,
    /// Their bytes.
    pub done_bytes: u64,
    /// Those of them that were changed in place, and not copied anywhere.
    pub in_place_objects: u64,
    /// Versions that their buckets keep of what these were before.
    pub old_versions: u64,
    /// Their parts.
    pub parts: u64,
    /// Objects that an earlier session of the run copied without recording it, and that this
    /// session proved.
    pub recovered_objects: u64,
    /// Objects that an earlier session of the run may have copied, and that were left alone.
    pub maybe_recovered_objects: u64,
    /// Objects left alone because the destination has them.
    pub skipped_objects: u64,
    /// Their bytes.
    pub skipped_bytes: u64,
    /// By what they were found equal.
    pub unchanged: Unchanged,
    /// Copied objects by the reason for which they were copied.
    pub reasons: BTreeMap<Reason, u64>,
    /// Objects left out because they are in an archive and the job says `archived: skip`.
    pub archived_objects: u64,
    /// Objects in an archive that are being restored, for a later run to copy.
    pub restoring_objects: u64,
    /// Their bytes.
    pub restoring_bytes: u64,
    /// Objects that the selections left out.
    pub excluded_objects: u64,
    /// Entries that are not an object or a regular file.
    pub ignored: u64,
    /// Objects that failed.
    pub failed_objects: u64,
    /// The causes of their failures, the most frequent one first.
    #[serde(rename = "failures", serialize_with = "as_list")]
    pub causes: CauseCounts,
    /// Those failures of this session that were lists.
    #[serde(skip)]
    pub unlisted: UnlistedCounts,
    /// Objects that a stop left undone, as far as they were known.
    pub stopped_objects: u64,
    /// Copied objects of which something could not be kept.
    pub objects_with_losses: u64,
    /// The attributes that could not be kept, with the number of objects.
    pub losses: LossCounts,
    /// Observations that the user probably did not intend, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Selections that matched nothing.
    pub empty: Vec<EmptySelection>,
    /// True when the run was stopped before its end.
    pub stopped: bool,
    /// The reason why the run gave up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gave_up: Option<GaveUp>,
    /// Objects by the proof that they rest on.
    pub proofs: BTreeMap<String, u64>,
    /// Sessions that the run took.
    pub sessions: u32,
    /// The objects that earlier sessions copied; `None` in the first session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier: Option<Earlier>,
    /// Requests, throttles and retries of the last session.
    pub requests: PaceCounts,
    /// Seconds at work, over all sessions. One that was killed counts until it was heard of last.
    pub seconds: f64,
}

/// The objects that earlier sessions of a run copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Earlier {
    /// Objects that they copied and proved.
    pub objects: u64,
    /// The time of the last event of the last of these sessions.
    pub until: Timestamp,
    /// Objects of which this session saw before it began that they are still there.
    pub seen: u64,
}

/// The reason why a run gave up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GaveUp {
    /// A sentence for the summary.
    pub reason: String,
    /// True if nothing has to be corrected, and the same run may succeed later.
    pub may_pass_later: bool,
}

impl From<&RunState> for Outcome {
    /// Returns the outcome of the earlier sessions of the run, which this one adds to.
    fn from(state: &RunState) -> Self {
        let (totals, earlier) = (&state.totals, Duration::from_millis(state.session_ms()));
        let mut proofs = totals.proofs.clone();
        let delete_markers = proofs
            .remove(&Proof::DeleteMarker.to_string())
            .unwrap_or_default();
        Self {
            done_objects: totals.done_objects.saturating_sub(delete_markers),
            delete_markers,
            in_place_objects: totals.in_place_objects,
            old_versions: totals.old_versions,
            done_bytes: totals.done_bytes,
            parts: totals.parts,
            skipped_objects: totals.skipped_objects,
            skipped_bytes: totals.skipped_bytes,
            unchanged: totals.unchanged.clone(),
            reasons: totals.reasons.clone(),
            archived_objects: totals.archived_objects,
            restoring_objects: totals.restoring_objects,
            restoring_bytes: totals.restoring_bytes,
            excluded_objects: totals.excluded_objects,
            ignored: totals.ignored,
            failed_objects: totals.failed_objects,
            causes: totals.causes.clone(),
            objects_with_losses: totals.objects_with_losses,
            losses: totals.losses.clone(),
            proofs,
            earlier: state
                .last
                .filter(|_| totals.done_objects > 0 && state.run.is_some())
                .map(|until| Earlier {
                    objects: totals.done_objects,
                    until,
                    seen: 0,
                }),
            sessions: state
                .run
                .as_ref()
                .map_or(1, |_| state.resumed.saturating_add(2)),
            seconds: earlier.as_secs_f64(),
            ..Self::default()
        }
    }
}

impl Outcome {
    /// Returns true if all transfers are finished, so that there is nothing to resume.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.stopped && self.gave_up.is_none()
    }

    /// Returns true if a selection matched nothing and the job calls that a failure.
    #[must_use]
    pub fn has_empty_failure(&self) -> bool {
        self.empty.iter().any(|empty| empty.fails)
    }

    /// Returns the reason of all failures, if they were lists and failed alike.
    #[must_use]
    pub fn list_failure(&self) -> Option<Cause> {
        let found = self.ended_objects() - self.failed_objects + self.stopped_objects;
        self.unlisted
            .cause(self.failed_objects, found + self.excluded_objects)
    }

    /// Returns the number of objects that ended, good or bad.
    pub(super) fn ended_objects(&self) -> u64 {
        let done = self.done_objects + self.delete_markers;
        let left = self.skipped_objects + self.archived_objects + self.restoring_objects;
        done + left + self.failed_objects
    }

    pub(super) fn count(&mut self, receipt: &Receipt) {
        let has = |text: &str| u64::from(receipt.notes.iter().any(|note| note == text));
        self.recovered_objects += has(COPIED_BEFORE);
        self.maybe_recovered_objects += has(MAY_BE_OURS);
        match &receipt.ending {
            Ending::Done {
                proof: Proof::DeleteMarker,
                ..
            } => self.delete_markers += 1,
            Ending::Done { proof, .. } => {
                self.objects_with_losses += u64::from(!receipt.losses.is_empty());
                receipt.losses.iter().for_each(|loss| self.losses.add(loss));
                self.done_objects += 1;
                self.in_place_objects += u64::from(receipt.in_place);
                self.old_versions += u64::from(receipt.leaves_old_version());
                self.done_bytes = self.done_bytes.saturating_add(receipt.size);
                self.parts += u64::from(receipt.parts);
                *self.proofs.entry(proof.to_string()).or_default() += 1;
                if let Some(reason) = receipt.copy_reason {
                    *self.reasons.entry(reason).or_default() += 1;
                }
            }
            Ending::Skipped {
                reason: Skip::Archived,
            } => self.archived_objects += 1,
            Ending::Restoring { .. } => {
                self.restoring_objects += 1;
                self.restoring_bytes = self.restoring_bytes.saturating_add(receipt.size);
            }
            Ending::Skipped { reason } => {
                self.skipped_objects += 1;
                self.skipped_bytes = self.skipped_bytes.saturating_add(receipt.size);
                self.unchanged.add(*reason);
            }
            Ending::Failed { error } => {
                self.failed_objects += 1;
                self.causes.add(&Failed {
                    operation: &error.operation,
                    code: &error.code,
                    message: &error.message,
                    source: &receipt.source,
                    destination: &receipt.destination,
                });
            }
            Ending::Stopped => self.stopped_objects += 1,
        }
    }
}
