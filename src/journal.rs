//! The journal: records what a run has done, so that a run that was killed can resume.
//!
//! ```text
//!  executor ──► Journal ──queue──► writer ──► Store: a directory, or a prefix in S3
//!               append/commit        │ folds
//!                                 RunState ──► snapshot        Ledger: the report
//! ```
//! Events are appended as they happen ([`event`]), folded by one pure function ([`state`]), and
//! written as lines with checksums. A snapshot replaces them now and then. The two stores keep a
//! second writer out in different ways: a directory with a lock of the operating system, and S3
//! with a conditional write of the next number, which fences the older writer. In S3, a lease
//! decides if a session may take over: from its own predecessor, from a holder that released the
//! journal, or from a holder that is dead.
//!
//! The caller decides the order of durability. An effect that could not be found again (an upload)
//! is committed before it is caused. Everything else is appended, and up to about a second of it
//! may be lost, because the next session finds the effect at the destination.
//!
//! # Layout
//!
//! `event` and `uploads` define what is recorded, `state` folds it, `tally` counts it, `sample`
//! keeps some of it for a later check, `segment` is the format, `salvage` reads what is left of a
//! damaged journal, and `holder` decides who may take over. All of these are pure. `directory` and
//! `bucket` are the stores, and `writer` is the task that uses one. `fingerprint` decides if a job
//! is still the same.

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
use event::{Event, RunInfo};
use fault::Faulty;
pub use fault::WriteFault;
use fingerprint::Fingerprint;
pub use identity::{LeaseTerms, ProcessMark, Writer, host};
pub use salvage::Salvage;
use segment::Replay;
use state::{Phase, RunState};
use store::{Nowhere, Store};
pub use writer::{Closed, Journal, Ledger};
use writer::{Start, WriterTask};

/// A run on another machine, in a directory, counts as dead when its journal has been silent for
/// longer than this: with nothing else to say, a part is confirmed more often.
const SILENCE: Duration = Duration::from_mins(15);

/// The place where a journal is kept.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a run has one")]
pub enum Location {
    /// A directory of this machine.
    Directory(PathBuf),
    /// Objects below a prefix, which is empty or ends in a slash. The bucket's requests must not
    /// end with the run's.
    Bucket(Bucket, ObjectKey),
}

/// The user's intent for an existing run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intent {
    /// Go on with an unfinished run of the same job, else begin one.
    #[default]
    Resume,
    /// Go on with an unfinished run although the job was changed.
    ResumeAnyway,
    /// Begin a run, whatever is there.
    Fresh,
}

/// The decision about the content of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A new run.
    Begin,
    /// The run that is there.
    Resume,
}

/// Decides whether to go on.
///
/// # Errors
/// [`JournalError::Changed`] if the unfinished run is one of another job, and
/// [`JournalError::OtherTransfers`] or [`JournalError::OtherPlaces`] if it cannot resume as this
/// one at all.
pub fn decide(
    state: &RunState,
    job: &Fingerprint,
    intent: Intent,
) -> Result<Decision, JournalError> {
    let Some(run) = state
        .run
        .as_ref()
        .filter(|_| state.is_unfinished() && intent != Intent::Fresh)
    else {
        return Ok(Decision::Begin);
    };
    let changes = run.fingerprint.changes(job);
    if changes.is_empty() {
        return Ok(Decision::Resume);
    }
    // A retry gives way: it has few objects, and the next run takes over its open uploads.
    let retried = run.fingerprint.retries();
    if retried.is_some() && retried != job.retries() {
        return Ok(Decision::Begin);
    }
    if !run.fingerprint.has_transfers_of(job) {
        return Err(JournalError::OtherTransfers { changes });
    }
    // The work there says nothing about another place.
    let moves = run.fingerprint.moves(job);
    if !moves.is_empty() {
        return Err(JournalError::OtherPlaces { changes: moves });
    }
    if intent == Intent::ResumeAnyway {
        return Ok(Decision::Resume);
    }
    Err(JournalError::Changed { changes })
}

/// A journal that this process has to itself, read and not yet written.
#[derive(Debug)]
pub struct Opened {
    store: AnyStore,
    replay: Replay,
    fault: Option<(u64, WriteFault)>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a run has one")]
enum AnyStore {
    Directory(Directory),
    Bucket(BucketLog),
}

impl Opened {
    /// Takes the journal at `location`, or makes one, and reads it. The end of a write that was cut
    /// short is taken back.
    ///
    /// # Errors
    /// It is in use, damaged, of a later version, or cannot be reached.
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

    /// Returns this journal, which fails to write the records from number `first` on (the first of
    /// all is 0): for tests.
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

    /// Makes a new journal in the place of one that cannot be read, which is lost but for what it
    /// still says of open uploads. A directory is put aside, and its new name told; in S3, segments
    /// stay where they are for some days.
    ///
    /// # Errors
    /// It is in use, or cannot be reached.
    pub async fn begin_anew(
        location: Location,
        terms: &LeaseTerms,
    ) -> Result<(Self, Salvage, Option<PathBuf>), JournalError> {
        let writer = Writer::this_process(terms);
        match location {
            Location::Directory(path) => {
                let work = |path: &Path| {
                    let (aside, salvage) = Directory::put_aside(path)?;
                    Ok((Directory::open(path, writer)?, salvage, aside))
                };
                let ((store, mut replay), salvage, aside) = blocking(&path, work).await?;
                replay.state = salvage.clone().into_state();
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
                let replay = Replay {
                    state: salvage.clone().into_state(),
                    ..Replay::default()
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

    /// Returns what lets the journal go again, should the session end before it begins.
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

    /// Returns the state that a session begins with after this decision: all of it, or only the
    /// open uploads of an earlier run.
    #[must_use]
    pub fn resumed(&self, decision: Decision) -> RunState {
        match decision {
            Decision::Resume => self.state().clone(),
            Decision::Begin => self.state().clone().left_behind(),
        }
    }

    /// Begins a run. What an earlier one left is forgotten but for its open uploads; `ledger` is to
    /// be empty.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn begin(
        self,
        run: RunInfo,
        ledger: Option<Box<dyn Ledger>>,
    ) -> Result<Journal, JournalError> {
        self.start(ledger, Event::RunBegan(run)).await
    }

    /// Goes on with the run that is there. `ledger` is the report as the last session left it; it
    /// is cut to where it is known to be right and what is missing is added.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn resume(self, ledger: Option<Box<dyn Ledger>>) -> Result<Journal, JournalError> {
        self.start(ledger, Event::RunResumed).await
    }

    async fn start(
        self,
        ledger: Option<Box<dyn Ledger>>,
        first: Event,
    ) -> Result<Journal, JournalError> {
        let Self {
            store,
            replay,
            fault,
        } = self;
        if let AnyStore::Bucket(store) = &store {
            let run = match &first {
                Event::RunBegan(run) => Some(run),
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

/// Returns a journal that keeps nothing: receipts go to the ledger, and a run that is killed starts
/// anew.
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
    replay: Replay,
    ledger: Option<Box<dyn Ledger>>,
    first: Event,
) -> Result<Journal, JournalError> {
    let Replay {
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
    if matches!(first, Event::RunBegan(_)) {
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

/// The answer to whether a process works on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// A session is at work.
    Running,
    /// The last session was killed, or its machine is gone; the run can go on.
    Dead,
    /// It was stopped in an orderly way; the run can go on.
    Stopped,
    /// It ended by itself.
    Ended,
}

/// A journal as another process sees it.
#[derive(Clone, Debug)]
pub struct Glance {
    /// Its state.
    pub state: RunState,
    /// The last writer.
    pub writer: Option<Writer>,
    /// The life of that writer. In S3 the sign of life tells, and for another machine's directory
    /// the time of the last event.
    pub life: Life,
    /// The age of the last sign of life, in S3.
    pub silence: Option<Duration>,
}

/// Looks at a journal and changes nothing, also while a run writes it. `None` when there is none.
///
/// # Errors
/// It is damaged, of a later version, or cannot be reached.
pub async fn look(location: Location) -> Result<Option<Glance>, JournalError> {
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
