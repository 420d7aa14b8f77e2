//! The performance model of the sandbox: latency per operation, copy speed, and request rates per
//! prefix.
//!
//! The default model has neither latency nor limits. [`Model::aws_like`] has typical figures of S3.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::operation::{Call, Operation};

/// The timing of the sandbox.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The latency of answers.
    pub latency: LatencyModel,
    /// The accepted request rates.
    pub limits: RateModel,
}

impl Model {
    /// Models S3 as seen from a machine in the same region: 60 ms for a list, 35 ms plus the bytes
    /// at 80 MB/s for a copy, 3,500 writes and 5,500 reads per second and prefix.
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

/// The latency of an answer, by kind of operation.
#[derive(Clone, Debug, Default)]
pub struct LatencyModel {
    /// All lists: of buckets, objects, versions, uploads, and parts.
    pub list: Duration,
    /// `HeadObject`, `HeadBucket`, `GetObjectAttributes`.
    pub head: Duration,
    /// `CreateMultipartUpload`.
    pub create: Duration,
    /// `CopyObject`, and `UploadPartCopy` without `part_copy`, plus the time for their bytes.
    pub copy: Duration,
    /// `UploadPartCopy`, plus the time for its bytes; `None` means the same as `copy`.
    pub part_copy: Option<Duration>,
    /// `CompleteMultipartUpload`.
    pub complete: Duration,
    /// `PutObject` and `UploadPart`, plus the time for their bytes.
    pub put: Duration,
    /// `GetObject`, until the first byte.
    pub get: Duration,
    /// All other operations.
    pub other: Duration,
    /// The speed of one copy or upload in bytes per second; `None` is unlimited.
    pub bytes_per_second: Option<u64>,
}

impl LatencyModel {
    /// Returns the latency before the operation starts.
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

    /// Returns the time that it takes to move this number of bytes.
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

/// The requests per second that each prefix of a bucket (up to the first `/`) accepts. Requests
/// above the rate are answered with 503 `SlowDown`.
#[derive(Clone, Debug, Default)]
pub struct RateModel {
    /// PUT, COPY, POST and DELETE; `None` is unlimited.
    pub writes_per_second: Option<u32>,
    /// GET, HEAD and listings; `None` is unlimited.
    pub reads_per_second: Option<u32>,
    /// A lower initial rate of each prefix, as in S3 until it has partitioned the prefix.
    pub ramp: Option<Ramp>,
    /// The only prefix with limits (for example `logs/`); `None` means that each prefix has its
    /// own.
    pub only: Option<String>,
    /// The number of connections that are served at once; others wait to be accepted. `None` is
    /// unlimited.
    pub connections: Option<usize>,
}

/// The growth of the rate of a prefix after its first request. The rate grows in steps, as S3
/// splits a partition in two.
#[derive(Clone, Debug, PartialEq)]
pub struct Ramp {
    /// The initial rate as a fraction of the full one, above 0.
    pub start: f64,
    /// The time after which the rate doubles, repeatedly, until it reaches the full one.
    pub doubles_every: Duration,
}

impl RateModel {
    /// Returns the rate of a prefix of this age whose full rate is `full`.
    fn rate(&self, full: u32, age: Duration) -> f64 {
        let full = f64::from(full);
        match &self.ramp {
            Some(ramp) if !ramp.doubles_every.is_zero() => {
                let doublings = (age.as_secs_f64() / ramp.doubles_every.as_secs_f64()).floor();
                full * (ramp.start * doublings.exp2()).min(1.0)
            }
            _ => full,
        }
    }
}

/// The tokens that a pause saves, in seconds of the rate.
const BURST: f64 = 0.25;

/// Admits requests according to the rates.
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

    /// Returns true if the call is admitted.
    pub(super) fn admits(&self, call: &Call) -> bool {
        let write = call.operation.is_write();
        let limited = if write {
            self.model.writes_per_second
        } else {
            self.model.reads_per_second
        };
        let Some(full) = limited.filter(|_| !call.bucket.is_empty()) else {
            return true;
        };
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
        let rate = self.model.rate(full, now - tokens.first);
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

    /// Returns the number of admitted calls when 1,000 per second are sent.
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
        // Another prefix has its own limit.
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
