//! The whole grid: each operation × each fault × its first, middle, and last call.
//!
//! A row is an operation in the scene that sends it, a column is a fault with its expected result,
//! and a cell is one run. The result depends on the kind of fault alone; [`comes_to`] lists the few
//! cells in which the operation matters. All cells of a row run concurrently in paused time, so an
//! hour of silence costs nothing, and no cell depends on the speed of the machine.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rstest::rstest;
use s3haul::execute::receipt::Ending;
use s3haul::journal::Intent;
use s3haul::manifest::job::{Job, Provider};
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::MIB;
use tempfile::TempDir;

use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, in_parts_of, upload_all};

const PART: u64 = 5 * MIB;
const IN_FLIGHT: u32 = 4;
/// Runs at the same time.
const AT_ONCE: usize = 8;
/// Upper bound of the extra requests after one fault: retries, HEADs after an unknown outcome, and
/// a fresh start of one object.
const COSTS: u64 = 20;

/// A run in which an operation is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// Copies small and large objects.
    Copy,
    /// Copies on a server that accepts tags only for existing objects.
    LateTags,
    /// Uploads small files.
    Put,
    /// Uploads a large file.
    Send,
    /// The server denies the parts of two large objects, so that their uploads are aborted.
    Abort,
    /// Resumes a run that was killed in the middle of two uploads.
    Resume,
}

impl Scene {
    fn sends_files(self) -> bool {
        matches!(self, Self::Put | Self::Send)
    }

    /// Returns the number of parts of the large objects. Some parts of a resumed upload must be
    /// missing.
    fn parts(self) -> u64 {
        if self == Self::Resume {
            2 * u64::from(IN_FLIGHT)
        } else {
            3
        }
    }
}

/// The expected result of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    /// The run succeeds with more requests.
    Passes,
    /// One object fails with this kind, or all that depend on the answer. The others are done.
    Fails(&'static str),
    /// The object is copied, and its receipt names the loss.
    IsLost,
    /// An upload may be left open, and its receipt says so.
    IsNoted,
}

/// Returns each fault with its name and its usual result.
fn faults() -> Vec<(&'static str, Effect, Comes)> {
    let second = Duration::from_secs(1);
    let in_200 = |after_effect| Effect::ErrorIn200 {
        code: "InternalError",
        after_effect,
        blanks: 3000,
    };
    vec![
        ("slow down", Effect::SlowDown, Comes::Passes),
        (
            "internal error",
            Effect::Error(500, "InternalError"),
            Comes::Passes,
        ),
        (
            "unavailable",
            Effect::Error(503, "ServiceUnavailable"),
            Comes::Passes,
        ),
        (
            "done and an error",
            Effect::ErrorAfterEffect(500, "InternalError"),
            Comes::Passes,
        ),
        ("error in 200 behind blanks", in_200(false), Comes::Passes),
        (
            "done, error in 200 behind blanks",
            in_200(true),
            Comes::Passes,
        ),
        (
            "slow down in 200",
            Effect::error_in_200("SlowDown"),
            Comes::Passes,
        ),
        ("reset before", Effect::ResetBefore, Comes::Passes),
        ("done, then reset", Effect::ResetAfter, Comes::Passes),
        ("silence before", Effect::StallBefore(None), Comes::Passes),
        (
            "done, then silence",
            Effect::StallAfter(None),
            Comes::Passes,
        ),
        ("byte by byte", Effect::Trickle(second), Comes::Passes),
        ("cut short", Effect::TruncateBody, Comes::Passes),
        ("empty", Effect::EmptyBody, Comes::Passes),
        (
            "read too slowly",
            Effect::Error(400, "RequestTimeout"),
            Comes::Passes,
        ),
        (
            "another operation at work",
            Effect::Error(409, "OperationAborted"),
            Comes::Passes,
        ),
        (
            "token expired once",
            Effect::Error(400, "ExpiredToken"),
            Comes::Passes,
        ),
        (
            "denied",
            Effect::Error(403, "AccessDenied"),
            Comes::Fails("denied"),
        ),
        (
            "clock skew once",
            Effect::Error(403, "RequestTimeTooSkewed"),
            Comes::Passes,
        ),
        (
            "unknown key once",
            Effect::Error(403, "InvalidAccessKeyId"),
            Comes::Passes,
        ),
    ]
}

/// Returns the result of a fault for this operation, or `None` if the operation cannot have such an
/// answer.
fn comes_to(scene: Scene, operation: Operation, effect: &Effect, usual: Comes) -> Option<Comes> {
    let is_head = operation == Operation::HeadObject;
    let is_bodiless = is_head
        || matches!(
            operation,
            Operation::UploadPart
                | Operation::PutObject
                | Operation::AbortMultipartUpload
                | Operation::PutObjectTagging
        );
    let needs_a_body = matches!(
        effect,
        Effect::ErrorIn200 { .. } | Effect::Trickle(_) | Effect::TruncateBody | Effect::EmptyBody
    );
    if is_bodiless && needs_a_body {
        return None;
    }
    Some(match (scene, operation, usual) {
        // Answers to HEAD have no body and so no error code: these are all plain 403s, and a 400.
        (_, Operation::HeadObject, Comes::Passes) if matches!(effect, Effect::Error(403, _)) => {
            Comes::Fails("denied")
        }
        (_, Operation::HeadObject, Comes::Passes)
            if matches!(effect, Effect::Error(400 | 409, _)) =>
        {
            Comes::Fails("invalid")
        }
        // If the denial may concern an attribute, s3haul makes the object without it.
        (
            Scene::Copy,
            Operation::CopyObject | Operation::CreateMultipartUpload | Operation::GetObjectTagging,
            Comes::Fails(_),
        )
        | (_, Operation::PutObjectTagging, Comes::Fails(_)) => Comes::IsLost,
        // If the denial may concern an unsigned body, s3haul sends it again with a signature. If an
        // upload cannot be listed, it is created anew. An abort can also be proven by the list of
        // uploads.
        (_, Operation::PutObject | Operation::UploadPart, Comes::Fails(_))
        | (Scene::Resume | Scene::Abort, Operation::ListParts, Comes::Fails(_)) => Comes::Passes,
        // The object has already failed for another reason.
        (Scene::Abort, _, Comes::Fails(_)) => Comes::IsNoted,
        (_, _, usual) => usual,
    })
}

/// A scene that is ready to run.
struct Stage {
    scene: Scene,
    world: World,
    job: Job,
    directory: TempDir,
    /// Keys that cannot be copied in this scene.
    denied: &'static [&'static str],
}

impl Stage {
    async fn new(scene: Scene) -> Self {
        let mut world = World::new().await;
        // Refusals are believed at once here. Doubted refusals have their own tests.
        world.retry.brief_doubt = Duration::ZERO;
        world.ceiling = IN_FLIGHT;
        let directory = TempDir::new().unwrap();
        let store = world.sandbox.store();
        let (mut denied, mut transfer) = (&[][..], in_parts_of(PART, copy_all()));
        if scene.sends_files() {
            let files = directory.path().join("files");
            fs::create_dir(&files).unwrap();
            if scene == Scene::Send {
                fs::write(
                    files.join("large"),
                    vec![7; usize::try_from(PART + 100).unwrap()],
                )
                .unwrap();
            } else {
                for name in ["small1", "small2", "small3"] {
                    fs::write(files.join(name), name).unwrap();
                }
            }
            transfer = in_parts_of(PART, upload_all(&files));
        } else {
            for (seed, key) in (1..).zip(["large1", "large2", "small1", "small2", "small3"]) {
                let size = if key.starts_with("large") {
                    scene.parts() * PART - seed
                } else {
                    seed
                };
                let spec = ObjectSpec::default()
                    .metadata("seed", seed.to_string())
                    .tag("seed", key);
                store.put_object(SOURCE, key, Content::pattern(seed, size), &spec);
            }
        }
        if scene == Scene::Abort {
            denied = &["large1", "large2"];
            store.deny(DESTINATION, Operation::UploadPartCopy, "large");
        }
        if scene == Scene::LateTags {
            world.provider = Provider::Ceph;
        }
        let job = world.job(transfer);
        let stage = Self {
            scene,
            world,
            job,
            directory,
            denied,
        };
        if scene == Scene::Resume {
            stage.kill().await;
        }
        stage.world.sandbox.calls().clear();
        stage
    }

    /// Runs a session that is killed when one object is about to be published and another one lacks
    /// parts.
    async fn kill(&self) {
        let faults = self.world.sandbox.faults();
        faults.add(Fault::on(Operation::CompleteMultipartUpload).then(Effect::StallBefore(None)));
        faults.add(
            Fault::on(Operation::UploadPartCopy).then(Effect::Delay(Duration::from_millis(10))),
        );
        let at_work = async {
            loop {
                let open = self.world.open_uploads(DESTINATION);
                if open.len() == 2 && open.iter().all(|open| !open.parts.is_empty()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            run = self.run() => panic!("it came to its end: {:?}", run.outcome),
            () = at_work => {}
        }
        // Requests of the killed session must have arrived before the next one starts. The paused
        // clock does not wait for bytes in transit, but it stands still during `spawn_blocking`.
        for _ in 0..3 {
            let blocking =
                tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(50)));
            blocking.await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        faults.clear();
    }

    /// Returns the number of parts of the two large objects that the server lacks.
    fn missing_parts(&self) -> u64 {
        let open = self.world.open_uploads(DESTINATION);
        2 * self.scene.parts() - open.iter().map(|open| open.parts.len() as u64).sum::<u64>()
    }

    fn journal(&self) -> std::path::PathBuf {
        self.directory.path().join("journal")
    }

    async fn run(&self) -> Run {
        let run = async {
            match self.scene {
                Scene::Resume => {
                    self.world
                        .session(&self.journal(), &self.job, Intent::Resume)
                        .await
                }
                _ => self.world.try_run_job(&self.job).await.unwrap(),
            }
        };
        tokio::time::timeout(Duration::from_hours(1), run)
            .await
            .expect("it hangs")
    }

    /// Asserts that the object at a key is the expected one.
    fn assert_equal(&self, key: &str) {
        if !self.scene.sends_files() {
            return self.world.assert_equal(key, key);
        }
        let sent = self.world.object(DESTINATION, key).unwrap();
        let file = fs::read(self.directory.path().join("files").join(key)).unwrap();
        assert!(sent.content == Content::bytes(file), "{key}");
    }

    /// Asserts that each copy is equal to its source and that each one recorded as done exists.
    /// Returns the failures by key.
    fn assert_sound(&self, run: &Run) -> BTreeMap<String, &'static str> {
        let store = self.world.sandbox.store();
        let mut failed = BTreeMap::new();
        for receipt in &run.receipts {
            let key = receipt.destination.trim_start_matches("s3://destination/");
            match &receipt.ending {
                Ending::Done { .. } if receipt.losses.is_empty() => self.assert_equal(key),
                Ending::Done { .. } => assert!(store.object(DESTINATION, key).is_some(), "{key}"),
                Ending::Failed { error } => {
                    failed.insert(key.to_owned(), error.kind);
                }
                Ending::Stopped => {}
                other => panic!("{key}: {other:?}"),
            }
        }
        for key in store.keys(DESTINATION) {
            let there = store.object(DESTINATION, &key).unwrap().content;
            match store.object(SOURCE, &key) {
                Some(source) => assert!(there == source.content, "{key} is torn"),
                None => self.assert_equal(&key),
            }
        }
        failed
    }
}

/// Runs one cell: a run with this fault at the nth call.
async fn cell(
    scene: Scene,
    operation: Operation,
    nth: u64,
    effect: Effect,
    comes: Comes,
    usual: u64,
) {
    let stage = Stage::new(scene).await;
    // The number of missing parts depends on the moment of the kill.
    let nth = if operation == Operation::UploadPartCopy {
        nth.min(stage.missing_parts())
    } else {
        nth
    };
    let before = stage.world.sandbox.faults().fired();
    stage
        .world
        .add_fault(Fault::on(operation).nth(nth).then(effect));
    let run = stage.run().await;
    assert!(
        stage.world.sandbox.faults().fired() > before,
        "the run never sent call {nth}"
    );
    let mut failed = stage.assert_sound(&run);
    for key in stage.denied {
        assert_eq!(failed.remove(*key), Some("denied"), "{key}");
    }
    let calls = stage.world.sandbox.calls().total();
    assert!(calls <= usual + COSTS, "{calls} calls instead of {usual}");
    let notes = || {
        run.receipts
            .iter()
            .flat_map(|receipt| &receipt.notes)
            .any(|note| note.contains("may be left open"))
    };
    // On a busy machine, the paused clock may run ahead, and a part may be sent twice. Then one
    // good answer is enough.
    let is_hedged = operation == Operation::UploadPartCopy && run.outcome.requests.hedged > 0;
    // If the HEAD of a published and proven object is denied, the receipt notes that.
    let is_unseen = operation == Operation::HeadObject
        && run.receipts.iter().any(|receipt| {
            receipt
                .notes
                .iter()
                .any(|note| note.starts_with("not checked after"))
        });
    let is_done = failed.is_empty() && run.outcome.gave_up.is_none();
    let comes = if (is_hedged || is_unseen) && is_done {
        Comes::Passes
    } else {
        comes
    };
    match comes {
        Comes::Passes => {
            assert!(
                failed.is_empty() && run.outcome.gave_up.is_none(),
                "{failed:?}"
            );
            assert_eq!(run.outcome.stopped_objects, 0);
            assert!(run.receipts.iter().all(|receipt| receipt.losses.is_empty()));
            stage.world.assert_no_upload_is_left();
        }
        Comes::Fails(kind) => {
            assert!(
                !failed.is_empty() && failed.values().all(|failed| *failed == kind),
                "{failed:?}"
            );
            if operation != Operation::ListObjectsV2 {
                assert_eq!(failed.len(), 1, "{failed:?}");
            }
            assert_eq!(
                (run.outcome.gave_up, run.outcome.stopped_objects),
                (None, 0)
            );
            // The upload of a denied object stays for the next run.
            if scene != Scene::Resume || kind != "denied" {
                stage.world.assert_no_upload_is_left();
            }
        }
        Comes::IsLost => {
            assert!(failed.is_empty(), "{failed:?}");
            // After good answers, one refusal is not believed until there is a second one.
            let may_be_kept = operation == Operation::GetObjectTagging && nth > 1;
            assert!(
                may_be_kept || run.outcome.objects_with_losses >= 1,
                "{:?}",
                run.receipts
            );
            stage.world.assert_no_upload_is_left();
        }
        Comes::IsNoted => {
            assert!(failed.is_empty(), "{failed:?}");
            assert!(notes(), "{:?}", run.receipts);
            assert!(stage.world.open_uploads(DESTINATION).len() <= 1);
        }
    }
}

#[rstest]
#[case::lists(Scene::Copy, Operation::ListObjectsV2)]
#[case::heads(Scene::Copy, Operation::HeadObject)]
#[case::tags(Scene::Copy, Operation::GetObjectTagging)]
#[case::copies(Scene::Copy, Operation::CopyObject)]
#[case::begins(Scene::Copy, Operation::CreateMultipartUpload)]
#[case::copies_parts(Scene::Copy, Operation::UploadPartCopy)]
#[case::completes(Scene::Copy, Operation::CompleteMultipartUpload)]
#[case::tags_late(Scene::LateTags, Operation::PutObjectTagging)]
#[case::puts(Scene::Put, Operation::PutObject)]
#[case::sends_parts(Scene::Send, Operation::UploadPart)]
#[case::begins_to_send(Scene::Send, Operation::CreateMultipartUpload)]
#[case::completes_what_was_sent(Scene::Send, Operation::CompleteMultipartUpload)]
#[case::aborts(Scene::Abort, Operation::AbortMultipartUpload)]
#[case::looks_after_an_abort(Scene::Abort, Operation::ListParts)]
#[case::goes_on(Scene::Resume, Operation::ListParts)]
#[case::copies_the_rest(Scene::Resume, Operation::UploadPartCopy)]
#[case::completes_the_rest(Scene::Resume, Operation::CompleteMultipartUpload)]
#[tokio::test(start_paused = true)]
async fn each_fault_has_its_expected_result(#[case] scene: Scene, #[case] operation: Operation) {
    let stage = Stage::new(scene).await;
    let run = stage.run().await;
    assert_eq!(stage.assert_sound(&run).len(), stage.denied.len());
    let (calls, usual) = (
        stage.world.calls(operation),
        stage.world.sandbox.calls().total(),
    );
    assert!(calls > 0);
    let mut moments = vec![1, calls.div_ceil(2), calls];
    moments.dedup();
    let mut cells = Vec::new();
    for (name, effect, comes) in faults() {
        let Some(comes) = comes_to(scene, operation, &effect, comes) else {
            continue;
        };
        cells.extend(
            moments
                .iter()
                .map(|nth| (name, *nth, effect.clone(), comes)),
        );
    }
    let failures = Arc::new(std::sync::Mutex::new(Vec::new()));
    futures::stream::iter(cells)
        .for_each_concurrent(AT_ONCE, |(name, nth, effect, comes)| {
            let failures = Arc::clone(&failures);
            async move {
                let cell = tokio::spawn(cell(scene, operation, nth, effect, comes, usual));
                if cell.await.is_err() {
                    failures
                        .lock()
                        .unwrap()
                        .push(format!("{name}, call {nth} of {calls}"));
                }
            }
        })
        .await;
    let failures = failures.lock().unwrap();
    assert!(failures.is_empty(), "{operation:?}: {failures:#?}");
}
