//! The layout of reports in S3.
//!
//! Each run has a directory below the prefix, `report-TIME-RUN/`, with numbered objects, the
//! pieces: `000001.jsonl`, `000002.jsonl`, … A piece begins with a line of its own ([`PieceHead`]),
//! and continues with lines of the report. The lines of all pieces together are the report as it
//! would be in a file: header, receipts, footer.
//!
//! A piece is never changed or removed. A session that resumes the run rewrites the end of the
//! report from the journal. So the head of each piece records the report offset at which the piece
//! begins, and anything that earlier pieces hold beyond that offset is superseded. Readers decide
//! from the heads which pieces count ([`keep`]).

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::error::ReportError;
use super::frame::{Footer, footer, time_of_run};
use crate::bucket::Bucket;
use crate::location::{ObjectKey, S3Uri};
use crate::s3::paging::{Order, PageVerdict, Paging};
use crate::s3::{Attributes, FailureKind, Operation, WriteCondition};

mod runs;

pub use self::runs::{ReportDamage, StoredRuns};

/// The prefix of the names of run directories.
const RUN: &str = "report-";
/// The format of the time in such a name.
const TIME: &str = "%Y%m%dT%H%M%SZ";
/// The digits of a run's name that are used. Only a manipulated journal has more.
const MAX_DIGITS: usize = 32;
/// The maximum number of objects that a list of pieces may have. A real report has far fewer.
const MAX_PIECES: u64 = 1_000_000;
/// The bytes that are read from the start of a piece. They include its head.
const HEAD: NonZeroU64 = NonZeroU64::new(4096).unwrap();
/// The maximum number of requests in flight while heads are read.
const MAX_CONCURRENT: usize = 16;
/// The maximum number of attempts to write a piece that can neither be written nor read, because
/// another writer interferes.
const ROUNDS: u32 = 8;
/// The search for the newest run covers the last hour, then the last day, week, month, and year.
const HOURS: [i64; 5] = [1, 24, 7 * 24, 31 * 24, 366 * 24];

/// A prefix of a bucket below which runs write reports.
#[derive(Clone, Debug)]
pub struct ReportBucket {
    bucket: Bucket,
    prefix: ObjectKey,
}

/// The directory of a run below such a prefix.
#[derive(Clone, Debug)]
pub(super) struct RunDirectory {
    bucket: Bucket,
    directory: ObjectKey,
}

/// A length of a report, with the number of receipts and the checksum up to there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReportLength {
    /// The length in bytes.
    pub(super) length: u64,
    /// The number of receipts.
    pub(super) lines: u64,
    /// The CRC-64/NVME of the bytes.
    #[serde(with = "hexadecimal")]
    pub(super) sum: u64,
}

/// The first line of a piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PieceHead {
    /// The number in the name.
    pub(super) piece: u64,
    /// The run.
    pub(super) run: String,
    /// The session that wrote the piece.
    pub(super) session: String,
    /// The machine or pod of the session.
    #[serde(default)]
    pub(super) host: String,
    /// The length of the report at which the piece begins.
    pub(super) at: u64,
    /// The length of the report at the end of the piece.
    #[serde(flatten)]
    pub(super) end: ReportLength,
    /// True for the piece with the footer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) footer: bool,
}

/// A report of a run, and the pieces of it that count.
#[derive(Clone, Debug)]
pub struct StoredReport {
    pub(super) directory: RunDirectory,
    pub(super) pieces: Vec<PieceHead>,
}

/// Serializes checksums as text, because JSON readers round large numbers.
mod hexadecimal {
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(super) fn serialize<S: Serializer>(sum: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{sum:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}

/// Returns the name of a run's directory. The name of a run begins with its time, so the names of
/// directories are in the order of time.
fn run_directory(run: &str) -> String {
    let digits: String = run
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(MAX_DIGITS)
        .collect();
    format!("{RUN}{}-{digits}/", time_of_run(&digits).strftime(TIME))
}

/// Returns the number of the piece with this name.
fn piece_number(name: &str) -> Option<u64> {
    name.strip_suffix(".jsonl")?.parse().ok()
}

/// Returns the leading part of a key up to and including the run directory directly below `prefix`,
/// if the key is in one.
fn directory_in<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    let below = key.strip_prefix(prefix)?;
    let name = &below[..below.find('/')?];
    is_run_directory(name).then(|| &key[..=prefix.len() + name.len()])
}

fn is_run_directory(name: &str) -> bool {
    let time_and_run = name.strip_prefix(RUN).and_then(|rest| rest.split_once('-'));
    time_and_run.is_some_and(|(time, run)| {
        let is_time = time.len() == 16 && time.as_bytes()[8] == b'T' && time.ends_with('Z');
        is_time && !run.is_empty() && run.chars().all(|c| c.is_ascii_alphanumeric())
    })
}

impl ReportBucket {
    /// Creates the location of reports below a prefix, which is empty or ends in a slash.
    #[must_use]
    pub fn new(bucket: Bucket, prefix: ObjectKey) -> Self {
        Self { bucket, prefix }
    }

    /// Checks that a run can write its report here, without writing.
    ///
    /// # Errors
    /// [`ReportError::Unconditional`] and [`ReportError::Store`].
    pub async fn probe(&self, run: &str) -> Result<(), ReportError> {
        let directory = self.of_run(run)?;
        directory.demand_conditions()?;
        directory.numbers().await.map(drop)
    }

    pub(super) fn of_run(&self, run: &str) -> Result<RunDirectory, ReportError> {
        self.directory(&format!("{}{}", self.prefix, run_directory(run)))
    }

    fn directory(&self, key: &str) -> Result<RunDirectory, ReportError> {
        let directory = ObjectKey::new(key).map_err(|error| ReportError::Damaged {
            place: self.to_string(),
            what: error.to_string(),
        })?;
        Ok(RunDirectory {
            bucket: self.bucket.clone(),
            directory,
        })
    }

    /// Returns the report of the latest run below the prefix. If the prefix itself is the directory
    /// of a run, returns the report of that run. Returns `None` if there is no report.
    ///
    /// # Errors
    /// [`ReportError::Store`], and [`ReportError::Damaged`] for a report with missing pieces.
    pub async fn latest(&self) -> Result<Option<StoredReport>, ReportError> {
        let own = self.prefix.as_str().trim_end_matches('/');
        let own = own.rsplit('/').next().unwrap_or_default();
        let directory = if is_run_directory(own) {
            Some(self.directory(self.prefix.as_str())?)
        } else if self.bucket.capabilities().ordered_lists {
            self.newest().await?
        } else {
            self.newest_of_all().await?
        };
        let Some(directory) = directory else {
            return Ok(None);
        };
        let pieces = directory.pieces(&directory.numbers().await?).await?;
        Ok((!pieces.is_empty()).then_some(StoredReport { directory, pieces }))
    }

    /// Returns the directory of the newest run, without listing all pieces.
    async fn newest(&self) -> Result<Option<RunDirectory>, ReportError> {
        let below = format!("{}{RUN}", self.prefix);
        let now = Timestamp::now();
        let mut starts: Vec<_> = HOURS
            .iter()
            .filter_map(|hours| now.checked_sub(SignedDuration::from_hours(*hours)).ok())
            .map(|time| format!("{below}{}", time.strftime(TIME)))
            .collect();
        starts.push(below.clone());
        let mut newest = None;
        for start in starts {
            let mut after = start;
            // Steps from one run to the next, and over all other objects.
            while let Some(found) = self.first(&below, &after).await? {
                if found <= after {
                    break;
                }
                after = match directory_in(&found, self.prefix.as_str()) {
                    Some(directory) => {
                        newest = Some(directory.to_owned());
                        format!("{directory}~")
                    }
                    None => found,
                };
            }
            if newest.is_some() {
                break;
            }
        }
        newest.map(|newest| self.directory(&newest)).transpose()
    }

    async fn first(&self, below: &str, after: &str) -> Result<Option<String>, ReportError> {
        let first = self.bucket.first(below, Some(after)).await;
        let first = first.map_err(|failure| ReportError::Store {
            place: self.to_string(),
            failure,
        })?;
        Ok(first.map(|object| object.key.to_string()))
    }

    /// Returns the directory of the newest run from a list of all pieces, for servers that list
    /// without order.
    async fn newest_of_all(&self) -> Result<Option<RunDirectory>, ReportError> {
        let mut newest = None;
        let whole = self.directory(self.prefix.as_str())?;
        whole
            .list(|key| {
                let directory = directory_in(key, self.prefix.as_str()).map(str::to_owned);
                newest = std::mem::take(&mut newest).max(directory);
            })
            .await?;
        newest.map(|newest| self.directory(&newest)).transpose()
    }
}

impl std::fmt::Display for ReportBucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        S3Uri {
            bucket: self.bucket.name().clone(),
            key: self.prefix.clone(),
        }
        .fmt(f)
    }
}

impl std::fmt::Display for RunDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.uri().fmt(f)
    }
}

impl RunDirectory {
    pub(super) fn uri(&self) -> S3Uri {
        S3Uri {
            bucket: self.bucket.name().clone(),
            key: self.directory.clone(),
        }
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> ReportError {
        ReportError::Damaged {
            place: self.to_string(),
            what: what.into(),
        }
    }

    fn store(&self, failure: crate::s3::Failure) -> ReportError {
        ReportError::Store {
            place: self.to_string(),
            failure,
        }
    }

    fn key(&self, number: u64) -> Result<ObjectKey, ReportError> {
        ObjectKey::new(&format!("{}{number:06}.jsonl", self.directory))
            .map_err(|error| self.damaged(error.to_string()))
    }

    /// Refuses an endpoint that is not known to have conditional writes, which keep a second writer
    /// out.
    pub(super) fn demand_conditions(&self) -> Result<(), ReportError> {
        if self.bucket.capabilities().if_none_match.put {
            Ok(())
        } else {
            Err(self.unconditional(false))
        }
    }

    fn unconditional(&self, ignored: bool) -> ReportError {
        ReportError::Unconditional {
            place: self.to_string(),
            endpoint: self.bucket.client().endpoint().to_owned(),
            ignored,
        }
    }

    /// Visits all keys below the directory.
    async fn list(&self, mut visit: impl FnMut(&str)) -> Result<(), ReportError> {
        let prefix = self.directory.as_str();
        let order = Order::of_objects(self.bucket.capabilities().ordered_lists);
        let mut paging = Paging::new(Operation::ListObjects, self.bucket.name(), prefix, order)
            .at_most(MAX_PIECES);
        let mut token = None;
        loop {
            let page = self.bucket.list(prefix, None, token.as_deref()).await;
            let mut page = page.map_err(|failure| self.store(failure))?;
            let turn = paging
                .check(&mut page)
                .map_err(|failure| self.store(failure))?;
            if turn == PageVerdict::Again {
                continue;
            }
            page.items.iter().for_each(|object| visit(&object.key));
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Returns the numbers of all pieces.
    pub(super) async fn numbers(&self) -> Result<BTreeSet<u64>, ReportError> {
        let mut numbers = BTreeSet::new();
        self.list(|key| {
            let name = key.strip_prefix(self.directory.as_str());
            numbers.extend(name.and_then(piece_number));
        })
        .await?;
        Ok(numbers)
    }

    /// Returns the heads of the pieces that count.
    pub(super) async fn pieces(
        &self,
        numbers: &BTreeSet<u64>,
    ) -> Result<Vec<PieceHead>, ReportError> {
        let numbers: Vec<u64> = numbers.iter().copied().collect();
        let head = |number| async move { self.head(number).await };
        let heads = stream::iter(numbers).map(head).buffered(MAX_CONCURRENT);
        let heads: Vec<_> = heads.boxed().try_collect().await?;
        keep(heads).map_err(|what| self.damaged(what))
    }

    /// Returns the head of a piece, or its number if it has none.
    async fn head(&self, number: u64) -> Result<Result<PieceHead, u64>, ReportError> {
        let start = self.bucket.get_start(&self.key(number)?, HEAD).await;
        let start = start.map_err(|failure| self.store(failure))?;
        let head = head_of(&start).map(|(head, _)| head);
        Ok(head.filter(|head| head.piece == number).ok_or(number))
    }

    /// Returns true if S3 answers that a piece does not exist.
    pub(super) async fn is_gone(&self, piece: u64) -> bool {
        match self.head(piece).await {
            Err(ReportError::Store { failure, .. }) => failure.kind() == &FailureKind::NotFound,
            _ => false,
        }
    }

    /// Returns the lines of a piece.
    pub(super) async fn body(&self, expected: PieceHead) -> Result<Bytes, ReportError> {
        let bytes = self.bucket.get_small(&self.key(expected.piece)?).await;
        let mut bytes = bytes.map_err(|failure| self.store(failure))?;
        let length = head_of(&bytes)
            .filter(|(head, _)| *head == expected)
            .map(|(_, length)| length);
        match length.map(|length| bytes.split_off(length)) {
            Some(body) if body.len() as u64 == expected.end.length - expected.at => Ok(body),
            _ => Err(self.damaged(format!("its piece {} was changed", expected.piece))),
        }
    }

    /// Writes a piece that must not exist yet. Returns `None` on success, or the head of another
    /// piece with the same number. If the response of a write is lost, the retry finds its own
    /// first attempt, which counts as written.
    pub(super) async fn create(
        &self,
        head: &PieceHead,
        body: &[u8],
    ) -> Result<Option<PieceHead>, ReportError> {
        let key = self.key(head.piece)?;
        let mut bytes = head.line().map_err(|error| self.damaged(error))?;
        bytes.extend_from_slice(body);
        let bytes = Bytes::from(bytes);
        for _ in 0..ROUNDS {
            if self.put(&key, bytes.clone()).await? {
                return Ok(None);
            }
            match self.bucket.get_small(&key).await {
                Ok(found) if found == bytes => return Ok(None),
                Ok(found) => {
                    let other = head_of(&found).map(|(head, _)| head);
                    let what = || format!("its piece {} is something else", head.piece);
                    return other.ok_or_else(|| self.damaged(what())).map(Some);
                }
                // Another writer tried at the same moment, and failed too.
                Err(failure) if *failure.kind() == FailureKind::NotFound => {}
                Err(failure) => return Err(self.store(failure)),
            }
        }
        let piece = head.piece;
        Err(self.damaged(format!("its piece {piece} can neither be written nor read")))
    }

    /// Writes an object. Returns false if the server refuses because the key already has an object
    /// or another write is in progress.
    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, ReportError> {
        let attributes = Attributes::default();
        let written = self
            .bucket
            .put_object(key, bytes, &attributes, None, WriteCondition::Absent)
            .await;
        match written {
            Ok(_) => Ok(true),
            Err(failure)
                if matches!(
                    failure.kind(),
                    FailureKind::PreconditionFailed | FailureKind::Conflict
                ) =>
            {
                Ok(false)
            }
            Err(failure) => Err(self.store(failure)),
        }
    }

    /// Checks that the server honors conditions: writes a new piece again, which it must refuse. A
    /// proxy or another version of the server may ignore conditions that its profile promises.
    pub(super) async fn try_condition(
        &self,
        head: &PieceHead,
        body: &[u8],
    ) -> Result<(), ReportError> {
        let mut bytes = head.line().map_err(|error| self.damaged(error))?;
        bytes.extend_from_slice(body);
        if self.put(&self.key(head.piece)?, bytes.into()).await? {
            return Err(self.unconditional(true));
        }
        Ok(())
    }
}

impl PieceHead {
    fn line(&self) -> Result<Vec<u8>, String> {
        let mut line = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Returns the head of a piece and the length of its line.
fn head_of(bytes: &[u8]) -> Option<(PieceHead, usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let head = serde_json::from_slice(&bytes[..end]).ok()?;
    Some((head, end + 1))
}

/// Returns the pieces that count. Each piece supersedes earlier data from its own offset on. A
/// damaged or out-of-place piece is harmless if a later piece supersedes it.
fn keep(heads: Vec<Result<PieceHead, u64>>) -> Result<Vec<PieceHead>, String> {
    let mut kept: Vec<PieceHead> = Vec::new();
    let mut damage = None;
    for head in heads {
        let head = match head {
            Ok(head) => head,
            Err(number) => {
                damage.get_or_insert(format!("its piece {number} has no head"));
                continue;
            }
        };
        let end = kept.last().map_or(0, |last| last.end.length);
        if head.at > end || head.end.length < head.at {
            let (piece, at) = (head.piece, head.at);
            damage.get_or_insert_with(|| {
                format!(
                    "its piece {piece} begins at byte {at} of the report, and the pieces before end at byte {end}: \
                     pieces are missing"
                )
            });
            continue;
        }
        if damage.is_some() && head.at == end && end > 0 {
            // The damaged piece may have discarded more and ended at this length too, so this piece
            // does not prove that the damaged one is discarded.
            continue;
        }
        if cut(&mut kept, head.at) == head.at {
            damage = None;
        } else {
            damage.get_or_insert(format!(
                "its piece {} begins within another one",
                head.piece
            ));
            continue;
        }
        kept.push(head);
    }
    damage.map_or(Ok(kept), Err)
}

/// Removes the pieces that end after a length of the report, and returns the length at which the
/// remaining ones end.
pub(super) fn cut(kept: &mut Vec<PieceHead>, length: u64) -> u64 {
    while kept.pop_if(|last| last.end.length > length).is_some() {}
    kept.last().map_or(0, |last| last.end.length)
}

impl StoredReport {
    /// Returns the location of the run's directory.
    #[must_use]
    pub fn location(&self) -> S3Uri {
        self.directory.uri()
    }

    /// Returns the name of the run.
    #[must_use]
    pub fn run(&self) -> &str {
        self.pieces.first().map_or("", |first| &first.run)
    }

    /// Returns the number of pieces that count.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Returns the number of receipts so far.
    #[must_use]
    pub fn receipts(&self) -> u64 {
        self.pieces.last().map_or(0, |last| last.end.lines)
    }

    /// Returns the report with its first piece only, which contains the header.
    pub(super) fn first_piece(&self) -> Self {
        Self {
            directory: self.directory.clone(),
            pieces: self.pieces.first().cloned().into_iter().collect(),
        }
    }

    /// Returns the footer, if the report has one.
    ///
    /// # Errors
    /// [`ReportError::Store`] and [`ReportError::Damaged`].
    pub async fn footer(&self) -> Result<Option<Footer>, ReportError> {
        let Some(last) = self.pieces.last().filter(|last| last.footer) else {
            return Ok(None);
        };
        let body = self.directory.body(last.clone()).await?;
        let text = std::str::from_utf8(&body).unwrap_or_default();
        let found = footer(text.trim_end());
        found.map(Some).ok_or_else(|| {
            let piece = last.piece;
            self.directory
                .damaged(format!("its piece {piece} has no footer"))
        })
    }
}

#[cfg(test)]
mod tests;
