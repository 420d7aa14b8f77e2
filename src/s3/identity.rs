//! The credentials of an endpoint: one owner for as long as the process lasts, whatever signs with
//! them.
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
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::config::{ConfigBag, Credentials, ResolveCachedIdentity, RuntimeComponents};
use aws_smithy_async::time::TimeSource as _;
use aws_smithy_runtime_api::client::identity::{Identity, IdentityFuture, SharedIdentityResolver};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::Failure;
use super::clock::{Clock, Signing};
use super::credentials::{self, Machine, NoIdentity, Origin};
use super::providers::Provider;
use super::renewal::{Brought, Renewal, Set, Step, lead};
use crate::endpoint::CredentialSource;
use crate::size::display_duration;

/// A provider may take this long to answer, which may start a program.
const ANSWER: Duration = Duration::from_mins(1);
/// The time after which a wait is reported.
const SILENT: Duration = Duration::from_secs(2);

/// The owner of an endpoint's credentials. Cheap to clone.
#[derive(Clone)]
pub(super) struct Identities(Arc<Shared>);

struct Shared {
    provider: Provider,
    /// Where credentials come from, for messages.
    origin: Origin,
    clock: Clock,
    held: ArcSwapOption<Held>,
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
pub(super) struct Held {
    pub(super) identity: Identity,
    pub(super) generation: u64,
    /// The time at which the set is renewed, if it expires.
    renew_at: Option<Instant>,
}

/// The reason why a request is not sent.
#[derive(Clone, Debug)]
pub enum NotReady {
    /// The provider gives no credentials: they were waited for in vain if the first field is true,
    /// and never will be given otherwise. The second field names the provider and the reason.
    Nothing(bool, String),
    /// The server refuses them, and there will be no others.
    Refused(Box<Failure>),
}

impl Identities {
    pub(super) fn new(provider: Provider, origin: Origin, clock: Clock) -> Self {
        Self(Arc::new(Shared {
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

    /// The clock that requests are signed by.
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

    /// The source that gave the credentials, once one has.
    pub(super) fn source(&self) -> Option<&CredentialSource> {
        self.0.provider.used()
    }

    /// True if the provider never gives another set.
    pub(super) fn is_fixed(&self) -> bool {
        self.0.provider.is_fixed()
    }

    /// True once the server has taken a set.
    pub(super) fn is_accepted(&self) -> bool {
        self.renewal().is_accepted()
    }

    /// Returns what requests wait for now, if any does: the provider, and the reason.
    pub(super) fn awaited(&self) -> Option<String> {
        (self.0.waiting.load(Ordering::Acquire) > 0).then(|| self.reason())
    }

    fn reason(&self) -> String {
        let provider = self.provider();
        self.renewal().reason(&provider)
    }

    fn provider(&self) -> String {
        with_machine(|machine| machine.asked(&self.0.origin))
    }

    fn renewal(&self) -> MutexGuard<'_, Renewal> {
        self.0
            .renewal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the set that is held, unless it has expired.
    fn usable(&self) -> Option<Arc<Held>> {
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
        let (began, mut waiting) = (Instant::now(), None);
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
            waiting.get_or_insert_with(|| Waiting::new(&self.0.waiting));
            let waited = self.renewal().waiting_for(Instant::now());
            let left = match left {
                Some(left) => left.saturating_sub(began.elapsed()),
                None => patience.saturating_sub(waited),
            };
            if left.is_zero() {
                let within = format!("no answer within {} s", waited.as_secs());
                return Err(NotReady::Nothing(
                    true,
                    self.reason().replace("no answer yet", &within),
                ));
            }
            if waited >= SILENT {
                self.tell();
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
            .and_then(|held| held.renew_at)
            .is_some_and(|at| at <= now);
        if usable.is_some() && !is_due && self.0.is_calm.load(Ordering::Acquire) {
            return Step::Go { renew: false };
        }
        let set = usable.map(|held| Set {
            has_end: held.identity.expiration().is_some(),
            is_due,
        });
        let step = self.renewal().step(now, set);
        if let Step::Go { renew: true } | Step::Wait { renew: true, .. } = step {
            let owner = self.clone();
            tokio::spawn(async move { owner.renew().await });
        }
        step
    }

    /// Says once what all requests wait for. At the start of a command, its first contact with the
    /// servers says so.
    fn tell(&self) {
        let mut renewal = self.renewal();
        if renewal.has_worked() && renewal.tell() {
            drop(renewal);
            tracing::warn!("waiting for credentials: {}", self.reason());
        }
    }

    /// Asks the provider.
    async fn renew(&self) {
        let answer = match timeout(ANSWER, self.0.provider.ask()).await {
            Ok(Ok(credentials)) => Ok(credentials),
            Ok(Err(error)) => {
                let has_worked = self.renewal().has_worked();
                let explain = |machine: &Machine<'_>| {
                    credentials::explain(&error, &self.0.origin, machine, has_worked)
                };
                Err(with_machine(explain))
            }
            Err(_) => {
                let message = format!(
                    "{}: no answer within {} s",
                    self.provider(),
                    ANSWER.as_secs()
                );
                Err(NoIdentity {
                    may_pass: true,
                    message,
                })
            }
        };
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
            tracing::warn!(
                "there are credentials again after {}",
                display_duration(waited)
            );
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
        let renew_at = end.map(|end| {
            let remaining = end.duration_since(self.0.clock.now()).unwrap_or_default();
            Instant::now() + remaining.saturating_sub(lead(remaining))
        });
        // The same set may last longer than it was said to.
        let generation = last.map_or(0, |last| last.generation) + u64::from(!is_same);
        self.0.held.store(Some(Arc::new(Held {
            identity: credentials.into(),
            generation,
            renew_at,
        })));
        if is_same { Brought::Same } else { Brought::New }
    }

    /// Returns the set to sign with. Waits for one renewal if there is none that can be used.
    pub(super) async fn resolve(&self) -> Result<Arc<Held>, NoIdentity> {
        if let Some(held) = self.usable() {
            return Ok(held);
        }
        let _waiting = Waiting::new(&self.0.waiting);
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

    /// Takes note that the server refused a set. It is used no more, unless another one has taken
    /// its place.
    pub(super) fn refused(&self, generation: u64, failure: &Failure) {
        let mut renewal = self.renewal();
        if self.generation() == generation {
            renewal.refused(Instant::now(), generation, failure);
            self.0.is_calm.store(false, Ordering::Release);
        }
    }

    /// Takes note that the server took this set in a request that was sent then.
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
            tracing::warn!(
                "the server takes the credentials again after {}",
                display_duration(waited)
            );
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
    // In a pod, metadata may be shut off on purpose; whoever needs it there names it.
    let is_instance = vendor.trim() == "Amazon EC2" && env("KUBERNETES_SERVICE_HOST").is_none();
    ask(&Machine {
        env: &env,
        is_instance,
    })
}

/// Counts a request as waiting for credentials until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::AcqRel);
        Self(counter)
    }
}

impl Drop for Waiting<'_> {
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
    /// All requests of a client are signed with the same credentials. The sessions of directory
    /// buckets have a cache of their own, which asks here for what they are made with.
    fn resolve_cached_identity<'a>(
        &'a self,
        _: SharedIdentityResolver,
        _: &'a RuntimeComponents,
        config: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        IdentityFuture::new(async move {
            let held = self.resolve().await?;
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
