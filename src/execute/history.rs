//! Copies the versions of a key one after another.
//!
//! The conductor starts a version when the previous one is done, and puts it first in the queue, so
//! that it finishes each key that it has started. If a version is not written, the newer versions
//! end too, because the destination would have another history without it. The next run continues
//! with that version.

use super::Work;
use super::conductor::Conductor;
use super::receipt::{Draft, Ending, Receipt};
use crate::bucket::history::Tip;
use crate::execute::monitor::Event;
use crate::plan::decide::Skip;
use crate::planner::{Following, Step};

impl Work {
    /// Announces a step, and the newer versions that wait for it.
    pub(super) fn announce(&self, step: &Step) {
        self.monitor.observe(&Event::ObjectPlanned {
            bytes: step.entry.size,
        });
        let following = step.turn.as_ref().and_then(|turn| turn.then.as_ref());
        for version in following
            .into_iter()
            .flat_map(|following| following.versions())
        {
            self.monitor.observe(&Event::ObjectPlanned {
                bytes: version.size,
            });
        }
    }
}

impl Conductor<'_> {
    /// Queues the next version of a key, or ends all newer versions if this one was not written.
    pub(super) fn follow(&mut self, transfer: u32, following: Box<Following>, receipt: &Receipt) {
        let ending = match &receipt.ending {
            Ending::Done {
                destination_version,
                ..
            } => {
                let tip = destination_version.clone().into();
                if self.stop.is_cancelled() {
                    return self.give_up(transfer, following, &Ending::Stopped);
                }
                let work = self.work(transfer);
                if let Some(step) = work.and_then(|work| following.next(&work.sides, tip)) {
                    self.queue_next(transfer, Box::new(step));
                }
                return;
            }
            Ending::Stopped => Ending::Stopped,
            Ending::Skipped { .. } => Ending::Skipped {
                reason: Skip::Archived,
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
        self.give_up(transfer, following, &ending);
    }

    /// Ends all newer versions of a key.
    pub(super) fn give_up(
        &mut self,
        transfer: u32,
        mut following: Box<Following>,
        ending: &Ending,
    ) {
        let Some(work) = self.work(transfer) else {
            return;
        };
        while let Some(mut step) = following.next(&work.sides, Tip::Unknown) {
            let then = step.turn.take().and_then(|turn| turn.then);
            let (source, destination) = work.location(&step);
            let draft = Draft {
                route: None,
                parts: 0,
                ..Draft::of(&step)
            };
            self.end_of(transfer, None, draft, source, destination, ending.clone());
            let Some(then) = then else { return };
            following = then;
        }
    }
}
