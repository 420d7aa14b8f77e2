//! `run --state` runs one shard of a job, and `plan --shards` only plans the shards.
//!
//! A shard is an ordinary run that lists only its own ranges of keys, and keeps its journal and its
//! report below the state prefix. This module plans the shards before the run, and records the
//! shard's end after it.

mod index;
mod plan;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tracing::Level;

pub(super) use plan::plan;
use plan::plan_text;

use super::exit::NEXT_ERROR;
use super::job_environment::JobEnvironment;
use super::lease::variable;
use super::out::tell;
use super::run::{RunConnections, RunOptions, run_with};
use super::signals::{self, Orderly};
use super::unused_flags::{self, Flag};
use super::{CliError, Exit, Output, lifecycle, note, presence, say_json, say_line, termination};
use crate::connections::Connections;
use crate::execute::Outcome;
use crate::execute::monitor::{Event, Monitor};
use crate::journal::Writer;
use crate::journal::state::{RunState, RunTotals};
use crate::listing::bisect::KeyRange;
use crate::location::{ObjectKey, S3Uri};
use crate::manifest::job::{DEFAULT_ENDPOINT, Job, JournalPlace, ReportPaths};
use crate::manifest::state_in_source;
use crate::pace::{PaceCounts, Pacer, RetryPolicy};
use crate::report::ReportHeader;
use crate::shards::end;
use crate::shards::live::{LiveCounts, LiveIdentity, LiveWriter};
use crate::shards::make::{self, JobBuckets, MakeError, refusals, refused_number};
use crate::shards::names::{PLAN, PerShard, journal_of, report_of};
use crate::shards::obtain::{ObtainError, ObtainedPlan, PlanTerms, obtain};
use crate::shards::record::{FORMAT, LiveRecord, ShardActivity, ShardEnd, ShardPlan};
use crate::shards::store::{StateStore, Stored};
use crate::shards::survey::Extent;
use crate::size::display_counted;
use crate::telemetry::{self, Note};

/// The message for a signal before the run of a shard begins.
const NOTHING_COPIED: &str = "nothing was copied; run the same command again";

/// A run in many processes, each of which copies its own ranges of keys.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Many processes")]
pub(super) struct ShardFlags {
    /// Run one shard of the job. The processes of a run share s3://bucket/prefix/, which holds the
    /// plan and the journal, report, and progress of each shard.
    #[arg(long, value_name = "PREFIX", requires = "shards", value_parser = state_prefix)]
    state: Option<S3Uri>,
    /// Number of shards, at most 2000. Use 8 to 16 for each process that runs at a time.
    #[arg(long, value_name = "N", requires = "state")]
    shards: Option<u32>,
    /// Number of processes that run at a time. Each takes its share of the job's limits. Default:
    /// the array size, if Slurm or AWS Batch started this process.
    #[arg(long, value_name = "P", requires = "state", value_parser = clap::value_parser!(u32).range(1..))]
    pods: Option<u32>,
    /// Index of the shard, from 0. Default: JOB_COMPLETION_INDEX, AWS_BATCH_JOB_ARRAY_INDEX, or
    /// SLURM_ARRAY_TASK_ID.
    #[arg(long, value_name = "I", requires = "state")]
    shard: Option<u32>,
}

/// Parses a state prefix.
pub(super) fn state_prefix(text: &str) -> Result<S3Uri, String> {
    let uri: S3Uri = text.parse().map_err(|error| format!("{error}"))?;
    if uri.key.is_prefix() && !uri.key.as_str().is_empty() {
        Ok(uri)
    } else if uri.key.as_str().is_empty() {
        Err(format!(
            "{uri} is a whole bucket; name a prefix for this run, such as {uri}runs/2026-11-29/"
        ))
    } else {
        Err(format!(
            "the state of a run is kept below a prefix; write {uri}/ with a slash at the end"
        ))
    }
}

/// The run in shards that the flags name.
#[derive(Clone, Debug)]
pub(super) struct GivenShards {
    pub(super) state: S3Uri,
    pub(super) shards: u32,
    pub(super) pods: Option<u32>,
}

/// The shard that the flags and the environment select.
#[derive(Clone, Debug)]
pub(super) struct GivenShard {
    pub(super) run: GivenShards,
    /// The index of the shard.
    pub(super) shard: u32,
}

impl ShardFlags {
    /// Returns the shard to run, if the run has shards.
    pub(super) fn given(&self) -> Result<Option<GivenShard>, CliError> {
        let (Some(state), Some(shards)) = (&self.state, self.shards) else {
            return Ok(None);
        };
        require_number(shards)?;
        let shard = index::index(self.shard, variable).map_err(CliError::Usage)?;
        if shard >= shards {
            return Err(CliError::Usage(format!(
                "there is no shard {shard}: with --shards {shards} the last one is {}; start as many processes as there \
                 are shards, and number them from 0",
                shards - 1
            )));
        }
        let pods = self.pods.or_else(|| index::array_size(variable));
        let run = GivenShards {
            state: state.clone(),
            shards,
            pods,
        };
        Ok(Some(GivenShard { run, shard }))
    }

    /// Sets the index. Returns the flag for it, unless the user typed it.
    pub(super) fn name_shard(&mut self, shard: u32) -> Option<String> {
        let was_typed = self.shard.replace(shard).is_some();
        (!was_typed).then(|| format!("--shard={shard}"))
    }

    /// Places the journal and the report of a job below the state prefix, once the shard is known.
    pub(super) fn apply(&self, job: &mut Job) -> Result<(), CliError> {
        let (Some(state), Some(shard)) = (&self.state, self.shard) else {
            return Ok(());
        };
        require_outside_sources(job, state)?;
        let below = |name: String| {
            let key = ObjectKey::new(&format!("{}{name}", state.key));
            let key = key.map_err(|error| CliError::Usage(format!("--state: {error}")))?;
            Ok::<_, CliError>(S3Uri {
                bucket: state.bucket.clone(),
                key,
            })
        };
        if job.journal != JournalPlace::Default || job.report != ReportPaths::default() {
            note(&format!(
                "`journal` and `report` of the job are not used: with --state, both of this shard are below {}",
                below(String::new())?
            ));
        }
        job.journal = JournalPlace::Prefix(below(journal_of(shard))?);
        job.report = ReportPaths {
            json: None,
            s3: Some(below(report_of(shard))?),
        };
        Ok(())
    }
}

/// Refuses flags that contradict `--state`, such as those that place the journal and the report.
pub(super) fn refuse_flags(flags: &[Flag]) -> Result<(), CliError> {
    let why = "keeps the journal and the report of each shard below its prefix, and each shard resumes by itself";
    let remedy = "leave that out; to start over, use another prefix, and to see what would be done, use `s3haul plan`";
    unused_flags::refuse("--state", why, flags, remedy)
}

/// Refuses an invalid number of shards.
pub(super) fn require_number(shards: u32) -> Result<(), CliError> {
    match refused_number(shards) {
        Some(reason) => Err(CliError::Usage(format!("--shards: {reason}"))),
        None => Ok(()),
    }
}

/// Refuses a state prefix inside a source, because the job would copy the state.
pub(super) fn require_outside_sources(job: &Job, state: &S3Uri) -> Result<(), CliError> {
    match CliError::of_mistakes(state_in_source(job, state).as_slice()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Refuses a job that cannot run in shards.
fn refuse_job(job: &Job) -> Result<(), CliError> {
    match CliError::of_mistakes(&refusals(job)) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

impl GivenShards {
    /// Refuses a job that cannot run in shards, and reduces its limits to this process's share.
    /// Returns the number of processes that run at a time.
    pub(super) fn prepare(&self, job: &mut Job) -> Result<u32, CliError> {
        refuse_job(job)?;
        let Some(pods) = self.pods else {
            if make::has_shared_limits(&job.limits) {
                let message = "the job has `limits`, which are divided among the processes that run at a time, and their number \
                               is not known; set it with --pods (in Kubernetes, the Job's parallelism)";
                return Err(CliError::Usage(message.to_owned()));
            }
            note(
                "the number of concurrent processes is unknown, so each one starts at the full request rate that AWS \
                 documents; set it with --pods",
            );
            return Ok(1);
        };
        // There are never more running processes than shards.
        let pods = pods.min(self.shards);
        job.limits = make::share_of(&job.limits, pods).map_err(CliError::Usage)?;
        Ok(pods)
    }
}

/// The shard that this process runs.
#[derive(Debug)]
pub(super) struct RunningShard {
    store: StateStore,
    plan: ShardPlan,
    shard: u32,
    ranges: BTreeMap<u32, KeyRange>,
    process: Writer,
    live: OnceLock<Arc<LiveWriter>>,
    session: OnceLock<SessionEnd>,
}

/// The result of the session that ran a shard, from its journal.
#[derive(Debug)]
struct SessionEnd {
    is_complete: bool,
    state: RunState,
    requests: PaceCounts,
    seconds: f64,
    sessions: u32,
}

/// Sends the events of a run to two monitors.
struct TwoMonitors(Arc<dyn Monitor>, Arc<LiveCounts>);

impl Monitor for TwoMonitors {
    fn observe(&self, event: &Event<'_>) {
        self.0.observe(event);
        self.1.observe(event);
    }
}

impl RunningShard {
    /// Returns the keys of the shard, by transfer.
    pub(super) fn ranges(&self) -> &BTreeMap<u32, KeyRange> {
        &self.ranges
    }

    /// Starts a task in `live` that writes live records. Returns a monitor that counts for the
    /// records and forwards all events to `monitor`.
    pub(super) fn start_live_records(
        &self,
        monitor: Arc<dyn Monitor>,
        resumed: &RunState,
        origin: &ReportHeader,
        pacer: &Arc<Pacer>,
        live: &mut JoinSet<()>,
    ) -> Arc<dyn Monitor> {
        let counts = Arc::new(LiveCounts::of(resumed));
        let run = resumed.run.as_ref();
        let identity = LiveIdentity {
            shard: self.shard,
            process: self.process.clone(),
            run: run.map_or_else(|| origin.run.clone(), |run| run.run.clone()),
        };
        let (store, pacer) = (self.store.clone(), Arc::clone(pacer));
        let writer = Arc::new(LiveWriter::new(store, identity, Arc::clone(&counts), pacer));
        let writer = Arc::clone(self.live.get_or_init(|| writer));
        live.spawn(async move { writer.write_always().await });
        Arc::new(TwoMonitors(monitor, counts))
    }

    /// Stores the result of the session, for the record of the shard's end.
    pub(super) fn set_session_end(&self, outcome: &Outcome, state: &RunState) {
        let mut state = state.clone();
        // The journal drops the failures of a run that gave up, because the next run tries those
        // objects again.
        let failed = &mut state.totals.failed_objects;
        *failed = (*failed).max(outcome.failed_objects);
        // A process has one session, so this is called once.
        let _ = self.session.set(SessionEnd {
            is_complete: outcome.is_complete(),
            state,
            requests: outcome.requests,
            seconds: outcome.seconds,
            sessions: outcome.sessions,
        });
    }

    /// Records the end of the shard. An interrupted shard has not ended: a later process continues
    /// it.
    async fn end(&self, exit: Exit) -> Result<(), CliError> {
        let mut cause = (exit != Exit::Done).then(|| termination::reason(exit));
        let is_over = match exit {
            Exit::Done | Exit::Failures | Exit::Usage | Exit::Refused | Exit::Waiting => true,
            Exit::Interrupted => false,
            // Another process runs the shard, or a bug has made the state unknown.
            Exit::Held | Exit::Bug => return Ok(()),
        };
        let mut exit = exit;
        let mut recorded = Ok(());
        if is_over {
            let end = self.record(exit, cause.clone()).await;
            recorded = end::end(&self.store, &end)
                .await
                .map_err(CliError::Unrecorded);
        }
        // The live record shows that the process has ended, even if no other record does.
        if let Some(live) = self.live.get() {
            if let Err(error) = &recorded {
                (exit, cause) = (error.exit(), Some(error.to_string()));
            }
            let state = if is_over && recorded.is_ok() {
                ShardActivity::Ended
            } else {
                ShardActivity::Stopped
            };
            live.write(state, Some(exit as i32), cause).await;
        }
        recorded?;
        if is_over {
            let summary = end::summarize(&self.store, &self.plan).await;
            summary.map_err(CliError::Unrecorded)?;
        }
        Ok(())
    }

    /// Returns the record of the shard's end. If this process was refused before it had a run, uses
    /// the totals of the previous process.
    async fn record(&self, exit: Exit, cause: Option<String>) -> ShardEnd {
        let session = self.session.get();
        let state = session.map(|session| &session.state);
        let totals = match state {
            Some(state) => state.totals.clone(),
            None => self.earlier_totals().await,
        };
        ShardEnd {
            resumable: exit != Exit::Done && session.is_none_or(|session| !session.is_complete),
            format: FORMAT,
            shard: self.shard,
            process: self.process.clone(),
            run: state.and_then(|state| Some(state.run.as_ref()?.run.clone())),
            exit: exit as i32,
            cause,
            began: state.and_then(|state| state.began),
            ended: Timestamp::now(),
            seconds: session.map_or(0.0, |session| session.seconds),
            sessions: session.map_or(0, |session| session.sessions),
            totals,
            requests: session.map(|session| session.requests).unwrap_or_default(),
        }
    }

    /// Returns the totals in the last live record of the shard, or zeros if it cannot be read.
    async fn earlier_totals(&self) -> RunTotals {
        let name = PerShard::Live.of(self.shard);
        let live = self.store.get::<LiveRecord>(&name).await.ok().flatten();
        let totals = live.map(|live| live.record.totals).unwrap_or_default();
        RunTotals::from(totals)
    }
}

/// Runs one shard of a job to its end.
pub(super) async fn run(
    job: &mut Job,
    place: &JobEnvironment,
    origin: &ReportHeader,
    options: RunOptions,
    given: &GivenShard,
    output: Output,
) -> Result<Exit, CliError> {
    let mut connections = RunConnections::new(job, place, options.drain);
    let process = Writer::this_process(&options.lease);
    let extent = Extent {
        shards: given.run.shards,
        exact: false,
    };
    let planning = plan_at(&given.run.state, job, &mut connections, extent, &process);
    let (store, ObtainedPlan { plan, .. }) = planning.await?;
    if let Some(done) = store
        .get::<ShardEnd>(&PerShard::Done.of(given.shard))
        .await?
    {
        end::summarize(&store, &plan).await?;
        return say_done(&done.record, output);
    }
    // All shards must measure the ages in the job from the same time.
    if let Some(time) = plan.counted_from {
        job.count_from(time);
    }
    let origin = &ReportHeader {
        counted_from: job.counted_from(),
        ..origin.clone()
    };
    let shard = plan.shards.get(given.shard as usize);
    let ranges = shard
        .map(|shard| shard.ranges.as_slice())
        .unwrap_or_default();
    let shard = Arc::new(RunningShard {
        store,
        shard: given.shard,
        ranges: ranges
            .iter()
            .map(|range| (range.transfer, range.key_range()))
            .collect(),
        plan,
        process,
        live: OnceLock::new(),
        session: OnceLock::new(),
    });
    let options = RunOptions {
        shard: Some(Arc::clone(&shard)),
        ..options
    };
    lifecycle::start(job, origin, Some(given));
    let ended = Box::pin(run_with(connections, job, origin, &options, output)).await;
    let exit = match &ended {
        Ok(exit) => *exit,
        Err(error) => {
            termination::set_reason(&error.to_string().replace(NEXT_ERROR, " "));
            error.exit()
        }
    };
    match (ended, shard.end(exit).await) {
        (Err(error), Err(other)) => {
            note(&format!("{other}"));
            Err(error)
        }
        (ended, Ok(())) => ended,
        (Ok(_), Err(error)) => Err(error),
    }
}

fn say_done(done: &ShardEnd, output: Output) -> Result<Exit, CliError> {
    if output.json {
        return say_json(&serde_json::json!({ "shard_done": done }));
    }
    let objects = display_counted(done.totals.done_objects, "object");
    let text = format!(
        "shard {} is done already: {objects} copied, ended at {}",
        done.shard,
        done.ended.strftime("%Y-%m-%d %H:%M:%SZ")
    );
    if !telemetry::is_json() {
        return say_line(&text);
    }
    let note = Note::new(Level::INFO, "shard_done", text)
        .with("shard", done.shard)
        .with("exit", Exit::Done as i32)
        .with("done_objects", done.totals.done_objects)
        .with("ended", done.ended.to_string());
    tell(&note);
    Ok(Exit::Done)
}

/// Returns the plan at a state prefix, or obtains one if there is none. Refuses a plan for another
/// job. Only a process that finds no plan contacts the buckets of the job here; the others contact
/// them when their run begins.
async fn plan_at(
    state: &S3Uri,
    job: &Job,
    run: &mut RunConnections,
    extent: Extent,
    process: &Writer,
) -> Result<(StateStore, ObtainedPlan), CliError> {
    let connections = &mut run.connections;
    let store = store_at(state, connections).await?;
    let stored: Option<Stored<ShardPlan>> = store.get(PLAN).await?;
    let obtained = if let Some(Stored { record: plan, .. }) = stored {
        ObtainedPlan {
            plan,
            is_new: false,
        }
    } else {
        let buckets = check_buckets(job, connections).await?;
        let drain = connections.pacer().retry.drain;
        run.is_checked = true;
        obtain_plan(&store, job, &buckets, extent, process, drain).await?
    };
    require_plan_of(job, extent.shards, &obtained.plan, &store)?;
    if obtained.is_new {
        note(&format!("planned {}", plan_text(&obtained.plan)));
    }
    Ok((store, obtained))
}

/// Connects to the state prefix.
pub(super) async fn store_at(
    state: &S3Uri,
    connections: &mut Connections,
) -> Result<StateStore, CliError> {
    let bucket = connections.bucket(DEFAULT_ENDPOINT, &state.bucket).await?;
    let bucket = bucket.for_records().outliving_the_run();
    let store = StateStore::new(bucket, state.key.clone());
    store.demand_conditions()?;
    Ok(store)
}

/// Refuses a plan that was made for another job.
pub(super) fn require_plan_of(
    job: &Job,
    shards: u32,
    plan: &ShardPlan,
    store: &StateStore,
) -> Result<(), CliError> {
    let differences = make::differences(plan, job, shards);
    if differences.is_empty() {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "the plan {store}plan.json was made for another job: {}; undo the change, or give this run another prefix with \
         --state (in Kubernetes, give the Job another name)",
        differences.join("; ")
    )))
}

/// Contacts the buckets of a job for a run in shards, and checks that the objects that it names
/// individually exist.
pub(super) async fn check_buckets(
    job: &Job,
    connections: &mut Connections,
) -> Result<JobBuckets, CliError> {
    let buckets = make::connect(job, connections).await?;
    presence::require(job, connections).await?;
    Ok(buckets)
}

/// Obtains a plan for a state prefix without one. A signal ends this in an orderly way: it releases
/// the planning lease, so that the next process plans without waiting.
async fn obtain_plan(
    store: &StateStore,
    job: &Job,
    buckets: &JobBuckets,
    extent: Extent,
    process: &Writer,
    drain: Duration,
) -> Result<ObtainedPlan, CliError> {
    let patience = job.limits.patience;
    let terms = PlanTerms::of(patience.unwrap_or(RetryPolicy::default().patience));
    let make = || async {
        note("planning the shards");
        Box::pin(make::make(job, buckets, extent, process)).await
    };
    signals::leaves(NOTHING_COPIED);
    let orderly = Orderly::within(drain);
    let signalled = orderly.signalled();
    let stop = async {
        signalled.wait().await;
    };
    let obtained = obtain(store, process, terms, make, note, stop).await?;
    if signalled.has_come() {
        return Err(CliError::Interrupted(NOTHING_COPIED.to_owned()));
    }
    Ok(obtained)
}

impl From<MakeError> for CliError {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Failure(failure) => Self::Refused(failure),
            MakeError::Unordered { .. } => Self::Usage(error.to_string()),
            MakeError::NothingSelected { .. } => Self::Failed(error.to_string()),
        }
    }
}

impl From<ObtainError<MakeError>> for CliError {
    fn from(error: ObtainError<MakeError>) -> Self {
        match error {
            ObtainError::State(error) => Self::State(error),
            ObtainError::Plan(error) => error.into(),
            ObtainError::NoPlan { .. } => Self::Unplanned(error.to_string()),
            ObtainError::Stopped => Self::Interrupted(NOTHING_COPIED.to_owned()),
        }
    }
}
