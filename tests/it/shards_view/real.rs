//! Real shards: their state is shown, merged, and retried.

use std::process::Stdio;
use std::time::Duration;

use rstest::rstest;
use s3haul::sandbox::{Effect, Fault, LatencyModel, Model, Operation};
use serde_json::Value;

use super::state::lines;
use crate::reports::deny_copy;
use crate::shards::{Shards, flags};
use crate::world::World;
use crate::world::program::{Ended, ended, process_at, until};

const STATE: &str = "s3://ops/run/";
const OBJECTS: u64 = 40;

/// Runs four shards to their end; two of their objects fail, one of them before it is read.
pub(super) async fn two_failed(is_versioned: bool) -> Shards {
    let world = if is_versioned {
        World::versioned().await
    } else {
        World::new().await
    };
    let shards = Shards::of(world);
    for number in 0..OBJECTS {
        shards.put(&format!("logs/{number:02}"), 100 + number);
    }
    for key in ["logs/07", "logs/33"] {
        deny_copy(&shards.world, key);
    }
    let unread = Fault::on(Operation::HeadObject)
        .key("logs/33")
        .then(Effect::Error(400, "InvalidRequest"));
    shards.world.add_fault(unread);
    let mut failed = 0;
    for shard in ["0", "1", "2", "3"] {
        let Ended { exit, stderr, .. } = shards.run(&flags(shard, "4")).await;
        assert!([0, 1].contains(&exit), "{shard}: {exit} {stderr}");
        failed += exit;
    }
    assert!(failed > 0);
    shards.world.sandbox.faults().clear();
    shards
}

/// In a versioned bucket, only the receipts of objects that were read name a version.
#[rstest]
#[case::versioned(true)]
#[case::unversioned(false)]
#[tokio::test(flavor = "multi_thread")]
async fn what_failed_in_any_shard_is_retried_alone(#[case] is_versioned: bool) {
    let shards = two_failed(is_versioned).await;
    let world = &shards.world;
    let status = shards.run(&["status", STATE]).await;
    assert!(
        status.exit == 0
            && status.stdout.contains("38 copied")
            && status
                .stdout
                .contains("to copy what failed: s3haul retry s3://ops/run/"),
        "{}",
        status.stdout
    );
    let merged = shards.directory.path().join("merged.jsonl");
    let merge = ["report", "merge", STATE, "--out", "merged.jsonl"];
    let Ended {
        exit,
        stdout,
        stderr,
    } = shards.run(&merge).await;
    assert_eq!(exit, 1, "{stdout} {stderr}");
    assert!(stdout.contains("38 objects copied"), "{stdout}");
    for said in ["AccessDenied", "s3://source/logs/07", "s3://source/logs/33"] {
        assert!(stdout.contains(said), "{said}: {stdout}");
    }

    let before = world.calls(Operation::CopyObject);
    let dry = shards.run(&["retry", STATE, "--dry-run"]).await;
    assert!(
        dry.exit == 0 && dry.stdout.contains("2 objects"),
        "{}",
        dry.stdout
    );
    let Ended {
        exit,
        stdout,
        stderr,
    } = shards.run(&["retry", STATE]).await;
    assert!(
        exit == 0 && stdout.contains("2 objects copied"),
        "{exit} {stdout} {stderr}"
    );
    assert!(
        stdout.contains("report: s3://ops/run/retry/report-"),
        "{stdout}"
    );
    assert_eq!(world.calls(Operation::CopyObject) - before, 2);
    let again = shards.run(&["retry", STATE]).await;
    assert!(
        again.exit == 0 && again.stdout.contains("nothing to do"),
        "{}",
        again.stdout
    );

    let Ended {
        exit,
        stdout,
        stderr,
    } = shards.run(&merge).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    let receipts = lines(&merged);
    let mut sources: Vec<_> = receipts
        .iter()
        .filter_map(|line| line["source"].as_str())
        .collect();
    sources.sort_unstable();
    sources.dedup();
    let done = receipts
        .iter()
        .filter(|line| line["status"] == "done")
        .count();
    assert_eq!((sources.len() as u64, done as u64), (OBJECTS, OBJECTS));
    for report in [STATE, "merged.jsonl"] {
        let Ended {
            exit,
            stdout,
            stderr,
        } = shards.run(&["verify", "--report", report]).await;
        assert!(
            exit == 0 && stdout.contains("40 equal"),
            "{report}: {exit} {stdout} {stderr}"
        );
    }
    let nothing = shards.run(&["retry", "merged.jsonl"]).await;
    assert!(
        nothing.exit == 0 && nothing.stdout.contains("nothing to do"),
        "{}",
        nothing.stderr
    );
    let status = shards.run(&["status", STATE]).await;
    assert!(
        status
            .stdout
            .contains("the latest retry ended with exit code 0")
            && status
                .stdout
                .contains("to read the result: s3haul report merge s3://ops/run/"),
        "{}",
        status.stdout
    );
    world.assert_no_upload_is_left();
}

/// Instead of a retry, an engine may start the shard again: its next run finds the copies.
#[rstest]
#[case::versioned(true)]
#[case::unversioned(false)]
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_run_again_settles_what_failed_before(#[case] is_versioned: bool) {
    let shards = two_failed(is_versioned).await;
    for shard in ["0", "1", "2", "3"] {
        let Ended { exit, stderr, .. } = shards.run(&flags(shard, "4")).await;
        assert_eq!(exit, 0, "{stderr}");
    }
    let merge = ["report", "merge", STATE, "--out", "merged.jsonl"];
    let Ended {
        exit,
        stdout,
        stderr,
    } = shards.run(&merge).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    // Every object has its proof, whichever run copied it.
    assert!(
        stdout.contains("40 objects copied") && stdout.contains("proven by: crc64nvme 40"),
        "{stdout}"
    );
    let status = shards.run(&["status", STATE, "--watch"]).await;
    assert!(
        status.exit == 0 && status.stdout.contains("4 done\n"),
        "{}",
        status.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_at_work_is_running_and_a_merge_waits_for_it() {
    let latency = LatencyModel {
        copy: Duration::from_hours(1),
        ..LatencyModel::default()
    };
    let shards = Shards::new(Model {
        latency,
        ..Model::default()
    })
    .await;
    shards.put("a", 10);
    let mut child = shards.start(&flags("0", "1"), None);
    until("a sign of life during a copy", || {
        shards.world.calls(Operation::CopyObject) > 0 && shards.state("live/0.json").is_some()
    })
    .await;
    let Ended { exit, stdout, .. } = shards.run(&["status", STATE, "--json"]).await;
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (exit, &shown["shards"]["running"]),
        (0, &1.into()),
        "{stdout}"
    );
    assert_eq!(shown["state"], "running");
    let merge = shards.run(&["report", "merge", STATE]).await;
    assert!(
        merge.exit == 4 && merge.stdout.contains("shard 0: it has not finished"),
        "{} {} {}",
        merge.exit,
        merge.stdout,
        merge.stderr
    );
    child.kill().unwrap();
    ended_after_kill(child).await;
}

async fn ended_after_kill(child: std::process::Child) {
    let killed = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    assert!(!killed.await.unwrap().status.success());
}

/// The index of an engine becomes a flag of the command in the header, also before `--`.
#[tokio::test(flavor = "multi_thread")]
async fn the_report_of_a_shard_names_a_command_that_can_be_run() {
    let shards = Shards::of(World::new().await);
    shards.put("k", 100);
    let words = ["run", "--state", STATE, "--shards", "1", "--", "job.yaml"];
    let mut command = process_at(&shards.world);
    command
        .args(words)
        .env("JOB_COMPLETION_INDEX", "0")
        .current_dir(shards.directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let Ended { exit, stderr, .. } = ended(command.spawn().unwrap()).await;
    assert_eq!(exit, 0, "{stderr}");
    let report = format!("{STATE}shards/0/report/");
    let Ended {
        exit,
        stdout,
        stderr,
    } = shards.run(&["verify", "--report", &report]).await;
    assert!(
        exit == 0 && stdout.contains("1 equal"),
        "{exit} {stdout} {stderr}"
    );
}
