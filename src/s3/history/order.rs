//! Restores the order of a listing of versions.
//!
//! The SDK splits versions and delete markers into two lists. If two entries of a key were written
//! in the same second, the precision of S3's times, the lists no longer show which one is newer.
//! The response itself has the entries in order. So an interceptor reads the order of the elements
//! from the response's text, and the lists are merged in that order, or by time if the server lists
//! the two kinds separately. The interceptor also keeps the status, which distinguishes a restore
//! that begins from a finished one.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use super::ListedVersion;

/// Keeps facts of a response that the SDK's types lose.
#[derive(Clone, Debug, Default)]
pub(super) struct RawAnswer(Arc<Mutex<RawAnswerState>>);

#[derive(Debug, Default)]
struct RawAnswerState {
    status: u16,
    /// For each entry of a listing of versions, true if it is a delete marker.
    order: Vec<bool>,
}

impl RawAnswer {
    pub(super) fn order(&self) -> Vec<bool> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).order)
    }

    pub(super) fn status(&self) -> u16 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).status
    }
}

impl Intercept for RawAnswer {
    fn name(&self) -> &'static str {
        "RawAnswer"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = context.response();
        let mut glance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        glance.status = answer.status().as_u16();
        glance.order = answer.body().bytes().map(order_of).unwrap_or_default();
        Ok(())
    }
}

/// Returns true for each delete marker and false for each version of a document, in order. A `<` in
/// a key is escaped, so no key looks like a tag.
fn order_of(document: &[u8]) -> Vec<bool> {
    let mut order = Vec::new();
    for (at, _) in document
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'<')
    {
        let tag = &document[at..];
        if tag.starts_with(b"<Version>") {
            order.push(false);
        } else if tag.starts_with(b"<DeleteMarker>") {
            order.push(true);
        }
    }
    order
}

/// Merges versions and delete markers into one list, in the order of the document if that is a
/// valid order of a history.
pub(super) fn in_order(
    versions: Vec<ListedVersion>,
    markers: Vec<ListedVersion>,
    order: &[bool],
) -> Vec<ListedVersion> {
    let there = |kind: bool| order.iter().filter(|is_marker| **is_marker == kind).count();
    let (mut versions, mut markers) = (VecDeque::from(versions), VecDeque::from(markers));
    if there(false) != versions.len() || there(true) != markers.len() {
        return by_time(versions, markers);
    }
    let (kept_versions, kept_markers) = (versions.clone(), markers.clone());
    let merged: Vec<_> = order
        .iter()
        .filter_map(|is_marker| {
            if *is_marker {
                markers.pop_front()
            } else {
                versions.pop_front()
            }
        })
        .collect();
    let is_history = merged.windows(2).all(|pair| {
        let [one, next] = pair else { return true };
        one.key < next.key
            || (one.key == next.key && one.modified >= next.modified && !next.is_latest)
    });
    if is_history {
        merged
    } else {
        by_time(kept_versions, kept_markers)
    }
}

/// Merges by key, newest first. The latest entry of a key counts as its newest, whatever its time,
/// because an upload is dated at its creation. Of two entries of the same second, the marker is
/// newer, because an object is deleted after it was written.
fn by_time(
    mut versions: VecDeque<ListedVersion>,
    mut markers: VecDeque<ListedVersion>,
) -> Vec<ListedVersion> {
    let mut merged = Vec::with_capacity(versions.len() + markers.len());
    while let (Some(version), Some(marker)) = (versions.front(), markers.front()) {
        let rank = |entry: &ListedVersion| {
            (
                Reverse(entry.is_latest),
                Reverse(entry.modified),
                !entry.is_marker,
            )
        };
        let marker_first = marker
            .key
            .cmp(&version.key)
            .then_with(|| rank(marker).cmp(&rank(version)))
            .is_lt();
        merged.extend(if marker_first {
            markers.pop_front()
        } else {
            versions.pop_front()
        });
    }
    merged.extend(versions);
    merged.extend(markers);
    merged
}

/// Reverses the versions of each key that is listed oldest first. If a list begins with the latest
/// version, its times prove nothing against its order, because uploads are dated at their creation.
///
/// # Errors
/// Fails if the latest version of a key is not first, unless its versions are clearly listed oldest
/// first.
pub(super) fn newest_first(mut list: Vec<ListedVersion>) -> Result<Vec<ListedVersion>, String> {
    for history in list.chunk_by_mut(|one, next| one.key == next.key) {
        let ascends = || {
            history
                .windows(2)
                .all(|pair| pair[0].modified <= pair[1].modified)
        };
        match history.iter().position(|entry| entry.is_latest) {
            None | Some(0) => {}
            Some(at) if at + 1 == history.len() && ascends() => history.reverse(),
            Some(at) => {
                let ListedVersion { key, id, .. } = &history[at];
                return Err(format!(
                    "the list shows other versions of `{key}` before its latest one, `{id}`"
                ));
            }
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use jiff::Timestamp;

    use super::super::ArchiveState;
    use super::*;

    fn entry(key: &str, second: i64, is_marker: bool, is_latest: bool) -> ListedVersion {
        ListedVersion {
            key: key.to_owned(),
            id: format!("{key}-{second}-{is_marker}"),
            is_marker,
            is_latest,
            size: 0,
            etag: None,
            modified: Timestamp::from_second(second).ok(),
            storage_class: None,
            archive: ArchiveState::Readable,
        }
    }

    fn split(history: &[ListedVersion]) -> (Vec<ListedVersion>, Vec<ListedVersion>) {
        history.iter().cloned().partition(|entry| !entry.is_marker)
    }

    #[test]
    fn entries_of_one_second_stand_as_in_the_document() {
        let history = [
            entry("a", 7, false, true),
            entry("a", 7, true, false),
            entry("a", 7, false, false),
            entry("b", 3, true, true),
        ];
        let document =
            b"<R><Version><Key>a</Key></Version><DeleteMarker/><DeleteMarker><Key>&lt;Version></Key>\
            </DeleteMarker><Version></Version><DeleteMarker></DeleteMarker></R>";
        let order = order_of(document);
        assert_eq!(order, [false, true, false, true]);
        let (versions, markers) = split(&history);
        assert_eq!(in_order(versions, markers, &order), history);
    }

    #[test]
    fn versions_that_are_listed_oldest_first_are_turned() {
        let oldest_first = [
            entry("a", 1, false, false),
            entry("a", 2, true, false),
            entry("a", 2, false, true),
            entry("b", 9, false, true),
            entry("b", 3, false, false),
        ];
        let [a1, a2, a3, b1, b2] = oldest_first.clone();
        assert_eq!(
            newest_first(oldest_first.into()).unwrap(),
            [a3, a2, a1, b1, b2]
        );
        // An upload is dated at its creation.
        let early = [entry("a", 1, false, true), entry("a", 2, false, false)];
        assert_eq!(newest_first(early.clone().into()).unwrap(), early);
        for bad in [
            [
                entry("a", 1, false, false),
                entry("a", 2, false, true),
                entry("a", 3, false, false),
            ],
            [
                entry("a", 2, false, false),
                entry("a", 1, false, false),
                entry("a", 1, false, true),
            ],
        ] {
            let why = newest_first(bad.into()).unwrap_err();
            assert!(
                why.contains("other versions of `a` before its latest one"),
                "{why}"
            );
        }
    }

    #[test]
    fn the_latest_is_the_newest_whatever_its_time() {
        let upload = entry("a", 1, false, true);
        let marker = entry("a", 5, true, false);
        let merged = by_time(vec![upload.clone()].into(), vec![marker.clone()].into());
        assert_eq!(merged, [upload, marker]);
    }

    #[test]
    fn a_document_that_writes_the_kinds_apart_is_merged_by_time() {
        let history = [
            entry("a", 9, true, true),
            entry("a", 8, false, false),
            entry("b", 10, false, true),
        ];
        let (versions, markers) = split(&history);
        for order in [&[false, false, true][..], &[true, false, false], &[]] {
            assert_eq!(
                in_order(versions.clone(), markers.clone(), order),
                history,
                "{order:?}"
            );
        }
        let same_second = [entry("a", 9, true, false), entry("a", 9, false, false)];
        let (versions, markers) = split(&same_second);
        assert_eq!(by_time(versions.into(), markers.into()), same_second);
    }

    proptest! {
        #[test]
        fn no_entry_is_lost_and_times_never_ascend(
            mut times in proptest::collection::vec((0..3_usize, 0..50_i64, any::<bool>()), 0..40),
        ) {
            times.sort_by_key(|(key, second, marker)| (*key, Reverse(*second), *marker));
            times.dedup_by_key(|(key, second, _)| (*key, *second));
            let history: Vec<_> = times
                .iter()
                .map(|(key, second, marker)| entry(["a", "b", "c"][*key], *second, *marker, false))
                .collect();
            let (versions, markers) = split(&history);
            let order: Vec<_> = history.iter().map(|entry| entry.is_marker).collect();
            prop_assert_eq!(&in_order(versions.clone(), markers.clone(), &order), &history);
            prop_assert_eq!(&in_order(versions, markers, &[]), &history);
        }
    }
}
