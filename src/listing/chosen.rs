//! Objects that are named one by one, instead of all below a prefix: each is asked for by HEAD.
//!
//! They come in the order of their keys, like every listing, and what is not there any more is a failure of that object.

use futures::stream::{self, StreamExt};

use super::{Entry, Found, Listing};
use crate::bucket::Bucket;
use crate::location::ObjectKey;
use crate::manifest::job::Chosen;

/// Keys that are asked for at once.
const HEADS_AT_ONCE: usize = 64;

/// The chosen objects; their keys are relative to `prefix`.
#[must_use]
pub fn objects(bucket: &Bucket, prefix: &ObjectKey, chosen: &[Chosen]) -> Listing {
    let (bucket, relative_at) = (bucket.clone(), prefix.as_str().len());
    let mut chosen = chosen.to_vec();
    chosen.sort();
    chosen.dedup();
    Listing::by(|pages| async move {
        let found = stream::iter(chosen).map(|chosen| find(bucket.clone(), relative_at, chosen));
        let mut found = std::pin::pin!(found.buffered(HEADS_AT_ONCE));
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
    match bucket.head(&key, None).await {
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
        Err(failure) => Found::Failed(place, failure),
    }
}
