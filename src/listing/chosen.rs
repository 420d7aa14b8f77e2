//! Lists objects that a job names one by one, with a HEAD request for each.
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
    let is_left = |chosen: &&Chosen| after.is_none_or(|after| *chosen.key > *after.as_str());
    let mut chosen: Vec<_> = chosen.iter().filter(is_left).cloned().collect();
    chosen.sort();
    chosen.dedup();
    Listing::by(|pages| async move {
        let found = stream::iter(chosen)
            .map(|chosen| spawn_and_join(find(bucket.clone(), relative_at, chosen)));
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
