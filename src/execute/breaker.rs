//! The circuit breaker: ends a session in which every object fails in the same way and none
//! succeeds.
//!
//! If a role may list a source but not read it, each object fails, and there may be millions. So
//! after [`LIMIT`] such failures, the session stops and names the reason. One success, or one
//! failure of another kind, disarms the breaker for good, so that a run with scattered failures
//! continues to its end. From then on, [`super::series`] watches the run.
//!
//! Refusals are fast and copies are slow, so an object in progress may succeed after many others
//! were refused. Therefore, from the first failure on, at most [`LIMIT`] objects have failed or are
//! open, and the breaker trips only when all of them have failed. Until then, their failures are
//! held back: after a trip, the next session tries these objects again.

use super::conductor::Conductor;
use super::monitor::{Event, Monitor};
use super::outcome::GaveUp;
use super::receipt::{Ending, ErrorRecord, Receipt};
use super::series::Copies;
use crate::journal::state::RunTotals;
use crate::manifest::job::FailureLimit;
use crate::pace::Slots;
use crate::size::display_counted;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The number of failures of one kind, without a success, that end a session.
pub(super) const LIMIT: u64 = 300;

/// Counts failures of one kind until another result disarms it.
#[derive(Debug)]
pub(super) struct Breaker {
    /// True while the breaker may trip.
    is_armed: bool,
    /// The kind of all failures so far.
    kind: Option<&'static str>,
    failed: u64,
}

impl Breaker {
    /// Creates the breaker for a job with this limit. It is not armed if an earlier session of the
    /// run has copied something.
    pub(super) fn new(limit: Option<FailureLimit>, has_succeeded: bool) -> Self {
        let is_armed = matches!(limit, None | Some(FailureLimit::Auto)) && !has_succeeded;
        Self {
            is_armed,
            kind: None,
            failed: 0,
        }
    }

    /// Returns true while the breaker may still trip.
    pub(super) fn is_armed(&self) -> bool {
        self.is_armed
    }

    /// Counts the end of an object.
    pub(super) fn observe(&mut self, ending: &Ending) {
        match ending {
            Ending::Failed { error } => {
                self.is_armed &= *self.kind.get_or_insert(error.kind) == error.kind;
                self.failed += 1;
            }
            Ending::Stopped => {}
            Ending::Done { .. } | Ending::Skipped { .. } | Ending::Restoring { .. } => {
                self.is_armed = false;
            }
        }
    }

    /// Disarms the breaker for good.
    pub(super) fn disarm(&mut self) {
        self.is_armed = false;
    }

    /// Returns true if one more object may be opened while `open` others are open.
    pub(super) fn may_open(&self, open: usize) -> bool {
        !self.is_armed || self.failed == 0 || self.failed + (open as u64) < LIMIT
    }

    /// Returns true if the session must end.
    pub(super) fn is_tripped(&self, open: usize) -> bool {
        self.is_armed && self.failed >= LIMIT && open == 0
    }
}

/// An object whose failure is held back, because the breaker was armed.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) transfer: u32,
    pub(super) object: Option<u64>,
    pub(super) receipt: Receipt,
}

/// The parts of a [`Conductor`] that it shares with other tasks.
pub(super) struct ConductorParts {
    /// The sums of the earlier sessions.
    pub(super) totals: RunTotals,
    pub(super) slots: Slots,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) stop: CancellationToken,
    /// Canceled if the run gives up because of a failure that may pass later. Requests in flight
    /// are then unlikely to succeed.
    pub(super) short_drain: CancellationToken,
    /// Canceled once the first bytes are copied.
    pub(super) copied: CancellationToken,
    pub(super) copies: Copies,
    pub(super) patience: Duration,
    /// The shortest and the longest time between two attempts of a paused run.
    pub(super) probes: (Duration, Duration),
}

/// A monitor that also records when bytes are copied.
pub(super) struct CopyMonitor {
    pub(super) inner: Arc<dyn Monitor>,
    pub(super) copied: CancellationToken,
    pub(super) copies: Copies,
}

impl Monitor for CopyMonitor {
    fn observe(&self, event: &Event<'_>) {
        if matches!(
            event,
            Event::BytesCopied { .. } | Event::BytesResumed { .. }
        ) {
            self.copied.cancel();
            self.copies.note();
        }
        self.inner.observe(event);
    }
}

impl Conductor<'_> {
    /// Returns the reason to end the run after this failure, if there is one.
    pub(super) fn reason_to_give_up(&self, error: &ErrorRecord) -> Option<GaveUp> {
        if error.ends_run {
            return Some(GaveUp {
                reason: error.in_words(),
                may_pass_later: error.may_pass_later,
            });
        }
        let limit = self.job.limits.max_failures?;
        let failed = self.totals.failed_objects.saturating_sub(self.before.0);
        let ended = self.totals.ended_objects().saturating_sub(self.before.1);
        limit.is_passed(failed, ended).then(|| {
            let reason = format!(
                "{failed} of {} failed, more than `max_failures: {limit}` allows",
                display_counted(ended, "object")
            );
            GaveUp {
                reason,
                may_pass_later: false,
            }
        })
    }

    /// Gives up the run, and ends the session.
    pub(super) fn give_up_run(&mut self, gave_up: GaveUp) {
        tracing::warn!(name: "giving_up", "giving up: {}", gave_up.reason);
        if gave_up.may_pass_later {
            self.short_drain.cancel();
        }
        self.outcome.gave_up = Some(gave_up);
        self.stop.cancel();
    }

    /// Disarms the breaker, because bytes were copied.
    pub(super) fn disarm_breaker(&mut self) {
        self.breaker.disarm();
        self.record_all_suspects();
    }

    /// Records all failures that were held back.
    pub(super) fn record_all_suspects(&mut self) {
        self.record_suspects(|_| true);
    }

    /// Records the failures of a transfer that were held back.
    pub(super) fn record_suspects_of(&mut self, transfer: u32) {
        self.record_suspects(|suspect| suspect.transfer == transfer);
    }

    /// Records the held-back failures that `which` selects. If the breaker has tripped, leaves
    /// their objects to the next session.
    fn record_suspects(&mut self, which: impl Fn(&Suspect) -> bool) {
        let (cleared, kept) = std::mem::take(&mut self.suspects)
            .into_iter()
            .partition(which);
        self.suspects = kept;
        let is_left_to_next = self.is_tripped;
        let cleared: Vec<Suspect> = cleared;
        for Suspect {
            transfer,
            object,
            receipt,
        } in cleared
        {
            self.with_record(transfer, |record| {
                record.end(object, &receipt, is_left_to_next);
            });
        }
    }

    /// Ends the session if the breaker trips and more objects wait.
    pub(super) fn trip(&mut self) {
        if !self.breaker.is_tripped(self.open.len()) || self.waiting.len() == 0 {
            return;
        }
        let failed = self.breaker.failed;
        let example = self
            .suspects
            .first()
            .and_then(|suspect| match &suspect.receipt.ending {
                Ending::Failed { error } => {
                    Some(format!("{} {}", error.operation, error.in_words()))
                }
                _ => None,
            });
        let example = example
            .map(|example| format!(" ({example})"))
            .unwrap_or_default();
        let reason = format!(
            "all {failed} objects that were tried failed alike and none succeeded{example}. `max_failures: none` \
             (--max-failures none) runs the job to its end anyway"
        );
        tracing::warn!(name: "giving_up", "giving up: {reason}");
        self.is_tripped = true;
        self.outcome.gave_up = Some(GaveUp {
            reason,
            may_pass_later: false,
        });
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::receipt::Proof;

    fn failed(kind: &'static str) -> Ending {
        let text = String::new;
        let error = ErrorRecord {
            kind,
            operation: text(),
            code: text(),
            message: text(),
            request_id: None,
            remedy: text(),
            ends_run: false,
            may_pass_later: false,
            is_published: false,
        };
        Ending::Failed { error }
    }

    fn done() -> Ending {
        Ending::Done {
            proof: Proof::Etag,
            etag: String::new(),
            destination_version: None,
        }
    }

    #[test]
    fn only_failures_that_are_all_alike_trip_the_breaker() {
        let repeat = |ending: Ending, times: usize| vec![ending; times];
        let alike = repeat(failed("denied"), 300);
        let with = |place: usize, other: Ending| {
            let mut endings = alike.clone();
            endings.insert(place, other);
            endings
        };
        let none = FailureLimit::Unlimited;
        for (case, limit, endings, open, trips) in [
            ("too few", None, repeat(failed("denied"), 299), 0, false),
            ("enough", None, alike.clone(), 0, true),
            (
                "enough by name",
                Some(FailureLimit::Auto),
                alike.clone(),
                0,
                true,
            ),
            ("one may still succeed", None, alike.clone(), 1, false),
            ("a success first", None, with(0, done()), 0, false),
            ("a success last", None, with(300, done()), 0, false),
            (
                "another failure",
                None,
                with(150, failed("invalid")),
                0,
                false,
            ),
            (
                "stopped ones say nothing",
                None,
                with(150, Ending::Stopped),
                0,
                true,
            ),
            ("turned off", Some(none), alike.clone(), 0, false),
            (
                "another limit",
                Some(FailureLimit::Percent(5)),
                alike.clone(),
                0,
                false,
            ),
        ] {
            let mut breaker = Breaker::new(limit, false);
            for ending in &endings {
                breaker.observe(ending);
            }
            assert_eq!(breaker.is_tripped(open), trips, "{case}");
        }
    }

    #[test]
    fn a_reason_without_a_remedy_ends_with_its_message() {
        let record = |remedy: &str| ErrorRecord {
            kind: "denied",
            operation: "CopyObject".to_owned(),
            code: "AccessDenied".to_owned(),
            message: "no".to_owned(),
            request_id: None,
            remedy: remedy.to_owned(),
            ends_run: false,
            may_pass_later: false,
            is_published: false,
        };
        assert_eq!(record("").in_words(), "AccessDenied: no");
        assert_eq!(record("ask").in_words(), "AccessDenied: no; ask");
    }

    #[test]
    fn few_objects_are_opened_while_all_fail() {
        let mut breaker = Breaker::new(None, false);
        assert!(breaker.may_open(2048), "nothing has failed");
        breaker.observe(&failed("denied"));
        assert!(breaker.may_open(298) && !breaker.may_open(299));
        breaker.disarm();
        assert!(breaker.may_open(2048));
    }
}
