//! The command killed without a word, again and again, in the middle of its work: what it comes to in the end is what one
//! undisturbed run would have come to, and next to nothing is done twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use s3haul::sandbox::{
    BucketOptions, Content, Effect, Fault, LatencyModel, Model, ObjectSpec, Operation, SandboxOptions,
};
use s3haul::size::MIB;
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::process_at;
use crate::world::{DESTINATION, SOURCE, World};

/// How often the command is killed in all.
const KILLS: u64 = 60;
const IN_FLIGHT: u64 = 8;
const PART: u64 = 5 * MIB;
/// Parts of each of the large objects.
const PARTS: [u64; 3] = [40, 25, 10];
const SMALL: u64 = 40;
/// A session that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the command is killed at, and up to which occurrence of it.
const MOMENTS: [(Operation, u64); 8] = [
    (Operation::UploadPartCopy, 25),
    (Operation::UploadPartCopy, 25),
    (Operation::CreateMultipartUpload, 3),
    (Operation::CompleteMultipartUpload, 3),
    (Operation::CopyObject, 30),
    (Operation::HeadObject, 40),
    (Operation::ListObjectsV2, 2),
    (Operation::ListParts, 3),
];

/// One large and small objects with everything that a copy keeps, and a directory for the journal and the report.
struct Round {
    world: World,
    directory: TempDir,
    kills: u64,
}

impl Round {
    async fn new() -> Self {
        let ms = Duration::from_millis;
        let latency = LatencyModel {
            copy: ms(6),
            create: ms(4),
            complete: ms(6),
            head: ms(2),
            list: ms(2),
            ..LatencyModel::default()
        };
        let model = Model { latency, ..Model::default() };
        let options = SandboxOptions { model, ..SandboxOptions::default() };
        let world = World::with(options, BucketOptions::default()).await;
        // Older than any copy: when the command is killed after the end of its run, the next run is to find nothing to do.
        let written = SystemTime::now() - Duration::from_hours(1);
        let put = |key: String, seed: u64, size: u64| {
            let spec = ObjectSpec { last_modified: Some(written), ..ObjectSpec::default() };
            let spec = spec.content_type("text/x-kill").metadata("seed", seed.to_string());
            world.sandbox.store().put_object(SOURCE, &key, Content::pattern(seed, size), &spec);
        };
        for (seed, parts) in (1..).zip(PARTS) {
            put(format!("large{seed}"), seed, parts * PART - seed);
        }
        for seed in 0..SMALL {
            put(format!("small{seed:02}"), seed, 100 + seed);
        }
        Self { world, directory: TempDir::new().unwrap(), kills: 0 }
    }

    fn spawn(&self) -> Child {
        process_at(&self.world)
            .current_dir(self.directory.path())
            .args(["copy", "s3://source/", "s3://destination/", "--report", "report.jsonl"])
            .args(["--provider", "aws", "--part-size", "5MiB", "--threshold", "5MiB"])
            .args(["--in-flight", &IN_FLIGHT.to_string()])
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.errors()).unwrap())
            .spawn()
            .unwrap()
    }

    fn errors(&self) -> std::path::PathBuf {
        self.directory.path().join("stderr")
    }

    /// Runs a session, which `dying` kills; `None` if it did.
    async fn session(&self, dying: Arc<AtomicBool>, delay: Duration) -> Option<ExitStatus> {
        let mut child = self.spawn();
        let waited = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return Some(status);
                }
                if dying.load(Ordering::Acquire) {
                    std::thread::sleep(delay);
                    child.kill().unwrap();
                    // It may have come to its end at the very last moment.
                    let status = child.wait().unwrap();
                    return status.code().is_some().then_some(status);
                }
                assert!(began.elapsed() < PATIENCE, "it hangs");
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        waited.await.unwrap()
    }

    /// A session that is killed in the middle of something. True when it came to its end all the same.
    async fn killed(&mut self, random: &mut fastrand::Rng) -> bool {
        let (operation, most) = MOMENTS[random.usize(..MOMENTS.len())];
        let (nth, delay) = (random.u64(1..=most), Duration::from_micros(random.u64(..20_000)));
        let dying = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&dying);
        let faults = self.world.sandbox.faults();
        faults.clear();
        faults.add(
            Fault::on(operation).nth(nth).then(Effect::hook(move |_| flag.store(true, Ordering::Release))),
        );
        let Some(status) = self.session(dying, delay).await else {
            self.kills += 1;
            return false;
        };
        self.assert_success(status);
        true
    }

    fn assert_success(&self, status: ExitStatus) {
        let said = || fs::read_to_string(self.errors()).unwrap_or_default();
        assert!(status.success(), "after {} kills: {status}: {}", self.kills, said());
    }

    /// What must be true once a session has come to its end.
    fn assert_done(&self) {
        let (world, kills) = (&self.world, self.kills);
        for key in world.sandbox.store().keys(SOURCE) {
            world.assert_equal(&key, &key);
        }
        world.assert_no_upload_is_left();
        let needed: u64 = PARTS.iter().sum();
        let twice = world.calls(Operation::UploadPartCopy) - needed;
        assert!(twice <= kills * IN_FLIGHT, "{twice} part copies too many after {kills} kills");
        let twice = world.calls(Operation::CopyObject).saturating_sub(SMALL);
        assert!(twice <= kills * IN_FLIGHT, "{twice} copies too many after {kills} kills");
        assert_reported(
            &self.directory.path().join("report.jsonl"),
            &world.sandbox.store().keys(DESTINATION),
        );
    }
}

/// Every object stands in the report exactly once, however many sessions it took.
fn assert_reported(report: &Path, keys: &[String]) {
    let text = fs::read_to_string(report).unwrap();
    let mut lines: BTreeMap<String, u32> = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if let Some(destination) = line["destination"].as_str() {
            *lines.entry(destination.to_owned()).or_default() += 1;
        }
    }
    let wanted = keys.iter().map(|key| (format!("s3://{DESTINATION}/{key}"), 1)).collect();

    assert_eq!(lines, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_it_comes_to_what_one_run_comes_to() {
    let seed = std::env::var("KILL_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    let wanted = std::env::var("KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    eprintln!("KILL_SEED={seed} KILLS={wanted}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut kills = 0;
    while kills < wanted {
        let mut round = Round::new().await;
        // Once in a while from the first moment to the end.
        let most = random.u64(5..=20);
        let mut ended = false;
        while !ended && round.kills < most && kills + round.kills < wanted {
            ended = round.killed(&mut random).await;
        }
        if !ended {
            round.world.sandbox.faults().clear();
            let status = round.session(Arc::default(), Duration::ZERO).await.unwrap();
            round.assert_success(status);
        }
        round.assert_done();
        kills += round.kills;
    }
}
