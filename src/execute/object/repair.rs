//! Sets the tags that an earlier run could not set, without copying the object again.
//!
//! S3 changes tags without a write of the object: nothing is copied, and a versioned bucket gets no
//! new version. s3haul does this only if the destination still has the copy of the earlier run and
//! the source has not changed since. Otherwise it copies the object again, with all its attributes.

use serde_json::Value;

use super::ObjectTask;
use super::round_failure::RoundFailure;
use crate::bucket::Bucket;
use crate::execute::receipt::{Ending, ONLY_TAGS, Proof};
use crate::manifest::job::PublishedCopy;
use crate::pace::slots::SlotKind;
use crate::plan::attributes::merged_tags;
use crate::s3::{Failure, FailureKind, Head, Operation};

impl ObjectTask<'_> {
    /// Sets the tags of a copy that lacks only its tags. Returns `None` if the object must be
    /// copied.
    pub(super) async fn repair_tags(
        &mut self,
        source: &Bucket,
    ) -> Result<Option<Ending>, RoundFailure> {
        let (context, step) = (self.context, self.step);
        let key = &step.entry.key;
        let Some(copy) = context
            .sides
            .transfer
            .repairs
            .get(key.as_str())
            .filter(|_| step.history.is_none())
        else {
            return Ok(None);
        };
        let _slot = self.request_slot(SlotKind::Small).await?;
        let head = source.head(key, step.entry.version.as_deref()).await?;
        let destination = &context.sides.destination;
        let found = match destination.head(&step.key, None).await {
            Err(failure) if *failure.kind() == FailureKind::NotFound => return Ok(None),
            found => found?,
        };
        if !is_unchanged_copy(copy, &head, &found) {
            return Ok(None);
        }
        let kept = source.tags(key, head.version.as_deref()).await?;
        let tags = merged_tags(kept, &context.sides.transfer).map_err(|loss| {
            let place = source.place(key);
            Failure::new(
                FailureKind::NotKept,
                Operation::GetObjectTagging,
                place,
                loss.to_string(),
            )
        })?;
        if !tags.is_empty() || may_have_tags(destination, &found) {
            let at = (found.etag.as_str(), found.version.as_deref());
            self.put_late_tags(at, &tags).await?;
        }
        let draft = &mut self.draft;
        (draft.size, draft.version, draft.route, draft.parts) = (head.size, head.version, None, 0);
        draft.in_place = true;
        draft.notes.push(ONLY_TAGS.to_owned());
        self.count_bytes(head.size);
        let proof = copy
            .proof
            .clone()
            .map(Value::String)
            .and_then(|proof| serde_json::from_value(proof).ok());
        let proof = proof.unwrap_or(Proof::Size);
        Ok(Some(Ending::Done {
            proof,
            etag: found.etag,
            destination_version: found.version,
        }))
    }
}

/// Returns true if an object may have tags. Servers other than Amazon S3 may not show their number.
fn may_have_tags(bucket: &Bucket, found: &Head) -> bool {
    let capabilities = bucket.capabilities();
    let counts = capabilities.refuses_what_it_lacks() || !capabilities.tags;
    found.tag_count.map_or(!counts, |count| count > 0)
}

/// Returns true if the destination has the copy of the earlier run, and the source has not changed
/// since.
fn is_unchanged_copy(copy: &PublishedCopy, head: &Head, found: &Head) -> bool {
    let is_old = match (&copy.source_version, &head.version) {
        (Some(then), Some(now)) => then == now,
        _ => head.modified.is_some_and(|modified| modified <= copy.at),
    };
    let is_same_version = copy.version.is_none() || copy.version == found.version;
    is_old && is_same_version && copy.etag == found.etag && head.size == found.size
}
