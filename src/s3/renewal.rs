//! Decides when to ask a provider for credentials, and what requests do meanwhile. Pure: the time
//! is an argument.
//!
//! One renewal is under way at a time. One that brings nothing new is followed by a pause that
//! grows, whatever it failed with: a provider that is sick, or that lags and repeats an old set, is
//! not helped by more questions. A set that is held is used until it expires. A set that the server
//! refuses is not used any more, except by one request after each renewal that brought no other:
//! its answer tells whether the refusal has passed.

use std::time::Duration;

use tokio::time::Instant;

use super::Failure;
use super::credentials::NoIdentity;
use crate::awake::AwakeInstant;

/// The longest pause between two renewals, once the provider has given credentials, and before.
const LONGEST: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));
/// The pause after one that brought nothing new.
const FIRST: Duration = Duration::from_secs(1);
/// The shortest time between two questions because a request was not allowed.
const DENIED: Duration = Duration::from_mins(1);
/// A provider that has not answered for this long is said to be silent.
const SILENT: Duration = Duration::from_secs(1);
/// The longest time before its end that a set is renewed at.
const LEAD: Duration = Duration::from_mins(5);

/// Returns how long before its end a set is renewed that lasts so long from now.
pub(super) fn lead(remaining: Duration) -> Duration {
    (remaining / 4).min(LEAD)
}

/// The set of credentials that is held, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set {
    /// True if it has a known end, as sets of providers that renew them have.
    pub(super) has_end: bool,
    /// True if its end is near.
    pub(super) is_due: bool,
}

/// The next step of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// The request is sent. If this is true, a renewal starts beside it.
    Go { renew: bool },
    /// The request waits for this long, or until something changes. If `renew` is true, a renewal
    /// starts.
    Wait { at_most: Duration, renew: bool },
    /// The provider will not give any credentials.
    None(NoIdentity),
    /// The server refuses the set, and there will be no other.
    Refused(Box<Failure>),
}

/// The decision whether to ask the provider for a newer set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inquiry {
    /// A renewal starts.
    Begins,
    /// It is asked already.
    UnderWay,
    /// It was asked not long ago.
    None,
}

/// The result of a renewal.
#[derive(Clone, Debug)]
pub(super) enum Brought {
    /// Another set.
    New,
    /// The set that is held.
    Same,
    /// No set that can be used, for this reason.
    Nothing(NoIdentity),
}

/// The reason why requests wait.
#[derive(Clone, Debug)]
pub(super) struct WaitReason {
    since: AwakeInstant,
    /// True once the log has said so.
    pub(super) is_told: bool,
}

/// The state of the credentials of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum CredentialProgress {
    /// The provider has given none.
    #[default]
    Missing,
    /// The provider has given a set.
    Given,
    /// The server has taken a set.
    Taken,
}

/// A set that the server refused.
#[derive(Clone, Debug)]
struct RefusedSet {
    generation: u64,
    failure: Failure,
    at: Instant,
    /// One request may find out whether the refusal has passed.
    permit: bool,
}

/// The credentials of one endpoint over time.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// The time at which the renewal began that is under way.
    under_way: Option<Instant>,
    /// The time at which the provider was last asked because of a request that was not allowed.
    denied_at: Option<Instant>,
    /// Renewals in a row without a new set that the server took.
    fruitless: u32,
    not_before: Option<Instant>,
    trouble: Option<WaitReason>,
    refusal: Option<RefusedSet>,
    /// The failure of the last renewal.
    pub(super) error: Option<NoIdentity>,
    progress: CredentialProgress,
    /// True for a set that replaced a refused one, until the server has taken it.
    is_on_trial: bool,
    /// True once the log has said that a set cannot be renewed that still lasts.
    is_warned: bool,
}

impl Renewal {
    /// Decides what a request does now. `set` is the set that is held, unless it has expired.
    pub(super) fn step(&mut self, now: Instant, set: Option<Set>) -> Step {
        if let Some(set) = set {
            let is_accepted = self.is_accepted();
            let lags = set.has_end
                && self
                    .refusal
                    .as_ref()
                    .is_some_and(|it| it.failure.is_about_expiry());
            let Some(refusal) = &mut self.refusal else {
                return Step::Go {
                    renew: set.is_due && self.begin(now),
                };
            };
            if std::mem::take(&mut refusal.permit) {
                return Step::Go { renew: false };
            }
            // A key that was never taken is wrong, and waiting does not make it right.
            if !is_accepted && !lags {
                return Step::Refused(Box::new(refusal.failure.clone()));
            }
        } else if let Some(error) = self.error.as_ref().filter(|error| !error.may_pass) {
            return Step::None(error.clone());
        }
        self.trouble.get_or_insert(WaitReason {
            since: AwakeInstant::at(now),
            is_told: false,
        });
        let renew = self.begin(now);
        let at_most = match self.not_before {
            Some(not_before) if self.under_way.is_none() => {
                not_before.saturating_duration_since(now)
            }
            _ => LONGEST.0,
        };
        Step::Wait { at_most, renew }
    }

    /// Begins a renewal if one may begin.
    fn begin(&mut self, now: Instant) -> bool {
        let may =
            self.under_way.is_none() && self.not_before.is_none_or(|not_before| not_before <= now);
        if may {
            self.under_way = Some(now);
        }
        may
    }

    /// Decides whether the provider is asked for a newer set because a request was not allowed.
    pub(super) fn denied(&mut self, now: Instant) -> Inquiry {
        let is_recent = self
            .denied_at
            .is_some_and(|at| now.saturating_duration_since(at) < DENIED);
        if self.under_way.is_some() {
            Inquiry::UnderWay
        } else if !is_recent && (self.fruitless == 0 || self.begin(now)) {
            self.under_way = Some(now);
            self.denied_at = Some(now);
            Inquiry::Begins
        } else {
            Inquiry::None
        }
    }

    /// Returns true while the provider is asked.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Records the end of a renewal. Returns how long requests waited for it if that is to be
    /// logged.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        brought: Brought,
        chance: f64,
    ) -> Option<Duration> {
        self.under_way = None;
        let is_new = matches!(brought, Brought::New);
        let has_set = !matches!(brought, Brought::Nothing(_));
        self.is_on_trial = is_new && (self.refusal.is_some() || self.is_on_trial);
        self.fruitless = if is_new && !self.is_on_trial {
            0
        } else {
            self.fruitless.saturating_add(1)
        };
        let longest = if self.has_worked() {
            LONGEST.0
        } else {
            LONGEST.1
        };
        let full = FIRST
            .saturating_mul(1 << self.fruitless.saturating_sub(1).min(10))
            .min(longest);
        self.not_before = Some(now + full.mul_f64(f64::midpoint(1.0, chance.clamp(0.0, 1.0))));
        match brought {
            Brought::New => {
                self.refusal = None;
                self.is_warned = false;
            }
            Brought::Same => {}
            Brought::Nothing(error) => {
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
            self.over(now)
        }
    }

    fn over(&mut self, now: Instant) -> Option<Duration> {
        let trouble = self.trouble.take()?;
        trouble.is_told.then(|| trouble.since.until(now))
    }

    /// Records that the server refused the set that is held.
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

    /// Records that the server accepted the set that is held, in a request that was `sent` at this
    /// time. Returns how long requests waited for that if it is to be logged.
    pub(super) fn accepted(&mut self, now: Instant, sent: Instant) -> Option<Duration> {
        self.progress = CredentialProgress::Taken;
        if std::mem::take(&mut self.is_on_trial) {
            self.fruitless = 0;
        }
        // The answer to an older request says nothing about a refusal.
        self.refusal.take_if(|refusal| refusal.at < sent)?;
        self.over(now)
    }

    /// Returns true once the server has accepted a set.
    pub(super) fn is_accepted(&self) -> bool {
        self.progress == CredentialProgress::Taken
    }

    /// Returns true once the provider has given a set.
    pub(super) fn has_worked(&self) -> bool {
        self.progress >= CredentialProgress::Given
    }

    /// Returns true while the set that is held is refused.
    pub(super) fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// Returns how long requests have been waiting.
    pub(super) fn waiting_for(&self, now: Instant) -> Duration {
        self.trouble
            .as_ref()
            .map_or(Duration::ZERO, |trouble| trouble.since.until(now))
    }

    /// Returns true the first time that it is called while requests wait.
    pub(super) fn tell(&mut self) -> bool {
        self.trouble
            .as_mut()
            .is_some_and(|trouble| !std::mem::replace(&mut trouble.is_told, true))
    }

    /// Returns true the first time that it is called for a set.
    pub(super) fn warn(&mut self) -> bool {
        !std::mem::replace(&mut self.is_warned, true)
    }

    /// Returns the reason why no credentials can be used, given the name of the provider.
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

    const HELD: Set = Set {
        has_end: true,
        is_due: false,
    };

    fn nothing(may_pass: bool) -> Brought {
        Brought::Nothing(NoIdentity {
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
    fn renewals(set: Option<Set>, brought: &Brought, refused: bool) -> u32 {
        let (start, mut renewal, mut count) = (Instant::now(), Renewal::default(), 0);
        renewal.accepted(start, start);
        for tenth in 0..36_000 {
            let now = start + Duration::from_millis(100) * tenth;
            if refused {
                renewal.refused(now, 1, &refusal());
            }
            for _ in 0..5 {
                match renewal.step(now, set) {
                    Step::Go { renew: true } | Step::Wait { renew: true, .. } => count += 1,
                    _ => continue,
                }
                renewal.ended(now, brought.clone(), 0.0);
            }
        }
        count
    }

    #[test]
    fn a_sick_provider_is_asked_twice_a_minute_at_most() {
        let due = Some(Set {
            is_due: true,
            ..HELD
        });
        for (set, brought, refused) in [
            (None, nothing(true), false),
            (due, nothing(true), false),
            (due, Brought::Same, false),
            (Some(HELD), Brought::Same, true),
            (Some(HELD), Brought::New, true),
        ] {
            let count = renewals(set, &brought, refused);
            assert!(
                (100..260).contains(&count),
                "{count} renewals: {set:?} {brought:?}"
            );
        }
    }

    /// Permissions that lack do not make the provider's life harder.
    #[test]
    fn a_provider_is_asked_once_a_minute_because_of_requests_that_are_not_allowed() {
        for brought in [Brought::Same, Brought::New, nothing(true)] {
            let (start, mut renewal, mut count) = (Instant::now(), Renewal::default(), 0);
            assert!(renewal.begin(start));
            assert_eq!(renewal.denied(start), Inquiry::UnderWay);
            renewal.ended(start, Brought::New, 1.0);
            for tenth in 0..6_000 {
                let now = start + Duration::from_millis(100) * tenth;
                if renewal.denied(now) == Inquiry::Begins {
                    count += 1;
                    renewal.ended(now, brought.clone(), 1.0);
                }
            }
            assert_eq!(count, 10, "{brought:?}");
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
    fn one_request_finds_out_whether_a_refusal_has_passed() {
        let (now, mut renewal) = (Instant::now(), Renewal::default());
        renewal.accepted(now, now);
        renewal.refused(now, 1, &refusal());
        assert!(matches!(
            renewal.step(now, Some(HELD)),
            Step::Wait { renew: true, .. }
        ));
        assert!(
            matches!(
                renewal.step(now, Some(HELD)),
                Step::Wait { renew: false, .. }
            ),
            "one at a time"
        );
        renewal.ended(now, Brought::Same, 1.0);
        assert_eq!(renewal.step(now, Some(HELD)), Step::Go { renew: false });
        renewal.accepted(now, now);
        assert!(
            matches!(renewal.step(now, Some(HELD)), Step::Wait { .. }),
            "the others wait for its answer"
        );
        renewal.accepted(now, now + FIRST);
        assert_eq!(renewal.step(now, Some(HELD)), Step::Go { renew: false });
    }

    #[test]
    fn what_cannot_pass_is_not_waited_for() {
        let (now, mut renewal) = (Instant::now(), Renewal::default());
        renewal.refused(now, 1, &refusal());
        assert!(
            matches!(renewal.step(now, Some(HELD)), Step::Refused(_)),
            "no server has taken this key"
        );
        let mut renewal = Renewal::default();
        assert!(matches!(
            renewal.step(now, None),
            Step::Wait { renew: true, .. }
        ));
        renewal.ended(now, nothing(false), 1.0);
        assert!(matches!(renewal.step(now, None), Step::None(_)));
    }
}
