//! The scenarios that run against a hostile server, and what must hold afterwards.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use s3haul::cli::{Exit, exit_of};
use s3haul::execute::receipt::{Ending, Receipt};
use s3haul::journal::Intent;
use s3haul::manifest::job::{
    DEFAULT_ENDPOINT, OnMismatch, PartSize, Policy, Preserve, Preset, ProofPolicy, Prove, Provider,
    Source, Transfer, Verify, Versions,
};
use s3haul::pace::RetryPolicy;
use s3haul::s3::Failure;
use s3haul::sandbox::{
    BucketOptions, Content, Effect, Fault, Lock, ObjectInfo, ObjectSpec, Operation, VersionInfo,
};
use s3haul::size::{ByteSize, MIB};
use s3haul::verify::Deep;
use tokio_util::sync::CancellationToken;

use super::Profile;
use super::commands::{compare, leave_open, make_unlike, uploads};
use super::server::Hostile;
use super::ways::Way;
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, restate, upload_all};

/// A run that takes longer has hung.
const LIMIT: Duration = Duration::from_secs(40);

const SMALL: u64 = 1000;
const LARGE: u64 = 11 * MIB;
pub(super) const KEYS: [&str; 3] = ["a-small", "b-large", "c-last"];

/// A run, or another command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scenario {
    /// Copies two small objects and a large one.
    Copy,
    /// Copies the same, and reads the copies back.
    Read,
    /// Uploads files.
    Upload,
    /// Copies with lock, ACL, and annotations.
    Everything,
    /// Copies all versions.
    History,
    /// Copies while a part is refused, so that the upload is aborted.
    Abort,
    /// Resumes a large object that has some of its parts.
    Resume,
    /// Copies over older objects with the same sizes.
    Replace,
    /// Compares both sides.
    Verify,
    /// Compares both sides, and reads all bytes.
    VerifyDeep,
    /// Lists, completes, and aborts open uploads.
    Uploads,
}

/// Describes a source object. Its metadata has the key.
pub(super) fn spec(key: &str) -> ObjectSpec {
    ObjectSpec::default()
        .metadata("owner", key)
        .tag("stage", "raw")
        .content_type("text/csv")
        .storage_class("STANDARD_IA")
}

/// Returns the content of the file of this key.
fn uploaded(key: &str) -> Content {
    let seed = key.bytes().next().map_or(0, u64::from);
    Content::pattern_bytes(seed, if key == "b-large" { 6 * MIB } else { SMALL })
}

/// Returns the versions of a key, oldest first.
fn versions_of(world: &World, bucket: &str, key: &str) -> Vec<VersionInfo> {
    let mut versions = world.sandbox.store().versions(bucket, key);
    versions.reverse();
    versions
}

/// The log of a run.
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
    pub(super) const ALL: [Self; 11] = [
        Self::Copy,
        Self::Read,
        Self::Upload,
        Self::Everything,
        Self::History,
        Self::Abort,
        Self::Resume,
        Self::Replace,
        Self::Verify,
        Self::VerifyDeep,
        Self::Uploads,
    ];

    /// Returns the scenario's command. The requests of different commands are separate cases.
    pub(super) fn command(self) -> &'static str {
        match self {
            Self::Replace => "copy over older objects",
            Self::Verify => "verify",
            Self::VerifyDeep => "verify --deep=all",
            Self::Uploads => "uploads",
            _ => "copy",
        }
    }

    /// Returns true for operations that are answered wrongly in this scenario.
    pub(super) fn is_about(self, operation: Operation, profile: Profile) -> bool {
        use Operation::{CompleteMultipartUpload, CopyObject, GetObject, HeadObject};
        match self {
            Self::Replace => matches!(operation, CopyObject | CompleteMultipartUpload | HeadObject),
            Self::VerifyDeep => operation == GetObject,
            // `uploads` uses the same library code under all profiles.
            Self::Uploads => profile == Profile::Aws && operation != HeadObject,
            _ => true,
        }
    }

    /// Runs the scenario with one operation answered wrongly. Returns the violated assertion, if
    /// any, and the operations that were sent.
    pub(super) fn run(
        self,
        profile: Profile,
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
        // One thread, so that the log belongs to this run alone.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let ended = runtime.block_on(self.play(profile, strike, &log));
        runtime.shutdown_background();
        ended
    }

    async fn play(
        self,
        profile: Profile,
        strike: Option<(Operation, Way)>,
        log: &Log,
    ) -> (Result<(), String>, Vec<Operation>) {
        let mut world = self.world().await;
        world.provider = profile.provider();
        let hostile = Hostile::start(world.sandbox.url(), world.sandbox.store().clone()).await;
        let files = tempfile::tempdir().unwrap();
        let mut job = world.job(self.transfer(files.path()));
        restate(&mut job, |endpoint| {
            endpoint.url = Some(hostile.url.clone());
            profile.state(endpoint);
        });
        let journal = tempfile::tempdir().unwrap();
        if self == Self::Resume {
            // The first session is stopped at its second part.
            let stop = world.stop.clone();
            let hook = Effect::hook(move |_| stop.cancel());
            world.add_fault(Fault::on(Operation::UploadPartCopy).nth(2).then(hook));
            world.session(journal.path(), &job, Intent::default()).await;
            world.stop = CancellationToken::new();
        }
        let open = match self {
            Self::Uploads => leave_open(&world).await,
            _ => Vec::new(),
        };
        hostile.arm(strike);
        let is_well = strike.is_none();
        let play = async {
            match self {
                Self::Verify => compare(&world, &job, Deep::No, is_well).await,
                Self::VerifyDeep => compare(&world, &job, Deep::All, is_well).await,
                Self::Uploads => uploads(&world, &job, &open, is_well).await,
                Self::Resume => {
                    let run = world
                        .try_session(journal.path(), &job, Intent::default())
                        .await;
                    self.ended(&world, run, log, is_well)
                }
                _ => self.ended(&world, world.try_run_job(&job).await, log, is_well),
            }
        };
        let ended = tokio::time::timeout(LIMIT, Box::pin(play)).await;
        let asked = hostile.seen.lock().unwrap().operations.clone();
        (
            ended.unwrap_or_else(|_| Err("it does not end".to_owned())),
            asked,
        )
    }

    fn ended(
        self,
        world: &World,
        run: Result<Run, Failure>,
        log: &Log,
        is_well: bool,
    ) -> Result<(), String> {
        let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
        match run {
            Err(failure) => self.told(world, &format!("{log}{failure}")),
            Ok(run) => self.judge(world, &run, &log, is_well),
        }
    }

    async fn world(self) -> World {
        let versioning = self == Self::History;
        let object_lock = self == Self::Everything;
        let buckets = BucketOptions {
            versioning,
            object_lock,
            acls: object_lock,
            ..BucketOptions::default()
        };
        let mut world = World::with_buckets(buckets).await;
        world.retry = RetryPolicy {
            attempts: 2,
            persistence: Duration::from_millis(200),
            patience: Duration::from_secs(2),
            probes: (Duration::from_millis(5), Duration::from_millis(50)),
            silence: Duration::from_secs(2),
            complete: Duration::from_secs(2),
            // s3haul believes a 403 at once, and with this `slowest`, bytes do not extend a time
            // limit.
            doubt: Duration::ZERO,
            brief_doubt: Duration::ZERO,
            slowest: 1 << 40,
            ..RetryPolicy::default()
        };
        let store = world.sandbox.store();
        world.accept_any_signature();
        for (seed, key) in (1..).zip(KEYS) {
            let mut spec = spec(key);
            if object_lock {
                let until = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
                let retention = Some(("GOVERNANCE".to_owned(), until));
                spec = spec
                    .lock(Lock {
                        retention,
                        legal_hold: Some(true),
                    })
                    .annotation("note", "text");
            }
            let size = if key == "b-large" { LARGE } else { SMALL };
            for version in 0..if versioning { 2 } else { 1 } {
                store.put_object(
                    SOURCE,
                    key,
                    Content::pattern(seed + 10 * version, size),
                    &spec,
                );
            }
        }
        if versioning {
            store.delete_object(SOURCE, KEYS[2]);
        }
        if self == Self::Replace {
            for key in KEYS {
                let old = Content::pattern(66, store.object(SOURCE, key).unwrap().size);
                let spec = spec(key).last_modified(UNIX_EPOCH + Duration::from_hours(24));
                store.put_object(DESTINATION, key, old, &spec);
            }
        }
        if matches!(self, Self::Verify | Self::VerifyDeep) {
            make_unlike(&world);
        }
        if self == Self::Abort {
            let refusal = Effect::Error(403, "AccessDenied");
            world.add_fault(Fault::on(Operation::UploadPartCopy).then(refusal));
        }
        world
    }

    fn transfer(self, files: &std::path::Path) -> Transfer {
        let mut transfer = if self == Self::Upload {
            for key in KEYS {
                std::fs::write(files.join(key), uploaded(key).to_bytes()).unwrap();
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
                transfer.preserve = Preserve {
                    acl: Policy::Try,
                    annotations: Policy::Try,
                    lock: Policy::Try,
                    ..all
                };
            }
            Self::History => transfer.versions = Versions::All,
            _ => {}
        }
        if let Source::Prefix { endpoint, .. } = &mut transfer.from {
            DEFAULT_ENDPOINT.clone_into(endpoint);
        }
        transfer
    }

    /// Asserts that every upload left open is named, whatever the result of the run.
    fn told(self, world: &World, text: &str) -> Result<(), String> {
        for upload in world.open_uploads(DESTINATION) {
            // The uploads in a journal need not be named, because the next session resumes them.
            if self != Self::Resume && !text.contains(&upload.upload_id) {
                return Err(format!(
                    "an upload of {} is left open and not told",
                    upload.key
                ));
            }
        }
        Ok(())
    }

    fn judge(self, world: &World, run: &Run, log: &str, is_well: bool) -> Result<(), String> {
        let notes = run.receipts.iter().flat_map(|receipt| &receipt.notes);
        let told = notes.fold(log.to_owned(), |told, note| format!("{told}\n{note:?}"));
        self.told(world, &told)?;
        let exit = exit_of(&run.outcome);
        let is_done = exit == Exit::Done;
        if is_well && self != Self::Abort && !is_done {
            return Err(format!("{exit:?} {:?}", run.receipts));
        }
        for receipt in &run.receipts {
            match &receipt.ending {
                Ending::Done { .. } | Ending::Skipped { .. } => self.equal(world, receipt)?,
                ending if is_done => return Err(format!("it exits with 0: {ending:?}")),
                Ending::Failed { error } => {
                    let text = format!("{} {} {}", error.operation, error.code, error.message);
                    if error.operation.is_empty()
                        || text.contains("panicked")
                        || error.kind == "bug"
                    {
                        return Err(format!("no message for its user: {text}"));
                    }
                }
                _ => {}
            }
        }
        if is_done {
            for key in KEYS {
                self.is_whole(world, run, key)
                    .map_err(|why| format!("it exits with 0, and {why}"))?;
            }
        }
        Ok(())
    }

    /// Asserts that a key has all versions with all their bytes, and a receipt for each.
    fn is_whole(self, world: &World, run: &Run, key: &str) -> Result<(), String> {
        let content = |version: VersionInfo| match version {
            VersionInfo::Object(object) => Some(object.content.to_bytes()),
            VersionInfo::DeleteMarker(_) => None,
        };
        let contents = |bucket: &str| -> Vec<_> {
            versions_of(world, bucket, key)
                .into_iter()
                .map(content)
                .collect()
        };
        let source = match self {
            Self::Upload => vec![Some(uploaded(key).to_bytes())],
            _ => contents(SOURCE),
        };
        if contents(DESTINATION) != source {
            return Err(format!("{key} is not whole"));
        }
        let receipts = run
            .receipts
            .iter()
            .filter(|receipt| receipt.destination.ends_with(key))
            .count();
        // The earlier session has written some of the receipts.
        let is_told = receipts >= source.len() || self == Self::Resume;
        if is_told {
            Ok(())
        } else {
            Err(format!("there are {receipts} receipts of {key}"))
        }
    }

    /// Asserts that an object whose receipt says "done" exists and equals its source, except for
    /// the reported losses.
    fn equal(self, world: &World, receipt: &Receipt) -> Result<(), String> {
        let key = KEYS
            .into_iter()
            .find(|key| receipt.destination.ends_with(key))
            .ok_or("a foreign key")?;
        let id = |version: &VersionInfo| match version {
            VersionInfo::Object(object) => object.version_id.clone(),
            VersionInfo::DeleteMarker(id) => id.clone(),
        };
        let newest = |bucket: &str| versions_of(world, bucket, key).pop();
        let (copy, source) = if self == Self::History {
            let named = |bucket: &str, version: &Option<String>| {
                let versions = versions_of(world, bucket, key);
                versions
                    .into_iter()
                    .find(|found| version.is_some() && id(found) == *version)
            };
            let made = match &receipt.ending {
                Ending::Done {
                    destination_version,
                    ..
                } => named(DESTINATION, destination_version),
                _ => newest(DESTINATION),
            };
            (made, named(SOURCE, &receipt.source_version))
        } else {
            (newest(DESTINATION), newest(SOURCE))
        };
        let copy =
            copy.ok_or_else(|| format!("{key} is not there, called {:?}", receipt.ending))?;
        let (copy, source) = match (copy, source) {
            (VersionInfo::Object(copy), _) if self == Self::Upload => {
                let same = copy.content.to_bytes() == uploaded(key).to_bytes();
                return if same {
                    Ok(())
                } else {
                    Err(format!("{key} has other bytes than its file"))
                };
            }
            (VersionInfo::Object(copy), Some(VersionInfo::Object(source))) => (copy, source),
            (VersionInfo::DeleteMarker(_), Some(VersionInfo::DeleteMarker(_))) => return Ok(()),
            other => return Err(format!("{key} is {other:?}")),
        };
        if copy.content != source.content {
            return Err(format!(
                "{key} has other bytes than its source, called {:?}",
                receipt.ending
            ));
        }
        let differ = self.lost(world, &copy, &source, receipt);
        if differ.is_empty() {
            Ok(())
        } else {
            Err(format!("{key} lost {differ:?} without a word"))
        }
    }

    /// Returns the differences between a copy and its source that are not on the receipt.
    fn lost(
        self,
        world: &World,
        copy: &ObjectInfo,
        source: &ObjectInfo,
        receipt: &Receipt,
    ) -> Vec<&'static str> {
        let told: Vec<String> = receipt
            .losses
            .iter()
            .map(|loss| loss.attribute.to_string())
            .collect();
        let told = |name: &str| {
            told.iter()
                .any(|told| told == name || *told == name.replace('_', "-"))
        };
        let (a, b) = (&copy.attributes, &source.attributes);
        let is_everything = self == Self::Everything;
        // Only the profile of AWS supports annotations.
        let has_annotations = is_everything && world.provider == Provider::Aws;
        let all = [
            ("metadata", a.metadata == b.metadata),
            ("headers", a.content_type == b.content_type),
            ("tags", a.tags == b.tags),
            ("storage_class", a.class() == b.class()),
            ("lock", !is_everything || a.lock == b.lock),
            (
                "annotations",
                !has_annotations || a.annotations == b.annotations,
            ),
        ];
        all.into_iter()
            .filter(|(name, same)| !same && !told(name))
            .map(|(name, _)| name)
            .collect()
    }
}
