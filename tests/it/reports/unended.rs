//! Runs whose result cannot be printed or recorded, or that fail after their journal is open.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use s3haul::journal::state::Phase;
use s3haul::journal::{Location, look};
use s3haul::sandbox::{Effect, Fault, Operation, When};
use serde_json::Value;
use tempfile::TempDir;

use super::{lines_of, receipts_in};
use crate::world::World;
use crate::world::program::{Ended, ended, process_at, run_in};

const OPS: &str = "ops";
const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// Returns the event `summary` of a log in JSON.
fn summary(log: &str) -> Value {
    let lines = log.lines();
    let mut events = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found = events.find(|event| event["event"] == "summary");
    found.unwrap_or_else(|| panic!("{log}"))
}

/// The result cannot be printed, but the report and the journal have it.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_standard_output_costs_neither_the_report_nor_the_journal() {
    let world = World::with_objects(["a", "b"], 100).await;
    let directory = TempDir::new().unwrap();
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--report",
        "report.jsonl",
        "--journal",
        "journal",
    ];
    let json = ["--json", "--log-format", "json"];
    for more in [&[][..], &json] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let mut command = process_at(&world);
        command
            .args(copy)
            .args(more)
            .current_dir(&directory)
            .stdout(full.unwrap())
            .stderr(Stdio::piped());
        let Ended { exit, stderr, .. } = ended(command.spawn().unwrap()).await;
        assert_eq!(exit, 1, "{stderr}");
        assert!(
            stderr.contains("standard output: No space left"),
            "{stderr}"
        );
        if !more.is_empty() {
            assert_eq!(summary(&stderr)["exit"], 1, "{stderr}");
        }
        let report = directory.path().join("report.jsonl");
        assert_eq!(receipts_in(&report).len(), 2);
        let footer = &lines_of(&report).pop().unwrap()["footer"];
        assert_eq!(
            (&footer["complete"], &footer["exit"]),
            (&true.into(), &0.into())
        );
        let journal = Location::Directory(directory.path().join("journal"));
        let glance = look(journal).await.unwrap().unwrap();
        assert_eq!(glance.state.phase, Phase::Ended);
    }
}

/// The last line of the log has the exit code of the process.
#[tokio::test(flavor = "multi_thread")]
async fn the_summary_of_a_report_without_a_footer_has_the_exit_code() {
    let world = World::with_objects(["a"], 100).await;
    world.create_bucket(OPS);
    let directory = TempDir::new().unwrap();
    // The first piece and the test of its condition, the receipts, and the footer.
    let refused = Fault::on(Operation::PutObject)
        .bucket(OPS)
        .when(When::After(3))
        .then(Effect::Error(403, "AccessDenied"));
    world.add_fault(refused);
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
        "--report",
        "s3://ops/reports/",
        "--log-format",
        "json",
    ];
    let (exit, stdout, stderr) = run_in(&world, directory.path(), &copy).await;
    assert!(
        exit != 0 && stderr.contains("has all its receipts but no footer"),
        "{stdout} {stderr}"
    );
    let summary = summary(&stderr);
    assert_eq!(
        (&summary["exit"], &summary["done_objects"]),
        (&exit.into(), &1.into()),
        "{stderr}"
    );
}

/// Creates a file with a customer key. The next run reads it once more after it has opened its
/// journal in S3, and does not find it.
fn key_that_vanishes(world: &World, directory: &TempDir) -> PathBuf {
    let key = directory.path().join("key");
    fs::write(&key, KEY).unwrap();
    let gone = key.clone();
    let remove_key = Fault::on(Operation::PutObject)
        .bucket(OPS)
        .first(1)
        .then(Effect::hook(move |_| fs::remove_file(&gone).unwrap()));
    world.add_fault(remove_key);
    key
}

/// Copies with this customer key and a journal in S3.
async fn copy_with_key(
    world: &World,
    directory: &TempDir,
    key: &Path,
    more: &[&str],
) -> (i32, String, String) {
    let key = format!("file:{}", key.display());
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
        "--customer-key",
        &key,
        "--journal",
        "s3://ops/journal/",
    ];
    run_in(world, directory.path(), &[&copy[..], more].concat()).await
}

/// A run that fails after its journal is open leaves it as one that was stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_before_its_first_object_closes_its_journal() {
    let world = World::with_objects(["a"], 100).await;
    world.create_bucket(OPS);
    let directory = TempDir::new().unwrap();
    let key = key_that_vanishes(&world, &directory);
    let (exit, stdout, stderr) = copy_with_key(&world, &directory, &key, &[]).await;
    assert!(exit != 0 && stderr.contains("key"), "{stdout} {stderr}");
    let journal = || async {
        let bucket = world.bucket(OPS).await;
        let location = Location::Bucket(bucket, "journal/".parse().unwrap());
        look(location).await.unwrap().unwrap()
    };
    assert_eq!(journal().await.state.phase, Phase::Stopped, "{stderr}");
    fs::write(&key, KEY).unwrap();
    let (exit, stdout, stderr) = copy_with_key(&world, &directory, &key, &[]).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    assert_eq!(journal().await.state.phase, Phase::Ended);
}

/// A journal that cannot be closed does not hide for the time of an outage why the run failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_waits_for_its_journal_no_longer_than_the_drain_time() {
    let world = World::with_objects(["a"], 100).await;
    world.create_bucket(OPS);
    let directory = TempDir::new().unwrap();
    let key = key_that_vanishes(&world, &directory);
    let (exit, ..) = copy_with_key(&world, &directory, &key, &[]).await;
    assert!(exit != 0);
    let mut writes = world.sandbox.calls().of(Operation::PutObject);
    writes.retain(|write| write.key.contains("segment-"));
    for name in world.keys(OPS) {
        world.sandbox.store().delete_object(OPS, &name);
    }
    world.sandbox.faults().clear();
    let key = key_that_vanishes(&world, &directory);
    // The last segment says that the run was stopped.
    let stall = Fault::on(Operation::PutObject).key(&writes.last().unwrap().key);
    let stall = world
        .sandbox
        .faults()
        .add(stall.then(Effect::StallBefore(None)));
    let began = Instant::now();
    let (exit, stdout, stderr) = copy_with_key(&world, &directory, &key, &["--drain", "1s"]).await;
    assert!(exit != 0 && stderr.contains("key"), "{stdout} {stderr}");
    assert!(began.elapsed() < Duration::from_secs(30), "{stderr}");
    let stalled = world.sandbox.faults().counts(stall).unwrap().struck;
    assert!(stalled > 0, "the journal was closed");
}
