//! Handles an object at the key that an earlier session of the run may have copied.
//!
//! The journal names the objects that were planned, not the requests that were in flight when the
//! session died. So another program may have written the object since. It counts as the session's
//! copy only if it has exactly the attributes that this job writes, and if more than its size
//! proves its content. An object with other attributes is copied again, or left alone with
//! `when: missing`.

use super::CopyRound;
use crate::execute::object::round_failure::RoundFailure;
use crate::execute::receipt::{COPIED_BEFORE, Ending, MAY_BE_OURS};
use crate::execute::replan::Replan;
use crate::manifest::job::Attribute;
use crate::plan::condition::DestinationState;
use crate::plan::decide::{Reason, Skip};
use crate::planner::{Planned, Step};
use crate::s3::{Failure, FailureKind, Head, Tag};

impl CopyRound<'_, '_> {
    /// Proves a copy that an earlier session of the run may have made, or skips it. Plans the
    /// object again if the source has changed since it was planned, or if the object at the key has
    /// other attributes than a copy.
    pub(super) async fn prove_found(&mut self, reason: Skip) -> Result<Ending, RoundFailure> {
        let otherwise = self.ask_planner_again(reason).await?;
        Box::pin(
            self.target
                .record_unreadable_tags(&self.source, &mut self.task.draft),
        )
        .await?;
        let destination = self.task.destination();
        let found = destination.head(&self.task.step.key, None).await?;
        if let Some(unlike) = self.unlike_copy(&found).await? {
            return self.leave_or_replace(&found, unlike, otherwise);
        }
        let (bucket, head) = (self.source.bucket, &self.source.head);
        let asked = Some(self.target.asked(head));
        let ending = self
            .task
            .accept_found(found, bucket, head, asked, otherwise)
            .await?;
        let draft = &mut self.task.draft;
        draft.reason = None;
        if matches!(ending, Ending::Done { .. }) {
            draft.notes.push(COPIED_BEFORE.to_owned());
            self.task.count_bytes(self.source.head.size);
        } else {
            draft.notes.push(MAY_BE_OURS.to_owned());
        }
        Ok(ending)
    }

    /// Leaves an object alone that differs from a copy in this attribute if the job replaces
    /// nothing. Otherwise plans another copy.
    fn leave_or_replace(
        &mut self,
        found: &Head,
        unlike: Attribute,
        otherwise: Skip,
    ) -> Result<Ending, RoundFailure> {
        let task = &mut *self.task;
        if matches!(otherwise, Skip::Equal { .. }) {
            task.destination_state = DestinationState::Object(found.etag.clone());
            task.maybe_ours = None;
            task.draft.reason = Some(Reason::AttributesDiffer);
            return Err(Replan::DestinationChanged.into());
        }
        // Other servers may ignore attributes, and any bucket may encrypt by itself.
        let capabilities = task.destination().capabilities();
        let may_be_ours = unlike == Attribute::Encryption || !capabilities.refuses_what_it_lacks();
        task.draft.reason = None;
        let note = may_be_ours.then(|| MAY_BE_OURS.to_owned());
        task.draft.notes.extend(note);
        Ok(Ending::Skipped { reason: otherwise })
    }

    /// Returns an attribute in which an object differs from the copy that this round would make, as
    /// far as HEAD and the tags show.
    async fn unlike_copy(&self, found: &Head) -> Result<Option<Attribute>, Failure> {
        let destination = self.task.destination();
        let asked = self.target.asked(&self.source.head);
        if let Some(unlike) = asked.unlike_copy(found, destination.capabilities()) {
            return Ok(Some(unlike));
        }
        let unlike_tags = Some(Attribute::Tags);
        let Some(wanted) = self.wanted_tags().await? else {
            return Ok(None);
        };
        let capabilities = destination.capabilities();
        let shown = if capabilities.may_have_tags(found) {
            if found
                .tag_count
                .is_some_and(|count| count as usize != wanted.len())
            {
                return Ok(unlike_tags);
            }
            let version = found.version.as_deref();
            let read = destination.tags(&self.task.step.key, version).await;
            let Some(tags) = readable(read)? else {
                return Ok(None);
            };
            tags
        } else {
            Vec::new()
        };
        let is_same = shown.len() == wanted.len() && wanted.iter().all(|tag| shown.contains(tag));
        Ok(unlike_tags.filter(|_| !is_same && capabilities.tags))
    }

    /// Returns the tags that a copy would have, or `None` if they cannot be read.
    async fn wanted_tags(&self) -> Result<Option<Vec<Tag>>, Failure> {
        let source = &self.source;
        let late = self.target.late_tags();
        if !late.is_empty() {
            return Ok(Some(late.to_vec()));
        }
        if let Some(tags) = self.target.asked(&source.head).tag_values() {
            return Ok(Some(tags.to_vec()));
        }
        if !source.bucket.capabilities().may_have_tags(&source.head) {
            return Ok(Some(Vec::new()));
        }
        let version = source.pin.version.as_deref();
        readable(source.bucket.tags(&source.pin.key, version).await)
    }

    /// Asks the planner about the object again, unless the last plan still fits the source. Returns
    /// the reason to skip the object if it cannot be proven, or a [`Replan`] if it must be copied.
    async fn ask_planner_again(&mut self, reason: Skip) -> Result<Skip, RoundFailure> {
        let task = &mut *self.task;
        let (sides, step) = (&task.context.sides, task.step);
        let mut now = step.entry.clone();
        now.update_from_head(self.source.head.clone());
        if step.object.is_some() && !step.entry.differs_from(&now) {
            return Ok(reason);
        }
        let made = task.context.made_before(&step.key);
        let planned = sides.ask_again(step.entry.clone(), step.key.clone(), &made);
        match planned.await {
            Planned::Step(planned) => {
                let Step {
                    destination_state,
                    reason,
                    ..
                } = *planned;
                (task.destination_state, task.maybe_ours) = (destination_state, None);
                task.draft.reason = Some(reason);
                Err(Replan::SourceChanged.into())
            }
            Planned::Skip(_, _, reason) => Ok(reason),
            Planned::Failed(_, _, failure) | Planned::Unlisted(_, failure) => Err(failure.into()),
            Planned::Excluded(_) | Planned::Ignored(..) => Ok(Skip::NotSelected),
            // HEAD shows in the next round that the source is in an archive.
            Planned::Archived(..) | Planned::Again(..) => Err(Replan::SourceChanged.into()),
        }
    }
}

/// Returns `None` for tags that the server does not show.
fn readable(tags: Result<Vec<Tag>, Failure>) -> Result<Option<Vec<Tag>>, Failure> {
    match tags {
        Ok(tags) => Ok(Some(tags)),
        Err(failure) if *failure.kind() == FailureKind::Denied || failure.is_no_answer() => {
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}
