//! The ways to answer wrongly.

use s3haul::sandbox::{Content, Operation, Store};

use super::documents::{
    halved, other_key, other_range, refusal, replaced, root_of, set_checksums, under_another_root,
};
use super::scenario::spec;
use super::server::{Answer, Request};
use crate::world::SOURCE;

macro_rules! ways {
    ($($(#[$doc:meta])+ $name:ident),+ $(,)?) => {
        /// A way to answer wrongly.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Way { $($(#[$doc])+ $name),+ }

        impl Way {
            pub(super) const ALL: [Self; [$(Self::$name),+].len()] = [$(Self::$name),+];
        }
    };
}

ways!(
    /// Does nothing and closes the connection.
    NoAnswer,
    /// Does nothing and never answers.
    Silent,
    /// Does what was requested and closes the connection without an answer.
    EffectWithoutAnswer,
    /// Does nothing and claims success.
    WithoutEffect,
    /// Sends headers without a body.
    EmptyBody,
    /// Sends half of the announced body.
    HalfBody,
    /// Sends half of the document, announced as if it were whole.
    HalfDocument,
    /// Sends the answer byte by byte.
    Slow,
    /// Sends a body beyond any bound.
    Huge,
    /// Sends a header beyond any bound.
    HugeHeader,
    /// Sends an HTML page.
    Html,
    /// Sends an object's content instead of the document.
    AnObject,
    /// Sends the document of another operation.
    OtherDocument,
    /// Sends the right document with another root element.
    OtherRoot,
    /// Sends an empty root element.
    BareDocument,
    /// Repeats the first answer.
    Repeated,
    /// Shows size and `ETag` of another object.
    WrongObject,
    /// Halves the size, and leaves the rest unchanged.
    HalfSize,
    /// Removes all headers with information.
    NoHeaders,
    /// Shows empty checksums.
    BlankChecksums,
    /// Shows checksums with the length of no algorithm.
    ShortChecksums,
    /// Shows the version `null`.
    NullVersion,
    /// Shows IDs and `ETag`s far longer than S3's.
    LongIds,
    /// Ignores the request's headers with attributes.
    IgnoredHeaders,
    /// Ignores ranges.
    IgnoredRange,
    /// Ignores conditions, while the source has changed.
    IgnoredCondition,
    /// Ignores the requested sub-resource.
    IgnoredQuery,
    /// Does what was requested to another key, or copies another source.
    OtherKey,
    /// Uses a range of the same length elsewhere in the object.
    OtherRange,
    /// Uses the newest version, whichever was requested.
    OtherVersion,
    /// Leaves out the last part.
    FewerParts,
    /// Does nothing and answers 404.
    NotFound,
    /// Does nothing and answers that a condition failed.
    Refused,
    /// Does nothing and answers 304.
    NotModified,
    /// Does nothing and sends an error document with status 200.
    ErrorInSuccess,
    /// Shows sizes that no object has, and whose sum overflows.
    ImpossibleSizes,
    /// Shows short `ETag`s, the same for all objects.
    BareEtags,
    /// Stores other bytes than those that were sent, without a checksum.
    OtherBytes,
    /// Does what was requested and answers that it is busy.
    DoneAndBusy,
    /// Does the same every second time, and answers well in between.
    DoneAndBusyOnce,
    /// Does what was requested and answers that it is forbidden.
    DoneAndDenied,
    /// Does what was requested and answers 404.
    DoneAndMissing,
    /// Does what was requested and answers that it is not implemented.
    DoneAndUnknown,
    /// Does what was requested and answers with success, but without a result.
    DoneAndEmpty,
    /// Does what was requested and answers with a redirect.
    DoneAndMoved,
    /// Does what was requested and sends an error document with status 200.
    DoneAndError,
    /// Sends pages of one entry that claim to be the last, although they have a token.
    UntoldPages,
    /// Sends the first page again and again, which says that there are more.
    EndlessPages,
);

const GIVEN: [&str; 10] = [
    "x-amz-meta-",
    "x-amz-tagging",
    "x-amz-metadata-directive",
    "x-amz-storage-class",
    "x-amz-object-lock-",
    "x-amz-acl",
    "x-amz-grant-",
    "content-type",
    "cache-control",
    "x-amz-annotation",
];

const LISTS: [Operation; 5] = [
    Operation::ListObjects,
    Operation::ListObjectsV2,
    Operation::ListObjectVersions,
    Operation::ListMultipartUploads,
    Operation::ListParts,
];

impl Way {
    /// Returns true if this way differs from a right answer to this operation.
    pub(super) fn applies(self, to: Operation) -> bool {
        let bodiless = matches!(
            to,
            Operation::HeadObject
                | Operation::HeadBucket
                | Operation::PutObject
                | Operation::UploadPart
                | Operation::AbortMultipartUpload
                | Operation::DeleteObject
        );
        match self {
            Self::EmptyBody
            | Self::HalfBody
            | Self::HalfDocument
            | Self::Slow
            | Self::OtherRoot => {
                !bodiless && (self != Self::OtherRoot || to != Operation::GetObject)
            }
            Self::Html | Self::AnObject | Self::OtherDocument => {
                !bodiless || matches!(to, Operation::PutObject | Operation::UploadPart)
            }
            Self::Huge => !matches!(
                to,
                Operation::HeadObject | Operation::HeadBucket | Operation::GetObject
            ),
            Self::WithoutEffect
            | Self::DoneAndBusy
            | Self::DoneAndBusyOnce
            | Self::DoneAndDenied
            | Self::DoneAndMissing
            | Self::DoneAndUnknown
            | Self::DoneAndEmpty
            | Self::DoneAndMoved
            | Self::DoneAndError => to.is_write(),
            Self::OtherBytes => matches!(to, Operation::PutObject | Operation::UploadPart),
            Self::IgnoredHeaders => {
                matches!(
                    to,
                    Operation::CopyObject | Operation::CreateMultipartUpload | Operation::PutObject
                )
            }
            Self::IgnoredRange => matches!(to, Operation::UploadPartCopy | Operation::GetObject),
            Self::IgnoredCondition => {
                matches!(to, Operation::CopyObject | Operation::UploadPartCopy)
            }
            Self::IgnoredQuery => matches!(
                to,
                Operation::GetObjectTagging
                    | Operation::GetObjectAttributes
                    | Operation::GetObjectAcl
                    | Operation::GetObjectRetention
                    | Operation::GetObjectLegalHold
                    | Operation::ListObjectAnnotations
                    | Operation::GetObjectAnnotation
                    | Operation::ListParts
                    | Operation::GetBucketVersioning
                    | Operation::GetObjectLockConfiguration
            ),
            Self::BareDocument => matches!(
                to,
                Operation::GetObjectTagging
                    | Operation::GetObjectAcl
                    | Operation::GetObjectRetention
                    | Operation::GetObjectLegalHold
            ),
            Self::UntoldPages | Self::EndlessPages => LISTS.contains(&to),
            Self::OtherKey => !LISTS.contains(&to) && !to.name().contains("Bucket"),
            Self::OtherRange => matches!(to, Operation::UploadPartCopy | Operation::GetObject),
            Self::FewerParts => to == Operation::CompleteMultipartUpload,
            Self::OtherVersion => {
                matches!(
                    to,
                    Operation::HeadObject | Operation::CopyObject | Operation::UploadPartCopy
                )
            }
            Self::HalfSize | Self::ImpossibleSizes | Self::BareEtags => {
                to == Operation::HeadObject || LISTS.contains(&to)
            }
            Self::Refused => to.is_write() || to == Operation::HeadObject,
            _ => true,
        }
    }

    /// Returns true if the answer may fill memory, so that the program must run in its own process.
    pub(super) const fn is_large(self) -> bool {
        matches!(self, Self::Huge | Self::HugeHeader)
    }

    /// Returns the refusal of the request with this number, although it was executed.
    pub(super) fn refusal_of_done(self, number: usize) -> Option<Answer> {
        Some(match self {
            Self::DoneAndBusyOnce if number.is_multiple_of(2) => return None,
            Self::DoneAndBusy | Self::DoneAndBusyOnce => refusal(503, "SlowDown"),
            Self::DoneAndDenied => refusal(403, "AccessDenied"),
            Self::DoneAndMissing => refusal(404, "NoSuchKey"),
            Self::DoneAndUnknown => refusal(501, "NotImplemented"),
            Self::DoneAndEmpty => Answer {
                status: 204,
                ..Answer::default()
            },
            Self::DoneAndMoved => refusal(307, "TemporaryRedirect"),
            Self::DoneAndError => refusal(200, "AccessDenied"),
            _ => return None,
        })
    }

    pub(super) fn change_request(self, operation: Operation, request: &mut Request, store: &Store) {
        let starts = |name: &str, with: &[&str]| with.iter().any(|start| name.starts_with(start));
        match self {
            Self::IgnoredHeaders => request.headers.retain(|(name, _)| !starts(name, &GIVEN)),
            Self::IgnoredRange => {
                request.headers.retain(|(name, _)| {
                    !["range", "x-amz-copy-source-range"].contains(&name.as_str())
                });
            }
            Self::IgnoredCondition => {
                let conditions = ["if-match", "if-none-match", "x-amz-copy-source-if-"];
                request
                    .headers
                    .retain(|(name, _)| !starts(name, &conditions));
                // The size stays the same, so that it does not show the change.
                if let Some(object) = store.object(SOURCE, request.key()) {
                    let other = Content::pattern(99, object.size);
                    if object.content != other {
                        store.put_object(SOURCE, request.key(), other, &spec(request.key()));
                    }
                }
            }
            Self::OtherKey => {
                let is_copy = request
                    .headers
                    .iter()
                    .any(|(name, _)| name == "x-amz-copy-source");
                for (name, value) in &mut request.headers {
                    if name == "x-amz-copy-source" {
                        *value = other_key(value);
                    }
                }
                // A write to another key must not overwrite other objects of the test.
                if operation.is_write() && !is_copy {
                    request.path.push_str("-elsewhere");
                } else if !is_copy {
                    request.path = other_key(&request.path);
                }
            }
            Self::OtherBytes => {
                for byte in request.body.iter_mut().take(10) {
                    *byte ^= 1;
                }
                request.headers.retain(|(name, _)| {
                    !starts(
                        name,
                        &["x-amz-checksum-", "x-amz-sdk-checksum-", "content-md5"],
                    )
                });
            }
            Self::OtherRange => {
                for (name, value) in &mut request.headers {
                    if ["range", "x-amz-copy-source-range"].contains(&name.as_str()) {
                        *value = other_range(value);
                    }
                }
            }
            Self::OtherVersion => {
                request.query.retain(|(name, _)| name != "versionId");
                for (name, value) in &mut request.headers {
                    if name == "x-amz-copy-source" {
                        value.truncate(value.find('?').unwrap_or(value.len()));
                    }
                }
            }
            Self::FewerParts => {
                let body = String::from_utf8_lossy(&request.body).into_owned();
                if let Some((before, _)) = body.rsplit_once("<Part>") {
                    request.body = format!("{before}</CompleteMultipartUpload>").into_bytes();
                }
                request
                    .headers
                    .retain(|(name, _)| !starts(name, &["x-amz-mp-", "x-amz-checksum-"]));
            }
            Self::IgnoredQuery => request.query.retain(|(name, _)| name == "list-type"),
            Self::UntoldPages => {
                let name = match operation {
                    Operation::ListParts => "max-parts",
                    Operation::ListMultipartUploads => "max-uploads",
                    _ => "max-keys",
                };
                request.set_query(name, "1");
            }
            Self::EndlessPages => request.query.retain(|(name, _)| {
                !name.contains("marker")
                    && !["continuation-token", "start-after"].contains(&name.as_str())
            }),
            _ => {}
        }
    }

    pub(super) fn change_answer(
        self,
        operation: Operation,
        mut answer: Answer,
        number: usize,
    ) -> Answer {
        let text = || String::from_utf8_lossy(&answer.body).into_owned();
        let document = |body: &str| Answer {
            status: 200,
            headers: vec![("content-type".to_owned(), "application/xml".to_owned())],
            body: body.as_bytes().to_vec(),
            ..Answer::default()
        };
        match self {
            Self::EmptyBody => answer.body.clear(),
            Self::HalfBody => {
                let half = answer.body.len() / 2;
                answer.missing = answer.body.len() - half;
                answer.body.truncate(half);
            }
            Self::HalfDocument => answer.body.truncate(answer.body.len() / 2),
            Self::Html => {
                answer = document("<!DOCTYPE html><html><body><h1>Welcome</h1><br></body></html>");
                "text/html".clone_into(&mut answer.headers[0].1);
            }
            Self::AnObject => {
                answer = document(&"0123456789".repeat(100));
                "application/octet-stream".clone_into(&mut answer.headers[0].1);
                answer.headers.push((
                    "etag".to_owned(),
                    "\"0123456789abcdef0123456789abcdef\"".to_owned(),
                ));
            }
            Self::OtherDocument if operation == Operation::GetBucketVersioning => {
                answer = document("<ListPartsResult><Bucket>b</Bucket></ListPartsResult>");
            }
            Self::OtherDocument => {
                answer = document(
                    "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
                );
            }
            Self::BareDocument => {
                let root = root_of(&text());
                answer.body = format!("<{root}/>").into_bytes();
            }
            Self::OtherRoot => answer.body = under_another_root(&text()).into_bytes(),
            Self::WrongObject => {
                let wrong = "ffffffffffffffffffffffffffffffff";
                for (name, value) in &mut answer.headers {
                    match name.as_str() {
                        "etag" => *value = format!("\"{wrong}\""),
                        "content-length" => "7".clone_into(value),
                        _ => {}
                    }
                }
                let text = replaced(&replaced(&text(), "ETag", wrong), "Size", "7");
                if operation != Operation::GetObject {
                    answer.body = text.into_bytes();
                }
            }
            Self::HalfSize => {
                let half = |size: &str| size.parse().map_or(0, |size: u64| size / 2).to_string();
                for (_, value) in answer
                    .headers
                    .iter_mut()
                    .filter(|(name, _)| name == "content-length")
                {
                    *value = half(value);
                }
                if operation != Operation::GetObject {
                    answer.body = halved(&text()).into_bytes();
                }
            }
            Self::NoHeaders => {
                answer.headers.clear();
                answer.untold = true;
            }
            Self::OtherBytes => answer
                .headers
                .retain(|(name, _)| !name.starts_with("x-amz-checksum-")),
            Self::ImpossibleSizes => {
                let size = "9223372036854775807";
                for (_, value) in answer
                    .headers
                    .iter_mut()
                    .filter(|(name, _)| name == "content-length")
                {
                    size.clone_into(value);
                }
                answer.body = replaced(&text(), "Size", size).into_bytes();
            }
            Self::BareEtags => {
                for (_, value) in answer.headers.iter_mut().filter(|(name, _)| name == "etag") {
                    "\"abc\"".clone_into(value);
                }
                answer.body = replaced(&text(), "ETag", "abc").into_bytes();
                // Without checksums, nothing else tells objects apart.
                set_checksums(operation, &mut answer, "");
            }
            Self::BlankChecksums => set_checksums(operation, &mut answer, ""),
            Self::ShortChecksums => set_checksums(operation, &mut answer, "AAAA"),
            Self::NullVersion => {
                answer
                    .headers
                    .retain(|(name, _)| name != "x-amz-version-id");
                answer
                    .headers
                    .push(("x-amz-version-id".to_owned(), "null".to_owned()));
            }
            Self::LongIds => {
                answer
                    .headers
                    .retain(|(name, _)| name != "x-amz-version-id");
                answer
                    .headers
                    .push(("x-amz-version-id".to_owned(), "v".repeat(5000)));
                let mut text = text();
                for name in ["UploadId", "ETag", "VersionId", "NextContinuationToken"] {
                    text = replaced(&text, name, &"i".repeat(5000));
                }
                if operation != Operation::GetObject {
                    answer.body = text.into_bytes();
                }
            }
            Self::UntoldPages => {
                answer.body = text()
                    .replace("<IsTruncated>true</IsTruncated>", "")
                    .into_bytes();
            }
            Self::EndlessPages => {
                let more = format!(
                    "<IsTruncated>true</IsTruncated><NextContinuationToken>t{number}</NextContinuationToken>\
                     <NextMarker>m{number}</NextMarker><NextKeyMarker>m{number}</NextKeyMarker>\
                     <NextUploadIdMarker>u{number}</NextUploadIdMarker>\
                     <NextVersionIdMarker>v{number}</NextVersionIdMarker>\
                     <NextPartNumberMarker>{number}</NextPartNumberMarker>"
                );
                let text = text();
                let plain = text.replace("<IsTruncated>false</IsTruncated>", "");
                if let Some((before, root)) = plain.rsplit_once("</") {
                    answer.body = format!("{before}{more}</{root}").into_bytes();
                }
            }
            _ => {}
        }
        answer
    }
}
