//! One test for each guarantee of docs/guarantees.md, by number. Other modules test the mechanisms
//! behind them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{Limits, When};
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation, When as Which};
use s3haul::size::{GIB, MIB};

use crate::world::{DESTINATION, SOURCE, World, copy_all};

/// 1. A destination object is absent, unchanged, or a complete copy of one version of the source.
#[tokio::test]
async fn g1_never_a_mix() {
    for (honest, seed) in [(true, 1), (true, 2), (true, 3), (false, 4), (false, 5)] {
        let mut world = World::new().await;
        world.put_object(
            SOURCE,
            "k",
            Content::pattern(100, GIB),
            &ObjectSpec::default(),
        );
        if !honest {
            world.provider = s3haul::manifest::job::Provider::Other;
            world
                .sandbox
                .store()
                .quirks()
                .ignore_source_conditions
                .store(true, Ordering::Relaxed);
        }
        let change = Effect::hook(move |store| {
            store.put_object(
                SOURCE,
                "k",
                Content::pattern(200 + seed, GIB),
                &ObjectSpec::default(),
            );
        });
        world.add_fault(
            Fault::on(Operation::UploadPartCopy)
                .nth(seed * 3)
                .then(change),
        );
        world.run(copy_all()).await;
        let there = world.object(DESTINATION, "k").unwrap().content;
        assert!(
            there == Content::pattern(100, GIB) || there == Content::pattern(200 + seed, GIB),
            "seed {seed}: a mix"
        );
    }
}

/// 2. The attributes that a copy keeps do not depend on size or route.
#[tokio::test]
async fn g2_the_same_for_every_size() {
    let world = World::new().await;
    let spec = ObjectSpec::default()
        .content_type("application/x-thing")
        .metadata("note", "a b=c")
        .tag("kind", "größe")
        .storage_class("ONEZONE_IA");
    for (key, size) in [
        ("empty", 0),
        ("byte", 1),
        ("single", 200 * MIB),
        ("parts", 300 * MIB),
        ("huge", 20 * GIB),
    ] {
        world.put_with(key, size, &spec);
    }
    let run = world.run(copy_all()).await;
    assert!(run.receipts.iter().all(|receipt| receipt.losses.is_empty()));
    for key in ["empty", "byte", "single", "parts", "huge"] {
        world.assert_equal(key, key);
    }
}

/// 2. Attributes that cannot be kept are reported.
#[tokio::test]
async fn g2_losses_are_reported() {
    let world = World::new().await;
    world.put_with("k", 300 * MIB, &ObjectSpec::default().tag("a", "b"));
    world.deny(SOURCE, Operation::GetObjectTagging, "");
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.objects_with_losses, 1);
    assert_eq!(
        run.receipts[0].losses[0].to_string(),
        "tags not readable: s3:GetObjectTagging missing on source"
    );
}

/// 3. Success is proven: if a server claims to honor conditions but does not, and stores other
///   bytes, the checksums show it, and the object is copied again.
#[tokio::test]
async fn g3_proven_not_assumed() {
    for (key, size, write) in [
        ("small", 10, Operation::CopyObject),
        ("large", 300 * MIB, Operation::CreateMultipartUpload),
    ] {
        let world = World::new().await;
        world.put(key, size);
        world
            .sandbox
            .store()
            .quirks()
            .ignore_source_conditions
            .store(true, Ordering::Relaxed);
        let swap = Effect::hook(move |store| {
            store.put_object(
                SOURCE,
                key,
                Content::pattern(2, size),
                &ObjectSpec::default(),
            );
        });
        let copy = if size == 10 {
            Operation::CopyObject
        } else {
            Operation::UploadPartCopy
        };
        world.add_fault(Fault::on(copy).nth(1).then(swap));
        let run = world.run(copy_all()).await;
        assert_eq!(run.proof(), "crc64nvme");
        assert_eq!(
            world.calls(write),
            2,
            "{key}: the first copy was of other bytes than its HEAD promised"
        );
        assert!(
            world.calls(Operation::CompleteMultipartUpload) < 2,
            "{key}: what parts make is known before"
        );
        assert_eq!(
            world.object(DESTINATION, key).unwrap().content,
            Content::pattern(2, size)
        );
        world.assert_no_upload_is_left();
    }
}

/// 5. One bad object does not stop the run, and the run does not claim success.
#[tokio::test]
async fn g5_failures_are_alone_and_visible() {
    let world = World::new().await;
    for index in 0..20 {
        world.put(
            &format!("k{index:02}"),
            if index % 5 == 0 { 300 * MIB } else { 10 },
        );
    }
    world.deny(DESTINATION, Operation::CreateMultipartUpload, "k05");
    world.deny(DESTINATION, Operation::CopyObject, "k07");
    let run = world.run(copy_all()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (18, 2)
    );
}

/// 6. Open objects and parts are bounded: the plan is never further ahead of the copies than its
///   window.
#[tokio::test]
async fn g6_the_plan_does_not_run_ahead() {
    let world = World::new().await;
    for index in 0..40_000 {
        world.put(&format!("k{index:05}"), 1);
    }
    world.add_fault(
        Fault::on(Operation::HeadObject)
            .when(Which::Always)
            .then(Effect::StallBefore(Some(Duration::from_millis(2500)))),
    );
    let stop = world.stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        stop.cancel();
    });
    let run = tokio::time::timeout(Duration::from_secs(30), world.run(copy_all()))
        .await
        .unwrap();
    assert!(
        run.outcome.stopped_objects < 8_000,
        "{} of 40,000 were held in memory",
        run.outcome.stopped_objects
    );
    let pages = world.calls(Operation::ListObjectsV2);
    assert!(
        pages < 36,
        "{pages} pages were listed although nothing was copied"
    );
}

/// 7. Throttling slows a run down and fails nothing, and the run stays within the user's limits.
#[tokio::test]
async fn g7_throttled_but_done() {
    let world = World::new().await;
    for index in 0..40 {
        world.put(&format!("k{index}"), 10);
    }
    world.put("large", 2 * GIB);
    for (seed, operation) in [
        Operation::CopyObject,
        Operation::UploadPartCopy,
        Operation::HeadObject,
    ]
    .into_iter()
    .enumerate()
    {
        let often = Fault::on(operation)
            .when(Which::Chance(0.3, seed as u64))
            .then(Effect::error_in_200("SlowDown"));
        world.add_fault(if operation == Operation::HeadObject {
            often.then(Effect::SlowDown)
        } else {
            often
        });
    }
    let mut job = world.job(copy_all());
    job.limits = Limits {
        in_flight: Some(10),
        ..Limits::default()
    };
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (41, 0),
        "{:?}",
        run.receipts
    );
    assert!(run.outcome.requests.throttled > 5);
    assert!(world.sandbox.calls().max_in_flight() <= 12);
}

/// 8. s3haul overwrites nothing that the manifest does not allow it to, not even an object that
///   appears during the copy.
#[tokio::test]
async fn g8_missing_means_missing_at_the_moment_of_writing() {
    for size in [10, 300 * MIB] {
        let world = World::new().await;
        world.put("k", size);
        let appears = Effect::hook(|store| {
            store.put_object(
                DESTINATION,
                "k",
                Content::pattern(9, 5),
                &ObjectSpec::default(),
            );
        });
        world.add_fault(
            Fault::on(Operation::HeadObject)
                .key("k")
                .nth(1)
                .then(appears),
        );
        let mut transfer = copy_all();
        transfer.when = When::Missing;
        let run = world.run(transfer).await;
        assert!(
            matches!(run.receipts[0].ending, Ending::Skipped { .. }),
            "{:?}",
            run.receipts
        );
        assert_eq!(
            world.object(DESTINATION, "k").unwrap().content,
            Content::pattern(9, 5)
        );
        world.assert_no_upload_is_left();
    }
}
