//! Reports in S3 that somebody else wrote or changed, or that lost a piece.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use s3haul::journal::Ledger as _;
use s3haul::report::{PieceLimits, ReportBucket, ReportError};
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use super::s3::{
    OPS, directories, finish, open, open_with, receipt, synced, world_with_reports_bucket,
};
use crate::world::World;
use crate::world::program::run_in;

fn write(world: &World, key: &str, text: impl Into<Vec<u8>>) {
    let content = Content::bytes(text.into());
    let store = world.sandbox.store();
    store.put_object(OPS, key, content, &ObjectSpec::default());
}

/// Shows the report below `many/`.
async fn show(world: &World, more: &[&str]) -> (i32, String, String) {
    let dir = TempDir::new().unwrap();
    let words = ["report", "show", "s3://ops/many/", "--provider", "aws"];
    run_in(world, dir.path(), &[&words[..], more].concat()).await
}

/// Writes a report with these lines behind its header. Returns its directory.
async fn report(world: &World, lines: &[String]) -> String {
    let bucket = world.bucket(OPS).await;
    let mut report = open(&bucket, "19ca71fb900a83f4").await;
    for line in lines {
        report.add(line);
    }
    let (report, written) = synced(report).await;
    written.unwrap();
    finish(report.end()).await.unwrap();
    directories(&world.sandbox, "many/").pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_receipts_are_escaped_and_bounded() {
    let world = world_with_reports_bucket().await;
    let long = "m".repeat(100_000);
    let failed = |number: u32, message: &str| {
        serde_json::json!({
            "transfer": "t", "source": format!("s3://source/\u{1b}[2J\n{number}"), "destination": "d", "status": "failed",
            "error": {"operation": "CopyObject\r", "code": "\u{202e}Denied", "message": message, "remedy": "no\u{7}ne"},
        })
        .to_string()
    };
    let mut lines: Vec<_> = (0..30).map(|number| failed(number, &long)).collect();
    // More causes than are counted separately.
    lines.extend((30..400).map(|number| failed(number, &format!("cause {number}"))));
    report(&world, &lines).await;
    let (exit, stdout, stderr) = show(&world, &["--first", "3"]).await;
    assert_eq!(exit, 0, "{stderr}");
    let is_plain = |c: char| c == '\n' || (!c.is_control() && c != '\u{202e}');
    assert!(stdout.chars().all(is_plain), "{stdout:?}");
    for said in [
        r"s3://source/\u{1b}[2J\n0",
        "other causes",
        "(cut after 1024 of 100000 bytes)",
        "      and 27 more",
        "0 pending, 400 failed",
    ] {
        assert!(stdout.contains(said), "{said}: {stdout}");
    }
    assert!(stdout.len() < 200_000, "{}", stdout.len());
    let (_, stdout, _) = show(&world, &["--json"]).await;
    assert!(stdout.chars().all(is_plain) && stdout.lines().count() == 1);
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(shown["causes"].as_array().unwrap().len(), 101);
    assert_eq!(shown["causes"][0]["objects"], 271);
    assert_eq!(shown["causes"][1]["first"].as_array().unwrap().len(), 10);
}

/// The receipts that the journal adds again after a rewind are in memory until S3 takes them.
#[tokio::test(flavor = "multi_thread")]
async fn receipts_wait_for_room_while_s3_takes_none() {
    let world = world_with_reports_bucket().await;
    let limits = PieceLimits {
        bytes: 10_000,
        time: Duration::from_hours(1),
        waiting: 1000,
    };
    let mut report = open_with(&world.bucket(OPS).await, "19ca71fb900a83f4", limits).await;
    report.room().await;
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    // Nothing is sent, so that each call waits until the sender is dropped.
    let stall = Effect::hook(move |_| {
        let released = released.lock().unwrap();
        let _ = tokio::task::block_in_place(|| released.recv_timeout(Duration::from_secs(30)));
    });
    world.add_fault(Fault::on(Operation::PutObject).bucket(OPS).then(stall));
    report.rewind(0).unwrap();
    (0..200).for_each(|number| report.add(&receipt(number)));
    let waited = timeout(Duration::from_millis(300), report.room()).await;
    assert!(waited.is_err(), "200 receipts do not fit");
    drop(release);
    timeout(Duration::from_secs(30), report.room())
        .await
        .expect("S3 takes receipts again");
    let (report, written) = synced(report).await;
    written.unwrap();
    finish(report.end()).await.unwrap();
    let (exit, stdout, _) = show(&world, &["--json"]).await;
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((exit, &shown["receipts"]["lines"]), (0, &200.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_changed_piece_is_reported() {
    let world = world_with_reports_bucket().await;
    let lines: Vec<_> = (0..3).map(receipt).collect();
    let directory = report(&world, &lines).await;
    let piece = format!("{directory}000003.jsonl");
    let whole = world.object(OPS, &piece).unwrap();
    let whole = whole.content.to_bytes().to_vec();
    let longer = [&whole[..], b"{}\n"].concat();
    for (bytes, said) in [
        (longer, "its piece 3 was changed"),
        (b"nothing\n".to_vec(), "its piece 3 has no head"),
        (vec![b'x'; 10_000], "its piece 3 has no head"),
        // A piece that claims to begin far behind the end of the one before.
        (
            String::from_utf8(whole.clone())
                .unwrap()
                .replace("\"at\":", "\"at\":1")
                .into_bytes(),
            "its piece 3 begins at byte 1",
        ),
    ] {
        write(&world, &piece, bytes);
        let (exit, stdout, stderr) = show(&world, &[]).await;
        assert!(
            (exit, stdout.as_str()) == (3, "") && stderr.contains(said),
            "{said}: {exit} {stdout} {stderr}"
        );
    }
    world.sandbox.store().delete_object(OPS, &piece);
    let (exit, _, stderr) = show(&world, &[]).await;
    assert!(
        exit == 3 && stderr.contains("pieces are missing"),
        "{exit} {stderr}"
    );
    // A session that resumes such a run starts its report anew, and says what is missing.
    let bucket = world.bucket(OPS).await;
    let mut anew = open(&bucket, "19ca71fb900a83f4").await;
    anew.rewind(500).unwrap();
    anew.add(&receipt(9));
    let (anew, written) = synced(anew).await;
    written.unwrap();
    finish(anew.end()).await.unwrap();
    let (exit, stdout, _) = show(&world, &[]).await;
    assert!(exit == 0 && stdout.contains("are missing here"), "{stdout}");

    // Other lines of the same length.
    let world = world_with_reports_bucket().await;
    let directory = report(&world, &lines).await;
    let piece = format!("{directory}000003.jsonl");
    let text = String::from_utf8(whole).unwrap();
    write(&world, &piece, text.replace("s3://source/", "s3://sourse/"));
    let (exit, stdout, _) = show(&world, &[]).await;
    assert!(
        exit == 0 && stdout.contains("damaged: the footer was written for other lines"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_are_no_pieces_are_stepped_over() {
    let world = world_with_reports_bucket().await;
    for key in [
        "many/report-",
        "many/report-99999999T000000Z/000001.jsonl",
        "many/report-99999999T000000Z-/000001.jsonl",
        "many/report-zzz/000001.jsonl",
        "many/report.jsonl",
        "many/segment-0000000001.log",
    ] {
        write(&world, key, "x");
    }
    let (exit, _, stderr) = show(&world, &[]).await;
    assert!(
        exit == 2 && stderr.contains("there is no report below"),
        "{exit} {stderr}"
    );
    let directory = report(&world, &[receipt(1)]).await;
    for name in [
        "readme",
        "000002.jsonl.bak",
        "x.jsonl",
        "-1.jsonl",
        "deeper/000009.jsonl",
    ] {
        write(&world, &format!("{directory}{name}"), "x");
    }
    let dir = TempDir::new().unwrap();
    // The second provider has no known order of lists.
    for provider in ["aws", "auto"] {
        let words = ["report", "show", "s3://ops/many/", "--provider", provider];
        let (exit, stdout, stderr) = run_in(&world, dir.path(), &words).await;
        assert!(
            exit == 0 && stdout.contains("complete, exit code 0"),
            "{provider}: {exit} {stdout} {stderr}"
        );
    }
    let bucket = world.bucket(OPS).await;
    let reports = ReportBucket::new(bucket, "none/".parse().unwrap());
    assert!(matches!(reports.latest().await, Ok::<_, ReportError>(None)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_is_removed_during_the_run_is_reported() {
    let world = world_with_reports_bucket().await;
    let bucket = world.bucket(OPS).await;
    let mut report = open(&bucket, "19ca71fb900a83f4").await;
    report.add(&receipt(1));
    let (report, written) = synced(report).await;
    written.unwrap();
    let store = world.sandbox.store();
    let keys = store.keys(OPS);
    let second = keys.iter().find(|key| key.ends_with("000002.jsonl"));
    store.delete_object(OPS, second.unwrap());
    let error = finish(report.end()).await.unwrap_err().to_string();
    assert!(
        error.contains("lacks receipts: its piece 2 was removed during the run"),
        "{error}"
    );
    assert!(
        !store
            .keys(OPS)
            .iter()
            .any(|key| key.ends_with("000003.jsonl")),
        "a report that lacks receipts must have no footer"
    );
}

/// The server returns all bytes of a piece to the request for its head.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_can_keep_reports() {
    let world = world_with_reports_bucket().await;
    // A head and a line that together exceed the range of the request.
    let long = format!("s3://source/{}", "k".repeat(5000));
    let line = receipt(1).replace("s3://source/", &long);
    report(&world, &[line]).await;
    let keys = world.sandbox.store().keys(OPS);
    let longest = keys.iter().map(|key| world.object(OPS, key).unwrap().size);
    assert!(longest.max().unwrap() > 4096, "no piece exceeds the range");
    let fault = Fault::on(Operation::GetObject).then(Effect::Ignore(&["range"]));
    world.add_fault(fault);
    let (exit, stdout, stderr) = show(&world, &[]).await;
    assert!(
        exit == 0 && stdout.contains("complete, exit code 0"),
        "{exit} {stdout} {stderr}"
    );
}
