//! The validated [`Job`]: what a manifest or a command line asks for, with every default filled in.
//!
//! Nothing here can be misread any more: sizes are bytes, locations are parsed, names are resolved. A manifest
//! becomes a `Job` in [`parse`](super::parse); the command line builds one with [`Job::single`]. Both then pass
//! the same [`check`], so that a rule can't hold for one way in and not for the other.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::acl::CannedAcl;
pub use super::check::check;
pub use super::compare::Compare;
use super::keys::{KeyGlob, KeyMap};
pub use super::limits::{Empty, FailureLimit, FailureLimitError, Limits};
use super::literal;
use super::moment::Ages;
pub use super::parts::{LayoutChoice, MAX_PART, MIN_PART, PartGoal, PartSize, Parts};
pub use super::preserve::{
    Attribute, CustomerKeys, KeySource, Policy, Preserve, PreserveError, Preset, SetValues,
};
pub use super::traces::{JournalPlace, ReportPaths};
pub use crate::endpoint::{AssumeRole, DEFAULT_ENDPOINT, Endpoint, Provider, ResolvedEndpoint};
use crate::location::{LocalPath, S3Uri};
use crate::size::ByteSize;

/// Everything that one run does: transfers, begun in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Names the run in reports and logs: `[a-z0-9._-]+`, by default the manifest's file name without extension.
    pub name: String,
    /// By name; [`DEFAULT_ENDPOINT`] is always there.
    pub endpoints: BTreeMap<String, ResolvedEndpoint>,
    /// At least one. A later transfer may read what an earlier one wrote, and then waits for its end.
    pub transfers: Vec<Transfer>,
    /// Ceilings for the whole run.
    pub limits: Limits,
    /// Where reports go, besides the terminal.
    pub report: ReportPaths,
    /// Where runs keep their journal.
    pub journal: JournalPlace,
    /// Uploads that are open at the keys to be written, and that no journal knows, are taken up where their parts can be
    /// proven. Whoever runs the job says so, because only they know that nobody else is at work on these keys.
    pub claims: bool,
}

/// One from → to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Unique in the job; by default `transfer-1`, `transfer-2`, … by position.
    pub name: String,
    /// Names of earlier transfers that must have ended before this one begins.
    pub after: Vec<String>,
    /// What is read.
    pub from: Source,
    /// Where it is written.
    pub to: Destination,
    /// Which objects are written when the destination has something under the key already.
    pub when: When,
    /// What [`When::Changed`] compares.
    pub compare: Compare,
    /// Equal objects are asked whether they have what the job sets, as far as no list shows it.
    pub compare_attributes: bool,
    /// The consequence of a selection that matches nothing.
    pub empty: Empty,
    /// Which of the source's objects take part.
    pub select: Selection,
    /// How a key at the source becomes a key at the destination.
    pub keys: KeyMap,
    /// How objects are cut into parts.
    pub parts: Parts,
    /// What of a source object goes along with its bytes.
    pub preserve: Preserve,
    /// The terms of the source's bucket; means nothing for local files.
    pub source_access: Access,
    /// The terms of the destination's bucket.
    pub destination_access: Access,
    /// Which of its times were written as ages.
    pub ages: Ages,
    /// Which versions of an object are copied.
    pub versions: Versions,
    /// What becomes of objects that can not be read because they are in an archive.
    pub archived: Archived,
    /// How they are restored, where `archived` says so.
    pub restore: Restore,
    /// How strongly copies must be proven equal.
    pub proof: ProofPolicy,
    /// What the new objects get besides, or in place of it.
    pub set: SetValues,
    /// Keys of the customer's own (SSE-C), by side.
    pub customer_keys: CustomerKeys,
    /// These objects instead of all that the source has; for running the failed ones of a report again.
    pub chosen: Option<Vec<Chosen>>,
    /// The run's own report and journal, which are no part of a source on this machine.
    pub own_files: Vec<std::path::PathBuf>,
}

/// On what terms a bucket is used. The same for every request to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access {
    /// `x-amz-expected-bucket-owner`: S3 refuses requests to a bucket of that name which another account owns. Twelve
    /// digits.
    pub expected_owner: Option<String>,
    /// `x-amz-request-payer: requester`: without it, buckets whose owner wants that refuse everything.
    pub requester_pays: bool,
}

/// Which versions of an object are copied. Anything but [`Versions::Current`] means something only for S3 sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// The one that a plain read finds, or the one that the source names.
    #[default]
    Current,
    /// All of them and the delete markers, oldest first, so that the destination gets the same history.
    All,
    /// The one that a plain read would have found at this time.
    AsOf(Timestamp),
}

/// What becomes of objects that can not be read because they are in `GLACIER`, `DEEP_ARCHIVE` or an archive tier of
/// `INTELLIGENT_TIERING`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Archived {
    /// Each of them fails, and says what to do.
    #[default]
    Fail,
    /// They are left out, and counted.
    Skip,
    /// A restore is asked for, once; a later run copies them when they can be read.
    Restore,
}

/// How archived objects are made readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    /// How fast, and at what price.
    pub tier: RestoreTier,
    /// For how long, in days; at least 1. Objects in `INTELLIGENT_TIERING` move up for good.
    pub days: u32,
}

/// How fast a restore is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RestoreTier {
    /// 3 to 5 hours from `GLACIER`, up to 12 from `DEEP_ARCHIVE`.
    #[default]
    Standard,
    /// 5 to 12 hours from `GLACIER`, up to 48 from `DEEP_ARCHIVE`; the cheapest.
    Bulk,
    /// 1 to 5 minutes from `GLACIER`, the dearest. `DEEP_ARCHIVE` has none: such objects take `standard`.
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
        Self { tier: RestoreTier::default(), days: 7 }
    }
}

/// One object of a source, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chosen {
    /// The whole key in S3, or the path below the source directory.
    pub key: String,
}

/// How strongly copies must be proven equal, and what happens to one that is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProofPolicy {
    /// What counts as proven.
    pub verify: Verify,
    /// What may be done to prove it.
    pub prove: Prove,
    /// What becomes of a copy that was published and is not equal.
    pub on_mismatch: OnMismatch,
}

impl ProofPolicy {
    /// True when a checksum is demanded and only what the server answers may give it: then it is known before a copy
    /// whether there can be one.
    #[must_use]
    pub fn demands_an_answer(self) -> bool {
        self.verify == Verify::RequireChecksum && self.prove == Prove::Answers
    }
}

/// What counts as proven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    /// A checksum over the bytes must be equal on both sides; an object that can't have that fails, before it is
    /// published wherever that is known before.
    RequireChecksum,
    /// The strongest proof that both sides can give; the receipt names it.
    #[default]
    Best,
    /// What the server's answers hold, and no request beyond them where they show the size.
    Size,
}

/// What may be done to prove a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Prove {
    /// Only what S3 computed by itself is compared; no byte is read.
    #[default]
    Answers,
    /// Where no checksum can be compared, the bytes are read and summed in memory.
    Read,
}

/// What becomes of a copy that was published and is not equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnMismatch {
    /// It stays; the object fails and the report says where it is.
    #[default]
    Keep,
    /// Exactly what this run wrote is removed: its version, or the object if it still has the `ETag` of the copy.
    Remove,
}

/// What a transfer reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One object: the location's key is neither empty nor ends in a slash.
    Object {
        /// A name in [`Job::endpoints`].
        endpoint: String,
        /// Bucket and key.
        location: S3Uri,
        /// This version instead of the current one.
        version: Option<String>,
    },
    /// All objects whose keys begin with the location's key (a whole bucket when it is empty).
    Prefix {
        /// A name in [`Job::endpoints`].
        endpoint: String,
        /// Bucket and prefix.
        location: S3Uri,
    },
    /// A local file, or a directory with everything below it. Whether it is there, and which of the two, is seen
    /// when the run starts.
    Files {
        /// Relative to the working directory.
        path: LocalPath,
        /// What symbolic links mean.
        symlinks: Symlinks,
    },
    /// Standard input as one object. Only the command line can say it.
    Stdin,
}

/// What a symbolic link below a `files:` source means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Symlinks {
    /// It is left out.
    #[default]
    Skip,
    /// What it points to is uploaded under the link's name.
    Follow,
    /// It fails the transfer.
    Fail,
}

/// Where a transfer writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// A name in [`Job::endpoints`]. Its credentials sign the copies, so they must be allowed to read the source.
    pub endpoint: String,
    /// A prefix (empty, or with a slash at the end) below which keys are kept, or the exact key for one object.
    pub location: S3Uri,
    /// Wins over a preserved storage class.
    pub storage_class: Option<String>,
    /// `None`: the destination bucket's default.
    pub encryption: Option<Encryption>,
    /// The ACL of the new objects; `None` makes them private to whoever writes them.
    pub acl: Option<CannedAcl>,
}

/// How S3 encrypts the objects that it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// With keys that S3 holds (`AES256`).
    S3,
    /// With a key in KMS (`aws:kms`, or `aws:kms:dsse` for two layers).
    Kms {
        /// A key's ARN or id; `None` is the account's AWS managed key.
        key: Option<String>,
        /// Fewer KMS calls through a key per bucket; `None` is the bucket's default. Not with `dsse`.
        bucket_key: Option<bool>,
        /// Two layers of encryption.
        dsse: bool,
    },
}

/// Which objects are written when the destination has something under the key already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Only objects that the destination does not have: nothing is ever overwritten.
    Missing,
    /// Objects that the destination does not have, or has otherwise.
    #[default]
    Changed,
    /// All objects.
    Always,
}

/// Which of a source's objects take part: all conditions must hold. The default takes all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// At least one must match the key behind the source's prefix; empty means all.
    pub include: Vec<KeyGlob>,
    /// None may match; wins over `include`.
    pub exclude: Vec<KeyGlob>,
    /// Strictly more bytes than this: `0B` leaves empty objects out.
    pub larger_than: Option<ByteSize>,
    /// Strictly fewer bytes than this.
    pub smaller_than: Option<ByteSize>,
    /// Modified at this time or later, so that `modified_after: T` goes on where `modified_before: T` ended.
    pub modified_after: Option<jiff::Timestamp>,
    /// Modified before this time, which itself is left out.
    pub modified_before: Option<jiff::Timestamp>,
    /// One of these; empty means any. Objects without one are `STANDARD`.
    pub storage_classes: Vec<String>,
}

impl Source {
    /// The endpoint's name and the location, when this is in S3.
    #[must_use]
    pub fn s3(&self) -> Option<(&str, &S3Uri)> {
        match self {
            Self::Object { endpoint, location, .. } | Self::Prefix { endpoint, location } => {
                Some((endpoint, location))
            }
            Self::Files { .. } | Self::Stdin => None,
        }
    }
}

impl Selection {
    /// True when every object takes part.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// True when the patterns leave this relative key out, whatever the object behind it is like.
    #[must_use]
    pub fn rules_out(&self, relative_key: &str) -> bool {
        let matches = |globs: &[KeyGlob]| globs.iter().any(|glob| glob.matches(relative_key));
        matches(&self.exclude) || (!self.include.is_empty() && !matches(&self.include))
    }

    /// Returns the smallest set of prefixes that every selected relative key starts with one of: the literal
    /// beginnings of `include`. Sorted, and none is a prefix of another; the empty prefix alone covers all keys.
    #[must_use]
    pub fn prefixes(&self) -> Vec<String> {
        if self.include.is_empty() {
            return vec![String::new()];
        }
        literal::disjoint(self.include.iter().flat_map(KeyGlob::beginnings).cloned().collect())
    }

    /// Returns true if the patterns leave out every relative key that begins with `directory` (empty, or with a
    /// slash at the end). Returns false when in doubt.
    #[must_use]
    pub fn leaves_out_all_below(&self, directory: &str) -> bool {
        let reaches = |glob: &KeyGlob| glob.reaches_below(directory);
        (!self.include.is_empty() && !self.include.iter().any(reaches)) || self.excludes_all_below(directory)
    }

    /// True when `exclude` leaves out every relative key that begins with `prefix` (which ends in a slash).
    /// `false` when in doubt.
    #[must_use]
    pub fn excludes_all_below(&self, prefix: &str) -> bool {
        self.exclude.iter().any(|glob| glob.covers(prefix))
    }
}

impl Transfer {
    /// A transfer with the defaults of a manifest.
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
            own_files: Vec::new(),
        }
    }
}

impl Job {
    /// Returns the job of a one-off command line: one transfer, and the endpoints that it names.
    /// [`DEFAULT_ENDPOINT`] is Amazon S3 as this process sees it, unless it is among them.
    /// Call [`check`] on it.
    #[must_use]
    pub fn single(
        transfer: Transfer,
        endpoints: impl IntoIterator<Item = impl Into<ResolvedEndpoint>>,
    ) -> Self {
        let named = endpoints.into_iter().map(Into::into);
        let mut all: BTreeMap<_, ResolvedEndpoint> =
            named.map(|endpoint| (endpoint.name.clone(), endpoint)).collect();
        all.entry(DEFAULT_ENDPOINT.to_owned()).or_insert_with(|| Endpoint::default().into());
        Self {
            name: transfer.name.clone(),
            endpoints: all,
            transfers: vec![transfer],
            limits: Limits::default(),
            report: ReportPaths::default(),
            journal: JournalPlace::default(),
            claims: false,
        }
    }
}
