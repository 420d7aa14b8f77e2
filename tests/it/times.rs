//! Filters of a source on the command line, and times given as ages.

use std::fs;
use std::time::Duration;

use assert_cmd::Command;
use jiff::Timestamp;
use s3haul::journal::fingerprint::Fingerprint;
use s3haul::journal::{Intent, Location, look};
use s3haul::manifest::job::{Transfer, Versions};
use s3haul::sandbox::{Effect, Fault, ObjectSpec, Operation};

use crate::world::program::{at, process_at, run};
use crate::world::{DESTINATION, World, aged, copy_all};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test(flavor = "multi_thread")]
async fn the_manifests_filters_are_flags() {
    let world = World::new().await;
    for (key, size, days) in [("a", 0, 0), ("b", 10, 1), ("c", 20, 3), ("d", 30, 10)] {
        world.put_with(key, size, &aged(24 * HOUR * days + HOUR));
    }
    let class = ObjectSpec::default().storage_class("STANDARD_IA");
    world.put_with("ia", 10, &class);
    let date = (Timestamp::now() - jiff::SignedDuration::from_hours(48))
        .strftime("%Y-%m-%d")
        .to_string();
    for (flags, keys) in [
        (&["--larger-than", "10B"][..], &["c", "d"][..]),
        (&["--min-size", "10B"], &["b", "c", "d", "ia"]),
        (&["--min-size", "0B"], &["a", "b", "c", "d", "ia"]),
        (&["--smaller-than", "20B"], &["a", "b", "ia"]),
        (&["--max-size", "20B"], &["a", "b", "c", "ia"]),
        (&["--modified-after", "24h"], &["a", "ia"]),
        (&["--max-age", "2d"], &["a", "b", "ia"]),
        (&["--modified-before", "1w"], &["d"]),
        (&["--min-age", "1d", "--modified-after", &date], &["b"]),
        (&["--storage-classes", "STANDARD_IA,GLACIER"], &["ia"]),
        (&["--include", "[ab]", "--exclude", "a"], &["b"]),
    ] {
        for key in world.keys(DESTINATION) {
            world.sandbox.store().delete_object(DESTINATION, &key);
        }
        let places = ["s3://source/", "s3://destination/"];
        let (exit, stdout, stderr) =
            run(at(&world), &[&["copy"], &places[..], flags].concat()).await;
        assert_eq!(exit, 0, "{flags:?}: {stdout}{stderr}");
        assert_eq!(world.keys(DESTINATION), keys, "{flags:?}");
        let (exit, stdout, _) = run(at(&world), &[&["verify"], &places[..], flags].concat()).await;
        assert_eq!(exit, 0, "{flags:?}: {stdout}");
        assert!(
            stdout.contains(&format!(": {} equal", keys.len())),
            "{flags:?}: {stdout}"
        );
    }
    for (flags, why) in [
        (
            &["--min-size", "1B", "--larger-than", "1B"][..],
            "cannot be used with",
        ),
        (
            &["--larger-than", "5GB"],
            "write 5GiB (5,368,709,120 bytes) or 5000000000B",
        ),
        (&["--modified-after", "yesterday"], "an age such as 24h"),
        (&["--storage-classes", "standard"], "not a storage class"),
    ] {
        let (exit, _, stderr) = run(
            at(&world),
            &[&["copy", "s3://source/", "s3://destination/"], flags].concat(),
        )
        .await;
        assert!(exit == 2 && stderr.contains(why), "{flags:?}: {stderr}");
    }
    // Filters do not apply to a single object.
    let one = [
        "copy",
        "s3://source/a",
        "s3://destination/a",
        "--larger-than",
        "1B",
    ];
    assert_eq!(run(at(&world), &one).await.0, 2);
    let pattern = [
        "copy",
        "s3://source/*",
        "s3://destination/",
        "--include",
        "a",
    ];
    let (exit, _, stderr) = run(at(&world), &pattern).await;
    assert!(
        exit == 2 && stderr.contains("would add to what it matches"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_renamed_on_the_command_line() {
    let world = World::new().await;
    world.put_with("d/a.tar.gz", 1, &aged(HOUR));
    let rename = ["--rename", "{dir}{stem}-v1{ext}"];
    let places = ["copy", "s3://source/", "s3://destination/"];
    let (exit, _, stderr) = run(at(&world), &[&places[..], &rename].concat()).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(world.keys(DESTINATION), ["d/a.tar-v1.gz"]);
    let (exit, _, stderr) = run(at(&world), &[&places[..], &["--rename", "x"]].concat()).await;
    assert!(exit == 2 && stderr.contains("overwrite"), "{stderr}");
}

fn manifest_from(from: &str) -> String {
    format!(
        "version: 1\nendpoints: {{default: {{provider: aws, url: \"${{AWS_ENDPOINT_URL_S3}}\"}}}}\n\
         transfers:\n  - {{name: all, from: {{s3: s3://source/, {from}}}, to: {{s3: s3://destination/}}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_and_check_show_the_times_that_they_select_by() {
    let world = World::new().await;
    world.put_with("old", 1, &aged(48 * HOUR));
    world.put_with("new", 1, &aged(HOUR));
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job.yaml");
    fs::write(
        &job,
        manifest_from("modified_after: 24h, modified_before: 2199-01-01"),
    )
    .unwrap();
    let day = (Timestamp::now() - jiff::SignedDuration::from_hours(24))
        .strftime("%Y-%m-%dT")
        .to_string();
    for command in ["plan", "check"] {
        let (exit, stdout, stderr) = run(at(&world), &[command, job.to_str().unwrap()]).await;
        assert_eq!(exit, 0, "{stderr}");
        let line = stdout
            .lines()
            .find(|line| line.contains("or later"))
            .unwrap_or_else(|| panic!("{stdout}"));
        assert!(
            line.contains("modified at 20") && line.contains("(24h before the start of the run)"),
            "{line}"
        );
        // The test may run at midnight.
        assert!(line.contains(&day[..8]), "{line}");
        assert!(
            stdout.contains("modified before 2199-01-01T00:00:00Z"),
            "{stdout}"
        );
    }
    let (_, stdout, _) = run(at(&world), &["plan", job.to_str().unwrap()]).await;
    assert!(stdout.contains("to copy   1 object"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_resumes_counts_ages_from_its_start() {
    let mut world = World {
        ceiling: 2,
        ..World::new().await
    };
    for index in 0..40 {
        world.put_with(&format!("{index:02}"), 1, &aged(HOUR));
    }
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("journal");
    let job = |now: &str| {
        let mut transfer = Transfer { ..copy_all() };
        transfer.set_modified_after(Some("24h".parse().unwrap()));
        let mut job = world.job(transfer);
        job.count_from(now.parse().unwrap());
        job
    };
    let now = Timestamp::now();
    let (today, next_week) = (job(&now.to_string()), job("2199-01-01T00:00:00Z"));
    assert_eq!(
        Fingerprint::of(&today),
        Fingerprint::of(&next_week),
        "it is the same job on every day"
    );
    assert_ne!(today, next_week);
    let stop = world.stop.clone();
    world.add_fault(
        Fault::on(Operation::CopyObject)
            .nth(5)
            .then(Effect::hook(move |_| stop.cancel())),
    );
    let first = world.session(&place, &today, Intent::Resume).await;
    assert!(
        first.outcome.stopped && first.outcome.done_objects < 40,
        "{:?}",
        first.outcome
    );
    world.sandbox.faults().clear();
    world.stop = tokio_util::sync::CancellationToken::new();
    let second = world.session(&place, &next_week, Intent::Resume).await;
    assert_eq!(
        (second.outcome.done_objects, second.outcome.failed_objects),
        (40, 0),
        "{:?}",
        second.outcome
    );
    let state = look(Location::Directory(place.clone()))
        .await
        .unwrap()
        .unwrap()
        .state;
    assert_eq!(state.run.unwrap().counted_from, Some(now));
    // The next run counts ages from its own start.
    let third = world.session(&place, &next_week, Intent::Resume).await;
    assert_eq!(
        (
            third.outcome.skipped_objects,
            third.outcome.excluded_objects
        ),
        (0, 40)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_counted_counts_from_its_run() {
    let world = World::new().await;
    world.put_with("old", 1, &aged(48 * HOUR));
    world.put_with("new", 1, &aged(HOUR));
    let mut transfer = copy_all();
    transfer.set_modified_after(Some("24h".parse().unwrap()));
    assert_eq!(
        transfer.select.modified_after,
        Some(Timestamp::MAX),
        "it admits nothing before it is counted"
    );
    let run = world.run(transfer).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.excluded_objects),
        (1, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_may_be_an_age_or_a_date() {
    let world = World::versioned().await;
    world.put_with("k", 1, &aged(48 * HOUR));
    world.put_with("k", 2, &aged(HOUR));
    let size = || {
        world
            .object(DESTINATION, "k")
            .map(|object| object.content.len())
    };
    let tomorrow = (Timestamp::now() + jiff::SignedDuration::from_hours(48))
        .strftime("%Y-%m-%d")
        .to_string();
    for (as_of, expected) in [("24h", 1), (tomorrow.as_str(), 2)] {
        let places = [
            "copy",
            "s3://source/",
            "s3://destination/",
            "--when",
            "always",
        ];
        let (exit, _, stderr) = run(at(&world), &[&places[..], &["--as-of", as_of]].concat()).await;
        assert_eq!((exit, size()), (0, Some(expected)), "{as_of}: {stderr}");
    }
    let mut transfer = copy_all();
    transfer.set_as_of("1d".parse().unwrap());
    assert_eq!(transfer.versions, Versions::AsOf(Timestamp::MIN));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_takes_what_the_run_chose_whatever_its_age_is_by_now() {
    let world = World::new().await;
    world.put_with("k", 1, &aged(HOUR));
    world.add_fault(Fault::on(Operation::CopyObject).then(Effect::Error(403, "AccessDenied")));
    let dir = tempfile::tempdir().unwrap();
    let in_directory = || {
        let mut command = process_at(&world);
        command
            .env("S3HAUL_JOURNAL", "none")
            .current_dir(dir.path());
        Command::from_std(command)
    };
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--report",
        "r.jsonl",
        "--max-age",
    ];
    let (exit, _, stderr) = run(in_directory(), &[&copy[..], &["2h"]].concat()).await;
    assert_eq!(exit, 1, "{stderr}");
    world.sandbox.faults().clear();
    // Changes the report as if hours had passed.
    let report = fs::read_to_string(dir.path().join("r.jsonl"))
        .unwrap()
        .replace("\"2h\"", "\"1s\"");
    fs::write(
        dir.path().join("r.jsonl"),
        crate::reports::without_checksum(&report),
    )
    .unwrap();
    let (exit, stdout, stderr) = run(in_directory(), &["retry", "r.jsonl"]).await;
    assert_eq!(
        (exit, world.keys(DESTINATION).len()),
        (0, 1),
        "{stdout}{stderr}"
    );
}
