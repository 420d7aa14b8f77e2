//! CopyObject: what a copy keeps, loses and refuses. Reads of parts and ranges.

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{MetadataDirective, ServerSideEncryption, StorageClass, TaggingDirective};
use s3haul::sandbox::{BucketOptions, Content, Encryption, ObjectSpec, SMALLEST_PART};

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
    // A tagging header does nothing without its directive.
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
    copy().storage_class(StorageClass::Standard).send().await.unwrap();
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
    sandbox
        .store()
        .put_object("src", "fits", Content::pattern(1, limit), &ObjectSpec::default());
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
async fn archived_sources_must_be_restored() {
    let (sandbox, client) = start().await;
    let cold = ObjectSpec::default().storage_class("DEEP_ARCHIVE");
    sandbox
        .store()
        .put_object("src", "cold", Content::bytes("x"), &cold);
    let mut restored = cold.clone();
    restored.attributes.restore = Some("ongoing-request=\"false\", expiry-date=\"x\"".to_owned());
    sandbox
        .store()
        .put_object("src", "restored", Content::bytes("x"), &restored);
    let copy = |key: &str| {
        client
            .copy_object()
            .bucket("dst")
            .key("k")
            .copy_source(format!("src/{key}"))
            .send()
    };
    assert_eq!(refused(copy("cold").await), is(403, "InvalidObjectState"));
    assert_eq!(
        refused(client.get_object().bucket("src").key("cold").send().await),
        is(403, "InvalidObjectState")
    );
    copy("restored").await.unwrap();
    let head = client
        .head_object()
        .bucket("src")
        .key("restored")
        .send()
        .await
        .unwrap();
    assert!(head.restore().unwrap().contains("ongoing-request=\"false\""));
}

#[tokio::test]
async fn sources_must_be_encoded() {
    let (sandbox, client) = start().await;
    for key in ["a b", "a+b", "ü?versionId=1"] {
        sandbox
            .store()
            .put_object("src", key, Content::bytes(key.to_owned()), &ObjectSpec::default());
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

#[tokio::test]
async fn parts_and_ranges_are_read() {
    let (sandbox, client) = start().await;
    let content = Content::pattern(1, 2 * SMALLEST_PART + 7);
    let layout = ObjectSpec::default().part_sizes([SMALLEST_PART, SMALLEST_PART]);
    sandbox
        .store()
        .put_object("src", "parts", content.clone(), &layout);
    sandbox
        .store()
        .put_object("src", "whole", Content::bytes("123"), &ObjectSpec::default());
    let head = |key: &str, part| {
        client
            .head_object()
            .bucket("src")
            .key(key)
            .part_number(part)
            .send()
    };
    let last = head("parts", 3).await.unwrap();
    assert_eq!((last.content_length(), last.parts_count()), (Some(7), Some(3)));
    assert_eq!(refused(head("parts", 4).await).0, 416);
    let one = head("whole", 1).await.unwrap();
    assert_eq!((one.content_length(), one.parts_count()), (Some(3), None));
    assert_eq!(refused(head("whole", 2).await).0, 416);
    let get = || client.get_object().bucket("src").key("parts");
    assert_eq!(
        refused(get().part_number(9).send().await),
        is(416, "InvalidPartNumber")
    );
    assert_eq!(
        refused(get().part_number(1).range("bytes=0-1").send().await),
        is(400, "InvalidRequest")
    );
    assert_eq!(
        refused(get().range("bytes=99999999-").send().await),
        is(416, "InvalidRange")
    );
    let ranged = get().range("bytes=1000000-3000000").send().await.unwrap();
    let bytes = ranged.body.collect().await.unwrap().into_bytes();
    assert_eq!(Content::bytes(bytes), content.slice(1_000_000..3_000_001));
    let tail = get().range("bytes=-5").send().await.unwrap();
    assert_eq!(tail.content_range(), Some("bytes 10485762-10485766/10485767"));
    assert_eq!(
        tail.body.collect().await.unwrap().into_bytes(),
        content.slice(10_485_762..10_485_767).to_bytes()
    );
    // The SDK checks the checksum of a whole object that it reads.
    let whole = get()
        .send()
        .await
        .unwrap()
        .body
        .collect()
        .await
        .unwrap()
        .into_bytes();
    assert_eq!(Content::bytes(whole), content);
}

#[tokio::test]
async fn tags_are_read_and_changed() {
    let (sandbox, client) = start().await;
    sandbox
        .store()
        .put_object("src", "key", Content::bytes("x"), &rich());
    let before = sandbox.store().object("src", "key").unwrap();
    let tags = client
        .get_object_tagging()
        .bucket("src")
        .key("key")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (tags.tag_set()[0].key(), tags.tag_set()[0].value()),
        ("team", "a b")
    );
    let tag = |key: &str| {
        aws_sdk_s3::types::Tag::builder()
            .key(key)
            .value("v")
            .build()
            .unwrap()
    };
    let put = |tags: Vec<aws_sdk_s3::types::Tag>| {
        let tagging = aws_sdk_s3::types::Tagging::builder()
            .set_tag_set(Some(tags))
            .build()
            .unwrap();
        client
            .put_object_tagging()
            .bucket("src")
            .key("key")
            .tagging(tagging)
            .send()
    };
    put(vec![tag("a"), tag("b")]).await.unwrap();
    let after = sandbox.store().object("src", "key").unwrap();
    assert_eq!(after.attributes.tags.len(), 2);
    assert_eq!(
        (after.etag, after.last_modified),
        (before.etag, before.last_modified)
    );
    assert_eq!(
        refused(put(vec![tag("a"), tag("a")]).await),
        is(400, "InvalidTag")
    );
    assert_eq!(
        refused(put((0..11).map(|n| tag(&n.to_string())).collect()).await),
        is(400, "BadRequest")
    );
    client
        .delete_object_tagging()
        .bucket("src")
        .key("key")
        .send()
        .await
        .unwrap();
    assert!(
        sandbox
            .store()
            .object("src", "key")
            .unwrap()
            .attributes
            .tags
            .is_empty()
    );
    let bad = client
        .put_object()
        .bucket("src")
        .key("k")
        .tagging("a=1&a=2")
        .send()
        .await;
    assert_eq!(refused(bad), is(400, "InvalidTag"));
}

#[tokio::test]
async fn locks_are_kept_and_never_copied() {
    let (sandbox, client) = start().await;
    sandbox.store().create_bucket(
        "lock",
        BucketOptions {
            object_lock: true,
            ..BucketOptions::default()
        },
    );
    let until = DateTime::from_secs(4_000_000_000);
    let put = |bucket: &str, until| {
        client
            .put_object()
            .bucket(bucket)
            .key("k")
            .object_lock_mode(aws_sdk_s3::types::ObjectLockMode::Governance)
            .object_lock_retain_until_date(until)
            .object_lock_legal_hold_status(aws_sdk_s3::types::ObjectLockLegalHoldStatus::On)
            .send()
    };
    let written = put("lock", until).await.unwrap();
    assert_eq!(
        refused(put("lock", DateTime::from_secs(1)).await),
        is(400, "InvalidArgument")
    );
    assert_eq!(refused(put("src", until).await), is(400, "InvalidRequest"));
    let head = client.head_object().bucket("lock").key("k").send().await.unwrap();
    assert_eq!(head.object_lock_retain_until_date(), Some(&until));
    assert_eq!(head.object_lock_legal_hold_status().unwrap().as_str(), "ON");
    let delete = client
        .delete_object()
        .bucket("lock")
        .key("k")
        .version_id(written.version_id().unwrap());
    assert_eq!(refused(delete.send().await), is(403, "AccessDenied"));
    client
        .copy_object()
        .bucket("lock")
        .key("copy")
        .copy_source("lock/k")
        .send()
        .await
        .unwrap();
    assert_eq!(
        sandbox.store().object("lock", "copy").unwrap().attributes.lock,
        s3haul::sandbox::Lock::default()
    );
}

#[tokio::test]
async fn retention_and_holds_are_read_and_changed() {
    let (sandbox, client) = start().await;
    let retention = Some(("GOVERNANCE".to_owned(), 30));
    let options = BucketOptions {
        object_lock: true,
        retention,
        ..BucketOptions::default()
    };
    sandbox.store().create_bucket("lock", options);
    client.put_object().bucket("lock").key("k").send().await.unwrap();
    let get = || client.get_object_retention().bucket("lock").key("k").send();
    let default = get().await.unwrap().retention.unwrap();
    assert_eq!(default.mode().unwrap().as_str(), "GOVERNANCE");
    let until = DateTime::from_secs(4_000_000_000);
    let put = |mode: &str, until| {
        let retention = aws_sdk_s3::types::ObjectLockRetention::builder()
            .mode(mode.into())
            .retain_until_date(until);
        client
            .put_object_retention()
            .bucket("lock")
            .key("k")
            .retention(retention.build())
    };
    put("GOVERNANCE", until).send().await.unwrap();
    let shorter = || put("GOVERNANCE", DateTime::from_secs(3_900_000_000));
    assert_eq!(refused(shorter().send().await), is(403, "AccessDenied"));
    shorter().bypass_governance_retention(true).send().await.unwrap();
    put("COMPLIANCE", until)
        .bypass_governance_retention(true)
        .send()
        .await
        .unwrap();
    assert_eq!(
        refused(shorter().bypass_governance_retention(true).send().await),
        is(403, "AccessDenied")
    );

    let hold = || client.get_object_legal_hold().bucket("lock").key("k").send();
    assert_eq!(refused(hold().await), is(404, "NoSuchObjectLockConfiguration"));
    let on = aws_sdk_s3::types::ObjectLockLegalHold::builder()
        .status("ON".into())
        .build();
    client
        .put_object_legal_hold()
        .bucket("lock")
        .key("k")
        .legal_hold(on)
        .send()
        .await
        .unwrap();
    assert_eq!(
        hold().await.unwrap().legal_hold.unwrap().status.unwrap().as_str(),
        "ON"
    );

    let configuration = |bucket: &str| client.get_object_lock_configuration().bucket(bucket).send();
    let rule = configuration("lock")
        .await
        .unwrap()
        .object_lock_configuration
        .unwrap()
        .rule
        .unwrap();
    assert_eq!(rule.default_retention.unwrap().days(), Some(30));
    assert_eq!(
        refused(configuration("src").await),
        is(404, "ObjectLockConfigurationNotFoundError")
    );
    sandbox
        .store()
        .put_object("src", "k", Content::empty(), &ObjectSpec::default());
    let plain = client.get_object_retention().bucket("src").key("k").send().await;
    assert_eq!(refused(plain), is(400, "InvalidRequest"));
    let acl = client
        .get_object_acl()
        .bucket("src")
        .key("k")
        .send()
        .await
        .unwrap();
    assert_eq!(acl.grants()[0].permission().unwrap().as_str(), "FULL_CONTROL");
}

#[tokio::test]
async fn archived_objects_are_restored() {
    let (sandbox, client) = start().await;
    let cold = ObjectSpec::default().storage_class("GLACIER");
    sandbox
        .store()
        .put_object("src", "cold", Content::bytes("x"), &cold);
    sandbox
        .store()
        .put_object("src", "warm", Content::bytes("x"), &ObjectSpec::default());
    let restore = |key: &str| {
        let request = aws_sdk_s3::types::RestoreRequest::builder().days(3).build();
        client
            .restore_object()
            .bucket("src")
            .key(key)
            .restore_request(request)
            .send()
    };
    assert_eq!(
        refused(restore("warm").await),
        is(403, "ObjectAlreadyInActiveTierError")
    );
    restore("cold").await.unwrap();
    assert_eq!(
        refused(restore("cold").await),
        is(409, "RestoreAlreadyInProgress")
    );
    let calls = sandbox.calls().of(s3haul::sandbox::Operation::RestoreObject);
    assert_eq!(calls[1].status, Some(202));
    let copy = || {
        client
            .copy_object()
            .bucket("dst")
            .key("k")
            .copy_source("src/cold")
            .send()
    };
    assert_eq!(refused(copy().await), is(403, "InvalidObjectState"));
    sandbox.store().finish_restores("src");
    copy().await.unwrap();
    restore("cold").await.unwrap();
    let head = client
        .head_object()
        .bucket("src")
        .key("cold")
        .send()
        .await
        .unwrap();
    assert!(
        head.restore().unwrap().ends_with(" GMT\""),
        "{:?}",
        head.restore()
    );
    assert_eq!(head.storage_class(), Some(&StorageClass::Glacier));
}
