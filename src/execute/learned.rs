//! Records what the pacer has learned in the journal, for sessions that resume the run.

use std::sync::Arc;
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

/// Gives the pacer the last record of the journal, unless that is too old.
pub(super) fn recall(pacer: &Pacer, resumed: &RunState) {
    if let Some(Remembered { at, learned }) = &resumed.learned
        && Timestamp::now().duration_since(*at).unsigned_abs() < KEPT
    {
        pacer.recall(learned);
    }
}

/// Records what the pacer learns, for as long as this future is polled.
pub(super) async fn keep(pacer: Arc<Pacer>, journal: Journal) {
    let mut recorded = Learned::default();
    loop {
        sleep(EVERY).await;
        let learned = pacer.learned();
        if learned.differs_from(&recorded) {
            recorded = learned.clone();
            // The watcher of the journal reports the error.
            let _ = journal.append(JournalEvent::PaceLearned(learned)).await;
        }
    }
}

/// Records what the pacer has learned once more, at the end of a session.
pub(super) async fn tell(pacer: &Pacer, journal: &Journal) {
    // Without this record, the next session starts with an older one.
    let _ = journal
        .append(JournalEvent::PaceLearned(pacer.learned()))
        .await;
}
