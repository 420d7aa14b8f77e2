//! [`ManifestFile`]: the YAML exactly as it is typed.
//!
//! These types are the one description of the format. The JSON schema comes from them, and the schema is what a
//! manifest's tree is checked against, so what an editor underlines and what the program refuses can't drift
//! apart. The texts below are what an editor shows on hover.
//!
//! Every field is optional here, also the required ones: the check of the shape reports what is missing with its
//! place, and what is left still loads, so that one pass finds the mistakes of meaning too. Values with a syntax
//! of their own (sizes, times, locations, globs) stay text until the job is built.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::job::{
    Archived, CannedAcl, Compare, Empty, LayoutChoice, OnMismatch, PartGoal, Policy, Preset, Prove, Provider,
    RestoreTier, Symlinks, Verify, When,
};
use crate::endpoint::capabilities::Overrides;

/// A job of s3haul: what is copied from where to where. Values may use ${NAME} from the environment; $${ is a
/// literal ${.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "s3haul job manifest")]
pub struct ManifestFile {
    /// The version of this format.
    #[schemars(required, extend("const" = 1, "examples" = [1]))]
    pub version: Option<u64>,
    /// Names the run in reports and logs. Default: the file's name without its extension.
    #[schemars(regex(pattern = "^[a-z0-9._-]+$"), extend("examples" = ["lake-replica"]))]
    pub name: Option<String>,
    /// Servers and identities by name. Needed only when plain AWS with the ambient credentials is not enough;
    /// the name `default` is the endpoint of every `from` and `to` that names none.
    #[schemars(extend("examples" = [{"onprem": {"url": "https://s3.example.internal", "path_style": true}}]))]
    pub endpoints: Option<BTreeMap<String, EndpointSection>>,
    /// What holds for each transfer that does not say otherwise.
    #[schemars(extend("examples" = [{"when": "missing"}]))]
    pub defaults: Option<DefaultsSection>,
    /// What is copied. Transfers begin in this order, each as soon as requests in flight are to spare; one that reads or
    /// writes where an earlier one writes, or names it in `after`, waits for its end.
    #[schemars(required, length(min = 1), extend("examples" = [[{"from": {"s3": "s3://lake-prod/events/"}, "to": {"s3": "s3://lake-dr/events/"}}]]))]
    pub transfers: Option<Vec<TransferSection>>,
    /// Ceilings for the whole run. Without them the pace adapts to what S3 allows.
    #[schemars(extend("examples" = [{"requests_per_second": 3000}]))]
    pub limits: Option<LimitsSection>,
    /// Files that a report is written to.
    #[schemars(extend("examples" = [{"json": "./report.jsonl"}]))]
    pub report: Option<ReportSection>,
    /// Where a run keeps its journal, by which it goes on after a stop: a directory, `s3://bucket/prefix/` at the
    /// default endpoint, or `none`. Default: ./.s3haul/ and the job's name.
    #[schemars(extend("examples" = ["s3://lake-ops/s3haul/lake-replica/"]))]
    pub journal: Option<String>,
}

/// A server that speaks S3, and who we are there. Secrets never stand in a manifest: use `profile`, `assume_role`
/// or the AWS_* variables.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "endpoint")]
pub struct EndpointSection {
    /// Scheme, host and perhaps port, without a path. Default: AWS.
    #[schemars(extend("examples" = ["https://s3.example.internal:9000"]))]
    pub url: Option<String>,
    /// Default: what the environment says, us-east-1 at the last.
    #[schemars(extend("examples" = ["eu-west-1"]))]
    pub region: Option<String>,
    /// Put the bucket into the path instead of the host name. Most servers other than AWS need it.
    #[schemars(extend("examples" = [true]))]
    pub path_style: Option<bool>,
    /// Send signed requests over plain HTTP to another machine. Everybody on the way can read them. Customer keys
    /// (SSE-C) are never sent so. Default: false.
    #[schemars(extend("default" = false))]
    pub allow_http: Option<bool>,
    /// A profile of the AWS configuration files.
    #[schemars(extend("examples" = ["onprem"]))]
    pub profile: Option<String>,
    /// A role to take on with the profile's or the ambient credentials.
    #[schemars(extend("examples" = [{"arn": "arn:aws:iam::111122223333:role/s3haul"}]))]
    pub assume_role: Option<AssumeRoleSection>,
    /// A file of PEM certificates. Connections trust these and no others.
    #[schemars(extend("examples" = ["/etc/ssl/corp-ca.pem"]))]
    pub ca_bundle: Option<String>,
    /// The HTTP proxy for this endpoint: its URL, or `none` to connect directly. Default: what the
    /// environment says (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).
    #[schemars(extend("examples" = ["http://proxy.example.com:3128"]))]
    pub proxy: Option<String>,
    /// Whose server it is, which decides what can be expected of it.
    #[schemars(extend("default" = "auto"))]
    pub provider: Option<Provider>,
    /// What holds for this endpoint whatever its provider says; `s3haul check JOB --probe` measures it.
    #[schemars(extend("examples" = [{"copy_conditions": true}]))]
    pub capabilities: Option<Overrides<String>>,
}

/// An IAM role to take on.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "role")]
pub struct AssumeRoleSection {
    /// The role's ARN.
    #[schemars(required, extend("examples" = ["arn:aws:iam::111122223333:role/s3haul"]))]
    pub arn: Option<String>,
    /// The shared word that the role's trust policy may ask for.
    #[schemars(extend("examples" = ["x1"]))]
    pub external_id: Option<String>,
    /// How the session is named in `CloudTrail`.
    #[schemars(extend("examples" = ["s3haul-nightly"]))]
    pub session_name: Option<String>,
    /// How long one set of credentials lasts: 15m to 12h.
    #[schemars(extend("examples" = ["1h"]))]
    pub duration: Option<String>,
}

/// What holds for each transfer that does not say otherwise.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "defaults")]
pub struct DefaultsSection {
    /// Which objects are written when the destination has something under the key already.
    #[schemars(extend("default" = "changed"))]
    pub when: Option<When>,
    /// What `when: changed` compares.
    #[schemars(extend("default" = "auto"))]
    pub compare: Option<Compare>,
    /// Also compares the headers, metadata, tags, and encryption that the job sets with those of equal objects: one HEAD
    /// request for each, and one `GetObjectTagging` where tags are set. Without it, the summary counts what was not checked.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub compare_attributes: Option<bool>,
    /// The consequence of a source, pattern, or filter that matches nothing: `fail` (exit code 1), `warn`, or `ok`.
    #[schemars(extend("default" = "warn"))]
    pub empty: Option<Empty>,
    /// What of a source object goes along with its bytes.
    #[schemars(extend("examples" = [{"tags": "skip"}]))]
    pub preserve: Option<PreserveSection>,
    /// How objects are cut into parts.
    #[schemars(extend("examples" = [{"size": "64MiB"}]))]
    pub parts: Option<PartsSection>,
    /// What becomes of objects that can't be read before they are restored from an archive.
    #[schemars(extend("default" = "fail"))]
    pub archived: Option<Archived>,
    /// How archived objects are restored, with `archived: restore`.
    #[schemars(extend("examples" = [{"tier": "bulk", "days": 7}]))]
    pub restore: Option<RestoreSection>,
    /// What counts as proven equal.
    #[schemars(extend("default" = "best"))]
    pub verify: Option<Verify>,
    /// What may be done to prove it. `read` costs a download of what no checksum proves.
    #[schemars(extend("default" = "answers"))]
    pub prove: Option<Prove>,
    /// What becomes of a copy that was published and is not equal to its source.
    #[schemars(extend("default" = "keep"))]
    pub on_mismatch: Option<OnMismatch>,
}

/// One from → to.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "transfer")]
pub struct TransferSection {
    /// Unique in the manifest. Default: transfer-1, transfer-2, … by position.
    #[schemars(regex(pattern = "^[a-z0-9._-]+$"), extend("examples" = ["events"]))]
    pub name: Option<String>,
    /// Names of transfers further up that must have ended, for better or worse, before this one begins.
    #[schemars(extend("examples" = [["events"]]))]
    pub after: Option<Vec<String>>,
    /// What is read: `s3:` or `files:`, and which of the objects there.
    #[schemars(required, extend("examples" = [{"s3": "s3://lake-prod/events/"}]))]
    pub from: Option<FromSection>,
    /// Where it is written.
    #[schemars(required, extend("examples" = [{"s3": "s3://lake-dr/events/"}]))]
    pub to: Option<ToSection>,
    /// Which objects are written when the destination has something under the key already.
    #[schemars(extend("default" = "changed"))]
    pub when: Option<When>,
    /// What `when: changed` compares.
    #[schemars(extend("default" = "auto"))]
    pub compare: Option<Compare>,
    /// Also compares the headers, metadata, tags, and encryption that the job sets with those of equal objects: one HEAD
    /// request for each, and one `GetObjectTagging` where tags are set. Without it, the summary counts what was not checked.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub compare_attributes: Option<bool>,
    /// The consequence of a source, pattern, or filter that matches nothing: `fail` (exit code 1), `warn`, or `ok`.
    #[schemars(extend("default" = "warn"))]
    pub empty: Option<Empty>,
    /// How keys change on the way.
    #[schemars(extend("examples" = [{"strip_prefix": "raw/", "add_prefix": "2026/"}]))]
    pub keys: Option<KeysSection>,
    /// How objects are cut into parts.
    #[schemars(extend("examples" = [{"size": "64MiB"}]))]
    pub parts: Option<PartsSection>,
    /// What of a source object goes along with its bytes.
    #[schemars(extend("examples" = [{"tags": "skip"}]))]
    pub preserve: Option<PreserveSection>,
    /// What becomes of objects that can't be read before they are restored from an archive.
    #[schemars(extend("default" = "fail"))]
    pub archived: Option<Archived>,
    /// How archived objects are restored, with `archived: restore`.
    #[schemars(extend("examples" = [{"tier": "bulk", "days": 7}]))]
    pub restore: Option<RestoreSection>,
    /// What counts as proven equal.
    #[schemars(extend("default" = "best"))]
    pub verify: Option<Verify>,
    /// What may be done to prove it. `read` costs a download of what no checksum proves.
    #[schemars(extend("default" = "answers"))]
    pub prove: Option<Prove>,
    /// What becomes of a copy that was published and is not equal to its source.
    #[schemars(extend("default" = "keep"))]
    pub on_mismatch: Option<OnMismatch>,
    /// What the new objects get whatever the source has.
    #[schemars(extend("examples" = [{"cache_control": "max-age=3600"}]))]
    pub set: Option<SetSection>,
}

/// What is read: exactly one of `s3` and `files`. The conditions below choose among the objects below a prefix or
/// directory; all must hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "from")]
pub struct FromSection {
    /// `s3://bucket/prefix/` with a slash at the end for everything below it, `s3://bucket/` for the whole bucket,
    /// or `s3://bucket/key` for one object.
    #[schemars(extend("examples" = ["s3://lake-prod/events/"]))]
    pub s3: Option<String>,
    /// A name under `endpoints`.
    #[schemars(extend("default" = "default"))]
    pub endpoint: Option<String>,
    /// This version of the one object instead of the current one.
    pub version: Option<String>,
    /// The account that must own the bucket, 12 digits; requests to anybody else's are refused.
    #[schemars(extend("examples" = ["111122223333"]))]
    pub expected_owner: Option<String>,
    /// Requests to the bucket are paid by us, as its owner demands.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub requester_pays: Option<bool>,
    /// `all` copies every version and delete marker of each key, oldest first, into a bucket with versions.
    #[schemars(extend("default" = "current"))]
    pub versions: Option<VersionsName>,
    /// Copies what a read would have found at this time: RFC 3339 with a time zone, a date (midnight UTC), or an age
    /// before the start of the run. The bucket must have kept versions since.
    #[schemars(extend("examples" = ["2026-01-01T00:00:00Z", "24h"]))]
    pub as_of: Option<String>,
    /// The customer key (SSE-C) that the objects were encrypted with.
    #[schemars(extend("examples" = [{"env": "LAKE_KEY"}]))]
    pub customer_key: Option<CustomerKeySection>,
    /// A local file, or a directory with everything below it. Relative to the working directory.
    #[schemars(extend("examples" = ["./exports"]))]
    pub files: Option<String>,
    /// What symbolic links below the directory mean.
    #[schemars(extend("default" = "skip"))]
    pub symlinks: Option<Symlinks>,
    /// Globs over the key behind the prefix; at least one must match. `*` stays inside one directory, `**`
    /// crosses slashes. Default: all.
    #[schemars(extend("examples" = [["**/*.parquet"]]))]
    pub include: Option<Vec<String>>,
    /// Globs over the key behind the prefix; none may match. Wins over `include`.
    #[schemars(extend("examples" = [["tmp/**"]]))]
    pub exclude: Option<Vec<String>>,
    /// Only objects with more bytes than this; 0B leaves empty ones out.
    #[schemars(extend("examples" = ["0B"]))]
    pub larger_than: Option<String>,
    /// Only objects with fewer bytes than this.
    #[schemars(extend("examples" = ["1GiB"]))]
    pub smaller_than: Option<String>,
    /// Only objects modified at this time or later: RFC 3339 with a time zone, a date (midnight UTC), or an age before
    /// the start of the run such as 24h, 7d, or 2w.
    #[schemars(extend("examples" = ["2026-01-01T00:00:00Z", "2026-01-01", "24h"]))]
    pub modified_after: Option<String>,
    /// Only objects modified before this time, written like `modified_after`.
    #[schemars(extend("examples" = ["2026-02-01T00:00:00Z", "2026-02-01", "7d"]))]
    pub modified_before: Option<String>,
    /// Only objects in one of these storage classes.
    #[schemars(extend("examples" = [["STANDARD", "STANDARD_IA"]]))]
    pub storage_classes: Option<Vec<String>>,
}

/// Where it is written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "to")]
pub struct ToSection {
    /// `s3://bucket/prefix/` with a slash at the end, or `s3://bucket/`; for one object also its exact key.
    #[schemars(required, extend("examples" = ["s3://lake-dr/events/"]))]
    pub s3: Option<String>,
    /// A name under `endpoints`. Its credentials sign the copies, so they must be allowed to read the source.
    #[schemars(extend("default" = "default"))]
    pub endpoint: Option<String>,
    /// The account that must own the bucket, 12 digits; requests to anybody else's are refused.
    #[schemars(extend("examples" = ["444455556666"]))]
    pub expected_owner: Option<String>,
    /// Requests to the bucket are paid by us, as its owner demands.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub requester_pays: Option<bool>,
    /// The storage class of the new objects. Default: that of the source.
    #[schemars(extend("examples" = ["INTELLIGENT_TIERING"]))]
    pub storage_class: Option<String>,
    /// How S3 encrypts the new objects. Default: as the bucket says.
    #[schemars(extend("examples" = ["s3"]))]
    pub encryption: Option<EncryptionSection>,
    /// The canned ACL of the new objects, for buckets that demand one. Instead of `preserve.acl`. Default: none.
    #[schemars(extend("examples" = ["bucket-owner-full-control"]))]
    pub acl: Option<CannedAcl>,
    /// The customer key (SSE-C) to encrypt the new objects with, instead of `encryption`.
    #[schemars(extend("examples" = [{"file": "/run/secrets/lake-key"}]))]
    pub customer_key: Option<CustomerKeySection>,
}

// Untagged is safe here: the two shapes are told apart by the kind of the YAML node before this is loaded.
/// `s3`, `kms` or `dsse` with S3's or the account's own key, or a mapping that names the key.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EncryptionSection {
    /// Without a key of one's own.
    Named(EncryptionName),
    /// With a key.
    Keyed(EncryptionKey),
}

/// How S3 encrypts, with a key that is not ours.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncryptionName {
    /// Keys that S3 holds (AES256).
    S3,
    /// The account's AWS managed key (aws:kms).
    Kms,
    /// Two layers with the account's AWS managed key (aws:kms:dsse).
    Dsse,
}

/// A key in KMS: exactly one of `kms` and `dsse`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "encryption")]
pub struct EncryptionKey {
    /// The key's ARN (aws:kms).
    #[schemars(extend("examples" = ["arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"]))]
    pub kms: Option<String>,
    /// The key's ARN, for two layers of encryption (aws:kms:dsse).
    #[schemars(extend("examples" = ["arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"]))]
    pub dsse: Option<String>,
    /// Fewer KMS calls through a key per bucket. Not with `dsse`. Default: as the bucket says.
    #[schemars(extend("examples" = [true]))]
    pub bucket_key: Option<bool>,
}

/// How the key behind the source's prefix becomes the key behind the destination's: `strip_prefix`, then
/// `rename`, then `add_prefix`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "keys")]
pub struct KeysSection {
    /// Taken off the front; an object whose key does not begin with it fails.
    #[schemars(extend("examples" = ["raw/"]))]
    pub strip_prefix: Option<String>,
    /// Put in front, as it is.
    #[schemars(extend("examples" = ["2026/"]))]
    pub add_prefix: Option<String>,
    /// A new name with {key}, {dir} (with its slash), {name}, {stem}, {ext} (with its dot) and {size}; {{ and }}
    /// are braces.
    #[schemars(extend("examples" = ["{dir}{stem}-v1{ext}"]))]
    pub rename: Option<String>,
}

/// How objects are cut into parts.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "parts")]
pub struct PartsSection {
    /// `auto`, or 5MiB to 5GiB; more where 10,000 parts would not be enough.
    #[schemars(extend("default" = "auto", "examples" = ["64MiB"]))]
    pub size: Option<String>,
    /// Larger objects are copied in parts; 5MiB to 5GiB.
    #[schemars(extend("default" = "256MiB", "examples" = ["256MiB"]))]
    pub threshold: Option<String>,
    /// What `auto` aims at: `fastest`, `cheapest` (the fewest requests) or `balanced`.
    #[schemars(extend("default" = "balanced", "examples" = ["fastest"]))]
    pub goal: Option<PartGoal>,
    /// Whose part boundaries a copy has: `source` keeps multipart `ETags` and composite checksums equal.
    #[schemars(extend("default" = "auto", "examples" = ["source"]))]
    pub layout: Option<LayoutChoice>,
}

// Untagged is safe here as it is for `encryption`: a YAML mapping or a YAML scalar.
/// What of a source object goes along with its bytes: a preset, or a policy for each attribute.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PreserveSection {
    /// A preset alone.
    Preset(Preset),
    /// A policy for each attribute.
    Each(PreserveFields),
}

/// A policy for each attribute. `require` fails an object that can't have it, `try` records the loss, `skip` leaves it
/// behind, `replace` leaves it behind in favour of `set:` or `to:`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "preserve")]
pub struct PreserveFields {
    /// Where the attributes begin that are not named here.
    #[schemars(extend("default" = "default"))]
    pub preset: Option<Preset>,
    /// User metadata.
    #[schemars(extend("default" = "require"))]
    pub metadata: Option<Policy>,
    /// Content-Type, -Encoding, -Language, -Disposition, Cache-Control, Expires and the website redirect.
    #[schemars(extend("default" = "require"))]
    pub headers: Option<Policy>,
    /// Object tags.
    #[schemars(extend("default" = "try"))]
    pub tags: Option<Policy>,
    /// The storage class.
    #[schemars(extend("default" = "try"))]
    pub storage_class: Option<Policy>,
    /// How S3 encrypts the object. `try` takes what the destination's bucket does and records it when that is weaker;
    /// `require` asks for the source's type and key.
    #[schemars(extend("default" = "try"))]
    pub encryption: Option<Policy>,
    /// Object Lock: retention and legal hold.
    #[schemars(extend("default" = "try"))]
    pub lock: Option<Policy>,
    /// Grants to others than the owner. Costs a request per object.
    #[schemars(extend("default" = "skip"))]
    pub acl: Option<Policy>,
    /// Annotations. Costs a request per large object, and per annotation.
    #[schemars(extend("default" = "skip"))]
    pub annotations: Option<Policy>,
}

/// What the new objects get whatever the source has. Also for local files.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "set")]
pub struct SetSection {
    /// User metadata, merged over what is kept; at most 2 KB in all.
    #[schemars(extend("examples" = [{"team": "lake"}]))]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Tags, merged over what is kept; at most 10.
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

/// Where a customer key (SSE-C) is read from when the run starts: exactly one of `env` and `file`.
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

/// Which versions of an object are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VersionsName {
    /// The current one.
    Current,
    /// All of them and the delete markers, oldest first.
    All,
}

/// How archived objects are restored.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "restore")]
pub struct RestoreSection {
    /// How fast, and at what price.
    #[schemars(extend("default" = "standard"))]
    pub tier: Option<RestoreTier>,
    /// How long the restored bytes can be read, in days; not for `INTELLIGENT_TIERING`, which moves up for good.
    #[schemars(range(min = 1, max = 36_500), extend("default" = 7))]
    pub days: Option<u32>,
}

/// Ceilings that the run never exceeds.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "limits")]
pub struct LimitsSection {
    /// Requests per second, all kinds together.
    #[schemars(range(min = 1, max = 4_294_967_295_u32), extend("examples" = [3000]))]
    pub requests_per_second: Option<u32>,
    /// Bytes copied per second.
    #[schemars(extend("examples" = ["40GiB"]))]
    pub bytes_per_second: Option<String>,
    /// Requests without an answer at any moment.
    #[schemars(range(min = 1, max = 4_294_967_295_u32), extend("examples" = [1024]))]
    pub in_flight: Option<u32>,
    /// How long a server that throttles or does not answer is waited for before the run ends. Default: 15m.
    #[schemars(extend("examples" = ["15m"]))]
    pub patience: Option<String>,
    /// End the run when more objects than this have failed: a number, a percentage of those that ended, or `none`. The default,
    /// `auto`, ends a run whose first few hundred objects all fail for the same reason.
    #[schemars(extend("examples" = ["5%"]))]
    pub max_failures: Option<String>,
}

/// Files that a report is written to.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "report")]
pub struct ReportSection {
    /// One JSON value per object. Relative to the working directory.
    #[schemars(extend("examples" = ["./report.jsonl"]))]
    pub json: Option<String>,
}
