//! Sorts the failures of requests into kinds.
//!
//! Errors are sorted by S3's error *code*, because errors also arrive inside `200 OK` responses.
//! The status decides if the code is unknown or absent, as in responses to HEAD. Callers should
//! branch on the kind. A few inspect the code as well, where one kind covers cases that need
//! different handling (`InvalidPart`, `AccessControlListNotSupported`).

mod sort;
pub(super) mod tls;

use std::fmt;

use super::Operation;
use super::clock::Signed;
use crate::printable::printable;

/// The kind of a failure. It decides how the failure is handled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum FailureKind {
    /// Too many requests: 503 `SlowDown`, also inside a 200 and from KMS.
    Throttled,
    /// The server failed, or the connection broke during the response.
    Transient,
    /// No response within the time limit for a request of this size.
    TimedOut,
    /// The response could not be read: it was empty, truncated, or not XML.
    Unreadable,
    /// The response is longer than any response of S3.
    AnswerTooLong,
    /// The server answered no request of this operation within the run's patience.
    Silent,
    /// The response can be read but contradicts the protocol: a list that does not advance, a
    /// missing length, an ID beyond the limits of S3. The same request gets the same response.
    ServerFault,
    /// No connection could be made: the name does not resolve, or the connection was refused or
    /// reset.
    Unreachable,
    /// The server's certificate is not trusted: no authority in the configured bundle (the field)
    /// signed it or, without a bundle, no authority that this machine trusts.
    Certificate(Option<String>),
    /// TLS cannot be set up with the server, now or later.
    Tls,
    /// The request could not be built or signed. Nothing was sent.
    NotSent,
    /// A condition on the source or the destination did not hold (412).
    PreconditionFailed,
    /// Another write to the key was in progress (409 `ConditionalRequestConflict`).
    Conflict,
    /// Not allowed (403).
    Denied,
    /// The server refuses the credentials: they are wrong or expired.
    Credentials,
    /// The server no longer accepts the credentials, and they cannot be renewed.
    CredentialsEnded,
    /// There are no credentials: none are configured, or their provider refuses them.
    NoCredentials,
    /// The configured provider of the credentials does not answer.
    CredentialsUnavailable,
    /// This machine's clock is off by more than 15 minutes.
    ClockSkew,
    /// The bucket is in another Region. The field is that Region, if the server named it.
    WrongRegion(Option<String>),
    /// No such bucket.
    NoSuchBucket,
    /// A bucket that accepted writes of this run no longer exists.
    BucketLost,
    /// No such object or version.
    NotFound,
    /// The upload was completed, aborted, or never created.
    NoSuchUpload,
    /// The object must be restored from its archive tier first.
    Archived,
    /// The server does not know the request or one of its headers (501, 405).
    Unsupported,
    /// The server does not know the request and answers as if it were another one, for example with
    /// the object itself.
    NotUnderstood,
    /// The server refuses the request as invalid.
    Invalid,
    /// The bytes that arrived are not the bytes that were sent.
    Corrupted,
    /// The source changed again and again while it was copied.
    SourceChanged,
    /// The copy exists, but it is not equal to the source.
    NotEqual,
    /// The job needs versions, and the bucket does not keep them.
    NoVersions,
    /// The destination's versions of a key differ from the source's versions, so newer versions
    /// cannot be appended.
    Diverged,
    /// The job requires a stronger proof than the two endpoints can give.
    Unprovable,
    /// The job requires an attribute of the source that the copy cannot have.
    NotKept,
    /// The endpoint's own settings are wrong: a profile, a proxy, a file of certificates.
    Configuration,
    /// A file of this machine could not be read.
    Local,
    /// The run was stopped before the request was finished.
    Stopped,
    /// A bug in s3haul.
    Bug,
}

impl FailureKind {
    /// Returns true if the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Throttled
                | Self::Transient
                | Self::TimedOut
                | Self::Unreadable
                | Self::Unreachable
                | Self::CredentialsUnavailable
                | Self::Corrupted
        )
    }

    /// Returns true if a write may have taken effect although its response was lost or bad.
    #[must_use]
    pub const fn outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::Transient
                | Self::TimedOut
                | Self::Unreadable
                | Self::AnswerTooLong
                | Self::Silent
                | Self::ServerFault
                | Self::Bug
        )
    }

    /// Returns true if the request never reached the server.
    pub(crate) const fn is_unsent(&self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::NotSent | Self::NoCredentials | Self::CredentialsUnavailable
        )
    }

    /// Returns true if the server or the network may be down, so that other requests would fail
    /// too.
    #[must_use]
    pub const fn indicates_outage(&self) -> bool {
        matches!(
            self,
            Self::Transient | Self::TimedOut | Self::Unreadable | Self::Unreachable
        )
    }

    /// Returns true if nothing in the job must be corrected: the same command may succeed later.
    #[must_use]
    pub const fn may_pass_later(&self) -> bool {
        matches!(
            self,
            Self::Throttled
                | Self::Transient
                | Self::TimedOut
                | Self::Silent
                | Self::Unreachable
                | Self::CredentialsUnavailable
                | Self::CredentialsEnded
        )
    }

    /// Returns true if no other request of the run can succeed either.
    const fn concerns_all(&self) -> bool {
        matches!(
            self,
            Self::Unreachable
                | Self::Silent
                | Self::Certificate(_)
                | Self::Tls
                | Self::NoCredentials
                | Self::CredentialsUnavailable
                | Self::CredentialsEnded
                | Self::ClockSkew
                | Self::BucketLost
        )
    }

    /// Returns true if the user must correct the credentials, a permission, or the location of the
    /// bucket. These are the permanent failures of all requests, or of all requests to one bucket.
    const fn refuses_access(&self) -> bool {
        let concerns_the_bucket = matches!(
            self,
            Self::Denied
                | Self::Credentials
                | Self::WrongRegion(_)
                | Self::NoSuchBucket
                | Self::Unsupported
                | Self::Configuration
        );
        concerns_the_bucket || (self.concerns_all() && !self.may_pass_later())
    }

    /// Returns the name of the kind for reports and metrics, as one word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Transient => "transient",
            Self::TimedOut => "timed-out",
            Self::Unreadable => "unreadable-answer",
            Self::AnswerTooLong => "answer-too-long",
            Self::Silent => "no-answer",
            Self::ServerFault => "server-fault",
            Self::Unreachable => "unreachable",
            Self::Certificate(_) => "certificate",
            Self::Tls => "tls",
            Self::NotSent => "not-sent",
            Self::PreconditionFailed => "precondition-failed",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Credentials => "credentials",
            Self::CredentialsEnded => "credentials-ended",
            Self::NoCredentials => "no-credentials",
            Self::CredentialsUnavailable => "credentials-unavailable",
            Self::ClockSkew => "clock-skew",
            Self::WrongRegion(_) => "wrong-region",
            Self::NoSuchBucket => "no-such-bucket",
            Self::BucketLost => "bucket-lost",
            Self::NotFound => "not-found",
            Self::NoSuchUpload => "no-such-upload",
            Self::Archived => "archived",
            Self::Unsupported => "unsupported",
            Self::NotUnderstood => "not-understood",
            Self::Invalid => "invalid",
            Self::Corrupted => "corrupted",
            Self::SourceChanged => "source-changed",
            Self::NotEqual => "not-equal",
            Self::NoVersions => "no-versions",
            Self::Diverged => "diverged",
            Self::Unprovable => "unprovable",
            Self::NotKept => "not-kept",
            Self::Configuration => "configuration",
            Self::Local => "local-file",
            Self::Stopped => "stopped",
            Self::Bug => "bug",
        }
    }

    /// Returns what the user can do, in a form that can end a sentence.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Throttled => "lower `limits.requests_per_second`, or run again later".into(),
            Self::Transient => {
                "run the job again; if it persists, give the request id to the server's support".into()
            }
            Self::TimedOut => {
                "run the job again; if it persists, look for the request in the server's log, and check the network".into()
            }
            Self::Silent => {
                "run the same command again when the server answers, or allow it more time with `patience`"
                    .into()
            }
            Self::Unreadable | Self::AnswerTooLong => {
                "check that the endpoint's `url` points to an S3 server, and that no proxy is answering for it"
                    .into()
            }
            Self::ServerFault => {
                "the server does not behave like S3; report this to its operator or vendor".into()
            }
            Self::Unreachable => "check the endpoint's `url`, DNS, proxy and firewall".into(),
            Self::Certificate(Some(_)) => "add that CA to the bundle, or name the bundle that has it".into(),
            Self::Certificate(None) => "add its CA with AWS_CA_BUNDLE, SSL_CERT_FILE or `ca_bundle`".into(),
            Self::Tls => "check the endpoint's `url` and the server's TLS settings".into(),
            Self::NotSent => "correct what the message names, or report it".into(),
            Self::PreconditionFailed | Self::Conflict | Self::SourceChanged => {
                "something else is writing to these objects; run the job again when it has finished".into()
            }
            Self::Denied => "grant the permission, or exclude the object".into(),
            Self::Credentials => {
                "check the variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN, or AWS_PROFILE \
                 and the endpoint's `profile` or `assume_role`"
                    .into()
            }
            Self::CredentialsEnded => {
                "export new AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN, and run the same command again"
                    .into()
            }
            Self::CredentialsUnavailable => {
                "make sure the credential provider is running, then run the same command again".into()
            }
            Self::ClockSkew => "set this machine's clock (for instance with NTP)".into(),
            Self::WrongRegion(Some(region)) => format!("set the endpoint's `region: {region}`"),
            Self::WrongRegion(None) => "set the endpoint's `region` to the bucket's".into(),
            Self::NoSuchBucket => "check the bucket's name, or create it first".into(),
            Self::BucketLost => {
                "run `s3haul verify --report REPORT` to see which copies still exist, then run the same command again with --fresh"
                    .into()
            }
            Self::NotFound => "check the key; it may have been deleted since it was listed".into(),
            Self::NoSuchUpload => "the upload was finished or aborted elsewhere; run the job again".into(),
            Self::Archived => "write `archived: restore` or `archived: skip`, or restore it first".into(),
            Self::Unsupported => "set the endpoint's `provider`, so that the request is not needed".into(),
            Self::NotUnderstood => {
                "write `skip` for the attribute under `preserve`, or set the endpoint's `provider`".into()
            }
            Self::Invalid => "see the server's message".into(),
            Self::Corrupted => "run the job again; if this persists, suspect the network or a disk".into(),
            Self::NotEqual => "copy it again with `when: always`, or with `s3haul retry REPORT` if the run wrote a report".into(),
            Self::NoVersions => "turn on the bucket's versioning, or leave `versions` and `as_of` out".into(),
            Self::Diverged => {
                "write to another prefix, or append the whole history all the same with `when: always`".into()
            }
            Self::Unprovable => {
                "allow s3haul to read both sides (`prove: read`), or accept a weaker proof (`verify: best`)".into()
            }
            Self::NotKept => "write `try` or `replace` for it under `preserve`".into(),
            // The message names the setting.
            Self::Configuration | Self::NoCredentials => String::new(),
            Self::Local => "check the path and its permissions".into(),
            Self::Stopped => "run the same command again".into(),
            Self::Bug => "please report it".into(),
        }
    }
}

/// A failed request. It is as small as a pointer, because it is the error type of nearly all
/// functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(Box<Details>);

/// The fields of a [`Failure`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// The kind, which decides how the failure is handled.
    pub kind: FailureKind,
    /// The request.
    pub operation: Operation,
    /// The location: `bucket/key`, the bucket alone, or a path.
    pub place: String,
    /// S3's error code, `HTTP 403` for a HEAD without one, or a name for a network error.
    pub code: String,
    /// S3's message, or the cause in s3haul's words.
    pub message: String,
    /// `x-amz-request-id`, for support.
    pub request_id: Option<String>,
    /// The number of times that the request was sent.
    pub attempts: u32,
    /// The credentials and the time used to sign the request, if the server refused it.
    pub(crate) signed: Option<Signed>,
    /// Set if the server answered the request.
    pub(crate) is_answer: bool,
    /// Set if the request concerns an object of s3haul's own, such as a piece of a report.
    pub(crate) is_about_record: bool,
}

impl Failure {
    /// Creates a failure that s3haul itself detected.
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
            signed: None,
            is_answer: false,
            is_about_record: false,
        }))
    }

    /// Returns the kind, which decides how the failure is handled.
    #[must_use]
    pub fn kind(&self) -> &FailureKind {
        &self.0.kind
    }

    /// Returns what the user can do, in a form that can end a sentence. Empty for a refusal by
    /// s3haul itself, whose message already says it.
    #[must_use]
    pub fn remedy(&self) -> String {
        if self.is_own_refusal() {
            String::new()
        } else if self.0.kind == FailureKind::Transient && self.0.request_id.is_none() {
            // A failure without a request ID has nothing to give to the support.
            FailureKind::TimedOut.remedy()
        } else if self.0.kind == FailureKind::Denied && !self.0.is_about_record {
            self.0.operation.grant()
        } else if self.0.kind == FailureKind::Denied {
            // No object can be excluded to avoid this request.
            format!(
                "grant {} on s3://{}",
                self.0.operation.permission(false),
                self.0.place
            )
        } else {
            self.0.kind.remedy()
        }
    }

    /// Returns true if s3haul itself refused the request, without a response from a server.
    fn is_own_refusal(&self) -> bool {
        self.0.kind == FailureKind::Invalid && self.0.code == self.0.kind.name()
    }

    /// Returns true for responses that servers give to a request that they do not know. A server
    /// that knows the request may give them too, such as a 404 for a missing object.
    pub(crate) fn is_no_answer(&self) -> bool {
        matches!(
            self.0.kind,
            FailureKind::Unsupported
                | FailureKind::NotUnderstood
                | FailureKind::Unreadable
                | FailureKind::Invalid
                | FailureKind::NotFound
        )
    }

    /// Returns all fields.
    #[must_use]
    pub fn details(&self) -> &Details {
        &self.0
    }

    /// Returns true if the server says that the credentials have expired, so that new ones may be
    /// accepted.
    #[must_use]
    pub fn is_about_expiry(&self) -> bool {
        let expired = [
            "ExpiredToken",
            "ExpiredTokenException",
            "TokenRefreshRequired",
            "InvalidToken",
        ];
        self.0.kind == FailureKind::Credentials && expired.contains(&self.0.code.as_str())
    }

    /// Creates the failure of a request that could not be signed.
    pub(crate) fn without_credentials(
        kind: FailureKind,
        operation: Operation,
        place: String,
        message: String,
    ) -> Self {
        let mut failure = Self::new(kind, operation, place, message);
        let code = match failure.0.kind {
            FailureKind::CredentialsUnavailable => "credentials not available",
            _ => "no credentials",
        };
        code.clone_into(&mut failure.0.code);
        failure
    }

    /// Returns true if the server refuses the credentials, so that it would refuse every other
    /// request with them too.
    #[must_use]
    pub fn is_about_credentials(&self) -> bool {
        self.is_about_expiry() || self.0.code == "InvalidAccessKeyId"
    }

    /// Returns true for a refusal that the credentials or the time of the signature may have
    /// caused.
    #[must_use]
    pub fn may_be_about_signature(&self) -> bool {
        matches!(
            self.0.kind,
            FailureKind::Credentials | FailureKind::ClockSkew | FailureKind::Denied
        ) || self.hides_reason()
    }

    /// Returns true for a refusal that does not show whether it concerns one object or all
    /// requests.
    #[must_use]
    pub fn hides_reason(&self) -> bool {
        let is_bare = matches!(self.0.code.as_str(), "HTTP 400" | "HTTP 403");
        (is_bare && self.0.operation == Operation::HeadObject)
            || self.0.code == "SignatureDoesNotMatch"
    }

    /// Returns true if the user need not correct anything: the same command may succeed later, or
    /// it was interrupted.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.0.kind.may_pass_later() || self.0.kind == FailureKind::Stopped
    }

    /// Returns true if every other object of the job would fail in the same way, so that the run
    /// must end.
    ///
    /// Returns false for a signature that does not match: unusual keys and proxies cause that for
    /// single objects.
    #[must_use]
    pub fn ends_run(&self) -> bool {
        self.is_about_credentials() || self.0.kind.concerns_all()
    }

    /// Returns true if the user must correct the credentials, a permission, or the location of the
    /// bucket.
    #[must_use]
    pub fn refuses_access(&self) -> bool {
        self.0.kind.refuses_access()
    }

    /// Returns true if the write, or an earlier attempt of it, may have taken effect although its
    /// response was lost or bad.
    #[must_use]
    pub fn may_have_taken_effect(&self) -> bool {
        self.0.kind.outcome_unknown() || self.0.attempts > 1
    }

    /// Returns true if the server answered the request.
    #[must_use]
    pub(crate) fn is_answer(&self) -> bool {
        self.0.is_answer
    }

    /// Returns this failure with the number of attempts.
    #[must_use]
    pub fn after(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// Returns this failure with a note added to its message.
    #[must_use]
    pub fn noting(mut self, note: &str) -> Self {
        self.0.message = format!("{} ({note})", self.0.message);
        self
    }

    /// Marks this failure as being about one of s3haul's own objects.
    #[must_use]
    pub(crate) fn about_record(mut self) -> Self {
        self.0.is_about_record = true;
        self
    }

    /// Returns this failure with another kind, for callers that know what a code means for their
    /// request.
    #[must_use]
    pub fn as_kind(mut self, kind: FailureKind) -> Self {
        self.0.kind = kind;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details {
            operation,
            place,
            code,
            message,
            request_id,
            attempts,
            ..
        } = &*self.0;
        let (place, code, message) = (printable(place), printable(code), printable(message));
        let message = message.trim_end_matches('.');
        if self.is_own_refusal() {
            return write!(f, "{place}: {message}");
        }
        write!(f, "{operation} {place}: {code}: {message}")?;
        if *attempts > 1 {
            write!(f, " (after {attempts} attempts)")?;
        }
        if let Some(id) = request_id {
            write!(f, " [request {}]", printable(id))?;
        }
        match self.remedy() {
            remedy if remedy.is_empty() => Ok(()),
            remedy => write!(f, "; {}", printable(&remedy)),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests;
