//! Owns the credentials of an endpoint for the life of the process.
//!
//! [`Identities`] holds the current set of credentials. Each set has a number, its generation, so
//! that a refusal is attributed to the set that signed the request. A set is renewed before it
//! expires, while requests still use it; [`Renewal`] decides when. Requests wait here before they
//! are sent, not inside the SDK, where the wait would look like a silent server. The SDK's
//! providers read profiles and files only once, so each renewal builds a new provider.
//!
//! All failures to get credentials pass through here and get their messages from [`credentials`].

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::config::{ConfigBag, Credentials, ResolveCachedIdentity, RuntimeComponents};
use aws_smithy_async::time::TimeSource as _;
use aws_smithy_runtime_api::client::identity::{Identity, IdentityFuture, SharedIdentityResolver};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Failure;
use super::clock::{Clock, Signing};
use super::credential_chain::{ANSWER, CredentialProvider};
use super::credentials::{self, CredentialOrigin, NoIdentity};
use super::guard::{Panicked, guarded};
use super::renewal::{CachedSet, Inquiry, Renewal, RenewalResult, RequestStep, lead};
use crate::awake::AwakeInstant;
use crate::endpoint::CredentialSource;
use crate::size::display_duration;

/// The longest wait for a newer set after a 403.
const NEWER: Duration = Duration::from_secs(10);
/// The log reports a wait that takes longer than this.
const SILENT: Duration = Duration::from_secs(2);

/// The owner of an endpoint's credentials. Cheap to clone.
#[derive(Clone)]
pub(super) struct Identities(Arc<IdentityState>);

struct IdentityState {
    provider: CredentialProvider,
    /// The origin of the credentials, for messages.
    origin: CredentialOrigin,
    clock: Clock,
    cached: ArcSwapOption<CachedIdentity>,
    renewal: Mutex<Renewal>,
    /// False while the cached set is refused.
    is_calm: AtomicBool,
    /// Notified when a renewal ends, and when a refusal is over.
    changed: Notify,
    /// The number of requests that wait for credentials now.
    waiting: AtomicUsize,
    /// The latest set that the server accepted, and the time at which the request was sent.
    proven: Mutex<Option<(u64, Instant)>>,
}

/// A set of credentials.
pub(super) struct CachedIdentity {
    pub(super) identity: Identity,
    pub(super) generation: u64,
    /// The expiry, by the clock of the issuer.
    end: Option<SystemTime>,
    /// The time at which the provider returned the set.
    since: Instant,
}

impl CachedIdentity {
    /// Returns true if it is time to renew the set, even if the clock was corrected after the set
    /// arrived.
    fn is_due(&self, clock: &Clock) -> bool {
        let Some(end) = self.end else { return false };
        let is_due = |now: SystemTime| {
            let came = now.checked_sub(self.since.elapsed()).unwrap_or(now);
            let lasts = end.duration_since(came).ok()?;
            let left = end.duration_since(now).unwrap_or_default();
            Some(left <= lead(lasts))
        };
        // If the set had expired on arrival by one clock, its issuer uses the other one.
        is_due(clock.now())
            .or_else(|| is_due(clock.uncorrected()))
            .unwrap_or(true)
    }
}

/// The reason why a request is not sent.
#[derive(Clone, Debug)]
pub enum NotReady {
    /// There are no credentials, and there will be none. Names the provider and the reason.
    NoCredentials(String),
    /// The provider gave no credentials within the patience. Names the provider and the reason.
    Unavailable(String),
    /// The server refuses the credentials, and there will be no others.
    Refused(Box<Failure>),
}

impl Identities {
    pub(super) fn new(
        provider: CredentialProvider,
        origin: CredentialOrigin,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(IdentityState {
            provider,
            origin,
            clock,
            cached: ArcSwapOption::empty(),
            renewal: Mutex::default(),
            is_calm: AtomicBool::new(true),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
            proven: Mutex::default(),
        }))
    }

    /// Returns the clock that dates signatures.
    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Returns the generation of the cached set, counted from 1, or 0 before there is one.
    pub(super) fn generation(&self) -> u64 {
        self.0
            .cached
            .load()
            .as_ref()
            .map_or(0, |cached| cached.generation)
    }

    /// Returns the source of the credentials, once a provider has returned some.
    pub(super) fn source(&self) -> Option<&CredentialSource> {
        self.0.provider.used()
    }

    /// Returns true if the provider never gives another set.
    pub(super) fn is_fixed(&self) -> bool {
        self.0.provider.is_fixed()
    }

    /// Returns true once the server has accepted a set.
    pub(super) fn is_accepted(&self) -> bool {
        self.renewal().is_accepted()
    }

    /// Describes the provider that requests wait for now, and the reason, if any request waits.
    pub(super) fn awaited(&self) -> Option<String> {
        (self.0.waiting.load(Ordering::Acquire) > 0).then(|| self.reason())
    }

    fn reason(&self) -> String {
        let provider = self.provider();
        self.renewal().reason(&provider, Instant::now())
    }

    fn provider(&self) -> String {
        let link = self.0.provider.last_asked();
        credentials::with_machine(|machine| machine.asked(&self.0.origin, link.as_ref()))
    }

    fn renewal(&self) -> MutexGuard<'_, Renewal> {
        self.0
            .renewal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the cached set, unless it has expired.
    fn usable(&self) -> Option<Arc<CachedIdentity>> {
        let cached = self.0.cached.load_full()?;
        let is_over = cached
            .identity
            .expiration()
            .is_some_and(|end| self.0.clock.is_past(end));
        (!is_over).then_some(cached)
    }

    /// Waits until a request may be sent with the cached set.
    ///
    /// # Errors
    /// Returns [`NotReady`] if no credentials can be expected, if they are refused, or after a
    /// wait: of this request for `left` or, without `left`, of all requests for `patience`.
    pub(super) async fn ready(
        &self,
        patience: Duration,
        left: Option<Duration>,
    ) -> Result<(), NotReady> {
        let (began, mut waiting) = (AwakeInstant::now(), None);
        loop {
            // The waiter is registered before `step`, so that it does not miss the end of a renewal
            // in between.
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let wait = match self.step() {
                RequestStep::Go { .. } => return Ok(()),
                RequestStep::Wait { at_most, .. } => at_most,
                RequestStep::None(NoIdentity { message, .. }) => {
                    return Err(NotReady::NoCredentials(message));
                }
                RequestStep::Refused(failure) => return Err(NotReady::Refused(failure)),
            };
            waiting.get_or_insert_with(|| WaitingRequest::new(&self.0.waiting));
            let waited = self.renewal().waiting_for(Instant::now());
            let left = match left {
                Some(left) => left.saturating_sub(began.elapsed()),
                None => patience.saturating_sub(waited),
            };
            if left.is_zero() {
                return Err(NotReady::Unavailable(self.reason()));
            }
            if waited >= SILENT {
                self.tell(&display_duration(left));
            }
            let wait = wait.min(left).min(SILENT).max(Duration::from_millis(1));
            tokio::select! {
                () = changed => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// Decides what a request does now, and starts a renewal if one is due.
    fn step(&self) -> RequestStep {
        let usable = self.usable();
        let now = Instant::now();
        let is_due = usable
            .as_ref()
            .is_some_and(|cached| cached.is_due(&self.0.clock));
        if usable.is_some() && !is_due && self.0.is_calm.load(Ordering::Acquire) {
            return RequestStep::Go { renew: false };
        }
        let set = usable.map(|cached| CachedSet {
            has_end: cached.end.is_some(),
            is_due,
        });
        let step = self.renewal().step(now, set);
        if let RequestStep::Go { renew: true } | RequestStep::Wait { renew: true, .. } = step {
            self.begin_renewal();
        }
        step
    }

    fn begin_renewal(&self) {
        let owner = self.clone();
        tokio::spawn(async move { owner.renew().await });
    }

    /// Returns true if there is a newer set than this one, which signed a request that got a 403.
    /// Asks the provider for one, because a revoked session gets only 403s.
    pub(super) async fn has_newer(&self, generation: u64) -> bool {
        if self.is_fixed() || !self.is_session() {
            return self.generation() > generation;
        }
        let inquiry = self.renewal().denied(Instant::now());
        match inquiry {
            Inquiry::Begins => self.begin_renewal(),
            Inquiry::UnderWay => {}
            Inquiry::None => return self.generation() > generation,
        }
        let deadline = Instant::now() + NEWER;
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let is_over = !self.renewal().is_under_way() || Instant::now() >= deadline;
            if is_over || self.generation() > generation {
                return self.generation() > generation;
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(deadline) => {}
            }
        }
    }

    /// Returns true if the cached set is that of a session.
    fn is_session(&self) -> bool {
        let cached = self.0.cached.load();
        let credentials = cached
            .as_ref()
            .and_then(|cached| cached.identity.data::<Credentials>());
        credentials.is_some_and(|credentials| credentials.session_token().is_some())
    }

    /// Logs once what requests wait for. Until the provider has given any credentials, the first
    /// contact with the servers logs the wait instead.
    fn tell(&self, left: &str) {
        let mut renewal = self.renewal();
        if renewal.has_worked() && renewal.tell() {
            drop(renewal);
            let reason = self.reason();
            tracing::warn!(name: "waiting", "waiting for credentials: {reason}; gives up in {left} (`patience`)");
        }
    }

    /// Asks the provider for credentials.
    async fn ask(&self) -> Result<Credentials, NoIdentity> {
        let passing = |reason: &str| NoIdentity {
            may_pass: true,
            message: format!("{}: {reason}", self.provider()),
        };
        // The provider of a profile stops its own program a second earlier and reports that.
        let limit = ANSWER + Duration::from_secs(1);
        match timeout(limit, guarded(self.0.provider.ask())).await {
            Ok(Ok(Ok(credentials))) => Ok(credentials),
            Ok(Ok(Err(error))) => {
                let has_worked = self.renewal().has_worked();
                let link = self.0.provider.last_asked();
                let (link, origin) = (link.as_ref(), &self.0.origin);
                Err(credentials::with_machine(|machine| {
                    credentials::explain(&error, origin, link, machine, has_worked)
                }))
            }
            Ok(Err(panicked)) => {
                let Panicked { place } = &panicked;
                tracing::debug!(place, "a provider of credentials panicked");
                Err(passing(&panicked.to_string()))
            }
            Err(_) => Err(passing(&format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// Asks the provider for credentials, and wakes the requests that wait.
    async fn renew(&self) {
        let answer = self.ask().await;
        let brought = answer.map_or_else(RenewalResult::Nothing, |credentials| {
            self.cache(credentials)
        });
        tracing::debug!(?brought, "asked for credentials");
        let is_usable = self.usable().is_some();
        let mut renewal = self.renewal();
        let error = if let RenewalResult::Nothing(error) = &brought {
            Some(error.message.clone())
        } else {
            None
        };
        let back_after = renewal.ended(Instant::now(), brought, fastrand::f64());
        self.0
            .is_calm
            .store(!renewal.is_refused(), Ordering::Release);
        let warns = error.is_some() && is_usable && !renewal.is_refused() && renewal.warn();
        drop(renewal);
        if let Some(error) = error.filter(|_| warns) {
            tracing::warn!(
                "the credentials cannot be renewed, the old ones are used for now: {error}"
            );
        }
        if let Some(waited) = back_after {
            tell_back("there are credentials again", waited);
        }
        self.0.changed.notify_waiters();
    }

    /// Stores a set that has not expired, and compares it with the previous one.
    fn cache(&self, credentials: Credentials) -> RenewalResult {
        let end = credentials.expiry();
        if end.is_some_and(|end| self.0.clock.is_past(end)) {
            let message = format!("{}: the set that it gives has expired", self.provider());
            return RenewalResult::Nothing(NoIdentity {
                may_pass: true,
                message,
            });
        }
        let last = self.0.cached.load_full();
        let is_same = last
            .as_ref()
            .and_then(|last| last.identity.data::<Credentials>())
            .is_some_and(|last| {
                last.access_key_id() == credentials.access_key_id()
                    && last.secret_access_key() == credentials.secret_access_key()
                    && last.session_token() == credentials.session_token()
            });
        // The provider may return the same set with a later expiry.
        let generation = last.map_or(0, |last| last.generation) + u64::from(!is_same);
        self.0.cached.store(Some(Arc::new(CachedIdentity {
            identity: credentials.into(),
            generation,
            end,
            since: Instant::now(),
        })));
        if is_same {
            RenewalResult::Same
        } else {
            RenewalResult::New
        }
    }

    /// Returns the set to sign a request with. Does not wait if it has expired since the request
    /// was [`ready`](Self::ready): that would count as silence of the server.
    pub(super) async fn to_sign(&self) -> Result<Arc<CachedIdentity>, NoIdentity> {
        if let Some(cached) = self.usable() {
            return Ok(cached);
        }
        if !self.renewal().has_worked() {
            return self.resolve().await;
        }
        if let RequestStep::None(error) = self.step() {
            return Err(error);
        }
        Err(NoIdentity {
            may_pass: true,
            message: self.reason(),
        })
    }

    /// Returns the cached set. Waits for one renewal if there is none or it has expired.
    async fn resolve(&self) -> Result<Arc<CachedIdentity>, NoIdentity> {
        if let Some(cached) = self.usable() {
            return Ok(cached);
        }
        let _waiting = WaitingRequest::new(&self.0.waiting);
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            match self.step() {
                RequestStep::None(error) => return Err(error),
                RequestStep::Wait { at_most, renew } => {
                    if !renew && self.renewal().is_paused() {
                        return Err(NoIdentity {
                            may_pass: true,
                            message: self.reason(),
                        });
                    }
                    tokio::select! {
                        () = changed => {}
                        () = sleep(at_most.max(Duration::from_millis(1))) => {}
                    }
                }
                RequestStep::Go { .. } | RequestStep::Refused(_) => {}
            }
            if let Some(cached) = self.usable() {
                return Ok(cached);
            }
        }
    }

    /// Records that the server refused a set, unless another set has replaced it already.
    pub(super) fn refused(&self, generation: u64, failure: &Failure) {
        let mut renewal = self.renewal();
        if self.generation() == generation {
            renewal.refused(Instant::now(), generation, failure);
            self.0.is_calm.store(false, Ordering::Release);
        }
    }

    /// Records that the server accepted this set in a request sent at `sent`.
    pub(super) fn accepted(&self, generation: u64, sent: Instant) {
        let mut proven = self.proven();
        let is_first = proven.is_none_or(|(last, _)| last != generation);
        if proven.is_none_or(|last| last < (generation, sent)) {
            *proven = Some((generation, sent));
        }
        drop(proven);
        if !is_first && self.0.is_calm.load(Ordering::Acquire) {
            return;
        }
        let mut renewal = self.renewal();
        if self.generation() != generation {
            return;
        }
        let back_after = renewal.accepted(Instant::now(), sent);
        self.0
            .is_calm
            .store(!renewal.is_refused(), Ordering::Release);
        drop(renewal);
        if let Some(waited) = back_after {
            tell_back("the server takes the credentials again", waited);
        }
        self.0.changed.notify_waiters();
    }

    /// Returns true if the server has accepted this set in a request sent after `sent`.
    pub(super) fn is_proven_since(&self, generation: u64, sent: Instant) -> bool {
        self.proven()
            .is_some_and(|proven| proven > (generation, sent))
    }

    fn proven(&self) -> MutexGuard<'_, Option<(u64, Instant)>> {
        self.0.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request as waiting for credentials until it is dropped.
struct WaitingRequest<'a>(&'a AtomicUsize);

impl<'a> WaitingRequest<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::AcqRel);
        Self(counter)
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities")
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

impl ResolveCachedIdentity for Identities {
    /// Returns the credentials that sign all requests of a client. The sessions of directory
    /// buckets have their own cache, which creates sessions with these credentials.
    fn resolve_cached_identity<'a>(
        &'a self,
        _: SharedIdentityResolver,
        _: &'a RuntimeComponents,
        config: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        IdentityFuture::new(async move {
            let cached = self.to_sign().await?;
            if let Some(signing) = config.load::<Signing>() {
                signing
                    .generation
                    .store(cached.generation, Ordering::Release);
            }
            Ok(cached.identity.clone())
        })
    }
}

impl ProvideCredentials for Identities {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let cached = self
                .resolve()
                .await
                .map_err(CredentialsError::provider_error)?;
            let credentials = cached.identity.data::<Credentials>().cloned();
            credentials.ok_or_else(|| CredentialsError::unhandled("these are no credentials"))
        })
    }
}

/// Logs that requests wait no longer.
fn tell_back(what: &str, waited: Duration) {
    let seconds = waited.as_secs_f64();
    tracing::warn!(name: "back", seconds, "{what} after {}", display_duration(waited));
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::DateTime;
    use aws_smithy_types::date_time::Format;

    use super::super::clock::refused_at;
    use super::*;

    fn cached(end: SystemTime) -> CachedIdentity {
        CachedIdentity {
            identity: Credentials::new("id", "secret", None, Some(end), "test").into(),
            generation: 1,
            end: Some(end),
            since: Instant::now(),
        }
    }

    #[test]
    fn a_set_is_due_by_the_clock_of_the_server() {
        let now = SystemTime::now();
        let minutes = |count| Duration::from_mins(count);
        let clock = Clock::default();
        let (long, short) = (cached(now + minutes(60)), cached(now + minutes(2)));
        assert!(!long.is_due(&clock) && !short.is_due(&clock));
        // This machine's clock was 59 minutes behind.
        let date = DateTime::from(now + minutes(59))
            .fmt(Format::HttpDate)
            .unwrap();
        refused_at(&clock, &date);
        assert!(
            !long.is_due(&clock),
            "it lasts for a minute and has just come"
        );
        let older = CachedIdentity {
            since: Instant::now().checked_sub(minutes(30)).unwrap(),
            ..cached(now + minutes(60))
        };
        assert!(older.is_due(&clock));
        // It has expired by the server's clock, but not by that of its issuer.
        assert!(!short.is_due(&clock));
        let longer = cached(now + minutes(120));
        assert!(!longer.is_due(&clock));
        // Now the clock is an hour ahead, so a set that looked expired is still valid.
        let date = DateTime::from(now - minutes(60))
            .fmt(Format::HttpDate)
            .unwrap();
        refused_at(&clock, &date);
        assert!(!long.is_due(&clock) && !older.is_due(&clock));
    }
}
