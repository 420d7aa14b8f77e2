//! Writing and deleting objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use s3s::dto::{
    ChecksumType, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput,
    DeletedObject, Error, PutObjectInput, PutObjectOutput,
};
use s3s::{S3Request, S3Response, S3Result};

use super::fields::{self, attributes_of, etag, set_checksum, set_encryption};
use super::{Service, access, stored};
use crate::checksum::{Algorithm, Checksum, ChecksumKind};
use crate::condition::{WriteCondition, now};
use crate::object::{Attributes, Encryption, LARGEST_PIECE, Object};
use crate::operation::Operation;
use crate::refusal::Refusal;
use crate::store::Quirks;

impl Service {
    pub(super) async fn put(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let ignored = Quirks::on(&self.store.quirks().puts_overwrite);
        let condition = WriteCondition::unless(ignored, &request.headers)?;
        let attributes: Attributes = attributes_of!(input, &request.headers, &bucket, &self.store);
        let payload = fields::read_body(input.body, &request.headers, None, &self.store).await?;
        let len = payload.content.len();
        self.transfer(len).await;
        if len > LARGEST_PIECE {
            return Err(Refusal::too_large(len).into());
        }
        payload.check_md5(input.content_md5.as_deref())?;
        let claimed =
            fields::claimed_checksum(&request.headers, request.trailing_headers.as_ref())?;
        let algorithm = claimed
            .as_ref()
            .map_or(Algorithm::Crc64Nvme, |(algorithm, _)| *algorithm);
        check_claim(claimed.as_ref(), &payload.sum(algorithm))?;
        let payload = stored(payload, &request.extensions);
        let checksum = fields::checksums_on(&self.store).then(|| Checksum {
            algorithm,
            kind: ChecksumKind::FullObject,
            value: payload.sum(algorithm),
            parts: 0,
        });
        let content = payload.content;

        let object = Object {
            etag: bucket.etag(&self.store, &content, &attributes.encryption),
            checksum: checksum.clone(),
            content,
            attributes: Arc::new(attributes),
            parts: None,
            last_modified: now(),
            sequence: self.store.next_sequence(),
            version_id: None,
        };
        let (tag, attributes) = (object.etag.clone(), Arc::clone(&object.attributes));
        let version_id = bucket.put(&self.store, &input.key, object, &condition)?;

        let mut output = PutObjectOutput {
            e_tag: etag(&tag),
            version_id,
            ..PutObjectOutput::default()
        };
        set_encryption!(output, &attributes.encryption);
        if let Some(checksum) = checksum {
            output.checksum_type = Some(ChecksumType::from_static(checksum.kind.name()));
            set_checksum!(output, checksum.algorithm, checksum.value);
        }
        Ok(S3Response::new(output))
    }

    pub(super) fn delete(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let condition = WriteCondition::from_headers(&request.headers)?;
        let deleted = bucket.delete(
            &self.store,
            &input.key,
            input.version_id.as_deref(),
            &condition,
        )?;
        Ok(S3Response::new(DeleteObjectOutput {
            delete_marker: deleted.marker.then_some(true),
            version_id: deleted.version_id,
            request_charged: None,
        }))
    }

    pub(super) fn delete_many(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        if input.delete.objects.is_empty() || input.delete.objects.len() > 1000 {
            return Err(Refusal::malformed_xml().into());
        }
        let quiet = input.delete.quiet == Some(true);
        let (mut done, mut errors) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            let condition = object.e_tag.map_or(WriteCondition::None, |wanted| {
                WriteCondition::Match(wanted.into_value())
            });
            let outcome =
                if self
                    .store
                    .is_denied(&input.bucket, Operation::DeleteObject, &object.key)
                {
                    Err(Refusal::access_denied())
                } else {
                    bucket.delete(
                        &self.store,
                        &object.key,
                        object.version_id.as_deref(),
                        &condition,
                    )
                };
            match outcome {
                Ok(deleted) if !quiet => done.push(DeletedObject {
                    key: Some(object.key),
                    delete_marker: deleted.marker.then_some(true),
                    delete_marker_version_id: deleted.version_id.filter(|_| deleted.marker),
                    version_id: object.version_id,
                }),
                Ok(_) => {}
                Err(refusal) => errors.push(Error {
                    code: Some(refusal.code.into_owned()),
                    message: Some(refusal.message.into_owned()),
                    key: Some(object.key),
                    version_id: object.version_id,
                }),
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(done),
            errors: Some(errors),
            request_charged: None,
        }))
    }
}

/// Refuses a claimed checksum that differs from the computed one.
pub(super) fn check_claim(
    claimed: Option<&(Algorithm, String)>,
    computed: &str,
) -> Result<(), Refusal> {
    match claimed {
        Some((algorithm, value)) if value != computed => Err(Refusal::bad_digest(algorithm.name())),
        _ => Ok(()),
    }
}
