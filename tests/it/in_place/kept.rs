//! The attributes that a change in place changes or keeps.

use s3haul::manifest::job::{
    CannedAcl, CustomerKeys, Encryption, KeySource, Policy, Provider, Transfer,
};
use s3haul::sandbox::{BucketOptions, Encryption as Stored, Lock, ObjectSpec, Operation};
use s3haul::size::{ByteSize, GIB, MIB};

use super::{is_left, object, onto_itself, receipt, to_class, versioned};
use crate::world::{SOURCE, World};

fn rich() -> ObjectSpec {
    let mut spec = ObjectSpec::default()
        .content_type("text/css")
        .metadata("owner", "data")
        .tag("team", "a b")
        .storage_class("STANDARD_IA")
        .annotation("note", "x");
    spec.attributes.cache_control = Some("no-store".to_owned());
    spec.attributes.website_redirect = Some("/other".to_owned());
    spec
}

#[tokio::test]
async fn one_header_changes_and_everything_else_stays() {
    let buckets = BucketOptions {
        object_lock: true,
        acls: true,
        ..BucketOptions::default()
    };
    let world = World::with_buckets(buckets).await;
    let until = std::time::SystemTime::now() + std::time::Duration::from_hours(48);
    let lock = Lock {
        retention: Some(("GOVERNANCE".to_owned(), until)),
        legal_hold: Some(true),
    };
    let mut spec = rich()
        .lock(lock)
        .encryption(Stored::kms("arn:aws:kms:us-east-1:111122223333:key/1"))
        .grant("FULL_CONTROL", "111122223333")
        .grant("READ", "http://acs.amazonaws.com/groups/global/AllUsers");
    spec.attributes.expires = Some("never".to_owned());
    world.put_with("k", 10, &spec);
    let before = object(&world, "k");
    let change =
        || onto_itself(|transfer| transfer.set.content_type = Some("text/plain".to_owned()));
    let run = world.run(change()).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    let after = object(&world, "k");
    assert_eq!(after.content, before.content);
    assert_eq!(after.attributes.content_type.as_deref(), Some("text/plain"));
    let (mut kept, was) = ((*after.attributes).clone(), &before.attributes);
    kept.content_type.clone_from(&was.content_type);
    // Times are sent in whole seconds.
    let whole = |lock: &Lock| {
        let seconds = |time: std::time::SystemTime| {
            time.duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs()
        };
        (
            lock.retention
                .as_ref()
                .map(|(mode, until)| (mode.clone(), seconds(*until))),
            lock.legal_hold,
        )
    };
    assert_eq!(whole(&kept.lock), whole(&was.lock));
    kept.lock = was.lock.clone();
    kept.grants.sort();
    let mut grants = was.grants.clone();
    grants.sort();
    assert_eq!(kept.grants, grants);
    kept.grants.clone_from(&was.grants);
    assert_eq!(kept, **was);
    assert!(is_left(&world.run(change()).await, "k"));
}

#[tokio::test]
async fn metadata_tags_and_encryption_are_merged_and_then_left() {
    let world = World::new().await;
    world.put_with("k", 10, &rich());
    world.put("plain", 10);
    let change = || {
        onto_itself(|transfer| {
            transfer.set.metadata = [("year".to_owned(), "2026".to_owned())].into();
            transfer.set.tags = [("stage".to_owned(), "gold".to_owned())].into();
            let key = Some("arn:aws:kms:us-east-1:111122223333:key/2".to_owned());
            transfer.to.encryption = Some(Encryption::Kms {
                key,
                bucket_key: Some(true),
                dsse: false,
            });
        })
    };
    let run = world.run(change()).await;
    assert_eq!(run.outcome.done_objects, 2, "{:?}", run.receipts);
    let after = object(&world, "k").attributes;
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        map.iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(pairs(&after.metadata), "owner=data year=2026");
    assert_eq!(pairs(&after.tags), "stage=gold team=a b");
    assert_eq!(after.annotations.len(), 1);
    assert_eq!(after.class(), "STANDARD_IA");
    assert!(
        matches!(
            &after.encryption,
            Stored::Kms {
                bucket_key: true,
                ..
            }
        ),
        "{:?}",
        after.encryption
    );
    let run = world.run(change()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.skipped_objects),
        (0, 2),
        "{:?}",
        run.receipts
    );
}

#[tokio::test]
async fn metadata_can_be_removed() {
    let world = World::new().await;
    world.put_with("k", 10, &rich());
    let change = || onto_itself(|transfer| transfer.preserve.metadata = Policy::Skip);
    assert_eq!(world.run(change()).await.outcome.done_objects, 1);
    let after = object(&world, "k").attributes;
    assert!(
        after.metadata.is_empty() && after.tags.len() == 1 && after.annotations.len() == 1,
        "{after:?}"
    );
    assert!(is_left(&world.run(change()).await, "k"));
}

#[tokio::test]
async fn a_canned_acl_is_set_and_seen() {
    let buckets = BucketOptions {
        acls: true,
        ..BucketOptions::default()
    };
    let world = World::with_buckets(buckets).await;
    world.put_with("k", 10, &rich());
    let change = || onto_itself(|transfer| transfer.to.acl = Some(CannedAcl::PublicRead));
    assert_eq!(world.run(change()).await.outcome.done_objects, 1);
    let after = object(&world, "k").attributes;
    assert_eq!(
        (after.canned_acl.as_deref(), after.grants.len()),
        (Some("public-read"), 2)
    );
    assert_eq!(after.metadata.len(), 1);
    assert!(is_left(&world.run(change()).await, "k"));
}

/// An attribute that s3haul may not read would be lost with the old object.
#[tokio::test]
async fn attributes_that_cannot_be_read_are_not_lost() {
    for (operation, what) in [
        (Operation::GetObjectTagging, "Tagging"),
        (Operation::GetObjectAcl, "Acl"),
    ] {
        let world = World::new().await;
        world.put_with("k", 10, &rich());
        world.deny(SOURCE, operation, "");
        let run = world.run(to_class("GLACIER_IR")).await;
        assert_eq!(run.error(), "denied", "{what}");
        let told = format!("{:?}", run.receipts);
        assert!(
            what != "Acl" || told.contains("with `to.acl`, it is not read"),
            "{told}"
        );
        assert_eq!(
            object(&world, "k").attributes.class(),
            "STANDARD_IA",
            "{what}"
        );
        assert_eq!(object(&world, "k").attributes.tags.len(), 1, "{what}");
    }
}

#[tokio::test]
async fn a_customer_key_is_replaced() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let key = |name: &str, byte: u8| {
        let path = directory.path().join(name);
        std::fs::write(&path, [byte; 32]).unwrap();
        Some(KeySource::File(path))
    };
    let (old, new) = (key("old", 1), key("new", 2));
    world.put_with("k", 10, &ObjectSpec::default().metadata("m", "n"));
    let with = |source: &Option<KeySource>, destination: &Option<KeySource>| {
        onto_itself(|transfer| {
            transfer.customer_keys = CustomerKeys {
                source: source.clone(),
                destination: destination.clone(),
            };
        })
    };
    let md5 = |world: &World| match &object(world, "k").attributes.encryption {
        Stored::Customer { key_md5 } => key_md5.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(world.run(with(&None, &old)).await.outcome.done_objects, 1);
    let first = md5(&world);
    let run = world.run(with(&old, &new)).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    assert_ne!(md5(&world), first);
    let run = world.run(with(&old, &new)).await;
    assert!(is_left(&run, "k"), "{:?}", run.receipts);
    assert_eq!(object(&world, "k").attributes.metadata.len(), 1);
}

#[tokio::test]
async fn archived_objects_are_as_archived_says() {
    let world = World::new().await;
    world.put_with(
        "cold",
        10,
        &ObjectSpec::default().storage_class("DEEP_ARCHIVE"),
    );
    world.put_with("there", 10, &ObjectSpec::default().storage_class("GLACIER"));
    let run = world.run(to_class("GLACIER")).await;
    assert_eq!(run.error(), "archived");
    assert!(is_left(&run, "there"), "{:?}", run.receipts);
    let mut skip = to_class("STANDARD");
    skip.archived = s3haul::manifest::job::Archived::Skip;
    let run = world.run(skip).await;
    assert_eq!(
        (run.outcome.archived_objects, run.outcome.failed_objects),
        (2, 0),
        "{:?}",
        run.receipts
    );
}

/// The first run requests a restore, and a later one changes the object.
#[tokio::test]
async fn an_archived_object_is_restored_and_then_changed() {
    let world = World::new().await;
    world.put_with(
        "cold",
        10,
        &ObjectSpec::default()
            .storage_class("DEEP_ARCHIVE")
            .metadata("m", "n"),
    );
    let mut back = to_class("STANDARD");
    back.archived = s3haul::manifest::job::Archived::Restore;
    let run = world.run(back.clone()).await;
    assert_eq!(
        (run.outcome.restoring_objects, run.outcome.in_place_objects),
        (1, 0),
        "{:?}",
        run.receipts
    );
    let mut spec = ObjectSpec::default()
        .storage_class("DEEP_ARCHIVE")
        .metadata("m", "n");
    spec.attributes.restore = Some("ongoing-request=\"false\", expiry-date=\"x\"".to_owned());
    world.put_with("cold", 10, &spec);
    let run = world.run(back).await;
    assert_eq!(run.outcome.in_place_objects, 1, "{:?}", run.receipts);
    let after = object(&world, "cold").attributes;
    assert_eq!((after.class(), after.metadata.len()), ("STANDARD", 1));
}

/// Neither server supports conditions on the replaced object, so s3haul uses conditions on the
/// source, or a HEAD before the change.
#[tokio::test]
async fn other_servers_change_objects_too() {
    for provider in [Provider::Minio, Provider::Ceph, Provider::Other] {
        let world = World::of_provider(provider).await;
        world.put_with("k", 10, &ObjectSpec::default().metadata("m", "n"));
        world.put_with("large", 6 * GIB, &ObjectSpec::default().metadata("m", "n"));
        let change = || {
            onto_itself(|transfer| {
                transfer.set.metadata = [("x".to_owned(), "y".to_owned())].into();
            })
        };
        let run = world.run(change()).await;
        assert_eq!(
            run.outcome.done_objects, 2,
            "{provider:?} {:?}",
            run.receipts
        );
        for key in ["k", "large"] {
            assert_eq!(
                object(&world, key).attributes.metadata.len(),
                2,
                "{provider:?}"
            );
        }
        let run = world.run(change()).await;
        assert_eq!(
            run.outcome.skipped_objects, 2,
            "{provider:?} {:?}",
            run.receipts
        );
    }
}

/// If a server sets tags only on existing objects, a kill before that would lose them.
#[tokio::test]
async fn tags_that_would_come_late_fail_the_object() {
    let world = World::of_provider(Provider::Ceph).await;
    world.put_with("k", 10, &ObjectSpec::default().tag("a", "b"));
    let run = world
        .run(onto_itself(|transfer| {
            transfer.set.content_type = Some("a/b".to_owned());
        }))
        .await;
    assert_eq!(run.error(), "not-kept");
    assert_eq!(object(&world, "k").attributes.tags.len(), 1);
}

#[tokio::test]
async fn the_layout_and_the_old_version_are_kept() {
    let world = versioned().await;
    let spec = ObjectSpec::default()
        .part_sizes([100 * MIB, 100 * MIB])
        .metadata("m", "n");
    world.put_with("k", 250 * MIB, &spec);
    let before = object(&world, "k");
    let mut transfer = to_class("STANDARD_IA");
    transfer.parts.layout = s3haul::manifest::job::LayoutChoice::Source;
    transfer.parts.threshold = ByteSize(100 * MIB);
    let run = world.run(transfer).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.old_versions),
        (1, 1),
        "{:?}",
        run.receipts
    );
    assert_eq!(
        object(&world, "k").etag,
        before.etag,
        "`layout: source` keeps it"
    );
    assert!(receipt(&run, "k").leaves_old_version());
    assert_eq!(world.sandbox.store().versions(SOURCE, "k").len(), 2);
}

/// HEAD shows a bucket key only if there is one.
#[tokio::test]
async fn a_bucket_key_that_is_off_is_set_once() {
    let world = World::new().await;
    world.put("k", 10);
    let change = || {
        onto_itself(|transfer| {
            let key = Some("arn:aws:kms:us-east-1:111122223333:key/2".to_owned());
            transfer.to.encryption = Some(Encryption::Kms {
                key,
                bucket_key: Some(false),
                dsse: false,
            });
        })
    };
    let run = world.run(change()).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    assert!(is_left(&world.run(change()).await, "k"));
}

/// The object may have a charset or `aws-chunked` that its server did not add.
#[tokio::test]
async fn what_some_servers_add_is_removed_on_request() {
    let changes: [fn(&mut Transfer); 3] = [
        |job| job.set.content_encoding = Some("gzip".to_owned()),
        |job| job.set.content_type = Some("text/html".to_owned()),
        |job| job.set.metadata = [("flag".to_owned(), String::new())].into(),
    ];
    for provider in [Provider::Minio, Provider::Other] {
        let world = World::of_provider(provider).await;
        let mut spec = ObjectSpec::default().content_type("text/html; charset=iso-8859-1");
        spec.attributes.content_encoding = Some("gzip,aws-chunked".to_owned());
        world.put_with("k", 10, &spec);
        for change in changes {
            let run = world.run(onto_itself(change)).await;
            assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
            assert!(is_left(&world.run(onto_itself(change)).await, "k"));
        }
        let stored = object(&world, "k").attributes;
        assert_eq!(stored.content_type.as_deref(), Some("text/html"));
        assert_eq!(stored.content_encoding.as_deref(), Some("gzip"));
        assert_eq!(stored.metadata["flag"], "");
    }
}
