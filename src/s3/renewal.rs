//! Decides when a provider is asked for credentials, and what requests do in the meantime. The
//! module is pure: the time is an argument.
//!
//! Only one renewal runs at a time. A renewal without a new set is followed by a pause, which grows
//! with each further one, because asking more often does not help a provider that fails, or that
//! lags and repeats an old set. The cached set is used until it expires. A set that the server
//! refuses is no longer used, except by one request after each renewal that brought no other set.
//! The response to that request shows whether the refusal has passed.

use std::time::Duration;

use tokio::time::Instant;

use super::Failure;
use super::credentials::NoIdentity;
use crate::awake::AwakeInstant;

/// The longest pause between two renewals: the first value applies if the provider has given
/// credentials before, the second if it has not.
const LONGEST: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));
/// The pause after the first renewal without a new set.
const FIRST: Duration = Duration::from_secs(1);
/// The shortest time between two renewals that a 403 causes.
const DENIED: Duration = Duration::from_mins(1);
/// The time after which a message says that the provider has not answered.
const SILENT: Duration = Duration::from_secs(1);
/// The longest time before the expiry of a set at which it is renewed.
const LEAD: Duration = Duration::from_mins(5);

/// Returns the time before its expiry at which a set that lasts for `remaining` is renewed.
pub(super) fn lead(remaining: Duration) -> Duration {
    (remaining / 4).min(LEAD)
}

/// The properties of the cached set of credentials that affect a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct CachedSet {
    /// True if the expiry of the set is known, as with providers that renew their sets.
    pub(super) has_end: bool,
    /// True if it is time to renew the set.
    pub(super) is_due: bool,
}

/// The next step of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RequestStep {
    /// The request is sent. If `renew` is true, a renewal starts at the same time.
    Go { renew: bool },
    /// The request waits for this long, or until something changes. If `renew` is true, a renewal
    /// starts.
    Wait { at_most: Duration, renew: bool },
    /// The provider will not give any credentials.
    None(NoIdentity),
    /// The server refuses the set, and there will be no other one.
    Refused(Box<Failure>),
}

/// The result of an inquiry for a newer set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inquiry {
    /// A renewal starts.
    Begins,
    /// A renewal is under way already.
    UnderWay,
    /// The provider was asked not long ago.
    None,
}

/// The result of a renewal.
#[derive(Clone, Debug)]
pub(super) enum RenewalResult {
    /// Another set of credentials.
    New,
    /// The same set that is cached.
    Same,
    /// No usable set, for this reason.
    Nothing(NoIdentity),
}

/// A wait for credentials.
#[derive(Clone, Debug)]
pub(super) struct CredentialWait {
    since: AwakeInstant,
    /// True once the wait was logged.
    pub(super) is_logged: bool,
}

/// The state of the credentials of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum CredentialProgress {
    /// The provider has given none.
    #[default]
    Missing,
    /// The provider has given a set.
    Given,
    /// The server has accepted a set.
    Accepted,
}

/// A set that the server refused.
#[derive(Clone, Debug)]
struct RefusedSet {
    generation: u64,
    failure: Failure,
    at: Instant,
    /// True if one request may find out whether the refusal has passed.
    permit: bool,
}

/// The credentials of one endpoint over time.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// The time at which the current renewal began.
    under_way: Option<Instant>,
    /// The time of the last renewal that a 403 caused.
    denied_at: Option<Instant>,
    /// The number of renewals in a row without a new set that the server accepted.
    unsuccessful: u32,
    /// The earliest time of the next renewal.
    not_before: Option<Instant>,
    /// Set while requests wait.
    wait: Option<CredentialWait>,
    refusal: Option<RefusedSet>,
    /// The failure of the last renewal.
    pub(super) error: Option<NoIdentity>,
    progress: CredentialProgress,
    /// True while the cached set has replaced a refused one, and the server has not accepted it
    /// yet.
    is_on_trial: bool,
    /// True once the log has warned that the cached set, which is still valid, cannot be renewed.
    is_warned: bool,
}

impl Renewal {
    /// Decides what a request does now. `set` is the cached set, or `None` if it has expired.
    pub(super) fn step(&mut self, now: Instant, set: Option<CachedSet>) -> RequestStep {
        if let Some(set) = set {
            let is_accepted = self.is_accepted();
            let lags = set.has_end
                && self
                    .refusal
                    .as_ref()
                    .is_some_and(|it| it.failure.is_about_expiry());
            let Some(refusal) = &mut self.refusal else {
                return RequestStep::Go {
                    renew: set.is_due && self.begin(now),
                };
            };
            if std::mem::take(&mut refusal.permit) {
                return RequestStep::Go { renew: false };
            }
            // A key that was never accepted is wrong, and stays wrong.
            if !is_accepted && !lags {
                return RequestStep::Refused(Box::new(refusal.failure.clone()));
            }
        } else if let Some(error) = self.error.as_ref().filter(|error| !error.may_pass) {
            return RequestStep::None(error.clone());
        }
        self.wait.get_or_insert(CredentialWait {
            since: AwakeInstant::at(now),
            is_logged: false,
        });
        let renew = self.begin(now);
        let at_most = match self.not_before {
            Some(not_before) if self.under_way.is_none() => {
                not_before.saturating_duration_since(now)
            }
            _ => LONGEST.0,
        };
        RequestStep::Wait { at_most, renew }
    }

    /// Starts a renewal if one may start, and returns true if so.
    fn begin(&mut self, now: Instant) -> bool {
        let may =
            self.under_way.is_none() && self.not_before.is_none_or(|not_before| not_before <= now);
        if may {
            self.under_way = Some(now);
        }
        may
    }

    /// Decides whether to ask the provider for a newer set after a 403.
    pub(super) fn denied(&mut self, now: Instant) -> Inquiry {
        let is_recent = self
            .denied_at
            .is_some_and(|at| now.saturating_duration_since(at) < DENIED);
        if self.under_way.is_some() {
            Inquiry::UnderWay
        } else if !is_recent && (self.unsuccessful == 0 || self.begin(now)) {
            self.under_way = Some(now);
            self.denied_at = Some(now);
            Inquiry::Begins
        } else {
            Inquiry::None
        }
    }

    /// Returns true while a renewal is under way.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Returns true if the last renewal failed and the next one has not begun. During a renewal,
    /// which any request may have started, the last error says nothing.
    pub(super) fn is_paused(&self) -> bool {
        self.error.is_some() && !self.is_under_way()
    }

    /// Records the result of a renewal. Returns the length of the wait for it, if the log has
    /// reported it.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        result: RenewalResult,
        chance: f64,
    ) -> Option<Duration> {
        self.under_way = None;
        let is_new = matches!(result, RenewalResult::New);
        let has_set = !matches!(result, RenewalResult::Nothing(_));
        self.is_on_trial = is_new && (self.refusal.is_some() || self.is_on_trial);
        self.unsuccessful = if is_new && !self.is_on_trial {
            0
        } else {
            self.unsuccessful.saturating_add(1)
        };
        let longest = if self.has_worked() {
            LONGEST.0
        } else {
            LONGEST.1
        };
        let full = FIRST
            .saturating_mul(1 << self.unsuccessful.saturating_sub(1).min(10))
            .min(longest);
        self.not_before = Some(now + full.mul_f64(f64::midpoint(1.0, chance.clamp(0.0, 1.0))));
        match result {
            RenewalResult::New => {
                self.refusal = None;
                self.is_warned = false;
            }
            RenewalResult::Same => {}
            RenewalResult::Nothing(error) => {
                self.error = Some(error);
            }
        }
        if let Some(refusal) = &mut self.refusal {
            refusal.permit = true;
        }
        if !has_set {
            return None;
        }
        self.progress = self.progress.max(CredentialProgress::Given);
        self.error = None;
        if self.refusal.is_some() {
            None
        } else {
            self.end_wait(now)
        }
    }

    /// Ends the wait. Returns its length if the log has reported it.
    fn end_wait(&mut self, now: Instant) -> Option<Duration> {
        let wait = self.wait.take()?;
        wait.is_logged.then(|| wait.since.until(now))
    }

    /// Records that the server refused the cached set.
    pub(super) fn refused(&mut self, at: Instant, generation: u64, failure: &Failure) {
        if self
            .refusal
            .as_ref()
            .is_none_or(|refusal| refusal.generation != generation)
        {
            let failure = failure.clone();
            self.refusal = Some(RefusedSet {
                generation,
                failure,
                at,
                permit: false,
            });
        }
    }

    /// Records that the server accepted the cached set in a request sent at `sent`. Returns the
    /// length of the wait for that, if the log has reported it.
    pub(super) fn accepted(&mut self, now: Instant, sent: Instant) -> Option<Duration> {
        self.progress = CredentialProgress::Accepted;
        if std::mem::take(&mut self.is_on_trial) {
            self.unsuccessful = 0;
        }
        // The response to a request sent before the refusal says nothing about it.
        self.refusal.take_if(|refusal| refusal.at < sent)?;
        self.end_wait(now)
    }

    /// Returns true once the server has accepted a set.
    pub(super) fn is_accepted(&self) -> bool {
        self.progress == CredentialProgress::Accepted
    }

    /// Returns true once the provider has given a set.
    pub(super) fn has_worked(&self) -> bool {
        self.progress >= CredentialProgress::Given
    }

    /// Returns true while the cached set is refused.
    pub(super) fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// Returns the time for which requests have been waiting.
    pub(super) fn waiting_for(&self, now: Instant) -> Duration {
        self.wait
            .as_ref()
            .map_or(Duration::ZERO, |wait| wait.since.until(now))
    }

    /// Returns true at the first call during a wait.
    pub(super) fn tell(&mut self) -> bool {
        self.wait
            .as_mut()
            .is_some_and(|wait| !std::mem::replace(&mut wait.is_logged, true))
    }

    /// Returns true at the first call for a set.
    pub(super) fn warn(&mut self) -> bool {
        !std::mem::replace(&mut self.is_warned, true)
    }

    /// Describes why there are no usable credentials. `provider` is the name of the provider.
    pub(super) fn reason(&self, provider: &str, now: Instant) -> String {
        let silent_for = self
            .under_way
            .map(|since| now.saturating_duration_since(since))
            .filter(|silent_for| *silent_for >= SILENT);
        if let Some(silent_for) = silent_for {
            let seconds = silent_for.as_secs();
            let mut reason = format!("{provider}: no answer yet after {seconds} s");
            if let Some(refusal) = &self.refusal {
                let code = &refusal.failure.details().code;
                reason = format!("{reason} (the server refuses the old set: {code})");
            }
            return reason;
        }
        match (&self.refusal, &self.error) {
            (_, Some(error)) => error.message.clone(),
            (Some(refusal), None) => {
                let details = refusal.failure.details();
                format!(
                    "{provider}: the server refuses the set that it gives ({})",
                    details.code
                )
            }
            (None, None) => format!("{provider}: no answer yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::{FailureKind, Operation};

    const HELD: CachedSet = CachedSet {
        has_end: true,
        is_due: false,
    };

    fn nothing(may_pass: bool) -> RenewalResult {
        RenewalResult::Nothing(NoIdentity {
            may_pass,
            message: "HTTP 500".to_owned(),
        })
    }

    fn refusal() -> Failure {
        Failure::new(
            FailureKind::Credentials,
            Operation::CopyObject,
            "b/k",
            "InvalidAccessKeyId",
        )
    }

    /// Returns the number of renewals that many requests cause in an hour while the provider fails.
    fn renewals(set: Option<CachedSet>, result: &RenewalResult, refused: bool) -> u32 {
        let (start, mut renewal, mut count) = (Instant::now(), Renewal::default(), 0);
        renewal.accepted(start, start);
        for tenth in 0..36_000 {
            let now = start + Duration::from_millis(100) * tenth;
            if refused {
                renewal.refused(now, 1, &refusal());
            }
            for _ in 0..5 {
                match renewal.step(now, set) {
                    RequestStep::Go { renew: true } | RequestStep::Wait { renew: true, .. } => {
                        count += 1;
                    }
                    _ => continue,
                }
                renewal.ended(now, result.clone(), 0.0);
            }
        }
        count
    }

    #[test]
    fn a_renewal_that_another_request_has_started_is_waited_for() {
        let (mut now, mut renewal) = (Instant::now(), Renewal::default());
        assert!(matches!(
            renewal.step(now, None),
            RequestStep::Wait { renew: true, .. }
        ));
        assert!(!renewal.is_paused(), "the first one is under way");
        renewal.ended(now, nothing(true), 0.0);
        assert!(renewal.is_paused());
        now += LONGEST.0 + LONGEST.1;
        for renew in [true, false] {
            let step = renewal.step(now, None);
            assert!(
                matches!(step, RequestStep::Wait { renew: begins, .. } if begins == renew),
                "{step:?}"
            );
            assert!(!renewal.is_paused(), "the old error says nothing now");
        }
    }

    #[test]
    fn a_sick_provider_is_asked_twice_a_minute_at_most() {
        let due = Some(CachedSet {
            is_due: true,
            ..HELD
        });
        for (set, result, refused) in [
            (None, nothing(true), false),
            (due, nothing(true), false),
            (due, RenewalResult::Same, false),
            (Some(HELD), RenewalResult::Same, true),
            (Some(HELD), RenewalResult::New, true),
        ] {
            let count = renewals(set, &result, refused);
            assert!(
                (100..260).contains(&count),
                "{count} renewals: {set:?} {result:?}"
            );
        }
    }

    /// Checks that missing permissions do not cause many renewals.
    #[test]
    fn a_provider_is_asked_once_a_minute_because_of_requests_that_are_not_allowed() {
        for result in [RenewalResult::Same, RenewalResult::New, nothing(true)] {
            let (start, mut renewal, mut count) = (Instant::now(), Renewal::default(), 0);
            assert!(renewal.begin(start));
            assert_eq!(renewal.denied(start), Inquiry::UnderWay);
            renewal.ended(start, RenewalResult::New, 1.0);
            for tenth in 0..6_000 {
                let now = start + Duration::from_millis(100) * tenth;
                if renewal.denied(now) == Inquiry::Begins {
                    count += 1;
                    renewal.ended(now, result.clone(), 1.0);
                }
            }
            assert_eq!(count, 10, "{result:?}");
        }
    }

    #[test]
    fn a_provider_that_is_silent_is_named_before_the_refusal_of_the_old_set() {
        let (now, mut renewal) = (Instant::now(), Renewal::default());
        renewal.accepted(now, now);
        renewal.refused(now, 1, &refusal());
        renewal.step(now, Some(HELD));
        let later = now + Duration::from_secs(7);
        let said = renewal.reason("container", later);
        assert!(
            said.starts_with(
                "container: no answer yet after 7 s (the server refuses the old set: "
            ),
            "{said}"
        );
    }

    #[test]
    fn one_request_finds_out_if_a_refusal_has_passed() {
        let (now, mut renewal) = (Instant::now(), Renewal::default());
        renewal.accepted(now, now);
        renewal.refused(now, 1, &refusal());
        assert!(matches!(
            renewal.step(now, Some(HELD)),
            RequestStep::Wait { renew: true, .. }
        ));
        assert!(
            matches!(
                renewal.step(now, Some(HELD)),
                RequestStep::Wait { renew: false, .. }
            ),
            "one at a time"
        );
        renewal.ended(now, RenewalResult::Same, 1.0);
        assert_eq!(
            renewal.step(now, Some(HELD)),
            RequestStep::Go { renew: false }
        );
        renewal.accepted(now, now);
        assert!(
            matches!(renewal.step(now, Some(HELD)), RequestStep::Wait { .. }),
            "the others wait for its answer"
        );
        renewal.accepted(now, now + FIRST);
        assert_eq!(
            renewal.step(now, Some(HELD)),
            RequestStep::Go { renew: false }
        );
    }

    #[test]
    fn requests_do_not_wait_for_a_permanent_failure() {
        let (now, mut renewal) = (Instant::now(), Renewal::default());
        renewal.refused(now, 1, &refusal());
        assert!(
            matches!(renewal.step(now, Some(HELD)), RequestStep::Refused(_)),
            "no server has taken this key"
        );
        let mut renewal = Renewal::default();
        assert!(matches!(
            renewal.step(now, None),
            RequestStep::Wait { renew: true, .. }
        ));
        renewal.ended(now, nothing(false), 1.0);
        assert!(matches!(renewal.step(now, None), RequestStep::None(_)));
    }
}
