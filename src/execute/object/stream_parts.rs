//! Reads the parts of standard input, a stream of unknown length.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, Stdin, stdin};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::local_file::reserve;
use super::round_failure::RoundFailure;
use crate::execute::{TransferContext, UPLOAD_MEMORY_MIB};
use crate::manifest::job::PartSize;
use crate::plan::parts::UPLOAD_PART;
use crate::s3::capabilities::PartLimits;
use crate::s3::{Failure, FailureKind, Operation};
use crate::size::MIB;

/// The number of steps into which the parts of the longest stream are divided. The part size may
/// double with each step. So a stream of 10,000 parts that begins with parts of 16 MiB can be 14
/// TiB long.
const STEPS: u32 = 20;

/// The number of initial steps in which the part size stays within [`UPLOAD_MEMORY_MIB`]. With
/// 10,000 parts of at least 16 MiB, these steps hold at least 1 TiB. Only a longer stream needs
/// more memory than files.
const SMALL_STEPS: u32 = 12;

/// The time that s3haul waits, after a stream ends, for the signal that may have ended it.
const SIGNAL_GRACE: Duration = Duration::from_millis(250);

/// A part of a stream, and the permit for its memory.
pub(super) struct StreamPart {
    pub(super) number: u32,
    pub(super) body: Bytes,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// The parts of a stream, in their order.
pub(super) struct StreamParts {
    reader: Stdin,
    /// The number of the next part.
    number: u32,
    /// The first part, which was read to choose the route; `None` once it is sent.
    first: Option<StreamPart>,
}

impl StreamParts {
    /// Starts to read standard input.
    pub(super) fn of_stdin() -> Self {
        Self {
            reader: stdin(),
            number: 1,
            first: None,
        }
    }

    /// Puts back a part that was read and not sent.
    pub(super) fn put_back(&mut self, part: StreamPart) {
        self.first = Some(part);
    }

    /// Returns the next part, or `None` at the end of the stream.
    pub(super) async fn next(
        &mut self,
        context: &TransferContext,
    ) -> Result<Option<StreamPart>, RoundFailure> {
        let part = match self.first.take() {
            Some(first) => first,
            None => self.read(context).await?,
        };
        if part.body.is_empty() {
            return Ok(None);
        }
        let (destination, key) = (
            &context.sides.destination,
            &context.sides.transfer.to.location.key,
        );
        let most = destination.capabilities().parts.max_parts;
        if part.number > most {
            let message = format!(
                "the stream is longer than the {most} parts that an upload may have; send it again with larger parts \
                 (--part-size, or `parts.size` of the manifest)"
            );
            let (operation, place) = (Operation::UploadPart, destination.place(key));
            return Err(Failure::new(FailureKind::Invalid, operation, place, message).into());
        }
        Ok(Some(part))
    }

    /// Reads the next part, which is empty at the end of the stream.
    pub(super) async fn read(
        &mut self,
        context: &TransferContext,
    ) -> Result<StreamPart, RoundFailure> {
        let (number, length) = (self.number, part_size(context, self.number));
        self.number += 1;
        let permit = reserve(Arc::clone(&context.memory), length).await;
        let body = read_part(context, &mut self.reader, length).await?;
        Ok(StreamPart {
            number,
            body,
            permit,
        })
    }
}

/// Returns the size of the part with this number.
pub(super) fn part_size(context: &TransferContext, number: u32) -> u64 {
    let limits = context.sides.destination.capabilities().parts;
    size_of_part(number, context.sides.transfer.parts.size, &limits)
}

/// Returns the size of the part with this number. The size grows with the number, so that a long
/// stream fits into the server's maximum number of parts, unless all parts must have the same size.
fn size_of_part(number: u32, size: PartSize, limits: &PartLimits) -> u64 {
    let first = match size {
        PartSize::Exactly(size) => size.0,
        PartSize::Auto if limits.equal_parts => 4 * UPLOAD_PART,
        PartSize::Auto => UPLOAD_PART,
    };
    let step = number.saturating_sub(1) / limits.max_parts.div_ceil(STEPS).max(1);
    let small = first.max(u64::from(UPLOAD_MEMORY_MIB) * MIB);
    let size = match step.checked_sub(SMALL_STEPS) {
        _ if limits.equal_parts => first,
        None => first.saturating_mul(1 << step).min(small),
        Some(step) => small.saturating_mul(2 << step.min(STEPS)),
    };
    size.clamp(limits.min_part, limits.max_part)
}

/// Reads one part, until it is full or the stream ends.
///
/// Ctrl-C also stops the process that writes the stream, which looks like the end of its data. The
/// data is then incomplete and must not be published, so an end of the stream counts only if no
/// stop follows within [`SIGNAL_GRACE`].
async fn read_part(
    context: &TransferContext,
    reader: &mut Stdin,
    length: u64,
) -> Result<Bytes, RoundFailure> {
    // A buffer that grows holds its bytes twice while they are moved.
    let reserved = length.min(u64::from(UPLOAD_MEMORY_MIB) * MIB);
    let mut body = Vec::with_capacity(usize::try_from(reserved).unwrap_or_default());
    let mut part = reader.take(length);
    let read = tokio::select! {
        read = part.read_to_end(&mut body) => read,
        () = context.stop.cancelled() => return Err(RoundFailure::Stopped),
    };
    read.map_err(|error| {
        Failure::new(
            FailureKind::Local,
            Operation::ReadFile,
            "standard input",
            error.to_string(),
        )
    })?;
    if (body.len() as u64) < length
        && timeout(SIGNAL_GRACE, context.stop.cancelled())
            .await
            .is_ok()
    {
        return Err(RoundFailure::Stopped);
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::{ByteSize, GIB};

    /// Returns the bytes of a stream with the maximum number of parts.
    fn most(size: PartSize, limits: &PartLimits) -> u64 {
        let parts = 1..=limits.max_parts;
        parts.map(|number| size_of_part(number, size, limits)).sum()
    }

    #[test]
    fn parts_grow_as_fast_as_the_number_of_parts_demands() {
        let few = PartLimits {
            max_parts: 1000,
            ..PartLimits::S3
        };
        let eight = PartSize::Exactly(ByteSize(8 * MIB));
        for (limits, size, least) in [
            (PartLimits::S3, PartSize::Auto, 12 * 1024 * GIB),
            (PartLimits::S3, eight, 7 * 1024 * GIB),
            (few, PartSize::Auto, 1024 * GIB),
            (few, eight, 700 * GIB),
        ] {
            let most = most(size, &limits);
            assert!(most >= least, "{size:?} {most}");
            let (first, step) = (size_of_part(1, size, &limits), limits.max_parts / STEPS);
            assert_eq!(size_of_part(step, size, &limits), first);
            assert_eq!(size_of_part(step + 1, size, &limits), 2 * first);
        }
    }

    #[test]
    fn a_stream_of_a_tebibyte_takes_no_more_memory_than_files() {
        for first in [16, 64, 256] {
            let size = PartSize::Exactly(ByteSize(first * MIB));
            let sizes = (1..).map(|number| size_of_part(number, size, &PartLimits::S3));
            let small = sizes.take_while(|size| *size <= u64::from(UPLOAD_MEMORY_MIB) * MIB);
            assert!(small.sum::<u64>() >= 1024 * GIB, "{first}");
        }
    }

    #[test]
    fn equal_parts_do_not_grow() {
        let equal = PartLimits {
            equal_parts: true,
            ..PartLimits::S3
        };
        for size in [PartSize::Auto, PartSize::Exactly(ByteSize(8 * MIB))] {
            let first = size_of_part(1, size, &equal);
            assert_eq!(size_of_part(10_000, size, &equal), first);
        }
    }

    #[test]
    fn no_part_exceeds_the_limits() {
        let large = PartSize::Exactly(ByteSize(PartLimits::S3.max_part));
        for number in [1, 10_000, u32::MAX] {
            let size = size_of_part(number, large, &PartLimits::S3);
            assert_eq!(size, PartLimits::S3.max_part);
        }
    }
}
