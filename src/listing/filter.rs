//! Decides which entries of a source are selected: applies a [`Selection`] to one entry.
//!
//! The decision is pure, so that both sides of a comparison, a dry run, and a later verification
//! agree. It names the rule, so that users can find out why a file was not copied.

use std::fmt;

use jiff::Timestamp;

use crate::manifest::job::Selection;
use crate::manifest::keys::KeyGlob;
use crate::size::ByteSize;

/// A [`Selection`] that can be applied to entries.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The conditions to apply.
    select: Selection,
}

/// The rule that excludes an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excluded {
    /// No `include` pattern matches.
    NotIncluded,
    /// This `exclude` pattern matches.
    Pattern(KeyGlob),
    /// The object is not larger than this `larger_than`.
    TooSmall(ByteSize),
    /// The object is not smaller than this `smaller_than`.
    TooLarge(ByteSize),
    /// The object was modified before this `modified_after`.
    TooOld(Timestamp),
    /// The object was modified at or after this `modified_before`.
    TooNew(Timestamp),
    /// A rule uses the modification time, but the source does not show it.
    ModifiedUnknown,
    /// The object's storage class is not among the `storage_classes`.
    StorageClass,
}

impl Filter {
    /// Creates a filter for this selection.
    #[must_use]
    pub fn new(select: &Selection) -> Self {
        Self {
            select: select.clone(),
        }
    }

    /// Checks that an entry is selected. `relative_key` is the key without the source's prefix. A
    /// missing storage class means `STANDARD`, as in S3's responses.
    ///
    /// # Errors
    /// The first rule that excludes the entry.
    pub fn admits(
        &self,
        relative_key: &str,
        size: u64,
        modified: Option<Timestamp>,
        storage_class: Option<&str>,
    ) -> Result<(), Excluded> {
        self.admits_key(relative_key)?;
        let select = &self.select;
        match (select.larger_than, select.smaller_than) {
            (Some(bound), _) if size <= bound.0 => return Err(Excluded::TooSmall(bound)),
            (_, Some(bound)) if size >= bound.0 => return Err(Excluded::TooLarge(bound)),
            _ => {}
        }
        let class = storage_class.unwrap_or("STANDARD");
        if !select.storage_classes.is_empty()
            && !select.storage_classes.iter().any(|wanted| wanted == class)
        {
            return Err(Excluded::StorageClass);
        }
        // Check times last, so that an unknown time is reported only if no other rule excludes the
        // entry.
        self.admits_time(modified)
    }

    /// Checks that a delete marker is selected. It has neither a size nor a storage class.
    ///
    /// # Errors
    /// The first rule that excludes the delete marker.
    pub fn admits_marker(
        &self,
        relative_key: &str,
        modified: Option<Timestamp>,
    ) -> Result<(), Excluded> {
        self.admits_key(relative_key)?;
        self.admits_time(modified)
    }

    fn admits_key(&self, relative_key: &str) -> Result<(), Excluded> {
        let select = &self.select;
        if let Some(glob) = select
            .exclude
            .iter()
            .find(|glob| glob.matches(relative_key))
        {
            return Err(Excluded::Pattern(glob.clone()));
        }
        if !select.include.is_empty()
            && !select.include.iter().any(|glob| glob.matches(relative_key))
        {
            return Err(Excluded::NotIncluded);
        }
        Ok(())
    }

    fn admits_time(&self, modified: Option<Timestamp>) -> Result<(), Excluded> {
        match (
            self.select.modified_after,
            self.select.modified_before,
            modified,
        ) {
            (None, None, _) => Ok(()),
            (_, _, None) => Err(Excluded::ModifiedUnknown),
            (Some(bound), _, Some(time)) if time < bound => Err(Excluded::TooOld(bound)),
            (_, Some(bound), Some(time)) if time >= bound => Err(Excluded::TooNew(bound)),
            _ => Ok(()),
        }
    }

    /// Returns true if no key below `relative_dir` (with a trailing slash) can be selected, so that
    /// a walk need not descend. Returns false in doubt.
    #[must_use]
    pub fn skips_directory(&self, relative_dir: &str) -> bool {
        self.select.leaves_out_all_below(relative_dir)
    }
}

impl Filter {
    /// Returns true if an `exclude` pattern covers the directory, regardless of `include`.
    #[must_use]
    pub fn excludes_directory(&self, relative_dir: &str) -> bool {
        self.select.excludes_all_below(relative_dir)
    }
}

impl fmt::Display for Excluded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotIncluded => f.write_str("matches no include pattern"),
            Self::Pattern(glob) => write!(f, "matches the exclude pattern {glob}"),
            Self::TooSmall(bound) => write!(f, "not larger than {bound}"),
            Self::TooLarge(bound) => write!(f, "not smaller than {bound}"),
            Self::TooOld(bound) => write!(f, "modified before {bound}"),
            Self::TooNew(bound) => write!(f, "not modified before {bound}"),
            Self::ModifiedUnknown => f.write_str(
                "its list has no time of modification that can be read, which `modified_after` and `modified_before` need",
            ),
            Self::StorageClass => f.write_str("in another storage class"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn globs(patterns: &[&str]) -> Vec<KeyGlob> {
        patterns
            .iter()
            .map(|pattern| pattern.parse().unwrap())
            .collect()
    }

    fn patterns(include: &[&str], exclude: &[&str]) -> Filter {
        Filter::new(&Selection {
            include: globs(include),
            exclude: globs(exclude),
            ..Selection::default()
        })
    }

    fn admits(filter: &Filter, key: &str) -> bool {
        filter.admits(key, 1, None, None).is_ok()
    }

    #[test]
    fn stars_stop_at_slashes_and_double_stars_do_not() {
        for (pattern, matching, other) in [
            (
                "*.csv",
                &["a.csv", ".csv"][..],
                &["d/a.csv", "a.csv.gz", "a.CSV"][..],
            ),
            (
                "**/*.csv",
                &["a.csv", "d/a.csv", "d//e/a.csv"],
                &["a.csv/x"],
            ),
            (
                "tmp/**",
                &["tmp/a", "tmp/a/b", "tmp/"],
                &["tmp", "a/tmp/b", "tmpx/a"],
            ),
            ("**/tmp/**", &["tmp/a", "a/b/tmp/c"], &["atmp/b"]),
            (
                "day=?/[a-c]{1,2}",
                &["day=1/a1", "day=9/c2"],
                &["day=10/a1", "day=//a1", "day=1/d1"],
            ),
            (r"\*\[x\]", &["*[x]"], &["ax", r"\*[x]"]),
            ("**", &["a", "a/b", "ü/\n"], &[]),
            ("**/*/", &["a/", "a/b/"], &["a", "a/b"]),
        ] {
            let filter = patterns(&[pattern], &[]);
            for key in matching {
                assert!(admits(&filter, key), "{pattern} should match {key}");
            }
            for key in other {
                assert!(!admits(&filter, key), "{pattern} should not match {key}");
            }
        }
    }

    #[test]
    fn the_rule_is_named_and_exclude_wins() {
        let filter = patterns(&["**/*.csv"], &["old/**"]);
        let result = |key| filter.admits(key, 1, None, None);
        assert_eq!(result("a.csv"), Ok(()));
        assert_eq!(result("a.txt"), Err(Excluded::NotIncluded));
        let excluded = result("old/a.csv").unwrap_err();
        assert_eq!(excluded.to_string(), "matches the exclude pattern old/**");
        assert!(admits(&Filter::default(), ""));
    }

    #[test]
    fn bounds_are_exclusive_for_sizes_and_half_open_for_times() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let (start, end) = (time("2026-01-01T00:00:00Z"), time("2026-02-01T00:00:00Z"));
        let filter = Filter::new(&Selection {
            larger_than: Some(ByteSize(10)),
            smaller_than: Some(ByteSize(20)),
            modified_after: Some(start),
            modified_before: Some(end),
            ..Selection::default()
        });
        let just_before = time("2026-01-31T23:59:59.999999999Z");
        for (size, modified, result) in [
            (11, Some(start), Ok(())),
            (19, Some(just_before), Ok(())),
            (10, Some(start), Err(Excluded::TooSmall(ByteSize(10)))),
            (20, Some(start), Err(Excluded::TooLarge(ByteSize(20)))),
            (15, Some(end), Err(Excluded::TooNew(end))),
            (
                15,
                Some(time("2025-12-31T23:59:59Z")),
                Err(Excluded::TooOld(start)),
            ),
            (15, None, Err(Excluded::ModifiedUnknown)),
        ] {
            assert_eq!(
                filter.admits("k", size, modified, None),
                result,
                "{size} {modified:?}"
            );
        }
        let zero = Selection {
            larger_than: Some(ByteSize(0)),
            ..Selection::default()
        };
        assert!(Filter::new(&zero).admits("k", 0, None, None).is_err());
    }

    #[test]
    fn no_storage_class_is_standard() {
        let classes = vec!["STANDARD".to_owned(), "GLACIER_IR".to_owned()];
        let filter = Filter::new(&Selection {
            storage_classes: classes,
            ..Selection::default()
        });
        for (class, admitted) in [
            (None, true),
            (Some("STANDARD"), true),
            (Some("GLACIER_IR"), true),
            (Some("GLACIER"), false),
        ] {
            assert_eq!(
                filter.admits("k", 1, None, class).is_ok(),
                admitted,
                "{class:?}"
            );
        }
    }

    #[test]
    fn directories_are_skipped_only_when_nothing_below_can_take_part() {
        let filter = patterns(&[], &["target/**", "**/.git/**", "*.o", "keep/*", r"a\/**"]);
        for (dir, skipped) in [
            ("target/", true),
            ("target/debug/", true),
            ("x/.git/", true),
            ("src/", false),
            ("keep/", false),
            ("a/", false),
            ("", false),
        ] {
            assert_eq!(filter.skips_directory(dir), skipped, "{dir}");
        }
        assert!(patterns(&[], &["**"]).skips_directory(""));
    }

    proptest! {
        #[test]
        fn a_skipped_directory_holds_nothing_that_is_admitted(
            pattern in r"(\*\*/)?([a-b*?]{1,2}/|\{a,b\}/|\*\*/|\\/){0,3}(\*\*|[ab*]{1,2})",
            dir in "([ab]{1,2}/){0,3}",
            below in "([ab]{0,2}/){0,2}[ab]{0,2}",
        ) {
            let Ok(glob) = pattern.parse::<KeyGlob>() else { return Ok(()) };
            let filter = Filter::new(&Selection { exclude: vec![glob], ..Selection::default() });
            if filter.skips_directory(&dir) {
                prop_assert!(!admits(&filter, &format!("{dir}{below}")), "{pattern} {dir} {below}");
            }
        }

        #[test]
        fn patterns_and_keys_of_any_kind_get_an_answer(pattern in any::<String>(), key in any::<String>()) {
            if let Ok(glob) = pattern.parse::<KeyGlob>() {
                let filter = Filter::new(&Selection { include: vec![glob], ..Selection::default() });
                let _ = filter.admits(&key, 1, None, None);
            }
        }
    }
}
