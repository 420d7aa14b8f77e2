//! Bounds the size of every response, whether the SDK or the fast path sent the request.
//!
//! All requests pass through one connector (`s3::pool`), which recognizes their operations. It
//! limits the body of a response to somewhat more than S3 sends, so that no server decides how much
//! memory a run takes. It also limits the number of elements in a document, because an empty
//! element of ten bytes becomes a record of hundreds of bytes. The table in docs/semantics.md lists
//! all bounds.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use memchr::memchr_iter;
use thiserror::Error;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Operation;
use super::progress::Progress;
use crate::size::{ByteSize, MIB};

const KIB: u64 = 1 << 10;
/// The limit of all header names and values of one response together.
pub(super) const HEADERS: u64 = 64 * KIB;
/// The limit of the body of a response with an error status.
pub(super) const REFUSAL: Bound = Bound::bytes(64 * KIB);
/// The largest object that is read into memory, in bytes: a journal segment.
pub(super) const MAX_SEGMENT: u64 = 64 * MIB;
/// The limit for services other than S3, which return credentials and identities.
pub(super) const OTHER_SERVICE: Bound = Bound::bytes(MIB);
/// Documents longer than this wait for one of [`MAX_LARGE_AT_ONCE`] permits.
const LARGE_FROM: u64 = MIB;
/// The number of large documents that may be read at once.
const MAX_LARGE_AT_ONCE: usize = 6;

static LARGE_DOCUMENTS: Semaphore = Semaphore::const_new(MAX_LARGE_AT_ONCE);

/// Limits of one response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// Bytes of the body.
    pub(super) bytes: u64,
    /// The number of `<` in the body: two per element, or one if it is empty.
    pub(super) tags: Option<u64>,
}

impl Bound {
    const fn bytes(bytes: u64) -> Self {
        Self { bytes, tags: None }
    }

    const fn list(bytes: u64, tags: u64) -> Self {
        Self {
            bytes,
            tags: Some(tags),
        }
    }

    /// Returns the bound of a successful response. `GetObject` is bounded by the requested range.
    pub(super) const fn of(operation: Operation) -> Self {
        match operation {
            // 1,000 entries, each with a key of 1,024 bytes, which XML may escape with six bytes
            // each.
            Operation::ListObjects
            | Operation::ListObjectVersions
            | Operation::ListMultipartUploads => Self::list(8 * MIB, 100_000),
            Operation::ListParts | Operation::ListObjectAnnotations => Self::list(2 * MIB, 50_000),
            // 100 grants.
            Operation::GetObjectAcl => Self::list(256 * KIB, 10_000),
            Operation::GetObjectAnnotation => Self::bytes(MIB),
            Operation::GetObject => Self::bytes(MAX_SEGMENT),
            // The largest of these is ten tags, or a copy result preceded by the whitespace that S3
            // sends to keep the connection alive.
            Operation::HeadBucket
            | Operation::HeadObject
            | Operation::GetObjectTagging
            | Operation::PutObjectTagging
            | Operation::GetObjectRetention
            | Operation::GetObjectLegalHold
            | Operation::PutObjectAnnotation
            | Operation::CopyObject
            | Operation::PutObject
            | Operation::DeleteObject
            | Operation::CreateMultipartUpload
            | Operation::UploadPart
            | Operation::UploadPartCopy
            | Operation::CompleteMultipartUpload
            | Operation::AbortMultipartUpload
            | Operation::GetBucketVersioning
            | Operation::RestoreObject
            | Operation::ReadFile => Self::bytes(64 * KIB),
        }
    }
}

/// A response that is longer than anything S3 sends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum TooLong {
    /// The body has too many bytes.
    #[error("the answer is longer than {bytes}, more than S3 sends for this request", bytes = ByteSize(*.0))]
    Body(u64),
    /// The object has more bytes than the request asked for.
    #[error("the answer is longer than the {0} bytes that were requested")]
    Range(u64),
    /// The document has too many elements.
    #[error("the answer has more elements than S3 sends for this request ({0} tags)")]
    Document(u64),
    /// The header fields are too long.
    #[error("the header of the answer is longer than {bytes}", bytes = ByteSize(*.0))]
    Headers(u64),
}

/// The expected body of a response, which determines its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpectedBody {
    /// A HEAD request, whose response has no body.
    None,
    /// This many bytes of an object.
    Range(u64),
    /// The document of an operation, or a whole object.
    Document(Operation),
    /// A response of another service.
    OtherService,
}

impl ExpectedBody {
    /// Recognizes a request by its method, query, and headers, which do not depend on the URL
    /// style.
    pub(super) fn of(request: &HttpRequest) -> Self {
        let headers = request.headers();
        let range = headers.get("range");
        Self::from_parts(
            request.method(),
            request.uri(),
            range,
            headers.contains_key("x-amz-copy-source"),
        )
    }

    fn from_parts(method: &str, uri: &str, range: Option<&str>, is_copy: bool) -> Self {
        let query = uri.split_once('?').map_or("", |(_, query)| query);
        let has = |name: &str| {
            query
                .split('&')
                .any(|pair| pair.split('=').next() == Some(name))
        };
        let id = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("x-id="))
            .unwrap_or_default();
        Self::Document(match method {
            "HEAD" => return Self::None,
            "GET" if has("list-type") => Operation::ListObjects,
            "GET" if has("uploads") => Operation::ListMultipartUploads,
            "GET" if has("versions") => Operation::ListObjectVersions,
            "GET" if has("uploadId") => Operation::ListParts,
            "GET" if has("tagging") => Operation::GetObjectTagging,
            "GET" if has("acl") => Operation::GetObjectAcl,
            "GET" if has("retention") => Operation::GetObjectRetention,
            "GET" if has("legal-hold") => Operation::GetObjectLegalHold,
            "GET" if has("versioning") => Operation::GetBucketVersioning,
            "GET" if id == "ListObjectAnnotations" => Operation::ListObjectAnnotations,
            "GET" if id == "GetObjectAnnotation" => Operation::GetObjectAnnotation,
            "GET" if id == "GetObject" => match range.and_then(length) {
                Some(bytes) => return Self::Range(bytes),
                None => Operation::GetObject,
            },
            "PUT" if has("uploadId") && is_copy => Operation::UploadPartCopy,
            "PUT" if is_copy => Operation::CopyObject,
            "PUT" if has("tagging") => Operation::PutObjectTagging,
            "PUT" if has("annotation") => Operation::PutObjectAnnotation,
            "PUT" if id == "PutObject" || id == "UploadPart" => Operation::PutObject,
            "POST" if has("uploadId") => Operation::CompleteMultipartUpload,
            "POST" if has("uploads") => Operation::CreateMultipartUpload,
            "POST" if has("restore") => Operation::RestoreObject,
            "DELETE" if has("uploadId") => Operation::AbortMultipartUpload,
            "DELETE" => Operation::DeleteObject,
            _ => return Self::OtherService,
        })
    }

    /// Returns the limit of a response with this status.
    fn bound(self, is_success: bool) -> Option<Bound> {
        match self {
            Self::None => None,
            Self::OtherService => Some(OTHER_SERVICE),
            _ if !is_success => Some(REFUSAL),
            Self::Range(bytes) => Some(Bound::bytes(bytes)),
            Self::Document(operation) => Some(Bound::of(operation)),
        }
    }
}

/// Returns the length of `bytes=first-last`.
fn length(range: &str) -> Option<u64> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    last.parse::<u64>()
        .ok()?
        .checked_sub(first.parse().ok()?)?
        .checked_add(1)
}

/// Limits how much of a response can be read.
///
/// # Errors
/// [`TooLong`] if the header exceeds its limit.
pub(super) fn limit(
    mut response: HttpResponse,
    expected: ExpectedBody,
) -> Result<HttpResponse, TooLong> {
    let header = response
        .headers()
        .iter_bytes()
        .map(|(name, value)| name.len() + value.len());
    if header.sum::<usize>() as u64 > HEADERS {
        return Err(TooLong::Headers(HEADERS));
    }
    let is_success = response.status().is_success();
    let Some(bound) = expected.bound(is_success) else {
        return Ok(response);
    };
    let is_range = is_success && matches!(expected, ExpectedBody::Range(_));
    let body = std::mem::replace(response.body_mut(), SdkBody::taken());
    *response.body_mut() = if body.is_end_stream() {
        body
    } else {
        let announced = body.size_hint().lower();
        let progress = Progress::current().filter(|_| is_range);
        let permit = LargePermit::None;
        let limited = Limited {
            body,
            bound,
            is_range,
            announced,
            bytes: 0,
            tags: 0,
            gathered: BytesMut::new(),
            permit,
            progress,
        };
        SdkBody::from_body_1_x(limited)
    };
    Ok(response)
}

/// The permit to read a large document.
enum LargePermit {
    None,
    Awaited(Pin<Box<dyn Future<Output = Option<SemaphorePermit<'static>>> + Send + Sync>>),
    Taken {
        _permit: Option<SemaphorePermit<'static>>,
    },
}

/// A body that fails as soon as it exceeds its bound.
struct Limited {
    body: SdkBody,
    bound: Bound,
    /// Set for a stream of an object's bytes, which is not kept in memory.
    is_range: bool,
    /// The length that the server announced, or 0.
    announced: u64,
    bytes: u64,
    tags: u64,
    /// The bytes received so far of a document that is passed on as a whole.
    gathered: BytesMut,
    permit: LargePermit,
    progress: Option<Arc<Progress>>,
}

impl Limited {
    fn check(&self) -> Result<(), TooLong> {
        let Bound { bytes, tags } = self.bound;
        if self.bytes.max(self.announced) > bytes {
            return Err(if self.is_range {
                TooLong::Range(bytes)
            } else {
                TooLong::Body(bytes)
            });
        }
        match tags {
            Some(tags) if self.tags > tags => Err(TooLong::Document(tags)),
            _ => Ok(()),
        }
    }

    /// Waits for a permit once the document is a large one.
    fn poll_permit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.permit = match &mut self.permit {
                LargePermit::None if self.is_range || self.bytes <= LARGE_FROM => {
                    return Poll::Ready(());
                }
                LargePermit::None => {
                    LargePermit::Awaited(Box::pin(async { LARGE_DOCUMENTS.acquire().await.ok() }))
                }
                LargePermit::Awaited(permit) => LargePermit::Taken {
                    _permit: ready!(permit.as_mut().poll(cx)),
                },
                LargePermit::Taken { .. } => return Poll::Ready(()),
            };
        }
    }

    /// Reads the next frame, and fails if the frame takes the body beyond its bound.
    fn poll_checked(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Err(error) = self.check() {
            return Poll::Ready(Some(Err(error.into())));
        }
        ready!(self.poll_permit(cx));
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.bytes = self.bytes.saturating_add(data.len() as u64);
            if let Some(progress) = &self.progress {
                progress.moved(data.len() as u64);
            }
            if self.bound.tags.is_some() {
                self.tags += memchr_iter(b'<', data).count() as u64;
            }
            if let Err(error) = self.check() {
                return Poll::Ready(Some(Err(error.into())));
            }
        }
        Poll::Ready(frame)
    }
}

impl Body for Limited {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.bound.tags.is_none() {
            return this.poll_checked(cx);
        }
        // The SDK gathers the frames of a document and then copies all of them into one. If it gets
        // one frame, it copies nothing, and the connection reuses its buffer for each frame.
        loop {
            match ready!(this.poll_checked(cx)) {
                Some(Ok(frame)) => {
                    // Ignore the trailers.
                    if let Some(data) = frame.data_ref() {
                        if this.gathered.is_empty() {
                            let length = this.announced.max(data.len() as u64).min(LARGE_FROM);
                            this.gathered
                                .reserve(usize::try_from(length).unwrap_or_default());
                        }
                        this.gathered.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let document = std::mem::take(&mut this.gathered).freeze();
                    let frame = (!document.is_empty()).then(|| Ok(Frame::data(document)));
                    return Poll::Ready(frame);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.gathered.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.gathered.is_empty() {
            self.body.size_hint()
        } else {
            SizeHint::default()
        }
    }
}

#[cfg(test)]
mod tests;
