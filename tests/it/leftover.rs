//! The state that one session leaves to the next. Work that a stop cut off is no failure, nothing
//! is reported twice, and uploads are found again even if their objects get other numbers.

use std::path::Path;
use std::time::Duration;

use rstest::rstest;
use s3haul::execute::receipt::Ending;
use s3haul::journal::state::RunState;
use s3haul::journal::{Intent, Location, look};
use s3haul::manifest::job::{
    DEFAULT_ENDPOINT, FailureLimit, Job, Limits, Source, Symlinks, Transfer, Versions,
};
use s3haul::sandbox::{
    BucketOptions, Effect, Fault, LatencyModel, Model, Operation, SandboxOptions,
};
use s3haul::size::MIB;
use tokio_util::sync::CancellationToken;

use crate::world::{DESTINATION, SOURCE, World, copy_all, in_parts_of, restate, upload_all};

const PARTS: u64 = 40;

/// Puts objects that fill three pages.
fn put_many(world: &World) {
    for index in 0..2500 {
        world.put(&format!("{index:05}"), 1);
    }
}

fn denied_list(nth: u64) -> Fault {
    Fault::on(Operation::ListObjectsV2)
        .nth(nth)
        .then(Effect::Error(403, "AccessDenied"))
}

async fn slow_world(buckets: BucketOptions) -> World {
    let latency = LatencyModel {
        copy: Duration::from_millis(10),
        ..LatencyModel::default()
    };
    let model = Model {
        latency,
        ..Model::default()
    };
    let mut world = World::with(
        SandboxOptions {
            model,
            ..SandboxOptions::default()
        },
        buckets,
    )
    .await;
    world.ceiling = 8;
    world
}

/// Stops the run at the nth request of a kind.
fn stop_at(world: &mut World, operation: Operation, n: u64) {
    world.stop = CancellationToken::new();
    let stop = world.stop.clone();
    world.add_fault(
        Fault::on(operation)
            .nth(n)
            .then(Effect::hook(move |_| stop.cancel())),
    );
}

fn go_on(world: &mut World) {
    world.sandbox.faults().clear();
    world.stop = CancellationToken::new();
}

async fn state(place: &Path) -> RunState {
    look(Location::Directory(place.to_owned()))
        .await
        .unwrap()
        .unwrap()
        .state
}

fn in_parts(transfer: Transfer) -> Transfer {
    in_parts_of(5 * MIB, transfer)
}

fn without_order(job: &mut Job) {
    restate(job, |endpoint| {
        endpoint.capabilities.ordered_lists = Some(false);
    });
}

#[tokio::test(start_paused = true)]
async fn what_waits_to_be_sent_again_when_a_run_stops_is_no_failure() {
    let mut world = World::new().await;
    (world.retry.patience, world.retry.persistence) =
        (Duration::from_hours(1), Duration::from_hours(1));
    world.put("large", PARTS * 5 * MIB);
    world.put("small", 9);
    let directory = tempfile::tempdir().unwrap();
    let job = world.job(in_parts(copy_all()));
    stop_at(&mut world, Operation::UploadPartCopy, PARTS);
    for operation in [Operation::CompleteMultipartUpload, Operation::CopyObject] {
        world.add_fault(Fault::on(operation));
    }
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.failed_objects, run.outcome.stopped_objects),
        (0, 2),
        "{:?}",
        run.receipts
    );
    go_on(&mut world);
    world.sandbox.calls().clear();
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 0),
        "{:?}",
        run.receipts
    );
    assert_eq!(
        world.calls(Operation::UploadPartCopy),
        0,
        "all parts were there"
    );
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn a_list_that_ended_a_run_is_no_failure_of_the_resumed_one() {
    let mut world = World::new().await;
    world.retry.brief_doubt = Duration::ZERO;
    put_many(&world);
    let directory = tempfile::tempdir().unwrap();
    let mut job = world.job(copy_all());
    job.limits = Limits {
        max_failures: Some("0".parse::<FailureLimit>().unwrap()),
        ..Limits::default()
    };
    // Each side has been asked for its first page.
    world.add_fault(denied_list(4));
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert!(
        run.outcome.gave_up.is_some() && run.outcome.failed_objects == 1,
        "{:?}",
        run.outcome
    );
    go_on(&mut world);
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2500, 0),
        "{:?}",
        run.outcome
    );
    assert_eq!(state(directory.path()).await.totals.failed_objects, 0);
}

#[tokio::test]
async fn a_list_that_fails_is_on_record_when_the_transfer_ends_and_not_before() {
    let mut world = World::new().await;
    world.retry.brief_doubt = Duration::ZERO;
    put_many(&world);
    let directory = tempfile::tempdir().unwrap();
    let job = world.job(copy_all());
    stop_at(&mut world, Operation::CopyObject, 500);
    world.add_fault(denied_list(4));
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert!(
        run.outcome.stopped && run.outcome.failed_objects == 1,
        "{:?}",
        run.outcome
    );
    assert_eq!(
        state(directory.path()).await.totals.failed_objects,
        0,
        "the next session may list it"
    );
    go_on(&mut world);
    // The first list of the destination finds the pending objects; without it, each is asked for.
    world.add_fault(denied_list(1).bucket(SOURCE));
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.stopped, run.outcome.failed_objects),
        (false, 1),
        "{:?}",
        run.outcome
    );
    let state = state(directory.path()).await;
    assert_eq!(
        (state.totals.failed_objects, state.ended_transfers.len()),
        (1, 1)
    );
}

#[tokio::test]
async fn a_key_that_fails_before_it_is_copied_is_reported_once() {
    let mut world = slow_world(BucketOptions::default()).await;
    for index in 0..200 {
        world.put(&format!("{index:03}"), 1);
    }
    // The last one has no place at the destination.
    world.put(&"z".repeat(1000), 1);
    let mut transfer = copy_all();
    transfer.keys.add_prefix = Some(format!("{}/", "p".repeat(100)));
    let directory = tempfile::tempdir().unwrap();
    let job = world.job(transfer);
    stop_at(&mut world, Operation::CopyObject, 100);
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert!(
        run.outcome.stopped && run.outcome.failed_objects == 1,
        "{:?}",
        run.outcome
    );
    go_on(&mut world);
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (200, 1),
        "{:?}",
        run.outcome
    );
    let again = run
        .receipts
        .iter()
        .filter(|receipt| matches!(receipt.ending, Ending::Failed { .. }))
        .count();
    assert_eq!(again, 0, "{:?}", run.receipts);
}

#[rstest]
#[case::a_list_without_order(Versions::Current)]
#[case::histories(Versions::All)]
#[tokio::test]
async fn finished_parts_are_found_again_where_all_keys_are_listed_again(
    #[case] versions: Versions,
) {
    let versioning = versions == Versions::All;
    let mut world = slow_world(BucketOptions {
        versioning,
        ..BucketOptions::default()
    })
    .await;
    world.put("dir/large", PARTS * 5 * MIB);
    let mut objects = 1;
    let directory = tempfile::tempdir().unwrap();
    let mut job = world.job(in_parts(Transfer {
        versions,
        ..copy_all()
    }));
    stop_at(&mut world, Operation::UploadPartCopy, PARTS / 4);
    if !versioning {
        without_order(&mut job);
        // The first session does not reach the end of the list, the second one does.
        for index in 0..1000 {
            world.put(&format!("e/{index:04}"), 1);
            objects += 1;
        }
        let page = |call: u64| {
            Fault::on(Operation::ListObjectsV2)
                .nth(call)
                .then(Effect::StallBefore(None))
        };
        world.add_fault(page(3));
    }
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert!(run.outcome.stopped, "{:?}", run.outcome);
    let planned = state(directory.path())
        .await
        .ranges
        .values()
        .filter(|range| range.planned)
        .count();
    assert_eq!(planned, 0, "all keys are listed again");
    go_on(&mut world);
    stop_at(&mut world, Operation::UploadPartCopy, PARTS / 4);
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert!(run.outcome.stopped, "{:?}", run.outcome);
    go_on(&mut world);
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.stopped, run.outcome.failed_objects),
        (false, 0),
        "{:?}",
        run.outcome
    );
    assert_eq!(world.keys(DESTINATION).len(), objects);
    assert_eq!(
        world.calls(Operation::UploadPartCopy),
        PARTS,
        "no part was copied twice"
    );
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 1);
    world.assert_no_upload_is_left();
    assert!(state(directory.path()).await.uploads.is_empty());
}

#[tokio::test]
async fn a_list_that_was_believed_to_be_in_order_is_read_again_when_it_is_not() {
    let mut world = slow_world(BucketOptions::default()).await;
    for index in 0..1200 {
        world.put(&format!("1{index:04}"), 1);
    }
    let directory = tempfile::tempdir().unwrap();
    let mut job = world.job(copy_all());
    stop_at(&mut world, Operation::CopyObject, 50);
    // Keeps each session from knowing all keys.
    let last_page = || {
        Fault::on(Operation::ListObjectsV2)
            .nth(3)
            .then(Effect::StallBefore(None))
    };
    world.add_fault(last_page());
    world.session(directory.path(), &job, Intent::Resume).await;
    go_on(&mut world);
    // Such a list may bring a key at any time, also one that sorts before all that were seen.
    world.put("000", 1);
    without_order(&mut job);
    stop_at(&mut world, Operation::CopyObject, 50);
    world.add_fault(last_page());
    world.session(directory.path(), &job, Intent::Resume).await;
    go_on(&mut world);
    world.put("001", 1);
    restate(&mut job, |endpoint| {
        endpoint.capabilities.ordered_lists = None;
    });
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.outcome);
    assert_eq!(world.keys(DESTINATION), world.keys(SOURCE));
}

#[tokio::test]
async fn an_upload_at_another_server_is_not_forgotten() {
    let mut here = slow_world(BucketOptions::default()).await;
    here.put("large", PARTS * 5 * MIB);
    let elsewhere = slow_world(BucketOptions::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let mut job = here.job(in_parts(copy_all()));
    stop_at(&mut here, Operation::UploadPartCopy, PARTS / 2);
    here.session(directory.path(), &job, Intent::Resume).await;
    go_on(&mut here);
    let url = job.endpoints[DEFAULT_ENDPOINT].stated.url.clone();
    restate(&mut job, |endpoint| {
        endpoint.url = Some(elsewhere.sandbox.url().to_owned());
    });
    elsewhere
        .session(directory.path(), &job, Intent::Fresh)
        .await;
    assert_eq!(
        state(directory.path()).await.uploads.len(),
        1,
        "nobody has cancelled it"
    );
    restate(&mut job, |endpoint| endpoint.url = url);
    here.session(directory.path(), &job, Intent::Fresh).await;
    here.assert_no_upload_is_left();
    assert!(state(directory.path()).await.uploads.is_empty());
}

/// A bad copy looks equal: it has the same size, and is newer. No comparison may accept it.
#[tokio::test]
async fn a_bad_copy_that_ends_a_run_stays_a_failure() {
    let mut world = slow_world(BucketOptions::default()).await;
    world.put("a", 100);
    let directory = tempfile::tempdir().unwrap();
    let mut job = world.job(copy_all());
    job.limits = Limits {
        max_failures: Some("0".parse::<FailureLimit>().unwrap()),
        ..Limits::default()
    };
    world.add_fault(Fault::on(Operation::CopyObject).then(Effect::Corrupt));
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert!(
        run.outcome.gave_up.is_some() && run.outcome.failed_objects == 1,
        "{:?}",
        run.outcome
    );
    go_on(&mut world);
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.skipped_objects, run.outcome.failed_objects),
        (0, 1),
        "{:?}",
        run.outcome
    );
}

#[tokio::test]
async fn an_unreadable_part_of_a_directory_is_reported_once() {
    let mut world = slow_world(BucketOptions::default()).await;
    let root = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("nowhere", root.path().join("a")).unwrap();
    for index in 0..4500 {
        std::fs::write(root.path().join(format!("b{index:04}")), "x").unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let mut transfer = upload_all(root.path());
    if let Source::Files { symlinks, .. } = &mut transfer.from {
        *symlinks = Symlinks::Fail;
    }
    let job = world.job(transfer);
    stop_at(&mut world, Operation::PutObject, 20);
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert!(
        run.outcome.stopped && run.outcome.failed_objects == 1,
        "{:?}",
        run.outcome
    );
    let state = state(directory.path()).await;
    assert!(
        !state.ranges[&0].planned && state.ranges[&0].passed.is_some(),
        "{:?}",
        state.ranges
    );
    go_on(&mut world);
    stop_at(&mut world, Operation::PutObject, 20);
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(run.outcome.failed_objects, 1, "{:?}", run.outcome);
}
