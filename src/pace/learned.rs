//! Carries the rates that a session learned to the session that resumes the run. The module is
//! pure.
//!
//! A learned rate is only a hint, because the server's limits change with its load. So it expires
//! after a quarter of an hour. A session that uses it starts a little below it, and then raises the
//! rate as after any cut.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::s3::RequestClass;

/// The age up to which learned rates are used.
pub const KEPT: Duration = Duration::from_mins(15);
/// The maximum number of lanes that are remembered, over all buckets.
pub(super) const MAX_REMEMBERED: usize = 256;
/// The relative change below which a figure counts as unchanged.
const SAME: f64 = 0.1;

/// The rates of throttled lanes, and the number of slots that gave the best throughput.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learned {
    /// The lanes, in a fixed order.
    pub lanes: Vec<LearnedLane>,
    /// The concurrency: the number of requests in flight beyond which throughput did not grow.
    #[serde(rename = "width")]
    pub concurrency: u32,
}

/// The rate that a server accepts in one lane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearnedLane {
    /// The names of the endpoint and the bucket, joined by a slash.
    pub bucket: String,
    /// The class of requests.
    pub class: RequestClass,
    /// The prefix of the lane's keys; empty for the lane of all keys without a separate lane.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// The accepted requests per second.
    pub accepted: u32,
}

impl Learned {
    /// Returns true if this differs enough from `other` to be recorded.
    #[must_use]
    pub fn differs_from(&self, other: &Self) -> bool {
        let far = |one: f64, other: f64| (one - other).abs() > other.abs().max(1.0) * SAME;
        let same_lane = |one: &LearnedLane, other: &LearnedLane| {
            (&one.bucket, one.class, &one.prefix) == (&other.bucket, other.class, &other.prefix)
                && !far(one.accepted.into(), other.accepted.into())
        };
        self.lanes.len() != other.lanes.len()
            || far(self.concurrency.into(), other.concurrency.into())
            || self
                .lanes
                .iter()
                .zip(&other.lanes)
                .any(|(one, other)| !same_lane(one, other))
    }
}

impl std::fmt::Display for LearnedLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let class = match self.class {
            RequestClass::Read => "reads",
            RequestClass::Write => "writes",
        };
        let Self {
            bucket,
            prefix,
            accepted,
            ..
        } = self;
        let bucket = bucket
            .split_once('/')
            .map_or(&**bucket, |(_, bucket)| bucket);
        write!(f, "{accepted} {class}/s on s3://{bucket}/{prefix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_are_not_worth_a_line() {
        let of = |accepted, concurrency| Learned {
            lanes: vec![LearnedLane {
                bucket: "default/lake".into(),
                class: RequestClass::Write,
                prefix: "hot/".into(),
                accepted,
            }],
            concurrency,
        };
        assert!(!of(100, 512).differs_from(&of(105, 512)));
        assert!(of(100, 512).differs_from(&of(115, 512)));
        assert!(of(100, 512).differs_from(&of(100, 1024)));
        assert!(of(100, 512).differs_from(&Learned::default()));
        assert_eq!(
            of(100, 1).lanes[0].to_string(),
            "100 writes/s on s3://lake/hot/"
        );
    }
}
