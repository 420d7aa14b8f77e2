//! Decides when to test a remembered refusal again.
//!
//! A missing permission would cost a refused request for each object of a bucket, so a run
//! remembers the refusal and does not ask again. But permissions change during a run that takes
//! days, and an outage can look like a missing permission. So at growing intervals one object sends
//! the request anyway, and the first success clears the remembered refusal.

use std::time::Duration;

use tokio::time::Instant;

/// The number of refusals in a row after which an attribute that could be read before counts as
/// unreadable in the whole bucket. Fewer refusals may come from a policy that denies one prefix or
/// one object.
pub(super) const IN_A_ROW: u32 = 16;

/// The time of the next question: a request that tests a remembered refusal.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextQuestion {
    at: Instant,
    interval: Duration,
    longest: Duration,
}

impl NextQuestion {
    /// Schedules a question after the first of these intervals. The interval then doubles with each
    /// question, up to the longest.
    pub(super) fn after(now: Instant, (first, longest): (Duration, Duration)) -> Self {
        Self {
            at: now + first,
            interval: first,
            longest,
        }
    }

    /// Returns true if a question is due, and schedules the next one, so that only one caller sends
    /// the request.
    pub(super) fn take_turn(&mut self, now: Instant) -> bool {
        if now < self.at {
            return false;
        }
        self.interval = (self.interval * 2).min(self.longest);
        self.at = now + self.interval;
        true
    }

    /// Returns true if a question is due.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        now >= self.at
    }

    /// Makes the next question due now.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.at = self.at.min(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asks_at_a_time_and_the_intervals_grow() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let mut next = NextQuestion::after(now, (second * 2, second * 8));
        assert!(!next.take_turn(now + second));
        assert!(next.take_turn(now + second * 2));
        assert!(!next.take_turn(now + second * 2), "another one asks");
        assert!(!next.take_turn(now + second * 5));
        assert!(next.take_turn(now + second * 6));
        assert!(next.take_turn(now + second * 14), "8 s are the longest");
        next.hurry(now + second * 15);
        assert!(next.take_turn(now + second * 15));
    }
}
