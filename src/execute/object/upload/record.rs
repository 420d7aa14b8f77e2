//! Keeps uploads on record in the journal.
//!
//! A forgotten upload costs money until somebody finds it. So s3haul records an upload before it
//! creates it, the upload's ID before it sends the first part, and the upload's end only when the
//! server no longer has it. If the response to Create is lost or unreadable, s3haul searches for
//! the upload, with or without a journal. An upload that may still be open is reported once, with
//! its ID and a command.

use std::collections::BTreeSet;

use jiff::Timestamp;
use tokio::time::timeout;

use super::digest::digest;
use crate::bucket::Bucket;
use crate::execute::TransferContext;
use crate::execute::object::round_failure::RoundFailure;
use crate::execute::receipt::Draft;
use crate::journal::Journal;
use crate::journal::event::{JournalEvent, PartLengths, SourceVersion};
use crate::journal::uploads::UploadDetails;
use crate::location::ObjectKey;
use crate::multipart::{self, Aborted, MultipartUpload, Stray};
use crate::plan::loss::{Loss, Lost};
use crate::plan::parts::PartLayout;
use crate::planner::Step;
use crate::s3::{Attributes, Failure, FailureKind, PartDone};

/// The record of an upload in the journal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UploadRecord {
    /// The number of the upload in the journal; `None` if it is not recorded.
    upload: Option<u64>,
    /// A time just before the request that created it.
    intended: Timestamp,
}

/// The properties of an upload by which a later session decides whether to resume it.
#[derive(Clone, Debug)]
pub(crate) struct UploadFingerprint {
    /// The version of the source.
    pub(crate) source: SourceVersion,
    /// A digest of the requested attributes, not of the accepted ones: a later session does not
    /// know yet which attributes the server refuses.
    attributes: String,
    /// The attributes that the server refused when the upload was created.
    losses: Vec<Loss>,
    /// True if the upload was adopted. The request that created the upload is then unknown.
    adopted: bool,
}

impl UploadFingerprint {
    pub(crate) fn of(source: SourceVersion, attributes: &Attributes) -> Self {
        Self {
            source,
            attributes: digest(attributes),
            losses: Vec::new(),
            adopted: false,
        }
    }

    /// Returns the fingerprint with the losses that occurred when the upload was created.
    pub(crate) fn with_losses(self, draft: &Draft) -> Self {
        let losses = draft
            .losses
            .iter()
            .filter(|loss| loss.lost == Lost::NotSet)
            .cloned()
            .collect();
        Self { losses, ..self }
    }

    /// Returns the fingerprint of an adopted upload.
    pub(crate) fn of_adopted(&self) -> Self {
        Self {
            adopted: true,
            ..self.clone()
        }
    }

    /// Returns true if a recorded upload has the same source version and requested attributes.
    pub(crate) fn matches(&self, created: &UploadDetails) -> bool {
        created.source == self.source && created.attributes == self.attributes
    }
}

impl UploadRecord {
    /// Returns true if the upload is recorded in a journal.
    pub(crate) const fn is_kept(self) -> bool {
        self.upload.is_some()
    }

    /// Returns the record of an upload that is in the journal already.
    pub(crate) const fn known(upload: u64, intended: Timestamp) -> Self {
        Self {
            upload: Some(upload),
            intended,
        }
    }

    /// Returns the record of an upload that is about to be created and is not recorded.
    pub(crate) fn off_record() -> Self {
        Self {
            upload: None,
            intended: Timestamp::now(),
        }
    }

    /// Records that an upload is about to be created.
    pub(crate) async fn record_create(
        context: &TransferContext,
        step: &Step,
    ) -> Result<Self, RoundFailure> {
        let Some(object) = step.object.filter(|_| context.journal.keeps()) else {
            return Ok(Self::off_record());
        };
        let record = Self::known(context.journal.next_id(), Timestamp::now());
        let place = context.upload_place(&step.key);
        let server = Some(context.sides.destination.server().to_owned());
        record
            .commit(context, |upload| JournalEvent::UploadIntended {
                upload,
                object,
                place,
                server,
            })
            .await?;
        Ok(record)
    }

    /// Records the upload's ID. If that fails, no later session would know the upload, so this
    /// aborts the upload, unless it was adopted.
    pub(crate) async fn created(
        self,
        context: &TransferContext,
        upload: &MultipartUpload,
        fingerprint: UploadFingerprint,
        layout: &PartLayout,
    ) -> Result<(), RoundFailure> {
        let UploadFingerprint {
            source,
            attributes,
            losses,
            adopted,
        } = fingerprint;
        let (id, kms) = (upload.id().to_owned(), upload.is_kms());
        let parts = lengths(layout);
        let created = |upload| JournalEvent::UploadBegan {
            upload,
            id,
            source,
            parts,
            attributes,
            kms,
            losses,
            adopted,
        };
        let outcome = self.commit(context, created).await;
        if outcome.is_err()
            && !adopted
            && !matches!(
                timeout(context.abort_time(), upload.outliving_the_run().abort()).await,
                Ok(Ok(Aborted::Gone | Aborted::NotThere))
            )
        {
            let (bucket, key) = (&context.sides.destination, upload.key());
            let command = multipart::command(bucket, "abort", key, Some(upload.id()));
            tracing::warn!(%key, id = upload.id(), "the upload may be left open; abort it with `{command}`");
        }
        outcome
    }

    /// Handles a Create that failed: searches for its upload and aborts it, in case the request
    /// took effect. Returns notes about uploads that may be left open.
    pub(crate) async fn not_created(
        self,
        context: &TransferContext,
        key: &ObjectKey,
        failure: &Failure,
    ) -> Vec<String> {
        let is_stopped = *failure.kind() == FailureKind::Stopped;
        let was_sent = is_stopped && failure.details().attempts > 0;
        let is_refused = !is_stopped && !failure.may_have_taken_effect();
        if !was_sent && !failure.may_have_taken_effect() && (is_stopped || !failure.is_answer()) {
            self.ended(&context.journal).await;
            return Vec::new();
        }
        if is_stopped && self.upload.is_some() {
            let stray = Stray::interrupted().describe(&context.sides.destination, key);
            return vec![format!(
                "{stray}; the next run of this job looks for it and aborts it"
            )];
        }
        // The search has little patience, because the object is already delayed. A stop does not
        // end the search.
        let bucket = context.sides.destination.for_probes().for_cleanup();
        let window = (self.intended, Timestamp::now());
        let known = context.orphans.known();
        let search = async {
            // A refusal is trusted unless the list shows an upload.
            if is_refused {
                return multipart::after_refusal(&bucket, key, window, known).await;
            }
            let found = multipart::abort_unknown(&bucket, key, window, known).await;
            found.unwrap_or_else(|failure| vec![Stray::failed(None, &failure)])
        };
        let strays = tokio::select! {
            strays = search => strays,
            () = context.abort_time_over() => vec![Stray::unanswered(None, context.abort_time())],
        };
        if !strays.iter().any(|stray| stray.may_pass) {
            self.ended(&context.journal).await;
        }
        strays
            .iter()
            .map(|stray| stray.describe(&bucket, key))
            .collect()
    }

    /// Records a part that S3 has. Does not wait until the record is durable: if the record is
    /// lost, the next session finds the part in the server's list and accepts it by its size.
    pub(crate) async fn part(
        self,
        context: &TransferContext,
        part: &PartDone,
    ) -> Result<(), RoundFailure> {
        let Some(upload) = self.upload else {
            return Ok(());
        };
        let PartDone {
            number, size, etag, ..
        } = part.clone();
        let stored = JournalEvent::PartStored {
            upload,
            number,
            size,
            etag,
        };
        context
            .journal
            .append(stored)
            .await
            .map_err(|_| RoundFailure::Stopped)
    }

    /// Records that the upload is about to be completed, and the `ETag` that its object will have.
    pub(crate) async fn completing(
        self,
        context: &TransferContext,
        etag: Option<String>,
    ) -> Result<(), RoundFailure> {
        self.commit(context, |upload| JournalEvent::CompleteIntended {
            upload,
            etag,
        })
        .await
    }

    /// Records that the server no longer has the upload.
    pub(crate) async fn ended(self, journal: &Journal) {
        if let Some(upload) = self.upload {
            // Ignore an error: the watcher of a broken journal stops the run, and the next session
            // finds that the upload no longer exists.
            let _ = journal.append(JournalEvent::UploadEnded { upload }).await;
        }
    }

    /// Records that the next run may resume the upload. Returns false if the record could not be
    /// written.
    pub(crate) async fn keep(self, context: &TransferContext) -> bool {
        let Some(upload) = self.upload else {
            return false;
        };
        if context
            .journal
            .append(JournalEvent::UploadKept { upload })
            .await
            .is_err()
        {
            return false;
        }
        if let Some(open) = context.journal.open_upload(upload).await {
            context.orphans.give_back(upload, open);
        }
        true
    }

    /// Aborts an upload that an earlier session left open, by its ID, or by a search if the ID is
    /// not known. Then closes its record. Returns the uploads that may still be open. The caller
    /// must report them, because no later session will.
    ///
    /// # Errors
    /// Returns the failure of the abort; the upload then stays on record.
    pub(crate) async fn abort(
        self,
        journal: &Journal,
        bucket: &Bucket,
        key: &ObjectKey,
        id: Option<&str>,
        (until, known): (Timestamp, &BTreeSet<String>),
    ) -> Result<Vec<Stray>, Failure> {
        let strays = match id {
            Some(id) => match MultipartUpload::open(bucket, key, id).abort().await {
                Ok(Aborted::Gone | Aborted::NotThere) => Vec::new(),
                // A later run would get the same response.
                Ok(Aborted::Unverified(failure) | Aborted::StillListed(failure)) => {
                    vec![Stray::failed(Some(id), &failure)]
                }
                // No later run can do more.
                Err(failure) if *failure.kind() == FailureKind::Unsupported => {
                    vec![Stray::failed(Some(id), &failure)]
                }
                Err(failure) => return Err(failure),
            },
            None => {
                match multipart::abort_forgotten(bucket, key, (self.intended, until), known).await {
                    Ok(strays) => strays,
                    Err(failure) => {
                        let stray = Stray::failed(None, &failure);
                        if stray.may_pass {
                            return Err(failure);
                        }
                        vec![stray]
                    }
                }
            }
        };
        self.ended(journal).await;
        Ok(strays)
    }

    /// Records an event of the upload, and waits until it is durable.
    async fn commit(
        self,
        context: &TransferContext,
        event: impl FnOnce(u64) -> JournalEvent,
    ) -> Result<(), RoundFailure> {
        let Some(upload) = self.upload else {
            return Ok(());
        };
        // The watcher of a broken journal stops the run.
        context
            .journal
            .commit(event(upload))
            .await
            .map_err(|_| RoundFailure::Stopped)
    }
}

/// Returns the lengths of a layout's parts.
pub(crate) fn lengths(layout: &PartLayout) -> PartLengths {
    layout.parts().map(|part| part.length).collect()
}
