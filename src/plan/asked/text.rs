//! Compares a text sent in a header with the text that the server returns.
//!
//! HTTP headers are ASCII, so servers encode other text: by RFC 2047, or with percent signs. An
//! encoded text that decodes to the sent text is equal. Any other text is a different value.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;

use crate::s3::bytes_of;

/// Decodes base64 with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns true if the values are equal, except for surrounding blanks and the encoding.
pub(super) fn is_alike(asked: &str, shown: &str) -> bool {
    let (asked, shown) = (asked.trim(), shown.trim());
    if asked == shown {
        return true;
    }
    let meant = readings(asked);
    let is_meant = |bytes: &[u8]| meant.iter().any(|reading| **reading == *bytes);
    // An ASCII value needs no encoding, so its percent signs are literal.
    let is_odd = !asked.is_ascii() || meant.len() > 1;
    let decoded = (is_odd && shown.is_ascii() && shown.contains('%'))
        .then(|| percent_decode_str(shown).collect::<Vec<_>>());
    decoded.is_some_and(|decoded| is_meant(&decoded))
        || readings(shown).iter().any(|reading| is_meant(reading))
}

/// Returns true for text that every server can return without an encoding.
pub(super) fn is_showable(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// Returns the possible meanings of a text: the text itself, and its decoded words.
///
/// Amazon S3 reads the bytes of a header as ISO 8859-1, and encodes the resulting characters as
/// UTF-8 (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html>), so each
/// character of a decoded word may stand for one byte.
fn readings(text: &str) -> Vec<Cow<'_, [u8]>> {
    let mut readings = vec![bytes_of(text)];
    if let Some(decoded) = decode_words(text) {
        let characters = std::str::from_utf8(&decoded).unwrap_or_default().chars();
        let bytes: Result<Vec<u8>, _> = characters.map(u8::try_from).collect();
        readings.extend(bytes.ok().map(Cow::Owned));
        readings.push(decoded.into());
    }
    readings
}

/// Decodes the encoded words of RFC 2047 in a text. Returns `None` if the text has none, or if one
/// of them cannot be decoded. Drops blanks between two encoded words.
fn decode_words(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut rest = text;
    let mut words = 0_u32;
    while let Some((before, word)) = rest.split_once("=?") {
        if words == 0 || !before.trim().is_empty() {
            decoded.extend_from_slice(&bytes_of(before));
        }
        let (charset, word) = word.split_once('?')?;
        let (encoding, word) = word.split_once('?')?;
        let (payload, after) = word.split_once("?=")?;
        let bytes = match encoding {
            "B" | "b" => BASE64.decode(payload).ok()?,
            "Q" | "q" => unquoted(payload)?,
            _ => return None,
        };
        match charset.to_ascii_lowercase().as_str() {
            "utf-8" | "utf8" | "us-ascii" => decoded.extend(bytes),
            "iso-8859-1" => {
                let text: String = bytes.into_iter().map(char::from).collect();
                decoded.extend(text.into_bytes());
            }
            _ => return None,
        }
        words += 1;
        rest = after;
    }
    decoded.extend_from_slice(&bytes_of(rest));
    (words > 0).then_some(decoded)
}

/// Decodes the `Q` encoding: `=C3` is a byte, and `_` a blank.
fn unquoted(payload: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(payload.len());
    let mut bytes = payload.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'_' => b' ',
            b'=' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let high = digit(bytes.next())?;
                let low = digit(bytes.next())?;
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_of_the_same_text_is_alike() {
        for (asked, shown) in [
            ("Zürich", "Zürich"),
            (" Zürich", "Zürich "),
            ("Zürich", "=?UTF-8?Q?Z=C3=BCrich?="),
            ("Zürich", "=?utf-8?q?Z=c3=bcrich?="),
            ("Zürich", "Z=?UTF-8?Q?=C3=BC?=rich"),
            ("Zürich", "=?UTF-8?B?WsO8cmljaA==?="),
            ("Zürich", "=?UTF-8?B?WsO8cmljaA?="),
            ("Zürich", "=?ISO-8859-1?Q?Z=FCrich?="),
            ("grün ist", "=?UTF-8?Q?gr=C3=BCn_?= =?UTF-8?Q?ist?="),
            ("Zürich", "Z%C3%BCrich"),
            ("100 % grün", "100%20%25%20gr%C3%BCn"),
            ("=?UTF-8?Q?Z=C3=BCrich?=", "Zürich"),
            ("=?UTF-8?Q?Z=C3=BCrich?=", "Z%C3%BCrich"),
            ("=?UTF-8?Q?Z=C3=BCrich?=", "=?UTF-8?B?WsO8cmljaA==?="),
            // The example in Amazon's documentation.
            ("ÄMÄZÕÑ S3", "=?UTF-8?B?w4PChE3Dg8KEWsODwpXDg8KRIFMz?="),
            // A byte that is not UTF-8, as `s3::octets` represents it.
            ("caf\u{f7e9}", "=?ISO-8859-1?Q?caf=E9?="),
            ("caf\u{f7e9}", "caf%E9"),
        ] {
            assert!(is_alike(asked, shown), "{asked} {shown}");
        }
    }

    #[test]
    fn a_mangled_text_is_another_one() {
        for (asked, shown) in [
            ("Zürich", "Z?rich"),
            ("Zürich", "ZÃ¼rich"),
            ("Zürich", "Zurich"),
            ("Zürich", "Z\u{fffd}rich"),
            ("Zürich", "Z\u{f7fc}rich"),
            ("Zürich", ""),
            ("Zürich", "=?UTF-8?Q?Z=C3=A4rich?="),
            ("Zürich", "=?UTF-8?Q?Z=C3?="),
            ("Zürich", "=?UTF-8?Q?Z=C?="),
            ("Zürich", "=?UTF-8?X?Zürich?="),
            ("Zürich", "=?KOI8-R?Q?Z=C3=BCrich?="),
            ("Zürich", "=?"),
            ("Zürich", "Z%C3rich"),
            ("blue", "größe"),
            ("blue", "=?UTF-8?Q?red?="),
            ("100%25", "100%"),
            ("100%", "100%25"),
            ("Z%C3%BCrich", "Zürich"),
        ] {
            assert!(!is_alike(asked, shown), "{asked} {shown}");
        }
    }
}
