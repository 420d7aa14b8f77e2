//! The pseudo-random bytes of virtual objects.
//!
//! Byte `i` of pattern `seed` is byte `i mod PERIOD` of a block that a counter-based generator
//! derives from the seed, so any byte can be generated without the preceding ones. The period is a
//! prime near 1 MiB. If it were a round size, parts of round sizes would all begin with the same
//! bytes, and a part written to the wrong offset would go unnoticed.
//!
//! Because the pattern is periodic, the CRC of any range can be computed from the CRCs of the
//! prefixes of the block. [`Tables`] caches these for the seeds used last, so the CRC of 128 MiB
//! takes microseconds and no bytes are generated.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::crc::{Crc, CrcSum};

/// The number of bytes after which a pattern repeats. For why it is a prime, see the module
/// documentation.
pub const PERIOD: u64 = 1_048_573;

/// The distance between two stored prefix CRCs, in bytes.
const STRIDE: u64 = 512;

/// The number of cached tables. Each takes about 16 KiB and half a millisecond to compute.
const SEEDS_KEPT: usize = 256;

/// Ranges shorter than this are hashed directly, because a table would cost more than it saves.
const DIRECT: u64 = 256 * 1024;

/// Returns the eight bytes at `8 * index` of the block of `seed` (`splitmix64` of a counter).
fn word(seed: u64, index: u64) -> [u8; 8] {
    let mut z = (seed ^ 0x5851_f42d_4c95_7f2d)
        .wrapping_mul(0x2545_f491_4f6c_dd1d)
        .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

/// Appends the `len` bytes at `offset` of the pattern `seed` to `into`.
pub(super) fn write(seed: u64, offset: u64, len: u64, into: &mut Vec<u8>) {
    let start = into.len();
    into.resize(start + size(len), 0);
    let (mut rest, mut position) = (&mut into[start..], offset % PERIOD);
    while !rest.is_empty() {
        let take = rest.len().min(size(PERIOD - position));
        let (now, later) = rest.split_at_mut(take);
        fill(seed, position, now);
        (rest, position) = (later, 0);
    }
}

/// Writes the bytes at `position` of the block of `seed`, word by word.
fn fill(seed: u64, position: u64, into: &mut [u8]) {
    let (mut index, skip) = (position / 8, size(position % 8));
    let (first, rest) = into.split_at_mut(into.len().min((8 - skip) % 8));
    if !first.is_empty() {
        first.copy_from_slice(&word(seed, index)[skip..skip + first.len()]);
        index += 1;
    }
    let (words, last) = rest.as_chunks_mut();
    for bytes in words {
        *bytes = word(seed, index);
        index += 1;
    }
    last.copy_from_slice(&word(seed, index)[..last.len()]);
}

/// Returns a number of bytes to generate as a length in memory.
fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The CRCs of the prefixes of the block at each multiple of [`STRIDE`], and of the whole block.
struct Prefixes {
    at: Vec<u64>,
    block: CrcSum,
}

impl Prefixes {
    fn new(seed: u64, crc: Crc) -> Self {
        let mut at = Vec::new();
        let mut sum = CrcSum::EMPTY;
        let mut bytes = Vec::new();
        let mut position = 0;
        while position < PERIOD {
            at.push(sum.value());
            let len = STRIDE.min(PERIOD - position);
            bytes.clear();
            write(seed, position, len, &mut bytes);
            sum = sum.then(crc.of(&bytes), crc);
            position += len;
        }
        Self { at, block: sum }
    }

    /// Computes the CRC of the first `len` bytes of the block.
    fn prefix(&self, seed: u64, len: u64, crc: Crc) -> CrcSum {
        if len == PERIOD {
            return self.block;
        }
        let start = len / STRIDE * STRIDE;
        let known = CrcSum::new(self.at[usize::try_from(len / STRIDE).unwrap_or(0)], start);
        let mut rest = Vec::new();
        write(seed, start, len - start, &mut rest);
        known.then(crc.of(&rest), crc)
    }
}

/// The prefix tables of recently used seeds, by seed and algorithm.
#[derive(Default)]
struct Tables {
    known: HashMap<(u64, Crc), Arc<Prefixes>>,
}

static TABLES: Mutex<Option<Tables>> = Mutex::new(None);

fn prefixes(seed: u64, crc: Crc) -> Arc<Prefixes> {
    {
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = tables.get_or_insert_default();
        if let Some(known) = tables.known.get(&(seed, crc)) {
            return Arc::clone(known);
        }
    }
    let made = Arc::new(Prefixes::new(seed, crc));
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let tables = tables.get_or_insert_default();
    if tables.known.len() >= SEEDS_KEPT {
        tables.known.clear();
    }
    tables.known.insert((seed, crc), Arc::clone(&made));
    made
}

/// Computes the real CRC of the `len` bytes at `offset` of the pattern `seed`.
pub(super) fn crc(seed: u64, offset: u64, len: u64, crc: Crc) -> CrcSum {
    let start = offset % PERIOD;
    if len < DIRECT {
        let mut bytes = Vec::new();
        write(seed, start, len, &mut bytes);
        return crc.of(&bytes);
    }
    let table = prefixes(seed, crc);
    let to_end = PERIOD - start;
    let before = table.prefix(seed, start, crc);
    if len <= to_end {
        return table
            .prefix(seed, start + len, crc)
            .without_prefix(before, crc);
    }
    let head = table.block.without_prefix(before, crc);
    let (blocks, tail) = ((len - to_end) / PERIOD, (len - to_end) % PERIOD);
    head.then(table.block.repeat(blocks, crc), crc)
        .then(table.prefix(seed, tail, crc), crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(range: std::ops::Range<u64>) -> std::ops::Range<usize> {
        usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
    }

    #[test]
    fn any_byte_can_be_made_without_those_before_it() {
        let mut whole = Vec::new();
        write(7, 0, 3 * PERIOD, &mut whole);
        let is_of_its_word = |(at, byte): (u64, &u8)| {
            let at = at % PERIOD;
            *byte == word(7, at / 8)[size(at % 8)]
        };
        assert!((0..).zip(&whole).all(is_of_its_word));
        for (offset, len) in [
            (0, 9),
            (3, 20),
            (PERIOD - 5, 11),
            (PERIOD, 4),
            (2 * PERIOD - 1, 2),
        ] {
            let mut slice = Vec::new();
            write(7, offset, len, &mut slice);
            assert_eq!(slice, whole[bytes(offset..offset + len)], "{offset}+{len}");
        }
        assert_eq!(whole[..1000], whole[bytes(PERIOD..PERIOD + 1000)]);
    }

    #[test]
    fn the_crc_of_a_range_is_the_crc_of_its_bytes() {
        for algorithm in [Crc::Crc32, Crc::Crc32c, Crc::Crc64Nvme] {
            for (offset, len) in [
                (0, 10),
                (0, PERIOD),
                (5, DIRECT),
                (4095, 3 * PERIOD + 17),
                (PERIOD - 1, 300_000),
                (123_456, PERIOD - 123_456),
                (123_456, 5 * PERIOD),
            ] {
                let mut bytes = Vec::new();
                write(42, offset, len, &mut bytes);
                assert_eq!(
                    crc(42, offset, len, algorithm),
                    algorithm.of(&bytes),
                    "{algorithm:?} {offset}+{len}"
                );
            }
        }
    }
}
