//! Damaged reports of shards and of retries, and what the commands say about them.

use std::time::Duration;

use s3haul::sandbox::{Content, ObjectSpec};
use s3haul::shards::record::{FORMAT, PlanLease};
use tempfile::TempDir;

use super::merge::{footer_of, merge, retry};
use super::real::two_failed;
use super::state::{OPS, RUN, STATE, State, footer, process, receipt};
use crate::world::World;
use crate::world::program::{at, run};

/// Replaces a text in the first piece below a prefix that has it. Returns the key of the piece.
fn change(world: &World, below: &str, from: &str, to: &str) -> String {
    let store = world.sandbox.store();
    let keys = world.keys(OPS);
    let text = |key: &String| {
        let object = store.object(OPS, key).unwrap();
        String::from_utf8(object.content.to_bytes().to_vec()).unwrap()
    };
    let mut pieces = keys.iter().filter(|key| key.starts_with(below));
    let key = pieces.find(|key| text(key).contains(from)).unwrap();
    let changed = text(key).replace(from, to);
    store.put_object(OPS, key, Content::bytes(changed), &ObjectSpec::default());
    key.clone()
}

/// Changes the content of a piece of a report, and keeps its length.
fn damage(world: &World, below: &str) -> String {
    change(world, below, "\"size\":100", "\"size\":101")
}

/// Makes the footer of a report unreadable, and keeps the head of its piece.
fn damage_footer(world: &World, below: &str) -> String {
    change(world, below, "{\"footer\":{", "{\"fooler\":{")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_report_of_an_earlier_run_is_reported_if_it_is_needed() {
    let state = State::planned(2).await;
    for shard in [0, 1] {
        let first = [receipt("a", "done"), receipt("b", "failed")];
        let first = first.map(|line| line.replace("source/", &format!("source/{shard}/")));
        state.report(shard, 0, &first, Some(footer(1))).await;
    }
    // The next run of shard 0 names only copies of its own.
    let again = [receipt("a", "skipped"), receipt("b", "done")];
    let again = again.map(|line| line.replace("source/", "source/1/"));
    state.report(1, 1, &again, Some(footer(0))).await;
    let other = [receipt("0/a", "done"), receipt("0/b", "done")];
    state.report(0, 1, &other, Some(footer(0))).await;
    for shard in [0, 1] {
        state.end(shard, 1, 0);
    }
    let directory = TempDir::new().unwrap();
    let (exit, stdout, ..) = merge(&state, &directory).await;
    assert_eq!(exit, 0, "{stdout}");
    let pieces = [0, 1].map(|shard| {
        let below = format!("{RUN}shards/{shard}/report/");
        damage(&state.world, &below)
    });
    for is_gone in [false, true] {
        if is_gone {
            state.world.sandbox.store().delete_object(OPS, &pieces[0]);
        }
        let (exit, stdout, _, path) = merge(&state, &directory).await;
        assert_eq!(exit, 4, "{stdout}");
        assert!(
            stdout.contains("shard 1: its report is damaged: ") && !stdout.contains("shard 0:"),
            "{stdout}"
        );
        assert_eq!(footer_of(&path)["shards"]["incomplete"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_report_of_a_retry_makes_the_result_incomplete() {
    let state = State::planned(1).await;
    let failed = [receipt("a", "done"), receipt("b", "failed")];
    state.report(0, 0, &failed, Some(footer(1))).await;
    state.end(0, 0, 1);
    let (below, b) = (format!("{RUN}retry/"), [receipt("b", "done")]);
    let directory = TempDir::new().unwrap();
    // A piece was changed, or is gone.
    for (number, is_changed) in [(1, true), (2, false)] {
        state
            .report_at(&below, &retry(number), &b, Some(footer(0)))
            .await;
        let (exit, stdout, ..) = merge(&state, &directory).await;
        assert_eq!(exit, 0, "{stdout}");
        let key = damage(&state.world, &below);
        let store = state.world.sandbox.store();
        if !is_changed {
            store.delete_object(OPS, &key);
        }
        let (exit, stdout, _, path) = merge(&state, &directory).await;
        assert_eq!(exit, 4, "{stdout}");
        let (report, _) = key.rsplit_once('/').unwrap();
        for said in [
            "incomplete: the report of a retry is damaged".to_owned(),
            format!("s3://ops/{report}/, the report of a retry, is damaged: "),
        ] {
            assert!(stdout.contains(&said), "{said}: {stdout}");
        }
        let retries = &footer_of(&path)["shards"]["damaged_retries"];
        assert_eq!(retries.as_object().unwrap().len(), 1, "{retries}");
        // Without it, its object has failed.
        let keys = state.world.keys(OPS);
        for key in keys.iter().filter(|key| key.starts_with(&below)) {
            store.delete_object(OPS, key);
        }
        let (exit, ..) = merge(&state, &directory).await;
        assert_eq!(exit, 1);
    }
}

/// Retries do not replace each other, so that each damage counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_good_report_of_a_retry_hides_no_damaged_one() {
    let state = State::planned(1).await;
    let failed = [receipt("a", "failed"), receipt("b", "failed")];
    state.report(0, 0, &failed, Some(footer(1))).await;
    state.end(0, 0, 2);
    let directory = TempDir::new().unwrap();
    let mut places = Vec::new();
    for (number, what, key) in [(1, "retry", "a"), (2, "repair", "a"), (3, "retry", "b")] {
        let below = format!("{RUN}{what}/");
        let done = [receipt(key, "done")];
        state
            .report_at(&below, &retry(number), &done, Some(footer(0)))
            .await;
        if number < 3 {
            let piece = damage(&state.world, &below);
            state.world.sandbox.store().delete_object(OPS, &piece);
            let (report, _) = piece.rsplit_once('/').unwrap();
            places.push(format!("s3://ops/{report}/"));
        }
    }
    let (exit, stdout, _, path) = merge(&state, &directory).await;
    assert_eq!(exit, 4, "{stdout}");
    let footer = footer_of(&path);
    let damaged = footer["shards"]["damaged_retries"].as_object().unwrap();
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    for place in places {
        let said = format!("{place}, the report of a retry, is damaged: ");
        assert!(
            damaged.contains_key(&place) && stdout.contains(&said),
            "{said}: {stdout}"
        );
    }
}

/// A footer that cannot be read is a damage of its report alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_footer_keeps_no_other_report_from_being_merged() {
    let state = State::planned(2).await;
    let failed = [receipt("a", "done"), receipt("b", "failed")];
    state.report(0, 0, &failed, Some(footer(1))).await;
    state.end(0, 0, 1);
    state
        .report(1, 0, &[receipt("c", "done")], Some(footer(0)))
        .await;
    state.end(1, 0, 0);
    let below = format!("{RUN}retry/");
    let retried = [receipt("b", "done")];
    state
        .report_at(&below, &retry(1), &retried, Some(footer(0)))
        .await;
    damage_footer(&state.world, &below);
    let directory = TempDir::new().unwrap();
    let (exit, stdout, stderr, _) = merge(&state, &directory).await;
    assert!(
        exit == 4 && stdout.contains("the report of a retry, is damaged: its piece"),
        "{exit} {stdout} {stderr}"
    );
    assert!(
        stdout.contains("2 objects copied (200B), 0 unchanged, 0 pending, 1 failed"),
        "{stdout}"
    );
    let (exit, stdout, stderr) = run(at(&state.world), &["status", STATE]).await;
    assert!(
        exit == 0 && stdout.contains("the report of the latest retry is damaged: "),
        "{exit} {stdout} {stderr}"
    );
    damage_footer(&state.world, &format!("{RUN}shards/1/report/"));
    let (exit, stdout, stderr, _) = merge(&state, &directory).await;
    assert!(
        exit == 4 && stdout.contains("shard 1: its report is damaged: its piece"),
        "{exit} {stdout} {stderr}"
    );
    assert!(stdout.contains("2 objects copied (200B)"), "{stdout}");
    // The header of the first report is no better.
    change(
        &state.world,
        &format!("{RUN}shards/0/report/"),
        "{\"report\":2",
        "{\"retort\":2",
    );
    let (exit, stdout, stderr, _) = merge(&state, &directory).await;
    assert!(
        exit == 4 && stdout.contains("shard 0: its report is damaged: line 1: "),
        "{exit} {stdout} {stderr}"
    );
}

/// All shards have ended and nothing is left to copy, so that only the damaged report is at fault.
#[tokio::test(flavor = "multi_thread")]
async fn all_commands_name_the_damaged_report_of_a_retry() {
    let shards = two_failed(false).await;
    let state = "s3://ops/run/";
    let retried = shards.run(&["retry", state]).await;
    assert_eq!(retried.exit, 0, "{}", retried.stderr);
    change(
        &shards.world,
        "run/retry/report-",
        "\"size\":1",
        "\"size\":2",
    );
    let merged = shards
        .run(&["report", "merge", state, "--out", "merged.jsonl"])
        .await;
    assert_eq!(merged.exit, 4, "{} {}", merged.stdout, merged.stderr);
    for place in [state, "merged.jsonl"] {
        for (words, exit) in [
            (&["retry", place][..], 2),
            (&["report", "show", place][..], 0),
            (&["verify", "--report", place][..], 1),
        ] {
            let ended = shards.run(words).await;
            let said = format!("{} {}", ended.stdout, ended.stderr);
            assert_eq!(ended.exit, exit, "{words:?}: {said}");
            assert!(
                said.contains("the report of a retry, is damaged: ")
                    && said.contains("delete it to merge without it"),
                "{words:?}: {said}"
            );
            for wrong in ["not ended", "stopped before", "how far they are", "run `"] {
                assert!(!said.contains(wrong), "{words:?}: {wrong}: {said}");
            }
        }
    }
}

/// No header is left, so that there is nothing to merge. The reports are lost, and not pending.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_reports_are_all_damaged_is_incomplete() {
    let state = State::planned(3).await;
    for shard in 0..3 {
        // Several pieces.
        let receipts = ["a", "b", "c"].map(|key| receipt(&format!("{shard}/{key}"), "done"));
        state.report(shard, 0, &receipts, Some(footer(0))).await;
        state.end(shard, 0, 0);
    }
    let store = state.world.sandbox.store();
    let below = |shard| format!("{RUN}shards/{shard}/report/");
    let pieces = |shard| {
        let keys = state.world.keys(OPS).into_iter();
        keys.filter(|key| key.starts_with(&below(shard)))
            .collect::<Vec<_>>()
    };
    for shard in 0..3 {
        let pieces = pieces(shard);
        assert!(pieces.len() > 1, "{pieces:?}");
        store.delete_object(OPS, &pieces[0]);
    }
    for key in pieces(2) {
        store.delete_object(OPS, &key);
    }
    for words in [
        &["report", "merge", STATE][..],
        &["report", "show", STATE],
        &["verify", "--report", STATE],
        &["retry", STATE],
    ] {
        let (exit, stdout, stderr) = run(at(&state.world), words).await;
        assert_eq!(exit, 4, "{words:?}: {stdout} {stderr}");
        for said in [
            "shard 0: its report is damaged: ",
            "shard 1: its report is damaged: ",
            "shard 2: the report of its last run is missing",
        ] {
            assert!(stderr.contains(said), "{said}: {stderr}");
        }
        assert!(!stderr.contains("yet"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_lost_its_plan_is_not_being_planned() {
    let state = State::planned(1).await;
    state.put("plan.lease", &lease(&state), Duration::ZERO);
    state.end(0, 0, 0);
    let (exit, stdout, stderr) = run(at(&state.world), &["status", STATE]).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    let plan = format!("{RUN}plan.json");
    state.world.sandbox.store().delete_object(OPS, &plan);
    for words in [&["status", STATE][..], &["report", "merge", STATE]] {
        let (exit, stdout, stderr) = run(at(&state.world), words).await;
        assert!(
            exit == 3 && stderr.contains(&format!("s3://ops/{plan} cannot be read: it is missing")),
            "{words:?}: {exit} {stdout} {stderr}"
        );
    }
}

fn lease(state: &State) -> PlanLease {
    PlanLease {
        format: FORMAT,
        by: process(0),
        renewed: state.ago(Duration::from_mins(5)),
        released: false,
    }
}
