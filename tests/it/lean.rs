//! The cost of a request: s3haul sends nothing that S3 does not need, and computes nothing twice.

use std::fs;

use s3haul::location::ObjectKey;
use s3haul::manifest::job::Provider;
use s3haul::s3::{Attributes, WriteCondition};
use s3haul::sandbox::{BucketOptions, CallEntry, Operation};
use s3haul::size::{GIB, MIB};

use crate::world::{DESTINATION, SOURCE, World, copy_all, upload_all};

/// The headers that only the SDK itself adds to a request.
const OF_THE_SDK: [&str; 3] = [
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "x-amz-user-agent",
];

fn has(call: &CallEntry, name: &str) -> bool {
    call.headers.contains_key(name)
}

#[tokio::test]
async fn the_requests_of_a_copy_go_the_short_way_once_the_buckets_have_answered() {
    let world = World::new().await;
    for index in 0..20 {
        world.put(&format!("o{index}"), 1000);
    }
    world.put("large", GIB);
    assert_eq!(world.run(copy_all()).await.outcome.done_objects, 21);
    let record = world.sandbox.calls();
    let mut seen = 0;
    for operation in [
        Operation::HeadObject,
        Operation::CopyObject,
        Operation::UploadPartCopy,
    ] {
        for call in record.of(operation) {
            seen += 1;
            assert!(
                call.headers["user-agent"].starts_with("s3haul/"),
                "{call:?}"
            );
            assert!(!OF_THE_SDK.iter().any(|name| has(&call, name)), "{call:?}");
            assert!(
                call.headers["authorization"].starts_with("AWS4-HMAC-SHA256 "),
                "{call:?}"
            );
            // Ceph answers 411 to a part copy without Content-Length.
            let names_a_length = call
                .headers
                .get("content-length")
                .is_some_and(|length| length == "0");
            assert!(
                operation != Operation::UploadPartCopy || names_a_length,
                "{call:?}"
            );
        }
    }
    let parts = world.calls(Operation::UploadPartCopy);
    assert!(
        parts > 1 && seen == 21 + 20 + parts + 1,
        "{seen} requests, {parts} parts"
    );
    // The SDK sends the first request to a bucket, which resolves the endpoint.
    assert!(
        record
            .of(Operation::HeadBucket)
            .iter()
            .all(|call| has(call, "amz-sdk-request"))
    );
}

#[tokio::test]
async fn an_upload_declares_one_checksum_and_signs_no_body_that_nobody_can_change() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    for (name, size) in [("small", 1000), ("more", MIB + 1), ("large", 40 * MIB)] {
        fs::write(
            dir.path().join(name),
            vec![7; usize::try_from(size).unwrap()],
        )
        .unwrap();
    }
    assert_eq!(
        world.run(upload_all(dir.path())).await.outcome.done_objects,
        3
    );
    let record = world.sandbox.calls();
    let calls = [
        record.of(Operation::PutObject),
        record.of(Operation::UploadPart),
    ]
    .concat();
    assert_eq!(calls.len(), 2 + 3);
    for call in calls {
        let sums = call
            .headers
            .keys()
            .filter(|name| name.starts_with("x-amz-checksum-"));
        assert_eq!(
            sums.collect::<Vec<_>>(),
            ["x-amz-checksum-crc64nvme"],
            "{call:?}"
        );
        for second in [
            "x-amz-trailer",
            "x-amz-sdk-checksum-algorithm",
            "content-md5",
            "content-encoding",
        ] {
            assert!(!has(&call, second), "{second}: {call:?}");
        }
        assert_eq!(call.headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
    }
}

#[tokio::test]
async fn a_body_without_a_checksum_is_signed() {
    let world = World::of_provider(Provider::Other).await;
    let dir = tempfile::tempdir().unwrap();
    for (name, size) in [("small", 1000), ("large", 40 * MIB)] {
        fs::write(
            dir.path().join(name),
            vec![7; usize::try_from(size).unwrap()],
        )
        .unwrap();
    }
    assert_eq!(
        world.run(upload_all(dir.path())).await.outcome.done_objects,
        2
    );
    let record = world.sandbox.calls();
    for call in [
        record.of(Operation::PutObject),
        record.of(Operation::UploadPart),
    ]
    .concat()
    {
        assert!(
            !call
                .headers
                .keys()
                .any(|name| name.starts_with("x-amz-checksum-")),
            "{call:?}"
        );
        let hash = &call.headers["x-amz-content-sha256"];
        assert!(
            hash.len() == 64 && hash.bytes().all(|digit| digit.is_ascii_hexdigit()),
            "{hash}"
        );
    }
}

/// Counts the bodies that were sent without a signature, and those with one.
fn bodies(world: &World) -> (usize, usize) {
    let record = world.sandbox.calls();
    let calls = [
        record.of(Operation::PutObject),
        record.of(Operation::UploadPart),
    ]
    .concat();
    let unsigned = |call: &&CallEntry| call.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD";
    let unsigned = calls.iter().filter(unsigned).count();
    (unsigned, calls.len() - unsigned)
}

#[tokio::test]
async fn a_bucket_that_wants_bodies_signed_gets_them_signed() {
    let buckets = BucketOptions {
        signed_bodies: true,
        ..BucketOptions::default()
    };
    let world = World {
        ceiling: 1,
        ..World::with_buckets(buckets).await
    };
    let dir = tempfile::tempdir().unwrap();
    for index in 0..10 {
        fs::write(dir.path().join(format!("small{index}")), [7; 1000]).unwrap();
    }
    fs::write(dir.path().join("large"), vec![7; 40 << 20]).unwrap();
    let run = world.run(upload_all(dir.path())).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (11, 0)
    );
    assert_eq!(
        bodies(&world),
        (1, 10 + 3),
        "one refusal is enough for the whole bucket"
    );
}

#[tokio::test]
async fn bodies_that_are_denied_at_the_same_time_are_all_sent_again() {
    let buckets = BucketOptions {
        signed_bodies: true,
        ..BucketOptions::default()
    };
    let world = World::with_buckets(buckets).await;
    let dir = tempfile::tempdir().unwrap();
    for index in 0..100 {
        fs::write(dir.path().join(index.to_string()), [7; 1000]).unwrap();
    }
    let run = world.run(upload_all(dir.path())).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (100, 0)
    );
    assert_eq!(bodies(&world).1, 100);
}

#[tokio::test]
async fn where_a_signature_does_not_help_none_is_tried_for_long() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    for index in 0..50 {
        fs::write(dir.path().join(index.to_string()), [7; 1000]).unwrap();
    }
    world.deny(DESTINATION, Operation::PutObject, "");
    let run = world.run(upload_all(dir.path())).await;
    assert_eq!(run.outcome.failed_objects, 50);
    assert_eq!(bodies(&world), (50, 3));
}

#[tokio::test]
async fn requests_one_after_another_share_a_connection() {
    const REQUESTS: u64 = 50;
    let world = World::new().await;
    world.put("o", 10);
    let (source, destination) = (world.bucket(SOURCE).await, world.bucket(DESTINATION).await);
    let key = ObjectKey::new("o").unwrap();
    for _ in 0..REQUESTS {
        source.head(&key, None).await.unwrap();
        let body = bytes::Bytes::from_static(b"ten bytes.");
        destination
            .put_object(
                &key,
                body,
                &Attributes::default(),
                None,
                WriteCondition::None,
            )
            .await
            .unwrap();
    }
    assert_eq!(
        world.calls(Operation::HeadObject) + world.calls(Operation::PutObject),
        2 * REQUESTS
    );
    // A connection returns to the pool a moment after its answer, so now and then a request finds
    // none.
    let connections = world.sandbox.calls().connections();
    assert!(
        connections < REQUESTS / 5,
        "{connections} connections for {REQUESTS} pairs of requests"
    );
}
