//! Several transfers of one job: they share the slots, and wait for each other only if they must.

use std::time::Duration;

use s3haul::journal::{Intent, Location, look};
use s3haul::manifest::job::{DEFAULT_ENDPOINT, Job, Source, Transfer};
use s3haul::sandbox::{Effect, Fault, Model, Operation, RateModel};
use s3haul::size::MIB;
use tokio::time::{sleep, timeout};

use crate::world::{DESTINATION, World, copy_all, destination, uri};

fn prefix(name: &str, from: &str, to: &str) -> Transfer {
    let from = Source::Prefix {
        endpoint: DEFAULT_ENDPOINT.to_owned(),
        location: uri(from),
    };
    Transfer::new(name, from, destination(to))
}

fn object(name: &str, from: &str, to: &str) -> Transfer {
    let from = Source::Object {
        endpoint: DEFAULT_ENDPOINT.to_owned(),
        location: uri(from),
        version: None,
    };
    Transfer::new(name, from, destination(to))
}

fn job_of(world: &World, transfers: Vec<Transfer>) -> Job {
    Job {
        transfers,
        ..world.job(copy_all())
    }
}

/// Returns two transfers of one object each; the first one gets no answer the first time.
fn the_first_hangs(world: &World) -> Job {
    world.put("a/slow", 9);
    world.put("b/1", 9);
    let hung = Fault::on(Operation::CopyObject)
        .key("slow")
        .then(Effect::StallBefore(None));
    world.add_fault(hung.first(1));
    let transfers = vec![
        prefix("a", "s3://source/a/", "s3://destination/a/"),
        prefix("b", "s3://source/b/", "s3://destination/b/"),
    ];
    job_of(world, transfers)
}

/// Returns the keys of the answered requests, in the order of the requests.
fn written(world: &World, operation: Operation) -> Vec<String> {
    let mut calls = world.sandbox.calls().of(operation);
    calls.retain(|call| call.status.is_some());
    calls.sort_by_key(|call| call.arrived);
    calls.into_iter().map(|call| call.key).collect()
}

#[tokio::test]
async fn single_objects_are_copied_side_by_side() {
    let world = World::with_copy_latency(Duration::from_millis(50)).await;
    let mut transfers = Vec::new();
    for index in 0..40 {
        world.put(&format!("{index}"), 64 * MIB);
        let (from, to) = (
            format!("s3://source/{index}"),
            format!("s3://destination/{index}"),
        );
        transfers.push(object(&format!("t{index}"), &from, &to));
    }
    let run = world.try_run_job(&job_of(&world, transfers)).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (40, 0)
    );
    let copies = world.sandbox.calls().of(Operation::CopyObject);
    let most = copies.iter().map(|call| call.in_flight).max();
    assert!(
        most > Some(20),
        "{most:?} of 40 copies were under way at once"
    );
}

#[tokio::test]
async fn a_listing_begins_when_all_before_it_is_found_and_not_when_it_is_done() {
    let world = World::new().await;
    let run = world.try_run_job(&the_first_hangs(&world)).await.unwrap();
    assert_eq!(run.outcome.done_objects, 2);
    let ended: Vec<_> = run
        .receipts
        .iter()
        .map(|receipt| receipt.transfer.as_str())
        .collect();
    assert_eq!(ended, ["b", "a"]);
}

#[tokio::test]
async fn what_reads_what_another_one_writes_waits_for_its_end() {
    let world = World::new().await;
    for index in 0..50 {
        world.put(&format!("x/{index}"), 9);
    }
    let slow = Fault::on(Operation::CopyObject)
        .then(Effect::StallBefore(Some(Duration::from_millis(300))));
    world.add_fault(slow.first(3));
    let transfers = vec![
        prefix("in", "s3://source/x/", "s3://destination/in/"),
        prefix("on", "s3://destination/in/", "s3://destination/on/"),
        object("one", "s3://destination/on/7", "s3://destination/one"),
    ];
    let run = world.try_run_job(&job_of(&world, transfers)).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (101, 0)
    );
    let copies = written(&world, Operation::CopyObject);
    let place = |key: &str| {
        copies
            .iter()
            .position(|copy| copy.starts_with(key))
            .unwrap()
    };
    let last = copies
        .iter()
        .rposition(|copy| copy.starts_with("in/"))
        .unwrap();
    assert!(
        last < place("on/") && copies.last().unwrap() == "one",
        "{copies:?}"
    );
}

#[tokio::test]
async fn after_is_waited_for() {
    let world = World::new().await;
    for index in 0..20 {
        world.put(&format!("data/{index}"), 9);
    }
    world.put("latest.json", 9);
    let slow = Fault::on(Operation::CopyObject)
        .then(Effect::StallBefore(Some(Duration::from_millis(300))));
    world.add_fault(slow.first(1));
    let mut pointer = object(
        "pointer",
        "s3://source/latest.json",
        "s3://destination/latest.json",
    );
    pointer.after = vec!["data".to_owned()];
    let transfers = vec![
        prefix("data", "s3://source/data/", "s3://destination/data/"),
        pointer,
    ];
    let run = world.try_run_job(&job_of(&world, transfers)).await.unwrap();
    assert_eq!(run.outcome.done_objects, 21);
    assert_eq!(run.receipts.last().unwrap().transfer, "pointer");
    assert_eq!(
        written(&world, Operation::CopyObject).last().unwrap(),
        "latest.json"
    );
}

#[tokio::test]
async fn a_later_transfer_that_ended_first_is_not_repeated() {
    let world = World::new().await;
    let job = the_first_hangs(&world);
    let directory = tempfile::tempdir().unwrap();
    let location = || Location::Directory(directory.path().to_owned());
    let killed = async {
        while !matches!(look(location()).await, Ok(Some(glance)) if glance.state.ended_transfers.contains(&1))
        {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        _ = world.session(directory.path(), &job, Intent::Resume) => panic!("it cannot end"),
        () = killed => {}
    }
    world.sandbox.calls().clear();
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 0)
    );
    assert_eq!(written(&world, Operation::CopyObject), ["a/slow"]);
    let about_b = world
        .sandbox
        .calls()
        .list()
        .into_iter()
        .filter(|call| call.key.starts_with("b/"));
    assert_eq!(about_b.count(), 0, "it was over");
}

/// A throttled prefix fills neither the slots nor the window of planned steps.
#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_hot_prefix_hold_up_no_others() {
    let only = Some("a-hot/".to_owned());
    let limits = RateModel {
        writes_per_second: Some(60),
        only,
        ..RateModel::default()
    };
    let model = Model {
        limits,
        ..Model::default()
    };
    let mut world = World::modelled(model).await;
    (world.ceiling, world.retry.patience) = (64, Duration::from_mins(10));
    for index in 0..6000 {
        world.put(&format!("a-hot/{index:04}"), 9);
    }
    for index in 0..3000 {
        world.put(&format!("z-cold/{index:04}"), 9);
    }
    let job = world.job(copy_all());
    let cold = async {
        loop {
            let keys = world.keys(DESTINATION);
            let cold = keys.iter().filter(|key| key.starts_with("z-cold/")).count();
            if cold == 3000 {
                world.stop.cancel();
                return keys.len() - cold;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let run = async { tokio::join!(world.try_run_job(&job), cold) };
    let (run, hot) = timeout(Duration::from_mins(3), run)
        .await
        .expect("the others wait");
    assert!(hot < 2000, "{hot} of the hot ones came first");
    assert_eq!(run.unwrap().outcome.failed_objects, 0);
}
