//! The clock of the server: it decides whether a signature is too old, and appears in the `Date`
//! header.
//!
//! `s3s` compares the time of a signature with the clock of the machine. In the sandbox,
//! [`Effect::Skew`](super::Effect::Skew) can make the clock wrong, so this module checks the time
//! and switches off the check in `s3s`.

use std::sync::Arc;

use hyper::header::{DATE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp, fmt::strtime};
use s3s::Body;
use s3s::config::{S3Config, StaticConfigProvider};

use super::refusal::Refusal;

/// The largest difference between the time of a signature and the clock of the server.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(15);

/// The format of the time in signatures.
const SIGNED: &str = "%Y%m%dT%H%M%S%z";

/// Returns the settings that make `s3s` accept a signature of any age.
pub(super) fn unchecked() -> Arc<StaticConfigProvider> {
    let mut config = S3Config::default();
    config.presigned_url_max_skew_time_secs = u32::MAX;
    Arc::new(StaticConfigProvider::new(Arc::new(config)))
}

/// Refuses a request whose signature time is too far from the clock of the server.
pub(super) fn check(headers: &HeaderMap, now: Timestamp) -> Result<(), Refusal> {
    let text = headers
        .get("x-amz-date")
        .and_then(|date| date.to_str().ok())
        .unwrap_or_default();
    let Some(signed) = text
        .strip_suffix('Z')
        .and_then(|time| Timestamp::strptime(SIGNED, format!("{time}+0000")).ok())
    else {
        return Ok(());
    };
    if now.duration_since(signed).abs() <= MAX_SKEW {
        return Ok(());
    }
    let refusal = Refusal::new(
        StatusCode::FORBIDDEN,
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    );
    Err(refusal
        .with("RequestTime", text)
        .with("ServerTime", format!("{now:.0}"))
        .with("MaxAllowedSkewMilliseconds", MAX_SKEW.as_millis()))
}

/// Sets the `Date` header of an answer to the time on the clock of the server.
pub(super) fn show(response: &mut Response<Body>, now: Timestamp) {
    let date = strtime::format("%a, %d %b %Y %H:%M:%S GMT", now);
    if let Some(date) = date.ok().and_then(|date| HeaderValue::from_str(&date).ok()) {
        response.headers_mut().insert(DATE, date);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_an_hour_is_forgiven() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        for (signed, is_refused) in [
            ("20260101T114500Z", false),
            ("20260101T121500Z", false),
            ("20260101T114459Z", true),
            ("20260101T121501Z", true),
            ("yesterday", false),
        ] {
            let headers =
                HeaderMap::from_iter([("x-amz-date".parse().unwrap(), signed.parse().unwrap())]);
            assert_eq!(check(&headers, now).is_err(), is_refused, "{signed}");
        }
        let mut response = Response::new(Body::empty());
        show(&mut response, now);
        assert_eq!(response.headers()[DATE], "Thu, 01 Jan 2026 12:00:00 GMT");
    }
}
