//! The error answers of the sandbox, with the status, code, message, and extra elements of S3.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use s3s::{Body, S3Error, S3ErrorCode};

/// Carries the extra elements of an error document from the service to the HTTP layer, which adds
/// them to the body.
pub(super) const DETAILS: HeaderName = HeaderName::from_static("x-sandbox-error-details");

/// An error answer.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: Cow<'static, str>,
    pub(super) message: Cow<'static, str>,
    details: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
}

impl Refusal {
    pub(super) fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            details: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// Adds an element to the error document.
    pub(super) fn with(mut self, name: &'static str, value: impl Display) -> Self {
        self.details.push((name, value.to_string()));
        self
    }

    /// Adds a response header.
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn bad(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    fn missing(code: &'static str, message: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn invalid_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::bad("InvalidRequest", message)
    }

    pub(super) fn invalid_argument(
        name: &'static str,
        value: impl Display,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::bad("InvalidArgument", message)
            .with("ArgumentName", name)
            .with("ArgumentValue", value)
    }

    pub(super) fn invalid_tag(message: &'static str) -> Self {
        Self::bad("InvalidTag", message)
    }

    pub(super) fn no_such_bucket(bucket: &str) -> Self {
        Self::missing("NoSuchBucket", "The specified bucket does not exist")
            .with("BucketName", bucket)
    }

    pub(super) fn no_such_key(key: &str) -> Self {
        Self::missing("NoSuchKey", "The specified key does not exist.").with("Key", key)
    }

    pub(super) fn no_such_version(key: &str, version: &str) -> Self {
        Self::missing("NoSuchVersion", "The specified version does not exist.")
            .with("Key", key)
            .with("VersionId", version)
    }

    pub(super) fn no_such_upload(upload_id: &str) -> Self {
        Self::missing(
            "NoSuchUpload",
            "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted \
             or completed.",
        )
        .with("UploadId", upload_id)
    }

    pub(super) fn precondition_failed(condition: &'static str) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
        )
        .with("Condition", condition)
    }

    pub(super) fn conditional_conflict(key: &str, condition: &'static str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "ConditionalRequestConflict",
            "The conditional request cannot succeed due to a conflicting operation against this resource.",
        )
        .with("Condition", condition)
        .with("Key", key)
    }

    pub(super) fn not_implemented(
        message: impl Into<Cow<'static, str>>,
        header: &'static str,
    ) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message).with("Header", header)
    }

    pub(super) fn access_denied() -> Self {
        Self::new(StatusCode::FORBIDDEN, "AccessDenied", "Access Denied")
    }

    pub(super) fn invalid_object_state(class: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "InvalidObjectState",
            "The operation is not valid for the object's storage class",
        )
        .with("StorageClass", class)
    }

    pub(super) fn invalid_part(number: i32, etag: &str) -> Self {
        Self::bad(
            "InvalidPart",
            "One or more of the specified parts could not be found.  The part may not have been uploaded, or the \
             specified entity tag may not match the part's entity tag.",
        )
        .with("PartNumber", number)
        .with("ETag", etag)
    }

    pub(super) fn invalid_part_order() -> Self {
        Self::bad(
            "InvalidPartOrder",
            "The list of parts was not in ascending order. Parts must be ordered by part number.",
        )
    }

    pub(super) fn entity_too_small(number: i32, size: u64) -> Self {
        Self::bad(
            "EntityTooSmall",
            "Your proposed upload is smaller than the minimum allowed size",
        )
        .with("PartNumber", number)
        .with("ProposedSize", size)
        .with("MinSizeAllowed", super::object::SMALLEST_PART)
    }

    pub(super) fn too_large(size: u64) -> Self {
        Self::bad(
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed size",
        )
        .with("ProposedSize", size)
        .with("MaxSizeAllowed", super::object::LARGEST_PIECE)
    }

    pub(super) fn source_too_large() -> Self {
        Self::invalid_request(
            "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120",
        )
    }

    pub(super) fn malformed_xml() -> Self {
        Self::bad(
            "MalformedXML",
            "The XML you provided was not well-formed or did not validate against our published schema",
        )
    }

    pub(super) fn bad_digest(what: &str) -> Self {
        Self::bad(
            "BadDigest",
            format!("The {what} you specified did not match the calculated checksum."),
        )
    }

    pub(super) fn slow_down() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "SlowDown",
            "Please reduce your request rate.",
        )
    }

    /// Writes the `Error` document.
    pub(super) fn document(&self, request_id: &str) -> String {
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        xml.push_str(&self.element(request_id));
        xml
    }

    /// Writes the `Error` element alone.
    pub(super) fn element(&self, request_id: &str) -> String {
        let mut xml = String::from("<Error>");
        element(&mut xml, "Code", &self.code);
        element(&mut xml, "Message", &self.message);
        xml.push_str(&self.details_xml());
        element(&mut xml, "RequestId", request_id);
        element(&mut xml, "HostId", "sandbox");
        xml.push_str("</Error>");
        xml
    }

    fn details_xml(&self) -> String {
        let mut xml = String::new();
        for (name, value) in &self.details {
            element(&mut xml, name, value);
        }
        xml
    }

    /// Builds the complete answer.
    pub(super) fn response(&self, request_id: &str) -> Response<Body> {
        let mut response = Response::new(Body::from(self.document(request_id)));
        *response.status_mut() = self.status;
        self.put_headers(response.headers_mut());
        response
    }

    fn put_headers(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        for (name, value) in &self.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

fn element(xml: &mut String, name: &str, value: &str) {
    let _ = write!(xml, "<{name}>{}</{name}>", escape(value));
}

/// Escapes a text for an XML element. Percent-encodes control characters, which XML cannot contain.
pub(super) fn escape(text: &str) -> String {
    let mut xml = String::new();
    for c in text.chars() {
        match c {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            c if c < ' ' => {
                let _ = write!(xml, "%{:02X}", c as u32);
            }
            c => xml.push(c),
        }
    }
    xml
}

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> Self {
        let code =
            S3ErrorCode::from_bytes(refusal.code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
        let mut headers = HeaderMap::new();
        refusal.put_headers(&mut headers);
        if !refusal.details.is_empty()
            && let Ok(details) = HeaderValue::from_bytes(refusal.details_xml().as_bytes())
        {
            headers.insert(DETAILS, details);
        }
        let mut error = S3Error::with_message(code, refusal.message);
        error.set_status_code(refusal.status);
        error.set_headers(headers);
        error
    }
}
