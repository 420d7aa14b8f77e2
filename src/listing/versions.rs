//! Lists the versions and delete markers of keys, from `ListObjectVersions`.
//!
//! [`as_of`] selects one version of each key and needs the memory of one page. It compares with
//! S3's Last-Modified. For a multipart object, this is the time at which its upload was *created*,
//! so an upload that was in progress at the chosen time counts as complete. S3 stores no other time
//! of a version.
//!
//! [`histories`] returns each key with all of its versions, oldest first. S3 lists the newest
//! version first, so all versions of a key must be read before the first version can be copied. A
//! [`Version`] does not store the key, and shares the name of its storage class. It takes 190 bytes
//! (measured, with IDs and `ETag`s of 32 characters), so a key with 100,000 versions takes 19 MB.
//! Pages may end between two versions of a key.

mod chosen;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::reach::Reach;
use super::{Entry, Listing, ListingItem, PageReceiver};
use crate::bucket::Bucket;
use crate::location::ObjectKey;
use crate::s3::paging::{Order, PageVerdict, Paging};
use crate::s3::{ArchiveState, Failure, FailureKind, ListedVersion, Operation, VersionMarker};

pub use chosen::chosen_as_of;

/// The keys of a bucket whose versions are listed.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The keys to list.
    reach: Reach,
    /// The byte offset of the part of the keys after the source's prefix.
    relative_at: usize,
    /// The key, for the scope of a single key.
    exact: Option<ObjectKey>,
}

impl Scope {
    /// Creates the scope of all keys of a reach.
    #[must_use]
    pub fn of(reach: Reach) -> Self {
        Self {
            relative_at: reach.relative_at(),
            reach,
            exact: None,
        }
    }

    /// Creates the scope of one key. Its relative key is its file name.
    #[must_use]
    pub fn one(key: &ObjectKey) -> Self {
        let relative_at = key.as_str().len() - key.file_name().len();
        Self {
            reach: Reach::below(key),
            relative_at,
            exact: Some(key.clone()),
        }
    }

    /// Returns the first prefix, for messages.
    fn prefix(&self) -> &str {
        self.reach.prefixes().first().map_or("", ObjectKey::as_str)
    }

    fn covers(&self, key: &str) -> bool {
        self.exact
            .as_ref()
            .is_none_or(|exact| exact.as_str() == key)
    }
}

/// One version or delete marker of a key, in a compact form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The version ID; `null` for a version that was written while versioning was off.
    pub id: Box<str>,
    /// The `ETag` without quotes; absent for delete markers.
    pub etag: Option<Box<str>>,
    /// The storage class; absent means STANDARD.
    pub storage_class: Option<Arc<str>>,
    /// The size in bytes; 0 for delete markers.
    pub size: u64,
    /// The time at which the version was written or, for a multipart upload, created.
    pub modified: Option<Timestamp>,
    /// Set for a delete marker.
    pub is_marker: bool,
    /// The archive state in the listing, which shows whether the bytes can be read.
    pub archive: ArchiveState,
}

/// A key and all its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The key.
    pub key: ObjectKey,
    /// The byte offset of the part of the key after the source's prefix.
    pub relative_at: usize,
    /// The versions, oldest first.
    pub versions: Vec<Version>,
}

impl History {
    /// Returns the relative key.
    #[must_use]
    pub fn relative(&self) -> &str {
        self.key
            .as_str()
            .get(self.relative_at..)
            .unwrap_or_default()
    }
}

/// An item of a listing of histories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryItem {
    /// A key with its versions.
    History(History),
    /// An entry that is not an object, and the reason for ignoring it.
    Ignored(String, &'static str),
    /// The failure of the listing, which then ends, or of one of several keys.
    Failed(String, Failure),
}

/// A listing of histories, in the server's order of keys.
pub type Histories = PageReceiver<HistoryItem>;

/// Requests one page after another.
#[derive(Debug)]
struct Pages<'a> {
    /// The bucket to list.
    bucket: &'a Bucket,
    /// The keys to list.
    scope: &'a Scope,
    /// The index of the prefix that is being listed.
    at: usize,
    /// The position after the last page.
    after: Option<VersionMarker>,
    /// The checks of the pages.
    paging: Paging,
}

impl<'a> Pages<'a> {
    fn of(bucket: &'a Bucket, scope: &'a Scope) -> Self {
        let order = Order::of_versions(bucket.capabilities().ordered_lists);
        let paging = Paging::new(Operation::ListObjectVersions, bucket.name(), "", order);
        Self {
            bucket,
            scope,
            at: 0,
            after: None,
            paging,
        }
    }

    /// Returns the next page of the scope, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<ListedVersion>>, Failure> {
        let Self { bucket, scope, .. } = self;
        let Some(prefix) = scope.reach.prefixes().get(self.at) else {
            return Ok(None);
        };
        let mut page = bucket
            .list_versions(prefix.as_str(), self.after.as_ref())
            .await?;
        self.paging.enter(prefix.as_str());
        if self.paging.check(&mut page)? == PageVerdict::Again {
            return Ok(Some(Vec::new()));
        }
        // In an ordered list, a key comes before all keys that begin with it.
        let in_order = bucket.capabilities().ordered_lists;
        let passed = in_order && page.items.iter().any(|item| !scope.covers(&item.key));
        self.at += usize::from(passed || page.next.is_none());
        let skip = page
            .next
            .as_ref()
            .filter(|_| in_order)
            .and_then(|next| scope.reach.skip(&next.key));
        self.after = match skip {
            Some(key) => Some(VersionMarker { key, id: None }),
            None => page.next,
        };
        Ok(Some(
            page.items
                .into_iter()
                .filter(|item| scope.covers(&item.key))
                .collect(),
        ))
    }
}

fn missing(bucket: &Bucket, scope: &Scope, message: String) -> Failure {
    let place = format!("{}/{}", bucket.name(), scope.prefix());
    Failure::new(
        FailureKind::NotFound,
        Operation::ListObjectVersions,
        place,
        message,
    )
}

fn place(bucket: &Bucket, scope: &Scope) -> String {
    format!("s3://{}/{}", bucket.name(), scope.prefix())
}

/// Returns the objects that existed at `time`: for each key, the newest version up to that time,
/// unless it is a delete marker.
#[must_use]
pub fn as_of(bucket: Bucket, scope: Scope, time: Timestamp) -> Listing {
    Listing::by(|pages| async move {
        let mut past = Past::new(&bucket, time, scope.relative_at);
        let mut source_pages = Pages::of(&bucket, &scope);
        let failure = loop {
            match source_pages.next().await {
                // The reader drops its end when the run stops.
                Ok(Some(items)) => {
                    if pages.send(past.page(items)).await.is_err() {
                        return;
                    }
                }
                Ok(None) if scope.exact.is_some() && past.objects == 0 && !past.is_unknown => {
                    break missing(
                        &bucket,
                        &scope,
                        format!("there was no such object at {time}"),
                    );
                }
                Ok(None) => {
                    let refused = source_pages.paging.take_refused().into_iter();
                    let refused = refused
                        .map(|failure| ListingItem::Refused(place(&bucket, &scope), failure));
                    let _ = pages.send(refused.collect()).await;
                    return;
                }
                Err(failure) => break failure,
            }
        };
        let _ = pages
            .send(vec![ListingItem::Failed(place(&bucket, &scope), failure)])
            .await;
    })
}

/// Selects the versions of a point in time, across pages.
#[derive(Debug)]
struct Past {
    /// The bucket's name, for messages.
    bucket: String,
    /// The point in time.
    time: Timestamp,
    /// The byte offset of the part of the keys after the source's prefix.
    relative_at: usize,
    /// The key whose version at that time has been found.
    settled: Option<String>,
    /// The number of objects found so far.
    objects: u64,
    /// True once an object with an unknown state at that time was reported.
    is_unknown: bool,
}

impl Past {
    fn new(bucket: &Bucket, time: Timestamp, relative_at: usize) -> Self {
        Self {
            bucket: bucket.name().to_string(),
            time,
            relative_at,
            settled: None,
            objects: 0,
            is_unknown: false,
        }
    }

    fn page(&mut self, items: Vec<ListedVersion>) -> Vec<ListingItem> {
        items
            .into_iter()
            .filter_map(|item| self.item(item))
            .collect()
    }

    fn item(&mut self, item: ListedVersion) -> Option<ListingItem> {
        let is_future = item.modified.is_some_and(|modified| modified > self.time);
        if is_future || self.settled.as_deref() == Some(&item.key) {
            return None;
        }
        self.settled = Some(item.key.clone());
        if item.modified.is_none() {
            self.is_unknown = true;
            let message = "one of its versions is listed without a Last-Modified time, so its state at the requested \
                           time is unknown";
            let place = format!("s3://{}/{}", self.bucket, item.key);
            let failure = Failure::new(
                FailureKind::ServerFault,
                Operation::ListObjectVersions,
                &*place,
                message,
            );
            return Some(ListingItem::Refused(place, failure));
        }
        if item.is_marker {
            return None;
        }
        self.objects += 1;
        Some(match ObjectKey::new(&item.key) {
            Ok(key) => ListingItem::Entry(Entry {
                key,
                relative_at: self.relative_at,
                size: item.size,
                etag: item.etag,
                version: Some(item.id),
                modified: item.modified,
                storage_class: item.storage_class,
                archive: item.archive,
            }),
            Err(_) => ListingItem::Ignored(item.key, super::KEY_TOO_LONG),
        })
    }
}

/// Returns all keys with all their versions.
#[must_use]
pub fn histories(bucket: Bucket, scope: Scope) -> Histories {
    Histories::by(|pages| async move {
        let mut reader = VersionReader {
            relative_at: scope.relative_at,
            ..VersionReader::default()
        };
        let mut source_pages = Pages::of(&bucket, &scope);
        let last = loop {
            match source_pages.next().await {
                Ok(Some(items)) => {
                    let complete = reader.page(items);
                    if !complete.is_empty() && pages.send(complete).await.is_err() {
                        return;
                    }
                }
                Ok(None) if scope.exact.is_some() && reader.keys == 0 => {
                    let failure = missing(&bucket, &scope, "there is no version of it".to_owned());
                    break vec![HistoryItem::Failed(place(&bucket, &scope), failure)];
                }
                Ok(None) => {
                    let refused = source_pages.paging.take_refused().into_iter();
                    let refused =
                        refused.map(|failure| HistoryItem::Failed(place(&bucket, &scope), failure));
                    break reader.end().into_iter().chain(refused).collect();
                }
                // More versions of the last key may follow on the next page.
                Err(failure) => break vec![HistoryItem::Failed(place(&bucket, &scope), failure)],
            }
        };
        let _ = pages.send(last).await;
    })
}

/// Returns these keys with all their versions, in order. Each key is listed separately.
#[must_use]
pub fn histories_of(bucket: Bucket, prefix: &ObjectKey, mut keys: Vec<String>) -> Histories {
    let relative_at = prefix.as_str().len();
    keys.sort();
    keys.dedup();
    Histories::by(|pages| async move {
        for key in keys {
            let place = format!("s3://{}/{key}", bucket.name());
            let item = match ObjectKey::new(&key) {
                Err(error) => {
                    let (kind, operation) = (FailureKind::Invalid, Operation::ListObjectVersions);
                    let failure = Failure::new(kind, operation, &*place, error.to_string());
                    HistoryItem::Failed(place, failure)
                }
                Ok(key) => match of_key(&bucket, &key).await {
                    Ok(versions) if versions.is_empty() => {
                        let scope = Scope::one(&key);
                        HistoryItem::Failed(
                            place,
                            missing(&bucket, &scope, "there is no version of it".to_owned()),
                        )
                    }
                    Ok(versions) => HistoryItem::History(History {
                        key,
                        relative_at,
                        versions,
                    }),
                    Err(failure) => HistoryItem::Failed(place, failure),
                },
            };
            if pages.send(vec![item]).await.is_err() {
                return;
            }
        }
    })
}

/// Returns all versions of one key, oldest first, or no versions if the key does not exist.
///
/// # Errors
/// The failure of the listing.
pub async fn of_key(bucket: &Bucket, key: &ObjectKey) -> Result<Vec<Version>, Failure> {
    let scope = Scope::one(key);
    let mut reader = VersionReader {
        relative_at: scope.relative_at,
        ..VersionReader::default()
    };
    let mut source_pages = Pages::of(bucket, &scope);
    while let Some(items) = source_pages.next().await? {
        reader.page(items);
    }
    if let Some(failure) = source_pages.paging.take_refused().into_iter().next() {
        return Err(failure);
    }
    Ok(match reader.end() {
        Some(HistoryItem::History(history)) => history.versions,
        _ => Vec::new(),
    })
}

/// Collects the versions of a key, across pages.
#[derive(Debug, Default)]
struct VersionReader {
    /// The byte offset of the part of the keys after the source's prefix.
    relative_at: usize,
    /// The current key and its versions so far, newest first.
    open: Option<(String, Vec<Version>)>,
    /// The storage classes seen so far; a bucket has only a few.
    classes: BTreeSet<Arc<str>>,
    /// The number of keys found so far.
    keys: u64,
}

impl VersionReader {
    /// Adds a page. Returns the keys whose versions are complete.
    fn page(&mut self, items: Vec<ListedVersion>) -> Vec<HistoryItem> {
        let mut complete = Vec::new();
        for item in items {
            if self.open.as_ref().is_none_or(|(key, _)| *key != item.key) {
                complete.extend(self.end());
                self.keys += 1;
            }
            let version = Version {
                id: item.id.into(),
                etag: item.etag.map(Into::into),
                storage_class: item.storage_class.map(|class| self.class(&class)),
                size: item.size,
                modified: item.modified,
                is_marker: item.is_marker,
                archive: item.archive,
            };
            self.open
                .get_or_insert_with(|| (item.key, Vec::new()))
                .1
                .push(version);
        }
        complete
    }

    fn class(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.classes.get(name) {
            return Arc::clone(known);
        }
        let class: Arc<str> = name.into();
        self.classes.insert(Arc::clone(&class));
        class
    }

    /// Completes the current key.
    fn end(&mut self) -> Option<HistoryItem> {
        let (key, mut versions) = self.open.take()?;
        versions.reverse();
        versions.shrink_to_fit();
        Some(match ObjectKey::new(&key) {
            Ok(key) => HistoryItem::History(History {
                key,
                relative_at: self.relative_at,
                versions,
            }),
            Err(_) => HistoryItem::Ignored(key, super::KEY_TOO_LONG),
        })
    }
}

/// Finds the histories of keys by reading their listing alongside a listing of the other side. Both
/// listings must be in the byte order of their keys.
#[derive(Debug)]
pub struct HistoryWalk {
    histories: Histories,
    current: Option<History>,
    ended: bool,
}

impl HistoryWalk {
    /// Creates a search in these histories.
    #[must_use]
    pub fn along(histories: Histories) -> Self {
        Self {
            histories,
            current: None,
            ended: false,
        }
    }

    /// Returns the versions of exactly this key, once, or no versions if the key does not exist.
    /// Calls must request keys in order.
    ///
    /// # Errors
    /// The failure of the listing. Nothing is known about this key and later keys.
    pub async fn find(&mut self, key: &str) -> Result<Vec<Version>, Failure> {
        while !self.ended
            && self
                .current
                .as_ref()
                .is_none_or(|current| current.key.as_str() < key)
        {
            match self.histories.next().await {
                Some(HistoryItem::History(history)) => self.current = Some(history),
                Some(HistoryItem::Ignored(..)) => {}
                Some(HistoryItem::Failed(_, failure)) => return Err(failure),
                None => (self.current, self.ended) = (None, true),
            }
        }
        let found = self.current.take_if(|current| current.key.as_str() == key);
        Ok(found.map(|history| history.versions).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed(key: &str, number: usize) -> ListedVersion {
        ListedVersion {
            key: key.to_owned(),
            id: format!("{key}{number}"),
            is_marker: number.is_multiple_of(3),
            is_latest: false,
            size: number as u64,
            etag: None,
            modified: None,
            storage_class: Some(
                if number.is_multiple_of(2) {
                    "STANDARD"
                } else {
                    "GLACIER"
                }
                .to_owned(),
            ),
            archive: ArchiveState::Readable,
        }
    }

    #[test]
    fn a_version_takes_little_memory() {
        assert!(size_of::<Version>() <= 88, "{}", size_of::<Version>());
        let mut reader = VersionReader::default();
        reader.page((0..1000).map(|number| listed("k", number)).collect());
        assert_eq!(reader.classes.len(), 2, "names of classes are shared");
    }

    proptest! {
        #[test]
        fn pages_may_end_anywhere(
            lengths in proptest::collection::vec(1..6_usize, 0..6),
            ends in proptest::collection::vec(0..24_usize, 0..6),
        ) {
            let keys: Vec<_> = lengths.iter().enumerate().map(|(i, length)| (format!("k{i}"), *length)).collect();
            let newest_first: Vec<_> = keys
                .iter()
                .flat_map(|(key, length)| (0..*length).rev().map(move |number| listed(key, number)))
                .collect();
            let mut reader = VersionReader::default();
            let mut told = Vec::new();
            let mut rest = newest_first;
            for end in ends {
                let later = rest.split_off(end.min(rest.len()));
                told.extend(reader.page(rest));
                rest = later;
            }
            told.extend(reader.page(rest));
            told.extend(reader.end());
            let seen: Vec<_> = told
                .iter()
                .map(|told| match told {
                    HistoryItem::History(history) => (
                        history.key.to_string(),
                        history.versions.iter().map(|version| version.id.to_string()).collect::<Vec<_>>(),
                    ),
                    other => panic!("{other:?}"),
                })
                .collect();
            let expected: Vec<_> = keys
                .iter()
                .map(|(key, length)| {
                    (key.clone(), (0..*length).map(|number| format!("{key}{number}")).collect::<Vec<_>>())
                })
                .collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
