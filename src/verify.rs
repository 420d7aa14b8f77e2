//! Are two sides equal? Answered without copying anything, and without reading a byte unless one
//! asks for that.
//!
//! The source is listed, selected and mapped to destination keys exactly as a run would do it, and
//! the destination's listing is walked along ([`walk`]), so that two buckets of any size take a few
//! pages of memory. Most pairs are settled by what the lists say: another size is another object,
//! an equal content `ETag` is an equal one. Only where the lists say nothing, both sides are asked
//! by HEAD, many pairs at a time under the job's pace, and judged by the proofs of a copy
//! ([`pair`]). What even those do not tell is *unprovable*, unless the bytes are read ([`Deep`]).

mod pair;
mod walk;

use std::collections::BTreeMap;

use futures::StreamExt;
use serde::Serialize;

use crate::bucket::Bucket;
use crate::execute::receipt::{ErrorRecord, Proof};
use crate::location::{ObjectKey, S3Uri};
use crate::plan::unlisted::UnlistedCounts;
use crate::planner::Sides;
use crate::s3::Failure;
use pair::Pair;
use walk::{Task, Walk};

/// Pairs that are looked at side by side.
const AT_ONCE: usize = 256;

/// Whose bytes are read and compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deep {
    /// The property of neither side.
    #[default]
    No,
    /// Of pairs that nothing else settles.
    Unproven,
    /// Of every pair of equal size.
    All,
}

/// The result of one comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub enum Verdict {
    /// Both sides hold the same bytes.
    Equal {
        /// On what that rests.
        proof: Proof,
    },
    /// They do not.
    Different {
        /// The differences.
        why: String,
    },
    /// The destination has no such key.
    Missing,
    /// The source has no object for this key of the destination.
    Extra,
    /// Both are there with one size, and nothing that S3 computed tells whether they are equal.
    Unprovable {
        /// The values of both sides.
        why: String,
    },
    /// It could not be looked at.
    Failed {
        /// The failure.
        error: ErrorRecord,
    },
}

impl Verdict {
    fn failed(failure: &Failure) -> Self {
        Self::Failed {
            error: failure.into(),
        }
    }

    /// The word for it, as in reports.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Equal { .. } => "equal",
            Self::Different { .. } => "different",
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Unprovable { .. } => "unprovable",
            Self::Failed { .. } => "failed",
        }
    }
}

/// The finding about one pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifyFinding {
    /// `s3://bucket/key` or a path; absent for what only the destination has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `s3://bucket/key`.
    pub destination: String,
    /// Bytes, as listed.
    pub size: u64,
    /// The result.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// The number of results of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Pairs that are equal.
    pub equal: u64,
    /// Pairs that are not.
    pub different: u64,
    /// Objects that the destination lacks.
    pub missing: u64,
    /// Objects that only the destination has.
    pub extra: u64,
    /// Pairs of which nothing tells.
    pub unprovable: u64,
    /// The pairs that could not be compared.
    pub failed: u64,
    /// Those of them that were lists.
    #[serde(skip)]
    pub unlisted: UnlistedCounts,
    /// Objects that the selection leaves out.
    pub excluded: u64,
    /// Equal pairs by what that rests on.
    pub proofs: BTreeMap<String, u64>,
    /// False where the destination could not be searched for extra objects: its keys come in
    /// another order.
    pub looked_for_extra: bool,
    /// The reason, if it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not_extra: Option<&'static str>,
}

impl Counts {
    /// Returns the number of pairs and single objects that were looked at.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.equal + self.different + self.missing + self.extra + self.unprovable + self.failed
    }

    /// Returns the number of objects that were found.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.compared() - self.failed + self.excluded
    }

    /// Adds a finding.
    pub fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Equal { proof } => {
                self.equal += 1;
                *self.proofs.entry(proof.to_string()).or_default() += 1;
            }
            Verdict::Different { .. } => self.different += 1,
            Verdict::Missing => self.missing += 1,
            Verdict::Extra => self.extra += 1,
            Verdict::Unprovable { .. } => self.unprovable += 1,
            Verdict::Failed { .. } => self.failed += 1,
        }
    }

    /// Adds the counts of another transfer.
    pub fn merge(&mut self, other: &Self) {
        self.equal += other.equal;
        self.different += other.different;
        self.missing += other.missing;
        self.extra += other.extra;
        self.unprovable += other.unprovable;
        self.failed += other.failed;
        self.unlisted.merge(other.unlisted);
        self.excluded += other.excluded;
        for (proof, count) in &other.proofs {
            *self.proofs.entry(proof.clone()).or_default() += count;
        }
        self.looked_for_extra &= other.looked_for_extra;
        self.why_not_extra = self.why_not_extra.or(other.why_not_extra);
    }
}

/// Compares both sides of a transfer. It calls `observe` for each pair, in no particular order.
pub async fn transfer(
    sides: &Sides,
    deep: Deep,
    mut observe: impl FnMut(&VerifyFinding),
) -> Counts {
    let walk = Walk::new(sides);
    let mut counts = Counts {
        looked_for_extra: walk.why_not_extra().is_none(),
        why_not_extra: walk.why_not_extra(),
        ..Counts::default()
    };
    let at_once = AT_ONCE
        .min(sides.destination.pacer().slots().ceiling() as usize)
        .max(1);
    let tasks = futures::stream::unfold(walk, |mut walk| async move {
        let task = walk.next().await?;
        Some((task, walk))
    });
    let mut settled = std::pin::pin!(
        tasks
            .map(|task| async move {
                match task {
                    Task::Excluded => Settled::Excluded,
                    Task::Foreign => Settled::Nothing,
                    Task::Known(finding) => Settled::Found(finding),
                    Task::Unlisted(finding, failure) => Settled::Unlisted(finding, failure),
                    Task::Compare(step, found) => {
                        Settled::Found(Pair::of_step(sides, &step).settle(&found, deep).await)
                    }
                    Task::Surplus(entry, source) => walk::surplus(sides, &entry, source)
                        .await
                        .map_or(Settled::Nothing, Settled::Found),
                }
            })
            .buffer_unordered(at_once)
    );
    while let Some(settled) = settled.next().await {
        match settled {
            Settled::Excluded => counts.excluded += 1,
            Settled::Nothing => {}
            Settled::Unlisted(finding, failure) => {
                counts.unlisted.observe(&failure);
                counts.add(&finding.verdict);
                observe(&finding);
            }
            Settled::Found(finding) => {
                counts.add(&finding.verdict);
                observe(&finding);
            }
        }
    }
    counts
}

/// The result of one step of the walk.
enum Settled {
    Excluded,
    Nothing,
    Unlisted(VerifyFinding, Failure),
    Found(VerifyFinding),
}

/// One version of an object, named exactly.
#[derive(Clone, Debug)]
pub struct VersionLocation {
    /// The bucket.
    pub bucket: Bucket,
    /// The key.
    pub key: ObjectKey,
    /// This version, or the current one.
    pub version: Option<String>,
}

impl VersionLocation {
    fn uri(&self) -> String {
        S3Uri {
            bucket: self.bucket.name().clone(),
            key: self.key.clone(),
        }
        .to_string()
    }
}

/// Compares two objects, as a receipt names them.
pub async fn objects(
    source: VersionLocation,
    destination: VersionLocation,
    deep: Deep,
) -> VerifyFinding {
    Pair::of_places(source, destination)
        .settle(&walk::DestinationEntry::Unknown, deep)
        .await
}
