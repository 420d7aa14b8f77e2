//! A run with several sessions is one run: its totals, its report, and its end if the journal is
//! damaged.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use s3haul::sandbox::{Content, ObjectSpec, Operation};
use s3haul::size::MIB;
use serde_json::Value;
use tempfile::TempDir;

use crate::reports::receipts_in;
use crate::world::program::{kill, process_at, run_in};
use crate::world::{DESTINATION, SOURCE, World};

const OBJECTS: u64 = 120;

/// Starts a sandbox with small objects with tags that nobody may read.
async fn world_with_unreadable_tags() -> World {
    let world = World::with_copy_latency(Duration::from_millis(15)).await;
    world.create_bucket("ops");
    let tagged = ObjectSpec::default().tag("a", "b");
    for index in 0..OBJECTS {
        world.put_object(
            SOURCE,
            &format!("k{index:03}"),
            Content::pattern(index, 10),
            &tagged,
        );
    }
    world.deny(SOURCE, Operation::GetObjectTagging, "");
    world
}

const COPY: [&str; 12] = [
    "copy",
    "s3://source/",
    "s3://destination/",
    "--provider",
    "aws",
    "--in-flight",
    "4",
    "--threshold",
    "5MiB",
    "--part-size",
    "5MiB",
    "--report",
];

/// Runs a copy that is killed after this many requests of a kind.
async fn killed_after(
    world: &World,
    directory: &Path,
    more: &[&str],
    operation: Operation,
    requests: u64,
) {
    let child = process_at(world)
        .args(COPY)
        .arg("report.jsonl")
        .args(more)
        .current_dir(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let working = async {
        while world.calls(operation) < requests {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), working)
        .await
        .expect("the run does nothing");
    kill(child).await;
}

async fn copy(world: &World, directory: &Path, more: &[&str]) -> (i32, String, String) {
    run_in(
        world,
        directory,
        &[&COPY[..], &["report.jsonl"], more].concat(),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_is_about_all_sessions() {
    let world = world_with_unreadable_tags().await;
    let directory = TempDir::new().unwrap();
    killed_after(&world, directory.path(), &[], Operation::CopyObject, 60).await;
    world.sandbox.calls().clear();
    let (exit, stdout, stderr) = copy(&world, directory.path(), &["--json"]).await;
    assert_eq!(exit, 0, "{stderr}");
    let lines: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let summary = &lines.last().unwrap()["summary"];
    assert_eq!(summary["sessions"], 2, "{summary}");
    let counts = ["done_objects", "skipped_objects"].map(|name| summary[name].as_u64().unwrap());
    assert_eq!(counts[0] + counts[1], OBJECTS, "{summary}");
    // Each copied object has lost its tags, whichever session copied it.
    assert_eq!(summary["losses"][0]["objects"], counts[0], "{summary}");
    assert_eq!(summary["objects_with_losses"], counts[0], "{summary}");
    assert_eq!(
        summary["requests"]["requests"].as_u64().unwrap(),
        world.sandbox.calls().total()
    );
    // A new run counts from zero.
    let (exit, stdout, _) = copy(&world, directory.path(), &[]).await;
    assert!(
        exit == 0 && !stdout.contains("sessions") && !stdout.contains("not readable"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_could_not_be_finished_is_by_the_next_session() {
    let world = world_with_unreadable_tags().await;
    let directory = TempDir::new().unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.path().join("report.jsonl")).unwrap();
    let (exit, _, stderr) = copy(&world, directory.path(), &[]).await;
    assert_eq!(exit, 4, "{stderr}");
    assert!(
        stderr.contains(
            "the journal has them: free some space, or put the file back, and run the same command again"
        ),
        "{stderr}"
    );
    std::fs::remove_file(directory.path().join("report.jsonl")).unwrap();
    world.sandbox.calls().clear();
    let (exit, stdout, stderr) = copy(&world, directory.path(), &[]).await;
    assert!(
        exit == 0 && stdout.contains("over 2 sessions"),
        "{exit} {stdout} {stderr}"
    );
    assert_eq!(world.calls(Operation::CopyObject), 0);
    assert_eq!(
        receipts_in(&directory.path().join("report.jsonl")).len() as u64,
        OBJECTS
    );
    // Without a journal, the missing lines are lost.
    std::fs::remove_file(directory.path().join("report.jsonl")).unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.path().join("report.jsonl")).unwrap();
    let (exit, _, stderr) = copy(&world, directory.path(), &["--journal", "none"]).await;
    assert!(
        exit == 1 && stderr.contains("they are lost, because no journal is kept"),
        "{exit} {stderr}"
    );
}

/// Asserts that a run that begins anew on a damaged journal knows the open uploads that can still
/// be read.
async fn damaged(world: &World, directory: &Path, journal: &[&str], damage: impl Fn()) -> String {
    world.put("a-large", 100 * 5 * MIB);
    killed_after(world, directory, journal, Operation::UploadPartCopy, 20).await;
    assert_eq!(world.open_uploads(DESTINATION).len(), 1);
    damage();
    let (exit, _, stderr) = copy(world, directory, journal).await;
    assert!(
        exit == 3 && stderr.contains("run the job with --fresh to start over"),
        "{exit} {stderr}"
    );
    // Deletes the upload's source, so that only the journal leads to the upload.
    world.sandbox.store().delete_object(SOURCE, "a-large");
    let (exit, _, stderr) = copy(world, directory, &[journal, &["--fresh"]].concat()).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stderr.contains("1 open upload could be read from it and will be aborted"),
        "{stderr}"
    );
    world.assert_no_upload_is_left();
    let copied = world.keys(DESTINATION);
    assert_eq!(copied, world.keys(SOURCE));
    // From now on, the journal is an ordinary one.
    let (exit, _, again) = copy(world, directory, journal).await;
    assert_eq!(exit, 0, "{again}");
    stderr
}

/// Replaces one character in the middle of a line.
fn spoil(text: &str, at: usize) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[at] = lines[at].replacen(':', ";", 1);
    lines.join("\n") + "\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_run_on_a_damaged_journal_in_a_directory_still_finds_open_uploads() {
    let world = world_with_unreadable_tags().await;
    let directory = TempDir::new().unwrap();
    let place = directory.path().join("journal");
    let told = damaged(&world, directory.path(), &["--journal", "journal"], || {
        let mut segments: Vec<_> = std::fs::read_dir(&place)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        segments.retain(|file| file.to_string_lossy().contains("segment-"));
        segments.sort();
        let last = segments.last().unwrap();
        // The line of the object itself.
        let text = std::fs::read_to_string(last).unwrap();
        let at = text
            .lines()
            .position(|line| line.contains("object_planned"))
            .unwrap();
        std::fs::write(last, spoil(&text, at)).unwrap();
    })
    .await;
    assert!(
        told.contains("it was moved to journal/damaged-")
            && told.contains("1 line of it could not"),
        "{told}"
    );
}

/// Makes all files of a journal unreadable.
fn spoil_all(journal: &Path) {
    for file in std::fs::read_dir(journal).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "log") {
            std::fs::write(&file, "what is this\nno journal\n").unwrap();
        }
    }
}

/// The directory cannot be renamed by the name that was typed, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_put_aside_however_its_directory_is_named() {
    let world = World::with_objects(["k"], 10).await;
    for (name, journal) in [
        ("journal/", "./journal/"),
        ("", "."),
        ("deep", "deep/../deep"),
    ] {
        let directory = TempDir::new().unwrap();
        let place = directory.path().join(name);
        std::fs::create_dir_all(&place).unwrap();
        let with = ["--journal", journal];
        let (exit, _, stderr) = copy(&world, directory.path(), &with).await;
        assert_eq!(exit, 0, "{journal}: {stderr}");
        spoil_all(&place);
        let (exit, _, stderr) = copy(&world, directory.path(), &with).await;
        assert!(
            exit == 3 && stderr.contains("--fresh"),
            "{journal}: {exit} {stderr}"
        );
        let fresh = [&with[..], &["--fresh"]].concat();
        let (exit, _, stderr) = copy(&world, directory.path(), &fresh).await;
        assert!(
            exit == 0 && stderr.contains("/damaged-"),
            "{journal}: {exit} {stderr}"
        );
        let (exit, _, stderr) = copy(&world, directory.path(), &with).await;
        assert_eq!(exit, 0, "{journal}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_was_put_aside_is_not_uploaded_with_the_data_beside_it() {
    let world = World::new().await;
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("data"), "data").unwrap();
    let upload = ["copy", "./", "s3://destination/", "--journal", "./j"];
    let fresh = [&upload[..], &["--fresh"]].concat();
    let upload = async |upload: &[&str]| run_in(&world, directory.path(), upload).await;
    let (exit, _, stderr) = upload(&fresh).await;
    assert_eq!(exit, 0, "{stderr}");
    spoil_all(&directory.path().join("j"));
    for _ in 0..2 {
        let (exit, _, stderr) = upload(&fresh).await;
        assert_eq!(exit, 0, "{stderr}");
    }
    assert_eq!(world.keys(DESTINATION), ["data"]);
}

/// A fresh run that cannot begin changes nothing, and the uploads stay known.
#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_run_without_a_report_leaves_a_damaged_journal_as_it_is() {
    let world = World::with_objects(["k"], 10).await;
    let directory = TempDir::new().unwrap();
    let with = ["--journal", "journal"];
    let (exit, _, stderr) = copy(&world, directory.path(), &with).await;
    assert_eq!(exit, 0, "{stderr}");
    let place = directory.path().join("journal");
    spoil_all(&place);
    let names = || {
        let names = std::fs::read_dir(&place).unwrap();
        let mut names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    std::fs::write(directory.path().join("file"), "").unwrap();
    let fresh = [&COPY[..], &["file/report.jsonl", "--fresh"], &with].concat();
    let (exit, _, stderr) = run_in(&world, directory.path(), &fresh).await;
    assert!(
        exit == 3 && stderr.contains("file/report.jsonl"),
        "{exit} {stderr}"
    );
    assert_eq!(names(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_run_on_a_damaged_journal_in_s3_still_finds_open_uploads() {
    let world = world_with_unreadable_tags().await;
    let directory = TempDir::new().unwrap();
    let told = damaged(
        &world,
        directory.path(),
        &["--journal", "s3://ops/lake/"],
        || {
            let store = world.sandbox.store();
            let spoiled = store
                .keys("ops")
                .into_iter()
                .find(|key| key.contains("snapshot-"))
                .unwrap();
            store.put_object(
                "ops",
                &spoiled,
                Content::bytes(b"what is this\n".to_vec()),
                &ObjectSpec::default(),
            );
        },
    )
    .await;
    assert!(
        told.contains("the old journal cannot be used (s3://ops/lake/snapshot-"),
        "{told}"
    );
    assert!(told.contains("1 line of it could not"), "{told}");
}
