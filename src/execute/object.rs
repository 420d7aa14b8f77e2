//! Copies one object within S3.
//!
//! Unless the list shows enough, HEAD pins the version and `ETag` that every later request names,
//! and gives the attributes to set and the checksum to compare with. Its size, not the listed one,
//! selects the route. If the source turns out to have changed, everything made so far is discarded
//! and the object is planned again, a few times: a copy is of one version, or it is not published.
//! HEAD also shows what can be proven: if the job demands more, the object fails before a byte is
//! copied. Parts that do not make the source are detected before they become an object.

mod multipart;

use super::adopt::{self, Left};
use super::archive::{self, Cold};
use super::attributes::{Wanted, compare_encryption};
use super::condition::{Refused, moved};
use super::monitor::Event;
use super::prove::{Expected, FromParts, Verdict, judge_head};
use super::published::Publication;
use super::receipt::{COPIED_BEFORE, Ending, MAY_BE_OURS, Proof};
use super::{Draft, Trouble, Work, layout, read, repair};
use crate::bucket::Bucket;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::manifest::job::{Source, Versions};
use crate::pace::Slot;
use crate::pace::slots::Want;
use crate::plan::asked::Asked;
use crate::plan::condition::Seen;
use crate::plan::decide::{Route, Skip};
use crate::planner::{Planned, Step};
use crate::s3::{
    ArchiveState, Attributes, Failure, FailureKind, Head, Operation, SourcePin, WriteCondition,
};

/// The most attempts at an object whose source keeps changing.
const ROUNDS: u32 = 4;
/// The size above which a copy in one request takes long enough to count as bulk.
pub(super) use crate::bucket::parking::BULK_FROM;

/// Copies the object of `step`. Returns its ending, with the details in `draft`.
pub(super) async fn copy(
    work: &Work,
    source: &Bucket,
    step: &Step,
    draft: &mut Draft,
) -> Result<Ending, Trouble> {
    let left = work
        .inherited
        .take(step.object, &work.upload_place(&step.key));
    if let Some(ending) = Box::pin(repair::tags(work, source, step, draft)).await? {
        return Ok(ending);
    }
    draft.in_place = work.sides.is_in_place();
    let seen = step.seen.clone();
    let mut copy = Copy {
        work,
        source,
        step,
        ask_each: false,
        seen,
        found: step.found,
        left,
        before: None,
        pinned: None,
        refused_pins: 0,
    };
    let outcome = rounds(&mut copy, draft).await;
    if !matches!(outcome, Err(Trouble::Stopped)) && !copy.left.is_empty() {
        Box::pin(adopt::cancel_all(work, &mut copy.left, draft)).await;
    }
    outcome
}

/// Restores an object, or copies it if it turns out to be readable.
pub(super) async fn restore(
    work: &Work,
    source: &Bucket,
    step: &Step,
    draft: &mut Draft,
) -> Result<Ending, Trouble> {
    let slot = work
        .slots()
        .request(Want::Small)
        .await
        .map_err(|_| Trouble::Stopped)?;
    let answer = archive::meet(work, source, step, &Cold::listed(step)).await;
    drop(slot);
    match answer {
        // Versions are copied in order, so this one is left to the next run, which finds it
        // readable.
        Err(Trouble::SourceChanged) if work.sides.transfer.versions == Versions::All => {
            Ok(Ending::Restoring { requested: None })
        }
        Err(Trouble::SourceChanged) => copy(work, source, step, draft).await,
        other => other.inspect(|_| draft.route = Some(Route::Restore.name())),
    }
}

async fn rounds(copy: &mut Copy<'_>, draft: &mut Draft) -> Result<Ending, Trouble> {
    let Copy {
        work, source, step, ..
    } = *copy;
    let mut gone = None;
    for _ in 0..ROUNDS {
        match copy.round(draft).await {
            Err(Trouble::SourceChanged) => {
                tracing::info!(key = %step.entry.key, "the source changed: planning it again");
            }
            Err(Trouble::NotOurs) => {
                tracing::info!(key = %step.entry.key, "an open upload was of no use: copying it anew");
            }
            Err(Trouble::UploadGone(failure)) => {
                tracing::info!(key = %step.entry.key, %failure, "beginning another upload");
                gone = Some(failure);
            }
            Err(Trouble::OtherBoundaries) => {
                tracing::info!(key = %step.entry.key, "its parts are not uniform: asking for each");
                copy.ask_each = true;
            }
            Err(Trouble::Failed(failure)) if archive::told_late(&failure) => {
                return archive::meet(work, source, step, &Cold::refused(step, &failure)).await;
            }
            other => return other,
        }
    }
    if let Some(failure) = gone {
        return Err(Trouble::Failed(failure));
    }
    let (kind, message) = if let Some(message) = copy.contradiction() {
        (FailureKind::ServerFault, message)
    } else {
        let message = format!("the source changed {ROUNDS} times while it was copied");
        (FailureKind::SourceChanged, message)
    };
    let place = source.place(&step.entry.key);
    Err(Trouble::Failed(Failure::new(
        kind,
        Operation::HeadObject,
        place,
        message,
    )))
}

/// The copy of one object in progress.
pub(super) struct Copy<'a> {
    pub(super) work: &'a Work,
    pub(super) source: &'a Bucket,
    pub(super) step: &'a Step,
    /// True if a guess of the source's part boundaries was wrong, so that each is asked for.
    ask_each: bool,
    /// The known state of the destination's key: first as the plan saw it, then as a round of ours
    /// wrote it.
    pub(super) seen: Seen,
    /// Set if the destination has the object, perhaps from an earlier session: the reason to leave
    /// it alone if it cannot be proven.
    found: Option<Skip>,
    /// Uploads to this key that earlier sessions left open.
    left: Vec<Left>,
    /// The object as it was before the first attempt to change it in place.
    pub(super) before: Option<Head>,
    /// The `ETag`s that HEAD has shown of the source.
    pinned: Option<Pinned>,
    /// The number of times that the server refused to copy the `ETag` that it had just shown.
    pub(super) refused_pins: u32,
}

/// The `ETag`s of the source in the rounds so far.
enum Pinned {
    /// The same in each round.
    Same(String),
    /// Different ones.
    Several,
}

impl Copy<'_> {
    /// Records the `ETag` that HEAD shows.
    fn shows(&mut self, etag: &str) {
        self.pinned = Some(match &self.pinned {
            None => Pinned::Same(etag.to_owned()),
            Some(Pinned::Same(last)) if last == etag => return,
            Some(_) => Pinned::Several,
        });
    }

    /// Returns how the server contradicts itself about a source that has not changed: HEAD shows
    /// the same `ETag` each time, and each copy that names it is refused.
    fn contradiction(&self) -> Option<String> {
        let Some(Pinned::Same(etag)) = &self.pinned else {
            return None;
        };
        let listed = self.step.entry.etag.as_ref();
        let listed = listed
            .filter(|listed| *listed != etag)
            .map(|listed| format!(", its list shows {listed}"));
        (self.refused_pins >= ROUNDS).then(|| {
            format!(
                "the server contradicts itself about the source: HEAD shows the ETag {etag} each time{}, and each of \
                 {ROUNDS} copies of what has it was refused as if the source had changed",
                listed.unwrap_or_default()
            )
        })
    }

    async fn round(&mut self, draft: &mut Draft) -> Result<Ending, Trouble> {
        let (work, source, step) = (self.work, self.source, self.step);
        let is_bulk = step.route.parts() == 0 && step.entry.size > BULK_FROM;
        let want = if is_bulk {
            work.slots().bulk(step.entry.size, step.entry.size)
        } else {
            Want::Small
        };
        let slot = work
            .slots()
            .request(want)
            .await
            .map_err(|_| Trouble::Stopped)?;
        if let Some(etag) = self
            .needs_no_look()
            .filter(|_| !draft.in_place && self.found.is_none())
            && let Some(ending) = Box::pin(self.by_listing(&etag, draft)).await?
        {
            return Ok(ending);
        }
        let mut head = if draft.in_place {
            Box::pin(work.sides.look_in_place(&step.key)).await?
        } else {
            source
                .parking_heads()
                .head(&step.entry.key, step.entry.version.as_deref())
                .await?
        };
        self.is_as_listed(&head)?;
        if let Some(skipped) = self.left_out(&head, draft) {
            return Ok(skipped);
        }
        if draft.in_place
            && let Some(ending) = Box::pin(self.before_change(&head, draft)).await?
        {
            return Ok(ending);
        }
        if head.archive != ArchiveState::Readable {
            return archive::meet(work, source, step, &Cold::seen(&head)).await;
        }
        let pin = self.pin(&head);
        self.shows(&pin.etag);
        let place = (slot, self.ask_each);
        let (route, slot) = layout::route(work, source, step, &head, &pin, place, draft).await?;
        draft.pinned(&head, &route, pin.version.clone());
        let condition = self.condition(route.publishes_by());
        let is_free = step.turn.is_some() || self.found.is_some();
        if !is_free && work.is_taken(&step.key, &self.seen, &condition).await? {
            return Ok(Ending::Skipped {
                reason: Skip::Present,
            });
        }
        let destination = &work.sides.destination;
        let mut wanted = Wanted::of_copy(work, source, &mut head, &pin, &route, draft).await?;
        if draft.in_place {
            wanted.come_at_once(&step.key)?;
        }
        self.demand_proof(&head, wanted.attributes())?;
        if let Some(reason) = self.found {
            drop(slot);
            let reason = Box::pin(self.look_again(&head, reason, draft)).await?;
            Box::pin(wanted.record_unreadable_tags(source, &head, &pin, draft)).await?;
            let asked = wanted.asked(&head);
            return Box::pin(self.found_again(&head, asked, reason, draft)).await;
        }
        let ending = match route {
            Route::MultipartCopy(layout) => {
                self.confirm_size(&head, &pin).await?;
                return Box::pin(self.multipart(slot, &head, &pin, &mut wanted, layout, draft))
                    .await;
            }
            Route::Copy => self.single(slot, &head, &pin, &mut wanted, draft).await,
            Route::Put | Route::MultipartUpload(_) | Route::Restore | Route::DeleteMarker => {
                let place = destination.place(&step.key);
                Err(Failure::new(
                    FailureKind::Bug,
                    Operation::CopyObject,
                    place,
                    "an upload route for a copy",
                )
                .into())
            }
        }?;
        wanted
            .finish(Some((source, &pin)), &step.key, &ending, draft)
            .await?;
        Ok(ending)
    }

    /// Returns the version and `ETag` that every later request names.
    fn pin(&self, head: &Head) -> SourcePin {
        let Self { source, step, .. } = self;
        SourcePin {
            bucket: source.name().clone(),
            key: step.entry.key.clone(),
            version: step
                .entry
                .version
                .clone()
                .or_else(|| self.version_to_read(head)),
            etag: head.etag.clone(),
            customer_key: source
                .client()
                .customer_key()
                .filter(|_| head.customer_key)
                .cloned(),
        }
    }

    /// Returns an error, before a byte is copied, if the copy could not be proven as the job
    /// demands.
    fn demand_proof(&self, head: &Head, attributes: &Attributes) -> Result<(), Failure> {
        let expected = Expected::of(head, self.source.capabilities());
        if !self.work.sides.transfer.proof.demands_an_answer()
            || expected.is_comparable(attributes.checksum)
        {
            return Ok(());
        }
        let why = match &head.checksum {
            None if self.source.capabilities().ignores_checksums => {
                "checksums of the source's server do not count (`checksums: false`)"
            }
            None => "the source has no checksum",
            Some(_) => {
                "the source's checksum is none that the copy can have (`parts: {layout: source}` may keep it)"
            }
        };
        Err(self.work.unprovable(&self.step.key, why))
    }

    /// Returns an error if HEAD contradicts the list.
    fn is_as_listed(&self, head: &Head) -> Result<(), Failure> {
        let Self {
            source,
            step: Step { entry, .. },
            ..
        } = self;
        match entry.contradicted_by(head, source.capabilities().content_etags) {
            None => Ok(()),
            Some(message) => Err(Failure::new(
                FailureKind::ServerFault,
                Operation::HeadObject,
                source.place(&entry.key),
                message,
            )),
        }
    }

    /// Skips an object that was overwritten after it was listed, if the selection excludes what
    /// HEAD shows. An object that a round of ours has already written is not skipped.
    fn left_out(&self, head: &Head, draft: &mut Draft) -> Option<Ending> {
        let listed = &self.step.entry;
        let is_written = self.seen != self.step.seen && self.seen != Seen::Absent;
        if is_written || self.before.is_some() {
            return None;
        }
        let mut now = listed.clone();
        now.take(head.clone());
        let rule = self.work.sides.left_out_now(listed, &now)?;
        Some(draft.left_out(&rule))
    }

    /// Returns an error if an object whose size no list showed is larger than HEAD says, where HEAD
    /// is not believed. A copy in one request shows that only afterwards.
    async fn confirm_size(&self, head: &Head, pin: &SourcePin) -> Result<(), Trouble> {
        let is_listed = !matches!(self.work.sides.transfer.from, Source::Object { .. });
        if is_listed || self.source.capabilities().believes_answers() {
            return Ok(());
        }
        let confirmed = Box::pin(read::confirm_size(self.source, pin, head.size)).await;
        confirmed.map_err(moved)
    }

    async fn single(
        &mut self,
        place: Slot,
        head: &Head,
        pin: &SourcePin,
        wanted: &mut Wanted<'_>,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let destination = &self.work.sides.destination;
        let (step, condition) = (self.step, self.condition(ConditionalWrite::Copy));
        let answer = wanted
            .copy_object(self.source, pin, head.size, step, &condition, draft)
            .await;
        let written = match answer {
            Ok(answer) => {
                draft.attempts += answer.attempts;
                answer.value
            }
            Err(failure) => {
                draft.attempts += failure.details().attempts;
                return self
                    .refused((head, wanted.asked(head)), pin, &condition, failure, draft)
                    .await;
            }
        };
        self.seen = Seen::Object(written.etag.clone());
        let may_be_mixed = !destination.capabilities().pins_copies() && !draft.in_place;
        if may_be_mixed && !self.is_unchanged(head, pin).await? {
            return Err(Trouble::SourceChanged);
        }
        compare_encryption(self.work, head, &written, draft);
        let expected = Expected::of(head, self.source.capabilities());
        let asked = Some(wanted.asked(head));
        let published = Publication {
            written: &written,
            made: &FromParts::default(),
            parts: 0,
            asked,
            slot: Some(place),
        };
        let proof = self.prove(expected, head, pin, published, draft).await?;
        self.work.monitor.observe(&Event::BytesCopied {
            id: None,
            bytes: head.size,
        });
        Ok(Ending::Done {
            proof,
            etag: written.etag,
            destination_version: written.version,
        })
    }

    /// Handles a failed `CopyObject`, whose 412 or 404 may be about the source or the destination.
    async fn refused(
        &mut self,
        (head, asked): (&Head, Asked<'_>),
        pin: &SourcePin,
        condition: &WriteCondition,
        failure: Failure,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        match self.work.refused(condition, &failure) {
            None if *failure.kind() == FailureKind::PreconditionFailed => {
                self.refused_pins += 1;
                Err(Trouble::SourceChanged)
            }
            None => Err(self.work.explained(condition, failure).into()),
            Some(Refused::Raced) => Err(Trouble::SourceChanged),
            Some(_) if !self.is_unchanged(head, pin).await? => Err(Trouble::SourceChanged),
            Some(Refused::Deleted) => {
                self.seen = Seen::Absent;
                Err(Trouble::SourceChanged)
            }
            // In place, the object is its own source, which is unchanged: whatever failed the
            // condition is over.
            Some(Refused::Taken(_)) if draft.in_place => Err(Trouble::SourceChanged),
            // The condition holds now: the object was deleted, or the server refused because of the
            // source and showed something else by HEAD.
            Some(Refused::Taken(_)) if self.work.holds(&self.step.key, condition).await? => {
                Err(Trouble::SourceChanged)
            }
            // Taken by someone else, or by an earlier attempt of ours whose answer was lost,
            // perhaps in an earlier round.
            Some(Refused::Taken(skip)) if draft.attempts > 1 => {
                self.adopt(head, Some(asked), skip, draft).await
            }
            Some(Refused::Taken(skip)) => Ok(Ending::Skipped { reason: skip }),
        }
    }

    /// Returns the condition of the write. A history has none: from its second version on, its key
    /// exists, whatever `when` says.
    pub(super) fn condition(&self, by: ConditionalWrite) -> WriteCondition {
        if self.step.turn.is_some() {
            WriteCondition::None
        } else {
            self.work.condition(&self.seen, by)
        }
    }

    /// Accepts the object at the key as our copy if more than its size proves it equal to the
    /// source. Otherwise skips it.
    pub(super) async fn adopt(
        &self,
        head: &Head,
        asked: Option<Asked<'_>>,
        otherwise: Skip,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let destination = &self.work.sides.destination;
        let found = destination.head(&self.step.key, None).await?;
        let expected = Expected::of(head, self.source.capabilities());
        match judge_head(
            &expected,
            &found,
            &FromParts::default(),
            destination.capabilities().content_etags,
        ) {
            Verdict::Proven(proof) if proof != Proof::Size => {
                let proof = self.work.require_strength(&self.step.key, proof)?;
                let written = found.clone().written();
                compare_encryption(self.work, head, &written, draft);
                if let Some(asked) = asked {
                    Box::pin(self.work.settle_differences(
                        &self.step.key,
                        &written,
                        asked,
                        &found,
                        draft,
                    ))
                    .await?;
                }
                Ok(Ending::Done {
                    proof,
                    etag: written.etag,
                    destination_version: written.version,
                })
            }
            _ => Ok(Ending::Skipped { reason: otherwise }),
        }
    }

    /// Plans an object again that an earlier session may have copied, unless the planner has just
    /// done so and the source is unchanged. Returns the reason to leave it alone.
    async fn look_again(
        &mut self,
        head: &Head,
        reason: Skip,
        draft: &mut Draft,
    ) -> Result<Skip, Trouble> {
        let (sides, step) = (&self.work.sides, self.step);
        let mut now = step.entry.clone();
        now.take(head.clone());
        if step.object.is_some() && !step.entry.differs_from(&now) {
            return Ok(reason);
        }
        let made = self.work.made_before(&step.key);
        let planned = sides.ask_again(step.entry.clone(), step.key.clone(), &made);
        match planned.await {
            Planned::Step(planned) => {
                (self.seen, self.found) = (planned.seen, None);
                draft.reason = Some(planned.reason);
                Err(Trouble::SourceChanged)
            }
            Planned::Skip(_, _, reason) => Ok(reason),
            Planned::Failed(_, _, failure) => Err(failure.into()),
            _ => Ok(reason),
        }
    }

    /// Proves a copy that an earlier session of the run may have made, or leaves it alone.
    async fn found_again(
        &self,
        head: &Head,
        asked: Asked<'_>,
        otherwise: Skip,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let ending = self.adopt(head, Some(asked), otherwise, draft).await?;
        draft.reason = None;
        draft.notes.push(match &ending {
            Ending::Done { .. } => COPIED_BEFORE.to_owned(),
            _ => MAY_BE_OURS.to_owned(),
        });
        if matches!(ending, Ending::Done { .. }) {
            self.work.monitor.observe(&Event::BytesCopied {
                id: None,
                bytes: head.size,
            });
        }
        Ok(ending)
    }
}
