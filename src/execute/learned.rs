//! Records what the pacer has learned in the journal, for sessions that resume the run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;

use crate::journal::Journal;
use crate::journal::event::JournalEvent;
use crate::journal::state::{Remembered, RunState};
use crate::pace::Pacer;
use crate::pace::learned::{KEPT, Learned};

/// The interval between two records. There is no record if the pacer has learned nothing new.
const EVERY: Duration = Duration::from_secs(10);

/// The record of a run's rates in its journal.
#[derive(Debug)]
pub(super) struct LearnedRates {
    pacer: Arc<Pacer>,
    journal: Journal,
    /// The rates that need no new record: the last recorded rates, or the rates that the pacer
    /// recalled from an earlier session.
    known: Mutex<Learned>,
}

impl LearnedRates {
    /// Gives the pacer the last record of the journal, unless the record is too old.
    pub(super) fn recall(pacer: Arc<Pacer>, journal: Journal, resumed: &RunState) -> Self {
        let mut known = Learned::default();
        if let Some(Remembered { at, learned }) = &resumed.learned
            && Timestamp::now().duration_since(*at).unsigned_abs() < KEPT
        {
            pacer.recall(learned);
            // The pacer starts below the recorded rates as a caution. It has not learned lower
            // rates.
            known = pacer.learned();
        }
        Self {
            pacer,
            journal,
            known: Mutex::new(known),
        }
    }

    /// Records what the pacer learns, for as long as this future is polled.
    pub(super) async fn keep(self: Arc<Self>) {
        loop {
            sleep(EVERY).await;
            self.record().await;
        }
    }

    /// Records what the pacer has learned since the last record. If it has learned nothing, the
    /// last record keeps its time.
    pub(super) async fn record(&self) {
        let learned = self.pacer.learned();
        if !learned.differs_from(&self.known()) {
            return;
        }
        // The watcher of the journal reports the error.
        let _ = self
            .journal
            .append(JournalEvent::PaceLearned(learned.clone()))
            .await;
        // Update this only after the append: if the append is canceled, the rates must be recorded
        // again.
        *self.known() = learned;
    }

    fn known(&self) -> MutexGuard<'_, Learned> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::task::unconstrained;

    use super::*;
    use crate::journal;
    use crate::manifest::job::Limits;
    use crate::pace::RetryPolicy;

    #[tokio::test]
    async fn rates_whose_record_was_dropped_are_recorded_later() {
        let pacer = Pacer::new(&Limits::default(), 1000, RetryPolicy::default());
        let (pacer, journal) = (Arc::new(pacer), journal::off(None));
        let resumed = RunState::default();
        let rates = LearnedRates::recall(Arc::clone(&pacer), journal.clone(), &resumed);
        pacer.slots().start_at(500);
        // The writer cannot run until this task yields, so its queue fills up.
        let learned = |concurrency| Learned {
            concurrency,
            ..Learned::default()
        };
        let fill = || journal.append(JournalEvent::PaceLearned(learned(1)));
        while unconstrained(fill()).now_or_never().is_some() {}
        assert!(unconstrained(rates.record()).now_or_never().is_none());
        rates.record().await;
        drop(rates);
        let closed = journal.close(JournalEvent::RunStopped).await.unwrap();
        assert_eq!(closed.state.learned.unwrap().learned, learned(500));
    }
}
