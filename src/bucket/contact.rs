//! The first requests of a run, which find out whether its buckets can be used at all.
//!
//! s3haul waits for a server that does not answer yet, and for a configured credential provider
//! that is not up yet, until the run's patience is used up. The patience counts from the first
//! request. After two seconds, the log says what s3haul waits for and how much patience is left. A
//! failure that waiting cannot cure ends the command at once.

use std::fmt::Write as _;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Bucket;
use crate::awake::AwakeInstant;
use crate::s3::{Failure, FailureKind};
use crate::size::display_duration;

/// A wait is logged after this time.
const FIRST_LOG: Duration = Duration::from_secs(2);
/// A wait is logged again at this interval.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// The longest pause between attempts, so that a server that comes up is noticed soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// An attempt may take this long even if less patience is left, because a distant server needs some
/// time to answer.
const LEAST: Duration = Duration::from_secs(5);

/// The time budget for buckets that have not answered yet, shared by all buckets of a run. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Contact(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    patience: Duration,
    /// The time at which the first request was sent.
    began: OnceLock<AwakeInstant>,
    /// The last transient failure.
    last: Mutex<Option<Failure>>,
}

impl Contact {
    /// Creates a time budget that starts with the first request.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self(Arc::new(Shared {
            patience,
            began: OnceLock::new(),
            last: Mutex::default(),
        }))
    }

    /// Starts the clock, unless it is running already.
    fn start(&self) {
        self.0.began.get_or_init(AwakeInstant::now);
    }

    /// Returns the time since the first request.
    pub(super) fn elapsed(&self) -> Duration {
        self.0
            .began
            .get()
            .map_or(Duration::ZERO, AwakeInstant::elapsed)
    }

    /// Returns the patience that is left.
    pub(super) fn left(&self) -> Duration {
        self.0.patience.saturating_sub(self.elapsed())
    }

    /// Limits a pause of the retry policy to the patience that is left.
    pub(super) fn pause(&self, pause: Duration) -> Duration {
        pause.min(LONGEST_PAUSE).min(self.left())
    }

    /// Limits the time of an attempt to the patience that is left.
    pub(super) fn time_limit(&self, limit: Duration) -> Duration {
        limit.min(self.left().max(LEAST))
    }

    /// Remembers the failure of an attempt that will be repeated.
    pub(super) fn failed(&self, failure: &Failure) {
        self.start();
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.clone());
    }

    /// Adds a note to a failure if the patience is used up.
    pub(super) fn note_patience(&self, failure: Failure) -> Failure {
        if !failure.kind().may_pass_later() || !self.left().is_zero() {
            return failure;
        }
        failure.noting(&format!(
            "waited {}, as `patience` says",
            display_duration(self.0.patience)
        ))
    }

    /// Awaits `ask`, which sends the first requests to `bucket`. If that takes long, logs what the
    /// run waits for.
    ///
    /// # Errors
    /// Returns the failure of `ask`.
    pub async fn watch<T>(
        &self,
        bucket: &Bucket,
        ask: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        let mut ask = pin!(ask);
        self.start();
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut awaited = None;
        let mut pause = FIRST_LOG;
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut ask => break answer,
                () = sleep(pause) => {
                    awaited = Some(self.log_wait(bucket));
                    pause = LOG_INTERVAL;
                }
            }
        };
        let is_answered = answer.as_ref().err().is_none_or(|failure| {
            !failure.kind().may_pass_later() && *failure.kind() != FailureKind::Stopped
        });
        if let Some(awaited) = awaited.filter(|_| is_answered) {
            tracing::warn!(
                name: "back",
                seconds = began.elapsed().as_secs_f64(),
                "{awaited} answered after {}",
                display_duration(began.elapsed())
            );
        }
        answer
    }

    /// Logs what the run waits for, and returns its name.
    fn log_wait(&self, bucket: &Bucket) -> String {
        let last = self
            .0
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let provider = bucket.client.awaited_credentials();
        let (awaited, mut text) = if let Some(provider) = provider {
            ("the credential provider".to_owned(), provider)
        } else {
            let reason = last.as_ref().map_or("no answer yet", |failure| {
                failure.details().message.as_str()
            });
            let text = format!("{}: {reason}", server_and_proxy(bucket));
            (bucket.server().to_owned(), text)
        };
        let _ = match self.left() {
            Duration::ZERO => write!(text, "; this is the last attempt (`patience`)"),
            left => write!(
                text,
                "; gives up in {} (`patience`)",
                display_duration(left)
            ),
        };
        tracing::warn!(name: "waiting", "waiting for {text}");
        awaited
    }
}

/// Names the server and, if there is one, the proxy, because the proxy may be at fault.
pub(super) fn server_and_proxy(bucket: &Bucket) -> String {
    match bucket.client.proxy() {
        Some(proxy) => format!("{} through the proxy {proxy}", bucket.server()),
        None => bucket.server().to_owned(),
    }
}
