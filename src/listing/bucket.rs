//! Lists the objects of a bucket, page by page, in the byte order of their keys: all objects within
//! a [`Reach`], or a range of them.
//!
//! Pages are requested by continuation token. The next page is requested while the previous page is
//! read, so each listing holds at most two pages.
//!
//! A reach has several prefixes if its patterns have several literal prefixes. The prefixes are
//! listed one after another.
//!
//! The end of a range may change while the range is listed, so it is determined again for each page
//! ([`Bounds`]). If the server did not list in order, a range would silently miss keys. So
//! [`Paging`] checks the order, and an unordered list fails.

use std::sync::Arc;

use super::reach::{Behind, Reach};
use super::{Entry, Listing, ListingItem, Pages};
use crate::bucket::Bucket;
use crate::location::ObjectKey;
use crate::s3::paging::{Order, PageVerdict, Paging};
use crate::s3::{Failure, ListedObject, Operation, Page};

/// The end of a listing, if it lies before the last key of its reach.
pub trait Bounds: Send + 'static {
    /// Records the keys of a page and the position after it. Returns the last key that belongs to
    /// the listing.
    fn page(&mut self, keys: &[&str], behind: Behind) -> Option<ObjectKey>;
}

/// The bounds of a listing that ends with the last key.
struct Unbounded;

impl Bounds for Unbounded {
    fn page(&mut self, _: &[&str], _: Behind) -> Option<ObjectKey> {
        None
    }
}

/// Lists the objects of `reach` whose keys follow `after`.
#[must_use]
pub fn objects(bucket: Bucket, reach: Reach, after: Option<String>) -> Listing {
    start(Lister::new(bucket, reach, after, Unbounded))
}

/// Lists the same objects up to a bound, which may decrease during the listing. The server must
/// list in order.
#[must_use]
pub fn range(bucket: Bucket, reach: Reach, after: Option<String>, bounds: impl Bounds) -> Listing {
    start(Lister::of_range(bucket, reach, after, bounds))
}

/// A listing in progress, which returns one page after another.
pub struct Lister<B> {
    /// The bucket to list.
    bucket: Bucket,
    /// The keys to list.
    reach: Reach,
    /// The index of the prefix that is being listed.
    at: usize,
    /// The key after which the next page starts, unless there is a token.
    after: Option<String>,
    /// The continuation token of the next page.
    token: Option<String>,
    /// The end of the listing.
    bounds: B,
    /// The checks of the pages.
    paging: Paging,
    /// True once the lister has reported ignored entries. It only counts further ones.
    refused: bool,
}

fn start(lister: Lister<impl Bounds>) -> Listing {
    Listing::by(|pages| lister.run(pages))
}

impl<B: Bounds> Lister<B> {
    /// Creates the lister of a range, see [`range`].
    #[must_use]
    pub fn of_range(bucket: Bucket, reach: Reach, after: Option<String>, bounds: B) -> Self {
        let paging = Paging::new(Operation::ListObjects, bucket.name(), "", Order::Ascending)
            .behind(after.clone());
        Self {
            paging,
            ..Self::new(bucket, reach, after, bounds)
        }
    }

    /// Lists the next page. Returns `None` after the last page. An empty page does not mean that
    /// the listing is over.
    ///
    /// # Errors
    /// Fails if a list request fails.
    pub async fn next_page(&mut self) -> Result<Option<Vec<ListingItem>>, Failure> {
        match self.reach.prefixes().get(self.at).cloned() {
            Some(prefix) => self.page(&prefix).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns true after the last page.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.at >= self.reach.prefixes().len()
    }

    fn new(bucket: Bucket, reach: Reach, after: Option<String>, bounds: B) -> Self {
        let reach = if bucket.capabilities().directory {
            reach.in_whole_directories()
        } else {
            reach
        };
        let at = reach.first_behind(after.as_deref());
        // A start key before the prefix excludes nothing.
        let prefix = reach.prefixes().get(at);
        let after =
            after.filter(|after| prefix.is_some_and(|prefix| after.starts_with(prefix.as_str())));
        let order = Order::of_objects(bucket.capabilities().ordered_lists);
        let paging = Paging::new(Operation::ListObjects, bucket.name(), "", order);
        Self {
            bucket,
            reach,
            at,
            after,
            token: None,
            bounds,
            paging,
            refused: false,
        }
    }

    async fn run(mut self, pages: Pages<ListingItem>) {
        // The reader drops its end if the run stops, or if it needs no more pages.
        while let Some(prefix) = self.reach.prefixes().get(self.at).cloned()
            && let Ok(room) = pages.clone().reserve_owned().await
        {
            let place = format!("s3://{}/{prefix}", self.bucket.name());
            match self.page(&prefix).await {
                Ok(mut found) => {
                    if !self.refused || self.at >= self.reach.prefixes().len() {
                        let refused = self.paging.take_refused();
                        self.refused |= !refused.is_empty();
                        found.extend(
                            refused
                                .into_iter()
                                .map(|failure| ListingItem::Refused(place.clone(), failure)),
                        );
                    }
                    room.send(found);
                }
                Err(failure) => {
                    room.send(vec![ListingItem::Failed(place, failure)]);
                    return;
                }
            }
        }
    }

    /// Lists one page and records where the next page begins.
    async fn page(&mut self, prefix: &ObjectKey) -> Result<Vec<ListingItem>, Failure> {
        let mut page = self
            .bucket
            .list(
                prefix.as_str(),
                self.after.as_deref(),
                self.token.as_deref(),
            )
            .await?;
        self.paging.enter(prefix.as_str());
        if self.paging.check(&mut page)? == PageVerdict::Again {
            return Ok(Vec::new());
        }
        let Page { mut items, next } = page;
        let more = next.is_some();
        self.at += usize::from(!more);
        let until = {
            let keys: Vec<_> = items.iter().map(|object| &*object.key).collect();
            self.bounds.page(
                &keys,
                Behind {
                    more,
                    prefix: self.at,
                },
            )
        };
        let skip = items
            .last()
            .filter(|_| more)
            .and_then(|last| self.skip(&last.key));
        (self.after, self.token) = match skip {
            Some(skip) => (Some(skip), None),
            None => (self.after.take().filter(|_| more), next),
        };
        if let Some(until) = until {
            let inside = items.partition_point(|object| *object.key <= *until.as_str());
            // Detect the end of the range without requesting another page.
            let mut is_end = inside < items.len()
                || items
                    .last()
                    .is_some_and(|last| *last.key == *until.as_str());
            is_end |= self.token.is_none()
                && self
                    .after
                    .as_deref()
                    .is_some_and(|after| after >= until.as_str());
            is_end |= self
                .reach
                .prefixes()
                .get(self.at)
                .is_some_and(|prefix| *prefix > until);
            items.truncate(inside);
            if is_end {
                self.at = self.reach.prefixes().len();
            }
        }
        let relative_at = self.reach.relative_at();
        Ok(items
            .into_iter()
            .map(|object| found(object, relative_at))
            .collect())
    }

    /// Returns the key after which the list can continue if the selection excludes the directory of
    /// this key.
    fn skip(&self, key: &str) -> Option<String> {
        let in_order =
            self.bucket.capabilities().ordered_lists && !self.bucket.capabilities().directory;
        in_order.then(|| self.reach.skip(key)).flatten()
    }
}

fn found(object: ListedObject, relative_at: usize) -> ListingItem {
    match ObjectKey::try_from(Arc::clone(&object.key)) {
        Ok(key) => ListingItem::Entry(Entry {
            key,
            relative_at,
            size: object.size,
            etag: object.etag,
            version: None,
            modified: object.modified,
            storage_class: object.storage_class,
            archive: object.archive,
        }),
        Err(_) => ListingItem::Ignored(object.key.to_string(), super::KEY_TOO_LONG),
    }
}
