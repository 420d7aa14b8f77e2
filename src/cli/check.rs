//! `check`: tests whether a job would start, and whether its assumptions hold.

mod journal;
mod look;
mod probe;
mod report;
mod state;

use std::collections::BTreeSet;
use std::fmt::Display;

use clap::Args;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use look::{CheckFinding, CheckFindings, CheckStatus, look};

use super::job_environment::JobEnvironment;
use super::journal::of_environment;
use super::shards::{GivenShards, require_number, require_outside_sources, state_prefix};
use super::signals::{self, Orderly};
use super::{
    CliError, Exit, JobFile, Output, note, out, presence, say_json, say_line, termination,
};
use crate::connections::Connections;
use crate::execute::{DRAIN, describe};
use crate::location::S3Uri;
use crate::manifest::job::Job;
use crate::planner::Sides;
use crate::telemetry::Note;

/// Checks a job. Writes nothing, except with `--probe`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  s3haul check nightly.yaml
  s3haul check nightly.yaml --probe                 also measures the servers, and prints what to state in the manifest
  s3haul check lake.yaml --state s3://ops/lake/run-1/ --shards 512 --pods 32     a run in shards

Shows the identity at each endpoint. Lists one key of each source, and of each destination that the job compares with.
Sends HEAD for the first object, with the credentials that sign the copies. Reads the journal, if there is one.

A probe sends about 120 requests: it writes small objects and one of 11 MiB below a scratch prefix of each destination
bucket, and removes them, even when it is stopped. It needs s3:DeleteObject there; a job never does.

Exit codes: 0 nothing is known to be wrong; 1 a selection with `empty: fail` matches nothing, a server lacks what the job
relies on or this could not be measured, or the probe left something behind; 3 a bucket or a local source cannot be used,
listed, or read, or the journal or the report in S3 cannot be used; 4 interrupted.")]
pub(super) struct CheckJob {
    #[command(flatten)]
    job: JobFile,
    /// Measure the capabilities of the destination servers below a scratch prefix.
    #[arg(long)]
    probe: bool,
    /// Scratch prefix. It must be empty and end with a slash. Default: a new one.
    #[arg(long, value_name = "PREFIX", requires = "probe", value_parser = scratch)]
    probe_prefix: Option<String>,
    /// Check that the job can run in shards with this state prefix, and that an existing plan there
    /// belongs to this job.
    #[arg(long, value_name = "PREFIX", requires = "shards", value_parser = state_prefix)]
    state: Option<S3Uri>,
    /// Number of shards of the run.
    #[arg(long, value_name = "N", requires = "state")]
    shards: Option<u32>,
    /// Number of processes that would run at a time. The job's limits are divided among them.
    #[arg(long, value_name = "P", requires = "state", value_parser = clap::value_parser!(u32).range(1..))]
    pods: Option<u32>,
}

impl CheckJob {
    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        let CheckedJob {
            place: _place,
            job,
            mut connections,
            exit,
        } = Box::pin(self.look(output)).await?;
        if !self.probe {
            return Ok(exit);
        }
        if exit == Exit::Refused {
            note("the destinations are not probed, because a run of this job would be refused");
            return Ok(exit);
        }
        // The probe removes what it created before the command ends.
        signals::leaves("objects of the probe may be left below its scratch prefix");
        let orderly = Orderly::within(DRAIN);
        let (signalled, stop) = (orderly.signalled(), CancellationToken::new());
        let stopping = stop.clone();
        let listening = tokio::spawn(async move {
            signalled.wait().await;
            let message = "stopping: removing what the probe made (up to 20 s); send the signal again to stop now";
            out::tell(&Note::new(Level::WARN, "stopping", message));
            stopping.cancel();
        });
        let prefix = self.probe_prefix.as_deref();
        let probed = Box::pin(probe::probe_all(
            &job,
            prefix,
            &mut connections,
            &stop,
            output,
        ))
        .await?;
        listening.abort();
        Ok(if probed == Exit::Done { exit } else { probed })
    }

    /// Returns the shards to check, if the flags describe a run in shards.
    fn in_shards(&self) -> Result<Option<GivenShards>, CliError> {
        let (Some(state), Some(shards)) = (&self.state, self.shards) else {
            return Ok(None);
        };
        require_number(shards)?;
        Ok(Some(GivenShards {
            state: state.clone(),
            shards,
            pods: self.pods,
        }))
    }

    /// Runs all checks that write nothing.
    async fn look(&self, output: Output) -> Result<CheckedJob, CliError> {
        let mut job = self.job.load()?;
        let in_shards = self.in_shards()?;
        if let Some(given) = &in_shards {
            require_outside_sources(&job, &given.state)?;
            given.prepare(&mut job)?;
        } else if let Some(place) = of_environment()? {
            job.journal = place;
        }
        let place = JobEnvironment::of(&self.job, &mut job).await?;
        let mut connections = place.connect(&job, &CancellationToken::new());
        introduce(&job, &mut connections, output).await?;
        presence::require(&job, &mut connections).await?;
        let mut exit = Exit::Done;
        for (number, transfer) in job.transfers.iter().enumerate() {
            let (source, destination) = connections.of_transfer(transfer).await?;
            let sides = Sides::new(transfer, source, destination);
            let old_versions = match sides.changed_bucket() {
                Some(bucket) => connections.old_versions(bucket).await,
                None => None,
            };
            let findings = look(&job, number, &sides, &mut connections, self.probe).await?;
            exit = match findings.status() {
                _ if findings.is_forbidden() || matches!(exit, Exit::Refused) => Exit::Refused,
                CheckStatus::Failed => Exit::Failures,
                _ => exit,
            };
            if let Some(failure) = findings.failure() {
                termination::set_reason(&format!("{}: {failure}", transfer.name));
            }
            tell(&sides, old_versions.as_ref(), &findings, output)?;
        }
        let records = match &in_shards {
            // A run in shards does not use the job's own journal and report.
            Some(given) => vec![state::check(&job, given, &mut connections, output).await?],
            None => vec![
                journal::check(&job, &mut connections, output).await?,
                report::check(&job, &mut connections, output).await?,
            ],
        };
        for findings in records {
            if findings.is_forbidden() {
                termination::set_reason(findings.failure().unwrap_or_default());
                exit = Exit::Refused;
            }
        }
        Ok(CheckedJob {
            place,
            job,
            connections,
            exit,
        })
    }
}

/// A job after its checks.
struct CheckedJob {
    /// Kept alive, because a sandbox in this process ends when it is dropped.
    place: JobEnvironment,
    job: Job,
    connections: Connections,
    exit: Exit,
}

/// Parses a scratch prefix, as typed. Without the slash at the end, it would match other keys too.
fn scratch(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("s3://").map_or(text, |location| {
        // Ignores a bucket name: the probe uses the job's destination buckets.
        location.split_once('/').map_or("", |(_, key)| key)
    });
    let name = name.trim_matches('/');
    if !name.is_empty() && text == format!("{name}/") {
        return Ok(text.to_owned());
    }
    let name = if name.is_empty() { "scratch" } else { name };
    Err(format!(
        "a scratch prefix is the beginning of keys, without the bucket, and ends in a slash: write {name}/"
    ))
}

/// Prints the identity and location of the client at each endpoint.
async fn introduce(
    job: &Job,
    connections: &mut Connections,
    output: Output,
) -> Result<(), CliError> {
    let mut introduced = BTreeSet::new();
    for transfer in &job.transfers {
        let (source, destination) = connections.of_transfer(transfer).await?;
        for bucket in source.iter().chain([&destination]) {
            let endpoint = bucket.client().endpoint();
            if !introduced.insert(endpoint.to_owned()) {
                continue;
            }
            let identity = connections.identity(bucket).await;
            if output.json {
                say_json(&serde_json::json!({"endpoint": endpoint, "identity": identity}))?;
            } else {
                say_line(&identity)?;
            }
        }
    }
    Ok(())
}

/// Prints the findings about a transfer.
fn tell(
    sides: &Sides,
    old_versions: Option<&impl Display>,
    findings: &CheckFindings,
    output: Output,
) -> Result<(), CliError> {
    let Sides {
        transfer,
        source,
        destination,
        ..
    } = sides;
    let regions: Vec<_> = source
        .iter()
        .chain([destination])
        .map(|bucket| bucket.client().region().to_owned())
        .collect();
    if output.json {
        let line = serde_json::json!({
            "transfer": transfer.name, "regions": regions, "status": findings.status(), "findings": findings.0,
            "times": transfer.times(), "in_place": sides.is_in_place(),
            "old_versions": old_versions.map(ToString::to_string),
        });
        say_json(&line)?;
        return Ok(());
    }
    let word = findings.status().word();
    say_line(&format!(
        "{word}  {}: {} ({})",
        transfer.name,
        describe(transfer),
        regions.join(" -> ")
    ))?;
    if let Some(note) = old_versions {
        say_line(&format!("    in place: {note}"))?;
    }
    for time in transfer.times() {
        say_line(&format!("    selects {time}"))?;
    }
    for CheckFinding { text, .. } in &findings.0 {
        say_line(&format!("    {text}"))?;
    }
    Ok(())
}
