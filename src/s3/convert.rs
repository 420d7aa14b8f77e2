//! Converts between the SDK's types and the crate's own: fields of responses, and values of
//! headers.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types as sdk;
use jiff::Timestamp;

use super::ids::{IdKind, required_size};
use super::{
    ArchiveState, Checksum, ChecksumAlgorithm, ChecksumKind, ContentHeaders, Encryption, Head,
    Lock, PartDone, Retention, Tag, WriteCondition,
};

/// Lists all fields of a response that may hold a checksum.
macro_rules! any_checksums {
    ($answer:expr) => {
        [
            $answer.checksum_crc64_nvme,
            $answer.checksum_crc32,
            $answer.checksum_crc32_c,
            $answer.checksum_sha1,
            $answer.checksum_sha256,
        ]
    };
}
pub(super) use any_checksums;

/// Converts the response to HEAD. Fails if the response lacks a field that every object has.
/// `knows_classes` is true if the archive classes are S3's; elsewhere a class of that name may mean
/// anything.
pub(super) fn head(output: HeadObjectOutput, knows_classes: bool) -> Result<Head, String> {
    let checksum = checksum(any_checksums!(output), output.checksum_type.as_ref());
    let storage_class = output.storage_class.map(|class| class.as_str().to_owned());
    let is_being_restored = output.restore.as_deref().and_then(is_ongoing);
    let archived = output.archive_status.is_some()
        || is_being_restored == Some(true)
        || (knows_classes && is_archive(storage_class.as_deref()));
    let archive = match is_being_restored {
        _ if !archived => ArchiveState::Readable,
        Some(false) => ArchiveState::Readable,
        Some(true) => ArchiveState::Restoring,
        None => ArchiveState::Archived,
    };
    Ok(Head {
        size: required_size(output.content_length, "Content-Length")?,
        etag: IdKind::Etag.required(output.e_tag.map(unquote))?,
        version: IdKind::Version.optional(output.version_id)?,
        modified: output.last_modified.and_then(timestamp),
        storage_class,
        headers: ContentHeaders {
            content_type: output.content_type,
            content_encoding: output
                .content_encoding
                .filter(|encoding| !encoding.is_empty()),
            content_language: output.content_language,
            content_disposition: output.content_disposition,
            cache_control: output.cache_control,
            expires: output.expires_string,
            website_redirect: output.website_redirect_location,
        },
        metadata: output.metadata.unwrap_or_default().into_iter().collect(),
        missing_metadata: output
            .missing_meta
            .and_then(|count| count.try_into().ok())
            .unwrap_or(0),
        encryption: encryption(
            output.server_side_encryption.as_ref(),
            output.ssekms_key_id,
            output.bucket_key_enabled,
        ),
        customer_key: output.sse_customer_algorithm.is_some(),
        lock: Lock {
            retention: retention(
                output
                    .object_lock_mode
                    .as_ref()
                    .map(sdk::ObjectLockMode::as_str),
                output.object_lock_retain_until_date,
            ),
            legal_hold: output
                .object_lock_legal_hold_status
                .map(|status| status == sdk::ObjectLockLegalHoldStatus::On),
        },
        event_hold: output
            .object_lock_event_hold
            .is_some_and(|hold| hold.as_str() != "OFF"),
        tag_count: output.tag_count.and_then(|count| count.try_into().ok()),
        checksum,
        kms: output.sse_customer_algorithm.is_some()
            || is_kms(output.server_side_encryption.as_ref()),
        archive,
        archive_tier: output.archive_status.map(|tier| tier.as_str().to_owned()),
    })
}

/// Returns true if `x-amz-restore` says that a restore is in progress, and false if it has ended.
fn is_ongoing(restore: &str) -> Option<bool> {
    let (_, value) = restore.split_once("ongoing-request=")?;
    let value = value
        .split(['"', ','])
        .map(str::trim)
        .find(|word| !word.is_empty())?;
    value.to_ascii_lowercase().parse().ok()
}

/// Returns true for the storage classes whose objects cannot be read until they are restored.
pub(super) fn is_archive(storage_class: Option<&str>) -> bool {
    matches!(storage_class, Some("GLACIER" | "DEEP_ARCHIVE"))
}

/// Returns the archive state of an entry in a list that was requested with `RestoreStatus`. That
/// field is absent until a restore is requested. Then it says that the restore is in progress, and
/// finally it has the date until which the object can be read.
pub(super) fn listed_archive(
    storage_class: Option<&str>,
    status: Option<&sdk::RestoreStatus>,
) -> ArchiveState {
    match status {
        _ if !is_archive(storage_class) => ArchiveState::Readable,
        Some(status) if status.restore_expiry_date.is_some() => ArchiveState::Readable,
        Some(status) if status.is_restore_in_progress == Some(true) => ArchiveState::Restoring,
        _ => ArchiveState::Archived,
    }
}

/// Returns the encryption of an object; `None` if the server states no encryption that s3haul
/// knows.
pub(super) fn encryption(
    name: Option<&sdk::ServerSideEncryption>,
    key: Option<String>,
    bucket_key: Option<bool>,
) -> Option<Encryption> {
    match name? {
        sdk::ServerSideEncryption::Aes256 => Some(Encryption::S3),
        sdk::ServerSideEncryption::AwsKms => Some(Encryption::Kms {
            key,
            bucket_key,
            dsse: false,
        }),
        // Dual-layer encryption supports no bucket keys.
        sdk::ServerSideEncryption::AwsKmsDsse => Some(Encryption::Kms {
            key,
            bucket_key: None,
            dsse: true,
        }),
        _ => None,
    }
}

/// Returns a retention if both of its fields are present.
pub(super) fn retention(mode: Option<&str>, until: Option<DateTime>) -> Option<Retention> {
    Some(Retention {
        mode: mode?.to_owned(),
        until: timestamp(until?)?,
    })
}

/// Returns the strongest checksum of a response. CRC64NVME comes first, because the checksum of an
/// object can be computed from the checksums of its parts. Without a type in the response, only a
/// composite value, which has a suffix, reveals its kind. A value that is not a checksum of its
/// algorithm, such as an empty one, is ignored: two such values would be equal whatever the bytes
/// are.
pub(super) fn checksum(
    values: [Option<String>; 5],
    kind: Option<&sdk::ChecksumType>,
) -> Option<Checksum> {
    use ChecksumAlgorithm::{Crc32, Crc32c, Crc64Nvme, Sha1, Sha256};
    let [crc64, crc32, crc32c, sha1, sha256] = values;
    let by_strength = [
        (Crc64Nvme, crc64),
        (Sha256, sha256),
        (Sha1, sha1),
        (Crc32c, crc32c),
        (Crc32, crc32),
    ];
    let (algorithm, value, suffix) = by_strength.into_iter().find_map(|(algorithm, value)| {
        let value = value?;
        // HEAD returns composite values with a suffix "-N". Old responses have that suffix but no
        // type.
        let (sum, parts) = match value.split_once('-') {
            Some((sum, parts)) => (sum, Some(parts)),
            None => (value.as_str(), None),
        };
        let is_known = is_sum(algorithm, sum) && parts.is_none_or(is_count);
        is_known.then(|| (algorithm, sum.to_owned(), parts.is_some()))
    })?;
    let kind = match kind {
        Some(sdk::ChecksumType::Composite) => ChecksumKind::Composite,
        _ if suffix => ChecksumKind::Composite,
        Some(sdk::ChecksumType::FullObject) => ChecksumKind::FullObject,
        _ => ChecksumKind::Unstated,
    };
    Some(Checksum {
        algorithm,
        kind,
        value,
    })
}

/// Returns true if the value is base64 of as many bytes as a checksum of this algorithm has.
fn is_sum(algorithm: ChecksumAlgorithm, value: &str) -> bool {
    let width = match algorithm {
        ChecksumAlgorithm::Crc64Nvme => 8,
        ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => 4,
        ChecksumAlgorithm::Sha1 => 20,
        ChecksumAlgorithm::Sha256 => 32,
    };
    STANDARD
        .decode(value)
        .is_ok_and(|bytes| bytes.len() == width)
}

/// Returns true for the number of parts that follows a composite checksum.
fn is_count(parts: &str) -> bool {
    parts.parse().is_ok_and(|count: u32| count > 0)
}

pub(super) fn completed_part(
    part: &PartDone,
    algorithm: Option<ChecksumAlgorithm>,
) -> sdk::CompletedPart {
    let builder = sdk::CompletedPart::builder()
        .part_number(part_number(part.number))
        .e_tag(quoted(&part.etag));
    let value = part.checksum.clone();
    match algorithm {
        None => builder,
        Some(ChecksumAlgorithm::Crc64Nvme) => builder.set_checksum_crc64_nvme(value),
        Some(ChecksumAlgorithm::Crc32) => builder.set_checksum_crc32(value),
        Some(ChecksumAlgorithm::Crc32c) => builder.set_checksum_crc32_c(value),
        Some(ChecksumAlgorithm::Sha1) => builder.set_checksum_sha1(value),
        Some(ChecksumAlgorithm::Sha256) => builder.set_checksum_sha256(value),
    }
    .build()
}

/// Returns the tags as a query string, the value of `x-amz-tagging`.
pub(super) fn tagging_header(tags: &[Tag]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    tags.iter()
        .map(|tag| format!("{}={}", encode(&tag.key), encode(&tag.value)))
        .collect::<Vec<_>>()
        .join("&")
}

/// Undoes `encoding-type=url`, where `+` stands for a space. Fails with the raw text if the bytes
/// are not UTF-8.
pub(super) fn decode(key: String, encoded: bool) -> Result<String, String> {
    if !encoded || !key.contains(['%', '+']) {
        return Ok(key);
    }
    let spaced = if key.contains('+') {
        Cow::Owned(key.replace('+', " "))
    } else {
        Cow::Borrowed(&*key)
    };
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| key.clone())
}

/// Returns the value of `If-None-Match`.
pub(super) fn if_none_match(condition: &WriteCondition) -> Option<String> {
    (*condition == WriteCondition::Absent).then(|| "*".to_owned())
}

/// Returns the value of `If-Match`.
pub(super) fn if_match(condition: &WriteCondition) -> Option<String> {
    match condition {
        WriteCondition::Matches(etag) => Some(quoted(etag)),
        WriteCondition::None | WriteCondition::Absent => None,
    }
}

pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

pub(super) fn unquote(etag: String) -> String {
    match etag
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(inner) => inner.to_owned(),
        None => etag,
    }
}

pub(super) fn part_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

pub(super) fn timestamp(time: DateTime) -> Option<Timestamp> {
    Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
}

impl From<ChecksumAlgorithm> for sdk::ChecksumAlgorithm {
    fn from(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::Crc64Nvme => Self::Crc64Nvme,
            ChecksumAlgorithm::Crc32 => Self::Crc32,
            ChecksumAlgorithm::Crc32c => Self::Crc32C,
            ChecksumAlgorithm::Sha1 => Self::Sha1,
            ChecksumAlgorithm::Sha256 => Self::Sha256,
        }
    }
}

/// Returns the checksum that an upload declared, or `None` for an algorithm that this crate does
/// not know: the server will then name what is missing.
pub(super) fn declared(
    algorithm: Option<&sdk::ChecksumAlgorithm>,
    kind: Option<&sdk::ChecksumType>,
) -> Option<(ChecksumAlgorithm, ChecksumKind)> {
    let algorithm = match algorithm? {
        sdk::ChecksumAlgorithm::Crc64Nvme => ChecksumAlgorithm::Crc64Nvme,
        sdk::ChecksumAlgorithm::Crc32 => ChecksumAlgorithm::Crc32,
        sdk::ChecksumAlgorithm::Crc32C => ChecksumAlgorithm::Crc32c,
        sdk::ChecksumAlgorithm::Sha1 => ChecksumAlgorithm::Sha1,
        sdk::ChecksumAlgorithm::Sha256 => ChecksumAlgorithm::Sha256,
        _ => return None,
    };
    let kind = match kind {
        Some(sdk::ChecksumType::FullObject) => ChecksumKind::FullObject,
        Some(sdk::ChecksumType::Composite) => ChecksumKind::Composite,
        // S3's default if no type was named. Older servers, which do not know types, support only
        // this kind.
        _ if algorithm == ChecksumAlgorithm::Crc64Nvme => ChecksumKind::FullObject,
        _ => ChecksumKind::Composite,
    };
    Some((algorithm, kind))
}

pub(super) const fn is_kms(encryption: Option<&sdk::ServerSideEncryption>) -> bool {
    matches!(
        encryption,
        Some(sdk::ServerSideEncryption::AwsKms | sdk::ServerSideEncryption::AwsKmsDsse)
    )
}

impl From<ChecksumKind> for sdk::ChecksumType {
    fn from(kind: ChecksumKind) -> Self {
        match kind {
            // No request declares an unknown kind.
            ChecksumKind::FullObject | ChecksumKind::Unstated => Self::FullObject,
            ChecksumKind::Composite => Self::Composite,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_encoded_keys_are_decoded_once() {
        for (raw, key) in [
            ("a+b", "a b"),
            ("a%2Bb", "a+b"),
            ("%C3%BC%01", "ü\u{1}"),
            ("a%2520b", "a%20b"),
        ] {
            assert_eq!(decode(raw.to_owned(), true), Ok(key.to_owned()));
            assert_eq!(
                decode(raw.to_owned(), false),
                Ok(raw.to_owned()),
                "not encoded, not decoded"
            );
        }
        assert_eq!(decode("%FF".to_owned(), true), Err("%FF".to_owned()));
    }

    #[test]
    fn a_restore_is_read_in_any_spelling() {
        for (restore, state) in [
            ("ongoing-request=\"true\"", ArchiveState::Restoring),
            ("ongoing-request=\"True\"", ArchiveState::Restoring),
            ("ongoing-request=TRUE", ArchiveState::Restoring),
            (
                "ongoing-request=\"False\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"",
                ArchiveState::Readable,
            ),
            ("ongoing-request=\"\"", ArchiveState::Archived),
            ("expiry-date=\"true\"", ArchiveState::Archived),
        ] {
            let output = HeadObjectOutput::builder()
                .content_length(1)
                .e_tag("e")
                .storage_class(sdk::StorageClass::Glacier)
                .restore(restore)
                .build();
            assert_eq!(head(output, true).unwrap().archive, state, "{restore}");
        }
    }

    #[test]
    fn tags_are_encoded_into_one_header() {
        let tag = |key: &str, value: &str| Tag {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        assert_eq!(
            tagging_header(&[tag("a b", "1&2"), tag("ü", "")]),
            "a%20b=1%262&%C3%BC="
        );
    }

    /// Returns a checksum of this many bytes.
    fn sum(bytes: usize) -> String {
        STANDARD.encode(vec![7; bytes])
    }

    #[test]
    fn the_strongest_checksum_is_taken() {
        let widths = [8, 4, 4, 20, 32];
        let mut values = widths.map(|bytes| Some(sum(bytes)));
        for (at, strongest) in [
            (0, ChecksumAlgorithm::Crc64Nvme),
            (4, ChecksumAlgorithm::Sha256),
            (3, ChecksumAlgorithm::Sha1),
            (2, ChecksumAlgorithm::Crc32c),
            (1, ChecksumAlgorithm::Crc32),
        ] {
            let seen = checksum(values.clone(), None).unwrap();
            assert_eq!((seen.algorithm, seen.value), (strongest, sum(widths[at])));
            values[at] = None;
        }
    }

    #[test]
    fn composite_checksums_are_told_by_type_or_suffix() {
        let value = |text: &str| [None, None, None, None, Some(text.to_owned())];
        let seen = checksum(value(&format!("{}-3", sum(32))), None).unwrap();
        assert_eq!((seen.kind, seen.value), (ChecksumKind::Composite, sum(32)));
        assert_eq!(
            checksum(value(&sum(32)), None).unwrap().kind,
            ChecksumKind::Unstated
        );
        let whole = sdk::ChecksumType::FullObject;
        assert_eq!(
            checksum(value(&sum(32)), Some(&whole)).unwrap().kind,
            ChecksumKind::FullObject
        );
        assert_eq!(checksum([const { None }; 5], None), None);
    }

    #[test]
    fn what_is_no_checksum_of_its_algorithm_says_nothing() {
        for (at, width) in [8, 4, 4, 20, 32].into_iter().enumerate() {
            let right = sum(width);
            let wrong = [
                String::new(),
                "=".to_owned(),
                "-1".to_owned(),
                "no base64".to_owned(),
                right[..right.len() - 1].to_owned(),
                format!("{right} "),
                format!("{right}-"),
                format!("{right}-0"),
                format!("{right}-x"),
                sum(width - 1),
                sum(width + 1),
                sum(0),
            ];
            for value in wrong {
                let mut values = [const { None }; 5];
                values[at] = Some(value.clone());
                assert_eq!(checksum(values.clone(), None), None, "{value:?} at {at}");
                // A weaker checksum that is valid is better than a stronger one that is not.
                let other = if at == 1 { 2 } else { 1 };
                values[other] = Some(sum(4));
                assert_eq!(checksum(values, None).unwrap().value, sum(4));
            }
        }
    }
}
