//! [`ManifestFile`]: the YAML exactly as the user typed it.
//!
//! These types are the only description of the format. The JSON schema is generated from them, and
//! a manifest's tree is checked against that schema. So an editor underlines exactly what the
//! program refuses. The doc comments of the fields are the texts that an editor shows.
//!
//! All fields are optional here, even the required ones. The check of the shape reports missing
//! fields with their place, and the rest is still loaded, so that one pass also finds mistakes of
//! meaning. Values with their own syntax (sizes, times, locations, globs) stay text until the job
//! is built.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::job::{
    Archived, CannedAcl, Compare, Empty, LayoutChoice, OnChange, OnMismatch, PartGoal, Policy,
    Preset, Prove, Provider, RestoreTier, Symlinks, Verify, When,
};
use crate::endpoint::Trust;
use crate::endpoint::capabilities::Overrides;

/// A job of s3haul. Values may contain `${NAME}`, which the environment replaces; `$${` is a
/// literal `${`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "s3haul job manifest")]
pub struct ManifestFile {
    /// The version of this format.
    #[schemars(required, extend("const" = 1, "examples" = [1]))]
    #[cfg_attr(
        not(feature = "internals"),
        allow(dead_code, reason = "checked by the schema")
    )]
    pub version: Option<u64>,
    /// The name of the job in reports, logs, and the journal. Default: the file's name without its
    /// extension.
    #[schemars(regex(pattern = "^[a-z0-9._-]+$"), extend("examples" = ["lake-replica"]))]
    pub name: Option<String>,
    /// Servers and identities, by name. Not needed for Amazon S3 with the credentials of the
    /// environment. A `from` or `to` that names no endpoint uses the one called `default`.
    #[schemars(extend("examples" = [{"onprem": {"url": "https://s3.example.internal", "path_style": true}}]))]
    pub endpoints: Option<BTreeMap<String, EndpointSection>>,
    /// Settings for each transfer that does not state its own.
    #[schemars(extend("examples" = [{"when": "missing"}]))]
    pub defaults: Option<DefaultsSection>,
    /// Pairs of locations to copy. Transfers start in this order, each as soon as there are free
    /// requests in flight. A transfer that reads or writes where an earlier one writes, or that
    /// names it in `after`, waits until that one ends.
    #[schemars(required, length(min = 1), extend("examples" = [[{"from": {"s3": "s3://lake-prod/events/"}, "to": {"s3": "s3://lake-dr/events/"}}]]))]
    pub transfers: Option<Vec<TransferSection>>,
    /// Ceilings for the whole run. Without them, the pace adapts to what the servers accept.
    #[schemars(extend("examples" = [{"requests_per_second": 3000}]))]
    pub limits: Option<LimitsSection>,
    /// The location of the report: a file, or a prefix in S3.
    #[schemars(extend("examples" = [{"s3": "s3://lake-ops/s3haul/lake-replica/"}]))]
    pub report: Option<ReportSection>,
    /// The journal, from which a run resumes after a stop: a directory, `s3://bucket/prefix/` at
    /// the default endpoint, or `none`. Default: `./.s3haul/` and the job's name.
    #[schemars(extend("examples" = ["s3://lake-ops/s3haul/lake-replica/"]))]
    pub journal: Option<String>,
    /// Decides what happens if this job differs from the unfinished run in its journal. With
    /// `new-run`, an edit of a scheduled job takes effect without a flag. Has no effect without a
    /// journal.
    #[schemars(extend("default" = "fail"))]
    pub on_change: Option<OnChange>,
}

/// A server and the identity to use there. A manifest never holds secrets: use `profile`,
/// `assume_role`, or the `AWS_*` variables.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "endpoint")]
pub struct EndpointSection {
    /// The server's URL: scheme, host, and port, without a path. Default: Amazon S3.
    #[schemars(extend("examples" = ["https://s3.example.internal:9000"]))]
    pub url: Option<String>,
    /// The Region. Default: that of the environment or of the bucket; `us-east-1` for other
    /// servers.
    #[schemars(extend("examples" = ["eu-west-1"]))]
    pub region: Option<String>,
    /// Puts the bucket into the path instead of the host name. Default: on, except for Amazon S3.
    #[schemars(extend("examples" = [true]))]
    pub path_style: Option<bool>,
    /// Allows signed requests over plain HTTP to another machine. Everybody on the network path can
    /// read them. Customer keys (SSE-C) never travel over plain HTTP.
    #[schemars(extend("default" = false))]
    pub allow_http: Option<bool>,
    /// A profile of the AWS configuration files.
    #[schemars(extend("examples" = ["onprem"]))]
    pub profile: Option<String>,
    /// A role to assume with the credentials of the profile or of the environment.
    #[schemars(extend("examples" = [{"arn": "arn:aws:iam::111122223333:role/s3haul"}]))]
    pub assume_role: Option<AssumeRoleSection>,
    /// A file of PEM certificates. Connections trust these certificate authorities and no others.
    #[schemars(extend("examples" = ["/etc/ssl/corp-ca.pem"]))]
    pub ca_bundle: Option<String>,
    /// The HTTP proxy for this endpoint: its URL, or `none` to connect directly. Default: that of
    /// the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).
    #[schemars(extend("examples" = ["http://proxy.example.com:3128"]))]
    pub proxy: Option<String>,
    /// The kind of server, which decides what s3haul relies on.
    #[schemars(extend("default" = "auto"))]
    pub provider: Option<Provider>,
    /// The trust in the server's answers. With `nothing`, s3haul checks each object once after it
    /// wrote the object, and each pair of objects before it calls them equal: one or two more HEAD
    /// requests per object.
    #[schemars(extend("default" = "answers"))]
    pub trust: Option<Trust>,
    /// Differences from what the provider is known to do. `s3haul check JOB --probe` measures them.
    #[schemars(extend("examples" = [{"copy_conditions": true}]))]
    pub capabilities: Option<Overrides<String>>,
}

/// An IAM role to assume.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "role")]
pub struct AssumeRoleSection {
    /// The role's ARN.
    #[schemars(required, extend("examples" = ["arn:aws:iam::111122223333:role/s3haul"]))]
    pub arn: Option<String>,
    /// The external ID that the role's trust policy may require.
    #[schemars(extend("examples" = ["x1"]))]
    pub external_id: Option<String>,
    /// The name of the session, which `CloudTrail` shows.
    #[schemars(extend("examples" = ["s3haul-nightly"]))]
    pub session_name: Option<String>,
    /// The lifetime of one set of credentials: `15m` to `12h`.
    #[schemars(extend("examples" = ["1h"]))]
    pub duration: Option<String>,
}

/// Settings for each transfer that does not state its own.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "defaults")]
pub struct DefaultsSection {
    /// Decides which objects are copied if the destination already has an object at the key.
    #[schemars(extend("default" = "changed"))]
    pub when: Option<When>,
    /// The comparison that `when: changed` makes.
    #[schemars(extend("default" = "auto"))]
    pub compare: Option<Compare>,
    /// Also compares the headers, metadata, tags, encryption, and ACL that the job sets with those
    /// of equal objects: one HEAD request for each, one `GetObjectTagging` if the job sets tags,
    /// and one `GetObjectAcl` if it sets an ACL. Without it, the summary counts what was not
    /// checked.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub compare_attributes: Option<bool>,
    /// Decides what happens if the source, the patterns, or the filters match no object.
    #[schemars(extend("default" = "warn"))]
    pub empty: Option<Empty>,
    /// The attributes of the source object that a copy keeps.
    #[schemars(extend("examples" = [{"tags": "skip"}]))]
    pub preserve: Option<PreserveSection>,
    /// The division of objects into parts.
    #[schemars(extend("examples" = [{"size": "64MiB"}]))]
    pub parts: Option<PartsSection>,
    /// Decides what happens to archived objects, which cannot be read before they are restored.
    #[schemars(extend("default" = "fail"))]
    pub archived: Option<Archived>,
    /// The restore that `archived: restore` requests.
    #[schemars(extend("examples" = [{"tier": "bulk", "days": 7}]))]
    pub restore: Option<RestoreSection>,
    /// The proof that a copy needs.
    #[schemars(extend("default" = "best"))]
    pub verify: Option<Verify>,
    /// The means of proof. `read` downloads the objects that no checksum proves.
    #[schemars(extend("default" = "answers"))]
    pub prove: Option<Prove>,
    /// Decides what happens to a published copy that is not equal to its source.
    #[schemars(extend("default" = "keep"))]
    pub on_mismatch: Option<OnMismatch>,
}

/// A pair of locations: objects of `from` are copied to `to`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "transfer")]
pub struct TransferSection {
    /// The name of the transfer, unique in the manifest. Default: `transfer-1`, `transfer-2`, … by
    /// position.
    #[schemars(regex(pattern = "^[a-z0-9._-]+$"), extend("examples" = ["events"]))]
    pub name: Option<String>,
    /// Names of earlier transfers that must have ended, with or without failures, before this one
    /// starts.
    #[schemars(extend("examples" = [["events"]]))]
    pub after: Option<Vec<String>>,
    /// The source: a location (`s3` or `files`) and conditions that select objects.
    #[schemars(required, extend("examples" = [{"s3": "s3://lake-prod/events/"}]))]
    pub from: Option<FromSection>,
    /// The destination.
    #[schemars(required, extend("examples" = [{"s3": "s3://lake-dr/events/"}]))]
    pub to: Option<ToSection>,
    /// Decides which objects are copied if the destination already has an object at the key.
    #[schemars(extend("default" = "changed"))]
    pub when: Option<When>,
    /// The comparison that `when: changed` makes.
    #[schemars(extend("default" = "auto"))]
    pub compare: Option<Compare>,
    /// Also compares the headers, metadata, tags, encryption, and ACL that the job sets with those
    /// of equal objects: one HEAD request for each, one `GetObjectTagging` if the job sets tags,
    /// and one `GetObjectAcl` if it sets an ACL. Without it, the summary counts what was not
    /// checked.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub compare_attributes: Option<bool>,
    /// Decides what happens if the source, the patterns, or the filters match no object.
    #[schemars(extend("default" = "warn"))]
    pub empty: Option<Empty>,
    /// The mapping from source keys to destination keys.
    #[schemars(extend("examples" = [{"strip_prefix": "raw/", "add_prefix": "2026/"}]))]
    pub keys: Option<KeysSection>,
    /// The division of objects into parts.
    #[schemars(extend("examples" = [{"size": "64MiB"}]))]
    pub parts: Option<PartsSection>,
    /// The attributes of the source object that a copy keeps.
    #[schemars(extend("examples" = [{"tags": "skip"}]))]
    pub preserve: Option<PreserveSection>,
    /// Decides what happens to archived objects, which cannot be read before they are restored.
    #[schemars(extend("default" = "fail"))]
    pub archived: Option<Archived>,
    /// The restore that `archived: restore` requests.
    #[schemars(extend("examples" = [{"tier": "bulk", "days": 7}]))]
    pub restore: Option<RestoreSection>,
    /// The proof that a copy needs.
    #[schemars(extend("default" = "best"))]
    pub verify: Option<Verify>,
    /// The means of proof. `read` downloads the objects that no checksum proves.
    #[schemars(extend("default" = "answers"))]
    pub prove: Option<Prove>,
    /// Decides what happens to a published copy that is not equal to its source.
    #[schemars(extend("default" = "keep"))]
    pub on_mismatch: Option<OnMismatch>,
    /// Attributes of the new objects that do not come from the source.
    #[schemars(extend("examples" = [{"cache_control": "max-age=3600"}]))]
    pub set: Option<SetSection>,
}

/// The source: exactly one of `s3` and `files`. The other fields select objects below a prefix or a
/// directory. An object is copied if all conditions hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "from")]
pub struct FromSection {
    /// `s3://bucket/prefix/`, with a slash at the end, for everything below a prefix;
    /// `s3://bucket/` for the whole bucket; `s3://bucket/key` for one object.
    #[schemars(extend("examples" = ["s3://lake-prod/events/"]))]
    pub s3: Option<String>,
    /// The endpoint, by its name under `endpoints`.
    #[schemars(extend("default" = "default"))]
    pub endpoint: Option<String>,
    /// The version of the one object. Default: the current version.
    pub version: Option<String>,
    /// The account (12 digits) that must own the bucket. S3 refuses requests if another account
    /// owns it.
    #[schemars(extend("examples" = ["111122223333"]))]
    pub expected_owner: Option<String>,
    /// Pays for the requests to a Requester Pays bucket.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub requester_pays: Option<bool>,
    /// The versions to copy. `all` needs a destination bucket with versioning.
    #[schemars(extend("default" = "current"))]
    pub versions: Option<VersionsName>,
    /// Copies the objects that a read would have found at this time: RFC 3339 with a time zone, a
    /// date (midnight UTC), or an age before the start of the run. The bucket must have had
    /// versioning since then.
    #[schemars(extend("examples" = ["2026-01-01T00:00:00Z", "24h"]))]
    pub as_of: Option<String>,
    /// The customer key (SSE-C) that decrypts the objects.
    #[schemars(extend("examples" = [{"env": "LAKE_KEY"}]))]
    pub customer_key: Option<CustomerKeySection>,
    /// A local file, or a directory with everything below it. Relative paths start at the working
    /// directory.
    #[schemars(extend("examples" = ["./exports"]))]
    pub files: Option<String>,
    /// Decides what happens to symbolic links below the directory.
    #[schemars(extend("default" = "skip"))]
    pub symlinks: Option<Symlinks>,
    /// Patterns for the key after the prefix. At least one must match. `*` stays inside one
    /// directory, `**` crosses slashes. Default: every key.
    #[schemars(extend("examples" = [["**/*.parquet"]]))]
    pub include: Option<Vec<String>>,
    /// Patterns for the key after the prefix. None may match. `exclude` wins over `include`.
    #[schemars(extend("examples" = [["tmp/**"]]))]
    pub exclude: Option<Vec<String>>,
    /// Selects objects with more bytes than this. `0B` leaves out empty objects.
    #[schemars(extend("examples" = ["0B"]))]
    pub larger_than: Option<String>,
    /// Selects objects with fewer bytes than this.
    #[schemars(extend("examples" = ["1GiB"]))]
    pub smaller_than: Option<String>,
    /// Selects objects modified at this time or later: RFC 3339 with a time zone, a date (midnight
    /// UTC), or an age before the start of the run such as `24h`, `7d`, or `2w`.
    #[schemars(extend("examples" = ["2026-01-01T00:00:00Z", "2026-01-01", "24h"]))]
    pub modified_after: Option<String>,
    /// Selects objects modified before this time, written like `modified_after`.
    #[schemars(extend("examples" = ["2026-02-01T00:00:00Z", "2026-02-01", "7d"]))]
    pub modified_before: Option<String>,
    /// Selects objects in one of these storage classes.
    #[schemars(extend("examples" = [["STANDARD", "STANDARD_IA"]]))]
    pub storage_classes: Option<Vec<String>>,
}

/// The destination.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "to")]
pub struct ToSection {
    /// `s3://bucket/prefix/`, with a slash at the end, or `s3://bucket/`. For one object, also its
    /// exact key.
    #[schemars(required, extend("examples" = ["s3://lake-dr/events/"]))]
    pub s3: Option<String>,
    /// The endpoint, by its name under `endpoints`. Its credentials sign the copies, so they must
    /// be allowed to read the source.
    #[schemars(extend("default" = "default"))]
    pub endpoint: Option<String>,
    /// The account (12 digits) that must own the bucket. S3 refuses requests if another account
    /// owns it.
    #[schemars(extend("examples" = ["444455556666"]))]
    pub expected_owner: Option<String>,
    /// Pays for the requests to a Requester Pays bucket.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub requester_pays: Option<bool>,
    /// The storage class of the new objects. Default: the class of the source.
    #[schemars(extend("examples" = ["INTELLIGENT_TIERING"]))]
    pub storage_class: Option<String>,
    /// The encryption of the new objects. Default: that of the bucket.
    #[schemars(extend("examples" = ["s3"]))]
    pub encryption: Option<EncryptionSection>,
    /// The canned ACL of the new objects, for buckets that demand one. It cannot be combined with
    /// `preserve.acl`. Default: none.
    #[schemars(extend("examples" = ["bucket-owner-full-control"]))]
    pub acl: Option<CannedAcl>,
    /// The customer key (SSE-C) that encrypts the new objects. It cannot be combined with
    /// `encryption`.
    #[schemars(extend("examples" = [{"file": "/run/secrets/lake-key"}]))]
    pub customer_key: Option<CustomerKeySection>,
}

// Untagged is safe here, because the kind of the YAML node has already selected the variant.
/// The encryption of new objects: `s3`, `kms`, or `dsse`, or a mapping that names a key.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EncryptionSection {
    /// A kind of encryption, with a key of S3 or of AWS.
    Named(EncryptionName),
    /// A kind of encryption and its key.
    Keyed(EncryptionKey),
}

/// A kind of encryption, with a key of S3 or of AWS.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncryptionName {
    /// Keys of S3 (`AES256`).
    S3,
    /// The account's AWS managed key (`aws:kms`).
    Kms,
    /// Two layers of encryption with the account's AWS managed key (`aws:kms:dsse`).
    Dsse,
}

/// A key in KMS: exactly one of `kms` and `dsse`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "encryption")]
pub struct EncryptionKey {
    /// The ARN of the key (`aws:kms`).
    #[schemars(extend("examples" = ["arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"]))]
    pub kms: Option<String>,
    /// The ARN of the key, for two layers of encryption (`aws:kms:dsse`).
    #[schemars(extend("examples" = ["arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"]))]
    pub dsse: Option<String>,
    /// Uses an S3 Bucket Key, which needs fewer requests to KMS. Not with `dsse`. Default: that of
    /// the bucket.
    #[schemars(extend("examples" = [true]))]
    pub bucket_key: Option<bool>,
}

/// Maps the key after the source prefix to the key after the destination prefix: first
/// `strip_prefix`, then `rename`, then `add_prefix`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "keys")]
pub struct KeysSection {
    /// Text to remove from the front of the key. An object whose key does not start with it fails.
    #[schemars(extend("examples" = ["raw/"]))]
    pub strip_prefix: Option<String>,
    /// Text to put in front of the key.
    #[schemars(extend("examples" = ["2026/"]))]
    pub add_prefix: Option<String>,
    /// A new key from `{key}`, `{dir}` (with its slash), `{name}`, `{stem}`, `{ext}` (with its
    /// dot), and `{size}`; `{{` and `}}` are braces.
    #[schemars(extend("examples" = ["{dir}{stem}-v1{ext}"]))]
    pub rename: Option<String>,
}

/// The division of objects into parts.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "parts")]
pub struct PartsSection {
    /// The size of a part: `auto`, or `5MiB` to `5GiB`. Objects that would need more than 10,000
    /// parts get larger ones.
    #[schemars(extend("default" = "auto", "examples" = ["64MiB"]))]
    pub size: Option<String>,
    /// Objects larger than this are copied in parts: `5MiB` to `5GiB`.
    #[schemars(extend("default" = "256MiB", "examples" = ["256MiB"]))]
    pub threshold: Option<String>,
    /// The goal of `size: auto`.
    #[schemars(extend("default" = "balanced", "examples" = ["fastest"]))]
    pub goal: Option<PartGoal>,
    /// The part boundaries of a copy. `source` keeps multipart `ETag`s and composite checksums
    /// equal.
    #[schemars(extend("default" = "auto", "examples" = ["source"]))]
    pub layout: Option<LayoutChoice>,
}

// Untagged is safe here for the same reason as for `encryption`: a YAML mapping or a YAML scalar.
/// The attributes that a copy keeps: a preset, or a policy for each attribute.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PreserveSection {
    /// A policy for all attributes.
    Preset(Preset),
    /// A policy for each attribute.
    Each(PreserveFields),
}

/// A policy for each attribute.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "preserve")]
pub struct PreserveFields {
    /// The preset for the attributes that are not listed here.
    #[schemars(extend("default" = "default"))]
    pub preset: Option<Preset>,
    /// User metadata.
    #[schemars(extend("default" = "require"))]
    pub metadata: Option<Policy>,
    /// `Content-Type`, `-Encoding`, `-Language`, `-Disposition`, `Cache-Control`, `Expires`, and
    /// the website redirect.
    #[schemars(extend("default" = "require"))]
    pub headers: Option<Policy>,
    /// Object tags.
    #[schemars(extend("default" = "try"))]
    pub tags: Option<Policy>,
    /// The storage class.
    #[schemars(extend("default" = "try"))]
    pub storage_class: Option<Policy>,
    /// The encryption. `try` uses the default of the destination's bucket, and records a loss if
    /// that is weaker. `require` requests the kind and the key of the source.
    #[schemars(extend("default" = "try"))]
    pub encryption: Option<Policy>,
    /// Object Lock: retention and legal hold.
    #[schemars(extend("default" = "try"))]
    pub lock: Option<Policy>,
    /// Grants to others besides the owner. Takes one request per object.
    #[schemars(extend("default" = "skip"))]
    pub acl: Option<Policy>,
    /// Annotations. Takes one request per object in parts and one per annotation.
    #[schemars(extend("default" = "skip"))]
    pub annotations: Option<Policy>,
}

/// Attributes of the new objects that do not come from the source. They apply to local files too.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "set")]
pub struct SetSection {
    /// User metadata, added to what the copy keeps; replaces values of the same name. At most 2 KB
    /// in all.
    #[schemars(extend("examples" = [{"team": "lake"}]))]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Tags, added to what the copy keeps; replaces values of the same name. At most 10.
    #[schemars(extend("examples" = [{"stage": "replica"}]))]
    pub tags: Option<BTreeMap<String, String>>,
    /// The header of that name.
    #[schemars(extend("examples" = ["application/parquet"]))]
    pub content_type: Option<String>,
    /// The header of that name.
    #[schemars(extend("examples" = ["gzip"]))]
    pub content_encoding: Option<String>,
    /// The header of that name.
    #[schemars(extend("examples" = ["en"]))]
    pub content_language: Option<String>,
    /// The header of that name.
    #[schemars(extend("examples" = ["attachment"]))]
    pub content_disposition: Option<String>,
    /// The header of that name.
    #[schemars(extend("examples" = ["max-age=3600"]))]
    pub cache_control: Option<String>,
}

/// The location from which s3haul reads a customer key (SSE-C) when the run starts: exactly one of
/// `env` and `file`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "customer key")]
pub struct CustomerKeySection {
    /// The environment variable that holds the key: 32 bytes in base64.
    #[schemars(extend("examples" = ["LAKE_KEY"]))]
    pub env: Option<String>,
    /// The file that holds the key: 32 bytes, raw or in base64.
    #[schemars(extend("examples" = ["/run/secrets/lake-key"]))]
    pub file: Option<String>,
}

/// The versions of an object that are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VersionsName {
    /// The current version.
    Current,
    /// All versions and delete markers, oldest first.
    All,
}

/// A restore of archived objects.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "restore")]
pub struct RestoreSection {
    /// The tier, which decides speed and price.
    #[schemars(extend("default" = "standard"))]
    pub tier: Option<RestoreTier>,
    /// The days for which the restored object can be read. Objects in `INTELLIGENT_TIERING` leave
    /// the archive tier permanently.
    #[schemars(range(min = 1, max = 36_500), extend("default" = 7))]
    pub days: Option<u32>,
}

/// Ceilings that the run never exceeds.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "limits")]
pub struct LimitsSection {
    /// Requests per second, of all kinds together.
    #[schemars(range(min = 1, max = 4_294_967_295_u32), extend("examples" = [3000]))]
    pub requests_per_second: Option<u32>,
    /// Bytes copied per second.
    #[schemars(extend("examples" = ["40GiB"]))]
    pub bytes_per_second: Option<String>,
    /// Requests in flight: sent and not answered yet.
    #[schemars(range(min = 1, max = 4_294_967_295_u32), extend("examples" = [1024]))]
    pub in_flight: Option<u32>,
    /// The longest wait for a server that throttles or does not answer, before the run ends.
    /// Default: `15m`.
    #[schemars(extend("examples" = ["15m"]))]
    pub patience: Option<String>,
    /// Ends the run when more objects than this have failed: a number, a percentage of the objects
    /// that ended, or `none`. The default, `auto`, ends a run whose first 300 objects fail alike,
    /// and pauses one in which 300 objects in a row are refused alike.
    #[schemars(extend("examples" = ["5%"]))]
    pub max_failures: Option<String>,
}

/// The location of the report. Name one of the two.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "report")]
pub struct ReportSection {
    /// A file with one JSON document per object. Relative paths start at the working directory.
    #[schemars(extend("examples" = ["./report.jsonl"]))]
    pub json: Option<String>,
    /// A prefix at the default endpoint, `s3://bucket/prefix/`. Each run writes the lines of the
    /// report below it, as numbered objects in `report-TIME-RUN/`. They are never changed or
    /// removed: a lifecycle rule of the bucket expires them.
    #[schemars(extend("examples" = ["s3://lake-ops/s3haul/lake-replica/"]))]
    pub s3: Option<String>,
}
