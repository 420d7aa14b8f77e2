//! Names of objects in S3 and of local files, validated once and then trusted.
//!
//! S3 treats keys as bytes, s3haul as UTF-8. Keys are cheap to clone, because every step, part, and
//! event contains one. [`copy_source`] is the only place that encodes the `x-amz-copy-source`
//! header: the SDK sends the value as it is, and an unencoded `+`, `?`, or `%` names another
//! object.

mod spelling;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use thiserror::Error;

pub use self::spelling::{Suggestion, bare, suggestion};

/// S3's limit on a key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;

/// Everything except the characters that S3 never decodes: letters, digits, `-`, `_`, `.`, `~`, and
/// the slash.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

/// The name of a bucket, which may belong to another tenant (`tenant:bucket`), or the alias or ARN
/// of an access point.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(Arc<str>);

/// The key of an object: 1 to 1,024 bytes of UTF-8. An empty key stands only for "the whole bucket"
/// in an [`S3Uri`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Arc<str>);

/// `s3://bucket/key`: an object, or a prefix if the key is empty or ends in a slash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct S3Uri {
    /// The name of the bucket.
    pub bucket: BucketName,
    /// The key or prefix; may be empty.
    pub key: ObjectKey,
}

/// The reason why a bucket, key, or URI is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum LocationError {
    /// The text is not `s3://…`.
    #[error("`{0}` is not an S3 location: {remedy}", remedy = spelling::remedy(.0))]
    NotS3(String),
    /// S3 would not accept the bucket name.
    #[error("`{name}` is not a bucket name: {reason}")]
    Bucket {
        /// The name as typed.
        name: String,
        /// The rule that the name breaks.
        reason: &'static str,
    },
    /// The key is longer than 1,024 bytes.
    #[error("a key of {0} bytes is too long: S3 takes at most 1024 bytes of UTF-8")]
    KeyTooLong(usize),
}

impl LocationError {
    /// Returns a remedy if the text is not an S3 location at all.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::NotS3(text) => Some(spelling::remedy(text)),
            Self::Bucket { .. } | Self::KeyTooLong(_) => None,
        }
    }
}

impl BucketName {
    /// Checks `name` against the rules that all S3 servers share. Accepts old us-east-1 names with
    /// capitals and underscores, and the aliases and ARNs of access points. Also accepts
    /// `tenant:bucket`; the check of a job refuses it at endpoints without tenants.
    ///
    /// # Errors
    /// [`LocationError::Bucket`] with the broken rule.
    pub fn new(name: &str) -> Result<Self, LocationError> {
        let refuse = |reason| {
            Err(LocationError::Bucket {
                name: name.to_owned(),
                reason,
            })
        };
        if name.starts_with("arn:") {
            return Ok(Self(name.into()));
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let (tenant, bucket) = name.split_once(':').unwrap_or(("", name));
        if !tenant.bytes().all(legal) {
            return refuse(
                "the tenant before the colon may have only letters, digits, dots and hyphens",
            );
        }
        if !(3..=255).contains(&bucket.len()) {
            return refuse("it must have 3 to 63 characters");
        }
        if !bucket.bytes().all(legal) {
            return refuse("only letters, digits, dots and hyphens are allowed");
        }
        Ok(Self(name.into()))
    }

    /// Returns the name in the form that S3 uses.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the tenant of `tenant:bucket`. It is empty for `:bucket`, a bucket without a tenant.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        if self.0.starts_with("arn:") {
            return None;
        }
        self.0.split_once(':').map(|(tenant, _)| tenant)
    }

    /// Returns true for the alias or ARN of an access point, which may lead to any bucket.
    #[must_use]
    pub fn is_alias(&self) -> bool {
        const SUFFIXES: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--op-s3", "--xa-s3"];
        self.0.starts_with("arn:") || SUFFIXES.iter().any(|suffix| self.0.ends_with(suffix))
    }

    /// Returns true for a Multi-Region Access Point, which S3 accepts as the destination of a copy
    /// but not as its source.
    #[must_use]
    pub fn is_multi_region(&self) -> bool {
        self.0.starts_with("arn:") && self.0.ends_with(".mrap")
    }

    /// Returns true for directory buckets (S3 Express One Zone), which have unsorted lists, no
    /// versions, and no tags.
    #[must_use]
    pub fn is_directory_bucket(&self) -> bool {
        self.0.ends_with("--x-s3")
    }
}

impl ObjectKey {
    /// Checks the length. Any other UTF-8 text is a valid key.
    ///
    /// # Errors
    /// [`LocationError::KeyTooLong`].
    pub fn new(key: &str) -> Result<Self, LocationError> {
        Arc::<str>::from(key).try_into()
    }

    /// Returns the empty key, which is a prefix of all keys.
    #[must_use]
    pub fn empty() -> Self {
        Self("".into())
    }

    /// Returns the key in the form that S3 uses, not encoded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true if this can only name a prefix: the key is empty or ends in a slash.
    #[must_use]
    pub fn is_prefix(&self) -> bool {
        self.0.is_empty() || self.0.ends_with('/')
    }

    /// Returns the text after the last slash.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&*self.0, |(_, name)| name)
    }
}

impl TryFrom<Arc<str>> for ObjectKey {
    type Error = LocationError;

    fn try_from(key: Arc<str>) -> Result<Self, LocationError> {
        if key.len() > MAX_KEY_BYTES {
            return Err(LocationError::KeyTooLong(key.len()));
        }
        Ok(Self(key))
    }
}

impl S3Uri {
    /// Returns the URI of this object as text.
    #[must_use]
    pub(crate) fn text_of(bucket: &BucketName, key: &ObjectKey) -> String {
        ["s3://", &bucket.0, "/", &key.0].concat()
    }
}

impl FromStr for S3Uri {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let not_s3 = || LocationError::NotS3(text.to_owned());
        let rest = text.strip_prefix("s3://").ok_or_else(not_s3)?;
        // Unlike the ARN of an access point, the ARN of a bucket cannot replace a bucket name.
        if rest.starts_with("arn:")
            && rest.split(':').nth(3).is_none_or(str::is_empty)
            && !rest.contains(":accesspoint")
        {
            return Err(not_s3());
        }
        let (bucket, key) = match end_of_arn(rest) {
            Some(end) => match (&rest[..end], &rest[end..]) {
                (arn, "") => (arn, ""),
                (arn, behind) => {
                    let key = behind
                        .strip_prefix('/')
                        .ok_or_else(|| LocationError::Bucket {
                            name: rest.to_owned(),
                            reason: "a slash must separate the access point from the key",
                        })?;
                    (arn, key)
                }
            },
            None => rest.split_once('/').unwrap_or((rest, "")),
        };
        Ok(Self {
            bucket: BucketName::new(bucket)?,
            key: ObjectKey::new(key)?,
        })
    }
}

/// Returns the position where the access point's ARN ends in `arn…/key`, or `None` if the text is
/// not such an ARN.
///
/// The resource is `accesspoint/NAME` or `outpost/ID/accesspoint/NAME`, with colons or slashes
/// between its words.
fn end_of_arn(text: &str) -> Option<usize> {
    let resource_at = text
        .strip_prefix("arn:")
        .and(text.match_indices(':').nth(4))
        .map(|(at, _)| at + 1)?;
    let resource = &text[resource_at..];
    let words = if resource.starts_with("outpost") {
        4
    } else {
        2
    };
    let mut separators = resource.match_indices(['/', ':']);
    Some(
        separators
            .nth(words - 1)
            .map_or(text.len(), |(at, _)| resource_at + at),
    )
}

impl fmt::Display for S3Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Self::text_of(&self.bucket, &self.key))
    }
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl FromStr for $name {
            type Err = LocationError;
            fn from_str(text: &str) -> Result<Self, LocationError> {
                Self::new(text)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}
text_newtype!(BucketName);
text_newtype!(ObjectKey);

/// Returns the value of `x-amz-copy-source`: `bucket/key`, percent-encoded byte by byte, then
/// `?versionId=` if a version is named (an encoded `%3F` belongs to the key, a bare `?` starts the
/// version). The colon of `tenant:bucket` is not encoded, because Ceph's `UploadPartCopy` splits
/// the name before it decodes anything.
#[must_use]
pub fn copy_source(bucket: &BucketName, key: &ObjectKey, version: Option<&str>) -> String {
    // The copy source of an object on Outposts names the Outpost, without the access point.
    let arn = match bucket.as_str().split_once("/accesspoint/") {
        Some((outpost, _)) if outpost.contains(":outpost/") => outpost,
        _ => bucket.as_str(),
    };
    let mut value = if arn.starts_with("arn:") {
        utf8_percent_encode(&format!("{arn}/object/{key}"), COPY_SOURCE).to_string()
    } else {
        format!(
            "{bucket}/{}",
            utf8_percent_encode(key.as_str(), COPY_SOURCE)
        )
    };
    if let Some(version) = version {
        value.push_str("?versionId=");
        value.extend(utf8_percent_encode(version, COPY_SOURCE));
    }
    value
}

/// A local file or directory, as typed. Relative paths start from the working directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalPath(pub PathBuf);

impl LocalPath {
    /// Returns the path as a [`Path`].
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for LocalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> S3Uri {
        text.parse().unwrap()
    }

    #[test]
    fn copies_from_outposts_name_the_outpost() {
        let source = |text: &str| {
            let S3Uri { bucket, key } = uri(text);
            percent_encoding::percent_decode_str(&copy_source(&bucket, &key, None))
                .decode_utf8_lossy()
                .into_owned()
        };
        assert_eq!(
            source(
                "s3://arn:aws:s3-outposts:us-west-2:111122223333:outpost/op-1/accesspoint/ap/x/y"
            ),
            "arn:aws:s3-outposts:us-west-2:111122223333:outpost/op-1/object/x/y"
        );
        assert_eq!(
            source("s3://arn:aws:s3:eu-west-1:111122223333:accesspoint/ap/x"),
            "arn:aws:s3:eu-west-1:111122223333:accesspoint/ap/object/x"
        );
    }

    #[test]
    fn uris_split_at_the_first_slash_and_keep_odd_keys() {
        for (text, bucket, key) in [
            ("s3://logs", "logs", ""),
            ("s3://logs/", "logs", ""),
            ("s3://logs/a//b/", "logs", "a//b/"),
            ("s3://logs/ümlaut +%20?#", "logs", "ümlaut +%20?#"),
            (
                "s3://arn:aws:s3:eu-west-1:111122223333:accesspoint/ap/x/y",
                "arn:aws:s3:eu-west-1:111122223333:accesspoint/ap",
                "x/y",
            ),
            (
                "s3://arn:aws:s3:eu-west-1:111122223333:accesspoint:ap/x/y",
                "arn:aws:s3:eu-west-1:111122223333:accesspoint:ap",
                "x/y",
            ),
            (
                "s3://arn:aws:s3-outposts:us-west-2:111122223333:outpost/op-1/accesspoint/ap/x/y",
                "arn:aws:s3-outposts:us-west-2:111122223333:outpost/op-1/accesspoint/ap",
                "x/y",
            ),
            (
                "s3://arn:aws:s3::111122223333:accesspoint/mfzwi23gnjvgw.mrap/x/y",
                "arn:aws:s3::111122223333:accesspoint/mfzwi23gnjvgw.mrap",
                "x/y",
            ),
            (
                "s3://arn:aws:s3:eu-west-1:111122223333:accesspoint/ap",
                "arn:aws:s3:eu-west-1:111122223333:accesspoint/ap",
                "",
            ),
        ] {
            let parsed = uri(text);
            assert_eq!(
                (parsed.bucket.as_str(), parsed.key.as_str()),
                (bucket, key),
                "{text}"
            );
        }
        for (text, tenant) in [
            ("s3://acme:lake/a:b", Some("acme")),
            ("s3://:lake/", Some("")),
            ("s3://lake/a:b", None),
            (
                "s3://arn:aws:s3:eu-west-1:111122223333:accesspoint/ap/x/y",
                None,
            ),
        ] {
            assert_eq!(uri(text).bucket.tenant(), tenant, "{text}");
        }
        assert_eq!(uri("s3://logs/a/b").to_string(), "s3://logs/a/b");
    }

    #[test]
    fn wrong_names_are_refused_with_the_rule() {
        for (text, part) in [
            ("logs/a", "did you mean s3://logs/a?"),
            ("https://x", "s3://bucket/key"),
            ("s3://a/b", "3 to 63"),
            ("s3://with space/b", "letters, digits"),
            ("s3://a c:lake/b", "the tenant before the colon"),
            ("s3://acme:/b", "3 to 63"),
            ("s3://a:b:lake/b", "letters, digits"),
            (
                "s3://arn:aws:s3:eu-west-1:111122223333:accesspoint/ap:logs/x",
                "a slash must separate",
            ),
            (
                "s3://arn:aws:s3:eu-west-1:111122223333:accesspoint:ap:logs",
                "a slash must separate",
            ),
        ] {
            let message = text.parse::<S3Uri>().unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(
            ObjectKey::new(&"k".repeat(1025)),
            Err(LocationError::KeyTooLong(1025))
        );
    }

    #[test]
    fn copy_source_encodes_every_byte_that_s3_could_read_otherwise() {
        let bucket = BucketName::new("src").unwrap();
        for (key, version, header) in [
            ("plain/a-b_c.~", None, "src/plain/a-b_c.~"),
            ("a b+c%20?d#e", None, "src/a%20b%2Bc%2520%3Fd%23e"),
            ("ü", Some("null"), "src/%C3%BC?versionId=null"),
            (
                "q?versionId=1",
                Some("v/2="),
                "src/q%3FversionId%3D1?versionId=v/2%3D",
            ),
        ] {
            assert_eq!(
                copy_source(&bucket, &ObjectKey::new(key).unwrap(), version),
                header
            );
        }
        let tenant = BucketName::new("acme:lake").unwrap();
        assert_eq!(
            copy_source(&tenant, &ObjectKey::new("a:b").unwrap(), None),
            "acme:lake/a%3Ab"
        );
    }
}
