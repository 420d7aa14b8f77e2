//! Copied parts: the resulting object, and ranges that are never cut short.

use aws_sdk_s3::primitives::ByteStream;
use s3haul::sandbox::{Content, ObjectSpec};

use super::super::{complete, is, refused};
use super::{MIN, copy_part, create, start_with_source};

#[tokio::test]
async fn copied_parts_become_the_object() {
    let (sandbox, client) = start_with_source().await;
    let created = client
        .create_multipart_upload()
        .bucket("dst")
        .key("k")
        .content_type("text/css")
        .cache_control("no-store")
        .metadata("a", "b")
        .tagging("t=1")
        .storage_class(aws_sdk_s3::types::StorageClass::StandardIa)
        .send()
        .await
        .unwrap();
    let id = created.upload_id().unwrap();
    let one = copy_part(&client, id, 1, &format!("bytes=0-{}", MIN - 1)).await;
    let two = copy_part(&client, id, 2, &format!("bytes={MIN}-{}", 2 * MIN - 1)).await;
    let three = copy_part(
        &client,
        id,
        3,
        &format!("bytes={}-{}", 2 * MIN, 2 * MIN + 9),
    )
    .await;
    let ignored = copy_part(&client, id, 4, "bytes=0-9").await;
    assert!(!ignored.is_empty());
    let done = complete(
        &client,
        "dst",
        "k",
        id,
        &[(1, &one), (2, &two), (3, &three)],
    )
    .await
    .unwrap();
    let (source, copy) = (
        sandbox.store().object("src", "key").unwrap(),
        sandbox.store().object("dst", "k").unwrap(),
    );
    assert_eq!(copy.content, source.content);
    assert_eq!(done.e_tag().unwrap().trim_matches('"'), copy.etag);
    assert!(copy.etag.ends_with("-3"));
    assert_eq!(copy.checksum, source.checksum);
    assert_eq!(copy.attributes.cache_control.as_deref(), Some("no-store"));
    assert_eq!(copy.attributes.class(), "STANDARD_IA");
    assert_eq!(
        (
            copy.attributes.metadata["a"].as_str(),
            copy.attributes.tags["t"].as_str()
        ),
        ("b", "1")
    );
    assert!(sandbox.store().open_uploads("dst").is_empty());
    // An object that is set up with the same layout has the same ETag, by S3's formula.
    let layout = ObjectSpec::default().part_sizes([MIN, MIN]);
    assert_eq!(
        sandbox
            .store()
            .put_object("src", "again", source.content, &layout)
            .etag,
        copy.etag
    );
    // A second Complete gets the same answer. For all other requests, the upload is gone.
    let again = complete(&client, "dst", "k", id, &[(1, &one)])
        .await
        .unwrap();
    assert_eq!(again.e_tag(), done.e_tag());
    let gone = is(404, "NoSuchUpload");
    assert_eq!(
        refused(
            client
                .list_parts()
                .bucket("dst")
                .key("k")
                .upload_id(id)
                .send()
                .await
        ),
        gone
    );
    assert_eq!(
        refused(
            client
                .abort_multipart_upload()
                .bucket("dst")
                .key("k")
                .upload_id(id)
                .send()
                .await
        ),
        gone
    );
    let part = client
        .upload_part()
        .bucket("dst")
        .key("k")
        .upload_id(id)
        .part_number(1);
    assert_eq!(
        refused(part.body(ByteStream::from_static(b"x")).send().await),
        gone
    );
}

#[tokio::test]
async fn ranges_of_copied_parts_are_never_cut() {
    let (sandbox, client) = start_with_source().await;
    sandbox.store().put_object(
        "src",
        "large",
        Content::pattern(1, 6 << 30),
        &ObjectSpec::default(),
    );
    let id = create(&client).await;
    let part = |source: &str, number, range: Option<&str>| {
        let call = client
            .upload_part_copy()
            .bucket("dst")
            .key("k")
            .upload_id(&id)
            .part_number(number);
        call.copy_source(format!("src/{source}"))
            .set_copy_source_range(range.map(str::to_owned))
            .send()
    };
    let end = 2 * MIN + 10;
    let (over, behind) = (format!("bytes=0-{end}"), format!("bytes={end}-{}", end + 1));
    assert_eq!(
        refused(part("key", 1, Some(&over)).await),
        is(400, "InvalidArgument")
    );
    assert_eq!(
        refused(part("key", 1, Some(&behind)).await),
        is(400, "InvalidRequest")
    );
    for malformed in ["bytes=0-", "bytes=-5", "bytes=5-4", "bytes=0-1,3-4", "0-5"] {
        assert_eq!(
            refused(part("key", 1, Some(malformed)).await),
            is(400, "InvalidArgument"),
            "{malformed}"
        );
    }
    assert_eq!(
        refused(part("large", 1, None).await),
        is(400, "InvalidRequest")
    );
    part("large", 1, Some("bytes=0-5368709119")).await.unwrap();
    assert_eq!(
        refused(part("large", 1, Some("bytes=0-5368709120")).await),
        is(400, "InvalidRequest")
    );
    for number in [0, 10_001, -1] {
        assert_eq!(
            refused(part("key", number, None).await),
            is(400, "InvalidArgument"),
            "{number}"
        );
    }
    assert_eq!(refused(part("none", 1, None).await), is(404, "NoSuchKey"));
    let nowhere = client
        .upload_part_copy()
        .bucket("dst")
        .key("k")
        .upload_id(&id)
        .part_number(1);
    assert_eq!(
        refused(nowhere.copy_source("nobucket/key").send().await),
        is(404, "NoSuchBucket")
    );
    let shapeless = client
        .upload_part_copy()
        .bucket("dst")
        .key("k")
        .upload_id(&id)
        .part_number(1);
    assert_eq!(
        refused(shapeless.copy_source("nokey").send().await),
        is(400, "InvalidArgument")
    );
}
