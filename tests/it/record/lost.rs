//! A destination that loses recorded objects, and retries of reports.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation, When};
use s3haul::size::MIB;
use tempfile::TempDir;

use super::{COPY, put_old, started, world_with_old_objects};
use crate::reports::receipts_in;
use crate::world::program::{kill, process_at, run_in};
use crate::world::{DESTINATION, SOURCE, World};

fn empty(world: &World) {
    for key in world.keys(DESTINATION) {
        world.sandbox.store().delete_object(DESTINATION, &key);
    }
}

/// Waits until the journal in this directory names a key.
async fn wait_for_record_of(key: &str, journal: &Path) {
    let name = format!("\"{key}\"");
    let names = |path: PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains(&name));
    let is_there = || {
        let files = fs::read_dir(journal).unwrap();
        files.flatten().any(|file| names(file.path()))
    };
    let recorded = async {
        while !is_there() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), recorded)
        .await
        .expect("nothing is recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_objects_that_are_gone_when_a_run_resumes_refuse_its_record() {
    let world = world_with_old_objects(40, Duration::ZERO).await;
    let dir = TempDir::new().unwrap();
    let command = [&COPY[..], &["--provider", "aws", "--journal", "kept"]].concat();
    assert_eq!(run_in(&world, dir.path(), &command).await.0, 0);
    put_old(&world, "z");
    let silent = Fault::on(Operation::CopyObject)
        .when(When::Always)
        .then(Effect::StallBefore(None));
    world.add_fault(silent);
    let child = started(&world, dir.path(), &command, 1).await;
    // The journal is a moment behind the requests.
    wait_for_record_of("z", &dir.path().join("kept")).await;
    kill(child).await;
    world.sandbox.faults().clear();
    empty(&world);
    let (exit, _, stderr) = run_in(&world, dir.path(), &command).await;
    assert_eq!(exit, 3, "{stderr}");
    for said in [
        "recorded objects",
        ", found equal at ",
        "is not there",
        "--fresh",
    ] {
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
    let (exit, _, stderr) =
        run_in(&world, dir.path(), &[&command[..], &["--fresh"]].concat()).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(world.keys(DESTINATION).len(), 41);
}

/// Somebody deletes the bucket and creates it again during the run.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_goes_away_in_mid_run_ends_the_run_and_retry_looks_first() {
    let world = world_with_old_objects(60, Duration::ZERO).await;
    let gone = Fault::on(Operation::CopyObject)
        .when(When::Nth(30))
        .then(Effect::Error(404, "NoSuchBucket"));
    world.add_fault(gone);
    let dir = TempDir::new().unwrap();
    let more = ["--report", "report.jsonl", "--journal", "kept"];
    let flags = ["--provider", "aws", "--in-flight", "2"];
    let command = [&COPY[..], &more, &flags].concat();
    let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
    assert_eq!(exit, 1, "{stdout} {stderr}");
    for said in [
        "what was copied before may be gone",
        "s3haul verify --report",
    ] {
        assert!(stdout.contains(said), "{said}: {stdout} {stderr}");
    }
    let copied = world.keys(DESTINATION).len();
    assert!((20..50).contains(&copied), "{copied}: the run went on");
    empty(&world);
    let before = world.calls(Operation::CopyObject);
    let (exit, _, stderr) = run_in(&world, dir.path(), &["retry", "report.jsonl"]).await;
    assert_eq!(
        (exit, world.calls(Operation::CopyObject)),
        (3, before),
        "{stderr}"
    );
    for said in [
        "16 of 16",
        "is not there",
        "s3haul verify --report",
        "--resume-anyway",
    ] {
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
    let anyway = ["retry", "report.jsonl", "--resume-anyway"];
    let (exit, stdout, stderr) = run_in(&world, dir.path(), &anyway).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    let (exit, _, stderr) = run_in(&world, dir.path(), &command).await;
    assert_eq!(exit, 3, "{stderr}");
    let fresh = [&command[..], &["--fresh"]].concat();
    let (exit, _, stderr) = run_in(&world, dir.path(), &fresh).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(world.keys(DESTINATION).len(), 60);
}

/// A missing source bucket says nothing about the destination.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_bucket_that_goes_away_fails_its_objects_alone() {
    let world = world_with_old_objects(20, Duration::ZERO).await;
    world.add_fault(
        Fault::on(Operation::CopyObject)
            .when(When::Nth(10))
            .then(Effect::Error(404, "NoSuchBucket")),
    );
    // The probe of the source's bucket.
    world.add_fault(
        Fault::on(Operation::HeadBucket)
            .bucket(SOURCE)
            .when(When::After(1))
            .then(Effect::Error(404, "NoSuchBucket")),
    );
    let dir = TempDir::new().unwrap();
    let command = [&COPY[..], &["--provider", "aws", "--journal", "none"]].concat();
    let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
    assert!(
        exit == 1 && stdout.contains("1 failed") && !stdout.contains("may be gone"),
        "{exit} {stdout} {stderr}"
    );
    assert_eq!(world.keys(DESTINATION).len(), 19);
}

const PARTS: [&str; 6] = [
    "--part-size",
    "5MiB",
    "--threshold",
    "5MiB",
    "--in-flight",
    "2",
];

fn put_large(world: &World) {
    let content = Content::pattern(1, 40 * MIB);
    let store = world.sandbox.store();
    store.put_object(SOURCE, "large", content, &ObjectSpec::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_uses_the_parts_that_the_failed_run_kept() {
    for retries in [
        &["retry", "report.jsonl"][..],
        &["retry", "report.jsonl", "--journal", "kept"],
    ] {
        let world = world_with_old_objects(3, Duration::ZERO).await;
        put_large(&world);
        let denied = Fault::on(Operation::UploadPartCopy)
            .when(When::After(4))
            .then(Effect::Error(403, "AccessDenied"));
        world.add_fault(denied);
        let dir = TempDir::new().unwrap();
        let more = ["--report", "report.jsonl", "--journal", "kept"];
        let command = [&COPY[..], &more, &PARTS, &["--provider", "aws"]].concat();
        let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
        assert_eq!(exit, 1, "{stdout} {stderr}");
        let uploads = world.open_uploads(DESTINATION);
        assert_eq!(uploads.len(), 1, "{stdout} {stderr}");
        world.sandbox.faults().clear();
        world.sandbox.calls().clear();
        let (exit, stdout, stderr) = run_in(&world, dir.path(), retries).await;
        assert_eq!(exit, 0, "{stdout} {stderr}");
        assert_eq!(world.calls(Operation::UploadPartCopy), 4, "{stderr}");
        assert_eq!(world.calls(Operation::CreateMultipartUpload), 0);
        world.assert_no_upload_is_left();
        world.assert_equal("large", "large");
        let (exit, _, stderr) = run_in(&world, dir.path(), &command).await;
        assert_eq!(exit, 0, "{stderr}");
    }
}

/// Returns a world in which a run failed because uploads were denied, the run's directory, and its
/// command. Uploads are now allowed.
async fn denied_large() -> (World, TempDir, Vec<&'static str>) {
    let world = world_with_old_objects(3, Duration::ZERO).await;
    put_large(&world);
    let denied = Fault::on(Operation::CreateMultipartUpload)
        .when(When::Always)
        .then(Effect::Error(403, "AccessDenied"));
    world.add_fault(denied);
    let dir = TempDir::new().unwrap();
    let more = ["--report", "report.jsonl", "--journal", "kept"];
    let command = [&COPY[..], &more, &PARTS, &["--provider", "aws"]].concat();
    assert_eq!(run_in(&world, dir.path(), &command).await.0, 1);
    world.sandbox.faults().clear();
    (world, dir, command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_retry_resumes_where_it_was() {
    let (world, dir, _) = denied_large().await;
    let silent = Fault::on(Operation::UploadPartCopy)
        .when(When::After(3))
        .then(Effect::StallBefore(None));
    world.add_fault(silent);
    let retry = ["retry", "report.jsonl"];
    let child = process_at(&world)
        .args(retry)
        .current_dir(dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let working = async {
        while world.calls(Operation::UploadPartCopy) < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), working)
        .await
        .expect("the retry does nothing");
    kill(child).await;
    assert_eq!(world.open_uploads(DESTINATION).len(), 1);
    world.sandbox.faults().clear();
    world.sandbox.calls().clear();
    let (exit, stdout, stderr) = run_in(&world, dir.path(), &retry).await;
    assert!(
        exit == 0 && stderr.contains("resuming"),
        "{exit} {stdout} {stderr}"
    );
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 0);
    world.assert_no_upload_is_left();
    world.assert_equal("large", "large");
    let receipts = receipts_in(&dir.path().join("report.retry-1.jsonl"));
    assert!(
        receipts.len() == 1 && receipts[0]["status"] == "done",
        "{receipts:?}"
    );
    assert!(!dir.path().join("report.retry-2.jsonl").exists());
    assert!(fs::exists(dir.path().join("kept")).unwrap());
}

/// An unfinished retry does not stop the job itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_job_takes_over_what_a_killed_retry_left() {
    let (world, dir, command) = denied_large().await;
    let silent = Fault::on(Operation::UploadPartCopy)
        .when(When::Always)
        .then(Effect::StallBefore(None));
    world.add_fault(silent);
    let child = process_at(&world)
        .args(["retry", "report.jsonl"])
        .current_dir(dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let working = async {
        while world.calls(Operation::UploadPartCopy) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), working)
        .await
        .expect("the retry does nothing");
    kill(child).await;
    world.sandbox.faults().clear();
    let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    world.assert_no_upload_is_left();
    world.assert_equal("large", "large");
}
