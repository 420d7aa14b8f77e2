//! A run reports the truth about itself: failures by cause, runs in which everything fails, and
//! selections that match nothing.

use std::time::Duration;

use rstest::rstest;
use s3haul::journal::Intent;
use s3haul::manifest::job::{FailureLimit, Limits};
use s3haul::sandbox::{Effect, Fault, Operation};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::world::program::{at, run};
use crate::world::{DESTINATION, SOURCE, World, copy_all};

fn put_many(world: &World, number: usize) {
    for number in 0..number {
        world.put(&format!("k/{number:05}"), 100);
    }
}

fn denied(operation: Operation) -> Fault {
    Fault::on(operation).then(Effect::Error(403, "AccessDenied"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_which_everything_fails_alike_stops_early() {
    let mut world = World::new().await;
    put_many(&world, 2000);
    world.add_fault(denied(Operation::CopyObject));
    let directory = tempfile::tempdir().unwrap();
    let job = world.job(copy_all());
    let first = world.session(directory.path(), &job, Intent::Resume).await;
    let gave_up = first
        .outcome
        .gave_up
        .clone()
        .expect("it went on to the end");
    assert!(
        gave_up.reason.contains("AccessDenied") && gave_up.reason.contains("max_failures: none")
    );
    assert!(!gave_up.may_pass_later);
    assert!(
        (300..700).contains(&first.outcome.failed_objects),
        "{:?}",
        first.outcome
    );
    assert!(
        world.calls(Operation::CopyObject) < 700,
        "{}",
        world.calls(Operation::CopyObject)
    );
    // The next session tries the failed objects again.
    world.sandbox.faults().clear();
    world.stop = CancellationToken::new();
    let second = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (second.outcome.done_objects, second.outcome.failed_objects),
        (2000, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_scattered_failures_continues_to_its_end() {
    let world = World::new().await;
    for number in 0..1000 {
        world.put(&format!("k/{number:05}-bad"), 100);
        world.put(&format!("k/{number:05}-good"), 100);
    }
    // Successes are slow, so that all refusals of open objects arrive before the first of them.
    let slow = Fault::on(Operation::CopyObject)
        .key("-good")
        .then(Effect::Delay(Duration::from_millis(300)));
    world.add_fault(slow);
    world.add_fault(denied(Operation::CopyObject).key("-bad"));
    let run = world.try_run_job(&world.job(copy_all())).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (1000, 1000)
    );
    assert_eq!(run.outcome.gave_up, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_series_of_failures_can_be_asked_for() {
    let world = World::new().await;
    put_many(&world, 1000);
    world.add_fault(denied(Operation::CopyObject));
    let mut job = world.job(copy_all());
    job.limits = Limits {
        max_failures: Some(FailureLimit::Unlimited),
        ..Limits::default()
    };
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        (run.outcome.failed_objects, run.outcome.gave_up),
        (1000, None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_counts_failures_by_cause() {
    let world = World::new().await;
    put_many(&world, 30);
    world.add_fault(denied(Operation::CopyObject).key("k/0000"));
    world.add_fault(
        Fault::on(Operation::CopyObject)
            .key("k/0001")
            .then(Effect::Error(400, "InvalidStorageClass")),
    );
    world.add_fault(denied(Operation::CopyObject).key("k/0002"));
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
        "--max-failures",
        "none",
    ];
    let (exit, stdout, stderr) = run(at(&world), &copy).await;
    assert_eq!(exit, 1, "{stderr}");
    let line = |words: &str| {
        stdout
            .lines()
            .find(|line| line.contains(words))
            .unwrap_or_default()
            .to_owned()
    };
    assert!(
        line("AccessDenied").starts_with("20 x CopyObject AccessDenied: "),
        "{stdout}"
    );
    assert!(
        line("AccessDenied").contains(", for example s3://source/k/000"),
        "{stdout}"
    );
    assert!(
        line("InvalidStorageClass").starts_with("10 x CopyObject"),
        "{stdout}"
    );
    assert!(
        stderr.contains("the summary counts them by cause") && !stderr.contains("the report has")
    );
    let (_, stdout, _) = run(at(&world), &[&copy[..], &["--json"]].concat()).await;
    let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let failures = &last["summary"]["failures"];
    assert_eq!(
        (&failures[0]["objects"], &failures[0]["code"]),
        (&20.into(), &"AccessDenied".into())
    );
    assert_eq!(failures[1]["objects"], 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_without_a_match_is_reported() {
    let world = World::new().await;
    world.put("data/one", 100);
    let copy = |source: &'static str, more: &[&'static str]| {
        [
            &["copy", source, "s3://destination/", "--provider", "aws"],
            more,
        ]
        .concat()
    };
    for (source, more, exit, words) in [
        (
            "s3://source/dta/",
            &[][..],
            0,
            "warning: copy: nothing below s3://source/dta/",
        ),
        (
            "s3://source/dta/",
            &["--empty", "fail"],
            1,
            "error: copy: nothing below s3://source/dta/",
        ),
        (
            "s3://source/data/x*",
            &["--empty", "fail"],
            1,
            "error: copy: no key below s3://source/data/ matches `x*`",
        ),
        (
            "s3://source/data/",
            &["--exclude", "*"],
            0,
            "matches the filters (1 key that was listed does not match)",
        ),
        (
            "s3://source/dta/",
            &["--dry-run"],
            0,
            "warning: copy: nothing below s3://source/dta/",
        ),
        (
            "s3://source/dta/",
            &["--dry-run", "--empty", "fail"],
            1,
            "error: copy: nothing below s3://source/dta/",
        ),
    ] {
        let (found, stdout, stderr) = run(at(&world), &copy(source, more)).await;
        assert_eq!(found, exit, "{source} {more:?}: {stdout}{stderr}");
        assert!(
            stdout.contains(words),
            "{source} {more:?}: {stdout}{stderr}"
        );
    }
    let (exit, stdout, _) = run(at(&world), &copy("s3://source/dta/", &["--empty", "ok"])).await;
    assert!(exit == 0 && !stdout.contains("nothing below"), "{stdout}");
    let (_, stdout, _) = run(at(&world), &copy("s3://source/dta/", &["--json"])).await;
    let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(
        last["summary"]["empty"][0]["reason"],
        "nothing below s3://source/dta/"
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let (exit, stdout, _) = run(
        at(&world),
        &["copy", path, "s3://destination/", "--empty", "fail"],
    )
    .await;
    assert!(
        exit == 1 && stdout.contains(&format!("nothing in {path}")),
        "{stdout}"
    );
    let (exit, _, stderr) = run(
        at(&world),
        &copy("s3://source/data/one", &["--empty", "fail"]),
    )
    .await;
    assert!(exit == 2 && stderr.contains("--empty"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_comparison_fails_where_it_cannot_look() {
    let world = World::new().await;
    world.put("k", 100);
    let (exit, ..) = run(
        at(&world),
        &[
            "copy",
            "s3://source/",
            "s3://destination/",
            "--provider",
            "aws",
        ],
    )
    .await;
    assert_eq!(exit, 0);
    world.put_in(DESTINATION, "extra", 5);
    let verify = ["verify", "s3://source/", "s3://destination/", "--strict"];
    let (exit, _, stderr) = run(at(&world), &verify).await;
    assert_eq!(exit, 1, "{stderr}");
    assert!(
        stderr.contains("extra objects were not looked for") && stderr.contains("--provider"),
        "{stderr}"
    );
    let (exit, ..) = run(at(&world), &verify[..3]).await;
    assert_eq!(exit, 0, "without --strict nothing has changed");
    world.sandbox.store().delete_object(DESTINATION, "extra");
    let (exit, ..) = run(at(&world), &[&verify[..], &["--provider", "aws"]].concat()).await;
    assert_eq!(exit, 0);
    let nothing = [
        "verify",
        "s3://source/x/",
        "s3://destination/x/",
        "--strict",
        "--provider",
        "aws",
    ];
    let (exit, _, stderr) = run(at(&world), &nothing).await;
    assert!(
        exit == 1 && stderr.contains("nothing was compared"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_says_that_nothing_was_compared() {
    let world = World::new().await;
    world.put("k/1", 100);
    let (exit, _, stderr) = run(
        at(&world),
        &["verify", "s3://source/mistyped/", "s3://destination/"],
    )
    .await;
    assert_eq!(exit, 1, "{stderr}");
    let said = "error: nothing was compared: nothing below s3://source/mistyped/";
    assert!(stderr.contains(said), "{stderr}");
    let job = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    for (empty, expected) in [("fail", 1), ("warn", 1), ("ok", 0)] {
        let text = format!(
            "version: 1\ndefaults: {{empty: {empty}}}\ntransfers:\n  - {{from: {{s3: s3://source/mistyped/}}, to: {{s3: s3://destination/}}}}\n"
        );
        std::fs::write(job.path(), text).unwrap();
        let (exit, _, stderr) = run(at(&world), &["verify", job.path().to_str().unwrap()]).await;
        assert_eq!(exit, expected, "{empty}: {stderr}");
        let is_said = stderr.contains("error: nothing was compared");
        assert_eq!(is_said, expected == 1, "{empty}: {stderr}");
    }
}

/// The remedy does not cost more than the difference needs.
#[tokio::test(flavor = "multi_thread")]
async fn verify_names_the_command_that_copies_the_difference() {
    let world = World::new().await;
    world.put("k", 100);
    let verify = ["verify", "s3://source/", "s3://destination/"];
    let plain = "missing: s3haul copy s3://source/ s3://destination/";
    let by_checksum = "missing: s3haul copy --compare checksum s3://source/ s3://destination/";
    let (exit, stdout, _) = run(at(&world), &verify).await;
    assert!(exit == 1 && stdout.contains(plain), "{stdout}");
    world.put_in(DESTINATION, "k", 99);
    let (exit, stdout, _) = run(at(&world), &verify).await;
    assert!(exit == 1 && stdout.contains(plain), "{stdout}");
    let other = s3haul::sandbox::Content::pattern(77, 100);
    world.put_object(
        DESTINATION,
        "k",
        other,
        &s3haul::sandbox::ObjectSpec::default(),
    );
    let (exit, stdout, _) = run(at(&world), &verify).await;
    assert!(exit == 1 && stdout.contains(by_checksum), "{stdout}");
}

/// The destination of the first transfer was searched.
#[tokio::test(flavor = "multi_thread")]
async fn verify_names_the_transfer_whose_extra_objects_are_unknown() {
    let world = World::new().await;
    world.put("a/k", 100);
    world.put("b/k", 100);
    let job = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let text = "version: 1\nendpoints: {default: {provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}}\ntransfers:\n  \
        - {name: one, from: {s3: s3://source/a/}, to: {s3: s3://destination/a/}}\n  \
        - {name: two, from: {s3: s3://source/b/}, to: {s3: s3://destination/b/}, keys: {rename: \"{dir}{name}.bak\"}}\n";
    std::fs::write(job.path(), text).unwrap();
    let (exit, stdout, stderr) = run(at(&world), &["verify", job.path().to_str().unwrap()]).await;
    assert_eq!(exit, 1, "{stdout} {stderr}");
    let said = "not all extra objects were looked for: `two`: `keys` changes the order of the keys";
    assert!(stdout.contains(said), "{stdout} {stderr}");
}

/// Each transfer is judged by itself, as by `plan` and `run`.
#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_the_empty_transfer_next_to_a_good_one() {
    let world = World::new().await;
    world.put("good/k", 100);
    world.put_in(DESTINATION, "good/k", 100);
    let job = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let verify = async |empty: &str, more: &[&str]| {
        let text = format!(
            "version: 1\ndefaults: {{empty: {empty}}}\ntransfers:\n  \
             - {{name: good, from: {{s3: s3://source/good/}}, to: {{s3: s3://destination/good/}}}}\n  \
             - {{name: bad, from: {{s3: s3://source/mistyped/}}, to: {{s3: s3://destination/bad/}}}}\n"
        );
        std::fs::write(job.path(), text).unwrap();
        let words = ["verify", job.path().to_str().unwrap()];
        run(at(&world), &[&words[..], more].concat()).await
    };
    let found = "nothing was compared: bad: nothing below s3://source/mistyped/";
    for (empty, strict, expected, said) in [
        ("fail", &[][..], 1, format!("error: {found}")),
        ("warn", &[], 0, format!("warning: {found}")),
        (
            "warn",
            &["--strict"],
            1,
            format!("error: --strict: {found}"),
        ),
    ] {
        let (exit, stdout, stderr) = verify(empty, strict).await;
        assert_eq!(exit, expected, "{empty} {strict:?}: {stdout} {stderr}");
        assert!(stderr.contains(&said), "{said}: {stderr}");
        assert!(!stderr.contains(": good: "), "{stderr}");
    }
    let (exit, stdout, _) = verify("fail", &["--json"]).await;
    let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let empty = &last["summary"]["empty"][0];
    assert_eq!(
        (exit, &empty["transfer"], &empty["fails"]),
        (1, &"bad".into(), &true.into())
    );
    let (exit, _, stderr) = verify("ok", &[]).await;
    assert!(exit == 0 && !stderr.contains("nothing"), "{stderr}");
}

/// The other transfers of the job do not matter.
#[rstest]
#[case("ok", 0)]
#[case("warn", 1)]
#[case("fail", 1)]
#[tokio::test(flavor = "multi_thread")]
async fn a_strict_comparison_accepts_the_empty_selections_that_the_job_accepts(
    #[case] empty: &str,
    #[case] expected: i32,
    #[values(
        "",
        "  - {from: {s3: s3://source/good/}, to: {s3: s3://destination/good/}}\n"
    )]
    others: &str,
) {
    let world = World::new().await;
    world.put("good/k", 100);
    world.put_in(DESTINATION, "good/k", 100);
    let job = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let text = format!(
        "version: 1\nendpoints: {{default: {{provider: aws, url: \"${{AWS_ENDPOINT_URL_S3}}\"}}}}\n\
         defaults: {{empty: {empty}}}\ntransfers:\n  \
         - {{name: none, from: {{s3: s3://source/none/}}, to: {{s3: s3://destination/none/}}}}\n{others}"
    );
    std::fs::write(job.path(), text).unwrap();
    let verify = ["verify", job.path().to_str().unwrap(), "--strict"];
    let (exit, stdout, stderr) = run(at(&world), &verify).await;
    assert_eq!(exit, expected, "{stdout} {stderr}");
    assert_eq!(
        stderr.contains("nothing was compared"),
        expected == 1,
        "{stderr}"
    );
}

/// A refused list decides before the empty selection, and the empty selection before an outage.
#[rstest]
#[case::refused(Effect::Error(403, "AccessDenied"), 3)]
#[case::away(Effect::SlowDown, 1)]
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_list_next_to_an_empty_selection_ends_each_command_alike(
    #[case] effect: Effect,
    #[case] expected: i32,
    #[values("run", "plan", "verify")] word: &str,
) {
    let world = World::new().await;
    let list = Fault::on(Operation::ListObjectsV2).bucket(SOURCE);
    world.add_fault(list.prefix("denied/").then(effect));
    let job = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let text = "version: 1\ndefaults: {empty: fail}\nlimits: {patience: 1s}\ntransfers:\n  \
                - {name: denied, from: {s3: s3://source/denied/}, to: {s3: s3://destination/a/}}\n  \
                - {name: none, from: {s3: s3://source/none/}, to: {s3: s3://destination/b/}}\n";
    std::fs::write(job.path(), text).unwrap();
    let command = [word, job.path().to_str().unwrap()];
    let (exit, stdout, stderr) = run(at(&world), &command).await;
    assert_eq!(exit, expected, "{stdout} {stderr}");
}

/// A report without receipts proves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_strict_comparison_of_a_report_without_receipts_fails() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.jsonl");
    let report = report.to_str().unwrap();
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--report",
        report,
    ];
    let (exit, _, stderr) = run(at(&world), &copy).await;
    assert_eq!(exit, 0, "{stderr}");
    let verify = ["verify", "--report", report];
    let said = "nothing was compared: no line of the report names a copy";
    let (exit, _, stderr) = run(at(&world), &verify).await;
    assert!(
        exit == 0 && stderr.contains(&format!("warning: {said}")),
        "{exit} {stderr}"
    );
    let (exit, _, stderr) = run(at(&world), &[&verify[..], &["--strict"]].concat()).await;
    assert!(
        exit == 1 && stderr.contains(&format!("error: --strict: {said}")),
        "{exit} {stderr}"
    );
}
