//! Computes the checksum of an object by reading it with parallel ranged GETs.
//!
//! No byte is stored: the checksum of each range is computed as its bytes arrive, and the CRCs of
//! adjacent ranges are combined into the CRC of the whole object. So an object of any size takes a
//! few buffers of memory and no disk space. If a connection breaks, only its range is read again.
//! Each range takes a slot and counts against the job's bandwidth limit, like a part that is
//! copied.

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::bucket::Bucket;
use crate::checksum;
use crate::location::ObjectKey;
use crate::s3::{Checksum, ChecksumAlgorithm, Failure, FailureKind, Operation, SourcePin, Written};
use crate::size::MIB;

/// The size of one ranged GET, and so the most that is read again when a connection breaks.
const RANGE: u64 = 64 * MIB;
/// The number of ranges of one object that are read at once.
const MAX_CONCURRENT: usize = 16;

/// Checks the size that HEAD showed by reading the last byte: the response to a ranged GET contains
/// the size of the whole object.
///
/// # Errors
/// [`FailureKind::ServerFault`] if the object has another size, [`FailureKind::PreconditionFailed`]
/// if it was replaced since HEAD, and otherwise S3's error.
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
        .checksum_range(pin, range, size, algorithm)
        .await
        .map(drop)
}

/// Reads the object that was just written to `key`, and returns the checksum over all its bytes.
///
/// # Errors
/// See [`checksum`].
pub(crate) async fn checksum_written(
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
    checksum(bucket, &pin, size, algorithm).await
}

/// Reads one version of an object, and returns the checksum over all of its `size` bytes. The
/// checksums of `algorithm` must combine, as CRCs do.
///
/// # Errors
/// [`FailureKind::PreconditionFailed`] if the object was replaced meanwhile, and otherwise S3's
/// error.
pub(crate) async fn checksum(
    bucket: &Bucket,
    pin: &SourcePin,
    size: u64,
    algorithm: ChecksumAlgorithm,
) -> Result<Checksum, Failure> {
    let ranges = (0..size.div_ceil(RANGE)).map(|index| {
        let first = index * RANGE;
        (first, (first + RANGE).min(size) - 1)
    });
    let checksums = stream::iter(ranges).map(|(first, last)| async move {
        let slots = bucket.pacer().slots();
        let slot = slots
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
        let checksum = bucket
            .checksum_range(pin, (first, last), size, algorithm)
            .await?;
        drop(slot);
        Ok::<_, Failure>((checksum, last - first + 1))
    });
    let empty = checksum::compute(algorithm, b"");
    let mut checksums = std::pin::pin!(checksums.buffered(MAX_CONCURRENT));
    let mut whole = empty;
    while let Some((checksum, length)) = checksums.try_next().await? {
        let pieces = [(whole.value.as_str(), 0), (checksum.value.as_str(), length)];
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
