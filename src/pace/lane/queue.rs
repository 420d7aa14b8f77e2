//! One lane: a queue of requests that are sent at the rate at which the server accepts them.
//!
//! A request draws a ticket. Then it is sent, waits, or finds another lane if this one was
//! replaced. While some keys of a lane are refused and others are not, a request for a key that was
//! never refused may skip the queue. This shows which prefix is throttled separately.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::pace::meter::{Meter, Ticket};
use crate::pace::prefix::{HotPrefix, ThrottleStats};
use crate::pace::rate::RateController;

/// The requests per second that may skip the queue because their keys were never refused while
/// others were.
const SKIPS_PER_SECOND: f64 = 20.0;
/// The refusals in a row after which a lane counts as shut.
const SHUT: u32 = 16;

/// A queue of requests that share a rate.
#[derive(Debug)]
pub(in crate::pace) struct Lane {
    /// The prefix of its keys; empty for the lane of all keys that have no other.
    pub(super) prefix: String,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) rate: RateController,
    pub(super) meter: Meter,
    /// Meters the requests that skip the queue.
    skips: Meter,
    pub(super) stats: ThrottleStats,
    /// Refused requests that pause before they queue again.
    pub(super) late: u32,
    /// Refusals since the last request that was accepted.
    pub(super) streak: u32,
    /// Set once another lane has replaced this one.
    pub(super) retired: bool,
}

impl State {
    /// Returns true while every request is refused.
    pub(super) fn is_shut(&self) -> bool {
        self.streak >= SHUT
    }

    /// Returns true if a request for `key` may skip the queue. In a shut lane of a prefix none may:
    /// a key that the server spares there would have a lane of its own.
    pub(super) fn may_skip_queue(&self, prefix: &str, key: &str) -> bool {
        (prefix.is_empty() || !self.is_shut()) && self.stats.may_skip_queue(key)
    }
}

/// Counts a refused request that pauses before it queues again, until it is dropped.
#[derive(Debug)]
pub(crate) struct Late(pub(super) Arc<Lane>);

impl Drop for Late {
    fn drop(&mut self) {
        self.0.lock().late -= 1;
    }
}

/// The right of a request to be sent.
#[derive(Debug)]
pub(in crate::pace) struct Passed {
    pub(super) lane: Arc<Lane>,
    /// Set if the request had to wait.
    pub(in crate::pace) waited: bool,
    /// Set if the request did not wait for its turn.
    pub(super) skipped_queue: bool,
}

/// The answer to a request in the queue.
pub(super) enum Turn {
    Go,
    /// Go ahead of the others. These prefixes turned out to be throttled separately.
    SkipQueue(Vec<HotPrefix>),
    Wait(Ticket, Duration),
    Elsewhere,
}

impl Lane {
    pub(super) fn new(prefix: &str, rate: RateController, now: Duration) -> Arc<Self> {
        let (meter, skips) = (
            Meter::new(rate.rate(now), now),
            Meter::new(SKIPS_PER_SECOND, now),
        );
        let state = State {
            rate,
            meter,
            skips,
            stats: ThrottleStats::new(prefix),
            late: 0,
            streak: 0,
            retired: false,
        };
        Arc::new(Self {
            prefix: prefix.to_owned(),
            state: Mutex::new(state),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn turn(&self, key: &str, ticket: Option<Ticket>, now: Duration) -> Turn {
        let mut state = self.lock();
        let may_skip_queue = state.may_skip_queue(&self.prefix, key);
        let State {
            rate,
            meter,
            skips,
            stats,
            retired,
            ..
        } = &mut *state;
        if *retired {
            return Turn::Elsewhere;
        }
        meter.set(rate.rate(now), now);
        let ticket = ticket.unwrap_or_else(|| meter.draw(1.0, now));
        let wait = meter.wait(ticket, now);
        let is_open = stats.is_open(now);
        if let Some(wait) = wait {
            if !(is_open && may_skip_queue && skips.draw_now(now)) {
                return Turn::Wait(ticket, wait);
            }
            meter.give_back(1.0);
        } else {
            rate.sent(now);
        }
        if wait.is_some() {
            // If the lane is at its limit, the server would refuse this fraction of all requests.
            let sent = rate.rate(now) + SKIPS_PER_SECOND;
            let over = rate
                .limit()
                .map_or(0.0, |accepted| (sent - accepted).max(0.0));
            return Turn::SkipQueue(stats.skipped_queue(key, over / sent, now));
        }
        if is_open {
            stats.sent(key);
        }
        Turn::Go
    }

    pub(super) fn cut_at(&self) -> Option<Duration> {
        self.lock().rate.cut_at()
    }
}
