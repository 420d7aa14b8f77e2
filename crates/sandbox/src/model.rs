//! The performance of the sandbox: latency per operation, copy speed, and rates per prefix.
//!
//! The default model has neither latency nor limits. [`Model::aws_like`] has the figures that S3 is
//! known for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::operation::{Call, Operation};

/// How the sandbox behaves in time.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// How long answers take.
    pub latency: LatencyModel,
    /// How many requests are let through.
    pub limits: RateModel,
}

impl Model {
    /// S3 as seen from a machine in its region: 60 ms lists, copies of 35 ms plus the bytes at 80
    /// MB/s, 3,500 writes and 5,500 reads per second and prefix.
    #[must_use]
    pub fn aws_like() -> Self {
        let ms = Duration::from_millis;
        Self {
            latency: LatencyModel {
                list: ms(60),
                head: ms(15),
                create: ms(25),
                copy: ms(35),
                part_copy: None,
                complete: ms(80),
                put: ms(25),
                get: ms(20),
                other: ms(15),
                bytes_per_second: Some(80_000_000),
            },
            limits: RateModel {
                writes_per_second: Some(3_500),
                reads_per_second: Some(5_500),
                ..RateModel::default()
            },
        }
    }
}

/// Time that an answer takes, by kind of operation.
#[derive(Clone, Debug, Default)]
pub struct LatencyModel {
    /// All listings.
    pub list: Duration,
    /// `HeadObject`, `HeadBucket`, `GetObjectAttributes`.
    pub head: Duration,
    /// `CreateMultipartUpload`.
    pub create: Duration,
    /// CopyObject and UploadPartCopy, besides their bytes.
    pub copy: Duration,
    /// `UploadPartCopy`, besides its bytes; `None` is as long as `copy`.
    pub part_copy: Option<Duration>,
    /// `CompleteMultipartUpload`.
    pub complete: Duration,
    /// `PutObject` and `UploadPart`, besides their bytes.
    pub put: Duration,
    /// `GetObject`, to the first byte.
    pub get: Duration,
    /// All others.
    pub other: Duration,
    /// Speed of one copy or upload, in bytes per second; `None` is unlimited.
    pub bytes_per_second: Option<u64>,
}

impl LatencyModel {
    /// Time before anything is done.
    pub(super) fn base(&self, operation: Operation) -> Duration {
        match operation {
            Operation::ListBuckets
            | Operation::ListObjects
            | Operation::ListObjectsV2
            | Operation::ListObjectVersions
            | Operation::ListMultipartUploads
            | Operation::ListParts => self.list,
            Operation::HeadObject | Operation::HeadBucket | Operation::GetObjectAttributes => {
                self.head
            }
            Operation::CreateMultipartUpload => self.create,
            Operation::CopyObject => self.copy,
            Operation::UploadPartCopy => self.part_copy.unwrap_or(self.copy),
            Operation::CompleteMultipartUpload => self.complete,
            Operation::PutObject | Operation::UploadPart => self.put,
            Operation::GetObject => self.get,
            _ => self.other,
        }
    }

    /// Time that moving these bytes takes.
    pub(super) fn transfer(&self, bytes: u64) -> Duration {
        match self.bytes_per_second {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a delay does not need the last bits"
            )]
            Some(speed) if speed > 0 => Duration::from_secs_f64(bytes as f64 / speed as f64),
            _ => Duration::ZERO,
        }
    }
}

/// Requests per second that each prefix of a bucket (up to the first `/`) takes; more are answered
/// 503 `SlowDown`.
#[derive(Clone, Debug, Default)]
pub struct RateModel {
    /// PUT, COPY, POST and DELETE; `None` is unlimited.
    pub writes_per_second: Option<u32>,
    /// GET, HEAD and listings; `None` is unlimited.
    pub reads_per_second: Option<u32>,
    /// A prefix takes less at first, as before S3 has partitioned it.
    pub ramp: Option<Ramp>,
    /// The one prefix (`logs/`) that has limits; `None` means that each has its own.
    pub only: Option<String>,
    /// Connections that are served at once; further ones wait unaccepted. `None` is unlimited.
    pub connections: Option<usize>,
}

/// The growth of a prefix's rate after its first request: in steps, as S3 divides a partition in
/// two.
#[derive(Clone, Debug, PartialEq)]
pub struct Ramp {
    /// The rate at first, as a fraction of the full one, above 0.
    pub start: f64,
    /// Time after which it doubles, again and again until it is the full one.
    pub doubles_every: Duration,
}

impl RateModel {
    fn rate(&self, write: bool, age: Duration) -> Option<f64> {
        let full = f64::from(if write {
            self.writes_per_second?
        } else {
            self.reads_per_second?
        });
        Some(match &self.ramp {
            Some(ramp) if !ramp.doubles_every.is_zero() => {
                let doublings = (age.as_secs_f64() / ramp.doubles_every.as_secs_f64()).floor();
                full * (ramp.start * doublings.exp2()).min(1.0)
            }
            _ => full,
        })
    }
}

/// Seconds of the rate that a prefix may take at once after a pause.
const BURST: f64 = 0.25;

/// Counts requests against the rates.
#[derive(Debug)]
pub(super) struct Limiter {
    model: RateModel,
    prefixes: Mutex<HashMap<(String, String, bool), Tokens>>,
}

#[derive(Debug)]
struct Tokens {
    first: Instant,
    last: Instant,
    available: f64,
}

impl Limiter {
    pub(super) fn new(model: RateModel) -> Self {
        Self {
            model,
            prefixes: Mutex::default(),
        }
    }

    /// Returns true if the call is let through.
    pub(super) fn admits(&self, call: &Call) -> bool {
        let write = call.operation.is_write();
        let limited = if write {
            self.model.writes_per_second
        } else {
            self.model.reads_per_second
        };
        if limited.is_none() || call.bucket.is_empty() {
            return true;
        }
        let top = call
            .key
            .split_inclusive('/')
            .next()
            .filter(|top| top.ends_with('/'))
            .unwrap_or_default();
        if self.model.only.as_ref().is_some_and(|only| only != top) {
            return true;
        }
        let now = Instant::now();
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = prefixes
            .entry((call.bucket.clone(), top.to_owned(), write))
            .or_insert_with(|| Tokens {
                first: now,
                last: now,
                available: f64::INFINITY,
            });
        let Some(rate) = self.model.rate(write, now - tokens.first) else {
            return true;
        };
        let burst = (rate * BURST).max(1.0);
        let earned = rate * (now - tokens.last).as_secs_f64();
        tokens.last = now;
        tokens.available = (tokens.available + earned).min(burst);
        if tokens.available < 1.0 {
            return false;
        }
        tokens.available -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use hyper::{HeaderMap, Method};

    use super::*;

    fn put(key: &str) -> Call {
        Call::classify(
            &Method::PUT,
            &format!("/b/{key}").parse().unwrap(),
            &HeaderMap::new(),
        )
    }

    /// Calls let through when 1,000 per second are sent.
    async fn admitted(limiter: &Limiter, key: &str, time: Duration) -> usize {
        let mut count = 0;
        for _ in 0..time.as_millis() {
            count += usize::from(limiter.admits(&put(key)));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_prefix_takes_its_rate_and_no_more() {
        let limiter = Limiter::new(RateModel {
            writes_per_second: Some(100),
            ..RateModel::default()
        });
        let first = admitted(&limiter, "a/x", Duration::from_secs(10)).await;
        assert!((1000..=1030).contains(&first), "{first}");
        // Another prefix has its own.
        assert!(limiter.admits(&put("b/x")) && limiter.admits(&put("top")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_starts_low_and_doubles() {
        let ramp = Some(Ramp {
            start: 0.125,
            doubles_every: Duration::from_secs(10),
        });
        let limiter = Limiter::new(RateModel {
            writes_per_second: Some(800),
            ramp,
            ..RateModel::default()
        });
        let seconds = Duration::from_secs(1);
        let first = admitted(&limiter, "a/", seconds).await;
        tokio::time::advance(Duration::from_secs(8)).await;
        let ninth = admitted(&limiter, "a/", seconds).await;
        let tenth = admitted(&limiter, "a/", seconds).await;
        tokio::time::advance(Duration::from_mins(1)).await;
        let last = admitted(&limiter, "a/", seconds).await;
        assert!((100..=140).contains(&first), "{first}");
        assert!((100..=140).contains(&ninth), "{ninth}");
        assert!((200..=270).contains(&tenth), "{tenth}");
        assert!((800..=1000).contains(&last), "{last}");
    }
}
