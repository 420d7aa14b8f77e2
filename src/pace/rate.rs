//! How many requests a second a server accepts, learned from its answers. Pure: `now` is an
//! argument.
//!
//! **Start.** S3 documents what each partition of a bucket takes at least, and that is where a lane
//! starts. From there its rate grows with each request that is sent, so that it doubles within a
//! second or two while it is used and a server that takes everything holds nobody up; a full
//! stampede on the first moment would be throttled by the hundreds.
//!
//! **Cut.** A token bucket on the other side lets more pass than its rate until it is empty, so the
//! rate at which the first `SlowDown` comes says little. But from then on everything beyond the
//! limit is refused: the share of accepted requests among those *sent* since then, times the rate
//! of sending, *is* the limit. A cut goes a little below it. What was sent before a cut tells
//! nothing about the rate after it, nor what is sent right after it, when the server's bucket is
//! still empty and waiters go in lumps; so there is at most one cut in a round trip or a twentieth
//! of a second, and a limit that fell to an eighth is found within a few of them. A few strays
//! (half a percent of the requests) cut nothing.
//!
//! **Return.** The rate comes back to the limit within a second or so and probes beyond it ever
//! faster, as TCP CUBIC does: careful near the limit, quick far from it, so that a limit that
//! doubles is followed. Where requests are few, the curve is stretched, because each probe costs a
//! refusal or two. Between two cuts both of which found the bucket empty, what was accepted on
//! average is what the limit gave at least; that keeps one noisy share from costing seconds.
//!
//! **Shut.** Where nothing at all is accepted, the share says nothing about the limit that will hold
//! afterwards. A few requests a second ask if it is over, each refusal begins that anew, and once
//! they are spared the rate doubles every half second until it is what it was before. It would take
//! the curve a minute to get away from two requests a second.

use std::time::Duration;

use super::recent::Recent;

/// While nothing was throttled, each request sent adds so much to the rate: ln 2, which doubles it
/// in a second.
const GROWTH: f64 = 0.693;
/// A cut goes this far below the limit, relative to it.
const DEPTH: f64 = 0.06;
/// A probe costs a refusal or two, so that many requests should pass between a cut and the return
/// to the limit.
const REQUESTS_BETWEEN: f64 = 500.0;
/// Seconds from a cut back to the limit: the shortest and the longest.
const RETURN: (f64, f64) = (1.0, 10.0);
/// A probe should last for so many times what a refusal takes to arrive, or the rate runs away
/// meanwhile.
const REFUSALS_BETWEEN: f64 = 15.0;
/// The longest time over which a probe is stretched, in seconds.
const SLOWEST: f64 = 3.0;
/// Requests at the end of which their throttled ones are counted, and the share of them that cuts
/// nothing.
const STRAYS: (u32, f64) = (200, 0.03);
/// Refusals that are further apart do not belong together.
const TOGETHER: Duration = Duration::from_millis(250);
/// After a cut, and for a share that speaks of a drop: in less time than this, lumps of requests
/// are no rate.
const SETTLING: Duration = Duration::from_millis(50);
/// Fewer requests than this say nothing about a share.
const SAMPLE: f64 = 20.0;
/// The rate of sending is that of so many of the last milliseconds.
const SENDING: Duration = Duration::from_millis(200);
/// A limit found so near to the one before is believed.
const NEAR: f64 = 0.25;
/// Until then the way beyond it is steeper.
const HASTE: f64 = 4.0;
/// Beyond the point where a limit that stands would have been felt, it is steeper too.
const ESCAPE: f64 = 2.0;
/// Two cuts that are this far apart bound what the limit was between them.
const SPAN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A limit that is found this far below the average since the last cut has dropped meanwhile.
const DROPPED: f64 = 0.7;
/// Probing beyond so many times what is used is guessing.
const GUESSING: f64 = 2.0;
/// Cuts that follow each other within this time are one drop.
const DROP: Duration = Duration::from_secs(2);
/// Without a refusal for so many seconds, and for so many times what one takes, a server accepts
/// something again.
const SPARED: (f64, f64) = (0.75, 2.0);
/// Seconds in which the rate doubles then, unless a refusal takes longer.
const DOUBLING: f64 = 0.5;
/// Requests per second below which no lane goes: a run must go on.
pub const FLOOR: f64 = 2.0;

/// The rate of one lane, in requests per second.
#[derive(Clone, Debug)]
pub struct RateController {
    start: f64,
    /// Requests sent while nothing was throttled.
    sent: f64,
    limit: Option<Limit>,
    /// The throttled requests that no cut has answered yet.
    news: Option<News>,
    recent: Recent,
}

/// The knowledge from the last cut.
#[derive(Clone, Copy, Debug)]
struct Limit {
    cut_at: Duration,
    /// The rate that the server accepts, as far as we know.
    accepted: f64,
    /// Requests sent since, less those that were throttled.
    passed: f64,
    /// It was found twice.
    settled: bool,
    /// Seconds that a refusal took.
    refusal: f64,
    /// Nothing was accepted at the last cut.
    shut: bool,
    /// The rate that was accepted before that, and before the cuts just before it; `None` if
    /// nothing had been throttled.
    before: Option<f64>,
}

impl Limit {
    /// Returns a limit that was found at `now`, after refusals that took so many seconds.
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

    /// Returns the rate that the server is known to accept while it is not shut.
    fn known(&self) -> Option<f64> {
        if self.shut {
            self.before
        } else {
            Some(self.accepted)
        }
    }

    /// Seconds since a server that was shut proved by sparing all requests that it is not.
    fn spared(&self, now: Duration) -> f64 {
        let quiet = now.saturating_sub(self.cut_at).as_secs_f64();
        quiet - SPARED.0 - SPARED.1 * self.refusal.min(SLOWEST)
    }

    /// Returns the rate at which a server that was shut is asked for more.
    fn reopening(&self, now: Duration) -> f64 {
        let doublings = self.spared(now).max(0.0) / self.refusal.clamp(DOUBLING, SLOWEST);
        FLOOR * doublings.min(64.0).exp2()
    }
}

#[derive(Clone, Copy, Debug)]
struct News {
    /// The time at which the first of them was sent.
    since: Duration,
    /// The time at which the last one was sent.
    last: Duration,
}

impl RateController {
    /// Creates a lane that nothing is known about but what it may `start` with.
    #[must_use]
    pub fn new(start: f64) -> Self {
        Self {
            start: start.max(FLOOR),
            sent: 0.0,
            limit: None,
            news: None,
            recent: Recent::default(),
        }
    }

    /// Returns a lane whose server is known to accept this much, since `now`.
    #[must_use]
    pub fn known(start: f64, accepted: f64, now: Duration) -> Self {
        Self {
            limit: Some(Limit::found(accepted, None, 0.0, now)),
            ..Self::new(start)
        }
    }

    /// Takes note of a request that is sent.
    pub fn sent(&mut self, now: Duration) {
        self.recent.sent(now);
        self.reopen(now);
        match &mut self.limit {
            Some(limit) => limit.passed += 1.0,
            None => self.sent += 1.0,
        }
    }

    /// Ends the time after a server was shut once the rate is what it was before.
    fn reopen(&mut self, now: Duration) {
        let Some(limit) = self.limit.filter(|limit| limit.shut) else {
            return;
        };
        // Whether that much is used or not: less demand for a moment must not begin it all anew.
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

    /// Takes note that a request sent at `sent_at` was throttled. True when that cut the rate.
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
            .news
            .take()
            .filter(|news| sent_at <= news.last + together);
        let news = old.unwrap_or(News {
            since: sent_at,
            last: sent_at,
        });
        let news = News {
            since: news.since.min(sent_at),
            last: news.last.max(sent_at),
        };
        let since = self.limit.map_or(Duration::ZERO, |limit| limit.cut_at);
        let (sent, throttled) = self.recent.between(since, news.last, STRAYS.0);
        let (sample, refused) = self.recent.between(news.since, news.last, u32::MAX);
        let enough = (used / 4.0).clamp(2.0, SAMPLE);
        if f64::from(throttled) < f64::from(sent) * STRAYS.1 || f64::from(sample) < enough {
            self.news = Some(news);
            return false;
        }
        // The stretch begins with a refusal because of how it was chosen.
        let share = 1.0 - f64::from(refused.saturating_sub(1)) / f64::from(sample.max(2) - 1);
        let is_lump = news.last.saturating_sub(news.since) < SETTLING;
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

    /// Estimates the rate that the server accepts, from the share that it accepts of what is sent.
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

    /// Requests per second at this moment.
    #[must_use]
    pub fn rate(&self, now: Duration) -> f64 {
        let known = self.limit.map_or(self.start, |limit| limit.accepted);
        self.curve(now)
            .min((self.recent.used(now) * GUESSING).max(known))
            .max(FLOOR)
    }

    /// Returns the rate if all of it is used.
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
        // Beyond that it is this machine that is slow.
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

    /// Returns the highest rate that the server was last seen to accept; `None` while it never
    /// throttled.
    #[must_use]
    pub fn limit(&self) -> Option<f64> {
        self.limit.map(|limit| limit.accepted)
    }

    /// Returns the same, or what it accepted before it refused everything.
    #[must_use]
    pub fn known_limit(&self) -> Option<f64> {
        self.limit.and_then(|limit| limit.known())
    }

    /// Returns true if everything was refused at the last cut.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.limit.is_some_and(|limit| limit.shut)
    }

    /// Returns the time at which the server last set a limit.
    #[must_use]
    pub fn cut_at(&self) -> Option<Duration> {
        self.limit.map(|limit| limit.cut_at)
    }
}

#[cfg(test)]
mod tests;
