//! Pauses a run once all of its objects are refused.
//!
//! If a policy is changed or a KMS key is disabled during a run, every object is refused from then
//! on, and there may be millions. So s3haul holds back the objects of a series of equal refusals.
//! One success ends the series: the held objects then count as failed, and the run continues. After
//! [`LIMIT`] refusals without a success, the run pauses. It tries single objects at growing
//! intervals, alternately a refused object and an object that was not tried yet, which may be under
//! another prefix. If one of these objects succeeds, or a copy in flight makes progress, all held
//! objects are tried again. If none succeeds within the run's `patience`, the session ends like an
//! interrupted session, and the next session tries the held objects again.
//!
//! Only refusals whose reason is not specific to one object form a series: a thousand archived
//! objects in a row are no reason to pause. Skipped objects neither continue nor end a series.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::LIMIT;
use super::conductor::Conductor;
use super::monitor::Event;
use super::outcome::GaveUp;
use super::receipt::{Ending, Receipt};
use super::waiting::Queued;
use crate::awake::AwakeInstant;
use crate::manifest::job::FailureLimit;
use crate::planner::Step;
use crate::s3::FailureKind;
use crate::size::display_duration;

/// Counts how often bytes were copied. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies(Arc<AtomicU64>);

impl Copies {
    pub(super) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An object that was refused and is held back.
#[derive(Debug)]
pub(super) struct RefusedObject {
    /// Its transfer, by position in the job.
    pub(super) transfer: u32,
    /// Its step, which may be run again.
    pub(super) step: Box<Step>,
    /// The receipt of the refusal.
    pub(super) receipt: Receipt,
}

/// The series of equal refusals since the last success.
#[derive(Debug)]
pub(super) struct Series {
    is_enabled: bool,
    copies: Copies,
    /// The count of `copies` when the series began.
    copies_before: u64,
    /// The kind of the refusals.
    kind: Option<&'static str>,
    held: Vec<RefusedObject>,
    /// The longest pause.
    patience: Duration,
    /// The shortest and the longest time between two attempts of a paused run.
    probes: (Duration, Duration),
    /// Set while the run is paused.
    pause: Option<Pause>,
}

/// A pause of the run.
#[derive(Clone, Copy, Debug)]
struct Pause {
    since: AwakeInstant,
    /// The time of the next check of the run.
    next: Instant,
    /// The time between the next two attempts.
    interval: Duration,
    /// True if the next object to try is a refused one.
    tries_refused: bool,
}

/// The effect of an ended object on the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SeriesEffect {
    /// The object joins the series, with a refusal of this kind.
    Joins(&'static str),
    /// The series ends.
    Ends,
    /// The series does not change.
    Nothing,
}

impl Series {
    /// Creates the series of a job with this limit.
    pub(super) fn new(
        limit: Option<FailureLimit>,
        copies: Copies,
        (patience, probes): (Duration, (Duration, Duration)),
    ) -> Self {
        Self {
            is_enabled: matches!(limit, None | Some(FailureLimit::Auto)),
            copies_before: copies.count(),
            copies,
            kind: None,
            held: Vec::new(),
            patience,
            probes,
            pause: None,
        }
    }

    /// Returns true while the run is paused, and only single objects are tried.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// Returns the time of the next check of a paused run.
    pub(super) fn next_check(&self) -> Option<Instant> {
        self.pause.map(|pause| pause.next)
    }

    /// Returns true if bytes were copied since the series began.
    fn has_copied(&self) -> bool {
        self.copies.count() > self.copies_before
    }

    /// Returns true if a refusal of this kind starts another series, because bytes were copied, or
    /// the refusals so far were of another kind. While the run is paused, only a copy ends the
    /// series: another kind of refusal does not show that the cause has ended.
    fn is_ended_by(&self, kind: &str) -> bool {
        let is_other = self.kind.is_some_and(|before| before != kind);
        self.has_copied() || (is_other && !self.is_paused())
    }

    /// Returns the effect of an ended object.
    fn judge(&self, ending: &Ending) -> SeriesEffect {
        let kinds = [
            FailureKind::Denied,
            FailureKind::Credentials,
            FailureKind::Throttled,
        ];
        match ending {
            Ending::Done { .. } => SeriesEffect::Ends,
            Ending::Failed { error } if error.is_published || error.ends_run => {
                SeriesEffect::Nothing
            }
            Ending::Failed { error } if kinds.iter().any(|kind| kind.name() == error.kind) => {
                SeriesEffect::Joins(error.kind)
            }
            Ending::Failed { .. } if self.pause.is_none() => SeriesEffect::Ends,
            Ending::Failed { .. }
            | Ending::Stopped
            | Ending::Skipped { .. }
            | Ending::Restoring { .. } => SeriesEffect::Nothing,
        }
    }

    /// Ends the series and returns its objects.
    fn take(&mut self) -> Vec<RefusedObject> {
        (self.kind, self.pause) = (None, None);
        std::mem::take(&mut self.held)
    }

    /// Adds a refused object to the series.
    fn hold(&mut self, kind: &'static str, held: RefusedObject) {
        if self.held.is_empty() {
            self.copies_before = self.copies.count();
        }
        self.kind = Some(kind);
        self.held.push(held);
    }

    /// Describes the series, with an example.
    fn reason(&self) -> String {
        let example = self
            .held
            .last()
            .and_then(|held| match &held.receipt.ending {
                Ending::Failed { error } => Some(format!(
                    " ({} {}: {})",
                    error.operation,
                    error.code,
                    error.message.trim_end_matches('.')
                )),
                _ => None,
            });
        format!(
            "{} objects in a row were refused alike{}",
            self.held.len(),
            example.unwrap_or_default()
        )
    }

    /// Returns the warning for a run that pauses.
    fn pausing(&self) -> String {
        format!(
            "pausing: {}. Single objects are tried for up to {}; `max_failures: none` (--max-failures none) \
             continues anyway",
            self.reason(),
            display_duration(self.patience)
        )
    }

    /// Returns the reason to end a paused run.
    fn giving_up(&self) -> String {
        format!(
            "{}, and none succeeded for {}. The next session tries them again; `max_failures: none` (--max-failures \
             none) runs the job to its end anyway",
            self.reason(),
            display_duration(self.patience)
        )
    }
}

impl Conductor<'_> {
    /// Holds back a refused object, and returns any other object. `is_single` is false if newer
    /// versions of the same key follow: they wait for the result, so the object cannot be held
    /// back.
    pub(super) fn end_or_hold(
        &mut self,
        held: RefusedObject,
        is_single: bool,
    ) -> Option<RefusedObject> {
        if !self.series.is_enabled {
            return Some(held);
        }
        match self.series.judge(&held.receipt.ending) {
            SeriesEffect::Joins(kind)
                if is_single && !self.breaker.is_armed() && self.outcome.gave_up.is_none() =>
            {
                if self.series.is_ended_by(kind) {
                    self.break_series();
                }
                self.series.hold(kind, held);
                None
            }
            SeriesEffect::Ends => {
                self.break_series();
                Some(held)
            }
            SeriesEffect::Joins(_) | SeriesEffect::Nothing => Some(held),
        }
    }

    /// Ends the series. If the run was paused, the cause has ended and the held objects are tried
    /// again. Otherwise the held objects have failed.
    fn break_series(&mut self) {
        let was_paused = self.series.is_paused();
        let held = self.series.take();
        self.series.copies_before = self.series.copies.count();
        if was_paused {
            for running in self.transfers.values() {
                running.context.refusals.ask_again();
            }
            let is_paused = false;
            self.monitor.observe(&Event::Paused { is_paused });
            tracing::warn!(
                name: "back",
                objects = held.len(),
                "resuming: an object was copied again; trying {} objects again",
                held.len()
            );
            let again = held
                .into_iter()
                .map(|RefusedObject { transfer, step, .. }| Queued {
                    transfer,
                    step,
                    permits: None,
                });
            self.waiting.push_all_first(again);
            return;
        }
        for RefusedObject {
            transfer,
            step,
            receipt,
        } in held
        {
            self.end_or_suspect(transfer, step.object, receipt, false);
            self.count_over(transfer);
        }
    }

    /// Pauses the run after a long series. Ends a short one if no object is left that could
    /// continue it.
    pub(super) fn pause_or_settle(&mut self) {
        if self.stop.is_cancelled() || self.series.held.is_empty() || self.series.is_paused() {
            return;
        }
        if (self.series.held.len() as u64) < LIMIT {
            let is_idle =
                self.open.is_empty() && self.waiting.len() == 0 && self.planned().next().is_none();
            if is_idle {
                self.break_series();
            }
            return;
        }
        let (now, interval) = (Instant::now(), self.series.probes.0);
        tracing::warn!(name: "paused", "{}", self.series.pausing());
        let is_paused = true;
        self.monitor.observe(&Event::Paused { is_paused });
        self.series.pause = Some(Pause {
            since: AwakeInstant::at(now),
            next: now + interval,
            interval,
            tries_refused: true,
        });
    }

    /// Tries one more object of a paused run once no object is in flight, or gives up.
    pub(super) fn check_pause(&mut self) {
        let Some(mut pause) = self.series.pause else {
            return;
        };
        if self.series.has_copied() {
            return self.break_series();
        }
        let now = Instant::now();
        if self.open.is_empty() {
            if pause.since.until(now) >= self.series.patience {
                return self.give_up_series();
            }
            self.probe(&mut pause);
            pause.interval = (pause.interval * 2).min(self.series.probes.1);
        }
        // The last check happens when the patience ends, not up to one interval later.
        let left = self.series.patience.saturating_sub(pause.since.until(now));
        let end = now + left;
        pause.next = if now < end {
            (now + pause.interval).min(end)
        } else {
            now + self.series.probes.0
        };
        self.series.pause = Some(pause);
    }

    /// Starts one object of a paused run: alternately a refused object and a waiting one.
    fn probe(&mut self, pause: &mut Pause) {
        let fresh = if pause.tries_refused {
            None
        } else {
            self.waiting.pop_any()
        };
        pause.tries_refused = !pause.tries_refused;
        if let Some(queued) = fresh {
            return self.spawn(queued);
        }
        if !self.series.held.is_empty() {
            // Take the object that was tried least recently.
            let RefusedObject { transfer, step, .. } = self.series.held.remove(0);
            self.spawn(Queued {
                transfer,
                step,
                permits: None,
            });
        }
    }

    fn give_up_series(&mut self) {
        if self.outcome.gave_up.is_some() {
            return;
        }
        let reason = self.series.giving_up();
        tracing::warn!(name: "giving_up", "giving up: {reason}");
        self.outcome.gave_up = Some(GaveUp {
            reason,
            may_pass_later: true,
        });
        self.stop.cancel();
    }

    /// Leaves the objects of a series to the next session.
    pub(super) fn end_series(&mut self) {
        for RefusedObject {
            transfer,
            step,
            receipt,
        } in self.series.take()
        {
            self.end_with(
                transfer,
                step.object,
                &Receipt {
                    ending: Ending::Stopped,
                    ..receipt
                },
            );
            self.count_over(transfer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::receipt::Draft;
    use crate::listing::Entry;
    use crate::location::ObjectKey;
    use crate::plan::decide::Skip;
    use crate::s3::{ArchiveState, Failure, Operation};

    fn failed(kind: FailureKind) -> Ending {
        Ending::Failed {
            error: (&Failure::new(kind, Operation::CopyObject, "b/k", "")).into(),
        }
    }

    #[test]
    fn only_refusals_that_say_nothing_about_the_object_make_a_series() {
        let times = (Duration::ZERO, (Duration::ZERO, Duration::ZERO));
        let mut series = Series::new(None, Copies::default(), times);
        for (ending, verdict) in [
            (failed(FailureKind::Denied), SeriesEffect::Joins("denied")),
            (
                failed(FailureKind::Throttled),
                SeriesEffect::Joins("throttled"),
            ),
            (failed(FailureKind::Archived), SeriesEffect::Ends),
            (failed(FailureKind::NotFound), SeriesEffect::Ends),
            (failed(FailureKind::Unreachable), SeriesEffect::Nothing),
            (
                Ending::Skipped {
                    reason: Skip::Present,
                },
                SeriesEffect::Nothing,
            ),
            (Ending::Stopped, SeriesEffect::Nothing),
        ] {
            assert_eq!(series.judge(&ending), verdict, "{ending:?}");
        }
        let now = Instant::now();
        let interval = Duration::ZERO;
        series.pause = Some(Pause {
            since: AwakeInstant::at(now),
            next: now,
            interval,
            tries_refused: true,
        });
        assert_eq!(
            series.judge(&failed(FailureKind::NotFound)),
            SeriesEffect::Nothing,
            "no copy"
        );
    }

    #[test]
    fn another_refusal_ends_a_series_but_not_a_pause() {
        let copies = Copies::default();
        let times = (Duration::ZERO, (Duration::ZERO, Duration::ZERO));
        let mut series = Series::new(None, copies.clone(), times);
        assert!(!series.is_ended_by("denied"), "there is no series yet");
        series.kind = Some("denied");
        assert!(!series.is_ended_by("denied") && series.is_ended_by("throttled"));
        let now = Instant::now();
        series.pause = Some(Pause {
            since: AwakeInstant::at(now),
            next: now,
            interval: Duration::ZERO,
            tries_refused: true,
        });
        assert!(!series.is_ended_by("throttled"), "nothing was copied");
        copies.note();
        assert!(series.is_ended_by("throttled") && series.is_ended_by("denied"));
    }

    #[test]
    fn a_pause_and_its_end_are_told() {
        let times = (Duration::from_mins(15), (Duration::ZERO, Duration::ZERO));
        let mut series = Series::new(None, Copies::default(), times);
        for _ in 0..300 {
            let key: ObjectKey = "k".parse().unwrap();
            let entry = Entry {
                key: key.clone(),
                relative_at: 0,
                size: 1,
                etag: None,
                version: None,
                modified: None,
                storage_class: None,
                archive: ArchiveState::Readable,
            };
            let receipt = Draft::of_size(1).receipt(
                "t".to_owned(),
                "s3://a/k".to_owned(),
                "s3://b/k".to_owned(),
                Duration::ZERO,
                failed(FailureKind::Denied),
            );
            let step = Box::new(Step::without_work(entry, key));
            let held = RefusedObject {
                transfer: 0,
                step,
                receipt,
            };
            series.hold("denied", held);
        }
        insta::assert_snapshot!(series.pausing(), @"pausing: 300 objects in a row were refused alike (CopyObject denied: ). Single objects are tried for up to 15m 00s; `max_failures: none` (--max-failures none) continues anyway");
        insta::assert_snapshot!(series.giving_up(), @"300 objects in a row were refused alike (CopyObject denied: ), and none succeeded for 15m 00s. The next session tries them again; `max_failures: none` (--max-failures none) runs the job to its end anyway");
    }

    #[test]
    fn copied_bytes_are_noticed() {
        let copies = Copies::default();
        let series = Series::new(
            None,
            copies.clone(),
            (Duration::ZERO, (Duration::ZERO, Duration::ZERO)),
        );
        assert!(!series.has_copied());
        copies.note();
        assert!(series.has_copied());
    }
}
