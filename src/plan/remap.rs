//! Which key an object gets at the destination.
//!
//! A destination that ends in a slash (or is the bucket's root) is a prefix: the mapped relative key is appended.
//! Any other destination is the exact key for the one object of the transfer. The relative key of a single object
//! or file is its file name; of an object below a prefix, what stands behind the prefix; of a file below a
//! directory, its path from there with `/` on every platform.
//!
//! Whether the map keeps the order of keys decides if source and destination can be compared by merging two
//! listings; [`KeyMap::preserves_order`] says so from the rules alone.

use thiserror::Error;

use crate::location::{LocationError, ObjectKey};
use crate::manifest::keys::{KeyMap, Piece, Template};

/// Why an object gets no key at the destination.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RemapError {
    /// `strip_prefix` asks for something that the key does not have.
    #[error("`{key}` does not begin with `{prefix}`, which keys.strip_prefix takes off")]
    PrefixMissing {
        /// The relative key.
        key: String,
        /// What should be taken off.
        prefix: String,
    },
    /// Nothing would be left of the key.
    #[error("nothing would be left of `{0}` as a key")]
    Empty(String),
    /// The new key is too long for S3.
    #[error(transparent)]
    TooLong(#[from] LocationError),
}

impl KeyMap {
    /// The key at the destination for the object with `relative` key and `size` bytes, where `to` is the key of
    /// the destination's location.
    ///
    /// # Errors
    /// [`RemapError`], with the key in its text.
    pub fn destination_key(
        &self,
        to: &ObjectKey,
        relative: &str,
        size: u64,
    ) -> Result<ObjectKey, RemapError> {
        if !to.is_prefix() {
            return Ok(to.clone());
        }
        let stripped = match &self.strip_prefix {
            Some(prefix) => relative.strip_prefix(prefix.as_str()).ok_or_else(|| {
                RemapError::PrefixMissing { key: relative.to_owned(), prefix: prefix.clone() }
            })?,
            None => relative,
        };
        let mut key = to.as_str().to_owned();
        key.push_str(self.add_prefix.as_deref().unwrap_or_default());
        match &self.rename {
            Some(template) => template.render(stripped, size, &mut key),
            None => key.push_str(stripped),
        }
        if key.is_empty() {
            return Err(RemapError::Empty(relative.to_owned()));
        }
        Ok(ObjectKey::new(&key)?)
    }

    /// True when destination keys sort as source keys do. Taking the same bytes off every key, or putting the
    /// same bytes in front of it, keeps the order; a template does only if it is fixed text and then `{key}`.
    #[must_use]
    pub fn preserves_order(&self) -> bool {
        self.rename.as_ref().is_none_or(|template| {
            matches!(template.pieces(), [Piece::Key] | [Piece::Literal(_), Piece::Key])
        })
    }
}

impl Template {
    /// Appends the template with its placeholders filled in.
    fn render(&self, key: &str, size: u64, out: &mut String) {
        let name_at = key.rfind('/').map_or(0, |slash| slash + 1);
        let (dir, name) = key.split_at(name_at);
        let (stem, ext) = match name.rfind('.') {
            Some(dot) if dot > 0 => name.split_at(dot),
            _ => (name, ""),
        };
        for piece in self.pieces() {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Key => out.push_str(key),
                Piece::Dir => out.push_str(dir),
                Piece::Name => out.push_str(name),
                Piece::Stem => out.push_str(stem),
                Piece::Ext => out.push_str(ext),
                Piece::Size => out.push_str(&size.to_string()),
            }
        }
    }
}
