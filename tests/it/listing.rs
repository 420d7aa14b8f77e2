//! Lists: the number of requests, ranges that find the same as one list, and what a session leaves
//! to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use s3haul::execute::receipt::{Ending, Receipt};
use s3haul::journal::{Intent, Location, look};
use s3haul::manifest::job::{Selection, Source, Transfer, When};
use s3haul::planner::{MAX_RANGES, Planned, Sides};
use s3haul::sandbox::{Content, Effect, Fault, LatencyModel, ObjectSpec, Operation};

use crate::world::{DESTINATION, SOURCE, World, copy_all, destination, uri};

const LIST: Operation = Operation::ListObjectsV2;

/// Returns keys that are spread evenly.
fn hashed(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|index| format!("{:08x}", index.wrapping_mul(0x9E37_79B1)))
}

/// Returns the number of pages that were listed of a bucket.
fn pages(world: &World, bucket: &str) -> usize {
    world
        .sandbox
        .calls()
        .of(LIST)
        .iter()
        .filter(|call| call.bucket == bucket)
        .count()
}

/// Returns the destination keys that were copied and those that were skipped. Asserts that each
/// occurs once.
fn endings(receipts: &[Receipt]) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut ended = BTreeMap::new();
    for receipt in receipts {
        let is_copied = match receipt.ending {
            Ending::Done { .. } => true,
            Ending::Skipped { .. } => false,
            ref other => panic!("{}: {other:?}", receipt.destination),
        };
        let key = receipt
            .destination
            .strip_prefix("s3://destination/")
            .unwrap()
            .to_owned();
        assert_eq!(
            ended.insert(key, is_copied),
            None,
            "{} was dealt with twice",
            receipt.destination
        );
    }
    let (copied, left): (Vec<_>, Vec<_>) = ended.into_iter().partition(|(_, is_copied)| *is_copied);
    let keys = |keys: Vec<(String, bool)>| keys.into_iter().map(|(key, _)| key).collect();
    (keys(copied), keys(left))
}

/// Starts a sandbox with slow lists, so that many are under way at once.
async fn slow_lists() -> World {
    World::with_latency(LatencyModel {
        list: Duration::from_millis(20),
        ..LatencyModel::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn short_lists_cost_one_request_a_page() {
    for (count, expected) in [(0, 1), (7, 1), (1000, 1), (1500, 2), (2000, 2)] {
        let world = World::new().await;
        for key in hashed(count) {
            world.put(&key, 1);
            world.put_in(DESTINATION, &key, 1);
        }
        let run = world.run(copy_all()).await;
        assert_eq!(run.outcome.skipped_objects, u64::from(count));
        assert_eq!(pages(&world, SOURCE), expected, "{count} keys");
        let there = pages(&world, DESTINATION);
        // If the source is empty, the destination need not be listed.
        assert!(
            there == expected || (count == 0 && there == 0),
            "{count} keys: {there}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_is_listed_in_ranges_on_both_sides() {
    const COUNT: u32 = 30_000;
    let world = slow_lists().await;
    for (index, key) in hashed(COUNT).enumerate() {
        let key = format!("p/{key}");
        world.put(&key, 1);
        if index % 100 != 0 {
            world.put_in(DESTINATION, &key, 1);
        }
    }
    // Keys beside the prefix do not matter.
    world.put("o", 1);
    world.put("q", 1);
    let from = Source::Prefix {
        endpoint: "default".to_owned(),
        location: uri("s3://source/p/"),
    };
    let transfer = Transfer::new("all", from, destination("s3://destination/p/"));
    let run = world.run(transfer.clone()).await;
    let missing: BTreeSet<_> = hashed(COUNT)
        .step_by(100)
        .map(|key| format!("p/{key}"))
        .collect();
    let (copied, left) = endings(&run.receipts);
    assert_eq!((copied, left.len()), (missing, COUNT as usize * 99 / 100));
    assert_eq!(world.keys(DESTINATION).len(), COUNT as usize);
    let most = world
        .sandbox
        .calls()
        .of(LIST)
        .iter()
        .map(|call| call.in_flight)
        .max()
        .unwrap();
    assert!(
        most >= 8,
        "no more than {most} lists were under way at once"
    );
    for bucket in [SOURCE, DESTINATION] {
        let pages = pages(&world, bucket);
        assert!((30..=75).contains(&pages), "{bucket}: {pages} pages");
    }

    // With few slots, there are few ranges.
    let world = World {
        ceiling: 8,
        ..world
    };
    world.sandbox.calls().clear();
    let run = world.run(transfer).await;
    assert_eq!(run.outcome.skipped_objects, u64::from(COUNT));
    assert_eq!(pages(&world, SOURCE), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_and_delete_meanwhile_hides_nothing() {
    const COUNT: u32 = 8000;
    let world = slow_lists().await;
    for key in hashed(COUNT) {
        world.put(&key, 1);
        world.put_in(DESTINATION, &key, 1);
        world.put(&format!("{key}-fickle"), 1);
    }
    let turn = std::sync::atomic::AtomicU32::new(0);
    let meddle = Effect::hook(move |store| {
        let turn = turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        for key in hashed(COUNT)
            .skip(turn as usize * 97 % COUNT as usize)
            .step_by(501)
        {
            store.delete_object(SOURCE, &format!("{key}-fickle"));
            let key = format!("{key}-new-fickle");
            store.put_object(SOURCE, &key, Content::pattern(1, 1), &ObjectSpec::default());
        }
    });
    world.add_fault(Fault::on(LIST).then(meddle));
    let exclude = vec!["*-fickle".parse().unwrap()];
    let select = Selection {
        exclude,
        ..Selection::default()
    };
    let run = world
        .run(Transfer {
            select,
            ..copy_all()
        })
        .await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.outcome);
    let (copied, left) = endings(&run.receipts);
    assert_eq!((copied.len(), left), (0, hashed(COUNT).collect()));
    let most = world
        .sandbox
        .calls()
        .of(LIST)
        .iter()
        .map(|call| call.in_flight)
        .max()
        .unwrap();
    assert!(most > 2, "nothing was cut");
}

/// Returns all keys in the order of the plan.
async fn planned(sides: &Sides, in_order: bool) -> Vec<String> {
    let mut steps = if in_order {
        sides.plan()
    } else {
        sides.plan_in_any_order()
    };
    let mut keys = Vec::new();
    while let Some(planned) = steps.recv().await {
        let Planned::Step(step) = planned else {
            panic!("{planned:?}")
        };
        keys.push(step.entry.key.to_string());
    }
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_all_kinds_are_found_over_the_wire() {
    // So that a list takes longer than to read it on a busy machine and to decide that it is cut.
    let world = World::with_latency(LatencyModel {
        list: Duration::from_millis(100),
        ..LatencyModel::default()
    })
    .await;
    let mut keys = BTreeSet::new();
    for index in 0..1500_u32 {
        let hash = index.wrapping_mul(0x9E37_79B1);
        let char = char::from_u32(0x4e00 + hash % 9000).unwrap();
        keys.extend([
            format!("a b+c%20d&e<f>\"'/{hash:08x}"),
            format!("写真/{char}{hash:x}"),
            format!("{}{index:04}", "x".repeat(1020)),
            format!("{}{hash:08x}", "é".repeat(500)),
            format!("\u{1F600}/\u{FFFD}{index}"),
            format!(
                "logs/2026/{:02}/{:02}/{hash:08x}.gz",
                index / 60 + 1,
                index % 28 + 1
            ),
            format!("{hash:08x}//{index}/"),
        ]);
    }
    world.put_all(&keys, 1);
    let (source, destination) = (world.bucket(SOURCE).await, world.bucket(DESTINATION).await);
    let transfer = Arc::new(Transfer {
        when: When::Missing,
        ..copy_all()
    });
    let sides = Sides {
        transfer,
        source: Some(source),
        destination,
    };
    let all: Vec<_> = keys.into_iter().collect();
    assert_eq!(planned(&sides, true).await, all);
    let in_one_list = pages(&world, SOURCE);
    assert_eq!(in_one_list, 11, "in order, there is one list");
    // A range is cut only while its reader keeps up. On a busy machine, it may not, so there are
    // several attempts.
    for _ in 0..10 {
        world.sandbox.calls().clear();
        let mut in_any_order = planned(&sides, false).await;
        in_any_order.sort();
        assert_eq!(in_any_order, all);
        if pages(&world, SOURCE) > in_one_list {
            return;
        }
    }
    panic!("no list was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_resumes_with_the_remaining_ranges() {
    const COUNT: u32 = 20_000;
    let mut world = World::new().await;
    for (index, key) in hashed(COUNT).enumerate() {
        world.put(&key, 1);
        if index % 50 != 0 {
            world.put_in(DESTINATION, &key, 1);
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("journal");
    let job = world.job(copy_all());
    let mut receipts = Vec::new();
    let mut most_ranges = 0;
    for session in 1..=3 {
        world.stop = tokio_util::sync::CancellationToken::new();
        world.sandbox.faults().clear();
        if session < 3 {
            let stop = world.stop.clone();
            world.add_fault(
                Fault::on(LIST)
                    .nth(16)
                    .then(Effect::hook(move |_| stop.cancel())),
            );
        }
        let run = world.session(&place, &job, Intent::Resume).await;
        assert_eq!(run.outcome.stopped, session < 3, "session {session}");
        receipts.extend(
            run.receipts
                .into_iter()
                .filter(|receipt| receipt.ending != Ending::Stopped),
        );
        let state = look(Location::Directory(place.clone()))
            .await
            .unwrap()
            .unwrap()
            .state;
        let left = state.ranges.values().filter(|range| !range.planned).count();
        assert!(left <= MAX_RANGES, "session {session} left {left} ranges");
        most_ranges = most_ranges.max(left);
    }
    assert!(most_ranges > 1, "no session left several ranges");
    let (copied, left) = endings(&receipts);
    assert_eq!(copied.len() + left.len(), COUNT as usize);
    assert!(
        copied.len() >= COUNT as usize / 50 - 16,
        "{} copied",
        copied.len()
    );
    assert_eq!(world.keys(DESTINATION), world.keys(SOURCE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_fails_in_one_range_is_one_failure_and_the_other_ranges_continue() {
    const COUNT: u32 = 8000;
    let world = World::new().await;
    for key in hashed(COUNT) {
        world.put(&key, 1);
        world.put_in(DESTINATION, &key, 1);
    }
    let directory = tempfile::tempdir().unwrap();
    let job = world.job(copy_all());
    let place = directory.path().join("journal");
    world.add_fault(
        Fault::on(LIST)
            .nth(12)
            .then(Effect::Error(400, "InvalidRequest")),
    );
    let run = world.session(&place, &job, Intent::Resume).await;
    assert_eq!(run.outcome.failed_objects, 1, "the list");
    let listed = run.outcome.skipped_objects;
    assert!(listed > 0 && listed < u64::from(COUNT), "{listed}");
    let state = look(Location::Directory(place))
        .await
        .unwrap()
        .unwrap()
        .state;
    assert_eq!(state.totals.skipped_objects, listed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_out_of_order_is_never_cut() {
    let world = World::new().await;
    world.put_all(hashed(5000), 1);
    let unordered = |bucket: s3haul::bucket::Bucket| {
        let capabilities = s3haul::s3::Capabilities {
            ordered_lists: false,
            ..*bucket.capabilities()
        };
        bucket.assuming(capabilities)
    };
    let (source, destination) = (world.bucket(SOURCE).await, world.bucket(DESTINATION).await);
    let transfer = Arc::new(Transfer {
        when: When::Always,
        ..copy_all()
    });
    let sides = Sides {
        transfer,
        source: Some(unordered(source)),
        destination,
    };
    world.sandbox.calls().clear();
    let planned = planned(&sides, false).await;
    assert_eq!(planned.len(), 5000);
    assert_eq!(pages(&world, SOURCE), 5);
}
