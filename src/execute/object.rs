//! One object's life, from its HEAD to its receipt.
//!
//! An [`ObjectTask`] owns one object: what is known of its source and of its key at the
//! destination, the uploads that earlier sessions left open, and the receipt in the making. It
//! works in rounds. A round plans the object from what is there at that moment, and ends with an
//! ending, a failure, or a reason to plan the object again ([`Replan`]): a copy is of one version,
//! or it is not published.
//!
//! [`copy`], [`file`], and [`stream`] are the three kinds of rounds, by where the bytes are. All of
//! them send parts through [`upload::UploadSession`]. What a refused conditional write means is
//! decided in [`condition`].

pub(super) mod archive;
pub(super) mod attributes;
mod condition;
mod copy;
mod file;
mod layout;
mod marker;
mod mismatch;
pub(super) mod published;
mod put;
mod repair;
mod sent;
pub(super) mod stream;
pub(super) mod trouble;
pub(super) mod upload;

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::Work;
use super::monitor::Event;
use super::receipt::{Draft, Ending, Proof, Receipt};
use crate::bucket::Bucket;
use crate::location::LocalPath;
use crate::manifest::job::{Source, Versions};
use crate::pace::Slot;
use crate::pace::slots::Want;
use crate::plan::condition::Seen;
use crate::plan::decide::{Route, Skip};
use crate::planner::Step;
use crate::s3::{Failure, FailureKind, Head, Operation, Written};
use archive::Cold;
use attributes::Wanted;
use trouble::{Replan, Trouble};
use upload::orphans::OrphanUpload;

/// The most rounds of one object.
const ROUNDS: usize = 4;

/// One object in progress.
pub(super) struct ObjectTask<'w> {
    work: &'w Work,
    step: &'w Step,
    /// The receipt in the making.
    draft: Draft,
    /// The known state of the destination's key: first as the plan saw it, then as a round of ours
    /// wrote it.
    seen: Seen,
    /// Set if the destination has the object, perhaps from an earlier session: the reason to leave
    /// it alone if it cannot be proven.
    found: Option<Skip>,
    /// Uploads to this key that earlier sessions left open.
    orphans: Vec<OrphanUpload>,
    /// The object as it was before the first attempt to change it in place.
    before: Option<Head>,
    /// The `ETag`s that HEAD has shown of the source.
    shown: Option<ShownEtag>,
}

/// The `ETag`s of the source in the rounds so far.
enum ShownEtag {
    /// The same in each round.
    Same(String),
    /// Different ones.
    Several,
}

/// The place of an object's bytes.
#[derive(Clone, Copy)]
enum TaskSource<'w> {
    Bucket(&'w Bucket),
    Directory(&'w LocalPath),
}

impl<'w> ObjectTask<'w> {
    /// Executes one step from beginning to end.
    ///
    /// Hundreds of these futures are in memory at once, nearly all of them small copies. So futures
    /// that are rarely awaited are boxed, here and further down: without boxes, each step would
    /// take 23 KiB.
    pub(super) async fn run(work: &'w Work, step: &'w Step) -> Receipt {
        let began = Instant::now();
        let mut task = Self {
            work,
            step,
            draft: Draft::of(step),
            seen: step.seen.clone(),
            found: step.found,
            orphans: Vec::new(),
            before: None,
            shown: None,
        };
        let ending = match task.execute().await {
            Ok(ending) => ending,
            Err(Trouble::Stopped) => Ending::Stopped,
            Err(Trouble::Failed(failure) | Trouble::Replan(_, Some(failure))) => {
                Ending::failed(&failure)
            }
            // The bytes of a stream are gone: it has one round.
            Err(Trouble::Replan(reason, None)) => Ending::failed(&Failure::new(
                FailureKind::Conflict,
                Operation::CompleteMultipartUpload,
                work.sides.destination.place(&step.key),
                format!("{reason}, and the object cannot be planned again"),
            )),
        };
        let (source, destination) = work.location(step);
        let transfer = work.sides.transfer.name.clone();
        let took = began.elapsed();
        task.draft
            .receipt(transfer, source, destination, took, ending)
    }

    async fn execute(&mut self) -> Result<Ending, Trouble> {
        let sides = &self.work.sides;
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
        // Attributes that no header carries are set after an upload too.
        let wanted = Wanted::of_upload(self.work, &self.step.key);
        wanted.finish(None, &ending, self).await?;
        Ok(ending)
    }

    /// Copies the object from its bucket.
    async fn copy(&mut self, source: &'w Bucket) -> Result<Ending, Trouble> {
        if let Some(ending) = Box::pin(self.repair_tags(source)).await? {
            return Ok(ending);
        }
        self.take_orphans();
        self.draft.in_place = self.work.sides.is_in_place();
        self.rounds(TaskSource::Bucket(source)).await
    }

    /// Restores an object, or copies it if it turns out to be readable.
    async fn restore(&mut self, source: &'w Bucket) -> Result<Ending, Trouble> {
        let slot = self.request_slot(Want::Small).await?;
        let answer = self.meet_archived(source, &Cold::listed(self.step)).await;
        drop(slot);
        match answer {
            // Versions are copied in order, so this one is left to the next run, which finds it
            // readable.
            Err(Trouble::Replan(..)) if self.work.sides.transfer.versions == Versions::All => {
                Ok(Ending::Restoring { requested: None })
            }
            Err(Trouble::Replan(..)) => self.copy(source).await,
            other => other.inspect(|_| self.draft.route = Some(Route::Restore.name())),
        }
    }

    /// Works on the object in rounds until one of them ends it, and aborts the uploads of earlier
    /// sessions that no round resumed.
    async fn rounds(&mut self, origin: TaskSource<'w>) -> Result<Ending, Trouble> {
        let mut gone = None;
        let outcome = loop {
            let round = match origin {
                TaskSource::Bucket(source) => self.copy_round(source).await,
                // In a box: a task of a copy has no use for so much room.
                TaskSource::Directory(root) => Box::pin(self.file_round(root)).await,
            };
            let round = match (round, origin) {
                (Err(Trouble::Failed(failure)), TaskSource::Bucket(source))
                    if archive::told_late(&failure) =>
                {
                    let cold = Cold::refused(self.step, &failure);
                    self.meet_archived(source, &cold).await
                }
                (round, _) => round,
            };
            let (reason, failure) = match round {
                Err(Trouble::Replan(reason, failure)) => (reason, failure),
                round => break round,
            };
            let object = self.work.sides.name_of(&self.step.entry);
            match &failure {
                Some(failure) => tracing::info!(%object, %reason, %failure, "planning it again"),
                None => tracing::info!(%object, %reason, "planning it again"),
            }
            gone = failure.filter(|_| reason == Replan::UploadGone).or(gone);
            self.draft.replans.push(reason);
            if self.draft.replans.len() >= ROUNDS {
                let failure = gone.unwrap_or_else(|| self.exhausted(origin));
                break Err(Trouble::Failed(failure));
            }
        };
        if !matches!(outcome, Err(Trouble::Stopped)) && !self.orphans.is_empty() {
            Box::pin(self.cancel_orphans()).await;
        }
        outcome
    }

    /// Returns the failure of an object that was planned again in each of its rounds.
    fn exhausted(&self, origin: TaskSource<'_>) -> Failure {
        let (operation, place, what, done) = match origin {
            TaskSource::Bucket(source) => {
                let place = source.place(&self.step.entry.key);
                (Operation::HeadObject, place, "source", "copied")
            }
            TaskSource::Directory(_) => {
                let place = self.work.sides.name_of(&self.step.entry);
                (Operation::ReadFile, place, "file", "read")
            }
        };
        if let Some(message) = self.contradiction() {
            return Failure::new(FailureKind::ServerFault, operation, place, message);
        }
        let replans = &self.draft.replans;
        let is_source = replans.iter().all(|reason| reason.is_about_source());
        let message = if is_source {
            format!("the {what} changed {ROUNDS} times while it was {done}")
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

    /// Records the `ETag` that HEAD shows.
    fn shows(&mut self, etag: &str) {
        self.shown = Some(match &self.shown {
            None => ShownEtag::Same(etag.to_owned()),
            Some(ShownEtag::Same(last)) if last == etag => return,
            Some(_) => ShownEtag::Several,
        });
    }

    /// Returns how the server contradicts itself about a source that has not changed: HEAD shows
    /// the same `ETag` each time, and each copy that names it is refused.
    fn contradiction(&self) -> Option<String> {
        let Some(ShownEtag::Same(etag)) = &self.shown else {
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
                 {ROUNDS} copies of what has it was refused as if the source had changed",
                listed.unwrap_or_default()
            )
        })
    }

    fn destination(&self) -> &'w Bucket {
        &self.work.sides.destination
    }

    /// Returns the object's place at the destination, for messages.
    fn place(&self) -> String {
        self.destination().place(&self.step.key)
    }

    /// Waits for a request slot.
    async fn request_slot(&self, want: Want) -> Result<Slot, Trouble> {
        let slot = self.work.slots().request(want).await;
        slot.map_err(|_| Trouble::Stopped)
    }

    /// Reports the bytes of an object that one request wrote, or that was found.
    fn count_bytes(&self, bytes: u64) {
        self.work
            .monitor
            .observe(&Event::BytesCopied { id: None, bytes });
    }

    /// Returns the ending of an object that is at the destination, and proven.
    fn done(proof: Proof, written: Written) -> Ending {
        Ending::Done {
            proof,
            etag: written.etag,
            destination_version: written.version,
        }
    }
}
