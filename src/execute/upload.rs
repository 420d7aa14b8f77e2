//! Sending files of this machine, and its standard input.
//!
//! A file is opened once and read by `pread`, so that its parts go side by side without a shared position and without the
//! whole file in memory. Each part is summed while it is in memory anyway; the sums combine into the checksum of the whole,
//! which S3 must come to before it publishes the object. Where the server knows no checksums, the MD5 of what was sent
//! is compared with the `ETag` that came back. A file whose size or time of change differs when it was read is sent again.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::attributes::Wanted;
use super::monitor::Event;
use super::object::condition;
use super::part::{self, Progress, Running};
use super::receipt::{Ending, Proof};
use super::{Draft, Trouble, UPLOAD_MEMORY_MIB, Work};
use crate::bucket::Answer;
use crate::checksum;
use crate::listing::{Entry, local};
use crate::location::{LocalPath, ObjectKey};
use crate::manifest::job::PartSize;
use crate::multipart::MultipartUpload;
use crate::pace::slots::Want;
use crate::plan::decide::{Reason, Route, Skip};
use crate::plan::parts::{PartLayout, UPLOAD_PART};
use crate::planner::{Planned, Sides, Step};
use crate::s3::{
    Attributes, Checksum, ChecksumAlgorithm, CompleteSpec, Failure, FailureKind, Operation, PartDone, Written,
};
use crate::size::MIB;

/// How often a file that keeps changing is begun again.
const ROUNDS: u32 = 4;
/// Parts of a stream double in size after each so many parts, so that 10,000 of them reach any size.
const PARTS_PER_SIZE: u32 = 1000;

/// How much later than the end of a stream the signal may come that caused it.
const SIGNAL_GRACE: Duration = Duration::from_millis(250);

/// What tells that a file is still the one that was opened.
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
}

/// Sends the file of `step`.
pub(super) async fn file(
    work: &Work,
    root: &LocalPath,
    step: &Step,
    draft: &mut Draft,
) -> Result<Ending, Trouble> {
    let path = local::path_of(root, &step.entry);
    for _ in 0..ROUNDS {
        match file_round(work, &path, step, draft).await {
            Err(Trouble::SourceChanged) => {
                tracing::info!(path = %path.display(), "changed while it was read: sending it again");
            }
            other => return other,
        }
    }
    let message = format!("the file changed {ROUNDS} times while it was read");
    let place = path.display().to_string();
    Err(Trouble::Failed(Failure::new(FailureKind::SourceChanged, Operation::ReadFile, place, message)))
}

async fn file_round(work: &Work, path: &Path, step: &Step, draft: &mut Draft) -> Result<Ending, Trouble> {
    let slot = work.slots().request(Want::Small).await.map_err(|_| Trouble::Stopped)?;
    let opened = blocking(path, {
        let path = path.to_owned();
        move || File::open(path).and_then(|file| Stamp::of(&file).map(|stamp| (Arc::new(file), stamp)))
    });
    let (file, stamp) = opened.await?;
    let route = work.sides.route(stamp.size, &step.key)?;
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
        drop(slot);
        let upload = Upload::begin(work, &step.key, attributes, layout.size, layout.count).await?;
        let mut progress = Progress::default();
        let outcome = async {
            part::all(work, upload.id, layout, &mut progress, |part| {
                let (file, path) = (Arc::clone(&file), path.to_owned());
                let (upload, memory) = (upload.clone(), Arc::clone(&work.memory));
                async move {
                    let _permit = reserve(memory, part.length).await;
                    let body = blocking(&path, move || pread(&file, part.offset, part.length)).await?;
                    upload.send(part.number, body).await
                }
            })
            .await?;
            if still().await? != stamp {
                return Err(Trouble::SourceChanged);
            }
            upload.complete(work, &mut progress).await
        }
        .await;
        upload.end(work, outcome, &progress, draft).await
    } else {
        let _permit = reserve(Arc::clone(&work.memory), stamp.size).await;
        let body = blocking(path, {
            let file = Arc::clone(&file);
            move || pread(&file, 0, stamp.size)
        })
        .await?;
        if still().await? != stamp {
            return Err(Trouble::SourceChanged);
        }
        put(work, &step.key, body, attributes, draft).await
    }
}

/// Sends a small object in one request and proves it.
async fn put(
    work: &Work,
    key: &ObjectKey,
    body: Bytes,
    attributes: &Attributes,
    draft: &mut Draft,
) -> Result<Ending, Trouble> {
    let destination = &work.sides.destination;
    if work.is_taken(key).await? {
        return Ok(Ending::Skipped { reason: Skip::Present });
    }
    let sum = attributes.checksum.and_then(|(algorithm, _)| checksum::compute(algorithm, &body));
    let size = body.len() as u64;
    let answer = destination.put_object(key, body.clone(), attributes, sum.as_ref(), condition(work)).await;
    let Answer { value: written, attempts, .. } = match answer {
        Ok(answer) => answer,
        Err(failure) if matches!(failure.kind(), FailureKind::PreconditionFailed | FailureKind::Conflict) => {
            draft.attempts += failure.details().attempts;
            // The key is taken: by someone else, or by an earlier attempt of ours whose answer was lost.
            let found = destination.head(key, None).await?;
            let found = found.written();
            return Ok(match strong_proof(&body, sum.as_ref(), &found) {
                Some(Ok(proof)) if failure.details().attempts > 1 => done(proof, found),
                _ => Ending::Skipped { reason: Skip::Present },
            });
        }
        Err(failure) => return Err(failure.into()),
    };
    draft.attempts += attempts;
    let proof = match strong_proof(&body, sum.as_ref(), &written) {
        Some(Ok(proof)) => proof,
        Some(Err(message)) => return Err(not_equal(work, key, message)),
        None => by_size(work, key, &written, size).await?,
    };
    work.monitor.observe(&Event::BytesCopied { id: None, bytes: size });
    Ok(done(proof, written))
}

fn done(proof: Proof, written: Written) -> Ending {
    Ending::Done { proof, etag: written.etag, destination_version: written.version }
}

/// What the answer says beyond the size: equal, unequal, or nothing.
fn strong_proof(body: &Bytes, sent: Option<&Checksum>, written: &Written) -> Option<Result<Proof, String>> {
    match (sent, &written.checksum) {
        (Some(sent), Some(stored)) if sent.algorithm == stored.algorithm => Some(equal(sent, stored)),
        _ => (checksum::md5_etag(body) == written.etag).then_some(Ok(Proof::Etag)),
    }
}

/// A multipart upload of local bytes.
#[derive(Clone, Debug)]
struct Upload {
    open: Arc<MultipartUpload>,
    id: u64,
    algorithm: Option<ChecksumAlgorithm>,
}

impl Upload {
    async fn begin(
        work: &Work,
        key: &ObjectKey,
        attributes: &Attributes,
        bytes: u64,
        parts: u32,
    ) -> Result<Self, Trouble> {
        let upload = Arc::new(MultipartUpload::initiate(&work.sides.destination, key, attributes).await?);
        let id = work.next_id();
        work.monitor.observe(&Event::UploadBegan { id, key: key.as_str(), bytes, parts });
        Ok(Self { open: upload, id, algorithm: attributes.checksum.map(|(algorithm, _)| algorithm) })
    }

    /// Sums and sends one part. Without a checksum that the server checks, its `ETag` must be the MD5 of what was sent, or
    /// the server's `ETag`s are of its own making.
    async fn send(&self, number: u32, body: Bytes) -> Result<Answer<PartDone>, Failure> {
        let (algorithm, sum_of) = (self.algorithm, body.clone());
        let sums = spawn_blocking(move || match algorithm {
            Some(algorithm) => (checksum::compute(algorithm, &sum_of), None),
            None => (None, Some(checksum::md5_etag(&sum_of))),
        });
        let (sum, md5) = sums.await.map_err(|error| {
            Failure::new(FailureKind::Bug, Operation::UploadPart, self.open.key().as_str(), error.to_string())
        })?;
        let mut answer = self.open.send_part(number, body, sum.as_ref()).await?;
        answer.value.checksum = sum.map(|sum| sum.value).or(md5.filter(|md5| *md5 == answer.value.etag));
        Ok(answer)
    }

    async fn complete(&self, work: &Work, progress: &mut Progress) -> Result<Ending, Trouble> {
        let _place = work.place().await;
        if work.is_taken(self.open.key()).await? {
            return Ok(Ending::Skipped { reason: Skip::Present });
        }
        progress.done.sort_unstable_by_key(|part| part.number);
        let parts = &progress.done;
        let size = parts.iter().map(|part| part.size).sum();
        let whole = self.algorithm.and_then(|algorithm| {
            let pieces: Option<Vec<_>> =
                parts.iter().map(|part| Some((part.checksum.as_deref()?, part.size))).collect();
            checksum::combine(algorithm, pieces?)
        });
        let spec =
            CompleteSpec { size, checksum: None, full_checksum: whole.clone(), condition: condition(work) };
        // Without an algorithm the parts' checksums are MD5s of ours; the server must not see them.
        let sent: Vec<PartDone> = match self.algorithm {
            Some(_) => parts.clone(),
            None => parts.iter().map(|part| PartDone { checksum: None, ..part.clone() }).collect(),
        };
        let key = self.open.key();
        let written = match self.open.complete(&sent, &spec).await {
            Ok(written) => written,
            Err(failure) if *failure.kind() == FailureKind::PreconditionFailed => {
                return Ok(Ending::Skipped { reason: Skip::Present });
            }
            Err(failure) if *failure.kind() == FailureKind::Conflict => return Err(Trouble::SourceChanged),
            Err(failure) => return Err(failure.into()),
        };
        let all_md5 = self.algorithm.is_none() && parts.iter().all(|part| part.checksum.is_some());
        let predicted = checksum::multipart_etag(parts.iter().map(|part| part.etag.as_str()));
        let proof = match (&whole, &written.checksum) {
            (Some(sent), Some(stored)) if sent.algorithm == stored.algorithm => {
                equal(sent, stored).map_err(|message| not_equal(work, key, message))?
            }
            // KMS uploads answer without it; the object shows it.
            (Some(sent), None) => {
                let found = work.sides.destination.head(key, written.version.as_deref()).await?;
                match found.checksum {
                    Some(stored) if sent.algorithm == stored.algorithm => {
                        equal(sent, &stored).map_err(|message| not_equal(work, key, message))?
                    }
                    _ => by_size(work, key, &written, size).await?,
                }
            }
            _ if all_md5 && predicted.as_ref() == Some(&written.etag) => Proof::PartEtags,
            _ => by_size(work, key, &written, size).await?,
        };
        Ok(done(proof, written))
    }

    /// Aborts what did not become an object.
    async fn end(
        &self,
        work: &Work,
        outcome: Result<Ending, Trouble>,
        progress: &Progress,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        draft.attempts += progress.attempts;
        if !matches!(outcome, Ok(Ending::Done { .. })) {
            work.abandon(&self.open, draft).await;
            work.monitor.observe(&Event::BytesVoided { bytes: progress.bytes });
        }
        work.monitor.observe(&Event::UploadEnded { id: self.id });
        outcome
    }
}

fn equal(sent: &Checksum, stored: &Checksum) -> Result<Proof, String> {
    if sent.value == stored.value {
        return Ok(sent.algorithm.into());
    }
    Err(format!("{} of what was sent is {}, S3 stored {}", sent.algorithm, sent.value, stored.value))
}

fn not_equal(work: &Work, key: &ObjectKey, message: String) -> Trouble {
    let place = work.sides.destination.place(key);
    Failure::new(FailureKind::NotEqual, Operation::HeadObject, place, message).into()
}

async fn by_size(work: &Work, key: &ObjectKey, written: &Written, size: u64) -> Result<Proof, Trouble> {
    let destination = &work.sides.destination;
    let found = destination.head(key, written.version.as_deref()).await?;
    if found.size == size {
        return Ok(Proof::Size);
    }
    Err(not_equal(work, key, format!("{} bytes arrived of {size}", found.size)))
}

/// Memory for `bytes`, at most all that there is.
async fn reserve(memory: Arc<tokio::sync::Semaphore>, bytes: u64) -> Option<OwnedSemaphorePermit> {
    let mib = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX).clamp(1, UPLOAD_MEMORY_MIB);
    memory.acquire_many_owned(mib).await.ok()
}

fn pread(file: &File, offset: u64, length: u64) -> io::Result<Bytes> {
    let length =
        usize::try_from(length).map_err(|_| io::Error::other("the part does not fit into memory"))?;
    let mut body = vec![0; length];
    file.read_exact_at(&mut body, offset)?;
    Ok(body.into())
}

/// File work off the runtime's threads. A file that ends early has changed.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let place = || path.display().to_string();
    match spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let message = "the file became shorter while it was read";
            Err(Failure::new(FailureKind::SourceChanged, Operation::ReadFile, place(), message))
        }
        Ok(Err(error)) => {
            Err(Failure::new(FailureKind::Local, Operation::ReadFile, place(), error.to_string()))
        }
        Err(error) => Err(Failure::new(FailureKind::Bug, Operation::ReadFile, place(), error.to_string())),
    }
}

/// The one step of a transfer from standard input.
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
    };
    let layout = PartLayout { size: 0, part_size: UPLOAD_PART, count: 1 };
    let route = Route::MultipartUpload(layout);
    Planned::Step(Box::new(Step { entry, key, reason: Reason::Always, route }))
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
        let _place = work.slots().request(Want::Small).await.map_err(|_| Trouble::Stopped)?;
        (draft.size, draft.route, draft.parts) = (first.len() as u64, Some(Route::Put.name()), 0);
        return put(work, &step.key, first, attributes, draft).await;
    }
    let upload = Upload::begin(work, &step.key, attributes, 0, 0).await?;
    let mut progress = Progress::default();
    let outcome = async {
        let mut running = Running::default();
        let (mut body, mut permit, mut number) = (first, first_permit, 1);
        while !body.is_empty() && running.trouble.is_none() {
            running.collect(work, upload.id, &mut progress);
            if number > capabilities.parts.max_parts {
                let message = format!("the stream is longer than {} parts", capabilities.parts.max_parts);
                let place = work.sides.destination.place(&step.key);
                running
                    .fail(Failure::new(FailureKind::Invalid, Operation::UploadPart, place, message).into());
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
        upload.complete(work, &mut progress).await
    }
    .await;
    draft.size = progress.bytes;
    draft.parts = u32::try_from(progress.done.len()).unwrap_or(u32::MAX);
    upload.end(work, outcome, &progress, draft).await
}

/// Reads until the part is full or the stream ends.
///
/// A Ctrl-C reaches the producer too, whose end then looks like the end of its data; what came until then is no whole and
/// must not be published. So an end is believed only when no stop comes with it.
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
        Failure::new(FailureKind::Local, Operation::ReadFile, "standard input", error.to_string())
    })?;
    if (body.len() as u64) < length && timeout(SIGNAL_GRACE, work.stop.cancelled()).await.is_ok() {
        return Err(Trouble::Stopped);
    }
    Ok(body.into())
}
