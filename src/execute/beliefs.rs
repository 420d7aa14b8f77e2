//! Decides when to test again a refusal that may pass.
//!
//! A missing permission costs each object of a bucket a request and an answer, so a run remembers
//! it and does without. But permissions change while a run of days is at work, and an outage looks
//! like a missing permission. So single objects ask all the same, at growing intervals, and the
//! first good answer ends the belief.

use std::time::Duration;

use tokio::time::Instant;

/// The refusals in a row after which an attribute that could be read before counts as unreadable in
/// the whole bucket. Fewer may come from a policy that denies one prefix or one object.
pub(super) const IN_A_ROW: u32 = 16;

/// The time at which to ask again.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextQuestion {
    at: Instant,
    interval: Duration,
    longest: Duration,
}

impl NextQuestion {
    /// Asks again after the first of these intervals, and in the end at the longest.
    pub(super) fn after(now: Instant, (first, longest): (Duration, Duration)) -> Self {
        Self {
            at: now + first,
            interval: first,
            longest,
        }
    }

    /// Returns true for the one who asks, and puts the next question off.
    pub(super) fn take_turn(&mut self, now: Instant) -> bool {
        if now < self.at {
            return false;
        }
        self.interval = (self.interval * 2).min(self.longest);
        self.at = now + self.interval;
        true
    }

    /// Returns true if somebody is to ask.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        now >= self.at
    }

    /// Makes the next one ask.
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
