//! Compares the requested encryption with the encryption that HEAD shows.

use crate::manifest::job::Encryption;

/// The keys in HEAD that a KMS key alias in the request matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) enum KeyAlias {
    /// The alias matches any key that HEAD shows.
    Any,
    /// The alias matches any key, even if HEAD shows none.
    AnyOrHidden,
    /// The alias matches only itself: HEAD must show the same alias.
    OnlyItself,
}

/// Returns the difference between the encryption of an object and the requested encryption.
pub(in crate::plan) fn unlike_encryption(
    asked: &Encryption,
    shown: Option<&Encryption>,
    alias: KeyAlias,
) -> Option<&'static str> {
    let Some(shown) = shown else {
        return Some("no encryption");
    };
    let is_alias = |key: &str| key.contains("alias/");
    let is_same = match (asked, shown) {
        (Encryption::S3, Encryption::S3) => true,
        (Encryption::S3, Encryption::Kms { .. }) | (Encryption::Kms { .. }, Encryption::S3) => {
            false
        }
        (Encryption::Kms { key: Some(key), .. }, Encryption::Kms { key: None, .. })
            if !(is_alias(key) && alias == KeyAlias::AnyOrHidden) =>
        {
            return Some("no key");
        }
        (
            Encryption::Kms {
                key,
                bucket_key,
                dsse,
            },
            Encryption::Kms {
                key: shown_key,
                bucket_key: shown_bucket_key,
                dsse: shown_dsse,
            },
        ) => {
            // Some servers show a longer name than the request contains.
            let is_named = |key: &String| {
                let shown = shown_key.as_deref().unwrap_or_default();
                (is_alias(key) && alias != KeyAlias::OnlyItself)
                    || shown == key
                    || shown.ends_with(&format!("/{key}"))
                    || shown.ends_with(&format!(":{key}"))
            };
            // HEAD shows a bucket key only if there is one.
            let has_bucket_key = shown_bucket_key.unwrap_or(false);
            dsse == shown_dsse
                && key.as_ref().is_none_or(is_named)
                && bucket_key.is_none_or(|on| on == has_bucket_key)
        }
    };
    (!is_same).then_some("another encryption")
}
