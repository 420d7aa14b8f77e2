//! A report has a header and a footer. A report that was cut, or whose run did not end, is never
//! taken for a complete one.

mod read;
mod refused;
pub(crate) mod s3;
mod s3_damaged;
mod unended;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use s3haul::sandbox::{Effect, Fault, Operation};
use serde_json::Value;
use tempfile::TempDir;

use crate::world::program::{COPY_ALL, at, process_at, run, run_in};
use crate::world::{DESTINATION, World};

/// Parses the lines of a report, which must be JSON.
pub(crate) fn lines_of(report: &Path) -> Vec<Value> {
    let text = fs::read_to_string(report).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Returns the receipts of a report, between its header and its footer, if any: a killed run has
/// written none.
pub(crate) fn receipts_in(report: &Path) -> Vec<Value> {
    let mut lines = lines_of(report);
    assert_eq!(lines.remove(0)["report"], 2);
    lines.pop_if(|line| line["footer"].is_object());
    assert!(
        lines.iter().all(|line| line["status"].is_string()),
        "{lines:?}"
    );
    lines
}

/// Removes the checksum from the footer, which would not match edited lines.
pub(crate) fn without_checksum(report: &str) -> String {
    let Some(at) = report.find(",\"checksum\":\"") else {
        return report.to_owned();
    };
    let end = at + ",\"checksum\":\"0123456789abcdef\"".len();
    format!("{}{}", &report[..at], &report[end..])
}

pub(crate) fn deny_copy(world: &World, key: &str) {
    let fault = Fault::on(Operation::CopyObject)
        .key(key)
        .then(Effect::Error(403, "AccessDenied"));
    world.add_fault(fault);
}

const ALL: [&str; 4] = ["copy", "s3://source/", "s3://destination/", "--report"];

#[tokio::test(flavor = "multi_thread")]
async fn a_report_says_when_where_as_whom_and_from_what_it_was_made_and_how_it_ended() {
    let world = World::new().await;
    world.put_all(["a", "b"], 100);
    deny_copy(&world, "b");
    let dir = TempDir::new().unwrap();
    let (job, report) = (dir.path().join("job.yaml"), dir.path().join("report.jsonl"));
    fs::write(&job, COPY_ALL).unwrap();
    let (exit, _, stderr) = run_in(
        &world,
        dir.path(),
        &["run", "job.yaml", "--report", "report.jsonl"],
    )
    .await;
    assert!(exit == 1 && !stderr.contains("replaces"), "{exit} {stderr}");
    let lines = lines_of(&report);
    let (header, footer) = (&lines[0], &lines.last().unwrap()["footer"]);
    assert_eq!(header["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        header["command"],
        serde_json::json!(["run", "job.yaml", "--report", "report.jsonl"])
    );
    assert_eq!(header["job"], "job");
    assert!(
        !header["host"].as_str().unwrap().is_empty() && header["run"].as_str().unwrap().len() == 16
    );
    let sum = std::process::Command::new("sha256sum")
        .arg(&job)
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(header["manifest_sha256"], sum.split(' ').next().unwrap());
    let identity = header["identity"]["default"].as_str().unwrap();
    assert!(
        identity.starts_with("AWS_ACCESS_KEY_ID, us-east-1")
            && identity.ends_with(&world.sandbox.url()),
        "{identity}"
    );
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time(&header["time"]) <= time(&footer["time"]));
    assert_eq!(
        (&footer["exit"], &footer["complete"]),
        (&1.into(), &true.into())
    );
    assert_eq!(
        (&footer["done_objects"], &footer["failed_objects"]),
        (&1.into(), &1.into())
    );
    assert_eq!(receipts_in(&report).len(), 2);

    // Failed objects count as differences, although there is no pair to compare.
    let (exit, stdout, _) = run(
        at(&world),
        &["verify", "--report", report.to_str().unwrap()],
    )
    .await;
    assert!(
        exit == 1 && stdout.contains("1 equal") && stdout.contains("1 failed"),
        "{exit} {stdout}"
    );
    assert!(
        stdout.contains("failed      s3://source/b -> s3://destination/b: the run failed"),
        "{stdout}"
    );
    let verify = ["verify", "--json", "--report", report.to_str().unwrap()];
    let (_, stdout, _) = run(at(&world), &verify).await;
    let lines = stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut failed = lines.filter(|line| line["status"] == "failed");
    let line = failed.next().unwrap();
    // Like any other pair that failed.
    assert_eq!(
        (&line["destination"], &line["size"], &line["error"]["kind"]),
        (
            &"s3://destination/b".into(),
            &100.into(),
            &"not-copied".into()
        ),
        "{line}"
    );
    assert!(line["error"]["message"].is_string(), "{line}");
    // The next run names the report that it replaces.
    let (_, _, stderr) = run_in(
        &world,
        dir.path(),
        &["run", "job.yaml", "--report", "report.jsonl"],
    )
    .await;
    let began = &header["time"].as_str().unwrap()[..19];
    assert!(
        stderr.contains(&format!("report.jsonl: replaces the report of {began}")),
        "{stderr}"
    );
    assert_ne!(lines_of(&report)[0]["run"], header["run"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_was_cut_is_refused_wherever_it_was_cut() {
    let world = World::new().await;
    world.put_all(["a", "b", "c"], 100);
    deny_copy(&world, "b");
    let dir = TempDir::new().unwrap();
    let report = dir.path().join("report.jsonl");
    let (exit, ..) = run(
        at(&world),
        &[&ALL[..], &[report.to_str().unwrap()]].concat(),
    )
    .await;
    assert_eq!(exit, 1);
    let text = fs::read_to_string(&report).unwrap();
    let ends: Vec<_> = text.match_indices('\n').map(|(end, _)| end).collect();
    let cut = dir.path().join("cut.jsonl");
    let cut = cut.to_str().unwrap();
    world.sandbox.calls().clear();
    let refused = async |what: &str, said: &str| {
        for command in [&["retry", cut][..], &["verify", "--report", cut]] {
            let (exit, stdout, stderr) = run(at(&world), command).await;
            assert!(
                (exit, stdout.as_str()) == (2, ""),
                "{what}: {command:?}: {exit} {stdout} {stderr}"
            );
            assert!(
                stderr.contains(said) && stderr.contains("cut.jsonl"),
                "{what}: {stderr}"
            );
        }
    };
    for (length, said) in [
        (0, "is not a report of s3haul"),
        (100, "is not a report of s3haul"),
        (ends[0] + 1, "has no footer after line 1"),
        (ends[0] + 50, "line 2 is not a receipt"),
        (ends[1], "has no footer after line 2"),
        (ends[2] + 1, "has no footer after line 3"),
        (ends[3] + 1, "has no footer after line 4"),
        (ends[3] + 10, "line 5 is not a receipt"),
        (text.len() - 5, "line 5 is not a receipt"),
    ] {
        fs::write(cut, &text[..length]).unwrap();
        refused(&length.to_string(), said).await;
        if length > ends[0] {
            refused(
                &length.to_string(),
                "`s3haul copy s3://source/ s3://destination/ ",
            )
            .await;
        }
    }
    fs::write(cut, [&text[..ends[1] - 40], &text[ends[1]..]].concat()).unwrap();
    refused("a torn line in the middle", "line 2 is not a receipt").await;
    assert_eq!(world.sandbox.calls().total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_run_that_gave_up_copies_what_was_stopped_too() {
    let world = World::new().await;
    let keys: Vec<_> = (0..40).map(|index| format!("k{index:02}")).collect();
    world.put_all(&keys, 100);
    // Not the first: the run would give up before it knows the others.
    let invalid = Effect::Error(400, "InvalidStorageClass");
    world.add_fault(Fault::on(Operation::CopyObject).key("k20").then(invalid));
    let slow = Fault::on(Operation::CopyObject).then(Effect::Delay(Duration::from_millis(300)));
    world.add_fault(slow);
    let dir = TempDir::new().unwrap();
    let report = dir.path().join("report.jsonl");
    let more = [
        report.to_str().unwrap(),
        "--journal",
        "none",
        "--max-failures",
        "0",
        "--in-flight",
        "4",
    ];
    let (exit, stdout, _) = run_in(&world, dir.path(), &[&ALL[..], &more].concat()).await;
    assert!(exit == 1 && stdout.contains("gave up"), "{exit} {stdout}");
    let footer = lines_of(&report).pop().unwrap()["footer"].clone();
    assert_eq!(footer["complete"], false, "{footer}");
    let mut undone = receipts_in(&report);
    undone.retain(|receipt| receipt["status"] != "done");
    assert!(
        undone.iter().any(|receipt| receipt["status"] == "stopped"),
        "{undone:?}"
    );
    let path = report.to_str().unwrap();
    let (exit, stdout, stderr) = run(at(&world), &["verify", "--report", path]).await;
    assert!(exit == 1 && stdout.contains("failed"), "{exit} {stdout}");
    assert!(
        stderr.contains("never listed") && stderr.contains("run `s3haul copy s3://source/ "),
        "{stderr}"
    );
    world.sandbox.faults().clear();
    let (exit, _, stderr) = run(at(&world), &["retry", path]).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stderr.contains("never have listed others: run `s3haul copy s3://source/ "),
        "{stderr}"
    );
    for receipt in &undone {
        let key = receipt["source"]
            .as_str()
            .unwrap()
            .strip_prefix("s3://source/")
            .unwrap();
        assert!(world.object(DESTINATION, key).is_some(), "{receipt}");
    }
    // A report without failures and without an end is not "nothing to do".
    let text = fs::read_to_string(&report).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let mut last: Value = serde_json::from_str(lines[lines.len() - 1]).unwrap();
    last["footer"]["lines"] = 0.into();
    last["footer"].as_object_mut().unwrap().remove("checksum");
    fs::write(&report, format!("{}\n{last}\n", lines[0])).unwrap();
    let (exit, stdout, stderr) = run(at(&world), &["retry", path]).await;
    assert!(
        (exit, stdout.as_str()) == (2, "") && stderr.contains("its run is not over"),
        "{exit} {stderr}"
    );
}

/// Starts a run that copies two objects and waits for the third, sends a signal, and returns the
/// exit code.
async fn signalled(world: &World, directory: &Path, signal: &str) -> i32 {
    let before = world.calls(Operation::CopyObject);
    let mut child = process_at(world)
        .args(ALL)
        .args(["report.jsonl", "--in-flight", "1"])
        .current_dir(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let working = async {
        while world.calls(Operation::CopyObject) < before + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), working)
        .await
        .expect("the run does nothing");
    std::process::Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .unwrap();
    tokio::task::spawn_blocking(move || child.wait().unwrap().code().unwrap_or(-1))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_run_has_one_header_and_one_footer() {
    let world = World::new().await;
    let keys: Vec<_> = (0..30).map(|index| format!("k{index:02}")).collect();
    world.put_all(&keys, 100);
    let slow = Fault::on(Operation::CopyObject).then(Effect::Delay(Duration::from_millis(200)));
    world.add_fault(slow);
    let dir = TempDir::new().unwrap();
    let report = dir.path().join("report.jsonl");
    assert_eq!(signalled(&world, dir.path(), "-TERM").await, 4);
    let first = lines_of(&report);
    let footer = &first.last().unwrap()["footer"];
    assert_eq!(
        (&footer["exit"], &footer["complete"]),
        (&4.into(), &false.into())
    );
    assert_eq!(signalled(&world, dir.path(), "-KILL").await, -1);
    for command in [
        &["retry", "report.jsonl"][..],
        &["verify", "--report", "report.jsonl"],
    ] {
        let (exit, _, stderr) = run_in(&world, dir.path(), command).await;
        assert!(
            exit == 2 && stderr.contains("has no footer"),
            "{exit} {stderr}"
        );
    }
    world.sandbox.faults().clear();
    let (exit, _, stderr) = run_in(
        &world,
        dir.path(),
        &[&ALL[..], &["report.jsonl", "--in-flight", "1"]].concat(),
    )
    .await;
    assert!(
        exit == 0 && stderr.contains("resuming") && !stderr.contains("replaces"),
        "{exit} {stderr}"
    );
    let lines = lines_of(&report);
    assert_eq!(lines[0], first[0], "the first session's header");
    let footer = &lines.last().unwrap()["footer"];
    assert_eq!(
        (&footer["complete"], &footer["sessions"]),
        (&true.into(), &3.into())
    );
    let receipts = receipts_in(&report);
    let reported: BTreeSet<_> = receipts
        .iter()
        .map(|receipt| receipt["source"].as_str().unwrap())
        .collect();
    assert_eq!(reported.len(), keys.len(), "{receipts:#?}");
    let (exit, stdout, _) =
        run_in(&world, dir.path(), &["verify", "--report", "report.jsonl"]).await;
    assert!(exit == 0 && stdout.contains(" equal ("), "{exit} {stdout}");
    let (exit, stdout, _) = run_in(&world, dir.path(), &["retry", "report.jsonl"]).await;
    assert!(
        exit == 0 && stdout.contains("nothing to do"),
        "{exit} {stdout}"
    );
}

/// Runs a copy of `a`, `b`, and `c`, of which `b` fails. Returns the lines of its report.
async fn report_of_three(world: &World, report: &Path) -> Vec<String> {
    world.put_all(["a", "b", "c"], 100);
    deny_copy(world, "b");
    let (exit, ..) = run(at(world), &[&ALL[..], &[report.to_str().unwrap()]].concat()).await;
    assert_eq!(exit, 1);
    fs::read_to_string(report)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_with_lines_removed_added_or_unknown_is_refused() {
    let world = World::new().await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("report.jsonl");
    let lines = report_of_three(&world, &path).await;
    assert_eq!(lines_of(&path).last().unwrap()["footer"]["lines"], 3);
    let failed = lines
        .iter()
        .find(|line| line.contains("\"failed\""))
        .unwrap();
    let done: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("\"done\""))
        .collect();
    let (head, foot) = (&lines[0], &lines[4]);
    let moved = done[0].replace("s3://source/", "s3://source/moved/");
    let unknown = done[0].replace("\"done\"", "\"finished\"");
    world.sandbox.calls().clear();
    for (what, receipts, said) in [
        (
            "removed",
            vec![done[0], done[1]],
            "has 2 receipts in lines 2 to 3, and its footer in line 4 counts 3",
        ),
        ("all removed", vec![], "has 0 receipts"),
        (
            "repeated",
            vec![done[0], failed, done[1], failed],
            "line 5 repeats line 3",
        ),
        (
            "one for another",
            vec![done[0], failed, failed],
            "line 4 repeats line 3",
        ),
        (
            "added",
            vec![done[0], failed, done[1], &moved],
            "footer in line 6 counts 3: lines were added",
        ),
        (
            "changed",
            vec![done[0], failed, &moved],
            "not those that the footer in line 5 was written for",
        ),
        (
            "another word",
            vec![&unknown, failed, done[1]],
            "line 2 is not a receipt: unknown variant `finished`",
        ),
        (
            "two headers",
            vec![done[0], head, failed, done[1]],
            "line 3 is not a receipt",
        ),
        (
            "empty line",
            vec![done[0], done[1], &String::new(), failed],
            "line 4 is not a receipt",
        ),
    ] {
        let text = [&[head], receipts.as_slice(), &[foot]].concat();
        let text = text
            .iter()
            .fold(String::new(), |text, line| text + line + "\n");
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        for command in [&["retry", path][..], &["verify", "--report", path]] {
            let (exit, stdout, stderr) = run(at(&world), command).await;
            assert!(
                (exit, stdout.as_str()) == (2, ""),
                "{what}: {command:?}: {exit} {stdout} {stderr}"
            );
            for said in [
                said,
                "report.jsonl",
                "Run `s3haul copy s3://source/ s3://destination/ ",
            ] {
                assert!(stderr.contains(said), "{what}: {stderr}");
            }
        }
    }
    let later = head.replace("\"report\":2", "\"report\":3");
    fs::write(&path, format!("{later}\n{foot}\n")).unwrap();
    let (exit, _, stderr) = run(at(&world), &["retry", path.to_str().unwrap()]).await;
    assert!(
        exit == 2 && stderr.contains("has format 3"),
        "{exit} {stderr}"
    );
    assert_eq!(world.sandbox.calls().total(), 0);
    // Reports of older versions, without a count, can still be read.
    let old = [
        head,
        done[0],
        failed,
        done[1],
        &without_checksum(&foot.replace(",\"lines\":3", "")),
    ]
    .map(|line| format!("{line}\n"));
    fs::write(&path, old.concat()).unwrap();
    world.sandbox.faults().clear();
    let (exit, _, stderr) = run(at(&world), &["retry", path.to_str().unwrap()]).await;
    assert_eq!(exit, 0, "{stderr}");
}
