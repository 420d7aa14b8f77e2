//! Customer keys (SSE-C): 256-bit keys that S3 encrypts with and does not store.
//!
//! The key goes with every request that reads or writes the object's bytes or describes the object.
//! It is never printed: `Debug` of a request, a client or an error shows only that there is a key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};

/// The only algorithm that S3 supports.
pub(super) const ALGORITHM: &str = "AES256";
/// The length of a key in bytes.
const LENGTH: usize = 32;

/// A key that S3 encrypts objects with.
#[derive(Clone, PartialEq, Eq)]
pub struct CustomerKey([u8; LENGTH]);

/// The error for a text that is not a key. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a customer key: it must be {LENGTH} bytes, raw or in base64")]
pub struct NoCustomerKey;

impl CustomerKey {
    /// Reads a key: exactly 32 bytes, or the base64 of 32 bytes, with or without white space around
    /// it.
    ///
    /// # Errors
    /// [`NoCustomerKey`] for anything else.
    pub fn read(bytes: &[u8]) -> Result<Self, NoCustomerKey> {
        if let Ok(key) = bytes.try_into() {
            return Ok(Self(key));
        }
        let decoded = STANDARD
            .decode(bytes.trim_ascii())
            .map_err(|_| NoCustomerKey)?;
        decoded.try_into().map(Self).map_err(|_| NoCustomerKey)
    }

    /// Returns the key as it is sent in the header.
    pub(super) fn encoded(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Returns the digest with which S3 checks that the key arrived intact.
    pub(super) fn digest(&self) -> String {
        STANDARD.encode(Md5::digest(self.0))
    }
}

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomerKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_raw_or_in_base64() {
        let raw = [7_u8; 32];
        let key = CustomerKey::read(&raw).unwrap();
        let text = STANDARD.encode(raw);
        for written in [text.clone(), format!("{text}\n"), format!(" {text}\r\n")] {
            assert_eq!(CustomerKey::read(written.as_bytes()).as_ref(), Ok(&key));
        }
        assert_eq!(key.encoded(), text);
        for wrong in ["", "short", "c2hvcnQ=", &text[1..]] {
            assert_eq!(
                CustomerKey::read(wrong.as_bytes()),
                Err(NoCustomerKey),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = CustomerKey::read(b"01234567890123456789012345678901").unwrap();
        assert_eq!(
            format!("{key:?} {NoCustomerKey}").matches("0123").count(),
            0
        );
    }
}
