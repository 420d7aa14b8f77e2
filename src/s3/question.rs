//! Requests for one attribute of an object, and the responses of servers that do not support them.
//!
//! A server that ignores `?tagging` answers with the object itself. s3haul reads no more of it than
//! the longest valid response has (`s3::bounds`). An unreadable response that is neither truncated
//! nor empty is no accident, so the request is not repeated.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::{RequestId, RequestIdExt};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::requests::{failure, place};
use super::{Failure, FailureKind, Operation};
use crate::location::{BucketName, ObjectKey};

/// Sorts the failure of a request for an attribute. A response to some other request is
/// [`FailureKind::NotUnderstood`].
pub(super) fn unanswered<E>(
    operation: Operation,
    bucket: &BucketName,
    key: &ObjectKey,
    error: &SdkError<E, HttpResponse>,
) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    SdkError<E, HttpResponse>: RequestId + RequestIdExt,
{
    let sorted = failure(operation, bucket, Some(key), error);
    if *sorted.kind() == FailureKind::AnswerTooLong {
        return too_long(operation, bucket, key);
    }
    let Some(answer) = error
        .raw_response()
        .filter(|answer| answer.status().is_success())
    else {
        return sorted;
    };
    // An error document in a response that claims success states its own reason.
    let is_refusal =
        matches!(error, SdkError::ServiceError(refused) if refused.err().code().is_some());
    if is_refusal {
        return sorted;
    }
    match instead(answer) {
        Some(instead) => no_answer(operation, bucket, key, &instead),
        None => sorted,
    }
}

/// Returns the failure for a response that is longer than any valid one.
pub(super) fn too_long(operation: Operation, bucket: &BucketName, key: &ObjectKey) -> Failure {
    no_answer(
        operation,
        bucket,
        key,
        "more than any good answer has, such as the object itself",
    )
}

/// Returns the failure for a response that lacks something that every valid one has.
pub(super) fn lacking(
    operation: Operation,
    bucket: &BucketName,
    key: &ObjectKey,
    what: &str,
) -> Failure {
    no_answer(
        operation,
        bucket,
        key,
        &format!("a document without {what}"),
    )
}

/// Returns the failure for a response to some other request.
fn no_answer(operation: Operation, bucket: &BucketName, key: &ObjectKey, instead: &str) -> Failure {
    let message = format!("the server does not support this request: it answers with {instead}");
    Failure::new(
        FailureKind::NotUnderstood,
        operation,
        place(bucket, Some(key)),
        message,
    )
}

/// Describes an unreadable response that is not a truncated valid one. Returns `None` if a
/// repetition may get a better response.
fn instead(answer: &HttpResponse) -> Option<String> {
    let body = answer
        .body()
        .bytes()
        .map(<[u8]>::trim_ascii)
        .filter(|body| !body.is_empty())?;
    let header = |name: &str| answer.headers().get(name);
    if header("etag").is_some()
        || header("accept-ranges").is_some()
        || header("last-modified").is_some()
    {
        return Some("the object itself".to_owned());
    }
    match header("content-type").map(|kind| kind.split(';').next().unwrap_or_default().trim()) {
        Some(kind) if !kind.is_empty() && !kind.ends_with("xml") => {
            Some(format!("a document of the type {}", kind.escape_default()))
        }
        _ if body.starts_with(b"<") && body.ends_with(b">") => Some("another document".to_owned()),
        _ => None,
    }
}
