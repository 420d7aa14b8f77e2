//! Going on with uploads that an earlier session left open.
//!
//! An upload is taken up only if it was begun for the very same version of the source, to the same
//! key, with the same attributes, and if its recorded parts tile the object. The server's own list
//! says what it holds: a part is kept if it is what the journal has on record, or if it was under
//! way when the record ended, and has the right size; all others are copied again. Anything else is
//! cancelled and begun anew, which is always right and only costs time.
//!
//! An upload that the server has no more may have become the object, when the answer to Complete
//! was lost with the session. Then what stands at the key must be recognised: by the source's
//! checksum, or by the `ETag` that was on record before Complete was sent.
//!
//! The upload of an object that failed may be kept for the next run, if it holds parts and another
//! attempt may succeed. That run finds the upload by bucket and key, because the object has another
//! number then.
//!
//! A run aborts the uploads of objects that nobody will copy any more (a fresh run, a failed abort)
//! at its start, and the uploads that no object resumed at its end. An upload that cannot be
//! aborted stays in the journal, and the next run tries again. If the server accepts the abort but
//! cannot show that the upload is gone, the run reports it once, with its id and a command, and
//! removes it from the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use jiff::Timestamp;

use super::condition::Refused;
use super::monitor::Event;
use super::part::Progress;
use super::receipt::Ending;
use super::tracked::{Terms, Tracked};
use super::vouch::is_as_wished;
use super::{Draft, Trouble, Work};
use crate::bucket::{AMAZON, Bucket};
use crate::connections::Connections;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::journal::Journal;
use crate::journal::event::{PartLengths, UploadPlace};
use crate::journal::state::RunState;
use crate::journal::uploads::{BegunUpload, Kept, OpenUpload};
use crate::location::{ObjectKey, S3Uri};
use crate::manifest::job::{Job, Policy, Transfer};
use crate::multipart::{self, MultipartUpload, Stray};
use crate::plan::condition::Seen;
use crate::plan::decide::Skip;
use crate::plan::loss::{Loss, Lost};
use crate::plan::parts::{Boundaries, PartLayout};
use crate::planner::Step;
use crate::s3::{
    Attributes, Checksum, ChecksumKind, CompleteSpec, Failure, FailureKind, Head, Operation,
    PartDone, Written,
};

/// How long a request of a session that ended may be under way.
const LATE: Duration = Duration::from_mins(5);

/// Uploads that earlier sessions left open, until somebody takes them.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    left: Mutex<BTreeMap<u64, OpenUpload>>,
    /// Ids of all of them: those are nobody's strays.
    known: BTreeSet<String>,
    /// Until when a request of the last session may have begun one.
    until: Timestamp,
    /// Objects that this session goes on with by their numbers.
    pending: BTreeSet<u64>,
    /// Transfers of which all keys are listed again, by position in the job: their objects will
    /// have other numbers.
    listed_anew: BTreeSet<u32>,
    /// Transfers that are gone on with. What they left may be of an object that had another number
    /// then.
    begun: BTreeSet<u32>,
}

/// An upload that an earlier session left open.
#[derive(Clone, Debug)]
pub(super) struct Left {
    tracked: Tracked,
    open: OpenUpload,
}

impl Left {
    fn of((upload, open): (u64, OpenUpload)) -> Self {
        Self {
            tracked: Tracked::known(upload, open.intended),
            open,
        }
    }
}

impl Inherited {
    /// What the journal says was left.
    pub(super) fn of(state: &RunState, listed_anew: BTreeSet<u32>, patience: Duration) -> Self {
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

    /// The uploads of an object to this place, the latest last. They are the caller's from now on.
    pub(super) fn take(&self, object: Option<u64>, place: &UploadPlace) -> Vec<Left> {
        self.take_if(|open| {
            let is_its = Some(open.object) == object || !self.pending.contains(&open.object);
            is_its && open.place == *place
        })
    }

    /// Takes back an upload of an object that failed: the object may be tried again in this
    /// session.
    pub(super) fn give_back(&self, upload: u64, open: OpenUpload) {
        self.left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(upload, open);
    }

    /// True when all keys of a transfer are listed again.
    pub(super) fn lists_anew(&self, transfer: u32) -> bool {
        self.listed_anew.contains(&transfer)
    }

    /// True for an upload that some session of the journal has begun.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.known.contains(id)
    }

    /// The ids of all uploads that sessions of the journal have begun.
    pub(super) fn known(&self) -> &BTreeSet<String> {
        &self.known
    }

    fn take_if(&self, pick: impl Fn(&OpenUpload) -> bool) -> Vec<Left> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.extract_if(.., |_, open| pick(open))
            .map(Left::of)
            .collect()
    }

    /// Cancels the uploads of objects that nobody will copy any more.
    pub(super) async fn sweep(
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
            self.pending.contains(&open.object) || (0..).zip(&job.transfers).any(is_below)
        };
        self.cancel_those(|open| !is_wanted(open), journal, (job, connections))
            .await;
    }

    /// Cancels what no object took up. What is kept of an object that failed in this run waits for
    /// the next one.
    pub(super) async fn cancel_rest(
        &self,
        journal: &Journal,
        (job, connections): (&Job, &mut Connections),
    ) {
        self.cancel_those(
            |open| open.kept != Kept::ForNextRun,
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
    async fn cancel(&self, left: &Left, journal: &Journal, bucket: &Bucket) -> Vec<String> {
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
        left: &Left,
        journal: &Journal,
        bucket: &Bucket,
    ) -> Result<Vec<Stray>, Failure> {
        let (key, id) = (
            &left.open.place.key,
            left.open.begun.as_ref().map(|begun| begun.id.as_str()),
        );
        // Another server has no such upload, which says nothing about the one that it was begun at.
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
        left.tracked
            .cancel(journal, bucket, key, id, (self.until, &self.known))
            .await
    }
}

/// Where an upload that was found open may have become a copy, unseen.
pub(super) fn claimed(state: &RunState) -> impl Iterator<Item = &UploadPlace> + Clone {
    let completing = |begun: &BegunUpload| begun.claimed && begun.completing.is_some();
    let claimed = state
        .uploads
        .values()
        .filter(move |open| open.begun.as_ref().is_some_and(completing));
    claimed.map(|open| &open.place)
}

/// An upload to go on with, or one that was just begun.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    pub(super) upload: MultipartUpload,
    pub(super) tracked: Tracked,
    /// Where its parts end.
    pub(super) layout: PartLayout,
    /// Parts that S3 holds.
    pub(super) kept: Vec<PartDone>,
    /// It was found open, and how it was begun is not known.
    pub(super) claimed: bool,
}

/// What publishing an upload came to.
#[derive(Debug)]
pub(super) enum Published {
    /// It is the object now.
    Written(Written),
    /// Somebody else's object stands at the key, and stays.
    Taken(Skip),
}

impl Begun {
    /// Begins an upload: on record before the request, its id and terms before its first part.
    /// `notes` gets what may be left open of attempts whose answer was lost.
    pub(super) async fn begin(
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
        tracked
            .begun(work, &upload, terms, lengths(&layout))
            .await?;
        Ok(Self {
            upload,
            tracked,
            layout,
            kept: Vec::new(),
            claimed: false,
        })
    }

    /// Completes the upload. Where the object that was to be replaced is gone by now, its key is
    /// written as an absent one: the upload stays, so its parts need not be sent again.
    pub(super) async fn publish(
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

    /// Tells the monitor, with the bytes that are there already, and gives the number by which it
    /// knows the upload.
    pub(super) fn announce(&self, work: &Work, held: u64) -> u64 {
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

    /// Sees to what the upload came to. One that was taken up and that the server does not take any
    /// more is begun anew.
    pub(super) async fn settle(
        &self,
        work: &Work,
        id: u64,
        outcome: Result<Ending, Trouble>,
        progress: &Progress,
        draft: &mut Draft,
    ) -> Result<Ending, Trouble> {
        draft.attempts += progress.attempts;
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
            Err(Trouble::Failed(failure))
                if !self.kept.is_empty()
                    && matches!(
                        failure.kind(),
                        FailureKind::NoSuchUpload | FailureKind::Invalid
                    ) =>
            {
                tracing::info!(key = %self.upload.key(), %failure, "an open upload is of no use: beginning anew");
                Err(Trouble::SourceChanged)
            }
            outcome => outcome,
        }
    }
}

/// What became of the uploads that were left of an object.
#[derive(Debug)]
pub(super) enum Found {
    /// One can be gone on with.
    Open(Box<Begun>),
    /// One became the object, and the `ETag` that its parts make.
    Published(Box<Head>, Option<String>),
}

/// What an upload is wanted for.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) key: &'a ObjectKey,
    pub(super) terms: &'a Terms,
    pub(super) layout: &'a PartLayout,
    /// What the object shall have.
    pub(super) attributes: &'a Attributes,
    /// Of the source.
    pub(super) checksum: Option<&'a Checksum>,
}

/// Looks for an upload to go on with among those that were left of an object, and cancels the
/// others.
pub(super) async fn find(
    work: &Work,
    left: &mut Vec<Left>,
    wish: &Wish<'_>,
    draft: &mut Draft,
) -> Result<Option<Found>, Trouble> {
    while let Some(candidate) = left.pop() {
        let found = match &candidate.open.begun {
            // Only as long as it is no more than tried, an upload may lack something.
            Some(begun)
                if begun
                    .losses
                    .iter()
                    .any(|loss| is_demanded(work, loss, draft)) =>
            {
                None
            }
            Some(begun) => match judge(work, &candidate, begun, wish, draft).await {
                Ok(found) => found,
                // The parts cannot be listed. Starting over is always right.
                Err(Trouble::Failed(failure))
                    if !failure.kind().may_pass_later() && !failure.ends_run() =>
                {
                    tracing::warn!(key = %wish.key, %failure, "an open upload can not be gone on with: beginning anew");
                    None
                }
                // It is still to be cancelled.
                Err(trouble) => {
                    left.push(candidate);
                    return Err(trouble);
                }
            },
            None => None,
        };
        if let Some(Found::Published(..)) | None = &found {
            cancel(work, &candidate, draft).await;
        }
        if found.is_some() {
            // What it was begun without is still missing; what this session found out says nothing
            // about it.
            if let Some(begun) = &candidate.open.begun {
                draft.losses.retain(|loss| loss.lost != Lost::NotSet);
                draft.losses.extend(begun.losses.iter().cloned());
            }
            cancel_all(work, left, draft).await;
            return Ok(found);
        }
    }
    Ok(None)
}

/// True for a loss that fails an object now, unless this session comes to it too.
fn is_demanded(work: &Work, loss: &Loss, draft: &Draft) -> bool {
    work.sides.transfer.preserve.of(loss.attribute) == Policy::Require
        && !draft.losses.contains(loss)
}

/// Cancels what is left of an object and will not be gone on with.
pub(super) async fn cancel_all(work: &Work, left: &mut Vec<Left>, draft: &mut Draft) {
    while let Some(candidate) = left.pop() {
        cancel(work, &candidate, draft).await;
    }
}

async fn cancel(work: &Work, left: &Left, draft: &mut Draft) {
    let notes = work
        .inherited
        .cancel(left, &work.journal, &work.sides.destination)
        .await;
    // The receipt may be hours away, and a kill until then would take along the only mention.
    for note in &notes {
        tracing::warn!(key = %left.open.place.key, "{note}");
    }
    draft.notes.extend(notes);
}

/// Whether an upload can be gone on with, or became the object. `None`: it is of no use.
async fn judge(
    work: &Work,
    left: &Left,
    begun: &BegunUpload,
    wish: &Wish<'_>,
    draft: &mut Draft,
) -> Result<Option<Found>, Trouble> {
    let Some(layout) = wish
        .terms
        .are_those_of(begun)
        .then(|| tiling(&begun.parts, wish.layout))
        .flatten()
    else {
        tracing::info!(key = %wish.key, "an open upload is of another source, or was begun otherwise: beginning anew");
        return Ok(None);
    };
    let bucket = &work.sides.destination;
    let upload = MultipartUpload::open(bucket, wish.key, &*begun.id);
    // One that was found open is older than its record.
    let upload = if begun.claimed {
        upload
    } else {
        upload.begun_at(left.open.intended, begun.kms)
    };
    let listed = match upload.parts().try_collect::<Vec<_>>().await {
        Ok(listed) => listed,
        Err(failure) if *failure.kind() == FailureKind::NoSuchUpload => Vec::new(),
        Err(failure) => return Err(failure.into()),
    };
    let mut reconciled = begun.reconcile(listed);
    // A part without the checksum that the upload declared could not be named to a server that
    // wants it, nor proven.
    if upload.algorithm().is_some() {
        reconciled.kept.retain(|part| part.checksum.is_some());
    }
    let kept = reconciled.kept;
    // Some servers answer with an empty list for an upload that is gone.
    if kept.is_empty() {
        let found = published(work, begun, wish).await?;
        if let Some(Found::Published(head, _)) = &found
            && begun.claimed
            && !is_as_wished(
                work,
                &begun.id,
                (wish.key, head.version.as_deref()),
                wish.attributes,
                draft,
            )
            .await?
        {
            return Ok(None);
        }
        return Ok(found);
    }
    tracing::info!(
        key = %wish.key, kept = kept.len(), parts = layout.count, missing = reconciled.missing,
        different = reconciled.different, "going on with an open upload"
    );
    let (tracked, claimed) = (left.tracked, begun.claimed);
    Ok(Some(Found::Open(Box::new(Begun {
        upload,
        tracked,
        layout,
        kept,
        claimed,
    }))))
}

/// The layout that an upload was begun with, if it tiles the object that `now` is for. Automatic
/// part sizes depend on how many requests can be in flight, so they may be others now.
fn tiling(recorded: &PartLengths, now: &PartLayout) -> Option<PartLayout> {
    let is = |layout: &PartLayout| lengths(layout) == *recorded;
    if is(now) {
        return Some(now.clone());
    }
    let uniform = PartLayout::uniform(now.size, recorded.iter().next()?, recorded.count());
    (now.boundaries == Boundaries::Chosen && recorded.bytes() == now.size && is(&uniform))
        .then_some(uniform)
}

/// The lengths of a layout's parts.
pub(super) fn lengths(layout: &PartLayout) -> PartLengths {
    layout.parts().map(|part| part.length).collect()
}

/// What stands at the key, if an upload became it whose Complete was sent and never answered.
async fn published(
    work: &Work,
    begun: &BegunUpload,
    wish: &Wish<'_>,
) -> Result<Option<Found>, Trouble> {
    let Some(completing) = &begun.completing else {
        return Ok(None);
    };
    let bucket = &work.sides.destination;
    let head = match bucket.head(wish.key, None).await {
        Ok(head) => head,
        Err(failure) if *failure.kind() == FailureKind::NotFound => return Ok(None),
        Err(failure) => return Err(failure.into()),
    };
    let by_checksum = wish
        .checksum
        .zip(head.checksum.as_ref())
        .is_some_and(|(source, found)| source.kind == ChecksumKind::FullObject && source == found);
    let by_etag = bucket.capabilities().content_etags
        && !head.kms
        && completing.etag.as_ref() == Some(&head.etag);
    let ours = head.size == wish.layout.size && (by_checksum || by_etag);
    let etag = completing.etag.clone().filter(|_| by_etag);
    Ok(ours.then(|| Found::Published(Box::new(head), etag)))
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
            Inherited::of(&state, BTreeSet::new(), patience).until
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

    #[test]
    fn a_recorded_layout_is_gone_on_with_if_it_tiles_the_object() {
        let now = PartLayout::uniform(25, 10, 3);
        let recorded = |lengths: &[u64]| lengths.iter().copied().collect::<PartLengths>();
        assert_eq!(tiling(&recorded(&[10, 10, 5]), &now), Some(now.clone()));
        assert_eq!(
            tiling(&recorded(&[20, 5]), &now),
            Some(PartLayout::uniform(25, 20, 2))
        );
        for other in [&[10, 10][..], &[10, 5, 10], &[10, 10, 6], &[]] {
            assert_eq!(tiling(&recorded(other), &now), None, "{other:?}");
        }
        let replayed = PartLayout {
            boundaries: Boundaries::Replayed([10, 25].into()),
            ..PartLayout::uniform(25, 15, 2)
        };
        assert_eq!(
            tiling(&recorded(&[10, 15]), &replayed),
            Some(replayed.clone())
        );
        assert_eq!(
            tiling(&recorded(&[20, 5]), &replayed),
            None,
            "the source's boundaries are wanted"
        );
    }
}
