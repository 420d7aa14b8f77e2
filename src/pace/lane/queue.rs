//! One lane: the requests that wait together, at the rate that they are accepted at.
//!
//! A request draws a ticket and is told to go, to wait, or to look for another lane. While some
//! keys of a lane are refused and others are not, a request for a key that was never refused may go
//! ahead of the line, as a scout, so that a prefix that is throttled alone shows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::pace::meter::{Meter, Ticket};
use crate::pace::prefix::{Evidence, Hot};
use crate::pace::rate::RateController;

/// Requests a second that may go ahead of the line, because their keys were never refused while
/// others were.
const SCOUTS: f64 = 20.0;
/// So many refusals in a row say that a lane accepts nothing at the moment.
const SHUT: u32 = 16;

/// Requests that wait together.
#[derive(Debug)]
pub(in crate::pace) struct Lane {
    /// Empty for the lane of all keys that have no other.
    pub(super) prefix: String,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) rate: RateController,
    pub(super) meter: Meter,
    /// For requests that go ahead of the line.
    scouts: Meter,
    pub(super) evidence: Evidence,
    /// Refused requests that have not come back yet.
    pub(super) late: u32,
    /// Refusals since the last request that was accepted.
    pub(super) streak: u32,
    /// Another lane has taken its place.
    pub(super) retired: bool,
}

impl State {
    /// Returns true while everything is refused.
    pub(super) fn is_shut(&self) -> bool {
        self.streak >= SHUT
    }

    /// Returns true if a request for `key` may go ahead of the line. Below a prefix that is
    /// throttled alone, a key that is spared would be accepted in its turn.
    pub(super) fn may_scout(&self, prefix: &str, key: &str) -> bool {
        (prefix.is_empty() || !self.is_shut()) && self.evidence.may_scout(key)
    }
}

/// A request that was refused and waits before it stands in line again.
#[derive(Debug)]
pub(crate) struct Late(pub(super) Arc<Lane>);

impl Drop for Late {
    fn drop(&mut self) {
        self.0.lock().late -= 1;
    }
}

/// A request that may be sent.
#[derive(Debug)]
pub(in crate::pace) struct Passed {
    pub(super) lane: Arc<Lane>,
    /// It had to wait.
    pub(in crate::pace) waited: bool,
    /// It did not stand in line.
    pub(super) scout: bool,
}

/// The answer to a request in line.
pub(super) enum Turn {
    Go,
    /// Go ahead of the line; these prefixes turned out to be throttled alone.
    Scout(Vec<Hot>),
    Wait(Ticket, Duration),
    Elsewhere,
}

impl Lane {
    pub(super) fn new(prefix: &str, rate: RateController, now: Duration) -> Arc<Self> {
        let (meter, scouts) = (Meter::new(rate.rate(now), now), Meter::new(SCOUTS, now));
        let state = State {
            rate,
            meter,
            scouts,
            evidence: Evidence::new(prefix),
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
        let may_scout = state.may_scout(&self.prefix, key);
        let State {
            rate,
            meter,
            scouts,
            evidence,
            retired,
            ..
        } = &mut *state;
        if *retired {
            return Turn::Elsewhere;
        }
        meter.set(rate.rate(now), now);
        let ticket = ticket.unwrap_or_else(|| meter.draw(1.0, now));
        let wait = meter.wait(ticket, now);
        let is_open = evidence.is_open(now);
        if let Some(wait) = wait {
            if !(is_open && may_scout && scouts.draw_now(now)) {
                return Turn::Wait(ticket, wait);
            }
            meter.give_back(1.0);
        } else {
            rate.sent(now);
        }
        if wait.is_some() {
            // More than is taken of those in line, if the lane is at its limit.
            let sent = rate.rate(now) + SCOUTS;
            let over = rate
                .limit()
                .map_or(0.0, |accepted| (sent - accepted).max(0.0));
            return Turn::Scout(evidence.scouted(key, over / sent, now));
        }
        if is_open {
            evidence.sent(key);
        }
        Turn::Go
    }

    pub(super) fn cut_at(&self) -> Option<Duration> {
        self.lock().rate.cut_at()
    }
}
