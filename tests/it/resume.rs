//! Resuming: runs of the real program that are stopped or killed, and the next runs.

mod foreign;
mod holder;
mod unwritable;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use s3haul::journal::{Location, look};
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation, Sandbox};

use crate::reports::receipts_in;
use crate::world::program::{Ended, ended, journaled, kill, run, spawn_in, until};
use crate::world::{DESTINATION, SOURCE, World};

/// Starts a sandbox with this many objects, each copy of which takes this long.
async fn slow_world(objects: u32, copy: Duration) -> World {
    let world = World::with_copy_latency(copy).await;
    for index in 0..objects {
        world.put_object(
            SOURCE,
            &format!("k{index:05}"),
            Content::pattern(u64::from(index), 10),
            &ObjectSpec::default(),
        );
    }
    world
}

/// Returns a directory with a manifest that copies everything. `more` is part of the transfer.
fn manifest(sandbox: &Sandbox, more: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    rewrite(directory.path(), sandbox, more);
    directory
}

fn rewrite(directory: &Path, sandbox: &Sandbox, more: &str) {
    let text = format!(
        "version: 1\nname: lake\nendpoints:\n  default: {{url: \"{}\", region: us-east-1, path_style: true, provider: aws}}\n\
         limits: {{in_flight: 8}}\nreport: {{json: report.jsonl}}\n\
         transfers:\n  - name: all\n    from: {{s3: s3://source/}}\n    to: {{s3: s3://destination/}}\n{more}",
        sandbox.url()
    );
    std::fs::write(directory.join("job.yaml"), text).unwrap();
}

async fn again(world: &World, directory: &Path, more: &[&str]) -> (i32, String, String) {
    run(
        journaled(world, directory),
        &[&["run", "job.yaml"], more].concat(),
    )
    .await
}

/// Waits until this many objects were copied.
async fn copied(world: &World, objects: u64) {
    let copying = async {
        while world.calls(Operation::CopyObject) < objects {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), copying)
        .await
        .expect("the run copies nothing");
}

/// Starts a run and kills it after this many copies.
async fn kill_after(world: &World, directory: &Path, objects: u64) {
    let child = spawn_in(world, directory, &["run", "job.yaml"]);
    copied(world, objects).await;
    kill(child).await;
}

/// Returns the number of finished objects in the journal.
async fn done(directory: &Path) -> u64 {
    let glance = look(Location::Directory(directory.join(".s3haul/lake")))
        .await
        .unwrap()
        .unwrap();
    glance.state.totals.done_objects
}

/// Counts the receipts of each object in the report.
fn receipts(directory: &Path) -> BTreeMap<String, u32> {
    let mut receipts = BTreeMap::new();
    for receipt in receipts_in(&directory.join("report.jsonl")) {
        assert!(
            receipt["status"] == "done" || receipt["status"] == "skipped",
            "{receipt}"
        );
        *receipts
            .entry(receipt["destination"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    receipts
}

fn assert_all_is_there(world: &World, directory: &Path, objects: usize) {
    assert_eq!(world.keys(DESTINATION), world.keys(SOURCE));
    let receipts = receipts(directory);
    assert_eq!(receipts.len(), objects);
    assert!(
        receipts.values().all(|times| *times == 1),
        "the report has an object twice"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_resumes_and_repeats_only_copies_that_were_in_flight() {
    let world = slow_world(400, Duration::from_millis(15)).await;
    let directory = manifest(&world.sandbox, "");
    kill_after(&world, directory.path(), 100).await;
    kill_after(&world, directory.path(), 250).await;
    let (exit, stdout, stderr) = again(&world, directory.path(), &[]).await;
    assert!(
        exit == 0 && stderr.contains("resuming the run of"),
        "{exit} {stderr}"
    );
    assert!(stdout.contains(" objects copied and proven"), "{stdout}");
    assert_all_is_there(&world, directory.path(), 400);
    let copies = world.calls(Operation::CopyObject);
    assert!(
        copies <= 400 + 2 * 8,
        "{copies}: more than what was in flight at the kills was copied twice"
    );
    // The run has ended. The next one is a new run with its own report.
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert!(exit == 0 && !stderr.contains("resuming"), "{exit} {stderr}");
    assert_eq!(world.calls(Operation::CopyObject), copies);
    assert_all_is_there(&world, directory.path(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_resumes_after_its_last_planned_key() {
    let world = slow_world(4000, Duration::from_millis(30)).await;
    let directory = manifest(&world.sandbox, "");
    let child = spawn_in(&world, directory.path(), &["run", "job.yaml"]);
    copied(&world, 50).await;
    std::process::Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    let Ended { exit, stderr, .. } = ended(child).await;
    assert_eq!(exit, 4, "{stderr}");
    let before = world.calls(Operation::CopyObject);
    let done = world.keys(DESTINATION).len();
    assert!(
        before < 3500 && done as u64 == before,
        "{before} {done}: it was stopped too late"
    );
    world.sandbox.calls().clear();
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert!(
        exit == 0 && stderr.contains(&format!("{done} objects")),
        "{exit} {stderr}"
    );
    assert_all_is_there(&world, directory.path(), 4000);
    assert_eq!(world.calls(Operation::CopyObject), 4000 - before);
    let lists = world.sandbox.calls().of(Operation::ListObjectsV2);
    let pages = lists.iter().filter(|call| call.bucket == SOURCE).count();
    assert!(
        pages < 4,
        "{pages}: the keys that were planned were listed again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_job_does_not_resume_by_itself() {
    let world = slow_world(200, Duration::from_millis(15)).await;
    let directory = manifest(&world.sandbox, "");
    kill_after(&world, directory.path(), 40).await;
    // Counts objects in the journal, not copies: the journal's lag depends on the disk.
    let done = done(directory.path()).await;
    assert!(done > 0, "nothing was written down");
    let before = world.calls(Operation::CopyObject);
    rewrite(directory.path(), &world.sandbox, "    when: always\n");
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert_eq!(exit, 3, "{stderr}");
    assert!(
        stderr.contains("`all.when` was changed and is always; start over with --fresh"),
        "{stderr}"
    );
    let (exit, _, stderr) = again(&world, directory.path(), &["--resume-anyway"]).await;
    assert!(exit == 0 && stderr.contains("resuming"), "{exit} {stderr}");
    // Requests of the killed run may still arrive.
    let copies = world.calls(Operation::CopyObject) - before;
    assert!(
        (200 - done..=200 - done + 8).contains(&copies),
        "{copies} copies after {done} were done"
    );
    assert_all_is_there(&world, directory.path(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_run_starts_over_if_requested() {
    let world = slow_world(200, Duration::from_millis(15)).await;
    let directory = manifest(&world.sandbox, "");
    kill_after(&world, directory.path(), 40).await;
    rewrite(directory.path(), &world.sandbox, "    when: missing\n");
    let (exit, _, stderr) = again(&world, directory.path(), &["--fresh"]).await;
    assert!(exit == 0 && !stderr.contains("resuming"), "{exit} {stderr}");
    assert_all_is_there(&world, directory.path(), 200);
    // An edited journal is reported, and only the user may put it aside.
    let journal = directory.path().join(".s3haul/lake");
    for file in std::fs::read_dir(&journal)
        .unwrap()
        .map(|file| file.unwrap().path())
    {
        let is_log = file.extension().is_some_and(|extension| extension == "log");
        if is_log {
            std::fs::write(&file, "what is this\nno journal\n").unwrap();
        }
    }
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert!(exit == 3 && stderr.contains("--fresh"), "{exit} {stderr}");
    let (exit, _, stderr) = again(&world, directory.path(), &["--fresh"]).await;
    assert!(
        exit == 0 && stderr.contains("it was moved to .s3haul/lake/damaged-"),
        "{exit} {stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_on_a_journal_ends_with_6_and_says_who_holds_it() {
    let world = slow_world(200, Duration::from_millis(40)).await;
    let directory = manifest(&world.sandbox, "");
    let first = spawn_in(&world, directory.path(), &["run", "job.yaml"]);
    let pid = first.id();
    copied(&world, 10).await;
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert_eq!(exit, 6, "{stderr}");
    assert!(
        stderr.contains("is in use by") && stderr.contains(&pid.to_string()),
        "{stderr}"
    );
    let Ended { exit, stderr, .. } = ended(first).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_all_is_there(&world, directory.path(), 200);
    assert_eq!(world.calls(Operation::CopyObject), 200);
}

/// A run that would be refused anyway is refused before it touches the journal.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_refused_leaves_the_other_one_its_journal_in_s3() {
    let world = slow_world(300, Duration::from_millis(60)).await;
    world.create_bucket("ops");
    let directory = manifest(&world.sandbox, "journal: s3://ops/lake/\n");
    let first = spawn_in(&world, directory.path(), &["run", "job.yaml"]);
    copied(&world, 30).await;
    let elsewhere = manifest(
        &world.sandbox,
        "    when: always\njournal: s3://ops/lake/\n",
    );
    let (exit, _, stderr) = again(&world, elsewhere.path(), &[]).await;
    assert!(
        exit == 3 && stderr.contains("`all.when` was changed and is always"),
        "{exit} {stderr}"
    );
    rewrite(
        elsewhere.path(),
        &world.sandbox,
        "journal: s3://ops/lake/\n",
    );
    let (exit, _, stderr) =
        again(&world, elsewhere.path(), &["--report", "/proc/none/report"]).await;
    assert!(
        exit == 3 && stderr.contains("cannot write the report"),
        "{exit} {stderr}"
    );
    let Ended { exit, stderr, .. } = ended(first).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_all_is_there(&world, directory.path(), 300);
}

/// A refusal before the run begins needs a fix; a later one needs another run.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_in_s3_that_is_denied_later_interrupts_the_run() {
    let world = slow_world(300, Duration::from_millis(15)).await;
    world.create_bucket("ops");
    let directory = manifest(&world.sandbox, "journal: s3://ops/lake/\n");
    world.deny("ops", Operation::PutObject, "");
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert!(
        exit == 3 && stderr.contains("error: the journal s3://ops/lake/"),
        "{exit} {stderr}"
    );
    world.sandbox.store().allow_all();
    let first = spawn_in(&world, directory.path(), &["run", "job.yaml"]);
    copied(&world, 30).await;
    world.deny("ops", Operation::PutObject, "");
    let Ended { exit, stderr, .. } = ended(first).await;
    assert!(
        exit == 4 && stderr.contains("error: the journal s3://ops/lake/"),
        "{exit} {stderr}"
    );
    world.sandbox.store().allow_all();
    let (exit, _, stderr) = again(&world, directory.path(), &[]).await;
    assert!(exit == 0 && stderr.contains("resuming"), "{exit} {stderr}");
    assert_all_is_there(&world, directory.path(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_run_whose_journal_in_s3_does_not_answer() {
    let world = slow_world(3, Duration::ZERO).await;
    world.create_bucket("ops");
    let directory = manifest(&world.sandbox, "journal: s3://ops/lake/\n");
    // The first segment with an event of the run itself.
    let third = Fault::on(Operation::PutObject).key("segment-0000000003");
    world.add_fault(third.then(Effect::StallBefore(None)));
    let mut child = spawn_in(&world, directory.path(), &["run", "job.yaml"]);
    copied(&world, 3).await;
    until("the last segment", || world.sandbox.faults().fired() > 0).await;
    // Nothing shows from outside that the run itself has ended.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let waited = tokio::task::spawn_blocking(move || {
        let began = std::time::Instant::now();
        // Signals in quick succession merge into one. SIGINT would not do, because it is ignored if
        // the tests run in the background.
        loop {
            std::process::Command::new("kill")
                .args(["-TERM", &child.id().to_string()])
                .status()
                .unwrap();
            std::thread::sleep(Duration::from_millis(50));
            match child.try_wait().unwrap() {
                Some(status) => return status.code(),
                None if began.elapsed() > Duration::from_secs(20) => break,
                None => {}
            }
        }
        child.kill().unwrap();
        child.wait().unwrap().code()
    });
    assert_eq!(waited.await.unwrap(), Some(4), "it had to be killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_the_working_directory_leaves_its_journal_out() {
    let world = slow_world(0, Duration::ZERO).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("deep")).unwrap();
    std::fs::write(directory.path().join("a"), "a").unwrap();
    std::fs::write(directory.path().join("deep/b"), "b").unwrap();
    let (exit, _, stderr) = run(
        journaled(&world, directory.path()),
        &["copy", ".", "s3://destination/"],
    )
    .await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(directory.path().join(".s3haul").is_dir());
    assert_eq!(world.keys(DESTINATION), ["a", "deep/b"]);
}

/// `status` finds a run by its job, by its journal, or by the directory in which it began.
#[tokio::test(flavor = "multi_thread")]
async fn status_tells_of_a_run_by_its_job_and_by_its_journal() {
    for (journal, places) in [
        ("", &["", "job.yaml", ".s3haul/lake"][..]),
        (
            "journal: s3://destination/j/\n",
            &["job.yaml", "s3://destination/j/"],
        ),
    ] {
        let world = slow_world(200, Duration::from_millis(50)).await;
        let directory = manifest(&world.sandbox, journal);
        let (code, _, error) =
            run(journaled(&world, directory.path()), &["status", "job.yaml"]).await;
        assert_eq!(
            (code, error.contains("has not been run here yet")),
            (2, true),
            "{error}"
        );
        let mut child = spawn_in(&world, directory.path(), &["run", "job.yaml"]);
        copied(&world, 20).await;
        child.kill().unwrap();
        child.wait().unwrap();
        for place in places {
            let arguments: Vec<_> = ["status", "--json", place]
                .into_iter()
                .filter(|text| !text.is_empty())
                .collect();
            let (code, output, error) = run(journaled(&world, directory.path()), &arguments).await;
            assert_eq!(code, 0, "{place}: {error}");
            let view: serde_json::Value = serde_json::from_str(&output).unwrap();
            assert_eq!(
                (&view["job"], &view["transfers"]),
                (&"lake".into(), &1.into()),
                "{place}: {view}"
            );
            assert_ne!(view["life"], "ended", "{place}: {view}");
        }
        assert_eq!(again(&world, directory.path(), &[]).await.0, 0);
        let (_, output, _) =
            run(journaled(&world, directory.path()), &["status", "job.yaml"]).await;
        assert!(
            output.contains("ended") && output.contains("1 of 1 transfer over"),
            "{output}"
        );
    }
    let world = World::new().await;
    let directory = manifest(&world.sandbox, "journal: none\n");
    let (code, _, error) = run(journaled(&world, directory.path()), &["status", "job.yaml"]).await;
    assert_eq!(
        (code, error.contains("keep no journal")),
        (2, true),
        "{error}"
    );
}
