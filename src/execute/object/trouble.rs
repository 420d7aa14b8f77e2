//! The reasons why an object is not done, and why it is planned again.

use serde::Serialize;

use crate::s3::{Failure, FailureKind};

/// The reason why a round of an object ended without the object.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// The object is planned again, perhaps because of this failure.
    Replan(Replan, Option<Failure>),
    /// The run stops.
    Stopped,
    /// A request failed for good.
    Failed(Failure),
}

impl Trouble {
    /// Returns true if the next session tries the object again.
    pub(crate) fn is_left(&self) -> bool {
        match self {
            Self::Stopped => true,
            Self::Failed(failure) => failure.ends_run(),
            Self::Replan(..) => false,
        }
    }

    /// Returns the trouble of a request that names the pinned source.
    pub(crate) fn of_pinned(failure: Failure) -> Self {
        match failure.kind() {
            FailureKind::PreconditionFailed => Replan::SourceChanged.into(),
            _ => failure.into(),
        }
    }
}

impl From<Replan> for Trouble {
    fn from(reason: Replan) -> Self {
        Self::Replan(reason, None)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        match failure.kind() {
            FailureKind::Stopped => Self::Stopped,
            FailureKind::SourceChanged => Replan::SourceChanged.into(),
            _ => Self::Failed(failure),
        }
    }
}

/// The reason why an object is planned again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Replan {
    /// The source is no longer what HEAD showed.
    SourceChanged,
    /// The server refused to copy the `ETag` that HEAD had shown a moment ago. Usually the source
    /// has changed; a server that does this with the same `ETag` each time contradicts itself.
    #[serde(rename = "source-changed")]
    SourceRefused,
    /// The destination's key is no longer what the plan saw, or another write to it was under way.
    DestinationChanged,
    /// The guess that all parts of the source have one size was wrong: each part is asked for.
    OtherBoundaries,
    /// An open upload that was adopted turned out to be of another copy.
    ForeignUpload,
    /// The server no longer accepts an open upload that was resumed.
    StaleUpload,
    /// Somebody else ended the upload, which had stored parts.
    UploadGone,
    /// The object was in an archive, and can be read by now.
    Restored,
}

impl Replan {
    /// Returns true if the server shows, or claims, that the source is another one by now.
    pub(crate) const fn is_about_source(self) -> bool {
        matches!(self, Self::SourceChanged | Self::SourceRefused)
    }
}

impl std::fmt::Display for Replan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::SourceChanged | Self::SourceRefused => "the source changed",
            Self::DestinationChanged => "another writer changed the destination's key",
            Self::OtherBoundaries => "the source's parts are not uniform",
            Self::ForeignUpload => "the open upload was of another copy",
            Self::StaleUpload => "the server no longer accepts the open upload",
            Self::UploadGone => "somebody else ended the upload",
            Self::Restored => "the object was restored meanwhile",
        })
    }
}
