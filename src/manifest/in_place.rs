//! In-place changes: transfers whose source is their destination. They change the attributes of
//! objects and keep the bytes.

use super::job::{
    Attribute, CustomerKeys, OnMismatch, Prove, SetValues, Source, Transfer, Versions, When,
};

impl Transfer {
    /// Returns true if the transfer writes each object to the bucket and key from which it reads
    /// the object. Assumes that both endpoints lead to one server. Returns false for `as_of`,
    /// because such a transfer does not read the objects that it replaces.
    #[must_use]
    pub fn is_onto_itself(&self) -> bool {
        let to = &self.to.location;
        let key = match &self.from {
            Source::Object {
                location,
                version: None,
                ..
            }
            | Source::Prefix { location, .. }
                if location.bucket == to.bucket =>
            {
                &location.key
            }
            _ => return false,
        };
        let is_same_key = *key == to.key
            || (matches!(self.from, Source::Object { .. })
                && to.key.is_prefix()
                && key.as_str().strip_prefix(to.key.as_str()) == Some(key.file_name()));
        is_same_key && self.keys.is_identity() && !matches!(self.versions, Versions::AsOf(_))
    }

    /// Returns true if the transfer sets an attribute, or drops one that an object may have.
    pub(crate) fn changes_attributes(&self) -> bool {
        let CustomerKeys {
            source,
            destination,
        } = &self.customer_keys;
        let drops = |attribute: Attribute| match attribute {
            Attribute::Metadata
            | Attribute::Headers
            | Attribute::Tags
            | Attribute::StorageClass
            | Attribute::Encryption
            | Attribute::Lock => !self.preserve.of(attribute).keeps(),
            // `skip` is the default here, so it does not mean that the user wants to drop them.
            Attribute::Acl | Attribute::Annotations => false,
        };
        self.to.storage_class.is_some()
            || self.to.encryption.is_some()
            || self.to.acl.is_some()
            || self.set != SetValues::default()
            || (destination.is_some() && source != destination)
            || Attribute::ALL.into_iter().any(drops)
    }

    /// Returns a message and a remedy if a transfer onto itself cannot be an in-place change.
    pub(super) fn in_place_mistake(&self, place: &str) -> Option<(String, String)> {
        let (message, remedy) = if self.versions == Versions::All {
            (
                format!("{place} would get each of its versions once more"),
                "remove `versions: all`: an in-place change is about the current versions",
            )
        } else if !self.changes_attributes() {
            (
                format!("{place} would be copied onto itself, and there is nothing to change"),
                "name what to change: `storage_class`, `set`, `encryption`, or `acl`; or write to another bucket or prefix",
            )
        } else if self.when == When::Missing {
            (
                format!(
                    "with `when: missing` nothing in {place} would change: every object is there"
                ),
                "remove `when: missing`",
            )
        } else if self.proof.on_mismatch == OnMismatch::Remove {
            (
                format!(
                    "{place} is changed in place: `on_mismatch: remove` could remove the only copy"
                ),
                "remove it",
            )
        } else if self.proof.prove == Prove::Read {
            (
                format!(
                    "{place} is changed in place: `prove: read` reads both sides, and they are one object"
                ),
                "remove it; S3 compares the checksums",
            )
        } else {
            return None;
        };
        Some((message, remedy.to_owned()))
    }
}
