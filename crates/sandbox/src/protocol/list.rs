//! Listings.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use s3s::dto::{
    ChecksumAlgorithm, ChecksumType, CommonPrefix, DeleteMarkerEntry, EncodingType, Initiator,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListObjectVersionsInput,
    ListObjectVersionsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, MultipartUpload, Object as ObjectFields, ObjectVersion,
    OptionalObjectAttributes, Owner, RestoreStatus,
};
use s3s::{S3Request, S3Response, S3Result};

use super::fields::{etag, int, long, timestamp};
use super::{Interleaved, Lines, Service};
use crate::bucket::Bucket;
use crate::listing::{self, ListingQuery, PAGE, Page};
use crate::object::{Object, Version, restore_expiry};
use crate::refusal::Refusal;

/// Writes names as the request specifies: encoded if it names an encoding, otherwise unchanged. As
/// with S3, XML parsers refuse a document with unencoded control characters.
#[derive(Clone, Copy)]
struct Names {
    encoded: bool,
}

impl Names {
    fn of(encoding: Option<&EncodingType>) -> Result<Self, Refusal> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self { encoded: false }),
            Some(EncodingType::URL) => Ok(Self { encoded: true }),
            Some(other) => Err(Refusal::invalid_argument(
                "encoding-type",
                other,
                "Invalid Encoding Method specified in Request",
            )),
        }
    }

    fn write(self, name: &str) -> String {
        if self.encoded {
            listing::encode(name)
        } else {
            name.to_owned()
        }
    }

    fn option(self, name: Option<&str>) -> Option<String> {
        name.map(|name| self.write(name))
    }

    fn prefixes(self, prefixes: &[String]) -> Vec<CommonPrefix> {
        prefixes
            .iter()
            .map(|prefix| CommonPrefix {
                prefix: Some(self.write(prefix)),
            })
            .collect()
    }
}

/// Returns the page size, which is at most 1,000.
pub(super) fn page_size(name: &'static str, requested: Option<i32>) -> Result<usize, Refusal> {
    match requested.map(usize::try_from) {
        None => Ok(PAGE),
        Some(Ok(max)) => Ok(max.min(PAGE)),
        Some(Err(_)) => Err(Refusal::invalid_argument(
            name,
            requested.unwrap_or_default(),
            "Argument must be an integer between 0 and 2147483647",
        )),
    }
}

pub(super) fn owner(bucket: &Bucket) -> Owner {
    Owner {
        id: Some(bucket.owner.clone()),
        display_name: None,
    }
}

pub(super) fn initiator(bucket: &Bucket) -> Initiator {
    Initiator {
        id: Some(bucket.owner.clone()),
        display_name: None,
    }
}

/// Returns the `RestoreStatus` of an archived object if the request asks for it.
fn restore_status(
    object: &Object,
    requested: Option<&[OptionalObjectAttributes]>,
) -> Option<RestoreStatus> {
    let wanted = requested?
        .iter()
        .any(|name| name.as_str() == OptionalObjectAttributes::RESTORE_STATUS);
    let restore = object.attributes.restore.as_ref().filter(|_| wanted)?;
    Some(RestoreStatus {
        is_restore_in_progress: Some(restore.contains("ongoing-request=\"true\"")),
        restore_expiry_date: restore_expiry(restore).and_then(timestamp),
    })
}

/// Writes the entries of a page of `ListObjectsV2`. `s3s` would allocate a dozen strings per
/// object, and the sandbox must not be the bottleneck in a benchmark of a client.
fn lines(
    names: Names,
    page: &Page<Arc<Object>>,
    owner: Option<&str>,
    requested: Option<&[OptionalObjectAttributes]>,
) -> String {
    let mut text = String::with_capacity(page.entries.len() * 400);
    for (key, object) in &page.entries {
        text.push_str("<Contents>");
        let mut field = |name: &str, value: fmt::Arguments<'_>| {
            // Writing to a string never fails.
            let _ = write!(text, "<{name}>{value}</{name}>");
        };
        field("Key", format_args!("{}", escaped(&names.write(key))));
        if let Ok(time) = jiff::Timestamp::try_from(object.last_modified) {
            field("LastModified", format_args!("{time:.3}"));
        }
        field("ETag", format_args!("&quot;{}&quot;", object.etag));
        if let Some(sum) = &object.checksum {
            field(
                "ChecksumAlgorithm",
                format_args!("{}", sum.algorithm.name()),
            );
            field("ChecksumType", format_args!("{}", sum.kind.name()));
        }
        field("Size", format_args!("{}", object.content.len()));
        field(
            "StorageClass",
            format_args!("{}", object.attributes.class()),
        );
        if let Some(owner) = owner {
            field("Owner", format_args!("<ID>{owner}</ID>"));
        }
        if let Some(status) = restore_status(object, requested) {
            let ongoing = status.is_restore_in_progress.unwrap_or_default();
            let expiry = object
                .attributes
                .restore
                .as_deref()
                .and_then(restore_expiry);
            let expiry = expiry.and_then(|time| jiff::Timestamp::try_from(time).ok());
            let expiry =
                expiry.map(|time| format!("<RestoreExpiryDate>{time:.3}</RestoreExpiryDate>"));
            let ongoing = format_args!("<IsRestoreInProgress>{ongoing}</IsRestoreInProgress>");
            field(
                "RestoreStatus",
                format_args!("{ongoing}{}", expiry.unwrap_or_default()),
            );
        }
        text.push_str("</Contents>");
    }
    text
}

fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return text.into();
    }
    let escaped = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    escaped
        .replace('"', "&quot;")
        .replace('\'', "&apos;")
        .into()
}

/// Returns an entry of `ListObjects`.
fn entry(
    names: Names,
    key: &str,
    object: &Object,
    owner: Option<Owner>,
    requested: Option<&[OptionalObjectAttributes]>,
) -> ObjectFields {
    let checksum = object.checksum.as_ref();
    ObjectFields {
        key: Some(names.write(key)),
        size: long(object.content.len()),
        e_tag: etag(&object.etag),
        last_modified: timestamp(object.last_modified),
        storage_class: Some(object.attributes.class().to_owned().into()),
        checksum_algorithm: checksum
            .map(|sum| vec![ChecksumAlgorithm::from_static(sum.algorithm.name())]),
        checksum_type: checksum.map(|sum| ChecksumType::from_static(sum.kind.name())),
        owner,
        restore_status: restore_status(object, requested),
    }
}

impl Service {
    fn page(
        &self,
        bucket: &str,
        query: &ListingQuery<'_>,
    ) -> Result<(Arc<Bucket>, Page<Arc<Object>>), Refusal> {
        let bucket = self.store.bucket(bucket)?;
        let list = if bucket.directory {
            listing::unordered
        } else {
            listing::objects
        };
        let page = list(&bucket.read().objects, query);
        Ok((bucket, page))
    }

    pub(super) fn list_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let names = Names::of(input.encoding_type.as_ref())?;
        let resumed = match &input.continuation_token {
            None => None,
            Some(token) => Some(read_token(token).ok_or_else(|| {
                Refusal::invalid_argument(
                    "continuation-token",
                    token,
                    "The continuation token provided is incorrect",
                )
            })?),
        };
        let max = page_size("max-keys", input.max_keys)?;
        let (bucket, page) = self.page(
            &input.bucket,
            &ListingQuery {
                prefix: input.prefix.as_deref().unwrap_or_default(),
                delimiter: input.delimiter.as_deref(),
                after: resumed
                    .as_deref()
                    .or(input.start_after.as_deref())
                    .filter(|after| !after.is_empty()),
                max,
            },
        )?;
        let requested = input.optional_object_attributes.as_deref();
        let owner = input
            .fetch_owner
            .filter(|fetch| *fetch)
            .map(|_| &*bucket.owner);
        let lines = lines(names, &page, owner, requested);
        let mut response = S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket.clone()),
            prefix: Some(names.write(input.prefix.as_deref().unwrap_or_default())),
            delimiter: names.option(input.delimiter.as_deref()),
            start_after: names.option(input.start_after.as_deref()),
            encoding_type: input.encoding_type.clone(),
            max_keys: int(max),
            key_count: int(page.entries.len() + page.common_prefixes.len()),
            is_truncated: Some(page.truncated),
            continuation_token: input.continuation_token.clone(),
            next_continuation_token: page.last().filter(|_| page.truncated).map(write_token),
            contents: None,
            common_prefixes: Some(names.prefixes(&page.common_prefixes)),
            request_charged: None,
        });
        response.extensions.insert(Lines(lines));
        Ok(response)
    }

    pub(super) fn list_v1(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = request.input;
        let names = Names::of(input.encoding_type.as_ref())?;
        let max = page_size("max-keys", input.max_keys)?;
        let (bucket, page) = self.page(
            &input.bucket,
            &ListingQuery {
                prefix: input.prefix.as_deref().unwrap_or_default(),
                delimiter: input.delimiter.as_deref(),
                after: input.marker.as_deref().filter(|marker| !marker.is_empty()),
                max,
            },
        )?;
        let requested = input.optional_object_attributes.as_deref();
        // Without a delimiter, clients use the last key as the marker.
        let next = page
            .last()
            .filter(|_| page.truncated && input.delimiter.is_some());
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket.clone()),
            prefix: Some(names.write(input.prefix.as_deref().unwrap_or_default())),
            marker: Some(names.write(input.marker.as_deref().unwrap_or_default())),
            delimiter: names.option(input.delimiter.as_deref()),
            encoding_type: input.encoding_type.clone(),
            max_keys: int(max),
            is_truncated: Some(page.truncated),
            next_marker: names.option(next),
            contents: Some(
                page.entries
                    .iter()
                    .map(|(key, object)| entry(names, key, object, Some(owner(&bucket)), requested))
                    .collect(),
            ),
            common_prefixes: Some(names.prefixes(&page.common_prefixes)),
            request_charged: None,
        }))
    }

    pub(super) fn list_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = request.input;
        let names = Names::of(input.encoding_type.as_ref())?;
        let max = page_size("max-keys", input.max_keys)?;
        let key_marker = input
            .key_marker
            .as_deref()
            .filter(|marker| !marker.is_empty());
        let version_marker = input
            .version_id_marker
            .as_deref()
            .filter(|marker| !marker.is_empty());
        if version_marker.is_some() && key_marker.is_none() {
            return Err(Refusal::invalid_argument(
                "version-id-marker",
                version_marker.unwrap_or_default(),
                "A version-id marker cannot be specified without a key marker.",
            )
            .into());
        }
        let bucket = self.store.bucket(&input.bucket)?;
        let query = ListingQuery {
            prefix: input.prefix.as_deref().unwrap_or_default(),
            delimiter: input.delimiter.as_deref(),
            after: key_marker,
            max,
        };
        let page = listing::versions(&bucket.read().objects, &query, version_marker);
        let requested = input.optional_object_attributes.as_deref();
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        for (key, listed) in &page.entries {
            let (key, version_id) = (
                Some(names.write(key)),
                Some(listed.version.shown_id().to_owned()),
            );
            match &listed.version {
                Version::Object(object) => {
                    let checksum = object.checksum.as_ref();
                    versions.push(ObjectVersion {
                        key,
                        version_id,
                        is_latest: Some(listed.is_latest),
                        size: long(object.content.len()),
                        e_tag: etag(&object.etag),
                        last_modified: timestamp(object.last_modified),
                        storage_class: Some(object.attributes.class().to_owned().into()),
                        owner: Some(owner(&bucket)),
                        checksum_algorithm: checksum
                            .map(|sum| vec![ChecksumAlgorithm::from_static(sum.algorithm.name())]),
                        checksum_type: checksum
                            .map(|sum| ChecksumType::from_static(sum.kind.name())),
                        restore_status: restore_status(object, requested),
                    });
                }
                Version::Marker(marker) => markers.push(DeleteMarkerEntry {
                    key,
                    version_id,
                    is_latest: Some(listed.is_latest),
                    last_modified: timestamp(marker.last_modified),
                    owner: Some(owner(&bucket)),
                }),
            }
        }
        let last_version = page
            .last_entry()
            .map(|(_, listed)| listed.version.shown_id().to_owned());
        let order = page
            .entries
            .iter()
            .map(|(_, listed)| listed.version.object().is_none())
            .collect();
        let mut response = S3Response::new(ListObjectVersionsOutput {
            name: Some(input.bucket.clone()),
            prefix: Some(names.write(query.prefix)),
            delimiter: names.option(query.delimiter),
            encoding_type: input.encoding_type.clone(),
            key_marker: Some(names.write(key_marker.unwrap_or_default())),
            version_id_marker: Some(version_marker.unwrap_or_default().to_owned()),
            max_keys: int(max),
            is_truncated: Some(page.truncated),
            next_key_marker: names.option(page.last().filter(|_| page.truncated)),
            next_version_id_marker: last_version.filter(|_| page.truncated),
            versions: Some(versions),
            delete_markers: Some(markers),
            common_prefixes: Some(names.prefixes(&page.common_prefixes)),
            request_charged: None,
        });
        response.extensions.insert(Interleaved(order));
        Ok(response)
    }

    pub(super) fn list_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = request.input;
        let names = Names::of(input.encoding_type.as_ref())?;
        let max = page_size("max-uploads", input.max_uploads)?;
        let key_marker = input
            .key_marker
            .as_deref()
            .filter(|marker| !marker.is_empty());
        let upload_marker = input
            .upload_id_marker
            .as_deref()
            .filter(|marker| !marker.is_empty());
        let bucket = self.store.bucket(&input.bucket)?;
        let query = ListingQuery {
            prefix: input.prefix.as_deref().unwrap_or_default(),
            delimiter: input.delimiter.as_deref(),
            after: key_marker,
            max,
        };
        let state = bucket.read();
        let page = listing::uploads(&state.uploads, &query, upload_marker);
        let uploads = page
            .entries
            .iter()
            .map(|(key, upload)| MultipartUpload {
                key: Some(names.write(key)),
                upload_id: Some(upload.id.clone()),
                initiated: timestamp(upload.initiated),
                storage_class: Some(upload.attributes.class().to_owned().into()),
                checksum_algorithm: upload
                    .declared
                    .map(|(algorithm, _)| ChecksumAlgorithm::from_static(algorithm.name())),
                checksum_type: upload
                    .declared
                    .map(|(_, kind)| ChecksumType::from_static(kind.name())),
                initiator: Some(initiator(&bucket)),
                owner: Some(owner(&bucket)),
            })
            .collect();
        let last_upload = page.last_entry().map(|(_, upload)| upload.id.clone());
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket.clone()),
            prefix: Some(names.write(query.prefix)),
            delimiter: names.option(query.delimiter),
            encoding_type: input.encoding_type.clone(),
            key_marker: Some(names.write(key_marker.unwrap_or_default())),
            upload_id_marker: Some(upload_marker.unwrap_or_default().to_owned()),
            max_uploads: int(max),
            is_truncated: Some(page.truncated),
            next_key_marker: names.option(page.last().filter(|_| page.truncated)),
            next_upload_id_marker: last_upload.filter(|_| page.truncated),
            uploads: Some(uploads),
            common_prefixes: Some(names.prefixes(&page.common_prefixes)),
            request_charged: None,
        }))
    }
}

/// Returns a continuation token: the last name of the page in base64. Clients treat it as opaque.
fn write_token(last: &str) -> String {
    URL_SAFE_NO_PAD.encode(last)
}

fn read_token(token: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}
