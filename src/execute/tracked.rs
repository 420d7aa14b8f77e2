//! What the journal is told of an upload, and what becomes of one that is not finished.
//!
//! An upload that nobody remembers costs money until somebody finds it. So it is on record before
//! it is begun, its id before its first part, and its end only when the server has it no more.
//! Where no journal is kept, an upload that a stop or a failure left unfinished is aborted; where
//! one is kept, or the next session claims what is open, that goes on with it. A Create whose
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

/// An upload's number in the journal, none where no journal is kept, and the time before it was
/// begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tracked {
    upload: Option<u64>,
    intended: Timestamp,
}

/// What an upload is begun with: it can be gone on with only if all of it is still the same.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// What is copied.
    pub(super) source: SourceVersion,
    /// A digest of what the object shall have. Not of what it is begun with, which is less where a
    /// server refuses something that is only tried: the next session does not know that yet.
    attributes: String,
    /// What the server did not let it be begun with.
    losses: Vec<Loss>,
    /// It was found open, and how it was begun is not known.
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

    /// An upload was begun, without what is lost by now.
    pub(super) fn begun_with(self, draft: &Draft) -> Self {
        let losses = draft
            .losses
            .iter()
            .filter(|loss| loss.lost == Lost::NotSet)
            .cloned()
            .collect();
        Self { losses, ..self }
    }

    /// An upload was found open.
    pub(super) fn claimed(&self) -> Self {
        Self {
            claimed: true,
            ..self.clone()
        }
    }

    /// Whether an upload was begun for the same.
    pub(super) fn are_those_of(&self, begun: &BegunUpload) -> bool {
        begun.source == self.source && begun.attributes == self.attributes
    }
}

impl Work {
    /// Where this transfer's uploads to `key` are.
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
    /// The record of an upload that is in the journal already.
    pub(super) const fn known(upload: u64, intended: Timestamp) -> Self {
        Self {
            upload: Some(upload),
            intended,
        }
    }

    /// An upload that is about to be begun and that no journal has.
    pub(super) fn off_record() -> Self {
        Self {
            upload: None,
            intended: Timestamp::now(),
        }
    }

    /// Puts on record that an upload is about to be begun.
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

    /// Sees to an upload that could not be begun, as far as one knows: the request may have taken
    /// effect all the same. Returns sentences about what may be left open.
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

    /// S3 holds a part.
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

    /// The server has the upload no more.
    pub(super) async fn ended(self, journal: &Journal) {
        if let Some(upload) = self.upload {
            // A journal that is broken stops the run by itself; the next session finds the upload
            // gone.
            let _ = journal.append(Event::UploadEnded { upload }).await;
        }
    }

    /// Sees to what an upload came to: one that did not become the object is aborted, unless the
    /// next session goes on with it. Returns true when its parts are lost.
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
        // What ends the run is tried again by the next session.
        let is_left = match outcome {
            Err(Trouble::Stopped) => true,
            Err(Trouble::Failed(failure)) => failure.ends_run(),
            _ => false,
        };
        // When the journal is broken the upload may be another session's by now.
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
                "its upload keeps {} of its parts ({}) for the next run of the same command",
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
        {
            let upload = upload.outliving_the_run();
            draft.notes.extend(Box::pin(upload.end_elsewhere()).await);
        }
        true
    }

    /// Puts on record that the next run goes on with the upload. Returns false where nobody would
    /// know of it then.
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
    /// What S3 says; the upload stays on record then.
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
