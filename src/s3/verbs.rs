//! The requests themselves, one method each: our types in, one attempt, our types or a [`Failure`]
//! out.
//!
//! A `200 OK` is not yet a success: an answer without an `ETag` (an empty body, for instance) is a
//! failure here, so that no caller can take it for a copy.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::copy_object::{CopyObject, CopyObjectInput};
use aws_sdk_s3::operation::create_multipart_upload::{
    CreateMultipartUpload, CreateMultipartUploadInput,
};
use aws_sdk_s3::operation::head_object::{HeadObject, HeadObjectInput};
use aws_sdk_s3::operation::put_object::{PutObject, PutObjectInput};
use aws_sdk_s3::operation::upload_part::{UploadPart, UploadPartInput};
use aws_sdk_s3::operation::upload_part_copy::{UploadPartCopy, UploadPartCopyInput};
use aws_sdk_s3::operation::{RequestId, RequestIdExt};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types as sdk;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::convert::{
    any_checksums, checksum, completed_part, declared, decode, encryption, head, if_match,
    if_none_match, is_kms, part_number, quoted, timestamp, unquote,
};
use super::direct::Header;
use super::headers::{with_attributes, with_customer_key, with_source_key};
use super::ids::{self, Name, other_version, required_size, written_version};
use super::octets;
use super::page::Told;
use super::paging::follows_unless_last;
use super::{
    Attributes, Begun, BucketHead, Capabilities, Checksum, ChecksumAlgorithm, Client, CompleteSpec,
    Failure, FailureKind, Head, OpenUpload, Operation, Page, PartDone, PartsPage, SourcePin, Tags,
    UploadMarker, WriteCondition, Written,
};
use crate::location::{BucketName, ObjectKey, copy_source};

/// The checksum that a request declares for its bytes or for the whole object, in the field of its
/// algorithm.
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

/// The checksum of an object in an answer, whichever field it stands in.
macro_rules! checksum_of {
    ($answer:expr) => {
        checksum(any_checksums!($answer), $answer.checksum_type.as_ref())
    };
}

/// The value of a part's checksum; its algorithm is the upload's.
macro_rules! any_checksum {
    ($answer:expr) => {
        any_checksums!($answer).into_iter().flatten().next()
    };
}

/// How what an answer is about is encrypted.
macro_rules! encryption_of {
    ($answer:expr) => {
        encryption(
            $answer.server_side_encryption.as_ref(),
            $answer.ssekms_key_id.clone(),
            $answer.bucket_key_enabled,
        )
    };
}

/// Sends a request: by the short way to the bucket where it is known, else through the whole of the
/// SDK. The header goes in as it is.
macro_rules! send {
    ($client:expr, $bucket:expr, $operation:ty, $request:expr, $header:expr) => {{
        let (request, header): (_, Header) = ($request, $header);
        match $client.way($bucket) {
            Some(way) => {
                way.send::<$operation>(request.build(), header, $client.signs_bodies)
                    .await
            }
            // In a box: these futures are large, and most requests need none.
            None => Box::pin(request.send_with(&$client.sdk_with(header))).await,
        }
    }};
}

/// `Expires` is sent as it is, because S3 keeps texts there that are no dates.
fn expires(attributes: &Attributes) -> Header {
    attributes
        .headers
        .expires
        .clone()
        .map(|text| ("expires", text))
}

impl Client {
    /// Returns what the server tells about the bucket.
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

    /// Everything that HEAD tells. The checksum is asked for everywhere: a server that has none
    /// ignores the question.
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
        other_version(version, output.version_id())
            .and_then(|()| head(output, self.capabilities().archive_lists))
            .map_err(|message| fault(Operation::HeadObject, bucket, Some(key), message))
    }

    /// Copies an object of at most 5 GiB in one request, with exactly these attributes.
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
            Tags::AsSource => None, // COPY is the default, and look-alikes without tags refuse the header
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
        self.can_sign(Operation::CopyObject, bucket, key, attributes)
            .await?;
        let sent = self.moment();
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
        Ok(Written {
            etag,
            version,
            checksum,
            encryption,
            was_found: false,
            since: self.earliest(sent),
        })
    }

    /// Makes sure that values that are no UTF-8 can be signed, which only the short way can; the
    /// SDK's signature leaves them out.
    async fn can_sign(
        &self,
        operation: Operation,
        bucket: &BucketName,
        key: &ObjectKey,
        attributes: &Attributes,
    ) -> Result<(), Failure> {
        if !octets::are_in(attributes) || self.way(bucket).is_some() {
            return Ok(());
        }
        // The way is learned from a request that is answered well.
        Box::pin(self.head_bucket(bucket)).await?;
        if self.way(bucket).is_some() {
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
        self.can_sign(Operation::PutObject, bucket, key, attributes)
            .await?;
        let sent = self.moment();
        let output = send!(self, bucket, PutObject, request, expires(attributes))
            .map_err(|error| failure(Operation::PutObject, bucket, Some(key), &error))?;
        let encryption = encryption_of!(output);
        Ok(Written {
            was_found: false,
            since: self.earliest(sent),
            encryption,
            checksum: checksum_of!(output),
            etag: required_etag(output.e_tag, Operation::PutObject, bucket, key)?,
            version: written(output.version_id, Operation::PutObject, bucket, key)?,
        })
    }

    /// Begins a multipart upload.
    pub async fn create_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        attributes: &Attributes,
    ) -> Result<Begun, Failure> {
        let request = CreateMultipartUploadInput::builder()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_checksum_algorithm(attributes.checksum.map(|(algorithm, _)| algorithm.into()))
            .set_checksum_type(attributes.checksum.map(|(_, kind)| kind.into()));
        let request = with_customer_key!(request, &self.customer_key);
        let request = with_attributes!(request, attributes);
        self.can_sign(Operation::CreateMultipartUpload, bucket, key, attributes)
            .await?;
        let header = expires(attributes);
        let sent = self.moment();
        let output = match self.way(bucket) {
            Some(way) if octets::are_in(attributes) => {
                Box::pin(way.send::<CreateMultipartUpload>(
                    request.build(),
                    header,
                    self.signs_bodies,
                ))
                .await
            }
            _ => Box::pin(request.send_with(&self.sdk_with(header))).await,
        };
        let output = output.map_err(|error| {
            failure(Operation::CreateMultipartUpload, bucket, Some(key), &error)
        })?;
        let kms = output.sse_customer_algorithm.is_some()
            || is_kms(output.server_side_encryption.as_ref());
        let id = Name::Upload.required(output.upload_id).map_err(|message| {
            fault(Operation::CreateMultipartUpload, bucket, Some(key), message)
        })?;
        let elsewhere = ids::elsewhere((output.bucket, output.key), (bucket, key));
        Ok(Begun {
            id,
            kms,
            elsewhere,
            since: self.earliest(sent),
        })
    }

    /// Copies `first..=last` of the source as one part; the whole source when no range is given.
    pub async fn copy_part(
        &self,
        source: &SourcePin,
        range: Option<(u64, u64)>,
        bucket: &BucketName,
        key: &ObjectKey,
        upload_id: &str,
        number: u32,
    ) -> Result<(String, Option<String>), Failure> {
        let request = UploadPartCopyInput::builder()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .upload_id(upload_id)
            .part_number(part_number(number))
            .copy_source(copy_source(
                &source.bucket,
                &source.key,
                source.version.as_deref(),
            ))
            .copy_source_if_match(quoted(&source.etag))
            .set_copy_source_range(range.map(|(first, last)| format!("bytes={first}-{last}")));
        let request = with_source_key!(request, &source.customer_key);
        let request = with_customer_key!(request, &self.customer_key);
        // Without a body the client names no length, for which Ceph answers 411.
        let length = ("content-length", "0".to_owned());
        let output = send!(self, bucket, UploadPartCopy, request, Some(length))
            .map_err(|error| failure(Operation::UploadPartCopy, bucket, Some(key), &error))?;
        other_version(source.version.as_deref(), output.copy_source_version_id())
            .map_err(|message| fault(Operation::UploadPartCopy, bucket, Some(key), message))?;
        let result = output.copy_part_result;
        let etag = result.as_ref().and_then(|result| result.e_tag.clone());
        let etag = required_etag(etag, Operation::UploadPartCopy, bucket, key)?;
        let checksum = result.and_then(|result| any_checksum!(result));
        Ok((etag, checksum))
    }

    /// Sends one part from memory. With a checksum, S3 refuses bytes that do not match it.
    pub async fn upload_part(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload_id: &str,
        number: u32,
        body: bytes::Bytes,
        checksum: Option<&Checksum>,
    ) -> Result<(String, Option<String>), Failure> {
        let mut request = UploadPartInput::builder()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .upload_id(upload_id)
            .part_number(part_number(number))
            .body(ByteStream::from(body));
        request = with_checksum!(request, checksum);
        let request = with_customer_key!(request, &self.customer_key);
        let output = send!(self, bucket, UploadPart, request, None)
            .map_err(|error| failure(Operation::UploadPart, bucket, Some(key), &error))?;
        let etag = required_etag(output.e_tag, Operation::UploadPart, bucket, key)?;
        let checksum = any_checksum!(output);
        Ok((etag, checksum))
    }

    /// Publishes the object made of `parts`, which must ascend by number.
    pub async fn complete_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload_id: &str,
        parts: &[PartDone],
        spec: &CompleteSpec,
    ) -> Result<Written, Failure> {
        let algorithm = spec.checksum.map(|(algorithm, _)| algorithm);
        let parts = parts
            .iter()
            .map(|part| completed_part(part, algorithm))
            .collect();
        let mut request = self
            .sdk
            .complete_multipart_upload()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .upload_id(upload_id)
            .set_mpu_object_size(
                self.capabilities()
                    .object_size
                    .then(|| i64::try_from(spec.size).unwrap_or(i64::MAX)),
            )
            .set_if_none_match(if_none_match(&spec.condition))
            .set_if_match(if_match(&spec.condition))
            .set_checksum_type(spec.checksum.map(|(_, kind)| kind.into()))
            .multipart_upload(
                sdk::CompletedMultipartUpload::builder()
                    .set_parts(Some(parts))
                    .build(),
            );
        request = with_checksum!(request, &spec.full_checksum);
        let output = with_customer_key!(request, &self.customer_key)
            .send()
            .await
            .map_err(|error| {
                failure(
                    Operation::CompleteMultipartUpload,
                    bucket,
                    Some(key),
                    &error,
                )
            })?;
        let encryption = encryption_of!(output);
        Ok(Written {
            was_found: false,
            // Servers date objects of parts by the beginning of their uploads, or by their end.
            since: None,
            encryption,
            checksum: checksum_of!(output),
            etag: required_etag(
                output.e_tag,
                Operation::CompleteMultipartUpload,
                bucket,
                key,
            )?,
            version: written(
                output.version_id,
                Operation::CompleteMultipartUpload,
                bucket,
                key,
            )?,
        })
    }

    /// Ends an upload and frees its parts; parts in flight at that moment may survive it.
    pub async fn abort_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload_id: &str,
    ) -> Result<(), Failure> {
        let request = self
            .sdk
            .abort_multipart_upload()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .upload_id(upload_id);
        let answer = request.send().await;
        answer
            .map_err(|error| failure(Operation::AbortMultipartUpload, bucket, Some(key), &error))?;
        Ok(())
    }

    /// One page of the parts that an upload has so far, by ascending number.
    pub async fn list_parts(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload_id: &str,
        after: Option<&str>,
    ) -> Result<PartsPage, Failure> {
        let request = self
            .sdk
            .list_parts()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .upload_id(upload_id)
            .set_part_number_marker(after.map(str::to_owned));
        let output = with_customer_key!(request, &self.customer_key)
            .send()
            .await
            .map_err(|error| failure(Operation::ListParts, bucket, Some(key), &error))?;
        let faulty = |message| fault(Operation::ListParts, bucket, Some(key), message);
        if let Some(other) = output
            .upload_id()
            .filter(|id| !id.is_empty() && *id != upload_id)
        {
            return Err(faulty(format!(
                "the list is one of the parts of another upload, `{other}`"
            )));
        }
        let checksum = declared(
            output.checksum_algorithm.as_ref(),
            output.checksum_type.as_ref(),
        );
        let parts = output.parts.unwrap_or_default().into_iter().map(|part| {
            Ok(PartDone {
                number: ids::part_number(part.part_number)?,
                size: required_size(part.size, "Size of a part")?,
                etag: Name::Etag.required(part.e_tag.clone().map(unquote))?,
                checksum: any_checksum!(part),
            })
        });
        let items = parts.collect::<Result<Vec<_>, _>>().map_err(faulty)?;
        let last = items.last().map(|part| part.number.to_string());
        // Part 0 is where a list begins.
        let asked = after.map(str::to_owned);
        let marker = Name::Token.optional(
            output
                .next_part_number_marker
                .filter(|marker| marker != "0"),
        );
        let next = marker
            .and_then(|marker| {
                follows_unless_last(output.is_truncated, marker, last, asked.as_ref())
            })
            .map_err(faulty)?;
        Ok(PartsPage {
            items,
            next,
            checksum,
        })
    }

    /// One page of the bucket's open uploads, by key and then by age.
    pub async fn list_uploads(
        &self,
        bucket: &BucketName,
        prefix: &str,
        after: Option<&UploadMarker>,
    ) -> Result<Page<OpenUpload, UploadMarker>, Failure> {
        let encode = self.capabilities().encoded_uploads;
        let output = self
            .sdk
            .list_multipart_uploads()
            .bucket(bucket.as_str())
            .set_prefix((!prefix.is_empty()).then(|| prefix.to_owned()))
            .set_key_marker(after.map(|marker| marker.key.clone()))
            .set_upload_id_marker(after.and_then(|marker| marker.upload_id.clone()))
            .set_encoding_type(encode.then_some(sdk::EncodingType::Url))
            .send()
            .await
            .map_err(|error| failure(Operation::ListMultipartUploads, bucket, None, &error))?;
        let faulty = |message| fault(Operation::ListMultipartUploads, bucket, None, message);
        let told = Told::of(output.prefix(), output.common_prefixes());
        if let Some(message) = told.contradiction(prefix, output.uploads().len()) {
            return Err(faulty(message));
        }
        let encoded = output.encoding_type == Some(sdk::EncodingType::Url);
        let readable = |key: String| decode(key, encoded).unwrap_or_else(|raw| raw);
        let items = output
            .uploads
            .unwrap_or_default()
            .into_iter()
            .map(|upload| {
                Ok(OpenUpload {
                    key: readable(upload.key.ok_or("the list holds an upload without a key")?),
                    upload_id: Name::Upload.required(upload.upload_id)?,
                    initiated: upload.initiated.and_then(timestamp),
                    storage_class: upload.storage_class.map(|class| class.as_str().to_owned()),
                })
            });
        let items = items.collect::<Result<Vec<_>, String>>().map_err(faulty)?;
        let last = items.last().map(|upload| UploadMarker {
            key: upload.key.clone(),
            upload_id: Some(upload.upload_id.clone()),
        });
        let key = Name::Token
            .optional(output.next_key_marker)
            .map_err(faulty)?;
        let upload_id = Name::Upload
            .optional(output.next_upload_id_marker)
            .map_err(faulty)?;
        let marker = key.map(|key| UploadMarker {
            key: readable(key),
            upload_id,
        });
        let next = follows_unless_last(output.is_truncated, marker, last, after).map_err(faulty)?;
        Ok(Page { items, next })
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

/// A 200 that says in full that it says nothing.
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

/// An answer that contradicts the protocol.
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

/// Returns the version that a write made.
fn written(
    version: Option<String>,
    operation: Operation,
    bucket: &BucketName,
    key: &ObjectKey,
) -> Result<Option<String>, Failure> {
    written_version(version).map_err(|message| fault(operation, bucket, Some(key), message))
}

/// Returns the `ETag` that shows that a write took effect. A 200 without one may be an answer of
/// something in between, and is worth another try.
fn required_etag(
    etag: Option<String>,
    operation: Operation,
    bucket: &BucketName,
    key: &ObjectKey,
) -> Result<String, Failure> {
    let etag = Name::Etag.optional(etag.map(unquote));
    let etag = etag.map_err(|message| fault(operation, bucket, Some(key), message))?;
    etag.ok_or_else(|| {
        let message = "the answer holds no ETag, so nothing shows that it worked";
        Failure::new(
            FailureKind::Unreadable,
            operation,
            place(bucket, Some(key)),
            message,
        )
    })
}
