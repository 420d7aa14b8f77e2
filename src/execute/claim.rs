//! Taking up uploads that no journal knows, where the user asks for it.
//!
//! If a journal is lost with its disk, its uploads are still open at the destination and still cost
//! money. A user who states that nobody else writes these keys lets a run adopt them. Other checks
//! replace what S3 does not show about an open upload ([`crate::plan::claim`]): parts are proven to
//! make the source by a checksum before they are published, or one by one where the source is a
//! file; where there is nothing to prove them by, the object is copied anew. What the object has
//! besides its bytes is compared once it is there, and where that is not as it shall be, it is
//! copied anew over it. An upload that turns out to be of something else is told and left alone: it
//! may be somebody's.

use std::future::ready;

use futures::TryStreamExt;

use super::adopt::{Begun, Wish};
use super::receipt::Ending;
use super::vouch::is_as_wished;
use super::{Draft, Trouble, Work};
use crate::location::ObjectKey;
use crate::manifest::job::PartSize;
use crate::multipart::{self, MultipartUpload};
use crate::plan::claim::{Cut, may_be_for, usable};
use crate::plan::condition::Seen;
use crate::plan::parts::PartLayout;
use crate::planner::Step;
use crate::s3::{Attributes, Failure, FailureKind, OpenUpload, PartDone};
use crate::size::{by_number, display_counted};

/// Looks among the open uploads at an object's key for one to adopt, once per object: the one with
/// the most usable bytes. `doubt` is the reason why its result could not be proven, if there is
/// one.
pub(super) async fn find(
    work: &Work,
    step: &Step,
    wish: &Wish<'_>,
    doubt: Option<&str>,
    draft: &mut Draft,
) -> Result<Option<Begun>, Trouble> {
    // Several versions of a key may have uploads open, and nothing tells them apart.
    if !work.claims || step.turn.is_some() || std::mem::replace(&mut draft.looked_for_uploads, true)
    {
        return Ok(None);
    }
    let listed = match open_at(work, wish.key).await {
        Ok(listed) => listed,
        Err(failure)
            if matches!(
                failure.kind(),
                FailureKind::Denied | FailureKind::Unsupported | FailureKind::Invalid
            ) =>
        {
            draft
                .notes
                .push(format!("open uploads cannot be listed: {failure}"));
            return Ok(None);
        }
        Err(failure) => return Err(failure.into()),
    };
    let mut others = listed.len();
    let found = best(work, listed, wish, &mut draft.notes).await?;
    let begun = match (found, doubt) {
        (Some(_), Some(doubt)) => {
            draft.notes.push(format!(
                "what is open at this key is not gone on with: {doubt}"
            ));
            None
        }
        (Some((upload, layout, kept)), None) => {
            others -= 1;
            let (held, of) = (kept.len(), layout.count);
            draft.notes.push(format!(
                "went on with the open upload {}: {held} of {of} parts were there",
                upload.id()
            ));
            let found = ready(Ok((upload, wish.terms.claimed())));
            let begun = Begun::begin(work, step, layout, found, &mut Vec::new()).await?;
            Some(Begun {
                kept,
                claimed: true,
                ..begun
            })
        }
        (None, _) => None,
    };
    if others > 0 {
        let command = multipart::command(&work.sides.destination, "list", wish.key, None);
        draft.notes.push(format!(
            "{} at this key {} left alone; `{command}` shows {}",
            display_counted(others as u64, "open upload"),
            by_number(others as u64, "is", "are"),
            by_number(others as u64, "it", "them")
        ));
    }
    Ok(begun)
}

/// Returns the reason why an upload of unknown origin cannot be distinguished from one that was
/// created with another ACL, if there is one.
pub(super) fn unseen_acl(attributes: &Attributes) -> Option<&'static str> {
    let has_acl = attributes.acl.is_some() || !attributes.grants.is_empty();
    has_acl.then_some("its ACL cannot be seen before it is an object")
}

/// Returns the uploads that are open at exactly this key and that the journal does not know.
async fn open_at(work: &Work, key: &ObjectKey) -> Result<Vec<OpenUpload>, Failure> {
    let listed = multipart::uploads_to(&work.sides.destination, key);
    let unknown = listed.try_filter(|open| ready(!work.inherited.knows(&open.upload_id)));
    unknown.try_collect().await
}

/// Returns the most useful upload, its layout, and its parts. Reports uploads that cannot be
/// judged.
async fn best(
    work: &Work,
    listed: Vec<OpenUpload>,
    wish: &Wish<'_>,
    notes: &mut Vec<String>,
) -> Result<Option<(MultipartUpload, PartLayout, Vec<PartDone>)>, Failure> {
    let (source, attributes, bucket) =
        (&wish.terms.source, wish.attributes, &work.sides.destination);
    // Those of files are chosen by size alone.
    let is_automatic =
        work.sides.transfer.parts.size == PartSize::Auto && work.sides.source.is_some();
    let cut = if is_automatic && !wish.layout.is_replay() {
        Cut::Automatically(wish.layout.size, &bucket.capabilities().parts)
    } else {
        Cut::Exactly(wish.layout)
    };
    // A file has its time from another clock, and its parts are compared one by one.
    let modified = source.modified.filter(|_| source.etag.is_some());
    let mut best: Option<(MultipartUpload, PartLayout, Vec<PartDone>)> = None;
    for open in listed
        .into_iter()
        .filter(|open| may_be_for(open, modified, attributes))
    {
        let upload = MultipartUpload::open(bucket, wish.key, open.upload_id);
        let upload = match open.initiated {
            Some(initiated) => upload.begun_at(initiated, false),
            None => upload,
        };
        let parts = upload.parts().try_collect().await;
        let declared = if parts.is_ok() {
            upload.declared().await
        } else {
            Ok(None)
        };
        let (parts, declared) = match parts.and_then(|parts| Ok((parts, declared?))) {
            Ok(held) => held,
            Err(failure) if *failure.kind() == FailureKind::NoSuchUpload => continue,
            Err(failure) if failure.is_passing() || failure.ends_run() => return Err(failure),
            // To copy the object anew is always right.
            Err(failure) => {
                let id = upload.id();
                notes.push(format!(
                    "what the open upload {id} holds cannot be seen: {failure}"
                ));
                continue;
            }
        };
        if let Some((layout, kept)) = usable(parts, declared, cut, attributes) {
            let held = |parts: &[PartDone]| parts.iter().map(|part| part.size).sum::<u64>();
            if best
                .as_ref()
                .is_none_or(|(_, _, most)| held(&kept) > held(most))
            {
                best = Some((upload, layout, kept));
            }
        }
    }
    Ok(best)
}

impl Begun {
    /// Disowns this upload: its parts do not make the source, so somebody else created it.
    pub(super) fn disown(&self, work: &Work, draft: &mut Draft) -> Trouble {
        let id = self.upload.id();
        let command = multipart::command(
            &work.sides.destination,
            "abort",
            self.upload.key(),
            Some(id),
        );
        draft.notes.push(format!(
            "the open upload {id} holds something else; it is left open, and the object was copied anew \
             (`{command}` frees its parts)"
        ));
        Trouble::NotOurs
    }

    /// Compares an object made from an adopted upload with the requested attributes, and copies it
    /// anew if they differ. Must be called while the upload is still on record, so that a session
    /// that is killed before leaves the comparison to the next one.
    pub(super) async fn vouched(
        &self,
        work: &Work,
        attributes: &Attributes,
        outcome: Result<Ending, Trouble>,
        seen: &mut Seen,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let (
            Ok(Ending::Done {
                etag,
                destination_version,
                ..
            }),
            true,
        ) = (&outcome, self.claimed)
        else {
            return outcome;
        };
        let copy = (self.upload.key(), destination_version.as_deref());
        if is_as_wished(work, self.upload.id(), copy, attributes, draft).await? {
            return outcome;
        }
        *seen = Seen::Object(etag.clone());
        Err(Trouble::NotOurs)
    }
}
