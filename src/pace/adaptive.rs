//! How fast and how wide to go, learned from the answers. Pure: `now` is an argument, nothing is measured here.
//!
//! [`RateController`] finds the request rate that a bucket accepts. Nothing limits it until the first `SlowDown`;
//! then the rate falls to a little under what the server accepted in the last moments (which *is* its limit, so one
//! cut is enough even after a limit has dropped to a quarter), returns to that rate within seconds and probes beyond
//! it ever faster, as TCP CUBIC does: near the limit it is careful, far from it quick, so that a limit that doubles
//! is followed.
//!
//! [`WidthController`] finds how many requests should be in flight. A copy request costs this machine nothing while
//! it waits, so the width doubles while that raises the throughput. A doubling that only raises latency is taken back, and
//! the next trial waits longer each time.

use std::time::Duration;

/// Answers of the last so many milliseconds tell what the server accepts.
const WINDOW: Duration = Duration::from_millis(500);
/// All answers of requests that were under way at a cut tell the same news; it counts once.
const CUT_PAUSE: Duration = Duration::from_millis(400);
/// After a cut: this much of the accepted rate.
const CUT: f64 = 0.88;
/// Seconds from a cut back to the rate at which it came.
const RETURN: f64 = 2.5;
/// Requests per second below which no controller goes: a run must go on.
const FLOOR: f64 = 2.0;

/// The rate of one lane, in requests per second.
#[derive(Clone, Debug)]
pub struct RateController {
    limit: Option<Limit>,
    window: Window,
}

/// What was learned at the last cut.
#[derive(Clone, Copy, Debug)]
struct Limit {
    /// When, since the start.
    cut_at: Duration,
    /// The rate that the server accepted then.
    accepted: f64,
    /// Highest rate that the last seconds used; probing beyond twice that is guessing.
    used: f64,
}

/// Accepted answers in the current and the last window.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// The first answer of the lane began the first window.
    began: Option<Duration>,
    accepted: u32,
    last_rate: Option<f64>,
}

impl Window {
    fn roll(&mut self, now: Duration) {
        let age = now.saturating_sub(*self.began.get_or_insert(now));
        if age >= WINDOW {
            self.last_rate = Some(f64::from(self.accepted) / age.as_secs_f64());
            (self.began, self.accepted) = (Some(now), 0);
        }
    }

    /// Too young to say what the server accepts.
    fn is_blank(&self, now: Duration) -> bool {
        let age = self.began.map_or(Duration::ZERO, |began| now.saturating_sub(began));
        self.last_rate.is_none() && age < WINDOW / 4
    }

    /// Accepted answers per second, over the last window and the current one together.
    fn rate(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.began.unwrap_or(now)).max(WINDOW / 10);
        match self.last_rate {
            // The last window fills up what the current one lacks.
            Some(last) if age < WINDOW => {
                let share = age.as_secs_f64() / WINDOW.as_secs_f64();
                last * (1.0 - share) + f64::from(self.accepted) / WINDOW.as_secs_f64()
            }
            _ => f64::from(self.accepted) / age.as_secs_f64(),
        }
    }
}

impl Default for RateController {
    fn default() -> Self {
        Self::new()
    }
}

impl RateController {
    /// A lane that nothing is known about: no limit.
    #[must_use]
    pub const fn new() -> Self {
        Self { limit: None, window: Window { began: None, accepted: 0, last_rate: None } }
    }

    /// Takes note of an accepted request.
    pub fn accepted(&mut self, now: Duration) {
        self.window.roll(now);
        self.window.accepted += 1;
    }

    /// Takes note of a throttled request.
    pub fn throttled(&mut self, now: Duration) {
        self.window.roll(now);
        let pausing = self.limit.is_some_and(|limit| now.saturating_sub(limit.cut_at) < CUT_PAUSE);
        if pausing || self.window.is_blank(now) {
            return;
        }
        let measured = self.window.rate(now);
        // A lane that was paced below what it asked for can not have been accepted at more than its pace.
        let ceiling = self.rate(now).unwrap_or(f64::INFINITY);
        let accepted = measured.min(ceiling).max(FLOOR);
        self.limit = Some(Limit { cut_at: now, accepted, used: accepted });
    }

    /// Requests per second at this moment; `None` while nothing limits the lane.
    #[must_use]
    pub fn rate(&self, now: Duration) -> Option<f64> {
        let limit = self.limit?;
        let since = now.saturating_sub(limit.cut_at).as_secs_f64();
        let depth = limit.accepted * (1.0 - CUT);
        let cubic = limit.accepted + depth * ((since - RETURN) / RETURN).powi(3);
        // A lane that does not use its rate learns nothing from having one.
        Some(cubic.min(limit.used.max(self.window.rate(now)) * 2.0).max(FLOOR))
    }
}

/// What the width controller is told after each interval, which lasts as long as a request takes or longer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interval {
    /// Length of the interval in seconds.
    pub seconds: f64,
    /// Work that was finished, in any unit that adds up (requests plus bytes in units of a request's worth).
    pub work: f64,
    /// True when requests waited for a place, so that the width was the limit.
    pub saturated: bool,
    /// True when the server throttled.
    pub throttled: bool,
}

/// A doubled width must raise the throughput by this much to stay: far from the 2.0 of a server with room, and far from noise.
const WORTHWHILE: f64 = 1.3;
/// Intervals between trials, after the first one that did not pay; doubled with each further one.
const REST: u32 = 4;
/// The longest rest.
const LONGEST_REST: u32 = 64;
/// Throttling never narrows the run below this: the lane's rate does the slowing.
const NARROWEST: u32 = 16;

/// How many requests may be in flight.
#[derive(Clone, Debug)]
pub struct WidthController {
    width: u32,
    ceiling: u32,
    /// Throughput at the width that was last found to pay.
    base: f64,
    /// The width to return to when the trial under way does not pay.
    before_trial: Option<u32>,
    rest: u32,
    next_rest: u32,
}

impl WidthController {
    /// Starts at `start`, never goes beyond `ceiling`.
    #[must_use]
    pub fn new(start: u32, ceiling: u32) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            width: start.clamp(1, ceiling),
            ceiling,
            base: 0.0,
            before_trial: None,
            rest: 0,
            next_rest: REST,
        }
    }

    /// The width at this moment.
    #[must_use]
    pub const fn width(&self) -> u32 {
        self.width
    }

    /// The most that the width can become.
    #[must_use]
    pub const fn ceiling(&self) -> u32 {
        self.ceiling
    }

    /// Learns from an interval and returns the new width.
    pub fn observe(&mut self, interval: Interval) -> u32 {
        if interval.work <= 0.0 || interval.seconds <= 0.0 {
            return self.width;
        }
        let throughput = interval.work / interval.seconds;
        if interval.throttled {
            (self.before_trial, self.rest) = (None, REST);
            self.width = (self.width * 7 / 8).max(NARROWEST.min(self.ceiling));
            self.base = throughput;
        } else if interval.saturated {
            self.judge(throughput);
        }
        self.width
    }

    /// A full interval without throttling: was the trial worth it, is it time for another one?
    fn judge(&mut self, throughput: f64) {
        match self.before_trial.take() {
            Some(before) if throughput < self.base * WORTHWHILE => {
                self.width = before;
                self.rest = self.next_rest;
                self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
            }
            trial => {
                let paid = trial.is_some();
                self.base =
                    if paid { throughput } else { throughput.midpoint(self.base.max(throughput / 2.0)) };
                if paid {
                    self.next_rest = REST;
                }
                if self.rest > 0 {
                    self.rest -= 1;
                } else if self.width < self.ceiling {
                    self.before_trial = Some(self.width);
                    self.width = self.width.saturating_mul(2).min(self.ceiling);
                }
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers of a model")]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    /// A server that accepts `limit(second)` requests a second, with a bucket of a tenth of a second.
    struct Server<F: Fn(f64) -> f64> {
        limit: F,
        tokens: f64,
    }

    struct Outcome {
        accepted: Vec<f64>,
        refused: Vec<f64>,
    }

    /// Drives the controller with unlimited demand (at most `demand` a second) for some seconds; counts per second.
    fn drive<F: Fn(f64) -> f64>(server: &mut Server<F>, demand: f64, seconds: u32) -> Outcome {
        let mut controller = RateController::new();
        let (mut accepted, mut refused) = (vec![0.0; seconds as usize], vec![0.0; seconds as usize]);
        let mut credit = 0.0;
        for step in 0..seconds * 1000 {
            let now = TICK * step;
            let second = now.as_secs_f64();
            let limit = (server.limit)(second);
            server.tokens = (server.tokens + limit / 1000.0).min(limit / 10.0);
            credit = (credit + controller.rate(now).unwrap_or(f64::INFINITY).min(demand) / 1000.0)
                .min(demand / 50.0);
            while credit >= 1.0 {
                credit -= 1.0;
                if server.tokens >= 1.0 {
                    server.tokens -= 1.0;
                    controller.accepted(now);
                    accepted[second as usize] += 1.0;
                } else {
                    controller.throttled(now);
                    refused[second as usize] += 1.0;
                }
            }
        }
        Outcome { accepted, refused }
    }

    #[test]
    fn a_fixed_limit_is_found_and_held_without_throttling() {
        let mut server = Server { limit: |_| 3500.0, tokens: 0.0 };
        let outcome = drive(&mut server, 20_000.0, 60);
        let steady: f64 = outcome.accepted[10..].iter().sum();
        let refused: f64 = outcome.refused[10..].iter().sum();
        assert!(steady >= 0.95 * 3500.0 * 50.0, "{steady}");
        assert!(refused < 0.01 * steady, "{refused} refused");
    }

    #[test]
    fn a_limit_that_doubles_is_followed() {
        let mut server = Server { limit: |second| 437.5 * 2f64.powf((second / 10.0).floor()), tokens: 0.0 };
        let outcome = drive(&mut server, 20_000.0, 40);
        for decade in 1..4 {
            let limit = 437.5 * 2f64.powi(decade);
            let last = outcome.accepted[decade as usize * 10 + 9];
            assert!(last >= 0.9 * limit, "{last} of {limit}");
        }
        let (accepted, refused): (f64, f64) = (outcome.accepted.iter().sum(), outcome.refused.iter().sum());
        assert!(refused < 0.05 * accepted, "{refused} of {accepted}");
    }

    #[test]
    fn a_limit_that_drops_to_a_quarter_is_met_within_five_seconds() {
        let mut server = Server { limit: |second| if second < 20.0 { 3500.0 } else { 875.0 }, tokens: 0.0 };
        let outcome = drive(&mut server, 20_000.0, 40);
        for second in 25..40 {
            assert!(
                outcome.accepted[second] >= 0.85 * 875.0,
                "second {second}: {}",
                outcome.accepted[second]
            );
            assert!(outcome.refused[second] <= 0.08 * 875.0, "second {second}: {}", outcome.refused[second]);
        }
    }

    #[test]
    fn nothing_limits_a_lane_that_was_never_throttled() {
        let mut controller = RateController::new();
        for step in 0..10_000 {
            controller.accepted(TICK * step);
        }
        assert_eq!(controller.rate(Duration::from_secs(10)), None);
    }

    /// Throughput of `width` requests in flight where each takes a second, up to what the server can do.
    fn settle(capacity: f64, start: u32, ceiling: u32) -> u32 {
        let mut controller = WidthController::new(start, ceiling);
        for _ in 0..30 {
            let work = f64::from(controller.width()).min(capacity);
            controller.observe(Interval { seconds: 1.0, work, saturated: true, throttled: false });
        }
        controller.width()
    }

    #[test]
    fn the_width_grows_while_throughput_grows_and_stays_under_its_ceiling() {
        assert_eq!(settle(1e9, 256, 2048), 2048);
        assert_eq!(settle(1e9, 256, 300), 300);
        for capacity in [100.0, 256.0, 300.0, 500.0] {
            assert!(settle(capacity, 256, 1 << 20) <= 512, "what does not pay is taken back");
        }
        assert!((2048..=4096).contains(&settle(2048.0, 256, 1 << 20)));
    }

    #[test]
    fn an_idle_interval_teaches_nothing() {
        let mut controller = WidthController::new(256, 2048);
        for _ in 0..50 {
            controller.observe(Interval { seconds: 1.0, work: 10.0, saturated: false, throttled: false });
        }
        assert_eq!(controller.width(), 256);
        controller.observe(Interval { seconds: 1.0, work: 10.0, saturated: true, throttled: true });
        assert_eq!(controller.width(), 224);
    }
}
