//! Divides an object into byte ranges.
//!
//! A part copy takes a fixed time, plus the time for its bytes at 60 to 80 MB/s, regardless of the
//! object's size. Speed therefore comes from many parts in flight, and the price of requests limits
//! their number. By default, automatic parts of a copy have about 64 to 128 MiB. They are larger if
//! 10,000 parts require it, or if copies start slowly on this server. If possible, their number is
//! a multiple of the number of requests in flight, because a last wave of three parts takes as long
//! as a full wave. A job may prefer the fewest requests, or the shortest time, for which s3haul
//! uses the speed that it measured during the run ([`Speed`]).
//!
//! A layout is three numbers, and ranges are computed on demand, so an object of 48.8 TiB takes no
//! more memory than a small one. Only a layout that replays irregular boundaries of a source stores
//! one number per part.

use std::sync::Arc;

use thiserror::Error;

use crate::manifest::job::PartGoal;
use crate::pace::speed::Speed;
use crate::s3::capabilities::PartLimits;
use crate::size::{ByteSize, MIB};

/// The smallest part of an automatic layout of a copy.
const COPY_PART: u64 = 64 * MIB;
/// The largest automatic part on servers on which copies start slowly.
const LARGEST_BALANCED: u64 = 512 * MIB;
/// The smallest part with `goal: fastest`. Smaller parts cost requests and save no time.
const FASTEST_PART: u64 = 16 * MIB;
/// The size of automatic parts of local files. They are smaller, because s3haul keeps them in
/// memory while it sends them.
pub const UPLOAD_PART: u64 = 16 * MIB;

/// One part of an object: `length` bytes from `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartRange {
    /// The part number, from 1 to 10,000.
    pub number: u32,
    /// The first byte.
    pub offset: u64,
    /// The number of bytes; zero only for the single part of an empty object.
    pub length: u64,
}

impl PartRange {
    /// Returns the first and the last byte, both inclusive, as in `x-amz-copy-source-range`.
    #[must_use]
    pub const fn first_last(&self) -> (u64, u64) {
        (self.offset, self.offset + self.length - 1)
    }
}

/// The parts of an object. All but the last have `part_size` bytes, unless the layout replays
/// irregular boundaries of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartLayout {
    /// The size of the object in bytes.
    pub size: u64,
    /// The bytes of every part but the last, or of the largest part if the boundaries are
    /// irregular.
    pub part_size: u64,
    /// The number of parts.
    pub count: u32,
    /// The origin of the boundaries.
    pub boundaries: Boundaries,
}

/// The origin of the part boundaries of a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boundaries {
    /// Chosen by s3haul; uniform.
    Chosen,
    /// Probably the source's boundaries; uniform. The source's size, first part, and number of
    /// parts fit.
    Guessed,
    /// The source's boundaries: the ends of all parts, ascending.
    Replayed(Arc<[u64]>),
}

/// The goal of a layout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// A server-side copy.
    Copy {
        /// The preference for speed or few requests.
        aim: PartGoal,
        /// The capacity of the server and this machine.
        capacity: Capacity,
    },
    /// An upload from this machine.
    Upload,
    /// The part size that the user set. Parts are larger only if the limit of 10,000 parts requires
    /// it.
    Exactly(u64),
}

/// The capacity for part copies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// The number of requests that can be in flight.
    pub in_flight: u32,
    /// The measured speed of one copy.
    pub speed: Speed,
}

impl Capacity {
    /// Returns the seconds that `copies` copies of `bytes` each take, in waves of `in_flight`.
    #[must_use]
    pub fn seconds(&self, copies: u32, bytes: u64) -> f64 {
        f64::from(copies.div_ceil(self.in_flight.max(1))) * self.speed.seconds(bytes)
    }
}

/// The reasons why an object cannot be divided into parts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// A range needs at least one byte.
    #[error("an empty object has no byte ranges; it is copied in one request")]
    Empty,
    /// The object is larger than one `CopyObject` copies, and the server has no `UploadPartCopy`.
    #[error(
        "{} bytes are more than one CopyObject copies here ({}), and the endpoint has no UploadPartCopy; send the \
         object through this machine (`s3haul copy - DST` reads standard input), or set a larger \
         `capabilities: {{max_copy: …}}` if the server has no such limit",
        .size, ByteSize(*.limit)
    )]
    NoPartCopy {
        /// The size of the object in bytes.
        size: u64,
        /// The maximum number of bytes that one request copies.
        limit: u64,
    },
    /// The object is larger than one `CopyObject` copies, and this server's `UploadPartCopy` does
    /// not find its key.
    #[error(
        "on this server UploadPartCopy does not find a source with a `%` or `?` in its key, and one CopyObject copies at \
         most {}; rename the source, or run `s3haul check --probe` and set `capabilities: {{odd_part_sources: true}}` \
         if the probe says so", ByteSize(*.limit)
    )]
    OddSource {
        /// The maximum number of bytes that one request copies.
        limit: u64,
    },
    /// The object is larger than the maximum number of parts times the maximum part size.
    #[error("{} bytes are more than the endpoint's largest object of {} bytes", .size, .limit)]
    TooLarge {
        /// The size of the object in bytes.
        size: u64,
        /// The size of the largest object.
        limit: u64,
    },
}

/// Divides `size` bytes into parts.
///
/// # Errors
/// [`LayoutError`] for empty objects and for those above the endpoint's limit (48.8 TiB on S3).
pub fn layout(size: u64, limits: &PartLimits, goal: Goal) -> Result<PartLayout, LayoutError> {
    if size == 0 {
        return Err(LayoutError::Empty);
    }
    if size > limits.max_object() {
        return Err(LayoutError::TooLarge {
            size,
            limit: limits.max_object(),
        });
    }
    let wanted = match goal {
        Goal::Copy { aim, capacity } => match aim {
            PartGoal::Balanced => balanced(size, capacity),
            PartGoal::Fastest => fastest(size, capacity),
            PartGoal::Cheapest => size
                .div_ceil(size.div_ceil(limits.max_part))
                .next_multiple_of(MIB),
        },
        Goal::Upload => UPLOAD_PART,
        Goal::Exactly(bytes) => bytes,
    };
    // Whole MiB keep ranges readable. The largest objects are an exception, because they need parts
    // of exactly the maximum size.
    let forced = size.div_ceil(u64::from(limits.max_parts));
    let forced = forced.next_multiple_of(MIB).min(limits.max_part);
    let part_size = wanted.max(forced).clamp(limits.min_part, limits.max_part);
    let count = u32::try_from(size.div_ceil(part_size)).unwrap_or(limits.max_parts);
    Ok(PartLayout::uniform(size, part_size, count))
}

/// Returns true if an automatic layout of a copy may have parts of this size. The size that s3haul
/// chooses depends on the speed measured at the time.
#[must_use]
pub const fn may_be_automatic(part_size: u64, limits: &PartLimits) -> bool {
    part_size >= FASTEST_PART && part_size <= limits.max_part && part_size.is_multiple_of(MIB)
}

/// Returns a part size that fills the last wave of parts, between 64 and 128 MiB if the object's
/// size allows it. If copies start slowly, parts are large enough to spend most of their time on
/// bytes, but small enough to use all slots.
fn balanced(size: u64, Capacity { in_flight, speed }: Capacity) -> u64 {
    let in_flight = u64::from(in_flight.max(1));
    let smallest = speed
        .worth_starting()
        .min(size / in_flight)
        .clamp(COPY_PART, LARGEST_BALANCED);
    let waves = size.div_ceil(2 * smallest).div_ceil(in_flight).max(1);
    let parts = (waves * in_flight).min(size.div_ceil(smallest)).max(1);
    size.div_ceil(parts).next_multiple_of(MIB)
}

/// Returns the part size that takes the least time. All waves together copy the same bytes, and
/// each wave adds the fixed time of a copy. With fewer waves, the wait for the slowest request of
/// the last wave is longer: about half the duration of a wave. The sum is smallest if the number of
/// waves is the square root of half the time that all bytes take, measured in fixed times.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a number of waves, from positive figures"
)]
fn fastest(size: u64, Capacity { in_flight, speed }: Capacity) -> u64 {
    let in_flight = u64::from(in_flight.max(1));
    let starts = size as f64 / in_flight as f64 / speed.bytes_per_second / speed.start;
    let waves = (starts / 2.0).sqrt().round().max(1.0) as u64;
    let parts = waves
        .saturating_mul(in_flight)
        .min(size.div_ceil(FASTEST_PART));
    size.div_ceil(parts.max(1)).next_multiple_of(MIB)
}

impl PartLayout {
    /// Creates a layout of equal parts. `count` parts of `part_size` must tile `size`.
    #[must_use]
    pub const fn uniform(size: u64, part_size: u64, count: u32) -> Self {
        Self {
            size,
            part_size,
            count,
            boundaries: Boundaries::Chosen,
        }
    }

    /// Returns the part with this number, if the layout has it.
    #[must_use]
    pub fn part(&self, number: u32) -> Option<PartRange> {
        let index = number.checked_sub(1)?;
        if number > self.count {
            return None;
        }
        let (offset, end) = match &self.boundaries {
            Boundaries::Replayed(ends) => {
                let at = usize::try_from(index).ok()?;
                (
                    at.checked_sub(1)
                        .map_or(Some(0), |before| ends.get(before).copied())?,
                    *ends.get(at)?,
                )
            }
            Boundaries::Chosen | Boundaries::Guessed => {
                let offset = u64::from(index) * self.part_size;
                (offset, offset.saturating_add(self.part_size).min(self.size))
            }
        };
        Some(PartRange {
            number,
            offset,
            length: end.checked_sub(offset)?,
        })
    }

    /// Returns all parts, in the order of their numbers.
    pub fn parts(&self) -> impl Iterator<Item = PartRange> + Send + '_ {
        (1..=self.count).filter_map(move |number| self.part(number))
    }

    /// Returns true if the parts replay those of the source.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.boundaries != Boundaries::Chosen
    }
}

impl std::fmt::Display for PartLayout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let up_to = if matches!(self.boundaries, Boundaries::Replayed(_)) {
            "up to "
        } else {
            ""
        };
        write!(f, "{} x {up_to}{}", self.count, ByteSize(self.part_size))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::size::{GIB, TIB};

    const COPY: Goal = copy(PartGoal::Balanced, 2048, Speed::TYPICAL);

    const fn copy(aim: PartGoal, in_flight: u32, speed: Speed) -> Goal {
        Goal::Copy {
            aim,
            capacity: Capacity { in_flight, speed },
        }
    }

    fn sizes() -> impl Strategy<Value = u64> {
        prop_oneof![
            1..10 * MIB,
            1..10 * GIB,
            1..PartLimits::S3.max_object(),
            Just(PartLimits::S3.max_object())
        ]
    }

    fn aims() -> impl Strategy<Value = PartGoal> {
        prop_oneof![
            Just(PartGoal::Balanced),
            Just(PartGoal::Fastest),
            Just(PartGoal::Cheapest)
        ]
    }

    fn goals() -> impl Strategy<Value = Goal> {
        prop_oneof![
            (1..5000u32, 0.001f64..10.0, 1e6f64..1e9, aims()).prop_map(
                |(in_flight, start, rate, aim)| {
                    copy(
                        aim,
                        in_flight,
                        Speed {
                            start,
                            bytes_per_second: rate,
                        },
                    )
                }
            ),
            Just(Goal::Upload),
            (5 * MIB..=5 * GIB).prop_map(Goal::Exactly),
        ]
    }

    fn limits() -> impl Strategy<Value = PartLimits> {
        prop_oneof![
            Just(PartLimits::S3),
            Just(PartLimits {
                max_parts: 1000,
                ..PartLimits::S3
            }),
            Just(PartLimits {
                max_part: 5 * GIB - 5 * MIB,
                equal_parts: true,
                ..PartLimits::S3
            }),
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
            let goal = copy(PartGoal::Balanced, in_flight, Speed::TYPICAL);
            let layout = layout(size, &PartLimits::S3, goal).unwrap();
            assert_eq!(
                (layout.count, layout.part_size),
                (count, part),
                "{}",
                ByteSize(size)
            );
        }
    }

    #[test]
    fn parts_grow_where_copies_begin_slowly_but_no_place_stays_empty() {
        let slow = Speed {
            start: 2.5,
            bytes_per_second: 78.0 * 1_048_576.0,
        };
        for (size, parts, part) in [
            (TIB, 4096, 256 * MIB),
            (50 * GIB, 800, 64 * MIB),
            (200 * GIB, 2048, 100 * MIB),
        ] {
            let goal = copy(PartGoal::Balanced, 2048, slow);
            let layout = layout(size, &PartLimits::S3, goal).unwrap();
            assert_eq!(
                (layout.count, layout.part_size),
                (parts, part),
                "{}",
                ByteSize(size)
            );
        }
    }

    #[test]
    fn the_fastest_is_faster_and_the_cheapest_has_the_fewest_requests() {
        for speed in [
            Speed::TYPICAL,
            Speed {
                start: 0.035,
                bytes_per_second: 80e6,
            },
            Speed {
                start: 2.5,
                ..Speed::TYPICAL
            },
        ] {
            for in_flight in [16, 512, 2048] {
                for size in [GIB, 50 * GIB, TIB, 20 * TIB] {
                    let [fastest, balanced, cheapest] =
                        [PartGoal::Fastest, PartGoal::Balanced, PartGoal::Cheapest].map(|aim| {
                            let layout =
                                layout(size, &PartLimits::S3, copy(aim, in_flight, speed)).unwrap();
                            let seconds = Capacity { in_flight, speed }
                                .seconds(layout.count, layout.part_size);
                            (layout.count, seconds)
                        });
                    // `fastest` also considers the wait for a straggler, which `seconds` ignores,
                    // so it may seem slightly slower here.
                    assert!(
                        fastest.1 <= balanced.1 * 1.3,
                        "{speed:?} {in_flight} {size}: {fastest:?} {balanced:?}"
                    );
                    assert!(cheapest.0 <= balanced.0.min(fastest.0));
                }
            }
        }
        let layout = layout(
            12 * GIB,
            &PartLimits::S3,
            copy(PartGoal::Cheapest, 512, Speed::TYPICAL),
        )
        .unwrap();
        assert_eq!(
            (layout.count, layout.part_size),
            (3, 4 * GIB),
            "no part is a small rest"
        );
    }

    #[test]
    fn the_ends_of_the_scale() {
        assert_eq!(layout(0, &PartLimits::S3, COPY), Err(LayoutError::Empty));
        let largest = layout(53_687_091_200_000, &PartLimits::S3, COPY).unwrap();
        assert_eq!((largest.count, largest.part_size), (10_000, 5 * GIB));
        assert!(layout(53_687_091_200_001, &PartLimits::S3, COPY).is_err());
        assert_eq!(
            layout(1, &PartLimits::S3, COPY)
                .unwrap()
                .part(1)
                .unwrap()
                .first_last(),
            (0, 0)
        );
    }

    #[test]
    fn a_named_size_grows_only_where_ten_thousand_parts_force_it() {
        let exactly = |size| {
            layout(size, &PartLimits::S3, Goal::Exactly(8 * MIB))
                .unwrap()
                .part_size
        };
        assert_eq!(exactly(10 * GIB), 8 * MIB);
        assert_eq!(exactly(TIB), 105 * MIB);
    }
}
