//! The record of calls: the requests of clients, the answers, and the number of calls in flight.
//!
//! Counts per operation are always kept. The list of calls grows with each request, so it is kept
//! only if [`SandboxOptions::record_calls`] is set.
//!
//! [`SandboxOptions::record_calls`]: super::SandboxOptions::record_calls

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::operation::{Call, Operation};

/// A call that was answered or aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallEntry {
    /// The operation.
    pub operation: Operation,
    /// The bucket; empty for requests to the service.
    pub bucket: String,
    /// The key, or the prefix of a listing.
    pub key: String,
    /// `partNumber`.
    pub part_number: Option<i32>,
    /// `uploadId`.
    pub upload_id: Option<String>,
    /// Bytes copied inside the server.
    pub copied_bytes: u64,
    /// The bytes in the payload of the request.
    pub uploaded_bytes: u64,
    /// The HTTP status; `None` if no answer was sent.
    pub status: Option<u16>,
    /// The S3 error code, including one in an answer with status 200.
    pub code: Option<String>,
    /// The arrival of the call, as the time since the sandbox started.
    pub arrived: Duration,
    /// The time of the answer, since the sandbox started.
    pub answered: Duration,
    /// The number of calls in flight when it arrived, including this one.
    pub in_flight: u64,
    /// The headers of the request with text values. Their names are in lower case.
    pub headers: BTreeMap<String, String>,
}

/// The recorded facts about the answer to a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) status: Option<u16>,
    pub(super) code: Option<String>,
    pub(super) copied_bytes: u64,
}

/// The calls that a sandbox has seen.
#[derive(Debug)]
pub struct CallRecord {
    started: Instant,
    counts: [AtomicU64; Operation::ALL.len()],
    in_flight: AtomicU64,
    max_in_flight: AtomicU64,
    copied_bytes: AtomicU64,
    throttled: AtomicU64,
    connections: AtomicU64,
    entries: Option<Mutex<Vec<CallEntry>>>,
}

impl CallRecord {
    pub(super) fn new(keep_entries: bool) -> Self {
        Self {
            started: Instant::now(),
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            in_flight: AtomicU64::new(0),
            max_in_flight: AtomicU64::new(0),
            copied_bytes: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            entries: keep_entries.then(Mutex::default),
        }
    }

    /// Returns the number of calls of an operation that have arrived since the start or the last
    /// [`CallRecord::clear`].
    #[must_use]
    pub fn count(&self, operation: Operation) -> u64 {
        self.counts[operation as usize].load(Ordering::Relaxed)
    }

    /// Returns the number of calls of all operations.
    #[must_use]
    pub fn total(&self) -> u64 {
        Operation::ALL
            .into_iter()
            .map(|operation| self.count(operation))
            .sum()
    }

    /// Returns the largest number of calls that were in flight at once.
    #[must_use]
    pub fn max_in_flight(&self) -> u64 {
        self.max_in_flight.load(Ordering::Relaxed)
    }

    /// Returns the number of calls that were answered `SlowDown`, by a limit or a fault.
    #[must_use]
    pub fn throttled(&self) -> u64 {
        self.throttled.load(Ordering::Relaxed)
    }

    /// Returns the bytes that were copied inside the server.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that were accepted since the start.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns all calls in the order in which they were answered, or nothing if calls are not
    /// recorded.
    #[must_use]
    pub fn list(&self) -> Vec<CallEntry> {
        let Some(entries) = &self.entries else {
            return Vec::new();
        };
        entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns the recorded calls of one operation.
    #[must_use]
    pub fn of(&self, operation: Operation) -> Vec<CallEntry> {
        self.list()
            .into_iter()
            .filter(|entry| entry.operation == operation)
            .collect()
    }

    /// Clears all calls and counts. Calls in flight are still recorded when they end.
    pub fn clear(&self) {
        for count in &self.counts {
            count.store(0, Ordering::Relaxed);
        }
        self.copied_bytes.store(0, Ordering::Relaxed);
        self.throttled.store(0, Ordering::Relaxed);
        self.max_in_flight
            .store(self.in_flight.load(Ordering::Relaxed), Ordering::Relaxed);
        if let Some(entries) = &self.entries {
            entries
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
        }
    }

    /// Records the arrival of a call. The call ends when the guard is dropped, even if the client
    /// disconnects.
    pub(super) fn begin(self: &Arc<Self>, call: &Call, headers: &HeaderMap) -> InFlight {
        self.counts[call.operation as usize].fetch_add(1, Ordering::Relaxed);
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.max_in_flight.fetch_max(in_flight, Ordering::Relaxed);
        InFlight {
            record: Arc::clone(self),
            call: self
                .entries
                .as_ref()
                .map(|_| (call.clone(), headers.clone())),
            arrived: self.started.elapsed(),
            at_once: in_flight,
            outcome: Outcome::default(),
        }
    }
}

/// A call that is not answered yet.
pub(super) struct InFlight {
    record: Arc<CallRecord>,
    call: Option<(Call, HeaderMap)>,
    arrived: Duration,
    at_once: u64,
    /// The answer to record when the call ends.
    pub(super) outcome: Outcome,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.record.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.record
            .copied_bytes
            .fetch_add(self.outcome.copied_bytes, Ordering::Relaxed);
        if self.outcome.code.as_deref() == Some("SlowDown") {
            self.record.throttled.fetch_add(1, Ordering::Relaxed);
        }
        let (Some((call, headers)), Some(entries)) = (self.call.take(), &self.record.entries)
        else {
            return;
        };
        let outcome = std::mem::take(&mut self.outcome);
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        };
        let uploads = matches!(call.operation, Operation::PutObject | Operation::UploadPart);
        entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(CallEntry {
                operation: call.operation,
                bucket: call.bucket,
                key: call.key,
                part_number: call.part_number,
                upload_id: call.upload_id,
                copied_bytes: outcome.copied_bytes,
                uploaded_bytes: if uploads { call.body_bytes } else { 0 },
                status: outcome.status,
                code: outcome.code,
                arrived: self.arrived,
                answered: self.record.started.elapsed(),
                in_flight: self.at_once,
                headers: headers.iter().filter_map(text).collect(),
            });
    }
}
