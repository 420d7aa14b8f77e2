//! The one place where requests wait: for a place in flight, for the user's limits, for the rate that a bucket
//! was seen to accept.
//!
//! Every request of every object passes here, retries too. [`slots::Slots`] bounds how many are in flight and hands free
//! places to parts of large objects first, so that no object has a pool of its own and the tail of a run is short.
//! A [`Lane`] is the pair of bucket and request class, S3's own unit of throttling; its rate is learned by
//! [`adaptive::RateController`] and enforced, like the user's limits, by a [`gate::Gate`]. An endpoint that does not answer
//! is asked by one request at a time until it is back ([`outage::Outage`]).

pub mod adaptive;
pub mod gate;
pub mod outage;
pub mod retry;
pub mod slots;
pub mod speed;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::manifest::job::Limits;
use crate::s3::{Class, Failure, FailureKind};
use adaptive::RateController;
use gate::Gate;
use outage::{Outage, Outlasted, Pass};
pub use retry::RetryPolicy;
pub use slots::{Slot, Slots};
use speed::{Speed, SpeedEstimate};

/// Bytes per cell of the byte gate: coarse, so that a 5 GiB part is a few thousand cells.
const BYTES_PER_CELL: u64 = 256 << 10;

/// Paces all requests of a run.
#[derive(Debug)]
pub struct Pacer {
    started: Instant,
    requests: Gate,
    bytes: Gate,
    slots: Slots,
    lanes: Mutex<HashMap<(String, Class), Arc<Lane>>>,
    outages: Mutex<BTreeMap<String, Arc<Outage>>>,
    speed: Mutex<SpeedEstimate>,
    counters: Counters,
    /// How failed requests are repeated.
    pub retry: RetryPolicy,
}

/// What happened so far, for progress lines and summaries.
#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    throttled: AtomicU64,
    retried: AtomicU64,
    hedged: AtomicU64,
}

/// A copy of the pacer's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
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

/// Requests of one class to one bucket: what S3 throttles together.
#[derive(Debug)]
pub struct Lane {
    gate: Gate,
    rate: Mutex<RateController>,
    outage: Arc<Outage>,
}

impl Lane {
    /// True while the endpoint does not answer anyone.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.outage.is_out()
    }
}

impl Pacer {
    /// A pacer under the job's limits. `ceiling` bounds the requests in flight (see [`slots::default_ceiling`]).
    #[must_use]
    pub fn new(limits: &Limits, ceiling: u32, retry: RetryPolicy) -> Self {
        let retry = RetryPolicy { patience: limits.patience.unwrap_or(retry.patience), ..retry };
        let ceiling = limits.in_flight.map_or(ceiling, |wanted| wanted.min(ceiling)).max(1);
        Self {
            started: Instant::now(),
            requests: Gate::limited(limits.requests_per_second.map(f64::from)),
            bytes: Gate::limited(limits.bytes_per_second.map(|rate| to_cells(rate.0))),
            slots: Slots::new(ceiling),
            lanes: Mutex::default(),
            outages: Mutex::default(),
            speed: Mutex::default(),
            counters: Counters::default(),
            retry,
        }
    }

    /// The places in flight.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The lane of a bucket on an endpoint.
    #[must_use]
    pub fn lane(&self, endpoint: &str, bucket: &str, class: Class) -> Arc<Lane> {
        let outage = {
            let mut outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
            let outage = outages.entry(endpoint.to_owned());
            Arc::clone(outage.or_insert_with(|| Arc::new(Outage::new(self.retry.probes))))
        };
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry((format!("{endpoint}/{bucket}"), class));
        Arc::clone(lane.or_insert_with(|| {
            Arc::new(Lane { gate: Gate::limited(None), rate: Mutex::new(RateController::new()), outage })
        }))
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

    /// Waits until a request that moves `bytes` may be sent on `lane`. What comes of it is told to [`Pacer::learn`].
    ///
    /// # Errors
    /// [`Outlasted`] when the endpoint has not answered anyone for `patience`.
    pub async fn admit<'a>(
        &self,
        lane: &'a Lane,
        bytes: u64,
        patience: Duration,
    ) -> Result<Pass<'a>, Outlasted> {
        let pass = lane.outage.pass(patience, || self.started.elapsed()).await?;
        lane.gate.pass(1).await;
        self.requests.pass(1).await;
        if bytes > 0 {
            self.bytes.pass(bytes.div_ceil(BYTES_PER_CELL)).await;
        }
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        Ok(pass)
    }

    /// Learns from an answer that came after `took`: a good one when there is no failure.
    pub fn learn(&self, lane: &Lane, pass: Pass<'_>, failure: Option<&Failure>, bytes: u64, took: Duration) {
        let now = self.started.elapsed();
        match failure {
            Some(failure) if failure.kind().speaks_of_an_outage() => {
                pass.failed(now, &failure.details().message);
            }
            // Nothing was sent.
            Some(failure) if *failure.kind() == FailureKind::NoCredentials => drop(pass),
            _ => pass.answered(),
        }
        let failure = failure.map(Failure::kind);
        let throttled = failure == Some(&FailureKind::Throttled);
        {
            let mut rate = lane.rate.lock().unwrap_or_else(PoisonError::into_inner);
            match failure {
                Some(FailureKind::Throttled) => rate.throttled(now),
                None => rate.accepted(now),
                Some(_) => {}
            }
            lane.gate.set(rate.rate(now));
        }
        if throttled {
            self.counters.throttled.fetch_add(1, Ordering::Relaxed);
        }
        self.slots.answered(now, took, failure.is_none().then_some(bytes), throttled);
    }

    /// Takes note of a copy inside S3 that was answered after `took`.
    pub fn copied(&self, bytes: u64, took: Duration) {
        self.speed.lock().unwrap_or_else(PoisonError::into_inner).observe(bytes, took);
    }

    /// How long copies inside S3 take, from what was answered so far.
    #[must_use]
    pub fn copy_speed(&self) -> Speed {
        self.speed.lock().unwrap_or_else(PoisonError::into_inner).speed()
    }

    /// Takes note of a retry.
    pub fn retried(&self) {
        self.counters.retried.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note of a request that is sent a second time because the first one hangs.
    pub fn hedged(&self) {
        self.counters.hedged.fetch_add(1, Ordering::Relaxed);
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> PaceCounts {
        PaceCounts {
            requests: self.counters.requests.load(Ordering::Relaxed),
            throttled: self.counters.throttled.load(Ordering::Relaxed),
            retried: self.counters.retried.load(Ordering::Relaxed),
            hedged: self.counters.hedged.load(Ordering::Relaxed),
        }
    }

    /// Time since the run began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate need not be exact beyond 2^53 bytes a second")]
fn to_cells(bytes_per_second: u64) -> f64 {
    bytes_per_second as f64 / BYTES_PER_CELL as f64
}
