//! Computes the digest by which a later session recognizes the attributes of an upload.
//!
//! The digest is in the journal, so the text that it is computed from must stay the same. Therefore
//! each value is written by name and not by its `Debug` text, which changes with every renamed or
//! added field. The text has the format of a `Debug` text, because the digests in older journals
//! were computed from one. If an attribute is added to s3haul, it must be added to the text only
//! for objects that have it.

use crate::journal::fingerprint;
use crate::s3::{
    Attributes, CannedAcl, ChecksumAlgorithm, ChecksumKind, ContentHeaders, Encryption, Grant,
    Lock, Permission, Retention, Tag, Tags,
};

/// Returns the digest of the attributes that the object of an upload must have.
pub(super) fn digest(attributes: &Attributes) -> String {
    fingerprint::digest(&text(attributes))
}

// Every struct is destructured by name, so that a new field cannot be forgotten here.
fn text(attributes: &Attributes) -> String {
    let Attributes {
        headers,
        metadata,
        tags,
        storage_class,
        encryption,
        checksum,
        lock,
        grants,
        acl,
        annotations,
    } = attributes;
    let (headers, lock) = (of_headers(headers), of_lock(lock));
    let tags = match tags {
        Tags::AsSource => "AsSource".to_owned(),
        Tags::Exactly(tags) => format!("Exactly({})", list(tags, of_tag)),
    };
    let encryption = option(encryption.as_ref(), of_encryption);
    let checksum = option(checksum.as_ref(), |(algorithm, kind)| {
        format!("({}, {})", of_algorithm(*algorithm), of_kind(*kind))
    });
    let grants = list(grants, of_grant);
    let acl = option(acl.as_ref(), |acl| of_acl(*acl).to_owned());
    format!(
        "Attributes {{ headers: {headers}, metadata: {metadata:?}, tags: {tags}, storage_class: {storage_class:?}, \
         encryption: {encryption}, checksum: {checksum}, lock: {lock}, grants: {grants}, acl: {acl}, annotations: \
         {annotations} }}"
    )
}

fn option<T>(value: Option<&T>, text: impl Fn(&T) -> String) -> String {
    value.map_or_else(
        || "None".to_owned(),
        |value| format!("Some({})", text(value)),
    )
}

fn list<T>(values: &[T], text: impl Fn(&T) -> String) -> String {
    let values: Vec<_> = values.iter().map(text).collect();
    format!("[{}]", values.join(", "))
}

fn of_headers(headers: &ContentHeaders) -> String {
    let ContentHeaders {
        content_type,
        content_encoding,
        content_language,
        content_disposition,
        cache_control,
        expires,
        website_redirect,
    } = headers;
    format!(
        "ContentHeaders {{ content_type: {content_type:?}, content_encoding: {content_encoding:?}, content_language: \
         {content_language:?}, content_disposition: {content_disposition:?}, cache_control: {cache_control:?}, \
         expires: {expires:?}, website_redirect: {website_redirect:?} }}"
    )
}

fn of_tag(tag: &Tag) -> String {
    let Tag { key, value } = tag;
    format!("Tag {{ key: {key:?}, value: {value:?} }}")
}

fn of_encryption(encryption: &Encryption) -> String {
    match encryption {
        Encryption::S3 => "S3".to_owned(),
        Encryption::Kms {
            key,
            bucket_key,
            dsse,
        } => format!("Kms {{ key: {key:?}, bucket_key: {bucket_key:?}, dsse: {dsse} }}"),
    }
}

fn of_lock(lock: &Lock) -> String {
    let Lock {
        retention,
        legal_hold,
    } = lock;
    let retention = option(retention.as_ref(), |Retention { mode, until }| {
        format!("Retention {{ mode: {mode:?}, until: {until} }}")
    });
    format!("Lock {{ retention: {retention}, legal_hold: {legal_hold:?} }}")
}

fn of_grant(grant: &Grant) -> String {
    let Grant {
        permission,
        grantee,
    } = grant;
    let permission = match permission {
        Permission::FullControl => "FullControl",
        Permission::Read => "Read",
        Permission::ReadAcp => "ReadAcp",
        Permission::WriteAcp => "WriteAcp",
    };
    format!("Grant {{ permission: {permission}, grantee: {grantee:?} }}")
}

const fn of_algorithm(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc64Nvme => "Crc64Nvme",
        ChecksumAlgorithm::Crc32 => "Crc32",
        ChecksumAlgorithm::Crc32c => "Crc32c",
        ChecksumAlgorithm::Sha1 => "Sha1",
        ChecksumAlgorithm::Sha256 => "Sha256",
    }
}

const fn of_kind(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::FullObject => "FullObject",
        ChecksumKind::Composite => "Composite",
        ChecksumKind::Unstated => "Untold",
    }
}

const fn of_acl(acl: CannedAcl) -> &'static str {
    match acl {
        CannedAcl::Private => "Private",
        CannedAcl::PublicRead => "PublicRead",
        CannedAcl::PublicReadWrite => "PublicReadWrite",
        CannedAcl::AuthenticatedRead => "AuthenticatedRead",
        CannedAcl::AwsExecRead => "AwsExecRead",
        CannedAcl::BucketOwnerRead => "BucketOwnerRead",
        CannedAcl::BucketOwnerFullControl => "BucketOwnerFullControl",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares digests with digests from journals that s3haul 0.1.0 wrote.
    #[test]
    fn an_upload_of_s3haul_0_1_0_is_resumed() {
        let typed = |name: &str| Attributes {
            headers: ContentHeaders {
                content_type: Some(name.to_owned()),
                ..ContentHeaders::default()
            },
            tags: Tags::Exactly(Vec::new()),
            ..Attributes::default()
        };
        let of_a_copy = typed("binary/octet-stream");
        assert_eq!(digest(&of_a_copy), "415b5b9c9eff741c");
        let with_class_and_tag = Attributes {
            tags: Tags::Exactly(vec![Tag {
                key: "a".to_owned(),
                value: "b".to_owned(),
            }]),
            storage_class: Some("STANDARD_IA".to_owned()),
            ..of_a_copy
        };
        assert_eq!(digest(&with_class_and_tag), "4d1fe384f30deb5f");
        let of_a_file = Attributes {
            metadata: [("a".to_owned(), "b".to_owned())].into(),
            ..typed("application/octet-stream")
        };
        assert_eq!(digest(&of_a_file), "0865008e1061bf42");
    }

    /// Compares the text with the text of s3haul 0.1.0.
    #[test]
    fn the_text_of_all_attributes_stays() {
        let attributes = Attributes {
            headers: ContentHeaders {
                expires: Some("\"never\"".to_owned()),
                ..ContentHeaders::default()
            },
            metadata: [("a".to_owned(), "x".to_owned())].into(),
            tags: Tags::AsSource,
            storage_class: None,
            encryption: Some(Encryption::Kms {
                key: Some("k".to_owned()),
                bucket_key: Some(true),
                dsse: false,
            }),
            checksum: Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject)),
            lock: Lock {
                retention: Some(Retention {
                    mode: "GOVERNANCE".to_owned(),
                    until: "2030-01-02T03:04:05Z".parse().unwrap(),
                }),
                legal_hold: Some(false),
            },
            grants: vec![Grant {
                permission: Permission::ReadAcp,
                grantee: "id=\"1\"".to_owned(),
            }],
            acl: Some(CannedAcl::BucketOwnerRead),
            annotations: true,
        };
        insta::assert_snapshot!(text(&attributes), @r#"Attributes { headers: ContentHeaders { content_type: None, content_encoding: None, content_language: None, content_disposition: None, cache_control: None, expires: Some("\"never\""), website_redirect: None }, metadata: {"a": "x"}, tags: AsSource, storage_class: None, encryption: Some(Kms { key: Some("k"), bucket_key: Some(true), dsse: false }), checksum: Some((Crc64Nvme, FullObject)), lock: Lock { retention: Some(Retention { mode: "GOVERNANCE", until: 2030-01-02T03:04:05Z }), legal_hold: Some(false) }, grants: [Grant { permission: ReadAcp, grantee: "id=\"1\"" }], acl: Some(BucketOwnerRead), annotations: true }"#);
    }
}
