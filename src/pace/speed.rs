//! Estimates how long a copy inside S3 takes: a fixed time, and a time per byte. The module is
//! pure.
//!
//! Each answered copy is a point (bytes, seconds). A line through the latest points (least squares,
//! with fading weights) gives both figures. If all copies have one size, the points do not
//! determine the slope. Then two typical points of S3, which have little weight, determine it.

use std::time::Duration;

/// The time that a copy takes, as a straight line over its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// The seconds that a copy of no bytes takes.
    pub start: f64,
    /// The bytes per second of one copy, not of all copies together.
    pub bytes_per_second: f64,
}

impl Speed {
    /// The speed that S3 shows inside a Region: published times of single part copies fit 78 MiB/s
    /// well. Their fixed part is up to 2.5 s, but includes work before and after the copy.
    pub const TYPICAL: Self = Self {
        start: 0.5,
        bytes_per_second: 78.0 * MIB,
    };

    /// Returns the seconds that one copy of this many bytes takes.
    #[must_use]
    pub fn seconds(&self, bytes: u64) -> f64 {
        self.start + to_f64(bytes) / self.bytes_per_second
    }

    /// Returns the bytes that take as long as the fixed time. In smaller copies, the fixed time
    /// dominates.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "both are positive and bounded"
    )]
    pub fn worth_starting(&self) -> u64 {
        (self.start * self.bytes_per_second) as u64
    }
}

const MIB: f64 = 1_048_576.0;
/// The factor by which each copy reduces the weight of earlier ones. About the last thousand count.
const FADING: f64 = 0.999;
/// The weight of each typical point, in copies. It is negligible compared with copies of different
/// sizes.
const USUAL_WEIGHT: f64 = 0.02;
/// The sizes of the typical points, in MiB.
const USUAL_AT: [f64; 2] = [0.0, 64.0];
/// The bounds of the fixed time and of the time per byte.
const SHORTEST_START: f64 = 0.001;
const SLOWEST: f64 = 1.0 / 16.0;
const FASTEST: f64 = 65_536.0;

/// Learns a [`Speed`] from the times of copies.
#[derive(Clone, Debug, Default)]
pub struct SpeedEstimate(Sums);

/// Weighted sums over points (MiB, seconds).
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Sums {
    fn add(&mut self, weight: f64, x: f64, y: f64) {
        self.weight += weight;
        self.x += weight * x;
        self.y += weight * y;
        self.xx += weight * x * x;
        self.xy += weight * x * y;
    }
}

impl SpeedEstimate {
    /// Learns from a copy of `bytes` that was answered after `took`.
    pub fn observe(&mut self, bytes: u64, took: Duration) {
        let Sums {
            weight,
            x,
            y,
            xx,
            xy,
        } = &mut self.0;
        for sum in [weight, x, y, xx, xy] {
            *sum *= FADING;
        }
        self.0.add(1.0, to_f64(bytes) / MIB, took.as_secs_f64());
    }

    /// Returns the speed that the responses so far show. Before the first response, it is
    /// [`Speed::TYPICAL`].
    #[must_use]
    pub fn speed(&self) -> Speed {
        let mut sums = self.0;
        for x in USUAL_AT {
            sums.add(
                USUAL_WEIGHT,
                x,
                Speed::TYPICAL.start + x * MIB / Speed::TYPICAL.bytes_per_second,
            );
        }
        let Sums {
            weight,
            x,
            y,
            xx,
            xy,
        } = sums;
        // The typical points differ, so this is never zero.
        let slope = (weight * xy - x * y) / (weight * xx - x * x);
        let slope = slope.clamp(1.0 / FASTEST, 1.0 / SLOWEST);
        let start = ((y - slope * x) / weight).max(SHORTEST_START);
        Speed {
            start,
            bytes_per_second: MIB / slope,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn to_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::size::MIB;

    fn learned(copies: impl IntoIterator<Item = (u64, f64)>) -> Speed {
        let mut estimate = SpeedEstimate::default();
        for (bytes, seconds) in copies {
            estimate.observe(bytes, Duration::from_secs_f64(seconds));
        }
        estimate.speed()
    }

    #[test]
    fn knows_the_usual_before_the_first_answer() {
        let speed = learned([]);
        assert!((speed.start - Speed::TYPICAL.start).abs() < 1e-9);
        assert!((speed.bytes_per_second / Speed::TYPICAL.bytes_per_second - 1.0).abs() < 1e-9);
    }

    #[test]
    fn copies_of_one_size_are_predicted_as_they_were() {
        let speed = learned((0..500).map(|_| (64 * MIB, 0.9)));
        assert!((speed.seconds(64 * MIB) - 0.9).abs() < 0.02, "{speed:?}");
    }

    #[test]
    fn a_server_that_changes_is_followed() {
        let slow = (0..2000).map(|at| ((at % 8) * 16 * MIB, 5.0));
        let fast = (0..8000).map(|at| ((at % 8) * 16 * MIB, 0.05));
        let speed = learned(slow.chain(fast));
        assert!((speed.seconds(64 * MIB) - 0.05).abs() < 0.02, "{speed:?}");
    }

    proptest! {
        #[test]
        fn finds_the_line_that_answers_follow(start in 0.01f64..5.0, rate in 5.0f64..500.0, largest in 16u64..512) {
            let seconds = |mib: u64| start + to_f64(mib) / rate;
            let speed = learned((0..2000).map(|at| {
                // 521 is a prime above `largest + 1`, so all sizes occur.
                let mib = at * 521 % (largest + 1);
                (mib * MIB, seconds(mib))
            }));
            for mib in [0, largest / 2, largest] {
                let (found, truth) = (speed.seconds(mib * MIB), seconds(mib));
                prop_assert!((found - truth).abs() < 0.05 * seconds(largest), "{mib} MiB: {found} of {truth}");
            }
        }

        #[test]
        fn is_never_absurd(copies in proptest::collection::vec((0u64..5_000 * MIB, 0.0f64..100.0), 0..50)) {
            let speed = learned(copies);
            prop_assert!(speed.start > 0.0 && speed.bytes_per_second > 0.0 && speed.seconds(MIB).is_finite());
        }
    }
}
