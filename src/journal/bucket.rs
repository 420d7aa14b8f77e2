//! A journal in S3: the same segments and snapshots as in a directory, each as an object.
//!
//! Objects cannot be appended to, so the events of about a second form one segment, or fewer if a
//! caller waits for them. A segment is written with `If-None-Match: *` under the next number, which
//! keeps a second writer out. A session takes over by writing the next number itself. The previous
//! session finds that number taken at its next write, and stops. The segment with which a session
//! took over (a fence) is kept while a previous session could still be suspended ([`FENCE_AGE`]):
//! without it, that session would wake up and find its number free.
//!
//! The holder's [`lease`] decides whether another session may take over at all.
//!
//! The server's clock measures the age of a fence and of a sign of life. The objects that a
//! snapshot replaces are removed only after the next segment is written. A session that has been
//! replaced cannot write that segment, so its successor can still read the old objects.
//!
//! If the response of a write is lost, the retry finds its own first attempt under the number. It
//! recognizes the attempt by its bytes, which name the writer.

mod lease;
mod load;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};

pub(super) use self::lease::Lease;
pub use self::lease::LeaseHandle;
use super::error::JournalError;
use super::holder::session_of;
use super::identity::{LeaseTerms, Writer};
use super::salvage::Salvage;
use super::segment::{self, Fence, FileName, Header, JournalContent, segment_name, snapshot_name};
use super::state::RunState;
use super::store::{Store, Visit, is_long};
use crate::awake::AwakeInstant;
use crate::bucket::Bucket;
use crate::location::{ObjectKey, S3Uri};
use crate::s3::paging::{Order, PageVerdict, Paging};
use crate::s3::{Attributes, FailureKind, Operation, WriteCondition};

/// The time for which events gather while no caller waits for them. Each segment is a request that
/// costs money.
const GATHER: Duration = Duration::from_secs(1);
/// The time for which events gather once a caller waits for one of them.
const HURRY: Duration = Duration::from_millis(100);
/// The number of segments after which a snapshot is due, even if they are short, because reading
/// each one takes a request.
const SEGMENTS: u64 = 64;
/// The maximum number of requests in flight while the journal is read or cleaned up.
const MAX_CONCURRENT: usize = 16;
/// The maximum number of attempts to take over while another session keeps writing, and to read
/// while another session removes old objects.
const ROUNDS: u32 = 8;
/// The maximum number of objects of a journal that a list may have. A real journal has far fewer.
const MAX_OBJECTS: usize = 100_000;
/// The maximum number of other objects that a list may have.
const MAX_OTHERS: usize = 10_000;
/// The age at which a fence is removed. A process that is suspended for longer than this would not
/// notice that another session took over.
const FENCE_AGE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A journal below a prefix that this process may write.
#[derive(Debug)]
pub(super) struct BucketLog {
    place: BucketPlace,
    writer: Writer,
    /// The number of the next segment.
    segment: u64,
    /// The number of the last snapshot, and the number of the first record after it.
    snapshot: (u64, u64),
    snapshot_bytes: u64,
    tail_bytes: u64,
    fences: Vec<Fence>,
    /// Objects that the last snapshot replaces, until the next segment is written.
    replaced: BTreeSet<FileName>,
    lease: Lease,
}

/// The prefix of a bucket that holds a journal.
#[derive(Clone, Debug)]
pub(super) struct BucketPlace {
    bucket: Bucket,
    prefix: ObjectKey,
}

/// The objects below the prefix, with the times at which they were written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listing {
    files: BTreeMap<FileName, Option<Timestamp>>,
    /// The records of sessions, by session ID.
    records: BTreeMap<String, Option<Timestamp>>,
}

impl Listing {
    /// Returns the segment or snapshot that was written last.
    fn last(&self) -> Option<(FileName, Option<Timestamp>)> {
        let files = self.files.iter().map(|(name, modified)| (*name, *modified));
        files.max_by_key(|(name, _)| (name.number(), matches!(name, FileName::Segment(_))))
    }
}

/// The contents of the objects below the prefix.
#[derive(Debug, Default)]
struct StoredFiles {
    replay: JournalContent,
    /// The number of the next segment.
    next_segment: u64,
    snapshot_bytes: u64,
    tail_bytes: u64,
    /// Objects that the snapshot replaces and that still exist.
    stale: Vec<FileName>,
    /// The sessions that have a record.
    records: Vec<String>,
}

impl BucketPlace {
    pub(super) fn new(bucket: Bucket, prefix: ObjectKey) -> Self {
        Self { bucket, prefix }
    }

    /// Returns the server's time. With its own clock, a machine whose clock is wrong would remove
    /// fences that are still needed.
    fn now(&self) -> Timestamp {
        self.bucket.client().server_time()
    }

    fn key(&self, name: &str) -> Result<ObjectKey, JournalError> {
        ObjectKey::new(&format!("{}{name}", self.prefix)).map_err(|error| JournalError::Io {
            place: self.to_string(),
            message: error.to_string(),
        })
    }

    /// Refuses a server without conditional writes, which keep a second writer out.
    fn demand_conditions(&self) -> Result<(), JournalError> {
        if self.bucket.capabilities().if_none_match.put {
            return Ok(());
        }
        let endpoint = self.bucket.client().endpoint().to_owned();
        Err(JournalError::Unconditional {
            place: self.to_string(),
            endpoint,
        })
    }

    /// Checks that the server honors conditions: writes a new segment again, which it must refuse.
    /// A proxy or another version of the server may ignore conditions that its profile promises.
    async fn try_condition(&self, number: u64, header: Vec<u8>) -> Result<(), JournalError> {
        let (key, attributes) = (self.key(&segment_name(number))?, Attributes::default());
        match self
            .bucket
            .put_object(
                &key,
                header.into(),
                &attributes,
                None,
                WriteCondition::Absent,
            )
            .await
        {
            Err(failure)
                if matches!(
                    failure.kind(),
                    FailureKind::PreconditionFailed | FailureKind::Conflict
                ) =>
            {
                Ok(())
            }
            Err(failure) => Err(JournalError::store(self, failure)),
            Ok(_) => {
                let endpoint = self.bucket.client().endpoint().to_owned();
                Err(JournalError::ConditionIgnored {
                    place: self.to_string(),
                    endpoint,
                })
            }
        }
    }

    /// Reads the readable lines of a damaged journal.
    async fn salvage(&self, names: &BTreeSet<FileName>) -> Result<Salvage, JournalError> {
        let get = |name: FileName| async move {
            let bytes = self.get(&name.to_string()).await?.unwrap_or_default();
            Ok::<_, JournalError>((name, bytes))
        };
        let files: Vec<_> = stream::iter(names.iter().copied())
            .map(get)
            .buffered(MAX_CONCURRENT)
            .try_collect()
            .await?;
        Ok(Salvage::of(
            files.iter().map(|(name, bytes)| (*name, &bytes[..])),
        ))
    }

    async fn names(&self) -> Result<BTreeSet<FileName>, JournalError> {
        Ok(self.listing().await?.files.into_keys().collect())
    }

    async fn listing(&self) -> Result<Listing, JournalError> {
        let order = Order::of_objects(self.bucket.capabilities().ordered_lists);
        // Only the names of segments, snapshots, and sessions begin with `s`. The names of report
        // pieces, of which there may be many, do not. In a directory bucket, the prefix of a list
        // must end with a slash.
        let ours = if self.bucket.capabilities().directory {
            self.prefix.to_string()
        } else {
            format!("{}s", self.prefix)
        };
        let (operation, bucket) = (Operation::ListObjects, self.bucket.name());
        let mut paging = Paging::new(operation, bucket, &ours, order);
        let (mut found, mut token) = (Listing::default(), None);
        let (began, mut others) = (AwakeInstant::now(), 0);
        loop {
            let page = self.bucket.list(&ours, None, token.as_deref()).await;
            let mut page = page.map_err(|failure| JournalError::store(self, failure))?;
            let turn = paging
                .check(&mut page)
                .map_err(|failure| JournalError::store(self, failure))?;
            if turn == PageVerdict::Again {
                continue;
            }
            for object in &page.items {
                let name = object.key.strip_prefix(self.prefix.as_str());
                let name = name.unwrap_or_default();
                if let Some(parsed) = FileName::parse(name) {
                    found.files.insert(parsed, object.modified);
                } else if let Some(id) = session_of(name) {
                    found.records.insert(id.to_owned(), object.modified);
                } else {
                    others += 1;
                }
            }
            let is_late = began.elapsed() > self.bucket.patience();
            let count = found.files.len() + found.records.len();
            if count > MAX_OBJECTS || others > MAX_OTHERS || (page.next.is_some() && is_late) {
                return Err(JournalError::Io {
                    place: self.to_string(),
                    message: format!(
                        "the list of the prefix has {count} objects of a journal and {others} others, and does not end; name \
                         a prefix that holds nothing but the journal"
                    ),
                });
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(found),
            }
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, JournalError> {
        match self.bucket.get_small(&self.key(name)?).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(failure) if *failure.kind() == FailureKind::NotFound => Ok(None),
            Err(failure) => Err(JournalError::store(self, failure)),
        }
    }

    /// Returns the segments in order, with `None` for one that does not exist.
    fn segments(
        &self,
        numbers: impl IntoIterator<Item = u64, IntoIter: Send>,
    ) -> impl futures::Stream<Item = Result<(u64, Option<Bytes>), JournalError>> + Send {
        let get = move |number| async move { Ok((number, self.get(&segment_name(number)).await?)) };
        stream::iter(numbers).map(get).buffered(MAX_CONCURRENT)
    }

    /// Writes an object that must not exist yet.
    async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<(), JournalError> {
        let (key, bytes) = (self.key(name)?, Bytes::from(bytes));
        for _ in 0..ROUNDS {
            let attributes = Attributes::default();
            let written = self
                .bucket
                .put_object(
                    &key,
                    bytes.clone(),
                    &attributes,
                    None,
                    WriteCondition::Absent,
                )
                .await;
            match written {
                Ok(_) => return Ok(()),
                Err(failure)
                    if matches!(
                        failure.kind(),
                        FailureKind::PreconditionFailed | FailureKind::Conflict
                    ) =>
                {
                    match self.get(name).await? {
                        Some(found) if found == bytes => return Ok(()),
                        Some(found) => {
                            let by =
                                segment::writer_of(name, &found).unwrap_or_else(Writer::unknown);
                            return Err(JournalError::Fenced {
                                place: self.to_string(),
                                by: Box::new(by),
                            });
                        }
                        // 409 without an object: another writer tried at the same moment, and
                        // failed too.
                        None => {}
                    }
                }
                Err(failure) => return Err(JournalError::store(self, failure)),
            }
        }
        let message = format!("{name} can neither be written nor read");
        Err(JournalError::Io {
            place: self.to_string(),
            message,
        })
    }

    /// Removes objects that are no longer needed. The next session retries what fails.
    async fn remove(&self, names: impl IntoIterator<Item = FileName, IntoIter: Send>) {
        let names = names.into_iter().map(|name| name.to_string());
        self.remove_objects(names).await;
    }

    async fn remove_objects(&self, names: impl IntoIterator<Item = String, IntoIter: Send>) {
        let remove = |name: String| async move {
            let key = self.key(&name)?;
            self.bucket
                .delete_object(&key, None, None)
                .await
                .map_err(|failure| JournalError::store(self, failure))
        };
        let done: Result<(), JournalError> = stream::iter(names)
            .map(remove)
            .buffer_unordered(MAX_CONCURRENT)
            .try_collect()
            .await;
        if let Err(error) = done {
            tracing::warn!(%error, "old segments could not be removed; the next session tries again");
        }
    }
}

impl std::fmt::Display for BucketPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        S3Uri {
            bucket: self.bucket.name().clone(),
            key: self.prefix.clone(),
        }
        .fmt(f)
    }
}

impl BucketLog {
    /// Takes the journal over and reads it. From then on, every other writer is shut out.
    ///
    /// # Errors
    /// [`JournalError::Held`] while another session holds it, and errors of reading and writing.
    pub(super) async fn open(
        place: BucketPlace,
        writer: Writer,
        terms: &LeaseTerms,
    ) -> Result<(Self, JournalContent), JournalError> {
        let (lease, checked) = Lease::take(&place, &writer, terms).await?;
        match place.take_over(&writer, terms, checked).await {
            Ok((number, at, found)) => {
                lease.set_next_segment(number + 1);
                let replay = found.replay;
                let mut fences = replay.fences.clone();
                fences.push(Fence {
                    segment: number,
                    at,
                });
                let log = Self {
                    place,
                    writer,
                    segment: number + 1,
                    snapshot: (replay.snapshot.max(1), replay.base),
                    snapshot_bytes: found.snapshot_bytes,
                    tail_bytes: found.tail_bytes,
                    fences,
                    replaced: BTreeSet::new(),
                    lease,
                };
                Ok((log, replay))
            }
            Err(error) => {
                lease.withdraw().await;
                Err(error)
            }
        }
    }

    /// Takes over a journal that cannot be read, and shuts out its writer. The first snapshot
    /// replaces it.
    ///
    /// # Errors
    /// Those of [`BucketLog::open`].
    pub(super) async fn begin_anew(
        place: BucketPlace,
        writer: Writer,
        terms: &LeaseTerms,
    ) -> Result<(Self, Salvage), JournalError> {
        let (lease, _) = Lease::take(&place, &writer, terms).await?;
        match place.take_unread(&writer, terms).await {
            Ok((number, fences, salvage)) => {
                lease.set_next_segment(number + 1);
                let log = Self {
                    place,
                    writer,
                    segment: number + 1,
                    snapshot: (number, 0),
                    snapshot_bytes: 0,
                    tail_bytes: 0,
                    fences,
                    replaced: BTreeSet::new(),
                    lease,
                };
                Ok((log, salvage))
            }
            Err(error) => {
                lease.withdraw().await;
                Err(error)
            }
        }
    }

    /// Returns the lease of this session.
    pub(super) fn held(&self) -> &Lease {
        &self.lease
    }
}

impl Store for BucketLog {
    fn gather(&self) -> (Duration, Duration) {
        (GATHER, HURRY)
    }

    async fn write(&mut self, next: u64, lines: Vec<u8>) -> Result<(), JournalError> {
        let mut bytes = Header::new(self.segment, next, &self.writer, self.place.now()).line();
        bytes.extend_from_slice(&lines);
        let written = bytes.len() as u64;
        self.place
            .create(&segment_name(self.segment), bytes)
            .await?;
        self.segment += 1;
        self.lease.set_next_segment(self.segment);
        self.tail_bytes += written;
        self.place.remove(std::mem::take(&mut self.replaced)).await;
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), JournalError> {
        if self.lease.take_suspicion() {
            return self.check_whole().await;
        }
        Ok(())
    }

    async fn check_whole(&mut self) -> Result<(), JournalError> {
        let (first, _) = self.snapshot;
        match self.place.missing(first, self.segment).await? {
            Some(name) => Err(JournalError::Cut {
                place: format!("{}{name}", self.place),
            }),
            None => Ok(()),
        }
    }

    async fn lost(&self) -> JournalError {
        self.lease.lost().await
    }

    async fn release(&mut self) {
        self.lease.release().await;
    }

    fn wants_snapshot(&self) -> bool {
        self.segment - self.snapshot.0 >= SEGMENTS || is_long(self.tail_bytes, self.snapshot_bytes)
    }

    async fn snapshot(
        &mut self,
        next: u64,
        report: u64,
        state: &RunState,
    ) -> Result<(), JournalError> {
        let (now, number, before) = (self.place.now(), self.segment, self.snapshot.0);
        let (kept, expired) = self
            .fences
            .iter()
            .partition::<Vec<_>, _>(|fence| now.duration_since(fence.at) < FENCE_AGE);
        let header = Header::new(number, next, &self.writer, now);
        let bytes = segment::snapshot(&header, report, &kept, state);
        let length = bytes.len() as u64;
        self.place.create(&snapshot_name(number), bytes).await?;
        (self.snapshot, self.snapshot_bytes, self.tail_bytes) = ((number, next), length, 0);
        let is_folded = |segment: &u64| !kept.iter().any(|fence| fence.segment == *segment);
        let folded = (before..number).filter(is_folded).map(FileName::Segment);
        let expired = expired.iter().map(|fence| FileName::Segment(fence.segment));
        let names = folded.chain(expired).chain([FileName::Snapshot(before)]);
        self.replaced.extend(names);
        self.fences = kept;
        Ok(())
    }

    async fn tail(&mut self, visit: Visit<'_>) -> Result<(), JournalError> {
        let (first, mut next) = self.snapshot;
        let mut segments = std::pin::pin!(self.place.segments(first..self.segment));
        while let Some((number, bytes)) = segments.try_next().await? {
            let place = format!("{}{}", self.place, segment_name(number));
            let bytes = bytes.ok_or_else(|| JournalError::missing(&place))?;
            visit.room().await;
            next = segment::read_segment(&place, number, &bytes, false, next, |_, event| {
                visit.event(event);
            })?
            .next;
        }
        Ok(())
    }
}
