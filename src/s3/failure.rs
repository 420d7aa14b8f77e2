//! Every way in which a request can fail, sorted once.
//!
//! Errors are sorted by S3's error *code* first and by status only where there is none: errors come inside `200 OK`
//! answers, and HEAD errors carry no body at all. What to do about a failure ([`FailureKind::is_retryable`],
//! [`FailureKind::remedy`]) hangs on its kind alone, so no caller ever looks at codes.

use std::fmt;

use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::{RequestId, RequestIdExt};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::Operation;

/// What went wrong, as far as anyone who must act on it needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Too many requests: 503 `SlowDown`, also inside a 200, also KMS's.
    Throttled,
    /// The server failed, or the connection broke in mid-answer.
    Transient,
    /// No answer within the time that the bytes allow.
    TimedOut,
    /// The answer could not be read: empty, cut short or no XML.
    Unreadable,
    /// No connection: DNS, refused, TLS.
    Unreachable,
    /// A condition on the source or the destination did not hold (412).
    PreconditionFailed,
    /// Another writer raced a conditional write (409).
    Conflict,
    /// Not allowed (403).
    Denied,
    /// The credentials themselves are wrong, missing or expired.
    Credentials,
    /// The credentials could not be fetched: nothing was found, or the token service did not answer.
    NoCredentials,
    /// This machine's clock is off by more than 15 minutes.
    ClockSkew,
    /// The bucket lives in another region; the right one where the server named it.
    WrongRegion(Option<String>),
    /// No such bucket.
    NoSuchBucket,
    /// No such object or version.
    NotFound,
    /// The upload was completed, aborted or never begun.
    NoSuchUpload,
    /// The object must be restored from its archive tier first.
    Archived,
    /// The server does not know the request or one of its headers (501, 405).
    Unsupported,
    /// The server refuses the request as wrong.
    Invalid,
    /// The bytes that arrived are not those that were sent.
    Corrupted,
    /// The source changed again and again while it was copied.
    SourceChanged,
    /// The copy is there, but it is not equal to the source.
    NotEqual,
    /// A bucket does not keep the versions that the job is about.
    NoVersions,
    /// The destination's versions of a key are not the source's, so that nothing can be appended to them.
    Diverged,
    /// The job demands a stronger proof than both sides can give.
    Unprovable,
    /// The job requires an attribute of the source that the copy can not have.
    NotKept,
    /// A file of this machine could not be read.
    Local,
    /// The run was asked to stop before this was done.
    Stopped,
    /// A mistake in s3haul.
    Bug,
}

impl FailureKind {
    /// True when the same request may go through later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Throttled
                | Self::Transient
                | Self::TimedOut
                | Self::Unreadable
                | Self::Unreachable
                | Self::NoCredentials
                | Self::Corrupted
        )
    }

    /// True when a write may have happened although no good answer came back.
    #[must_use]
    pub const fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Transient | Self::TimedOut | Self::Unreadable)
    }

    /// True when the server or the network is at fault, so that other requests will fail alike.
    #[must_use]
    pub const fn speaks_of_an_outage(&self) -> bool {
        matches!(self, Self::Transient | Self::TimedOut | Self::Unreadable | Self::Unreachable)
    }

    /// True when waiting was in vain this time, but nothing has to be mended: the same run may succeed later.
    #[must_use]
    pub const fn may_pass_later(&self) -> bool {
        matches!(self, Self::Unreachable | Self::NoCredentials)
    }

    /// One word for reports and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Transient => "transient",
            Self::TimedOut => "timed-out",
            Self::Unreadable => "unreadable-answer",
            Self::Unreachable => "unreachable",
            Self::PreconditionFailed => "precondition-failed",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Credentials => "credentials",
            Self::NoCredentials => "no-credentials",
            Self::ClockSkew => "clock-skew",
            Self::WrongRegion(_) => "wrong-region",
            Self::NoSuchBucket => "no-such-bucket",
            Self::NotFound => "not-found",
            Self::NoSuchUpload => "no-such-upload",
            Self::Archived => "archived",
            Self::Unsupported => "unsupported",
            Self::Invalid => "invalid",
            Self::Corrupted => "corrupted",
            Self::SourceChanged => "source-changed",
            Self::NotEqual => "not-equal",
            Self::NoVersions => "no-versions",
            Self::Diverged => "diverged",
            Self::Unprovable => "unprovable",
            Self::NotKept => "not-kept",
            Self::Local => "local-file",
            Self::Stopped => "stopped",
            Self::Bug => "bug",
        }
    }

    /// What the user can do, as the end of a sentence.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Throttled => "lower `limits.requests_per_second`, or run again later".into(),
            Self::Transient | Self::TimedOut | Self::Unreadable => {
                "run the job again; if it stays, give the request id to the server's support".into()
            }
            Self::Unreachable => "check the endpoint's `url`, DNS, proxy and firewall".into(),
            Self::PreconditionFailed | Self::Conflict | Self::SourceChanged => {
                "another writer is at work; run the job again when it is done".into()
            }
            Self::Denied => "grant the permission, or exclude the object (see `deploy/iam/`)".into(),
            Self::Credentials | Self::NoCredentials => {
                "check AWS_PROFILE, AWS_ACCESS_KEY_ID and the endpoint's `profile` or `assume_role`".into()
            }
            Self::ClockSkew => "set this machine's clock (for instance with NTP)".into(),
            Self::WrongRegion(Some(region)) => format!("set the endpoint's `region: {region}`"),
            Self::WrongRegion(None) => "set the endpoint's `region` to the bucket's".into(),
            Self::NoSuchBucket => "check the bucket's name, or create it first".into(),
            Self::NotFound => "check the key; it may have been deleted since it was listed".into(),
            Self::NoSuchUpload => "the upload was finished or aborted elsewhere; run the job again".into(),
            Self::Archived => "write `archived: restore` or `archived: skip`, or restore it first".into(),
            Self::Unsupported => "set the endpoint's `provider`, so that the request is not needed".into(),
            Self::Invalid => "see the server's message".into(),
            Self::Corrupted => "run the job again; if it stays, the network or disk is faulty".into(),
            Self::NotEqual => "copy it again with `s3haul retry REPORT` or `when: always`".into(),
            Self::NoVersions => "turn on the bucket's versioning, or leave `versions` and `as_of` out".into(),
            Self::Diverged => {
                "write to another prefix, or append the whole history all the same with `when: always`".into()
            }
            Self::Unprovable => {
                "let both sides be read (`prove: read`), or be content with less (`verify: best`)".into()
            }
            Self::NotKept => "write `try` or `replace` for it under `preserve`".into(),
            Self::Local => "check the path and its permissions".into(),
            Self::Stopped => "run the same command again".into(),
            Self::Bug => "please report it".into(),
        }
    }
}

/// A request that failed: what, where, and S3's own words. Small, because it is the `Err` of nearly everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(Box<Details>);

/// The fields of a [`Failure`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// The kind, on which every decision hangs.
    pub kind: FailureKind,
    /// The request.
    pub operation: Operation,
    /// `bucket/key`, the bucket alone, or a path.
    pub place: String,
    /// S3's error code, `HTTP 403` where a HEAD had none, or a word for what the network did.
    pub code: String,
    /// S3's message, or the cause in our words.
    pub message: String,
    /// `x-amz-request-id`, for support.
    pub request_id: Option<String>,
    /// How often the request was sent.
    pub attempts: u32,
}

impl Failure {
    /// A failure of ours, not the server's.
    #[must_use]
    pub fn new(
        kind: FailureKind,
        operation: Operation,
        place: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let code = kind.name().to_owned();
        Self(Box::new(Details {
            kind,
            operation,
            place: place.into(),
            code,
            message: message.into(),
            request_id: None,
            attempts: 1,
        }))
    }

    /// The kind, on which every decision hangs.
    #[must_use]
    pub fn kind(&self) -> &FailureKind {
        &self.0.kind
    }

    /// All fields.
    #[must_use]
    pub fn details(&self) -> &Details {
        &self.0
    }

    /// True when the server calls the credentials expired: new ones may do.
    #[must_use]
    pub fn is_about_expiry(&self) -> bool {
        let expired = ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"];
        self.0.kind == FailureKind::Credentials && expired.contains(&self.0.code.as_str())
    }

    /// True for what no other object of the job can escape either: the run ends instead of failing each of them alike.
    ///
    /// A signature that does not match is not among them: odd keys and proxies cause it for single objects.
    #[must_use]
    pub fn ends_run(&self) -> bool {
        let is_about_us = self.is_about_expiry() || self.0.code == "InvalidAccessKeyId";
        is_about_us || self.0.kind.may_pass_later() || *self.kind() == FailureKind::ClockSkew
    }

    /// The same failure after `attempts` tries.
    #[must_use]
    pub fn after(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// The same failure with a remark on its message.
    #[must_use]
    pub fn noting(mut self, note: &str) -> Self {
        self.0.message = format!("{} ({note})", self.0.message);
        self
    }

    /// The same failure seen as another kind, for callers that know what a code means in their place.
    #[must_use]
    pub fn as_kind(mut self, kind: FailureKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Sorts what the SDK returned. `place` is `bucket/key`.
    pub(super) fn from_sdk<E>(operation: Operation, place: String, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        SdkError<E, HttpResponse>: RequestId + RequestIdExt,
    {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code = error.code().map(str::to_owned);
        let (kind, word) = match error {
            SdkError::ServiceError(_) => {
                let region = error
                    .raw_response()
                    .and_then(|response| response.headers().get("x-amz-bucket-region"))
                    .map(str::to_owned);
                match &code {
                    // Modelled HEAD errors carry the SDK's own code, never the server's.
                    Some(code) if code != "NotFound" => {
                        (of_upload(operation, by_code(code, status, region)), code.clone())
                    }
                    _ if status == Some(200) => (FailureKind::Unreadable, "unreadable answer".to_owned()),
                    _ => {
                        (by_status(operation, status, region), format!("HTTP {}", status.unwrap_or_default()))
                    }
                }
            }
            SdkError::TimeoutError(_) => (FailureKind::TimedOut, "timeout".to_owned()),
            SdkError::DispatchFailure(failure) => {
                let text = DisplayErrorContext(error).to_string();
                if is_about_credentials(&text) {
                    (FailureKind::NoCredentials, "no credentials".to_owned())
                } else if failure.is_timeout() || !connection_was_up(&text) {
                    (FailureKind::Unreachable, "no connection".to_owned())
                } else {
                    (FailureKind::Transient, "connection lost".to_owned())
                }
            }
            SdkError::ResponseError(_) => (FailureKind::Unreadable, "unreadable answer".to_owned()),
            SdkError::ConstructionFailure(_)
                if is_about_credentials(&DisplayErrorContext(error).to_string()) =>
            {
                (FailureKind::NoCredentials, "no credentials".to_owned())
            }
            _ => (FailureKind::Invalid, "request not sent".to_owned()),
        };
        let message = match (error.message(), &kind) {
            (Some(message), _) => message.to_owned(),
            (None, FailureKind::Denied) => "Forbidden".to_owned(),
            (None, FailureKind::NotFound) => "Not Found".to_owned(),
            (None, FailureKind::NoSuchBucket) => "the bucket does not exist".to_owned(),
            (None, FailureKind::WrongRegion(_)) => "the bucket is in another region".to_owned(),
            (None, FailureKind::Invalid) if operation == Operation::HeadObject => {
                "Bad Request; an object that a customer key encrypts (SSE-C) needs that `customer_key`"
                    .to_owned()
            }
            (None, FailureKind::NoCredentials) => first_line(&innermost(error)),
            (None, _) => innermost(error),
        };
        Self(Box::new(Details {
            kind,
            operation,
            place,
            code: word,
            message,
            request_id: error.request_id().map(str::to_owned),
            attempts: 1,
        }))
    }
}

/// Sorts by S3's error code; the status decides for codes that no one has heard of.
fn by_code(code: &str, status: Option<u16>, region: Option<String>) -> FailureKind {
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
        "InternalError" | "ServiceUnavailable" | "ServiceFailure" | "OperationAborted" | "BadGateway"
        | "GatewayTimeout" | "InternalFailure" => FailureKind::Transient,
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
        "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" | "IncompleteBody" => {
            FailureKind::Corrupted
        }
        _ => match status {
            Some(429) => FailureKind::Throttled,
            Some(500..) => FailureKind::Transient,
            Some(403) => FailureKind::Denied,
            Some(412) => FailureKind::PreconditionFailed,
            Some(301 | 307) => FailureKind::WrongRegion(region),
            _ => FailureKind::Invalid,
        },
    }
}

/// Ceph says `NoSuchKey` for an upload that is gone. No other key can be meant by requests that name nothing else.
fn of_upload(operation: Operation, kind: FailureKind) -> FailureKind {
    let names_an_upload =
        matches!(operation, Operation::ListParts | Operation::UploadPart | Operation::AbortMultipartUpload);
    if names_an_upload && kind == FailureKind::NotFound { FailureKind::NoSuchUpload } else { kind }
}

/// Sorts by status, for answers without a body.
fn by_status(operation: Operation, status: Option<u16>, region: Option<String>) -> FailureKind {
    match status {
        Some(301 | 307) => FailureKind::WrongRegion(region),
        // HEAD hides the code of a wrong region behind a 400 that names the right one.
        Some(400) if region.is_some() && operation == Operation::HeadBucket => {
            FailureKind::WrongRegion(region)
        }
        Some(403) => FailureKind::Denied,
        Some(404) if operation == Operation::HeadBucket => FailureKind::NoSuchBucket,
        Some(404) => FailureKind::NotFound,
        Some(405 | 501) => FailureKind::Unsupported,
        Some(412) => FailureKind::PreconditionFailed,
        // A 503 without a body comes from the front of a throttling S3, or from a load balancer: slower is right.
        Some(429 | 503) => FailureKind::Throttled,
        Some(500..) => FailureKind::Transient,
        _ => FailureKind::Invalid,
    }
}

/// The SDK's own words for "no credentials": its error types for them are private to its crates.
fn is_about_credentials(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["credential", "assumerole", "web identity token", "failed to resolve identity"]
        .iter()
        .any(|word| text.contains(word))
}

/// Distinguishes "never connected" from "connection lost": only then may a write have happened. The HTTP client marks
/// everything up to the end of the TLS handshake as `Connect`; what it does not mark happened later.
fn connection_was_up(text: &str) -> bool {
    !["(Connect)", "dns error", "tcp connect error"].iter().any(|word| text.contains(word))
}

/// The SDK lists each place where it looked for credentials; the first line says that there are none.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.trim_end_matches("Attempted:").trim_end_matches([' ', '.']).to_owned()
}

/// The deepest cause, which is the one that says something.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { kind, operation, place, code, message, request_id, attempts } = &*self.0;
        write!(f, "{operation} {place}: {code}: {}", message.trim_end_matches('.'))?;
        if *attempts > 1 {
            write!(f, " (after {attempts} attempts)")?;
        }
        if let Some(id) = request_id {
            write!(f, " [request {id}]")?;
        }
        write!(f, "; {}", kind.remedy())
    }
}

impl std::error::Error for Failure {}

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
            ("SomethingNew", 400, FailureKind::Invalid),
        ] {
            assert_eq!(by_code(code, Some(status), None), kind, "{code} {status}");
        }
    }

    #[test]
    fn an_answer_without_a_body_is_sorted_by_status() {
        let region = Some("eu-west-1".to_owned());
        assert_eq!(by_status(Operation::HeadBucket, Some(404), None), FailureKind::NoSuchBucket);
        assert_eq!(by_status(Operation::HeadObject, Some(404), None), FailureKind::NotFound);
        assert_eq!(
            by_status(Operation::HeadBucket, Some(301), region.clone()),
            FailureKind::WrongRegion(region)
        );
        assert_eq!(by_status(Operation::HeadObject, Some(503), None), FailureKind::Throttled);
    }

    #[test]
    fn the_message_holds_place_code_request_and_remedy() {
        let mut failure =
            Failure::new(FailureKind::Denied, Operation::CopyObject, "b/k", "Access Denied.").after(2);
        failure.0.request_id = Some("R1".to_owned());
        let text = failure.to_string();
        assert!(
            text.starts_with("CopyObject b/k: denied: Access Denied (after 2 attempts) [request R1]; grant"),
            "{text}"
        );
    }
}
