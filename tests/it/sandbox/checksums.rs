//! Additional checksums: those that are computed, verified, or refused.

mod parts;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart,
};
use s3haul::sandbox::{
    Algorithm, Checksum, ChecksumKind, Content, ObjectSpec, SMALLEST_PART, Sandbox,
};

use super::{complete, is, refused, start};

const MIN: u64 = SMALLEST_PART;

async fn create(client: &Client, algorithm: Option<&str>, kind: Option<ChecksumType>) -> String {
    let upload = client
        .create_multipart_upload()
        .bucket("dst")
        .key("k")
        .set_checksum_algorithm(algorithm.map(ChecksumAlgorithm::from))
        .set_checksum_type(kind)
        .send()
        .await
        .unwrap();
    upload.upload_id.unwrap()
}

async fn put_part(
    client: &Client,
    id: &str,
    number: i32,
    content: &Content,
    algorithm: ChecksumAlgorithm,
) -> CompletedPart {
    let part = client
        .upload_part()
        .bucket("dst")
        .key("k")
        .upload_id(id)
        .part_number(number)
        .checksum_algorithm(algorithm)
        .body(content.to_bytes().into())
        .send()
        .await
        .unwrap();
    CompletedPart::builder()
        .part_number(number)
        .e_tag(part.e_tag().unwrap())
        .set_checksum_crc32(part.checksum_crc32)
        .set_checksum_crc32_c(part.checksum_crc32_c)
        .set_checksum_crc64_nvme(part.checksum_crc64_nvme)
        .set_checksum_sha256(part.checksum_sha256)
        .build()
}

fn of(parts: impl IntoIterator<Item = CompletedPart>) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder()
        .set_parts(Some(parts.into_iter().collect()))
        .build()
}

fn stored(sandbox: &Sandbox) -> Checksum {
    sandbox
        .store()
        .object("dst", "k")
        .unwrap()
        .checksum
        .unwrap()
}

#[tokio::test]
async fn create_refuses_what_s3_refuses() {
    let (_sandbox, client) = start().await;
    let create = |algorithm: Option<&str>, kind: Option<ChecksumType>| {
        client
            .create_multipart_upload()
            .bucket("dst")
            .key("k")
            .set_checksum_algorithm(algorithm.map(ChecksumAlgorithm::from))
            .set_checksum_type(kind)
            .send()
    };
    let (full, composite) = (ChecksumType::FullObject, ChecksumType::Composite);
    for (algorithm, kind) in [
        (None, Some(full.clone())),
        (None, Some(composite.clone())),
        (Some("CRC64NVME"), Some(composite.clone())),
        (Some("SHA1"), Some(full.clone())),
        (Some("SHA256"), Some(full.clone())),
        (Some("SHA512"), None),
    ] {
        let answer = create(algorithm, kind.clone()).await;
        assert_eq!(
            refused(answer),
            is(400, "InvalidRequest"),
            "{algorithm:?} {kind:?}"
        );
    }
    for (algorithm, kind, shown) in [
        (Some("CRC64NVME"), None, Some(full.clone())),
        (Some("CRC32"), None, Some(composite.clone())),
        (Some("CRC32C"), Some(full.clone()), Some(full.clone())),
        (Some("SHA256"), None, Some(composite.clone())),
        (None, None, None),
    ] {
        let created = create(algorithm, kind).await.unwrap();
        assert_eq!(created.checksum_type, shown, "{algorithm:?}");
        assert_eq!(
            created
                .checksum_algorithm
                .as_ref()
                .map(ChecksumAlgorithm::as_str),
            algorithm
        );
    }
}

#[tokio::test]
async fn a_body_must_have_the_checksum_that_it_claims() {
    let (sandbox, client) = start().await;
    let put = || {
        client
            .put_object()
            .bucket("src")
            .key("k")
            .body(ByteStream::from_static(b"123456789"))
    };
    let wrong = "AAAAAA==";
    assert_eq!(
        refused(put().checksum_crc32(wrong).send().await),
        is(400, "BadDigest")
    );
    assert_eq!(
        refused(put().content_md5("AAAAAAAAAAAAAAAAAAAAAA==").send().await),
        is(400, "BadDigest")
    );
    assert_eq!(
        refused(put().content_md5("x").send().await),
        is(400, "InvalidDigest")
    );
    assert!(sandbox.store().object("src", "k").is_none());
    let right = put()
        .checksum_crc32("y/Q5Jg==")
        .content_md5("JfnnlDI7RTiF9RgfG2JNCw==")
        .send()
        .await
        .unwrap();
    assert_eq!(right.checksum_type(), Some(&ChecksumType::FullObject));
    // The SDK adds a CRC32 by itself. Without any checksum, S3 computes CRC64NVME.
    put().send().await.unwrap();
    assert_eq!(
        sandbox
            .store()
            .object("src", "k")
            .unwrap()
            .checksum
            .unwrap()
            .algorithm,
        Algorithm::Crc32
    );
    put()
        .checksum_algorithm(ChecksumAlgorithm::Sha256)
        .send()
        .await
        .unwrap();
    let head = client
        .head_object()
        .bucket("src")
        .key("k")
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    assert_eq!(
        head.checksum_sha256(),
        Some("FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=")
    );
    let plain = client
        .head_object()
        .bucket("src")
        .key("k")
        .send()
        .await
        .unwrap();
    assert!(plain.checksum_sha256().is_none());
}

#[tokio::test]
async fn a_streamed_body_has_its_checksum_in_the_trailer() {
    let (sandbox, client) = start().await;
    let content = Content::pattern_bytes(3, 3_000_000);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, content.to_bytes()).unwrap();
    let body = || async { ByteStream::from_path(&path).await.unwrap() };
    client
        .put_object()
        .bucket("src")
        .key("k")
        .body(body().await)
        .send()
        .await
        .unwrap();
    let object = sandbox.store().object("src", "k").unwrap();
    assert_eq!(object.content, content);
    assert_eq!(
        object.checksum.unwrap().value,
        Algorithm::Crc32.of(&content)
    );
    assert_eq!(object.attributes.content_encoding, None);
    let id = create(&client, Some("CRC64NVME"), None).await;
    let part = client
        .upload_part()
        .bucket("dst")
        .key("k")
        .upload_id(&id)
        .part_number(1);
    let part = part
        .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
        .body(body().await)
        .send()
        .await
        .unwrap();
    assert_eq!(
        part.checksum_crc64_nvme(),
        Some(Algorithm::Crc64Nvme.of(&content).as_str())
    );
    assert_eq!(
        sandbox.calls().of(s3haul::sandbox::Operation::UploadPart)[0].uploaded_bytes,
        3_000_000
    );
}

#[tokio::test]
async fn without_a_declaration_the_object_has_crc64nvme() {
    let (sandbox, client) = start().await;
    let content = Content::pattern_bytes(1, MIN + 1);
    let id = create(&client, None, None).await;
    let parts = [content.slice(0..MIN), content.slice(MIN..MIN + 1)];
    let mut plain = Vec::new();
    for (number, part) in (1..).zip(&parts) {
        let done = put_part(&client, &id, number, part, ChecksumAlgorithm::Crc32).await;
        plain.push(
            CompletedPart::builder()
                .part_number(number)
                .e_tag(done.e_tag().unwrap())
                .build(),
        );
    }
    let list = client
        .list_parts()
        .bucket("dst")
        .key("k")
        .upload_id(&id)
        .send()
        .await
        .unwrap();
    assert!(
        list.parts()[0].checksum_crc32().is_none()
            && list.parts()[0].checksum_crc64_nvme().is_none()
    );
    let call = || {
        client
            .complete_multipart_upload()
            .bucket("dst")
            .key("k")
            .upload_id(&id)
    };
    let claimed = CompletedPart::builder()
        .part_number(1)
        .e_tag(plain[0].e_tag().unwrap())
        .checksum_crc64_nvme(Algorithm::Crc64Nvme.of(&parts[0]))
        .build();
    assert_eq!(
        refused(call().multipart_upload(of([claimed])).send().await),
        is(400, "InvalidPart")
    );
    let typed = call()
        .multipart_upload(of(plain.clone()))
        .checksum_type(ChecksumType::FullObject);
    assert_eq!(refused(typed.send().await), is(400, "InvalidRequest"));
    let done = call().multipart_upload(of(plain)).send().await.unwrap();
    let value = Algorithm::Crc64Nvme.of(&content);
    assert_eq!(done.checksum_crc64_nvme(), Some(value.as_str()));
    assert_eq!(
        (stored(&sandbox).value, stored(&sandbox).kind),
        (value, ChecksumKind::FullObject)
    );
}

#[tokio::test]
async fn a_copy_keeps_or_switches_the_algorithm() {
    let (sandbox, client) = start().await;
    let content = Content::bytes("123456789");
    let sha = ObjectSpec::default().checksum(Algorithm::Sha256, ChecksumKind::FullObject);
    sandbox
        .store()
        .put_object("src", "sha", content.clone(), &sha);
    let composite = ObjectSpec::default()
        .checksum(Algorithm::Crc32, ChecksumKind::Composite)
        .part_sizes([MIN]);
    let large = Content::pattern(1, 2 * MIN);
    sandbox
        .store()
        .put_object("src", "composite", large.clone(), &composite);
    sandbox.store().put_object(
        "src",
        "none",
        content.clone(),
        &ObjectSpec::default().without_checksum(),
    );
    let copy = |key: &str, algorithm: Option<ChecksumAlgorithm>| {
        let call = client
            .copy_object()
            .bucket("dst")
            .key("k")
            .copy_source(format!("src/{key}"));
        call.set_checksum_algorithm(algorithm).send()
    };
    let kept = copy("sha", None).await.unwrap().copy_object_result.unwrap();
    assert_eq!(
        kept.checksum_sha256(),
        Some(Algorithm::Sha256.of(&content).as_str())
    );
    let switched = copy("sha", Some(ChecksumAlgorithm::Crc32C))
        .await
        .unwrap()
        .copy_object_result
        .unwrap();
    assert_eq!(
        switched.checksum_crc32_c(),
        Some(Algorithm::Crc32c.of(&content).as_str())
    );
    let single = copy("composite", None)
        .await
        .unwrap()
        .copy_object_result
        .unwrap();
    assert_eq!(
        single.checksum_crc32(),
        Some(Algorithm::Crc32.of(&large).as_str())
    );
    assert_eq!(single.checksum_type(), Some(&ChecksumType::FullObject));
    copy("none", None).await.unwrap();
    assert_eq!(stored(&sandbox).algorithm, Algorithm::Crc64Nvme);
}

#[tokio::test]
async fn a_server_can_have_no_checksums() {
    let (sandbox, client) = start().await;
    sandbox
        .store()
        .quirks()
        .no_checksums
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let id = create(&client, Some("CRC32"), None).await;
    let part = put_part(
        &client,
        &id,
        1,
        &Content::bytes("x"),
        ChecksumAlgorithm::Crc32,
    )
    .await;
    assert!(part.checksum_crc32().is_none());
    complete(&client, "dst", "k", &id, &[(1, part.e_tag().unwrap())])
        .await
        .unwrap();
    assert!(
        sandbox
            .store()
            .object("dst", "k")
            .unwrap()
            .checksum
            .is_none()
    );
}
