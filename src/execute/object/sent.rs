//! Compares the bytes that s3haul sent with the bytes that the server stored: by checksums that
//! s3haul computes and the server confirms, or by reading the object.

use super::ObjectTask;
use super::published::{HeadCheck, HeadResult};
use super::round_failure::RoundFailure;
use crate::checksum;
use crate::execute::prove::ProofVerdict;
use crate::execute::read;
use crate::execute::receipt::Proof;
use crate::manifest::job::Prove;
use crate::plan::asked::Asked;
use crate::s3::{Attributes, Checksum, ChecksumAlgorithm, Failure, Head, Operation, Written};

/// The checksum algorithm for comparing sent bytes with bytes that are read back.
pub(super) const READ_ALGORITHM: ChecksumAlgorithm = ChecksumAlgorithm::Crc64Nvme;

/// The method of computing the checksums of parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChecksumMethod {
    /// The algorithm that the upload declared. The server checks each part with it.
    pub(super) algorithm: Option<ChecksumAlgorithm>,
    /// True if no algorithm was declared and the destination will be read.
    pub(super) reads: bool,
}

/// The checksum of one part.
#[derive(Debug)]
pub(super) enum PartChecksum {
    /// A checksum that the server checks.
    Declared(Checksum),
    /// A checksum to compare with the checksum of the bytes that are read back.
    ForRead(String),
    /// The MD5, to compare with the `ETag` of the part.
    Md5(String),
}

impl ChecksumMethod {
    /// Computes the checksum of one part.
    pub(super) fn compute(self, body: &[u8]) -> PartChecksum {
        match self.algorithm {
            Some(algorithm) => PartChecksum::Declared(checksum::compute(algorithm, body)),
            None if self.reads => {
                PartChecksum::ForRead(checksum::compute(READ_ALGORITHM, body).value)
            }
            None => PartChecksum::Md5(checksum::md5_etag(body)),
        }
    }

    /// Returns the algorithm of the parts' checksums, or `None` if they are MD5s.
    pub(super) fn part_algorithm(self) -> Option<ChecksumAlgorithm> {
        self.algorithm.or(self.reads.then_some(READ_ALGORITHM))
    }
}

impl PartChecksum {
    /// Returns the checksum that the server checks, if there is one.
    pub(super) fn declared(&self) -> Option<&Checksum> {
        match self {
            Self::Declared(checksum) => Some(checksum),
            Self::ForRead(_) | Self::Md5(_) => None,
        }
    }
}

/// Returns true if different values of the two checksums mean different bytes.
pub(super) fn is_comparable(sent: &Checksum, stored: &Checksum) -> bool {
    (sent.algorithm, sent.kind) == (stored.algorithm, stored.kind)
}

/// Returns the proof that two comparable checksums give, or a message if they differ.
pub(super) fn prove_equal(sent: &Checksum, stored: &Checksum) -> Result<Proof, String> {
    if sent.value == stored.value {
        return Ok(sent.algorithm.into());
    }
    Err(format!(
        "the {} of the sent bytes is {}, S3 stored {}",
        sent.algorithm, sent.value, stored.value
    ))
}

/// Returns a message if an `ETag` contradicts bytes with this MD5. Returns `None` if the `ETag` is
/// not an MD5, or if the server's `ETag`s are not known to be MD5s.
pub(super) fn md5_contradiction(md5: &str, etag: &str, server_uses_md5: bool) -> Option<String> {
    let differ =
        server_uses_md5 && checksum::looks_like_md5(etag) && !etag.eq_ignore_ascii_case(md5);
    differ.then(|| format!("the MD5 of the sent bytes is {md5}, but the ETag is {etag}"))
}

impl ObjectTask<'_> {
    /// Sends HEAD for an object whose bytes other evidence proves. Returns `None` if HEAD is denied
    /// and not needed.
    pub(super) async fn check_sent(
        &mut self,
        look: HeadCheck<'_>,
    ) -> Result<Option<Head>, RoundFailure> {
        let HeadResult { verdict, found } =
            self.check_by_head(look, |_| ProofVerdict::Unknown).await?;
        match verdict {
            ProofVerdict::Contradicted(what) => {
                Err(self.reject_published(look.written, &what).await.into())
            }
            _ => Ok(found),
        }
    }

    /// Returns the check of an object that `write` created with these attributes. The caller sets
    /// the size and the number of parts.
    pub(super) fn head_check<'a>(
        &self,
        written: &'a Written,
        attributes: &'a Attributes,
        write: Operation,
    ) -> HeadCheck<'a> {
        let customer_key = self.destination().client().customer_key().is_some();
        HeadCheck {
            written,
            size: 0,
            parts: 0,
            is_only_proof: false,
            asked: Some(Asked::of(attributes, write, customer_key)),
        }
    }

    /// Fails the object before anything is sent if the job demands a checksum that the object
    /// cannot have.
    pub(super) fn demand_checksum(&self, attributes: &Attributes) -> Result<(), Failure> {
        let demands = self.context.sides.transfer.proof.demands_an_answer();
        if demands && attributes.checksum.is_none() {
            return Err(self.unprovable("no checksum can be declared to this server"));
        }
        Ok(())
    }

    /// Reads the object for a stronger proof if the job says `prove: read`. Fails the object if its
    /// proof is still weaker than the job demands.
    pub(super) async fn strengthen(
        &self,
        mut proof: Proof,
        local: Option<Checksum>,
        written: &Written,
        size: u64,
    ) -> Result<Proof, RoundFailure> {
        let prove = self.context.sides.transfer.proof.prove;
        if let (false, Prove::Read, Some(sent)) = (proof.is_checksum(), prove, local) {
            let stored = self.checksum_written(written, size, sent.algorithm).await?;
            if let Err(what) = prove_equal(&sent, &stored) {
                return Err(self.reject_published(written, &what).await.into());
            }
            proof = Proof::Read;
        }
        Ok(self.require_strength(proof)?)
    }

    /// Computes the checksum of the written object by reading it.
    pub(super) async fn checksum_written(
        &self,
        written: &Written,
        size: u64,
        algorithm: ChecksumAlgorithm,
    ) -> Result<Checksum, Failure> {
        read::checksum_written(self.destination(), &self.step.key, written, size, algorithm).await
    }
}
