//! What the program is asked to do before a hostile server, and what must hold then.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use s3haul::execute::receipt::{Ending, Receipt};
use s3haul::journal::Intent;
use s3haul::manifest::job::{
    DEFAULT_ENDPOINT, OnMismatch, PartSize, Policy, Preserve, Preset, ProofPolicy, Prove, Provider, Source,
    Transfer, Verify, Versions,
};
use s3haul::pace::RetryPolicy;
use s3haul::sandbox::{BucketOptions, Content, Effect, Fault, Lock, ObjectSpec, Operation, SandboxOptions};
use s3haul::size::{ByteSize, MIB};
use tokio_util::sync::CancellationToken;

use super::server::Hostile;
use super::ways::Way;
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, restate, upload_all};

/// A run that takes longer does not end.
const LIMIT: Duration = Duration::from_secs(40);

const SMALL: u64 = 1000;
const LARGE: u64 = 11 * MIB;
const KEYS: [&str; 3] = ["a-small", "b-large", "c-last"];

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scenario {
    /// A copy of two small objects and a large one.
    Copy,
    /// The same, and read back.
    Read,
    /// Files go up.
    Upload,
    /// A copy with lock, ACL and annotations.
    Everything,
    /// All versions.
    History,
    /// A part is refused, so that the upload is aborted.
    Abort,
    /// A run goes on with a large object of which some parts are there.
    Resume,
}

/// What the source's objects have besides their bytes.
pub(super) fn spec() -> ObjectSpec {
    ObjectSpec::default()
        .metadata("owner", "me")
        .tag("stage", "raw")
        .content_type("text/csv")
        .storage_class("STANDARD_IA")
}

/// What a run wrote to the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Scenario {
    pub(super) const ALL: [Self; 7] =
        [Self::Copy, Self::Read, Self::Upload, Self::Everything, Self::History, Self::Abort, Self::Resume];

    /// Runs it, with one operation answered wrongly. Returns what does not hold, and what was asked for.
    pub(super) fn run(
        self,
        provider: Provider,
        strike: Option<(Operation, Way)>,
    ) -> (Result<(), String>, Vec<Operation>) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        // One thread, so that the log is that of this run.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(self.play(provider, strike, &log));
        runtime.shutdown_background();
        ended
    }

    async fn play(
        self,
        provider: Provider,
        strike: Option<(Operation, Way)>,
        log: &Log,
    ) -> (Result<(), String>, Vec<Operation>) {
        let mut world = self.world().await;
        world.provider = provider;
        let hostile = Hostile::start(world.sandbox.url(), world.sandbox.store().clone()).await;
        let files = tempfile::tempdir().unwrap();
        let mut job = world.job(self.transfer(files.path()));
        restate(&mut job, |endpoint| endpoint.url = Some(hostile.url.clone()));
        let journal = tempfile::tempdir().unwrap();
        if self == Self::Resume {
            // The first session is stopped at its second part.
            let stop = world.stop.clone();
            let hook = Effect::hook(move |_| stop.cancel());
            world.sandbox.faults().add(Fault::on(Operation::UploadPartCopy).nth(2).then(hook));
            world.session(journal.path(), &job, Intent::default()).await;
            world.stop = CancellationToken::new();
        }
        hostile.arm(strike);
        let run = async {
            if self == Self::Resume {
                world.try_session(journal.path(), &job, Intent::default()).await
            } else {
                world.try_run_job(&job).await
            }
        };
        let ended = tokio::time::timeout(LIMIT, Box::pin(run)).await;
        let asked = hostile.seen.lock().unwrap().operations.clone();
        let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
        let verdict = match ended {
            Err(_) => Err("it does not end".to_owned()),
            Ok(Err(failure)) => self.told(&world, &format!("{log}{failure}")),
            Ok(Ok(run)) => self.judge(&world, &run, &log, strike.is_none()),
        };
        (verdict, asked)
    }

    async fn world(self) -> World {
        let versioning = self == Self::History;
        let object_lock = self == Self::Everything;
        let buckets =
            BucketOptions { versioning, object_lock, acls: object_lock, ..BucketOptions::default() };
        let mut world = World::with(SandboxOptions::default(), buckets).await;
        world.retry = RetryPolicy {
            attempts: 2,
            persistence: Duration::from_millis(200),
            patience: Duration::from_secs(2),
            probes: (Duration::from_millis(5), Duration::from_millis(50)),
            silence: Duration::from_secs(2),
            complete: Duration::from_secs(2),
            // No stream counts as alive for its bytes' sake.
            slowest: 1 << 40,
            ..RetryPolicy::default()
        };
        let store = world.sandbox.store();
        store.quirks().unchecked_signatures.store(true, std::sync::atomic::Ordering::Relaxed);
        for (seed, key) in (1..).zip(KEYS) {
            let mut spec = spec();
            if object_lock {
                let until = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
                let retention = Some(("GOVERNANCE".to_owned(), until));
                spec = spec.lock(Lock { retention, legal_hold: Some(true) }).annotation("note", "text");
            }
            let size = if key == "b-large" { LARGE } else { SMALL };
            for version in 0..if versioning { 2 } else { 1 } {
                store.put_object(SOURCE, key, Content::pattern(seed + 10 * version, size), &spec);
            }
        }
        if self == Self::Abort {
            let refusal = Effect::Error(403, "AccessDenied");
            world.sandbox.faults().add(Fault::on(Operation::UploadPartCopy).then(refusal));
        }
        world
    }

    fn transfer(self, files: &std::path::Path) -> Transfer {
        let mut transfer = if self == Self::Upload {
            for key in KEYS {
                let size = if key == "b-large" { 6 * MIB } else { SMALL };
                std::fs::write(files.join(key), Content::pattern_bytes(1, size).to_bytes()).unwrap();
            }
            upload_all(files)
        } else {
            copy_all()
        };
        transfer.parts.size = PartSize::Exactly(ByteSize(5 * MIB));
        transfer.parts.threshold = ByteSize(5 * MIB);
        match self {
            Self::Read => {
                transfer.proof = ProofPolicy {
                    verify: Verify::default(),
                    prove: Prove::Read,
                    on_mismatch: OnMismatch::Keep,
                };
            }
            Self::Everything => {
                let all = Preserve::from(Preset::Everything);
                transfer.preserve =
                    Preserve { acl: Policy::Try, annotations: Policy::Try, lock: Policy::Try, ..all };
            }
            Self::History => transfer.versions = Versions::All,
            _ => {}
        }
        if let Source::Prefix { endpoint, .. } = &mut transfer.from {
            DEFAULT_ENDPOINT.clone_into(endpoint);
        }
        transfer
    }

    /// Asserts that what is left open is named, whatever became of the run.
    fn told(self, world: &World, text: &str) -> Result<(), String> {
        for upload in world.sandbox.store().open_uploads(DESTINATION) {
            // A journal knows its uploads, and the next session goes on with them.
            if self != Self::Resume && !text.contains(&upload.upload_id) {
                return Err(format!("an upload of {} is left open and not told", upload.key));
            }
        }
        Ok(())
    }

    fn judge(self, world: &World, run: &Run, log: &str, is_well: bool) -> Result<(), String> {
        let notes = run.receipts.iter().flat_map(|receipt| &receipt.notes);
        let told = notes.fold(log.to_owned(), |told, note| format!("{told}\n{note:?}"));
        self.told(world, &told)?;
        let must_be_there = run.outcome.failed_objects == 0 && run.outcome.is_complete();
        if is_well && self != Self::Abort && !must_be_there {
            return Err(format!("{:?}", run.receipts));
        }
        for key in KEYS {
            let mut receipts =
                run.receipts.iter().filter(|receipt| receipt.destination.ends_with(key)).peekable();
            if receipts.peek().is_none() && must_be_there {
                self.equal(world, key, None).map_err(|why| format!("success without {key}: {why}"))?;
            }
            for receipt in receipts {
                match &receipt.ending {
                    Ending::Done { .. } | Ending::Skipped { .. } => {
                        self.equal(world, key, Some(receipt))?;
                    }
                    Ending::Failed { error } => {
                        let text = format!("{} {} {}", error.operation, error.code, error.message);
                        if error.operation.is_empty() || text.contains("panicked") || error.kind == "bug" {
                            return Err(format!("no message for its user: {text}"));
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The destination's object is that of the source, but for the losses that are told.
    fn equal(self, world: &World, key: &str, receipt: Option<&Receipt>) -> Result<(), String> {
        let store = world.sandbox.store();
        let copy = store.object(DESTINATION, key).ok_or_else(|| {
            format!("{key} is not there, called {:?}", receipt.map(|receipt| &receipt.ending))
        })?;
        if self == Self::Upload {
            let size = if key == "b-large" { 6 * MIB } else { SMALL };
            let same = copy.content.to_bytes() == Content::pattern_bytes(1, size).to_bytes();
            return if same { Ok(()) } else { Err(format!("{key} has other bytes than its file")) };
        }
        let source = store.object(SOURCE, key).unwrap();
        if copy.content != source.content {
            return Err(format!("{key} has other bytes than its source"));
        }
        let lost: Vec<String> = receipt
            .map(|receipt| receipt.losses.iter().map(|loss| loss.attribute.to_string()).collect())
            .unwrap_or_default();
        let lost = |name: &str| lost.iter().any(|lost| lost == name);
        let (a, b) = (&copy.attributes, &source.attributes);
        let mut differ = Vec::new();
        for (name, same) in [
            ("metadata", a.metadata == b.metadata),
            ("headers", a.content_type == b.content_type),
            ("tags", a.tags == b.tags),
            ("storage_class", a.class() == b.class()),
            ("lock", self != Self::Everything || a.lock == b.lock),
            // Only the profile of AWS has any.
            (
                "annotations",
                self != Self::Everything || world.provider != Provider::Aws || a.annotations == b.annotations,
            ),
        ] {
            if !same && !lost(name) && !lost(&name.replace('_', "-")) {
                differ.push(name);
            }
        }
        if differ.is_empty() { Ok(()) } else { Err(format!("{key} lost {differ:?} without a word")) }
    }
}
