//! Plans a transfer: reads listings, emits steps, and writes nothing.
//!
//! The decisions are pure functions in [`crate::plan`]; this module provides their input. It lists
//! the source in order, filters each entry, maps it to its destination key, and compares it with
//! the object there. If the map keeps the order of keys, the destination's listing is read
//! alongside. Otherwise the planner sends HEAD for each key, many at a time. If a server may list
//! out of order, a key that is missing so far may still appear, so the planner also sends HEAD for
//! such keys. Steps go to the executor through a bounded channel ([`steps`]), so memory does not
//! grow with the number of objects. Long listings are planned in parallel ranges ([`ranges`]).

mod again;
mod compare;
mod entries;
pub mod hash;
mod history;
mod in_place;
mod misses;
mod questions;
mod ranges;
mod steps;
mod unfinished;

use std::sync::Arc;

use crate::bucket::Bucket;
use crate::listing::bisect::KeyRange;
use crate::listing::filter::Filter;
use crate::listing::join::Counterparts;
use crate::listing::{Entry, ListingItem, local};
use crate::location::{ObjectKey, S3Uri};
use crate::manifest::job::{Archived, LayoutChoice, Source, Transfer, Versions, When};
use crate::plan::condition::DestinationState;
use crate::plan::decide::{Basis, Decision, Reason, Route, Skip, SourceKind, route};
use crate::plan::parts::{Capacity, PartLayout, UPLOAD_PART};
use crate::plan::replay;
use crate::plan::workaround::{accepts_key_as_part_source, workaround};
use crate::s3::{ArchiveState, Failure, FailureKind, Operation};

use compare::AskedSides;
pub use history::{HistoryStep, VersionChain};
pub(crate) use in_place::Difference;
pub use misses::Misses;
pub use ranges::MAX_RANGES;
use steps::{BatchSender, PlanSender};
pub use steps::{Demand, PlanEvent, Planning, StepPermits, Steps};

/// The most HEAD requests in flight if listings cannot be compared.
const HEADS_AT_ONCE: usize = 64;
/// The maximum number of results that wait for the result of an earlier key.
const WAITING: usize = 2048;

/// A transfer with its connected source and destination.
#[derive(Clone, Debug)]
pub struct Sides {
    /// The transfer.
    pub transfer: Arc<Transfer>,
    /// The source bucket; `None` for local files and standard input.
    pub source: Option<Bucket>,
    /// The destination bucket.
    pub destination: Bucket,
}

/// An object to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The source, as listed.
    pub entry: Entry,
    /// The key at the destination.
    pub key: ObjectKey,
    /// The reason to copy the object.
    pub reason: Reason,
    /// The route, provided that the object still has the listed size.
    pub route: Route,
    /// The state of the destination key when the object was planned.
    pub destination_state: DestinationState,
    /// The object's number in the journal, once it has one.
    pub object: Option<u64>,
    /// The newest version at the destination before this step, and the newer versions of the key
    /// that wait for this step, if the transfer copies all versions.
    pub history: Option<Box<HistoryStep>>,
    /// Set if an earlier session of the run may have copied the object. Contains the reason to skip
    /// the object if this cannot be proven.
    pub maybe_ours: Option<Skip>,
}

impl Step {
    /// Returns a step that only names an object and sends no request.
    #[must_use]
    pub fn without_work(entry: Entry, key: ObjectKey) -> Self {
        let (route, destination_state) = (Route::Copy, DestinationState::Unknown);
        Self {
            entry,
            key,
            reason: Reason::Missing,
            route,
            destination_state,
            object: None,
            history: None,
            maybe_ours: None,
        }
    }
}

/// The result of planning an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// The object must be copied.
    Step(Box<Step>),
    /// The object is skipped for this reason, usually because the destination has it.
    Skip(Box<Entry>, ObjectKey, Skip),
    /// The object must be copied but is archived, and the job neither skips nor restores archived
    /// objects.
    Archived(Box<Entry>, ObjectKey),
    /// The selection excludes the object.
    Excluded(ObjectKey),
    /// The entry is neither an object nor a regular file.
    Ignored(String, &'static str),
    /// The object cannot be planned. Contains its key, if it has one, its location, and the
    /// failure.
    Failed(Option<ObjectKey>, String, Failure),
    /// A list failed, so the keys after this point are unknown.
    Unlisted(String, Failure),
    /// The result for an object that an earlier session planned, with its number in the journal.
    Again(u64, Box<Planned>),
}

/// An object that an earlier session planned and did not finish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The object's number in the journal.
    pub object: u64,
    /// The source, as the earlier session listed it.
    pub entry: Entry,
    /// The record of a copy that may exist.
    pub made: MadeBefore,
}

/// The record of a copy that an earlier session was about to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MadeBefore {
    /// True if the copy may come from an adopted upload, so that its attributes are unknown.
    pub adopted: bool,
    /// The `ETag` that results from the parts of the upload.
    pub etag: Option<String>,
}

/// The work to plan: everything, or the work that earlier sessions did not finish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Objects that were planned and did not finish.
    pub pending: Vec<Pending>,
    /// The number of the transfer's first range. Events without another range belong to this range.
    pub first: u32,
    /// The ranges of the source's keys that are not planned yet; empty if all keys are planned.
    pub ranges: Vec<KeyRange>,
    /// The first number for further ranges. If it is larger than `last`, no range is split, and all
    /// keys are planned in order.
    pub next: u32,
    /// The last number for further ranges.
    pub last: u32,
}

impl Resume {
    /// Returns the work of planning all keys in order.
    fn in_order() -> Self {
        Self {
            pending: Vec::new(),
            first: 0,
            ranges: vec![KeyRange::default()],
            next: 1,
            last: 0,
        }
    }
}

/// The plan for an entry, or the requests that must be sent first.
enum Next {
    Known(Planned),
    Ask(Entry, ObjectKey, AskedSides),
}

impl Sides {
    /// Returns the kind of the source.
    #[must_use]
    pub fn source_kind(&self) -> SourceKind {
        if self.source.is_some() {
            SourceKind::Bucket
        } else {
            SourceKind::Local
        }
    }

    /// Returns the name of a source object in reports: `s3://bucket/key`, a path, or `-` for
    /// standard input.
    #[must_use]
    pub fn name_of(&self, entry: &Entry) -> String {
        match &self.transfer.from {
            Source::Object { location, .. } | Source::Prefix { location, .. } => {
                S3Uri::text_of(&location.bucket, &entry.key)
            }
            Source::Files { path, .. } => local::path_of(path, entry).display().to_string(),
            Source::Stdin => "-".to_owned(),
        }
    }

    /// Returns the number of copies that can be in flight, and their measured speed.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        let pacer = self.destination.pacer();
        Capacity {
            in_flight: pacer.slots().ceiling().min(crate::pace::slots::USUAL),
            speed: pacer.copy_speed(),
        }
    }

    /// Returns the route of an object of this size to `key`: of a copy from `source`, or of an
    /// upload, which ignores `source`.
    ///
    /// # Errors
    /// [`FailureKind::Invalid`] for objects that the endpoint cannot hold.
    pub fn route(&self, size: u64, source: &ObjectKey, key: &ObjectKey) -> Result<Route, Failure> {
        let capabilities = self.destination.capabilities();
        route(
            size,
            self.source_kind(),
            &self.transfer.parts,
            capabilities,
            self.capacity(),
        )
        .and_then(|route| workaround(route, size, source, self.transfer.when, capabilities))
        .map_err(|error| {
            let operation = Operation::CreateMultipartUpload;
            Failure::new(
                FailureKind::Invalid,
                operation,
                self.destination.place(key),
                error.to_string(),
            )
        })
    }

    /// Returns the one step of a transfer from standard input.
    pub(crate) fn stdin_step(&self) -> Planned {
        let key = self.transfer.to.location.key.clone();
        let entry = Entry {
            key: key.clone(),
            relative_at: 0,
            size: 0,
            etag: None,
            version: None,
            modified: None,
            storage_class: None,
            archive: ArchiveState::Readable,
        };
        let layout = PartLayout::uniform(0, UPLOAD_PART, 1);
        Planned::Step(Box::new(Step {
            reason: Reason::Always,
            route: Route::MultipartUpload(layout),
            ..Step::without_work(entry, key)
        }))
    }

    /// Plans the transfer in a separate task, in the order of the source's keys.
    #[must_use]
    pub fn plan(&self) -> Steps {
        Steps::of(self.plan_from(Resume::in_order()))
    }

    /// Plans the transfer in any order, which is faster.
    #[must_use]
    pub fn plan_in_any_order(&self) -> Steps {
        Steps::of(self.plan_from(Resume {
            last: u32::MAX,
            ..Resume::in_order()
        }))
    }

    /// Plans the remaining work: first the pending objects, then the keys that are not planned yet.
    /// Histories ([`Versions::All`]) are always planned from the beginning, because the planner
    /// finds the copies that exist.
    #[must_use]
    pub fn plan_from(&self, resume: Resume) -> Planning {
        let (sender, planning) = PlanSender::channel();
        let place = self.transfer.to.location.to_string();
        let reporter = BatchSender::new(resume.first, sender.clone());
        let sides = self.clone();
        let run = async move {
            // If the receiver was dropped, the run stops and needs no more plans.
            let _ = match sides.transfer.versions {
                Versions::All => sides.run_histories(resume, sender).await,
                Versions::Current | Versions::AsOf(_) => sides.run(resume, sender).await,
            };
        };
        tokio::spawn(reporter.report_panic_of(run, place));
        planning
    }

    fn heads_at_once(&self) -> usize {
        HEADS_AT_ONCE.min(self.destination.pacer().slots().ceiling() as usize)
    }

    /// Plans an entry from the lists alone, or returns the requests that the decision needs.
    ///
    /// # Errors
    /// Returns the location of the destination's list and its failure.
    async fn consider(
        &self,
        found: ListingItem,
        filter: &Filter,
        counterparts: &mut Option<Counterparts>,
    ) -> Result<Next, (String, Failure)> {
        let absence_is_certain = counterparts.is_some() && self.lists_in_order();
        let (entry, key) = match self.sift(found, filter) {
            Ok(entry) => entry,
            Err(other) => return Ok(Next::Known(other)),
        };
        if self.is_in_place() {
            return Ok(self.consider_in_place(entry, key));
        }
        let there = match (counterparts, self.transfer.when) {
            (_, When::Always) => {
                let always = Decision::Copy(Reason::Always);
                return Ok(Next::Known(self.planned(
                    entry,
                    key,
                    always,
                    DestinationState::Unknown,
                )));
            }
            (Some(counterparts), _) => match counterparts.find(key.as_str()).await {
                Ok(there) => there,
                Err(failure) => return Err((self.transfer.to.location.to_string(), failure)),
            },
            (None, _) => None,
        };
        Ok(match there {
            None if absence_is_certain => {
                let decision = self.decide(&entry, None);
                Next::Known(self.planned(entry, key, decision, DestinationState::Absent))
            }
            None => Next::Ask(entry, key, AskedSides::Destination),
            Some(there) => self.compare_listed(entry, key, there),
        })
    }

    /// Returns true if both sides list in the byte order of keys. Then a key that the list has
    /// skipped does not exist.
    fn lists_in_order(&self) -> bool {
        let in_order = |bucket: &Bucket| bucket.capabilities().ordered_lists;
        in_order(&self.destination) && self.source.as_ref().is_none_or(in_order)
    }

    /// Returns true if the destination is listed alongside the source. A history also needs lists
    /// in order.
    pub(crate) fn lists_destination(&self) -> bool {
        let transfer = &self.transfer;
        let is_mapped = transfer.chosen.is_none()
            && matches!(transfer.from, Source::Prefix { .. } | Source::Files { .. })
            && transfer.to.location.key.is_prefix()
            && transfer.keys.preserves_order();
        is_mapped
            && match transfer.versions {
                Versions::All => self.lists_in_order(),
                Versions::Current | Versions::AsOf(_) => {
                    transfer.when != When::Always && !self.is_in_place()
                }
            }
    }

    fn etags_follow_from_bytes(&self) -> bool {
        let are_content = |bucket: &Bucket| bucket.capabilities().content_etags;
        are_content(&self.destination) && self.source.as_ref().is_none_or(are_content)
    }

    /// Returns false if the job does not trust one of the servers, so that HEAD must confirm its
    /// lists.
    fn believes_lists(&self) -> bool {
        let believes = |bucket: &Bucket| bucket.capabilities().believes_answers();
        believes(&self.destination) && self.source.as_ref().is_none_or(believes)
    }

    /// Returns false for histories. Their versions are copied one after another, and only the plan
    /// for the next version is final.
    #[must_use]
    pub fn plans_once(&self) -> bool {
        self.transfer.versions != Versions::All
    }

    fn planned(
        &self,
        entry: Entry,
        key: ObjectKey,
        decision: Decision,
        destination_state: DestinationState,
    ) -> Planned {
        match decision {
            Decision::Skip(why) => Planned::Skip(Box::new(entry), key, why),
            // The lists show that the destination is newer, and HEAD did not contradict them.
            Decision::Ask(_) => Planned::Skip(Box::new(entry), key, Skip::equal(Basis::Time)),
            Decision::Copy(reason) => self.step(entry, key, reason, destination_state),
        }
    }

    /// Returns the step for an entry that must be copied.
    pub(crate) fn step(
        &self,
        entry: Entry,
        key: ObjectKey,
        reason: Reason,
        destination_state: DestinationState,
    ) -> Planned {
        let route = match (entry.archive, self.transfer.archived) {
            (ArchiveState::Readable, _) => self.listed_route(&entry, &key),
            (_, Archived::Fail) => return Planned::Archived(Box::new(entry), key),
            (_, Archived::Skip) => return Planned::Skip(Box::new(entry), key, Skip::Archived),
            (_, Archived::Restore) => Ok(Route::Restore),
        };
        match route {
            Ok(route) => Planned::Step(Box::new(Step {
                reason,
                route,
                destination_state,
                ..Step::without_work(entry, key)
            })),
            Err(failure) => self.failed(&entry, failure),
        }
    }

    fn failed(&self, entry: &Entry, failure: Failure) -> Planned {
        Planned::Failed(Some(entry.key.clone()), self.name_of(entry), failure)
    }

    /// Returns the route of an object by its listed properties. With `layout: source`, the `ETag`
    /// shows the number of parts.
    fn listed_route(&self, entry: &Entry, key: &ObjectKey) -> Result<Route, Failure> {
        let usual = self.route(entry.size, &entry.key, key)?;
        let (Some(etag), Some(source), LayoutChoice::Source) =
            (&entry.etag, &self.source, self.transfer.parts.layout)
        else {
            return Ok(usual);
        };
        let destination = self.destination.capabilities();
        if !accepts_key_as_part_source(&entry.key, destination) {
            return Ok(usual);
        }
        Ok(replay::by_etag(entry.size, etag, source.capabilities(), destination).unwrap_or(usual))
    }
}
