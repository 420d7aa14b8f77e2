//! The content of an object: bytes, or a description from which bytes are generated when they are
//! read.
//!
//! A [`Content`] is a list of segments. Each segment is real bytes or a range of a pseudo-random
//! pattern. Slicing and joining work on segments, so an object of 48.8 TiB made of 10,000 parts
//! takes a few words of memory. Adjacent ranges of the same pattern are merged, so equal contents
//! stay small however they were split. Equality compares the bytes that two contents describe.

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use s3s::StdError;
use s3s::stream::{ByteStream, RemainingLength};

use super::pattern;

/// The bytes that are generated at a time for a reader of a virtual object.
const CHUNK: u64 = 256 * 1024;

/// Ranges of different patterns or offsets are compared byte by byte up to this length. Longer ones
/// count as different.
const COMPARED: u64 = 4096;

/// The bytes of an object or of a part. Cheap to clone.
#[derive(Clone)]
pub struct Content {
    len: u64,
    segments: Segments,
}

#[derive(Clone)]
enum Segments {
    One(Segment),
    Many(Arc<[Segment]>),
}

/// A contiguous run of bytes.
#[derive(Clone, Debug)]
pub(super) enum Segment {
    /// Real bytes.
    Bytes(Bytes),
    /// `len` bytes at `offset` (below [`pattern::PERIOD`]) of the pattern `seed`.
    Pattern { seed: u64, offset: u64, len: u64 },
}

impl Segment {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Pattern { len, .. } => *len,
        }
    }

    fn slice(&self, range: Range<u64>) -> Self {
        match self {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the range lies inside bytes that are in memory"
            )]
            Self::Bytes(bytes) => {
                Self::Bytes(bytes.slice(range.start as usize..range.end as usize))
            }
            Self::Pattern { seed, offset, .. } => Self::Pattern {
                seed: *seed,
                offset: (offset + range.start) % pattern::PERIOD,
                len: range.end - range.start,
            },
        }
    }

    /// Returns the bytes. The caller limits the length.
    fn to_bytes(&self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Pattern { seed, offset, len } => {
                let mut bytes = Vec::with_capacity(usize::try_from(*len).unwrap_or(0));
                pattern::write(*seed, *offset, *len, &mut bytes);
                bytes.into()
            }
        }
    }

    /// Joins two segments if both are from the same pattern and `next` begins where this one ends.
    fn join(&self, next: &Self) -> Option<Self> {
        match (self, next) {
            (
                Self::Pattern { seed, offset, len },
                Self::Pattern {
                    seed: next_seed,
                    offset: next_offset,
                    len: next_len,
                },
            ) if seed == next_seed && (offset + len) % pattern::PERIOD == *next_offset => {
                Some(Self::Pattern {
                    seed: *seed,
                    offset: *offset,
                    len: len + next_len,
                })
            }
            _ => None,
        }
    }

    /// Returns true if two segments of the same length describe the same bytes.
    fn same_bytes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (
                Self::Pattern { seed, offset, len },
                Self::Pattern {
                    seed: other_seed,
                    offset: other_offset,
                    ..
                },
            ) => {
                (seed == other_seed && offset == other_offset)
                    || (*len <= COMPARED && self.to_bytes() == other.to_bytes())
            }
            _ => self.to_bytes() == other.to_bytes(),
        }
    }
}

impl Content {
    /// Creates a content from real bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            len: bytes.len() as u64,
            segments: Segments::One(Segment::Bytes(bytes)),
        }
    }

    /// Creates an empty content.
    #[must_use]
    pub fn empty() -> Self {
        Self::bytes(Bytes::new())
    }

    /// Returns a copy with one bit of the first byte flipped. An empty content stays empty.
    pub(super) fn corrupted(&self) -> Self {
        if self.len == 0 {
            return self.clone();
        }
        let first: Vec<u8> = self
            .slice(0..1)
            .to_bytes()
            .iter()
            .map(|byte| byte ^ 1)
            .collect();
        Self::concat([&Self::bytes(first), &self.slice(1..self.len)])
    }

    /// Returns the first `len` bytes of the pseudo-random pattern `seed`, without keeping them in
    /// memory.
    #[must_use]
    pub fn pattern(seed: u64, len: u64) -> Self {
        Self {
            len,
            segments: Segments::One(Segment::Pattern {
                seed,
                offset: 0,
                len,
            }),
        }
    }

    /// Returns the same bytes as [`Content::pattern`], but in memory, so that the MD5 and SHA sums
    /// are real at any size.
    #[must_use]
    pub fn pattern_bytes(seed: u64, len: u64) -> Self {
        Self::bytes(
            Segment::Pattern {
                seed,
                offset: 0,
                len,
            }
            .to_bytes(),
        )
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns true if there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn segments(&self) -> &[Segment] {
        match &self.segments {
            Segments::One(segment) => std::slice::from_ref(segment),
            Segments::Many(segments) => segments,
        }
    }

    /// Returns the bytes of `range`, clamped to the end of the content.
    #[must_use]
    pub fn slice(&self, range: Range<u64>) -> Self {
        let (start, end) = (range.start.min(self.len), range.end.min(self.len));
        let mut at = 0;
        let mut cut = Vec::new();
        for segment in self.segments() {
            let len = segment.len();
            let (from, to) = (start.max(at), end.min(at + len));
            if from < to {
                cut.push(segment.slice(from - at..to - at));
            }
            at += len;
            if at >= end {
                break;
            }
        }
        Self::of_segments(cut)
    }

    /// Joins the contents in order.
    pub fn concat<'a>(contents: impl IntoIterator<Item = &'a Self>) -> Self {
        Self::of_segments(
            contents
                .into_iter()
                .flat_map(|content| content.segments().iter().cloned()),
        )
    }

    fn of_segments(segments: impl IntoIterator<Item = Segment>) -> Self {
        let mut merged: Vec<Segment> = Vec::new();
        for segment in segments {
            if segment.len() == 0 {
                continue;
            }
            match merged.last_mut() {
                Some(last) => match last.join(&segment) {
                    Some(joined) => *last = joined,
                    None => merged.push(segment),
                },
                None => merged.push(segment),
            }
        }
        let len = merged.iter().map(Segment::len).sum();
        match (merged.pop(), merged.is_empty()) {
            (None, _) => Self::empty(),
            (Some(only), true) => Self {
                len,
                segments: Segments::One(only),
            },
            (Some(last), false) => {
                merged.push(last);
                Self {
                    len,
                    segments: Segments::Many(merged.into()),
                }
            }
        }
    }

    /// Returns all bytes. They are held in memory, so use this for small contents only.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.segments {
            Segments::One(segment) => segment.to_bytes(),
            Segments::Many(segments) => segments
                .iter()
                .flat_map(|segment| segment.to_bytes().to_vec())
                .collect::<Vec<u8>>()
                .into(),
        }
    }

    /// Returns the bytes in chunks of at most 256 KiB.
    pub(super) fn chunks(&self) -> Chunks {
        Chunks {
            content: self.clone(),
            at: 0,
        }
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        if self.len != other.len {
            return false;
        }
        let (mut left, mut right) = (self.segments().iter(), other.segments().iter());
        let (mut a, mut b) = (left.next().cloned(), right.next().cloned());
        while let (Some(x), Some(y)) = (&a, &b) {
            // A pattern that is compared with real bytes is generated in chunks, not all at once.
            let shared = match (x, y) {
                (Segment::Bytes(_), Segment::Pattern { .. })
                | (Segment::Pattern { .. }, Segment::Bytes(_)) => x.len().min(y.len()).min(CHUNK),
                _ => x.len().min(y.len()),
            };
            if !x.slice(0..shared).same_bytes(&y.slice(0..shared)) {
                return false;
            }
            let (x_left, y_left) = (x.slice(shared..x.len()), y.slice(shared..y.len()));
            a = if x_left.len() == 0 {
                left.next().cloned()
            } else {
                Some(x_left)
            };
            b = if y_left.len() == 0 {
                right.next().cloned()
            } else {
                Some(y_left)
            };
        }
        true
    }
}

impl Eq for Content {}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for segment in self.segments() {
            match segment {
                Segment::Bytes(bytes) if bytes.len() <= 64 => list.entry(bytes),
                Segment::Bytes(bytes) => list.entry(&format_args!("{} bytes", bytes.len())),
                Segment::Pattern { seed, offset, len } => {
                    list.entry(&format_args!("pattern {seed} at {offset}, {len} bytes"))
                }
            };
        }
        list.finish()
    }
}

/// Reads a content in chunks, as an iterator for hashing and as a stream for answers.
pub(super) struct Chunks {
    content: Content,
    at: u64,
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.at >= self.content.len {
            return None;
        }
        let mut segment_start = 0;
        for segment in self.content.segments() {
            let len = segment.len();
            if self.at < segment_start + len {
                let from = self.at - segment_start;
                let to = len.min(from + CHUNK);
                self.at += to - from;
                return Some(segment.slice(from..to).to_bytes());
            }
            segment_start += len;
        }
        None
    }
}

impl Stream for Chunks {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.next().map(Ok))
    }
}

impl ByteStream for Chunks {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(
            usize::try_from(self.content.len - self.at).unwrap_or(usize::MAX),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_pattern_become_the_whole_again() {
        let whole = Content::pattern(1, 50_000_000);
        let parts: Vec<_> = (0..10)
            .map(|i| whole.slice(i * 5_000_000..(i + 1) * 5_000_000))
            .collect();
        let joined = Content::concat(&parts);
        assert_eq!(joined, whole);
        assert_eq!(joined.segments().len(), 1);
        let swapped = Content::concat([&parts[1], &parts[0]]);
        assert_ne!(swapped, whole.slice(0..10_000_000));
    }

    #[test]
    fn equality_is_about_the_bytes() {
        let pattern = Content::pattern(3, 700_000);
        let bytes = Content::pattern_bytes(3, 700_000);
        assert_eq!(pattern, bytes);
        assert_eq!(bytes.slice(5..600_000), pattern.slice(5..600_000));
        assert_eq!(
            Content::concat([&bytes.slice(0..100), &pattern.slice(100..700_000)]),
            pattern
        );
        assert_ne!(pattern, Content::pattern(4, 700_000));
        assert_ne!(pattern.slice(0..699_999), pattern);
        assert_eq!(
            Content::concat([&Content::bytes("ab"), &Content::bytes("c")]),
            Content::concat([&Content::bytes("a"), &Content::bytes("bc")]),
        );
    }

    #[test]
    fn an_object_of_the_largest_size_costs_nothing() {
        let largest = Content::pattern(9, 53_687_091_200_000);
        assert_eq!(largest.slice(53_687_091_199_990..u64::MAX).len(), 10);
        assert_eq!(largest.slice(0..0), Content::empty());
    }
}
