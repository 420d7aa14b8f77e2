//! A signal at any moment of any command. The command ends with exit code 4 within the drain time,
//! and one sentence says what was saved and what was not.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rstest::rstest;
use s3haul::sandbox::{Effect, Fault, Operation};
use s3haul::size::MIB;
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::issuer::{Issuer, Reply};
use crate::signals::send;
use crate::world::program::{at, journaled, process, process_at, run};
use crate::world::{DESTINATION, SOURCE, World};

/// Less than the drain time of 20 s, but long enough for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(14);

const JOB: &str = "\
version: 1
endpoints: {default: {provider: aws, region: us-east-1, url: \"${AWS_ENDPOINT_URL_S3}\", path_style: true}}
transfers:
  - {from: {s3: s3://source/}, to: {s3: s3://destination/}}
";

/// Makes a directory with a job, and with a report in which an object has failed.
async fn site(world: &World) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("job.yaml"), JOB).unwrap();
    world.put("k", 10);
    let id =
        world.add_fault(Fault::on(Operation::CopyObject).then(Effect::Error(403, "AccessDenied")));
    let mut program = at(world);
    program.current_dir(directory.path());
    let (exit, _, stderr) = run(program, &["run", "job.yaml", "--report", "report.jsonl"]).await;
    assert_eq!(exit, 1, "{stderr}");
    world.sandbox.faults().remove(id);
    world.sandbox.calls().clear();
    directory
}

fn words(command: &str) -> &'static [&'static str] {
    match command {
        "copy" => &["copy", "s3://source/", "s3://destination/"],
        "run" => &["run", "job.yaml"],
        "dry-run" => &["run", "job.yaml", "--dry-run"],
        "plan" => &["plan", "job.yaml"],
        "check" => &["check", "job.yaml"],
        "probe" => &["check", "job.yaml", "--probe"],
        "verify" => &["verify", "job.yaml"],
        "retry" => &["retry", "report.jsonl"],
        "uploads" => &["uploads", "list", "s3://destination/"],
        "abort" => &[
            "uploads",
            "abort",
            "s3://destination/",
            "--older-than",
            "1h",
        ],
        "status" => &["status", "s3://destination/journal/"],
        other => panic!("{other}"),
    }
}

fn start(mut program: Command, directory: &Path, words: &[&str]) -> Child {
    program
        .args(words)
        .current_dir(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    program.spawn().unwrap()
}

/// The end of a command that got a signal.
struct Ended {
    exit: Option<i32>,
    stderr: String,
    took: Duration,
}

/// Sends SIGTERM and waits for the end.
async fn terminate(child: Child) -> Ended {
    let began = Instant::now();
    send("TERM", &child);
    let output = spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Ended {
        exit: output.status.code(),
        stderr,
        took: began.elapsed(),
    }
}

impl Ended {
    /// Asserts that the command ended as after a signal, with this text in its sentence.
    fn assert_says(&self, what: &str) {
        assert_eq!(self.exit, Some(4), "{}", self.stderr);
        let errors: Vec<_> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        let [error] = errors.as_slice() else {
            panic!("one sentence: {}", self.stderr)
        };
        assert!(
            error.starts_with("error: interrupted; ") && error.contains(what),
            "{}",
            self.stderr
        );
    }

    fn assert_at_once(&self) {
        assert!(self.took < AT_ONCE, "{:?}: {}", self.took, self.stderr);
    }
}

async fn until(is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_mins(1), "it never happens");
        sleep(Duration::from_millis(5)).await;
    }
}

#[rstest]
#[case::copy("copy", "this process had not begun to copy")]
#[case::run("run", "this process had not begun to copy")]
#[case::retry("retry", "this process had not begun to copy")]
#[case::dry_run("dry-run", "nothing was written")]
#[case::plan("plan", "nothing was written")]
#[case::check("check", "nothing was written")]
#[case::probe("probe", "nothing was written")]
#[case::verify("verify", "nothing was written")]
#[case::uploads("uploads", "nothing was written")]
#[case::abort("abort", "nothing was written")]
#[case::status("status", "nothing was written")]
#[tokio::test(flavor = "multi_thread")]
async fn while_credentials_are_waited_for(#[case] command: &str, #[case] told: &str) {
    let world = World::new().await;
    let directory = site(&world).await;
    let issuer = Issuer::start(Reply::Hang).await;
    let mut program = process();
    program
        .env("AWS_ENDPOINT_URL_S3", world.sandbox.url())
        .envs([issuer.container()]);
    let child = start(program, directory.path(), words(command));
    issuer.wait_for_requests(1).await;
    let ended = terminate(child).await;
    ended.assert_says(told);
    ended.assert_at_once();
    assert_eq!(world.sandbox.calls().total(), 0);
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn while_a_list_hangs(
    #[values(
        "copy", "run", "dry-run", "plan", "check", "verify", "uploads", "abort", "status"
    )]
    command: &str,
) {
    let world = World::new().await;
    let directory = site(&world).await;
    for list in [Operation::ListObjectsV2, Operation::ListMultipartUploads] {
        world.add_fault(Fault::on(list).then(Effect::StallBefore(None)));
    }
    let child = start(process_at(&world), directory.path(), words(command));
    let before = world.sandbox.faults().fired();
    until(|| world.sandbox.faults().fired() > before).await;
    let ended = terminate(child).await;
    ended.assert_says("run the same command again");
    ended.assert_at_once();
    assert!(world.keys(DESTINATION).is_empty());
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn while_the_manifest_is_read(#[values("run", "plan", "check", "verify")] command: &str) {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("job.yaml");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let child = start(process_at(&world), directory.path(), words(command));
    // Opening a FIFO waits for a reader.
    let writer = spawn_blocking(move || std::fs::File::create(fifo).unwrap())
        .await
        .unwrap();
    let ended = terminate(child).await;
    ended.assert_says("nothing was written");
    ended.assert_at_once();
    drop(writer);
}

/// All requests in flight have been refused and wait for a retry.
#[rstest]
#[case::small(Operation::CopyObject, Effect::SlowDown, 10)]
#[case::parts(Operation::UploadPartCopy, Effect::SlowDown, 300 * MIB)]
#[case::complete(Operation::CompleteMultipartUpload, Effect::Error(500, "InternalError"), 300 * MIB)]
#[tokio::test(flavor = "multi_thread")]
async fn while_requests_only_wait_for_their_next_attempt(
    #[case] operation: Operation,
    #[case] effect: Effect,
    #[case] size: u64,
    #[values(true, false)] journal: bool,
) {
    let world = World::new().await;
    world.put("k", size);
    let directory = tempfile::tempdir().unwrap();
    let id = world.add_fault(Fault::on(operation).then(effect));
    let mut program = process_at(&world);
    if !journal {
        program.env("S3HAUL_JOURNAL", "none");
    }
    let child = start(program, directory.path(), words("copy"));
    // After six refusals, the pauses are long.
    until(|| world.sandbox.faults().counts(id).unwrap().struck >= 6).await;
    let ended = terminate(child).await;
    ended.assert_says(if journal {
        "in the journal"
    } else {
        "no journal"
    });
    ended.assert_at_once();
    world.sandbox.faults().clear();
    if !journal {
        world.assert_no_upload_is_left();
    }
    let mut again = process_at(&world);
    again.args(words("copy")).current_dir(directory.path());
    let output = spawn_blocking(move || again.output().unwrap())
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(world.keys(DESTINATION), ["k"]);
    world.assert_no_upload_is_left();
    // An upload without a part is created anew.
    if journal && operation == Operation::CompleteMultipartUpload {
        assert_eq!(
            world.calls(Operation::CreateMultipartUpload),
            1,
            "the upload was resumed"
        );
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away(#[values(true, false)] journal: bool) {
    let world = World::new().await;
    for number in 0..200 {
        world.put(&format!("{number:03}"), 10);
    }
    let faults = world.sandbox.faults();
    faults.add(Fault::on(Operation::CopyObject).then(Effect::Delay(Duration::from_millis(50))));
    let directory = tempfile::tempdir().unwrap();
    let mut program = process_at(&world);
    if !journal {
        program.env("S3HAUL_JOURNAL", "none");
    }
    let child = start(
        program,
        directory.path(),
        &[words("copy"), &["--in-flight", "4"]].concat(),
    );
    until(|| world.calls(Operation::CopyObject) >= 10).await;
    let gone = faults.add(Fault::on_any().then(Effect::ResetBefore));
    until(|| faults.counts(gone).unwrap().struck >= 12).await;
    let ended = terminate(child).await;
    ended.assert_says("run the same command again");
    ended.assert_at_once();
}

/// Starts a copy of one object in parts whose upload hangs in its last request.
async fn hanging_complete(drain: &str) -> (World, TempDir, Child) {
    let world = World::new().await;
    world.put("k", 300 * MIB);
    let directory = tempfile::tempdir().unwrap();
    let complete = Fault::on(Operation::CompleteMultipartUpload);
    world.add_fault(complete.then(Effect::StallBefore(None)));
    let mut program = process_at(&world);
    program.env("S3HAUL_DRAIN", drain);
    let child = start(program, directory.path(), words("copy"));
    until(|| world.sandbox.faults().fired() > 0).await;
    (world, directory, child)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_upload_is_completed_and_nobody_answers() {
    let (world, directory, child) = hanging_complete("2s").await;
    let ended = terminate(child).await;
    ended.assert_says("the parts of open uploads are in the journal");
    ended.assert_at_once();
    assert!(
        ended
            .stderr
            .contains("stopping: finishing requests in flight (up to 2s)"),
        "{}",
        ended.stderr
    );
    world.sandbox.faults().clear();
    let mut again = process_at(&world);
    again.args(words("copy")).current_dir(directory.path());
    let output = spawn_blocking(move || again.output().unwrap())
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        world.calls(Operation::CreateMultipartUpload),
        1,
        "the upload was resumed"
    );
    world.assert_equal("k", "k");
}

/// The run does not learn the ID of its upload, but the journal has the key. The next session
/// aborts the uploads that it finds there.
#[rstest]
#[case::after_it_was_created(true)]
#[case::before_it_is_created(false)]
#[tokio::test(flavor = "multi_thread")]
async fn while_an_upload_is_created_and_nobody_answers(#[case] is_created: bool) {
    let world = World::new().await;
    world.put("k", 300 * MIB);
    let directory = tempfile::tempdir().unwrap();
    let (stall, open) = if is_created {
        (Effect::StallAfter(None), 1)
    } else {
        (Effect::StallBefore(None), 0)
    };
    let create = Fault::on(Operation::CreateMultipartUpload);
    world.add_fault(create.then(stall));
    let mut program = process_at(&world);
    program.env("S3HAUL_DRAIN", "2s");
    let child = start(program, directory.path(), words("copy"));
    let left = || world.open_uploads(DESTINATION).len();
    until(|| world.sandbox.faults().fired() > 0 && left() == open).await;
    let ended = terminate(child).await;
    ended.assert_says("the parts of open uploads are in the journal");
    ended.assert_at_once();
    world.sandbox.faults().clear();
    if left() > 0 {
        let status = journaled(&world, directory.path());
        let (exit, stdout, stderr) = run(status, &["status"]).await;
        assert_eq!(exit, 0, "{stderr}");
        assert!(
            stdout.contains("upload   s3://destination/k  about to be created"),
            "{stdout}"
        );
    }
    let again = journaled(&world, directory.path());
    let (exit, _, stderr) = run(again, words("copy")).await;
    assert_eq!(exit, 0, "{stderr}");
    world.assert_equal("k", "k");
    world.assert_no_upload_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let (_world, _directory, mut child) = hanging_complete("5m").await;
    send("TERM", &child);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut told = String::new();
    while !told.contains("stopping: finishing requests in flight") {
        assert_ne!(stderr.read_line(&mut told).unwrap(), 0, "{told}");
    }
    let began = Instant::now();
    send("TERM", &child);
    let status = spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    stderr.read_to_string(&mut told).unwrap();
    assert_eq!(status.code(), Some(4), "{told}");
    assert!(
        told.contains("error: interrupted; the journal may lack what was done last"),
        "{told}"
    );
    assert!(began.elapsed() < AT_ONCE);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_journal_in_s3_is_not_written() {
    let world = World::new().await;
    world.put("k", 300 * MIB);
    let directory = tempfile::tempdir().unwrap();
    let faults = world.sandbox.faults();
    let listing = faults.add(
        Fault::on(Operation::ListObjectsV2)
            .bucket(SOURCE)
            .then(Effect::Delay(Duration::from_millis(300))),
    );
    let journal = ["--journal", "s3://destination/journal/", "--drain", "2s"];
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/copies/",
        "--provider",
        "aws",
    ];
    let child = start(
        process_at(&world),
        directory.path(),
        &[&copy[..], &journal].concat(),
    );
    // The run lists the source only after it has opened its journal.
    until(|| faults.counts(listing).unwrap().struck > 0).await;
    let hanging = faults.add(
        Fault::on(Operation::PutObject)
            .prefix("journal/")
            .then(Effect::StallBefore(None)),
    );
    until(|| faults.counts(hanging).unwrap().struck > 0).await;
    let ended = terminate(child).await;
    ended.assert_says("not everything ended within 2s");
    ended.assert_says("the journal may lack what was done last");
    ended.assert_at_once();
    faults.clear();
    let mut again = process_at(&world);
    again
        .args([&copy[..], &journal].concat())
        .current_dir(directory.path());
    let output = spawn_blocking(move || again.output().unwrap())
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    world.assert_equal("k", "copies/k");
    let uploads = world.open_uploads(DESTINATION);
    assert!(uploads.is_empty(), "{uploads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_time_that_is_too_short_is_refused() {
    let world = World::new().await;
    let (exit, _, stderr) = run(at(&world), &[words("copy"), &["--drain", "10ms"]].concat()).await;
    assert_eq!(exit, 2, "{stderr}");
    assert!(
        stderr.contains("--drain") && stderr.contains("at least a second"),
        "{stderr}"
    );
}

/// The second session is stopped before it reaches any object that the first one planned.
#[tokio::test(flavor = "multi_thread")]
async fn the_summary_counts_all_objects_that_the_journal_still_expects() {
    let world = World::new().await;
    (0..40).for_each(|index| world.put(&format!("{index:02}"), 9));
    let directory = tempfile::tempdir().unwrap();
    let copy: Vec<_> = [
        words("copy"),
        &["--journal", "J", "--drain", "2s", "--json"],
    ]
    .concat();
    let faults = world.sandbox.faults();
    let stall = |operation| faults.add(Fault::on(operation).then(Effect::StallBefore(None)));
    let pending = async || {
        let mut status = at(&world);
        status.current_dir(directory.path());
        let (_, stdout, _) = run(status, &["status", "J", "--json"]).await;
        let status: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_default();
        status["pending_objects"].as_u64()
    };
    stall(Operation::CopyObject);
    let first = start(process_at(&world), directory.path(), &copy);
    while pending().await != Some(40) {
        sleep(Duration::from_millis(50)).await;
    }
    send("KILL", &first);
    let ended = spawn_blocking(move || first.wait_with_output().unwrap());
    ended.await.unwrap();

    let met = faults.fired();
    stall(Operation::HeadObject);
    let mut second = process_at(&world);
    second
        .args(&copy)
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let second = second.spawn().unwrap();
    while faults.fired() == met {
        sleep(Duration::from_millis(10)).await;
    }
    send("TERM", &second);
    let ended = spawn_blocking(move || second.wait_with_output().unwrap());
    let output = ended.await.unwrap();
    let end: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let stopped = end["summary"]["stopped_objects"].as_u64();
    assert_eq!((output.status.code(), stopped), (Some(4), Some(40)));
    assert_eq!(pending().await, Some(40));
}
