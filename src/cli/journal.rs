//! Locates the journal of a run, and decides whether to start a new run or resume one.
//!
//! By default, a run keeps a journal below the working directory. If the directory is not writable
//! (as in many containers), the run keeps no journal, unless an unfinished run is recorded there. A
//! location that the user named must be usable.

mod named;
mod notes;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::FutureExt as _;
use tokio::task::spawn_blocking;

use super::run::RunOptions;
use super::unused_flags::{Flag, refuse, typed};
use super::{CliError, lease, next, tidy, word};
use crate::connections::Connections;
use crate::execute::sample;
use crate::journal::event::JournalEvent;
use crate::journal::fingerprint::Fingerprint;
use crate::journal::state::RunState;
use crate::journal::{
    self, Intent, Journal, JournalError, LeaseTerms, Ledger, Life, Location, Opened, RunDecision,
};
use crate::listing::local::JOURNALS;
use crate::manifest::job::{DEFAULT_ENDPOINT, Job, JournalPlace, OnChange, Source};
use crate::report::{
    BucketReport, PieceLimits, ReportBucket, ReportEnd, ReportError, ReportHeader, ReportWriter,
};
pub(super) use crate::run::{decide, leave_out_own_files};
use crate::run::{run_info, untrue};
use crate::size::{by_number, display_counted, parse_duration};
pub(super) use named::{Named, glances, of_environment, places};

const JOURNAL: &str = "S3HAUL_JOURNAL";
const ON_CHANGE: &str = "S3HAUL_ON_CHANGE";
const ADOPT: &str = "S3HAUL_ADOPT";
const WAIT: &str = "S3HAUL_WAIT";

/// The flags for the location of the journal, and for the treatment of an unfinished run.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Resuming after a stop")]
pub(super) struct JournalFlags {
    /// Journal of the run: a directory, s3://bucket/prefix/, or none. Default: ./.s3haul/JOB.
    #[arg(long, value_name = "PLACE", env = JOURNAL)]
    journal: Option<JournalPlace>,
    /// Start over instead of resuming an unfinished run.
    #[arg(long, conflicts_with = "resume_anyway")]
    fresh: bool,
    /// Resume an unfinished run even if the job has changed.
    #[arg(long)]
    resume_anyway: bool,
    /// Fail, or start a new-run, if the job differs from the unfinished run in its journal. A new
    /// run aborts that run's open uploads and compares both sides. Overrides `on_change` of the
    /// manifest. Default: fail.
    #[arg(long, value_name = "WHAT", env = ON_CHANGE, value_parser = word::<OnChange>(), conflicts_with_all = ["fresh", "resume_anyway"])]
    on_change: Option<OnChange>,
    /// Resume open uploads that no journal records, if their parts can be proven. Use this only if
    /// no other program writes to the destination keys.
    #[arg(long, env = ADOPT, value_parser = clap::builder::FalseyValueParser::new())]
    adopt: bool,
    /// Wait up to this long for a journal that another run holds. Default: do not wait, and exit
    /// with code 6.
    #[arg(long, value_name = "DURATION", env = WAIT, value_parser = duration)]
    wait: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

impl JournalFlags {
    /// Overrides the settings of the manifest.
    pub(super) fn apply(&self, job: &mut Job) {
        if let Some(place) = &self.journal {
            job.journal = place.clone();
        }
        job.on_change = self.on_change.unwrap_or(job.on_change);
        job.adopts = self.adopt;
        leave_out_own_files(job);
    }

    /// Overrides the settings of a report's command, which include settings from the environment of
    /// that command.
    pub(super) fn apply_again(&self, job: &mut Job, directory: &Path) {
        let of_environment = of_environment().ok().flatten();
        match &self.journal {
            None => {}
            place if *place == of_environment => {}
            Some(JournalPlace::Directory(path)) => {
                job.journal = JournalPlace::Directory(directory.join(path));
            }
            Some(place) => job.journal = place.clone(),
        }
        job.on_change = self.on_change.unwrap_or(job.on_change);
        job.adopts |= self.adopt;
        leave_out_own_files(job);
    }

    /// Returns the flags that make no sense for a run that cannot be resumed. `--fresh` and
    /// `--journal none` request such a run, so they are not included.
    pub(super) fn resume_flags(&self) -> [Flag; 5] {
        let place = self
            .journal
            .as_ref()
            .filter(|place| **place != JournalPlace::Disabled);
        let read = |place: OsString| place.to_str()?.parse().ok();
        let adopts = self.adopt.then_some(&true);
        [
            ("--journal", typed(place, JOURNAL, read)),
            ("--resume-anyway", self.resume_anyway),
            (
                "--on-change",
                typed(self.on_change.as_ref(), ON_CHANGE, on_change),
            ),
            ("--adopt", typed(adopts, ADOPT, |_| Some(true))),
            self.of_waiting(),
        ]
    }

    /// Returns the flags that apply to the journal of a single run.
    pub(super) fn of_one_journal(&self) -> [Flag; 4] {
        let read = |place: OsString| place.to_str()?.parse().ok();
        [
            ("--journal", typed(self.journal.as_ref(), JOURNAL, read)),
            ("--fresh", self.fresh),
            ("--resume-anyway", self.resume_anyway),
            (
                "--on-change",
                typed(self.on_change.as_ref(), ON_CHANGE, on_change),
            ),
        ]
    }

    fn of_waiting(&self) -> Flag {
        let read = |text: OsString| duration(text.to_str()?).ok();
        ("--wait", typed(self.wait.as_ref(), WAIT, read))
    }

    /// Refuses to wait for a journal that the job does not keep.
    pub(super) fn refuse_unused_flags(&self, job: &Job) -> Result<(), CliError> {
        if job.journal != JournalPlace::Disabled {
            return Ok(());
        }
        refuse(
            "this run",
            "keeps no journal, so that no other run can hold it",
            &[self.of_waiting()],
            "leave that out",
        )
    }

    /// Returns the longest time that a run waits for its journal.
    pub(super) fn waits(&self) -> Duration {
        self.wait.unwrap_or_default()
    }

    pub(super) fn intent(&self) -> Intent {
        match (self.fresh, self.resume_anyway) {
            (true, _) => Intent::Fresh,
            (false, true) => Intent::ResumeAnyway,
            (false, false) => Intent::Resume,
        }
    }
}

/// Parses a value of `on_change`.
fn on_change(text: OsString) -> Option<OnChange> {
    serde_json::from_value(text.into_string().ok()?.into()).ok()
}

/// The data with which a run begins or resumes.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) journal: Journal,
    /// The state that the journal recorded before this session.
    pub(super) resumed: Arc<RunState>,
    /// The number of recorded copies that were found at the destination.
    pub(super) seen: u64,
    /// Ends the report, if there is one.
    pub(super) report: Option<ReportEnd>,
}

/// Opens the journal and the report of a run.
pub(super) async fn open(
    job: &Job,
    connections: &mut Connections,
    origin: &ReportHeader,
    options: &RunOptions,
    tell: impl Fn(&str),
) -> Result<Session, CliError> {
    let (intent, wait) = (options.intent, options.wait);
    let Some(location) = location(job, connections).await? else {
        return without(job, connections, origin, &tell).await;
    };
    let fingerprint = Fingerprint::of(job);
    let takes_at_once = match &location {
        Location::Bucket(..) => {
            // Opening a journal in S3 locks out an earlier process of this Job, so a run that will
            // be refused must not open it.
            examine(&location, &fingerprint, (intent, job.on_change), wait)
                .await
                .map_err(unusable)?;
            true
        }
        // Opening moves an unreadable journal aside.
        Location::Directory(_) => intent == Intent::Fresh && is_unreadable(&location).await,
    };
    if let (true, Some(path)) = (takes_at_once, &job.report.json) {
        ReportWriter::probe(path, origin)?;
    }
    if let Some(reports) = reports(job, connections).await? {
        reports.probe(&origin.run).boxed().await?;
    }
    let reopened = lease::wait_for(&location, wait, &tell, || {
        reopen(location.clone(), &options.lease, intent, &tell)
    });
    let opened = match reopened.await {
        Ok(opened) => opened,
        Err(error @ (JournalError::Io { .. } | JournalError::Full { .. }))
            if job.journal == JournalPlace::Default
                && !may_have_unfinished_run(&location).await =>
        {
            tell(&format!(
                "no journal is kept, so a run that is killed starts over: {error}"
            ));
            return without(job, connections, origin, &tell).await;
        }
        Err(error) => return Err(unusable(error)),
    };
    if job.journal == JournalPlace::Default {
        tidy::ignore_in_git();
        if tidy::is_one_off(&job.name) {
            tidy::remove_old_copies(&job.name).await;
        }
    }
    let lease = opened.lease();
    let session = begin(job, connections, origin, opened, fingerprint, intent, &tell).await;
    if session.is_err() {
        // This session writes nothing, so another run need not wait for the lease.
        lease.release().await;
    }
    session
}

/// Begins a run, or resumes the one that the journal records.
async fn begin(
    job: &Job,
    connections: &mut Connections,
    origin: &ReportHeader,
    opened: Opened,
    fingerprint: Fingerprint,
    intent: Intent,
    tell: &impl Fn(&str),
) -> Result<Session, CliError> {
    let (decision, changes) = decide(opened.state(), &fingerprint, intent, job.on_change)?;
    let mut resumed = opened.resumed(decision);
    if job.journal == JournalPlace::Default {
        notes::unproven_beside(&job.name, &mut resumed.unproven).await;
    }
    notes::unproven(&resumed.unproven, tell);
    let resumed = Arc::new(resumed);
    if decision == RunDecision::Resume {
        return resume(job, connections, origin, opened, resumed, intent, tell).await;
    }
    notes::begun(opened.state(), &resumed, &changes);
    notes::replaces(job, |_| false, tell);
    let (ledger, report) = report(job, connections, origin, ReportWriter::create).await?;
    let run = run_info(job, fingerprint, origin.run.clone(), next::this_again());
    let journal = opened.begin(run, ledger).await?;
    Ok(Session {
        journal,
        resumed,
        seen: 0,
        report,
    })
}

/// Opens the report of a run that keeps no journal.
async fn without(
    job: &Job,
    connections: &mut Connections,
    origin: &ReportHeader,
    tell: &impl Fn(&str),
) -> Result<Session, CliError> {
    notes::replaces(job, |_| false, tell);
    let (ledger, report) = report(job, connections, origin, ReportWriter::create).await?;
    Ok(Session {
        journal: journal::off(ledger),
        resumed: Arc::default(),
        seen: 0,
        report,
    })
}

/// Resumes the run that a journal records, unless recorded copies are missing at the destination.
async fn resume(
    job: &Job,
    connections: &mut Connections,
    origin: &ReportHeader,
    opened: Opened,
    resumed: Arc<RunState>,
    intent: Intent,
    tell: &impl Fn(&str),
) -> Result<Session, CliError> {
    notes::resumed(&resumed);
    let looked = sample::look(job, connections, &resumed).await?;
    let seen = looked.copies;
    if let Some(missing) = untrue(looked) {
        if intent != Intent::ResumeAnyway {
            return Err(missing.into());
        }
        tell(&format!("{missing}"));
    }
    // The report belongs to the run, even if another session began it.
    let run = resumed
        .run
        .as_ref()
        .map_or_else(|| origin.run.clone(), |run| run.run.clone());
    let counted_from = resumed.run.as_ref().and_then(|run| run.counted_from);
    let origin = ReportHeader {
        run,
        counted_from: counted_from.or(origin.counted_from),
        ..origin.clone()
    };
    notes::replaces(job, |old| old.is_of_run(&origin), tell);
    let (ledger, report) = report(job, connections, &origin, ReportWriter::reopen).await?;
    let journal = opened.resume(ledger).await?;
    if intent == Intent::ResumeAnyway {
        journal
            .commit(JournalEvent::JobChanged(Fingerprint::of(job)))
            .await?;
    }
    Ok(Session {
        journal,
        resumed,
        seen,
        report,
    })
}

/// Returns the location of the journal, or `None` if the run keeps none. A copy from standard input
/// keeps none, because it cannot be read twice.
pub(super) async fn location(
    job: &Job,
    connections: &mut Connections,
) -> Result<Option<Location>, CliError> {
    if job
        .transfers
        .iter()
        .any(|transfer| transfer.from == Source::Stdin)
    {
        return Ok(None);
    }
    Ok(match &job.journal {
        JournalPlace::Disabled => None,
        JournalPlace::Default => Some(Location::Directory(Path::new(JOURNALS).join(&job.name))),
        JournalPlace::Directory(path) => Some(Location::Directory(path.clone())),
        JournalPlace::Prefix(uri) => {
            let bucket = connections.bucket(DEFAULT_ENDPOINT, &uri.bucket).await?;
            // The final record must still be written after the run has stopped.
            Some(Location::Bucket(
                bucket.for_records().outliving_the_run(),
                uri.key.clone(),
            ))
        }
    })
}

/// Returns the error for a journal that cannot be used although the run requires one.
fn unusable(error: JournalError) -> CliError {
    match error {
        JournalError::Io { .. } => CliError::Unusable(error),
        error => error.into(),
    }
}

/// Checks whether the run may use the journal, without opening it. An unreadable journal does not
/// prevent a run with `--fresh`.
async fn examine(
    location: &Location,
    job: &Fingerprint,
    (intent, on_change): (Intent, OnChange),
    wait: Duration,
) -> Result<(), JournalError> {
    match journal::look(location.clone()).await {
        // The content changes until the current run has ended.
        Ok(Some(glance)) if glance.life == Life::Running && wait > Duration::ZERO => Ok(()),
        Ok(Some(glance)) => decide(&glance.state, job, intent, on_change).map(drop),
        Ok(None) => Ok(()),
        Err(JournalError::Corrupt { .. } | JournalError::NewerVersion { .. })
            if intent == Intent::Fresh =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Returns true if a journal exists but no session can read it.
async fn is_unreadable(location: &Location) -> bool {
    let read = journal::look(location.clone()).await;
    matches!(
        read,
        Err(JournalError::Corrupt { .. } | JournalError::NewerVersion { .. })
    )
}

/// Returns true if a journal that cannot be written may hold something to resume. An unreadable
/// journal may.
async fn may_have_unfinished_run(location: &Location) -> bool {
    match journal::look(location.clone()).await {
        Ok(Some(glance)) => glance.state.is_unfinished() || !glance.state.uploads.is_empty(),
        Ok(None) => false,
        Err(_) => true,
    }
}

/// Opens a journal. Replaces an unreadable one if the run is to start over.
async fn reopen(
    location: Location,
    terms: &LeaseTerms,
    intent: Intent,
    tell: impl Fn(&str),
) -> Result<Opened, JournalError> {
    let error = match Opened::open(location.clone(), terms).await {
        Err(error @ (JournalError::Corrupt { .. } | JournalError::NewerVersion { .. }))
            if intent == Intent::Fresh =>
        {
            error
        }
        opened => return opened,
    };
    let (opened, salvage, aside) = Opened::begin_anew(location, terms).await?;
    let aside = aside
        .map(|aside| format!("; it was moved to {}", aside.display()))
        .unwrap_or_default();
    tell(&format!(
        "the old journal cannot be used ({error}){aside}. {} could be read from it and will be aborted, {} \
         of it could not: if uploads were in {}, `s3haul uploads list` at the destinations shows those. The run compares \
         all objects again",
        display_counted(salvage.open_uploads() as u64, "open upload"),
        display_counted(salvage.bad_lines, "line"),
        by_number(salvage.bad_lines, "it", "them")
    ));
    Ok(opened)
}

/// Opens the report. Returns one handle for the journal, which writes receipts, and one that ends
/// the report. Waits for the reader of a pipe on a blocking thread.
async fn report(
    job: &Job,
    connections: &mut Connections,
    origin: &ReportHeader,
    open: impl Fn(&Path, &ReportHeader) -> Result<ReportWriter, ReportError> + Send + 'static,
) -> Result<(Option<Box<dyn Ledger>>, Option<ReportEnd>), CliError> {
    if let Some(reports) = reports(job, connections).await? {
        let opened = BucketReport::open(&reports, origin, PieceLimits::default()).boxed();
        let report = opened.await?;
        let end = report.end();
        return Ok((Some(Box::new(report) as Box<dyn Ledger>), Some(end)));
    }
    let Some(path) = job.report.json.clone() else {
        return Ok((None, None));
    };
    let origin = origin.clone();
    let opened = spawn_blocking(move || {
        let writer = open(&path, &origin)?;
        let end = writer.end(&path)?;
        Ok::<_, CliError>((Some(Box::new(writer) as Box<dyn Ledger>), Some(end)))
    });
    opened.await.map_err(io::Error::other)?
}

/// Returns the prefix of the job's reports, if they are in S3.
pub(super) async fn reports(
    job: &Job,
    connections: &mut Connections,
) -> Result<Option<ReportBucket>, CliError> {
    let Some(uri) = &job.report.s3 else {
        return Ok(None);
    };
    let bucket = connections.bucket(DEFAULT_ENDPOINT, &uri.bucket).await?;
    // The footer must still be written after the run has stopped.
    Ok(Some(ReportBucket::new(
        bucket.for_records().outliving_the_run(),
        uri.key.clone(),
    )))
}
