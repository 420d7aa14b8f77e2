//! Views of runs in shards: their progress, and their reports as one.

mod damaged;
mod merge;
mod near;
mod real;
mod state;

use std::time::Duration;

use s3haul::sandbox::Operation;
use s3haul::shards::record::{FORMAT, PlanLease, ShardActivity, ShardsSummary};
use serde_json::Value;
use tempfile::TempDir;

use self::state::{OPS, RUN, STATE, State, process};
use crate::world::program::{at, process_at, run, run_in};

const NOW: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(185);

/// Returns a run with shards in all states.
async fn two_hundred() -> State {
    let state = State::planned(200).await;
    for shard in 0..120 {
        state.end(shard, 0, 0);
    }
    for shard in [120, 121] {
        state.end(shard, 0, 12);
    }
    for shard in 122..152 {
        let done = 20 * u64::from(shard - 121);
        state.live(shard, ShardActivity::Running, done, NOW);
    }
    state.live(152, ShardActivity::Running, 500, LONG);
    state.live(153, ShardActivity::Stopped, 400, LONG);
    state
}

/// Removes the seconds of a silence, which grow during the test.
fn still(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let cut = line
            .find("no sign of life for ")
            .filter(|_| line.contains("silent"));
        cut.map_or(line.to_owned(), |cut| {
            format!("{}no sign of life for 3m …", &line[..cut])
        })
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_shows_two_hundred_shards_with_few_requests() {
    let state = two_hundred().await;
    let (exit, stdout, stderr) = run(at(&state.world), &["status", STATE]).await;
    assert_eq!(exit, 0, "{stderr}");
    insta::assert_snapshot!(still(&stdout));
    for line in stdout.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let world = &state.world;
    // One list to tell what the location is, and one each of done/, failed/, and live/.
    assert_eq!(world.calls(Operation::ListObjectsV2), 4);
    // The plan, the records of ends, and the signs of life.
    assert_eq!(world.calls(Operation::GetObject), 1 + 122 + 32);
    assert_eq!(world.calls(Operation::PutObject), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_get_the_same_as_one_document() {
    let state = two_hundred().await;
    let (exit, stdout, stderr) = run(at(&state.world), &["status", STATE, "--json"]).await;
    assert_eq!(exit, 0, "{stderr}");
    let mut shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        shown["shards"],
        serde_json::json!({
            "total": 200, "done": 120, "failed": 2, "running": 30, "silent": 1, "stopped": 1,
            "not_begun": 46
        })
    );
    assert_eq!(shown["state_prefix"], STATE);
    assert_eq!(
        (&shown["job"], &shown["state"]),
        (&"lake".into(), &"running".into())
    );
    assert_eq!(shown["totals"]["failed_objects"], 24);
    assert!(shown["seconds_left"].as_u64() > Some(0), "{shown}");
    let slowest = shown["slowest"].as_array().unwrap();
    assert_eq!(slowest.len(), 5);
    let left = slowest
        .iter()
        .map(|shard| shard["seconds_left"].as_u64().unwrap());
    assert!(left.is_sorted_by(|one, other| one >= other), "{slowest:?}");
    assert_eq!(shown["silent"][0]["shard"], 152);
    assert_eq!(shown["failed"][1]["cause"], "12 objects failed");
    let next = shown["next"].as_str().unwrap();
    assert!(next.starts_with("silent shards: "), "{next}");
    // The documentation names each field.
    let page = include_str!("../../docs/shards.md");
    for field in shown.as_object_mut().unwrap().keys() {
        assert!(page.contains(&format!("`{field}`")), "{field}");
    }
    for field in shown["slowest"][0].as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{field}`")), "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_shard_that_starts_again_is_running() {
    let state = State::planned(3).await;
    state.end(0, 0, 3);
    state.live(0, ShardActivity::Running, 10, NOW);
    state.end(1, 0, 2);
    // The shard ended, and then its process died before it could write more.
    state.live(1, ShardActivity::Ended, 10, Duration::from_hours(1));
    // The shard has run again since, and is done: its earlier end does not count.
    state.end(2, 0, 2);
    state.end(2, 1, 0);
    let (_, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(stdout.contains("1 done, 1 failed, 1 running\n"), "{stdout}");
    assert!(
        stdout.contains("again     shard 0, after exit code 1: 3 objects failed")
            && stdout.contains("failed    shard 1: exit code 1: 2 objects failed"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_process_says_how_it_continues() {
    let state = State::planned(2).await;
    state.end(0, 0, 0);
    state.live(1, ShardActivity::Stopped, 10, LONG);
    let (exit, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(
        exit == 0
            && stdout.contains("no process is running")
            && stdout.contains("shards    1 done, 1 stopped")
            && stdout.contains("to continue: resume the job if it is suspended"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_over_names_the_next_command() {
    let state = State::planned(3).await;
    for shard in 0..2 {
        state.end(shard, 0, 0);
    }
    state.end(2, 0, 5);
    let (_, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(
        stdout.contains("lake (s3://ops/runs/lake-1/): ended, 1 shard failed")
            && stdout.contains(&format!("to copy what failed: s3haul retry {STATE}")),
        "{stdout}"
    );
    state.end(2, 1, 0);
    let (_, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(
        stdout.contains("): done\n")
            && stdout.contains(&format!("to read the result: s3haul report merge {STATE}")),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_summary_replaces_the_ends_of_all_shards() {
    let state = State::planned(50).await;
    for shard in 0..50 {
        state.end(shard, 0, 0);
    }
    let mut summary = ShardsSummary::of("lake", 50, &[]);
    (summary.done, summary.totals.done_objects) = (50, 50_000);
    state.put("summary.json", &summary, NOW);
    let (exit, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(
        exit == 0 && stdout.contains("objects   50,000 copied"),
        "{stdout}"
    );
    assert_eq!(
        state.world.calls(Operation::GetObject),
        2,
        "plan and summary"
    );
    // A summary from before a shard ran again says nothing.
    summary.done = 49;
    summary.failed.insert(3, 1);
    state.put("summary.json", &summary, NOW);
    let (_, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(stdout.contains("objects   50,000 copied"), "{stdout}");
    assert_eq!(state.world.calls(Operation::GetObject), 2 + 2 + 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_being_planned_names_who_plans() {
    let state = State::empty().await;
    let lease = PlanLease {
        format: FORMAT,
        by: process(7),
        renewed: state.ago(NOW),
        released: false,
    };
    state.put("plan.lease", &lease, NOW);
    let (exit, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(
        exit == 0 && stdout.contains("lake-1-7-x7k2p plans it"),
        "{stdout}"
    );
    let (_, stdout, _) = run(at(&state.world), &["status", STATE, "--json"]).await;
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (&shown["state"], &shown["host"]),
        (&"planning".into(), &"lake-1-7-x7k2p".into())
    );
    let (exit, _, stderr) = run(at(&state.world), &["report", "merge", STATE]).await;
    assert!(
        exit == 2 && stderr.contains("still being planned by lake-1-7"),
        "{exit} {stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_watches_until_all_shards_have_ended() {
    let state = State::planned(2).await;
    state.end(0, 0, 0);
    state.live(1, ShardActivity::Running, 10, NOW);
    for (failed, code) in [(4, 1), (0, 0)] {
        let child = process_at(&state.world)
            .args(["status", STATE, "--watch=20ms", "--json"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let gets = state.world.calls(Operation::GetObject);
        while state.world.calls(Operation::GetObject) < gets + 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let key = format!("{RUN}live/1.json");
        state.world.sandbox.store().delete_object(OPS, &key);
        state.end(1, u32::from(failed == 0), failed);
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let ended = ended.await.unwrap();
        assert_eq!(ended.status.code(), Some(code));
        let text = String::from_utf8(ended.stdout).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(last["state"], "ended");
        // The failed shard starts again.
        let key = format!("{RUN}failed/1.json");
        state.world.sandbox.store().delete_object(OPS, &key);
        state.live(1, ShardActivity::Running, 10, NOW);
    }
    // Each of the two commands reads the end of shard 0 once, not at each look.
    let gets = state.world.sandbox.calls().of(Operation::GetObject);
    let ends = gets.iter().filter(|call| call.key.ends_with("done/0.json"));
    assert_eq!(ends.count(), 2);
}

/// Kubernetes tries a failed index again after a while.
#[tokio::test(flavor = "multi_thread")]
async fn it_watches_on_while_a_failed_shard_may_be_tried_again() {
    let state = State::planned(1).await;
    state.end(0, 1, 3);
    let child = process_at(&state.world)
        .args(["status", STATE, "--watch=300ms", "--json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while state.world.calls(Operation::ListObjectsV2) < 9 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let key = format!("{RUN}failed/0.json");
    state.world.sandbox.store().delete_object(OPS, &key);
    state.end(0, 0, 0);
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let ended = ended.await.unwrap();
    assert_eq!(ended.status.code(), Some(0));
    let text = String::from_utf8(ended.stdout).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["shards"]["failed"], 1, "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_is_still_shown_as_one() {
    let state = State::planned(2).await;
    state.world.put_all(["a"], 100);
    let journal = "s3://ops/journal/";
    let directory = TempDir::new().unwrap();
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
        "--journal",
        journal,
    ];
    let (exit, _, stderr) = run_in(&state.world, directory.path(), &copy).await;
    assert_eq!(exit, 0, "{stderr}");
    let (exit, stdout, _) = run(at(&state.world), &["status", journal]).await;
    assert!(exit == 0 && stdout.contains("1 object done"), "{stdout}");
    let (exit, _, stderr) = run(at(&state.world), &["status", journal, "--watch"]).await;
    assert!(
        exit == 2 && stderr.contains("is not the state prefix of one"),
        "{stderr}"
    );
    // The journal of one shard is an ordinary journal.
    let (exit, _, stderr) = run(at(&state.world), &["status", "s3://ops/none/"]).await;
    assert!(
        exit == 2 && stderr.contains("there is no journal at s3://ops/none/"),
        "{stderr}"
    );
    let (exit, _, stderr) = run(at(&state.world), &["report", "merge", journal]).await;
    assert!(
        exit == 2 && stderr.contains("it has no plan.json"),
        "{exit} {stderr}"
    );
}
