//! Did what was sent from here arrive? Sums of ours against what the server stored.

use bytes::Bytes;

use super::receipt::Proof;
use super::{Trouble, Work, read};
use crate::checksum;
use crate::location::ObjectKey;
use crate::manifest::job::{Prove, Verify};
use crate::s3::{Attributes, Checksum, Written};

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

/// Looks whether so many bytes arrived. `size_is_seen` tells that the server itself has seen to it, so that a job that asks
/// for no more need not.
pub(super) async fn by_size(
    work: &Work,
    key: &ObjectKey,
    written: &Written,
    size: u64,
    size_is_seen: bool,
) -> Result<Proof, Trouble> {
    if size_is_seen && work.sides.transfer.proof.verify == Verify::Size {
        return Ok(Proof::Size);
    }
    let found = work.sides.destination.head(key, written.version.as_deref()).await?;
    if found.size == size {
        return Ok(Proof::Size);
    }
    let what = format!("{} bytes arrived of {size}", found.size);
    Err(work.unequal(key, written, &what).await.into())
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
