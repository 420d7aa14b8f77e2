//! Commands that fail: exit codes, causes, and remedies.

use std::fs;
use std::path::Path;

use rstest::rstest;
use s3haul::sandbox::{BucketOptions, Effect, Fault, Operation, When};
use serde_json::Value;

use crate::world::program::{at, command, process, process_at, run};
use crate::world::{DESTINATION, World};

#[tokio::test(flavor = "multi_thread")]
async fn failures_exit_1_and_are_reported_with_code_and_remedy() {
    let world = World::new().await;
    world.put("good", 10);
    world.put("bad", 10);
    world.deny(DESTINATION, Operation::CopyObject, "bad");
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.jsonl");
    let arguments = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--report",
        report.to_str().unwrap(),
    ];
    let (exit, stdout, stderr) = run(at(&world), &arguments).await;
    assert_eq!(exit, 1);
    assert!(
        stdout.contains("1 object copied") && stdout.contains("1 failed"),
        "{stdout}"
    );
    assert!(
        stderr.contains("s3://source/bad: CopyObject: AccessDenied")
            && stderr.contains("grant s3:PutObject on this object and s3:GetObject on its source"),
        "{stderr}"
    );
    let receipts = fs::read_to_string(report).unwrap();
    let bad: Value = receipts
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .find(|receipt: &Value| receipt["status"] == "failed")
        .unwrap();
    assert_eq!(bad["error"]["code"], "AccessDenied");
    assert!(bad["error"]["request_id"].is_string(), "{bad}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_upload_somebody_aborts_fails_with_the_answer_of_s3() {
    let world = World::new().await;
    let aborted = Effect::hook(|store| store.abort_uploads(DESTINATION));
    let fault = Fault::on(Operation::CompleteMultipartUpload).then(aborted);
    world.add_fault(fault);
    let mut command = at(&world);
    command.write_stdin(vec![7; 40 << 20]);
    let arguments = ["copy", "-", "s3://destination/dump", "--json"];
    let (exit, stdout, stderr) = run(command, &arguments).await;
    assert_eq!(exit, 1, "{stderr}");
    let receipt: Value = serde_json::from_str(stdout.lines().next().unwrap()).unwrap();
    let error = &receipt["error"];
    assert_eq!(error["code"], "NoSuchUpload", "{receipt}");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("somebody else ended the upload"),
        "{message}"
    );
}

#[rstest]
#[case::wrong_secret(
    3,
    "AWS_SECRET_ACCESS_KEY",
    "wrong",
    "SignatureDoesNotMatch",
    "AWS_PROFILE"
)]
#[case::unknown_key(3, "AWS_ACCESS_KEY_ID", "wrong", "InvalidAccessKeyId", "AWS_PROFILE")]
#[case::half_of_the_keys(3, "AWS_ACCESS_KEY_ID", "", "configuration", "set both, or neither")]
#[case::no_credentials(3, "AWS_", "", "no credentials", "AWS_PROFILE")]
#[case::unreachable(
    4,
    "AWS_ENDPOINT_URL_S3",
    "http://127.0.0.1:9",
    "no connection",
    "--endpoint-url"
)]
#[case::no_such_host(
    4,
    "AWS_ENDPOINT_URL_S3",
    "https://no-such-host.invalid",
    "no connection",
    "DNS"
)]
#[tokio::test(flavor = "multi_thread")]
async fn what_would_fail_every_object_is_refused_once(
    #[case] code: i32,
    #[case] name: &str,
    #[case] value: &str,
    #[case] word: &str,
    #[case] remedy: &str,
) {
    let world = World::new().await;
    world.put("k", 10);
    let mut command = at(&world);
    match (name, value) {
        ("AWS_", "") => command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY"),
        (name, "") => command.env_remove(name),
        (name, value) => command.env(name, value),
    };
    let arguments = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--patience",
        "1s",
    ];
    let (exit, stdout, stderr) = run(command, &arguments).await;
    assert_eq!((exit, stdout.as_str()), (code, ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one sentence: {stderr}");
    assert!(stderr.contains(word) && stderr.contains(remedy), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_be_used_is_refused_before_the_first_write() {
    let world = World::new().await;
    world.put("k", 10);
    let abroad = BucketOptions {
        region: Some("eu-west-1".to_owned()),
        ..BucketOptions::default()
    };
    world.sandbox.store().create_bucket("abroad", abroad);
    for (arguments, said) in [
        (
            vec!["s3://source/", "s3://nowhere/"],
            "nowhere: HTTP 404: the bucket does not exist",
        ),
        (
            vec!["s3://source/", "s3://abroad/", "--region", "us-east-1"],
            "set --region eu-west-1",
        ),
    ] {
        let (exit, _, stderr) = run(at(&world), &[&["copy"], arguments.as_slice()].concat()).await;
        assert_eq!(exit, 3, "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    assert_eq!(world.calls(Operation::CopyObject), 0);
    let (exit, _, stderr) = run(at(&world), &["copy", "s3://source/", "s3://abroad/"]).await;
    assert_eq!(exit, 0, "a region that nobody named is found: {stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_named_as_the_cause() {
    let world = World::new().await;
    let skew = Fault::on_any()
        .when(When::Always)
        .then(Effect::Error(403, "RequestTimeTooSkewed"));
    world.add_fault(skew);
    let (exit, _, stderr) = run(at(&world), &["copy", "s3://source/", "s3://destination/"]).await;
    assert!(
        exit == 3 && stderr.contains("RequestTimeTooSkewed") && stderr.contains("NTP"),
        "{exit} {stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unwritable_report_is_an_error_and_the_copies_stay() {
    let world = World::new().await;
    world.put("k", 10);
    let copy = ["copy", "s3://source/", "s3://destination/", "--report"];
    let (exit, _, stderr) = run(at(&world), &[&copy[..], &["/dev/full"]].concat()).await;
    assert!(
        exit == 1 && stderr.contains("lacks receipts: No space left"),
        "{exit} {stderr}"
    );
    assert_eq!(world.keys(DESTINATION), ["k"]);
    let (exit, _, stderr) = run(at(&world), &[&copy[..], &["/proc/nope/report"]].concat()).await;
    assert!(
        exit == 3 && stderr.contains("choose another path"),
        "{exit} {stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_sent_are_named() {
    use std::os::unix::ffi::OsStrExt;
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("fine"), "x").unwrap();
    fs::write(
        dir.path()
            .join(Path::new(std::ffi::OsStr::from_bytes(b"bad\xff"))),
        "x",
    )
    .unwrap();
    let (exit, _, stderr) = run(
        at(&world),
        &["copy", dir.path().to_str().unwrap(), "s3://destination/"],
    )
    .await;
    assert!(exit == 1 && stderr.contains("not UTF-8"), "{exit} {stderr}");
    assert_eq!(world.keys(DESTINATION), ["fine"]);
    let (exit, _, stderr) = run(at(&world), &["copy", "./no-such-file", "s3://destination/"]).await;
    assert!(
        exit == 3 && stderr.contains("no file or directory ./no-such-file"),
        "{exit} {stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_the_place_of_a_file_is_refused_and_not_taken_for_empty() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap();
    let (exit, _, stderr) = run(
        at(&world),
        &["copy", pipe.to_str().unwrap(), "s3://destination/k"],
    )
    .await;
    assert!(
        exit == 1 && stderr.contains("no regular file"),
        "{exit} {stderr}"
    );
    assert!(world.keys(DESTINATION).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_on_the_command_line_exit_2_with_the_remedy() {
    for (arguments, said) in [
        (vec!["copy", "s3://a-b/x/", "s3://a-b/x/y/"], "exclude"),
        (
            vec!["copy", "s3://a-b/x/", "./dir"],
            "the destination must be in S3",
        ),
        (
            vec!["copy", "s3://a-b/x/", "s3://c-d/", "--part-size", "64M"],
            "64MiB",
        ),
        (
            vec!["copy", "s3://a-b/x/", "s3://c-d/", "--part-size", "1MiB"],
            "5MiB",
        ),
        (
            vec!["copy", "s3://a-b/x/", "s3://c-d/", "--provider", "amazon"],
            "seaweedfs",
        ),
        (
            vec![
                "copy",
                "s3://a-b/x/",
                "s3://c-d/",
                "--preserve",
                "tags=keep",
            ],
            "policies: require, try",
        ),
        (
            vec!["copy", "s3://a-b/x/", "s3://c-d/", "--tag", "a"],
            "name=value",
        ),
        (
            vec![
                "copy",
                "s3://a-b/x/",
                "s3://c-d/",
                "--preserve",
                "tags=replace",
            ],
            "add --tag",
        ),
        (
            vec!["copy", "s3://a-b/x/", "s3://c-d/", "--sse-kms-key-id", "k"],
            "add --sse aws:kms",
        ),
        (
            vec![
                "copy",
                "s3://a-b/x/",
                "s3://c-d/",
                "--customer-key",
                "c2VjcmV0",
            ],
            "env:NAME or file:PATH",
        ),
        (vec!["run", "/no/such/job.yaml"], "No such file"),
        (vec!["uploads", "abort", "s3://a-b/x"], "UPLOAD_ID"),
        (
            vec!["copy", "s3://a-b/x/", "s3://c-d/", "--version-id", "v"],
            "exactly one source",
        ),
    ] {
        let (exit, stdout, stderr) = run(command(), &arguments).await;
        assert_eq!((exit, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
}

/// A limit on the size of files acts like a full disk: it is reported and does not kill the
/// process.
#[rstest]
#[case::report(1, "report.jsonl", "none")]
#[case::journal(4, "journal", "journal")]
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_the_size_of_files_is_reported(
    #[case] code: i32,
    #[case] file: &str,
    #[case] journal: &str,
) {
    let world = World::new().await;
    for number in 0..60 {
        world.put(&format!("{}-{number}", "k".repeat(200)), 10);
    }
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.jsonl");
    let program = process_at(&world);
    let mut shell = std::process::Command::new("/bin/sh");
    shell
        .args(["-c", "ulimit -f 4; exec \"$0\" \"$@\""])
        .arg(program.get_program());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let mut arguments = vec!["copy", "s3://source/", "s3://destination/"];
    if journal == "none" {
        arguments.extend(["--report", report.to_str().unwrap()]);
    }
    shell.env("S3HAUL_JOURNAL", journal).current_dir(dir.path());
    let mut shell = assert_cmd::Command::from_std(shell);
    shell.timeout(std::time::Duration::from_mins(1));
    let (exit, stdout, stderr) = run(shell, &arguments).await;
    assert_eq!(exit, code, "{stdout}{stderr}");
    assert!(
        stderr.contains(file) && stderr.contains("File too large"),
        "{stderr}"
    );
}

/// The message names the stream that cannot be written.
#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_named() {
    let mut program = process();
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = program
        .arg("version")
        .stdout(full)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("standard output: No space left"),
        "{stderr}"
    );
}

/// A panic before the command begins also has the exit code of a bug. Here, no thread can be
/// started.
#[test]
fn a_panic_outside_of_the_command_has_the_exit_code_of_a_bug() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("termination-log");
    let ended = process()
        .env("RUST_MIN_STACK", (1_u64 << 47).to_string())
        .env("S3HAUL_TERMINATION_LOG", &log)
        .args(["run", "job.yaml"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(70), "{stderr}");
    assert!(stderr.contains("has a bug: it panicked at"), "{stderr}");
    let reason = fs::read_to_string(log).unwrap();
    assert!(reason.contains("has a bug"), "{reason}");
}
