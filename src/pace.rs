//! The one place where requests wait: for a place in flight, for the user's limits, for the rate
//! that a bucket was seen to accept.
//!
//! Every request of every object passes here, retries too. [`slots::Slots`] bounds how many are in
//! flight and hands free places to parts of large objects first, so that no object has a pool of
//! its own and the tail of a run is short. [`Lanes`] are S3's own units of throttling: a bucket, or
//! a leading part of its keys, and a class of requests. The rate of each is learned
//! ([`rate::RateController`]), and which prefixes need a lane of their own is learned too. The
//! user's limits are a [`gate::Gate`] behind them, so that nothing passes faster whatever the lanes
//! believe. An endpoint that does not answer is asked by one request at a time until it is back
//! ([`outage::Outage`]). What was learned goes into the journal ([`learned::Learned`]).

mod answers;
pub mod gate;
mod lane;
pub mod latency;
pub mod learned;
mod meter;
pub mod outage;
mod prefix;
pub mod rate;
mod recent;
pub mod retry;
pub mod slots;
pub mod speed;
mod trust;
pub mod width;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::awake::AwakeInstant;
use crate::manifest::job::Limits;
use crate::s3::{Class, Failure, FailureKind, Operation};
use gate::Gate;
pub use lane::Lanes;
use lane::Passed;
use learned::Learned;
use outage::{Outage, Outlasted, Pass};
pub use retry::RetryPolicy;
pub use slots::{Slot, Slots};
use speed::{Speed, SpeedEstimate};
use width::Answered;

/// Bytes per cell of the byte gate: coarse, so that a 5 GiB part is a few thousand cells.
const BYTES_PER_CELL: u64 = 256 << 10;

/// Paces all requests of a run.
#[derive(Debug)]
pub struct Pacer {
    started: AwakeInstant,
    requests: Gate,
    bytes: Gate,
    /// All bytes that were asked for, to the byte gate.
    asked_bytes: AtomicU64,
    slots: Slots,
    /// By `endpoint/bucket`.
    lanes: Mutex<HashMap<(String, Class), Arc<Lanes>>>,
    outages: Mutex<BTreeMap<String, Arc<Outage>>>,
    speed: Mutex<SpeedEstimate>,
    counters: Counters,
    fruitless: Fruitless,
    /// Cancelled when the run stops.
    stopping: CancellationToken,
    /// The processes that share the rates of the buckets.
    sharers: u32,
    /// The rules for repeating failed requests.
    pub retry: RetryPolicy,
}

/// The events so far, for progress lines and summaries.
#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    throttled: AtomicU64,
    retried: AtomicU64,
    hedged: AtomicU64,
}

/// The failures since the last success of any request.
#[derive(Debug, Default)]
struct Fruitless {
    /// The millisecond of the first of them; 0 if there is none.
    since: AtomicU64,
    /// The reason of the last of them.
    reason: Mutex<String>,
}

impl Fruitless {
    /// Takes note of the end of a request that may be sent again if it failed.
    fn note(&self, failure: Option<&Failure>, now: Duration) {
        match failure {
            None if self.since.load(Ordering::Relaxed) == 0 => {}
            None => self.since.store(0, Ordering::Relaxed),
            Some(failure) if failure.kind().is_retryable() => {
                let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(1);
                let _ = self
                    .since
                    .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
                let details = failure.details();
                let reason = format!(
                    "{} {}: {}",
                    details.operation, details.code, details.message
                );
                *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
            }
            Some(_) => {}
        }
    }
}

/// A copy of the pacer's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct PaceCounts {
    /// Requests sent, retries included.
    pub requests: u64,
    /// Requests that were answered with "slow down".
    pub throttled: u64,
    /// Requests that were sent again.
    pub retried: u64,
    /// Requests that were sent a second time because the first one hung.
    pub hedged: u64,
}

/// The right to send one request. What comes of it is told to [`Pacer::learn`].
#[derive(Debug)]
pub struct Admitted<'a> {
    /// The endpoint's side of it.
    pub pass: Pass<'a>,
    /// The time that it waited at the user's own limits, and in line for a rate at which the server
    /// accepts requests.
    pub limited: Duration,
    lanes: &'a Lanes,
    passed: Passed,
    key: &'a str,
    /// It had to wait for a rate.
    paced: bool,
}

impl Pacer {
    /// Creates a pacer under the job's limits. `ceiling` bounds the requests in flight (see
    /// [`slots::default_ceiling`]).
    #[must_use]
    pub fn new(limits: &Limits, ceiling: u32, retry: RetryPolicy) -> Self {
        let patience = limits.patience.unwrap_or(retry.patience);
        let retry = RetryPolicy {
            patience,
            persistence: retry.persistence.min(patience),
            ..retry
        };
        let ceiling = limits
            .in_flight
            .map_or(ceiling, |wanted| wanted.min(ceiling))
            .max(1);
        Self {
            started: AwakeInstant::now(),
            requests: Gate::limited(limits.requests_per_second.map(f64::from)),
            bytes: Gate::limited(limits.bytes_per_second.map(|rate| to_cells(rate.0))),
            asked_bytes: AtomicU64::new(0),
            slots: Slots::new(ceiling),
            lanes: Mutex::default(),
            outages: Mutex::default(),
            speed: Mutex::default(),
            counters: Counters::default(),
            fruitless: Fruitless::default(),
            stopping: CancellationToken::new(),
            sharers: 1,
            retry,
        }
    }

    /// Returns this pacer, which begins with its share of the documented rates because so many
    /// processes send requests to the same buckets.
    #[must_use]
    pub fn shared_by(self, processes: u32) -> Self {
        Self {
            sharers: processes.max(1),
            ..self
        }
    }

    /// Returns the places in flight.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Stops the run: there are no more places, and nobody waits for another attempt.
    pub fn stop(&self) {
        self.slots.close();
        self.stopping.cancel();
    }

    /// Cancelled when the run stops.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// The lanes of a bucket on an endpoint.
    #[must_use]
    pub fn lanes(&self, endpoint: &str, bucket: &str, class: Class) -> Arc<Lanes> {
        self.lanes_of(endpoint, format!("{endpoint}/{bucket}"), class)
    }

    fn lanes_of(&self, endpoint: &str, name: String, class: Class) -> Arc<Lanes> {
        let outage = {
            let mut outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
            let outage = outages.entry(endpoint.to_owned());
            Arc::clone(outage.or_insert_with(|| Arc::new(Outage::new(self.retry.probes))))
        };
        let now = self.elapsed();
        let mut all = self.all_lanes();
        let lanes = all.entry((name, class));
        Arc::clone(lanes.or_insert_with(|| Arc::new(Lanes::new(class, self.sharers, outage, now))))
    }

    fn all_lanes(&self) -> MutexGuard<'_, HashMap<(String, Class), Arc<Lanes>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is known by now about the limits of all buckets and the width.
    #[must_use]
    pub fn learned(&self) -> Learned {
        let all = self.all_lanes();
        let mut lanes: Vec<_> = all
            .iter()
            .flat_map(|((bucket, _), lanes)| lanes.learned(bucket))
            .collect();
        drop(all);
        lanes.sort_by(|one, other| {
            let key =
                |lane: &learned::LearnedLane| (lane.bucket.clone(), lane.class == Class::Write);
            key(one)
                .cmp(&key(other))
                .then_with(|| one.prefix.cmp(&other.prefix))
        });
        lanes.truncate(learned::MOST);
        Learned {
            lanes,
            width: self.slots.in_flight().1,
        }
    }

    /// Begins with what an earlier session learned, if it is not older than [`learned::KEPT`].
    pub fn recall(&self, learned: &Learned) {
        let now = self.elapsed();
        for (at, lane) in learned.lanes.iter().enumerate() {
            let same = |other: &learned::LearnedLane| {
                (&other.bucket, other.class) == (&lane.bucket, lane.class)
            };
            if learned.lanes[..at].iter().any(same) {
                continue;
            }
            let Some((endpoint, _)) = lane.bucket.split_once('/') else {
                continue;
            };
            let lanes = self.lanes_of(endpoint, lane.bucket.clone(), lane.class);
            lanes.recall(learned.lanes[at..].iter().filter(|other| same(other)), now);
        }
        self.slots.begin_at(learned.width);
    }

    /// Endpoints that do not answer at the moment: name, for how long, and what they failed with.
    #[must_use]
    pub fn outages(&self) -> Vec<(String, Duration, String)> {
        let now = self.elapsed();
        let outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
        let down = outages.iter().filter_map(|(endpoint, outage)| {
            let (down_for, reason) = outage.state(now)?;
            Some((endpoint.clone(), down_for, reason))
        });
        down.collect()
    }

    /// Returns for how long requests have failed and none has succeeded, and the last failure.
    #[must_use]
    pub fn fruitless(&self) -> Option<(Duration, String)> {
        let since = self.fruitless.since.load(Ordering::Relaxed);
        let reason = || {
            let reason = self.fruitless.reason.lock();
            reason.unwrap_or_else(PoisonError::into_inner).clone()
        };
        (since > 0).then(|| {
            let for_so_long = self.elapsed().saturating_sub(Duration::from_millis(since));
            (for_so_long, reason())
        })
    }

    /// Returns where everything is refused at the moment, as `bucket/prefix`.
    #[must_use]
    pub fn refused(&self) -> Vec<String> {
        let all = self.all_lanes();
        let mut refused: Vec<_> = all
            .iter()
            .flat_map(|((bucket, _), lanes)| {
                let bucket = bucket
                    .split_once('/')
                    .map_or(bucket.as_str(), |(_, bucket)| bucket);
                lanes
                    .shut()
                    .into_iter()
                    .map(move |prefix| format!("{bucket}/{prefix}"))
            })
            .collect();
        drop(all);
        refused.sort();
        refused.dedup();
        refused
    }

    /// Waits until a request for `key` (a listing: where it begins) that moves `bytes` may be sent
    /// on one of `lanes`. What comes of it is told to [`Pacer::learn`].
    ///
    /// # Errors
    /// [`Outlasted`] when the endpoint has not answered anyone for `patience`.
    pub async fn admit<'a>(
        &self,
        lanes: &'a Lanes,
        key: &'a str,
        bytes: u64,
        patience: Duration,
    ) -> Result<Admitted<'a>, Outlasted> {
        self.admit_one(lanes, key, bytes, patience, false).await
    }

    /// Returns the same for a request that does not stand in line with those that wait for a rate.
    ///
    /// # Errors
    /// Those of [`Pacer::admit`].
    pub(crate) async fn admit_ahead<'a>(
        &self,
        lanes: &'a Lanes,
        key: &'a str,
        bytes: u64,
        patience: Duration,
    ) -> Result<Admitted<'a>, Outlasted> {
        self.admit_one(lanes, key, bytes, patience, true).await
    }

    async fn admit_one<'a>(
        &self,
        lanes: &'a Lanes,
        key: &'a str,
        bytes: u64,
        patience: Duration,
        is_ahead: bool,
    ) -> Result<Admitted<'a>, Outlasted> {
        let clock = || self.started.elapsed();
        let pass = lanes.outage.pass(patience, clock).await?;
        let in_line_at = clock();
        // The one request that asks whether the endpoint is back must not stand in line with all
        // those that wait for it.
        let passed = if pass.is_probe() || is_ahead {
            lanes.skip_queue(key)
        } else {
            lanes.pass(key, clock).await
        };
        let (mut paced, passed_at) = (passed.waited, clock());
        if !pass.is_probe() {
            paced |= self.requests.pass(1).await;
            paced |= self.bytes.pass(self.cells(bytes)).await;
        }
        // A server that accepts requests like this one, only few of them, is not waited for in vain.
        let is_served = passed.waited && !lanes.is_shut(key);
        let limited = clock().saturating_sub(if is_served { in_line_at } else { passed_at });
        // While it stood in line the endpoint may have gone away.
        let pass = if paced {
            pass.renewed(patience, clock).await?
        } else {
            pass
        };
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        Ok(Admitted {
            pass,
            limited,
            lanes,
            passed,
            key,
            paced,
        })
    }

    /// The cells that so many bytes begin, behind those that were asked for before: many small
    /// objects share one.
    fn cells(&self, bytes: u64) -> u64 {
        let before = self.asked_bytes.fetch_add(bytes, Ordering::Relaxed);
        before.saturating_add(bytes).div_ceil(BYTES_PER_CELL) - before.div_ceil(BYTES_PER_CELL)
    }

    /// Learns from an answer that came after `took`, of a request that is given up after `limit`: a
    /// good one when there is no failure.
    pub fn learn(
        &self,
        admitted: Admitted<'_>,
        operation: Operation,
        failure: Option<&Failure>,
        bytes: u64,
        took: Duration,
        limit: Duration,
    ) {
        let Admitted {
            pass,
            lanes,
            passed,
            key,
            paced,
            ..
        } = admitted;
        let now = self.started.elapsed();
        match failure {
            Some(failure) if failure.kind().speaks_of_an_outage() => {
                let (began, reason) = (now.saturating_sub(took), &failure.details().message);
                match failure.kind() {
                    FailureKind::Unreachable => pass.not_connected(now, began, reason),
                    FailureKind::TimedOut => pass.failed(now, began, reason),
                    _ => pass.failed(now, now, reason),
                }
            }
            // Nothing was sent.
            Some(failure)
                if matches!(
                    failure.kind(),
                    FailureKind::NoCredentials
                        | FailureKind::CredentialsUnavailable
                        | FailureKind::NotSent
                ) =>
            {
                drop(pass);
            }
            _ => {
                lanes.answers.note(operation, now);
                if failure.is_none() {
                    lanes.trust.succeeded(operation, now);
                    lanes.latencies.observe(operation, bytes, took);
                }
                pass.answered(now);
            }
        }
        self.fruitless.note(failure, now);
        let failure = failure.map(Failure::kind);
        let throttled = failure == Some(&FailureKind::Throttled);
        if throttled {
            lanes.throttled(&passed, key, now.saturating_sub(took), now);
            self.counters.throttled.fetch_add(1, Ordering::Relaxed);
        } else if failure.is_none() {
            Lanes::accepted(&passed, key, now.saturating_sub(took), now);
        }
        let answers = failure.is_none() || failure == Some(&FailureKind::TimedOut);
        self.slots.answered(&Answered {
            now,
            took,
            bytes,
            is_good: failure.is_none(),
            paced: paced || throttled,
            strain: answers.then(|| took.as_secs_f64() / limit.as_secs_f64()),
        });
    }

    /// Takes note of a copy inside S3 that was answered after `took`.
    pub fn copied(&self, bytes: u64, took: Duration) {
        self.speed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .observe(bytes, took);
    }

    /// Returns the speed of copies inside S3, from the answers so far.
    #[must_use]
    pub fn copy_speed(&self) -> Speed {
        self.speed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .speed()
    }

    /// Takes note that the endpoint of `lanes` has answered nobody for some time, though few
    /// requests have found out.
    pub fn is_silent(&self, lanes: &Lanes, waited: Duration, reason: &str) {
        let now = self.started.elapsed();
        lanes.outage.begin(now, now.saturating_sub(waited), reason);
    }

    /// Takes note of a retry.
    pub fn retried(&self) {
        self.counters.retried.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note of a request that is sent a second time because the first one hangs.
    pub fn hedged(&self) {
        self.counters.hedged.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn counts(&self) -> PaceCounts {
        PaceCounts {
            requests: self.counters.requests.load(Ordering::Relaxed),
            throttled: self.counters.throttled.load(Ordering::Relaxed),
            retried: self.counters.retried.load(Ordering::Relaxed),
            hedged: self.counters.hedged.load(Ordering::Relaxed),
        }
    }

    /// Time since the run began, without that in which this process did not run.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "neither rates nor sizes need be exact beyond 2^53 bytes"
)]
fn to_cells(bytes: u64) -> f64 {
    bytes as f64 / BYTES_PER_CELL as f64
}

#[cfg(test)]
mod tests;
