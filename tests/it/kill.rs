//! Kills the command with SIGKILL, again and again, in the middle of its work. The result equals
//! that of one undisturbed run, and almost nothing is done twice.
//!
//! `KILL_SEED` sets the seed, which the tests print, and `KILLS` the number of kills.
//! `conformance::killed` does the same on other servers.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use s3haul::manifest::job::Transfer;
use s3haul::sandbox::{BucketOptions, Content, Effect, Fault, LatencyModel, ObjectSpec, Operation};
use s3haul::size::MIB;
use serde_json::Value;
use tempfile::TempDir;

use crate::reports::lines_of;
use crate::reports::s3::lines_below;
use crate::world::program::process_at;
use crate::world::{DESTINATION, SOURCE, World, destination, upload_all};

/// The number of kills.
const KILLS: u64 = 60;
/// Number of kills with the journal in S3, for which a session waits, and for uploads, which send
/// real bytes.
const FEWER_KILLS: u64 = 12;
const IN_FLIGHT: u64 = 8;
const PART: u64 = 5 * MIB;
/// The bucket of a journal in S3.
const OPS: &str = "ops";
/// The bucket that an undisturbed run filled from the same files.
const REFERENCE: &str = "reference";
/// A session that takes longer has hung.
const PATIENCE: Duration = Duration::from_mins(1);

/// The command that is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Errand {
    /// A copy between buckets with its journal in a directory.
    Copy,
    /// A copy with its journal in S3.
    JournalInS3,
    /// A copy with journal and report in S3.
    ReportInS3,
    /// An upload of files.
    Upload,
}

/// A request at which the command is killed, and the highest occurrence of it.
type Moment = (Operation, u64);

impl Errand {
    /// Returns the number of parts of each large object.
    fn parts(self) -> &'static [u64] {
        match self {
            Self::Copy | Self::JournalInS3 | Self::ReportInS3 => &[40, 25, 10],
            // Files have real bytes, so there are fewer parts.
            Self::Upload => &[4, 2],
        }
    }

    fn small(self) -> u64 {
        match self {
            Self::Copy | Self::JournalInS3 | Self::ReportInS3 => 40,
            Self::Upload => 12,
        }
    }

    fn moments(self) -> Vec<Moment> {
        let any = [
            (Operation::CreateMultipartUpload, 3),
            (Operation::CompleteMultipartUpload, 3),
            (Operation::ListObjectsV2, 2),
            (Operation::ListParts, 3),
        ];
        let own: &[Moment] = match self {
            Self::Copy => COPY,
            Self::JournalInS3 | Self::ReportInS3 => &[
                COPY,
                &[(Operation::PutObject, 12), (Operation::GetObject, 4)],
            ]
            .concat(),
            Self::Upload => &[
                (Operation::UploadPart, 5),
                (Operation::UploadPart, 5),
                (Operation::PutObject, 11),
            ],
        };
        [&any, own].concat()
    }

    /// Returns the requests that move bytes: of parts, and of whole objects.
    fn moves(self) -> (Operation, Operation) {
        match self {
            Self::Copy | Self::JournalInS3 | Self::ReportInS3 => {
                (Operation::UploadPartCopy, Operation::CopyObject)
            }
            Self::Upload => (Operation::UploadPart, Operation::PutObject),
        }
    }
}

const COPY: &[Moment] = &[
    (Operation::UploadPartCopy, 25),
    (Operation::UploadPartCopy, 25),
    (Operation::CopyObject, 30),
    (Operation::HeadObject, 40),
];

/// Large and small objects with all attributes that a copy keeps, and a directory for journal and
/// report.
struct Round {
    errand: Errand,
    world: World,
    directory: TempDir,
    kills: u64,
}

impl Round {
    async fn new(errand: Errand) -> Self {
        let ms = Duration::from_millis;
        let world = World::with_latency(LatencyModel {
            copy: ms(6),
            put: ms(6),
            create: ms(4),
            complete: ms(6),
            head: ms(2),
            list: ms(2),
            ..LatencyModel::default()
        })
        .await;
        let round = Self {
            errand,
            world,
            directory: TempDir::new().unwrap(),
            kills: 0,
        };
        round.arrange().await;
        round
    }

    async fn arrange(&self) {
        // Sources are older than any copy: if the command is killed after its run has ended, the
        // next run must find nothing to do.
        let written = SystemTime::now() - Duration::from_hours(1);
        let large = (1..).zip(self.errand.parts());
        let large = large.map(|(seed, parts)| (format!("large{seed}"), seed, parts * PART - seed));
        let small =
            (0..self.errand.small()).map(|seed| (format!("small{seed:02}.txt"), seed, 100 + seed));
        let store = self.world.sandbox.store();
        if self.errand != Errand::Upload {
            store.create_bucket(OPS, BucketOptions::default());
            for (key, seed, size) in large.chain(small) {
                let spec = ObjectSpec {
                    last_modified: Some(written),
                    ..ObjectSpec::default()
                };
                let spec = spec
                    .content_type("text/x-kill")
                    .metadata("seed", seed.to_string());
                store.put_object(SOURCE, &key, Content::pattern(seed, size), &spec);
            }
            return;
        }
        fs::create_dir(self.files()).unwrap();
        for (name, seed, size) in large.chain(small) {
            let mut bytes = vec![0; usize::try_from(size).unwrap()];
            fastrand::Rng::with_seed(seed).fill(&mut bytes);
            let path = self.files().join(name);
            fs::write(&path, bytes).unwrap();
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(written)
                .unwrap();
        }
        store.create_bucket(REFERENCE, BucketOptions::default());
        let whole = Transfer {
            to: destination(&format!("s3://{REFERENCE}/")),
            ..upload_all(&self.files())
        };
        let run = self.world.run(whole).await;
        assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
        self.world.sandbox.calls().clear();
    }

    fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }

    fn spawn(&self) -> Child {
        process_at(&self.world)
            .current_dir(self.directory.path())
            .args([
                "copy",
                if self.errand == Errand::Upload {
                    "files"
                } else {
                    "s3://source/"
                },
            ])
            .args(["s3://destination/", "--report"])
            .arg(if self.errand == Errand::ReportInS3 {
                "s3://ops/kill/"
            } else {
                "report.jsonl"
            })
            .args([
                "--provider",
                "aws",
                "--part-size",
                "5MiB",
                "--threshold",
                "5MiB",
            ])
            .args(["--in-flight", &IN_FLIGHT.to_string()])
            .args(match self.errand {
                Errand::JournalInS3 | Errand::ReportInS3 => &["--journal", "s3://ops/kill/"][..],
                Errand::Copy | Errand::Upload => &[],
            })
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.errors()).unwrap())
            .spawn()
            .unwrap()
    }

    fn errors(&self) -> std::path::PathBuf {
        self.directory.path().join("stderr")
    }

    /// Runs a session, which `dying` kills. Returns `None` if it was killed.
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
                    // The session may have ended at the last moment.
                    let status = child.wait().unwrap();
                    return status.code().is_some().then_some(status);
                }
                assert!(began.elapsed() < PATIENCE, "it hangs");
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        waited.await.unwrap()
    }

    /// Runs a session and kills it at a random moment. Returns true if it ended by itself before
    /// that.
    async fn killed(&mut self, random: &mut fastrand::Rng) -> bool {
        let moments = self.errand.moments();
        let (operation, most) = moments[random.usize(..moments.len())];
        let (nth, delay) = (
            random.u64(1..=most),
            Duration::from_micros(random.u64(..20_000)),
        );
        let dying = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&dying);
        let faults = self.world.sandbox.faults();
        faults.clear();
        faults.add(
            Fault::on(operation)
                .nth(nth)
                .then(Effect::hook(move |_| flag.store(true, Ordering::Release))),
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
        assert!(
            status.success(),
            "after {} kills: {status}: {}",
            self.kills,
            said()
        );
    }

    /// Asserts that everything was copied by a session that ended by itself.
    fn assert_done(&self) {
        let (world, kills) = (&self.world, self.kills);
        let store = world.sandbox.store();
        let keys = if self.errand == Errand::Upload {
            for key in store.keys(REFERENCE) {
                let whole = store.object(REFERENCE, &key).unwrap();
                let sent = store
                    .object(DESTINATION, &key)
                    .unwrap_or_else(|| panic!("{key} is not there"));
                assert!(sent.content == whole.content, "other bytes in {key}");
                assert_eq!(sent.attributes, whole.attributes, "{key}");
            }
            store.keys(REFERENCE)
        } else {
            for key in store.keys(SOURCE) {
                world.assert_equal(&key, &key);
            }
            store.keys(SOURCE)
        };
        assert_eq!(store.keys(DESTINATION), keys);
        world.assert_no_upload_is_left();
        let (part, whole) = self.errand.moves();
        let sent = |operation| {
            let calls = world.sandbox.calls().of(operation);
            calls
                .iter()
                .filter(|call| call.bucket == DESTINATION)
                .count() as u64
        };
        let parts: u64 = self.errand.parts().iter().sum();
        for (operation, needed) in [(part, parts), (whole, self.errand.small())] {
            let (sent, most) = (sent(operation), needed + kills * IN_FLIGHT);
            assert!(
                (needed..=most).contains(&sent),
                "{sent} {operation:?} of {needed} after {kills} kills"
            );
        }
        let lines = if self.errand == Errand::ReportInS3 {
            lines_below(&world.sandbox, "kill/")
        } else {
            lines_of(&self.directory.path().join("report.jsonl"))
        };
        assert_reported(&lines, &keys);
    }
}

/// Asserts that the report has each object exactly once, whatever the number of sessions.
fn assert_reported(report: &[Value], keys: &[String]) {
    assert!(report.last().unwrap()["footer"]["complete"] == true);
    let mut lines: BTreeMap<String, u32> = BTreeMap::new();
    for line in report {
        if let Some(destination) = line["destination"].as_str() {
            *lines.entry(destination.to_owned()).or_default() += 1;
        }
    }
    let wanted = keys
        .iter()
        .map(|key| (format!("s3://{DESTINATION}/{key}"), 1))
        .collect();

    assert_eq!(lines, wanted);
}

#[expect(clippy::print_stderr, reason = "the seed of a failure")]
async fn killed(errand: Errand, kills: u64) {
    let seed =
        std::env::var("KILL_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    let wanted = std::env::var("KILLS").map_or(kills, |kills| kills.parse().unwrap());
    eprintln!("KILL_SEED={seed} KILLS={wanted}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut kills = 0;
    while kills < wanted {
        let mut round = Round::new(errand).await;
        // A round ends after 5 to 20 kills, so that kills hit the early moments of a run again.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_killed_at_random_moments_ends_like_one_run() {
    killed(Errand::Copy, KILLS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_copy_with_its_journal_in_s3_ends_like_one_run() {
    killed(Errand::JournalInS3, FEWER_KILLS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_copy_with_its_report_in_s3_ends_like_one_run() {
    killed(Errand::ReportInS3, FEWER_KILLS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_killed_at_random_moments_ends_like_one_run() {
    killed(Errand::Upload, FEWER_KILLS).await;
}
