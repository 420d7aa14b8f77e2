//! Follows a list from page to page without trusting the server.
//!
//! Every list of this crate (objects, versions, uploads, parts, annotations) is read through a
//! [`Paging`]. It checks that each page brings entries that no earlier page had, that keys begin
//! with the requested prefix, and that they ascend if the list promises an order. A server that
//! violates this would otherwise end a run too early, keep it running forever, or make it copy
//! objects twice.
//!
//! Memory: for an ordered list, `Paging` remembers the last key. For an unordered list, it
//! remembers the first and the last entry of each page and all entries of the previous page. Lists
//! of uploads, parts, and annotations are short and are remembered entirely; a list that stays at
//! one key forever is a failure.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};

use super::ids::unusable_key;
use super::{
    AnnotationEntry, Failure, FailureKind, ListedObject, ListedVersion, OpenUpload, Operation,
    Page, PartDone,
};
use crate::location::BucketName;

/// The number of empty pages in a row that a list may have. Servers send some after keys were
/// deleted.
pub const MAX_EMPTY_PAGES: u32 = 100;
/// The number of times that a page is requested if the response is the previous page.
pub const PAGE_TRIES: u32 = 3;

/// A list of uploads, parts, or annotations with more entries than this at one key counts as
/// endless: S3 allows 10,000 parts and 1,000 annotations, and in practice no key has as many open
/// uploads.
const MAX_AT_A_KEY: u32 = 10_000;
/// The same limit in pages, for servers that send as few as ten entries per page.
const MAX_PAGES_AT_A_KEY: u32 = MAX_AT_A_KEY / 10;

/// An entry of a list.
pub trait PageEntry {
    /// Returns the key, or the value that serves as the key in this list.
    fn key(&self) -> Cow<'_, str>;

    /// Returns the ID that distinguishes entries of one key.
    fn id(&self) -> Option<&str> {
        None
    }

    /// Returns true for the newest entry of its key, in a list of versions.
    fn is_latest(&self) -> bool {
        false
    }
}

impl PageEntry for ListedObject {
    fn key(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.key)
    }
}

impl PageEntry for ListedVersion {
    fn key(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.key)
    }

    fn id(&self) -> Option<&str> {
        Some(&self.id)
    }

    fn is_latest(&self) -> bool {
        self.is_latest
    }
}

impl PageEntry for OpenUpload {
    fn key(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.key)
    }

    fn id(&self) -> Option<&str> {
        Some(&self.upload_id)
    }
}

impl PageEntry for PartDone {
    fn key(&self) -> Cow<'_, str> {
        Cow::Owned(self.number.to_string())
    }
}

impl PageEntry for AnnotationEntry {
    fn key(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.name)
    }
}

/// The order that a list promises for its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Keys ascend by their bytes.
    Ascending,
    /// Keys ascend; a key may have several entries in a row.
    Grouped,
    /// No order, and the list may have any length.
    Unknown,
    /// No order, and the list is short enough to remember entirely.
    Short,
}

impl Order {
    /// Returns the order of a list of objects.
    #[must_use]
    pub const fn of_objects(ordered_lists: bool) -> Self {
        if ordered_lists {
            Self::Ascending
        } else {
            Self::Unknown
        }
    }

    /// Returns the order of a list of versions.
    #[must_use]
    pub const fn of_versions(ordered_lists: bool) -> Self {
        if ordered_lists {
            Self::Grouped
        } else {
            Self::Unknown
        }
    }
}

/// The verdict on a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageVerdict {
    /// A new page.
    Next,
    /// The previous page again. Its entries were removed; request the page again.
    Again,
}

/// Two keyed hashes of an entry. A server that does not know the keys cannot forge a collision.
type Print = (u64, u64);

/// The state of one list.
#[derive(Debug)]
pub struct Paging {
    operation: Operation,
    bucket: String,
    /// The prefix that every key must have.
    prefix: String,
    order: Order,
    hashers: (RandomState, RandomState),
    /// The last key of the previous page, in an ordered list.
    last: Option<String>,
    /// True if the first entry of that key was its latest version.
    led: bool,
    /// The remembered entries of the whole list.
    seen: HashSet<Print>,
    /// The remembered entries of the previous page.
    before: HashSet<Print>,
    first_and_last: Option<(Print, Print)>,
    /// The hash of the next-page marker that the previous page returned.
    token: Option<u64>,
    empty: u32,
    again: u32,
    /// The number of entries that are still allowed.
    left: Option<u64>,
    /// In a list of uploads, parts, or annotations, the count of entries at the current key.
    at_key: AtKey,
    refused: BTreeMap<&'static str, RejectedEntries>,
}

/// The number of entries of one key, and of the pages that list them.
#[derive(Debug, Default)]
struct AtKey {
    key: String,
    entries: u32,
    pages: u32,
}

/// Entries that were removed from a list.
#[derive(Debug)]
struct RejectedEntries {
    count: u64,
    example: String,
}

impl RejectedEntries {
    fn count(all: &mut BTreeMap<&'static str, Self>, what: &'static str, key: &str) {
        all.entry(what)
            .or_insert_with(|| Self {
                count: 0,
                example: shortened(key),
            })
            .count += 1;
    }
}

impl Paging {
    /// Starts a list of the keys in `bucket` that begin with `prefix`.
    #[must_use]
    pub fn new(operation: Operation, bucket: &BucketName, prefix: &str, order: Order) -> Self {
        Self {
            operation,
            bucket: bucket.to_string(),
            prefix: prefix.to_owned(),
            order,
            hashers: (RandomState::new(), RandomState::new()),
            last: None,
            led: false,
            seen: HashSet::new(),
            before: HashSet::new(),
            first_and_last: None,
            token: None,
            empty: 0,
            again: 0,
            left: None,
            at_key: AtKey::default(),
            refused: BTreeMap::new(),
        }
    }

    /// Sets the key after which the list begins.
    #[must_use]
    pub fn behind(mut self, key: Option<String>) -> Self {
        self.last = key;
        self
    }

    /// Limits the list to this many entries, for callers that remember them all.
    #[must_use]
    pub fn at_most(mut self, entries: u64) -> Self {
        self.left = Some(entries);
        self
    }

    /// Continues with the keys that begin with another prefix.
    pub fn enter(&mut self, prefix: &str) {
        if self.prefix != prefix {
            prefix.clone_into(&mut self.prefix);
        }
    }

    /// Checks a page, and removes entries that do not belong in the list or were in it before.
    ///
    /// # Errors
    /// [`FailureKind::ServerFault`] if the list does not advance; [`FailureKind::Invalid`] if it is
    /// not in the order that the endpoint's capabilities promise.
    pub fn check<T: PageEntry, M: Hash>(
        &mut self,
        page: &mut Page<T, M>,
    ) -> Result<PageVerdict, Failure> {
        self.refuse(&mut page.items);
        let token = page.next.as_ref().map(|next| self.hashers.0.hash_one(next));
        let leads_back = token.is_some() && token == std::mem::replace(&mut self.token, token);
        let (Some(first), Some(last)) = (page.items.first(), page.items.last()) else {
            return if leads_back {
                self.repeated_page()
            } else {
                self.empty_page(token.is_some())
            };
        };
        let ends = (self.print(first), self.print(last));
        if self.is_repeated(&page.items, ends) {
            page.items.clear();
            return self.repeated_page();
        }
        match self.order {
            Order::Ascending | Order::Grouped => self.check_order(&page.items)?,
            Order::Unknown => {
                self.drop_repeated(&mut page.items, ends);
                if page.items.is_empty() {
                    return self.empty_page(page.next.is_some());
                }
            }
            Order::Short => {
                let prints: Vec<_> = page.items.iter().map(|item| self.print(item)).collect();
                let mut is_new = prints.into_iter().map(|print| self.seen.insert(print));
                page.items.retain(|_| is_new.next().unwrap_or(true));
                self.check_length(&page.items)?;
            }
        }
        if let Some(left) = &mut self.left {
            let Some(fewer) = left.checked_sub(page.items.len() as u64) else {
                let message = "the list has more objects than s3haul writes below this prefix";
                return Err(self.fault(message.to_owned()));
            };
            *left = fewer;
        }
        self.first_and_last = Some(ends);
        (self.empty, self.again) = (0, 0);
        Ok(PageVerdict::Next)
    }

    /// Returns a failure for each kind of entry that was removed because a list must not contain
    /// it.
    pub fn take_refused(&mut self) -> Vec<Failure> {
        let refused = std::mem::take(&mut self.refused);
        let failures = refused
            .into_iter()
            .map(|(what, RejectedEntries { count, example })| {
                self.fault(format!(
                    "the list contains {what} ({count}, for example `{example}`); s3haul left them out"
                ))
            });
        failures.collect()
    }

    /// Removes keys that cannot be valid.
    fn refuse<T: PageEntry>(&mut self, items: &mut Vec<T>) {
        let names_keys = !matches!(
            self.operation,
            Operation::ListParts | Operation::ListObjectAnnotations
        );
        if !names_keys {
            return;
        }
        let (prefix, refused) = (self.prefix.as_str(), &mut self.refused);
        items.retain(|item| {
            let key = item.key();
            let is_foreign =
                || (!key.starts_with(prefix)).then_some("keys outside the requested prefix");
            let Some(what) = unusable_key(&key).or_else(is_foreign) else {
                return true;
            };
            RejectedEntries::count(refused, what, &key);
            false
        });
    }

    fn empty_page(&mut self, goes_on: bool) -> Result<PageVerdict, Failure> {
        self.empty += u32::from(goes_on);
        if goes_on && self.empty > MAX_EMPTY_PAGES {
            return Err(self.fault(format!(
                "the server sent {MAX_EMPTY_PAGES} pages in a row that bring nothing new, each with a token for another one"
            )));
        }
        Ok(PageVerdict::Next)
    }

    fn repeated_page(&mut self) -> Result<PageVerdict, Failure> {
        self.again += 1;
        if self.again >= PAGE_TRIES {
            return Err(self.fault(format!(
                "the server returned the same page of the list again, {PAGE_TRIES} times"
            )));
        }
        Ok(PageVerdict::Again)
    }

    fn is_repeated<T: PageEntry>(&self, items: &[T], ends: (Print, Print)) -> bool {
        match self.order {
            Order::Ascending | Order::Grouped => self.first_and_last == Some(ends),
            Order::Unknown => self.seen.contains(&ends.0) && self.seen.contains(&ends.1),
            Order::Short => items
                .iter()
                .all(|item| self.seen.contains(&self.print(item))),
        }
    }

    /// Checks that a list of uploads, parts, or annotations does not stay at one key forever. The
    /// entries of a key are remembered, so they would fill the memory.
    fn check_length<T: PageEntry>(&mut self, items: &[T]) -> Result<(), Failure> {
        let (has_one_key, what) = match self.operation {
            Operation::ListParts => (true, "parts of one upload"),
            Operation::ListObjectAnnotations => (true, "annotations of one object"),
            Operation::ListMultipartUploads => (false, "uploads to one key"),
            // Of the lists of objects, only those of the probe are short, because it wrote few
            // objects.
            Operation::ListObjects
            | Operation::ListObjectVersions
            | Operation::HeadBucket
            | Operation::HeadObject
            | Operation::GetObject
            | Operation::GetObjectTagging
            | Operation::PutObjectTagging
            | Operation::GetObjectAcl
            | Operation::GetObjectRetention
            | Operation::GetObjectLegalHold
            | Operation::GetObjectAnnotation
            | Operation::PutObjectAnnotation
            | Operation::CopyObject
            | Operation::PutObject
            | Operation::DeleteObject
            | Operation::CreateMultipartUpload
            | Operation::UploadPart
            | Operation::UploadPartCopy
            | Operation::CompleteMultipartUpload
            | Operation::AbortMultipartUpload
            | Operation::GetBucketVersioning
            | Operation::RestoreObject
            | Operation::ReadFile => return Ok(()),
        };
        self.at_key.pages += 1;
        for item in items {
            let key = item.key();
            if !has_one_key && key != self.at_key.key {
                self.at_key = AtKey {
                    key: key.into_owned(),
                    entries: 0,
                    pages: 1,
                };
            }
            self.at_key.entries += 1;
        }
        let AtKey { entries, pages, .. } = self.at_key;
        if entries > MAX_AT_A_KEY || pages > MAX_PAGES_AT_A_KEY {
            return Err(self.fault(format!(
                "the server lists {entries} {what} on {pages} pages, and says that there are more; s3haul reads at most \
                 {MAX_AT_A_KEY}"
            )));
        }
        Ok(())
    }

    /// Checks that each key comes after the previous one and, within a key, that no entry repeats.
    fn check_order<T: PageEntry>(&mut self, items: &[T]) -> Result<(), Failure> {
        let mut last = self.last.as_deref().map(Cow::Borrowed);
        for item in items {
            let key = item.key();
            let order = last.as_ref().map(|last| last.as_ref().cmp(key.as_ref()));
            match order {
                None | Some(std::cmp::Ordering::Less) => {
                    self.seen.clear();
                    self.led = item.is_latest();
                }
                Some(std::cmp::Ordering::Equal) if self.order == Order::Grouped => {
                    if item.is_latest() && !self.led {
                        let message = format!(
                            "the server lists the latest version of `{key}` after older ones"
                        );
                        return Err(self.fault(message));
                    }
                }
                Some(_) => return Err(self.out_of_order(&last.unwrap_or_default(), &key)),
            }
            if self.order == Order::Grouped {
                let print = print_of(&self.hashers, item);
                if !self.seen.insert(print) {
                    return Err(self.fault(format!(
                        "the server lists `{}` of `{key}` twice",
                        item.id().unwrap_or_default()
                    )));
                }
            }
            last = Some(key);
        }
        self.last = last.map(Cow::into_owned);
        Ok(())
    }

    /// Removes from an unordered list the entries that were on the previous page, or first or last
    /// on any page. If a key is listed twice on one page, keeps only the first entry and reports
    /// the second.
    fn drop_repeated<T: PageEntry>(&mut self, items: &mut Vec<T>, ends: (Print, Print)) {
        let mut here = HashSet::with_capacity(items.len());
        let Self {
            seen,
            before,
            hashers,
            refused,
            ..
        } = self;
        items.retain(|item| {
            let print = print_of(hashers, item);
            if !here.insert(print) {
                RejectedEntries::count(refused, "the same key twice on one page", &item.key());
                return false;
            }
            !seen.contains(&print) && !before.contains(&print)
        });
        self.before = here;
        self.seen.extend([ends.0, ends.1]);
    }

    fn print<T: PageEntry>(&self, item: &T) -> Print {
        print_of(&self.hashers, item)
    }

    fn out_of_order(&self, before: &str, key: &str) -> Failure {
        let message = format!(
            "the server lists `{key}` after `{before}`, which is not byte order; write `ordered_lists: false` into the \
             endpoint's capabilities"
        );
        Failure::new(
            FailureKind::Invalid,
            self.operation,
            self.bucket.clone(),
            message,
        )
    }

    fn fault(&self, message: String) -> Failure {
        let place = format!("s3://{}/{}", self.bucket, self.prefix);
        Failure::new(FailureKind::ServerFault, self.operation, place, message)
    }
}

fn print_of<T: PageEntry>(hashers: &(RandomState, RandomState), item: &T) -> Print {
    let name = (item.key(), item.id());
    (hashers.0.hash_one(&name), hashers.1.hash_one(&name))
}

/// Returns the start of a key, for messages.
fn shortened(key: &str) -> String {
    match key.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &key[..end]),
        None => key.to_owned(),
    }
}

/// Returns the marker of the next page, or `None` at the end of the list. A token means that there
/// are more pages, whatever `IsTruncated` says. If the protocol can continue a list after its
/// `last` entry, that entry replaces a missing token.
///
/// # Errors
/// Fails if the list continues but nothing shows where.
pub(super) fn follows<M>(
    truncated: Option<bool>,
    token: Option<M>,
    last: Option<M>,
) -> Result<Option<M>, String> {
    match token {
        Some(token) => Ok(Some(token)),
        None if truncated != Some(true) => Ok(None),
        None => last.map(Some).ok_or_else(|| {
            "the server says that the list goes on, and sends no token for the next page".to_owned()
        }),
    }
}

/// Returns the next marker of a list, or `None` after the last page. S3 names the last entry on
/// every page, including the last page, and other servers repeat the marker of the request
/// (`requested`). Neither contradicts `IsTruncated: false`.
///
/// # Errors
/// Fails for the same reasons as [`follows`].
pub(super) fn follows_unless_last<M: PartialEq>(
    truncated: Option<bool>,
    token: Option<M>,
    last: Option<M>,
    requested: Option<&M>,
) -> Result<Option<M>, String> {
    let says_nothing = token == last || token.as_ref() == requested;
    let is_last = truncated == Some(false) && says_nothing;
    follows(truncated, token.filter(|_| !is_last), last)
}

#[cfg(test)]
mod tests;
