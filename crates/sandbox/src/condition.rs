//! Conditional requests: the headers that count, their order, and the answers that they lead to.

use std::time::SystemTime;

use hyper::header::HeaderMap;
use s3s::dto::{ETagCondition, Timestamp, TimestampFormat};

use super::object::{Object, whole_seconds};
use super::refusal::Refusal;

/// The four conditions that reads and copy sources support.
#[derive(Debug, Default)]
#[expect(clippy::struct_field_names, reason = "the names of the headers")]
pub(super) struct ReadConditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<SystemTime>,
    pub(super) if_unmodified_since: Option<SystemTime>,
}

/// The answer to a read whose condition is not met.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unmet {
    /// 412 Precondition Failed, with the name of the condition.
    Failed(&'static str),
    /// 304 Not Modified.
    NotModified,
}

/// Converts the time of a header or an element.
pub(super) fn time(timestamp: Option<&Timestamp>) -> Option<SystemTime> {
    let mut text = Vec::new();
    timestamp?
        .format(TimestampFormat::DateTime, &mut text)
        .ok()?;
    let time: jiff::Timestamp = std::str::from_utf8(&text).ok()?.parse().ok()?;
    Some(time.into())
}

fn matches(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.value() == etag,
    }
}

impl ReadConditions {
    /// Checks the conditions of GET and HEAD according to RFC 9110: the `ETag` headers take
    /// precedence over the dates, and a client whose cached copy is current gets 304.
    pub(super) fn check_read(&self, object: &Object) -> Option<Unmet> {
        match (&self.if_match, self.if_unmodified_since) {
            (Some(wanted), _) if !matches(wanted, &object.etag) => {
                return Some(Unmet::Failed("If-Match"));
            }
            (None, Some(time)) if object.last_modified > time => {
                return Some(Unmet::Failed("If-Unmodified-Since"));
            }
            _ => {}
        }
        match (&self.if_none_match, self.if_modified_since) {
            (Some(unwanted), _) if matches(unwanted, &object.etag) => Some(Unmet::NotModified),
            (None, Some(time)) if object.last_modified <= time && time <= SystemTime::now() => {
                Some(Unmet::NotModified)
            }
            _ => None,
        }
    }

    /// Checks the conditions of a copy source. The answer is always 412. The conditions are checked
    /// in the order If-Match, If-Unmodified-Since, If-None-Match, If-Modified-Since. If the source
    /// matches If-Match, If-Unmodified-Since is ignored. If-Modified-Since is ignored if its date
    /// is in the future.
    pub(super) fn check_source(&self, object: &Object) -> Result<(), Refusal> {
        let failed = |condition| Err(Refusal::precondition_failed(condition));
        match (&self.if_match, self.if_unmodified_since) {
            (Some(wanted), _) if !matches(wanted, &object.etag) => {
                return failed("x-amz-copy-source-If-Match");
            }
            (None, Some(time)) if object.last_modified > time => {
                return failed("x-amz-copy-source-If-Unmodified-Since");
            }
            _ => {}
        }
        if self
            .if_none_match
            .as_ref()
            .is_some_and(|unwanted| matches(unwanted, &object.etag))
        {
            return failed("x-amz-copy-source-If-None-Match");
        }
        match self.if_modified_since {
            Some(time) if object.last_modified <= time && time <= SystemTime::now() => {
                failed("x-amz-copy-source-If-Modified-Since")
            }
            _ => Ok(()),
        }
    }
}

/// The condition of a write on the current object of its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum WriteCondition {
    #[default]
    None,
    /// `If-None-Match: *`: the key must not exist.
    Absent,
    /// `If-Match`: the object must have this `ETag`.
    Match(String),
}

impl WriteCondition {
    /// Reads the condition from the headers of `PutObject`, `CopyObject`, and
    /// `CompleteMultipartUpload`. They accept only `If-None-Match: *` and `If-Match: <ETag>`.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Self, Refusal> {
        let value = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::trim)
        };
        match (value("if-match"), value("if-none-match")) {
            (None, None) => Ok(Self::None),
            (Some(_), Some(_)) => Err(Refusal::not_implemented(
                "Multiple conditional request headers present in the request",
                "If-Match,If-None-Match",
            )),
            (None, Some("*")) => Ok(Self::Absent),
            (None, Some(_)) => Err(Refusal::not_implemented(
                "A header you provided implies functionality that is not implemented",
                "If-None-Match",
            )),
            (Some("*"), None) => Err(Refusal::not_implemented(
                "A header you provided implies functionality that is not implemented",
                "If-Match",
            )),
            (Some(etag), None) => Ok(Self::Match(etag.trim_matches('"').to_owned())),
        }
    }

    /// Returns [`Self::from_headers`], or no condition if the server ignores conditions.
    pub(super) fn unless(ignored: bool, headers: &HeaderMap) -> Result<Self, Refusal> {
        if ignored {
            Ok(Self::None)
        } else {
            Self::from_headers(headers)
        }
    }

    /// Checks the condition against the current object, which is `None` if the key does not exist
    /// or is deleted.
    pub(super) fn check(&self, key: &str, current: Option<&Object>) -> Result<(), Refusal> {
        match (self, current) {
            (Self::None, _) | (Self::Absent, None) => Ok(()),
            (Self::Absent, Some(_)) => Err(Refusal::precondition_failed("If-None-Match")),
            (Self::Match(_), None) => Err(Refusal::no_such_key(key)),
            (Self::Match(etag), Some(object)) if *etag == object.etag => Ok(()),
            (Self::Match(_), Some(_)) => Err(Refusal::precondition_failed("If-Match")),
        }
    }
}

/// Returns the current time in whole seconds.
pub(super) fn now() -> SystemTime {
    whole_seconds(SystemTime::now())
}
