//! The conductor: takes steps from the planner, keeps the right objects open, and folds what they come to.
//!
//! It looks a window of steps ahead, and opens the largest objects first (their tail is what a run ends with) while small
//! ones fill the places beside them. As many uploads are open as it takes to have a part for every place, and some more: the
//! end of one object must not leave places empty until the next one has begun.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::monitor::Event;
use super::object::BULK_FROM;
use super::outcome::{GaveUp, Outcome};
use super::receipt::{Draft, Ending, ErrorRecord, Receipt};
use super::record::{self, Record};
use super::{Work, upload};
use crate::listing::Entry;
use crate::location::ObjectKey;
use crate::manifest::job::{FailureLimit, Source};
use crate::plan::decide::Skip;
use crate::planner::{Following, News, Planned, Step};
use crate::s3::{Failure, FailureKind, Operation};

/// Steps that the conductor looks ahead to find the largest.
const WINDOW: usize = 4096;
/// Multipart objects that are open at the same time, whatever they are cut into.
const OPEN_UPLOADS: usize = 48;
/// At most so many are open, where each has so few parts that more of them are needed to fill all places.
const MOST_OPEN_UPLOADS: usize = 1024;

/// So many more objects are open than there are places: one is there when a place becomes free.
const AHEAD: u32 = 64;

/// A step by the size of its object, for the heap.
struct BySize(Box<Step>);

impl PartialEq for BySize {
    fn eq(&self, other: &Self) -> bool {
        self.0.entry.size == other.0.entry.size
    }
}

impl Eq for BySize {}

impl PartialOrd for BySize {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BySize {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.entry.size.cmp(&other.0.entry.size)
    }
}

/// Owns the state of one transfer.
pub(super) struct Conductor<'a> {
    pub(super) work: Arc<Work>,
    /// The transfer's place in the job.
    number: u32,
    pub(super) stop: CancellationToken,
    max_failures: Option<FailureLimit>,
    outcome: &'a mut Outcome,
    large: BinaryHeap<BySize>,
    /// Copies in one request that take long.
    heavy: BinaryHeap<BySize>,
    small: VecDeque<Box<Step>>,
    tasks: JoinSet<Receipt>,
    /// What the journal is told.
    record: Record,
    /// Objects that had failed and ended when this session began.
    before: (u64, u64),
    /// What is under way, so that a task that panics can still be named.
    open: HashMap<Id, Open>,
    open_large: usize,
    /// Their parts.
    open_parts: u64,
    /// Copies in one request that take long.
    open_heavy: u32,
}

struct Open {
    /// Its number in the journal.
    object: Option<u64>,
    source: String,
    destination: String,
    size: u64,
    /// Zero for what is done in one request.
    parts: u32,
    /// The newer versions of its key.
    then: Option<Box<Following>>,
}

impl Open {
    fn is_heavy(&self) -> bool {
        self.parts == 0 && self.size > BULK_FROM
    }
}

impl<'a> Conductor<'a> {
    pub(super) fn new(
        work: Arc<Work>,
        number: u32,
        max_failures: Option<FailureLimit>,
        outcome: &'a mut Outcome,
    ) -> Self {
        let totals = &work.resumed.totals;
        let ended = Outcome::from(&*work.resumed).ended_objects();
        Self {
            number,
            before: (totals.failed_objects, ended),
            record: Record::new(&work, number),
            stop: work.stop.clone(),
            work,
            max_failures,
            outcome,
            large: BinaryHeap::new(),
            heavy: BinaryHeap::new(),
            small: VecDeque::new(),
            tasks: JoinSet::new(),
            open: HashMap::new(),
            open_large: 0,
            open_parts: 0,
            open_heavy: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let mut steps = self.steps();
        let (mut planning, mut stopping) = (true, false);
        let stop = self.stop.clone();
        loop {
            self.record.write().await;
            self.begin();
            let room = self.large.len() + self.heavy.len() + self.small.len() < WINDOW;
            tokio::select! {
                news = steps.recv(), if planning && room => if let Some(news) = news { self.hear(news) } else {
                    planning = false;
                    self.work.monitor.observe(&Event::PlanEnded);
                },
                Some(joined) = self.tasks.join_next_with_id() => self.fold(joined),
                () = stop.cancelled(), if !stopping && (planning || !self.tasks.is_empty()) => {
                    (stopping, planning) = (true, false);
                    steps.close();
                    self.give_up_waiting();
                }
                else => break,
            }
        }
        self.record.flush_all();
        self.record.write().await;
    }

    /// The transfer's steps; standard input is one without a listing.
    fn steps(&self) -> mpsc::Receiver<News> {
        let sides = &self.work.sides;
        if sides.transfer.from != Source::Stdin {
            return sides.plan_from(record::resume(&self.work, self.number));
        }
        let (sender, receiver) = mpsc::channel(2);
        let step = upload::stdin_step(sides);
        // The channel has room for both.
        let _ = sender.try_send(News::Planned(self.number, vec![step]));
        let _ = sender.try_send(News::Ended(self.number));
        receiver
    }

    /// Opens as many objects as the places can serve, the largest first.
    fn begin(&mut self) {
        if self.stop.is_cancelled() {
            return;
        }
        let (_, width) = self.work.slots().in_flight();
        while self.opens_more(width)
            && let Some(BySize(step)) = self.large.pop()
        {
            self.spawn(*step);
        }
        while self.open_heavy < width + AHEAD
            && let Some(BySize(step)) = self.heavy.pop()
        {
            self.spawn(*step);
        }
        let small = self.work.slots().for_small() + AHEAD;
        while self.open.len() - self.open_large - (self.open_heavy as usize) < small as usize
            && let Some(step) = self.small.pop_front()
        {
            self.spawn(*step);
        }
    }

    /// Whether one more multipart object should be open.
    fn opens_more(&self, width: u32) -> bool {
        let lacks_parts = self.open_parts < 2 * u64::from(width);
        self.open_large < OPEN_UPLOADS || (lacks_parts && self.open_large < MOST_OPEN_UPLOADS)
    }

    fn spawn(&mut self, mut step: Step) {
        let then = step.turn.as_mut().and_then(|turn| turn.then.take());
        let (source, destination) = self.work.location(&step);
        let parts = step.route.parts();
        let open = Open { object: step.object, source, destination, size: step.entry.size, parts, then };
        let work = Arc::clone(&self.work);
        let handle = self.tasks.spawn(async move { work.run(step).await });
        self.open_large += usize::from(parts > 0);
        self.open_parts += u64::from(parts);
        self.open_heavy += u32::from(open.is_heavy());
        self.open.insert(handle.id(), open);
    }

    /// Puts a step in line, or before all others.
    pub(super) fn queue(&mut self, mut step: Box<Step>, first: bool) {
        self.record.plan(&mut step);
        match step.route.parts() {
            0 if first => self.small.push_front(step),
            0 if step.entry.size > BULK_FROM => self.heavy.push(BySize(step)),
            0 => self.small.push_back(step),
            _ => self.large.push(BySize(step)),
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Planned(range, batch) => {
                self.record.turn_to(range);
                for planned in batch {
                    self.take(planned);
                }
            }
            News::Cut(cut) => self.record.cut(cut),
            News::Ended(range) => self.record.planned(range),
        }
    }

    fn take(&mut self, planned: Planned) {
        match planned {
            Planned::Step(step) => {
                self.announce(&step);
                self.queue(step, false);
            }
            Planned::Skip(entry, key, reason) => {
                let passed = entry.key.clone();
                let receipt = self.skipped(*entry, key, reason);
                self.count(&receipt);
                self.record.skip(passed, &receipt);
            }
            Planned::Archived(entry, key) => {
                let passed = entry.key.clone();
                self.fail_archived(None, *entry, key);
                self.record.pass(passed);
            }
            Planned::Excluded(key) => {
                self.outcome.excluded_objects += 1;
                self.work.monitor.observe(&Event::Excluded);
                self.record.exclude(key);
            }
            Planned::Ignored(place, why) => {
                self.outcome.ignored += 1;
                self.work.monitor.observe(&Event::Ignored { place: &place, why });
                self.record.ignore();
            }
            Planned::Failed(place, failure) => {
                self.record.miss();
                self.fail(None, place, &failure);
            }
            Planned::Again(object, planned) => self.take_again(object, *planned),
        }
    }

    /// What became of an object that an earlier session has planned.
    fn take_again(&mut self, object: u64, planned: Planned) {
        match planned {
            Planned::Step(mut step) => {
                step.object = Some(object);
                self.announce(&step);
                self.queue(step, false);
            }
            Planned::Skip(entry, key, reason) => {
                let receipt = self.skipped(*entry, key, reason);
                self.end_with(Some(object), &receipt);
            }
            Planned::Archived(entry, key) => self.fail_archived(Some(object), *entry, key),
            Planned::Failed(place, failure) => self.fail(Some(object), place, &failure),
            // Only a job that was changed meanwhile leaves out what it had planned.
            Planned::Excluded(_) | Planned::Ignored(..) | Planned::Again(..) => {
                let place = self.work.sides.transfer.to.location.to_string();
                let message = "the run had planned it, and the job as it is now leaves it out";
                let failure = Failure::new(FailureKind::Invalid, Operation::ListObjects, &*place, message);
                self.fail(Some(object), place, &failure);
            }
        }
    }

    fn skipped(&self, entry: Entry, key: ObjectKey, reason: Skip) -> Receipt {
        let step = Step::without_work(entry, key);
        let (source, destination) = self.work.location(&step);
        let draft = Draft { route: None, ..Draft::of(&step) };
        self.receipt(draft, source, destination, Ending::Skipped { reason })
    }

    fn fail(&mut self, object: Option<u64>, place: String, failure: &Failure) {
        let destination = self.work.sides.transfer.to.location.to_string();
        let ending = Ending::Failed { error: failure.into() };
        self.end_of(object, Draft::of_size(0), place, destination, ending);
    }

    fn fold(&mut self, joined: Result<(Id, Receipt), tokio::task::JoinError>) {
        match joined {
            Ok((id, receipt)) => {
                let (object, then) = self.closed(id).map_or((None, None), |open| (open.object, open.then));
                self.end_with(object, &receipt);
                if let Some(then) = then {
                    self.follow(then, &receipt);
                }
            }
            Err(error) => {
                let Some(open) = self.closed(error.id()) else { return };
                let message = format!("a task of ours panicked: {error}");
                let failure =
                    Failure::new(FailureKind::Bug, Operation::CopyObject, &*open.destination, message);
                let draft = Draft::of_size(open.size);
                let ending = Ending::Failed { error: (&failure).into() };
                if let Some(then) = open.then {
                    self.give_up(then, &ending);
                }
                self.end_of(open.object, draft, open.source, open.destination, ending);
            }
        }
    }

    fn closed(&mut self, id: Id) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.open_large -= usize::from(open.parts > 0);
        self.open_parts -= u64::from(open.parts);
        self.open_heavy -= u32::from(open.is_heavy());
        Some(open)
    }

    /// What waits when the run stops is on record as not done.
    fn give_up_waiting(&mut self) {
        let large = std::mem::take(&mut self.large).into_iter().chain(std::mem::take(&mut self.heavy));
        let waiting: Vec<_> = large.map(|BySize(step)| step).chain(std::mem::take(&mut self.small)).collect();
        for mut step in waiting {
            let then = step.turn.take().and_then(|turn| turn.then);
            let (source, destination) = self.work.location(&step);
            self.end_of(step.object, Draft::of(&step), source, destination, Ending::Stopped);
            if let Some(then) = then {
                self.give_up(then, &Ending::Stopped);
            }
        }
    }

    /// Ends an object that has no number in the journal.
    pub(super) fn end(&mut self, draft: Draft, source: String, destination: String, ending: Ending) {
        self.end_of(None, draft, source, destination, ending);
    }

    pub(super) fn end_of(
        &mut self,
        object: Option<u64>,
        draft: Draft,
        source: String,
        destination: String,
        ending: Ending,
    ) {
        let receipt = self.receipt(draft, source, destination, ending);
        self.end_with(object, &receipt);
    }

    fn receipt(&self, draft: Draft, source: String, destination: String, ending: Ending) -> Receipt {
        let transfer = self.work.sides.transfer.name.clone();
        draft.receipt(transfer, source, destination, Duration::ZERO, ending)
    }

    fn end_with(&mut self, object: Option<u64>, receipt: &Receipt) {
        self.count(receipt);
        // What ended the run is tried again when it goes on, and so is what failed after it.
        let goes_on = receipt.is_failure() && self.outcome.gave_up.is_some();
        self.record.end(object, receipt, goes_on);
    }

    fn count(&mut self, receipt: &Receipt) {
        self.outcome.count(receipt);
        self.work.monitor.observe(&Event::ObjectEnded(receipt));
        if let Ending::Failed { error } = &receipt.ending
            && self.outcome.gave_up.is_none()
            && let Some(gave_up) = self.is_hopeless(error)
        {
            tracing::warn!("giving up: {}", gave_up.reason);
            self.outcome.gave_up = Some(gave_up);
            self.stop.cancel();
        }
    }

    /// Whether going on after this failure would be in vain.
    fn is_hopeless(&self, error: &ErrorRecord) -> Option<GaveUp> {
        if error.ends_run {
            let reason = format!("{}: {}", error.code, error.message);
            return Some(GaveUp { reason, may_pass_later: error.may_pass_later });
        }
        let limit = self.max_failures?;
        let failed = self.outcome.failed_objects.saturating_sub(self.before.0);
        let ended = self.outcome.ended_objects().saturating_sub(self.before.1);
        limit.is_passed(failed, ended).then(|| {
            let reason =
                format!("{failed} of {ended} objects failed, more than `max_failures: {limit}` allows");
            GaveUp { reason, may_pass_later: false }
        })
    }
}
