//! Objects that are planned and not begun.
//!
//! What takes long waits by size, the largest first, because its tail is what a run ends with. Small objects wait by the range of
//! keys in which they were planned, and the ranges take turns: they lie in different places of the bucket, so that a run
//! spreads over S3's partitions. A range whose next key lies where requests are standing in line is passed over, as long as
//! others are not: a prefix that is throttled must not fill all places in flight with objects that wait for it.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

use super::object::BULK_FROM;
use crate::planner::{Held, Step};

/// An object that waits.
#[derive(Debug)]
pub(super) struct Queued {
    /// Its transfer's place in the job.
    pub(super) transfer: u32,
    /// What is to be done.
    pub(super) step: Box<Step>,
    /// Its room in the planner's window, until it is begun.
    pub(super) held: Option<Held>,
}

/// By the size of its object, for the heaps.
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

/// All objects that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    large: BinaryHeap<BySize>,
    /// Copies in one request that take long.
    heavy: BinaryHeap<BySize>,
    /// Goes before all others.
    urgent: VecDeque<Queued>,
    /// By range; the one whose turn it is comes first, and none is empty.
    small: VecDeque<(u32, VecDeque<Queued>)>,
}

impl Waiting {
    /// How many they are.
    pub(super) fn len(&self) -> usize {
        let small = self.small.iter().map(|(_, line)| line.len()).sum::<usize>();
        self.large.len() + self.heavy.len() + self.urgent.len() + small
    }

    /// One more, found in this range.
    pub(super) fn push(&mut self, range: u32, queued: Queued) {
        match queued.step.route.parts() {
            0 if queued.step.entry.size > BULK_FROM => self.heavy.push(BySize(queued)),
            0 => match self.small.iter_mut().find(|(other, _)| *other == range) {
                Some((_, line)) => line.push_back(queued),
                None => self.small.push_back((range, VecDeque::from([queued]))),
            },
            _ => self.large.push(BySize(queued)),
        }
    }

    /// One more, that goes before all of its kind.
    pub(super) fn push_first(&mut self, queued: Queued) {
        match queued.step.route.parts() {
            0 => self.urgent.push_front(queued),
            _ => self.large.push(BySize(queued)),
        }
    }

    /// The largest in parts.
    pub(super) fn pop_large(&mut self) -> Option<Queued> {
        self.large.pop().map(|BySize(queued)| queued)
    }

    /// The largest copy in one request that takes long.
    pub(super) fn pop_heavy(&mut self) -> Option<Queued> {
        self.heavy.pop().map(|BySize(queued)| queued)
    }

    /// The next small one whose requests would not stand in a long line.
    pub(super) fn pop_small(&mut self, is_free: impl Fn(&Queued) -> bool) -> Option<Queued> {
        if let Some(queued) = self.urgent.pop_front() {
            return Some(queued);
        }
        let at = self.small.iter().position(|(_, line)| line.front().is_some_and(&is_free))?;
        self.small.rotate_left(at);
        let (range, mut line) = self.small.pop_front()?;
        let queued = line.pop_front();
        if !line.is_empty() {
            self.small.push_back((range, line));
        }
        queued
    }

    /// All of them, because none will be begun.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Queued> + use<> {
        let Self { large, heavy, urgent, small } = std::mem::take(self);
        let by_size = large.into_iter().chain(heavy).map(|BySize(queued)| queued);
        by_size.chain(urgent).chain(small.into_iter().flat_map(|(_, line)| line))
    }
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
        let step = Box::new(Step { route, ..Step::without_work(entry, key) });
        Queued { transfer: 0, step, held: None }
    }

    fn key(queued: Option<Queued>) -> String {
        queued.map(|queued| queued.step.key.to_string()).unwrap_or_default()
    }

    #[test]
    fn ranges_take_turns_and_those_in_line_are_passed_over() {
        let mut waiting = Waiting::default();
        for (range, name) in [(1, "a1"), (1, "a2"), (1, "a3"), (2, "hot1"), (2, "hot2"), (3, "c1")] {
            waiting.push(range, queued(name, 1, Route::Copy));
        }
        waiting.push_first(queued("again", 1, Route::Copy));
        let cold = |queued: &Queued| !queued.step.key.as_str().starts_with("hot");
        let mut seen: Vec<_> = (0..4).map(|_| key(waiting.pop_small(|_| true))).collect();
        assert_eq!(seen, ["again", "a1", "hot1", "c1"]);
        seen = (0..4).map(|_| key(waiting.pop_small(cold))).collect();
        assert_eq!(seen, ["a2", "a3", "", ""], "what is hot waits");
        assert_eq!(key(waiting.pop_small(|_| true)), "hot2");
        assert_eq!(waiting.take().count(), 0);
    }

    #[test]
    fn what_takes_long_goes_by_size() {
        let mut waiting = Waiting::default();
        for size in [BULK_FROM + 2, BULK_FROM + 9, BULK_FROM + 5] {
            waiting.push(1, queued(&size.to_string(), size, Route::Copy));
        }
        waiting.push(1, queued("small", 1, Route::Copy));
        assert_eq!(key(waiting.pop_heavy()), (BULK_FROM + 9).to_string());
        assert!(waiting.pop_large().is_none());
        let mut left: Vec<_> = waiting.take().map(|queued| queued.step.entry.size).collect();
        left.sort_unstable();
        assert_eq!(left, [1, BULK_FROM + 2, BULK_FROM + 5]);
    }
}
