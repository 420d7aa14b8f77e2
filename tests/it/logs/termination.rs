//! The termination message, which Kubernetes reads from a file after a container has ended.

use std::fs;
use std::path::Path;

use s3haul::sandbox::{Effect, Fault, Operation};

use super::lines;
use crate::world::World;
use crate::world::program::{COPY_ALL, at, command, run};

const COPY: [&str; 3] = ["copy", "s3://source/", "s3://destination/"];

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_of_an_end_is_written_where_the_flag_or_the_variable_says() {
    let world = World::with_objects(["a", "b", "c"], 10).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("termination-log");
    let flag = ["--termination-log", path.to_str().unwrap()];

    let wrong_bucket = ["copy", "s3://source/", "s3://no-such-bucket/"];
    let (exit, _, stderr) = run(at(&world), &[&wrong_bucket[..], &flag].concat()).await;
    let reason = read(&path);
    assert_eq!(exit, 3, "{stderr}");
    assert!(reason.contains("no-such-bucket"), "{reason}");
    assert_eq!(stderr.trim_end(), format!("error: {reason}"));

    // A successful run clears the message of an earlier one.
    let (exit, _, stderr) = run(at(&world), &[&COPY[..], &flag].concat()).await;
    assert_eq!((exit, read(&path).as_str()), (0, ""), "{stderr}");

    let mut program = command();
    program.env("S3HAUL_TERMINATION_LOG", &path);
    let (exit, _, _) = run(program, &["run", "--no-such-flag"]).await;
    let reason = read(&path);
    assert!(exit == 2 && reason.contains("'--no-such-flag'"), "{reason}");
    assert_eq!(reason.lines().count(), 1, "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_objects_are_counted_by_their_first_cause() {
    let world = World::with_objects(["a", "b", "c"], 10).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("termination-log");
    let denied = Fault::on(Operation::CopyObject).key("b");
    world.add_fault(denied.then(Effect::Error(403, "AccessDenied")));
    let flag = ["--termination-log", path.to_str().unwrap()];
    let (exit, _, stderr) = run(at(&world), &[&COPY[..], &flag].concat()).await;
    let reason = read(&path);
    assert_eq!(exit, 1, "{stderr}");
    assert!(
        reason.starts_with("1 object failed: 1 x CopyObject AccessDenied: ")
            && reason.ends_with("for example s3://source/b"),
        "{reason}"
    );
}

/// Commands other than runs write their cause too.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_and_a_check_name_what_they_found() {
    let world = World::with_objects(["a", "b", "c"], 10).await;
    let directory = super::directory_with(COPY_ALL);
    let path = directory.path().join("termination-log");
    let named = |word: &str| {
        let mut program = at(&world);
        program
            .current_dir(directory.path())
            .env("S3HAUL_TERMINATION_LOG", &path)
            .arg(word);
        program
    };
    let (exit, _, stderr) = run(named("verify"), &["lake.yaml"]).await;
    assert_eq!(exit, 1, "{stderr}");
    let reason = read(&path);
    assert!(reason.contains("3 missing at the destination"), "{reason}");
    let denied = Fault::on(Operation::ListObjectsV2).bucket("source");
    let denied = denied.then(Effect::Error(403, "AccessDenied"));
    world.add_fault(denied);
    let (exit, _, stderr) = run(named("check"), &["lake.yaml"]).await;
    assert_eq!(exit, 3, "{stderr}");
    let reason = read(&path);
    assert!(reason.contains("may not list s3://source/"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_names_a_selection_that_matches_nothing() {
    let world = World::new().await;
    let job = COPY_ALL.replace("  - {", "  - {name: nightly, empty: fail, ");
    let directory = super::directory_with(&job);
    let path = directory.path().join("termination-log");
    for (word, expected) in [
        ("run", "nightly: nothing below s3://source/"),
        (
            "verify",
            "nothing was compared: nightly: nothing below s3://source/",
        ),
    ] {
        let mut program = at(&world);
        program
            .current_dir(directory.path())
            .env("S3HAUL_TERMINATION_LOG", &path);
        let (exit, _, stderr) = run(program, &[word, "lake.yaml"]).await;
        assert_eq!((exit, read(&path).as_str()), (1, expected), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_of_a_manifest_is_in_the_reason_as_far_as_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let (path, job) = (
        directory.path().join("t"),
        directory.path().join("lake.yaml"),
    );
    let wrong: Vec<_> = (0..200).map(|index| format!("wrong_{index}: 1")).collect();
    fs::write(&job, format!("version: 1\n{}\n", wrong.join("\n"))).unwrap();
    let mut program = command();
    program.env("S3HAUL_TERMINATION_LOG", &path);
    let (exit, _, _) = run(program, &["run", job.to_str().unwrap()]).await;
    let reason = read(&path);
    assert_eq!(exit, 2);
    assert!(
        reason.contains("lake.yaml:2: ") && reason.contains("wrong_0"),
        "{reason}"
    );
    assert!(
        reason.len() <= 4096 && reason.contains("(cut after "),
        "{} bytes",
        reason.len()
    );
}

/// If the file cannot be written, the exit code stays the same. Without a name, no file is created.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_changes_no_exit_code() {
    let world = World::with_objects(["a", "b", "c"], 10).await;
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("no/such/directory/t");
    let wrong_bucket = ["copy", "s3://source/", "s3://no-such-bucket/"];
    for (format, parse) in [("text", false), ("json", true)] {
        let mut program = at(&world);
        program
            .env("S3HAUL_TERMINATION_LOG", &missing)
            .env("S3HAUL_LOG_FORMAT", format);
        let (exit, _, stderr) = run(program, &wrong_bucket).await;
        assert!(
            exit == 3
                && stderr.contains("cannot be written to")
                && stderr.contains("such/directory"),
            "{exit} {stderr}"
        );
        assert!(!parse || lines(&stderr).len() >= 2, "{stderr}");
    }
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let flag = ["--termination-log", pipe.to_str().unwrap()];
    let (exit, _, stderr) = run(at(&world), &[&wrong_bucket[..], &flag].concat()).await;
    assert!(
        exit == 3 && stderr.contains("it is a pipe"),
        "{exit} {stderr}"
    );

    // Without a name, no file is created: not in the working directory, and not in /dev.
    let usual = Path::new("/dev/termination-log");
    let (was_there, here) = (usual.exists(), directory.path().join("work"));
    fs::create_dir(&here).unwrap();
    let mut program = at(&world);
    program.current_dir(&here);
    let (exit, _, stderr) = run(program, &wrong_bucket).await;
    assert!(exit == 3 && stderr.lines().count() == 1, "{exit} {stderr}");
    assert_eq!(usual.exists(), was_there);
    assert_eq!(fs::read_dir(&here).unwrap().count(), 0);
}
