//! The parts of an upload whose bytes are here: those of a file or of a stream.
//!
//! Each part is summed while it is in memory anyway. The sums combine into the checksum of the
//! whole, which S3 must confirm before it publishes the object; where the server knows no
//! checksums, the MD5 of each part is compared with the `ETag` that came back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::UploadSession;
use crate::bucket::Answer;
use crate::checksum;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::execute::Work;
use crate::execute::object::ObjectTask;
use crate::execute::object::condition::Published;
use crate::execute::object::published::HeadCheck;
use crate::execute::object::sent::{Sums, against_md5, equal, is_comparable};
use crate::execute::object::trouble::Trouble;
use crate::execute::receipt::{Ending, Proof};
use crate::manifest::job::{Prove, Verify};
use crate::multipart::MultipartUpload;
use crate::plan::decide::Skip;
use crate::s3::{
    Attributes, Checksum, ChecksumKind, CompleteSpec, Failure, FailureKind, Operation, PartDone,
};

/// Sums and sends the parts of one upload. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::execute::object) struct LocalParts {
    upload: Arc<MultipartUpload>,
    /// Parts that S3 held when this session took the upload over.
    held: Arc<[PartDone]>,
    /// The checksums of the parts. Without an algorithm, the destination will be read if the job
    /// says so, and compared with a sum of ours.
    pub(super) sums: Sums,
    /// No key is known to make `ETag`s of its own.
    may_be_md5s: bool,
    /// Set once the `ETag`s of the destination are known to be MD5s where no key makes them.
    are_md5s: Arc<AtomicBool>,
}

impl LocalParts {
    pub(in crate::execute::object) fn of(
        work: &Work,
        session: &UploadSession<'_>,
        attributes: &Attributes,
    ) -> Self {
        let algorithm = attributes.checksum.map(|(algorithm, _)| algorithm);
        let reads = algorithm.is_none() && work.sides.transfer.proof.prove == Prove::Read;
        Self {
            upload: Arc::clone(&session.upload),
            held: Arc::clone(&session.held),
            sums: Sums { algorithm, reads },
            // Of an upload that was found open, nobody knows its key.
            may_be_md5s: !session.upload.is_kms() && !session.is_adopted,
            are_md5s: work.refusals.md5s(&work.sides.destination),
        }
    }

    /// Returns a part that S3 holds already, if it consists of exactly these bytes.
    fn held_part(&self, number: u32, size: u64, sum: Option<&Checksum>) -> Option<PartDone> {
        let at = self
            .held
            .binary_search_by_key(&number, |part| part.number)
            .ok()?;
        let part = &self.held[at];
        let sum = sum.map(|sum| &sum.value)?;
        (part.checksum.as_ref() == Some(sum) && part.size == size).then(|| part.clone())
    }

    /// Sums and sends one part.
    pub(super) async fn send(&self, number: u32, body: Bytes) -> Result<Answer<PartDone>, Failure> {
        let (sums, sum_of) = (self.sums, body.clone());
        let sums = spawn_blocking(move || sums.of(&sum_of))
            .await
            .map_err(|error| {
                Failure::new(
                    FailureKind::Bug,
                    Operation::UploadPart,
                    self.upload.key().as_str(),
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
        if let Some(value) = self.held_part(number, body.len() as u64, sum.as_ref()) {
            return Ok(Answer {
                value,
                attempts: 0,
                maybe_twice: false,
            });
        }
        let upload = &self.upload;
        let sent = upload.send_part(number, body.clone(), sum.as_ref()).await?;
        let (mut part, is_echoed) = sent.value.clone();
        let answered = part.checksum.take();
        part.checksum = match (&sum, ours) {
            (Some(sum), _) => Some(sum.value.clone()),
            (None, ours) if self.sums.reads => ours,
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
            _ if self.sums.reads => None,
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
        if self.sums.summed_with().is_none() && part.checksum.is_some() {
            self.are_md5s.store(true, Ordering::Release);
            return Ok(None);
        }
        if !self.are_md5s.load(Ordering::Acquire) {
            return Ok(None);
        }
        let md5 = spawn_blocking(move || checksum::md5_etag(&body)).await;
        let md5 = md5.map_err(|error| {
            let place = self.upload.key().as_str();
            Failure::new(
                FailureKind::Bug,
                Operation::UploadPart,
                place,
                error.to_string(),
            )
        })?;
        Ok(against_md5(&md5, &part.etag, true))
    }

    /// Publishes the parts, which make the object, and proves it.
    pub(in crate::execute::object) async fn complete(
        &self,
        session: &mut UploadSession<'_>,
        attributes: &Attributes,
        task: &mut ObjectTask<'_>,
    ) -> Result<Ending, Trouble> {
        let slot = task.work.small_slot().await;
        let condition = task.condition(ConditionalWrite::Complete);
        if task.is_taken(&condition).await? {
            return Ok(Ending::Skipped {
                reason: Skip::Present,
            });
        }
        session.done.sort_unstable_by_key(|part| part.number);
        let parts = &session.done;
        let size = parts.iter().map(|part| part.size).sum();
        let local = self.combined(parts);
        let whole = local.clone().filter(|_| self.sums.algorithm.is_some());
        let spec = CompleteSpec {
            size,
            checksum: None,
            full_checksum: whole.clone(),
            condition,
        };
        if let Some(what) = self.unlike_part(parts) {
            return Err(task.refuse_to_publish(&what).into());
        }
        let are_md5s = self.have_md5s();
        let predicted = checksum::multipart_etag(parts.iter().map(|part| part.etag.as_str()));
        let sent = self.named(parts);
        let published = session.complete(&sent, predicted.clone(), spec, task);
        let written = match published.await? {
            Published::Written(written) => written,
            Published::Left(reason) => return Ok(Ending::Skipped { reason }),
        };
        let all_md5 =
            self.sums.summed_with().is_none() && parts.iter().all(|part| part.checksum.is_some());
        let made_of_md5s = all_md5 && predicted.as_ref() == Some(&written.etag);
        let comparable = |stored: &Checksum| {
            whole
                .as_ref()
                .is_some_and(|sent| is_comparable(sent, stored))
        };
        let is_answered = made_of_md5s || written.checksum.as_ref().is_some_and(comparable);
        let size_will_do = task.work.sides.transfer.proof.verify == Verify::Size && whole.is_some();
        let parts = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let believes = task.destination().capabilities().believes_answers();
        let must_look = (!is_answered && !size_will_do) || !believes;
        // `verify_adopted` compares the attributes of an adopted upload, and sends the object again
        // if they differ.
        let unasked = Attributes::default();
        let asked = if session.is_adopted {
            &unasked
        } else {
            attributes
        };
        let look = HeadCheck {
            size,
            parts,
            is_needed: must_look,
            ..task.head_check(&written, asked, Operation::CreateMultipartUpload)
        };
        let found = Box::pin(task.look_at_sent(look)).await?;
        let may_be_made = are_md5s
            && task.destination().capabilities().content_etags
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
            Err(what) => return Err(task.reject_published(&written, &what).await.into()),
        };
        drop(slot);
        let proof = task.strengthen(proof, local, &written, size).await?;
        Ok(ObjectTask::done(proof, written))
    }

    /// True once the `ETag`s of the parts are known to be the MD5s of their bytes.
    fn have_md5s(&self) -> bool {
        self.may_be_md5s && self.are_md5s.load(Ordering::Acquire)
    }

    /// Returns what the `ETag` of a part says against its bytes: the part came before the first one
    /// whose `ETag` is the MD5 of its bytes.
    fn unlike_part(&self, parts: &[PartDone]) -> Option<String> {
        if !self.have_md5s() || self.sums.summed_with().is_some() {
            return None;
        }
        let is_other =
            |part: &&PartDone| part.checksum.is_none() && checksum::looks_like_md5(&part.etag);
        let PartDone { number, etag, .. } = parts.iter().find(is_other)?;
        Some(format!(
            "the ETag of part {number} is {etag}, which is not the MD5 of what was sent"
        ))
    }

    /// Combines the checksums of the parts into that of the whole.
    fn combined(&self, parts: &[PartDone]) -> Option<Checksum> {
        checksum::of_parts(parts, self.sums.summed_with()?, ChecksumKind::FullObject)
    }

    /// Returns the parts as Complete names them.
    fn named(&self, parts: &[PartDone]) -> Vec<PartDone> {
        // Without an algorithm the parts' checksums are sums of ours; the server must not see them.
        match self.sums.algorithm {
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
