//! Sorts the SDK's errors into [`Failure`]s.
//!
//! The most important distinction is between transient and permanent faults. Waiting may help after
//! a refused connection or a 503, or while a credential provider is not up yet. It does not help
//! after an untrusted certificate, a request that cannot be built, or a refused access key.

use std::error::Error;
use std::io;

use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::{RequestId, RequestIdExt};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::super::bounds::TooLong;
use super::super::causes::{find, plain};
use super::super::credentials::NoIdentity;
use super::super::secrets::{Quoted, Secrets, TextPieces};
use super::{Details, Failure, FailureKind, Operation, tls};
use crate::printable::cut;

/// The maximum number of bytes that are kept of an error code or request ID. S3's have about 60 at
/// most.
const MAX_CODE: usize = 128;
/// The maximum number of bytes that are kept of a server's message, which goes into every receipt.
const MAX_MESSAGE: usize = 1024;

/// The kind of a failure, S3's code or a word in its place, and the message.
type SortedFailure = (FailureKind, String, String);

impl Failure {
    /// Sorts an error of the SDK. `place` is `bucket/key`.
    pub(in super::super) fn from_sdk<E>(
        operation: Operation,
        place: String,
        error: &SdkError<E, HttpResponse>,
    ) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
        SdkError<E, HttpResponse>: RequestId + RequestIdExt,
    {
        let verdict = |kind, word: &str| (kind, word.to_owned(), plain(error));
        let (kind, code, message) = match error {
            _ if let Some(answer) = find::<TooLong>(error) => (
                FailureKind::AnswerTooLong,
                "answer too long".to_owned(),
                answer.to_string(),
            ),
            _ if find::<Quoted>(error).is_some() => {
                verdict(FailureKind::Unreadable, "unreadable answer")
            }
            // The HTTP client has its own bounds.
            SdkError::DispatchFailure(_) if whole(error).contains("message head is too large") => {
                let message =
                    "the header of the answer is longer or has more fields than any of S3";
                (
                    FailureKind::AnswerTooLong,
                    "answer too long".to_owned(),
                    message.to_owned(),
                )
            }
            SdkError::ServiceError(_) => refused(operation, error),
            SdkError::TimeoutError(_) => (
                FailureKind::TimedOut,
                "timeout".to_owned(),
                "no answer in time".to_owned(),
            ),
            SdkError::DispatchFailure(failure) => {
                let network = match failure.as_connector_error() {
                    Some(failure) if failure.is_timeout() => ConnectionProgress::NeverUp,
                    // hyper blames its user for a pooled connection whose task has ended.
                    Some(failure)
                        if failure.is_user() && whole(error).contains("dispatch task") =>
                    {
                        ConnectionProgress::Lost
                    }
                    Some(failure) if failure.is_user() => ConnectionProgress::Unused,
                    // The HTTP client classifies its own errors; an error that it cannot classify
                    // comes from elsewhere.
                    Some(failure) if failure.is_other() && failure.as_other().is_none() => {
                        ConnectionProgress::of(error, ConnectionProgress::Unused)
                    }
                    _ => ConnectionProgress::of(error, ConnectionProgress::Lost),
                };
                not_answered(network, error)
            }
            SdkError::ResponseError(answer) if answer.raw().body().bytes().is_none() => {
                verdict(FailureKind::Transient, "answer cut short")
            }
            SdkError::ResponseError(_) => verdict(FailureKind::Unreadable, "unreadable answer"),
            _ => not_answered(ConnectionProgress::Unused, error),
        };
        let response = error.raw_response();
        // A server may echo headers of the request.
        let secrets = response.and_then(|response| response.extension::<Secrets>());
        let pieces = secrets.map(TextPieces::of).unwrap_or_default();
        let hidden = |text: String| pieces.hide(text);
        Self(Box::new(Details {
            kind,
            operation,
            place,
            code: cut(hidden(code), MAX_CODE),
            message: cut(hidden(message), MAX_MESSAGE),
            request_id: error
                .request_id()
                .map(|id| cut(hidden(id.to_owned()), MAX_CODE)),
            attempts: 1,
            signed: response.and_then(|response| response.extension()).copied(),
            is_answer: response.is_some(),
            is_about_record: false,
        }))
    }
}

/// The progress of a request that got no response.
#[derive(Clone, Copy)]
enum ConnectionProgress {
    /// Nothing was sent: the request could not be built or signed.
    Unused,
    /// No connection was made, so no write can have taken effect.
    NeverUp,
    /// The connection broke.
    Lost,
}

impl ConnectionProgress {
    /// Determines how far a request got. The HTTP client marks everything up to the end of the TLS
    /// handshake as `Connect`; an error without that mark happened later or elsewhere.
    fn of(error: &(dyn Error + 'static), otherwise: Self) -> Self {
        let text = whole(error);
        if ["(Connect)", "dns error", "tcp connect error"]
            .iter()
            .any(|word| text.contains(word))
        {
            Self::NeverUp
        } else if text.contains("hyper") || find::<io::Error>(error).is_some() {
            Self::Lost
        } else {
            otherwise
        }
    }
}

/// Returns the texts of an error and all its causes.
fn whole(error: &(dyn Error + 'static)) -> String {
    DisplayErrorContext(error).to_string()
}

/// Sorts a request that got no response.
fn not_answered(network: ConnectionProgress, error: &(dyn Error + 'static)) -> SortedFailure {
    if let Some(NoIdentity { may_pass, message }) = find::<NoIdentity>(error) {
        return if *may_pass {
            (
                FailureKind::CredentialsUnavailable,
                "credentials not available".to_owned(),
                message.clone(),
            )
        } else {
            (
                FailureKind::NoCredentials,
                "no credentials".to_owned(),
                message.clone(),
            )
        };
    }
    if let Some((kind, word, message)) = find::<rustls::Error>(error).and_then(tls::permanent) {
        return (kind, word.to_owned(), message);
    }
    if whole(error).contains("proxy authorization required") {
        let message = "the proxy asks for a user and a password; put them into its URL, http://user:password@host:port";
        return (
            FailureKind::Configuration,
            "proxy".to_owned(),
            message.to_owned(),
        );
    }
    let (kind, word) = match network {
        ConnectionProgress::Unused => (FailureKind::NotSent, "request not sent"),
        ConnectionProgress::NeverUp => (FailureKind::Unreachable, "no connection"),
        ConnectionProgress::Lost => (FailureKind::Transient, "connection lost"),
    };
    (kind, word.to_owned(), plain(error))
}

/// Sorts a response that refuses the request.
fn refused<E>(operation: Operation, error: &SdkError<E, HttpResponse>) -> SortedFailure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let response = error.raw_response();
    let status = response.map(|response| response.status().as_u16());
    let region = response
        .and_then(|response| response.headers().get("x-amz-bucket-region"))
        .map(str::to_owned);
    // A HEAD error that S3's model defines carries the SDK's own code, never the server's.
    let code = error
        .code()
        .filter(|code| *code != "NotFound" && !code.is_empty());
    let is_marker = status == Some(405)
        && response.and_then(|response| response.headers().get("x-amz-delete-marker"))
            == Some("true");
    let (kind, word) = match code {
        // The named version is a delete marker, as `null` is after a deletion.
        _ if is_marker => (
            FailureKind::NotFound,
            code.map_or_else(|| "HTTP 405".to_owned(), str::to_owned),
        ),
        Some(code) => (
            of_upload(operation, by_code(operation, code, status, region)),
            code.to_owned(),
        ),
        // Any status of success: the server refused nothing.
        None if status.is_some_and(|status| (200..300).contains(&status)) => {
            (FailureKind::Unreadable, "unreadable answer".to_owned())
        }
        None => (
            by_status(operation, status, region),
            format!("HTTP {}", status.unwrap_or_default()),
        ),
    };
    let said = error
        .message()
        .map(str::trim)
        .filter(|message| !message.is_empty());
    let header = unreadable_header(error).filter(|_| kind == FailureKind::Unreadable);
    let message = match (said, header) {
        _ if is_marker => "the version is a delete marker: the object was deleted".to_owned(),
        (Some(said), _) => one_paragraph(said),
        (None, Some(header)) => {
            format!("the answer's header `{header}` appears twice or cannot be read")
        }
        (None, None) => without_words(operation, &kind, code).to_owned(),
    };
    (kind, word, message)
}

/// Returns the name of the header that the SDK could not read.
fn unreadable_header(error: &(dyn Error + 'static)) -> Option<String> {
    let text = whole(error);
    let (_, name) = text.split_once(" from header `")?;
    let is_end = |letter: char| !(letter.is_ascii_alphanumeric() || letter == '-');
    Some(name.split(is_end).next()?.to_ascii_lowercase())
}

/// Returns a server's message with its lines joined.
fn one_paragraph(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns a sentence for a refusal to which the server gave no message.
fn without_words(operation: Operation, kind: &FailureKind, code: Option<&str>) -> &'static str {
    match (kind, code) {
        (_, Some("SignatureDoesNotMatch")) => {
            "the server computed another signature: the secret access key is another one, or something changed the \
             request on its way"
        }
        (_, Some("InvalidAccessKeyId")) => "the server does not know the access key id",
        (_, Some("InvalidBucketName")) => "the server does not accept the bucket's name",
        (_, Some("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired")) => {
            "the session token has expired"
        }
        (FailureKind::Denied, _) => "Forbidden",
        (FailureKind::NotFound, _) => "Not Found",
        (FailureKind::NoSuchBucket, _) => "the bucket does not exist",
        (FailureKind::NoSuchUpload, _) => "the upload does not exist",
        (FailureKind::WrongRegion(_), _) => "the bucket is in another region",
        (FailureKind::Credentials, _) => "the server refuses the credentials",
        (FailureKind::ClockSkew, _) => "this machine's clock and the server's are too far apart",
        (FailureKind::Throttled, _) => "the server asks for fewer requests",
        (FailureKind::Transient, _) => "the server failed",
        (FailureKind::TimedOut, _) => "the server did not get the request in time",
        (FailureKind::Unreadable, _) => "the answer contains neither a result nor an error",
        (FailureKind::PreconditionFailed, _) => "a condition of the request does not hold",
        (FailureKind::Conflict, _) => "another write to the same key was under way",
        (FailureKind::Archived, _) => "the object is in an archive",
        (FailureKind::Unsupported, _) => "the server does not support the request",
        (FailureKind::Corrupted, _) => "the server got other bytes than those that were sent",
        (FailureKind::Invalid, None) if operation == Operation::HeadObject => {
            "Bad Request; an object that a customer key encrypts (SSE-C) needs that `customer_key`"
        }
        _ => "the server refuses the request without a message",
    }
}

/// Sorts by S3's error code. The status decides for unknown codes.
fn by_code(
    operation: Operation,
    code: &str,
    status: Option<u16>,
    region: Option<String>,
) -> FailureKind {
    match code {
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded"
        | "TooManyRequests"
        | "RequestThrottled"
        | "TooManyRequestsException"
        | "EC2ThrottledException"
        | "ProvisionedThroughputExceededException" => FailureKind::Throttled,
        "InternalError" | "ServiceUnavailable" | "ServiceFailure" | "OperationAborted"
        | "BadGateway" | "GatewayTimeout" | "InternalFailure" => FailureKind::Transient,
        "RequestTimeout" | "RequestTimeoutException" => FailureKind::TimedOut,
        "PreconditionFailed" => FailureKind::PreconditionFailed,
        "ConditionalRequestConflict" => FailureKind::Conflict,
        "AccessDenied" | "AllAccessDisabled" | "AccessDeniedException" => FailureKind::Denied,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "AuthorizationHeaderMalformed"
        | "InvalidSecurity"
        | "NotSignedUp"
        | "ExpiredTokenException" => FailureKind::Credentials,
        "RequestTimeTooSkewed" | "RequestExpired" => FailureKind::ClockSkew,
        "PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException" => {
            FailureKind::WrongRegion(region)
        }
        "NoSuchBucket" => FailureKind::NoSuchBucket,
        "NoSuchKey" | "NoSuchVersion" => FailureKind::NotFound,
        "NoSuchUpload" => FailureKind::NoSuchUpload,
        "InvalidObjectState" | "ObjectNotInActiveTierError" => FailureKind::Archived,
        "NotImplemented" | "MethodNotAllowed" => FailureKind::Unsupported,
        "BadDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "IncompleteBody" => FailureKind::Corrupted,
        // A 503 with a body comes from the server itself, which would report throttling by its
        // code.
        _ if status == Some(503) => FailureKind::Transient,
        _ if status == Some(404) => match operation {
            Operation::HeadBucket | Operation::HeadObject => by_status(operation, status, region),
            // Servers use codes of their own for a bucket without Object Lock.
            Operation::GetObjectRetention | Operation::GetObjectLegalHold => {
                FailureKind::Unsupported
            }
            // Something other than the object may be missing, such as an access point.
            _ => FailureKind::Invalid,
        },
        _ => by_status(operation, status, region),
    }
}

/// Corrects the kind of a failure of an upload: Ceph answers `NoSuchKey` if the upload is gone, and
/// these requests name no other key that could be missing. A 404 without a code may come from a
/// gateway and proves nothing.
fn of_upload(operation: Operation, kind: FailureKind) -> FailureKind {
    let names_an_upload = matches!(
        operation,
        Operation::ListParts | Operation::UploadPart | Operation::AbortMultipartUpload
    );
    if names_an_upload && kind == FailureKind::NotFound {
        FailureKind::NoSuchUpload
    } else {
        kind
    }
}

/// Sorts by status, for responses without a body or with an unknown code.
fn by_status(operation: Operation, status: Option<u16>, region: Option<String>) -> FailureKind {
    match status {
        Some(301 | 307) => FailureKind::WrongRegion(region),
        // For a wrong region, HEAD gets a 400 without a code, but with the right region in a
        // header.
        Some(400) if region.is_some() && operation == Operation::HeadBucket => {
            FailureKind::WrongRegion(region)
        }
        Some(403) => FailureKind::Denied,
        Some(404) if operation == Operation::HeadBucket => FailureKind::NoSuchBucket,
        Some(404) => FailureKind::NotFound,
        Some(405 | 501) => FailureKind::Unsupported,
        Some(408) => FailureKind::TimedOut,
        Some(412) => FailureKind::PreconditionFailed,
        // A 503 without a body comes from the front end of a throttling S3, or from a load
        // balancer: in both cases, slowing down is right.
        Some(429 | 503) => FailureKind::Throttled,
        Some(500..) => FailureKind::Transient,
        _ => FailureKind::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_decide_and_unknown_codes_fall_back_to_the_status() {
        for (code, status, kind) in [
            ("SlowDown", 200, FailureKind::Throttled),
            ("SlowDown", 503, FailureKind::Throttled),
            ("InternalError", 200, FailureKind::Transient),
            ("ServiceUnavailable", 200, FailureKind::Transient),
            ("ExpiredToken", 400, FailureKind::Credentials),
            ("InvalidObjectState", 403, FailureKind::Archived),
            ("ConditionalRequestConflict", 409, FailureKind::Conflict),
            ("SomethingNew", 503, FailureKind::Transient),
            ("SomethingNew", 429, FailureKind::Throttled),
            ("SomethingNew", 408, FailureKind::TimedOut),
            ("SomethingNew", 400, FailureKind::Invalid),
            ("SomethingNew", 404, FailureKind::Invalid),
            ("SomethingNew", 405, FailureKind::Unsupported),
            ("SomethingNew", 500, FailureKind::Transient),
            ("SomethingNew", 501, FailureKind::Unsupported),
        ] {
            let found = by_code(Operation::CopyObject, code, Some(status), None);
            assert_eq!(found, kind, "{code} {status}");
        }
        for (operation, kind) in [
            (Operation::HeadBucket, FailureKind::NoSuchBucket),
            (Operation::HeadObject, FailureKind::NotFound),
            (Operation::GetObjectRetention, FailureKind::Unsupported),
            (Operation::DeleteObject, FailureKind::Invalid),
        ] {
            let found = by_code(operation, "SomethingNew", Some(404), None);
            assert_eq!(found, kind, "{operation}");
        }
    }

    #[test]
    fn an_answer_without_a_body_is_sorted_by_status() {
        let region = Some("eu-west-1".to_owned());
        assert_eq!(
            by_status(Operation::HeadBucket, Some(404), None),
            FailureKind::NoSuchBucket
        );
        assert_eq!(
            by_status(Operation::HeadObject, Some(404), None),
            FailureKind::NotFound
        );
        assert_eq!(
            by_status(Operation::HeadBucket, Some(301), region.clone()),
            FailureKind::WrongRegion(region)
        );
        assert_eq!(
            by_status(Operation::HeadObject, Some(503), None),
            FailureKind::Throttled
        );
    }
}
