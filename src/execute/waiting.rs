//! Queues the objects that are planned and not started.
//!
//! Long copies start in order of size, the largest first, because the run cannot end before they
//! do. Small objects wait in a queue for each prefix in each range of keys. The ranges take turns:
//! they are in different parts of the bucket, so the run spreads over S3's partitions. A queue is
//! skipped while requests for its next key would have to wait long, so that objects of a throttled
//! prefix do not fill all slots.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

use super::fair::Group;
use crate::bucket::parking::BULK_FROM;
use crate::planner::{Step, StepPermits};

/// A waiting object.
#[derive(Debug)]
pub(super) struct Queued {
    /// Its transfer, by position in the job.
    pub(super) transfer: u32,
    /// The step to do.
    pub(super) step: Box<Step>,
    /// Its permit in the planner's window, until it starts.
    pub(super) permits: Option<StepPermits>,
}

/// A waiting object, ordered by size.
#[derive(Debug)]
struct BySize(Queued);

impl PartialEq for BySize {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for BySize {}

impl PartialOrd for BySize {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BySize {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.step.entry.size.cmp(&other.0.step.entry.size)
    }
}

/// The waiting small objects of one range and prefix, in the order of their keys.
#[derive(Debug)]
struct SmallQueue {
    range: u32,
    group: Group,
    queue: VecDeque<Queued>,
}

/// All waiting objects.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Objects in parts.
    large: BinaryHeap<BySize>,
    /// Copies in one request that take long.
    heavy: BinaryHeap<BySize>,
    /// Copies in one request that start before all small objects, even if their requests must wait.
    urgent: VecDeque<Queued>,
    /// The queues of small objects. The first one has its turn, and none is empty.
    small: VecDeque<SmallQueue>,
}

impl Waiting {
    /// Returns the groups of small objects.
    pub(super) fn groups(&mut self) -> impl Iterator<Item = &mut Group> {
        self.small.iter_mut().map(|line| &mut line.group)
    }

    /// Returns the number of waiting objects.
    pub(super) fn len(&self) -> usize {
        let small = self
            .small
            .iter()
            .map(|line| line.queue.len())
            .sum::<usize>();
        self.large.len() + self.heavy.len() + self.urgent.len() + small
    }

    /// Adds an object that was planned in this range.
    pub(super) fn push(&mut self, range: u32, group: Group, queued: Queued) {
        match queued.step.route.parts() {
            0 if queued.step.entry.size > BULK_FROM => self.heavy.push(BySize(queued)),
            0 => match self
                .small
                .iter_mut()
                .find(|line| line.range == range && line.group == group)
            {
                Some(line) => line.queue.push_back(queued),
                None => self.small.push_back(SmallQueue {
                    range,
                    group,
                    queue: VecDeque::from([queued]),
                }),
            },
            _ => self.large.push(BySize(queued)),
        }
    }

    /// Adds an object before all small ones. A large object is queued by its size, as usual.
    pub(super) fn push_first(&mut self, queued: Queued) {
        match queued.step.route.parts() {
            0 if queued.step.entry.size > BULK_FROM => self.heavy.push(BySize(queued)),
            0 => self.urgent.push_front(queued),
            _ => self.large.push(BySize(queued)),
        }
    }

    /// Adds objects before all small ones, in their order.
    pub(super) fn push_all_first(&mut self, queued: impl DoubleEndedIterator<Item = Queued>) {
        queued.rev().for_each(|queued| self.push_first(queued));
    }

    /// Takes the largest object in parts whose requests would not wait in a long queue.
    pub(super) fn pop_large(&mut self, is_free: impl Fn(&Queued) -> bool) -> Option<Queued> {
        pop_free(&mut self.large, is_free)
    }

    /// Takes the largest long copy in one request that would not wait in a long queue.
    pub(super) fn pop_heavy(&mut self, is_free: impl Fn(&Queued) -> bool) -> Option<Queued> {
        pop_free(&mut self.heavy, is_free)
    }

    /// Takes the next small object whose requests would not wait in a long queue, from the prefix
    /// with the fewest open objects. `open` returns the number of open objects of a prefix.
    pub(super) fn pop_small(
        &mut self,
        is_free: impl Fn(&Queued) -> bool,
        open: impl Fn(&Group) -> u32,
    ) -> Option<Queued> {
        if let Some(queued) = self.urgent.pop_front() {
            return Some(queued);
        }
        let mut best = None::<(u32, usize)>;
        for (at, line) in self.small.iter().enumerate() {
            let open = open(&line.group);
            let is_better = best.is_none_or(|(fewest, _)| open < fewest);
            if is_better && line.queue.front().is_some_and(&is_free) {
                best = Some((open, at));
            }
        }
        let (_, at) = best?;
        self.small.rotate_left(at);
        let mut line = self.small.pop_front()?;
        let queued = line.queue.pop_front();
        if !line.queue.is_empty() {
            self.small.push_back(line);
        }
        queued
    }

    /// Takes any object: a small one of the range whose turn it is, or else the largest.
    pub(super) fn pop_any(&mut self) -> Option<Queued> {
        let all = |_: &Queued| true;
        self.pop_small(all, |_| 0)
            .or_else(|| self.pop_heavy(all))
            .or_else(|| self.pop_large(all))
    }

    /// Takes all objects, because none will be started.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Queued> + use<> {
        let Self {
            large,
            heavy,
            urgent,
            small,
        } = std::mem::take(self);
        let by_size = large.into_iter().chain(heavy).map(|BySize(queued)| queued);
        by_size
            .chain(urgent)
            .chain(small.into_iter().flat_map(|line| line.queue))
    }
}

/// The maximum number of objects to examine for one that need not wait in a long queue.
const EXAMINED: usize = 64;

/// Takes the largest object that need not wait, among the first [`EXAMINED`].
fn pop_free(heap: &mut BinaryHeap<BySize>, is_free: impl Fn(&Queued) -> bool) -> Option<Queued> {
    let (mut passed, mut found) = (Vec::new(), None);
    while found.is_none()
        && passed.len() < EXAMINED
        && let Some(BySize(queued)) = heap.pop()
    {
        if is_free(&queued) {
            found = Some(queued);
        } else {
            passed.push(BySize(queued));
        }
    }
    heap.extend(passed);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::Entry;
    use crate::location::ObjectKey;
    use crate::plan::decide::Route;
    use crate::s3::ArchiveState;

    fn queued(key: &str, size: u64, route: Route) -> Queued {
        let key = ObjectKey::new(key).unwrap();
        let entry = Entry {
            key: key.clone(),
            relative_at: 0,
            size,
            etag: None,
            version: None,
            modified: None,
            storage_class: None,
            archive: ArchiveState::Readable,
        };
        let step = Box::new(Step {
            route,
            ..Step::without_work(entry, key)
        });
        Queued {
            transfer: 0,
            step,
            permits: None,
        }
    }

    fn key(queued: Option<Queued>) -> String {
        queued
            .map(|queued| queued.step.key.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn ranges_take_turns_and_throttled_prefixes_are_skipped() {
        let mut waiting = Waiting::default();
        for (range, name) in [
            (1, "a1"),
            (1, "a2"),
            (1, "a3"),
            (2, "hot1"),
            (2, "hot2"),
            (3, "c1"),
        ] {
            waiting.push(range, Group::default(), queued(name, 1, Route::Copy));
        }
        let again = ["again1", "again2"].map(|name| queued(name, 1, Route::Copy));
        waiting.push_all_first(again.into_iter());
        let cold = |queued: &Queued| !queued.step.key.as_str().starts_with("hot");
        let mut seen: Vec<_> = (0..5)
            .map(|_| key(waiting.pop_small(|_| true, |_| 0)))
            .collect();
        assert_eq!(seen, ["again1", "again2", "a1", "hot1", "c1"]);
        seen = (0..4)
            .map(|_| key(waiting.pop_small(cold, |_| 0)))
            .collect();
        assert_eq!(seen, ["a2", "a3", "", ""], "what is hot waits");
        assert_eq!(key(waiting.pop_small(|_| true, |_| 0)), "hot2");
        assert_eq!(waiting.take().count(), 0);
    }

    #[test]
    fn long_copies_start_by_size() {
        let mut waiting = Waiting::default();
        for size in [BULK_FROM + 2, BULK_FROM + 9, BULK_FROM + 5] {
            waiting.push(
                1,
                Group::default(),
                queued(&size.to_string(), size, Route::Copy),
            );
        }
        waiting.push(1, Group::default(), queued("small", 1, Route::Copy));
        assert_eq!(
            key(waiting.pop_heavy(|_| true)),
            (BULK_FROM + 9).to_string()
        );
        assert!(waiting.pop_large(|_| true).is_none());
        let mut left: Vec<_> = waiting
            .take()
            .map(|queued| queued.step.entry.size)
            .collect();
        left.sort_unstable();
        assert_eq!(left, [1, BULK_FROM + 2, BULK_FROM + 5]);
    }
}
