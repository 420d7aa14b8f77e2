//! Scripted faults: errors, lost answers, stalls, and broken answers at exactly the calls that a
//! test selects.
//!
//! A fault selects calls and has an [`effect`] on them. A test in the same process adds and removes
//! faults through [`Faults`]; other processes do so through the control port.

mod effect;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::HeaderMap;
use jiff::SignedDuration;
use serde::Serialize;
use tokio::time::Instant;

use super::keys::{session_token, signing_key};
use super::operation::{Call, Operation};

pub use effect::Effect;

/// A fault: the calls that it selects, how many of them it affects, and its effect.
///
/// `Fault::on(Operation::UploadPartCopy).nth(7).then(Effect::SlowDown)`
#[derive(Clone, Debug)]
pub struct Fault {
    /// The operations; an empty list means all.
    pub on: Vec<Operation>,
    /// Only calls to this bucket.
    pub bucket: Option<String>,
    /// Only calls whose key contains this text.
    pub key: Option<String>,
    /// Only calls whose key, or whose list prefix, begins with this prefix.
    pub prefix: Option<String>,
    /// Only calls signed with this access key.
    pub access_key: Option<String>,
    /// Only calls with this session token.
    pub token: Option<String>,
    /// Which of the matching calls to affect.
    pub when: When,
    /// The number of calls to affect before the fault ends; `None` is unlimited.
    pub count: Option<u64>,
    /// The time after which the fault starts. Earlier calls are not counted.
    pub from: Duration,
    /// The duration of the fault from its start. `None` means that it never ends.
    pub lasts: Option<Duration>,
    /// The effect on the calls.
    pub then: Effect,
}

/// Which of the matching calls a fault affects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// All calls.
    Always,
    /// The nth call, counted from 1.
    Nth(u64),
    /// Every nth call.
    Every(u64),
    /// The first n calls.
    First(u64),
    /// All calls after the first n.
    After(u64),
    /// Each call with this probability. The second field is the seed of the generator.
    Chance(f64, u64),
}

impl Fault {
    /// Affects all calls of an operation until you narrow it down. The default effect is
    /// [`Effect::SlowDown`].
    #[must_use]
    pub fn on(operation: Operation) -> Self {
        Self {
            on: vec![operation],
            ..Self::on_any()
        }
    }

    /// Affects all calls of all operations until you narrow it down.
    #[must_use]
    pub fn on_any() -> Self {
        Self {
            on: Vec::new(),
            bucket: None,
            key: None,
            prefix: None,
            access_key: None,
            token: None,
            when: When::Always,
            count: None,
            from: Duration::ZERO,
            lasts: None,
            then: Effect::SlowDown,
        }
    }

    /// Limits the fault to calls to this bucket.
    #[must_use]
    pub fn bucket(mut self, name: impl Into<String>) -> Self {
        self.bucket = Some(name.into());
        self
    }

    /// Limits the fault to calls whose key contains this text.
    #[must_use]
    pub fn key(mut self, part: impl Into<String>) -> Self {
        self.key = Some(part.into());
        self
    }

    /// Limits the fault to calls whose key, or whose list prefix, begins with this prefix.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Limits the fault to calls signed with this access key.
    #[must_use]
    pub fn access_key(mut self, key: impl Into<String>) -> Self {
        self.access_key = Some(key.into());
        self
    }

    /// Limits the fault to calls with this session token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets which of the matching calls to affect.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// Limits the fault to the nth matching call, counted from 1.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        self.when(When::Nth(n))
    }

    /// Limits the fault to the first n matching calls.
    #[must_use]
    pub fn first(self, n: u64) -> Self {
        self.when(When::First(n))
    }

    /// Limits the fault to a period that starts `from` after it is added and lasts this long.
    #[must_use]
    pub fn during(mut self, from: Duration, lasts: Duration) -> Self {
        self.from = from;
        self.lasts = Some(lasts);
        self
    }

    /// Sets the effect.
    #[must_use]
    pub fn then(mut self, effect: Effect) -> Self {
        self.then = effect;
        self
    }

    fn matches(&self, call: &Call, headers: &HeaderMap) -> bool {
        (self.on.is_empty() || self.on.contains(&call.operation))
            && self
                .bucket
                .as_ref()
                .is_none_or(|bucket| call.bucket == *bucket)
            && self
                .key
                .as_ref()
                .is_none_or(|part| call.key.contains(part.as_str()))
            && self
                .prefix
                .as_ref()
                .is_none_or(|prefix| call.key.starts_with(prefix.as_str()))
            && self
                .access_key
                .as_deref()
                .is_none_or(|key| signing_key(headers) == Some(key))
            && self
                .token
                .as_deref()
                .is_none_or(|token| session_token(headers) == Some(token))
    }

    /// Returns true if the fault is active at this age.
    fn is_due(&self, age: Duration) -> bool {
        let since = age.checked_sub(self.from);
        since.is_some_and(|since| self.lasts.is_none_or(|lasts| since < lasts))
    }
}

/// The number of calls that a fault has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Calls that matched the fault while it was active.
    pub matched: u64,
    /// Matching calls that it affected.
    pub struck: u64,
}

/// An active fault.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The number of the rule, which is never reused.
    pub id: u64,
    /// The fault.
    pub fault: Fault,
    /// The counts of the rule.
    pub counts: Counts,
}

/// The combined effects of all faults on one call.
#[derive(Debug, Default)]
pub(super) struct FaultEffects {
    /// The total delay of the call.
    pub(super) delay: Duration,
    /// The time by which the clock of the server is ahead.
    pub(super) skew: SignedDuration,
    /// The effect other than delay and skew.
    pub(super) effect: Option<Effect>,
}

impl FaultEffects {
    /// Adds the effect of a fault. Returns false if another fault already has an effect that
    /// excludes this one.
    fn add(&mut self, effect: &Effect) -> bool {
        match effect {
            Effect::Delay(time) => self.delay += *time,
            Effect::Skew(offset) => self.skew = self.skew.saturating_add(*offset),
            _ if self.effect.is_some() => return false,
            effect => self.effect = Some(effect.clone()),
        }
        true
    }
}

/// The faults of a sandbox.
#[derive(Debug, Default)]
pub struct Faults {
    /// The number of faults. A sandbox without faults takes no lock.
    count: AtomicUsize,
    fired: AtomicU64,
    armed: Mutex<Vec<Armed>>,
    /// The number of the rule added last.
    last: AtomicU64,
}

#[derive(Debug)]
struct Armed {
    id: u64,
    fault: Fault,
    since: Instant,
    counts: Counts,
    random: fastrand::Rng,
}

impl Armed {
    /// Counts a matching call. Returns true if the fault affects it.
    fn strikes(&mut self) -> bool {
        self.counts.matched += 1;
        let seen = self.counts.matched;
        let is_chosen = match self.fault.when {
            When::Always => true,
            When::Nth(n) => seen == n,
            When::Every(n) => n > 0 && seen.is_multiple_of(n),
            When::First(n) => seen <= n,
            When::After(n) => seen > n,
            When::Chance(probability, _) => self.random.f64() < probability,
        };
        is_chosen
            && self
                .fault
                .count
                .is_none_or(|count| self.counts.struck < count)
    }
}

impl Faults {
    /// Adds a fault and returns its number. If several faults match one call, all of them count it,
    /// but only the first one added has an effect. Delays and skews always apply.
    pub fn add(&self, fault: Fault) -> u64 {
        let random = match fault.when {
            When::Chance(_, seed) => fastrand::Rng::with_seed(seed),
            _ => fastrand::Rng::with_seed(0),
        };
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut armed = self.lock();
        armed.push(Armed {
            id,
            fault,
            since: Instant::now(),
            counts: Counts::default(),
            random,
        });
        self.count.store(armed.len(), Ordering::Release);
        id
    }

    /// Adds rules in the JSON format of the control port: one object, or a list of them.
    ///
    /// # Errors
    /// Returns a message that names the wrong field and the reason. In that case, no rule is added.
    pub fn add_json(&self, rules: &[u8]) -> Result<Vec<u64>, String> {
        let faults = crate::rules::parse(rules)?;
        Ok(faults.into_iter().map(|fault| self.add(fault)).collect())
    }

    /// Removes a fault. Returns false if no fault has this number. Calls that the fault has stalled
    /// stay stalled.
    pub fn remove(&self, id: u64) -> bool {
        let mut armed = self.lock();
        let before = armed.len();
        armed.retain(|one| one.id != id);
        self.count.store(armed.len(), Ordering::Release);
        armed.len() < before
    }

    /// Removes all faults.
    pub fn clear(&self) {
        let mut armed = self.lock();
        armed.clear();
        self.count.store(0, Ordering::Release);
    }

    /// Returns the number of calls that faults have affected so far.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.fired.load(Ordering::Relaxed)
    }

    /// Returns the active faults in the order in which they were added.
    #[must_use]
    pub fn armed(&self) -> Vec<Rule> {
        let rule = |one: &Armed| Rule {
            id: one.id,
            fault: one.fault.clone(),
            counts: one.counts,
        };
        self.lock().iter().map(rule).collect()
    }

    /// Returns the counts of a fault, or `None` if it was removed.
    #[must_use]
    pub fn counts(&self, id: u64) -> Option<Counts> {
        self.lock()
            .iter()
            .find(|one| one.id == id)
            .map(|one| one.counts)
    }

    /// Returns the combined effects of all faults on this call.
    pub(super) fn strike(&self, call: &Call, headers: &HeaderMap) -> FaultEffects {
        let mut strike = FaultEffects::default();
        if self.count.load(Ordering::Acquire) == 0 {
            return strike;
        }
        let mut is_struck = false;
        for one in self.lock().iter_mut() {
            if one.fault.is_due(one.since.elapsed())
                && one.fault.matches(call, headers)
                && one.strikes()
                && strike.add(&one.fault.then)
            {
                one.counts.struck += 1;
                is_struck = true;
            }
        }
        if is_struck {
            self.fired.fetch_add(1, Ordering::Relaxed);
        }
        strike
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Armed>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use hyper::Method;
    use hyper::header::AUTHORIZATION;

    use super::*;

    fn get() -> Call {
        Call::classify(
            &Method::GET,
            &"/b/some/key".parse().unwrap(),
            &HeaderMap::new(),
        )
    }

    fn struck(fault: Fault, calls: usize) -> Vec<usize> {
        let faults = Faults::default();
        faults.add(fault);
        (1..=calls)
            .filter(|_| faults.strike(&get(), &HeaderMap::new()).effect.is_some())
            .collect()
    }

    #[test]
    fn a_fault_strikes_the_calls_that_it_names() {
        let get = || Fault::on(Operation::GetObject);
        assert_eq!(struck(get(), 3), [1, 2, 3]);
        assert_eq!(struck(get().nth(2), 4), [2]);
        assert_eq!(struck(get().first(2), 4), [1, 2]);
        assert_eq!(struck(get().when(When::After(2)), 4), [3, 4]);
        assert_eq!(struck(get().when(When::Every(2)), 5), [2, 4]);
        assert_eq!(
            struck(
                Fault {
                    count: Some(2),
                    ..get().when(When::Every(2))
                },
                9
            ),
            [2, 4]
        );
        assert_eq!(struck(get().key("me/k"), 1), [1]);
        assert!(struck(get().key("other"), 3).is_empty());
        assert_eq!(struck(get().bucket("b").prefix("some/"), 1), [1]);
        assert!(
            struck(get().bucket("c"), 1).is_empty() && struck(get().prefix("key"), 1).is_empty()
        );
        assert!(
            struck(get().token("t"), 1).is_empty() && struck(get().access_key("a"), 1).is_empty()
        );
        assert!(struck(Fault::on(Operation::PutObject), 3).is_empty());
        assert_eq!(struck(Fault::on_any(), 1), [1]);
        let chance = struck(get().when(When::Chance(0.3, 5)), 1000);
        assert!((200..400).contains(&chance.len()), "{}", chance.len());
        assert_eq!(chance, struck(get().when(When::Chance(0.3, 5)), 1000));
    }

    #[test]
    fn a_fault_knows_who_has_signed() {
        let mut headers = HeaderMap::new();
        let signature = "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3/aws4_request, SignedHeaders=host";
        headers.insert(AUTHORIZATION, signature.parse().unwrap());
        headers.insert("x-amz-security-token", "session".parse().unwrap());
        for (fault, is_struck) in [
            (Fault::on_any().access_key("AKID").token("session"), true),
            (Fault::on_any().access_key("AKI"), false),
            (Fault::on_any().token("other"), false),
        ] {
            let faults = Faults::default();
            faults.add(fault.clone());
            assert_eq!(
                faults.strike(&get(), &headers).effect.is_some(),
                is_struck,
                "{fault:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_keeps_to_its_time() {
        let faults = Faults::default();
        let id =
            faults.add(Fault::on_any().during(Duration::from_secs(10), Duration::from_secs(5)));
        let mut struck = Vec::new();
        for second in 0..20 {
            if faults.strike(&get(), &HeaderMap::new()).effect.is_some() {
                struck.push(second);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(struck, [10, 11, 12, 13, 14]);
        assert_eq!(
            faults.counts(id),
            Some(Counts {
                matched: 5,
                struck: 5
            })
        );
        assert!(faults.remove(id) && !faults.remove(id));
        assert_eq!(faults.counts(id), None);
    }

    #[test]
    fn delays_and_clocks_go_with_another_effect() {
        let faults = Faults::default();
        for effect in [
            Effect::Delay(Duration::from_secs(1)),
            Effect::Skew(SignedDuration::from_mins(-20)),
            Effect::Error(403, "AccessDenied"),
            Effect::Delay(Duration::from_secs(2)),
            Effect::SlowDown,
        ] {
            faults.add(Fault::on_any().then(effect));
        }
        let strike = faults.strike(&get(), &HeaderMap::new());
        assert_eq!(
            (strike.delay, strike.skew),
            (Duration::from_secs(3), SignedDuration::from_mins(-20))
        );
        assert!(matches!(strike.effect, Some(Effect::Error(403, _))));
        let counts: Vec<_> = faults
            .armed()
            .iter()
            .map(|rule| rule.counts.struck)
            .collect();
        assert_eq!((counts, faults.fired()), (vec![1, 1, 1, 1, 0], 1));
    }
}
