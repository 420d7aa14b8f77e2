//! The estimated time of a plan.
//!
//! The number of requests in flight determines how long the copies take; the job's limits may
//! require longer. The estimate is the longer of the two times, and the text names its cause.

use std::time::Duration;

use crate::manifest::job::Limits;
use crate::plan::parts::Capacity;
use crate::plan::totals::{Estimate, PlanTotals};
use crate::size::{ByteSize, display_count, display_duration};

/// Returns the estimated time, and what it is based on.
pub(super) fn line(
    estimate: &Estimate,
    capacity: Capacity,
    totals: &PlanTotals,
    limits: &Limits,
) -> Option<String> {
    let copies = estimate.seconds(capacity.in_flight);
    let limited = at_limits(totals, limits);
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds.ceil()).ok();
    if let Some((at_least, limit)) = limited
        && copies.is_none_or(|copies| at_least > copies)
    {
        let time = display_duration(seconds(at_least)?);
        return Some(format!(
            "  time      about {time}, because of `limits: {limit}`"
        ));
    }
    let time = display_duration(seconds(copies?)?);
    Some(format!(
        "  time      about {time} {}",
        basis(estimate, capacity)
    ))
}

/// Returns the time in seconds that the job's limits require, and the strictest limit.
#[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
fn at_limits(totals: &PlanTotals, limits: &Limits) -> Option<(f64, String)> {
    let requests = limits.requests_per_second.map(|rate| {
        let seconds = totals.all_requests() as f64 / f64::from(rate.max(1));
        (seconds, format!("{{requests_per_second: {rate}}}"))
    });
    let bytes = limits.bytes_per_second.map(|rate| {
        let seconds = totals.bytes as f64 / rate.0.max(1) as f64;
        (
            seconds,
            format!("{{bytes_per_second: {}}}", ByteSize(rate.0)),
        )
    });
    let both = requests.into_iter().chain(bytes);
    both.max_by(|(one, _), (other, _)| one.total_cmp(other))
        .filter(|(seconds, _)| *seconds > 0.0)
}

/// Returns the assumptions of the estimate.
fn basis(estimate: &Estimate, Capacity { in_flight, speed }: Capacity) -> String {
    let parts = estimate
        .parts()
        .map_or_else(String::new, |(smallest, largest)| {
            let (smallest, largest) = (ByteSize(smallest), ByteSize(largest));
            if smallest == largest {
                format!(", parts of {largest}")
            } else {
                format!(", parts of {smallest} to {largest}")
            }
        });
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive rate, for people"
    )]
    let rate = ByteSize(speed.bytes_per_second as u64 >> 20 << 20);
    format!(
        "at {} in flight{parts}, if one copy takes {:.1} s and a second per {rate}",
        display_count(u64::from(in_flight)),
        speed.start,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::ByteRate;

    #[test]
    fn the_limit_that_takes_longest_decides() {
        let mut totals = PlanTotals {
            bytes: 6 << 30,
            ..PlanTotals::default()
        };
        totals
            .requests
            .insert(crate::s3::Operation::CopyObject, 6_000);
        let said = |requests_per_second, bytes_per_second| {
            let limits = Limits {
                requests_per_second,
                bytes_per_second,
                ..Limits::default()
            };
            at_limits(&totals, &limits)
        };
        assert_eq!(said(None, None), None);
        let requests = "{requests_per_second: 50}".to_owned();
        assert_eq!(said(Some(50), None), Some((120.0, requests.clone())));
        assert_eq!(
            said(Some(50), Some(ByteRate(1 << 30))),
            Some((120.0, requests))
        );
        let bytes = "{bytes_per_second: 10MiB}".to_owned();
        assert_eq!(
            said(Some(50), Some(ByteRate(10 << 20))),
            Some((614.4, bytes))
        );
    }
}
