//! Remembers whether the encryption of a bucket's objects makes their `ETag`s useless for
//! comparison.
//!
//! An object that a KMS or customer key encrypts has an `ETag` that looks like an MD5 but is not
//! one. HEAD shows the encryption, a list does not. In a bucket that encrypts everything this way,
//! a HEAD for each object with a different `ETag` would cost a nightly run as many requests as
//! there are objects, with the same result every time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The number of objects with hidden `ETag`s in a row after which s3haul sends no more HEADs.
const ENOUGH: u32 = 100;

/// Counts the objects in a row whose `ETag`s are hidden by an encryption key. Cheap to clone;
/// clones share the count.
#[derive(Clone, Debug, Default)]
pub struct HiddenEtags(Arc<AtomicU32>);

impl HiddenEtags {
    /// Counts the HEAD of an object whose `ETag` differs from that of its counterpart.
    pub fn note(&self, is_hidden: bool) {
        // A race may lose a count, which costs one request.
        let next = if is_hidden {
            self.0.load(Ordering::Relaxed).saturating_add(1)
        } else {
            0
        };
        self.0.store(next, Ordering::Relaxed);
    }

    /// Returns true if a difference of `ETag`s proves nothing in this bucket.
    #[must_use]
    pub fn are_usual(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_in_a_row_are_enough_and_one_that_is_not_hidden_begins_anew() {
        let hidden = HiddenEtags::default();
        let note = |times, is_hidden| (0..times).for_each(|_| hidden.note(is_hidden));
        note(99, true);
        assert!(!hidden.are_usual());
        note(1, false);
        note(99, true);
        assert!(!hidden.are_usual());
        note(1, true);
        assert!(hidden.clone().are_usual());
    }
}
