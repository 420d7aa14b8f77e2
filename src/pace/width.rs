//! How many requests should be in flight, learned from what they come to. Pure: `now` is an
//! argument.
//!
//! A copy request costs this machine nothing while it waits, so the width is tried at twice what it
//! is, and stays there while that raises the throughput. When it only raises latency it is taken
//! back, and the other direction is tried: half of it stays if nothing is lost by it, because a
//! server that is crowded answers everyone late. Each trial that does not pay makes the rest before
//! the next one longer. While requests wait for a rate (the server's or the user's) the width is
//! not what limits them, and nothing is concluded. A wave that waits for a rate when it is sent, and
//! then long for its answers, is limited by the width. Answers that come near the time at which a
//! request counts as lost are the one sign that needs no trial: then there are too many.

use std::time::Duration;

/// The width is looked at not before this, and not long after that.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(500);
const LONGEST_INTERVAL: Duration = Duration::from_secs(10);
/// One request counts as much work as this many bytes.
const BYTES_PER_UNIT: f64 = 4_194_304.0;
/// The share of requests that waited for a rate, one in so many, from which on that was the limit
/// and not the width.
const PACED: u32 = 4;
/// It was the limit no more if none of them was answered for a half of the interval.
const FREE: u32 = 2;

/// A width, and the answers that it is learned from.
#[derive(Debug)]
pub(super) struct Width {
    controller: WidthController,
    interval_began: Duration,
    /// Requests waited for a place.
    saturated: bool,
    work: f64,
    /// Good answers of the interval, and the time that they took in all.
    answers: u32,
    latency: Duration,
    /// Requests that waited for a rate.
    paced: u32,
    /// The last answer to such a request, and the longest time without one.
    last_paced: Duration,
    longest_free: Duration,
    /// The strain of all that were answered or given up, in all, and their number.
    strain: (f64, u32),
}

/// The information that an answer has about the width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) now: Duration,
    pub(super) took: Duration,
    /// The bytes that the request moves.
    pub(super) bytes: u64,
    pub(super) is_good: bool,
    /// The request waited for a rate, or was throttled.
    pub(super) paced: bool,
    /// The time that it took, as a share of the time that it had.
    pub(super) strain: Option<f64>,
}

impl Width {
    pub(super) fn new(start: u32, ceiling: u32) -> Self {
        Self {
            controller: WidthController::new(start, ceiling),
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

    /// The width at this moment.
    pub(super) const fn get(&self) -> u32 {
        self.controller.width()
    }

    /// The most that it can become.
    pub(super) const fn ceiling(&self) -> u32 {
        self.controller.ceiling()
    }

    /// Takes a width that the server is known to serve.
    pub(super) fn narrow(&mut self, width: u32) {
        self.controller.narrow(width);
    }

    /// Notes that a request waits for a slot.
    pub(super) const fn is_short(&mut self) {
        self.saturated = true;
    }

    /// Learns from an answer; true when that may have changed the width.
    ///
    /// An interval ends when it is as long as its requests took, and enough of them were answered
    /// to mean something.
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

    /// Returns the longest time without an answer to a request that waited for a rate.
    fn free_until(&self, now: Duration) -> Duration {
        self.longest_free.max(now.saturating_sub(self.last_paced))
    }
}

/// The measurements of one interval, which lasts as long as a request takes or longer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interval {
    /// Length of the interval in seconds.
    pub seconds: f64,
    /// Work that was finished, in any unit that adds up (requests plus bytes in units of a
    /// request's worth).
    pub work: f64,
    /// True when requests waited for a place, so that the width was the limit.
    pub saturated: bool,
    /// True when a good part of the requests waited for a rate, or the server throttled.
    pub paced: bool,
    /// Mean time to an answer, as a share of the time after which a request counts as lost.
    pub strain: f64,
}

/// A doubled width must raise the throughput by this much to stay: far from the 2.0 of a server
/// with room, and far from noise.
const WORTHWHILE: f64 = 1.3;
/// Half the width must keep this much of the throughput to stay: far from the 0.5 of a server with
/// room.
const HARMLESS: f64 = 0.9;
/// Answers that take more than this share of their time limit come from a crowded server.
const CROWDED: f64 = 0.25;
/// Intervals between trials, after the first one that did not pay; doubled with each further one.
const REST: u32 = 4;
/// The longest rest.
const LONGEST_REST: u32 = 64;
/// The width never falls below this by itself.
pub const NARROWEST: u32 = 16;

/// Decides how many requests may be in flight.
#[derive(Clone, Debug)]
pub struct WidthController {
    width: u32,
    ceiling: u32,
    /// The width never falls below this by trials.
    floor: u32,
    /// Throughput at the width that was last found to pay.
    base: f64,
    /// The width to return to when the trial under way does not pay.
    trial: Option<u32>,
    /// The direction of the next trial.
    wider: bool,
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
            floor: NARROWEST.min(ceiling),
            base: 0.0,
            trial: None,
            wider: true,
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

    /// Takes a width that the server is known to serve; a greater one is not tried for long.
    pub fn narrow(&mut self, width: u32) {
        self.width = width.clamp(1, self.width);
        self.floor = self.floor.min(self.width);
        (self.trial, self.wider, self.base) = (None, true, 0.0);
        (self.rest, self.next_rest) = (LONGEST_REST, LONGEST_REST);
    }

    /// Learns from an interval and returns the new width.
    pub fn observe(&mut self, interval: Interval) -> u32 {
        let throughput = interval.work / interval.seconds;
        if interval.strain > CROWDED {
            self.width = (self.width / 2).max(self.floor);
            (self.trial, self.wider, self.rest, self.base) = (None, false, REST, 0.0);
        } else if interval.work <= 0.0 || !throughput.is_finite() {
            return self.width;
        } else if interval.paced {
            self.trial = None;
        } else if interval.saturated {
            self.judge(throughput);
        }
        self.width
    }

    /// Judges a full interval in which nothing else was the limit: decides if the trial was worth it,
    /// and if it is time for another one.
    fn judge(&mut self, throughput: f64) {
        match self.trial.take() {
            Some(before) if throughput < self.base * self.demanded() => {
                self.width = before;
                self.wider = !self.wider;
                self.rest = self.next_rest;
                self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
            }
            Some(_) => {
                // What is lost by narrower and narrower widths is lost once, not each time.
                self.base = if self.wider {
                    throughput
                } else {
                    throughput.max(self.base)
                };
                self.next_rest = REST;
                self.go_on();
            }
            None => {
                self.base = throughput.midpoint(self.base.max(throughput / 2.0));
                self.go_on();
            }
        }
    }

    const fn demanded(&self) -> f64 {
        if self.wider { WORTHWHILE } else { HARMLESS }
    }

    /// Begins the next trial when it is time.
    fn go_on(&mut self) {
        if self.rest > 0 {
            self.rest -= 1;
            return;
        }
        let next = if self.wider {
            self.width.saturating_mul(2).min(self.ceiling)
        } else {
            (self.width / 2).max(self.floor)
        };
        if next == self.width || (next > self.width) != self.wider {
            // As far as it goes: a look in the other direction, after a long while.
            self.wider = !self.wider;
            self.rest = LONGEST_REST;
        } else {
            self.trial = Some(std::mem::replace(&mut self.width, next));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Answers at these times, in milliseconds, to requests that waited for a rate.
    fn width_after(answers: impl Iterator<Item = u64>, took: u64) -> u32 {
        let mut width = Width::new(1000, 8192);
        for millis in answers {
            width.is_short();
            width.answered(&Answered {
                now: Duration::from_millis(millis),
                took: Duration::from_millis(took),
                bytes: 0,
                is_good: true,
                paced: true,
                strain: None,
            });
        }
        width.get()
    }

    #[test]
    fn a_wave_that_waits_for_a_rate_and_then_long_for_its_answers_is_limited_by_the_width() {
        // A thousand parts, sent in a quarter of a second, that take four seconds.
        assert_eq!(width_after((0..1000).map(|at| 4000 + at / 4), 4000), 2000);
        // Small copies that wait for the rate all the time.
        assert_eq!(width_after((0..4000).map(|at| at / 2), 50), 1000);
    }

    /// A server that answers each request after `latency` seconds until it is busy with `knee` of
    /// them; from then on more requests wait longer, and beyond the `breaking` point it does less.
    struct Server {
        latency: f64,
        knee: f64,
        breaking: f64,
    }

    impl Server {
        fn interval(&self, width: u32) -> Interval {
            let width = f64::from(width);
            let lost = (width / self.breaking).max(1.0);
            let throughput = width.min(self.knee) / self.latency / lost;
            let seconds = (width / throughput).max(0.5);
            let work = throughput * seconds;
            Interval {
                seconds,
                work,
                saturated: true,
                paced: false,
                strain: width / throughput / 90.0,
            }
        }
    }

    fn settle(server: &Server, start: u32, ceiling: u32, intervals: u32) -> WidthController {
        let mut controller = WidthController::new(start, ceiling);
        for _ in 0..intervals {
            controller.observe(server.interval(controller.width()));
        }
        controller
    }

    #[test]
    fn the_width_grows_while_throughput_grows_and_stays_under_its_ceiling() {
        let wide = Server {
            latency: 1.0,
            knee: 1e9,
            breaking: 1e9,
        };
        assert_eq!(settle(&wide, 1024, 2048, 2).width(), 2048);
        assert_eq!(settle(&wide, 256, 2048, 4).width(), 2048);
        assert_eq!(settle(&wide, 256, 300, 4).width(), 300);
        assert_eq!(settle(&wide, 256, 10, 4).width(), 10);
    }

    #[test]
    fn a_server_far_away_that_is_crowded_needs_no_trial() {
        // A server on disks that moves 500 MB/s: a thousand parts of 64 MiB take two minutes.
        let disks = Server {
            latency: 1.0,
            knee: 8.0,
            breaking: 1e9,
        };
        let controller = settle(&disks, 1024, 2048, 6);
        assert!(controller.width() <= 256, "{}", controller.width());
        let dead = Interval {
            seconds: 10.0,
            work: 0.0,
            saturated: true,
            paced: false,
            strain: 1.0,
        };
        let mut controller = WidthController::new(1024, 2048);
        assert_eq!(controller.observe(dead), 512, "nothing came back at all");
    }

    #[test]
    fn a_server_that_serves_five_connections_gets_five_requests_for_long() {
        let five = Server {
            latency: 0.05,
            knee: 5.0,
            breaking: 1e9,
        };
        let mut controller = settle(&five, 256, 2048, 1);
        controller.narrow(5);
        let mut most = 0;
        for _ in 0..LONGEST_REST {
            most = most.max(controller.observe(five.interval(controller.width())));
        }
        assert_eq!(most, 5);
        controller.narrow(9);
        assert_eq!(controller.width(), 5, "it never gets wider by that");
    }

    #[test]
    fn idle_and_paced_intervals_teach_nothing() {
        let mut controller = WidthController::new(256, 2048);
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
        assert_eq!(controller.width(), 256);
    }

    proptest! {
        /// Wherever it starts: it ends within a factor of the knee, inside its bounds all the way.
        #[test]
        fn the_knee_is_found(knee in 20.0..3000.0f64, latency in 0.01..2.0f64, start in 16u32..2048) {
            let server = Server { latency, knee, breaking: knee * 8.0 };
            let mut controller = WidthController::new(start, 2048);
            for _ in 0..120 {
                let width = controller.observe(server.interval(controller.width()));
                prop_assert!((NARROWEST..=2048).contains(&width));
            }
            // A trial may be under way.
            let width = controller.trial.unwrap_or(controller.width());
            let low = (knee * 0.7).min(2048.0 * 0.5);
            prop_assert!(f64::from(width) >= low.min(2000.0), "{width} for a knee of {knee}");
            prop_assert!(f64::from(width) <= (knee * 4.0).max(32.0), "{width} for a knee of {knee}");
        }
    }
}
