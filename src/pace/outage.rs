//! Holds requests back while an endpoint does not answer.
//!
//! A failed request is retried after a growing pause. If two thousand requests do so at once, their
//! retries hit the endpoint just as it comes back. So failures draw on a budget, and good responses
//! refill it. Once the budget is spent, the endpoint counts as down: one request at a time probes
//! it, and the first good response releases all others. Throttling does not draw on the budget,
//! because a server that answers `SlowDown` is up.
//!
//! [`Health`] makes the decisions and is pure. Requests wait in [`Outage`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::size::display_duration;

/// The failures in a row that spend the budget. A good response gives [`REFILL`] back, so a server
/// that fails once in five responses never spends it. A working server fails less often, and a
/// server in an outage far more often.
const BUDGET: f64 = 64.0;
/// The number of attempts of one request that draw on the budget. A few objects on which the server
/// always fails are not an outage.
const DRAWS: u32 = 3;
/// The fraction of one failure that a good response gives back.
const REFILL: f64 = 0.25;

/// The state of an endpoint, judged by its responses.
#[derive(Clone, Debug)]
pub struct Health {
    /// The shortest and the longest pause between probes.
    probes: (Duration, Duration),
    budget: f64,
    down: Option<Down>,
    /// The time of the last good response.
    last_good: Duration,
}

/// An outage. All times are since the run began.
#[derive(Clone, Copy, Debug)]
struct Down {
    since: Duration,
    /// The earliest time of the next probe.
    probe_at: Duration,
    /// True while a probe is under way.
    probing: bool,
    failed_probes: u32,
}

/// The decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The request is sent.
    Go,
    /// The request is sent as a probe, which finds out whether the endpoint is back.
    Probe,
    /// The request waits for the first duration, or until the endpoint is back. The second duration
    /// is how long the endpoint has been down.
    Wait(Duration, Duration),
}

impl Health {
    /// Creates the health of an endpoint that counts as up.
    #[must_use]
    pub const fn new(probes: (Duration, Duration)) -> Self {
        Self {
            probes,
            budget: BUDGET,
            down: None,
            last_good: Duration::ZERO,
        }
    }

    /// Returns how long the endpoint has been down at `now`; `None` while it is up.
    #[must_use]
    pub fn down_for(&self, now: Duration) -> Option<Duration> {
        self.down.map(|down| now.saturating_sub(down.since))
    }

    /// Decides whether a request may be sent at `now`.
    pub fn admit(&mut self, now: Duration) -> Admission {
        let Some(down) = &mut self.down else {
            return Admission::Go;
        };
        if !down.probing && now >= down.probe_at {
            down.probing = true;
            return Admission::Probe;
        }
        // A good response to the probe that is under way ends the wait early.
        let wait = if down.probing {
            self.probes.1
        } else {
            down.probe_at.saturating_sub(now)
        };
        Admission::Wait(
            wait.max(Duration::from_millis(1)),
            now.saturating_sub(down.since),
        )
    }

    /// Records a response of the server. Returns true if that ends an outage.
    pub fn good(&mut self, now: Duration) -> bool {
        self.last_good = now;
        self.budget = (self.budget + REFILL).min(BUDGET);
        self.down.take().is_some()
    }

    /// Records a failure of the server or the network, which have been silent since the time
    /// `since`. `chance` is uniform in `0..1`. Returns true if that begins an outage.
    pub fn bad(&mut self, now: Duration, since: Duration, was_probe: bool, chance: f64) -> bool {
        if let Some(down) = &mut self.down {
            // Any other request was in flight when the outage began, and shows nothing new.
            if was_probe {
                down.probing = false;
                down.failed_probes += 1;
                down.probe_at = now + pause(self.probes, down.failed_probes, chance);
            }
            return false;
        }
        self.budget -= 1.0;
        if self.budget > 0.0 {
            return false;
        }
        self.silent(now, since, chance)
    }

    /// Returns true if the endpoint answered any request after `since`.
    #[must_use]
    pub fn has_answered_after(&self, since: Duration) -> bool {
        self.last_good > since
    }

    /// Records that the endpoint has answered no request since the time `since`, even if some
    /// budget is left. Returns true if that begins an outage.
    pub fn silent(&mut self, now: Duration, since: Duration, chance: f64) -> bool {
        if self.down.is_some() {
            return false;
        }
        // One good response does not prove that the server is healthy. After it, half of the budget
        // is available.
        self.budget = BUDGET / 2.0;
        self.down = Some(Down {
            since: since.max(self.last_good).min(now),
            probe_at: now + pause(self.probes, 0, chance),
            probing: false,
            failed_probes: 0,
        });
        true
    }

    /// Records that the probe was given up before it was answered. Another request may probe.
    pub fn probe_lost(&mut self) {
        if let Some(down) = &mut self.down {
            down.probing = false;
        }
    }
}

/// Returns the pause before the next probe. Half of it is random.
fn pause((first, longest): (Duration, Duration), failed_probes: u32, chance: f64) -> Duration {
    let full = first
        .saturating_mul(1 << failed_probes.min(10))
        .min(longest);
    full.mul_f64(f64::midpoint(1.0, chance.clamp(0.0, 1.0)))
}

/// One endpoint's health, and the requests that wait for it.
#[derive(Debug)]
pub struct Outage {
    health: Mutex<Health>,
    /// The failure that began the outage, or the failure of the last probe.
    reason: Mutex<String>,
    /// Notified when an outage ends, or when a probe was given up.
    over: Notify,
}

/// The right to send one request. If a probe is dropped without a result, another request may
/// probe.
#[derive(Debug)]
pub struct Pass<'a> {
    outage: &'a Outage,
    is_probe: bool,
    /// The time that the request waited for the endpoint to come back.
    pub held: Duration,
    /// For a probe, the time that the endpoint has been down.
    pub down_for: Duration,
    /// The number of the request's attempt, from 1.
    pub attempt: u32,
}

/// The error of a request that waited for an endpoint that was down for longer than `patience`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutageTimeout {
    /// The time that the endpoint has been down.
    pub down_for: Duration,
    /// The failure of the last probe, or the one that began the outage.
    pub reason: String,
}

impl Outage {
    /// Creates an endpoint that counts as up; `probes` as in [`Health`].
    #[must_use]
    pub fn new(probes: (Duration, Duration)) -> Self {
        let health = Mutex::new(Health::new(probes));
        Self {
            health,
            reason: Mutex::default(),
            over: Notify::new(),
        }
    }

    /// Waits until a request may be sent. `clock` is the time since the run began.
    ///
    /// # Errors
    /// [`OutageTimeout`] if the endpoint has been down for `patience`.
    pub async fn pass(
        &self,
        patience: Duration,
        clock: impl Fn() -> Duration,
    ) -> Result<Pass<'_>, OutageTimeout> {
        let began = clock();
        loop {
            // The waiter is registered before `admit`, so that it does not miss an outage that ends
            // in between.
            let over = self.over.notified();
            let now = clock();
            let admission = self.health().admit(now);
            let (wait, down_for) = match admission {
                Admission::Wait(wait, down_for) => (wait, down_for),
                admission => {
                    let is_probe = admission == Admission::Probe;
                    let held = now.saturating_sub(began);
                    let down_for = self.health().down_for(now).unwrap_or_default();
                    return Ok(Pass {
                        outage: self,
                        is_probe,
                        held,
                        down_for,
                        attempt: 1,
                    });
                }
            };
            if down_for >= patience {
                return Err(OutageTimeout {
                    down_for,
                    reason: self.reason(),
                });
            }
            tokio::select! {
                () = over => {}
                () = sleep(wait.min(patience.saturating_sub(down_for))) => {}
            }
        }
    }

    /// Begins an outage because the endpoint does not even answer a request that every server
    /// answers. `reason` is its failure, and the endpoint has been down since the time `since`, or
    /// since its last response if that is later.
    pub fn begin(&self, now: Duration, since: Duration, reason: &str) {
        if self.health().silent(now, since, fastrand::f64()) {
            reason.clone_into(&mut self.reason.lock().unwrap_or_else(PoisonError::into_inner));
            tracing::warn!(name: "waiting", "the endpoint does not answer: waiting for it ({reason})");
        }
    }

    /// Returns true while the endpoint is down.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.health().down.is_some()
    }

    /// Returns how long the endpoint has been down at `now`, and why.
    #[must_use]
    pub fn state(&self, now: Duration) -> Option<(Duration, String)> {
        let down_for = self.health().down_for(now)?;
        Some((down_for, self.reason()))
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reason(&self) -> String {
        self.reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl<'a> Pass<'a> {
    /// Checks the endpoint again for a request that has waited for something else in the meantime.
    /// Waits again if the endpoint went down.
    ///
    /// # Errors
    /// [`OutageTimeout`] as in [`Outage::pass`].
    pub async fn renewed(
        self,
        patience: Duration,
        clock: impl Fn() -> Duration,
    ) -> Result<Self, OutageTimeout> {
        if self.is_probe || !self.outage.is_out() {
            return Ok(self);
        }
        let (outage, held): (&'a Outage, _) = (self.outage, self.held);
        drop(self);
        let mut pass = outage.pass(patience, clock).await?;
        pass.held += held;
        Ok(pass)
    }

    /// Returns true for the one request that is sent while the endpoint is down.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Reports a response, even if it is a refusal.
    pub fn answered(mut self, now: Duration) {
        self.is_probe = false;
        let down_for = self.outage.health().down_for(now);
        if self.outage.health().good(now) {
            let down_for = down_for.unwrap_or_default();
            tracing::warn!(
                name: "back",
                seconds = down_for.as_secs_f64(),
                "the endpoint answers again after {}",
                display_duration(down_for)
            );
            self.outage.over.notify_waiters();
        }
    }

    /// Reports that no connection could be opened since the time `since`, with the `reason`. An
    /// endpoint that answered other requests in the meantime is not down; it merely accepts no
    /// further connections.
    pub fn not_connected(self, now: Duration, since: Duration, reason: &str) {
        if !self.outage.health().has_answered_after(since) {
            self.failed(now, since, reason);
        }
    }

    /// Reports a failure of the server or the network, which have been silent since the time
    /// `since`.
    pub fn failed(mut self, now: Duration, since: Duration, reason: &str) {
        let was_probe = std::mem::take(&mut self.is_probe);
        if !was_probe && self.attempt > DRAWS {
            return;
        }
        let begins = self
            .outage
            .health()
            .bad(now, since, was_probe, fastrand::f64());
        if begins || was_probe {
            reason.clone_into(
                &mut self
                    .outage
                    .reason
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
        if begins {
            tracing::warn!(name: "waiting", "the endpoint does not answer: waiting for it ({reason})");
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.outage.health().probe_lost();
            self.outage.over.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PROBES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

    fn down_at(now: Duration) -> Health {
        let mut health = Health::new(PROBES);
        while !health.bad(now, now, false, 1.0) {}
        health
    }

    #[test]
    fn a_server_that_answers_most_of_the_time_is_up() {
        let mut health = Health::new(PROBES);
        for round in 0..10_000 {
            let now = SECOND * round;
            assert!(
                !health.bad(now, now, false, 0.5),
                "an outage after {round} rounds"
            );
            for _ in 0..5 {
                assert_eq!(health.admit(now), Admission::Go);
                health.good(now);
            }
        }
    }

    #[test]
    fn one_request_at_a_time_asks_whether_a_server_is_back() {
        let mut health = down_at(SECOND);
        assert!(
            matches!(health.admit(SECOND), Admission::Wait(..)),
            "not at once"
        );
        let later = SECOND * 2;
        assert_eq!(health.admit(later), Admission::Probe);
        assert!(
            matches!(health.admit(later), Admission::Wait(..)),
            "the others wait for its answer"
        );
        health.bad(later, later, true, 1.0);
        assert!(
            matches!(health.admit(later), Admission::Wait(..)),
            "then there is a pause"
        );
        assert_eq!(health.admit(later + SECOND), Admission::Probe);
        health.probe_lost();
        assert_eq!(
            health.admit(later + SECOND),
            Admission::Probe,
            "a lost probe is replaced"
        );
        assert_eq!(health.down_for(later + SECOND), Some(SECOND * 2));
        assert!(health.good(later + SECOND), "the outage ends");
        assert_eq!(health.admit(later + SECOND), Admission::Go);
    }

    proptest! {
        /// Checks that an endpoint sees only a handful of requests during an outage of any length.
        #[test]
        fn an_outage_is_not_a_storm(seconds in 1u32..900, chance in 0.0..1.0f64) {
            let mut health = down_at(Duration::ZERO);
            let mut probes = 0;
            for tenth in 0..seconds * 10 {
                let now = Duration::from_millis(100) * tenth;
                // Twenty requests ask at each step.
                for _ in 0..20 {
                    if health.admit(now) == Admission::Probe {
                        probes += 1;
                        health.bad(now, now, true, chance);
                    }
                }
            }
            prop_assert!(probes <= 6 + seconds / 7, "{probes} probes in {seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_waits_and_goes_on_with_the_first_good_answer() {
        let outage = Arc::new(Outage::new(PROBES));
        let began = Instant::now();
        let clock = move || began.elapsed();
        for _ in 0..=64 {
            outage
                .pass(SECOND, clock)
                .await
                .unwrap()
                .failed(clock(), clock(), "refused");
        }
        let patience = Duration::from_mins(15);
        let crowd: Vec<_> = (0..1000)
            .map(|_| {
                let outage = Arc::clone(&outage);
                tokio::spawn(async move {
                    loop {
                        let pass = outage.pass(patience, clock).await.unwrap();
                        if began.elapsed() >= Duration::from_mins(1) {
                            return pass.answered(clock());
                        }
                        pass.failed(clock(), clock(), "refused");
                    }
                })
            })
            .collect();
        sleep(Duration::from_secs(30)).await;
        assert_eq!(
            outage.state(clock()).map(|(_, reason)| reason).as_deref(),
            Some("refused")
        );
        for waiting in crowd {
            waiting.await.unwrap();
        }
        assert!(
            began.elapsed() < Duration::from_secs(80),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(outage.state(clock()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let outage = Outage::new(PROBES);
        let began = Instant::now();
        let clock = || began.elapsed();
        for _ in 0..=64 {
            outage
                .pass(SECOND, clock)
                .await
                .unwrap()
                .failed(clock(), clock(), "no route");
        }
        let timeout = loop {
            match outage.pass(Duration::from_mins(2), clock).await {
                Ok(pass) => pass.failed(clock(), clock(), "still no route"),
                Err(timeout) => break timeout,
            }
        };
        assert_eq!(timeout.reason, "still no route");
        assert!(
            began.elapsed() < Duration::from_mins(3),
            "{:?}",
            began.elapsed()
        );
    }
}
