//! The settings for attributes: what a copy keeps besides the bytes, and what the job sets instead.
//!
//! Each attribute has its own [`Policy`]. Presets are starting points, and an explicit field
//! overrides the preset. `set:` ([`SetValues`]) adds values to those that the copy keeps, and
//! replaces values of the same name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A property of an object other than its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// User metadata (`x-amz-meta-*`).
    Metadata,
    /// `Content-Type`, `-Encoding`, `-Language`, `-Disposition`, `Cache-Control`, `Expires`, and
    /// the website redirect.
    Headers,
    /// Object tags.
    Tags,
    /// The storage class.
    StorageClass,
    /// Server-side encryption: its type and its key.
    Encryption,
    /// Object Lock: retention and legal hold.
    Lock,
    /// ACL grants to anyone but the owner.
    Acl,
    /// Annotations.
    Annotations,
}

impl Attribute {
    /// All attributes, in the order in which messages list them.
    pub const ALL: [Self; 8] = [
        Self::Metadata,
        Self::Headers,
        Self::Tags,
        Self::StorageClass,
        Self::Encryption,
        Self::Lock,
        Self::Acl,
        Self::Annotations,
    ];

    /// Returns the field under `preserve:`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Headers => "headers",
            Self::Tags => "tags",
            Self::StorageClass => "storage_class",
            Self::Encryption => "encryption",
            Self::Lock => "lock",
            Self::Acl => "acl",
            Self::Annotations => "annotations",
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The policy for an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The copy keeps the attribute, or the object fails before it is published.
    Require,
    /// The copy keeps the attribute if possible. The receipt and the summary record a loss.
    Try,
    /// The copy does not keep the attribute.
    Skip,
    /// The value in `set:` or `to:` replaces the attribute.
    Replace,
}

impl Policy {
    /// Returns true if the policy keeps the source's value.
    #[must_use]
    pub const fn keeps(self) -> bool {
        matches!(self, Self::Require | Self::Try)
    }
}

/// A policy for all attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Requires all attributes, including the ACL and annotations.
    Everything,
    /// Requires metadata and content headers, and tries to keep tags, storage class, encryption,
    /// and lock.
    #[default]
    Default,
    /// Keeps only the bytes.
    ContentOnly,
}

/// The attributes of a source object that are copied with its bytes. Has no effect on local files,
/// which have no such attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the attribute of that name")]
pub struct Preserve {
    pub metadata: Policy,
    pub headers: Policy,
    pub tags: Policy,
    pub storage_class: Policy,
    pub encryption: Policy,
    pub lock: Policy,
    pub acl: Policy,
    pub annotations: Policy,
}

impl Default for Preserve {
    fn default() -> Self {
        Preset::Default.into()
    }
}

impl From<Preset> for Preserve {
    fn from(preset: Preset) -> Self {
        let all = |policy| Self {
            metadata: policy,
            headers: policy,
            tags: policy,
            storage_class: policy,
            encryption: policy,
            lock: policy,
            acl: policy,
            annotations: policy,
        };
        match preset {
            Preset::Everything => all(Policy::Require),
            Preset::ContentOnly => all(Policy::Skip),
            // With the source's key, a replica would depend on the source's account. An ACL names
            // users of the source's account. Annotations cost a request per object.
            Preset::Default => Self {
                metadata: Policy::Require,
                headers: Policy::Require,
                acl: Policy::Skip,
                annotations: Policy::Skip,
                ..all(Policy::Try)
            },
        }
    }
}

impl Preserve {
    /// Returns the policy of one attribute.
    #[must_use]
    pub const fn of(&self, attribute: Attribute) -> Policy {
        match attribute {
            Attribute::Metadata => self.metadata,
            Attribute::Headers => self.headers,
            Attribute::Tags => self.tags,
            Attribute::StorageClass => self.storage_class,
            Attribute::Encryption => self.encryption,
            Attribute::Lock => self.lock,
            Attribute::Acl => self.acl,
            Attribute::Annotations => self.annotations,
        }
    }

    /// Sets the policy of one attribute.
    pub const fn set(&mut self, attribute: Attribute, policy: Policy) {
        let field = match attribute {
            Attribute::Metadata => &mut self.metadata,
            Attribute::Headers => &mut self.headers,
            Attribute::Tags => &mut self.tags,
            Attribute::StorageClass => &mut self.storage_class,
            Attribute::Encryption => &mut self.encryption,
            Attribute::Lock => &mut self.lock,
            Attribute::Acl => &mut self.acl,
            Attribute::Annotations => &mut self.annotations,
        };
        *field = policy;
    }

    /// Returns true if the copy keeps only the bytes.
    #[must_use]
    pub fn is_content_only(&self) -> bool {
        Attribute::ALL
            .into_iter()
            .all(|attribute| !self.of(attribute).keeps())
    }
}

/// The reason why a text is not a [`Preserve`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PreserveError {
    /// The text is neither a preset nor `attribute=policy`.
    #[error(
        "`{0}` is not a preset (everything, default, content-only) or ATTRIBUTE=POLICY; attributes: {names}; \
         policies: require, try, skip, replace",
        names = Attribute::ALL.map(Attribute::name).join(", ")
    )]
    Unknown(String),
    /// The preset follows a policy that it would override.
    #[error("`{0}` is a preset; write it first")]
    PresetNotFirst(String),
}

/// Parses an enum value as the manifest spells it.
fn word<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    T::deserialize(serde::de::value::StrDeserializer::<serde::de::value::Error>::new(text)).ok()
}

impl FromStr for Preserve {
    type Err = PreserveError;

    /// Reads a preset, policies, or both: `everything`, `tags=require,acl=try`,
    /// `everything,acl=skip`.
    fn from_str(text: &str) -> Result<Self, PreserveError> {
        let mut preserve = Self::default();
        for (position, item) in text.split(',').map(str::trim).enumerate() {
            let unknown = || PreserveError::Unknown(item.to_owned());
            if let Some((attribute, policy)) = item.split_once('=') {
                let attribute = word(&attribute.replace('-', "_")).ok_or_else(unknown)?;
                preserve.set(attribute, word(policy).ok_or_else(unknown)?);
                continue;
            }
            let preset: Preset = word(item).ok_or_else(unknown)?;
            if position > 0 {
                return Err(PreserveError::PresetNotFirst(item.to_owned()));
            }
            preserve = preset.into();
        }
        Ok(preserve)
    }
}

/// Values that the new objects get regardless of the source. If a value cannot be set on an object,
/// the object fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetValues {
    /// User metadata by lower-case name, added to what the copy keeps. At most 2 KB in total.
    pub metadata: BTreeMap<String, String>,
    /// Tags, added to what the copy keeps. At most 10.
    pub tags: BTreeMap<String, String>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
}

impl SetValues {
    /// Returns the content headers with the names of their fields.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, Option<&str>); 5] {
        let Self {
            metadata: _,
            tags: _,
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
        } = self;
        [
            ("content_type", content_type.as_deref()),
            ("content_encoding", content_encoding.as_deref()),
            ("content_language", content_language.as_deref()),
            ("content_disposition", content_disposition.as_deref()),
            ("cache_control", cache_control.as_deref()),
        ]
    }
}

/// The source from which s3haul reads a customer key (SSE-C) when the run starts. A manifest never
/// contains the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// An environment variable that contains the base64-encoded key.
    Env(String),
    /// A file that contains the 32 bytes, raw or base64-encoded.
    File(PathBuf),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for KeySource {
    type Err = String;

    /// Reads `env:NAME` or `file:PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            // The user may have typed the key itself, so the message does not repeat the text.
            _ => {
                Err("name where the key is, env:NAME or file:PATH; never the key itself".to_owned())
            }
        }
    }
}

/// The customer keys (SSE-C) of a transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CustomerKeys {
    /// The key that decrypts the source's objects.
    pub source: Option<KeySource>,
    /// The key that encrypts the new objects.
    pub destination: Option<KeySource>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error message of serde lists all variants, so it reveals one that `ALL` lacks.
    #[test]
    fn all_has_every_attribute() {
        let names = Attribute::ALL.map(|attribute| format!("`{attribute}`"));
        let error = serde_json::from_str::<Attribute>("\"?\"").unwrap_err();
        let expected = format!("expected one of {} at", names.join(", "));
        assert!(error.to_string().contains(&expected), "{error}");
    }

    #[test]
    fn presets_are_what_they_are_called() {
        let everything = Preserve::from(Preset::Everything);
        assert!(
            Attribute::ALL
                .iter()
                .all(|attribute| everything.of(*attribute) == Policy::Require)
        );
        assert!(Preserve::from(Preset::ContentOnly).is_content_only());
        let default = Preserve::default();
        assert_eq!(
            (default.metadata, default.tags, default.acl),
            (Policy::Require, Policy::Try, Policy::Skip)
        );
        assert!(!default.is_content_only());
    }

    #[test]
    fn a_preset_comes_first_and_policies_change_it() {
        let parsed: Preserve = "everything,acl=skip, storage-class=try".parse().unwrap();
        let expected = Preserve {
            acl: Policy::Skip,
            storage_class: Policy::Try,
            ..Preserve::from(Preset::Everything)
        };
        assert_eq!(parsed, expected);
        assert_eq!(
            "tags=require".parse(),
            Ok(Preserve {
                tags: Policy::Require,
                ..Preserve::default()
            })
        );
        for wrong in [
            "",
            "all",
            "tags",
            "tags=keep",
            "x=try",
            "tags=try,everything",
        ] {
            assert!(wrong.parse::<Preserve>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_named_and_never_repeated() {
        assert_eq!("env:KEY".parse(), Ok(KeySource::Env("KEY".to_owned())));
        assert_eq!(
            "file:/run/key".parse(),
            Ok(KeySource::File("/run/key".into()))
        );
        for wrong in ["c2VjcmV0", "env:", "key:x"] {
            assert!(
                !wrong.parse::<KeySource>().unwrap_err().contains("c2Vj"),
                "{wrong}"
            );
        }
    }
}
