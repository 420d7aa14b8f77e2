//! One lane: a queue of requests, which are sent at the rate that the server accepts.
//!
//! A request draws a ticket. Then it is sent, waits, or finds another lane if this one was
//! replaced. While some keys of a lane are refused, requests for keys that were never refused may
//! skip the queue, which shows whether they are throttled separately.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::pace::meter::{Meter, Ticket};
use crate::pace::prefix::{HotPrefix, ThrottleStats};
use crate::pace::rate::RateController;

/// The requests per second that may skip the queue.
const SKIPS_PER_SECOND: f64 = 20.0;
/// The refusals in a row after which a lane counts as shut.
const SHUT: u32 = 16;

/// A queue of requests that share a rate.
#[derive(Debug)]
pub(in crate::pace) struct Lane {
    /// The prefix of the lane's keys; empty for the lane of all keys without a separate lane.
    pub(super) prefix: String,
    pub(super) state: Mutex<LaneState>,
}

#[derive(Debug)]
pub(super) struct LaneState {
    pub(super) rate: RateController,
    pub(super) meter: Meter,
    /// Meters the requests that skip the queue.
    skips: Meter,
    pub(super) stats: ThrottleStats,
    /// The refused requests that pause before they queue again.
    pub(super) pausing: u32,
    /// The refusals since the last accepted request.
    pub(super) streak: u32,
    /// Set once another lane has replaced this one.
    pub(super) retired: bool,
}

impl LaneState {
    /// Returns true while every request is refused.
    pub(super) fn is_shut(&self) -> bool {
        self.streak >= SHUT
    }

    /// Returns true if a request for `key` may skip the queue. In a shut lane of a prefix, none
    /// may, because a key that the server accepts would have a separate lane already.
    pub(super) fn may_skip_queue(&self, prefix: &str, key: &str) -> bool {
        (prefix.is_empty() || !self.is_shut()) && self.stats.may_skip_queue(key)
    }
}

/// Counts a refused request that pauses before it queues again, until it is dropped.
#[derive(Debug)]
pub(crate) struct PausingRequest(pub(super) Arc<Lane>);

impl Drop for PausingRequest {
    fn drop(&mut self) {
        self.0.lock().pausing -= 1;
    }
}

/// The admission of a request by its lane.
#[derive(Debug)]
pub(in crate::pace) struct LanePass {
    pub(super) lane: Arc<Lane>,
    /// Set if the request waited in the queue.
    pub(in crate::pace) waited: bool,
    /// Set if the request was sent before its turn.
    pub(super) skipped_queue: bool,
}

/// The decision about a request in the queue.
pub(super) enum LaneTurn {
    /// The request is sent, because it is its turn.
    Go,
    /// The request is sent before its turn. These prefixes turned out to be throttled separately.
    SkipQueue(Vec<HotPrefix>),
    /// The request keeps its ticket and waits this long.
    Wait(Ticket, Duration),
    /// Another lane has replaced this one.
    Replaced,
}

impl Lane {
    pub(super) fn new(prefix: &str, rate: RateController, now: Duration) -> Arc<Self> {
        let (meter, skips) = (
            Meter::new(rate.rate(now), now),
            Meter::new(SKIPS_PER_SECOND, now),
        );
        let state = LaneState {
            rate,
            meter,
            skips,
            stats: ThrottleStats::new(prefix),
            pausing: 0,
            streak: 0,
            retired: false,
        };
        Arc::new(Self {
            prefix: prefix.to_owned(),
            state: Mutex::new(state),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides what a request for `key` does now. `ticket` is `None` at its first call.
    pub(super) fn turn(&self, key: &str, ticket: Option<Ticket>, now: Duration) -> LaneTurn {
        let mut state = self.lock();
        let may_skip_queue = state.may_skip_queue(&self.prefix, key);
        let LaneState {
            rate,
            meter,
            skips,
            stats,
            retired,
            ..
        } = &mut *state;
        if *retired {
            return LaneTurn::Replaced;
        }
        meter.set(rate.rate(now), now);
        let ticket = ticket.unwrap_or_else(|| meter.draw(1.0, now));
        let wait = meter.wait(ticket, now);
        let is_open = stats.is_open(now);
        if let Some(wait) = wait {
            if !(is_open && may_skip_queue && skips.draw_now(now)) {
                return LaneTurn::Wait(ticket, wait);
            }
            meter.give_back(1.0);
        } else {
            rate.sent(now);
        }
        if wait.is_some() {
            // `over / sent` is the fraction of requests that the server would refuse if the lane is
            // at its limit.
            let sent = rate.rate(now) + SKIPS_PER_SECOND;
            let over = rate
                .limit()
                .map_or(0.0, |accepted| (sent - accepted).max(0.0));
            return LaneTurn::SkipQueue(stats.skipped_queue(key, over / sent, now));
        }
        if is_open {
            stats.sent(key);
        }
        LaneTurn::Go
    }

    pub(super) fn cut_at(&self) -> Option<Duration> {
        self.lock().rate.cut_at()
    }
}
