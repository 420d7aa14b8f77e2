//! Limits the names that a server sends: `ETag`s, version IDs, upload IDs, keys, and list tokens.
//!
//! Names go back to the server in URLs and headers. No S3 server sends a name that is far beyond
//! the limits of S3 or contains control characters, and the SDK panics on a URL or header with such
//! a name. So each name is checked once, where it is read, and the message states the limit that it
//! breaks.

use std::fmt;

use super::page::is_spelling;
use crate::location::{BucketName, MAX_KEY_BYTES, ObjectKey};

/// A kind of name, with its limit in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdKind {
    /// S3 sends 32 hexadecimal digits and a count of parts; other servers send other texts.
    Etag,
    /// S3 documents "no more than 1,024 bytes".
    Version,
    /// S3 documents no limit and sends about 130 bytes.
    Upload,
    /// A continuation token or a marker. S3's tokens contain an encoded key.
    Token,
}

impl IdKind {
    /// Returns the largest length of such a name in bytes.
    pub(super) const fn limit(self) -> usize {
        match self {
            Self::Etag | Self::Version => 1024,
            Self::Upload => 2048,
            Self::Token => 8192,
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Etag => "an ETag",
            Self::Version => "a version id",
            Self::Upload => "an upload id",
            Self::Token => "a token for the next page",
        }
    }

    /// Returns the name, or the reason why it cannot be used.
    pub(super) fn check(self, text: String) -> Result<String, String> {
        let (what, limit) = (self.what(), self.limit());
        if text.len() > limit {
            let length = text.len();
            return Err(format!(
                "the server sent {what} of {length} bytes; s3haul accepts at most {limit}"
            ));
        }
        // An ETag goes into headers as it is; all others are percent-encoded.
        let bad = |char: char| char.is_control() || (self == Self::Etag && !char.is_ascii());
        if text.chars().any(bad) {
            return Err(format!(
                "the server sent {what} with characters that no header can contain"
            ));
        }
        Ok(text)
    }

    /// Returns the name, or `None` if it is missing or empty.
    pub(super) fn optional(self, text: Option<String>) -> Result<Option<String>, String> {
        text.filter(|text| !text.is_empty())
            .map(|text| self.check(text))
            .transpose()
    }

    /// Returns the name, or an error if it is missing or empty.
    pub(super) fn required(self, text: Option<String>) -> Result<String, String> {
        let missing = || format!("the answer has no {}", without_article(self.what()));
        self.optional(text)?.ok_or_else(missing)
    }
}

/// Returns a noun without its indefinite article.
fn without_article(noun: &str) -> &str {
    noun.strip_prefix("an ")
        .or_else(|| noun.strip_prefix("a "))
        .unwrap_or(noun)
}

/// The bucket and the key that a response names, which may be invalid names on S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
}

/// Returns the location of a created upload according to the response, if it differs from the
/// requested one. An access point answers with the name of its bucket, and a tenant's bucket may
/// have a short name.
pub(super) fn elsewhere(
    (bucket, key): (Option<String>, Option<String>),
    (asked_bucket, asked_key): (&BucketName, &ObjectKey),
) -> Option<Elsewhere> {
    let named = |name: Option<String>, otherwise: &str| {
        name.filter(|name| !name.trim().is_empty())
            .unwrap_or_else(|| otherwise.to_owned())
    };
    let requested = asked_bucket.as_str();
    let bucket = if asked_bucket.is_alias() {
        requested.to_owned()
    } else {
        named(bucket, requested)
    };
    let key = named(key, asked_key.as_str());
    let short = requested
        .rsplit_once(':')
        .map_or(requested, |(_, name)| name);
    let is_asked =
        (bucket == requested || bucket == short) && is_spelling(&key, asked_key.as_str());
    (!is_asked).then_some(Elsewhere { bucket, key })
}

/// Returns true if a version ID names an object that is never replaced. `null` does not: each write
/// to a bucket whose versioning is suspended replaces the object with this version ID.
#[must_use]
pub(crate) fn is_immutable_version(version: &str) -> bool {
    version != "null"
}

/// Returns the version that a write created. `null` names no version: S3 sends it for buckets whose
/// versioning is suspended. Other servers send it for buckets without versioning, and refuse it in
/// a request.
pub(super) fn written_version(version: Option<String>) -> Result<Option<String>, String> {
    Ok(IdKind::Version
        .optional(version)?
        .filter(|version| is_immutable_version(version)))
}

/// Fails if the response names a version other than the requested one. Servers without versions
/// ignore the version ID.
pub(super) fn other_version(requested: Option<&str>, answered: Option<&str>) -> Result<(), String> {
    match requested.zip(answered.filter(|answered| !answered.is_empty())) {
        Some((requested, answered)) if requested != answered => Err(format!(
            "the answer is about the version `{answered}`, but the request was for `{requested}`"
        )),
        _ => Ok(()),
    }
}

/// The largest size that is accepted: far beyond the 50 TB of S3, and a number that JSON and the
/// totals of a run can hold.
pub(super) const LARGEST: u64 = 1 << 53;

/// Returns a number of bytes. Fails if it is missing, negative, or more than an object can have.
pub(super) fn required_size<N>(size: Option<N>, what: &str) -> Result<u64, String>
where
    u64: TryFrom<N>,
{
    let size = size.ok_or_else(|| format!("the answer has no {what}"))?;
    let size: u64 = size
        .try_into()
        .map_err(|_| format!("the answer has a negative {what}"))?;
    possible_size(size, format_args!("{what}"))
}

/// Returns a number of bytes, or an error if it is more than an object can have.
pub(super) fn possible_size(size: u64, what: fmt::Arguments<'_>) -> Result<u64, String> {
    if size > LARGEST {
        return Err(format!(
            "the answer has a {what} of {size} bytes; s3haul accepts at most {LARGEST}"
        ));
    }
    Ok(size)
}

/// Returns a part number, which is 1 to 10,000 on S3 and at most 100,000 elsewhere.
pub(super) fn part_number(number: Option<i32>) -> Result<u32, String> {
    let number = number.ok_or("the answer lists a part without a number")?;
    let known = u32::try_from(number)
        .ok()
        .filter(|number| (1..=100_000).contains(number));
    known.ok_or_else(|| format!("the answer lists a part with the number {number}"))
}

/// Returns the reason why a listed key cannot be used, if there is one.
pub(super) fn unusable_key(key: &str) -> Option<&'static str> {
    match key.len() {
        0 => Some("empty keys"),
        1..=MAX_KEY_BYTES => None,
        _ => Some("keys of more than 1,024 bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_limits() {
        for name in [IdKind::Etag, IdKind::Version, IdKind::Upload, IdKind::Token] {
            let most = "x".repeat(name.limit());
            assert_eq!(name.check(most.clone()), Ok(most.clone()), "{name:?}");
            assert!(name.check(format!("{most}x")).is_err(), "{name:?}");
            for odd in ["a\0b", "a\nb", "\u{1b}[2J", "a\u{7f}"] {
                assert!(name.check(odd.to_owned()).is_err(), "{name:?} {odd:?}");
            }
            assert_eq!(name.optional(Some(String::new())), Ok(None));
            assert!(name.required(None).is_err() && name.required(Some(String::new())).is_err());
        }
        assert!(IdKind::Etag.check("é".to_owned()).is_err());
        assert!(
            IdKind::Version.check("é".to_owned()).is_ok(),
            "it is percent-encoded"
        );
        assert_eq!(
            IdKind::Etag.required(None),
            Err("the answer has no ETag".to_owned())
        );
        assert_eq!(
            IdKind::Upload.required(None),
            Err("the answer has no upload id".to_owned())
        );
    }

    #[test]
    fn null_is_no_version_that_a_write_made() {
        for none in [None, Some(String::new()), Some("null".to_owned())] {
            assert_eq!(written_version(none), Ok(None));
        }
        assert_eq!(
            written_version(Some("v1".to_owned())),
            Ok(Some("v1".to_owned()))
        );
    }

    #[test]
    fn an_upload_is_elsewhere_if_its_answer_names_another_key_or_bucket() {
        let name = |text: &str| Some(text.to_owned());
        let is_elsewhere = |requested: &str, bucket: Option<String>, key: Option<String>| {
            let (requested, path) = (requested.parse().unwrap(), ObjectKey::new("a/b c").unwrap());
            elsewhere((bucket, key), (&requested, &path)).is_some()
        };
        let point = "arn:aws:s3:us-east-1:123456789012:accesspoint/point";
        for (requested, bucket, key) in [
            ("lake", None, None),
            ("lake", name(""), name("\n")),
            ("lake", name("lake"), name("a%2Fb+c")),
            ("tenant:lake", name("lake"), None),
            (point, name("lake"), None),
        ] {
            assert!(!is_elsewhere(requested, bucket, key), "{requested}");
        }
        for (requested, bucket, key) in [
            ("lake", name("other"), None),
            ("lake", None, name("a/b")),
            (point, name("lake"), name("a")),
        ] {
            assert!(is_elsewhere(requested, bucket, key), "{requested}");
        }
    }

    #[test]
    fn an_answer_about_another_version_is_none() {
        for (requested, answered) in [
            (None, None),
            (None, Some("1")),
            (Some("1"), None),
            (Some("1"), Some("")),
            (Some("1"), Some("1")),
        ] {
            assert_eq!(other_version(requested, answered), Ok(()));
        }
        for (requested, answered) in [("1", "2"), ("1", "null"), ("null", "1")] {
            assert!(other_version(Some(requested), Some(answered)).is_err());
        }
    }

    #[test]
    fn sizes_and_part_numbers_are_never_invented() {
        assert_eq!(required_size(Some(0_i64), "Content-Length"), Ok(0));
        assert_eq!(
            required_size::<i64>(None, "Content-Length").unwrap_err(),
            "the answer has no Content-Length"
        );
        assert!(required_size(Some(-1_i64), "Size").is_err());
        assert_eq!(required_size(Some(LARGEST), "Size"), Ok(LARGEST));
        for size in [LARGEST + 1, u64::MAX / 2, u64::MAX] {
            let message = required_size(Some(size), "Size").unwrap_err();
            assert!(message.contains(&size.to_string()), "{message}");
        }
        assert_eq!(part_number(Some(10_000)), Ok(10_000));
        for bad in [None, Some(0), Some(-1), Some(i32::MAX)] {
            assert!(part_number(bad).is_err());
        }
    }
}
