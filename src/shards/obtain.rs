//! Obtains the plan: reads it, makes it, or waits for the process that makes it.
//!
//! `plan.json` is written once, with `If-None-Match: *`, so that all processes read the same plan
//! whoever plans. `plan.lease` only keeps them from doing so all at once. It is taken with
//! `If-None-Match`, renewed with `If-Match`, and free once nobody has renewed it for a minute. The
//! clocks of machines may differ, so each process measures that minute by its own clock, from the
//! moment when it first saw the lease in its present state.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::names::{LEASE, PLAN};
use super::record::{FORMAT, PlanLease, ShardPlan};
use super::store::{StateError, StateStore, StateWrite, Stored};
use super::{LEASE_FREE_AFTER, LEASE_RENEWAL};
use crate::journal::Writer;
use crate::s3::WriteCondition;
use crate::size::display_duration;

/// The terms on which processes plan and wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanTerms {
    /// The time without a renewal after which the lease is free.
    pub free_after: Duration,
    /// The time between two renewals.
    pub renewal: Duration,
    /// The time between two looks of a process that waits.
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
    /// Another process did not make it in time.
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

/// The plan, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct ObtainedPlan {
    /// The plan.
    pub plan: ShardPlan,
    /// True if this process has made it.
    pub is_new: bool,
}

/// Obtains the plan of a state prefix. `make` makes it, if this process is the one to do so; `tell`
/// says what this process waits for.
///
/// # Errors
/// See [`ObtainError`].
pub async fn obtain<E, F>(
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
    store.demand_conditions()?;
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
                let is_free = watch.see(stored, &tell) >= terms.free_after
                    || stored.record.released
                    || own.may_succeed(&stored.record.by);
                is_free.then(|| store.replacing(stored.etag.as_deref()))
            }
        };
        if let Some(condition) = condition
            && let Some(mut lease) = HeldLease::take(store, own, condition).await?
        {
            match lease.plan(terms.renewal, make()).await {
                Ok(Some(plan)) => return Ok(plan),
                // Another process has the lease, or has written the plan.
                Ok(None) => continue,
                Err(error) => {
                    lease.release().await;
                    return Err(error);
                }
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

/// The lease as it was last seen, and since when.
#[derive(Default)]
struct LeaseWatch {
    last: Option<Stored<PlanLease>>,
    since: Option<Instant>,
}

impl LeaseWatch {
    /// Takes note of the lease. Returns for how long it has been as it is.
    fn see(&mut self, stored: &Stored<PlanLease>, tell: &impl Fn(&str)) -> Duration {
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

    /// Makes the plan, and writes it. Returns `None` if another process took the lease meanwhile, or
    /// has written a plan.
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

    /// Renews the lease until another process has it. A renewal that fails is tried again: without
    /// one, another process plans too, and nothing worse happens.
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

    /// Gives the lease up, so that another process can plan at once.
    async fn release(&mut self) {
        self.record.released = true;
        if let Err(error) = self.write().await {
            tracing::warn!(%error, "the lease of the plan could not be given up");
        }
    }
}
