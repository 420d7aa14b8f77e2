//! A limit that the user set: cells pass at its rate and never faster.
//!
//! A [`Meter`] does the counting. Whoever has to wait sleeps until its turn and looks again, because each has a place of its
//! own in the line and nobody is woken by the one before it: two thousand waiting requests are two thousand timers that
//! fire once each. The clock is tokio's, so that tests can pause it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::meter::Meter;

/// The longest sleep before the rate is looked at again, where it can change.
pub(super) const NAP: Duration = Duration::from_millis(250);

/// Lets cells pass at a rate.
#[derive(Debug)]
pub struct Gate {
    began: Instant,
    meter: Option<Mutex<Meter>>,
}

impl Gate {
    /// A gate with this many cells per second, or an open one.
    #[must_use]
    pub fn limited(rate: Option<f64>) -> Self {
        let meter = rate.map(|rate| Mutex::new(Meter::new(rate, Duration::ZERO)));
        Self { began: Instant::now(), meter }
    }

    /// Waits, first come first served, until `cells` may pass; a request of many cells waits as long as all of them take.
    /// Returns whether it had to wait.
    pub async fn pass(&self, cells: f64) -> bool {
        let Some(meter) = &self.meter else { return false };
        let (mut ticket, mut waited) = (None, false);
        loop {
            let wait = {
                let mut meter = meter.lock().unwrap_or_else(PoisonError::into_inner);
                let now = self.began.elapsed();
                let ticket = *ticket.get_or_insert_with(|| meter.draw(cells, now));
                meter.wait(ticket, now)
            };
            let Some(wait) = wait else { return waited };
            waited = true;
            sleep(wait).await;
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers of a model")]
mod tests {
    use super::*;

    async fn passes(gate: &Gate, cells: f64, times: u32) -> f64 {
        let began = Instant::now();
        for _ in 0..times {
            gate.pass(cells).await;
        }
        began.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_kept_and_used() {
        for rate in [5.0, 300.0, 3500.0, 20_000.0] {
            let seconds = passes(&Gate::limited(Some(rate)), 1.0, rate as u32 * 4).await;
            assert!((3.79..=4.2).contains(&seconds), "{rate}/s took {seconds} s for four seconds' worth");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_wait_for_all_their_cells() {
        let gate = Gate::limited(Some(100.0));
        let seconds = passes(&gate, 1000.0, 1).await;
        assert!((9.9..=10.1).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_let_through_at_the_rate_and_an_open_gate_costs_no_time() {
        let gate = std::sync::Arc::new(Gate::limited(Some(1000.0)));
        let (began, mut crowd) = (Instant::now(), tokio::task::JoinSet::new());
        for _ in 0..2000 {
            let gate = std::sync::Arc::clone(&gate);
            crowd.spawn(async move { gate.pass(1.0).await });
        }
        crowd.join_all().await;
        let seconds = began.elapsed().as_secs_f64();
        assert!((1.95..=2.0).contains(&seconds), "{seconds}");
        assert!(passes(&Gate::limited(None), 1.0, 10_000).await < 0.001);
    }
}
