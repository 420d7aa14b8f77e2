//! Places for requests in flight, shared by all objects of a run.
//!
//! Work comes in two kinds. *Bulk* work is a part of a large object: it takes seconds, and the run is over when the last one is, so
//! the object with the most bytes left goes first. *Small* work is everything that takes one quick request. A
//! quarter of the places is kept open for small work when there is any, so that neither kind starves the other, and no place
//! stays free while anything waits. How many places there are is learned ([`WidthController`]) below a ceiling.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::width::{Interval, NARROWEST, WidthController};

/// Where the width starts. Wide enough for all 800 parts of a 50 GiB object at once: a run that is over in two waves has no
/// time to learn. It is no stampede, because the lanes let requests go at a rate; and what a slow server can not answer in
/// a quarter of its time halves the width.
pub const START: u32 = 1024;
/// The most requests in flight that are useful by default.
pub const CEILING: u32 = 2048;
/// How often the width is looked at: not before this, and not long after that.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(500);
const LONGEST_INTERVAL: Duration = Duration::from_secs(10);
/// One request counts as much work as this many bytes.
const BYTES_PER_UNIT: f64 = 4_194_304.0;

/// When more than one in so many requests waited for a rate, that was the limit and not the width.
const PACED: u32 = 4;

/// What a place is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// One quick request, or a few in a row.
    Small,
    /// A part of an object that has this far to go, in bytes that come one after another ([`Slots::bulk`]). The farthest
    /// goes first.
    Bulk(u64),
}

/// The places. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    width: WidthController,
    small: u32,
    bulk: u32,
    waiting_small: VecDeque<oneshot::Sender<Slot>>,
    waiting_bulk: BinaryHeap<Waiting>,
    arrivals: u64,
    interval_began: Duration,
    interval: Interval,
    /// Good answers of the interval, and the time that they took in all.
    answers: u32,
    latency: Duration,
    /// Requests that waited for a rate, and the strain of all that were answered or given up, in all.
    paced: u32,
    strain: (f64, u32),
    closed: bool,
}

/// What an answer says about the width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) now: Duration,
    pub(super) took: Duration,
    /// Bytes of a good one.
    pub(super) bytes: Option<u64>,
    /// The request waited for a rate, or was throttled.
    pub(super) paced: bool,
    /// The time that it took, as a share of the time that it had.
    pub(super) strain: Option<f64>,
}

#[derive(Debug)]
struct Waiting {
    bytes_left: u64,
    arrival: u64,
    place: oneshot::Sender<Slot>,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes_left.cmp(&other.bytes_left).then(other.arrival.cmp(&self.arrival))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

/// A place in flight; dropping it hands it on.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    want: Want,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        match self.want {
            Want::Small => state.small -= 1,
            Want::Bulk(_) => state.bulk -= 1,
        }
        self.slots.hand_out(state);
    }
}

/// The ceiling that this process can hold: [`CEILING`], or what the open-file limit allows once it is raised as far as the
/// system lets us. Each request in flight is one socket; `per_request` is two where the server is in this process.
#[must_use]
pub fn default_ceiling(per_request: u64) -> u32 {
    const OTHER_FILES: u64 = 128;
    let wanted = u64::from(CEILING) * per_request + OTHER_FILES;
    let limit = rlimit::increase_nofile_limit(wanted.max(8192)).unwrap_or(1024);
    let places = limit.saturating_sub(OTHER_FILES) / per_request.max(1);
    u32::try_from(places).unwrap_or(CEILING).clamp(16, CEILING)
}

impl Slots {
    /// Places that start at [`START`] and grow up to `ceiling`.
    #[must_use]
    pub fn new(ceiling: u32) -> Self {
        Self(Arc::new(Mutex::new(State {
            width: WidthController::new(START, ceiling),
            small: 0,
            bulk: 0,
            waiting_small: VecDeque::new(),
            waiting_bulk: BinaryHeap::new(),
            arrivals: 0,
            interval_began: Duration::ZERO,
            interval: Interval::default(),
            answers: 0,
            latency: Duration::ZERO,
            paced: 0,
            strain: (0.0, 0),
            closed: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a place. The receiver gets it, or an error once the places are closed because the run stops.
    #[must_use]
    pub fn request(&self, want: Want) -> oneshot::Receiver<Slot> {
        let (place, receiver) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return receiver;
        }
        match want {
            Want::Small => state.waiting_small.push_back(place),
            Want::Bulk(bytes_left) => {
                let arrival = state.arrivals;
                state.arrivals += 1;
                state.waiting_bulk.push(Waiting { bytes_left, arrival, place });
            }
        }
        self.hand_out(state);
        receiver
    }

    /// A place for one of the pieces that `left` bytes of an object go in. What the object must wait for is one piece, and its
    /// share of all places for the rest: so a single copy of 5 GiB goes before the small parts of a far larger object, which
    /// many places can shorten and that copy none.
    #[must_use]
    pub fn bulk(&self, left: u64, piece: u64) -> Want {
        let width = u64::from(self.lock().width.width().max(1));
        Want::Bulk(piece.saturating_add(left / width))
    }

    /// Gives free places to those who wait. A receiver that is gone gives its place back at once by dropping it,
    /// which must happen without the lock.
    fn hand_out(&self, mut state: MutexGuard<'_, State>) {
        let mut refused = Vec::new();
        while state.small + state.bulk < state.width.width() {
            let reserved = state.width.width() / 4;
            let small_first = state.small < reserved || state.waiting_bulk.is_empty();
            let (want, place) = match state.waiting_small.pop_front() {
                Some(place) if small_first => (Want::Small, place),
                other => {
                    if let Some(place) = other {
                        state.waiting_small.push_front(place);
                    }
                    let Some(waiting) = state.waiting_bulk.pop() else { break };
                    (Want::Bulk(waiting.bytes_left), waiting.place)
                }
            };
            match want {
                Want::Small => state.small += 1,
                Want::Bulk(_) => state.bulk += 1,
            }
            if let Err(slot) = place.send(Slot { slots: self.clone(), want }) {
                refused.push(slot);
            }
        }
        state.interval.saturated |= !state.waiting_small.is_empty() || !state.waiting_bulk.is_empty();
        drop(state);
        drop(refused);
    }

    /// No more places: those who wait are sent away, those in flight end in peace.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let waiting = (std::mem::take(&mut state.waiting_small), std::mem::take(&mut state.waiting_bulk));
        drop(state);
        drop(waiting);
    }

    /// Learns from an answer.
    ///
    /// An interval ends when it is as long as its requests took, and enough of them were answered to mean something.
    pub(super) fn answered(&self, answer: Answered) {
        let mut state = self.lock();
        let current = &mut *state;
        #[expect(clippy::cast_precision_loss, reason = "work is a measure, not a count")]
        if let Some(bytes) = answer.bytes {
            current.interval.work += 1.0 + bytes as f64 / BYTES_PER_UNIT;
            current.answers += 1;
            current.latency += answer.took;
        }
        if let Some(strain) = answer.strain {
            current.strain = (current.strain.0 + strain, current.strain.1 + 1);
        }
        current.paced += u32::from(answer.paced);
        let length = answer.now.saturating_sub(current.interval_began);
        let typical = current.latency / current.answers.max(1);
        let enough = current.answers >= current.width.width() / 4 || length >= LONGEST_INTERVAL;
        if length < SHORTEST_INTERVAL.max(typical) || !enough {
            return;
        }
        let interval = Interval {
            seconds: length.as_secs_f64(),
            paced: current.paced > current.answers / PACED,
            strain: current.strain.0 / f64::from(current.strain.1.max(1)),
            ..std::mem::take(&mut current.interval)
        };
        (current.answers, current.latency, current.interval_began) = (0, Duration::ZERO, answer.now);
        (current.paced, current.strain) = (0, (0.0, 0));
        current.width.observe(interval);
        self.hand_out(state);
    }

    /// Begins with the width that an earlier session found.
    pub(super) fn recall(&self, width: u32) {
        if width < NARROWEST {
            return;
        }
        let mut state = self.lock();
        state.width = WidthController::new(width, state.width.ceiling());
        self.hand_out(state);
    }

    /// Requests in flight and places, at this moment.
    #[must_use]
    pub fn in_flight(&self) -> (u32, u32) {
        let state = self.lock();
        (state.small + state.bulk, state.width.width())
    }

    /// The most places that there can be.
    #[must_use]
    pub fn ceiling(&self) -> u32 {
        self.lock().width.ceiling()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_than_the_ceiling_and_none_idle() {
        let slots = Slots::new(3);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(slots.request(Want::Small).await.unwrap());
        }
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.request(Want::Bulk(5)).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(slots.in_flight(), (3, 3));
        assert!(!waiting.is_finished());
        held.pop();
        assert_eq!(waiting.await.unwrap().unwrap().want, Want::Bulk(5));
        drop(held);
        assert_eq!(slots.in_flight().0, 0);
    }

    #[tokio::test]
    async fn the_object_with_the_most_left_goes_first_and_small_work_keeps_a_quarter() {
        let slots = Slots::new(4);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(slots.request(Want::Bulk(1)).await.unwrap());
        }
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for want in [Want::Bulk(10), Want::Bulk(30), Want::Small, Want::Small, Want::Bulk(20)] {
            let (slots, order) = (slots.clone(), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let slot = slots.request(want).await.unwrap();
                order.lock().unwrap().push(want);
                // Held to the end, so that the shares are those of a busy run.
                std::mem::forget(slot);
            }));
            tokio::task::yield_now().await;
        }
        for slot in held {
            drop(slot);
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        assert_eq!(*order.lock().unwrap(), [Want::Small, Want::Bulk(30), Want::Bulk(20), Want::Bulk(10)]);
    }

    #[tokio::test]
    async fn a_place_given_to_someone_who_left_is_not_lost() {
        let slots = Slots::new(1);
        let held = slots.request(Want::Small).await.unwrap();
        let gone = tokio::spawn({
            let slots = slots.clone();
            async move { slots.request(Want::Small).await }
        });
        tokio::task::yield_now().await;
        gone.abort();
        let _ = gone.await;
        drop(held);
        assert!(slots.request(Want::Bulk(1)).await.is_ok());
    }

    #[tokio::test]
    async fn closing_sends_the_waiting_away() {
        let slots = Slots::new(1);
        let held = slots.request(Want::Small).await.unwrap();
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.request(Want::Small).await.is_err() }
        });
        tokio::task::yield_now().await;
        slots.close();
        assert!(waiting.await.unwrap());
        assert!(slots.request(Want::Small).await.is_err());
        drop(held);
        assert_eq!(slots.in_flight().0, 0);
    }
}
