//! The journal: records what a run has done, so that a run that was killed can resume.
//!
//! ```text
//!  executor ──► Journal ──queue──► writer ──► Store: a directory, or a prefix in S3
//!               append/commit        │ folds
//!                                 RunState ──► snapshot        Ledger: the report
//! ```
//! Events are appended as they happen ([`event`]), folded by one pure function ([`state`]), and
//! written as lines with checksums. From time to time, a snapshot replaces them. Both stores
//! exclude a second writer. A directory is protected by a lock of the operating system. In S3, a
//! session writes the next segment number conditionally, which fences the older writer. A lease
//! decides whether a session may take over: from its own predecessor, from a holder that released
//! the journal, or from a dead holder.
//!
//! The caller decides when an event must be durable. It commits the event before the effect if
//! nothing else could find that effect again (an upload). It appends all other events. A crash may
//! lose about a second of these, but the next session finds their effects at the destination.
//!
//! # Layout
//!
//! `event` and `uploads` define the records, `state` folds them, `tally` counts objects, `sample`
//! keeps some objects for a later check, `segment` is the format, `salvage` reads a damaged
//! journal, and `holder` decides who may take over. All of these are pure. `directory` and `bucket`
//! are the stores, and `writer` is the task that uses one. `fingerprint` decides whether a job is
//! still the same.

mod bucket;
mod directory;
mod error;
pub mod event;
mod fault;
pub mod fingerprint;
mod holder;
mod identity;
mod salvage;
pub mod sample;
mod segment;
pub mod state;
mod store;
mod tally;
pub mod unproven;
pub mod uploads;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::spawn_blocking;

use crate::bucket::Bucket;
use crate::location::ObjectKey;

pub use bucket::LeaseHandle;
use bucket::{BucketLog, BucketPlace};
use directory::Directory;
pub use error::JournalError;
use event::{JournalEvent, RunInfo};
use fault::Faulty;
pub use fault::WriteFault;
use fingerprint::Fingerprint;
pub use identity::{LeaseTerms, ProcessMark, Writer, host};
pub use salvage::Salvage;
use segment::JournalContent;
use state::{Phase, RunState};
use store::{Nowhere, Store};
pub use writer::{Closed, Journal, Ledger};
use writer::{Start, WriterTask};

/// The silence after which a run on another machine, with its journal in a directory, counts as
/// dead. A live run records a part or an object more often.
const SILENCE: Duration = Duration::from_mins(15);

/// The place where a journal is kept.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a run has one")]
pub enum Location {
    /// A directory.
    Directory(PathBuf),
    /// Objects below a prefix, which is empty or ends in a slash. Stopping the run must not cancel
    /// the requests of this [`Bucket`].
    Bucket(Bucket, ObjectKey),
}

/// The user's intent for an existing run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intent {
    /// Resume an unfinished run of the same job, or begin a new run.
    #[default]
    Resume,
    /// Resume an unfinished run even if the job was changed.
    ResumeAnyway,
    /// Begin a new run, even if there is an unfinished one.
    Fresh,
}

/// The decision for an existing journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunDecision {
    /// Begin a new run.
    Begin,
    /// Resume the run in the journal.
    Resume,
}

/// Decides if the run in a journal is resumed.
///
/// # Errors
/// [`JournalError::Changed`] if the job was changed, and [`JournalError::OtherTransfers`] or
/// [`JournalError::OtherPlaces`] if the changed job cannot resume the unfinished run at all.
pub fn decide(
    state: &RunState,
    job: &Fingerprint,
    intent: Intent,
) -> Result<RunDecision, JournalError> {
    let Some(run) = state
        .run
        .as_ref()
        .filter(|_| state.is_unfinished() && intent != Intent::Fresh)
    else {
        return Ok(RunDecision::Begin);
    };
    let changes = run.fingerprint.changes(job);
    if changes.is_empty() {
        return Ok(RunDecision::Resume);
    }
    // A new run may replace an unfinished retry: a retry has few objects, and the new run takes
    // over its open uploads.
    let retried = run.fingerprint.retries();
    if retried.is_some() && retried != job.retries() {
        return Ok(RunDecision::Begin);
    }
    if !run.fingerprint.has_transfers_of(job) {
        return Err(JournalError::OtherTransfers { changes });
    }
    // The record of one destination says nothing about another one.
    let moves = run.fingerprint.moves(job);
    if !moves.is_empty() {
        return Err(JournalError::OtherPlaces { changes: moves });
    }
    if intent == Intent::ResumeAnyway {
        return Ok(RunDecision::Resume);
    }
    Err(JournalError::Changed { changes })
}

/// A journal that this process holds exclusively. It has been read and not yet written.
#[derive(Debug)]
pub struct Opened {
    store: AnyStore,
    replay: JournalContent,
    fault: Option<(u64, WriteFault)>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a run has one")]
enum AnyStore {
    Directory(Directory),
    Bucket(BucketLog),
}

impl Opened {
    /// Acquires the journal at `location`, or creates one, and reads it. Removes a torn record at
    /// its end.
    ///
    /// # Errors
    /// The journal is in use, damaged, of a later version, or cannot be reached.
    pub async fn open(location: Location, terms: &LeaseTerms) -> Result<Self, JournalError> {
        let writer = Writer::this_process(terms);
        match location {
            Location::Directory(path) => {
                let (store, replay) = blocking(&path, |path| Directory::open(path, writer)).await?;
                Ok(Self {
                    store: AnyStore::Directory(store),
                    replay,
                    fault: None,
                })
            }
            Location::Bucket(bucket, prefix) => {
                let place = BucketPlace::new(bucket, prefix);
                let (store, replay) = BucketLog::open(place, writer, terms).await?;
                Ok(Self {
                    store: AnyStore::Bucket(store),
                    replay,
                    fault: None,
                })
            }
        }
    }

    /// Injects a fault for tests: the journal fails to write records from number `first` on,
    /// counted from 0.
    #[must_use]
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "for tests"))]
    pub fn failing_from(self, first: u64, fault: WriteFault) -> Self {
        Self {
            fault: Some((first, fault)),
            ..self
        }
    }

    /// Returns the number of the next record.
    #[must_use]
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "for tests"))]
    pub fn next_record(&self) -> u64 {
        self.replay.next
    }

    /// Replaces an unreadable journal with a new one, which takes over only the open uploads that
    /// the old one still shows. In a directory, moves the old files to a subdirectory and returns
    /// its path. In S3, the old segments stay for some days.
    ///
    /// # Errors
    /// The journal is in use, or cannot be reached.
    pub async fn begin_anew(
        location: Location,
        terms: &LeaseTerms,
    ) -> Result<(Self, Salvage, Option<PathBuf>), JournalError> {
        let writer = Writer::this_process(terms);
        match location {
            Location::Directory(path) => {
                let work = |path: &Path| Directory::begin_anew(path, writer);
                let (store, replay, salvage, aside) = blocking(&path, work).await?;
                Ok((
                    Self {
                        store: AnyStore::Directory(store),
                        replay,
                        fault: None,
                    },
                    salvage,
                    Some(aside),
                ))
            }
            Location::Bucket(bucket, prefix) => {
                let place = BucketPlace::new(bucket, prefix);
                let (store, salvage) = BucketLog::begin_anew(place, writer, terms).await?;
                let replay = JournalContent {
                    state: salvage.clone().into_state(),
                    ..JournalContent::default()
                };
                Ok((
                    Self {
                        store: AnyStore::Bucket(store),
                        replay,
                        fault: None,
                    },
                    salvage,
                    None,
                ))
            }
        }
    }

    /// Returns a handle that releases the journal if the session ends before the run begins.
    #[must_use]
    pub fn lease(&self) -> LeaseHandle {
        match &self.store {
            AnyStore::Directory(_) => LeaseHandle::default(),
            AnyStore::Bucket(store) => store.held().handle(),
        }
    }

    /// Returns the state in the journal.
    #[must_use]
    pub fn state(&self) -> &RunState {
        &self.replay.state
    }

    /// Returns the state that a session starts from: the whole state if it resumes the run, or only
    /// the open uploads and the unproven copies if it begins a new one.
    #[must_use]
    pub fn resumed(&self, decision: RunDecision) -> RunState {
        match decision {
            RunDecision::Resume => self.state().clone(),
            RunDecision::Begin => self.state().clone().left_behind(),
        }
    }

    /// Begins a new run. Forgets everything of an earlier run except its open uploads and its
    /// unproven copies. `ledger` must be empty.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn begin(
        self,
        run: RunInfo,
        ledger: Option<Box<dyn Ledger>>,
    ) -> Result<Journal, JournalError> {
        self.start(ledger, JournalEvent::RunBegan(run)).await
    }

    /// Resumes the run in the journal. `ledger` is the report as the last session left it. The
    /// journal truncates it to its length at the last snapshot, and appends the receipts since
    /// then.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn resume(self, ledger: Option<Box<dyn Ledger>>) -> Result<Journal, JournalError> {
        self.start(ledger, JournalEvent::RunResumed).await
    }

    async fn start(
        self,
        ledger: Option<Box<dyn Ledger>>,
        first: JournalEvent,
    ) -> Result<Journal, JournalError> {
        let Self {
            store,
            replay,
            fault,
        } = self;
        if let AnyStore::Bucket(store) = &store {
            let run = match &first {
                JournalEvent::RunBegan(run) => Some(run),
                _ => replay.state.run.as_ref(),
            };
            store.held().name_run(run.map(|run| run.run.clone())).await;
        }
        match store {
            AnyStore::Directory(store) => {
                start(Faulty::new(store, fault), replay, ledger, first).await
            }
            AnyStore::Bucket(store) => {
                start(Faulty::new(store, fault), replay, ledger, first).await
            }
        }
    }
}

/// Returns a journal that keeps nothing. Receipts go to the ledger, and a run that is killed starts
/// over.
#[must_use]
pub fn off(ledger: Option<Box<dyn Ledger>>) -> Journal {
    let start = Start {
        state: RunState::default(),
        next: 0,
        report: 0,
        ledger,
    };
    let (task, journal) = WriterTask::new(Nowhere, start);
    tokio::spawn(task.run());
    journal
}

async fn start<S: Store>(
    store: S,
    replay: JournalContent,
    ledger: Option<Box<dyn Ledger>>,
    first: JournalEvent,
) -> Result<Journal, JournalError> {
    let JournalContent {
        state,
        next,
        report,
        ..
    } = replay;
    let (mut task, journal) = WriterTask::new(
        store,
        Start {
            state,
            next,
            report,
            ledger,
        },
    );
    if matches!(first, JournalEvent::RunBegan(_)) {
        task.begin_with(first).await?;
        tokio::spawn(task.run());
        return Ok(journal);
    }
    task.recover().await?;
    tokio::spawn(task.run());
    journal.commit(first).await?;
    Ok(journal)
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    let place = path.to_owned();
    let done = spawn_blocking(move || work(&place)).await;
    done.unwrap_or_else(|error| {
        Err(JournalError::Io {
            place: path.display().to_string(),
            message: error.to_string(),
        })
    })
}

/// The state of the last process that worked on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// A session is running.
    Running,
    /// The last session was killed, or its machine failed. The run can be resumed.
    Dead,
    /// The run was stopped in an orderly way, and can be resumed.
    Stopped,
    /// The run ended by itself.
    Ended,
}

/// A journal as another process sees it.
#[derive(Clone, Debug)]
pub struct Glance {
    /// Its state.
    pub state: RunState,
    /// The last writer.
    pub writer: Option<Writer>,
    /// The state of the run. If no event ended it, the last sign of life decides in S3. In a
    /// directory, the lock decides, or the time of the last event if the lock cannot be checked.
    pub life: Life,
    /// The age of the last sign of life, in S3.
    pub silence: Option<Duration>,
}

/// Reads a journal and changes nothing, even while a run writes it. Returns `None` if there is no
/// journal.
///
/// # Errors
/// The journal is damaged, of a later version, or cannot be reached.
pub async fn look(location: Location) -> Result<Option<Glance>, JournalError> {
    match look_once(location.clone()).await? {
        // The content is read before the holder. A run that ends in between looks dead, and only
        // its new content shows how it ended.
        Some(glance) if glance.life == Life::Dead => look_once(location).await,
        glance => Ok(glance),
    }
}

async fn look_once(location: Location) -> Result<Option<Glance>, JournalError> {
    let (replay, writer, alive, silence) = match location {
        Location::Directory(path) => match blocking(&path, Directory::read).await? {
            Some((replay, holder)) => (replay, holder.writer, holder.alive, None),
            None => return Ok(None),
        },
        Location::Bucket(bucket, prefix) => {
            let place = BucketPlace::new(bucket, prefix);
            let Some(replay) = place.read().await? else {
                return Ok(None);
            };
            match place.holder().await? {
                Some(holder) => {
                    let alive = Some(holder.is_alive());
                    (replay, Some(holder.writer), alive, Some(holder.silence))
                }
                None => (replay, None, Some(false), None),
            }
        }
    };
    let header = replay.header;
    let last = replay
        .state
        .last
        .max(header.as_ref().map(|header| header.at));
    let is_recent = || {
        let silence = last.map(|last| Timestamp::now().duration_since(last));
        silence.is_some_and(|silence| silence.unsigned_abs() < SILENCE)
    };
    let life = match replay.state.phase {
        Phase::Stopped if alive != Some(true) => Life::Stopped,
        Phase::Ended | Phase::Empty if alive != Some(true) => Life::Ended,
        _ if alive.unwrap_or_else(is_recent) => Life::Running,
        _ => Life::Dead,
    };
    let writer = writer.or(header.map(|header| header.writer));
    Ok(Some(Glance {
        state: replay.state,
        writer,
        life,
        silence,
    }))
}

#[cfg(test)]
mod tests;
