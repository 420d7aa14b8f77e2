//! Lists objects that a job names one by one, with a HEAD request for each. [`each`] also serves
//! the chosen files of [`super::local`] and the chosen versions of [`super::versions`].
//!
//! Objects arrive in key order, as in every listing. A missing object is a failure of that object
//! only.

use futures::stream::{self, StreamExt};

use super::{Entry, Listing, ListingItem};
use crate::bucket::Bucket;
use crate::location::ObjectKey;
use crate::manifest::job::Chosen;
use crate::pace::gate::spawn_and_join;
use crate::s3::{Failure, FailureKind, Operation};

/// Returns the chosen objects after the key `after`, in order. Their keys are relative to `prefix`.
/// Sends up to `at_once` requests at a time.
#[must_use]
pub fn objects(
    bucket: &Bucket,
    prefix: &ObjectKey,
    (chosen, after): (&[Chosen], Option<&ObjectKey>),
    at_once: usize,
) -> Listing {
    let (bucket, relative_at) = (bucket.clone(), prefix.as_str().len());
    each((chosen, after), at_once, move |chosen| {
        find(bucket.clone(), relative_at, chosen)
    })
}

/// Returns the item that `find` returns for each of the chosen objects after the key `after`, in
/// order. Looks for up to `at_once` objects at a time.
pub(super) fn each<F>(
    (chosen, after): (&[Chosen], Option<&ObjectKey>),
    at_once: usize,
    find: impl Fn(Chosen) -> F + Send + 'static,
) -> Listing
where
    F: Future<Output = ListingItem> + Send + 'static,
{
    let is_left = |chosen: &&Chosen| after.is_none_or(|after| *chosen.key > *after.as_str());
    let mut chosen: Vec<_> = chosen.iter().filter(is_left).cloned().collect();
    chosen.sort();
    chosen.dedup_by(|later, first| later.key == first.key);
    Listing::by(move |pages| async move {
        let found = stream::iter(chosen).map(move |chosen| spawn_and_join(find(chosen)));
        let mut found = std::pin::pin!(found.buffered(at_once));
        while let Some(found) = found.next().await {
            // The reader drops its end when the run stops.
            if pages.send(vec![found]).await.is_err() {
                return;
            }
        }
    })
}

async fn find(bucket: Bucket, relative_at: usize, chosen: Chosen) -> ListingItem {
    let place = format!("s3://{}/{}", bucket.name(), chosen.key);
    let key = match ObjectKey::new(&chosen.key) {
        Ok(key) => key,
        Err(error) => {
            let (kind, operation) = (FailureKind::Invalid, Operation::HeadObject);
            let failure = Failure::new(kind, operation, &*place, error.to_string());
            return ListingItem::Unread(chosen.key, place, failure);
        }
    };
    match bucket.with_slot(bucket.head(&key, None)).await {
        Ok(head) => ListingItem::Entry(Entry {
            relative_at,
            key,
            size: head.size,
            etag: Some(head.etag),
            version: None,
            modified: head.modified,
            storage_class: head.storage_class,
            archive: head.archive,
        }),
        Err(failure) => ListingItem::Unread(chosen.key, place, failure),
    }
}
