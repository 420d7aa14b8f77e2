//! Decides which open uploads that no journal records can be adopted, and checks the object that
//! results from an adopted upload.
//!
//! S3 lists the creation time, storage class, declared checksum, and parts of an open upload. It
//! shows neither the source nor the metadata, tags, and encryption of the upload. So a list can
//! only rule out an upload. Before s3haul completes an adopted upload, checksums must prove that it
//! has the source's bytes. Once the object exists, its attributes are compared.

use jiff::Timestamp;

use super::asked::{HeaderRules, KeyAlias, unlike_encryption, unlike_headers, unlike_metadata};
use super::parts::{PartLayout, may_be_automatic};
use crate::manifest::job::Attribute;
use crate::s3::capabilities::PartLimits;
use crate::s3::{
    Attributes, ChecksumAlgorithm, ChecksumKind, ContentHeaders, Head, OpenUpload, PartDone, Tag,
    Tags,
};

/// The storage class of an object whose request names none.
const STANDARD: &str = "STANDARD";

/// Returns true if an upload may have been created with these attributes for a source that was last
/// written at `modified`.
#[must_use]
pub fn may_be_for(open: &OpenUpload, modified: Option<Timestamp>, wanted: &Attributes) -> bool {
    // S3 may report either time in whole seconds.
    let is_older = open
        .initiated
        .zip(modified)
        .is_some_and(|(initiated, modified)| initiated.as_second() < modified.as_second());
    !is_older && class(open.storage_class.as_deref()) == class(wanted.storage_class.as_deref())
}

fn class(name: Option<&str>) -> &str {
    name.unwrap_or(STANDARD)
}

/// The part boundaries that an upload must have to be adopted.
#[derive(Clone, Copy, Debug)]
pub enum ExpectedLayout<'a> {
    /// Exactly the current layout, because the job names the part size or keeps the source's
    /// boundaries.
    Exactly(&'a PartLayout),
    /// Equal parts of any size that s3haul may choose automatically for an object of this many
    /// bytes.
    Automatically(u64, &'a PartLimits),
}

impl ExpectedLayout<'_> {
    /// Returns the layout of an upload that has these parts.
    fn layout_of(self, listed: &[PartDone]) -> Option<PartLayout> {
        match self {
            Self::Exactly(layout) => Some(layout.clone()),
            Self::Automatically(size, limits) => {
                let part_size = listed.iter().map(|part| part.size).max()?;
                let count = u32::try_from(size.div_ceil(part_size.max(1))).ok()?;
                let may_be = may_be_automatic(part_size, limits) && count <= limits.max_parts;
                may_be.then(|| PartLayout::uniform(size, part_size, count))
            }
        }
    }
}

/// Returns the layout and the parts of an upload if its parts fit the expected layout and it
/// declares the checksum in `wanted`. An upload with other parts belongs to another program.
#[must_use]
pub fn usable(
    mut listed: Vec<PartDone>,
    declared: Option<(ChecksumAlgorithm, ChecksumKind)>,
    expected: ExpectedLayout<'_>,
    wanted: &Attributes,
) -> Option<(PartLayout, Vec<PartDone>)> {
    let layout = expected.layout_of(&listed)?;
    let has_expected_length = |part: &PartDone| {
        layout
            .part(part.number)
            .is_some_and(|due| due.length == part.size)
    };
    let alike = listed
        .iter()
        .all(|part| has_expected_length(part) && part.checksum.is_some());
    listed.sort_unstable_by_key(|part| part.number);
    let usable = alike && !listed.is_empty() && declared.is_some() && declared == wanted.checksum;
    usable.then_some((layout, listed))
}

/// Returns the first attribute in which the object `found` differs from `wanted`. Attributes that
/// the request left to the bucket (encryption, a default retention) may have any value. Other
/// spellings of a value count as equal. An added charset, an added `aws-chunked`, and missing empty
/// metadata count as equal only if `may_change` is true, so that the server may have caused them.
#[must_use]
pub fn difference(
    wanted: &Attributes,
    found: &Head,
    tags: &[Tag],
    may_change: bool,
) -> Option<Attribute> {
    // Destructure, so that the compiler reports any attribute that is not compared. Grants and ACLs
    // are not compared here: uploads with them are never adopted, and `in_place` compares them
    // itself.
    let Attributes {
        headers,
        metadata,
        tags: wanted_tags,
        storage_class,
        encryption,
        checksum: _,
        lock,
        grants: _,
        acl: _,
        annotations: _,
    } = wanted;
    let until = |lock: &crate::s3::Lock| {
        lock.retention
            .as_ref()
            .map(|retention| (retention.mode.clone(), retention.until.as_second()))
    };
    let is_wanted = |name: &String| {
        let mut names = metadata.keys();
        names.any(|wanted| wanted.eq_ignore_ascii_case(name))
    };
    let metadata_is = unlike_metadata(metadata, found, may_change).is_none()
        && found.metadata.keys().all(is_wanted)
        && found.missing_metadata == 0;
    let encryption_is = |wanted| {
        // The alias may refer to a different key from the one that HEAD shows.
        unlike_encryption(wanted, found.encryption.as_ref(), KeyAlias::OnlyItself).is_none()
    };
    let as_wanted = [
        (Attribute::Metadata, metadata_is),
        (
            Attribute::Headers,
            headers_are(headers, &found.headers, may_change),
        ),
        (Attribute::Tags, tags_are(wanted_tags, tags)),
        (
            Attribute::StorageClass,
            class(storage_class.as_deref()) == class(found.storage_class.as_deref()),
        ),
        (
            Attribute::Encryption,
            encryption.as_ref().is_none_or(encryption_is),
        ),
        (
            Attribute::Lock,
            (lock.retention.is_none() || until(lock) == until(&found.lock))
                && (lock.legal_hold.is_none() || lock.legal_hold == found.lock.legal_hold),
        ),
    ];
    as_wanted
        .into_iter()
        .find_map(|(attribute, is)| (!is).then_some(attribute))
}

/// Compares headers. Servers set a default `Content-Type` if the request has none.
fn headers_are(wanted: &ContentHeaders, found: &ContentHeaders, may_add: bool) -> bool {
    let mut found = found.clone();
    if wanted.content_type.is_none()
        && found
            .content_type
            .as_deref()
            .is_some_and(|given| given.ends_with("/octet-stream"))
    {
        found.content_type = None;
    }
    let rules = HeaderRules {
        compares_others: true,
        may_add,
    };
    unlike_headers(wanted, &found, rules).is_none()
}

fn tags_are(wanted: &Tags, found: &[Tag]) -> bool {
    let sorted = |tags: &[Tag]| {
        let mut tags = tags.to_vec();
        tags.sort();
        tags
    };
    match wanted {
        // A multipart upload copies no tags from a source.
        Tags::AsSource => found.is_empty(),
        Tags::Exactly(wanted) => sorted(wanted) == sorted(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::job::Encryption;
    use crate::s3::{Lock, Retention};
    use crate::size::MIB;

    const CRC: Option<(ChecksumAlgorithm, ChecksumKind)> =
        Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject));

    fn part(number: u32, size: u64) -> PartDone {
        PartDone {
            number,
            size,
            etag: "e".into(),
            checksum: Some("c".into()),
        }
    }

    fn wanted() -> Attributes {
        Attributes {
            checksum: CRC,
            ..Attributes::default()
        }
    }

    #[test]
    fn only_what_is_cut_alike_can_be_gone_on_with() {
        let layout = PartLayout::uniform(25, 10, 3);
        let expected = ExpectedLayout::Exactly(&layout);
        let of = |parts: Vec<PartDone>| {
            usable(parts, CRC, expected, &wanted()).map(|(_, parts)| parts.len())
        };
        assert_eq!(of(vec![part(3, 5), part(1, 10)]), Some(2));
        let bare = PartDone {
            checksum: None,
            ..part(1, 10)
        };
        for other in [
            vec![],
            vec![part(1, 9)],
            vec![part(1, 10), part(3, 10)],
            vec![part(1, 10), part(4, 5)],
            vec![part(0, 10)],
            vec![bare],
        ] {
            assert_eq!(of(other.clone()), None, "{other:?}");
        }
        let composite = Some((ChecksumAlgorithm::Sha256, ChecksumKind::Composite));
        for declared in [None, composite] {
            assert_eq!(
                usable(vec![part(1, 10)], declared, expected, &wanted()),
                None
            );
        }
        assert_eq!(
            usable(vec![part(1, 10)], None, expected, &Attributes::default()),
            None
        );
    }

    #[test]
    fn an_automatic_part_size_may_be_another_one_by_now() {
        let size = 1000 * MIB + 7;
        let expected = ExpectedLayout::Automatically(size, &PartLimits::S3);
        let of = |parts: Vec<PartDone>| {
            usable(parts, CRC, expected, &wanted()).map(|(layout, _)| layout)
        };
        let seventy = PartLayout::uniform(size, 70 * MIB, 15);
        assert_eq!(
            of(vec![part(3, 70 * MIB), part(15, 20 * MIB + 7)]),
            Some(seventy)
        );
        for other in [
            // Other tools choose smaller parts, or parts that are not whole MiB.
            vec![part(1, 8 * MIB)],
            vec![part(1, 70_000_000)],
            vec![part(1, 70 * MIB), part(2, 60 * MIB)],
            vec![part(16, 70 * MIB)],
            vec![part(15, 20 * MIB + 7)],
        ] {
            assert_eq!(of(other.clone()), None, "{other:?}");
        }
    }

    #[test]
    fn an_upload_that_is_older_than_the_source_or_of_another_class_is_not_for_it() {
        let at = |second| Timestamp::new(second, 0).unwrap();
        let open = |initiated, class: Option<&str>| OpenUpload {
            key: "k".into(),
            upload_id: "u".into(),
            initiated,
            storage_class: class.map(str::to_owned),
        };
        let modified = Some(Timestamp::new(5, 900_000_000).unwrap());
        for (initiated, class, outcome) in [
            (Some(at(5)), Some("STANDARD"), true),
            (Some(at(6)), None, true),
            (None, None, true),
            (Some(at(4)), None, false),
            (Some(at(6)), Some("GLACIER_IR"), false),
        ] {
            assert_eq!(
                may_be_for(&open(initiated, class), modified, &wanted()),
                outcome,
                "{initiated:?}"
            );
        }
    }

    /// An object that was written without a `Content-Type`.
    fn plain() -> Head {
        Head {
            headers: typed("binary/octet-stream"),
            ..Head::default()
        }
    }

    fn typed(content_type: &str) -> ContentHeaders {
        ContentHeaders {
            content_type: Some(content_type.into()),
            ..ContentHeaders::default()
        }
    }

    fn assert_differs(want: &Attributes, found: &Head, tags: &[Tag], by: Option<Attribute>) {
        let difference = difference(want, found, tags, false);
        assert_eq!(difference, by, "{want:?} {found:?}");
    }

    #[test]
    fn other_metadata_headers_and_classes_are_named() {
        assert_differs(&wanted(), &plain(), &[], None);
        let metadata = || [("team".to_owned(), "blue".to_owned())].into();
        let want = Attributes {
            metadata: metadata(),
            ..wanted()
        };
        let found = Head {
            metadata: metadata(),
            ..plain()
        };
        assert_differs(&want, &found, &[], None);
        assert_differs(&want, &plain(), &[], Some(Attribute::Metadata));
        assert_differs(&wanted(), &found, &[], Some(Attribute::Metadata));
        let want = Attributes {
            headers: typed("text/plain"),
            ..wanted()
        };
        let found = Head {
            headers: typed("text/plain"),
            ..plain()
        };
        assert_differs(&want, &found, &[], None);
        assert_differs(&want, &plain(), &[], Some(Attribute::Headers));
        assert_differs(&wanted(), &found, &[], Some(Attribute::Headers));
        let found = Head {
            storage_class: Some("GLACIER_IR".into()),
            ..plain()
        };
        assert_differs(&wanted(), &found, &[], Some(Attribute::StorageClass));
    }

    #[test]
    fn only_another_spelling_of_a_value_is_no_difference() {
        let coded = |coding: &str| ContentHeaders {
            content_encoding: Some(coding.into()),
            ..typed("text/plain;charset=utf-8")
        };
        let flagged = |value: &str| [("flag".to_owned(), value.to_owned())].into();
        let head = |headers| Head {
            headers,
            metadata: flagged(""),
            ..Head::default()
        };
        let want = Attributes {
            headers: coded("gzip"),
            metadata: flagged(""),
            ..wanted()
        };
        let headers = ContentHeaders {
            content_type: Some("Text/plain; charset=UTF-8".into()),
            ..coded("gzip")
        };
        assert_differs(&want, &head(headers), &[], None);
        assert_differs(
            &want,
            &head(coded("gzip, br")),
            &[],
            Some(Attribute::Headers),
        );
        // The server may have caused these differences.
        let without_flag = Head {
            metadata: [].into(),
            ..head(coded("gzip"))
        };
        let without_charset = Attributes {
            headers: ContentHeaders {
                content_type: Some("text/plain".into()),
                ..coded("gzip")
            },
            ..want.clone()
        };
        let chunked = head(coded("gzip,aws-chunked"));
        for (want, found, attribute) in [
            (&want, chunked, Attribute::Headers),
            (&want, without_flag, Attribute::Metadata),
            (&without_charset, head(coded("gzip")), Attribute::Headers),
        ] {
            assert_differs(want, &found, &[], Some(attribute));
            assert_eq!(difference(want, &found, &[], true), None);
        }
    }

    #[test]
    fn other_tags_are_named() {
        let tag = |key: &str| Tag {
            key: key.into(),
            value: "v".into(),
        };
        let want = Attributes {
            tags: Tags::Exactly(vec![tag("a"), tag("b")]),
            ..wanted()
        };
        assert_differs(&want, &plain(), &[tag("b"), tag("a")], None);
        let fewer = [tag("b")];
        assert_differs(&want, &plain(), &fewer, Some(Attribute::Tags));
        assert_differs(&wanted(), &plain(), &fewer, Some(Attribute::Tags));
    }

    #[test]
    fn another_encryption_is_named() {
        let kms = |key: &str, bucket_key| Encryption::Kms {
            key: Some(key.into()),
            bucket_key,
            dsse: false,
        };
        let found = Head {
            encryption: Some(kms("arn:key/1", None)),
            ..plain()
        };
        let keyed = |key, bucket_key| Attributes {
            encryption: Some(kms(key, bucket_key)),
            ..wanted()
        };
        let want = |key| keyed(key, None);
        assert_differs(&wanted(), &found, &[], None);
        assert_differs(&want("1"), &found, &[], None);
        // HEAD shows a bucket key only if there is one.
        assert_differs(&keyed("1", Some(false)), &found, &[], None);
        let differs = Some(Attribute::Encryption);
        assert_differs(&keyed("1", Some(true)), &found, &[], differs);
        assert_differs(&want("alias/1"), &found, &[], differs);
        assert_differs(&want("2"), &found, &[], Some(Attribute::Encryption));
    }

    #[test]
    fn another_lock_is_named() {
        let lock = || Lock {
            retention: Some(Retention {
                mode: "GOVERNANCE".into(),
                until: Timestamp::new(9, 0).unwrap(),
            }),
            legal_hold: None,
        };
        let want = Attributes {
            lock: lock(),
            ..wanted()
        };
        let found = Head {
            lock: lock(),
            ..plain()
        };
        assert_differs(&want, &found, &[], None);
        assert_differs(&want, &plain(), &[], Some(Attribute::Lock));
    }
}
