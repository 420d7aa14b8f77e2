//! Ends upload sessions.
//!
//! The record of an upload is closed once the upload has become the object. Any other upload ends
//! in one of these ways:
//!
//! - It is left open for the next session, if that session tries the object again and finds the
//!   upload through the journal or `--adopt`.
//! - It is kept for the next run, if it holds parts and its object failed for a reason that may
//!   pass.
//! - It is left open, if it was adopted and belongs to another program.
//! - Otherwise it is aborted.
//!
//! The receipt names each upload that may stay open, because its parts cost money.

use super::UploadSession;
use crate::execute::monitor::Event;
use crate::execute::object::ObjectTask;
use crate::execute::object::round_failure::RoundFailure;
use crate::execute::receipt::Ending;
use crate::execute::replan::Replan;
use crate::multipart::{self, Aborted, Stray};
use crate::s3::{Failure, FailureKind, Operation};
use crate::size::ByteSize;

impl UploadSession<'_> {
    /// Ends the session without a change to the upload or its record.
    pub(in crate::execute::object) fn close(self, task: &mut ObjectTask<'_>) {
        task.draft.attempts += self.attempts;
        let id = self.id;
        self.context.monitor.observe(&Event::UploadEnded { id });
    }

    /// Ends the session and its upload, as `outcome` requires. Returns the outcome, or the reason
    /// to plan the object again if the upload no longer exists or is no longer accepted.
    pub(in crate::execute::object) async fn end(
        self,
        outcome: Result<Ending, RoundFailure>,
        task: &mut ObjectTask<'_>,
    ) -> Result<Ending, RoundFailure> {
        self.end_twins(task).await;
        let keeps_parts = self.keep_or_abort(&outcome, task).await;
        if !keeps_parts {
            self.context
                .monitor
                .observe(&Event::BytesVoided { bytes: self.bytes });
        }
        let outcome = match outcome {
            Err(RoundFailure::Failed(failure)) if self.was_ended_by_others(&failure) => {
                let failure = failure.noting("somebody else ended the upload");
                Err(Replan::UploadGone.after(failure))
            }
            Err(RoundFailure::Failed(failure))
                if !self.held.is_empty() && *failure.kind() == FailureKind::Invalid =>
            {
                Err(Replan::StaleUpload.after(failure))
            }
            outcome => outcome,
        };
        self.close(task);
        outcome
    }

    /// Closes the record of the upload, and aborts the upload unless it became the object or can be
    /// resumed. Returns false if its parts are lost.
    async fn keep_or_abort(
        &self,
        outcome: &Result<Ending, RoundFailure>,
        task: &mut ObjectTask<'_>,
    ) -> bool {
        let (context, upload, record) = (self.context, &self.upload, self.record);
        if matches!(outcome, Ok(Ending::Done { .. })) {
            record.ended(&context.journal).await;
            return true;
        }
        // The next session retries the object that ended the run. If the journal is broken, another
        // session may own the upload by now.
        let is_left_to_next = outcome
            .as_ref()
            .is_err_and(RoundFailure::leaves_object_to_next_session)
            || context.journal.broken().is_cancelled();
        if is_left_to_next && record.is_kept() {
            return true;
        }
        if is_left_to_next && context.adopts {
            let id = upload.id();
            let command =
                multipart::command(&context.sides.destination, "abort", upload.key(), Some(id));
            task.draft.notes.push(format!(
                "the upload {id} is left open: the next run with --adopt adopts it, and `{command}` frees its parts"
            ));
            return true;
        }
        let failure = match outcome {
            Err(RoundFailure::Failed(failure)) => Some(failure),
            _ => None,
        };
        if !self.done.is_empty()
            && failure.is_some_and(may_succeed_later)
            && record.keep(context).await
        {
            task.draft.notes.push(format!(
                "its upload keeps {} of its parts ({}) for `s3haul retry` or the next run of the same command",
                self.done.len(),
                ByteSize(self.bytes)
            ));
            return true;
        }
        let is_foreign = matches!(outcome, Err(RoundFailure::Replan(Replan::ForeignUpload, _)));
        if is_foreign || self.abort(task).await {
            record.ended(&context.journal).await;
        }
        // The server denies the existence of an upload that it has just created.
        if let Some(failure) = failure
            && *failure.kind() == FailureKind::NoSuchUpload
            && failure.details().operation != Operation::CompleteMultipartUpload
            && self.done.is_empty()
        {
            let upload = upload.outliving_the_run();
            let notes = Box::pin(upload.end_elsewhere()).await;
            task.draft.notes.extend(notes);
        }
        false
    }

    /// Aborts the upload, and adds a note if the upload may stay open. Returns true if the upload
    /// no longer needs a record.
    async fn abort(&self, task: &mut ObjectTask<'_>) -> bool {
        let context = self.context;
        // The upload stays on record for the session that owns the journal now.
        if context.journal.keeps()
            && context.journal.broken().is_cancelled()
            && !context.journal.error().leaves_no_record()
        {
            return false;
        }
        let upload = self.upload.outliving_the_run();
        let id = Some(upload.id());
        let (stray, is_over) = tokio::select! {
            outcome = upload.abort() => match outcome {
                Ok(Aborted::Gone | Aborted::NotThere) => return true,
                Ok(Aborted::Unverified(failure) | Aborted::StillListed(failure)) => {
                    (Stray::failed(id, &failure), true)
                }
                Err(failure) => {
                    (Stray::failed(id, &failure), *failure.kind() == FailureKind::Unsupported)
                }
            },
            () = context.abort_time_over() => (Stray::unanswered(id, context.abort_time()), false),
        };
        let note = stray.describe(task.destination(), upload.key());
        task.draft.notes.push(note);
        is_over
    }

    /// Aborts the uploads that other attempts to create this one may have left open: attempts that
    /// the server refused, and requests that hung. These uploads hold no parts, so the abort can
    /// wait until the object is done.
    async fn end_twins(&self, task: &mut ObjectTask<'_>) {
        let (context, upload) = (self.context, self.upload.outliving_the_run());
        let known = context.orphans.known();
        let twins = async {
            let late = upload.late_twins(known).await;
            (late, upload.refused_twins(known).await)
        };
        let (late, refused) = tokio::select! {
            biased;
            strays = twins => strays,
            // The remaining time is needed to abort the upload itself.
            () = context.halt.cancelled() => (vec![Stray::interrupted()], Vec::new()),
        };
        if let Some(record) = self.second_create
            && !late.iter().any(|stray| stray.may_pass)
        {
            record.ended(&context.journal).await;
        }
        let (bucket, key) = (task.destination(), self.upload.key());
        let strays = late.iter().chain(&refused);
        let notes = strays.map(|stray| stray.describe(bucket, key));
        task.draft.notes.extend(notes);
    }

    /// Returns true if the upload no longer exists, although it held parts and no request of this
    /// session ended it: a lifecycle rule or another program ended it.
    fn was_ended_by_others(&self, failure: &Failure) -> bool {
        if *failure.kind() != FailureKind::NoSuchUpload {
            return false;
        }
        let details = failure.details();
        // An earlier Complete may have created an object that another writer has since replaced.
        let may_be_ours = details.operation == Operation::CompleteMultipartUpload
            && (details.code != "NoSuchUpload" || details.attempts > 1);
        !self.held.is_empty() || (!self.done.is_empty() && !may_be_ours)
    }
}

/// Returns true for a failure that is not about the parts: once a permission is granted or the
/// server answers, the same upload can be finished.
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
