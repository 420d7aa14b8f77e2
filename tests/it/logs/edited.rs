//! A job that is edited while its journal has an unfinished run.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use s3haul::sandbox::{BucketOptions, Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::MIB;

use super::{lines, only};
use crate::world::program::{journaled, kill, process_at, run, run_in, until};
use crate::world::{DESTINATION, SOURCE, World};

const LARGE: &str = "tmp/large";

/// Starts a sandbox with three small objects, and a large one that an edit excludes.
async fn world_with_excluded_object() -> World {
    let world = World::with_objects(["a", "b", "c"], 10).await;
    let store = world.sandbox.store();
    store.create_bucket("ops", BucketOptions::default());
    let content = Content::pattern(1, 300 * MIB);
    store.put_object(SOURCE, LARGE, content, &ObjectSpec::default());
    world
}

/// Writes the job, with these additional fields and with these additional fields of its source.
fn write(directory: &Path, more: &str, from: &str) {
    let text = format!(
        "version: 1\nname: lake\nendpoints: {{default: {{provider: aws, url: \"${{AWS_ENDPOINT_URL_S3}}\"}}}}\n{more}\
         transfers:\n  - {{name: all, from: {{s3: s3://source/{from}}}, to: {{s3: s3://destination/}}}}\n"
    );
    fs::write(directory.join("lake.yaml"), text).unwrap();
}

/// Kills a run that has copied the small objects and some parts of the large one.
async fn unfinished(world: &World, directory: &Path) {
    let faults = world.sandbox.faults();
    let stall = Fault::on(Operation::CompleteMultipartUpload).then(Effect::StallBefore(None));
    let stall = faults.add(stall);
    let child = process_at(world)
        .args(["run", "lake.yaml"])
        .current_dir(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("three objects and all parts", || {
        faults.fired() > 0 && world.keys(DESTINATION).len() >= 3
    })
    .await;
    kill(child).await;
    assert!(faults.remove(stall));
    assert_eq!(world.open_uploads(DESTINATION).len(), 1);
    world.sandbox.calls().clear();
}

async fn again(world: &World, directory: &Path, more: &[&str]) -> (i32, String, String) {
    run_in(world, directory, &[&["run", "lake.yaml"], more].concat()).await
}

/// Asserts that the edited job has run, that nothing was copied twice, and that the old run left
/// nothing.
fn assert_run(world: &World) {
    assert_eq!(world.keys(DESTINATION), ["a", "b", "c"]);
    assert_eq!(world.calls(Operation::CopyObject), 0, "copied twice");
    assert_eq!(world.calls(Operation::UploadPartCopy), 0);
    world.assert_no_upload_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_job_is_refused_unless_it_asks_for_a_new_run() {
    let world = world_with_excluded_object().await;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    write(directory, "", "");
    unfinished(&world, directory).await;

    for more in ["", "on_change: fail\n"] {
        write(directory, more, ", exclude: [\"tmp/**\"]");
        let (exit, _, stderr) = again(&world, directory, &[]).await;
        assert_eq!(exit, 3, "{stderr}");
        assert!(
            stderr.contains("`all.from.exclude` is tmp/** and was not set"),
            "{stderr}"
        );
    }
    assert_eq!(world.open_uploads(DESTINATION).len(), 1);

    write(directory, "on_change: new-run\n", ", exclude: [\"tmp/**\"]");
    let check = journaled(&world, directory);
    let (exit, stdout, stderr) = run(check, &["check", "lake.yaml"]).await;
    assert!(
        exit == 0 && stdout.contains("the next run is a new one (`on_change: new-run`)"),
        "{exit} {stdout}{stderr}"
    );
    let (exit, stdout, stderr) = again(&world, directory, &[]).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stderr.contains(
            "the job was changed: `all.from.exclude` is tmp/** and was not set; a new run begins"
        ) && stderr.contains("It aborts what the unfinished run left: 1 open upload with"),
        "{stderr}"
    );
    assert!(
        stdout.contains("0 objects copied") && stdout.contains("3 unchanged"),
        "{stdout}"
    );
    assert_run(&world);

    // The old run has ended, so the next one has nothing to report.
    let (exit, _, stderr) = again(&world, directory, &[]).await;
    assert_eq!((exit, stderr.as_str()), (0, ""));
}

/// A fresh run aborts an upload with up to a terabyte of stored parts, so the log says how much.
#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_run_says_what_it_gives_up() {
    let world = world_with_excluded_object().await;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    write(directory, "", "");
    unfinished(&world, directory).await;
    let more = ["--fresh", "--log-format", "json"];
    let (exit, _, stderr) = again(&world, directory, &more).await;
    assert_eq!(exit, 0, "{stderr}");
    let lines = lines(&stderr);
    let given_up = only(&lines, "uploads_given_up");
    assert_eq!(given_up["open_uploads"], 1, "{given_up}");
    assert!(given_up["open_bytes"].as_u64().unwrap() > 0, "{given_up}");
    world.assert_equal(LARGE, LARGE);
    world.assert_no_upload_is_left();
}

/// With the journal in S3, other locations, and the flag. The log has these in fields.
#[tokio::test(flavor = "multi_thread")]
async fn other_transfers_begin_a_new_run_too() {
    let world = world_with_excluded_object().await;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let journal = "journal: s3://ops/lake/\n";
    write(directory, journal, "");
    unfinished(&world, directory).await;

    let path = directory.join("lake.yaml");
    write(directory, journal, ", exclude: [\"tmp/**\"]");
    let renamed = fs::read_to_string(&path)
        .unwrap()
        .replace("name: all", "name: events");
    fs::write(&path, renamed).unwrap();
    let (exit, _, stderr) = again(&world, directory, &[]).await;
    assert!(
        exit == 3 && stderr.contains("other transfers"),
        "{exit} {stderr}"
    );

    let flags = ["--on-change", "new-run", "--log-format", "json"];
    let (exit, _, stderr) = again(&world, directory, &flags).await;
    assert_eq!(exit, 0, "{stderr}");
    let lines = lines(&stderr);
    let changed = only(&lines, "job_changed");
    assert_eq!(
        (&changed["level"], &changed["open_uploads"]),
        (&"WARN".into(), &1.into())
    );
    let difference = changed["changes"][0].as_str().unwrap();
    assert!(
        difference.contains("`transfers` was all and is events"),
        "{difference}"
    );
    let summary = only(&lines, "summary");
    assert_eq!(
        (&summary["done_objects"], &summary["skipped_objects"]),
        (&0.into(), &3.into())
    );
    assert_run(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_job_resumes_whatever_on_change_says() {
    let world = world_with_excluded_object().await;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    write(directory, "on_change: new-run\n", "");
    unfinished(&world, directory).await;
    let (exit, _, stderr) = again(&world, directory, &["--log-format", "json"]).await;
    assert_eq!(exit, 0, "{stderr}");
    let lines = lines(&stderr);
    assert_eq!(only(&lines, "run_resumed")["level"], "INFO");
    assert_eq!(world.calls(Operation::CopyObject), 0, "copied twice");
    assert_eq!(
        world.calls(Operation::CreateMultipartUpload),
        0,
        "the upload is resumed"
    );
    world.assert_equal(LARGE, LARGE);
    let (exit, _, stderr) = again(&world, directory, &["--on-change", "fail", "--fresh"]).await;
    assert!(
        exit == 2 && stderr.contains("cannot be used with"),
        "{stderr}"
    );
}
