//! Estimates the remaining time of a run, from the remaining work and the rates so far.
//!
//! Bytes and objects have separate rates. If a thousand small objects follow a large one, few bytes
//! and many requests remain. If a large object comes last, many bytes and one request remain. The
//! estimate is the longer of the two times. Pure functions.

use std::time::Duration;

/// The work that a run has done up to a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// The time since the run began.
    pub(super) at: Duration,
    /// Bytes copied.
    pub(super) bytes: u64,
    /// Objects that have ended.
    pub(super) objects: u64,
}

/// The total work of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PlannedWork {
    pub(super) bytes: u64,
    pub(super) objects: u64,
}

/// Returns the rate per second between two moments.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(super) fn rate(before: u64, after: u64, time: Duration) -> f64 {
    after.saturating_sub(before) as f64 / time.as_secs_f64().max(0.001)
}

/// Returns the remaining time, or `None` if none of the remaining work has advanced yet.
///
/// Uses the rates since `recent`. If bytes or objects have not advanced since then, uses their rate
/// since `began`: objects end in bursts, and small ones wait while a large one is copied.
pub(super) fn time_left(
    planned: PlannedWork,
    began: Done,
    recent: Done,
    now: Done,
) -> Option<Duration> {
    let of = |planned: u64, of: fn(&Done) -> u64| {
        let left = planned.saturating_sub(of(&now));
        if left == 0 {
            return None;
        }
        let since = |then: &Done| rate(of(then), of(&now), now.at.saturating_sub(then.at));
        let rate = [since(&recent), since(&began)]
            .into_iter()
            .find(|rate| *rate > 0.0);
        Some(rate.map(|rate| seconds(left, rate)))
    };
    let left = [
        of(planned.bytes, |done| done.bytes),
        of(planned.objects, |done| done.objects),
    ];
    let known = left.iter().flatten().flatten().copied().max();
    // No work remains: the run is about to end.
    if left.iter().all(Option::is_none) {
        Some(Duration::ZERO)
    } else {
        known
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
fn seconds(left: u64, rate: f64) -> Duration {
    Duration::from_secs_f64((left as f64 / rate).min(1e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn done(seconds: u64, bytes: u64, objects: u64) -> Done {
        Done {
            at: Duration::from_secs(seconds),
            bytes,
            objects,
        }
    }

    fn left(planned: (u64, u64), recent: Done, now: Done) -> Option<u64> {
        let planned = PlannedWork {
            bytes: planned.0,
            objects: planned.1,
        };
        time_left(planned, Done::default(), recent, now).map(|left| left.as_secs())
    }

    #[test]
    fn many_small_objects_take_longer_than_their_bytes() {
        // At 100 MiB/s and 10 objects a second, 1 MiB in 370 objects remains.
        assert_eq!(
            left(
                (1001 * MIB, 470),
                Done::default(),
                done(10, 1000 * MIB, 100)
            ),
            Some(37)
        );
    }

    #[test]
    fn one_large_object_takes_longer_than_its_number() {
        assert_eq!(
            left((1100 * MIB, 101), Done::default(), done(10, 100 * MIB, 100)),
            Some(100)
        );
    }

    #[test]
    fn the_rates_are_the_recent_ones() {
        // The run was fast, and has become slow.
        let (recent, now) = (done(90, 900, 90), done(100, 910, 91));
        assert_eq!(left((1910, 191), recent, now), Some(1000));
    }

    #[test]
    fn what_rests_is_estimated_by_its_rate_since_the_beginning() {
        // No object ended recently, because a large one is being copied. 100 objects remain, at one
        // a second.
        let (recent, now) = (done(90, 900, 100), done(100, 1000, 100));
        assert_eq!(left((1010, 200), recent, now), Some(100));
    }

    #[test]
    fn what_never_advanced_does_not_decide() {
        assert_eq!(
            left((2000, 1), done(90, 900, 0), done(100, 1000, 0)),
            Some(100)
        );
        assert_eq!(left((2000, 10), Done::default(), done(100, 0, 0)), None);
        assert_eq!(
            left((1000, 10), Done::default(), done(100, 1000, 10)),
            Some(0)
        );
    }
}
