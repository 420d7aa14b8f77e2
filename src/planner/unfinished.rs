//! Finds copies that may lack attributes that are set after the bytes.

use super::Sides;
use crate::listing::Entry;
use crate::location::ObjectKey;
use crate::manifest::job::Attribute;
use crate::plan::attributes::Reads;
use crate::s3::{Capabilities, Failure, Head};

impl Sides {
    /// Returns HEAD of the copy at the key if it may lack attributes that are set after the bytes.
    ///
    /// Tags that are too long for a header are set in one request, so a copy that should have tags
    /// and has none lacks all of them. If HEAD shows no number of tags, the copy may lack them.
    pub(super) async fn unfinished(
        &self,
        entry: &Entry,
        key: &ObjectKey,
    ) -> Result<Option<Head>, Failure> {
        let lacks = |head: &Head| head.tag_count.is_none_or(|count| count == 0);
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
        Ok(Some(
            self.destination
                .with_slot(self.destination.head(key, None))
                .await?,
        )
        .filter(lacks))
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
