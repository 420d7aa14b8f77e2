//! Decides when a failed request is sent again. The module is pure: time and chance are arguments.
//!
//! Backoff has full jitter, because requests that failed together must not come back together.
//! Requests that are throttled, cannot reach their server, or lack credentials are retried until
//! the run's patience ends. (The pacer has already slowed down a throttled lane.) Requests with any
//! other transient failure are retried for a while, and for a minimum number of attempts
//! ([`RetryPolicy::persistence`] and [`RetryPolicy::attempts`]). The patience bounds every wait.

use std::time::Duration;

use crate::s3::{FailureKind, Operation};
use crate::size::MIB;

/// The rules for repeating requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The least number of attempts of a request that fails because of the server or the network.
    pub attempts: u32,
    /// The least time for which such a request is retried, however many attempts that takes: an
    /// outage of half a minute must not cost an object of terabytes.
    pub persistence: Duration,
    /// The longest time that a request waits for a good response, over all attempts.
    pub patience: Duration,
    /// The first and the longest pause between probes of an endpoint that does not answer.
    pub probes: (Duration, Duration),
    /// The first and the longest pause before an attribute that a bucket refused is requested
    /// again.
    pub questions: (Duration, Duration),
    /// The time limit of a request without bytes, and the longest time without progress of a
    /// request that sends or receives bytes.
    pub silence: Duration,
    /// The time limit of `CompleteMultipartUpload`, which "can take several minutes".
    pub complete: Duration,
    /// The bytes per second at which a time limit grows with the bytes of a request.
    pub slowest: u64,
    /// The time for which a request that got a 403 is repeated if the same operation has succeeded
    /// in this run: permissions on AWS are eventually consistent.
    pub doubt: Duration,
    /// The same time for other servers, which keep permissions on few machines.
    pub brief_doubt: Duration,
    /// The time in which a run must end after it was stopped.
    pub drain: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 10,
            persistence: Duration::from_mins(3),
            patience: Duration::from_mins(15),
            probes: (Duration::from_millis(500), Duration::from_secs(15)),
            questions: (Duration::from_secs(2), Duration::from_mins(10)),
            silence: Duration::from_mins(1),
            complete: Duration::from_mins(10),
            slowest: 2 * MIB,
            doubt: Duration::from_mins(1),
            brief_doubt: Duration::from_secs(3),
            drain: DRAIN,
        }
    }
}

/// The default of [`RetryPolicy::drain`].
pub const DRAIN: Duration = Duration::from_secs(20);
/// The maximum time for cleaning up after the requests in flight have ended. It is at most a
/// quarter of the drain time.
const TIDYING: Duration = Duration::from_secs(8);

/// The shortest time limit of an attempt, even if less patience is left: a distant server needs
/// some time to answer.
const LEAST: Duration = Duration::from_secs(5);
/// The attempts of a request whose responses arrive complete but cannot be read.
const UNREADABLE: u32 = 5;

/// The number of transfers that share this machine's bandwidth. Copies inside S3 do not use it.
const SHARERS: u64 = 32;

/// Returns the first delay after a failure of this kind, and the longest.
const fn delays(kind: &FailureKind) -> (Duration, Duration) {
    match kind {
        // If all requests are refused, the pacer lets only few pass. Longer pauses would only delay
        // the first accepted ones.
        FailureKind::Throttled => (Duration::from_millis(100), Duration::from_secs(2)),
        FailureKind::Unreachable | FailureKind::CredentialsUnavailable => {
            (Duration::from_millis(500), Duration::from_secs(15))
        }
        _ => (Duration::from_millis(50), Duration::from_secs(20)),
    }
}

impl RetryPolicy {
    /// The policy for requests that find out what a server can do. The server is known to answer,
    /// and some of these requests are expected to fail.
    pub const PROBE: Self = Self {
        attempts: 4,
        patience: Duration::from_secs(8),
        probes: (Duration::from_millis(500), Duration::from_secs(2)),
        questions: (Duration::from_secs(2), Duration::from_mins(10)),
        silence: Duration::from_secs(15),
        complete: Duration::from_secs(15),
        persistence: Duration::ZERO,
        slowest: 1 << 20,
        doubt: Duration::ZERO,
        brief_doubt: Duration::ZERO,
        drain: DRAIN,
    };

    /// Returns [`RetryPolicy::PROBE`] with no longer waits than this policy has.
    #[must_use]
    pub fn for_probes(&self) -> Self {
        Self {
            patience: self.patience.min(Self::PROBE.patience),
            probes: (
                self.probes.0.min(Self::PROBE.probes.0),
                self.probes.1.min(Self::PROBE.probes.1),
            ),
            silence: self.silence.min(Self::PROBE.silence),
            complete: self.complete.min(Self::PROBE.complete),
            drain: self.drain,
            ..Self::PROBE
        }
    }

    /// Returns how long the cleanup after a stop may take. The cleanup ends open uploads and the
    /// journal.
    #[must_use]
    pub fn cleanup_time(&self) -> Duration {
        (self.drain / 4).min(TIDYING)
    }

    /// Returns the policy for a bucket that has not answered yet. Every failure that may pass is
    /// retried until the patience ends. Attempts are short and follow each other closely, so that a
    /// server that comes up is noticed soon.
    #[must_use]
    pub fn first_contact(&self) -> Self {
        Self {
            persistence: self.patience,
            probes: (self.probes.0, self.probes.1.min(Duration::from_secs(5))),
            silence: self.silence.min(Duration::from_secs(15)),
            ..*self
        }
    }

    /// Returns the time limit of one attempt, which grows with the bytes. The copy of a 5 GiB part
    /// is silent for more than a minute, and with a shorter limit no attempt would ever succeed.
    #[must_use]
    pub fn time_limit(&self, operation: Operation, bytes: u64) -> Duration {
        let base = if operation == Operation::CompleteMultipartUpload {
            self.complete
        } else {
            self.silence
        };
        let slowest = match operation {
            Operation::UploadPart | Operation::PutObject | Operation::GetObject => {
                self.slowest / SHARERS
            }
            _ => self.slowest,
        };
        base + Duration::from_secs(bytes / slowest.max(1))
    }

    /// Returns how long an attempt may make no progress, if its time limit is `full` and this much
    /// patience is `left`. An upload or download shows its progress; a copy is silent to its end.
    #[must_use]
    pub fn silence_limit(&self, operation: Operation, full: Duration, left: Duration) -> Duration {
        let quiet = match operation {
            Operation::UploadPart | Operation::PutObject | Operation::GetObject => {
                full.min(self.silence)
            }
            _ => full,
        };
        quiet.min(left.max(LEAST.min(self.patience)))
    }

    /// Returns the time to wait before a request that got a 403 is repeated, or `None` to believe
    /// the 403.
    ///
    /// `attempt` counts those already made, `waited` is the time since the first one, `chance` is
    /// uniform in `0..1`. Half of each wait is fixed, because otherwise requests that were refused
    /// together could come back at once.
    #[must_use]
    pub fn wait_in_doubt(&self, attempt: u32, waited: Duration, chance: f64) -> Option<Duration> {
        let doubt = self.doubt.min(self.patience);
        let left = doubt.checked_sub(waited).filter(|left| !left.is_zero())?;
        let ceiling = (doubt / 30).saturating_mul(1 << attempt.saturating_sub(1).min(4));
        let wait = ceiling.mul_f64(f64::midpoint(1.0, chance.clamp(0.0, 1.0)));
        Some(wait.min(left))
    }

    /// Returns how long a refused part waits for another part to be copied before its refusal is
    /// believed.
    #[must_use]
    pub(crate) fn wait_for_other_parts(&self) -> Duration {
        self.doubt.min(self.patience) / 4
    }

    /// Returns the time to wait before the next attempt, or `None` to give up.
    ///
    /// `attempt` counts those already made, `waited` is the time since the first one, `chance` is
    /// uniform in `0..1`.
    #[must_use]
    pub fn wait(
        &self,
        kind: &FailureKind,
        attempt: u32,
        waited: Duration,
        chance: f64,
    ) -> Option<Duration> {
        let is_retried = waited < self.patience
            && match kind {
                FailureKind::Throttled
                | FailureKind::Unreachable
                | FailureKind::CredentialsUnavailable => true,
                // A server that sends unreadable responses will hardly stop within a minute.
                FailureKind::Unreadable => attempt < self.attempts.min(UNREADABLE),
                kind => {
                    kind.is_retryable() && (attempt < self.attempts || waited < self.persistence)
                }
            };
        if !is_retried {
            return None;
        }
        let (base, cap) = delays(kind);
        let ceiling = base
            .saturating_mul(1 << attempt.saturating_sub(1).min(16))
            .min(cap);
        Some(ceiling.mul_f64(chance.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::size::ByteSize;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts: 5,
        persistence: Duration::from_secs(30),
        patience: Duration::from_mins(1),
        probes: (Duration::from_millis(500), Duration::from_secs(15)),
        questions: (Duration::from_secs(2), Duration::from_mins(10)),
        silence: Duration::from_mins(1),
        complete: Duration::from_mins(10),
        slowest: 2 * MIB,
        doubt: Duration::from_mins(1),
        brief_doubt: Duration::from_secs(3),
        drain: DRAIN,
    };

    #[test]
    fn a_permanent_failure_is_not_retried() {
        for kind in [
            FailureKind::Denied,
            FailureKind::NotFound,
            FailureKind::PreconditionFailed,
            FailureKind::Archived,
        ] {
            assert_eq!(POLICY.wait(&kind, 1, Duration::ZERO, 0.5), None, "{kind:?}");
        }
    }

    #[test]
    fn a_refusal_is_repeated_a_few_times_at_growing_intervals() {
        for chance in [0.0, 0.5, 1.0] {
            let (mut waited, mut attempts, mut last) = (Duration::ZERO, 1, Duration::ZERO);
            while let Some(wait) = POLICY.wait_in_doubt(attempts, waited, chance) {
                let is_last = waited + wait == POLICY.doubt;
                assert!(
                    attempts > 4 || wait > last || is_last,
                    "{attempts} {wait:?}"
                );
                (waited, attempts, last) = (waited + wait, attempts + 1, wait);
            }
            assert_eq!(waited, POLICY.doubt, "no longer than the doubt");
            assert!((5..10).contains(&attempts), "{attempts} attempts");
        }
    }

    #[test]
    fn faults_are_counted_and_throttling_is_timed() {
        assert!(
            POLICY
                .wait(&FailureKind::Transient, 4, Duration::from_secs(59), 0.5)
                .is_some()
        );
        assert_eq!(
            POLICY.wait(&FailureKind::Transient, 5, Duration::from_secs(30), 0.5),
            None
        );
        assert!(
            POLICY
                .wait(&FailureKind::Transient, 50, Duration::from_secs(29), 0.5)
                .is_some(),
            "an outage does not use up the attempts"
        );
        for kind in [
            FailureKind::Transient,
            FailureKind::TimedOut,
            FailureKind::Throttled,
        ] {
            assert_eq!(
                POLICY.wait(&kind, 1, POLICY.patience, 0.5),
                None,
                "patience bounds every wait"
            );
        }
        let limit = |operation, left| {
            POLICY
                .silence_limit(
                    operation,
                    Duration::from_mins(10),
                    Duration::from_secs(left),
                )
                .as_secs()
        };
        let copy = Operation::CopyObject;
        assert_eq!(
            (limit(copy, 900), limit(copy, 20), limit(copy, 0)),
            (600, 20, 5)
        );
        assert_eq!(
            (
                limit(Operation::UploadPart, 900),
                limit(Operation::UploadPart, 20)
            ),
            (60, 20)
        );
        assert!(
            POLICY
                .wait(&FailureKind::Throttled, 500, Duration::from_secs(59), 0.5)
                .is_some()
        );
        assert_eq!(
            POLICY.wait(&FailureKind::Throttled, 1, Duration::from_mins(1), 0.5),
            None
        );
    }

    #[test]
    fn the_documented_times_are_those_of_the_code() {
        let document =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/semantics.md"))
                .unwrap();
        let policy = RetryPolicy::default();
        let shown = |time: Duration| match time.as_secs() {
            seconds if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
            seconds => format!("{seconds}s"),
        };
        for row in [
            format!(
                "`--patience`, {} minutes by default",
                policy.patience.as_secs() / 60
            ),
            format!("without progress | {} |", shown(policy.silence)),
            format!(
                "| one attempt of CompleteMultipartUpload | {} |",
                shown(policy.complete)
            ),
            format!("in addition | 1s for each {} |", ByteSize(policy.slowest)),
            format!(
                "in addition | 1s for each {} |",
                ByteSize(policy.slowest / SHARERS)
            ),
            format!("the rest of `patience`, but at least {} |", shown(LEAST)),
            format!(
                "are retried for | {}, and {} attempts |",
                shown(policy.persistence),
                policy.attempts
            ),
            format!(
                "| a 403 of a kind of request that has succeeded before is repeated for | {} |",
                shown(policy.doubt)
            ),
            format!(
                "| the same at a server other than Amazon S3 | {} |",
                shown(policy.brief_doubt)
            ),
        ] {
            assert!(document.contains(&row), "{row}");
        }
    }

    #[test]
    fn time_limits_grow_with_the_bytes() {
        let limit = |operation, bytes| POLICY.time_limit(operation, bytes).as_secs();
        assert_eq!(limit(Operation::HeadObject, 0), 60);
        assert_eq!(
            limit(Operation::UploadPartCopy, 5 * 1024 * MIB),
            60 + 2560,
            "65 s at 80 MB/s, with room"
        );
        assert_eq!(limit(Operation::CompleteMultipartUpload, 0), 600);
        let part = limit(Operation::UploadPart, 16 * MIB);
        assert!(
            part >= 16 * 16 * MIB * 8 / 8_000_000,
            "16 parts at once pass an 8 Mbit/s line in {part} s"
        );
    }

    proptest! {
        #[test]
        fn delays_grow_to_a_cap_and_have_full_jitter(attempt in 1..1000u32, chance in 0.0..1.0f64) {
            let wait = POLICY.wait(&FailureKind::Throttled, attempt, Duration::ZERO, chance).unwrap();
            let full = POLICY.wait(&FailureKind::Throttled, attempt, Duration::ZERO, 1.0).unwrap();
            prop_assert!(wait <= full && full <= Duration::from_secs(2));
            let next = POLICY.wait(&FailureKind::Throttled, attempt + 1, Duration::ZERO, 1.0).unwrap();
            prop_assert!(next >= full);
        }
    }
}
