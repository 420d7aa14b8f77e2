//! The lock of a journal directory.
//!
//! The operating system releases it when the process ends, however it ends. The file names the
//! holder, for the error message of another process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::{FILE_MODE, is_at};
use crate::journal::error::JournalError;
use crate::journal::identity::{Writer, host};

/// The name of the lock in the directory.
pub(super) const LOCK: &str = "lock";
/// The first bytes of a lock file that names its holder.
const LOCK_BEGINS: &[u8] = b"{\"id\":\"";
/// The maximum number of attempts to take a lock that another process holds, and to read one that
/// is being written.
const TRIES: u32 = 10;

/// Returns an error for a file that has the name of the lock but is something else, because the
/// caller would overwrite it. A full disk may have truncated a real lock file to any length.
fn must_be_a_lock(file: &mut File) -> io::Result<()> {
    let mut text = Vec::new();
    file.take(4096).read_to_end(&mut text)?;
    let is_lock = text.starts_with(&LOCK_BEGINS[..LOCK_BEGINS.len().min(text.len())]);
    if is_lock {
        return Ok(());
    }
    Err(io::Error::other(
        "this file is not the lock of a journal and would be overwritten; give the journal a directory of its own",
    ))
}

/// Takes the lock and writes the holder into its file.
pub(super) fn lock(path: &Path, writer: &Writer) -> Result<File, JournalError> {
    let name = path.join(LOCK);
    let failed = |error: &io::Error| JournalError::io(&name.display(), error);
    for _ in 0..TRIES {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&name)
            .map_err(|error| failed(&error))?;
        if let Some(file) = take(file, path, writer)? {
            return Ok(file);
        }
    }
    Err(failed(&io::Error::other(
        "the file is replaced again and again",
    )))
}

/// Locks an open file and writes the holder into it. Returns `None` if the file lost its name
/// before it was locked: another process may lock the file that has the name now.
fn take(mut file: File, path: &Path, writer: &Writer) -> Result<Option<File>, JournalError> {
    let name = path.join(LOCK);
    let failed = |error: &io::Error| JournalError::io(&name.display(), error);
    let mut tries = 0;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            // If a holder ends while it forks a child, the child holds the lock until its exec
            // closes the file.
            Err(TryLockError::WouldBlock) if tries < TRIES => tries += 1,
            Err(TryLockError::WouldBlock) => {
                let by = holder(&name).unwrap_or_else(Writer::unknown);
                return Err(JournalError::Held {
                    place: path.display().to_string(),
                    by: Box::new(by),
                    silence: None,
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        sleep(Duration::from_millis(20));
    }
    if !is_at(&file, &name) {
        return Ok(None);
    }
    must_be_a_lock(&mut file).map_err(|error| failed(&error))?;
    let text = serde_json::to_vec(writer).unwrap_or_default();
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(&text));
    written.map_err(|error| failed(&error))?;
    Ok(Some(file))
}

/// Returns the session that the lock file names. A holder writes the file right after it takes the
/// lock.
fn holder(name: &Path) -> Option<Writer> {
    for _ in 0..TRIES {
        let mut text = String::new();
        let read = File::open(name).and_then(|mut file| file.read_to_string(&mut text));
        if let (Ok(_), Ok(writer)) = (read, serde_json::from_str(&text)) {
            return Some(writer);
        }
        sleep(Duration::from_millis(20));
    }
    None
}

/// The last writer of a journal, found without touching the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::journal) struct Holder {
    /// The last writer.
    pub(in crate::journal) writer: Option<Writer>,
    /// True if that process holds the lock now. `None` if this is unknown: the process ran on
    /// another machine, or this is not Linux.
    pub(in crate::journal) alive: Option<bool>,
}

impl Holder {
    pub(super) fn of(path: &Path) -> Self {
        let name = path.join(LOCK);
        let writer = holder(&name);
        let of_this_machine = writer.as_ref().filter(|writer| writer.host == host());
        let alive = of_this_machine.and_then(|writer| is_locked(&name, writer.pid));
        Self { writer, alive }
    }
}

/// Returns true if the kernel's table shows a lock of this process on this file. Returns `None` if
/// there is no such table.
fn is_locked(name: &Path, pid: u32) -> Option<bool> {
    let metadata = fs::metadata(name).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let is_ours = |line: &str| is_lock_of(line, metadata.dev(), metadata.ino(), pid);
    Some(locks.lines().any(is_ours))
}

/// Returns true if a line of the kernel's table is a lock on this file.
///
/// The inode alone is not enough, because another file system may use the same number. So the
/// device or the pid must match too. Neither is reliable alone: on some file systems (btrfs,
/// overlayfs), the table shows a different device from the metadata of the file, and a holder in a
/// container knows its pid there, not the one in the table.
fn is_lock_of(line: &str, device: u64, inode: u64, pid: u32) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, _, holder, file, ..] = words.as_slice() else {
        return false;
    };
    let Some((found_device, found_inode)) = file.rsplit_once(':') else {
        return false;
    };
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    found_inode == inode.to_string()
        && (*holder == pid.to_string() || found_device == format!("{major:02x}:{minor:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_known_by_its_inode_and_by_its_process_or_its_device() {
        let line = |pid: u32, file: &str| format!("7: FLOCK  ADVISORY  WRITE {pid} {file} 0 EOF");
        for (line, outcome) in [
            (line(7, "08:03:131"), true),
            (line(8, "08:03:131"), true),
            (line(7, "00:2f:131"), true),
            (line(8, "00:2f:131"), false),
            (line(7, "08:03:13"), false),
            (line(7, "08:03:1131"), false),
            (line(7, "08:03:131").replace("FLOCK", "POSIX"), false),
            (String::new(), false),
        ] {
            assert_eq!(is_lock_of(&line, 0x803, 131, 7), outcome, "{line}");
        }
        assert!(is_lock_of(&line(8, "103:100:9"), 0x11_0300, 9, 7));
    }

    /// The journal was removed, and another process has created it again, between the two steps of
    /// taking the lock.
    #[test]
    fn a_lock_that_lost_its_name_is_not_taken() {
        let directory = tempfile::tempdir().unwrap();
        let (path, name) = (directory.path(), directory.path().join(LOCK));
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(&name).unwrap()
        };
        let writer = Writer::unknown();
        let lost = open();
        fs::remove_file(&name).unwrap();
        let other = take(open(), path, &writer).unwrap();
        assert!(other.is_some());
        assert!(take(lost, path, &writer).unwrap().is_none());
        drop(other);
        assert!(lock(path, &writer).is_ok());
    }
}
