//! Classifies requests by method, path, query, and headers, without reading the body.
//!
//! Faults, the record of calls, and the models of latency and rates all work on a [`Call`].

use std::borrow::Cow;

use hyper::header::HeaderMap;
use hyper::{Method, Uri};
use percent_encoding::percent_decode_str;

macro_rules! operations {
    ($($name:ident),+ $(,)?) => {
        /// An S3 operation, named as in the API. `Other` is any operation that the sandbox does not
        /// support.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the names are those of the S3 API")]
        pub enum Operation { $($name),+ }

        impl Operation {
            /// All operations.
            pub const ALL: [Self; [$(Self::$name),+].len()] = [$(Self::$name),+];

            /// Returns the name in the S3 API: `UploadPartCopy`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

operations!(
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    GetBucketVersioning,
    PutBucketVersioning,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    ListMultipartUploads,
    DeleteObjects,
    PutObject,
    GetObject,
    HeadObject,
    DeleteObject,
    CopyObject,
    GetObjectTagging,
    PutObjectTagging,
    DeleteObjectTagging,
    GetObjectAttributes,
    GetObjectAcl,
    PutObjectAcl,
    GetObjectRetention,
    PutObjectRetention,
    GetObjectLegalHold,
    PutObjectLegalHold,
    GetObjectLockConfiguration,
    ListObjectAnnotations,
    GetObjectAnnotation,
    PutObjectAnnotation,
    DeleteObjectAnnotation,
    RestoreObject,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    Other,
);

impl Operation {
    /// Returns the operation of a request.
    #[must_use]
    pub fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        Call::classify(method, uri, headers).operation
    }

    /// Returns true if the operation counts against the write rate of a prefix (PUT, COPY, POST,
    /// DELETE) and not against the read rate.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(
            self,
            Self::CreateBucket
                | Self::DeleteBucket
                | Self::PutBucketVersioning
                | Self::DeleteObjects
                | Self::PutObject
                | Self::DeleteObject
                | Self::CopyObject
                | Self::PutObjectTagging
                | Self::DeleteObjectTagging
                | Self::PutObjectAcl
                | Self::PutObjectRetention
                | Self::PutObjectLegalHold
                | Self::PutObjectAnnotation
                | Self::DeleteObjectAnnotation
                | Self::RestoreObject
                | Self::CreateMultipartUpload
                | Self::UploadPart
                | Self::UploadPartCopy
                | Self::CompleteMultipartUpload
                | Self::AbortMultipartUpload
        )
    }
}

/// A request as the HTTP layer sees it.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    /// The bucket; empty for requests to the service.
    pub(super) bucket: String,
    /// The key, or the prefix of a listing.
    pub(super) key: String,
    pub(super) part_number: Option<i32>,
    pub(super) upload_id: Option<String>,
    /// The length of the body in bytes. If the payload is framed in chunks, the length of the
    /// payload.
    pub(super) body_bytes: u64,
}

impl Call {
    pub(super) fn classify(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let path = uri.path().strip_prefix('/').unwrap_or(uri.path());
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = QueryString(uri.query().unwrap_or_default());
        let operation = match (bucket, key) {
            ("", _) => match *method {
                Method::GET => Operation::ListBuckets,
                _ => Operation::Other,
            },
            (_, "") => of_bucket(method, &query),
            _ => of_object(method, &query, headers),
        };
        let key = if key.is_empty() {
            query.get("prefix").unwrap_or_default().into_owned()
        } else {
            percent_decode_str(key).decode_utf8_lossy().into_owned()
        };
        let length = |name: &str| headers.get(name)?.to_str().ok()?.parse().ok();
        Self {
            operation,
            bucket: percent_decode_str(bucket).decode_utf8_lossy().into_owned(),
            key,
            part_number: query
                .get("partNumber")
                .and_then(|number| number.parse().ok()),
            upload_id: query.get("uploadId").map(Cow::into_owned),
            body_bytes: length("x-amz-decoded-content-length")
                .or_else(|| length("content-length"))
                .unwrap_or(0),
        }
    }
}

fn of_bucket(method: &Method, query: &QueryString<'_>) -> Operation {
    match *method {
        Method::HEAD => Operation::HeadBucket,
        Method::GET if query.has("location") => Operation::GetBucketLocation,
        Method::GET if query.has("versioning") => Operation::GetBucketVersioning,
        Method::GET if query.has("object-lock") => Operation::GetObjectLockConfiguration,
        Method::GET if query.has("uploads") => Operation::ListMultipartUploads,
        Method::GET if query.has("versions") => Operation::ListObjectVersions,
        Method::GET if query.get("list-type").as_deref() == Some("2") => Operation::ListObjectsV2,
        Method::GET if query.is_listing() => Operation::ListObjects,
        Method::PUT if query.has("versioning") => Operation::PutBucketVersioning,
        Method::PUT if query.is_plain() => Operation::CreateBucket,
        Method::POST if query.has("delete") => Operation::DeleteObjects,
        Method::DELETE if query.is_plain() => Operation::DeleteBucket,
        _ => Operation::Other,
    }
}

fn of_object(method: &Method, query: &QueryString<'_>, headers: &HeaderMap) -> Operation {
    let copies = headers.contains_key("x-amz-copy-source");
    let uploads = query.has("uploadId");
    match *method {
        Method::HEAD => Operation::HeadObject,
        Method::GET if query.has("annotation") && query.has("annotationName") => {
            Operation::GetObjectAnnotation
        }
        Method::GET if query.has("annotation") => Operation::ListObjectAnnotations,
        Method::PUT if query.has("annotation") => Operation::PutObjectAnnotation,
        Method::DELETE if query.has("annotation") => Operation::DeleteObjectAnnotation,
        Method::GET if query.has("attributes") => Operation::GetObjectAttributes,
        Method::GET if query.has("acl") => Operation::GetObjectAcl,
        Method::GET if query.has("legal-hold") => Operation::GetObjectLegalHold,
        Method::GET if query.has("retention") => Operation::GetObjectRetention,
        Method::GET if query.has("tagging") => Operation::GetObjectTagging,
        Method::GET if uploads => Operation::ListParts,
        Method::GET => Operation::GetObject,
        Method::PUT if query.has("acl") => Operation::PutObjectAcl,
        Method::PUT if query.has("legal-hold") => Operation::PutObjectLegalHold,
        Method::PUT if query.has("retention") => Operation::PutObjectRetention,
        Method::PUT if query.has("tagging") => Operation::PutObjectTagging,
        Method::PUT if uploads && copies => Operation::UploadPartCopy,
        Method::PUT if uploads => Operation::UploadPart,
        Method::PUT if copies => Operation::CopyObject,
        Method::PUT => Operation::PutObject,
        Method::POST if query.has("uploads") => Operation::CreateMultipartUpload,
        Method::POST if query.has("restore") => Operation::RestoreObject,
        Method::POST if uploads => Operation::CompleteMultipartUpload,
        Method::DELETE if query.has("tagging") => Operation::DeleteObjectTagging,
        Method::DELETE if uploads => Operation::AbortMultipartUpload,
        Method::DELETE => Operation::DeleteObject,
        _ => Operation::Other,
    }
}

/// The parameters of a query string, decoded when they are read.
pub(super) struct QueryString<'a>(pub(super) &'a str);

impl<'a> QueryString<'a> {
    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let pairs = self.0.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    fn has(&self, name: &str) -> bool {
        self.pairs().any(|(key, _)| key == name)
    }

    pub(super) fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        let (_, value) = self.pairs().find(|(key, _)| *key == name)?;
        if value.contains('+') {
            let spaced = value.replace('+', " ");
            return Some(
                percent_decode_str(&spaced)
                    .decode_utf8_lossy()
                    .into_owned()
                    .into(),
            );
        }
        Some(percent_decode_str(value).decode_utf8_lossy())
    }

    /// Returns true if the query names no sub-resource. SDKs add `x-id`.
    fn is_plain(&self) -> bool {
        self.pairs().all(|(key, _)| key == "x-id")
    }

    /// Returns true if the query has only parameters of `ListObjects`.
    fn is_listing(&self) -> bool {
        const NAMES: [&str; 6] = [
            "delimiter",
            "encoding-type",
            "marker",
            "max-keys",
            "prefix",
            "x-id",
        ];
        self.pairs().all(|(key, _)| NAMES.contains(&key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        let copy: HeaderMap = [("x-amz-copy-source".parse().unwrap(), "b/k".parse().unwrap())]
            .into_iter()
            .collect();
        let none = HeaderMap::new();
        for (method, uri, headers, operation) in [
            (
                Method::GET,
                "/?x-id=ListBuckets",
                &none,
                Operation::ListBuckets,
            ),
            (Method::PUT, "/b", &none, Operation::CreateBucket),
            (Method::PUT, "/b/", &none, Operation::CreateBucket),
            (Method::PUT, "/b?policy", &none, Operation::Other),
            (
                Method::GET,
                "/b/?list-type=2&prefix=a",
                &none,
                Operation::ListObjectsV2,
            ),
            (Method::GET, "/b?prefix=a", &none, Operation::ListObjects),
            (Method::PUT, "/b/k", &none, Operation::PutObject),
            (Method::PUT, "/b/k", &copy, Operation::CopyObject),
            (
                Method::PUT,
                "/b/k?partNumber=3&uploadId=u",
                &none,
                Operation::UploadPart,
            ),
            (
                Method::PUT,
                "/b/k?partNumber=3&uploadId=u",
                &copy,
                Operation::UploadPartCopy,
            ),
            (
                Method::POST,
                "/b/k?uploads",
                &none,
                Operation::CreateMultipartUpload,
            ),
            (
                Method::POST,
                "/b/k?uploadId=u",
                &none,
                Operation::CompleteMultipartUpload,
            ),
            (
                Method::DELETE,
                "/b/k?uploadId=u",
                &none,
                Operation::AbortMultipartUpload,
            ),
            (Method::GET, "/b/k?uploadId=u", &none, Operation::ListParts),
            (Method::HEAD, "/b/k", &none, Operation::HeadObject),
            (
                Method::GET,
                "/b/k?annotation",
                &none,
                Operation::ListObjectAnnotations,
            ),
            (
                Method::GET,
                "/b/k?annotation&annotationName=a",
                &none,
                Operation::GetObjectAnnotation,
            ),
            (
                Method::PUT,
                "/b/k?annotation&annotationName=a",
                &none,
                Operation::PutObjectAnnotation,
            ),
        ] {
            let call = Call::classify(&method, &uri.parse().unwrap(), headers);
            assert_eq!(call.operation, operation, "{method} {uri}");
        }
    }

    #[test]
    fn names_are_decoded() {
        let uri: Uri = "/b/a%20b+c/%C3%A9?partNumber=7&uploadId=x%2By"
            .parse()
            .unwrap();
        let call = Call::classify(&Method::PUT, &uri, &HeaderMap::new());
        assert_eq!((call.bucket.as_str(), call.key.as_str()), ("b", "a b+c/é"));
        assert_eq!(
            (call.part_number, call.upload_id.as_deref()),
            (Some(7), Some("x+y"))
        );
        let uri: Uri = "/b?list-type=2&prefix=a+b%2F".parse().unwrap();
        assert_eq!(
            Call::classify(&Method::GET, &uri, &HeaderMap::new()).key,
            "a b/"
        );
    }
}
