//! Slots for requests in flight, shared by all objects of a run.
//!
//! Work comes in two kinds. *Bulk* work is a part of a large object. It takes seconds, and the run
//! ends with the last part, so the object with the most bytes left goes first. *Small* work is
//! everything that takes one quick request. While small work waits, a quarter of the slots is kept
//! for it, so neither kind starves the other. No slot stays free while work that may take it waits.
//! The number of slots is learned ([`MeasuredConcurrency`]), up to a ceiling.
//!
//! A request that was refused, or that waits in a long queue, gives its slot back until its turn
//! comes ([`Parked`]). So a prefix in which everything is refused holds no slots that others could
//! use, and no more requests are in flight than there are slots.
//!
//! Small work may take only a limited number of slots, which is learned separately. Thousands of
//! large copies that wait for S3 cost this machine nothing, but a quick request that is sent too
//! early only waits for a rate or for this machine's CPU.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::concurrency::{Answered, MIN_CONCURRENCY, MeasuredConcurrency};

/// The number of slots at the start, unless the server suggests another one ([`Slots::start_at`]).
const START: u32 = 512;
/// The number of slots for small work at the start. A partition of S3 accepts 3,500 copies a
/// second. At 70 ms each, about 250 are in flight.
const START_SMALL: u32 = 256;
/// The maximum number of requests in flight, if the limit of open files allows it. The number grows
/// up to this only while that makes the run faster.
pub const CEILING: u32 = 8192;
/// The number of requests in flight that layouts and estimates assume, if the ceiling allows it.
pub const USUAL: u32 = 2048;
/// The maximum number of requests that may wait without a slot: each takes some KiB of memory.
const MAX_PARKED: u32 = 4096;
/// Requests that move fewer bytes than this, the smallest size of a part, are small.
const SMALL: u64 = 5 << 20;

/// The purpose of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// One quick request, or a few in a row.
    Small,
    /// A part of a large object. The part with the highest number goes first ([`Slots::bulk`]).
    Bulk(u64),
}

/// The slots for requests in flight. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Mutex<SlotState>>);

#[derive(Debug)]
struct SlotState {
    /// The number of slots.
    concurrency: MeasuredConcurrency,
    /// The number of slots that small work may take.
    small_concurrency: MeasuredConcurrency,
    /// The slots that small work holds, including parked ones.
    small: u32,
    /// The slots that bulk work holds, including parked ones.
    bulk: u32,
    /// The slots of small work that are parked.
    parked_small: u32,
    /// The slots of bulk work that are parked.
    parked_bulk: u32,
    /// The parked requests that want their slots back.
    returning: VecDeque<Returning>,
    waiting_small: VecDeque<oneshot::Sender<Slot>>,
    waiting_bulk: BinaryHeap<BulkRequest>,
    /// The number of bulk requests so far.
    arrivals: u64,
    closed: bool,
}

/// A request for a slot for bulk work.
#[derive(Debug)]
struct BulkRequest {
    bytes_left: u64,
    arrival: u64,
    sender: oneshot::Sender<Slot>,
}

impl Ord for BulkRequest {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes_left
            .cmp(&other.bytes_left)
            .then(other.arrival.cmp(&self.arrival))
    }
}

impl PartialOrd for BulkRequest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for BulkRequest {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for BulkRequest {}

/// A slot for one request in flight. Dropping it gives it to the next request.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    want: SlotKind,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        match self.want {
            SlotKind::Small => state.small -= 1,
            SlotKind::Bulk(_) => state.bulk -= 1,
        }
        self.slots.hand_out(state);
    }
}

impl SlotState {
    fn parked(&mut self, is_bulk: bool) -> &mut u32 {
        if is_bulk {
            &mut self.parked_bulk
        } else {
            &mut self.parked_small
        }
    }

    /// Returns the number of slots in use.
    fn used(&self) -> u32 {
        (self.small + self.bulk).saturating_sub(self.parked_small + self.parked_bulk)
    }

    /// Returns the number of slots that small work uses now.
    fn used_small(&self) -> u32 {
        self.small.saturating_sub(self.parked_small)
    }
}

/// A parked request that wants its slot back.
#[derive(Debug)]
struct Returning {
    is_bulk: bool,
    sender: oneshot::Sender<Returned>,
}

/// A slot that is free for others while its request waits. The request still holds its [`Slot`].
#[derive(Debug)]
pub(crate) struct Parked {
    slots: Slots,
    is_bulk: bool,
    is_back: bool,
}

impl Parked {
    /// Waits until the request may use its slot again.
    pub(crate) async fn back(mut self) {
        let returned = self.request_return();
        // An error means that the run stops. A request that had a slot may still finish.
        if let Ok(mut returned) = returned.await {
            returned.is_taken = true;
            self.is_back = true;
        }
    }

    fn request_return(&self) -> oneshot::Receiver<Returned> {
        let (sender, returned) = oneshot::channel();
        let mut state = self.slots.lock();
        if !state.closed {
            state.returning.push_back(Returning {
                is_bulk: self.is_bulk,
                sender,
            });
            self.slots.hand_out(state);
        }
        returned
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        if !self.is_back {
            *self.slots.lock().parked(self.is_bulk) -= 1;
        }
    }
}

/// A slot on its way back to a parked request.
#[derive(Debug)]
struct Returned {
    slots: Slots,
    is_bulk: bool,
    is_taken: bool,
}

impl Drop for Returned {
    fn drop(&mut self) {
        // The request was given up. Dropping its `Parked` subtracts what is added here.
        if !self.is_taken {
            let mut state = self.slots.lock();
            *state.parked(self.is_bulk) += 1;
            self.slots.hand_out(state);
        }
    }
}

/// Returns the ceiling for this process: [`CEILING`], or what the open-file limit allows after it
/// is raised as far as the system permits. Each request in flight needs `per_request` sockets: two
/// if the server runs in this process, otherwise one.
#[must_use]
pub fn default_ceiling(per_request: u64) -> u32 {
    const OTHER_FILES: u64 = 128;
    let wanted = u64::from(CEILING) * per_request + OTHER_FILES;
    let limit = rlimit::increase_nofile_limit(wanted).unwrap_or(1024);
    let slots = limit.saturating_sub(OTHER_FILES) / per_request.max(1);
    u32::try_from(slots).unwrap_or(CEILING).clamp(16, CEILING)
}

impl Slots {
    /// Creates a few hundred slots. Their number is learned from then on, up to `ceiling`.
    #[must_use]
    pub fn new(ceiling: u32) -> Self {
        Self(Arc::new(Mutex::new(SlotState {
            concurrency: MeasuredConcurrency::new(START, ceiling),
            small_concurrency: MeasuredConcurrency::new(START_SMALL, ceiling),
            small: 0,
            bulk: 0,
            parked_small: 0,
            parked_bulk: 0,
            returning: VecDeque::new(),
            waiting_small: VecDeque::new(),
            waiting_bulk: BinaryHeap::new(),
            arrivals: 0,
            closed: false,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests a slot. The receiver gets it, or an error if the run stops.
    #[must_use]
    pub fn request(&self, want: SlotKind) -> oneshot::Receiver<Slot> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return receiver;
        }
        match want {
            SlotKind::Small => state.waiting_small.push_back(sender),
            SlotKind::Bulk(bytes_left) => {
                let arrival = state.arrivals;
                state.arrivals += 1;
                state.waiting_bulk.push(BulkRequest {
                    bytes_left,
                    arrival,
                    sender,
                });
            }
        }
        self.hand_out(state);
        receiver
    }

    /// Returns the kind of slot for a part of `part` bytes, of an object with `left` bytes still to
    /// send. The object takes at least as long as this part plus its remaining bytes divided among
    /// all slots; the sum decides the part's turn. So a single copy of 5 GiB goes before the small
    /// parts of a far larger object: more slots speed up the small parts, but not the copy.
    #[must_use]
    pub fn bulk(&self, left: u64, part: u64) -> SlotKind {
        let concurrency = u64::from(self.lock().concurrency.get().max(1));
        SlotKind::Bulk(part.saturating_add(left / concurrency))
    }

    /// Gives free slots to waiting requests. If the receiver of a slot was dropped, the slot is
    /// dropped too, and thereby freed. That takes the lock, so it happens after the lock is
    /// released.
    fn hand_out(&self, mut state: MutexGuard<'_, SlotState>) {
        let (mut refused, mut gone) = (Vec::new(), Vec::new());
        let (all, small_limit) = (state.concurrency.get(), state.small_concurrency.get());
        // Parked requests go first, since they had slots before.
        while state.used() < all
            && let Some(Returning { is_bulk, sender }) = state.returning.pop_front()
        {
            // If the request was given up, dropping its `Parked` corrects the count.
            if sender.is_closed() {
                continue;
            }
            *state.parked(is_bulk) -= 1;
            if let Err(mut returned) = sender.send(Returned {
                slots: self.clone(),
                is_bulk,
                is_taken: false,
            }) {
                *state.parked(is_bulk) += 1;
                returned.is_taken = true;
                gone.push(returned);
            }
        }
        while state.used() < all {
            let small_first = state.used_small() < all / 4 || state.waiting_bulk.is_empty();
            let small = (small_first && state.used_small() < small_limit)
                .then(|| state.waiting_small.pop_front());
            let (want, sender) = if let Some(sender) = small.flatten() {
                (SlotKind::Small, sender)
            } else if let Some(waiting) = state.waiting_bulk.pop() {
                (SlotKind::Bulk(waiting.bytes_left), waiting.sender)
            } else {
                break;
            };
            match want {
                SlotKind::Small => state.small += 1,
                SlotKind::Bulk(_) => state.bulk += 1,
            }
            if let Err(slot) = sender.send(Slot {
                slots: self.clone(),
                want,
            }) {
                refused.push(slot);
            }
        }
        if !state.waiting_small.is_empty() && state.used_small() >= small_limit {
            state.small_concurrency.mark_saturated();
        }
        if state.used() >= all && !(state.waiting_small.is_empty() && state.waiting_bulk.is_empty())
        {
            state.concurrency.mark_saturated();
        }
        drop(state);
        drop((refused, gone));
    }

    /// Stops giving out slots. Waiting requests get an error; requests in flight may finish.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        // A parked request, which had a slot, may finish.
        let returning = std::mem::take(&mut state.returning);
        let waiting = (
            std::mem::take(&mut state.waiting_small),
            std::mem::take(&mut state.waiting_bulk),
        );
        drop(state);
        drop((waiting, returning));
    }

    /// Learns from the result of a request.
    pub(super) fn answered(&self, answer: &Answered) {
        let mut state = self.lock();
        let mut changed = state.concurrency.answered(answer);
        if answer.bytes < SMALL {
            changed |= state.small_concurrency.answered(answer);
        }
        if changed {
            self.hand_out(state);
        }
    }

    /// Starts with another number of slots, which suits the server or was learned by an earlier
    /// session. A large number does not overload the server: the lanes limit the rate, and the
    /// number is halved if responses take more than a quarter of their time limit.
    pub fn start_at(&self, concurrency: u32) {
        if concurrency < MIN_CONCURRENCY {
            return;
        }
        let mut state = self.lock();
        state.concurrency = MeasuredConcurrency::new(concurrency, state.concurrency.ceiling());
        self.hand_out(state);
    }

    /// Reduces the slots to the number of connections that the server is known to serve at a time.
    pub(crate) fn reduce(&self, concurrency: u32) {
        let mut state = self.lock();
        if concurrency < state.concurrency.get() {
            tracing::info!(
                connections = concurrency,
                "the server serves no more connections at a time: no more requests are in flight from now on"
            );
        }
        state.concurrency.reduce(concurrency);
        state.small_concurrency.reduce(concurrency);
    }

    /// Returns the numbers of requests in flight and of slots now.
    #[must_use]
    pub fn in_flight(&self) -> (u32, u32) {
        let state = self.lock();
        (state.used(), state.concurrency.get())
    }

    /// Returns the number of slots that small work may take now.
    #[must_use]
    pub fn small_limit(&self) -> u32 {
        let state = self.lock();
        state.small_concurrency.get().min(state.concurrency.get())
    }

    /// Frees the slot of a request that waits for its turn. Returns `None` if too many requests are
    /// parked already.
    pub(crate) fn park(&self, is_bulk: bool) -> Option<Parked> {
        let mut state = self.lock();
        if state.parked_small + state.parked_bulk >= MAX_PARKED {
            return None;
        }
        *state.parked(is_bulk) += 1;
        self.hand_out(state);
        Some(Parked {
            slots: self.clone(),
            is_bulk,
            is_back: false,
        })
    }

    /// Returns the number of parked requests of small work.
    #[must_use]
    pub fn parked_small(&self) -> u32 {
        self.lock().parked_small
    }

    /// Returns the ceiling of the number of slots.
    #[must_use]
    pub fn ceiling(&self) -> u32 {
        self.lock().concurrency.ceiling()
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
            held.push(slots.request(SlotKind::Small).await.unwrap());
        }
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.request(SlotKind::Bulk(5)).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(slots.in_flight(), (3, 3));
        assert!(!waiting.is_finished());
        held.pop();
        assert_eq!(waiting.await.unwrap().unwrap().want, SlotKind::Bulk(5));
        drop(held);
        assert_eq!(slots.in_flight().0, 0);
    }

    #[tokio::test]
    async fn the_object_with_the_most_left_goes_first_and_small_work_keeps_a_quarter() {
        let slots = Slots::new(4);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(slots.request(SlotKind::Bulk(1)).await.unwrap());
        }
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for want in [
            SlotKind::Bulk(10),
            SlotKind::Bulk(30),
            SlotKind::Small,
            SlotKind::Small,
            SlotKind::Bulk(20),
        ] {
            let (slots, order) = (slots.clone(), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let slot = slots.request(want).await.unwrap();
                order.lock().unwrap().push(want);
                // Every slot is held to the end, so that the shares are those of a busy run.
                std::mem::forget(slot);
            }));
            tokio::task::yield_now().await;
        }
        for slot in held {
            drop(slot);
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        assert_eq!(
            *order.lock().unwrap(),
            [
                SlotKind::Small,
                SlotKind::Bulk(30),
                SlotKind::Bulk(20),
                SlotKind::Bulk(10)
            ]
        );
    }

    #[tokio::test]
    async fn a_slot_given_to_a_request_that_was_given_up_is_not_lost() {
        let slots = Slots::new(1);
        let held = slots.request(SlotKind::Small).await.unwrap();
        let gone = tokio::spawn({
            let slots = slots.clone();
            async move { slots.request(SlotKind::Small).await }
        });
        tokio::task::yield_now().await;
        gone.abort();
        let _ = gone.await;
        drop(held);
        assert!(slots.request(SlotKind::Bulk(1)).await.is_ok());
    }

    #[tokio::test]
    async fn a_parked_request_frees_its_slot_and_no_more_are_in_flight_than_there_are_slots() {
        let slots = Slots::new(2);
        let first = slots.request(SlotKind::Small).await.unwrap();
        let second = slots.request(SlotKind::Small).await.unwrap();
        let parked = slots.park(false).expect("few are parked");
        assert_eq!(slots.in_flight().0, 1);
        let third = slots.request(SlotKind::Small).await.unwrap();
        let (fourth, back) = (slots.request(SlotKind::Small), tokio::spawn(parked.back()));
        tokio::task::yield_now().await;
        assert!(!back.is_finished(), "both slots are in use");
        drop(third);
        back.await.unwrap();
        assert_eq!(
            (slots.in_flight().0, slots.parked_small()),
            (2, 0),
            "the parked request goes first"
        );
        drop(first);
        let fourth = fourth.await.unwrap();
        assert_eq!(slots.in_flight().0, 2);
        drop((second, fourth));
        assert_eq!(slots.in_flight().0, 0);
    }

    #[tokio::test]
    async fn a_parked_request_that_is_given_up_is_not_counted_any_more() {
        let slots = Slots::new(1);
        let held = slots.request(SlotKind::Bulk(1)).await.unwrap();
        let parked = slots.park(true).expect("few are parked");
        let other = slots.request(SlotKind::Small).await.unwrap();
        let back = tokio::spawn(parked.back());
        tokio::task::yield_now().await;
        back.abort();
        let _ = back.await;
        drop(held);
        assert_eq!(slots.in_flight().0, 1);
        drop(other);
        assert_eq!((slots.in_flight().0, slots.parked_small()), (0, 0));
        assert!(slots.request(SlotKind::Small).await.is_ok());
    }

    #[tokio::test]
    async fn closing_refuses_waiting_requests() {
        let slots = Slots::new(1);
        let held = slots.request(SlotKind::Small).await.unwrap();
        let waiting = tokio::spawn({
            let slots = slots.clone();
            async move { slots.request(SlotKind::Small).await.is_err() }
        });
        tokio::task::yield_now().await;
        slots.close();
        assert!(waiting.await.unwrap());
        assert!(slots.request(SlotKind::Small).await.is_err());
        drop(held);
        assert_eq!(slots.in_flight().0, 0);
    }
}
