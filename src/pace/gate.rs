//! A limit that the user set. Cells pass at its rate and never faster.
//!
//! A limiter of the `governor` crate counts the cells (GCRA, which allows no burst beyond its own).
//! A queue around it lets two thousand waiting requests share one timer instead of racing with two
//! thousand, and a clock on tokio's time lets tests pause it. A quota of governor cannot change,
//! and neither does a user's limit. Learned rates change with every answer, and each change would
//! give out governor's burst again, so they have a [meter](super::meter) instead.

use std::future::{Future, pending};
use std::num::NonZeroU32;
use std::ops::Add;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
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
/// A limiter may give out the cells of this time at once. Timers tick in milliseconds, so without a
/// burst no rate above one cell per tick could be reached.
const BURST: Duration = Duration::from_millis(20);

/// Lets cells pass at a rate, or at once if there is no limit.
#[derive(Debug)]
pub struct Gate(Option<Limiter>);

/// The cells of requests that did not wait for them. Requests that wait pay for them.
type Debt = AtomicU64;

#[derive(Debug)]
struct Limiter {
    burst: NonZeroU32,
    inner: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<ClockNanos>>,
    queue: Mutex<()>,
    debt: Debt,
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
            debt: Debt::default(),
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
            match self.inner.check_n(slice) {
                Ok(Ok(())) => left -= u64::from(slice.get()),
                Ok(Err(not_until)) => {
                    waited = true;
                    sleep(not_until.wait_time_from(self.inner.clock().now())).await;
                }
                // A slice is never larger than the burst, so it can always pass.
                Err(_) => left = 0,
            }
        }
        waited
    }
}

impl Gate {
    /// Returns a gate with this many cells per second, or an open one.
    #[must_use]
    pub fn limited(rate: Option<f64>) -> Self {
        Self(rate.and_then(Limiter::new))
    }

    /// Waits, first come first served, until `cells` may pass. A request for more cells than the
    /// burst takes them in slices, so it waits as long as its cells take. A request for no cells
    /// does not wait. Returns true if the request waited.
    pub async fn pass(&self, cells: u64) -> bool {
        let Some(limiter) = self.0.as_ref().filter(|_| cells > 0) else {
            return false;
        };
        let _turn = limiter.queue.lock().await;
        let debt = limiter.debt.swap(0, Ordering::Relaxed);
        limiter.take(cells.saturating_add(debt)).await
    }

    /// Waits until `cells` may pass, but not behind the requests in the queue.
    pub async fn pass_ahead(&self, cells: u64) {
        if let Some(limiter) = &self.0 {
            limiter.take(cells).await;
        }
    }

    /// Lets `cells` pass at once. The requests after them wait for these cells too.
    pub fn pass_on_credit(&self, cells: u64) {
        if let Some(limiter) = &self.0 {
            limiter.debt.fetch_add(cells, Ordering::Relaxed);
        }
    }
}

/// Runs a request in a task, so that it continues while its future is not polled. A request that
/// holds a limit's queue and is not polled would block all requests behind it, even those that its
/// own caller waits for.
pub(crate) fn by_itself<T: Send + 'static>(
    request: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> {
    joined(AbortOnDropHandle::new(tokio::spawn(request)))
}

/// Waits for the result of a task. A panic of the task continues here, so that its lost result is
/// not mistaken for an empty one.
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
            let seconds = passes(&Gate::limited(Some(rate)), 1, rate as u32 * 4).await;
            assert!(
                (3.79..=4.2).contains(&seconds),
                "{rate}/s took {seconds} s for four seconds' worth"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_wait_for_all_their_cells() {
        let gate = Gate::limited(Some(100.0));
        let seconds = passes(&gate, 1000, 1).await;
        assert!((9.9..=10.1).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_let_through_at_the_rate_and_an_open_gate_costs_no_time() {
        let gate = std::sync::Arc::new(Gate::limited(Some(1000.0)));
        let (began, mut crowd) = (Instant::now(), tokio::task::JoinSet::new());
        for _ in 0..2000 {
            let gate = std::sync::Arc::clone(&gate);
            crowd.spawn(async move { gate.pass(1).await });
        }
        crowd.join_all().await;
        let seconds = began.elapsed().as_secs_f64();
        assert!((1.95..=2.1).contains(&seconds), "{seconds}");
        assert!(passes(&Gate::limited(None), 1, 10_000).await < 0.001);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_ahead_of_the_queue_and_on_credit_keep_the_limit() {
        let gate = std::sync::Arc::new(Gate::limited(Some(10.0)));
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
        let began = Instant::now();
        gate.pass_on_credit(50);
        assert_eq!(began.elapsed(), Duration::ZERO);
        gate.pass(1).await;
        let seconds = began.elapsed().as_secs_f64();
        assert!((5.0..=5.2).contains(&seconds), "51 cells: {seconds}");
    }
}
