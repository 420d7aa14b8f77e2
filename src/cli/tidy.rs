//! Removes old journals of one-off copies below the working directory.
//!
//! Each different `copy` has a separate journal, named after the copy. Once such a copy has ended,
//! only `status` uses its journal, so a later copy removes the journal after a week. Named
//! journals, journals of jobs, and journals with unfinished work are never removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::journal::{LeaseTerms, Life, Location, Opened, look};
use crate::listing::local::JOURNALS;

/// The time for which journals of finished copies are kept.
const KEPT: Duration = Duration::from_hours(7 * 24);
/// Hexadecimal digits in the job name of a one-off copy.
const DIGITS: usize = 16;

/// Makes Git ignore the journals below the working directory.
pub(super) fn ignore_in_git() {
    let path = Path::new(JOURNALS).join(".gitignore");
    // A failure does not affect the journals.
    if let Err(error) =
        fs::File::create_new(&path).and_then(|mut file| io::Write::write_all(&mut file, b"*\n"))
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        tracing::debug!("{}: {error}", path.display());
    }
}

/// Removes old journals of finished copies, except that of the copy `own`.
pub(super) async fn remove_old_copies(own: &str) {
    let Ok(entries) = fs::read_dir(JOURNALS) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let is_other = name
            .to_str()
            .is_some_and(|name| name != own && is_one_off(name));
        if is_other && is_old(&entry.path()).unwrap_or(false) {
            remove_if_over(entry.path()).await;
        }
    }
}

/// Returns true for the job name of a one-off copy.
pub(super) fn is_one_off(job: &str) -> bool {
    let digits = job.strip_prefix("copy-").unwrap_or_default();
    digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_old(path: &Path) -> io::Result<bool> {
    let mut last = fs::metadata(path)?.modified()?;
    for entry in fs::read_dir(path)? {
        last = last.max(entry?.metadata()?.modified()?);
    }
    Ok(SystemTime::now()
        .duration_since(last)
        .is_ok_and(|age| age > KEPT))
}

async fn remove_if_over(path: PathBuf) {
    let location = Location::Directory(path.clone());
    let is_over = match look(location.clone()).await {
        Ok(Some(glance)) => glance.life == Life::Ended && glance.state.uploads.is_empty(),
        _ => false,
    };
    if !is_over {
        return;
    }
    // The lock keeps out a copy that starts with this journal at the same moment.
    let Ok(opened) = Opened::open(location, &LeaseTerms::default()).await else {
        return;
    };
    if opened.state().is_unfinished() {
        return;
    }
    match fs::remove_dir_all(&path) {
        Ok(()) => tracing::info!(
            "removed {}, the journal of a copy that ended long ago",
            path.display()
        ),
        Err(error) => tracing::debug!("{}: {error}", path.display()),
    }
    drop(opened);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_copy_makes_are_those_of_one_off_copies() {
        assert!(is_one_off("copy-0123456789abcdef"));
        for job in [
            "copy",
            "copy-",
            "copy-0123456789abcde",
            "copy-0123456789abcdeg",
            "nightly",
            "copy-lake",
        ] {
            assert!(!is_one_off(job), "{job}");
        }
    }
}
