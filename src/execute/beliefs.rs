//! Decides how long a refusal is believed that may pass.
//!
//! A missing permission costs each object of a bucket a request and an answer, so a run remembers
//! it and does without. But permissions change while a run of days is at work, and an outage looks
//! like a missing permission. So single objects ask all the same, at growing intervals, and the
//! first good answer ends the belief.

use std::time::Duration;

use tokio::time::Instant;

/// Where an attribute could be read before, it takes so many refusals in a row to believe that they
/// are about all objects: a policy may deny one prefix or one object.
pub(super) const IN_A_ROW: u32 = 16;

/// Tells when to ask again.
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
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
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
        assert!(!next.is_due(now + second));
        assert!(next.is_due(now + second * 2));
        assert!(!next.is_due(now + second * 2), "another one asks");
        assert!(!next.is_due(now + second * 5));
        assert!(next.is_due(now + second * 6));
        assert!(next.is_due(now + second * 14), "8 s are the longest");
        next.hurry(now + second * 15);
        assert!(next.is_due(now + second * 15));
    }
}
