//! Reports in S3: sessions neither lose pieces nor write them twice, and commands read them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use s3haul::bucket::Bucket;
use s3haul::journal::Ledger;
use s3haul::report::read::read;
use s3haul::report::{
    BucketReport, Footer, PieceLimits, ReportBucket, ReportEnd, ReportHeader, ReportLines,
};
use s3haul::sandbox::{BucketOptions, Effect, Fault, Operation, Sandbox};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::deny_copy;
use crate::world::program::{process_at, run_in};
use crate::world::{DESTINATION, SOURCE, World};

/// The bucket for reports.
pub(crate) const OPS: &str = "ops";
const NIGHTLY: &str = "s3://ops/nightly/";

/// Starts a sandbox with a bucket for reports.
pub(super) async fn world_with_reports_bucket() -> World {
    let world = World::new().await;
    let store = world.sandbox.store();
    store.create_bucket(OPS, BucketOptions::default());
    world
}

/// Returns a directory with a manifest that copies everything and reports to S3.
pub(super) fn manifest(world: &World, more: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    let text = format!(
        "version: 1\nname: nightly\nendpoints:\n  default: {{url: \"{}\", region: us-east-1, path_style: true, provider: aws}}\n\
         limits: {{in_flight: 8}}\nreport: {{s3: {NIGHTLY}}}\n\
         transfers:\n  - {{name: all, from: {{s3: s3://source/}}, to: {{s3: s3://destination/}}}}\n{more}",
        world.sandbox.url()
    );
    fs::write(directory.path().join("job.yaml"), text).unwrap();
    directory
}

/// Returns the directories of the runs below a prefix, the oldest first.
pub(super) fn directories(sandbox: &Sandbox, prefix: &str) -> Vec<String> {
    let keys = sandbox.store().keys(OPS);
    let below = format!("{prefix}report-");
    let mut found: Vec<_> = keys
        .iter()
        .filter(|key| key.starts_with(&below))
        .map(|key| format!("{}/", key.rsplit_once('/').unwrap().0))
        .collect();
    found.dedup();
    found
}

/// Returns the lines of the latest report below a prefix. Each piece replaces everything behind the
/// offset at which it begins.
pub(crate) fn lines_below(sandbox: &Sandbox, prefix: &str) -> Vec<Value> {
    let directory = directories(sandbox, prefix)
        .pop()
        .expect("there is no report");
    let mut report = Vec::new();
    for key in sandbox.store().keys(OPS) {
        if key.starts_with(&directory) {
            let piece = sandbox.store().object(OPS, &key).unwrap();
            let piece = piece.content.to_bytes();
            let end = piece.iter().position(|byte| *byte == b'\n').unwrap();
            let head: Value = serde_json::from_slice(&piece[..end]).unwrap();
            report.truncate(usize::try_from(head["at"].as_u64().unwrap()).unwrap());
            report.extend_from_slice(&piece[end + 1..]);
            assert_eq!(head["length"], report.len(), "{key}");
        }
    }
    let text = String::from_utf8(report).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Returns the keys of the receipts, sorted.
fn reported(lines: &[Value]) -> Vec<&str> {
    let mut keys: Vec<_> = lines
        .iter()
        .filter_map(|line| line["source"].as_str())
        .map(|source| source.strip_prefix("s3://source/").unwrap())
        .collect();
    keys.sort_unstable();
    keys
}

async fn s3haul(world: &World, directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    run_in(world, directory, arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_commands_read_a_report_in_s3() {
    let world = world_with_reports_bucket().await;
    world.put_all(["a", "b", "c"], 100);
    deny_copy(&world, "b");
    let job = manifest(&world, "");
    let (exit, stdout, stderr) = s3haul(&world, job.path(), &["run", "job.yaml"]).await;
    assert_eq!(exit, 1, "{stderr}");
    let directory = directories(&world.sandbox, "nightly/").pop().unwrap();
    assert!(
        stdout.contains(&format!("report: s3://ops/{directory}")),
        "{stdout}"
    );
    let lines = lines_below(&world.sandbox, "nightly/");
    assert_eq!(reported(&lines), ["a", "b", "c"]);
    let run = lines[0]["run"].as_str().unwrap();
    assert!(directory.contains(run), "{directory} {run}");
    let footer = &lines.last().unwrap()["footer"];
    assert_eq!(
        (&footer["lines"], &footer["failed_objects"]),
        (&3.into(), &1.into())
    );
    let writes = world.sandbox.calls().of(Operation::PutObject);
    let writes: Vec<_> = writes.iter().filter(|call| call.bucket == OPS).collect();
    assert!(
        writes
            .iter()
            .all(|call| call.headers.get("if-none-match").map(String::as_str) == Some("*")),
        "{writes:?}"
    );
    // The first piece and the test of its condition, the receipts, and the footer.
    assert_eq!(writes.len(), 4, "{writes:?}");

    let show = ["report", "show", NIGHTLY];
    let (exit, stdout, stderr) = s3haul(&world, job.path(), &show).await;
    assert_eq!(exit, 0, "{stderr}");
    for said in [
        "nightly (s3://ops/nightly/report-",
        "complete, exit code 1",
        "2 objects copied (200B), 0 unchanged, 0 pending, 1 failed",
        "1 x failed CopyObject AccessDenied",
        "      s3://source/b\n",
        "s3haul retry s3://ops/nightly/",
    ] {
        assert!(stdout.contains(said), "{said}: {stdout}");
    }
    let one = format!("s3://ops/{directory}");
    let (_, stdout, _) = s3haul(&world, job.path(), &["report", "show", &one, "--json"]).await;
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (
            &shown["state"],
            &shown["not_done"],
            &shown["causes"][0]["first"][0]
        ),
        (&"complete".into(), &1.into(), &"s3://source/b".into())
    );
    for place in [NIGHTLY, "job.yaml"] {
        let (exit, stdout, stderr) = s3haul(&world, job.path(), &["status", place]).await;
        assert!(
            exit == 0 && stdout.contains("3 receipts in 3 pieces, complete, exit code 1"),
            "{place}: {exit} {stdout} {stderr}"
        );
    }
    let verify = ["verify", "--report", NIGHTLY];
    let (exit, stdout, stderr) = s3haul(&world, job.path(), &verify).await;
    assert!(
        exit == 1 && stdout.contains("2 equal") && stdout.contains("failed      s3://source/b"),
        "{exit} {stdout} {stderr}"
    );

    world.sandbox.faults().clear();
    let retry = ["retry", NIGHTLY];
    let (exit, stdout, stderr) = s3haul(&world, job.path(), &retry).await;
    assert!(
        exit == 0 && stdout.contains("1 object copied"),
        "{exit} {stdout} {stderr}"
    );
    assert_eq!(directories(&world.sandbox, "nightly/").len(), 2);
    assert_eq!(reported(&lines_below(&world.sandbox, "nightly/")), ["b"]);
    let (exit, stdout, stderr) = s3haul(&world, job.path(), &retry).await;
    assert!(
        exit == 0 && stdout.contains("nothing to do"),
        "{exit} {stdout} {stderr}"
    );
    // The first report is unchanged.
    let (exit, stdout, _) = s3haul(&world, job.path(), &["report", "show", &one]).await;
    assert!(exit == 0 && stdout.contains("1 failed"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_and_resumed_writes_one_report() {
    let world = world_with_reports_bucket().await;
    let keys: Vec<String> = (0..40).map(|number| format!("k{number:03}")).collect();
    world.put_all(&keys, 100);
    let refused = Fault::on(Operation::CopyObject).key("k03");
    world.add_fault(refused.then(Effect::SlowDown));
    // The journal is next to the report, and its lists do not include the pieces.
    let job = manifest(&world, "journal: s3://ops/nightly/\n");
    for session in 1..=3 {
        let fired = world.sandbox.faults().fired();
        let mut child = process_at(&world)
            .args(["run", "job.yaml", "--drain", "1s"])
            .current_dir(job.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while world.keys(DESTINATION).len() < 30 || world.sandbox.faults().fired() < fired + 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if session == 2 {
            child.kill().unwrap();
        } else {
            let pid = child.id().to_string();
            let mut kill = std::process::Command::new("kill");
            assert!(kill.args(["-TERM", &pid]).status().unwrap().success());
        }
        let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
        assert_ne!(ended.await.unwrap().code(), Some(0));
        let (exit, stdout, _) = s3haul(&world, job.path(), &["report", "show", NIGHTLY]).await;
        assert!(exit == 0 && stdout.contains("incomplete: "), "{stdout}");
        let (exit, _, stderr) = s3haul(&world, job.path(), &["verify", "--report", NIGHTLY]).await;
        assert!([1, 2].contains(&exit), "{exit} {stderr}");
    }
    world.sandbox.faults().clear();
    let (exit, _, stderr) = s3haul(&world, job.path(), &["run", "job.yaml"]).await;
    assert!(exit == 0 && stderr.contains("resuming"), "{exit} {stderr}");
    assert_eq!(directories(&world.sandbox, "nightly/").len(), 1);
    let lines = lines_below(&world.sandbox, "nightly/");
    assert_eq!(reported(&lines), keys);
    assert_eq!(lines.last().unwrap()["footer"]["sessions"], 4);
    let (exit, stdout, stderr) = s3haul(&world, job.path(), &["verify", "--report", NIGHTLY]).await;
    assert!(
        exit == 0 && stdout.contains("40 equal"),
        "{stdout} {stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_s3_refuses_ends_the_run_before_anything_is_copied() {
    let world = world_with_reports_bucket().await;
    world.put_all(["a"], 100);
    let job = manifest(&world, "");
    for (operation, remedy) in [
        (
            Operation::PutObject,
            "; grant s3:PutObject on s3://ops/nightly/report-",
        ),
        (
            Operation::ListObjectsV2,
            "; grant s3:ListBucket on s3://ops",
        ),
    ] {
        world.deny(OPS, operation, "");
        let (exit, _, stderr) = s3haul(&world, job.path(), &["run", "job.yaml"]).await;
        assert!(
            exit == 3
                && stderr.contains("error: the report s3://ops/nightly/")
                && stderr.contains(remedy),
            "{operation:?}: {exit} {stderr}"
        );
        assert!(!stderr.contains("exclude"), "there is none: {stderr}");
        world.sandbox.store().allow_all();
    }
    for place in ["s3://missing/nightly/", "s3://ops/nightly/"] {
        let mut more = vec!["run", "job.yaml", "--report", place];
        if place == NIGHTLY {
            // This server is not known to keep out a second session.
            let path = job.path().join("job.yaml");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text.replace(", provider: aws", "")).unwrap();
            more.truncate(2);
        }
        let (exit, _, stderr) = s3haul(&world, job.path(), &more).await;
        let said = stderr.contains("missing") || stderr.contains("needs `If-None-Match`");
        assert!(exit == 3 && said, "{place}: {exit} {stderr}");
    }
    assert_eq!(world.calls(Operation::CopyObject), 0);
    assert!(directories(&world.sandbox, "nightly/").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_the_condition_is_refused() {
    let world = world_with_reports_bucket().await;
    world.put_all(["a"], 100);
    let job = manifest(&world, "");
    let ignored = Fault::on(Operation::PutObject).bucket(OPS);
    world.add_fault(ignored.then(Effect::Ignore(&["if-none-match"])));
    let (exit, _, stderr) = s3haul(&world, job.path(), &["run", "job.yaml"]).await;
    assert!(
        exit == 3 && stderr.contains("ignored in a test"),
        "{exit} {stderr}"
    );
    assert_eq!(world.calls(Operation::CopyObject), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_s3_refuses_later_is_completed_from_the_journal() {
    let world = world_with_reports_bucket().await;
    world.put_all(["a", "b", "c"], 100);
    let job = manifest(&world, "");
    let refuse = |world: &World| {
        // Refuses all pieces of the session except the first one.
        for piece in ["000002.jsonl", "000003.jsonl", "000004.jsonl"] {
            let fault = Fault::on(Operation::PutObject).bucket(OPS).key(piece);
            let refused = fault.then(Effect::Error(403, "AccessDenied"));
            world.add_fault(refused);
        }
    };
    refuse(&world);
    let (exit, stdout, stderr) = s3haul(&world, job.path(), &["run", "job.yaml"]).await;
    assert!(
        exit == 4
            && stdout.contains("3 objects copied")
            && stderr.contains("error: the report s3://ops/nightly/ lacks receipts: ")
            && stderr.contains("AccessDenied")
            && stderr.contains("the journal has them"),
        "{exit} {stdout} {stderr}"
    );
    world.sandbox.faults().clear();
    let (exit, _, stderr) = s3haul(&world, job.path(), &["run", "job.yaml"]).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(world.calls(Operation::CopyObject), 3);
    let lines = lines_below(&world.sandbox, "nightly/");
    assert_eq!(reported(&lines), ["a", "b", "c"]);

    // Without a journal, the receipts are lost. The summary in the log also has the exit code.
    refuse(&world);
    let without = [
        "run",
        "job.yaml",
        "--journal",
        "none",
        "--log-format",
        "json",
    ];
    let (exit, _, stderr) = s3haul(&world, job.path(), &without).await;
    assert!(
        exit == 1 && stderr.contains("they are lost, because no journal is kept"),
        "{exit} {stderr}"
    );
    let lines = crate::logs::lines(&stderr);
    let summary = crate::logs::only(&lines, "summary");
    assert_eq!(
        (&summary["exit"], &summary["level"]),
        (&json!(1), &json!("ERROR"))
    );
}

/// The answer to each first write is lost, and at the end also those to its retries.
#[tokio::test(flavor = "multi_thread")]
async fn a_piece_whose_answer_was_lost_is_written_once() {
    let world = world_with_reports_bucket().await;
    world.put_all(["a", "b", "c"], 100);
    let job = manifest(&world, "");
    for piece in ["000001.jsonl", "000002.jsonl", "000003.jsonl"] {
        let fault = Fault::on(Operation::PutObject).bucket(OPS).key(piece);
        world.add_fault(fault.first(1).then(Effect::ResetAfter));
    }
    let (exit, _, stderr) = s3haul(&world, job.path(), &["run", "job.yaml"]).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(world.sandbox.faults().fired(), 3);
    let lines = lines_below(&world.sandbox, "nightly/");
    assert_eq!(reported(&lines), ["a", "b", "c"]);
    let (exit, stdout, _) = s3haul(&world, job.path(), &["report", "show", NIGHTLY]).await;
    assert!(
        exit == 0 && stdout.contains("complete, exit code 0"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_says_where_a_report_in_s3_can_be() {
    let world = world_with_reports_bucket().await;
    for (report, said) in [
        ("{s3: s3://ops/nightly}", "with a slash at the end"),
        ("{s3: nightly/}", "is not an S3 location"),
        ("{s3: S3://ops/nightly/}", "s3://ops/nightly/"),
        ("{s3: s3://source/own/}", "lies in the source of `all`"),
        ("{s3: s3://ops/a/, json: r.jsonl}", "names two locations"),
    ] {
        let job = manifest(&world, "");
        let path = job.path().join("job.yaml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&format!("{{s3: {NIGHTLY}}}"), report)).unwrap();
        let (exit, _, stderr) = s3haul(&world, job.path(), &["run", "job.yaml"]).await;
        assert!(
            exit == 2 && stderr.contains(said),
            "{report}: {exit} {stderr}"
        );
    }
    let job = manifest(&world, "");
    for (flag, said) in [
        ("s3://source/own/", "lies in the source of `all`"),
        ("s3://ops/nightly", "with a slash at the end"),
    ] {
        let words = ["run", "job.yaml", "--report", flag];
        let (exit, _, stderr) = s3haul(&world, job.path(), &words).await;
        assert!(
            exit == 2 && stderr.contains(said),
            "{flag}: {exit} {stderr}"
        );
    }
    // The journal's mistake does not hide the report's.
    let both = ["--journal", "s3://source/j/", "--report", "s3://source/r/"];
    let words = [&["run", "job.yaml"][..], &both].concat();
    let (exit, _, stderr) = s3haul(&world, job.path(), &words).await;
    for said in [
        "the journal s3://source/j/ lies in the source",
        "the report s3://source/r/ lies in the source",
    ] {
        assert!(exit == 2 && stderr.contains(said), "{exit} {stderr}");
    }
    let (exit, _, stderr) = s3haul(&world, job.path(), &["report", "show", NIGHTLY]).await;
    assert!(
        exit == 2 && stderr.contains("there is no report below"),
        "{exit} {stderr}"
    );
    assert_eq!(world.keys(SOURCE).len(), 0);
}

/// Opens a report with small pieces.
pub(super) async fn open(bucket: &Bucket, run: &str) -> BucketReport {
    let limits = PieceLimits {
        bytes: 1,
        time: Duration::from_hours(1),
        ..PieceLimits::default()
    };
    open_with(bucket, run, limits).await
}

/// Opens a report whose pieces have these limits.
pub(super) async fn open_with(bucket: &Bucket, run: &str, limits: PieceLimits) -> BucketReport {
    let reports = ReportBucket::new(bucket.clone(), "many/".parse().unwrap());
    let origin = ReportHeader {
        report: 2,
        command: vec!["run".into(), "job.yaml".into()],
        directory: "/".into(),
        run: run.into(),
        ..ReportHeader::default()
    };
    BucketReport::open(&reports, &origin, limits).await.unwrap()
}

pub(super) fn receipt(number: u32) -> String {
    format!(
        r#"{{"transfer":"t","source":"s3://source/{number:05}","destination":"s3://destination/{number:05}","status":"done","size":1}}"#
    )
}

/// Syncs a report on a blocking thread, as the journal does.
pub(super) async fn synced(mut report: BucketReport) -> (BucketReport, std::io::Result<u64>) {
    let synced = tokio::task::spawn_blocking(move || {
        let synced = report.sync();
        (report, synced)
    });
    synced.await.unwrap()
}

pub(super) async fn finish(end: ReportEnd) -> Result<(), s3haul::report::ReportError> {
    let footer = r#"{"time":"2026-03-01T02:00:00Z","exit":0,"complete":true}"#;
    end.finish(&serde_json::from_str::<Footer>(footer).unwrap())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_report_has_many_pieces_and_is_read_in_order() {
    let world = world_with_reports_bucket().await;
    let bucket = world.bucket(OPS).await;
    // More pieces than fit on a page of a list.
    let receipts = 1_100;
    let mut report = open(&bucket, "19ca71fb900a83f4").await;
    (0..receipts / 2).for_each(|number| report.add(&receipt(number)));
    let (mut report, length) = synced(report).await;
    let length = length.unwrap();
    // Receipts behind the synced length are added again.
    (0..10).for_each(|number| report.add(&receipt(50_000 + number)));
    let (mut report, longer) = synced(report).await;
    assert!(longer.unwrap() > length);
    assert_eq!(report.rewind(length).unwrap(), length);
    drop(synced(report).await);
    let mut report = open(&bucket, "19ca71fb900a83f4").await;
    assert_eq!(report.rewind(length).unwrap(), length);
    (receipts / 2..receipts).for_each(|number| report.add(&receipt(number)));
    let (report, whole) = synced(report).await;
    whole.unwrap();
    finish(report.end()).await.unwrap();

    let reports = ReportBucket::new(bucket, "many/".parse().unwrap());
    let stored = reports.latest().await.unwrap().unwrap();
    assert_eq!(stored.receipts(), u64::from(receipts));
    assert!(stored.pieces() > 1_000, "{}", stored.pieces());
    let mut lines = ReportLines::of_pieces(&stored);
    let first = lines.next().await.unwrap().unwrap();
    assert!(first.starts_with("{\"report\":2"), "{first}");
    for number in 0..receipts {
        assert_eq!(lines.next().await.unwrap().unwrap(), receipt(number));
    }
    // Count and checksum in the footer match the lines.
    let report = read(ReportLines::of_pieces(&stored)).await.unwrap();
    assert_eq!(report.footer.unwrap().lines, Some(u64::from(receipts)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_session_shuts_the_first_one_out() {
    let world = world_with_reports_bucket().await;
    let bucket = world.bucket(OPS).await;
    let mut first = open(&bucket, "19ca71fb900a83f4").await;
    first.add(&receipt(1));
    let (mut first, length) = synced(first).await;
    let length = length.unwrap();
    let mut second = open(&bucket, "19ca71fb900a83f4").await;
    first.add(&receipt(2));
    let (mut first, refused) = synced(first).await;
    let error = refused.unwrap_err().to_string();
    assert!(
        error.contains("was taken over by another session"),
        "{error}"
    );
    // Even if its journal adds the receipts again.
    first.rewind(length).unwrap();
    first.add(&receipt(2));
    let (first, refused) = synced(first).await;
    assert!(refused.is_err() && finish(first.end()).await.is_err());

    assert_eq!(second.rewind(length).unwrap(), length);
    second.add(&receipt(2));
    let (second, _) = synced(second).await;
    finish(second.end()).await.unwrap();
    let lines = lines_below(&world.sandbox, "many/");
    assert_eq!(reported(&lines), ["00001", "00002"]);
}

/// The write fails for its session but takes effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_was_given_up_is_cut_off() {
    let world = world_with_reports_bucket().await;
    let bucket = world.bucket(OPS).await;
    let mut report = open(&bucket, "19ca71fb900a83f4").await;
    report.add(&receipt(1));
    let (mut report, length) = synced(report).await;
    let length = length.unwrap();
    let fault = Fault::on(Operation::PutObject).key("000003.jsonl");
    let fault = fault.then(Effect::ErrorAfterEffect(403, "AccessDenied"));
    world.add_fault(fault);
    report.add(&receipt(2));
    let (mut report, refused) = synced(report).await;
    assert!(refused.is_err());
    world.sandbox.faults().clear();
    assert_eq!(report.rewind(length).unwrap(), length);
    report.add(&receipt(3));
    let (report, written) = synced(report).await;
    written.unwrap();
    finish(report.end()).await.unwrap();
    let keys = world.keys(OPS);
    assert!(
        keys.iter().any(|key| key.ends_with("000003.jsonl")),
        "{keys:?}"
    );
    assert_eq!(
        reported(&lines_below(&world.sandbox, "many/")),
        ["00001", "00003"]
    );
}

/// The run is the same, but the report that its journal names is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_was_lost_says_that_receipts_are_missing() {
    let world = world_with_reports_bucket().await;
    let bucket = world.bucket(OPS).await;
    let mut report = open(&bucket, "19ca71fb900a83f4").await;
    assert!(report.rewind(12_345).unwrap() > 0);
    report.add(&receipt(7));
    let (report, written) = synced(report).await;
    written.unwrap();
    finish(report.end()).await.unwrap();
    let lines = lines_below(&world.sandbox, "many/");
    assert!(lines[1]["gap"].is_string(), "{lines:?}");
    assert_eq!(reported(&lines), ["00007"]);
    let dir = TempDir::new().unwrap();
    let show = ["report", "show", "s3://ops/many/", "--provider", "aws"];
    let (exit, stdout, _) = s3haul(&world, dir.path(), &show).await;
    assert!(
        exit == 0
            && stdout.contains("damaged: line 2: receipts of an earlier session are missing here"),
        "{stdout}"
    );
    let retry = ["retry", "s3://ops/many/", "--provider", "aws"];
    let (exit, _, stderr) = s3haul(&world, dir.path(), &retry).await;
    assert!(
        exit == 2 && stderr.contains("lacks receipts of an earlier session"),
        "{stderr}"
    );
}
