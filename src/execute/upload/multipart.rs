//! A multipart upload of local bytes, of a file or of a stream.
//!
//! Each part is summed while it is in memory anyway. The sums combine into the checksum of the
//! whole, which S3 must confirm before it publishes the object; where the server knows no
//! checksums, the MD5 of each part is compared with the `ETag` that came back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::{Stamp, done};
use crate::bucket::Answer;
use crate::checksum;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::execute::adopt::{self, Begun, Found, Left, Published, Wish};
use crate::execute::claim;
use crate::execute::part::Progress;
use crate::execute::published::HeadCheck;
use crate::execute::receipt::{Ending, Proof};
use crate::execute::sent::{
    READ_SUM, Sums, against_md5, demand, equal, found, is_comparable, look_at, settle,
};
use crate::execute::tracked::{Terms, Tracked};
use crate::execute::{Draft, Trouble, Work};
use crate::location::ObjectKey;
use crate::manifest::job::{Prove, Verify};
use crate::multipart::MultipartUpload;
use crate::plan::condition::Seen;
use crate::plan::decide::Skip;
use crate::plan::parts::{PartLayout, UPLOAD_PART};
use crate::planner::Step;
use crate::s3::{
    Attributes, Checksum, ChecksumAlgorithm, ChecksumKind, CompleteSpec, Failure, FailureKind,
    Operation, PartDone,
};

/// A multipart upload of local bytes.
#[derive(Clone, Debug)]
pub(in crate::execute) struct Upload {
    pub(in crate::execute) begun: Arc<Begun>,
    pub(in crate::execute) id: u64,
    /// Declared to the server, which checks each part against it.
    algorithm: Option<ChecksumAlgorithm>,
    /// The destination will be read where the server knows no checksums, and compared with a sum of
    /// ours.
    reads: bool,
    /// No key is known to make `ETag`s of its own.
    may_be_md5s: bool,
    /// Set once the `ETag`s of the destination are known to be MD5s where no key makes them.
    are_md5s: Arc<AtomicBool>,
}

impl Upload {
    /// Creates the upload of a file, or resumes one that an earlier session left open.
    pub(super) async fn of_file(
        work: &Work,
        step: &Step,
        attributes: &Attributes,
        (stamp, layout): (Stamp, PartLayout),
        left: &mut Vec<Left>,
        draft: &mut Draft,
    ) -> Result<Self, Trouble> {
        demand(work, &step.key, attributes)?;
        let terms = Terms::of(stamp.version(), attributes);
        let wish = Wish {
            key: &step.key,
            terms: &terms,
            layout: &layout,
            attributes,
            checksum: None,
        };
        // An upload that became an object without an answer does not prove that the file was whole
        // then: the file is sent again.
        if let Some(Found::Open(begun)) = adopt::find(work, left, &wish, draft).await? {
            return Ok(Self::of(work, attributes, *begun));
        }
        let doubt = claim::unseen_acl(attributes);
        if let Some(begun) = claim::find(work, step, &wish, doubt, draft).await? {
            return Ok(Self::of(work, attributes, begun));
        }
        let initiate = Box::pin(MultipartUpload::begin(
            &work.sides.destination,
            &step.key,
            attributes,
        ));
        let initiate = async { Ok((initiate.await?, terms)) };
        let begun = Begun::begin(work, step, layout, initiate, &mut draft.notes).await?;
        Ok(Self::of(work, attributes, begun))
    }

    /// Creates the upload of a stream, which cannot be resumed: bytes that were read are gone.
    pub(in crate::execute) async fn of_stream(
        work: &Work,
        key: &ObjectKey,
        attributes: &Attributes,
        draft: &mut Draft,
    ) -> Result<Self, Trouble> {
        demand(work, key, attributes)?;
        let (bucket, tracked) = (&work.sides.destination, Tracked::off_record());
        let upload = match MultipartUpload::begin(bucket, key, attributes).await {
            Ok(upload) => upload,
            Err(failure) => {
                draft
                    .notes
                    .extend(tracked.not_begun(work, key, &failure).await);
                return Err(work.explained_acl(failure).into());
            }
        };
        draft
            .notes
            .extend(upload.strays().iter().map(|stray| stray.told(bucket, key)));
        let layout = PartLayout::uniform(0, UPLOAD_PART, 0);
        Ok(Self::of(
            work,
            attributes,
            Begun {
                upload,
                tracked,
                late: None,
                layout,
                kept: Vec::new(),
                claimed: false,
            },
        ))
    }

    fn of(work: &Work, attributes: &Attributes, begun: Begun) -> Self {
        let algorithm = attributes.checksum.map(|(algorithm, _)| algorithm);
        let reads = algorithm.is_none() && work.sides.transfer.proof.prove == Prove::Read;
        let id = begun.announce(work, 0);
        // Of an upload that was found open, nobody knows its key.
        let may_be_md5s = !begun.upload.is_kms() && !begun.claimed;
        Self {
            begun: Arc::new(begun),
            id,
            algorithm,
            reads,
            may_be_md5s,
            are_md5s: work.refusals.md5s(&work.sides.destination),
        }
    }

    /// Returns a part that S3 holds already, if it consists of exactly these bytes.
    fn kept(&self, number: u32, size: u64, sum: Option<&Checksum>) -> Option<PartDone> {
        let at = self
            .begun
            .kept
            .binary_search_by_key(&number, |part| part.number)
            .ok()?;
        let part = &self.begun.kept[at];
        let sum = sum.map(|sum| &sum.value)?;
        (part.checksum.as_ref() == Some(sum) && part.size == size).then(|| part.clone())
    }

    pub(super) fn sums(&self) -> Sums {
        Sums {
            algorithm: self.algorithm,
            reads: self.reads,
        }
    }

    /// Sums and sends one part.
    pub(in crate::execute) async fn send(
        &self,
        number: u32,
        body: Bytes,
    ) -> Result<Answer<PartDone>, Failure> {
        let (sums, sum_of) = (self.sums(), body.clone());
        let sums = spawn_blocking(move || sums.of(&sum_of))
            .await
            .map_err(|error| {
                Failure::new(
                    FailureKind::Bug,
                    Operation::UploadPart,
                    self.begun.upload.key().as_str(),
                    error.to_string(),
                )
            })?;
        self.send_summed(number, body, sums).await
    }

    /// Sends one part. Without a checksum that the server checks, its `ETag` must be the MD5 of
    /// what was sent, or the server's `ETag`s are of its own making.
    pub(super) async fn send_summed(
        &self,
        number: u32,
        body: Bytes,
        (sum, ours): (Option<Checksum>, Option<String>),
    ) -> Result<Answer<PartDone>, Failure> {
        if let Some(value) = self.kept(number, body.len() as u64, sum.as_ref()) {
            return Ok(Answer {
                value,
                attempts: 0,
                maybe_twice: false,
            });
        }
        let upload = &self.begun.upload;
        let sent = upload.send_part(number, body.clone(), sum.as_ref()).await?;
        let (mut part, is_echoed) = sent.value.clone();
        let answered = part.checksum.take();
        part.checksum = match (&sum, ours) {
            (Some(sum), _) => Some(sum.value.clone()),
            (None, ours) if self.reads => ours,
            (None, Some(md5)) => (md5 == part.etag).then_some(md5),
            (None, None) => None,
        };
        let against = match (&sum, answered) {
            (Some(sum), Some(answered)) if is_echoed => {
                // Another algorithm's says nothing.
                let differ = answered.len() == sum.value.len() && answered != sum.value;
                differ.then(|| {
                    let Checksum {
                        algorithm, value, ..
                    } = sum;
                    format!("{algorithm} of what was sent is {value}, S3 stored {answered}")
                })
            }
            _ if self.reads => None,
            // The server ignores checksums.
            _ => self.against_md5(&part, body).await?,
        };
        if let Some(what) = against {
            let place = format!("{} part {number}", upload.key());
            return Err(Failure::new(
                FailureKind::Corrupted,
                Operation::UploadPart,
                place,
                what,
            ));
        }
        Ok(sent.map(|_| part))
    }

    /// Returns what the `ETag` of a part says against the bytes that were sent.
    async fn against_md5(&self, part: &PartDone, body: Bytes) -> Result<Option<String>, Failure> {
        if !self.may_be_md5s {
            return Ok(None);
        }
        if self.summed_with().is_none() && part.checksum.is_some() {
            self.are_md5s.store(true, Ordering::Release);
            return Ok(None);
        }
        if !self.are_md5s.load(Ordering::Acquire) {
            return Ok(None);
        }
        let md5 = spawn_blocking(move || checksum::md5_etag(&body)).await;
        let md5 = md5.map_err(|error| {
            let place = self.begun.upload.key().as_str();
            Failure::new(
                FailureKind::Bug,
                Operation::UploadPart,
                place,
                error.to_string(),
            )
        })?;
        Ok(against_md5(&md5, &part.etag, true))
    }

    pub(in crate::execute) async fn complete(
        &self,
        work: &Work,
        progress: &mut Progress,
        seen: &mut Seen,
        attributes: &Attributes,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        let place = work.place().await;
        let condition = work.condition(seen, ConditionalWrite::Complete);
        if work
            .is_taken(self.begun.upload.key(), seen, &condition)
            .await?
        {
            return Ok(Ending::Skipped {
                reason: Skip::Present,
            });
        }
        progress.done.sort_unstable_by_key(|part| part.number);
        let parts = &progress.done;
        let size = parts.iter().map(|part| part.size).sum();
        let local = self.combined(parts);
        let whole = local.clone().filter(|_| self.algorithm.is_some());
        let spec = CompleteSpec {
            size,
            checksum: None,
            full_checksum: whole.clone(),
            condition,
        };
        let sent = self.named(parts);
        let key = self.begun.upload.key();
        if let Some(what) = self.unlike_part(parts) {
            return Err(work.refuse_to_publish(key, &what).into());
        }
        let are_md5s = self.have_md5s();
        let predicted = checksum::multipart_etag(parts.iter().map(|part| part.etag.as_str()));
        self.begun
            .tracked
            .completing(work, predicted.clone())
            .await?;
        let written = match self.begun.publish(work, &sent, spec, seen).await? {
            Published::Written(written) => written,
            Published::Taken(skip) => return Ok(Ending::Skipped { reason: skip }),
        };
        let all_md5 =
            self.summed_with().is_none() && parts.iter().all(|part| part.checksum.is_some());
        let made_of_md5s = all_md5 && predicted.as_ref() == Some(&written.etag);
        let comparable = |stored: &Checksum| {
            whole
                .as_ref()
                .is_some_and(|sent| is_comparable(sent, stored))
        };
        let is_answered = made_of_md5s || written.checksum.as_ref().is_some_and(comparable);
        let size_will_do = work.sides.transfer.proof.verify == Verify::Size && whole.is_some();
        let parts = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let believes = work.sides.destination.capabilities().believes_answers();
        let must_look = (!is_answered && !size_will_do) || !believes;
        // `Begun::vouched` compares the attributes of an adopted upload, and sends the object again
        // if they differ.
        let unasked = Attributes::default();
        let asked = if self.begun.claimed {
            &unasked
        } else {
            attributes
        };
        let look = HeadCheck {
            size,
            parts,
            is_needed: must_look,
            ..look_at(work, key, &written, asked, Operation::CreateMultipartUpload)
        };
        let found = Box::pin(found(work, look, draft)).await?;
        let may_be_made = are_md5s
            && work.sides.destination.capabilities().content_etags
            && found.as_ref().is_none_or(|found| !found.kms);
        // KMS uploads answer without a checksum; the object shows it.
        let shown = found.and_then(|found| found.checksum);
        let stored = if believes {
            written.checksum.clone().or(shown)
        } else {
            shown
        };
        let proof = match (&whole, &stored) {
            (Some(sent), Some(stored)) if is_comparable(sent, stored) => equal(sent, stored),
            _ if made_of_md5s => Ok(Proof::PartEtags),
            _ => match predicted.filter(|predicted| *predicted != written.etag) {
                Some(made) if may_be_made => {
                    let etag = &written.etag;
                    Err(format!("the ETag is {etag}, but its parts make {made}"))
                }
                _ => Ok(Proof::Size),
            },
        };
        let proof = match proof {
            Ok(proof) => proof,
            Err(what) => return Err(work.reject_published(key, &written, &what).await.into()),
        };
        drop(place);
        let proof = settle(work, key, proof, local, &written, size).await?;
        Ok(done(proof, written))
    }

    /// True once the `ETag`s of the parts are known to be the MD5s of their bytes.
    fn have_md5s(&self) -> bool {
        self.may_be_md5s && self.are_md5s.load(Ordering::Acquire)
    }

    /// Returns what the `ETag` of a part says against its bytes: the part came before the first one
    /// whose `ETag` is the MD5 of its bytes.
    fn unlike_part(&self, parts: &[PartDone]) -> Option<String> {
        if !self.have_md5s() || self.summed_with().is_some() {
            return None;
        }
        let is_other =
            |part: &&PartDone| part.checksum.is_none() && checksum::looks_like_md5(&part.etag);
        let PartDone { number, etag, .. } = parts.iter().find(is_other)?;
        Some(format!(
            "the ETag of part {number} is {etag}, which is not the MD5 of what was sent"
        ))
    }

    /// Returns the algorithm of the parts' checksums, if they are not MD5s.
    fn summed_with(&self) -> Option<ChecksumAlgorithm> {
        self.algorithm.or(self.reads.then_some(READ_SUM))
    }

    /// Combines the checksums of the parts into that of the whole.
    fn combined(&self, parts: &[PartDone]) -> Option<Checksum> {
        checksum::of_parts(parts, self.summed_with()?, ChecksumKind::FullObject)
    }

    /// Returns the parts as Complete names them.
    fn named(&self, parts: &[PartDone]) -> Vec<PartDone> {
        // Without an algorithm the parts' checksums are sums of ours; the server must not see them.
        match self.algorithm {
            Some(_) => parts.to_vec(),
            None => parts
                .iter()
                .map(|part| PartDone {
                    checksum: None,
                    ..part.clone()
                })
                .collect(),
        }
    }
}
