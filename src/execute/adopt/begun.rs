//! An upload that is under way: how it begins, becomes the object, and ends.
//!
//! An upload is on record before the request that creates it, and its id and terms before its first
//! part, so that a session that ends at any moment leaves nothing behind that the next one does not
//! know. If the object that it was to replace is gone when it is published, the upload stays and is
//! published as a new object.

use crate::endpoint::capabilities::ConditionalWrite;
use crate::execute::condition::Refused;
use crate::execute::monitor::Event;
use crate::execute::part::Progress;
use crate::execute::receipt::Ending;
use crate::execute::tracked::{Terms, Tracked};
use crate::execute::{Draft, Trouble, Work};
use crate::multipart::{MultipartUpload, Stray};
use crate::plan::condition::Seen;
use crate::plan::decide::Skip;
use crate::plan::parts::PartLayout;
use crate::planner::Step;
use crate::s3::{CompleteSpec, Failure, FailureKind, Operation, PartDone, Written};

use super::lengths;

/// An upload to resume, or one that was just created.
#[derive(Clone, Debug)]
pub(in crate::execute) struct Begun {
    pub(in crate::execute) upload: MultipartUpload,
    pub(in crate::execute) tracked: Tracked,
    /// The record of a second upload, which a request to create this one may create late.
    pub(in crate::execute) late: Option<Tracked>,
    /// The layout of its parts.
    pub(in crate::execute) layout: PartLayout,
    /// Parts that S3 holds.
    pub(in crate::execute) kept: Vec<PartDone>,
    /// It was adopted, and the request that created it is not known.
    pub(in crate::execute) claimed: bool,
}

/// The result of publishing an upload.
#[derive(Debug)]
pub(in crate::execute) enum Published {
    /// It is the object now.
    Written(Written),
    /// Somebody else's object stands at the key, and stays.
    Taken(Skip),
}

impl Begun {
    /// Begins an upload: on record before the request, its id and terms before its first part.
    /// `notes` gets what may be left open of attempts whose answer was lost.
    pub(in crate::execute) async fn begin(
        work: &Work,
        step: &Step,
        layout: PartLayout,
        initiate: impl Future<Output = Result<(MultipartUpload, Terms), Failure>>,
        notes: &mut Vec<String>,
    ) -> Result<Self, Trouble> {
        let tracked = Tracked::intend(work, step).await?;
        let (upload, terms) = match initiate.await {
            Ok(initiated) => initiated,
            Err(failure) => {
                notes.extend(tracked.not_begun(work, &step.key, &failure).await);
                return Err(work.explained_acl(failure).into());
            }
        };
        notes.extend(
            upload
                .strays()
                .iter()
                .map(|stray| stray.told(&work.sides.destination, &step.key)),
        );
        let late = if upload.has_late_twin() {
            // Without a journal that works, the next record fails too, and ends this upload.
            Tracked::intend(work, step).await.ok()
        } else {
            None
        };
        tracked
            .begun(work, &upload, terms, lengths(&layout))
            .await?;
        Ok(Self {
            upload,
            tracked,
            late,
            layout,
            kept: Vec::new(),
            claimed: false,
        })
    }

    /// Completes the upload. Where the object that was to be replaced is gone by now, its key is
    /// written as an absent one: the upload stays, so its parts need not be sent again.
    pub(in crate::execute) async fn publish(
        &self,
        work: &Work,
        parts: &[PartDone],
        mut spec: CompleteSpec,
        seen: &mut Seen,
    ) -> Result<Published, Trouble> {
        let mut completed = self.upload.complete(parts, &spec).await;
        if let Err(failure) = &completed
            && work.refused(&spec.condition, failure) == Some(Refused::Deleted)
            && !work.sides.is_in_place()
        {
            *seen = Seen::Absent;
            spec.condition = work.condition(seen, ConditionalWrite::Complete);
            completed = self.upload.complete(parts, &spec).await;
        }
        let failure = match completed {
            Ok(written) => return Ok(Published::Written(written)),
            Err(failure) => failure,
        };
        match work.refused(&spec.condition, &failure) {
            Some(Refused::Taken(_)) if work.holds(self.upload.key(), &spec.condition).await? => {
                Err(failure
                    .noting("although the condition of the write holds")
                    .into())
            }
            Some(Refused::Taken(skip)) => Ok(Published::Taken(skip)),
            // 409: the upload is void for its condition, and all parts must be sent again.
            Some(Refused::Raced | Refused::Deleted) => Err(Trouble::SourceChanged),
            None => Err(work.explained(&spec.condition, failure).into()),
        }
    }

    /// Announces the upload to the monitor, with the bytes that S3 holds already, and returns the
    /// number by which the monitor knows it.
    pub(in crate::execute) fn announce(&self, work: &Work, held: u64) -> u64 {
        let id = work.next_id();
        let Self {
            upload,
            layout:
                PartLayout {
                    size: bytes,
                    count: parts,
                    ..
                },
            ..
        } = self;
        let (bytes, parts, key) = (*bytes, *parts, upload.key().as_str());
        work.monitor.observe(&Event::UploadBegan {
            id,
            key,
            bytes,
            parts,
        });
        if held > 0 {
            work.monitor.observe(&Event::BytesCopied {
                id: Some(id),
                bytes: held,
            });
        }
        id
    }

    /// Aborts what refused and overtaken attempts to create the upload left open. They hold no
    /// bytes, so that this has time until the object is done.
    async fn end_twins(&self, work: &Work, draft: &mut Draft) {
        let upload = self.upload.outliving_the_run();
        let known = work.inherited.known();
        let twins = async {
            let late = upload.late_twins(known).await;
            (late, upload.refused_twins(known).await)
        };
        let (late, refused) = tokio::select! {
            biased;
            strays = twins => strays,
            // The uploads that are left have all the time that there is then.
            () = work.halt.cancelled() => (vec![Stray::interrupted()], Vec::new()),
        };
        if let Some(record) = self.late
            && !late.iter().any(|stray| stray.may_pass)
        {
            record.ended(&work.journal).await;
        }
        let (bucket, key) = (&work.sides.destination, self.upload.key());
        let strays = late.iter().chain(&refused);
        draft
            .notes
            .extend(strays.map(|stray| stray.told(bucket, key)));
    }

    /// Handles the result of the upload. A resumed upload that the server no longer accepts is
    /// created anew.
    pub(in crate::execute) async fn settle(
        &self,
        work: &Work,
        id: u64,
        outcome: Result<Ending, Trouble>,
        progress: &Progress,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        draft.attempts += progress.attempts;
        self.end_twins(work, draft).await;
        if self
            .tracked
            .settle(work, &self.upload, &outcome, (progress, draft))
            .await
        {
            work.monitor.observe(&Event::BytesVoided {
                bytes: progress.bytes,
            });
        }
        work.monitor.observe(&Event::UploadEnded { id });
        match outcome {
            Err(Trouble::Failed(failure)) if self.was_ended_elsewhere(&failure, progress) => {
                let note = "somebody else ended the upload";
                Err(Trouble::UploadGone(failure.noting(note)))
            }
            Err(Trouble::Failed(failure))
                if !self.kept.is_empty() && *failure.kind() == FailureKind::Invalid =>
            {
                tracing::info!(key = %self.upload.key(), %failure, "an open upload is of no use: beginning anew");
                Err(Trouble::SourceChanged)
            }
            outcome => outcome,
        }
    }

    /// Returns true if the upload is gone although it has stored parts, and no request of ours can
    /// have ended it: a lifecycle rule or another program did.
    fn was_ended_elsewhere(&self, failure: &Failure, progress: &Progress) -> bool {
        if *failure.kind() != FailureKind::NoSuchUpload {
            return false;
        }
        let details = failure.details();
        // An earlier Complete may have made an object that somebody has replaced.
        let may_be_ours = details.operation == Operation::CompleteMultipartUpload
            && (details.code != "NoSuchUpload" || details.attempts > 1);
        !self.kept.is_empty() || (!progress.done.is_empty() && !may_be_ours)
    }
}
