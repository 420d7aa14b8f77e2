//! Maps the key of an object to its key at the destination.
//!
//! A destination that ends in a slash, or is the root of the bucket, is a prefix, to which the
//! mapped relative key is appended. Any other destination is the exact key of the transfer's only
//! object. The relative key of a single object or file is its file name. The relative key of an
//! object below a prefix is the rest of its key after the prefix. The relative key of a file below
//! a directory is its path from there, with `/` on every platform.
//!
//! Source and destination can be compared by merging two listings only if the map keeps the order
//! of keys. [`KeyMap::preserves_order`] decides this from the rules alone.

use thiserror::Error;

use crate::location::{LocationError, ObjectKey};
use crate::manifest::keys::{KeyMap, Piece, Template};

/// The reasons why an object cannot get a key at the destination.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RemapError {
    /// The key does not begin with `strip_prefix`.
    #[error("`{key}` does not begin with `{prefix}`, which keys.strip_prefix removes")]
    PrefixMissing {
        /// The relative key.
        key: String,
        /// The prefix to strip.
        prefix: String,
    },
    /// The mapped key would be empty.
    #[error("nothing would be left of `{0}` as a key")]
    Empty(String),
    /// The new key is too long for S3.
    #[error(transparent)]
    TooLong(#[from] LocationError),
}

impl KeyMap {
    /// Returns the destination key of an object with the relative key `relative` and `size` bytes.
    /// `to` is the key of the destination's location.
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
        let stripped =
            match &self.strip_prefix {
                Some(prefix) => relative.strip_prefix(prefix.as_str()).ok_or_else(|| {
                    RemapError::PrefixMissing {
                        key: relative.to_owned(),
                        prefix: prefix.clone(),
                    }
                })?,
                None => relative,
            };
        let added = self.add_prefix.as_deref().unwrap_or_default();
        let usual_length = to.as_str().len() + added.len() + stripped.len();
        let mut key = String::with_capacity(usual_length);
        key.push_str(to.as_str());
        key.push_str(added);
        match &self.rename {
            Some(template) => template.render(stripped, size, &mut key),
            None => key.push_str(stripped),
        }
        if key.is_empty() {
            return Err(RemapError::Empty(relative.to_owned()));
        }
        Ok(ObjectKey::new(&key)?)
    }

    /// Returns the relative key that maps to `key`: the inverse of [`KeyMap::destination_key`] for
    /// maps that keep the order of keys. Returns `None` for other maps, and if no relative key maps
    /// to `key`.
    #[must_use]
    pub fn relative_of(&self, to: &ObjectKey, key: &str) -> Option<String> {
        let rest = key.strip_prefix(to.as_str()).filter(|_| to.is_prefix())?;
        let rest = rest.strip_prefix(self.add_prefix.as_deref().unwrap_or_default())?;
        let rest = match self.rename.as_ref().map(Template::pieces) {
            None | Some([Piece::Key]) => rest,
            Some([Piece::Literal(text), Piece::Key]) => rest.strip_prefix(text.as_str())?,
            Some(_) => return None,
        };
        Some(format!(
            "{}{rest}",
            self.strip_prefix.as_deref().unwrap_or_default()
        ))
    }

    /// Returns true if destination keys sort like source keys. Removing one prefix from all keys,
    /// or adding one, keeps the order. A template keeps the order only if it is fixed text followed
    /// by `{key}`.
    #[must_use]
    pub fn preserves_order(&self) -> bool {
        self.rename.as_ref().is_none_or(|template| {
            matches!(
                template.pieces(),
                [Piece::Key] | [Piece::Literal(_), Piece::Key]
            )
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(strip: Option<&str>, rename: Option<&str>, add: Option<&str>) -> KeyMap {
        KeyMap {
            strip_prefix: strip.map(str::to_owned),
            add_prefix: add.map(str::to_owned),
            rename: rename.map(|text| text.parse().unwrap()),
        }
    }

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    fn mapped(map: &KeyMap, to: &str, relative: &str) -> String {
        map.destination_key(&key(to), relative, 42)
            .unwrap()
            .to_string()
    }

    #[test]
    fn keys_go_below_the_destination_or_are_exact() {
        let plain = KeyMap::default();
        for (to, relative, expected) in [
            ("ev2/", "2026/x", "ev2/2026/x"),
            ("", "2026/x", "2026/x"),
            ("ev2/", "", "ev2/"),
            ("ev2/", "/x", "ev2//x"),
            ("exact", "name", "exact"),
        ] {
            assert_eq!(mapped(&plain, to, relative), expected);
        }
    }

    #[test]
    fn strip_then_rename_then_add() {
        let all = map(Some("raw/"), Some("{dir}{stem}-{size}{ext}"), Some("2025/"));
        assert_eq!(
            mapped(&all, "cold/", "raw/cam/a.tar.gz"),
            "cold/2025/cam/a.tar-42.gz"
        );
        assert_eq!(mapped(&all, "", "raw/.profile"), "2025/.profile-42");
        assert_eq!(mapped(&map(None, Some("{{{key}}}"), None), "", "a"), "{a}");
        assert_eq!(
            mapped(&map(None, Some("v1/{dir}{name}"), None), "", "x/y"),
            "v1/x/y"
        );
    }

    #[test]
    fn keys_that_can_not_be_mapped_are_named() {
        let strip = map(Some("raw/"), None, None);
        let error = |map: &KeyMap, to: &str, relative: &str| {
            map.destination_key(&key(to), relative, 0).unwrap_err()
        };
        let missing = error(&strip, "to/", "other/x");
        assert_eq!(
            missing.to_string(),
            "`other/x` does not begin with `raw/`, which keys.strip_prefix removes"
        );
        assert_eq!(
            error(&strip, "", "raw/"),
            RemapError::Empty("raw/".to_owned())
        );
        let long = "k".repeat(1024);
        assert!(matches!(
            error(&KeyMap::default(), "a/", &long),
            RemapError::TooLong(_)
        ));
    }

    proptest! {
        #[test]
        fn the_pieces_of_a_name_make_the_name(relative in "[a-c./]{1,12}") {
            let whole = map(None, Some("{dir}{stem}{ext}"), None);
            prop_assert_eq!(mapped(&whole, "to/", &relative), format!("to/{relative}"));
        }

        #[test]
        fn order_is_kept_where_it_is_promised(
            mut relatives in prop::collection::btree_set("p/[ -~ü]{0,6}", 2..8),
            strip in prop::option::of(Just("p/")),
            add in prop::option::of("[ -~]{1,4}"),
            rename in prop::option::of(prop::sample::select(vec!["{key}", "x{key}", "{key}x", "{dir}{name}", "{name}/{dir}"])),
        ) {
            let map = map(strip, rename, add.as_deref());
            relatives.remove("p/");
            let keys: Vec<_> = relatives.iter().map(|relative| mapped(&map, "to/", relative)).collect();
            if map.preserves_order() {
                prop_assert!(keys.is_sorted(), "{keys:?}");
                for (relative, mapped) in relatives.iter().zip(&keys) {
                    prop_assert_eq!(map.relative_of(&key("to/"), mapped), Some(relative.clone()));
                }
            }
            prop_assert_eq!(map.relative_of(&key("to/"), "elsewhere"), None);
            let fixed = format!("to/{}", map.fixed_prefix());
            prop_assert!(keys.iter().all(|key| key.starts_with(&fixed)), "{:?} {}", keys, fixed);
        }
    }

    #[test]
    fn only_templates_that_tell_objects_apart_are_accepted() {
        for (text, is_accepted) in [
            ("{key}.bak", true),
            ("{size}/{key}", true),
            ("{ext}/{dir}{stem}", true),
            ("{name}/{dir}", true),
            ("{key}-{size}", true),
            ("{dir}{size}{ext}-x/{stem}", true),
            ("{dir}{stem}-{size}{ext}", true),
            ("{dir}v{size}-{stem}.old{ext}", true),
            ("{dir}{ext}-{stem}", false),
            ("{name}-{dir}", false),
            ("{stem}_{dir}{ext}", false),
            ("{dir}{size}{ext}-{stem}", false),
            ("{dir}{stem}{size}{ext}", false),
            ("{key}0{size}", false),
            ("{dir}{key}", false),
            ("{dir}{stem}", false),
        ] {
            assert_eq!(text.parse::<Template>().is_ok(), is_accepted, "{text}");
        }
    }

    const PIECES: [&str; 12] = [
        "{key}", "{dir}", "{dir}", "{name}", "{stem}", "{stem}", "{ext}", "{size}", "/", "-", "1",
        "a.",
    ];

    proptest! {
        #[test]
        fn accepted_templates_give_each_object_a_key_of_its_own(
            pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 1..7),
            relatives in prop::collection::btree_set("[a1./-]{1,5}", 1..300),
        ) {
            let Ok(template) = pieces.concat().parse::<Template>() else {
                return Ok(());
            };
            let mut made = std::collections::HashMap::new();
            for relative in &relatives {
                for size in [1, 11] {
                    let mut key = String::new();
                    template.render(relative, size, &mut key);
                    let before = made.insert(key, relative);
                    prop_assert!(
                        before.is_none_or(|before| before == relative),
                        "{} {:?} {}", template.as_str(), before, relative
                    );
                }
            }
        }
    }

    #[test]
    fn only_fixed_text_before_the_key_keeps_the_order() {
        for (rename, kept) in [
            ("{key}", true),
            ("a/{key}", true),
            ("{key}.bak", false),
            ("{size}/{key}", false),
            ("{dir}{name}", false),
        ] {
            assert_eq!(
                map(Some("x"), Some(rename), Some("y")).preserves_order(),
                kept,
                "{rename}"
            );
        }
        assert!(KeyMap::default().preserves_order());
    }
}
