//! The interface between the writer and the place where a journal is kept.

use std::future::Future;
use std::time::Duration;

use super::error::JournalError;
use super::event::Event;
use super::state::RunState;
use crate::size::MIB;

/// A snapshot is due when the segments behind the last one have this many bytes, or twice as many
/// as it has itself. So a journal has at most a few times the bytes of its state, and is read
/// within a second.
const TAIL: u64 = 8 * MIB;

/// The place where a journal is kept. One writer uses it; a session that opens it reads what was
/// written before.
pub(super) trait Store: Send + Sync + 'static {
    /// False for a place that forgets everything.
    const KEEPS: bool = true;

    /// Returns how long events gather before they are written: if nobody waits for them, and if
    /// somebody does.
    fn gather(&self) -> (Duration, Duration);

    /// Adds lines, the first of which is record `next`. They survive the process, though not yet a
    /// loss of power.
    fn write(
        &mut self,
        next: u64,
        lines: Vec<u8>,
    ) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Makes all that was written durable.
    fn sync(&mut self) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Waits until another session is seen to have taken the place over.
    fn lost(&self) -> impl Future<Output = JournalError> + Send {
        std::future::pending()
    }

    /// Says that this session is at its end, so that another one may begin at once.
    fn release(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Returns true if it is time for a snapshot.
    fn wants_snapshot(&self) -> bool;

    /// Puts the state, durably, in the place of all that was written; the next record is `next`.
    fn snapshot(
        &mut self,
        next: u64,
        report: u64,
        state: &RunState,
    ) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Shows all events since the last snapshot again.
    fn tail(
        &mut self,
        visit: &mut (dyn FnMut(Event) + Send),
    ) -> impl Future<Output = Result<(), JournalError>> + Send;
}

/// Returns true if a tail of this many bytes is due to be folded into a snapshot.
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

    async fn tail(&mut self, _visit: &mut (dyn FnMut(Event) + Send)) -> Result<(), JournalError> {
        Ok(())
    }
}
