//! The fixtures of all tests: a sandbox with two buckets, its objects, and runs against it.
//!
//! A [`World`] runs jobs in this process. [`program`] runs the program against it.

mod objects;
pub(crate) mod program;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use s3haul::bucket::Bucket;
use s3haul::connections::Connections;
use s3haul::endpoint::Environment;
use s3haul::execute::monitor::{Event, Monitor};
use s3haul::execute::receipt::{Ending, Receipt};
use s3haul::execute::{self, Execution, Outcome};
use s3haul::journal::event::{JournalEvent, RunInfo};
use s3haul::journal::fingerprint::Fingerprint;
use s3haul::journal::state::RunState;
use s3haul::journal::{
    self, Intent, Journal, JournalError, LeaseTerms, Location, Opened, RunDecision,
};
use s3haul::location::{LocalPath, S3Uri};
use s3haul::manifest::job::{
    DEFAULT_ENDPOINT, Destination, Endpoint, Job, Limits, PartSize, Provider, Source, Symlinks,
    Transfer,
};
use s3haul::pace::{Pacer, RetryPolicy};
use s3haul::s3::Failure;
use s3haul::s3::client::StaticCredentials;
use s3haul::sandbox::{BucketOptions, LatencyModel, Model, Operation, Sandbox, SandboxOptions};
use s3haul::size::ByteSize;
use tokio_util::sync::CancellationToken;

pub(crate) use objects::aged;
pub(crate) use s3haul::manifest::job::DEFAULT_ENDPOINT as DEFAULT;
pub(crate) const SOURCE: &str = "source";
pub(crate) const DESTINATION: &str = "destination";

/// A sandbox with the buckets `source` and `destination`.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) provider: Provider,
    pub(crate) retry: RetryPolicy,
    pub(crate) ceiling: u32,
    pub(crate) stop: CancellationToken,
}

/// The outcome of a run and the receipts of its objects, in the order in which they ended.
pub(crate) struct Run {
    pub(crate) outcome: Outcome,
    pub(crate) receipts: Vec<Receipt>,
}

#[derive(Default)]
struct Receipts(Mutex<Vec<Receipt>>);

impl Monitor for Receipts {
    fn observe(&self, event: &Event<'_>) {
        if let Event::ObjectEnded(receipt) = event {
            self.0.lock().unwrap().push((*receipt).clone());
        }
    }
}

impl World {
    /// Starts a sandbox without latency, with default buckets.
    pub(crate) async fn new() -> Self {
        Self::with_buckets(BucketOptions::default()).await
    }

    /// Starts a sandbox that jobs address as this provider.
    pub(crate) async fn of_provider(provider: Provider) -> Self {
        let mut world = Self::new().await;
        world.provider = provider;
        world
    }

    /// Starts a sandbox with an object of `size` bytes under each of the keys in the source bucket.
    pub(crate) async fn with_objects(keys: impl IntoIterator<Item: AsRef<str>>, size: u64) -> Self {
        let world = Self::new().await;
        world.put_all(keys, size);
        world
    }

    /// Starts a sandbox with `count` objects of `size` bytes, see [`Self::put_numbered`].
    pub(crate) async fn with_numbered(count: usize, size: u64) -> Self {
        let world = Self::new().await;
        world.put_numbered(count, size);
        world
    }

    /// Starts a sandbox whose buckets have these options.
    pub(crate) async fn with_buckets(buckets: BucketOptions) -> Self {
        Self::with(SandboxOptions::default(), buckets).await
    }

    /// Starts a sandbox whose buckets are versioned.
    pub(crate) async fn versioned() -> Self {
        Self::with_buckets(BucketOptions {
            versioning: true,
            ..BucketOptions::default()
        })
        .await
    }

    /// Starts a sandbox with this performance.
    pub(crate) async fn modelled(model: Model) -> Self {
        let options = SandboxOptions {
            model,
            ..SandboxOptions::default()
        };
        Self::with(options, BucketOptions::default()).await
    }

    /// Starts a sandbox with these latencies.
    pub(crate) async fn with_latency(latency: LatencyModel) -> Self {
        Self::modelled(Model {
            latency,
            ..Model::default()
        })
        .await
    }

    /// Starts a sandbox in which each copy, of an object or of a part, takes this long.
    pub(crate) async fn with_copy_latency(copy: Duration) -> Self {
        Self::with_latency(LatencyModel {
            copy,
            ..LatencyModel::default()
        })
        .await
    }

    /// Starts a sandbox with all options stated.
    pub(crate) async fn with(options: SandboxOptions, buckets: BucketOptions) -> Self {
        let sandbox = Sandbox::start(options).await.unwrap();
        for bucket in [SOURCE, DESTINATION] {
            sandbox.store().create_bucket(bucket, buckets.clone());
        }
        // Retries take milliseconds, and hopeless cases end soon.
        let retry = RetryPolicy {
            persistence: Duration::from_secs(1),
            patience: Duration::from_secs(20),
            probes: (Duration::from_millis(5), Duration::from_millis(50)),
            silence: Duration::from_secs(3),
            complete: Duration::from_secs(3),
            brief_doubt: Duration::from_millis(300),
            ..RetryPolicy::default()
        };
        Self {
            sandbox,
            provider: Provider::Aws,
            retry,
            ceiling: 256,
            stop: CancellationToken::new(),
        }
    }

    /// Returns the sandbox as the endpoint of a job.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            name: DEFAULT_ENDPOINT.to_owned(),
            url: Some(self.sandbox.url().to_owned()),
            region: Some("us-east-1".to_owned()),
            path_style: Some(true),
            provider: self.provider,
            ..Endpoint::default()
        }
    }

    /// Returns the credentials that the sandbox accepts.
    pub(crate) fn credentials() -> StaticCredentials {
        let options = SandboxOptions::default();
        StaticCredentials {
            access_key: options.access_key,
            secret_key: options.secret_key,
        }
    }

    /// Returns a job whose only endpoint is the sandbox, whatever the environment of the tests.
    pub(crate) fn job(&self, transfer: Transfer) -> Job {
        Job::single(transfer, [self.endpoint().resolve(&Environment::default())])
    }

    /// Returns the connections of a run of this job.
    pub(crate) fn connections(
        &self,
        job: &Job,
        halt: &CancellationToken,
        limits: &Limits,
    ) -> Connections {
        let pacer = Arc::new(Pacer::new(limits, self.ceiling, self.retry));
        Connections::new(job, Some(Self::credentials()), pacer, halt.clone())
    }

    /// Returns a bucket, for direct use of the library.
    pub(crate) async fn bucket(&self, name: &str) -> Bucket {
        let job = self.job(copy_all());
        let mut connections = self.connections(&job, &CancellationToken::new(), &Limits::default());
        connections
            .bucket(DEFAULT_ENDPOINT, &name.parse().unwrap())
            .await
            .unwrap()
    }

    /// Runs a transfer without a journal.
    pub(crate) async fn run(&self, transfer: Transfer) -> Run {
        self.try_run_job(&self.job(transfer)).await.unwrap()
    }

    /// Runs a job without a journal.
    pub(crate) async fn try_run_job(&self, job: &Job) -> Result<Run, Failure> {
        self.execute(job, &journal::off(None), &Arc::default())
            .await
    }

    /// Executes a job with an open journal.
    async fn execute(
        &self,
        job: &Job,
        journal: &Journal,
        resumed: &Arc<RunState>,
    ) -> Result<Run, Failure> {
        let halt = CancellationToken::new();
        let mut connections = self.connections(job, &halt, &job.limits);
        let receipts = Arc::new(Receipts::default());
        let monitor: Arc<dyn Monitor> = Arc::clone(&receipts) as _;
        let execution = Execution {
            job,
            connections: &mut connections,
            monitor,
            journal,
            resumed,
            ranges: None,
            stop: &self.stop,
            halt: &halt,
        };
        let outcome = execute::run(execution).await?;
        let receipts = receipts.0.lock().unwrap().clone();
        Ok(Run { outcome, receipts })
    }

    /// Runs a session whose journal is in `directory`. It resumes the run there, or begins a new
    /// one.
    pub(crate) async fn session(&self, directory: &Path, job: &Job, intent: Intent) -> Run {
        self.try_session(directory, job, intent).await.unwrap()
    }

    /// Runs a session, see [`Self::session`].
    pub(crate) async fn try_session(
        &self,
        directory: &Path,
        job: &Job,
        intent: Intent,
    ) -> Result<Run, Failure> {
        let opened = open_journal(directory).await;
        let fingerprint = Fingerprint::of(job);
        let decision = journal::decide(opened.state(), &fingerprint, intent).unwrap();
        let resumed = Arc::new(opened.resumed(decision));
        let journal = match decision {
            RunDecision::Resume => opened.resume(None).await.unwrap(),
            RunDecision::Begin => {
                let transfers = job
                    .transfers
                    .iter()
                    .map(|transfer| transfer.name.clone())
                    .collect();
                let info = RunInfo {
                    run: "run".to_owned(),
                    job: job.name.clone(),
                    transfers,
                    fingerprint,
                    tool: "test".to_owned(),
                    counted_from: job.counted_from(),
                    command: None,
                };
                opened.begin(info, None).await.unwrap()
            }
        };
        let run = self.execute(job, &journal, &resumed).await?;
        let last = if run.outcome.stopped {
            JournalEvent::RunStopped
        } else {
            JournalEvent::RunEnded
        };
        journal.close(last).await.unwrap();
        Ok(run)
    }

    /// Returns the number of requests of this kind that the sandbox received.
    pub(crate) fn calls(&self, operation: Operation) -> u64 {
        self.sandbox.calls().count(operation)
    }

    /// Asserts that both objects have the same bytes, and that the copy kept the attributes.
    pub(crate) fn assert_equal(&self, from: &str, to: &str) {
        let source = self.object(SOURCE, from).unwrap();
        let copy = self
            .object(DESTINATION, to)
            .unwrap_or_else(|| panic!("{to} is not there"));
        assert_eq!(copy.content, source.content, "{to}");
        assert_eq!(copy.attributes.class(), source.attributes.class(), "{to}");
        assert_eq!(copy.attributes.metadata, source.attributes.metadata, "{to}");
        assert_eq!(copy.attributes.tags, source.attributes.tags, "{to}");
        // S3's default content type.
        let content_type = source
            .attributes
            .content_type
            .as_deref()
            .unwrap_or("binary/octet-stream");
        assert_eq!(
            copy.attributes.content_type.as_deref(),
            Some(content_type),
            "{to}"
        );
    }

    /// Asserts that the destination has no open upload.
    pub(crate) fn assert_no_upload_is_left(&self) {
        let left = self.open_uploads(DESTINATION);
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Opens the journal in a directory. Waits until a dropped session has released it.
///
/// The future is boxed, because the compiler limits the depth of futures that are `Send`.
async fn open_journal(directory: &Path) -> Opened {
    let mut patience = 1000;
    loop {
        let location = Location::Directory(directory.to_owned());
        match Opened::open(location, &LeaseTerms::default()).boxed().await {
            Err(JournalError::Held { .. }) if patience > 0 => {
                patience -= 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            opened => return opened.unwrap(),
        }
    }
}

impl Run {
    /// Returns the error code of the only failed object.
    pub(crate) fn error(&self) -> &str {
        let mut errors = self
            .receipts
            .iter()
            .filter_map(|receipt| match &receipt.ending {
                Ending::Failed { error } => Some(error.kind),
                _ => None,
            });
        let first = errors.next().expect("nothing failed");
        assert_eq!(errors.next(), None, "more than one object failed");
        first
    }

    /// Returns the proof of the first object.
    pub(crate) fn proof(&self) -> String {
        match &self.receipts[0].ending {
            Ending::Done { proof, .. } => proof.to_string(),
            other => panic!("not done: {other:?}"),
        }
    }
}

/// Changes the job's default endpoint, as if the manifest had said so.
pub(crate) fn restate(job: &mut Job, change: impl FnOnce(&mut Endpoint)) {
    let endpoint = job.endpoints.get_mut(DEFAULT_ENDPOINT).unwrap();
    let mut stated = endpoint.stated.clone();
    change(&mut stated);
    *endpoint = stated.resolve(&Environment::default());
}

/// Parses an S3 URI.
pub(crate) fn uri(text: &str) -> S3Uri {
    text.parse().unwrap()
}

/// Returns this location of the sandbox as a destination.
pub(crate) fn destination(text: &str) -> Destination {
    let endpoint = DEFAULT_ENDPOINT.to_owned();
    Destination {
        endpoint,
        location: uri(text),
        storage_class: None,
        encryption: None,
        acl: None,
    }
}

/// Returns a transfer of everything in `source` to the root of `destination`.
pub(crate) fn copy_all() -> Transfer {
    let from = Source::Prefix {
        endpoint: DEFAULT_ENDPOINT.to_owned(),
        location: uri("s3://source/"),
    };
    Transfer::new("all", from, destination("s3://destination/"))
}

/// Returns a transfer of a directory to the root of `destination`.
pub(crate) fn upload_all(path: &Path) -> Transfer {
    let from = Source::Files {
        path: LocalPath(path.to_owned()),
        symlinks: Symlinks::Skip,
    };
    Transfer::new("files", from, destination("s3://destination/"))
}

/// Copies objects in parts of `part` bytes, including objects of exactly this size.
pub(crate) fn in_parts_of(part: u64, mut transfer: Transfer) -> Transfer {
    transfer.parts.size = PartSize::Exactly(ByteSize(part));
    transfer.parts.threshold = ByteSize(part);
    transfer
}
