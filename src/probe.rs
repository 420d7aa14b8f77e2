//! Measures the behavior of an endpoint below a scratch prefix, with the requests that a copy
//! sends.
//!
//! A profile ([`Capabilities::profile`]) describes a kind of server; a probe tests one server. It
//! tests each capability with the requests of a copy, whatever the profile states: the server must
//! refuse a condition that does not hold and a checksum that is wrong, and must return tags. The
//! questions are independent, so that one bad answer does not leave others open. The probe
//! distinguishes requests that a server refuses from those that it ignores, because a run notices
//! only refusals.
//!
//! Each finding states its consequence for the job ([`Needs`]). A probe is good if the job relies
//! on nothing that is missing or unknown, and nothing was left behind. The probe removes everything
//! that it created, even if a question stays unanswered or the probe is stopped. It reports as left
//! behind whatever the server still shows.

mod attributes;
mod clean;
mod conditions;
mod consequence;
mod doubts;
mod finding;
mod lists;
mod needs;
mod questions;
mod scratch;

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use self::clean::{Leftover, LeftoverKind};
pub(crate) use self::doubts::false_date;
pub use self::finding::{
    AttributeFinding, Claim, How, ProbeAnswer, ProbeFinding, ProbeVerdict, RequestFinding, Value,
};
pub use self::needs::Needs;
pub use self::scratch::NotStored;
use self::scratch::Scratch;
use crate::bucket::Bucket;
use crate::endpoint::Trust;
use crate::location::MAX_KEY_BYTES;
use crate::multipart::MultipartUpload;
use crate::s3::{Capabilities, Failure, FailureKind, Operation};
use crate::size::{by_number, display_counted};

/// The time limit for all questions together.
const QUESTIONS: Duration = Duration::from_mins(3);
/// The time limit for removing the scratch objects and uploads.
const CLEANING: Duration = Duration::from_mins(1);
/// The time limit for the removal after a stop.
const CLEANING_AFTER_STOP: Duration = Duration::from_secs(15);
/// The time that a request in flight may take after a stop.
const GRACE_AFTER_STOP: Duration = Duration::from_secs(5);
/// The longest name below the prefix, in bytes.
const LONGEST_NAME: usize = 40;

/// The results of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The scratch prefix.
    pub prefix: String,
    /// One finding for each request that jobs depend on.
    pub requests: Vec<RequestFinding>,
    /// One finding for each capability that can be measured.
    pub findings: Vec<ProbeFinding>,
    /// One finding for each attribute that can be measured.
    pub attributes: Vec<AttributeFinding>,
    /// The keys that the server did not accept.
    pub not_stored: Vec<NotStored>,
    /// The stated trust in the server's responses.
    pub trust: Trust,
    /// The contradiction in the server's date of an upload, if the date is made up.
    pub false_date: Option<String>,
    /// The objects and uploads that the probe created and could not remove.
    pub left: Vec<Leftover>,
    /// True if the probe was stopped before all questions were asked.
    pub stopped: bool,
}

impl Probe {
    /// Returns true if the job relies on nothing that is missing or unknown, the probe was not
    /// stopped, and nothing is certainly left behind.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self.left.iter().any(|left| left.is_certain)
            && !self.stopped
            && !self.requests.iter().any(RequestFinding::fails)
            && !self.findings.iter().any(ProbeFinding::fails)
            && !self.attributes.iter().any(AttributeFinding::fails)
    }

    /// Returns the fields to state under `capabilities:`: those whose measured value differs from
    /// the stated one.
    pub fn statements(&self) -> impl Iterator<Item = String> {
        let differs =
            |finding: &ProbeFinding| Some(format!("{}: {}", finding.name, finding.statement()?));
        self.findings.iter().filter_map(differs)
    }

    /// Returns the value of `capabilities:` that states all of these fields, or `None` if there are
    /// none.
    #[must_use]
    pub fn statement(&self) -> Option<String> {
        let all: Vec<_> = self.statements().collect();
        (!all.is_empty()).then(|| format!("{{{}}}", all.join(", ")))
    }
}

/// Returns a scratch prefix that no other process uses.
#[must_use]
pub fn scratch_prefix() -> String {
    format!(".s3haul-probe-{:08x}/", fastrand::u32(..))
}

/// A probe that has checked its prefix, but has written nothing yet.
pub struct UnwrittenProbe<'a> {
    stated: Capabilities,
    prefix: &'a str,
    /// The bucket for the clean-up: no stop halts it, and it assumes the capabilities of S3.
    cleaner: Bucket,
}

/// Begins a probe of the endpoint of `bucket` below `prefix`, which must end in a slash. If this
/// fails, the probe has written nothing.
///
/// # Errors
/// Fails if the bucket cannot be listed, or the prefix is invalid, too long, or not empty.
pub async fn begin<'a>(bucket: &Bucket, prefix: &'a str) -> Result<UnwrittenProbe<'a>, Failure> {
    let stated = bucket.capabilities().clone();
    let everything = Capabilities {
        directory: stated.directory,
        locks: stated.locks,
        annotations: stated.annotations,
        is_amazon: stated.is_amazon,
        restore_status_in_lists: stated.restore_status_in_lists,
        sends_empty_tag_sets: false,
        ..Capabilities::AWS
    };
    let cleaner = bucket
        .for_probes()
        .halted_by(CancellationToken::new())
        .assuming(everything);
    refuse_unusable(&cleaner, prefix).await?;
    Ok(UnwrittenProbe {
        stated,
        prefix,
        cleaner,
    })
}

impl UnwrittenProbe<'_> {
    /// Measures the endpoint for a job with these `needs`, and cleans up. Sends about 120 requests
    /// and 11 MiB of data. `stop` ends the probe early, but the probe still cleans up.
    ///
    /// # Errors
    /// Fails if the bucket cannot be written to, or locks all objects. The error names what was
    /// left behind.
    pub async fn measure(self, needs: &Needs, stop: &CancellationToken) -> Result<Probe, Failure> {
        let Self {
            stated,
            prefix,
            cleaner,
        } = self;
        let (trust, halt) = (stated.trust, CancellationToken::new());
        let mut scratch = Scratch::new(
            cleaner.halted_by(halt.clone()),
            prefix,
            needs.acl,
            stop,
            QUESTIONS,
        );
        let asked = {
            let mut asking = std::pin::pin!(questions::ask(&mut scratch, &stated, needs));
            let halting = async {
                stop.cancelled().await;
                sleep(GRACE_AFTER_STOP).await;
                halt.cancel();
            };
            tokio::select! {
                asked = &mut asking => asked,
                () = halting => asking.await,
            }
        };
        let stopped = stop.is_cancelled();
        let not_stored = std::mem::take(&mut scratch.not_stored);
        let false_date = scratch.false_date.take();
        let end = clean::clean(
            scratch,
            &cleaner,
            if stopped {
                CLEANING_AFTER_STOP
            } else {
                CLEANING
            },
        )
        .await;
        let found = match asked {
            Ok(found) => found,
            Err(_) if stopped => questions::ProbeFindings::default(),
            Err(failure) => return Err(with_left(failure, &end.left)),
        };
        let requests = found.requests.into_iter().chain(end.requests).collect();
        let (findings, attributes, left) = (found.capabilities, found.attributes, end.left);
        Ok(Probe {
            prefix: prefix.to_owned(),
            requests,
            findings,
            attributes,
            not_stored,
            trust,
            false_date,
            left,
            stopped,
        })
    }
}

/// Refuses a prefix below which a probe cannot work, or cannot distinguish its own objects from
/// others.
async fn refuse_unusable(bucket: &Bucket, prefix: &str) -> Result<(), Failure> {
    let place = format!("{}/{prefix}", bucket.name());
    let refuse = |message: &str| {
        Err(Failure::new(
            FailureKind::Invalid,
            Operation::ListObjects,
            place.clone(),
            message,
        ))
    };
    if !prefix.ends_with('/') || prefix.starts_with('/') {
        return refuse("a scratch prefix ends in a slash and begins with something else");
    }
    if prefix.len() + LONGEST_NAME > MAX_KEY_BYTES {
        return refuse("the scratch prefix leaves no room for names; name a shorter one");
    }
    // The server may claim an encoding that it does not apply.
    let capabilities = bucket.capabilities().clone();
    let plain = Capabilities {
        encoded_lists: false,
        encoded_uploads: false,
        ..capabilities
    };
    let bucket = bucket.assuming(plain);
    if !bucket.list(prefix, None, None).await?.items.is_empty() {
        return refuse("the scratch prefix is not empty; name another one");
    }
    let mut uploads = std::pin::pin!(MultipartUpload::list(&bucket, prefix));
    // If the server cannot list uploads, a question reports that later.
    if let Ok(Some(_)) = futures::TryStreamExt::try_next(&mut uploads).await {
        return refuse("there are open uploads below the scratch prefix; name another one");
    }
    Ok(())
}

/// Adds the leftovers to the failure of a probe without findings.
fn with_left(failure: Failure, left: &[Leftover]) -> Failure {
    let Some(first) = left.first() else {
        return failure;
    };
    let count = left.len() as u64;
    failure.noting(&format!(
        "{} {} left behind, for example {} {}; `{}` removes it",
        display_counted(count, "thing"),
        by_number(count, "is", "are"),
        first.what,
        first.key,
        first.command
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::OnWrites;

    #[test]
    fn what_differs_is_stated_as_a_manifest_states_it() {
        let kept = ProbeAnswer::kept;
        let no = || ProbeAnswer::ignored("");
        let flag = |name, stated, measured| ProbeFinding {
            name,
            claim: Claim::Flag { stated, measured },
            is_needed: true,
        };
        let stated = OnWrites::ALL;
        let writes = Claim::Writes {
            stated,
            copy: no(),
            put: kept(),
            complete: kept(),
        };
        let findings = vec![
            flag("tags", true, kept()),
            flag("copy_conditions", false, kept()),
            ProbeFinding {
                name: "if_match",
                claim: writes,
                is_needed: true,
            },
            flag("checksums", true, ProbeAnswer::unknown("no answer")),
        ];
        let probe = Probe {
            prefix: "p/".to_owned(),
            requests: Vec::new(),
            findings,
            attributes: Vec::new(),
            not_stored: Vec::new(),
            trust: Trust::Answers,
            false_date: None,
            left: Vec::new(),
            stopped: false,
        };
        assert_eq!(
            probe.statement().unwrap(),
            "{copy_conditions: true, if_match: [put, complete]}"
        );
        assert!(!probe.is_good());
    }
}
