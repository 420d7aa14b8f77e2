//! Credentials that last as long as the run.
//!
//! Every request asks for the identity to sign with; the SDK's lazy cache answers from memory until a set of credentials is
//! about to expire. Two things are added for runs of days. A set that cannot be renewed in time (the token service is down,
//! the metadata service does not answer) is used to its last second. And credentials that a server calls expired although
//! their own date says otherwise, because they were revoked or this clock is wrong, can be forgotten once.
//!
//! All failures to get credentials pass here, so here they are put into words ([`credentials`]).

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_sdk_s3::config::{
    ConfigBag, IdentityCache, ResolveCachedIdentity, RuntimeComponents, SharedIdentityCache,
};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::identity::{
    Identity, IdentityCachePartition, IdentityFuture, SharedIdentityResolver,
};

use super::credentials::{self, Machine, NoIdentity, Origin};

/// Credentials are renewed this long before they expire, so that a failure to do so can be borne for a while.
const RENEW_BEFORE: Duration = Duration::from_mins(1);

/// The identity cache of a client.
#[derive(Clone)]
pub(super) struct Identities(Arc<Shared>);

struct Shared {
    cache: ArcSwap<SharedIdentityCache>,
    /// Counts how often credentials were forgotten.
    generation: AtomicU64,
    /// The last good identity by provider: requests to directory buckets are signed by another one.
    last: Mutex<HashMap<IdentityCachePartition, Identity>>,
    /// Where credentials come from, for messages.
    origin: Origin,
    /// Requests that wait for credentials now.
    asking: AtomicUsize,
    /// True once credentials have come.
    worked: AtomicBool,
}

impl Identities {
    pub(super) fn new(origin: Origin) -> Self {
        Self(Arc::new(Shared {
            cache: ArcSwap::from_pointee(lazy()),
            generation: AtomicU64::new(0),
            last: Mutex::default(),
            origin,
            asking: AtomicUsize::new(0),
            worked: AtomicBool::new(false),
        }))
    }

    /// Returns the provider that requests are waiting for now, if any.
    pub(super) fn awaited(&self) -> Option<String> {
        let is_asking = self.0.asking.load(Ordering::Acquire) > 0;
        is_asking.then(|| with_machine(|machine| machine.asked(&self.0.origin)))
    }

    fn explain(&self, error: &BoxError) -> NoIdentity {
        let worked = self.0.worked.load(Ordering::Acquire);
        with_machine(|machine| credentials::explain(&**error, &self.0.origin, machine, worked))
    }

    /// Which credentials requests are signed with now, for [`Identities::forget`].
    pub(super) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// The next request asks the provider again. A thousand requests that were refused together ask once: only those
    /// that were signed with the current `generation` count.
    pub(super) fn forget(&self, generation: u64) {
        let mut last = self.last();
        if self.generation() != generation {
            return;
        }
        last.clear();
        // Whoever sees the new number must find the new cache: what it gets is kept under that number.
        self.0.cache.store(Arc::new(lazy()));
        self.0.generation.store(generation + 1, Ordering::Release);
    }

    fn last(&self) -> MutexGuard<'_, HashMap<IdentityCachePartition, Identity>> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at this machine: the environment, and the maker that it names.
fn with_machine<T>(ask: impl FnOnce(&Machine<'_>) -> T) -> T {
    let env = |name: &str| std::env::var(name).ok();
    let vendor = std::fs::read_to_string("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
    // In a pod, metadata may be shut off on purpose; whoever needs it there names it.
    let is_instance = vendor.trim() == "Amazon EC2" && env("KUBERNETES_SERVICE_HOST").is_none();
    ask(&Machine { env: &env, is_instance })
}

/// Counts a request as waiting for credentials until it is dropped.
struct Asking<'a>(&'a AtomicUsize);

impl<'a> Asking<'a> {
    fn of(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::AcqRel);
        Self(counter)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn lazy() -> SharedIdentityCache {
    IdentityCache::lazy().buffer_time(RENEW_BEFORE).build()
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identities")
    }
}

impl ResolveCachedIdentity for Identities {
    fn resolve_cached_identity<'a>(
        &'a self,
        resolver: SharedIdentityResolver,
        components: &'a RuntimeComponents,
        config: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        IdentityFuture::new(async move {
            let cache = self.0.cache.load_full();
            let provider = resolver.cache_partition();
            let asking = Asking::of(&self.0.asking);
            let answer = cache.resolve_cached_identity(resolver, components, config).await;
            drop(asking);
            let error = match answer {
                Ok(identity) => {
                    self.0.worked.store(true, Ordering::Release);
                    if identity.expiration().is_some() {
                        self.last().insert(provider, identity.clone());
                    }
                    return Ok(identity);
                }
                Err(error) => error,
            };
            let last = self.last().get(&provider).cloned();
            match last.filter(|last| last.expiration() > Some(SystemTime::now())) {
                Some(last) => {
                    let why = self.explain(&error);
                    tracing::warn!("the credentials cannot be renewed, the old ones are used for now: {why}");
                    Ok(last)
                }
                None => Err(self.explain(&error).into()),
            }
        })
    }
}
