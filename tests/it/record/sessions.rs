//! Counts and proofs of a run with several sessions, and the commands that follow.

use std::fs;
use std::time::Duration;

use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation, When};
use serde_json::Value;
use tempfile::TempDir;

use crate::reports::{lines_of, receipts_in};
use crate::world::{DESTINATION, SOURCE, World};

use super::{COPY, put_old, slow, started, world_with_old_objects};
use crate::world::program::{Ended, ended, kill, run_in};

/// Returns the last line of a command's output, which is JSON.
fn summary(stdout: &str) -> Value {
    let last = stdout.lines().last().unwrap();
    serde_json::from_str::<Value>(last).unwrap()["summary"].clone()
}

/// An unknown provider's lists may have any order, so each session reads them from the start.
#[tokio::test(flavor = "multi_thread")]
async fn each_object_counts_once_however_often_it_is_listed() {
    let world = world_with_old_objects(80, Duration::ZERO).await;
    // Ten objects are already at the destination, and two are denied.
    for index in 0..10 {
        let key = format!("a{index}");
        put_old(&world, &key);
        world.put_in(DESTINATION, &key, 100);
    }
    for key in ["k0003", "k0005"] {
        let fault = Fault::on(Operation::CopyObject).key(key).when(When::Always);
        world.add_fault(fault.then(Effect::Error(403, "AccessDenied")));
    }
    slow(&world, Duration::from_millis(60));
    let dir = TempDir::new().unwrap();
    let more = [
        "--in-flight",
        "4",
        "--report",
        "report.jsonl",
        "--journal",
        "kept",
        "--json",
    ];
    let command = [&COPY[..], &more].concat();
    let agreed = async |what: &str, all: bool| {
        let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
        assert_eq!(exit, i32::from(!all), "{what}: {stderr}");
        let summary = summary(&stdout);
        let count = |name: &str| summary[name].as_u64().unwrap();
        let lines = lines_of(&dir.path().join("report.jsonl"));
        let footer = &lines.last().unwrap()["footer"];
        let (_, stdout, _) = run_in(&world, dir.path(), &["status", "kept", "--json"]).await;
        let status: Value = serde_json::from_str(stdout.lines().next().unwrap()).unwrap();
        for name in ["done_objects", "skipped_objects", "failed_objects"] {
            assert_eq!(
                (&footer[name], &status[name]),
                (&count(name).into(), &count(name).into()),
                "{what} {name}"
            );
        }
        (
            count("done_objects"),
            count("skipped_objects"),
            count("failed_objects"),
        )
    };
    kill(started(&world, dir.path(), &command, 25).await).await;
    let child = started(&world, dir.path(), &command, 25).await;
    std::process::Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert_eq!(ended(child).await.exit, 4);
    assert_eq!(agreed("the denied ones fail", false).await, (78, 10, 2));
    // An object that a later list shows as copied no longer counts as failed.
    world.sandbox.faults().clear();
    fs::remove_dir_all(dir.path().join("kept")).unwrap();
    world.sandbox.store().delete_object(DESTINATION, "k0010");
    for key in world
        .keys(DESTINATION)
        .iter()
        .filter(|key| key.as_str() > "k0040")
    {
        world.sandbox.store().delete_object(DESTINATION, key);
    }
    let denied = Fault::on(Operation::CopyObject)
        .key("k0003")
        .when(When::Always);
    world.add_fault(denied.then(Effect::Error(403, "AccessDenied")));
    slow(&world, Duration::from_millis(60));
    kill(started(&world, dir.path(), &command, 15).await).await;
    world.sandbox.faults().clear();
    let (done, skipped, failed) = agreed("all are there", true).await;
    assert_eq!((done + skipped, failed), (90, 0), "{done} {skipped}");
    assert!((42..=43).contains(&done), "{done}");
}

/// Copies took effect, but the session was killed before the answers.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_session_copied_unseen_is_proven_by_the_next() {
    for more in [&["--provider", "aws"][..], &[]] {
        let world = World::new().await;
        for key in ["a", "b", "c"] {
            put_old(&world, key);
        }
        let silent = Fault::on(Operation::CopyObject)
            .when(When::Always)
            .then(Effect::StallAfter(None));
        world.add_fault(silent);
        let dir = TempDir::new().unwrap();
        let command = [
            &COPY[..],
            &["--report", "report.jsonl", "--journal", "kept"],
            more,
        ]
        .concat();
        let child = started(&world, dir.path(), &command, 3).await;
        let copied = async {
            while world.keys(DESTINATION).len() < 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), copied)
            .await
            .expect("nothing is copied");
        kill(child).await;
        world.sandbox.faults().clear();
        world.sandbox.calls().clear();
        let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
        assert!(
            exit == 0 && stdout.contains("3 objects copied and proven"),
            "{exit} {stdout} {stderr}"
        );
        // One line for all objects, instead of a warning for each.
        let told = "an earlier session copied 3 of the objects without recording it; this session proved them";
        assert!(stdout.contains(told), "{stdout}");
        assert!(!stderr.contains("earlier session of this run"), "{stderr}");
        assert_eq!(world.calls(Operation::CopyObject), 0, "{more:?}");
        let receipts = receipts_in(&dir.path().join("report.jsonl"));
        assert_eq!(receipts.len(), 3, "{receipts:?}");
        for receipt in receipts {
            assert_eq!(receipt["status"], "done", "{receipt}");
            assert_eq!(
                receipt["notes"][0],
                "copied by an earlier session of this run, and proven by this one"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_destination_does_not_bear_out_is_refused() {
    let world = world_with_old_objects(60, Duration::from_millis(50)).await;
    let dir = TempDir::new().unwrap();
    let command = [&COPY[..], &["--in-flight", "4", "--journal", "kept"]].concat();
    kill(started(&world, dir.path(), &command, 30).await).await;
    world.sandbox.faults().clear();
    let there = world.keys(DESTINATION);
    for key in &there {
        world.sandbox.store().delete_object(DESTINATION, key);
    }
    let before = world.calls(Operation::CopyObject);
    let (exit, _, stderr) = run_in(&world, dir.path(), &command).await;
    assert_eq!(
        (exit, world.calls(Operation::CopyObject)),
        (3, before),
        "{stderr}"
    );
    for said in [
        "16 of 16 recorded objects",
        "s3://destination/k0",
        "is not there",
        "--fresh",
        "--resume-anyway",
    ] {
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
    // An object of another size is not the recorded one.
    for key in &there {
        world.put_in(DESTINATION, key, 7);
    }
    let (exit, _, stderr) = run_in(&world, dir.path(), &command).await;
    assert!(
        exit == 3 && stderr.contains("with 100 bytes, has 7"),
        "{exit} {stderr}"
    );
    let (exit, _, stderr) =
        run_in(&world, dir.path(), &[&command[..], &["--fresh"]].concat()).await;
    assert_eq!(exit, 0, "{stderr}");
    for key in world.keys(SOURCE) {
        world.assert_equal(&key, &key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_says_what_was_proven_when_and_what_was_looked_at_again() {
    let world = world_with_old_objects(60, Duration::from_millis(50)).await;
    let dir = TempDir::new().unwrap();
    let command = [
        &COPY[..],
        &["--provider", "aws", "--in-flight", "4", "--journal", "kept"],
    ]
    .concat();
    kill(started(&world, dir.path(), &command, 30).await).await;
    world.sandbox.faults().clear();
    let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
    assert!(
        exit == 0 && stdout.contains("60 objects copied and proven"),
        "{exit} {stdout} {stderr}"
    );
    let line = stdout
        .lines()
        .find(|line| line.contains("by earlier sessions, until 2"))
        .unwrap();
    assert!(
        line.ends_with("16 of them looked at again when this session began"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_of_a_journal_is_waited_for_no_longer_than_patience() {
    let world = world_with_old_objects(40, Duration::from_millis(100)).await;
    world.create_bucket("ops");
    let dir = TempDir::new().unwrap();
    let more = [
        "--provider",
        "aws",
        "--journal",
        "s3://ops/j/",
        "--patience",
        "2s",
        "--in-flight",
        "2",
    ];
    let command = [&COPY[..], &more].concat();
    let child = started(&world, dir.path(), &command, 3).await;
    world.add_fault(
        Fault::on(Operation::PutObject)
            .when(When::Always)
            .then(Effect::SlowDown),
    );
    let began = std::time::Instant::now();
    let Ended { exit, stderr, .. } = ended(child).await;
    assert!(
        exit == 4 && stderr.contains("the journal s3://ops/j/"),
        "{exit} {stderr}"
    );
    // Without patience, this takes the three minutes for which server errors are retried.
    assert!(
        began.elapsed() < Duration::from_mins(1),
        "{:?}",
        began.elapsed()
    );
    world.sandbox.faults().clear();
    let (exit, _, stderr) = run_in(&world, dir.path(), &command).await;
    assert_eq!((exit, world.keys(DESTINATION).len()), (0, 40), "{stderr}");
}

/// Only `verify` notices an object that was replaced by another one of the same size.
#[tokio::test(flavor = "multi_thread")]
async fn verify_names_the_command_that_mends_what_is_different() {
    let world = world_with_old_objects(3, Duration::ZERO).await;
    let dir = TempDir::new().unwrap();
    let provider = ["--provider", "aws"];
    let copy = [&COPY[..], &provider].concat();
    assert_eq!(run_in(&world, dir.path(), &copy).await.0, 0);
    world.put_object(
        DESTINATION,
        "k0001",
        Content::pattern(2, 100),
        &ObjectSpec::default(),
    );
    world.sandbox.store().delete_object(DESTINATION, "k0002");
    let verify = [
        &["verify", "s3://source/", "s3://destination/"],
        &provider[..],
    ]
    .concat();
    let (exit, stdout, stderr) = run_in(&world, dir.path(), &verify).await;
    assert!(
        exit == 1 && stdout.contains("different") && stdout.contains("missing"),
        "{exit} {stdout} {stderr}"
    );
    let told = stdout
        .lines()
        .chain(stderr.lines())
        .find_map(|line| line.split_once("missing: s3haul "));
    let command = told.unwrap().1.split(" (with the flags").next().unwrap();
    let command: Vec<_> = command.split(' ').chain(provider).collect();
    let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
    assert!(
        exit == 0 && stdout.contains("2 objects copied"),
        "{command:?}: {exit} {stdout} {stderr}"
    );
    assert_eq!(run_in(&world, dir.path(), &verify).await.0, 0);
}

/// Without a journal, the report records what a stop left pending.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_without_a_journal_copies_what_a_signal_left_undone() {
    let world = world_with_old_objects(60, Duration::from_millis(100)).await;
    let dir = TempDir::new().unwrap();
    let more = [
        "--provider",
        "aws",
        "--journal",
        "none",
        "--in-flight",
        "2",
        "--report",
        "report.jsonl",
    ];
    let child = started(&world, dir.path(), &[&COPY[..], &more].concat(), 6).await;
    std::process::Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert_eq!(ended(child).await.exit, 4);
    let receipts = receipts_in(&dir.path().join("report.jsonl"));
    let stopped = receipts
        .iter()
        .filter(|receipt| receipt["status"] == "stopped")
        .count();
    assert_eq!(
        lines_of(&dir.path().join("report.jsonl")).pop().unwrap()["footer"]["stopped_objects"],
        stopped
    );
    assert!(stopped > 20, "{receipts:?}");
    let verify = ["verify", "--report", "report.jsonl"];
    assert_eq!(run_in(&world, dir.path(), &verify).await.0, 1);
    world.sandbox.faults().clear();
    let (exit, stdout, stderr) = run_in(&world, dir.path(), &["retry", "report.jsonl"]).await;
    assert!(
        exit == 0 && stdout.contains(&format!("{stopped} objects copied")),
        "{exit} {stdout} {stderr}"
    );
    assert_eq!(world.keys(DESTINATION).len(), 60);
}

/// The report has every failure that is printed, even if the server went away.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_leaves_one_tally() {
    for journal in ["none", "kept"] {
        let world = world_with_old_objects(60, Duration::from_millis(50)).await;
        let dir = TempDir::new().unwrap();
        let more = [
            "--provider",
            "aws",
            "--journal",
            journal,
            "--in-flight",
            "2",
            "--report",
            "report.jsonl",
        ];
        let command = [&COPY[..], &more, &["--patience", "2s"]].concat();
        let child = started(&world, dir.path(), &command, 10).await;
        world.sandbox.faults().clear();
        world.add_fault(Fault::on_any().when(When::Always).then(Effect::ResetBefore));
        let Ended { exit, stderr, .. } = ended(child).await;
        assert_eq!(exit, 4, "{stderr}");
        let receipts = receipts_in(&dir.path().join("report.jsonl"));
        let of = |status: &str| {
            receipts
                .iter()
                .filter(|receipt| receipt["status"] == status)
                .count()
        };
        let footer = lines_of(&dir.path().join("report.jsonl")).pop().unwrap()["footer"].clone();
        assert_eq!(
            footer["failed_objects"],
            of("failed"),
            "{journal}: {stderr}"
        );
        assert_eq!(
            footer["stopped_objects"],
            of("stopped"),
            "{journal}: {stderr}"
        );
        let told = stderr
            .lines()
            .filter(|line| line.starts_with("failed: "))
            .count();
        assert!(
            told > 0 && told == of("failed").min(20),
            "{journal}: {told} {stderr}"
        );
        world.sandbox.faults().clear();
        let (exit, _, stderr) = run_in(&world, dir.path(), &command).await;
        assert_eq!(
            (exit, world.keys(DESTINATION).len()),
            (0, 60),
            "{journal}: {stderr}"
        );
    }
}
