//! The validated [`Job`] of a manifest or command line, with all defaults filled in.
//!
//! A `Job` needs no further interpretation: sizes are bytes, locations are parsed, and names are
//! resolved. [`Job::parse`] builds a `Job` from a manifest, and the command line builds one with
//! [`Job::single`]. Both run [`Job::check`], so the same rules apply to both.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::acl::CannedAcl;
pub use super::compare::Compare;
use super::keys::{KeyGlob, KeyMap};
pub use super::limits::{Empty, FailureLimit, FailureLimitError, Limits};
use super::literal;
use super::moment::Ages;
pub use super::outputs::{JournalPlace, OnChange, ReportPaths, ReportPlace};
pub use super::parts::{LayoutChoice, MAX_PART, MIN_PART, PartGoal, PartSize, Parts};
pub use super::preserve::{
    Attribute, CustomerKeys, KeySource, Policy, Preserve, PreserveError, Preset, SetValues,
};
pub use crate::endpoint::{
    AssumeRole, DEFAULT_ENDPOINT, Endpoint, Provider, ResolvedEndpoint, Trust,
};
use crate::location::{LocalPath, S3Uri};
use crate::size::ByteSize;

/// A job: transfers, which start in this order, and the settings of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Job {
    /// The name of the run in reports and logs: `[a-z0-9._-]+`, by default the manifest's file name
    /// without its extension.
    pub name: String,
    /// The endpoints by name. [`DEFAULT_ENDPOINT`] is always among them.
    pub endpoints: BTreeMap<String, ResolvedEndpoint>,
    /// At least one transfer. A transfer that reads what an earlier transfer writes waits until
    /// that transfer ends.
    pub transfers: Vec<Transfer>,
    /// The limits of the whole run.
    pub limits: Limits,
    /// The location of the report.
    pub report: ReportPaths,
    /// The location of the journal.
    pub journal: JournalPlace,
    /// Decides what happens if the job differs from the unfinished run in the journal.
    pub on_change: OnChange,
    /// Set by `--adopt`: the run resumes open uploads that no journal records, if they are at keys
    /// that it writes and their parts can be proven. Only the user knows that no other program
    /// writes these keys.
    pub adopts: bool,
    /// The name of the report whose failed objects this job copies again; `None` for other jobs.
    #[doc(hidden)]
    pub retries: Option<String>,
    /// The SHA-256 of the manifest in hexadecimal digits; `None` for a job that has no manifest.
    #[doc(hidden)]
    pub manifest_sha256: Option<String>,
}

/// A pair of locations. s3haul copies objects from `from` to `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Transfer {
    /// The name, unique in the job. Default: `transfer-1`, `transfer-2`, … by position.
    pub name: String,
    /// Names of earlier transfers that must end before this transfer starts.
    pub after: Vec<String>,
    /// The source.
    pub from: Source,
    /// The destination.
    pub to: Destination,
    /// Decides which objects are copied if the destination already has an object at the key.
    pub when: When,
    /// The comparison that [`When::Changed`] uses.
    pub compare: Compare,
    /// Set if the run sends requests to check that equal objects have the attributes that the job
    /// sets and that lists do not show.
    pub compare_attributes: bool,
    /// Decides what happens if the selection matches nothing.
    pub empty: Empty,
    /// The conditions that select objects of the source.
    pub select: Selection,
    /// Rules that map source keys to destination keys.
    pub keys: KeyMap,
    /// The rules for dividing objects into parts.
    pub parts: Parts,
    /// The attributes of the source object that a copy keeps.
    pub preserve: Preserve,
    /// The access settings of the source's bucket. They have no effect on local files.
    pub source_access: Access,
    /// The access settings of the destination's bucket.
    pub destination_access: Access,
    /// The times that the user wrote as ages.
    #[doc(hidden)]
    pub ages: Ages,
    /// The versions of each object that are copied.
    pub versions: Versions,
    /// Decides what happens to archived objects.
    pub archived: Archived,
    /// The restore request that [`Archived::Restore`] sends.
    pub restore: Restore,
    /// The proof that copies need.
    pub proof: ProofPolicy,
    /// Attributes that the new objects get regardless of the source.
    pub set: SetValues,
    /// The customer keys (SSE-C) of the source and the destination.
    pub customer_keys: CustomerKeys,
    /// The only objects to copy, if set. `retry` sets it to the failed objects of a report.
    #[doc(hidden)]
    pub chosen: Option<Vec<Chosen>>,
    /// Copies of earlier runs, by source key, that lack only their tags.
    #[doc(hidden)]
    pub repairs: BTreeMap<String, PublishedCopy>,
    /// The run's own report and journal, which are never part of a local source.
    #[doc(hidden)]
    pub own_files: Vec<std::path::PathBuf>,
}

/// The access settings of a bucket, sent with every request to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access {
    /// `x-amz-expected-bucket-owner`: the ID of the account (12 digits) that must own the bucket.
    /// S3 refuses requests if another account owns the bucket.
    pub expected_owner: Option<String>,
    /// `x-amz-request-payer: requester`: without it, a Requester Pays bucket refuses every request.
    pub requester_pays: bool,
}

/// The versions of each object that are copied. For local files, only [`Versions::Current`] is
/// valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// The current version, or the version that the source names.
    #[default]
    Current,
    /// All versions and delete markers, oldest first. The destination gets the same history.
    All,
    /// The version that was current at this time.
    AsOf(Timestamp),
}

/// Decides what happens to objects that cannot be read because they are in `GLACIER`,
/// `DEEP_ARCHIVE`, or an archive tier of `INTELLIGENT_TIERING`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Archived {
    /// The object fails, and the error says what to do.
    #[default]
    Fail,
    /// The run skips the object and counts it.
    Skip,
    /// The run requests a restore once. A later run copies the object once it is readable.
    Restore,
}

/// A restore of archived objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The tier, which decides speed and price.
    pub tier: RestoreTier,
    /// The number of days for which the object can be read, at least 1. Has no effect on objects in
    /// `INTELLIGENT_TIERING`: a restore moves them out of the archive tier and makes no temporary
    /// copy.
    pub days: u32,
}

/// The speed of a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RestoreTier {
    /// 3 to 5 hours from `GLACIER`, up to 12 from `DEEP_ARCHIVE`.
    #[default]
    Standard,
    /// 5 to 12 hours from `GLACIER`, up to 48 from `DEEP_ARCHIVE`. The cheapest tier.
    Bulk,
    /// 1 to 5 minutes from `GLACIER`. The most expensive tier. `DEEP_ARCHIVE` does not support it,
    /// so s3haul requests `standard` there.
    Expedited,
}

impl fmt::Display for RestoreTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Standard => "standard",
            Self::Bulk => "bulk",
            Self::Expedited => "expedited",
        })
    }
}

impl Default for Restore {
    fn default() -> Self {
        Self {
            tier: RestoreTier::default(),
            days: 7,
        }
    }
}

/// One object of a source, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chosen {
    /// The whole key in S3, or the path below the source directory.
    pub key: String,
    /// The version to copy with `as_of`. Without it, s3haul copies the version of that time.
    pub version: Option<String>,
}

/// A copy that an earlier run published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedCopy {
    /// The version of the source that was copied.
    pub source_version: Option<String>,
    /// The `ETag` of the source, if no immutable version identifies it.
    pub source_etag: Option<String>,
    /// The time at which the source was written, if no immutable version identifies it.
    pub source_modified: Option<Timestamp>,
    /// The `ETag` of the copy.
    pub etag: String,
    /// The version ID of the copy.
    pub version: Option<String>,
    /// The proof that the copy equals its source, as the report names it.
    pub proof: Option<String>,
}

/// The proof that copies need, and what happens to a copy that differs from its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProofPolicy {
    /// The proof that a copy needs.
    pub verify: Verify,
    /// The method of proof.
    pub prove: Prove,
    /// Decides what happens to a published copy that differs from its source.
    pub on_mismatch: OnMismatch,
}

impl ProofPolicy {
    /// Returns true if a checksum is required and s3haul may not read bytes. Then s3haul can tell
    /// before the copy whether the object can have a checksum.
    #[must_use]
    pub fn demands_an_answer(self) -> bool {
        self.verify == Verify::RequireChecksum && self.prove == Prove::Answers
    }
}

/// The proof that a copy needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    /// Both sides must have equal checksums of the bytes. An object that cannot have such a
    /// checksum fails; s3haul does not publish it if this is known in time.
    RequireChecksum,
    /// The strongest proof that both sides support. The receipt names the proof.
    #[default]
    Best,
    /// The proof in the responses to the copy requests. s3haul sends no further request if they
    /// show the size.
    Size,
}

/// The method of proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Prove {
    /// s3haul compares values that S3 computed, and reads no bytes.
    #[default]
    Answers,
    /// If no checksums can be compared, s3haul downloads the bytes and computes a checksum in
    /// memory.
    Read,
}

/// Decides what happens to a published copy that differs from its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnMismatch {
    /// The copy stays. The object fails, and the report says where the copy is.
    #[default]
    Keep,
    /// s3haul deletes only what this run wrote: the version, or the object if it still has the
    /// `ETag` of the copy.
    Remove,
}

/// The source of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Source {
    /// One object. The location's key is not empty and does not end in a slash.
    Object {
        /// A name in [`Job::endpoints`].
        endpoint: String,
        /// Bucket and key.
        location: S3Uri,
        /// The version ID; `None` is the current version.
        version: Option<String>,
    },
    /// All objects whose keys begin with the location's key, or the whole bucket if it is empty.
    Prefix {
        /// A name in [`Job::endpoints`].
        endpoint: String,
        /// Bucket and prefix.
        location: S3Uri,
    },
    /// A local file, or a directory with everything below it. The run determines which one it is
    /// when it starts.
    Files {
        /// The path, relative to the working directory.
        path: LocalPath,
        /// Decides what happens to symbolic links.
        symlinks: Symlinks,
    },
    /// Standard input as one object. Only the command line can name it.
    Stdin,
}

/// Decides what happens to symbolic links below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Symlinks {
    /// s3haul ignores the link.
    #[default]
    Skip,
    /// s3haul uploads the target under the name of the link.
    Follow,
    /// The link counts as a failed object. s3haul still uploads the other files.
    Fail,
}

/// The destination of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Destination {
    /// A name in [`Job::endpoints`]. Its credentials sign the copy requests, so they need
    /// permission to read the source.
    pub endpoint: String,
    /// A prefix (empty, or with a trailing slash) that is prepended to the keys; or, for one
    /// object, the exact key.
    pub location: S3Uri,
    /// The storage class. It overrides a preserved one.
    pub storage_class: Option<String>,
    /// The encryption; `None` is the bucket's default.
    pub encryption: Option<Encryption>,
    /// The ACL of the new objects; `None` makes them private to their writer.
    pub acl: Option<CannedAcl>,
}

/// The encryption of new objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// SSE-S3, with keys that S3 manages (`AES256`).
    S3,
    /// SSE-KMS (`aws:kms`) or DSSE-KMS (`aws:kms:dsse`), with a key in KMS.
    Kms {
        /// The key's ARN or ID; `None` is the account's AWS managed key.
        key: Option<String>,
        /// Uses an S3 Bucket Key; `None` is the bucket's setting. Cannot be combined with `dsse`.
        bucket_key: Option<bool>,
        /// True for DSSE-KMS, which encrypts twice.
        dsse: bool,
    },
}

/// Decides which objects are copied if the destination already has an object at the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Copies objects that the destination does not have, and overwrites nothing.
    Missing,
    /// Copies objects that the destination does not have, or that differ there.
    #[default]
    Changed,
    /// Copies all objects.
    Always,
}

/// Conditions that select objects of a source. All must hold. The default selects all objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Selection {
    /// Patterns for the key after the prefix. At least one must match. Empty means every key.
    pub include: Vec<KeyGlob>,
    /// Patterns for the key after the prefix. None may match. They take precedence over `include`.
    pub exclude: Vec<KeyGlob>,
    /// Selects objects larger than this. `0B` skips empty objects.
    pub larger_than: Option<ByteSize>,
    /// Selects objects smaller than this.
    pub smaller_than: Option<ByteSize>,
    /// Selects objects modified at this time or later, so that `modified_after: T` continues where
    /// `modified_before: T` ends.
    pub modified_after: Option<jiff::Timestamp>,
    /// Selects objects modified before this time.
    pub modified_before: Option<jiff::Timestamp>,
    /// Selects objects in one of these classes. Empty means any. Objects without a class are
    /// `STANDARD`.
    pub storage_classes: Vec<String>,
}

impl Destination {
    /// Returns a location at the default endpoint, with the defaults of its bucket.
    #[must_use]
    pub fn new(location: S3Uri) -> Self {
        Self {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            location,
            storage_class: None,
            encryption: None,
            acl: None,
        }
    }
}

impl Source {
    /// Returns the current version of an object at the default endpoint.
    #[must_use]
    pub fn object(location: S3Uri) -> Self {
        Self::Object {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            location,
            version: None,
        }
    }

    /// Returns all objects below a prefix at the default endpoint.
    #[must_use]
    pub fn prefix(location: S3Uri) -> Self {
        Self::Prefix {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            location,
        }
    }

    /// Returns a local file, or the files of a directory without symbolic links.
    #[must_use]
    pub fn files(path: impl Into<std::path::PathBuf>) -> Self {
        Self::Files {
            path: LocalPath(path.into()),
            symlinks: Symlinks::Skip,
        }
    }

    /// Returns the endpoint's name and the location if the source is in S3.
    #[must_use]
    pub fn s3(&self) -> Option<(&str, &S3Uri)> {
        match self {
            Self::Object {
                endpoint, location, ..
            }
            | Self::Prefix { endpoint, location } => Some((endpoint, location)),
            Self::Files { .. } | Self::Stdin => None,
        }
    }
}

impl Selection {
    /// Returns true if every object is selected.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Returns true if the patterns exclude this relative key.
    #[must_use]
    pub fn rules_out(&self, relative_key: &str) -> bool {
        let matches = |globs: &[KeyGlob]| globs.iter().any(|glob| glob.matches(relative_key));
        matches(&self.exclude) || (!self.include.is_empty() && !matches(&self.include))
    }

    /// Returns the literal prefixes of `include`: every selected relative key starts with one of
    /// them. They are sorted, and none is a prefix of another. The empty prefix alone covers all
    /// keys.
    #[must_use]
    pub fn prefixes(&self) -> Vec<String> {
        if self.include.is_empty() {
            return vec![String::new()];
        }
        literal::disjoint(
            self.include
                .iter()
                .flat_map(KeyGlob::literal_prefixes)
                .cloned()
                .collect(),
        )
    }

    /// Returns true if the patterns certainly exclude every relative key that begins with
    /// `directory` (empty, or with a trailing slash).
    #[must_use]
    pub fn leaves_out_all_below(&self, directory: &str) -> bool {
        let reaches = |glob: &KeyGlob| glob.reaches_below(directory);
        (!self.include.is_empty() && !self.include.iter().any(reaches))
            || self.excludes_all_below(directory)
    }

    /// Returns true if `exclude` certainly matches every relative key that starts with `prefix`,
    /// which ends in a slash.
    #[must_use]
    pub fn excludes_all_below(&self, prefix: &str) -> bool {
        self.exclude.iter().any(|glob| glob.covers(prefix))
    }
}

impl Transfer {
    /// Returns a transfer with the defaults of a manifest.
    #[must_use]
    pub fn new(name: impl Into<String>, from: Source, to: Destination) -> Self {
        Self {
            name: name.into(),
            after: Vec::new(),
            from,
            to,
            when: When::default(),
            compare: Compare::default(),
            compare_attributes: false,
            empty: Empty::default(),
            select: Selection::default(),
            keys: KeyMap::default(),
            parts: Parts::default(),
            preserve: Preserve::default(),
            source_access: Access::default(),
            destination_access: Access::default(),
            ages: Ages::default(),
            versions: Versions::default(),
            archived: Archived::default(),
            restore: Restore::default(),
            proof: ProofPolicy::default(),
            set: SetValues::default(),
            customer_keys: CustomerKeys::default(),
            chosen: None,
            repairs: BTreeMap::new(),
            own_files: Vec::new(),
        }
    }
}

impl Job {
    /// Returns the job of a one-off command line: one transfer, and the endpoints that it names.
    /// Unless [`DEFAULT_ENDPOINT`] is among them, it is resolved in the environment of this
    /// process. Call [`Job::check`] on the job.
    #[must_use]
    pub fn single(
        transfer: Transfer,
        endpoints: impl IntoIterator<Item = impl Into<ResolvedEndpoint>>,
    ) -> Self {
        let named = endpoints.into_iter().map(Into::into);
        let mut all: BTreeMap<_, ResolvedEndpoint> = named
            .map(|endpoint| (endpoint.name.clone(), endpoint))
            .collect();
        all.entry(DEFAULT_ENDPOINT.to_owned())
            .or_insert_with(|| Endpoint::default().into());
        Self {
            name: transfer.name.clone(),
            endpoints: all,
            transfers: vec![transfer],
            limits: Limits::default(),
            report: ReportPaths::default(),
            journal: JournalPlace::default(),
            on_change: OnChange::default(),
            adopts: false,
            retries: None,
            manifest_sha256: None,
        }
    }
}
