//! The conductor: begins transfers, takes their steps from the planner, keeps the right objects
//! open, and folds what they come to.
//!
//! All transfers of a run share the places in flight. One begins in its turn, as soon as everything
//! that the ones before it found is begun or waits, so that the tail of one leaves no places empty,
//! or while they cannot keep the places busy; unless it has to wait for the end of another
//! ([`must_wait`]). Only single objects are planned side by side with others: a listing takes up
//! memory.
//!
//! The largest objects are opened first (their tail is what a run ends with) while small ones fill
//! the places beside them. As many uploads are open as it takes to have a part for every place, and
//! some more: the end of one object must not leave places empty until the next one has begun.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::OptionFuture;
use futures::stream::{BoxStream, SelectAll, StreamExt, once, poll_fn};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::again::Listed;
use super::breaker::{Breaker, Means, Suspect};
use super::fair::Shares;
use super::monitor::{Event, Monitor};
use super::outcome::Outcome;
use super::receipt::{Draft, Ending, Receipt};
use super::record::{self, Record};
use super::running::{Open, Running};
use super::series::{Held as Refused, Series};
use super::waiting::{Queued, Waiting};
use super::{LINE, Work};
use crate::location::ObjectKey;
use crate::manifest::job::{Job, Source};
use crate::manifest::must_wait;
use crate::pace::Slots;
use crate::planner::{Held, Misses, News, Planned, Planning, Step};
use crate::s3::{Failure, FailureKind, Operation};

/// Multipart objects that are open at the same time, whatever they are cut into.
const OPEN_UPLOADS: usize = 48;
/// At most so many are open, where each has so few parts that more of them are needed to fill all
/// places.
const MOST_OPEN_UPLOADS: usize = 1024;
/// Single objects that are looked for at once, each of which is a transfer.
const OBJECTS_AT_ONCE: usize = 32;

/// Transfers that are planned at once while those that have begun do not keep the places busy.
const PLANNED_AT_ONCE: usize = 4;
/// The interval at which open transfers are checked if no event arrives.
const LOOK: Duration = Duration::from_millis(250);
/// If no object ends for this long, the next transfer starts too.
const STALLED: Duration = Duration::from_secs(2);

/// The next transfer begins while fewer objects wait.
const FEW: usize = 4096;

/// So many more objects are open than there are places: one is there when a place becomes free.
const AHEAD: u32 = 64;
/// At least so many, and a quarter of the places: what is slow would fill all places from among
/// those that wait.
const FEW_AHEAD: u32 = 2;

/// Owns the state of a run's objects.
pub(super) struct Conductor<'a> {
    pub(super) job: &'a Job,
    pub(super) stop: CancellationToken,
    slots: Slots,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) outcome: &'a mut Outcome,
    /// Objects that had failed and ended when this session began.
    pub(super) before: (u64, u64),
    /// Transfers that have not begun, by their place in the job.
    coming: VecDeque<(u32, Arc<Work>)>,
    pub(super) transfers: BTreeMap<u32, Running>,
    /// What is told of the transfers that are being planned; `None` at the end of each.
    news: SelectAll<BoxStream<'static, (u32, Option<News>)>>,
    pub(super) waiting: Waiting,
    tasks: JoinSet<(Receipt, Box<Step>)>,
    /// What is under way, so that a task that panics can still be named.
    pub(super) open: HashMap<Id, Open>,
    /// Open objects by prefix.
    shares: Shares,
    /// The time at which an object ended last.
    last_end: Instant,
    /// Places are free although objects wait.
    is_hungry: bool,
    open_large: usize,
    /// Their parts.
    open_parts: u64,
    /// Copies in one request that take long.
    open_heavy: u32,
    pub(super) breaker: Breaker,
    /// Failures that the breaker holds back.
    pub(super) suspects: Vec<Suspect>,
    /// Set when the breaker ended the session.
    pub(super) is_tripped: bool,
    pub(super) series: Series,
    /// Cancelled when nobody answers what is under way.
    pub(super) in_vain: CancellationToken,
    /// Cancelled when the first bytes were copied.
    copied: CancellationToken,
}

impl<'a> Conductor<'a> {
    /// For these transfers of the job, each with its place there.
    pub(super) fn new(
        job: &'a Job,
        coming: VecDeque<(u32, Arc<Work>)>,
        Means {
            slots,
            monitor,
            stop,
            in_vain,
            copied,
            copies,
            patience,
            probes,
        }: Means,
        outcome: &'a mut Outcome,
    ) -> Self {
        let has_succeeded = outcome.done_objects > 0;
        Self {
            job,
            stop,
            slots,
            monitor,
            before: (outcome.failed_objects, outcome.ended_objects()),
            outcome,
            coming,
            transfers: BTreeMap::new(),
            news: SelectAll::new(),
            waiting: Waiting::default(),
            tasks: JoinSet::new(),
            open: HashMap::new(),
            shares: Shares::default(),
            last_end: Instant::now(),
            is_hungry: false,
            open_large: 0,
            open_parts: 0,
            open_heavy: 0,
            breaker: Breaker::new(job.limits.max_failures, has_succeeded),
            suspects: Vec::new(),
            is_tripped: false,
            series: Series::new(job.limits.max_failures, copies, (patience, probes)),
            in_vain,
            copied,
        }
    }

    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let mut stopping = false;
        loop {
            self.pause_or_settle();
            self.write().await;
            self.begin_transfers();
            self.begin();
            let waits = self.waiting.len() > 0 || self.series.is_paused();
            let look = self.series.next_look();
            // Others may be begun once it turns out that what is open waits for something.
            let next_look = Instant::now() + LOOK;
            let may_stall = !self.open.is_empty() && (waits || !self.coming.is_empty());
            let is_busy = waits || !self.tasks.is_empty() || self.planned().next().is_some();
            let copied = self.copied.clone();
            tokio::select! {
                Some((transfer, news)) = self.news.next() => self.hear(transfer, news),
                Some(joined) = self.tasks.join_next_with_id() => self.fold(joined),
                () = copied.cancelled(), if is_busy && !stopping && self.breaker.is_on() => self.see_progress(),
                () = sleep_until(next_look), if may_stall => {}
                Some(()) = OptionFuture::from(look.map(sleep_until)), if !stopping => self.look_again(),
                () = stop.cancelled(), if is_busy && !stopping => {
                    stopping = true;
                    self.news = SelectAll::new();
                    self.give_up_waiting();
                }
                else => break,
            }
        }
        self.clear_suspects();
        self.end_series();
        for running in self.transfers.values_mut() {
            running.record.flush_all();
            running.record.leave_unlisted();
        }
        self.write().await;
    }

    /// Hands over what happened to the journal.
    async fn write(&mut self) {
        for running in self.transfers.values_mut() {
            running.record.write().await;
        }
        for running in self.transfers.values().filter(|running| running.is_over()) {
            self.outcome.hints.extend(running.misses.hints());
        }
        self.transfers.retain(|_, running| !running.is_over());
    }

    /// Begins those transfers whose turn it is.
    fn begin_transfers(&mut self) {
        if self.stop.is_cancelled() {
            return;
        }
        while let Some((number, work)) = self.coming.front()
            && self.may_begin(work)
        {
            let (number, work) = (*number, Arc::clone(work));
            self.coming.pop_front();
            let (name, of) = (&work.sides.transfer.name, self.job.transfers.len());
            self.monitor.observe(&Event::TransferBegan {
                name,
                number: number as usize + 1,
                of,
            });
            let Planning { mut news, hunger } = record::planning(&work, number);
            let told = poll_fn(move |context| {
                news.poll_recv(context)
                    .map(|news| Some((number, Some(news?))))
            })
            .chain(once(async move { (number, None) }));
            self.news.push(told.boxed());
            let (record, misses) = (Record::new(&work, number), Misses::of(&work.sides.transfer));
            let has_found = work
                .resumed
                .ranges_of(number)
                .any(|(_, range)| range.passed.is_some());
            let (listed, is_planned, excluded, left) = (Listed::of(&work, number), false, 0, 0);
            let running = Running {
                work,
                record,
                listed,
                misses,
                hunger,
                is_planned,
                has_found,
                excluded,
                left,
            };
            self.transfers.insert(number, running);
        }
    }

    /// Whether it is a transfer's turn.
    fn may_begin(&self, work: &Work) -> bool {
        let is_one = |work: &Work| matches!(work.sides.transfer.from, Source::Object { .. });
        let (_, width) = self.slots.in_flight();
        let is_stalled = self.is_stalled() && self.planned().count() < PLANNED_AT_ONCE;
        if !is_stalled && (!self.opens_more(width) || self.waiting.len() >= FEW) {
            return false;
        }
        let mut planned = self.planned();
        let may_join = is_one(work) && self.planned().count() < OBJECTS_AT_ONCE;
        let waits_for =
            |other: &Running| must_wait(self.job, &work.sides.transfer, &other.work.sides.transfer);
        let has_turn = is_stalled || planned.all(|other| may_join && is_one(&other.work));
        has_turn && !self.transfers.values().any(waits_for)
    }

    /// Returns true while the transfers that have begun do not keep the places busy: their objects
    /// wait for a rate, or for answers.
    fn is_stalled(&self) -> bool {
        self.is_hungry || (!self.open.is_empty() && self.last_end.elapsed() >= STALLED)
    }

    /// Transfers of which more may be found.
    pub(super) fn planned(&self) -> impl Iterator<Item = &Running> {
        self.transfers
            .values()
            .filter(|running| !running.is_planned)
    }

    /// Opens as many objects as the places can serve, the largest first.
    fn begin(&mut self) {
        self.trip();
        if self.stop.is_cancelled() || self.series.is_paused() {
            return;
        }
        let (_, width) = self.slots.in_flight();
        while self.opens_more(width)
            && self.breaker.may_open(self.open.len())
            && let Some(queued) = self.pop_large()
        {
            self.spawn(queued);
        }
        while self.open_heavy < width + AHEAD
            && self.breaker.may_open(self.open.len())
            && let Some(queued) = self.pop_heavy()
        {
            self.spawn(queued);
        }
        // An object whose request waits has given its place back.
        let places = self.slots.for_small();
        let small = places + self.slots.parked_small() + AHEAD.min((places / 4).max(FEW_AHEAD));
        while self.open_small() < small as usize && self.breaker.may_open(self.open.len()) {
            // What waits for a rate takes none of the places that others could use; somebody always
            // goes on.
            let is_idle = self.open_small() == 0;
            let (transfers, shares) = (&self.transfers, &self.shares);
            let is_free = |queued: &Queued| is_idle || is_free(transfers, queued);
            let Some(queued) = self
                .waiting
                .pop_small(is_free, |group| shares.open_in(group))
            else {
                break;
            };
            self.spawn(queued);
        }
        let is_hungry = self.open_small() < small as usize;
        self.is_hungry = is_hungry && self.waiting.len() > 0;
        self.planned()
            .for_each(|running| running.hunger.set(is_hungry));
    }

    /// The largest that would not stand in line; somebody always goes on.
    fn pop_large(&mut self) -> Option<Queued> {
        let (transfers, is_idle) = (&self.transfers, self.open_large == 0);
        self.waiting
            .pop_large(|queued| is_idle || is_free(transfers, queued))
    }

    fn pop_heavy(&mut self) -> Option<Queued> {
        let (transfers, is_idle) = (&self.transfers, self.open_heavy == 0);
        self.waiting
            .pop_heavy(|queued| is_idle || is_free(transfers, queued))
    }

    fn open_small(&self) -> usize {
        self.open.len() - self.open_large - self.open_heavy as usize
    }

    /// Whether one more multipart object should be open.
    fn opens_more(&self, width: u32) -> bool {
        let opens = |large: usize, parts: u64| {
            let lacks_parts = parts < 2 * u64::from(width);
            large < OPEN_UPLOADS || (lacks_parts && large < MOST_OPEN_UPLOADS)
        };
        if opens(self.open_large, self.open_parts) || self.open_large >= MOST_OPEN_UPLOADS {
            return self.open_large < MOST_OPEN_UPLOADS;
        }
        // Those that wait because everything is refused use no places.
        let is_shut = |open: &&Open| {
            let running = self.transfers.get(&open.transfer);
            open.parts > 0 && running.is_some_and(|running| running.work.is_shut(&open.key))
        };
        let (large, parts) = self
            .open
            .values()
            .filter(is_shut)
            .fold((0, 0), |(large, parts), open| {
                (large + 1, parts + u64::from(open.parts))
            });
        large > 0
            && opens(
                self.open_large - large,
                self.open_parts.saturating_sub(parts),
            )
    }

    pub(super) fn spawn(&mut self, queued: Queued) {
        let Queued {
            transfer,
            mut step,
            held,
        } = queued;
        drop(held);
        let Some(running) = self.transfers.get(&transfer) else {
            return;
        };
        let work = Arc::clone(&running.work);
        let then = step.turn.as_mut().and_then(|turn| turn.then.take());
        let (source, destination) = work.location(&step);
        let parts = step.route.parts();
        let group = self.shares.group(transfer, &step.entry.key);
        self.shares.opened(&group);
        let size = step.entry.size;
        let (object, key) = (step.object, step.key.clone());
        let open = Open {
            transfer,
            object,
            source,
            destination,
            key,
            size,
            parts,
            group,
            then,
        };
        let handle = self.tasks.spawn(async move {
            let receipt = work.run(&step).await;
            (receipt, step)
        });
        self.open_large += usize::from(parts > 0);
        self.open_parts += u64::from(parts);
        self.open_heavy += u32::from(open.is_heavy());
        self.open.insert(handle.id(), open);
    }

    fn hear(&mut self, transfer: u32, news: Option<News>) {
        // What is not heard is not passed by: the next session finds it again.
        if self.stop.is_cancelled() {
            return;
        }
        let Some(running) = self.transfers.get_mut(&transfer) else {
            return;
        };
        match news {
            Some(News::Planned(range, batch, mut held)) => {
                running.record.turn_to(range);
                for planned in batch {
                    self.take(transfer, planned, &mut held);
                    if self.stop.is_cancelled() {
                        return;
                    }
                }
            }
            Some(News::Cut(cut)) => running.record.cut(cut),
            Some(News::Ended(range)) => running.record.planned(range),
            None => {
                running.is_planned = true;
                if !running.has_found {
                    self.outcome.empty.extend(running.empty());
                }
                if self.coming.is_empty() && self.planned().next().is_none() {
                    self.monitor.observe(&Event::PlanEnded);
                }
                self.settle(transfer);
            }
        }
    }

    fn take(&mut self, transfer: u32, planned: Planned, held: &mut Option<Held>) {
        let Some(running) = self.transfers.get_mut(&transfer) else {
            return;
        };
        running.misses.observe(&running.work.sides, &planned);
        running.has_found |= !matches!(planned, Planned::Excluded(_) | Planned::Ignored(..));
        match planned {
            Planned::Step(step) => self.queue(transfer, step, held.as_mut()),
            Planned::Skip(entry, key, reason) => self.skip(transfer, *entry, key, reason, held),
            Planned::Archived(entry, key) => {
                let passed = entry.key.clone();
                self.fail_archived(transfer, None, *entry, key);
                self.pass(transfer, passed);
            }
            Planned::Excluded(key) => {
                running.excluded += 1;
                running.record.exclude(key);
                self.outcome.excluded_objects += 1;
                self.monitor.observe(&Event::Excluded);
            }
            Planned::Ignored(place, why) => {
                running.record.ignore();
                self.outcome.ignored += 1;
                self.monitor.observe(&Event::Ignored { place: &place, why });
            }
            Planned::Failed(key, place, failure) => {
                self.fail(transfer, None, place, &failure);
                if let Some(key) = key {
                    self.pass(transfer, key);
                }
            }
            Planned::Unlisted(place, failure) => {
                let receipt = running.failed(place, &failure);
                self.outcome.unlisted.observe(&failure);
                self.count(&receipt);
                self.tell(transfer, |record| record.unlisted(&receipt));
            }
            Planned::Again(object, planned) => self.take_again(transfer, object, *planned, held),
        }
    }

    /// Puts a step in line.
    pub(super) fn queue(&mut self, transfer: u32, mut step: Box<Step>, held: Option<&mut Held>) {
        let Some(running) = self.transfers.get_mut(&transfer) else {
            return;
        };
        running.work.announce(&step);
        let range = running.plan(&mut step);
        if let Some(group) = self.shares.learn(transfer, &step.entry.key) {
            let open = self.open.values_mut().map(|open| &mut open.group);
            let groups = open.chain(self.waiting.groups());
            groups
                .filter(|old| old.is_of(transfer))
                .for_each(|old| old.clone_from(&group));
        }
        let held = held.and_then(Held::split);
        let group = self.shares.group(transfer, &step.entry.key);
        self.waiting.push(
            range,
            group,
            Queued {
                transfer,
                step,
                held,
            },
        );
    }

    /// Puts the next version of a key before all others.
    pub(super) fn queue_next(&mut self, transfer: u32, mut step: Box<Step>) {
        let Some(running) = self.transfers.get_mut(&transfer) else {
            return;
        };
        running.plan(&mut step);
        self.waiting.push_first(Queued {
            transfer,
            step,
            held: None,
        });
    }

    /// Ends a transfer of which nothing is left to do.
    fn settle(&mut self, transfer: u32) {
        if self.transfers.get(&transfer).is_some_and(Running::is_over) {
            self.clear_suspects_of(transfer);
        }
        if let Some(running) = self.transfers.get_mut(&transfer)
            && running.is_over()
        {
            running.record.end_transfer(!self.stop.is_cancelled());
        }
    }

    pub(super) fn tell(&mut self, transfer: u32, what: impl FnOnce(&mut Record)) {
        if let Some(running) = self.transfers.get_mut(&transfer) {
            what(&mut running.record);
        }
    }

    pub(super) fn work(&self, transfer: u32) -> Option<Arc<Work>> {
        self.transfers
            .get(&transfer)
            .map(|running| Arc::clone(&running.work))
    }

    pub(super) fn fail(
        &mut self,
        transfer: u32,
        object: Option<u64>,
        place: String,
        failure: &Failure,
    ) {
        let Some(running) = self.transfers.get(&transfer) else {
            return;
        };
        let receipt = running.failed(place, failure);
        self.end_with(transfer, object, &receipt);
    }

    /// A key that failed before it had a number is over, unless the run ends with it.
    fn pass(&mut self, transfer: u32, key: ObjectKey) {
        if self.outcome.gave_up.is_none() {
            self.tell(transfer, |record| record.pass(key));
        }
    }

    fn fold(&mut self, joined: Result<(Id, (Receipt, Box<Step>)), tokio::task::JoinError>) {
        let (id, receipt) = match joined {
            Ok((id, receipt)) => (id, Ok(receipt)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(open) = self.closed(id) else { return };
        let transfer = open.transfer;
        match receipt {
            Ok((receipt, step)) => {
                let is_single = open.then.is_none();
                let receipt = self.without_blame(receipt);
                let held = Refused {
                    transfer,
                    step,
                    receipt,
                };
                let Some(Refused { receipt, .. }) = self.end_or_hold(held, is_single) else {
                    return;
                };
                if let Some(then) = open.then {
                    self.end_or_suspect(transfer, open.object, receipt.clone(), true);
                    self.follow(transfer, then, &receipt);
                } else {
                    self.end_or_suspect(transfer, open.object, receipt, false);
                }
            }
            Err(error) => {
                let message = format!("a task of ours panicked: {error}");
                let failure = Failure::new(
                    FailureKind::Bug,
                    Operation::CopyObject,
                    &*open.destination,
                    message,
                );
                let draft = Draft::of_size(open.size);
                let ending = Ending::Failed {
                    error: (&failure).into(),
                };
                if let Some(then) = open.then {
                    self.give_up(transfer, then, &ending);
                }
                self.end_of(
                    transfer,
                    open.object,
                    draft,
                    open.source,
                    open.destination,
                    ending,
                );
            }
        }
        self.over(transfer);
    }

    /// One object less to do.
    pub(super) fn over(&mut self, transfer: u32) {
        if let Some(running) = self.transfers.get_mut(&transfer) {
            running.left -= 1;
        }
        self.settle(transfer);
    }

    fn closed(&mut self, id: Id) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.shares.closed(&open.group);
        self.last_end = Instant::now();
        self.open_large -= usize::from(open.parts > 0);
        self.open_parts -= u64::from(open.parts);
        self.open_heavy -= u32::from(open.is_heavy());
        Some(open)
    }

    /// What waits when the run stops is on record as not done.
    fn give_up_waiting(&mut self) {
        for Queued {
            transfer, mut step, ..
        } in self.waiting.take()
        {
            let then = step.turn.take().and_then(|turn| turn.then);
            let Some(work) = self.work(transfer) else {
                continue;
            };
            let (source, destination) = work.location(&step);
            self.end_of(
                transfer,
                step.object,
                Draft::of(&step),
                source,
                destination,
                Ending::Stopped,
            );
            if let Some(then) = then {
                self.give_up(transfer, then, &Ending::Stopped);
            }
            self.over(transfer);
        }
    }

    pub(super) fn end_of(
        &mut self,
        transfer: u32,
        object: Option<u64>,
        draft: Draft,
        source: String,
        destination: String,
        ending: Ending,
    ) {
        let Some(running) = self.transfers.get(&transfer) else {
            return;
        };
        let receipt = running.receipt(draft, source, destination, ending);
        self.end_with(transfer, object, &receipt);
    }

    pub(super) fn end_with(&mut self, transfer: u32, object: Option<u64>, receipt: &Receipt) {
        self.count(receipt);
        // What ended the run is tried again when it goes on, and so is what failed after it; but
        // not a bad copy, which looks like a good one then.
        let is_published =
            matches!(&receipt.ending, Ending::Failed { error } if error.is_published);
        let goes_on = receipt.is_failure() && self.outcome.gave_up.is_some() && !is_published;
        self.tell(transfer, |record| record.end(object, receipt, goes_on));
    }
}

/// Returns true if the requests of an object would not have to stand in line.
fn is_free(transfers: &BTreeMap<u32, Running>, queued: &Queued) -> bool {
    transfers
        .get(&queued.transfer)
        .is_none_or(|running| running.work.line(&queued.step) < LINE)
}
