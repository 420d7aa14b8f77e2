//! The credentials of an endpoint: one owner while the process lasts, whatever signs with them.
//!
//! The owner holds the current set and counts sets as generations, so that a refused request can be
//! told apart by the set that signed it. It renews a set ahead of its end, beside the requests,
//! which use the current set; [`Renewal`] decides when. A request waits here before it is sent, and
//! not inside of the SDK, where the time would count as the server's. Each renewal builds a new
//! provider, because the SDK's providers read profiles and files once.
//!
//! All failures to get credentials pass here, so here they are put into words ([`credentials`]).

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
use super::credentials::{self, CredentialOrigin, Machine, NoIdentity};
use super::guard::{Panicked, guarded};
use super::providers::{ANSWER, Provider};
use super::renewal::{Brought, Inquiry, Renewal, Set, Step, lead};
use crate::awake::AwakeInstant;
use crate::endpoint::CredentialSource;
use crate::size::display_duration;

/// A provider that is asked because a request was not allowed may take this long to answer.
const NEWER: Duration = Duration::from_secs(10);
/// The time after which a wait is reported.
const SILENT: Duration = Duration::from_secs(2);

/// The owner of an endpoint's credentials. Cheap to clone.
#[derive(Clone)]
pub(super) struct Identities(Arc<IdentityState>);

struct IdentityState {
    provider: Provider,
    /// The origin of the credentials, for messages.
    origin: CredentialOrigin,
    clock: Clock,
    held: ArcSwapOption<CachedIdentity>,
    renewal: Mutex<Renewal>,
    /// True unless the set that is held is refused.
    is_calm: AtomicBool,
    /// Notified when a renewal ends, and when a refusal is over.
    changed: Notify,
    /// Requests that wait for credentials now.
    waiting: AtomicUsize,
    /// The set that the server took last, and when the request was sent.
    proven: Mutex<Option<(u64, Instant)>>,
}

/// A set of credentials.
pub(super) struct CachedIdentity {
    pub(super) identity: Identity,
    pub(super) generation: u64,
    /// The time at which it expires, by the clock of those who issued it.
    end: Option<SystemTime>,
    /// The time at which the provider gave it.
    since: Instant,
}

impl CachedIdentity {
    /// Returns true if it is time to renew the set. The clock may have been corrected since the set
    /// came.
    fn is_due(&self, clock: &Clock) -> bool {
        let Some(end) = self.end else { return false };
        let is_due = |now: SystemTime| {
            let came = now.checked_sub(self.since.elapsed()).unwrap_or(now);
            let lasts = end.duration_since(came).ok()?;
            let left = end.duration_since(now).unwrap_or_default();
            Some(left <= lead(lasts))
        };
        // A set that had ended when it came was issued by another clock than the server's.
        is_due(clock.now())
            .or_else(|| is_due(clock.uncorrected()))
            .unwrap_or(true)
    }
}

/// The reason why a request is not sent.
#[derive(Clone, Debug)]
pub enum NotReady {
    /// The provider returns no credentials: not within the patience if the first field is true, and
    /// never otherwise. The second field names the provider and the reason.
    Nothing(bool, String),
    /// The server refuses them, and there will be no others.
    Refused(Box<Failure>),
}

impl Identities {
    pub(super) fn new(provider: Provider, origin: CredentialOrigin, clock: Clock) -> Self {
        Self(Arc::new(IdentityState {
            provider,
            origin,
            clock,
            held: ArcSwapOption::empty(),
            renewal: Mutex::default(),
            is_calm: AtomicBool::new(true),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
            proven: Mutex::default(),
        }))
    }

    /// Returns the clock that requests are signed by.
    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Returns the set that requests are signed with now, counted from 1, or 0 before there is one.
    pub(super) fn generation(&self) -> u64 {
        self.0
            .held
            .load()
            .as_ref()
            .map_or(0, |held| held.generation)
    }

    /// Returns the source that gave the credentials, once one has.
    pub(super) fn source(&self) -> Option<&CredentialSource> {
        self.0.provider.used()
    }

    /// Returns true if the provider never gives another set.
    pub(super) fn is_fixed(&self) -> bool {
        self.0.provider.is_fixed()
    }

    /// Returns true once the server has taken a set.
    pub(super) fn is_accepted(&self) -> bool {
        self.renewal().is_accepted()
    }

    /// Returns what requests wait for now, if any does: the provider, and the reason.
    pub(super) fn awaited(&self) -> Option<String> {
        (self.0.waiting.load(Ordering::Acquire) > 0).then(|| self.reason())
    }

    fn reason(&self) -> String {
        let provider = self.provider();
        self.renewal().reason(&provider, Instant::now())
    }

    fn provider(&self) -> String {
        let link = self.0.provider.asked();
        with_machine(|machine| machine.asked(&self.0.origin, link.as_ref()))
    }

    fn renewal(&self) -> MutexGuard<'_, Renewal> {
        self.0
            .renewal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the set that is held, unless it has expired.
    fn usable(&self) -> Option<Arc<CachedIdentity>> {
        let held = self.0.held.load_full()?;
        let is_over = held
            .identity
            .expiration()
            .is_some_and(|end| self.0.clock.is_past(end));
        (!is_over).then_some(held)
    }

    /// Waits until a request may be sent with the set that is held.
    ///
    /// # Errors
    /// There will be no credentials, or there were none for `patience`, or for as long as is `left`
    /// of another patience.
    pub(super) async fn ready(
        &self,
        patience: Duration,
        left: Option<Duration>,
    ) -> Result<(), NotReady> {
        let (began, mut waiting) = (AwakeInstant::now(), None);
        loop {
            // Registered before the look, so that the end of a renewal in between is not missed.
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let wait = match self.step() {
                Step::Go { .. } => return Ok(()),
                Step::Wait { at_most, .. } => at_most,
                Step::None(NoIdentity { message, .. }) => {
                    return Err(NotReady::Nothing(false, message));
                }
                Step::Refused(failure) => return Err(NotReady::Refused(failure)),
            };
            waiting.get_or_insert_with(|| WaitingRequest::new(&self.0.waiting));
            let waited = self.renewal().waiting_for(Instant::now());
            let left = match left {
                Some(left) => left.saturating_sub(began.elapsed()),
                None => patience.saturating_sub(waited),
            };
            if left.is_zero() {
                return Err(NotReady::Nothing(true, self.reason()));
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

    /// Decides what a request does now, and begins a renewal beside it where one is due.
    fn step(&self) -> Step {
        let usable = self.usable();
        let now = Instant::now();
        let is_due = usable
            .as_ref()
            .is_some_and(|held| held.is_due(&self.0.clock));
        if usable.is_some() && !is_due && self.0.is_calm.load(Ordering::Acquire) {
            return Step::Go { renew: false };
        }
        let set = usable.map(|held| Set {
            has_end: held.end.is_some(),
            is_due,
        });
        let step = self.renewal().step(now, set);
        if let Step::Go { renew: true } | Step::Wait { renew: true, .. } = step {
            self.begin_renewal();
        }
        step
    }

    fn begin_renewal(&self) {
        let owner = self.clone();
        tokio::spawn(async move { owner.renew().await });
    }

    /// Asks the provider, because the server did not allow a request that was signed with this set,
    /// whether it has a newer one. A session that was revoked is denied everything.
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

    /// Returns true if the set that is held is that of a session.
    fn is_session(&self) -> bool {
        let held = self.0.held.load();
        let credentials = held
            .as_ref()
            .and_then(|held| held.identity.data::<Credentials>());
        credentials.is_some_and(|credentials| credentials.session_token().is_some())
    }

    /// Logs once what all requests wait for, unless the first contact with the servers logs it.
    fn tell(&self, left: &str) {
        let mut renewal = self.renewal();
        if renewal.has_worked() && renewal.tell() {
            drop(renewal);
            let reason = self.reason();
            tracing::warn!(name: "waiting", "waiting for credentials: {reason}; gives up in {left} (`patience`)");
        }
    }

    /// Asks the provider.
    async fn ask(&self) -> Result<Credentials, NoIdentity> {
        let passing = |reason: &str| NoIdentity {
            may_pass: true,
            message: format!("{}: {reason}", self.provider()),
        };
        // The provider of a profile ends its own program a moment earlier, and says so.
        let limit = ANSWER + Duration::from_secs(1);
        match timeout(limit, guarded(self.0.provider.ask())).await {
            Ok(Ok(Ok(credentials))) => Ok(credentials),
            Ok(Ok(Err(error))) => {
                let has_worked = self.renewal().has_worked();
                let link = self.0.provider.asked();
                let (link, origin) = (link.as_ref(), &self.0.origin);
                Err(with_machine(|machine| {
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

    /// Renews the credentials.
    async fn renew(&self) {
        let answer = self.ask().await;
        let brought = answer.map_or_else(Brought::Nothing, |credentials| self.hold(credentials));
        tracing::debug!(?brought, "asked for credentials");
        let is_usable = self.usable().is_some();
        let mut renewal = self.renewal();
        let error = if let Brought::Nothing(error) = &brought {
            Some(error.message.clone())
        } else {
            None
        };
        let told = renewal.ended(Instant::now(), brought, fastrand::f64());
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
        if let Some(waited) = told {
            tell_back("there are credentials again", waited);
        }
        self.0.changed.notify_waiters();
    }

    /// Keeps a set if it is another one and has not expired.
    fn hold(&self, credentials: Credentials) -> Brought {
        let end = credentials.expiry();
        if end.is_some_and(|end| self.0.clock.is_past(end)) {
            let message = format!("{}: the set that it gives has expired", self.provider());
            return Brought::Nothing(NoIdentity {
                may_pass: true,
                message,
            });
        }
        let last = self.0.held.load_full();
        let is_same = last
            .as_ref()
            .and_then(|last| last.identity.data::<Credentials>())
            .is_some_and(|last| {
                last.access_key_id() == credentials.access_key_id()
                    && last.secret_access_key() == credentials.secret_access_key()
                    && last.session_token() == credentials.session_token()
            });
        // The same set may last longer than it was said to.
        let generation = last.map_or(0, |last| last.generation) + u64::from(!is_same);
        self.0.held.store(Some(Arc::new(CachedIdentity {
            identity: credentials.into(),
            generation,
            end,
            since: Instant::now(),
        })));
        if is_same { Brought::Same } else { Brought::New }
    }

    /// Returns the set to sign a request with. A set that has ended since the request was
    /// [`ready`](Self::ready) is not waited for here, where the time would count as the server's.
    pub(super) async fn to_sign(&self) -> Result<Arc<CachedIdentity>, NoIdentity> {
        if let Some(held) = self.usable() {
            return Ok(held);
        }
        if !self.renewal().has_worked() {
            return self.resolve().await;
        }
        if let Step::None(error) = self.step() {
            return Err(error);
        }
        Err(NoIdentity {
            may_pass: true,
            message: self.reason(),
        })
    }

    /// Returns the set that is held. Waits for one renewal if there is none that can be used.
    async fn resolve(&self) -> Result<Arc<CachedIdentity>, NoIdentity> {
        if let Some(held) = self.usable() {
            return Ok(held);
        }
        let _waiting = WaitingRequest::new(&self.0.waiting);
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            match self.step() {
                Step::None(error) => return Err(error),
                Step::Wait { at_most, renew } => {
                    let is_paused = !renew && self.renewal().error.is_some();
                    if is_paused {
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
                Step::Go { .. } | Step::Refused(_) => {}
            }
            if let Some(held) = self.usable() {
                return Ok(held);
            }
        }
    }

    /// Records that the server refused a set, which is not used any more, unless another one has
    /// replaced it already.
    pub(super) fn refused(&self, generation: u64, failure: &Failure) {
        let mut renewal = self.renewal();
        if self.generation() == generation {
            renewal.refused(Instant::now(), generation, failure);
            self.0.is_calm.store(false, Ordering::Release);
        }
    }

    /// Records that the server accepted this set in a request that was sent at this time.
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
        let told = renewal.accepted(Instant::now(), sent);
        self.0
            .is_calm
            .store(!renewal.is_refused(), Ordering::Release);
        drop(renewal);
        if let Some(waited) = told {
            tell_back("the server takes the credentials again", waited);
        }
        self.0.changed.notify_waiters();
    }

    /// Returns true if the server has taken this set in a request that was sent later than this.
    pub(super) fn is_proven_since(&self, generation: u64, sent: Instant) -> bool {
        self.proven()
            .is_some_and(|proven| proven > (generation, sent))
    }

    fn proven(&self) -> MutexGuard<'_, Option<(u64, Instant)>> {
        self.0.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at this machine: the environment, and the maker that it names.
fn with_machine<T>(ask: impl FnOnce(&Machine<'_>) -> T) -> T {
    let env = |name: &str| std::env::var(name).ok();
    let vendor = std::fs::read_to_string("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
    // In a pod, metadata may be blocked on purpose. A user who needs it there names it.
    let is_instance = vendor.trim() == "Amazon EC2" && env("KUBERNETES_SERVICE_HOST").is_none();
    ask(&Machine {
        env: &env,
        is_instance,
    })
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
    /// Returns the credentials that all requests of a client are signed with. The sessions of
    /// directory buckets have a cache of their own, which asks here for the credentials to create
    /// them with.
    fn resolve_cached_identity<'a>(
        &'a self,
        _: SharedIdentityResolver,
        _: &'a RuntimeComponents,
        config: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        IdentityFuture::new(async move {
            let held = self.to_sign().await?;
            if let Some(signing) = config.load::<Signing>() {
                signing.generation.store(held.generation, Ordering::Release);
            }
            Ok(held.identity.clone())
        })
    }
}

impl ProvideCredentials for Identities {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let held = self
                .resolve()
                .await
                .map_err(CredentialsError::provider_error)?;
            let credentials = held.identity.data::<Credentials>().cloned();
            credentials.ok_or_else(|| CredentialsError::unhandled("these are no credentials"))
        })
    }
}

/// Tells that something is there again that requests waited for.
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

    fn held(end: SystemTime) -> CachedIdentity {
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
        let (long, short) = (held(now + minutes(60)), held(now + minutes(2)));
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
            ..held(now + minutes(60))
        };
        assert!(older.is_due(&clock));
        // It has ended by the server's clock, and not by that of those who issued it.
        assert!(!short.is_due(&clock));
        let longer = held(now + minutes(120));
        assert!(!longer.is_due(&clock));
        // Now it is an hour ahead: what had ended lasts.
        let date = DateTime::from(now - minutes(60))
            .fmt(Format::HttpDate)
            .unwrap();
        refused_at(&clock, &date);
        assert!(!long.is_due(&clock) && !older.is_due(&clock));
    }
}
