//! Counts keys that a pattern did not match but was probably meant to match.
//!
//! In s3haul, `*.tmp` matches only at the top level; in other tools, it matches at any depth. This
//! module counts keys at lower levels that such a pattern would match there, for a hint at the end
//! of the run.

use super::{Planned, Sides};
use crate::listing::local::UNREACHED;
use crate::manifest::job::Transfer;
use crate::manifest::keys::KeyGlob;
use crate::size::{by_number, display_count, display_counted};

/// Counts the keys below the top level whose last segment matches a pattern without a slash.
#[derive(Debug)]
pub struct Misses {
    /// The counters of the `include` patterns.
    include: Vec<Missed>,
    /// The counters of the `exclude` patterns.
    exclude: Vec<Missed>,
    /// The number of local directories that were not read because `include` matches nothing in
    /// them.
    unread: u64,
}

#[derive(Debug)]
struct Missed {
    glob: KeyGlob,
    keys: u64,
}

impl Missed {
    /// Returns counters for the patterns that match only at the top level.
    fn of(globs: &[KeyGlob]) -> Vec<Self> {
        globs
            .iter()
            .filter(|glob| glob.is_flat())
            .map(|glob| Self {
                glob: glob.clone(),
                keys: 0,
            })
            .collect()
    }

    fn count(all: &mut [Self], relative_key: &str) {
        for missed in all
            .iter_mut()
            .filter(|missed| missed.glob.matches_name_only(relative_key))
        {
            missed.keys += 1;
        }
    }
}

impl Misses {
    /// Creates the counters of a transfer.
    #[must_use]
    pub fn of(transfer: &Transfer) -> Self {
        let select = &transfer.select;
        Self {
            include: Missed::of(&select.include),
            exclude: Missed::of(&select.exclude),
            unread: 0,
        }
    }

    /// Counts an entry by its result.
    pub fn observe(&mut self, sides: &Sides, planned: &Planned) {
        if self.include.is_empty() && self.exclude.is_empty() {
            return;
        }
        match planned {
            Planned::Excluded(key) => {
                let relative = key
                    .as_str()
                    .get(sides.relative_at(key)..)
                    .unwrap_or_default();
                let select = &sides.transfer.select;
                // An entry that an `exclude` pattern matches would not be copied anyway.
                if !select.include.is_empty()
                    && !select.exclude.iter().any(|glob| glob.matches(relative))
                {
                    Missed::count(&mut self.include, relative);
                }
            }
            Planned::Step(step) => Missed::count(&mut self.exclude, step.entry.relative()),
            Planned::Skip(entry, ..) | Planned::Archived(entry, _) => {
                Missed::count(&mut self.exclude, entry.relative());
            }
            Planned::Ignored(_, why) => self.unread += u64::from(*why == UNREACHED),
            Planned::Failed(..) | Planned::Unlisted(..) | Planned::Again(..) => {}
        }
    }

    /// Counts an entry by its result, and returns the result.
    pub fn watch(&mut self, sides: &Sides, planned: Option<Planned>) -> Option<Planned> {
        planned.inspect(|planned| self.observe(sides, planned))
    }

    /// Returns the hints for the user.
    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        let include = self.include.iter().filter_map(|Missed { glob, keys: count }| {
            // Listings skip directories that cannot match, so the count may be incomplete.
            let missed = match (*count, self.unread) {
                (0, 0) => return None,
                (0, unread) => format!(
                    "{} {} below it {} not read",
                    display_count(unread),
                    by_number(unread, "directory", "directories"),
                    by_number(unread, "was", "were")
                ),
                (count, _) => format!(
                    "at least {} below it {} not matched",
                    display_counted(count, "key"),
                    by_number(count, "was", "were")
                ),
            };
            Some(format!(
                "`{glob}` matches at the top level only; {missed}: write `**/{glob}` to include them"
            ))
        });
        let exclude = self.exclude.iter().filter(|missed| missed.keys > 0).map(|Missed { glob, keys: count }| {
            let (keys, were) = (display_counted(*count, "key"), by_number(*count, "was", "were"));
            let them = by_number(*count, "it", "them");
            format!("`{glob}` excludes at the top level only; {keys} below it {were} not left out: write `**/{glob}` to exclude {them}")
        });
        include.chain(exclude).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_patterns_without_a_slash_can_miss() {
        for (glob, key, missed) in [
            ("*.tmp", "a/b.tmp", true),
            ("*.tmp", "b.tmp", false),
            ("*.tmp", "a.tmp/b", false),
            ("*.{tmp,bak}", "a/b.bak", true),
            ("*", "a/", false),
            ("**", "a/b", false),
            ("a/*.tmp", "a/b/c.tmp", false),
        ] {
            let glob: KeyGlob = glob.parse().unwrap();
            assert_eq!(
                glob.is_flat() && glob.matches_name_only(key),
                missed,
                "{glob} {key}"
            );
        }
    }
}
