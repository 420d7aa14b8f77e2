//! Paces all requests. A request waits here for a free slot, for the user's limits, and for the
//! rate that its bucket accepts.
//!
//! Every request of every object, including each retry, passes through here. [`slots::Slots`]
//! bounds how many are in flight, and gives free slots to the parts of large objects first, so that
//! the tail of a run is short. A lane is a unit that S3 throttles as a whole: one class of requests
//! to all keys of a bucket, or to the keys below one prefix ([`Lanes`]). The pacer learns the rate
//! of each lane ([`rate::RateController`]), and which prefixes need a lane of their own (`prefix`).
//! The user's limits are a [`gate::Gate`] behind the lanes, so that requests never exceed them,
//! whatever rate was learned (only the bytes of a probe are paid for afterwards). While an endpoint
//! does not answer, one request at a time probes it ([`outage::Outage`]). The learned rates go into
//! the journal ([`learned::Learned`]).

mod answers;
pub mod concurrency;
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

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::awake::AwakeInstant;
use crate::manifest::job::Limits;
use crate::s3::{Failure, FailureKind, Operation, RequestClass};
use concurrency::Answered;
use gate::{Charge, Gate};
use lane::LanePass;
pub use lane::Lanes;
use learned::Learned;
use outage::{Outage, OutageTimeout, Pass};
pub use retry::RetryPolicy;
pub use slots::{Slot, Slots};
use speed::{Speed, SpeedEstimate};

/// The bytes in one cell of the byte gate. A cell is coarse, so that a part of 5 GiB takes 20,480
/// cells and not billions.
const BYTES_PER_CELL: u64 = 256 << 10;

/// Paces all requests of a run.
#[derive(Debug)]
pub struct Pacer {
    started: AwakeInstant,
    requests: Gate,
    bytes: Gate,
    /// The bytes requested from the byte gate so far, in total.
    asked_bytes: AtomicU64,
    slots: Slots,
    /// The lanes by `endpoint/bucket` and class.
    lanes: Mutex<HashMap<(String, RequestClass), Arc<Lanes>>>,
    /// The health of each endpoint, by name.
    outages: Mutex<BTreeMap<String, Arc<Outage>>>,
    /// The speed of copies inside S3.
    speed: Mutex<SpeedEstimate>,
    counters: Counters,
    fruitless: Fruitless,
    /// Canceled when the run stops.
    stopping: CancellationToken,
    /// The number of processes that share the rates of the buckets.
    sharers: u32,
    /// The rules for repeating failed requests.
    pub retry: RetryPolicy,
}

/// The numbers of requests so far, for progress lines and summaries.
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
    /// The time of the first failure, in milliseconds since the run began; 0 if there is none.
    since: AtomicU64,
    /// The text of the last failure.
    reason: Mutex<String>,
}

impl Fruitless {
    /// Records the result of a request. Only failures that are retried count.
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
    /// Requests that were admitted, to be sent at once; retries included.
    pub requests: u64,
    /// Requests that were answered with "slow down".
    pub throttled: u64,
    /// Requests that were sent again.
    pub retried: u64,
    /// Requests that were sent a second time because the first one hung.
    pub hedged: u64,
}

/// The right to send one request. The caller reports the result to [`Pacer::learn`].
#[derive(Debug)]
pub struct Admitted<'a> {
    /// The admission by the endpoint's [`Outage`].
    pub pass: Pass<'a>,
    /// The time that the request waited for the user's limits, and in the queue of a lane whose
    /// server accepts requests.
    pub limited: Duration,
    lanes: &'a Lanes,
    lane_pass: LanePass,
    key: &'a str,
    /// True if the request waited for the rate of its lane or of the user.
    paced: bool,
    /// The charge for the request's bytes, if it did not wait for them.
    charge: Option<Charge>,
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
            requests: Gate::new(limits.requests_per_second.map(f64::from)),
            bytes: Gate::new(limits.bytes_per_second.map(|rate| to_cells(rate.0))),
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

    /// Returns this pacer with lower initial rates: its share of the documented rates, if this many
    /// `processes` send requests to the same buckets.
    #[must_use]
    pub fn shared_by(self, processes: u32) -> Self {
        Self {
            sharers: processes.max(1),
            ..self
        }
    }

    /// Returns the slots for requests in flight.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Stops the run. No more slots are given out, and no request waits for another attempt.
    pub fn stop(&self) {
        self.slots.close();
        self.stopping.cancel();
    }

    /// Returns the token that is canceled when the run stops.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Returns the lanes of a bucket at an endpoint for this class of requests.
    #[must_use]
    pub fn lanes(&self, endpoint: &str, bucket: &str, class: RequestClass) -> Arc<Lanes> {
        self.lanes_of(endpoint, format!("{endpoint}/{bucket}"), class)
    }

    fn lanes_of(&self, endpoint: &str, name: String, class: RequestClass) -> Arc<Lanes> {
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

    fn all_lanes(&self) -> MutexGuard<'_, HashMap<(String, RequestClass), Arc<Lanes>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the learned rates of all buckets, and the learned number of slots.
    #[must_use]
    pub fn learned(&self) -> Learned {
        let all = self.all_lanes();
        let mut lanes: Vec<_> = all
            .iter()
            .flat_map(|((bucket, _), lanes)| lanes.learned(bucket))
            .collect();
        drop(all);
        lanes.sort_by(|one, other| {
            let key = |lane: &learned::LearnedLane| {
                (lane.bucket.clone(), lane.class == RequestClass::Write)
            };
            key(one)
                .cmp(&key(other))
                .then_with(|| one.prefix.cmp(&other.prefix))
        });
        lanes.truncate(learned::MAX_REMEMBERED);
        Learned {
            lanes,
            concurrency: self.slots.in_flight().1,
        }
    }

    /// Starts with the rates and the number of slots that an earlier session learned. The caller
    /// checks that they are not older than [`learned::KEPT`].
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
        self.slots.start_at(learned.concurrency);
    }

    /// Returns the endpoints that do not answer now: the name, for how long, and the last failure.
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

    /// Returns for how long every request has failed, and the last failure. Returns `None` if the
    /// last request succeeded.
    #[must_use]
    pub fn fruitless(&self) -> Option<(Duration, String)> {
        let since = self.fruitless.since.load(Ordering::Relaxed);
        let reason = || {
            let reason = self.fruitless.reason.lock();
            reason.unwrap_or_else(PoisonError::into_inner).clone()
        };
        (since > 0).then(|| {
            let lasted = self.elapsed().saturating_sub(Duration::from_millis(since));
            (lasted, reason())
        })
    }

    /// Returns the prefixes in which every request is refused now, as `bucket/prefix`.
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

    /// Waits until a request for `key` (for a list, its first key) that moves `bytes` may be sent.
    /// The caller reports the result to [`Pacer::learn`].
    ///
    /// # Errors
    /// [`OutageTimeout`] if the endpoint has answered no request for `patience`.
    pub async fn admit<'a>(
        &self,
        lanes: &'a Lanes,
        key: &'a str,
        bytes: u64,
        patience: Duration,
    ) -> Result<Admitted<'a>, OutageTimeout> {
        self.admit_one(lanes, key, bytes, patience, false).await
    }

    /// Admits a request like [`Pacer::admit`], but without waiting for the rate of its lane.
    ///
    /// # Errors
    /// The errors of [`Pacer::admit`].
    pub(crate) async fn admit_without_queue<'a>(
        &self,
        lanes: &'a Lanes,
        key: &'a str,
        bytes: u64,
        patience: Duration,
    ) -> Result<Admitted<'a>, OutageTimeout> {
        self.admit_one(lanes, key, bytes, patience, true).await
    }

    async fn admit_one<'a>(
        &self,
        lanes: &'a Lanes,
        key: &'a str,
        bytes: u64,
        patience: Duration,
        skips_queue: bool,
    ) -> Result<Admitted<'a>, OutageTimeout> {
        let clock = || self.started.elapsed();
        let pass = lanes.outage.pass(patience, clock).await?;
        let queued_at = clock();
        // A probe must not queue behind the requests that wait for its result.
        let lane_pass = if pass.is_probe() || skips_queue {
            lanes.skip_queue(key)
        } else {
            lanes.pass(key, clock).await
        };
        let (mut paced, mut charge, lane_left_at) = (lane_pass.waited, None, clock());
        if pass.is_probe() {
            self.requests.pass_ahead(1).await;
            // A wait for the cells of a large part could outlast the patience with the endpoint.
            charge = self.bytes.charge(self.cells(bytes));
        } else {
            paced |= self.requests.pass(1).await;
            paced |= self.bytes.pass(self.cells(bytes)).await;
        }
        // If the lane is slow but not shut, the wait in the queue counts as a limit and not as
        // silence of the server.
        let is_served = lane_pass.waited && !lanes.is_shut(key);
        let limited = clock().saturating_sub(if is_served { queued_at } else { lane_left_at });
        // The endpoint may have gone down while the request waited.
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
            lane_pass,
            key,
            paced,
            charge,
        })
    }

    /// Returns how many new cells these bytes start. Small requests share a cell.
    fn cells(&self, bytes: u64) -> u64 {
        let before = self.asked_bytes.fetch_add(bytes, Ordering::Relaxed);
        before.saturating_add(bytes).div_ceil(BYTES_PER_CELL) - before.div_ceil(BYTES_PER_CELL)
    }

    /// Learns from the result of a request that took `took`. `limit` is its time limit, and
    /// `failure` is `None` if it succeeded.
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
            lane_pass,
            key,
            paced,
            charge,
            ..
        } = admitted;
        let now = self.started.elapsed();
        if let Some(charge) = charge
            && !failure.is_some_and(|failure| moved_nothing(operation, failure))
        {
            charge.keep();
        }
        match failure {
            Some(failure) if failure.kind().indicates_outage() => {
                let (began, reason) = (now.saturating_sub(took), &failure.details().message);
                match failure.kind() {
                    FailureKind::Unreachable => pass.not_connected(now, began, reason),
                    FailureKind::TimedOut => pass.failed(now, began, reason),
                    _ => pass.failed(now, now, reason),
                }
            }
            // An unsent request says nothing about the endpoint.
            Some(failure) if failure.kind().is_unsent() => drop(pass),
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
            lanes.throttled(&lane_pass, key, now.saturating_sub(took), now);
            self.counters.throttled.fetch_add(1, Ordering::Relaxed);
        } else if failure.is_none() {
            Lanes::accepted(&lane_pass, key, now.saturating_sub(took), now);
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

    /// Learns the speed of copies from a copy inside S3 that took `took`.
    pub fn copied(&self, bytes: u64, took: Duration) {
        self.speed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .observe(bytes, took);
    }

    /// Returns the speed of copies inside S3, from the responses so far.
    #[must_use]
    pub fn copy_speed(&self) -> Speed {
        self.speed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .speed()
    }

    /// Begins an outage of the endpoint of `lanes`, which has answered no request for the time
    /// `waited`, even if too few requests have failed to prove the outage.
    pub fn is_silent(&self, lanes: &Lanes, waited: Duration, reason: &str) {
        let now = self.started.elapsed();
        lanes.outage.begin(now, now.saturating_sub(waited), reason);
    }

    /// Counts a retry.
    pub fn retried(&self) {
        self.counters.retried.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that is sent a second time because the first one hangs.
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

    /// Returns the time since the run began, without the time in which this process was suspended.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Returns true if a failed request certainly moved no bytes: it was not sent, or was refused. The
/// server may refuse an upload after it has received the bytes.
fn moved_nothing(operation: Operation, failure: &Failure) -> bool {
    let is_copy = matches!(operation, Operation::CopyObject | Operation::UploadPartCopy);
    failure.kind().is_unsent() || (is_copy && failure.is_answer())
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
