//! The conductor: takes steps from the planner, keeps the right objects open, and folds what they come to.
//!
//! It looks a window of steps ahead, and opens the largest objects first (their tail is what a run ends with) while small
//! ones fill the places beside them.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::monitor::Event;
use super::outcome::{GaveUp, Outcome};
use super::receipt::{Draft, Ending, ErrorRecord, Receipt};
use super::{Work, upload};
use crate::manifest::job::{FailureLimit, Source};
use crate::plan::condition::Seen;
use crate::plan::decide::{Reason, Route};
use crate::planner::{Following, Planned, Step};
use crate::s3::{Failure, FailureKind, Operation};

/// Steps that the conductor looks ahead to find the largest.
const WINDOW: usize = 4096;
/// Multipart objects that are open at the same time.
const OPEN_UPLOADS: usize = 48;

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
    pub(super) stop: CancellationToken,
    max_failures: Option<FailureLimit>,
    outcome: &'a mut Outcome,
    large: BinaryHeap<BySize>,
    small: VecDeque<Box<Step>>,
    tasks: JoinSet<Receipt>,
    /// What is under way, so that a task that panics can still be named.
    open: HashMap<Id, Open>,
    open_large: usize,
}

struct Open {
    source: String,
    destination: String,
    size: u64,
    large: bool,
    /// The newer versions of its key.
    then: Option<Box<Following>>,
}

impl<'a> Conductor<'a> {
    pub(super) fn new(work: Arc<Work>, max_failures: Option<FailureLimit>, outcome: &'a mut Outcome) -> Self {
        Self {
            stop: work.stop.clone(),
            work,
            max_failures,
            outcome,
            large: BinaryHeap::new(),
            small: VecDeque::new(),
            tasks: JoinSet::new(),
            open: HashMap::new(),
            open_large: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let mut steps = self.steps();
        let (mut planning, mut stopping) = (true, false);
        let stop = self.stop.clone();
        loop {
            self.begin();
            let room = self.large.len() + self.small.len() < WINDOW;
            tokio::select! {
                planned = steps.recv(), if planning && room => if let Some(planned) = planned { self.take(planned) } else {
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
    }

    /// The transfer's steps; standard input is one without a listing.
    fn steps(&self) -> mpsc::Receiver<Planned> {
        let sides = &self.work.sides;
        if sides.transfer.from != Source::Stdin {
            return sides.plan();
        }
        let (sender, receiver) = mpsc::channel(1);
        let step = upload::stdin_step(sides);
        // The channel has room for it.
        let _ = sender.try_send(step);
        receiver
    }

    /// Opens as many objects as the places can serve, the largest first.
    fn begin(&mut self) {
        if self.stop.is_cancelled() {
            return;
        }
        while self.open_large < OPEN_UPLOADS
            && let Some(BySize(step)) = self.large.pop()
        {
            self.spawn(*step, true);
        }
        let (_, width) = self.work.slots().in_flight();
        let room = width as usize + 64;
        while self.open.len() - self.open_large < room
            && let Some(step) = self.small.pop_front()
        {
            self.spawn(*step, false);
        }
    }

    fn spawn(&mut self, mut step: Step, large: bool) {
        let then = step.turn.as_mut().and_then(|turn| turn.then.take());
        let (source, destination) = self.work.location(&step);
        let open = Open { source, destination, size: step.entry.size, large, then };
        let work = Arc::clone(&self.work);
        let handle = self.tasks.spawn(async move { work.run(step).await });
        self.open_large += usize::from(large);
        self.open.insert(handle.id(), open);
    }

    /// Puts a step in line, or before all others.
    pub(super) fn queue(&mut self, step: Box<Step>, first: bool) {
        match step.route.parts() {
            0 if first => self.small.push_front(step),
            0 => self.small.push_back(step),
            _ => self.large.push(BySize(step)),
        }
    }

    fn take(&mut self, planned: Planned) {
        match planned {
            Planned::Step(step) => {
                self.announce(&step);
                self.queue(step, false);
            }
            Planned::Skip(entry, key, reason) => {
                let route = Route::Copy;
                let seen = Seen::Unknown;
                let step = Step {
                    entry: *entry,
                    key,
                    reason: Reason::Missing,
                    route,
                    seen,
                    object: None,
                    turn: None,
                };
                let (source, destination) = self.work.location(&step);
                self.end(
                    Draft { route: None, ..Draft::of(&step) },
                    source,
                    destination,
                    Ending::Skipped { reason },
                );
            }
            Planned::Archived(entry, key) => self.fail_archived(*entry, key),
            Planned::Excluded => {
                self.outcome.excluded_objects += 1;
                self.work.monitor.observe(&Event::Excluded);
            }
            Planned::Ignored(place, why) => {
                self.outcome.ignored += 1;
                self.work.monitor.observe(&Event::Ignored { place: &place, why });
            }
            Planned::Failed(place, failure) => {
                let draft = Draft::of_size(0);
                let destination = self.work.sides.transfer.to.location.to_string();
                self.end(draft, place, destination, Ending::Failed { error: (&failure).into() });
            }
        }
    }

    fn fold(&mut self, joined: Result<(Id, Receipt), tokio::task::JoinError>) {
        match joined {
            Ok((id, receipt)) => {
                let then = self.closed(id).and_then(|open| open.then);
                self.record(&receipt);
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
                self.end(draft, open.source, open.destination, ending);
            }
        }
    }

    fn closed(&mut self, id: Id) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.open_large -= usize::from(open.large);
        Some(open)
    }

    /// What waits when the run stops is on record as not done.
    fn give_up_waiting(&mut self) {
        let large = std::mem::take(&mut self.large).into_iter().map(|BySize(step)| step);
        let waiting: Vec<_> = large.chain(std::mem::take(&mut self.small)).collect();
        for mut step in waiting {
            let then = step.turn.take().and_then(|turn| turn.then);
            let (source, destination) = self.work.location(&step);
            self.end(Draft::of(&step), source, destination, Ending::Stopped);
            if let Some(then) = then {
                self.give_up(then, &Ending::Stopped);
            }
        }
    }

    pub(super) fn end(&mut self, draft: Draft, source: String, destination: String, ending: Ending) {
        let transfer = self.work.sides.transfer.name.clone();
        let receipt = draft.receipt(transfer, source, destination, Duration::ZERO, ending);
        self.record(&receipt);
    }

    pub(super) fn record(&mut self, receipt: &Receipt) {
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
        let (failed, ended) = (self.outcome.failed_objects, self.outcome.ended_objects());
        limit.is_passed(failed, ended).then(|| {
            let reason =
                format!("{failed} of {ended} objects failed, more than `max_failures: {limit}` allows");
            GaveUp { reason, may_pass_later: false }
        })
    }
}
