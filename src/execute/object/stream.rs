//! Sends standard input, a stream of unknown length.
//!
//! If the stream ends within its first part, one request sends it; otherwise an upload in parts
//! does. Bytes cannot be read twice, so the object has one round, and no later session can resume
//! its upload.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, Stdin, stdin};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::ObjectTask;
use super::attributes::TargetAttributes;
use super::file::reserve;
use super::trouble::Trouble;
use super::upload::local::LocalParts;
use super::upload::parts::PartSource;
use super::upload::record::UploadFingerprint;
use super::upload::{UploadRequest, UploadSession};
use crate::execute::Work;
use crate::execute::receipt::Ending;
use crate::journal::event::SourceVersion;
use crate::listing::Entry;
use crate::manifest::job::PartSize;
use crate::pace::slots::SlotKind;
use crate::plan::decide::{Reason, Route};
use crate::plan::parts::{PartLayout, UPLOAD_PART};
use crate::planner::{Planned, Sides, Step};
use crate::s3::{ArchiveState, Failure, FailureKind, Operation};

/// The number of parts after which the part size doubles, so that 10,000 parts suffice for the
/// largest object.
const PARTS_PER_SIZE: u32 = 1000;

/// The time for which a signal that ended the stream may still be under way.
const SIGNAL_GRACE: Duration = Duration::from_millis(250);

/// Returns the one step of a transfer from standard input.
pub(in crate::execute) fn stdin_step(sides: &Sides) -> Planned {
    let key = sides.transfer.to.location.key.clone();
    let entry = Entry {
        key: key.clone(),
        relative_at: 0,
        size: 0,
        etag: None,
        version: None,
        modified: None,
        storage_class: None,
        archive: ArchiveState::Readable,
    };
    let layout = PartLayout::uniform(0, UPLOAD_PART, 1);
    let route = Route::MultipartUpload(layout);
    Planned::Step(Box::new(Step {
        reason: Reason::Always,
        route,
        ..Step::without_work(entry, key)
    }))
}

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
    /// Returns the next part, or `None` at the end of the stream.
    pub(super) async fn next(&mut self, work: &Work) -> Result<Option<StreamPart>, Trouble> {
        let part = match self.first.take() {
            Some(first) => first,
            None => self.read(work).await?,
        };
        if part.body.is_empty() {
            return Ok(None);
        }
        let (destination, key) = (
            &work.sides.destination,
            &work.sides.transfer.to.location.key,
        );
        let most = destination.capabilities().parts.max_parts;
        if part.number > most {
            let message = format!("the stream is longer than {most} parts");
            let (operation, place) = (Operation::UploadPart, destination.place(key));
            return Err(Failure::new(FailureKind::Invalid, operation, place, message).into());
        }
        Ok(Some(part))
    }

    async fn read(&mut self, work: &Work) -> Result<StreamPart, Trouble> {
        let (number, length) = (self.number, part_size(work, self.number));
        self.number += 1;
        let permit = reserve(Arc::clone(&work.memory), length).await;
        let body = read_part(work, &mut self.reader, length).await?;
        Ok(StreamPart {
            number,
            body,
            permit,
        })
    }
}

/// Returns the size of the part with this number.
fn part_size(work: &Work, number: u32) -> u64 {
    let limits = work.sides.destination.capabilities().parts;
    let bytes = match work.sides.transfer.parts.size {
        PartSize::Exactly(size) => size.0,
        PartSize::Auto if limits.equal_parts => 4 * UPLOAD_PART,
        PartSize::Auto => UPLOAD_PART << ((number - 1) / PARTS_PER_SIZE).min(20),
    };
    bytes.clamp(limits.min_part, limits.max_part)
}

impl ObjectTask<'_> {
    /// Sends standard input to its end.
    pub(super) async fn send_stdin(&mut self) -> Result<Ending, Trouble> {
        let work = self.work;
        let mut wanted = TargetAttributes::of_upload(work, &self.step.key);
        let attributes = wanted.attributes().clone();
        let mut stream = StreamParts {
            reader: stdin(),
            number: 1,
            first: None,
        };
        let first = stream.read(work).await?;
        if (first.body.len() as u64) < part_size(work, 1) {
            let slot = self.request_slot(SlotKind::Small).await?;
            self.draft.takes(first.body.len() as u64, &Route::Put);
            return self.put(slot, first.body, &attributes).await;
        }
        stream.first = Some(first);
        self.demand_checksum(&attributes)?;
        let version = SourceVersion {
            size: 0,
            version: None,
            etag: None,
            modified: None,
        };
        let request = UploadRequest {
            fingerprint: UploadFingerprint::of(version, &attributes),
            layout: PartLayout::uniform(0, UPLOAD_PART, 0),
            attributes: attributes.clone(),
            checksum: None,
            doubt: None,
        };
        let mut session = UploadSession::create_unrecorded(self, &mut wanted, request).await?;
        let parts = LocalParts::of(work, &session, &attributes);
        let source = PartSource::Stream(&mut stream, parts.clone());
        let outcome = match session.send_all(source).await {
            Ok(()) => parts.complete(&mut session, &attributes, self).await,
            Err(trouble) => Err(trouble),
        };
        self.draft.size = session.bytes;
        self.draft.parts = u32::try_from(session.done.len()).unwrap_or(u32::MAX);
        session.end(outcome, self).await
    }
}

/// Reads one part, until it is full or the stream ends.
///
/// Ctrl-C also stops the process that writes the stream, which looks like the end of its data. That
/// data is incomplete and must not be published, so an end counts only if no stop follows within
/// [`SIGNAL_GRACE`].
async fn read_part(work: &Work, reader: &mut Stdin, length: u64) -> Result<Bytes, Trouble> {
    let mut body = Vec::new();
    let mut part = reader.take(length);
    let read = tokio::select! {
        read = part.read_to_end(&mut body) => read,
        () = work.stop.cancelled() => return Err(Trouble::Stopped),
    };
    read.map_err(|error| {
        Failure::new(
            FailureKind::Local,
            Operation::ReadFile,
            "standard input",
            error.to_string(),
        )
    })?;
    if (body.len() as u64) < length && timeout(SIGNAL_GRACE, work.stop.cancelled()).await.is_ok() {
        return Err(Trouble::Stopped);
    }
    Ok(body.into())
}
