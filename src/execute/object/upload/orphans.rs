//! The uploads that earlier sessions left open, until an object takes them or the run aborts them.
//!
//! A run aborts the uploads of objects that nobody will copy any more (a fresh run, a failed abort)
//! at its start, and the uploads that no object resumed at its end. An upload that cannot be
//! aborted stays in the journal, and the next run tries again. If the server accepts the abort but
//! cannot show that the upload is gone, the run reports it once, with its id and a command, and
//! removes it from the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::record::UploadRecord;
use crate::bucket::{AMAZON, Bucket};
use crate::connections::Connections;
use crate::journal::Journal;
use crate::journal::event::UploadPlace;
use crate::journal::state::RunState;
use crate::journal::uploads::{Kept, OpenUpload};
use crate::location::S3Uri;
use crate::manifest::job::{Job, Transfer};
use crate::multipart::{self, MultipartUpload, Stray};
use crate::s3::{Failure, FailureKind, Operation};

/// The time that a request of an ended session may still be in flight.
const LATE: Duration = Duration::from_mins(5);

/// Uploads that earlier sessions left open, until somebody takes them.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    left: Mutex<BTreeMap<u64, OpenUpload>>,
    /// Ids of all of them: those are nobody's strays.
    known: BTreeSet<String>,
    /// The time until which a request of the last session may have created an upload.
    until: Timestamp,
    /// The numbers of the objects that this session resumes.
    pending: BTreeSet<u64>,
    /// Transfers of which all keys are listed again, by position in the job: their objects will
    /// have other numbers.
    listed_anew: BTreeSet<u32>,
    /// The transfers that this session resumes. An upload that they left may belong to an object
    /// that had another number then.
    begun: BTreeSet<u32>,
}

/// An upload that an earlier session left open.
#[derive(Clone, Debug)]
pub(crate) struct OrphanUpload {
    pub(crate) record: UploadRecord,
    pub(crate) open: OpenUpload,
}

impl OrphanUpload {
    fn of((upload, open): (u64, OpenUpload)) -> Self {
        Self {
            record: UploadRecord::known(upload, open.intended),
            open,
        }
    }
}

impl Orphans {
    /// Collects the uploads that the journal records as open.
    pub(crate) fn of(state: &RunState, listed_anew: BTreeSet<u32>, patience: Duration) -> Self {
        let begun = state
            .uploads
            .values()
            .filter_map(|open| open.begun.as_ref());
        let last = state.last.unwrap_or_default();
        let ranges = state
            .ranges
            .values()
            .filter(|range| !listed_anew.contains(&range.transfer));
        Self {
            known: begun.map(|begun| begun.id.clone()).collect(),
            left: Mutex::new(state.uploads.clone()),
            // Nothing is heard of a session while it asks a silent server again and again.
            until: last
                .checked_add(patience + LATE)
                .unwrap_or(last)
                .min(Timestamp::now()),
            pending: ranges
                .flat_map(|range| range.pending.keys().copied())
                .collect(),
            listed_anew,
            begun: state.ranges.values().map(|range| range.transfer).collect(),
        }
    }

    /// Takes the uploads of an object to this place, the latest last. They belong to the caller
    /// from now on.
    pub(crate) fn take(&self, object: Option<u64>, place: &UploadPlace) -> Vec<OrphanUpload> {
        self.take_if(|open| {
            let is_its = Some(open.object) == object || !self.pending.contains(&open.object);
            is_its && open.place == *place
        })
    }

    /// Takes back an upload of an object that failed: the object may be tried again in this
    /// session.
    pub(crate) fn give_back(&self, upload: u64, open: OpenUpload) {
        self.left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(upload, open);
    }

    /// Returns true if all keys of a transfer are listed again.
    pub(crate) fn lists_anew(&self, transfer: u32) -> bool {
        self.listed_anew.contains(&transfer)
    }

    /// Returns true for an upload that some session of the journal has created.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.known.contains(id)
    }

    /// Returns the ids of all uploads that sessions of the journal have created.
    pub(crate) fn known(&self) -> &BTreeSet<String> {
        &self.known
    }

    fn take_if(&self, pick: impl Fn(&OpenUpload) -> bool) -> Vec<OrphanUpload> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.extract_if(.., |_, open| pick(open))
            .map(OrphanUpload::of)
            .collect()
    }

    /// Cancels the uploads of objects that nobody will copy any more.
    pub(crate) async fn sweep(
        &self,
        journal: &Journal,
        (job, connections): (&Job, &mut Connections),
    ) {
        let is_wanted = |open: &OpenUpload| {
            let is_below = |(number, transfer): (u32, &Transfer)| {
                let (place, to) = (&open.place, &transfer.to);
                (self.begun.contains(&number) || open.kept != Kept::No)
                    && (&place.endpoint, &place.bucket) == (&to.endpoint, &to.location.bucket)
                    && place.key.as_str().starts_with(to.location.key.as_str())
            };
            let is_for_another_run = job.retries.is_some() && open.kept != Kept::No;
            is_for_another_run
                || self.pending.contains(&open.object)
                || (0..).zip(&job.transfers).any(is_below)
        };
        self.cancel_those(|open| !is_wanted(open), journal, (job, connections))
            .await;
    }

    /// Cancels what no object took up. What is kept of an object that failed in this run waits for
    /// the next one, and a retry leaves what is kept of objects that it is not about.
    pub(crate) async fn cancel_rest(
        &self,
        journal: &Journal,
        (job, connections): (&Job, &mut Connections),
    ) {
        self.cancel_those(
            |open| match open.kept {
                Kept::No => true,
                Kept::ForThisRun => job.retries.is_none(),
                Kept::ForNextRun => false,
            },
            journal,
            (job, connections),
        )
        .await;
    }

    async fn cancel_those(
        &self,
        pick: impl Fn(&OpenUpload) -> bool,
        journal: &Journal,
        (job, connections): (&Job, &mut Connections),
    ) {
        for left in self.take_if(pick) {
            let place = &left.open.place;
            let is_there = |to: &&Transfer| {
                to.to.endpoint == place.endpoint && to.to.location.bucket == place.bucket
            };
            let transfer = job.transfers.iter().find(is_there);
            let access = transfer
                .map(|transfer| transfer.destination_access.clone())
                .unwrap_or_default();
            let reached = connections
                .bucket_on_terms(&place.endpoint, &place.bucket, &access)
                .await;
            let bucket = match reached {
                Ok(bucket) => bucket,
                Err(failure) => {
                    tracing::warn!(%place, %failure, "an upload of an earlier session is still open; the next run tries again");
                    continue;
                }
            };
            let notes = self.cancel(&left, journal, &bucket).await;
            if notes.is_empty() {
                tracing::info!(%place, "cancelled an upload that an earlier session left open");
            }
            for note in notes {
                tracing::warn!(%place, "{note}");
            }
        }
    }

    /// Ends an upload; returns sentences about what may be left open.
    pub(crate) async fn cancel(
        &self,
        left: &OrphanUpload,
        journal: &Journal,
        bucket: &Bucket,
    ) -> Vec<String> {
        let (key, id) = (
            &left.open.place.key,
            left.open.begun.as_ref().map(|begun| begun.id.as_str()),
        );
        match self.try_cancel(left, journal, bucket).await {
            // On record no more: this is the one time that it is told.
            Ok(strays) => strays.iter().map(|stray| stray.told(bucket, key)).collect(),
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
                    stray.told(bucket, key)
                )]
            }
        }
    }

    async fn try_cancel(
        &self,
        left: &OrphanUpload,
        journal: &Journal,
        bucket: &Bucket,
    ) -> Result<Vec<Stray>, Failure> {
        let (key, id) = (
            &left.open.place.key,
            left.open.begun.as_ref().map(|begun| begun.id.as_str()),
        );
        // Another server has no such upload, which says nothing about the server that it was
        // created at.
        if let Some(server) = left
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
                let message = format!("it was begun at {server}: see to it there with `{command}`");
                let operation = Operation::AbortMultipartUpload;
                return Err(Failure::new(
                    FailureKind::NoSuchUpload,
                    operation,
                    bucket.place(key),
                    message,
                ));
            }
        }
        left.record
            .cancel(journal, bucket, key, id, (self.until, &self.known))
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
        assert_eq!(until(long_ago), long_ago + patience + LATE);
        let just_now = until(before);
        assert!(
            (before..=Timestamp::now()).contains(&just_now),
            "what comes later is somebody else's"
        );
    }
}
