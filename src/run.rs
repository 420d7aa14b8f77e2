//! Runs a job from a program. The [`Run`] builder connects, opens the journal, and calls
//! [`execute::run`].
//!
//! The command also handles signals, reports, and a journal that another process holds, so it calls
//! `execute` itself.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::connections::Connections;
use crate::execute::monitor::{Monitor, Unwatched};
use crate::execute::sample::{self, SampleResult};
use crate::execute::{self, Execution, Outcome};
use crate::journal::event::{JournalEvent, RunInfo};
use crate::journal::fingerprint::Fingerprint;
use crate::journal::state::RunState;
use crate::journal::{
    self, Intent, Journal, JournalError, LeaseTerms, Location, Opened, RunDecision,
};
use crate::manifest::Mistake;
use crate::manifest::job::{Job, JournalPlace, OnChange};
use crate::pace::{Pacer, RetryPolicy, slots};
use crate::report::run_name;
use crate::s3::Failure;
use crate::s3::client::StaticCredentials;

/// A run of a job. Set it up with the methods below, then [execute](Self::execute) it.
///
/// Receipts go to the [monitor](Self::monitor). A job that names a report is refused: only the
/// command writes reports.
#[must_use = "a run does nothing until it is executed"]
pub struct Run<'a> {
    job: &'a Job,
    monitor: Arc<dyn Monitor>,
    journal: Option<PathBuf>,
    credentials: Option<StaticCredentials>,
    stop: CancellationToken,
}

/// An error that ends a run without an outcome. Failed objects are not an error; the outcome counts
/// them.
#[derive(Debug, Error)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum RunError {
    /// The job has mistakes. No request was sent.
    #[error("{}", list(.0))]
    Job(Vec<Mistake>),
    /// A bucket cannot be used at all.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The journal cannot be used, or can no longer be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl<'a> Run<'a> {
    /// Creates a run of `job`. The run keeps a journal only if the job names a directory for it,
    /// and takes its credentials from the environment.
    pub fn new(job: &'a Job) -> Self {
        let journal = match &job.journal {
            JournalPlace::Directory(path) => Some(path.clone()),
            JournalPlace::Default | JournalPlace::Disabled | JournalPlace::Prefix(_) => None,
        };
        Self {
            job,
            monitor: Arc::new(Unwatched),
            journal,
            credentials: None,
            stop: CancellationToken::new(),
        }
    }

    /// Sends the events of the run to `monitor`.
    pub fn monitor(self, monitor: Arc<dyn Monitor>) -> Self {
        Self { monitor, ..self }
    }

    /// Keeps the journal in this directory. If the directory holds an unfinished run of the same
    /// job, this run resumes it.
    pub fn journal(self, directory: impl Into<PathBuf>) -> Self {
        Self {
            journal: Some(directory.into()),
            ..self
        }
    }

    /// Signs all requests with these credentials.
    pub fn credentials(self, credentials: StaticCredentials) -> Self {
        Self {
            credentials: Some(credentials),
            ..self
        }
    }

    /// Stops the run in an orderly way when `stop` is canceled: no further object is started, and
    /// requests in flight may finish.
    pub fn stop(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }

    /// Executes the job to its end, or until it is stopped.
    ///
    /// # Errors
    /// Fails if the job has mistakes, a bucket cannot be used at all, or the journal cannot be
    /// written.
    pub async fn execute(self) -> Result<Outcome, RunError> {
        let mistakes = self.mistakes();
        if !mistakes.is_empty() {
            return Err(RunError::Job(mistakes));
        }
        let mut job = self.job.clone();
        if job.counted_from().is_none() {
            job.count_from(Timestamp::now());
        }
        if let Some(directory) = &self.journal {
            job.journal = JournalPlace::Directory(directory.clone());
        }
        leave_out_own_files(&mut job);
        let halt = CancellationToken::new();
        let ceiling = slots::default_ceiling(1);
        let pacer = Arc::new(Pacer::new(&job.limits, ceiling, RetryPolicy::default()));
        let mut connections = Connections::new(&job, self.credentials, pacer, halt.clone());
        // Connects first, so that no journal is created if a bucket cannot be used.
        for transfer in &job.transfers {
            connections.of_transfer(transfer).await?;
        }
        let (journal, resumed) = match self.journal {
            Some(directory) => open_journal(directory, &job, &mut connections).await?,
            None => (journal::off(None), Arc::default()),
        };
        let outcome = execute::run(Execution {
            job: &job,
            connections: &mut connections,
            monitor: self.monitor,
            journal: &journal,
            resumed: &resumed,
            ranges: None,
            stop: &self.stop,
            halt: &halt,
        })
        .await;
        let last = match &outcome {
            Ok(outcome) if outcome.is_complete() => JournalEvent::RunEnded,
            Ok(_) | Err(_) => JournalEvent::RunStopped,
        };
        let closed = journal.close(last).await;
        let outcome = outcome?;
        closed?;
        Ok(outcome)
    }

    /// Returns the mistakes of the job, including settings that only the command supports.
    fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = self.job.check();
        let mut refuse = |path: &str, message: &str, remedy: &str| {
            mistakes.push(Mistake {
                path: path.to_owned(),
                message: message.to_owned(),
                remedy: remedy.to_owned(),
            });
        };
        if self.job.report.place().is_some() {
            let message = "only the command writes a report";
            let remedy = "omit it, and give the run a monitor, which receives every receipt";
            refuse("report", message, remedy);
        }
        if matches!(self.job.journal, JournalPlace::Prefix(_)) && self.journal.is_none() {
            let message = "only the command keeps a journal in S3";
            refuse("journal", message, "name a local directory");
        }
        mistakes
    }
}

/// Opens the journal in a directory, and returns it with the state that the run continues from.
async fn open_journal(
    directory: PathBuf,
    job: &Job,
    connections: &mut Connections,
) -> Result<(Journal, Arc<RunState>), RunError> {
    let opened = Opened::open(Location::Directory(directory), &LeaseTerms::default()).await?;
    let fingerprint = Fingerprint::of(job);
    let (decision, changes) = decide(opened.state(), &fingerprint, Intent::Resume, job.on_change)?;
    if !changes.is_empty() {
        let changes = changes.join("; ");
        tracing::warn!(
            "the job was changed, so a new run begins (`on_change: new-run`): {changes}"
        );
    }
    let resumed = Arc::new(opened.resumed(decision));
    let journal = match decision {
        RunDecision::Resume => {
            let looked = sample::look(job, connections, &resumed).await?;
            if let Some(error) = untrue(looked) {
                return Err(error.into());
            }
            opened.resume(None).await?
        }
        RunDecision::Begin => {
            let info = run_info(job, fingerprint, run_name(Timestamp::now()), None);
            opened.begin(info, None).await?
        }
    };
    Ok((journal, resumed))
}

/// Excludes the report and the journal of a job from its local sources.
pub(crate) fn leave_out_own_files(job: &mut Job) {
    let journal = match &job.journal {
        JournalPlace::Directory(path) => Some(path.clone()),
        JournalPlace::Disabled | JournalPlace::Default | JournalPlace::Prefix(_) => None,
    };
    let own: Vec<_> = job.report.json.iter().cloned().chain(journal).collect();
    for transfer in &mut job.transfers {
        transfer.own_files.clone_from(&own);
    }
}

/// Decides whether to resume the run in a journal. If the job was changed and a new run begins
/// instead, also returns the changes.
///
/// # Errors
/// Returns the error of [`journal::decide`], unless `on_change` begins a new run for a changed job.
pub(crate) fn decide(
    state: &RunState,
    job: &Fingerprint,
    intent: Intent,
    on_change: OnChange,
) -> Result<(RunDecision, Vec<String>), JournalError> {
    let error = match journal::decide(state, job, intent) {
        Ok(decision) => return Ok((decision, Vec::new())),
        Err(error) => error,
    };
    match error.changes() {
        Some(changes) if on_change == OnChange::NewRun && intent == Intent::Resume => {
            Ok((RunDecision::Begin, changes.to_vec()))
        }
        _ => Err(error),
    }
}

/// Returns the journal's record of a new run. `command` is the command that resumes the run.
pub(crate) fn run_info(
    job: &Job,
    fingerprint: Fingerprint,
    run: String,
    command: Option<String>,
) -> RunInfo {
    let transfers = job.transfers.iter();
    RunInfo {
        run,
        job: job.name.clone(),
        transfers: transfers.map(|transfer| transfer.name.clone()).collect(),
        fingerprint,
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        counted_from: job.counted_from(),
        command,
    }
}

/// Returns an error if the journal no longer matches the destination.
pub(crate) fn untrue(looked: SampleResult) -> Option<JournalError> {
    let example = looked.example?;
    Some(JournalError::Untrue {
        example,
        missing: looked.objects - looked.there,
        of: looked.objects,
    })
}

/// Lists the mistakes of a job, one per line.
fn list(mistakes: &[Mistake]) -> String {
    let lines: Vec<_> = mistakes.iter().map(Mistake::to_string).collect();
    lines.join("\n")
}
