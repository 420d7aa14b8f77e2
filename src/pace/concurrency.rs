//! Learns the concurrency: how many requests should be in flight. The module is pure: `now` is an
//! argument.
//!
//! A copy costs this machine nothing while S3 works on it. So the controller tries to double the
//! concurrency, and keeps the new value if the throughput rises. If only the latency rises, the
//! controller restores the old value and later tries half of it. It keeps the half if the
//! throughput does not fall, because then the server was crowded and answered all requests late.
//! After each failed trial, the controller rests longer before the next one. While requests wait
//! for a rate (the server's or the user's), the concurrency does not limit them, and the controller
//! learns nothing. But if a wave of requests waits for a rate only while it is sent, and then waits
//! much longer for its responses, the concurrency is the limit. If responses take a large part of
//! their time limit, too many requests are in flight, and the controller halves the concurrency
//! without a trial.

use std::time::Duration;

/// The shortest interval, and the length at which an interval ends even if few requests were
/// answered.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(500);
const LONGEST_INTERVAL: Duration = Duration::from_secs(10);
/// One request counts as much work as this many bytes.
const BYTES_PER_UNIT: f64 = 4_194_304.0;
/// If more than one in this many requests waited for a rate, the rate was the limit and not the
/// concurrency.
const PACED: u32 = 4;
/// Even then, the concurrency was the limit if no such request was answered for half of the
/// interval (1/`FREE`).
const FREE: u32 = 2;

/// The concurrency, and what the current interval has measured.
#[derive(Debug)]
pub(super) struct MeasuredConcurrency {
    controller: ConcurrencyController,
    interval_began: Duration,
    /// True if requests waited for a slot.
    saturated: bool,
    work: f64,
    /// The number of good responses.
    answers: u32,
    /// The total time of the good responses.
    latency: Duration,
    /// The number of requests that waited for a rate.
    paced: u32,
    /// The time of the last response to a request that waited for a rate.
    last_paced: Duration,
    /// The longest time without such a response.
    longest_free: Duration,
    /// The sum of the strain of all requests, and their number.
    strain: (f64, u32),
}

/// The result of a request, as far as it concerns the concurrency.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) now: Duration,
    /// The time that the request took.
    pub(super) took: Duration,
    /// The bytes that the request moves.
    pub(super) bytes: u64,
    /// True if the request succeeded.
    pub(super) is_good: bool,
    /// True if the request waited for a rate, or was throttled.
    pub(super) paced: bool,
    /// The time that the request took, as a fraction of its time limit. `None` for a failure whose
    /// duration says nothing about the load.
    pub(super) strain: Option<f64>,
}

impl MeasuredConcurrency {
    pub(super) fn new(start: u32, ceiling: u32) -> Self {
        Self {
            controller: ConcurrencyController::new(start, ceiling),
            interval_began: Duration::ZERO,
            saturated: false,
            work: 0.0,
            answers: 0,
            latency: Duration::ZERO,
            paced: 0,
            last_paced: Duration::ZERO,
            longest_free: Duration::ZERO,
            strain: (0.0, 0),
        }
    }

    /// Returns the current concurrency.
    pub(super) const fn get(&self) -> u32 {
        self.controller.concurrency()
    }

    /// Returns the largest concurrency.
    pub(super) const fn ceiling(&self) -> u32 {
        self.controller.ceiling()
    }

    /// Reduces the concurrency to what the server is known to serve.
    pub(super) fn reduce(&mut self, concurrency: u32) {
        self.controller.reduce(concurrency);
    }

    /// Records that a request waits for a slot.
    pub(super) const fn mark_saturated(&mut self) {
        self.saturated = true;
    }

    /// Learns from the result of a request. Returns true if the concurrency may have changed.
    ///
    /// An interval ends once it is longer than a typical request took, and enough requests were
    /// answered.
    pub(super) fn answered(&mut self, answer: &Answered) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "work is a measure, not a count")]
        if answer.is_good {
            self.work += 1.0 + answer.bytes as f64 / BYTES_PER_UNIT;
            self.answers += 1;
            self.latency += answer.took;
        }
        if let Some(strain) = answer.strain {
            self.strain = (self.strain.0 + strain, self.strain.1 + 1);
        }
        if answer.paced {
            self.paced += 1;
            self.longest_free = self.free_until(answer.now);
            self.last_paced = answer.now;
        }
        let length = answer.now.saturating_sub(self.interval_began);
        let typical = self.latency / self.answers.max(1);
        let enough = self.answers >= self.get() / 4 || length >= LONGEST_INTERVAL;
        if length < SHORTEST_INTERVAL.max(typical) || !enough {
            return false;
        }
        let interval = Interval {
            seconds: length.as_secs_f64(),
            work: self.work,
            saturated: self.saturated,
            paced: self.paced > self.answers / PACED && self.free_until(answer.now) < length / FREE,
            strain: self.strain.0 / f64::from(self.strain.1.max(1)),
        };
        let mut controller = self.controller.clone();
        controller.observe(interval);
        *self = Self {
            controller,
            interval_began: answer.now,
            last_paced: answer.now,
            ..Self::new(1, 1)
        };
        true
    }

    /// Returns the longest time without a response to a request that waited for a rate.
    fn free_until(&self, now: Duration) -> Duration {
        self.longest_free.max(now.saturating_sub(self.last_paced))
    }
}

/// The measurements of one interval, which lasts at least as long as a typical request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interval {
    /// The length of the interval in seconds.
    pub seconds: f64,
    /// The finished work: requests, plus bytes in units of 4 MiB.
    pub work: f64,
    /// True if requests waited for a slot, so that the concurrency was the limit.
    pub saturated: bool,
    /// True if many of the requests waited for a rate or were throttled.
    pub paced: bool,
    /// The mean time of a request, as a fraction of its time limit.
    pub strain: f64,
}

/// The factor by which a doubled concurrency must raise the throughput to stay. A server with spare
/// capacity reaches 2.0, and noise stays well below 1.3.
const WORTHWHILE: f64 = 1.3;
/// The fraction of the throughput that half the concurrency must keep to stay. On a server with
/// spare capacity, the throughput falls to 0.5.
const HARMLESS: f64 = 0.9;
/// Responses that take more than this fraction of their time limit come from a crowded server.
const CROWDED: f64 = 0.25;
/// The number of intervals between a failed trial and the next one. Each further failure doubles
/// it.
const REST: u32 = 4;
/// The maximum number of intervals between two trials.
const LONGEST_REST: u32 = 64;
/// The smallest concurrency that trials reach.
pub const MIN_CONCURRENCY: u32 = 16;

/// Decides how many requests may be in flight.
#[derive(Clone, Debug)]
pub struct ConcurrencyController {
    concurrency: u32,
    ceiling: u32,
    /// The smallest concurrency that trials reach.
    floor: u32,
    /// The throughput at the last concurrency that was kept.
    base: f64,
    /// The concurrency to return to if the current trial fails.
    trial: Option<u32>,
    /// True if the current or next trial doubles the concurrency, and false if it halves it.
    doubles: bool,
    /// The intervals until the next trial.
    rest: u32,
    /// The rest after the next failed trial.
    next_rest: u32,
}

impl ConcurrencyController {
    /// Creates a controller whose concurrency starts at `start` and never exceeds `ceiling`.
    #[must_use]
    pub fn new(start: u32, ceiling: u32) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            concurrency: start.clamp(1, ceiling),
            ceiling,
            floor: MIN_CONCURRENCY.min(ceiling),
            base: 0.0,
            trial: None,
            doubles: true,
            rest: 0,
            next_rest: REST,
        }
    }

    /// Returns the current concurrency.
    #[must_use]
    pub const fn concurrency(&self) -> u32 {
        self.concurrency
    }

    /// Returns the largest concurrency.
    #[must_use]
    pub const fn ceiling(&self) -> u32 {
        self.ceiling
    }

    /// Reduces the concurrency to what the server is known to serve, and does not try a larger one
    /// for a long time.
    pub fn reduce(&mut self, concurrency: u32) {
        self.concurrency = concurrency.clamp(1, self.concurrency);
        self.floor = self.floor.min(self.concurrency);
        (self.trial, self.doubles, self.base) = (None, true, 0.0);
        (self.rest, self.next_rest) = (LONGEST_REST, LONGEST_REST);
    }

    /// Learns from an interval and returns the new concurrency.
    pub fn observe(&mut self, interval: Interval) -> u32 {
        let throughput = interval.work / interval.seconds;
        if interval.strain > CROWDED {
            self.concurrency = (self.concurrency / 2).max(self.floor);
            (self.trial, self.doubles, self.rest, self.base) = (None, false, REST, 0.0);
        } else if interval.work <= 0.0 || !throughput.is_finite() {
            return self.concurrency;
        } else if interval.paced {
            self.trial = None;
        } else if interval.saturated {
            self.judge(throughput);
        }
        self.concurrency
    }

    /// Judges an interval in which the concurrency was the limit: ends the current trial, if there
    /// is one, and begins the next one when it is due.
    fn judge(&mut self, throughput: f64) {
        match self.trial.take() {
            Some(before) if throughput < self.base * self.required_gain() => {
                self.concurrency = before;
                self.doubles = !self.doubles;
                self.rest = self.next_rest;
                self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
            }
            Some(_) => {
                // Halvings are compared with the best throughput so far. Otherwise each one could
                // lose another tenth.
                self.base = if self.doubles {
                    throughput
                } else {
                    throughput.max(self.base)
                };
                self.next_rest = REST;
                self.continue_or_try();
            }
            None => {
                self.base = throughput.midpoint(self.base.max(throughput / 2.0));
                self.continue_or_try();
            }
        }
    }

    /// Returns the factor that the throughput of the current trial must reach.
    const fn required_gain(&self) -> f64 {
        if self.doubles { WORTHWHILE } else { HARMLESS }
    }

    /// Begins the next trial when it is due.
    fn continue_or_try(&mut self) {
        if self.rest > 0 {
            self.rest -= 1;
            return;
        }
        let next = if self.doubles {
            self.concurrency.saturating_mul(2).min(self.ceiling)
        } else {
            (self.concurrency / 2).max(self.floor)
        };
        if next == self.concurrency || (next > self.concurrency) != self.doubles {
            // The concurrency is at its limit. Tries the other direction after a long rest.
            self.doubles = !self.doubles;
            self.rest = LONGEST_REST;
        } else {
            self.trial = Some(std::mem::replace(&mut self.concurrency, next));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the concurrency after responses at these times, in milliseconds, to requests that
    /// waited for a rate.
    fn width_after(answers: impl Iterator<Item = u64>, took: u64) -> u32 {
        let mut concurrency = MeasuredConcurrency::new(1000, 8192);
        for millis in answers {
            concurrency.mark_saturated();
            concurrency.answered(&Answered {
                now: Duration::from_millis(millis),
                took: Duration::from_millis(took),
                bytes: 0,
                is_good: true,
                paced: true,
                strain: None,
            });
        }
        concurrency.get()
    }

    #[test]
    fn a_wave_that_waits_for_a_rate_and_then_long_for_its_answers_is_limited_by_the_width() {
        // A thousand parts, sent in a quarter of a second, that take four seconds.
        assert_eq!(width_after((0..1000).map(|at| 4000 + at / 4), 4000), 2000);
        // Small copies that wait for the rate all the time.
        assert_eq!(width_after((0..4000).map(|at| at / 2), 50), 1000);
    }

    /// A server that answers each request after `latency` seconds while at most `knee` requests are
    /// in flight. With more, requests wait longer, and beyond `breaking` the throughput falls.
    struct ConcurrencyServer {
        latency: f64,
        knee: f64,
        breaking: f64,
    }

    impl ConcurrencyServer {
        fn interval(&self, concurrency: u32) -> Interval {
            let concurrency = f64::from(concurrency);
            let lost = (concurrency / self.breaking).max(1.0);
            let throughput = concurrency.min(self.knee) / self.latency / lost;
            let seconds = (concurrency / throughput).max(0.5);
            let work = throughput * seconds;
            Interval {
                seconds,
                work,
                saturated: true,
                paced: false,
                strain: concurrency / throughput / 90.0,
            }
        }
    }

    fn settle(
        server: &ConcurrencyServer,
        start: u32,
        ceiling: u32,
        intervals: u32,
    ) -> ConcurrencyController {
        let mut controller = ConcurrencyController::new(start, ceiling);
        for _ in 0..intervals {
            controller.observe(server.interval(controller.concurrency()));
        }
        controller
    }

    #[test]
    fn the_width_grows_while_throughput_grows_and_stays_under_its_ceiling() {
        let wide = ConcurrencyServer {
            latency: 1.0,
            knee: 1e9,
            breaking: 1e9,
        };
        assert_eq!(settle(&wide, 1024, 2048, 2).concurrency(), 2048);
        assert_eq!(settle(&wide, 256, 2048, 4).concurrency(), 2048);
        assert_eq!(settle(&wide, 256, 300, 4).concurrency(), 300);
        assert_eq!(settle(&wide, 256, 10, 4).concurrency(), 10);
    }

    #[test]
    fn a_server_far_away_that_is_crowded_needs_no_trial() {
        // A server on disks that moves 500 MB/s: a thousand parts of 64 MiB take two minutes.
        let disks = ConcurrencyServer {
            latency: 1.0,
            knee: 8.0,
            breaking: 1e9,
        };
        let controller = settle(&disks, 1024, 2048, 6);
        assert!(
            controller.concurrency() <= 256,
            "{}",
            controller.concurrency()
        );
        let dead = Interval {
            seconds: 10.0,
            work: 0.0,
            saturated: true,
            paced: false,
            strain: 1.0,
        };
        let mut controller = ConcurrencyController::new(1024, 2048);
        assert_eq!(controller.observe(dead), 512, "nothing came back at all");
    }

    #[test]
    fn a_server_that_serves_five_connections_gets_five_requests_for_long() {
        let five = ConcurrencyServer {
            latency: 0.05,
            knee: 5.0,
            breaking: 1e9,
        };
        let mut controller = settle(&five, 256, 2048, 1);
        controller.reduce(5);
        let mut most = 0;
        for _ in 0..LONGEST_REST {
            most = most.max(controller.observe(five.interval(controller.concurrency())));
        }
        assert_eq!(most, 5);
        controller.reduce(9);
        assert_eq!(
            controller.concurrency(),
            5,
            "a larger limit does not raise it"
        );
    }

    #[test]
    fn idle_and_paced_intervals_teach_nothing() {
        let mut controller = ConcurrencyController::new(256, 2048);
        let idle = Interval {
            seconds: 1.0,
            work: 10.0,
            ..Interval::default()
        };
        for _ in 0..100 {
            controller.observe(idle);
            controller.observe(Interval {
                saturated: true,
                paced: true,
                ..idle
            });
            controller.observe(Interval::default());
        }
        assert_eq!(controller.concurrency(), 256);
    }

    proptest! {
        /// Checks that the concurrency ends within a factor of the knee from any start, and never
        /// leaves its bounds.
        #[test]
        fn the_knee_is_found(knee in 20.0..3000.0f64, latency in 0.01..2.0f64, start in 16u32..2048) {
            let server = ConcurrencyServer { latency, knee, breaking: knee * 8.0 };
            let mut controller = ConcurrencyController::new(start, 2048);
            for _ in 0..120 {
                let concurrency = controller.observe(server.interval(controller.concurrency()));
                prop_assert!((MIN_CONCURRENCY..=2048).contains(&concurrency));
            }
            // A trial may be under way.
            let concurrency = controller.trial.unwrap_or(controller.concurrency());
            let low = (knee * 0.7).min(2048.0 * 0.5);
            let high = (knee * 4.0).max(32.0);
            let what = format!("{concurrency} for a knee of {knee}");
            prop_assert!(f64::from(concurrency) >= low.min(2000.0), "{what}");
            prop_assert!(f64::from(concurrency) <= high, "{what}");
        }
    }
}
