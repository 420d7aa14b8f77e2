//! Whatever goes wrong, an exit code of 0 is true. Runs are killed, refused, and cut off, and their
//! reports and journals are edited; no command may claim to be complete while an object is missing.
//!
//! `TRUTH_SEED` sets the seed, which the test prints, and `TRUTH_CASES` the number of cases.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation, When};
use tempfile::TempDir;

use crate::world::program::process_at;
use crate::world::{DESTINATION, SOURCE, World};

/// Number of cases in an ordinary test run.
const CASES: u64 = 8;
/// Sessions with faults, kills, and edits in one case.
const SESSIONS: u32 = 5;
const OBJECTS: u64 = 30;
/// A command that takes longer has hung.
const PATIENCE: Duration = Duration::from_mins(1);

/// A run with its report and journal.
struct Case {
    world: World,
    directory: TempDir,
    random: fastrand::Rng,
    /// The arguments of the copy.
    copy: Vec<String>,
    /// The events so far, for the message of a failure.
    story: Vec<String>,
}

/// The end of a command.
struct Ended {
    /// The exit code, or `None` if the command was killed.
    exit: Option<i32>,
    stderr: String,
}

impl Case {
    async fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let world = World::new().await;
        world.create_bucket("ops");
        for index in 0..OBJECTS {
            let size = if index == 7 { 12 << 20 } else { 100 + index };
            world.put_object(
                SOURCE,
                &format!("k{index:03}"),
                Content::pattern(index, size),
                &ObjectSpec::default(),
            );
        }
        let journal = ["none", "kept", "kept", "s3://ops/j/"][random.usize(..4)];
        let mut copy = vec![
            "copy",
            "s3://source/",
            "s3://destination/",
            "--report",
            "r.jsonl",
            "--patience",
            "2s",
        ];
        copy.extend([
            "--in-flight",
            "4",
            "--part-size",
            "5MiB",
            "--threshold",
            "5MiB",
            "--journal",
            journal,
        ]);
        if journal.starts_with("s3:") || random.bool() {
            copy.extend(["--provider", "aws"]);
        }
        if random.u8(..3) == 0 {
            copy.extend(["--max-failures", "1"]);
        }
        let copy = copy.into_iter().map(str::to_owned).collect();
        let directory = TempDir::new().unwrap();
        Self {
            world,
            directory,
            random,
            copy,
            story: vec![format!("seed {seed}, journal {journal}")],
        }
    }

    /// Runs a command, and may end it with a signal when `dying` is set.
    async fn run(
        &mut self,
        command: &[String],
        signal: Option<&'static str>,
        dying: Arc<AtomicBool>,
    ) -> Ended {
        let mut child = process_at(&self.world)
            .args(command)
            .current_dir(self.directory.path())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.directory.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let exit = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let mut signalled = false;
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return status.code();
                }
                if let Some(signal) = signal.filter(|_| !signalled && dying.load(Ordering::Acquire))
                {
                    signalled = true;
                    let id = child.id().to_string();
                    std::process::Command::new("kill")
                        .args([signal, &id])
                        .status()
                        .unwrap();
                }
                assert!(began.elapsed() < PATIENCE, "it hangs");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let exit = exit.await.unwrap();
        let stderr = fs::read_to_string(self.directory.path().join("stderr")).unwrap();
        self.story.push(format!(
            "{command:?} {signal:?} -> {exit:?}: {}",
            stderr.trim_end()
        ));
        let ended = Ended { exit, stderr };
        self.judge(command, &ended);
        ended
    }

    /// Returns true if everything is at the destination.
    fn is_complete(&self) -> bool {
        let store = self.world.sandbox.store();
        store.keys(SOURCE).iter().all(|key| {
            let copy = store.object(DESTINATION, key);
            copy.is_some_and(|copy| copy.content == store.object(SOURCE, key).unwrap().content)
        })
    }

    /// Asserts that a command exits with 0 only if nothing is missing, or if it has said so.
    fn judge(&self, command: &[String], ended: &Ended) {
        if ended.exit == Some(0) && !self.is_complete() {
            let is_retry = command[0] == "retry";
            let said = ended
                .stderr
                .contains("It may never have listed others: run `s3haul copy ");
            assert!(
                is_retry && said,
                "{command:?} exits with 0:\n{}",
                self.story.join("\n")
            );
        }
        assert_ne!(ended.exit, Some(70), "{}", self.story.join("\n"));
    }

    /// Sets faults. Returns a flag that they set when it is time to end the command.
    fn disturb(&mut self) -> Arc<AtomicBool> {
        let (random, faults) = (&mut self.random, self.world.sandbox.faults());
        faults.clear();
        let dying = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&dying);
        let moments = [
            Operation::CopyObject,
            Operation::UploadPartCopy,
            Operation::ListObjectsV2,
            Operation::HeadObject,
        ];
        let hook = Effect::hook(move |_| flag.store(true, Ordering::Release));
        let nth = random.u64(1..=15);
        faults.add(Fault::on(moments[random.usize(..4)]).nth(nth).then(hook));
        for _ in 0..random.u8(..4) {
            let operation = [
                Operation::CopyObject,
                Operation::CopyObject,
                Operation::ListObjectsV2,
                Operation::PutObject,
            ][random.usize(..4)];
            let effect = match random.u8(..6) {
                0 => Effect::SlowDown,
                1 => Effect::ResetAfter,
                2 => Effect::ErrorAfterEffect(500, "InternalError"),
                3 => Effect::StallAfter(None),
                _ => Effect::Error(403, "AccessDenied"),
            };
            let (chance, seed) = (f64::from(random.u8(1..4)) / 10.0, random.u64(..));
            faults.add(
                Fault::on(operation)
                    .when(When::Chance(chance, seed))
                    .then(effect),
            );
        }
        let slow = Effect::Delay(Duration::from_millis(random.u64(..20)));
        faults.add(
            Fault::on(Operation::CopyObject)
                .when(When::Always)
                .then(slow),
        );
        dying
    }

    /// Damages a file of the report or the journal, or restores an old copy of it.
    fn edit(&mut self) {
        let mut files: Vec<PathBuf> = vec![
            self.path("r.jsonl"),
            self.path("r.jsonl"),
            self.path("r.retry-1.jsonl"),
        ];
        let logs = fs::read_dir(self.path("kept"))
            .into_iter()
            .flatten()
            .map(|file| file.unwrap().path());
        files.extend(logs);
        files.retain(|file| file.is_file());
        if files.is_empty() {
            return;
        }
        let file = files.swap_remove(self.random.usize(..files.len()));
        let old = self.path("old");
        let what = edit(&mut self.random, &file, &old);
        self.story
            .push(format!("{what}: {}", file.file_name().unwrap().display()));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Runs, retries, and edits until a command claims to be complete.
    async fn play(mut self) {
        let copy = self.copy.clone();
        for _ in 0..SESSIONS {
            let dying = self.disturb();
            let signal = [None, Some("-KILL"), Some("-TERM")][self.random.usize(..3)];
            let command = match self.random.u8(..4) {
                0 => Self::words(&["retry", "r.jsonl", "--report", "r.retry-1.jsonl"]),
                1 => [copy.clone(), vec!["--fresh".to_owned()]].concat(),
                _ => copy.clone(),
            };
            self.run(&command, signal, dying).await;
            self.world.sandbox.faults().clear();
            if self.random.bool() {
                self.edit();
            }
            self.run(
                &Self::words(&["verify", "--report", "r.jsonl"]),
                None,
                Arc::default(),
            )
            .await;
            if self.random.bool() {
                let retry = Self::words(&["retry", "r.jsonl", "--report", "r.retry-1.jsonl"]);
                self.run(&retry, None, Arc::default()).await;
            }
        }
        self.finish(&copy).await;
    }

    /// Asserts that without further faults, the command completes, with `--fresh` if necessary.
    async fn finish(&mut self, copy: &[String]) {
        let mut ended = self.run(copy, None, Arc::default()).await;
        if ended.exit != Some(0) {
            // The journal is damaged, the report is no longer one, or an earlier session has
            // failures.
            let _ = fs::remove_file(self.path("r.jsonl"));
            let fresh = [copy, &["--fresh".to_owned()]].concat();
            ended = self.run(&fresh, None, Arc::default()).await;
        }
        assert_eq!(ended.exit, Some(0), "{}", self.story.join("\n"));
        assert!(self.is_complete(), "{}", self.story.join("\n"));
        for command in [
            &["retry", "r.jsonl"][..],
            &["verify", "--report", "r.jsonl"],
        ] {
            let ended = self.run(&Self::words(command), None, Arc::default()).await;
            // A report without some receipts is refused, although everything is done.
            let is_refused = ended.exit == Some(2) && ended.stderr.contains("lacks receipts");
            assert!(
                ended.exit == Some(0) || is_refused,
                "{}",
                self.story.join("\n")
            );
        }
    }
}

/// Damages a file, or restores an earlier copy of it. Returns what it did.
fn edit(random: &mut fastrand::Rng, file: &Path, old: &Path) -> &'static str {
    let bytes = fs::read(file).unwrap();
    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let at = if lines.is_empty() {
        0
    } else {
        random.usize(..lines.len())
    };
    let kept = old.join(file.file_name().unwrap());
    let is_log = file.extension().is_some_and(|extension| extension == "log");
    let (what, edited) = match random.u8(..8) {
        0 if !bytes.is_empty() => ("cut", bytes[..random.usize(..bytes.len())].to_vec()),
        1 if !lines.is_empty() => {
            lines.remove(at);
            ("a line removed", lines.concat())
        }
        2 if !lines.is_empty() => {
            lines.insert(at, lines[at]);
            ("a line doubled", lines.concat())
        }
        3 if !bytes.is_empty() => {
            let mut flipped = bytes.clone();
            flipped[random.usize(..bytes.len())] ^= 1 << random.u8(..7);
            ("a bit flipped", flipped)
        }
        4 => {
            fs::remove_file(file).unwrap();
            return "removed";
        }
        5 => ("emptied", Vec::new()),
        6 if kept.is_file() && !is_log => ("an old one put back", fs::read(&kept).unwrap()),
        _ => {
            fs::create_dir_all(old).unwrap();
            fs::write(kept, &bytes).unwrap();
            ("kept for later", bytes)
        }
    };
    fs::write(file, edited).unwrap();
    what
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_says_that_all_is_done_while_something_is_missing() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).map_or(usual, |number| number.parse().unwrap())
    };
    let (seed, cases) = (
        number("TRUTH_SEED", fastrand::u64(..1 << 32)),
        number("TRUTH_CASES", CASES),
    );
    eprintln!("TRUTH_SEED={seed} TRUTH_CASES={cases}");
    for case in seed..seed + cases {
        Case::new(case).await.play().await;
    }
}
