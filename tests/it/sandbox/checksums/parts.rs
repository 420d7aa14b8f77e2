//! Checksums of multipart uploads: composite ones and those of the full object.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedPart, ObjectAttributes,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use s3haul::sandbox::{Algorithm, ChecksumKind, Content, ObjectSpec};

use super::super::{complete, is, listed, refused, start};
use super::{MIN, create, of, put_part, stored};

#[tokio::test]
async fn composite_checksums_want_all_parts() {
    let (sandbox, client) = start().await;
    let content = Content::pattern_bytes(1, MIN + 10);
    let parts = [content.slice(0..MIN), content.slice(MIN..MIN + 10)];
    let id = create(&client, Some("SHA256"), None).await;
    // The SDK's own CRC32 is not the declared algorithm.
    let other = client
        .upload_part()
        .bucket("dst")
        .key("k")
        .upload_id(&id)
        .part_number(1);
    let other = other.body(ByteStream::from_static(b"x")).send().await;
    assert_eq!(refused(other), is(400, "InvalidRequest"));
    let mut done = Vec::new();
    for (number, part) in (1..).zip(&parts) {
        done.push(put_part(&client, &id, number, part, ChecksumAlgorithm::Sha256).await);
    }
    let bare: Vec<_> = done
        .iter()
        .map(|part| (part.part_number().unwrap(), part.e_tag().unwrap()))
        .collect();
    assert_eq!(
        refused(complete(&client, "dst", "k", &id, &bare).await),
        is(400, "InvalidRequest")
    );
    let call = || {
        client
            .complete_multipart_upload()
            .bucket("dst")
            .key("k")
            .upload_id(&id)
    };
    let mut wrong = done.clone();
    wrong[1] = CompletedPart::builder()
        .part_number(2)
        .e_tag(done[1].e_tag().unwrap())
        .checksum_sha256(Algorithm::Sha256.of(&parts[0]))
        .build();
    assert_eq!(
        refused(call().multipart_upload(of(wrong)).send().await),
        is(400, "InvalidPart")
    );
    assert_eq!(
        refused(call().multipart_upload(of([done[1].clone()])).send().await),
        is(400, "InvalidPartOrder")
    );
    let typed = call()
        .multipart_upload(of(done.clone()))
        .checksum_type(ChecksumType::FullObject);
    assert_eq!(refused(typed.send().await), is(400, "InvalidRequest"));
    let answer = call()
        .multipart_upload(of(done))
        .checksum_type(ChecksumType::Composite)
        .send()
        .await
        .unwrap();
    let sums: Vec<u8> = parts
        .iter()
        .flat_map(|part| BASE64.decode(Algorithm::Sha256.of(part)).unwrap())
        .collect();
    let value = Algorithm::Sha256.of(&Content::bytes(sums));
    assert_eq!(
        answer.checksum_sha256(),
        Some(format!("{value}-2").as_str())
    );
    assert_eq!(stored(&sandbox).value, value);
}

#[tokio::test]
async fn composite_checksums_are_shown_per_part() {
    let (sandbox, client) = start().await;
    let content = Content::pattern_bytes(1, MIN + 10);
    let parts = [content.slice(0..MIN), content.slice(MIN..MIN + 10)];
    let spec = ObjectSpec::default()
        .checksum(Algorithm::Sha256, ChecksumKind::Composite)
        .part_sizes([MIN]);
    sandbox.store().put_object("dst", "k", content, &spec);
    let value = stored(&sandbox).value;

    let head = client
        .head_object()
        .bucket("dst")
        .key("k")
        .checksum_mode(ChecksumMode::Enabled);
    let whole = head.clone().send().await.unwrap();
    assert_eq!(whole.checksum_sha256(), Some(format!("{value}-2").as_str()));
    let second = head.part_number(2).send().await.unwrap();
    assert_eq!(
        second.checksum_sha256(),
        Some(Algorithm::Sha256.of(&parts[1]).as_str())
    );
    assert_eq!(
        (second.parts_count(), second.content_length()),
        (Some(2), Some(10))
    );
    assert_eq!(
        second.content_range(),
        Some(format!("bytes {MIN}-{}/{}", MIN + 9, MIN + 10).as_str())
    );
    let attributes = client
        .get_object_attributes()
        .bucket("dst")
        .key("k")
        .object_attributes(ObjectAttributes::Checksum)
        .object_attributes(ObjectAttributes::ObjectParts)
        .object_attributes(ObjectAttributes::Etag)
        .max_parts(1)
        .send()
        .await
        .unwrap();
    assert_eq!(
        attributes.checksum().unwrap().checksum_sha256(),
        Some(value.as_str())
    );
    let listed = attributes.object_parts().unwrap();
    assert_eq!(
        (
            listed.total_parts_count(),
            listed.is_truncated(),
            listed.parts().len()
        ),
        (Some(2), Some(true), 1)
    );
    assert_eq!(
        attributes.e_tag(),
        Some(sandbox.store().object("dst", "k").unwrap().etag.as_str()),
        "unquoted"
    );
}

#[tokio::test]
async fn full_object_checksums_are_enforced() {
    let (sandbox, client) = start().await;
    let content = Content::pattern(1, 2 * MIN);
    sandbox
        .store()
        .put_object("src", "key", content.clone(), &ObjectSpec::default());
    for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
        let id = create(
            &client,
            Some(algorithm.name()),
            Some(ChecksumType::FullObject),
        )
        .await;
        let mut tags = Vec::new();
        for number in 1..=2 {
            let from = u64::try_from(number - 1).unwrap() * MIN;
            let range = format!("bytes={from}-{}", from + MIN - 1);
            let part = client
                .upload_part_copy()
                .bucket("dst")
                .key("k")
                .upload_id(&id)
                .part_number(number);
            let part = part
                .copy_source("src/key")
                .copy_source_range(range)
                .send()
                .await
                .unwrap();
            let result = part.copy_part_result.unwrap();
            let shown = [
                &result.checksum_crc32,
                &result.checksum_crc32_c,
                &result.checksum_crc64_nvme,
            ]
            .into_iter()
            .flatten();
            let value = algorithm.of(&content.slice(from..from + MIN));
            assert_eq!(shown.collect::<Vec<_>>(), [&value], "{algorithm:?}");
            tags.push(result.e_tag.unwrap());
        }
        let call = |value: &str| {
            let call = client
                .complete_multipart_upload()
                .bucket("dst")
                .key("k")
                .upload_id(&id);
            let call = call.multipart_upload(listed(&[(1, &tags[0]), (2, &tags[1])]));
            match algorithm {
                Algorithm::Crc32 => call.checksum_crc32(value),
                Algorithm::Crc32c => call.checksum_crc32_c(value),
                _ => call.checksum_crc64_nvme(value),
            }
            .send()
        };
        let other = algorithm.of(&Content::bytes("other"));
        assert_eq!(
            refused(call(&other).await),
            is(400, "BadDigest"),
            "{algorithm:?}"
        );
        call(&algorithm.of(&content)).await.unwrap();
        assert_eq!(stored(&sandbox).value, algorithm.of(&content));
        // S3 counts the parts of such an object, and does not list them.
        let attributes = client.get_object_attributes().bucket("dst").key("k");
        let attributes = attributes
            .object_attributes(ObjectAttributes::ObjectParts)
            .send()
            .await
            .unwrap();
        let parts = attributes.object_parts().unwrap();
        assert_eq!(
            (parts.total_parts_count(), parts.parts().len()),
            (Some(2), 0)
        );
        let head = client
            .head_object()
            .bucket("dst")
            .key("k")
            .part_number(1)
            .checksum_mode(ChecksumMode::Enabled);
        let head = head.send().await.unwrap();
        assert!(
            head.checksum_crc32()
                .or(head.checksum_crc64_nvme())
                .is_none()
        );
    }
}
