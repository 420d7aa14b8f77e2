//! The lock of a journal directory.
//!
//! The operating system releases it when the process ends, in any way. The file names the holder,
//! for the error message of another process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::FILE_MODE;
use crate::journal::error::JournalError;
use crate::journal::identity::{Writer, host};

/// The name of the lock in the directory.
pub(super) const LOCK: &str = "lock";
/// The first bytes of a lock file that was written.
const LOCK_BEGINS: &[u8] = b"{\"id\":\"";
/// The most attempts to take a lock that another process holds, and to read one that is being
/// written.
const TRIES: u32 = 10;

/// Refuses to overwrite a file that has the name of the lock and is something else. A full disk may
/// have cut the file of a real lock to any length.
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
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(&name)
        .map_err(|error| failed(&error))?;
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
    must_be_a_lock(&mut file).map_err(|error| failed(&error))?;
    let text = serde_json::to_vec(writer).unwrap_or_default();
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(&text));
    written.map_err(|error| failed(&error))?;
    Ok(file)
}

/// Returns the session that the file of the lock names. A holder writes it right after it took the
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
    /// True if that process holds the lock now. `None` if this cannot be seen: on another machine,
    /// or not on Linux.
    pub(in crate::journal) alive: Option<bool>,
}

impl Holder {
    pub(super) fn of(path: &Path) -> Self {
        let name = path.join(LOCK);
        let writer = holder(&name);
        let same_machine = writer.as_ref().is_some_and(|writer| writer.host == host());
        let alive = same_machine.then(|| is_locked(&name)).flatten();
        Self { writer, alive }
    }
}

/// Returns true if the kernel's table shows a lock on this file. Returns `None` if there is no such
/// table.
fn is_locked(name: &Path) -> Option<bool> {
    let inode = format!(":{}", fs::metadata(name).ok()?.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let is_ours = |line: &str| {
        let mut words = line.split_whitespace();
        words.nth(1) == Some("FLOCK") && words.nth(3).is_some_and(|file| file.ends_with(&inode))
    };
    Some(locks.lines().any(is_ours))
}
