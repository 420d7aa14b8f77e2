//! Did what was sent from here arrive? Sums of ours against what the server stored.

use super::ObjectTask;
use super::published::{HeadCheck, HeadResult};
use super::trouble::Trouble;
use crate::checksum;
use crate::execute::prove::Verdict;
use crate::execute::read;
use crate::execute::receipt::Proof;
use crate::manifest::job::Prove;
use crate::plan::asked::Asked;
use crate::s3::{Attributes, Checksum, ChecksumAlgorithm, Failure, Head, Operation, Written};

/// The checksum of sent bytes that is compared with the bytes read back.
pub(super) const READ_SUM: ChecksumAlgorithm = ChecksumAlgorithm::Crc64Nvme;

/// The checksums of a part: the one that the server checks, or else the one that is compared
/// afterwards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    /// Declared to the server, which checks each part against it.
    pub(super) algorithm: Option<ChecksumAlgorithm>,
    /// Without one: the destination will be read.
    pub(super) reads: bool,
}

impl Sums {
    pub(super) fn of(self, body: &[u8]) -> (Option<Checksum>, Option<String>) {
        match self.algorithm {
            Some(algorithm) => (Some(checksum::compute(algorithm, body)), None),
            None if self.reads => (None, Some(checksum::compute(READ_SUM, body).value)),
            None => (None, Some(checksum::md5_etag(body))),
        }
    }

    /// Returns the algorithm of the parts' checksums, if they are not MD5s.
    pub(super) fn summed_with(self) -> Option<ChecksumAlgorithm> {
        self.algorithm.or(self.reads.then_some(READ_SUM))
    }
}

/// Returns true for two checksums of which different values are of different bytes.
pub(super) fn is_comparable(sent: &Checksum, stored: &Checksum) -> bool {
    (sent.algorithm, sent.kind) == (stored.algorithm, stored.kind)
}

pub(super) fn equal(sent: &Checksum, stored: &Checksum) -> Result<Proof, String> {
    if sent.value == stored.value {
        return Ok(sent.algorithm.into());
    }
    Err(format!(
        "{} of what was sent is {}, S3 stored {}",
        sent.algorithm, sent.value, stored.value
    ))
}

/// Returns what an `ETag` says against bytes that were sent with this MD5. It says nothing if it is
/// no MD5, or if the server may make `ETag`s of something else.
pub(super) fn against_md5(md5: &str, etag: &str, are_md5s: bool) -> Option<String> {
    let differ = are_md5s && checksum::looks_like_md5(etag) && !etag.eq_ignore_ascii_case(md5);
    differ.then(|| format!("the MD5 of what was sent is {md5}, and its ETag is {etag}"))
}

impl ObjectTask<'_> {
    /// Looks at an object that was sent, whose bytes the answers or a later read prove. `None`: the
    /// caller may not look, and need not.
    pub(super) async fn look_at_sent(
        &mut self,
        look: HeadCheck<'_>,
    ) -> Result<Option<Head>, Trouble> {
        let HeadResult { verdict, found } = self.look(look, |_| Verdict::Unknown).await?;
        match verdict {
            Verdict::Contradicted(what) => {
                Err(self.reject_published(look.written, &what).await.into())
            }
            _ => Ok(found),
        }
    }

    /// Returns the look at an object that `write` gave these attributes, of no size and no parts
    /// yet.
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
            is_needed: false,
            asked: Some(Asked::of(attributes, write, customer_key)),
        }
    }

    /// Fails an object before anything is sent if the job demands a checksum and there will be
    /// none.
    pub(super) fn demand_checksum(&self, attributes: &Attributes) -> Result<(), Failure> {
        let demands = self.work.sides.transfer.proof.demands_an_answer();
        if demands && attributes.checksum.is_none() {
            return Err(self.unprovable("no checksum can be declared to this server"));
        }
        Ok(())
    }

    /// Goes beyond what the server's answers prove, where the job allows it, and fails what falls
    /// short of its demand.
    pub(super) async fn strengthen(
        &self,
        mut proof: Proof,
        local: Option<Checksum>,
        written: &Written,
        size: u64,
    ) -> Result<Proof, Trouble> {
        let prove = self.work.sides.transfer.proof.prove;
        if let (false, Prove::Read, Some(sent)) = (proof.is_checksum(), prove, local) {
            let stored = self.sum_written(written, size, sent.algorithm).await?;
            if let Err(what) = equal(&sent, &stored) {
                return Err(self.reject_published(written, &what).await.into());
            }
            proof = Proof::Read;
        }
        Ok(self.require_strength(proof)?)
    }

    /// Computes the checksum of what was written by reading it.
    pub(super) async fn sum_written(
        &self,
        written: &Written,
        size: u64,
        algorithm: ChecksumAlgorithm,
    ) -> Result<Checksum, Failure> {
        read::sum_written(self.destination(), &self.step.key, written, size, algorithm).await
    }
}
