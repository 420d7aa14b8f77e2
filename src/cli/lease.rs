//! The identity with which this process holds journals, and the wait for a journal that another
//! process holds.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::journal::{JournalError, LeaseTerms, Location, Writer};
use crate::size::display_duration;

/// The variable that identifies the Job of a process. A process may take over a journal from an
/// earlier process of the same Job, even a live one.
pub(super) const JOB: &str = "S3HAUL_JOB_UID";
/// The variable with the name of the pod. A process that finds the journal in use shows the
/// holder's pod.
pub(super) const POD: &str = "POD_NAME";
/// The variable with the index of a pod in an Indexed Job, set by Kubernetes.
const INDEX: &str = "JOB_COMPLETION_INDEX";

/// The variable with the ID of a Slurm array.
const SLURM_JOB: &str = "SLURM_ARRAY_JOB_ID";
/// The variable with the ID of an AWS Batch job. In an array, `:INDEX` follows the ID.
const BATCH_JOB: &str = "AWS_BATCH_JOB_ID";

/// The pause between two attempts to lock a journal in a directory.
const DIRECTORY_PAUSE: Duration = Duration::from_millis(500);
/// The pause between two attempts to open a journal in S3. Each attempt takes three requests.
const BUCKET_PAUSE: Duration = Duration::from_secs(3);

/// Returns the value of an environment variable. An empty variable counts as unset.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the terms on which this process holds journals.
pub(super) fn own_terms() -> LeaseTerms {
    terms_of(variable(JOB), variable(INDEX), variable(POD))
}

/// Returns the terms on which this process holds the journal of a shard. Without a Kubernetes Job,
/// the ID of Slurm or AWS Batch identifies the job, because it stays the same when a process is
/// restarted.
pub(super) fn shard_terms(shard: u32) -> LeaseTerms {
    let slurm = || variable(SLURM_JOB).map(|id| format!("slurm-{id}"));
    let batch = || {
        let id = variable(BATCH_JOB)?;
        let array = id.split_once(':').map_or(&*id, |(array, _)| array);
        Some(format!("batch-{array}"))
    };
    let job = variable(JOB).or_else(slurm).or_else(batch);
    terms_of(job, Some(shard.to_string()), variable(POD))
}

fn terms_of(job: Option<String>, index: Option<String>, pod: Option<String>) -> LeaseTerms {
    // Each index of a Job has its own journal.
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

/// Opens a journal. If another process holds it, tries again until it is free or `wait` has passed.
pub(super) async fn wait_for<T, F>(
    location: &Location,
    wait: Duration,
    tell: &impl Fn(&str),
    open: impl Fn() -> F,
) -> Result<T, JournalError>
where
    F: Future<Output = Result<T, JournalError>>,
{
    let pause = match location {
        Location::Directory(_) => DIRECTORY_PAUSE,
        Location::Bucket(..) => BUCKET_PAUSE,
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
        sleep(pause.min(left)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_part_of_the_job_that_has_it() {
        let job = |job: &str, index: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            terms_of(some(job), some(index), None).job
        };
        assert_eq!(job("uid", "3").as_deref(), Some("uid/3"));
        assert_eq!(job("uid", "").as_deref(), Some("uid"));
        assert_eq!(job("", "3"), None, "an index alone names no Job");
    }
}
