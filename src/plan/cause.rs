//! Counts failures by their cause, in bounded memory.
//!
//! A bucket that refuses a storage class may refuse it a million times. The summary shows each
//! cause once, with the number of objects and one example. Messages that differ only in names and
//! numbers count as the same cause.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The maximum number of causes counted separately. All others are counted together.
const MAX_CAUSES: usize = 64;
/// The maximum length of a stored message, in characters.
const MESSAGE_KEPT: usize = 500;

/// The properties of a failed object that identify its cause.
#[derive(Clone, Copy, Debug)]
pub struct FailedRequest<'a> {
    /// The request.
    pub operation: &'a str,
    /// The error code of S3.
    pub code: &'a str,
    /// The message of S3.
    pub message: &'a str,
    /// The source: `s3://bucket/key`, or a path.
    pub source: &'a str,
    /// The destination: `s3://bucket/key`.
    pub destination: &'a str,
}

/// A cause and the objects that failed because of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The request.
    pub operation: String,
    /// The error code of S3.
    pub code: String,
    /// The message of S3 for the first of these objects.
    pub message: String,
    /// The number of objects.
    pub objects: u64,
    /// The source of the first of these objects.
    pub example: String,
}

/// Counts failed objects by cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "CauseCount", from = "CauseCount")]
pub struct CauseCounts {
    causes: BTreeMap<String, Cause>,
    others: u64,
}

impl CauseCounts {
    /// Counts a failed object.
    pub fn add(&mut self, failed: &FailedRequest<'_>) {
        let pattern = pattern(failed);
        if let Some(cause) = self.causes.get_mut(&pattern) {
            cause.objects += 1;
        } else if self.causes.len() < MAX_CAUSES {
            let cause = Cause {
                operation: failed.operation.to_owned(),
                code: failed.code.to_owned(),
                message: failed.message.chars().take(MESSAGE_KEPT).collect(),
                objects: 1,
                example: failed.source.to_owned(),
            };
            self.causes.insert(pattern, cause);
        } else {
            self.others += 1;
        }
    }

    /// Adds the counts of other objects.
    pub fn merge(&mut self, other: &Self) {
        for (pattern, more) in &other.causes {
            if let Some(cause) = self.causes.get_mut(pattern) {
                cause.objects += more.objects;
            } else if self.causes.len() < MAX_CAUSES {
                self.causes.insert(pattern.clone(), more.clone());
            } else {
                self.others += more.objects;
            }
        }
        self.others += other.others;
    }

    /// Subtracts the counts of objects that the run tries again.
    pub fn take_back(&mut self, void: &Self) {
        for (pattern, void) in &void.causes {
            match self.causes.get_mut(pattern) {
                Some(cause) => cause.objects = cause.objects.saturating_sub(void.objects),
                None => self.others = self.others.saturating_sub(void.objects),
            }
        }
        self.causes.retain(|_, cause| cause.objects > 0);
        self.others = self.others.saturating_sub(void.others);
    }

    /// Returns the causes, the most frequent first.
    #[must_use]
    pub fn by_frequency(&self) -> Vec<&Cause> {
        let mut causes: Vec<_> = self.causes.values().collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.objects));
        causes
    }

    /// Returns the number of objects whose causes are not counted separately.
    #[must_use]
    pub const fn others(&self) -> u64 {
        self.others
    }

    /// Returns true if nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.causes.is_empty()
    }
}

/// [`CauseCounts`] as JSON.
#[derive(Serialize, Deserialize)]
struct CauseCount {
    causes: Vec<(String, Cause)>,
    others: u64,
}

impl From<CauseCounts> for CauseCount {
    fn from(counts: CauseCounts) -> Self {
        Self {
            causes: counts.causes.into_iter().collect(),
            others: counts.others,
        }
    }
}

impl From<CauseCount> for CauseCounts {
    fn from(counted: CauseCount) -> Self {
        Self {
            causes: counted.causes.into_iter().collect(),
            others: counted.others,
        }
    }
}

/// Serializes the causes as a list, the most frequent first.
///
/// # Errors
/// Returns the serializer's error.
pub fn as_list<S: serde::Serializer>(
    counts: &CauseCounts,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(counts.by_frequency())
}

/// Returns a text that is equal for failures with the same cause. It contains the operation, the
/// code, and the message without names and numbers.
fn pattern(failed: &FailedRequest<'_>) -> String {
    let key = |name: &'_ str| {
        let below = name
            .strip_prefix("s3://")
            .and_then(|name| name.split_once('/'));
        below
            .map(|(_, key)| key.to_owned())
            .filter(|key| !key.is_empty())
    };
    let mut message = failed
        .message
        .replace(failed.source, "")
        .replace(failed.destination, "");
    for key in [key(failed.source), key(failed.destination)]
        .into_iter()
        .flatten()
    {
        // A key of one or two letters would match inside other words.
        if key.len() > 2 {
            message = message.replace(&key, "");
        }
    }
    let mut pattern = format!("{} {} ", failed.operation, failed.code);
    let words = message.split_inclusive(|letter: char| !letter.is_alphanumeric());
    for word in words.take(MESSAGE_KEPT) {
        if word.contains(|letter: char| letter.is_ascii_digit()) {
            pattern.push('#');
        } else {
            pattern.push_str(word);
        }
    }
    pattern.chars().take(MESSAGE_KEPT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed<'a>(code: &'a str, message: &'a str, source: &'a str) -> FailedRequest<'a> {
        FailedRequest {
            operation: "CopyObject",
            code,
            message,
            source,
            destination: "s3://there/none",
        }
    }

    #[test]
    fn messages_that_differ_in_names_and_numbers_are_one_cause() {
        let mut counts = CauseCounts::default();
        for number in 0..306 {
            let source = format!("s3://here/a/key-{number}");
            let message = format!("no access to {source} (request 4F{number}A, attempt {number})");
            counts.add(&failed("AccessDenied", &message, &source));
        }
        counts.add(&failed(
            "AccessDenied",
            "not allowed: s3:PutObject",
            "s3://here/b",
        ));
        counts.add(&failed(
            "AccessDenied",
            "not allowed: s3:GetObject",
            "s3://here/c",
        ));
        counts.add(&failed(
            "InvalidStorageClass",
            "not allowed: s3:GetObject",
            "s3://here/d",
        ));
        let causes = counts.by_frequency();
        assert_eq!(
            causes.iter().map(|cause| cause.objects).collect::<Vec<_>>(),
            [306, 1, 1, 1]
        );
        assert_eq!(causes[0].example, "s3://here/a/key-0");
        assert!(
            causes[0]
                .message
                .starts_with("no access to s3://here/a/key-0 (request 4F0A")
        );
        let json = serde_json::to_string(&counts).unwrap();
        assert_eq!(serde_json::from_str::<CauseCounts>(&json).unwrap(), counts);
    }

    #[test]
    fn the_number_of_causes_is_bounded() {
        let mut counts = CauseCounts::default();
        let word = |number: u32| char::from_u32(0x4e00 + number).unwrap().to_string();
        for number in 0..1000 {
            counts.add(&failed("Code", &word(number), "s3://here/x"));
        }
        assert_eq!(
            (counts.by_frequency().len(), counts.others()),
            (64, 1000 - 64)
        );
    }
}
