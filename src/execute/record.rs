//! Records in the journal the events of one transfer that the next session must know.
//!
//! The conductor writes the events before it starts an object, so that an object is on record
//! before its first request. Keys that need no work are gathered into one event per range. An
//! object that a stop left unfinished stays pending, and the report contains its receipt until the
//! next session removes it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::TransferContext;
use super::receipt::{Ending, Proof, Receipt};
use crate::journal::Journal;
use crate::journal::event::{Ended, FailedObject, InPlace, JournalEvent, Passed, ReceiptLine};
use crate::journal::state::RunState;
use crate::listing::Entry;
use crate::listing::bisect::{KeyRange, RangeSplit};
use crate::location::ObjectKey;
use crate::manifest::job::Source;
use crate::plan::decide::Skip;
use crate::plan::unchanged::Unchanged;
use crate::planner::{Demand, Pending, PlanEvent, Planning, Resume, Sides, Step};

/// The number of keys without work that are gathered into one event.
const GATHERED: u32 = 256;
/// The maximum number of equal objects that one event names. A later session checks that the
/// destination still has them.
const EQUAL: usize = 4;

/// The number of range numbers that are reserved for each transfer, besides the number of its first
/// range.
const RANGES: u32 = 1 << 16;

/// The record of one transfer.
pub(super) struct Record {
    journal: Journal,
    transfer: u32,
    /// The events that are not written yet.
    events: Vec<JournalEvent>,
    /// The range that the next events are about.
    range: u32,
    /// The keys without work that have no event yet, by range.
    gathered: BTreeMap<u32, Gathered>,
    /// The ranges of pending objects, by number.
    objects: HashMap<u64, u32>,
    /// The ranges whose lists ended early. The next session lists the remaining keys again.
    missing: BTreeSet<u32>,
    /// The failures of the lists that ended early. They are written only if the transfer ends in
    /// this session.
    unlisted: Vec<FailedList>,
    /// The receipts of objects that are left to the next session.
    left: Vec<ReceiptLine>,
    /// True if a range that was listed once needs no second list.
    plans_once: bool,
    /// The state in the journal when this session began.
    resumed: Arc<RunState>,
}

/// The failure of a list that ended early.
struct FailedList {
    range: u32,
    ended: Ended,
    receipt: Option<ReceiptLine>,
}

impl FailedList {
    fn event(self) -> JournalEvent {
        let Self {
            range,
            ended,
            receipt,
        } = self;
        JournalEvent::ObjectEnded {
            range,
            object: None,
            ended,
            receipt,
        }
    }
}

/// Keys without work that have no event yet.
#[derive(Default)]
struct Gathered {
    passed: Passed,
    count: u32,
}

/// Returns the progress that earlier sessions made with this transfer.
pub(super) fn resume(context: &TransferContext, transfer: u32) -> Resume {
    // The range numbers of two transfers never overlap: a manifest cannot hold enough transfers for
    // that.
    let next = (transfer + 1).saturating_mul(RANGES);
    let last = next.saturating_add(RANGES - 1);
    let known = || context.resumed.ranges_of(transfer);
    let next = known()
        .map(|(range, _)| range + 1)
        .max()
        .unwrap_or_default()
        .max(next);
    if known().next().is_none() || context.orphans.lists_anew(transfer) {
        return Resume {
            pending: Vec::new(),
            first: transfer,
            ranges: vec![context.range.clone()],
            next,
            last,
        };
    }
    let pending = known()
        .flat_map(|(_, range)| &range.pending)
        .map(|(object, entry)| {
            let entry = entry
                .clone()
                .into_entry(context.sides.relative_at(&entry.key));
            let key = context.sides.key_of(&entry).ok();
            let made = key.map(|key| context.made_before(&key)).unwrap_or_default();
            Pending {
                object: *object,
                entry,
                made,
            }
        });
    let left = known()
        .filter(|(_, state)| !state.planned)
        .map(|(range, state)| KeyRange {
            range,
            after: state.passed.clone(),
            until: state.until.clone(),
        });
    Resume {
        pending: pending.collect(),
        first: transfer,
        ranges: left.collect(),
        next,
        last,
    }
}

impl Record {
    pub(super) fn new(context: &TransferContext, transfer: u32) -> Self {
        let ranges = || {
            context
                .resumed
                .ranges_of(transfer)
                .filter(|_| !context.orphans.lists_anew(transfer))
        };
        let began = JournalEvent::RangeBegan {
            range: transfer,
            transfer,
            ordered: context.sides.plans_in_order(),
            after: context.range.after.clone(),
            until: context.range.until.clone(),
        };
        Self {
            journal: context.journal.clone(),
            transfer,
            events: if ranges().next().is_none() {
                vec![began]
            } else {
                Vec::new()
            },
            range: transfer,
            gathered: BTreeMap::new(),
            objects: ranges()
                .flat_map(|(range, state)| state.pending.keys().map(move |object| (*object, range)))
                .collect(),
            missing: BTreeSet::new(),
            unlisted: Vec::new(),
            left: Vec::new(),
            plans_once: context.sides.plans_once(),
            resumed: Arc::clone(&context.resumed),
        }
    }

    /// Sets the range that the following events are about.
    pub(super) fn enter_range(&mut self, range: u32) {
        self.range = range;
    }

    /// Records that a range was split.
    pub(super) fn cut(&mut self, cut: RangeSplit) {
        if let Some(at) = cut.new.after {
            self.events.push(JournalEvent::RangeCut {
                range: cut.range,
                at,
                new: cut.new.range,
            });
        }
    }

    /// Records an object to copy, unless an earlier session has recorded it. Returns the range in
    /// which it was found.
    pub(super) fn plan(&mut self, step: &mut Step) -> u32 {
        if let Some(object) = step.object {
            return self.objects.get(&object).copied().unwrap_or(self.range);
        }
        self.flush(self.range);
        let object = self.journal.next_id();
        step.object = Some(object);
        self.objects.insert(object, self.range);
        self.events.push(JournalEvent::ObjectPlanned {
            range: self.range,
            object,
            entry: (&step.entry).into(),
        });
        self.range
    }

    /// Records an object that the destination already has, or that the job skips.
    pub(super) fn skip(&mut self, entry: &Entry, receipt: &Receipt) {
        let line = self.line(receipt);
        self.gather(|passed| {
            passed.to = Some(entry.key.clone());
            if is_archived(&receipt.ending) {
                passed.archived_objects += 1;
            } else {
                passed.skipped_objects += 1;
                passed.skipped_bytes = passed.skipped_bytes.saturating_add(receipt.size);
                if let Ending::Skipped { reason } = receipt.ending {
                    passed.unchanged.add(reason);
                    let is_equal = matches!(reason, Skip::Equal { .. });
                    if is_equal && passed.equal.len() < EQUAL {
                        passed.equal.push(entry.into());
                    }
                }
            }
            passed.receipts.extend(line);
        });
    }

    /// Records an object that the destination already has and that an earlier session of the run
    /// has counted.
    pub(super) fn skip_known(&mut self, key: ObjectKey, receipt: &Receipt) {
        let line = self.line(receipt);
        self.gather(|passed| {
            passed.known_objects += 1;
            passed.receipts.extend(line);
            passed.to = Some(key);
        });
    }

    /// Records an object that the selection excludes.
    pub(super) fn exclude(&mut self, key: ObjectKey) {
        self.gather(|passed| {
            passed.excluded_objects += 1;
            passed.to = Some(key);
        });
    }

    /// Records an entry that is not an object.
    pub(super) fn ignore(&mut self) {
        self.gather(|passed| passed.ignored += 1);
    }

    /// Records that a key and all keys before it in its range are done. The key already has a
    /// receipt and gets no second one.
    pub(super) fn pass(&mut self, key: ObjectKey) {
        self.gather(|passed| passed.to = Some(key));
        self.flush(self.range);
    }

    fn gather(&mut self, note: impl FnOnce(&mut Passed)) {
        let gathered = self.gathered.entry(self.range).or_default();
        note(&mut gathered.passed);
        gathered.count += 1;
        if gathered.count >= GATHERED {
            self.flush(self.range);
        }
    }

    /// Records that a list ended early. This becomes a failure only when the transfer ends, because
    /// the next session lists the rest of the range again.
    pub(super) fn unlisted(&mut self, receipt: &Receipt) {
        self.missing.insert(self.range);
        let line = self.line(receipt);
        if let Some(ended) = self.ended(receipt) {
            self.unlisted.push(FailedList {
                range: self.range,
                ended,
                receipt: line,
            });
        }
        if !self.journal.keeps() {
            self.end_unlisted();
        }
    }

    /// Records that all keys of a range are known.
    pub(super) fn planned(&mut self, range: u32) {
        self.flush(range);
        if self.plans_once && !self.missing.contains(&range) {
            self.events.push(JournalEvent::RangePlanned { range });
        }
    }

    /// Records the end of an object. Leaves the object to the next session if `is_left_to_next` is
    /// true or the object was stopped, provided that a journal is kept. The next session finds the
    /// object by its number in the journal, or lists its key again because the key was not passed.
    pub(super) fn end(&mut self, object: Option<u64>, receipt: &Receipt, is_left_to_next: bool) {
        let is_left_to_next = is_left_to_next || matches!(receipt.ending, Ending::Stopped);
        let line = self.line(receipt);
        if is_left_to_next && self.journal.keeps() {
            return self.left.extend(line);
        }
        let Some(ended) = self.ended(receipt) else {
            // Without a journal, no later session can write this receipt.
            return self.gather(|passed| passed.receipts.extend(line));
        };
        let range = object
            .and_then(|object| self.objects.remove(&object))
            .unwrap_or(self.range);
        self.events.push(JournalEvent::ObjectEnded {
            range,
            object,
            ended,
            receipt: line,
        });
    }

    /// Returns the ending of an object for the journal. A success names the destination if it
    /// replaces a copy that failed its proof.
    fn ended(&self, receipt: &Receipt) -> Option<Ended> {
        let mut ended = ended(receipt)?;
        if let Ended::Done { settles, .. } = &mut ended {
            let place = &receipt.destination;
            *settles = Some(place)
                .filter(|place| self.resumed.unproven.contains(place))
                .cloned();
        }
        Some(ended)
    }

    fn line(&self, receipt: &Receipt) -> Option<ReceiptLine> {
        if !self.journal.has_ledger() {
            return None;
        }
        ReceiptLine::of(receipt)
            .inspect_err(|error| tracing::error!(%error, "a receipt cannot be written as JSON"))
            .ok()
    }

    /// Turns the gathered keys of a range into an event.
    fn flush(&mut self, range: u32) {
        if let Some(Gathered { passed, .. }) = self.gathered.remove(&range) {
            self.events
                .push(JournalEvent::KeysPassed(Passed { range, ..passed }));
        }
    }

    /// Turns the gathered keys of all ranges into events.
    pub(super) fn flush_all(&mut self) {
        for (range, Gathered { passed, .. }) in std::mem::take(&mut self.gathered) {
            self.events
                .push(JournalEvent::KeysPassed(Passed { range, ..passed }));
        }
    }

    /// Ends the transfer: for good if `is_done`, and otherwise for this session.
    pub(super) fn end_transfer(&mut self, is_done: bool) {
        self.flush_all();
        if is_done {
            self.end_unlisted();
            self.events.push(JournalEvent::TransferEnded {
                transfer: self.transfer,
            });
        } else {
            self.leave_unlisted();
        }
    }

    /// Records the failures of lists that ended early.
    fn end_unlisted(&mut self) {
        let failed = self.unlisted.drain(..).map(FailedList::event);
        self.events.extend(failed);
    }

    /// Leaves the receipts of lists that ended early to the next session.
    pub(super) fn leave_unlisted(&mut self) {
        let receipts = self.unlisted.drain(..).filter_map(|failed| failed.receipt);
        self.left.extend(receipts);
    }

    /// Writes the events and receipts. Ignores errors: the watcher of a broken journal stops the
    /// run, and receipts may still reach the report.
    pub(super) async fn write(&mut self) {
        for event in self.events.drain(..) {
            let _ = self.journal.append(event).await;
        }
        for receipt in self.left.drain(..) {
            let _ = self.journal.leave(receipt).await;
        }
    }
}

/// Returns true for an object that is skipped because it is in an archive. The destination does not
/// have it.
fn is_archived(ending: &Ending) -> bool {
    matches!(
        ending,
        Ending::Skipped {
            reason: Skip::Archived
        }
    )
}

/// Returns the ending of an object; `None` if it did not end.
pub(super) fn ended(receipt: &Receipt) -> Option<Ended> {
    let bytes = receipt.size;
    Some(match &receipt.ending {
        Ending::Done { proof, .. } => Ended::Done {
            bytes,
            parts: receipt.parts,
            proof: proof.to_string(),
            reason: receipt
                .copy_reason
                .filter(|_| *proof != Proof::DeleteMarker),
            losses: receipt.losses.clone(),
            in_place: receipt.in_place.then(|| {
                if receipt.leaves_old_version() {
                    InPlace::OldVersionLeft
                } else {
                    InPlace::Replaced
                }
            }),
            settles: None,
        },
        ending @ Ending::Skipped { reason } => Ended::Skipped {
            bytes,
            archived: is_archived(ending),
            unchanged: Unchanged::one(*reason),
        },
        Ending::Restoring { .. } => Ended::Restoring { bytes },
        Ending::Failed { error } => Ended::Failed(FailedObject {
            source: receipt.source.clone(),
            destination: receipt.destination.clone(),
            operation: error.operation.clone(),
            code: error.code.clone(),
            kind: error.kind.to_owned(),
            message: error.message.clone(),
        }),
        Ending::Stopped => return None,
    })
}

/// Returns the transfers whose keys must all be listed again, by position in the job, because a
/// list without order cannot be resumed. A list counts as ordered only if both the earlier session
/// and the current job list in order.
pub(super) fn listed_anew<'a>(
    state: &RunState,
    transfers: impl IntoIterator<Item = (u32, &'a Sides)>,
) -> BTreeSet<u32> {
    let is_anew = |(number, sides): &(u32, &Sides)| {
        let in_order = sides.plans_in_order();
        state
            .ranges_of(*number)
            .any(|(_, range)| !(range.planned || (range.ordered && in_order)))
    };
    transfers
        .into_iter()
        .filter(is_anew)
        .map(|(number, _)| number)
        .collect()
}

/// Starts to plan a transfer. For standard input, sends its one step without a listing.
pub(super) fn planning(context: &TransferContext, transfer: u32) -> Planning {
    let sides = &context.sides;
    if sides.transfer.from != Source::Stdin {
        return sides.plan_from(resume(context, transfer));
    }
    let (sender, events) = mpsc::channel(2);
    let step = sides.stdin_step();
    // The channel has room for both events.
    let _ = sender.try_send(PlanEvent::Planned(transfer, vec![step], None));
    let _ = sender.try_send(PlanEvent::Ended(transfer));
    Planning {
        events,
        demand: Demand::default(),
    }
}
