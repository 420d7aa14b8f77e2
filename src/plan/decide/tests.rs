//! Tests which objects are copied, skipped, or compared by HEAD, and by which routes.

use proptest::prelude::*;

use super::*;
use crate::pace::speed::Speed;
use crate::s3::{Checksum, ChecksumAlgorithm};
use crate::size::{ByteSize, GIB, MIB};

const CAPACITY: Capacity = Capacity {
    in_flight: 512,
    speed: Speed::TYPICAL,
};

fn at(second: i64) -> Option<Timestamp> {
    Timestamp::from_second(second).ok()
}

const A: &str = "0cc175b9c0f1b6a831c399e269772661";
const B: &str = "92eb5ffee6ae2fec3ad71c777531578f";

fn side(etag: Option<&'static str>, second: i64) -> Side<'static> {
    Side {
        size: 5,
        etag,
        modified: at(second),
        is_file: false,
    }
}

fn equal(basis: Basis) -> Decision {
    Decision::Skip(Skip::equal(basis))
}

#[test]
fn auto_is_size_then_etag_then_a_destination_that_is_strictly_newer() {
    let source = side(Some(A), 100);
    let parts = format!("{B}-3");
    for (destination, decision) in [
        (None, Decision::Copy(Reason::Missing)),
        (
            Some(Side {
                size: 6,
                ..side(Some(A), 200)
            }),
            Decision::Copy(Reason::SizeDiffers),
        ),
        (Some(side(Some(A), 50)), equal(Basis::Etag)),
        (
            Some(Side {
                etag: Some(&parts),
                ..source
            }),
            Decision::Copy(Reason::SameSecond),
        ),
        (
            Some(Side {
                etag: Some(&parts),
                ..side(None, 101)
            }),
            equal(Basis::Time),
        ),
        (Some(side(Some("opaque"), 101)), equal(Basis::Time)),
        (
            Some(side(Some("opaque"), 50)),
            Decision::Copy(Reason::Newer),
        ),
        // Two MD5s: either the bytes differ, or an encryption key changes the ETag.
        (Some(side(Some(B), 101)), Decision::Ask(Doubt::Etags)),
        (Some(side(Some(B), 100)), Decision::Copy(Reason::SameSecond)),
        (Some(side(Some(B), 50)), Decision::Copy(Reason::Newer)),
        (
            Some(Side {
                modified: None,
                ..side(None, 0)
            }),
            Decision::Copy(Reason::Newer),
        ),
    ] {
        assert_eq!(
            decide(When::Changed, Compare::Auto, source, destination),
            decision,
            "{destination:?}"
        );
    }
    let there = Some(Side {
        size: 9,
        ..side(None, 0)
    });
    assert_eq!(
        decide(When::Missing, Compare::Auto, source, there),
        Decision::Skip(Skip::Present)
    );
    assert_eq!(
        decide(When::Always, Compare::Auto, source, there),
        Decision::Copy(Reason::Always)
    );
    let file = Side {
        is_file: true,
        ..side(None, 100)
    };
    let same_second = Decision::Copy(Reason::SameSecond);
    assert_eq!(
        decide(When::Changed, Compare::Auto, file, Some(side(Some(A), 100))),
        same_second
    );
    assert_eq!(
        decide(When::Changed, Compare::Auto, file, Some(side(Some(A), 101))),
        equal(Basis::Time)
    );
}

#[test]
fn each_mode_compares_what_it_is_called_by() {
    let (newer, older, parts) = (side(Some(B), 101), side(Some(B), 50), format!("{A}-3"));
    let (source, in_parts) = (
        side(Some(A), 100),
        Side {
            etag: Some(&parts),
            ..side(None, 100)
        },
    );
    let (ask, copy) = (Decision::Ask(Doubt::Content), Decision::Copy);
    for (compare, newer_differs, older_is_equal, incomparable) in [
        (
            Compare::Auto,
            Decision::Ask(Doubt::Etags),
            equal(Basis::Etag),
            equal(Basis::Time),
        ),
        (
            Compare::Size,
            equal(Basis::Size),
            equal(Basis::Size),
            equal(Basis::Size),
        ),
        (
            Compare::Etag,
            copy(Reason::EtagDiffers),
            equal(Basis::Etag),
            equal(Basis::Time),
        ),
        (Compare::Checksum, ask, ask, ask),
        (
            Compare::Time,
            equal(Basis::Time),
            copy(Reason::Newer),
            equal(Basis::Time),
        ),
    ] {
        let decided = |source, there| decide(When::Changed, compare, source, Some(there));
        assert_eq!(decided(source, newer), newer_differs, "{compare}");
        assert_eq!(
            decided(
                Side {
                    etag: Some(B),
                    ..source
                },
                older
            ),
            older_is_equal,
            "{compare}"
        );
        let there = Side {
            modified: at(1_000_000),
            ..newer
        };
        assert_eq!(decided(in_parts, there), incomparable, "{compare}");
        let longer = Side { size: 6, ..newer };
        assert_eq!(
            decided(source, longer),
            copy(Reason::SizeDiffers),
            "{compare}"
        );
        let file = Side {
            etag: None,
            is_file: true,
            ..source
        };
        let hashes = matches!(compare, Compare::Etag | Compare::Checksum);
        assert_eq!(decided(file, older) == ask, hashes, "{compare}");
    }
    let empty = Side { size: 0, ..source };
    assert_eq!(
        decide(When::Changed, Compare::Checksum, empty, Some(empty)),
        equal(Basis::Checksum)
    );
}

#[test]
fn a_source_in_parts_is_asked_for_while_its_upload_may_still_have_run() {
    let in_parts = format!("{}-3", crate::checksum::md5_etag(b""));
    let source = Side {
        size: 100 * MIB,
        etag: Some(&in_parts),
        ..side(None, 1000)
    };
    let hours = longest_upload(100 * MIB).as_secs().cast_signed();
    assert_eq!(hours, 15 * 60 + 800);
    for (modified, size, decision) in [
        (1001, 100 * MIB, Decision::Ask(Doubt::Dated)),
        (1000 + hours, 100 * MIB, Decision::Ask(Doubt::Dated)),
        (1000 + hours + 1, 100 * MIB, equal(Basis::Time)),
        (1000, 100 * MIB, Decision::Copy(Reason::SameSecond)),
        (1001, 99 * MIB, Decision::Copy(Reason::SizeDiffers)),
    ] {
        let there = Side {
            size,
            etag: Some("other"),
            modified: at(modified),
            is_file: false,
        };
        assert_eq!(
            decide(When::Changed, Compare::Auto, source, Some(there)),
            decision,
            "{modified}"
        );
    }
    let there = Side {
        modified: at(1001),
        ..source
    };
    assert_eq!(
        decide(When::Changed, Compare::Auto, source, Some(there)),
        equal(Basis::Etag)
    );
    // The same number of parts: only HEAD shows whether the boundaries are the same.
    let other = format!("{B}-3");
    let there = Side {
        etag: Some(&other),
        modified: at(9_000_000),
        ..source
    };
    let decided = decide(When::Changed, Compare::Auto, source, Some(there));
    assert_eq!(decided, Decision::Ask(Doubt::Etags));
    assert_eq!(longest_upload(u64::MAX), Duration::from_hours(168));
}

#[test]
fn heads_tell_by_checksums_and_then_by_etags_that_no_key_hides() {
    let sum = |algorithm, value: &str| {
        Some(Checksum {
            algorithm,
            kind: ChecksumKind::FullObject,
            value: value.into(),
        })
    };
    let (crc, sha) = (ChecksumAlgorithm::Crc64Nvme, ChecksumAlgorithm::Sha256);
    let head = |etag: &str, checksum| Head {
        size: 5,
        etag: etag.into(),
        checksum,
        ..Head::default()
    };
    let kms = |head: Head| Head { kms: true, ..head };
    let (a_parts, b_parts) = (format!("{A}-2"), format!("{B}-2"));
    for (source, destination, told) in [
        (
            head(A, sum(crc, "x")),
            head(B, sum(crc, "y")),
            Content::Differs(Reason::ChecksumDiffers),
        ),
        (
            head(A, sum(crc, "x")),
            kms(head(B, sum(crc, "x"))),
            Content::Equal(Basis::Checksum),
        ),
        (
            head(A, sum(sha, "x")),
            head(A, sum(crc, "y")),
            Content::Equal(Basis::Etag),
        ),
        (
            head(A, None),
            head(B, sum(crc, "y")),
            Content::Differs(Reason::EtagDiffers),
        ),
        (head(A, None), kms(head(B, None)), Content::Unknown),
        (kms(head(A, None)), head(B, None), Content::Unknown),
        (
            head(&a_parts, None),
            head(&b_parts, None),
            Content::SamePartCount,
        ),
        (head(&a_parts, None), head(B, None), Content::Unknown),
        (head("opaque", None), head(B, None), Content::Unknown),
        (
            Head {
                size: 6,
                ..head(A, None)
            },
            head(A, None),
            Content::Differs(Reason::SizeDiffers),
        ),
        (
            Head {
                size: 0,
                ..head(A, None)
            },
            Head {
                size: 0,
                ..head(B, None)
            },
            Content::Equal(Basis::Checksum),
        ),
    ] {
        assert_eq!(
            content(&source, &destination, true),
            told,
            "{source:?} {destination:?}"
        );
    }
    assert_eq!(
        content(&head(A, None), &head(A, None), false),
        Content::Unknown
    );
}

#[test]
fn composite_checksums_tell_only_of_objects_with_as_many_parts() {
    let composite = |etag: &str, value: &str| {
        let (algorithm, kind) = (ChecksumAlgorithm::Crc32, ChecksumKind::Composite);
        Head {
            size: 5,
            etag: etag.into(),
            checksum: Some(Checksum {
                algorithm,
                kind,
                value: value.into(),
            }),
            ..Head::default()
        }
    };
    for (source, destination, told) in [
        (
            composite("a-2", "x"),
            composite("b-3", "z"),
            Content::Unknown,
        ),
        (
            composite("a-2", "x"),
            composite("b-2", "x"),
            Content::Equal(Basis::Checksum),
        ),
    ] {
        assert_eq!(
            content(&source, &destination, true),
            told,
            "{source:?} {destination:?}"
        );
    }
}

fn some_side() -> impl Strategy<Value = Side<'static>> {
    const PARTS: &str = "0cc175b9c0f1b6a831c399e269772661-2";
    const OTHERS: &str = "92eb5ffee6ae2fec3ad71c777531578f-2";
    let etag = prop::sample::select(vec![
        None,
        Some(A),
        Some(B),
        Some(PARTS),
        Some(OTHERS),
        Some("opaque"),
    ]);
    (0..3_u64, etag, prop::option::of(0..3_i64), any::<bool>()).prop_map(
        |(size, etag, second, is_file)| Side {
            size,
            etag: etag.filter(|_| !is_file),
            modified: second.and_then(at),
            is_file,
        },
    )
}

proptest! {
    /// Checks that no mode skips an object of another size, or names a basis that it did not
    /// compare.
    #[test]
    fn what_is_left_is_left_for_the_reason_that_is_told(
        source in some_side(),
        there in some_side(),
        compare in prop::sample::select(vec![
            Compare::Auto, Compare::Size, Compare::Etag, Compare::Checksum, Compare::Time,
        ]),
    ) {
        let there = Side { is_file: false, ..there };
        match decide(When::Changed, compare, source, Some(there)) {
            Decision::Skip(Skip::Equal { equal_by, .. }) => {
                prop_assert_eq!(source.size, there.size);
                match equal_by {
                    Basis::Etag => prop_assert_eq!(Etags::of(source.etag, there.etag), Etags::Equal),
                    Basis::Time => {
                        prop_assert!(source.modified < there.modified && source.modified.is_some());
                        // Equal ETags that do not derive from the bytes prove nothing.
                        let etags = Etags::of(source.etag, there.etag);
                        prop_assert!(compare == Compare::Time || etags != Etags::Equal);
                    }
                    Basis::Size => prop_assert_eq!(compare, Compare::Size),
                    Basis::Checksum => prop_assert_eq!((compare, source.size), (Compare::Checksum, 0)),
                    Basis::DeleteMarker => prop_assert!(false),
                }
                // A mode that compares ETags never ignores two different MD5s.
                if matches!(compare, Compare::Auto | Compare::Etag) {
                    let differ = Etags::of(source.etag, there.etag) == Etags::Md5sDiffer;
                    prop_assert!(!differ);
                }
            }
            Decision::Skip(other) => prop_assert!(false, "{:?}", other),
            // Lists decide for most objects; only doubts cost requests.
            Decision::Ask(Doubt::Content) => {
                prop_assert!(compare == Compare::Checksum || (compare == Compare::Etag && source.is_file));
            }
            Decision::Ask(_) => prop_assert!(source.modified < there.modified),
            Decision::Copy(_) => {}
        }
    }
}

fn routed(
    size: u64,
    source_kind: SourceKind,
    threshold: u64,
    capabilities: &Capabilities,
) -> &'static str {
    let parts = Parts {
        threshold: ByteSize(threshold),
        ..Parts::default()
    };
    route(size, source_kind, &parts, capabilities, CAPACITY)
        .map_or("too large", |route| route.name())
}

#[test]
fn the_size_decides_the_route_on_both_sides_of_each_boundary() {
    let aws = &Capabilities::AWS;
    for (size, threshold, name) in [
        (0, 5 * MIB, "copy"),
        (256 * MIB, 256 * MIB, "copy"),
        (256 * MIB + 1, 256 * MIB, "multipart-copy"),
        (5 * GIB, 5 * GIB, "copy"),
        (5 * GIB + 1, 5 * GIB, "multipart-copy"),
        (5 * GIB + 1, 50 * GIB, "multipart-copy"),
        (53_687_091_200_000, 5 * GIB, "multipart-copy"),
        (53_687_091_200_001, 5 * GIB, "too large"),
    ] {
        assert_eq!(
            routed(size, SourceKind::Bucket, threshold, aws),
            name,
            "{size}"
        );
    }
    assert_eq!(routed(0, SourceKind::Local, 5 * MIB, aws), "put");
    assert_eq!(
        routed(17 * MIB, SourceKind::Local, 5 * MIB, aws),
        "multipart-upload"
    );
}

#[test]
fn a_server_without_part_copies_copies_any_size_in_one_request() {
    let gcs = Capabilities {
        part_copy: false,
        max_copy: u64::MAX,
        ..Capabilities::UNKNOWN_SERVER
    };
    assert_eq!(
        routed(50 * GIB, SourceKind::Bucket, 256 * MIB, &gcs),
        "copy"
    );
    let neither = Capabilities {
        part_copy: false,
        ..Capabilities::UNKNOWN_SERVER
    };
    assert_eq!(
        routed(50 * GIB, SourceKind::Bucket, 256 * MIB, &neither),
        "too large"
    );
}

#[test]
fn equal_etags_that_are_no_md5s_say_nothing() {
    let parts = format!("{A}-2");
    for (etag, says) in [
        (A, equal(Basis::Etag)),
        (parts.as_str(), equal(Basis::Etag)),
        ("abc", Decision::Copy(Reason::Newer)),
        ("-", Decision::Copy(Reason::Newer)),
        ("0", Decision::Copy(Reason::Newer)),
        ("abc-1", Decision::Copy(Reason::Newer)),
    ] {
        let of = |second| Side {
            etag: Some(etag),
            ..side(None, second)
        };
        for compare in [Compare::Auto, Compare::Etag] {
            let decided = decide(When::Changed, compare, of(100), Some(of(50)));
            assert_eq!(decided, says, "{etag} {compare}");
        }
    }
}
