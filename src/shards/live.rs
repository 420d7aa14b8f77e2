//! Writes `live/I.json`, the sign of life of a shard's process.
//!
//! The first record replaces any other, because the process then holds the journal of the shard.
//! Each later record replaces only the previous one (`If-Match`). So a process that has lost its
//! shard does not overwrite the records of its successor. If the response of a write is lost, the
//! `ETag` of the last record is unknown, and the next write is refused. So the process reads the
//! record after a refusal. It replaces its own record, writes a deleted record again, and stops
//! writing if the record belongs to another process.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::LIVE_EVERY;
use super::names::PerShard;
use super::record::{FORMAT, LiveRates, LiveRecord, LiveTotals, ShardActivity};
use super::store::{StateError, StateStore, StateWrite};
use crate::execute::monitor::{Event, Monitor};
use crate::execute::receipt::Ending;
use crate::journal::Writer;
use crate::journal::state::RunState;
use crate::pace::{PaceCounts, Pacer};
use crate::s3::WriteCondition;
use crate::size::to_thousandths;

/// The longest time that writing a record may take. It must not delay the next record or the end of
/// the process.
const LONGEST_WRITE: Duration = Duration::from_secs(10);

/// The shortest time, in seconds, from which a rate is computed.
const SHORTEST_SAMPLE: f64 = 1.0;

/// Counts the objects of a run for its live records.
#[derive(Debug, Default)]
pub struct LiveCounts {
    planned_objects: AtomicU64,
    planned_bytes: AtomicU64,
    done_objects: AtomicU64,
    done_bytes: AtomicI64,
    /// The bytes in open uploads of earlier sessions that this session has not resumed or aborted
    /// yet.
    open_bytes: AtomicU64,
    skipped_objects: AtomicU64,
    skipped_bytes: AtomicU64,
    failed_objects: AtomicU64,
    /// Objects that ended in this session, with any result.
    ended_objects: AtomicU64,
}

impl LiveCounts {
    /// Returns counts that start from the totals of the earlier sessions of a run. Objects that
    /// these sessions had in progress are planned and counted again, except for the bytes in their
    /// open uploads.
    #[must_use]
    pub fn of(state: &RunState) -> Self {
        let totals = &state.totals;
        let ended = totals.done_objects + totals.restoring_objects + totals.failed_objects;
        Self {
            planned_objects: ended.into(),
            planned_bytes: totals.done_bytes.into(),
            done_objects: totals.done_objects.into(),
            done_bytes: i64::try_from(totals.done_bytes).unwrap_or(i64::MAX).into(),
            open_bytes: state.open_bytes().into(),
            skipped_objects: totals.skipped_objects.into(),
            skipped_bytes: totals.skipped_bytes.into(),
            failed_objects: totals.failed_objects.into(),
            ended_objects: AtomicU64::new(0),
        }
    }

    fn totals(&self) -> LiveTotals {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let done = u64::try_from(self.done_bytes.load(Ordering::Relaxed)).unwrap_or(0);
        LiveTotals {
            planned_objects: load(&self.planned_objects),
            planned_bytes: load(&self.planned_bytes),
            done_objects: load(&self.done_objects),
            done_bytes: done + load(&self.open_bytes),
            skipped_objects: load(&self.skipped_objects),
            skipped_bytes: load(&self.skipped_bytes),
            failed_objects: load(&self.failed_objects),
        }
    }
}

impl Monitor for LiveCounts {
    fn observe(&self, event: &Event<'_>) {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        match event {
            Event::ObjectPlanned { bytes } => {
                self.planned_objects.fetch_add(1, Ordering::Relaxed);
                self.planned_bytes.fetch_add(*bytes, Ordering::Relaxed);
            }
            Event::BytesCopied { bytes, .. } | Event::BytesResumed { bytes, .. } => {
                self.done_bytes.fetch_add(signed(*bytes), Ordering::Relaxed);
            }
            Event::OrphanSettled { bytes } => {
                // If the upload continues, its bytes are counted as resumed.
                let left = |open: u64| Some(open.saturating_sub(*bytes));
                let _ = self
                    .open_bytes
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
            }
            Event::BytesVoided { bytes } => {
                self.done_bytes.fetch_sub(signed(*bytes), Ordering::Relaxed);
            }
            Event::ObjectEnded(receipt) => {
                self.ended_objects.fetch_add(1, Ordering::Relaxed);
                match &receipt.ending {
                    Ending::Done { .. } => {
                        self.done_objects.fetch_add(1, Ordering::Relaxed);
                    }
                    Ending::Skipped { .. } => {
                        self.skipped_objects.fetch_add(1, Ordering::Relaxed);
                        self.skipped_bytes
                            .fetch_add(receipt.size, Ordering::Relaxed);
                    }
                    Ending::Failed { .. } => {
                        self.failed_objects.fetch_add(1, Ordering::Relaxed);
                    }
                    Ending::Restoring { .. } | Ending::Stopped => {}
                }
            }
            Event::TransferBegan { .. }
            | Event::PlanEnded
            | Event::UploadBegan { .. }
            | Event::UploadEnded { .. }
            | Event::Ignored { .. }
            | Event::Excluded
            | Event::Paused { .. } => {}
        }
    }
}

/// The identity of a session in its live records.
#[derive(Clone, Debug)]
pub struct LiveIdentity {
    /// The shard.
    pub shard: u32,
    /// The process.
    pub process: Writer,
    /// The name of its run.
    pub run: String,
}

/// Writes the live records of a session.
#[derive(Debug)]
pub struct LiveWriter {
    store: StateStore,
    identity: LiveIdentity,
    session: Timestamp,
    counts: Arc<LiveCounts>,
    pacer: Arc<Pacer>,
    /// The last record. Locked during each write, so that records are written in order.
    written: Mutex<WrittenLive>,
}

/// The last record.
#[derive(Debug)]
struct WrittenLive {
    at: Instant,
    ended_objects: u64,
    totals: LiveTotals,
    requests: PaceCounts,
    /// Its `ETag`, if there is a record and the server returned one.
    etag: Option<String>,
    /// True once there is a record.
    is_there: bool,
    /// True once another process writes the object.
    is_lost: bool,
}

impl LiveWriter {
    /// Returns a writer for a session that begins now.
    #[must_use]
    pub fn new(
        store: StateStore,
        identity: LiveIdentity,
        counts: Arc<LiveCounts>,
        pacer: Arc<Pacer>,
    ) -> Self {
        let written = WrittenLive {
            at: Instant::now(),
            ended_objects: 0,
            totals: counts.totals(),
            // Earlier requests, such as those that opened the journal, must not count in the first
            // rate.
            requests: pacer.counts(),
            etag: None,
            is_there: false,
            is_lost: false,
        };
        Self {
            store,
            identity,
            session: Timestamp::now(),
            counts,
            pacer,
            written: Mutex::new(written),
        }
    }

    /// Writes a record now and every [`LIVE_EVERY`], for as long as this future is polled.
    pub async fn write_always(&self) {
        loop {
            let state = if self.pacer.stopping().is_cancelled() {
                ShardActivity::Stopping
            } else {
                ShardActivity::Running
            };
            self.write(state, None, None).await;
            sleep(LIVE_EVERY).await;
        }
    }

    /// Writes a record. Logs a failure and does not retry, because the next record is newer.
    pub async fn write(&self, state: ShardActivity, exit: Option<i32>, cause: Option<String>) {
        let mut last = self.written.lock().await;
        if last.is_lost {
            return;
        }
        let condition = if last.is_there {
            self.store.replacing(last.etag.as_deref())
        } else {
            WriteCondition::None
        };
        let record = self.record(&mut last, state, exit, cause);
        let name = PerShard::Live.of(self.identity.shard);
        let written = timeout(LONGEST_WRITE, self.put(&name, &record, condition)).await;
        match written {
            Ok(Ok(StateWrite::Written(etag))) => (last.etag, last.is_there) = (etag, true),
            Ok(Ok(StateWrite::Refused)) => last.is_lost = true,
            Ok(Err(error)) => tracing::warn!(%error, "{name} could not be written"),
            Err(_) => tracing::warn!("{name} could not be written in time"),
        }
    }

    /// Writes a record on a condition. If the condition fails, replaces an earlier record of this
    /// process, or writes a deleted record again.
    async fn put(
        &self,
        name: &str,
        record: &LiveRecord,
        condition: WriteCondition,
    ) -> Result<StateWrite, StateError> {
        let written = self.store.put(name, record, condition).await?;
        if written != StateWrite::Refused {
            return Ok(written);
        }
        match self.store.get::<LiveRecord>(name).await? {
            Some(there) if there.record.process.id == self.identity.process.id => {
                let condition = self.store.replacing(there.etag.as_deref());
                self.store.put(name, record, condition).await
            }
            // Somebody has deleted the record. A process that takes over the shard writes its own
            // without a condition.
            None => self.store.put(name, record, WriteCondition::Absent).await,
            Some(_) => Ok(StateWrite::Refused),
        }
    }

    fn record(
        &self,
        last: &mut WrittenLive,
        state: ShardActivity,
        exit: Option<i32>,
        cause: Option<String>,
    ) -> LiveRecord {
        let now = Instant::now();
        let (totals, requests) = (self.counts.totals(), self.pacer.counts());
        let ended_objects = self.counts.ended_objects.load(Ordering::Relaxed);
        let seconds = now.duration_since(last.at).as_secs_f64();
        let rate = |now: u64, before: u64| per_second(now.saturating_sub(before), seconds);
        let rates = LiveRates {
            objects: rate(ended_objects, last.ended_objects),
            bytes: rate(totals.done_bytes, last.totals.done_bytes),
            requests: rate(requests.requests, last.requests.requests),
            throttled: rate(requests.throttled, last.requests.throttled),
        };
        (last.at, last.totals, last.requests) = (now, totals, requests);
        last.ended_objects = ended_objects;
        let stalled = self.pacer.fruitless().map(|(_, reason)| reason);
        LiveRecord {
            format: FORMAT,
            shard: self.identity.shard,
            process: self.identity.process.clone(),
            run: self.identity.run.clone(),
            state,
            written: Timestamp::now(),
            session: self.session,
            totals,
            rates,
            requests,
            in_flight: self.pacer.slots().in_flight().0,
            exit,
            cause: cause.or(stalled),
        }
    }
}

/// Returns a rate. Returns 0 for less than a second, such as the time until the first record.
#[expect(clippy::cast_precision_loss, reason = "a rate is an estimate")]
fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds < SHORTEST_SAMPLE {
        return 0.0;
    }
    to_thousandths(count as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resumed_bytes_count_from_the_start_and_only_once() {
        let counts = LiveCounts {
            open_bytes: 100.into(),
            ..LiveCounts::default()
        };
        assert_eq!(counts.totals().done_bytes, 100);
        counts.observe(&Event::OrphanSettled { bytes: 60 });
        counts.observe(&Event::BytesResumed { id: 1, bytes: 60 });
        assert_eq!(counts.totals().done_bytes, 100, "no work of this session");
        counts.observe(&Event::BytesCopied {
            id: Some(1),
            bytes: 5,
        });
        assert_eq!(counts.totals().done_bytes, 105);
        // An upload that the journal does not have, for instance an adopted one.
        counts.observe(&Event::BytesResumed { id: 2, bytes: 70 });
        assert_eq!(counts.totals().done_bytes, 175);
        // An upload that is aborted.
        counts.observe(&Event::OrphanSettled { bytes: 40 });
        assert_eq!(counts.totals().done_bytes, 135);
    }
}
