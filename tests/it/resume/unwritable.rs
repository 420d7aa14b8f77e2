//! Journals and reports that cannot be written: a full disk, or a location that is refused. s3haul
//! forgets no finished work, and the final report is complete.

use std::path::Path;
use std::time::Duration;

use s3haul::sandbox::{Operation, SandboxOptions};

use super::{again, assert_all_is_there, kill_after, manifest, slow_world};
use crate::world::program::{ended, in_clean_environment, spawn};
use crate::world::{DESTINATION, SOURCE};

/// Runs the job with a limit on the size of files, in units of 512 bytes.
async fn with_little_room(directory: &Path, room: u32, more: &str) -> (i32, String) {
    let script = format!("trap '' XFSZ; ulimit -f {room}; exec \"$0\" run job.yaml {more}");
    let options = SandboxOptions::default();
    let mut shell = in_clean_environment(std::process::Command::new("sh"));
    shell
        .args(["-c", &script])
        .arg(assert_cmd::cargo::cargo_bin!("s3haul"))
        .current_dir(directory)
        .env("AWS_ACCESS_KEY_ID", options.access_key)
        .env("AWS_SECRET_ACCESS_KEY", options.secret_key);
    let ended = ended(spawn(shell)).await;
    (ended.exit, ended.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_can_no_longer_be_written_ends_the_run_and_keeps_its_work() {
    let world = slow_world(400, Duration::from_millis(2)).await;
    let directory = manifest(&world.sandbox, "");
    std::fs::create_dir(directory.path().join("journal")).unwrap();
    let (exit, stderr) = with_little_room(
        directory.path(),
        32,
        "--journal journal --report other.jsonl",
    )
    .await;
    assert!(
        exit == 4 && stderr.contains("error: the journal"),
        "{exit} {stderr}"
    );
    assert!(
        stderr.contains("the report other.jsonl lacks receipts: File too large")
            && !stderr.contains("somebody else"),
        "{stderr}"
    );
    let (exit, _, stderr) = again(&world, directory.path(), &["--journal", "journal"]).await;
    assert!(exit == 0 && stderr.contains("resuming"), "{exit} {stderr}");
    assert_eq!(world.keys(DESTINATION), world.keys(SOURCE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_was_full_lacks_nothing_in_the_end() {
    let world = slow_world(400, Duration::from_millis(2)).await;
    world.create_bucket("ops");
    let directory = manifest(&world.sandbox, "journal: s3://ops/lake/\n");
    let (exit, stderr) = with_little_room(directory.path(), 32, "").await;
    assert!(
        exit != 0 && stderr.contains("lacks receipts") && stderr.contains("free some space"),
        "{stderr}"
    );
    assert_eq!(world.keys(DESTINATION), world.keys(SOURCE));
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert!(exit == 0 && stderr.contains("resuming"), "{exit} {stderr}");
    assert_all_is_there(&world, directory.path(), 400);
    assert_eq!(
        world.calls(Operation::CopyObject),
        400,
        "only the report was to be written again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unwritable_location_is_refused_only_if_it_was_named() {
    let world = slow_world(3, Duration::ZERO).await;
    let directory = manifest(&world.sandbox, "");
    std::fs::write(directory.path().join(".s3haul"), "no directory").unwrap();
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert!(
        exit == 0 && stderr.contains("no journal is kept"),
        "{exit} {stderr}"
    );
    assert_all_is_there(&world, directory.path(), 3);
    let (exit, _, stderr) = again(&world, directory.path(), &["--journal", ".s3haul/x"]).await;
    assert!(
        exit == 3 && stderr.contains("the journal .s3haul/x"),
        "{exit} {stderr}"
    );
    let (exit, _, stderr) = again(&world, directory.path(), &["--journal", "s3://ops/lake"]).await;
    assert!(
        exit == 2 && stderr.contains("with a slash at the end"),
        "{exit} {stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_does_not_make_a_run_forget_what_it_has_done() {
    let world = slow_world(200, Duration::from_millis(15)).await;
    let directory = manifest(&world.sandbox, "");
    kill_after(&world, directory.path(), 60).await;
    let report = || std::fs::read(directory.path().join("report.jsonl")).unwrap();
    let (before, copies) = (report(), world.calls(Operation::CopyObject));
    let (exit, stderr) = with_little_room(directory.path(), 0, "").await;
    assert!(
        exit == 3 && stderr.contains("error: the journal .s3haul/lake"),
        "{exit} {stderr}"
    );
    assert!(report() == before, "the report was begun anew");
    // Requests of the killed run may still arrive.
    assert!(
        world.calls(Operation::CopyObject) <= copies + 8,
        "the run continued without its journal"
    );
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert!(exit == 0 && stderr.contains("resuming"), "{exit} {stderr}");
    assert_all_is_there(&world, directory.path(), 200);
    // A run that has ended has nothing to forget.
    let (_, stderr) = with_little_room(directory.path(), 0, "").await;
    assert!(stderr.contains("no journal is kept"), "{stderr}");
}
