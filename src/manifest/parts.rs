//! A job's settings for parts. [`crate::plan::parts`] divides the objects.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::size::{ByteSize, GIB, MIB};

/// S3's smallest part size, except for the last part of an upload.
pub const MIN_PART: ByteSize = ByteSize(5 * MIB);
/// S3's largest part size, and the largest object that one `CopyObject` copies.
pub const MAX_PART: ByteSize = ByteSize(5 * GIB);

/// The rules for dividing objects into parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The size of a part.
    pub size: PartSize,
    /// Objects larger than this are copied in parts. From [`MIN_PART`] to [`MAX_PART`].
    pub threshold: ByteSize,
    /// The goal of automatic part sizes, for copies only.
    pub goal: PartGoal,
    /// The part boundaries of a copy.
    pub layout: LayoutChoice,
}

/// The goal of automatic part sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PartGoal {
    /// High speed with few requests: parts of 64 to 128 MiB, or larger ones if copies start slowly.
    #[default]
    Balanced,
    /// The shortest time. s3haul measures the speed of copies during the run and chooses part sizes
    /// accordingly.
    Fastest,
    /// The fewest requests: parts as large as S3 allows.
    Cheapest,
}

/// The part boundaries of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LayoutChoice {
    /// Boundaries that follow from `size`.
    #[default]
    Auto,
    /// The boundaries of the source, so that the copy has the same `ETag` and composite checksum.
    Source,
}

/// The size of a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartSize {
    /// A size that depends on the size of the object.
    #[default]
    Auto,
    /// This many bytes, from [`MIN_PART`] to [`MAX_PART`]; more if the object would need more than
    /// 10,000 parts.
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
