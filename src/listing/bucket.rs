//! The objects below a prefix, page after page, in the order of their keys' bytes; all of them, or a range.
//!
//! Pages are asked for by continuation token. The next page is on its way while the last one is read, and no sooner, so
//! that each of many listings holds two pages at most.
//!
//! Where a range ends is asked again with each page ([`Bounds`]), because it may be cut while it is listed. A range is worth
//! nothing if the server does not list in order: keys out of it would be missed without a word. So that is checked, and a
//! list out of order fails.

use super::{Entry, Found, Listing, Pages};
use crate::bucket::Bucket;
use crate::location::ObjectKey;
use crate::s3::{Failure, FailureKind, ListedObject, Operation, Page};

/// Where a listing ends before the last key of the prefix.
pub trait Bounds: Send + 'static {
    /// Takes note of a page's keys, and of whether the server has more; returns the last key that belongs to the listing.
    fn page(&mut self, keys: &[&str], more: bool) -> Option<ObjectKey>;
}

/// A listing that goes on to the last key.
struct Unbounded;

impl Bounds for Unbounded {
    fn page(&mut self, _: &[&str], _: bool) -> Option<ObjectKey> {
        None
    }
}

/// Lists the objects whose keys begin with `prefix`, from the first one behind `after` on.
#[must_use]
pub fn objects(bucket: Bucket, prefix: &ObjectKey, after: Option<String>) -> Listing {
    start(Lister { bucket, prefix: prefix.clone(), after, bounds: Unbounded, last: None })
}

/// The same up to a key that may come nearer while it is listed, from a server that lists in order.
#[must_use]
pub fn range(bucket: Bucket, prefix: &ObjectKey, after: Option<String>, bounds: impl Bounds) -> Listing {
    let last = Some(after.clone().unwrap_or_default());
    start(Lister { bucket, prefix: prefix.clone(), after, bounds, last })
}

struct Lister<B> {
    bucket: Bucket,
    prefix: ObjectKey,
    after: Option<String>,
    bounds: B,
    /// The last key that was listed, where the order is checked.
    last: Option<String>,
}

fn start(lister: Lister<impl Bounds>) -> Listing {
    Listing::by(|pages| lister.run(pages))
}

impl<B: Bounds> Lister<B> {
    async fn run(mut self, pages: Pages<Found>) {
        let mut token = None;
        // The reader is gone when the run stops, or when it has seen enough.
        while let Ok(room) = pages.clone().reserve_owned().await {
            match self.page(token.as_deref()).await {
                Ok((found, next)) => {
                    room.send(found);
                    match next {
                        Some(next) => token = Some(next),
                        None => return,
                    }
                }
                Err(failure) => {
                    let place = format!("s3://{}/{}", self.bucket.name(), self.prefix);
                    room.send(vec![Found::Failed(place, failure)]);
                    return;
                }
            }
        }
    }

    /// One page, and how to go on.
    async fn page(&mut self, token: Option<&str>) -> Result<(Vec<Found>, Option<String>), Failure> {
        let page = self.bucket.list(self.prefix.as_str(), self.after.as_deref(), token).await?;
        let Page { mut items, mut next } = page;
        let until = {
            let keys: Vec<_> = items.iter().map(|object| &*object.key).collect();
            self.check_order(&keys)?;
            self.bounds.page(&keys, next.is_some())
        };
        if let Some(until) = until {
            let inside = items.partition_point(|object| *object.key <= *until.as_str());
            // What ends with the range needs no further page to see that.
            let is_end =
                inside < items.len() || items.last().is_some_and(|last| *last.key == *until.as_str());
            items.truncate(inside);
            next = next.filter(|_| !is_end);
        }
        if let (Some(checked), Some(last)) = (&mut self.last, items.last()) {
            checked.clone_from(&last.key);
        }
        let at = self.prefix.as_str().len();
        Ok((items.into_iter().map(|object| found(object, at)).collect(), next))
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
