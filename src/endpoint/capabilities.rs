//! The capabilities that a manifest states for an endpoint whose provider profile is silent or
//! wrong.
//!
//! A profile describes a kind of server. The server at hand may be older, newer, or configured
//! differently. `s3haul check --probe` measures it and prints the differences in these same fields.
//! So a finding becomes a line in the manifest, not a guess from an error in the middle of a run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The writes that can carry a condition on the object at their key.
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
    /// The server has `UploadPartCopy`.
    #[schemars(extend("examples" = [false]))]
    pub part_copy: Option<bool>,
    /// The largest object that one `CopyObject` copies.
    #[schemars(extend("examples" = ["5GiB"]))]
    pub max_copy: Option<S>,
    /// The largest part.
    #[schemars(extend("examples" = ["5GiB"]))]
    pub max_part: Option<S>,
    /// The most parts of one upload.
    #[schemars(range(min = 1, max = 10_000), extend("examples" = [1000]))]
    pub max_parts: Option<u32>,
    /// All parts of an upload except the last must have the same size.
    #[schemars(extend("examples" = [true]))]
    pub equal_parts: Option<bool>,
    /// `CopyObject` honours `x-amz-copy-source-if-match`.
    #[schemars(extend("examples" = [true]))]
    pub copy_conditions: Option<bool>,
    /// `UploadPartCopy` honours `x-amz-copy-source-if-match`.
    #[schemars(extend("examples" = [true]))]
    pub part_conditions: Option<bool>,
    /// The writes that honour `If-None-Match: *`.
    #[schemars(extend("examples" = [["put", "complete"]]))]
    pub if_none_match: Option<Vec<ConditionalWrite>>,
    /// The writes that honour `If-Match`.
    #[schemars(extend("examples" = [["put", "complete"]]))]
    pub if_match: Option<Vec<ConditionalWrite>>,
    /// `ETag`s derive from the bytes, as in S3.
    #[schemars(extend("examples" = [true]))]
    pub content_etags: Option<bool>,
    /// `x-amz-checksum-*` headers are checked and stored. If false, s3haul neither compares the
    /// server's checksums nor accepts them as proof.
    #[schemars(extend("examples" = [true]))]
    pub checksums: Option<bool>,
    /// `x-amz-mp-object-size` may be sent.
    #[schemars(extend("examples" = [false]))]
    pub object_size: Option<bool>,
    /// Lists are sorted by the bytes of the keys.
    #[schemars(extend("examples" = [true]))]
    pub ordered_lists: Option<bool>,
    /// Lists of objects are encoded on request (`encoding-type=url`).
    #[schemars(extend("examples" = [true]))]
    pub encoded_lists: Option<bool>,
    /// Lists of open uploads are encoded on request.
    #[schemars(extend("examples" = [true]))]
    pub encoded_uploads: Option<bool>,
    /// The server supports object tags.
    #[schemars(extend("examples" = [true]))]
    pub tags: Option<bool>,
    /// `CopyObject` and `CreateMultipartUpload` set the tags of the tagging header.
    #[schemars(extend("examples" = [true]))]
    pub tag_headers: Option<bool>,
    /// `UploadPartCopy` finds its source even if the key contains `%`.
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
    /// Converts the sizes. `read` gets the name of the field.
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
