//! Going on with uploads that an earlier session left open.
//!
//! An upload is taken up only if it was begun for the very same version of the source, to the same
//! key, with the same attributes, and if its recorded parts tile the object. The server's own list
//! says what it holds: a part is kept if it is what the journal has on record, or if it was under
//! way when the record ended, and has the right size; all others are copied again. Anything else is
//! cancelled and begun anew, which is always right and only costs time.
//!
//! An upload that the server has no more may have become the object, when the answer to Complete
//! was lost with the session. Then what stands at the key must be recognised: by the source's
//! checksum, or by the `ETag` that was on record before Complete was sent.
//!
//! The upload of an object that failed may be kept for the next run, if it holds parts and another
//! attempt may succeed. That run finds the upload by bucket and key, because the object has another
//! number then.
//!
//! Uploads that nobody resumes are aborted ([`inherited`]).

mod begun;
mod inherited;

use futures::TryStreamExt;

use super::tracked::Terms;
use super::vouch::is_as_wished;
use super::{Draft, Trouble, Work};
use crate::journal::event::PartLengths;
use crate::journal::uploads::{BegunUpload, Kept};
use crate::location::ObjectKey;
use crate::manifest::job::Policy;
use crate::multipart::MultipartUpload;
use crate::plan::loss::{Loss, Lost};
use crate::plan::parts::{Boundaries, PartLayout};
use crate::planner::MadeBefore;
use crate::s3::{Attributes, Checksum, ChecksumKind, FailureKind, Head};

pub(super) use begun::{Begun, Published};
pub(super) use inherited::{Inherited, Left};

impl Work {
    /// Returns the record of uploads to this key that may have become the object, unseen.
    pub(super) fn made_before(&self, key: &ObjectKey) -> MadeBefore {
        let place = self.upload_place(key);
        let open = self.resumed.uploads.values();
        let begun = open.filter(|open| open.place == place && open.kept == Kept::No);
        let mut made = MadeBefore::default();
        for begun in begun.filter_map(|open| open.begun.as_ref()) {
            if let Some(completing) = &begun.completing {
                made.claimed |= begun.claimed;
                let is_known = completing.etag.is_some() && !begun.kms && !begun.claimed;
                made.etag = completing.etag.clone().filter(|_| is_known).or(made.etag);
            }
        }
        made
    }
}

/// The result of the search among the uploads that were left of an object.
#[derive(Debug)]
pub(super) enum Found {
    /// One can be resumed.
    Open(Box<Begun>),
    /// One became the object, and the `ETag` that its parts make.
    Published(Box<Head>, Option<String>),
}

/// The object that an upload is wanted for.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) key: &'a ObjectKey,
    pub(super) terms: &'a Terms,
    pub(super) layout: &'a PartLayout,
    /// The attributes that the object must have.
    pub(super) attributes: &'a Attributes,
    /// Of the source.
    pub(super) checksum: Option<&'a Checksum>,
}

/// Looks for an upload to resume among those that were left of an object, and cancels the others.
pub(super) async fn find(
    work: &Work,
    left: &mut Vec<Left>,
    wish: &Wish<'_>,
    draft: &mut Draft,
) -> Result<Option<Found>, Trouble> {
    while let Some(candidate) = left.pop() {
        let found = match &candidate.open.begun {
            // An upload may lack an attribute only as long as the policy is no more than `try`.
            Some(begun)
                if begun
                    .losses
                    .iter()
                    .any(|loss| is_demanded(work, loss, draft)) =>
            {
                None
            }
            Some(begun) => match judge(work, &candidate, begun, wish, draft).await {
                Ok(found) => found,
                // The parts cannot be listed. Starting over is always right.
                Err(Trouble::Failed(failure))
                    if !failure.kind().may_pass_later() && !failure.ends_run() =>
                {
                    tracing::warn!(key = %wish.key, %failure, "an open upload cannot be resumed: beginning anew");
                    None
                }
                // It is still to be cancelled.
                Err(trouble) => {
                    left.push(candidate);
                    return Err(trouble);
                }
            },
            None => None,
        };
        if found.is_none() {
            cancel(work, &candidate, draft).await;
        }
        if let Some(found) = found {
            // The attributes that it was created without are still missing, whatever this session
            // found out.
            if let Some(begun) = &candidate.open.begun {
                draft.losses.retain(|loss| loss.lost != Lost::NotSet);
                draft.losses.extend(begun.losses.iter().cloned());
            }
            cancel_all(work, left, draft).await;
            // What became the object stays on record until the object has all that it shall have.
            if matches!(found, Found::Published(..)) {
                left.push(candidate);
            }
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Returns true for a loss that fails an object now, unless this session has the same loss.
fn is_demanded(work: &Work, loss: &Loss, draft: &Draft) -> bool {
    work.sides.transfer.preserve.of(loss.attribute) == Policy::Require
        && !draft.losses.contains(loss)
}

/// Cancels the uploads of an object that are not resumed.
pub(super) async fn cancel_all(work: &Work, left: &mut Vec<Left>, draft: &mut Draft) {
    while let Some(candidate) = left.pop() {
        cancel(work, &candidate, draft).await;
    }
}

async fn cancel(work: &Work, left: &Left, draft: &mut Draft) {
    let notes = work
        .inherited
        .cancel(left, &work.journal, &work.sides.destination)
        .await;
    // The receipt may be hours away, and a kill until then would take along the only mention.
    for note in &notes {
        tracing::warn!(key = %left.open.place.key, "{note}");
    }
    draft.notes.extend(notes);
}

/// Finds out whether an upload can be resumed, or became the object. Returns `None` if it is of no
/// use.
async fn judge(
    work: &Work,
    left: &Left,
    begun: &BegunUpload,
    wish: &Wish<'_>,
    draft: &mut Draft,
) -> Result<Option<Found>, Trouble> {
    let Some(layout) = wish
        .terms
        .are_those_of(begun)
        .then(|| tiling(&begun.parts, wish.layout))
        .flatten()
    else {
        tracing::info!(key = %wish.key, "an open upload is of another source, or was begun otherwise: beginning anew");
        return Ok(None);
    };
    let bucket = &work.sides.destination;
    let upload = MultipartUpload::open(bucket, wish.key, &*begun.id);
    // One that was found open is older than its record.
    let upload = if begun.claimed {
        upload
    } else {
        upload.begun_at(left.open.intended, begun.kms)
    };
    let listed = match upload.parts().try_collect::<Vec<_>>().await {
        Ok(listed) => listed,
        Err(failure) if *failure.kind() == FailureKind::NoSuchUpload => Vec::new(),
        Err(failure) => return Err(failure.into()),
    };
    let mut reconciled = begun.reconcile(listed);
    // A part without the checksum that the upload declared could not be named to a server that
    // wants it, nor proven.
    if upload.algorithm().is_some() {
        reconciled.kept.retain(|part| part.checksum.is_some());
    }
    let kept = reconciled.kept;
    // Some servers answer with an empty list for an upload that is gone.
    if kept.is_empty() {
        let found = published(work, begun, wish).await?;
        if let Some(Found::Published(head, _)) = &found
            && begun.claimed
            && !is_as_wished(
                work,
                &begun.id,
                (wish.key, head.version.as_deref()),
                wish.attributes,
                draft,
            )
            .await?
        {
            return Ok(None);
        }
        return Ok(found);
    }
    tracing::info!(
        key = %wish.key, kept = kept.len(), parts = layout.count, missing = reconciled.missing,
        different = reconciled.different, "going on with an open upload"
    );
    let (tracked, claimed) = (left.tracked, begun.claimed);
    Ok(Some(Found::Open(Box::new(Begun {
        upload,
        tracked,
        late: None,
        layout,
        kept,
        claimed,
    }))))
}

/// Returns the layout that an upload was created with, if it tiles the object that `now` is for.
/// Automatic part sizes depend on how many requests can be in flight, so they may differ now.
fn tiling(recorded: &PartLengths, now: &PartLayout) -> Option<PartLayout> {
    let is = |layout: &PartLayout| lengths(layout) == *recorded;
    if is(now) {
        return Some(now.clone());
    }
    let uniform = PartLayout::uniform(now.size, recorded.iter().next()?, recorded.count());
    (now.boundaries == Boundaries::Chosen && recorded.bytes() == now.size && is(&uniform))
        .then_some(uniform)
}

/// Returns the lengths of a layout's parts.
pub(super) fn lengths(layout: &PartLayout) -> PartLengths {
    layout.parts().map(|part| part.length).collect()
}

/// Returns the object at the key, if it is the upload whose Complete was sent and never answered.
async fn published(
    work: &Work,
    begun: &BegunUpload,
    wish: &Wish<'_>,
) -> Result<Option<Found>, Trouble> {
    let Some(completing) = &begun.completing else {
        return Ok(None);
    };
    let bucket = &work.sides.destination;
    let head = match bucket.head(wish.key, None).await {
        Ok(head) => head,
        Err(failure) if *failure.kind() == FailureKind::NotFound => return Ok(None),
        Err(failure) => return Err(failure.into()),
    };
    let by_checksum = wish
        .checksum
        .zip(head.checksum.as_ref())
        .is_some_and(|(source, found)| source.kind == ChecksumKind::FullObject && source == found);
    let by_etag = bucket.capabilities().content_etags
        && !head.kms
        && completing.etag.as_ref() == Some(&head.etag);
    let ours = head.size == wish.layout.size && (by_checksum || by_etag);
    let etag = completing.etag.clone().filter(|_| by_etag);
    Ok(ours.then(|| Found::Published(Box::new(head), etag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_layout_is_gone_on_with_if_it_tiles_the_object() {
        let now = PartLayout::uniform(25, 10, 3);
        let recorded = |lengths: &[u64]| lengths.iter().copied().collect::<PartLengths>();
        assert_eq!(tiling(&recorded(&[10, 10, 5]), &now), Some(now.clone()));
        assert_eq!(
            tiling(&recorded(&[20, 5]), &now),
            Some(PartLayout::uniform(25, 20, 2))
        );
        for other in [&[10, 10][..], &[10, 5, 10], &[10, 10, 6], &[]] {
            assert_eq!(tiling(&recorded(other), &now), None, "{other:?}");
        }
        let replayed = PartLayout {
            boundaries: Boundaries::Replayed([10, 25].into()),
            ..PartLayout::uniform(25, 15, 2)
        };
        assert_eq!(
            tiling(&recorded(&[10, 15]), &replayed),
            Some(replayed.clone())
        );
        assert_eq!(
            tiling(&recorded(&[20, 5]), &replayed),
            None,
            "the source's boundaries are wanted"
        );
    }
}
