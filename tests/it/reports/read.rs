//! Commands that read a report.

use std::fs;
use std::path::Path;

use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use tempfile::TempDir;

use crate::world::program::{COPY_ALL, at, run, run_in};
use crate::world::{DESTINATION, World};

use super::{ALL, lines_of, receipts_in};

#[tokio::test(flavor = "multi_thread")]
async fn verify_compares_what_the_lines_name_and_nothing_else() {
    let world = World::new().await;
    let dir = TempDir::new().unwrap();
    world.put_all(["a", "b"], 100);
    world.create_bucket("other");
    fs::write(dir.path().join("job.yaml"), COPY_ALL).unwrap();
    let command = ["run", "job.yaml", "--report", "report.jsonl"];
    assert_eq!(run_in(&world, dir.path(), &command).await.0, 0);
    let verify = ["verify", "--report", "report.jsonl"];
    // In another bucket, which the run has not written, everything is equal.
    let elsewhere = COPY_ALL.replace("s3://destination/", "s3://other/");
    fs::write(dir.path().join("job.yaml"), elsewhere).unwrap();
    assert_eq!(
        run_in(
            &world,
            dir.path(),
            &["run", "job.yaml", "--journal", "none"]
        )
        .await
        .0,
        0
    );
    world.put_object(
        DESTINATION,
        "a",
        Content::pattern(2, 100),
        &ObjectSpec::default(),
    );
    let (exit, stdout, stderr) = run_in(&world, dir.path(), &verify).await;
    assert!(
        (exit, stdout.as_str()) == (2, ""),
        "{exit} {stdout} {stderr}"
    );
    for said in [
        "line 2 names s3://destination/",
        "the bucket other",
        "Restore the job, or compare",
    ] {
        assert!(stderr.contains(said), "{stderr}");
    }
    // Another prefix in the job does not matter, because the lines name the objects.
    fs::write(
        dir.path().join("job.yaml"),
        COPY_ALL.replace("s3://source/}", "s3://source/none/}"),
    )
    .unwrap();
    let (exit, stdout, _) = run_in(&world, dir.path(), &verify).await;
    assert!(
        exit == 1 && stdout.contains("1 equal") && stdout.contains("1 different"),
        "{exit} {stdout}"
    );
    // A Region other than the run's is named.
    let mut other = at(&world);
    other.current_dir(dir.path()).env("AWS_REGION", "eu-west-1");
    let (exit, _, stderr) = run(other, &verify).await;
    assert!(
        exit == 1 && stderr.contains("note: endpoint `default` is "),
        "{exit} {stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_that_gave_up_calls_failed_is_in_its_report() {
    let world = World::new().await;
    let keys: Vec<_> = (0..400).map(|index| format!("k{index:03}")).collect();
    world.put_all(&keys, 100);
    let denied = Fault::on(Operation::CopyObject).then(Effect::Error(403, "AccessDenied"));
    world.add_fault(denied);
    let dir = TempDir::new().unwrap();
    for (name, more) in [
        ("breaker", &[][..]),
        ("limit", &["--max-failures", "30"]),
        ("first", &["--max-failures", "0"]),
    ] {
        for journal in ["none", name] {
            let path = dir
                .path()
                .join(format!("{name}-{}.jsonl", journal == "none"));
            let path = path.to_str().unwrap();
            let command = [&ALL[..], &[path, "--journal", journal], more].concat();
            let (exit, stdout, stderr) = run_in(&world, dir.path(), &command).await;
            assert!(exit == 1 && stdout.contains("gave up"), "{exit} {stdout}");
            let footer = lines_of(Path::new(path)).pop().unwrap()["footer"].clone();
            let receipts = receipts_in(Path::new(path));
            let of = |status: &str| {
                let mut sources: Vec<_> = receipts
                    .iter()
                    .filter(|line| line["status"] == status)
                    .collect();
                sources.dedup_by_key(|line| line["source"].as_str().unwrap().to_owned());
                sources.len()
            };
            assert_eq!(
                footer["failed_objects"],
                of("failed"),
                "{command:?} {footer}"
            );
            assert_eq!(
                footer["stopped_objects"],
                of("stopped"),
                "{command:?} {footer}"
            );
            assert_eq!(
                (&footer["lines"], &footer["complete"]),
                (&receipts.len().into(), &false.into())
            );
            assert!(of("failed") > 0, "{footer}");
            let told = stderr
                .lines()
                .filter(|line| line.starts_with("failed: "))
                .count();
            assert!(
                told == of("failed")
                    || (told == 3 && stderr.contains("the report lists all of them")),
                "{stderr}"
            );
        }
    }
    // The next session replaces those lines with the final results.
    world.sandbox.faults().clear();
    let path = dir.path().join("breaker-false.jsonl");
    let command = [&ALL[..], &[path.to_str().unwrap(), "--journal", "breaker"]].concat();
    let (exit, _, stderr) = run_in(&world, dir.path(), &command).await;
    assert!(
        exit == 0 && stderr.contains("resuming the run"),
        "{exit} {stderr}"
    );
    let receipts = receipts_in(&path);
    assert_eq!(
        (
            receipts.len(),
            receipts
                .iter()
                .filter(|line| line["status"] == "done")
                .count()
        ),
        (400, 400)
    );
    assert_eq!(lines_of(&path).pop().unwrap()["footer"]["lines"], 400);
}
