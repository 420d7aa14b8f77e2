//! Reads the objects of a journal in S3, even while a run writes them.

use std::collections::BTreeSet;

use futures::stream::TryStreamExt as _;

use super::{BucketPlace, Listing, ROUNDS, StoredFiles};
use crate::journal::error::JournalError;
use crate::journal::segment::{FileName, JournalContent, segment_name, snapshot_name};

impl BucketPlace {
    /// Returns the first missing object from the snapshot `first` up to the segment before `next`,
    /// which is not written yet.
    pub(super) async fn missing(
        &self,
        first: u64,
        next: u64,
    ) -> Result<Option<FileName>, JournalError> {
        Ok(first_missing(&self.names().await?, first, next))
    }

    /// Reads the journal. Starts over if a writer removes old objects meanwhile.
    pub(super) async fn load(&self) -> Result<StoredFiles, JournalError> {
        for _ in 0..ROUNDS {
            if let Some(found) = self.try_load().await? {
                return Ok(found);
            }
        }
        Err(JournalError::missing(self))
    }

    /// Reads the journal once. Returns `None` if a writer removed old objects meanwhile.
    async fn try_load(&self) -> Result<Option<StoredFiles>, JournalError> {
        let Listing { files, records } = self.listing().await?;
        let names: BTreeSet<FileName> = files.into_keys().collect();
        let mut found = StoredFiles {
            records: records.into_keys().collect(),
            ..StoredFiles::default()
        };
        let latest = names.iter().rev().find_map(|name| match name {
            FileName::Snapshot(number) => Some(*number),
            FileName::Segment(_) => None,
        });
        if let Some(number) = latest {
            let name = snapshot_name(number);
            let Some(bytes) = self.get(&name).await? else {
                return Ok(None);
            };
            found.replay = JournalContent::snapshot(&format!("{self}{name}"), number, &bytes)?;
            found.snapshot_bytes = bytes.len() as u64;
        }
        let first = latest.unwrap_or(1);
        let is_fence = |number: u64| {
            found
                .replay
                .fences
                .iter()
                .any(|fence| fence.segment == number)
        };
        found.stale = names
            .iter()
            .copied()
            .filter(|name| match name {
                FileName::Snapshot(number) => *number < first,
                FileName::Segment(number) => *number < first && !is_fence(*number),
            })
            .collect();
        let tail: Vec<u64> = names
            .iter()
            .filter_map(|name| match name {
                FileName::Segment(number) if *number >= first => Some(*number),
                _ => None,
            })
            .collect();
        found.next_segment = tail.last().map_or(first, |last| last + 1);
        // A writer may have removed the missing segment while the list was read. A second list
        // shows that.
        if let Some(missing) = first_missing(&names, first, found.next_segment) {
            if self.names().await? == names {
                return Err(JournalError::missing(&format!("{self}{missing}")));
            }
            return Ok(None);
        }
        let mut segments = std::pin::pin!(self.segments(tail));
        while let Some((number, bytes)) = segments.try_next().await? {
            let Some(bytes) = bytes else { return Ok(None) };
            found.tail_bytes += bytes.len() as u64;
            // An object is never torn, because S3 stores it as a whole or not at all.
            found.replay.segment(
                &format!("{self}{}", segment_name(number)),
                number,
                &bytes,
                false,
            )?;
        }
        Ok(Some(found))
    }

    /// Reads the journal and changes nothing, even while a run writes it. Returns `None` if there
    /// is no journal.
    pub(in crate::journal) async fn read(&self) -> Result<Option<JournalContent>, JournalError> {
        let found = self.load().await?;
        Ok(found.replay.header.is_some().then_some(found.replay))
    }
}

/// Returns the first missing object that a reader needs: the snapshot with number `first` (unless
/// the journal begins there), or a segment from `first` up to but not including `next`.
fn first_missing(names: &BTreeSet<FileName>, first: u64, next: u64) -> Option<FileName> {
    let snapshot = (first > 1).then_some(FileName::Snapshot(first));
    snapshot
        .into_iter()
        .chain((first..next).map(FileName::Segment))
        .find(|name| !names.contains(name))
}
