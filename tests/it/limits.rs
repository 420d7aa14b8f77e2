//! The limits that a run never exceeds: those of the user, and its own bounds on planned work.

use std::time::Duration;

use rstest::rstest;
use s3haul::manifest::job::{Chosen, Limits, Provider, When};
use s3haul::sandbox::{Effect, Fault, LatencyModel, Operation};
use s3haul::size::{ByteRate, GIB, MIB};
use tokio::time::timeout;

use crate::world::{World, copy_all};

async fn slow_world(copy: u64) -> World {
    World::with_copy_latency(Duration::from_millis(copy)).await
}

#[tokio::test]
async fn in_flight_stays_below_its_limit_and_uses_it() {
    let world = slow_world(30).await;
    world.put("large", 20 * GIB);
    for index in 0..100 {
        world.put(&format!("s{index}"), 9);
    }
    let mut job = world.job(copy_all());
    job.limits = Limits {
        in_flight: Some(7),
        ..Limits::default()
    };
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.done_objects, 101);
    // The planner's two lists are not counted against the limit of copies.
    assert!(
        (7..=9).contains(&world.sandbox.calls().max_in_flight()),
        "{}",
        world.sandbox.calls().max_in_flight()
    );
}

#[rstest]
#[case::about_keys_of_a_list(false)]
#[case::about_keys_that_were_chosen(true)]
#[tokio::test]
async fn questions_of_a_plan_are_in_flight_like_copies(#[case] are_chosen: bool) {
    let mut world = World::with_latency(LatencyModel {
        head: Duration::from_millis(20),
        ..LatencyModel::default()
    })
    .await;
    world.provider = Provider::Other;
    let keys = || (0..200).map(|index| format!("s{index:03}"));
    world.put_all(keys(), 9);
    let mut job = world.job(copy_all());
    job.transfers[0].chosen =
        are_chosen.then(|| keys().map(|key| Chosen { key, version: None }).collect());
    job.limits = Limits {
        in_flight: Some(5),
        ..Limits::default()
    };
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (200, 0)
    );
    let most = world.sandbox.calls().max_in_flight();
    assert!((4..=7).contains(&most), "{most} with two listings");
}

#[tokio::test]
async fn a_request_rate_is_kept_over_every_second() {
    let world = World::new().await;
    for index in 0..60 {
        world.put(&format!("s{index}"), 9);
    }
    let mut job = world.job(copy_all());
    job.limits = Limits {
        requests_per_second: Some(50),
        ..Limits::default()
    };
    world.try_run_job(&job).await.unwrap();
    let mut arrivals: Vec<Duration> = world
        .sandbox
        .calls()
        .list()
        .iter()
        .map(|call| call.arrived)
        .collect();
    arrivals.sort_unstable();
    assert!(arrivals.len() >= 120, "{}", arrivals.len());
    for (index, start) in arrivals.iter().enumerate() {
        let within = arrivals[index..]
            .iter()
            .take_while(|time| **time < *start + Duration::from_secs(1))
            .count();
        // The rate, one burst, and requests that a busy machine sends late.
        assert!(within <= 60, "{within} requests within a second");
    }
}

/// On an unknown server, the planner sends a HEAD for each key. While all copies are slow and no
/// more steps are taken, its waiting HEADs must not hold up the copies' turn at the rate.
#[rstest]
#[case::about_keys_of_a_list(false)]
#[case::about_keys_that_were_chosen(true)]
#[tokio::test(flavor = "multi_thread")]
async fn questions_of_a_plan_that_waits_hold_nobody_up(#[case] are_chosen: bool) {
    let mut world = World::of_provider(Provider::Other).await;
    world.retry.silence = Duration::from_mins(1);
    let mut chosen = Vec::new();
    for index in 0..5000 {
        let key = format!("s{index:04}");
        world.put(&key, 9);
        chosen.push(Chosen { key, version: None });
    }
    // These copies fill the slots at first. They end when everything that can be planned meanwhile
    // is planned.
    let slow = Fault::on(Operation::CopyObject)
        .first(320)
        .then(Effect::StallBefore(Some(Duration::from_secs(5))));
    world.add_fault(slow);
    let mut job = world.job(copy_all());
    job.transfers[0].when = if are_chosen {
        When::Always
    } else {
        When::Missing
    };
    job.transfers[0].chosen = are_chosen.then_some(chosen);
    job.limits = Limits {
        requests_per_second: Some(2500),
        ..Limits::default()
    };
    let run = timeout(Duration::from_mins(3), world.try_run_job(&job))
        .await
        .expect("it hangs")
        .unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (5000, 0)
    );
}

#[tokio::test]
async fn a_byte_rate_is_kept() {
    let world = World::new().await;
    world.put("large", 600 * MIB);
    let mut job = world.job(copy_all());
    job.limits = Limits {
        bytes_per_second: Some(ByteRate(300 * MIB)),
        ..Limits::default()
    };
    let run = world.try_run_job(&job).await.unwrap();
    assert!(
        run.outcome.seconds >= 1.7,
        "600 MiB at 300 MiB/s took {} s",
        run.outcome.seconds
    );
}

/// A byte rate is granted in pieces that are larger than these objects, so several objects share a
/// piece.
#[tokio::test]
async fn a_byte_rate_is_used_by_small_objects() {
    let world = World::new().await;
    for index in 0..200 {
        let key = format!("s{index:03}");
        world.put(&key, 1 << 10);
    }
    let mut job = world.job(copy_all());
    job.limits = Limits {
        bytes_per_second: Some(ByteRate(MIB)),
        ..Limits::default()
    };
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.done_objects, 200);
    assert!(
        run.outcome.seconds < 25.0,
        "200 KiB at 1 MiB/s took {} s",
        run.outcome.seconds
    );
}

#[tokio::test]
async fn two_parts_of_one_object_are_under_way_together_with_the_next_object() {
    let world = slow_world(50).await;
    for index in 0..4 {
        world.put(&format!("l{index}"), GIB);
    }
    world.run(copy_all()).await;
    let parts = world.sandbox.calls().of(Operation::UploadPartCopy);
    assert_eq!(parts.len(), 64);
    let most = parts.iter().map(|call| call.in_flight).max().unwrap();
    assert!(
        most > 32,
        "parts of all objects share one budget, but only {most} were under way together"
    );
}
