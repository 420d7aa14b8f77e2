//! Objects that somebody else writes between the comparison and our write stay, whether the server
//! checks a condition or s3haul looks again, and whichever write is refused.

use std::sync::atomic::Ordering;

use rstest::rstest;
use s3haul::execute::receipt::{Ending, Receipt, Replan};
use s3haul::manifest::job::{ProofPolicy, Provider, Transfer, Verify, When};
use s3haul::plan::decide::Skip;
use s3haul::sandbox::{
    Algorithm, ChecksumKind, Content, Effect, Fault, ObjectSpec, Operation, When as Which,
};
use s3haul::size::MIB;

use crate::world::{DESTINATION, SOURCE, World, copy_all, upload_all};

const SMALL: u64 = 10;
const LARGE: u64 = 300 * MIB;

/// Returns the content that another writer puts.
fn theirs() -> Content {
    Content::pattern(9, 5)
}

fn at(world: &World, bucket: &str, content: Content) {
    world.put_object(bucket, "k", content, &ObjectSpec::default());
}

fn copy(when: When) -> Transfer {
    Transfer { when, ..copy_all() }
}

fn now_at_destination(world: &World) -> Content {
    world.object(DESTINATION, "k").unwrap().content
}

/// Writes to the destination at the first request of a copy, the HEAD of the source.
fn they_write(world: &World) {
    let write = Effect::hook(|store| {
        store.put_object(DESTINATION, "k", theirs(), &ObjectSpec::default());
    });
    world.add_fault(Fault::on(Operation::HeadObject).key("k").nth(1).then(write));
}

#[track_caller]
fn assert_skipped(receipt: &Receipt, reason: Skip) {
    assert_eq!(receipt.ending, Ending::Skipped { reason });
}

#[rstest]
#[case::missing(When::Missing, Skip::Present)]
#[case::changed(When::Changed, Skip::ChangedMeanwhile)]
#[tokio::test]
async fn what_appears_after_the_comparison_stays(
    #[case] when: When,
    #[case] reason: Skip,
    #[values(SMALL, LARGE)] size: u64,
) {
    let world = World::new().await;
    at(&world, SOURCE, Content::pattern(1, size));
    they_write(&world);
    let run = world.run(copy(when)).await;
    assert_skipped(&run.receipts[0], reason);
    assert_eq!(
        (run.outcome.failed_objects, run.outcome.skipped_objects),
        (0, 1)
    );
    assert_eq!(now_at_destination(&world), theirs());
    world.assert_no_upload_is_left();
}

#[rstest]
#[tokio::test]
async fn what_replaces_the_compared_object_stays(#[values(SMALL, LARGE)] size: u64) {
    let world = World::new().await;
    at(&world, DESTINATION, Content::pattern(2, 7));
    at(&world, SOURCE, Content::pattern(1, size));
    they_write(&world);
    let run = world.run(copy(When::Changed)).await;
    assert_skipped(&run.receipts[0], Skip::ChangedMeanwhile);
    assert_eq!(now_at_destination(&world), theirs());
    world.assert_no_upload_is_left();
    // The next run compares with the new object and reports it.
    assert_eq!(world.run(copy(When::Changed)).await.outcome.done_objects, 1);
    world.assert_equal("k", "k");
}

#[rstest]
#[tokio::test]
async fn an_object_that_is_deleted_instead_of_replaced_is_written_as_an_absent_one(
    #[values(SMALL, LARGE)] size: u64,
) {
    let world = World::new().await;
    at(&world, DESTINATION, Content::pattern(2, 7));
    at(&world, SOURCE, Content::pattern(1, size));
    let delete = Effect::hook(|store| store.delete_object(DESTINATION, "k"));
    let write = if size == SMALL {
        Operation::CopyObject
    } else {
        Operation::CompleteMultipartUpload
    };
    world.add_fault(Fault::on(write).nth(1).then(delete));
    let run = world.run(copy(When::Changed)).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    world.assert_equal("k", "k");
    world.assert_no_upload_is_left();
    // S3 answers Complete for an absent key with 409 if the key was deleted after the upload was
    // created. All parts are sent again.
    let creates = world.calls(Operation::CreateMultipartUpload);
    assert_eq!(creates, if size == SMALL { 0 } else { 2 });
    // The server answers 404 to the condition, then 409 to the condition for a free key. The third
    // Complete belongs to the new upload.
    let completes = world.calls(Operation::CompleteMultipartUpload);
    assert_eq!(completes, if size == SMALL { 0 } else { 3 });
}

#[tokio::test]
async fn a_409_costs_a_new_upload_and_not_more_than_a_few() {
    for (which, done) in [(Which::Nth(1), true), (Which::Always, false)] {
        let world = World::new().await;
        at(&world, SOURCE, Content::pattern(1, LARGE));
        let conflict = Effect::Error(409, "ConditionalRequestConflict");
        let on_complete = Fault::on(Operation::CompleteMultipartUpload).when(which);
        world.add_fault(on_complete.then(conflict));
        let run = world.run(copy(When::Changed)).await;
        assert_eq!(run.outcome.done_objects == 1, done, "{:?}", run.receipts);
        let rounds = if done { 2 } else { 4 };
        assert_eq!(world.calls(Operation::CreateMultipartUpload), rounds);
        // The receipt names the destination, not the source.
        let replans = vec![Replan::DestinationChanged; if done { 1 } else { 4 }];
        assert_eq!(run.receipts[0].replans, replans);
        if !done {
            assert_eq!(run.error(), "conflict");
            let Ending::Failed { error } = &run.receipts[0].ending else {
                panic!("{:?}", run.receipts)
            };
            let request = (error.operation.as_str(), error.code.as_str());
            let refused = ("CompleteMultipartUpload", "ConditionalRequestConflict");
            assert_eq!(request, refused, "the refused request is reported");
            assert!(error.request_id.is_some(), "{error:?}");
            assert!(error.message.contains("planned 4 times"), "{error:?}");
        }
        assert_eq!(world.object(DESTINATION, "k").is_some(), done);
        world.assert_no_upload_is_left();
    }
}

/// S3 answers 409 while another write is in progress, whose object is then at the key.
#[rstest]
#[case::missing(When::Missing, false, Skip::Present)]
#[case::changed(When::Changed, false, Skip::ChangedMeanwhile)]
#[case::replaced(When::Changed, true, Skip::ChangedMeanwhile)]
#[tokio::test]
async fn no_part_is_copied_again_after_a_409_if_the_key_is_taken(
    #[case] when: When,
    #[case] there: bool,
    #[case] reason: Skip,
) {
    let world = World::new().await;
    if there {
        at(&world, DESTINATION, Content::pattern(2, 7));
    }
    at(&world, SOURCE, Content::pattern(1, LARGE));
    let appears = Effect::hook(|store| {
        store.put_object(DESTINATION, "k", theirs(), &ObjectSpec::default());
    });
    let faults = world.sandbox.faults();
    faults.add(Fault::on(Operation::UploadPartCopy).nth(1).then(appears));
    let conflict = Effect::Error(409, "ConditionalRequestConflict");
    faults.add(Fault::on(Operation::CompleteMultipartUpload).then(conflict));
    let run = world.run(copy(when)).await;
    assert_skipped(&run.receipts[0], reason);
    assert_eq!(now_at_destination(&world), theirs());
    let parts = u64::from(run.receipts[0].parts);
    assert!(parts > 1);
    for (operation, calls) in [
        (Operation::CreateMultipartUpload, 1),
        (Operation::UploadPartCopy, parts),
        (Operation::CompleteMultipartUpload, 1),
        (Operation::AbortMultipartUpload, 1),
    ] {
        assert_eq!(world.calls(operation), calls, "{operation:?}");
    }
    world.assert_no_upload_is_left();
}

#[rstest]
#[case::absent(false, Effect::ErrorAfterEffect(500, "InternalError"))]
#[case::there(true, Effect::ErrorAfterEffect(500, "InternalError"))]
// S3's answers to the second attempt while the first one, whose answer was lost, is still being
// processed.
#[case::raced_by_itself(false, Effect::ErrorAfterEffect(409, "ConditionalRequestConflict"))]
#[tokio::test]
async fn our_own_write_whose_answer_was_lost_is_not_taken_for_anothers(
    #[case] there: bool,
    #[case] lost: Effect,
) {
    let world = World::new().await;
    if there {
        at(&world, DESTINATION, Content::pattern(2, 7));
    }
    at(&world, SOURCE, Content::pattern(1, SMALL));
    world.add_fault(Fault::on(Operation::CopyObject).nth(1).then(lost));
    let run = world.run(copy(When::Changed)).await;
    assert_eq!(
        (run.proof().as_str(), world.calls(Operation::CopyObject)),
        ("crc64nvme", 2)
    );
    world.assert_equal("k", "k");
}

/// Starts a sandbox that honors conditions with Complete and not with CopyObject, as MinIO and R2
/// do.
async fn minio() -> World {
    let world = World::of_provider(Provider::Minio).await;
    world
        .sandbox
        .store()
        .quirks()
        .copies_overwrite
        .store(true, Ordering::Relaxed);
    world
}

#[tokio::test]
async fn one_part_closes_the_race_where_only_a_complete_can_be_refused() {
    let world = minio().await;
    at(&world, SOURCE, Content::pattern(1, SMALL));
    let appears = Effect::hook(|store| {
        store.put_object(DESTINATION, "k", theirs(), &ObjectSpec::default());
    });
    // Later than any look could see it.
    world.add_fault(
        Fault::on(Operation::CompleteMultipartUpload)
            .nth(1)
            .then(appears),
    );
    let run = world.run(copy(When::Missing)).await;
    assert_skipped(&run.receipts[0], Skip::Present);
    assert_eq!(
        world.calls(Operation::CopyObject),
        0,
        "it would have overwritten"
    );
    assert_eq!(now_at_destination(&world), theirs());
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn a_checksum_that_only_one_request_keeps_is_no_reason_to_overwrite() {
    let world = minio().await;
    let spec = ObjectSpec::default().checksum(Algorithm::Sha256, ChecksumKind::FullObject);
    world.put_object(SOURCE, "k", Content::pattern(1, LARGE), &spec);
    let appears = Effect::hook(|store| {
        store.put_object(DESTINATION, "k", theirs(), &ObjectSpec::default());
    });
    world.add_fault(Fault::on(Operation::CopyObject).nth(1).then(appears));
    let run = world
        .run(Transfer {
            proof: ProofPolicy {
                verify: Verify::RequireChecksum,
                ..ProofPolicy::default()
            },
            ..copy(When::Missing)
        })
        .await;
    assert_eq!(
        world.calls(Operation::CopyObject),
        0,
        "it would have overwritten"
    );
    assert_eq!(run.error(), "unprovable", "{:?}", run.receipts);
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn an_empty_object_has_no_part_and_is_looked_for_before_it_is_copied() {
    for taken in [false, true] {
        let world = minio().await;
        at(&world, SOURCE, Content::pattern(1, 0));
        if taken {
            they_write(&world);
        }
        let run = world.run(copy(When::Missing)).await;
        assert_eq!(run.outcome.done_objects == 0, taken, "{:?}", run.receipts);
        assert_eq!(world.calls(Operation::CopyObject), u64::from(!taken));
        assert_eq!(world.calls(Operation::CreateMultipartUpload), 0);
        // One HEAD of the source, one of the destination, and one more to check that the copy kept
        // its attributes.
        assert_eq!(world.calls(Operation::HeadObject), 2 + u64::from(!taken));
    }
}

#[tokio::test]
async fn where_no_write_knows_conditions_none_is_sent() {
    let world = World::of_provider(Provider::Other).await;
    at(&world, DESTINATION, Content::pattern(2, 7));
    at(&world, SOURCE, Content::pattern(1, SMALL));
    they_write(&world);
    // The sandbox honors conditions, so a condition that is sent would have an effect.
    let run = world.run(copy(When::Changed)).await;
    assert_eq!(run.outcome.done_objects, 1);
    world.assert_equal("k", "k");
}

#[rstest]
#[case::put(SMALL, Operation::PutObject)]
#[case::parts(20 * MIB, Operation::CompleteMultipartUpload)]
#[tokio::test]
async fn files_overwrite_nothing_either(#[case] size: u64, #[case] write: Operation) {
    for there in [false, true] {
        let world = World::new().await;
        if there {
            at(&world, DESTINATION, Content::pattern(2, 7));
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("k"),
            vec![1; usize::try_from(size).unwrap()],
        )
        .unwrap();
        let appears = Effect::hook(|store| {
            store.put_object(DESTINATION, "k", theirs(), &ObjectSpec::default());
        });
        world.add_fault(Fault::on(write).nth(1).then(appears));
        let run = world.run(upload_all(directory.path())).await;
        assert_skipped(&run.receipts[0], Skip::ChangedMeanwhile);
        assert_eq!(now_at_destination(&world), theirs());
        world.assert_no_upload_is_left();
    }
}

#[rstest]
#[case::put(SMALL, Operation::PutObject)]
#[case::parts(20 * MIB, Operation::CompleteMultipartUpload)]
#[tokio::test]
async fn a_file_replaces_what_is_deleted_or_raced_meanwhile(
    #[case] size: u64,
    #[case] write: Operation,
) {
    let delete = Effect::hook(|store| store.delete_object(DESTINATION, "k"));
    for effect in [delete, Effect::Error(409, "ConditionalRequestConflict")] {
        let world = World::new().await;
        at(&world, DESTINATION, Content::pattern(2, 7));
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("k"),
            vec![1; usize::try_from(size).unwrap()],
        )
        .unwrap();
        world.add_fault(Fault::on(write).nth(1).then(effect));
        let run = world.run(upload_all(directory.path())).await;
        assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
        assert_eq!(now_at_destination(&world).len(), size);
        world.assert_no_upload_is_left();
    }
}

#[tokio::test]
async fn a_refusal_says_what_a_bucket_that_demands_conditions_wants() {
    let world = World::new().await;
    at(&world, SOURCE, Content::pattern(1, SMALL));
    world.deny(DESTINATION, Operation::CopyObject, "");
    let message = |run: &crate::world::Run| match &run.receipts[0].ending {
        Ending::Failed { error } => error.message.clone(),
        other => panic!("{other:?}"),
    };
    let always = message(&world.run(copy(When::Always)).await);
    assert!(always.contains("demands conditional writes"), "{always}");
    at(&world, DESTINATION, Content::pattern(2, 7));
    let changed = message(&world.run(copy(When::Changed)).await);
    assert!(
        changed.contains("s3:GetObject on the destination"),
        "{changed}"
    );
    // s3haul reports a reason that it cannot see as a guess.
    world.put("another", SMALL);
    let run = world.run(copy(When::Always)).await;
    let guesses = run.receipts.iter().filter(|receipt| match &receipt.ending {
        Ending::Failed { error } => error
            .message
            .contains("if the bucket's policy demands an ACL"),
        _ => false,
    });
    assert_eq!((run.receipts.len(), guesses.count()), (2, 2));
}

/// Returns a directory with a small file `k`.
fn one_file() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("k"), "content").unwrap();
    directory
}

/// Writes to the destination just before the first `PutObject`.
fn they_write_before_the_put(world: &World) {
    let appears = Effect::hook(|store| {
        store.put_object(DESTINATION, "k", theirs(), &ObjectSpec::default());
    });
    world.add_fault(Fault::on(Operation::PutObject).nth(1).then(appears));
}

#[tokio::test]
async fn a_file_whose_key_is_taken_is_skipped_even_if_nobody_may_look_at_the_key() {
    let world = World::new().await;
    they_write_before_the_put(&world);
    world.deny(DESTINATION, Operation::HeadObject, "");
    let directory = one_file();
    let run = world.run(upload_all(directory.path())).await;
    assert_skipped(&run.receipts[0], Skip::ChangedMeanwhile);
    assert_eq!(now_at_destination(&world), theirs());
}

#[tokio::test]
async fn a_file_is_sent_again_if_the_object_that_took_its_key_is_gone() {
    let world = World::new().await;
    they_write_before_the_put(&world);
    let delete = Effect::hook(|store| store.delete_object(DESTINATION, "k"));
    world.add_fault(Fault::on(Operation::HeadObject).nth(1).then(delete));
    let directory = one_file();
    let run = world.run(upload_all(directory.path())).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    assert_eq!(world.calls(Operation::PutObject), 2);
    assert_eq!(now_at_destination(&world).len(), 7);
}
