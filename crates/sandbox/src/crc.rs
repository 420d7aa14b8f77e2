//! CRCs that can be joined, split, and repeated without the bytes that they cover.
//!
//! A CRC is the remainder of the message, read as a polynomial over GF(2), so appending `n` bytes
//! multiplies it by `x^(8n)`. The library's own `checksum_combine` squares 64x64 bit matrices for
//! each call (about 100 µs); the sandbox answers thousands of part copies per second, so this
//! module multiplies polynomials instead (about 1 µs).

use crc_fast::CrcAlgorithm;

/// The CRCs that S3 supports. All are reflected, start with all ones, and invert the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Crc {
    Crc32,
    Crc32c,
    Crc64Nvme,
}

/// A CRC and the number of bytes that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CrcSum {
    value: u64,
    len: u64,
}

impl Crc {
    /// Returns the length of the value in bytes.
    pub(super) const fn width(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
        }
    }

    /// Returns the polynomial, reflected.
    const fn polynomial(self) -> u64 {
        match self {
            Self::Crc32 => 0xedb8_8320,
            Self::Crc32c => 0x82f6_3b78,
            Self::Crc64Nvme => 0x9a6c_9329_ac4b_c9b5,
        }
    }

    /// Returns the polynomial `1`. In reflected order it is the highest bit.
    const fn one(self) -> u64 {
        1 << (8 * self.width() - 1)
    }

    /// Computes the CRC of `bytes`.
    pub(super) fn of(self, bytes: &[u8]) -> CrcSum {
        let algorithm = match self {
            Self::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
            Self::Crc32c => CrcAlgorithm::Crc32Iscsi,
            Self::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
        };
        CrcSum {
            value: crc_fast::checksum(algorithm, bytes),
            len: bytes.len() as u64,
        }
    }

    /// Computes `a * b` modulo the polynomial.
    const fn multiply(self, a: u64, mut b: u64) -> u64 {
        let mut bit = self.one();
        let mut product = 0;
        while bit != 0 {
            if a & bit != 0 {
                product ^= b;
            }
            b = if b & 1 == 1 {
                (b >> 1) ^ self.polynomial()
            } else {
                b >> 1
            };
            bit >>= 1;
        }
        product
    }

    /// Returns `x^(8 * 2^k)` for `k` in 0..64.
    const fn powers(self) -> [u64; 64] {
        let mut powers = [0; 64];
        // x^8
        powers[0] = self.one() >> 8;
        let mut k = 1;
        while k < 64 {
            powers[k] = self.multiply(powers[k - 1], powers[k - 1]);
            k += 1;
        }
        powers
    }

    /// Computes `value * x^(8 * bytes)`: the remainder after `bytes` zero bytes are appended.
    fn shift(self, value: u64, bytes: u64) -> u64 {
        static CRC32: [u64; 64] = Crc::Crc32.powers();
        static CRC32C: [u64; 64] = Crc::Crc32c.powers();
        static CRC64: [u64; 64] = Crc::Crc64Nvme.powers();
        let powers = match self {
            Self::Crc32 => &CRC32,
            Self::Crc32c => &CRC32C,
            Self::Crc64Nvme => &CRC64,
        };
        let (mut value, mut bytes, mut k) = (value, bytes, 0);
        while bytes != 0 {
            if bytes & 1 == 1 {
                value = self.multiply(powers[k], value);
            }
            bytes >>= 1;
            k += 1;
        }
        value
    }
}

impl CrcSum {
    /// The CRC of no bytes.
    pub(super) const EMPTY: Self = Self { value: 0, len: 0 };

    pub(super) const fn new(value: u64, len: u64) -> Self {
        Self { value, len }
    }

    pub(super) const fn value(self) -> u64 {
        self.value
    }

    /// Computes the CRC of these bytes followed by the bytes of `next`.
    pub(super) fn then(self, next: Self, crc: Crc) -> Self {
        Self {
            value: crc.shift(self.value, next.len) ^ next.value,
            len: self.len + next.len,
        }
    }

    /// Computes the CRC of the bytes that follow `prefix`.
    pub(super) fn without_prefix(self, prefix: Self, crc: Crc) -> Self {
        let len = self.len - prefix.len;
        Self {
            value: self.value ^ crc.shift(prefix.value, len),
            len,
        }
    }

    /// Computes the CRC of these bytes repeated `times` times.
    pub(super) fn repeat(self, times: u64, crc: Crc) -> Self {
        let (mut result, mut doubled, mut left) = (Self::EMPTY, self, times);
        // The factor for appending `doubled`. Squaring it is cheaper than deriving it from the
        // doubled length.
        let mut factor = crc.shift(crc.one(), self.len);
        while left != 0 {
            if left & 1 == 1 {
                let value = crc.multiply(factor, result.value) ^ doubled.value;
                result = Self {
                    value,
                    len: result.len + doubled.len,
                };
            }
            left >>= 1;
            if left != 0 {
                let value = crc.multiply(factor, doubled.value) ^ doubled.value;
                doubled = Self {
                    value,
                    len: 2 * doubled.len,
                };
                factor = crc.multiply(factor, factor);
            }
        }
        result
    }

    /// Returns the value as S3 writes it, in big-endian bytes.
    pub(super) fn to_bytes(self, crc: Crc) -> Vec<u8> {
        self.value.to_be_bytes()[8 - crc.width()..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Crc; 3] = [Crc::Crc32, Crc::Crc32c, Crc::Crc64Nvme];

    #[test]
    fn the_published_check_values_come_out() {
        assert_eq!(Crc::Crc32.of(b"123456789").value(), 0xcbf4_3926);
        assert_eq!(Crc::Crc32c.of(b"123456789").value(), 0xe306_9283);
        assert_eq!(
            Crc::Crc64Nvme.of(b"123456789").value(),
            0xae8b_1486_0a79_9888
        );
    }

    #[test]
    fn joining_cutting_and_repeating_agree_with_hashing_the_bytes() {
        let (a, b) = (
            vec![3_u8; 5000],
            (0..=255).cycle().take(7777).collect::<Vec<u8>>(),
        );
        let both = [a.as_slice(), &b].concat();
        for crc in ALL {
            assert_eq!(crc.of(&a).then(crc.of(&b), crc), crc.of(&both));
            assert_eq!(crc.of(&both).without_prefix(crc.of(&a), crc), crc.of(&b));
            assert_eq!(crc.of(&b).repeat(5, crc), crc.of(&b.repeat(5)));
            assert_eq!(crc.of(&b).repeat(0, crc), CrcSum::EMPTY);
            assert_eq!(
                crc.of(&a).then(crc.of(&b), crc).value(),
                crc_fast::checksum_combine(
                    match crc {
                        Crc::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
                        Crc::Crc32c => CrcAlgorithm::Crc32Iscsi,
                        Crc::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
                    },
                    crc.of(&a).value(),
                    crc.of(&b).value(),
                    b.len() as u64
                )
            );
        }
    }
}
