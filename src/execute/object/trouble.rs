//! The reasons why a round ends without the object, and why the object is planned again.

use serde::Serialize;

use crate::s3::{Failure, FailureKind};

/// The reason why a round of an object ended without the object.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// The object must be planned again. Holds the failure that led to this, if there is one.
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

    /// Converts the failure of a request that names the pinned source: a 412 means that the source
    /// has changed.
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
    /// The server refused to copy the `ETag` that HEAD had just shown. Usually the source has
    /// changed; a server that does this with the same `ETag` each time contradicts itself.
    #[serde(rename = "source-changed")]
    SourceRefused,
    /// The destination's key is no longer what the plan saw, or another write to it was under way.
    DestinationChanged,
    /// The guess that all parts of the source have one size was wrong. The next round asks for the
    /// size of each part.
    OtherBoundaries,
    /// An adopted upload turned out to be of another copy.
    ForeignUpload,
    /// The server no longer accepts a resumed upload.
    StaleUpload,
    /// Somebody else ended the upload, which held parts.
    UploadGone,
    /// The object was in an archive and can be read by now.
    Restored,
}

impl Replan {
    /// Returns the trouble of a round that this failure ended for this reason.
    pub(crate) const fn after(self, failure: Failure) -> Trouble {
        Trouble::Replan(self, Some(failure))
    }

    /// Returns true if the server shows, or claims, that the source has changed.
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
