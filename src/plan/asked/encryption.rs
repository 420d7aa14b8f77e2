//! Compares the requested encryption with the one that HEAD shows.

use crate::manifest::job::Encryption;
use crate::plan::adopt::encryption_is;

/// Returns the difference between the encryption of an object and the requested one.
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
            // HEAD shows the key behind an alias and not the alias, and a bucket key only if there
            // is one. Some servers show a longer name than the one in the request.
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
