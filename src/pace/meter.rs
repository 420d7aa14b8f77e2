//! Gives out cells at a rate that may change at any time. The module is pure: `now` is an argument.
//!
//! A request for cells draws a ticket, which is the number of its last cell. A clock counts the
//! cells that the rate has earned, and a ticket becomes valid when the clock reaches it. So
//! requests pass in the order of their arrival. A new rate makes the clock faster or slower, and so
//! affects all waiting requests. A request that wakes up late delays no other, because turns are
//! not handed from one request to the next. The clock runs ahead of the tickets by at most a burst,
//! so a pause earns no more than that.

use std::time::Duration;

/// The time whose cells may be saved for later.
const BURST: Duration = Duration::from_millis(20);

/// A missing fraction of a cell that is too small to wait for.
const NOTHING: f64 = 1e-3;

/// A clock of cells.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    rate: f64,
    /// The last ticket, as the sum of all cells drawn.
    drawn: f64,
    /// The cells that were earned.
    clock: f64,
    /// The time up to which the earned cells were counted.
    at: Duration,
}

/// The number of the last cell of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ticket(f64);

impl Meter {
    /// Creates a clock that starts at `now`. `rate` is in cells per second, and above zero.
    #[must_use]
    pub(super) fn new(rate: f64, now: Duration) -> Self {
        Self {
            rate,
            drawn: 0.0,
            clock: burst(rate),
            at: now,
        }
    }

    /// Sets the rate from `now` on.
    pub(super) fn set(&mut self, rate: f64, now: Duration) {
        self.advance(now);
        self.rate = rate;
    }

    /// Draws a ticket for this many cells.
    pub(super) fn draw(&mut self, cells: f64, now: Duration) -> Ticket {
        self.advance(now);
        self.drawn += cells;
        Ticket(self.drawn)
    }

    /// Returns the time that the ticket has to wait at the current rate, or `None` once it is
    /// valid.
    pub(super) fn wait(&mut self, ticket: Ticket, now: Duration) -> Option<Duration> {
        self.advance(now);
        // The sums have rounding errors.
        let missing = ticket.0 - self.clock;
        if missing <= NOTHING {
            return None;
        }
        Some(Duration::try_from_secs_f64(missing / self.rate).unwrap_or(Duration::MAX))
    }

    /// Returns the time that a ticket for one cell would have to wait if it were drawn now.
    pub(super) fn queue_delay(&mut self, now: Duration) -> Duration {
        self.wait(Ticket(self.drawn + 1.0), now).unwrap_or_default()
    }

    /// Draws one cell, unless it would have to wait.
    pub(super) fn draw_now(&mut self, now: Duration) -> bool {
        self.advance(now);
        let is_earned = self.clock >= self.drawn + 1.0 - NOTHING;
        self.drawn += f64::from(u8::from(is_earned));
        is_earned
    }

    /// Gives back a ticket for this many cells. Later tickets move up.
    pub(super) fn give_back(&mut self, cells: f64) {
        self.clock += cells;
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.clock = (self.clock + self.rate * passed).min(self.drawn + burst(self.rate));
    }
}

/// Returns the number of cells that may be saved. It is at least one; otherwise no request could
/// ever pass at once.
fn burst(rate: f64) -> f64 {
    (rate * BURST.as_secs_f64()).max(1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Checks that no stretch of time sees more cells than its rate and one burst, whatever is
        /// requested, and that a queue that is never empty loses none.
        #[test]
        fn a_limit_is_kept_over_every_stretch_and_used(
            rate in 1.0..20_000.0f64,
            asks in prop::collection::vec((0u64..200, 1u32..50), 1..200),
        ) {
            let mut meter = Meter::new(rate, Duration::ZERO);
            let (mut now, mut passed) = (Duration::ZERO, Vec::new());
            let mut all = 0.0;
            for (pause, cells) in asks {
                let cells = f64::from(cells);
                all += cells;
                let ticket = meter.draw(cells, now);
                // The request wakes up late, at the next tick of a millisecond.
                let due = now + meter.wait(ticket, now).unwrap_or_default();
                let woken = Duration::from_millis(u64::try_from(due.as_nanos().div_ceil(1_000_000)).unwrap());
                prop_assert_eq!(meter.wait(ticket, due), None);
                passed.push((due.max(now), cells));
                now = if pause < 100 { woken } else { woken + Duration::from_millis(pause) };
            }
            for first in 0..passed.len() {
                let mut cells = 0.0;
                for (time, more) in &passed[first..] {
                    cells += more;
                    let seconds = time.saturating_sub(passed[first].0).as_secs_f64();
                    // The first request of the stretch may have earned its cells before.
                    prop_assert!(cells - passed[first].1 <= rate * seconds + burst(rate) + 2.0 * NOTHING);
                }
            }
            let busy = all / rate;
            prop_assert!(passed.last().unwrap().0.as_secs_f64() + BURST.as_secs_f64() + 1.0 / rate >= busy - 2.0 * NOTHING / rate - 1e-3);
        }
    }

    #[test]
    fn a_new_rate_turns_the_clock_for_those_who_wait() {
        let second = Duration::from_secs(1);
        let mut meter = Meter::new(1.0, Duration::ZERO);
        meter.draw(1.0, Duration::ZERO);
        let ticket = meter.draw(100.0, Duration::ZERO);
        assert_eq!(meter.wait(ticket, second), Some(second * 99));
        meter.set(99.0, second);
        assert_eq!(meter.wait(ticket, second), Some(second));
        assert_eq!(meter.wait(ticket, second * 2), None);
    }
}
