//! The profiles of the providers: what each server does at its own endpoint.
//!
//! A profile claims only what the server's own documentation, its source or a measurement says; the
//! reason stands with each claim that is not S3's. In doubt it claims less: that costs a request or
//! a weaker proof, the opposite costs data.

use super::{Capabilities, OnWrites, PartLimits};
use crate::endpoint::{Provider, Trust};
use crate::size::{GIB, MIB};

impl Capabilities {
    /// Amazon S3 itself; also the sandbox. `CopyObject` knows conditions on the destination since
    /// October 2025.
    ///
    /// A run starts with 3,072 requests in flight. S3 copies each part at the same speed however
    /// many there are, so a low start would only cost time; the rates of the lanes are the limit.
    /// All 800 parts of a 50 GiB object end before a run could learn anything, and large parts take
    /// four seconds, so a run starts with what the documented rate sends in the first of them.
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

    /// A directory bucket of Amazon S3, whatever its endpoint can do elsewhere: its `ETag`s are
    /// random, its lists have no order.
    pub const DIRECTORY: Self = Self::AWS.of_directory_bucket();

    /// A server that we know nothing about: nothing is proven by what it may ignore.
    ///
    /// A run starts with only 512 requests in flight: for an appliance that moves 500 MB/s, 512
    /// parts of 64 MiB are a minute of work.
    pub const CAUTIOUS: Self = Self {
        initial_in_flight: 512,
        copy_conditions: false,
        part_conditions: false,
        if_none_match: OnWrites::NONE,
        if_match: OnWrites::NONE,
        content_etags: false,
        checksums: false,
        ignores_checksums: false,
        ordered_lists: false,
        encoded_uploads: false,
        sends_empty_tag_sets: false,
        odd_part_sources: false,
        is_amazon: false,
        restore_status_in_lists: false,
        conditional_deletes: false,
        locks: false,
        annotations: false,
        ..Self::AWS
    };

    /// Returns the profile of a provider, at its own endpoint.
    #[must_use]
    pub const fn profile(provider: Provider) -> Self {
        match provider {
            Provider::Aws => Self::AWS,
            Provider::Auto | Provider::Other => Self::CAUTIOUS,
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
            // Multipart ETags are opaque, and x-amz headers that they do not know are ignored.
            Provider::Tencent => PLAIN,
            Provider::Oracle => Capabilities {
                part_counts: false,
                ..PLAIN
            },
        }
    }
}

/// Lists in order, and nothing else taken on trust.
const PLAIN: Capabilities = Capabilities {
    ordered_lists: true,
    ..Capabilities::CAUTIOUS
};

const MINIO: Capabilities = Capabilities {
    copy_conditions: true,
    part_conditions: true,
    // Its handlers of PutObject and Complete check both conditions, that of CopyObject
    // neither.
    if_none_match: OnWrites::UPLOADS,
    if_match: OnWrites::UPLOADS,
    content_etags: true,
    checksums: true,
    odd_part_sources: true,
    locks: true,
    ..PLAIN
};

/// Measured with 16.2, as Debian has it.
const CEPH: Capabilities = Capabilities {
    // Source conditions are accepted and ignored by both copies. Of the writes only
    // PutObject looks at its key, and takes an If-Match in quotes for another ETag.
    if_none_match: OnWrites {
        put: true,
        ..OnWrites::NONE
    },
    content_etags: true,
    // Tags are dropped by a CopyObject that replaces metadata and by
    // CreateMultipartUpload.
    tag_headers: false,
    locks: true,
    ..PLAIN
};

/// Measured with 4.48. Releases differ, so that what an older one ignores is not relied
/// on.
const SEAWEEDFS: Capabilities = Capabilities {
    // The ETag of a copied part is made of the ETags of the stored chunks that it
    // touches, so that different ranges have equal ones (content_etags). Lists go
    // directory by directory ("a/b" before "a b"; ordered_lists), and those of uploads
    // claim to be encoded when they are not. Older releases count chunks, not parts (part_counts).
    part_counts: false,
    odd_part_sources: true,
    ..Capabilities::CAUTIOUS
};

/// A copy is a reference to the source's blocks and keeps even its "-N" `ETag`. Tagging is
/// 501.
const GARAGE: Capabilities = Capabilities {
    copy_conditions: true,
    part_conditions: true,
    content_etags: true,
    tags: false,
    tag_headers: false,
    ..PLAIN
};

const R2: Capabilities = Capabilities {
    parts: PartLimits {
        max_part: 5 * GIB - 5 * MIB,
        equal_parts: true,
        largest: 5 * 1024 * GIB - 5 * GIB, // "4.995 TiB"
        ..PartLimits::S3
    },
    // Documented for CopyObject, and for UploadPartCopy as not honoured.
    copy_conditions: true,
    part_conditions: false,
    // CopyObject has them under names of its own (cf-copy-destination-if-…).
    if_none_match: OnWrites::UPLOADS,
    if_match: OnWrites::UPLOADS,
    content_etags: true,
    tags: false,
    tag_headers: false,
    ..PLAIN
};

/// x-amz-tagging is an error there, not a header to ignore.
const B2: Capabilities = Capabilities {
    content_etags: true,
    tags: false,
    tag_headers: false,
    ..PLAIN
};

const WASABI: Capabilities = Capabilities {
    copy_conditions: true,
    part_conditions: true,
    content_etags: true,
    locks: true,
    ..PLAIN
};

/// It has no UploadPartCopy and copies objects of any size in one request.
const GCS: Capabilities = Capabilities {
    // ETags count nothing.
    part_counts: false,
    part_copy: false,
    max_copy: u64::MAX,
    tags: false,
    tag_headers: false,
    ..PLAIN
};

/// No UploadPartCopy and no limit to `CopyObject` here either. Storj orders by encrypted keys. Its
/// gateway documents If-None-Match for all three writes.
const STORJ: Capabilities = Capabilities {
    part_copy: false,
    max_copy: u64::MAX,
    if_none_match: OnWrites::ALL,
    tags: false,
    tag_headers: false,
    ..Capabilities::CAUTIOUS
};

const SCALEWAY: Capabilities = Capabilities {
    parts: PartLimits {
        max_parts: 1_000,
        ..PartLimits::S3
    },
    content_etags: true,
    ..PLAIN
};

/// Ceph of an unknown version behind a front end of its own, whose encoding of lists is not
/// reliable.
const DIGITALOCEAN: Capabilities = Capabilities {
    encoded_lists: false,
    tag_headers: false,
    ..PLAIN
};

/// Multipart `ETag`s are of its own making; one CopyObject takes 1 GB.
const ALIBABA: Capabilities = Capabilities {
    max_copy: 1_000_000_000,
    ..PLAIN
};

const IBM: Capabilities = Capabilities {
    // In decimal units, as its documentation counts.
    parts: PartLimits {
        max_part: 5_000_000_000,
        largest: 10_000_000_000_000,
        ..PartLimits::S3
    },
    max_copy: 5_000_000_000,
    ..PLAIN
};
