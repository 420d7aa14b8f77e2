//! `uploads … --mine`: what runs of s3haul left open, told from what is somebody else's by their
//! journals.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use s3haul::multipart::MultipartUpload;
use s3haul::s3::Attributes;
use s3haul::sandbox::{BucketOptions, Content, LatencyModel, Model, ObjectSpec, Operation};
use s3haul::size::MIB;
use serde_json::Value;

use crate::cli::{at, process_at, run};
use crate::world::{DESTINATION, SOURCE, World};

async fn world() -> World {
    let latency = LatencyModel {
        copy: Duration::from_millis(20),
        ..LatencyModel::default()
    };
    let model = Model {
        latency,
        ..Model::default()
    };
    let world = World::modelled(model).await;
    for key in ["dir/large", "other"] {
        let content = Content::pattern(1, 200 * 5 * MIB);
        world
            .sandbox
            .store()
            .put_object(SOURCE, key, content, &ObjectSpec::default());
    }
    world
}

/// A run of both objects in the background, in this directory.
fn spawn(world: &World, directory: &Path, journal: &[&str]) -> Child {
    process_at(world)
        .args([
            "copy",
            "s3://source/",
            "s3://destination/",
            "--provider",
            "aws",
            "--in-flight",
            "4",
        ])
        .args(["--part-size", "5MiB", "--threshold", "5MiB"])
        .args(journal)
        .current_dir(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn both_are_open(world: &World) {
    let open = async {
        while world.calls(Operation::UploadPartCopy) < 10
            || world.sandbox.store().open_uploads(DESTINATION).len() < 2
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), open)
        .await
        .expect("the run begins nothing");
}

async fn kill(mut child: Child) {
    child.kill().unwrap();
    tokio::task::spawn_blocking(move || child.wait().unwrap())
        .await
        .unwrap();
}

/// An upload that no journal knows.
async fn foreign(world: &World) -> MultipartUpload {
    let bucket = world.bucket(DESTINATION).await;
    let key = "dir/large".parse().unwrap();
    let upload = MultipartUpload::initiate(&bucket, &key, &Attributes::default())
        .await
        .unwrap();
    upload.upload_part(1, &b"theirs"[..]).await.unwrap();
    upload
}

async fn uploads(world: &World, directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = at(world);
    command.current_dir(directory).env_remove("S3HAUL_JOURNAL");
    run(command, &[&["uploads"], arguments].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_journal_knows_is_listed_and_aborted() {
    let world = world().await;
    let directory = tempfile::tempdir().unwrap();
    let (exit, _, stderr) = uploads(
        &world,
        directory.path(),
        &["list", "s3://destination/", "--mine"],
    )
    .await;
    assert!(
        exit == 2 && stderr.contains("there is no journal in ./.s3haul"),
        "{exit} {stderr}"
    );
    let theirs = foreign(&world).await;
    let child = spawn(&world, directory.path(), &[]);
    both_are_open(&world).await;
    let (exit, _, stderr) = uploads(
        &world,
        directory.path(),
        &["abort", "s3://destination/", "--mine"],
    )
    .await;
    assert!(
        exit == 1 && stderr.contains("is at work on it; stop that first"),
        "{exit} {stderr}"
    );
    kill(child).await;
    let (exit, stdout, stderr) = uploads(
        &world,
        directory.path(),
        &["list", "s3://destination/", "--mine", "--json"],
    )
    .await;
    assert_eq!(exit, 0, "{stderr}");
    let listed: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let keys: Vec<_> = listed
        .iter()
        .map(|upload| upload["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["dir/large", "other"]);
    assert!(!stdout.contains(theirs.id()), "{stdout}");
    // Below a prefix, and first without doing it.
    let abort = ["abort", "s3://destination/dir/", "--mine"];
    let (exit, stdout, _) = uploads(
        &world,
        directory.path(),
        &[&abort[..], &["--dry-run"]].concat(),
    )
    .await;
    assert!(
        exit == 0 && stdout.contains("would abort") && stdout.lines().count() == 1,
        "{exit} {stdout}"
    );
    assert_eq!(world.sandbox.store().open_uploads(DESTINATION).len(), 3);
    let (exit, _, stderr) = uploads(&world, directory.path(), &abort).await;
    assert!(
        exit == 0 && stderr.contains("1 upload aborted"),
        "{exit} {stderr}"
    );
    let (exit, _, stderr) = uploads(
        &world,
        directory.path(),
        &["abort", "s3://destination/", "--mine"],
    )
    .await;
    assert!(
        exit == 0 && stderr.contains("1 upload aborted"),
        "{exit} {stderr}"
    );
    let left = world.sandbox.store().open_uploads(DESTINATION);
    assert_eq!((left.len(), left[0].upload_id.as_str()), (1, theirs.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_alone_does_not_abort_what_is_not_in_it() {
    let world = world().await;
    foreign(&world).await;
    let abort = [
        "abort",
        "s3://destination/",
        "--older-than",
        "0s",
        "--journal",
        ".s3haul/x",
    ];
    let (exit, _, stderr) = uploads(&world, Path::new("."), &abort).await;
    assert!(exit == 2 && stderr.contains("--mine"), "{exit} {stderr}");
    assert_eq!(world.sandbox.store().open_uploads(DESTINATION).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_in_s3_says_it_too_and_the_next_run_does_without_what_was_aborted() {
    let world = world().await;
    world
        .sandbox
        .store()
        .create_bucket("ops", BucketOptions::default());
    let directory = tempfile::tempdir().unwrap();
    let journal = ["--journal", "s3://ops/lake/"];
    let child = spawn(&world, directory.path(), &journal);
    both_are_open(&world).await;
    std::process::Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    let theirs = foreign(&world).await;
    let abort = [
        &["abort", "s3://destination/", "--mine", "--provider", "aws"][..],
        &journal,
    ]
    .concat();
    let (exit, stdout, stderr) = uploads(&world, directory.path(), &abort).await;
    assert!(
        exit == 0 && stderr.contains("2 uploads aborted"),
        "{exit} {stdout} {stderr}"
    );
    let mut child = spawn(&world, directory.path(), &journal);
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0));
    world.assert_equal("dir/large", "dir/large");
    let left = world.sandbox.store().open_uploads(DESTINATION);
    assert_eq!((left.len(), left[0].upload_id.as_str()), (1, theirs.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_a_bucket_whose_owner_is_another_are_refused() {
    let world = world().await;
    let list = [
        "list",
        "s3://destination/",
        "--expected-owner",
        "999999999999",
        "--provider",
        "aws",
    ];
    let (exit, _, stderr) = uploads(&world, Path::new("."), &list).await;
    assert!(
        exit == 3 && stderr.contains("999999999999"),
        "{exit} {stderr}"
    );
    let (exit, _, stderr) = uploads(&world, Path::new("."), &list[..4]).await;
    assert!(
        exit == 2 && stderr.contains("only AWS looks at the owner that is expected"),
        "{exit} {stderr}"
    );
    let verify = [
        "verify",
        "s3://source/",
        "s3://destination/",
        "--destination-owner",
        "999999999999",
    ];
    let (exit, _, stderr) = run(at(&world), &[&verify[..], &["--provider", "aws"]].concat()).await;
    assert!(
        exit != 0 && stderr.contains("999999999999"),
        "{exit} {stderr}"
    );
}
