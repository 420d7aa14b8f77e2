//! Computes the progress of a run in shards from the objects of its state prefix. This module is
//! pure.
//!
//! The plan gives each shard a weight, and the sign of life of a shard shows which part of its
//! weight is done. So the estimated time includes shards that no process has begun. The estimate is
//! never less than the time of the slowest shard.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::record::{
    LiveRates, LiveRecord, LiveTotals, PlannedShard, ShardActivity, ShardEnd, ShardPlan,
    ShardWeight,
};
use crate::journal::state::RunTotals;
use crate::pace::PaceCounts;
use crate::size::to_thousandths;

/// A process is silent if its last sign of life is at least this old.
pub const SILENT_AFTER: Duration = Duration::from_mins(1);
/// A sign of life that is written within this time after its session began is the first one.
const FIRST_RECORD: SignedDuration = SignedDuration::from_secs(1);
/// The maximum number of shards of each kind that are named.
const NAMED: usize = 5;

/// A sign of life, and its age.
#[derive(Clone, Debug)]
pub struct SeenLive {
    /// The sign of life.
    pub record: LiveRecord,
    /// The time at which it was written, by the server's clock.
    pub written: Option<Timestamp>,
    /// The time since it was written.
    pub silence: Duration,
}

/// The end of a shard that has failed.
#[derive(Clone, Debug)]
pub struct SeenFailure {
    /// The end.
    pub record: ShardEnd,
    /// The time at which it was written, by the server's clock.
    pub written: Option<Timestamp>,
}

impl SeenFailure {
    /// Returns true if another process has begun the shard since. The clocks of two hosts may
    /// differ, so the server's clock counts.
    fn is_before(&self, live: &SeenLive) -> bool {
        if self.record.process.id == live.record.process.id {
            return false;
        }
        match (self.written, live.written) {
            (Some(ended), Some(lives)) => ended <= lives,
            _ => self.record.ended <= live.record.written,
        }
    }
}

/// The objects of a state prefix at one moment.
#[derive(Clone, Debug, Default)]
pub struct SeenState {
    /// The shards that are done. If there is a `summary`, their ends were not read.
    pub done: BTreeMap<u32, Option<ShardEnd>>,
    /// The shards that have failed and are not done.
    pub failed: BTreeMap<u32, SeenFailure>,
    /// The signs of life of shards that are not done.
    pub live: BTreeMap<u32, SeenLive>,
    /// The totals of all shards, if there is a summary.
    pub summary: Option<RunTotals>,
}

/// The progress of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunProgress {
    /// A process gives signs of life.
    Running,
    /// No process gives signs of life, but not all shards have ended.
    Waiting,
    /// All shards have ended.
    Ended,
}

/// The numbers of shards by state. Each shard counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ShardCounts {
    /// All shards.
    pub total: u32,
    /// Shards that are done.
    pub done: u32,
    /// Shards that have failed, and on which no process works.
    pub failed: u32,
    /// Shards on which a process works.
    pub running: u32,
    /// Shards whose process has given no sign of life for a minute.
    pub silent: u32,
    /// Shards whose process was stopped. The next process continues them.
    pub stopped: u32,
    /// Shards that no process has begun.
    pub not_begun: u32,
}

/// A shard on which a process works.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShardProgress {
    /// The shard.
    pub shard: u32,
    /// The machine or pod.
    pub host: String,
    /// The part of its weight that is done, from 0 to 1.
    pub share_done: f64,
    /// Its pace.
    pub rates: LiveRates,
    /// The seconds that it still needs at this pace. Absent if it makes no progress.
    pub seconds_left: Option<u64>,
    /// The seconds since its last sign of life.
    pub silent_seconds: u64,
    /// The reason why the shard makes no progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// A shard that has failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShardFailure {
    /// The shard.
    pub shard: u32,
    /// The exit code of its process.
    pub exit: i32,
    /// The reason, in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The number of its failed objects.
    pub failed_objects: u64,
}

impl ShardFailure {
    fn of(shard: u32, end: &ShardEnd) -> Self {
        Self {
            shard,
            exit: end.exit,
            cause: end.cause.clone(),
            failed_objects: end.totals.failed_objects,
        }
    }
}

/// The progress of a run in shards.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StateView {
    /// The job.
    pub job: String,
    /// The progress in one word.
    pub state: RunProgress,
    /// The time of the plan.
    pub planned: Timestamp,
    /// The numbers of shards by state.
    pub shards: ShardCounts,
    /// The weight of all shards.
    pub weight: ShardWeight,
    /// True if the weight was counted, and false if it was estimated.
    pub exact: bool,
    /// The part of the weight that is done, from 0 to 1.
    pub share_done: f64,
    /// The counts of all shards so far.
    pub totals: LiveTotals,
    /// The pace of all running shards together.
    pub rates: LiveRates,
    /// The requests of the last sessions of all shards.
    pub requests: PaceCounts,
    /// The number of requests of the running shards in flight.
    pub in_flight: u64,
    /// The seconds that the run still needs at this pace. Absent if that is unknown, and once all
    /// shards have ended.
    pub seconds_left: Option<u64>,
    /// The running shards that take longest, at most five.
    pub slowest: Vec<ShardProgress>,
    /// The shards that have been silent for longest, at most five.
    pub silent: Vec<ShardProgress>,
    /// The first shards that have failed, at most five.
    pub failed: Vec<ShardFailure>,
    /// The first shards, at most five, that failed and that another process has begun again but not
    /// finished. Holds the reasons of the failures.
    pub again: Vec<ShardFailure>,
    /// True if a shard failed and left objects without a receipt, which a retry cannot copy.
    #[serde(skip)]
    pub needs_restart: bool,
    /// The number of running shards that have just begun, and have no rates yet.
    #[serde(skip)]
    pub without_rates: u32,
}

/// The state of a shard.
enum Activity<'a> {
    Done(Option<&'a ShardEnd>),
    Failed(&'a ShardEnd),
    Running(&'a SeenLive),
    Silent(&'a SeenLive),
    Stopped(&'a SeenLive),
    NotBegun,
}

impl Activity<'_> {
    fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

impl SeenState {
    fn activity(&self, shard: u32) -> Activity<'_> {
        if let Some(end) = self.done.get(&shard) {
            return Activity::Done(end.as_ref());
        }
        let failed = self.failed.get(&shard);
        // The engine may have started the shard again after it failed.
        let live = self.live.get(&shard);
        let live = live.filter(|live| failed.is_none_or(|end| end.is_before(live)));
        match (live, failed) {
            (Some(live), _) if live.record.state == ShardActivity::Stopped => {
                Activity::Stopped(live)
            }
            (Some(live), _) if live.silence < SILENT_AFTER => Activity::Running(live),
            (Some(live), _) => Activity::Silent(live),
            (None, Some(end)) => Activity::Failed(&end.record),
            (None, None) => Activity::NotBegun,
        }
    }
}

/// The work of a shard, in units of weight.
#[derive(Clone, Copy, Debug, Default)]
struct ShardWork {
    done: f64,
    left: f64,
    per_second: f64,
}

/// Returns true if a sign of life is the first of its session, which has no rates yet.
fn is_first(live: &LiveRecord) -> bool {
    live.written.duration_since(live.session) < FIRST_RECORD
}

impl StateView {
    /// Computes the view.
    #[must_use]
    pub fn of(plan: &ShardPlan, seen: &SeenState) -> Self {
        let mut view = Self {
            job: plan.job.clone(),
            state: RunProgress::Waiting,
            planned: plan.planned,
            shards: ShardCounts::default(),
            weight: plan.weight,
            exact: plan.exact,
            share_done: 0.0,
            totals: LiveTotals::default(),
            rates: LiveRates::default(),
            requests: PaceCounts::default(),
            in_flight: 0,
            seconds_left: None,
            slowest: Vec::new(),
            silent: Vec::new(),
            failed: Vec::new(),
            again: Vec::new(),
            needs_restart: false,
            without_rates: 0,
        };
        let mut all = ShardWork::default();
        let mut longest = 0.0;
        for (shard, planned) in (0..).zip(&plan.shards) {
            let activity = seen.activity(shard);
            let work = view.count(shard, planned, &activity);
            if let (Some(end), false) = (seen.failed.get(&shard), activity.is_failed()) {
                view.again.push(ShardFailure::of(shard, &end.record));
            }
            all.done += work.done;
            all.left += work.left;
            all.per_second += work.per_second;
            if work.per_second > 0.0 {
                longest = f64::max(longest, work.left / work.per_second);
            }
        }
        // Processes that have just begun have no rates yet. The estimate assumes that they are as
        // fast as the others.
        let measured = view.shards.running - view.without_rates;
        if measured > 0 {
            all.per_second *= f64::from(view.shards.running) / f64::from(measured);
        }
        if let Some(totals) = &seen.summary {
            view.totals = live_totals(totals);
        }
        let ShardCounts {
            total,
            done,
            failed,
            running,
            ..
        } = view.shards;
        view.state = match running {
            _ if done + failed == total => RunProgress::Ended,
            0 => RunProgress::Waiting,
            _ => RunProgress::Running,
        };
        view.share_done = share(all);
        if view.state == RunProgress::Running && all.per_second > 0.0 {
            view.seconds_left = whole_seconds(f64::max(all.left / all.per_second, longest));
        }
        let by_time = |shard: &ShardProgress| Reverse(shard.seconds_left.unwrap_or(u64::MAX));
        view.slowest.sort_by_key(by_time);
        view.silent
            .sort_by_key(|shard| Reverse(shard.silent_seconds));
        view.slowest.truncate(NAMED);
        view.silent.truncate(NAMED);
        view.failed.truncate(NAMED);
        view.again.truncate(NAMED);
        view.rates = rounded(view.rates);
        view
    }

    /// Counts a shard, and returns its work.
    fn count(&mut self, shard: u32, planned: &PlannedShard, activity: &Activity<'_>) -> ShardWork {
        let weight = planned.weight.units();
        self.shards.total += 1;
        match activity {
            Activity::NotBegun => {
                self.shards.not_begun += 1;
                ShardWork {
                    left: weight,
                    ..ShardWork::default()
                }
            }
            Activity::Done(end) => {
                self.shards.done += 1;
                if let Some(end) = end {
                    self.add(&live_totals(&end.totals), end.requests);
                }
                ShardWork {
                    done: weight,
                    ..ShardWork::default()
                }
            }
            Activity::Failed(end) => {
                self.shards.failed += 1;
                self.add(&live_totals(&end.totals), end.requests);
                self.failed.push(ShardFailure::of(shard, end));
                self.needs_restart |=
                    end.exit != 1 || end.resumable || end.totals.failed_objects == 0;
                // No process works on it any more, so nothing is left to wait for.
                ShardWork {
                    done: weight,
                    ..ShardWork::default()
                }
            }
            Activity::Stopped(live) => {
                self.shards.stopped += 1;
                self.add(&live.record.totals, live.record.requests);
                ShardWork {
                    per_second: 0.0,
                    ..work_of(weight, &live.record)
                }
            }
            Activity::Silent(live) => {
                self.shards.silent += 1;
                self.add(&live.record.totals, live.record.requests);
                let work = ShardWork {
                    per_second: 0.0,
                    ..work_of(weight, &live.record)
                };
                self.silent.push(progress(shard, live, work));
                work
            }
            Activity::Running(live) => {
                let record = &live.record;
                self.shards.running += 1;
                self.add(&record.totals, record.requests);
                self.rates.objects += record.rates.objects;
                self.rates.bytes += record.rates.bytes;
                self.rates.requests += record.rates.requests;
                self.rates.throttled += record.rates.throttled;
                self.in_flight += u64::from(record.in_flight);
                let work = work_of(weight, record);
                if is_first(record) {
                    self.without_rates += 1;
                } else {
                    self.slowest.push(progress(shard, live, work));
                }
                work
            }
        }
    }

    fn add(&mut self, totals: &LiveTotals, requests: PaceCounts) {
        let sums = &mut self.totals;
        // Destructured, so that the compiler names a number that is not added.
        let LiveTotals {
            planned_objects,
            planned_bytes,
            done_objects,
            done_bytes,
            skipped_objects,
            skipped_bytes,
            failed_objects,
        } = *totals;
        let PaceCounts {
            requests,
            throttled,
            retried,
            hedged,
        } = requests;
        for (sum, more) in [
            (&mut sums.planned_objects, planned_objects),
            (&mut sums.planned_bytes, planned_bytes),
            (&mut sums.done_objects, done_objects),
            (&mut sums.done_bytes, done_bytes),
            (&mut sums.skipped_objects, skipped_objects),
            (&mut sums.skipped_bytes, skipped_bytes),
            (&mut sums.failed_objects, failed_objects),
            (&mut self.requests.requests, requests),
            (&mut self.requests.throttled, throttled),
            (&mut self.requests.retried, retried),
            (&mut self.requests.hedged, hedged),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Rounds rates to thousandths, like the rates in the records.
fn rounded(rates: LiveRates) -> LiveRates {
    let round = to_thousandths;
    LiveRates {
        objects: round(rates.objects),
        bytes: round(rates.bytes),
        requests: round(rates.requests),
        throttled: round(rates.throttled),
    }
}

/// Returns the totals of an end in the form of a sign of life.
fn live_totals(totals: &RunTotals) -> LiveTotals {
    LiveTotals {
        planned_objects: totals.planned_objects,
        planned_bytes: totals.planned_bytes,
        done_objects: totals.done_objects,
        done_bytes: totals.done_bytes,
        skipped_objects: totals.skipped_objects,
        skipped_bytes: totals.skipped_bytes,
        failed_objects: totals.failed_objects,
    }
}

/// Returns the work of a shard of this weight.
///
/// The rate of bytes does not include skipped objects, although the weight contains their bytes. So
/// each object in the rate of objects counts with the average of skipped bytes per object so far.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn work_of(weight: f64, live: &LiveRecord) -> ShardWork {
    let LiveTotals {
        planned_objects,
        done_objects,
        done_bytes,
        skipped_objects,
        skipped_bytes,
        failed_objects,
        ..
    } = live.totals;
    let objects = done_objects
        .saturating_add(skipped_objects)
        .saturating_add(failed_objects);
    let bytes = done_bytes.saturating_add(skipped_bytes);
    let done = ShardWeight { objects, bytes }.units();
    let in_bytes = |bytes| ShardWeight { objects: 0, bytes }.units();
    let in_one_byte = in_bytes(1 << 30) / f64::from(1 << 30);
    let per_object = 1.0 + in_bytes(skipped_bytes) / (objects.max(1) as f64);
    // There may be more objects than the plan estimated.
    let waiting = planned_objects.saturating_sub(done_objects.saturating_add(failed_objects));
    ShardWork {
        done,
        left: f64::max(weight - done, waiting as f64),
        per_second: live.rates.objects * per_object + live.rates.bytes * in_one_byte,
    }
}

fn progress(shard: u32, live: &SeenLive, work: ShardWork) -> ShardProgress {
    let record = &live.record;
    let seconds = (work.per_second > 0.0).then(|| work.left / work.per_second);
    ShardProgress {
        shard,
        host: record.process.host.clone(),
        share_done: share(work),
        rates: record.rates,
        seconds_left: seconds.and_then(whole_seconds),
        silent_seconds: live.silence.as_secs(),
        cause: record.cause.clone(),
    }
}

/// Returns the part that is done, rounded down to thousandths, or 1 if there was no work.
fn share(work: ShardWork) -> f64 {
    let all = work.done + work.left;
    if all > 0.0 {
        (work.done / all * 1000.0).floor() / 1000.0
    } else {
        1.0
    }
}

/// Returns whole seconds, or `None` for more than three decades.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is within the range"
)]
fn whole_seconds(seconds: f64) -> Option<u64> {
    (0.0..1e9).contains(&seconds).then(|| seconds.ceil() as u64)
}

#[cfg(test)]
mod tests;
