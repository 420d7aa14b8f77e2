//! Compares the encryption that was asked for with the one that is shown.

use crate::manifest::job::Encryption;
use crate::plan::adopt::encryption_is;

/// Returns how the encryption of an object differs from the one that was asked for.
pub(super) fn unlike(asked: &Encryption, shown: Option<&Encryption>) -> Option<&'static str> {
    let Some(shown) = shown else {
        return Some("no encryption");
    };
    let is_same = match (asked, shown) {
        (Encryption::Kms { key: Some(_), .. }, Encryption::Kms { key: None, .. }) => {
            return Some("no key");
        }
        (
            Encryption::Kms {
                key,
                bucket_key,
                dsse,
            },
            Encryption::Kms { key: other, .. },
        ) => {
            // HEAD shows no alias, only the key behind it, and a bucket key only if there is one.
            // Some servers have longer names for the keys that they are told.
            let is_named = |key: &String| {
                let shown = other.as_deref().unwrap_or_default();
                key.contains("alias/") || shown.ends_with(&format!(":{key}"))
            };
            let asked = Encryption::Kms {
                key: key.clone().filter(|key| !is_named(key)),
                bucket_key: bucket_key.filter(|on| *on),
                dsse: *dsse,
            };
            encryption_is(Some(&asked), Some(shown))
        }
        _ => encryption_is(Some(asked), Some(shown)),
    };
    (!is_same).then_some("another encryption")
}
