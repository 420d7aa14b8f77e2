//! Reads the parts of standard input, a stream of unknown length.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, Stdin, stdin};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::local_file::reserve;
use super::round_failure::RoundFailure;
use crate::execute::TransferContext;
use crate::manifest::job::PartSize;
use crate::plan::parts::UPLOAD_PART;
use crate::s3::{Failure, FailureKind, Operation};

/// The number of parts after which the part size doubles, so that 10,000 parts suffice for the
/// largest object.
const PARTS_PER_SIZE: u32 = 1000;

/// The time for which a signal that ended the stream may still be under way.
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
            let message = format!("the stream is longer than {most} parts");
            let (operation, place) = (Operation::UploadPart, destination.place(key));
            return Err(Failure::new(FailureKind::Invalid, operation, place, message).into());
        }
        Ok(Some(part))
    }

    /// Reads the next part; it is empty at the end of the stream.
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
    let bytes = match context.sides.transfer.parts.size {
        PartSize::Exactly(size) => size.0,
        PartSize::Auto if limits.equal_parts => 4 * UPLOAD_PART,
        PartSize::Auto => UPLOAD_PART << ((number - 1) / PARTS_PER_SIZE).min(20),
    };
    bytes.clamp(limits.min_part, limits.max_part)
}

/// Reads one part, until it is full or the stream ends.
///
/// Ctrl-C also stops the process that writes the stream, which looks like the end of its data. That
/// data is incomplete and must not be published, so an end counts only if no stop follows within
/// [`SIGNAL_GRACE`].
async fn read_part(
    context: &TransferContext,
    reader: &mut Stdin,
    length: u64,
) -> Result<Bytes, RoundFailure> {
    let mut body = Vec::new();
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
