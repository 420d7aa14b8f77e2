//! Compares two sides without copying anything, and without reading the bytes of objects unless
//! [`Deep`] asks for it.
//!
//! The source is listed, filtered, and mapped to destination keys exactly as in a run, and the
//! destination is listed in parallel ([`walk`]), so comparing two buckets of any size takes a few
//! pages of memory. Lists decide most pairs: objects of different sizes differ, and objects with
//! equal `ETag`s that derive from the bytes are equal. If the lists cannot decide, s3haul sends
//! HEAD to both sides, for many pairs in parallel at the job's pace, and compares the responses as
//! it does to prove a copy ([`pair`]). If the responses cannot decide either, the pair is
//! *unprovable*, unless the bytes are read ([`Deep`]).

mod pair;
mod walk;

use std::collections::BTreeMap;

use futures::StreamExt;
use serde::Serialize;

use crate::bucket::Bucket;
use crate::execute::receipt::{ErrorRecord, Proof};
use crate::location::{ObjectKey, S3Uri};
use crate::plan::empty::EmptySelection;
use crate::plan::unlisted::UnlistedCounts;
use crate::planner::Sides;
use crate::s3::Failure;
use pair::Pair;
use walk::{PairWalk, Task};

/// The number of pairs that are compared at once.
const MAX_CONCURRENT: usize = 256;

/// Selects the pairs whose bytes are read and compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deep {
    /// No pairs.
    #[default]
    No,
    /// Pairs that nothing else decides.
    Unproven,
    /// All pairs of equal sizes.
    All,
}

/// The result of one comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub enum Verdict {
    /// Both sides have the same bytes.
    Equal {
        /// The proof.
        proof: Proof,
    },
    /// The sides have different bytes.
    Different {
        /// The difference.
        why: String,
        /// True if their sizes differ, which every comparison sees.
        #[serde(skip)]
        by_size: bool,
    },
    /// The destination has no such key.
    Missing,
    /// The source has no object for this key of the destination.
    Extra,
    /// Both sides have the object with the same size, and nothing that S3 computed shows whether
    /// the bytes are equal.
    Unprovable {
        /// The checksums and `ETag`s of both sides.
        why: String,
    },
    /// The pair could not be compared.
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

    /// Returns the verdict about two objects of the same size.
    fn different(why: String) -> Self {
        Self::Different {
            why,
            by_size: false,
        }
    }

    /// Returns the name in reports.
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
    /// `s3://bucket/key` or a path; absent for objects that only the destination has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `s3://bucket/key`.
    pub destination: String,
    /// The size of the source in bytes, or of the destination if only the destination has the
    /// object.
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
    /// Pairs that differ.
    pub different: u64,
    /// Those of them that have the same size.
    #[serde(skip)]
    pub different_of_same_size: u64,
    /// Objects that the destination lacks.
    pub missing: u64,
    /// Objects that only the destination has.
    pub extra: u64,
    /// Pairs of the same size that nothing proves equal or different.
    pub unprovable: u64,
    /// Pairs and lists that failed.
    pub failed: u64,
    /// The failed lists.
    #[serde(skip)]
    pub unlisted: UnlistedCounts,
    /// Objects that the selection excludes.
    pub excluded: u64,
    /// Equal pairs by proof.
    pub proofs: BTreeMap<String, u64>,
    /// True if the whole destination was searched for extra objects.
    pub looked_for_extra: bool,
    /// True if at least a part of the destination was searched for extra objects.
    pub looked_for_some_extra: bool,
    /// The reason why the destination was not searched, or only in part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not_extra: Option<String>,
    /// The transfers whose selections matched nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub empty: Vec<EmptySelection>,
}

impl Counts {
    /// Returns the number of all results.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.equal + self.different + self.missing + self.extra + self.unprovable + self.failed
    }

    /// Returns the number of objects that were found, including excluded ones.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.compared() - self.failed + self.excluded
    }

    /// Returns true if no selected object of the source was found.
    #[must_use]
    pub fn has_nothing(&self) -> bool {
        self.compared() == self.extra
    }

    /// Adds a finding.
    pub fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Equal { proof } => {
                self.equal += 1;
                *self.proofs.entry(proof.to_string()).or_default() += 1;
            }
            Verdict::Different { by_size, .. } => {
                self.different += 1;
                self.different_of_same_size += u64::from(!by_size);
            }
            Verdict::Missing => self.missing += 1,
            Verdict::Extra => self.extra += 1,
            Verdict::Unprovable { .. } => self.unprovable += 1,
            Verdict::Failed { .. } => self.failed += 1,
        }
    }

    /// Records the reason why some extra objects may not have been found.
    fn miss_extra(&mut self, why: &'static str) {
        self.looked_for_extra = false;
        self.why_not_extra.get_or_insert_with(|| why.to_owned());
    }

    /// Adds the name of the transfer to the reason that some extra objects may not have been found.
    pub fn name_transfer(&mut self, name: &str) {
        self.why_not_extra = self
            .why_not_extra
            .take()
            .map(|why| format!("`{name}`: {why}"));
    }

    /// Returns a sentence with the reason why extra objects may not have been found, if there is
    /// one.
    #[must_use]
    pub fn missed_extra(&self) -> Option<String> {
        let why = self
            .why_not_extra
            .as_ref()
            .filter(|_| !self.looked_for_extra)?;
        let what = if self.looked_for_some_extra {
            "not all extra objects were looked for"
        } else {
            "extra objects were not looked for"
        };
        Some(format!("{what}: {why}"))
    }

    /// Adds the counts of another transfer.
    pub fn merge(&mut self, other: Self) {
        let Self {
            equal,
            different,
            different_of_same_size,
            missing,
            extra,
            unprovable,
            failed,
            unlisted,
            excluded,
            proofs,
            looked_for_extra,
            looked_for_some_extra,
            why_not_extra,
            empty,
        } = other;
        self.equal += equal;
        self.different += different;
        self.different_of_same_size += different_of_same_size;
        self.missing += missing;
        self.extra += extra;
        self.unprovable += unprovable;
        self.failed += failed;
        self.unlisted.merge(unlisted);
        self.excluded += excluded;
        for (proof, count) in proofs {
            *self.proofs.entry(proof).or_default() += count;
        }
        self.looked_for_extra &= looked_for_extra;
        self.looked_for_some_extra |= looked_for_some_extra;
        self.why_not_extra = match (self.why_not_extra.take(), why_not_extra) {
            (Some(before), Some(why)) => Some(format!("{before}; {why}")),
            (before, why) => before.or(why),
        };
        self.empty.extend(empty);
    }
}

/// Compares both sides of a transfer. Calls `observe` for each finding, in no particular order.
pub async fn transfer(
    sides: &Sides,
    deep: Deep,
    mut observe: impl FnMut(&VerifyFinding),
) -> Counts {
    let walk = PairWalk::new(sides);
    let looks_for_extra = walk.why_not_extra().is_none();
    let mut counts = Counts {
        looked_for_extra: looks_for_extra,
        looked_for_some_extra: looks_for_extra,
        why_not_extra: walk.why_not_extra().map(str::to_owned),
        ..Counts::default()
    };
    let at_once = MAX_CONCURRENT
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
                    Task::NotExtra => Settled::Nothing,
                    Task::Unplanned(finding) => Settled::Unplanned(finding),
                    Task::Unlisted(finding, failure) => Settled::Unlisted(finding, failure),
                    Task::Compare(step, found) => {
                        Settled::Found(Pair::of_step(sides, &step).settle(&found, deep).await)
                    }
                    Task::Extra(entry, source) => walk::extra(sides, &entry, source)
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
                counts.miss_extra("a part of the source or of the destination could not be listed");
                counts.add(&finding.verdict);
                observe(&finding);
            }
            Settled::Unplanned(finding) => {
                counts.miss_extra("an object of the source could not be planned");
                counts.add(&finding.verdict);
                observe(&finding);
            }
            Settled::Found(finding) => {
                counts.add(&finding.verdict);
                observe(&finding);
            }
        }
    }
    if counts.has_nothing() {
        let empty = EmptySelection::of(&sides.transfer, counts.excluded);
        counts.empty.extend(empty);
    }
    counts
}

/// The result of one step of the walk.
enum Settled {
    Excluded,
    Nothing,
    Unlisted(VerifyFinding, Failure),
    Unplanned(VerifyFinding),
    Found(VerifyFinding),
}

/// The location of one version of an object.
#[derive(Clone, Debug)]
pub struct VersionLocation {
    /// The bucket.
    pub bucket: Bucket,
    /// The key.
    pub key: ObjectKey,
    /// The version; `None` for the current one.
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

/// Compares two objects that a receipt names.
pub async fn objects(
    source: VersionLocation,
    destination: VersionLocation,
    deep: Deep,
) -> VerifyFinding {
    Pair::of_places(source, destination)
        .settle(&walk::DestinationEntry::Unknown, deep)
        .await
}
