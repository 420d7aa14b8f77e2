//! Remembers when each operation was last answered.
//!
//! This distinguishes a server that is silent, which ends the run, from one object on which the
//! server fails.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::s3::Operation;

/// The times of the last responses by operation, in milliseconds since the run began.
#[derive(Debug, Default)]
pub(super) struct LastAnswers([AtomicU64; Operation::COUNT]);

impl LastAnswers {
    /// Notes that a request was answered at `now`, even if it was refused.
    pub(super) fn note(&self, operation: Operation, now: Duration) {
        self.of(operation)
            .store(millis(now).max(1), Ordering::Relaxed);
    }

    /// Returns true if a request of this operation was answered after `since`.
    pub(super) fn any_after(&self, operation: Operation, since: Duration) -> bool {
        self.of(operation).load(Ordering::Relaxed) > millis(since)
    }

    fn of(&self, operation: Operation) -> &AtomicU64 {
        &self.0[operation as usize]
    }
}

/// Returns a time in milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_for_their_own_kind() {
        let (answers, second) = (LastAnswers::default(), Duration::from_secs(1));
        assert!(!answers.any_after(Operation::CopyObject, Duration::ZERO));
        answers.note(Operation::CopyObject, second);
        assert!(answers.any_after(Operation::CopyObject, Duration::ZERO));
        assert!(!answers.any_after(Operation::CopyObject, second));
        assert!(!answers.any_after(Operation::RestoreObject, Duration::ZERO));
    }
}
