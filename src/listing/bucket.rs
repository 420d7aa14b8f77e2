//! The objects below a prefix, page after page, in the order of their keys' bytes.
//!
//! Pages are asked for by continuation token. The next page is on its way while the last one is read.

use super::{Entry, Found, Listing};
use crate::bucket::Bucket;
use crate::location::ObjectKey;

/// Lists the objects whose keys begin with `prefix`, from the first one behind `after` on.
#[must_use]
pub fn objects(bucket: Bucket, prefix: &ObjectKey, after: Option<String>) -> Listing {
    let (pages, listing) = Listing::channel();
    let prefix = prefix.clone();
    tokio::spawn(async move {
        let mut token = None;
        loop {
            let page = match bucket.list(prefix.as_str(), after.as_deref(), token.as_deref()).await {
                Ok(page) => page,
                Err(failure) => {
                    let place = format!("s3://{}/{prefix}", bucket.name());
                    let _ = pages.send(vec![Found::Failed(place, failure)]).await;
                    return;
                }
            };
            let found = page.items.into_iter().map(|object| match ObjectKey::new(&object.key) {
                Ok(key) => Found::Entry(Entry {
                    key,
                    relative_at: prefix.as_str().len(),
                    size: object.size,
                    etag: object.etag,
                    version: None,
                    modified: object.modified,
                    storage_class: object.storage_class,
                    archive: object.archive,
                }),
                Err(_) => Found::Ignored(object.key, super::KEY_TOO_LONG),
            });
            // The reader is gone when the run stops.
            if pages.send(found.collect()).await.is_err() || page.next.is_none() {
                return;
            }
            token = page.next;
        }
    });
    listing
}
