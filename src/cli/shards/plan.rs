//! `plan --shards`: plans the shards of a job, and prints a summary.

use super::{RunConnections, plan_at, refuse_job, require_number};
use crate::cli::job_environment::JobEnvironment;
use crate::cli::lease::own_terms;
use crate::cli::{CliError, Exit, Output, say_json, say_line};
use crate::execute::DRAIN;
use crate::journal::Writer;
use crate::location::S3Uri;
use crate::manifest::job::Job;
use crate::shards::names::PLAN;
use crate::shards::record::ShardPlan;
use crate::shards::survey::Extent;
use crate::size::{ByteSize, display_count, display_counted};

/// Plans the shards of a job, for `plan --shards`.
pub(crate) async fn plan(
    job: &Job,
    place: &JobEnvironment,
    state: &S3Uri,
    extent: Extent,
    output: Output,
) -> Result<Exit, CliError> {
    require_number(extent.shards)?;
    refuse_job(job)?;
    let mut connections = RunConnections::new(job, place, DRAIN);
    let process = Writer::this_process(&own_terms());
    let (store, obtained) = plan_at(state, job, &mut connections, extent, &process).await?;
    let plan = &obtained.plan;
    if output.json {
        return say_json(&serde_json::json!({ "plan": plan, "new": obtained.is_new }));
    }
    let place = store.uri(PLAN)?;
    say_line(&if obtained.is_new {
        format!("{place}: {}", plan_text(plan))
    } else {
        format!("{place} is there already: {}", plan_text(plan))
    })?;
    let used = plan.shards.iter().filter(|shard| !shard.ranges.is_empty());
    let heaviest = plan.shards.iter().map(|shard| shard.weight);
    let heaviest = heaviest.max_by(|one, other| one.units().total_cmp(&other.units()));
    let heaviest = heaviest.unwrap_or_default();
    say_line(&format!(
        "{} of them have keys; the heaviest has {} and {}",
        display_count(used.count() as u64),
        display_counted(heaviest.objects, "object"),
        ByteSize(heaviest.bytes)
    ))
}

/// Returns a summary of a plan in one line.
pub(super) fn plan_text(plan: &ShardPlan) -> String {
    let about = if plan.exact { "" } else { "about " };
    format!(
        "{}: {about}{}, {about}{}, with {}",
        display_counted(plan.shards.len() as u64, "shard"),
        display_counted(plan.weight.objects, "object"),
        ByteSize(plan.weight.bytes),
        display_counted(plan.lists, "list request")
    )
}
