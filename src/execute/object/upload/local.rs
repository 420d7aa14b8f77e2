//! Sends the parts of a file or a stream, and completes their upload.
//!
//! The checksum of each part is computed while the part is in memory. These checksums are combined
//! into the checksum of the whole object, which S3 must confirm before it publishes the object. If
//! the server does not support checksums, the MD5 of each part is compared with the `ETag` of the
//! part.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::UploadSession;
use crate::bucket::Answer;
use crate::checksum;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::execute::TransferContext;
use crate::execute::object::ObjectTask;
use crate::execute::object::condition::WriteResult;
use crate::execute::object::published::HeadCheck;
use crate::execute::object::round_failure::RoundFailure;
use crate::execute::object::sent::{
    ChecksumMethod, PartChecksum, is_comparable, md5_contradiction, prove_equal,
};
use crate::execute::receipt::{Ending, Proof};
use crate::manifest::job::{Prove, Verify};
use crate::multipart::MultipartUpload;
use crate::plan::decide::Skip;
use crate::s3::{
    Attributes, Checksum, ChecksumKind, CompleteSpec, Failure, FailureKind, Operation, PartDone,
};

/// Computes the checksums of the parts of one upload, and sends them. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::execute::object) struct PartSender {
    upload: Arc<MultipartUpload>,
    /// The parts that S3 held when the upload was resumed or adopted.
    held: Arc<[PartDone]>,
    /// The method of computing the parts' checksums.
    pub(super) method: ChecksumMethod,
    /// False if the upload has, or may have, an encryption key with which `ETag`s are not MD5s.
    no_encryption_key: bool,
    /// True if the `ETag`s in the bucket are MD5s: the provider profile says so, or this run has
    /// seen one.
    server_uses_md5: Arc<AtomicBool>,
}

impl PartSender {
    pub(in crate::execute::object) fn of(
        context: &TransferContext,
        session: &UploadSession<'_>,
        attributes: &Attributes,
    ) -> Self {
        let algorithm = attributes.checksum.map(|(algorithm, _)| algorithm);
        let reads = algorithm.is_none() && context.sides.transfer.proof.prove == Prove::Read;
        Self {
            upload: Arc::clone(&session.upload),
            held: Arc::clone(&session.held),
            method: ChecksumMethod { algorithm, reads },
            // The encryption key of an adopted upload is not known.
            no_encryption_key: !session.upload.is_kms() && !session.is_adopted,
            server_uses_md5: context.refusals.md5s(&context.sides.destination),
        }
    }

    /// Returns the part that S3 already holds, if it has exactly these bytes.
    fn held_part(&self, number: u32, size: u64, checksum: &PartChecksum) -> Option<PartDone> {
        let checksum = checksum.declared()?;
        let at = self
            .held
            .binary_search_by_key(&number, |part| part.number)
            .ok()?;
        let part = &self.held[at];
        (part.checksum.as_ref() == Some(&checksum.value) && part.size == size).then(|| part.clone())
    }

    /// Computes the checksum of one part, and sends it.
    pub(super) async fn send(&self, number: u32, body: Bytes) -> Result<Answer<PartDone>, Failure> {
        let (method, bytes) = (self.method, body.clone());
        let checksum = spawn_blocking(move || method.compute(&bytes))
            .await
            .map_err(|error| {
                Failure::new(
                    FailureKind::Bug,
                    Operation::UploadPart,
                    self.upload.key().as_str(),
                    error.to_string(),
                )
            })?;
        self.send_with_checksum(number, body, checksum).await
    }

    /// Sends one part, unless S3 already holds it. If no checksum was declared, the `ETag` must be
    /// the MD5 of the bytes on servers whose `ETag`s are MD5s.
    pub(super) async fn send_with_checksum(
        &self,
        number: u32,
        body: Bytes,
        checksum: PartChecksum,
    ) -> Result<Answer<PartDone>, Failure> {
        if let Some(value) = self.held_part(number, body.len() as u64, &checksum) {
            return Ok(Answer {
                value,
                attempts: 0,
                maybe_twice: false,
            });
        }
        let upload = &self.upload;
        let sent = upload
            .send_part(number, body.clone(), checksum.declared())
            .await?;
        let (mut part, is_echoed) = sent.value.clone();
        let answered = part.checksum.take();
        part.checksum = match &checksum {
            PartChecksum::Declared(checksum) => Some(checksum.value.clone()),
            PartChecksum::ForRead(value) => Some(value.clone()),
            PartChecksum::Md5(md5) => (*md5 == part.etag).then(|| md5.clone()),
        };
        let contradiction = match (&checksum, answered) {
            (PartChecksum::Declared(checksum), Some(answered)) if is_echoed => {
                // A checksum of another length comes from another algorithm and proves nothing.
                let differ = answered.len() == checksum.value.len() && answered != checksum.value;
                differ.then(|| {
                    let Checksum {
                        algorithm, value, ..
                    } = checksum;
                    format!("the {algorithm} of the sent bytes is {value}, S3 stored {answered}")
                })
            }
            (PartChecksum::ForRead(_), _) => None,
            // Without a declared checksum that the server confirms, only the MD5 can contradict.
            _ => self.md5_contradiction(&part, body).await?,
        };
        if let Some(what) = contradiction {
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

    /// Returns a message if the `ETag` of a part contradicts the bytes that were sent.
    async fn md5_contradiction(
        &self,
        part: &PartDone,
        body: Bytes,
    ) -> Result<Option<String>, Failure> {
        if !self.no_encryption_key {
            return Ok(None);
        }
        if self.method.part_algorithm().is_none() && part.checksum.is_some() {
            self.server_uses_md5.store(true, Ordering::Release);
            return Ok(None);
        }
        if !self.server_uses_md5.load(Ordering::Acquire) {
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
        Ok(md5_contradiction(&md5, &part.etag, true))
    }

    /// Completes the upload from the parts that were sent, and proves the object.
    pub(in crate::execute::object) async fn complete(
        &self,
        session: &mut UploadSession<'_>,
        attributes: &Attributes,
        task: &mut ObjectTask<'_>,
    ) -> Result<Ending, RoundFailure> {
        let slot = task.context.small_slot().await;
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
        let whole = local.clone().filter(|_| self.method.algorithm.is_some());
        let spec = CompleteSpec {
            size,
            checksum: None,
            full_checksum: whole.clone(),
            condition,
        };
        if let Some(what) = self.contradicted_part(parts) {
            return Err(task.not_equal(&what).into());
        }
        let server_uses_md5 = self.etags_are_md5s();
        let predicted = checksum::multipart_etag(parts.iter().map(|part| part.etag.as_str()));
        let sent = self.named(parts);
        let published = session.complete(&sent, predicted.clone(), spec, task);
        let written = match published.await? {
            WriteResult::Written(written) => written,
            WriteResult::Left(reason) => return Ok(Ending::Skipped { reason }),
        };
        let parts_match_md5 = self.method.part_algorithm().is_none()
            && parts.iter().all(|part| part.checksum.is_some());
        let etag_matches_parts = parts_match_md5 && predicted.as_ref() == Some(&written.etag);
        let comparable = |stored: &Checksum| {
            whole
                .as_ref()
                .is_some_and(|sent| is_comparable(sent, stored))
        };
        let is_answered = etag_matches_parts || written.checksum.as_ref().is_some_and(comparable);
        let size_suffices =
            task.context.sides.transfer.proof.verify == Verify::Size && whole.is_some();
        let parts = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let believes = task.destination().capabilities().believes_answers();
        let must_look = (!is_answered && !size_suffices) || !believes;
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
            is_only_proof: must_look,
            ..task.head_check(&written, asked, Operation::CreateMultipartUpload)
        };
        let found = Box::pin(task.check_sent(look)).await?;
        let etag_is_comparable = server_uses_md5
            && task.destination().capabilities().content_etags
            && found.as_ref().is_none_or(|found| !found.kms);
        // The response to Complete shows no checksum for KMS uploads, but HEAD does.
        let shown = found.and_then(|found| found.checksum);
        let stored = if believes {
            written.checksum.clone().or(shown)
        } else {
            shown
        };
        let proof = match (&whole, &stored) {
            (Some(sent), Some(stored)) if is_comparable(sent, stored) => prove_equal(sent, stored),
            _ if etag_matches_parts => Ok(Proof::PartEtags),
            _ => match predicted.filter(|predicted| *predicted != written.etag) {
                Some(made) if etag_is_comparable => {
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

    /// Returns true once the `ETag`s of the parts are known to be the MD5s of their bytes.
    fn etags_are_md5s(&self) -> bool {
        self.no_encryption_key && self.server_uses_md5.load(Ordering::Acquire)
    }

    /// Returns a message if the `ETag` of a part contradicts its bytes. This is the first check of
    /// parts that were confirmed before any `ETag` was known to be an MD5.
    fn contradicted_part(&self, parts: &[PartDone]) -> Option<String> {
        if !self.etags_are_md5s() || self.method.part_algorithm().is_some() {
            return None;
        }
        let is_other =
            |part: &&PartDone| part.checksum.is_none() && checksum::looks_like_md5(&part.etag);
        let PartDone { number, etag, .. } = parts.iter().find(is_other)?;
        Some(format!(
            "the ETag of part {number} is {etag}, which is not the MD5 of the sent bytes"
        ))
    }

    /// Combines the checksums of the parts into the checksum of the whole object.
    fn combined(&self, parts: &[PartDone]) -> Option<Checksum> {
        checksum::of_parts(
            parts,
            self.method.part_algorithm()?,
            ChecksumKind::FullObject,
        )
    }

    /// Returns the parts in the form that Complete sends.
    fn named(&self, parts: &[PartDone]) -> Vec<PartDone> {
        // If no algorithm was declared, the server must not receive the checksums.
        match self.method.algorithm {
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
