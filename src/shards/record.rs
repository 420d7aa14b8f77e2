//! Defines the objects of a state prefix. All are JSON with a format number.
//!
//! A reader ignores unknown fields, so that a later version may add some. It refuses a later
//! format.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::journal::Writer;
use crate::journal::fingerprint::Fingerprint;
use crate::journal::state::RunTotals;
use crate::listing::bisect::KeyRange;
use crate::location::ObjectKey;
use crate::pace::PaceCounts;
use crate::size::to_thousandths;

/// The format of the objects that this version writes, and the latest that it reads.
pub const FORMAT: u32 = 1;

/// `plan.json`: the keys of each shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardPlan {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of s3haul that wrote it.
    pub tool: String,
    /// The name of the job.
    pub job: String,
    /// The time at which the plan was complete.
    pub planned: Timestamp,
    /// The process that made the plan.
    pub by: Writer,
    /// The time from which all shards count the ages in the job, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_from: Option<Timestamp>,
    /// The settings that decide which objects are copied and how. Processes refuse the plan if
    /// their job has other settings.
    pub settings: Fingerprint,
    /// The names of the transfers. [`ShardRange::transfer`] is a position in this list.
    pub transfers: Vec<String>,
    /// True if all keys were listed. Otherwise the weights are estimates.
    pub exact: bool,
    /// The number of list requests that planning took.
    pub lists: u64,
    /// The weight of all shards.
    pub weight: ShardWeight,
    /// The shards, by index.
    pub shards: Vec<PlannedShard>,
}

/// A shard of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShard {
    /// Its weight.
    pub weight: ShardWeight,
    /// Its ranges, at most one of each transfer. A shard without ranges has no work.
    pub ranges: Vec<ShardRange>,
}

/// The keys of a shard in one transfer: those after `after`, up to and including `until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRange {
    /// The transfer, by position in the job.
    pub transfer: u32,
    /// The key before the range, excluded. Absent if the range begins with the first key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<ObjectKey>,
    /// The last key of the range, included. Absent if the range ends with the last key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<ObjectKey>,
}

impl ShardRange {
    /// Returns the range as a planner lists it, under the number of its transfer.
    #[must_use]
    pub fn key_range(&self) -> KeyRange {
        KeyRange {
            range: self.transfer,
            after: self.after.clone(),
            until: self.until.clone(),
        }
    }
}

/// The size of a shard's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardWeight {
    /// The number of selected objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The bytes that take as long as one object. S3 copies about 80 MiB a second for each request in
/// flight, and the requests for a small object take about a tenth of a second.
const BYTES_PER_OBJECT: u64 = 8 << 20;

impl ShardWeight {
    /// Returns the weight as one number: objects, with their bytes converted into objects.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn units(self) -> f64 {
        self.objects as f64 + self.bytes as f64 / BYTES_PER_OBJECT as f64
    }

    /// Adds another weight.
    pub fn add(&mut self, other: Self) {
        self.objects = self.objects.saturating_add(other.objects);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// `plan.lease`: the process that plans.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanLease {
    /// [`FORMAT`].
    pub format: u32,
    /// The process.
    pub by: Writer,
    /// The time of this renewal, by the clock of that process. Only for display.
    pub renewed: Timestamp,
    /// True once the process has released the lease, so that another one need not wait.
    #[serde(default)]
    pub released: bool,
}

/// The activity of a shard's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardActivity {
    /// The process copies.
    Running,
    /// The process received a signal, and lets its requests in flight finish.
    Stopping,
    /// The process was stopped. The shard continues when it is started again.
    Stopped,
    /// The process has ended the shard. `done/I.json` or `failed/I.json` has the result.
    Ended,
}

/// `live/I.json`: the current activity of a shard's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The shard.
    pub shard: u32,
    /// The process.
    pub process: Writer,
    /// The name of the shard's run, as in its journal and its report.
    pub run: String,
    /// The activity of the process.
    pub state: ShardActivity,
    /// The time of this record, by the clock of the process.
    pub written: Timestamp,
    /// The time at which this session of the run began.
    pub session: Timestamp,
    /// The objects of the run, over all of its sessions.
    pub totals: LiveTotals,
    /// The pace since the last record.
    pub rates: LiveRates,
    /// The requests of this session.
    pub requests: PaceCounts,
    /// The number of requests in flight.
    pub in_flight: u32,
    /// The exit code of this session, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// The reason why the session ended, or why the process makes no progress, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// The counts of a shard's run so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LiveTotals {
    /// Objects that are planned to be copied.
    pub planned_objects: u64,
    /// The bytes of the planned objects.
    pub planned_bytes: u64,
    /// Objects copied and proven.
    pub done_objects: u64,
    /// The bytes of these objects, and of the stored parts of unfinished ones.
    pub done_bytes: u64,
    /// Objects skipped because the destination has them.
    pub skipped_objects: u64,
    /// The bytes of the skipped objects.
    pub skipped_bytes: u64,
    /// Objects that failed.
    pub failed_objects: u64,
}

impl From<LiveTotals> for RunTotals {
    fn from(live: LiveTotals) -> Self {
        Self {
            planned_objects: live.planned_objects,
            planned_bytes: live.planned_bytes,
            done_objects: live.done_objects,
            done_bytes: live.done_bytes,
            skipped_objects: live.skipped_objects,
            skipped_bytes: live.skipped_bytes,
            failed_objects: live.failed_objects,
            ..Self::default()
        }
    }
}

/// The pace of a shard's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LiveRates {
    /// Objects that ended per second, with any result.
    pub objects: f64,
    /// Bytes copied per second.
    pub bytes: f64,
    /// Requests sent per second.
    pub requests: f64,
    /// Throttled requests per second.
    pub throttled: f64,
}

/// `done/I.json` or `failed/I.json`: the end of a shard. If both exist, `done/I.json` counts,
/// because the shard was run again after it failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardEnd {
    /// [`FORMAT`].
    pub format: u32,
    /// The shard.
    pub shard: u32,
    /// The process that ended it.
    pub process: Writer,
    /// The name of its last run. Absent if it failed before it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The exit code, which is 0 in `done/I.json`.
    pub exit: i32,
    /// True if the run gave up or did not begin, and so left objects without a receipt.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumable: bool,
    /// The reason why the shard failed, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The time at which the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Timestamp>,
    /// The time at which it ended.
    pub ended: Timestamp,
    /// The duration of all sessions of the run in seconds.
    pub seconds: f64,
    /// The number of sessions of the run.
    pub sessions: u32,
    /// Its totals, over all sessions.
    pub totals: RunTotals,
    /// The requests of the last session.
    pub requests: PaceCounts,
}

/// `summary.json`: the totals of a run whose shards have all ended. It is computed from `done/` and
/// `failed/`, so every process writes the same summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardsSummary {
    /// [`FORMAT`].
    pub format: u32,
    /// The name of the job.
    pub job: String,
    /// The number of shards.
    pub shards: u32,
    /// The number of shards that are done.
    pub done: u32,
    /// The shards that have failed, with their exit codes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<u32, i32>,
    /// The time at which the first shard began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Timestamp>,
    /// The time at which the last one ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// The duration of all shards together in seconds.
    pub seconds: f64,
    /// The totals of the last runs of all shards.
    pub totals: RunTotals,
}

impl ShardsSummary {
    /// Adds up the ends of all shards.
    #[must_use]
    pub fn of<'a>(job: &str, shards: u32, ends: impl IntoIterator<Item = &'a ShardEnd>) -> Self {
        let mut summary = Self {
            format: FORMAT,
            job: job.to_owned(),
            shards,
            done: 0,
            failed: BTreeMap::new(),
            began: None,
            ended: None,
            seconds: 0.0,
            totals: RunTotals::default(),
        };
        for end in ends {
            if end.exit == 0 {
                summary.done += 1;
            } else {
                summary.failed.insert(end.shard, end.exit);
            }
            summary.began = [summary.began, end.began].into_iter().flatten().min();
            summary.ended = summary.ended.max(Some(end.ended));
            summary.seconds += end.seconds;
            summary.totals.add(&end.totals);
        }
        // Rounded to milliseconds, so that the sum is read exactly as it was written. Otherwise a
        // process that compares the summary with its own would write it again.
        summary.seconds = to_thousandths(summary.seconds);
        summary
    }
}

/// An object of a state prefix.
pub trait StateRecord: Serialize + serde::de::DeserializeOwned {}

impl StateRecord for ShardPlan {}
impl StateRecord for PlanLease {}
impl StateRecord for LiveRecord {}
impl StateRecord for ShardEnd {}
impl StateRecord for ShardsSummary {}

#[cfg(test)]
mod tests;
