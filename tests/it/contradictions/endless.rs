//! Endless lists.

use std::fmt::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rstest::rstest;
use s3haul::sandbox::BucketOptions;
use s3haul::size::MIB;

use crate::liar::{Answer, Asked, Liar, Lie};
use crate::signals::send;
use crate::world::program::{at, process_at, run};
use crate::world::{DESTINATION, World};

/// Returns the next page of a list of uploads, whose keys begin with this one.
fn page_of_uploads(key: &str, number: u64) -> Answer {
    let mut uploads = String::new();
    for at in 0..10 {
        let _ = write!(
            uploads,
            "<Upload><Key>{key}-{number:09}{at}</Key><UploadId>u{at}</UploadId>\
             <Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>"
        );
    }
    Answer::document(format!(
        "<ListMultipartUploadsResult><Bucket>{DESTINATION}</Bucket><Prefix>{key}</Prefix>\
         <IsTruncated>true</IsTruncated><NextKeyMarker>{key}-{number:09}9</NextKeyMarker>\
         <NextUploadIdMarker>u9</NextUploadIdMarker>{uploads}</ListMultipartUploadsResult>"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_while_it_looks_for_an_upload_names_it() {
    let world = World::new().await;
    world.put("k", 12 * MIB);
    let pages = AtomicU64::new(0);
    let lie = move |asked: &Asked| {
        if asked.creates_upload() {
            return Lie::rewrite(|_| "<InitiateMultipartUploadResult/>".to_owned());
        }
        if asked.lists_uploads() {
            std::thread::sleep(Duration::from_millis(20));
            return Lie::Given(page_of_uploads("k", pages.fetch_add(1, Ordering::Relaxed)));
        }
        Lie::Truth
    };
    let liar = Liar::lying(&world, lie).await;
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.jsonl");
    let mut command = process_at(&world);
    let child = command
        .env("AWS_ENDPOINT_URL_S3", &liar.url)
        .env("S3HAUL_JOURNAL", "none")
        .args(["copy", "s3://source/", "s3://destination/"])
        .args([
            "--part-size",
            "5MiB",
            "--threshold",
            "5MiB",
            "--drain",
            "8s",
        ])
        .args(["--report", report.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while liar.count(Asked::lists_uploads) < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    send("TERM", &child);
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = output.await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let receipts = std::fs::read_to_string(report).unwrap();
    assert_eq!(world.open_uploads(DESTINATION).len(), 1);
    let says = "an upload of unknown id may be left open";
    assert!(receipts.contains(says), "{receipts}\n{told}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_a_journal_in_s3_ends(#[values("segment", "strange")] kind: &'static str) {
    let world = World::new().await;
    world.put("k", 100);
    let store = world.sandbox.store();
    store.create_bucket("journals", BucketOptions::default());
    let pages = AtomicU64::new(1);
    let lie = move |asked: &Asked| {
        // `status` first looks for a state prefix.
        let prefix = asked.parameter("prefix");
        let is_look = prefix.is_some_and(|prefix| prefix.ends_with("plan."));
        if !asked.lists("journals") || is_look {
            return Lie::Truth;
        }
        let first = pages.fetch_add(1, Ordering::Relaxed) * 1000;
        let mut contents = String::new();
        for number in first..first + 1000 {
            let _ = write!(
                contents,
                "<Contents><Key>p/{kind}-{number:010}.log</Key><Size>5</Size></Contents>"
            );
        }
        Lie::Given(Answer::document(format!(
            "<ListBucketResult><Name>journals</Name><Prefix>p/s</Prefix><IsTruncated>true</IsTruncated>\
             <NextContinuationToken>t{first}</NextContinuationToken>{contents}</ListBucketResult>"
        )))
    };
    let liar = Liar::lying(&world, lie).await;
    for words in [
        &["status", "s3://journals/p/"][..],
        &[
            "copy",
            "s3://source/",
            "s3://destination/",
            "--journal",
            "s3://journals/p/",
        ],
    ] {
        let mut command = at(&world);
        command
            .env("AWS_ENDPOINT_URL_S3", &liar.url)
            .env_remove("S3HAUL_JOURNAL");
        let mut arguments = words.to_vec();
        arguments.extend(["--provider", "aws"]);
        let (exit, stdout, stderr) = run(command, &arguments).await;
        assert_ne!(exit, 0, "{stdout}");
        assert!(
            stderr.contains("s3://journals/p/") && stderr.contains("does not end"),
            "{stderr}"
        );
    }
}
