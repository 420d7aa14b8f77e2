//! Compares the attributes of an object at the destination with those that the job sets.
//!
//! Only values that the job sets are compared (`set:`, `to.storage_class`, `to.encryption`,
//! `to.customer_key`). Attributes that a copy keeps from the source are not compared, because users
//! may have changed them at the destination on purpose. A list shows the storage class, and HEAD
//! shows all others except the tags.

use super::asked::{HeaderRules, KeyAlias, unlike_encryption, unlike_headers, unlike_metadata};
use crate::manifest::job::{Attribute, SetValues, Transfer};
use crate::s3::{Capabilities, ContentHeaders, Head, Tag};

/// S3's storage classes in the order in which lifecycle rules move objects. No rule moves objects
/// to a class of the first group.
const WATERFALL: [&[&str]; 7] = [
    &["STANDARD", "REDUCED_REDUNDANCY"],
    &["STANDARD_IA"],
    &["INTELLIGENT_TIERING"],
    &["ONEZONE_IA"],
    &["GLACIER_IR"],
    &["GLACIER"],
    &["DEEP_ARCHIVE"],
];

/// The relation of an object's storage class to the class that the job sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageClassMatch {
    /// The object has the class that the job sets, or the job sets none.
    AsSet,
    /// The object has another class, and no lifecycle rule can have moved it there.
    Differs,
    /// The object has another class. A lifecycle rule may have moved it there, and would do so
    /// again.
    MayBeMoved,
}

/// Compares the storage class of an object (`None` is STANDARD) with the class that the job sets.
#[must_use]
pub fn class(
    transfer: &Transfer,
    found: Option<&str>,
    capabilities: &Capabilities,
) -> StorageClassMatch {
    let Some(wanted) = transfer.to.storage_class.as_deref() else {
        return StorageClassMatch::AsSet;
    };
    let found = found.unwrap_or("STANDARD");
    if found == wanted {
        return StorageClassMatch::AsSet;
    }
    let step = |class: &str| {
        WATERFALL
            .iter()
            .position(|classes| classes.contains(&class))
    };
    match (step(found), step(wanted)) {
        // Other servers may show the same class for all objects, regardless of the requested class.
        (Some(found), Some(wanted)) if capabilities.restore_status_in_lists && found <= wanted => {
            StorageClassMatch::Differs
        }
        _ => StorageClassMatch::MayBeMoved,
    }
}

/// Returns an attribute in which the object differs from the job's values, as far as HEAD shows.
/// Values that the server may have changed count as equal, because it would change those of a new
/// copy in the same way. Compares neither the storage class nor the tags.
#[must_use]
pub fn unlike(transfer: &Transfer, found: &Head, capabilities: &Capabilities) -> Option<Attribute> {
    // Destructure, so that the compiler reports any value that is not compared.
    let SetValues {
        metadata,
        // [`has_set_tags`] compares the tags.
        tags: _,
        content_type,
        content_encoding,
        content_language,
        content_disposition,
        cache_control,
    } = &transfer.set;
    let headers = ContentHeaders {
        content_type: content_type.clone(),
        content_encoding: content_encoding.clone(),
        content_language: content_language.clone(),
        content_disposition: content_disposition.clone(),
        cache_control: cache_control.clone(),
        expires: None,
        website_redirect: None,
    };
    // A server that adds values would add them to each new copy. Amazon S3 adds none.
    let may_change = !capabilities.is_amazon;
    let rules = HeaderRules {
        compares_others: false,
        may_add: may_change,
    };
    if unlike_headers(&headers, &found.headers, rules).is_some() {
        return Some(Attribute::Headers);
    }
    if unlike_metadata(metadata, found, may_change).is_some() {
        return Some(Attribute::Metadata);
    }
    let is_encrypted = if transfer.customer_keys.destination.is_some() {
        found.customer_key
    } else {
        transfer.to.encryption.as_ref().is_none_or(|wanted| {
            let found = found.encryption.as_ref();
            unlike_encryption(wanted, found, KeyAlias::AnyOrHidden).is_none()
        })
    };
    (!is_encrypted).then_some(Attribute::Encryption)
}

/// Returns true if the object has all tags that the job sets.
#[must_use]
pub fn has_set_tags(transfer: &Transfer, found: &[Tag]) -> bool {
    let is_there = |(key, value): (&String, &String)| {
        found
            .iter()
            .any(|tag| (&tag.key, &tag.value) == (key, value))
    };
    transfer.set.tags.iter().all(is_there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::job::{DEFAULT_ENDPOINT, Destination, Encryption, Source, Trust};

    fn transfer(change: impl FnOnce(&mut Transfer)) -> Transfer {
        let endpoint = DEFAULT_ENDPOINT.to_owned();
        let from = Source::Prefix {
            endpoint: endpoint.clone(),
            location: "s3://source/".parse().unwrap(),
        };
        let location = "s3://destination/".parse().unwrap();
        let to = Destination {
            endpoint,
            location,
            storage_class: None,
            encryption: None,
            acl: None,
        };
        let mut transfer = Transfer::new("t", from, to);
        change(&mut transfer);
        transfer
    }

    #[test]
    fn a_class_that_no_lifecycle_rule_chooses_differs() {
        for (wanted, found, result) in [
            (None, Some("GLACIER"), StorageClassMatch::AsSet),
            (Some("STANDARD"), None, StorageClassMatch::AsSet),
            (
                Some("INTELLIGENT_TIERING"),
                None,
                StorageClassMatch::Differs,
            ),
            (
                Some("GLACIER_IR"),
                Some("STANDARD_IA"),
                StorageClassMatch::Differs,
            ),
            (
                Some("STANDARD"),
                Some("REDUCED_REDUNDANCY"),
                StorageClassMatch::Differs,
            ),
            (
                Some("STANDARD"),
                Some("GLACIER"),
                StorageClassMatch::MayBeMoved,
            ),
            (
                Some("STANDARD_IA"),
                Some("INTELLIGENT_TIERING"),
                StorageClassMatch::MayBeMoved,
            ),
            (
                Some("STANDARD"),
                Some("FAST"),
                StorageClassMatch::MayBeMoved,
            ),
        ] {
            let job = transfer(|transfer| transfer.to.storage_class = wanted.map(str::to_owned));
            assert_eq!(
                class(&job, found, &Capabilities::AWS),
                result,
                "{wanted:?} {found:?}"
            );
            let elsewhere = class(&job, found, &Capabilities::UNKNOWN_SERVER);
            assert_ne!(
                elsewhere,
                StorageClassMatch::Differs,
                "{wanted:?} {found:?}"
            );
        }
    }

    #[test]
    fn only_what_the_job_sets_is_compared() {
        let headers = ContentHeaders {
            cache_control: Some("no-store".into()),
            ..ContentHeaders::default()
        };
        let metadata = [("team".to_owned(), "blue".to_owned())].into();
        let found = Head {
            headers,
            metadata,
            ..Head::default()
        };
        let kms = |key: &str| Encryption::Kms {
            key: Some(key.into()),
            bucket_key: None,
            dsse: false,
        };
        let key = Head {
            encryption: Some(kms("arn:aws:kms:x:1:key/7")),
            ..found.clone()
        };
        let set = |change: fn(&mut Transfer)| transfer(change);
        let unlike = |job: &Transfer, found: &Head| unlike(job, found, &Capabilities::AWS);
        assert_eq!(unlike(&transfer(|_| {}), &found), None);
        assert_eq!(
            unlike(
                &set(|job| job.set.cache_control = Some("no-store".into())),
                &found
            ),
            None
        );
        let other = set(|job| job.set.cache_control = Some("max-age=1".into()));
        assert_eq!(unlike(&other, &found), Some(Attribute::Headers));
        let team = set(|job| job.set.metadata = [("team".to_owned(), "red".to_owned())].into());
        assert_eq!(unlike(&team, &found), Some(Attribute::Metadata));
        let encrypted = |wanted: Encryption| transfer(|job| job.to.encryption = Some(wanted));
        assert_eq!(
            unlike(&encrypted(Encryption::S3), &found),
            Some(Attribute::Encryption)
        );
        assert_eq!(unlike(&encrypted(kms("7")), &key), None);
        assert_eq!(unlike(&encrypted(kms("alias/lake")), &key), None);
        // Some servers show the encryption without its key.
        let keyless = Head {
            encryption: Some(Encryption::Kms {
                key: None,
                bucket_key: None,
                dsse: false,
            }),
            ..found.clone()
        };
        assert_eq!(unlike(&encrypted(kms("alias/lake")), &keyless), None);
        assert_eq!(
            unlike(&encrypted(kms("7")), &keyless),
            Some(Attribute::Encryption)
        );
        assert_eq!(
            unlike(&encrypted(kms("8")), &key),
            Some(Attribute::Encryption)
        );
        let tagged = set(|job| job.set.tags = [("a".to_owned(), "1".to_owned())].into());
        let tag = |value: &str| Tag {
            key: "a".into(),
            value: value.into(),
        };
        assert!(has_set_tags(&tagged, &[tag("1")]) && !has_set_tags(&tagged, &[tag("2")]));
    }

    #[test]
    fn values_that_a_server_writes_differently_are_equal() {
        let headers = ContentHeaders {
            content_type: Some("text/html; charset=utf-8".into()),
            content_encoding: Some("gzip,aws-chunked".into()),
            cache_control: Some("no-cache,no-store".into()),
            content_disposition: Some("=?UTF-8?Q?gr=C3=BCn?=".into()),
            ..ContentHeaders::default()
        };
        let found = Head {
            headers,
            metadata: [("city".to_owned(), "=?UTF-8?Q?Z=C3=BCrich?=".to_owned())].into(),
            encryption: Some(Encryption::Kms {
                key: Some("arn:aws:kms:mine".into()),
                bucket_key: None,
                dsse: false,
            }),
            ..Head::default()
        };
        let job = |change: fn(&mut Transfer)| transfer(change);
        let everywhere = job(|job| {
            job.set.cache_control = Some("no-cache, no-store".into());
            job.set.content_disposition = Some("grün".into());
            job.set.metadata = [("City".to_owned(), "Zürich".to_owned())].into();
            job.to.encryption = Some(Encryption::Kms {
                key: Some("mine".into()),
                bucket_key: Some(false),
                dsse: false,
            });
        });
        let additions = [
            job(|job| job.set.content_type = Some("text/html".into())),
            job(|job| job.set.content_encoding = Some("gzip".into())),
            job(|job| job.set.metadata = [("empty".to_owned(), String::new())].into()),
        ];
        let untrusted = Capabilities {
            trust: Trust::Nothing,
            ..Capabilities::AWS
        };
        for capabilities in [Capabilities::AWS, untrusted, Capabilities::UNKNOWN_SERVER] {
            assert_eq!(unlike(&everywhere, &found, &capabilities), None);
            // Amazon S3 adds nothing, so an added value is a difference.
            for job in &additions {
                let differs = unlike(job, &found, &capabilities).is_some();
                assert_eq!(differs, capabilities.is_amazon, "{:?}", job.set);
            }
        }
        let bucket_key = job(|job| {
            job.to.encryption = Some(Encryption::Kms {
                key: None,
                bucket_key: Some(true),
                dsse: false,
            });
        });
        let differs = unlike(&bucket_key, &found, &Capabilities::AWS);
        assert_eq!(differs, Some(Attribute::Encryption));
    }
}
