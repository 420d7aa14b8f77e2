//! Rules for the attributes of new objects: policies that need a value, and values that S3 would
//! refuse.
//!
//! Metadata and headers are sent as HTTP headers. A value that cannot be a header is refused here,
//! once, instead of for each object.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::diagnose::Mistake;
use super::env::is_name;
use super::job::{Attribute, KeySource, Policy, SetValues, Source, Transfer};

/// S3's limit on the names and values of an object's user metadata together, in bytes.
pub(crate) const MAX_METADATA: usize = 2048;
/// The maximum number of tags of one object.
pub(crate) const MAX_TAGS: usize = 10;
/// The maximum number of characters of a tag's key and of its value.
const MAX_TAG: (usize, usize) = (128, 256);
/// The maximum number of bytes of one content header. S3 limits all content headers together to 2
/// KB.
const MAX_HEADER: usize = 1024;

/// Returns the mistakes in `preserve`, `set`, and the customer keys of the transfer at `path`.
pub(super) fn check(path: &str, transfer: &Transfer) -> Vec<Mistake> {
    let mut rules = AttributeRules {
        path,
        mistakes: Vec::new(),
    };
    if transfer.from.s3().is_some() {
        rules.policies(transfer);
    }
    rules.set(&transfer.set);
    rules.customer_keys(transfer);
    rules.mistakes
}

struct AttributeRules<'p> {
    path: &'p str,
    mistakes: Vec<Mistake>,
}

impl AttributeRules<'_> {
    fn refuse(&mut self, field: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let path = format!("{}.{field}", self.path);
        self.mistakes.push(Mistake {
            path,
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    /// Reports a `replace` policy without a replacement value. The user either forgot the value or
    /// meant `skip`.
    fn policies(&mut self, transfer: &Transfer) {
        for attribute in Attribute::ALL {
            if transfer.preserve.of(attribute) != Policy::Replace {
                continue;
            }
            let (there, field) = match attribute {
                Attribute::Metadata => (!transfer.set.metadata.is_empty(), "set.metadata"),
                Attribute::Headers => (
                    transfer
                        .set
                        .headers()
                        .iter()
                        .any(|(_, value)| value.is_some()),
                    "set.content_type",
                ),
                Attribute::Tags => (!transfer.set.tags.is_empty(), "set.tags"),
                Attribute::StorageClass => {
                    (transfer.to.storage_class.is_some(), "to.storage_class")
                }
                Attribute::Encryption => {
                    let key = transfer.customer_keys.destination.is_some();
                    (transfer.to.encryption.is_some() || key, "to.encryption")
                }
                Attribute::Acl => (transfer.to.acl.is_some(), "to.acl"),
                Attribute::Lock | Attribute::Annotations => {
                    let message = format!("no setting can replace `{attribute}`");
                    self.refuse(&format!("preserve.{attribute}"), message, "write skip");
                    continue;
                }
            };
            if !there {
                let message = format!("no value is given to replace `{attribute}`");
                let remedy = format!("add `{field}`, or write skip");
                self.refuse(&format!("preserve.{attribute}"), message, remedy);
            }
        }
    }

    fn set(&mut self, set: &SetValues) {
        for (field, value) in set.headers() {
            let Some(value) = value else { continue };
            let field = format!("set.{field}");
            if value.is_empty() {
                self.refuse(&field, "this is empty", "give it a value, or remove it");
            } else if value.len() > MAX_HEADER {
                let message = format!("{} bytes are too long for a header", value.len());
                self.refuse(&field, message, format!("write at most {MAX_HEADER}"));
            } else if !is_header_value(value) {
                let remedy = "use visible ASCII characters and single blanks between them";
                self.refuse(&field, "this cannot be the value of a header", remedy);
            }
        }
        self.metadata(set);
        self.tags(set);
    }

    fn metadata(&mut self, set: &SetValues) {
        for (name, value) in &set.metadata {
            let field = format!("set.metadata.{name}");
            if let Some(short) = name.strip_prefix("x-amz-meta-") {
                let message = "s3haul adds the prefix `x-amz-meta-` itself";
                self.refuse(&field, message, format!("write `{short}`"));
            } else if name.is_empty() || !name.bytes().all(is_token) {
                let remedy = "use letters, digits and any of !#$%&'*+-.^_`|~";
                self.refuse(
                    &field,
                    format!("`{name}` cannot be the name of a header"),
                    remedy,
                );
            }
            if !is_header_value(value) && !value.is_empty() {
                let remedy = if value.chars().any(char::is_control) {
                    "leave out line breaks and other control characters".to_owned()
                } else {
                    // S3 returns non-ASCII values in this form.
                    format!(
                        "write \"=?UTF-8?B?{}?=\" (RFC 2047), as S3 itself shows it",
                        STANDARD.encode(value)
                    )
                };
                self.refuse(&field, "this cannot be sent as a header", remedy);
            }
        }
        let size: usize = set
            .metadata
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if size > MAX_METADATA {
            let message = format!(
                "{size} bytes of metadata: S3 takes {MAX_METADATA} for names and values together"
            );
            self.refuse(
                "set.metadata",
                message,
                "write less, or put it into a separate object",
            );
        }
    }

    fn tags(&mut self, set: &SetValues) {
        for (key, value) in &set.tags {
            let field = format!("set.tags.{key}");
            let (longest_key, longest_value) = MAX_TAG;
            let legal =
                |c: char| c.is_alphanumeric() || c.is_whitespace() || "+-=._:/@".contains(c);
            if key.is_empty() || key.chars().count() > longest_key {
                let message = format!("a tag's key has 1 to {longest_key} characters");
                self.refuse(&field, message, "write a shorter one");
            } else if key.starts_with("aws:") {
                self.refuse(
                    &field,
                    "keys that begin with `aws:` are AWS's own",
                    "choose another key",
                );
            } else if value.chars().count() > longest_value {
                let message = format!("a tag's value has at most {longest_value} characters");
                self.refuse(&field, message, "write a shorter one");
            } else if !key.chars().chain(value.chars()).all(legal) {
                let remedy = "use letters, digits, blanks and any of + - = . _ : / @";
                self.refuse(&field, "S3 does not accept this as a tag", remedy);
            }
        }
        if set.tags.len() > MAX_TAGS {
            let message = format!("{} tags: an object has at most {MAX_TAGS}", set.tags.len());
            self.refuse("set.tags", message, "remove some");
        }
    }

    fn customer_keys(&mut self, transfer: &Transfer) {
        let keys = [
            ("from", &transfer.customer_keys.source),
            ("to", &transfer.customer_keys.destination),
        ];
        for (side, key) in keys {
            match key {
                Some(KeySource::Env(name)) if !is_name(name) => {
                    let message = "this is not the name of an environment variable";
                    let remedy =
                        "write the variable's name, for instance LAKE_KEY; never the key itself";
                    self.refuse(&format!("{side}.customer_key.env"), message, remedy);
                }
                Some(KeySource::File(file)) if *file == *Path::new("") => {
                    self.refuse(
                        &format!("{side}.customer_key.file"),
                        "this is empty",
                        "write a path",
                    );
                }
                _ => {}
            }
        }
        if transfer.customer_keys.source.is_some()
            && !matches!(transfer.from, Source::Object { .. } | Source::Prefix { .. })
        {
            let message = "local files are not encrypted with a customer key";
            self.refuse("from.customer_key", message, "remove it");
        }
        if transfer.customer_keys.destination.is_some() && transfer.preserve.annotations.keeps() {
            let message = "an object that a customer key encrypts cannot have annotations";
            self.refuse("preserve.annotations", message, "write skip");
        }
        if transfer.customer_keys.destination.is_some() && transfer.to.encryption.is_some() {
            let message =
                "an object is encrypted with a customer key or as `encryption` says, not both";
            self.refuse("to.encryption", message, "remove one of them");
        }
    }
}

/// Returns true for visible ASCII without leading or trailing blanks.
fn is_header_value(value: &str) -> bool {
    value.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
        && value.trim() == value
        && !value.is_empty()
}

/// Returns true for the bytes that RFC 9110 allows in the name of a header.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}
