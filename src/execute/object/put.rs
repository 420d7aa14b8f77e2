//! Sends a small object in one request, and proves it.
//!
//! The response proves the bytes if it confirms the checksum that was sent, or if its `ETag` is the
//! MD5 of the bytes. Otherwise a HEAD of the object follows.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::ObjectTask;
use super::condition::{CONDITION_HOLDS, RefusalReaction, WriteResult};
use super::published::HeadCheck;
use super::round_failure::RoundFailure;
use super::sent::{READ_ALGORITHM, is_comparable, md5_contradiction, prove_equal};
use crate::checksum;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::execute::receipt::{Ending, Proof};
use crate::manifest::job::{Prove, Verify};
use crate::pace::Slot;
use crate::plan::condition::DestinationState;
use crate::plan::decide::Skip;
use crate::s3::{Attributes, Checksum, FailureKind, Operation, WriteCondition, Written};

/// The maximum number of times that a refused `PutObject` is sent, each time with the condition
/// that holds by then.
const PUT_ATTEMPTS: u32 = 4;

impl ObjectTask<'_> {
    /// Sends a small object in one request and proves it.
    pub(super) async fn put(
        &mut self,
        slot: Slot,
        body: Bytes,
        attributes: &Attributes,
    ) -> Result<Ending, RoundFailure> {
        self.demand_checksum(attributes)?;
        let checksum = attributes
            .checksum
            .map(|(algorithm, _)| checksum::compute(algorithm, &body));
        let reads = self.context.sides.transfer.proof.prove == Prove::Read;
        let local = checksum
            .clone()
            .or_else(|| reads.then(|| checksum::compute(READ_ALGORITHM, &body)));
        let size = body.len() as u64;
        let written = match self
            .put_conditionally(&body, attributes, checksum.as_ref())
            .await?
        {
            WriteResult::Written(written) => written,
            WriteResult::Left(reason) => return Ok(Ending::Skipped { reason }),
        };
        let proof = match strong_proof(&body, checksum.as_ref(), &written) {
            Some(Ok(proof)) => {
                if proof == Proof::Etag {
                    let md5s = self.context.refusals.md5s(self.destination());
                    md5s.store(true, Ordering::Release);
                }
                self.confirm(&written, proof, size, attributes).await?;
                proof
            }
            Some(Err(message)) => {
                return Err(self.reject_published(&written, &message).await.into());
            }
            None => self.prove_by_size(&written, &body, attributes).await?,
        };
        drop(slot);
        let proof = self.strengthen(proof, local, &written, size).await?;
        self.count_bytes(size);
        Ok(Self::done(proof, written))
    }

    /// Sends the bytes, and sends them again if the write meanwhile needs another condition.
    async fn put_conditionally(
        &mut self,
        body: &Bytes,
        attributes: &Attributes,
        checksum: Option<&Checksum>,
    ) -> Result<WriteResult, RoundFailure> {
        let (destination, key) = (self.destination(), &self.step.key);
        let mut attempt = 1;
        loop {
            let condition = self.condition(ConditionalWrite::Put);
            if self.is_taken(&condition).await? {
                return Ok(WriteResult::Left(Skip::Present));
            }
            let sent =
                destination.put_object(key, body.clone(), attributes, checksum, condition.clone());
            let failure = match sent.await {
                Ok(answer) => {
                    self.draft.attempts += answer.attempts;
                    return Ok(WriteResult::Written(answer.value));
                }
                Err(failure) => failure,
            };
            self.draft.attempts += failure.details().attempts;
            let next = self.react_to_refusal(
                ConditionalWrite::Put,
                &condition,
                failure.clone(),
                attempt < PUT_ATTEMPTS,
            );
            if let RefusalReaction::Leave(skip) = next.await? {
                // The object comes from another writer, or from an earlier attempt whose response
                // was lost.
                let found = match destination.head(key, None).await {
                    Ok(found) => found.written(),
                    // Without the permission to send HEAD, the refusal is the only evidence.
                    Err(hidden) if *hidden.kind() == FailureKind::Denied => {
                        return Ok(WriteResult::Left(skip));
                    }
                    // The other object was deleted meanwhile.
                    Err(gone)
                        if *gone.kind() == FailureKind::NotFound && attempt < PUT_ATTEMPTS =>
                    {
                        self.destination_state = DestinationState::Absent;
                        attempt += 1;
                        continue;
                    }
                    Err(gone) if *gone.kind() == FailureKind::NotFound => {
                        return Err(failure.noting(CONDITION_HOLDS).into());
                    }
                    Err(other) => return Err(other.into()),
                };
                if condition == WriteCondition::Matches(found.etag.clone()) {
                    return Err(failure.noting(CONDITION_HOLDS).into());
                }
                return Ok(match strong_proof(body, checksum, &found) {
                    Some(Ok(_)) if self.draft.attempts > 1 => WriteResult::Written(found),
                    _ => WriteResult::Left(skip),
                });
            }
            attempt += 1;
        }
    }

    /// Sends HEAD for an object whose bytes the response proves, if responses are not trusted, or
    /// if the bucket has not yet been seen to keep the requested attributes. If the `ETag` is the
    /// proof, HEAD must show the same `ETag`.
    async fn confirm(
        &mut self,
        written: &Written,
        proof: Proof,
        size: u64,
        attributes: &Attributes,
    ) -> Result<(), RoundFailure> {
        let destination = self.destination();
        let look = HeadCheck {
            size,
            is_only_proof: !destination.capabilities().believes_answers(),
            ..self.head_check(written, attributes, Operation::PutObject)
        };
        if !look
            .asked
            .is_some_and(|asked| self.context.refusals.needs_head_check(destination, asked))
        {
            return Ok(());
        }
        if let Some(found) = Box::pin(self.check_sent(look)).await?
            && proof == Proof::Etag
            && found.etag != written.etag
        {
            let what = format!(
                "the ETag of the object is {}, that of the sent bytes is {}",
                found.etag, written.etag
            );
            return Err(self.reject_published(written, &what).await.into());
        }
        Ok(())
    }

    /// Proves an object by its size, because the response to its write proves nothing. Sends HEAD
    /// to compare the size and the attributes, unless the job demands the size only, the server is
    /// trusted, and the response does not contradict the bytes.
    async fn prove_by_size(
        &mut self,
        written: &Written,
        body: &Bytes,
        attributes: &Attributes,
    ) -> Result<Proof, RoundFailure> {
        let destination = self.destination();
        // True if the provider profile says so, or if an upload of this run had an MD5 as its ETag.
        let server_uses_md5 = self
            .context
            .refusals
            .md5s(destination)
            .load(Ordering::Acquire);
        let md5 = checksum::md5_etag(body);
        let believes = destination.capabilities().believes_answers();
        let is_doubtful = md5_contradiction(&md5, &written.etag, server_uses_md5).is_some();
        if self.context.sides.transfer.proof.verify != Verify::Size || !believes || is_doubtful {
            let look = HeadCheck {
                size: body.len() as u64,
                is_only_proof: true,
                ..self.head_check(written, attributes, Operation::PutObject)
            };
            // Only HEAD shows whether the object is encrypted with a KMS key. If it is, the ETag is
            // not an MD5.
            if let Some(found) = Box::pin(self.check_sent(look)).await?
                && let Some(what) =
                    md5_contradiction(&md5, &found.etag, server_uses_md5 && !found.kms)
            {
                return Err(self.reject_published(written, &what).await.into());
            }
        }
        Ok(Proof::Size)
    }
}

/// Judges the bytes by the response. Returns a proof, a contradiction, or `None` if the response
/// shows neither.
fn strong_proof(
    body: &Bytes,
    sent: Option<&Checksum>,
    written: &Written,
) -> Option<Result<Proof, String>> {
    match (sent, &written.checksum) {
        (Some(sent), Some(stored)) if is_comparable(sent, stored) => {
            Some(prove_equal(sent, stored))
        }
        _ => (checksum::md5_etag(body) == written.etag).then_some(Ok(Proof::Etag)),
    }
}
