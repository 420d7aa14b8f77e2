//! Defines the reasons why a round does not end its object.

use crate::execute::replan::Replan;
use crate::s3::{Failure, FailureKind};

/// The reason why a round did not end its object.
#[derive(Clone, Debug)]
pub(crate) enum RoundFailure {
    /// The object must be planned again. Holds the failure that caused it, if there is one.
    Replan(Replan, Option<Failure>),
    /// The run stops.
    Stopped,
    /// A request failed for good.
    Failed(Failure),
}

impl RoundFailure {
    /// Returns true if the next session tries the object again.
    pub(crate) fn leaves_object_to_next_session(&self) -> bool {
        match self {
            Self::Stopped => true,
            Self::Failed(failure) => failure.ends_run(),
            Self::Replan(..) => false,
        }
    }

    /// Converts the failure of a request that names the pinned source: a 412 means that the source
    /// has changed.
    pub(crate) fn from_pinned_read(failure: Failure) -> Self {
        match failure.kind() {
            FailureKind::PreconditionFailed => Replan::SourceChanged.into(),
            _ => failure.into(),
        }
    }
}

impl From<Replan> for RoundFailure {
    fn from(reason: Replan) -> Self {
        Self::Replan(reason, None)
    }
}

impl From<Failure> for RoundFailure {
    fn from(failure: Failure) -> Self {
        match failure.kind() {
            FailureKind::Stopped => Self::Stopped,
            FailureKind::SourceChanged => Replan::SourceChanged.into(),
            _ => Self::Failed(failure),
        }
    }
}

impl Replan {
    /// Returns the failure of a round that must be replanned for this reason. `failure` is what led
    /// to it.
    pub(crate) const fn after(self, failure: Failure) -> RoundFailure {
        RoundFailure::Replan(self, Some(failure))
    }
}
