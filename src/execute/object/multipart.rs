//! Copies one object as a multipart upload.
//!
//! An upload that an earlier session left open is resumed, or one that was found open is adopted,
//! if it is for the same version and terms; otherwise a new one is created. Parts that do not make
//! the source are detected before they become an object.

use std::sync::Arc;

use super::Copy;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::execute::adopt::{self, Begun, Found, Published, Wish};
use crate::execute::attributes::{Wanted, compare_encryption};
use crate::execute::claim;
use crate::execute::condition::moved;
use crate::execute::monitor::Event;
use crate::execute::part::{self, Progress};
use crate::execute::prove::{Expected, Forecast, FromParts, forecast, proves};
use crate::execute::published::Publication;
use crate::execute::receipt::Ending;
use crate::execute::tracked::Terms;
use crate::execute::{Draft, Trouble, layout, read};
use crate::journal::event::SourceVersion;
use crate::manifest::job::Prove;
use crate::pace::Slot;
use crate::plan::asked::Asked;
use crate::plan::condition::Seen;
use crate::plan::decide::Skip;
use crate::plan::parts::PartLayout;
use crate::s3::{
    Attributes, ChecksumAlgorithm, ChecksumKind, CompleteSpec, FailureKind, Head, PartDone,
    SourcePin, WriteCondition,
};

impl Copy<'_> {
    pub(super) async fn multipart(
        &mut self,
        place: Slot,
        head: &Head,
        pin: &SourcePin,
        wanted: &mut Wanted<'_>,
        layout: PartLayout,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let (work, source, step) = (self.work, self.source, self.step);
        let version = SourceVersion {
            size: head.size,
            version: pin.version.clone(),
            etag: Some(pin.etag.clone()),
            modified: head.modified,
        };
        let terms = Terms::of(version, wanted.requested());
        let wish = Wish {
            key: &step.key,
            terms: &terms,
            layout: &layout,
            attributes: wanted.attributes(),
            checksum: head.checksum.as_ref(),
        };
        match adopt::find(work, &mut self.left, &wish, draft).await? {
            // In place, the object equals itself anyway, which does not prove that it was changed.
            Some(Found::Published(..)) if draft.in_place => {}
            Some(Found::Open(begun)) => {
                drop(place);
                return self.carry(head, pin, *begun, wanted, draft).await;
            }
            Some(Found::Published(found, etag)) => {
                drop(place);
                let asked = wanted.asked(head);
                let ending = self.found(head, pin, (*found, etag), asked, draft).await?;
                wanted
                    .finish(Some((source, pin)), &step.key, &ending, draft)
                    .await?;
                return Ok(ending);
            }
            None => {}
        }
        let doubt = self.doubt(head, wanted.attributes());
        if let Some(begun) = claim::find(work, step, &wish, doubt, draft).await? {
            drop(place);
            return self.carry(head, pin, begun, wanted, draft).await;
        }
        let initiate = async {
            let upload = wanted.initiate(source, pin, &step.key, draft).await?;
            drop(place);
            Ok((upload, terms.begun_with(draft)))
        };
        let mut notes = Vec::new();
        let begun = Begun::begin(work, step, layout, initiate, &mut notes).await;
        draft.notes.append(&mut notes);
        self.carry(head, pin, begun?, wanted, draft).await
    }

    /// Returns the reason why an upload of unknown origin could not be distinguished from one of
    /// other bytes or with another ACL, if there is one.
    fn doubt(&self, head: &Head, attributes: &Attributes) -> Option<&'static str> {
        let declared = attributes.checksum;
        let is_comparable = Expected::of(head, self.source.capabilities()).is_comparable(declared);
        let reads = self.work.sides.transfer.proof.prove == Prove::Read
            && declared.is_some_and(|(_, kind)| kind == ChecksumKind::FullObject);
        if !is_comparable && !reads {
            return Some(
                "the source has no checksum to prove its parts by; `prove: read` would compute one",
            );
        }
        claim::unseen_acl(attributes)
    }

    /// Copies the parts that S3 does not hold yet, publishes the object, and sets the attributes
    /// that can be set only then. The record of the upload stays until that is done: it tells the
    /// next session that the object is ours.
    async fn carry(
        &mut self,
        head: &Head,
        pin: &SourcePin,
        begun: Begun,
        wanted: &Wanted<'_>,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let (work, asked) = (self.work, wanted.asked(head));
        draft.parts = begun.layout.count;
        let mut progress = Progress::of(&begun, begun.kept.clone());
        let id = begun.announce(work, progress.bytes);
        let outcome = self
            .parts_to_object(head, pin, (&begun, asked), (id, &mut progress), draft)
            .await;
        let outcome = begun
            .vouched(work, asked.attributes, outcome, &mut self.seen, draft)
            .await;
        let source = Some((self.source, pin));
        let late = match &outcome {
            Ok(ending) => wanted.finish(source, &self.step.key, ending, draft).await,
            Err(_) => Ok(()),
        };
        if late.as_ref().is_err_and(Trouble::is_left) {
            draft.attempts += progress.attempts;
            work.monitor.observe(&Event::UploadEnded { id });
            return late.and(outcome);
        }
        let outcome = begun.settle(work, id, outcome, &progress, draft).await;
        late.and(outcome)
    }

    /// Proves an object that an earlier session published without receiving the answer.
    async fn found(
        &mut self,
        head: &Head,
        pin: &SourcePin,
        (found, etag): (Head, Option<String>),
        asked: Asked<'_>,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let written = found.clone().written();
        compare_encryption(self.work, head, &written, draft);
        let expected = Expected::of(head, self.source.capabilities());
        let made = FromParts::recorded(etag);
        let slot = self.work.place().await;
        let published = Publication {
            written: &written,
            made: &made,
            parts: 0,
            asked: None,
            slot,
        };
        let proof = self.prove(expected, head, pin, published, draft).await?;
        self.work
            .settle_differences(&self.step.key, &written, asked, &found, draft)
            .await?;
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

    async fn parts_to_object(
        &mut self,
        head: &Head,
        pin: &SourcePin,
        (begun, asked): (&Begun, Asked<'_>),
        (id, progress): (u64, &mut Progress),
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let (work, source, step) = (self.work, self.source, self.step);
        let Begun { upload, layout, .. } = begun;
        let capabilities = work.sides.destination.capabilities();
        let copied = self.copy_parts(pin, begun, (id, progress)).await;
        if let Err(Trouble::SourceChanged) = &copied {
            self.refused_pins += 1;
        }
        copied?;
        progress.done.sort_unstable_by_key(|part| part.number);
        let declared = upload.declared().await?;
        let made = FromParts::of(&progress.done, declared);
        let mut expected = Expected::of(head, source.capabilities());
        if upload.is_kms() {
            expected.etag = None;
            if layout.is_replay() {
                layout::lose(draft, "a KMS or customer key makes an ETag of its own");
            }
        }
        self.read_source(&mut expected, head, pin, declared, &made)
            .await?;
        if begun.claimed && !proves(&expected, &made) {
            return Err(begun.disown(work, draft));
        }
        match forecast(
            &expected,
            &made,
            &layout.boundaries,
            capabilities.content_etags,
        ) {
            Forecast::Publish => {}
            Forecast::Unkept(why) => layout::lose(draft, &why),
            Forecast::OtherBoundaries => return Err(Trouble::OtherBoundaries),
            Forecast::Contradicted(what) => {
                return Err(self.explain_difference(head, pin, &what, None).await);
            }
        }
        let place = work.place().await;
        if !capabilities.pins_parts() && !self.is_unchanged(head, pin).await? {
            return Err(Trouble::SourceChanged);
        }
        let condition = self.condition(ConditionalWrite::Complete);
        if step.turn.is_none() && work.is_taken(&step.key, &self.seen, &condition).await? {
            return Ok(Ending::Skipped {
                reason: Skip::Present,
            });
        }
        let published = self
            .publish(head, pin, begun, (&made, &progress.done), condition)
            .await;
        let written = match published {
            Ok(Published::Written(written)) => written,
            Ok(Published::Taken(_)) if draft.in_place => return Err(Trouble::SourceChanged),
            Ok(Published::Taken(skip)) => return Ok(Ending::Skipped { reason: skip }),
            // The object is unchanged, or somebody else has overwritten it.
            Err(Trouble::Failed(failure))
                if draft.in_place && *failure.kind() == FailureKind::NoSuchUpload =>
            {
                return Err(Trouble::SourceChanged);
            }
            Err(trouble) => return Err(trouble),
        };
        if draft.in_place && written.was_found {
            Box::pin(self.is_changed()).await?;
        }
        self.seen = Seen::Object(written.etag.clone());
        compare_encryption(work, head, &written, draft);
        let made = if upload.is_kms() {
            made.without_etag()
        } else {
            made
        };
        // `Begun::vouched` compares the attributes of an adopted upload, and copies the object
        // again if they differ.
        let asked = Some(asked).filter(|_| !begun.claimed);
        let published = Publication {
            written: &written,
            made: &made,
            parts: layout.count,
            asked,
            slot: place,
        };
        let proof = Box::pin(self.prove(expected, head, pin, published, draft)).await?;
        tracing::debug!(key = %step.key, %proof, "published");
        Ok(Ending::Done {
            proof,
            etag: written.etag,
            destination_version: written.version,
        })
    }

    /// Copies the parts that S3 does not hold yet.
    async fn copy_parts(
        &self,
        pin: &SourcePin,
        begun: &Begun,
        (id, progress): (u64, &mut Progress),
    ) -> Result<(), Trouble> {
        let work = self.work;
        let Begun { upload, layout, .. } = begun;
        let (shared, pinned) = (Arc::new(upload.clone()), Arc::new(pin.clone()));
        // Two requests store the same part only where the source is pinned and no key makes ETags
        // of its own; the key of an upload that was found open is unknown.
        let capabilities = work.sides.destination.capabilities();
        let twice = capabilities.pins_parts()
            && capabilities.content_etags
            && !upload.is_kms()
            && !begun.claimed;
        let count = layout.count;
        part::all(work, id, layout.clone(), progress, move |part| {
            let (upload, pin) = (Arc::clone(&shared), Arc::clone(&pinned));
            // A part that is the whole object is named without a range: tiny sources refuse ranges.
            let range = (count > 1).then(|| part.first_last());
            async move {
                upload
                    .copy_range(part.number, &pin, range, part.length, twice)
                    .await
            }
        })
        .await
        .map_err(|trouble| match trouble {
            Trouble::Failed(failure) => moved(failure),
            other => other,
        })
    }

    /// Publishes the parts, which were compared with the source as far as possible.
    async fn publish(
        &mut self,
        head: &Head,
        pin: &SourcePin,
        begun: &Begun,
        (made, parts): (&FromParts, &[PartDone]),
        condition: WriteCondition,
    ) -> Result<Published, Trouble> {
        let (work, upload) = (self.work, &begun.upload);
        let spec = CompleteSpec {
            size: head.size,
            checksum: None,
            // With it, S3 refuses to publish anything that differs from what the parts' checksums
            // make, which was compared with the source's checksum.
            full_checksum: made
                .checksum
                .clone()
                .filter(|sum| sum.kind == ChecksumKind::FullObject),
            condition,
        };
        let etag = made.etag().filter(|_| !upload.is_kms()).map(str::to_owned);
        begun.tracked.completing(work, etag).await?;
        match begun.publish(work, parts, spec, &mut self.seen).await {
            Err(Trouble::Failed(failure)) if *failure.kind() == FailureKind::Corrupted => {
                let what = "S3 refused to publish parts that do not make the source's checksum";
                Err(self.explain_difference(head, pin, what, None).await)
            }
            published => published,
        }
    }

    /// Computes the checksum of the source by reading it, if the job allows that and the source has
    /// none to compare with what the parts make. So a wrong upload is detected before it is
    /// published.
    async fn read_source(
        &self,
        expected: &mut Expected,
        head: &Head,
        pin: &SourcePin,
        declared: Option<(ChecksumAlgorithm, ChecksumKind)>,
        made: &FromParts,
    ) -> Result<(), Trouble> {
        let wanted = self.work.sides.transfer.proof.prove == Prove::Read;
        let Some(sum) = made
            .checksum
            .as_ref()
            .filter(|sum| sum.kind == ChecksumKind::FullObject)
        else {
            return Ok(());
        };
        if wanted && !expected.is_comparable(declared) {
            let sum = read::sum(self.source, pin, head.size, sum.algorithm).await;
            expected.checksum = Some(sum.map_err(moved)?);
            expected.read = true;
        }
        Ok(())
    }
}
