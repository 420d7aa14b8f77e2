//! `check --probe` on the command line.

use std::process::Stdio;
use std::time::Duration;

use s3haul::sandbox::{BucketOptions, Effect, Fault, Operation};
use serde_json::Value;
use tempfile::TempDir;

use super::{assert_clean, completes, deletes, on};
use crate::liar::{Liar, Lie};
use crate::signals::send;
use crate::world::program::{at, ended, process_at, run, spawn, until};
use crate::world::{DESTINATION, World};

/// Returns a manifest with two transfers to one bucket.
fn manifest(url: &str, provider: &str, preserve: &str) -> String {
    format!(
        "version: 1\nendpoints:\n  default: {{url: \"{url}\", region: us-east-1, provider: {provider}}}\n\
         defaults: {{preserve: {preserve}}}\n\
         transfers:\n  - {{from: {{s3: s3://source/}}, to: {{s3: s3://destination/a/}}}}\n  \
         - {{from: {{s3: s3://source/}}, to: {{s3: s3://destination/b/}}}}\n"
    )
}

struct Job {
    directory: TempDir,
}

impl Job {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("job.yaml"), text).unwrap();
        Self { directory }
    }

    fn path(&self) -> String {
        self.directory
            .path()
            .join("job.yaml")
            .to_str()
            .unwrap()
            .to_owned()
    }

    async fn check(&self, world: &World, more: &[&str]) -> (i32, String, String) {
        run(
            at(world),
            &[&["check", &self.path(), "--probe"], more].concat(),
        )
        .await
    }
}

fn assert_fits(stdout: &str) {
    let table = stdout
        .lines()
        .skip_while(|line| !line.starts_with("probe of"));
    // Commands are not wrapped, so that they can be copied.
    let wide: Vec<_> = table
        .filter(|line| line.chars().count() > 80)
        .filter(|line| !line.starts_with("    aws ") && !line.starts_with("    s3haul "))
        .collect();
    assert!(wide.is_empty(), "{wide:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_prints_what_it_found_and_exits_by_it() {
    let world = World::new().await;
    let of = |provider: &str| Job::new(&manifest(world.sandbox.url(), provider, "default"));
    let (exit, stdout, stderr) = of("aws")
        .check(&world, &["--probe-prefix", "scratch/"])
        .await;
    assert_eq!(exit, 0, "{stdout}{stderr}");
    assert_eq!(
        stdout.matches("probe of s3://destination/scratch/").count(),
        1,
        "one bucket, one probe: {stdout}"
    );
    assert!(
        !stdout.contains("capabilities:") && !stdout.contains("FAIL"),
        "{stdout}"
    );
    assert_fits(&stdout);
    let (exit, stdout, _) = of("other").check(&world, &[]).await;
    assert!(exit == 0 && stdout.contains("can do more"), "{stdout}");
    assert!(
        stdout.contains("state it under `endpoints.default` of the manifest:"),
        "{stdout}"
    );
    assert!(
        stdout.contains("\n    if_match: [copy, put, complete]\n"),
        "{stdout}"
    );
    assert_fits(&stdout);
    on(&world.sandbox.store().quirks().copies_overwrite);
    let (exit, stdout, _) = of("aws").check(&world, &[]).await;
    assert!(
        exit == 1 && stdout.contains("FAIL if_match: CopyObject ignored"),
        "{stdout}"
    );
    assert_fits(&stdout);
    world.deny(DESTINATION, Operation::PutObject, "");
    let (exit, stdout, stderr) = of("aws").check(&world, &[]).await;
    assert_eq!(exit, 3, "{stdout}{stderr}");
    assert_clean(&world, DESTINATION);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_has_all_of_it_under_stable_names() {
    let world = World::new().await;
    on(&world.sandbox.store().quirks().copies_overwrite);
    let ignored = ["x-amz-tagging"].as_slice();
    world.add_fault(Fault::on(Operation::CopyObject).then(Effect::Ignore(ignored)));
    let refused = Effect::Error(400, "InvalidObjectName");
    world.add_fault(Fault::on(Operation::PutObject).key("a b").then(refused));
    let url = Liar::lying(&world, |asked| match asked {
        _ if deletes(asked) => Lie::Instead(204, String::new()),
        _ => Lie::Truth,
    })
    .await
    .url;
    let job = Job::new(&manifest(&url, "aws", "{tags: require}"));
    let (exit, stdout, stderr) = job.check(&world, &["--json"]).await;
    assert_eq!(exit, 1, "{stdout}{stderr}");
    let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let probe = &last["probe"];
    assert_eq!(
        (&probe["status"], &probe["bucket"]),
        (&"failed".into(), &"destination".into())
    );
    let find = |list: &str, name: &str, value: &str| {
        let all = probe[list].as_array().unwrap();
        all.iter()
            .find(|finding| finding[name] == value)
            .unwrap()
            .clone()
    };
    let found = find("findings", "capability", "if_match");
    assert_eq!(
        (&found["verdict"], &found["fails"]),
        (&"lacks".into(), &true.into()),
        "{found}"
    );
    assert_eq!(found["found"], serde_json::json!(["put", "complete"]));
    assert_eq!(
        found["writes"],
        serde_json::json!({"copy": "ignored", "put": "kept", "complete": "kept"})
    );
    assert!(
        found["consequence"]
            .as_str()
            .unwrap()
            .contains("overwritten"),
        "{found}"
    );
    let tags = find("attributes", "attribute", "tags");
    let told =
        ["policy", "put", "copy", "multipart", "verdict"].map(|name| tags[name].as_str().unwrap());
    assert_eq!(
        told,
        ["require", "kept", "ignored", "kept", "lacks"],
        "{tags}"
    );
    let delete = find("requests", "request", "DeleteObject");
    assert_eq!(
        (&delete["found"], &delete["fails"]),
        (&"no-effect".into(), &false.into()),
        "{delete}"
    );
    assert_eq!(find("requests", "request", "CopyObject")["found"], "works");
    assert_eq!(probe["not_stored"].as_array().unwrap().len(), 1);
    assert!(
        probe["capabilities"]
            .as_str()
            .unwrap()
            .contains("if_match: [put, complete]")
    );
    let left = probe["left"].as_array().unwrap();
    assert!(
        left.iter()
            .all(|left| left["what"] == "object" && left["is_certain"] == true),
        "{left:?}"
    );
    assert!(
        left.iter()
            .all(|left| left["command"].as_str().unwrap().contains("delete-object")),
        "{left:?}"
    );
    // The same results as text.
    let (exit, stdout, _) = job.check(&world, &[]).await;
    assert!(
        exit == 1 && stdout.contains("left behind: object of .s3haul-probe-"),
        "{stdout}"
    );
    assert!(
        stdout.contains("FAIL tags: ignored (it shows no tags) by CopyObject."),
        "{stdout}"
    );
    assert!(stdout.contains("not stored: .s3haul-probe-"), "{stdout}");
    assert_fits(&stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_work_is_no_success() {
    let world = World::new().await;
    let url = Liar::lying(&world, |asked| {
        if completes(asked) {
            Lie::error(501, "NotImplemented")
        } else {
            Lie::Truth
        }
    })
    .await
    .url;
    // The profile `other` relies on nothing.
    let job = Job::new(&manifest(&url, "other", "default"));
    let (exit, stdout, stderr) = job.check(&world, &[]).await;
    assert_eq!(exit, 1, "{stdout}{stderr}");
    assert!(
        stdout.contains("FAIL CompleteMultipartUpload: "),
        "{stdout}"
    );
    assert!(
        stdout.contains(
            "FAIL CompleteMultipartUpload: NotImplemented: no. No large object can be copied"
        ),
        "{stdout}"
    );
    // Consequences of a finding are not findings of their own.
    assert_eq!(stdout.matches("FAIL ").count(), 1, "{stdout}");
    let told = stdout.split("on what was found").nth(1).unwrap();
    assert!(
        !told.contains("tag_headers") && told.contains("if_match: [copy, put]"),
        "{stdout}"
    );
    assert_fits(&stdout);
    assert_clean(&world, DESTINATION);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_that_is_none_is_refused_with_the_right_one() {
    let world = World::new().await;
    let job = Job::new(&manifest(world.sandbox.url(), "aws", "default"));
    for (typed, meant) in [
        ("scratch", "write scratch/"),
        ("/a/b/", "write a/b/"),
        ("s3://destination/x/", "write x/"),
        ("s3://destination", "write scratch/"),
    ] {
        let (exit, stdout, stderr) = job.check(&world, &["--probe-prefix", typed]).await;
        assert!(
            exit == 2 && stderr.contains(meant),
            "{typed}: {exit} {stdout}{stderr}"
        );
    }
    assert_eq!(world.sandbox.calls().total(), 0);
}

/// The bucket locks each new object, and the signal comes while the probe tries to remove its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_during_the_clean_up_does_not_hide_what_is_left_behind() {
    let world = World::with_buckets(BucketOptions {
        object_lock: true,
        retention: Some(("COMPLIANCE".to_owned(), 1)),
        ..BucketOptions::default()
    })
    .await;
    let slow = Effect::Delay(Duration::from_secs(2));
    for removal in [Operation::DeleteObject, Operation::DeleteObjects] {
        world.add_fault(Fault::on(removal).nth(1).then(slow.clone()));
    }
    let removals = || world.calls(Operation::DeleteObject) + world.calls(Operation::DeleteObjects);
    let job = Job::new(&manifest(world.sandbox.url(), "aws", "default"));
    let mut program = process_at(&world);
    program.args(["check", &job.path(), "--probe"]);
    let child = spawn(program);
    until("a removal", || removals() > 0).await;
    send("TERM", &child);
    let ended = ended(child).await;
    assert_eq!(ended.exit, 4, "{}", ended.stderr);
    assert!(!world.keys(DESTINATION).is_empty());
    assert!(
        ended.stderr.contains("left behind") && !ended.stderr.contains("left nothing behind"),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_and_what_it_made_is_removed() {
    for signal in ["-TERM", "-INT"] {
        let world = World::new().await;
        let slow = Effect::Delay(Duration::from_secs(1));
        world.add_fault(Fault::on(Operation::UploadPartCopy).nth(1).then(slow));
        let job = Job::new(&manifest(world.sandbox.url(), "aws", "default"));
        let child = process_at(&world)
            .args(["check", &job.path(), "--probe"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until("a copied part", || {
            world.calls(Operation::UploadPartCopy) > 0
        })
        .await;
        assert!(!world.keys(DESTINATION).is_empty());
        std::process::Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .unwrap();
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let output = tokio::time::timeout(Duration::from_mins(1), ended)
            .await
            .unwrap()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{stderr}");
        assert!(stderr.contains("removing what the probe made"), "{stderr}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("left behind"));
        assert_clean(&world, DESTINATION);
        assert_eq!(
            world.calls(Operation::GetObjectTagging),
            0,
            "the questions ended"
        );
    }
}
