//! `CopyObject`: attributes that a copy keeps or loses, and copies that are refused.

use aws_sdk_s3::types::{MetadataDirective, ServerSideEncryption, StorageClass, TaggingDirective};
use s3haul::sandbox::{Content, Encryption, ObjectSpec};

use super::{is, refused, start};

fn rich() -> ObjectSpec {
    let mut spec = ObjectSpec::default()
        .content_type("text/css")
        .metadata("owner", "data")
        .tag("team", "a b")
        .storage_class("STANDARD_IA")
        .encryption(Encryption::kms("arn:aws:kms:us-east-1:111122223333:key/1"));
    spec.attributes.expires = Some("Thu, 01 Dec 2033 16:00:00 GMT".to_owned());
    spec.attributes.website_redirect = Some("/other".to_owned());
    spec
}

#[tokio::test]
async fn a_plain_copy_keeps_metadata_and_tags_only() {
    let (sandbox, client) = start().await;
    let source = sandbox
        .store()
        .put_object("src", "key", Content::bytes("x"), &rich());
    // A tagging header has no effect without its directive.
    let call = client
        .copy_object()
        .bucket("dst")
        .key("k")
        .copy_source("src/key")
        .tagging("");
    let copied = call.send().await.unwrap();
    let copy = sandbox.store().object("dst", "k").unwrap();
    assert_eq!(copy.attributes.content_type.as_deref(), Some("text/css"));
    assert_eq!(copy.attributes.expires, source.attributes.expires);
    assert_eq!(copy.attributes.metadata, source.attributes.metadata);
    assert_eq!(copy.attributes.tags, source.attributes.tags);
    assert_eq!(copy.attributes.class(), "STANDARD");
    assert_eq!(copy.attributes.encryption, Encryption::Aes256);
    assert_eq!(copy.attributes.website_redirect, None);
    assert_eq!(copy.etag, "9dd4e461268c8034f5c8564e155c67a6");
    assert_ne!(source.etag, copy.etag);
    assert_eq!(
        copied.server_side_encryption(),
        Some(&ServerSideEncryption::Aes256)
    );
    let head = client
        .head_object()
        .bucket("src")
        .key("key")
        .send()
        .await
        .unwrap();
    assert_eq!(head.expires_string(), Some("Thu, 01 Dec 2033 16:00:00 GMT"));
    assert_eq!(head.website_redirect_location(), Some("/other"));
    assert_eq!(head.storage_class(), Some(&StorageClass::StandardIa));
    assert_eq!(
        head.ssekms_key_id(),
        Some("arn:aws:kms:us-east-1:111122223333:key/1")
    );
}

/// Another ACL alone does not count as a change.
#[tokio::test]
async fn a_copy_onto_itself_must_change_something() {
    let (sandbox, client) = start().await;
    sandbox
        .store()
        .put_object("src", "key", Content::bytes("x"), &rich());
    let onto_itself = || {
        client
            .copy_object()
            .bucket("src")
            .key("key")
            .copy_source("src/key")
    };
    let acl = aws_sdk_s3::types::ObjectCannedAcl::BucketOwnerFullControl;
    assert_eq!(
        refused(onto_itself().send().await),
        is(400, "InvalidRequest")
    );
    assert_eq!(
        refused(onto_itself().acl(acl).send().await),
        is(400, "InvalidRequest")
    );
    onto_itself()
        .storage_class(StorageClass::GlacierIr)
        .send()
        .await
        .unwrap();
    onto_itself()
        .metadata_directive(MetadataDirective::Replace)
        .send()
        .await
        .unwrap();
    let attributes = sandbox.store().object("src", "key").unwrap().attributes;
    assert!(
        attributes.metadata.is_empty() && attributes.class() == "STANDARD",
        "{attributes:?}"
    );
}

#[tokio::test]
async fn directives_replace_all_or_nothing() {
    let (sandbox, client) = start().await;
    sandbox
        .store()
        .put_object("src", "key", Content::bytes("x"), &rich());
    client
        .copy_object()
        .bucket("dst")
        .key("k")
        .copy_source("src/key")
        .metadata_directive(MetadataDirective::Replace)
        .metadata("new", "1")
        .tagging_directive(TaggingDirective::Replace)
        .storage_class(StorageClass::GlacierIr)
        .server_side_encryption(ServerSideEncryption::AwsKms)
        .bucket_key_enabled(true)
        .website_redirect_location("/there")
        .send()
        .await
        .unwrap();
    let copy = sandbox.store().object("dst", "k").unwrap();
    assert_eq!(copy.attributes.content_type, None);
    assert_eq!(copy.attributes.metadata.keys().collect::<Vec<_>>(), ["new"]);
    assert!(copy.attributes.tags.is_empty());
    assert_eq!(copy.attributes.class(), "GLACIER_IR");
    assert_eq!(copy.attributes.website_redirect.as_deref(), Some("/there"));
    let Encryption::Kms {
        key_id, bucket_key, ..
    } = &copy.attributes.encryption
    else {
        panic!("not KMS")
    };
    assert!(key_id.ends_with("alias/aws/s3") && *bucket_key);
}

#[tokio::test]
async fn a_copy_to_itself_must_change_something() {
    let (sandbox, client) = start().await;
    sandbox
        .store()
        .put_object("src", "key", Content::bytes("x"), &ObjectSpec::default());
    let copy = || {
        client
            .copy_object()
            .bucket("src")
            .key("key")
            .copy_source("src/key")
    };
    assert_eq!(refused(copy().send().await), is(400, "InvalidRequest"));
    copy()
        .storage_class(StorageClass::Standard)
        .send()
        .await
        .unwrap();
    copy()
        .metadata_directive(MetadataDirective::Replace)
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn five_gib_is_the_largest_copy() {
    let (sandbox, client) = start().await;
    let limit = 5 * 1024 * 1024 * 1024;
    sandbox.store().put_object(
        "src",
        "fits",
        Content::pattern(1, limit),
        &ObjectSpec::default(),
    );
    sandbox.store().put_object(
        "src",
        "over",
        Content::pattern(1, limit + 1),
        &ObjectSpec::default(),
    );
    let copy = |key: &str| {
        client
            .copy_object()
            .bucket("dst")
            .key("k")
            .copy_source(format!("src/{key}"))
            .send()
    };
    copy("fits").await.unwrap();
    assert_eq!(refused(copy("over").await), is(400, "InvalidRequest"));
}

#[tokio::test]
async fn sources_must_be_encoded() {
    let (sandbox, client) = start().await;
    for key in ["a b", "a+b", "ü?versionId=1"] {
        sandbox.store().put_object(
            "src",
            key,
            Content::bytes(key.to_owned()),
            &ObjectSpec::default(),
        );
    }
    let copy = |source: &str| {
        client
            .copy_object()
            .bucket("dst")
            .key("k")
            .copy_source(source)
            .send()
    };
    for (source, key) in [
        ("src/a%20b", "a b"),
        ("/src/a%2Bb", "a+b"),
        ("src/a+b", "a b"),
        ("src%2Fa%20b", "a b"),
        ("src/%C3%BC%3FversionId%3D1", "ü?versionId=1"),
    ] {
        copy(source).await.unwrap();
        assert_eq!(
            sandbox.store().object("dst", "k").unwrap().content,
            Content::bytes(key.to_owned()),
            "{source}"
        );
    }
    assert_eq!(refused(copy("nokey").await), is(400, "InvalidArgument"));
}
