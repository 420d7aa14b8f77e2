//! Multipart uploads, except `UploadPartCopy`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm, ChecksumType,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, ListPartsInput, ListPartsOutput, Part, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3Request, S3Response, S3Result};

use super::fields::{
    self, attributes_of, checksums_of, etag, int, long, set_checksum, set_encryption,
    set_server_encryption, timestamp,
};
use super::list::page_size;
use super::write::check_claim;
use super::{Service, access, stored};
use crate::checksum::Algorithm;
use crate::condition::{WriteCondition, now};
use crate::multipart::{CompleteRequest, ListedPart, check_part_number, declare};
use crate::object::{Attributes, Encryption, LARGEST_PIECE};
use crate::refusal::Refusal;
use crate::store::Quirks;

/// The name of the lifecycle rule that aborts incomplete uploads.
const ABORT_RULE: &str = "abort-incomplete-uploads";

impl Service {
    pub(super) fn create(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let declared = declare(
            input
                .checksum_algorithm
                .as_ref()
                .map(ChecksumAlgorithm::as_str),
            input.checksum_type.as_ref().map(ChecksumType::as_str),
        )?;
        let declared = declared.filter(|_| fields::checksums_on(&self.store));
        let mut attributes: Attributes =
            attributes_of!(input, &request.headers, &bucket, &self.store);
        if Quirks::on(&self.store.quirks().copies_drop_tags) {
            attributes.tags.clear();
        }
        let attributes = Arc::new(attributes);
        let upload_id =
            bucket.create_upload(&self.store, &input.key, Arc::clone(&attributes), declared);
        let mut output = CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(upload_id),
            checksum_algorithm: declared
                .map(|(algorithm, _)| ChecksumAlgorithm::from_static(algorithm.name())),
            checksum_type: declared.map(|(_, kind)| ChecksumType::from_static(kind.name())),
            abort_date: bucket.abort_date(now()).and_then(timestamp),
            abort_rule_id: bucket.abort_after_days.map(|_| ABORT_RULE.to_owned()),
            ..CreateMultipartUploadOutput::default()
        };
        set_encryption!(output, &attributes.encryption);
        Ok(S3Response::new(output))
    }

    pub(super) async fn put_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        check_part_number(input.part_number)?;
        let declared = bucket
            .upload_settings(&input.key, &input.upload_id)
            .ok()
            .and_then(|(declared, _)| declared);
        let algorithm = declared.map(|(algorithm, _)| algorithm);
        let payload =
            fields::read_body(input.body, &request.headers, algorithm, &self.store).await?;
        let len = payload.content.len();
        let (declared, attributes) = bucket.upload_settings(&input.key, &input.upload_id)?;
        access::check_own_key(&attributes.encryption, &request.headers)?;
        self.transfer(len).await;
        if len > LARGEST_PIECE {
            return Err(Refusal::too_large(len).into());
        }
        payload.check_md5(input.content_md5.as_deref())?;
        let claimed =
            fields::claimed_checksum(&request.headers, request.trailing_headers.as_ref())?;
        if let (Some((expected, _)), Some((actual, _))) = (declared, &claimed)
            && expected != *actual
        {
            return Err(Refusal::invalid_request(format!(
                "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                expected.name().to_lowercase(),
                actual.name().to_lowercase()
            ))
            .into());
        }
        if let Some((algorithm, _)) = &claimed {
            check_claim(claimed.as_ref(), &payload.sum(*algorithm))?;
        }
        let payload = stored(payload, &request.extensions);
        let part = bucket.make_part(&self.store, payload, declared, &attributes);
        let mut output = UploadPartOutput {
            e_tag: etag(&part.etag),
            ..UploadPartOutput::default()
        };
        set_encryption!(output, &attributes.encryption);
        match (declared, &part.checksum, claimed) {
            (Some((algorithm, _)), Some(value), _) => {
                set_checksum!(output, algorithm, value.clone());
            }
            (None, Some(_), Some((algorithm, value))) => set_checksum!(output, algorithm, value),
            _ => {}
        }
        bucket.put_part(&input.key, &input.upload_id, input.part_number, part)?;
        Ok(S3Response::new(output))
    }

    pub(super) fn complete(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let parts = input
            .multipart_upload
            .as_ref()
            .and_then(|upload| upload.parts.as_deref())
            .unwrap_or_default();
        let requested = CompleteRequest {
            parts: parts
                .iter()
                .map(|part| ListedPart {
                    number: part.part_number.unwrap_or_default(),
                    etag: part
                        .e_tag
                        .as_ref()
                        .map(|tag| tag.value().trim_matches('"').to_owned())
                        .unwrap_or_default(),
                    checksums: checksums_of!(part),
                })
                .collect(),
            checksums: checksums_of!(input),
            kind: input
                .checksum_type
                .as_ref()
                .map(|kind| kind.as_str().to_owned()),
            object_size: input.mpu_object_size,
            condition: WriteCondition::unless(
                Quirks::on(&self.store.quirks().completes_overwrite),
                &request.headers,
            )?,
        };
        // With a declared checksum, Complete needs the customer key to verify it.
        if let Ok((Some(_), attributes)) = bucket.upload_settings(&input.key, &input.upload_id) {
            access::check_own_key(&attributes.encryption, &request.headers)?;
        }
        let completed = bucket.complete(&self.store, &input.key, &input.upload_id, &requested)?;
        let mut output = CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: etag(&completed.etag),
            version_id: completed.version_id,
            ..CompleteMultipartUploadOutput::default()
        };
        let encryption = &completed.attributes.encryption;
        set_server_encryption!(output, encryption);
        // With KMS, S3 leaves the checksum out of the answer, although the object has it.
        if let Some(checksum) = completed.checksum.filter(|_| !encryption.is_kms()) {
            output.checksum_type = Some(ChecksumType::from_static(checksum.kind.name()));
            set_checksum!(output, checksum.algorithm, checksum.shown());
        }
        Ok(S3Response::new(output))
    }

    pub(super) fn abort(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        self.store
            .bucket(&input.bucket)?
            .abort(&self.store, &input.key, &input.upload_id)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    pub(super) fn parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let state = bucket.read();
        let upload = state.upload(&input.key, &input.upload_id)?;
        if upload.declared.is_some() {
            access::check_own_key(&upload.attributes.encryption, &request.headers)?;
        }
        let marker = input.part_number_marker.unwrap_or(0).max(0);
        let max = page_size("max-parts", input.max_parts)?;
        let mut following = upload
            .parts
            .range((Bound::Excluded(marker), Bound::Unbounded));
        let parts: Vec<_> = following
            .by_ref()
            .take(max)
            .map(|(number, part)| {
                let mut fields = Part {
                    part_number: Some(*number),
                    e_tag: etag(&part.etag),
                    size: long(part.content.len()),
                    last_modified: timestamp(part.last_modified),
                    ..Part::default()
                };
                if let (Some((algorithm, _)), Some(value)) = (upload.declared, &part.checksum) {
                    set_checksum!(fields, algorithm, value.clone());
                }
                fields
            })
            .collect();
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            checksum_algorithm: upload
                .declared
                .map(|(algorithm, _)| ChecksumAlgorithm::from_static(algorithm.name())),
            checksum_type: upload
                .declared
                .map(|(_, kind)| ChecksumType::from_static(kind.name())),
            initiator: Some(super::list::initiator(&bucket)),
            owner: Some(super::list::owner(&bucket)),
            // The marker of a page without parts would lead back to the same page.
            is_truncated: Some(max > 0 && following.next().is_some()),
            max_parts: int(max),
            part_number_marker: Some(marker),
            next_part_number_marker: Some(
                parts.last().and_then(|part| part.part_number).unwrap_or(0),
            ),
            parts: Some(parts),
            storage_class: Some(upload.attributes.class().to_owned().into()),
            abort_date: bucket.abort_date(upload.initiated).and_then(timestamp),
            abort_rule_id: bucket.abort_after_days.map(|_| ABORT_RULE.to_owned()),
            ..ListPartsOutput::default()
        }))
    }
}
