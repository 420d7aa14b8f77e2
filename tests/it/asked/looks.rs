//! The HEADs of published objects: how many there are, and what a denied or unexpected one leads
//! to.

use rstest::rstest;
use s3haul::manifest::job::Provider;
use s3haul::sandbox::{CallEntry, Effect, Fault, ObjectSpec, Operation};

use crate::world::{DESTINATION, World, copy_all, in_parts_of, upload_all};

use super::{LARGE, PART, ignore, message};

/// The profile says that `ETag`s follow from the bytes, so the answers of all parts look right.
#[rstest]
#[case::ignored_range(Operation::UploadPartCopy, Effect::Ignore(&["x-amz-copy-source-range"]), "bytes arrived of")]
#[case::dropped_part(
    Operation::CompleteMultipartUpload,
    Effect::DropPart,
    "bytes arrived of"
)]
#[tokio::test]
async fn an_object_of_parts_is_looked_at_once(
    #[case] operation: Operation,
    #[case] effect: Effect,
    #[case] what: &str,
    #[values(Provider::Aws, Provider::Wasabi, Provider::Other)] provider: Provider,
) {
    let world = World::of_provider(provider).await;
    world.put_with("a", LARGE, &ObjectSpec::default().without_checksum());
    world.add_fault(Fault::on(operation).then(effect));
    if operation == Operation::UploadPartCopy {
        ignore(
            &world,
            Operation::CompleteMultipartUpload,
            &["x-amz-mp-object-size", "x-amz-checksum-crc64nvme"],
        );
    }
    let run = world.run(in_parts_of(PART, copy_all())).await;
    assert_eq!(
        run.outcome.failed_objects, 1,
        "{provider:?} {:?}",
        run.receipts
    );
    let message = message(&run);
    // The sandbox's answer to Complete has the checksum of the published object, which s3haul sees
    // before the HEAD.
    assert!(
        message.contains(what) || message.contains("but its parts make"),
        "{message}"
    );
}

#[tokio::test]
async fn one_head_beside_the_parts() {
    for provider in [Provider::Aws, Provider::Wasabi, Provider::Other] {
        let world = World::of_provider(provider).await;
        world.put("a", LARGE);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("b"),
            vec![7; usize::try_from(LARGE).unwrap()],
        )
        .unwrap();
        for (transfer, looks) in [(copy_all(), 1), (upload_all(directory.path()), 2)] {
            let run = world.run(in_parts_of(PART, transfer)).await;
            assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
            let heads = world.sandbox.calls().of(Operation::HeadObject);
            let is_look =
                |call: &&CallEntry| call.bucket == DESTINATION && call.status == Some(200);
            assert_eq!(heads.iter().filter(is_look).count(), looks, "{provider:?}");
        }
    }
}

/// With permission to write but not to read, the proof rests on the answers, and the receipt has a
/// note.
#[tokio::test]
async fn a_look_that_is_denied_leaves_what_the_answers_prove() {
    for (world, permission) in [
        (World::new().await, "s3:GetObject"),
        (World::versioned().await, "s3:GetObjectVersion"),
    ] {
        world.put("a", LARGE);
        world.deny(DESTINATION, Operation::HeadObject, "");
        let run = world.run(in_parts_of(PART, copy_all())).await;
        assert_eq!(
            (run.outcome.done_objects, run.proof().as_str()),
            (1, "crc64nvme"),
            "{:?}",
            run.receipts
        );
        let note =
            format!("not checked after it was published: {permission} missing on destination");
        assert_eq!(run.receipts[0].notes, [note]);
    }
}

/// A server that ignores `?tagging` overwrites the object with the tags.
#[tokio::test]
async fn tags_that_replace_the_object_are_found_out() {
    let world = World::of_provider(Provider::Ceph).await;
    for key in ["a", "b"] {
        world.put_with(key, 10, &ObjectSpec::default().tag("a", "b"));
    }
    ignore(&world, Operation::PutObjectTagging, &["tagging"]);
    let mut job = world.job(copy_all());
    job.limits.in_flight = Some(1);
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (1, 1),
        "{:?}",
        run.receipts
    );
    assert!(
        message(&run).contains("stored the tags as the content"),
        "{}",
        message(&run)
    );
    assert_eq!(
        world.calls(Operation::PutObjectTagging),
        1,
        "the others are left alone"
    );
    assert_eq!(world.object(DESTINATION, "b").unwrap().size, 10);
}
