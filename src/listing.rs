//! Lists the entries of a bucket or directory in key order, and decides which of them are selected.
//!
//! A separate task fills a [`Listing`] page by page ([`bucket`], [`chosen`], [`local`]). It reads
//! one page ahead, so memory does not grow with the number of objects. Entries arrive in the byte
//! order of their keys if the server keeps that order. So two listings can be compared in one pass
//! over both ([`join`]). The keys of a bucket can be listed in several ranges at once ([`bisect`]).

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
use crate::s3::{ArchiveState, Failure, Head, is_immutable_version};

/// The reason for ignoring an object whose key is too long to be written.
const KEY_TOO_LONG: &str = "its key is longer than S3 allows";

/// The number of pages that wait between a lister and its reader, not counting the current page.
const PAGES_AHEAD: usize = 1;

/// A listed object or file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The object's key, or the file's path below the source directory with `/` as separator.
    pub key: ObjectKey,
    /// The byte offset of the part of the key after the source's prefix.
    pub relative_at: usize,
    /// The size in bytes.
    pub size: u64,
    /// The `ETag`, without quotes; absent for files.
    pub etag: Option<String>,
    /// The version ID, if the job names a version.
    pub version: Option<String>,
    /// The time of the last write, or the file's modification time.
    pub modified: Option<Timestamp>,
    /// The storage class; absent means STANDARD.
    pub storage_class: Option<String>,
    /// The archive state in the listing, which shows whether the bytes can be read.
    pub archive: ArchiveState,
}

impl Entry {
    /// Returns the key without the source's prefix. Globs match this part, and the key map maps it
    /// to the destination.
    #[must_use]
    pub fn relative(&self) -> &str {
        self.key
            .as_str()
            .get(self.relative_at..)
            .unwrap_or_default()
    }

    /// Replaces the listed properties of the object with those that HEAD shows.
    pub(crate) fn update_from_head(&mut self, head: Head) {
        (self.size, self.modified, self.archive) = (head.size, head.modified, head.archive);
        (self.etag, self.storage_class) = (Some(head.etag), head.storage_class);
    }

    /// Returns true if the entry names a version that is never replaced.
    pub(crate) fn is_immutable(&self) -> bool {
        self.version.as_deref().is_some_and(is_immutable_version)
    }

    /// Returns true if the object has changed since it was listed. `now` is its current entry.
    pub(crate) fn differs_from(&self, now: &Self) -> bool {
        let times = self.modified.zip(now.modified);
        let is_rewritten = if let (Some(then), Some(now)) = (&self.etag, &now.etag) {
            then != now
        } else {
            times.is_some_and(|(then, now)| then.as_second() != now.as_second())
        };
        is_rewritten || self.size != now.size
    }

    /// Describes a contradiction between this entry and HEAD of the same object. `etags_tell` is
    /// true if the server computes `ETag`s from the bytes, so that the `ETag` of a version never
    /// changes.
    #[must_use]
    pub fn contradicted_by(&self, head: &Head, etags_tell: bool) -> Option<String> {
        match &self.etag {
            Some(etag) if self.is_immutable() && etags_tell && *etag != head.etag => Some(format!(
                "HEAD shows the ETag {} of the version that the list shows with {etag}",
                head.etag
            )),
            etag => sizes_contradict(self.size, etag.as_deref(), head),
        }
    }
}

/// Describes a contradiction between the sizes in HEAD and in a list. There is none if the `ETag`s
/// differ, because the object was then replaced.
#[must_use]
pub fn sizes_contradict(size: u64, etag: Option<&str>, head: &Head) -> Option<String> {
    let is_other = etag == Some(&head.etag) && size != head.size;
    is_other.then(|| {
        format!(
            "HEAD shows {} bytes, the list shows {size} of the same ETag",
            head.size
        )
    })
}

/// An item of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListingItem {
    /// An entry that may be copied.
    Entry(Entry),
    /// Something that is not an object, and the reason for ignoring it.
    Ignored(String, &'static str),
    /// An entry that could not be read: its key, its location, and the failure. The listing
    /// continues.
    Unread(String, String, Failure),
    /// The location of the listing, and a failure about entries that the server should not have
    /// listed. The listing ignores them and continues.
    Refused(String, Failure),
    /// The end of a listing that failed: its location and the failure.
    Failed(String, Failure),
}

/// The receiving end of a lister, which sends pages of items. If the lister panics, the reader
/// panics too, because it must not mistake the missing items for the end of the listing.
#[derive(Debug)]
pub struct PageReceiver<T> {
    pages: mpsc::Receiver<Vec<T>>,
    page: vec::IntoIter<T>,
    lister: Option<JoinHandle<()>>,
}

/// The entries of a bucket or directory.
pub type Listing = PageReceiver<ListingItem>;

/// The sending end of a [`PageReceiver`].
type Pages<T> = mpsc::Sender<Vec<T>>;

impl<T> PageReceiver<T> {
    /// Runs a lister in a separate task, and returns the receiver of its pages.
    fn by<L: Future<Output = ()> + Send + 'static>(lister: impl FnOnce(Pages<T>) -> L) -> Self {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let lister = Some(tokio::spawn(lister(sender)));
        Self {
            pages,
            page: Vec::new().into_iter(),
            lister,
        }
    }

    /// Returns a listing of known items.
    #[must_use]
    pub fn of(known: Vec<T>) -> Self {
        let (_, pages) = mpsc::channel(1);
        Self {
            pages,
            page: known.into_iter(),
            lister: None,
        }
    }

    /// Returns the next item, or `None` at the end.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            if let Some(told) = self.page.next() {
                return Some(told);
            }
            // Free the current page before waiting for the next one.
            self.page = Vec::new().into_iter();
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
            PageReceiver::by(move |pages| async move {
                pages.send(vec![1, 2]).await.unwrap();
                assert!(!panics, "a bug");
            })
        };
        let read = |mut listed: PageReceiver<i32>| {
            tokio::spawn(async move {
                (
                    listed.next().await,
                    listed.next().await,
                    listed.next().await,
                )
            })
        };
        assert_eq!(read(lister(false)).await.unwrap(), (Some(1), Some(2), None));
        assert!(read(lister(true)).await.unwrap_err().is_panic());
    }

    #[test]
    fn head_and_lists_are_compared_where_they_are_about_the_same_bytes() {
        let entry = |etag: Option<&str>, version: Option<&str>| Entry {
            key: ObjectKey::new("k").unwrap(),
            relative_at: 0,
            size: 100,
            etag: etag.map(str::to_owned),
            version: version.map(str::to_owned),
            modified: None,
            storage_class: None,
            archive: ArchiveState::Readable,
        };
        let head = |size, etag: &str| Head {
            size,
            etag: etag.to_owned(),
            ..Head::default()
        };
        for (entry, head) in [
            (entry(Some("a"), None), head(100, "a")),
            (entry(Some("a"), None), head(50, "b")),
            (entry(None, None), head(50, "a")),
            (entry(Some("a"), Some("null")), head(50, "b")),
        ] {
            assert_eq!(
                entry.contradicted_by(&head, true),
                None,
                "{entry:?} {head:?}"
            );
        }
        for size in [0, 99, 101] {
            let why = entry(Some("a"), None)
                .contradicted_by(&head(size, "a"), false)
                .unwrap();
            assert_eq!(
                why,
                format!("HEAD shows {size} bytes, the list shows 100 of the same ETag")
            );
        }
        let other = entry(Some("a"), Some("1"));
        assert!(
            other
                .contradicted_by(&head(100, "b"), true)
                .unwrap()
                .contains("the ETag b of the version")
        );
        assert_eq!(other.contradicted_by(&head(100, "b"), false), None);
    }
}
