//! Holding a journal: as whom a session does, and how long it waits for another one.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::journal::{JournalError, LeaseTerms, Location, Writer};
use crate::size::display_duration;

/// Names the Job that a process belongs to. Processes of one Job succeed each other.
pub(super) const JOB: &str = "S3HAUL_JOB_UID";
/// Names the pod, for the message of a process that finds the journal in use.
pub(super) const POD: &str = "POD_NAME";
/// The number of a pod of an Indexed Job, which Kubernetes sets.
const INDEX: &str = "JOB_COMPLETION_INDEX";

/// The array that a task of Slurm belongs to.
const SLURM_JOB: &str = "SLURM_ARRAY_JOB_ID";
/// The job of AWS Batch, with the index behind a colon in an array.
const BATCH_JOB: &str = "AWS_BATCH_JOB_ID";

/// A lock in a directory is tried again after this.
const DIRECTORY_AGAIN: Duration = Duration::from_millis(500);
/// A journal in S3 is looked at again after this. Each look is three requests.
const BUCKET_AGAIN: Duration = Duration::from_secs(3);

/// Returns the value of an environment variable. An empty one counts as unset.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the terms on which this process holds journals.
pub(super) fn terms() -> LeaseTerms {
    of(variable(JOB), variable(INDEX), variable(POD))
}

/// Returns the terms on which this process holds the journal of a shard. Besides Kubernetes, Slurm and
/// AWS Batch name what a process belongs to, across its restarts.
pub(super) fn terms_of_shard(shard: u32) -> LeaseTerms {
    let slurm = || variable(SLURM_JOB).map(|id| format!("slurm-{id}"));
    let batch = || {
        let id = variable(BATCH_JOB)?;
        // Behind the colon is the index.
        let array = id.split_once(':').map_or(&*id, |(array, _)| array);
        Some(format!("batch-{array}"))
    };
    let job = variable(JOB).or_else(slurm).or_else(batch);
    of(job, Some(shard.to_string()), variable(POD))
}

fn of(job: Option<String>, index: Option<String>, pod: Option<String>) -> LeaseTerms {
    // Each index of a Job has work of its own.
    let job = job.map(|job| match index {
        Some(index) => format!("{job}/{index}"),
        None => job,
    });
    LeaseTerms {
        job,
        pod,
        ..LeaseTerms::default()
    }
}

/// Tries to open a journal until it is free or the time is over.
pub(super) async fn wait_for<T, F>(
    location: &Location,
    wait: Duration,
    tell: &impl Fn(&str),
    open: impl Fn() -> F,
) -> Result<T, JournalError>
where
    F: Future<Output = Result<T, JournalError>>,
{
    let again = match location {
        Location::Directory(_) => DIRECTORY_AGAIN,
        Location::Bucket(..) => BUCKET_AGAIN,
    };
    let mut since: Option<Instant> = None;
    let mut holder: Option<Box<Writer>> = None;
    loop {
        let error = match open().await {
            Err(error @ JournalError::Held { .. }) => error,
            opened => {
                if holder.is_some() && opened.is_ok() {
                    tell("the journal is free; the run begins");
                }
                return opened;
            }
        };
        let left = since.map_or(wait, |since| wait.saturating_sub(since.elapsed()));
        since.get_or_insert_with(Instant::now);
        if left.is_zero() {
            return Err(error);
        }
        if let JournalError::Held { place, by, .. } = &error
            && holder.as_ref() != Some(by)
        {
            tell(&format!(
                "waiting up to {} for the journal {place}, which is in use by {by}",
                display_duration(left)
            ));
            holder = Some(by.clone());
        }
        sleep(again.min(left)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_part_of_the_job_that_has_it() {
        let job = |job: &str, index: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            of(some(job), some(index), None).job
        };
        assert_eq!(job("uid", "3").as_deref(), Some("uid/3"));
        assert_eq!(job("uid", "").as_deref(), Some("uid"));
        assert_eq!(job("", "3"), None, "an index alone names no Job");
    }
}
