//! A sandbox with two buckets, and the means to run jobs against it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use s3haul::bucket::Bucket;
use s3haul::connections::Connections;
use s3haul::endpoint::Environment;
use s3haul::execute::monitor::{Event, Monitor};
use s3haul::execute::receipt::{Ending, Receipt};
use s3haul::execute::{self, Execution, Outcome};
use s3haul::journal::event::RunInfo;
use s3haul::journal::fingerprint::Fingerprint;
use s3haul::journal::{self, Intent, JournalError, LeaseTerms, Location, Opened, RunDecision};
use s3haul::location::{LocalPath, S3Uri};
use s3haul::manifest::job::{
    DEFAULT_ENDPOINT, Destination, Endpoint, Job, Limits, Provider, Source, Symlinks, Transfer,
};
use s3haul::pace::{Pacer, RetryPolicy};
use s3haul::s3::Failure;
use s3haul::s3::client::StaticCredentials;
use s3haul::sandbox::{BucketOptions, Model, Operation, Sandbox, SandboxOptions};
use tokio_util::sync::CancellationToken;

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

/// What a run came to, and each object's receipt by destination key.
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
    pub(crate) async fn new() -> Self {
        Self::with(SandboxOptions::default(), BucketOptions::default()).await
    }

    /// One that behaves like this.
    pub(crate) async fn modelled(model: Model) -> Self {
        Self::with(
            SandboxOptions {
                model,
                ..SandboxOptions::default()
            },
            BucketOptions::default(),
        )
        .await
    }

    pub(crate) async fn with(options: SandboxOptions, buckets: BucketOptions) -> Self {
        let sandbox = Sandbox::start(options).await.unwrap();
        for bucket in [SOURCE, DESTINATION] {
            sandbox.store().create_bucket(bucket, buckets.clone());
        }
        // Faults are to cost a test milliseconds, and a hopeless case is to end.
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

    pub(crate) fn credentials() -> StaticCredentials {
        let options = SandboxOptions::default();
        StaticCredentials {
            access_key: options.access_key,
            secret_key: options.secret_key,
        }
    }

    /// A job whose only endpoint is the sandbox, whatever the environment of the tests says.
    pub(crate) fn job(&self, transfer: Transfer) -> Job {
        Job::single(transfer, [self.endpoint().resolve(&Environment::default())])
    }

    pub(crate) fn connections(
        &self,
        job: &Job,
        halt: &CancellationToken,
        limits: &Limits,
    ) -> Connections {
        let pacer = Arc::new(Pacer::new(limits, self.ceiling, self.retry));
        Connections::new(job, Some(Self::credentials()), pacer, halt.clone())
    }

    /// A bucket for using the library directly.
    pub(crate) async fn bucket(&self, name: &str) -> Bucket {
        let job = self.job(copy_all());
        let mut connections = self.connections(&job, &CancellationToken::new(), &Limits::default());
        connections
            .bucket(DEFAULT_ENDPOINT, &name.parse().unwrap())
            .await
            .unwrap()
    }

    pub(crate) async fn try_run_job(&self, job: &Job) -> Result<Run, Failure> {
        let halt = CancellationToken::new();
        let mut connections = self.connections(job, &halt, &job.limits);
        let receipts = Arc::new(Receipts::default());
        let monitor: Arc<dyn Monitor> = Arc::clone(&receipts) as _;
        let (journal, new) = (journal::off(None), Arc::default());
        let outcome = execute::run(Execution {
            job,
            connections: &mut connections,
            monitor,
            journal: &journal,
            resumed: &new,
            ranges: None,
            stop: &self.stop,
            halt: &halt,
        })
        .await?;
        let receipts = receipts.0.lock().unwrap().clone();
        Ok(Run { outcome, receipts })
    }

    /// A session of a run whose journal is in `directory`: it goes on with what is there, or begins
    /// a run.
    pub(crate) async fn session(&self, directory: &Path, job: &Job, intent: Intent) -> Run {
        self.try_session(directory, job, intent).await.unwrap()
    }

    pub(crate) async fn try_session(
        &self,
        directory: &Path,
        job: &Job,
        intent: Intent,
    ) -> Result<Run, Failure> {
        // A session that was killed lets go of its journal a moment later.
        let mut patience = 1000;
        let opened = loop {
            match Opened::open(
                Location::Directory(directory.to_owned()),
                &LeaseTerms::default(),
            )
            .await
            {
                Err(JournalError::Held { .. }) if patience > 0 => {
                    patience -= 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                opened => break opened.unwrap(),
            }
        };
        let fingerprint = Fingerprint::of(job);
        let decision = journal::decide(opened.state(), &fingerprint, intent).unwrap();
        let resumed = Arc::new(opened.resumed(decision));
        let journal = match decision {
            RunDecision::Resume => opened.resume(None).await.unwrap(),
            RunDecision::Begin => {
                let (run, tool) = ("run".to_owned(), "test".to_owned());
                let transfers = job
                    .transfers
                    .iter()
                    .map(|transfer| transfer.name.clone())
                    .collect();
                let info = RunInfo {
                    run,
                    job: job.name.clone(),
                    transfers,
                    fingerprint,
                    tool,
                    counted_from: job.counted_from(),
                    command: None,
                };
                opened.begin(info, None).await.unwrap()
            }
        };
        let halt = CancellationToken::new();
        let mut connections = self.connections(job, &halt, &job.limits);
        let receipts = Arc::new(Receipts::default());
        let monitor: Arc<dyn Monitor> = Arc::clone(&receipts) as _;
        let outcome = execute::run(Execution {
            job,
            connections: &mut connections,
            monitor,
            journal: &journal,
            resumed: &resumed,
            ranges: None,
            stop: &self.stop,
            halt: &halt,
        })
        .await?;
        let last = if outcome.stopped {
            journal::event::JournalEvent::RunStopped
        } else {
            journal::event::JournalEvent::RunEnded
        };
        journal.close(last).await.unwrap();
        let receipts = receipts.0.lock().unwrap().clone();
        Ok(Run { outcome, receipts })
    }

    pub(crate) async fn run(&self, transfer: Transfer) -> Run {
        self.try_run_job(&self.job(transfer)).await.unwrap()
    }

    pub(crate) fn calls(&self, operation: Operation) -> u64 {
        self.sandbox.calls().count(operation)
    }

    /// Asserts that both keys hold the same bytes and everything else that a copy keeps.
    pub(crate) fn assert_equal(&self, from: &str, to: &str) {
        let source = self.sandbox.store().object(SOURCE, from).unwrap();
        let copy = self
            .sandbox
            .store()
            .object(DESTINATION, to)
            .unwrap_or_else(|| panic!("{to} is not there"));
        assert_eq!(copy.content, source.content, "{to}");
        assert_eq!(copy.attributes.class(), source.attributes.class(), "{to}");
        assert_eq!(copy.attributes.metadata, source.attributes.metadata, "{to}");
        assert_eq!(copy.attributes.tags, source.attributes.tags, "{to}");
        // S3 gives this type to objects that are written without one.
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

    pub(crate) fn assert_no_upload_is_left(&self) {
        let left = self.sandbox.store().open_uploads(DESTINATION);
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Run {
    /// The error code of the one object that failed.
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

    pub(crate) fn proof(&self) -> String {
        match &self.receipts[0].ending {
            Ending::Done { proof, .. } => proof.to_string(),
            other => panic!("not done: {other:?}"),
        }
    }
}

/// Changes the job's default endpoint as if it had been stated so.
pub(crate) fn restate(job: &mut Job, change: impl FnOnce(&mut Endpoint)) {
    let endpoint = job.endpoints.get_mut(DEFAULT_ENDPOINT).unwrap();
    let mut stated = endpoint.stated.clone();
    change(&mut stated);
    *endpoint = stated.resolve(&Environment::default());
}

pub(crate) fn uri(text: &str) -> S3Uri {
    text.parse().unwrap()
}

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

/// Everything in `source` to the root of `destination`.
pub(crate) fn copy_all() -> Transfer {
    let from = Source::Prefix {
        endpoint: DEFAULT_ENDPOINT.to_owned(),
        location: uri("s3://source/"),
    };
    Transfer::new("all", from, destination("s3://destination/"))
}

/// A directory to the root of `destination`.
pub(crate) fn upload_all(path: &Path) -> Transfer {
    let from = Source::Files {
        path: LocalPath(path.to_owned()),
        symlinks: Symlinks::Skip,
    };
    Transfer::new("files", from, destination("s3://destination/"))
}
