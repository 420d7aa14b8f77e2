//! Carries out what is planned.
//!
//! One task owns the state of all transfers ([`conductor`]) and receives one [`Receipt`] per
//! object. Each object is a task of its own ([`object`], [`upload`]) that takes a value and returns
//! a value; a panic in it fails that object and nothing else. How many requests are in flight is
//! not decided here but by [`crate::pace`].
//!
//! Stopping is orderly: no new work, requests under way end in peace, unfinished uploads are
//! aborted, and every object that was not done says so. All of it has the drain time
//! ([`RetryPolicy::drain`]); what only waits for its next attempt ends at once.

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

/// The time that requests in flight have after a stop if the server has not answered for as long as
/// the run's patience.
const DRAIN_IN_VAIN: Duration = Duration::from_secs(5);
/// An object whose requests would wait this long is not started while other objects are in
/// progress.
const LONG_QUEUE: Duration = Duration::from_millis(200);
/// Memory for parts of local files, in MiB.
const UPLOAD_MEMORY_MIB: u32 = 256;

/// The reason why an object is not done.
#[derive(Clone, Debug)]
enum Trouble {
    /// The source is another one by now: plan it again.
    SourceChanged,
    /// The source's parts do not end where they were believed to: plan it again and ask for each.
    OtherBoundaries,
    /// An upload that was found open turned out not to be of this copy: plan it again, and leave
    /// that one alone.
    NotOurs,
    /// Somebody else ended the upload, which had stored parts, and no object came of it: plan it
    /// again.
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
    monitor: Arc<dyn Monitor>,
    journal: Journal,
    /// The journal's state when this session began: the progress of the run, and its open uploads.
    resumed: Arc<RunState>,
    /// Objects that stay counted although its keys are listed again.
    settled: u64,
    /// The open uploads of earlier sessions that nobody has taken up yet.
    inherited: Arc<Inherited>,
    /// Uploads that no journal knows are taken up.
    claims: bool,
    /// No new work.
    stop: CancellationToken,
    /// The time to let requests end in peace is over.
    halt: CancellationToken,
    /// MiB of memory for parts of local files.
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

    /// Waits until the run stops, and for the time that is left to tidy up then: nobody is in a
    /// hurry before.
    async fn hurry(&self) {
        self.stop.cancelled().await;
        self.halt.cancelled().await;
        sleep(self.tidying()).await;
    }

    /// Returns how long an upload may take to abort when the run is over. The process ends with
    /// the drain time, and what is left open must be in the report before that.
    fn tidying(&self) -> Duration {
        self.sides.destination.pacer().retry.tidying() / 2
    }

    /// Ends an upload that will not be completed; true when it needs no record any more. One that
    /// stays open, or that is not known to be gone, is on the receipt, because its parts cost
    /// money.
    async fn abandon(&self, upload: &MultipartUpload, draft: &mut Draft) -> bool {
        // The session that resumes the journal has this upload too.
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

    /// Returns true while a part that is sent to this key would have to wait in the queue.
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
    /// Hundreds of these are in memory at once, nearly all of them small copies. So what is rarely
    /// awaited is in a box of its own, here and further down: in one piece with everything that
    /// could happen, each would take 23 KiB.
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

/// The job to run, and all that a run works with.
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
    /// Ends the run in an orderly way.
    pub stop: &'a CancellationToken,
    /// The token that `connections` was made with. It is cancelled when the time to end in peace
    /// is over.
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
    // Without its journal a run must not go on: nobody would know what it did.
    // The watcher ends with the run, also when that is dropped: it holds the journal.
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
    let patience = job
        .limits
        .patience
        .unwrap_or(RetryPolicy::default().patience);
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
        if resumed.ended_transfers.contains(&number) {
            continue;
        }
        let work = Work {
            monitor: Arc::clone(&monitor),
            journal: journal.clone(),
            resumed: Arc::clone(resumed),
            settled: settled.get(&number).copied().unwrap_or_default(),
            inherited: Arc::clone(&inherited),
            // The bytes that were read from a stream are gone: nobody could resume it.
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
    // Objects that turned out to need no copy took up nothing.
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

/// Connects both sides of all transfers, and returns them with the lowest number of requests in
/// flight that one of their destinations starts with.
///
/// All buckets answer before the first byte moves: a typo in the last transfer is told now, not in
/// an hour.
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
        // A run that resumes selects by the times that it began with.
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

/// Halts the requests in flight once the run was stopped and the time to end in peace is over.
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
    // The command ends with its error, which tells why.
    tracing::error!(name: "stopping", "stopping: the journal cannot be used any more");
    stop.cancel();
    halt.cancel();
}

/// Returns a transfer's name and places, for messages.
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
