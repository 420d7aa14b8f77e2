//! Looks at some of what earlier sessions have copied or found equal, before a run resumes.
//!
//! Nobody looks at these objects again otherwise: the record says that they are done. Only what the
//! server clearly says counts. That it does not answer, or that a look is denied, says nothing
//! about an object.

use futures::stream::{self, StreamExt as _};

use crate::connections::Connections;
use crate::journal::sample::Copied;
use crate::journal::state::RunState;
use crate::location::S3Uri;
use crate::manifest::job::{Job, Versions};
use crate::planner::Sides;
use crate::s3::{Failure, FailureKind, Head};

/// Looks under way at once.
const AT_ONCE: usize = 8;

/// The result of looks at some objects on record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Objects that are there as they were.
    pub there: u64,
    /// Those of them that a session has copied.
    pub copies: u64,
    /// All that were looked at with an answer.
    pub objects: u64,
    /// The state of one of the others, in words.
    pub example: Option<String>,
}

/// Looks at some of the objects that earlier sessions of a run have copied or found equal.
///
/// # Errors
/// A bucket cannot be used.
pub async fn look(
    job: &Job,
    connections: &mut Connections,
    state: &RunState,
) -> Result<Looked, Failure> {
    let mut questions = Vec::new();
    for copied in state.sample.objects() {
        let transfer = usize::try_from(copied.transfer)
            .ok()
            .and_then(|number| job.transfers.get(number));
        // The newest version of a history may be a delete marker.
        let Some(transfer) = transfer.filter(|transfer| transfer.versions != Versions::All) else {
            continue;
        };
        let (source, destination) = connections.of_transfer(transfer).await?;
        questions.push(found(Sides::new(transfer, source, destination), copied));
    }
    let mut looked = Looked::default();
    let mut answers = stream::iter(questions).buffer_unordered(AT_ONCE);
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
    Ok(looked)
}

/// Looks at one object; `None` without a clear answer. Tells a copy from what was found equal.
async fn found(sides: Sides, copied: &Copied) -> Option<Result<bool, String>> {
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
    // A server that does not replace objects at once may still be at work on the last request of a
    // session that was killed.
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
