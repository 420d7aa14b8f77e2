//! Finds copies that may lack attributes that are set after the bytes.

use super::Sides;
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
                let head = source.head(&entry.key, entry.version.as_deref());
                source.with_slot(head).await?.tag_count > Some(0)
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

    /// Returns true if copies get attributes that no header carries.
    fn finishes_late(&self) -> bool {
        let keeps = |attribute| self.transfer.preserve.of(attribute).keeps();
        let annotations = self.destination.capabilities().annotations;
        self.sets_tags_late() || (annotations && keeps(Attribute::Annotations))
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
