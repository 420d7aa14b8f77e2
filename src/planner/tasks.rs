//! Tasks of the planner, and what becomes of one that panics: what it had not told is never taken for nothing.

use std::future::{Future, pending};
use std::panic::resume_unwind;

use tokio_util::task::AbortOnDropHandle;

use super::Planned;
use crate::s3::{Failure, FailureKind, Operation};

/// A question that goes on while nobody looks after it: one that stands in the line of a limit and is not polled would hold up
/// everybody behind it, those included for whom its asker waits.
pub(super) fn by_itself<T: Send + 'static>(
    question: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> {
    let asked = AbortOnDropHandle::new(tokio::spawn(question));
    async move {
        match asked.await {
            Ok(answer) => answer,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // Only the end of the runtime does that.
                Err(_) => pending().await,
            },
        }
    }
}

/// What a panic comes to: what it had not told is not known.
pub(super) fn panicked(place: String) -> Planned {
    let message = "a task of ours panicked while it planned";
    let failure = Failure::new(FailureKind::Bug, Operation::ListObjects, &*place, message);
    Planned::Unlisted(place, failure)
}
