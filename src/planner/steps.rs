//! Sends plans from the planner to the executor. Each batch belongs to one range of keys.
//!
//! Events of one range arrive in order; events of different ranges interleave. The event for a
//! split range ([`PlanEvent::Cut`]) arrives before any event about keys after the split.
//!
//! Each step that has not started holds a permit, either from a window that all ranges share or
//! from a small reserve of its own range. The executor starts the largest objects of the window
//! first. A range whose objects wait for a rate limit may fill the window, but every other range
//! still has its reserve.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::vec;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::Planned;
use crate::listing::bisect::RangeSplit;
use crate::s3::{Failure, FailureKind, Operation};

/// The maximum number of entries of one batch.
const BATCH: usize = 256;
/// The maximum number of batches that wait for the executor.
const BATCHES_AHEAD: usize = 8;
/// The maximum number of steps of all ranges of a transfer that wait to start, besides the
/// reserves.
const WINDOW: usize = 4096;

/// The permits of steps that have not started. Dropping this value releases them.
#[derive(Debug)]
pub struct StepPermits(OwnedSemaphorePermit);

impl StepPermits {
    /// Splits off the permit of one step.
    pub fn split(&mut self) -> Option<Self> {
        self.0.split(1).map(Self)
    }
}

/// An event about a range of keys.
#[derive(Debug)]
pub enum PlanEvent {
    /// Plans for entries of the range, and the permits of the steps among them.
    Planned(u32, Vec<Planned>, Option<StepPermits>),
    /// The range was split: it ends earlier, and another range begins there.
    Cut(RangeSplit),
    /// The plans for all entries of the range were sent.
    Ended(u32),
}

/// The error of a send after the receiver was dropped, because the run stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceiverGone;

/// A flag that is set while the executor has free slots but no object to start. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Demand(Arc<(AtomicBool, Notify)>);

impl Demand {
    /// Sets or clears the flag.
    pub fn set(&self, is_set: bool) {
        let (flag, notify) = &*self.0;
        if flag.swap(is_set, Ordering::Relaxed) != is_set && is_set {
            notify.notify_one();
        }
    }

    fn is_set(&self) -> bool {
        self.0.0.load(Ordering::Relaxed)
    }

    /// Waits until the flag is set.
    pub(super) async fn raised(&self) {
        self.0.1.notified().await;
    }
}

/// The receiving side of a plan in progress.
#[derive(Debug)]
pub struct Planning {
    /// The events of the planner.
    pub events: mpsc::Receiver<PlanEvent>,
    /// The flag that the receiver sets.
    pub demand: Demand,
}

impl Planned {
    /// Returns the plan that reports a panicked task. The keys for which the task sent no plan are
    /// unknown.
    pub(super) fn panicked(place: String) -> Self {
        let message = "a task of s3haul panicked while it planned";
        let failure = Failure::new(FailureKind::Bug, Operation::ListObjects, &*place, message);
        Self::Unlisted(place, failure)
    }

    /// Returns true for a step, which needs a permit.
    fn waits(&self) -> bool {
        match self {
            Self::Step(_) => true,
            Self::Again(_, planned) => planned.waits(),
            _ => false,
        }
    }
}

/// The sending side of the channel, for all ranges of a transfer. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct PlanSender {
    events: mpsc::Sender<PlanEvent>,
    window: Arc<Semaphore>,
    pub(super) demand: Demand,
}

impl PlanSender {
    pub(super) fn channel() -> (Self, Planning) {
        let (sender, events) = mpsc::channel(BATCHES_AHEAD);
        let demand = Demand::default();
        let window = Arc::new(Semaphore::new(WINDOW));
        (
            Self {
                events: sender,
                window,
                demand: demand.clone(),
            },
            Planning { events, demand },
        )
    }

    /// Returns true if the executor may soon run out of work.
    pub(super) fn is_behind(&self) -> bool {
        let has_room = self.window.available_permits() >= BATCH || self.demand.is_set();
        has_room && self.events.capacity() > BATCHES_AHEAD / 2
    }

    /// Waits for room in the channel, for an event without steps.
    pub(super) async fn reserve(&self) -> Result<mpsc::Permit<'_, PlanEvent>, ReceiverGone> {
        self.events.reserve().await.map_err(|_| ReceiverGone)
    }
}

/// Collects the plans of one range into batches.
#[derive(Debug)]
pub(super) struct BatchSender {
    /// The number of the range.
    range: u32,
    /// The channel to the executor.
    sender: PlanSender,
    /// The reserve of this range, which suffices for one batch.
    own: Arc<Semaphore>,
    /// The plans that are not sent yet.
    batch: Mutex<Vec<Planned>>,
}

impl BatchSender {
    pub(super) fn new(range: u32, sender: PlanSender) -> Self {
        Self {
            range,
            sender,
            own: Arc::new(Semaphore::new(BATCH)),
            batch: Mutex::default(),
        }
    }

    /// Adds a plan, and sends the batch if it is full. A caller that is about to wait for something
    /// else must call [`BatchSender::flush`] first.
    pub(super) async fn push(&self, planned: Planned) -> Result<(), ReceiverGone> {
        let is_full = {
            let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
            batch.push(planned);
            batch.len() >= BATCH
        };
        if is_full { self.flush().await } else { Ok(()) }
    }

    /// Sends a plan at once.
    pub(super) async fn send(&self, planned: Planned) -> Result<(), ReceiverGone> {
        self.push(planned).await?;
        self.flush().await
    }

    /// Sends the batch as soon as there are permits for its steps.
    pub(super) async fn flush(&self) -> Result<(), ReceiverGone> {
        let batch = std::mem::take(&mut *self.batch.lock().unwrap_or_else(PoisonError::into_inner));
        if batch.is_empty() {
            return Ok(());
        }
        let steps = batch.iter().filter(|planned| planned.waits()).count();
        let permits = self.hold(steps).await;
        self.sender
            .events
            .send(PlanEvent::Planned(self.range, batch, permits))
            .await
            .map_err(|_| ReceiverGone)
    }

    /// Waits for permits for this many steps, from the range's reserve or the shared window.
    async fn hold(&self, steps: usize) -> Option<StepPermits> {
        let steps = u32::try_from(steps).ok().filter(|steps| *steps > 0)?;
        let room = |of: &Arc<Semaphore>| Arc::clone(of).acquire_many_owned(steps);
        // Neither semaphore is ever closed.
        let permit = tokio::select! {
            biased;
            permit = room(&self.own) => permit,
            permit = room(&self.sender.window) => permit,
        };
        permit.ok().map(StepPermits)
    }

    /// Runs a task. If it panics, reports a failure of the range.
    pub(super) async fn report_panic_of(
        self,
        task: impl Future<Output = ()> + Send + 'static,
        place: String,
    ) {
        if tokio::spawn(task)
            .await
            .is_err_and(|error| error.is_panic())
        {
            // If the receiver was dropped, the run stops and needs no report.
            let _ = self.send(Planned::panicked(place)).await;
        }
    }

    /// Sends the last batch, and the end of the range.
    pub(super) async fn end(self) -> Result<(), ReceiverGone> {
        self.flush().await?;
        self.sender
            .events
            .send(PlanEvent::Ended(self.range))
            .await
            .map_err(|_| ReceiverGone)
    }
}

/// The plans of a transfer, one entry at a time.
#[derive(Debug)]
pub struct Steps {
    events: mpsc::Receiver<PlanEvent>,
    batch: vec::IntoIter<Planned>,
}

impl Steps {
    pub(super) fn of(Planning { events, .. }: Planning) -> Self {
        Self {
            events,
            batch: Vec::new().into_iter(),
        }
    }

    /// Returns the plan for the next entry; `None` at the end.
    pub async fn recv(&mut self) -> Option<Planned> {
        loop {
            if let Some(planned) = self.batch.next() {
                return Some(planned);
            }
            if let PlanEvent::Planned(_, batch, _) = self.events.recv().await? {
                self.batch = batch.into_iter();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_list_that_failed() {
        let (sender, mut planning) = PlanSender::channel();
        let reporter = BatchSender::new(7, sender);
        let task = async { panic!("a bug") };
        reporter.report_panic_of(task, "s3://b/".to_owned()).await;
        let Some(PlanEvent::Planned(7, batch, None)) = planning.events.recv().await else {
            panic!("no report for the range")
        };
        assert!(
            matches!(&batch[..], [Planned::Unlisted(place, failure)]
                if place == "s3://b/" && *failure.kind() == FailureKind::Bug),
            "{batch:?}"
        );
        assert!(planning.events.recv().await.is_none());
    }
}
