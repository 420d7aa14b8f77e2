//! Lists objects that a job names one by one, as they existed at a time.

use jiff::Timestamp;

use super::{Pages, Past, Scope, missing};
use crate::bucket::Bucket;
use crate::listing::chosen::each;
use crate::listing::{Entry, Listing, ListingItem};
use crate::location::ObjectKey;
use crate::manifest::job::Chosen;
use crate::s3::{Failure, FailureKind, ListedVersion, Operation};

/// Returns the chosen objects after a key, as they existed at `time`, in order. Lists each key
/// separately. An object that did not exist, or whose named version is gone, is a failure of that
/// object only.
#[must_use]
pub fn chosen_as_of(
    bucket: Bucket,
    scope: &Scope,
    chosen: (&[Chosen], Option<&ObjectKey>),
    time: Timestamp,
    at_once: usize,
) -> Listing {
    let relative_at = scope.relative_at;
    each(chosen, at_once, move |chosen| {
        let bucket = bucket.clone();
        async move {
            let place = format!("s3://{}/{}", bucket.name(), chosen.key);
            let past = Past::new(&bucket, time, relative_at);
            match past.look(&bucket, &chosen).await {
                Ok(entry) => ListingItem::Entry(entry),
                Err(failure) => ListingItem::Unread(chosen.key, place, failure),
            }
        }
    })
}

impl Past {
    /// Returns the chosen object at that time. Fails if it did not exist then, or if its named
    /// version is gone.
    async fn look(mut self, bucket: &Bucket, chosen: &Chosen) -> Result<Entry, Failure> {
        let key = ObjectKey::new(&chosen.key).map_err(|error| {
            let place = format!("s3://{}/{}", bucket.name(), chosen.key);
            let (kind, operation) = (FailureKind::Invalid, Operation::ListObjectVersions);
            Failure::new(kind, operation, place, error.to_string())
        })?;
        let is_named =
            |item: &ListedVersion| chosen.version.as_ref().is_none_or(|id| *id == item.id);
        let scope = Scope::one(&key);
        let mut pages = Pages::of(bucket, &scope);
        while let Some(mut items) = pages.next().await? {
            items.retain(is_named);
            match self.page(items).pop() {
                Some(ListingItem::Entry(entry)) => return Ok(entry),
                Some(ListingItem::Refused(_, failure)) => return Err(failure),
                _ => {}
            }
        }
        if let Some(failure) = pages.paging.take_refused().into_iter().next() {
            return Err(failure);
        }
        let message = match &chosen.version {
            Some(id) => format!("its version {id} of {} is gone", self.time),
            None => format!("there was no such object at {}", self.time),
        };
        Err(missing(bucket, &scope, message))
    }
}
