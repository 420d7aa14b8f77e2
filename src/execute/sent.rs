//! Did what was sent from here arrive? Sums of ours against what the server stored.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::prove::Verdict;
use super::published::{HeadCheck, HeadResult};
use super::receipt::Proof;
use super::{Draft, Trouble, Work, read};
use crate::checksum;
use crate::location::ObjectKey;
use crate::manifest::job::{Prove, Verify};
use crate::plan::asked::Asked;
use crate::s3::{Attributes, Checksum, ChecksumAlgorithm, Head, Operation, Written};

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
}

/// Judges the answer beyond the size: equal, unequal, or nothing.
pub(super) fn strong_proof(
    body: &Bytes,
    sent: Option<&Checksum>,
    written: &Written,
) -> Option<Result<Proof, String>> {
    match (sent, &written.checksum) {
        (Some(sent), Some(stored)) if is_comparable(sent, stored) => Some(equal(sent, stored)),
        _ => (checksum::md5_etag(body) == written.etag).then_some(Ok(Proof::Etag)),
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

/// Returns true if the `ETag`s of single requests are MD5s where no key makes them: the profile says
/// so, or an upload of this run had one that was.
pub(super) fn are_md5s(work: &Work) -> bool {
    let md5s = work.refusals.md5s(&work.sides.destination);
    md5s.load(Ordering::Acquire)
}

/// Looks at an object whose write answered with no proof, and returns the proof that its size is.
/// Also compares what it has with the attributes that were sent. A job that asks for the size only
/// and believes the server does not look, unless the answer speaks against the bytes.
pub(super) async fn by_size(
    work: &Work,
    key: &ObjectKey,
    written: &Written,
    body: &Bytes,
    attributes: &Attributes,
    draft: &mut Draft,
) -> Result<Proof, Trouble> {
    let (md5, are_md5s) = (checksum::md5_etag(body), are_md5s(work));
    let believes = work.sides.destination.capabilities().believes_answers();
    let is_doubtful = against_md5(&md5, &written.etag, are_md5s).is_some();
    if work.sides.transfer.proof.verify != Verify::Size || !believes || is_doubtful {
        let look = HeadCheck {
            size: body.len() as u64,
            is_needed: true,
            ..look_at(work, key, written, attributes, Operation::PutObject)
        };
        // A key makes ETags of its own, and only the object shows if there is one.
        if let Some(found) = Box::pin(found(work, look, draft)).await?
            && let Some(what) = against_md5(&md5, &found.etag, are_md5s && !found.kms)
        {
            return Err(work.reject_published(key, written, &what).await.into());
        }
    }
    Ok(Proof::Size)
}

/// Looks at an object that was sent, whose bytes the answers or a later read prove. `None`: the
/// caller may not look, and need not.
pub(super) async fn found(
    work: &Work,
    look: HeadCheck<'_>,
    draft: &mut Draft,
) -> Result<Option<Head>, Trouble> {
    let HeadResult { verdict, found } = work.look(look, |_| Verdict::Unknown, draft).await?;
    match verdict {
        Verdict::Contradicted(what) => Err(work
            .reject_published(look.key, look.written, &what)
            .await
            .into()),
        _ => Ok(found),
    }
}

/// Looks at an object of one request whose answer proves its bytes, if no answer is believed, or if
/// the bucket has not shown yet that it keeps what it was asked to keep. The `ETag` that proves the
/// bytes must be that of the object.
pub(super) async fn confirm(
    work: &Work,
    key: &ObjectKey,
    written: &Written,
    proof: Proof,
    size: u64,
    attributes: &Attributes,
    draft: &mut Draft,
) -> Result<(), Trouble> {
    let destination = &work.sides.destination;
    let is_needed = !destination.capabilities().believes_answers();
    let look = HeadCheck {
        size,
        is_needed,
        ..look_at(work, key, written, attributes, Operation::PutObject)
    };
    if !look
        .asked
        .is_some_and(|asked| work.refusals.needs_look(destination, asked))
    {
        return Ok(());
    }
    if let Some(found) = Box::pin(found(work, look, draft)).await?
        && proof == Proof::Etag
        && found.etag != written.etag
    {
        let what = format!(
            "the ETag of the object is {}, and what was sent has {}",
            found.etag, written.etag
        );
        return Err(work.reject_published(key, written, &what).await.into());
    }
    Ok(())
}

/// Returns the look at an object that `write` gave these attributes, of no size and no parts yet.
pub(super) fn look_at<'a>(
    work: &Work,
    key: &'a ObjectKey,
    written: &'a Written,
    attributes: &'a Attributes,
    write: Operation,
) -> HeadCheck<'a> {
    let customer_key = work.sides.destination.client().customer_key().is_some();
    let asked = Asked::of(attributes, write, customer_key);
    HeadCheck {
        key,
        written,
        size: 0,
        parts: 0,
        is_needed: false,
        asked: Some(asked),
    }
}

/// Fails an object before anything is sent if the job demands a checksum and there will be none.
pub(super) fn demand(work: &Work, key: &ObjectKey, attributes: &Attributes) -> Result<(), Trouble> {
    if work.sides.transfer.proof.demands_an_answer() && attributes.checksum.is_none() {
        return Err(work
            .unprovable(key, "no checksum can be declared to this server")
            .into());
    }
    Ok(())
}

/// Goes beyond what the server's answers prove, where the job allows it, and fails what falls short
/// of its demand.
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
            return Err(work.reject_published(key, written, &what).await.into());
        }
        proof = Proof::Read;
    }
    Ok(work.require_strength(key, proof)?)
}
