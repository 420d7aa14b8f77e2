//! Fields that several operations share: attributes of written objects, checksums, tags, and times.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use hyper::header::HeaderMap;
use s3s::dto::{ETag, StreamingBlob, Timestamp};
use s3s::{S3Result, TrailingHeaders};

use super::protection::retained_for;
use crate::bucket::Bucket;
use crate::checksum::Algorithm;
use crate::condition;
use crate::object::{Encryption, Lock};
use crate::payload::{self, Payload};
use crate::refusal::Refusal;
use crate::store::{Quirks, Store};

/// Sets the output field for the checksum of an algorithm.
macro_rules! set_checksum {
    ($output:expr, $algorithm:expr, $value:expr) => {{
        let value = Some($value);
        match $algorithm {
            Algorithm::Crc32 => $output.checksum_crc32 = value,
            Algorithm::Crc32c => $output.checksum_crc32c = value,
            Algorithm::Crc64Nvme => $output.checksum_crc64nvme = value,
            Algorithm::Sha1 => $output.checksum_sha1 = value,
            Algorithm::Sha256 => $output.checksum_sha256 = value,
        }
    }};
}
pub(super) use set_checksum;

/// Returns the checksums in an input.
macro_rules! checksums_of {
    ($input:expr) => {
        [
            (Algorithm::Crc32, &$input.checksum_crc32),
            (Algorithm::Crc32c, &$input.checksum_crc32c),
            (Algorithm::Crc64Nvme, &$input.checksum_crc64nvme),
            (Algorithm::Sha1, &$input.checksum_sha1),
            (Algorithm::Sha256, &$input.checksum_sha256),
        ]
        .into_iter()
        .filter_map(|(algorithm, value)| Some((algorithm, value.clone()?)))
        .collect::<Vec<_>>()
    };
}
pub(super) use checksums_of;

/// Returns the attributes that a `PutObject`, `CopyObject`, or `CreateMultipartUpload` requests.
macro_rules! attributes_of {
    ($input:expr, $headers:expr, $bucket:expr, $store:expr) => {{
        let input = &$input;
        let grants = access::grants(
            input.acl.as_ref().map(|acl| acl.as_str()),
            [
                ("FULL_CONTROL", input.grant_full_control.as_deref()),
                ("READ", input.grant_read.as_deref()),
                ("READ_ACP", input.grant_read_acp.as_deref()),
                ("WRITE_ACP", input.grant_write_acp.as_deref()),
            ],
            $bucket,
        )?;
        fields::check_metadata(input.metadata.as_ref())?;
        let attributes = Attributes {
            content_type: input.content_type.clone(),
            cache_control: input.cache_control.clone(),
            content_disposition: input.content_disposition.clone(),
            content_encoding: fields::content_encoding(input.content_encoding.as_deref()),
            content_language: input.content_language.clone(),
            expires: fields::text($headers, "expires")
                .or_else(|| fields::text($headers, crate::protocol::ODD_EXPIRES.as_str())),
            website_redirect: input.website_redirect_location.clone(),
            metadata: fields::sorted(input.metadata.as_ref()),
            tags: fields::parse_tags(input.tagging.as_deref().unwrap_or_default())?,
            storage_class: fields::storage_class(
                input.storage_class.as_ref().map(|class| class.as_str()),
            )?,
            encryption: fields::encryption(
                fields::EncryptionRequest {
                    customer: access::customer_key($headers, access::OWN_KEY)?,
                    name: input
                        .server_side_encryption
                        .as_ref()
                        .map(|name| name.as_str()),
                    key_id: input.ssekms_key_id.as_deref(),
                    bucket_key: input.bucket_key_enabled,
                },
                $bucket,
                $store,
            )?,
            lock: fields::lock(
                input.object_lock_mode.as_ref().map(|mode| mode.as_str()),
                input.object_lock_retain_until_date.as_ref(),
                input
                    .object_lock_legal_hold_status
                    .as_ref()
                    .map(|status| status.as_str()),
                $bucket,
            )?,
            grants,
            canned_acl: input.acl.as_ref().map(|acl| acl.as_str().to_owned()),
            annotations: BTreeMap::new(),
            restore: None,
            archive_status: None,
        };
        let lock = input.object_lock_mode.is_some();
        let hold = input.object_lock_legal_hold_status.is_some();
        access::check_write($store, $bucket, &input.key, &attributes, lock, hold)?;
        attributes
    }};
}
pub(super) use attributes_of;

/// Sets the encryption fields of an output.
macro_rules! set_encryption {
    ($output:expr, $encryption:expr) => {{
        let encryption: &Encryption = $encryption;
        fields::set_server_encryption!($output, encryption);
        if let Encryption::Customer { key_md5 } = encryption {
            $output.sse_customer_algorithm = Some("AES256".to_owned());
            $output.sse_customer_key_md5 = Some(key_md5.clone());
        }
    }};
}
pub(super) use set_encryption;

/// Sets the encryption fields of an output that has none for customer keys.
macro_rules! set_server_encryption {
    ($output:expr, $encryption:expr) => {{
        let encryption: &Encryption = $encryption;
        if !matches!(encryption, Encryption::Customer { .. }) {
            $output.server_side_encryption = Some(encryption.name().to_owned().into());
        }
        if let Encryption::Kms {
            key_id, bucket_key, ..
        } = encryption
        {
            $output.ssekms_key_id = Some(key_id.clone());
            $output.bucket_key_enabled = bucket_key.then_some(true);
        }
    }};
}
pub(super) use set_server_encryption;

/// Returns an `ETag` in the type of the API.
pub(super) fn etag(value: &str) -> Option<ETag> {
    Some(ETag::Strong(value.to_owned()))
}

pub(super) fn timestamp(time: SystemTime) -> Option<Timestamp> {
    Some(Timestamp::from(time))
}

/// Converts a count or a size to the type of the API.
pub(super) fn long(value: u64) -> Option<i64> {
    Some(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Converts a count to the type of the API.
pub(super) fn int(value: usize) -> Option<i32> {
    Some(i32::try_from(value).unwrap_or(i32::MAX))
}

/// Returns the text of a header.
pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Removes `aws-chunked`, which is the framing of the request and not the encoding of the object.
pub(super) fn content_encoding(value: Option<&str>) -> Option<String> {
    let kept: Vec<_> = value?
        .split(',')
        .map(str::trim)
        .filter(|coding| *coding != "aws-chunked")
        .collect();
    let kept = kept.join(",");
    (!kept.is_empty()).then_some(kept)
}

pub(super) fn sorted(map: Option<&HashMap<String, String>>) -> BTreeMap<String, String> {
    map.into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Refuses user metadata of more than 2 KB, which is the total number of bytes of all names and
/// values.
pub(super) fn check_metadata(metadata: Option<&HashMap<String, String>>) -> Result<(), Refusal> {
    let size: usize = metadata
        .into_iter()
        .flatten()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if size <= 2048 {
        return Ok(());
    }
    Err(Refusal::new(
        hyper::StatusCode::BAD_REQUEST,
        "MetadataTooLarge",
        "Your metadata headers exceed the maximum allowed metadata size",
    )
    .with("Size", size)
    .with("MaxSizeAllowed", 2048))
}

pub(super) fn storage_class(class: Option<&str>) -> Result<Option<String>, Refusal> {
    const CLASSES: [&str; 8] = [
        "STANDARD",
        "REDUCED_REDUNDANCY",
        "STANDARD_IA",
        "ONEZONE_IA",
        "INTELLIGENT_TIERING",
        "GLACIER",
        "DEEP_ARCHIVE",
        "GLACIER_IR",
    ];
    match class {
        None | Some("STANDARD") => Ok(None),
        Some(class) if CLASSES.contains(&class) => Ok(Some(class.to_owned())),
        Some(_) => Err(Refusal::new(
            hyper::StatusCode::BAD_REQUEST,
            "InvalidStorageClass",
            "The storage class you specified is not valid",
        )),
    }
}

/// The encryption settings in the headers of a write.
pub(super) struct EncryptionRequest<'a> {
    pub(super) customer: Option<String>,
    pub(super) name: Option<&'a str>,
    pub(super) key_id: Option<&'a str>,
    pub(super) bucket_key: Option<bool>,
}

pub(super) fn encryption(
    request: EncryptionRequest<'_>,
    bucket: &Bucket,
    store: &Store,
) -> Result<Encryption, Refusal> {
    if let Some(key_md5) = request.customer {
        if let Some(name) = request.name {
            return Err(Refusal::invalid_argument(
                "x-amz-server-side-encryption",
                name,
                "Server Side Encryption with Customer provided key is incompatible with the encryption method specified",
            ));
        }
        return Ok(Encryption::Customer { key_md5 });
    }
    let kms = |dual_layer: bool| {
        let managed = || {
            format!(
                "arn:aws:kms:{}:{}:alias/aws/s3",
                store.region(),
                bucket.owner
            )
        };
        let default = match &bucket.encryption {
            Encryption::Kms { bucket_key, .. } => *bucket_key,
            Encryption::Aes256 | Encryption::Customer { .. } => false,
        };
        Encryption::Kms {
            key_id: request.key_id.map_or_else(managed, str::to_owned),
            bucket_key: request.bucket_key.unwrap_or(default) && !dual_layer,
            dual_layer,
        }
    };
    let invalid = |message| {
        Err(Refusal::invalid_argument(
            "x-amz-server-side-encryption",
            request.name.unwrap_or_default(),
            message,
        ))
    };
    match request.name {
        None | Some("AES256") if request.key_id.is_some() => invalid(
            "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : \
             aws:kms",
        ),
        None => Ok(bucket.encryption.clone()),
        Some("AES256") => Ok(Encryption::Aes256),
        Some("aws:kms") => Ok(kms(false)),
        Some("aws:kms:dsse") => Ok(kms(true)),
        Some(_) => invalid("The encryption method specified is not supported"),
    }
}

pub(super) fn lock(
    mode: Option<&str>,
    until: Option<&Timestamp>,
    legal_hold: Option<&str>,
    bucket: &Bucket,
) -> Result<Lock, Refusal> {
    let until = condition::time(until);
    if (mode.is_some() || until.is_some() || legal_hold.is_some()) && !bucket.object_lock {
        return Err(Refusal::invalid_request(
            "Bucket is missing Object Lock Configuration",
        ));
    }
    let retention = match (mode, until) {
        (None, None) => bucket
            .retention
            .as_ref()
            .map(|(mode, days)| (mode.clone(), retained_for(*days))),
        (Some(_), Some(until)) if until <= SystemTime::now() => {
            return Err(Refusal::invalid_argument(
                "x-amz-object-lock-retain-until-date",
                "",
                "The retain until date must be in the future!",
            ));
        }
        (Some(mode), Some(until)) => Some((mode.to_owned(), until)),
        _ => {
            return Err(Refusal::invalid_argument(
                "x-amz-object-lock-mode",
                mode.unwrap_or_default(),
                "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied",
            ));
        }
    };
    Ok(Lock {
        retention,
        legal_hold: legal_hold.map(|status| status == "ON"),
    })
}

/// Parses the tags in `x-amz-tagging`, which are written as a query string.
pub(super) fn parse_tags(header: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(&text.replace('+', " "))
            .decode_utf8()
            .ok()
            .map(std::borrow::Cow::into_owned)
    };
    let mut pairs = Vec::new();
    for pair in header.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (decode(key), decode(value)) {
            (Some(key), Some(value)) => pairs.push((key, value)),
            _ => {
                return Err(Refusal::invalid_argument(
                    "x-amz-tagging",
                    header,
                    "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without \
                     tag name duplicates.",
                ));
            }
        }
    }
    check_tags(pairs)
}

/// Checks tags: at most 10, keys of 1 to 128 characters, values of up to 256, and no key twice.
pub(super) fn check_tags(
    pairs: impl IntoIterator<Item = (String, String)>,
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut tags = BTreeMap::new();
    for (key, value) in pairs {
        if key.is_empty() || key.chars().count() > 128 {
            return Err(Refusal::invalid_tag(
                "The TagKey you have provided is invalid",
            ));
        }
        if value.chars().count() > 256 {
            return Err(Refusal::invalid_tag(
                "The TagValue you have provided is invalid",
            ));
        }
        if tags.insert(key, value).is_some() {
            return Err(Refusal::invalid_tag(
                "Cannot provide multiple Tags with the same key",
            ));
        }
    }
    if tags.len() > 10 {
        return Err(Refusal::new(
            hyper::StatusCode::BAD_REQUEST,
            "BadRequest",
            "Object tags cannot be greater than 10",
        ));
    }
    Ok(tags)
}

/// Reads a body into the form in which the store keeps it. `declared` is the checksum algorithm of
/// the upload, if the body is a part.
pub(super) async fn read_body(
    body: Option<StreamingBlob>,
    headers: &HeaderMap,
    declared: Option<Algorithm>,
    store: &Store,
) -> S3Result<Payload> {
    if !Quirks::on(&store.quirks().virtual_uploads) {
        return Payload::read(body).await;
    }
    let mut algorithms = vec![declared.unwrap_or(Algorithm::Crc64Nvme)];
    algorithms
        .extend(payload::announced(headers).filter(|announced| !algorithms.contains(announced)));
    Payload::digest(body, &algorithms).await
}

/// Returns the checksum in the headers or in the trailer of an upload.
pub(super) fn claimed_checksum(
    headers: &HeaderMap,
    trailers: Option<&TrailingHeaders>,
) -> Result<Option<(Algorithm, String)>, Refusal> {
    let of = |headers: &HeaderMap| {
        Algorithm::ALL
            .into_iter()
            .filter_map(|algorithm| Some((algorithm, text(headers, algorithm.header())?)))
            .collect::<Vec<_>>()
    };
    let mut claims = of(headers);
    if let Some(trailing) = trailers.and_then(|trailers| trailers.read(of)) {
        claims.extend(trailing);
    }
    if claims.len() > 1 {
        return Err(Refusal::invalid_request(
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
        ));
    }
    let claim = claims.pop();
    if claim.is_none() && headers.contains_key("x-amz-sdk-checksum-algorithm") {
        return Err(Refusal::invalid_request(
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers \
             were found.",
        ));
    }
    Ok(claim)
}

/// Returns true if the store computes checksums.
pub(super) fn checksums_on(store: &Store) -> bool {
    !Quirks::on(&store.quirks().no_checksums)
}
