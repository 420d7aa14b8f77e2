//! Decides where to split the keys of a prefix into ranges, so that several tasks can list it in
//! parallel. This module is pure.
//!
//! S3 returns a list page by page, and each page must be requested with a token from the previous
//! one. At 60 ms per page, that limits a listing to 16,000 keys per second, however fast the client
//! is. But a list may start after any text (`start-after`), so s3haul lists several ranges of keys
//! in parallel. This needs no knowledge of the keys: a range is cut at a guessed text, and another
//! task lists the keys after the cut. The guess only affects how evenly the work is divided. No key
//! is listed twice or missed, because the two ranges meet at the cut, which is fixed before either
//! range reaches it. Concurrent writes and deletes do not matter, because no cut depends on an
//! existing key.
//!
//! The guess is based on the last page read. It compares the distance between the first and the
//! last key of the page with the remaining distance to the end of the range. If keys are spread
//! evenly, this gives the number of remaining pages. If keys have a long common prefix
//! (`logs/2026/11/22/…`), a page covers almost nothing of the distance to the end, and dozens of
//! cuts in the middle would find no key. So if the guess is implausibly large, the cut is in the
//! middle of the *depth* of the keys: six such cuts find where a common prefix of a thousand
//! characters ends.
//!
//! A cut costs one request for the keys after it. The cut is wasted only if that request finds
//! nothing. The number of pages read so far limits the number of wasted cuts. A prefix of fewer
//! than three pages is never cut.
//!
//! Patterns may have several literal prefixes ([`Reach`]). Each prefix needs a separate request
//! anyway. So a range with several prefixes is first cut between two prefixes, which needs no
//! guess.

mod alphabet;

use std::collections::BTreeMap;

use super::reach::{Behind, Reach};
use crate::location::ObjectKey;
use alphabet::{Alphabet, common, next_char};

/// The number of pages that are read before the first cut.
const FIRST_PAGES: u32 = 2;
/// The minimum number of remaining pages for a worthwhile cut.
const WORTH_A_CUT: f64 = 3.0;
/// The largest plausible estimate of remaining pages. A larger estimate counts only if keys differ
/// early.
const PLAUSIBLE: f64 = 4096.0;
/// The number of keys per page whose characters are examined.
const SAMPLES: usize = 16;
/// The number of unsuccessful or pending cuts that are always allowed. Every third page allows one
/// more.
const FREE_GUESSES: u32 = 4;

/// The keys after `after` (or from the first key) up to and including `until` (or up to the last
/// key).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The number of the range in the journal.
    pub range: u32,
    /// The lower bound of the range, exclusive.
    pub after: Option<ObjectKey>,
    /// The upper bound of the range, inclusive.
    pub until: Option<ObjectKey>,
}

/// A split of a range into two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSplit {
    /// The number of the range that was split. It now ends where the new range begins.
    pub range: u32,
    /// The new range, after the cut.
    pub new: KeyRange,
}

/// The ranges of one listing that are still being listed.
#[derive(Debug)]
pub struct Ranges {
    /// The keys of all ranges together.
    reach: Reach,
    /// The characters of the keys seen so far.
    alphabet: Alphabet,
    /// The ranges by number.
    listed: BTreeMap<u32, ListedRange>,
    /// The maximum number of ranges that may be listed at once.
    most: usize,
    /// The number of the next new range.
    next: u32,
    /// The last number for new ranges.
    last: u32,
    /// The number of pages read so far.
    pages: u32,
    /// The number of cuts without keys after them.
    wasted_cuts: u32,
}

/// A range that is being listed.
#[derive(Debug)]
struct ListedRange {
    /// The last key of the range; `None` if it has no upper bound.
    until: Option<ObjectKey>,
    /// True until the first page after the cut that created this range is read.
    is_guess: bool,
    /// The index of the prefix that is listed next.
    prefix: usize,
    /// Absent before the first page of a prefix, and after the last page.
    page: Option<LastPage>,
}

/// The last page read.
#[derive(Debug)]
struct LastPage {
    /// The first key of the page.
    first: String,
    /// The last key of the page.
    last: String,
    /// The number of pages that are expected to follow.
    left: f64,
}

impl Ranges {
    /// Starts with these ranges. At most `most` ranges are listed at once. New ranges get the
    /// numbers from `next` to `last`.
    #[must_use]
    pub fn new(reach: Reach, ranges: &[KeyRange], most: usize, next: u32, last: u32) -> Self {
        let listed = |range: &KeyRange| ListedRange {
            until: range.until.clone(),
            is_guess: false,
            prefix: reach.first_behind(range.after.as_ref().map(ObjectKey::as_str)),
            page: None,
        };
        Self {
            alphabet: Alphabet::default(),
            listed: ranges
                .iter()
                .map(|range| (range.range, listed(range)))
                .collect(),
            most,
            next,
            last,
            pages: 0,
            wasted_cuts: 0,
            reach,
        }
    }

    /// Records a page of a range, and returns the key at which the range ends. Another range lists
    /// the keys after that key.
    pub fn page(&mut self, range: u32, keys: &[&str], behind: Behind) -> Option<ObjectKey> {
        self.pages += 1;
        let Behind { more, prefix } = behind;
        let listed_prefix = self.reach.prefixes().get(if more {
            prefix
        } else {
            prefix.saturating_sub(1)
        });
        let begin = listed_prefix.map_or(0, |prefix| prefix.as_str().len());
        for key in keys.iter().step_by((keys.len() / SAMPLES).max(1)) {
            self.alphabet.learn(key.get(begin..).unwrap_or_default());
        }
        let listed = self.listed.get_mut(&range)?;
        let until = listed.until.clone();
        let inside = |key: &&str| until.as_ref().is_none_or(|until| **key <= *until.as_str());
        let found_nothing = !keys.first().is_some_and(inside);
        self.wasted_cuts += u32::from(std::mem::take(&mut listed.is_guess) && found_nothing);
        listed.prefix = prefix;
        listed.page = match (keys.first(), keys.last()) {
            (Some(first), Some(last)) if more && inside(last) => Some(LastPage {
                first: (*first).to_owned(),
                last: (*last).to_owned(),
                left: 0.0,
            }),
            _ => None,
        };
        self.expect(range);
        until
    }

    /// Returns the key at which a range ends now.
    #[must_use]
    pub fn until(&self, range: u32) -> Option<ObjectKey> {
        self.listed.get(&range)?.until.clone()
    }

    /// Returns the number of pages that are expected to follow in the current prefix of a range.
    #[must_use]
    pub fn pages_left(&self, range: u32) -> Option<f64> {
        let listed = self.listed.get(&range)?;
        Some(listed.page.as_ref().map_or(0.0, |page| page.left))
    }

    /// Marks a range as done.
    pub fn end(&mut self, range: u32) {
        self.listed.remove(&range);
    }

    /// Prevents further cuts after a failed list, because other lists would fail too.
    pub fn stop(&mut self) {
        self.most = 0;
    }

    /// Returns the number of ranges that are being listed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.listed.len()
    }

    /// Returns true if [`Ranges::cut`] would cut a range.
    #[must_use]
    pub fn wants_cut(&self) -> bool {
        self.has_room() && (self.between_prefixes().is_some() || self.widest().is_some())
    }

    /// Cuts the range with the most remaining work.
    pub fn cut(&mut self) -> Option<RangeSplit> {
        if !self.has_room() {
            return None;
        }
        if let Some((range, at, prefix)) = self.between_prefixes() {
            return self.cut_at(range, at, prefix, false);
        }
        while let Some(range) = self.widest() {
            let listed = self.listed.get_mut(&range)?;
            let page = listed.page.as_mut()?;
            let (prefix, until) = frame(&self.reach, listed.prefix, listed.until.as_ref());
            let Some(at) = middle(page, until, prefix, &self.alphabet) else {
                // Do not cut this range again before its next page.
                page.left = 0.0;
                continue;
            };
            let prefix = listed.prefix;
            return self.cut_at(range, at, prefix, true);
        }
        None
    }

    fn cut_at(
        &mut self,
        range: u32,
        at: ObjectKey,
        prefix: usize,
        is_guess: bool,
    ) -> Option<RangeSplit> {
        let new = self.next;
        let until = self.listed.get_mut(&range)?.until.replace(at.clone());
        self.next += 1;
        self.listed.insert(
            new,
            ListedRange {
                until: until.clone(),
                is_guess,
                prefix,
                page: None,
            },
        );
        self.expect(range);
        Some(RangeSplit {
            range,
            new: KeyRange {
                range: new,
                after: Some(at),
                until,
            },
        })
    }

    /// Returns true while more ranges may be created.
    fn has_room(&self) -> bool {
        self.listed.len() < self.most && self.next <= self.last
    }

    /// Returns the range with the most remaining prefixes, a text between two of these prefixes,
    /// and the index of the second.
    fn between_prefixes(&self) -> Option<(u32, ObjectKey, usize)> {
        let cuts = self.listed.iter().filter_map(|(range, listed)| {
            let all = self.reach.prefixes();
            let first = listed.prefix + 1;
            let end = all.partition_point(|prefix| {
                listed.until.as_ref().is_none_or(|until| prefix <= until)
            });
            let left = end.checked_sub(first).filter(|left| *left > 0)?;
            let middle = first + left / 2;
            let mut at = (middle..end).chain((first..middle).rev());
            let (at, text) = at.find_map(|at| Some((at, gap(all.get(at - 1)?, all.get(at)?)?)))?;
            Some((left, *range, text, at))
        });
        cuts.max_by_key(|(left, ..)| *left)
            .map(|(_, range, text, at)| (range, text, at))
    }

    /// Returns the range with the most remaining pages, if a range should be cut.
    fn widest(&self) -> Option<u32> {
        let guesses = self
            .listed
            .values()
            .filter(|listed| listed.is_guess)
            .count();
        let guesses = u32::try_from(guesses).unwrap_or(u32::MAX);
        let may_guess = guesses.saturating_add(self.wasted_cuts) < FREE_GUESSES + self.pages / 3;
        if self.pages < FIRST_PAGES || !may_guess {
            return None;
        }
        let left = self
            .listed
            .iter()
            .filter_map(|(range, listed)| Some((listed.page.as_ref()?.left, *range)));
        let widest = left.max_by(|one, other| one.0.total_cmp(&other.0))?;
        (widest.0 >= WORTH_A_CUT).then_some(widest.1)
    }

    /// Estimates the number of pages that follow in a range if its keys continue as on its last
    /// page.
    fn expect(&mut self, range: u32) {
        let Some(listed) = self.listed.get_mut(&range) else {
            return;
        };
        let Some(page) = &mut listed.page else { return };
        let (prefix, until) = frame(&self.reach, listed.prefix, listed.until.as_ref());
        page.left = Scale::of(page, until, prefix, &self.alphabet).pages_left();
    }
}

/// Returns the length of a prefix in bytes, and the end of the range if it lies within the prefix.
fn frame<'u>(
    reach: &Reach,
    prefix: usize,
    until: Option<&'u ObjectKey>,
) -> (usize, Option<&'u ObjectKey>) {
    let prefix = reach.prefixes().get(prefix).map_or("", ObjectKey::as_str);
    (
        prefix.len(),
        until.filter(|until| until.as_str().starts_with(prefix)),
    )
}

/// Returns a text after all keys with one prefix and before all keys with the next prefix.
fn gap(prefix: &ObjectKey, next: &ObjectKey) -> Option<ObjectKey> {
    let mut chars = prefix.as_str().chars();
    let last = chars.next_back().and_then(next_char)?;
    ObjectKey::new(&format!("{}{last}", chars.as_str()))
        .ok()
        .filter(|gap| gap < next)
}

/// The distance to the end of a range, measured by its last page.
struct Scale<'a> {
    /// The number of bytes that all later keys certainly have in common.
    at: usize,
    /// The number of characters after which the keys of the page differ.
    depth: usize,
    /// The position of the page's first key.
    first: f64,
    /// The position of the page's last key.
    last: f64,
    /// The position of the range's end.
    end: f64,
    /// The characters that count as digits.
    alphabet: &'a Alphabet,
}

impl<'a> Scale<'a> {
    fn of(
        page: &LastPage,
        until: Option<&ObjectKey>,
        prefix: usize,
        alphabet: &'a Alphabet,
    ) -> Self {
        let (first, last) = (&*page.first, &*page.last);
        let at = until
            .map_or(prefix, |until| common(last, until.as_str()))
            .min(last.len());
        let differ = common(first, last).max(at);
        let value = |text: &str| alphabet.value(text.get(at..).unwrap_or_default(), at - prefix);
        Self {
            at,
            depth: last.get(at..differ).map_or(0, |text| text.chars().count()),
            // A text before the common prefix of the later keys comes before all of them.
            first: if common(first, last) < at {
                0.0
            } else {
                value(first)
            },
            last: value(last),
            end: until.map_or(1.0, |until| value(until.as_str())),
            alphabet,
        }
    }

    fn pages_left(&self) -> f64 {
        // If the keys of the page are too close for a number to distinguish them, very many pages
        // follow.
        let progress = (self.last - self.first).max(f64::MIN_POSITIVE);
        ((self.end - self.last) / progress).max(0.0)
    }
}

/// Returns a text between the last key of a page and the end of its range.
fn middle(
    page: &LastPage,
    until: Option<&ObjectKey>,
    prefix: usize,
    alphabet: &Alphabet,
) -> Option<ObjectKey> {
    let last = &*page.last;
    let scale = Scale::of(page, until, prefix, alphabet);
    let between = |text: String| {
        let is_between = *text > *last && until.is_none_or(|until| *text < *until.as_str());
        is_between.then(|| ObjectKey::new(&text).ok()).flatten()
    };
    let (begin, rest) = last.split_at_checked(scale.at)?;
    if scale.depth < 2 || scale.pages_left() <= PLAUSIBLE {
        let middle = f64::midpoint(scale.last, scale.end);
        let precision = (scale.end - scale.last) / 8.0;
        let text = |precision| {
            let text = scale.alphabet.text(middle, precision, scale.at - prefix);
            between(format!("{begin}{text}"))
        };
        if let Some(middle) = text(precision).or_else(|| text(0.0)) {
            return Some(middle);
        }
    }
    // Cut after all keys that begin with these characters.
    let (at, char) = rest.char_indices().nth(scale.depth / 2)?;
    between(format!("{begin}{}{}", rest.get(..at)?, next_char(char)?))
}

#[cfg(test)]
mod tests;
