//! A random sample of the objects that are at the destination, according to a report.

use jiff::Timestamp;

use super::{ParsedReceipt, ReceiptStatus};

/// The size of the sample.
const KEPT: usize = 16;

/// An object that was copied or found equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedObject {
    /// The transfer's name.
    pub transfer: String,
    /// `s3://bucket/key`.
    pub destination: String,
    /// The time of its receipt.
    pub at: Option<Timestamp>,
}

/// A sample in which each object of the report is equally likely.
#[derive(Default)]
pub(super) struct Reported {
    seen: u64,
    kept: Vec<ReportedObject>,
}

impl Reported {
    /// Adds the object of a line to the population of the sample, if the destination has it.
    pub(super) fn take(&mut self, line: &ParsedReceipt) {
        let is_there = match line.status {
            ReceiptStatus::Done => line.route.as_deref() != Some("delete-marker"),
            ReceiptStatus::Skipped => line.reason.as_deref() == Some("equal"),
            ReceiptStatus::Restoring | ReceiptStatus::Failed | ReceiptStatus::Stopped => false,
        };
        if !is_there {
            return;
        }
        let object = || ReportedObject {
            transfer: line.transfer.clone(),
            destination: line.destination.clone(),
            at: line.at,
        };
        self.seen += 1;
        if self.kept.len() < KEPT {
            return self.kept.push(object());
        }
        let chance = fastrand::Rng::with_seed(self.seen).u64(..self.seen);
        let slot = usize::try_from(chance).ok();
        if let Some(kept) = slot.and_then(|slot| self.kept.get_mut(slot)) {
            *kept = object();
        }
    }

    /// Returns the sampled objects.
    pub(super) fn into_objects(self) -> Vec<ReportedObject> {
        self.kept
    }
}
