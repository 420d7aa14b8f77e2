//! A journal in a directory of this machine.
//!
//! ```text
//! lock                       locked while the process lives; names the holder
//! snapshot-0000000007.log    the state before segment 7
//! segment-0000000007.log     the events since
//! ```
//! A session appends to a segment of its own. It writes a snapshot under a temporary name, syncs
//! and renames it, and syncs the directory. Then it removes the segments that the snapshot
//! replaces. So after a crash at any moment, either the old files or the new snapshot are complete.

mod create;
mod lock;

use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::spawn_blocking;

use self::create::create_directory;
pub(super) use self::lock::Holder;
use self::lock::{LOCK, lock};
use super::error::JournalError;
use super::identity::Writer;
use super::salvage::Salvage;
use super::segment::{self, FileName, Header, JournalContent, segment_name, snapshot_name};
use super::state::RunState;
use super::store::{Store, Visit, is_long};
use crate::size::MIB;

/// The length at which a new segment begins even without a snapshot. Readers load whole segments.
const SEGMENT: u64 = 8 * MIB;
/// The maximum number of times that a reader starts over because a writer removed files meanwhile.
const LOOKS: u32 = 10;

/// A journal that this process may write.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    writer: Writer,
    /// The lock, held until the session ends.
    lock: Arc<File>,
    /// The file of the current segment.
    file: Arc<File>,
    /// The number of the current segment.
    segment: u64,
    segment_bytes: u64,
    /// The earlier segments since the last snapshot, with their lengths.
    past: Vec<(u64, u64)>,
    /// The number of the last snapshot, and the number of the first record after it.
    snapshot: (u64, u64),
    snapshot_bytes: u64,
    /// The bytes of the segments since the last snapshot.
    tail_bytes: u64,
}

impl Directory {
    /// Takes the lock, reads the journal, removes a torn end, and begins a segment.
    pub(super) fn open(
        path: &Path,
        writer: Writer,
    ) -> Result<(Self, JournalContent), JournalError> {
        let failed = |error: io::Error| JournalError::io(&path.display(), &error);
        create_directory(path).map_err(failed)?;
        let lock = lock(path, &writer)?;
        Self::open_locked(path, writer, lock)
    }

    /// Reads the journal whose lock this process holds, removes a torn end, and begins a segment.
    fn open_locked(
        path: &Path,
        writer: Writer,
        lock: File,
    ) -> Result<(Self, JournalContent), JournalError> {
        let failed = |error: io::Error| JournalError::io(&path.display(), &error);
        let found = DirectoryFiles::look(path).map_err(failed)?;
        let (replay, torn_at) = found.read(path)?;
        let mut segment = found
            .segments
            .last()
            .map_or(replay.snapshot.max(1), |number| number + 1);
        if let (Some(number), Some(good)) = (found.segments.last(), torn_at) {
            let torn = path.join(segment_name(*number));
            tracing::warn!(file = %torn.display(), "the last write was not finished; it is taken back");
            let repaired = if good == 0 {
                segment = *number;
                fs::remove_file(&torn)
            } else {
                OpenOptions::new().write(true).open(&torn).and_then(|file| {
                    file.set_len(good)?;
                    file.sync_all()
                })
            };
            repaired.map_err(|error| JournalError::io(&torn.display(), &error))?;
        }
        for name in found.stale {
            fs::remove_file(path.join(name)).map_err(failed)?;
        }
        let (file, segment_bytes) = begin(path, segment, replay.next, &writer).map_err(failed)?;
        make_private(path, &file);
        let past = found.segments.iter().filter_map(|number| {
            let metadata = fs::metadata(path.join(segment_name(*number))).ok()?;
            (*number != segment).then_some((*number, metadata.len()))
        });
        let directory = Self {
            past: past.collect(),
            path: path.to_owned(),
            writer,
            lock: Arc::new(lock),
            file: Arc::new(file),
            segment,
            segment_bytes,
            snapshot: (replay.snapshot.max(1), replay.base),
            snapshot_bytes: found.snapshot_bytes,
            tail_bytes: found.tail_bytes,
        };
        Ok((directory, replay))
    }

    /// Replaces an unreadable journal with a new one, which takes over the open uploads that the
    /// old one still shows. Moves the old files to a subdirectory and returns its path. The parent
    /// is no place for them: it may not be writable, or may be on another file system.
    ///
    /// The old files are first linked into the subdirectory, and unlinked only once the new
    /// snapshot is durable. So if this fails or the process is killed at any moment, either the old
    /// journal is still refused, or the new one knows the uploads. No file is lost.
    pub(super) fn begin_anew(
        path: &Path,
        writer: Writer,
    ) -> Result<(Self, JournalContent, Salvage, PathBuf), JournalError> {
        let failed = |error: io::Error| JournalError::io(&path.display(), &error);
        let lock = lock(path, &writer)?;
        let mut old = Vec::new();
        let mut readable = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(parsed) = name.to_str().and_then(FileName::parse) else {
                continue;
            };
            old.push((parsed, name));
            // Skips unreadable files.
            if let Ok(bytes) = fs::read(entry.path()) {
                readable.push((parsed, bytes));
            }
        }
        let files = readable.iter();
        let salvage = Salvage::of(files.map(|(name, bytes)| (*name, bytes.as_slice())));
        let last = old.iter().map(|(name, _)| name.number()).max();
        let number = last.unwrap_or_default().saturating_add(1);
        let header = Header::new(number, 0, &writer, Timestamp::now());
        let state = salvage.clone().into_state();
        let snapshot = segment::snapshot(&header, 0, &[], &state);
        let aside = path.join(format!("damaged-{}", Timestamp::now().as_millisecond()));
        let kept = DirBuilder::new()
            .mode(DIRECTORY_MODE)
            .create(&aside)
            .and_then(|()| {
                for (_, name) in &old {
                    link_or_copy(&path.join(name), &aside.join(name))?;
                }
                sync_names(&aside)
            });
        kept.map_err(failed)?;
        publish(path, number, &snapshot).map_err(failed)?;
        // Removes the old files, which the snapshot replaces.
        let (directory, replay) = Self::open_locked(path, writer, lock)?;
        Ok((directory, replay, salvage, aside))
    }

    /// Reads the journal and changes nothing, even while a run writes it. Returns `None` if there
    /// is no journal.
    pub(super) fn read(path: &Path) -> Result<Option<(JournalContent, Holder)>, JournalError> {
        let mut looks = 0;
        loop {
            let found = match DirectoryFiles::look(path) {
                Ok(found) => found,
                // The name may also belong to something that is not a directory.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(JournalError::io(&path.display(), &error)),
            };
            if found.snapshot.is_none() && found.segments.is_empty() {
                return Ok(None);
            }
            match found.read(path) {
                Ok((replay, _)) => return Ok(Some((replay, Holder::of(path)))),
                // A run that takes a snapshot may have removed the files that were just listed.
                Err(_) if looks < LOOKS && found.has_changed(path) => looks += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn failed(&self, error: &io::Error) -> JournalError {
        JournalError::io(&self.path.display(), error)
    }

    /// Runs file operations outside the runtime's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let done = spawn_blocking(work)
            .await
            .map_err(io::Error::other)
            .flatten();
        done.map_err(|error| self.failed(&error))
    }

    async fn begin_segment(&mut self, next: u64) -> Result<(), JournalError> {
        let (path, writer, number) = (self.path.clone(), self.writer.clone(), self.segment + 1);
        let (file, bytes) = self
            .blocking(move || begin(&path, number, next, &writer))
            .await?;
        self.past.push((self.segment, self.segment_bytes));
        (self.file, self.segment, self.segment_bytes) = (Arc::new(file), number, bytes);
        Ok(())
    }

    /// Returns the files that the next session reads, with the bytes that were written to each.
    fn written(&self) -> Vec<(PathBuf, u64)> {
        let mut files: Vec<_> = self
            .past
            .iter()
            .chain([&(self.segment, self.segment_bytes)])
            .map(|(number, bytes)| (self.path.join(segment_name(*number)), *bytes))
            .collect();
        if self.snapshot_bytes > 0 {
            let name = self.path.join(snapshot_name(self.snapshot.0));
            files.push((name, self.snapshot_bytes));
        }
        files
    }
}

impl Store for Directory {
    fn gather(&self) -> (Duration, Duration) {
        (Duration::ZERO, Duration::ZERO)
    }

    async fn write(&mut self, next: u64, lines: Vec<u8>) -> Result<(), JournalError> {
        if self.segment_bytes >= SEGMENT {
            // Only the last segment may be torn, so this one must be complete before the next
            // begins.
            self.sync().await?;
            self.begin_segment(next).await?;
        }
        let (file, bytes) = (Arc::clone(&self.file), lines.len() as u64);
        self.blocking(move || (&*file).write_all(&lines)).await?;
        self.segment_bytes += bytes;
        self.tail_bytes += bytes;
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), JournalError> {
        let file = Arc::clone(&self.file);
        self.blocking(move || file.sync_data()).await?;
        // A removed file still accepts writes, which no reader will ever see. If the lock was
        // removed, a second run could take a lock of its own.
        let (lock, file) = (Arc::clone(&self.lock), Arc::clone(&self.file));
        let names = [
            self.path.join(LOCK),
            self.path.join(segment_name(self.segment)),
        ];
        let gone = self.blocking(move || {
            let open = [lock, file].into_iter().zip(names);
            Ok(open
                .filter(|(open, name)| !is_at(open, name))
                .map(|(_, name)| name)
                .next())
        });
        if let Some(name) = gone.await? {
            return Err(JournalError::Gone {
                is_taken: name.ends_with(LOCK) && name.exists(),
                place: name.display().to_string(),
            });
        }
        let files = self.written();
        let cut = self.blocking(move || Ok(files.into_iter().find(is_cut)));
        match cut.await? {
            Some((name, _)) => Err(JournalError::Cut {
                place: name.display().to_string(),
            }),
            None => Ok(()),
        }
    }

    fn wants_snapshot(&self) -> bool {
        is_long(self.tail_bytes, self.snapshot_bytes)
    }

    async fn snapshot(
        &mut self,
        next: u64,
        report: u64,
        state: &RunState,
    ) -> Result<(), JournalError> {
        let number = self.segment + 1;
        let header = Header::new(number, next, &self.writer, Timestamp::now());
        let bytes = segment::snapshot(&header, report, &[], state);
        let (path, length) = (self.path.clone(), bytes.len() as u64);
        self.blocking(move || publish(&path, number, &bytes))
            .await?;
        self.begin_segment(next).await?;
        let old = (self.snapshot.0, number);
        // Both values must describe the same file, so they change together.
        (self.snapshot, self.snapshot_bytes) = ((number, next), length);
        self.tail_bytes = 0;
        self.past.clear();
        let path = self.path.clone();
        self.blocking(move || remove(&path, old)).await
    }

    async fn tail(&mut self, visit: Visit<'_>) -> Result<(), JournalError> {
        let (first, mut next) = self.snapshot;
        for number in first..=self.segment {
            let file = self.path.join(segment_name(number));
            let place = file.display().to_string();
            visit.room().await;
            let bytes = self.blocking(move || fs::read(file)).await?;
            next = segment::read_segment(&place, number, &bytes, false, next, |_, event| {
                visit.event(event);
            })?
            .next;
        }
        Ok(())
    }
}

/// Returns true for a file that is missing or has fewer bytes than were written to it.
fn is_cut((name, bytes): &(PathBuf, u64)) -> bool {
    fs::metadata(name).map_or_else(
        |error| error.kind() == io::ErrorKind::NotFound,
        |metadata| metadata.len() < *bytes,
    )
}

/// Returns true if `name` still leads to the open file.
fn is_at(file: &File, name: &Path) -> bool {
    let same = |open: &fs::Metadata, named: &fs::Metadata| {
        (open.dev(), open.ino()) == (named.dev(), named.ino())
    };
    // A failed check does not prove that the file was removed.
    let Ok(open) = file.metadata() else {
        return true;
    };
    fs::metadata(name).map_or_else(
        |error| {
            !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            )
        },
        |named| same(&open, &named),
    )
}

/// The files of a journal.
#[derive(Debug, Default, PartialEq, Eq)]
struct DirectoryFiles {
    /// The latest snapshot.
    snapshot: Option<u64>,
    /// The segments after it, in order.
    segments: Vec<u64>,
    /// Files left by a crash: unfinished ones, and ones that the snapshot has replaced.
    stale: Vec<String>,
    snapshot_bytes: u64,
    tail_bytes: u64,
}

impl DirectoryFiles {
    /// Lists the files. Starts over if one is removed meanwhile, so [`io::ErrorKind::NotFound`]
    /// always means that the directory is missing.
    fn look(path: &Path) -> io::Result<Self> {
        Self::look_with(path, |entry| {
            entry.metadata().map(|metadata| metadata.len())
        })
    }

    fn look_with(
        path: &Path,
        mut length: impl FnMut(&DirEntry) -> io::Result<u64>,
    ) -> io::Result<Self> {
        for _ in 0..=LOOKS {
            if let Some(found) = Self::list(path, &mut length)? {
                return Ok(found);
            }
        }
        Err(io::Error::other(
            "its files are removed faster than they can be read",
        ))
    }

    /// Lists the files, or returns `None` if one was removed since its name was read.
    fn list(
        path: &Path,
        mut length: impl FnMut(&DirEntry) -> io::Result<u64>,
    ) -> io::Result<Option<Self>> {
        let mut found = Self::default();
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if is_temp(&name) {
                found.stale.push(name);
            } else if let Some(parsed) = FileName::parse(&name) {
                names.push((parsed, name, entry));
            }
        }
        names.sort_unstable_by_key(|(parsed, ..)| *parsed);
        found.snapshot = names.iter().rev().find_map(|(parsed, ..)| match parsed {
            FileName::Snapshot(number) => Some(*number),
            FileName::Segment(_) => None,
        });
        for (parsed, name, entry) in names {
            let is_stale = match parsed {
                FileName::Segment(number) => Some(number) < found.snapshot,
                FileName::Snapshot(number) => Some(number) != found.snapshot,
            };
            if is_stale {
                found.stale.push(name);
                continue;
            }
            let bytes = match length(&entry) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            match parsed {
                FileName::Segment(number) => {
                    found.segments.push(number);
                    found.tail_bytes += bytes;
                }
                FileName::Snapshot(_) => found.snapshot_bytes = bytes,
            }
        }
        Ok(Some(found))
    }

    /// Reads the snapshot and all segments. The second value is the number of good bytes in the
    /// last segment, if it is torn.
    fn read(&self, path: &Path) -> Result<(JournalContent, Option<u64>), JournalError> {
        let read = |name: String| {
            let file = path.join(name);
            let place = file.display().to_string();
            fs::read(&file)
                .map(|bytes| (bytes, place.clone()))
                .map_err(|error| JournalError::io(&place, &error))
        };
        let mut replay = match self.snapshot {
            Some(number) => {
                let (bytes, place) = read(snapshot_name(number))?;
                JournalContent::snapshot(&place, number, &bytes)?
            }
            None => JournalContent::default(),
        };
        let mut torn = None;
        for (expected, number) in (replay.snapshot.max(1)..).zip(&self.segments) {
            if *number != expected {
                return Err(JournalError::missing(
                    &path.join(segment_name(expected)).display(),
                ));
            }
            let (bytes, place) = read(segment_name(*number))?;
            let good = replay.segment(
                &place,
                *number,
                &bytes,
                self.segments.last() == Some(number),
            )?;
            torn = (good < bytes.len()).then_some(good as u64);
        }
        Ok((replay, torn))
    }

    fn has_changed(&self, path: &Path) -> bool {
        Self::look(path)
            .is_ok_and(|now| (now.snapshot, &now.segments) != (self.snapshot, &self.segments))
    }
}

/// Creates a segment with its header, durably.
fn begin(path: &Path, number: u64, next: u64, writer: &Writer) -> io::Result<(File, u64)> {
    let name = path.join(segment_name(number));
    let mut file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(name)?;
    let header = Header::new(number, next, writer, Timestamp::now()).line();
    file.write_all(&header)?;
    file.sync_all()?;
    sync_names(path)?;
    Ok((file, header.len() as u64))
}

/// Writes a snapshot atomically.
fn publish(path: &Path, number: u64, bytes: &[u8]) -> io::Result<()> {
    let name = path.join(snapshot_name(number));
    let beside = path.join(format!("snapshot-{number:010}{TEMP_SUFFIX}"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, name)?;
    sync_names(path)
}

/// Links a file to a second name in another directory, or copies it.
fn link_or_copy(file: &Path, name: &Path) -> io::Result<()> {
    // Some file systems have no links.
    fs::hard_link(file, name).or_else(|_| {
        fs::copy(file, name)?;
        File::open(name)?.sync_all()
    })
}

/// Removes the files that the snapshot `until` replaces: the segments from `from` on, and the
/// snapshot before it.
fn remove(path: &Path, (from, until): (u64, u64)) -> io::Result<()> {
    let segments = (from..until).map(segment_name);
    for name in segments.chain([snapshot_name(from)]) {
        match fs::remove_file(path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Restricts the permissions of files that an older version wrote, if they have the same owner as
/// the file `own`. Ignores failures, because some file systems have no permissions.
fn make_private(path: &Path, own: &File) {
    let (Ok(own), Ok(entries)) = (own.metadata(), fs::read_dir(path)) else {
        return;
    };
    for entry in entries.flatten() {
        let is_of_journal = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name == LOCK || FileName::parse(name).is_some());
        let is_open = entry.metadata().is_ok_and(|metadata| {
            metadata.is_file() && metadata.uid() == own.uid() && metadata.mode() & 0o077 != 0
        });
        if is_of_journal && is_open {
            let _ = fs::set_permissions(entry.path(), Permissions::from_mode(FILE_MODE));
        }
    }
}

/// Makes the names of the files in a directory durable.
fn sync_names(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The permissions of new files and directories: a journal names objects, buckets, and versions.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// The suffix of a snapshot's name until it is complete.
const TEMP_SUFFIX: &str = ".log.half";

/// Returns true for the name of an unfinished snapshot, and for no other name.
fn is_temp(name: &str) -> bool {
    let number = name
        .strip_prefix("snapshot-")
        .and_then(|name| name.strip_suffix(TEMP_SUFFIX));
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests;
