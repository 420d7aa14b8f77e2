//! Did what was sent from here arrive? Sums of ours against what the server stored.

use bytes::Bytes;

use super::published::found_otherwise;
use super::receipt::Proof;
use super::{Draft, Trouble, Work, read};
use crate::checksum;
use crate::location::ObjectKey;
use crate::manifest::job::{Prove, Verify};
use crate::plan::asked::Asked;
use crate::s3::{Attributes, Checksum, ChecksumAlgorithm, Head, Operation, Written};

/// What is summed for comparison with what is read back.
pub(super) const READ_SUM: ChecksumAlgorithm = ChecksumAlgorithm::Crc64Nvme;

/// What is summed of a part: what the server checks, or else what is compared afterwards.
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
}

/// What the answer says beyond the size: equal, unequal, or nothing.
pub(super) fn strong_proof(
    body: &Bytes,
    sent: Option<&Checksum>,
    written: &Written,
) -> Option<Result<Proof, String>> {
    match (sent, &written.checksum) {
        (Some(sent), Some(stored)) if sent.algorithm == stored.algorithm => Some(equal(sent, stored)),
        _ => (checksum::md5_etag(body) == written.etag).then_some(Ok(Proof::Etag)),
    }
}

pub(super) fn equal(sent: &Checksum, stored: &Checksum) -> Result<Proof, String> {
    if sent.value == stored.value {
        return Ok(sent.algorithm.into());
    }
    Err(format!("{} of what was sent is {}, S3 stored {}", sent.algorithm, sent.value, stored.value))
}

/// Looks at an object whose write answered with no proof, and returns the proof that its size is. Also compares what it
/// has with the attributes that were sent. A job that asks for the size only does not look.
pub(super) async fn by_size(
    work: &Work,
    key: &ObjectKey,
    written: &Written,
    size: u64,
    attributes: &Attributes,
    draft: &mut Draft,
) -> Result<Proof, Trouble> {
    if work.sides.transfer.proof.verify != Verify::Size {
        Box::pin(found(work, key, written, (size, 0, true), attributes, draft)).await?;
    }
    Ok(Proof::Size)
}

/// Looks at an object that was sent, and compares its size, parts, version, and attributes with what was sent. `None`: the
/// caller may not look, and need not.
pub(super) async fn found(
    work: &Work,
    key: &ObjectKey,
    written: &Written,
    (size, parts, must_look): (u64, u32, bool),
    attributes: &Attributes,
    draft: &mut Draft,
) -> Result<Option<Head>, Trouble> {
    let destination = &work.sides.destination;
    let Some(found) = work.look(key, written, must_look, draft).await? else { return Ok(None) };
    let content_etags = destination.capabilities().content_etags;
    if let Some(what) = found_otherwise(written, &found, (size, parts), content_etags) {
        return Err(work.unequal(key, written, &what).await.into());
    }
    let asked = asked(work, attributes);
    if work.compare(key, written, asked, &found, draft).await? && parts == 0 {
        work.refusals.keeps(destination, Operation::PutObject, asked);
    }
    Ok(Some(found))
}

/// Looks at an object of one request whose answer proves its bytes, if the bucket has not shown yet that it keeps what it
/// was asked to keep.
pub(super) async fn confirm(
    work: &Work,
    key: &ObjectKey,
    written: &Written,
    size: u64,
    attributes: &Attributes,
    draft: &mut Draft,
) -> Result<(), Trouble> {
    let (asked, destination) = (asked(work, attributes), &work.sides.destination);
    if work.refusals.is_unproven(destination, Operation::PutObject, asked) {
        Box::pin(found(work, key, written, (size, 0, false), attributes, draft)).await?;
    }
    Ok(())
}

fn asked<'a>(work: &Work, attributes: &'a Attributes) -> Asked<'a> {
    let customer_key = work.sides.destination.client().customer_key().is_some();
    Asked { attributes, source_tags: None, customer_key }
}

/// A job that demands a checksum is told before anything is sent that there will be none.
pub(super) fn demand(work: &Work, key: &ObjectKey, attributes: &Attributes) -> Result<(), Trouble> {
    if work.sides.transfer.proof.demands_an_answer() && attributes.checksum.is_none() {
        return Err(work.unprovable(key, "no checksum can be declared to this server").into());
    }
    Ok(())
}

/// Goes beyond what the server's answers prove, where the job allows it, and fails what falls short of its demand.
pub(super) async fn settle(
    work: &Work,
    key: &ObjectKey,
    mut proof: Proof,
    local: Option<Checksum>,
    written: &Written,
    size: u64,
) -> Result<Proof, Trouble> {
    let destination = &work.sides.destination;
    let prove = work.sides.transfer.proof.prove;
    if let (false, Prove::Read, Some(sent)) = (proof.is_checksum(), prove, local) {
        let stored = read::sum_written(destination, key, written, size, sent.algorithm).await?;
        if let Err(what) = equal(&sent, &stored) {
            return Err(work.unequal(key, written, &what).await.into());
        }
        proof = Proof::Read;
    }
    Ok(work.enough(key, proof)?)
}
