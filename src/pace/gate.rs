//! A rate limit whose rate can change while requests wait at it.
//!
//! A governor limiter does the counting (GCRA: no bursts beyond its own). Around it: a queue, so that two thousand
//! waiting requests are one timer and not two thousand racing ones; naps of at most a quarter of a second, so that a raised
//! rate is felt at once; and a clock on tokio's time, so that tests can pause it. A quota of governor's is fixed,
//! therefore a new rate is a new limiter, swapped in when it differs by more than two percent.

use std::num::NonZeroU32;
use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// The longest nap before the rate is looked at again.
const NAP: Duration = Duration::from_millis(250);
/// A limiter may give out this much at once. Timers tick in milliseconds; without some burst a rate above one per tick could not
/// be reached.
const BURST: Duration = Duration::from_millis(20);
/// Rates that differ by less are the same rate.
const SAME: f64 = 0.02;

/// Lets cells pass at a rate.
#[derive(Debug)]
pub struct Gate {
    limiter: ArcSwapOption<Limiter>,
    queue: Mutex<()>,
}

#[derive(Debug)]
struct Limiter {
    rate: f64,
    burst: NonZeroU32,
    inner: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Moment>>,
}

impl Limiter {
    fn new(rate: f64) -> Option<Self> {
        let period = Duration::try_from_secs_f64(1.0 / rate).ok().filter(|period| !period.is_zero())?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the clamp")]
        let burst = NonZeroU32::new((rate * BURST.as_secs_f64()).clamp(1.0, 1e9) as u32)?;
        let quota = Quota::with_period(period)?.allow_burst(burst);
        let inner = RateLimiter::direct_with_clock(quota, TokioClock { start: Instant::now() });
        Some(Self { rate, burst, inner })
    }
}

impl Gate {
    /// A gate with this many cells per second, or an open one.
    #[must_use]
    pub fn limited(rate: Option<f64>) -> Self {
        let limiter = rate.and_then(Limiter::new).map(Arc::new);
        Self { limiter: ArcSwapOption::new(limiter), queue: Mutex::new(()) }
    }

    /// Changes the rate; `None` opens the gate.
    pub fn set(&self, rate: Option<f64>) {
        let current = self.limiter.load();
        let same = match (&*current, rate) {
            (None, None) => true,
            (Some(limiter), Some(rate)) => (rate / limiter.rate - 1.0).abs() < SAME,
            _ => false,
        };
        if !same {
            self.limiter.store(rate.and_then(Limiter::new).map(Arc::new));
        }
    }

    /// Waits, first come first served, until `cells` may pass. A request of more cells than the burst takes them in
    /// slices, so that it waits as long as its cells take.
    pub async fn pass(&self, cells: u64) {
        if self.limiter.load().is_none() {
            return;
        }
        let _turn = self.queue.lock().await;
        let mut left = cells;
        while left > 0 {
            let Some(limiter) = self.limiter.load_full() else { return };
            let slice = NonZeroU32::new(u32::try_from(left).unwrap_or(u32::MAX))
                .map_or(limiter.burst, |left| left.min(limiter.burst));
            match limiter.inner.check_n(slice) {
                Ok(Ok(())) => left -= u64::from(slice.get()),
                Ok(Err(not_until)) => {
                    sleep(not_until.wait_time_from(limiter.inner.clock().now()).min(NAP)).await;
                }
                // A slice is never larger than the burst, so there is nothing that could not pass.
                Err(_) => left = 0,
            }
        }
    }
}

/// A clock that stands still when tokio's time is paused.
#[derive(Clone, Debug)]
struct TokioClock {
    start: Instant,
}

/// Nanoseconds since the clock's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(u64);

impl Add<Nanos> for Moment {
    type Output = Self;

    fn add(self, nanos: Nanos) -> Self {
        Self(self.0.saturating_add(nanos.as_u64()))
    }
}

impl Reference for Moment {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_sub(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.saturating_sub(duration.as_u64()))
    }
}

impl Clock for TokioClock {
    type Instant = Moment;

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers of a model")]
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
            assert!((3.79..=4.2).contains(&seconds), "{rate}/s took {seconds} s for four seconds' worth");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_wait_for_all_their_cells() {
        let gate = Gate::limited(Some(100.0));
        let seconds = passes(&gate, 1000, 1).await;
        assert!((9.9..=10.1).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_is_felt_by_those_who_wait() {
        let gate = Arc::new(Gate::limited(Some(0.01)));
        gate.pass(1).await;
        let began = Instant::now();
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.pass(1).await }
        });
        sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        gate.set(Some(50.0));
        waiting.await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(1600), "{:?}", began.elapsed());
        gate.set(None);
        assert!(passes(&gate, 1, 10_000).await < 0.001, "an open gate costs no time");
    }
}
