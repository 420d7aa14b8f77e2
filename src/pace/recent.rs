//! Counts the requests that a lane sent in each slice of the last second, and how many of *those*
//! were throttled. The module is pure. The counters form a ring, so that counting a request costs
//! one addition.

use std::time::Duration;

/// The length of a slice.
const SLICE: Duration = Duration::from_millis(4);
/// The number of slices: a little more than a second.
const KEPT: usize = 256;
/// A younger lane is treated as this many seconds old, so that its first requests do not look like
/// a high rate.
const YOUNG: f64 = 0.25;

/// The slices of the last second, as a ring.
#[derive(Clone, Debug)]
pub(super) struct Recent {
    slices: [Slice; KEPT],
    /// The number of the newest slice, counted from time zero.
    newest: u64,
    /// The number of the first slice with a request.
    first: Option<u64>,
    /// The requests in the ring.
    sent: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    sent: u32,
    throttled: u32,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            slices: [Slice::default(); KEPT],
            newest: 0,
            first: None,
            sent: 0,
        }
    }
}

fn number(time: Duration) -> u64 {
    u64::try_from(time.as_micros() / SLICE.as_micros()).unwrap_or(u64::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the remainder is below KEPT"
)]
fn index(number: u64) -> usize {
    (number % KEPT as u64) as usize
}

impl Recent {
    fn advance(&mut self, to: u64) {
        for number in self.newest + 1..=to.min(self.newest + KEPT as u64) {
            self.sent -= std::mem::take(&mut self.slices[index(number)]).sent;
        }
        self.newest = self.newest.max(to);
    }

    fn holds(&self, number: u64) -> bool {
        number <= self.newest && number + KEPT as u64 > self.newest
    }

    /// Counts a request.
    pub(super) fn sent(&mut self, now: Duration) {
        let number = number(now);
        self.first.get_or_insert(number);
        self.advance(number);
        self.slices[index(self.newest)].sent += 1;
        self.sent += 1;
    }

    /// Counts the refusal of a request that was sent at `sent_at`.
    pub(super) fn throttled(&mut self, sent_at: Duration) {
        let number = number(sent_at);
        if self.holds(number) {
            self.slices[index(number)].throttled += 1;
        }
    }

    /// Returns the requests per second over the last second, or over the lane's life if it is
    /// shorter.
    pub(super) fn used(&self, now: Duration) -> f64 {
        let now = number(now);
        let gone = now.saturating_sub(self.newest);
        let sent = match gone {
            0 => self.sent,
            gone if gone >= KEPT as u64 => 0,
            gone => {
                let left = (self.newest + 1 + gone).saturating_sub(KEPT as u64);
                (left..=self.newest)
                    .map(|number| self.slices[index(number)].sent)
                    .sum()
            }
        };
        let age = self
            .first
            .map_or(0, |first| now.saturating_sub(first) + 1)
            .min(KEPT as u64);
        #[expect(clippy::cast_precision_loss, reason = "at most KEPT")]
        let seconds = age as f64 * SLICE.as_secs_f64();
        f64::from(sent) / seconds.max(YOUNG)
    }

    /// Returns the requests per second over the last `span`, or over the lane's life if it is
    /// shorter.
    pub(super) fn rate(&self, now: Duration, span: Duration) -> f64 {
        let now = number(now);
        let first = now
            .saturating_sub(number(span).max(1) - 1)
            .max(self.first.unwrap_or(now));
        let sent: u32 = (first..=now)
            .filter(|number| self.holds(*number))
            .map(|n| self.slices[index(n)].sent)
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "at most KEPT")]
        let seconds = (now - first + 1) as f64 * SLICE.as_secs_f64();
        f64::from(sent) / seconds
    }

    /// Returns how many requests were sent from `since` to `until`, and how many of them were
    /// throttled. Counts about the last `most` of them.
    pub(super) fn between(&self, since: Duration, until: Duration, most: u32) -> (u32, u32) {
        let (since, until) = (number(since), number(until).min(self.newest));
        let oldest = (self.newest + 1).saturating_sub(KEPT as u64);
        let mut sum = (0, 0);
        for number in (oldest.max(since)..=until).rev() {
            if sum.0 >= most {
                break;
            }
            let slice = self.slices[index(number)];
            sum = (sum.0 + slice.sent, sum.1 + slice.throttled);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_kept_and_no_more() {
        let ms = Duration::from_millis;
        let mut recent = Recent::default();
        for step in 0..3000 {
            recent.sent(ms(step));
            if step >= 2900 {
                recent.throttled(ms(step - 5));
            }
        }
        let end = ms(2999);
        assert!(
            (recent.used(end) - 1000.0).abs() < 20.0,
            "{}",
            recent.used(end)
        );
        assert!(
            (recent.rate(end, ms(200)) - 1000.0).abs() < 100.0,
            "{}",
            recent.rate(end, ms(200))
        );
        assert!(
            (400.0..600.0).contains(&recent.used(ms(3500))),
            "{}",
            recent.used(ms(3500))
        );
        assert!(recent.used(ms(9000)) < 1.0);
        assert_eq!(recent.between(ms(2912), ms(2975), u32::MAX), (64, 64));
        assert_eq!(recent.between(ms(0), ms(2999), 200), (200, 100));
        // Old requests are forgotten, and none is counted in another second.
        recent.throttled(ms(100));
        assert_eq!(recent.between(ms(0), ms(1500), u32::MAX), (0, 0));
    }
}
