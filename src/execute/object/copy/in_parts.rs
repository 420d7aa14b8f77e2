//! Copies one object as a multipart upload.
//!
//! s3haul resumes an upload of the same version and attributes that an earlier session left open,
//! adopts an upload that no journal records (`--adopt`), or creates a new upload. Parts that would
//! not equal the source are detected before they are published.

use std::sync::Arc;

use super::CopyRound;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::execute::object::ObjectTask;
use crate::execute::object::condition::WriteResult;
use crate::execute::object::published::PublishedObject;
use crate::execute::object::round_failure::RoundFailure;
use crate::execute::object::upload::parts::PartSource;
use crate::execute::object::upload::record::UploadFingerprint;
use crate::execute::object::upload::resume::Resumed;
use crate::execute::object::upload::{UploadRequest, UploadSession, adopt};
use crate::execute::prove::{Expected, Forecast, FromParts, forecast, proves};
use crate::execute::receipt::Ending;
use crate::execute::replan::Replan;
use crate::journal::event::SourceVersion;
use crate::manifest::job::Prove;
use crate::pace::Slot;
use crate::plan::condition::DestinationState;
use crate::plan::decide::Skip;
use crate::plan::parts::PartLayout;
use crate::s3::{ChecksumKind, CompleteSpec, FailureKind, Head};

impl<'w> CopyRound<'_, 'w> {
    /// Copies the parts of the layout, and publishes them.
    pub(super) async fn in_parts(
        &mut self,
        slot: Slot,
        layout: PartLayout,
    ) -> Result<Ending, RoundFailure> {
        let request = self.upload_request(layout);
        let session = match UploadSession::resume(self.task, &request).await? {
            Some(Resumed::Session(session)) => {
                drop(slot);
                *session
            }
            // In place, source and destination are the same object, so equality does not prove the
            // change.
            Some(Resumed::Published(found, etag)) if !self.task.draft.in_place => {
                drop(slot);
                let ending = self.prove_published(*found, etag).await?;
                self.set_late_attributes(&ending).await?;
                return Ok(ending);
            }
            Some(Resumed::Published(..)) | None => {
                let source = Some(&*self.source);
                let target = &mut self.target;
                UploadSession::adopt_or_create(self.task, target, source, request, Some(slot))
                    .await?
            }
        };
        self.send(session).await
    }

    /// Returns the upload that the copy needs.
    fn upload_request(&self, layout: PartLayout) -> UploadRequest {
        let (head, pin) = (&self.source.head, &self.source.pin);
        let version = SourceVersion {
            size: head.size,
            version: pin.version.clone(),
            etag: Some(pin.etag.clone()),
            modified: head.modified,
        };
        let attributes = self.target.to_send();
        let declared = attributes.checksum;
        let reads = self.task.context.sides.transfer.proof.prove == Prove::Read
            && declared.is_some_and(|(_, kind)| kind == ChecksumKind::FullObject);
        let adoption_obstacle = if self.expected().is_comparable(declared) || reads {
            adopt::unseen_acl(attributes)
        } else {
            Some(
                "the source has no checksum to prove its parts by; `prove: read` would compute one",
            )
        };
        UploadRequest {
            fingerprint: UploadFingerprint::of(version, self.target.requested()),
            layout,
            attributes: attributes.clone(),
            checksum: head.checksum.clone(),
            adoption_obstacle,
        }
    }

    /// Copies the parts that S3 does not hold yet, publishes the object, and sets the attributes
    /// that no header can carry. The upload stays on record until all attributes are set, so that
    /// the next session knows that this run made the object.
    async fn send(&mut self, mut session: UploadSession<'w>) -> Result<Ending, RoundFailure> {
        self.task.draft.parts = session.layout.count;
        let outcome = self.copy_and_publish(&mut session).await;
        let attributes = self.target.to_send();
        let outcome = session.verify_adopted(attributes, outcome, self.task).await;
        let attributes_set = match &outcome {
            Ok(ending) => self.set_late_attributes(ending).await,
            Err(_) => Ok(()),
        };
        if attributes_set
            .as_ref()
            .is_err_and(RoundFailure::leaves_object_to_next_session)
        {
            session.close(self.task);
            return attributes_set.and(outcome);
        }
        let outcome = session.end(outcome, self.task).await;
        attributes_set.and(outcome)
    }

    /// Proves an object that an earlier session published without receiving the response.
    async fn prove_published(
        &mut self,
        found: Head,
        etag: Option<String>,
    ) -> Result<Ending, RoundFailure> {
        let written = found.clone().written();
        self.task.compare_encryption(&self.source.head, &written);
        let published = PublishedObject {
            written: &written,
            made: &FromParts::recorded(etag),
            parts: 0,
            compares: false,
            slot: self.task.context.small_slot().await,
        };
        let proof = self.prove(self.expected(), published).await?;
        let asked = self.target.asked(&self.source.head);
        self.task
            .record_differences(&written, asked, &found)
            .await?;
        self.task.count_bytes(self.source.head.size);
        Ok(ObjectTask::done(proof, written))
    }

    /// Copies the parts, checks them against the source, and publishes and proves the object.
    async fn copy_and_publish(
        &mut self,
        session: &mut UploadSession<'w>,
    ) -> Result<Ending, RoundFailure> {
        self.copy_parts(session).await?;
        let (context, in_place) = (self.task.context, self.task.draft.in_place);
        let capabilities = context.sides.destination.capabilities();
        let is_kms = session.upload.is_kms();
        let declared = session.upload.declared().await?;
        let made = FromParts::of(&session.done, declared);
        let expected = self.expected_of_parts(session, &made).await?;
        if session.is_adopted && !proves(&expected, &made) {
            return Err(session.disown(self.task));
        }
        let boundaries = &session.layout.boundaries;
        match forecast(&expected, &made, boundaries, capabilities.content_etags) {
            Forecast::Publish => {}
            Forecast::Unkept(why) => self.task.lose_etag(&why),
            Forecast::OtherBoundaries => return Err(Replan::OtherBoundaries.into()),
            Forecast::Contradicted(what) => {
                return Err(self.explain_difference(&what, None).await);
            }
        }
        let slot = context.small_slot().await;
        if !capabilities.pins_parts() && !self.is_unchanged().await? {
            return Err(Replan::SourceChanged.into());
        }
        let condition = self.task.condition(ConditionalWrite::Complete);
        if self.task.is_taken(&condition).await? {
            return Ok(Ending::Skipped {
                reason: Skip::Present,
            });
        }
        let spec = CompleteSpec {
            size: self.source.head.size,
            checksum: None,
            // S3 refuses to publish an object whose checksum differs from this one, which is
            // computed from the parts. `forecast` has compared it with the source's.
            full_checksum: made
                .checksum
                .clone()
                .filter(|sum| sum.kind == ChecksumKind::FullObject),
            condition,
        };
        let etag = made.etag().filter(|_| !is_kms).map(str::to_owned);
        let published = session.complete(&session.done, etag, spec, self.task).await;
        let written = match published {
            Ok(WriteResult::Written(written)) => written,
            Ok(WriteResult::Left(reason)) => return Ok(Ending::Skipped { reason }),
            Err(RoundFailure::Failed(failure)) if *failure.kind() == FailureKind::Corrupted => {
                let what = "S3 refused to publish parts that do not make the source's checksum";
                return Err(self.explain_difference(what, None).await);
            }
            // The object may be unchanged, or another writer may have overwritten it.
            Err(RoundFailure::Failed(failure))
                if in_place && *failure.kind() == FailureKind::NoSuchUpload =>
            {
                return Err(Replan::DestinationChanged.after(failure));
            }
            Err(error) => return Err(error),
        };
        if in_place && written.was_found {
            Box::pin(self.task.confirm_change()).await?;
        }
        self.task.destination_state = DestinationState::Object(written.etag.clone());
        self.task.compare_encryption(&self.source.head, &written);
        let made = if is_kms { made.without_etag() } else { made };
        let published = PublishedObject {
            written: &written,
            made: &made,
            parts: session.layout.count,
            // `verify_adopted` compares the attributes of an adopted upload.
            compares: !session.is_adopted,
            slot,
        };
        let proof = Box::pin(self.prove(expected, published)).await?;
        tracing::debug!(key = %self.task.step.key, %proof, "published");
        Ok(ObjectTask::done(proof, written))
    }

    /// Copies the parts that S3 does not hold yet.
    async fn copy_parts(&self, session: &mut UploadSession<'w>) -> Result<(), RoundFailure> {
        // Two requests store an identical part only if the source is pinned and no encryption key
        // changes the ETag. The encryption key of an adopted upload is unknown.
        let capabilities = self.task.destination().capabilities();
        let may_send_twice = capabilities.pins_parts()
            && capabilities.content_etags
            && !session.upload.is_kms()
            && !session.is_adopted;
        let pin = Arc::new(self.source.pin.clone());
        let sent = session
            .send_all(PartSource::CopyRange {
                pin,
                may_send_twice,
            })
            .await;
        sent.map_err(|error| match error {
            RoundFailure::Failed(failure) if *failure.kind() == FailureKind::PreconditionFailed => {
                Replan::SourceRefused.into()
            }
            RoundFailure::Replan(Replan::SourceChanged, _) => Replan::SourceRefused.into(),
            error => error,
        })?;
        session.done.sort_unstable_by_key(|part| part.number);
        Ok(())
    }

    /// Returns the properties of the source that the parts are compared with. If the source has no
    /// checksum that can be compared with the parts' checksum, and the job says `prove: read`,
    /// reads the source, so that a wrong upload is detected before it is published.
    async fn expected_of_parts(
        &mut self,
        session: &UploadSession<'_>,
        made: &FromParts,
    ) -> Result<Expected, RoundFailure> {
        let mut expected = self.expected();
        if session.upload.is_kms() {
            expected.etag = None;
            if session.layout.is_replay() {
                let why = "with a KMS or customer key, the ETag is not derived from the bytes";
                self.task.lose_etag(why);
            }
        }
        let is_wanted = self.task.context.sides.transfer.proof.prove == Prove::Read;
        if let Some(sum) = &made.checksum
            && sum.kind == ChecksumKind::FullObject
            && is_wanted
            && !expected.is_comparable(Some((sum.algorithm, sum.kind)))
        {
            expected.checksum = Some(self.checksum_source(sum.algorithm).await?);
            expected.read = true;
        }
        Ok(expected)
    }
}
