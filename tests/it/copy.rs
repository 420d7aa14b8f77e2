//! Copies between buckets: results, requests, and proofs.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use s3haul::manifest::job::{DEFAULT_ENDPOINT, PartSize, Parts, Provider, Source, When};
use s3haul::sandbox::{Algorithm, ChecksumKind, Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::{ByteSize, GIB, MIB, TIB};

use crate::world::program::{at, run};
use crate::world::{DESTINATION, SOURCE, World, copy_all, destination, uri};

fn rich() -> ObjectSpec {
    ObjectSpec::default()
        .content_type("text/csv")
        .metadata("owner", "data team")
        .tag("stage", "raw & unsorted")
        .storage_class("STANDARD_IA")
}

#[tokio::test]
async fn every_size_arrives_equal_with_the_same_attributes() {
    let world = World::new().await;
    let sizes = [0, 1, 5 * MIB, 256 * MIB, 256 * MIB + 1, 6 * GIB];
    for (index, size) in sizes.into_iter().enumerate() {
        world.put_object(
            SOURCE,
            &format!("o{index}"),
            Content::pattern(7, size),
            &rich(),
        );
    }
    let run = world.run(copy_all()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (6, 0),
        "{:?}",
        run.receipts
    );
    assert_eq!(run.outcome.done_bytes, sizes.iter().sum::<u64>());
    for index in 0..sizes.len() {
        world.assert_equal(&format!("o{index}"), &format!("o{index}"));
    }
    assert_eq!(run.outcome.proofs, [("crc64nvme".to_owned(), 6)].into());
    world.assert_no_upload_is_left();
}

/// The keys of single files are known before the run.
#[tokio::test(flavor = "multi_thread")]
async fn files_with_different_names_can_share_a_prefix() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    let file = |name: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, name).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (a, b, other) = (file("a.txt"), file("sub/b.csv"), file("sub/a.txt"));
    let (exit, _, stderr) = run(at(&world), &["copy", &a, &b, "s3://destination/d/"]).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(world.keys(DESTINATION), ["d/a.txt", "d/b.csv"]);
    let (exit, _, stderr) = run(at(&world), &["copy", &a, &other, "s3://destination/d/"]).await;
    assert!(
        exit == 2 && stderr.contains("s3://destination/d/a.txt"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_copy_costs_the_requests_that_it_must() {
    let world = World::new().await;
    world.put_with("small", 1000, &rich());
    world.put_object(SOURCE, "large", Content::pattern(2, GIB), &rich());
    let mut transfer = copy_all();
    transfer.when = When::Always;
    let run = world.run(transfer).await;
    assert_eq!(run.outcome.done_objects, 2);
    for (operation, count) in [
        (Operation::ListObjectsV2, 1),
        (Operation::HeadBucket, 2),
        // The large object needs another HEAD of its source after its tags have been read.
        (Operation::HeadObject, 2 + 1 + 1),
        (Operation::GetObjectTagging, 1),
        (Operation::CopyObject, 1),
        (Operation::CreateMultipartUpload, 1),
        (Operation::UploadPartCopy, 16),
        (Operation::CompleteMultipartUpload, 1),
    ] {
        assert_eq!(world.calls(operation), count, "{operation:?}");
    }
    assert_eq!(world.sandbox.calls().total(), 27, "and no other");
    assert_eq!(world.sandbox.calls().copied_bytes(), GIB + 1000);
}

#[tokio::test]
async fn the_largest_object_is_ten_thousand_parts_equal_by_segments() {
    let world = World::new().await;
    let size = 53_687_091_200_000;
    world.put_object(SOURCE, "largest", Content::pattern(3, size), &rich());
    let run = world.run(copy_all()).await;
    assert_eq!(run.proof(), "crc64nvme");
    assert_eq!(run.receipts[0].parts, 10_000);
    world.assert_equal("largest", "largest");
    assert_eq!(
        world.object(DESTINATION, "largest").unwrap().parts.len(),
        10_000
    );
}

#[tokio::test]
async fn a_source_without_a_checksum_is_proven_by_its_parts() {
    let world = World::new().await;
    let spec = ObjectSpec::default().without_checksum();
    world.put_object(SOURCE, "old", Content::pattern(3, 300 * MIB), &spec);
    let run = world.run(copy_all()).await;
    assert_eq!(run.proof(), "part-etags");
    world.assert_equal("old", "old");
}

#[tokio::test]
async fn parts_are_as_the_job_says() {
    let world = World::new().await;
    world.put_object(
        SOURCE,
        "o",
        Content::pattern(3, 100 * MIB + 1),
        &ObjectSpec::default(),
    );
    let mut transfer = copy_all();
    transfer.parts = Parts {
        size: PartSize::Exactly(ByteSize(25 * MIB)),
        threshold: ByteSize(5 * MIB),
        ..Parts::default()
    };
    let run = world.run(transfer).await;
    assert_eq!(
        (run.receipts[0].parts, run.receipts[0].route),
        (5, Some("multipart-copy"))
    );
    let parts = world.object(DESTINATION, "o").unwrap().parts;
    assert_eq!(
        parts.iter().map(|part| part.size).collect::<Vec<_>>(),
        [25 * MIB, 25 * MIB, 25 * MIB, 25 * MIB, 1]
    );
}

#[tokio::test]
async fn odd_keys_arrive_under_their_names() {
    let world = World::new().await;
    let keys = [
        "a b+c%20?d#e&f=g",
        "ünï/日本",
        "tab\there",
        "\u{1}control",
        "//double//",
        "%2F",
        "a'\"<>",
        &"k".repeat(1024),
    ];
    for key in keys {
        world.put_object(
            SOURCE,
            key,
            Content::bytes(key.as_bytes().to_vec()),
            &rich(),
        );
    }
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
    for key in keys {
        world.assert_equal(key, key);
    }
}

#[tokio::test]
async fn when_decides_what_is_copied_again() {
    let world = World::new().await;
    for (key, size) in [("same", 10), ("other", 20), ("large", 300 * MIB)] {
        let yesterday = SystemTime::now() - Duration::from_hours(24);
        let spec = ObjectSpec::default().last_modified(yesterday);
        world.put_with(key, size, &spec);
    }
    assert_eq!(world.run(copy_all()).await.outcome.done_objects, 3);
    world.put_object(
        SOURCE,
        "other",
        Content::pattern(9, 20),
        &ObjectSpec::default(),
    );
    world.put_object(
        SOURCE,
        "new",
        Content::pattern(9, 5),
        &ObjectSpec::default(),
    );
    for (when, done, skipped) in [
        (When::Missing, 1, 3),
        (When::Changed, 1, 3),
        (When::Always, 4, 0),
    ] {
        let mut transfer = copy_all();
        transfer.when = when;
        let outcome = world.run(transfer).await.outcome;
        assert_eq!(
            (outcome.done_objects, outcome.skipped_objects),
            (done, skipped),
            "{when:?}"
        );
    }
    world.assert_equal("other", "other");
}

#[tokio::test]
async fn a_single_object_goes_into_a_prefix_or_to_a_name() {
    let world = World::new().await;
    world.put("dir/one", 10);
    for (to, key) in [
        ("s3://destination/into/", "into/one"),
        ("s3://destination/name", "name"),
        ("s3://destination", "one"),
    ] {
        let mut transfer = copy_all();
        let endpoint = DEFAULT_ENDPOINT.to_owned();
        transfer.from = Source::Object {
            endpoint,
            location: uri("s3://source/dir/one"),
            version: None,
        };
        transfer.to = destination(to);
        assert_eq!(world.run(transfer).await.outcome.done_objects, 1);
        world.assert_equal("dir/one", key);
    }
}

#[tokio::test]
async fn versions_are_pinned_and_on_record() {
    let world = World::versioned().await;
    let first = world.put_object(SOURCE, "v", Content::pattern(1, 300 * MIB), &rich());
    world.put_object(SOURCE, "v", Content::pattern(2, 300 * MIB), &rich());
    let run = world.run(copy_all()).await;
    assert_ne!(run.receipts[0].source_version, first.version_id);
    world.assert_equal("v", "v");
    let mut transfer = copy_all();
    let endpoint = DEFAULT_ENDPOINT.to_owned();
    transfer.from = Source::Object {
        endpoint,
        location: uri("s3://source/v"),
        version: first.version_id.clone(),
    };
    transfer.to = destination("s3://destination/old/");
    let run = world.run(transfer).await;
    assert_eq!(run.receipts[0].source_version, first.version_id);
    assert_eq!(
        world.object(DESTINATION, "old/v").unwrap().content,
        Content::pattern(1, 300 * MIB)
    );
}

#[tokio::test]
async fn an_archived_object_fails_alone_and_says_what_to_do() {
    let world = World::new().await;
    world.put_with("cold", 10, &rich().storage_class("GLACIER"));
    world.put_with("warm", 10, &rich());
    let run = world.run(copy_all()).await;
    assert_eq!(
        (
            run.outcome.done_objects,
            run.outcome.failed_objects,
            run.error()
        ),
        (1, 1, "archived")
    );
}

#[tokio::test]
async fn an_unknown_server_gets_a_second_look_at_the_source_and_weak_proofs_are_called_weak() {
    let world = World::of_provider(Provider::Other).await;
    world.put_with("small", 10, &rich());
    world.put_with("large", TIB, &rich());
    world
        .sandbox
        .store()
        .quirks()
        .no_checksums
        .store(true, Ordering::Relaxed);
    let run = world.run(copy_all()).await;
    assert_eq!(
        run.outcome.proofs,
        [("size".to_owned(), 2)].into(),
        "{:?}",
        run.receipts
    );
    world.assert_equal("large", "large");
    world.assert_equal("small", "small");
}

#[tokio::test]
async fn a_large_source_with_a_sha256_of_its_own_arrives() {
    let world = World::new().await;
    let spec = ObjectSpec::default().checksum(Algorithm::Sha256, ChecksumKind::FullObject);
    world.put_object(SOURCE, "sha", Content::pattern(3, 300 * MIB), &spec);
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
    world.assert_equal("sha", "sha");
    assert_eq!(
        run.proof(),
        "part-etags",
        "SHA-256 of parts is no SHA-256 of the whole"
    );
}

#[tokio::test]
async fn missing_is_checked_again_if_the_server_cannot_check_it() {
    for size in [10, 300 * MIB] {
        let world = World::of_provider(Provider::Other).await;
        world.put("k", size);
        let appears = Effect::hook(|store| {
            store.put_object(
                DESTINATION,
                "k",
                Content::pattern(9, 5),
                &ObjectSpec::default(),
            );
        });
        // The planner's look at the destination, then the look at the source.
        world.add_fault(
            Fault::on(Operation::HeadObject)
                .key("k")
                .nth(2)
                .then(appears),
        );
        let mut transfer = copy_all();
        transfer.when = When::Missing;
        let run = world.run(transfer).await;
        assert_eq!(run.outcome.skipped_objects, 1, "{:?}", run.receipts);
        assert_eq!(
            world.object(DESTINATION, "k").unwrap().content,
            Content::pattern(9, 5)
        );
        world.assert_no_upload_is_left();
    }
}
