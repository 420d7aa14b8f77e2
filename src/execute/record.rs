//! What the conductor tells the journal.
//!
//! It decides, event by event, what the next session must know, and the conductor hands the events over before it begins
//! anything new: an object is on record before its first request. Keys that need no work are gathered. An object that a
//! stop left undone stays pending, and has no receipt as long as the run can go on.

use super::Work;
use super::receipt::{Ending, Receipt};
use crate::journal::Journal;
use crate::journal::event::{Ended, Event, FailedObject, Passed, ReceiptLine};
use crate::location::ObjectKey;
use crate::planner::{Resume, Sides, Step};

/// Keys without work that are gathered into one event.
const GATHERED: u32 = 256;

/// The record of one transfer, which is one range of keys.
pub(super) struct Record {
    journal: Journal,
    range: u32,
    events: Vec<Event>,
    passed: Passed,
    gathered: u32,
    /// False once something could not be planned: then the keys are listed again by the next session.
    is_whole: bool,
}

/// How far an earlier session came with this transfer.
pub(super) fn resume(work: &Work, range: u32) -> Resume {
    let Some(range) = work.resumed.ranges.get(&range).filter(|range| range.ordered || range.planned) else {
        return Resume::default();
    };
    let pending = range.pending.iter().map(|(object, entry)| {
        let at = work.sides.relative_at(&entry.key);
        (*object, entry.clone().into_entry(at))
    });
    Resume { pending: pending.collect(), passed: range.passed.clone(), planned: range.planned }
}

impl Record {
    pub(super) fn new(work: &Work, range: u32) -> Self {
        let events = if work.resumed.ranges.contains_key(&range) {
            Vec::new()
        } else {
            vec![Event::RangeBegan { range, transfer: range, ordered: work.sides.plans_in_order() }]
        };
        Self {
            journal: work.journal.clone(),
            range,
            events,
            passed: Passed { range, ..Passed::default() },
            gathered: 0,
            is_whole: work.sides.plans_once(),
        }
    }

    /// An object is to be copied.
    pub(super) fn plan(&mut self, step: &mut Step) {
        if step.object.is_some() {
            return;
        }
        self.flush();
        let object = self.journal.next_id();
        step.object = Some(object);
        self.events.push(Event::ObjectPlanned { range: self.range, object, entry: (&step.entry).into() });
    }

    /// The destination has an object.
    pub(super) fn skip(&mut self, key: ObjectKey, receipt: &Receipt) {
        self.passed.skipped_objects += 1;
        self.passed.skipped_bytes += receipt.size;
        self.passed.receipts.extend(self.line(receipt));
        self.pass(key);
    }

    /// The selection leaves an object out.
    pub(super) fn exclude(&mut self, key: ObjectKey) {
        self.passed.excluded_objects += 1;
        self.pass(key);
    }

    /// Something is no object.
    pub(super) fn ignore(&mut self) {
        self.passed.ignored += 1;
        self.gather();
    }

    /// Nothing is left to do about a key and all before it.
    pub(super) fn pass(&mut self, key: ObjectKey) {
        self.passed.to = Some(key);
        self.gather();
    }

    fn gather(&mut self) {
        self.gathered += 1;
        if self.gathered >= GATHERED {
            self.flush();
        }
    }

    /// Something could not be planned.
    pub(super) fn miss(&mut self) {
        self.is_whole = false;
    }

    /// All keys are known.
    pub(super) fn planned(&mut self) {
        self.flush();
        if self.is_whole {
            self.events.push(Event::RangePlanned { range: self.range });
        }
    }

    /// An object is over. `goes_on` says that it is left to the next session, if there can be one.
    pub(super) fn end(&mut self, object: Option<u64>, receipt: &Receipt, goes_on: bool) {
        let goes_on = goes_on || matches!(receipt.ending, Ending::Stopped);
        if goes_on && self.journal.keeps() {
            return;
        }
        let Some(ended) = ended(receipt) else {
            // Where nothing is kept, the receipt is all that there will ever be.
            self.passed.receipts.extend(self.line(receipt));
            return self.gather();
        };
        let receipt = self.line(receipt);
        self.events.push(Event::ObjectEnded { range: self.range, object, ended, receipt });
    }

    fn line(&self, receipt: &Receipt) -> Option<ReceiptLine> {
        if !self.journal.has_ledger() {
            return None;
        }
        ReceiptLine::of(receipt)
            .inspect_err(|error| tracing::error!(%error, "a receipt can not be written as JSON"))
            .ok()
    }

    /// Puts what was gathered into an event.
    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.gathered) > 0 {
            let next = Passed { range: self.range, ..Passed::default() };
            self.events.push(Event::KeysPassed(std::mem::replace(&mut self.passed, next)));
        }
    }

    /// Hands over what happened. That a journal is broken is seen to by its watcher.
    pub(super) async fn write(&mut self) {
        for event in self.events.drain(..) {
            if self.journal.append(event).await.is_err() {
                return;
            }
        }
    }
}

/// How an object ended; `None` if it did not.
fn ended(receipt: &Receipt) -> Option<Ended> {
    let bytes = receipt.size;
    Some(match &receipt.ending {
        Ending::Done { proof, .. } => Ended::Done {
            bytes,
            parts: receipt.parts,
            proof: proof.to_string(),
            losses: receipt.losses.clone(),
        },
        Ending::Skipped { .. } => Ended::Skipped { bytes },
        Ending::Restoring { .. } => Ended::Restoring { bytes },
        Ending::Failed { error } => Ended::Failed(FailedObject {
            source: receipt.source.clone(),
            kind: error.kind.to_owned(),
            message: error.message.clone(),
        }),
        Ending::Stopped => return None,
    })
}

impl Sides {
    /// True when what is planned comes in the order of the source's keys, so that a later session can go on behind any of
    /// them.
    fn plans_in_order(&self) -> bool {
        self.source.as_ref().is_none_or(|source| source.capabilities().ordered_lists)
            && self.transfer.chosen.is_none()
            && self.plans_once()
    }
}
