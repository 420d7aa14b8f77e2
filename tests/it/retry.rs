//! `retry`: copies the failed objects of a report, and no others.

mod ages;
mod earlier;
mod losses;
mod receipts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{Chosen, Transfer, Versions, When};
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};

use crate::reports::{lines_of, receipts_in, without_checksum};
use crate::world::program::{at, journaled, run};
use crate::world::{DESTINATION, SOURCE, World, copy_all, upload_all};

fn denied(key: &str) -> Fault {
    Fault::on(Operation::CopyObject)
        .key(key)
        .then(Effect::Error(403, "AccessDenied"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_run_that_gave_up_says_how_to_resume_it() {
    let world = World::new().await;
    world.put_all(["a", "b"], 100);
    world.add_fault(Fault::on(Operation::CopyObject).then(Effect::Error(403, "AccessDenied")));
    let dir = tempfile::tempdir().unwrap();
    let first = journaled(&world, dir.path());
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--report",
        "r.jsonl",
        "--max-failures",
        "0",
    ];
    let (exit, ..) = run(first, &copy).await;
    assert_eq!(exit, 1);
    let report = dir.path().join("r.jsonl");
    let mut again = at(&world);
    again.env_remove("S3HAUL_JOURNAL");
    let (exit, stdout, stderr) = run(again, &["retry", report.to_str().unwrap()]).await;
    assert!(
        exit == 1 && stdout.contains(" failed"),
        "{exit} {stdout} {stderr}"
    );
    assert!(
        stderr.contains("never have listed others: run `s3haul copy s3://source/ "),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_runs_what_failed_with_the_command_that_failed() {
    let world = World::new().await;
    world.put_all(["a", "b", "c/ü +", "d"], 100);
    world.add_fault(denied("b"));
    world.add_fault(denied("c/"));
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("night.jsonl");
    let report = report.to_str().unwrap();
    let class = ["--storage-class", "STANDARD_IA"];
    let copy = [
        &[
            "copy",
            "s3://source/",
            "s3://destination/",
            "--report",
            report,
        ][..],
        &class,
    ]
    .concat();
    let (exit, ..) = run(at(&world), &copy).await;
    assert_eq!(exit, 1);

    // A copied object has been deleted again: a retry must not copy it.
    world.sandbox.store().delete_object(DESTINATION, "a");
    world.sandbox.faults().clear();
    world.add_fault(denied("c/"));
    world.sandbox.calls().clear();
    let retry = ["retry", report, "--resume-anyway"];
    let (exit, stdout, stderr) = run(at(&world), &retry).await;
    assert_eq!(exit, 1, "{stdout} {stderr}");
    assert!(
        stdout.contains("1 object copied") && stdout.contains("1 failed"),
        "{stdout}"
    );
    // The refused copy is retried, because the other object was copied.
    let calls = world.sandbox.calls().of(Operation::CopyObject);
    let keys: BTreeSet<_> = calls.iter().map(|call| call.key.as_str()).collect();
    assert_eq!(keys, BTreeSet::from(["b", "c/ü +"]));
    assert_eq!(
        world.calls(Operation::ListObjectsV2),
        0,
        "no side is listed"
    );
    let copied = world.object(DESTINATION, "b").unwrap();
    assert_eq!(
        copied.attributes.class(),
        "STANDARD_IA",
        "the command's flags count"
    );
    assert!(world.object(DESTINATION, "a").is_none());

    world.sandbox.faults().clear();
    let second = dir.path().join("night.retry-1.jsonl");
    let (exit, stdout, _) = run(at(&world), &["retry", second.to_str().unwrap()]).await;
    assert_eq!(exit, 0, "{stdout}");
    assert!(world.object(DESTINATION, "c/ü +").is_some());
    let third = dir.path().join("night.retry-2.jsonl");
    let receipts = receipts_in(&third);
    assert_eq!(
        (receipts.len(), &receipts[0]["status"]),
        (1, &"done".into()),
        "{receipts:?}"
    );
    let (exit, stdout, _) = run(at(&world), &["retry", third.to_str().unwrap()]).await;
    assert!(exit == 0 && stdout.contains("nothing to do"), "{stdout}");
}

/// A merge needs them, and the failed transfer says nothing about the others.
#[tokio::test(flavor = "multi_thread")]
async fn the_report_of_a_retry_names_the_histories_of_the_whole_job() {
    let world = World::versioned().await;
    world.put_all(["h/a", "p/b"], 100);
    world.add_fault(denied("p/b"));
    let dir = tempfile::tempdir().unwrap();
    let (manifest, report) = (dir.path().join("job.yaml"), dir.path().join("r.jsonl"));
    let text = "version: 1\nendpoints: {default: {provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}}\ntransfers:\n  \
                - {name: h, from: {s3: s3://source/h/, versions: all}, to: {s3: s3://destination/h/}}\n  \
                - {name: p, from: {s3: s3://source/p/}, to: {s3: s3://destination/p/}}\n";
    fs::write(&manifest, text).unwrap();
    let (manifest, report) = (manifest.to_str().unwrap(), report.to_str().unwrap());
    let (exit, stdout, stderr) = run(at(&world), &["run", manifest, "--report", report]).await;
    assert_eq!(exit, 1, "{stdout} {stderr}");
    world.sandbox.faults().clear();
    let (exit, stdout, stderr) = run(at(&world), &["retry", report]).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    let retried = lines_of(&dir.path().join("r.retry-1.jsonl"));
    assert_eq!(retried[0]["histories"], serde_json::json!(["h"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_reads_the_manifest_again_and_explains_what_it_cannot_use() {
    let world = World::new().await;
    world.put_all(["a", "b"], 100);
    world.add_fault(denied("b"));
    let dir = tempfile::tempdir().unwrap();
    let manifest = dir.path().join("job.yaml");
    let job = |name: &str| {
        let text = "version: 1\ntransfers:\n  - name: NAME\n    from: {s3: s3://source/}\n    to: {s3: s3://destination/}\n";
        fs::write(&manifest, text.replace("NAME", name)).unwrap();
    };
    job("nightly");
    let report = dir.path().join("report.jsonl");
    let (manifest, report) = (manifest.to_str().unwrap(), report.to_str().unwrap());
    let (exit, ..) = run(at(&world), &["run", manifest, "--report", report]).await;
    assert_eq!(exit, 1);
    job("other");
    let (exit, _, stderr) = run(at(&world), &["retry", report]).await;
    assert!(
        exit == 2 && stderr.contains("a transfer `nightly`, which the job no longer has"),
        "{stderr}"
    );
    let (exit, _, stderr) = run(at(&world), &["retry", manifest]).await;
    assert!(
        exit == 2 && stderr.contains("is not a report of s3haul"),
        "{stderr}"
    );
    job("nightly");
    world.sandbox.faults().clear();
    let (exit, stdout, _) = run(at(&world), &["retry", report, "--dry-run"]).await;
    assert!(
        exit == 0 && stdout.contains("to copy   1 object"),
        "{stdout}"
    );
    let (exit, ..) = run(at(&world), &["retry", report]).await;
    assert_eq!(exit, 0);
    assert!(world.object(DESTINATION, "b").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_does_not_write_to_another_place_than_its_report_names() {
    let world = World::new().await;
    world.put_all(["a", "b"], 100);
    world.add_fault(denied("b"));
    let dir = tempfile::tempdir().unwrap();
    let (manifest, report) = (dir.path().join("job.yaml"), dir.path().join("report.jsonl"));
    let text = "version: 1\ntransfers:\n  - name: nightly\n    from: {s3: \"s3://${FROM}/\"}\n    to: {s3: \"s3://${TO}/\"}\n";
    fs::write(&manifest, text).unwrap();
    let (manifest, report) = (manifest.to_str().unwrap(), report.to_str().unwrap());
    let told = async |from: &str, to: &str, arguments: &[&str]| {
        let mut command = at(&world);
        command.env("FROM", from).env("TO", to);
        run(command, arguments).await
    };
    let (exit, _, stderr) = told(
        "source",
        "destination/rt",
        &["run", manifest, "--report", report],
    )
    .await;
    assert_eq!(exit, 1, "{stderr}");
    // Only the failed line is left, so that no other line shows the change.
    let text = fs::read_to_string(report).unwrap();
    let kept = text
        .lines()
        .filter(|line| !line.contains("\"done\""))
        .map(|line| format!("{line}\n"));
    let kept = kept
        .collect::<String>()
        .replace("\"lines\":2", "\"lines\":1");
    fs::write(report, without_checksum(&kept)).unwrap();
    world.sandbox.faults().clear();
    world.sandbox.calls().clear();
    let (retry, verify) = (&["retry", report][..], &["verify", "--report", report][..]);
    for (from, to, command, named, now) in [
        (
            "source",
            "other/rt",
            retry,
            "s3://destination/rt/b",
            "names the bucket other",
        ),
        (
            "source",
            "other/rt",
            verify,
            "s3://destination/rt/b",
            "names the bucket other",
        ),
        (
            "other",
            "destination/rt",
            retry,
            "s3://source/b",
            "names the bucket other",
        ),
        (
            "other",
            "destination/rt",
            verify,
            "s3://source/b",
            "names the bucket other",
        ),
        (
            "source",
            "destination/other",
            retry,
            "s3://destination/rt/b",
            "writes to s3://destination/other/",
        ),
    ] {
        let (exit, stdout, stderr) = told(from, to, command).await;
        assert!(
            (exit, stdout.as_str()) == (2, ""),
            "{command:?}: {exit} {stdout} {stderr}"
        );
        for said in [
            &format!("line 2 names {named}, and transfer `nightly`"),
            now,
            "Restore the job, or ",
        ] {
            assert!(stderr.contains(said), "{command:?}: {stderr}");
        }
    }
    assert_eq!(world.sandbox.calls().total(), 0);
    let (exit, stdout, _) = told("source", "destination/rt", verify).await;
    assert!(exit == 1 && stdout.contains("1 failed"), "{exit} {stdout}");
    let (exit, _, stderr) = told("source", "destination/rt", retry).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(world.object(DESTINATION, "rt/b").is_some());
}

/// Runs a copy with these arguments, which must fail, and returns its report.
async fn failing(world: &World, copy: &[&str], report: &Path) -> String {
    let (exit, stdout, stderr) = run(
        at(world),
        &[copy, &["--report", report.to_str().unwrap()]].concat(),
    )
    .await;
    // 3 if nothing could be listed.
    assert!(matches!(exit, 1 | 3), "{exit} {stdout} {stderr}");
    fs::read_to_string(report).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_listed_is_done_again_as_a_whole() {
    for (source, to) in [
        ("s3://source/in/", "s3://source/out/"),
        ("s3://source/", "s3://source/out/"),
    ] {
        let world = World::new().await;
        world.put_all(["in/a", "in/b"], 100);
        let dir = tempfile::tempdir().unwrap();
        let report = dir.path().join("report.jsonl");
        let copy = [
            "copy",
            source,
            to,
            "--exclude",
            "out/**",
            "--provider",
            "aws",
        ];
        // Its own listing is not at fault.
        world.deny(SOURCE, Operation::ListObjectsV2, "out/");
        let text = failing(&world, &copy, &report).await;
        assert!(text.contains(&format!(r#""source":"{to}""#)), "{text}");
        world.sandbox.store().allow_all();
        let (exit, stdout, stderr) = run(at(&world), &["retry", report.to_str().unwrap()]).await;
        assert_eq!(exit, 0, "{stdout} {stderr}");
        let copied = world
            .keys(SOURCE)
            .into_iter()
            .filter(|key| key.starts_with("out/"));
        assert_eq!(copied.count(), 2, "{source}: {stdout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_could_not_be_read_is_no_file_that_failed() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    fs::create_dir_all(files.join("sub")).unwrap();
    fs::write(files.join("sub/one"), "1").unwrap();
    world.add_fault(Fault::on(Operation::PutObject).then(Effect::Error(403, "AccessDenied")));
    let report = dir.path().join("report.jsonl");
    let text = failing(
        &world,
        &["copy", files.to_str().unwrap(), "s3://destination/"],
        &report,
    )
    .await;
    assert!(text.contains("files/sub/one\""), "{text}");
    // Root can read every directory, so the report of an unreadable one is written by hand.
    fs::write(
        &report,
        without_checksum(&text.replace("files/sub/one\"", "files/sub\"")),
    )
    .unwrap();
    world.sandbox.faults().clear();
    let (exit, stdout, stderr) = run(at(&world), &["retry", report.to_str().unwrap()]).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    assert_eq!(world.keys(DESTINATION), ["sub/one"], "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_failed_are_copied_for_sure_and_the_unlisted_only_where_they_differ() {
    let world = World::new().await;
    world.put_all(["a"], 100);
    let (content, said) = (
        Content::pattern(1, 100),
        ObjectSpec::default().metadata("a", "b"),
    );
    world.put_object(SOURCE, "b", content.clone(), &said);
    world.add_fault(denied("b"));
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.jsonl");
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
    ];
    let objects = failing(&world, &copy, &report).await;
    world.deny(SOURCE, Operation::ListObjectsV2, "");
    let listing = failing(&world, &copy, &report).await;
    world.sandbox.store().allow_all();
    // Merges two reports into what one run would have written: a failed object, and a list that
    // failed on its second page.
    let failures = listing
        .lines()
        .skip(1)
        .map(|line| line.replace(r#""lines":1"#, r#""lines":3"#) + "\n");
    let (objects, _footer) = objects.trim_end().rsplit_once('\n').unwrap();
    let both = format!("{objects}\n{}", failures.collect::<String>());
    fs::write(&report, without_checksum(&both)).unwrap();
    world.put_all(["c"], 100);
    // A copy whose bytes are right, and what goes with them is not.
    world.put_object(DESTINATION, "b", content, &ObjectSpec::default());

    world.sandbox.calls().clear();
    let (exit, stdout, stderr) = run(at(&world), &["retry", report.to_str().unwrap()]).await;
    assert_eq!(exit, 1, "{stdout} {stderr}");
    assert_eq!(world.keys(DESTINATION), ["a", "b", "c"]);
    // Only `b`, which fails, and `c`.
    assert_eq!(world.calls(Operation::CopyObject), 2, "{stdout}");
    // The list shows the bad copy as equal, but it must be copied anyway.
    world.sandbox.faults().clear();
    let again = dir.path().join("report.retry-1.jsonl");
    let (exit, stdout, stderr) = run(at(&world), &["retry", again.to_str().unwrap()]).await;
    assert!(
        exit == 0 && stdout.contains("1 object copied"),
        "{stdout} {stderr}"
    );
    world.assert_equal("b", "b");
}

#[tokio::test]
async fn chosen_objects_are_those_that_take_part() {
    let world = World::new().await;
    world.put_all(["a", "b", "c"], 100);
    let mut transfer = copy_all();
    transfer.when = When::Always;
    let chosen = |key: &str| Chosen {
        key: key.into(),
        version: None,
    };
    transfer.chosen = Some(vec![chosen("c"), chosen("gone"), chosen("a"), chosen("a")]);
    let run = world.run(transfer).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 1)
    );
    assert_eq!(run.error(), "not-found");
    let failed = run
        .receipts
        .iter()
        .find(|receipt| matches!(receipt.ending, Ending::Failed { .. }))
        .unwrap();
    assert_eq!(
        failed.source, "s3://source/gone",
        "as a retry wants to read it"
    );
    assert!(world.object(DESTINATION, "b").is_none());

    let dir = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    let mut transfer = upload_all(dir.path());
    transfer.chosen = Some(vec![chosen("two")]);
    let outcome = world.run(transfer).await.outcome;
    assert_eq!((outcome.done_objects, outcome.excluded_objects), (1, 0));
}

#[tokio::test]
async fn a_chosen_object_that_cannot_exist_is_a_failure() {
    for versions in [Versions::Current, Versions::All] {
        let world = World::versioned().await;
        world.put("a", 100);
        let mut transfer = Transfer {
            versions,
            ..copy_all()
        };
        let chosen = |key: &str| Chosen {
            key: key.into(),
            version: None,
        };
        transfer.chosen = Some(vec![chosen("a"), chosen(&"k".repeat(1025))]);
        let run = world.run(transfer).await;
        assert_eq!(
            (run.outcome.done_objects, run.outcome.failed_objects),
            (1, 1),
            "{versions:?}"
        );
        assert_eq!(run.error(), "invalid");
    }
}

/// Copies objects whose tags may not be read.
async fn lossy(world: &World, report: &str) {
    let tagged = |value: &str| {
        let mut spec = ObjectSpec::default();
        spec.attributes.tags = BTreeMap::from([("team".to_owned(), value.to_owned())]);
        spec
    };
    for index in 0..20 {
        let (key, spec) = (format!("k{index:02}"), tagged(&index.to_string()));
        world.put_object(SOURCE, &key, Content::pattern(index, 100), &spec);
    }
    world.deny(SOURCE, Operation::GetObjectTagging, "");
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--report",
        report,
    ];
    let (exit, stdout, stderr) = run(at(world), &copy).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    let receipts = receipts_in(Path::new(report));
    let lost = receipts
        .iter()
        .filter(|receipt| receipt["losses"][0]["attribute"] == "tags")
        .count();
    assert_eq!(lost, 20, "{receipts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_were_lost_are_set_without_another_copy() {
    let world = World::versioned().await;
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("night.jsonl");
    let report = report.to_str().unwrap();
    lossy(&world, report).await;
    let versions = |key: &str| world.sandbox.store().versions(DESTINATION, key).len();
    // The tags still cannot be read: the objects fail, and stay unchanged.
    let (exit, stdout, _) = run(at(&world), &["retry", "--losses", report]).await;
    assert!(exit == 1 && stdout.contains("20 failed"), "{exit} {stdout}");

    world.sandbox.store().allow_all();
    // One was overwritten meanwhile.
    world.put_object(
        DESTINATION,
        "k00",
        Content::pattern(99, 5),
        &ObjectSpec::default(),
    );
    let before: Vec<_> = (0..20)
        .map(|index| versions(&format!("k{index:02}")))
        .collect();
    world.sandbox.calls().clear();
    let look = ["retry", "--losses", "--dry-run", report];
    let (exit, stdout, stderr) = run(at(&world), &look).await;
    assert!(
        exit == 0
            && stdout.contains("20 copies of this report lack only tags")
            && stdout.contains("nothing was written"),
        "{exit} {stdout} {stderr}"
    );
    assert_eq!(world.calls(Operation::PutObjectTagging), 0);
    assert_eq!(world.calls(Operation::CopyObject), 0);
    let (exit, stdout, stderr) = run(at(&world), &["retry", "--losses", report]).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    assert_eq!(
        world.calls(Operation::CopyObject),
        1,
        "only the one that is not that copy any more"
    );
    for (index, before) in before.iter().enumerate() {
        let key = format!("k{index:02}");
        world.assert_equal(&key, &key);
        assert_eq!(versions(&key), before + usize::from(index == 0), "{key}");
    }
    let (exit, stdout, _) = run(at(&world), &["retry", report]).await;
    assert!(
        exit == 0
            && stdout.contains("nothing to do")
            && stdout.contains("20 copies of this report lack attributes: s3haul retry --losses"),
        "{stdout}"
    );
    let second = dir.path().join("night.retry-2.jsonl");
    let (exit, stdout, _) = run(at(&world), &["retry", "--losses", second.to_str().unwrap()]).await;
    assert!(exit == 0 && stdout.contains("nothing to do"), "{stdout}");
    // A report that names losses is not replaced without a message.
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--report",
        report,
    ];
    let (exit, _, stderr) = run(at(&world), &copy).await;
    assert!(
        exit == 0 && stderr.contains("which named 20 copies that lack attributes"),
        "{stderr}"
    );
}
