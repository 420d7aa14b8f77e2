//! Compares a published object with the attributes that were requested for it.
//!
//! Amazon S3 refuses an attribute that it cannot set; other servers may ignore the attribute and
//! report success. HEAD shows the difference. Harmless changes by a server do not count as
//! differences: it may omit the storage class STANDARD, change the case of metadata names, trim
//! blanks around values, encode non-ASCII text, and add encryption, headers, or metadata.
//!
//! [`AttributeQuestion`] covers the attributes that HEAD does not show.

mod answers;
mod encryption;
mod headers;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;

pub use self::answers::{AttributeQuestion, TAGS_OF_SOURCE, Unlike};
pub(super) use self::encryption::{KeyAlias, unlike_encryption};
pub(super) use self::headers::{HeaderRules, unlike_headers};
use self::text::{is_alike, is_showable};
use crate::manifest::job::{Attribute, Encryption};
use crate::s3::{Attributes, Capabilities, ContentHeaders, Head, Operation, Retention, Tag, Tags};
use crate::size::display_counted;

/// The attributes that were requested for an object.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The attributes in the request that created the object.
    pub attributes: &'a Attributes,
    /// The tags of the source, for requests with which S3 copies the tags itself.
    pub source_tags: SourceTags<'a>,
    /// True if a customer key (SSE-C) was sent.
    pub customer_key: bool,
    /// The request that carried the attributes.
    pub write: Operation,
    /// True to compare the tags of this object even if the bucket has kept tags before.
    pub compares_tags: bool,
}

/// The knowledge of s3haul about the tags of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceTags<'a> {
    /// The tags are unknown.
    #[default]
    Unknown,
    /// HEAD shows this number of tags.
    Counted(u32),
    /// s3haul has read the tags.
    Read(&'a [Tag]),
}

/// An attribute that differs from the request, and a description of the difference, worded the same
/// for all objects of a bucket.
pub type AttributeDifference = (Attribute, String);

impl<'a> Asked<'a> {
    /// Returns the attributes in a request, without tags that S3 copies from a source.
    #[must_use]
    pub fn of(attributes: &'a Attributes, write: Operation, customer_key: bool) -> Self {
        Self {
            attributes,
            source_tags: SourceTags::Unknown,
            customer_key,
            write,
            compares_tags: false,
        }
    }

    /// Returns the tags that the object must have, if they are known.
    #[must_use]
    pub fn tag_values(&self) -> Option<&'a [Tag]> {
        match (&self.attributes.tags, self.source_tags) {
            (Tags::Exactly(tags), _) => Some(tags),
            (Tags::AsSource, SourceTags::Read(tags)) => Some(tags),
            (Tags::AsSource, _) => None,
        }
    }

    /// Returns the number of tags that the object must have, or `None` if the number is not known.
    #[must_use]
    pub fn tags(&self) -> Option<u32> {
        match (self.tag_values(), self.source_tags) {
            (Some(tags), _) => u32::try_from(tags.len()).ok(),
            (None, SourceTags::Counted(count)) => Some(count),
            (None, _) => None,
        }
    }

    /// Returns the kinds of attributes in the request, starting with the object itself. A server
    /// that has kept an attribute of one kind supports that kind. Non-ASCII text and encoded text
    /// are separate kinds, because some servers lose only those.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        // Destructure, so that the compiler reports any attribute or header without a kind.
        let Attributes {
            headers,
            metadata,
            tags: _,
            storage_class,
            encryption,
            checksum: _,
            lock,
            grants: _,
            acl: _,
            annotations: _,
        } = self.attributes;
        let ContentHeaders {
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
            expires,
            website_redirect,
        } = headers;
        let is_odd = |text: &String| !is_showable(text) || text.contains("=?");
        let texts = [content_disposition, website_redirect];
        let all = [
            ("object", true),
            ("metadata", !metadata.is_empty()),
            ("metadata outside ASCII", metadata.values().any(is_odd)),
            (
                "headers outside ASCII",
                texts.into_iter().flatten().any(is_odd),
            ),
            (
                "storage class",
                storage_class
                    .as_ref()
                    .is_some_and(|class| class != "STANDARD"),
            ),
            ("encryption", encryption.is_some() || self.customer_key),
            ("retention", lock.retention.is_some()),
            ("legal hold", lock.legal_hold == Some(true)),
            ("Content-Type", content_type.is_some()),
            ("Content-Encoding", content_encoding.is_some()),
            ("Content-Language", content_language.is_some()),
            ("Content-Disposition", content_disposition.is_some()),
            ("Cache-Control", cache_control.is_some()),
            ("Expires", expires.is_some()),
            ("redirect", website_redirect.is_some()),
        ];
        all.into_iter()
            .filter_map(|(name, is_asked_for)| is_asked_for.then_some(name))
            .chain(self.tag_kind())
            .chain(self.acl_kind())
            .collect()
    }

    /// Returns the differences from the request that HEAD shows. For attributes that HEAD does not
    /// show, see [`Asked::questions`].
    #[must_use]
    pub fn differences(&self, found: &Head) -> Vec<AttributeDifference> {
        // The proof of the copy compares checksums. Other requests show grants, the ACL, and
        // annotations.
        let Attributes {
            headers,
            metadata: _,
            tags: _,
            storage_class,
            encryption: _,
            checksum: _,
            lock,
            grants: _,
            acl: _,
            annotations: _,
        } = self.attributes;
        let metadata = unlike_metadata(&self.attributes.metadata, found, true)
            .map(|how| (Attribute::Metadata, how.to_owned()));
        let rules = HeaderRules {
            compares_others: false,
            may_add: true,
        };
        let headers = unlike_headers(headers, &found.headers, rules)
            .map(|name| (Attribute::Headers, format!("another {name}")));
        let tags = self
            .tags()
            .zip(found.tag_count)
            .filter(|(asked, shown)| *asked > 0 && asked != shown);
        let tags = tags.map(|(asked, shown)| (Attribute::Tags, tags_instead_of(shown, asked)));
        let shown_class = found.storage_class.as_deref().unwrap_or("STANDARD");
        let class = storage_class
            .as_deref()
            .filter(|asked| *asked != shown_class);
        let class = class.map(|asked| {
            (
                Attribute::StorageClass,
                format!("{shown_class} instead of {asked}"),
            )
        });
        let encryption = self
            .encryption(found)
            .map(|how| (Attribute::Encryption, how.to_owned()));
        let retention = lock.retention.as_ref().zip(found.lock.retention.as_ref());
        let retention = retention
            .is_some_and(|(asked, shown)| is_weaker(asked, shown))
            .then(|| (Attribute::Lock, "a weaker retention".to_owned()));
        let hold = (lock.legal_hold == Some(true) && found.lock.legal_hold == Some(false))
            .then(|| (Attribute::Lock, "no legal hold".to_owned()));
        let all = [metadata, headers, tags, class, encryption, retention, hold];
        all.into_iter().flatten().collect()
    }

    /// Returns an attribute in which an object differs from what the request would have made, as far
    /// as HEAD shows. Unlike [`Asked::differences`], this includes attributes that were not
    /// requested. The bucket may have added another type of encryption than KMS, a lock, or a
    /// content type by itself.
    #[must_use]
    pub fn unlike_copy(&self, found: &Head, capabilities: &Capabilities) -> Option<Attribute> {
        if let Some((attribute, _)) = self.differences(found).into_iter().next() {
            return Some(attribute);
        }
        let Attributes {
            headers,
            metadata,
            storage_class,
            encryption,
            ..
        } = self.attributes;
        let is_asked_for = |name: &String| {
            metadata
                .keys()
                .any(|asked| asked.eq_ignore_ascii_case(name))
        };
        if !found.metadata.keys().all(is_asked_for) {
            return Some(Attribute::Metadata);
        }
        let shown_type = found.headers.content_type.clone();
        let headers = ContentHeaders {
            content_type: headers.content_type.clone().or(shown_type),
            ..headers.clone()
        };
        let rules = HeaderRules {
            compares_others: true,
            may_add: !capabilities.is_amazon,
        };
        if unlike_headers(&headers, &found.headers, rules).is_some() {
            return Some(Attribute::Headers);
        }
        // Elsewhere, the usual class may have another name.
        let has_classes = capabilities.restore_status_in_lists && !capabilities.directory;
        let shown_class = found.storage_class.as_deref().unwrap_or("STANDARD");
        if has_classes && storage_class.as_deref().unwrap_or("STANDARD") != shown_class {
            return Some(Attribute::StorageClass);
        }
        let is_kms = matches!(found.encryption, Some(Encryption::Kms { .. }));
        (is_kms && encryption.is_none()).then_some(Attribute::Encryption)
    }

    fn encryption(&self, found: &Head) -> Option<&'static str> {
        if self.customer_key {
            return (!found.customer_key).then_some("no encryption with the customer key");
        }
        let asked = self.attributes.encryption.as_ref()?;
        unlike_encryption(asked, found.encryption.as_ref(), KeyAlias::Any)
    }
}

/// Returns the difference between the metadata of an object and the requested metadata. Additional
/// metadata does not count. `drops_empty` is true if the server may drop empty values.
pub(super) fn unlike_metadata(
    asked: &BTreeMap<String, String>,
    found: &Head,
    drops_empty: bool,
) -> Option<&'static str> {
    let shown = |name: &str| {
        let mut all = found.metadata.iter();
        all.find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    };
    let mut missing = 0;
    for (name, value) in asked {
        match shown(name) {
            Some(other) if is_alike(value, other) => {}
            Some(_) => return Some("other values"),
            None if drops_empty && value.trim().is_empty() => {}
            None if is_showable(name) && is_showable(value) => return Some("less of it"),
            None => missing += 1,
        }
    }
    // `missing_metadata` counts metadata that the server has kept but cannot show as headers.
    (missing > found.missing_metadata).then_some("less of it")
}

/// Describes a number of tags that differs from the requested number.
fn tags_instead_of(found: u32, asked: u32) -> String {
    format!(
        "{} instead of {asked}",
        display_counted(found.into(), "tag")
    )
}

/// Returns true if a retention is weaker than the requested one. A longer retention may be the
/// bucket's default.
fn is_weaker(asked: &Retention, shown: &Retention) -> bool {
    let strength =
        |retention: &Retention| u8::from(retention.mode.eq_ignore_ascii_case("COMPLIANCE"));
    strength(shown) < strength(asked) || shown.until.as_second() < asked.until.as_second()
}
