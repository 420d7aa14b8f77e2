//! Defines the outcome of a run.
//!
//! The journal's [`RunTotals`] count all objects over all sessions. The outcome contains these
//! counts, and facts that only the current session knows.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::receipt::{COPIED_BEFORE, Ending, MAY_BE_OURS, Proof, Receipt};
use crate::journal::state::{RunState, RunTotals};
use crate::pace::PaceCounts;
use crate::plan::cause::{CauseCounts, as_list};
use crate::plan::decide::Reason;
use crate::plan::empty::EmptySelection;
use crate::plan::loss::LossCounts;
use crate::plan::unchanged::Unchanged;
use crate::plan::unlisted::{CommonCause, UnlistedCounts};

/// The outcome of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Outcome {
    /// Objects copied or uploaded, and proven. If all versions are copied, each version counts.
    pub done_objects: u64,
    /// Delete markers written.
    pub delete_markers: u64,
    /// The bytes of the objects copied or uploaded.
    pub done_bytes: u64,
    /// The `done_objects` that were changed in place, and not copied anywhere.
    pub in_place_objects: u64,
    /// The old versions that buckets keep of objects changed in place.
    pub old_versions: u64,
    /// The parts of the objects copied or uploaded.
    pub parts: u64,
    /// Objects that an earlier session of the run copied without recording it, and that this
    /// session proved.
    pub recovered_objects: u64,
    /// Objects that an earlier session of the run may have copied, and that this session left
    /// unchanged.
    pub maybe_recovered_objects: u64,
    /// Objects skipped because the destination already has them.
    pub skipped_objects: u64,
    /// The bytes of the skipped objects.
    pub skipped_bytes: u64,
    /// The skipped objects, by the comparison that found them equal.
    pub unchanged: Unchanged,
    /// The objects copied or uploaded, by reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// Objects left out because they are in an archive and the job says `archived: skip`. Not part
    /// of `skipped_objects`.
    pub archived_objects: u64,
    /// Objects in an archive that are being restored, for a later run to copy.
    pub restoring_objects: u64,
    /// The bytes of the objects that are being restored.
    pub restoring_bytes: u64,
    /// Objects that the selections excluded.
    pub excluded_objects: u64,
    /// Entries that are neither objects nor regular files.
    pub ignored: u64,
    /// Objects that failed.
    pub failed_objects: u64,
    /// The causes of these failures, the most frequent one first.
    #[serde(rename = "failures", serialize_with = "as_list")]
    pub causes: CauseCounts,
    /// The lists that failed in this session.
    #[serde(skip)]
    pub unlisted: UnlistedCounts,
    /// Known objects that a stop left unfinished.
    pub stopped_objects: u64,
    /// Objects copied or uploaded that lost an attribute.
    pub objects_with_losses: u64,
    /// The lost attributes, each with the number of objects that lost it.
    pub losses: LossCounts,
    /// Hints at results that the user probably did not intend.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Selections that matched nothing.
    pub empty: Vec<EmptySelection>,
    /// True if the run was stopped before its end.
    pub stopped: bool,
    /// The reason the run gave up, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gave_up: Option<GaveUp>,
    /// The objects copied or uploaded, by proof.
    pub proofs: BTreeMap<String, u64>,
    /// The number of sessions of the run so far.
    pub sessions: u32,
    /// The objects that earlier sessions copied; `None` in the first session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earlier: Option<Earlier>,
    /// The requests, throttles, and retries of this session.
    pub requests: PaceCounts,
    /// The duration of all sessions in seconds. A session that was killed counts until its last
    /// event.
    pub seconds: f64,
}

/// The objects that earlier sessions of a run copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Earlier {
    /// Objects that they copied and proved.
    pub objects: u64,
    /// The time of the last event of the last of these sessions.
    pub until: Timestamp,
    /// The number of objects of a sample that this session found at the destination before it
    /// started copying.
    pub seen: u64,
}

/// The reason that a run gave up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GaveUp {
    /// A sentence for the summary.
    pub reason: String,
    /// True if the same run may succeed later without a correction.
    pub may_pass_later: bool,
}

impl Outcome {
    /// Returns the outcome of the earlier sessions of the run, which this one adds to.
    pub(super) fn of_earlier(state: &RunState) -> Self {
        let (totals, earlier) = (&state.totals, Duration::from_millis(state.session_ms()));
        let mut outcome = Self {
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
        };
        outcome.set_totals(totals.clone());
        outcome
    }

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

    /// Returns the common cause of all failures, if every failure is a failed list and all lists
    /// failed alike. See [`UnlistedCounts::cause`].
    #[must_use]
    pub fn list_failure(&self) -> Option<CommonCause> {
        let done = self.done_objects + self.delete_markers;
        let left = self.skipped_objects + self.archived_objects + self.restoring_objects;
        let found = done + left + self.stopped_objects + self.excluded_objects;
        self.unlisted
            .cause(self.failed_objects, found, self.has_empty_failure())
    }

    /// Sets all fields that follow from the totals of the run.
    pub(super) fn set_totals(&mut self, totals: RunTotals) {
        let RunTotals {
            planned_objects: _,
            planned_bytes: _,
            done_objects,
            done_bytes,
            in_place_objects,
            old_versions,
            parts,
            skipped_objects,
            skipped_bytes,
            unchanged,
            reasons,
            archived_objects,
            restoring_objects,
            restoring_bytes,
            excluded_objects,
            ignored,
            failed_objects,
            objects_with_losses,
            losses,
            mut proofs,
            failures: _,
            causes,
        } = totals;
        let delete_markers = proofs
            .remove(&Proof::DeleteMarker.to_string())
            .unwrap_or_default();
        *self = Self {
            done_objects: done_objects.saturating_sub(delete_markers),
            delete_markers,
            done_bytes,
            in_place_objects,
            old_versions,
            parts,
            skipped_objects,
            skipped_bytes,
            unchanged,
            reasons,
            archived_objects,
            restoring_objects,
            restoring_bytes,
            excluded_objects,
            ignored,
            failed_objects,
            causes,
            objects_with_losses,
            losses,
            proofs,
            ..std::mem::take(self)
        };
    }

    /// Counts objects that the totals omit: objects that a stop left unfinished, and objects that
    /// an earlier session copied, or may have copied, without recording it.
    pub(super) fn note(&mut self, receipt: &Receipt) {
        let has = |text: &str| u64::from(receipt.notes.iter().any(|note| note == text));
        self.recovered_objects += has(COPIED_BEFORE);
        self.maybe_recovered_objects += has(MAY_BE_OURS);
        self.stopped_objects += u64::from(receipt.ending == Ending::Stopped);
    }
}
