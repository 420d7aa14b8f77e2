//! The command line: output, streams, and exit codes.

mod failing;

use std::fs;
use std::process;
use std::time::Duration;

use rstest::rstest;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::{GIB, MIB};
use serde_json::Value;

use crate::world::program::{COPY_ALL, at, command, process_at, run};
use crate::world::{DESTINATION, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_one_off_copy_says_what_it_did() {
    let world = World::new().await;
    world.put("a/one", 10);
    world.put("a/two", 300 * MIB);
    let (exit, stdout, stderr) = run(
        at(&world),
        &["copy", "s3://source/a/", "s3://destination/b/"],
    )
    .await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stdout.contains("2 objects copied and proven (300.00MiB in 5 parts)"),
        "{stdout}"
    );
    assert!(stdout.contains("proven by: crc64nvme 2"), "{stdout}");
    assert_eq!(world.keys(DESTINATION), ["b/one", "b/two"]);
    let (exit, stdout, _) = run(
        at(&world),
        &[
            "copy",
            "s3://source/a/*",
            "s3://destination/c",
            "--exclude",
            "one",
        ],
    )
    .await;
    assert_eq!((exit, world.keys(DESTINATION).len()), (0, 3), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_document_per_line_and_nothing_else() {
    let world = World::new().await;
    world.put("k", 10);
    let (exit, stdout, _) = run(
        at(&world),
        &["copy", "s3://source/", "s3://destination/", "--json"],
    )
    .await;
    let lines: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((exit, lines.len()), (0, 2));
    assert_eq!(
        (&lines[0]["status"], &lines[0]["proof"]),
        (&"done".into(), &"crc64nvme".into())
    );
    assert_eq!(lines[1]["summary"]["done_objects"], 1);
    let (_, stdout, _) = run(
        at(&world),
        &[
            "copy",
            "s3://source/",
            "s3://destination/x/",
            "--dry-run",
            "--json",
        ],
    )
    .await;
    let lines: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&lines[0]["route"], &lines[0]["reason"]),
        (&"copy".into(), &"missing".into())
    );
    assert_eq!(lines.last().unwrap()["totals"]["requests"]["CopyObject"], 1);
    assert!(
        !world
            .keys(DESTINATION)
            .iter()
            .any(|key| key.starts_with("x/")),
        "a dry run wrote"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_it_cannot_know() {
    let world = World::new().await;
    world.put("a", 10);
    let job = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let relay = format!(
        "{COPY_ALL}  - {{name: on, from: {{s3: s3://destination/}}, to: {{s3: s3://other/on/}}}}\n  \
         - {{name: back, from: {{s3: s3://source/}}, to: {{s3: s3://other/again/}}}}\n"
    );
    fs::write(job.path(), relay).unwrap();
    world.create_bucket("other");
    let path = job.path().to_str().unwrap();
    let (exit, stdout, stderr) = run(at(&world), &["plan", path]).await;
    assert_eq!(exit, 0, "{stderr}");
    let told: Vec<_> = stdout
        .lines()
        .filter(|line| line.contains("besides"))
        .collect();
    assert_eq!(
        told,
        ["  besides   the objects that transfer-1 writes into its source first"],
        "{stdout}"
    );
    let (_, stdout, _) = run(at(&world), &["plan", path, "--json"]).await;
    let besides: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["transfer"] == "on" && line["besides"].is_array())
        .map(|line| line["besides"].clone())
        .collect();
    assert_eq!(besides, [serde_json::json!(["transfer-1"])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_tells_the_requests_that_the_run_then_sends() {
    let world = World::new().await;
    world.put("small", 10);
    world.put("large", GIB);
    let job = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    fs::write(job.path(), COPY_ALL).unwrap();
    let path = job.path().to_str().unwrap();
    let (exit, stdout, stderr) = run(at(&world), &["plan", path]).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(stdout.contains("2 objects, 1.00GiB, 16 parts"), "{stdout}");
    let planned = "requests  23 (HeadObject 3, GetObjectTagging 1, CopyObject 1, CreateMultipartUpload 1, UploadPartCopy 16, CompleteMultipartUpload 1)";
    assert!(stdout.contains(planned), "{stdout}");
    for write in [
        Operation::CopyObject,
        Operation::CreateMultipartUpload,
        Operation::PutObject,
    ] {
        assert_eq!(world.calls(write), 0, "a plan wrote");
    }
    world.sandbox.calls().clear();
    let (exit, ..) = run(at(&world), &["run", path]).await;
    assert_eq!(
        (
            exit,
            world.calls(Operation::UploadPartCopy),
            world.calls(Operation::HeadObject)
        ),
        (0, 16, 3)
    );
}

#[rstest]
#[case(0, "etag")]
#[case(7, "etag")]
#[case(40 << 20, "part-etags")]
#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_sent_to_its_end(#[case] size: usize, #[case] proof: &str) {
    let world = World::new().await;
    let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
    let mut command = at(&world);
    command.write_stdin(bytes.clone());
    let (exit, stdout, stderr) = run(command, &["copy", "-", "s3://destination/dump"]).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stdout.contains(&format!("proven by: {proof} 1")),
        "{stdout}"
    );
    assert!(
        world
            .object(DESTINATION, "dump")
            .unwrap()
            .content
            .to_bytes()
            == bytes
    );
    let (exit, _, stderr) = run(at(&world), &["copy", "-", "s3://destination/"]).await;
    assert!(
        exit == 2 && stderr.contains("needs the whole key"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_with_a_signal_is_not_published() {
    let world = World::new().await;
    let before = Content::bytes(b"the last good backup".to_vec());
    world.put_object(DESTINATION, "dump", before.clone(), &ObjectSpec::default());
    let mut child = process_at(&world)
        .args(["copy", "-", "s3://destination/dump", "--quiet"])
        .env("S3HAUL_JOURNAL", "none")
        .stdin(process::Stdio::piped())
        .stdout(process::Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut pipe, b"half of a").unwrap();
    while world.calls(Operation::HeadBucket) == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The producer dies first, as if a terminal had sent the signal to both.
    drop(pipe);
    process::Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    let exit = tokio::task::spawn_blocking(move || child.wait().unwrap())
        .await
        .unwrap();
    assert_eq!(exit.code(), Some(4));
    assert_eq!(world.object(DESTINATION, "dump").unwrap().content, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_say_what_new_objects_get() {
    let world = World::new().await;
    let spec = ObjectSpec::default()
        .content_type("text/csv")
        .metadata("a", "old")
        .tag("t", "old");
    world.put_with("k", 10, &spec);
    let set = [
        "--metadata",
        "A=b=c",
        "--tag",
        "stage=replica",
        "--cache-control",
        "no-store",
        "--content-type",
        "text/plain",
        "--sse",
        "aws:kms",
        "--sse-kms-key-id",
        "arn:aws:kms:k",
    ];
    let (exit, _, stderr) = run(
        at(&world),
        &[&["copy", "s3://source/k", "s3://destination/"][..], &set].concat(),
    )
    .await;
    assert_eq!(exit, 0, "{stderr}");
    let found = world.object(DESTINATION, "k").unwrap().attributes;
    assert_eq!(found.metadata["a"], "b=c");
    assert_eq!(
        (found.tags.len(), found.tags["stage"].as_str()),
        (2, "replica")
    );
    assert_eq!(found.content_type.as_deref(), Some("text/plain"));
    assert_eq!(found.cache_control.as_deref(), Some("no-store"));
    assert_eq!(found.encryption.name(), "aws:kms");

    let key = "env:LAKE_KEY";
    let arguments = [
        "copy",
        "s3://source/k",
        "s3://destination/bare",
        "--preserve",
        "content-only",
        "--customer-key",
        key,
    ];
    let mut command = at(&world);
    command.env("LAKE_KEY", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=");
    let (exit, stdout, stderr) = run(command, &arguments).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(!format!("{stdout}{stderr}").contains("MDEy"));
    let found = world.object(DESTINATION, "bare").unwrap().attributes;
    assert_eq!(
        (
            found.encryption.name(),
            found.metadata.len(),
            found.tags.len()
        ),
        ("SSE-C", 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_term_signal_ends_in_time_with_exit_4_and_no_half_object() {
    let world = World::with_copy_latency(Duration::from_millis(500)).await;
    world.put("large", 100 * GIB);
    let mut child = process_at(&world)
        .args([
            "copy",
            "s3://source/large",
            "s3://destination/",
            "--in-flight",
            "16",
            "--quiet",
        ])
        .env("S3HAUL_JOURNAL", "none")
        .stdout(process::Stdio::null())
        .spawn()
        .unwrap();
    while world.calls(Operation::UploadPartCopy) < 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    process::Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    let exit = tokio::task::spawn_blocking(move || child.wait().unwrap());
    let exit = tokio::time::timeout(Duration::from_secs(30), exit)
        .await
        .expect("it did not end in time")
        .unwrap();
    assert_eq!(exit.code(), Some(4));
    world.assert_no_upload_is_left();
    assert!(world.object(DESTINATION, "large").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn open_uploads_can_be_listed_completed_and_aborted() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    let attributes = s3haul::s3::Attributes::default();
    let mut ids = Vec::new();
    for name in ["dir/a", "dir/b", "other"] {
        let key = name.parse().unwrap();
        let upload = s3haul::multipart::MultipartUpload::initiate(&bucket, &key, &attributes)
            .await
            .unwrap();
        upload.upload_part(1, name.as_bytes()).await.unwrap();
        ids.push(upload.id().to_owned());
    }
    let (_, stdout, stderr) = run(
        at(&world),
        &[
            "uploads",
            "list",
            "s3://destination/dir/",
            "--provider",
            "aws",
        ],
    )
    .await;
    assert!(
        stdout.contains(&ids[0])
            && stdout.contains("s3://destination/dir/b")
            && !stdout.contains("other"),
        "{stdout}"
    );
    assert!(
        stderr.contains("2 open uploads, 10B"),
        "the bytes that nobody sees: {stderr}"
    );
    let (_, stdout, _) = run(
        at(&world),
        &["uploads", "parts", "s3://destination/dir/a", &ids[0]],
    )
    .await;
    assert!(stdout.contains("5B"), "{stdout}");
    let (exit, stdout, _) = run(
        at(&world),
        &["uploads", "complete", "s3://destination/dir/a", &ids[0]],
    )
    .await;
    assert!(exit == 0 && stdout.contains("completed"), "{stdout}");
    assert_eq!(
        world
            .object(DESTINATION, "dir/a")
            .unwrap()
            .content
            .to_bytes(),
        "dir/a"
    );
    let older = [
        "uploads",
        "abort",
        "s3://destination/",
        "--older-than",
        "1d",
    ];
    run(at(&world), &older).await;
    assert_eq!(
        world.open_uploads(DESTINATION).len(),
        2,
        "none is a day old"
    );
    let (_, stdout, stderr) = run(
        at(&world),
        &[
            "uploads",
            "abort",
            "s3://destination/",
            "--older-than",
            "0s",
            "--dry-run",
        ],
    )
    .await;
    assert!(stderr.contains("2 uploads to abort, 10B"), "{stderr}");
    assert_eq!(
        (
            stdout.lines().count(),
            world.open_uploads(DESTINATION).len()
        ),
        (2, 2)
    );
    let (exit, _, stderr) = run(
        at(&world),
        &["uploads", "abort", "s3://destination/other", "mistyped"],
    )
    .await;
    assert!(
        exit == 3 && stderr.contains("NoSuchUpload"),
        "{exit} {stderr}"
    );
    let (exit, ..) = run(
        at(&world),
        &["uploads", "abort", "s3://destination/other", &ids[2]],
    )
    .await;
    assert_eq!((exit, world.open_uploads(DESTINATION).len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_has_help_and_the_schema_is_json() {
    for name in [
        "copy",
        "run",
        "plan",
        "check",
        "verify",
        "uploads",
        "sandbox",
        "schema",
        "completions",
        "man",
    ] {
        let (exit, stdout, _) = run(command(), &[name, "--help"]).await;
        assert!(exit == 0 && stdout.contains("Usage:"), "{name}");
    }
    let (_, stdout, _) = run(command(), &["schema"]).await;
    assert!(serde_json::from_str::<Value>(&stdout).unwrap()["properties"].is_object());
    let (_, stdout, _) = run(command(), &["completions", "bash"]).await;
    assert!(stdout.contains("_s3haul"));
    let (_, stdout, _) = run(command(), &["man"]).await;
    assert!(stdout.starts_with(".ie") || stdout.contains(".TH s3haul"));
}

/// The writer of the stream pauses, with a part refused and the pipe open.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_part_ends_a_stream_that_pauses() {
    let world = World::new().await;
    let refused = Effect::Error(400, "InvalidRequest");
    world.add_fault(Fault::on(Operation::UploadPart).then(refused));
    let mut child = process_at(&world)
        .args(["copy", "-", "s3://destination/dump", "--quiet"])
        .args(["--part-size", "5MiB"])
        .env("S3HAUL_JOURNAL", "none")
        .stdin(process::Stdio::piped())
        .stdout(process::Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut pipe, &vec![7; 5 << 20]).unwrap();
    let mut exit = None;
    for _ in 0..300 {
        exit = child.try_wait().unwrap();
        if exit.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if exit.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    drop(pipe);
    assert_eq!(exit.and_then(|exit| exit.code()), Some(1));
    assert!(world.object(DESTINATION, "dump").is_none());
    assert!(world.open_uploads(DESTINATION).is_empty());
}
