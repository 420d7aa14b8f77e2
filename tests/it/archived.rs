//! Archived objects: s3haul recognizes them before it sends a request for them, and follows the
//! job's policy.

use std::time::{Duration, SystemTime};

use rstest::rstest;
use s3haul::execute::receipt::{Ending, Receipt};
use s3haul::journal::Intent;
use s3haul::manifest::job::{Archived, Provider, Restore, RestoreTier, Transfer};
use s3haul::plan::decide::Skip;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::{ByteSize, MIB};
use tokio_util::sync::CancellationToken;

use crate::world::{DESTINATION, Run, SOURCE, World, copy_all};

const RESTORED: &str = "ongoing-request=\"false\", expiry-date=\"Fri, 01 Jan 2100 00:00:00 GMT\"";

fn put_archived(world: &World, key: &str, class: &str, size: u64) {
    // An object is usually archived long before it is copied.
    let yesterday = SystemTime::now() - Duration::from_hours(24);
    let spec = ObjectSpec::default()
        .storage_class(class)
        .last_modified(yesterday);
    world.put_with(key, size, &spec);
}

/// Starts a sandbox with one object of each kind that a bucket with archives has.
async fn world_with_each_class() -> World {
    let world = World::new().await;
    put_archived(&world, "cold", "GLACIER", 10);
    put_archived(&world, "deep", "DEEP_ARCHIVE", 300 * MIB);
    put_archived(&world, "warm", "STANDARD", 10);
    world
}

fn archived(archived: Archived) -> Transfer {
    Transfer {
        archived,
        ..copy_all()
    }
}

fn receipt<'r>(run: &'r Run, key: &str) -> &'r Receipt {
    run.receipts
        .iter()
        .find(|receipt| receipt.destination == format!("s3://destination/{key}"))
        .unwrap()
}

/// A pitfall: S3 refuses reads of archived objects one request at a time. The list shows the class,
/// so no request is sent.
#[tokio::test]
async fn what_the_listing_tells_costs_no_request() {
    let world = world_with_each_class().await;
    let run = world.run(copy_all()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (1, 2)
    );
    let Ending::Failed { error } = &receipt(&run, "deep").ending else {
        panic!("{:?}", run.receipts)
    };
    assert_eq!(error.kind, "archived");
    assert!(
        error.message.contains("DEEP_ARCHIVE and not restored"),
        "{error:?}"
    );
    assert!(error.remedy.contains("archived: restore"), "{error:?}");
    assert_eq!(receipt(&run, "deep").size, 300 * MIB);
    for (operation, calls) in [
        (Operation::HeadObject, 1),
        (Operation::CopyObject, 1),
        (Operation::CreateMultipartUpload, 0),
    ] {
        assert_eq!(world.calls(operation), calls, "{operation:?}");
    }
}

#[tokio::test]
async fn what_is_left_out_is_counted_and_no_failure() {
    let world = world_with_each_class().await;
    let run = world.run(archived(Archived::Skip)).await;
    let outcome = &run.outcome;
    assert_eq!(
        (
            outcome.done_objects,
            outcome.archived_objects,
            outcome.failed_objects
        ),
        (1, 2, 0)
    );
    assert_eq!(
        outcome.skipped_objects, 0,
        "the destination has none of them"
    );
    assert_eq!(
        receipt(&run, "cold").ending,
        Ending::Skipped {
            reason: Skip::Archived
        }
    );
    assert_eq!(world.calls(Operation::RestoreObject), 0);
}

#[tokio::test]
async fn a_later_session_also_knows_which_objects_were_left_out() {
    let mut world = world_with_each_class().await;
    let mut spec = ObjectSpec::default().storage_class("INTELLIGENT_TIERING");
    spec.attributes.archive_status = Some("DEEP_ARCHIVE_ACCESS".into());
    world.put_with("a-tiered", 10, &spec);
    put_archived(&world, "z-large", "STANDARD", 300 * MIB);
    let mut transfer = archived(Archived::Skip);
    transfer.parts.threshold = ByteSize(8 * MIB);
    let (job, journal) = (world.job(transfer), tempfile::tempdir().unwrap());
    let stop = world.stop.clone();
    let fault = Fault::on(Operation::UploadPartCopy)
        .nth(1)
        .then(Effect::hook(move |_| stop.cancel()));
    world.add_fault(fault);
    let run = world.session(journal.path(), &job, Intent::Resume).await;
    assert!(run.outcome.stopped, "{:?}", run.outcome);
    world.stop = CancellationToken::new();
    let run = world.session(journal.path(), &job, Intent::Resume).await;
    let outcome = &run.outcome;
    assert_eq!(
        (outcome.sessions, outcome.done_objects),
        (2, 2),
        "{outcome:?}"
    );
    assert_eq!(
        (outcome.archived_objects, outcome.skipped_objects),
        (3, 0),
        "{outcome:?}"
    );
    assert_eq!(outcome.skipped_bytes, 0);
}

#[tokio::test]
async fn a_restore_is_asked_for_once_and_a_later_run_copies() {
    let world = world_with_each_class().await;
    let transfer = Transfer {
        restore: Restore {
            tier: RestoreTier::Expedited,
            days: 3,
        },
        ..archived(Archived::Restore)
    };
    let run = world.run(transfer.clone()).await;
    let outcome = &run.outcome;
    assert_eq!(
        (
            outcome.done_objects,
            outcome.restoring_objects,
            outcome.failed_objects
        ),
        (1, 2, 0)
    );
    assert_eq!(outcome.restoring_bytes, 300 * MIB + 10);
    let requested = |run: &Run, key: &str| match &receipt(run, key).ending {
        Ending::Restoring { requested } => *requested,
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!(requested(&run, "cold"), Some(RestoreTier::Expedited));
    assert_eq!(
        requested(&run, "deep"),
        Some(RestoreTier::Standard),
        "DEEP_ARCHIVE has no expedited tier"
    );
    assert_eq!(receipt(&run, "deep").route, Some("restore"));
    assert_eq!(
        (
            world.calls(Operation::RestoreObject),
            world.calls(Operation::HeadObject)
        ),
        (2, 1)
    );

    let run = world.run(transfer.clone()).await;
    assert_eq!(
        (run.outcome.skipped_objects, run.outcome.restoring_objects),
        (1, 2)
    );
    assert_eq!(
        (requested(&run, "cold"), requested(&run, "deep")),
        (None, None)
    );
    assert_eq!(
        world.calls(Operation::RestoreObject),
        2,
        "the listing tells that they are under way"
    );

    world.sandbox.store().finish_restores(SOURCE);
    let run = world.run(transfer.clone()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.restoring_objects),
        (2, 0),
        "{:?}",
        run.receipts
    );
    // The copy keeps the class of the source: the class says where the copy belongs, not from where
    // the source was restored.
    world.assert_equal("cold", "cold");
    world.assert_equal("deep", "deep");
    assert_eq!(
        world
            .object(DESTINATION, "deep")
            .unwrap()
            .attributes
            .class(),
        "DEEP_ARCHIVE"
    );
    assert_eq!(world.calls(Operation::RestoreObject), 2);

    world.sandbox.calls().clear();
    let run = world.run(transfer).await;
    assert_eq!(run.outcome.skipped_objects, 3);
    assert_eq!(
        world.calls(Operation::RestoreObject) + world.calls(Operation::HeadObject),
        0
    );
}

#[tokio::test]
async fn only_head_tells_the_archive_tiers_of_intelligent_tiering() {
    let world = World::new().await;
    let mut spec = ObjectSpec::default().storage_class("INTELLIGENT_TIERING");
    spec.attributes.archive_status = Some("DEEP_ARCHIVE_ACCESS".into());
    world.put_with("tiered", 10, &spec);
    put_archived(&world, "readable", "INTELLIGENT_TIERING", 10);
    let run = world.run(copy_all()).await;
    let Ending::Failed { error } = &receipt(&run, "tiered").ending else {
        panic!("{:?}", run.receipts)
    };
    assert!(error.message.contains("DEEP_ARCHIVE_ACCESS"), "{error:?}");
    let run = world.run(archived(Archived::Skip)).await;
    assert_eq!(
        (run.outcome.archived_objects, run.outcome.skipped_objects),
        (1, 1)
    );
    // As S3 does, the sandbox refuses `Days` for this class, and the expedited tier for this
    // archive.
    let mut transfer = archived(Archived::Restore);
    transfer.restore.tier = RestoreTier::Expedited;
    let run = world.run(transfer.clone()).await;
    let expected = Ending::Restoring {
        requested: Some(RestoreTier::Standard),
    };
    assert_eq!(
        receipt(&run, "tiered").ending,
        expected,
        "{:?}",
        run.receipts
    );
    world.sandbox.store().finish_restores(SOURCE);
    assert_eq!(world.run(transfer).await.outcome.done_objects, 1);
    world.assert_equal("tiered", "tiered");
}

/// After the listing, somebody else may have requested the restore, or the object may have become
/// readable.
#[tokio::test]
async fn a_restore_that_is_not_needed_is_no_failure() {
    let world = World::new().await;
    put_archived(&world, "cold", "GLACIER", 10);
    let in_progress = Effect::Error(409, "RestoreAlreadyInProgress");
    world.add_fault(Fault::on(Operation::RestoreObject).nth(1).then(in_progress));
    let run = world.run(archived(Archived::Restore)).await;
    assert_eq!(run.outcome.restoring_objects, 1, "{:?}", run.receipts);

    let restored = Effect::hook(|store| {
        let mut spec = ObjectSpec::default().storage_class("GLACIER");
        spec.attributes.restore = Some(RESTORED.into());
        store.put_object(SOURCE, "cold", Content::pattern(1, 10), &spec);
    });
    world.add_fault(Fault::on(Operation::RestoreObject).nth(1).then(restored));
    let run = world.run(archived(Archived::Restore)).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    assert_eq!(run.receipts[0].route, Some("copy"));
    world.assert_equal("cold", "cold");
}

#[tokio::test]
async fn throttled_restores_are_asked_for_again() {
    let world = World::new().await;
    put_archived(&world, "cold", "GLACIER", 10);
    let throttled = Effect::Error(503, "ThrottlingException");
    world.add_fault(Fault::on(Operation::RestoreObject).nth(1).then(throttled));
    let run = world.run(archived(Archived::Restore)).await;
    assert_eq!(
        (
            run.outcome.restoring_objects,
            run.outcome.requests.throttled
        ),
        (1, 1),
        "{:?}",
        run.receipts
    );
    assert_eq!(world.calls(Operation::RestoreObject), 2);
}

/// The restored copy has expired by the time the object is copied, so the copy itself is refused.
#[rstest]
#[case(10, Operation::CopyObject)]
#[case(300 * MIB, Operation::UploadPartCopy)]
#[tokio::test]
async fn a_copy_that_is_refused_for_its_archive_is_dealt_with_alike(
    #[case] size: u64,
    #[case] operation: Operation,
    #[values("InvalidObjectState", "ObjectNotInActiveTierError")] code: &'static str,
) {
    for (policy, expected) in [(Archived::Fail, (1, 0)), (Archived::Skip, (0, 1))] {
        let world = World::new().await;
        put_archived(&world, "k", "GLACIER_IR", size);
        world.add_fault(Fault::on(operation).then(Effect::Error(403, code)));
        let run = world.run(archived(policy)).await;
        let outcome = &run.outcome;
        assert_eq!(
            (outcome.failed_objects, outcome.archived_objects),
            expected,
            "{:?}",
            run.receipts
        );
        world.assert_no_upload_is_left();
    }
}

/// On other servers, a storage class with this name may mean anything, so s3haul sends HEAD.
#[tokio::test]
async fn other_servers_are_asked_by_head() {
    let mut world = world_with_each_class().await;
    world.provider = Provider::Other;
    let run = world.run(archived(Archived::Restore)).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.restoring_objects),
        (1, 2),
        "{:?}",
        run.receipts
    );
    assert!(world.calls(Operation::HeadObject) >= 3);
}
