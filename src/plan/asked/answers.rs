//! Determines the requests for attributes that HEAD does not show, and compares the responses with
//! the requested attributes.
//!
//! HEAD shows the number of tags but not their values, and it does not show the ACL. It hides tags
//! and locks from callers without permission to read them. Each of these attributes needs a
//! separate request.

use super::{Asked, is_weaker, tags_instead_of};
use crate::manifest::job::Attribute;
use crate::plan::in_place::has_acl;
use crate::s3::{Grant, Head, Operation, Retention, Tag, Tags};

/// The kind of the tags that S3 copies itself, see [`Asked::kinds`].
pub const TAGS_OF_SOURCE: &str = "tags of the source";

/// An attribute that a separate request must check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeQuestion {
    /// The attribute.
    pub attribute: Attribute,
    /// The request that returns the attribute.
    pub by: Operation,
    /// The kind of attribute that a bucket is known to keep once it has kept one, see
    /// [`Asked::kinds`].
    pub kind: &'static str,
    /// True if HEAD shows nothing about the attribute.
    pub is_hidden: bool,
}

/// A difference between an object and the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlike {
    /// The object does not have the attribute, because the server ignored it.
    Nothing,
    /// The object has another value. Contains a description of the difference, worded the same for
    /// all objects of a bucket.
    Other(String),
}

impl Unlike {
    fn other(how: &str) -> Self {
        Self::Other(how.to_owned())
    }
}

impl Asked<'_> {
    /// Returns the requested attributes that HEAD does not show. S3 omits values that the caller
    /// may not read, so a missing value proves nothing.
    pub fn questions(&self, found: &Head) -> impl Iterator<Item = AttributeQuestion> {
        let lock = &self.attributes.lock;
        let tags = self.tag_kind().filter(|_| {
            let is_other = |count: u32| self.tags().is_some_and(|asked| asked != count);
            match found.tag_count {
                // The number is correct, but the values may differ.
                Some(count) => self.tag_values().is_some() && !is_other(count),
                None => true,
            }
        });
        let retention = lock.retention.is_some() && found.lock.retention.is_none();
        let hold = lock.legal_hold == Some(true) && found.lock.legal_hold.is_none();
        let acl = self.acl_kind();
        let question = |attribute, by| {
            move |kind| AttributeQuestion {
                attribute,
                by,
                kind,
                is_hidden: true,
            }
        };
        let is_hidden = found.tag_count.is_none();
        let tags = tags
            .map(question(Attribute::Tags, Operation::GetObjectTagging))
            .map(|tags| AttributeQuestion { is_hidden, ..tags });
        let retention = retention.then_some("retention");
        let hold = hold.then_some("legal hold");
        let all = [
            tags,
            retention.map(question(Attribute::Lock, Operation::GetObjectRetention)),
            hold.map(question(Attribute::Lock, Operation::GetObjectLegalHold)),
            acl.map(question(Attribute::Acl, Operation::GetObjectAcl)),
        ];
        all.into_iter().flatten()
    }

    /// Returns the kind of the requested tags, if there are any: a server that keeps tags of one
    /// kind may lose those of another.
    pub(super) fn tag_kind(&self) -> Option<&'static str> {
        if self.tags()? == 0 {
            return None;
        }
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match &self.attributes.tags {
            Tags::AsSource => Some(TAGS_OF_SOURCE),
            Tags::Exactly(tags)
                if tags
                    .iter()
                    .all(|tag| is_plain(&tag.key) && is_plain(&tag.value)) =>
            {
                Some("tags")
            }
            Tags::Exactly(_) => Some("tags with special characters"),
        }
    }

    /// Returns the name of the requested ACL, if the grants of the object show whether it has that
    /// ACL.
    pub(super) fn acl_kind(&self) -> Option<&'static str> {
        match self.attributes.acl {
            Some(acl) => has_acl(acl, &[]).map(|_| acl.name()),
            None => (!self.attributes.grants.is_empty()).then_some("grants"),
        }
    }

    /// Compares the tags of the object with the requested tags.
    #[must_use]
    pub fn unlike_tags(&self, found: &[Tag]) -> Option<Unlike> {
        let asked = self.tags().unwrap_or_default();
        if asked > 0 && found.is_empty() {
            return Some(Unlike::Nothing);
        }
        if asked as usize != found.len() {
            let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
            return Some(Unlike::Other(tags_instead_of(count, asked)));
        }
        let is_there = |tag: &Tag| found.contains(tag);
        let values = self.tag_values().unwrap_or_default();
        (!values.iter().all(is_there)).then(|| Unlike::other("other values"))
    }

    /// Compares the retention of the object with the requested retention.
    #[must_use]
    pub fn unlike_retention(&self, found: Option<&Retention>) -> Option<Unlike> {
        let asked = self.attributes.lock.retention.as_ref()?;
        match found {
            None => Some(Unlike::Nothing),
            Some(found) => is_weaker(asked, found).then(|| Unlike::other("a weaker retention")),
        }
    }

    /// Compares the legal hold of the object with the requested hold.
    #[must_use]
    pub fn unlike_hold(&self, found: Option<bool>) -> Option<Unlike> {
        let is_asked_for = self.attributes.lock.legal_hold == Some(true);
        (is_asked_for && found != Some(true)).then_some(Unlike::Nothing)
    }

    /// Compares the grants of the object with the requested ACL or grants. `found` is empty if only
    /// the owner has grants. Additional grants do not count.
    #[must_use]
    pub fn unlike_grants(&self, found: &[Grant]) -> Option<Unlike> {
        if let Some(acl) = self.attributes.acl {
            let is_other = has_acl(acl, found) == Some(false);
            return is_other.then(|| Unlike::Other(format!("other grants than {}", acl.name())));
        }
        let asked = &self.attributes.grants;
        if asked.iter().all(|grant| found.contains(grant)) {
            return None;
        }
        Some(if found.is_empty() {
            Unlike::Nothing
        } else {
            Unlike::other("other grants")
        })
    }
}
