//! Features for benchmarks of clients: uploads that are not kept, objects that are already at the
//! destination, and counts of requests.

use std::sync::atomic::Ordering;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use bytes::Bytes;
use s3haul::sandbox::{
    Algorithm, BucketOptions, Content, Model, ObjectSpec, Operation, RateModel, SMALLEST_PART,
    Sandbox, SandboxOptions,
};

use super::{complete, is, refused, start, start_with};

/// Starts a sandbox that discards uploaded bytes.
async fn forgetful() -> (Sandbox, Client) {
    let (sandbox, client) = start().await;
    sandbox
        .store()
        .quirks()
        .virtual_uploads
        .store(true, Ordering::Relaxed);
    (sandbox, client)
}

fn bytes(seed: u64, len: u64) -> Bytes {
    Content::pattern_bytes(seed, len).to_bytes()
}

async fn put_body(client: &Client, key: &str, body: Bytes) {
    let call = client
        .put_object()
        .bucket("dst")
        .key(key)
        .body(ByteStream::from(body));
    call.checksum_algorithm(ChecksumAlgorithm::Sha256)
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn an_upload_that_is_not_kept_has_the_length_and_the_checksum_of_what_was_sent() {
    let (sandbox, client) = forgetful().await;
    let sent = bytes(1, 3_000_000);
    put_body(&client, "k", sent.clone()).await;
    put_body(&client, "again", sent.clone()).await;
    put_body(&client, "other", bytes(2, 3_000_000)).await;
    put_body(&client, "short", sent.slice(..60_000)).await;
    let object = |key: &str| sandbox.store().object("dst", key).unwrap();
    let (stored, again, other) = (object("k"), object("again"), object("other"));
    assert_eq!(stored.size, 3_000_000);
    assert_eq!(
        stored.checksum.unwrap().value,
        Algorithm::Sha256.of(&Content::bytes(sent.clone()))
    );
    assert_ne!(stored.content, Content::bytes(sent.clone()));
    assert_eq!(
        (&stored.content, &stored.etag),
        (&again.content, &again.etag)
    );
    assert!(stored.content != other.content && stored.etag != other.etag);
    assert_eq!(object("short").content.to_bytes(), sent.slice(..60_000));
}

#[tokio::test]
async fn what_a_client_claims_is_checked_all_the_same() {
    let (sandbox, client) = forgetful().await;
    let call = client
        .put_object()
        .bucket("dst")
        .key("k")
        .body(ByteStream::from(bytes(1, 200_000)));
    let wrong = Algorithm::Crc64Nvme.of(&Content::bytes("other"));
    let answer = call.checksum_crc64_nvme(wrong).send().await;
    assert_eq!(refused(answer), is(400, "BadDigest"));
    let stranger = super::client(sandbox.url(), "stranger", "sandbox-secret");
    let call = stranger
        .put_object()
        .bucket("dst")
        .key("k")
        .body(ByteStream::from(bytes(1, 200_000)));
    assert_eq!(refused(call.send().await), is(403, "InvalidAccessKeyId"));
    assert!(sandbox.store().object("dst", "k").is_none());
}

#[tokio::test]
async fn parts_that_are_not_kept_have_the_checksum_of_the_whole() {
    let (sandbox, client) = forgetful().await;
    let whole = bytes(1, SMALLEST_PART + 100_000);
    let created = client
        .create_multipart_upload()
        .bucket("dst")
        .key("k")
        .send()
        .await
        .unwrap();
    let id = created.upload_id().unwrap();
    let mut tags = Vec::new();
    let cut = usize::try_from(SMALLEST_PART).unwrap();
    for (number, part) in (1..).zip([whole.slice(..cut), whole.slice(cut..)]) {
        let call = client
            .upload_part()
            .bucket("dst")
            .key("k")
            .upload_id(id)
            .part_number(number);
        // The part has another algorithm than the upload, so the sandbox needs both.
        let call = call
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .body(ByteStream::from(part));
        tags.push(call.send().await.unwrap().e_tag.unwrap());
    }
    complete(&client, "dst", "k", id, &[(1, &tags[0]), (2, &tags[1])])
        .await
        .unwrap();
    let stored = sandbox.store().object("dst", "k").unwrap();
    assert_eq!(stored.size, whole.len() as u64);
    assert_eq!(
        stored.checksum.unwrap().value,
        Algorithm::Crc64Nvme.of(&Content::bytes(whole))
    );
}

#[tokio::test]
async fn objects_can_be_in_place_already() {
    let (sandbox, client) = start().await;
    let store = sandbox.store();
    for (at, key) in ["s/a", "s/b/c", "t"].into_iter().enumerate() {
        store.put_object(
            "src",
            key,
            Content::pattern(at as u64, 100),
            &ObjectSpec::default().tag("t", key),
        );
    }
    assert_eq!(store.copy_prefix(("src", "s/"), ("dst", "copies/")), 2);
    assert_eq!(store.keys("dst"), ["copies/a", "copies/b/c"]);
    let (from, to) = (
        store.object("src", "s/b/c").unwrap(),
        store.object("dst", "copies/b/c").unwrap(),
    );
    assert_eq!(
        (from.content, from.etag, from.attributes),
        (to.content, to.etag, to.attributes)
    );
    // A change of one object does not affect the other.
    let gone = client
        .delete_object_tagging()
        .bucket("dst")
        .key("copies/a")
        .send()
        .await;
    assert!(
        gone.is_ok()
            && store
                .object("dst", "copies/a")
                .unwrap()
                .attributes
                .tags
                .is_empty()
    );
    assert_eq!(
        store.object("src", "s/a").unwrap().attributes.tags["t"],
        "s/a"
    );
    // In a versioned bucket, each copy is a version.
    store.create_bucket(
        "versioned",
        BucketOptions {
            versioning: true,
            ..BucketOptions::default()
        },
    );
    for _ in 0..2 {
        assert_eq!(store.copy_prefix(("src", "s/"), ("versioned", "")), 2);
    }
    assert_eq!(store.versions("versioned", "a").len(), 2);
    // A copy is newer than what was there, although its source is older.
    let newer = Content::pattern(9, 5);
    store.put_object("versioned", "a", newer, &ObjectSpec::default());
    assert_eq!(store.copy_prefix(("src", "s/"), ("versioned", "")), 2);
    assert_eq!(
        store.object("versioned", "a").unwrap().content,
        store.object("src", "s/a").unwrap().content
    );
    let usage = store.usage();
    let of = |name: &str| usage.iter().find(|usage| usage.bucket == name).unwrap();
    assert_eq!(
        (of("dst").objects, of("dst").bytes, of("dst").open_uploads),
        (2, 200, 0)
    );
    assert_eq!((of("versioned").objects, of("src").objects), (2, 3));
}

#[tokio::test]
async fn throttled_calls_are_counted() {
    let limits = RateModel {
        writes_per_second: Some(4),
        ..RateModel::default()
    };
    let options = SandboxOptions {
        model: Model {
            limits,
            ..Model::default()
        },
        ..SandboxOptions::default()
    };
    let (sandbox, client) = start_with(options).await;
    let mut slowed = 0;
    for _ in 0..5 {
        let answer = client.delete_object().bucket("dst").key("k").send().await;
        slowed += u64::from(
            answer.is_err_and(|error| error.into_service_error().meta().code() == Some("SlowDown")),
        );
    }
    assert!(slowed > 0);
    assert_eq!(
        (
            sandbox.calls().throttled(),
            sandbox.calls().count(Operation::DeleteObject)
        ),
        (slowed, 5)
    );
    sandbox.calls().clear();
    assert_eq!(sandbox.calls().throttled(), 0);
}
