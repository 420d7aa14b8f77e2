//! The reports of all shards, merged into one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use s3haul::report::Footer;
use s3haul::sandbox::{Content, ObjectSpec, Operation};
use s3haul::shards::names::report_of;
use s3haul::shards::record::{ShardActivity, ShardPlan};
use serde_json::Value;
use tempfile::TempDir;

use super::state::{
    OPS, RUN, STATE, State, footer, lines, origin, plan, receipt, receipt_of_version,
};
use crate::world::program::{at, run};

/// Merges the reports into a file.
pub(super) async fn merge(state: &State, directory: &TempDir) -> (i32, String, String, PathBuf) {
    let path = directory.path().join("merged.jsonl");
    let words = ["report", "merge", STATE, "--out", path.to_str().unwrap()];
    let (exit, stdout, stderr) = run(at(&state.world), &words).await;
    (exit, stdout, stderr, path)
}

/// Returns the sources and statuses of the receipts in a file, sorted.
fn receipts(path: &Path) -> Vec<(String, String)> {
    let lines = lines(path);
    let text = |line: &Value, field: &str| line[field].as_str().unwrap().to_owned();
    let receipts = lines.iter().filter(|line| line["status"].is_string());
    let mut receipts: Vec<_> = receipts
        .map(|line| {
            (
                text(line, "source").replace("s3://source/", ""),
                text(line, "status"),
            )
        })
        .collect();
    receipts.sort();
    receipts
}

pub(super) fn footer_of(path: &Path) -> Value {
    lines(path).last().unwrap()["footer"].clone()
}

fn pairs(receipts: &[(String, String)]) -> Vec<(&str, &str)> {
    receipts
        .iter()
        .map(|(key, status)| (key.as_str(), status.as_str()))
        .collect()
}

/// Returns the state of three shards that have ended: one after two runs.
async fn ended() -> State {
    let state = State::planned(3).await;
    let (a, b, gone) = (
        receipt("a", "done"),
        receipt("b", "failed"),
        receipt("gone", "failed"),
    );
    state.report(0, 0, &[a, b, gone], Some(footer(1))).await;
    state.end(0, 0, 2);
    // The shard's next run finds the first one's copy of `a`. `gone` has since been deleted from
    // the source.
    let again = [receipt("a", "skipped"), receipt("b", "done")];
    state.report(0, 1, &again, Some(footer(0))).await;
    state.end(0, 1, 0);
    // A session that resumes an unordered list reports objects again.
    let resumed = [
        receipt("c", "done"),
        receipt("d", "skipped"),
        receipt("c", "skipped"),
    ];
    state.report(1, 0, &resumed, Some(footer(0))).await;
    state.end(1, 0, 0);
    state.report(2, 0, &[], Some(footer(0))).await;
    state.end(2, 0, 0);
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn each_object_has_one_receipt_whichever_run_of_its_shard_copied_it() {
    let (state, directory) = (ended().await, TempDir::new().unwrap());
    let (exit, stdout, stderr, path) = merge(&state, &directory).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    assert_eq!(
        pairs(&receipts(&path)),
        [
            ("a", "done"),
            ("b", "done"),
            ("c", "done"),
            ("d", "skipped")
        ]
    );
    let header = &lines(&path)[0];
    assert_eq!(
        header["command"],
        serde_json::json!(["run", "job.yaml", "--state", STATE, "--shards", "4"])
    );
    let footer = footer_of(&path);
    for (field, expected) in [
        ("done_objects", 3),
        ("skipped_objects", 1),
        ("lines", 4),
        ("exit", 0),
    ] {
        assert_eq!(footer[field], expected, "{field}");
    }
    assert_eq!(footer["shards"]["total"], 3);
    for said in [
        "lake (s3://ops/runs/lake-1/): complete of all 3 shards, exit code 0",
        "  3 objects copied (300B), 1 unchanged, 0 pending",
        "  proven by: crc64nvme 3",
        "  written to ",
        "  to compare both sides again: s3haul verify --report ",
    ] {
        assert!(stdout.contains(said), "{said}: {stdout}");
    }
    let (exit, shown, _) = run(
        at(&state.world),
        &["report", "show", path.to_str().unwrap()],
    )
    .await;
    assert!(
        exit == 0 && shown.contains("complete of all 3 shards, exit code 0"),
        "{shown}"
    );
    // `report show` reads the totals of the state, and no report of a shard with nothing left to
    // do.
    let (exit, shown, _) = run(at(&state.world), &["report", "show", STATE]).await;
    assert!(
        exit == 0 && shown.contains("complete of all 3 shards, exit code 0"),
        "{shown}"
    );
    // A second merge replaces the first one, with the same result.
    let before = std::fs::read_to_string(&path).unwrap();
    let (exit, ..) = merge(&state, &directory).await;
    assert_eq!((exit, std::fs::read_to_string(&path).unwrap()), (0, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_whose_end_is_missing_makes_the_result_incomplete() {
    let (state, directory) = (ended().await, TempDir::new().unwrap());
    let key = format!("{RUN}done/1.json");
    state.world.sandbox.store().delete_object(OPS, &key);
    let (exit, stdout, _, path) = merge(&state, &directory).await;
    assert_eq!(exit, 4, "{stdout}");
    for said in [
        "): incomplete: 1 of 3 shards not ended",
        "  shard 1: it has not finished: it is still running, or was stopped",
        "  to see how far they are: s3haul status s3://ops/runs/lake-1/",
    ] {
        assert!(stdout.contains(said), "{said}: {stdout}");
    }
    let footer = footer_of(&path);
    assert_eq!(
        (&footer["complete"], &footer["exit"]),
        (&false.into(), &4.into())
    );
    assert!(
        footer["shards"]["reasons"]["1"]
            .as_str()
            .unwrap()
            .contains("has not finished")
    );
    // The known receipts are there.
    assert_eq!(receipts(&path).len(), 4);
    let (_, shown, _) = run(
        at(&state.world),
        &["report", "show", path.to_str().unwrap()],
    )
    .await;
    assert!(
        shown.contains("incomplete: 1 of 3 shards not ended"),
        "{shown}"
    );
}

/// Each way in which a shard's report can be incomplete.
#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_report_is_reported_with_its_shard() {
    let state = State::planned(9).await;
    let whole = [
        receipt("a", "done"),
        receipt("b", "done"),
        receipt("c", "done"),
    ];
    let report = async |shard: u32, footer: Option<Footer>| {
        state.report(shard, 0, &whole, footer).await;
    };
    let piece = |shard: u32, number: u32| {
        let keys = state.world.keys(OPS);
        let end = format!("{number:06}.jsonl");
        let below = format!("{RUN}shards/{shard}/report/");
        let mut found = keys
            .into_iter()
            .filter(|key| key.starts_with(&below) && key.ends_with(&end));
        found.next().unwrap()
    };
    let store = || state.world.sandbox.store();
    // 0: complete. 1: killed. 2: stopped. 3: not started. 4: ended without its report.
    report(0, Some(footer(0))).await;
    report(1, None).await;
    report(2, Some(footer(4))).await;
    // 5: a piece is missing. 6: a piece was changed. 7: a later run left no report.
    for shard in 5..9 {
        report(shard, Some(footer(0))).await;
    }
    store().delete_object(OPS, &piece(5, 2));
    let key = piece(6, 2);
    let text = store().object(OPS, &key).unwrap().content.to_bytes();
    let text = String::from_utf8(text.to_vec())
        .unwrap()
        .replace("\"size\":100", "\"size\":101");
    store().put_object(OPS, &key, Content::bytes(text), &ObjectSpec::default());
    for shard in [0, 4, 5, 6] {
        state.end(shard, 0, 0);
    }
    state.end(7, 1, 0);
    // 8: failed, and its report says so.
    state.end(8, 0, 1);
    state.live(1, ShardActivity::Running, 3, Duration::from_secs(1));

    let directory = TempDir::new().unwrap();
    let (exit, stdout, stderr, path) = merge(&state, &directory).await;
    assert_eq!(exit, 4, "{stdout} {stderr}");
    assert!(
        stdout.contains("incomplete: 7 of 9 shards not ended"),
        "{stdout}"
    );
    for said in [
        "shard 1: it has not finished",
        "shard 2: it has not finished",
        "shard 3: no process has started it",
        "shard 4: the report of its last run is missing",
        "shard 5: its report is damaged: its piece",
        "shard 6: its report is damaged: ",
        "shard 7: the report of its last run is missing",
    ] {
        assert!(stdout.contains(said), "{said}: {stdout}");
    }
    assert!(!stdout.contains("shard 0:"), "{stdout}");
    assert_eq!(footer_of(&path)["shards"]["incomplete"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_any_report_is_refused() {
    let state = State::planned(2).await;
    for words in [["report", "merge", STATE], ["report", "show", STATE]] {
        let (exit, _, stderr) = run(at(&state.world), &words).await;
        assert!(
            exit == 2 && stderr.contains("has a report yet"),
            "{exit} {stderr}"
        );
    }
    // An obstacle at the output is reported before anything is read.
    state
        .report(0, 0, &[receipt("a", "done")], Some(footer(0)))
        .await;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("merged.jsonl");
    std::fs::write(&path, "mine").unwrap();
    let (exit, _, stderr, _) = merge(&state, &directory).await;
    assert!(
        exit == 3 && stderr.contains("holds something other than") && stderr.contains("in --out"),
        "{exit} {stderr}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_shards_are_one_report() {
    let state = State::planned(200).await;
    for shard in 0..200 {
        let keys = [format!("{shard:03}/a"), format!("{shard:03}/b")];
        let status = if shard == 77 { "failed" } else { "done" };
        let receipts = [receipt(&keys[0], "done"), receipt(&keys[1], status)];
        let failed = u64::from(shard == 77);
        let exit = i32::from(shard == 77);
        state.report(shard, 0, &receipts, Some(footer(exit))).await;
        state.end(shard, 0, failed);
    }
    let directory = TempDir::new().unwrap();
    let (exit, stdout, stderr, path) = merge(&state, &directory).await;
    assert_eq!(exit, 1, "{stdout} {stderr}");
    let merged = receipts(&path);
    assert_eq!(merged.len(), 400);
    let mut keys: Vec<_> = merged.iter().map(|(key, _)| key).collect();
    keys.dedup();
    assert_eq!(keys.len(), 400);
    for said in [
        "1 x failed CopyObject AccessDenied: Access Denied; allow it",
        "      s3://source/077/b",
        "to copy what failed: s3haul retry s3://ops/runs/lake-1/",
    ] {
        assert!(stdout.contains(said), "{said}: {stdout}");
    }
    // `report show` reads the only shard with something left to do.
    let gets = state.world.sandbox.calls().of(Operation::GetObject).len();
    let (exit, shown, _) = run(at(&state.world), &["report", "show", STATE]).await;
    assert!(
        exit == 0 && shown.contains("      s3://source/077/b"),
        "{shown}"
    );
    let gets = state
        .world
        .sandbox
        .calls()
        .of(Operation::GetObject)
        .split_off(gets);
    let bodies = gets
        .iter()
        .filter(|call| call.key.contains("/report/") && !call.headers.contains_key("range"));
    // The footers of all reports, and the pieces of one, twice.
    assert!(bodies.count() < 200 + 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_counts_as_later_than_all_shards() {
    let state = State::planned(2).await;
    let failed = [receipt("a", "done"), receipt("b", "failed")];
    state.report(0, 0, &failed, Some(footer(1))).await;
    state.end(0, 0, 1);
    // The second shard's list failed, which concerns no single object.
    let mut list: Value = serde_json::from_str(&receipt("", "failed")).unwrap();
    list["error"]["operation"] = "ListObjectsV2".into();
    state
        .report(1, 0, &[list.to_string()], Some(footer(1)))
        .await;
    state.end(1, 0, 1);
    let directory = TempDir::new().unwrap();
    let (exit, ..) = merge(&state, &directory).await;
    assert_eq!(exit, 1);

    // A killed retry does not count, and neither does one that only repaired losses.
    let later = jiff::Timestamp::now().as_millisecond();
    let retried = |number: i64| origin(&format!("{:011x}{number:05x}", later + number), 0);
    let below = |what: &str| format!("{RUN}{what}/");
    let b = [receipt("b", "done")];
    state
        .report_at(&below("retry"), &retried(1), &b, None)
        .await;
    state
        .report_at(
            &below("repair"),
            &retried(2),
            &[receipt("a", "done")],
            Some(footer(0)),
        )
        .await;
    let (exit, _, _, path) = merge(&state, &directory).await;
    assert_eq!(exit, 1);
    assert_eq!(
        pairs(&receipts(&path)),
        [("", "failed"), ("a", "done"), ("b", "failed")]
    );

    // The retry listed the rest and copied the failed objects.
    let retry = [
        receipt("b", "done"),
        receipt("new", "done"),
        receipt("a", "skipped"),
    ];
    state
        .report_at(&below("retry"), &retried(3), &retry, Some(footer(0)))
        .await;
    let (exit, stdout, _, path) = merge(&state, &directory).await;
    assert_eq!(exit, 0, "{stdout}");
    assert_eq!(
        pairs(&receipts(&path)),
        [("a", "done"), ("b", "done"), ("new", "done")]
    );
    let (_, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(
        stdout.contains(
            "the latest retry ended with exit code 0: s3://ops/runs/lake-1/retry/report-"
        ) && stdout.contains(&format!("to read the result: s3haul report merge {STATE}")),
        "{stdout}"
    );
}

/// A clean shard is counted by its footer only if no retry has a line about its objects.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_failed_list_counts_no_object_twice() {
    let state = State::planned(2).await;
    let done = Footer {
        done_objects: 1,
        done_bytes: 100,
        ..footer(0)
    };
    state
        .report(0, 0, &[receipt("a", "done")], Some(done))
        .await;
    state.end(0, 0, 0);
    let mut list: Value = serde_json::from_str(&receipt("", "failed")).unwrap();
    list["error"]["operation"] = "ListObjectsV2".into();
    state
        .report(1, 0, &[list.to_string()], Some(footer(1)))
        .await;
    state.end(1, 0, 1);
    let retried = [receipt("a", "skipped"), receipt("new", "done")];
    state
        .report_at(
            &format!("{RUN}retry/"),
            &retry(1),
            &retried,
            Some(footer(0)),
        )
        .await;
    let (_, shown, _) = run(at(&state.world), &["report", "show", STATE]).await;
    assert!(
        shown.contains("2 objects copied (200B), 0 unchanged, 0 pending"),
        "{shown}"
    );
}

/// The retry has copied what failed, but another shard has not ended.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_an_unfinished_run_names_its_retry() {
    let state = State::planned(2).await;
    state
        .report(0, 0, &[receipt("b", "failed")], Some(footer(1)))
        .await;
    state.end(0, 0, 1);
    state
        .report_at(
            &format!("{RUN}retry/"),
            &retry(1),
            &[receipt("b", "done")],
            Some(footer(0)),
        )
        .await;
    let (_, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(
        stdout.contains("the latest retry ended with exit code 0")
            && stdout.contains("to continue: the retry copied what had failed"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_without_keys_need_no_report() {
    let state = State::planned(2).await;
    let mut empty: ShardPlan = plan(2, state.ago(Duration::from_hours(1)));
    empty.shards[1].ranges.clear();
    state.put("plan.json", &empty, Duration::ZERO);
    state
        .report(0, 0, &[receipt("a", "done")], Some(footer(0)))
        .await;
    state.end(0, 0, 0);
    state.end_without_run(1);
    let directory = TempDir::new().unwrap();
    let (exit, stdout, _, _) = merge(&state, &directory).await;
    assert_eq!(exit, 0, "{stdout}");
}

/// Returns the name of the n-th retry, which begins after all shards have ended.
pub(super) fn retry(number: i64) -> s3haul::report::ReportHeader {
    let later = jiff::Timestamp::now().as_millisecond();
    origin(&format!("{:011x}{number:05x}", later + number), 0)
}

/// Only the receipts of objects that were read name a version.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_a_versioned_bucket_has_one_receipt() {
    let state = State::planned(1).await;
    let first = [
        receipt_of_version("copied", "done", "v1"),
        receipt("unread", "failed"),
        receipt_of_version("overwritten", "failed", "v1"),
        // The same session tries again.
        receipt("twice", "failed"),
        receipt_of_version("twice", "done", "v1"),
        receipt("never", "failed"),
    ];
    state.report(0, 0, &first, Some(footer(1))).await;
    // The list of the next run finds the copy equal.
    let again = [
        receipt("copied", "skipped"),
        receipt("unread", "failed"),
        receipt("overwritten", "failed"),
        receipt("twice", "skipped"),
        receipt("never", "failed"),
    ];
    state.report(0, 1, &again, Some(footer(1))).await;
    state.end(0, 1, 3);
    let retried = [
        receipt_of_version("unread", "done", "v1"),
        receipt_of_version("overwritten", "done", "v2"),
        receipt("never", "failed"),
    ];
    let below = format!("{RUN}retry/");
    state
        .report_at(&below, &retry(1), &retried, Some(footer(1)))
        .await;
    let directory = TempDir::new().unwrap();
    let (exit, stdout, stderr, path) = merge(&state, &directory).await;
    assert_eq!(exit, 1, "{stdout} {stderr}");
    assert_eq!(
        pairs(&receipts(&path)),
        [
            ("copied", "done"),
            ("never", "failed"),
            ("overwritten", "done"),
            ("twice", "done"),
            ("unread", "done"),
        ]
    );
    let merged = path.to_str().unwrap();
    for place in [STATE, merged] {
        let (_, shown, _) = run(at(&state.world), &["report", "show", place]).await;
        assert!(
            shown.contains("4 objects copied (400B), 0 unchanged, 0 pending, 1 failed"),
            "{place}: {shown}"
        );
    }
}

/// Reports of older versions do not say which transfers copy histories. Those of one run, and of
/// one shard, may come from several versions of s3haul.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_in_reports_of_old_and_new_versions_has_one_receipt() {
    let state = State::planned(1).await;
    let below = format!("{RUN}{}", report_of(0));
    let old = s3haul::report::ReportHeader {
        histories: None,
        ..origin(&super::state::run(0, 1), 0)
    };
    state
        .report(0, 0, &[receipt("a", "failed")], Some(footer(1)))
        .await;
    let first = [
        receipt_of_version("a", "done", "v1"),
        receipt_of_version("b", "failed", "v1"),
    ];
    state.report_at(&below, &old, &first, Some(footer(1))).await;
    state.end(0, 1, 1);
    let retried = [
        receipt("a", "skipped"),
        receipt_of_version("b", "done", "v1"),
    ];
    state
        .report_at(
            &format!("{RUN}retry/"),
            &retry(1),
            &retried,
            Some(footer(0)),
        )
        .await;
    let directory = TempDir::new().unwrap();
    let (exit, stdout, stderr, path) = merge(&state, &directory).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    assert_eq!(pairs(&receipts(&path)), [("a", "done"), ("b", "done")]);
}
