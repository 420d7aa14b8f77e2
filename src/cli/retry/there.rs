//! Checks that a sample of the copied objects in a report still exists, before the failed ones are
//! retried.
//!
//! A retry copies only what failed. If the bucket was emptied or recreated since the run, a
//! successful retry would not mean that all objects exist. Only clear responses of the server
//! count.

use crate::bucket::Bucket;
use crate::cli::CliError;
use crate::connections::Connections;
use crate::execute::sample::{SampleResult, tally};
use crate::location::S3Uri;
use crate::manifest::job::{Job, ReportPlace, Versions};
use crate::report::read::ReportedObject;
use crate::s3::{Failure, FailureKind};

/// Checks the objects in buckets that the job still writes to.
///
/// # Errors
/// Fails if a bucket cannot be used.
pub(super) async fn check_copies(
    job: &Job,
    connections: &mut Connections,
    objects: &[ReportedObject],
) -> Result<SampleResult, Failure> {
    let mut questions = Vec::new();
    for object in objects {
        let mut transfers = job.transfers.iter();
        let transfer = transfers.find(|transfer| transfer.name == object.transfer);
        // The current version of a history may be a delete marker.
        let transfer = transfer.filter(|transfer| transfer.versions != Versions::All);
        let uri = object.destination.parse::<S3Uri>().ok();
        let (Some(transfer), Some(uri)) = (transfer, uri) else {
            continue;
        };
        if uri.bucket != transfer.to.location.bucket {
            continue;
        }
        let (_, destination) = connections.of_transfer(transfer).await?;
        questions.push(found(destination, uri, object));
    }
    Ok(tally(questions).await)
}

/// Checks one object. Returns `None` without a clear response. The report does not state the
/// object's size, so any object at the key counts.
async fn found(
    destination: Bucket,
    uri: S3Uri,
    object: &ReportedObject,
) -> Option<Result<bool, String>> {
    let at = object
        .at
        .map(|at| format!(", reported at {at:.0}"))
        .unwrap_or_default();
    match destination
        .with_slot(destination.head(&uri.key, None))
        .await
    {
        // A replaced object says nothing about the others.
        Ok(_) => Some(Ok(true)),
        Err(failure) if *failure.kind() == FailureKind::NotFound => {
            Some(Err(format!("{uri}{at}, is not there")))
        }
        Err(_) => None,
    }
}

/// Refuses the retry if objects of the sample are missing.
pub(super) fn require_copies(
    looked: &SampleResult,
    report: &ReportPlace,
    again: &str,
) -> Result<(), CliError> {
    let Some(example) = &looked.example else {
        return Ok(());
    };
    let (missing, of) = (looked.objects - looked.there, looked.objects);
    Err(CliError::Untrue(format!(
        "the report {report} no longer matches the destination: {missing} of {of} objects that were checked are not \
         there, for example {example}. They were deleted, or the bucket was created again. \
         `s3haul verify --report {report}` shows what is there. To copy what is missing, {again}; to copy only what \
         failed, add --resume-anyway"
    )))
}
