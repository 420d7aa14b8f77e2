//! Plans ranges of keys in parallel.
//!
//! Each range has its own task, which reads the listings of the source and the destination side by
//! side, from the first key of the range to the last. [`bisect`](crate::listing::bisect) decides
//! where to split a range that turns out to be long. Each split waits for room in the channel to
//! the executor, so it happens only as long as the executor keeps up. The memory of a range does
//! not depend on its length (two pages of each side), and there are at most [`MAX_RANGES`]. A
//! range that waits for a page costs memory but no CPU. So there are just enough ranges to keep
//! this machine busy: no range is split while [`BUSY`] ranges have pages to compare.
//!
//! Histories, chosen keys, local files, and unordered lists form one range. Keys of an unordered
//! list are planned in the order in which requests for them complete.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{Either, FutureExt, ready};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{self, JoinSet};

use super::questions::PendingAnswers;
use super::steps::{BatchSender, PlanEvent, PlanSender, ReceiverGone};
use super::{Next, Planned, Resume, Sides, WAITING};
use crate::listing::bisect::{KeyRange, Ranges};
use crate::listing::bucket::{self, Bounds};
use crate::listing::filter::Filter;
use crate::listing::join::Counterparts;
use crate::listing::reach::{Behind, Reach};
use crate::listing::{Listing, ListingItem};
use crate::location::ObjectKey;
use crate::manifest::job::{Source, Transfer, Versions};
use crate::pace::gate::spawn_and_join;

/// The maximum number of ranges that are listed at once. At 60 ms per page, each range compares up
/// to 16,000 keys per second. Each range takes about 1.9 MiB, for the pages of both sides and the
/// buffers of two connections, and a sync should need at most 64 MiB in total.
pub const MAX_RANGES: usize = 20;
/// The number of ranges with pages to compare that keeps the machine busy.
const BUSY: usize = 4;

/// The ranges of one transfer, shared by their tasks.
#[derive(Clone, Debug)]
struct Frontier(Arc<SharedRanges>);

#[derive(Debug)]
struct SharedRanges {
    /// The ranges that are being listed.
    ranges: Mutex<Ranges>,
    /// Notified when a page arrives, when a range starts to wait for a page, and when a range ends.
    changed: Notify,
    /// The permits for requests for single keys, shared by all ranges.
    questions: Semaphore,
    /// The number of ranges that wait for a page.
    waiting: AtomicUsize,
}

impl Frontier {
    fn lock(&self) -> MutexGuard<'_, Ranges> {
        self.0.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if the machine has CPU time for another range.
    fn has_time(&self) -> bool {
        let ranges = self.lock().count();
        ranges < BUSY + self.0.waiting.load(Ordering::Relaxed)
    }

    /// Awaits a future that may need a page. Unless the future is ready at once, counts the range
    /// as waiting until it completes.
    async fn await_page<F: Future>(&self, page: F) -> F::Output {
        let mut page = pin!(page);
        if let Some(found) = page.as_mut().now_or_never() {
            return found;
        }
        let _waits = Waits::new(&self.0);
        page.await
    }
}

/// Counts a range as waiting for a page until it is dropped.
struct Waits<'a>(&'a SharedRanges);

impl<'a> Waits<'a> {
    fn new(shared: &'a SharedRanges) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        shared.changed.notify_one();
        Self(shared)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bounds of the source's listing. They report the pages of a range and learn where the range
/// ends.
#[derive(Debug)]
struct Leading(Frontier, u32);

impl Bounds for Leading {
    fn page(&mut self, keys: &[&str], behind: Behind) -> Option<ObjectKey> {
        let until = self.0.lock().page(self.1, keys, behind);
        self.0.0.changed.notify_one();
        until
    }
}

/// The bounds of the destination's listing. They only learn where the range ends.
struct FollowingBounds<F>(F);

impl<F: FnMut() -> Option<ObjectKey> + Send + 'static> Bounds for FollowingBounds<F> {
    fn page(&mut self, _: &[&str], _: Behind) -> Option<ObjectKey> {
        self.0()
    }
}

/// The walks over ranges, each in its own task.
#[derive(Default)]
struct RangeWalks {
    /// The tasks in progress.
    tasks: JoinSet<Result<(), ReceiverGone>>,
    /// The numbers of the ranges.
    numbers: HashMap<task::Id, u32>,
}

impl RangeWalks {
    fn spawn(
        &mut self,
        number: u32,
        walk: impl Future<Output = Result<(), ReceiverGone>> + Send + 'static,
    ) {
        self.numbers.insert(self.tasks.spawn(walk).id(), number);
    }

    /// Waits for a walk to end. Returns its result, or the number of its range if it panicked.
    /// Returns `None` if no walk is in progress.
    async fn next(&mut self) -> Option<Result<Result<(), ReceiverGone>, u32>> {
        Some(match self.tasks.join_next_with_id().await? {
            Ok((id, walked)) => {
                self.numbers.remove(&id);
                Ok(walked)
            }
            Err(panic) => Err(self.numbers.remove(&panic.id()).unwrap_or_default()),
        })
    }
}

impl Sides {
    /// Plans the remaining work of a transfer.
    pub(super) async fn run(self, resume: Resume, sender: PlanSender) -> Result<(), ReceiverGone> {
        let Resume {
            pending,
            first,
            ranges,
            next,
            last,
        } = resume;
        let filter = Arc::new(Filter::new(&self.transfer.select));
        self.plan_again(pending, &filter, &BatchSender::new(first, sender.clone()))
            .await?;
        let most = if self.can_be_cut() {
            self.most_ranges()
        } else {
            1
        };
        let frontier = Frontier(Arc::new(SharedRanges {
            ranges: Mutex::new(Ranges::new(self.source_reach(), &ranges, most, next, last)),
            changed: Notify::new(),
            questions: Semaphore::new(self.heads_at_once()),
            waiting: AtomicUsize::new(0),
        }));
        let mut walks = RangeWalks::default();
        let sides = Arc::new(self);
        let walk = |range: KeyRange, is_new| {
            let (sides, filter, frontier) =
                (Arc::clone(&sides), Arc::clone(&filter), frontier.clone());
            let batches = BatchSender::new(range.range, sender.clone());
            async move {
                sides
                    .walk_range(&range, is_new, &filter, &frontier, batches)
                    .await
            }
        };
        for range in ranges {
            walks.spawn(range.range, walk(range, false));
        }
        loop {
            // While the executor has enough work, more ranges would only fill memory.
            let wants_cut =
                sender.is_behind() && frontier.has_time() && frontier.lock().wants_cut();
            tokio::select! {
                room = sender.reserve(), if wants_cut => {
                    let room = room?;
                    let cut = {
                        // Keep the lock until the split is sent. Before that, the range must
                        // neither learn of the split nor report its end.
                        let mut ranges = frontier.lock();
                        let cut = ranges.cut();
                        if let Some(cut) = &cut {
                            room.send(PlanEvent::Cut(cut.clone()));
                        }
                        cut
                    };
                    if let Some(cut) = cut {
                        walks.spawn(cut.new.range, walk(cut.new, true));
                    }
                }
                walked = walks.next() => match walked {
                    None => return Ok(()),
                    Some(Ok(walked)) => walked?,
                    // The task panicked. The list of the range ended early, as after a failure.
                    Some(Err(number)) => {
                        frontier.lock().end(number);
                        let place = sides.transfer.to.location.to_string();
                        let batches = BatchSender::new(number, sender.clone());
                        batches.send(Planned::panicked(place)).await?;
                    }
                },
                () = frontier.0.changed.notified() => {}
                () = sender.demand.raised() => {}
            }
        }
    }

    /// Returns the reach of the source's keys that may be transferred.
    #[must_use]
    pub fn source_reach(&self) -> Reach {
        match &self.transfer.from {
            Source::Prefix { location, .. } => {
                Reach::of_source(&self.transfer.select, &location.key)
            }
            Source::Object { .. } | Source::Files { .. } | Source::Stdin => {
                Reach::below(&ObjectKey::empty())
            }
        }
    }

    /// Returns the reach of the destination keys to which the source's keys map, if the key map
    /// preserves the order.
    #[must_use]
    pub fn destination_reach(&self) -> Reach {
        let Transfer {
            select, keys, to, ..
        } = &*self.transfer;
        Reach::of_destination(select, keys, &to.location.key)
    }

    /// Returns true if steps are planned in the order of the source's keys, so that a later session
    /// can continue after any of them.
    pub(crate) fn plans_in_order(&self) -> bool {
        let transfer = &self.transfer;
        let is_ordered = match (&self.source, &transfer.chosen) {
            // Chosen keys are sorted before they are requested.
            (Some(_), Some(_)) => transfer.versions == Versions::Current,
            (Some(source), None) => source.capabilities().ordered_lists,
            (None, _) => true,
        };
        is_ordered && self.plans_once()
    }

    /// Returns true if the keys may be split into ranges, because both sides can be listed from any
    /// key.
    fn can_be_cut(&self) -> bool {
        matches!(self.transfer.from, Source::Prefix { .. })
            && self.source.is_some()
            && self.transfer.chosen.is_none()
            && self.transfer.versions == Versions::Current
            && self.lists_in_order()
    }

    /// Returns the source's entries of a range, in order. The listing may also contain entries
    /// before and after the range.
    async fn listing_of(
        &self,
        range: &KeyRange,
        filter: &Filter,
        frontier: &Frontier,
    ) -> Result<Listing, Box<Planned>> {
        if let Some(source) = self.source.as_ref().filter(|_| self.can_be_cut()) {
            let after = range.after.as_ref().map(ToString::to_string);
            let bounds = Leading(frontier.clone(), range.range);
            return Ok(bucket::range(
                source.clone(),
                self.source_reach(),
                after,
                bounds,
            ));
        }
        let entries = self.entries(filter, range.after.as_ref()).await;
        entries.map_err(|(place, failure)| Box::new(Planned::Unlisted(place, failure)))
    }

    /// Returns the destination's listing if it can be read alongside the source's.
    fn counterparts_of(&self, range: &KeyRange, frontier: &Frontier) -> Option<Counterparts> {
        let (destination, reach) = (self.destination.clone(), self.destination_reach());
        let after = range.after.as_ref().filter(|_| self.lists_in_order());
        let after = after
            .and_then(|key| self.place_of(key))
            .map(|key| key.to_string());
        self.lists_destination().then(|| {
            if !self.can_be_cut() {
                return Counterparts::of(bucket::objects(destination, reach, after));
            }
            let (sides, frontier, range) = (self.clone(), frontier.clone(), range.range);
            let until = move || sides.place_of(&frontier.lock().until(range)?);
            Counterparts::of(bucket::range(
                destination,
                reach,
                after,
                FollowingBounds(until),
            ))
        })
    }

    /// Returns the destination key of a source key, or `None` if the key map rejects it. The object
    /// need not exist.
    fn place_of(&self, key: &ObjectKey) -> Option<ObjectKey> {
        let relative = key.as_str().get(self.relative_at(key)..)?;
        self.transfer
            .keys
            .destination_key(&self.transfer.to.location.key, relative, 0)
            .ok()
    }

    /// Returns the maximum number of ranges that may be listed at once. With two listings per
    /// range, they use a quarter of the slots.
    fn most_ranges(&self) -> usize {
        let ceiling = self.destination.pacer().slots().ceiling() as usize;
        (ceiling / 8).clamp(1, MAX_RANGES)
    }

    /// Plans one range from its beginning to its end.
    async fn walk_range(
        &self,
        range: &KeyRange,
        is_new: bool,
        filter: &Filter,
        frontier: &Frontier,
        batches: BatchSender,
    ) -> Result<(), ReceiverGone> {
        let number = range.range;
        let walked = match self.listing_of(range, filter, frontier).await {
            Ok(entries) => {
                self.compare(range, is_new, entries, filter, frontier, &batches)
                    .await
            }
            Err(failed) => batches.push(*failed).await,
        };
        frontier.lock().end(number);
        frontier.0.changed.notify_one();
        walked?;
        batches.end().await
    }

    /// Compares the entries of a range with the destination, and sends their plans.
    async fn compare(
        &self,
        range: &KeyRange,
        is_new: bool,
        mut entries: Listing,
        filter: &Filter,
        frontier: &Frontier,
        batches: &BatchSender,
    ) -> Result<(), ReceiverGone> {
        // If a new range turns out to be empty, the destination need not be listed.
        let mut first = if is_new { entries.next().await } else { None };
        if is_new && first.is_none() {
            return Ok(());
        }
        let mut counterparts = self.counterparts_of(range, frontier);
        let at_once = self.heads_at_once();
        // If keys are planned in order, known results wait for earlier requests.
        let (mut waiting, mut asking) = (PendingAnswers::new(self.plans_in_order()), 0);
        loop {
            let found = match first.take() {
                Some(found) => Some(found),
                None => {
                    if let Some(found) = entries.next().now_or_never() {
                        found
                    } else {
                        batches.flush().await?;
                        frontier.await_page(entries.next()).await
                    }
                }
            };
            let Some(found) = found else { break };
            if is_elsewhere(&found, range) {
                continue;
            }
            if matches!(found, ListingItem::Failed(..)) {
                frontier.lock().stop();
            }
            let considered = self.consider(found, filter, &mut counterparts);
            let next = match frontier.await_page(considered).await {
                Ok(next) => next,
                Err((place, failure)) => {
                    frontier.lock().stop();
                    batches.push(Planned::Unlisted(place, failure)).await?;
                    break;
                }
            };
            waiting.push(match next {
                Next::Known(known) if waiting.is_passed_by() => {
                    batches.push(known).await?;
                    continue;
                }
                Next::Known(known) => Either::Left(ready((0, known))),
                Next::Ask(entry, key, question) => {
                    asking += 1;
                    let (sides, shared) = (self.clone(), Arc::clone(&frontier.0));
                    Either::Right(spawn_and_join(async move {
                        // The semaphore is never closed.
                        let _permit = shared.questions.acquire().await;
                        (
                            1,
                            Box::pin(sides.compare_by_head(entry, key, question)).await,
                        )
                    }))
                }
            });
            while asking >= at_once || waiting.len() >= WAITING {
                batches.flush().await?;
                let next = waiting.next().await;
                let Some((answered, answer)) = next else {
                    break;
                };
                asking -= answered;
                batches.push(answer).await?;
            }
        }
        loop {
            let next = if let Some(next) = waiting.next().now_or_never() {
                next
            } else {
                batches.flush().await?;
                waiting.next().await
            };
            let Some((_, answer)) = next else { break };
            batches.push(answer).await?;
        }
        let refused = counterparts
            .as_mut()
            .map(Counterparts::take_refused)
            .unwrap_or_default();
        for (place, failure) in refused {
            batches.push(Planned::Unlisted(place, failure)).await?;
        }
        Ok(())
    }
}

/// Returns true for a key outside the range. An earlier session has planned it, or another range
/// will.
fn is_elsewhere(found: &ListingItem, range: &KeyRange) -> bool {
    let key = match found {
        ListingItem::Entry(entry) => entry.key.as_str(),
        ListingItem::Ignored(key, _) | ListingItem::Unread(key, ..) => key,
        ListingItem::Refused(..) | ListingItem::Failed(..) => return false,
    };
    range
        .after
        .as_ref()
        .is_some_and(|after| key <= after.as_str())
        || range
            .until
            .as_ref()
            .is_some_and(|until| key > until.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_walk_that_panics_is_named_by_its_range() {
        let mut walks = RangeWalks::default();
        for number in 0..5 {
            walks.spawn(number, async move {
                assert_ne!(number, 3, "a bug");
                Ok(())
            });
        }
        let mut panicked = Vec::new();
        while let Some(ended) = walks.next().await {
            panicked.extend(ended.err());
        }
        assert_eq!((panicked, walks.numbers.len()), (vec![3], 0));
    }
}
