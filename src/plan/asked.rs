//! Compares what a published object shows with what the request that made it asked for.
//!
//! Amazon S3 refuses what it cannot do; other servers may ignore it and answer with success. HEAD
//! shows the difference. Servers also differ in ways that lose nothing, and those are no
//! differences here: a storage class that is not shown is STANDARD, names of metadata may come back
//! in another case, blanks around values may be gone, a server may add encryption, headers, or
//! metadata that nobody asked for, and a text outside ASCII may come back encoded.

use super::claim::encryption_is;
use crate::manifest::job::{Attribute, Encryption};
use crate::s3::{Attributes, ContentHeaders, Head, Operation, Retention, Tags};

/// What an object was asked to have.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The attributes that were sent with the request that created it.
    pub attributes: &'a Attributes,
    /// The number of tags that HEAD showed of the source, for requests that carry tags along by
    /// themselves.
    pub source_tags: Option<u32>,
    /// True if a customer key (SSE-C) was sent.
    pub customer_key: bool,
}

/// A value that came out differently, and how, in words that are the same for all objects of a
/// bucket.
pub type Difference = (Attribute, String);

impl Asked<'_> {
    /// The number of tags that the object must have; `None` where that is not known.
    #[must_use]
    pub fn tags(&self) -> Option<u32> {
        match &self.attributes.tags {
            Tags::AsSource => self.source_tags,
            Tags::Exactly(tags) => u32::try_from(tags.len()).ok(),
        }
    }

    /// Returns the names of all that was asked for, the object itself first: a server that has kept
    /// each of them once knows them.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        let Attributes {
            headers,
            metadata,
            storage_class,
            encryption,
            lock,
            ..
        } = self.attributes;
        let all = [
            ("object", true),
            ("metadata", !metadata.is_empty()),
            ("tags", self.tags().is_some_and(|count| count > 0)),
            (
                "storage class",
                storage_class
                    .as_ref()
                    .is_some_and(|class| class != "STANDARD"),
            ),
            ("encryption", encryption.is_some() || self.customer_key),
            ("retention", lock.retention.is_some()),
            ("legal hold", lock.legal_hold == Some(true)),
            ("Content-Type", headers.content_type.is_some()),
            ("Content-Encoding", headers.content_encoding.is_some()),
            ("Content-Language", headers.content_language.is_some()),
            ("Content-Disposition", headers.content_disposition.is_some()),
            ("Cache-Control", headers.cache_control.is_some()),
            ("Expires", headers.expires.is_some()),
            ("redirect", headers.website_redirect.is_some()),
        ];
        all.into_iter()
            .filter_map(|(name, is_asked_for)| is_asked_for.then_some(name))
            .collect()
    }

    /// Returns what HEAD shows to be different from the request. What HEAD does not show at all may
    /// be hidden, see [`Asked::hidden`].
    #[must_use]
    pub fn differences(&self, found: &Head) -> Vec<Difference> {
        let Attributes {
            headers,
            storage_class,
            lock,
            ..
        } = self.attributes;
        let metadata = self
            .metadata(found)
            .map(|how| (Attribute::Metadata, how.to_owned()));
        let headers = unlike_headers(headers, &found.headers)
            .map(|name| (Attribute::Headers, format!("another {name}")));
        let tags = self
            .tags()
            .zip(found.tag_count)
            .filter(|(asked, shown)| *asked > 0 && asked != shown);
        let tags = tags
            .map(|(asked, shown)| (Attribute::Tags, format!("{shown} tags instead of {asked}")));
        let shown_class = found.storage_class.as_deref().unwrap_or("STANDARD");
        let class = storage_class
            .as_deref()
            .filter(|asked| *asked != shown_class);
        let class = class.map(|asked| {
            (
                Attribute::StorageClass,
                format!("{shown_class} instead of {asked}"),
            )
        });
        let encryption = self
            .encryption(found)
            .map(|how| (Attribute::Encryption, how.to_owned()));
        let retention = lock.retention.as_ref().zip(found.lock.retention.as_ref());
        let retention = retention
            .is_some_and(|(asked, shown)| is_weaker(asked, shown))
            .then(|| (Attribute::Lock, "a weaker retention".to_owned()));
        let hold = (lock.legal_hold == Some(true) && found.lock.legal_hold == Some(false))
            .then(|| (Attribute::Lock, "no legal hold".to_owned()));
        let all = [metadata, headers, tags, class, encryption, retention, hold];
        all.into_iter().flatten().collect()
    }

    /// Returns the questions that tell about what was asked for and HEAD does not show. S3 leaves
    /// out what the caller may not see, so that a missing value proves nothing.
    pub fn hidden(&self, found: &Head) -> impl Iterator<Item = (Attribute, Operation)> {
        let lock = &self.attributes.lock;
        let tags = self.tags().is_some_and(|count| count > 0) && found.tag_count.is_none();
        let retention = lock.retention.is_some() && found.lock.retention.is_none();
        let hold = lock.legal_hold == Some(true) && found.lock.legal_hold.is_none();
        let all = [
            (tags, Attribute::Tags, Operation::GetObjectTagging),
            (retention, Attribute::Lock, Operation::GetObjectRetention),
            (hold, Attribute::Lock, Operation::GetObjectLegalHold),
        ];
        all.into_iter()
            .filter_map(|(is_hidden, attribute, by)| is_hidden.then_some((attribute, by)))
    }

    fn metadata(&self, found: &Head) -> Option<&'static str> {
        let shown = |name: &str| {
            let mut all = found.metadata.iter();
            all.find(|(other, _)| other.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.as_str())
        };
        let mut missing = 0;
        for (name, value) in &self.attributes.metadata {
            match shown(name) {
                Some(other) if is_alike(value, other) => {}
                Some(_) => return Some("other values"),
                // Some servers do not store empty values.
                None => missing += u32::from(!value.trim().is_empty()),
            }
        }
        (missing > found.missing_metadata).then_some("less of it")
    }

    fn encryption(&self, found: &Head) -> Option<&'static str> {
        if self.customer_key {
            return (!found.customer_key).then_some("no encryption with the customer key");
        }
        let asked = match self.attributes.encryption.clone()? {
            // HEAD shows no alias, only the key behind it, and a bucket key only if there is one.
            Encryption::Kms {
                key,
                bucket_key,
                dsse,
            } => Encryption::Kms {
                key: key.filter(|key| !key.contains("alias/")),
                bucket_key: bucket_key.filter(|on| *on),
                dsse,
            },
            Encryption::S3 => Encryption::S3,
        };
        let shown = match (&asked, found.encryption.clone()) {
            // Servers with one key, or with names of their own for keys, show none or a longer
            // name.
            (
                Encryption::Kms { key: Some(key), .. },
                Some(Encryption::Kms {
                    key: other,
                    bucket_key,
                    dsse,
                }),
            ) => {
                let is_it = other
                    .as_ref()
                    .is_none_or(|other| other.ends_with(&format!(":{key}")));
                let other = if is_it { Some(key.clone()) } else { other };
                Some(Encryption::Kms {
                    key: other,
                    bucket_key,
                    dsse,
                })
            }
            (_, shown) => shown,
        };
        match shown {
            None => Some("no encryption"),
            shown => (!encryption_is(Some(&asked), shown.as_ref())).then_some("another encryption"),
        }
    }
}

/// Values that lost nothing on their way. A text outside ASCII may come back encoded, as S3 does
/// it.
fn is_alike(asked: &str, shown: &str) -> bool {
    let is_encoded = |text: &str| !text.is_ascii() || text.trim_start().starts_with("=?");
    asked.trim() == shown.trim()
        || ((is_encoded(asked) || is_encoded(shown)) && !shown.trim().is_empty())
}

/// Returns true if a retention holds less than the one that was asked for. A longer one may come of
/// a rule of the bucket.
fn is_weaker(asked: &Retention, shown: &Retention) -> bool {
    let strength =
        |retention: &Retention| u8::from(retention.mode.eq_ignore_ascii_case("COMPLIANCE"));
    strength(shown) < strength(asked) || shown.until.as_second() < asked.until.as_second()
}

/// Compares the value of a header that was asked for with the one that is shown.
type Same<'a> = &'a dyn Fn(&str, &str) -> bool;

/// Returns the name of the first header that was asked for and is missing or different.
fn unlike_headers(asked: &ContentHeaders, shown: &ContentHeaders) -> Option<&'static str> {
    let is_same_type = |asked: &str, shown: &str| {
        let plain = |text: &str| text.to_ascii_lowercase().replace([' ', '\t'], "");
        let (asked, shown) = (plain(asked), plain(shown));
        asked == shown
            || shown
                .strip_prefix(&asked)
                .is_some_and(|rest| rest.starts_with(";charset="))
    };
    let is_same_encoding = |asked: &str, shown: &str| {
        let codings = |text: &str| {
            let all = text
                .split(',')
                .map(|coding| coding.trim().to_ascii_lowercase());
            all.filter(|coding| !coding.is_empty() && coding != "aws-chunked")
                .collect::<Vec<_>>()
        };
        codings(asked) == codings(shown)
    };
    let is_same_list = |asked: &str, shown: &str| asked.replace(' ', "") == shown.replace(' ', "");
    let is_same_date = |asked: &str, shown: &str| {
        let date = |text: &str| {
            jiff::fmt::rfc2822::parse(text.trim())
                .ok()
                .map(|date| date.timestamp())
        };
        is_alike(asked, shown) || (date(asked).is_some() && date(asked) == date(shown))
    };
    let all: [(&Option<String>, &Option<String>, &'static str, Same<'_>); 7] = [
        (
            &asked.content_type,
            &shown.content_type,
            "Content-Type",
            &is_same_type,
        ),
        (
            &asked.content_encoding,
            &shown.content_encoding,
            "Content-Encoding",
            &is_same_encoding,
        ),
        (
            &asked.content_language,
            &shown.content_language,
            "Content-Language",
            &is_same_list,
        ),
        (
            &asked.content_disposition,
            &shown.content_disposition,
            "Content-Disposition",
            &is_alike,
        ),
        (
            &asked.cache_control,
            &shown.cache_control,
            "Cache-Control",
            &is_same_list,
        ),
        (&asked.expires, &shown.expires, "Expires", &is_same_date),
        (
            &asked.website_redirect,
            &shown.website_redirect,
            "redirect",
            &is_alike,
        ),
    ];
    let differs = all.into_iter().find(|(asked, shown, _, is_same)| {
        asked
            .as_ref()
            .is_some_and(|asked| !is_same(asked, shown.as_deref().unwrap_or_default()))
    });
    differs.map(|(_, _, name, _)| name)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::s3::{Lock, Tag};

    fn differences(attributes: &Attributes, found: &Head) -> Vec<String> {
        let asked = Asked {
            attributes,
            source_tags: None,
            customer_key: false,
        };
        asked
            .differences(found)
            .into_iter()
            .map(|(attribute, how)| format!("{attribute}: {how}"))
            .collect()
    }

    #[expect(clippy::unnecessary_wraps, reason = "headers are optional")]
    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    #[test]
    fn what_servers_change_without_loss_is_no_difference() {
        let asked = Attributes {
            headers: ContentHeaders {
                content_type: text("text/html; charset=UTF-8"),
                content_encoding: text("gzip"),
                cache_control: text("no-cache, no-store"),
                expires: text("Thu, 01 Jan 2032 00:00:00 GMT"),
                ..ContentHeaders::default()
            },
            metadata: [("Team", " blue "), ("empty", ""), ("city", "Zürich")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            tags: Tags::Exactly(Vec::new()),
            ..Attributes::default()
        };
        let found = Head {
            headers: ContentHeaders {
                content_type: text("text/html;charset=utf-8"),
                content_encoding: text("gzip,aws-chunked"),
                cache_control: text("no-cache,no-store"),
                expires: text("Thu, 1 Jan 2032 00:00:00 +0000"),
                content_language: text("en"),
                ..ContentHeaders::default()
            },
            metadata: [
                ("team", "blue"),
                ("city", "=?UTF-8?Q?Z=C3=BCrich?="),
                ("of-the-server", "1"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            storage_class: text("STANDARD"),
            encryption: Some(Encryption::S3),
            ..Head::default()
        };
        assert_eq!(differences(&asked, &found), Vec::<String>::new());
        let typed = Attributes {
            headers: ContentHeaders {
                content_type: text("text/plain"),
                ..ContentHeaders::default()
            },
            ..Attributes::default()
        };
        let with_charset = ContentHeaders {
            content_type: text("text/plain; charset=utf-8"),
            ..found.headers
        };
        assert_eq!(
            differences(
                &typed,
                &Head {
                    headers: with_charset,
                    ..Head::default()
                }
            )
            .len(),
            0
        );
    }

    #[test]
    fn what_is_missing_or_other_is_named() {
        let tag = |key: &str| Tag {
            key: key.into(),
            value: "v".into(),
        };
        let until = |second| Timestamp::new(second, 0).unwrap();
        let retention = |mode: &str, second| {
            Some(Retention {
                mode: mode.into(),
                until: until(second),
            })
        };
        let lock = Lock {
            retention: retention("COMPLIANCE", 9),
            legal_hold: Some(true),
        };
        let kms = |key: &str, bucket_key| Encryption::Kms {
            key: Some(key.into()),
            bucket_key,
            dsse: false,
        };
        let metadata = |value: &str| [("team".to_owned(), value.to_owned())].into();
        let headers = |value| ContentHeaders {
            cache_control: value,
            ..ContentHeaders::default()
        };
        let none = Attributes::default;
        let encrypted = |encryption| Attributes {
            encryption: Some(encryption),
            ..none()
        };
        let shown = |encryption| Head {
            encryption: Some(encryption),
            ..Head::default()
        };
        for (asked, found, outcome) in [
            (
                none(),
                Head {
                    tag_count: Some(1),
                    ..Head::default()
                },
                None,
            ),
            (
                Attributes {
                    metadata: metadata("blue"),
                    ..none()
                },
                Head::default(),
                Some("metadata: less of it"),
            ),
            (
                Attributes {
                    metadata: metadata("blue"),
                    ..none()
                },
                Head {
                    metadata: metadata("red"),
                    ..Head::default()
                },
                Some("metadata: other values"),
            ),
            (
                Attributes {
                    metadata: metadata("blue"),
                    ..none()
                },
                Head {
                    missing_metadata: 1,
                    ..Head::default()
                },
                None,
            ),
            (
                Attributes {
                    headers: headers(text("no-store")),
                    ..none()
                },
                Head::default(),
                Some("headers: another Cache-Control"),
            ),
            (
                Attributes {
                    tags: Tags::Exactly(vec![tag("a"), tag("b")]),
                    ..none()
                },
                Head {
                    tag_count: Some(1),
                    ..Head::default()
                },
                Some("tags: 1 tags instead of 2"),
            ),
            (
                Attributes {
                    tags: Tags::Exactly(vec![tag("a")]),
                    ..none()
                },
                Head::default(),
                None,
            ),
            (
                Attributes {
                    storage_class: text("GLACIER_IR"),
                    ..none()
                },
                Head::default(),
                Some("storage_class: STANDARD instead of GLACIER_IR"),
            ),
            (
                Attributes {
                    storage_class: text("STANDARD"),
                    ..none()
                },
                Head::default(),
                None,
            ),
            (
                encrypted(Encryption::S3),
                Head::default(),
                Some("encryption: no encryption"),
            ),
            (
                encrypted(kms("alias/lake", None)),
                shown(kms("arn:aws:kms:x:1:key/7", None)),
                None,
            ),
            (
                encrypted(kms("7", Some(false))),
                shown(kms("arn:aws:kms:x:1:key/7", None)),
                None,
            ),
            (
                encrypted(kms("mine", None)),
                shown(kms("arn:aws:kms:mine", None)),
                None,
            ),
            (
                encrypted(kms("8", None)),
                shown(kms("k/7", None)),
                Some("encryption: another encryption"),
            ),
            (
                encrypted(kms("7", Some(true))),
                shown(kms("k/7", None)),
                Some("encryption: another encryption"),
            ),
            (
                Attributes {
                    lock: lock.clone(),
                    ..none()
                },
                Head {
                    lock: Lock {
                        retention: retention("GOVERNANCE", 10),
                        legal_hold: Some(true),
                    },
                    ..Head::default()
                },
                Some("lock: a weaker retention"),
            ),
            (
                Attributes {
                    lock: lock.clone(),
                    ..none()
                },
                Head {
                    lock: Lock {
                        retention: retention("COMPLIANCE", 10),
                        legal_hold: Some(false),
                    },
                    ..Head::default()
                },
                Some("lock: no legal hold"),
            ),
            (Attributes { lock, ..none() }, Head::default(), None),
        ] {
            let outcome: Vec<_> = outcome.into_iter().collect();
            assert_eq!(differences(&asked, &found), outcome, "{asked:?} {found:?}");
        }
    }

    #[test]
    fn what_head_does_not_show_is_asked_for() {
        let tags = Tags::Exactly(vec![Tag {
            key: "a".into(),
            value: "v".into(),
        }]);
        let lock = Lock {
            retention: None,
            legal_hold: Some(true),
        };
        let attributes = Attributes {
            tags,
            lock,
            ..Attributes::default()
        };
        let asked = Asked {
            attributes: &attributes,
            source_tags: None,
            customer_key: false,
        };
        let hidden: Vec<_> = asked.hidden(&Head::default()).map(|(_, by)| by).collect();
        assert_eq!(
            hidden,
            [Operation::GetObjectTagging, Operation::GetObjectLegalHold]
        );
        let carried = Attributes::default();
        let carried = |source_tags| Asked {
            attributes: &carried,
            source_tags,
            customer_key: false,
        };
        assert_eq!(carried(None).hidden(&Head::default()).count(), 0);
        assert_eq!(carried(Some(2)).hidden(&Head::default()).count(), 1);
        let keyed = Asked {
            customer_key: true,
            ..carried(None)
        };
        assert_eq!(keyed.differences(&Head::default()).len(), 1);
        assert_eq!(
            keyed
                .differences(&Head {
                    customer_key: true,
                    ..Head::default()
                })
                .len(),
            0
        );
    }
}
