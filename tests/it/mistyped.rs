//! Locations in the notation of other tools and consoles, and prefixes without their slash.

use std::fs;

use rstest::rstest;
use s3haul::sandbox::Operation;

use crate::liar::{Answer, Asked, Liar, Lie};
use crate::world::program::{at, command, run};
use crate::world::{DESTINATION, SOURCE, World};

/// Returns a command whose endpoint does not answer, so that a request would not end with exit 2.
fn offline() -> assert_cmd::Command {
    let mut command = command();
    command
        .env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        .current_dir("/");
    command
}

#[rstest]
#[case("s3:/lake/events/", "s3://lake/events/")]
#[case("S3://lake/events/", "s3://lake/events/")]
#[case("arn:aws:s3:::lake/events/", "s3://lake/events/")]
#[case("s3://arn:aws-cn:s3:::lake/events/", "s3://lake/events/")]
#[case("https://lake.s3.eu-west-1.amazonaws.com/events/", "s3://lake/events/")]
#[case("https://s3.amazonaws.com/lake/events/", "s3://lake/events/")]
#[case(
    "http://127.0.0.1:9/lake/events/",
    "s3://lake/events/ with --endpoint-url http://127.0.0.1:9"
)]
#[case("gs://lake/events/", "--provider gcs")]
#[case("lake/events/", "s3://lake/events/")]
#[tokio::test]
async fn another_notation_is_answered_before_any_request(#[case] typed: &str, #[case] said: &str) {
    for words in [
        vec!["copy", typed, "s3://copies/"],
        vec!["copy", "s3://copies/", typed],
        vec!["verify", typed, "s3://copies/"],
        vec!["verify", "s3://copies/", typed],
        vec!["uploads", "list", typed],
    ] {
        let (exit, stdout, stderr) = run(offline(), &words).await;
        assert_eq!((exit, stdout.as_str()), (2, ""), "{words:?}: {stderr}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
    }
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job.yaml");
    for (side, line) in [
        (
            "from",
            format!("transfers:\n  - {{from: {{s3: '{typed}'}}, to: {{s3: s3://copies/}}}}\n"),
        ),
        (
            "to",
            format!("transfers:\n  - {{from: {{s3: s3://copies/}}, to: {{s3: '{typed}'}}}}\n"),
        ),
    ] {
        fs::write(&job, format!("version: 1\n{line}")).unwrap();
        let (exit, _, stderr) = run(offline(), &["run", job.to_str().unwrap()]).await;
        assert!(
            exit == 2 && stderr.contains(said) && stderr.contains("job.yaml:3:"),
            "{side}: {stderr}"
        );
    }
}

/// Fields with a path or a location in S3.
#[rstest]
#[case("journal: s3:/ops/journal/", "s3://ops/journal/")]
#[case("journal: arn:aws:s3:::ops/journal/", "s3://ops/journal/")]
#[case(
    "report: {json: s3://ops/report.jsonl}",
    "names a file of this machine"
)]
#[case(
    "report: {json: S3://ops/report.jsonl}",
    "names a file of this machine"
)]
#[case("report: {s3: s3://ops/report.jsonl}", "with a slash at the end")]
#[tokio::test]
async fn journals_and_reports_go_where_they_can_go(#[case] field: &str, #[case] said: &str) {
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job.yaml");
    let transfers = "transfers: [{from: {s3: s3://lake/}, to: {s3: s3://copies/}}]";
    fs::write(&job, format!("version: 1\n{transfers}\n{field}\n")).unwrap();
    let (exit, _, stderr) = run(offline(), &["run", job.to_str().unwrap()]).await;
    assert!(
        exit == 2 && stderr.contains(said) && stderr.contains("job.yaml:3:"),
        "{stderr}"
    );
    fs::write(&job, format!("version: 1\n{transfers}\n")).unwrap();
    let job = job.to_str().unwrap();
    for words in [
        &["run", job, "--report", "s3://ops/r.jsonl"][..],
        &["run", job, "--journal", "S3://ops/j/"],
        &["plan", job, "--out", "s3://ops/steps.jsonl"],
        &[
            "copy",
            "s3://lake/",
            "s3://copies/",
            "--report",
            "s3://ops/r.jsonl",
        ],
        &["run", "s3://ops/job.yaml"],
        &["verify", "s3://ops/"],
    ] {
        let (exit, _, stderr) = run(offline(), words).await;
        assert_eq!(exit, 2, "{words:?}: {stderr}");
    }
    let without = job.strip_suffix(".yaml").unwrap();
    let (exit, _, stderr) = run(offline(), &["check", without]).await;
    assert!(
        exit == 2 && stderr.contains("did you mean") && stderr.contains(job),
        "{stderr}"
    );
}

/// Every command with a prefix reports a missing slash.
#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_without_its_slash_is_reported_before_the_first_write() {
    let world = World::new().await;
    for index in 0..3 {
        let key = format!("events/{index}");
        world.put(&key, 9);
    }
    world.put("other", 9);
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job.yaml");
    let manifest = "version: 1\nendpoints: {default: {provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}}\ntransfers:\n  \
                    - {name: first, from: {s3: s3://source/other}, to: {s3: s3://destination/other}}\n  \
                    - {name: typo, from: {s3: s3://source/events}, to: {s3: s3://destination/}}\n";
    fs::write(&job, manifest).unwrap();
    let job = job.to_str().unwrap();
    for words in [
        &["copy", "s3://source/events", "s3://destination/"][..],
        &[
            "copy",
            "s3://source/events",
            "s3://destination/",
            "--dry-run",
        ],
        &["verify", "s3://source/events", "s3://destination/events"],
        &["run", job],
        &["plan", job],
        &["check", job],
        &["verify", job],
    ] {
        let (exit, _, stderr) = run(at(&world), words).await;
        assert_eq!(exit, 3, "{words:?}: {stderr}");
        let said = "there is no object s3://source/events; 3 objects are below it: write s3://source/events/";
        assert!(stderr.contains(said), "{words:?}: {stderr}");
        assert_eq!(
            stderr.contains("typo: "),
            words.contains(&job),
            "{words:?}: {stderr}"
        );
    }
    assert!(world.keys(DESTINATION).is_empty(), "something was written");
    let (exit, _, stderr) = run(
        at(&world),
        &["copy", "s3://source/evnts", "s3://destination/"],
    )
    .await;
    assert!(
        exit == 3 && stderr.contains("none below s3://source/evnts/"),
        "{stderr}"
    );
    // Rights to objects without any to their bucket: S3 answers 403 for what is not there.
    world.deny(SOURCE, Operation::HeadObject, "");
    world.deny(SOURCE, Operation::ListObjectsV2, "");
    let (exit, _, stderr) = run(
        at(&world),
        &["copy", "s3://source/events", "s3://destination/"],
    )
    .await;
    assert!(exit == 3 && stderr.contains("s3:ListBucket"), "{stderr}");
}

/// Returns the page of a list of `source`.
fn page(keys: &[&str], token: &str) -> Lie {
    let entry = |key: &&str| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>9</Size></Contents>"
        )
    };
    let entries: String = keys.iter().map(entry).collect();
    let is_truncated = !token.is_empty();
    Lie::Given(Answer::document(format!(
        "<ListBucketResult><Name>source</Name><Prefix>events/</Prefix><IsTruncated>{is_truncated}</IsTruncated>\
         {token}{entries}</ListBucketResult>"
    )))
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_behind_an_empty_page_are_counted() {
    let world = World::new().await;
    let liar = Liar::lying(&world, |asked: &Asked| {
        let prefix = asked.parameter("prefix").unwrap_or_default();
        if !asked.lists(SOURCE) || !prefix.starts_with("events") {
            Lie::Truth
        } else if asked.has("continuation-token") {
            page(&["events/0", "events/1"], "")
        } else {
            page(&[], "<NextContinuationToken>t</NextContinuationToken>")
        }
    })
    .await;
    let mut program = at(&world);
    program.env("AWS_ENDPOINT_URL_S3", &liar.url);
    let words = ["copy", "s3://source/events", "s3://destination/"];
    let (exit, _, stderr) = run(program, &words).await;
    assert!(
        exit == 3 && stderr.contains("2 objects are below it"),
        "{exit}: {stderr}"
    );
}

/// The command line gives its own transfers these names.
#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_of_a_manifest_is_named_whatever_its_name() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job.yaml");
    for name in ["copy", "verify", "copy-1"] {
        let manifest = format!(
            "version: 1\nendpoints: {{default: {{provider: aws, url: \"${{AWS_ENDPOINT_URL_S3}}\"}}}}\ntransfers:\n  \
             - {{name: {name}, from: {{s3: s3://source/gone}}, to: {{s3: s3://destination/}}}}\n"
        );
        fs::write(&job, manifest).unwrap();
        let (exit, _, stderr) = run(at(&world), &["run", job.to_str().unwrap()]).await;
        assert!(
            exit == 3 && stderr.contains(&format!("{name}: there is no object")),
            "{exit}: {stderr}"
        );
    }
}

/// s3haul does not check for an object that an earlier transfer of the job writes.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_the_job_writes_first_need_not_be_there() {
    let world = World::new().await;
    world.put("a", 9);
    world
        .sandbox
        .store()
        .create_bucket("third", s3haul::sandbox::BucketOptions::default());
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job.yaml");
    let manifest = "version: 1\nendpoints: {default: {provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}}\ntransfers:\n  \
                    - {from: {s3: s3://source/}, to: {s3: s3://destination/}}\n  \
                    - {from: {s3: s3://destination/a}, to: {s3: s3://third/a}}\n";
    fs::write(&job, manifest).unwrap();
    let (exit, _, stderr) = run(at(&world), &["run", job.to_str().unwrap()]).await;
    assert_eq!((exit, world.keys("third").len()), (0, 1), "{stderr}");
}

/// Other servers have their own classes, so only with `provider: aws` is a class known to be wrong.
#[rstest]
#[case("GLACIERIR", "did you mean GLACIER_IR?")]
#[case("glacier_ir", "did you mean GLACIER_IR?")]
#[case("Standard-IA", "did you mean STANDARD_IA?")]
#[case("COLDEST", "S3 has STANDARD")]
#[tokio::test]
async fn a_storage_class_that_amazon_s3_does_not_have(#[case] typed: &str, #[case] said: &str) {
    let flag = [
        "copy",
        "s3://lake/",
        "s3://copies/",
        "--provider",
        "aws",
        "--storage-class",
        typed,
    ];
    let (exit, _, stderr) = run(offline(), &flag).await;
    assert!(
        exit == 2 && stderr.contains(said) && stderr.contains(typed),
        "{exit}: {stderr}"
    );
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job.yaml");
    let manifest = |provider: &str, class: &str| {
        format!(
            "version: 1\nendpoints: {{default: {{provider: {provider}, url: \"http://127.0.0.1:9\"}}}}\ntransfers:\n  - {{from: \
             {{s3: s3://lake/}}, to: {{s3: s3://copies/, storage_class: {class}}}}}\nlimits: {{patience: 1s}}\n"
        )
    };
    fs::write(&job, manifest("aws", typed)).unwrap();
    let (exit, _, stderr) = run(offline(), &["run", job.to_str().unwrap()]).await;
    assert!(
        exit == 2 && stderr.contains(said) && stderr.contains("job.yaml:4:"),
        "{exit}: {stderr}"
    );
    let own = typed.to_ascii_uppercase();
    fs::write(&job, manifest("ceph", &own)).unwrap();
    let (exit, _, stderr) = run(offline(), &["plan", job.to_str().unwrap()]).await;
    assert!(
        exit == 3 && stderr.contains("no credentials"),
        "the manifest is right: {exit} {stderr}"
    );
}
