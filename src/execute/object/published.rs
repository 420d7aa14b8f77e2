//! Proves that a published object is equal to its source and has the requested attributes.
//!
//! The response to the write is the first evidence. A HEAD of the object follows:
//!
//! - after an upload in parts, always: no response shows that the server copied the requested
//!   ranges, or that it published all parts;
//! - after a single request, if the response proves nothing, or if the bucket has not yet been seen
//!   to keep the requested attributes;
//! - with `trust: nothing`, always; then only the HEAD is evidence.
//!
//! HEAD is compared with the request too ([`crate::plan::asked`]), because servers other than
//! Amazon S3 may ignore what they do not support.

use super::ObjectTask;
use super::copy::CopyRound;
use super::round_failure::RoundFailure;
use crate::execute::prove::{
    Expected, FromParts, ProofVerdict, judge_answer, judge_checksum, judge_head,
};
use crate::execute::read;
use crate::execute::receipt::{NOT_COMPARED, Proof};
use crate::execute::refusals::AttributeAnswer;
use crate::execute::replan::Replan;
use crate::location::BucketName;
use crate::manifest::job::{Attribute, Policy, Prove, Verify};
use crate::pace::Slot;
use crate::plan::asked::{Asked, AttributeDifference, AttributeQuestion, Unlike};
use crate::plan::loss::{Loss, Lost};
use crate::s3::{
    Checksum, ChecksumAlgorithm, ChecksumKind, Failure, FailureKind, Head, Operation, Tag, Written,
    look,
};

/// A published object, and the evidence to prove it by.
#[derive(Debug)]
pub(super) struct PublishedObject<'a> {
    /// The response to its write.
    pub(super) written: &'a Written,
    /// The checksum and `ETag` computed from its parts.
    pub(super) made: &'a FromParts,
    /// The number of its parts; 0 if one request wrote it.
    pub(super) parts: u32,
    /// True if `prove` must compare its attributes with the request; false if the caller compares
    /// them.
    pub(super) compares: bool,
    /// The request slot for HEAD; `None` if the caller holds a slot. Released before bytes are
    /// read, because each read takes its own slot.
    pub(super) slot: Option<Slot>,
}

/// The properties that HEAD of a published object must show.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadCheck<'a> {
    /// The response to the write.
    pub(super) written: &'a Written,
    /// The size of the object.
    pub(super) size: u64,
    /// The number of its parts; 0 if one request wrote it.
    pub(super) parts: u32,
    /// True if nothing else proves the object, so that it fails without the permission to send
    /// HEAD.
    pub(super) is_only_proof: bool,
    /// The requested attributes; `None` if the caller compares them.
    pub(super) asked: Option<Asked<'a>>,
}

/// The result of a [`HeadCheck`].
#[derive(Debug)]
pub(super) struct HeadResult {
    /// The verdict on the bytes. After a contradiction, the attributes were not compared.
    pub(super) verdict: ProofVerdict,
    /// The response to HEAD; `None` if HEAD is denied and not needed.
    pub(super) found: Option<Head>,
}

impl CopyRound<'_, '_> {
    /// Returns the proof of the published object. Fails the object if it is not equal, lacks a
    /// required attribute, or has a weaker proof than the job demands.
    pub(super) async fn prove(
        &mut self,
        mut expected: Expected,
        published: PublishedObject<'_>,
    ) -> Result<Proof, RoundFailure> {
        let context = self.task.context;
        let PublishedObject {
            written,
            made,
            parts,
            compares,
            slot,
        } = published;
        let asked = compares.then(|| self.target.asked(&self.source.head));
        let destination = &context.sides.destination;
        let policy = context.sides.transfer.proof;
        let capabilities = destination.capabilities();
        let content_etags = capabilities.content_etags;
        let mut verdict = judge_answer(&expected, written, made, content_etags);
        let believes = capabilities.believes_answers();
        let mut checksum = written.checksum.clone().filter(|_| believes);
        // Complete named the checksum computed from the parts, and a server with checksums compares
        // it with the object that it publishes. So the size is right too.
        let is_size_checked = made.checksum.is_some() && capabilities.checksums;
        let is_unanswered =
            verdict == ProofVerdict::Unknown && !(policy.verify == Verify::Size && is_size_checked);
        let must_look = is_unanswered || !believes;
        let is_contradicted = matches!(verdict, ProofVerdict::Contradicted(_));
        let is_unproven =
            asked.is_some_and(|asked| context.refusals.needs_head_check(destination, asked));
        if (must_look || parts > 0 || is_unproven) && !is_contradicted {
            let look = HeadCheck {
                written,
                size: expected.size,
                parts,
                is_only_proof: must_look,
                asked,
            };
            let judge = |found: &Head| judge_head(&expected, found, made, content_etags);
            let looked = Box::pin(self.task.check_by_head(look, judge)).await?;
            verdict = match looked.verdict {
                looked if believes => verdict.and(looked),
                looked => looked,
            };
            checksum = checksum.or(looked.found.and_then(|found| found.checksum));
        }
        drop(slot);
        let weak = |verdict: &ProofVerdict| match verdict {
            ProofVerdict::Proven(proof) => !proof.is_checksum(),
            ProofVerdict::Unknown => true,
            ProofVerdict::Contradicted(_) => false,
        };
        if policy.prove == Prove::Read && weak(&verdict) {
            match self
                .compare_by_reading(&mut expected, written, checksum)
                .await
            {
                Ok(compared) => verdict = compared,
                // The copy keeps its current proof.
                Err(RoundFailure::Stopped) if policy.verify != Verify::RequireChecksum => {
                    let note = "proof: the run was stopped before the bytes were read";
                    self.task.draft.notes.push(note.to_owned());
                }
                Err(error) => return Err(error),
            }
        }
        let proof = match verdict {
            ProofVerdict::Proven(proof) => proof,
            ProofVerdict::Contradicted(what) => {
                return Err(Box::pin(self.explain_difference(&what, Some(written))).await);
            }
            ProofVerdict::Unknown => Proof::Size,
        };
        Ok(self.task.require_strength(proof)?)
    }

    /// Compares both sides by reading them. Does not read the destination if it has a `stored`
    /// checksum, nor the source if its checksum is known in the same algorithm.
    async fn compare_by_reading(
        &self,
        expected: &mut Expected,
        written: &Written,
        stored: Option<Checksum>,
    ) -> Result<ProofVerdict, RoundFailure> {
        let is_usable = |checksum: &Checksum| {
            checksum.kind == ChecksumKind::FullObject && checksum.algorithm.combines()
        };
        let known = expected.checksum.clone().filter(is_usable);
        let stored = stored.filter(is_usable);
        let algorithm = stored
            .as_ref()
            .or(known.as_ref())
            .map_or(ChecksumAlgorithm::Crc64Nvme, |checksum| checksum.algorithm);
        if known.is_none_or(|known| known.algorithm != algorithm) {
            expected.checksum = Some(self.checksum_source(algorithm).await?);
        }
        expected.read = true;
        let stored = if let Some(stored) = stored {
            stored
        } else {
            self.task
                .checksum_written(written, self.source.head.size, algorithm)
                .await
                .map_err(RoundFailure::from_pinned_read)?
        };
        Ok(judge_checksum(expected, Some(&stored)).unwrap_or(ProofVerdict::Unknown))
    }

    /// Finds out why a copy is not equal: either the source changed and the server ignored the
    /// condition, or the copy is wrong. In the second case, keeps or removes a published copy, as
    /// the job says.
    pub(super) async fn explain_difference(
        &self,
        what: &str,
        published: Option<&Written>,
    ) -> RoundFailure {
        // A change in place has replaced the source, so a HEAD of the source would show the copy.
        let replaced = published.is_some() && self.task.draft.in_place;
        let unchanged = if replaced {
            Ok(true)
        } else {
            self.is_unchanged().await
        };
        match unchanged {
            Ok(false) => Replan::SourceChanged.into(),
            Ok(true) => match published {
                Some(written) => self.task.reject_published(written, what).await.into(),
                None => self.task.not_equal(what).into(),
            },
            Err(error) => error,
        }
    }

    /// Sends HEAD to the source again. Returns true if it is still the version that the round
    /// copies.
    pub(super) async fn is_unchanged(&self) -> Result<bool, RoundFailure> {
        let (source, head) = (&self.source, &self.source.head);
        let version = self.task.step.entry.version.as_deref();
        let now = source.bucket.head(&source.pin.key, version).await?;
        Ok(now.etag == head.etag
            && now.size == head.size
            && now.version == head.version
            && now.modified == head.modified)
    }

    /// Computes the checksum of the source by reading it.
    pub(super) async fn checksum_source(
        &self,
        algorithm: ChecksumAlgorithm,
    ) -> Result<Checksum, RoundFailure> {
        let source = &self.source;
        let checksum =
            read::checksum(source.bucket, &source.pin, source.head.size, algorithm).await;
        checksum.map_err(RoundFailure::from_pinned_read)
    }
}

impl ObjectTask<'_> {
    /// Sends HEAD for the object that was just written, and compares its size, parts, version, and
    /// attributes with the request; `judge` compares its bytes. Remembers which attributes the
    /// bucket keeps. Skips the check if HEAD is denied and not needed.
    ///
    /// # Errors
    /// Fails if the object does not exist, if HEAD fails, or if a required attribute is missing.
    pub(super) async fn check_by_head(
        &mut self,
        look: HeadCheck<'_>,
        judge: impl FnOnce(&Head) -> ProofVerdict,
    ) -> Result<HeadResult, RoundFailure> {
        let (written, destination) = (look.written, self.destination());
        let found = match destination
            .head(&self.step.key, written.version.as_deref())
            .await
        {
            Ok(found) => found,
            Err(failure) if *failure.kind() == FailureKind::Denied && !look.is_only_proof => {
                let name = destination.name();
                let permission = Operation::HeadObject.permission(written.version.is_some());
                self.draft.notes.push(format!(
                    "not checked after it was published: {permission} missing on {name}"
                ));
                return Ok(HeadResult {
                    verdict: ProofVerdict::Unknown,
                    found: None,
                });
            }
            Err(failure) if *failure.kind() == FailureKind::NotFound => {
                let what = "the server answered that the object is published, and there is none";
                return Err(self.not_equal(what).into());
            }
            Err(failure) => return Err(failure.into()),
        };
        let made = look::ExpectedObject {
            size: look.size,
            parts: look.parts,
        };
        let otherwise = written.contradicted_by(&found, made, destination.capabilities());
        let verdict = otherwise.map_or_else(|| judge(&found), ProofVerdict::Contradicted);
        let asked = look
            .asked
            .filter(|_| !matches!(verdict, ProofVerdict::Contradicted(_)));
        if let Some(asked) = asked
            && self.record_differences(written, asked, &found).await?
            && look.parts == 0
        {
            self.context.refusals.note_kept(destination, asked);
        }
        Ok(HeadResult {
            verdict,
            found: Some(found),
        })
    }

    /// Compares the object with the requested attributes, and returns true if it has all of them.
    /// Records each difference as a loss.
    ///
    /// # Errors
    /// Fails if the object lacks an attribute that the job requires.
    pub(super) async fn record_differences(
        &mut self,
        written: &Written,
        asked: Asked<'_>,
        found: &Head,
    ) -> Result<bool, RoundFailure> {
        let destination = self.destination();
        let name = destination.name();
        let mut differences = asked.differences(found);
        // Amazon S3 refuses a request whose attributes it cannot set, so no further questions are
        // needed.
        if !destination.capabilities().refuses_what_it_lacks() {
            for question in asked.questions(found) {
                let hidden = self.ask_about(written, asked, question);
                differences.extend(Box::pin(hidden).await?);
            }
        }
        if self.context.sides.is_in_place()
            && let Some(lost) = differences
                .iter()
                .position(|(attribute, _)| *attribute == Attribute::Tags)
            && let Some(tags) = asked.tag_values()
        {
            Box::pin(self.put_back(written, tags)).await?;
            differences.remove(lost);
        }
        let has_all = differences.is_empty();
        // Do not record a known loss twice.
        differences.retain(|(attribute, _)| {
            !self
                .draft
                .losses
                .iter()
                .any(|loss| loss.attribute == *attribute && loss.lost != Lost::NotReadable)
        });
        let required = differences
            .iter()
            .find(|(attribute, _)| self.is_required(*attribute, asked));
        if let Some((attribute, how)) = required {
            let what = format!("{name} ignored the requested {attribute}: it shows {how}");
            return Err(self.reject_incomplete(written, &what).await.into());
        }
        self.draft.losses.extend(differences.into_iter().map(
            |(attribute, how): AttributeDifference| {
                Loss::new(
                    attribute,
                    Lost::NotSet,
                    format!("{name} ignored it: it shows {how}"),
                )
            },
        ));
        Ok(has_all)
    }

    /// Requests an attribute that HEAD does not show. Returns its difference from the requested
    /// value, if there is one.
    async fn ask_about(
        &mut self,
        written: &Written,
        asked: Asked<'_>,
        question: AttributeQuestion,
    ) -> Result<Option<AttributeDifference>, Failure> {
        let destination = self.destination();
        let AttributeQuestion {
            attribute,
            by,
            is_hidden,
            ..
        } = question;
        let for_each_object = asked.compares_tags && attribute == Attribute::Tags;
        let at = (&self.step.key, written.version.as_deref());
        let answer = self
            .context
            .refusals
            .answer(destination, asked, question, at, for_each_object)
            .await?;
        Ok(match answer {
            AttributeAnswer::Kept => None,
            // HEAD showed the attribute, which must suffice.
            AttributeAnswer::NotReadable(_) | AttributeAnswer::NotKnown if !is_hidden => None,
            AttributeAnswer::NotReadable(permission) => {
                let note = not_compared(attribute, permission, destination.name());
                self.draft.notes.push(note);
                None
            }
            AttributeAnswer::NotKnown | AttributeAnswer::Unlike(Unlike::Nothing) => {
                Some((attribute, format!("none of it in the answer to {by}")))
            }
            AttributeAnswer::Unlike(Unlike::Other(how)) => {
                Some((attribute, format!("{how} in the answer to {by}")))
            }
        })
    }

    /// Writes back the tags that a change in place has removed from the object.
    ///
    /// # Errors
    /// Fails if the tags cannot be written. The message contains the tags, because they are stored
    /// nowhere else.
    async fn put_back(&mut self, written: &Written, tags: &[Tag]) -> Result<(), RoundFailure> {
        let at = (written.etag.as_str(), written.version.as_deref());
        let Err(failure) = self.put_late_tags(at, tags).await else {
            let name = self.destination().name();
            self.draft
                .notes
                .push(format!("{name} dropped the tags: they were written back"));
            return Ok(());
        };
        let tags: Vec<_> = tags
            .iter()
            .map(|tag| format!("{}={}", tag.key, tag.value))
            .collect();
        let what = format!(
            "the in-place change removed the object's tags, and they could not be written back ({}): {}",
            failure.details().message,
            tags.join(", ")
        );
        Err(self.reject_incomplete(written, &what).await.into())
    }

    /// Returns true if the job requires this attribute, so that an object without it fails.
    /// Policies concern attributes of a source bucket, so uploads have none.
    fn is_required(&self, attribute: Attribute, asked: Asked<'_>) -> bool {
        let is_keyed = attribute == Attribute::Encryption && asked.customer_key;
        let by_policy = self.context.sides.transfer.preserve.of(attribute) == Policy::Require;
        is_keyed || (by_policy && self.context.sides.source.is_some())
    }
}

/// Returns the note on an attribute that could not be compared because a permission is missing.
pub(super) fn not_compared(attribute: Attribute, permission: &str, bucket: &BucketName) -> String {
    format!("{attribute}{NOT_COMPARED}{permission} missing on {bucket}")
}
