//! Estimates with lists how the keys of a job are distributed.
//!
//! A list may start after any text. So a page from the middle of a range shows keys there, and the
//! part of the range that they span suggests how many pages follow
//! ([`bisect`](crate::listing::bisect), which does the same for a run). The survey splits the range
//! with the most expected keys, and lists one page of the new range, until it has used its lists or
//! knows every range well enough. It lists a range with few remaining pages to its end. So the
//! survey is exact for a bucket with fewer pages than lists. In a larger bucket, each shard has
//! about [`LISTS_PER_SHARD`] samples.
//!
//! Each key of a page is a possible end of a shard. Memory is bounded: the survey joins light
//! neighbors, and raises the weight that counts as light when too many ends remain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{FuturesUnordered, StreamExt as _};

use super::cut::Stretch;
use super::record::ShardWeight;
use crate::bucket::Bucket;
use crate::listing::bisect::{KeyRange, Ranges};
use crate::listing::bucket::{Bounds, Lister};
use crate::listing::filter::Filter;
use crate::listing::reach::{Behind, Reach};
use crate::listing::{Entry, ListingItem};
use crate::location::ObjectKey;
use crate::manifest::job::{Source, Transfer};
use crate::s3::Failure;

/// The number of lists that the survey may use for each shard.
pub const LISTS_PER_SHARD: u32 = 16;
/// The number of lists that the survey may always use, because the first splits show little.
const FREE_LISTS: u64 = 64;
/// The maximum number of lists in flight.
const MAX_CONCURRENT: usize = 32;
/// The number of possible ends that are kept for each shard.
const ENDS_PER_SHARD: usize = 32;
/// The unknown part of a range does not matter if it weighs less than this share of a shard.
const KNOWN_ENOUGH: f64 = 1.0 / 16.0;
/// The maximum number of pages that an estimate may expect.
const MAX_PAGES: f64 = 100_000.0;
/// The largest number of a range.
const LAST_RANGE: u32 = u32::MAX;

/// The extent of a survey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The number of shards.
    pub shards: u32,
    /// True if all keys must be listed.
    pub exact: bool,
}

/// The result of a survey.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surveyed {
    /// The keys of all transfers, in order.
    pub stretches: Vec<Stretch>,
    /// The number of list requests.
    pub lists: u64,
    /// True if all keys were listed.
    pub exact: bool,
}

/// A source that is surveyed.
#[derive(Clone, Debug)]
pub struct SurveyedSource {
    /// The transfer.
    pub transfer: Arc<Transfer>,
    /// Its bucket.
    pub bucket: Bucket,
    /// The keys that it may select.
    pub reach: Reach,
}

/// Surveys the sources of a job, which are in the order of its transfers.
///
/// # Errors
/// Fails if a list fails, or the HEAD of a single object.
pub async fn survey(sources: &[SurveyedSource], extent: Extent) -> Result<Surveyed, Failure> {
    let mut survey = Survey::new(sources, extent);
    survey.run().await?;
    let mut surveyed = Surveyed {
        lists: survey.lists,
        exact: true,
        ..Surveyed::default()
    };
    for (number, source) in (0..).zip(sources) {
        match survey.listings.get_mut(&number) {
            Some(listing) => listing.finish(number, &mut surveyed),
            None => surveyed.stretches.push(Stretch {
                transfer: number,
                until: None,
                weight: weight_of_object(source).await?,
            }),
        }
    }
    Ok(surveyed)
}

/// Returns the weight of a single-object source.
async fn weight_of_object(source: &SurveyedSource) -> Result<ShardWeight, Failure> {
    let Source::Object {
        location, version, ..
    } = &source.transfer.from
    else {
        return Ok(ShardWeight::default());
    };
    let bucket = &source.bucket;
    let head = bucket.with_slot(bucket.head(&location.key, version.as_deref()));
    let head = head.await?;
    Ok(ShardWeight {
        objects: 1,
        bytes: head.size,
    })
}

/// The ranges of a listing. The listers report their pages here.
#[derive(Clone, Debug)]
struct SurveyRanges(Arc<Mutex<Ranges>>);

impl SurveyRanges {
    fn lock(&self) -> MutexGuard<'_, Ranges> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bounds of one range.
struct SurveyBounds(SurveyRanges, u32);

impl Bounds for SurveyBounds {
    fn page(&mut self, keys: &[&str], behind: Behind) -> Option<ObjectKey> {
        self.0.lock().page(self.1, keys, behind)
    }
}

/// A listed page, with the lister that continues after it.
struct SurveyPage {
    transfer: u32,
    range: u32,
    lister: Lister<SurveyBounds>,
    page: Result<Option<Vec<ListingItem>>, Failure>,
}

/// A survey in progress.
struct Survey {
    listings: BTreeMap<u32, SurveyedList>,
    extent: Extent,
    lists: u64,
    most_lists: u64,
    at_once: usize,
    thinning: Thinning,
}

/// The listing of one transfer.
struct SurveyedList {
    bucket: Bucket,
    reach: Reach,
    filter: Filter,
    ranges: SurveyRanges,
    known: BTreeMap<u32, KnownRange>,
    /// The weight of all listed keys.
    known_units: f64,
    /// The estimated weight of all other keys.
    left: f64,
}

/// A range of a listing.
struct KnownRange {
    after: Option<ObjectKey>,
    /// Absent while a page is requested, and once all keys are known.
    lister: Option<Lister<SurveyBounds>>,
    is_over: bool,
    ends: Vec<KnownEnd>,
    pages: u32,
    weight: ShardWeight,
    /// The estimated number of pages that follow.
    pages_left: f64,
    /// The estimated weight of these pages.
    left: f64,
}

/// A listed key, and the weight of the keys after the previous one, up to and including this one.
struct KnownEnd {
    until: ObjectKey,
    weight: ShardWeight,
}

/// Bounds the number of ends that are kept.
struct Thinning {
    /// The weight up to which neighbors are joined.
    light: f64,
    /// The number of ends that are kept.
    kept: usize,
    /// The maximum number of ends that may be kept.
    most: usize,
}

impl Survey {
    fn new(sources: &[SurveyedSource], extent: Extent) -> Self {
        let listings = (0..).zip(sources).filter_map(|(number, source)| {
            let is_listed = matches!(source.transfer.from, Source::Prefix { .. });
            is_listed.then(|| (number, SurveyedList::new(source)))
        });
        let shards = u64::from(extent.shards);
        let ceilings = sources
            .iter()
            .map(|source| source.bucket.pacer().slots().ceiling());
        let ceiling = ceilings.min().unwrap_or(1).max(1);
        Self {
            listings: listings.collect(),
            extent,
            lists: 0,
            most_lists: if extent.exact {
                u64::MAX
            } else {
                FREE_LISTS.max(shards * u64::from(LISTS_PER_SHARD))
            },
            at_once: MAX_CONCURRENT.min(ceiling as usize),
            thinning: Thinning {
                light: 0.0,
                kept: 0,
                most: (extent.shards as usize * ENDS_PER_SHARD).max(1024),
            },
        }
    }

    async fn run(&mut self) -> Result<(), Failure> {
        let mut looks = FuturesUnordered::new();
        loop {
            while looks.len() < self.at_once
                && self.lists < self.most_lists
                && let Some((transfer, range, mut lister)) = self.next()
            {
                self.lists += 1;
                looks.push(async move {
                    let page = lister.next_page().await;
                    SurveyPage {
                        transfer,
                        range,
                        lister,
                        page,
                    }
                });
            }
            let Some(looked) = looks.next().await else {
                return Ok(());
            };
            self.take(looked)?;
        }
    }

    /// Returns the next range to list: a newly split one, or one that continues. A split shows
    /// more, so it comes first, unless all keys must be listed.
    fn next(&mut self) -> Option<(u32, u32, Lister<SurveyBounds>)> {
        let next = self.largest();
        if self.extent.exact {
            return next.and_then(|at| self.go_on(at)).or_else(|| self.cut());
        }
        if let Some(cut) = self.cut() {
            return Some(cut);
        }
        self.go_on(next?)
    }

    /// Returns the waiting range with the most expected keys, or `None` if these keys do not
    /// matter.
    fn largest(&self) -> Option<(u32, u32)> {
        let all: f64 = self
            .listings
            .values()
            .map(|listing| listing.known_units + listing.left)
            .sum();
        let shard = all / f64::from(self.extent.shards.max(1));
        let idle = self.listings.iter().flat_map(|(transfer, listing)| {
            let idle = listing
                .known
                .iter()
                .filter(|(_, known)| known.lister.is_some());
            idle.map(move |(range, known)| (*transfer, *range, known))
        });
        let (transfer, range, known) =
            idle.max_by(|one, other| one.2.left.total_cmp(&other.2.left))?;
        let matters = self.extent.exact || known.pages == 0 || known.left > shard * KNOWN_ENOUGH;
        matters.then_some((transfer, range))
    }

    /// Takes the lister of a range that continues.
    fn go_on(&mut self, at: (u32, u32)) -> Option<(u32, u32, Lister<SurveyBounds>)> {
        let known = self.listings.get_mut(&at.0)?.known.get_mut(&at.1)?;
        Some((at.0, at.1, known.lister.take()?))
    }

    /// Splits a range of the listing with the most expected keys, among the listings that can be
    /// split.
    fn cut(&mut self) -> Option<(u32, u32, Lister<SurveyBounds>)> {
        let wanting = self.listings.iter_mut();
        let wanting = wanting.filter(|(_, listing)| listing.ranges.lock().wants_cut());
        let (transfer, listing) =
            wanting.max_by(|one, other| one.1.left.total_cmp(&other.1.left))?;
        let cut = listing.ranges.lock().cut()?;
        listing.estimate(cut.range);
        let lister = listing.begin(cut.new.clone());
        Some((*transfer, cut.new.range, lister))
    }

    /// Adds a listed page to its range.
    fn take(&mut self, looked: SurveyPage) -> Result<(), Failure> {
        let SurveyPage {
            transfer,
            range,
            lister,
            page,
        } = looked;
        let Some(listing) = self.listings.get_mut(&transfer) else {
            return Ok(());
        };
        let (page, is_over) = match page? {
            Some(page) => (page, lister.is_over()),
            None => (Vec::new(), true),
        };
        let until = listing.ranges.lock().until(range);
        if is_over {
            listing.ranges.lock().end(range);
        }
        let Some(known) = listing.known.get_mut(&range) else {
            return Ok(());
        };
        known.pages += 1;
        known.is_over = is_over;
        known.lister = (!is_over).then_some(lister);
        let before = known.weight.units();
        for found in page {
            if let ListingItem::Entry(entry) = found
                && until.as_ref().is_none_or(|until| entry.key <= *until)
            {
                known.add(&entry, &listing.filter, &mut self.thinning);
            }
        }
        listing.known_units += known.weight.units() - before;
        listing.estimate(range);
        if self.thinning.kept > self.thinning.most {
            self.thin();
        }
        Ok(())
    }

    /// Joins light neighbors until at most half of the allowed ends remain.
    fn thin(&mut self) {
        let all: f64 = self
            .listings
            .values()
            .map(|listing| listing.known_units)
            .sum();
        while self.thinning.kept > self.thinning.most / 2 {
            let light = f64::max(self.thinning.light * 2.0, all / 1e6);
            // Never 0, even if no key has weight.
            self.thinning.light = light.max(1e-6);
            let known = self
                .listings
                .values_mut()
                .flat_map(|listing| listing.known.values_mut());
            let before = self.thinning.kept;
            self.thinning.kept = known.map(|known| known.thin(self.thinning.light)).sum();
            if before == self.thinning.kept && self.thinning.light > all {
                // Each range keeps at least one end.
                return;
            }
        }
    }
}

impl SurveyedList {
    fn new(source: &SurveyedSource) -> Self {
        let whole = KeyRange::default();
        let ranges = Ranges::new(
            source.reach.clone(),
            std::slice::from_ref(&whole),
            LAST_RANGE as usize,
            1,
            LAST_RANGE,
        );
        let mut listing = Self {
            bucket: source.bucket.clone(),
            reach: source.reach.clone(),
            filter: Filter::new(&source.transfer.select),
            ranges: SurveyRanges(Arc::new(Mutex::new(ranges))),
            known: BTreeMap::new(),
            known_units: 0.0,
            left: 0.0,
        };
        let lister = listing.begin(whole);
        if let Some(known) = listing.known.get_mut(&0) {
            known.lister = Some(lister);
        }
        listing
    }

    /// Adds a range, and returns its lister.
    fn begin(&mut self, range: KeyRange) -> Lister<SurveyBounds> {
        let after = range.after.as_ref().map(ToString::to_string);
        let bounds = SurveyBounds(self.ranges.clone(), range.range);
        let known = KnownRange {
            after: range.after,
            lister: None,
            is_over: false,
            ends: Vec::new(),
            pages: 0,
            weight: ShardWeight::default(),
            pages_left: 0.0,
            left: 0.0,
        };
        self.known.insert(range.range, known);
        Lister::of_range(self.bucket.clone(), self.reach.clone(), after, bounds)
    }

    /// Updates the estimate of the keys that follow in a range.
    fn estimate(&mut self, range: u32) {
        let pages = self.ranges.lock().pages_left(range);
        let Some(known) = self.known.get_mut(&range) else {
            return;
        };
        let pages = if known.is_over {
            0.0
        } else {
            pages.unwrap_or_default().clamp(1.0, MAX_PAGES)
        };
        known.pages_left = pages;
        let left = pages * known.weight.units() / f64::from(known.pages.max(1));
        self.left += left - known.left;
        known.left = left;
    }

    /// Adds the keys of this listing, in order, to the result.
    fn finish(&mut self, transfer: u32, surveyed: &mut Surveyed) {
        let ranges = std::mem::take(&mut self.known);
        // No two ranges begin after the same key. The first range begins after no key.
        let in_order: BTreeMap<_, _> = ranges
            .into_values()
            .map(|known| (known.after.clone(), known))
            .collect();
        let begins: BTreeSet<_> = in_order.keys().cloned().collect();
        for (after, known) in in_order {
            let next = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
            let until = begins.range(next).next().cloned().flatten();
            let rest = (!known.is_over).then(|| known.rest());
            surveyed.exact &= known.is_over;
            let mut stretches: Vec<_> = known
                .ends
                .into_iter()
                .map(|end| Stretch {
                    transfer,
                    until: Some(end.until),
                    weight: end.weight,
                })
                .collect();
            match (rest, stretches.last_mut()) {
                // Keys that are later written after the last key belong to its stretch.
                (None, Some(last)) => last.until = until,
                (rest, _) => stretches.push(Stretch {
                    transfer,
                    until,
                    weight: rest.unwrap_or_default(),
                }),
            }
            surveyed.stretches.extend(stretches);
        }
    }
}

impl KnownRange {
    /// Adds a listed key, as a new end or as a part of the last one.
    fn add(&mut self, entry: &Entry, filter: &Filter, thinning: &mut Thinning) {
        let class = entry.storage_class.as_deref();
        let is_selected = filter
            .admits(entry.relative(), entry.size, entry.modified, class)
            .is_ok();
        let weight = if is_selected {
            ShardWeight {
                objects: 1,
                bytes: entry.size,
            }
        } else {
            ShardWeight::default()
        };
        self.weight.add(weight);
        if let Some(last) = self.ends.last_mut()
            && last.weight.units() + weight.units() <= thinning.light
        {
            last.until = entry.key.clone();
            last.weight.add(weight);
            return;
        }
        thinning.kept += 1;
        self.ends.push(KnownEnd {
            until: entry.key.clone(),
            weight,
        });
    }

    /// Joins neighbors whose sum is light. Returns the number of remaining ends.
    fn thin(&mut self, light: f64) -> usize {
        let mut kept: Vec<KnownEnd> = Vec::new();
        for end in std::mem::take(&mut self.ends) {
            match kept.last_mut() {
                Some(last) if last.weight.units() + end.weight.units() <= light => {
                    last.until = end.until;
                    last.weight.add(end.weight);
                }
                _ => kept.push(end),
            }
        }
        self.ends = kept;
        self.ends.len()
    }

    /// Returns the estimated weight of the keys that were not listed.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an estimate"
    )]
    fn rest(&self) -> ShardWeight {
        let of =
            |known: u64| (known as f64 / f64::from(self.pages.max(1)) * self.pages_left) as u64;
        ShardWeight {
            objects: of(self.weight.objects),
            bytes: of(self.weight.bytes),
        }
    }
}
