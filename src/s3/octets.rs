//! Supports header values that are not UTF-8, which S3-compatible servers store and return
//! unchanged.
//!
//! This crate and the SDK hold header values as text. In the text of a value that is not UTF-8, a
//! private-use character (U+F780 to U+F7FF) stands for each byte from 0x80 on. Such a text is sent
//! as the original bytes. A UTF-8 value that contains such a character itself is encoded the same
//! way, so that no two values have the same text.

use std::borrow::Cow;

use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::error::BoxError;

use super::{Attributes, ContentHeaders};

/// The character that stands for the byte 0x80.
const FIRST: u32 = 0xF780;

fn is_stand_in(letter: char) -> bool {
    (FIRST..FIRST + 0x80).contains(&u32::from(letter))
}

/// Returns the text that stands for a value, or `None` if the value itself is the text.
fn text_of(value: &[u8]) -> Option<String> {
    if std::str::from_utf8(value).is_ok_and(|text| !text.contains(is_stand_in)) {
        return None;
    }
    let letter = |byte: &u8| match byte {
        0..0x80 => char::from(*byte),
        _ => char::from_u32(FIRST + u32::from(*byte) - 0x80).unwrap_or(char::REPLACEMENT_CHARACTER),
    };
    Some(value.iter().map(letter).collect())
}

/// Returns the bytes that a text stands for, or `None` if they are the text's own.
fn value_of(text: &str) -> Option<Vec<u8>> {
    if text.is_ascii() || !text.contains(is_stand_in) {
        return None;
    }
    let mut value = Vec::with_capacity(text.len());
    for letter in text.chars() {
        match u8::try_from(u32::from(letter).wrapping_sub(FIRST - 0x80)) {
            Ok(byte) if is_stand_in(letter) => value.push(byte),
            _ => value.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Some(value)
}

/// Returns the bytes of a header value that is held as text.
pub(crate) fn bytes_of(text: &str) -> Cow<'_, [u8]> {
    value_of(text).map_or(Cow::Borrowed(text.as_bytes()), Cow::Owned)
}

/// Replaces the header values that are not UTF-8 in a response by texts that the SDK can read.
pub(super) fn make_readable(response: &mut HttpResponse) -> Result<(), BoxError> {
    let texts: Vec<_> = response
        .headers()
        .iter_bytes()
        .filter(|(_, value)| !value.is_ascii())
        .filter_map(|(name, value)| Some((name.to_owned(), text_of(value)?)))
        .collect();
    for (name, text) in texts {
        response.headers_mut().try_insert(name, text)?;
    }
    Ok(())
}

/// Replaces the texts in a request that stand for other bytes by those bytes.
pub(super) fn restore(request: HttpRequest) -> Result<HttpRequest, BoxError> {
    if !request
        .headers()
        .iter()
        .any(|(_, text)| value_of(text).is_some())
    {
        return Ok(request);
    }
    let mut request = request.try_into_http1x()?;
    for header in request.headers_mut().values_mut() {
        if let Some(value) = std::str::from_utf8(header.as_bytes())
            .ok()
            .and_then(value_of)
        {
            *header = value.try_into()?;
        }
    }
    Ok(HttpRequest::try_from(request)?)
}

/// Returns true if an attribute is not UTF-8. The SDK would leave its header out of the signature.
pub(super) fn has_non_utf8_values(attributes: &Attributes) -> bool {
    let ContentHeaders {
        content_type,
        content_encoding,
        content_language,
        content_disposition,
        cache_control,
        expires,
        website_redirect,
    } = &attributes.headers;
    let texts = [
        content_type,
        content_encoding,
        content_language,
        content_disposition,
        cache_control,
        expires,
        website_redirect,
    ];
    let mut texts = texts
        .into_iter()
        .flatten()
        .chain(attributes.metadata.values());
    texts.any(|text| value_of(text).is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn utf_8_is_its_own_text() {
        for text in ["plain", "größe", "😹", ""] {
            assert_eq!(
                (text_of(text.as_bytes()), value_of(text)),
                (None, None),
                "{text}"
            );
        }
        assert_eq!(text_of(b"caf\xe9").as_deref(), Some("caf\u{f7e9}"));
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let text = text_of(&value).unwrap_or_else(|| String::from_utf8(value.clone()).unwrap());
            prop_assert_eq!(value_of(&text).unwrap_or_else(|| text.clone().into_bytes()), value);
        }

        #[test]
        fn private_characters_of_others_come_back(text in "[a\u{f780}-\u{f7ff}é]{0,8}") {
            let held = text_of(text.as_bytes()).unwrap_or_else(|| text.clone());
            prop_assert_eq!(value_of(&held).unwrap_or_else(|| held.clone().into_bytes()), text.into_bytes());
        }
    }
}
