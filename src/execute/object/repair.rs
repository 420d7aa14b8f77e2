//! Sets the tags that an earlier run could not set, without copying the object again. `retry` names
//! such copies, and the planner finds the copies that a killed session left without tags
//! ([`Reason::LacksTags`]).
//!
//! S3 changes tags without a write of the object: nothing is copied, and a versioned bucket gets no
//! new version. s3haul does this only if the destination still has the copy of the earlier run and
//! the source has not changed since. Otherwise s3haul copies the object again, with all its
//! attributes.

use serde_json::Value;

use super::ObjectTask;
use super::attributes::TargetAttributes;
use super::pinned::PinnedSource;
use super::round_failure::RoundFailure;
use crate::bucket::Bucket;
use crate::execute::prove::{Expected, FromParts, ProofVerdict, judge_head};
use crate::execute::receipt::{Ending, ONLY_TAGS, Proof};
use crate::manifest::job::{Prove, PublishedCopy};
use crate::pace::slots::SlotKind;
use crate::plan::attributes::set_tags;
use crate::plan::condition::DestinationState;
use crate::plan::decide::Reason;
use crate::planner::Step;
use crate::s3::{FailureKind, Head, is_immutable_version};

impl<'w> ObjectTask<'w> {
    /// Sets the tags of a copy that lacks only its tags. Returns `None` if the object must be
    /// copied.
    pub(super) async fn repair_tags(
        &mut self,
        source: &'w Bucket,
    ) -> Result<Option<Ending>, RoundFailure> {
        let (context, step) = (self.context, self.step);
        let key = &step.entry.key;
        let transfer = &context.sides.transfer;
        let recorded = transfer.repairs.get(key.as_str());
        let recorded = recorded.filter(|_| step.history.is_none());
        let Some(copy) = recorded.cloned().or_else(|| untagged_copy(step)) else {
            return Ok(None);
        };
        let _slot = self.request_slot(SlotKind::Small).await?;
        let head = source.head(key, step.entry.version.as_deref()).await?;
        let source = self.pinned(source, head);
        let destination = &context.sides.destination;
        let found = match destination.head(&step.key, None).await {
            Err(failure) if *failure.kind() == FailureKind::NotFound => return Ok(None),
            found => found?,
        };
        if !is_unchanged_copy(&copy, &source.head, &found) {
            return Ok(None);
        }
        let proof = if recorded.is_some() {
            let proof = copy.proof.map(Value::String);
            let proof = proof.and_then(|proof| serde_json::from_value(proof).ok());
            // A copy whose proof is too weak, or not recorded, is made again.
            match self.require_strength(proof.unwrap_or(Proof::Size)) {
                Ok(proof) => proof,
                Err(_) => return Ok(None),
            }
        } else if let Some(proof) = self.proof_of_untagged(&source, &found) {
            proof
        } else {
            return Ok(None);
        };
        let tags = if transfer.preserve.tags.keeps() {
            let read = TargetAttributes::tags_of_copy(context, &source, &mut self.draft);
            match Box::pin(read).await {
                // The source was replaced meanwhile.
                Err(RoundFailure::Replan(..)) => return Ok(None),
                tags => tags?,
            }
        } else {
            set_tags(transfer)
        };
        let mut is_set = true;
        if !tags.is_empty() || destination.capabilities().may_have_tags(&found) {
            let at = (found.etag.as_str(), found.version.as_deref());
            is_set = self.try_late_tags(at, &tags).await?;
        }
        let draft = &mut self.draft;
        draft.pinned(&source.head, &step.route, source.pin.version.clone());
        (draft.route, draft.parts, draft.in_place) = (None, 0, true);
        draft.notes.extend(is_set.then(|| ONLY_TAGS.to_owned()));
        self.count_bytes(source.head.size);
        Ok(Some(Ending::Done {
            proof,
            etag: found.etag,
            destination_version: found.version,
        }))
    }

    /// Returns the proof that HEAD gives of a copy that the planner found without its tags. Returns
    /// `None` if the copy is known to be wrong, or if the job demands a stronger proof.
    fn proof_of_untagged(&self, source: &PinnedSource<'_>, found: &Head) -> Option<Proof> {
        let (_, place) = self.context.location(self.step);
        if self.context.resumed.unproven.contains(&place) {
            return None;
        }
        let expected = Expected::of(&source.head, source.bucket.capabilities());
        let content_etags = self.destination().capabilities().content_etags;
        let proof = match judge_head(&expected, found, &FromParts::default(), content_etags) {
            ProofVerdict::Proven(proof) => proof,
            ProofVerdict::Unknown => Proof::Size,
            ProofVerdict::Contradicted(_) => return None,
        };
        // `prove: read` reads bytes only after a copy, so copy again unless a checksum proves the
        // object.
        let is_to_be_read = self.context.sides.transfer.proof.prove == Prove::Read;
        let proof = self.require_strength(proof).ok()?;
        (proof.is_checksum() || !is_to_be_read).then_some(proof)
    }
}

/// Returns the copy that the planner found without its tags.
fn untagged_copy(step: &Step) -> Option<PublishedCopy> {
    let DestinationState::Object(etag) = &step.destination_state else {
        return None;
    };
    (step.reason == Reason::LacksTags).then(|| PublishedCopy {
        source_version: step.entry.version.clone(),
        source_etag: step.entry.etag.clone(),
        source_modified: step.entry.modified,
        etag: etag.clone(),
        version: None,
        proof: None,
    })
}

/// Returns true if the destination has the copy of the earlier run, and the source has not changed
/// since: it has the same immutable version or, without one, the same `ETag` and time. Both times
/// come from the source's server, because the clock of this machine may be wrong.
fn is_unchanged_copy(copy: &PublishedCopy, head: &Head, found: &Head) -> bool {
    let then = copy.source_version.as_deref();
    let is_same_source = if let Some(then) = then.filter(|then| is_immutable_version(then)) {
        head.version.as_deref() == Some(then)
    } else {
        let times = copy.source_modified.zip(head.modified);
        copy.source_etag.as_ref() == Some(&head.etag)
            && times.is_some_and(|(then, now)| then.as_second() == now.as_second())
    };
    let is_same_version = copy.version.is_none() || copy.version == found.version;
    is_same_source && is_same_version && copy.etag == found.etag && head.size == found.size
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn only_an_unchanged_source_gives_its_tags_to_the_old_copy() {
        let at = |second| Timestamp::from_second(second).ok();
        let head = |version: Option<&str>, etag: &str, second| Head {
            size: 7,
            etag: etag.to_owned(),
            modified: at(second),
            version: version.map(str::to_owned),
            ..Head::default()
        };
        let copy = |version: Option<&str>, etag: Option<&str>, modified| PublishedCopy {
            source_version: version.map(str::to_owned),
            source_etag: etag.map(str::to_owned),
            source_modified: modified,
            etag: "copy".to_owned(),
            version: None,
            proof: None,
        };
        let found = head(None, "copy", 9);
        for (case, copy, now, is_unchanged) in [
            (
                "the same version",
                copy(Some("v1"), None, None),
                head(Some("v1"), "e", 5),
                true,
            ),
            (
                "another version",
                copy(Some("v1"), None, None),
                head(Some("v2"), "e", 5),
                false,
            ),
            (
                "`null` alone",
                copy(Some("null"), None, None),
                head(Some("null"), "e", 5),
                false,
            ),
            (
                "`null` and the same object",
                copy(Some("null"), Some("e"), at(5)),
                head(Some("null"), "e", 5),
                true,
            ),
            (
                "`null`, replaced in place",
                copy(Some("null"), Some("e"), at(5)),
                head(Some("null"), "f", 6),
                false,
            ),
            (
                "the same object",
                copy(None, Some("e"), at(5)),
                head(None, "e", 5),
                true,
            ),
            (
                "the same bytes, written again",
                copy(None, Some("e"), at(5)),
                head(None, "e", 6),
                false,
            ),
            (
                "other bytes",
                copy(None, Some("e"), at(5)),
                head(None, "f", 5),
                false,
            ),
            (
                "a report of an old version",
                copy(None, None, None),
                head(None, "e", 5),
                false,
            ),
        ] {
            assert_eq!(
                is_unchanged_copy(&copy, &now, &found),
                is_unchanged,
                "{case}"
            );
        }
    }
}
