//! Hides the secrets of a request in the response to it.
//!
//! Some servers and gateways repeat the headers that they reject, with their values. Messages from
//! the server go into the log, the report, and the journal, so secret values are removed when a
//! response becomes a failure. An `ETag`, an ID, or a checksum that repeats a secret cannot be
//! shortened, because it is sent back to the server: such a response is refused ([`Quoted`]) before
//! anything is recorded.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::xml::{XmlReader, XmlTag};
use crate::printable::hex;

/// Headers whose values are secret: customer keys, their digests, and session tokens.
const SECRET: [&str; 6] = [
    "x-amz-server-side-encryption-customer-key",
    "x-amz-server-side-encryption-customer-key-md5",
    "x-amz-copy-source-server-side-encryption-customer-key",
    "x-amz-copy-source-server-side-encryption-customer-key-md5",
    "x-amz-security-token",
    "x-amz-s3session-token",
];
/// Any run of this many bytes of a secret is hidden, at any position in a text.
const PIECE: usize = 16;
/// A shorter text is not treated as a secret, because any message may contain it by chance.
const SHORTEST: usize = 8;
/// Headers of a response that are recorded and sent back, and a name for their values. [`CHECKSUM`]
/// covers checksums.
const NAMES: [(&str, &str); 3] = [
    ("etag", "an ETag"),
    ("x-amz-version-id", "a version id"),
    ("x-amz-copy-source-version-id", "a version id"),
];
/// Elements of a document that are recorded and sent back, and a name for their values.
const ELEMENTS: [(&str, &str); 7] = [
    ("ETag", "an ETag"),
    ("UploadId", "an upload id"),
    ("UploadIdMarker", "an upload id"),
    ("NextUploadIdMarker", "an upload id"),
    ("VersionId", "a version id"),
    ("VersionIdMarker", "a version id"),
    ("NextVersionIdMarker", "a version id"),
];
/// The prefixes of the names of headers and elements that hold checksums.
const CHECKSUM: [&str; 2] = ["x-amz-checksum-", "Checksum"];
/// The bytes of a block that the index knows.
const BLOCK: usize = 8;
/// The distance between checked blocks, small enough that each run of [`PIECE`] bytes contains one.
const STRIDE: usize = PIECE - BLOCK + 1;
/// The bits of a word of the index.
const WORD: usize = u64::BITS as usize;
/// The text shown in place of a secret.
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

    /// Checks that nothing in a response that s3haul would record and send back repeats a secret of
    /// its request.
    ///
    /// # Errors
    /// Returns [`Quoted`] if a header, or an element of the document, repeats one.
    pub(super) fn missing_in(response: &HttpResponse) -> Result<(), Quoted> {
        let Some(secrets) = response.extension::<Self>() else {
            return Ok(());
        };
        if secrets.0.is_empty() {
            return Ok(());
        }
        let document = response.body().bytes().unwrap_or_default();
        let pieces = TextPieces::of(secrets);
        let check = |what, text: &str| pieces.check(what, text);
        for (name, value) in response.headers() {
            if let Some(what) = recorded(&NAMES, name) {
                check(what, value)?;
            }
        }
        let mut reader = XmlReader::new(std::str::from_utf8(document).unwrap_or_default());
        let mut open = None;
        // A document that cannot be parsed is refused elsewhere.
        while let Ok((text, tag)) = reader.next() {
            if let (Some(what), XmlTag::Close(_)) = (open, tag) {
                check(what, text)?;
            }
            open = match tag {
                XmlTag::Open(name) => recorded(&ELEMENTS, name),
                _ => None,
            };
        }
        Ok(())
    }

    /// Returns the pieces against which the values of a long response are checked while they are
    /// read. This saves [`Secrets::missing_in`] a second pass over the document.
    pub(super) fn pieces_for(response: &HttpResponse) -> TextPieces {
        match response.extension::<Self>() {
            Some(secrets) => TextPieces::of(secrets),
            None => TextPieces::default(),
        }
    }
}

/// The error for a response that repeats a secret of its request. Holds the kind of value that
/// repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server sent {0} that repeats a secret of the request; s3haul neither records it nor sends it back"
)]
pub(super) struct Quoted(&'static str);

/// Returns the name for the value of a header or element, if it is recorded.
fn recorded(known: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    let is_sum = CHECKSUM.iter().any(|begin| name.starts_with(begin));
    let known = known.iter().find(|(known, _)| *known == name);
    known
        .map(|(_, what)| *what)
        .or_else(|| is_sum.then_some("a checksum"))
}

/// The spellings of the secrets of a request, to search for in texts.
#[derive(Default)]
pub(super) struct TextPieces {
    forms: Vec<String>,
    /// The bits at the numbers of all blocks of the spellings; empty if there are no secrets.
    index: Vec<u64>,
}

impl TextPieces {
    pub(super) fn of(secrets: &Secrets) -> Self {
        let forms: Vec<String> = secrets.0.iter().flat_map(|secret| forms(secret)).collect();
        let mut index = Vec::new();
        if !forms.is_empty() {
            index.resize((1 << u16::BITS) / WORD, 0);
            for block in forms.iter().flat_map(|form| form.as_bytes().windows(BLOCK)) {
                let number = number_of(block);
                index[number / WORD] |= 1 << (number % WORD);
            }
        }
        Self { forms, index }
    }

    /// Checks that a text does not repeat a secret, in whole or in part.
    ///
    /// # Errors
    /// Returns [`Quoted`] if it does. `what` is the kind of value.
    pub(super) fn check(&self, what: &'static str, text: &str) -> Result<(), Quoted> {
        if self.are_in(text) {
            Err(Quoted(what))
        } else {
            Ok(())
        }
    }

    /// Returns the text without the secrets or parts of them, in any spelling that a server may
    /// use.
    pub(super) fn hide(&self, text: String) -> String {
        // Most messages repeat nothing, and the search below costs far more than the index.
        if !self.may_be_in(text.as_bytes()) {
            return text;
        }
        let pieces: HashSet<&[u8]> = self
            .forms
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
        for short in self.forms.iter().filter(|form| form.len() < PIECE) {
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

    fn are_in(&self, text: &str) -> bool {
        if text.len() < SHORTEST || !text.is_ascii() || !self.may_be_in(text.as_bytes()) {
            return false;
        }
        let text = text.to_ascii_lowercase();
        let mut pieces = (0..text.len()).filter_map(|at| text.get(at..at + PIECE));
        let mut short = self.forms.iter().filter(|form| form.len() < PIECE);
        pieces.any(|piece| self.forms.iter().any(|form| form.contains(piece)))
            || short.any(|form| text.contains(form.as_str()))
    }

    /// Returns false if the index shows that a text of at least [`SHORTEST`] bytes repeats nothing.
    /// Each run of [`PIECE`] bytes of a secret contains one of the checked blocks, which are
    /// [`STRIDE`] bytes apart. If a secret is shorter, the block at every position is checked.
    fn may_be_in(&self, text: &[u8]) -> bool {
        if self.index.is_empty() {
            return false;
        }
        let has_short = self.forms.iter().any(|form| form.len() < PIECE);
        let stride = if has_short { 1 } else { STRIDE };
        let mut blocks = text.windows(BLOCK).step_by(stride);
        blocks.any(|block| {
            let mut windows = self
                .forms
                .iter()
                .flat_map(|form| form.as_bytes().windows(BLOCK));
            let number = number_of(block);
            self.index[number / WORD] & (1 << (number % WORD)) != 0
                && windows.any(|window| window.eq_ignore_ascii_case(block))
        })
    }
}

/// Returns the number that the index gives to a block, whatever the case of its letters.
fn number_of(block: &[u8]) -> usize {
    let mut bytes = [0; BLOCK];
    bytes.copy_from_slice(block);
    bytes.make_ascii_lowercase();
    // The upper bits of the product depend on all bits of the block.
    let mixed = u64::from_ne_bytes(bytes).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let [first, second, ..] = mixed.to_be_bytes();
    usize::from(u16::from_be_bytes([first, second]))
}

/// Returns the spellings of a secret, in lower case.
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
            let shown = TextPieces::of(&secrets()).hide(said);
            let start = secret.trim_end_matches('=').to_ascii_lowercase();
            assert!(shown.contains(HIDDEN), "{secret}: {shown}");
            assert!(!shown.to_ascii_lowercase().contains(&start), "{shown}");
            assert!(shown.starts_with("bad header é[") && shown.ends_with("é, says the server"));
        }
    }

    fn answer(header: (&'static str, &str), document: &str) -> HttpResponse {
        let body = aws_sdk_s3::primitives::SdkBody::from(document);
        let mut response = HttpResponse::new(200.try_into().unwrap(), body);
        response.headers_mut().insert(header.0, header.1.to_owned());
        response.add_extension(secrets());
        response
    }

    #[test]
    fn a_name_that_repeats_a_secret_is_refused() {
        let key = STANDARD.encode(KEY);
        for secret in [
            TOKEN,
            &TOKEN[3..20],
            &key,
            &hex(KEY.as_bytes()),
            "00112233445566778899aabbccddeeff",
        ] {
            for (header, what) in [
                ("etag", "an ETag"),
                ("x-amz-version-id", "a version id"),
                ("x-amz-checksum-sha256", "a checksum"),
            ] {
                let answer = answer((header, &format!("\"{secret}\"")), "");
                assert_eq!(
                    Secrets::missing_in(&answer),
                    Err(Quoted(what)),
                    "{header}: {secret}"
                );
            }
            for (element, what) in [
                ("ETag", "an ETag"),
                ("UploadId", "an upload id"),
                ("VersionId", "a version id"),
                ("ChecksumCRC32", "a checksum"),
            ] {
                let document = format!("<R><A><Key>k</Key><{element}>{secret}</{element}></A></R>");
                let long = format!("<L>{}{document}</L>", "<Key>k</Key>".repeat(1000));
                for document in [document, long] {
                    let answer = answer(("etag", "\"x\""), &document);
                    assert_eq!(
                        Secrets::missing_in(&answer),
                        Err(Quoted(what)),
                        "{element}: {secret}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_index_finds_a_piece_at_any_position() {
        let key = STANDARD.encode(KEY);
        let pieces = TextPieces::of(&secrets());
        for before in 0..20 {
            for at in 0..key.len() - PIECE {
                for (length, is_found) in [(PIECE, true), (PIECE - 1, false)] {
                    let piece = &key[at..at + length];
                    let text = format!("{:~<before$}{piece}~~~~", "");
                    let is_quoted = pieces.check("an ETag", &text).is_err();
                    assert_eq!(is_quoted, is_found, "{text}");
                }
            }
        }
        assert_eq!(TextPieces::default().check("an ETag", &key), Ok(()));
    }

    #[test]
    fn names_without_a_secret_pass() {
        let md5 = "\"d41d8cd98f00b204e9800998ecf8427e-12\"";
        // S3 itself repeats the digest of a customer key.
        let digest = ("x-amz-server-side-encryption-customer-key-md5", TOKEN);
        let key = format!("<R><Key>{TOKEN}</Key><ETag>{md5}</ETag></R>");
        for answer in [
            answer(("etag", md5), &key),
            answer(digest, "<R><UploadId/></R>"),
            answer(("etag", md5), &format!("<R>{}</R>", key.repeat(200))),
            answer(("etag", ""), "no document <ETag>"),
        ] {
            assert_eq!(Secrets::missing_in(&answer), Ok(()));
        }
    }

    #[test]
    fn all_else_stays() {
        for said in [
            "",
            "the region 'us-east-1' is wrong; expecting 'eu-west-1'",
            "AKID/20260101/us-east-1/s3/aws4_request is no credential",
        ] {
            assert_eq!(TextPieces::of(&secrets()).hide(said.to_owned()), said);
        }
        let none = Secrets::of(&Headers::new());
        assert_eq!(TextPieces::of(&none).hide(TOKEN.to_owned()), TOKEN);
        assert_eq!(format!("{:?}", secrets()), "Secrets(…)");
    }
}
