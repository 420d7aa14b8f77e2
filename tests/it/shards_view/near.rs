//! `status` at a prefix without a run, or before the run has written anything, and of runs whose
//! hosts' clocks differ.

use std::time::Duration;

use s3haul::sandbox::Operation;
use s3haul::shards::record::ShardActivity;
use serde_json::Value;

use super::state::{STATE, State, footer, plan, receipt};
use super::{LONG, NOW};
use crate::signals::send;
use crate::world::program::{at, ended, process_at, run, spawn, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_near_a_run_names_the_run() {
    let state = State::planned(2).await;
    state.live(0, ShardActivity::Running, 10, NOW);
    state.report(0, 0, &[receipt("a", "done")], None).await;
    for (command, prefix, expected) in [
        (
            &["status"][..],
            "s3://ops/runs/",
            format!("below it are the runs {STATE}"),
        ),
        (
            &["report", "show"],
            "s3://ops/runs/",
            format!("below it are the runs {STATE}"),
        ),
        (
            &["status"],
            "s3://ops/runs/lake-1/shards/0/",
            format!("its state prefix is {STATE}"),
        ),
        (
            &["status"],
            "s3://ops/runs/lake-2/",
            "may have written nothing yet, and --watch waits".to_owned(),
        ),
        (
            &["status"],
            "s3://ops/runs/lake-1",
            format!("write {STATE} with a slash at the end"),
        ),
    ] {
        let words = [command, &[prefix]].concat();
        let (exit, _, stderr) = run(at(&state.world), &words).await;
        assert!(
            exit == 2 && stderr.contains(&expected),
            "{words:?}: {stderr}"
        );
        assert!(stderr.contains("state"), "{words:?}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_waits_for_a_run_that_has_written_nothing() {
    let state = State::empty().await;
    let child = process_at(&state.world)
        .args(["status", STATE, "--watch=20ms", "--json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    until("six lists", || {
        state.world.calls(Operation::ListObjectsV2) >= 6
    })
    .await;
    state.put("plan.json", &plan(1, state.ago(NOW)), NOW);
    state.end(0, 0, 0);
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let ended = ended.await.unwrap();
    assert_eq!(ended.status.code(), Some(0));
    let text = String::from_utf8(ended.stdout).unwrap();
    let shown: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(shown.first().unwrap()["state"], "absent");
    assert_eq!(shown.last().unwrap()["state"], "ended");
    assert!(shown.iter().all(|look| look["at"].is_string()), "{text}");
}

/// Ctrl-C is the way to end a view. Another signal ends it for a reason, which it names.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_its_user_ends_reports_no_error() {
    let state = State::planned(2).await;
    for (signal, said) in [("INT", ""), ("TERM", "error: interrupted; ")] {
        let before = state.world.sandbox.calls().total();
        let mut command = process_at(&state.world);
        command.args(["status", STATE, "--watch=20ms"]);
        let child = spawn(command);
        until("ten requests", || {
            state.world.sandbox.calls().total() >= before + 10
        })
        .await;
        send(signal, &child);
        let ended = ended(child).await;
        assert_eq!(ended.exit, 4, "{}", ended.stderr);
        assert!(
            ended.stderr.starts_with(said) && ended.stderr.is_empty() == said.is_empty(),
            "{signal}: {}",
            ended.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_was_just_written_needs_no_attention() {
    let state = State::empty().await;
    state.put("plan.json", &plan(2, state.ago(NOW)), NOW);
    let (_, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(
        stdout.contains("planned; no process has begun a shard yet")
            && !stdout.contains("to continue"),
        "{stdout}"
    );
    state.put("plan.json", &plan(2, state.ago(LONG)), NOW);
    let (_, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(
        stdout.contains("no process is running")
            && stdout.contains("to continue: resume the job if it is suspended"),
        "{stdout}"
    );
}

/// The clock of the failed host is an hour ahead or behind. Only the server's clock counts.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_may_disagree_about_the_time() {
    let state = State::planned(2).await;
    let hour = Duration::from_hours(1);
    // Failed 20 minutes ago, and started again since.
    state.end_by_a_clock(0, state.ago(Duration::ZERO) + hour);
    state.live(0, ShardActivity::Running, 10, NOW);
    // A process was killed 40 minutes ago, and the next one failed 20 minutes ago.
    state.live(1, ShardActivity::Running, 10, Duration::from_mins(40));
    state.end_by_a_clock(1, state.ago(Duration::from_mins(20)) - hour);
    let (_, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(stdout.contains("1 failed, 1 running\n"), "{stdout}");
    assert!(
        stdout.contains("again     shard 0, after exit code 1: 3 objects failed")
            && stdout.contains("failed    shard 1: exit code 1: 3 objects failed"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_failed_without_failed_objects_are_not_retried() {
    let state = State::planned(2).await;
    state.end(0, 0, 3);
    state.refused(1);
    let (_, stdout, _) = run(at(&state.world), &["status", STATE]).await;
    assert!(
        stdout.contains("to continue: fix the cause, and start the job again")
            && !stdout.contains("s3haul retry"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_at_work_has_not_ended() {
    let state = State::planned(2).await;
    state.live(0, ShardActivity::Running, 10, NOW);
    state.report(0, 0, &[receipt("a", "done")], None).await;
    let (_, stdout, _) = run(at(&state.world), &["report", "merge", STATE]).await;
    assert!(
        stdout.contains("no process of it has ended yet") && !stdout.contains("1970"),
        "{stdout}"
    );
    let done = [receipt("b", "done")];
    state.report(1, 0, &done, Some(footer(0))).await;
    state.end(1, 0, 0);
    let (_, stdout, _) = run(at(&state.world), &["report", "show", STATE]).await;
    assert!(
        stdout.contains("the last of 1 session of its shards ended 20"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_between_looks_is_written_with_an_equals_sign() {
    let state = State::planned(1).await;
    for words in [
        &["status", STATE, "--watch", "5s"][..],
        &["status", "--watch", "5s", STATE],
        &["status", "--watch", "5s"],
    ] {
        let (exit, _, stderr) = run(at(&state.world), words).await;
        assert!(
            exit == 2 && stderr.contains("write --watch=5s"),
            "{words:?}: {stderr}"
        );
    }
}
