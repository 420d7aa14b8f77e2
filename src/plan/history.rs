//! Finds the versions of a key that the destination lacks.
//!
//! S3 can only append versions: a new version is always the newest of its key. So this module finds
//! the longest sequence of the source's oldest versions that equals the destination's newest
//! versions, in order. The remaining versions are appended, so that the destination's history ends
//! with the source's history. This also works after an interrupted run, in a second run, and if a
//! lifecycle rule has removed old versions of the source (the destination then has more versions).
//! If the destination has versions, but none of the source's versions match in this way, the
//! histories have diverged, and appending versions cannot make them equal.
//!
//! Two versions match if their sizes and `ETag`s are equal. Two delete markers always match. Equal
//! bytes may have different `ETag`s (other part boundaries, KMS). So versions with equal sizes and
//! different `ETag`s are *unsure*: [`content`](super::decide::content) compares them by HEAD.

use crate::checksum::may_be_of_content;
use crate::listing::versions::Version;

/// The result of comparing two versions by their lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// The same content.
    Same,
    /// Different content.
    Different,
    /// Equal sizes; HEAD must decide.
    Unsure,
}

/// Compares a version of the source with a version of the destination. `etags_tell` is true if
/// equal `ETag`s prove equal bytes.
#[must_use]
pub fn liken(source: &Version, destination: &Version, etags_tell: bool) -> Likeness {
    match (source.is_marker, destination.is_marker) {
        (true, true) => Likeness::Same,
        (false, false) if source.size == destination.size => {
            let equal = etags_tell
                && source.etag.as_deref().is_some_and(may_be_of_content)
                && source.etag == destination.etag;
            if equal {
                Likeness::Same
            } else {
                Likeness::Unsure
            }
        }
        _ => Likeness::Different,
    }
}

/// Returns every number `n` for which the `n` oldest versions of the source may be the `n` newest
/// versions of the destination, the largest first. Pairs that are [`Likeness::Unsure`] must still
/// be compared by HEAD.
pub fn overlaps<'v>(
    source: &'v [Version],
    destination: &'v [Version],
    etags_tell: bool,
) -> impl Iterator<Item = usize> + 'v {
    let most = source.len().min(destination.len());
    (1..=most).rev().filter(move |overlap| {
        let end = &destination[destination.len() - overlap..];
        // Start with the newest versions, because diverged histories differ there.
        let mut pairs = source[..*overlap].iter().zip(end).rev();
        pairs.all(|(source, destination)| {
            liken(source, destination, etags_tell) != Likeness::Different
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::md5_etag;
    use crate::s3::ArchiveState;

    /// Returns a version: `M` is a delete marker, any other letter an object with that content.
    fn version(content: char) -> Version {
        let is_marker = content == 'M';
        Version {
            id: "v".into(),
            etag: (!is_marker).then(|| md5_etag(content.to_string().as_bytes()).into()),
            storage_class: None,
            // Letters of the same case have the same size.
            size: u64::from(content.is_ascii_uppercase()),
            modified: None,
            is_marker,
            archive: ArchiveState::Readable,
        }
    }

    fn history(contents: &str) -> Vec<Version> {
        contents.chars().map(version).collect()
    }

    /// Returns the versions to append once the contents of unsure pairs are known.
    fn missing<'s>(source: &'s str, destination: &str) -> Option<&'s str> {
        let (from, to) = (history(source), history(destination));
        if to.is_empty() {
            return Some(source);
        }
        overlaps(&from, &to, true)
            .find(|overlap| source[..*overlap] == destination[destination.len() - overlap..])
            .map(|overlap| &source[overlap..])
    }

    #[test]
    fn only_what_is_missing_at_the_end_is_appended() {
        for (source, destination, appended) in [
            ("abc", "", Some("abc")),
            ("abc", "a", Some("bc")),
            ("abc", "abc", Some("")),
            ("aaa", "aa", Some("a")),
            ("aMbM", "aM", Some("bM")),
            ("M", "", Some("M")),
            // The source has lost its oldest versions, and the destination has kept them.
            ("bcd", "abc", Some("d")),
            // Another writer added a version, or an earlier transfer copied only the current
            // version.
            ("abc", "abx", None),
            ("abc", "c", None),
            ("abc", "abcd", None),
            ("abc", "x", None),
            ("cd", "ab", None),
        ] {
            assert_eq!(
                missing(source, destination),
                appended,
                "{source} to {destination}"
            );
        }
    }

    #[test]
    fn sizes_and_markers_contradict_and_etags_confirm() {
        for (source, destination, etags_tell, likeness) in [
            ('a', 'a', true, Likeness::Same),
            ('a', 'a', false, Likeness::Unsure),
            ('a', 'b', true, Likeness::Unsure),
            ('a', 'B', true, Likeness::Different),
            ('A', 'M', true, Likeness::Different),
            ('M', 'M', false, Likeness::Same),
        ] {
            assert_eq!(
                liken(&version(source), &version(destination), etags_tell),
                likeness
            );
        }
    }

    proptest! {
        /// Checks that after appending, the destination's history ends with the source's, and that
        /// a second run appends nothing.
        #[test]
        fn appending_makes_the_histories_end_alike(source in "[abM]{0,7}", destination in "[abM]{0,7}") {
            let Some(appended) = missing(&source, &destination) else { return Ok(()) };
            let after = format!("{destination}{appended}");
            prop_assert!(after.ends_with(&source), "{} {} {}", source, destination, appended);
            if !source.is_empty() {
                prop_assert_eq!(missing(&source, &after), Some(""));
            }
        }

        /// Checks that an interrupted run resumes where it stopped.
        #[test]
        fn an_interrupted_run_goes_on(source in "[abM]{1,8}", done in 0..8_usize, old in "[abM]{0,3}") {
            let done = &source[..done.min(source.len())];
            prop_assert_eq!(missing(&source, done), Some(&source[done.len()..]));
            // With old versions that the source has lost, no more than the missing versions are
            // appended.
            let appended = missing(&source, &format!("{old}{done}"));
            if !done.is_empty() {
                prop_assert!(appended.is_some_and(|appended| appended.len() <= source.len() - done.len()));
            }
        }

        /// Checks that each version is appended once if the source grows between runs.
        #[test]
        fn a_history_that_grows_is_followed(versions in "[abM]{1,10}", runs in proptest::collection::vec(0..10_usize, 1..5)) {
            let mut destination = String::new();
            let mut runs: Vec<_> = runs.into_iter().map(|at| at.min(versions.len())).collect();
            runs.sort_unstable();
            for at in runs.into_iter().chain([versions.len()]) {
                let appended = missing(&versions[..at], &destination).map(str::to_owned);
                destination.push_str(&appended.unwrap_or_default());
            }
            prop_assert_eq!(destination, versions);
        }
    }
}
