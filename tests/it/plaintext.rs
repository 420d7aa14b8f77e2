//! s3haul sends credentials unencrypted only if that is allowed, and customer keys never.

use std::fs;
use std::process::Command;

use rstest::rstest;

use crate::world::program::{command, run};

/// Runs the program with credentials and these variables. Nothing listens at the hosts that the
/// tests name.
async fn ended(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = command();
    command
        .env("AWS_ACCESS_KEY_ID", "AKID")
        .env("AWS_SECRET_ACCESS_KEY", "hunter2");
    command.envs(variables.iter().copied());
    let (exit, _, stderr) = run(command, arguments).await;
    (exit, stderr)
}

const COPY: [&str; 5] = ["copy", "s3://from/", "s3://dest/", "--patience", "1s"];
const ELSEWHERE: &str = "http://s3.invalid";

#[rstest]
#[case::flag(2, &["--endpoint-url", ELSEWHERE], &[], "")]
#[case::variable(3, &[], &[("AWS_ENDPOINT_URL_S3", ELSEWHERE)], "(AWS_ENDPOINT_URL_S3)")]
#[case::all_services(3, &[], &[("AWS_ENDPOINT_URL", ELSEWHERE)], "(AWS_ENDPOINT_URL)")]
#[case::sts(3, &[], &[("AWS_ENDPOINT_URL_STS", ELSEWHERE)], "STS at http://s3.invalid")]
#[tokio::test(flavor = "multi_thread")]
async fn plain_http_must_be_allowed(
    #[case] code: i32,
    #[case] flags: &[&str],
    #[case] variables: &[(&str, &str)],
    #[case] origin: &str,
) {
    let arguments = [&COPY[..], flags].concat();
    let (exit, stderr) = ended(&arguments, variables).await;
    assert_eq!(exit, code, "{stderr}");
    assert!(
        stderr.contains("s3.invalid") && stderr.contains("is plain HTTP"),
        "{stderr}"
    );
    assert!(
        stderr.contains("--allow-http") && stderr.contains(origin),
        "{stderr}"
    );
    assert_eq!(stderr.matches("--allow-http").count(), 1, "{stderr}");
    if !origin.starts_with("STS") {
        // The request is now sent, and nobody answers.
        let (exit, stderr) = ended(&[&arguments[..], &["--allow-http"]].concat(), variables).await;
        assert_eq!(exit, 4, "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn customer_keys_are_never_sent_over_plain_http() {
    let directory = tempfile::tempdir().unwrap();
    let (job, key) = (
        directory.path().join("job.yaml"),
        directory.path().join("key"),
    );
    fs::write(&key, [7; 32]).unwrap();
    let write = |endpoint: &str| {
        let key = key.display();
        let text = format!(
            "version: 1\nendpoints: {{x: {{{endpoint}allow_http: true}}}}\ntransfers:\n  - from: {{s3: s3://from/, endpoint: x, \
             customer_key: {{file: {key}}}}}\n    to: {{s3: s3://dest/, endpoint: x}}\n"
        );
        fs::write(&job, text).unwrap();
    };
    let arguments = ["run", job.to_str().unwrap()];
    write("url: http://s3.invalid, ");
    let (exit, stderr) = ended(&arguments, &[]).await;
    assert_eq!(exit, 2, "{stderr}");
    assert!(
        stderr.contains("customer keys (SSE-C) are never sent unencrypted"),
        "{stderr}"
    );
    write("");
    let (exit, stderr) = ended(&arguments, &[("AWS_ENDPOINT_URL_S3", ELSEWHERE)]).await;
    assert_eq!(exit, 3, "{stderr}");
    assert!(
        stderr.contains("customer keys (SSE-C) are never sent unencrypted"),
        "{stderr}"
    );
}

#[rstest]
#[case::device("/dev/zero", "not a regular file")]
#[case::directory("/tmp", "not a regular file")]
#[case::fifo("fifo", "not a regular file")]
#[case::absent("/nonexistent/key", "No such file")]
#[case::large("large", "more than 256 bytes")]
#[case::other("other", "not a customer key")]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_holds_no_customer_key_is_named(#[case] name: &str, #[case] why: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (job, path) = (
        directory.path().join("job.yaml"),
        directory.path().join(name),
    );
    match name {
        "large" => fs::write(&path, [b'A'; 257]).unwrap(),
        "fifo" => assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        ),
        "other" => fs::write(&path, "hunter2").unwrap(),
        _ => {}
    }
    let text = format!(
        "version: 1\ntransfers:\n  - from: {{s3: s3://from/, customer_key: {{file: {}}}}}\n    to: {{s3: s3://dest/}}\n",
        path.display()
    );
    fs::write(&job, text).unwrap();
    let (exit, stderr) = ended(&["run", job.to_str().unwrap()], &[]).await;
    assert_eq!(exit, 3, "{stderr}");
    assert!(
        stderr.contains(why) && stderr.contains(path.to_str().unwrap()),
        "{stderr}"
    );
    assert!(!stderr.contains("hunter2"), "{stderr}");
}
