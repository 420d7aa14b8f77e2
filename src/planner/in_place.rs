//! Plans in-place changes: finds the objects whose attributes differ from those that the job sets.
//!
//! The planner lists objects while the run changes them. A change keeps the key of an object, and a
//! list shows each key once, so no object appears twice. If an earlier session was changing an
//! object, s3haul sends HEAD before it changes the object again, because the change may have taken
//! effect although the response was lost.

use std::sync::Arc;

use jiff::Timestamp;

use super::{AskedSides, Next, Planned, Sides};
use crate::bucket::Bucket;
use crate::listing::Entry;
use crate::location::ObjectKey;
use crate::manifest::job::{Attribute, Transfer, When};
use crate::plan::condition::DestinationState;
use crate::plan::decide::{Reason, Skip};
use crate::plan::in_place::{ListedState, by_class, has_acl, needs_tags, strict, unlike};
use crate::s3::{Failure, FailureKind, Head};

impl Sides {
    /// Creates the sides of a transfer. A transfer onto itself gets the policies of an in-place
    /// change.
    #[must_use]
    pub fn new(transfer: &Transfer, source: Option<Bucket>, destination: Bucket) -> Self {
        let sides = Self {
            transfer: Arc::new(transfer.clone()),
            source,
            destination,
        };
        if !sides.is_in_place() {
            return sides;
        }
        let strict = strict(transfer, sides.destination.capabilities());
        Self {
            transfer: Arc::new(strict),
            ..sides
        }
    }

    /// Returns true if the transfer changes objects in place.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        let is_same_server =
            |source: &Bucket| source.client().same_server(self.destination.client());
        self.source.as_ref().is_some_and(is_same_server) && self.transfer.is_onto_itself()
    }

    /// Decides about an object by the list, or requests HEAD if the list does not show enough.
    pub(super) fn consider_in_place(&self, entry: Entry, key: ObjectKey) -> Next {
        let listed = match self.transfer.when {
            When::Always => ListedState::Differs,
            When::Changed | When::Missing => {
                by_class(&self.transfer, entry.storage_class.as_deref())
            }
        };
        match listed {
            ListedState::Differs => Next::Known(self.change(entry, key)),
            ListedState::AsSet if self.believes_lists() => {
                Next::Known(Planned::Skip(Box::new(entry), key, Skip::AsSet))
            }
            ListedState::AsSet | ListedState::Unknown => {
                Next::Ask(entry, key, AskedSides::Destination)
            }
        }
    }

    /// Returns the bucket whose objects the transfer changes in place.
    #[must_use]
    pub fn changed_bucket(&self) -> Option<&Bucket> {
        self.is_in_place().then_some(&self.destination)
    }

    fn change(&self, entry: Entry, key: ObjectKey) -> Planned {
        let reason = if self.transfer.when == When::Always {
            Reason::Always
        } else {
            Reason::AttributesDiffer
        };
        let destination_state = entry
            .etag
            .clone()
            .map_or(DestinationState::Unknown, DestinationState::Object);
        self.step(entry, key, reason, destination_state)
    }

    /// Decides about an object by HEAD. `again` is true if an earlier session was working on it.
    pub(super) async fn ask_in_place(
        &self,
        mut entry: Entry,
        key: ObjectKey,
        again: bool,
    ) -> Planned {
        let look = async {
            let head = self.look_in_place(&key).await?;
            let difference = self.difference_in_place(&key, &head).await?;
            Ok((head, difference))
        };
        let (head, difference) = match self.destination.with_slot(look).await {
            Ok(looked) => looked,
            Err(failure) => return self.failed(&entry, failure),
        };
        let second = |time: Option<Timestamp>| time.map(Timestamp::as_second);
        let is_rewritten = entry.etag.as_ref().is_some_and(|etag| *etag != head.etag)
            || second(head.modified) > second(entry.modified);
        let is_as_set = match difference {
            Difference::None => self.transfer.when != When::Always || is_rewritten,
            // The object was rewritten, so the earlier session's change has also set the attributes
            // that HEAD does not show.
            Difference::Unknown => again && is_rewritten,
            Difference::Found(_) => false,
        };
        (entry.size, entry.modified, entry.archive) = (head.size, head.modified, head.archive);
        entry.storage_class = head.storage_class;
        entry.etag = Some(head.etag);
        if is_as_set {
            Planned::Skip(Box::new(entry), key, Skip::AsSet)
        } else {
            self.change(entry, key)
        }
    }

    /// Sends HEAD for an object to change in place; the caller holds a slot. If the job changes the
    /// customer key (SSE-C), the object may be encrypted with either key.
    ///
    /// # Errors
    /// Returns the error of HEAD.
    pub(crate) async fn look_in_place(&self, key: &ObjectKey) -> Result<Head, Failure> {
        let source = self.source.as_ref().unwrap_or(&self.destination);
        let is_rekeyed = self.destination.client().customer_key() != source.client().customer_key();
        match source.head(key, None).await {
            Err(failure)
                if is_rekeyed
                    && matches!(failure.kind(), FailureKind::Invalid | FailureKind::Denied) =>
            {
                self.destination.head(key, None).await.map_err(|_| failure)
            }
            answer => answer,
        }
    }

    /// Compares an object with the attributes that the job sets; the caller holds a slot.
    ///
    /// # Errors
    /// Fails if its tags or its ACL cannot be read.
    pub(crate) async fn difference_in_place(
        &self,
        key: &ObjectKey,
        head: &Head,
    ) -> Result<Difference, Failure> {
        let (transfer, destination) = (&*self.transfer, &self.destination);
        let version = head.version.as_deref();
        let keys = [
            &transfer.customer_keys.source,
            &transfer.customer_keys.destination,
        ];
        if let [source, Some(_)] = keys
            && (!head.customer_key || (source.is_some() && self.has_source_key(key).await?))
        {
            return Ok(Difference::Found(Attribute::Encryption));
        }
        let tags = if needs_tags(transfer, destination.capabilities()) {
            destination.tags(key, version).await?
        } else {
            Vec::new()
        };
        let capabilities = destination.capabilities();
        let now = Timestamp::now();
        let found = |may_change| unlike(head, &tags, transfer, capabilities, now, may_change);
        let as_far_as_seen = match found(false) {
            None => Difference::None,
            // Either the object has another value, or the server changed the value that the job
            // set.
            Some(_) if !capabilities.is_amazon && found(true).is_none() => Difference::Unknown,
            Some(attribute) => return Ok(Difference::Found(attribute)),
        };
        let Some(acl) = transfer.to.acl else {
            return Ok(as_far_as_seen);
        };
        let grants = destination.acl(key, version).await?;
        Ok(match has_acl(acl, &grants) {
            Some(true) => as_far_as_seen,
            Some(false) => Difference::Found(Attribute::Acl),
            None => Difference::Unknown,
        })
    }

    /// Returns true if the source's customer key, which differs from the destination's, decrypts
    /// the object.
    async fn has_source_key(&self, key: &ObjectKey) -> Result<bool, Failure> {
        let Some(source) = &self.source else {
            return Ok(false);
        };
        if source.client().customer_key() == self.destination.client().customer_key() {
            return Ok(false);
        }
        match source.head(key, None).await {
            Ok(_) => Ok(true),
            Err(failure)
                if matches!(failure.kind(), FailureKind::Invalid | FailureKind::Denied) =>
            {
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// The result of comparing an object with the attributes that the job sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// The object has all attributes that the job sets.
    None,
    /// The object has another value of this attribute.
    Found(Attribute),
    /// No difference is visible, but there may be one: the grants do not show whether the object
    /// has the canned ACL, or a server other than Amazon S3 may have changed a value.
    Unknown,
}
