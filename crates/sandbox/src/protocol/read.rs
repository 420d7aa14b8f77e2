//! Reading objects, their attributes, and their tags.

use std::ops::Range;
use std::sync::Arc;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{StatusCode, header};
use s3s::dto::{
    Checksum as ChecksumFields, ChecksumMode, ChecksumType, DeleteObjectTaggingInput,
    DeleteObjectTaggingOutput, GetObjectAttributesInput, GetObjectAttributesOutput,
    GetObjectAttributesParts, GetObjectInput, GetObjectOutput, GetObjectTaggingInput,
    GetObjectTaggingOutput, HeadObjectInput, HeadObjectOutput, ObjectAttributes, ObjectPart,
    PutObjectTaggingInput, PutObjectTaggingOutput, StreamingBlob, Tag,
};
use s3s::{S3Request, S3Response, S3Result};

use super::fields::{etag, int, long, set_checksum, set_encryption, timestamp};
use super::{Service, SuccessStatus, access, fields};
use crate::checksum::{self, Algorithm, ChecksumKind};
use crate::condition::{self, ReadConditions, Unmet};
use crate::object::{DEFAULT_CONTENT_TYPE, Encryption, Object};
use crate::operation::Operation;
use crate::refusal::Refusal;

/// The object that a read found.
struct Found {
    object: Arc<Object>,
    /// The version id as S3 shows it.
    version_id: Option<String>,
}

/// The bytes that a read requests.
struct Piece {
    range: Range<u64>,
    /// Set if the request names a range or a part.
    partial: bool,
    /// The index of the requested part.
    part: Option<usize>,
}

/// Sets the fields that `GetObject` and `HeadObject` share.
macro_rules! describe {
    ($output:expr, $service:expr, $found:expr, $piece:expr, $input:expr) => {{
        let (found, piece): (&Found, &Piece) = (&$found, &$piece);
        let object = &found.object;
        let attributes = &object.attributes;
        $output.accept_ranges = Some("bytes".to_owned());
        $output.cache_control = attributes.cache_control.clone();
        $output.content_disposition = attributes.content_disposition.clone();
        $output.content_encoding = attributes.content_encoding.clone();
        $output.content_language = attributes.content_language.clone();
        $output.content_type = Some(
            attributes
                .content_type
                .clone()
                .unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned()),
        );
        $output.content_length = long(piece.range.end - piece.range.start);
        $output.content_range = piece.content_range(object);
        $output.e_tag = etag(&object.etag);
        $output.last_modified = timestamp(object.last_modified);
        $output.metadata = Some(
            attributes
                .metadata
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        );
        // S3 shows locks only to callers that may read them.
        let shows = |right| !$service.store.is_denied(&$input.bucket, right, &$input.key);
        if shows(Operation::GetObjectRetention) {
            let retention = attributes.lock.retention.as_ref();
            $output.object_lock_mode = retention.map(|(mode, _)| mode.clone().into());
            $output.object_lock_retain_until_date =
                retention.and_then(|(_, until)| timestamp(*until));
        }
        if shows(Operation::GetObjectLegalHold) {
            $output.object_lock_legal_hold_status = attributes
                .lock
                .legal_hold
                .map(|on| if on { "ON" } else { "OFF" }.to_owned().into());
        }
        $output.parts_count = piece
            .part
            .and(object.parts.as_ref())
            .and_then(|parts| int(parts.len()));
        $output.restore = attributes.restore.clone();
        $output.storage_class = attributes.storage_class.clone().map(Into::into);
        $output.version_id = found.version_id.clone();
        $output.website_redirect_location = attributes.website_redirect.clone();
        set_encryption!($output, &attributes.encryption);
        if $input
            .checksum_mode
            .as_ref()
            .is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
            && let Some((algorithm, kind, value)) = piece.checksum(object)
        {
            set_checksum!($output, algorithm, value);
            $output.checksum_type = Some(ChecksumType::from_static(kind.name()));
        }
    }};
}

impl Piece {
    /// Returns the bytes that `Range` or `partNumber` request.
    fn requested(
        object: &Object,
        range: Option<s3s::dto::Range>,
        part: Option<i32>,
    ) -> Result<Self, Refusal> {
        let size = object.content.len();
        match (range, part) {
            (Some(_), Some(_)) => Err(Refusal::invalid_request(
                "Cannot specify both Range header and partNumber query parameter",
            )),
            (None, None) => Ok(Self {
                range: 0..size,
                partial: false,
                part: None,
            }),
            (Some(range), None) => match range.check(size) {
                Ok(range) => Ok(Self {
                    range,
                    partial: true,
                    part: None,
                }),
                Err(_) => Err(Refusal::new(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "InvalidRange",
                    "The requested range is not satisfiable",
                )
                .with("ActualObjectSize", size)),
            },
            (None, Some(number)) => {
                let sizes: Vec<u64> = match &object.parts {
                    Some(parts) => parts.iter().map(|part| part.size).collect(),
                    None => vec![size],
                };
                let at = usize::try_from(number)
                    .ok()
                    .and_then(|number| number.checked_sub(1));
                let Some(at) = at.filter(|at| *at < sizes.len()) else {
                    return Err(Refusal::new(
                        StatusCode::RANGE_NOT_SATISFIABLE,
                        "InvalidPartNumber",
                        "The requested partnumber is not satisfiable",
                    )
                    .with("PartNumberRequested", number)
                    .with("ActualPartCount", sizes.len()));
                };
                let start: u64 = sizes[..at].iter().sum();
                Ok(Self {
                    range: start..start + sizes[at],
                    partial: true,
                    part: Some(at),
                })
            }
        }
    }

    fn content_range(&self, object: &Object) -> Option<String> {
        (self.partial && !self.range.is_empty()).then(|| {
            format!(
                "bytes {}-{}/{}",
                self.range.start,
                self.range.end - 1,
                object.content.len()
            )
        })
    }

    /// Returns the checksum to show: the checksum of the object for a full read, or of the part for
    /// a part of an object with a composite checksum.
    fn checksum(&self, object: &Object) -> Option<(Algorithm, ChecksumKind, String)> {
        let checksum = object.checksum.as_ref()?;
        let value = match (self.partial, self.part, &object.parts) {
            (false, ..) | (true, Some(_), None) => checksum.shown(),
            (true, Some(at), Some(parts)) => parts[at].checksum.clone()?,
            (true, None, _) => return None,
        };
        Some((checksum.algorithm, checksum.kind, value))
    }
}

impl Service {
    /// Finds the object to read. If the caller may not list the bucket, a missing key is 403 and
    /// not 404.
    fn find(&self, bucket: &str, key: &str, version_id: Option<&str>) -> Result<Found, Refusal> {
        let stored = self.store.bucket(bucket)?;
        let state = stored.read();
        let object = state.resolve(key, version_id).map_err(|refusal| {
            let hidden = refusal.code == "NoSuchKey"
                && self.store.is_denied(bucket, Operation::ListObjectsV2, key);
            if hidden {
                Refusal::access_denied()
            } else {
                refusal
            }
        })?;
        let version_id = state.shown_id(object.version_id.as_deref());
        Ok(Found { object, version_id })
    }

    /// Returns the headers that the types of `s3s` lack or would change.
    fn extra_headers(&self, found: &Found, bucket: &str, key: &str) -> HeaderMap {
        let attributes = &found.object.attributes;
        let mut headers = HeaderMap::new();
        let mut put = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        };
        if let Some(expires) = &attributes.expires {
            put(header::EXPIRES, expires.clone());
        }
        if !attributes.tags.is_empty()
            && !self
                .store
                .is_denied(bucket, Operation::GetObjectTagging, key)
        {
            put(
                HeaderName::from_static("x-amz-tagging-count"),
                attributes.tags.len().to_string(),
            );
        }
        headers
    }

    pub(super) fn get(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = &request.input;
        let found = self.find(&input.bucket, &input.key, input.version_id.as_deref())?;
        access::check_own_key(&found.object.attributes.encryption, &request.headers)?;
        check_read(
            &found.object,
            ReadConditions {
                if_match: input.if_match.clone(),
                if_none_match: input.if_none_match.clone(),
                if_modified_since: condition::time(input.if_modified_since.as_ref()),
                if_unmodified_since: condition::time(input.if_unmodified_since.as_ref()),
            },
        )?;
        if found.object.attributes.is_archived() {
            return Err(Refusal::invalid_object_state(found.object.attributes.class()).into());
        }
        let piece = Piece::requested(&found.object, input.range, input.part_number)?;
        let mut output = GetObjectOutput::default();
        describe!(output, self, found, piece, input);
        if !checksum::is_verifiable(&found.object) {
            output.checksum_sha1 = None;
            output.checksum_sha256 = None;
        }
        let content = found.object.content.slice(piece.range.clone());
        output.body = Some(StreamingBlob::new(content.chunks()));
        let mut response = S3Response::with_headers(
            output,
            self.extra_headers(&found, &input.bucket, &input.key),
        );
        if piece.partial {
            response
                .extensions
                .insert(SuccessStatus(StatusCode::PARTIAL_CONTENT));
        }
        Ok(response)
    }

    pub(super) fn head(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = &request.input;
        let found = self.find(&input.bucket, &input.key, input.version_id.as_deref())?;
        access::check_own_key(&found.object.attributes.encryption, &request.headers)?;
        check_read(
            &found.object,
            ReadConditions {
                if_match: input.if_match.clone(),
                if_none_match: input.if_none_match.clone(),
                if_modified_since: condition::time(input.if_modified_since.as_ref()),
                if_unmodified_since: condition::time(input.if_unmodified_since.as_ref()),
            },
        )?;
        let piece = Piece::requested(&found.object, input.range, input.part_number)?;
        let mut output = HeadObjectOutput::default();
        describe!(output, self, found, piece, input);
        output.archive_status = found
            .object
            .attributes
            .archive_status
            .clone()
            .map(Into::into);
        let mut response = S3Response::with_headers(
            output,
            self.extra_headers(&found, &input.bucket, &input.key),
        );
        if piece.partial {
            response
                .extensions
                .insert(SuccessStatus(StatusCode::PARTIAL_CONTENT));
        }
        Ok(response)
    }

    pub(super) fn attributes(
        &self,
        request: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let input = request.input;
        let found = self.find(&input.bucket, &input.key, input.version_id.as_deref())?;
        let object = &found.object;
        let requested = |name: &str| {
            input
                .object_attributes
                .iter()
                .any(|attribute| attribute.as_str() == name)
        };
        let mut output = GetObjectAttributesOutput {
            last_modified: timestamp(object.last_modified),
            version_id: found.version_id.clone(),
            ..GetObjectAttributesOutput::default()
        };
        if requested(ObjectAttributes::ETAG) {
            output.e_tag = etag(&object.etag);
        }
        if requested(ObjectAttributes::OBJECT_SIZE) {
            output.object_size = long(object.content.len());
        }
        if requested(ObjectAttributes::STORAGE_CLASS) {
            output.storage_class = Some(object.attributes.class().to_owned().into());
        }
        if requested(ObjectAttributes::CHECKSUM)
            && let Some(checksum) = &object.checksum
        {
            let mut fields = ChecksumFields {
                checksum_type: Some(ChecksumType::from_static(checksum.kind.name())),
                ..ChecksumFields::default()
            };
            set_checksum!(fields, checksum.algorithm, checksum.value.clone());
            output.checksum = Some(fields);
        }
        if requested(ObjectAttributes::OBJECT_PARTS) {
            output.object_parts = object_parts(object, input.part_number_marker, input.max_parts);
        }
        Ok(S3Response::new(output))
    }

    pub(super) fn tags(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        let input = request.input;
        let found = self.find(&input.bucket, &input.key, input.version_id.as_deref())?;
        let tag = |(key, value): (&String, &String)| Tag {
            key: Some(key.clone()),
            value: Some(value.clone()),
        };
        Ok(S3Response::new(GetObjectTaggingOutput {
            tag_set: found.object.attributes.tags.iter().map(tag).collect(),
            version_id: found.version_id,
        }))
    }

    pub(super) fn set_tags(
        &self,
        request: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        let input = request.input;
        let pairs = input.tagging.tag_set.into_iter();
        let tags = fields::check_tags(
            pairs.map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default())),
        )?;
        let bucket = self.store.bucket(&input.bucket)?;
        let ((), version_id) =
            bucket.change(&input.key, input.version_id.as_deref(), |object| {
                Arc::make_mut(&mut object.attributes).tags = tags;
                Ok(())
            })?;
        Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
    }

    pub(super) fn clear_tags(
        &self,
        request: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let ((), version_id) =
            bucket.change(&input.key, input.version_id.as_deref(), |object| {
                Arc::make_mut(&mut object.attributes).tags.clear();
                Ok(())
            })?;
        Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
    }
}

fn check_read(object: &Object, conditions: ReadConditions) -> Result<(), Refusal> {
    match conditions.check_read(object) {
        None => Ok(()),
        Some(Unmet::Failed(condition)) => Err(Refusal::precondition_failed(condition)),
        Some(Unmet::NotModified) => {
            Err(
                Refusal::new(StatusCode::NOT_MODIFIED, "NotModified", "Not Modified")
                    .header("etag", format!("\"{}\"", object.etag)),
            )
        }
    }
}

/// Returns the parts as `GetObjectAttributes` shows them: all parts for a composite checksum, only
/// their number for a full-object checksum, and nothing for an object without a checksum or written
/// in one piece.
fn object_parts(
    object: &Object,
    marker: Option<i32>,
    max: Option<i32>,
) -> Option<GetObjectAttributesParts> {
    let (parts, checksum) = (object.parts.as_ref()?, object.checksum.as_ref()?);
    let mut output = GetObjectAttributesParts {
        total_parts_count: int(parts.len()),
        ..GetObjectAttributesParts::default()
    };
    if checksum.kind == ChecksumKind::FullObject {
        return Some(output);
    }
    let marker = marker
        .and_then(|marker| usize::try_from(marker).ok())
        .unwrap_or(0);
    let max = max
        .and_then(|max| usize::try_from(max).ok())
        .unwrap_or(1000)
        .min(1000);
    let shown = (1..).zip(parts.iter()).skip(marker).take(max);
    let list: Vec<_> = shown
        .map(|(number, part)| {
            let mut fields = ObjectPart {
                part_number: int(number),
                size: long(part.size),
                ..ObjectPart::default()
            };
            if let Some(value) = &part.checksum {
                set_checksum!(fields, checksum.algorithm, value.clone());
            }
            fields
        })
        .collect();
    output.is_truncated = Some(marker + list.len() < parts.len());
    output.max_parts = int(max);
    output.part_number_marker = int(marker);
    output.next_part_number_marker = int(marker + list.len());
    output.parts = Some(list);
    Some(output)
}
