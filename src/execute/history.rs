//! The versions of a key, one after the other.
//!
//! The conductor begins a version when the one before it is done, and puts it first in the queue,
//! so that a key that was begun is also finished. If a version is not written, the newer ones
//! behind it end with it: without it they would be another history. The next run continues where
//! this one ended.

use super::Work;
use super::conductor::Conductor;
use super::receipt::{Draft, Ending, Receipt};
use crate::bucket::history::Tip;
use crate::execute::monitor::Event;
use crate::plan::decide::Skip;
use crate::planner::{Following, Step};

impl Work {
    /// Announces a step, and the versions that wait behind it.
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
    /// Goes on with the next version of a key, or ends those that cannot follow.
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

    /// Ends all versions that wait.
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
