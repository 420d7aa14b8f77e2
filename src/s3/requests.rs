//! The requests for single objects, one method each. Each takes and returns the crate's own types,
//! and sends one attempt.
//!
//! A `200 OK` is not a success by itself: a response without an `ETag`, such as one with an empty
//! body, is a failure here, so that no caller mistakes it for a copy. The requests of multipart
//! uploads are in [`multipart`].

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::copy_object::{CopyObject, CopyObjectInput};
use aws_sdk_s3::operation::head_object::{HeadObject, HeadObjectInput};
use aws_sdk_s3::operation::put_object::{PutObject, PutObjectInput};
use aws_sdk_s3::operation::{RequestId, RequestIdExt};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types as sdk;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::convert::{
    any_checksums, checksum, encryption, head, if_match, if_none_match, quoted, unquote,
};
use super::fast_path::Header;
use super::headers::{with_attributes, with_customer_key, with_source_key};
use super::ids::{IdKind, other_version, written_version};
use super::octets;
use super::{
    Attributes, BucketHead, Capabilities, Checksum, ChecksumAlgorithm, ChecksumKind, Client,
    Failure, FailureKind, Head, Operation, SourcePin, Tags, WriteCondition, Written,
};
use crate::location::{BucketName, ObjectKey, copy_source};

/// Sets the checksum of a request's bytes, or of the whole object, in the field of its algorithm.
macro_rules! with_checksum {
    ($request:expr, $checksum:expr) => {
        match $checksum {
            None => $request,
            Some(Checksum {
                algorithm, value, ..
            }) => match algorithm {
                ChecksumAlgorithm::Crc64Nvme => $request.checksum_crc64_nvme(value),
                ChecksumAlgorithm::Crc32 => $request.checksum_crc32(value),
                ChecksumAlgorithm::Crc32c => $request.checksum_crc32_c(value),
                ChecksumAlgorithm::Sha1 => $request.checksum_sha1(value),
                ChecksumAlgorithm::Sha256 => $request.checksum_sha256(value),
            },
        }
    };
}

/// Returns the checksum of an object in a response, from whichever field holds it.
macro_rules! checksum_of {
    ($answer:expr) => {
        checksum(any_checksums!($answer), $answer.checksum_type.as_ref())
    };
}

/// Returns the checksum of a part, whose algorithm is that of the upload.
macro_rules! any_checksum {
    ($answer:expr) => {
        checksum(any_checksums!($answer), None).map(|checksum| checksum.value)
    };
}

/// Returns the encryption of an object from a response about it.
macro_rules! encryption_of {
    ($answer:expr) => {
        encryption(
            $answer.server_side_encryption.as_ref(),
            $answer.ssekms_key_id.clone(),
            $answer.bucket_key_enabled,
        )
    };
}

/// Sends a request: on the fast path if it is known for the bucket, otherwise through the SDK. The
/// extra header is sent unchanged.
macro_rules! send {
    ($client:expr, $bucket:expr, $operation:ty, $request:expr, $header:expr) => {{
        let (request, header): (_, Header) = ($request, $header);
        match $client.fast_path($bucket) {
            Some(path) => {
                path.send::<$operation>(request.build(), header, $client.signs_bodies)
                    .await
            }
            // Boxed, because these futures are large and most requests need none.
            None => Box::pin(request.send_with(&$client.sdk_with(header))).await,
        }
    }};
}

// Declared after the macros that it uses.
mod multipart;

/// Returns the `Expires` header with its text unchanged: S3 also stores texts that are not dates.
fn expires(attributes: &Attributes) -> Header {
    attributes
        .headers
        .expires
        .clone()
        .map(|text| ("expires", text))
}

impl Client {
    /// Returns the server's response about the bucket.
    pub async fn head_bucket(&self, bucket: &BucketName) -> Result<BucketHead, Failure> {
        let answer = self.sdk.head_bucket().bucket(bucket.as_str()).send().await;
        let output =
            answer.map_err(|error| failure(Operation::HeadBucket, bucket, None, &error))?;
        let speaks_s3 = output.bucket_region.is_some() || output.request_id().is_some();
        Ok(BucketHead {
            region: output.bucket_region,
            speaks_s3,
        })
    }

    /// Returns everything that HEAD shows. The request always asks for the checksum; servers
    /// without checksums ignore that.
    pub async fn head_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<Head, Failure> {
        let request = HeadObjectInput::builder()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_version_id(version.map(str::to_owned))
            .checksum_mode(sdk::ChecksumMode::Enabled);
        let request = with_customer_key!(request, &self.customer_key);
        let output = send!(self, bucket, HeadObject, request, None)
            .map_err(|error| failure(Operation::HeadObject, bucket, Some(key), &error))?;
        let head = other_version(version, output.version_id())
            .and_then(|()| head(output, self.capabilities().restore_status_in_lists))
            .map_err(|message| fault(Operation::HeadObject, bucket, Some(key), message))?;
        let checksum = self.believed(head.checksum, &head.etag);
        Ok(Head { checksum, ..head })
    }

    /// Returns the checksum of a response, unless the manifest states `checksums: false`. A
    /// checksum of unknown kind covers the whole object if the `ETag` is that of a single request.
    /// The checksum of a multipart object may be composite.
    fn believed(&self, checksum: Option<Checksum>, etag: &str) -> Option<Checksum> {
        let checksum = checksum.filter(|_| !self.capabilities().ignores_checksums)?;
        let is_of_one_request = self.capabilities().part_counts
            && etag.len() == 32
            && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        let kind = match checksum.kind {
            ChecksumKind::Unstated if is_of_one_request => ChecksumKind::FullObject,
            kind => kind,
        };
        Some(Checksum { kind, ..checksum })
    }

    /// Copies an object of at most 5 GiB with one request, and gives the copy exactly these
    /// attributes.
    pub async fn copy_object(
        &self,
        source: &SourcePin,
        bucket: &BucketName,
        key: &ObjectKey,
        attributes: &Attributes,
        condition: &WriteCondition,
    ) -> Result<Written, Failure> {
        let Capabilities {
            tag_headers,
            directory,
            annotations: knows_annotations,
            ..
        } = *self.capabilities();
        let tagging = match attributes.tags {
            // S3 answers 501 to a copy that would bring tags or annotations into a directory
            // bucket.
            _ if directory => Some(sdk::TaggingDirective::Replace),
            Tags::AsSource => None, // COPY is the default, and servers without tags refuse the header
            Tags::Exactly(_) if !tag_headers => None,
            Tags::Exactly(_) => Some(sdk::TaggingDirective::Replace),
        };
        let annotations = if attributes.annotations && !directory {
            sdk::AnnotationDirective::Copy
        } else {
            sdk::AnnotationDirective::Exclude // COPY is the default
        };
        let request = CopyObjectInput::builder()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .copy_source(copy_source(
                &source.bucket,
                &source.key,
                source.version.as_deref(),
            ))
            .copy_source_if_match(quoted(&source.etag))
            .metadata_directive(sdk::MetadataDirective::Replace)
            .set_tagging_directive(tagging)
            .set_annotation_directive((directory || knows_annotations).then_some(annotations))
            .set_if_none_match(if_none_match(condition))
            .set_if_match(if_match(condition))
            .set_checksum_algorithm(attributes.checksum.map(|(algorithm, _)| algorithm.into()));
        let request = with_source_key!(request, &source.customer_key);
        let request = with_customer_key!(request, &self.customer_key);
        let request = with_attributes!(request, attributes);
        self.ensure_signable(Operation::CopyObject, bucket, key, attributes)
            .await?;
        let sent = self.uncorrected_time();
        let output = send!(self, bucket, CopyObject, request, expires(attributes))
            .map_err(|error| failure(Operation::CopyObject, bucket, Some(key), &error))?;
        other_version(source.version.as_deref(), output.copy_source_version_id())
            .map_err(|message| fault(Operation::CopyObject, bucket, Some(key), message))?;
        let encryption = encryption_of!(output);
        let result = output.copy_object_result;
        let etag = result.as_ref().and_then(|result| result.e_tag.clone());
        let etag = required_etag(etag, Operation::CopyObject, bucket, key)?;
        let version = written(output.version_id, Operation::CopyObject, bucket, key)?;
        let checksum = result.and_then(|result| checksum_of!(result));
        let checksum = self.believed(checksum, &etag);
        Ok(Written {
            etag,
            version,
            checksum,
            encryption,
            was_found: false,
            since: self.earliest(sent),
        })
    }

    /// Ensures that header values that are not UTF-8 can be signed. Only the fast path can do that:
    /// the SDK leaves them out of its signature. Sends a HEAD of the bucket if the fast path is not
    /// known yet.
    async fn ensure_signable(
        &self,
        operation: Operation,
        bucket: &BucketName,
        key: &ObjectKey,
        attributes: &Attributes,
    ) -> Result<(), Failure> {
        if !octets::has_non_utf8_values(attributes) || self.fast_path(bucket).is_some() {
            return Ok(());
        }
        // The fast path is learned from a request that succeeds.
        Box::pin(self.head_bucket(bucket)).await?;
        if self.fast_path(bucket).is_some() {
            return Ok(());
        }
        let message =
            "a header or metadata value that is not UTF-8 cannot be signed for this bucket";
        Err(Failure::new(
            FailureKind::NotSent,
            operation,
            format!("{bucket}/{key}"),
            message,
        ))
    }

    /// Writes a small object from memory.
    pub async fn put_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        body: bytes::Bytes,
        attributes: &Attributes,
        checksum_value: Option<&Checksum>,
        condition: &WriteCondition,
    ) -> Result<Written, Failure> {
        let mut request = PutObjectInput::builder()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .body(ByteStream::from(body))
            .set_if_none_match(if_none_match(condition))
            .set_if_match(if_match(condition));
        request = with_checksum!(request, checksum_value);
        let request = with_customer_key!(request, &self.customer_key);
        let request = with_attributes!(request, attributes);
        self.ensure_signable(Operation::PutObject, bucket, key, attributes)
            .await?;
        let sent = self.uncorrected_time();
        let output = send!(self, bucket, PutObject, request, expires(attributes))
            .map_err(|error| failure(Operation::PutObject, bucket, Some(key), &error))?;
        let encryption = encryption_of!(output);
        let checksum = checksum_of!(output);
        let etag = required_etag(output.e_tag, Operation::PutObject, bucket, key)?;
        Ok(Written {
            was_found: false,
            since: self.earliest(sent),
            encryption,
            checksum: self.believed(checksum, &etag),
            etag,
            version: written(output.version_id, Operation::PutObject, bucket, key)?,
        })
    }
}

pub(super) fn failure<E>(
    operation: Operation,
    bucket: &BucketName,
    key: Option<&ObjectKey>,
    error: &SdkError<E, HttpResponse>,
) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    SdkError<E, HttpResponse>: RequestId + RequestIdExt,
{
    Failure::from_sdk(operation, place(bucket, key), error)
}

/// Returns true for a complete `200 OK` with an empty body.
pub(super) fn is_empty_success<E>(error: &SdkError<E, HttpResponse>) -> bool {
    error.raw_response().is_some_and(|response| {
        response.status().as_u16() == 200
            && response.headers().get("content-length") == Some("0")
            && response.body().bytes().is_some_and(<[u8]>::is_empty)
    })
}

pub(super) fn place(bucket: &BucketName, key: Option<&ObjectKey>) -> String {
    key.map_or_else(|| bucket.to_string(), |key| format!("{bucket}/{key}"))
}

/// Returns the failure for a response that contradicts the protocol.
pub(super) fn fault(
    operation: Operation,
    bucket: &BucketName,
    key: Option<&ObjectKey>,
    message: String,
) -> Failure {
    Failure::new(
        FailureKind::ServerFault,
        operation,
        place(bucket, key),
        message,
    )
}

/// Returns the ID of the version that a write created.
fn written(
    version: Option<String>,
    operation: Operation,
    bucket: &BucketName,
    key: &ObjectKey,
) -> Result<Option<String>, Failure> {
    written_version(version).map_err(|message| fault(operation, bucket, Some(key), message))
}

/// Returns the `ETag` that shows that a write took effect. A 200 without one may come from a proxy,
/// and is worth another try.
fn required_etag(
    etag: Option<String>,
    operation: Operation,
    bucket: &BucketName,
    key: &ObjectKey,
) -> Result<String, Failure> {
    let etag = IdKind::Etag.optional(etag.map(unquote));
    let etag = etag.map_err(|message| fault(operation, bucket, Some(key), message))?;
    etag.ok_or_else(|| {
        let message = "the answer contains no ETag, so nothing shows that it worked";
        Failure::new(
            FailureKind::Unreadable,
            operation,
            place(bucket, Some(key)),
            message,
        )
    })
}
