//! `check`: would this job start, and is what it relies on true?

mod journal;
mod look;

use std::collections::BTreeSet;
use std::fmt::Display;

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use look::{Finding, Findings, Status, look};

use super::journal::of_environment;
use super::place::Place;
use super::{CliError, Exit, JobFile, Output, presence, say, say_json, say_line};
use crate::bucket::Bucket;
use crate::connections::Connections;
use crate::execute::describe;
use crate::manifest::job::Job;
use crate::planner::Sides;
use crate::printable::printable;
use crate::probe::{self, Probe, Verdict};

/// Checks a job without writing anything, but for a probe that is asked for.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  s3haul check nightly.yaml
  s3haul check nightly.yaml --probe                 also measures the servers, and prints what to state in the manifest

Shows the identity at each endpoint. Lists one key of each source and of each destination that is compared with,
and sends HEAD for the first object with the credentials that sign the copies. Reads the journal, if there is one.

A probe writes some 20 small objects and one of 11 MiB below a scratch prefix of each destination bucket, and removes
them. It needs s3:DeleteObject there; a job never does.

Exit codes: 0 nothing is known to be wrong, 1 a selection with `empty: fail` matches nothing, a server does not do what the
job relies on, or the probe left something behind, 3 a bucket or a local source cannot be used, listed, or read, or the
journal cannot be used.")]
pub(super) struct CheckJob {
    #[command(flatten)]
    job: JobFile,
    /// Measure the capabilities of the destinations' servers, below a scratch prefix.
    #[arg(long)]
    probe: bool,
    /// Scratch prefix, empty and with a slash at the end. Default: a new one.
    #[arg(long, value_name = "PREFIX", requires = "probe")]
    probe_prefix: Option<String>,
}

impl CheckJob {
    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        let mut job = self.job.load()?;
        if let Some(place) = of_environment()? {
            job.journal = place;
        }
        let place = Place::of(&self.job, &mut job).await?;
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
                Status::Failed => Exit::Failures,
                _ => exit,
            };
            tell(&sides, old_versions.as_ref(), &findings, output)?;
        }
        if journal::check(&job, &mut connections, output).await?.is_forbidden() {
            exit = Exit::Refused;
        }
        if !self.probe {
            return Ok(exit);
        }
        let probed = Box::pin(self.probe_all(&job, &mut connections, output)).await?;
        Ok(if matches!(exit, Exit::Done) { probed } else { exit })
    }

    /// Probes each destination bucket once.
    async fn probe_all(
        &self,
        job: &Job,
        connections: &mut Connections,
        output: Output,
    ) -> Result<Exit, CliError> {
        let (mut exit, mut probed) = (Exit::Done, BTreeSet::new());
        for transfer in &job.transfers {
            if !probed.insert((&transfer.to.endpoint, &transfer.to.location.bucket)) {
                continue;
            }
            let (_, bucket) = connections.of_transfer(transfer).await?;
            let prefix = self.probe_prefix.clone().unwrap_or_else(probe::scratch_prefix);
            let found = probe::probe_with_acl(&bucket, &prefix, transfer.to.acl).await?;
            if !found.is_good() {
                exit = Exit::Failures;
            }
            if output.json {
                say_json(&json(&bucket, &found))?
            } else {
                say(&text(&bucket, &found))?
            };
        }
        Ok(exit)
    }
}

/// Says who asks at each endpoint, and where that is.
async fn introduce(job: &Job, connections: &mut Connections, output: Output) -> Result<(), CliError> {
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

/// Prints what was found out about a transfer.
fn tell(
    sides: &Sides,
    old_versions: Option<&impl Display>,
    findings: &Findings,
    output: Output,
) -> Result<(), CliError> {
    let Sides { transfer, source, destination, .. } = sides;
    let regions: Vec<_> =
        source.iter().chain([destination]).map(|bucket| bucket.client().region().to_owned()).collect();
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
    say_line(&format!("{word}  {}: {} ({})", transfer.name, describe(transfer), regions.join(" -> ")))?;
    if let Some(note) = old_versions {
        say_line(&format!("    in place: {note}"))?;
    }
    for time in transfer.times() {
        say_line(&format!("    selects {time}"))?;
    }
    for Finding { text, .. } in &findings.0 {
        say_line(&format!("    {text}"))?;
    }
    Ok(())
}

fn json(bucket: &Bucket, probe: &Probe) -> serde_json::Value {
    #[derive(Serialize)]
    struct Line<'p> {
        capability: &'static str,
        relied_on: probe::Value,
        found: Option<probe::Value>,
        verdict: Verdict,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'p String>,
    }
    let line = |finding: &'_ probe::Finding| {
        let reason = finding.found.as_ref().err().cloned();
        serde_json::json!(Line {
            capability: finding.name,
            relied_on: finding.said,
            found: finding.found.as_ref().ok().copied(),
            verdict: finding.verdict(),
            reason: reason.as_ref(),
        })
    };
    serde_json::json!({
        "probe": {
            "endpoint": bucket.client().endpoint(),
            "bucket": bucket.name().to_string(),
            "prefix": probe.prefix,
            "findings": probe.findings.iter().map(line).collect::<Vec<_>>(),
            "capabilities": probe.statement(),
            "left": probe.left,
        }
    })
}

fn text(bucket: &Bucket, probe: &Probe) -> String {
    let endpoint = bucket.client().endpoint();
    let mut lines = vec![
        format!("probe of s3://{}/{} (endpoint `{endpoint}`)", bucket.name(), probe.prefix),
        format!("  {:<16} {:<22} {:<22}", "capability", "relied on", "found").trim_end().to_owned(),
    ];
    for finding in &probe.findings {
        let (found, remark) = match (&finding.found, finding.verdict()) {
            (Ok(found), Verdict::Lacks) => (found.to_string(), "RELIED ON, AND NOT SO"),
            (Ok(found), Verdict::CanDoMore) => (found.to_string(), "can do more"),
            (Ok(found), _) => (found.to_string(), ""),
            (Err(reason), _) => ("?".to_owned(), reason.as_str()),
        };
        let line = format!("  {:<16} {:<22} {found:<22} {remark}", finding.name, finding.said);
        lines.push(line.trim_end().to_owned());
    }
    if let Some(statement) = probe.statement() {
        lines.push(format!(
            "to rely on what was found, state it under `endpoints.{endpoint}` of the manifest:"
        ));
        lines.push(format!("  capabilities: {statement}"));
    }
    lines.extend(probe.left.iter().map(|left| format!("left behind: {left}")));
    lines.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n")
}
