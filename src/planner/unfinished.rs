//! Finds copies that may lack attributes that s3haul sets after the bytes.

use super::Sides;
use crate::bucket::Bucket;
use crate::listing::Entry;
use crate::location::ObjectKey;
use crate::manifest::job::Attribute;
use crate::plan::attributes::Reads;
use crate::s3::{Capabilities, Failure, FailureKind, Head};

impl Sides {
    /// Returns HEAD of the copy at the key if the copy may lack attributes that s3haul sets after
    /// the bytes.
    ///
    /// s3haul sets tags that are too long for a header in one request, so an unfinished copy has
    /// either all of them or none. If its tags cannot be read, the copy may lack them.
    pub(super) async fn unfinished(
        &self,
        entry: &Entry,
        key: &ObjectKey,
    ) -> Result<Option<Head>, Failure> {
        if self.finishes_late() {
            return Ok(Some(
                self.destination
                    .with_slot(self.destination.head(key, None))
                    .await?,
            ));
        }
        let capabilities = self.destination.capabilities();
        let sets = !self.transfer.set.tags.is_empty();
        let wants = match &self.source {
            _ if !capabilities.tags => false,
            _ if sets => true,
            // `Reads::tags` is false if CopyObject copies the tags itself. Such tags cannot be
            // missing.
            Some(source)
                if Reads::of(
                    &self.transfer,
                    capabilities,
                    &self.listed_route(entry, key)?,
                )
                .tags =>
            {
                let (key, version) = (&entry.key, entry.version.as_deref());
                let head = source.with_slot(source.head(key, version)).await?;
                // If the source's tags cannot be read, another copy would not get them either.
                tag_presence(source, key, version, &head).await? == TagPresence::Tagged
            }
            _ => false,
        };
        if !wants {
            return Ok(None);
        }
        let destination = &self.destination;
        let there = destination.with_slot(destination.head(key, None)).await?;
        let presence = tag_presence(destination, key, None, &there).await?;
        Ok((presence != TagPresence::Tagged).then_some(there))
    }

    /// Returns true if this destination needs separate requests for an attribute of every copy, so
    /// that any copy may be unfinished.
    fn finishes_late(&self) -> bool {
        let keeps = |attribute| self.transfer.preserve.of(attribute).keeps();
        let is_set_late = |attribute| match attribute {
            Attribute::Tags => self.sets_tags_late(),
            Attribute::Annotations => {
                self.destination.capabilities().annotations && keeps(attribute)
            }
            Attribute::Metadata
            | Attribute::Headers
            | Attribute::StorageClass
            | Attribute::Encryption
            | Attribute::Lock
            | Attribute::Acl => false,
        };
        Attribute::ALL.into_iter().any(is_set_late)
    }

    /// Returns true if copies get their tags in a second request.
    pub(super) fn sets_tags_late(&self) -> bool {
        let Capabilities {
            tags, tag_headers, ..
        } = *self.destination.capabilities();
        let sets = !self.transfer.set.tags.is_empty();
        tags && !tag_headers && (sets || self.transfer.preserve.tags.keeps())
    }
}

/// The answer to whether an object has tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TagPresence {
    /// The object has tags.
    Tagged,
    /// The object has no tags.
    Untagged,
    /// The tags may not be read.
    Denied,
    /// The server does not show tags.
    NotShown,
}

impl TagPresence {
    fn of(is_tagged: bool) -> Self {
        if is_tagged {
            Self::Tagged
        } else {
            Self::Untagged
        }
    }
}

/// Finds out if an object with this HEAD has tags. Requests the tags if HEAD shows no tag count and
/// the server may have hidden it.
pub(super) async fn tag_presence(
    bucket: &Bucket,
    key: &ObjectKey,
    version: Option<&str>,
    head: &Head,
) -> Result<TagPresence, Failure> {
    if head.tag_count.is_some() || !bucket.capabilities().may_have_tags(head) {
        return Ok(TagPresence::of(head.tag_count > Some(0)));
    }
    match bucket.with_slot(bucket.tags(key, version)).await {
        Ok(tags) => Ok(TagPresence::of(!tags.is_empty())),
        Err(failure) if *failure.kind() == FailureKind::Denied => Ok(TagPresence::Denied),
        Err(failure) if failure.is_no_answer() => Ok(TagPresence::NotShown),
        Err(failure) => Err(failure),
    }
}
