//! Flags without an effect are refused, whatever they were meant to change.

use std::fs;

use crate::world::World;
use crate::world::program::{COPY_ALL, at, command, run};

/// Command lines with a useless flag, and words of the refusal.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_ignored_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let named = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (file, report, job) = (named("file"), named("report.jsonl"), named("job.yaml"));
    fs::write(&file, "bytes").unwrap();
    let folder = named("");
    let (key, prefix, bucket) = ("s3://c-d/dump", "s3://a-b/x/", "s3://c-d/");
    let job_flags: [&[&str]; 11] = [
        &["--customer-key", "env:KEY"],
        &["--source-customer-key", "env:KEY"],
        &["--endpoint-url", "http://127.0.0.1:9"],
        &["--region", "eu-west-1"],
        &["--profile", "p"],
        &["--provider", "minio"],
        &["--include", "*"],
        &["--exclude", "*"],
        &["--recursive"],
        &["--source-owner", "111122223333"],
        &["--destination-owner", "111122223333"],
    ];
    let s3_flags: [&[&str]; 10] = [
        &["--preserve", "tags=require"],
        &["--layout", "source"],
        &["--part-goal", "fastest"],
        &["--archived", "skip"],
        &[
            "--archived",
            "restore",
            "--restore-tier",
            "bulk",
            "--restore-days",
            "1",
        ],
        &["--versions", "all"],
        &["--as-of", "2026-01-01T00:00:00Z"],
        &["--source-customer-key", "env:KEY"],
        &["--source-owner", "111122223333"],
        &["--requester-pays"],
    ];
    let mut cases: Vec<(Vec<&str>, &[&str], &str)> = Vec::new();
    for flags in job_flags {
        cases.push((vec!["verify", &job], flags, "says itself"));
        cases.push((vec!["verify", "--report", &report], flags, "says itself"));
    }
    for flags in s3_flags {
        for source in ["-", &file, &folder] {
            cases.push((vec!["copy", source, key], flags, "is not in S3"));
        }
    }
    for source in ["-", "s3://a-b/x/", "s3://a-b/x"] {
        cases.push((
            vec!["copy", source, key],
            &["--symlinks", "skip"],
            "no directory",
        ));
    }
    for source in ["-", &file] {
        cases.push((vec!["copy", source, key], &["--recursive"], "is "));
    }
    cases.extend::<[(_, &[&str], _); 11]>([
        (vec!["copy", "s3://a-b/x/*", bucket], &["--recursive"], "**"),
        (
            vec!["copy", &folder, prefix, bucket],
            &["--layout", "source"],
            "by itself",
        ),
        (
            vec!["copy", &file, key],
            &["--version-id", "v"],
            "exactly one source",
        ),
        (
            vec!["copy", "-", key],
            &["--journal", "./here"],
            "no journal is kept",
        ),
        (
            vec!["copy", "-", key],
            &["--resume-anyway"],
            "no journal is kept",
        ),
        (vec!["copy", "-", key], &["--adopt"], "no journal is kept"),
        (
            vec!["verify", &folder, bucket],
            &["--requester-pays"],
            "not in S3",
        ),
        (
            vec!["verify", &folder, bucket],
            &["--source-customer-key", "env:KEY"],
            "not in S3",
        ),
        (vec!["verify", &file, key], &["--recursive"], "is a file"),
        (
            vec!["verify", "s3://a-b/x/*", bucket],
            &["--recursive"],
            "**",
        ),
        (vec!["verify", "-", key], &[], "standard input"),
    ]);
    for (command_line, flags, said) in cases {
        let arguments = [command_line.as_slice(), flags].concat();
        let (exit, stdout, stderr) = run(command(), &arguments).await;
        assert_eq!((exit, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
        for flag in flags.iter().filter(|flag| flag.starts_with("--")) {
            assert!(stderr.contains(flag), "{arguments:?}: {stderr}");
        }
    }
}

/// Variables are for every command that uses them, so a useless variable is no mistake.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_environment_says_is_no_mistake() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let job = directory.path().join("job.yaml");
    fs::write(&job, COPY_ALL).unwrap();
    let (exit, _, stderr) = run(at(&world), &["verify", job.to_str().unwrap()]).await;
    assert!(
        exit == 1 && stderr.contains("nothing was compared"),
        "{stderr}"
    );
    let mut command = at(&world);
    command
        .env("S3HAUL_JOURNAL", directory.path().join("journal"))
        .env("S3HAUL_ADOPT", "1");
    command.write_stdin("bytes");
    let (exit, _, stderr) = run(command, &["copy", "-", "s3://destination/dump", "--fresh"]).await;
    assert_eq!(exit, 0, "{stderr}");
}
