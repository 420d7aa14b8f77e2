//! The settings `compare` and `compare_attributes`, which decide how a job determines whether the
//! destination has an equal object.
//!
//! Both apply only to `when: changed`. `when: missing` compares only keys, and `when: always`
//! compares nothing.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::diagnose::Mistake;
use super::job::{SetValues, Source, Transfer, Versions, When};

/// The comparison that `when: changed` uses. Objects of different sizes differ in every mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compare {
    /// Sizes, and then `ETag`s if both sides compute them from the bytes in the same way, otherwise
    /// modification times.
    #[default]
    Auto,
    /// Sizes only.
    Size,
    /// Sizes and `ETag`s; s3haul hashes local files. If the `ETag`s cannot be compared,
    /// modification times.
    Etag,
    /// Checksums, from a HEAD request to each side; s3haul hashes local files. If nothing else can
    /// be compared, modification times.
    Checksum,
    /// Sizes and modification times. An object counts as equal if the sizes match and the
    /// destination is newer.
    Time,
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Size => "size",
            Self::Etag => "etag",
            Self::Checksum => "checksum",
            Self::Time => "time",
        })
    }
}

impl Transfer {
    /// Returns true if the job sets attributes of the new objects regardless of the source.
    #[must_use]
    pub fn sets_attributes(&self) -> bool {
        self.to.storage_class.is_some() || self.sets_unlisted_attributes()
    }

    /// Returns true if the job sets attributes other than the storage class, which lists show.
    #[must_use]
    pub fn sets_unlisted_attributes(&self) -> bool {
        self.set != SetValues::default()
            || self.to.encryption.is_some()
            || self.to.acl.is_some()
            || self.customer_keys.destination.is_some()
    }

    /// Returns true if the transfer may read versions other than the current ones.
    fn reads_the_past(&self) -> bool {
        matches!(self.versions, Versions::AsOf(_))
            || matches!(
                self.from,
                Source::Object {
                    version: Some(_),
                    ..
                }
            )
    }

    /// Sets `compare`: the transfer's own value, or the manifest's default if that applies here.
    pub(super) fn compare_by(&mut self, own: Option<Compare>, default: Option<Compare>) {
        let default = default.filter(|compare| self.mistake_of(*compare).is_none());
        self.compare = own.or(default).unwrap_or_default();
    }

    /// Sets `compare_attributes` in the same way.
    pub(super) fn compare_attributes_if(&mut self, own: Option<bool>, default: Option<bool>) {
        let means_something = self.mistake_of(Compare::Auto).is_none() && self.sets_attributes();
        self.compare_attributes = own
            .or(default.filter(|_| means_something))
            .unwrap_or_default();
    }

    /// Explains why `compare` has no effect here: the message and the remedy.
    fn mistake_of(&self, compare: Compare) -> Option<(String, &'static str)> {
        let (message, remedy) = match (self.when, self.versions) {
            _ if self.is_onto_itself() => (
                "a transfer onto itself compares what the job sets, and no other object".to_owned(),
                "remove it",
            ),
            (When::Changed, Versions::All) => (
                "`versions: all` compares histories version by version, always by ETags and checksums"
                    .to_owned(),
                "remove it",
            ),
            (When::Changed, _) if compare == Compare::Time && self.reads_the_past() => (
                "modification times say nothing about a version that was followed by newer ones".to_owned(),
                "write auto, etag, or checksum",
            ),
            (When::Changed, _) => return None,
            (When::Missing, _) => (
                "`when: missing` compares no objects: every key that exists is left as it is".to_owned(),
                "remove it, or write `when: changed`",
            ),
            (When::Always, _) => (
                "`when: always` compares no objects: it copies all of them".to_owned(),
                "remove it, or write `when: changed`",
            ),
        };
        Some((message, remedy))
    }
}

/// Returns the mistakes in `compare` and `compare_attributes` of the transfer at `path`.
pub(super) fn check(path: &str, transfer: &Transfer) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut refuse = |field: &str, message: String, remedy: &str| {
        mistakes.push(Mistake {
            path: format!("{path}.{field}"),
            message,
            remedy: remedy.to_owned(),
        });
    };
    if transfer.compare != Compare::Auto
        && let Some((message, remedy)) = transfer.mistake_of(transfer.compare)
    {
        refuse("compare", message, remedy);
    }
    if transfer.compare_attributes {
        if let Some((message, remedy)) = transfer.mistake_of(Compare::Auto) {
            refuse("compare_attributes", message, remedy);
        } else if !transfer.sets_attributes() {
            let message = "the transfer sets no attributes that could be compared".to_owned();
            let remedy =
                "remove it, or set some with `set:`, `to.storage_class`, or `to.encryption`";
            refuse("compare_attributes", message, remedy);
        }
    }
    mistakes
}
