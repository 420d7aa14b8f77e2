//! Plain buckets, objects, lists, copies, and uploads.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use s3haul::sandbox::{Content, LARGEST_PIECE, ObjectSpec};

use super::{is, refused, start};

#[tokio::test]
async fn an_object_comes_back_as_it_was_put() {
    let (sandbox, client) = start().await;
    let put = client
        .put_object()
        .bucket("src")
        .key("a b/ü+%.txt")
        .body(ByteStream::from_static(b"123456789"))
        .content_type("text/plain")
        .metadata("color", "grün")
        .tagging("a=1&b=x%20y")
        .send()
        .await
        .unwrap();
    assert_eq!(put.e_tag(), Some("\"25f9e794323b453885f5181f1b624d0b\""));
    let got = client
        .get_object()
        .bucket("src")
        .key("a b/ü+%.txt")
        .send()
        .await
        .unwrap();
    assert_eq!(got.content_type(), Some("text/plain"));
    // S3 encodes metadata that is not ASCII.
    assert_eq!(got.metadata().unwrap()["color"], "=?UTF-8?B?Z3LDvG4=?=");
    assert_eq!(got.tag_count(), Some(2));
    assert_eq!(got.body.collect().await.unwrap().to_vec(), b"123456789");
    let stored = sandbox.store().object("src", "a b/ü+%.txt").unwrap();
    assert_eq!(stored.attributes.metadata["color"], "grün");
    assert_eq!(stored.attributes.tags["b"], "x y");
    assert_eq!(sandbox.store().keys("src"), ["a b/ü+%.txt"]);
    let missing = client.get_object().bucket("src").key("none").send().await;
    assert_eq!(refused(missing), is(404, "NoSuchKey"));
}

#[tokio::test]
async fn an_object_of_the_largest_size_is_copied_in_10_000_parts() {
    let (sandbox, client) = start().await;
    let size = 10_000 * LARGEST_PIECE;
    let source = sandbox.store().put_object(
        "src",
        "huge",
        Content::pattern(1, size),
        &ObjectSpec::default(),
    );
    let upload = client
        .create_multipart_upload()
        .bucket("dst")
        .key("huge")
        .send()
        .await
        .unwrap();
    let upload_id = upload.upload_id().unwrap();
    let mut parts = Vec::new();
    for first in (1..=10_000).step_by(100) {
        let copies = (first..first + 100).map(|number| {
            let from = u64::try_from(number - 1).unwrap() * LARGEST_PIECE;
            let call = client
                .upload_part_copy()
                .bucket("dst")
                .key("huge")
                .upload_id(upload_id)
                .part_number(number)
                .copy_source("src/huge")
                .copy_source_range(format!("bytes={from}-{}", from + LARGEST_PIECE - 1));
            async move {
                let tag = call
                    .send()
                    .await
                    .unwrap()
                    .copy_part_result
                    .unwrap()
                    .e_tag
                    .unwrap();
                CompletedPart::builder()
                    .part_number(number)
                    .e_tag(tag)
                    .build()
            }
        });
        parts.extend(futures::future::join_all(copies).await);
    }
    client
        .complete_multipart_upload()
        .bucket("dst")
        .key("huge")
        .upload_id(upload_id)
        .mpu_object_size(i64::try_from(size).unwrap())
        .multipart_upload(
            CompletedMultipartUpload::builder()
                .set_parts(Some(parts))
                .build(),
        )
        .send()
        .await
        .unwrap();
    let copy = sandbox.store().object("dst", "huge").unwrap();
    assert_eq!(copy.content, source.content);
    assert_eq!(copy.size, 53_687_091_200_000);
    assert!(copy.etag.ends_with("-10000"));
    assert_eq!(copy.checksum, source.checksum);
    assert_eq!(sandbox.calls().copied_bytes(), size);
}
