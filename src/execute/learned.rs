//! Writes the pacer's knowledge into the journal now and then; a resumed session starts with it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;

use crate::journal::Journal;
use crate::journal::event::JournalEvent;
use crate::journal::state::{Remembered, RunState};
use crate::pace::Pacer;
use crate::pace::learned::{KEPT, Learned};

/// Between two looks at what was learned. It is written down only if it has changed.
const EVERY: Duration = Duration::from_secs(10);

/// Begins with what the journal says, unless that is old.
pub(super) fn recall(pacer: &Pacer, resumed: &RunState) {
    if let Some(Remembered { at, learned }) = &resumed.learned
        && Timestamp::now().duration_since(*at).unsigned_abs() < KEPT
    {
        pacer.recall(learned);
    }
}

/// Writes down what is learned, for as long as it is polled.
pub(super) async fn keep(pacer: Arc<Pacer>, journal: Journal) {
    let mut told = Learned::default();
    loop {
        sleep(EVERY).await;
        let learned = pacer.learned();
        if learned.differs_from(&told) {
            told = learned.clone();
            // An error is the watcher's to tell.
            let _ = journal.append(JournalEvent::PaceLearned(learned)).await;
        }
    }
}

/// Writes it down once more, for the session that goes on.
pub(super) async fn tell(pacer: &Pacer, journal: &Journal) {
    // As above.
    let _ = journal
        .append(JournalEvent::PaceLearned(pacer.learned()))
        .await;
}
