//! Keeps the time that signs requests to an endpoint.
//!
//! A server refuses a signature whose time differs from its own by more than 15 minutes
//! (`RequestTimeTooSkewed`; a HEAD gets a bare 403). The machine's clock may be wrong from the
//! start, and it may be changed during a run. So the clock counts from its start by the monotonic
//! clock, which nothing can change, and the `Date` header of each refusal shows by how much this
//! clock is off ([`Signed`]). The correction applies to all later requests to the endpoint, whether
//! they go through the SDK or not. It may change again, because a suspended machine loses time.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::DateTime;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use aws_smithy_types::date_time::Format;
use jiff::{SignedDuration, Timestamp};

use super::Client;
use super::secrets::Secrets;

/// A refusal that may have another cause corrects the clock only if the clock is off by more than
/// this.
const SUSPICIOUS: Duration = Duration::from_mins(4);
/// Smaller differences are ignored, because a `Date` has whole seconds and a response takes some
/// time.
const INEXACT: Duration = Duration::from_secs(30);

/// The clock of an endpoint. Cheap to clone.
#[derive(Clone)]
pub(super) struct Clock(Arc<ClockState>);

struct ClockState {
    /// The start, by the clock of this machine and by the monotonic clock.
    began: (SystemTime, Instant),
    /// The milliseconds by which the server is ahead.
    offset: AtomicI64,
    /// True once a server's time has agreed with this clock.
    is_confirmed: AtomicBool,
    /// The milliseconds by which the servers of the endpoint were ahead in the last responses, the
    /// newest first.
    recent: Mutex<VecDeque<i64>>,
}

/// The number of responses whose dates are remembered.
const RECENT: usize = 9;
/// The margin for differences between the clocks of an endpoint's servers, and for modification
/// times in whole seconds.
const SPREAD: Duration = Duration::from_secs(1);
/// The largest difference between the clocks of a server and of a client at which the server
/// accepts requests.
const MAX_SKEW: Duration = Duration::from_mins(15);
/// The assumed lag of the clock of a server that sends no `Date`.
const UNKNOWN_SKEW: Duration = Duration::from_mins(5);

impl Default for Clock {
    fn default() -> Self {
        Self::beginning(SystemTime::now())
    }
}

impl Clock {
    fn beginning(now: SystemTime) -> Self {
        Self(Arc::new(ClockState {
            began: (now, Instant::now()),
            offset: AtomicI64::new(0),
            is_confirmed: AtomicBool::new(false),
            recent: Mutex::default(),
        }))
    }

    /// Returns this machine's time without the correction.
    pub(super) fn uncorrected(&self) -> SystemTime {
        let (began, instant) = self.0.began;
        began + instant.elapsed()
    }

    /// Returns the known milliseconds by which the server is ahead.
    pub(super) fn offset(&self) -> i64 {
        self.0.offset.load(Ordering::Acquire)
    }

    /// Returns true if this time has passed, both by the corrected clock, once a server has
    /// confirmed it, and by this machine's clock. An unconfirmed clock may be off by years. A
    /// server's clock that is wrong for a while must not make all credentials look expired, because
    /// then no request would be sent that could correct the time again.
    pub(super) fn is_past(&self, time: SystemTime) -> bool {
        self.0.is_confirmed.load(Ordering::Acquire)
            && time <= self.now()
            && time <= self.uncorrected()
    }

    /// Returns the earliest modification time, by the servers' clocks, of an object that a request
    /// wrote. `sent` is the uncorrected time at which the request was sent. The result may be too
    /// early but not too late, because a `Date` is rounded down to seconds and older than the
    /// arrival of its response.
    pub(super) fn earliest(&self, sent: SystemTime) -> Option<Timestamp> {
        let sent = Timestamp::try_from(sent).ok()?;
        let time = match self.least() {
            None => sent.checked_sub(UNKNOWN_SKEW),
            Some(ahead) => sent
                .checked_add(SignedDuration::from_millis(ahead))
                .and_then(|time| time.checked_sub(SPREAD)),
        };
        Timestamp::from_second(time.ok()?.as_second()).ok()
    }

    /// Returns the time of the server's clock, computed from the `Date` of its last response. It
    /// may be up to a second early, because a `Date` has whole seconds. Returns this machine's time
    /// for a server that sends no `Date`.
    pub(super) fn of_server(&self) -> Timestamp {
        let latest = self.recent().front().copied();
        let time = match latest {
            None => Timestamp::try_from(self.now()).ok(),
            Some(ahead) => Timestamp::try_from(self.uncorrected())
                .ok()
                .and_then(|time| time.checked_add(SignedDuration::from_millis(ahead)).ok()),
        };
        time.unwrap_or_else(Timestamp::now)
    }

    /// Returns the smallest number of milliseconds by which a server of the endpoint was ahead in
    /// one of the last responses. Ignores a date that is behind the others by more than
    /// [`MAX_SKEW`]: the response came from a cache.
    fn least(&self) -> Option<i64> {
        let recent = self.recent();
        let mut sorted: Vec<i64> = recent.iter().copied().collect();
        drop(recent);
        sorted.sort_unstable();
        let usual = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
        let skew = i64::try_from(MAX_SKEW.as_millis()).unwrap_or(i64::MAX);
        let earliest = usual.saturating_sub(skew);
        sorted.into_iter().find(|ahead| *ahead >= earliest)
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<i64>> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Corrects the clock after a refusal. Returns true if the request was signed with a wrong
    /// time, so that it may succeed if it is sent again. `names_time` is true if the server named
    /// the time as the reason.
    pub(super) fn learn(&self, signed: &Signed, names_time: bool) -> bool {
        let Some(seen) = signed.seen else {
            return false;
        };
        let least = if names_time { INEXACT } else { SUSPICIOUS };
        if !is_apart(seen, signed.offset, least) {
            return false;
        }
        if is_apart(seen, self.offset(), INEXACT) {
            self.0.offset.store(seen, Ordering::Release);
            let gap = Duration::from_millis(seen.unsigned_abs()).as_secs();
            let direction = if seen > 0 { "behind" } else { "ahead of" };
            tracing::warn!(
                "this machine's clock is {gap} s {direction} the server's: requests are signed with the server's time"
            );
        }
        true
    }

    /// Returns the milliseconds by which the server was ahead when it sent this response.
    fn seen_in(&self, response: &HttpResponse) -> Option<i64> {
        let headers = response.headers();
        // A response from a cache has the time of an earlier one.
        if headers.contains_key("age") {
            return None;
        }
        let date = DateTime::from_str(headers.get("date")?, Format::HttpDate).ok()?;
        let (server, here) = (SystemTime::try_from(date).ok()?, self.uncorrected());
        let millis = |gap: Duration| i64::try_from(gap.as_millis()).ok();
        match server.duration_since(here) {
            Ok(ahead) => millis(ahead),
            Err(behind) => millis(behind.duration()).map(|gap| -gap),
        }
    }

    /// Records the `Date` of a response. Attaches to a refusal the credentials and the clock offset
    /// that signed its request.
    pub(super) fn witness(&self, response: &mut HttpResponse, generation: u64, offset: i64) {
        let is_refusal = response.status().is_client_error();
        let seen = self.seen_in(response);
        if let Some(ahead) = seen {
            let mut recent = self.recent();
            recent.truncate(RECENT - 1);
            recent.push_front(ahead);
        }
        if let Some(seen) = seen
            && !is_apart(seen, self.offset(), SUSPICIOUS)
        {
            self.0.is_confirmed.store(true, Ordering::Release);
        }
        if is_refusal {
            response.add_extension(Signed {
                generation,
                offset,
                seen,
            });
        }
    }
}

impl Client {
    /// Returns the current time without correction, for [`Client::earliest`].
    pub(super) fn uncorrected_time(&self) -> SystemTime {
        self.clock().uncorrected()
    }

    /// Returns the time of the server's clock, computed from its last response.
    pub(crate) fn server_time(&self) -> Timestamp {
        self.clock().of_server()
    }

    /// Returns the earliest modification time, by the servers' clocks, of an object that a request
    /// wrote. `sent` is the uncorrected time at which the request was sent.
    pub(crate) fn earliest(&self, sent: SystemTime) -> Option<Timestamp> {
        self.clock().earliest(sent)
    }
}

fn is_apart(one: i64, other: i64, least: Duration) -> bool {
    u128::from(one.abs_diff(other)) > least.as_millis()
}

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        let (time, offset) = (self.uncorrected(), self.offset());
        let gap = Duration::from_millis(offset.unsigned_abs());
        let corrected = if offset < 0 {
            time.checked_sub(gap)
        } else {
            time.checked_add(gap)
        };
        corrected.unwrap_or(time)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock")
            .field("offset", &self.offset())
            .finish()
    }
}

/// The credentials and the time that signed a refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// The set of credentials, counted from 1.
    pub(crate) generation: u64,
    /// The milliseconds that were added to this machine's time.
    offset: i64,
    /// The milliseconds by which the server was ahead of this machine when it answered, if it sent
    /// a `Date`.
    seen: Option<i64>,
}

/// Records what signs the requests that go through the SDK.
#[derive(Clone, Debug)]
pub(super) struct Witness(pub(super) Clock);

/// The set of credentials and the clock offset that sign a request. The set is stored while the
/// request is signed.
#[derive(Clone, Debug, Default)]
pub(super) struct Signing {
    pub(super) generation: Arc<AtomicU64>,
    offset: i64,
}

impl Storable for Signing {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Witness {
    fn name(&self) -> &'static str {
        "Witness"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let signing = Signing {
            offset: self.0.offset(),
            ..Signing::default()
        };
        config.interceptor_state().store_put(signing);
        Ok(())
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let secrets = Secrets::of(context.request().headers());
        config.interceptor_state().store_put(secrets);
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(secrets) = config.load::<Secrets>().cloned() {
            context.response_mut().add_extension(secrets);
        }
        if let Some(signing) = config.load::<Signing>() {
            let generation = signing.generation.load(Ordering::Acquire);
            self.0
                .witness(context.response_mut(), generation, signing.offset);
        }
        Secrets::missing_in(context.response())?;
        Ok(())
    }
}

/// Corrects a clock by a refusal with this `Date`.
#[cfg(test)]
pub(super) fn refused_at(clock: &Clock, date: &str) {
    use aws_sdk_s3::primitives::SdkBody;
    let Ok(status) = 403.try_into() else { return };
    let mut response = HttpResponse::new(status, SdkBody::empty());
    response.headers_mut().insert("date", date.to_owned());
    clock.witness(&mut response, 1, clock.offset());
    if let Some(signed) = response.extension::<Signed>() {
        clock.learn(signed, true);
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::primitives::SdkBody;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const MINUTE: Duration = Duration::from_mins(1);

    fn refusal(at: SystemTime) -> HttpResponse {
        let mut response = HttpResponse::new(403.try_into().unwrap(), SdkBody::empty());
        let date = DateTime::from(at).fmt(Format::HttpDate).unwrap();
        response.headers_mut().insert("date", date);
        response
    }

    #[test]
    fn the_time_of_the_server_is_that_of_its_last_answer() {
        let clock = Clock::default();
        let now = || Timestamp::now().as_second();
        assert!((clock.of_server().as_second() - now()).abs() <= 60);
        for ahead in [HOUR * 5, Duration::ZERO] {
            clock.witness(&mut refusal(SystemTime::now() + ahead), 1, 0);
            let seen = clock.of_server().as_second() - now();
            let ahead = i64::try_from(ahead.as_secs()).unwrap();
            assert!((seen - ahead).abs() <= 60, "{seen}");
        }
    }

    /// Returns a refusal by a server whose clock shows `at`.
    fn refused(clock: &Clock, at: SystemTime) -> Signed {
        let mut response = refusal(at);
        clock.witness(&mut response, 1, clock.offset());
        *response.extension::<Signed>().unwrap()
    }

    fn gap(one: SystemTime, other: SystemTime) -> Duration {
        one.duration_since(other)
            .unwrap_or_else(|error| error.duration())
    }

    #[test]
    fn the_offset_is_learned_from_each_refusal_again() {
        let now = SystemTime::now();
        let clock = Clock::beginning(now - HOUR);
        assert!(
            !clock.is_past(now - HOUR * 2),
            "no server has confirmed this clock"
        );
        for server in [now, now + HOUR, now - HOUR * 3] {
            let signed = refused(&clock, server);
            assert!(clock.learn(&signed, true));
            assert!(gap(clock.now(), server) < INEXACT, "{clock:?}");
            assert!(
                clock.learn(&signed, true),
                "others were signed with the wrong time too"
            );
        }
        refused(&clock, now - HOUR * 3);
        assert!(
            clock.is_past(now - HOUR * 4) && !clock.is_past(now),
            "this clock is confirmed"
        );
        refused(&clock, now + HOUR);
        let signed = refused(&clock, now + HOUR);
        assert!(clock.learn(&signed, true));
        assert!(
            !clock.is_past(now + HOUR / 2),
            "this machine's clock says otherwise"
        );
    }

    #[test]
    fn an_object_is_not_older_than_its_request_by_the_server_s_clock() {
        let now = SystemTime::now();
        let clock = Clock::beginning(now);
        let earliest = |sent| SystemTime::from(clock.earliest(sent).unwrap());
        let least = |server: SystemTime| server - Duration::from_secs(3);
        assert!(
            earliest(now) < now - Duration::from_mins(4),
            "no server has told its time"
        );
        for (server, bound) in [
            (now + HOUR, now + HOUR),
            // One of several servers is behind the others.
            (now + HOUR - MINUTE * 9, now + HOUR - MINUTE * 9),
            (now + HOUR, now + HOUR - MINUTE * 9),
            // These responses were delayed, for example by a cache.
            (now, now + HOUR - MINUTE * 9),
            (SystemTime::UNIX_EPOCH, now + HOUR - MINUTE * 9),
            (now + HOUR * 24, now + HOUR - MINUTE * 9),
        ] {
            refused(&clock, server);
            let earliest = earliest(now);
            assert!(
                least(bound) <= earliest && earliest <= bound,
                "{server:?} {earliest:?}"
            );
        }
        // The server's clock was set back.
        for _ in 0..RECENT {
            refused(&clock, now - HOUR);
        }
        assert!(earliest(now) <= now - HOUR && least(now - HOUR) <= earliest(now));
    }

    #[test]
    fn a_refusal_for_another_reason_changes_nothing() {
        let now = SystemTime::now();
        let clock = Clock::beginning(now);
        assert!(
            !clock.learn(&refused(&clock, now), true),
            "the clocks agree"
        );
        assert!(
            !clock.learn(&refused(&clock, now + Duration::from_mins(2)), false),
            "S3 bears that"
        );
        let mut cached = refusal(now + HOUR);
        cached.headers_mut().insert("age", "3600");
        clock.witness(&mut cached, 1, 0);
        assert!(
            !clock.learn(cached.extension().unwrap(), true),
            "a cache kept the answer"
        );
        assert_eq!(clock.offset(), 0);
    }
}
