//! Finding out where the parts of a source end, when its boundaries are to be replayed.
//!
//! The source's HEAD alone decides whether the parts can be kept at all ([`crate::plan::replay`]).
//! One HEAD of the first part then gives a uniform layout that fits nearly every upload; s3haul
//! asks for each part only if that layout does not fit by arithmetic, or if its result turned out
//! not to be the source's `ETag`.

use futures::stream::{self, StreamExt, TryStreamExt};

use super::ObjectTask;
use super::copy::PinnedSource;
use super::trouble::{Replan, Trouble};
use crate::manifest::job::{Encryption, LayoutChoice, Verify};
use crate::pace::Slot;
use crate::pace::slots::Want;
use crate::plan::decide::Route;
use crate::plan::detour::{detour, finds_parts_of};
use crate::plan::parts::LayoutError;
use crate::plan::replay::{self, Replay};
use crate::s3::{ChecksumKind, Failure, FailureKind, Head, Operation};

/// Parts that are asked for at once.
const HEADS_AT_ONCE: usize = 64;

impl ObjectTask<'_> {
    /// Returns the route of an object whose HEAD is known, and the slot that the caller holds.
    pub(super) async fn layout(
        &mut self,
        source: &PinnedSource<'_>,
        slot: Slot,
    ) -> Result<(Route, Slot), Trouble> {
        let (sides, step) = (&self.work.sides, self.step);
        let usual = sides.route(source.head.size, &step.entry.key, &step.key)?;
        if sides.transfer.parts.layout == LayoutChoice::Auto {
            return Ok((self.keeping_the_checksum(&source.head, usual), slot));
        }
        Box::pin(self.as_the_source(source, usual, slot)).await
    }

    /// Returns the route that gives the copy the source's own parts, if the server shows them;
    /// otherwise the `usual` one.
    async fn as_the_source(
        &mut self,
        source: &PinnedSource<'_>,
        usual: Route,
        slot: Slot,
    ) -> Result<(Route, Slot), Trouble> {
        let (sides, head) = (&self.work.sides, &source.head);
        let destination = sides.destination.capabilities();
        if !finds_parts_of(&self.step.entry.key, destination) {
            self.lose_etag("this server cannot copy parts of an object with % or ? in its name");
            return Ok((usual, slot));
        }
        // Only with keys that S3 holds by itself an ETag is what it is without any.
        let to_kms = !matches!(sides.transfer.to.encryption, None | Some(Encryption::S3));
        let count = match replay::replay(head, to_kms, source.bucket.capabilities(), destination) {
            Replay::InOnePiece => {
                let safe = |error: LayoutError| {
                    let (kind, operation) = (FailureKind::Invalid, Operation::CopyObject);
                    Failure::new(kind, operation, self.place(), error.to_string())
                };
                let (size, when) = (head.size, sides.transfer.when);
                let route = detour(Route::Copy, size, &self.step.entry.key, when, destination)
                    .map_err(safe)?;
                if route != Route::Copy {
                    self.lose_etag(
                    "only an upload can be refused where the key was taken meanwhile (`when: missing`)",
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
            // A server that does not know parts shows the whole object for each of them.
            let Some(first) = first.filter(|first| count == 1 || *first < head.size) else {
                self.lose_etag("the server does not tell the sizes of the source's parts");
                return Ok((usual, slot));
            };
            if let Some(layout) = replay::guess(head.size, count, first, &destination.parts) {
                return Ok((Route::MultipartCopy(layout), slot));
            }
        }
        // Each question takes a slot of its own, so that a run with one slot does not wait for
        // itself.
        drop(slot);
        let task = &*self;
        let part_sizes: Vec<Option<u64>> = stream::iter(1..=count)
            .map(|number| async move {
                let _slot = task.request_slot(Want::Small).await?;
                source.part_size(number, count).await
            })
            .buffered(HEADS_AT_ONCE)
            .try_collect()
            .await?;
        let slot = self.request_slot(Want::Small).await?;
        let part_sizes: Option<Vec<u64>> = part_sizes.into_iter().collect();
        let why =
            match part_sizes.map(|sizes| replay::exactly(head.size, &sizes, &destination.parts)) {
                Some(Ok(layout)) => return Ok((Route::MultipartCopy(layout), slot)),
                Some(Err(why)) => why,
                None => "the server does not tell the sizes of the source's parts",
            };
        self.lose_etag(why);
        Ok((usual, slot))
    }

    /// Returns a single copy if it keeps a checksum that parts cannot make, the job demands a
    /// checksum, and the size allows it; otherwise the `usual` route.
    fn keeping_the_checksum(&self, head: &Head, usual: Route) -> Route {
        let single = head
            .checksum
            .as_ref()
            .is_some_and(|sum| sum.kind == ChecksumKind::FullObject && !sum.algorithm.combines());
        let fits = head.size <= self.work.sides.destination.capabilities().max_copy;
        let demanded = self.work.sides.transfer.proof.verify == Verify::RequireChecksum;
        // An upload of one part stands in for a copy that could not be refused where the key was
        // taken meanwhile.
        let stands_in = usual.parts() == 1;
        if single && fits && demanded && !stands_in {
            Route::Copy
        } else {
            usual
        }
    }

    /// Notes that the `ETag` is not kept.
    pub(super) fn lose_etag(&mut self, why: &str) {
        let note = format!("ETag: {why}");
        if !self.draft.notes.contains(&note) {
            self.draft.notes.push(note);
        }
    }
}

impl PinnedSource<'_> {
    /// Returns the size of one part; `None` if the server does not show it.
    async fn part_size(&self, number: u32, count: u32) -> Result<Option<u64>, Trouble> {
        match self.bucket.head_part(&self.pin, number).await {
            Ok(part) => Ok(Some(part.size).filter(|_| part.count.is_none_or(|told| told == count))),
            Err(failure) => match failure.kind() {
                FailureKind::PreconditionFailed => Err(Replan::SourceChanged.into()),
                FailureKind::Invalid | FailureKind::Unsupported => Ok(None),
                _ => Err(failure.into()),
            },
        }
    }
}
