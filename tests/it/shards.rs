//! One run in many processes: together, they copy what one process would, whichever of them die.

mod contact;
mod lease;
mod live;
mod refused;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use s3haul::sandbox::{Content, LatencyModel, Model, ObjectSpec, Operation};
use s3haul::size::MIB;
use serde_json::Value;
use tempfile::TempDir;

use crate::world::program::{COPY_ALL, Ended, ended, kill, process_at};
use crate::world::{DESTINATION, SOURCE, World};

const STATE: &str = "s3://ops/run/";

/// A world with a bucket for state, and a directory with the job.
pub(crate) struct Shards {
    pub(crate) world: World,
    pub(crate) directory: TempDir,
}

impl Shards {
    pub(crate) async fn new(model: Model) -> Self {
        Self::of(World::modelled(model).await)
    }

    pub(crate) fn of(world: World) -> Self {
        world.create_bucket("ops");
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("job.yaml"), COPY_ALL).unwrap();
        Self { world, directory }
    }

    /// Starts a sandbox whose copies take this long.
    async fn with_slow_copies(copy: Duration) -> Self {
        let latency = LatencyModel {
            copy,
            ..LatencyModel::default()
        };
        Self::new(Model {
            latency,
            ..Model::default()
        })
        .await
    }

    pub(crate) fn job(&self, text: &str) {
        std::fs::write(self.directory.path().join("job.yaml"), text).unwrap();
    }

    pub(crate) fn put(&self, key: &str, size: u64) {
        let content = Content::pattern(size, size);
        let store = self.world.sandbox.store();
        store.put_object(SOURCE, key, content, &ObjectSpec::default());
    }

    /// Puts small objects below several directories.
    fn put_many(&self, count: u32) {
        for number in 0..count {
            let (day, hash) = (number % 7, number.wrapping_mul(2_654_435_761));
            self.put(&format!("logs/2026-11-{day:02}/{hash:08x}"), 10);
        }
    }

    fn keys(&self, bucket: &str) -> Vec<String> {
        self.world.keys(bucket)
    }

    /// Returns an object of the state prefix.
    pub(crate) fn state(&self, name: &str) -> Option<Value> {
        let object = self.world.object("ops", &format!("run/{name}"))?;
        Some(serde_json::from_slice(&object.content.to_bytes()).unwrap())
    }

    fn start_in(&self, directory: &Path, arguments: &[&str], job: Option<&str>) -> Child {
        let mut command = process_at(&self.world);
        for name in [
            "JOB_COMPLETION_INDEX",
            "SLURM_ARRAY_TASK_ID",
            "AWS_BATCH_JOB_ARRAY_INDEX",
        ] {
            command.env_remove(name);
        }
        if let Some(job) = job {
            command.env("S3HAUL_JOB_UID", job);
        }
        command
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Starts a process of the run.
    pub(crate) fn start(&self, arguments: &[&str], job: Option<&str>) -> Child {
        self.start_in(self.directory.path(), arguments, job)
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.start(arguments, None)).await
    }

    /// Runs a shard to its end.
    async fn shard(&self, shard: u32, shards: u32) -> Ended {
        let (shard, shards) = (shard.to_string(), shards.to_string());
        self.run(&flags(&shard, &shards)).await
    }

    async fn expect_done(&self, shard: u32, shards: u32) {
        let Ended { exit, stderr, .. } = self.shard(shard, shards).await;
        assert_eq!(exit, 0, "shard {shard}: {stderr}");
    }

    /// Waits until the server has received this many requests of a kind.
    async fn requests(&self, operation: Operation, count: u64) {
        let working = async {
            while self.world.calls(operation) < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), working)
            .await
            .expect("the processes do nothing");
    }

    /// Returns the statuses of each object in the reports of all shards.
    fn receipts(&self) -> BTreeMap<String, Vec<String>> {
        let mut receipts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for key in self.keys("ops") {
            if !key.contains("/report/") {
                continue;
            }
            let object = self.world.object("ops", &key).unwrap();
            let text = String::from_utf8(object.content.to_bytes().to_vec()).unwrap();
            for line in text.lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                if let (Some(source), Some(status)) =
                    (line["source"].as_str(), line["status"].as_str())
                {
                    receipts
                        .entry(source.to_owned())
                        .or_default()
                        .push(status.to_owned());
                }
            }
        }
        receipts
    }

    /// Asserts that the destination equals the source, and that each object has one receipt that
    /// says so.
    fn assert_complete(&self) {
        let sources = self.keys(SOURCE);
        assert_eq!(self.keys(DESTINATION), sources);
        let receipts = self.receipts();
        let named: BTreeSet<_> = receipts.keys().cloned().collect();
        let expected: BTreeSet<_> = sources
            .iter()
            .map(|key| format!("s3://source/{key}"))
            .collect();
        assert_eq!(named, expected);
        for (source, statuses) in receipts {
            assert_eq!(statuses, ["done"], "{source}");
        }
        self.world.assert_no_upload_is_left();
    }
}

pub(crate) fn flags<'a>(shard: &'a str, shards: &'a str) -> Vec<&'a str> {
    vec![
        "run", "job.yaml", "--state", STATE, "--shards", shards, "--pods", "4", "--shard", shard,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_in_any_order_copy_each_object_once() {
    let shards = Shards::new(Model::default()).await;
    shards.put_many(1200);
    shards.put("large", 300 * MIB);
    for key in ["a", "zz/é", "zz/\u{10000}", "logs/"] {
        shards.put(key, 1);
    }
    shards.put("zz/empty", 0);
    // Three shards at a time, in arbitrary order.
    for group in [[5, 0, 7], [2, 6, 1], [4, 3, 3]] {
        let running: BTreeSet<u32> = group.into_iter().collect();
        let running: Vec<_> = running
            .into_iter()
            .map(|shard| shards.start(&flags(&shard.to_string(), "8"), None))
            .collect();
        for child in running {
            let Ended { exit, stderr, .. } = ended(child).await;
            assert_eq!(exit, 0, "{stderr}");
        }
    }
    shards.assert_complete();
    let small = 1200 + 5;
    // A request with an overdue answer is sent once more.
    let twice: u64 = (0..8)
        .map(|shard| {
            let end = shards.state(&format!("done/{shard}.json")).unwrap();
            let requests = &end["requests"];
            requests["hedged"].as_u64().unwrap() + requests["retried"].as_u64().unwrap()
        })
        .sum();
    let copies = shards.world.calls(Operation::CopyObject);
    assert!(
        (small..=small + twice).contains(&copies),
        "{copies} copies of {small}, {twice} twice"
    );
    assert_eq!(shards.world.calls(Operation::CompleteMultipartUpload), 1);
    let parts = shards
        .world
        .object(DESTINATION, "large")
        .unwrap()
        .parts
        .len();
    assert!(shards.world.calls(Operation::UploadPartCopy) <= parts as u64 + twice);
    // One page shows the planner all keys, and one or two show each shard its own.
    let lists = shards.world.sandbox.calls().of(Operation::ListObjectsV2);
    let lists = lists.iter().filter(|call| call.bucket == SOURCE).count() as u64;
    assert!(lists <= 8 * 3 + 4 + twice, "{lists} lists of the source");
    let plan = shards.state("plan.json").unwrap();
    assert_eq!(
        (&plan["exact"], &plan["weight"]["objects"]),
        (&true.into(), &1206.into())
    );
    let mut done = 0;
    for shard in 0..8 {
        let end = shards.state(&format!("done/{shard}.json")).unwrap();
        let planned = &plan["shards"][shard]["weight"]["objects"];
        assert_eq!(&end["totals"]["done_objects"], planned, "{end}");
        assert_eq!((&end["exit"], &end["shard"]), (&0.into(), &shard.into()));
        done += end["totals"]["done_objects"].as_u64().unwrap();
        let live = shards.state(&format!("live/{shard}.json")).unwrap();
        assert_eq!(
            (&live["state"], &live["exit"]),
            (&"ended".into(), &0.into())
        );
        assert_eq!(
            live["totals"]["done_objects"],
            end["totals"]["done_objects"]
        );
        assert_eq!(live["totals"]["done_bytes"], end["totals"]["done_bytes"]);
    }
    assert_eq!(done, 1206);
    let summary = shards.state("summary.json").unwrap();
    assert_eq!(
        (&summary["done"], &summary["shards"]),
        (&8.into(), &8.into())
    );
    assert_eq!(summary["totals"]["done_objects"], 1206);
    assert_eq!(summary["totals"]["done_bytes"], 300 * MIB + 12_000 + 4);
    assert!(summary["failed"].is_null(), "{summary}");

    // A finished shard has nothing to do.
    shards.world.sandbox.calls().clear();
    let Ended {
        exit,
        stdout,
        stderr,
    } = shards.shard(3, 8).await;
    assert!(
        exit == 0 && stdout.contains("shard 3 is done already"),
        "{exit} {stdout} {stderr}"
    );
    for operation in [Operation::CopyObject, Operation::PutObject] {
        assert_eq!(shards.world.calls(operation), 0, "{operation:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_resumes_from_its_state_alone() {
    let shards = Shards::with_slow_copies(Duration::from_millis(20)).await;
    shards.put_many(800);
    // Four slots for each process, so that no shard is done at once.
    let job = format!("{COPY_ALL}limits: {{in_flight: 16}}\n");
    shards.job(&job);
    let first = shards.start(&flags("0", "4"), Some("uid"));
    let second = shards.start(&flags("1", "4"), Some("uid"));
    shards.requests(Operation::CopyObject, 120).await;
    kill(first).await;
    kill(second).await;
    // Another machine has only the job.
    let elsewhere = TempDir::new().unwrap();
    std::fs::write(elsewhere.path().join("job.yaml"), &job).unwrap();
    for shard in ["3", "1", "0", "2"] {
        let child = shards.start_in(elsewhere.path(), &flags(shard, "4"), Some("uid"));
        let Ended { exit, stderr, .. } = ended(child).await;
        assert_eq!(exit, 0, "shard {shard}: {stderr}");
    }
    assert_eq!(shards.keys(DESTINATION), shards.keys(SOURCE));
    let receipts = shards.receipts();
    assert_eq!(receipts.len(), 800);
    assert!(
        receipts
            .values()
            .all(|statuses| statuses == &["done"] || statuses == &["skipped"]),
        "{receipts:?}"
    );
    // At most the objects that were in flight at the kills are copied again.
    let again = shards.world.calls(Operation::CopyObject) - 800;
    assert!(again <= 40, "{again} objects were copied twice");
    let sessions =
        |shard| shards.state(&format!("done/{shard}.json")).unwrap()["sessions"].as_u64();
    assert!(
        sessions(0) == Some(2) || sessions(1) == Some(2),
        "neither went on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_of_a_shard_the_older_one_is_shut_out() {
    let shards = Shards::with_slow_copies(Duration::from_millis(40)).await;
    shards.put_many(1500);
    shards.job(&format!("{COPY_ALL}limits: {{in_flight: 8}}\n"));
    let older = shards.start(&flags("0", "1"), Some("uid"));
    shards.requests(Operation::CopyObject, 50).await;
    let newer = shards.start(&flags("0", "1"), Some("uid"));
    let (older, newer) = (ended(older).await, ended(newer).await);
    assert_eq!(newer.exit, 0, "{}", newer.stderr);
    assert_eq!(older.exit, 4, "{}", older.stderr);
    assert!(
        older.stderr.contains("was taken over by process"),
        "{}",
        older.stderr
    );
    assert_eq!(shards.keys(DESTINATION), shards.keys(SOURCE));
    for key in shards.keys(SOURCE).iter().take(50) {
        shards.world.assert_equal(key, key);
    }
    let (done, live) = (
        shards.state("done/0.json").unwrap(),
        shards.state("live/0.json").unwrap(),
    );
    assert_eq!(done["exit"], 0);
    assert_eq!(
        live["process"], done["process"],
        "the older one wrote over it"
    );
    assert_eq!(shards.state("failed/0.json"), None);
    // A process of another Job waits until the lease expires.
    let receipts = shards.receipts();
    assert_eq!(receipts.len(), 1500);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_written_meanwhile_are_in_some_shard() {
    let shards = Shards::new(Model::default()).await;
    shards.put_many(300);
    let planned = shards
        .run(&["plan", "job.yaml", "--shards", "6", "--out", STATE])
        .await;
    assert!(
        planned.exit == 0 && planned.stdout.contains("6 shards: 300 objects"),
        "{}",
        planned.stdout
    );
    for key in [
        "!first",
        "logs/2026-11-03/0",
        "logs/2026-11-03/zzz",
        "~last",
        "\u{10000}",
    ] {
        shards.put(key, 3);
    }
    let again = shards
        .run(&["plan", "job.yaml", "--shards", "6", "--out", STATE])
        .await;
    assert!(
        again.exit == 0 && again.stdout.contains("is there already"),
        "{}",
        again.stdout
    );
    for shard in 0..6 {
        shards.expect_done(shard, 6).await;
    }
    shards.assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_failed_is_run_again() {
    let shards = Shards::new(Model::default()).await;
    shards.put_many(100);
    shards.put("secret", 1);
    let store = shards.world.sandbox.store();
    store.deny(DESTINATION, Operation::CopyObject, "secret");
    let mut failed = Vec::new();
    for shard in 0..3 {
        let Ended { exit, stderr, .. } = shards.shard(shard, 3).await;
        assert!(exit == 0 || exit == 1, "{stderr}");
        failed.extend((exit == 1).then_some(shard));
    }
    let &[failed] = failed.as_slice() else {
        panic!("{failed:?} failed");
    };
    let end = shards.state(&format!("failed/{failed}.json")).unwrap();
    assert_eq!(
        (&end["exit"], &end["totals"]["failed_objects"]),
        (&1.into(), &1.into())
    );
    let cause = end["cause"].as_str().unwrap();
    assert!(
        cause.starts_with("1 object failed: 1 x CopyObject AccessDenied"),
        "{cause}"
    );
    assert_eq!(shards.state(&format!("done/{failed}.json")), None);
    let summary = shards.state("summary.json").unwrap();
    assert_eq!(
        (&summary["done"], &summary["failed"][failed.to_string()]),
        (&2.into(), &1.into())
    );
    store.allow_all();
    shards.expect_done(failed, 3).await;
    assert_eq!(shards.state(&format!("failed/{failed}.json")), None);
    assert_eq!(
        shards.state(&format!("done/{failed}.json")).unwrap()["exit"],
        0
    );
    let summary = shards.state("summary.json").unwrap();
    assert!(
        summary["done"] == 3 && summary["failed"].is_null(),
        "{summary}"
    );
    assert_eq!(shards.keys(DESTINATION), shards.keys(SOURCE));
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_and_single_objects_are_each_in_one_shard() {
    let shards = Shards::new(Model::default()).await;
    shards.put_many(200);
    shards.put("one/object", 5);
    let to = |from: &str, to: &str| {
        format!("  - {{from: {{s3: s3://source/{from}}}, to: {{s3: s3://destination/{to}}}}}\n")
    };
    let header = COPY_ALL.split("  - ").next().unwrap();
    let job = format!(
        "{header}{}{}{}",
        to("logs/", "a/"),
        to("one/object", "b/object"),
        to("none/", "c/")
    );
    shards.job(&job);
    for shard in 0..5 {
        shards.expect_done(shard, 5).await;
    }
    assert_eq!(shards.keys(DESTINATION).len(), 201);
    assert_eq!(shards.world.calls(Operation::CopyObject), 201);
    let plan = shards.state("plan.json").unwrap();
    let ranges = plan["shards"].as_array().unwrap().iter();
    let ranges: Vec<_> = ranges
        .flat_map(|shard| shard["ranges"].as_array().unwrap())
        .collect();
    let of = |transfer: u32| {
        ranges
            .iter()
            .filter(|range| range["transfer"] == transfer)
            .count()
    };
    assert!(of(0) >= 4, "{plan}");
    assert_eq!((of(1), of(2)), (1, 1), "{plan}");
}

/// The limits of the job apply to all processes together.
#[tokio::test(flavor = "multi_thread")]
async fn each_process_has_its_share_of_the_limits() {
    let shards = Shards::with_slow_copies(Duration::from_millis(15)).await;
    shards.put_many(120);
    shards.job(&format!(
        "{COPY_ALL}limits: {{in_flight: 8, requests_per_second: 4000, bytes_per_second: 400MiB}}\n"
    ));
    let mut arguments = flags("0", "4");
    arguments.extend(["--log-format", "json"]);
    let Ended { exit, stderr, .. } = shards.run(&arguments).await;
    assert_eq!(exit, 0, "{stderr}");
    let lines = stderr
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let start = lines
        .into_iter()
        .find(|line| line["event"] == "start")
        .unwrap();
    let size = ["shard", "shards", "pods"].map(|field| start[field].as_u64());
    assert_eq!(size, [Some(0), Some(4), Some(4)], "{start}");
    assert_eq!(start["limits"]["in_flight"], 2, "{start}");
    assert_eq!(start["limits"]["requests_per_second"], 1000, "{start}");
    assert_eq!(start["limits"]["bytes_per_second"], "100MiB/s", "{start}");
    let copies = shards.world.sandbox.calls().of(Operation::CopyObject);
    let at_once = |time| {
        let open = copies
            .iter()
            .filter(|call| call.arrived <= time && time < call.answered);
        open.count()
    };
    let most = copies.iter().map(|call| at_once(call.arrived)).max();
    assert!(most <= Some(2), "{most:?} copies were in flight");
}
