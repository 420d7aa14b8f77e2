//! Additional checksums and `ETags`, computed as S3 does.
//!
//! CRCs are always the real CRCs of the bytes, even for virtual contents. MD5 and SHA cannot be
//! computed without the bytes. They are real for contents in memory and for contents up to
//! [`HASHED`] bytes. Above that size, the sum of a virtual content is computed over a description
//! of it. The description is deterministic: equal ranges of a pattern have equal sums, and
//! different ranges have different ones. A copy cannot observe the difference, but the sum differs
//! from the sum of the same bytes uploaded by a client.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest as _, Md5};
use s3s::crypto::{Checksum as _, Sha1, Sha256};

use super::content::{Content, Segment};
use super::crc::{Crc, CrcSum};
use super::pattern;

/// The largest virtual content whose MD5 and SHA sums are real. Hashing that much takes 2 ms, and a
/// benchmark sends thousands of parts per second. [`Content::pattern_bytes`] has real sums at any
/// size.
pub const HASHED: u64 = 1024 * 1024;

/// The number of cached sums of small virtual contents. Tests often create thousands of objects
/// with the same pattern and length.
const SUMS_KEPT: usize = 4096;

/// A checksum algorithm that S3 accepts for objects and for multipart uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// CRC-32, as in zlib.
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-64/NVME, which S3 computes if a request names no algorithm.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// The data that a checksum of a multipart object covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumKind {
    /// All bytes of the object.
    FullObject,
    /// The checksums of the parts.
    Composite,
}

/// The additional checksum of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The data that the checksum covers.
    pub kind: ChecksumKind,
    /// The big-endian bytes in base64, without the `-N` that some answers append to composite
    /// values.
    pub value: String,
    /// The number of parts that a composite value covers; 0 for a full object.
    pub parts: usize,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// Returns the name in headers and documents: `CRC64NVME`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// Returns the name of the header that carries a value.
    pub(super) const fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    const fn crc(self) -> Option<Crc> {
        match self {
            Self::Crc32 => Some(Crc::Crc32),
            Self::Crc32c => Some(Crc::Crc32c),
            Self::Crc64Nvme => Some(Crc::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// Returns the kind of checksum that S3 chooses for a multipart upload that names only the
    /// algorithm.
    pub(super) const fn default_kind(self) -> ChecksumKind {
        match self {
            Self::Crc64Nvme => ChecksumKind::FullObject,
            _ => ChecksumKind::Composite,
        }
    }

    /// Returns true if S3 accepts this kind for multipart uploads.
    pub(super) const fn allows(self, kind: ChecksumKind) -> bool {
        match self {
            Self::Crc32 | Self::Crc32c => true,
            Self::Crc64Nvme => matches!(kind, ChecksumKind::FullObject),
            Self::Sha1 | Self::Sha256 => matches!(kind, ChecksumKind::Composite),
        }
    }

    /// Returns the base64 of the checksum of `content`.
    #[must_use]
    pub fn of(self, content: &Content) -> String {
        BASE64.encode(cached_hash(content, Some(self), || {
            match (self.crc(), self) {
                (Some(crc), _) => crc_of(content, crc).to_bytes(crc),
                (None, Self::Sha1) => sha::<Sha1>(content),
                (None, _) => sha::<Sha256>(content),
            }
        }))
    }

    /// Returns the checksum of the checksums of the parts, or `None` if one of them is not base64.
    pub(super) fn composite<'a>(self, parts: impl IntoIterator<Item = &'a str>) -> Option<String> {
        let mut joined = Vec::new();
        for part in parts {
            joined.extend(BASE64.decode(part).ok()?);
        }
        Some(self.of(&Content::bytes(joined)))
    }

    /// Returns the checksum of joined contents, computed from the checksums and the lengths of the
    /// pieces. Returns `None` for the SHA algorithms, which cannot be combined, and for values that
    /// are not base64 of the right length.
    #[must_use]
    pub fn joined<'a>(self, pieces: impl IntoIterator<Item = (&'a str, u64)>) -> Option<String> {
        let crc = self.crc()?;
        let mut sum = CrcSum::EMPTY;
        for (value, len) in pieces {
            let bytes = BASE64
                .decode(value)
                .ok()
                .filter(|bytes| bytes.len() == crc.width())?;
            let value = bytes
                .iter()
                .fold(0, |value, byte| value << 8 | u64::from(*byte));
            sum = sum.then(CrcSum::new(value, len), crc);
        }
        Some(BASE64.encode(sum.to_bytes(crc)))
    }
}

impl ChecksumKind {
    /// Returns the name in headers and documents: `FULL_OBJECT`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::FullObject, Self::Composite]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

impl Checksum {
    /// Returns the checksum of the whole `content`.
    pub(super) fn full(algorithm: Algorithm, content: &Content) -> Self {
        Self {
            algorithm,
            kind: ChecksumKind::FullObject,
            value: algorithm.of(content),
            parts: 0,
        }
    }

    /// Returns the value as HEAD, GET, and Complete show it: composite values end in `-N`.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.kind {
            ChecksumKind::FullObject => self.value.clone(),
            ChecksumKind::Composite => format!("{}-{}", self.value, self.parts),
        }
    }
}

/// A checksum that is computed piece by piece as the bytes arrive.
pub(super) enum Hasher {
    Crc32(s3s::crypto::Crc32),
    Crc32c(s3s::crypto::Crc32c),
    Crc64Nvme(s3s::crypto::Crc64Nvme),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc32 => Self::Crc32(s3s::crypto::Checksum::new()),
            Algorithm::Crc32c => Self::Crc32c(s3s::crypto::Checksum::new()),
            Algorithm::Crc64Nvme => Self::Crc64Nvme(s3s::crypto::Checksum::new()),
            Algorithm::Sha1 => Self::Sha1(s3s::crypto::Checksum::new()),
            Algorithm::Sha256 => Self::Sha256(s3s::crypto::Checksum::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc32(hash) => hash.update(bytes),
            Self::Crc32c(hash) => hash.update(bytes),
            Self::Crc64Nvme(hash) => hash.update(bytes),
            Self::Sha1(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
        }
    }

    /// Returns the base64 of the checksum.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Crc32(hash) => BASE64.encode(hash.finalize()),
            Self::Crc32c(hash) => BASE64.encode(hash.finalize()),
            Self::Crc64Nvme(hash) => BASE64.encode(hash.finalize()),
            Self::Sha1(hash) => BASE64.encode(hash.finalize()),
            Self::Sha256(hash) => BASE64.encode(hash.finalize()),
        }
    }
}

fn crc_of(content: &Content, crc: Crc) -> CrcSum {
    content
        .segments()
        .iter()
        .fold(CrcSum::EMPTY, |sum, segment| {
            let next = match segment {
                Segment::Bytes(bytes) => crc.of(bytes),
                Segment::Pattern { seed, offset, len } => pattern::crc(*seed, *offset, *len, crc),
            };
            sum.then(next, crc)
        })
}

/// Returns true if MD5 and SHA are computed over the bytes and not over a description.
fn is_hashed(content: &Content) -> bool {
    content.len() <= HASHED
        || content
            .segments()
            .iter()
            .all(|segment| matches!(segment, Segment::Bytes(_)))
}

/// Returns true if a client that hashes the bytes of the object gets the same sums.
pub(super) fn is_verifiable(object: &super::object::Object) -> bool {
    is_hashed(&object.content)
}

/// Passes `content` to a hash: its bytes, or a description of its segments.
fn feed(content: &Content, mut update: impl FnMut(&[u8])) {
    if is_hashed(content) {
        content.chunks().for_each(|chunk| update(&chunk));
        return;
    }
    update(b"virtual content\n");
    for segment in content.segments() {
        match segment {
            Segment::Bytes(bytes) => update(bytes),
            Segment::Pattern { seed, offset, len } => {
                update(format!("\npattern {seed} at {offset} for {len}\n").as_bytes());
            }
        }
    }
}

fn sha<S: s3s::crypto::Checksum>(content: &Content) -> Vec<u8> {
    let mut hash = S::new();
    feed(content, |bytes| hash.update(bytes));
    hash.finalize().as_ref().to_vec()
}

/// Returns the MD5 of the content, or of its description (see the module's documentation).
pub(super) fn md5(content: &Content) -> [u8; 16] {
    let sum = cached_hash(content, None, || {
        let mut hash = Md5::new();
        feed(content, |bytes| hash.update(bytes));
        hash.finalize().to_vec()
    });
    let mut array = [0; 16];
    array.copy_from_slice(&sum);
    array
}

/// A range of a pattern (seed, offset, length) and the algorithm of its sum; `None` is MD5.
type SumOf = (u64, u64, u64, Option<Algorithm>);

/// Returns a sum from the cache of small virtual contents, or computes it.
fn cached_hash(
    content: &Content,
    algorithm: Option<Algorithm>,
    compute: impl FnOnce() -> Vec<u8>,
) -> Vec<u8> {
    static SUMS: Mutex<Option<HashMap<SumOf, Vec<u8>>>> = Mutex::new(None);
    let key = match content.segments() {
        [Segment::Pattern { seed, offset, len }] if *len <= HASHED => {
            (*seed, *offset, *len, algorithm)
        }
        _ => return compute(),
    };
    {
        let sums = SUMS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sum) = sums.as_ref().and_then(|sums| sums.get(&key)) {
            return sum.clone();
        }
    }
    let sum = compute();
    let mut sums = SUMS.lock().unwrap_or_else(PoisonError::into_inner);
    let sums = sums.get_or_insert_default();
    if sums.len() >= SUMS_KEPT {
        sums.clear();
    }
    sums.insert(key, sum.clone());
    sum
}

/// Returns the `ETag` of an object written in one piece, unquoted.
pub(super) fn etag(content: &Content) -> String {
    hex(&md5(content))
}

/// Computes the `ETag` of a multipart object, unquoted, from the `ETag`s of its parts.
pub(super) fn multipart_etag<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Md5::new();
    let mut count = 0;
    for part in parts {
        match unhex(part) {
            Some(bytes) => hash.update(bytes),
            None => hash.update(part),
        }
        count += 1;
    }
    format!("{}-{count}", hex(&hash.finalize()))
}

/// Returns the bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    bytes
        .chunks_exact(2)
        .map(|pair| Some(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?))
        .collect()
}

fn hex_digit(digit: u8) -> Option<u8> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a hexadecimal digit is below 16"
    )]
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// Compares a `Content-MD5` value with the MD5 of `content`. Returns `None` if the value is not the
/// base64 of 16 bytes.
pub(super) fn matches_content_md5(value: &str, content: &Content) -> Option<bool> {
    let wanted = BASE64.decode(value).ok().filter(|sum| sum.len() == 16)?;
    Some(wanted == md5(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_and_real_bytes_have_the_same_crcs() {
        let (pattern, bytes) = (
            Content::pattern(5, 3_000_000),
            Content::pattern_bytes(5, 3_000_000),
        );
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            assert_eq!(algorithm.of(&pattern), algorithm.of(&bytes));
            let range = 1_000_001..2_999_999;
            assert_eq!(
                algorithm.of(&pattern.slice(range.clone())),
                algorithm.of(&bytes.slice(range))
            );
        }
        for algorithm in Algorithm::ALL {
            assert_eq!(
                algorithm.of(&pattern.slice(7..900_000)),
                algorithm.of(&bytes.slice(7..900_000))
            );
        }
        assert_eq!(
            etag(&pattern.slice(7..900_000)),
            etag(&bytes.slice(7..900_000))
        );
    }

    #[test]
    fn bytes_seen_piece_by_piece_have_the_same_sum() {
        let bytes = Content::pattern_bytes(5, 300_000);
        for algorithm in Algorithm::ALL {
            let mut hasher = Hasher::new(algorithm);
            bytes
                .to_bytes()
                .chunks(70_001)
                .for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), algorithm.of(&bytes));
        }
    }

    #[test]
    fn known_values() {
        let digits = Content::bytes("123456789");
        assert_eq!(Algorithm::Crc64Nvme.of(&digits), "rosUhgp5mIg=");
        assert_eq!(Algorithm::Crc32.of(&digits), "y/Q5Jg==");
        assert_eq!(
            Algorithm::Sha256.of(&digits),
            "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="
        );
        assert_eq!(etag(&digits), "25f9e794323b453885f5181f1b624d0b");
        assert_eq!(etag(&Content::empty()), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn the_sum_of_a_large_virtual_content_tells_contents_apart() {
        let a = Content::pattern(1, 1 << 40);
        assert_eq!(etag(&a), etag(&Content::pattern(1, 1 << 40)));
        assert_ne!(etag(&a), etag(&Content::pattern(2, 1 << 40)));
        assert_ne!(etag(&a), etag(&Content::pattern(1, (1 << 40) - 1)));
        assert_ne!(etag(&a.slice(0..1 << 30)), etag(&a.slice(1..(1 << 30) + 1)));
    }
}
