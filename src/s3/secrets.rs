//! The secrets of a request, which a server may quote when it refuses it.
//!
//! Some servers and gateways name the headers that they do not like, with their values. What a
//! server says goes into the log, the report, and the journal, so that the values that must stay
//! secret are taken out where a failure is made of an answer.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::printable::hex;

/// Headers whose values are secret: of customer keys, their digests, and of a session.
const SECRET: [&str; 6] = [
    "x-amz-server-side-encryption-customer-key",
    "x-amz-server-side-encryption-customer-key-md5",
    "x-amz-copy-source-server-side-encryption-customer-key",
    "x-amz-copy-source-server-side-encryption-customer-key-md5",
    "x-amz-security-token",
    "x-amz-s3session-token",
];
/// As many bytes of a secret are hidden wherever they stand.
const PIECE: usize = 16;
/// A text of fewer bytes is no secret that could be kept, and may stand in any message.
const SHORTEST: usize = 8;
/// Shown in the place of a secret.
const HIDDEN: &str = "[hidden]";

/// The secrets of one request.
#[derive(Clone)]
pub(super) struct Secrets(Arc<[String]>);

impl Secrets {
    /// Collects the secrets of a request.
    pub(super) fn of(headers: &Headers) -> Self {
        let signature = headers
            .get("authorization")
            .and_then(|value| value.rsplit_once("Signature="))
            .map(|(_, signature)| signature);
        let values = SECRET.iter().filter_map(|name| headers.get(*name));
        Self(values.chain(signature).map(str::to_owned).collect())
    }

    /// Returns the text without any of them, whole or in part, in the ways in which a server writes
    /// them.
    pub(super) fn hide(&self, text: String) -> String {
        let forms: Vec<String> = self.0.iter().flat_map(|secret| forms(secret)).collect();
        let pieces: HashSet<&[u8]> = forms
            .iter()
            .flat_map(|form| form.as_bytes().windows(PIECE))
            .collect();
        let lower = text.to_ascii_lowercase();
        let mut is_secret = vec![false; lower.len()];
        for (at, piece) in lower.as_bytes().windows(PIECE).enumerate() {
            if pieces.contains(piece) {
                is_secret[at..at + PIECE].fill(true);
            }
        }
        for short in forms.iter().filter(|form| form.len() < PIECE) {
            for (at, _) in lower.match_indices(short.as_str()) {
                is_secret[at..at + short.len()].fill(true);
            }
        }
        if !is_secret.contains(&true) {
            return text;
        }
        let (mut shown, mut was_secret) = (String::with_capacity(text.len()), false);
        for (at, letter) in text.char_indices() {
            let is_hidden = is_secret[at..at + letter.len_utf8()].contains(&true);
            match (is_hidden, was_secret) {
                (true, false) => shown.push_str(HIDDEN),
                (true, true) => {}
                (false, _) => shown.push(letter),
            }
            was_secret = is_hidden;
        }
        shown
    }
}

/// Returns the spellings of a secret, in small letters.
fn forms(secret: &str) -> Vec<String> {
    let unpadded = secret.trim_end_matches('=');
    let mut forms = vec![
        unpadded.to_owned(),
        utf8_percent_encode(unpadded, NON_ALPHANUMERIC).to_string(),
        STANDARD_NO_PAD.encode(secret),
        hex(secret.as_bytes()),
    ];
    // A customer key is in base64.
    if let Ok(bytes) = STANDARD.decode(secret) {
        forms.push(hex(&bytes));
        forms.extend(String::from_utf8(bytes));
    }
    for form in &mut forms {
        form.make_ascii_lowercase();
    }
    forms.retain(|form| form.len() >= SHORTEST);
    forms
}

impl Storable for Secrets {
    type Storer = StoreReplace<Self>;
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "FwoGZXIvYXdzEBYaDH/+session==";
    const KEY: &str = "customer-key-of-32-bytes-in-all!";

    fn secrets() -> Secrets {
        let mut headers = Headers::new();
        headers.insert(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=00112233445566778899aabbccddeeff",
        );
        headers.insert("x-amz-security-token", TOKEN);
        headers.insert(SECRET[0], STANDARD.encode(KEY));
        Secrets::of(&headers)
    }

    #[test]
    fn a_secret_is_hidden_in_every_form() {
        let key = STANDARD.encode(KEY);
        for secret in [
            TOKEN,
            TOKEN.trim_end_matches('='),
            &TOKEN[..17],
            &TOKEN.to_uppercase(),
            &utf8_percent_encode(TOKEN, NON_ALPHANUMERIC).to_string(),
            &STANDARD.encode(TOKEN),
            &key,
            &key[3..30],
            KEY,
            &hex(KEY.as_bytes()),
            &hex(KEY.as_bytes()).to_uppercase(),
            "00112233445566778899aabbccddeeff",
        ] {
            let said = format!("bad header é{secret}é, says the server");
            let shown = secrets().hide(said);
            let start = secret.trim_end_matches('=').to_ascii_lowercase();
            assert!(shown.contains(HIDDEN), "{secret}: {shown}");
            assert!(!shown.to_ascii_lowercase().contains(&start), "{shown}");
            assert!(shown.starts_with("bad header é[") && shown.ends_with("é, says the server"));
        }
    }

    #[test]
    fn all_else_stays() {
        for said in [
            "",
            "the region 'us-east-1' is wrong; expecting 'eu-west-1'",
            "AKID/20260101/us-east-1/s3/aws4_request is no credential",
        ] {
            assert_eq!(secrets().hide(said.to_owned()), said);
        }
        let none = Secrets::of(&Headers::new());
        assert_eq!(none.hide(TOKEN.to_owned()), TOKEN);
        assert_eq!(format!("{:?}", secrets()), "Secrets(…)");
    }
}
