//! Holds the uploads that earlier sessions left open, until an object takes them over or the run
//! aborts them.
//!
//! When a run starts, it aborts the uploads of objects that it will not copy (after a fresh start,
//! or a failed abort). When the run ends, it aborts the uploads that no object took over. An upload
//! that cannot be aborted stays on record, and the next run tries again. If the server accepts the
//! abort but does not show that the upload was removed, the run reports the upload once, with its
//! ID and a command, and closes its record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::record::UploadRecord;
use crate::bucket::{AMAZON, Bucket};
use crate::connections::Connections;
use crate::execute::monitor::{Event, Monitor};
use crate::journal::Journal;
use crate::journal::event::UploadPlace;
use crate::journal::state::RunState;
use crate::journal::uploads::{JournaledUpload, Kept};
use crate::location::S3Uri;
use crate::manifest::job::{Job, Transfer};
use crate::multipart::{self, MultipartUpload, Stray};
use crate::s3::{Failure, FailureKind, Operation};

/// The longest time for which a request of an ended session may still be in flight.
const REQUEST_GRACE: Duration = Duration::from_mins(5);

/// The uploads that earlier sessions left open and that no object has taken over yet.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    uploads: Mutex<BTreeMap<u64, JournaledUpload>>,
    /// The bytes of the uploads that were not yet reported to the monitor as settled, by number.
    unsettled: Mutex<BTreeMap<u64, u64>>,
    /// The IDs of all uploads on record, taken over or not.
    known: BTreeSet<String>,
    /// The time until which a request of the last session may have created an upload.
    until: Timestamp,
    /// The numbers of the objects that this session resumes.
    resumed_objects: BTreeSet<u64>,
    /// The transfers whose keys are all listed again, by position in the job. Their objects get
    /// other numbers.
    listed_anew: BTreeSet<u32>,
    /// The transfers that this session resumes. Their uploads may belong to objects that had other
    /// numbers.
    resumed_transfers: BTreeSet<u32>,
}

/// An upload that an earlier session left open.
#[derive(Clone, Debug)]
pub(crate) struct OrphanUpload {
    number: u64,
    pub(crate) record: UploadRecord,
    pub(crate) open: JournaledUpload,
}

impl OrphanUpload {
    fn of((number, open): (u64, JournaledUpload)) -> Self {
        Self {
            number,
            record: UploadRecord::known(number, open.intended),
            open,
        }
    }
}

impl Orphans {
    /// Collects the uploads that the journal records as open.
    pub(crate) fn of(state: &RunState, listed_anew: BTreeSet<u32>, patience: Duration) -> Self {
        let created = state
            .uploads
            .values()
            .filter_map(|open| open.created.as_ref());
        let last = state.last.unwrap_or_default();
        let ranges = state
            .ranges
            .values()
            .filter(|range| !listed_anew.contains(&range.transfer));
        Self {
            known: created.map(|created| created.id.clone()).collect(),
            uploads: Mutex::new(state.uploads.clone()),
            unsettled: Mutex::new(state.open_bytes_of_uploads().collect()),
            // A session writes no event while it repeats a request to a silent server.
            until: last
                .checked_add(patience + REQUEST_GRACE)
                .unwrap_or(last)
                .min(Timestamp::now()),
            resumed_objects: ranges
                .flat_map(|range| range.pending.keys().copied())
                .collect(),
            listed_anew,
            resumed_transfers: state.ranges.values().map(|range| range.transfer).collect(),
        }
    }

    /// Claims the uploads of an object to this location, the latest last. The caller then owns
    /// them.
    pub(crate) fn take(&self, object: Option<u64>, place: &UploadPlace) -> Vec<OrphanUpload> {
        self.take_if(|open| {
            let is_its =
                Some(open.object) == object || !self.resumed_objects.contains(&open.object);
            is_its && open.place == *place
        })
    }

    /// Takes back an upload whose object failed, because this session may try the object again.
    pub(crate) fn give_back(&self, upload: u64, open: JournaledUpload) {
        self.uploads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(upload, open);
    }

    /// Reports to the monitor that an upload is settled, unless this was already reported.
    pub(crate) fn settle(&self, orphan: &OrphanUpload, monitor: &dyn Monitor) {
        let mut unsettled = self
            .unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = unsettled.remove(&orphan.number) {
            monitor.observe(&Event::OrphanSettled { bytes });
        }
    }

    /// Returns true if all keys of a transfer are listed again.
    pub(crate) fn lists_anew(&self, transfer: u32) -> bool {
        self.listed_anew.contains(&transfer)
    }

    /// Returns true for an upload that an earlier session recorded.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.known.contains(id)
    }

    /// Returns the IDs of all uploads that earlier sessions recorded.
    pub(crate) fn known(&self) -> &BTreeSet<String> {
        &self.known
    }

    fn take_if(&self, pick: impl Fn(&JournaledUpload) -> bool) -> Vec<OrphanUpload> {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads
            .extract_if(.., |_, open| pick(open))
            .map(OrphanUpload::of)
            .collect()
    }

    /// Aborts the uploads of objects that this run will not copy.
    pub(crate) async fn sweep(
        &self,
        journal: &Journal,
        monitor: &dyn Monitor,
        (job, connections): (&Job, &mut Connections),
    ) {
        let is_wanted = |open: &JournaledUpload| {
            let is_below = |(number, transfer): (u32, &Transfer)| {
                let (place, to) = (&open.place, &transfer.to);
                (self.resumed_transfers.contains(&number) || open.kept != Kept::No)
                    && (&place.endpoint, &place.bucket) == (&to.endpoint, &to.location.bucket)
                    && place.key.as_str().starts_with(to.location.key.as_str())
            };
            let is_for_another_run = job.retries.is_some() && open.kept != Kept::No;
            is_for_another_run
                || self.resumed_objects.contains(&open.object)
                || (0..).zip(&job.transfers).any(is_below)
        };
        self.abort_those(
            |open| !is_wanted(open),
            journal,
            monitor,
            (job, connections),
        )
        .await;
    }

    /// Aborts the uploads that no object took over. Leaves open the uploads that this run kept for
    /// the next run. A retry also leaves open the uploads that were kept for objects that it does
    /// not retry.
    pub(crate) async fn abort_rest(
        &self,
        journal: &Journal,
        monitor: &dyn Monitor,
        (job, connections): (&Job, &mut Connections),
    ) {
        self.abort_those(
            |open| match open.kept {
                Kept::No => true,
                Kept::ForThisRun => job.retries.is_none(),
                Kept::ForNextRun => false,
            },
            journal,
            monitor,
            (job, connections),
        )
        .await;
    }

    async fn abort_those(
        &self,
        pick: impl Fn(&JournaledUpload) -> bool,
        journal: &Journal,
        monitor: &dyn Monitor,
        (job, connections): (&Job, &mut Connections),
    ) {
        for orphan in self.take_if(pick) {
            let place = &orphan.open.place;
            let is_there = |to: &&Transfer| {
                to.to.endpoint == place.endpoint && to.to.location.bucket == place.bucket
            };
            let transfer = job.transfers.iter().find(is_there);
            let access = transfer
                .map(|transfer| transfer.destination_access.clone())
                .unwrap_or_default();
            let reached = connections
                .bucket_with_access(&place.endpoint, &place.bucket, &access)
                .await;
            let bucket = match reached {
                Ok(bucket) => bucket,
                Err(failure) => {
                    tracing::warn!(%place, %failure, "an upload of an earlier session is still open; the next run tries again");
                    continue;
                }
            };
            let notes = self.abort(&orphan, journal, monitor, &bucket).await;
            if notes.is_empty() {
                tracing::info!(%place, "aborted an upload that an earlier session left open");
            }
            for note in notes {
                tracing::warn!(%place, "{note}");
            }
        }
    }

    /// Aborts an upload. Returns notes about uploads that may be left open.
    pub(crate) async fn abort(
        &self,
        orphan: &OrphanUpload,
        journal: &Journal,
        monitor: &dyn Monitor,
        bucket: &Bucket,
    ) -> Vec<String> {
        // This session will not use its parts, even if the upload stays open.
        self.settle(orphan, monitor);
        let (key, id) = (
            &orphan.open.place.key,
            orphan
                .open
                .created
                .as_ref()
                .map(|created| created.id.as_str()),
        );
        match self.try_abort(orphan, journal, bucket).await {
            // The record is closed, so nothing else reports these uploads.
            Ok(strays) => strays
                .iter()
                .map(|stray| stray.describe(bucket, key))
                .collect(),
            Err(failure) if *failure.kind() == FailureKind::NoSuchUpload => {
                let id = id.unwrap_or("of unknown id");
                vec![format!(
                    "the upload {id} of an earlier session is still open: {}",
                    failure.details().message
                )]
            }
            Err(failure) => {
                let stray = Stray::failed(id, &failure);
                vec![format!(
                    "{}; the next run tries again",
                    stray.describe(bucket, key)
                )]
            }
        }
    }

    async fn try_abort(
        &self,
        orphan: &OrphanUpload,
        journal: &Journal,
        bucket: &Bucket,
    ) -> Result<Vec<Stray>, Failure> {
        let (key, id) = (
            &orphan.open.place.key,
            orphan
                .open
                .created
                .as_ref()
                .map(|created| created.id.as_str()),
        );
        // If another server created the upload, the response that it does not exist proves nothing.
        if let Some(server) = orphan
            .open
            .server
            .as_ref()
            .filter(|server| *server != bucket.server())
        {
            let is_here = match id {
                Some(id) => !MultipartUpload::open(bucket, key, id).is_gone().await?,
                None => false,
            };
            if !is_here {
                let location = S3Uri {
                    bucket: bucket.name().clone(),
                    key: key.clone(),
                };
                let url = (server != AMAZON).then(|| ["--endpoint-url".to_owned(), server.clone()]);
                let flags: Vec<_> = url.into_iter().flatten().collect();
                let verb = if id.is_some() { "abort" } else { "list" };
                let command = multipart::command_at(&location, &flags, verb, id);
                let message = format!("it was created at {server}: end it there with `{command}`");
                let operation = Operation::AbortMultipartUpload;
                return Err(Failure::new(
                    FailureKind::NoSuchUpload,
                    operation,
                    bucket.place(key),
                    message,
                ));
            }
        }
        orphan
            .record
            .abort(journal, bucket, key, id, (self.until, &self.known))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_be_sent_again_in_silence_for_as_long_as_patience_lasts() {
        let patience = Duration::from_mins(15);
        let until = |last| {
            let state = RunState {
                last: Some(last),
                ..RunState::default()
            };
            Orphans::of(&state, BTreeSet::new(), patience).until
        };
        let before = Timestamp::now();
        let long_ago = before - Duration::from_hours(5);
        assert_eq!(until(long_ago), long_ago + patience + REQUEST_GRACE);
        let just_now = until(before);
        assert!(
            (before..=Timestamp::now()).contains(&just_now),
            "later uploads belong to other programs"
        );
    }
}
