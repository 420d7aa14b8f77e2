//! Finding out where the parts of a source end, when its boundaries are to be replayed.
//!
//! The source's HEAD alone decides whether the parts can be kept at all ([`crate::plan::replay`]).
//! One HEAD of the first part then gives a uniform layout that fits nearly every upload; s3haul
//! asks for each part only if that layout does not fit by arithmetic, or if its result turned out
//! not to be the source's `ETag`.

use futures::stream::{self, StreamExt, TryStreamExt};

use super::{Draft, Trouble, Work};
use crate::bucket::Bucket;
use crate::manifest::job::{Encryption, LayoutChoice, Verify};
use crate::pace::Slot;
use crate::pace::slots::Want;
use crate::plan::decide::Route;
use crate::plan::detour::{detour, finds_parts_of};
use crate::plan::parts::LayoutError;
use crate::plan::replay::{self, Replay};
use crate::planner::Step;
use crate::s3::{ChecksumKind, Failure, FailureKind, Head, Operation, SourcePin};

/// Parts that are asked for at once.
const HEADS_AT_ONCE: usize = 64;

/// Returns the route of an object whose HEAD is known, and the slot that the caller holds.
/// `ask_each` says that a guess has failed.
pub(super) async fn route(
    work: &Work,
    source: &Bucket,
    step: &Step,
    head: &Head,
    pin: &SourcePin,
    (slot, ask_each): (Slot, bool),
    draft: &mut Draft,
) -> Result<(Route, Slot), Trouble> {
    let usual = work.sides.route(head.size, &step.entry.key, &step.key)?;
    if work.sides.transfer.parts.layout == LayoutChoice::Auto {
        return Ok((keeping_the_checksum(work, head, usual), slot));
    }
    Box::pin(as_the_source(
        work,
        (source, step),
        (head, pin),
        usual,
        (slot, ask_each),
        draft,
    ))
    .await
}

/// Returns the route that gives the copy the source's own parts, if the server shows them;
/// otherwise the `usual` one.
async fn as_the_source(
    work: &Work,
    (source, step): (&Bucket, &Step),
    (head, pin): (&Head, &SourcePin),
    usual: Route,
    (slot, ask_each): (Slot, bool),
    draft: &mut Draft,
) -> Result<(Route, Slot), Trouble> {
    let destination = work.sides.destination.capabilities();
    if !finds_parts_of(&step.entry.key, destination) {
        lose(
            draft,
            "this server cannot copy parts of an object with % or ? in its name",
        );
        return Ok((usual, slot));
    }
    // Only with keys that S3 holds by itself an ETag is what it is without any.
    let to_kms = !matches!(
        work.sides.transfer.to.encryption,
        None | Some(Encryption::S3)
    );
    let count = match replay::replay(head, to_kms, source.capabilities(), destination) {
        Replay::InOnePiece => {
            let safe = |error: LayoutError| {
                let place = work.sides.destination.place(&step.key);
                Failure::new(
                    FailureKind::Invalid,
                    Operation::CopyObject,
                    place,
                    error.to_string(),
                )
            };
            let (size, when) = (head.size, work.sides.transfer.when);
            let route =
                detour(Route::Copy, size, &step.entry.key, when, destination).map_err(safe)?;
            if route != Route::Copy {
                lose(
                    draft,
                    "only an upload can be refused where the key was taken meanwhile (`when: missing`)",
                );
            }
            return Ok((route, slot));
        }
        Replay::Impossible(why) => {
            lose(draft, why);
            return Ok((usual, slot));
        }
        Replay::Parts(count) => count,
    };
    if !ask_each {
        let first = match count {
            1 => Some(head.size),
            _ => part_size(source, pin, 1, count).await?,
        };
        // A server that does not know parts shows the whole object for each of them.
        let Some(first) = first.filter(|first| count == 1 || *first < head.size) else {
            lose(
                draft,
                "the server does not tell the sizes of the source's parts",
            );
            return Ok((usual, slot));
        };
        if let Some(layout) = replay::guess(head.size, count, first, &destination.parts) {
            return Ok((Route::MultipartCopy(layout), slot));
        }
    }
    // Each question takes a place of its own, so that a run with one place does not wait for
    // itself.
    drop(slot);
    let sizes: Vec<Option<u64>> = stream::iter(1..=count)
        .map(|number| async move {
            let _place = work
                .slots()
                .request(Want::Small)
                .await
                .map_err(|_| Trouble::Stopped)?;
            part_size(source, pin, number, count).await
        })
        .buffered(HEADS_AT_ONCE)
        .try_collect()
        .await?;
    let slot = work
        .slots()
        .request(Want::Small)
        .await
        .map_err(|_| Trouble::Stopped)?;
    let sizes: Option<Vec<u64>> = sizes.into_iter().collect();
    let why = match sizes.map(|sizes| replay::exactly(head.size, &sizes, &destination.parts)) {
        Some(Ok(layout)) => return Ok((Route::MultipartCopy(layout), slot)),
        Some(Err(why)) => why,
        None => "the server does not tell the sizes of the source's parts",
    };
    lose(draft, why);
    Ok((usual, slot))
}

/// Returns a single copy if it keeps a checksum that parts cannot make, the job demands a checksum,
/// and the size allows it; otherwise the `usual` route.
fn keeping_the_checksum(work: &Work, head: &Head, usual: Route) -> Route {
    let single = head
        .checksum
        .as_ref()
        .is_some_and(|sum| sum.kind == ChecksumKind::FullObject && !sum.algorithm.combines());
    let fits = head.size <= work.sides.destination.capabilities().max_copy;
    let demanded = work.sides.transfer.proof.verify == Verify::RequireChecksum;
    // An upload of one part stands in for a copy that could not be refused where the key was taken
    // meanwhile.
    let stands_in = usual.parts() == 1;
    if single && fits && demanded && !stands_in {
        Route::Copy
    } else {
        usual
    }
}

/// Returns the size of one part of the source; `None` if the server does not show it.
async fn part_size(
    source: &Bucket,
    pin: &SourcePin,
    number: u32,
    count: u32,
) -> Result<Option<u64>, Trouble> {
    match source.head_part(pin, number).await {
        Ok(part) => Ok(Some(part.size).filter(|_| part.count.is_none_or(|told| told == count))),
        Err(failure) => match failure.kind() {
            FailureKind::PreconditionFailed => Err(Trouble::SourceChanged),
            FailureKind::Invalid | FailureKind::Unsupported => Ok(None),
            _ => Err(failure.into()),
        },
    }
}

/// Puts on record that the `ETag` is not kept.
pub(super) fn lose(draft: &mut Draft, why: &str) {
    let note = format!("ETag: {why}");
    if !draft.notes.contains(&note) {
        draft.notes.push(note);
    }
}
