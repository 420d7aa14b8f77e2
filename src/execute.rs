//! The conductor: takes steps from the planner, keeps the right objects open, and folds what they come to.
//!
//! One task owns the run's state. It looks a window of steps ahead, opens the largest objects first (their tail is
//! what a run ends with) while small ones fill the places beside them, and receives one [`Receipt`] per object. Each
//! object is a task of its own ([`object`], [`upload`]) that takes a value and returns a value; a panic in it fails
//! that object and nothing else. How many requests are in flight is not decided here but by [`crate::pace`].
//!
//! Stopping is orderly: no new work, requests under way end in peace within [`DRAIN`], unfinished uploads are aborted,
//! and every object that was not done says so.

mod archive;
mod attributes;
mod condition;
mod history;
mod layout;
mod listed;
mod mismatch;
pub mod monitor;
mod object;
mod outcome;
mod part;
pub(crate) mod prove;
pub(crate) mod read;
pub mod receipt;
mod upload;

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::connections::Connections;
use crate::location::{LocalPath, S3Uri};
use crate::manifest::job::{FailureLimit, Job, Source, Transfer};
use crate::multipart::MultipartUpload;
use crate::pace::slots::Want;
use crate::pace::{Slot, Slots};
use crate::plan::condition::Seen;
use crate::plan::decide::{Reason, Route};
use crate::planner::{Following, Planned, Sides, Step};
use crate::s3::{Failure, FailureKind, Operation};
use attributes::{Refusals, Wanted};
use monitor::{Event, Monitor};
pub use outcome::{GaveUp, Outcome};
use receipt::{Draft, Ending, ErrorRecord, Receipt, seconds};

/// Steps that the conductor looks ahead to find the largest.
const WINDOW: usize = 4096;
/// Multipart objects that are open at the same time.
const OPEN_UPLOADS: usize = 48;
/// How long requests under way may go on after a stop.
pub const DRAIN: Duration = Duration::from_secs(20);
/// How long an upload may take to abort, then.
const ABORT: Duration = Duration::from_secs(8);
/// Memory for parts of local files, in MiB.
const UPLOAD_MEMORY_MIB: u32 = 256;

/// Why an object is not done.
#[derive(Clone, Debug)]
enum Trouble {
    /// The source is another one by now: plan it again.
    SourceChanged,
    /// The source's parts do not end where they were believed to: plan it again and ask for each.
    OtherBoundaries,
    /// The run stops.
    Stopped,
    /// A request failed for good.
    Failed(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        match failure.kind() {
            FailureKind::Stopped => Self::Stopped,
            FailureKind::SourceChanged => Self::SourceChanged,
            _ => Self::Failed(failure),
        }
    }
}

/// What all objects of a transfer share.
struct Work {
    sides: Sides,
    monitor: Arc<dyn Monitor>,
    /// No new work.
    stop: CancellationToken,
    /// The time to let requests end in peace is over.
    halt: CancellationToken,
    /// MiB of memory for parts of local files.
    memory: Arc<Semaphore>,
    /// What buckets refused so far.
    refusals: Arc<Refusals>,
    ids: AtomicU64,
}

impl Work {
    fn slots(&self) -> &Slots {
        self.sides.destination.pacer().slots()
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Ends an upload that will not be completed. A failure to do so is on record, because its parts cost money.
    async fn abandon(&self, upload: &MultipartUpload, draft: &mut Draft) {
        let upload = upload.outliving_the_run();
        // Nobody is in a hurry until the run stops; from then on, seconds count.
        let hurry = async {
            self.stop.cancelled().await;
            sleep(ABORT).await;
        };
        let why = tokio::select! {
            outcome = upload.cancel() => match outcome {
                Ok(()) => return,
                Err(failure) => failure.to_string(),
            },
            () = hurry => format!("no answer within {} s", ABORT.as_secs()),
        };
        let left = format!("the upload {} is still open: {why}", upload.id());
        tracing::warn!(key = %upload.key(), "{left}");
        draft.notes.push(left);
    }

    /// A place for requests that are not parts. A stop gives no places, but what is begun may end.
    async fn place(&self) -> Option<Slot> {
        self.slots().request(Want::Small).await.ok()
    }

    fn location(&self, step: &Step) -> (String, String) {
        let bucket = self.sides.transfer.to.location.bucket.clone();
        (self.sides.name_of(&step.entry), S3Uri { bucket, key: step.key.clone() }.to_string())
    }

    /// Does one step from beginning to end.
    async fn run(&self, step: Step) -> Receipt {
        let began = Instant::now();
        let mut draft = Draft::of(&step);
        let outcome = match (&self.sides.source, &self.sides.transfer.from) {
            (Some(source), _) if step.route == Route::Restore => {
                archive::restore(self, source, &step, &mut draft).await
            }
            (Some(_), _) if step.route == Route::DeleteMarker => history::mark(self, &step, &mut draft).await,
            (Some(source), _) => object::copy(self, source, &step, &mut draft).await,
            (None, Source::Files { path, .. }) => upload::file(self, path, &step, &mut draft).await,
            (None, _) => upload::stdin(self, &step, &mut draft).await,
        };
        let outcome = match outcome {
            // What no header carries follows an upload too.
            Ok(ending) if self.sides.source.is_none() => {
                let wanted = Wanted::of_upload(self, &step.key);
                wanted.finish(None, &step.key, &ending, &mut draft).await.map(|()| ending)
            }
            outcome => outcome,
        };
        let ending = match outcome {
            Ok(ending) => ending,
            Err(Trouble::Stopped) => Ending::Stopped,
            Err(Trouble::SourceChanged | Trouble::OtherBoundaries) => {
                let message = "another writer was at work on the source or the destination";
                let operation = Operation::CompleteMultipartUpload;
                let failure = Failure::new(
                    FailureKind::Conflict,
                    operation,
                    self.sides.destination.place(&step.key),
                    message,
                );
                Ending::Failed { error: (&failure).into() }
            }
            Err(Trouble::Failed(failure)) => Ending::Failed { error: (&failure).into() },
        };
        let (source, destination) = self.location(&step);
        draft.receipt(self.sides.transfer.name.clone(), source, destination, began.elapsed(), ending)
    }
}

/// Runs all transfers of a job, one after another in the manifest's order.
///
/// `stop` ends the run in an orderly way; `halt` must be the token that `connections` was made with, it is cancelled when
/// the time to end in peace is over.
///
/// # Errors
/// What makes a bucket unusable as a whole; then nothing was written to it. Objects that fail are in the outcome.
pub async fn run(
    job: &Job,
    connections: &mut Connections,
    monitor: Arc<dyn Monitor>,
    stop: &CancellationToken,
    halt: &CancellationToken,
) -> Result<Outcome, Failure> {
    let began = Instant::now();
    // All buckets answer before the first byte moves: a typo in the last transfer is told now, not in an hour.
    for transfer in &job.transfers {
        connections.of_transfer(transfer).await?;
    }
    let pacer = Arc::clone(connections.pacer());
    let slots = pacer.slots().clone();
    let closer = tokio::spawn({
        let (stop, halt) = (stop.clone(), halt.clone());
        async move {
            stop.cancelled().await;
            slots.close();
            sleep(DRAIN).await;
            halt.cancel();
        }
    });
    let mut outcome = Outcome::default();
    let refusals = Arc::new(Refusals::default());
    for (index, transfer) in job.transfers.iter().enumerate() {
        if stop.is_cancelled() {
            break;
        }
        let (source, destination) = connections.of_transfer(transfer).await?;
        let of = job.transfers.len();
        monitor.observe(&Event::TransferBegan { name: &transfer.name, number: index + 1, of });
        let sides = Sides { transfer: Arc::new(transfer.clone()), source, destination };
        let work = Work {
            sides,
            monitor: Arc::clone(&monitor),
            stop: stop.clone(),
            halt: halt.clone(),
            memory: Arc::new(Semaphore::new(UPLOAD_MEMORY_MIB as usize)),
            refusals: Arc::clone(&refusals),
            ids: AtomicU64::new((index as u64) << 48),
        };
        Conductor::new(Arc::new(work), job.limits.max_failures, &mut outcome).run().await;
    }
    closer.abort();
    outcome.stopped = stop.is_cancelled();
    outcome.requests = pacer.counts();
    outcome.seconds = seconds(began.elapsed());
    Ok(outcome)
}

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
struct Conductor<'a> {
    work: Arc<Work>,
    stop: CancellationToken,
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
    fn new(work: Arc<Work>, max_failures: Option<FailureLimit>, outcome: &'a mut Outcome) -> Self {
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

    async fn run(mut self) {
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
    fn queue(&mut self, step: Box<Step>, first: bool) {
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
                let step = Step { entry: *entry, key, reason: Reason::Missing, route, seen, turn: None };
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

    fn end(&mut self, draft: Draft, source: String, destination: String, ending: Ending) {
        let transfer = self.work.sides.transfer.name.clone();
        let receipt = draft.receipt(transfer, source, destination, Duration::ZERO, ending);
        self.record(&receipt);
    }

    fn record(&mut self, receipt: &Receipt) {
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

/// A transfer's name and places, for messages.
#[must_use]
pub fn describe(transfer: &Transfer) -> String {
    let from = match &transfer.from {
        Source::Object { location, .. } | Source::Prefix { location, .. } => location.to_string(),
        Source::Files { path: LocalPath(path), .. } => path.display().to_string(),
        Source::Stdin => "-".to_owned(),
    };
    format!("{from} -> {}", transfer.to.location)
}
