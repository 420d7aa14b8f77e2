//! Computes and combines checksums in the form in which S3 states them.
//!
//! The CRCs of parts combine into the CRC of the whole without reading a byte again. This makes a
//! multipart upload provable: s3haul computes the CRCs of the parts while it reads them, and S3
//! must arrive at the combined value. Similarly, an MD5 multipart `ETag` follows from the `ETag`s
//! of the parts, and a composite checksum is the checksum of the parts' checksums.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::printable::hex;
use crate::s3::{Checksum, ChecksumAlgorithm, ChecksumKind, PartDone};

/// Returns the CRC algorithm and its width in bytes, or `None` for SHA.
const fn crc(algorithm: ChecksumAlgorithm) -> Option<(CrcAlgorithm, usize)> {
    match algorithm {
        ChecksumAlgorithm::Crc64Nvme => Some((CrcAlgorithm::Crc64Nvme, 8)),
        ChecksumAlgorithm::Crc32 => Some((CrcAlgorithm::Crc32IsoHdlc, 4)),
        ChecksumAlgorithm::Crc32c => Some((CrcAlgorithm::Crc32Iscsi, 4)),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

/// Returns the checksum over all of `bytes`.
#[must_use]
pub fn compute(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Checksum {
    let value = match crc(algorithm) {
        Some((crc, width)) => encode(crc_fast::checksum(crc, bytes), width),
        None if algorithm == ChecksumAlgorithm::Sha1 => STANDARD.encode(Sha1::digest(bytes)),
        None => STANDARD.encode(Sha256::digest(bytes)),
    };
    Checksum {
        algorithm,
        kind: ChecksumKind::FullObject,
        value,
    }
}

/// Combines the CRCs of adjacent pieces. Each piece is its base64 value and its length in bytes.
///
/// Returns `None` for SHA, for values of the wrong width, and if there are no pieces.
#[must_use]
pub fn combine<'a>(
    algorithm: ChecksumAlgorithm,
    pieces: impl IntoIterator<Item = (&'a str, u64)>,
) -> Option<Checksum> {
    let (crc, width) = crc(algorithm)?;
    let mut whole = None;
    let mut alike = SameLengthCombiner::new(0);
    for (value, length) in pieces {
        let piece = decode(value, width)?;
        whole = Some(match whole {
            None => piece,
            Some(sum) => {
                if alike.length != length {
                    alike = SameLengthCombiner::new(length);
                }
                alike.append(crc, sum, piece)
            }
        });
    }
    Some(Checksum {
        algorithm,
        kind: ChecksumKind::FullObject,
        value: encode(whole?, width),
    })
}

/// Appends CRCs of pieces that all have the same length.
///
/// Each call of `checksum_combine` takes about 100 µs to compute how a length changes a CRC, so an
/// object of 10,000 parts would take a second after its last part. The change is linear in the bits
/// of the CRC. So after many pieces of the same length, a table stores the change for each bit.
struct SameLengthCombiner {
    length: u64,
    pieces: u32,
    table: Option<Box<CrcTable>>,
}

/// The result of combining the CRCs 0 and 0 for one length, and the difference that each bit of the
/// first CRC makes.
struct CrcTable {
    zero: u64,
    bits: [u64; 64],
}

impl SameLengthCombiner {
    /// The number of pieces after which the table pays off: building it takes as long as combining
    /// that many.
    const TABLE_FROM: u32 = 65;

    const fn new(length: u64) -> Self {
        Self {
            length,
            pieces: 0,
            table: None,
        }
    }

    /// Returns the CRC of bytes with the CRC `sum`, followed by a piece with the CRC `piece`.
    fn append(&mut self, crc: CrcAlgorithm, sum: u64, piece: u64) -> u64 {
        self.pieces = self.pieces.saturating_add(1);
        if self.pieces <= Self::TABLE_FROM {
            return crc_fast::checksum_combine(crc, sum, piece, self.length);
        }
        let length = self.length;
        let table = self.table.get_or_insert_with(|| {
            let before = |sum| crc_fast::checksum_combine(crc, sum, 0, length);
            let zero = before(0);
            let bits = std::array::from_fn(|bit| before(1 << bit) ^ zero);
            Box::new(CrcTable { zero, bits })
        });
        let set = |bit: &usize| sum >> bit & 1 == 1;
        let changes = (0..64)
            .filter(set)
            .fold(0, |all, bit| all ^ table.bits[bit]);
        table.zero ^ changes ^ piece
    }
}

/// Returns the composite checksum of parts with these base64 values, by S3's formula: the checksum
/// of the checksums.
///
/// Returns `None` for values that are not base64, and if there are no parts.
#[must_use]
pub fn composite<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl IntoIterator<Item = &'a str>,
) -> Option<Checksum> {
    let mut sums = Vec::new();
    for part in parts {
        sums.extend(STANDARD.decode(part).ok()?);
    }
    if sums.is_empty() {
        return None;
    }
    Some(Checksum {
        kind: ChecksumKind::Composite,
        ..compute(algorithm, &sums)
    })
}

/// Returns the checksum of the object that consists of the parts, or `None` if a part has no
/// checksum or the checksums cannot be combined.
#[must_use]
pub fn of_parts(
    parts: &[PartDone],
    algorithm: ChecksumAlgorithm,
    kind: ChecksumKind,
) -> Option<Checksum> {
    let sums: Option<Vec<_>> = parts
        .iter()
        .map(|part| Some((part.checksum.as_deref()?, part.size)))
        .collect();
    match kind {
        ChecksumKind::FullObject => combine(algorithm, sums?),
        ChecksumKind::Composite => composite(algorithm, sums?.into_iter().map(|(sum, _)| sum)),
        ChecksumKind::Unstated => None,
    }
}

/// A full-object CRC of bytes that arrive piece by piece.
#[derive(Clone, Debug)]
pub struct RunningCrc {
    algorithm: ChecksumAlgorithm,
    digest: crc_fast::Digest,
    width: usize,
    bytes: u64,
}

impl RunningCrc {
    /// Starts a CRC. Returns `None` for SHA.
    #[must_use]
    pub fn new(algorithm: ChecksumAlgorithm) -> Option<Self> {
        let (crc, width) = crc(algorithm)?;
        Some(Self {
            algorithm,
            digest: crc_fast::Digest::new(crc),
            width,
            bytes: 0,
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Returns the number of bytes that were added.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the CRC of the added bytes.
    #[must_use]
    pub fn finish(&self) -> Checksum {
        let value = encode(self.digest.finalize(), self.width);
        Checksum {
            algorithm: self.algorithm,
            kind: ChecksumKind::FullObject,
            value,
        }
    }
}

/// A full-object checksum, with any algorithm, of bytes that arrive piece by piece.
#[derive(Clone, Debug)]
pub struct RunningChecksum(Algorithm);

#[derive(Clone, Debug)]
enum Algorithm {
    Crc(Box<RunningCrc>),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl RunningChecksum {
    /// Starts a checksum.
    #[must_use]
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        Self(match (RunningCrc::new(algorithm), algorithm) {
            (Some(crc), _) => Algorithm::Crc(Box::new(crc)),
            (None, ChecksumAlgorithm::Sha1) => Algorithm::Sha1(Sha1::new()),
            (None, _) => Algorithm::Sha256(Sha256::new()),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Algorithm::Crc(crc) => crc.update(bytes),
            Algorithm::Sha1(sha) => sha.update(bytes),
            Algorithm::Sha256(sha) => sha.update(bytes),
        }
    }

    /// Returns the checksum of the added bytes.
    #[must_use]
    pub fn finish(self) -> Checksum {
        let (algorithm, value) = match self.0 {
            Algorithm::Crc(crc) => return crc.finish(),
            Algorithm::Sha1(sha) => (ChecksumAlgorithm::Sha1, STANDARD.encode(sha.finalize())),
            Algorithm::Sha256(sha) => (ChecksumAlgorithm::Sha256, STANDARD.encode(sha.finalize())),
        };
        Checksum {
            algorithm,
            kind: ChecksumKind::FullObject,
            value,
        }
    }
}

fn encode(sum: u64, width: usize) -> String {
    STANDARD.encode(&sum.to_be_bytes()[8 - width..])
}

fn decode(value: &str, width: usize) -> Option<u64> {
    let bytes = STANDARD.decode(value).ok()?;
    (bytes.len() == width).then(|| {
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    })
}

/// The `ETag` of bytes that arrive piece by piece.
#[derive(Clone, Debug, Default)]
pub struct RunningMd5(Md5);

impl RunningMd5 {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the `ETag` of the added bytes.
    #[must_use]
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// Computes the `ETag` of an object written with one request, if no KMS or customer key encrypts
/// it.
#[must_use]
pub fn md5_etag(bytes: &[u8]) -> String {
    hex(&Md5::digest(bytes))
}

/// Computes the `ETag` that S3 gives to an upload of these parts: the MD5 of the MD5s, and the
/// number of parts.
///
/// Returns `None` if a part's `ETag` is not an MD5 (with KMS, or on servers with other rules).
#[must_use]
pub fn multipart_etag<'a>(parts: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let (mut digest, mut count) = (Md5::new(), 0_u32);
    for etag in parts {
        digest.update(md5_bytes(etag)?);
        count += 1;
    }
    (count > 0).then(|| format!("{}-{count}", hex(&digest.finalize())))
}

/// Returns the number of parts in a multipart `ETag` (`…-N`), or `None` for any other `ETag`.
#[must_use]
pub fn part_count(etag: &str) -> Option<u32> {
    let (digest, count) = etag.split_once('-')?;
    let is_number = !count.is_empty() && count.bytes().all(|digit| digit.is_ascii_digit());
    count
        .parse()
        .ok()
        .filter(|count| is_number && looks_like_md5(digest) && *count > 0)
}

/// Returns true for an `ETag` that may be computed from the bytes: an MD5, or the `ETag` of a
/// multipart upload. Other `ETag`s prove nothing about the bytes, even if two objects share one.
#[must_use]
pub fn may_be_of_content(etag: &str) -> bool {
    looks_like_md5(etag) || part_count(etag).is_some()
}

/// Returns true for 32 hexadecimal digits: the `ETag` of a single request, which may be an MD5.
#[must_use]
pub fn looks_like_md5(etag: &str) -> bool {
    md5_bytes(etag).is_some()
}

fn md5_bytes(etag: &str) -> Option<[u8; 16]> {
    let digits = etag.as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |digit: u8| {
            char::from(digit)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_check_values_of_the_standards() {
        for (algorithm, bytes) in [
            (
                ChecksumAlgorithm::Crc64Nvme,
                0xAE8B_1486_0A79_9888_u64.to_be_bytes().to_vec(),
            ),
            (
                ChecksumAlgorithm::Crc32,
                0xCBF4_3926_u32.to_be_bytes().to_vec(),
            ),
            (
                ChecksumAlgorithm::Crc32c,
                0xE306_9283_u32.to_be_bytes().to_vec(),
            ),
        ] {
            assert_eq!(
                compute(algorithm, b"123456789").value,
                STANDARD.encode(bytes),
                "{algorithm}"
            );
        }
        assert_eq!(md5_etag(b""), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn the_etag_of_an_upload_is_the_md5_of_its_parts_md5s() {
        let part = md5_etag(b"hello");
        let whole = multipart_etag([part.as_str(), part.as_str()]).unwrap();
        let digest: Vec<u8> = [md5_bytes(&part).unwrap(), md5_bytes(&part).unwrap()].concat();
        assert_eq!(whole, format!("{}-2", md5_etag(&digest)));
        assert_eq!(multipart_etag(["opaque"]), None);
        assert_eq!(multipart_etag([]), None);
        assert!(!looks_like_md5(&whole));
        assert_eq!(part_count(&whole), Some(2));
        for other in [
            part.as_str(),
            "opaque-2",
            &format!("{part}-"),
            &format!("{part}-0"),
            &format!("{part}-+1"),
        ] {
            assert_eq!(part_count(other), None, "{other}");
        }
        for (etag, may_be) in [
            (part.as_str(), true),
            (&part.to_uppercase(), true),
            (&whole, true),
            ("abc", false),
            ("-", false),
            ("0", false),
            ("abc-1", false),
            (&format!("{part}-0"), false),
            (&part[1..], false),
        ] {
            assert_eq!(may_be_of_content(etag), may_be, "{etag}");
        }
    }

    #[test]
    fn a_composite_is_the_checksum_of_the_checksums() {
        // S3 returned this for a one-part upload of "123456789" with CRC32: CBF43926, and the CRC
        // of those four bytes.
        let part = compute(ChecksumAlgorithm::Crc32, b"123456789").value;
        let whole = composite(ChecksumAlgorithm::Crc32, [part.as_str()]).unwrap();
        assert_eq!(
            whole.value,
            compute(ChecksumAlgorithm::Crc32, &[0xCB, 0xF4, 0x39, 0x26]).value
        );
        assert_eq!(whole.kind, ChecksumKind::Composite);
        let sha = STANDARD.encode(Sha256::digest(b"part"));
        let sums = Sha256::digest(b"part").repeat(2);
        let two = composite(ChecksumAlgorithm::Sha256, [sha.as_str(), sha.as_str()]).unwrap();
        assert_eq!(two.value, STANDARD.encode(Sha256::digest(&sums)));
        assert_eq!(composite(ChecksumAlgorithm::Sha1, []), None);
        assert_eq!(composite(ChecksumAlgorithm::Sha1, ["no base64"]), None);
    }

    #[test]
    fn many_parts_of_one_size_combine_to_the_whole() {
        let bytes: Vec<u8> = (0..70_003_u32)
            .map(|at| (at * 7 % 251).to_le_bytes()[0])
            .collect();
        for algorithm in [
            ChecksumAlgorithm::Crc64Nvme,
            ChecksumAlgorithm::Crc32,
            ChecksumAlgorithm::Crc32c,
        ] {
            let (first, rest) = bytes.split_at(7);
            let pieces: Vec<_> = std::iter::once(first)
                .chain(rest.chunks(300))
                .map(|piece| (compute(algorithm, piece).value, piece.len() as u64))
                .collect();
            let pieces = pieces
                .iter()
                .map(|(value, length)| (value.as_str(), *length));
            assert_eq!(
                combine(algorithm, pieces),
                Some(compute(algorithm, &bytes)),
                "{algorithm}"
            );
        }
    }

    proptest! {
        #[test]
        fn parts_combine_to_the_whole(bytes in proptest::collection::vec(any::<u8>(), 1..4000), cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..5)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            for algorithm in [ChecksumAlgorithm::Crc64Nvme, ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32c] {
                let pieces: Vec<_> = cuts
                    .windows(2)
                    .map(|cut| (compute(algorithm, &bytes[cut[0]..cut[1]]).value, (cut[1] - cut[0]) as u64))
                    .collect();
                let combined = combine(algorithm, pieces.iter().map(|(value, length)| (value.as_str(), *length)));
                prop_assert_eq!(combined.as_ref(), Some(&compute(algorithm, &bytes)));
                let mut running = RunningCrc::new(algorithm).unwrap();
                cuts.windows(2).for_each(|cut| running.update(&bytes[cut[0]..cut[1]]));
                prop_assert_eq!((running.bytes(), Some(running.finish())), (bytes.len() as u64, combined));
            }
        }
    }
}
