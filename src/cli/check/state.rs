//! Checks the state prefix of a run in shards. Only reads.

use super::super::shards::{GivenShards, require_plan_of, store_at};
use super::super::{CliError, Output};
use super::look::{CheckFindings, CheckStatus};
use crate::connections::Connections;
use crate::manifest::job::Job;
use crate::shards::names::{PLAN, PerShard};
use crate::shards::record::ShardPlan;
use crate::size::{display_count, display_counted};

/// Reads the plan, and prints whether the shards of this job can run there.
pub(super) async fn check(
    job: &Job,
    given: &GivenShards,
    connections: &mut Connections,
    output: Output,
) -> Result<CheckFindings, CliError> {
    let mut findings = CheckFindings::default();
    let place = given.state.to_string();
    match look(job, given, connections, &mut findings).await {
        Ok(()) => findings.add(
            CheckStatus::NotChecked,
            format!("not checked: writing to {place}"),
        ),
        Err(CliError::State(error)) if !error.is_passing() => {
            findings.forbidden(error.to_string());
        }
        Err(error) => return Err(error),
    }
    findings.print("state", &place, output)?;
    Ok(findings)
}

async fn look(
    job: &Job,
    given: &GivenShards,
    connections: &mut Connections,
    findings: &mut CheckFindings,
) -> Result<(), CliError> {
    let store = store_at(&given.state, connections).await?;
    let Some(plan) = store.get::<ShardPlan>(PLAN).await? else {
        let text = "no plan is there yet; the first process plans the shards";
        findings.add(CheckStatus::Ok, text);
        return Ok(());
    };
    require_plan_of(job, given.shards, &plan.record, &store)?;
    let done = store.list(PerShard::Done).await?.len();
    findings.add(
        CheckStatus::Ok,
        format!(
            "the plan there belongs to this job; {} of {} are done",
            display_count(done as u64),
            display_counted(plan.record.shards.len() as u64, "shard")
        ),
    );
    Ok(())
}
