//! The profiles of the providers: the capabilities of each one's own endpoint.
//!
//! A profile claims only what the server's documentation, its source code, or a measurement shows.
//! A comment gives the reason for each claim that differs from S3. In doubt, a profile claims less:
//! a missing capability costs a request or a weaker proof, a wrong one costs data.

use super::{Capabilities, OnWrites, PartLimits};
use crate::endpoint::{Provider, Trust};
use crate::size::{GIB, MIB};

impl Capabilities {
    /// Amazon S3 itself, and the sandbox. `CopyObject` has supported conditions on the destination
    /// since October 2025.
    ///
    /// A run starts with 3,072 requests in flight. S3 copies each part at the same speed, no matter
    /// how many are in flight, so a low start would only cost time; the request rates are the
    /// limit. The 800 parts of a 50 GiB object finish before a run can learn anything. A large part
    /// takes four seconds, so a run starts with about the requests that the documented rate sends
    /// in the first second.
    pub const AWS: Self = Self {
        initial_in_flight: 3072,
        part_copy: true,
        max_copy: 5 * GIB,
        parts: PartLimits::S3,
        copy_conditions: true,
        part_conditions: true,
        if_none_match: OnWrites::ALL,
        if_match: OnWrites::ALL,
        content_etags: true,
        part_counts: true,
        checksums: true,
        ignores_checksums: false,
        object_size: true,
        ordered_lists: true,
        encoded_lists: true,
        encoded_uploads: true,
        conditional_deletes: true,
        tags: true,
        tag_headers: true,
        sends_empty_tag_sets: true,
        odd_part_sources: true,
        directory: false,
        is_amazon: true,
        restore_status_in_lists: true,
        locks: true,
        annotations: true,
        trust: Trust::Answers,
    };

    /// A directory bucket of Amazon S3, whose `ETag`s are random and whose lists are unordered.
    pub const DIRECTORY: Self = Self::AWS.of_directory_bucket();

    /// An unknown server: s3haul relies on nothing that the server may ignore.
    ///
    /// A run starts with only 512 requests in flight: an appliance that moves 500 MB/s takes a
    /// minute to copy 512 parts of 64 MiB.
    // Every field is written out, so that a new capability is not claimed by accident.
    pub const UNKNOWN_SERVER: Self = Self {
        initial_in_flight: 512,
        // Nearly all servers have these.
        part_copy: true,
        max_copy: 5 * GIB,
        parts: PartLimits::S3,
        part_counts: true,
        object_size: true,
        encoded_lists: true,
        tags: true,
        tag_headers: true,
        copy_conditions: false,
        part_conditions: false,
        if_none_match: OnWrites::NONE,
        if_match: OnWrites::NONE,
        content_etags: false,
        checksums: false,
        ignores_checksums: false,
        ordered_lists: false,
        encoded_uploads: false,
        conditional_deletes: false,
        sends_empty_tag_sets: false,
        odd_part_sources: false,
        directory: false,
        is_amazon: false,
        restore_status_in_lists: false,
        locks: false,
        annotations: false,
        trust: Trust::Answers,
    };

    /// Returns the profile of a provider, at its own endpoint.
    #[must_use]
    pub const fn profile(provider: Provider) -> Self {
        match provider {
            Provider::Aws => Self::AWS,
            Provider::Auto | Provider::Other => Self::UNKNOWN_SERVER,
            Provider::Minio => MINIO,
            Provider::Ceph => CEPH,
            Provider::Seaweedfs => SEAWEEDFS,
            Provider::Garage => GARAGE,
            Provider::R2 => R2,
            Provider::B2 => B2,
            Provider::Wasabi => WASABI,
            Provider::Gcs => GCS,
            Provider::Storj => STORJ,
            Provider::Scaleway => SCALEWAY,
            Provider::Digitalocean => DIGITALOCEAN,
            Provider::Alibaba => ALIBABA,
            Provider::Ibm => IBM,
            // Their multipart ETags are opaque, and they ignore x-amz headers that they do not
            // know.
            Provider::Tencent => ORDERED_LISTS_ONLY,
            Provider::Oracle => Capabilities {
                part_counts: false,
                ..ORDERED_LISTS_ONLY
            },
        }
    }
}

/// A server with ordered lists, about which nothing else is assumed.
const ORDERED_LISTS_ONLY: Capabilities = Capabilities {
    ordered_lists: true,
    ..Capabilities::UNKNOWN_SERVER
};

const MINIO: Capabilities = Capabilities {
    copy_conditions: true,
    part_conditions: true,
    // In MinIO's source, PutObject and Complete check both conditions, CopyObject checks neither.
    if_none_match: OnWrites::UPLOADS,
    if_match: OnWrites::UPLOADS,
    content_etags: true,
    checksums: true,
    odd_part_sources: true,
    locks: true,
    ..ORDERED_LISTS_ONLY
};

/// The profile was measured with Ceph 16.2 of Debian.
const CEPH: Capabilities = Capabilities {
    // Both copies accept source conditions and ignore them. Of the writes, only PutObject checks
    // its condition, and it does not recognize an ETag in quotes in If-Match.
    if_none_match: OnWrites {
        put: true,
        ..OnWrites::NONE
    },
    content_etags: true,
    // CreateMultipartUpload drops tags, and so does a CopyObject that replaces metadata.
    tag_headers: false,
    locks: true,
    ..ORDERED_LISTS_ONLY
};

/// The profile was measured with SeaweedFS 4.48. Releases differ, so s3haul relies on nothing that
/// an older release ignores.
const SEAWEEDFS: Capabilities = Capabilities {
    // The ETag of a copied part is made of the ETags of the stored chunks that it touches, so
    // different ranges can have equal ETags (content_etags). Lists go directory by directory ("a/b"
    // before "a b"; ordered_lists), and lists of uploads claim to be encoded but are not. Older
    // releases count chunks, not parts (part_counts).
    part_counts: false,
    odd_part_sources: true,
    ..Capabilities::UNKNOWN_SERVER
};

/// A copy is a reference to the source's blocks and keeps even its "-N" `ETag`. Garage answers
/// tagging requests with 501.
const GARAGE: Capabilities = Capabilities {
    copy_conditions: true,
    part_conditions: true,
    content_etags: true,
    tags: false,
    tag_headers: false,
    ..ORDERED_LISTS_ONLY
};

const R2: Capabilities = Capabilities {
    parts: PartLimits {
        max_part: 5 * GIB - 5 * MIB,
        equal_parts: true,
        largest: 5 * 1024 * GIB - 5 * GIB, // "4.995 TiB"
        ..PartLimits::S3
    },
    // R2 documents that CopyObject honors source conditions and UploadPartCopy does not.
    copy_conditions: true,
    part_conditions: false,
    // CopyObject supports these conditions only under other names (cf-copy-destination-if-…).
    if_none_match: OnWrites::UPLOADS,
    if_match: OnWrites::UPLOADS,
    content_etags: true,
    tags: false,
    tag_headers: false,
    ..ORDERED_LISTS_ONLY
};

/// B2 refuses x-amz-tagging instead of ignoring it.
const B2: Capabilities = Capabilities {
    content_etags: true,
    tags: false,
    tag_headers: false,
    ..ORDERED_LISTS_ONLY
};

const WASABI: Capabilities = Capabilities {
    copy_conditions: true,
    part_conditions: true,
    content_etags: true,
    locks: true,
    ..ORDERED_LISTS_ONLY
};

/// GCS has no UploadPartCopy and copies objects of any size in one request.
const GCS: Capabilities = Capabilities {
    // The ETag of a multipart object does not count its parts.
    part_counts: false,
    part_copy: false,
    max_copy: u64::MAX,
    tags: false,
    tag_headers: false,
    ..ORDERED_LISTS_ONLY
};

/// Storj has no UploadPartCopy and no limit on `CopyObject` either. It sorts lists by encrypted
/// keys. Its gateway documents If-None-Match for all three writes.
const STORJ: Capabilities = Capabilities {
    part_copy: false,
    max_copy: u64::MAX,
    if_none_match: OnWrites::ALL,
    tags: false,
    tag_headers: false,
    ..Capabilities::UNKNOWN_SERVER
};

const SCALEWAY: Capabilities = Capabilities {
    parts: PartLimits {
        max_parts: 1_000,
        ..PartLimits::S3
    },
    content_etags: true,
    ..ORDERED_LISTS_ONLY
};

/// Ceph of an unknown version behind DigitalOcean's own front end, which does not encode lists
/// reliably.
const DIGITALOCEAN: Capabilities = Capabilities {
    encoded_lists: false,
    tag_headers: false,
    ..ORDERED_LISTS_ONLY
};

/// Multipart `ETag`s are opaque, and one CopyObject copies at most 1 GB.
const ALIBABA: Capabilities = Capabilities {
    max_copy: 1_000_000_000,
    ..ORDERED_LISTS_ONLY
};

const IBM: Capabilities = Capabilities {
    // IBM documents its limits in decimal units.
    parts: PartLimits {
        max_part: 5_000_000_000,
        largest: 10_000_000_000_000,
        ..PartLimits::S3
    },
    max_copy: 5_000_000_000,
    ..ORDERED_LISTS_ONLY
};
