//! Reads local files: opens a file, detects changes to it, and reads its parts into memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use crate::execute::UPLOAD_MEMORY_MIB;
use crate::execute::buffers::Buffers;
use crate::journal::event::SourceVersion;
use crate::plan::parts::PartRange;
use crate::s3::{Failure, FailureKind, Operation};
use crate::size::MIB;

/// The properties that show whether a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Returns the source version for the journal.
    pub(super) fn version(&self) -> SourceVersion {
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
    pub(super) file: Arc<File>,
    pub(super) path: Arc<PathBuf>,
    pub(super) memory: Arc<Semaphore>,
    pub(super) buffers: Buffers,
}

impl OpenFile {
    /// Runs `read` on the file in a thread for blocking work.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&File, &Buffers) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let (file, buffers) = (Arc::clone(&self.file), self.buffers.clone());
        blocking(&self.path, move || read(&file, &buffers)).await
    }

    pub(super) async fn stamp(&self) -> Result<Stamp, Failure> {
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

/// Reserves memory for `bytes`, but at most [`UPLOAD_MEMORY_MIB`].
pub(super) async fn reserve(memory: Arc<Semaphore>, bytes: u64) -> Option<OwnedSemaphorePermit> {
    let mib = u32::try_from(bytes.div_ceil(MIB))
        .unwrap_or(u32::MAX)
        .clamp(1, UPLOAD_MEMORY_MIB);
    memory.acquire_many_owned(mib).await.ok()
}

/// Reads `length` bytes at `offset` into a reused buffer.
pub(super) fn pread(file: &File, offset: u64, length: u64, buffers: &Buffers) -> io::Result<Bytes> {
    let length = usize::try_from(length)
        .map_err(|_| io::Error::other("the part does not fit into memory"))?;
    buffers.filled(length, |buffer| file.read_exact_at(buffer, offset))
}

/// Runs a file operation in a thread for blocking work. A file that ends early has changed.
pub(super) async fn blocking<T: Send + 'static>(
    path: &Path,
    context: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let place = || path.display().to_string();
    match spawn_blocking(context).await {
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
