//! Estimates how long requests take, to find overdue ones.
//!
//! Of ten thousand requests, a few are not answered for half a minute, and a run ends only with its
//! last request. So a request that takes far longer than others of its kind may be sent once more,
//! on another connection. "Far longer" is defined as in TCP's retransmission timer: by the mean and
//! the deviation of the latency. A request is compared with requests that move about as many bytes.
//! Until enough of those are answered, it is compared with larger requests, then with smaller ones,
//! and without any responses with [`UNKNOWN`].
//!
//! More requests do not help a server that is slow as a whole. So responses earn the right to send
//! requests twice: each [`ANSWERS_PER_REPEAT`] responses earn one repetition, and at most
//! [`MAX_SAVED`] are saved up.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::s3::Operation;
use crate::size::MIB;

/// The number of responses that are needed before a request can be overdue.
const ENOUGH: u32 = 8;
/// The number of responses that are needed before a request can be overdue beyond doubt. It is
/// small, because a server that serves five connections may give no more responses before hanging
/// requests must be given up.
const FEW: u32 = 3;
/// The time after which a request without bytes is overdue while too few responses are known.
/// [`FIRST_SAVED`] bounds the requests that a slower server receives twice.
const UNKNOWN: Duration = Duration::from_secs(3);
/// The bytes per second at which [`UNKNOWN`] grows with the bytes of a request.
const UNKNOWN_SPEED: u64 = 16 * MIB;
/// The number of mean deviations beyond the mean at which a request is overdue.
const DEVIATIONS: u32 = 6;
/// The least time beyond the mean at which a request is overdue. A request is never overdue before
/// twice the mean, because a second request costs as much as the first.
pub(crate) const LEAST: Duration = Duration::from_secs(1);
/// The number of responses that earn the right to send one request twice.
pub const ANSWERS_PER_REPEAT: u32 = 20;
/// The maximum number of requests that may be sent twice in a row, however many responses came
/// before them.
const MAX_SAVED: u32 = 32;
/// The number of requests that a run may send twice before responses have earned any.
const FIRST_SAVED: u32 = 2;

/// An estimate of the time that a request takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct LatencyEstimate {
    answers: u32,
    mean: Duration,
    deviation: Duration,
}

impl LatencyEstimate {
    /// Learns from a response that came after `took`.
    pub fn observe(&mut self, took: Duration) {
        if self.answers == 0 {
            (self.mean, self.deviation) = (took, took / 2);
        } else {
            self.deviation = (self.deviation * 3 + self.mean.abs_diff(took)) / 4;
            self.mean = (self.mean * 7 + took) / 8;
        }
        self.answers = self.answers.saturating_add(1);
    }

    /// Returns the time after which a response is overdue, once enough responses are known.
    #[must_use]
    pub fn overdue_after(&self) -> Option<Duration> {
        (self.answers >= ENOUGH).then(|| self.limit())
    }

    /// Returns the time after which a response is overdue beyond doubt, for callers that have
    /// further evidence of it.
    #[must_use]
    pub fn surely_overdue_after(&self) -> Option<Duration> {
        (self.answers >= FEW).then(|| self.limit() * 2)
    }

    fn limit(&self) -> Duration {
        self.mean + (self.deviation * DEVIATIONS).max(LEAST).max(self.mean)
    }
}

/// The latencies of one class of requests to one bucket, and the budget for requests that are sent
/// twice.
#[derive(Debug)]
pub(super) struct Latencies(Mutex<LatencyTable>);

#[derive(Debug)]
struct LatencyTable {
    /// By operation and size class.
    estimates: HashMap<(Operation, u32), LatencyEstimate>,
    /// The number of responses that have not paid for a second request yet.
    credit: u32,
}

impl Default for Latencies {
    fn default() -> Self {
        Self(Mutex::new(LatencyTable {
            estimates: HashMap::new(),
            credit: FIRST_SAVED * ANSWERS_PER_REPEAT,
        }))
    }
}

impl Latencies {
    fn lock(&self) -> MutexGuard<'_, LatencyTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from a good response.
    pub(super) fn observe(&self, operation: Operation, bytes: u64, took: Duration) {
        let mut table = self.lock();
        table.credit = (table.credit + 1).min(MAX_SAVED * ANSWERS_PER_REPEAT);
        let estimate = table.estimates.entry((operation, size_class(bytes)));
        estimate.or_default().observe(took);
    }

    /// Returns the time after which a request is overdue, estimated from the responses so far.
    pub(super) fn overdue_after(&self, operation: Operation, bytes: u64) -> Duration {
        let table = self.lock();
        let known = |class: u32| table.estimates.get(&(operation, class))?.overdue_after();
        let class = size_class(bytes);
        let fewer = || {
            let known = (0..class)
                .rev()
                .find_map(|fewer| Some((fewer, known(fewer)?)));
            // A class has up to four times the bytes of the one before it.
            known.map(|(fewer, overdue)| overdue.saturating_mul(1 << (2 * (class - fewer)).min(30)))
        };
        known(class)
            .or_else(|| (class + 1..=LARGEST_CLASS).find_map(known))
            .or_else(fewer)
            .unwrap_or_else(|| UNKNOWN + Duration::from_secs(bytes / UNKNOWN_SPEED))
    }

    /// Returns the time after which a request is overdue beyond doubt.
    pub(super) fn surely_overdue_after(
        &self,
        operation: Operation,
        bytes: u64,
    ) -> Option<Duration> {
        let table = self.lock();
        let estimate = table.estimates.get(&(operation, size_class(bytes)))?;
        estimate.surely_overdue_after()
    }

    /// Spends the right to send one request twice. Returns false if there is none.
    pub(super) fn spend(&self) -> bool {
        let mut table = self.lock();
        let left = table.credit.checked_sub(ANSWERS_PER_REPEAT);
        table.credit = left.unwrap_or(table.credit);
        left.is_some()
    }

    /// Gives back an unused right to send one request twice.
    fn give_back(&self) {
        let mut table = self.lock();
        table.credit = (table.credit + ANSWERS_PER_REPEAT).min(MAX_SAVED * ANSWERS_PER_REPEAT);
    }
}

/// The right to send one request twice. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct RepeatRight<'l>(Option<&'l Latencies>);

impl<'l> RepeatRight<'l> {
    /// Takes the right, if there is one.
    pub(super) fn of(latencies: &'l Latencies) -> Option<Self> {
        // Without credit, no right may be created, because dropping it would give back credit that
        // was never spent.
        latencies.spend().then(|| Self(Some(latencies)))
    }

    /// Uses up the right, because the request is sent.
    pub(crate) fn used(mut self) {
        self.0 = None;
    }
}

impl Drop for RepeatRight<'_> {
    fn drop(&mut self) {
        if let Some(latencies) = self.0 {
            latencies.give_back();
        }
    }
}

/// The size class of the largest part and copy, 5 GiB and more.
const LARGEST_CLASS: u32 = 7;

/// Returns the size class of a request that moves `bytes`: up to 1 MiB, 4 MiB, 16 MiB, and so on.
fn size_class(bytes: u64) -> u32 {
    let mebibytes = bytes.div_ceil(MIB).max(1);
    let class = mebibytes.next_power_of_two().ilog2().div_ceil(2);
    class.min(LARGEST_CLASS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPY: Operation = Operation::CopyObject;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn estimate(took: impl IntoIterator<Item = u64>) -> LatencyEstimate {
        let mut estimate = LatencyEstimate::default();
        for millis in took {
            estimate.observe(ms(millis));
        }
        estimate
    }

    #[test]
    fn a_request_is_overdue_when_it_takes_far_longer_than_the_others() {
        let due = estimate((0..20).map(|at| 900 + at % 3 * 50)).overdue_after();
        assert!((ms(1900)..=ms(2100)).contains(&due.unwrap()), "{due:?}");
        // If times differ much, a long one proves little.
        let due = estimate((0..40).map(|at| 200 + at % 5 * 900)).overdue_after();
        assert!(due.unwrap() > ms(5000), "{due:?}");
        let due = estimate((0..40).map(|_| 60_000)).overdue_after();
        assert!(due.unwrap() >= ms(119_000), "{due:?}");
    }

    #[test]
    fn nothing_is_overdue_before_enough_is_known() {
        assert_eq!(estimate([900; 7]).overdue_after(), None);
        assert!(estimate([900; 8]).overdue_after().is_some());
    }

    #[test]
    fn requests_are_compared_with_those_of_their_kind_and_size() {
        let latencies = Latencies::default();
        for _ in 0..20 {
            latencies.observe(COPY, 1000, ms(20));
            latencies.observe(COPY, 5 << 30, ms(60_000));
        }
        assert!(latencies.overdue_after(COPY, 0) < ms(1100));
        assert!(latencies.overdue_after(COPY, MIB) < ms(1100));
        assert!(latencies.overdue_after(COPY, 5 << 30) > ms(100_000));
    }

    #[test]
    fn before_answers_of_their_size_they_are_compared_with_others() {
        let latencies = Latencies::default();
        let overdue = |bytes| latencies.overdue_after(COPY, bytes);
        assert_eq!(overdue(0), UNKNOWN);
        assert_eq!(overdue(160 * MIB), UNKNOWN + ms(10_000));
        for _ in 0..20 {
            latencies.observe(COPY, 100 * MIB, ms(2000));
        }
        let known = overdue(100 * MIB);
        assert!((ms(4000)..ms(5000)).contains(&known), "{known:?}");
        assert_eq!(overdue(0), known, "no longer than a larger one");
        assert_eq!(overdue(300 * MIB), known * 4);
        assert_eq!(overdue(1500 * MIB), known * 16);
        assert_eq!(overdue(50 << 40), overdue(5 << 30));
        for bytes in [0, 300 * MIB] {
            for _ in 0..ENOUGH {
                latencies.observe(COPY, bytes, ms(20));
            }
            assert!(overdue(bytes) < ms(1200), "{:?}", overdue(bytes));
        }
        assert_eq!(latencies.overdue_after(Operation::HeadObject, 0), UNKNOWN);
    }

    #[test]
    fn answers_pay_for_requests_that_are_sent_twice() {
        let latencies = Latencies::default();
        let spent = |latencies: &Latencies| (0..1000).take_while(|_| latencies.spend()).count();
        assert_eq!(spent(&latencies), 2);
        for _ in 0..ANSWERS_PER_REPEAT * 3 {
            latencies.observe(COPY, 0, ms(20));
        }
        assert_eq!(spent(&latencies), 3);
        for _ in 0..ANSWERS_PER_REPEAT * 1000 {
            latencies.observe(COPY, 0, ms(20));
        }
        assert_eq!(spent(&latencies), MAX_SAVED as usize);
    }

    #[test]
    fn a_right_that_is_not_used_is_given_back() {
        let latencies = Latencies::default();
        for _ in 0..10 {
            assert!(RepeatRight::of(&latencies).is_some());
        }
        for _ in 0..FIRST_SAVED {
            RepeatRight::of(&latencies).unwrap().used();
        }
        assert!(RepeatRight::of(&latencies).is_none());
    }
}
