//! Finds copies that may lack attributes that are set after the bytes.

use super::Sides;
use crate::bucket::Bucket;
use crate::listing::Entry;
use crate::location::ObjectKey;
use crate::manifest::job::Attribute;
use crate::plan::attributes::Reads;
use crate::s3::{Capabilities, Failure, FailureKind, Head};

impl Sides {
    /// Returns HEAD of the copy at the key if it may lack attributes that are set after the bytes.
    ///
    /// Tags that are too long for a header are set in one request, so a copy that should have tags
    /// and has none lacks all of them. If nothing shows its tags, the copy may lack them.
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
            // CopyObject copies these with the object.
            Some(source)
                if Reads::of(
                    &self.transfer,
                    capabilities,
                    &self.listed_route(entry, key)?,
                )
                .tags =>
            {
                self.has_tags(source, entry).await?
            }
            _ => false,
        };
        if !wants {
            return Ok(None);
        }
        let head = self.destination.head(key, None);
        let head = self.destination.with_slot(head).await?;
        let lacks_tags = self.lacks_tags(key, &head).await?;
        Ok(Some(head).filter(|_| lacks_tags != Some(false)))
    }

    /// Returns true if a copy has no tags, or `None` if the server does not show them. HEAD shows
    /// the number of tags only if there are any and the caller may read them, so their absence is
    /// asked for.
    pub(super) async fn lacks_tags(
        &self,
        key: &ObjectKey,
        head: &Head,
    ) -> Result<Option<bool>, Failure> {
        if let Some(count) = head.tag_count {
            return Ok(Some(count == 0));
        }
        let tags = self.destination.tags(key, head.version.as_deref());
        match self.destination.with_slot(tags).await {
            Ok(tags) => Ok(Some(tags.is_empty())),
            Err(failure)
                if matches!(
                    failure.kind(),
                    FailureKind::Denied
                        | FailureKind::Unsupported
                        | FailureKind::NotUnderstood
                        | FailureKind::Unreadable
                        | FailureKind::Invalid
                        | FailureKind::NotFound
                ) =>
            {
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Returns true if an object of the source has tags that a copy can get. Asks for them if HEAD
    /// shows no number and the server may have hidden it.
    async fn has_tags(&self, source: &Bucket, entry: &Entry) -> Result<bool, Failure> {
        let version = entry.version.as_deref();
        let head = source.with_slot(source.head(&entry.key, version)).await?;
        if head.tag_count.is_some() || !source.capabilities().may_have_tags(&head) {
            return Ok(head.tag_count.is_some_and(|count| count > 0));
        }
        match source.with_slot(source.tags(&entry.key, version)).await {
            Ok(tags) => Ok(!tags.is_empty()),
            // Another copy would not get them either.
            Err(failure) if *failure.kind() == FailureKind::Denied || failure.is_no_answer() => {
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Returns true if copies get attributes that no header carries.
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

    /// Returns true if copies get their tags in a request after the one that writes them.
    pub(super) fn sets_tags_late(&self) -> bool {
        let Capabilities {
            tags, tag_headers, ..
        } = *self.destination.capabilities();
        let sets = !self.transfer.set.tags.is_empty();
        tags && !tag_headers && (sets || self.transfer.preserve.tags.keeps())
    }
}
