//! Creates the directory of a journal so that a crash cannot lose its name.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::{DIRECTORY_MODE, sync_names};

/// Creates a directory with its parents, and makes their names durable.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    for parent in create_parents(path)? {
        sync_names(&parent)?;
    }
    Ok(())
}

/// Creates a directory with its parents. Returns the directories that got a new name, and always
/// the parent of `path`: an earlier process may have been killed before it was synced.
fn create_parents(path: &Path) -> io::Result<Vec<PathBuf>> {
    let parent = |path: &Path| {
        let parent = path.parent()?;
        let is_here = parent.as_os_str().is_empty();
        Some(if is_here { Path::new(".") } else { parent }.to_owned())
    };
    let mut changed: Vec<_> = parent(path).into_iter().collect();
    while let Some(last) = changed.last()
        && !last.exists()
        && let Some(next) = parent(last)
    {
        changed.push(next);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)?;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_each_new_name_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("new/.s3haul/nightly");
        let parents = create_parents(&journal).unwrap();
        let expected = ["new/.s3haul", "new", ""].map(|name| dir.path().join(name));
        assert_eq!(parents, expected);
        // An earlier process may have been killed before it synced the last one.
        assert_eq!(create_parents(&journal).unwrap(), expected[..1]);
        // `.` is the parent of a path with one component.
        assert_eq!(create_parents(Path::new(".")).unwrap(), [Path::new(".")]);
    }
}
