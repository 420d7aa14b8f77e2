//! Every kind of fault on every operation: the run ends right, or reports that it did not.
//!
//! "Right" is checked in the sandbox's store, not in the program's output: each destination object
//! is equal or absent, and no upload is left.

mod grid;

use std::time::Duration;

use rstest::rstest;
use s3haul::execute::receipt::{Ending, Replan};
use s3haul::manifest::job::Job;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation, When};
use s3haul::size::MIB;

use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, in_parts_of, upload_all};

const SMALL: u64 = 1000;
const LARGE: u64 = 300 * MIB;

async fn world_with_small_and_large() -> World {
    let world = World::new().await;
    for (key, size) in [("small", SMALL), ("large", LARGE)] {
        let spec = ObjectSpec::default().metadata("owner", "me").tag("a", "b");
        world.put_object(SOURCE, key, Content::pattern(5, size), &spec);
    }
    world
}

/// Asserts that each copy is equal to its source, that each absent one is recorded as failed, and
/// that no upload is left.
fn assert_right(world: &World, run: &Run) {
    for key in ["small", "large"] {
        let receipt = run
            .receipts
            .iter()
            .find(|receipt| receipt.destination.ends_with(key))
            .unwrap();
        match &receipt.ending {
            Ending::Done { .. } => world.assert_equal(key, key),
            Ending::Failed { .. } => {
                let there = world.object(DESTINATION, key);
                let source = world.object(SOURCE, key).unwrap();
                assert!(
                    there.is_none_or(|there| there.content == source.content),
                    "{key} is torn"
                );
            }
            other => panic!("{key}: {other:?}"),
        }
    }
    world.assert_no_upload_is_left();
}

#[rstest]
#[tokio::test]
async fn a_passing_fault_costs_a_retry_and_nothing_else(
    #[values(
        Operation::ListObjectsV2,
        Operation::HeadObject,
        Operation::GetObjectTagging,
        Operation::CopyObject,
        Operation::CreateMultipartUpload,
        Operation::UploadPartCopy,
        Operation::CompleteMultipartUpload
    )]
    operation: Operation,
    #[values(
        Effect::SlowDown,
        Effect::Error(500, "InternalError"),
        Effect::Error(503, "ServiceUnavailable"),
        Effect::ErrorAfterEffect(500, "InternalError"),
        Effect::error_in_200("SlowDown"),
        Effect::error_in_200("InternalError"),
        Effect::error_in_200("ServiceUnavailable"),
        Effect::ErrorIn200 { code: "InternalError", after_effect: true, blanks: 3 },
        Effect::ResetBefore,
        Effect::ResetAfter,
        Effect::TruncateBody,
        Effect::EmptyBody,
        Effect::Blanks { count: 2000, before_declaration: false },
        Effect::Delay(Duration::from_millis(300))
    )]
    effect: Effect,
) {
    // Answers to HEAD have no body that could hold an error, be cut short, or be missing.
    let bodiless = operation == Operation::HeadObject;
    let needs_a_body = matches!(
        effect,
        Effect::ErrorIn200 { .. }
            | Effect::Blanks { .. }
            | Effect::TruncateBody
            | Effect::EmptyBody
    );
    if bodiless && needs_a_body {
        return;
    }
    let world = world_with_small_and_large().await;
    world.add_fault(Fault::on(operation).nth(1).then(effect.clone()));
    let run = world.run(copy_all()).await;
    assert_eq!(world.sandbox.faults().fired(), 1);
    assert_eq!(
        run.outcome.failed_objects, 0,
        "{operation:?} {effect:?}: {:?}",
        run.receipts
    );
    assert_right(&world, &run);
    if operation == Operation::UploadPartCopy {
        assert!(
            world.calls(Operation::UploadPartCopy) <= 6,
            "one part was sent again, not all"
        );
    }
}

#[rstest]
#[case(Operation::HeadObject)]
#[case(Operation::CopyObject)]
#[case(Operation::UploadPartCopy)]
#[case(Operation::CompleteMultipartUpload)]
#[tokio::test]
async fn silence_is_waited_out_no_longer_than_the_bytes_allow(#[case] operation: Operation) {
    let mut world = world_with_small_and_large().await;
    world.retry.silence = Duration::from_millis(400);
    world.retry.complete = Duration::from_millis(400);
    world.retry.slowest = 1 << 40;
    for effect in [Effect::StallBefore(None), Effect::StallAfter(None)] {
        world.add_fault(Fault::on(operation).nth(1).then(effect));
    }
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
    assert_right(&world, &run);
}

#[rstest]
#[tokio::test]
async fn a_fault_that_stays_fails_the_objects_that_it_meets_and_leaves_nothing_behind(
    #[values(
        Operation::HeadObject,
        Operation::CopyObject,
        Operation::CreateMultipartUpload,
        Operation::UploadPartCopy,
        Operation::CompleteMultipartUpload
    )]
    operation: Operation,
    #[values(
        Effect::Error(500, "InternalError"),
        Effect::Error(403, "AccessDenied"),
        Effect::ResetBefore,
        Effect::ErrorAfterEffect(500, "InternalError")
    )]
    effect: Effect,
) {
    let mut world = world_with_small_and_large().await;
    world.retry.attempts = 3;
    world.add_fault(Fault::on(operation).when(When::Always).then(effect.clone()));
    let run = world.run(copy_all()).await;
    // A HEAD finds a Complete that took effect, whatever the answer was.
    let found = operation == Operation::CompleteMultipartUpload
        && matches!(effect, Effect::ErrorAfterEffect(..));
    assert_eq!(
        run.outcome.failed_objects == 0,
        found,
        "{operation:?} {effect:?}: {:?}",
        run.receipts
    );
    let uploads = world.open_uploads(DESTINATION);
    // An upload whose ID never arrived cannot be aborted by ID.
    let strays = operation == Operation::CreateMultipartUpload
        && matches!(effect, Effect::ErrorAfterEffect(..));
    assert!(strays || uploads.is_empty(), "{uploads:?}");
    for key in ["small", "large"] {
        if let Some(there) = world.object(DESTINATION, key) {
            assert_eq!(there.content, world.object(SOURCE, key).unwrap().content);
        }
    }
}

#[tokio::test]
async fn one_bad_object_does_not_stop_the_others() {
    let world = World::new().await;
    for index in 0..50 {
        world.put(&format!("o{index}"), 10);
    }
    world.deny(SOURCE, Operation::HeadObject, "o7");
    let run = world.run(copy_all()).await;
    assert_eq!(
        (
            run.outcome.done_objects,
            run.outcome.failed_objects,
            run.error()
        ),
        (49, 1, "denied")
    );
}

#[tokio::test]
async fn throttling_slows_down_and_fails_nothing() {
    let world = world_with_small_and_large().await;
    for operation in [
        Operation::UploadPartCopy,
        Operation::CopyObject,
        Operation::HeadObject,
    ] {
        world.add_fault(Fault::on(operation).first(4).then(Effect::SlowDown));
    }
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
    assert!(
        run.outcome.requests.throttled >= 10,
        "{:?}",
        run.outcome.requests
    );
    assert_right(&world, &run);
}

#[tokio::test]
async fn a_source_overwritten_in_mid_copy_is_copied_whole_in_its_new_version() {
    for operation in [
        Operation::UploadPartCopy,
        Operation::CompleteMultipartUpload,
        Operation::CreateMultipartUpload,
    ] {
        let world = world_with_small_and_large().await;
        let overwrite = Effect::hook(|store| {
            store.put_object(
                SOURCE,
                "large",
                Content::pattern(6, LARGE),
                &ObjectSpec::default().metadata("v", "2"),
            );
        });
        world.add_fault(Fault::on(operation).key("large").nth(1).then(overwrite));
        let run = world.run(copy_all()).await;
        assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
        let copy = world.object(DESTINATION, "large").unwrap();
        let versions = [Content::pattern(5, LARGE), Content::pattern(6, LARGE)];
        assert!(versions.contains(&copy.content), "{operation:?}: torn");
        let is_new = copy.content == versions[1];
        assert_eq!(
            copy.attributes.metadata.contains_key("v"),
            is_new,
            "attributes and bytes are of one version"
        );
        if operation != Operation::CompleteMultipartUpload {
            assert!(is_new, "a change before the last part is noticed");
        }
        world.assert_no_upload_is_left();
    }
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_caught_by_a_second_look() {
    let mut world = world_with_small_and_large().await;
    world.provider = s3haul::manifest::job::Provider::Other;
    world
        .sandbox
        .store()
        .quirks()
        .ignore_source_conditions
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let overwrite = Effect::hook(|store| {
        store.put_object(
            SOURCE,
            "large",
            Content::pattern(6, LARGE),
            &ObjectSpec::default(),
        );
    });
    world.add_fault(Fault::on(Operation::UploadPartCopy).nth(3).then(overwrite));
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
    let copy = world.object(DESTINATION, "large").unwrap();
    assert_eq!(copy.content, Content::pattern(6, LARGE));
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn a_source_that_never_rests_fails_with_that_reason() {
    let world = world_with_small_and_large().await;
    let seed = std::sync::atomic::AtomicU64::new(100);
    let overwrite = Effect::hook(move |store| {
        let seed = seed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        store.put_object(
            SOURCE,
            "large",
            Content::pattern(seed, LARGE),
            &ObjectSpec::default(),
        );
    });
    world.add_fault(
        Fault::on(Operation::UploadPartCopy)
            .when(When::Always)
            .then(overwrite),
    );
    let run = world.run(copy_all()).await;
    assert_eq!(run.error(), "source-changed");
    let replans = run.receipts.iter().flat_map(|receipt| &receipt.replans);
    assert_eq!(
        replans.copied().collect::<Vec<_>>(),
        [Replan::SourceRefused; 4]
    );
    assert!(world.object(DESTINATION, "large").is_none());
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn what_was_there_before_stays_when_the_copy_fails() {
    let mut world = world_with_small_and_large().await;
    world.retry.attempts = 2;
    world.retry.brief_doubt = Duration::ZERO;
    let before = world.put_object(
        DESTINATION,
        "large",
        Content::pattern(9, 77),
        &ObjectSpec::default(),
    );
    world.add_fault(
        Fault::on(Operation::UploadPartCopy)
            .nth(4)
            .then(Effect::Error(403, "AccessDenied")),
    );
    let run = world.run(copy_all()).await;
    assert_eq!(run.error(), "denied");
    assert_eq!(
        world.object(DESTINATION, "large").unwrap().content,
        before.content
    );
    world.assert_no_upload_is_left();
}

#[rstest]
#[case::put(Operation::PutObject)]
#[case::create(Operation::CreateMultipartUpload)]
#[case::part(Operation::UploadPart)]
#[case::complete(Operation::CompleteMultipartUpload)]
#[tokio::test]
async fn uploads_survive_the_same_faults(
    #[case] operation: Operation,
    #[values(
        Effect::SlowDown,
        Effect::Error(500, "InternalError"),
        Effect::ErrorAfterEffect(500, "InternalError"),
        Effect::ResetBefore,
        Effect::ResetAfter,
        Effect::TruncateBody
    )]
    effect: Effect,
) {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..20 * MIB).map(|byte| (byte % 251) as u8).collect();
    std::fs::write(dir.path().join("large"), &large).unwrap();
    std::fs::write(dir.path().join("small"), b"small").unwrap();
    world.add_fault(Fault::on(operation).nth(1).then(effect));
    let run = world.run(upload_all(dir.path())).await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
    let stored = world.object(DESTINATION, "large").unwrap();
    assert!(stored.content.to_bytes() == large, "other bytes arrived");
    world.assert_no_upload_is_left();
}

/// Starts a sandbox with one object of ten parts, which are sent one by one.
async fn ten_parts() -> (World, Job) {
    let world = World::new().await;
    let (content, spec) = (Content::pattern(5, 50 * MIB), ObjectSpec::default());
    let store = world.sandbox.store();
    store.put_object(SOURCE, "k", content, &spec);
    let mut job = world.job(in_parts_of(5 * MIB, copy_all()));
    job.limits.in_flight = Some(1);
    (world, job)
}

#[rstest]
#[case(Operation::UploadPartCopy, 3)]
#[case(Operation::CompleteMultipartUpload, 1)]
#[tokio::test]
async fn an_upload_that_somebody_aborts_is_created_again(
    #[case] operation: Operation,
    #[case] call: u64,
) {
    let (world, job) = ten_parts().await;
    let aborted = Effect::hook(|store| store.abort_uploads(DESTINATION));
    world.add_fault(Fault::on(operation).nth(call).then(aborted));
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    world.assert_equal("k", "k");
    world.assert_no_upload_is_left();
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 2);
}

#[tokio::test]
async fn an_upload_that_is_aborted_again_and_again_fails_its_object() {
    let (world, job) = ten_parts().await;
    let aborted = Effect::hook(|store| store.abort_uploads(DESTINATION));
    let parts = Fault::on(Operation::UploadPartCopy);
    world.add_fault(parts.when(When::Every(3)).then(aborted));
    let run = world.try_run_job(&job).await.unwrap();
    let Ending::Failed { error } = &run.receipts[0].ending else {
        panic!("{:?}", run.receipts)
    };
    assert_eq!(error.kind, "no-such-upload");
    assert!(
        error.message.contains("somebody else ended the upload"),
        "{}",
        error.message
    );
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 4);
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn the_upload_of_a_file_that_somebody_aborts_is_created_again() {
    let world = World::new().await;
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("k"), vec![7; 20 << 20]).unwrap();
    let mut job = world.job(in_parts_of(5 * MIB, upload_all(files.path())));
    job.limits.in_flight = Some(1);
    let aborted = Effect::hook(|store| store.abort_uploads(DESTINATION));
    let part = Fault::on(Operation::UploadPart).nth(3);
    world.add_fault(part.then(aborted));
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    let copy = world.object(DESTINATION, "k").unwrap();
    assert_eq!(copy.content.len(), 20 << 20);
    world.assert_no_upload_is_left();
}
