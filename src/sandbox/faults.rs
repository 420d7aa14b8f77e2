//! Scripted misbehaviour: errors, lost answers, stalls and broken answers, at exactly the call that a test names.
//!
//! A fault works on the HTTP layer around the service, so the effect of an operation and its answer can be told apart:
//! an operation can take effect and be answered with an error, or with nothing at all.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::operation::{Call, Operation};
use super::store::Store;

/// One rule: which calls, how often, what happens to them.
///
/// `Fault::on(Operation::UploadPartCopy).nth(7).then(Effect::SlowDown)`
#[derive(Clone, Debug)]
pub struct Fault {
    /// The operation; `None` is any.
    pub on: Option<Operation>,
    /// Only calls whose key contains this.
    pub key: Option<String>,
    /// Which of these calls.
    pub when: When,
    /// What happens to them.
    pub then: Effect,
}

/// Which of the matching calls a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// All.
    Always,
    /// The nth, counted from 1.
    Nth(u64),
    /// Each nth.
    Every(u64),
    /// The first n.
    First(u64),
    /// Each with this probability, drawn from a generator with this seed.
    Chance(f64, u64),
}

/// What happens to a call.
#[derive(Clone)]
pub enum Effect {
    /// An error instead of the operation.
    Error(u16, &'static str),
    /// The operation takes effect, the answer is an error.
    ErrorAfterEffect(u16, &'static str),
    /// 503 `SlowDown` instead of the operation.
    SlowDown,
    /// Status 200 with an `Error` document.
    ErrorIn200 {
        /// The error code.
        code: &'static str,
        /// The operation takes effect all the same.
        after_effect: bool,
        /// Blanks between the XML declaration and the element, as S3 sends while it works.
        blanks: usize,
    },
    /// The answer of a success has blanks in front of its document, as while S3 works.
    Blanks {
        /// How many.
        count: usize,
        /// Before the XML declaration, as some servers do, which parsers refuse; S3 sends them behind it.
        before_declaration: bool,
    },
    /// The connection closes without an answer, and nothing is done.
    ResetBefore,
    /// The operation takes effect, then the connection closes without an answer.
    ResetAfter,
    /// Silence for a time (`None`: until the client gives up), then the operation.
    StallBefore(Option<Duration>),
    /// The operation, then silence for a time (`None`: until the client gives up), then the answer.
    StallAfter(Option<Duration>),
    /// The operation takes effect; the connection closes in the middle of the answer's body.
    TruncateBody,
    /// The operation takes effect; the answer has its status and no body.
    EmptyBody,
    /// The operation takes effect; the answer's body comes one byte at a time, with this pause before each.
    Trickle(Duration),
    /// The answer is late.
    Delay(Duration),
    /// The operation takes effect with other bytes than it should: one byte of what is stored is wrong, and everything that
    /// the server computes from it (`ETag`, checksums) is that of the wrong bytes. For writes that carry or copy bytes.
    Corrupt,
    /// The operation as if the request had none of these headers and query parameters: what a server does that does not know
    /// them. The signature is not verified.
    Ignore(&'static [&'static str]),
    /// `CompleteMultipartUpload` publishes the object without its last part. The signature is not verified.
    DropPart,
    /// This answer instead of the operation: a status, a content type, and a body.
    Answer(u16, &'static str, &'static str),
    /// A closure runs when the call arrives, then the operation: to change the store behind the client's back.
    Hook(Arc<dyn Fn(&Store) + Send + Sync>),
}

impl fmt::Debug for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(status, code) => write!(f, "Error({status}, {code})"),
            Self::ErrorAfterEffect(status, code) => write!(f, "ErrorAfterEffect({status}, {code})"),
            Self::SlowDown => f.write_str("SlowDown"),
            Self::ErrorIn200 { code, after_effect, .. } => {
                write!(f, "ErrorIn200({code}, after_effect: {after_effect})")
            }
            Self::Blanks { count, before_declaration } => {
                write!(f, "Blanks({count}, before_declaration: {before_declaration})")
            }
            Self::ResetBefore => f.write_str("ResetBefore"),
            Self::ResetAfter => f.write_str("ResetAfter"),
            Self::StallBefore(time) => write!(f, "StallBefore({time:?})"),
            Self::StallAfter(time) => write!(f, "StallAfter({time:?})"),
            Self::TruncateBody => f.write_str("TruncateBody"),
            Self::EmptyBody => f.write_str("EmptyBody"),
            Self::Trickle(pause) => write!(f, "Trickle({pause:?})"),
            Self::Delay(time) => write!(f, "Delay({time:?})"),
            Self::Corrupt => f.write_str("Corrupt"),
            Self::Ignore(names) => write!(f, "Ignore({names:?})"),
            Self::DropPart => f.write_str("DropPart"),
            Self::Answer(status, kind, _) => write!(f, "Answer({status}, {kind})"),
            Self::Hook(_) => f.write_str("Hook"),
        }
    }
}

impl Effect {
    /// A hook, see [`Effect::Hook`].
    pub fn hook(run: impl Fn(&Store) + Send + Sync + 'static) -> Self {
        Self::Hook(Arc::new(run))
    }

    /// An error in a 200 that stands for an operation that was not done.
    #[must_use]
    pub fn error_in_200(code: &'static str) -> Self {
        Self::ErrorIn200 { code, after_effect: false, blanks: 0 }
    }
}

impl Fault {
    /// Strikes all calls of an operation until narrowed down; by default with [`Effect::SlowDown`].
    #[must_use]
    pub fn on(operation: Operation) -> Self {
        Self { on: Some(operation), key: None, when: When::Always, then: Effect::SlowDown }
    }

    /// Strikes all calls of all operations until narrowed down.
    #[must_use]
    pub fn on_any() -> Self {
        Self { on: None, key: None, when: When::Always, then: Effect::SlowDown }
    }

    /// Only calls whose key contains this.
    #[must_use]
    pub fn key(mut self, part: impl Into<String>) -> Self {
        self.key = Some(part.into());
        self
    }

    /// Only these of the matching calls.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// Only the nth of the matching calls, counted from 1.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        self.when(When::Nth(n))
    }

    /// Only the first n of the matching calls.
    #[must_use]
    pub fn first(self, n: u64) -> Self {
        self.when(When::First(n))
    }

    /// With this effect.
    #[must_use]
    pub fn then(mut self, effect: Effect) -> Self {
        self.then = effect;
        self
    }

    fn matches(&self, call: &Call) -> bool {
        self.on.is_none_or(|operation| operation == call.operation)
            && self.key.as_ref().is_none_or(|part| call.key.contains(part.as_str()))
    }
}

/// The faults of a sandbox.
#[derive(Debug, Default)]
pub struct Faults {
    /// How many are armed, so that sandboxes without faults take no lock.
    count: AtomicUsize,
    fired: AtomicU64,
    armed: Mutex<Vec<Armed>>,
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    seen: u64,
    random: fastrand::Rng,
}

impl Armed {
    /// Counts a matching call; whether the fault strikes it.
    fn strikes(&mut self) -> bool {
        self.seen += 1;
        match self.fault.when {
            When::Always => true,
            When::Nth(n) => self.seen == n,
            When::Every(n) => n > 0 && self.seen.is_multiple_of(n),
            When::First(n) => self.seen <= n,
            When::Chance(probability, _) => self.random.f64() < probability,
        }
    }
}

impl Faults {
    /// Arms a fault. Of several that strike one call, the first armed has effect; all count the call.
    pub fn add(&self, fault: Fault) {
        let random = match fault.when {
            When::Chance(_, seed) => fastrand::Rng::with_seed(seed),
            _ => fastrand::Rng::with_seed(0),
        };
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.push(Armed { fault, seen: 0, random });
        self.count.store(armed.len(), Ordering::Release);
    }

    /// Disarms all.
    pub fn clear(&self) {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.clear();
        self.count.store(0, Ordering::Release);
    }

    /// How many calls were struck so far.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.fired.load(Ordering::Relaxed)
    }

    /// What happens to this call.
    pub(super) fn strike(&self, call: &Call) -> Option<Effect> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut effect = None;
        for one in armed.iter_mut().filter(|one| one.fault.matches(call)) {
            if one.strikes() && effect.is_none() {
                effect = Some(one.fault.then.clone());
            }
        }
        if effect.is_some() {
            self.fired.fetch_add(1, Ordering::Relaxed);
        }
        effect
    }
}

#[cfg(test)]
mod tests {
    use hyper::{HeaderMap, Method};

    use super::*;

    fn struck(fault: Fault, calls: usize) -> Vec<usize> {
        let faults = Faults::default();
        faults.add(fault);
        let call = Call::classify(&Method::GET, &"/b/some/key".parse().unwrap(), &HeaderMap::new());
        (1..=calls).filter(|_| faults.strike(&call).is_some()).collect()
    }

    #[test]
    fn a_fault_strikes_the_calls_that_it_names() {
        let get = || Fault::on(Operation::GetObject);
        assert_eq!(struck(get(), 3), [1, 2, 3]);
        assert_eq!(struck(get().nth(2), 4), [2]);
        assert_eq!(struck(get().first(2), 4), [1, 2]);
        assert_eq!(struck(get().when(When::Every(2)), 5), [2, 4]);
        assert_eq!(struck(get().key("me/k"), 1), [1]);
        assert!(struck(get().key("other"), 3).is_empty());
        assert!(struck(Fault::on(Operation::PutObject), 3).is_empty());
        assert_eq!(struck(Fault::on_any(), 1), [1]);
        let chance = struck(get().when(When::Chance(0.3, 5)), 1000);
        assert!((200..400).contains(&chance.len()), "{}", chance.len());
        assert_eq!(chance, struck(get().when(When::Chance(0.3, 5)), 1000));
    }
}
