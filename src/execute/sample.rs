//! Checks a sample of the objects that earlier sessions copied or found equal, before a run
//! resumes.
//!
//! Without this check, the run would trust the journal, which records these objects as done. Only a
//! clear answer counts: a HEAD that is denied or fails proves nothing about an object.

use futures::stream::{self, StreamExt as _};

use crate::connections::Connections;
use crate::journal::sample::RecordedObject;
use crate::journal::state::RunState;
use crate::location::S3Uri;
use crate::manifest::job::{Job, Versions};
use crate::planner::Sides;
use crate::s3::{Failure, FailureKind, Head};

/// The most HEADs in flight at once.
const MAX_CONCURRENT: usize = 8;

/// The result of the check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleResult {
    /// The number of objects that are at the destination as recorded.
    pub there: u64,
    /// The number of objects in `there` that a session copied.
    pub copies: u64,
    /// The number of objects with a clear answer.
    pub objects: u64,
    /// The state of one object that is not as recorded, in words.
    pub example: Option<String>,
}

/// Checks a sample of the objects that earlier sessions of a run copied or found equal.
///
/// # Errors
/// Fails if a bucket cannot be used.
pub async fn look(
    job: &Job,
    connections: &mut Connections,
    state: &RunState,
) -> Result<SampleResult, Failure> {
    let mut questions = Vec::new();
    for copied in state.sample.objects() {
        let transfer = usize::try_from(copied.transfer)
            .ok()
            .and_then(|number| job.transfers.get(number));
        // If all versions are copied, the newest version may be a delete marker.
        let Some(transfer) = transfer.filter(|transfer| transfer.versions != Versions::All) else {
            continue;
        };
        let (source, destination) = connections.of_transfer(transfer).await?;
        questions.push(found(Sides::new(transfer, source, destination), copied));
    }
    Ok(tally(questions).await)
}

/// Runs all checks and counts their results. A result is `None` without a clear answer, an error
/// text if the object is not as recorded, and otherwise true if a session copied the object.
pub(crate) async fn tally<F>(questions: Vec<F>) -> SampleResult
where
    F: Future<Output = Option<Result<bool, String>>>,
{
    let mut looked = SampleResult::default();
    let mut answers = stream::iter(questions).buffer_unordered(MAX_CONCURRENT);
    while let Some(answer) = answers.next().await {
        let Some(found) = answer else { continue };
        looked.objects += 1;
        match found {
            Ok(is_copy) => {
                looked.there += 1;
                looked.copies += u64::from(is_copy);
            }
            Err(what) => looked.example = looked.example.or(Some(what)),
        }
    }
    looked
}

/// Checks one object. Returns `None` without a clear answer, and an error text if the object is not
/// as recorded. Otherwise returns true if a session copied it.
async fn found(sides: Sides, copied: &RecordedObject) -> Option<Result<bool, String>> {
    let entry = copied
        .entry
        .clone()
        .into_entry(sides.relative_at(&copied.entry.key));
    let key = sides.key_of(&entry).ok()?;
    let uri = S3Uri {
        bucket: sides.destination.name().clone(),
        key: key.clone(),
    };
    let what = if copied.found {
        format!("found equal at {:.0}", copied.at)
    } else {
        format!("copied at {:.0}", copied.at)
    };
    // A server that replaces objects with a delay may still be processing the last request of a
    // killed session.
    let is_as_recorded = |head: &Head| head.size == copied.bytes;
    let destination = &sides.destination;
    let look = destination.head_written(&key, is_as_recorded);
    match destination.with_slot(look).await {
        Ok(head) if head.size == copied.bytes => Some(Ok(!copied.found)),
        Ok(head) => Some(Err(format!(
            "{uri}, {what} with {} bytes, has {}",
            copied.bytes, head.size
        ))),
        Err(failure) if *failure.kind() == FailureKind::NotFound => {
            Some(Err(format!("{uri}, {what}, is not there")))
        }
        Err(_) => None,
    }
}
