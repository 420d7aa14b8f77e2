//! The validated [`Job`] of a manifest or command line, with all defaults filled in.
//!
//! Nothing in it needs interpretation: sizes are bytes, locations are parsed, and names are
//! resolved. [`Job::parse`] builds a `Job` from a manifest, and the command line builds one with
//! [`Job::single`]. Both pass the same [`Job::check`], so the same rules apply to both.

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
    /// At least one transfer. A transfer that reads what an earlier one writes waits until that one
    /// ends.
    pub transfers: Vec<Transfer>,
    /// Ceilings for the whole run.
    pub limits: Limits,
    /// The place that receives the report.
    pub report: ReportPaths,
    /// The place of the journal.
    pub journal: JournalPlace,
    /// The consequence of differences from the unfinished run in the journal.
    pub on_change: OnChange,
    /// Set by `--adopt`: open uploads at the keys to be written that no journal knows are resumed
    /// if their parts can be proven. Only the user knows that no other program writes these keys.
    pub adopts: bool,
    /// The name of the report whose failed objects are copied again, if the job does only that.
    #[doc(hidden)]
    pub retries: Option<String>,
    /// The SHA-256 of the manifest in hexadecimal digits; `None` for a job that has no manifest.
    #[doc(hidden)]
    pub manifest_sha256: Option<String>,
}

/// A pair of locations: objects of `from` are copied to `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Transfer {
    /// The name, unique in the job. Default: `transfer-1`, `transfer-2`, … by position.
    pub name: String,
    /// Names of earlier transfers that must have ended before this one starts.
    pub after: Vec<String>,
    /// The source.
    pub from: Source,
    /// The destination.
    pub to: Destination,
    /// Decides which objects are copied if the destination already has an object at the key.
    pub when: When,
    /// The comparison that [`When::Changed`] makes.
    pub compare: Compare,
    /// Set if requests check the attributes that the job sets and no list shows, for equal objects.
    pub compare_attributes: bool,
    /// The consequence of a selection that matches nothing.
    pub empty: Empty,
    /// The conditions that select objects of the source.
    pub select: Selection,
    /// The mapping from source keys to destination keys.
    pub keys: KeyMap,
    /// The division of objects into parts.
    pub parts: Parts,
    /// The attributes of the source object that a copy keeps.
    pub preserve: Preserve,
    /// The access settings of the source's bucket. Without effect for local files.
    pub source_access: Access,
    /// The access settings of the destination's bucket.
    pub destination_access: Access,
    /// The times that the user wrote as ages.
    #[doc(hidden)]
    pub ages: Ages,
    /// The versions of an object that are copied.
    pub versions: Versions,
    /// The treatment of objects in an archive.
    pub archived: Archived,
    /// The restore that [`Archived::Restore`] requests.
    pub restore: Restore,
    /// The proof that copies need.
    pub proof: ProofPolicy,
    /// Attributes of the new objects that do not come from the source.
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
    /// `x-amz-expected-bucket-owner`: the account (12 digits) that must own the bucket, or S3
    /// refuses the request.
    pub expected_owner: Option<String>,
    /// `x-amz-request-payer: requester`: without it, a Requester Pays bucket refuses every request.
    pub requester_pays: bool,
}

/// The versions of an object that are copied. For local files, only [`Versions::Current`] is valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// The version that a plain read finds, or the one that the source names.
    #[default]
    Current,
    /// All versions and delete markers, oldest first, so that the destination gets the same
    /// history.
    All,
    /// The version that a plain read would have found at this time.
    AsOf(Timestamp),
}

/// The treatment of objects that cannot be read because they are in `GLACIER`, `DEEP_ARCHIVE`, or
/// an archive tier of `INTELLIGENT_TIERING`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Archived {
    /// The object fails, and the error says what to do.
    #[default]
    Fail,
    /// The object is skipped and counted.
    Skip,
    /// The run requests a restore once. A later run copies the object when it can be read.
    Restore,
}

/// A restore of archived objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The tier, which decides speed and price.
    pub tier: RestoreTier,
    /// The days for which the object can be read, at least 1. Objects in `INTELLIGENT_TIERING`
    /// leave the archive tier permanently.
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
    /// 1 to 5 minutes from `GLACIER`. The most expensive tier. `DEEP_ARCHIVE` does not have it and
    /// uses `standard`.
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
}

/// A copy that an earlier run published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedCopy {
    /// The version of the source that was copied.
    pub source_version: Option<String>,
    /// The `ETag` of the copy.
    pub etag: String,
    /// The version id of the copy.
    pub version: Option<String>,
    /// The proof that it equals its source, as the report names it.
    pub proof: Option<String>,
    /// The time at which the copy was proven.
    pub at: Timestamp,
}

/// The proof that copies need, and the treatment of a copy without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProofPolicy {
    /// The proof that a copy needs.
    pub verify: Verify,
    /// The means of proof.
    pub prove: Prove,
    /// The treatment of a copy that was published and is not equal.
    pub on_mismatch: OnMismatch,
}

impl ProofPolicy {
    /// Returns true if a checksum is required and no byte may be read. Then it is known before the
    /// copy whether there can be a checksum.
    #[must_use]
    pub fn demands_an_answer(self) -> bool {
        self.verify == Verify::RequireChecksum && self.prove == Prove::Answers
    }
}

/// The proof that a copy needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    /// A checksum over the bytes must be equal on both sides. An object that cannot have one fails,
    /// before it is published if that is known in time.
    RequireChecksum,
    /// The strongest proof that both sides can give. The receipt names it.
    #[default]
    Best,
    /// The proof in the answers to the copy. s3haul sends no further request if they show the size.
    Size,
}

/// The means of proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Prove {
    /// Compares the values that S3 computed. Reads no bytes.
    #[default]
    Answers,
    /// Reads the bytes if no checksum can be compared, and computes a checksum in memory.
    Read,
}

/// The treatment of a copy that was published and is not equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnMismatch {
    /// The copy stays. The object fails, and the report says where the copy is.
    #[default]
    Keep,
    /// s3haul deletes exactly what this run wrote: its version, or the object if it still has the
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
        /// The version id; `None` is the current version.
        version: Option<String>,
    },
    /// All objects whose keys begin with the location's key, or the whole bucket if it is empty.
    Prefix {
        /// A name in [`Job::endpoints`].
        endpoint: String,
        /// Bucket and prefix.
        location: S3Uri,
    },
    /// A local file, or a directory with everything below it. The run finds out which one when it
    /// starts.
    Files {
        /// The path, relative to the working directory.
        path: LocalPath,
        /// The treatment of symbolic links.
        symlinks: Symlinks,
    },
    /// Standard input as one object. Only the command line can name it.
    Stdin,
}

/// The treatment of symbolic links below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Symlinks {
    /// The link is ignored.
    #[default]
    Skip,
    /// s3haul uploads the target under the name of the link.
    Follow,
    /// The transfer fails.
    Fail,
}

/// The destination of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Destination {
    /// A name in [`Job::endpoints`]. Its credentials sign the copies, so they must be allowed to
    /// read the source.
    pub endpoint: String,
    /// A prefix (empty, or with a slash at the end) below which keys are kept, or the exact key for
    /// one object.
    pub location: S3Uri,
    /// The storage class. It overrides a preserved one.
    pub storage_class: Option<String>,
    /// The encryption; `None` is the default of the bucket.
    pub encryption: Option<Encryption>,
    /// The ACL of the new objects; `None` makes them private to their writer.
    pub acl: Option<CannedAcl>,
}

/// The encryption of new objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// With keys that S3 holds (`AES256`).
    S3,
    /// With a key in KMS (`aws:kms`, or `aws:kms:dsse` for two layers).
    Kms {
        /// A key's ARN or id; `None` is the account's AWS managed key.
        key: Option<String>,
        /// Uses an S3 Bucket Key; `None` is the default of the bucket. Not with `dsse`.
        bucket_key: Option<bool>,
        /// Two layers of encryption.
        dsse: bool,
    },
}

/// Decides which objects are copied if the destination already has an object at the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Copies objects that the destination does not have. Nothing is overwritten.
    Missing,
    /// Copies objects that the destination does not have or that differ.
    #[default]
    Changed,
    /// Copies all objects.
    Always,
}

/// Conditions that select objects of a source. All must hold. The default selects all objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Selection {
    /// Patterns of which one must match the key after the prefix. Empty means every key.
    pub include: Vec<KeyGlob>,
    /// Patterns of which none may match. They override `include`.
    pub exclude: Vec<KeyGlob>,
    /// Selects objects with more bytes than this. `0B` leaves out empty objects.
    pub larger_than: Option<ByteSize>,
    /// Selects objects with fewer bytes than this.
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

    /// Returns a local file, or the files of a directory, without those that are symbolic links.
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

    /// Returns true if the patterns leave out this relative key.
    #[must_use]
    pub fn rules_out(&self, relative_key: &str) -> bool {
        let matches = |globs: &[KeyGlob]| globs.iter().any(|glob| glob.matches(relative_key));
        matches(&self.exclude) || (!self.include.is_empty() && !matches(&self.include))
    }

    /// Returns the literal prefixes of `include`: the smallest set of prefixes of which every
    /// selected relative key has one. Sorted, and none is a prefix of another; the empty prefix
    /// alone covers all keys.
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

    /// Returns true if the patterns leave out every relative key that begins with `directory`
    /// (empty, or with a slash at the end). Returns false in doubt.
    #[must_use]
    pub fn leaves_out_all_below(&self, directory: &str) -> bool {
        let reaches = |glob: &KeyGlob| glob.reaches_below(directory);
        (!self.include.is_empty() && !self.include.iter().any(reaches))
            || self.excludes_all_below(directory)
    }

    /// Returns true if `exclude` leaves out every relative key that starts with `prefix`, which
    /// ends in a slash. Returns false in doubt.
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
