//! Questions about conditions: one that does not hold must be refused, and one that holds must not.

use super::finding::{How, Told};
use super::questions::Works;
use super::scratch::{Scratch, is_refusal, plain, reason, told};
use crate::endpoint::capabilities::ConditionalWrite;
use crate::s3::{Failure, FailureKind, SourcePin, WriteCondition, Written};
use crate::size::MIB;

/// An `ETag` that no object has.
const NO_ETAG: &str = "00000000000000000000000000000000";

/// The answers about conditions, those of writes in the order of [`WRITES`].
pub(super) struct Conditions {
    pub(super) copy_source: Told,
    pub(super) part_source: Told,
    pub(super) if_none_match: [Told; 3],
    pub(super) if_match: [Told; 3],
}

const WRITES: [ConditionalWrite; 3] = [
    ConditionalWrite::Copy,
    ConditionalWrite::Put,
    ConditionalWrite::Complete,
];

/// Asks about all conditions. `part_copy` is the answer to part copies without conditions.
pub(super) async fn ask(
    scratch: &mut Scratch,
    source: &SourcePin,
    works: &Works<'_>,
    part_copy: &Told,
) -> Conditions {
    let copy_source = match works.moot(ConditionalWrite::Copy) {
        Some(moot) => moot,
        None => copy_source(scratch, source).await,
    };
    let part_source = if part_copy.is_lacking() {
        Told::moot("there are no part copies")
    } else {
        part_source(scratch, source).await
    };
    let (mut if_none_match, mut if_match) =
        ([const { not_asked() }; 3], [const { not_asked() }; 3]);
    for (position, write) in WRITES.into_iter().enumerate() {
        if let Some(moot) = works.moot(write) {
            (if_none_match[position], if_match[position]) = (moot.clone(), moot);
            continue;
        }
        if_none_match[position] = absent(scratch, source, write).await;
        if_match[position] = matches(scratch, source, write).await;
    }
    Conditions {
        copy_source,
        part_source,
        if_none_match,
        if_match,
    }
}

const fn not_asked() -> Told {
    Told {
        how: How::Unknown,
        reason: String::new(),
    }
}

async fn copy_source(scratch: &mut Scratch, source: &SourcePin) -> Told {
    let other = pinned_wrongly(source);
    forbidden(
        scratch
            .copy(&other, "unpinned", &plain(), WriteCondition::None)
            .await,
    )
}

async fn part_source(scratch: &mut Scratch, source: &SourcePin) -> Told {
    let upload = match scratch.begin("unpinned", &plain()).await {
        Ok(upload) => upload,
        Err(failure) => return Told::unknown(reason(&failure)),
    };
    forbidden(
        scratch
            .copy_part(&upload, 1, &pinned_wrongly(source), None, MIB)
            .await,
    )
}

/// A key that is absent may be written, one that is taken may not.
async fn absent(scratch: &mut Scratch, source: &SourcePin, by: ConditionalWrite) -> Told {
    let name = format!("absent-{}", word(by));
    let free = scratch
        .write(by, &name, source, &plain(), WriteCondition::Absent)
        .await;
    let taken = scratch
        .write(by, &name, source, &plain(), WriteCondition::Absent)
        .await;
    honours(free, taken)
}

/// An object with the named `ETag` may be replaced, another one may not.
async fn matches(scratch: &mut Scratch, source: &SourcePin, by: ConditionalWrite) -> Told {
    let name = format!("matched-{}", word(by));
    let there = scratch
        .put(&name, &b"there"[..], &plain(), None, WriteCondition::None)
        .await;
    let mut etag = match there {
        Ok(written) => written.etag,
        Err(failure) => return Told::unknown(reason(&failure)),
    };
    let condition = |etag: &str| WriteCondition::Matches(etag.to_owned());
    // What must be refused comes first: what replaces the object gives it another ETag.
    let other = scratch
        .write(by, &name, source, &plain(), condition(NO_ETAG))
        .await;
    if other.is_ok() {
        match scratch.head(&name).await {
            Ok(head) => etag = head.etag,
            Err(failure) => return Told::unknown(reason(&failure)),
        }
    }
    let same = scratch
        .write(by, &name, source, &plain(), condition(&etag))
        .await;
    honours(same, other)
}

const fn word(by: ConditionalWrite) -> &'static str {
    match by {
        ConditionalWrite::Copy => "copy",
        ConditionalWrite::Put => "put",
        ConditionalWrite::Complete => "complete",
    }
}

fn pinned_wrongly(source: &SourcePin) -> SourcePin {
    SourcePin {
        etag: NO_ETAG.to_owned(),
        ..source.clone()
    }
}

/// The answer of a request whose condition does not hold.
fn forbidden<T>(answer: Result<T, Failure>) -> Told {
    match answer {
        Ok(_) => Told::ignored("a condition that does not hold has no effect"),
        Err(failure) if *failure.kind() == FailureKind::PreconditionFailed => Told::kept(),
        Err(failure) => told(&failure),
    }
}

/// A condition is honoured when it lets through what it must, and nothing else.
fn honours(allowed: Result<Written, Failure>, other: Result<Written, Failure>) -> Told {
    let Err(failure) = allowed else {
        return forbidden(other);
    };
    if *failure.kind() == FailureKind::PreconditionFailed {
        return Told::refused("a condition that holds is refused");
    }
    if is_refusal(&failure) {
        return Told::refused(reason(&failure));
    }
    // A server that accepts what it must refuse has answered the question, whatever became of the
    // other request.
    let other = forbidden(other);
    if other.how == How::Ignored {
        other
    } else {
        Told::unknown(reason(&failure))
    }
}
