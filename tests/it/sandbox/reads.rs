//! Reads of ranges, parts, and tags.

use s3haul::sandbox::{Content, ObjectSpec, SMALLEST_PART};

use super::{is, refused, start};

#[tokio::test]
async fn parts_and_ranges_are_read() {
    let (sandbox, client) = start().await;
    let content = Content::pattern(1, 2 * SMALLEST_PART + 7);
    let layout = ObjectSpec::default().part_sizes([SMALLEST_PART, SMALLEST_PART]);
    sandbox
        .store()
        .put_object("src", "parts", content.clone(), &layout);
    sandbox.store().put_object(
        "src",
        "whole",
        Content::bytes("123"),
        &ObjectSpec::default(),
    );
    let head = |key: &str, part| {
        client
            .head_object()
            .bucket("src")
            .key(key)
            .part_number(part)
            .send()
    };
    let last = head("parts", 3).await.unwrap();
    assert_eq!(
        (last.content_length(), last.parts_count()),
        (Some(7), Some(3))
    );
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
    assert_eq!(
        tail.content_range(),
        Some("bytes 10485762-10485766/10485767")
    );
    assert_eq!(
        tail.body.collect().await.unwrap().into_bytes(),
        content.slice(10_485_762..10_485_767).to_bytes()
    );
    // When the SDK reads a whole object, it verifies the checksum.
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
    sandbox.store().put_object(
        "src",
        "key",
        Content::bytes("x"),
        &ObjectSpec::default().tag("team", "a b"),
    );
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
