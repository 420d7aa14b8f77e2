//! Versions and archives on the command line.

use std::fs;

use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation, VersionInfo};
use serde_json::Value;

use super::{at, ids, there, write, writes};
use crate::reports::receipts_in;
use crate::world::program::{at as command_at, run};
use crate::world::{DESTINATION, SOURCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn all_versions_are_planned_and_copied() {
    let world = World::versioned().await;
    write(&world, SOURCE, "a/k", "xMy");
    write(&world, SOURCE, "a/l", "xy");
    let arguments = [
        "copy",
        "s3://source/a/",
        "s3://destination/",
        "--versions",
        "all",
        "--provider",
        "aws",
    ];
    let (exit, stdout, stderr) = run(
        command_at(&world),
        &[&arguments[..], &["--dry-run"]].concat(),
    )
    .await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(stdout.contains("to copy   4 objects"), "{stdout}");
    assert!(stdout.contains("1 key with a delete marker"), "{stdout}");
    assert!(
        stdout.contains("(HeadObject 4, CopyObject 4, DeleteObject 1)"),
        "{stdout}"
    );
    assert_eq!(writes(&world), 0);
    let (exit, stdout, stderr) = run(command_at(&world), &arguments).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(stdout.contains("4 objects copied and proven"), "{stdout}");
    assert!(stdout.contains("1 delete marker written"), "{stdout}");
    assert_eq!(
        (there(&world, "k").as_str(), there(&world, "l").as_str()),
        ("xMy", "xy")
    );
    let (exit, stdout, _) = run(
        command_at(&world),
        &[&arguments[..], &["--dry-run", "--json"]].concat(),
    )
    .await;
    let totals: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(
        (exit, &totals["totals"]["skipped_objects"]),
        (0, &5.into()),
        "{stdout}"
    );
}

/// A retry continues the key that failed in the middle, and looks at no other key.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_continues_the_keys_that_failed() {
    let world = World::versioned().await;
    for key in ["a", "b", "c"] {
        write(&world, SOURCE, key, "xMyz");
    }
    let refused = Fault::on(Operation::CopyObject)
        .key("b")
        .nth(2)
        .then(Effect::Error(400, "InvalidRequest"));
    world.add_fault(refused);
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("night.jsonl");
    let report = report.to_str().unwrap();
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--versions",
        "all",
        "--provider",
        "aws",
    ];
    let (exit, stdout, _) = run(
        command_at(&world),
        &[&copy[..], &["--report", report]].concat(),
    )
    .await;
    assert_eq!((exit, there(&world, "b").as_str()), (1, "xM"), "{stdout}");
    world.sandbox.calls().clear();
    let (exit, stdout, stderr) = run(command_at(&world), &["retry", report]).await;
    assert_eq!(
        (exit, there(&world, "b").as_str()),
        (0, "xMyz"),
        "{stdout} {stderr}"
    );
    assert_eq!(world.calls(Operation::CopyObject), 2);
    let listed = world.sandbox.calls().of(Operation::ListObjectVersions);
    assert!(
        listed.len() == 2 && listed.iter().all(|call| call.key == "b"),
        "{listed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_and_a_time_are_flags_and_exclude_each_other() {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "abc");
    let old = ids(&world, SOURCE, "k").remove(0);
    let to = [
        "copy",
        "s3://source/k",
        "s3://destination/",
        "--provider",
        "aws",
    ];
    let (exit, _, stderr) = run(
        command_at(&world),
        &[&to[..], &["--version-id", &old]].concat(),
    )
    .await;
    assert_eq!((exit, there(&world, "k").as_str()), (0, "a"), "{stderr}");
    let time = jiff::Timestamp::try_from(at(1)).unwrap().to_string();
    let (exit, _, stderr) = run(command_at(&world), &[&to[..], &["--as-of", &time]].concat()).await;
    assert_eq!((exit, there(&world, "k").as_str()), (0, "ab"), "{stderr}");
    for wrong in [
        &["--version-id", "x", "--as-of", "2026-01-01T00:00:00Z"][..],
        &["--versions", "all", "--as-of", "2026-01-01T00:00:00Z"],
        &["--restore-days", "3"],
        &["--archived", "skip", "--restore-tier", "bulk"],
        &["--as-of", "yesterday"],
    ] {
        let (exit, _, stderr) = run(command_at(&world), &[&to[..], wrong].concat()).await;
        assert_eq!(exit, 2, "{wrong:?}: {stderr}");
    }
}

/// A source that is typed like one object and is many: a bucket without a slash, a prefix that
/// `--recursive` makes, and more than one source.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_many_objects_is_refused() {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "ab");
    let old = ids(&world, SOURCE, "k").remove(0);
    let directory = tempfile::tempdir().unwrap();
    let local = directory.path().to_str().unwrap();
    let to = "s3://destination/";
    for words in [
        &["s3://source", to][..],
        &["s3://source/", to],
        &["s3://source/k*", to],
        &["s3://source/k", to, "--recursive"],
        &["s3://source/k", "s3://source/k", to],
        &[local, to],
        &["-", to],
    ] {
        let copy = [&["copy"][..], words, &["--version-id", &old]].concat();
        let (exit, _, stderr) = run(command_at(&world), &copy).await;
        assert!(
            exit == 2 && stderr.contains("--version-id names the version of one object"),
            "{words:?}: {exit} {stderr}"
        );
    }
    assert_eq!(writes(&world), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_without_versions_is_refused_by_all_commands() {
    let world = World::new().await;
    write(&world, SOURCE, "k", "a");
    let job = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let manifest = "\
version: 1
endpoints: {default: {provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}}
transfers:
  - {from: {s3: s3://source/, versions: all}, to: {s3: s3://destination/}}
";
    fs::write(job.path(), manifest).unwrap();
    for command in ["check", "plan", "run"] {
        let (exit, _, stderr) =
            run(command_at(&world), &[command, job.path().to_str().unwrap()]).await;
        assert_eq!(exit, 3, "{command}: {stderr}");
        assert!(
            stderr.contains("turn on the bucket's versioning"),
            "{command}: {stderr}"
        );
    }
    assert_eq!(writes(&world), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_are_announced_and_waited_for() {
    let world = World::versioned().await;
    for (key, class) in [
        ("cold", "GLACIER"),
        ("deep", "DEEP_ARCHIVE"),
        ("warm", "STANDARD"),
    ] {
        let spec = ObjectSpec::default()
            .storage_class(class)
            .last_modified(at(0))
            .metadata("name", "a");
        world.put_with(key, 1 << 20, &spec);
    }
    let arguments = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
    ];
    let with = |more: &[&'static str]| [&arguments[..], more].concat();
    let (exit, stdout, _) = run(command_at(&world), &with(&["--dry-run"])).await;
    assert_eq!(exit, 1, "they would fail: {stdout}");
    assert!(
        stdout.contains("archived  2 objects, 2MiB (DEEP_ARCHIVE 1, GLACIER 1); they fail"),
        "{stdout}"
    );
    let restore = with(&[
        "--archived",
        "restore",
        "--restore-tier",
        "bulk",
        "--restore-days",
        "2",
    ]);
    let (exit, stdout, _) = run(command_at(&world), &[&restore[..], &["--dry-run"]].concat()).await;
    assert_eq!(exit, 0);
    assert!(
        stdout.contains("restored by tier bulk for 2 days, less than $0.01"),
        "{stdout}"
    );
    assert!(stdout.contains("RestoreObject 2"), "{stdout}");
    for _ in 0..2 {
        let (exit, stdout, stderr) = run(command_at(&world), &restore).await;
        assert_eq!(exit, 5, "not done, and nothing failed: {stderr}");
        assert!(stdout.contains("waiting for restores"), "{stdout}");
        assert!(stdout.contains("2 being restored"), "{stdout}");
    }
    world.sandbox.store().finish_restores(SOURCE);
    let (exit, stdout, stderr) = run(command_at(&world), &restore).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
}

/// Writes two versions with tags.
fn write_tagged(world: &World, key: &str) {
    for hours in [0, 1] {
        let spec = ObjectSpec::default()
            .last_modified(at(hours))
            .metadata("name", "x")
            .tag("a", "b");
        let content = Content::bytes(format!("version {hours}"));
        world.put_object(SOURCE, key, content, &spec);
    }
}

/// Returns the number of versions of a copy, and of those that have tags.
fn tagged(world: &World, key: &str) -> (usize, usize) {
    let versions = world.sandbox.store().versions(DESTINATION, key);
    let has_tags = |version: &&VersionInfo| match version {
        VersionInfo::Object(object) => !object.attributes.tags.is_empty(),
        VersionInfo::DeleteMarker(_) => false,
    };
    (versions.len(), versions.iter().filter(has_tags).count())
}

/// A repair would append all versions again.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_of_losses_appends_no_history_again() {
    let world = World::versioned().await;
    write_tagged(&world, "k");
    world.deny(DESTINATION, Operation::PutObjectTagging, "");
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("r.jsonl");
    let report = report.to_str().unwrap();
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--versions",
        "all",
        "--provider",
        "aws",
        "--report",
        report,
    ];
    let (exit, stdout, stderr) = run(command_at(&world), &copy).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stdout.contains("tags") && !stdout.contains("--losses"),
        "{stdout}"
    );
    assert_eq!(tagged(&world, "k"), (2, 0));
    world.sandbox.store().allow_all();
    let (exit, stdout, stderr) = run(command_at(&world), &["retry", report]).await;
    assert!(
        exit == 0 && stdout.contains("nothing to do") && !stdout.contains("--losses"),
        "{stdout} {stderr}"
    );
    let (exit, _, stderr) = run(command_at(&world), &["retry", "--losses", report]).await;
    assert!(
        exit == 2
            && stderr.contains("of all versions")
            && stderr.contains("delete all versions of the keys at s3://destination/ permanently"),
        "{exit} {stderr}"
    );
    assert_eq!(tagged(&world, "k"), (2, 0));
    // The advice of the message.
    let bucket = world.bucket(DESTINATION).await;
    let key = "k".parse().unwrap();
    for id in ids(&world, DESTINATION, "k") {
        bucket.delete_object(&key, Some(&id), None).await.unwrap();
    }
    let (exit, stdout, stderr) = run(command_at(&world), &copy).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    assert_eq!(tagged(&world, "k"), (2, 2));
}

/// A history does not keep the copies of other transfers from being repaired.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_of_losses_leaves_out_only_histories() {
    let world = World::versioned().await;
    write_tagged(&world, "a/k");
    write_tagged(&world, "b/k");
    world.deny(DESTINATION, Operation::PutObjectTagging, "");
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job.yaml");
    let manifest = "\
version: 1
endpoints: {default: {provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}}
transfers:
  - {from: {s3: s3://source/a/}, to: {s3: s3://destination/a/}}
  - {from: {s3: s3://source/b/, versions: all}, to: {s3: s3://destination/b/}}
";
    fs::write(&job, manifest).unwrap();
    let report = dir.path().join("r.jsonl");
    let report = report.to_str().unwrap();
    let words = ["run", job.to_str().unwrap(), "--report", report];
    let (exit, stdout, stderr) = run(command_at(&world), &words).await;
    assert!(
        exit == 0 && stdout.contains("retry --losses"),
        "{exit} {stdout} {stderr}"
    );
    assert_eq!(
        (tagged(&world, "a/k"), tagged(&world, "b/k")),
        ((1, 0), (2, 0))
    );
    world.sandbox.store().allow_all();
    let (_, stdout, _) = run(command_at(&world), &["retry", report]).await;
    assert!(
        stdout.contains("1 copy of this report lacks attributes"),
        "{stdout}"
    );
    let (exit, stdout, stderr) = run(command_at(&world), &["retry", "--losses", report]).await;
    assert!(
        exit == 0 && stderr.contains("the copies at s3://destination/b/ are of all versions"),
        "{exit} {stdout} {stderr}"
    );
    assert_eq!(
        (tagged(&world, "a/k"), tagged(&world, "b/k")),
        ((1, 1), (2, 0))
    );
}

/// Each object that a retry names has a receipt, and an older version does not replace one that is
/// gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_point_in_time_copies_the_versions_that_failed() {
    let world = World::versioned().await;
    for (key, versions) in [("gone", "ab"), ("kept", "ab"), ("single", "a")] {
        write(&world, SOURCE, key, versions);
    }
    world.deny(DESTINATION, Operation::CopyObject, "");
    let dir = tempfile::tempdir().unwrap();
    let time = jiff::Timestamp::try_from(at(2)).unwrap().to_string();
    let copy = async |source: &str, report: &str| {
        let report = dir.path().join(report).display().to_string();
        let words = ["copy", source, "s3://destination/", "--as-of", &time];
        let words = [&words[..], &["--provider", "aws", "--report", &report]].concat();
        let (exit, stdout, stderr) = run(command_at(&world), &words).await;
        assert_eq!(exit, 1, "{stdout} {stderr}");
        report
    };
    let all = copy("s3://source/", "all.jsonl").await;
    let one = copy("s3://source/gone", "one.jsonl").await;
    world.sandbox.store().allow_all();
    for key in ["gone", "single"] {
        let latest = ids(&world, SOURCE, key).pop().unwrap();
        world.delete_version(SOURCE, key, &latest).await;
    }
    for (report, retried, failed) in [
        (all, "all.retry-1.jsonl", &["gone", "single"][..]),
        (one, "one.retry-1.jsonl", &["gone"]),
    ] {
        let (exit, stdout, stderr) = run(command_at(&world), &["retry", &report]).await;
        assert_eq!(exit, 1, "{stdout} {stderr}");
        let receipts = receipts_in(&dir.path().join(retried));
        let not_found = receipts
            .iter()
            .filter(|line| line["error"]["kind"] == "not-found");
        let keys = not_found.map(|line| line["source"].as_str().unwrap().to_owned());
        let expected = failed.iter().map(|key| format!("s3://source/{key}"));
        assert!(keys.eq(expected), "{receipts:?}");
    }
    let copied = ["gone", "kept", "single"].map(|key| there(&world, key));
    assert_eq!(copied, ["", "b", ""]);
}
