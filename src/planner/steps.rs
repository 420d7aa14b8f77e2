//! How what is planned leaves the planner: in batches, each of one range of keys, through a bounded channel.
//!
//! A range's news come in order, and the news of ranges that are planned side by side in any. That a range was cut
//! ([`News::Cut`]) comes before anything about what is behind the cut.

use std::sync::{Mutex, PoisonError};
use std::vec;

use tokio::sync::mpsc;

use super::Planned;
use crate::listing::bisect::Cut;

/// Entries in one batch.
const BATCH: usize = 256;
/// Batches that wait for the executor.
const BATCHES_AHEAD: usize = 8;

/// Something about a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// What entries of the range come to.
    Planned(u32, Vec<Planned>),
    /// The range ends earlier, and another one begins there.
    Cut(Cut),
    /// All entries of the range were told.
    Ended(u32),
}

/// Nobody wants to hear more: the run stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// Gathers what is planned in one range.
#[derive(Debug)]
pub(super) struct Outbox {
    range: u32,
    news: mpsc::Sender<News>,
    batch: Mutex<Vec<Planned>>,
}

impl Outbox {
    pub(super) fn channel() -> (mpsc::Sender<News>, mpsc::Receiver<News>) {
        mpsc::channel(BATCHES_AHEAD)
    }

    pub(super) fn new(range: u32, news: mpsc::Sender<News>) -> Self {
        Self { range, news, batch: Mutex::default() }
    }

    /// Takes note, and tells when enough has gathered. Whoever is about to wait for something tells before
    /// ([`Outbox::flush`]).
    pub(super) async fn push(&self, planned: Planned) -> Result<(), Gone> {
        let is_full = {
            let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
            batch.push(planned);
            batch.len() >= BATCH
        };
        if is_full { self.flush().await } else { Ok(()) }
    }

    /// Tells at once.
    pub(super) async fn send(&self, planned: Planned) -> Result<(), Gone> {
        self.push(planned).await?;
        self.flush().await
    }

    /// Tells what has gathered.
    pub(super) async fn flush(&self) -> Result<(), Gone> {
        let batch = std::mem::take(&mut *self.batch.lock().unwrap_or_else(PoisonError::into_inner));
        if batch.is_empty() {
            return Ok(());
        }
        self.news.send(News::Planned(self.range, batch)).await.map_err(|_| Gone)
    }

    /// Tells that there is no more.
    pub(super) async fn end(self) -> Result<(), Gone> {
        self.flush().await?;
        self.news.send(News::Ended(self.range)).await.map_err(|_| Gone)
    }
}

/// What is planned, entry by entry.
#[derive(Debug)]
pub struct Steps {
    news: mpsc::Receiver<News>,
    batch: vec::IntoIter<Planned>,
}

impl Steps {
    pub(super) fn of(news: mpsc::Receiver<News>) -> Self {
        Self { news, batch: Vec::new().into_iter() }
    }

    /// What the next entry comes to; `None` at the end.
    pub async fn recv(&mut self) -> Option<Planned> {
        loop {
            if let Some(planned) = self.batch.next() {
                return Some(planned);
            }
            if let News::Planned(_, batch) = self.news.recv().await? {
                self.batch = batch.into_iter();
            }
        }
    }
}
