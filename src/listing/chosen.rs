//! Objects that are named one by one, instead of all below a prefix: each is asked for by HEAD.
//!
//! They come in the order of their keys, like every listing, and what is not there any more is a
//! failure of that object.

use futures::stream::{self, StreamExt};

use super::{Entry, Found, Listing};
use crate::bucket::Bucket;
use crate::location::ObjectKey;
use crate::manifest::job::Chosen;
use crate::pace::gate::by_itself;

/// The chosen objects, so many of which are asked for `at_once`; their keys are relative to
/// `prefix`.
#[must_use]
pub fn objects(bucket: &Bucket, prefix: &ObjectKey, chosen: &[Chosen], at_once: usize) -> Listing {
    let (bucket, relative_at) = (bucket.clone(), prefix.as_str().len());
    let mut chosen = chosen.to_vec();
    chosen.sort();
    chosen.dedup();
    Listing::by(|pages| async move {
        let found =
            stream::iter(chosen).map(|chosen| by_itself(find(bucket.clone(), relative_at, chosen)));
        let mut found = std::pin::pin!(found.buffered(at_once));
        while let Some(found) = found.next().await {
            // The reader is gone when the run stops.
            if pages.send(vec![found]).await.is_err() {
                return;
            }
        }
    })
}

async fn find(bucket: Bucket, relative_at: usize, chosen: Chosen) -> Found {
    let place = format!("s3://{}/{}", bucket.name(), chosen.key);
    let Ok(key) = ObjectKey::new(&chosen.key) else {
        return Found::Ignored(place, super::KEY_TOO_LONG);
    };
    match bucket.with_slot(bucket.head(&key, None)).await {
        Ok(head) => Found::Entry(Entry {
            relative_at,
            key,
            size: head.size,
            etag: Some(head.etag),
            version: None,
            modified: head.modified,
            storage_class: head.storage_class,
            archive: head.archive,
        }),
        Err(failure) => Found::Unread(chosen.key, place, failure),
    }
}
