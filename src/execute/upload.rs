//! Sending files of this machine.
//!
//! A file is opened once and read by `pread`, so that its parts go side by side without a shared
//! position and without the whole file in memory. Each part is summed while it is in memory anyway;
//! the sums combine into the checksum of the whole, which S3 must confirm before it publishes the
//! object. Where the server knows no checksums, the MD5 of what was sent is compared with the
//! `ETag` that came back. A file whose size or time of change differs when it was read is sent
//! again.

mod multipart;

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;

use super::adopt::{self, Left};
use super::attributes::Wanted;
use super::buffers::Buffers;
use super::condition::Refused;
use super::monitor::Event;
use super::part::{self, Progress};
use super::receipt::{Ending, Proof};
use super::sent::{READ_SUM, by_size, confirm, demand, settle, strong_proof};
use super::{Draft, Trouble, UPLOAD_MEMORY_MIB, Work};
use crate::checksum;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::journal::event::SourceVersion;
use crate::listing::{Entry, local};
use crate::location::{LocalPath, ObjectKey};
use crate::manifest::job::Prove;
use crate::pace::{Slot, slots::Want};
use crate::plan::condition::Seen;
use crate::plan::decide::{Route, Skip};
use crate::planner::Step;
use crate::s3::{Attributes, Failure, FailureKind, Operation, WriteCondition, Written};
use crate::size::MIB;

pub(super) use multipart::Upload;

/// A file of at most this many bytes is read when it is opened.
const READ_AT_ONCE: u64 = MIB;
/// The most times that the upload of a file that keeps changing is started again.
const ROUNDS: u32 = 4;

/// The properties that show that a file is still the one that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Returns the version as it is recorded.
    fn version(&self) -> SourceVersion {
        let (seconds, nanoseconds) = self.modified;
        let modified = i32::try_from(nanoseconds)
            .ok()
            .and_then(|nanos| Timestamp::new(seconds, nanos).ok());
        SourceVersion {
            size: self.size,
            version: None,
            etag: None,
            modified,
        }
    }
}

/// Sends the file of `step`.
pub(super) async fn file(
    work: &Work,
    root: &LocalPath,
    step: &Step,
    draft: &mut Draft,
) -> Result<Ending, Trouble> {
    let path = local::path_of(root, &step.entry);
    let mut left = work
        .inherited
        .take(step.object, &work.upload_place(&step.key));
    let outcome = rounds(work, &path, step, draft, &mut left).await;
    if !matches!(outcome, Err(Trouble::Stopped)) {
        adopt::cancel_all(work, &mut left, draft).await;
    }
    outcome
}

async fn rounds(
    work: &Work,
    path: &Path,
    step: &Step,
    draft: &mut Draft,
    left: &mut Vec<Left>,
) -> Result<Ending, Trouble> {
    let (mut seen, mut gone) = (step.seen.clone(), None);
    for _ in 0..ROUNDS {
        // In a box: a task of a copy has no use for so much room.
        match Box::pin(file_round(work, path, step, draft, (&mut seen, left))).await {
            Err(Trouble::SourceChanged) => {
                tracing::info!(path = %path.display(), "changed while it was read: sending it again");
            }
            Err(Trouble::UploadGone(failure)) => {
                tracing::info!(path = %path.display(), %failure, "beginning another upload");
                gone = Some(failure);
            }
            Err(Trouble::NotOurs) => {
                tracing::info!(path = %path.display(), "an open upload was of no use: sending it anew");
            }
            other => return other,
        }
    }
    if let Some(failure) = gone {
        return Err(Trouble::Failed(failure));
    }
    let message = format!("the file changed {ROUNDS} times while it was read");
    let place = path.display().to_string();
    Err(Trouble::Failed(Failure::new(
        FailureKind::SourceChanged,
        Operation::ReadFile,
        place,
        message,
    )))
}

async fn file_round(
    work: &Work,
    path: &Path,
    step: &Step,
    draft: &mut Draft,
    (seen, left): (&mut Seen, &mut Vec<Left>),
) -> Result<Ending, Trouble> {
    let slot = work
        .slots()
        .request(Want::Small)
        .await
        .map_err(|_| Trouble::Stopped)?;
    // Opened, read and looked at again in one go where it is small: each step of its own would cost
    // a change of threads.
    let mut permit = reserve(Arc::clone(&work.memory), step.entry.size.min(READ_AT_ONCE)).await;
    let opened = blocking(path, {
        let (path, buffers) = (path.to_owned(), work.buffers.clone());
        move || {
            let file = Arc::new(File::open(path)?);
            let stamp = Stamp::of(&file)?;
            if stamp.size > READ_AT_ONCE {
                return Ok((file, stamp, None));
            }
            let body = pread(&file, 0, stamp.size, &buffers)?;
            let now = Stamp::of(&file)?;
            Ok((file, stamp, Some((body, now))))
        }
    });
    let (file, stamp, read) = opened.await?;
    let now = Entry {
        size: stamp.size,
        modified: stamp.version().modified,
        ..step.entry.clone()
    };
    if let Some(rule) = work.sides.left_out_now(&step.entry, &now) {
        return Ok(draft.left_out(&rule));
    }
    let route = work.sides.route(stamp.size, &step.entry.key, &step.key)?;
    (draft.size, draft.route, draft.parts) = (stamp.size, Some(route.name()), route.parts());
    let wanted = Wanted::of_upload(work, &step.key);
    let attributes = wanted.attributes();
    let still = || {
        blocking(path, {
            let file = Arc::clone(&file);
            move || Stamp::of(&file)
        })
    };
    if let Route::MultipartUpload(layout) = route {
        drop((slot, permit, read));
        let upload = Upload::of_file(work, step, attributes, (stamp, layout), left, draft).await?;
        draft.parts = upload.begun.layout.count;
        let mut progress = Progress::of(&upload.begun, Vec::new());
        let outcome = async {
            send_parts(work, path, &file, &upload, &mut progress).await?;
            if still().await? != stamp {
                return Err(Trouble::SourceChanged);
            }
            upload
                .complete(work, &mut progress, seen, attributes, draft)
                .await
        }
        .await;
        let begun = &upload.begun;
        let outcome = begun.vouched(work, attributes, outcome, seen, draft).await;
        begun
            .settle(work, upload.id, outcome, &progress, draft)
            .await
    } else {
        let (body, now) = if let Some(read) = read {
            read
        } else {
            drop(permit.take());
            permit = reserve(Arc::clone(&work.memory), stamp.size).await;
            let body = blocking(path, {
                let (file, buffers) = (Arc::clone(&file), work.buffers.clone());
                move || pread(&file, 0, stamp.size, &buffers)
            });
            (body.await?, still().await?)
        };
        if now != stamp {
            return Err(Trouble::SourceChanged);
        }
        let ending = put(work, slot, &step.key, body, attributes, draft, seen).await;
        drop(permit);
        ending
    }
}

/// Reads and sends the parts of a file, as many at a time as there are places and memory for.
async fn send_parts(
    work: &Work,
    path: &Path,
    file: &Arc<File>,
    upload: &Upload,
    progress: &mut Progress,
) -> Result<(), Trouble> {
    let parts = upload.begun.layout.clone();
    let (reader, place) = (Arc::clone(file), path.to_owned());
    let (sender, memory) = (upload.clone(), Arc::clone(&work.memory));
    let used = work.buffers.clone();
    part::all(work, upload.id, parts, progress, move |part| {
        let (file, path) = (Arc::clone(&reader), place.clone());
        let (upload, memory) = (sender.clone(), Arc::clone(&memory));
        let buffers = used.clone();
        async move {
            let _permit = reserve(memory, part.length).await;
            let sums = upload.sums();
            let read = blocking(&path, move || {
                let body = pread(&file, part.offset, part.length, &buffers)?;
                let sums = sums.of(&body);
                Ok((body, sums))
            });
            let (body, sums) = read.await?;
            upload.send_summed(part.number, body, sums).await
        }
    })
    .await
}

/// Sends a small object in one request and proves it.
pub(super) async fn put(
    work: &Work,
    place: Slot,
    key: &ObjectKey,
    body: Bytes,
    attributes: &Attributes,
    draft: &mut Draft,
    seen: &mut Seen,
) -> Result<Ending, Trouble> {
    let destination = &work.sides.destination;
    demand(work, key, attributes)?;
    let sum = attributes
        .checksum
        .map(|(algorithm, _)| checksum::compute(algorithm, &body));
    let reads = work.sides.transfer.proof.prove == Prove::Read;
    let local = sum
        .clone()
        .or_else(|| reads.then(|| checksum::compute(READ_SUM, &body)));
    let size = body.len() as u64;
    let mut round = 1;
    let written = loop {
        let condition = work.condition(seen, ConditionalWrite::Put);
        if work.is_taken(key, seen, &condition).await? {
            return Ok(Ending::Skipped {
                reason: Skip::Present,
            });
        }
        let sent = destination.put_object(
            key,
            body.clone(),
            attributes,
            sum.as_ref(),
            condition.clone(),
        );
        let failure = match sent.await {
            Ok(answer) => {
                draft.attempts += answer.attempts;
                break answer.value;
            }
            Err(failure) => failure,
        };
        draft.attempts += failure.details().attempts;
        match work.refused(&condition, &failure) {
            Some(Refused::Deleted) if round < ROUNDS => *seen = Seen::Absent,
            Some(Refused::Raced) if round < ROUNDS => {}
            Some(Refused::Taken(skip)) => {
                // By someone else, or by an earlier attempt of ours whose answer was lost.
                let found = destination.head(key, None).await?.written();
                if condition == WriteCondition::Matches(found.etag.clone()) {
                    return Err(failure
                        .noting("although the condition of the write holds")
                        .into());
                }
                match strong_proof(&body, sum.as_ref(), &found) {
                    Some(Ok(_)) if draft.attempts > 1 => break found,
                    _ => return Ok(Ending::Skipped { reason: skip }),
                }
            }
            _ => return Err(work.explained(&condition, failure).into()),
        }
        round += 1;
    };
    let proof = match strong_proof(&body, sum.as_ref(), &written) {
        Some(Ok(proof)) => {
            if proof == Proof::Etag {
                let md5s = work.refusals.md5s(destination);
                md5s.store(true, Ordering::Release);
            }
            confirm(work, key, &written, proof, size, attributes, draft).await?;
            proof
        }
        Some(Err(message)) => {
            return Err(work.reject_published(key, &written, &message).await.into());
        }
        None => by_size(work, key, &written, &body, attributes, draft).await?,
    };
    drop(place);
    let proof = settle(work, key, proof, local, &written, size).await?;
    work.monitor.observe(&Event::BytesCopied {
        id: None,
        bytes: size,
    });
    Ok(done(proof, written))
}

fn done(proof: Proof, written: Written) -> Ending {
    Ending::Done {
        proof,
        etag: written.etag,
        destination_version: written.version,
    }
}

/// Reserves memory for `bytes`, at most all that there is.
pub(super) async fn reserve(
    memory: Arc<tokio::sync::Semaphore>,
    bytes: u64,
) -> Option<OwnedSemaphorePermit> {
    let mib = u32::try_from(bytes.div_ceil(MIB))
        .unwrap_or(u32::MAX)
        .clamp(1, UPLOAD_MEMORY_MIB);
    memory.acquire_many_owned(mib).await.ok()
}

fn pread(file: &File, offset: u64, length: u64, buffers: &Buffers) -> io::Result<Bytes> {
    let length = usize::try_from(length)
        .map_err(|_| io::Error::other("the part does not fit into memory"))?;
    buffers.filled(length, |buffer| file.read_exact_at(buffer, offset))
}

/// Does file work outside the runtime's threads. A file that ends early has changed.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let place = || path.display().to_string();
    match spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let message = "the file became shorter while it was read";
            Err(Failure::new(
                FailureKind::SourceChanged,
                Operation::ReadFile,
                place(),
                message,
            ))
        }
        Ok(Err(error)) => Err(Failure::new(
            FailureKind::Local,
            Operation::ReadFile,
            place(),
            error.to_string(),
        )),
        Err(error) => Err(Failure::new(
            FailureKind::Bug,
            Operation::ReadFile,
            place(),
            error.to_string(),
        )),
    }
}
