//! The writer of a journal: named to processes that find the journal in use, and the mark by which
//! an older writer knows that it is not the last one.

use std::fs;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The writer of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The id that distinguishes sessions.
    pub id: String,
    /// The machine or pod.
    pub host: String,
    /// The process there.
    pub pid: u32,
    /// Since when.
    pub since: Timestamp,
}

impl Writer {
    /// Returns this process, from now on.
    pub(super) fn this_process() -> Self {
        let (host, since) = (host(), Timestamp::now());
        Self {
            id: format!("{:016x}", fastrand::u64(..)),
            host,
            pid: std::process::id(),
            since,
        }
    }

    /// Returns a writer that could not be found out.
    pub(super) fn unknown() -> Self {
        let (id, host) = (String::new(), "an unknown machine".to_owned());
        Self {
            id,
            host,
            pid: 0,
            since: Timestamp::UNIX_EPOCH,
        }
    }
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self.since.strftime("%Y-%m-%d %H:%M:%SZ");
        write!(f, "process {} on {} since {since}", self.pid, self.host)
    }
}

/// Returns this machine's name.
#[must_use]
pub fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    match name.trim() {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}
