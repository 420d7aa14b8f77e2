//! Pages of listings: keys, versions, and open uploads.
//!
//! Each listing walks a map in key order from a marker, groups keys that share a prefix up to the
//! delimiter, and stops when the page is full. After a common prefix, the walk skips all keys below
//! it, so the cost of a page depends on its entries and not on the keys that they stand for.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::checksum;
use super::content::Content;
use super::multipart::Upload;
use super::object::{Object, Version};

/// The largest and the default number of entries per page.
pub(super) const PAGE: usize = 1000;

/// The parameters of a listing.
#[derive(Debug, Default)]
pub(super) struct ListingQuery<'a> {
    pub(super) prefix: &'a str,
    pub(super) delimiter: Option<&'a str>,
    /// List only keys and common prefixes after this one.
    pub(super) after: Option<&'a str>,
    pub(super) max: usize,
}

/// A page of entries `T`. A key can have several entries.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) entries: Vec<(String, T)>,
    pub(super) common_prefixes: Vec<String>,
    pub(super) truncated: bool,
    ends_in_prefix: bool,
}

impl<T> Page<T> {
    /// Returns the last key or common prefix of the page.
    pub(super) fn last(&self) -> Option<&str> {
        match self.last_entry() {
            Some((key, _)) => Some(key),
            None => self.common_prefixes.last().map(String::as_str),
        }
    }

    /// Returns the last entry, or `None` if the page ends with a common prefix.
    pub(super) fn last_entry(&self) -> Option<(&str, &T)> {
        self.entries
            .last()
            .filter(|_| !self.ends_in_prefix)
            .map(|(key, entry)| (key.as_str(), entry))
    }

    fn is_full(&self, query: &ListingQuery<'_>) -> bool {
        self.entries.len() + self.common_prefixes.len() >= query.max
    }
}

impl ListingQuery<'_> {
    /// Returns the common prefix that `key` belongs to.
    fn rolled<'k>(&self, key: &'k str) -> Option<&'k str> {
        let delimiter = self.delimiter.filter(|delimiter| !delimiter.is_empty())?;
        let rest = key.strip_prefix(self.prefix)?;
        rest.find(delimiter)
            .map(|at| &key[..self.prefix.len() + at + delimiter.len()])
    }

    /// Returns the key at which the walk begins. If the marker is a common prefix or lies in one,
    /// that prefix was already listed.
    fn start(&self) -> Bound<String> {
        match self.after {
            Some(after) if after >= self.prefix => match self.rolled(after) {
                Some(rolled) => Bound::Excluded(past(rolled)),
                None => Bound::Excluded(after.to_owned()),
            },
            _ => Bound::Included(self.prefix.to_owned()),
        }
    }
}

/// Returns a string that sorts after all keys that start with `prefix`, except keys that continue
/// with U+10FFFF.
fn past(prefix: &str) -> String {
    format!("{prefix}{}", char::MAX)
}

/// Collects a page. `seek` iterates from a key on, and `rows` returns the entries of an item.
fn collect<'m, V, T, I, R>(
    query: &ListingQuery<'_>,
    mut start: Bound<String>,
    seek: impl Fn(&Bound<String>) -> I,
    rows: impl Fn(&'m str, V) -> R,
) -> Page<T>
where
    I: Iterator<Item = (&'m str, V)>,
    R: IntoIterator<Item = T>,
{
    let mut page = Page {
        entries: Vec::new(),
        common_prefixes: Vec::new(),
        truncated: false,
        ends_in_prefix: false,
    };
    if query.max == 0 {
        return page;
    }
    'seek: loop {
        for (key, item) in seek(&start) {
            if !key.starts_with(query.prefix) {
                return page;
            }
            let mut rows = rows(key, item).into_iter().peekable();
            if rows.peek().is_none() {
                continue;
            }
            if let Some(rolled) = query.rolled(key) {
                if page
                    .common_prefixes
                    .last()
                    .is_some_and(|last| last == rolled)
                {
                    continue;
                }
                if page.is_full(query) {
                    page.truncated = true;
                    return page;
                }
                start = Bound::Excluded(past(rolled));
                page.common_prefixes.push(rolled.to_owned());
                page.ends_in_prefix = true;
                continue 'seek;
            }
            for row in rows {
                if page.is_full(query) {
                    page.truncated = true;
                    return page;
                }
                page.entries.push((key.to_owned(), row));
                page.ends_in_prefix = false;
            }
        }
        return page;
    }
}

/// Lists current objects.
pub(super) fn objects(
    map: &BTreeMap<String, Vec<Version>>,
    query: &ListingQuery<'_>,
) -> Page<Arc<Object>> {
    collect(
        query,
        query.start(),
        |start| {
            map.range::<String, _>((start.as_ref(), Bound::Unbounded))
                .map(|(key, history)| (key.as_str(), history))
        },
        |_, history| history.first().and_then(Version::object).cloned(),
    )
}

/// Lists the current objects of a directory bucket, in an order that no client can predict.
pub(super) fn unordered(
    map: &BTreeMap<String, Vec<Version>>,
    query: &ListingQuery<'_>,
) -> Page<Arc<Object>> {
    let mut page = objects(
        map,
        &ListingQuery {
            after: None,
            max: usize::MAX,
            ..*query
        },
    );
    page.entries
        .sort_by_cached_key(|(key, _)| checksum::md5(&Content::bytes(key.clone().into_bytes())));
    if let Some(after) = query.after {
        let listed = page
            .entries
            .iter()
            .position(|(key, _)| key == after)
            .map_or(0, |at| at + 1);
        page.entries.drain(..listed);
        page.common_prefixes.clear();
    }
    page.truncated = page.entries.len() > query.max;
    page.entries.truncate(query.max);
    page.ends_in_prefix = false;
    page
}

/// One version in a page of versions.
#[derive(Debug)]
pub(super) struct ListedVersion {
    pub(super) version: Version,
    pub(super) is_latest: bool,
}

/// Lists versions and delete markers, newest first within a key. With `version_marker`, the page
/// continues in the history of the key `query.after`, after that version.
pub(super) fn versions(
    map: &BTreeMap<String, Vec<Version>>,
    query: &ListingQuery<'_>,
    version_marker: Option<&str>,
) -> Page<ListedVersion> {
    let inside = query.after.zip(version_marker);
    let start = match inside {
        Some((key, _)) if key >= query.prefix => Bound::Included(key.to_owned()),
        _ => query.start(),
    };
    collect(
        query,
        start,
        |start| {
            map.range::<String, _>((start.as_ref(), Bound::Unbounded))
                .map(|(key, history)| (key.as_str(), history))
        },
        |key, history| {
            let listed = match inside {
                Some((marker_key, marker)) if marker_key == key => history
                    .iter()
                    .position(|version| version.shown_id() == marker)
                    .map_or(history.len(), |at| at + 1),
                _ => 0,
            };
            history
                .iter()
                .enumerate()
                .skip(listed)
                .map(|(at, version)| ListedVersion {
                    version: version.clone(),
                    is_latest: at == 0,
                })
        },
    )
}

/// Lists open uploads by key and creation. With `upload_marker`, the page continues among the
/// uploads of the key `query.after`, after that upload.
pub(super) fn uploads<'m>(
    map: &'m BTreeMap<(String, u64), Upload>,
    query: &ListingQuery<'_>,
    upload_marker: Option<&str>,
) -> Page<&'m Upload> {
    let inside = query.after.zip(upload_marker).and_then(|(key, marker)| {
        let mut of_key = map.range((key.to_owned(), 0)..=(key.to_owned(), u64::MAX));
        of_key
            .find(|(_, upload)| upload.id == marker)
            .map(|((key, sequence), _)| (key.as_str(), *sequence))
    });
    let start = match inside {
        Some((key, _)) if key >= query.prefix => Bound::Included(key.to_owned()),
        _ => query.start(),
    };
    collect(
        query,
        start,
        |start| {
            let from = match start.clone() {
                Bound::Included(key) => Bound::Included((key, 0)),
                Bound::Excluded(key) => Bound::Excluded((key, u64::MAX)),
                Bound::Unbounded => Bound::Unbounded,
            };
            map.range((from, Bound::Unbounded))
                .map(|((key, _), upload)| (key.as_str(), upload))
        },
        |key, upload| {
            let listed = inside
                .is_some_and(|(marker, sequence)| marker == key && upload.sequence <= sequence);
            (!listed).then_some(upload)
        },
    )
}

/// Encodes a key for `encoding-type=url`: form encoding, except that slashes stay as they are.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => {
                encoded.push(byte as char);
            }
            b' ' => encoded.push('+'),
            _ => {
                encoded.push('%');
                encoded.push_str(&super::checksum::hex(&[byte]).to_uppercase());
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::super::content::Content;
    use super::super::object::ObjectSpec;
    use super::*;

    fn bucket(keys: &[&str]) -> BTreeMap<String, Vec<Version>> {
        let object = |sequence| {
            let built = ObjectSpec::default().build(
                Content::empty(),
                sequence,
                std::time::UNIX_EPOCH,
                String::new,
            );
            Version::Object(Arc::new(built))
        };
        (0..)
            .zip(keys)
            .map(|(sequence, key)| ((*key).to_owned(), vec![object(sequence)]))
            .collect()
    }

    /// Returns the keys and prefixes of all pages in order.
    fn all(
        map: &BTreeMap<String, Vec<Version>>,
        prefix: &str,
        delimiter: Option<&str>,
        max: usize,
    ) -> Vec<String> {
        let mut seen = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = objects(
                map,
                &ListingQuery {
                    prefix,
                    delimiter,
                    after: after.as_deref(),
                    max,
                },
            );
            let mut names: Vec<_> = page.entries.iter().map(|(key, _)| key.clone()).collect();
            names.extend(page.common_prefixes.clone());
            names.sort();
            seen.extend(names);
            if !page.truncated {
                return seen;
            }
            after = page.last().map(str::to_owned);
        }
    }

    #[test]
    fn pages_of_any_size_show_the_same() {
        let map = bucket(&[
            "a",
            "b/1",
            "b/2",
            "b0",
            "c/d/1",
            "c/d/2",
            "c/e",
            "c//x",
            "\u{10FFFF}",
            "é",
        ]);
        let flat: Vec<_> = map.keys().cloned().collect();
        for max in 1..12 {
            assert_eq!(all(&map, "", None, max), flat);
            assert_eq!(
                all(&map, "", Some("/"), max),
                ["a", "b/", "b0", "c/", "é", "\u{10FFFF}"]
            );
            assert_eq!(all(&map, "c/", Some("/"), max), ["c//", "c/d/", "c/e"]);
            assert_eq!(all(&map, "b", None, max), ["b/1", "b/2", "b0"]);
        }
        assert!(
            objects(
                &map,
                &ListingQuery {
                    max: 0,
                    ..ListingQuery::default()
                }
            )
            .entries
            .is_empty()
        );
    }

    #[test]
    fn order_is_that_of_the_bytes() {
        let map = bucket(&["B", "a", "é", "z", "\u{FFFD}", "\u{10000}"]);
        assert_eq!(
            all(&map, "", None, 100),
            ["B", "a", "z", "é", "\u{FFFD}", "\u{10000}"]
        );
    }

    #[test]
    fn encoding_is_that_of_a_form() {
        assert_eq!(encode("a b/c+d\u{1}é~"), "a+b/c%2Bd%01%C3%A9%7E");
    }
}
