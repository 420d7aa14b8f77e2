//! The objects of a bucket, page after page, in the order of their keys' bytes; all that a [`Reach`] has, or a range of them.
//!
//! Pages are asked for by continuation token. The next page is on its way while the last one is read, and no sooner, so
//! that each of many listings holds two pages at most.
//!
//! A reach has several prefixes if its patterns have several literal beginnings. They are listed one after the other.
//!
//! Where a range ends is asked again with each page ([`Bounds`]), because it may be cut while it is listed. A range is worth
//! nothing if the server does not list in order: keys out of it would be missed without a word. So that is checked, and a
//! list out of order fails.

use super::reach::{Behind, Reach};
use super::{Entry, Found, Listing, Pages};
use crate::bucket::Bucket;
use crate::location::ObjectKey;
use crate::s3::{Failure, FailureKind, ListedObject, Operation, Page};

/// Where a listing ends before the last key of its reach.
pub trait Bounds: Send + 'static {
    /// Takes note of a page's keys, and of what follows; returns the last key that belongs to the listing.
    fn page(&mut self, keys: &[&str], behind: Behind) -> Option<ObjectKey>;
}

/// A listing that goes on to the last key.
struct Unbounded;

impl Bounds for Unbounded {
    fn page(&mut self, _: &[&str], _: Behind) -> Option<ObjectKey> {
        None
    }
}

/// Lists the objects of `reach`, from the first one behind `after` on.
#[must_use]
pub fn objects(bucket: Bucket, reach: Reach, after: Option<String>) -> Listing {
    start(Lister::new(bucket, reach, after, Unbounded))
}

/// The same up to a key that may come nearer while it is listed, from a server that lists in order.
#[must_use]
pub fn range(bucket: Bucket, reach: Reach, after: Option<String>, bounds: impl Bounds) -> Listing {
    let last = Some(after.clone().unwrap_or_default());
    start(Lister { last, ..Lister::new(bucket, reach, after, bounds) })
}

struct Lister<B> {
    bucket: Bucket,
    reach: Reach,
    /// The position of the prefix that is being listed.
    at: usize,
    /// Where the next page begins: behind this key, or where the token says.
    after: Option<String>,
    token: Option<String>,
    bounds: B,
    /// The last key that was listed, where the order is checked.
    last: Option<String>,
}

fn start(lister: Lister<impl Bounds>) -> Listing {
    Listing::by(|pages| lister.run(pages))
}

impl<B: Bounds> Lister<B> {
    fn new(bucket: Bucket, reach: Reach, after: Option<String>, bounds: B) -> Self {
        let reach = if bucket.capabilities().directory { reach.in_whole_directories() } else { reach };
        let at = reach.first_behind(after.as_deref());
        // In front of the prefix, it says nothing.
        let prefix = reach.prefixes().get(at);
        let after = after.filter(|after| prefix.is_some_and(|prefix| after.starts_with(prefix.as_str())));
        Self { bucket, reach, at, after, token: None, bounds, last: None }
    }

    async fn run(mut self, pages: Pages<Found>) {
        // The reader is gone when the run stops, or when it has seen enough.
        while let Some(prefix) = self.reach.prefixes().get(self.at).cloned()
            && let Ok(room) = pages.clone().reserve_owned().await
        {
            match self.page(&prefix).await {
                Ok(found) => {
                    room.send(found);
                }
                Err(failure) => {
                    let place = format!("s3://{}/{prefix}", self.bucket.name());
                    room.send(vec![Found::Failed(place, failure)]);
                    return;
                }
            }
        }
    }

    /// Lists one page and notes where the next one begins.
    async fn page(&mut self, prefix: &ObjectKey) -> Result<Vec<Found>, Failure> {
        let page = self.bucket.list(prefix.as_str(), self.after.as_deref(), self.token.as_deref()).await?;
        let Page { mut items, next } = page;
        let more = next.is_some();
        self.at += usize::from(!more);
        let until = {
            let keys: Vec<_> = items.iter().map(|object| &*object.key).collect();
            self.check_order(&keys)?;
            self.bounds.page(&keys, Behind { more, prefix: self.at })
        };
        let skip = items.last().filter(|_| more).and_then(|last| self.skip(&last.key));
        (self.after, self.token) = match skip {
            Some(skip) => (Some(skip), None),
            None => (self.after.take().filter(|_| more), next),
        };
        if let Some(until) = until {
            let inside = items.partition_point(|object| *object.key <= *until.as_str());
            // What ends with the range needs no further page to see that.
            let mut is_end =
                inside < items.len() || items.last().is_some_and(|last| *last.key == *until.as_str());
            is_end |=
                self.token.is_none() && self.after.as_deref().is_some_and(|after| after >= until.as_str());
            is_end |= self.reach.prefixes().get(self.at).is_some_and(|prefix| *prefix > until);
            items.truncate(inside);
            if is_end {
                self.at = self.reach.prefixes().len();
            }
        }
        if let (Some(checked), Some(last)) = (&mut self.last, items.last()) {
            checked.clone_from(&last.key);
        }
        let relative_at = self.reach.relative_at();
        Ok(items.into_iter().map(|object| found(object, relative_at)).collect())
    }

    /// Returns where the list can go on if what follows this key is left out.
    fn skip(&self, key: &str) -> Option<String> {
        let in_order = self.bucket.capabilities().ordered_lists && !self.bucket.capabilities().directory;
        in_order.then(|| self.reach.skip(key)).flatten()
    }

    fn check_order(&self, keys: &[&str]) -> Result<(), Failure> {
        let Some((before, key)) = self.last.as_deref().and_then(|last| out_of_order(last, keys)) else {
            return Ok(());
        };
        let message = format!(
            "the server lists `{key}` behind `{before}`, out of the order of their bytes; write `ordered_lists: false` into the \
             endpoint's capabilities"
        );
        let place = self.bucket.name().to_string();
        Err(Failure::new(FailureKind::Invalid, Operation::ListObjects, place, message))
    }
}

/// The first key that does not come behind the one before it, and that one.
fn out_of_order<'k>(mut last: &'k str, keys: &[&'k str]) -> Option<(&'k str, &'k str)> {
    keys.iter().find_map(|key| {
        let before = std::mem::replace(&mut last, key);
        (before >= *key).then_some((before, *key))
    })
}

fn found(object: ListedObject, relative_at: usize) -> Found {
    match ObjectKey::new(&object.key) {
        Ok(key) => Found::Entry(Entry {
            key,
            relative_at,
            size: object.size,
            etag: object.etag,
            version: None,
            modified: object.modified,
            storage_class: object.storage_class,
            archive: object.archive,
        }),
        Err(_) => Found::Ignored(object.key, super::KEY_TOO_LONG),
    }
}

#[cfg(test)]
mod tests {
    use super::out_of_order;

    #[test]
    fn keys_that_do_not_ascend_are_noticed() {
        assert_eq!(out_of_order("", &[]), None);
        assert_eq!(out_of_order("", &["a", "a/b", "a0", "é"]), None);
        assert_eq!(out_of_order("", &["a", "c", "b", "d"]), Some(("c", "b")));
        assert_eq!(out_of_order("b", &["b", "c"]), Some(("b", "b")), "the page before ended there");
    }
}
