//! The requests that this crate sends, and the throttling class of each.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The requests that this crate sends, by their names in S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is S3's own name of the request")]
pub enum Operation {
    HeadBucket,
    ListObjects,
    HeadObject,
    GetObject,
    GetObjectTagging,
    PutObjectTagging,
    GetObjectAcl,
    GetObjectRetention,
    GetObjectLegalHold,
    ListObjectAnnotations,
    GetObjectAnnotation,
    PutObjectAnnotation,
    CopyObject,
    PutObject,
    DeleteObject,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    ListMultipartUploads,
    ListObjectVersions,
    GetBucketVersioning,
    RestoreObject,
    /// Reading a file of this machine. It is not a request, but it fails like one.
    ReadFile,
}

/// The class of a request. S3 limits and throttles the two classes separately: 3,500 writes and
/// 5,500 reads per second and partitioned prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestClass {
    /// GET, HEAD and lists.
    Read,
    /// PUT, COPY, POST and DELETE.
    Write,
}

impl Operation {
    /// The number of operations.
    pub(crate) const COUNT: usize = Self::ReadFile as usize + 1;

    /// All operations, in the order of their declaration.
    #[cfg(test)]
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::HeadBucket,
        Self::ListObjects,
        Self::HeadObject,
        Self::GetObject,
        Self::GetObjectTagging,
        Self::PutObjectTagging,
        Self::GetObjectAcl,
        Self::GetObjectRetention,
        Self::GetObjectLegalHold,
        Self::ListObjectAnnotations,
        Self::GetObjectAnnotation,
        Self::PutObjectAnnotation,
        Self::CopyObject,
        Self::PutObject,
        Self::DeleteObject,
        Self::CreateMultipartUpload,
        Self::UploadPart,
        Self::UploadPartCopy,
        Self::CompleteMultipartUpload,
        Self::AbortMultipartUpload,
        Self::ListParts,
        Self::ListMultipartUploads,
        Self::ListObjectVersions,
        Self::GetBucketVersioning,
        Self::RestoreObject,
        Self::ReadFile,
    ];

    /// Returns the class, whose request limit this operation counts against.
    #[must_use]
    pub const fn class(self) -> RequestClass {
        match self {
            Self::HeadBucket
            | Self::ListObjects
            | Self::HeadObject
            | Self::GetObject
            | Self::GetObjectTagging
            | Self::GetObjectAcl
            | Self::GetObjectRetention
            | Self::GetObjectLegalHold
            | Self::ListObjectAnnotations
            | Self::GetObjectAnnotation
            | Self::ListParts
            | Self::ListMultipartUploads
            | Self::ListObjectVersions
            | Self::GetBucketVersioning
            | Self::ReadFile => RequestClass::Read,
            Self::CopyObject
            | Self::PutObject
            | Self::DeleteObject
            | Self::PutObjectTagging
            | Self::PutObjectAnnotation
            | Self::CreateMultipartUpload
            | Self::UploadPart
            | Self::UploadPartCopy
            | Self::CompleteMultipartUpload
            | Self::AbortMultipartUpload
            | Self::RestoreObject => RequestClass::Write,
        }
    }

    /// Returns the permission that the request needs on the location that its failure names.
    pub(crate) fn permission(self) -> String {
        match self {
            Self::HeadBucket | Self::ListObjects => "s3:ListBucket".to_owned(),
            Self::HeadObject => "s3:GetObject".to_owned(),
            other => format!("s3:{other}"),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ReadFile => "read",
            Self::HeadBucket => "HeadBucket",
            Self::ListObjects => "ListObjectsV2",
            Self::HeadObject => "HeadObject",
            Self::GetObject => "GetObject",
            Self::GetObjectTagging => "GetObjectTagging",
            Self::PutObjectTagging => "PutObjectTagging",
            Self::GetObjectAcl => "GetObjectAcl",
            Self::GetObjectRetention => "GetObjectRetention",
            Self::GetObjectLegalHold => "GetObjectLegalHold",
            Self::ListObjectAnnotations => "ListObjectAnnotations",
            Self::GetObjectAnnotation => "GetObjectAnnotation",
            Self::PutObjectAnnotation => "PutObjectAnnotation",
            Self::CopyObject => "CopyObject",
            Self::PutObject => "PutObject",
            Self::DeleteObject => "DeleteObject",
            Self::CreateMultipartUpload => "CreateMultipartUpload",
            Self::UploadPart => "UploadPart",
            Self::UploadPartCopy => "UploadPartCopy",
            Self::CompleteMultipartUpload => "CompleteMultipartUpload",
            Self::AbortMultipartUpload => "AbortMultipartUpload",
            Self::ListParts => "ListParts",
            Self::ListMultipartUploads => "ListMultipartUploads",
            Self::ListObjectVersions => "ListObjectVersions",
            Self::GetBucketVersioning => "GetBucketVersioning",
            Self::RestoreObject => "RestoreObject",
        })
    }
}
