//! Decides the layout of a copy, and finds the part boundaries of its source if the job keeps them.
//!
//! HEAD of the source shows whether its parts can be kept at all ([`crate::plan::replay`]). HEAD of
//! its first part then suggests a uniform layout, which fits nearly every upload. s3haul sends HEAD
//! for each part only if that layout does not fit, or produces a different `ETag` from the
//! source's.

use futures::stream::{self, StreamExt, TryStreamExt};

use super::ObjectTask;
use super::pinned::PinnedSource;
use super::round_failure::RoundFailure;
use crate::execute::replan::Replan;
use crate::manifest::job::{Encryption, LayoutChoice, Verify};
use crate::pace::Slot;
use crate::pace::slots::SlotKind;
use crate::plan::decide::Route;
use crate::plan::parts::LayoutError;
use crate::plan::replay::{self, Replay};
use crate::plan::workaround::{accepts_key_as_part_source, workaround};
use crate::s3::{ChecksumKind, Failure, FailureKind, Head, Operation};

/// The number of HEADs for parts that are in flight at once.
const HEADS_AT_ONCE: usize = 64;

impl ObjectTask<'_> {
    /// Returns the route of an object whose HEAD is known, and the slot that the caller must hold
    /// from now on.
    pub(super) async fn route_after_head(
        &mut self,
        source: &PinnedSource<'_>,
        slot: Slot,
    ) -> Result<(Route, Slot), RoundFailure> {
        let (sides, step) = (&self.context.sides, self.step);
        let usual = sides.route(source.head.size, &step.entry.key, &step.key)?;
        if sides.transfer.parts.layout == LayoutChoice::Auto {
            return Ok((self.checksum_keeping_route(&source.head, usual), slot));
        }
        Box::pin(self.replayed_route(source, usual, slot)).await
    }

    /// Returns the route that gives the copy the source's own parts, if the server shows them;
    /// otherwise returns the `usual` route.
    async fn replayed_route(
        &mut self,
        source: &PinnedSource<'_>,
        usual: Route,
        slot: Slot,
    ) -> Result<(Route, Slot), RoundFailure> {
        let (sides, head) = (&self.context.sides, &source.head);
        let destination = sides.destination.capabilities();
        if !accepts_key_as_part_source(&self.step.entry.key, destination) {
            self.lose_etag("this server cannot copy parts of an object with % or ? in its name");
            return Ok((usual, slot));
        }
        // Unless S3 itself manages the encryption keys, an ETag is not derived from the bytes.
        let to_kms = !matches!(sides.transfer.to.encryption, None | Some(Encryption::S3));
        let count = match replay::replay(head, to_kms, source.bucket.capabilities(), destination) {
            Replay::InOnePiece => {
                let to_failure = |error: LayoutError| {
                    let (kind, operation) = (FailureKind::Invalid, Operation::CopyObject);
                    Failure::new(kind, operation, self.place(), error.to_string())
                };
                let (size, when) = (head.size, sides.transfer.when);
                let route = workaround(Route::Copy, size, &self.step.entry.key, when, destination)
                    .map_err(to_failure)?;
                if route != Route::Copy {
                    self.lose_etag(
                    "only an upload can be refused if the key was taken meanwhile (`when: missing`)",
                );
                }
                return Ok((route, slot));
            }
            Replay::Impossible(why) => {
                self.lose_etag(why);
                return Ok((usual, slot));
            }
            Replay::Parts(count) => count,
        };
        if !self.draft.replans.contains(&Replan::OtherBoundaries) {
            let first = match count {
                1 => Some(head.size),
                _ => source.part_size(1, count).await?,
            };
            // A server that ignores part numbers shows the whole object for each part.
            let Some(first) = first.filter(|first| count == 1 || *first < head.size) else {
                self.lose_etag("the server does not show the sizes of the source's parts");
                return Ok((usual, slot));
            };
            if let Some(layout) = replay::guess(head.size, count, first, &destination.parts) {
                return Ok((Route::MultipartCopy(layout), slot));
            }
        }
        // Each HEAD takes its own slot, so a run with a single slot would deadlock.
        drop(slot);
        let lengths = self.part_lengths(source, count).await?;
        let slot = self.request_slot(SlotKind::Small).await?;
        let exactly = |lengths: Vec<u64>| replay::exactly(head.size, &lengths, &destination.parts);
        let why = match lengths.map(exactly) {
            Some(Ok(layout)) => return Ok((Route::MultipartCopy(layout), slot)),
            Some(Err(why)) => why,
            None => "the server does not show the sizes of the source's parts",
        };
        self.lose_etag(why);
        Ok((usual, slot))
    }

    /// Returns the lengths of all parts of the source; `None` if the server does not show them.
    async fn part_lengths(
        &self,
        source: &PinnedSource<'_>,
        count: u32,
    ) -> Result<Option<Vec<u64>>, RoundFailure> {
        let lengths: Vec<Option<u64>> = stream::iter(1..=count)
            .map(|number| async move {
                let _slot = self.request_slot(SlotKind::Small).await?;
                source.part_size(number, count).await
            })
            .buffered(HEADS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(lengths.into_iter().collect())
    }

    /// Returns a copy in one request if the job demands a checksum, only such a copy keeps it, and
    /// the size allows it. Otherwise, or if a copy in one request would not be safe on this server,
    /// returns the `usual` route.
    fn checksum_keeping_route(&self, head: &Head, usual: Route) -> Route {
        let transfer = &self.context.sides.transfer;
        let destination = self.context.sides.destination.capabilities();
        let single = head
            .checksum
            .as_ref()
            .is_some_and(|sum| sum.kind == ChecksumKind::FullObject && !sum.algorithm.combines());
        let fits = head.size <= destination.max_copy;
        let demanded = transfer.proof.verify == Verify::RequireChecksum;
        if !(single && fits && demanded) {
            return usual;
        }
        let (key, when) = (&self.step.entry.key, transfer.when);
        match workaround(Route::Copy, head.size, key, when, destination) {
            Ok(Route::Copy) => Route::Copy,
            Ok(_) | Err(_) => usual,
        }
    }

    /// Notes that the `ETag` is not kept, once for each reason.
    pub(super) fn lose_etag(&mut self, why: &str) {
        let note = format!("ETag: {why}");
        if !self.draft.notes.contains(&note) {
            self.draft.notes.push(note);
        }
    }
}
