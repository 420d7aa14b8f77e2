//! Jobs that cannot run in shards are refused before anything is written, with the reason.

use s3haul::sandbox::{Model, Operation};

use super::{STATE, Shards, flags};
use crate::world::SOURCE;
use crate::world::program::COPY_ALL;

/// Runs a command that must be refused with this exit code, and returns its error.
async fn refused(shards: &Shards, arguments: &[&str], exit: i32) -> String {
    let ended = shards.run(arguments).await;
    assert_eq!(
        ended.exit, exit,
        "{arguments:?}: {} {}",
        ended.stdout, ended.stderr
    );
    ended.stderr
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_that_contradict_shards_are_refused() {
    let shards = Shards::new(Model::default()).await;
    let state = ["run", "job.yaml", "--state", STATE];
    for (more, expected) in [
        (&[][..], "--shards"),
        (
            &["--shards", "2001", "--shard", "0"],
            "2001 shards are too many",
        ),
        (
            &["--shards", "0", "--shard", "0"],
            "a run needs at least one shard",
        ),
        (
            &["--shards", "4", "--shard", "4"],
            "there is no shard 4: with --shards 4 the last one is 3",
        ),
        (
            &["--shards", "4"],
            "none of JOB_COMPLETION_INDEX (an Indexed Job of Kubernetes), AWS_BATCH_JOB_ARRAY_INDEX",
        ),
        (
            &["--shards", "4", "--shard", "0", "--report", "r.jsonl"],
            "--report has no effect here",
        ),
        (
            &["--shards", "4", "--shard", "0", "--journal", "j"],
            "--journal has no effect here",
        ),
        (
            &["--shards", "4", "--shard", "0", "--fresh"],
            "--fresh has no effect here",
        ),
        (
            &["--shards", "4", "--shard", "0", "--dry-run"],
            "--dry-run has no effect here",
        ),
        (&["--shards", "4", "--shard", "0", "--pods", "0"], "--pods"),
    ] {
        let error = refused(&shards, &[&state[..], more].concat(), 2).await;
        assert!(error.contains(expected), "{more:?}: {error}");
    }
    for (arguments, expected) in [
        (
            &[
                "run",
                "job.yaml",
                "--state",
                "s3://ops/run",
                "--shards",
                "2",
            ][..],
            "write s3://ops/run/ with a slash at the end",
        ),
        (
            &["run", "job.yaml", "--state", "s3://ops/", "--shards", "2"],
            "is a whole bucket",
        ),
        (&["run", "job.yaml", "--shards", "2"], "--state"),
        (&["plan", "job.yaml", "--shards", "2"], "--out"),
        (
            &["plan", "job.yaml", "--shards", "2", "--out", "plan.jsonl"],
            "write --out s3://bucket/prefix/",
        ),
        (
            &["plan", "job.yaml", "--out", STATE],
            "plan shards with --shards",
        ),
        (&["plan", "job.yaml", "--exact"], "--shards"),
        (
            &["plan", "job.yaml", "--shards", "2001", "--out", STATE],
            "2001 shards are too many",
        ),
    ] {
        let error = refused(&shards, arguments, 2).await;
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    assert_eq!(shards.keys("ops"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_whose_keys_cannot_be_cut_are_refused() {
    let shards = Shards::new(Model::default()).await;
    shards.put("a", 1);
    let header = COPY_ALL.split("transfers:").next().unwrap();
    let one = "{name: one, from: {s3: s3://source/a/}, to: {s3: s3://destination/a/}}";
    let unordered = header.replace(
        "provider: aws",
        "provider: aws, capabilities: {ordered_lists: false}",
    );
    for (job, expected) in [
        (
            format!(
                "{header}transfers:\n  - {{from: {{files: .}}, to: {{s3: s3://destination/}}}}\n"
            ),
            "local files cannot be copied in shards",
        ),
        (
            format!(
                "{header}transfers:\n  - {one}\n  - {{after: [one], from: {{s3: s3://source/b/}}, to: {{s3: s3://destination/b/}}}}\n"
            ),
            "`after: one` cannot be kept in shards",
        ),
        (
            format!(
                "{header}transfers:\n  - {one}\n  - {{from: {{s3: s3://destination/a/}}, to: {{s3: s3://destination/c/}}}}\n"
            ),
            "it has keys in common with one",
        ),
        (
            format!(
                "{header}transfers:\n  - {{from: {{s3: s3://source/, versions: all}}, to: {{s3: s3://destination/}}}}\n"
            ),
            "a history is read from its beginning",
        ),
        (
            format!("{unordered}transfers:\n  - {one}\n"),
            "does not list in the order of keys",
        ),
    ] {
        shards.job(&job);
        for arguments in [
            &flags("0", "4")[..],
            &["plan", "job.yaml", "--shards", "4", "--out", STATE],
        ] {
            let error = refused(&shards, arguments, 2).await;
            assert!(error.contains(expected), "{job}: {error}");
        }
    }
    assert_eq!(shards.keys("ops"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_cannot_be_divided_are_refused() {
    let shards = Shards::new(Model::default()).await;
    shards.job(&format!("{COPY_ALL}limits: {{requests_per_second: 3}}\n"));
    let error = refused(&shards, &flags("0", "8"), 2).await;
    assert!(
        error.contains("limits.requests_per_second: 3 cannot be divided among 4 processes"),
        "{error}"
    );
    let unknown = [
        "run", "job.yaml", "--state", STATE, "--shards", "8", "--shard", "0",
    ];
    let error = refused(&shards, &unknown, 2).await;
    assert!(error.contains("set it with --pods"), "{error}");
}

/// The job may be one that used to run in one process.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_and_a_report_of_the_job_are_named_as_unused() {
    let note = "`journal` and `report` of the job are not used";
    let shards = Shards::new(Model::default()).await;
    shards.put("a", 1);
    let ended = shards.run(&flags("0", "1")).await;
    assert_eq!(ended.exit, 0, "{}", ended.stderr);
    assert!(!ended.stderr.contains(note), "{}", ended.stderr);
    for field in ["journal: ./journal", "report: {json: ./report.jsonl}"] {
        shards.job(&format!("{COPY_ALL}{field}\n"));
        let ended = shards.run(&flags("0", "1")).await;
        assert_eq!(ended.exit, 0, "{}", ended.stderr);
        assert!(ended.stderr.contains(note), "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_another_job_is_refused_with_the_difference() {
    let shards = Shards::new(Model::default()).await;
    for key in ["a", "b", "c"] {
        shards.put(key, 1);
    }
    shards.expect_done(0, 3).await;
    let error = refused(&shards, &flags("1", "4"), 2).await;
    assert!(
        error.contains("it has 3 shards, but --shards says 4"),
        "{error}"
    );
    shards.job(&COPY_ALL.replace("s3: s3://source/", "s3: s3://source/, exclude: [\"b\"]"));
    let error = refused(&shards, &flags("1", "3"), 2).await;
    assert!(
        error.contains("`transfer-1.from.exclude` is b and was not set"),
        "{error}"
    );
    let error = refused(&shards, &flags("0", "3"), 2).await;
    assert!(
        error.contains("was made for another job"),
        "done for another job: {error}"
    );
    // Settings that decide about no object may change.
    shards.job(&format!("{COPY_ALL}limits: {{in_flight: 64}}\n"));
    shards.expect_done(1, 3).await;
    shards.expect_done(2, 3).await;
    assert_eq!(shards.keys("destination"), ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_with_the_state_prefix_says_what_a_run_would() {
    let shards = Shards::new(Model::default()).await;
    shards.put_many(20);
    let check = |count: &'static str| ["check", "job.yaml", "--state", STATE, "--shards", count];
    let first = shards.run(&check("2")).await;
    assert_eq!(first.exit, 0, "{}", first.stderr);
    for expected in [
        "no plan is there yet; the first process plans the shards",
        "not checked: writing to s3://ops/run/",
    ] {
        assert!(first.stdout.contains(expected), "{}", first.stdout);
    }
    assert!(shards.state("plan.json").is_none(), "check wrote the plan");

    shards.expect_done(0, 2).await;
    let second = shards.run(&check("2")).await;
    let expected = "the plan there belongs to this job; 1 of 2 shards are done";
    assert_eq!(second.exit, 0, "{}", second.stderr);
    assert!(second.stdout.contains(expected), "{}", second.stdout);
    let error = refused(&shards, &check("3"), 2).await;
    assert!(
        error.contains("it has 2 shards, but --shards says 3"),
        "{error}"
    );

    let store = shards.world.sandbox.store();
    store.deny("ops", Operation::GetObject, "");
    let denied = shards.run(&check("2")).await;
    assert_eq!(denied.exit, 3, "{}", denied.stderr);
    assert!(
        denied.stdout.contains("state: s3://ops/run/"),
        "{}",
        denied.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_with_the_state_prefix_refuses_a_job_that_cannot_run_in_shards() {
    let shards = Shards::new(Model::default()).await;
    shards.job("version: 1\ntransfers:\n  - from: {files: .}\n    to: {s3: s3://destination/}\n");
    let check = ["check", "job.yaml", "--state", STATE, "--shards", "2"];
    let error = refused(&shards, &check, 2).await;
    assert!(
        error.contains("local files cannot be copied in shards"),
        "{error}"
    );
    assert_eq!(shards.world.calls(Operation::GetObject), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_prefix_inside_the_source_is_refused_by_check_and_run() {
    let shards = Shards::new(Model::default()).await;
    for command in ["check", "run"] {
        let mut arguments = vec![command, "job.yaml", "--state", "s3://source/run/"];
        arguments.extend(["--shards", "2"]);
        if command == "run" {
            arguments.extend(["--shard", "0"]);
        }
        let error = refused(&shards, &arguments, 2).await;
        assert!(
            error.contains("--state: the state s3://source/run/ lies in the source of `"),
            "{error}"
        );
    }
    assert_eq!(shards.keys(SOURCE).len(), 0);
}
