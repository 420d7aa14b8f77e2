//! Wrong answers, and ways to make right ones wrong.

use std::fmt::Write as _;

use s3haul::sandbox::{Operation, Store};

use super::scenario::KEYS;
use super::server::{Answer, Request};
use crate::world::SOURCE;

/// Replaces each checksum of an answer.
pub(super) fn set_checksums(operation: Operation, answer: &mut Answer, by: &str) {
    for (name, value) in &mut answer.headers {
        if name.starts_with("x-amz-checksum-") && name != "x-amz-checksum-type" {
            by.clone_into(value);
        }
    }
    if operation == Operation::GetObject {
        return;
    }
    let mut text = String::from_utf8_lossy(&answer.body).into_owned();
    for name in ["CRC64NVME", "CRC32", "CRC32C", "SHA1", "SHA256"] {
        text = replaced(&text, &format!("Checksum{name}"), by);
    }
    answer.body = text.into_bytes();
}

/// Returns the name of a document's root element.
pub(super) fn root_of(document: &str) -> String {
    let last = document.trim_end().rsplit("</").next().unwrap_or_default();
    last.trim_end_matches('>').to_owned()
}

/// Returns the document with another root.
pub(super) fn under_another_root(document: &str) -> String {
    let root = root_of(document);
    if root.is_empty() {
        return document.to_owned();
    }
    let (open, close) = (format!("<{root}"), format!("</{root}>"));
    document
        .replacen(&open, "<AnotherRoot", 1)
        .replace(&close, "</AnotherRoot>")
}

/// Halves each size in a document.
pub(super) fn halved(document: &str) -> String {
    let mut pieces = document.split("<Size>");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (size, rest) = piece.split_once('<').unwrap_or_default();
        let size = size.parse().map_or(0, |size: u64| size / 2);
        let _ = write!(text, "<Size>{size}<{rest}");
    }
    text
}

/// Returns a path that ends in another of the keys.
pub(super) fn other_key(path: &str) -> String {
    let at = KEYS.iter().position(|key| path.contains(key));
    at.map_or_else(
        || path.to_owned(),
        |at| path.replace(KEYS[at], KEYS[(at + 2) % KEYS.len()]),
    )
}

/// Returns a range of the same length, a little earlier or later.
pub(super) fn other_range(range: &str) -> String {
    const BY: u64 = 100;
    let bounds = range.trim_start_matches("bytes=").split_once('-');
    let bounds = bounds.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    let Some((first, last)): Option<(u64, u64)> = bounds else {
        return range.to_owned();
    };
    let moved = |at: u64| if first >= BY { at - BY } else { at + BY };
    format!("bytes={}-{}", moved(first), moved(last))
}

/// Replaces the text of each element with this name.
pub(super) fn replaced(document: &str, name: &str, by: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut pieces = document.split(&open);
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let rest = piece.split_once(&close).map_or("", |(_, rest)| rest);
        let _ = write!(text, "{open}{by}{close}{rest}");
    }
    text
}

/// Returns a refusal, possibly with the status of a success.
pub(super) fn refusal(status: u16, code: &str) -> Answer {
    let body =
        format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>m</Message></Error>");
    let headers = vec![("content-type".to_owned(), "application/xml".to_owned())];
    Answer {
        status,
        headers,
        body: body.into_bytes(),
        ..Answer::default()
    }
}

/// Returns an answer that claims success although nothing was done.
pub(super) fn pretended(operation: Operation, request: &Request, store: &Store) -> Answer {
    let source = store
        .object(SOURCE, request.key())
        .map(|object| object.etag);
    let source = source.filter(|_| operation != Operation::PutObject);
    let etag = source.unwrap_or_else(|| s3haul::checksum::md5_etag(&request.body));
    let xml =
        |root: &str, inside: &str| format!("<?xml version=\"1.0\"?>\n<{root}>{inside}</{root}>");
    let date = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>";
    let body = match operation {
        Operation::CopyObject => xml(
            "CopyObjectResult",
            &format!("{date}<ETag>\"{etag}\"</ETag>"),
        ),
        Operation::UploadPartCopy => {
            xml("CopyPartResult", &format!("{date}<ETag>\"{etag}\"</ETag>"))
        }
        Operation::CreateMultipartUpload => xml(
            "InitiateMultipartUploadResult",
            &format!(
                "<Bucket>destination</Bucket><Key>{}</Key><UploadId>made-up</UploadId>",
                request.key()
            ),
        ),
        Operation::CompleteMultipartUpload => xml(
            "CompleteMultipartUploadResult",
            &format!(
                "<Bucket>destination</Bucket><Key>{}</Key><ETag>\"{etag}-3\"</ETag>",
                request.key()
            ),
        ),
        _ => String::new(),
    };
    let status = if request.method == "DELETE" { 204 } else { 200 };
    let mut headers = vec![("etag".to_owned(), format!("\"{etag}\""))];
    if operation == Operation::DeleteObject {
        headers.push(("x-amz-delete-marker".to_owned(), "true".to_owned()));
        headers.push(("x-amz-version-id".to_owned(), "made-up".to_owned()));
    }
    Answer {
        status,
        headers,
        body: body.into_bytes(),
        ..Answer::default()
    }
}
