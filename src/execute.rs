//! Executes the planned steps.
//!
//! One task owns the state of all transfers ([`conductor`]) and receives one [`Receipt`] per
//! object. Each object has a task of its own ([`object`], [`upload`]) that takes a value and
//! returns a value; a panic in it fails only that object. [`crate::pace`] decides how many requests
//! are in flight.
//!
//! Stopping is orderly: no new work is started, requests in flight may finish, unfinished uploads
//! are aborted, and the receipt of every object that is not done says so. All of this must fit in
//! the drain time ([`RetryPolicy::drain`]); a request that only waits for its next attempt ends at
//! once.

mod adopt;
mod again;
mod archive;
mod attributes;
mod beliefs;
mod breaker;
mod buffers;
mod claim;
mod condition;
mod conductor;
mod fair;
mod history;
mod in_place;
mod late;
mod layout;
mod learned;
mod listed;
mod mismatch;
pub mod monitor;
mod object;
mod outcome;
mod part;
pub(crate) mod prove;
mod published;
pub(crate) mod read;
pub mod receipt;
mod record;
mod refusals;
mod repair;
mod running;
pub mod sample;
mod sent;
mod series;
mod source;
mod stream;
mod tracked;
mod upload;
mod vouch;
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
use crate::listing::bisect::KeyRange;
use crate::location::{LocalPath, ObjectKey, S3Uri};
use crate::manifest::job::{Job, Source, Transfer};
use crate::multipart::{Aborted, MultipartUpload, Stray};
use crate::pace::RetryPolicy;
pub use crate::pace::retry::DRAIN;
use crate::pace::slots::Want;
use crate::pace::{Pacer, Slot, Slots};
use crate::plan::decide::Route;
use crate::planner::{Sides, Step};
use crate::s3::{Class, Failure, FailureKind, Operation};
use adopt::Inherited;
use attributes::Wanted;
use breaker::{Means, Noting};
use buffers::Buffers;
use conductor::Conductor;
use monitor::Monitor;
pub use outcome::{Earlier, GaveUp, Outcome};
use receipt::{Draft, Ending, Receipt, seconds};
use refusals::Refusals;
use series::Copies;

/// The longest drain time if the run gave up for a reason that may pass later, such as a server
/// that does not answer.
const DRAIN_IN_VAIN: Duration = Duration::from_secs(5);
/// An object whose requests would wait in the queue this long is not started while other objects
/// are in progress.
const LONG_QUEUE: Duration = Duration::from_millis(200);
/// The memory for parts of local files, in MiB.
const UPLOAD_MEMORY_MIB: u32 = 256;

/// The reason why an object is not done.
#[derive(Clone, Debug)]
enum Trouble {
    /// The source, or what is at the destination, has changed: plan the object again.
    SourceChanged,
    /// A guess of the source's part boundaries was wrong: plan the object again and ask for each
    /// part.
    OtherBoundaries,
    /// An upload that was found open turned out to be of another copy: plan the object again, and
    /// leave that upload alone.
    NotOurs,
    /// Somebody else ended the upload, which had stored parts, without creating the object: plan
    /// the object again.
    UploadGone(Failure),
    /// The run stops.
    Stopped,
    /// A request failed for good.
    Failed(Failure),
}

impl Trouble {
    /// Returns true if the next session tries the object again.
    fn is_left(&self) -> bool {
        match self {
            Self::Stopped => true,
            Self::Failed(failure) => failure.ends_run(),
            Self::SourceChanged | Self::OtherBoundaries | Self::NotOurs | Self::UploadGone(_) => {
                false
            }
        }
    }
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

/// The state that all objects of a transfer share.
struct Work {
    sides: Sides,
    /// The keys of the transfer that are copied; its number is the transfer's.
    range: KeyRange,
    monitor: Arc<dyn Monitor>,
    journal: Journal,
    /// The journal's state when this session began: the progress of the run, and its open uploads.
    resumed: Arc<RunState>,
    /// The number of objects that stay counted although the transfer is listed again.
    settled: u64,
    /// The open uploads of earlier sessions that no object has taken up yet.
    inherited: Arc<Inherited>,
    /// True if open uploads that no journal knows are adopted.
    claims: bool,
    /// Cancelled when no new work may start.
    stop: CancellationToken,
    /// Cancelled when requests in flight may no longer finish.
    halt: CancellationToken,
    /// The memory for parts of local files, in MiB.
    memory: Arc<Semaphore>,
    buffers: Buffers,
    /// The refusals of buckets so far.
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

    /// Waits until the run has stopped and is halted, and then for the time to tidy up.
    async fn hurry(&self) {
        self.stop.cancelled().await;
        self.halt.cancelled().await;
        sleep(self.tidying()).await;
    }

    /// Returns the time that the abort of an upload may take once the run is halted. The process
    /// ends with the drain time, and the report must name the uploads that are left open before
    /// that.
    fn tidying(&self) -> Duration {
        self.sides.destination.pacer().retry.tidying() / 2
    }

    /// Aborts an upload that will not be completed. Returns true if it no longer needs a record.
    /// The receipt names an upload that stays open, or is not known to be gone, because its parts
    /// cost money.
    async fn abandon(&self, upload: &MultipartUpload, draft: &mut Draft) -> bool {
        // The upload stays on record for the session that resumes the journal.
        if self.journal.keeps()
            && self.journal.broken().is_cancelled()
            && !self.journal.error().leaves_no_record()
        {
            return false;
        }
        let (upload, bucket) = (upload.outliving_the_run(), &self.sides.destination);
        let id = Some(upload.id());
        let (stray, is_over) = tokio::select! {
            outcome = upload.abort() => match outcome {
                Ok(Aborted::Gone | Aborted::NotThere) => return true,
                Ok(Aborted::Unverified(failure) | Aborted::StillListed(failure)) => {
                    (Stray::failed(id, &failure), true)
                }
                Err(failure) => {
                    (Stray::failed(id, &failure), *failure.kind() == FailureKind::Unsupported)
                }
            },
            () = self.hurry() => (Stray::unanswered(id, self.tidying()), false),
        };
        draft.notes.push(stray.told(bucket, upload.key()));
        is_over
    }

    /// Waits for a slot for requests that are not parts. Returns `None` after a stop; requests that
    /// have a slot may finish.
    async fn place(&self) -> Option<Slot> {
        self.slots().request(Want::Small).await.ok()
    }

    /// Returns true while a part for this key would have to wait long in the queue.
    fn is_clogged(&self, key: &ObjectKey) -> bool {
        self.is_shut(key) || self.sides.destination.queue_delay(Class::Write, key) >= LONG_QUEUE
    }

    /// Returns true while the destination refuses all requests for keys like this one.
    fn is_shut(&self, key: &ObjectKey) -> bool {
        self.sides.destination.is_shut(Class::Write, key)
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
            .map(|source| source.queue_delay(Class::Read, &step.entry.key));
        destination
            .queue_delay(Class::Write, &step.key)
            .max(reads.unwrap_or_default())
    }

    fn location(&self, step: &Step) -> (String, String) {
        let bucket = self.sides.transfer.to.location.bucket.clone();
        (
            self.sides.name_of(&step.entry),
            S3Uri {
                bucket,
                key: step.key.clone(),
            }
            .to_string(),
        )
    }

    /// Executes one step from beginning to end.
    ///
    /// Hundreds of these futures are in memory at once, nearly all of them small copies. So futures
    /// that are rarely awaited are boxed, here and further down: without boxes, each step would
    /// take 23 KiB.
    async fn run(&self, step: &Step) -> Receipt {
        let began = Instant::now();
        let mut draft = Draft::of(step);
        let outcome = match (&self.sides.source, &self.sides.transfer.from) {
            (Some(source), _) if step.route == Route::Restore => {
                Box::pin(object::restore(self, source, step, &mut draft)).await
            }
            (Some(_), _) if step.route == Route::DeleteMarker => {
                Box::pin(history::mark(self, step, &mut draft)).await
            }
            (Some(source), _) => object::copy(self, source, step, &mut draft).await,
            (None, Source::Files { path, .. }) => {
                Box::pin(upload::file(self, path, step, &mut draft)).await
            }
            (None, _) => Box::pin(stream::stdin(self, step, &mut draft)).await,
        };
        let outcome = match outcome {
            // Attributes that no header carries are set after an upload too.
            Ok(ending) if self.sides.source.is_none() => {
                let wanted = Wanted::of_upload(self, &step.key);
                wanted
                    .finish(None, &step.key, &ending, &mut draft)
                    .await
                    .map(|()| ending)
            }
            outcome => outcome,
        };
        let ending = match outcome {
            Ok(ending) => ending,
            Err(Trouble::Stopped) => Ending::Stopped,
            Err(Trouble::SourceChanged | Trouble::OtherBoundaries | Trouble::NotOurs) => {
                let message = "another writer was at work on the source or the destination";
                let operation = Operation::CompleteMultipartUpload;
                let failure = Failure::new(
                    FailureKind::Conflict,
                    operation,
                    self.sides.destination.place(&step.key),
                    message,
                );
                Ending::Failed {
                    error: (&failure).into(),
                }
            }
            Err(Trouble::UploadGone(failure) | Trouble::Failed(failure)) => Ending::Failed {
                error: (&failure).into(),
            },
        };
        let (source, destination) = self.location(step);
        draft.receipt(
            self.sides.transfer.name.clone(),
            source,
            destination,
            began.elapsed(),
            ending,
        )
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
    /// The ranges of keys that are copied, by the positions of their transfers; `None` for all keys
    /// of all transfers.
    pub ranges: Option<&'a BTreeMap<u32, KeyRange>>,
    /// Ends the run in an orderly way.
    pub stop: &'a CancellationToken,
    /// The token with which `connections` was created. It is cancelled when requests in flight may
    /// no longer finish.
    pub halt: &'a CancellationToken,
}

/// Runs all transfers of a job.
///
/// # Errors
/// A bucket cannot be used at all; then nothing was written to it. Objects that fail are in the
/// outcome.
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
    let noting = Noting {
        inner: monitor,
        copied: copied.clone(),
        copies: progress.clone(),
    };
    let monitor: Arc<dyn Monitor> = Arc::new(noting);
    let (width, all_sides) = connected(job, connections, resumed).await?;
    let pacer = Arc::clone(connections.pacer());
    pacer.slots().begin_at(width);
    learned::recall(&pacer, resumed);
    let in_vain = CancellationToken::new();
    let closer = tokio::spawn(halt_after_drain(
        Arc::clone(&pacer),
        in_vain.clone(),
        stop.clone(),
        halt.clone(),
    ));
    // Without its journal a run must not continue: nobody would know what it did. The watcher holds
    // the journal, so it must end with the run, even if the run is dropped.
    let mut watcher = JoinSet::new();
    watcher.spawn(stop_without_journal(
        journal.clone(),
        stop.clone(),
        halt.clone(),
    ));
    watcher.spawn(learned::keep(Arc::clone(&pacer), journal.clone()));
    let listed_anew = record::listed_anew(resumed, (0..).zip(&all_sides));
    let mut before = RunState::clone(resumed);
    let settled: BTreeMap<_, _> = listed_anew
        .iter()
        .map(|number| (*number, before.relist(*number)))
        .collect();
    let mut outcome = Outcome::from(&before);
    let refusals = Arc::new(Refusals::new(pacer.retry.questions));
    let usual = RetryPolicy::default().patience;
    let patience = job.limits.patience.unwrap_or(usual);
    let inherited = Arc::new(Inherited::of(resumed, listed_anew, patience));
    tokio::select! {
        () = inherited.sweep(journal, (job, connections)) => {}
        () = stop.cancelled() => {}
    }
    let (memory, buffers) = (
        Arc::new(Semaphore::new(UPLOAD_MEMORY_MIB as usize)),
        Buffers::default(),
    );
    let mut works = VecDeque::new();
    for (number, sides) in (0..).zip(all_sides) {
        let is_over = resumed.ended_transfers.contains(&number);
        let Some(range) = range_of(ranges, number).filter(|_| !is_over) else {
            continue;
        };
        let work = Work {
            range,
            monitor: Arc::clone(&monitor),
            journal: journal.clone(),
            resumed: Arc::clone(resumed),
            settled: settled.get(&number).copied().unwrap_or_default(),
            inherited: Arc::clone(&inherited),
            // The bytes that were read from a stream are gone: nobody could resume the upload.
            claims: job.claims && sides.transfer.from != Source::Stdin,
            sides,
            stop: stop.clone(),
            halt: halt.clone(),
            memory: Arc::clone(&memory),
            buffers: buffers.clone(),
            refusals: Arc::clone(&refusals),
            ids: AtomicU64::new(u64::from(number) << 48),
        };
        works.push_back((number, Arc::new(work)));
    }
    let RetryPolicy {
        patience, probes, ..
    } = pacer.retry;
    let (slots, stop_run) = (pacer.slots().clone(), stop.clone());
    let means = Means {
        slots,
        monitor,
        stop: stop_run,
        in_vain,
        copied,
        copies: progress,
        patience,
        probes,
    };
    Conductor::new(job, works, means, &mut outcome).run().await;
    // Objects that needed no copy have not taken up their uploads.
    tokio::select! {
        () = inherited.cancel_rest(journal, (job, connections)), if !stop.is_cancelled() => {}
        () = stop.cancelled() => {}
    }
    closer.abort();
    drop(watcher);
    if stop.is_cancelled() {
        learned::tell(&pacer, journal).await;
    }
    outcome.stopped = stop.is_cancelled();
    outcome.requests = pacer.counts();
    outcome.seconds += seconds(began.elapsed());
    Ok(outcome)
}

/// Returns the keys of a transfer that are copied, or `None` if there are none.
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
/// All buckets answer before the first byte moves: a typo in the last transfer is reported now, not
/// in an hour.
async fn connected(
    job: &Job,
    connections: &mut Connections,
    resumed: &RunState,
) -> Result<(u32, Vec<Sides>), Failure> {
    let (mut width, mut all_sides) = (u32::MAX, Vec::new());
    for transfer in &job.transfers {
        let (source, destination) = connections.of_transfer(transfer).await?;
        width = width.min(destination.capabilities().initial_in_flight);
        let mut transfer = transfer.clone();
        // A resumed run selects by the time from which it first counted ages.
        let counted_from = resumed
            .run
            .as_ref()
            .and_then(|run| run.counted_from)
            .or(transfer.ages.counted_from);
        transfer.count_from(counted_from.unwrap_or_else(Timestamp::now));
        all_sides.push(Sides::new(&transfer, source, destination.parking_copies()));
    }
    Ok((width, all_sides))
}

/// Halts the requests in flight after a stop, when the time for them to finish is over.
async fn halt_after_drain(
    pacer: Arc<Pacer>,
    in_vain: CancellationToken,
    stop: CancellationToken,
    halt: CancellationToken,
) {
    stop.cancelled().await;
    pacer.stop();
    let drain = pacer.retry.drain.saturating_sub(pacer.retry.tidying());
    sleep(if in_vain.is_cancelled() {
        drain.min(DRAIN_IN_VAIN)
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
