//! The capabilities that a manifest states for an endpoint because the provider profile lacks them
//! or is wrong.
//!
//! A profile describes a kind of server. The actual server may be older, newer, or configured
//! differently. `s3haul check --probe` measures the server and prints the differences as these
//! fields, so that users can copy them into the manifest instead of guessing from errors during a
//! run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The requests that can write under a condition on the object at their key.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ConditionalWrite {
    /// `CopyObject`.
    Copy,
    /// `PutObject`.
    Put,
    /// `CompleteMultipartUpload`.
    Complete,
}

/// Capabilities of this endpoint that differ from those of its `provider`. `s3haul check JOB
/// --probe` measures most of them.
// `S` is the type of a size: first the typed text, then `ByteSize`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    default,
    bound(deserialize = "S: Deserialize<'de>")
)]
#[schemars(title = "capabilities", rename = "Capabilities")]
pub struct Overrides<S> {
    /// The server supports `UploadPartCopy`.
    #[schemars(extend("examples" = [false]))]
    pub part_copy: Option<bool>,
    /// The largest object that one `CopyObject` can copy.
    #[schemars(extend("examples" = ["5GiB"]))]
    pub max_copy: Option<S>,
    /// The largest allowed part.
    #[schemars(extend("examples" = ["5GiB"]))]
    pub max_part: Option<S>,
    /// The maximum number of parts that one upload may have.
    #[schemars(range(min = 1, max = 10_000), extend("examples" = [1000]))]
    pub max_parts: Option<u32>,
    /// All parts of an upload except the last must have the same size.
    #[schemars(extend("examples" = [true]))]
    pub equal_parts: Option<bool>,
    /// `CopyObject` respects `x-amz-copy-source-if-match`.
    #[schemars(extend("examples" = [true]))]
    pub copy_conditions: Option<bool>,
    /// `UploadPartCopy` respects `x-amz-copy-source-if-match`.
    #[schemars(extend("examples" = [true]))]
    pub part_conditions: Option<bool>,
    /// The writes that respect `If-None-Match: *`.
    #[schemars(extend("examples" = [["put", "complete"]]))]
    pub if_none_match: Option<Vec<ConditionalWrite>>,
    /// The writes that respect `If-Match`.
    #[schemars(extend("examples" = [["put", "complete"]]))]
    pub if_match: Option<Vec<ConditionalWrite>>,
    /// The server computes `ETag`s from the bytes, as S3 does.
    #[schemars(extend("examples" = [true]))]
    pub content_etags: Option<bool>,
    /// The server verifies and stores `x-amz-checksum-*` headers. If this is false, s3haul neither
    /// compares the server's checksums nor accepts them as proof.
    #[schemars(extend("examples" = [true]))]
    pub checksums: Option<bool>,
    /// s3haul may send `x-amz-mp-object-size`.
    #[schemars(extend("examples" = [false]))]
    pub object_size: Option<bool>,
    /// The server sorts lists by the bytes of the keys.
    #[schemars(extend("examples" = [true]))]
    pub ordered_lists: Option<bool>,
    /// The server encodes lists of objects on request (`encoding-type=url`).
    #[schemars(extend("examples" = [true]))]
    pub encoded_lists: Option<bool>,
    /// The server encodes lists of open uploads on request (`encoding-type=url`).
    #[schemars(extend("examples" = [true]))]
    pub encoded_uploads: Option<bool>,
    /// The server supports object tags.
    #[schemars(extend("examples" = [true]))]
    pub tags: Option<bool>,
    /// `CopyObject` and `CreateMultipartUpload` set tags from the `x-amz-tagging` header.
    #[schemars(extend("examples" = [true]))]
    pub tag_headers: Option<bool>,
    /// `UploadPartCopy` finds its source even if the key contains `%` or `?`.
    #[schemars(extend("examples" = [true]))]
    pub odd_part_sources: Option<bool>,
}

impl<S> Default for Overrides<S> {
    fn default() -> Self {
        Self {
            part_copy: None,
            max_copy: None,
            max_part: None,
            max_parts: None,
            equal_parts: None,
            copy_conditions: None,
            part_conditions: None,
            if_none_match: None,
            if_match: None,
            content_etags: None,
            checksums: None,
            object_size: None,
            ordered_lists: None,
            encoded_lists: None,
            encoded_uploads: None,
            tags: None,
            tag_headers: None,
            odd_part_sources: None,
        }
    }
}

impl<S> Overrides<S> {
    /// Converts the sizes. `read` receives the name of the field and the size.
    #[must_use]
    pub fn sized<T>(self, mut read: impl FnMut(&str, Option<S>) -> Option<T>) -> Overrides<T> {
        Overrides {
            part_copy: self.part_copy,
            max_copy: read("max_copy", self.max_copy),
            max_part: read("max_part", self.max_part),
            max_parts: self.max_parts,
            equal_parts: self.equal_parts,
            copy_conditions: self.copy_conditions,
            part_conditions: self.part_conditions,
            if_none_match: self.if_none_match,
            if_match: self.if_match,
            content_etags: self.content_etags,
            checksums: self.checksums,
            object_size: self.object_size,
            ordered_lists: self.ordered_lists,
            encoded_lists: self.encoded_lists,
            encoded_uploads: self.encoded_uploads,
            tags: self.tags,
            tag_headers: self.tag_headers,
            odd_part_sources: self.odd_part_sources,
        }
    }
}
