//! Obtains the plan: reads it, makes it, or waits for the process that makes it.
//!
//! `plan.json` is written once, with `If-None-Match: *`, so all processes read the same plan.
//! `plan.lease` only keeps them from planning at the same time: a second plan would cost requests,
//! but do no other harm. A process takes the lease with `If-None-Match` and renews it with
//! `If-Match`. A process that fails or is stopped while it plans releases the lease. After a minute
//! without a renewal, any process may take it. The clocks of machines may differ, so each process
//! measures that minute by its own clock, from the moment at which it first saw the lease in its
//! current state.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

use super::names::{LEASE, PLAN};
use super::record::{FORMAT, PlanLease, ShardPlan};
use super::store::{StateError, StateStore, StateWrite, Stored};
use super::{LEASE_FREE_AFTER, LEASE_RENEWAL};
use crate::journal::Writer;
use crate::s3::WriteCondition;
use crate::size::display_duration;

/// The longest time that releasing the lease may take. A lease that is not released becomes free a
/// minute later.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);
/// The number of attempts to release the lease while the last renewal may still arrive.
const RELEASES: u32 = 3;

/// The terms on which processes plan and wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanTerms {
    /// The time without a renewal after which the lease is free.
    pub free_after: Duration,
    /// The time between two renewals.
    pub renewal: Duration,
    /// The interval at which a waiting process looks for the plan.
    pub look: Duration,
    /// The longest wait for a plan.
    pub patience: Duration,
}

impl PlanTerms {
    /// Returns the usual terms with this patience.
    #[must_use]
    pub const fn of(patience: Duration) -> Self {
        Self {
            free_after: LEASE_FREE_AFTER,
            renewal: LEASE_RENEWAL,
            look: Duration::from_secs(2),
            patience,
        }
    }
}

/// The reason why there is no plan.
#[derive(Debug, Error)]
pub enum ObtainError<E: std::error::Error + 'static> {
    /// The state prefix cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The plan cannot be made.
    #[error(transparent)]
    Plan(E),
    /// The process was stopped before there was a plan.
    #[error("stopped before there was a plan")]
    Stopped,
    /// Another process did not make the plan in time.
    #[error(
        "no plan after {}: {place}plan.lease is held by {by}, which has not written plan.json; run the same command again",
        display_duration(*waited)
    )]
    NoPlan {
        /// The state prefix.
        place: String,
        /// The process that plans.
        by: Box<Writer>,
        /// The time that this process has waited.
        waited: Duration,
    },
}

/// The plan and its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct ObtainedPlan {
    /// The plan.
    pub plan: ShardPlan,
    /// True if this process has made it.
    pub is_new: bool,
}

/// Obtains the plan of a state prefix. `make` makes the plan, if this process is the one that
/// plans. `tell` receives messages about the process that this one waits for. `stop` ends the
/// attempt.
///
/// # Errors
/// See [`ObtainError`].
pub async fn obtain<E, F>(
    store: &StateStore,
    own: &Writer,
    terms: PlanTerms,
    make: impl Fn() -> F,
    tell: impl Fn(&str),
    stop: impl Future<Output = ()>,
) -> Result<ObtainedPlan, ObtainError<E>>
where
    E: std::error::Error + 'static,
    F: Future<Output = Result<ShardPlan, E>>,
{
    store.demand_conditions()?;
    let obtained = tokio::select! {
        biased;
        obtained = read_or_make(store, own, terms, make, tell) => obtained,
        () = stop => Err(ObtainError::Stopped),
    };
    if obtained.is_err() {
        release(store, own).await;
    }
    obtained
}

async fn read_or_make<E, F>(
    store: &StateStore,
    own: &Writer,
    terms: PlanTerms,
    make: impl Fn() -> F,
    tell: impl Fn(&str),
) -> Result<ObtainedPlan, ObtainError<E>>
where
    E: std::error::Error + 'static,
    F: Future<Output = Result<ShardPlan, E>>,
{
    let began = Instant::now();
    let mut watch = LeaseWatch::default();
    loop {
        if let Some(Stored { record, .. }) = store.get(PLAN).await? {
            return Ok(ObtainedPlan {
                plan: record,
                is_new: false,
            });
        }
        let stored: Option<Stored<PlanLease>> = store.get(LEASE).await?;
        let condition = match &stored {
            None => Some(WriteCondition::Absent),
            Some(stored) => {
                let is_free = stored.record.released
                    || own.may_succeed(&stored.record.by)
                    || watch.unchanged_for(stored, &tell) >= terms.free_after;
                is_free.then(|| store.replacing(stored.etag.as_deref()))
            }
        };
        if let Some(condition) = condition
            && let Some(mut lease) = HeldLease::take(store, own, condition).await?
        {
            match lease.plan(terms.renewal, make()).await? {
                Some(plan) => return Ok(plan),
                // Another process has the lease, or has written the plan.
                None => continue,
            }
        }
        let waited = began.elapsed();
        if let Some(stored) = stored
            && waited >= terms.patience
        {
            return Err(ObtainError::NoPlan {
                place: store.to_string(),
                by: Box::new(stored.record.by),
                waited,
            });
        }
        sleep(terms.look).await;
    }
}

/// Releases the lease if this process holds it, so that another one can plan at once.
async fn release(store: &StateStore, own: &Writer) {
    let released = async {
        // A renewal in flight may arrive after the lease was read.
        for _ in 0..RELEASES {
            let stored: Option<Stored<PlanLease>> = store.get(LEASE).await?;
            let is_ours = |stored: &Stored<PlanLease>| stored.record.by.id == own.id;
            let Some(Stored { mut record, etag }) = stored.filter(is_ours) else {
                return Ok(());
            };
            record.renewed = Timestamp::now();
            record.released = true;
            let condition = store.replacing(etag.as_deref());
            if store.put(LEASE, &record, condition).await? != StateWrite::Refused {
                return Ok(());
            }
        }
        Ok::<_, StateError>(())
    };
    match timeout(RELEASE_WITHIN, released).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the lease of the plan could not be released"),
        Err(_) => tracing::warn!("the lease of the plan could not be released in time"),
    }
}

/// The last seen state of the lease, and the time when this process first saw that state.
#[derive(Default)]
struct LeaseWatch {
    last: Option<Stored<PlanLease>>,
    since: Option<Instant>,
}

impl LeaseWatch {
    /// Compares the lease with its last seen state. Returns the time that has passed since this
    /// process first saw the current state.
    fn unchanged_for(&mut self, stored: &Stored<PlanLease>, tell: &impl Fn(&str)) -> Duration {
        let by = |stored: &Stored<PlanLease>| stored.record.by.id.clone();
        if self.last.as_ref().map(by) != Some(by(stored)) {
            tell(&format!(
                "{} plans the shards; waiting for it",
                stored.record.by
            ));
        }
        if self.last.as_ref() != Some(stored) {
            self.last = Some(stored.clone());
            self.since = None;
        }
        self.since.get_or_insert_with(Instant::now).elapsed()
    }
}

/// The lease, held by this process.
struct HeldLease<'a> {
    store: &'a StateStore,
    record: PlanLease,
    etag: Option<String>,
}

impl<'a> HeldLease<'a> {
    /// Takes the lease. Returns `None` if another process was faster.
    async fn take(
        store: &'a StateStore,
        own: &Writer,
        condition: WriteCondition,
    ) -> Result<Option<Self>, StateError> {
        let record = PlanLease {
            format: FORMAT,
            by: own.clone(),
            renewed: Timestamp::now(),
            released: false,
        };
        Ok(match store.put(LEASE, &record, condition).await? {
            StateWrite::Written(etag) => Some(Self {
                store,
                record,
                etag,
            }),
            StateWrite::Refused => None,
        })
    }

    /// Makes the plan and writes it. Returns `None` if another process has taken the lease, or has
    /// written a plan.
    async fn plan<E: std::error::Error + 'static>(
        &mut self,
        renewal: Duration,
        make: impl Future<Output = Result<ShardPlan, E>>,
    ) -> Result<Option<ObtainedPlan>, ObtainError<E>> {
        let store = self.store;
        let plan = tokio::select! {
            plan = make => plan.map_err(ObtainError::Plan)?,
            () = self.renew(renewal) => return Ok(None),
        };
        let written = store.put(PLAN, &plan, WriteCondition::Absent).await?;
        Ok(match written {
            StateWrite::Written(_) => Some(ObtainedPlan { plan, is_new: true }),
            StateWrite::Refused => None,
        })
    }

    /// Renews the lease until another process has taken it. After a failed renewal, tries again at
    /// the next interval: at worst, another process plans too.
    async fn renew(&mut self, renewal: Duration) {
        loop {
            sleep(renewal).await;
            match self.write().await {
                Ok(StateWrite::Written(_)) => {}
                Ok(StateWrite::Refused) => return,
                Err(error) => tracing::warn!(%error, "the lease of the plan could not be renewed"),
            }
        }
    }

    async fn write(&mut self) -> Result<StateWrite, StateError> {
        self.record.renewed = Timestamp::now();
        let condition = self.store.replacing(self.etag.as_deref());
        let written = self.store.put(LEASE, &self.record, condition).await?;
        if let StateWrite::Written(etag) = &written {
            self.etag.clone_from(etag);
        }
        Ok(written)
    }
}
