//! Refusals during a run: s3haul does not believe a 403 at once, keeps stored parts, and sends
//! nothing more for a failed object.

use std::time::Duration;

use s3haul::journal::Intent;
use s3haul::journal::uploads::Kept;
use s3haul::journal::{Location, look};
use s3haul::manifest::job::{FailureLimit, Job, Limits};
use s3haul::sandbox::{Effect, Fault, ObjectSpec, Operation, When};
use s3haul::size::MIB;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, in_parts_of};

const PARTS: u64 = 100;
/// Long enough for a few retries on a busy machine.
const DOUBT: Duration = Duration::from_mins(1);

/// Starts a sandbox with one object of many parts, and returns the job that copies it.
async fn world_with_large() -> (World, Job) {
    let mut world = World::with_copy_latency(Duration::from_millis(5)).await;
    world.retry.brief_doubt = DOUBT;
    world.put("large", PARTS * 5 * MIB);
    let job = world.job(in_parts_of(5 * MIB, copy_all()));
    (world, job)
}

fn denied(operation: Operation) -> Fault {
    Fault::on(operation).then(Effect::Error(403, "AccessDenied"))
}

fn copied_parts(world: &World) -> u64 {
    world.calls(Operation::UploadPartCopy)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_part_of_many_is_sent_again() {
    let (world, job) = world_with_large().await;
    world.add_fault(denied(Operation::UploadPartCopy).nth(PARTS / 2));
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (1, 0),
        "{:?}",
        run.receipts
    );
    assert_eq!(copied_parts(&world), PARTS + 1);
    world.assert_equal("large", "large");
}

/// Parts that were never allowed are refused for good. Success with small objects, or with Create,
/// says nothing about parts.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_not_sent_again_where_none_was_ever_copied() {
    let (mut world, mut job) = world_with_large().await;
    world.retry.brief_doubt = Duration::from_secs(4);
    world.put("a", 9);
    job.limits.in_flight = Some(4);
    world.add_fault(denied(Operation::UploadPartCopy));
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (1, 1),
        "{:?}",
        run.receipts
    );
    let sent = copied_parts(&world);
    assert!((1..=4).contains(&sent), "{sent} requests for 4 parts");
    world.assert_no_upload_is_left();
}

/// The intervals between retries of a refused part grow, which gives the server time.
#[tokio::test(flavor = "multi_thread")]
async fn refused_parts_are_sent_again_at_growing_intervals() {
    let (mut world, mut job) = world_with_large().await;
    world.retry.brief_doubt = Duration::from_secs(2);
    job.limits.in_flight = Some(4);
    world.add_fault(denied(Operation::UploadPartCopy).when(When::After(20)));
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.failed_objects, 1, "{:?}", run.receipts);
    let again = copied_parts(&world) - 20;
    assert!((5..40).contains(&again), "{again} requests for 4 parts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_for_a_small_object_is_sent_again_where_others_succeeded() {
    for operation in [Operation::HeadObject, Operation::CopyObject] {
        let mut world = World::new().await;
        world.retry.brief_doubt = DOUBT;
        for index in 0..50 {
            let key = format!("k{index:02}");
            world.put(&key, 9);
        }
        let mut job = world.job(copy_all());
        job.limits = Limits {
            in_flight: Some(1),
            ..Limits::default()
        };
        world.add_fault(denied(operation).nth(25));
        let run = world.try_run_job(&job).await.unwrap();
        let done = (run.outcome.done_objects, run.outcome.failed_objects);
        assert!(world.sandbox.faults().fired() == 1 || operation == Operation::HeadObject);
        assert_eq!(done, (50, 0), "{operation:?} {:?}", run.receipts);
    }
}

/// Of the objects that are refused for good, only the first one costs the time of the doubt.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_that_last_are_believed() {
    let mut world = World::new().await;
    world.retry.brief_doubt = Duration::from_millis(500);
    for index in 0..200 {
        let key = format!("k{index:03}{}", if index % 2 == 0 { "-bad" } else { "" });
        world.put(&key, 9);
    }
    world.add_fault(denied(Operation::CopyObject).key("-bad"));
    let mut job = world.job(copy_all());
    job.limits = Limits {
        in_flight: Some(4),
        ..Limits::default()
    };
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (100, 100)
    );
    let sent_again = world.calls(Operation::CopyObject) - 200;
    assert!((5..200).contains(&sent_again), "{sent_again} repetitions");
}

/// Lets a run copy this many parts. All others are refused, and the refusals are believed at once.
fn refuse_after(world: &mut World, job: &mut Job, parts: u64) -> u64 {
    world.retry.brief_doubt = Duration::ZERO;
    // All parts have a slot, and wait for their turn at the rate.
    job.limits = Limits {
        requests_per_second: Some(60),
        ..Limits::default()
    };
    world.add_fault(denied(Operation::UploadPartCopy).when(When::After(parts)));
    world.sandbox.calls().clear();
    parts
}

fn assert_denied(world: &World, run: &Run, stored: u64) {
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (0, 1),
        "{:?}",
        run.receipts
    );
    let sent = copied_parts(world);
    assert!(
        sent < stored + 20,
        "{sent} parts were sent, though the object had failed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_object_sends_nothing_more_and_the_next_run_keeps_its_parts() {
    let (mut world, mut job) = world_with_large().await;
    let directory = tempfile::tempdir().unwrap();
    let stored = refuse_after(&mut world, &mut job, 30);
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_denied(&world, &run, stored);
    let [upload] = &world.open_uploads(DESTINATION)[..] else {
        panic!("no upload is kept")
    };
    let notes = run.receipts[0].notes.join("\n");
    assert!(
        notes.contains("keeps 30 of its parts (150MiB) for `s3haul retry` or the next run"),
        "{notes}"
    );
    let state = look(Location::Directory(directory.path().to_owned()))
        .await
        .unwrap()
        .unwrap()
        .state;
    assert_eq!(
        state
            .uploads
            .values()
            .map(|open| open.kept)
            .collect::<Vec<_>>(),
        [Kept::ForNextRun]
    );
    // The parts are still refused: a run that fails again loses nothing.
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_denied(&world, &run, stored);
    let open = world.open_uploads(DESTINATION);
    assert_eq!(
        open.iter().map(|open| &open.upload_id).collect::<Vec<_>>(),
        [&upload.upload_id]
    );

    world.sandbox.faults().clear();
    world.sandbox.calls().clear();
    job.limits = Limits::default();
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (1, 0),
        "{:?}",
        run.receipts
    );
    assert_eq!(copied_parts(&world), PARTS - stored);
    world.assert_equal("large", "large");
    world.assert_no_upload_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kept_upload_of_an_object_that_is_gone_is_aborted() {
    let (mut world, mut job) = world_with_large().await;
    let directory = tempfile::tempdir().unwrap();
    refuse_after(&mut world, &mut job, 30);
    world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(world.open_uploads(DESTINATION).len(), 1);
    world.sandbox.store().delete_object(SOURCE, "large");
    world.session(directory.path(), &job, Intent::Resume).await;
    world.assert_no_upload_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_the_upload_of_a_failed_object_is_aborted() {
    let (mut world, mut job) = world_with_large().await;
    let stored = refuse_after(&mut world, &mut job, 30);
    let run = world.try_run_job(&job).await.unwrap();
    assert_denied(&world, &run, stored);
    world.assert_no_upload_is_left();
}

/// Starts a sandbox with many small objects; copies take a while, so that some are under way when
/// everything is refused.
async fn many(objects: u32) -> (World, Job) {
    let world = World::new().await;
    for index in 0..objects {
        let key = format!("k{index:05}");
        world.put(&key, 9);
    }
    let job = world.job(copy_all());
    (world, job)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_which_all_is_refused_from_some_moment_on_ends_and_fails_none() {
    let (mut world, mut job) = many(3000).await;
    // All copies that are in flight when the refusals begin end before the first refusal is
    // believed.
    (job.limits.patience, world.retry.brief_doubt) =
        (Some(Duration::from_secs(4)), Duration::from_secs(3));
    world.add_fault(denied(Operation::CopyObject).when(When::After(500)));
    let directory = tempfile::tempdir().unwrap();
    let first = world.session(directory.path(), &job, Intent::Resume).await;
    let gave_up = first
        .outcome
        .gave_up
        .clone()
        .expect("it went on to the end");
    assert!(gave_up.may_pass_later, "{gave_up:?}");
    assert!(
        gave_up.reason.contains("AccessDenied") && gave_up.reason.contains("max_failures: none"),
        "{gave_up:?}"
    );
    assert_eq!(
        (first.outcome.done_objects, first.outcome.failed_objects),
        (500, 0)
    );
    let receipts = first.receipts.len() as u64;
    assert_eq!(first.outcome.stopped_objects, receipts - 500);
    let tried = first
        .receipts
        .iter()
        .filter(|receipt| receipt.attempts > 0)
        .count();
    assert!(tried < 1500, "{tried} of 3000 objects were tried");
    world.sandbox.faults().clear();
    world.stop = CancellationToken::new();
    let second = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (second.outcome.done_objects, second.outcome.failed_objects),
        (3000, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_continues_when_refusals_end_and_loses_no_object() {
    let (world, job) = many(2000).await;
    world.add_fault(denied(Operation::CopyObject).when(When::After(500)));
    let mend = async {
        // The pause begins after a few hundred objects, each of which was refused several times.
        while !paused(&world).await {}
        world.sandbox.faults().clear();
    };
    let (run, ()) = tokio::join!(world.try_run_job(&job), mend);
    let outcome = run.unwrap().outcome;
    assert_eq!(
        (
            outcome.done_objects,
            outcome.failed_objects,
            outcome.gave_up
        ),
        (2000, 0, None)
    );
}

/// Returns true once a refused run sends its requests one at a time. A busy machine may send few at
/// one moment, but not at several.
async fn paused(world: &World) -> bool {
    for _ in 0..4 {
        let before = copies(world);
        sleep(Duration::from_millis(300)).await;
        let sent = copies(world) - before;
        if before <= 1000 || !(1..20).contains(&sent) {
            return false;
        }
    }
    true
}

fn copies(world: &World) -> u64 {
    world.calls(Operation::CopyObject)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_series_of_refusals_can_be_asked_for_in_mid_run() {
    let (world, mut job) = many(1500).await;
    job.limits.max_failures = Some(FailureLimit::Unlimited);
    world.add_fault(denied(Operation::CopyObject).when(When::After(500)));
    let outcome = world.try_run_job(&job).await.unwrap().outcome;
    assert_eq!(
        (
            outcome.done_objects,
            outcome.failed_objects,
            outcome.gave_up
        ),
        (500, 1000, None)
    );
}

/// A short series of refusals at the end of a run counts as failures.
#[tokio::test(flavor = "multi_thread")]
async fn a_few_objects_that_are_refused_last_have_failed() {
    let (world, job) = many(100).await;
    world.add_fault(denied(Operation::CopyObject).key("k0009"));
    let outcome = world.try_run_job(&job).await.unwrap().outcome;
    assert_eq!(
        (
            outcome.done_objects,
            outcome.failed_objects,
            outcome.gave_up
        ),
        (90, 10, None)
    );
}

/// Starts a sandbox with objects with tags, which are read one by one because the job adds some.
async fn tagged(objects: u32) -> (World, Job) {
    let mut world = World::with_copy_latency(Duration::from_millis(5)).await;
    world.retry.questions = (Duration::from_millis(20), Duration::from_secs(2));
    for index in 0..objects {
        let spec = ObjectSpec::default().tag("team", "lake");
        let key = format!("k{index:04}");
        world.put_with(&key, 9, &spec);
    }
    let mut transfer = copy_all();
    transfer.set.tags = [("copied".to_owned(), "yes".to_owned())].into();
    let mut job = world.job(transfer);
    job.limits.in_flight = Some(4);
    (world, job)
}

fn tags(world: &World, key: &str) -> usize {
    let copy = world.object(DESTINATION, key).unwrap();
    copy.attributes.tags.len()
}

fn lossy(run: &Run) -> usize {
    let receipts = run.receipts.iter();
    receipts
        .filter(|receipt| !receipt.losses.is_empty())
        .count()
}

/// Refusals while everything is refused say nothing about a single permission.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_403_costs_no_tags() {
    let (mut world, job) = tagged(700).await;
    world.retry.brief_doubt = Duration::from_millis(50);
    let outage = Fault {
        on: Vec::new(),
        ..denied(Operation::CopyObject)
    };
    world.add_fault(outage.when(When::After(300)));
    let end = async {
        while world.sandbox.faults().fired() < 100 {
            sleep(Duration::from_millis(5)).await;
        }
        sleep(Duration::from_millis(200)).await;
        world.sandbox.faults().clear();
    };
    let (run, ()) = tokio::join!(world.try_run_job(&job), end);
    let run = run.unwrap();
    let (done, failed) = (run.outcome.done_objects, run.outcome.failed_objects);
    // A short series of refusals has failed, and `retry` will copy those objects.
    assert_eq!((done + failed, lossy(&run)), (700, 0));
    assert_eq!(tags(&world, "k0699"), 2);
}

/// s3haul notices a permission that returns, and does not ask for a missing one with each object.
#[tokio::test(flavor = "multi_thread")]
async fn a_permission_that_was_missing_for_a_while_is_used_again() {
    let (mut world, job) = tagged(600).await;
    world.retry.brief_doubt = Duration::from_millis(20);
    world.add_fault(denied(Operation::GetObjectTagging).when(When::After(10)));
    let end = async {
        while world.calls(Operation::CopyObject) < 100 {
            sleep(Duration::from_millis(1)).await;
        }
        world.sandbox.faults().clear();
    };
    let (run, ()) = tokio::join!(world.try_run_job(&job), end);
    let run = run.unwrap();
    let done = (run.outcome.done_objects, run.outcome.failed_objects);
    assert_eq!(done, (600, 0));
    assert!((1..400).contains(&lossy(&run)), "{} losses", lossy(&run));
    assert_eq!(tags(&world, "k0599"), 2);

    // A permanent denial costs some requests, but not one for each object.
    let (mut world, job) = tagged(600).await;
    world.retry.brief_doubt = Duration::from_millis(20);
    world.add_fault(denied(Operation::GetObjectTagging));
    let run = world.try_run_job(&job).await.unwrap();
    let asked = world.calls(Operation::GetObjectTagging);
    assert_eq!(lossy(&run), 600);
    assert!((4..60).contains(&asked), "{asked} questions");
}

/// A policy that denies one prefix does not affect the others.
#[tokio::test(flavor = "multi_thread")]
async fn tags_that_are_denied_for_some_objects_are_kept_for_the_others() {
    let (mut world, job) = tagged(200).await;
    world.retry.brief_doubt = Duration::from_millis(20);
    world.add_fault(denied(Operation::GetObjectTagging).key("7"));
    let run = world.try_run_job(&job).await.unwrap();
    let denied = (0..200).filter(|index| format!("{index:04}").contains('7'));
    assert_eq!(lossy(&run), denied.count());
}
