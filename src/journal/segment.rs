//! The format of a journal: segments of lines, each line with its checksum.
//!
//! ```text
//! 8e1f0c2a {"journal":2,"segment":7,"next":4711,"writer":{…},"at":1763819111000}
//! 03d2b7f1 {"n":4711,"at":1763819111004,"event":{"part_stored":{"upload":12,"number":345,…}}}
//! ```
//! The eight digits are the CRC32C of the text after the blank. Records are numbered without gaps
//! over all segments, so a missing line or segment is noticed. A crash during a write can tear the
//! end of the last segment: if no good line follows the first bad one, the reader drops everything
//! from there on. A bad line before a good one is damage, and the journal is refused.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::JournalError;
use super::event::JournalEvent;
use super::identity::Writer;
use super::state::RunState;
use crate::printable::printable;

/// The version of this format. A reader refuses newer versions and reads older ones. Version 1 has
/// no split ranges.
const FORMAT: u32 = 2;

/// The first line of a segment and of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// The format's version.
    journal: u32,
    /// The version of s3haul.
    tool: String,
    /// The segment's number; a snapshot replaces all segments with lower numbers than its own.
    pub(super) segment: u64,
    /// The number of the first record that follows.
    pub(super) next: u64,
    /// The session that writes the segment.
    pub(super) writer: Writer,
    /// The time at which it was created.
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub(super) at: Timestamp,
}

impl Header {
    pub(super) fn new(segment: u64, next: u64, writer: &Writer, at: Timestamp) -> Self {
        let tool = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            journal: FORMAT,
            tool,
            segment,
            next,
            writer: writer.clone(),
            at,
        }
    }

    pub(super) fn line(&self) -> Vec<u8> {
        let mut line = Vec::new();
        push_line(&mut line, self);
        line
    }
}

/// An event with its number in the journal.
#[derive(Serialize, Deserialize)]
struct NumberedEvent<E> {
    n: u64,
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    at: Timestamp,
    event: E,
}

/// Appends a record.
pub(super) fn push_record(lines: &mut Vec<u8>, n: u64, at: Timestamp, event: &JournalEvent) {
    push_line(lines, &NumberedEvent { n, at, event });
}

/// The second line of a snapshot.
#[derive(Serialize, Deserialize)]
struct SnapshotBody<S> {
    /// The length in bytes of the report with all receipts so far.
    report: u64,
    /// Segments that are kept although the snapshot replaces them, and the times at which they were
    /// written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fences: Vec<Fence>,
    state: S,
}

/// The first segment of a session that took over. It is kept, because it occupies the number that
/// the previous session would write next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fence {
    pub(super) segment: u64,
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub(super) at: Timestamp,
}

/// Returns the bytes of a snapshot: a header, then the state.
pub(super) fn snapshot(
    header: &Header,
    report: u64,
    fences: &[Fence],
    state: &RunState,
) -> Vec<u8> {
    let mut lines = header.line();
    push_line(
        &mut lines,
        &SnapshotBody {
            report,
            fences: fences.to_vec(),
            state,
        },
    );
    lines
}

fn push_line(lines: &mut Vec<u8>, value: &impl Serialize) {
    let begin = lines.len();
    lines.extend_from_slice(b"00000000 ");
    // Writing to memory does not fail, and the keys of all maps here are strings.
    let _ = serde_json::to_writer(&mut *lines, value);
    let sum = format!("{:08x}", crc32c(&lines[begin + 9..]));
    lines[begin..begin + 8].copy_from_slice(sum.as_bytes());
    lines.push(b'\n');
}

fn crc32c(bytes: &[u8]) -> u32 {
    // The checksum has 32 bits; the function returns it as 64.
    u32::try_from(crc_fast::checksum(
        crc_fast::CrcAlgorithm::Crc32Iscsi,
        bytes,
    ))
    .unwrap_or_default()
}

/// Returns the JSON of a line (without its line feed), if the checksum matches.
fn verified(line: &[u8]) -> Option<&[u8]> {
    let (sum, rest) = line.split_at_checked(8)?;
    let json = rest.strip_prefix(b" ")?;
    (format!("{:08x}", crc32c(json)).as_bytes() == sum).then_some(json)
}

/// Iterates over the good lines of a segment, from its beginning up to the first bad one.
struct RecordLines<'a> {
    place: &'a str,
    rest: &'a [u8],
    /// The bytes of the good lines so far.
    good: usize,
    /// The number of the last line that was read.
    line: usize,
}

impl<'a> RecordLines<'a> {
    fn new(place: &'a str, bytes: &'a [u8]) -> Self {
        Self {
            place,
            rest: bytes,
            good: 0,
            line: 0,
        }
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let json = verified(&self.rest[..end])?;
        self.rest = &self.rest[end + 1..];
        self.good += end + 1;
        self.line += 1;
        Some(json)
    }

    fn parse<T: Deserialize<'a>>(&mut self) -> Option<Result<T, JournalError>> {
        let json = self.next()?;
        Some(
            serde_json::from_slice(json)
                .map_err(|error| self.corrupt(&format!("cannot be read: {error}"))),
        )
    }

    fn corrupt(&self, what: &str) -> JournalError {
        JournalError::Corrupt {
            place: self.place.to_owned(),
            line: self.line,
            what: printable(what).into_owned(),
        }
    }

    /// Checks the bytes after the last good line, and returns the number of bytes before them.
    /// There must be none, or a torn end if `may_be_torn` allows one.
    fn finish(self, may_be_torn: bool) -> Result<usize, JournalError> {
        if self.rest.is_empty() {
            return Ok(self.good);
        }
        let good_ones_follow = self
            .rest
            .split(|byte| *byte == b'\n')
            .skip(1)
            .any(|line| verified(line).is_some());
        if may_be_torn && !good_ones_follow {
            return Ok(self.good);
        }
        Err(self.damaged())
    }

    /// Returns the error for the first bad line.
    fn damaged(mut self) -> JournalError {
        self.line += 1;
        self.corrupt("the line is damaged")
    }

    /// Returns the header in the first line.
    fn header(&mut self) -> Option<Result<Header, JournalError>> {
        #[derive(Deserialize)]
        struct Format {
            journal: u32,
            tool: String,
        }
        let json = self.next()?;
        let format = match serde_json::from_slice::<Format>(json) {
            Ok(format) => format,
            Err(error) => return Some(Err(self.corrupt(&format!("is no header: {error}")))),
        };
        if format.journal > FORMAT {
            return Some(Err(JournalError::NewerVersion {
                place: self.place.to_owned(),
                tool: format.tool,
            }));
        }
        Some(
            serde_json::from_slice(json)
                .map_err(|error| self.corrupt(&format!("is no header: {error}"))),
        )
    }
}

/// The content of a journal, read from a snapshot and then the segments after it, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct JournalContent {
    pub(super) state: RunState,
    /// The length of the report at the snapshot.
    pub(super) report: u64,
    /// The number of the next record.
    pub(super) next: u64,
    /// The number of the snapshot, which is also the number of the first segment after it; 0
    /// without a snapshot.
    pub(super) snapshot: u64,
    /// The number of the first record after the snapshot.
    pub(super) base: u64,
    /// The segments with which sessions took over.
    pub(super) fences: Vec<Fence>,
    /// The last header that was read.
    pub(super) header: Option<Header>,
}

impl JournalContent {
    /// Reads the snapshot with this number. A snapshot is never torn, because it gets its name only
    /// once it is complete.
    pub(super) fn snapshot(place: &str, number: u64, bytes: &[u8]) -> Result<Self, JournalError> {
        let mut lines = RecordLines::new(place, bytes);
        let header = match lines.header() {
            Some(header) => header?,
            None => return Err(lines.damaged()),
        };
        if header.segment != number {
            let what = format!("is snapshot {}, but {number} is due", header.segment);
            return Err(lines.corrupt(&what));
        }
        let body: SnapshotBody<RunState> = match lines.parse() {
            Some(body) => body?,
            None => return Err(lines.damaged()),
        };
        lines.finish(false)?;
        Ok(Self {
            state: body.state,
            report: body.report,
            next: header.next,
            snapshot: header.segment,
            base: header.next,
            fences: body.fences,
            header: Some(header),
        })
    }

    /// Reads a segment and returns the number of its good bytes. This number is less than the
    /// segment's length only if the end is torn and `may_be_torn` allows that.
    pub(super) fn segment(
        &mut self,
        place: &str,
        number: u64,
        bytes: &[u8],
        may_be_torn: bool,
    ) -> Result<usize, JournalError> {
        let Self { state, report, .. } = self;
        let apply = |at, event: JournalEvent| {
            if matches!(event, JournalEvent::RunBegan(_)) {
                // A new run has a new report.
                *report = 0;
            }
            state.apply(at, &event);
        };
        let found = read_segment(place, number, bytes, may_be_torn, self.next, apply)?;
        self.next = found.next;
        if let Some(header) = found.header {
            let before = self.header.replace(header.clone());
            if before.is_none_or(|before| before.writer.id != header.writer.id) {
                self.fences.push(Fence {
                    segment: number,
                    at: header.at,
                });
            }
        }
        Ok(found.good)
    }
}

/// The content of a segment.
pub(super) struct SegmentRead {
    pub(super) header: Option<Header>,
    /// The number of the record that comes next.
    pub(super) next: u64,
    /// The bytes of the good lines.
    pub(super) good: usize,
}

/// Reads the records of a segment. The first one must have the number `next`.
pub(super) fn read_segment(
    place: &str,
    number: u64,
    bytes: &[u8],
    may_be_torn: bool,
    mut next: u64,
    mut visit: impl FnMut(Timestamp, JournalEvent),
) -> Result<SegmentRead, JournalError> {
    let mut lines = RecordLines::new(place, bytes);
    let Some(header) = lines.header().transpose()? else {
        return Ok(SegmentRead {
            header: None,
            next,
            good: lines.finish(may_be_torn)?,
        });
    };
    if (header.segment, header.next) != (number, next) {
        let what = format!(
            "is segment {} from record {} on, but segment {number} from record {next} on is due",
            header.segment, header.next
        );
        return Err(lines.corrupt(&what));
    }
    while let Some(record) = lines.parse::<NumberedEvent<JournalEvent>>().transpose()? {
        if record.n != next {
            return Err(lines.corrupt(&format!("is record {}, but {next} is due", record.n)));
        }
        next += 1;
        visit(record.at, record.event);
    }
    Ok(SegmentRead {
        header: Some(header),
        next,
        good: lines.finish(may_be_torn)?,
    })
}

/// One line of a damaged journal.
pub(super) enum Salvaged {
    Header,
    State(Box<RunState>),
    Event(Timestamp, JournalEvent),
}

/// Returns the lines of a segment or snapshot that may be damaged. A line that cannot be read is
/// `None`.
pub(super) fn pieces(bytes: &[u8]) -> impl Iterator<Item = Option<Salvaged>> {
    let lines = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines.map(|line| {
        let json = verified(line)?;
        if let Ok(record) = serde_json::from_slice::<NumberedEvent<JournalEvent>>(json) {
            return Some(Salvaged::Event(record.at, record.event));
        }
        if let Ok(body) = serde_json::from_slice::<SnapshotBody<RunState>>(json) {
            return Some(Salvaged::State(Box::new(body.state)));
        }
        serde_json::from_slice::<Header>(json)
            .ok()
            .map(|_| Salvaged::Header)
    })
}

/// Returns the writer of a segment, or `None` if its header cannot be read.
pub(super) fn writer_of(place: &str, bytes: &[u8]) -> Option<Writer> {
    RecordLines::new(place, bytes)
        .header()?
        .ok()
        .map(|header| header.writer)
}

/// Returns the writer of a segment or a snapshot, if its header can be read, and true if its last
/// record is the orderly end of a session.
pub(super) fn last_words(place: &str, bytes: &[u8]) -> (Option<Writer>, bool) {
    let last = bytes
        .strip_suffix(b"\n")
        .unwrap_or_default()
        .rsplit(|byte| *byte == b'\n')
        .next();
    let last = last
        .and_then(verified)
        .and_then(|json| serde_json::from_slice::<NumberedEvent<JournalEvent>>(json).ok());
    let is_closed = last.is_some_and(|record| {
        matches!(
            record.event,
            JournalEvent::RunStopped | JournalEvent::RunEnded
        )
    });
    (writer_of(place, bytes), is_closed)
}

/// Returns the name of a segment, such as `segment-0000000007.log`.
pub(super) fn segment_name(number: u64) -> String {
    format!("segment-{number:010}.log")
}

/// Returns the name of a snapshot, such as `snapshot-0000000007.log`.
pub(super) fn snapshot_name(number: u64) -> String {
    format!("snapshot-{number:010}.log")
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&match self {
            Self::Segment(number) => segment_name(*number),
            Self::Snapshot(number) => snapshot_name(*number),
        })
    }
}

/// The kind and the number of a file or object of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileName {
    Segment(u64),
    Snapshot(u64),
}

impl FileName {
    pub(super) const fn number(self) -> u64 {
        match self {
            Self::Segment(number) | Self::Snapshot(number) => number,
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".log")?;
        let parsed = if let Some(number) = stem.strip_prefix("segment-") {
            Self::Segment(number.parse().ok()?)
        } else {
            Self::Snapshot(stem.strip_prefix("snapshot-")?.parse().ok()?)
        };
        Some(parsed)
    }
}

#[cfg(test)]
mod tests;
