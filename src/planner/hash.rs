//! Hashes local files in the same way as S3 computed a checksum or an `ETag`.
//!
//! Blocking threads read a file in pieces, so that a run that stops need not read to the end of the
//! file. Only a few files are read in parallel, because more would only make a disk seek.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use tokio::sync::Semaphore;

use crate::checksum::{RunningChecksum, RunningMd5, composite, multipart_etag};
use crate::s3::{Checksum, ChecksumAlgorithm, ChecksumKind, Failure, FailureKind, Operation};

/// The maximum number of bytes that one blocking call reads.
const PIECE: usize = 4 << 20;
/// The number of files that are read at once.
const FILES_AT_ONCE: usize = 4;

static FILES: Semaphore = Semaphore::const_new(FILES_AT_ONCE);

/// The hash to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantedHash {
    /// The checksum to compute. A composite checksum needs the size of the parts.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
    /// True to compute the `ETag`: a multipart `ETag` if `part_size` is set, and otherwise the MD5
    /// of all bytes.
    pub etag: bool,
    /// The size of each part but the last.
    pub part_size: Option<u64>,
}

/// A computed hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashes {
    /// The number of bytes read.
    pub bytes: u64,
    /// See [`WantedHash::checksum`].
    pub checksum: Option<Checksum>,
    /// See [`WantedHash::etag`].
    pub etag: Option<String>,
}

/// Reads a file and computes the wanted hashes.
///
/// # Errors
/// [`FailureKind::Local`] if the file cannot be read.
pub async fn file(path: &Path, want: WantedHash) -> Result<Hashes, Failure> {
    let failed = |kind, message| {
        Failure::new(
            kind,
            Operation::ReadFile,
            path.display().to_string(),
            message,
        )
    };
    // The semaphore is never closed.
    let _permit = FILES.acquire().await;
    let owned = path.to_owned();
    let mut work = blocking(move || Ok(Reading::new(File::open(owned)?, want)))
        .await
        .map_err(|(kind, message)| failed(kind, message))?;
    loop {
        let read = blocking(move || work.read().map(|more| (work, more))).await;
        let (reading, more) = read.map_err(|(kind, message)| failed(kind, message))?;
        if !more {
            return Ok(reading.finish());
        }
        work = reading;
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, (FailureKind, String)> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err((FailureKind::Local, error.to_string())),
        Err(error) => Err((FailureKind::Bug, error.to_string())),
    }
}

/// A file that is being read.
struct Reading {
    file: File,
    hasher: Hasher,
    buffer: Vec<u8>,
}

impl Reading {
    fn new(file: File, want: WantedHash) -> Self {
        Self {
            file,
            hasher: Hasher::new(want),
            buffer: vec![0; PIECE],
        }
    }

    /// Reads one piece. Returns false at the end of the file.
    fn read(&mut self) -> io::Result<bool> {
        let read = loop {
            match self.file.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.hasher.update(&self.buffer[..read]);
        Ok(read > 0)
    }

    fn finish(self) -> Hashes {
        self.hasher.finish()
    }
}

/// Hashes bytes that arrive in pieces.
struct Hasher {
    /// The hash to compute.
    want: WantedHash,
    /// The number of bytes read so far.
    bytes: u64,
    /// The number of bytes of the current part so far.
    in_part: u64,
    /// The checksum of the current part, or of the whole file.
    sum: Option<RunningChecksum>,
    /// The MD5 of the current part, or of the whole file.
    md5: RunningMd5,
    /// The checksums of the completed parts.
    sums: Vec<String>,
    /// The MD5s of the completed parts.
    md5s: Vec<String>,
}

impl Hasher {
    fn new(want: WantedHash) -> Self {
        let sum = want
            .checksum
            .map(|(algorithm, _)| RunningChecksum::new(algorithm));
        Self {
            want,
            bytes: 0,
            in_part: 0,
            sum,
            md5: RunningMd5::default(),
            sums: Vec::new(),
            md5s: Vec::new(),
        }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let left = self
                .want
                .part_size
                .map_or(u64::MAX, |size| size - self.in_part);
            let take = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (now, later) = bytes.split_at(take);
            if let Some(sum) = &mut self.sum {
                sum.update(now);
            }
            if self.want.etag {
                self.md5.update(now);
            }
            self.in_part += take as u64;
            bytes = later;
            if Some(self.in_part) == self.want.part_size {
                self.end_part();
            }
        }
    }

    fn end_part(&mut self) {
        self.in_part = 0;
        if let Some((algorithm, ChecksumKind::Composite)) = self.want.checksum {
            let sum = self.sum.replace(RunningChecksum::new(algorithm));
            self.sums.extend(sum.map(|sum| sum.finish().value));
        }
        self.md5s.push(std::mem::take(&mut self.md5).finish());
    }

    fn finish(mut self) -> Hashes {
        if self.want.part_size.is_some() && self.in_part > 0 {
            self.end_part();
        }
        let checksum = match self.want.checksum {
            Some((algorithm, ChecksumKind::Composite)) => {
                composite(algorithm, self.sums.iter().map(String::as_str))
            }
            _ => self.sum.map(RunningChecksum::finish),
        };
        let etag = match (self.want.etag, self.want.part_size) {
            (false, _) => None,
            (true, None) => Some(self.md5.finish()),
            (true, Some(_)) => multipart_etag(self.md5s.iter().map(String::as_str)),
        };
        Hashes {
            bytes: self.bytes,
            checksum,
            etag,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::{compute, md5_etag};

    proptest! {
        #[test]
        fn hashes_do_not_depend_on_how_the_bytes_come(
            bytes in proptest::collection::vec(any::<u8>(), 1..300),
            cuts in proptest::collection::vec(1..50_usize, 1..5),
            part_size in 1..80_u64,
        ) {
            let of = |want| {
                let mut hasher = Hasher::new(want);
                let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                    hasher.update(now);
                    rest = later;
                }
                hasher.finish()
            };
            let algorithm = ChecksumAlgorithm::Sha256;
            let whole = of(WantedHash { checksum: Some((algorithm, ChecksumKind::FullObject)), etag: true, part_size: None });
            prop_assert_eq!(whole.checksum, Some(compute(algorithm, &bytes)));
            prop_assert_eq!(whole.etag, Some(md5_etag(&bytes)));
            prop_assert_eq!(whole.bytes, bytes.len() as u64);
            let want = WantedHash {
                checksum: Some((algorithm, ChecksumKind::Composite)),
                etag: true,
                part_size: Some(part_size),
            };
            let in_parts = of(want);
            let parts: Vec<&[u8]> = bytes.chunks(usize::try_from(part_size).unwrap()).collect();
            let sums: Vec<_> = parts.iter().map(|part| compute(algorithm, part).value).collect();
            let md5s: Vec<_> = parts.iter().map(|part| md5_etag(part)).collect();
            prop_assert_eq!(in_parts.checksum, composite(algorithm, sums.iter().map(String::as_str)));
            prop_assert_eq!(in_parts.etag, multipart_etag(md5s.iter().map(String::as_str)));
        }
    }
}
