//! Sends standard input, a stream of unknown length.
//!
//! The first part decides whether the stream is one request or many. Bytes that were read are gone,
//! so no later session can resume its upload.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::attributes::Wanted;
use super::part::{self, Progress};
use super::receipt::Ending;
use super::upload::{Upload, put, reserve};
use super::{Draft, Trouble, Work};
use crate::listing::Entry;
use crate::manifest::job::PartSize;
use crate::pace::slots::Want;
use crate::plan::decide::{Reason, Route};
use crate::plan::parts::{PartLayout, UPLOAD_PART};
use crate::planner::{Planned, Sides, Step};
use crate::s3::{Failure, FailureKind, Operation};

/// Parts of a stream double in size after each so many parts, so that 10,000 of them reach any
/// size.
const PARTS_PER_SIZE: u32 = 1000;

/// The time after the end of a stream in which the signal that caused it may still come.
const SIGNAL_GRACE: Duration = Duration::from_millis(250);

/// Returns the one step of a transfer from standard input.
pub(super) fn stdin_step(sides: &Sides) -> Planned {
    let key = sides.transfer.to.location.key.clone();
    let entry = Entry {
        key: key.clone(),
        relative_at: 0,
        size: 0,
        etag: None,
        version: None,
        modified: None,
        storage_class: None,
        archive: crate::s3::ArchiveState::Readable,
    };
    let layout = PartLayout::uniform(0, UPLOAD_PART, 1);
    let route = Route::MultipartUpload(layout);
    Planned::Step(Box::new(Step {
        reason: Reason::Always,
        route,
        ..Step::without_work(entry, key)
    }))
}

/// Sends standard input to its end.
pub(super) async fn stdin(work: &Work, step: &Step, draft: &mut Draft) -> Result<Ending, Trouble> {
    stream(work, step, draft, tokio::io::stdin()).await
}

/// Sends a stream of unknown length: its first part decides whether it is one request or many.
async fn stream(
    work: &Work,
    step: &Step,
    draft: &mut Draft,
    mut reader: impl AsyncRead + Unpin,
) -> Result<Ending, Trouble> {
    let capabilities = work.sides.destination.capabilities();
    let wanted = Wanted::of_upload(work, &step.key);
    let attributes = wanted.attributes();
    let part_size = |number: u32| {
        let limits = capabilities.parts;
        let bytes = match work.sides.transfer.parts.size {
            PartSize::Exactly(size) => size.0,
            PartSize::Auto if limits.equal_parts => 4 * UPLOAD_PART,
            PartSize::Auto => UPLOAD_PART << ((number - 1) / PARTS_PER_SIZE).min(20),
        };
        bytes.clamp(limits.min_part, limits.max_part)
    };
    let first_permit = reserve(Arc::clone(&work.memory), part_size(1)).await;
    let first = read_part(work, &mut reader, part_size(1)).await?;
    if (first.len() as u64) < part_size(1) {
        let place = work
            .slots()
            .request(Want::Small)
            .await
            .map_err(|_| Trouble::Stopped)?;
        (draft.size, draft.route, draft.parts) = (first.len() as u64, Some(Route::Put.name()), 0);
        return put(
            work,
            place,
            &step.key,
            first,
            attributes,
            draft,
            &mut step.seen.clone(),
        )
        .await;
    }
    let upload = Upload::of_stream(work, &step.key, attributes, draft).await?;
    let mut progress = Progress::of(&upload.begun, Vec::new());
    let outcome = async {
        let mut running = progress.begin();
        let (mut body, mut permit, mut number) = (first, first_permit, 1);
        while !body.is_empty() && running.trouble.is_none() {
            running.collect(work, upload.id, &mut progress).await;
            if number > capabilities.parts.max_parts {
                let message = format!(
                    "the stream is longer than {} parts",
                    capabilities.parts.max_parts
                );
                let place = work.sides.destination.place(&step.key);
                running.fail(
                    Failure::new(FailureKind::Invalid, Operation::UploadPart, place, message)
                        .into(),
                );
                break;
            }
            let Ok(slot) = work.slots().request(Want::Bulk(u64::MAX)).await else {
                running.fail(Trouble::Stopped);
                break;
            };
            let (sending, held) = (upload.clone(), permit.take());
            running.spawn(slot, async move {
                let answer = sending.send(number, body).await;
                drop(held);
                answer
            });
            number += 1;
            permit = reserve(Arc::clone(&work.memory), part_size(number)).await;
            body = match read_part(work, &mut reader, part_size(number)).await {
                Ok(body) => body,
                Err(trouble) => {
                    running.fail(trouble);
                    Bytes::new()
                }
            };
        }
        part::drain(&mut running, work, upload.id, &mut progress).await;
        running.finish()?;
        upload
            .complete(
                work,
                &mut progress,
                &mut step.seen.clone(),
                attributes,
                draft,
            )
            .await
    }
    .await;
    draft.size = progress.bytes;
    draft.parts = u32::try_from(progress.done.len()).unwrap_or(u32::MAX);
    upload
        .begun
        .settle(work, upload.id, outcome, &progress, draft)
        .await
}

/// Reads until the part is full or the stream ends.
///
/// Reads one part. A Ctrl-C reaches the producer too, whose end then looks like the end of its
/// data; the data is incomplete and must not be published. So an end is believed only if no stop
/// comes with it.
async fn read_part(
    work: &Work,
    reader: &mut (impl AsyncRead + Unpin),
    length: u64,
) -> Result<Bytes, Trouble> {
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
