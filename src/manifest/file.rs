//! [`ManifestFile`]: the YAML exactly as the user typed it.
//!
//! These types are the only description of the format. The JSON schema is generated from them, and
//! each manifest is checked against that schema, so an editor underlines exactly what the program
//! refuses. Editors show the doc comments of the fields.
//!
//! All fields are optional here, even the required ones. The shape check reports missing fields
//! with their position, and the rest is still loaded, so that one pass finds semantic mistakes too.
//! Values with their own syntax (sizes, times, locations, globs) stay text until the job is built.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::job::{
    Archived, CannedAcl, Compare, Empty, LayoutChoice, OnChange, OnMismatch, PartGoal, Policy,
    Preset, Prove, Provider, RestoreTier, Symlinks, Verify, When,
};
use crate::endpoint::Trust;
use crate::endpoint::capabilities::Overrides;

/// A job of s3haul. `${NAME}` in a value is replaced by the environment variable of that name;
/// `$${` is a literal `${`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "s3haul job manifest")]
pub struct ManifestFile {
    /// The version of the manifest format.
    #[schemars(required, extend("const" = 1, "examples" = [1]))]
    #[cfg_attr(
        not(feature = "internals"),
        allow(dead_code, reason = "checked by the schema")
    )]
    pub version: Option<u64>,
    /// The name of the job in reports, logs, and the journal. Default: the file name without its
    /// extension.
    #[schemars(regex(pattern = "^[a-z0-9._-]+$"), extend("examples" = ["lake-replica"]))]
    pub name: Option<String>,
    /// Servers and identities, by name. Amazon S3 with credentials from the environment needs no
    /// entry. A `from` or `to` without `endpoint` uses the entry called `default`.
    #[schemars(extend("examples" = [{"onprem": {"url": "https://s3.example.internal", "path_style": true}}]))]
    pub endpoints: Option<BTreeMap<String, EndpointSection>>,
    /// Settings for transfers that do not set their own.
    #[schemars(extend("examples" = [{"when": "missing"}]))]
    pub defaults: Option<DefaultsSection>,
    /// Pairs of locations to copy. Transfers start in this order, each as soon as the run has
    /// capacity for it. A transfer waits for an earlier transfer to end if it names that transfer
    /// in `after`, or if one of them writes where the other one reads or writes.
    #[schemars(required, length(min = 1), extend("examples" = [[{"from": {"s3": "s3://lake-prod/events/"}, "to": {"s3": "s3://lake-dr/events/"}}]]))]
    pub transfers: Option<Vec<TransferSection>>,
    /// Limits for the whole run. Without them, s3haul adapts its pace to what the servers accept.
    #[schemars(extend("examples" = [{"requests_per_second": 3000}]))]
    pub limits: Option<LimitsSection>,
    /// The location of the report: a file, or a prefix in S3.
    #[schemars(extend("examples" = [{"s3": "s3://lake-ops/s3haul/lake-replica/"}]))]
    pub report: Option<ReportSection>,
    /// The journal, from which an interrupted run resumes: a directory, `s3://bucket/prefix/` at
    /// the default endpoint, or `none`. Default: the directory `./.s3haul/NAME`, with the name of
    /// the job.
    #[schemars(extend("examples" = ["s3://lake-ops/s3haul/lake-replica/"]))]
    pub journal: Option<String>,
    /// Decides what happens if this job differs from the unfinished run in its journal. With
    /// `new-run`, an edit of a scheduled job takes effect without a flag. This setting has no
    /// effect without a journal.
    #[schemars(extend("default" = "fail"))]
    pub on_change: Option<OnChange>,
}

/// A server and the identity to use there. A manifest never contains secrets: use `profile`,
/// `assume_role`, or the `AWS_*` variables.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "endpoint")]
pub struct EndpointSection {
    /// The server's URL: scheme, host, and port, without a path. Default: Amazon S3.
    #[schemars(extend("examples" = ["https://s3.example.internal:9000"]))]
    pub url: Option<String>,
    /// The Region. Default: on Amazon S3, the bucket's own Region; on other servers, the Region of
    /// the profile or environment, or else `us-east-1`.
    #[schemars(extend("examples" = ["eu-west-1"]))]
    pub region: Option<String>,
    /// Puts the bucket name into the path instead of the host name. Default: `true`, except for
    /// Amazon S3.
    #[schemars(extend("examples" = [true]))]
    pub path_style: Option<bool>,
    /// Allows signed requests over plain HTTP to another machine. Anyone on the network path can
    /// read these requests. Customer keys (SSE-C) never travel over plain HTTP.
    #[schemars(extend("default" = false))]
    pub allow_http: Option<bool>,
    /// A profile in the shared AWS configuration files.
    #[schemars(extend("examples" = ["onprem"]))]
    pub profile: Option<String>,
    /// An IAM role to assume with the credentials of the profile or the environment.
    #[schemars(extend("examples" = [{"arn": "arn:aws:iam::111122223333:role/s3haul"}]))]
    pub assume_role: Option<AssumeRoleSection>,
    /// A file of PEM certificates. Connections trust these certificate authorities and no others.
    #[schemars(extend("examples" = ["/etc/ssl/corp-ca.pem"]))]
    pub ca_bundle: Option<String>,
    /// The HTTP proxy for this endpoint: its URL, or `none` to connect directly. Default: the proxy
    /// of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).
    #[schemars(extend("examples" = ["http://proxy.example.com:3128"]))]
    pub proxy: Option<String>,
    /// The kind of server, which decides what s3haul relies on.
    #[schemars(extend("default" = "auto"))]
    pub provider: Option<Provider>,
    /// The trust in the server's responses. With `nothing`, s3haul sends one or two more HEAD
    /// requests per object: it checks each object after writing it, and each pair of objects before
    /// it treats them as equal.
    #[schemars(extend("default" = "answers"))]
    pub trust: Option<Trust>,
    /// Capabilities of this server that differ from those of its provider. `s3haul check JOB
    /// --probe` measures them.
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
    /// The session name, as shown by CloudTrail.
    #[schemars(extend("examples" = ["s3haul-nightly"]))]
    pub session_name: Option<String>,
    /// The lifetime of the role's temporary credentials: `15m` to `12h`.
    #[schemars(extend("examples" = ["1h"]))]
    pub duration: Option<String>,
}

/// Settings for transfers that do not set their own.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "defaults")]
pub struct DefaultsSection {
    /// Decides which objects are copied if the destination already has an object at the key.
    #[schemars(extend("default" = "changed"))]
    pub when: Option<When>,
    /// The comparison that `when: changed` uses.
    #[schemars(extend("default" = "auto"))]
    pub compare: Option<Compare>,
    /// Also checks whether equal objects have the headers, metadata, tags, encryption, and ACL that
    /// the job sets. This takes one HEAD request per equal object, one `GetObjectTagging` if the
    /// job sets tags, and one `GetObjectAcl` if it sets an ACL. If this is off, the summary counts
    /// the objects whose attributes were not checked.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub compare_attributes: Option<bool>,
    /// Decides what happens if the source is empty, or if the patterns and filters match no object.
    #[schemars(extend("default" = "warn"))]
    pub empty: Option<Empty>,
    /// The attributes of the source object that a copy keeps.
    #[schemars(extend("examples" = [{"tags": "skip"}]))]
    pub preserve: Option<PreserveSection>,
    /// The rules for dividing objects into parts.
    #[schemars(extend("examples" = [{"size": "64MiB"}]))]
    pub parts: Option<PartsSection>,
    /// Decides what happens to archived objects, which cannot be read before they are restored.
    #[schemars(extend("default" = "fail"))]
    pub archived: Option<Archived>,
    /// The restore request that `archived: restore` sends.
    #[schemars(extend("examples" = [{"tier": "bulk", "days": 7}]))]
    pub restore: Option<RestoreSection>,
    /// The proof that a copy needs.
    #[schemars(extend("default" = "best"))]
    pub verify: Option<Verify>,
    /// The method of proof. `read` downloads objects that have no comparable checksum.
    #[schemars(extend("default" = "answers"))]
    pub prove: Option<Prove>,
    /// Decides what happens to a published copy that differs from its source.
    #[schemars(extend("default" = "keep"))]
    pub on_mismatch: Option<OnMismatch>,
}

/// A pair of locations. s3haul copies objects from `from` to `to`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "transfer")]
pub struct TransferSection {
    /// The name of the transfer, unique in the manifest. Default: `transfer-1`, `transfer-2`, … by
    /// position.
    #[schemars(regex(pattern = "^[a-z0-9._-]+$"), extend("examples" = ["events"]))]
    pub name: Option<String>,
    /// Names of earlier transfers that must end, with or without failures, before this transfer
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
    /// The comparison that `when: changed` uses.
    #[schemars(extend("default" = "auto"))]
    pub compare: Option<Compare>,
    /// Also checks whether equal objects have the headers, metadata, tags, encryption, and ACL that
    /// the job sets. This takes one HEAD request per equal object, one `GetObjectTagging` if the
    /// job sets tags, and one `GetObjectAcl` if it sets an ACL. If this is off, the summary counts
    /// the objects whose attributes were not checked.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub compare_attributes: Option<bool>,
    /// Decides what happens if the source is empty, or if the patterns and filters match no object.
    #[schemars(extend("default" = "warn"))]
    pub empty: Option<Empty>,
    /// Rules that map source keys to destination keys.
    #[schemars(extend("examples" = [{"strip_prefix": "raw/", "add_prefix": "2026/"}]))]
    pub keys: Option<KeysSection>,
    /// The rules for dividing objects into parts.
    #[schemars(extend("examples" = [{"size": "64MiB"}]))]
    pub parts: Option<PartsSection>,
    /// The attributes of the source object that a copy keeps.
    #[schemars(extend("examples" = [{"tags": "skip"}]))]
    pub preserve: Option<PreserveSection>,
    /// Decides what happens to archived objects, which cannot be read before they are restored.
    #[schemars(extend("default" = "fail"))]
    pub archived: Option<Archived>,
    /// The restore request that `archived: restore` sends.
    #[schemars(extend("examples" = [{"tier": "bulk", "days": 7}]))]
    pub restore: Option<RestoreSection>,
    /// The proof that a copy needs.
    #[schemars(extend("default" = "best"))]
    pub verify: Option<Verify>,
    /// The method of proof. `read` downloads objects that have no comparable checksum.
    #[schemars(extend("default" = "answers"))]
    pub prove: Option<Prove>,
    /// Decides what happens to a published copy that differs from its source.
    #[schemars(extend("default" = "keep"))]
    pub on_mismatch: Option<OnMismatch>,
    /// Attributes that the new objects get regardless of the source.
    #[schemars(extend("examples" = [{"cache_control": "max-age=3600"}]))]
    pub set: Option<SetSection>,
}

/// The source: exactly one of `s3` and `files`. The conditions select objects below a prefix or a
/// directory. An object is copied if it meets all of them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "from")]
pub struct FromSection {
    /// `s3://bucket/prefix/`, with a trailing slash, for everything below a prefix; `s3://bucket/`
    /// for the whole bucket; `s3://bucket/key` for one object.
    #[schemars(extend("examples" = ["s3://lake-prod/events/"]))]
    pub s3: Option<String>,
    /// The name of an entry in `endpoints`.
    #[schemars(extend("default" = "default"))]
    pub endpoint: Option<String>,
    /// The version ID, if `s3` names one object. Default: the current version.
    pub version: Option<String>,
    /// The ID of the account (12 digits) that must own the bucket. S3 refuses requests if another
    /// account owns the bucket.
    #[schemars(extend("examples" = ["111122223333"]))]
    pub expected_owner: Option<String>,
    /// Agrees to pay for requests to a Requester Pays bucket.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub requester_pays: Option<bool>,
    /// The versions to copy. `all` requires versioning on the destination bucket.
    #[schemars(extend("default" = "current"))]
    pub versions: Option<VersionsName>,
    /// Copies the source as it was at this time: RFC 3339 with a time zone, a date (midnight UTC),
    /// or an age that counts back from the start of the run. Versioning must have been on since
    /// then.
    #[schemars(extend("examples" = ["2026-01-01T00:00:00Z", "24h"]))]
    pub as_of: Option<String>,
    /// The customer key (SSE-C) that decrypts the objects.
    #[schemars(extend("examples" = [{"env": "LAKE_KEY"}]))]
    pub customer_key: Option<CustomerKeySection>,
    /// A local file, or a directory with everything below it. Relative paths start from the working
    /// directory.
    #[schemars(extend("examples" = ["./exports"]))]
    pub files: Option<String>,
    /// Decides what happens to symbolic links below the directory.
    #[schemars(extend("default" = "skip"))]
    pub symlinks: Option<Symlinks>,
    /// Glob patterns for the key after the prefix. At least one must match. `*` does not match
    /// slashes, `**` does. Default: every key.
    #[schemars(extend("examples" = [["**/*.parquet"]]))]
    pub include: Option<Vec<String>>,
    /// Glob patterns for the key after the prefix. None may match. `exclude` takes precedence over
    /// `include`.
    #[schemars(extend("examples" = [["tmp/**"]]))]
    pub exclude: Option<Vec<String>>,
    /// Selects objects larger than this. `0B` skips empty objects.
    #[schemars(extend("examples" = ["0B"]))]
    pub larger_than: Option<String>,
    /// Selects objects smaller than this.
    #[schemars(extend("examples" = ["1GiB"]))]
    pub smaller_than: Option<String>,
    /// Selects objects modified at this time or later: RFC 3339 with a time zone, a date (midnight
    /// UTC), or an age such as `24h`, `7d`, or `2w` that counts back from the start of the run.
    #[schemars(extend("examples" = ["2026-01-01T00:00:00Z", "2026-01-01", "24h"]))]
    pub modified_after: Option<String>,
    /// Selects objects modified before this time, in the same forms as `modified_after`.
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
    /// `s3://bucket/prefix/`, with a trailing slash, or `s3://bucket/`. If the source is one object
    /// or file, also the exact new key, `s3://bucket/key`.
    #[schemars(required, extend("examples" = ["s3://lake-dr/events/"]))]
    pub s3: Option<String>,
    /// The name of an entry in `endpoints`. Its credentials sign the copy requests, so they need
    /// permission to read the source.
    #[schemars(extend("default" = "default"))]
    pub endpoint: Option<String>,
    /// The ID of the account (12 digits) that must own the bucket. S3 refuses requests if another
    /// account owns the bucket.
    #[schemars(extend("examples" = ["444455556666"]))]
    pub expected_owner: Option<String>,
    /// Agrees to pay for requests to a Requester Pays bucket.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub requester_pays: Option<bool>,
    /// The storage class of the new objects. Default: the class of the source object.
    #[schemars(extend("examples" = ["INTELLIGENT_TIERING"]))]
    pub storage_class: Option<String>,
    /// The encryption of the new objects. Default: the bucket's default encryption.
    #[schemars(extend("examples" = ["s3"]))]
    pub encryption: Option<EncryptionSection>,
    /// The canned ACL of the new objects, for buckets that require one. It cannot be combined with
    /// `preserve.acl`. Default: none.
    #[schemars(extend("examples" = ["bucket-owner-full-control"]))]
    pub acl: Option<CannedAcl>,
    /// The customer key (SSE-C) that encrypts the new objects. It cannot be combined with
    /// `encryption`.
    #[schemars(extend("examples" = [{"file": "/run/secrets/lake-key"}]))]
    pub customer_key: Option<CustomerKeySection>,
}

// `untagged` is safe here, because the shape check has already selected a variant by the kind of
// the YAML node.
/// The encryption of new objects: `s3`, `kms`, or `dsse`, or a mapping that names a key.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EncryptionSection {
    /// An encryption whose key S3 or AWS manages.
    Named(EncryptionName),
    /// An encryption with a named key.
    Keyed(EncryptionKey),
}

/// An encryption whose key S3 or AWS manages.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncryptionName {
    /// SSE-S3: keys that S3 manages (`AES256`).
    S3,
    /// SSE-KMS with the account's AWS managed key (`aws:kms`).
    Kms,
    /// DSSE-KMS, which encrypts twice, with the account's AWS managed key (`aws:kms:dsse`).
    Dsse,
}

/// A key in KMS: exactly one of `kms` and `dsse`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "encryption")]
pub struct EncryptionKey {
    /// The ARN of the key for SSE-KMS (`aws:kms`).
    #[schemars(extend("examples" = ["arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"]))]
    pub kms: Option<String>,
    /// The ARN of the key for DSSE-KMS (`aws:kms:dsse`).
    #[schemars(extend("examples" = ["arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"]))]
    pub dsse: Option<String>,
    /// Uses an S3 Bucket Key, which reduces requests to KMS. Cannot be combined with `dsse`.
    /// Default: the bucket's setting.
    #[schemars(extend("examples" = [true]))]
    pub bucket_key: Option<bool>,
}

/// Maps the key after the source prefix to the key after the destination prefix: first
/// `strip_prefix`, then `rename`, then `add_prefix`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "keys")]
pub struct KeysSection {
    /// Text to remove from the start of the key. An object whose key does not start with this text
    /// fails.
    #[schemars(extend("examples" = ["raw/"]))]
    pub strip_prefix: Option<String>,
    /// Text to prepend to the key. It must include any separating slash.
    #[schemars(extend("examples" = ["2026/"]))]
    pub add_prefix: Option<String>,
    /// A template for the new key, with `{key}`, `{dir}` (with its slash), `{name}`, `{stem}`,
    /// `{ext}` (with its dot), and `{size}`; `{{` and `}}` are literal braces.
    #[schemars(extend("examples" = ["{dir}{stem}-v1{ext}"]))]
    pub rename: Option<String>,
}

/// The rules for dividing objects into parts.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "parts")]
pub struct PartsSection {
    /// The size of a part: `auto`, or `5MiB` to `5GiB`. An object that would need more than 10,000
    /// parts gets larger parts.
    #[schemars(extend("default" = "auto", "examples" = ["64MiB"]))]
    pub size: Option<String>,
    /// Objects larger than this are copied in parts: `5MiB` to `5GiB`.
    #[schemars(extend("default" = "256MiB", "examples" = ["256MiB"]))]
    pub threshold: Option<String>,
    /// The goal of `size: auto`.
    #[schemars(extend("default" = "balanced", "examples" = ["fastest"]))]
    pub goal: Option<PartGoal>,
    /// The part boundaries of a copy. `source` uses those of the source, which preserves multipart
    /// `ETag`s and composite checksums.
    #[schemars(extend("default" = "auto", "examples" = ["source"]))]
    pub layout: Option<LayoutChoice>,
}

// `untagged` is safe here for the same reason as for `EncryptionSection`.
/// The attributes that a copy keeps: a preset, or a policy for each attribute.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PreserveSection {
    /// A preset, which sets the policies of all attributes.
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
    /// The encryption. `try` uses the default encryption of the destination bucket, and records a
    /// loss if that is weaker than the source's. `require` requests the same kind of encryption and
    /// the same key as the source.
    #[schemars(extend("default" = "try"))]
    pub encryption: Option<Policy>,
    /// Object Lock: retention and legal hold.
    #[schemars(extend("default" = "try"))]
    pub lock: Option<Policy>,
    /// ACL grants to anyone but the owner. Takes one request per object.
    #[schemars(extend("default" = "skip"))]
    pub acl: Option<Policy>,
    /// Annotations. Takes one request per object copied in parts, and one per annotation.
    #[schemars(extend("default" = "skip"))]
    pub annotations: Option<Policy>,
}

/// Attributes that the new objects get regardless of the source. They also apply to uploads of
/// local files.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "set")]
pub struct SetSection {
    /// User metadata to add to what the copy keeps; replaces values of the same name. At most 2 KB
    /// in total.
    #[schemars(extend("examples" = [{"team": "lake"}]))]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Tags to add to those that the copy keeps; replaces values of the same key. At most 10.
    #[schemars(extend("examples" = [{"stage": "replica"}]))]
    pub tags: Option<BTreeMap<String, String>>,
    /// The header of the same name.
    #[schemars(extend("examples" = ["application/parquet"]))]
    pub content_type: Option<String>,
    /// The header of the same name.
    #[schemars(extend("examples" = ["gzip"]))]
    pub content_encoding: Option<String>,
    /// The header of the same name.
    #[schemars(extend("examples" = ["en"]))]
    pub content_language: Option<String>,
    /// The header of the same name.
    #[schemars(extend("examples" = ["attachment"]))]
    pub content_disposition: Option<String>,
    /// The header of the same name.
    #[schemars(extend("examples" = ["max-age=3600"]))]
    pub cache_control: Option<String>,
}

/// The source from which s3haul reads a customer key (SSE-C) when the run starts: exactly one of
/// `env` and `file`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "customer key")]
pub struct CustomerKeySection {
    /// The environment variable that contains the key: 32 bytes, base64-encoded.
    #[schemars(extend("examples" = ["LAKE_KEY"]))]
    pub env: Option<String>,
    /// The file that contains the key: 32 bytes, raw or base64-encoded.
    #[schemars(extend("examples" = ["/run/secrets/lake-key"]))]
    pub file: Option<String>,
}

/// The versions of each object that are copied.
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
    /// The number of days for which the restored object can be read. Has no effect on objects in
    /// `INTELLIGENT_TIERING`: a restore moves them out of the archive tier and makes no temporary
    /// copy.
    #[schemars(range(min = 1, max = 36_500), extend("default" = 7))]
    pub days: Option<u32>,
}

/// Limits for the whole run. Only requests that probe a silent server may exceed
/// `bytes_per_second`; later requests make up for their bytes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "limits")]
pub struct LimitsSection {
    /// The maximum number of requests per second, of all kinds together.
    #[schemars(range(min = 1, max = 4_294_967_295_u32), extend("examples" = [3000]))]
    pub requests_per_second: Option<u32>,
    /// The maximum number of bytes copied per second.
    #[schemars(extend("examples" = ["40GiB"]))]
    pub bytes_per_second: Option<String>,
    /// The maximum number of requests in flight, which are sent but not answered yet.
    #[schemars(range(min = 1, max = 4_294_967_295_u32), extend("examples" = [1024]))]
    pub in_flight: Option<u32>,
    /// The longest time to wait for a server that throttles or does not answer. After that, the
    /// affected object fails; if no request succeeds, the run ends. Default: `15m`.
    #[schemars(extend("examples" = ["15m"]))]
    pub patience: Option<String>,
    /// Ends the run when more objects than this have failed: a number, a percentage of the finished
    /// objects, or `none`. The default, `auto`, ends a run whose first 300 objects all fail for the
    /// same reason, and pauses a run in which 300 objects in a row are refused for the same reason.
    #[schemars(extend("examples" = ["5%"]))]
    pub max_failures: Option<String>,
}

/// The location of the report: one of `json` and `s3`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "report")]
pub struct ReportSection {
    /// A file with one line of JSON per object. Relative paths start from the working directory.
    #[schemars(extend("examples" = ["./report.jsonl"]))]
    pub json: Option<String>,
    /// A prefix at the default endpoint, `s3://bucket/prefix/`. Each run writes its report below
    /// the prefix, as numbered objects in `report-TIME-RUN/`. s3haul never changes or removes these
    /// objects; use a lifecycle rule to expire them.
    #[schemars(extend("examples" = ["s3://lake-ops/s3haul/lake-replica/"]))]
    pub s3: Option<String>,
}
