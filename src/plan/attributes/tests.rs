//! Tests which attributes are kept, by policy and route.

use super::*;
use crate::manifest::job::{Destination, Preset, Source};
use crate::plan::parts::PartLayout;
use crate::s3::{Checksum, Grant, Permission, Retention};

fn transfer() -> Transfer {
    let location = "s3://destination/".parse().unwrap();
    let to = Destination {
        endpoint: "default".into(),
        location,
        storage_class: None,
        encryption: None,
        acl: None,
    };
    Transfer::new("t", Source::Stdin, to)
}

fn head() -> Head {
    Head {
        size: 7,
        storage_class: Some("STANDARD_IA".into()),
        headers: ContentHeaders {
            content_type: Some("text/plain".into()),
            expires: Some("no date".into()),
            website_redirect: Some("/elsewhere".into()),
            ..ContentHeaders::default()
        },
        metadata: [("owner".to_owned(), "=?UTF-8?B?w7w=?=".to_owned())].into(),
        encryption: Some(kms(false)),
        ..Head::default()
    }
}

fn kms(dsse: bool) -> Encryption {
    Encryption::Kms {
        key: Some("key".into()),
        bucket_key: None,
        dsse,
    }
}

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const MULTIPART: Route = Route::MultipartCopy(PartLayout::uniform(7, 7, 1));

fn spec(head: &Head, transfer: &Transfer) -> Result<Spec, Loss> {
    of_copy(head, transfer, &Capabilities::AWS, &Route::Copy, NOW)
}

#[test]
fn both_routes_get_the_same_attributes_but_for_the_declared_checksum() {
    let copy = spec(&head(), &transfer()).unwrap().attributes;
    let multipart = of_copy(&head(), &transfer(), &Capabilities::AWS, &MULTIPART, NOW)
        .unwrap()
        .attributes;
    assert_eq!(
        Attributes {
            checksum: None,
            ..multipart.clone()
        },
        copy
    );
    assert_eq!(copy.headers, head().headers);
    assert_eq!(copy.storage_class.as_deref(), Some("STANDARD_IA"));
    assert_eq!(
        multipart.checksum,
        Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject))
    );
}

#[test]
fn the_sources_algorithm_is_declared_where_parts_can_be_combined() {
    for (algorithm, declared) in [
        (ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc32c),
        (ChecksumAlgorithm::Sha256, ChecksumAlgorithm::Crc64Nvme),
    ] {
        let checksum = Checksum {
            algorithm,
            kind: ChecksumKind::FullObject,
            value: "x".into(),
        };
        let head = Head {
            checksum: Some(checksum),
            ..head()
        };
        let spec = of_copy(&head, &transfer(), &Capabilities::AWS, &MULTIPART, NOW).unwrap();
        assert_eq!(
            spec.attributes.checksum,
            Some((declared, ChecksumKind::FullObject))
        );
    }
    let cautious = of_copy(
        &head(),
        &transfer(),
        &Capabilities::UNKNOWN_SERVER,
        &MULTIPART,
        NOW,
    )
    .unwrap();
    assert_eq!(
        cautious.attributes.checksum, None,
        "unknown headers are not sent to servers that may refuse them"
    );
}

#[test]
fn content_only_is_the_bytes_and_what_the_job_sets() {
    let mut transfer = transfer();
    transfer.preserve = Preset::ContentOnly.into();
    let bare = spec(&head(), &transfer).unwrap();
    let nothing = Attributes {
        tags: Tags::Exactly(vec![]),
        ..Attributes::default()
    };
    assert_eq!(
        bare,
        Spec {
            attributes: nothing,
            losses: vec![],
            note: None,
        }
    );
    transfer.to.storage_class = Some("GLACIER_IR".into());
    transfer.set.content_type = Some("text/csv".into());
    transfer.set.metadata.insert("a".into(), "b".into());
    transfer.set.tags.insert("c".into(), "d".into());
    let Attributes {
        headers,
        metadata,
        tags,
        storage_class,
        ..
    } = spec(&head(), &transfer).unwrap().attributes;
    assert_eq!(headers.content_type.as_deref(), Some("text/csv"));
    assert_eq!(metadata, [("a".to_owned(), "b".to_owned())].into());
    assert_eq!(
        tags,
        Tags::Exactly(vec![Tag {
            key: "c".into(),
            value: "d".into()
        }])
    );
    assert_eq!(storage_class.as_deref(), Some("GLACIER_IR"));
}

#[test]
fn what_is_set_is_merged_over_what_is_kept() {
    let mut transfer = transfer();
    transfer.set.metadata = [
        ("owner".to_owned(), "us".to_owned()),
        ("run".to_owned(), "1".to_owned()),
    ]
    .into();
    transfer.set.cache_control = Some("no-store".into());
    let attributes = spec(&head(), &transfer).unwrap().attributes;
    assert_eq!(attributes.metadata, transfer.set.metadata);
    assert_eq!(
        attributes.headers.cache_control.as_deref(),
        Some("no-store")
    );
    assert_eq!(
        attributes.headers.content_type.as_deref(),
        Some("text/plain")
    );
    let large = Head {
        metadata: [("x".to_owned(), "y".repeat(2040))].into(),
        ..head()
    };
    let loss = spec(&large, &transfer).unwrap_err();
    assert_eq!(
        (loss.attribute, loss.lost),
        (Attribute::Metadata, Lost::NotSet)
    );
    transfer.preserve.metadata = Policy::Try;
    let tried = spec(&large, &transfer).unwrap();
    assert_eq!(
        (&tried.attributes.metadata, tried.losses.as_slice()),
        (&transfer.set.metadata, &[loss][..])
    );

    transfer.set.tags = [("a".to_owned(), "new".to_owned())].into();
    let tag = |key: &str, value: &str| Tag {
        key: key.into(),
        value: value.into(),
    };
    let merged = merged_tags(vec![tag("a", "old"), tag("b", "kept")], &transfer);
    assert_eq!(merged, Ok(vec![tag("b", "kept"), tag("a", "new")]));
    let many = (0..10).map(|i| tag(&i.to_string(), "")).collect();
    assert_eq!(merged_tags(many, &transfer).unwrap_err().lost, Lost::NotSet);
}

#[test]
fn what_can_not_be_kept_is_a_loss_or_the_end_by_its_policy() {
    let foreign = Head {
        storage_class: Some("EXPRESS_ONEZONE".into()),
        ..head()
    };
    let hidden = Head {
        missing_metadata: 1,
        ..head()
    };
    let held = Head {
        event_hold: true,
        ..head()
    };
    let customer = Head {
        customer_key: true,
        encryption: None,
        ..head()
    };
    for (head, attribute) in [
        (foreign, Attribute::StorageClass),
        (hidden, Attribute::Metadata),
        (held, Attribute::Lock),
        (customer, Attribute::Encryption),
    ] {
        let mut transfer = transfer();
        transfer.preserve.set(attribute, Policy::Require);
        assert_eq!(spec(&head, &transfer).unwrap_err().attribute, attribute);
        transfer.preserve.set(attribute, Policy::Try);
        let tried = spec(&head, &transfer).unwrap();
        let told: Vec<_> = tried.losses.iter().map(|loss| loss.attribute).collect();
        // The encryption is known only once the object exists.
        let expected = if attribute == Attribute::Encryption {
            vec![]
        } else {
            vec![attribute]
        };
        assert_eq!(told, expected);
        transfer.preserve.set(attribute, Policy::Skip);
        assert_eq!(spec(&head, &transfer).unwrap().losses, []);
    }
}

#[test]
fn the_sources_key_is_asked_for_only_where_it_is_required() {
    let mut transfer = transfer();
    assert_eq!(
        spec(&head(), &transfer).unwrap().attributes.encryption,
        None
    );
    for (written, weaker) in [
        (Some(kms(true)), false),
        (Some(kms(false)), false),
        (Some(Encryption::S3), true),
        (None, true),
    ] {
        let loss = weaker_encryption(&head(), written.as_ref(), &transfer);
        assert_eq!(loss.is_some(), weaker, "{written:?}");
    }
    let plain = Head {
        encryption: Some(Encryption::S3),
        ..head()
    };
    assert_eq!(
        weaker_encryption(&plain, None, &transfer),
        None,
        "the server does not say"
    );
    transfer.preserve.encryption = Policy::Require;
    assert_eq!(
        spec(&head(), &transfer).unwrap().attributes.encryption,
        Some(kms(false))
    );
    transfer.to.encryption = Some(Encryption::S3);
    assert_eq!(
        spec(&head(), &transfer).unwrap().attributes.encryption,
        Some(Encryption::S3)
    );
    assert_eq!(
        weaker_encryption(&head(), Some(&Encryption::S3), &transfer),
        None,
        "the job says so"
    );
}

#[test]
fn a_retention_goes_along_while_it_lasts() {
    let until = |second| Retention {
        mode: "GOVERNANCE".into(),
        until: Timestamp::from_second(second).unwrap(),
    };
    let locked = |second, hold| {
        let lock = Lock {
            retention: Some(until(second)),
            legal_hold: hold,
        };
        spec(&Head { lock, ..head() }, &transfer())
            .unwrap()
            .attributes
            .lock
    };
    assert_eq!(
        locked(10, Some(true)),
        Lock {
            retention: Some(until(10)),
            legal_hold: Some(true)
        }
    );
    assert_eq!(locked(0, Some(false)), Lock::default());
    let mut transfer = transfer();
    let ended = Head {
        lock: Lock {
            retention: Some(until(-1)),
            legal_hold: None,
        },
        ..head()
    };
    for (policy, note) in [
        (Policy::Require, Some(RETENTION_ENDED)),
        (Policy::Try, Some(RETENTION_ENDED)),
        (Policy::Skip, None),
    ] {
        transfer.preserve.lock = policy;
        let spec = spec(&ended, &transfer).unwrap();
        assert_eq!((spec.losses, spec.note), (vec![], note), "{policy:?}");
    }
}

#[test]
fn tags_that_fit_into_no_header_come_after() {
    let tags = |count: usize, length: usize| {
        let tag = |i| Tag {
            key: format!("k{i}"),
            value: "ü".repeat(length),
        };
        Attributes {
            tags: Tags::Exactly((0..count).map(tag).collect()),
            ..Attributes::default()
        }
    };
    assert_eq!(take_late_tags(&mut tags(2, 100), &Capabilities::AWS), []);
    let mut large = tags(10, 100);
    assert_eq!(
        take_late_tags(&mut large, &Capabilities::AWS).len(),
        10,
        "12,000 bytes in percent signs"
    );
    assert_eq!(large.tags, Tags::Exactly(vec![]));
    let grant = Grant {
        permission: Permission::Read,
        grantee: "x".repeat(4000),
    };
    let mut crowded = Attributes {
        grants: vec![grant],
        ..tags(2, 100)
    };
    assert_eq!(take_late_tags(&mut crowded, &Capabilities::AWS).len(), 2);
    assert_eq!(
        take_late_tags(&mut Attributes::default(), &Capabilities::AWS),
        [],
        "CopyObject carries them without a header"
    );
}

#[test]
fn reads_are_what_no_other_request_tells() {
    let reads = |transfer: &Transfer, route: &Route| Reads::of(transfer, &Capabilities::AWS, route);
    let head = Reads {
        head: true,
        tags: false,
        acl: false,
        annotations: false,
    };
    let mut transfer = transfer();
    assert_eq!(reads(&transfer, &Route::Copy), head);
    assert_eq!(reads(&transfer, &MULTIPART), Reads { tags: true, ..head });
    transfer.set.tags.insert("a".into(), "b".into());
    assert_eq!(reads(&transfer, &Route::Copy), Reads { tags: true, ..head });
    transfer.preserve = Preset::Everything.into();
    let all = Reads {
        head: true,
        tags: true,
        acl: true,
        annotations: true,
    };
    assert_eq!(reads(&transfer, &MULTIPART), all);
    transfer.preserve = Preset::ContentOnly.into();
    assert_eq!(
        reads(&transfer, &Route::Copy),
        Reads {
            head: false,
            ..head
        }
    );
    assert_eq!(reads(&transfer, &MULTIPART), head);
    assert_eq!(
        Reads::of(&transfer, &Capabilities::UNKNOWN_SERVER, &Route::Copy),
        head
    );
    assert_eq!(all.operations().count(), 4);
}

#[test]
fn an_upload_is_typed_by_its_name_and_gets_what_is_set() {
    let typed = |name| {
        of_upload(name, &transfer(), &Capabilities::AWS)
            .headers
            .content_type
    };
    assert_eq!(typed("a/index.html").as_deref(), Some("text/html"));
    assert_eq!(
        typed("a/b.unknown").as_deref(),
        Some("application/octet-stream")
    );
    let mut transfer = transfer();
    transfer.set.content_type = Some("text/x".into());
    transfer.set.metadata.insert("a".into(), "b".into());
    let attributes = of_upload("a/index.html", &transfer, &Capabilities::AWS);
    assert_eq!(attributes.headers.content_type.as_deref(), Some("text/x"));
    assert_eq!(attributes.metadata, transfer.set.metadata);
}
