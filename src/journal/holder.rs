//! Decides which session holds a journal in S3, and which session may take it over.
//!
//! The session that wrote the last segment is the holder. Another session takes over by writing the
//! next segment, which shuts the holder out. `BucketHolder::gives_way_to` decides whether it may do
//! so. Each session has a record of its own, `session-ID.json`, and renews it as its sign of life,
//! so no two sessions ever write the same record.
//!
//! The age of a sign of life is the server's time minus the time at which the server stored the
//! record. So the clocks of this machine and of the holder do not matter.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::identity::{LeaseTerms, Writer};

/// The prefix of a record's name.
const PREFIX: &str = "session-";
/// The suffix of a record's name.
const SUFFIX: &str = ".json";

/// Returns the name of a session's record.
pub(super) fn record_name(id: &str) -> String {
    format!("{PREFIX}{id}{SUFFIX}")
}

/// Returns the ID of the session whose record has this name.
pub(super) fn session_of(name: &str) -> Option<&str> {
    let id = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let is_id = id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then_some(id)
}

/// The record of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HolderRecord {
    /// The session.
    pub(super) writer: Writer,
    /// The run that it works on, once it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<String>,
    /// The time of this sign of life, by the session's own clock. For human readers only.
    pub(super) renewed: Timestamp,
    /// True once the session has released the journal.
    #[serde(default)]
    pub(super) released: bool,
}

impl HolderRecord {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            writer,
            run: None,
            renewed: Timestamp::now(),
            released: false,
        }
    }

    /// Returns the bytes of the object.
    pub(super) fn bytes(&self) -> Vec<u8> {
        // No field fails to serialize.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// The session that wrote a journal last, as another session sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BucketHolder {
    /// The session.
    pub(super) writer: Writer,
    /// True if it has released the journal.
    pub(super) released: bool,
    /// The age of its last sign of life.
    pub(super) silence: Duration,
}

/// The reason why a session may take a journal over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takeover {
    /// The holder has released it.
    Released,
    /// The holder is an earlier process of the same Job.
    SameJob,
    /// The holder's process ran on this machine and has ended.
    Gone,
    /// The holder has shown no sign of life for too long.
    Silent,
}

impl BucketHolder {
    /// Returns the reason why this session may take the journal over, or `None` if it must not.
    pub(super) fn gives_way_to(&self, session: &Writer, terms: &LeaseTerms) -> Option<Takeover> {
        if self.released {
            Some(Takeover::Released)
        } else if session.succeeds(&self.writer) {
            Some(Takeover::SameJob)
        } else if session.outlives(&self.writer) {
            Some(Takeover::Gone)
        } else {
            (self.silence >= terms.duration).then_some(Takeover::Silent)
        }
    }

    /// Returns true if the session seems to be running, so that this process must not take over.
    pub(super) fn is_alive(&self) -> bool {
        let terms = LeaseTerms::default();
        self.gives_way_to(&Writer::this_process(&terms), &terms)
            .is_none()
    }
}

/// Returns the time since the latest sign of life, by the server's clock.
pub(super) fn silence(
    signs: impl IntoIterator<Item = Option<Timestamp>>,
    now: Timestamp,
) -> Duration {
    let last = signs.into_iter().flatten().max();
    let age = last.map(|last| now.duration_since(last));
    // Two servers of an endpoint may have slightly different clocks: a negative age counts as none.
    age.map_or(Duration::MAX, |age| age.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(job: &str, pod: &str) -> Writer {
        Writer::this_process(&LeaseTerms {
            pod: Some(pod.to_owned()),
            ..LeaseTerms::of_job(job)
        })
    }

    fn holder(silence: u64) -> BucketHolder {
        BucketHolder {
            writer: session("a", "pod-a"),
            released: false,
            silence: Duration::from_secs(silence),
        }
    }

    #[test]
    fn a_journal_is_taken_from_a_predecessor_or_a_silent_holder_only() {
        let terms = LeaseTerms::default();
        let (same, other) = (session("a", "pod-b"), session("b", "pod-b"));
        for (silence, of_other) in [(0, None), (59, None), (60, Some(Takeover::Silent))] {
            let holder = holder(silence);
            assert_eq!(holder.gives_way_to(&same, &terms), Some(Takeover::SameJob));
            assert_eq!(holder.gives_way_to(&other, &terms), of_other, "{silence}");
        }
        let released = BucketHolder {
            released: true,
            ..holder(0)
        };
        let reason = released.gives_way_to(&other, &terms);
        assert_eq!(reason, Some(Takeover::Released));
        assert!(!released.is_alive() && holder(59).is_alive() && !holder(60).is_alive());
    }

    #[test]
    fn the_latest_sign_counts_and_a_clock_behind_is_no_silence() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let silence = |signs: &[Option<i64>], now| {
            silence(signs.iter().map(|sign| sign.map(at)), at(now)).as_secs()
        };
        assert_eq!(silence(&[Some(10), None, Some(40), Some(20)], 100), 60);
        assert_eq!(silence(&[Some(101)], 100), 0);
        assert_eq!(silence(&[None], 100), u64::MAX);
    }

    #[test]
    fn a_record_has_the_name_of_its_session_and_nothing_else_has() {
        assert_eq!(
            session_of(&record_name("7afc8be4845ba1d8")),
            Some("7afc8be4845ba1d8")
        );
        for name in [
            "session-.json",
            "session-7afc8be4845ba1d.json",
            "session-notahexadecimal1.json",
        ] {
            assert_eq!(session_of(name), None, "{name}");
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = HolderRecord::new(session("a", "pod-a"));
        let read: HolderRecord = serde_json::from_slice(&record.bytes()).unwrap();
        assert_eq!(read, record);
    }
}
