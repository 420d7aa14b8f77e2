//! The problems that `check` finds before a run, and the requests that it sends.

use std::fs;

use s3haul::sandbox::{Effect, Fault, Operation, SandboxOptions};
use serde_json::Value;
use tempfile::TempDir;

use crate::world::program::{COPY_ALL, at, run, run_in};
use crate::world::{DESTINATION, World};

async fn check(world: &World, manifest: &str, more: &[&str]) -> (i32, String, String) {
    let dir = TempDir::new().unwrap();
    let job = dir.path().join("job.yaml");
    fs::write(&job, manifest).unwrap();
    run(
        at(world),
        &[&["check", job.to_str().unwrap()], more].concat(),
    )
    .await
}

fn manifest_with(transfers: &[&str]) -> String {
    let head = "version: 1\nendpoints: {default: {provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}}\ntransfers:\n";
    let lines: Vec<_> = transfers
        .iter()
        .map(|transfer| format!("  - {transfer}\n"))
        .collect();
    let lines = lines.concat();
    format!("{head}{lines}")
}

fn refuse_all(world: &World, operation: Operation) {
    world.add_fault(Fault::on(operation).then(Effect::Error(403, "AccessDenied")));
}

/// Denies lists of one prefix. The tests tell their buckets apart by prefixes.
fn deny_list(world: &World, prefix: &str) {
    let fault = Fault::on(Operation::ListObjectsV2).key(prefix);
    world.add_fault(fault.then(Effect::Error(403, "AccessDenied")));
}

fn assert_nothing_written(world: &World) {
    for operation in [
        Operation::PutObject,
        Operation::CopyObject,
        Operation::CreateMultipartUpload,
    ] {
        assert_eq!(world.calls(operation), 0, "{operation:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_may_be_listed_is_ok_and_writing_is_not_checked() {
    let world = World::with_objects(["k"], 9).await;
    refuse_all(&world, Operation::CopyObject);
    let (exit, stdout, stderr) = check(&world, COPY_ALL, &[]).await;
    assert_eq!(exit, 0, "{stdout}{stderr}");
    let lines: Vec<_> = stdout.lines().collect();
    let key = SandboxOptions::default().access_key;
    let last = &key[key.len() - 4..];
    assert!(
        lines[0].starts_with(&format!("default: access key …{last} (")),
        "{stdout}"
    );
    assert!(
        lines[0].contains("AWS_ACCESS_KEY_ID") && lines[0].contains(world.sandbox.url()),
        "{stdout}"
    );
    assert!(
        lines[1].starts_with("ok  transfer-1: s3://source/ -> s3://destination/"),
        "{stdout}"
    );
    assert_eq!(
        lines[2..],
        ["    not checked: writing to s3://destination/; --probe tries it"]
    );
    // One HEAD and one list per bucket, one HEAD of an object.
    let counts = [
        Operation::HeadBucket,
        Operation::ListObjectsV2,
        Operation::HeadObject,
    ]
    .map(|op| world.calls(op));
    assert_eq!((counts, world.sandbox.calls().total()), ([2, 2, 1], 5));
    assert_nothing_written(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_may_not_be_listed_fails() {
    let world = World::with_objects(["k"], 9).await;
    deny_list(&world, "one/");
    let job = manifest_with(&["{from: {s3: s3://source/}, to: {s3: s3://destination/one/}}"]);
    let (exit, stdout, _) = check(&world, &job, &[]).await;
    assert_eq!(exit, 3, "{stdout}");
    assert!(stdout.contains("\nFAIL  transfer-1: "), "{stdout}");
    assert!(
        stdout.contains("    may not list s3://destination/one/"),
        "{stdout}"
    );
    assert!(stdout.contains(": AccessDenied"), "{stdout}");
    assert_eq!(world.calls(Operation::ListObjectsV2), 2);
    // What is not compared needs no list.
    let job = manifest_with(&[
        "{from: {s3: s3://source/}, to: {s3: s3://destination/one/}, when: always}",
    ]);
    let (exit, stdout, _) = check(&world, &job, &[]).await;
    assert!(
        exit == 0 && stdout.contains("\nok  transfer-1: "),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_would_be_refused_is_not_probed() {
    let world = World::with_objects(["k"], 9).await;
    refuse_all(&world, Operation::HeadObject);
    let (exit, stdout, stderr) = check(&world, COPY_ALL, &["--probe"]).await;
    assert!(
        exit == 3 && stderr.contains("are not probed"),
        "{exit} {stdout} {stderr}"
    );
    assert_nothing_written(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_may_be_listed_and_not_read_fails() {
    let world = World::with_objects(["k"], 9).await;
    refuse_all(&world, Operation::HeadObject);
    let (exit, stdout, _) = check(&world, COPY_ALL, &["--json"]).await;
    assert_eq!(exit, 3, "{stdout}");
    let lines: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["endpoint"], "default");
    assert!(
        lines[0]["identity"]
            .as_str()
            .unwrap()
            .starts_with("default: access key …"),
        "{stdout}"
    );
    assert_eq!(
        (&lines[1]["transfer"], &lines[1]["status"]),
        (&"transfer-1".into(), &"failed".into())
    );
    let finding = &lines[1]["findings"][0];
    assert_eq!(finding["status"], "failed");
    let said =
        "may not read s3://source/k with the credentials of `default`, which sign the copies: ";
    assert!(
        finding["text"].as_str().unwrap().starts_with(said),
        "{finding}"
    );
    assert_eq!(lines[1]["findings"][1]["status"], "not-checked");
    assert_nothing_written(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_may_not_be_listed_fails() {
    let world = World::with_objects(["k"], 9).await;
    deny_list(&world, "data/");
    let job = manifest_with(&["{from: {s3: s3://source/data/}, to: {s3: s3://destination/}}"]);
    let (exit, stdout, _) = check(&world, &job, &[]).await;
    assert_eq!(exit, 3, "{stdout}");
    assert!(
        stdout.contains("    may not list s3://source/data/: AccessDenied"),
        "{stdout}"
    );
    assert_eq!(world.calls(Operation::HeadObject), 0);
}

/// The destination's endpoint signs the copies, so its credentials must be able to read the source.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_object_is_read_by_the_endpoint_that_signs_the_copies() {
    let world = World::with_objects(["k"], 9).await;
    refuse_all(&world, Operation::HeadObject);
    let job = "\
version: 1
endpoints:
  one: {provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}
  two: {provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}
transfers:
  - {from: {s3: s3://source/, endpoint: one}, to: {s3: s3://destination/, endpoint: two}}
";
    let (exit, stdout, stderr) = check(&world, job, &[]).await;
    assert_eq!(exit, 3, "{stdout}{stderr}");
    assert!(
        stdout.contains("with the credentials of `two`, which sign the copies"),
        "{stdout}"
    );
    for endpoint in ["one", "two"] {
        let count = stdout.matches(&format!("{endpoint}: access key …")).count();
        assert_eq!(count, 1, "{stdout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_source_is_a_warning_or_a_failure() {
    let world = World::with_objects(["k"], 9).await;
    for (empty, exit, word) in [
        ("", 0, "warning"),
        (", empty: fail", 1, "FAIL"),
        (", empty: ok", 0, "ok"),
    ] {
        let transfer =
            format!("{{from: {{s3: s3://source/smal/}}, to: {{s3: s3://destination/}}{empty}}}");
        let (found, stdout, stderr) = check(&world, &manifest_with(&[&transfer]), &[]).await;
        assert_eq!(found, exit, "{stdout}{stderr}");
        assert!(
            stdout.contains(&format!("\n{word}  transfer-1: ")),
            "{stdout}"
        );
        assert_eq!(
            stdout.contains("    nothing below s3://source/smal/\n"),
            word != "ok",
            "{stdout}"
        );
    }
    assert_eq!(world.calls(Operation::HeadObject), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_an_earlier_transfer_writes_may_be_empty() {
    let world = World::with_objects(["k"], 9).await;
    let job = manifest_with(&[
        "{name: first, from: {s3: s3://source/}, to: {s3: s3://destination/a/}}",
        "{name: second, from: {s3: s3://destination/a/}, to: {s3: s3://destination/b/}, empty: fail}",
    ]);
    let (exit, stdout, stderr) = check(&world, &job, &[]).await;
    assert_eq!(exit, 0, "{stdout}{stderr}");
    let said =
        "    not checked: the objects below s3://destination/a/, which `first` writes first\n";
    assert!(
        stdout.contains("\nok  second: ") && stdout.contains(said),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_are_checked_against_the_first_key() {
    let world = World::with_objects(["k"], 9).await;
    for (select, said) in [
        (
            "include: ['x*']",
            Some("no key below s3://source/ matches `x*`"),
        ),
        ("include: ['k*']", None),
        (
            "include: ['*.csv']",
            Some("not checked: whether the filters match an object below s3://source/; `k`"),
        ),
        (
            "larger_than: 1GiB",
            Some("not checked: whether the filters match an object"),
        ),
    ] {
        let transfer =
            format!("{{from: {{s3: s3://source/, {select}}}, to: {{s3: s3://destination/}}}}");
        let (exit, stdout, stderr) = check(&world, &manifest_with(&[&transfer]), &[]).await;
        assert_eq!(exit, 0, "{select}: {stdout}{stderr}");
        match said {
            Some(said) => assert!(stdout.contains(said), "{select}: {stdout}"),
            None => assert!(
                !stdout.contains("filters") && stdout.contains("\nok  "),
                "{stdout}"
            ),
        }
    }
}

/// The object that consoles create for an empty folder is never copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_object_alone_is_nothing_to_copy() {
    let world = World::new().await;
    world.put("data/", 9);
    let job = manifest_with(&["{from: {s3: s3://source/data/}, to: {s3: s3://destination/}}"]);
    let (_, stdout, _) = check(&world, &job, &[]).await;
    assert!(
        stdout.contains("    nothing below s3://source/data/\n"),
        "{stdout}"
    );
    world.put("data/k", 9);
    let (_, stdout, _) = check(&world, &job, &[]).await;
    assert!(stdout.contains("\nok  "), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verbose_run_logs_the_identity_once_per_endpoint() {
    let world = World::with_objects(["k"], 9).await;
    for (flags, count) in [(&[][..], 0), (&["-v"], 1)] {
        let words = [&["copy", "s3://source/", "s3://destination/"], flags].concat();
        let (exit, _, stderr) = run(at(&world), &words).await;
        assert_eq!(exit, 0, "{stderr}");
        assert_eq!(stderr.matches("access key …").count(), count, "{stderr}");
    }
    assert_eq!(world.keys(DESTINATION), ["k"]);
}

/// Runs a command with a job in its own directory, in which the job keeps its journal unless it
/// names another place.
async fn check_in(
    dir: &TempDir,
    world: &World,
    command: &str,
    journal: &str,
) -> (i32, String, String) {
    let transfer = manifest_with(&["{from: {s3: s3://source/}, to: {s3: s3://destination/}}"]);
    fs::write(
        dir.path().join("job.yaml"),
        format!("name: lake\n{transfer}{journal}"),
    )
    .unwrap();
    run_in(world, dir.path(), &[command, "job.yaml"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_is_looked_at_and_not_written() {
    let (world, dir) = (World::with_objects(["k"], 9).await, TempDir::new().unwrap());
    let (exit, stdout, stderr) = check_in(&dir, &world, "check", "").await;
    assert!(
        exit == 0 && stdout.contains("\nok  journal: .s3haul/lake\n"),
        "{exit} {stdout}{stderr}"
    );
    assert!(!dir.path().join(".s3haul").exists(), "it only looks");
    let prefix = "journal: s3://destination/journal/\n";
    let (exit, stdout, stderr) = check_in(&dir, &world, "check", prefix).await;
    assert_eq!(exit, 0, "{stdout}{stderr}");
    let said = "\nok  journal: s3://destination/journal/\n    not checked: writing to s3://destination/journal/\n";
    assert!(stdout.contains(said), "{stdout}");
    let report = "report: {s3: s3://destination/reports/}\n";
    let (exit, stdout, stderr) = check_in(&dir, &world, "check", report).await;
    let said = "\nok  report: s3://destination/reports/\n    not checked: writing to s3://destination/reports/\n";
    assert!(exit == 0 && stdout.contains(said), "{stdout}{stderr}");
    assert_nothing_written(&world);
    let (exit, stdout, _) = check_in(&dir, &world, "check", "journal: none\n").await;
    assert!(exit == 0 && !stdout.contains("journal:"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_used_fails_in_check_as_in_run() {
    let (world, dir) = (World::with_objects(["k"], 9).await, TempDir::new().unwrap());
    fs::write(dir.path().join("file"), "no directory").unwrap();
    deny_list(&world, "forbidden/");
    for (journal, said) in [
        ("journal: file/x\n", "file is not a directory"),
        ("journal: s3://destination/forbidden/\n", "AccessDenied"),
        ("journal: s3://missing/journal/\n", "missing"),
        (
            "report: {s3: s3://destination/forbidden/}\n",
            "AccessDenied",
        ),
        ("report: {s3: s3://missing/reports/}\n", "missing"),
    ] {
        let (exit, stdout, stderr) = check_in(&dir, &world, "check", journal).await;
        assert_eq!(exit, 3, "{journal}: {stdout}{stderr}");
        assert!(
            format!("{stdout}{stderr}").contains(said),
            "{journal}: {stdout}{stderr}"
        );
        let (exit, _, stderr) = check_in(&dir, &world, "run", journal).await;
        assert_eq!(exit, 3, "{journal}: {stderr}");
    }
    // The default place was not requested, so a run continues without a journal.
    fs::write(dir.path().join(".s3haul"), "no directory").unwrap();
    let (exit, stdout, stderr) = check_in(&dir, &world, "check", "").await;
    assert!(
        exit == 0 && stdout.contains("\nwarning  journal: .s3haul/lake\n"),
        "{stdout}{stderr}"
    );
    assert!(
        stdout.contains("    the run keeps no journal: .s3haul is not a directory\n"),
        "{stdout}"
    );
}
