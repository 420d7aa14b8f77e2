//! Where a command works: the world as it is, or a sandbox in this process.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{CliError, JobFile};
use crate::connections::Connections;
use crate::manifest::job::Job;
use crate::pace::{Pacer, RetryPolicy, slots};
use crate::s3::client::StaticCredentials;

/// Where a job runs: with ambient credentials at its own endpoints, or on a sandbox in this process.
#[derive(Debug)]
pub(super) struct Place {
    credentials: Option<StaticCredentials>,
    /// Sockets of this process per request in flight.
    sockets: u64,
    /// Held, because it serves as long as it lives.
    #[cfg(feature = "sandbox")]
    _sandbox: Option<crate::sandbox::Sandbox>,
}

impl Place {
    /// The world as it is.
    pub(super) fn ambient() -> Self {
        Self {
            credentials: None,
            sockets: 1,
            #[cfg(feature = "sandbox")]
            _sandbox: None,
        }
    }

    /// What `--sandbox` asks for: the job's default endpoint becomes a sandbox that has its buckets.
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
            return Ok(Self { credentials: Some(credentials), sockets: 2, _sandbox: Some(sandbox) });
        }
        Ok(Self::ambient())
    }

    /// Connections to the job's endpoints, under its limits.
    pub(super) fn connect(&self, job: &Job, halt: &CancellationToken) -> Connections {
        let ceiling = slots::default_ceiling(self.sockets);
        let pacer = Arc::new(Pacer::new(&job.limits, ceiling, RetryPolicy::default()));
        Connections::new(job, self.credentials.clone(), pacer, halt.clone())
    }
}
