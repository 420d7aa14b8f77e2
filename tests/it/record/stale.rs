//! Sessions that are killed after a request took effect and before its answer, and sources that
//! change before the next session.

use std::time::{Duration, SystemTime};

use s3haul::sandbox::{Content, Effect, Fault, Operation, When};
use s3haul::size::MIB;
use tempfile::TempDir;

use crate::reports::receipts_in;
use crate::world::program::{kill, process_at, run_in, spawn_in};
use crate::world::{DESTINATION, SOURCE, World, aged};

const KEYS: [&str; 3] = ["a", "b", "c"];

/// Runs the command until the server has executed this many writes by `operation` without an
/// answer, and kills it.
async fn killed_unanswered(
    world: &World,
    directory: &std::path::Path,
    arguments: &[&str],
    operation: Operation,
) {
    let silent = Fault::on(operation)
        .when(When::Always)
        .then(Effect::StallAfter(None));
    world.add_fault(silent);
    let child = process_at(world)
        .args(arguments)
        .current_dir(directory)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let written = async {
        while KEYS
            .iter()
            .any(|key| is_older_than_half_an_hour(world, key).unwrap_or(true))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), written)
        .await
        .expect("nothing is written");
    kill(child).await;
    world.sandbox.faults().clear();
}

/// Returns true if the object is older than half an hour, so that the command has not written it.
/// Returns `None` if the destination lacks the key.
fn is_older_than_half_an_hour(world: &World, key: &str) -> Option<bool> {
    let object = world.object(DESTINATION, key)?;
    let age = SystemTime::now().duration_since(object.last_modified);
    Some(age.is_ok_and(|age| age > Duration::from_mins(30)))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_session_copied_is_compared_with_the_source_as_it_is_now() {
    const SMALL: u64 = 100;
    const LARGE: u64 = 11 * MIB;
    let aws = &["--provider", "aws"][..];
    let missing = &["--provider", "aws", "--when", "missing"][..];
    let checksum = &["--provider", "aws", "--compare", "checksum"][..];
    for (size, size_now, flags, has_older) in [
        (SMALL, SMALL, aws, false),
        (SMALL, 2 * SMALL, aws, false),
        (SMALL, SMALL, aws, true),
        (SMALL, SMALL, &[], false),
        (SMALL, SMALL, missing, false),
        (SMALL, SMALL, checksum, false),
        (LARGE, LARGE, aws, false),
        (LARGE, LARGE, missing, false),
        (LARGE, SMALL, missing, false),
    ] {
        let case = format!("{size} {size_now} {flags:?} {has_older}");
        let world = World::new().await;
        let hour = Duration::from_hours(1);
        for key in KEYS {
            world.put_with(key, size, &aged(hour));
            if has_older {
                world.put_object(DESTINATION, key, Content::pattern(3, 50), &aged(2 * hour));
            }
        }
        let dir = TempDir::new().unwrap();
        let command = [
            &["copy", "s3://source/", "s3://destination/"][..],
            &["--report", "report.jsonl", "--journal", "kept"],
            &["--part-size", "5MiB", "--threshold", "5MiB"],
            flags,
        ]
        .concat();
        let operation = if size == SMALL {
            Operation::CopyObject
        } else {
            Operation::CompleteMultipartUpload
        };
        killed_unanswered(&world, dir.path(), &command, operation).await;
        // The source is older than the copy, as if it had been written during the copy.
        for key in KEYS {
            world.put_object(SOURCE, key, Content::pattern(2, size_now), &aged(hour / 2));
        }
        let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
        assert_eq!(exit, 0, "{case}: {stdout} {stderr}");
        for key in KEYS {
            world.assert_equal(key, key);
        }
        let receipts = receipts_in(&dir.path().join("report.jsonl"));
        assert_eq!(receipts.len(), 3, "{case}: {receipts:?}");
        for receipt in receipts {
            assert_eq!(receipt["status"], "done", "{case}: {receipt}");
            assert_eq!(receipt["size"], size_now, "{case}: {receipt}");
        }
        world.assert_no_upload_is_left();
    }
}

/// With `when: missing`, only a copy of the run itself may be replaced.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_somebody_else_stays_where_only_missing_ones_are_copied() {
    let world = World::new().await;
    let hour = Duration::from_hours(1);
    for key in KEYS {
        world.put_with(key, 100, &aged(hour));
    }
    let dir = TempDir::new().unwrap();
    let command = [
        &["copy", "s3://source/", "s3://destination/"][..],
        &["--report", "report.jsonl", "--journal", "kept"],
        &["--provider", "aws", "--when", "missing"],
    ]
    .concat();
    killed_unanswered(&world, dir.path(), &command, Operation::CopyObject).await;
    for key in KEYS {
        world.put_object(SOURCE, key, Content::pattern(2, 100), &aged(hour / 2));
        world.put_object(
            DESTINATION,
            key,
            Content::pattern(3, 100),
            &aged(Duration::ZERO),
        );
    }
    let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    for receipt in receipts_in(&dir.path().join("report.jsonl")) {
        assert_eq!(receipt["reason"], "present", "{receipt}");
    }
    let kept = world.object(DESTINATION, "a").unwrap();
    assert_eq!(kept.content, Content::pattern(3, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_sent_unseen_is_compared_as_it_is_now() {
    for size_now in [100, 300] {
        let world = World::new().await;
        let dir = TempDir::new().unwrap();
        let files = dir.path().join("files");
        std::fs::create_dir(&files).unwrap();
        let write = |byte: u8, size: usize, age: Duration| {
            for key in KEYS {
                let path = files.join(key);
                std::fs::write(&path, vec![byte; size]).unwrap();
                let file = std::fs::File::options().write(true).open(&path).unwrap();
                file.set_modified(SystemTime::now() - age).unwrap();
            }
        };
        let hour = Duration::from_hours(1);
        write(b'1', 100, 2 * hour);
        let command = [
            &["copy", "./files", "s3://destination/"][..],
            &["--report", "report.jsonl", "--journal", "kept"],
            &["--provider", "aws"],
        ]
        .concat();
        killed_unanswered(&world, dir.path(), &command, Operation::PutObject).await;
        write(b'2', size_now, hour);
        let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
        assert_eq!(exit, 0, "{stdout} {stderr}");
        for key in KEYS {
            let object = world.object(DESTINATION, key).unwrap();
            assert_eq!(
                object.content,
                Content::bytes(vec![b'2'; size_now]),
                "{key} {size_now}"
            );
        }
    }
}

/// If tags are set after the copy, an object without them is not done.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_tags_were_not_set_is_finished_by_the_next_session() {
    for (signal, when) in [
        ("-KILL", "changed"),
        ("-KILL", "missing"),
        ("-TERM", "changed"),
        ("-TERM", "missing"),
    ] {
        let case = format!("{signal} {when}");
        let world = World::new().await;
        let mut spec = aged(Duration::from_hours(1));
        spec.attributes.tags = [("team".to_owned(), "blue".to_owned())].into();
        let content = Content::pattern(1, 11 * MIB);
        let store = world.sandbox.store();
        store.put_object(SOURCE, "a", content, &spec);
        let silent = Fault::on(Operation::PutObjectTagging)
            .when(When::Always)
            .then(Effect::StallBefore(None));
        world.add_fault(silent);
        let dir = TempDir::new().unwrap();
        let command = [
            &["copy", "s3://source/", "s3://destination/"][..],
            &["--report", "report.jsonl", "--journal", "kept"],
            &["--part-size", "5MiB", "--threshold", "5MiB"],
            &["--provider", "ceph", "--drain", "1s", "--when", when],
        ]
        .concat();
        let child = spawn_in(&world, dir.path(), &command);
        let tagging = async {
            while world.calls(Operation::PutObjectTagging) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), tagging)
            .await
            .expect("no tags are set");
        let id = child.id().to_string();
        std::process::Command::new("kill")
            .args([signal, &id])
            .status()
            .unwrap();
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
            .await
            .unwrap();
        world.sandbox.faults().clear();
        let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
        assert_eq!(exit, 0, "{case}: {stdout} {stderr}");
        world.assert_equal("a", "a");
        let parts = world.calls(Operation::UploadPartCopy);
        assert_eq!(parts, 3, "{case}: the bytes were copied again");
        let [receipt] = &receipts_in(&dir.path().join("report.jsonl"))[..] else {
            panic!("{case}: not one receipt");
        };
        assert_eq!(receipt["status"], "done", "{case}: {receipt}");
    }
}

/// s3haul reads a source in several requests, and only versions can be named in all of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_the_metadata_and_the_tags_of_one_object() {
    for more in [
        &["--threshold", "5MiB", "--part-size", "5MiB"][..],
        &["--tag", "x=y"],
    ] {
        let world = World::new().await;
        let put = |value: &str, age: Duration| {
            let spec = aged(age);
            let mut spec = spec.metadata("v", value);
            spec.attributes.tags = [("v".to_owned(), value.to_owned())].into();
            let content = Content::pattern(1, 11 * MIB);
            let store = world.sandbox.store();
            store.put_object(SOURCE, "a", content, &spec);
        };
        put("1", Duration::from_hours(1));
        let late = Fault::on(Operation::GetObjectTagging)
            .bucket(SOURCE)
            .first(1)
            .then(Effect::Delay(Duration::from_secs(3)));
        world.add_fault(late);
        let command = [
            &["copy", "s3://source/", "s3://destination/"][..],
            &["--provider", "aws", "--journal", "none"],
            more,
        ]
        .concat();
        let dir = TempDir::new().unwrap();
        let overwrite = async {
            while world.calls(Operation::GetObjectTagging) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            put("2", Duration::ZERO);
        };
        let ((exit, stdout, stderr), ()) =
            tokio::join!(run_in(&world, dir.path(), &command), overwrite);
        assert_eq!(exit, 0, "{stdout} {stderr}");
        let copy = world.object(DESTINATION, "a").unwrap();
        let value = copy.attributes.metadata.get("v").cloned();
        assert_eq!(copy.attributes.tags.get("v").cloned(), value, "{more:?}");
        assert_eq!(value.as_deref(), Some("2"), "{more:?}");
    }
}
