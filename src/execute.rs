//! Executes the planned steps.
//!
//! The [`conductor`] owns the state of all transfers. Each object runs in its own task
//! ([`object`]), which takes a [`Step`] and returns a [`Receipt`](receipt::Receipt). A panic fails
//! only the object of that task. [`crate::pace`] decides how many requests are in flight.
//!
//! A stop is orderly: no new work starts, requests in flight may finish, and unfinished uploads are
//! aborted or left to the next session. The receipt of each unfinished object says that it was
//! stopped. All of this must fit in the drain time ([`RetryPolicy::drain`]), so a request that
//! waits for a retry ends at once.

mod again;
mod beliefs;
mod breaker;
mod buffers;
mod conductor;
mod fair;
mod history;
mod learned;
pub mod monitor;
mod object;
mod outcome;
pub(crate) mod prove;
pub(crate) mod read;
pub mod receipt;
mod record;
mod refusals;
mod replan;
mod running;
pub mod sample;
mod series;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::connections::Connections;
use crate::journal::Journal;
use crate::journal::state::RunState;
use crate::listing::Entry;
use crate::listing::bisect::KeyRange;
use crate::location::{LocalPath, ObjectKey, S3Uri};
use crate::manifest::job::{Job, Source, Transfer};
use crate::pace::RetryPolicy;
pub use crate::pace::retry::DRAIN;
use crate::pace::slots::SlotKind;
use crate::pace::{Pacer, Slot, Slots};
use crate::planner::{Sides, Step};
use crate::s3::{Failure, RequestClass};
use breaker::{ConductorParts, CopyMonitor};
use buffers::Buffers;
use conductor::Conductor;
use learned::LearnedRates;
use monitor::Monitor;
use object::upload::orphans::Orphans;
pub use outcome::{Earlier, GaveUp, Outcome};
use receipt::seconds;
use refusals::Refusals;
use series::Copies;

/// The longest drain time of a run that gave up for a reason that may pass later, such as a server
/// that does not answer.
const SHORT_DRAIN: Duration = Duration::from_secs(5);
/// While other objects are in progress, an object whose requests would queue for this long is not
/// started.
const LONG_QUEUE: Duration = Duration::from_millis(200);
/// The memory for parts of local files, in MiB. Counts the lengths of the parts; their
/// [`Buffers`] may be larger.
const UPLOAD_MEMORY_MIB: u32 = 256;

/// The state that all objects of a transfer share.
struct TransferContext {
    sides: Sides,
    /// The keys of the transfer that this run copies. The range has the same number as the
    /// transfer.
    range: KeyRange,
    monitor: Arc<dyn Monitor>,
    journal: Journal,
    /// The journal's state when this session began: the progress of the run, and its open uploads.
    resumed: Arc<RunState>,
    /// The number of objects of earlier sessions that stay counted when the transfer is listed
    /// again.
    counted_before: u64,
    /// The open uploads of earlier sessions that no object has claimed yet.
    orphans: Arc<Orphans>,
    /// True if the transfer adopts open uploads that no journal records.
    adopts: bool,
    /// Canceled when no new work may start.
    stop: CancellationToken,
    /// Canceled when requests in flight may no longer finish.
    halt: CancellationToken,
    /// The memory for parts of local files, in MiB.
    memory: Arc<Semaphore>,
    /// Used buffers, kept for other parts.
    buffers: Buffers,
    /// The requests and attributes that the buckets have refused so far.
    refusals: Arc<Refusals>,
    /// The next number that identifies a multipart object in the events of the monitor.
    ids: AtomicU64,
}

impl TransferContext {
    fn slots(&self) -> &Slots {
        self.sides.destination.pacer().slots()
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits until the cleanup time is over, which begins when a stopped run is halted.
    async fn abort_time_over(&self) {
        self.stop.cancelled().await;
        self.halt.cancelled().await;
        sleep(self.abort_time()).await;
    }

    /// Returns how long the abort of an upload may take once the run is halted. The process ends
    /// when the drain time is over, and before that the report must name the uploads that stay
    /// open.
    fn abort_time(&self) -> Duration {
        self.sides.destination.pacer().retry.cleanup_time() / 2
    }

    /// Waits for a slot for a request that is not a part. Returns `None` after a stop, when such a
    /// request may be sent without a slot.
    async fn small_slot(&self) -> Option<Slot> {
        self.slots().request(SlotKind::Small).await.ok()
    }

    /// Returns true while a write to this key would have to wait long in the queue.
    fn is_clogged(&self, key: &ObjectKey) -> bool {
        self.is_shut(key)
            || self.sides.destination.queue_delay(RequestClass::Write, key) >= LONG_QUEUE
    }

    /// Returns true while the destination refuses every write in the lane of this key.
    fn is_shut(&self, key: &ObjectKey) -> bool {
        self.sides.destination.is_shut(RequestClass::Write, key)
    }

    /// Returns how long the requests of a step would have to wait in the queue.
    fn queue_delay(&self, step: &Step) -> Duration {
        let Sides {
            source,
            destination,
            ..
        } = &self.sides;
        let reads = source
            .as_ref()
            .map(|source| source.queue_delay(RequestClass::Read, &step.entry.key));
        destination
            .queue_delay(RequestClass::Write, &step.key)
            .max(reads.unwrap_or_default())
    }

    /// Returns the source and the destination of a step, for its receipt.
    fn location(&self, step: &Step) -> (String, String) {
        self.location_of(&step.entry, &step.key)
    }

    /// Returns the full names of a source entry and of a destination key.
    fn location_of(&self, entry: &Entry, key: &ObjectKey) -> (String, String) {
        let bucket = &self.sides.transfer.to.location.bucket;
        (self.sides.name_of(entry), S3Uri::text_of(bucket, key))
    }
}

/// A job, and everything that its run needs.
pub struct Execution<'a> {
    /// The job.
    pub job: &'a Job,
    /// The connections to its endpoints.
    pub connections: &'a mut Connections,
    /// Receives the events.
    pub monitor: Arc<dyn Monitor>,
    /// Records the events. [`journal::off`](crate::journal::off) keeps nothing.
    pub journal: &'a Journal,
    /// The state of the journal when this session began, from which the run continues. A new run
    /// has the default state.
    pub resumed: &'a Arc<RunState>,
    /// The range of keys to copy for each transfer, by the transfer's position; `None` copies all
    /// keys of all transfers.
    pub ranges: Option<&'a BTreeMap<u32, KeyRange>>,
    /// Stops the run in an orderly way when it is canceled.
    pub stop: &'a CancellationToken,
    /// The token that `connections` was created with. It is canceled when requests in flight may
    /// no longer finish.
    pub halt: &'a CancellationToken,
}

/// Runs all transfers of a job.
///
/// # Errors
/// Fails if a bucket cannot be used, before the first byte is copied. Objects that fail are counted
/// in the outcome.
pub async fn run(
    Execution {
        job,
        connections,
        monitor,
        journal,
        resumed,
        ranges,
        stop,
        halt,
    }: Execution<'_>,
) -> Result<Outcome, Failure> {
    let began = Instant::now();
    let (copied, progress) = (CancellationToken::new(), Copies::default());
    let counting_monitor = CopyMonitor {
        inner: monitor,
        copied: copied.clone(),
        copies: progress.clone(),
    };
    let monitor: Arc<dyn Monitor> = Arc::new(counting_monitor);
    let (concurrency, all_sides) = connected(job, connections, resumed).await?;
    let pacer = Arc::clone(connections.pacer());
    pacer.slots().start_at(concurrency);
    let rates = LearnedRates::recall(Arc::clone(&pacer), journal.clone(), resumed);
    let rates = Arc::new(rates);
    let short_drain = CancellationToken::new();
    // These tasks hold the journal and the tokens of the run, so they must end with it, even if the
    // run's future is dropped: a `JoinSet` aborts its tasks when it is dropped.
    let mut watchers = JoinSet::new();
    watchers.spawn(halt_after_drain(
        Arc::clone(&pacer),
        short_drain.clone(),
        stop.clone(),
        halt.clone(),
    ));
    // A run must not continue without its journal, since no later session would know what it did.
    watchers.spawn(stop_without_journal(
        journal.clone(),
        stop.clone(),
        halt.clone(),
    ));
    watchers.spawn(Arc::clone(&rates).keep());
    let listed_anew = record::listed_anew(resumed, (0..).zip(&all_sides));
    let mut before = RunState::clone(resumed);
    let counted_before: BTreeMap<_, _> = listed_anew
        .iter()
        .map(|number| (*number, before.relist(*number)))
        .collect();
    let mut outcome = Outcome::of_earlier(&before);
    let refusals = Arc::new(Refusals::new(pacer.retry.questions));
    let default_patience = RetryPolicy::default().patience;
    let patience = job.limits.patience.unwrap_or(default_patience);
    let orphans = Arc::new(Orphans::of(resumed, listed_anew, patience));
    tokio::select! {
        () = orphans.sweep(journal, &*monitor, (job, connections)) => {}
        () = stop.cancelled() => {}
    }
    let (memory, buffers) = (
        Arc::new(Semaphore::new(UPLOAD_MEMORY_MIB as usize)),
        Buffers::default(),
    );
    let mut queue = VecDeque::new();
    for (number, sides) in (0..).zip(all_sides) {
        let is_over = resumed.ended_transfers.contains(&number);
        let Some(range) = range_of(ranges, number).filter(|_| !is_over) else {
            continue;
        };
        let context = TransferContext {
            range,
            monitor: Arc::clone(&monitor),
            journal: journal.clone(),
            resumed: Arc::clone(resumed),
            counted_before: counted_before.get(&number).copied().unwrap_or_default(),
            orphans: Arc::clone(&orphans),
            // The bytes of standard input cannot be read again, so they cannot complete an open
            // upload.
            adopts: job.adopts && sides.transfer.from != Source::Stdin,
            sides,
            stop: stop.clone(),
            halt: halt.clone(),
            memory: Arc::clone(&memory),
            buffers: buffers.clone(),
            refusals: Arc::clone(&refusals),
            ids: AtomicU64::new(u64::from(number) << 48),
        };
        queue.push_back((number, Arc::new(context)));
    }
    let RetryPolicy {
        patience, probes, ..
    } = pacer.retry;
    let (slots, stop_run) = (pacer.slots().clone(), stop.clone());
    let parts = ConductorParts {
        totals: before.totals,
        slots,
        monitor: Arc::clone(&monitor),
        stop: stop_run,
        short_drain,
        copied,
        copies: progress,
        patience,
        probes,
    };
    Conductor::new(job, queue, parts, &mut outcome).run().await;
    // The uploads of objects that needed no copy are still open.
    tokio::select! {
        () = orphans.abort_rest(journal, &*monitor, (job, connections)), if !stop.is_cancelled() => {}
        () = stop.cancelled() => {}
    }
    drop(watchers);
    if stop.is_cancelled() {
        // Without this record, the next session starts with an older one.
        rates.record().await;
    }
    outcome.stopped = stop.is_cancelled();
    outcome.requests = pacer.counts();
    outcome.seconds += seconds(began.elapsed());
    Ok(outcome)
}

/// Returns the keys of a transfer that this run copies, or `None` if it copies none of them.
fn range_of(ranges: Option<&BTreeMap<u32, KeyRange>>, transfer: u32) -> Option<KeyRange> {
    match ranges {
        Some(ranges) => ranges.get(&transfer).map(|range| KeyRange {
            range: transfer,
            ..range.clone()
        }),
        None => Some(KeyRange {
            range: transfer,
            ..KeyRange::default()
        }),
    }
}

/// Connects both sides of all transfers. Returns them with the lowest initial number of requests in
/// flight among their destinations.
///
/// All buckets answer before the first byte is copied, so that a typo in the last transfer is
/// reported now and not in an hour.
async fn connected(
    job: &Job,
    connections: &mut Connections,
    resumed: &RunState,
) -> Result<(u32, Vec<Sides>), Failure> {
    let (mut concurrency, mut all_sides) = (u32::MAX, Vec::new());
    for transfer in &job.transfers {
        let (source, destination) = connections.of_transfer(transfer).await?;
        concurrency = concurrency.min(destination.capabilities().initial_in_flight);
        let mut transfer = transfer.clone();
        // A resumed run counts ages from the same time as its first session.
        let counted_from = resumed
            .run
            .as_ref()
            .and_then(|run| run.counted_from)
            .or(transfer.ages.counted_from);
        transfer.count_from(counted_from.unwrap_or_else(Timestamp::now));
        all_sides.push(Sides::new(&transfer, source, destination.parking_copies()));
    }
    Ok((concurrency, all_sides))
}

/// Waits for a stop, gives the requests in flight the drain time to finish, and then halts them.
async fn halt_after_drain(
    pacer: Arc<Pacer>,
    short_drain: CancellationToken,
    stop: CancellationToken,
    halt: CancellationToken,
) {
    stop.cancelled().await;
    pacer.stop();
    let drain = pacer.retry.drain.saturating_sub(pacer.retry.cleanup_time());
    sleep(if short_drain.is_cancelled() {
        drain.min(SHORT_DRAIN)
    } else {
        drain
    })
    .await;
    halt.cancel();
}

/// Ends the run when its journal cannot be written.
async fn stop_without_journal(journal: Journal, stop: CancellationToken, halt: CancellationToken) {
    journal.broken().cancelled().await;
    // The command fails with the journal's error, which gives the reason.
    tracing::error!(name: "stopping", "stopping: the journal cannot be used any more");
    stop.cancel();
    halt.cancel();
}

/// Returns the source and the destination of a transfer, for messages.
#[must_use]
pub fn describe(transfer: &Transfer) -> String {
    let from = match &transfer.from {
        Source::Object { location, .. } | Source::Prefix { location, .. } => location.to_string(),
        Source::Files {
            path: LocalPath(path),
            ..
        } => path.display().to_string(),
        Source::Stdin => "-".to_owned(),
    };
    format!("{from} -> {}", transfer.to.location)
}
