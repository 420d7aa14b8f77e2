//! Learns how many requests per second a server accepts by observing its responses. The module is
//! pure: `now` is an argument.
//!
//! **Start.** A lane starts at the rate that each partition of S3 accepts at least, according to
//! its documentation. From there, its rate grows with each request that is sent: a fully used rate
//! doubles within a second or two. So a server that accepts everything is soon fully used, and a
//! weaker server is not hit by hundreds of requests at once that it must refuse.
//!
//! **Cut.** The server's token bucket lets more pass than its rate until it is empty, so the rate
//! at the first `SlowDown` says little. But from then on, everything beyond the limit is refused:
//! the accepted share of the requests *sent* since then, times the rate of sending, *is* the limit.
//! A cut sets the rate a little below it. Requests that were sent before a cut say nothing about
//! the rate after it. Requests that are sent right after a cut say nothing either, because the
//! server's bucket is still empty and waiting requests are sent in lumps. So there is at most one
//! cut per round trip and per twentieth of a second. A few cuts suffice to find a limit that fell
//! to an eighth. A few stray refusals (less than 3% of the last 200 requests) cause no cut.
//!
//! **Return.** The rate returns to the limit within a second or so, and then probes beyond it ever
//! faster, as TCP CUBIC does: slowly near the limit and quickly far from it, so that it follows a
//! limit that doubles. At a low rate, the curve is stretched, because each probe costs a refusal or
//! two. If two cuts both found the bucket empty, the average rate accepted between them is a lower
//! bound of the limit. So one noisy share does not cost seconds.
//!
//! **Shut.** If nothing at all is accepted, the share says nothing about the limit that will hold
//! afterwards. Two requests per second probe the server, and each refusal restarts the wait. Once
//! they are accepted, the rate doubles every half second until it is back at the old rate. The
//! CUBIC curve would need a minute to rise from two requests per second.

use std::time::Duration;

use super::recent::Recent;

/// The amount that each request adds to the rate until something is throttled: ln 2, which doubles
/// a fully used rate in a second.
const GROWTH: f64 = 0.693;
/// The margin by which a cut goes below the limit, as a share of the limit.
const DEPTH: f64 = 0.06;
/// The number of requests that should pass between a cut and the return to the limit, because each
/// return costs a refusal or two.
const REQUESTS_BETWEEN: f64 = 500.0;
/// The shortest and the longest time from a cut back to the limit, in seconds.
const RETURN: (f64, f64) = (1.0, 10.0);
/// A probe should last this many times as long as a refusal takes to arrive. Otherwise the rate
/// overshoots meanwhile.
const REFUSALS_BETWEEN: f64 = 15.0;
/// The longest time to which slow refusals stretch a probe, in seconds.
const SLOWEST: f64 = 3.0;
/// If less than this share of this many requests was throttled, the rate is not cut.
const STRAYS: (u32, f64) = (200, 0.03);
/// Refusals that are further apart are separate events.
const TOGETHER: Duration = Duration::from_millis(250);
/// A sample of a shorter time may be one lump of requests, whose share is not reliable. Requests
/// that are sent within this time after a cut do not count either.
const SETTLING: Duration = Duration::from_millis(50);
/// The number of requests from which a share is reliable; a slow lane needs fewer.
const SAMPLE: f64 = 20.0;
/// The time over which the rate of sending is measured.
const SENDING: Duration = Duration::from_millis(200);
/// A limit is settled if it differs from the one before by less than this share.
const NEAR: f64 = 0.25;
/// The factor by which the curve beyond a limit is steeper until the limit is settled.
const HASTE: f64 = 4.0;
/// The factor by which the curve gets steeper once an unchanged limit would have caused refusals.
const ESCAPE: f64 = 2.0;
/// The average between two cuts is used if they are this far apart: the shortest and the longest
/// time.
const SPAN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// If a limit is found below this share of the average since the last cut, the server's limit has
/// dropped.
const DROPPED: f64 = 0.7;
/// A probe beyond the known rate goes no higher than this many times the used rate: beyond that, it
/// would be a guess.
const GUESSING: f64 = 2.0;
/// Cuts that follow each other within this time count as one drop.
const DROP: Duration = Duration::from_secs(2);
/// A shut server counts as open after this many seconds without a refusal, plus this many times the
/// time that a refusal takes.
const SPARED: (f64, f64) = (0.75, 2.0);
/// Once the server counts as open, the rate doubles in this many seconds, or in the time that a
/// refusal takes if that is longer.
const DOUBLING: f64 = 0.5;
/// The lowest rate of a lane, in requests per second. It is above zero, because a run must make
/// progress.
pub const FLOOR: f64 = 2.0;

/// The rate of one lane, in requests per second.
#[derive(Clone, Debug)]
pub struct RateController {
    start: f64,
    /// The number of requests sent while no limit is known.
    sent: f64,
    limit: Option<Limit>,
    /// The throttled requests that have not caused a cut yet.
    refusals: Option<RefusalSpan>,
    recent: Recent,
}

/// The result of the last cut.
#[derive(Clone, Copy, Debug)]
struct Limit {
    cut_at: Duration,
    /// The rate that the server accepts, as measured.
    accepted: f64,
    /// The number of requests sent since the cut, less the throttled ones.
    passed: f64,
    /// Set if this cut and the one before found about the same limit.
    settled: bool,
    /// The time that a refusal took, in seconds.
    refusal: f64,
    /// Set if nothing was accepted at the last cut.
    shut: bool,
    /// The accepted rate before the limit dropped, which may have taken several cuts. `None` if
    /// nothing had been throttled before.
    before: Option<f64>,
}

impl Limit {
    /// Returns a limit that was found at `now`, from refusals that took `refusal` seconds.
    fn found(accepted: f64, before: Option<f64>, refusal: f64, now: Duration) -> Self {
        Self {
            cut_at: now,
            accepted: accepted.max(FLOOR),
            passed: 0.0,
            settled: false,
            refusal,
            shut: accepted < FLOOR,
            before,
        }
    }

    /// Returns the rate that the server was last known to accept while it was not shut.
    fn known(&self) -> Option<f64> {
        if self.shut {
            self.before
        } else {
            Some(self.accepted)
        }
    }

    /// Returns the seconds for which a shut server has counted as open; negative before that.
    fn spared(&self, now: Duration) -> f64 {
        let quiet = now.saturating_sub(self.cut_at).as_secs_f64();
        quiet - SPARED.0 - SPARED.1 * self.refusal.min(SLOWEST)
    }

    /// Returns the rate at which requests are sent to a server that was shut.
    fn reopening(&self, now: Duration) -> f64 {
        let doublings = self.spared(now).max(0.0) / self.refusal.clamp(DOUBLING, SLOWEST);
        FLOOR * doublings.min(64.0).exp2()
    }
}

/// A run of throttled requests that have not caused a cut yet.
#[derive(Clone, Copy, Debug)]
struct RefusalSpan {
    /// The time at which the first of these requests was sent.
    since: Duration,
    /// The time at which the last one was sent.
    last: Duration,
}

impl RateController {
    /// Creates the rate of a lane that starts at `start`, with no known limit.
    #[must_use]
    pub fn new(start: f64) -> Self {
        Self {
            start: start.max(FLOOR),
            sent: 0.0,
            limit: None,
            refusals: None,
            recent: Recent::default(),
        }
    }

    /// Creates the rate of a lane whose server is known at `now` to accept the rate `accepted`.
    #[must_use]
    pub fn known(start: f64, accepted: f64, now: Duration) -> Self {
        Self {
            limit: Some(Limit::found(accepted, None, 0.0, now)),
            ..Self::new(start)
        }
    }

    /// Counts a request that is sent.
    pub fn sent(&mut self, now: Duration) {
        self.recent.sent(now);
        self.reopen(now);
        match &mut self.limit {
            Some(limit) => limit.passed += 1.0,
            None => self.sent += 1.0,
        }
    }

    /// Ends the recovery from a shut server once the rate has returned to the old one.
    fn reopen(&mut self, now: Duration) {
        let Some(limit) = self.limit.filter(|limit| limit.shut) else {
            return;
        };
        // The recovery ends even if the lane does not use that rate, because low demand must not
        // restart it.
        if limit.reopening(now) >= self.return_to(&limit) {
            self.sent = 0.0;
            self.limit = limit
                .before
                .map(|before| Limit::found(before, None, limit.refusal, now));
        }
    }

    /// Returns the rate that a lane returns to after its server was shut.
    fn return_to(&self, limit: &Limit) -> f64 {
        limit
            .before
            .map_or(self.start, |before| (before * (1.0 - DEPTH)).max(FLOOR))
    }

    /// Records that a request sent at `sent_at` was throttled. Returns true if that cut the rate.
    pub fn throttled(&mut self, sent_at: Duration, now: Duration) -> bool {
        self.recent.throttled(sent_at);
        if let Some(limit) = &mut self.limit {
            if sent_at <= limit.cut_at {
                return false;
            }
            limit.passed -= 1.0;
            if sent_at <= limit.cut_at + SETTLING {
                return false;
            }
            if limit.shut && limit.spared(now) <= 0.0 {
                limit.cut_at = now;
                limit.refusal = now.saturating_sub(sent_at).as_secs_f64();
                return false;
            }
        }
        let used = self.recent.used(now);
        let together = TOGETHER.max(Duration::from_secs_f64(SAMPLE / used.max(SAMPLE)));
        let old = self
            .refusals
            .take()
            .filter(|refusals| sent_at <= refusals.last + together);
        let refusals = old.unwrap_or(RefusalSpan {
            since: sent_at,
            last: sent_at,
        });
        let refusals = RefusalSpan {
            since: refusals.since.min(sent_at),
            last: refusals.last.max(sent_at),
        };
        let since = self.limit.map_or(Duration::ZERO, |limit| limit.cut_at);
        let (sent, throttled) = self.recent.between(since, refusals.last, STRAYS.0);
        let (sample, refused) = self.recent.between(refusals.since, refusals.last, u32::MAX);
        let enough = (used / 4.0).clamp(2.0, SAMPLE);
        if f64::from(throttled) < f64::from(sent) * STRAYS.1 || f64::from(sample) < enough {
            self.refusals = Some(refusals);
            return false;
        }
        // The sample always begins with a refusal, which must not count.
        let share = 1.0 - f64::from(refused.saturating_sub(1)) / f64::from(sample.max(2) - 1);
        let is_lump = refusals.last.saturating_sub(refusals.since) < SETTLING;
        let accepted = self.estimate(share, is_lump, now);
        let refusal = now.saturating_sub(sent_at).as_secs_f64();
        let before = self.limit.and_then(|limit| {
            let is_same_drop = now.saturating_sub(limit.cut_at) < DROP;
            if is_same_drop {
                limit.before
            } else {
                limit.known()
            }
        });
        let found = Limit::found(accepted, before, refusal, now);
        let settled = self
            .limit
            .is_some_and(|limit| (found.accepted / limit.accepted - 1.0).abs() < NEAR);
        self.limit = Some(Limit { settled, ..found });
        true
    }

    /// Estimates the rate that the server accepts from the accepted `share` of what is sent.
    fn estimate(&self, share: f64, is_lump: bool, now: Duration) -> f64 {
        let sending = self.recent.rate(now, SENDING).min(self.rate(now));
        let found = sending * share.max(0.0);
        let average = self.limit.and_then(|limit| {
            let span = now.saturating_sub(limit.cut_at);
            let average = (limit.passed / span.as_secs_f64()).min(sending);
            (SPAN.0..SPAN.1).contains(&span).then_some(average)
        });
        match average {
            Some(average) if is_lump || found > average * DROPPED => found.max(average),
            _ => found,
        }
    }

    /// Returns the current rate, in requests per second.
    #[must_use]
    pub fn rate(&self, now: Duration) -> f64 {
        let known = self.limit.map_or(self.start, |limit| limit.accepted);
        self.curve(now)
            .min((self.recent.used(now) * GUESSING).max(known))
            .max(FLOOR)
    }

    /// Returns the rate without the bound by the used rate.
    fn curve(&self, now: Duration) -> f64 {
        let Some(limit) = self.limit else {
            return self.start + self.sent * GROWTH;
        };
        if limit.shut {
            return limit.reopening(now).min(self.return_to(&limit));
        }
        let few = if limit.settled {
            REQUESTS_BETWEEN / limit.accepted
        } else {
            0.0
        };
        // If refusals take even longer, this machine is slow, and not the server.
        let late = (limit.refusal * REFUSALS_BETWEEN).min(SLOWEST);
        let back = few.max(late).clamp(RETURN.0, RETURN.1);
        let way = (now.saturating_sub(limit.cut_at).as_secs_f64() - back) / back;
        let haste = if way > 0.0 && !limit.settled {
            HASTE
        } else {
            1.0 + (way - 1.0).max(0.0) * ESCAPE
        };
        (limit.accepted * (1.0 + DEPTH * haste * way.powi(3))).max(FLOOR)
    }

    /// Returns the last measured rate that the server accepts, or `None` while no limit is known.
    #[must_use]
    pub fn limit(&self) -> Option<f64> {
        self.limit.map(|limit| limit.accepted)
    }

    /// Returns the last measured rate, or for a shut server the rate that it accepted before it
    /// refused everything.
    #[must_use]
    pub fn known_limit(&self) -> Option<f64> {
        self.limit.and_then(|limit| limit.known())
    }

    /// Returns true if everything was refused at the last cut.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.limit.is_some_and(|limit| limit.shut)
    }

    /// Returns the time at which the limit was last found.
    #[must_use]
    pub fn cut_at(&self) -> Option<Duration> {
        self.limit.map(|limit| limit.cut_at)
    }
}

#[cfg(test)]
mod tests;
