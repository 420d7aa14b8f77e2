//! Tests which values count as differences, and which questions are asked.

use jiff::Timestamp;

use super::*;
use crate::manifest::job::{CannedAcl, Encryption};
use crate::s3::{ContentHeaders, Grant, Lock, Permission};

fn asked(attributes: &Attributes) -> Asked<'_> {
    Asked::of(attributes, Operation::CopyObject, false)
}

fn differences(attributes: &Attributes, found: &Head) -> Vec<String> {
    asked(attributes)
        .differences(found)
        .into_iter()
        .map(|(attribute, how)| format!("{attribute}: {how}"))
        .collect()
}

fn assert_differs(attributes: &Attributes, found: &Head, how: Option<&str>) {
    let how: Vec<_> = how.into_iter().collect();
    assert_eq!(
        differences(attributes, found),
        how,
        "{attributes:?} {found:?}"
    );
}

fn none() -> Attributes {
    Attributes::default()
}

#[expect(clippy::unnecessary_wraps, reason = "headers are optional")]
fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

fn tag(key: &str, value: &str) -> Tag {
    Tag {
        key: key.into(),
        value: value.into(),
    }
}

fn tagged(tags: &[(&str, &str)]) -> Attributes {
    let tags = tags.iter().map(|(key, value)| tag(key, value)).collect();
    Attributes {
        tags: Tags::Exactly(tags),
        ..none()
    }
}

fn with_metadata(name: &str, value: &str) -> Attributes {
    Attributes {
        metadata: [(name.to_owned(), value.to_owned())].into(),
        ..none()
    }
}

fn typed(content_type: &str) -> ContentHeaders {
    ContentHeaders {
        content_type: text(content_type),
        ..ContentHeaders::default()
    }
}

fn kms(key: Option<&str>, bucket_key: Option<bool>) -> Encryption {
    Encryption::Kms {
        key: key.map(str::to_owned),
        bucket_key,
        dsse: false,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "retentions are optional")]
fn retention(mode: &str, second: i64) -> Option<Retention> {
    Some(Retention {
        mode: mode.into(),
        until: Timestamp::new(second, 0).unwrap(),
    })
}

fn locked(retention: Option<Retention>, legal_hold: Option<bool>) -> Lock {
    Lock {
        retention,
        legal_hold,
    }
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
        ..none()
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
        tag_count: Some(1),
        ..Head::default()
    };
    assert_differs(&asked, &found, None);
    let asked = Attributes {
        headers: typed("text/plain"),
        ..none()
    };
    let found = Head {
        headers: typed("text/plain; charset=utf-8"),
        ..Head::default()
    };
    assert_differs(&asked, &found, None);
}

#[test]
fn metadata_that_is_missing_or_other_is_named() {
    let shown = |value: &str, missing_metadata| Head {
        metadata: with_metadata("team", value).metadata,
        missing_metadata,
        ..Head::default()
    };
    let less = Some("metadata: less of it");
    let other = Some("metadata: other values");
    let team = with_metadata("team", "blue");
    assert_differs(&team, &Head::default(), less);
    assert_differs(&team, &shown("red", 0), other);
    assert_differs(&with_metadata("team", "größe"), &shown("gr??e", 0), other);
    let missing = |missing_metadata| Head {
        missing_metadata,
        ..Head::default()
    };
    // HEAD could show this value, so the server has lost it, whatever number of missing values it
    // reports.
    assert_differs(&team, &missing(1), less);
    let mut odd = with_metadata("a", "größe");
    assert_differs(&odd, &missing(0), less);
    assert_differs(&odd, &missing(1), None);
    odd.metadata.insert("b".to_owned(), "grün".to_owned());
    assert_differs(&odd, &missing(1), less);
    assert_differs(&odd, &missing(2), None);
}

#[test]
fn headers_tags_and_class_that_are_missing_or_other_are_named() {
    let cached = Attributes {
        headers: ContentHeaders {
            cache_control: text("no-store"),
            ..ContentHeaders::default()
        },
        ..none()
    };
    assert_differs(
        &cached,
        &Head::default(),
        Some("headers: another Cache-Control"),
    );
    let one = Head {
        tag_count: Some(1),
        ..Head::default()
    };
    let two = tagged(&[("a", "v"), ("b", "v")]);
    assert_differs(&two, &one, Some("tags: 1 tag instead of 2"));
    assert_differs(&tagged(&[("a", "v")]), &Head::default(), None);
    let class = |class| Attributes {
        storage_class: text(class),
        ..none()
    };
    assert_differs(
        &class("GLACIER_IR"),
        &Head::default(),
        Some("storage_class: STANDARD instead of GLACIER_IR"),
    );
    assert_differs(&class("STANDARD"), &Head::default(), None);
}

#[test]
fn weaker_or_other_encryption_is_named() {
    let arn = Some("arn:aws:kms:x:1:key/7");
    let another = Some("encryption: another encryption");
    let no_key = Some("encryption: no key");
    for (asked, shown, how) in [
        (Encryption::S3, None, Some("encryption: no encryption")),
        (Encryption::S3, Some(kms(arn, None)), another),
        (kms(None, None), Some(kms(None, None)), None),
        (kms(None, None), Some(Encryption::S3), another),
        (kms(Some("alias/lake"), None), Some(kms(arn, None)), None),
        (kms(Some("7"), Some(false)), Some(kms(arn, None)), None),
        (
            kms(Some("7"), Some(false)),
            Some(kms(arn, Some(true))),
            another,
        ),
        (
            kms(Some("mine"), None),
            Some(kms(Some("arn:aws:kms:mine"), None)),
            None,
        ),
        (kms(Some("8"), None), Some(kms(Some("k/7"), None)), another),
        (
            kms(Some("7"), Some(true)),
            Some(kms(Some("k/7"), None)),
            another,
        ),
        // The request named a key, and HEAD does not show that the object has this key.
        (kms(Some("7"), None), Some(kms(None, None)), no_key),
        (kms(Some("alias/lake"), None), Some(kms(None, None)), no_key),
    ] {
        let asked = Attributes {
            encryption: Some(asked),
            ..none()
        };
        let found = Head {
            encryption: shown,
            ..Head::default()
        };
        assert_differs(&asked, &found, how);
    }
}

#[test]
fn a_customer_key_that_is_not_shown_is_a_difference() {
    let attributes = none();
    let keyed = Asked::of(&attributes, Operation::CopyObject, true);
    assert_eq!(keyed.differences(&Head::default()).len(), 1);
    let found = Head {
        customer_key: true,
        ..Head::default()
    };
    assert_eq!(keyed.differences(&found).len(), 0);
}

#[test]
fn a_weaker_lock_is_named() {
    let asked = Attributes {
        lock: locked(retention("COMPLIANCE", 9), Some(true)),
        ..none()
    };
    for (lock, how) in [
        (
            locked(retention("GOVERNANCE", 10), Some(true)),
            Some("lock: a weaker retention"),
        ),
        (
            locked(retention("COMPLIANCE", 8), Some(true)),
            Some("lock: a weaker retention"),
        ),
        (
            locked(retention("COMPLIANCE", 10), Some(false)),
            Some("lock: no legal hold"),
        ),
        (locked(retention("COMPLIANCE", 10), Some(true)), None),
        (Lock::default(), None),
    ] {
        let found = Head {
            lock,
            ..Head::default()
        };
        assert_differs(&asked, &found, how);
    }
}

#[test]
fn what_head_does_not_show_is_asked_for() {
    let questions = |asked: Asked<'_>, found: &Head| -> Vec<_> {
        asked
            .questions(found)
            .map(|question| (question.by, question.kind, question.is_hidden))
            .collect()
    };
    let (tagging, hold) = (Operation::GetObjectTagging, Operation::GetObjectLegalHold);
    let attributes = Attributes {
        lock: locked(None, Some(true)),
        ..tagged(&[("a", "v")])
    };
    assert_eq!(
        questions(asked(&attributes), &Head::default()),
        [(tagging, "tags", true), (hold, "legal hold", true)]
    );
    let counted = |count| Head {
        tag_count: Some(count),
        ..Head::default()
    };
    let attributes = tagged(&[("a", "b c")]);
    let odd = "tags with special characters";
    assert_eq!(
        questions(asked(&attributes), &counted(1)),
        [(tagging, odd, false)],
        "a number says nothing about values"
    );
    assert_eq!(questions(asked(&attributes), &counted(2)), []);
    let carried = none();
    let of_source = |source_tags| Asked {
        source_tags,
        ..asked(&carried)
    };
    let tags = [tag("a", "b")];
    for (source, found, outcome) in [
        (SourceTags::Unknown, Head::default(), None),
        (SourceTags::Counted(0), Head::default(), None),
        (SourceTags::Counted(1), Head::default(), Some(true)),
        (SourceTags::Counted(1), counted(1), None),
        (SourceTags::Read(&[]), Head::default(), None),
        (SourceTags::Read(&tags), Head::default(), Some(true)),
        (SourceTags::Read(&tags), counted(1), Some(false)),
    ] {
        let outcome: Vec<_> = outcome
            .map(|is_hidden| (tagging, TAGS_OF_SOURCE, is_hidden))
            .into_iter()
            .collect();
        assert_eq!(questions(of_source(source), &found), outcome, "{source:?}");
    }
}

#[test]
fn answers_are_compared_with_what_was_asked_for() {
    let attributes = tagged(&[("a", "1"), ("b", "2")]);
    let other = |how: &str| Some(Unlike::Other(how.to_owned()));
    for (found, outcome) in [
        (vec![tag("b", "2"), tag("a", "1")], None),
        (vec![], Some(Unlike::Nothing)),
        (vec![tag("a", "1")], other("1 tag instead of 2")),
        (vec![tag("a", "1"), tag("b", "3")], other("other values")),
    ] {
        assert_eq!(asked(&attributes).unlike_tags(&found), outcome);
    }
    let attributes = Attributes {
        lock: locked(retention("GOVERNANCE", 9), Some(true)),
        ..none()
    };
    let asked_for = asked(&attributes);
    for (found, outcome) in [
        (retention("COMPLIANCE", 9), None),
        (retention("GOVERNANCE", 8), other("a weaker retention")),
        (None, Some(Unlike::Nothing)),
    ] {
        assert_eq!(asked_for.unlike_retention(found.as_ref()), outcome);
    }
    assert_eq!(asked_for.unlike_hold(Some(true)), None);
    assert_eq!(asked_for.unlike_hold(None), Some(Unlike::Nothing));
}

#[test]
fn grants_are_compared_with_what_was_asked_for() {
    let grant = |permission, grantee: &str| Grant {
        permission,
        grantee: grantee.into(),
    };
    let owner = grant(Permission::FullControl, "id=\"me\"");
    let reader = grant(Permission::Read, "id=\"you\"");
    let granted = Attributes {
        grants: vec![owner.clone(), reader.clone()],
        ..none()
    };
    let other = |how: &str| Some(Unlike::Other(how.to_owned()));
    let both = [reader.clone(), owner.clone()];
    assert_eq!(asked(&granted).unlike_grants(&both), None);
    assert_eq!(asked(&granted).unlike_grants(&[]), Some(Unlike::Nothing));
    assert_eq!(
        asked(&granted).unlike_grants(&[owner, grant(Permission::Read, "id=\"her\"")]),
        other("other grants")
    );
    let canned = |acl| Attributes {
        acl: Some(acl),
        ..none()
    };
    let private = canned(CannedAcl::Private);
    assert_eq!(asked(&private).unlike_grants(&[]), None);
    assert_eq!(
        asked(&private).unlike_grants(&[reader]),
        other("other grants than private")
    );
    let unknowable = canned(CannedAcl::BucketOwnerFullControl);
    assert_eq!(asked(&unknowable).questions(&Head::default()).count(), 0);
}

#[test]
fn each_kind_of_attribute_has_a_name() {
    let attributes = Attributes {
        headers: ContentHeaders {
            content_disposition: text("größe"),
            ..ContentHeaders::default()
        },
        ..with_metadata("city", "Zürich")
    };
    assert_eq!(
        asked(&attributes).kinds(),
        [
            "object",
            "metadata",
            "metadata outside ASCII",
            "headers outside ASCII",
            "Content-Disposition"
        ]
    );
    assert_eq!(asked(&tagged(&[("a", "b")])).kinds(), ["object", "tags"]);
}
