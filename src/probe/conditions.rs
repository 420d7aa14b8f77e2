//! Questions about conditions: the server must accept a condition that holds, and refuse one that
//! does not.

use super::finding::{How, ProbeAnswer};
use super::questions::WorkingWrites;
use super::scratch::{Scratch, answer_from, is_refusal, plain, reason};
use crate::endpoint::capabilities::ConditionalWrite;
use crate::s3::{Failure, FailureKind, SourcePin, WriteCondition, Written};
use crate::size::MIB;

/// An `ETag` that no object has.
const NO_ETAG: &str = "00000000000000000000000000000000";

/// The answers about conditions. The answers about writes are in the order of [`WRITES`].
pub(super) struct Conditions {
    pub(super) copy_source: ProbeAnswer,
    pub(super) part_source: ProbeAnswer,
    pub(super) if_none_match: [ProbeAnswer; 3],
    pub(super) if_match: [ProbeAnswer; 3],
}

const WRITES: [ConditionalWrite; 3] = [
    ConditionalWrite::Copy,
    ConditionalWrite::Put,
    ConditionalWrite::Complete,
];

/// Asks about all conditions. `part_copy` is the answer about part copies without conditions.
pub(super) async fn ask(
    scratch: &mut Scratch,
    source: &SourcePin,
    works: &WorkingWrites<'_>,
    part_copy: &ProbeAnswer,
) -> Conditions {
    let copy_source = match works.moot(ConditionalWrite::Copy) {
        Some(moot) => moot,
        None => ask_copy_source(scratch, source).await,
    };
    let part_source = if part_copy.is_lacking() {
        ProbeAnswer::moot("there are no part copies")
    } else {
        ask_part_source(scratch, source).await
    };
    let (mut if_none_match, mut if_match) =
        ([const { not_asked() }; 3], [const { not_asked() }; 3]);
    for (position, write) in WRITES.into_iter().enumerate() {
        if let Some(moot) = works.moot(write) {
            (if_none_match[position], if_match[position]) = (moot.clone(), moot);
            continue;
        }
        if_none_match[position] = ask_if_none_match(scratch, source, write).await;
        if_match[position] = ask_if_match(scratch, source, write).await;
    }
    Conditions {
        copy_source,
        part_source,
        if_none_match,
        if_match,
    }
}

const fn not_asked() -> ProbeAnswer {
    ProbeAnswer {
        how: How::Unknown,
        reason: String::new(),
    }
}

async fn ask_copy_source(scratch: &mut Scratch, source: &SourcePin) -> ProbeAnswer {
    let other = pinned_wrongly(source);
    judge_must_refuse(
        scratch
            .copy(&other, "unpinned", &plain(), WriteCondition::None)
            .await,
    )
}

async fn ask_part_source(scratch: &mut Scratch, source: &SourcePin) -> ProbeAnswer {
    let upload = match scratch.create_upload("unpinned", &plain()).await {
        Ok(upload) => upload,
        Err(failure) => return ProbeAnswer::unknown(reason(&failure)),
    };
    judge_must_refuse(
        scratch
            .copy_part(&upload, 1, &pinned_wrongly(source), None, MIB)
            .await,
    )
}

/// Determines whether `If-None-Match: *` allows a write to an absent key, and refuses any other.
async fn ask_if_none_match(
    scratch: &mut Scratch,
    source: &SourcePin,
    by: ConditionalWrite,
) -> ProbeAnswer {
    let name = format!("absent-{}", word(by));
    let free = scratch
        .write(by, &name, source, &plain(), WriteCondition::Absent)
        .await;
    let taken = scratch
        .write(by, &name, source, &plain(), WriteCondition::Absent)
        .await;
    judge_pair(free, taken)
}

/// Determines whether `If-Match` allows replacing the object with this `ETag`, and refuses any
/// other.
async fn ask_if_match(
    scratch: &mut Scratch,
    source: &SourcePin,
    by: ConditionalWrite,
) -> ProbeAnswer {
    let name = format!("matched-{}", word(by));
    let there = scratch
        .put(&name, &b"there"[..], &plain(), None, WriteCondition::None)
        .await;
    let mut etag = match there {
        Ok(written) => written.etag,
        Err(failure) => return ProbeAnswer::unknown(reason(&failure)),
    };
    let condition = |etag: &str| WriteCondition::Matches(etag.to_owned());
    // The write to be refused comes first, because replacing the object would change its ETag.
    let other = scratch
        .write(by, &name, source, &plain(), condition(NO_ETAG))
        .await;
    if other.is_ok() {
        match scratch.head(&name).await {
            Ok(head) => etag = head.etag,
            Err(failure) => return ProbeAnswer::unknown(reason(&failure)),
        }
    }
    let same = scratch
        .write(by, &name, source, &plain(), condition(&etag))
        .await;
    judge_pair(same, other)
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

/// Judges a request whose condition does not hold, which the server must refuse.
fn judge_must_refuse<T>(answer: Result<T, Failure>) -> ProbeAnswer {
    match answer {
        Ok(_) => ProbeAnswer::ignored("a condition that does not hold has no effect"),
        Err(failure) if *failure.kind() == FailureKind::PreconditionFailed => ProbeAnswer::kept(),
        Err(failure) => answer_from(&failure),
    }
}

/// Judges two requests: the condition holds for the first one only.
fn judge_pair(allowed: Result<Written, Failure>, other: Result<Written, Failure>) -> ProbeAnswer {
    let Err(failure) = allowed else {
        return judge_must_refuse(other);
    };
    if *failure.kind() == FailureKind::PreconditionFailed {
        return ProbeAnswer::refused("a condition that holds is refused");
    }
    if is_refusal(&failure) {
        return ProbeAnswer::refused(reason(&failure));
    }
    // If the server accepts the request that it must refuse, the question is answered, whatever
    // happened to the other request.
    let other = judge_must_refuse(other);
    if other.how == How::Ignored {
        other
    } else {
        ProbeAnswer::unknown(reason(&failure))
    }
}
