//! The lease of a journal in S3: renews the sign of life of this session, and checks the sign of
//! life of another session.
//!
//! A separate task renews the record, so that a session whose writer waits (for a slow report, or
//! for the next event) still looks alive to others. Before each renewal, the task looks for the
//! segment that the session would write next. If it exists, a successor has written it. So an idle
//! session learns within seconds that it was replaced, even if the server does not honor
//! `If-Match`.
//!
//! If the server honors `If-Match`, the renewal also notices that the record was removed. If the
//! whole journal was removed, the run ends: its next segment alone would not be a journal, and
//! another session may already have created a new journal.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{BucketPlace, Listing, ROUNDS};
use crate::journal::error::JournalError;
use crate::journal::holder::{BucketHolder, HolderRecord, record_name, silence};
use crate::journal::identity::{LeaseTerms, Writer};
use crate::journal::segment::{self, segment_name};
use crate::s3::{Attributes, FailureKind, WriteCondition};

/// The longest wait for the last write of a record. Without that write, a successor waits for the
/// lease to run out.
const RELEASE: Duration = Duration::from_secs(5);
/// The longest search for a successor. A longer one would delay the sign of life.
const LOOK: Duration = Duration::from_secs(5);

/// The lease of this session. Dropping it ends its renewal.
#[derive(Debug)]
pub(in crate::journal) struct Lease {
    shared: Arc<LeaseState>,
    renewal: JoinHandle<()>,
}

#[derive(Debug)]
struct LeaseState {
    place: BucketPlace,
    terms: LeaseTerms,
    writer: Writer,
    /// Locked during each write, so that the records are written in order.
    record: Mutex<WrittenRecord>,
    /// The number of the segment that the session writes next; 0 until it holds the journal.
    next_segment: AtomicU64,
    /// True if the record was changed, and the objects of the journal have not been checked since.
    is_suspect: AtomicBool,
    /// True once the session gives up the journal. A later renewal would undo a release whose
    /// response was lost.
    is_releasing: AtomicBool,
    /// Wakes the renewal early.
    wake: Notify,
    fenced: OnceLock<JournalError>,
    /// Canceled once `fenced` is set.
    lost: CancellationToken,
}

/// The last written record.
#[derive(Debug)]
struct WrittenRecord {
    record: HolderRecord,
    /// Its `ETag`, if the response had one.
    etag: Option<String>,
}

/// A handle that releases the lease of a session from outside its journal's writer.
#[derive(Clone, Debug, Default)]
pub struct LeaseHandle(Option<Arc<LeaseState>>);

impl LeaseHandle {
    /// Releases the journal, so that the next session need not wait for the lease to run out. Does
    /// nothing for a journal without a lease.
    pub async fn release(&self) {
        if let Some(shared) = &self.0 {
            shared.release().await;
        }
    }
}

impl Lease {
    /// Writes the first sign of life of a session that is about to acquire the journal. Returns the
    /// lease, and the session that the journal may be taken from, if there is one. Fails if another
    /// session holds the journal.
    pub(super) async fn take(
        place: &BucketPlace,
        writer: &Writer,
        terms: &LeaseTerms,
    ) -> Result<(Self, Option<Writer>), JournalError> {
        place.demand_conditions()?;
        let checked = place.check_holder(writer, terms).await?;
        let shared = Arc::new(LeaseState {
            place: place.clone(),
            terms: terms.clone(),
            writer: writer.clone(),
            record: Mutex::new(WrittenRecord {
                record: HolderRecord::new(writer.clone()),
                etag: None,
            }),
            next_segment: AtomicU64::new(0),
            is_suspect: AtomicBool::new(false),
            is_releasing: AtomicBool::new(false),
            wake: Notify::new(),
            fenced: OnceLock::new(),
            lost: CancellationToken::new(),
        });
        let written = shared
            .write(&mut *shared.record.lock().await, WriteCondition::Absent)
            .await;
        match written {
            Ok(()) => {}
            // An earlier attempt succeeded, but its response was lost.
            Err(error) if is_refused_condition(&error) => {}
            Err(error) => return Err(error),
        }
        let renewal = tokio::spawn(Arc::clone(&shared).renew_always());
        Ok((Self { shared, renewal }, checked))
    }

    /// Records the number of the segment that the session writes next.
    pub(super) fn set_next_segment(&self, segment: u64) {
        self.shared.next_segment.store(segment, Ordering::Release);
    }

    /// Returns true if the record was found changed since the last call.
    pub(super) fn take_suspicion(&self) -> bool {
        self.shared.is_suspect.swap(false, Ordering::AcqRel)
    }

    /// Returns a handle that releases the lease from outside.
    pub(in crate::journal) fn handle(&self) -> LeaseHandle {
        LeaseHandle(Some(Arc::clone(&self.shared)))
    }

    /// Puts the name of the run into the record, and renews the record at once.
    pub(in crate::journal) async fn name_run(&self, run: Option<String>) {
        self.shared.record.lock().await.record.run = run;
        self.shared.wake.notify_one();
    }

    /// Waits until the journal is removed or another session takes it over. Returns the error.
    pub(super) async fn lost(&self) -> JournalError {
        self.shared.lost.cancelled().await;
        let error = self.shared.fenced.get().cloned();
        error.unwrap_or(JournalError::Closed)
    }

    pub(super) async fn release(&self) {
        self.shared.release().await;
    }

    /// Removes the record of a session that could not acquire the journal.
    pub(super) async fn withdraw(self) {
        self.renewal.abort();
        let name = record_name(&self.shared.writer.id);
        self.shared.place.remove_objects([name]).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl LeaseState {
    async fn renew_always(self: Arc<Self>) {
        let mut is_failing = false;
        loop {
            tokio::select! {
                () = sleep(self.terms.renewal) => {}
                () = self.wake.notified() => {}
            }
            match self.renew().await {
                Ok(()) => is_failing = false,
                Err(error @ (JournalError::Fenced { .. } | JournalError::Gone { .. })) => {
                    // Nothing else sets the error.
                    let _ = self.fenced.set(error);
                    self.lost.cancel();
                    return;
                }
                Err(error) => {
                    if !is_failing {
                        tracing::warn!(
                            %error,
                            "the sign of life in the journal cannot be written; after {} s without one, another run may take \
                             the journal over",
                            self.terms.duration.as_secs()
                        );
                    }
                    is_failing = true;
                }
            }
        }
    }

    async fn renew(&self) -> Result<(), JournalError> {
        let mut kept = self.record.lock().await;
        if self.is_releasing.load(Ordering::Acquire) {
            return Ok(());
        }
        self.check_next_segment().await?;
        let condition = match &kept.etag {
            Some(etag) if self.place.bucket.capabilities().if_match.put => {
                WriteCondition::Matches(etag.clone())
            }
            _ => WriteCondition::None,
        };
        match self.write(&mut kept, condition).await {
            Err(error) if is_refused_condition(&error) => {}
            written => return written,
        }
        self.check_journal().await?;
        // Whoever removed the record may also have removed a part of the journal.
        self.is_suspect.store(true, Ordering::Release);
        self.write(&mut kept, WriteCondition::None).await
    }

    /// Checks the journal because the record has changed. A user may have removed the record, with
    /// or without the journal, or a renewal whose response was lost has changed the `ETag`.
    async fn check_journal(&self) -> Result<(), JournalError> {
        if self.next_segment.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let place = self.place.to_string();
        let Some((_, name, bytes)) = self.place.last_object().await? else {
            let is_taken = false;
            return Err(JournalError::Gone { place, is_taken });
        };
        self.check_writer(&name, &bytes)
    }

    /// Returns an error if another session wrote this segment or snapshot.
    fn check_writer(&self, name: &str, bytes: &[u8]) -> Result<(), JournalError> {
        let by = segment::writer_of(name, bytes).unwrap_or_else(Writer::unknown);
        if by.id == self.writer.id {
            return Ok(());
        }
        Err(JournalError::Fenced {
            place: self.place.to_string(),
            by: Box::new(by),
        })
    }

    /// Returns an error if another session has taken over the journal: it has written the segment
    /// that this session would write next.
    async fn check_next_segment(&self) -> Result<(), JournalError> {
        let number = self.next_segment.load(Ordering::Acquire);
        if number == 0 {
            return Ok(());
        }
        let name = segment_name(number);
        // A failure is harmless, because the session's next write also finds a successor.
        let Ok(Ok(Some(found))) = timeout(LOOK, self.place.get(&name)).await else {
            return Ok(());
        };
        self.check_writer(&name, &found)
    }

    /// Writes the record with the current time.
    async fn write(
        &self,
        kept: &mut WrittenRecord,
        condition: WriteCondition,
    ) -> Result<(), JournalError> {
        kept.record.renewed = Timestamp::now();
        let key = self.place.key(&record_name(&self.writer.id))?;
        let (bytes, attributes) = (kept.record.bytes().into(), Attributes::default());
        let written = self
            .place
            .bucket
            .put_object(&key, bytes, &attributes, None, condition)
            .await
            .map_err(|failure| JournalError::store(&self.place, failure))?;
        kept.etag = Some(written.value.etag).filter(|etag| !etag.is_empty());
        Ok(())
    }

    async fn release(&self) {
        self.is_releasing.store(true, Ordering::Release);
        let released = async {
            let mut kept = self.record.lock().await;
            if kept.record.released || self.fenced.get().is_some() {
                return Ok(());
            }
            // Keeps the new record only after a successful write, so that the next call tries again
            // after a failure.
            let mut releasing = WrittenRecord {
                record: HolderRecord {
                    released: true,
                    ..kept.record.clone()
                },
                etag: None,
            };
            self.write(&mut releasing, WriteCondition::None).await?;
            *kept = releasing;
            Ok::<_, JournalError>(())
        };
        match timeout(RELEASE, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the journal could not be marked as free"),
            Err(_) => tracing::warn!("the journal could not be marked as free in time"),
        }
    }
}

/// Returns true if a condition did not hold, which includes `If-Match` on a missing object.
fn is_refused_condition(error: &JournalError) -> bool {
    matches!(
        error,
        JournalError::Store { failure, .. } if matches!(
            failure.kind(),
            FailureKind::PreconditionFailed | FailureKind::Conflict | FailureKind::NotFound
        )
    )
}

impl BucketPlace {
    /// Returns the session that holds the journal or held it last, or `None` if there is no
    /// journal.
    pub(in crate::journal) async fn holder(&self) -> Result<Option<BucketHolder>, JournalError> {
        let Some((listing, name, bytes)) = self.last_object().await? else {
            return Ok(None);
        };
        let (writer, is_closed) = segment::last_words(&name, &bytes);
        // If the segment cannot be read, the newest record names the session.
        let newest = || {
            let records = listing.records.iter();
            let newest = records.max_by_key(|(_, modified)| **modified);
            newest.map(|(id, _)| id.clone())
        };
        let id = writer.as_ref().map(|writer| writer.id.clone());
        let id = id.or_else(newest).unwrap_or_default();
        // Read by name: the list may be out of date.
        let record = match id.as_str() {
            "" => None,
            id => self.record(id).await?,
        };
        let renewed = listing.records.get(&id).copied();
        let mut holder = BucketHolder {
            released: is_closed || record.as_ref().is_some_and(|record| record.released),
            writer: writer
                .or(record.map(|record| record.writer))
                .unwrap_or_else(Writer::unknown),
            silence: Duration::ZERO,
        };
        let signs = [
            listing.last().and_then(|(_, modified)| modified),
            renewed.flatten(),
        ];
        holder.silence = silence(signs, self.now());
        if !holder.released && holder.silence >= LeaseTerms::default().duration && !id.is_empty() {
            let asked = self.written(&record_name(&id)).await?;
            holder.silence = holder.silence.min(silence([asked], self.now()));
        }
        Ok(Some(holder))
    }

    /// Returns the time when an object was written, by HEAD.
    async fn written(&self, name: &str) -> Result<Option<Timestamp>, JournalError> {
        match self.bucket.head(&self.key(name)?, None).await {
            Ok(head) => Ok(head.modified),
            Err(failure) if *failure.kind() == FailureKind::NotFound => Ok(None),
            Err(failure) => Err(JournalError::store(self, failure)),
        }
    }

    /// Returns the record of a session, or `None` if it is missing or damaged.
    async fn record(&self, id: &str) -> Result<Option<HolderRecord>, JournalError> {
        let name = record_name(id);
        let Some(bytes) = self.get(&name).await? else {
            return Ok(None);
        };
        match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                tracing::warn!(
                    "{self}{name} cannot be read ({error}); only its age tells if that session is alive"
                );
                Ok(None)
            }
        }
    }

    /// Returns the segment or snapshot that was written last, with its name and the whole listing.
    async fn last_object(&self) -> Result<Option<(Listing, String, Bytes)>, JournalError> {
        for _ in 0..ROUNDS {
            let listing = self.listing().await?;
            let Some((name, _)) = listing.last() else {
                return Ok(None);
            };
            let name = name.to_string();
            if let Some(bytes) = self.get(&name).await? {
                return Ok(Some((listing, name, bytes)));
            }
            // The running session has replaced the object with a snapshot.
        }
        Err(JournalError::missing(self))
    }

    /// Refuses a journal that another session holds. Returns the session that it may be taken from,
    /// or `None` if there is no journal yet.
    ///
    /// # Errors
    /// [`JournalError::Held`], and errors of reading the journal.
    pub(super) async fn check_holder(
        &self,
        session: &Writer,
        terms: &LeaseTerms,
    ) -> Result<Option<Writer>, JournalError> {
        let Some(holder) = self.holder().await? else {
            return Ok(None);
        };
        let Some(reason) = holder.gives_way_to(session, terms) else {
            return Err(JournalError::Held {
                place: self.to_string(),
                by: Box::new(holder.writer),
                silence: Some(holder.silence),
            });
        };
        tracing::debug!(?reason, from = %holder.writer, "the journal is taken over");
        Ok(Some(holder.writer))
    }
}
