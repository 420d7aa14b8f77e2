//! Runs one round of a local file.
//!
//! A file is opened once and read with `pread`, so that its parts can be read in parallel, without
//! a shared position and without the whole file in memory. If its size or times changed while it
//! was read, it is sent again. [`put`](super::put) sends a small file, and
//! [`local`](super::upload::local) the parts of a large one.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::ObjectTask;
use super::attributes::TargetAttributes;
use super::trouble::{Replan, Trouble};
use super::upload::local::LocalParts;
use super::upload::parts::PartSource;
use super::upload::record::UploadFingerprint;
use super::upload::resume::Resumed;
use super::upload::{UploadRequest, UploadSession, adopt};
use crate::execute::UPLOAD_MEMORY_MIB;
use crate::execute::buffers::Buffers;
use crate::execute::receipt::Ending;
use crate::journal::event::SourceVersion;
use crate::listing::{Entry, local};
use crate::location::LocalPath;
use crate::pace::slots::SlotKind;
use crate::plan::decide::Route;
use crate::plan::parts::{PartLayout, PartRange};
use crate::s3::{Failure, FailureKind, Operation};
use crate::size::MIB;

/// The size up to which one blocking call opens a file and reads it.
const READ_AT_ONCE: u64 = MIB;

/// The properties that show whether a file has changed.
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

    /// Returns the source version for the journal.
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

/// An open file, and the memory that its parts are read into.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    file: Arc<File>,
    path: Arc<PathBuf>,
    memory: Arc<Semaphore>,
    buffers: Buffers,
}

impl OpenFile {
    /// Runs `read` on the file in a thread for blocking work.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&File, &Buffers) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let (file, buffers) = (Arc::clone(&self.file), self.buffers.clone());
        blocking(&self.path, move || read(&file, &buffers)).await
    }

    async fn stamp(&self) -> Result<Stamp, Failure> {
        self.read(|file, _| Stamp::of(file)).await
    }

    /// Reserves memory for a part, reads it, and computes its checksum with `sum`.
    pub(super) async fn read_part<S: Send + 'static>(
        &self,
        part: PartRange,
        sum: impl FnOnce(&Bytes) -> S + Send + 'static,
    ) -> Result<(Bytes, S, Option<OwnedSemaphorePermit>), Failure> {
        let permit = reserve(Arc::clone(&self.memory), part.length).await;
        let read = self.read(move |file, buffers| {
            let body = pread(file, part.offset, part.length, buffers)?;
            let sum = sum(&body);
            Ok((body, sum))
        });
        let (body, sum) = read.await?;
        Ok((body, sum, permit))
    }
}

impl<'w> ObjectTask<'w> {
    /// Sends the file in its current state.
    pub(super) async fn file_round(&mut self, root: &LocalPath) -> Result<Ending, Trouble> {
        let (work, step) = (self.work, self.step);
        let slot = self.request_slot(SlotKind::Small).await?;
        let path = Arc::new(local::path_of(root, &step.entry));
        // One blocking call opens a small file, reads it, and checks it again, because each call
        // costs a switch of threads.
        let mut permit = reserve(Arc::clone(&work.memory), step.entry.size.min(READ_AT_ONCE)).await;
        let opened = blocking(&path, {
            let (path, buffers) = (Arc::clone(&path), work.buffers.clone());
            move || {
                let file = Arc::new(File::open(&*path)?);
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
        let (memory, buffers) = (Arc::clone(&work.memory), work.buffers.clone());
        let file = OpenFile {
            file,
            path,
            memory,
            buffers,
        };
        let now = Entry {
            size: stamp.size,
            modified: stamp.version().modified,
            ..step.entry.clone()
        };
        if let Some(rule) = work.sides.left_out_now(&step.entry, &now) {
            return Ok(self.draft.leave_out(&rule));
        }
        let route = work.sides.route(stamp.size, &step.entry.key, &step.key)?;
        self.draft.takes(stamp.size, &route);
        let wanted = TargetAttributes::of_upload(work, &step.key);
        if let Route::MultipartUpload(layout) = route {
            drop((slot, permit, read));
            return self.send_file(file, stamp, layout, wanted).await;
        }
        let (body, now) = if let Some(read) = read {
            read
        } else {
            drop(permit.take());
            permit = reserve(Arc::clone(&work.memory), stamp.size).await;
            let body = file.read(move |file, buffers| pread(file, 0, stamp.size, buffers));
            (body.await?, file.stamp().await?)
        };
        if now != stamp {
            return Err(Replan::SourceChanged.into());
        }
        let ending = self.put(slot, body, wanted.attributes()).await;
        drop(permit);
        ending
    }

    /// Sends the parts of a file, and publishes them if it has not changed meanwhile.
    async fn send_file(
        &mut self,
        file: OpenFile,
        stamp: Stamp,
        layout: PartLayout,
        mut wanted: TargetAttributes<'w>,
    ) -> Result<Ending, Trouble> {
        self.demand_checksum(wanted.attributes())?;
        let request = UploadRequest {
            fingerprint: UploadFingerprint::of(stamp.version(), wanted.attributes()),
            layout,
            attributes: wanted.attributes().clone(),
            checksum: None,
            doubt: adopt::unseen_acl(wanted.attributes()),
        };
        let mut session = match UploadSession::resume(self, &request).await? {
            Some(Resumed::Session(session)) => *session,
            // If an earlier session published the object, nothing proves that the file did not
            // change while it was read, so the file is sent again.
            Some(Resumed::Published(..)) | None => {
                UploadSession::adopt_or_create(self, &mut wanted, None, request, None).await?
            }
        };
        let attributes = wanted.attributes();
        self.draft.parts = session.layout.count;
        let parts = LocalParts::of(self.work, &session, attributes);
        let outcome = async {
            let source = PartSource::File(file.clone(), parts.clone());
            session.send_all(source).await?;
            if file.stamp().await? != stamp {
                return Err(Replan::SourceChanged.into());
            }
            parts.complete(&mut session, attributes, self).await
        }
        .await;
        let outcome = session.verify_adopted(attributes, outcome, self).await;
        session.end(outcome, self).await
    }
}

/// Reserves memory for `bytes`, or all memory if that is less.
pub(super) async fn reserve(
    memory: Arc<tokio::sync::Semaphore>,
    bytes: u64,
) -> Option<OwnedSemaphorePermit> {
    let mib = u32::try_from(bytes.div_ceil(MIB))
        .unwrap_or(u32::MAX)
        .clamp(1, UPLOAD_MEMORY_MIB);
    memory.acquire_many_owned(mib).await.ok()
}

/// Reads `length` bytes at `offset` into a reused buffer.
fn pread(file: &File, offset: u64, length: u64, buffers: &Buffers) -> io::Result<Bytes> {
    let length = usize::try_from(length)
        .map_err(|_| io::Error::other("the part does not fit into memory"))?;
    buffers.filled(length, |buffer| file.read_exact_at(buffer, offset))
}

/// Runs file work in a thread for blocking work. A file that ends early has changed.
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
