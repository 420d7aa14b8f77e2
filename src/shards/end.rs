//! Records the ends of shards: `done/I.json` or `failed/I.json`, and `summary.json` once all have
//! ended.

use std::collections::BTreeSet;

use super::names::{PerShard, SUMMARY};
use super::record::{ShardEnd, ShardPlan, ShardsSummary};
use super::store::{StateError, StateStore, StateWrite, Stored};
use crate::s3::WriteCondition;

/// The number of attempts to write a summary while other processes write theirs.
const ATTEMPTS: u32 = 8;

/// Writes the end of a shard. If the shard is done, removes the record of an earlier failure.
///
/// # Errors
/// Fails if a request fails.
pub async fn end(store: &StateStore, end: &ShardEnd) -> Result<(), StateError> {
    let is_done = end.exit == 0;
    let kind = if is_done {
        PerShard::Done
    } else {
        PerShard::Failed
    };
    store
        .put(&kind.of(end.shard), end, WriteCondition::None)
        .await?;
    let failed = PerShard::Failed.of(end.shard);
    if is_done && store.get::<ShardEnd>(&failed).await?.is_some() {
        store.delete(&failed).await?;
    }
    Ok(())
}

/// Writes the summary if all shards have ended, and returns it.
///
/// While this process reads the ends, another one may see more ends and write its summary. So this
/// process reads the summary first, and replaces it only if it has not changed.
///
/// # Errors
/// Fails if a request fails or an object cannot be read.
pub async fn summarize(
    store: &StateStore,
    plan: &ShardPlan,
) -> Result<Option<ShardsSummary>, StateError> {
    let shards = u32::try_from(plan.shards.len()).unwrap_or(u32::MAX);
    for _ in 0..ATTEMPTS {
        let before: Option<Stored<ShardsSummary>> = store.get(SUMMARY).await?;
        let is_ours = |shard: &u32| *shard < shards;
        let done = store.list(PerShard::Done).await?.into_keys();
        let done: BTreeSet<u32> = done.filter(is_ours).collect();
        let failed = store.list(PerShard::Failed).await?.into_keys();
        let failed: BTreeSet<u32> = failed
            .filter(is_ours)
            .filter(|shard| !done.contains(shard))
            .collect();
        if done.len() + failed.len() < shards as usize {
            return Ok(None);
        }
        let mut ends = store.get_all::<ShardEnd>(PerShard::Done, done).await?;
        ends.extend(store.get_all(PerShard::Failed, failed).await?);
        if ends.len() < shards as usize {
            // A failed shard has become done meanwhile, so its record was removed.
            continue;
        }
        let ends = ends.values().map(|stored| &stored.record);
        let summary = ShardsSummary::of(&plan.job, shards, ends);
        let condition = match &before {
            Some(before) if before.record == summary => return Ok(Some(summary)),
            Some(before) => store.replacing(before.etag.as_deref()),
            None => WriteCondition::Absent,
        };
        if store.put(SUMMARY, &summary, condition).await? != StateWrite::Refused {
            return Ok(Some(summary));
        }
    }
    Ok(None)
}
