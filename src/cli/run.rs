//! `run`, and the execution of a job for `copy`, `retry`, and shards: connects, shows progress,
//! handles signals, and prints the result.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::SignalKind;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::job_environment::JobEnvironment;
use super::journal::{self, JournalFlags, Session};
use super::progress::Console;
use super::shards::{self, GivenShard, RunningShard, ShardFlags};
use super::signals::{self, DrainFlags, Orderly, Signalled};
use super::unused_flags::Flag;
use super::{
    CliError, Exit, JobFile, Output, color, lease, lifecycle, next, note, plan, presence, say,
    say_json, say_line, tell, unused_flags,
};
use crate::connections::Connections;
use crate::execute::{self, Execution, Outcome, monitor::Monitor};
use crate::journal::event::JournalEvent;
use crate::journal::state::RunState;
use crate::journal::{Closed, Intent, JournalError, LeaseTerms};
use crate::manifest::job::{Job, ReportPlace};
use crate::manifest::own_objects;
use crate::plan::unlisted::CommonCause;
use crate::report::{Footer, ReportEnd, ReportError, ReportHeader, Target, summary};
use crate::telemetry::{self, Note};

/// Runs a job manifest.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  s3haul run nightly.yaml
  s3haul run nightly.yaml --dry-run                 the same as `s3haul plan nightly.yaml`
  s3haul run jobs/quickstart.yaml --sandbox         on an S3 inside this process
  s3haul run lake.yaml --state s3://ops/s3haul/lake/ --shards 512 --pods 32    one of 512 shards; the engine sets the index")]
pub(super) struct RunJob {
    #[command(flatten)]
    job: JobFile,
    /// Show what the command would do, without doing it.
    #[arg(long)]
    dry_run: bool,
    /// Write one receipt per object, as JSON lines, to a file or below s3://bucket/prefix/.
    /// Overrides `report` of the manifest.
    #[arg(long, value_name = "PLACE")]
    report: Option<ReportPlace>,
    #[command(flatten)]
    journal: JournalFlags,
    #[command(flatten)]
    drain: DrainFlags,
    #[command(flatten)]
    shards: ShardFlags,
}

/// The options of a run that are not part of its job.
#[derive(Clone, Debug)]
pub(super) struct RunOptions {
    /// The choice to resume, replace, or refuse an unfinished run.
    pub(super) intent: Intent,
    /// The longest wait for a journal that another run holds.
    pub(super) wait: Duration,
    /// The longest time that the run takes to end after a signal.
    pub(super) drain: Duration,
    /// The identity with which the process holds its journal.
    pub(super) lease: LeaseTerms,
    /// The shard to run, if the run has shards.
    pub(super) shard: Option<Arc<RunningShard>>,
}

/// The connections of a run. Planning the shards may use them before the run begins.
#[derive(Debug)]
pub(super) struct RunConnections {
    pub(super) connections: Connections,
    /// Canceled to abort requests in flight.
    halt: CancellationToken,
    /// Set once all buckets have responded, and the objects that the job names individually exist.
    pub(super) is_checked: bool,
}

impl RunConnections {
    /// Returns connections whose requests end within the drain time. Sends nothing.
    pub(super) fn new(job: &Job, place: &JobEnvironment, drain: Duration) -> Self {
        let halt = CancellationToken::new();
        Self {
            connections: place.connect_within(drain, job, &halt),
            halt,
            is_checked: false,
        }
    }
}

impl RunJob {
    /// Returns the job, from the manifest and the flags.
    pub(super) fn job(&self) -> Result<Job, CliError> {
        let mut job = self.job.load()?;
        if let Some(place) = &self.report {
            job.report.set(place.clone());
        }
        self.journal.apply(&mut job);
        self.shards.apply(&mut job)?;
        self.journal.refuse_unused_flags(&job)?;
        // Loading checked only the manifest; a flag or the environment may have changed these
        // places.
        match CliError::of_mistakes(&own_objects(&job)) {
            Some(error) => Err(error),
            None => Ok(job),
        }
    }

    /// Returns true if the manifest is read from standard input.
    pub(super) fn is_from_stdin(&self) -> bool {
        self.job.path.as_os_str() == "-"
    }

    /// Returns true if the job runs on a sandbox in this process.
    #[cfg_attr(
        not(feature = "sandbox"),
        expect(
            clippy::unused_self,
            reason = "only with the sandbox there is a flag for it"
        )
    )]
    pub(super) fn is_sandboxed(&self) -> bool {
        #[cfg(feature = "sandbox")]
        return self.job.sandbox;
        #[cfg(not(feature = "sandbox"))]
        false
    }

    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        if let Some(given) = self.shards.given()? {
            return Box::pin(self.execute_shard(given, output)).await;
        }
        let mut job = self.job()?;
        if self.is_sandboxed() {
            let why = "ends with this process, so that no journal is kept";
            unused_flags::refuse(
                "--sandbox",
                why,
                &self.journal.resume_flags(),
                "leave that out",
            )?;
        }
        let place = JobEnvironment::of(&self.job, &mut job).await?;
        if self.dry_run {
            Box::pin(plan::show(&job, &place, None, output)).await
        } else {
            let origin = ReportHeader {
                sandbox: self.is_sandboxed(),
                ..ReportHeader::of_process()?
            };
            let origin = origin.begin(&job);
            let options = RunOptions {
                intent: self.journal.intent(),
                wait: self.journal.waits(),
                drain: self.drain.time(),
                lease: lease::own_terms(),
                shard: None,
            };
            run(&job, &place, &origin, &options, output).await
        }
    }

    /// Runs one shard of the job.
    async fn execute_shard(mut self, given: GivenShard, output: Output) -> Result<Exit, CliError> {
        shards::refuse_flags(&self.unused_in_shards())?;
        // The report must name a command that runs the same shard.
        let index = self.shards.name_shard(given.shard);
        let mut job = self.job()?;
        let pods = given.run.prepare(&mut job)?;
        let place = JobEnvironment::ambient().shared_by(pods);
        let mut origin = ReportHeader::of_process()?;
        if let Some(index) = index {
            next::add_flag(&mut origin.command, index);
        }
        let origin = origin.begin(&job);
        let options = RunOptions {
            intent: Intent::Resume,
            wait: self.journal.waits(),
            drain: self.drain.time(),
            lease: lease::shard_terms(given.shard),
            shard: None,
        };
        shards::run(&mut job, &place, &origin, options, &given, output).await
    }

    /// Returns the flags that contradict `--state`, and whether each was given.
    fn unused_in_shards(&self) -> Vec<Flag> {
        let mut flags = vec![
            ("--sandbox", self.is_sandboxed()),
            ("--dry-run", self.dry_run),
            ("--report", self.report.is_some()),
        ];
        flags.extend(self.journal.of_one_journal());
        flags
    }
}

/// Runs the job until it ends or a signal stops it.
pub(super) async fn run(
    job: &Job,
    place: &JobEnvironment,
    origin: &ReportHeader,
    options: &RunOptions,
    output: Output,
) -> Result<Exit, CliError> {
    lifecycle::start(job, origin, None);
    if let Some(path) = &job.report.json {
        Target::check_report(path, origin).map_err(ReportError::from)?;
    }
    let connections = RunConnections::new(job, place, options.drain);
    run_with(connections, job, origin, options, output).await
}

/// Runs a job whose start is already logged, with these connections.
pub(super) async fn run_with(
    mut connections: RunConnections,
    job: &Job,
    origin: &ReportHeader,
    options: &RunOptions,
    output: Output,
) -> Result<Exit, CliError> {
    let drain = options.drain;
    let shard = options.shard.as_deref();
    let stop = CancellationToken::new();
    let console = Arc::new(Console::new(
        Arc::clone(connections.connections.pacer()),
        output,
        has_bars(output),
        job.report.place().is_some(),
    ));
    let session = Box::pin(open_session(job, &mut connections, origin, options));
    // Until the session is open, a signal ends the command immediately.
    signals::leaves("this process had not begun to copy; run the same command again");
    let Session {
        journal,
        resumed,
        seen,
        report,
    } = session.await?;
    let RunConnections {
        mut connections,
        halt,
        ..
    } = connections;
    signals::leaves(left_behind(journal.keeps()));
    console.restore_counts(&resumed);
    let orderly = Orderly::within(drain);
    if journal.keeps() {
        signals::leaves_when_cut_short(CUT_SHORT);
    }
    let signals = tokio::spawn(stop_on_signal(
        orderly.signalled(),
        stop.clone(),
        Arc::clone(&console),
        drain,
    ));
    let ticking = tokio::spawn(Arc::clone(&console).tick());
    let mut monitor: Arc<dyn Monitor> = Arc::clone(&console) as _;
    let mut live = JoinSet::new();
    if let Some(shard) = shard {
        monitor =
            shard.start_live_records(monitor, &resumed, origin, connections.pacer(), &mut live);
    }
    let run = execute::run(Execution {
        job,
        connections: &mut connections,
        monitor,
        journal: &journal,
        resumed: &resumed,
        ranges: shard.map(RunningShard::ranges),
        stop: &stop,
        halt: &halt,
    });
    let outcome = Box::pin(run).await;
    ticking.abort();
    console.finish();
    let mut outcome = match outcome {
        Ok(outcome) => outcome,
        Err(failure) => {
            // Marks the run as stopped, so that the next process need not wait for the journal. An
            // error here is ignored, because the failure is more useful. If S3 is unreachable, this
            // must not take as long as a run would wait for it.
            let _ = timeout(drain, journal.close(JournalEvent::RunStopped)).await;
            signals.abort();
            return Err(failure.into());
        }
    };
    if let Some(earlier) = &mut outcome.earlier {
        earlier.seen = seen;
    }
    let exit = exit_of(&outcome);
    let kept = journal.keeps();
    // If S3 is unreachable, writes to a journal there wait like any request. After a signal, the
    // drain time limits the wait.
    let closed = journal.close(last_event(&outcome)).await;
    signals.abort();
    let was_signalled = orderly.signalled().has_come();
    drop(orderly);
    if let (true, Ok(closed)) = (kept, &closed) {
        outcome.stopped_objects = pending(&outcome, &closed.state);
        shard.inspect(|shard| shard.set_session_end(&outcome, &closed.state));
    }
    let record = complete(
        closed,
        job.report.place().filter(|_| report.is_some()),
        kept,
    );
    let name = report.as_ref().map(ReportEnd::name);
    let again = next::this_again();
    let next = next::after_run(job, &outcome, exit, again.as_deref(), name.as_deref());
    // Must precede any output, because standard output may be full.
    let ended = end_report(report, record, &outcome, exit).await;
    let printed = print(&outcome, &next, name.as_deref(), ended.is_ok(), output);
    let mut result = ended.and(printed);
    if result.is_ok() && was_signalled && exit == Exit::Interrupted {
        result = Err(CliError::Interrupted(left_behind(kept).to_owned()));
    }
    // An incomplete record, or a failure to print the result, changes the exit code.
    let last_exit = result.as_ref().err().map_or(exit, CliError::exit);
    lifecycle::summarize(&outcome, last_exit, name.as_deref());
    result.map(|()| exit)
}

/// Returns the last event of a session's journal.
fn last_event(outcome: &Outcome) -> JournalEvent {
    if outcome.is_complete() {
        JournalEvent::RunEnded
    } else {
        JournalEvent::RunStopped
    }
}

/// Checks that the journal and the report of an ended run are complete.
fn complete(
    closed: Result<Closed, JournalError>,
    report: Option<ReportPlace>,
    kept: bool,
) -> Result<(), CliError> {
    let closed = closed.map_err(CliError::Lost)?;
    match (report, closed.report) {
        (Some(place), Err(error)) => Err(ReportError::Incomplete { place, error, kept }.into()),
        _ => Ok(()),
    }
}

/// Contacts the buckets of the job and opens its journal. An unusable bucket is an error before the
/// run begins, so that the user can correct its name and run the job again.
async fn open_session(
    job: &Job,
    RunConnections {
        connections,
        is_checked,
        ..
    }: &mut RunConnections,
    origin: &ReportHeader,
    options: &RunOptions,
) -> Result<Session, CliError> {
    if !*is_checked && options.shard.is_some() {
        shards::check_buckets(job, connections).await?;
    } else if !*is_checked {
        for transfer in &job.transfers {
            connections.of_transfer(transfer).await?;
        }
        presence::require(job, connections).await?;
    }
    let origin = origin
        .clone()
        .with_sources(job, |endpoint| connections.credential_source(endpoint));
    lifecycle::connected(&origin);
    journal::open(job, connections, &origin, options, note).await
}

/// Returns true if progress is drawn on the terminal.
fn has_bars(output: Output) -> bool {
    !output.quiet && !telemetry::is_json() && io::stderr().is_terminal() && !color::is_dumb()
}

/// Returns the number of objects that the journal shows as pending, including those that this
/// session has not reached. Objects that failed when the run gave up are pending in the journal,
/// but count as failed.
fn pending(outcome: &Outcome, state: &RunState) -> u64 {
    let known = state.totals.failed_objects.min(outcome.failed_objects);
    let failed = outcome.failed_objects - known;
    (state.pending_objects() as u64).saturating_sub(failed)
}

/// Returns true if the result is printed as text. With JSON logs, the event `summary` has the
/// result, and the log collector may read standard output too.
fn is_for_people(output: Output) -> bool {
    !output.json && !telemetry::is_json()
}

/// Prints the result of a run. JSON output includes the next commands. Text output omits the name
/// of the report and these commands if the record of the run is incomplete.
fn print(
    outcome: &Outcome,
    next: &[String],
    report: Option<&str>,
    is_recorded: bool,
    output: Output,
) -> Result<(), CliError> {
    if output.json {
        let mut last = serde_json::json!({ "summary": outcome });
        if !next.is_empty() {
            last["next"] = next.into();
        }
        say_json(&last)?;
    } else if is_for_people(output) {
        say(output.spoken(summary(outcome)).trim_end())?;
        if !is_recorded {
            return Ok(());
        }
        if let Some(name) = report {
            say_line(&format!("report: {name}"))?;
        }
        for line in next {
            say_line(line)?;
        }
    }
    Ok(())
}

/// Ends the report of a run whose journal was closed with the result `record`.
async fn end_report(
    report: Option<ReportEnd>,
    record: Result<(), CliError>,
    outcome: &Outcome,
    exit: Exit,
) -> Result<(), CliError> {
    match (record, report) {
        (Ok(()), Some(report)) => {
            let footer = Footer::of(outcome, exit as i32);
            report.finish(&footer).await.map_err(CliError::from)
        }
        (Err(error @ CliError::Lost(_)), report) => {
            unfinished(report, outcome).await;
            Err(error)
        }
        (record, _) => record,
    }
}

/// Ends the report of a run whose journal was lost. The report is incomplete even if all objects
/// ended.
async fn unfinished(report: Option<ReportEnd>, outcome: &Outcome) {
    let Some(report) = report else { return };
    let footer = Footer {
        complete: false,
        ..Footer::of(outcome, Exit::Interrupted as i32)
    };
    if let Err(error) = report.finish(&footer).await {
        tracing::warn!(%error, "the report has no footer");
    }
}

/// Returns the exit code of a run.
#[must_use]
pub fn exit_of(outcome: &Outcome) -> Exit {
    let interrupted = outcome.stopped || outcome.stopped_objects > 0;
    // A run stopped by a signal is interrupted, even if a list was refused.
    let ended_itself = outcome.gave_up.is_some() || !interrupted;
    match outcome.list_failure() {
        Some(CommonCause::Refused) if ended_itself => return Exit::Refused,
        Some(CommonCause::Passing) => return Exit::Interrupted,
        _ => {}
    }
    match (&outcome.gave_up, interrupted, outcome.failed_objects) {
        (Some(gave_up), ..) if !gave_up.may_pass_later => Exit::Failures,
        (Some(_), ..) | (None, true, _) => Exit::Interrupted,
        (None, false, 0) if outcome.has_empty_failure() => Exit::Failures,
        (None, false, 0) if outcome.restoring_objects > 0 => Exit::Waiting,
        (None, false, 0) => Exit::Done,
        (None, false, _) => Exit::Failures,
    }
}

/// Describes what a run leaves behind if a signal ends it.
fn left_behind(keeps_journal: bool) -> &'static str {
    if keeps_journal {
        "what is done and the parts of open uploads are in the journal; run the same command again to continue"
    } else {
        "finished objects stay, and there is no journal (receipts name uploads that could not be aborted); run \
         the same command again for the rest"
    }
}

/// The error text of a run that ends before its journal is closed.
const CUT_SHORT: &str = "the journal may lack what was done last, and the next run finds that at the destination; run the same command \
                         again to continue";

/// Stops the run in an orderly way at the first signal. `signals` ends the process at the second
/// signal, or after the drain time.
async fn stop_on_signal(
    signalled: Signalled,
    stop: CancellationToken,
    console: Arc<Console>,
    drain: Duration,
) {
    let signal = signalled.wait().await;
    if signal == SignalKind::interrupt() && io::stdin().is_terminal() {
        console.skip_echo();
    }
    let mut message = format!(
        "stopping: finishing requests in flight (up to {})",
        signals::drain_text(drain)
    );
    // Schedulers send only one signal.
    if io::stderr().is_terminal() {
        message += "; send the signal again to stop now";
    }
    let note = Note::new(Level::WARN, "stopping", message)
        .with("signal", signals::name(signal))
        .with("within_seconds", drain.as_secs_f64());
    tell(&note);
    stop.cancel();
}
