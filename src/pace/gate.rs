//! A limit that the user set. Cells pass at its rate and never faster.
//!
//! A [`Meter`] counts the cells. Requests wait in a queue, and only the first one draws cells, a
//! few at a time, so two thousand waiting requests share one timer. A request that must not wait is
//! charged at once: the next requests wait until the rate has earned its cells, and idle time earns
//! them too. A charge is undone if nothing was sent.

use std::future::{Future, pending};
use std::panic::resume_unwind;
use std::sync::{self, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::meter::{Meter, Ticket, burst};

/// The longest sleep before a rate or charge that can change is read again.
pub(super) const NAP: Duration = Duration::from_millis(250);

/// Lets cells pass at a rate, or at once if there is no limit.
#[derive(Debug)]
pub struct Gate(Option<Limiter>);

/// The cells of a request that did not wait for them.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    ticket: Ticket,
    cells: f64,
}

#[derive(Debug)]
struct Limiter {
    /// The most cells that are drawn at once.
    slice: f64,
    meter: sync::Mutex<Meter>,
    started: Instant,
    queue: Mutex<()>,
}

impl Limiter {
    fn new(rate: f64) -> Self {
        Self {
            slice: burst(rate),
            meter: sync::Mutex::new(Meter::new(rate, Duration::ZERO)),
            started: Instant::now(),
            queue: Mutex::default(),
        }
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `cells` have passed. Returns true if it waited.
    async fn take(&self, cells: u64) -> bool {
        let (mut left, mut waited) = (to_float(cells), false);
        while left > 0.0 {
            let slice = left.min(self.slice);
            let wait = self.meter().draw_now(slice, self.started.elapsed()).err();
            match wait {
                None => left -= slice,
                Some(wait) => {
                    waited = true;
                    sleep(wait.min(NAP)).await;
                }
            }
        }
        waited
    }
}

impl Gate {
    /// Returns a gate with this many cells per second, or an open one.
    #[must_use]
    pub fn limited(rate: Option<f64>) -> Self {
        let is_limit = |rate: &f64| rate.is_finite() && *rate > 0.0;
        Self(rate.filter(is_limit).map(Limiter::new))
    }

    /// Waits, first come first served, until `cells` may pass. A request for more cells than the
    /// burst takes them in slices, so it waits as long as its cells take. A request for no cells
    /// does not wait. Returns true if the request waited.
    pub async fn pass(&self, cells: u64) -> bool {
        let Some(limiter) = self.0.as_ref().filter(|_| cells > 0) else {
            return false;
        };
        let _turn = limiter.queue.lock().await;
        limiter.take(cells).await
    }

    /// Waits until `cells` may pass, ahead of the requests in the queue.
    pub async fn pass_ahead(&self, cells: u64) {
        let (Some(limiter), Some(charge)) = (&self.0, self.charge(cells)) else {
            return;
        };
        loop {
            let now = limiter.started.elapsed();
            let wait = limiter.meter().wait(charge.ticket, now);
            let Some(wait) = wait else { return };
            sleep(wait.min(NAP)).await;
        }
    }

    /// Lets `cells` pass at once. The requests in the queue wait for these cells too. Returns
    /// `None` if there is no limit.
    pub fn charge(&self, cells: u64) -> Option<Charge> {
        let limiter = self.0.as_ref()?;
        let cells = to_float(cells);
        let ticket = limiter.meter().draw(cells, limiter.started.elapsed());
        Some(Charge { ticket, cells })
    }

    /// Takes back the cells of a charge that are not earned yet.
    pub fn refund(&self, Charge { ticket, cells }: Charge) {
        if let Some(limiter) = &self.0 {
            let now = limiter.started.elapsed();
            limiter.meter().give_back_unearned(ticket, cells, now);
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no request has more than 2^53 cells"
)]
fn to_float(cells: u64) -> f64 {
    cells as f64
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
    }

    #[tokio::test(start_paused = true)]
    async fn a_charge_is_paid_by_idle_time_or_by_the_next_requests() {
        let gate = Gate::limited(Some(10.0));
        let began = Instant::now();
        gate.charge(50);
        assert_eq!(began.elapsed(), Duration::ZERO);
        // Those who give up waiting do not take the charge along.
        for _ in 0..3 {
            let pass = tokio::time::timeout(Duration::from_secs(1), gate.pass(1));
            assert!(pass.await.is_err());
        }
        gate.pass(1).await;
        let seconds = began.elapsed().as_secs_f64();
        assert!((4.9..=5.2).contains(&seconds), "51 cells: {seconds}");
        gate.charge(50);
        sleep(Duration::from_secs(6)).await;
        assert!(!gate.pass(1).await, "idle time has paid");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refund_returns_what_is_not_paid_and_no_burst() {
        let gate = Gate::limited(Some(10.0));
        let charges = [gate.charge(50), gate.charge(50)].map(Option::unwrap);
        let began = Instant::now();
        gate.refund(charges[1]);
        gate.pass(1).await;
        let seconds = began.elapsed().as_secs_f64();
        assert!((4.9..=5.3).contains(&seconds), "51 cells: {seconds}");
        sleep(Duration::from_secs(1)).await;
        gate.refund(charges[0]);
        let seconds = passes(&gate, 1, 11).await;
        assert!((0.9..=1.1).contains(&seconds), "{seconds}");
    }
}
