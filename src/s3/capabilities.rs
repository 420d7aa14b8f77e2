//! What an endpoint can do, as a value.
//!
//! Look-alikes differ in ways that an error in the middle of a run tells too late: some ignore source conditions,
//! some want equal parts, some have no `UploadPartCopy` at all. The profile is chosen by the manifest's `provider`
//! (AWS when no `url` is given, a cautious profile otherwise) and asked wherever a decision depends on it.

use crate::manifest::job::{Endpoint, Provider};
use crate::size::{GIB, MIB};

/// Limits on the parts of a multipart upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartLimits {
    /// The smallest part, except for the last one, in bytes.
    pub min_part: u64,
    /// The largest part in bytes.
    pub max_part: u64,
    /// The most parts of one upload.
    pub max_parts: u32,
    /// True when all parts but the last must have one size.
    pub equal_parts: bool,
}

impl PartLimits {
    /// S3's own: 5 MiB to 5 GiB, 10,000 parts.
    pub const S3: Self = Self { min_part: 5 * MIB, max_part: 5 * GIB, max_parts: 10_000, equal_parts: false };

    /// The largest object that a multipart upload can make: 53,687,091,200,000 bytes (48.8 TiB) on S3.
    #[must_use]
    pub const fn max_object(&self) -> u64 {
        self.max_part * self.max_parts as u64
    }
}

/// What an endpoint can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact about a server")]
pub struct Capabilities {
    /// `UploadPartCopy` exists.
    pub part_copy: bool,
    /// The largest source of one `CopyObject`, in bytes.
    pub max_copy: u64,
    /// Limits on parts.
    pub parts: PartLimits,
    /// `x-amz-copy-source-if-match` is honoured. Where it is not (or not known to be), the source is looked at
    /// again before the copy is published.
    pub copy_conditions: bool,
    /// `ETag`s are the MD5 of the bytes, or of the parts' MD5s: equal `ETag`s prove equal bytes.
    pub content_etags: bool,
    /// `x-amz-checksum-*` may be sent with writes. Checksums that a server returns by itself count everywhere.
    pub checksums: bool,
    /// Lists come in the order of the keys' bytes. Where they do not (or are not known to), that a key is absent is
    /// seen by HEAD and not by its place in a list.
    pub ordered_lists: bool,
    /// `encoding-type=url` is honoured in lists.
    pub encoded_lists: bool,
    /// `If-None-Match: *` is honoured on `CompleteMultipartUpload` and `PutObject`.
    pub conditional_writes: bool,
    /// The endpoint knows object tags.
    pub tags: bool,
    /// The endpoint knows the requests about Object Lock. Elsewhere what HEAD shows of a lock is all that is known:
    /// servers that do not know them may answer with the object itself.
    pub locks: bool,
    /// The endpoint knows annotations, and the header that tells `CopyObject` what to do with them.
    pub annotations: bool,
}

impl Capabilities {
    /// Amazon S3 itself; also the sandbox.
    pub const AWS: Self = Self {
        part_copy: true,
        max_copy: 5 * GIB,
        parts: PartLimits::S3,
        copy_conditions: true,
        content_etags: true,
        checksums: true,
        ordered_lists: true,
        encoded_lists: true,
        conditional_writes: true,
        tags: true,
        locks: true,
        annotations: true,
    };

    /// A server that we know nothing about: nothing is proven by what it may ignore.
    pub const CAUTIOUS: Self = Self {
        copy_conditions: false,
        content_etags: false,
        checksums: false,
        ordered_lists: false,
        conditional_writes: false,
        locks: false,
        annotations: false,
        ..Self::AWS
    };

    /// The profile of an endpoint.
    #[must_use]
    pub fn of(endpoint: &Endpoint) -> Self {
        let in_order = Self { ordered_lists: true, ..Self::CAUTIOUS };
        match endpoint.provider {
            Provider::Aws => Self::AWS,
            Provider::Auto if endpoint.is_aws() => Self::AWS,
            Provider::Auto | Provider::Other => Self::CAUTIOUS,
            Provider::Ceph => Self { locks: true, ..in_order },
            Provider::Minio => {
                Self { copy_conditions: true, content_etags: true, checksums: true, locks: true, ..in_order }
            }
            // The ETag of a copied part is made of the ETags of the stored chunks that it touches, so that different
            // ranges have equal ones. Lists go directory by directory ("a/b" before "a b"), and those of uploads
            // claim to be encoded when they are not.
            Provider::Seaweedfs => Self { encoded_lists: false, ..Self::CAUTIOUS },
            Provider::Garage => Self { copy_conditions: true, content_etags: true, tags: false, ..in_order },
            Provider::R2 => Self {
                parts: PartLimits { max_part: 5 * GIB - 5 * MIB, equal_parts: true, ..PartLimits::S3 },
                content_etags: true,
                tags: false,
                ..in_order
            },
            Provider::B2 => Self { content_etags: true, tags: false, ..in_order },
            Provider::Wasabi => Self { copy_conditions: true, content_etags: true, locks: true, ..in_order },
            // These two have no UploadPartCopy and copy objects of any size in one request.
            Provider::Gcs => Self { part_copy: false, max_copy: u64::MAX, tags: false, ..in_order },
            // Storj orders by encrypted keys.
            Provider::Storj => Self { part_copy: false, max_copy: u64::MAX, tags: false, ..Self::CAUTIOUS },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_object_is_ten_thousand_full_parts() {
        assert_eq!(PartLimits::S3.max_object(), 53_687_091_200_000);
    }

    #[test]
    fn an_unknown_server_is_trusted_with_nothing_that_it_may_ignore() {
        let endpoint = Endpoint { url: Some("https://s3.example.net".to_owned()), ..Endpoint::default() };
        let capabilities = Capabilities::of(&endpoint);
        assert!(!capabilities.copy_conditions && !capabilities.content_etags && !capabilities.checksums);
        assert!(!capabilities.ordered_lists && !capabilities.conditional_writes);
        assert_eq!(Capabilities::of(&Endpoint::default()), Capabilities::AWS);
    }
}
