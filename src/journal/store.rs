//! The interface between the writer of a journal and the place that stores it.

use std::future::Future;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::error::JournalError;
use super::event::JournalEvent;
use super::state::RunState;
use crate::size::MIB;

/// A snapshot is due when the segments after the last one have this many bytes, or twice its size
/// if that is more. So a journal is at most a few times as large as its state, and is read within a
/// second.
const TAIL: u64 = 8 * MIB;

/// Receives the events that are read.
pub(super) trait Visitor: Send {
    /// Receives an event.
    fn event(&mut self, event: JournalEvent);

    /// Waits until there is room for more events. A segment always fits.
    fn room(&mut self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}

impl<F: FnMut(JournalEvent) + Send> Visitor for F {
    fn event(&mut self, event: JournalEvent) {
        self(event);
    }
}

/// A visitor of events.
pub(super) type Visit<'a> = &'a mut dyn Visitor;

/// The place that stores a journal. Only one writer uses it at a time.
pub(super) trait Store: Send + Sync + 'static {
    /// False for a store that keeps nothing.
    const KEEPS: bool = true;

    /// Returns the times for which events gather before they are written: the first if no caller
    /// waits for them, the second if one does.
    fn gather(&self) -> (Duration, Duration);

    /// Appends lines, beginning with record `next`. They survive the process, but not necessarily a
    /// loss of power.
    fn write(
        &mut self,
        next: u64,
        lines: Vec<u8>,
    ) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Makes all written lines durable.
    fn sync(&mut self) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Checks at the end of a session that everything it has written still exists. Does nothing for
    /// a store whose `sync` always checks this.
    fn check_whole(&mut self) -> impl Future<Output = Result<(), JournalError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Waits until the journal is lost: another session has taken it over, or it was removed.
    fn lost(&self) -> impl Future<Output = JournalError> + Send {
        std::future::pending()
    }

    /// Releases the journal at the end of the session, so that another session may begin at once.
    fn release(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Returns true if it is time for a snapshot.
    fn wants_snapshot(&self) -> bool;

    /// Replaces everything written so far with the state, durably. `next` is the number of the next
    /// record, and `report` the length of the report.
    fn snapshot(
        &mut self,
        next: u64,
        report: u64,
        state: &RunState,
    ) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Reads all events since the last snapshot again. Waits for room before each segment.
    fn tail(&mut self, visit: Visit<'_>) -> impl Future<Output = Result<(), JournalError>> + Send;
}

/// Returns true if the segments after a snapshot are so long that another snapshot is due.
pub(super) fn is_long(tail_bytes: u64, snapshot_bytes: u64) -> bool {
    tail_bytes >= TAIL.max(snapshot_bytes.saturating_mul(2))
}

/// No journal: a run that is killed starts over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nowhere;

impl Store for Nowhere {
    const KEEPS: bool = false;

    fn gather(&self) -> (Duration, Duration) {
        (Duration::ZERO, Duration::ZERO)
    }

    async fn write(&mut self, _next: u64, _lines: Vec<u8>) -> Result<(), JournalError> {
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), JournalError> {
        Ok(())
    }

    fn wants_snapshot(&self) -> bool {
        false
    }

    async fn snapshot(
        &mut self,
        _next: u64,
        _report: u64,
        _state: &RunState,
    ) -> Result<(), JournalError> {
        Ok(())
    }

    async fn tail(&mut self, _visit: Visit<'_>) -> Result<(), JournalError> {
        Ok(())
    }
}
