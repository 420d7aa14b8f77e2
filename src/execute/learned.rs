//! Records what the pacer has learned in the journal, for sessions that resume the run.

use std::sync::{Arc, Mutex, PoisonError};
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
    /// The rates of the pacer that need no record: those at the time of the last record, or those
    /// that the pacer recalled from an earlier session.
    known: Mutex<Learned>,
}

impl LearnedRates {
    /// Gives the pacer the last record of the journal, unless that is too old.
    pub(super) fn recall(pacer: Arc<Pacer>, journal: Journal, resumed: &RunState) -> Self {
        let mut known = Learned::default();
        if let Some(Remembered { at, learned }) = &resumed.learned
            && Timestamp::now().duration_since(*at).unsigned_abs() < KEPT
        {
            pacer.recall(learned);
            // The pacer starts below the recorded rates. That is caution, and nothing learned.
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
    /// last record stays, with its time.
    pub(super) async fn record(&self) {
        let learned = self.pacer.learned();
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if !learned.differs_from(&known) {
                return;
            }
            known.clone_from(&learned);
        }
        // The watcher of the journal reports the error.
        let _ = self
            .journal
            .append(JournalEvent::PaceLearned(learned))
            .await;
    }
}
