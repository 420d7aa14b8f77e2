//! The server's clock: what it makes of the time in a signature, and what it says the time is.
//!
//! `s3s` compares with the machine's clock. Here the clock may be wrong, by
//! [`Effect::Skew`](super::Effect::Skew), so that the comparison is made here, and the one of `s3s`
//! is switched off.

use std::sync::Arc;

use hyper::header::{DATE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp, fmt::strtime};
use s3s::Body;
use s3s::config::{S3Config, StaticConfigProvider};

use super::refusal::Refusal;

/// A signature may be this much older or newer than the server's clock.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(15);

/// The format of the time in signatures.
const SIGNED: &str = "%Y%m%dT%H%M%S%z";

/// Returns settings with which `s3s` accepts a signature of any time.
pub(super) fn unchecked() -> Arc<StaticConfigProvider> {
    let mut config = S3Config::default();
    config.presigned_url_max_skew_time_secs = u32::MAX;
    Arc::new(StaticConfigProvider::new(Arc::new(config)))
}

/// Refuses a request that was signed at another time than the server's clock shows.
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

/// Puts the time of the server's clock into an answer.
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
