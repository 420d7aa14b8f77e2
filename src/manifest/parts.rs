//! What a job says about byte ranges. How an object is cut is decided in [`crate::plan::parts`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::size::{ByteSize, GIB, MIB};

/// S3's smallest part, except for the last one of an upload.
pub const MIN_PART: ByteSize = ByteSize(5 * MIB);
/// S3's largest part, and the largest object that one `CopyObject` takes.
pub const MAX_PART: ByteSize = ByteSize(5 * GIB);

/// How objects are cut into parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// How large a part is.
    pub size: PartSize,
    /// Larger objects are copied in parts; [`MIN_PART`] to [`MAX_PART`].
    pub threshold: ByteSize,
    /// What parts of automatic size are chosen for; copies only.
    pub goal: PartGoal,
    /// Whose part boundaries a copy has.
    pub layout: LayoutChoice,
}

/// What parts of automatic size are chosen for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PartGoal {
    /// Fast, at a price per object that nobody minds: parts of 64 to 128 MiB, larger where copies begin slowly.
    #[default]
    Balanced,
    /// The least time, by how long copies were seen to take.
    Fastest,
    /// The fewest requests: parts as large as S3 allows.
    Cheapest,
}

/// Whose part boundaries a copy has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LayoutChoice {
    /// Boundaries that make the copy fast.
    #[default]
    Auto,
    /// Those of the source object, so that its `ETag` and its composite checksum stay what they are.
    Source,
}

/// How large a part is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartSize {
    /// Chosen for each object by its size.
    #[default]
    Auto,
    /// This many bytes, [`MIN_PART`] to [`MAX_PART`]; more where 10,000 parts would not be enough.
    Exactly(ByteSize),
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            size: PartSize::Auto,
            threshold: ByteSize(256 * MIB),
            layout: LayoutChoice::Auto,
            goal: PartGoal::Balanced,
        }
    }
}
