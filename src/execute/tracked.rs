//! Records uploads in the journal, and ends those that are not finished.
//!
//! An upload that nobody remembers costs money until somebody finds it. So it is on record before
//! it is created, its id before its first part, and its end only when the server no longer has it.
//! Without a journal, an upload that a stop or a failure left unfinished is aborted. With a
//! journal, or if the next session adopts open uploads, that session resumes it. A Create whose
//! answer was lost or cannot be read is searched for in both cases. An upload that cannot be shown
//! to be gone is reported once, with its id and a command.

use std::collections::BTreeSet;

use jiff::Timestamp;
use tokio::time::timeout;

use super::part::Progress;
use super::receipt::Ending;
use super::{Draft, Trouble, Work};
use crate::bucket::Bucket;
use crate::journal::Journal;
use crate::journal::event::{Event, PartLengths, SourceVersion, UploadPlace};
use crate::journal::fingerprint::digest;
use crate::journal::uploads::BegunUpload;
use crate::location::ObjectKey;
use crate::multipart::{self, Aborted, MultipartUpload, Stray};
use crate::plan::loss::{Loss, Lost};
use crate::planner::Step;
use crate::s3::{Attributes, Failure, FailureKind, Operation, PartDone};
use crate::size::ByteSize;

/// An upload's number in the journal, `None` if no journal is kept, and the time just before it was
/// created.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tracked {
    upload: Option<u64>,
    intended: Timestamp,
}

/// The fingerprint of an upload: it can be resumed only if all of this is still the same.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// The source.
    pub(super) source: SourceVersion,
    /// A digest of the requested attributes. The upload may be created with fewer if the server
    /// refuses one that is only tried: the next session does not know that yet.
    attributes: String,
    /// The attributes that the server refused when the upload was created.
    losses: Vec<Loss>,
    /// It was adopted, and the request that created it is not known.
    claimed: bool,
}

impl Terms {
    pub(super) fn of(source: SourceVersion, attributes: &Attributes) -> Self {
        let attributes = digest(&format!("{attributes:?}"));
        Self {
            source,
            attributes,
            losses: Vec::new(),
            claimed: false,
        }
    }

    /// Returns the fingerprint of a new upload, without the attributes that are lost by now.
    pub(super) fn begun_with(self, draft: &Draft) -> Self {
        let losses = draft
            .losses
            .iter()
            .filter(|loss| loss.lost == Lost::NotSet)
            .cloned()
            .collect();
        Self { losses, ..self }
    }

    /// Returns the fingerprint of an adopted upload.
    pub(super) fn claimed(&self) -> Self {
        Self {
            claimed: true,
            ..self.clone()
        }
    }

    /// Returns true if an upload was created with the same fingerprint.
    pub(super) fn are_those_of(&self, begun: &BegunUpload) -> bool {
        begun.source == self.source && begun.attributes == self.attributes
    }
}

impl Work {
    /// Returns the place of this transfer's uploads to `key`.
    pub(super) fn upload_place(&self, key: &ObjectKey) -> UploadPlace {
        let to = &self.sides.transfer.to;
        UploadPlace {
            endpoint: to.endpoint.clone(),
            bucket: to.location.bucket.clone(),
            key: key.clone(),
        }
    }
}

impl Tracked {
    /// Returns the record of an upload that is in the journal already.
    pub(super) const fn known(upload: u64, intended: Timestamp) -> Self {
        Self {
            upload: Some(upload),
            intended,
        }
    }

    /// Returns the record of an upload that is about to be created and that no journal has.
    pub(super) fn off_record() -> Self {
        Self {
            upload: None,
            intended: Timestamp::now(),
        }
    }

    /// Records that an upload is about to be created.
    pub(super) async fn intend(work: &Work, step: &Step) -> Result<Self, Trouble> {
        let Some(object) = step.object.filter(|_| work.journal.keeps()) else {
            return Ok(Self::off_record());
        };
        let tracked = Self::known(work.journal.next_id(), Timestamp::now());
        let place = work.upload_place(&step.key);
        let server = Some(work.sides.destination.server().to_owned());
        tracked
            .commit(work, |upload| Event::UploadIntended {
                upload,
                object,
                place,
                server,
            })
            .await?;
        Ok(tracked)
    }

    /// Puts the upload's id on record. When that fails nobody will know it, so it is cancelled.
    pub(super) async fn begun(
        self,
        work: &Work,
        upload: &MultipartUpload,
        terms: Terms,
        parts: PartLengths,
    ) -> Result<(), Trouble> {
        let Terms {
            source,
            attributes,
            losses,
            claimed,
        } = terms;
        let (id, kms) = (upload.id().to_owned(), upload.is_kms());
        let began = |upload| Event::UploadBegan {
            upload,
            id,
            source,
            parts,
            attributes,
            kms,
            losses,
            claimed,
        };
        let outcome = self.commit(work, began).await;
        if outcome.is_err()
            && !claimed
            && !matches!(
                timeout(work.tidying(), upload.outliving_the_run().abort()).await,
                Ok(Ok(Aborted::Gone | Aborted::NotThere))
            )
        {
            let (bucket, key) = (&work.sides.destination, upload.key());
            let command = multipart::command(bucket, "abort", key, Some(upload.id()));
            tracing::warn!(%key, id = upload.id(), "the upload may be left open; abort it with `{command}`");
        }
        outcome
    }

    /// Handles a Create that failed: aborts the upload in case it took effect anyway. Returns
    /// sentences about what may be left open.
    pub(super) async fn not_begun(
        self,
        work: &Work,
        key: &ObjectKey,
        failure: &Failure,
    ) -> Vec<String> {
        let is_stopped = *failure.kind() == FailureKind::Stopped;
        let was_sent = is_stopped && failure.details().attempts > 0;
        let is_refused = !is_stopped && !failure.may_have_taken_effect();
        if !was_sent && !failure.may_have_taken_effect() && (is_stopped || !failure.is_answer()) {
            self.ended(&work.journal).await;
            return Vec::new();
        }
        if is_stopped && self.upload.is_some() {
            let told = Stray::interrupted().told(&work.sides.destination, key);
            return vec![format!(
                "{told}; the next run of this job looks for it and aborts it"
            )];
        }
        // The object is late already, so the search for what is left of it has little patience; nor
        // does it end with the run.
        let bucket = work.sides.destination.for_probes().tidying_up();
        let window = (self.intended, Timestamp::now());
        let known = work.inherited.known();
        let search = async {
            // A refusal is believed where nothing speaks against it.
            if is_refused {
                return multipart::after_refusal(&bucket, key, window, known).await;
            }
            let found = multipart::abort_unknown(&bucket, key, window, known).await;
            found.unwrap_or_else(|failure| vec![Stray::failed(None, &failure)])
        };
        let strays = tokio::select! {
            strays = search => strays,
            () = work.hurry() => vec![Stray::unanswered(None, work.tidying())],
        };
        if !strays.iter().any(|stray| stray.may_pass) {
            self.ended(&work.journal).await;
        }
        strays
            .iter()
            .map(|stray| stray.told(&bucket, key))
            .collect()
    }

    /// Records a part that S3 holds.
    pub(super) async fn part(self, work: &Work, part: &PartDone) -> Result<(), Trouble> {
        let Some(upload) = self.upload else {
            return Ok(());
        };
        let PartDone {
            number, size, etag, ..
        } = part.clone();
        let stored = Event::PartStored {
            upload,
            number,
            size,
            etag,
        };
        work.journal
            .append(stored)
            .await
            .map_err(|_| Trouble::Stopped)
    }

    /// Puts on record that the upload is about to be completed, and the `ETag` that the object will
    /// have.
    pub(super) async fn completing(self, work: &Work, etag: Option<String>) -> Result<(), Trouble> {
        self.commit(work, |upload| Event::CompleteIntended { upload, etag })
            .await
    }

    /// Records that the server no longer has the upload.
    pub(super) async fn ended(self, journal: &Journal) {
        if let Some(upload) = self.upload {
            // A journal that is broken stops the run by itself; the next session finds the upload
            // gone.
            let _ = journal.append(Event::UploadEnded { upload }).await;
        }
    }

    /// Handles the result of an upload: one that did not become the object is aborted, unless the
    /// next session resumes it. Returns true if its parts are lost.
    pub(super) async fn settle(
        self,
        work: &Work,
        upload: &MultipartUpload,
        outcome: &Result<Ending, Trouble>,
        (progress, draft): (&Progress, &mut Draft),
    ) -> bool {
        if matches!(outcome, Ok(Ending::Done { .. })) {
            self.ended(&work.journal).await;
            return false;
        }
        // The next session tries the object that ends the run again.
        let is_left = outcome.as_ref().is_err_and(Trouble::is_left);
        // If the journal is broken, the upload may belong to another session by now.
        let goes_on = is_left || work.journal.broken().is_cancelled();
        if goes_on && (self.upload.is_some() || work.claims) {
            if self.upload.is_none() {
                let id = upload.id();
                let command =
                    multipart::command(&work.sides.destination, "abort", upload.key(), Some(id));
                draft.notes.push(format!(
                    "the upload {id} is left open: the next run with --adopt goes on with it, and `{command}` frees its parts"
                ));
            }
            return false;
        }
        if let Err(Trouble::Failed(failure)) = outcome
            && !progress.done.is_empty()
            && may_succeed_later(failure)
            && self.keep(work).await
        {
            draft.notes.push(format!(
                "its upload keeps {} of its parts ({}) for `s3haul retry` or the next run of the same command",
                progress.done.len(),
                ByteSize(progress.bytes)
            ));
            return false;
        }
        if matches!(outcome, Err(Trouble::NotOurs)) {
            self.ended(&work.journal).await;
            return true;
        }
        if work.abandon(upload, draft).await {
            self.ended(&work.journal).await;
        }
        // The server denied an upload that it created a moment ago.
        if let Err(Trouble::Failed(failure)) = outcome
            && *failure.kind() == FailureKind::NoSuchUpload
            && failure.details().operation != Operation::CompleteMultipartUpload
            && progress.done.is_empty()
        {
            let upload = upload.outliving_the_run();
            draft.notes.extend(Box::pin(upload.end_elsewhere()).await);
        }
        true
    }

    /// Records that the next run resumes the upload. Returns false if nobody would know of it then.
    async fn keep(self, work: &Work) -> bool {
        let Some(upload) = self.upload else {
            return false;
        };
        if work
            .journal
            .append(Event::UploadKept { upload })
            .await
            .is_err()
        {
            return false;
        }
        if let Some(open) = work.journal.open_upload(upload).await {
            work.inherited.give_back(upload, open);
        }
        true
    }

    /// Ends an upload that an earlier session left: by its id, or by searching for it where none is
    /// known. Returns those that may be left open; they are to be reported now, for they are on
    /// record no more.
    ///
    /// # Errors
    /// The failure of the abort; the upload stays on record then.
    pub(super) async fn cancel(
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
                // It is told now. Later runs would only be told the same.
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

    async fn commit(self, work: &Work, event: impl FnOnce(u64) -> Event) -> Result<(), Trouble> {
        let Some(upload) = self.upload else {
            return Ok(());
        };
        // A journal that is broken stops the run by itself.
        work.journal
            .commit(event(upload))
            .await
            .map_err(|_| Trouble::Stopped)
    }
}

/// Returns true for a failure that says nothing about the parts: with a permission that is granted,
/// or a server that answers, the same upload can be finished.
fn may_succeed_later(failure: &Failure) -> bool {
    failure.is_passing()
        || matches!(
            failure.kind(),
            FailureKind::Denied
                | FailureKind::Credentials
                | FailureKind::NoCredentials
                | FailureKind::ClockSkew
                | FailureKind::Certificate(_)
                | FailureKind::Unreadable
        )
}
