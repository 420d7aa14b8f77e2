//! Counts the time during which this process ran.
//!
//! A stopped process (`SIGSTOP`, Ctrl-Z, a frozen container or virtual machine) receives no
//! responses. When it continues, its clocks suggest that the server was silent all that time. So
//! `patience` counts only the time that the process was awake. A thread reads the clock every
//! second, and so does each caller. If a reading is far too late, the process was suspended since
//! the previous one.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// The time between two readings of the clock.
const TICK: Duration = Duration::from_secs(1);
/// The longest delay of a reading on a busy machine. After a longer one, the process was suspended.
const LATE: Duration = Duration::from_secs(4);

/// A start point for measuring the time that this process was awake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AwakeInstant {
    at: Instant,
    /// The total time before `at` that the process is known to have been suspended.
    asleep: Duration,
}

impl AwakeInstant {
    /// Returns this moment.
    pub(crate) fn now() -> Self {
        Self::at(Instant::now())
    }

    /// Returns the moment `at`, which must be recent: sleep before this call is not subtracted.
    pub(crate) fn at(at: Instant) -> Self {
        Self {
            at,
            asleep: asleep(),
        }
    }

    /// Returns the moment that is `time` before this one.
    pub(crate) fn earlier_by(self, time: Duration) -> Self {
        let at = self.at.checked_sub(time).unwrap_or(self.at);
        Self { at, ..self }
    }

    /// Returns the time since this moment, less the time that this process did not run.
    pub(crate) fn elapsed(&self) -> Duration {
        self.until(Instant::now())
    }

    /// Returns the time from this moment to `now`, less the time that this process did not run.
    pub(crate) fn until(&self, now: Instant) -> Duration {
        let asleep = asleep().saturating_sub(self.asleep);
        now.saturating_duration_since(self.at)
            .saturating_sub(asleep)
    }
}

/// The state of the clock readings. Callers pass in the time, so tests need no clock.
#[derive(Debug)]
struct Readings {
    last: std::time::Instant,
    asleep: Duration,
}

impl Readings {
    fn read(&mut self, now: std::time::Instant) -> Duration {
        let gap = now.saturating_duration_since(self.last);
        self.last = now;
        if gap > TICK + LATE {
            self.asleep += gap.saturating_sub(TICK);
        }
        self.asleep
    }
}

/// The readings of this process; `None` if the thread could not be started.
static READINGS: OnceLock<Option<Mutex<Readings>>> = OnceLock::new();

/// Returns how long this process is known to have been suspended since the first call.
fn asleep() -> Duration {
    let readings = READINGS.get_or_init(|| {
        let thread = thread::Builder::new().name("s3haul-awake".to_owned());
        let started = thread.spawn(|| {
            loop {
                thread::sleep(TICK);
                asleep();
            }
        });
        let readings = Readings {
            last: std::time::Instant::now(),
            asleep: Duration::ZERO,
        };
        // Without the thread, every pause between two calls would count as sleep.
        started.is_ok().then(|| Mutex::new(readings))
    });
    readings.as_ref().map_or(Duration::ZERO, |readings| {
        let mut readings = readings.lock().unwrap_or_else(PoisonError::into_inner);
        readings.read(std::time::Instant::now())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readings_that_are_far_too_late_show_sleep() {
        let (start, second) = (std::time::Instant::now(), TICK);
        let mut readings = Readings {
            last: start,
            asleep: Duration::ZERO,
        };
        assert_eq!(readings.read(start + second), Duration::ZERO);
        assert_eq!(readings.read(start + second * 5), Duration::ZERO, "busy");
        assert_eq!(readings.read(start + second * 65), second * 59);
        assert_eq!(readings.read(start + second * 66), second * 59);
        assert_eq!(readings.read(start + second * 70), second * 59);
        assert_eq!(readings.read(start + second * 80), second * 68);
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_only_passes_for_timers_counts() {
        let began = AwakeInstant::now();
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert!(began.elapsed() >= Duration::from_mins(59));
        assert_eq!(began.until(Instant::now()), began.elapsed());
    }
}
