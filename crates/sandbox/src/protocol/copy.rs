//! Server-side copies: reading the source, checking access to it, and choosing the attributes of
//! the copy.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::StatusCode;
use hyper::header::HeaderMap;
use s3s::dto::{
    ChecksumType, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource,
    MetadataDirective, TaggingDirective, UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Request, S3Response, S3Result};

use super::fields::{self, attributes_of, etag, set_checksum, set_encryption, timestamp};
use super::{CopiedBytes, Corrupted, Service, access, stored};
use crate::bucket::Bucket;
use crate::checksum::{Algorithm, Checksum, ChecksumKind};
use crate::condition::{self, ReadConditions, WriteCondition, now};
use crate::multipart::check_part_number;
use crate::object::{Attributes, Encryption, LARGEST_PIECE, Object};
use crate::operation::Operation;
use crate::refusal::Refusal;
use crate::store::Quirks;

/// The object that a copy reads. Later writes do not change it.
struct Source {
    bucket: String,
    key: String,
    /// Set if the request named a version.
    pinned: bool,
    object: Arc<Object>,
    /// The version id as S3 shows it.
    version_id: Option<String>,
}

/// Returns the source conditions of an input.
macro_rules! source_conditions {
    ($input:expr) => {
        ReadConditions {
            if_match: $input.copy_source_if_match.clone(),
            if_none_match: $input.copy_source_if_none_match.clone(),
            if_modified_since: condition::time($input.copy_source_if_modified_since.as_ref()),
            if_unmodified_since: condition::time($input.copy_source_if_unmodified_since.as_ref()),
        }
    };
}

impl Service {
    fn source(
        &self,
        copy_source: &CopySource,
        headers: &HeaderMap,
        conditions: &ReadConditions,
    ) -> Result<Source, Refusal> {
        let CopySource::Bucket {
            bucket,
            key,
            version_id,
        } = copy_source
        else {
            return Err(Refusal::not_implemented(
                "The sandbox has no access points",
                "x-amz-copy-source",
            ));
        };
        // In this header a plus sign is a space, as in a form, but `s3s` does not decode it.
        // Clients must encode plus signs.
        let raw = fields::text(headers, "x-amz-copy-source").unwrap_or_default();
        let key = if raw.contains('+') {
            parse_key(&raw).unwrap_or_else(|| key.to_string())
        } else {
            key.to_string()
        };
        let tenants = fields::text(headers, super::TENANT_SOURCE.as_str());
        let bucket = tenants.as_deref().unwrap_or(bucket);
        let stored = self.store.bucket(bucket)?;
        let foreign = fields::text(headers, "x-amz-source-expected-bucket-owner")
            .is_some_and(|owner| owner != stored.owner);
        // One header covers both source and destination.
        let unpaid = stored.requester_pays && !headers.contains_key("x-amz-request-payer");
        if foreign || unpaid {
            return Err(Refusal::access_denied());
        }
        if self.store.is_denied(bucket, Operation::GetObject, &key) {
            return Err(Refusal::access_denied());
        }
        let (object, shown) = {
            let state = stored.read();
            let object = state.resolve(&key, version_id.as_deref()).map_err(|refusal| {
                if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
                    return Refusal::invalid_request(
                        "The source of a copy request may not specifically refer to a delete marker by version id.",
                    );
                }
                let hidden =
                    refusal.code == "NoSuchKey" && self.store.is_denied(bucket, Operation::ListObjectsV2, &key);
                if hidden { Refusal::access_denied() } else { refusal }
            })?;
            let shown = state.shown_id(object.version_id.as_deref());
            (object, shown)
        };
        if !Quirks::on(&self.store.quirks().ignore_source_conditions) {
            conditions.check_source(&object)?;
        }
        access::check_key(
            &object.attributes.encryption,
            access::customer_key(headers, access::SOURCE_KEY)?.as_deref(),
        )?;
        if object.attributes.is_archived() {
            return Err(Refusal::invalid_object_state(object.attributes.class()));
        }
        Ok(Source {
            bucket: bucket.to_string(),
            key,
            pinned: version_id.is_some(),
            object,
            version_id: shown,
        })
    }

    /// Returns the object with one wrong byte, and with everything that is computed from the bytes
    /// changed to match. The fault `Corrupt` uses it.
    fn corrupted(&self, object: &Object) -> Arc<Object> {
        let content = object.content.corrupted();
        Arc::new(Object {
            etag: self.store.etag(&content, &object.attributes.encryption),
            checksum: object
                .checksum
                .as_ref()
                .map(|sum| Checksum::full(sum.algorithm, &content)),
            content,
            ..Object::clone(object)
        })
    }

    /// Checks that the caller may read the tags that the copy inherits.
    fn check_tagging(&self, source: &Source) -> Result<(), Refusal> {
        let right = Operation::GetObjectTagging;
        let is_tagged = !source.object.attributes.tags.is_empty();
        if is_tagged && self.store.is_denied(&source.bucket, right, &source.key) {
            return Err(Refusal::access_denied());
        }
        Ok(())
    }

    /// Checks that the caller may read the annotations of the source and write them to the copy.
    fn check_annotations(&self, source: &Source, bucket: &str, key: &str) -> Result<(), Refusal> {
        let reads = Operation::GetObjectAnnotation;
        let writes = Operation::PutObjectAnnotation;
        if self.store.is_denied(&source.bucket, reads, &source.key)
            || self.store.is_denied(bucket, writes, key)
        {
            return Err(Refusal::access_denied());
        }
        Ok(())
    }

    pub(super) async fn copy(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let ignored = Quirks::on(&self.store.quirks().copies_overwrite);
        let condition = WriteCondition::unless(ignored, &request.headers)?;
        let mut source = self.source(
            &input.copy_source,
            &request.headers,
            &source_conditions!(input),
        )?;
        if request.extensions.get::<Corrupted>().is_some() {
            source.object = self.corrupted(&source.object);
        }
        let requested: Attributes = attributes_of!(input, &request.headers, &bucket, &self.store);
        let replaces_metadata = input
            .metadata_directive
            .as_ref()
            .is_some_and(|d| d.as_str() == MetadataDirective::REPLACE);
        let replaces_tags = input
            .tagging_directive
            .as_ref()
            .is_some_and(|d| d.as_str() == TaggingDirective::REPLACE);
        check_change(&input, &source, replaces_metadata || replaces_tags)?;
        if source.object.content.len() > LARGEST_PIECE {
            return Err(Refusal::source_too_large().into());
        }
        if !replaces_tags {
            self.check_tagging(&source)?;
        }
        let annotated = fields::text(&request.headers, "x-amz-object-annotation-directive")
            .as_deref()
            != Some("EXCLUDE")
            && !source.object.attributes.annotations.is_empty();
        if annotated {
            self.check_annotations(&source, &input.bucket, &input.key)?;
        }
        let algorithm = requested_algorithm(&input)?;
        self.transfer(source.object.content.len()).await;

        let mut attributes = copied_attributes(
            &source.object.attributes,
            requested,
            replaces_metadata,
            replaces_tags,
        );
        if Quirks::on(&self.store.quirks().copies_drop_tags) {
            attributes.tags.clear();
        }
        if bucket.directory && !attributes.tags.is_empty() {
            let message = "A directory bucket takes no tags from the source of a copy";
            return Err(Refusal::not_implemented(message, "x-amz-tagging-directive").into());
        }
        access::check_write(&self.store, &bucket, &input.key, &attributes, false, false)?;
        if annotated {
            attributes
                .annotations
                .clone_from(&source.object.attributes.annotations);
        }
        let checksum = self.copied_checksum(&source.object, algorithm);
        let object = Object {
            etag: self.copied_etag(&bucket, &source.object, &attributes.encryption),
            checksum: checksum.clone(),
            content: source.object.content.clone(),
            attributes: Arc::new(attributes),
            parts: None,
            last_modified: now(),
            sequence: self.store.next_sequence(),
            version_id: None,
        };
        let (tag, modified, attributes) = (
            object.etag.clone(),
            object.last_modified,
            Arc::clone(&object.attributes),
        );
        let copied = object.content.len();
        let version_id = bucket.put(&self.store, &input.key, object, &condition)?;

        let mut output = CopyObjectOutput {
            copy_object_result: Some(result_of(&tag, modified, checksum)),
            copy_source_version_id: source.version_id,
            version_id,
            ..CopyObjectOutput::default()
        };
        set_encryption!(output, &attributes.encryption);
        let mut response = S3Response::new(output);
        response.extensions.insert(CopiedBytes(copied));
        Ok(response)
    }

    /// Returns the `ETag` of the copy, the MD5 of the bytes. A source that was written in one piece
    /// already has it.
    fn copied_etag(&self, bucket: &Bucket, source: &Object, encryption: &Encryption) -> String {
        let known = !bucket.directory
            && source.parts.is_none()
            && !self.store.hides_content(&source.attributes.encryption);
        if known && !self.store.hides_content(encryption) {
            return source.etag.clone();
        }
        bucket.etag(&self.store, &source.content, encryption)
    }

    /// Returns the checksum of the copy. It has the requested algorithm, or that of the source, and
    /// always covers the full object.
    fn copied_checksum(&self, source: &Object, requested: Option<Algorithm>) -> Option<Checksum> {
        if !fields::checksums_on(&self.store) {
            return None;
        }
        let algorithm = requested
            .or(source.checksum.as_ref().map(|checksum| checksum.algorithm))
            .unwrap_or(Algorithm::Crc64Nvme);
        let known = source
            .checksum
            .as_ref()
            .filter(|known| known.algorithm == algorithm && known.kind == ChecksumKind::FullObject);
        Some(
            known
                .cloned()
                .unwrap_or_else(|| Checksum::full(algorithm, &source.content)),
        )
    }

    pub(super) async fn copy_part(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        check_part_number(input.part_number)?;
        let (declared, attributes) = bucket.upload_settings(&input.key, &input.upload_id)?;
        access::check_own_key(&attributes.encryption, &request.headers)?;
        let source = self.source(
            &input.copy_source,
            &request.headers,
            &source_conditions!(input),
        )?;
        let content = match &input.copy_source_range {
            None => source.object.content.clone(),
            Some(text) => source
                .object
                .content
                .slice(copy_range(text, source.object.content.len())?),
        };
        if content.len() > LARGEST_PIECE {
            return Err(Refusal::source_too_large().into());
        }
        let copied = content.len();
        self.transfer(copied).await;
        let payload = stored(content.into(), &request.extensions);
        let part = bucket.make_part(&self.store, payload, declared, &attributes);
        let mut result = CopyPartResult {
            e_tag: etag(&part.etag),
            last_modified: timestamp(part.last_modified),
            ..CopyPartResult::default()
        };
        if let (Some((algorithm, _)), Some(value)) = (declared, &part.checksum) {
            set_checksum!(result, algorithm, value.clone());
        }
        bucket.put_part(&input.key, &input.upload_id, input.part_number, part)?;

        let mut output = UploadPartCopyOutput {
            copy_part_result: Some(result),
            copy_source_version_id: source.version_id,
            ..UploadPartCopyOutput::default()
        };
        set_encryption!(output, &attributes.encryption);
        let mut response = S3Response::new(output);
        response.extensions.insert(CopiedBytes(copied));
        Ok(response)
    }
}

/// Refuses to copy an object onto itself without a change.
fn check_change(input: &CopyObjectInput, source: &Source, replaces: bool) -> Result<(), Refusal> {
    let changes = replaces
        || input.storage_class.is_some()
        || input.server_side_encryption.is_some()
        || input.website_redirect_location.is_some()
        || input.checksum_algorithm.is_some();
    if source.bucket == input.bucket && source.key == input.key && !source.pinned && !changes {
        return Err(Refusal::invalid_request(
            "This copy request is illegal because it is trying to copy an object to itself without changing the \
             object's metadata, storage class, website redirect location or encryption attributes.",
        ));
    }
    Ok(())
}

/// Builds the result document of a copy.
fn result_of(tag: &str, modified: SystemTime, checksum: Option<Checksum>) -> CopyObjectResult {
    let mut result = CopyObjectResult {
        e_tag: etag(tag),
        last_modified: timestamp(modified),
        ..CopyObjectResult::default()
    };
    if let Some(checksum) = checksum {
        result.checksum_type = Some(ChecksumType::from_static(checksum.kind.name()));
        set_checksum!(result, checksum.algorithm, checksum.value);
    }
    result
}

/// Returns the attributes of a copy. Metadata and tags depend on the directives; everything else
/// comes from the request. A copy does not inherit the storage class, encryption, redirect, or lock
/// of its source.
fn copied_attributes(
    source: &Attributes,
    requested: Attributes,
    replaces_metadata: bool,
    replaces_tags: bool,
) -> Attributes {
    let mut attributes = requested;
    if !replaces_metadata {
        attributes.content_type.clone_from(&source.content_type);
        attributes.cache_control.clone_from(&source.cache_control);
        attributes
            .content_disposition
            .clone_from(&source.content_disposition);
        attributes
            .content_encoding
            .clone_from(&source.content_encoding);
        attributes
            .content_language
            .clone_from(&source.content_language);
        attributes.expires.clone_from(&source.expires);
        attributes.metadata.clone_from(&source.metadata);
    }
    if !replaces_tags {
        attributes.tags.clone_from(&source.tags);
    }
    attributes
}

/// Returns the checksum algorithm that a copy requests.
fn requested_algorithm(input: &CopyObjectInput) -> Result<Option<Algorithm>, Refusal> {
    let Some(name) = &input.checksum_algorithm else {
        return Ok(None);
    };
    match Algorithm::from_name(name.as_str()) {
        Some(algorithm) => Ok(Some(algorithm)),
        None => Err(Refusal::invalid_request(
            "Checksum algorithm provided is unsupported.",
        )),
    }
}

/// Returns the key in a raw `x-amz-copy-source`, with plus signs decoded to spaces.
fn parse_key(raw: &str) -> Option<String> {
    let path = raw.split_once("?versionId=").map_or(raw, |(path, _)| path);
    let decoded = percent_encoding::percent_decode_str(&path.replace('+', " "))
        .decode_utf8()
        .ok()?
        .into_owned();
    let decoded = decoded.strip_prefix('/').unwrap_or(&decoded);
    decoded.split_once('/').map(|(_, key)| key.to_owned())
}

/// Parses `x-amz-copy-source-range`. Both ends must be given and must lie inside the source; S3
/// never shortens the range.
fn copy_range(text: &str, size: u64) -> Result<Range<u64>, Refusal> {
    let invalid =
        |message: String| Refusal::invalid_argument("x-amz-copy-source-range", text, message);
    let bounds = text
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'));
    let number = |digits: &str| {
        digits
            .bytes()
            .all(|digit| digit.is_ascii_digit())
            .then(|| digits.parse().ok())
            .flatten()
    };
    let parsed = bounds.and_then(|(first, last)| Some((number(first)?, number(last)?)));
    let Some((first, last)) = parsed.filter(|(first, last): &(u64, u64)| first <= last) else {
        return Err(invalid(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the \
             zero-based offsets of the first and last bytes to copy"
                .to_owned(),
        ));
    };
    if first >= size {
        return Err(Refusal::invalid_request(
            "The specified copy range is invalid for the source object size: the range starts after its end",
        ));
    }
    if last >= size {
        return Err(invalid(format!(
            "Range specified is not valid for source object of size: {size}"
        )));
    }
    Ok(first..last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_never_cut() {
        assert_eq!(copy_range("bytes=0-9", 10).unwrap(), 0..10);
        assert_eq!(copy_range("bytes=9-9", 10).unwrap(), 9..10);
        for (text, code) in [
            ("bytes=0-10", "InvalidArgument"),
            ("bytes=10-11", "InvalidRequest"),
            ("bytes=5-4", "InvalidArgument"),
            ("bytes=5-", "InvalidArgument"),
            ("bytes=-5", "InvalidArgument"),
            ("bytes=0-1,3-4", "InvalidArgument"),
            ("0-5", "InvalidArgument"),
            ("bytes=+1-5", "InvalidArgument"),
            ("", "InvalidArgument"),
        ] {
            assert_eq!(copy_range(text, 10).unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn a_plus_sign_in_a_source_is_a_space() {
        assert_eq!(
            parse_key("/b/a+b%2Bc?versionId=x+y").as_deref(),
            Some("a b+c")
        );
    }
}
