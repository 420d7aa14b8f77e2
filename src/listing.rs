//! What is there: entries of a bucket or directory, in key order, and which of them take part.
//!
//! A [`Listing`] is fed page by page from a task of its own ([`bucket`], [`chosen`], [`local`]), one page ahead of its reader and no
//! further, so that memory does not grow with the number of objects, nor much with the number of listings. Entries come in the order of their keys' bytes
//! wherever the server keeps that order, which is what lets two listings be compared by walking them side by side
//! ([`join`]). A bucket's keys can be listed in several ranges at once ([`bisect`]).

pub mod bisect;
pub mod bucket;
pub mod chosen;
pub mod filter;
pub mod join;
pub mod local;
pub mod reach;
pub mod versions;

use std::vec;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::location::ObjectKey;
use crate::pace::gate::joined;
use crate::s3::{ArchiveState, Failure};

/// Why an object is left out whose key we can't name.
const KEY_TOO_LONG: &str = "its key is longer than S3 allows";

/// Pages that wait between a lister and its reader, besides the one that the reader is at.
const PAGES_AHEAD: usize = 1;

/// One object or file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The object's key, or the file's path below the source directory with `/` between names.
    pub key: ObjectKey,
    /// Where the part of the key begins that is relative to the source's prefix, in bytes.
    pub relative_at: usize,
    /// Bytes.
    pub size: u64,
    /// Absent for files.
    pub etag: Option<String>,
    /// The version, when one was named.
    pub version: Option<String>,
    /// Last-Modified, or the file's modification time.
    pub modified: Option<Timestamp>,
    /// Absent means STANDARD.
    pub storage_class: Option<String>,
    /// Whether its bytes can be read, as far as the listing tells.
    pub archive: ArchiveState,
}

impl Entry {
    /// The key without the source's prefix: what globs match and what is appended to the destination.
    #[must_use]
    pub fn relative(&self) -> &str {
        self.key.as_str().get(self.relative_at..).unwrap_or_default()
    }
}

/// What a lister finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Something that may be copied.
    Entry(Entry),
    /// Something that is no object, and why it is left out.
    Ignored(String, &'static str),
    /// Something that could not be looked at, by its key and its place; the listing goes on.
    Unread(String, String, Failure),
    /// Entries that the server should not have listed, and the place of the listing; they are left out and the listing
    /// goes on.
    Refused(String, Failure),
    /// The listing ends here, too early.
    Failed(String, Failure),
}

/// What a lister tells, page by page. A lister that panics takes its reader along: what it had not told yet must not be
/// taken for the end.
#[derive(Debug)]
pub struct Listed<T> {
    pages: mpsc::Receiver<Vec<T>>,
    page: vec::IntoIter<T>,
    lister: Option<JoinHandle<()>>,
}

/// The entries of a bucket or directory.
pub type Listing = Listed<Found>;

/// The lister's end of a [`Listed`].
type Pages<T> = mpsc::Sender<Vec<T>>;

impl<T> Listed<T> {
    /// What a lister tells that runs in a task of its own.
    fn by<L: Future<Output = ()> + Send + 'static>(lister: impl FnOnce(Pages<T>) -> L) -> Self {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let lister = Some(tokio::spawn(lister(sender)));
        Self { pages, page: Vec::new().into_iter(), lister }
    }

    /// What is known already.
    #[must_use]
    pub fn of(known: Vec<T>) -> Self {
        let (_, pages) = mpsc::channel(1);
        Self { pages, page: known.into_iter(), lister: None }
    }

    /// The next thing told, or `None` at the end.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            if let Some(told) = self.page.next() {
                return Some(told);
            }
            match self.pages.recv().await {
                Some(page) => self.page = page.into_iter(),
                None => break,
            }
        }
        if let Some(lister) = &mut self.lister {
            joined(lister).await;
            self.lister = None;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lister_that_panics_is_not_taken_for_one_that_ends() {
        let lister = |panics: bool| {
            Listed::by(move |pages| async move {
                pages.send(vec![1, 2]).await.unwrap();
                assert!(!panics, "a bug");
            })
        };
        let read = |mut listed: Listed<i32>| {
            tokio::spawn(async move { (listed.next().await, listed.next().await, listed.next().await) })
        };
        assert_eq!(read(lister(false)).await.unwrap(), (Some(1), Some(2), None));
        assert!(read(lister(true)).await.unwrap_err().is_panic());
    }
}
