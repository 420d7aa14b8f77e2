//! Counts the results of objects, over all sessions of a run.
//!
//! [`RunTotals`] is the only count of a run: each session adds to it, and the journal stores it.
//!
//! Each object counts once. This is easy if a list continues where the previous session stopped.
//! But an unordered list starts over and finds all objects again. So each transfer has a [`Tally`]
//! of its counts. Copied objects stay in the sums, and are not counted again when the new list
//! finds them equal. All other objects are subtracted from the sums, and count when the new list
//! finds them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::{Ended, FailedObject, InPlace, Passed};
use crate::plan::cause::{CauseCounts, FailedRequest};
use crate::plan::decide::Reason;
use crate::plan::loss::{LossCounts, whole};
use crate::plan::unchanged::Unchanged;
use crate::s3::FailureKind;

/// Sums over a run, over all of its sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunTotals {
    /// Objects to copy.
    pub planned_objects: u64,
    /// Their bytes.
    pub planned_bytes: u64,
    /// Objects copied or uploaded, and proven; also delete markers.
    pub done_objects: u64,
    /// Their bytes.
    pub done_bytes: u64,
    /// The number of done objects that were changed in place.
    pub in_place_objects: u64,
    /// The old versions that remain in buckets after objects were changed in place.
    pub old_versions: u64,
    /// The parts of the objects copied or uploaded.
    pub parts: u64,
    /// Objects that the destination has.
    pub skipped_objects: u64,
    /// Their bytes.
    pub skipped_bytes: u64,
    /// The skipped objects by the comparison that found them equal.
    pub unchanged: Unchanged,
    /// The objects copied or uploaded, by the reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// Objects that are left out because they are in an archive. Not part of `skipped_objects`.
    pub archived_objects: u64,
    /// Objects in an archive that are being restored.
    pub restoring_objects: u64,
    /// Their bytes.
    pub restoring_bytes: u64,
    /// Objects that the selection excludes.
    pub excluded_objects: u64,
    /// Entries that are neither an object nor a regular file.
    pub ignored: u64,
    /// Objects that failed.
    pub failed_objects: u64,
    /// Objects copied or uploaded that lost an attribute.
    pub objects_with_losses: u64,
    /// The lost attributes, with the number of objects.
    #[serde(with = "whole")]
    pub losses: LossCounts,
    /// The objects copied or uploaded, by their proof.
    pub proofs: BTreeMap<String, u64>,
    /// Failed objects by the kind of failure.
    pub failures: BTreeMap<String, u64>,
    /// Failed objects by cause.
    pub causes: CauseCounts,
}

/// The counts of one transfer, which decide what stays in the sums if its list starts over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Objects that stay in the sums: copied ones, and copies that failed their proof. A list finds
    /// them equal.
    pub settled: u64,
    /// The counts of all others, which the new list counts again.
    pub void: RunTotals,
}

impl Tally {
    /// Counts an object that ended. `planned` is the size with which it was planned, if it was.
    pub(super) fn end(&mut self, ended: &Ended, planned: Option<u64>) {
        let stays = match ended {
            Ended::Done { .. } => true,
            // In a list, a bad copy looks like a good one, so its failure must stay counted.
            Ended::Failed(failed) => leaves_copy(failed),
            Ended::Skipped { .. } | Ended::Restoring { .. } => false,
        };
        if !stays {
            return self.void.end(ended);
        }
        self.settled += 1;
        if let Some(bytes) = planned {
            self.void.planned_objects = self.void.planned_objects.saturating_sub(1);
            self.void.planned_bytes = self.void.planned_bytes.saturating_sub(bytes);
        }
    }
}

/// Returns true if the failed object may have left a copy that a list cannot distinguish from a
/// good one.
pub(super) fn leaves_copy(failed: &FailedObject) -> bool {
    [
        FailureKind::NotEqual,
        FailureKind::Unprovable,
        FailureKind::NotKept,
    ]
    .iter()
    .any(|kind| kind.name() == failed.kind)
}

impl RunTotals {
    pub(super) fn plan(&mut self, bytes: u64) {
        self.planned_objects += 1;
        self.planned_bytes = self.planned_bytes.saturating_add(bytes);
    }

    pub(super) fn pass(&mut self, passed: &Passed) {
        let Passed {
            skipped_objects,
            skipped_bytes,
            unchanged,
            archived_objects,
            excluded_objects,
            ignored,
            // Counted by an earlier list of the run.
            known_objects: _,
            // These are no counts.
            range: _,
            to: _,
            equal: _,
            receipts: _,
        } = passed;
        self.unchanged.merge(unchanged);
        for (number, by) in [
            (&mut self.skipped_objects, skipped_objects),
            (&mut self.skipped_bytes, skipped_bytes),
            (&mut self.archived_objects, archived_objects),
            (&mut self.excluded_objects, excluded_objects),
            (&mut self.ignored, ignored),
        ] {
            *number = number.saturating_add(*by);
        }
    }

    /// Counts an object that ended.
    pub(crate) fn end(&mut self, ended: &Ended) {
        match ended {
            Ended::Done {
                bytes,
                parts,
                proof,
                reason,
                losses,
                in_place,
                ..
            } => {
                self.done_objects += 1;
                self.in_place_objects += u64::from(in_place.is_some());
                self.old_versions += u64::from(*in_place == Some(InPlace::OldVersionLeft));
                self.done_bytes = self.done_bytes.saturating_add(*bytes);
                self.parts += u64::from(*parts);
                self.objects_with_losses += u64::from(!losses.is_empty());
                for loss in losses {
                    self.losses.add(loss);
                }
                *self.proofs.entry(proof.clone()).or_default() += 1;
                if let Some(reason) = reason {
                    *self.reasons.entry(*reason).or_default() += 1;
                }
            }
            Ended::Skipped { archived: true, .. } => self.archived_objects += 1,
            Ended::Skipped {
                bytes,
                archived: false,
                unchanged,
            } => {
                self.skipped_objects += 1;
                self.skipped_bytes = self.skipped_bytes.saturating_add(*bytes);
                self.unchanged.merge(unchanged);
            }
            Ended::Restoring { bytes } => {
                self.restoring_objects += 1;
                self.restoring_bytes = self.restoring_bytes.saturating_add(*bytes);
            }
            Ended::Failed(failed) => {
                self.failed_objects += 1;
                *self.failures.entry(failed.kind.clone()).or_default() += 1;
                self.causes.add(&FailedRequest {
                    operation: &failed.operation,
                    code: &failed.code,
                    message: &failed.message,
                    source: &failed.source,
                    destination: &failed.destination,
                });
            }
        }
    }

    /// Returns the number of objects that ended, with any result.
    pub(crate) fn ended_objects(&self) -> u64 {
        let left = self.skipped_objects + self.archived_objects + self.restoring_objects;
        self.done_objects + left + self.failed_objects
    }

    /// Adds the sums of another run.
    pub fn add(&mut self, other: &Self) {
        self.change_numbers(other, u64::saturating_add);
        self.unchanged.merge(&other.unchanged);
        self.losses.merge(&other.losses);
        self.causes.merge(&other.causes);
        for (reason, more) in &other.reasons {
            *self.reasons.entry(*reason).or_default() += more;
        }
        for (proof, more) in &other.proofs {
            *self.proofs.entry(proof.clone()).or_default() += more;
        }
        for (kind, more) in &other.failures {
            *self.failures.entry(kind.clone()).or_default() += more;
        }
    }

    /// Subtracts counts that a list repeats. Copied objects are not among them, so their reasons,
    /// losses, and proofs stay.
    pub(super) fn take_back(&mut self, void: &Self) {
        self.change_numbers(void, u64::saturating_sub);
        self.unchanged.take_back(&void.unchanged);
        self.causes.take_back(&void.causes);
        for (kind, void) in &void.failures {
            if let Some(count) = self.failures.get_mut(kind) {
                *count = count.saturating_sub(*void);
            }
        }
        self.failures.retain(|_, count| *count > 0);
    }

    /// Changes each number by the same number of `other`.
    fn change_numbers(&mut self, other: &Self, change: impl Fn(u64, u64) -> u64) {
        let Self {
            planned_objects,
            planned_bytes,
            done_objects,
            done_bytes,
            in_place_objects,
            old_versions,
            parts,
            skipped_objects,
            skipped_bytes,
            archived_objects,
            restoring_objects,
            restoring_bytes,
            excluded_objects,
            ignored,
            failed_objects,
            objects_with_losses,
            // Counts by name: `add` and `take_back` change them.
            unchanged: _,
            reasons: _,
            losses: _,
            proofs: _,
            failures: _,
            causes: _,
        } = other;
        for (number, by) in [
            (&mut self.planned_objects, planned_objects),
            (&mut self.planned_bytes, planned_bytes),
            (&mut self.done_objects, done_objects),
            (&mut self.done_bytes, done_bytes),
            (&mut self.in_place_objects, in_place_objects),
            (&mut self.old_versions, old_versions),
            (&mut self.parts, parts),
            (&mut self.skipped_objects, skipped_objects),
            (&mut self.skipped_bytes, skipped_bytes),
            (&mut self.archived_objects, archived_objects),
            (&mut self.restoring_objects, restoring_objects),
            (&mut self.restoring_bytes, restoring_bytes),
            (&mut self.excluded_objects, excluded_objects),
            (&mut self.ignored, ignored),
            (&mut self.failed_objects, failed_objects),
            (&mut self.objects_with_losses, objects_with_losses),
        ] {
            *number = change(*number, *by);
        }
    }
}
