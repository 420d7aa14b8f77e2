//! Checksums as S3 states them, computed and combined on our side.
//!
//! CRCs of parts combine into the CRC of the whole without reading a byte again, which is what makes a multipart
//! upload provable: the parts are summed while they are read, and the combined value is what S3 must come to.
//! An MD5 multipart `ETag` can be predicted from the parts' `ETag`s in the same way.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use md5::{Digest as _, Md5};

use crate::s3::{Checksum, ChecksumAlgorithm, ChecksumKind};

/// The CRC parameters of an algorithm; SHA has none.
const fn crc(algorithm: ChecksumAlgorithm) -> Option<(CrcAlgorithm, usize)> {
    match algorithm {
        ChecksumAlgorithm::Crc64Nvme => Some((CrcAlgorithm::Crc64Nvme, 8)),
        ChecksumAlgorithm::Crc32 => Some((CrcAlgorithm::Crc32IsoHdlc, 4)),
        ChecksumAlgorithm::Crc32c => Some((CrcAlgorithm::Crc32Iscsi, 4)),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

/// The full-object checksum of `bytes`; `None` for SHA, which this crate never computes.
#[must_use]
pub fn compute(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Option<Checksum> {
    let (crc, width) = crc(algorithm)?;
    let value = encode(crc_fast::checksum(crc, bytes), width);
    Some(Checksum { algorithm, kind: ChecksumKind::FullObject, value })
}

/// Joins the CRCs of adjacent pieces; each piece is its base64 value and its length in bytes.
///
/// `None` for SHA, for values that are not of the algorithm's width, and for no pieces at all.
#[must_use]
pub fn combine<'a>(
    algorithm: ChecksumAlgorithm,
    pieces: impl IntoIterator<Item = (&'a str, u64)>,
) -> Option<Checksum> {
    let (crc, width) = crc(algorithm)?;
    let mut whole = None;
    for (value, length) in pieces {
        let piece = decode(value, width)?;
        whole = Some(match whole {
            None => piece,
            Some(sum) => crc_fast::checksum_combine(crc, sum, piece, length),
        });
    }
    Some(Checksum { algorithm, kind: ChecksumKind::FullObject, value: encode(whole?, width) })
}

fn encode(sum: u64, width: usize) -> String {
    STANDARD.encode(&sum.to_be_bytes()[8 - width..])
}

fn decode(value: &str, width: usize) -> Option<u64> {
    let bytes = STANDARD.decode(value).ok()?;
    (bytes.len() == width).then(|| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// The `ETag` of one request's bytes where no KMS key is in play.
#[must_use]
pub fn md5_etag(bytes: &[u8]) -> String {
    hex(&Md5::digest(bytes))
}

/// The `ETag` that S3 gives to an upload of these parts: the MD5 of their MD5s, and how many there are.
///
/// `None` when a part's `ETag` is no MD5 (KMS, or servers with rules of their own).
#[must_use]
pub fn multipart_etag<'a>(parts: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let (mut digest, mut count) = (Md5::new(), 0_u32);
    for etag in parts {
        digest.update(md5_bytes(etag)?);
        count += 1;
    }
    (count > 0).then(|| format!("{}-{count}", hex(&digest.finalize())))
}

/// True for 32 hexadecimal digits: the `ETag` of one request, and perhaps an MD5.
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
        let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_check_values_of_the_standards() {
        for (algorithm, bytes) in [
            (ChecksumAlgorithm::Crc64Nvme, 0xAE8B_1486_0A79_9888_u64.to_be_bytes().to_vec()),
            (ChecksumAlgorithm::Crc32, 0xCBF4_3926_u32.to_be_bytes().to_vec()),
            (ChecksumAlgorithm::Crc32c, 0xE306_9283_u32.to_be_bytes().to_vec()),
        ] {
            assert_eq!(
                compute(algorithm, b"123456789").unwrap().value,
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
                    .map(|cut| (compute(algorithm, &bytes[cut[0]..cut[1]]).unwrap().value, (cut[1] - cut[0]) as u64))
                    .collect();
                let combined = combine(algorithm, pieces.iter().map(|(value, length)| (value.as_str(), *length)));
                prop_assert_eq!(combined, compute(algorithm, &bytes));
            }
        }
    }
}
