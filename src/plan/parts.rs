//! Cutting an object into byte ranges.
//!
//! One part copy takes a fixed start plus its bytes at some 60-80 MB/s, however large the object is; so time comes
//! from many parts in flight, and the request price is the brake. Automatic parts are about 64 to 128 MiB, larger
//! where 10,000 parts force it, and their number is a multiple of what can be in flight where that is possible: a
//! last wave of three parts takes as long as a full one. A layout is three numbers; ranges are made when they are
//! needed, so that the plan of a 48.8 TiB object takes no more room than that of a small one. Only where the boundaries
//! of a source are replayed that are not uniform, a layout holds one number per part.

use std::sync::Arc;

use thiserror::Error;

use crate::s3::capabilities::PartLimits;
use crate::size::{ByteSize, MIB};

/// The smallest part that an automatic copy layout uses when it may choose.
const COPY_PART: u64 = 64 * MIB;
/// Automatic copy layouts grow to this before they add another wave.
const LARGE_COPY_PART: u64 = 128 * MIB;
/// Automatic parts of local files: they wait in memory while they are sent, so they are smaller.
pub const UPLOAD_PART: u64 = 16 * MIB;

/// One part of an object: `length` bytes from `offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartRange {
    /// 1 to 10,000.
    pub number: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes; zero only for the single part of an empty object.
    pub length: u64,
}

impl PartRange {
    /// First and last byte, both included, as `x-amz-copy-source-range` wants them.
    #[must_use]
    pub const fn first_last(&self) -> (u64, u64) {
        (self.offset, self.offset + self.length - 1)
    }
}

/// Parts that tile an object: all of `part_size` bytes but for the last one, unless they are those of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartLayout {
    /// The object's bytes.
    pub size: u64,
    /// Bytes of every part but the last; of the largest part where the boundaries are given one by one.
    pub part_size: u64,
    /// How many parts.
    pub count: u32,
    /// Whose boundaries these are.
    pub boundaries: Boundaries,
}

/// Whose part boundaries a layout has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boundaries {
    /// Ours, uniform.
    Chosen,
    /// Uniform, and believed to be those of the source: its size, its first part and its number of parts fit.
    Guessed,
    /// Those of the source: where each part ends, ascending.
    Replayed(Arc<[u64]>),
}

/// What the layout is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A server-side copy with about this many parts in flight.
    Copy {
        /// How many requests can be in flight.
        in_flight: u32,
    },
    /// An upload from memory.
    Upload,
    /// The size that the user named, larger only where 10,000 parts force it.
    Exactly(u64),
}

/// Why an object can not be cut into parts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// A range needs at least one byte.
    #[error("an empty object has no byte ranges; it is copied in one request")]
    Empty,
    /// More than one `CopyObject` takes, where there is no `UploadPartCopy`.
    #[error(
        "{} bytes are more than one CopyObject takes here ({}), and the endpoint has no UploadPartCopy; send the \
         object through this machine (`s3haul copy - DST` reads standard input), or state a larger \
         `capabilities: {{max_copy: …}}` if the server has none of that limit",
        .size, ByteSize(*.limit)
    )]
    NoPartCopy {
        /// The object's bytes.
        size: u64,
        /// The most that one request copies.
        limit: u64,
    },
    /// More than one `CopyObject` takes, under a name that `UploadPartCopy` does not find.
    #[error(
        "on this server a part copy does not find a source with a `%` or `?` in its key, and one CopyObject takes at \
         most {}; rename the source, or run `s3haul check --probe` and state `capabilities: {{odd_part_sources: true}}` \
         if that is what it finds", ByteSize(*.limit)
    )]
    OddSource {
        /// The most that one request copies.
        limit: u64,
    },
    /// More than the largest part times the most parts.
    #[error("{} bytes are more than the endpoint's largest object of {} bytes", .size, .limit)]
    TooLarge {
        /// The object's bytes.
        size: u64,
        /// The most that fits.
        limit: u64,
    },
}

/// Cuts `size` bytes into parts.
///
/// # Errors
/// [`LayoutError`] for empty objects and for those above the endpoint's limit (48.8 TiB on S3).
pub fn layout(size: u64, limits: &PartLimits, goal: Goal) -> Result<PartLayout, LayoutError> {
    if size == 0 {
        return Err(LayoutError::Empty);
    }
    if size > limits.max_object() {
        return Err(LayoutError::TooLarge { size, limit: limits.max_object() });
    }
    let wanted = match goal {
        Goal::Copy { in_flight } => full_waves(size, u64::from(in_flight.max(1))),
        Goal::Upload => UPLOAD_PART,
        Goal::Exactly(bytes) => bytes,
    };
    // Whole MiB keep ranges readable; the largest objects need every byte of the largest part and are exempt.
    let forced = size.div_ceil(u64::from(limits.max_parts));
    let forced = forced.next_multiple_of(MIB).min(limits.max_part);
    let part_size = wanted.max(forced).clamp(limits.min_part, limits.max_part);
    let count = u32::try_from(size.div_ceil(part_size)).unwrap_or(limits.max_parts);
    Ok(PartLayout::uniform(size, part_size, count))
}

/// The part size for which the last wave of parts is full, between 64 and 128 MiB if the size allows.
fn full_waves(size: u64, in_flight: u64) -> u64 {
    let waves = size.div_ceil(LARGE_COPY_PART).div_ceil(in_flight).max(1);
    let parts = (waves * in_flight).min(size.div_ceil(COPY_PART)).max(1);
    size.div_ceil(parts).next_multiple_of(MIB)
}

impl PartLayout {
    /// Equal parts of our choice. `count` parts of `part_size` must tile `size`.
    #[must_use]
    pub const fn uniform(size: u64, part_size: u64, count: u32) -> Self {
        Self { size, part_size, count, boundaries: Boundaries::Chosen }
    }

    /// The part with this number, when the layout has it.
    #[must_use]
    pub fn part(&self, number: u32) -> Option<PartRange> {
        let index = number.checked_sub(1)?;
        if number > self.count {
            return None;
        }
        let (offset, end) = match &self.boundaries {
            Boundaries::Replayed(ends) => {
                let at = usize::try_from(index).ok()?;
                (at.checked_sub(1).map_or(Some(0), |before| ends.get(before).copied())?, *ends.get(at)?)
            }
            Boundaries::Chosen | Boundaries::Guessed => {
                let offset = u64::from(index) * self.part_size;
                (offset, offset.saturating_add(self.part_size).min(self.size))
            }
        };
        Some(PartRange { number, offset, length: end.checked_sub(offset)? })
    }

    /// All parts, in the order of their numbers.
    pub fn parts(&self) -> impl Iterator<Item = PartRange> + Send + '_ {
        (1..=self.count).filter_map(move |number| self.part(number))
    }

    /// True when the parts are meant to be those of the source.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.boundaries != Boundaries::Chosen
    }
}

impl std::fmt::Display for PartLayout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let up_to = if matches!(self.boundaries, Boundaries::Replayed(_)) { "up to " } else { "" };
        write!(f, "{} x {up_to}{}", self.count, ByteSize(self.part_size))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::size::{GIB, TIB};

    const COPY: Goal = Goal::Copy { in_flight: 2048 };

    fn sizes() -> impl Strategy<Value = u64> {
        prop_oneof![
            1..10 * MIB,
            1..10 * GIB,
            1..PartLimits::S3.max_object(),
            Just(PartLimits::S3.max_object())
        ]
    }

    fn goals() -> impl Strategy<Value = Goal> {
        prop_oneof![
            (1..5000u32).prop_map(|in_flight| Goal::Copy { in_flight }),
            Just(Goal::Upload),
            (5 * MIB..=5 * GIB).prop_map(Goal::Exactly),
        ]
    }

    fn limits() -> impl Strategy<Value = PartLimits> {
        prop_oneof![
            Just(PartLimits::S3),
            Just(PartLimits { max_parts: 1000, ..PartLimits::S3 }),
            Just(PartLimits { max_part: 5 * GIB - 5 * MIB, equal_parts: true, ..PartLimits::S3 }),
        ]
    }

    proptest! {
        #[test]
        fn parts_tile_the_object_within_the_limits(size in sizes(), goal in goals(), limits in limits()) {
            let layout = match layout(size, &limits, goal) {
                Ok(layout) => layout,
                Err(error) => {
                    prop_assert_eq!(error, LayoutError::TooLarge { size, limit: limits.max_object() });
                    prop_assert!(size > limits.max_object());
                    return Ok(());
                }
            };
            prop_assert!(layout.count >= 1 && layout.count <= limits.max_parts);
            let mut next = 0;
            for part in layout.parts() {
                prop_assert_eq!(part.offset, next);
                prop_assert!(part.length >= 1 && part.length <= limits.max_part);
                if part.number < layout.count {
                    prop_assert!(part.length >= limits.min_part);
                    prop_assert_eq!(part.length, layout.part_size, "all but the last are equal");
                }
                next += part.length;
            }
            prop_assert_eq!(next, size);
            prop_assert_eq!(layout.part(0), None);
            prop_assert_eq!(layout.part(layout.count + 1), None);
        }
    }

    #[test]
    fn the_last_wave_is_full_and_parts_stay_between_64_and_128_mib() {
        for (size, in_flight, count, part) in [
            (TIB, 2048, 8192, 128 * MIB),
            (50 * GIB, 2048, 800, 64 * MIB),
            (200 * GIB, 2048, 2048, 100 * MIB),
            (300 * MIB, 512, 5, 60 * MIB),
        ] {
            let layout = layout(size, &PartLimits::S3, Goal::Copy { in_flight }).unwrap();
            assert_eq!((layout.count, layout.part_size), (count, part), "{}", ByteSize(size));
        }
    }

    #[test]
    fn the_ends_of_the_scale() {
        assert_eq!(layout(0, &PartLimits::S3, COPY), Err(LayoutError::Empty));
        let largest = layout(53_687_091_200_000, &PartLimits::S3, COPY).unwrap();
        assert_eq!((largest.count, largest.part_size), (10_000, 5 * GIB));
        assert!(layout(53_687_091_200_001, &PartLimits::S3, COPY).is_err());
        assert_eq!(layout(1, &PartLimits::S3, COPY).unwrap().part(1).unwrap().first_last(), (0, 0));
    }

    #[test]
    fn a_named_size_grows_only_where_ten_thousand_parts_force_it() {
        let exactly = |size| layout(size, &PartLimits::S3, Goal::Exactly(8 * MIB)).unwrap().part_size;
        assert_eq!(exactly(10 * GIB), 8 * MIB);
        assert_eq!(exactly(TIB), 105 * MIB);
    }
}
