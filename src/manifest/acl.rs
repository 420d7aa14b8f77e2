//! Canned ACLs: the fixed sets of grants that S3 knows by name.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::diagnose::Mistake;
use super::job::{Provider, ResolvedEndpoint, Transfer};

/// A canned ACL, sent as `x-amz-acl` with each request that creates an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CannedAcl {
    /// Full control for the account that writes the object.
    Private,
    /// Everybody may read the object.
    PublicRead,
    /// The same as `public-read`, because S3 has no write permission for single objects.
    PublicReadWrite,
    /// Every AWS account may read the object.
    AuthenticatedRead,
    /// Amazon EC2 may read the object.
    AwsExecRead,
    /// The bucket's owner may read the object.
    BucketOwnerRead,
    /// The bucket's owner has full control over the object.
    BucketOwnerFullControl,
}

impl CannedAcl {
    /// Returns S3's name of the ACL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::PublicRead => "public-read",
            Self::PublicReadWrite => "public-read-write",
            Self::AuthenticatedRead => "authenticated-read",
            Self::AwsExecRead => "aws-exec-read",
            Self::BucketOwnerRead => "bucket-owner-read",
            Self::BucketOwnerFullControl => "bucket-owner-full-control",
        }
    }
}

impl fmt::Display for CannedAcl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Provider {
    /// Returns true for servers that have no object ACLs, so that `x-amz-acl` has no effect.
    #[must_use]
    pub const fn lacks_object_acls(self) -> bool {
        match self {
            Self::Minio | Self::Garage | Self::R2 | Self::B2 | Self::Storj | Self::Oracle => true,
            Self::Auto
            | Self::Aws
            | Self::Ceph
            | Self::Seaweedfs
            | Self::Wasabi
            | Self::Gcs
            | Self::Scaleway
            | Self::Digitalocean
            | Self::Alibaba
            | Self::Tencent
            | Self::Ibm
            | Self::Other => false,
        }
    }
}

/// Refuses a canned ACL that contradicts `preserve.acl` or that the destination would ignore.
pub(super) fn check(
    path: &str,
    transfer: &Transfer,
    to: Option<&ResolvedEndpoint>,
) -> Vec<Mistake> {
    let Some(acl) = transfer.to.acl else {
        return Vec::new();
    };
    let mut mistakes = Vec::new();
    let mut refuse = |message: String, remedy: &str| {
        let path = format!("{path}.to.acl");
        mistakes.push(Mistake {
            path,
            message,
            remedy: remedy.to_owned(),
        });
    };
    if transfer.from.s3().is_some() && transfer.preserve.acl.keeps() {
        let message = format!(
            "an object gets the canned ACL `{acl}` or the grants of its source (`preserve.acl`), not both"
        );
        refuse(
            message,
            "remove one of them, or write `preserve: {acl: replace}`",
        );
    }
    if let Some(endpoint) = to.filter(|endpoint| endpoint.provider.lacks_object_acls()) {
        let message = format!(
            "the server of endpoint `{}` has no ACLs of single objects and would ignore `{acl}`",
            endpoint.name
        );
        refuse(
            message,
            "remove it, and grant access with the bucket's policy",
        );
    } else if transfer.to.location.bucket.is_directory_bucket()
        && to.is_some_and(ResolvedEndpoint::is_aws)
    {
        let message = format!(
            "{} is a directory bucket, which has no ACLs",
            transfer.to.location.bucket
        );
        refuse(message, "remove it");
    }
    mistakes
}
