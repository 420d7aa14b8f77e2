//! The attributes: where they are read, how they are set, and what may prevent that.

use std::time::{Duration, UNIX_EPOCH};

use s3haul::manifest::job::Attribute;
use s3haul::sandbox::{Algorithm, ChecksumKind, Encryption, Lock, OWNER, ObjectSpec};

/// One attribute.
pub(super) struct Row {
    pub(super) attribute: Attribute,
    /// The name in the table.
    pub(super) what: &'static str,
    pub(super) read_from: &'static str,
    pub(super) set_by: &'static str,
    pub(super) prevented_by: &'static str,
    /// Objects with this attribute.
    pub(super) cases: fn() -> Vec<(&'static str, ObjectSpec)>,
}

fn plain() -> ObjectSpec {
    ObjectSpec::default().content_type("text/csv")
}

pub(super) fn all() -> Vec<Row> {
    vec![
        Row {
            attribute: Attribute::Metadata,
            what: "user metadata, non-ASCII values verbatim",
            read_from: "HEAD",
            set_by: "headers of CopyObject (REPLACE) or Create",
            prevented_by: "metadata that S3 cannot show as headers; more than 2 KB with `set.metadata`",
            cases: metadata,
        },
        Row {
            attribute: Attribute::Headers,
            what: "Content-Type, -Encoding, -Language, -Disposition, Cache-Control, Expires (any text), website redirect",
            read_from: "HEAD",
            set_by: "headers of CopyObject (REPLACE) or Create",
            prevented_by: "",
            cases: headers,
        },
        Row {
            attribute: Attribute::Tags,
            what: "tags",
            read_from: "CopyObject copies them; GetObjectTagging for objects in parts, and if HEAD shows no number of \
                        tags",
            set_by: "CopyObject (COPY) or Create; PutObjectTagging if they are too long for a header",
            prevented_by: "no s3:GetObjectTagging at the source or s3:PutObjectTagging at the destination; a server \
                           without tags",
            cases: tags,
        },
        Row {
            attribute: Attribute::StorageClass,
            what: "storage class",
            read_from: "HEAD",
            set_by: "header of CopyObject or Create",
            prevented_by: "a class of another kind of bucket (EXPRESS_ONEZONE, OUTPOSTS, …); the copy then gets STANDARD",
            cases: classes,
        },
        Row {
            attribute: Attribute::Encryption,
            what: "SSE-S3, SSE-KMS with key and bucket key, DSSE-KMS; SSE-C by `customer_key` on either side",
            read_from: "HEAD",
            set_by: "with `require` and `to.encryption`: headers of CopyObject or Create. With `try`, the destination's \
                     bucket decides, and a weaker result is reported",
            prevented_by: "no permission to use the key; a customer key without `to.customer_key`",
            cases: encryption,
        },
        Row {
            attribute: Attribute::Lock,
            what: "Object Lock: retention and legal hold",
            read_from: "HEAD; GetObjectRetention and GetObjectLegalHold once per bucket, with `require` per object",
            set_by: "headers of CopyObject or Create",
            prevented_by: "no s3:GetObjectRetention, s3:GetObjectLegalHold, or the matching s3:Put…; a destination \
                           without Object Lock; event holds",
            cases: locks,
        },
        Row {
            attribute: Attribute::Acl,
            what: "grants to accounts and groups, unchanged",
            read_from: "GetObjectAcl",
            set_by: "grant headers of CopyObject or Create",
            prevented_by: "disabled ACLs (BucketOwnerEnforced); no s3:GetObjectAcl or s3:PutObjectAcl",
            cases: acls,
        },
        Row {
            attribute: Attribute::Annotations,
            what: "annotations",
            read_from: "CopyObject copies them; ListObjectAnnotations and GetObjectAnnotation for objects in parts",
            set_by: "CopyObject (COPY); PutObjectAnnotation after Complete, if the ETag is still the same",
            prevented_by: "no s3:…ObjectAnnotation; objects encrypted with a customer key; servers other than AWS",
            cases: annotations,
        },
    ]
}

fn metadata() -> Vec<(&'static str, ObjectSpec)> {
    let many = (0..40).fold(plain(), |spec, i| {
        spec.metadata(format!("name-{i}"), "x".repeat(40))
    });
    vec![
        (
            "plain",
            plain()
                .metadata("owner", "data team")
                .metadata("purpose", "a=b; c?d%20+"),
        ),
        // S3 encodes and decodes such values as RFC 2047 says.
        (
            "non-ascii",
            plain()
                .metadata("owner", "Jürgen")
                .metadata("city", "東京 =?"),
        ),
        ("2-kb", many),
    ]
}

fn headers() -> Vec<(&'static str, ObjectSpec)> {
    let with = |change: fn(&mut s3haul::sandbox::Attributes)| {
        let mut spec = plain();
        change(&mut spec.attributes);
        spec
    };
    vec![
        (
            "type",
            ObjectSpec::default().content_type("application/vnd.apache.parquet"),
        ),
        (
            "encoding",
            with(|a| a.content_encoding = Some("zstd".to_owned())),
        ),
        (
            "language",
            with(|a| a.content_language = Some("de, en".to_owned())),
        ),
        (
            "disposition",
            with(|a| a.content_disposition = Some("attachment; filename=\"a b.csv\"".to_owned())),
        ),
        (
            "cache-control",
            with(|a| a.cache_control = Some("max-age=3600, private".to_owned())),
        ),
        (
            "expires",
            with(|a| a.expires = Some("Thu, 01 Jan 2032 00:00:00 GMT".to_owned())),
        ),
        (
            "expires-never",
            with(|a| a.expires = Some("never; -1".to_owned())),
        ),
        (
            "redirect",
            with(|a| a.website_redirect = Some("https://example.com/there".to_owned())),
        ),
    ]
}

fn tags() -> Vec<(&'static str, ObjectSpec)> {
    let ten = (0..10).fold(plain(), |spec, i| {
        spec.tag(format!("Größe {i}"), "日本 +-=._:/@")
    });
    let long = (0..10).fold(plain(), |spec, i| {
        spec.tag(format!("{i}{}", "é".repeat(127)), "ü".repeat(256))
    });
    vec![
        ("one", plain().tag("stage", "")),
        ("ten-unicode", ten),
        ("longer-than-a-header", long),
    ]
}

fn classes() -> Vec<(&'static str, ObjectSpec)> {
    [
        "STANDARD_IA",
        "ONEZONE_IA",
        "INTELLIGENT_TIERING",
        "GLACIER_IR",
        "REDUCED_REDUNDANCY",
    ]
    .map(|class| (class, plain().storage_class(class)))
    .into()
}

fn encryption() -> Vec<(&'static str, ObjectSpec)> {
    let kms = |bucket_key, dual_layer| {
        let key_id = "arn:aws:kms:us-east-1:111122223333:key/1".to_owned();
        plain().encryption(Encryption::Kms {
            key_id,
            bucket_key,
            dual_layer,
        })
    };
    vec![
        ("s3", plain()),
        ("kms", kms(false, false)),
        ("kms-bucket-key", kms(true, false)),
        ("dsse", kms(false, true)),
    ]
}

fn locks() -> Vec<(&'static str, ObjectSpec)> {
    let until = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let lock = |mode: &str, legal_hold| Lock {
        retention: Some((mode.to_owned(), until)),
        legal_hold,
    };
    vec![
        ("governance", plain().lock(lock("GOVERNANCE", None))),
        (
            "compliance-and-hold",
            plain().lock(lock("COMPLIANCE", Some(true))),
        ),
        (
            "hold",
            plain().lock(Lock {
                retention: None,
                legal_hold: Some(true),
            }),
        ),
    ]
}

fn acls() -> Vec<(&'static str, ObjectSpec)> {
    let public = "http://acs.amazonaws.com/groups/global/AllUsers";
    let owned = || plain().grant("FULL_CONTROL", OWNER);
    vec![
        ("private", plain()),
        ("public-read", owned().grant("READ", public)),
        (
            "accounts",
            owned()
                .grant("READ", "a1")
                .grant("READ", "a2")
                .grant("READ_ACP", "a1")
                .grant("WRITE_ACP", "a3"),
        ),
    ]
}

fn annotations() -> Vec<(&'static str, ObjectSpec)> {
    let large = plain()
        .annotation("a", "x".repeat(1 << 20))
        .annotation("b", "y".repeat(1 << 20));
    vec![
        (
            "two",
            plain()
                .annotation("summary", "größer & <weiter>")
                .annotation("lineage/2026", "{\"from\": \"raw\"}"),
        ),
        ("more-than-is-held", large),
    ]
}

/// Checksums have no policy: a copy keeps the source's algorithm if S3 can compute it over the
/// whole object.
pub(super) fn checksums() -> Vec<(&'static str, ObjectSpec)> {
    let of = |algorithm| plain().checksum(algorithm, ChecksumKind::FullObject);
    vec![
        ("crc64nvme", of(Algorithm::Crc64Nvme)),
        ("crc32", of(Algorithm::Crc32)),
        ("crc32c", of(Algorithm::Crc32c)),
    ]
}
