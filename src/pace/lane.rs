//! The lanes of a bucket: one queue for each set of keys that S3 throttles together.
//!
//! A bucket begins with one lane per class of requests. When a prefix turns out to be throttled
//! separately ([`super::prefix`]), it gets a separate lane, which starts at the rate that the
//! server accepted. A new lane replaces the lane of the other keys, whose rate was lowered for
//! refusals that did not concern these keys. Requests that wait in the old lane queue again in the
//! new one. At most [`MAX_LANES`] prefixes have lanes: a further one replaces the lane whose last
//! throttling is the oldest. A request finds its lane by its key (a list by its first key). This
//! needs no allocation, and no comparison while the bucket has only one lane, which is the usual
//! case.

mod queue;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::sleep;

use super::answers::LastAnswers;
use super::gate::NAP;
use super::latency::{Latencies, RepeatRight};
use super::learned::LearnedLane;
use super::outage::Outage;
use super::prefix::HotPrefix;
use super::rate::RateController;
use super::trust::BucketTrust;
use crate::s3::{Operation, RequestClass};

pub(super) use queue::LanePass;
pub(crate) use queue::PausingRequest;
use queue::{Lane, LaneTurn};

/// The maximum number of prefixes of a bucket that have separate lanes.
const MAX_LANES: usize = 64;
/// The time without throttling after which a prefix loses its lane.
const FORGOTTEN: Duration = Duration::from_mins(15);
/// A session starts with this fraction of a rate that an earlier session learned.
const CAUTION: f64 = 0.9;

/// Returns the requests per second that each partition of S3 accepts at least, according to its
/// documentation. Lanes of other servers start at this rate too: if a server accepts less, its lane
/// learns that within moments.
const fn documented(class: RequestClass) -> f64 {
    match class {
        RequestClass::Read => 5500.0,
        RequestClass::Write => 3500.0,
    }
}

/// All lanes of one class of requests to one bucket.
#[derive(Debug)]
pub struct Lanes {
    class: RequestClass,
    /// The rate at which a lane starts.
    start: f64,
    table: ArcSwap<Table>,
    /// Held while the table changes.
    changing: Mutex<()>,
    pub(super) outage: Arc<Outage>,
    pub(super) answers: LastAnswers,
    pub(super) trust: BucketTrust,
    pub(super) latencies: Latencies,
}

#[derive(Clone, Debug)]
struct Table {
    /// The lane of all keys without a separate lane.
    root: Arc<Lane>,
    /// The lanes of prefixes, the longest prefix first.
    branches: Vec<Arc<Lane>>,
}

impl Lanes {
    pub(super) fn new(
        class: RequestClass,
        sharers: u32,
        outage: Arc<Outage>,
        now: Duration,
    ) -> Self {
        let start = documented(class) / f64::from(sharers.max(1));
        let root = Lane::new("", RateController::new(start), now);
        let table = ArcSwap::from_pointee(Table {
            root,
            branches: Vec::new(),
        });
        let (answers, trust) = (LastAnswers::default(), BucketTrust::default());
        Self {
            class,
            start,
            table,
            changing: Mutex::default(),
            outage,
            answers,
            trust,
            latencies: Latencies::default(),
        }
    }

    /// Returns true while the endpoint does not answer any request.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.outage.is_out()
    }

    /// Returns true if a request of this operation was answered after the time `since`.
    #[must_use]
    pub fn answered_after(&self, operation: Operation, since: Duration) -> bool {
        self.answers.any_after(operation, since)
    }

    /// Returns the time after which a request is overdue, estimated from the responses so far.
    pub(crate) fn overdue_after(&self, operation: Operation, bytes: u64) -> Duration {
        self.latencies.overdue_after(operation, bytes)
    }

    /// Returns the time after which a request is overdue beyond doubt, if enough responses are
    /// known.
    pub(crate) fn surely_overdue_after(
        &self,
        operation: Operation,
        bytes: u64,
    ) -> Option<Duration> {
        self.latencies.surely_overdue_after(operation, bytes)
    }

    /// Takes the right to send one more request twice from the budget that responses have earned.
    pub(crate) fn repeat_right(&self) -> Option<RepeatRight<'_>> {
        if self.is_out() {
            None
        } else {
            RepeatRight::of(&self.latencies)
        }
    }

    /// Returns true if a 403 to this operation is worth a repetition: other requests of the
    /// operation have succeeded.
    #[must_use]
    pub(crate) fn doubts_denial(&self, operation: Operation, now: Duration) -> bool {
        self.trust.doubts(operation, now)
    }

    /// Returns true if no request of this operation has succeeded yet, and the caller must wait for
    /// the results of other parts before it believes a 403.
    #[must_use]
    pub(crate) fn awaits_other_parts(&self, operation: Operation, now: Duration) -> bool {
        self.trust.awaits_other_parts(operation, now)
    }

    /// Notes that a request of this operation still got a 403 after repetitions that took
    /// `doubted`.
    pub(crate) fn believe_denial(&self, operation: Operation, doubted: Duration, now: Duration) {
        self.trust.believe(operation, doubted, now);
    }

    fn of(&self, key: &str) -> Arc<Lane> {
        let table = self.table.load();
        let branch = table
            .branches
            .iter()
            .find(|lane| key.starts_with(&*lane.prefix));
        Arc::clone(branch.unwrap_or(&table.root))
    }

    /// Returns how long a request for `key` would wait in the queue now. Includes the refused
    /// requests that pause now, because they will queue first.
    pub(crate) fn queue_delay(&self, key: &str, now: Duration) -> Duration {
        let lane = self.of(key);
        let mut state = lane.lock();
        if state.stats.is_open(now) && state.may_skip_queue(&lane.prefix, key) {
            return Duration::ZERO;
        }
        let rate = state.rate.rate(now);
        state.meter.set(rate, now);
        state.meter.queue_delay(now) + Duration::from_secs_f64(f64::from(state.pausing) / rate)
    }

    /// Counts a refused request for `key` as pausing until the result is dropped.
    pub(crate) fn pausing(&self, key: &str) -> PausingRequest {
        let lane = self.of(key);
        lane.lock().pausing += 1;
        PausingRequest(lane)
    }

    /// Admits a request for `key` at once, ahead of the requests that wait. Its refusal does not
    /// lower the rate.
    pub(super) fn skip_queue(&self, key: &str) -> LanePass {
        LanePass {
            lane: self.of(key),
            waited: false,
            skipped_queue: true,
        }
    }

    /// Waits, first come first served, until a request for `key` may be sent.
    pub(super) async fn pass(&self, key: &str, clock: impl Fn() -> Duration) -> LanePass {
        let (mut lane, mut ticket, mut waited) = (self.of(key), None, false);
        loop {
            match lane.turn(key, ticket, clock()) {
                LaneTurn::Go => {
                    return LanePass {
                        lane,
                        waited,
                        skipped_queue: false,
                    };
                }
                LaneTurn::SkipQueue(hot) => {
                    if !hot.is_empty() {
                        self.split(&lane, &hot, clock());
                    }
                    return LanePass {
                        lane,
                        waited,
                        skipped_queue: true,
                    };
                }
                LaneTurn::Wait(drawn, wait) => {
                    (ticket, waited) = (Some(drawn), true);
                    sleep(wait.min(NAP)).await;
                }
                LaneTurn::Replaced => (lane, ticket) = (self.of(key), None),
            }
        }
    }

    /// Learns that a request for `key`, sent at `sent_at`, was throttled.
    pub(super) fn throttled(&self, passed: &LanePass, key: &str, sent_at: Duration, now: Duration) {
        let LanePass {
            lane,
            skipped_queue,
            ..
        } = passed;
        let hot = {
            let mut state = lane.lock();
            if state.retired {
                return;
            }
            state.streak = state.streak.saturating_add(1);
            // A request that skipped the queue was sent beyond the rate.
            if !skipped_queue && state.rate.throttled(sent_at, now) {
                tracing::debug!(
                    prefix = lane.prefix,
                    accepted = state.rate.limit(),
                    "slows down"
                );
            }
            state.stats.throttled(key, sent_at, now)
        };
        if !hot.is_empty() {
            self.split(lane, &hot, now);
        }
    }

    /// Learns that a request for `key`, sent at `sent_at`, was accepted.
    pub(super) fn accepted(passed: &LanePass, key: &str, sent_at: Duration, now: Duration) {
        let mut state = passed.lane.lock();
        state.streak = 0;
        if !state.stats.is_open(now) {
            return;
        }
        let is_since_cut = state.rate.cut_at().is_some_and(|cut_at| cut_at < sent_at);
        if state.rate.is_shut() && is_since_cut && !passed.skipped_queue {
            state.stats.accepted_again(key);
        } else {
            state.stats.accepted(key);
        }
    }

    /// Returns true while every request in the lane of `key` is refused.
    #[must_use]
    pub(crate) fn is_shut(&self, key: &str) -> bool {
        self.of(key).lock().is_shut()
    }

    /// Returns the prefixes of the lanes in which every request is refused now. The prefix of the
    /// root lane is empty.
    pub(super) fn shut(&self) -> Vec<String> {
        let table = self.table.load();
        let lanes = table.branches.iter().chain([&table.root]);
        lanes
            .filter(|lane| lane.lock().is_shut())
            .map(|lane| lane.prefix.clone())
            .collect()
    }

    /// Gives each hot prefix a separate lane, and replaces `lane` by a new one for the other
    /// keys.
    fn split(&self, lane: &Arc<Lane>, hot: &[HotPrefix], now: Duration) {
        let start = self.start;
        for HotPrefix { prefix, accepted } in hot {
            tracing::debug!(prefix, accepted, "is throttled alone");
        }
        let mut lanes: Vec<_> = hot
            .iter()
            .map(|hot| {
                Lane::new(
                    &hot.prefix,
                    RateController::known(start, hot.accepted, now),
                    now,
                )
            })
            .collect();
        lanes.push(Lane::new(&lane.prefix, RateController::new(start), now));
        self.replace(&lanes, now);
    }

    /// Puts lanes into the table. Each replaces the lane with the same prefix.
    fn replace(&self, fresh: &[Arc<Lane>], now: Duration) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.table.load_full();
        let is_fresh = |prefix: &str| fresh.iter().any(|lane| lane.prefix == prefix);
        let is_recent = |lane: &Lane| {
            lane.cut_at()
                .is_some_and(|at| now.saturating_sub(at) < FORGOTTEN)
        };
        let mut branches: Vec<_> = old
            .branches
            .iter()
            .filter(|lane| !is_fresh(&lane.prefix) && is_recent(lane))
            .cloned()
            .collect();
        branches.extend(fresh.iter().filter(|lane| !lane.prefix.is_empty()).cloned());
        if branches.len() > MAX_LANES {
            branches.sort_by_cached_key(|lane| std::cmp::Reverse(lane.cut_at()));
            branches.truncate(MAX_LANES);
        }
        branches.sort_by_key(|lane| std::cmp::Reverse(lane.prefix.len()));
        let root = fresh
            .iter()
            .find(|lane| lane.prefix.is_empty())
            .unwrap_or(&old.root);
        let table = Arc::new(Table {
            root: Arc::clone(root),
            branches,
        });
        self.table.store(Arc::clone(&table));
        for lane in old.branches.iter().chain([&old.root]) {
            if !table
                .branches
                .iter()
                .chain([&table.root])
                .any(|kept| Arc::ptr_eq(kept, lane))
            {
                lane.lock().retired = true;
            }
        }
    }

    /// Returns the rates of the throttled lanes of `bucket`.
    pub(super) fn learned(&self, bucket: &str) -> Vec<LearnedLane> {
        let table = self.table.load_full();
        let lanes = table.branches.iter().chain([&table.root]);
        let learned = lanes.filter_map(|lane| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rate, and saturating"
            )]
            let accepted = lane.lock().rate.known_limit()?.round() as u32;
            Some(LearnedLane {
                bucket: bucket.to_owned(),
                class: self.class,
                prefix: lane.prefix.clone(),
                accepted,
            })
        });
        learned.collect()
    }

    /// Restores the lanes that an earlier session learned.
    pub(super) fn recall<'a>(&self, lanes: impl Iterator<Item = &'a LearnedLane>, now: Duration) {
        let start = self.start;
        let known = |lane: &LearnedLane| {
            Lane::new(
                &lane.prefix,
                RateController::known(start, f64::from(lane.accepted) * CAUTION, now),
                now,
            )
        };
        let lanes: Vec<_> = lanes.take(MAX_LANES + 1).map(known).collect();
        if !lanes.is_empty() {
            self.replace(&lanes, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn lanes() -> Arc<Lanes> {
        let outage = Arc::new(Outage::new((MS, MS)));
        Arc::new(Lanes::new(RequestClass::Write, 1, outage, Duration::ZERO))
    }

    fn prefixes(lanes: &Lanes) -> Vec<String> {
        lanes
            .table
            .load()
            .branches
            .iter()
            .map(|lane| lane.prefix.clone())
            .collect()
    }

    /// Sends requests for `key` one after another for `time`. One of every `keep` requests is
    /// accepted.
    async fn send(
        lanes: Arc<Lanes>,
        key: &'static str,
        keep: Option<u32>,
        began: Instant,
        time: Duration,
    ) -> u32 {
        let mut sent = 0;
        while began.elapsed() < time {
            let passed = lanes.pass(key, || began.elapsed()).await;
            let sent_at = began.elapsed();
            sleep(MS).await;
            sent += 1;
            if keep.is_some_and(|keep| sent % keep != 0) {
                lanes.throttled(&passed, key, sent_at, began.elapsed());
            } else {
                Lanes::accepted(&passed, key, sent_at, began.elapsed());
            }
        }
        sent
    }

    #[tokio::test(start_paused = true)]
    async fn a_hot_prefix_gets_a_lane_of_its_own_and_the_others_are_not_slowed() {
        let (lanes, began, time) = (lanes(), Instant::now(), Duration::from_secs(4));
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            tasks.spawn(send(Arc::clone(&lanes), "hot/x", Some(4), began, time));
        }
        let cold = tokio::spawn(send(Arc::clone(&lanes), "cold/x", None, began, time));
        while tasks.join_next().await.is_some() {}
        assert_eq!(prefixes(&lanes), ["hot/"]);
        let now = began.elapsed();
        assert_eq!(lanes.of("cold/x").lock().rate.limit(), None);
        assert!(lanes.of("cold/x").lock().rate.rate(now) >= 3500.0);
        assert!(lanes.of("hot/y").lock().rate.rate(now) < 1000.0);
        assert!(
            cold.await.unwrap() > 1500,
            "one at a time with two milliseconds each"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_in_which_everything_is_refused_is_not_split_and_sends_few_requests() {
        let (lanes, began, time) = (lanes(), Instant::now(), Duration::from_secs(20));
        let mut tasks = JoinSet::new();
        for index in 0..60 {
            let key: &str = Box::leak(format!("hot/{index:02}/x").into_boxed_str());
            tasks.spawn(send(Arc::clone(&lanes), key, Some(u32::MAX), began, time));
        }
        let cold = tokio::spawn(send(Arc::clone(&lanes), "cold/x", None, began, time));
        sleep(time / 2).await;
        assert_eq!(
            (prefixes(&lanes), lanes.shut()),
            (vec!["hot/".to_owned()], vec!["hot/".to_owned()])
        );
        assert!(lanes.is_shut("hot/x") && !lanes.is_shut("cold/x"));
        let before = lanes.of("hot/x").lock().streak;
        sleep(time / 2).await;
        assert_eq!(
            prefixes(&lanes),
            ["hot/"],
            "nothing else is throttled alone"
        );
        let sent = lanes.of("hot/x").lock().streak - before;
        assert!((5..100).contains(&sent), "{sent} requests in ten seconds");
        tasks.abort_all();
        assert!(cold.await.unwrap() > 5000, "two milliseconds each");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_wait_in_a_replaced_lane_queue_in_the_new_one() {
        let (lanes, began) = (lanes(), Instant::now());
        let slow = |prefix: &str| LearnedLane {
            bucket: String::new(),
            class: RequestClass::Write,
            prefix: prefix.to_owned(),
            accepted: 2,
        };
        lanes.recall([slow("")].iter(), Duration::ZERO);
        let mut tasks = JoinSet::new();
        for _ in 0..100 {
            let lanes = Arc::clone(&lanes);
            tasks.spawn(async move { lanes.pass("a", || began.elapsed()).await.waited });
        }
        sleep(MS * 100).await;
        lanes.replace(
            &[Lane::new("", RateController::new(1000.0), began.elapsed())],
            began.elapsed(),
        );
        let mut waited = 0;
        while let Some(task) = tasks.join_next().await {
            waited += u32::from(task.unwrap());
        }
        assert!(
            waited >= 98 && began.elapsed() < Duration::from_secs(1),
            "{waited}, {:?}",
            began.elapsed()
        );
    }

    #[test]
    fn the_longest_prefix_counts_and_lanes_are_few() {
        let lanes = lanes();
        let hot = |prefix: String| HotPrefix {
            prefix,
            accepted: 10.0,
        };
        let root = Arc::clone(&lanes.table.load().root);
        lanes.split(&root, &[hot("a/".into()), hot("a/b/".into())], MS);
        assert_eq!(lanes.of("a/b/c").prefix, "a/b/");
        assert_eq!(lanes.of("a/c").prefix, "a/");
        assert_eq!(lanes.of("a").prefix, "");
        for round in 1..200u32 {
            lanes.split(&root, &[hot(format!("p{round}/"))], MS * (round + 1));
        }
        assert_eq!(prefixes(&lanes).len(), MAX_LANES);
        assert_eq!(lanes.of("p199/x").prefix, "p199/", "the latest is there");
        assert_eq!(lanes.of("a/b/c").prefix, "", "the first is not");
        lanes.split(&root, &[hot("late/".into())], Duration::from_hours(1));
        assert_eq!(prefixes(&lanes), ["late/"]);
    }
}
