//! Takes one object from its HEAD to its receipt.
//!
//! An [`ObjectTask`] owns the object: the known state of its source and of its destination key, the
//! uploads that earlier sessions left open, and the draft of its receipt. It works in rounds,
//! because a copy must contain exactly one version of its source. A round plans the object from its
//! current state. The round returns an ending, a failure, or a [`Replan`], which starts the next
//! round.
//!
//! A round copies an object ([`copy`]) or sends a file ([`file`]); standard input ([`stream`])
//! cannot be read again and has one round. All three send parts through [`upload::UploadSession`].
//! [`condition`] decides how to continue after a refused conditional write.

pub(super) mod archive;
pub(super) mod attributes;
mod condition;
mod copy;
mod file;
mod layout;
mod local_file;
mod marker;
mod mismatch;
mod pinned;
pub(super) mod published;
mod put;
mod repair;
pub(super) mod round_failure;
mod sent;
mod stream;
mod stream_parts;
pub(super) mod upload;

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::TransferContext;
use super::monitor::Event;
use super::receipt::{Draft, Ending, Proof, Receipt};
use super::replan::Replan;
use crate::bucket::Bucket;
use crate::location::LocalPath;
use crate::manifest::job::{Source, Versions};
use crate::pace::Slot;
use crate::pace::slots::SlotKind;
use crate::plan::condition::DestinationState;
use crate::plan::decide::{Route, Skip};
use crate::planner::Step;
use crate::s3::{Failure, FailureKind, Head, Operation, Written};
use archive::ArchivedSource;
use attributes::TargetAttributes;
use round_failure::RoundFailure;
use upload::orphans::OrphanUpload;

/// The maximum number of rounds of one object.
const ROUNDS: usize = 4;

/// One object in progress.
pub(super) struct ObjectTask<'w> {
    context: &'w TransferContext,
    step: &'w Step,
    /// The draft of the receipt.
    draft: Draft,
    /// The last known state of the destination key: as the planner saw it, or as a round wrote it.
    destination_state: DestinationState,
    /// Set if the planner found an object at the key that an earlier session may have copied. Holds
    /// the reason to skip the object if the copy cannot be proven.
    maybe_ours: Option<Skip>,
    /// Uploads to this key that earlier sessions left open.
    orphans: Vec<OrphanUpload>,
    /// The object as it was before the first attempt to change it in place.
    before_change: Option<Head>,
    /// The `ETag`s of the source that HEAD has shown; `None` before the first HEAD.
    shown: Option<ShownEtags>,
}

/// The `ETag`s of the source in the rounds so far.
enum ShownEtags {
    /// HEAD has shown the same `ETag` in each round.
    Same(String),
    /// HEAD has shown different `ETag`s.
    Several,
}

/// The source of an object that is copied in rounds.
#[derive(Clone, Copy)]
enum TaskSource<'w> {
    Bucket(&'w Bucket),
    Directory(&'w LocalPath),
}

impl<'w> ObjectTask<'w> {
    /// Executes one step, and returns its receipt.
    ///
    /// Hundreds of these futures are in memory at once, nearly all of them small copies. So rarely
    /// awaited futures are boxed, here and in the functions below: without boxes, each step would
    /// take 23 KiB.
    pub(super) async fn run(context: &'w TransferContext, step: &'w Step) -> Receipt {
        let began = Instant::now();
        let mut task = Self {
            context,
            step,
            draft: Draft::of(step),
            destination_state: step.destination_state.clone(),
            maybe_ours: step.maybe_ours,
            orphans: Vec::new(),
            before_change: None,
            shown: None,
        };
        let ending = match task.execute().await {
            Ok(ending) => ending,
            Err(RoundFailure::Stopped) => Ending::Stopped,
            Err(RoundFailure::Failed(failure)) => Ending::failed(&failure),
            // Only standard input gets here: it cannot be read again, so it has no second round.
            Err(RoundFailure::Replan(_, Some(failure))) => {
                Ending::failed(&failure.noting("standard input cannot be read again"))
            }
            Err(RoundFailure::Replan(reason, None)) => Ending::failed(&Failure::new(
                FailureKind::Conflict,
                Operation::CompleteMultipartUpload,
                context.sides.destination.place(&step.key),
                format!("{reason}, and standard input cannot be read again"),
            )),
        };
        let (source, destination) = context.location(step);
        let transfer = context.sides.transfer.name.clone();
        let took = began.elapsed();
        task.draft
            .receipt(transfer, source, destination, took, ending)
    }

    async fn execute(&mut self) -> Result<Ending, RoundFailure> {
        let sides = &self.context.sides;
        let ending = match (&sides.source, &sides.transfer.from) {
            (Some(source), _) if self.step.route == Route::Restore => {
                return Box::pin(self.restore(source)).await;
            }
            (Some(_), _) if self.step.route == Route::DeleteMarker => {
                return Box::pin(self.write_marker()).await;
            }
            (Some(source), _) => return self.copy(source).await,
            (None, Source::Files { path, .. }) => {
                self.take_orphans();
                Box::pin(self.rounds(TaskSource::Directory(path))).await?
            }
            (None, _) => Box::pin(self.send_stdin()).await?,
        };
        // Attributes that no header can carry are set after an upload too.
        let target = TargetAttributes::of_upload(self.context, &self.step.key);
        target.set_late_attributes(None, &ending, self).await?;
        Ok(ending)
    }

    /// Copies the object from its bucket.
    async fn copy(&mut self, source: &'w Bucket) -> Result<Ending, RoundFailure> {
        if let Some(ending) = Box::pin(self.repair_tags(source)).await? {
            return Ok(ending);
        }
        self.take_orphans();
        self.draft.in_place = self.context.sides.is_in_place();
        self.rounds(TaskSource::Bucket(source)).await
    }

    /// Restores an object, or copies the object if it turns out to be readable.
    async fn restore(&mut self, source: &'w Bucket) -> Result<Ending, RoundFailure> {
        let slot = self.request_slot(SlotKind::Small).await?;
        let answer = self
            .handle_archived(source, &ArchivedSource::listed(self.step))
            .await;
        drop(slot);
        match answer {
            // Versions are copied in order, so this version is left to the next run, which finds it
            // readable.
            Err(RoundFailure::Replan(..))
                if self.context.sides.transfer.versions == Versions::All =>
            {
                Ok(Ending::Restoring { requested: None })
            }
            Err(RoundFailure::Replan(..)) => self.copy(source).await,
            other => other.inspect(|_| self.draft.route = Some(Route::Restore.name())),
        }
    }

    /// Runs at most [`ROUNDS`] rounds until one ends the object. Then aborts the uploads of earlier
    /// sessions that no round resumed.
    async fn rounds(&mut self, source: TaskSource<'w>) -> Result<Ending, RoundFailure> {
        let mut upload_gone = None;
        let outcome = loop {
            let round = match source {
                TaskSource::Bucket(bucket) => self.copy_round(bucket).await,
                // Boxed, so that a copy does not reserve the memory that a file upload needs.
                TaskSource::Directory(root) => Box::pin(self.file_round(root)).await,
            };
            let round = match (round, source) {
                (Err(RoundFailure::Failed(failure)), TaskSource::Bucket(bucket))
                    if archive::is_refusal_of_archived(&failure) =>
                {
                    let archived = ArchivedSource::refused(self.step, &failure);
                    self.handle_archived(bucket, &archived).await
                }
                (round, _) => round,
            };
            let (reason, failure) = match round {
                Err(RoundFailure::Replan(reason, failure)) => (reason, failure),
                round => break round,
            };
            let object = self.context.sides.name_of(&self.step.entry);
            let cause = failure.as_ref().map(tracing::field::display);
            tracing::info!(%object, %reason, failure = cause, "planning it again");
            if reason == Replan::UploadGone {
                upload_gone.clone_from(&failure);
            }
            self.draft.replans.push(reason);
            if self.draft.replans.len() >= ROUNDS {
                let failure = self.rounds_exhausted(source, upload_gone.or(failure));
                break Err(RoundFailure::Failed(failure));
            }
        };
        if !matches!(outcome, Err(RoundFailure::Stopped)) && !self.orphans.is_empty() {
            Box::pin(self.abort_orphans()).await;
        }
        outcome
    }

    /// Returns the failure of an object whose last allowed round requested another round. `cause`
    /// is the failure of the last round whose upload another client had ended, or otherwise the
    /// failure of the last round.
    fn rounds_exhausted(&self, source: TaskSource<'_>, cause: Option<Failure>) -> Failure {
        if let Some(cause) = cause {
            return cause.noting(&format!("planned {ROUNDS} times without success"));
        }
        let (operation, place, changed) = match source {
            TaskSource::Bucket(bucket) => (
                Operation::HeadObject,
                bucket.place(&self.step.entry.key),
                format!("the source changed {ROUNDS} times while it was copied"),
            ),
            TaskSource::Directory(_) => (
                Operation::ReadFile,
                self.context.sides.name_of(&self.step.entry),
                format!("the file changed {ROUNDS} times while it was read"),
            ),
        };
        if let Some(message) = self.contradiction() {
            return Failure::new(FailureKind::ServerFault, operation, place, message);
        }
        let replans = &self.draft.replans;
        let message = if replans.iter().all(|reason| reason.is_about_source()) {
            changed
        } else {
            let reasons: BTreeSet<_> = replans.iter().map(ToString::to_string).collect();
            let reasons: Vec<_> = reasons.into_iter().collect();
            format!(
                "planned {ROUNDS} times without success: {}",
                reasons.join("; ")
            )
        };
        let kind = match replans.last() {
            Some(Replan::DestinationChanged) => FailureKind::Conflict,
            _ => FailureKind::SourceChanged,
        };
        Failure::new(kind, operation, place, message)
    }

    /// Records the `ETag` that HEAD shows in this round.
    fn note_shown(&mut self, etag: &str) {
        self.shown = Some(match &self.shown {
            None => ShownEtags::Same(etag.to_owned()),
            Some(ShownEtags::Same(last)) if last == etag => return,
            Some(_) => ShownEtags::Several,
        });
    }

    /// Returns the contradiction in the server's responses if HEAD showed the same `ETag` in each
    /// round, and the server refused each copy that required it.
    fn contradiction(&self) -> Option<String> {
        let Some(ShownEtags::Same(etag)) = &self.shown else {
            return None;
        };
        let listed = self.step.entry.etag.as_ref();
        let listed = listed
            .filter(|listed| *listed != etag)
            .map(|listed| format!(", its list shows {listed}"));
        let is_refused = |reason: &Replan| *reason == Replan::SourceRefused;
        self.draft.replans.iter().all(is_refused).then(|| {
            format!(
                "the server contradicts itself about the source: HEAD shows the ETag {etag} each time{}, and each of \
                 {ROUNDS} copies that require this ETag was refused as if the source had changed",
                listed.unwrap_or_default()
            )
        })
    }

    fn destination(&self) -> &'w Bucket {
        &self.context.sides.destination
    }

    /// Returns the bucket and key of the destination, for messages.
    fn place(&self) -> String {
        self.destination().place(&self.step.key)
    }

    /// Waits for a request slot. Fails after a stop.
    async fn request_slot(&self, want: SlotKind) -> Result<Slot, RoundFailure> {
        let slot = self.context.slots().request(want).await;
        slot.map_err(|_| RoundFailure::Stopped)
    }

    /// Reports the bytes of an object that had no upload session: a single request wrote it, or it
    /// was already at the destination.
    fn count_bytes(&self, bytes: u64) {
        self.context
            .monitor
            .observe(&Event::BytesCopied { id: None, bytes });
    }

    /// Returns the ending of an object that is at the destination and proven.
    fn done(proof: Proof, written: Written) -> Ending {
        Ending::Done {
            proof,
            etag: written.etag,
            destination_version: written.version,
        }
    }
}
