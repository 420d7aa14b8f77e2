//! Parts: their sizes, the number of open uploads, and parts whose requests hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rstest::rstest;
use s3haul::manifest::job::{PartGoal, Provider};
use s3haul::sandbox::{Effect, Fault, Operation};
use s3haul::size::{ByteSize, GIB, MIB};

use crate::world::{DESTINATION, World, copy_all, in_parts_of};

const PARTS: u64 = 40;

/// Starts a sandbox in which one part copy of an object of [`PARTS`] parts hangs.
async fn hanging(effect: Effect) -> World {
    let world = World::new().await;
    world.put("large", PARTS * 8 * MIB);
    world.add_fault(Fault::on(Operation::UploadPartCopy).nth(20).then(effect));
    world
}

async fn copy(world: &World) -> crate::world::Run {
    world.run(in_parts_of(8 * MIB, copy_all())).await
}

#[rstest]
#[case::before_it_took_effect(Effect::StallBefore(None))]
#[case::after_it_took_effect(Effect::StallAfter(None))]
#[tokio::test]
async fn a_part_whose_request_hangs_is_asked_for_once_more(#[case] effect: Effect) {
    let mut world = hanging(effect).await;
    // Far longer than the test may take: nobody waits for the hanging request.
    world.retry.silence = Duration::from_mins(10);
    let run = copy(&world).await;
    assert_eq!(run.proof(), "crc64nvme");
    world.assert_equal("large", "large");
    world.assert_no_upload_is_left();
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS + 1);
    assert_eq!(
        (run.outcome.requests.hedged, run.outcome.requests.retried),
        (1, 0)
    );
    assert_eq!(
        u64::from(run.receipts[0].attempts),
        PARTS + 1,
        "it is accounted for"
    );
}

#[tokio::test]
async fn no_part_is_asked_for_twice_where_the_server_may_take_it_from_another_version() {
    let mut world = hanging(Effect::StallBefore(None)).await;
    world.provider = Provider::Auto;
    let run = copy(&world).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    assert_eq!(
        (run.outcome.requests.hedged, run.outcome.requests.retried),
        (0, 1)
    );
    world.assert_equal("large", "large");
}

#[rstest]
#[case(PartGoal::Cheapest, 3, 4 * GIB)]
#[case(PartGoal::Balanced, 192, 64 * MIB)]
#[case(PartGoal::Fastest, 256, 48 * MIB)]
#[tokio::test]
async fn a_goal_decides_how_an_object_is_cut(
    #[case] goal: PartGoal,
    #[case] parts: u32,
    #[case] part: u64,
) {
    let world = World::new().await;
    world.put("large", 12 * GIB);
    let mut transfer = copy_all();
    transfer.parts.goal = goal;
    let run = world.run(transfer).await;
    assert_eq!(
        (
            run.receipts[0].parts,
            world.calls(Operation::UploadPartCopy)
        ),
        (parts, u64::from(parts))
    );
    let stored = world.object(DESTINATION, "large").unwrap();
    assert_eq!(stored.parts.iter().map(|part| part.size).max(), Some(part));
    world.assert_equal("large", "large");
}

#[tokio::test]
async fn as_many_uploads_are_open_as_fill_all_places() {
    let world = World::with_copy_latency(Duration::from_millis(100)).await;
    for index in 0..120 {
        world.put(&format!("o{index:03}"), 257 * MIB);
    }
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    world.add_fault(
        Fault::on(Operation::CompleteMultipartUpload).then(Effect::hook(move |store| {
            seen.fetch_max(store.open_uploads(DESTINATION).len(), Ordering::Relaxed);
        })),
    );
    let run = world.run(copy_all()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (120, 0)
    );
    // With five parts each, 48 objects would leave some of the 256 slots empty.
    let most = most.load(Ordering::Relaxed);
    assert!(most > 60, "{most} uploads were open at once");
}

#[tokio::test]
async fn one_long_copy_begins_before_many_short_ones() {
    let world = World::new().await;
    for index in 0..300 {
        world.put(&format!("a{index:03}"), 1000);
    }
    world.put("z", 5 * GIB);
    let mut transfer = copy_all();
    transfer.parts.threshold = ByteSize(5 * GIB);
    let mut job = world.job(transfer);
    job.limits.in_flight = Some(4);
    // All objects are known before the first copy starts, as after a listing that is faster than
    // copies.
    let first = Fault::on(Operation::HeadObject)
        .nth(1)
        .then(Effect::StallBefore(Some(Duration::from_millis(300))));
    world.add_fault(first);
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.done_objects, 301);
    let at = run
        .receipts
        .iter()
        .position(|receipt| receipt.size == 5 * GIB)
        .unwrap();
    assert!(at < 250, "it ended as number {at}");
}
