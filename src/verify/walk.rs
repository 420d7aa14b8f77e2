//! Reads both listings in parallel, and finds the pairs and the objects that only one side has.
//!
//! Both listings must be in byte order of the keys. If a key map or a server does not keep that
//! order, s3haul sends HEAD for each key at the destination instead, and cannot find extra objects.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::{Verdict, VerifyFinding};
use crate::bucket::Bucket;
use crate::listing::{Entry, Listing, ListingItem, bucket, local};
use crate::location::{ObjectKey, S3Uri};
use crate::manifest::job::{Archived, Selection, Source, When};
use crate::pace::gate::joined;
use crate::planner::{Planned, Sides, Step, Steps};
use crate::s3::{Failure, FailureKind};

/// The entry of a key in the destination's listing.
#[derive(Clone, Debug)]
pub(super) enum DestinationEntry {
    /// The destination has it.
    Entry(Box<Entry>),
    /// The destination does not have the key.
    Absent,
    /// Unknown, because the destination is not listed.
    Unknown,
}

/// The next task of the comparison.
#[derive(Debug)]
pub(super) enum Task {
    /// Compare an object with its counterpart.
    Compare(Box<Step>, DestinationEntry),
    /// Report an object that only the destination has.
    Extra(Box<Entry>, PossibleSource),
    /// Report an object of the source that could not be planned.
    Unplanned(VerifyFinding),
    /// Report a failed list.
    Unlisted(VerifyFinding, Failure),
    /// Count an object that the selection excludes.
    Excluded,
    /// Ignore an object of the destination that cannot be called extra: the transfer would not
    /// write it, or the source is not fully listed.
    NotExtra,
}

/// The possible source of an object that the plan does not contain, because the selection may have
/// excluded it.
#[derive(Clone, Debug)]
pub(super) enum PossibleSource {
    /// The source cannot have the object.
    Absent,
    /// The source may have an object at this key.
    Object(ObjectKey),
    /// The source may have a file with this key.
    File(String),
}

/// The state of reading both listings.
#[derive(Debug)]
pub(super) struct PairWalk {
    sides: Sides,
    steps: Steps,
    waiting: Option<Box<Step>>,
    there: Option<ListingCursor>,
    /// False if a part of the source could not be listed or planned, so that keys of the source may
    /// be unknown.
    source_fully_listed: bool,
    /// The reason why the destination is not searched for extra objects.
    why_not_extra: Option<&'static str>,
}

/// A listing and its current entry.
#[derive(Debug)]
struct ListingCursor {
    listing: Listing,
    current: Option<ListingItem>,
}

impl ListingCursor {
    async fn peek(&mut self) -> Option<&ListingItem> {
        while matches!(self.current, None | Some(ListingItem::Ignored(..))) {
            self.current = Some(self.listing.next().await?);
        }
        self.current.as_ref()
    }

    fn take(&mut self) -> Option<ListingItem> {
        self.current.take()
    }
}

/// Returns the reason why the destination of a transfer cannot be searched for extra objects.
fn why_not_extra(sides: &Sides) -> Option<&'static str> {
    let transfer = &sides.transfer;
    let is_directory = |bucket: &Bucket| bucket.name().is_directory_bucket();
    let in_order = |bucket: &Bucket| bucket.capabilities().ordered_lists;
    let (source, destination) = (sides.source.as_ref(), &sides.destination);
    if !matches!(transfer.from, Source::Prefix { .. } | Source::Files { .. })
        || !transfer.to.location.key.is_prefix()
    {
        return Some("the job copies single objects");
    }
    // Objects that were not chosen are not extra.
    if transfer.chosen.is_some() {
        return Some("the job copies chosen objects");
    }
    if !transfer.keys.preserves_order() {
        return Some("`keys` changes the order of the keys");
    }
    if is_directory(destination) || source.is_some_and(is_directory) {
        return Some("a directory bucket does not list its keys in order");
    }
    if !in_order(destination) {
        return Some(
            "the order in which the destination's server lists keys is not known; name its `provider` (--provider)",
        );
    }
    source.is_some_and(|source| !in_order(source)).then_some(
        "the order in which the source's server lists keys is not known; name its `provider` (--provider)",
    )
}

impl PairWalk {
    pub(super) fn new(sides: &Sides) -> Self {
        let transfer = &sides.transfer;
        let why_not_extra = why_not_extra(sides);
        let there = why_not_extra.is_none().then(|| ListingCursor {
            listing: bucket::objects(sides.destination.clone(), sides.destination_reach(), None),
            current: None,
        });
        // A plan that copies everything lists all selected objects with their destination keys.
        let mut all = transfer.as_ref().clone();
        all.when = When::Always;
        // `Fail` keeps archived objects in the plan; they arrive as `Planned::Archived`.
        all.archived = Archived::Fail;
        let all = Sides {
            transfer: all.into(),
            ..sides.clone()
        };
        Self {
            steps: all.plan(),
            sides: sides.clone(),
            waiting: None,
            there,
            source_fully_listed: true,
            why_not_extra,
        }
    }

    /// Returns the reason why the destination is not searched for extra objects, or `None` if it is
    /// searched.
    pub(super) fn why_not_extra(&self) -> Option<&'static str> {
        self.why_not_extra
    }

    /// Returns the next task, or `None` at the end of both listings.
    pub(super) async fn next(&mut self) -> Option<Task> {
        loop {
            if let Some(step) = self.waiting.take() {
                return Some(self.match_step(step).await);
            }
            match self.steps.recv().await {
                Some(Planned::Step(step)) => self.waiting = Some(step),
                // Archived objects cannot be read, but can be compared.
                Some(Planned::Archived(entry, key)) => {
                    self.waiting = Some(Box::new(Step::without_work(*entry, key)));
                }
                // A plan that copies everything skips nothing, and resumes nothing.
                Some(Planned::Skip(..) | Planned::Ignored(..) | Planned::Again(..)) => {}
                Some(Planned::Excluded(_)) => return Some(Task::Excluded),
                Some(Planned::Failed(_, place, failure)) => {
                    return Some(Task::Unplanned(self.unplanned(place, &failure)));
                }
                Some(Planned::Unlisted(place, failure)) => {
                    return Some(Task::Unlisted(self.unplanned(place, &failure), failure));
                }
                None => return self.rest().await,
            }
        }
    }

    /// Returns the finding about a part of the source that could not be listed or planned.
    fn unplanned(&mut self, place: String, failure: &Failure) -> VerifyFinding {
        self.source_fully_listed = false;
        let destination = self.sides.transfer.to.location.to_string();
        VerifyFinding {
            source: Some(place),
            destination,
            size: 0,
            verdict: Verdict::failed(failure),
        }
    }

    /// Advances the destination's listing towards the step's key, and returns the next task.
    async fn match_step(&mut self, step: Box<Step>) -> Task {
        let Some(cursor) = &mut self.there else {
            return Task::Compare(step, DestinationEntry::Unknown);
        };
        let order = match cursor.peek().await {
            Some(ListingItem::Entry(entry)) => entry.key.as_str().cmp(step.key.as_str()),
            Some(ListingItem::Failed(..)) => return self.destination_ends(step),
            Some(ListingItem::Refused(place, failure)) => {
                let known = unlisted(place, failure);
                cursor.take();
                self.waiting = Some(step);
                return known;
            }
            _ => std::cmp::Ordering::Greater,
        };
        match (order, order.is_le().then(|| cursor.take()).flatten()) {
            (std::cmp::Ordering::Less, Some(ListingItem::Entry(entry))) => {
                self.waiting = Some(step);
                // The source may have the object in a part that could not be listed.
                if self.source_fully_listed {
                    self.extra(entry)
                } else {
                    Task::NotExtra
                }
            }
            (std::cmp::Ordering::Equal, Some(ListingItem::Entry(entry))) => {
                Task::Compare(step, DestinationEntry::Entry(Box::new(entry)))
            }
            _ => Task::Compare(step, DestinationEntry::Absent),
        }
    }

    /// Gives up the destination's listing, which failed. From now on, s3haul sends HEAD for each
    /// key.
    fn destination_ends(&mut self, step: Box<Step>) -> Task {
        self.waiting = Some(step);
        let failed = self.there.take().and_then(|mut cursor| cursor.take());
        match failed {
            Some(ListingItem::Failed(place, failure)) => unlisted(&place, &failure),
            _ => Task::NotExtra,
        }
    }

    /// Returns the next task after the source's last key.
    async fn rest(&mut self) -> Option<Task> {
        let cursor = self.there.as_mut()?;
        cursor.peek().await?;
        match cursor.take()? {
            ListingItem::Entry(entry) if self.source_fully_listed => Some(self.extra(entry)),
            ListingItem::Failed(place, failure) => {
                self.there = None;
                Some(unlisted(&place, &failure))
            }
            ListingItem::Refused(place, failure) => Some(unlisted(&place, &failure)),
            _ => None,
        }
    }

    /// Returns the task for an object of the destination that the plan does not contain.
    fn extra(&self, entry: Entry) -> Task {
        let transfer = &self.sides.transfer;
        let relative = transfer
            .keys
            .relative_of(&transfer.to.location.key, entry.key.as_str());
        let selected = relative
            .filter(|relative| !relative.is_empty() && !transfer.select.rules_out(relative));
        let Some(relative) = selected else {
            return Task::NotExtra;
        };
        // A selection by name only did not exclude this key, so the source does not have the
        // object.
        let by_name = Selection {
            include: transfer.select.include.clone(),
            exclude: transfer.select.exclude.clone(),
            ..Selection::default()
        };
        let source = match &transfer.from {
            _ if by_name == transfer.select => PossibleSource::Absent,
            Source::Prefix { location, .. } => {
                ObjectKey::new(&format!("{}{relative}", location.key))
                    .map_or(PossibleSource::Absent, PossibleSource::Object)
            }
            Source::Files { .. } => PossibleSource::File(relative),
            // Destinations of single objects are not searched.
            Source::Object { .. } | Source::Stdin => PossibleSource::Absent,
        };
        Task::Extra(Box::new(entry), source)
    }
}

/// Returns the task that reports a failed list of the destination.
fn unlisted(place: &str, failure: &Failure) -> Task {
    let verdict = Verdict::failed(failure);
    let finding = VerifyFinding {
        source: None,
        destination: place.to_owned(),
        size: 0,
        verdict,
    };
    Task::Unlisted(finding, failure.clone())
}

/// Returns the finding about an object that only the destination has. Returns `None` if the source
/// has the object too, because the selection then excludes it.
pub(super) async fn extra(
    sides: &Sides,
    entry: &Entry,
    source: PossibleSource,
) -> Option<VerifyFinding> {
    let mut verdict = Verdict::Extra;
    match (source, &sides.source) {
        (PossibleSource::Object(key), Some(bucket)) => {
            match bucket.with_slot(bucket.head(&key, None)).await {
                Ok(_) => return None,
                // Without the permission to list, S3 answers 403 for keys that do not exist.
                Err(failure)
                    if matches!(failure.kind(), FailureKind::NotFound | FailureKind::Denied) => {}
                Err(failure) => verdict = Verdict::failed(&failure),
            }
        }
        (PossibleSource::File(key), _) => {
            // A file that cannot be examined may not exist, so the object counts as extra.
            if has_file(sides, key).await {
                return None;
            }
        }
        (PossibleSource::Absent, _) | (PossibleSource::Object(_), None) => {}
    }
    let place = S3Uri {
        bucket: sides.destination.name().clone(),
        key: entry.key.clone(),
    };
    Some(VerifyFinding {
        source: None,
        destination: place.to_string(),
        size: entry.size,
        verdict,
    })
}

/// Returns true if the directory or file of the source has a file with this key that the transfer
/// would copy without its selection.
async fn has_file(sides: &Sides, key: String) -> bool {
    let transfer = Arc::clone(&sides.transfer);
    joined(spawn_blocking(move || match &transfer.from {
        Source::Files { path, symlinks } => {
            local::has_file(path, *symlinks, &transfer.own_files, &key)
        }
        _ => false,
    }))
    .await
}
