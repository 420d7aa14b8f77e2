//! Makes a journal fail at a record that a test chooses.
//!
//! A test has no other way to fill the disk, or to kill the process, between two particular events.
//! Without a fault, every call goes straight to the store.

use std::future::pending;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::JournalError;
use super::state::RunState;
use super::store::{Store, Visit};

/// The way in which a journal fails.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "for tests"))]
pub enum WriteFault {
    /// Writes fail because no space is left.
    Full,
    /// Writes never return, as if the process had died. The token is canceled at the first one.
    Dead(CancellationToken),
}

/// A wrapper around a store that injects a fault, if there is one.
#[derive(Debug)]
pub(super) struct Faulty<S> {
    store: S,
    /// The number of the first record that is not written, and what happens instead.
    fault: Option<(u64, WriteFault)>,
    /// True once the fault has occurred.
    struck: bool,
}

impl<S: Store> Faulty<S> {
    pub(super) fn new(store: S, fault: Option<(u64, WriteFault)>) -> Self {
        Self {
            store,
            fault,
            struck: false,
        }
    }

    /// Applies the fault to a write.
    async fn strike(&mut self) -> Result<(), JournalError> {
        self.struck = true;
        match &self.fault {
            None => Ok(()),
            Some((_, WriteFault::Full)) => Err(JournalError::Full {
                place: "of a test".to_owned(),
            }),
            Some((_, WriteFault::Dead(begins))) => {
                begins.cancel();
                pending().await
            }
        }
    }
}

impl<S: Store> Store for Faulty<S> {
    const KEEPS: bool = S::KEEPS;

    fn gather(&self) -> (Duration, Duration) {
        self.store.gather()
    }

    async fn write(&mut self, next: u64, lines: Vec<u8>) -> Result<(), JournalError> {
        let Some((first, _)) = &self.fault else {
            return self.store.write(next, lines).await;
        };
        let fit = usize::try_from(first.saturating_sub(next)).unwrap_or(usize::MAX);
        let ends = lines
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .map(|(at, _)| at + 1);
        let good = ends.take(fit).last().unwrap_or(0);
        if good == lines.len() {
            return self.store.write(next, lines).await;
        }
        if good > 0 {
            self.store.write(next, lines[..good].to_vec()).await?;
            self.store.sync().await?;
        }
        self.strike().await
    }

    async fn sync(&mut self) -> Result<(), JournalError> {
        self.store.sync().await
    }

    async fn check_whole(&mut self) -> Result<(), JournalError> {
        self.store.check_whole().await
    }

    async fn lost(&self) -> JournalError {
        self.store.lost().await
    }

    async fn release(&mut self) {
        // A dead process does not release its journal.
        if !matches!(
            (&self.fault, self.struck),
            (Some((_, WriteFault::Dead(_))), true)
        ) {
            self.store.release().await;
        }
    }

    fn wants_snapshot(&self) -> bool {
        self.store.wants_snapshot()
    }

    async fn snapshot(
        &mut self,
        next: u64,
        report: u64,
        state: &RunState,
    ) -> Result<(), JournalError> {
        if self.struck {
            return self.strike().await;
        }
        self.store.snapshot(next, report, state).await
    }

    async fn tail(&mut self, visit: Visit<'_>) -> Result<(), JournalError> {
        self.store.tail(visit).await
    }
}
