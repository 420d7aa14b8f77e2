//! The environment of a command: real endpoints, or a sandbox in this process.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::unused_flags::Flag;
use super::{CliError, EndpointFlags, JobFile};
use crate::bucket::Bucket;
use crate::connections::Connections;
use crate::execute::DRAIN;
use crate::location::S3Uri;
use crate::manifest::Mistake;
use crate::manifest::job::{Access, DEFAULT_ENDPOINT, Destination, Job, Source, Transfer};
use crate::pace::{Pacer, RetryPolicy, slots};
use crate::s3::client::StaticCredentials;
use crate::size::display_count;

/// The required owner of a bucket, and whether the requester pays.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct AccessFlags {
    /// Account (12 digits) that must own the bucket.
    #[arg(long, global = true, value_name = "ACCOUNT")]
    expected_owner: Option<String>,
    /// Pay for the requests to a Requester Pays bucket.
    #[arg(long, global = true)]
    requester_pays: bool,
}

impl AccessFlags {
    pub(super) fn access(&self) -> Access {
        Access {
            expected_owner: self.expected_owner.clone(),
            requester_pays: self.requester_pays,
        }
    }
}

/// The required owners of the buckets of a copy, and whether the requester pays for the source.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct SidesFlags {
    /// Account (12 digits) that must own the source bucket.
    #[arg(long, value_name = "ACCOUNT")]
    source_owner: Option<String>,
    /// Account (12 digits) that must own the destination bucket.
    #[arg(long, value_name = "ACCOUNT")]
    destination_owner: Option<String>,
    /// Pay for the requests to a Requester Pays source.
    #[arg(long)]
    requester_pays: bool,
}

impl SidesFlags {
    /// Returns the flags that apply to the source.
    pub(super) fn of_source(&self) -> [Flag; 2] {
        [
            ("--source-owner", self.source_owner.is_some()),
            ("--requester-pays", self.requester_pays),
        ]
    }

    /// Returns the flag that applies to the destination.
    pub(super) fn of_destination(&self) -> Flag {
        ("--destination-owner", self.destination_owner.is_some())
    }

    /// Writes the flags into a transfer.
    pub(super) fn apply(&self, transfer: &mut Transfer) {
        let (expected_owner, requester_pays) = (self.source_owner.clone(), self.requester_pays);
        transfer.source_access = Access {
            expected_owner,
            requester_pays,
        };
        let expected_owner = self.destination_owner.clone();
        transfer.destination_access = Access {
            expected_owner,
            ..Access::default()
        };
    }
}

/// The environment in which a job runs: its own endpoints with ambient credentials, or a sandbox in
/// this process.
#[derive(Debug)]
pub(super) struct JobEnvironment {
    credentials: Option<StaticCredentials>,
    /// Sockets of this process per request in flight.
    sockets: u64,
    /// The processes that share the rates of the buckets.
    sharers: u32,
    /// Kept alive, because the sandbox stops when it is dropped.
    #[cfg(feature = "sandbox")]
    _sandbox: Option<s3haul_sandbox::Sandbox>,
}

impl JobEnvironment {
    /// Returns the environment without a sandbox.
    pub(super) fn ambient() -> Self {
        Self {
            credentials: None,
            sockets: 1,
            sharers: 1,
            #[cfg(feature = "sandbox")]
            _sandbox: None,
        }
    }

    /// Returns the environment for a job. With `--sandbox`, one sandbox with the job's buckets
    /// replaces all endpoints of the job.
    #[cfg_attr(
        not(feature = "sandbox"),
        expect(clippy::unused_async, reason = "the sandbox starts asynchronously")
    )]
    #[cfg_attr(
        not(feature = "sandbox"),
        expect(unused_variables, reason = "only the sandbox changes the job")
    )]
    pub(super) async fn of(file: &JobFile, job: &mut Job) -> Result<Self, CliError> {
        #[cfg(feature = "sandbox")]
        if file.sandbox {
            let (sandbox, credentials) = super::sandbox::embed(job).await?;
            return Ok(Self {
                credentials: Some(credentials),
                sockets: 2,
                sharers: 1,
                _sandbox: Some(sandbox),
            });
        }
        Ok(Self::ambient())
    }

    /// Returns this environment for one of several processes that send requests to the same
    /// buckets.
    pub(super) fn shared_by(self, processes: u32) -> Self {
        Self {
            sharers: processes,
            ..self
        }
    }

    /// Returns true if the environment is a sandbox.
    pub(super) fn is_sandbox(&self) -> bool {
        self.credentials.is_some()
    }

    /// Connects to the job's endpoints, within the limits of the job.
    pub(super) fn connect(&self, job: &Job, halt: &CancellationToken) -> Connections {
        self.connect_within(DRAIN, job, halt)
    }

    /// Connects for a run that ends within this time after a signal.
    pub(super) fn connect_within(
        &self,
        drain: Duration,
        job: &Job,
        halt: &CancellationToken,
    ) -> Connections {
        let ceiling = slots::default_ceiling(self.sockets);
        if let Some(wanted) = job.limits.in_flight.filter(|wanted| *wanted > ceiling) {
            let remedy = if ceiling < slots::CEILING {
                "; raise the limit of open files (`ulimit -n`)"
            } else {
                ""
            };
            tracing::warn!(
                "in_flight: {} is more than s3haul can have in flight here: {}{remedy}",
                display_count(u64::from(wanted)),
                display_count(u64::from(ceiling)),
            );
        }
        let retry = RetryPolicy {
            drain,
            ..RetryPolicy::default()
        };
        let pacer = Pacer::new(&job.limits, ceiling, retry).shared_by(self.sharers);
        let pacer = Arc::new(pacer);
        Connections::new(job, self.credentials.clone(), pacer, halt.clone())
    }
}

/// Refuses a working directory that was deleted or cannot be read: relative paths and the default
/// journal need it.
pub(super) fn require_directory() -> Result<(), CliError> {
    let gone = |error| {
        CliError::Usage(format!(
            "the working directory cannot be used ({error}): it was deleted, or may not be read; change to another one"
        ))
    };
    std::env::current_dir().map(drop).map_err(gone)
}

/// Returns the bucket of a journal, a report, or a state prefix. The flags determine how to reach
/// it.
pub(super) async fn records_at(
    location: &S3Uri,
    endpoint: &EndpointFlags,
) -> Result<Bucket, CliError> {
    let bucket = bucket_at(location, endpoint, Access::default()).await?;
    Ok(bucket.for_records())
}

/// Returns the bucket at a location. The flags determine how to reach it.
pub(super) async fn bucket_at(
    location: &S3Uri,
    endpoint: &EndpointFlags,
    access: Access,
) -> Result<Bucket, CliError> {
    let to = Destination {
        endpoint: DEFAULT_ENDPOINT.to_owned(),
        location: location.clone(),
        storage_class: None,
        encryption: None,
        acl: None,
    };
    let mut transfer = Transfer::new("uploads", Source::Stdin, to);
    transfer.destination_access = access.clone();
    let job = Job::single(transfer, [endpoint.endpoint()]);
    // The other settings of the destination are placeholders here.
    let matters = |mistake: &Mistake| {
        mistake.path.ends_with("expected_owner") || mistake.path.starts_with("endpoints.")
    };
    if let Some(mistake) = job.check().into_iter().find(matters) {
        return Err(CliError::Usage(format!(
            "{}; {}",
            mistake.message, mistake.remedy
        )));
    }
    let mut connections = JobEnvironment::ambient().connect(&job, &CancellationToken::new());
    Ok(connections
        .bucket_with_access(DEFAULT_ENDPOINT, &location.bucket, &access)
        .await?)
}
