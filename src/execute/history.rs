//! Copies the versions of a key one after another.
//!
//! The conductor starts a version when the previous one is done, and puts it first in the queue, so
//! that it finishes each key that it has started. If a version is not written, the newer versions
//! end too, because the destination's history would have a gap. The next run continues with the
//! version that was not written.

use super::TransferContext;
use super::conductor::Conductor;
use super::receipt::{Draft, Ending, Receipt};
use crate::bucket::history::LatestVersion;
use crate::execute::monitor::Event;
use crate::plan::decide::Skip;
use crate::planner::{Step, VersionChain};

impl TransferContext {
    /// Announces a step, and the newer versions that wait for it.
    pub(super) fn announce(&self, step: &Step) {
        self.monitor.observe(&Event::ObjectPlanned {
            bytes: step.entry.size,
        });
        let chain = step
            .history
            .as_ref()
            .and_then(|history| history.newer.as_ref());
        for version in chain.into_iter().flat_map(|chain| chain.versions()) {
            self.monitor.observe(&Event::ObjectPlanned {
                bytes: version.size,
            });
        }
    }
}

impl Conductor<'_> {
    /// Queues the next version of a key, or ends all newer versions if this one was not written.
    pub(super) fn follow(&mut self, transfer: u32, chain: Box<VersionChain>, receipt: &Receipt) {
        let ending = match &receipt.ending {
            Ending::Done {
                destination_version,
                ..
            } => {
                let latest = destination_version.clone().into();
                if self.stop.is_cancelled() {
                    return self.give_up(transfer, chain, &Ending::Stopped);
                }
                let context = self.context(transfer);
                if let Some(step) = context.and_then(|context| chain.next(&context.sides, latest)) {
                    self.queue_next(transfer, Box::new(step));
                }
                return;
            }
            Ending::Stopped => Ending::Stopped,
            Ending::Skipped { reason } => Ending::Skipped {
                reason: match reason {
                    Skip::Archived | Skip::NotSelected | Skip::ChangedMeanwhile => *reason,
                    // The older version was not written, so this one is not at the destination.
                    Skip::Present | Skip::Equal { .. } | Skip::AsSet => Skip::ChangedMeanwhile,
                },
            },
            Ending::Restoring { .. } => Ending::Restoring { requested: None },
            Ending::Failed { error } => {
                let mut error = error.clone();
                error.message = format!(
                    "an older version of the key was not copied: {}",
                    error.message
                );
                Ending::Failed { error }
            }
        };
        self.give_up(transfer, chain, &ending);
    }

    /// Ends all newer versions of a key.
    pub(super) fn give_up(&mut self, transfer: u32, mut chain: Box<VersionChain>, ending: &Ending) {
        let Some(context) = self.context(transfer) else {
            return;
        };
        while let Some(mut step) = chain.next(&context.sides, LatestVersion::Unknown) {
            let newer = step.history.take().and_then(|history| history.newer);
            let (source, destination) = context.location(&step);
            let draft = Draft {
                route: None,
                parts: 0,
                ..Draft::of(&step)
            };
            self.end_with_draft(transfer, None, draft, source, destination, ending.clone());
            let Some(newer) = newer else { return };
            chain = newer;
        }
    }
}
