//! One journal, one run: who gets a journal that another run holds, and the messages about that.

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use jiff::SignedDuration;
use rstest::rstest;
use s3haul::sandbox::{BucketOptions, Content, Effect, Fault, ObjectSpec, Operation, When};
use serde_json::Value;
use tempfile::TempDir;

use super::{again, assert_all_is_there, copied, manifest, slow_world};
use crate::signals::send;
use crate::world::program::{Ended, ended, journaled, kill, process_at, run, spawn, spawn_in};
use crate::world::{DESTINATION, SOURCE, World};

/// The line of the manifest that puts the journal in S3.
const JOURNAL: &str = "journal: s3://ops/lake/\n";
const OBJECTS: u16 = 60;

/// Starts a sandbox in which a run copies all objects but one, and never ends before [`let_end`].
async fn endless() -> (World, TempDir) {
    let world = slow_world(OBJECTS.into(), Duration::ZERO).await;
    let store = world.sandbox.store();
    store.create_bucket("ops", BucketOptions::default());
    world.add_fault(
        Fault::on(Operation::CopyObject)
            .key("k00030")
            .when(When::Always)
            .then(Effect::SlowDown),
    );
    let directory = manifest(&world.sandbox, JOURNAL);
    (world, directory)
}

/// Lets the last copy succeed.
fn let_end(world: &World) {
    world.sandbox.faults().clear();
}

/// Moves the server's clock ahead by this many seconds.
fn later(world: &World, seconds: i64) {
    world.add_fault(
        Fault::on_any()
            .when(When::Always)
            .then(Effect::Skew(SignedDuration::from_secs(seconds))),
    );
}

/// Starts a run in a pod of a Job.
fn start_in_pod(world: &World, directory: &Path, job: &str, pod: &str, more: &[&str]) -> Child {
    let mut command = process_at(world);
    command
        .env("S3HAUL_JOB_UID", job)
        .env("POD_NAME", pod)
        .args(["run", "job.yaml"])
        .args(more)
        .current_dir(directory);
    spawn(command)
}

/// Runs the job on another machine, until it ends.
async fn elsewhere(world: &World, job: &str, pod: &str, more: &[&str]) -> (i32, String) {
    let directory = manifest(&world.sandbox, JOURNAL);
    let ended = ended(start_in_pod(world, directory.path(), job, pod, more)).await;
    (ended.exit, ended.stderr)
}

/// Waits until all objects but the last are copied and the lease record names the run.
async fn at_work(world: &World) {
    let working = async {
        copied(world, u64::from(OBJECTS)).await;
        while record(world).is_none_or(|record| record["run"].is_null()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), working)
        .await
        .expect("no record names the run");
}

/// Starts a run of `job-a` that holds the journal, and waits until it is running.
async fn holding(more: &[&str]) -> (World, TempDir, Child) {
    let (world, directory) = endless().await;
    let first = start_in_pod(&world, directory.path(), "job-a", "pod-a", more);
    at_work(&world).await;
    (world, directory, first)
}

fn records(world: &World) -> Vec<String> {
    let mut keys = world.keys("ops");
    keys.retain(|key| key.starts_with("lake/session-"));
    keys
}

/// Returns the only lease record, if any.
fn record(world: &World) -> Option<Value> {
    let keys = records(world);
    let [key] = keys.as_slice() else { return None };
    let object = world.object("ops", key)?;
    serde_json::from_slice(&object.content.to_bytes()).ok()
}

async fn status(world: &World, directory: &Path) -> (String, Value) {
    let (exit, text, stderr) = run(journaled(world, directory), &["status", "job.yaml"]).await;
    assert_eq!(exit, 0, "{stderr}");
    let (exit, json, stderr) = run(
        journaled(world, directory),
        &["status", "job.yaml", "--json"],
    )
    .await;
    assert_eq!(exit, 0, "{stderr}");
    (text, serde_json::from_str(&json).unwrap())
}

fn all_are_there(world: &World) {
    let store = world.sandbox.store();
    assert_eq!(store.keys(DESTINATION), store.keys(SOURCE));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_runs_the_first_is_undisturbed_and_the_second_learns_of_it() {
    let (world, directory, first) = holding(&[]).await;
    let (pid, before) = (first.id(), world.calls(Operation::CopyObject));
    let own = record(&world).unwrap();
    assert_eq!(
        (
            &own["writer"]["job"],
            &own["writer"]["host"],
            &own["released"]
        ),
        (&"job-a".into(), &"pod-a".into(), &false.into())
    );
    let (exit, stderr) = elsewhere(&world, "job-b", "pod-b", &[]).await;
    assert_eq!(exit, 6, "{stderr}");
    for said in [
        format!("s3://ops/lake/ is in use by process {pid} on pod-a (Job job-a) since 2"),
        "last sign of life".to_owned(),
        "--wait".to_owned(),
    ] {
        assert!(stderr.contains(&said), "{said}: {stderr}");
    }
    assert_eq!(records(&world).len(), 1, "the second one leaves nothing");
    assert!(world.calls(Operation::CopyObject) >= before);
    let_end(&world);
    let Ended { exit, stderr, .. } = ended(first).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_all_is_there(&world, directory.path(), OBJECTS.into());
    assert_eq!(record(&world).unwrap()["released"], true);
    // The lease was released at the end, so another Job need not wait.
    let (exit, stderr) = elsewhere(&world, "job-b", "pod-b", &[]).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(
        record(&world).unwrap()["writer"]["job"],
        "job-b",
        "the record of the first one is removed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pod_of_the_same_job_takes_over_and_the_old_one_ends() {
    let (world, _directory, first) = holding(&[]).await;
    let second = manifest(&world.sandbox, JOURNAL);
    let second = start_in_pod(&world, second.path(), "job-a", "pod-b", &[]);
    // The one that was replaced ends by itself, although it has nothing to write.
    let Ended { exit, stderr, .. } = ended(first).await;
    assert!(
        exit == 4 && stderr.contains("was taken over by process") && stderr.contains("on pod-b"),
        "{exit} {stderr}"
    );
    let_end(&world);
    let Ended { exit, stderr, .. } = ended(second).await;
    assert!(
        exit == 0 && stderr.contains("resuming the run"),
        "{exit} {stderr}"
    );
    all_are_there(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_index_of_a_job_is_another_job() {
    let (world, directory) = endless().await;
    let mut first = process_at(&world);
    first
        .envs([("S3HAUL_JOB_UID", "job-a"), ("JOB_COMPLETION_INDEX", "0")])
        .args(["run", "job.yaml"])
        .current_dir(directory.path());
    let first = spawn(first);
    at_work(&world).await;
    let mut second = journaled(&world, directory.path());
    second.envs([("S3HAUL_JOB_UID", "job-a"), ("JOB_COMPLETION_INDEX", "1")]);
    let (exit, _, stderr) = run(second, &["run", "job.yaml"]).await;
    assert!(
        exit == 6 && stderr.contains("(Job job-a/0)"),
        "{exit} {stderr}"
    );
    kill(first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_holder_on_another_machine_is_replaced_after_a_minute() {
    let (world, directory, first) = holding(&[]).await;
    kill(first).await;
    let (text, json) = status(&world, directory.path()).await;
    assert!(
        text.contains(": running") && text.contains("on pod-a (Job job-a)"),
        "{text}"
    );
    assert!(text.contains(", last sign of life "), "{text}");
    assert!(
        json["last_sign_of_life_seconds"].as_u64().unwrap() < 60,
        "{json}"
    );
    let (exit, stderr) = elsewhere(&world, "job-b", "pod-b", &[]).await;
    assert_eq!(exit, 6, "{stderr}");
    let_end(&world);
    later(&world, 62);
    let (text, json) = status(&world, directory.path()).await;
    assert!(
        text.contains(": dead: run the same command again"),
        "{text}"
    );
    assert_eq!(json["life"], "dead");
    let (exit, stderr) = elsewhere(&world, "job-b", "pod-b", &[]).await;
    assert!(
        exit == 0 && stderr.contains("resuming the run"),
        "{exit} {stderr}"
    );
    all_are_there(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_process_of_this_machine_is_replaced_at_once() {
    let (world, directory) = endless().await;
    let first = spawn_in(&world, directory.path(), &["run", "job.yaml"]);
    at_work(&world).await;
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert_eq!(exit, 6, "it lives: {stderr}");
    kill(first).await;
    let (text, _) = status(&world, directory.path()).await;
    assert!(
        text.contains(": dead: run the same command again"),
        "{text}"
    );
    let_end(&world);
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert!(
        exit == 0 && stderr.contains("resuming the run"),
        "{exit} {stderr}"
    );
    assert_all_is_there(&world, directory.path(), OBJECTS.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_leaves_the_journal_to_the_next_at_once() {
    let (world, directory, first) = holding(&["--drain", "4s"]).await;
    send("TERM", &first);
    let Ended { exit, stderr, .. } = ended(first).await;
    assert_eq!(exit, 4, "{stderr}");
    assert_eq!(record(&world).unwrap()["released"], true);
    let (text, _) = status(&world, directory.path()).await;
    assert!(
        text.contains(": stopped") && !text.contains("sign of life"),
        "{text}"
    );
    let_end(&world);
    let (exit, stderr) = elsewhere(&world, "job-b", "pod-b", &[]).await;
    assert!(
        exit == 0 && stderr.contains("resuming the run"),
        "{exit} {stderr}"
    );
    all_are_there(&world);
}

/// A session that is refused before its run begins releases the journal too.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_refused_after_it_took_the_journal_lets_it_go() {
    let (world, _directory, first) = holding(&["--drain", "4s"]).await;
    send("TERM", &first);
    assert_eq!(ended(first).await.exit, 4);
    let_end(&world);
    for key in world.keys(DESTINATION) {
        world.sandbox.store().delete_object(DESTINATION, &key);
    }
    let (exit, stderr) = elsewhere(&world, "job-b", "pod-b", &[]).await;
    assert!(
        exit == 3 && stderr.contains("journal no longer matches the destination"),
        "{exit} {stderr}"
    );
    let left = record(&world).unwrap();
    assert_eq!(
        (&left["writer"]["job"], &left["released"]),
        (&"job-b".into(), &true.into())
    );
    let (exit, stderr) = elsewhere(&world, "job-c", "pod-c", &["--fresh"]).await;
    assert_eq!(exit, 0, "{stderr}");
    all_are_there(&world);
}

/// Waits until a process has written this text to its message file.
async fn until_said(path: &Path, text: &str) {
    let said = async {
        while !std::fs::read_to_string(path).unwrap().contains(text) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), said)
        .await
        .unwrap_or_else(|_| panic!("{text:?} is not said"));
}

#[rstest]
#[case::in_s3(true)]
#[case::in_a_directory(false)]
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_begins_when_the_holder_has_ended(#[case] in_s3: bool) {
    let (world, directory) = endless().await;
    let journal = directory.path().join("kept").display().to_string();
    let place: &[&str] = if in_s3 { &[] } else { &["--journal", &journal] };
    let first = start_in_pod(&world, directory.path(), "job-a", "pod-a", place);
    copied(&world, OBJECTS.into()).await;
    let waiting = |wait| [place, &["--wait", wait]].concat();
    let (exit, stderr) = elsewhere(&world, "job-b", "pod-b", &waiting("1s")).await;
    assert!(
        exit == 6 && stderr.contains("waiting up to") && stderr.contains("is in use by"),
        "{exit} {stderr}"
    );
    let second = manifest(&world.sandbox, JOURNAL);
    let messages = second.path().join("messages");
    let mut second_run = process_at(&world);
    second_run
        .args(["run", "job.yaml"])
        .args(place)
        .env("S3HAUL_WAIT", "10m")
        .env("POD_NAME", "pod-b")
        .current_dir(second.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(&messages).unwrap());
    let second_run = second_run.spawn().unwrap();
    until_said(&messages, "waiting up to 10m 00s for the journal").await;
    let_end(&world);
    let Ended { exit, stderr, .. } = ended(first).await;
    assert_eq!(exit, 0, "{stderr}");
    let copies = world.calls(Operation::CopyObject);
    assert_eq!(ended(second_run).await.exit, 0);
    assert_eq!(
        world.calls(Operation::CopyObject),
        copies,
        "nothing is left"
    );
    until_said(&messages, "the journal is free").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_replaces_a_holder_that_dies() {
    let (world, _directory, first) = holding(&[]).await;
    let second = manifest(&world.sandbox, JOURNAL);
    let messages = second.path().join("messages");
    let mut second_run = process_at(&world);
    second_run
        .args(["run", "job.yaml", "--wait", "10m"])
        .env("POD_NAME", "pod-b")
        .current_dir(second.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(&messages).unwrap());
    let second_run = second_run.spawn().unwrap();
    until_said(&messages, "waiting up to").await;
    kill(first).await;
    let_end(&world);
    later(&world, 62);
    assert_eq!(ended(second_run).await.exit, 0);
    until_said(&messages, "resuming the run").await;
    all_are_there(&world);
}

/// A run cannot wait for a journal that it does not keep.
#[tokio::test(flavor = "multi_thread")]
async fn to_wait_without_a_journal_is_refused() {
    let world = slow_world(1, Duration::ZERO).await;
    let directory = manifest(&world.sandbox, "");
    let flags = ["--journal", "none", "--wait", "1m"];
    let (exit, _, stderr) = again(&world, directory.path(), &flags).await;
    assert!(
        exit == 2 && stderr.contains("--wait has no effect here"),
        "{exit} {stderr}"
    );
    let (exit, _, stderr) = again(&world, directory.path(), &["--wait", "soon"]).await;
    assert!(exit == 2 && stderr.contains("--wait"), "{exit} {stderr}");
    assert_eq!(world.calls(Operation::CopyObject), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_still_has_an_age_and_the_segments_name_its_holder() {
    let (world, _directory, first) = holding(&[]).await;
    kill(first).await;
    let [key] = <[String; 1]>::try_from(records(&world)).unwrap();
    let garbage = Content::bytes(b"{\"writer\":".to_vec());
    let store = world.sandbox.store();
    store.put_object("ops", &key, garbage, &ObjectSpec::default());
    let (exit, stderr) = elsewhere(&world, "job-b", "pod-b", &[]).await;
    assert_eq!(exit, 6, "{stderr}");
    assert!(
        stderr.contains(&format!("s3://ops/{key} cannot be read"))
            && stderr.contains("on pod-a (Job job-a)"),
        "{stderr}"
    );
    let_end(&world);
    // A session of the same Job does not need the record.
    let (exit, stderr) = elsewhere(&world, "job-a", "pod-c", &[]).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(!records(&world).contains(&key));
    all_are_there(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_written_or_read_refuses_the_run() {
    let (world, directory) = endless().await;
    let store = world.sandbox.store();
    store.deny("ops", Operation::PutObject, "lake/session-");
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert!(
        exit == 3 && stderr.contains("error: the journal s3://ops/lake/"),
        "{exit} {stderr}"
    );
    assert_eq!(store.keys("ops"), Vec::<String>::new(), "nothing is begun");
    store.allow_all();
    let first = start_in_pod(&world, directory.path(), "job-a", "pod-a", &[]);
    at_work(&world).await;
    store.deny("ops", Operation::GetObject, "lake/session-");
    let (exit, stderr) = elsewhere(&world, "job-b", "pod-b", &[]).await;
    assert!(
        exit == 3 && stderr.contains("error: the journal s3://ops/lake/"),
        "{exit} {stderr}"
    );
    // The current holder is not disturbed.
    store.deny("ops", Operation::PutObject, "lake/session-");
    let_end(&world);
    let Ended { exit, stderr, .. } = ended(first).await;
    assert!(
        exit == 0 && stderr.contains("the journal could not be marked as free"),
        "{exit} {stderr}"
    );
    all_are_there(&world);
}
