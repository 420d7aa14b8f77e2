//! Lists the files below a directory in the order of their keys in S3.
//!
//! A directory `a` sorts as `a/`, so that files arrive in the byte order of their keys and can be
//! compared with a bucket's listing. The walk reads a few directories per level ahead in parallel,
//! because latency dominates on a network file system. Memory depends on the directories on the
//! current path, not on the whole tree. The job decides whether symbolic links are skipped,
//! followed, or treated as errors. A link to a directory on the current path is never followed, so
//! that the walk ends.

use std::collections::VecDeque;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::task::{JoinHandle, spawn_blocking};

use super::filter::Filter;
use super::{Entry, Listing, ListingItem};
use crate::location::{LocalPath, ObjectKey};
use crate::manifest::job::{Chosen, Selection, Symlinks};
use crate::pace::gate::joined;
use crate::s3::{Failure, FailureKind, Operation};

/// The number of directories per level that are read ahead.
const READ_AHEAD: usize = 8;
/// The default directory of journals. It is never part of a source, because a run that uploads its
/// working directory must not upload its own journal.
pub const JOURNALS: &str = ".s3haul";
/// The reason for ignoring a directory in which nothing can match.
pub const UNREACHED: &str = "a directory in which no include pattern can match";
/// The number of entries per page.
const PAGE: usize = 1000;

/// Lists a directory, or a single file under its own name. Omits the files and directories in
/// `own`.
#[must_use]
pub fn files(root: &LocalPath, symlinks: Symlinks, filter: &Filter, own: &[PathBuf]) -> Listing {
    let walk = Arc::new(LocalWalk::new(root, symlinks, filter, own));
    Listing::by(|pages| async move {
        let mut levels = vec![Level::of(Arc::clone(&walk).start().await)];
        let mut page = Vec::new();
        while let Some(level) = levels.last_mut() {
            level.read_ahead(&walk);
            match level.pending.pop_front() {
                None => {
                    levels.pop();
                }
                Some(Unread::Found(found)) => page.push(found),
                Some(Unread::OpenDirectory(dir)) => levels.push(Level::of(walk.read(dir).await)),
                Some(Unread::Reading(task)) => levels.push(Level::of(joined(task).await)),
            }
            if page.len() >= PAGE && pages.send(std::mem::take(&mut page)).await.is_err() {
                return;
            }
        }
        let _ = pages.send(page).await;
    })
}

/// Returns true if [`files`] would list a file with this key if there were no filter.
#[must_use]
pub fn has_file(root: &LocalPath, symlinks: Symlinks, own: &[PathBuf], key: &str) -> bool {
    let walk = LocalWalk::new(root, symlinks, &Filter::new(&Selection::default()), own);
    if !root.0.is_dir() {
        return root.0.is_file() && walk.root_name() == key;
    }
    matches!(walk.find(key), Some(ListingItem::Entry(_)))
}

/// Lists the chosen files below a directory after the key `after`, in order. A missing file is a
/// failure of that file only.
#[must_use]
pub fn chosen_files(
    root: &LocalPath,
    symlinks: Symlinks,
    own: &[PathBuf],
    chosen: (&[Chosen], Option<&ObjectKey>),
) -> Listing {
    let filter = Filter::new(&Selection::default());
    let walk = Arc::new(LocalWalk::new(root, symlinks, &filter, own));
    super::chosen::each(chosen, READ_AHEAD, move |chosen| {
        let walk = Arc::clone(&walk);
        async move { joined(spawn_blocking(move || walk.chosen(chosen.key))).await }
    })
}

/// Returns the key of a path below the directory `root`, or `None` for a path outside of it. The
/// path need not exist.
fn key_below(root: &Path, path: &Path) -> Option<String> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let path = parent.canonicalize().ok()?.join(path.file_name()?);
    let below = path.strip_prefix(root.canonicalize().ok()?).ok()?;
    below
        .to_str()
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
}

/// Returns the path of the file to which an entry of [`files`] refers.
#[must_use]
pub fn path_of(root: &LocalPath, entry: &Entry) -> PathBuf {
    if root.0.is_dir() {
        root.0.join(entry.key.as_str())
    } else {
        root.0.clone()
    }
}

#[derive(Debug)]
struct LocalWalk {
    /// The directory or file to list.
    root: PathBuf,
    /// Decides what happens to symbolic links.
    symlinks: Symlinks,
    /// The selection, which decides whether to read a directory.
    filter: Filter,
    /// The keys of the report and journal of this run, which are not listed.
    own: Vec<String>,
}

/// A directory that waits to be read: its path, its key with a trailing slash, and the real paths
/// of the followed links above it.
#[derive(Debug)]
struct OpenDirectory {
    path: PathBuf,
    key: String,
    above: Arc<Vec<PathBuf>>,
}

#[derive(Debug)]
enum Unread {
    Found(ListingItem),
    OpenDirectory(OpenDirectory),
    Reading(JoinHandle<Vec<Unread>>),
}

/// The remaining entries of one directory.
#[derive(Debug)]
struct Level {
    pending: VecDeque<Unread>,
}

impl Level {
    fn of(items: Vec<Unread>) -> Self {
        Self {
            pending: items.into(),
        }
    }

    /// Starts reading the next few directories.
    fn read_ahead(&mut self, walk: &Arc<LocalWalk>) {
        let directories = self
            .pending
            .iter_mut()
            .filter(|item| !matches!(item, Unread::Found(_)));
        for item in directories.take(READ_AHEAD) {
            if let Unread::OpenDirectory(OpenDirectory { path, key, above }) = item {
                let dir = OpenDirectory {
                    path: std::mem::take(path),
                    key: std::mem::take(key),
                    above: Arc::clone(above),
                };
                let walk = Arc::clone(walk);
                *item = Unread::Reading(spawn_blocking(move || walk.read_now(&dir)));
            }
        }
    }
}

impl LocalWalk {
    fn new(root: &LocalPath, symlinks: Symlinks, filter: &Filter, own: &[PathBuf]) -> Self {
        let own = own.iter().filter_map(|path| key_below(&root.0, path));
        Self {
            root: root.0.clone(),
            symlinks,
            filter: filter.clone(),
            own: own.collect(),
        }
    }

    fn root_directory(&self) -> OpenDirectory {
        OpenDirectory {
            path: self.root.clone(),
            key: String::new(),
            above: Arc::default(),
        }
    }

    /// Returns the key of a root that is a file.
    fn root_name(&self) -> &str {
        let name = self.root.file_name().and_then(|name| name.to_str());
        name.unwrap_or("file")
    }

    async fn start(self: Arc<Self>) -> Vec<Unread> {
        joined(spawn_blocking(move || match fs::metadata(&self.root) {
            Ok(metadata) if metadata.is_dir() => self.read_now(&self.root_directory()),
            // A pipe has no length, so s3haul would mistake it for an empty file.
            Ok(metadata) if !metadata.is_file() => {
                let why = "is no regular file; pipe it in and name the source `-`";
                vec![Unread::Found(ListingItem::Failed(
                    self.root.display().to_string(),
                    local(&self.root, why),
                ))]
            }
            Ok(metadata) => vec![self.file(self.root_name(), &metadata)],
            Err(error) => {
                let failure = local(&self.root, &error.to_string());
                vec![Unread::Found(ListingItem::Failed(
                    self.root.display().to_string(),
                    failure,
                ))]
            }
        }))
        .await
    }

    async fn read(self: &Arc<Self>, dir: OpenDirectory) -> Vec<Unread> {
        let walk = Arc::clone(self);
        joined(spawn_blocking(move || walk.read_now(&dir))).await
    }

    /// Reads one directory and sorts it as S3 would.
    fn read_now(&self, dir: &OpenDirectory) -> Vec<Unread> {
        let entries = match fs::read_dir(&dir.path) {
            Ok(entries) => entries,
            Err(error) => return vec![unread(&dir.key, &dir.path, &error.to_string())],
        };
        let mut sorted = Vec::new();
        for entry in entries {
            match entry.and_then(|entry| Ok((entry.path(), entry.file_name(), entry.file_type()?)))
            {
                Ok((path, name, kind)) => {
                    if let Some(name) = name.to_str() {
                        sorted.push(self.look(dir, &path, name, kind));
                        continue;
                    }
                    let key = format!("{}{}", dir.key, name.to_string_lossy());
                    let why =
                        "its name is not UTF-8, and keys of S3 must be; rename it or exclude it";
                    let item = unread(&key, &path, why);
                    sorted.push((key, item));
                }
                Err(error) => {
                    sorted.push((
                        dir.key.clone(),
                        unread(&dir.key, &dir.path, &error.to_string()),
                    ));
                }
            }
        }
        sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
        sorted.into_iter().map(|(_, item)| item).collect()
    }

    /// Returns the item of a key below the root, or of a directory above it that is not read.
    /// Returns `None` if there is no such file.
    fn find(&self, key: &str) -> Option<ListingItem> {
        let mut directory = self.root_directory();
        let mut names = key.split('/').peekable();
        while let Some(name) = names.next() {
            let path = directory.path.join(name);
            let is_name = !matches!(name, "" | "." | "..");
            let metadata = fs::symlink_metadata(&path).ok().filter(|_| is_name)?;
            let is_last = names.peek().is_none();
            match self.look(&directory, &path, name, metadata.file_type()).1 {
                Unread::OpenDirectory(next) if !is_last => directory = next,
                Unread::Found(found) if is_last || !matches!(found, ListingItem::Entry(_)) => {
                    return Some(found);
                }
                _ => return None,
            }
        }
        None
    }

    /// Returns the file with this key, or the reason why it cannot be read.
    fn chosen(&self, key: String) -> ListingItem {
        let path = self.root.join(&key);
        let why = match self.find(&key) {
            Some(found @ ListingItem::Entry(_)) => return found,
            Some(ListingItem::Unread(_, _, failure)) => {
                return ListingItem::Unread(key, path.display().to_string(), failure);
            }
            Some(ListingItem::Ignored(_, why)) => why.to_owned(),
            _ => match fs::symlink_metadata(&path) {
                Ok(_) => "is no longer a regular file".to_owned(),
                Err(error) => error.to_string(),
            },
        };
        let failure = local(&path, &why);
        ListingItem::Unread(key, path.display().to_string(), failure)
    }

    /// Examines one name in a directory. Returns the item and its sort key.
    fn look(
        &self,
        dir: &OpenDirectory,
        path: &Path,
        name: &str,
        kind: fs::FileType,
    ) -> (String, Unread) {
        let key = format!("{}{name}", dir.key);
        let ignore = |why| Unread::Found(ListingItem::Ignored(key.clone(), why));
        if self.own.contains(&key) {
            let item = ignore("the report or journal of this run");
            return (key, item);
        }
        if kind.is_symlink() && self.symlinks != Symlinks::Follow {
            let item = match self.symlinks {
                Symlinks::Fail => unread(
                    &key,
                    path,
                    "is a symbolic link, and the job says `symlinks: fail`",
                ),
                Symlinks::Skip | Symlinks::Follow => ignore("symbolic link"),
            };
            return (key, item);
        }
        let metadata = match if kind.is_symlink() {
            fs::metadata(path)
        } else {
            fs::symlink_metadata(path)
        } {
            Ok(metadata) => metadata,
            // The file was deleted after s3haul read the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !kind.is_symlink() => {
                let item = ignore("vanished");
                return (key, item);
            }
            Err(error) => {
                let item = unread(&key, path, &error.to_string());
                return (key, item);
            }
        };
        if metadata.is_dir() {
            if name == JOURNALS {
                let item = ignore("journals of s3haul");
                return (key, item);
            }
            let dir_key = format!("{key}/");
            if self.filter.skips_directory(&dir_key) {
                let why = if self.filter.excludes_directory(&dir_key) {
                    "excluded directory"
                } else {
                    UNREACHED
                };
                return (dir_key, Unread::Found(ListingItem::Ignored(key, why)));
            }
            let mut above = Vec::clone(&dir.above);
            if kind.is_symlink() {
                let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
                let is_loop = dir
                    .path
                    .canonicalize()
                    .is_ok_and(|here| here.starts_with(&real))
                    || above.contains(&real);
                if is_loop {
                    let item = ignore("symbolic link to a directory above it");
                    return (key, item);
                }
                above.push(real);
            }
            let item = Unread::OpenDirectory(OpenDirectory {
                path: path.to_path_buf(),
                key: dir_key.clone(),
                above: Arc::new(above),
            });
            return (dir_key, item);
        }
        if !metadata.is_file() {
            let item = ignore("not a regular file");
            return (key, item);
        }
        let item = self.file(&key, &metadata);
        (key, item)
    }

    fn file(&self, key: &str, metadata: &Metadata) -> Unread {
        let found = match ObjectKey::new(key) {
            Ok(checked) => ListingItem::Entry(Entry {
                key: checked,
                relative_at: 0,
                size: metadata.len(),
                etag: None,
                version: None,
                modified: modified(metadata),
                storage_class: None,
                archive: crate::s3::ArchiveState::Readable,
            }),
            Err(error) => return unread(key, &self.root.join(key), &error.to_string()),
        };
        Unread::Found(found)
    }
}

/// Returns the time at which the file's bytes were last modified.
#[must_use]
pub fn modified(metadata: &Metadata) -> Option<Timestamp> {
    metadata
        .modified()
        .ok()
        .and_then(|time| Timestamp::try_from(time).ok())
}

/// Returns the size and the modification time of a file.
///
/// # Errors
/// Fails if the file no longer exists, is not a regular file, or cannot be examined.
pub(crate) async fn look(path: &Path) -> Result<(u64, Option<Timestamp>), Failure> {
    match tokio::fs::metadata(path).await {
        Ok(metadata) if metadata.is_file() => Ok((metadata.len(), modified(&metadata))),
        Ok(_) => Err(local(path, "is no longer a regular file")),
        Err(error) => Err(local(path, &error.to_string())),
    }
}

fn local(path: &Path, message: &str) -> Failure {
    Failure::new(
        FailureKind::Local,
        Operation::ReadFile,
        path.display().to_string(),
        message,
    )
}

fn unread(key: &str, path: &Path, why: &str) -> Unread {
    Unread::Found(ListingItem::Unread(
        key.to_owned(),
        path.display().to_string(),
        local(path, why),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::job::Selection;

    async fn keys(root: &Path, symlinks: Symlinks) -> (Vec<String>, Vec<String>) {
        let filter = Filter::new(&Selection::default());
        let mut listing = files(&LocalPath(root.to_path_buf()), symlinks, &filter, &[]);
        let (mut keys, mut others) = (Vec::new(), Vec::new());
        while let Some(found) = listing.next().await {
            match found {
                ListingItem::Entry(entry) => keys.push(entry.key.to_string()),
                ListingItem::Ignored(key, why) => others.push(format!("{key}: {why}")),
                ListingItem::Unread(_, place, _)
                | ListingItem::Refused(place, _)
                | ListingItem::Failed(place, _) => {
                    others.push(format!("{place}: failed"));
                }
            }
        }
        (keys, others)
    }

    fn tree(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        dir
    }

    #[tokio::test]
    async fn files_come_in_the_order_of_their_keys() {
        let names = [
            "a.txt",
            "a/b",
            "a/c/d",
            "a-b",
            "a0",
            "B",
            "ü/x",
            "z/1/2/3/4",
        ];
        let dir = tree(&names);
        let mut sorted: Vec<String> = names.iter().map(ToString::to_string).collect();
        sorted.sort();
        assert_eq!(keys(dir.path(), Symlinks::Skip).await, (sorted, vec![]));
    }

    #[tokio::test]
    async fn many_directories_are_read_ahead_without_losing_order() {
        let names: Vec<String> = (0..300)
            .map(|i| format!("d{:03}/e{}/f", i / 3, i % 3))
            .collect();
        let dir = tree(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(keys(dir.path(), Symlinks::Skip).await.0, names);
    }

    #[tokio::test]
    async fn links_are_treated_as_the_job_says_and_loops_end() {
        let dir = tree(&["real/file"]);
        std::os::unix::fs::symlink(dir.path().join("real"), dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("real/loop")).unwrap();
        let (found, others) = keys(dir.path(), Symlinks::Skip).await;
        assert_eq!(
            (found.as_slice(), others.len()),
            (&["real/file".to_owned()][..], 2)
        );
        let (found, _) = keys(dir.path(), Symlinks::Follow).await;
        assert_eq!(found, ["link/file", "real/file"]);
        let (_, others) = keys(dir.path(), Symlinks::Fail).await;
        assert!(
            others.iter().any(|other| other.ends_with("link: failed")),
            "{others:?}"
        );
    }

    #[tokio::test]
    async fn a_file_is_found_by_its_key_exactly_if_it_is_listed() {
        let dir = tree(&["real/file", "own.jsonl", ".s3haul/journal", "k"]);
        let root = LocalPath(dir.path().to_path_buf());
        for (target, link) in [("real", "link"), ("", "real/loop"), ("k", "alias")] {
            std::os::unix::fs::symlink(root.0.join(target), root.0.join(link)).unwrap();
        }
        let own = [root.0.join("own.jsonl")];
        for (symlinks, expected) in [
            (Symlinks::Skip, &["k", "real/file"][..]),
            (Symlinks::Follow, &["alias", "k", "link/file", "real/file"]),
        ] {
            let filter = Filter::new(&Selection::default());
            let mut listing = files(&root, symlinks, &filter, &own);
            let mut listed = Vec::new();
            while let Some(item) = listing.next().await {
                if let ListingItem::Entry(entry) = item {
                    listed.push(entry.key.to_string());
                }
            }
            assert_eq!(listed, expected);
            let others = [
                "own.jsonl",
                ".s3haul/journal",
                "real",
                "gone",
                "k/",
                "k/file",
                "real//file",
                "real/../k",
                "real/loop/k",
                "link/loop/k",
            ];
            for key in ["alias", "k", "link/file", "real/file"]
                .iter()
                .chain(&others)
            {
                let is_listed = expected.contains(key);
                let found = has_file(&root, symlinks, &own, key);
                assert_eq!(found, is_listed, "{symlinks:?} {key}");
            }
        }
        let file = LocalPath(root.0.join("k"));
        assert!(has_file(&file, Symlinks::Skip, &[], "k"));
        assert!(!has_file(&file, Symlinks::Skip, &[], "other"));
    }

    #[tokio::test]
    async fn a_single_file_goes_by_its_name_and_a_missing_one_fails() {
        let dir = tree(&["x/y.txt"]);
        assert_eq!(
            keys(&dir.path().join("x/y.txt"), Symlinks::Skip).await.0,
            ["y.txt"]
        );
        let (found, others) = keys(&dir.path().join("gone"), Symlinks::Skip).await;
        assert!(found.is_empty() && others[0].ends_with("gone: failed"));
    }
}
