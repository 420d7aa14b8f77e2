//! A limit that the user set. Waiting requests pass at its rate. A charge passes at once and delays
//! later requests instead.
//!
//! A limiter of the `governor` crate counts the cells (GCRA, with bursts of at most [`BURST`]). A
//! queue around it lets two thousand waiting requests share one timer instead of racing with two
//! thousand, and a clock on tokio's time lets tests pause it. A governor quota is immutable, which
//! suits a user's fixed limit. Learned rates change with every response, and each change would
//! allow another burst, so they use a [meter](super::meter) instead.
//!
//! A request that must not wait is charged: a separate task takes its cells. The task takes turns
//! with the waiting requests, so a charge is paid by idle time and by delaying later requests.

use std::future::{Future, pending};
use std::num::NonZeroU32;
use std::ops::Add;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::Mutex;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

/// The longest sleep before a rate that can change is read again.
pub(super) const NAP: Duration = Duration::from_millis(250);
/// A limiter may pass the cells of this time at once. Timers tick in milliseconds, so without a
/// burst no rate above one cell per tick could be reached.
const BURST: Duration = Duration::from_millis(20);

/// Lets cells pass at a rate, or at once if there is no limit.
#[derive(Debug)]
pub struct Gate(Option<Arc<Limiter>>);

/// The cells of a request that did not wait for them. Dropping the charge forgives the cells that
/// are not paid yet.
#[derive(Debug)]
#[must_use = "a charge that is dropped is not paid"]
pub struct Charge(AbortOnDropHandle<()>);

impl Charge {
    /// Lets all cells be paid.
    pub fn keep(self) {
        drop(self.0.detach());
    }
}

#[derive(Debug)]
struct Limiter {
    burst: NonZeroU32,
    inner: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<ClockNanos>>,
    queue: Mutex<()>,
    /// Held for one slice of cells. The first request in the queue, requests ahead of the queue,
    /// and charges take turns.
    turn: Mutex<()>,
}

impl Limiter {
    fn new(rate: f64) -> Option<Self> {
        let period = Duration::try_from_secs_f64(1.0 / rate)
            .ok()
            .filter(|period| !period.is_zero())?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded by the clamp"
        )]
        let burst = NonZeroU32::new((rate * BURST.as_secs_f64()).clamp(1.0, 1e9) as u32)?;
        let quota = Quota::with_period(period)?.allow_burst(burst);
        let inner = RateLimiter::direct_with_clock(
            quota,
            TokioClock {
                start: Instant::now(),
            },
        );
        Some(Self {
            burst,
            inner,
            queue: Mutex::default(),
            turn: Mutex::default(),
        })
    }
}

impl Limiter {
    /// Waits until `cells` have passed. Returns true if it waited.
    async fn take(&self, cells: u64) -> bool {
        let (mut left, mut waited) = (cells, false);
        while left > 0 {
            let slice = NonZeroU32::new(u32::try_from(left).unwrap_or(u32::MAX))
                .map_or(self.burst, |left| left.min(self.burst));
            let _turn = if let Ok(turn) = self.turn.try_lock() {
                turn
            } else {
                waited = true;
                self.turn.lock().await
            };
            loop {
                match self.inner.check_n(slice) {
                    Ok(Ok(())) => break,
                    Ok(Err(not_until)) => {
                        waited = true;
                        sleep(not_until.wait_time_from(self.inner.clock().now())).await;
                    }
                    // A slice is never larger than the burst, so it can always pass.
                    Err(_) => return waited,
                }
            }
            left = left.saturating_sub(u64::from(slice.get()));
        }
        waited
    }
}

impl Gate {
    /// Creates a gate that passes this many cells per second, or an open gate for `None`.
    #[must_use]
    pub fn new(rate: Option<f64>) -> Self {
        Self(rate.and_then(Limiter::new).map(Arc::new))
    }

    /// Waits, first come first served, until `cells` may pass. A request for more cells than the
    /// burst takes them in slices, so it waits as long as its cells take. A request for no cells
    /// does not wait. Returns true if the request waited.
    pub async fn pass(&self, cells: u64) -> bool {
        let Some(limiter) = self.0.as_ref().filter(|_| cells > 0) else {
            return false;
        };
        let _first = limiter.queue.lock().await;
        limiter.take(cells).await
    }

    /// Waits until `cells` may pass, but not behind the requests in the queue.
    pub async fn pass_ahead(&self, cells: u64) {
        if let Some(limiter) = &self.0 {
            limiter.take(cells).await;
        }
    }

    /// Lets `cells` pass at once. Until the charge is paid, waiting requests share the rate with
    /// it. Returns `None` if there is no limit.
    #[must_use = "a charge that is dropped is not paid"]
    pub fn charge(&self, cells: u64) -> Option<Charge> {
        let limiter = Arc::clone(self.0.as_ref()?);
        let paid = tokio::spawn(async move { _ = limiter.take(cells).await });
        Some(Charge(AbortOnDropHandle::new(paid)))
    }
}

/// Runs a request in a task, so that it continues while its future is not polled. A request that
/// holds a limit's queue and is not polled would block all requests behind it, even requests that
/// its own caller waits for.
pub(crate) fn spawn_and_join<T: Send + 'static>(
    request: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> {
    joined(AbortOnDropHandle::new(tokio::spawn(request)))
}

/// Waits for the result of a task. A panic of the task continues in the caller, so that a lost
/// result is not mistaken for an empty one.
pub(crate) async fn joined<T>(task: impl Future<Output = Result<T, JoinError>>) -> T {
    match task.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Only the end of the runtime cancels the task.
            Err(_) => pending().await,
        },
    }
}

/// A clock that stands still when tokio's time is paused.
#[derive(Clone, Debug)]
struct TokioClock {
    start: Instant,
}

/// Nanoseconds since the clock's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ClockNanos(u64);

impl Add<Nanos> for ClockNanos {
    type Output = Self;

    fn add(self, nanos: Nanos) -> Self {
        Self(self.0.saturating_add(nanos.as_u64()))
    }
}

impl Reference for ClockNanos {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_sub(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.saturating_sub(duration.as_u64()))
    }
}

impl Clock for TokioClock {
    type Instant = ClockNanos;

    fn now(&self) -> ClockNanos {
        ClockNanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small numbers of a model"
)]
mod tests {
    use super::*;

    async fn passes(gate: &Gate, cells: u64, times: u32) -> f64 {
        let began = Instant::now();
        for _ in 0..times {
            gate.pass(cells).await;
        }
        began.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_kept_and_used() {
        for rate in [5.0, 300.0, 3500.0, 20_000.0] {
            let seconds = passes(&Gate::new(Some(rate)), 1, rate as u32 * 4).await;
            assert!(
                (3.79..=4.2).contains(&seconds),
                "{rate}/s took {seconds} s for four seconds' worth"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_wait_for_all_their_cells() {
        let gate = Gate::new(Some(100.0));
        let seconds = passes(&gate, 1000, 1).await;
        assert!((9.9..=10.1).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_let_through_at_the_rate_and_an_open_gate_costs_no_time() {
        let gate = std::sync::Arc::new(Gate::new(Some(1000.0)));
        let (began, mut crowd) = (Instant::now(), tokio::task::JoinSet::new());
        for _ in 0..2000 {
            let gate = std::sync::Arc::clone(&gate);
            crowd.spawn(async move { gate.pass(1).await });
        }
        crowd.join_all().await;
        let seconds = began.elapsed().as_secs_f64();
        assert!((1.95..=2.1).contains(&seconds), "{seconds}");
        assert!(passes(&Gate::new(None), 1, 10_000).await < 0.001);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_ahead_of_the_queue_keep_the_limit() {
        let gate = std::sync::Arc::new(Gate::new(Some(10.0)));
        let (began, mut queue) = (Instant::now(), tokio::task::JoinSet::new());
        for _ in 0..40 {
            let gate = std::sync::Arc::clone(&gate);
            queue.spawn(async move { gate.pass(1).await });
        }
        for _ in 0..5 {
            gate.pass_ahead(1).await;
        }
        let seconds = began.elapsed().as_secs_f64();
        assert!((0.3..=2.0).contains(&seconds), "ahead of 40: {seconds}");
        queue.join_all().await;
        let seconds = began.elapsed().as_secs_f64();
        assert!((4.3..=4.6).contains(&seconds), "45 cells: {seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_charge_is_paid_by_the_next_requests_or_by_idle_time() {
        let gate = Gate::new(Some(10.0));
        let began = Instant::now();
        gate.charge(20).unwrap().keep();
        assert_eq!(began.elapsed(), Duration::ZERO);
        // Requests that give up waiting do not cancel the charge.
        for _ in 0..3 {
            let pass = tokio::time::timeout(Duration::from_millis(10), gate.pass(9));
            assert!(pass.await.is_err());
        }
        passes(&gate, 1, 20).await;
        let seconds = began.elapsed().as_secs_f64();
        assert!((3.7..=4.5).contains(&seconds), "40 cells: {seconds}");
        gate.charge(50).unwrap().keep();
        sleep(Duration::from_secs(6)).await;
        assert!(!gate.pass(1).await, "idle time has paid");
    }

    #[tokio::test(start_paused = true)]
    async fn a_charge_that_is_dropped_is_not_paid() {
        let gate = Gate::new(Some(10.0));
        drop(gate.charge(50));
        let charge = gate.charge(50);
        sleep(Duration::from_secs(1)).await;
        drop(charge);
        let seconds = passes(&gate, 1, 11).await;
        assert!((0.9..=1.2).contains(&seconds), "{seconds}");
    }
}
