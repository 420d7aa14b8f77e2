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
pub mod versions;

use std::vec;

use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::location::ObjectKey;
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
    /// Something that could not be looked at; a bucket's listing ends with it, a directory walk goes on.
    Failed(String, Failure),
}

/// A stream of what a lister finds.
#[derive(Debug)]
pub struct Listing {
    pages: mpsc::Receiver<Vec<Found>>,
    page: vec::IntoIter<Found>,
}

/// The lister's end of a [`Listing`].
type Pages = mpsc::Sender<Vec<Found>>;

impl Listing {
    fn channel() -> (Pages, Self) {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        (sender, Self { pages, page: Vec::new().into_iter() })
    }

    /// A listing of what is known already.
    #[must_use]
    pub fn of(found: Vec<Found>) -> Self {
        let (_, pages) = mpsc::channel(1);
        Self { pages, page: found.into_iter() }
    }

    /// The next thing found, or `None` at the end.
    pub async fn next(&mut self) -> Option<Found> {
        loop {
            if let Some(found) = self.page.next() {
                return Some(found);
            }
            self.page = self.pages.recv().await?.into_iter();
        }
    }
}
