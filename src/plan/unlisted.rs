//! Counts failed lists by their reason.
//!
//! If a run cannot list anything, its exit code tells whether waiting may help, as it does if a
//! bucket cannot be used.

use crate::s3::Failure;

/// Counts the lists that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnlistedCounts {
    /// Lists that were refused because of the credentials, the server, the Region, or the clock.
    pub refused: u64,
    /// Lists that failed for a temporary reason.
    pub passing: u64,
}

/// The common cause of all failures of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommonCause {
    /// Every failure is a refused list.
    Refused,
    /// Every failure is a list that may succeed later.
    Passing,
}

impl UnlistedCounts {
    /// Counts a list that failed.
    pub fn observe(&mut self, failure: &Failure) {
        self.refused += u64::from(failure.refuses_access());
        self.passing += u64::from(failure.kind().may_pass_later());
    }

    /// Adds the counts of another transfer.
    pub fn merge(&mut self, other: Self) {
        self.refused += other.refused;
        self.passing += other.passing;
    }

    /// Returns the common cause of all `failed` failures, if they have one. If the run found any
    /// objects (`found`), access was not refused as a whole. If `has_empty_failure` is true,
    /// waiting does not help, because the job treats another, empty selection as a failure.
    #[must_use]
    pub const fn cause(
        self,
        failed: u64,
        found: u64,
        has_empty_failure: bool,
    ) -> Option<CommonCause> {
        if failed == 0 {
            None
        } else if self.passing == failed && !has_empty_failure {
            Some(CommonCause::Passing)
        } else if self.refused == failed && found == 0 {
            Some(CommonCause::Refused)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::{FailureKind, Operation};

    #[test]
    fn failures_have_a_cause_only_if_it_is_that_of_all() {
        use FailureKind::{Bug, ClockSkew, Credentials, Denied, Throttled, Transient, WrongRegion};
        let refused = Some(CommonCause::Refused);
        let passing = Some(CommonCause::Passing);
        for (kinds, others, found, has_empty_failure, cause) in [
            (vec![], 0, 0, false, None),
            (
                vec![Denied, Credentials, ClockSkew, WrongRegion(None)],
                0,
                0,
                false,
                refused,
            ),
            (vec![Denied], 0, 1, false, None),
            (vec![Denied], 1, 0, false, None),
            (vec![Denied], 0, 0, true, refused),
            (vec![Transient, Throttled], 0, 5, false, passing),
            (vec![Transient], 0, 0, true, None),
            (vec![Transient], 1, 0, false, None),
            (vec![Transient, Denied], 0, 0, false, None),
            (vec![Bug], 0, 0, false, None),
        ] {
            let mut counts = UnlistedCounts::default();
            for kind in &kinds {
                counts.observe(&Failure::new(
                    kind.clone(),
                    Operation::ListObjects,
                    "b",
                    "m",
                ));
            }
            let failed = kinds.len() as u64 + others;
            let found = counts.cause(failed, found, has_empty_failure);
            assert_eq!(found, cause, "{kinds:?}");
        }
    }
}
