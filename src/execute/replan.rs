//! Defines the reasons why an object is planned again.

use serde::Serialize;

/// The reason why an object is planned again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Replan {
    /// The source is no longer the object that HEAD showed.
    SourceChanged,
    /// The server refused to copy the `ETag` that HEAD had just shown. Usually the source has
    /// changed. A server that refuses the same `ETag` each time contradicts itself.
    #[serde(rename = "source-changed")]
    SourceRefused,
    /// The destination key holds a different object from the one that the planner saw, or another
    /// write to the key was in progress.
    DestinationChanged,
    /// The guess that all parts of the source have one size was wrong. The next round asks for the
    /// size of each part.
    OtherBoundaries,
    /// An adopted upload turned out to belong to another copy.
    ForeignUpload,
    /// The server no longer accepts a resumed upload.
    StaleUpload,
    /// Another client ended an upload that held parts.
    UploadGone,
    /// The object was archived, and can be read now.
    Restored,
}

impl Replan {
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
