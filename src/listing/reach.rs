//! Determines the keys that a listing must cover: all keys that a selection can admit, and as few
//! others as possible.
//!
//! The literal prefixes of `include` patterns are the prefixes of the list requests. The prefixes
//! are disjoint and listed in order, so keys arrive in order and only once. Within a prefix, a page
//! may end in a directory in which no key can be selected (`exclude: ["tmp/**"]`). The next page
//! then starts after that directory. This never costs an additional request, because the next page
//! is requested anyway.
//!
//! The reach of a destination is the image of the source's reach under the key map, if the map
//! keeps prefixes.

use std::sync::Arc;

use crate::location::ObjectKey;
use crate::manifest::job::Selection;
use crate::manifest::keys::{KeyMap, Piece, Template};

/// A character that sorts after every character that is likely to occur in keys. Keys after it are
/// still listed, so none is lost.
const LAST: char = '\u{10FFFD}';

/// A part of a bucket's keys.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The prefixes, in order; none is a prefix of another.
    prefixes: Arc<[ObjectKey]>,
    /// The byte offset of the relative part of all keys.
    relative_at: usize,
    /// The patterns; absent if the selection has none.
    patterns: Option<Arc<Patterns>>,
}

/// The position of a listing after a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// True if the server has more keys below the prefix of the page.
    pub more: bool,
    /// The index of the prefix that is listed next.
    pub prefix: usize,
}

/// A selection, and its relation to keys.
#[derive(Debug)]
struct Patterns {
    /// The selection.
    select: Selection,
    /// The text at the start of every key that its relative key lacks.
    head: String,
    /// The text at the start of every relative key that its key lacks.
    stripped: String,
}

impl Reach {
    /// Returns all keys that begin with `prefix`.
    #[must_use]
    pub fn below(prefix: &ObjectKey) -> Self {
        Self {
            prefixes: [prefix.clone()].into(),
            relative_at: prefix.as_str().len(),
            patterns: None,
        }
    }

    /// Returns the keys below a source's prefix that `select` can admit.
    #[must_use]
    pub fn of_source(select: &Selection, prefix: &ObjectKey) -> Self {
        Self::new(
            select,
            prefix.as_str().len(),
            prefix.as_str().to_owned(),
            String::new(),
        )
    }

    /// Returns the destination keys below `to` of the source keys that `select` can admit, for a
    /// key map that preserves the order.
    #[must_use]
    pub fn of_destination(select: &Selection, keys: &KeyMap, to: &ObjectKey) -> Self {
        let literal = match keys.rename.as_ref().map(Template::pieces) {
            None | Some([Piece::Key]) => "",
            Some([Piece::Literal(text), Piece::Key]) => text.as_str(),
            Some(_) => return Self::below(to),
        };
        let head = format!(
            "{to}{}{literal}",
            keys.add_prefix.as_deref().unwrap_or_default()
        );
        Self::new(
            select,
            to.as_str().len(),
            head,
            keys.strip_prefix.clone().unwrap_or_default(),
        )
    }

    fn new(select: &Selection, relative_at: usize, head: String, stripped: String) -> Self {
        let prefixes = select.prefixes();
        let prefixes = prefixes.iter().filter_map(|prefix| {
            let rest = match prefix.strip_prefix(stripped.as_str()) {
                Some(rest) => rest,
                // The stripped prefix is longer, so the pattern may match everything below it.
                None if stripped.starts_with(prefix) => "",
                None => return None,
            };
            // A prefix that is too long for S3 has no keys.
            ObjectKey::new(&format!("{head}{rest}")).ok()
        });
        let prefixes = prefixes.collect();
        let has_patterns = !(select.include.is_empty() && select.exclude.is_empty());
        let patterns = has_patterns.then(|| Patterns {
            select: select.clone(),
            head,
            stripped,
        });
        Self {
            prefixes,
            relative_at,
            patterns: patterns.map(Arc::new),
        }
    }

    /// Extends the prefixes to whole directories, because directory buckets only list prefixes that
    /// end in a slash.
    #[must_use]
    pub fn in_whole_directories(self) -> Self {
        let directory = |prefix: &ObjectKey| {
            let end = prefix.as_str().rfind('/').map_or(0, |slash| slash + 1);
            ObjectKey::new(prefix.as_str().get(..end)?).ok()
        };
        let mut prefixes: Vec<_> = self.prefixes.iter().filter_map(directory).collect();
        prefixes.sort();
        // A prefix covers the prefixes below it.
        prefixes.dedup_by(|next, kept| next.as_str().starts_with(kept.as_str()));
        Self {
            prefixes: prefixes.into(),
            relative_at: self.relative_at,
            patterns: None,
        }
    }

    /// Returns the prefixes to list, in order.
    #[must_use]
    pub fn prefixes(&self) -> &[ObjectKey] {
        &self.prefixes
    }

    /// Returns the byte offset of the relative part of a key.
    #[must_use]
    pub fn relative_at(&self) -> usize {
        self.relative_at
    }

    /// Returns the index of the first prefix that may have keys after `after`.
    #[must_use]
    pub fn first_behind(&self, after: Option<&str>) -> usize {
        let Some(after) = after else { return 0 };
        let is_over =
            |prefix: &ObjectKey| prefix.as_str() <= after && !after.starts_with(prefix.as_str());
        self.prefixes.partition_point(is_over)
    }

    /// Returns a text after all keys of the directory that contains this key, if the patterns
    /// exclude that directory. The listing can continue there.
    #[must_use]
    pub fn skip(&self, key: &str) -> Option<String> {
        let Patterns {
            select,
            head,
            stripped,
        } = self.patterns.as_deref()?;
        let rest = key.strip_prefix(head.as_str())?;
        let relative = format!("{stripped}{rest}");
        let ends = relative.match_indices('/').map(|(slash, _)| slash + 1);
        let end = ends.filter(|end| *end >= stripped.len()).find(|end| {
            relative
                .get(..*end)
                .is_some_and(|directory| select.leaves_out_all_below(directory))
        })?;
        let directory = key.get(..head.len() + end - stripped.len())?;
        Some(format!("{directory}{LAST}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::keys::KeyGlob;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    fn select(include: &[&str], exclude: &[&str]) -> Selection {
        let globs = |globs: &[&str]| globs.iter().map(|glob| glob.parse().unwrap()).collect();
        Selection {
            include: globs(include),
            exclude: globs(exclude),
            ..Selection::default()
        }
    }

    fn prefixes(reach: &Reach) -> Vec<&str> {
        reach.prefixes().iter().map(ObjectKey::as_str).collect()
    }

    #[test]
    fn prefixes_are_the_smallest_disjoint_set() {
        for (include, expected) in [
            (
                &["2027/x*", "2026/**/*.parquet", "2026/01/*"][..],
                &["logs/2026/", "logs/2027/x"][..],
            ),
            (&["x*", "*.csv"], &["logs/"]),
            (&[], &["logs/"]),
            (&["{b,a}/x*", "a/*"], &["logs/a/", "logs/b/x"]),
        ] {
            let reach = Reach::of_source(&select(include, &[]), &key("logs/"));
            assert_eq!(prefixes(&reach), expected, "{include:?}");
        }
        let long = "x".repeat(1020);
        let reach = Reach::of_source(&select(&[&long], &[]), &key("logs/"));
        assert!(reach.prefixes().is_empty(), "no key is so long");
    }

    #[test]
    fn a_destination_reaches_what_the_map_makes_of_the_sources_keys() {
        let select = select(
            &["raw/2026/*", "raw/2027/x*", "other/*"],
            &["raw/2026/tmp/**"],
        );
        let map = |strip: Option<&str>, rename: Option<&str>| KeyMap {
            strip_prefix: strip.map(str::to_owned),
            add_prefix: Some("v1/".to_owned()),
            rename: rename.map(|text| text.parse().unwrap()),
        };
        let reach =
            |strip, rename| Reach::of_destination(&select, &map(strip, rename), &key("to/"));
        let plain = reach(None, None);
        assert_eq!(
            prefixes(&plain),
            ["to/v1/other/", "to/v1/raw/2026/", "to/v1/raw/2027/x"]
        );
        let stripped = reach(Some("raw/"), Some("k-{key}"));
        assert_eq!(prefixes(&stripped), ["to/v1/k-2026/", "to/v1/k-2027/x"]);
        assert_eq!(
            stripped.skip("to/v1/k-2026/tmp/x").unwrap(),
            format!("to/v1/k-2026/tmp/{LAST}")
        );
        assert_eq!(prefixes(&reach(Some("raw/2026/01/"), None)), ["to/v1/"]);
        assert_eq!(
            prefixes(&reach(None, Some("{dir}{name}"))),
            ["to/"],
            "the order is another one"
        );
    }

    #[test]
    fn directories_that_are_left_out_are_skipped_and_others_are_not() {
        let reach = Reach::of_source(
            &select(&[], &["tmp/**", "**/_spark/**", "*.bak"]),
            &key("p/"),
        );
        assert_eq!(reach.skip("p/tmp/a/b").as_deref(), Some("p/tmp/\u{10FFFD}"));
        assert_eq!(
            reach.skip("p/x/_spark/1").as_deref(),
            Some("p/x/_spark/\u{10FFFD}")
        );
        assert_eq!(
            (
                reach.skip("p/tmp"),
                reach.skip("p/tmpx/a"),
                reach.skip("p/x.bak")
            ),
            (None, None, None)
        );
        let flat = Reach::of_source(&select(&["x*"], &[]), &key("p/"));
        assert_eq!(
            flat.skip("p/x1/a/b").as_deref(),
            Some("p/x1/\u{10FFFD}"),
            "`x*` ends at the slash"
        );
        assert_eq!(Reach::below(&key("p/")).skip("p/a/b"), None);
    }

    #[test]
    fn directory_buckets_list_whole_directories() {
        let reach = Reach::of_source(&select(&["a/x*", "a/y*", "b/*", "c*"], &[]), &key("p/"));
        assert_eq!(prefixes(&reach.in_whole_directories()), ["p/"]);
        let reach = Reach::of_source(&select(&["a/x*", "a/y*", "b/*"], &[]), &key("p/"));
        assert_eq!(prefixes(&reach.in_whole_directories()), ["p/a/", "p/b/"]);
    }

    #[test]
    fn a_listing_begins_at_the_first_prefix_behind_a_key() {
        let reach = Reach::of_source(&select(&["a/*", "b/*", "d*"], &[]), &key(""));
        for (after, expected) in [
            (None, 0),
            (Some(""), 0),
            (Some("a"), 0),
            (Some("a/x"), 0),
            (Some("a0"), 1),
            (Some("c"), 2),
            (Some("d"), 2),
            (Some("e"), 3),
        ] {
            assert_eq!(reach.first_behind(after), expected, "{after:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Checks that every admitted key lies below a prefix and is never skipped.
        #[test]
        fn nothing_that_is_admitted_is_out_of_reach(
            include in prop::collection::vec(r"(\*\*/)?([ab*?]{1,2}/|\{a,b/\}|\{a,\*\*\}/|\*\*/|\\/|[a]|\[\*\]|\[ab\]){0,3}(\*\*|[ab*]{1,2}|\{a,b\})", 0..3),
            exclude in prop::collection::vec(r"(\*\*/)?([ab*?]{1,2}/|\*\*/){0,2}(\*\*|[ab*]{1,2})", 0..2),
            relative in "([ab*]{0,2}/){0,3}[ab*]{0,2}",
            strip in prop::option::of(prop::sample::select(vec!["a", "a/", "b/a", ""])),
        ) {
            let globs = |globs: &[String]| globs.iter().filter_map(|glob| glob.parse::<KeyGlob>().ok()).collect();
            let select = Selection { include: globs(&include), exclude: globs(&exclude), ..Selection::default() };
            if select.rules_out(&relative) {
                return Ok(());
            }
            let source = format!("p/{relative}");
            let reach = Reach::of_source(&select, &key("p/"));
            let keys = KeyMap { strip_prefix: strip.map(str::to_owned), ..KeyMap::default() };
            let mut sides = vec![(reach, source)];
            let to = relative.strip_prefix(strip.unwrap_or_default()).map(|rest| format!("to/{rest}"));
            sides.extend(to.map(|to| (Reach::of_destination(&select, &keys, &key("to/")), to)));
            for (reach, key) in sides {
                let within = reach.prefixes().iter().filter(|prefix| key.starts_with(prefix.as_str())).count();
                prop_assert_eq!(within, 1, "{} in {:?}", key, reach);
                prop_assert_eq!(reach.skip(&key), None, "{:?}", reach);
            }
        }
    }
}
