//! The requests of multipart uploads: create an upload, copy or send its parts, complete or abort
//! it, and list parts and open uploads.
//!
//! The lists follow the markers that the server names. A response about another upload or prefix,
//! or one whose marker does not advance, is a failure: it does not show which parts exist.

use aws_sdk_s3::operation::create_multipart_upload::{
    CreateMultipartUpload, CreateMultipartUploadInput,
};
use aws_sdk_s3::operation::upload_part::{UploadPart, UploadPartInput};
use aws_sdk_s3::operation::upload_part_copy::{UploadPartCopy, UploadPartCopyInput};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types as sdk;

use super::{expires, failure, fault, required_etag, written};
use crate::location::{BucketName, ObjectKey, copy_source};
use crate::s3::convert::{
    any_checksums, checksum, completed_part, declared, decode, encryption, if_match, if_none_match,
    is_kms, part_number, quoted, timestamp, unquote,
};
use crate::s3::fast_path::Header;
use crate::s3::headers::{with_attributes, with_customer_key, with_source_key};
use crate::s3::ids::{self, IdKind, other_version, required_size};
use crate::s3::octets;
use crate::s3::page::PageClaims;
use crate::s3::paging::follows_unless_last;
use crate::s3::{
    Attributes, Checksum, ChecksumAlgorithm, Client, CompleteSpec, CreatedUpload, Failure,
    OpenUpload, Operation, Page, PartAnswer, PartDone, PartsPage, SourcePin, UploadMarker, Written,
};

impl Client {
    /// Creates a multipart upload.
    pub async fn create_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        attributes: &Attributes,
    ) -> Result<CreatedUpload, Failure> {
        let request = CreateMultipartUploadInput::builder()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_checksum_algorithm(attributes.checksum.map(|(algorithm, _)| algorithm.into()))
            .set_checksum_type(attributes.checksum.map(|(_, kind)| kind.into()));
        let request = with_customer_key!(request, &self.customer_key);
        let request = with_attributes!(request, attributes);
        self.ensure_signable(Operation::CreateMultipartUpload, bucket, key, attributes)
            .await?;
        let header = expires(attributes);
        let sent = self.uncorrected_time();
        let output = match self.fast_path(bucket) {
            Some(path) if octets::has_non_utf8_values(attributes) => {
                Box::pin(path.send::<CreateMultipartUpload>(
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
        let id = IdKind::Upload
            .required(output.upload_id)
            .map_err(|message| {
                fault(Operation::CreateMultipartUpload, bucket, Some(key), message)
            })?;
        let elsewhere = ids::elsewhere((output.bucket, output.key), (bucket, key));
        Ok(CreatedUpload {
            id,
            kms,
            elsewhere,
            since: self.earliest(sent),
        })
    }

    /// Copies `first..=last` of the source as one part, or the whole source without a range.
    pub async fn copy_part(
        &self,
        source: &SourcePin,
        range: Option<(u64, u64)>,
        bucket: &BucketName,
        key: &ObjectKey,
        upload_id: &str,
        number: u32,
    ) -> Result<PartAnswer, Failure> {
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
        // The client sends no Content-Length without a body, and Ceph answers that with 411.
        let length = ("content-length", "0".to_owned());
        let output = send!(self, bucket, UploadPartCopy, request, Some(length))
            .map_err(|error| failure(Operation::UploadPartCopy, bucket, Some(key), &error))?;
        other_version(source.version.as_deref(), output.copy_source_version_id())
            .map_err(|message| fault(Operation::UploadPartCopy, bucket, Some(key), message))?;
        let result = output.copy_part_result;
        let etag = result.as_ref().and_then(|result| result.e_tag.clone());
        let etag = required_etag(etag, Operation::UploadPartCopy, bucket, key)?;
        let checksum = result.and_then(|result| any_checksum!(result));
        Ok(PartAnswer { etag, checksum })
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
    ) -> Result<PartAnswer, Failure> {
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
        Ok(PartAnswer { etag, checksum })
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
        let checksum = checksum_of!(output);
        let etag = required_etag(
            output.e_tag,
            Operation::CompleteMultipartUpload,
            bucket,
            key,
        )?;
        Ok(Written {
            was_found: false,
            // Some servers date a multipart object by the start of its upload, others by its end.
            since: None,
            encryption,
            checksum: self.believed(checksum, &etag),
            etag,
            version: written(
                output.version_id,
                Operation::CompleteMultipartUpload,
                bucket,
                key,
            )?,
        })
    }

    /// Aborts an upload and frees its parts; parts in flight at that moment may survive it.
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

    /// Returns one page of the parts that an upload has so far, by ascending number.
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
                "the list contains the parts of another upload, `{other}`"
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
                etag: IdKind::Etag.required(part.e_tag.clone().map(unquote))?,
                checksum: any_checksum!(part),
            })
        });
        let items = parts.collect::<Result<Vec<_>, _>>().map_err(faulty)?;
        let last = items.last().map(|part| part.number.to_string());
        // Part 0 is the start of a list.
        let requested = after.map(str::to_owned);
        let marker = IdKind::Token.optional(
            output
                .next_part_number_marker
                .filter(|marker| marker != "0"),
        );
        let next = marker
            .and_then(|marker| {
                follows_unless_last(output.is_truncated, marker, last, requested.as_ref())
            })
            .map_err(faulty)?;
        Ok(PartsPage {
            items,
            next,
            checksum,
        })
    }

    /// Returns one page of the bucket's open uploads, by key and then by age.
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
        let claims = PageClaims::of(output.prefix(), output.common_prefixes());
        let contradiction = claims.contradiction(prefix, output.uploads().len());
        let other_bucket = || self.of_another(bucket, output.bucket());
        if let Some(message) = contradiction.or_else(other_bucket) {
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
                    key: readable(
                        upload
                            .key
                            .ok_or("the list contains an upload without a key")?,
                    ),
                    upload_id: IdKind::Upload.required(upload.upload_id)?,
                    initiated: upload.initiated.and_then(timestamp),
                    storage_class: upload.storage_class.map(|class| class.as_str().to_owned()),
                })
            });
        let items = items.collect::<Result<Vec<_>, String>>().map_err(faulty)?;
        let last = items.last().map(|upload| UploadMarker {
            key: upload.key.clone(),
            upload_id: Some(upload.upload_id.clone()),
        });
        let key = IdKind::Token
            .optional(output.next_key_marker)
            .map_err(faulty)?;
        let upload_id = IdKind::Upload
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
