//! The requests that this crate sends, and the throttling class of each.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares the operations with their names, so that none is missing in [`Operation::ALL`].
macro_rules! operations {
    ($($(#[$doc:meta])* $operation:ident = $name:literal,)*) => {
        /// The requests that this crate sends, by their names in S3.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "each is S3's own name of the request")]
        pub enum Operation {
            $($(#[$doc])* $operation,)*
        }

        impl Operation {
            /// The number of operations.
            pub(crate) const COUNT: usize = [$(Self::$operation),*].len();

            /// All operations, in the order of their declaration.
            #[cfg(test)]
            pub(crate) const ALL: [Self; Self::COUNT] = [$(Self::$operation),*];
        }

        impl fmt::Display for Operation {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $(Self::$operation => $name,)*
                })
            }
        }
    };
}

operations! {
    HeadBucket = "HeadBucket",
    ListObjects = "ListObjectsV2",
    HeadObject = "HeadObject",
    GetObject = "GetObject",
    GetObjectTagging = "GetObjectTagging",
    PutObjectTagging = "PutObjectTagging",
    GetObjectAcl = "GetObjectAcl",
    GetObjectRetention = "GetObjectRetention",
    GetObjectLegalHold = "GetObjectLegalHold",
    ListObjectAnnotations = "ListObjectAnnotations",
    GetObjectAnnotation = "GetObjectAnnotation",
    PutObjectAnnotation = "PutObjectAnnotation",
    CopyObject = "CopyObject",
    PutObject = "PutObject",
    DeleteObject = "DeleteObject",
    CreateMultipartUpload = "CreateMultipartUpload",
    UploadPart = "UploadPart",
    UploadPartCopy = "UploadPartCopy",
    CompleteMultipartUpload = "CompleteMultipartUpload",
    AbortMultipartUpload = "AbortMultipartUpload",
    ListParts = "ListParts",
    ListMultipartUploads = "ListMultipartUploads",
    ListObjectVersions = "ListObjectVersions",
    GetBucketVersioning = "GetBucketVersioning",
    RestoreObject = "RestoreObject",
    /// Reading a file of this machine. It is not a request, but it fails like one.
    ReadFile = "read",
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
    /// `has_version` is true for a request that names a version of an object.
    pub(crate) const fn permission(self, has_version: bool) -> &'static str {
        match self {
            Self::HeadBucket | Self::ListObjects => "s3:ListBucket",
            Self::HeadObject | Self::GetObject if has_version => "s3:GetObjectVersion",
            Self::HeadObject | Self::GetObject => "s3:GetObject",
            Self::GetObjectTagging if has_version => "s3:GetObjectVersionTagging",
            Self::GetObjectTagging => "s3:GetObjectTagging",
            Self::PutObjectTagging if has_version => "s3:PutObjectVersionTagging",
            Self::PutObjectTagging => "s3:PutObjectTagging",
            Self::GetObjectAcl if has_version => "s3:GetObjectVersionAcl",
            Self::GetObjectAcl => "s3:GetObjectAcl",
            Self::GetObjectRetention => "s3:GetObjectRetention",
            Self::GetObjectLegalHold => "s3:GetObjectLegalHold",
            Self::ListObjectAnnotations => "s3:ListObjectAnnotations",
            Self::GetObjectAnnotation => "s3:GetObjectAnnotation",
            Self::PutObjectAnnotation => "s3:PutObjectAnnotation",
            Self::CopyObject
            | Self::PutObject
            | Self::CreateMultipartUpload
            | Self::UploadPart
            | Self::UploadPartCopy
            | Self::CompleteMultipartUpload => "s3:PutObject",
            Self::DeleteObject if has_version => "s3:DeleteObjectVersion",
            Self::DeleteObject => "s3:DeleteObject",
            Self::AbortMultipartUpload => "s3:AbortMultipartUpload",
            Self::ListParts => "s3:ListMultipartUploadParts",
            Self::ListMultipartUploads => "s3:ListBucketMultipartUploads",
            Self::ListObjectVersions => "s3:ListBucketVersions",
            Self::GetBucketVersioning => "s3:GetBucketVersioning",
            Self::RestoreObject => "s3:RestoreObject",
            // The file's own permission applies.
            Self::ReadFile => "read",
        }
    }

    /// Returns the remedy for a denied request. It names no object, because reports count failures
    /// with the same words.
    pub(crate) fn grant(self) -> String {
        let (plain, of_version) = (self.permission(false), self.permission(true));
        match self {
            Self::ListObjects => format!(
                "grant {plain} on the bucket; a destination is not listed with `when: always`"
            ),
            Self::HeadBucket
            | Self::ListObjectVersions
            | Self::ListMultipartUploads
            | Self::GetBucketVersioning => format!("grant {plain} on the bucket"),
            Self::CopyObject | Self::UploadPartCopy => format!(
                "grant {plain} on this object and s3:GetObject on its source, or exclude the object"
            ),
            Self::ReadFile => "grant the permission, or exclude the object".to_owned(),
            _ if plain == of_version => format!("grant {plain} on the object, or exclude it"),
            _ => format!("grant {plain} (for a version {of_version}) on the object, or exclude it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Actions of S3 that are also the names of requests.
    const ACTIONS: [&str; 16] = [
        "GetObject",
        "GetObjectTagging",
        "PutObjectTagging",
        "GetObjectAcl",
        "GetObjectRetention",
        "GetObjectLegalHold",
        "ListObjectAnnotations",
        "GetObjectAnnotation",
        "PutObjectAnnotation",
        "PutObject",
        "DeleteObject",
        "AbortMultipartUpload",
        "GetBucketVersioning",
        "RestoreObject",
        "ListBucket",
        "ListBucketVersions",
    ];

    #[test]
    fn each_permission_is_an_action_of_s3() {
        let others = ["ListMultipartUploadParts", "ListBucketMultipartUploads"];
        for operation in Operation::ALL {
            if operation == Operation::ReadFile {
                continue;
            }
            for has_version in [false, true] {
                let permission = operation.permission(has_version);
                let action = permission.strip_prefix("s3:").unwrap();
                let plain = action.replace("Version", "");
                let is_known = ACTIONS.contains(&action)
                    || others.contains(&action)
                    || (has_version && ACTIONS.contains(&plain.as_str()));
                assert!(is_known, "{operation}: {permission}");
            }
        }
        assert_eq!(
            Operation::HeadObject.permission(true),
            "s3:GetObjectVersion"
        );
        assert_eq!(Operation::UploadPartCopy.permission(false), "s3:PutObject");
    }

    #[test]
    fn the_positions_of_all_operations_are_below_their_number() {
        for (at, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, at, "{operation}");
        }
    }
}
