//! Makes the plan of a job: refuses jobs that cannot run in shards, surveys the keys, and divides
//! them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use thiserror::Error;

use super::MAX_SHARDS;
use super::cut::divide;
use super::record::{FORMAT, ShardPlan, ShardWeight};
use super::survey::{Extent, SurveyedSource, survey};
use crate::bucket::Bucket;
use crate::connections::Connections;
use crate::journal::Writer;
use crate::journal::fingerprint::Fingerprint;
use crate::manifest::job::{Empty, Job, Limits, Source, Transfer, Versions};
use crate::manifest::{Mistake, must_wait};
use crate::planner::Sides;
use crate::s3::Failure;
use crate::size::ByteRate;

/// The reason why a job cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MakeError {
    /// A list failed, or a bucket cannot be used.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// A bucket does not list in the order of keys.
    #[error(
        "{transfer}: {place} does not list in the order of keys, so its keys cannot be cut into ranges; run the job \
         without --state and --shards"
    )]
    Unordered {
        /// The transfer.
        transfer: String,
        /// The bucket.
        place: String,
    },
    /// A selection matches nothing, and the job says `empty: fail`.
    #[error(
        "{transfer}: nothing below {place} is selected, and the job says `empty: fail`; check the selection"
    )]
    NothingSelected {
        /// The transfer.
        transfer: String,
        /// The source.
        place: String,
    },
}

/// Returns the reasons why a job cannot run in shards, as far as the job itself shows them.
#[must_use]
pub fn refusals(job: &Job) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (number, transfer) in job.transfers.iter().enumerate() {
        let mut refuse = |field: &str, message: String, remedy: &str| {
            mistakes.push(Mistake {
                path: format!("transfers[{number}].{field}"),
                message: format!("{}: {message}", transfer.name),
                remedy: remedy.to_owned(),
            });
        };
        if matches!(transfer.from, Source::Files { .. } | Source::Stdin) {
            let message =
                "local files cannot be copied in shards: each process would need the same files"
                    .to_owned();
            refuse(
                "from",
                message,
                "run this transfer without --state and --shards",
            );
        }
        if transfer.versions != Versions::Current {
            let message =
                "a history is read from its beginning, so its keys cannot be cut into ranges"
                    .to_owned();
            refuse(
                "from.versions",
                message,
                "run this transfer without --state and --shards",
            );
        }
        let earlier = job.transfers.iter().take(number);
        if let Some(earlier) = earlier
            .into_iter()
            .find(|earlier| must_wait(job, transfer, earlier))
        {
            let name = &earlier.name;
            let message = if transfer.after.contains(name) {
                format!(
                    "`after: {name}` cannot be kept in shards: processes that wait would take the place of processes that work"
                )
            } else {
                format!(
                    "it has keys in common with {name}, so it must wait until that has ended; in shards, processes that wait would take the place of processes that work"
                )
            };
            refuse(
                "after",
                message,
                "put the transfers into two manifests, and run one after the other",
            );
        }
    }
    mistakes
}

/// Returns the reason why a run cannot have this many shards.
#[must_use]
pub fn refused_number(shards: u32) -> Option<String> {
    match shards {
        0 => Some("a run needs at least one shard".to_owned()),
        1..=MAX_SHARDS => None,
        _ => Some(format!(
            "{shards} shards are too many: an Indexed Job keeps the state of each index, and arrays of Slurm and AWS Batch \
             have limits too; use at most {MAX_SHARDS}"
        )),
    }
}

/// Divides the limits among this many processes, so that together they do not exceed them. Returns
/// the share of one process.
///
/// # Errors
/// Fails if a limit is too low to be divided.
pub fn share_of(limits: &Limits, pods: u32) -> Result<Limits, String> {
    let pods = pods.max(1);
    let share = |limit: Option<u32>, name: &str| match limit {
        Some(limit) if limit < pods => Err(format!(
            "limits.{name}: {limit} cannot be divided among {pods} processes; raise it, or run fewer processes at a time, and name their number \
             with --pods"
        )),
        limit => Ok(limit.map(|limit| limit / pods)),
    };
    // Destructured, so that the compiler names a limit that is not divided.
    let Limits {
        requests_per_second,
        bytes_per_second,
        in_flight,
        // These apply to each process.
        patience,
        max_failures,
    } = *limits;
    Ok(Limits {
        requests_per_second: share(requests_per_second, "requests_per_second")?,
        in_flight: share(in_flight, "in_flight")?,
        bytes_per_second: bytes_per_second.map(|rate| ByteRate((rate.0 / u64::from(pods)).max(1))),
        patience,
        max_failures,
    })
}

/// Returns true if a job has limits that must be divided among processes.
#[must_use]
pub fn has_shared_limits(limits: &Limits) -> bool {
    limits.requests_per_second.is_some()
        || limits.in_flight.is_some()
        || limits.bytes_per_second.is_some()
}

/// Describes the differences between a plan and a job that is run with this many shards.
#[must_use]
pub fn differences(plan: &ShardPlan, job: &Job, shards: u32) -> Vec<String> {
    let mut differences = plan.settings.changes(&Fingerprint::of(job));
    let planned = plan.shards.len();
    if planned != shards as usize {
        differences.push(format!(
            "it has {planned} shards, but --shards says {shards}"
        ));
    }
    differences
}

/// The connected buckets of a job: source and destination by transfer.
pub type JobBuckets = Vec<(Option<Bucket>, Bucket)>;

/// Connects to the buckets of all transfers. Refuses a bucket that does not list in the order of
/// keys.
///
/// # Errors
/// See [`MakeError`].
pub async fn connect(job: &Job, connections: &mut Connections) -> Result<JobBuckets, MakeError> {
    let mut buckets = Vec::new();
    for transfer in &job.transfers {
        let (source, destination) = connections.of_transfer(transfer).await?;
        for bucket in source.iter().chain([&destination]) {
            if !bucket.capabilities().ordered_lists {
                return Err(MakeError::Unordered {
                    transfer: transfer.name.clone(),
                    place: format!("s3://{}/", bucket.name()),
                });
            }
        }
        buckets.push((source, destination));
    }
    Ok(buckets)
}

/// Makes the plan of a job.
///
/// # Errors
/// See [`MakeError`].
pub async fn make(
    job: &Job,
    buckets: &JobBuckets,
    extent: Extent,
    by: &Writer,
) -> Result<ShardPlan, MakeError> {
    let counted_from = job.counted_from();
    let mut sources = Vec::new();
    for (transfer, (source, destination)) in job.transfers.iter().zip(buckets) {
        let mut transfer = transfer.clone();
        if let Some(time) = counted_from {
            transfer.count_from(time);
        }
        let sides = Sides::new(&transfer, source.clone(), destination.clone());
        sources.push(SurveyedSource {
            bucket: source.clone().unwrap_or_else(|| destination.clone()),
            reach: sides.source_reach(),
            transfer: Arc::clone(&sides.transfer),
        });
    }
    let surveyed = survey(&sources, extent).await?;
    let (mut of_transfers, mut weight) = (BTreeMap::new(), ShardWeight::default());
    for stretch in &surveyed.stretches {
        weight.add(stretch.weight);
        let sum: &mut ShardWeight = of_transfers.entry(stretch.transfer).or_default();
        sum.add(stretch.weight);
    }
    for (number, transfer) in (0..).zip(&job.transfers) {
        let objects = of_transfers.get(&number).map_or(0, |sum| sum.objects);
        if surveyed.exact && objects == 0 && transfer.empty == Empty::Fail {
            return Err(MakeError::NothingSelected {
                transfer: transfer.name.clone(),
                place: place_of(transfer),
            });
        }
    }
    Ok(ShardPlan {
        format: FORMAT,
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        job: job.name.clone(),
        planned: Timestamp::now(),
        by: by.clone(),
        counted_from,
        settings: Fingerprint::of(job),
        transfers: job
            .transfers
            .iter()
            .map(|transfer| transfer.name.clone())
            .collect(),
        exact: surveyed.exact,
        lists: surveyed.lists,
        weight,
        shards: divide(&surveyed.stretches, extent.shards),
    })
}

fn place_of(transfer: &Transfer) -> String {
    transfer
        .from
        .s3()
        .map(|(_, location)| location.to_string())
        .unwrap_or_default()
}
