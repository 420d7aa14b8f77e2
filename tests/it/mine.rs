//! `uploads … --mine`: journals tell the uploads of s3haul's runs from those of others.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use s3haul::journal::event::{JournalEvent, UploadPlace};
use s3haul::multipart::MultipartUpload;
use s3haul::s3::Attributes;
use s3haul::sandbox::Operation;
use s3haul::size::MIB;
use serde_json::Value;

use crate::journal::begin_in;
use crate::liar::{Answer, Liar};
use crate::world::program::{COPY_ALL, at, journaled, kill, process_at, run, run_in};
use crate::world::{DESTINATION, World};

async fn world_with_two_large() -> World {
    let world = World::with_copy_latency(Duration::from_millis(20)).await;
    world.put_all(["dir/large", "other"], 200 * 5 * MIB);
    world
}

/// Starts a run of both objects in this directory.
fn spawn_copy(world: &World, directory: &Path, journal: &[&str]) -> Child {
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
            || world.open_uploads(DESTINATION).len() < 2
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), open)
        .await
        .expect("the run begins nothing");
}

/// Creates an upload that no journal records.
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
    run_in(world, directory, &[&["uploads"], arguments].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_journal_knows_is_listed_and_aborted() {
    let world = world_with_two_large().await;
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
    let child = spawn_copy(&world, directory.path(), &[]);
    both_are_open(&world).await;
    let (exit, _, stderr) = uploads(
        &world,
        directory.path(),
        &["abort", "s3://destination/", "--mine"],
    )
    .await;
    assert!(
        exit == 1 && stderr.contains("is using it; stop that run first"),
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
    // Below a prefix, first without aborting.
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
    assert_eq!(world.open_uploads(DESTINATION).len(), 3);
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
    let left = world.open_uploads(DESTINATION);
    assert_eq!((left.len(), left[0].upload_id.as_str()), (1, theirs.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_alone_does_not_abort_what_is_not_in_it() {
    let world = world_with_two_large().await;
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
    assert_eq!(world.open_uploads(DESTINATION).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_in_s3_says_it_too_and_the_next_run_does_without_what_was_aborted() {
    let world = world_with_two_large().await;
    world.create_bucket("ops");
    let directory = tempfile::tempdir().unwrap();
    let journal = ["--journal", "s3://ops/lake/"];
    let child = spawn_copy(&world, directory.path(), &journal);
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
    let mut child = spawn_copy(&world, directory.path(), &journal);
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0));
    world.assert_equal("dir/large", "dir/large");
    let left = world.open_uploads(DESTINATION);
    assert_eq!((left.len(), left[0].upload_id.as_str()), (1, theirs.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_a_bucket_whose_owner_is_another_are_refused() {
    let world = world_with_two_large().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn the_journals_that_were_read_are_named_and_that_of_a_manifest_may_be_asked() {
    let world = world_with_two_large().await;
    let directory = tempfile::tempdir().unwrap();
    // A journal of another job is where the command looks by itself.
    world.put("small", 10);
    let command = journaled(&world, directory.path());
    let small = ["copy", "s3://source/small", "s3://destination/small"];
    let (exit, _, stderr) = run(command, &small).await;
    assert_eq!(exit, 0, "{stderr}");
    let child = spawn_copy(&world, directory.path(), &["--journal", "./elsewhere"]);
    both_are_open(&world).await;
    kill(child).await;
    let abort = ["abort", "s3://destination/", "--mine", "--dry-run"];
    let (exit, _, stderr) = uploads(&world, directory.path(), &abort).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stderr.contains("0 uploads to abort")
            && stderr.contains("read 1 journal: .s3haul/copy-")
            && stderr.contains("--job FILE"),
        "{stderr}"
    );
    let manifest = format!("{COPY_ALL}journal: ./elsewhere\n");
    std::fs::write(directory.path().join("job.yaml"), manifest).unwrap();
    let of_job = [&abort[..], &["--job", "job.yaml"]].concat();
    let (exit, stdout, stderr) = uploads(&world, directory.path(), &of_job).await;
    assert!(
        exit == 0
            && !stdout.is_empty()
            && stderr.contains("read 1 journal: ")
            && stderr.contains("elsewhere"),
        "{exit} {stdout} {stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_says_how_uploads_are_chosen() {
    let world = world_with_two_large().await;
    let (exit, _, stderr) = uploads(&world, Path::new("."), &["abort", "s3://destination/"]).await;
    assert!(
        exit == 2 && stderr.contains("--older-than AGE") && stderr.contains("--mine"),
        "{exit} {stderr}"
    );
}

/// One journal that cannot be read hides no other one, unless it is the one that was named.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_read_does_not_keep_the_others_from_being_read() {
    let world = world_with_two_large().await;
    let directory = tempfile::tempdir().unwrap();
    let bad = directory.path().join(".s3haul/a-bad-one");
    let worse = directory.path().join(".s3haul/b-bad-one");
    for bad in [&bad, &worse] {
        std::fs::create_dir_all(bad).unwrap();
        std::fs::write(bad.join("snapshot-0000000001.log"), "no\njournal\n").unwrap();
    }
    let abort = ["abort", "s3://destination/", "--mine"];
    // There is no other one, so that nothing is known.
    for command in [
        &["status"][..],
        &["uploads", "list", "s3://destination/", "--mine"],
    ] {
        let (exit, _, stderr) = run_in(&world, directory.path(), command).await;
        assert!(
            exit == 3
                && stderr.contains("a-bad-one/snapshot-0000000001.log")
                && stderr.contains("the journal .s3haul/b-bad-one cannot be read"),
            "{exit} {stderr}"
        );
    }
    std::fs::remove_dir_all(worse).unwrap();
    let child = spawn_copy(&world, directory.path(), &[]);
    both_are_open(&world).await;
    kill(child).await;
    let (exit, stdout, stderr) = run_in(&world, directory.path(), &["status"]).await;
    assert!(
        exit == 0
            && stdout.contains("dead: run the same command again")
            && stderr.contains("the journal .s3haul/a-bad-one cannot be read"),
        "{exit} {stdout} {stderr}"
    );
    let (exit, _, stderr) = uploads(&world, directory.path(), &abort).await;
    assert!(
        exit == 0
            && stderr.contains("2 uploads aborted")
            && stderr.contains("the journal .s3haul/a-bad-one cannot be read"),
        "{exit} {stderr}"
    );
    let named = ["status", ".s3haul/a-bad-one"];
    let (exit, _, stderr) = run_in(&world, directory.path(), &named).await;
    assert_eq!(exit, 3, "{stderr}");
}

/// An upload that a run was about to create is known by its key and time, on its own server only.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_an_id_on_record_is_known_at_its_server_only() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let here = world.sandbox.url().to_owned();
    for (name, server, known) in [
        ("here", Some(here), 1),
        ("old", None, 1),
        ("elsewhere", Some("http://127.0.0.1:1".to_owned()), 0),
    ] {
        let place = directory.path().join(name);
        let journal = begin_in(&place).await;
        let upload = UploadPlace {
            endpoint: "default".into(),
            bucket: DESTINATION.parse().unwrap(),
            key: name.parse().unwrap(),
        };
        let intended = JournalEvent::UploadIntended {
            upload: 1,
            object: 0,
            place: upload,
            server,
        };
        journal.commit(intended).await.unwrap();
        let bucket = world.bucket(DESTINATION).await;
        let key = name.parse().unwrap();
        MultipartUpload::initiate(&bucket, &key, &Attributes::default())
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        journal.close(JournalEvent::RunStopped).await.unwrap();
        let list = ["list", "s3://destination/", "--mine", "--journal", name];
        let (exit, stdout, stderr) = uploads(&world, directory.path(), &list).await;
        assert_eq!(
            (exit, stdout.lines().count()),
            (0, known),
            "{name}: {stdout} {stderr}"
        );
        let note =
            "1 upload without an ID was recorded at http://127.0.0.1:1, and was not looked for";
        assert_eq!(stderr.contains(note), known == 0, "{name}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_prints_documents_and_a_dry_run_looks_for_the_upload() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let theirs = foreign(&world).await;
    let at = "s3://destination/dir/large";
    let json = async |arguments: &[&str]| {
        let (exit, stdout, stderr) = uploads(&world, directory.path(), arguments).await;
        assert_eq!(exit, 0, "{stderr}");
        let line = serde_json::from_str::<Value>(stdout.trim_end()).expect("one document");
        ["status", "key", "upload_id", "size"].map(|field| line[field].clone())
    };
    let all = ["abort", "s3://destination/", "--older-than", "0s", "--json"];
    let said = |status: &str| -> [Value; 4] {
        [
            status.into(),
            "dir/large".into(),
            theirs.id().into(),
            6.into(),
        ]
    };
    let dry: [[Value; 4]; 2] = [
        json(&["abort", at, theirs.id(), "--dry-run", "--json"]).await,
        json(&[&all[..], &["--dry-run"]].concat()).await,
    ];
    assert_eq!(dry, [said("would_abort"), said("would_abort")]);
    // A mistyped ID is an error, also without aborting.
    for id in ["mistyped", "8a885d04-6f2b-4f4b-9d5c-1f1f6a2b3c4d"] {
        let dry = ["abort", at, id, "--dry-run"];
        let (exit, stdout, stderr) = uploads(&world, directory.path(), &dry).await;
        assert!(
            exit == 3 && stdout.is_empty() && stderr.contains("has no open upload"),
            "{exit} {stdout} {stderr}"
        );
    }
    assert_eq!(world.open_uploads(DESTINATION).len(), 1);
    // The document of one upload is that of the list.
    let document = async |arguments: &[&str]| {
        let (_, stdout, _) = uploads(&world, directory.path(), arguments).await;
        let mut document = serde_json::from_str::<Value>(stdout.trim_end()).unwrap();
        document.as_object_mut().unwrap().remove("status");
        document
    };
    let listed = document(&["list", "s3://destination/", "--json"]).await;
    assert!(listed["initiated"].is_string(), "{listed}");
    let dry = ["abort", at, theirs.id(), "--dry-run", "--json"];
    assert_eq!(document(&dry).await, listed);
    let one = json(&["abort", at, theirs.id(), "--json"]).await;
    assert_eq!(one, said("aborted"));
    world.assert_no_upload_is_left();
    foreign(&world).await;
    let [status, ..] = json(&all).await;
    assert_eq!(status, "aborted");
    world.assert_no_upload_is_left();
}

/// Starts a proxy that gives this date to every upload.
async fn dating(world: &World, date: &'static str) -> Liar {
    Liar::before(world, move |asked, answer| {
        if !asked.lists_uploads() {
            return answer;
        }
        let mut list = String::from_utf8_lossy(&answer.body).into_owned();
        let mut at = 0;
        while let Some(start) = list[at..].find("<Initiated>").map(|found| at + found + 11) {
            let end = start + list[start..].find('<').unwrap();
            list.replace_range(start..end, date);
            at = start;
        }
        Answer::document(list)
    })
    .await
}

async fn abort_old(world: &World, liar: &Liar, directory: &Path) -> (i32, String, String) {
    let command = journaled(world, directory);
    let abort = [
        "uploads",
        "abort",
        "s3://destination/",
        "--older-than",
        "7d",
        "--provider",
        "aws",
        "--endpoint-url",
        &liar.url,
    ];
    run(command, &abort).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dates_that_a_server_makes_up_abort_nothing() {
    let world = world_with_two_large().await;
    foreign(&world).await;
    let directory = tempfile::tempdir().unwrap();
    let liar = dating(&world, "2010-11-10T20:48:33.000Z").await;
    let (exit, _, stderr) = abort_old(&world, &liar, directory.path()).await;
    assert!(
        exit == 2 && stderr.contains("dates of uploads are not true"),
        "{exit} {stderr}"
    );
    let left = world.open_uploads(DESTINATION);
    assert_eq!(left.len(), 1, "{left:?}");
    // A date before S3 existed tells no age.
    let liar = dating(&world, "1970-01-01T00:00:00.000Z").await;
    let (exit, _, stderr) = abort_old(&world, &liar, directory.path()).await;
    assert!(
        exit == 0 && stderr.contains("0 uploads aborted"),
        "{exit} {stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_at_work_keeps_its_uploads_whatever_their_age() {
    let world = world_with_two_large().await;
    let directory = tempfile::tempdir().unwrap();
    let child = spawn_copy(&world, directory.path(), &[]);
    both_are_open(&world).await;
    let liar = dating(&world, "2010-11-10T20:48:33.000Z").await;
    let (exit, _, stderr) = abort_old(&world, &liar, directory.path()).await;
    // A journal shows that the dates are wrong, before a test upload is created to check them.
    assert!(
        exit == 2 && stderr.contains("was created at"),
        "{exit} {stderr}"
    );
    assert!(liar.count(|asked| asked.creates_upload() || asked.aborts()) == 0);
    let all = ["abort", "s3://destination/", "--older-than", "0s"];
    let (exit, _, stderr) = uploads(&world, directory.path(), &all).await;
    assert!(
        exit == 1 && stderr.contains("is using it; stop that run first"),
        "{exit} {stderr}"
    );
    kill(child).await;
}
