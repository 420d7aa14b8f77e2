//! What the planner's requests share with all others, the places in flight, and what a task of its that panics comes to.

use std::future::Future;

use super::{Planned, Sides};
use crate::pace::slots::Want;
use crate::s3::{Failure, FailureKind, Operation};

impl Sides {
    /// A request of the plan takes a place like those of the copies, so that a ceiling holds for all of them together. Nobody who has a
    /// place waits for the plan.
    pub(super) async fn in_place<T>(
        &self,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Ok(_place) = self.destination.pacer().slots().request(Want::Small).await else {
            let (operation, place) = (Operation::HeadObject, self.transfer.to.location.to_string());
            return Err(Failure::new(FailureKind::Stopped, operation, place, "the run was stopped"));
        };
        request.await
    }
}

/// What a panic comes to: what it had not told is not known.
pub(super) fn panicked(place: String) -> Planned {
    let message = "a task of ours panicked while it planned";
    let failure = Failure::new(FailureKind::Bug, Operation::ListObjects, &*place, message);
    Planned::Unlisted(place, failure)
}
