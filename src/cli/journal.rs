//! The place of a run's journal, and the decision whether the run is a new one or resumes.
//!
//! Nobody has to ask for a journal: it is kept below the working directory unless something else is
//! said. Where that cannot be written (the root of a container often cannot), the run does without,
//! unless an unfinished run is there; a place that was named must be usable.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::idle::Flag;
use super::place::{Place, bucket_at};
use super::{CliError, EndpointFlags, idle, load, tell as tell_note, tidy, word};
use crate::connections::Connections;
use crate::execute::sample::{self, Looked};
use crate::journal::event::{Event, RunInfo};
use crate::journal::fingerprint::Fingerprint;
use crate::journal::state::RunState;
use crate::journal::{self, Decision, Intent, Journal, JournalError, Ledger, Location, Opened};
use crate::listing::local::JOURNALS;
use crate::location::S3Uri;
use crate::manifest::job::{Access, DEFAULT_ENDPOINT, Job, JournalPlace, OnChange, Source};
use crate::report::{Origin, ReportEnd, ReportError, ReportWriter, header, last_footer};
use crate::size::{ByteSize, by_number, display_count, display_counted};
use crate::telemetry::{self, Note};

const JOURNAL: &str = "S3HAUL_JOURNAL";
const ON_CHANGE: &str = "S3HAUL_ON_CHANGE";
const ADOPT: &str = "S3HAUL_ADOPT";

/// Where a run keeps its journal, and what becomes of an unfinished run.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Resuming after a stop")]
pub(super) struct JournalFlags {
    /// Journal of the run: a directory, s3://bucket/prefix/, or none. Default: ./.s3haul/JOB.
    #[arg(long, value_name = "PLACE", env = JOURNAL)]
    journal: Option<JournalPlace>,
    /// Start over instead of resuming an unfinished run.
    #[arg(long, conflicts_with = "resume_anyway")]
    fresh: bool,
    /// Resume an unfinished run although the job has changed.
    #[arg(long)]
    resume_anyway: bool,
    /// Consequence if the job differs from the unfinished run in its journal: fail, or new-run,
    /// which aborts the uploads that run left open and compares both sides. Overrides `on_change`
    /// of the manifest. Default: fail.
    #[arg(long, value_name = "WHAT", env = ON_CHANGE, value_parser = word::<OnChange>(), conflicts_with_all = ["fresh", "resume_anyway"])]
    on_change: Option<OnChange>,
    /// Resume open uploads that no journal knows, if their parts can be proven. Use it only if
    /// nobody else writes to the destination keys.
    #[arg(long, env = ADOPT, value_parser = clap::builder::FalseyValueParser::new())]
    adopt: bool,
}

impl JournalFlags {
    /// Overrides what the manifest says.
    pub(super) fn apply(&self, job: &mut Job) {
        if let Some(place) = &self.journal {
            job.journal = place.clone();
        }
        job.on_change = self.on_change.unwrap_or(job.on_change);
        job.claims = self.adopt;
        leave_out_own_files(job);
    }

    /// Returns the flags that make no sense for a run that cannot be resumed. `--fresh` and
    /// `--journal none` ask for such a run, so they are not among them.
    pub(super) fn of_going_on(&self) -> [Flag; 4] {
        let place = self
            .journal
            .as_ref()
            .filter(|place| **place != JournalPlace::Nowhere);
        let read = |place: OsString| place.to_str()?.parse().ok();
        let adopts = self.adopt.then_some(&true);
        [
            ("--journal", idle::typed(place, JOURNAL, read)),
            ("--resume-anyway", self.resume_anyway),
            (
                "--on-change",
                idle::typed(self.on_change.as_ref(), ON_CHANGE, on_change),
            ),
            ("--adopt", idle::typed(adopts, ADOPT, |_| Some(true))),
        ]
    }

    pub(super) fn intent(&self) -> Intent {
        match (self.fresh, self.resume_anyway) {
            (true, _) => Intent::Fresh,
            (false, true) => Intent::ResumeAnyway,
            (false, false) => Intent::Resume,
        }
    }
}

/// Reads a value of `on_change`.
fn on_change(text: OsString) -> Option<OnChange> {
    serde_json::from_value(text.into_string().ok()?.into()).ok()
}

/// Leaves the report and the journal of a job out of its sources on this machine.
pub(super) fn leave_out_own_files(job: &mut Job) {
    let journal = match &job.journal {
        JournalPlace::Directory(path) => Some(path.clone()),
        JournalPlace::Nowhere | JournalPlace::Usual | JournalPlace::Prefix(_) => None,
    };
    let own: Vec<_> = job.report.json.iter().cloned().chain(journal).collect();
    for transfer in &mut job.transfers {
        transfer.own_files.clone_from(&own);
    }
}

/// The data that a run begins or resumes with.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) journal: Journal,
    /// The journal's state before.
    pub(super) resumed: Arc<RunState>,
    /// Objects on record that were seen at the destination.
    pub(super) seen: u64,
    /// Ends the report, if there is one.
    pub(super) report: Option<ReportEnd>,
}

/// Opens the journal and the report of a run.
pub(super) async fn open(
    job: &Job,
    connections: &mut Connections,
    origin: &Origin,
    intent: Intent,
    tell: impl Fn(&str),
) -> Result<Session, CliError> {
    let Some(location) = location(job, connections).await? else {
        return without(job, origin, &tell).await;
    };
    let fingerprint = Fingerprint::of(job);
    if let Location::Bucket(..) = location {
        // To open one there shuts out who is at work on it; what would refuse this run must not
        // cost that one its journal.
        examine(&location, &fingerprint, (intent, job.on_change))
            .await
            .map_err(unusable)?;
        job.report
            .json
            .as_deref()
            .map(|path| ReportWriter::probe(path, origin))
            .transpose()?;
    }
    let opened = match reopen(location.clone(), intent, &tell).await {
        Ok(opened) => opened,
        Err(error @ (JournalError::Io { .. } | JournalError::Full { .. }))
            if job.journal == JournalPlace::Usual && !may_go_on(&location).await =>
        {
            tell(&format!(
                "no journal is kept, so a run that is killed starts over: {error}"
            ));
            return without(job, origin, &tell).await;
        }
        Err(error) => return Err(unusable(error)),
    };
    if job.journal == JournalPlace::Usual {
        tidy::ignore_in_git();
        if tidy::is_one_off(&job.name) {
            tidy::remove_old_copies(&job.name).await;
        }
    }
    let (decision, changes) = decide(opened.state(), &fingerprint, intent, job.on_change)?;
    let resumed = Arc::new(opened.resumed(decision));
    if decision == Decision::Resume {
        return resume(job, connections, origin, opened, resumed, intent, &tell).await;
    }
    begin(opened.state(), &resumed, &changes);
    replaces(job, |_| false, &tell);
    let (ledger, report) = report(job, origin, ReportWriter::create).await?;
    let run = RunInfo {
        run: origin.run.clone(),
        job: job.name.clone(),
        transfers: job
            .transfers
            .iter()
            .map(|transfer| transfer.name.clone())
            .collect(),
        fingerprint,
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        counted_from: job.counted_from(),
    };
    let journal = opened.begin(run, ledger).await?;
    Ok(Session {
        journal,
        resumed,
        seen: 0,
        report,
    })
}

/// Opens the report of a run that keeps no journal.
async fn without(job: &Job, origin: &Origin, tell: &impl Fn(&str)) -> Result<Session, CliError> {
    replaces(job, |_| false, tell);
    let (ledger, report) = report(job, origin, ReportWriter::create).await?;
    Ok(Session {
        journal: journal::off(ledger),
        resumed: Arc::default(),
        seen: 0,
        report,
    })
}

/// Resumes the run that a journal records, unless the destination has lost what is on record.
async fn resume(
    job: &Job,
    connections: &mut Connections,
    origin: &Origin,
    opened: Opened,
    resumed: Arc<RunState>,
    intent: Intent,
    tell: &impl Fn(&str),
) -> Result<Session, CliError> {
    go_on(&resumed);
    let looked = sample::look(job, connections, &resumed).await?;
    let seen = looked.there;
    if let Some(missing) = untrue(looked) {
        if intent != Intent::ResumeAnyway {
            return Err(missing.into());
        }
        tell(&format!("{missing}"));
    }
    // The report is about the run, whichever session has begun it.
    let run = resumed
        .run
        .as_ref()
        .map_or_else(|| origin.run.clone(), |run| run.run.clone());
    let origin = Origin {
        run,
        ..origin.clone()
    };
    replaces(job, |old| old.is_of_run(&origin), tell);
    let (ledger, report) = report(job, &origin, ReportWriter::reopen).await?;
    let journal = opened.resume(ledger).await?;
    if intent == Intent::ResumeAnyway {
        journal
            .commit(Event::JobChanged(Fingerprint::of(job)))
            .await?;
    }
    Ok(Session {
        journal,
        resumed,
        seen,
        report,
    })
}

/// Returns the error of a record that is not true any more.
fn untrue(looked: Looked) -> Option<JournalError> {
    let example = looked.example?;
    Some(JournalError::Untrue {
        example,
        missing: looked.objects - looked.there,
        of: looked.objects,
    })
}

/// A journal that a command looks at.
#[derive(Clone, Debug)]
pub(super) enum Named {
    /// All below the working directory.
    None,
    /// This directory.
    Directory(PathBuf),
    /// The objects below this prefix.
    Prefix(S3Uri),
    /// That of the job in this manifest.
    JobIn(PathBuf),
}

/// Returns the place that `S3HAUL_JOURNAL` names; none if it is empty.
pub(super) fn of_environment() -> Result<Option<JournalPlace>, CliError> {
    let text = std::env::var(JOURNAL).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error| CliError::Usage(format!("{JOURNAL}: {error}")))
}

/// Returns the locations and the names of the journals that were named.
pub(super) async fn places(
    named: Named,
    endpoint: &EndpointFlags,
) -> Result<Vec<(String, Location)>, CliError> {
    let of_directory = |path: PathBuf| (path.display().to_string(), Location::Directory(path));
    Ok(match named {
        Named::None => {
            let Ok(entries) = std::fs::read_dir(JOURNALS) else {
                return Ok(Vec::new());
            };
            let mut paths: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            paths.retain(|path| path.is_dir());
            paths.sort();
            paths.into_iter().map(of_directory).collect()
        }
        Named::Directory(path) => vec![of_directory(path)],
        Named::Prefix(uri) => {
            let bucket = bucket_at(&uri, endpoint, Access::default()).await?;
            vec![(uri.to_string(), Location::Bucket(bucket, uri.key))]
        }
        Named::JobIn(path) => {
            let mut job = load(&path)?;
            if let Some(place) = of_environment()? {
                job.journal = place;
            }
            let mut connections = Place::ambient().connect(&job, &CancellationToken::new());
            match location(&job, &mut connections).await? {
                Some(Location::Directory(path)) => vec![of_directory(path)],
                Some(bucket @ Location::Bucket(..)) => vec![(path.display().to_string(), bucket)],
                None => {
                    let message = format!("{}: its runs keep no journal", path.display());
                    return Err(CliError::Usage(message));
                }
            }
        }
    })
}

/// Returns the location of the journal; `None` if none is kept. Standard input cannot be read
/// twice.
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
        JournalPlace::Nowhere => None,
        JournalPlace::Usual => Some(Location::Directory(Path::new(JOURNALS).join(&job.name))),
        JournalPlace::Directory(path) => Some(Location::Directory(path.clone())),
        JournalPlace::Prefix(uri) => {
            let bucket = connections.bucket(DEFAULT_ENDPOINT, &uri.bucket).await?;
            // The last thing that a run does is to write down how it ended.
            Some(Location::Bucket(
                bucket.outliving_the_run(),
                uri.key.clone(),
            ))
        }
    })
}

/// Returns the error of a run whose journal cannot be used, and that must not run without one.
fn unusable(error: JournalError) -> CliError {
    match error {
        JournalError::Io { .. } => CliError::Unusable(error),
        error => error.into(),
    }
}

/// Decides about the run in a journal. Also returns the differences for which it is given up.
pub(super) fn decide(
    state: &RunState,
    job: &Fingerprint,
    intent: Intent,
    on_change: OnChange,
) -> Result<(Decision, Vec<String>), JournalError> {
    let error = match journal::decide(state, job, intent) {
        Ok(decision) => return Ok((decision, Vec::new())),
        Err(error) => error,
    };
    match error.changes() {
        Some(changes) if on_change == OnChange::NewRun && intent == Intent::Resume => {
            Ok((Decision::Begin, changes.to_vec()))
        }
        _ => Err(error),
    }
}

/// Decides about a journal that is only looked at. One that cannot be read any more says nothing
/// against a run that begins anew.
async fn examine(
    location: &Location,
    job: &Fingerprint,
    (intent, on_change): (Intent, OnChange),
) -> Result<(), JournalError> {
    match journal::look(location.clone()).await {
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

/// Returns true if a journal that cannot be written has something to resume. One that cannot be
/// read either may have.
async fn may_go_on(location: &Location) -> bool {
    match journal::look(location.clone()).await {
        Ok(Some(glance)) => glance.state.is_unfinished() || !glance.state.uploads.is_empty(),
        Ok(None) => false,
        Err(_) => true,
    }
}

/// Opens a journal. In the place of one that cannot be read any more another one is made if the run
/// is to begin anew.
async fn reopen(
    location: Location,
    intent: Intent,
    tell: impl Fn(&str),
) -> Result<Opened, JournalError> {
    let error = match Opened::open(location.clone()).await {
        Err(error @ (JournalError::Corrupt { .. } | JournalError::NewerVersion { .. }))
            if intent == Intent::Fresh =>
        {
            error
        }
        opened => return opened,
    };
    let (opened, salvage, aside) = Opened::begin_anew(location).await?;
    let aside = aside
        .map(|aside| format!("; it was moved to {}", aside.display()))
        .unwrap_or_default();
    tell(&format!(
        "the old journal can't be used ({error}){aside}. {} could be read from it and will be cancelled, {} \
         of it could not: if uploads were in {}, `s3haul uploads list` at the destinations shows those. What it knew of \
         objects is given up: they are compared again",
        display_counted(salvage.open_uploads() as u64, "open upload"),
        display_counted(salvage.bad_lines, "line"),
        by_number(salvage.bad_lines, "it", "them")
    ));
    Ok(opened)
}

/// Opens the report: what the journal writes to, and what ends it. A pipe waits for its reader, off
/// the runtime's threads.
async fn report(
    job: &Job,
    origin: &Origin,
    open: impl Fn(&Path, &Origin) -> Result<ReportWriter, ReportError> + Send + 'static,
) -> Result<(Option<Box<dyn Ledger>>, Option<ReportEnd>), CliError> {
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

/// Warns that the report of another run is about to be replaced.
fn replaces(job: &Job, is_kept: impl Fn(&Origin) -> bool, tell: impl Fn(&str)) {
    let Some(path) = &job.report.json else { return };
    let Some(old) = header(path).filter(|old| !is_kept(old)) else {
        return;
    };
    let time = old.time.map_or_else(
        || "of an earlier run".to_owned(),
        |time| format!("of {time:.0}"),
    );
    let losses = last_footer(path).map_or(0, |footer| footer.objects_with_losses);
    let losses = if losses == 0 {
        String::new()
    } else {
        format!(
            ", which named {} {} attributes; what this run finds equal stays without them, and \
             `when: always` (--when always) copies it again. To repair them by `s3haul retry --losses`, keep the report or \
             name another one",
            display_count(losses),
            by_number(losses, "copy that lacks", "copies that lack")
        )
    };
    tell(&format!(
        "{}: replaces the report {time}{losses}",
        path.display()
    ));
}

/// Tells that a new run begins, and for which differences the one in the journal is given up.
fn begin(old: &RunState, left: &RunState, changes: &[String]) {
    let began = Note::new(Level::INFO, "run_began", "a new run begins").only_json();
    if changes.is_empty() {
        return tell_note(&began);
    }
    let uploads = left.uploads.len() as u64;
    let aborts = match uploads {
        0 => String::new(),
        uploads => format!(
            " It aborts the {} that the unfinished run left open.",
            display_counted(uploads, "upload")
        ),
    };
    let message = format!(
        "the job was changed: {}; a new run begins (`on_change: new-run`).{aborts} What is at the destination is compared \
         and not copied again",
        changes.join("; ")
    );
    let old_run = old.run.as_ref().map(|run| run.run.as_str());
    let note = Note::new(Level::WARN, "job_changed", message)
        .with("changes", changes)
        .with("old_run", old_run)
        .with("open_uploads", uploads);
    tell_note(&note);
    tell_note(&began);
}

/// Tells how far the run is that is resumed.
fn go_on(state: &RunState) {
    if let Some(run) = &state.run {
        telemetry::name_run(&run.run);
    }
    let began = state
        .began
        .map(|began| format!(" of {began:.0}"))
        .unwrap_or_default();
    let (totals, open, pending) = (
        &state.totals,
        state.open_bytes(),
        state.pending_objects() as u64,
    );
    let mut line = format!(
        "going on with the run{began}: {} ({}) done, {} under way",
        display_counted(totals.done_objects, "object"),
        ByteSize(totals.done_bytes),
        display_count(pending)
    );
    if open > 0 {
        let _ = write!(line, ", {} in open uploads", ByteSize(open));
    }
    let note = Note::new(Level::INFO, "run_resumed", line)
        .with("began", state.began)
        .with("done_objects", totals.done_objects)
        .with("done_bytes", totals.done_bytes)
        .with("pending_objects", pending)
        .with("open_bytes", open);
    tell_note(&note);
}
