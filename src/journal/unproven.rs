//! Copies that were published, failed their proof, and were kept.
//!
//! A list cannot distinguish such a copy from a good one, because it has the size of its source and
//! is newer. So the copy stays on record after its run, until a copy to the same place is proven.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::Ended;
use super::tally::leaves_copy;
use crate::plan::decide::Basis;
use crate::s3::FailureKind;

/// The maximum number of copies that are kept on record. A run with more failures has an obvious
/// fault.
const MAX_COPIES: usize = 10_000;

/// The unproven copies by place (`s3://bucket/key`), each with the kind of its failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnprovenCopies(BTreeMap<String, String>);

impl UnprovenCopies {
    /// Records the ending of an object.
    pub(super) fn take(&mut self, ended: &Ended) {
        match ended {
            Ended::Failed(failed) if leaves_copy(failed) && !failed.destination.is_empty() => {
                self.add(&failed.destination, &failed.kind);
            }
            Ended::Done {
                settles: Some(place),
                ..
            } => {
                self.0.remove(place);
            }
            Ended::Failed(_)
            | Ended::Done { settles: None, .. }
            | Ended::Skipped { .. }
            | Ended::Restoring { .. } => {}
        }
    }

    fn add(&mut self, place: &str, kind: &str) {
        if self.0.len() < MAX_COPIES || self.0.contains_key(place) {
            self.0.insert(place.to_owned(), kind.to_owned());
        }
    }

    /// Adds the copies of another journal.
    pub fn merge(&mut self, other: &Self) {
        for (place, kind) in &other.0 {
            self.add(place, kind);
        }
    }

    /// Returns true if the copy at this place failed its proof.
    #[must_use]
    pub fn contains(&self, place: &str) -> bool {
        self.0.contains_key(place)
    }

    /// Returns the kind of failure of the copy at this place, unless a comparison proves the copy
    /// now. `basis` is the basis of the comparison, or `None` if nothing was compared.
    #[must_use]
    pub fn still_fails(&self, place: &str, basis: Option<Basis>) -> Option<&str> {
        let kind = self.0.get(place)?;
        let is_proven = match basis {
            Some(Basis::Checksum) => kind != FailureKind::NotKept.name(),
            Some(Basis::Etag) => kind == FailureKind::NotEqual.name(),
            Some(Basis::DeleteMarker | Basis::Time | Basis::Size) | None => false,
        };
        (!is_proven).then_some(kind.as_str())
    }

    /// Returns the number of copies.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
