//! Summing an object by reading it: ranged GETs side by side, each summed as it arrives.
//!
//! No byte is kept: a range leaves its CRC, and the CRCs of adjacent ranges combine into that of
//! the whole. So an object of any size takes a few buffers of memory, no disk, and a range that
//! breaks off is read again by itself. Each range takes a place in flight and counts against the
//! job's bytes per second, like a part that is copied.

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::bucket::Bucket;
use crate::checksum;
use crate::location::ObjectKey;
use crate::s3::{Checksum, ChecksumAlgorithm, Failure, FailureKind, Operation, SourcePin, Written};
use crate::size::MIB;

/// Bytes of one GET. What is lost when a connection breaks is at most that much.
const RANGE: u64 = 64 * MIB;
/// Ranges of one object that are under way at once.
const AT_ONCE: usize = 16;

/// Makes sure that an object ends where HEAD says, by reading its last byte: the answer to a range
/// names the size of the whole.
///
/// # Errors
/// [`FailureKind::ServerFault`] when it has another size, [`FailureKind::PreconditionFailed`] when
/// the object is another one by now, else what S3 says.
pub(crate) async fn confirm_size(
    bucket: &Bucket,
    pin: &SourcePin,
    size: u64,
) -> Result<(), Failure> {
    let Some(last) = size.checked_sub(1) else {
        return Ok(());
    };
    let (range, algorithm) = ((last, last), ChecksumAlgorithm::Crc64Nvme);
    bucket
        .sum_range(pin, range, size, algorithm)
        .await
        .map(drop)
}

/// Returns the checksum over all bytes of what was just written to `key`.
///
/// # Errors
/// See [`sum`].
pub(crate) async fn sum_written(
    bucket: &Bucket,
    key: &ObjectKey,
    written: &Written,
    size: u64,
    algorithm: ChecksumAlgorithm,
) -> Result<Checksum, Failure> {
    let pin = SourcePin {
        bucket: bucket.name().clone(),
        key: key.clone(),
        version: written.version.clone(),
        etag: written.etag.clone(),
        customer_key: bucket.client().customer_key().cloned(),
    };
    sum(bucket, &pin, size, algorithm).await
}

/// Returns the checksum over all `size` bytes of one version of an object, in an algorithm that
/// combines.
///
/// # Errors
/// [`FailureKind::PreconditionFailed`] when the object is another one by now, else what S3 says.
pub(crate) async fn sum(
    bucket: &Bucket,
    pin: &SourcePin,
    size: u64,
    algorithm: ChecksumAlgorithm,
) -> Result<Checksum, Failure> {
    let ranges = (0..size.div_ceil(RANGE)).map(|index| {
        let first = index * RANGE;
        (first, (first + RANGE).min(size) - 1)
    });
    let sums = stream::iter(ranges).map(|(first, last)| async move {
        let slots = bucket.pacer().slots();
        let place = slots
            .request(slots.bulk(size - first, RANGE))
            .await
            .map_err(|_| {
                Failure::new(
                    FailureKind::Stopped,
                    Operation::GetObject,
                    bucket.place(&pin.key),
                    "the run was stopped",
                )
            })?;
        let sum = bucket
            .sum_range(pin, (first, last), size, algorithm)
            .await?;
        drop(place);
        Ok::<_, Failure>((sum, last - first + 1))
    });
    let empty = checksum::compute(algorithm, b"");
    let mut sums = std::pin::pin!(sums.buffered(AT_ONCE));
    let mut whole = empty;
    while let Some((sum, length)) = sums.try_next().await? {
        let pieces = [(whole.value.as_str(), 0), (sum.value.as_str(), length)];
        whole = checksum::combine(algorithm, pieces).ok_or_else(|| {
            let message = format!("{algorithm} does not combine");
            Failure::new(
                FailureKind::Bug,
                Operation::GetObject,
                bucket.place(&pin.key),
                message,
            )
        })?;
    }
    Ok(whole)
}
