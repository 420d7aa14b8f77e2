//! The flags of `copy` for the attributes of new objects, with the names of the AWS CLI and s5cmd.
//! Customer keys have a separate struct, because `verify` has these flags too.

use clap::{Args, ValueEnum};

use super::unused_flags::Flag;
use super::{CliError, note, word};
use crate::manifest::job::{CannedAcl, CustomerKeys, Encryption, KeySource, SetValues};

/// The attributes that new objects get.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "New objects")]
pub(super) struct SetFlags {
    /// Add user metadata to that of the source. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Add a tag to those of the source. May be repeated.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    tags: Vec<(String, String)>,
    /// Content-Type of new objects. Default: that of the source, or derived from the file name.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Content-Encoding of new objects.
    #[arg(long, value_name = "CODING")]
    content_encoding: Option<String>,
    /// Content-Language of new objects.
    #[arg(long, value_name = "LANGUAGE")]
    content_language: Option<String>,
    /// Content-Disposition of new objects.
    #[arg(long, value_name = "VALUE")]
    content_disposition: Option<String>,
    /// Cache-Control of new objects.
    #[arg(long, value_name = "VALUE")]
    cache_control: Option<String>,
    /// Encryption of new objects. Default: the bucket's default encryption.
    #[arg(long, value_enum, value_name = "HOW", conflicts_with = "customer_key")]
    sse: Option<Sse>,
    /// KMS key, for --sse aws:kms or aws:kms:dsse.
    #[arg(long, value_name = "ARN")]
    sse_kms_key_id: Option<String>,
    /// Canned ACL of new objects, for instance bucket-owner-full-control. Cannot be used with
    /// --preserve acl=try or acl=require.
    #[arg(long, value_name = "ACL", value_parser = word::<CannedAcl>())]
    pub(super) acl: Option<CannedAcl>,
    #[command(flatten)]
    pub(super) keys: KeyFlags,
}

/// The customer keys of both sides.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct KeyFlags {
    /// Customer key (SSE-C) of the destination: env:NAME or file:PATH, 32 bytes, raw or in base64.
    #[arg(long, value_name = "WHERE")]
    customer_key: Option<KeySource>,
    /// Customer key (SSE-C) of the source.
    #[arg(long, value_name = "WHERE")]
    source_customer_key: Option<KeySource>,
}

impl KeyFlags {
    /// Returns the flag that applies to the source.
    pub(super) fn of_source(&self) -> Flag {
        ("--source-customer-key", self.source_customer_key.is_some())
    }

    /// Returns the flag that applies to the destination.
    pub(super) fn of_destination(&self) -> Flag {
        ("--customer-key", self.customer_key.is_some())
    }

    pub(super) fn keys(&self) -> CustomerKeys {
        CustomerKeys {
            source: self.source_customer_key.clone(),
            destination: self.customer_key.clone(),
        }
    }
}

/// The names that S3 uses.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sse {
    #[value(name = "AES256")]
    S3,
    #[value(name = "aws:kms")]
    Kms,
    #[value(name = "aws:kms:dsse")]
    Dsse,
}

/// Parses `name=value`; the value may contain more `=`.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Parses a tag. S3 allows no comma in it, so `a=b,c=d` is meant as two.
fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = pair(text)?;
    if holds_pairs(&value) {
        return Err("write --tag KEY=VALUE once for each tag".to_owned());
    }
    Ok((key, value))
}

/// Returns true if a value goes on like `b,c=d`: the AWS CLI takes several pairs in one argument.
fn holds_pairs(value: &str) -> bool {
    let mut others = value.split(',').skip(1);
    others.any(|other| {
        let name = other.split_once('=').map_or("", |(name, _)| name.trim());
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
        !name.is_empty() && name.chars().all(legal)
    })
}

impl SetFlags {
    /// Warns of metadata that was probably meant as several pairs. It is legal, so it is written.
    pub(super) fn warn_of_joined_pairs(&self) {
        for (name, value) in &self.metadata {
            if holds_pairs(value) {
                note(&format!(
                    "warning: --metadata {name}: the value is the whole text `{value}`; to set several, write \
                     --metadata NAME=VALUE once for each"
                ));
            }
        }
    }

    pub(super) fn set_values(&self) -> SetValues {
        SetValues {
            metadata: self
                .metadata
                .iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
                .collect(),
            tags: self.tags.iter().cloned().collect(),
            content_type: self.content_type.clone(),
            content_encoding: self.content_encoding.clone(),
            content_language: self.content_language.clone(),
            content_disposition: self.content_disposition.clone(),
            cache_control: self.cache_control.clone(),
        }
    }

    pub(super) fn encryption(&self) -> Result<Option<Encryption>, CliError> {
        let key = self.sse_kms_key_id.clone();
        match (self.sse, &key) {
            (Some(Sse::Kms), _) => Ok(Some(Encryption::Kms {
                key,
                bucket_key: None,
                dsse: false,
            })),
            (Some(Sse::Dsse), _) => Ok(Some(Encryption::Kms {
                key,
                bucket_key: None,
                dsse: true,
            })),
            (Some(Sse::S3), None) => Ok(Some(Encryption::S3)),
            (None, None) => Ok(None),
            (_, Some(_)) => {
                let message =
                    "--sse-kms-key-id names a key of KMS; add --sse aws:kms or --sse aws:kms:dsse";
                Err(CliError::Usage(message.to_owned()))
            }
        }
    }
}
