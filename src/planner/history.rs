//! Plans complete histories: all versions of each key, in order.
//!
//! Keys are planned in parallel, but the versions of a key form a chain: a [`Step`] for the oldest
//! missing version, with the newer ones attached ([`VersionChain`]). The executor starts a version
//! when its predecessor is done, so the destination never has versions in another order, even after
//! failures. [`plan::history`](crate::plan::history) finds the versions that exist already.
//!
//! A version that cannot be copied blocks the newer versions of its key, because versions cannot be
//! reordered later. The number of versions that wait for the executor is bounded. A key with more
//! versions than this bound waits alone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::stream::{self, FuturesOrdered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::steps::{BatchSender, PlanSender, ReceiverGone};
use super::{HEADS_AT_ONCE, Planned, Resume, Sides, Step};
use crate::bucket::Bucket;
use crate::bucket::history::LatestVersion;
use crate::listing::Entry;
use crate::listing::filter::{Excluded, Filter};
use crate::listing::versions::{self, History, HistoryItem, HistoryWalk, Scope, Version};
use crate::location::ObjectKey;
use crate::manifest::job::{Archived, Source, When};
use crate::pace::gate::spawn_and_join;
use crate::plan::decide::{Basis, Content, Route, SetAttributes, Skip, content};
use crate::plan::history::{Likeness, liken, overlaps};
use crate::s3::{ArchiveState, Failure, FailureKind, Operation};
use crate::size::{by_number, display_counted};

/// The maximum number of versions of all keys that are planned but not started. They take about 40
/// MB.
const VERSIONS_AHEAD: u32 = 200_000;
/// The maximum number of pairs of versions of one key that are compared by HEAD at once.
const LOOKS_AT_ONCE: usize = 16;

/// The additional data of a step that is part of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryStep {
    /// The newest version of the key at the destination before this step.
    pub latest: LatestVersion,
    /// The newer versions of the key, which wait for this version.
    pub newer: Option<Box<VersionChain>>,
}

/// Versions of one key that wait for their turn, oldest first.
#[derive(Clone, Debug)]
pub struct VersionChain {
    /// The key at the source.
    key: ObjectKey,
    /// The byte offset of the part of the key after the source's prefix.
    relative_at: usize,
    /// The key at the destination.
    to: ObjectKey,
    /// The versions, oldest first.
    versions: VecDeque<Version>,
    /// The share of these versions in [`VERSIONS_AHEAD`].
    _held: Option<Arc<OwnedSemaphorePermit>>,
}

impl PartialEq for VersionChain {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, &self.to, &self.versions) == (&other.key, &other.to, &other.versions)
    }
}

impl Eq for VersionChain {}

impl VersionChain {
    /// Returns the versions that wait.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter()
    }

    /// Returns the step of the oldest version, with the newer versions attached.
    #[must_use]
    pub fn next(mut self: Box<Self>, sides: &Sides, latest: LatestVersion) -> Option<Step> {
        let version = self.versions.pop_front()?;
        let (key, to) = (self.key.clone(), self.to.clone());
        let route = match version.archive {
            _ if version.is_marker => Route::DeleteMarker,
            // If the object is too large, the copy fails and reports the size that HEAD shows.
            ArchiveState::Readable => sides.route(version.size, &key, &to).unwrap_or(Route::Copy),
            ArchiveState::Archived | ArchiveState::Restoring => Route::Restore,
        };
        let entry = entry(&key, self.relative_at, version);
        let newer = (!self.versions.is_empty()).then_some(self);
        let history = Some(Box::new(HistoryStep { latest, newer }));
        Some(Step {
            route,
            history,
            ..Step::without_work(entry, to)
        })
    }
}

/// Returns a version as an entry. Markers have neither bytes nor an `ETag`.
fn entry(key: &ObjectKey, relative_at: usize, version: Version) -> Entry {
    Entry {
        key: key.clone(),
        relative_at,
        size: version.size,
        etag: version.etag.map(Into::into),
        version: Some(version.id.into()),
        modified: version.modified,
        storage_class: version.storage_class.map(|class| class.to_string()),
        archive: version.archive,
    }
}

/// A key whose versions were compared with the destination's versions.
struct Aligned {
    /// The key and its versions at the source.
    history: History,
    /// The key at the destination.
    to: ObjectKey,
    /// The basis of equality of each version that the destination already has, oldest first.
    there: Vec<Basis>,
    /// The newest version of the key at the destination.
    latest: LatestVersion,
    /// The share of these versions in [`VERSIONS_AHEAD`].
    held: OwnedSemaphorePermit,
}

/// The result of comparing a key with the destination: an error is the plan for a key without
/// versions to copy.
type AlignResult = Result<Aligned, Box<Planned>>;

impl Sides {
    /// Plans the histories of all keys, as one range.
    pub(super) async fn run_histories(
        &self,
        resume: Resume,
        sender: PlanSender,
    ) -> Result<(), ReceiverGone> {
        let first = resume.ranges.first();
        let range = first.map_or(resume.first, |range| range.range);
        let batches = BatchSender::new(range, sender);
        self.plan_histories(&batches).await?;
        batches.end().await
    }

    async fn plan_histories(&self, planned: &BatchSender) -> Result<(), ReceiverGone> {
        let Some(source) = &self.source else {
            return Ok(());
        };
        let filter = Filter::new(&self.transfer.select);
        let mut told = match (&self.transfer.chosen, &self.transfer.from) {
            (Some(chosen), Source::Prefix { location, .. }) => {
                let keys = chosen.iter().map(|chosen| chosen.key.clone()).collect();
                versions::histories_of(source.clone(), &location.key, keys)
            }
            _ => versions::histories(source.clone(), self.scope()),
        };
        let mut walk = self.walk();
        let room = Arc::new(Semaphore::new(VERSIONS_AHEAD as usize));
        let mut asked = FuturesOrdered::new();
        let at_once = HEADS_AT_ONCE.min(self.destination.pacer().slots().ceiling() as usize);
        while let Some(told) = told.next().await {
            let history = match told {
                HistoryItem::History(history) => history,
                HistoryItem::Ignored(place, why) => {
                    planned.send(Planned::Ignored(place, why)).await?;
                    continue;
                }
                HistoryItem::Failed(place, failure) if self.transfer.chosen.is_none() => {
                    planned.send(Planned::Unlisted(place, failure)).await?;
                    continue;
                }
                HistoryItem::Failed(place, failure) => {
                    planned.send(Planned::Failed(None, place, failure)).await?;
                    continue;
                }
            };
            let Some((history, to)) = self.sift_history(history, &filter, planned).await? else {
                continue;
            };
            let share = u32::try_from(history.versions.len())
                .unwrap_or(u32::MAX)
                .min(VERSIONS_AHEAD);
            // Earlier keys keep their share until their plans are sent.
            while !asked.is_empty()
                && (asked.len() >= at_once || room.available_permits() < share as usize)
            {
                if let Some(looked) = asked.next().await {
                    self.send_plan(looked, planned).await?;
                }
            }
            let Ok(held) = Arc::clone(&room).acquire_many_owned(share).await else {
                break;
            };
            let found = match &mut walk {
                None => None,
                Some(walk) => match walk.find(to.as_str()).await {
                    Ok(versions) => Some(versions),
                    Err(failure) => {
                        let place = self.transfer.to.location.to_string();
                        planned.send(Planned::Unlisted(place, failure)).await?;
                        break;
                    }
                },
            };
            let (sides, source) = (self.clone(), source.clone());
            asked.push_back(spawn_and_join(async move {
                sides.align(&source, history, to, found, held).await
            }));
        }
        while let Some(looked) = asked.next().await {
            self.send_plan(looked, planned).await?;
        }
        Ok(())
    }

    /// Returns the part of the source that is listed.
    pub(super) fn scope(&self) -> Scope {
        match &self.transfer.from {
            Source::Object { location, .. } => Scope::one(&location.key),
            // Of these, only prefixes have versions: the check of a job refuses local sources with
            // `versions`.
            Source::Prefix { .. } | Source::Files { .. } | Source::Stdin => {
                Scope::of(self.source_reach())
            }
        }
    }

    /// Returns the destination's histories if they can be listed alongside the source's.
    fn walk(&self) -> Option<HistoryWalk> {
        self.lists_destination().then(|| {
            let reach = self.destination_reach();
            HistoryWalk::along(versions::histories(
                self.destination.clone(),
                Scope::of(reach),
            ))
        })
    }

    /// Applies the selection to each version, and the key map to the key.
    async fn sift_history(
        &self,
        mut history: History,
        filter: &Filter,
        planned: &BatchSender,
    ) -> Result<Option<(History, ObjectKey)>, ReceiverGone> {
        if history.relative().is_empty() {
            planned
                .send(Planned::Ignored(
                    history.key.to_string(),
                    "the prefix itself",
                ))
                .await?;
            return Ok(None);
        }
        let all = history.versions.len();
        let relative = history
            .key
            .as_str()
            .get(history.relative_at..)
            .unwrap_or_default();
        let mut is_undated = false;
        history.versions.retain(|version| {
            let class = version.storage_class.as_deref();
            let admitted = if version.is_marker {
                filter.admits_marker(relative, version.modified)
            } else {
                filter.admits(relative, version.size, version.modified, class)
            };
            is_undated |= admitted == Err(Excluded::ModifiedUnknown);
            admitted.is_ok()
        });
        if is_undated {
            let (place, why) = (
                history.key.to_string(),
                Excluded::ModifiedUnknown.to_string(),
            );
            let failure = Failure::new(
                FailureKind::ServerFault,
                Operation::ListObjectVersions,
                &*place,
                why,
            );
            planned
                .send(Planned::Failed(Some(history.key), place, failure))
                .await?;
            return Ok(None);
        }
        for _ in history.versions.len()..all {
            planned.send(Planned::Excluded(history.key.clone())).await?;
        }
        if history.versions.is_empty() {
            return Ok(None);
        }
        match self.transfer.keys.destination_key(
            &self.transfer.to.location.key,
            history.relative(),
            0,
        ) {
            Ok(to) => Ok(Some((history, to))),
            Err(error) => {
                let place = history.key.to_string();
                let failure = Failure::new(
                    FailureKind::Invalid,
                    Operation::ListObjectVersions,
                    &*place,
                    error.to_string(),
                );
                planned
                    .send(Planned::Failed(Some(history.key), place, failure))
                    .await?;
                Ok(None)
            }
        }
    }

    /// Finds the versions of a history that the destination has.
    async fn align(
        &self,
        source: &Bucket,
        history: History,
        to: ObjectKey,
        found: Option<Vec<Version>>,
        held: OwnedSemaphorePermit,
    ) -> AlignResult {
        let place = format!("s3://{}/{}", source.name(), history.key);
        let there = match found {
            Some(there) => there,
            None => match self
                .destination
                .with_slot(versions::of_key(&self.destination, &to))
                .await
            {
                Ok(there) => there,
                Err(failure) => {
                    return Err(Box::new(Planned::Failed(Some(history.key), place, failure)));
                }
            },
        };
        let latest = there.last().map_or(LatestVersion::Nothing, |newest| {
            LatestVersion::Version(newest.id.clone().into())
        });
        if there.is_empty() || self.transfer.when == When::Always {
            return Ok(Aligned {
                history,
                to,
                there: Vec::new(),
                latest,
                held,
            });
        }
        match self.overlap(source, &history, &to, &there).await {
            Ok(Some(there)) => Ok(Aligned {
                history,
                to,
                there,
                latest,
                held,
            }),
            Ok(None) if self.transfer.when == When::Missing => {
                // The key exists, so nothing is copied.
                let newest = history.versions.into_iter().next_back();
                let entry = newest.map(|newest| entry(&history.key, history.relative_at, newest));
                Err(Box::new(match entry {
                    Some(entry) => Planned::Skip(Box::new(entry), to, Skip::Present),
                    None => Planned::Excluded(history.key),
                }))
            }
            Ok(None) => {
                let message = format!(
                    "the destination has {} of {to}, and {} of the source's {}",
                    display_counted(there.len() as u64, "version"),
                    by_number(
                        there.len() as u64,
                        "it is not the oldest",
                        "they are not the oldest"
                    ),
                    history.versions.len()
                );
                let operation = Operation::ListObjectVersions;
                let failure = Failure::new(
                    FailureKind::Diverged,
                    operation,
                    self.destination.place(&to),
                    message,
                );
                Err(Box::new(Planned::Failed(Some(history.key), place, failure)))
            }
            Err(failure) => Err(Box::new(Planned::Failed(Some(history.key), place, failure))),
        }
    }

    /// Determines how many of the source's oldest versions are the destination's newest versions.
    /// Returns the comparison that found each of them equal, or `None` if the histories have
    /// diverged.
    async fn overlap(
        &self,
        source: &Bucket,
        history: &History,
        to: &ObjectKey,
        there: &[Version],
    ) -> Result<Option<Vec<Basis>>, Failure> {
        let etags_tell = self.etags_follow_from_bytes();
        // If lists are not trusted, HEAD must confirm that versions are equal.
        let lists_tell = etags_tell && self.believes_lists();
        let mut looked: HashMap<(usize, usize), Option<Basis>> = HashMap::new();
        'candidates: for overlap in overlaps(&history.versions, there, lists_tell) {
            let first = there.len() - overlap;
            let unsure: Vec<_> = (0..overlap)
                .map(|at| (at, first + at))
                .filter(|(a, b)| {
                    liken(&history.versions[*a], &there[*b], lists_tell) == Likeness::Unsure
                })
                .filter(|pair| !matches!(looked.get(pair), Some(Some(_))))
                .collect();
            if unsure.iter().any(|pair| looked.get(pair) == Some(&None)) {
                continue;
            }
            let mut looks = stream::iter(unsure)
                .map(|(a, b)| async move {
                    let (source_id, id) = (&*history.versions[a].id, &*there[b].id);
                    let (from, copy) = tokio::join!(
                        source.with_slot(source.head(&history.key, Some(source_id))),
                        self.destination
                            .with_slot(self.destination.head(to, Some(id)))
                    );
                    let (from, copy) = (from?, copy?);
                    // If nothing else can be compared, the sizes and the order decide, provided
                    // that the copy is not older than its source.
                    let in_time = (copy.modified >= from.modified).then_some(Basis::Time);
                    let same = match content(&from, &copy, etags_tell) {
                        Content::Equal(basis) => Some(basis),
                        Content::Differs(_) => None,
                        Content::SamePartCount | Content::Unknown => in_time,
                    };
                    Ok(((a, b), same))
                })
                .buffered(LOOKS_AT_ONCE);
            while let Some(look) = looks.next().await {
                let (pair, same) = look?;
                looked.insert(pair, same);
                if same.is_none() {
                    continue 'candidates;
                }
            }
            let basis = |at: usize| {
                let by_lists = if history.versions[at].is_marker {
                    Basis::DeleteMarker
                } else {
                    Basis::Etag
                };
                looked
                    .get(&(at, first + at))
                    .copied()
                    .flatten()
                    .unwrap_or(by_lists)
            };
            return Ok(Some((0..overlap).map(basis).collect()));
        }
        Ok(None)
    }

    /// Sends the plan for a key.
    async fn send_plan(
        &self,
        looked: AlignResult,
        planned: &BatchSender,
    ) -> Result<(), ReceiverGone> {
        let Aligned {
            history,
            to,
            there,
            latest,
            held,
        } = match looked {
            Ok(aligned) => aligned,
            Err(other) => return planned.send(*other).await,
        };
        let History {
            key,
            relative_at,
            versions,
        } = history;
        let mut versions = VecDeque::from(versions);
        let set_attributes = if self.transfer.sets_attributes() {
            SetAttributes::NotChecked
        } else {
            SetAttributes::Kept
        };
        for (version, equal_by) in versions.drain(..there.len()).zip(there) {
            let entry = Box::new(entry(&key, relative_at, version));
            let skip = Skip::Equal {
                equal_by,
                set_attributes,
            };
            planned.send(Planned::Skip(entry, to.clone(), skip)).await?;
        }
        // Restores take hours, so request all of them now instead of one after another.
        let unreadable = versions
            .iter()
            .position(|version| version.archive != ArchiveState::Readable);
        let behind = match unreadable {
            Some(at) if self.transfer.archived == Archived::Restore => versions.split_off(at),
            _ => VecDeque::new(),
        };
        let chain = VersionChain {
            key: key.clone(),
            relative_at,
            to: to.clone(),
            versions,
            _held: Some(Arc::new(held)),
        };
        if let Some(step) = Box::new(chain).next(self, latest) {
            planned.send(Planned::Step(Box::new(step))).await?;
        }
        for version in behind {
            let mut entry = entry(&key, relative_at, version);
            // A readable version that follows needs no restore request, but waits for the restore
            // of an older version.
            if entry.archive == ArchiveState::Readable {
                entry.archive = ArchiveState::Restoring;
            }
            let step = Step {
                route: Route::Restore,
                ..Step::without_work(entry, to.clone())
            };
            planned.send(Planned::Step(Box::new(step))).await?;
        }
        Ok(())
    }
}
