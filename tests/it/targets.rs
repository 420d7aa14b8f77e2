//! The files that a run writes: what they may replace, their permissions, and devices and pipes in
//! their place.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use s3haul::sandbox::Operation;
use tempfile::TempDir;

use crate::reports::{deny_copy, lines_of};
use crate::world::program::{COPY_ALL, process_at, run_in};
use crate::world::{DESTINATION, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_does_not_upload_its_own_report_and_journal() {
    let world = World::new().await;
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("reports")).unwrap();
    fs::write(dir.path().join("reports/other.jsonl"), "1").unwrap();
    fs::write(dir.path().join("data"), "1").unwrap();
    for journal in ["none", "kept"] {
        let copy = [
            "copy",
            ".",
            "s3://destination/",
            "--report",
            "reports/r.jsonl",
            "--journal",
            journal,
        ];
        let (exit, _, stderr) = run_in(&world, dir.path(), &copy).await;
        assert_eq!(exit, 0, "{stderr}");
        assert_eq!(world.keys(DESTINATION), ["data", "reports/other.jsonl"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_report_is_never_replaced_by_one() {
    let world = World::new().await;
    world.put_all(["a"], 100);
    deny_copy(&world, "a");
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("job.yaml"), COPY_ALL).unwrap();
    fs::write(
        dir.path().join("named.yaml"),
        format!("{COPY_ALL}report: {{json: data.csv}}\n"),
    )
    .unwrap();
    let (exit, ..) = run_in(
        &world,
        dir.path(),
        &["run", "job.yaml", "--report", "r.jsonl"],
    )
    .await;
    assert_eq!(exit, 1);
    fs::write(dir.path().join("data.csv"), "one,two\n1,2\n").unwrap();
    fs::create_dir(dir.path().join("kept")).unwrap();
    fs::write(dir.path().join("kept/lock"), "my own\n").unwrap();
    fs::write(dir.path().join("kept/notes.log.half"), "my own\n").unwrap();
    world.sandbox.calls().clear();
    let copy = ["copy", "s3://source/", "s3://destination/"];
    for command in [
        &[&copy[..], &["--report", "data.csv"]].concat()[..],
        &[&copy[..], &["--report", "data.csv", "--journal", "none"]].concat(),
        &[
            &copy[..],
            &[
                "--report",
                "data.csv",
                "--journal",
                "s3://destination/journal/",
            ],
        ]
        .concat(),
        &["run", "job.yaml", "--report", "data.csv"],
        &["run", "job.yaml", "--report", "data.csv", "--fresh"],
        &["run", "job.yaml", "--report", "data.csv", "--sandbox"],
        &["run", "named.yaml"],
        &["retry", "r.jsonl", "--report", "data.csv"],
        &["plan", "job.yaml", "--out", "data.csv"],
    ] {
        let (exit, _, stderr) = run_in(&world, dir.path(), command).await;
        assert_eq!(exit, 3, "{command:?}: {stderr}");
        let remedy = if command[0] == "plan" {
            "path in --out"
        } else {
            "path in `report.json` (--report)"
        };
        for said in [
            "data.csv holds something other than",
            "its first line is not",
            remedy,
            "or remove the file",
        ] {
            assert!(stderr.contains(said), "{command:?}: {stderr}");
        }
        assert_eq!(
            fs::read_to_string(dir.path().join("data.csv")).unwrap(),
            "one,two\n1,2\n",
            "{command:?}"
        );
    }
    // Other output does not replace a report, and a retry does not replace the report that it
    // retries.
    let report = fs::read_to_string(dir.path().join("r.jsonl")).unwrap();
    let (exit, _, stderr) = run_in(
        &world,
        dir.path(),
        &["plan", "job.yaml", "--out", "r.jsonl"],
    )
    .await;
    assert!(
        exit == 3 && stderr.contains("r.jsonl holds something other than a plan"),
        "{exit} {stderr}"
    );
    let (exit, _, stderr) = run_in(
        &world,
        dir.path(),
        &["retry", "r.jsonl", "--report", "./r.jsonl"],
    )
    .await;
    assert!(
        exit == 2 && stderr.contains("whose other receipts would be lost"),
        "{exit} {stderr}"
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("r.jsonl")).unwrap(),
        report
    );
    // A journal does not take over a file with the name of one of its own either.
    let (exit, _, stderr) = run_in(
        &world,
        dir.path(),
        &["run", "job.yaml", "--journal", "kept"],
    )
    .await;
    assert!(
        exit == 3 && stderr.contains("is not the lock of a journal"),
        "{exit} {stderr}"
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("kept/lock")).unwrap(),
        "my own\n"
    );
    fs::remove_file(dir.path().join("kept/lock")).unwrap();
    assert_eq!(world.calls(Operation::CopyObject), 0);
    let (exit, ..) = run_in(
        &world,
        dir.path(),
        &["run", "job.yaml", "--journal", "kept"],
    )
    .await;
    assert_eq!(
        (
            exit,
            fs::read_to_string(dir.path().join("kept/notes.log.half")).unwrap()
        ),
        (1, "my own\n".into())
    );
    // A plan may replace a plan.
    for _ in 0..2 {
        let (exit, ..) = run_in(
            &world,
            dir.path(),
            &["plan", "job.yaml", "--out", "plan.jsonl"],
        )
        .await;
        assert_eq!(
            (exit, lines_of(&dir.path().join("plan.jsonl")).len()),
            (0, 1)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_on_a_sandbox_does_not_replace_the_report_of_a_real_one() {
    let world = World::new().await;
    world.put_all(["a"], 100);
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("job.yaml"), COPY_ALL).unwrap();
    let on_sandbox = ["run", "job.yaml", "--sandbox", "--report", "tried.jsonl"];
    let (exit, _, stderr) = run_in(&world, dir.path(), &on_sandbox).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(
        lines_of(&dir.path().join("tried.jsonl"))[0]["sandbox"],
        true
    );
    for command in [
        &["retry", "tried.jsonl"][..],
        &["verify", "--report", "tried.jsonl"],
    ] {
        let (exit, stdout, stderr) = run_in(&world, dir.path(), command).await;
        assert!(
            (exit, stdout.as_str()) == (2, ""),
            "{command:?}: {exit} {stdout}"
        );
        assert!(
            stderr.contains("tried.jsonl comes from a run with --sandbox"),
            "{stderr}"
        );
    }
    // Another sandbox run, and then a real run, may replace the report of a sandbox. No sandbox run
    // may replace that of a real run.
    assert_eq!(run_in(&world, dir.path(), &on_sandbox).await.0, 0);
    let real = ["run", "job.yaml", "--report", "tried.jsonl"];
    assert_eq!(run_in(&world, dir.path(), &real).await.0, 0);
    let report = fs::read_to_string(dir.path().join("tried.jsonl")).unwrap();
    let (exit, _, stderr) = run_in(&world, dir.path(), &on_sandbox).await;
    assert!(
        exit == 3 && stderr.contains("holds a report of real buckets"),
        "{exit} {stderr}"
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("tried.jsonl")).unwrap(),
        report
    );
    assert!(
        lines_of(&dir.path().join("tried.jsonl"))[0]
            .get("sandbox")
            .is_none()
    );
}

/// Returns the permissions of a file or directory.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn journals_reports_and_plans_are_for_their_owner_only() {
    let world = World::new().await;
    world.put_all(["a"], 100);
    deny_copy(&world, "a");
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("job.yaml"), COPY_ALL).unwrap();
    fs::write(at("old.jsonl"), "").unwrap();
    fs::set_permissions(at("old.jsonl"), fs::Permissions::from_mode(0o644)).unwrap();
    let run = ["run", "job.yaml", "--report"];
    assert_eq!(
        run_in(&world, dir.path(), &[&run[..], &["new.jsonl"]].concat())
            .await
            .0,
        1
    );
    assert_eq!(
        run_in(&world, dir.path(), &[&run[..], &["old.jsonl"]].concat())
            .await
            .0,
        1
    );
    assert_eq!(
        run_in(
            &world,
            dir.path(),
            &["plan", "job.yaml", "--out", "plan.jsonl"]
        )
        .await
        .0,
        0
    );
    let modes = [
        "new.jsonl",
        "old.jsonl",
        "plan.jsonl",
        ".s3haul",
        ".s3haul/job",
    ]
    .map(|name| mode(&at(name)));
    assert_eq!(modes, [0o600, 0o644, 0o600, 0o700, 0o700]);
    let files = || {
        fs::read_dir(at(".s3haul/job"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    assert!(
        files().count() >= 3 && files().all(|file| mode(&file) == 0o600),
        "{:?}",
        files().collect::<Vec<_>>()
    );
    // An older version left them readable by all. The directory belongs to the user, and so does a
    // file that is not part of a journal.
    fs::write(at(".s3haul/job/notes"), "").unwrap();
    for open in files() {
        fs::set_permissions(open, fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(at(".s3haul/job"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(run_in(&world, dir.path(), &run[..2]).await.0, 1);
    for file in files() {
        assert_eq!(
            mode(&file),
            if file.ends_with("notes") {
                0o644
            } else {
                0o600
            },
            "{}",
            file.display()
        );
    }
    assert_eq!(mode(&at(".s3haul/job")), 0o755);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_may_go_to_a_device_or_a_pipe_also_with_a_journal() {
    let world = World::new().await;
    world.put_all(["a", "b"], 100);
    deny_copy(&world, "b");
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("job.yaml"), COPY_ALL).unwrap();
    let run = ["run", "job.yaml", "--report"];
    for session in 0..2 {
        let (exit, stdout, stderr) =
            run_in(&world, dir.path(), &[&run[..], &["/dev/null"]].concat()).await;
        assert!(
            exit == 1 && stdout.contains("1 failed"),
            "{session}: {exit} {stdout} {stderr}"
        );
    }
    // A stopped run continues with the same device.
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/c/",
        "--report",
        "/dev/null",
    ];
    let stop = [&copy[..], &["--max-failures", "0"]].concat();
    let (exit, stdout, _) = run_in(&world, dir.path(), &stop).await;
    assert!(exit == 1 && stdout.contains("gave up"), "{exit} {stdout}");
    let (exit, _, stderr) = run_in(&world, dir.path(), &copy).await;
    assert!(
        exit == 1 && stderr.contains("resuming the run"),
        "{exit} {stderr}"
    );
    let lines = |text: &str| {
        let json = text.lines().filter(|line| line.starts_with('{'));
        json.map(|line| serde_json::from_str(line).unwrap())
            .collect::<Vec<serde_json::Value>>()
    };
    let is_whole = |lines: &[serde_json::Value]| {
        let (first, last) = (&lines[0], lines.last().unwrap());
        assert!(
            first["report"] == 2 && last["footer"]["lines"] == 2 && lines.len() == 4,
            "{lines:#?}"
        );
    };
    // Standard output, as a pipe and as a file, which is not overwritten.
    let (exit, stdout, _) =
        run_in(&world, dir.path(), &[&run[..], &["/dev/stdout"]].concat()).await;
    assert!(
        exit == 1 && stdout.contains("finished with failures"),
        "{exit} {stdout}"
    );
    is_whole(&lines(&stdout));
    let out = dir.path().join("out.txt");
    fs::write(&out, "from before\n").unwrap();
    let file = fs::OpenOptions::new().append(true).open(&out).unwrap();
    let mut child = process_at(&world);
    child
        .args([&run[..], &["/dev/stdout"]].concat())
        .current_dir(dir.path());
    let mut child = child.stdout(file).stderr(Stdio::null()).spawn().unwrap();
    let code = tokio::task::spawn_blocking(move || child.wait().unwrap().code())
        .await
        .unwrap();
    let text = fs::read_to_string(&out).unwrap();
    assert!(
        code == Some(1) && text.starts_with("from before\n") && text.contains("finished with"),
        "{text}"
    );
    is_whole(&lines(&text));
    // A named pipe.
    let pipe = dir.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let reader = Command::new("cat")
        .arg(&pipe)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (exit, _, stderr) = run_in(&world, dir.path(), &[&run[..], &["pipe"]].concat()).await;
    assert_eq!(exit, 1, "{stderr}");
    let read = tokio::task::spawn_blocking(move || reader.wait_with_output().unwrap())
        .await
        .unwrap();
    is_whole(&lines(&String::from_utf8(read.stdout).unwrap()));
}
