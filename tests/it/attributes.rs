//! Attributes that cannot be kept. By its policy, the object fails before it is published, or the
//! receipt has a loss; both routes do the same.

mod tags;

use std::time::{Duration, UNIX_EPOCH};

use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{Attribute, CustomerKeys, Encryption, KeySource, Policy, Transfer};
use s3haul::sandbox::{
    BucketOptions, Content, Effect, Encryption as Stored, Fault, Lock, ObjectSpec, Operation,
};
use s3haul::size::MIB;

use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, upload_all};

/// A small object and a large one: one for each route.
const BOTH: [(&str, u64); 2] = [("small", 10), ("large", 300 * MIB)];

fn put_both(world: &World, spec: &ObjectSpec) {
    for (key, size) in BOTH {
        world.put_with(key, size, spec);
    }
}

fn with(attribute: Attribute, policy: Policy) -> Transfer {
    let mut transfer = copy_all();
    transfer.preserve.set(attribute, policy);
    transfer
}

/// Asserts that both objects were copied, and that each receipt has exactly this loss.
fn assert_lost(world: &World, run: &Run, loss: &str) {
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 0),
        "{:?}",
        run.receipts
    );
    for receipt in &run.receipts {
        let losses: Vec<_> = receipt.losses.iter().map(ToString::to_string).collect();
        assert_eq!(losses, [loss], "{}", receipt.destination);
    }
    let counted: Vec<_> = run
        .outcome
        .losses
        .iter()
        .map(|(loss, objects)| (loss.to_string(), objects))
        .collect();
    assert_eq!(counted, [(loss.to_owned(), 2)]);
    world.assert_no_upload_is_left();
}

/// Asserts that both objects failed and neither was published.
fn assert_failed(world: &World, run: &Run, kind: &str) {
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (0, 2),
        "{:?}",
        run.receipts
    );
    for receipt in &run.receipts {
        let Ending::Failed { error } = &receipt.ending else {
            panic!("{receipt:?}")
        };
        assert_eq!(error.kind, kind, "{error:?}");
    }
    for (key, _) in BOTH {
        assert!(
            world.sandbox.store().versions(DESTINATION, key).is_empty(),
            "{key} was published"
        );
    }
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn a_denied_write_is_reported_as_denied() {
    let world = World::new().await;
    put_both(&world, &ObjectSpec::default().tag("a", "b"));
    world.deny(DESTINATION, Operation::CopyObject, "");
    world.deny(DESTINATION, Operation::CreateMultipartUpload, "");
    let run = world.run(copy_all()).await;
    assert_failed(&world, &run, "denied");
    assert!(
        run.outcome.losses.iter().next().is_none(),
        "nothing was there to lose"
    );
}

#[tokio::test]
async fn a_class_of_another_kind_of_bucket() {
    for (policy, kind) in [(Policy::Try, None), (Policy::Require, Some("not-kept"))] {
        let world = World::new().await;
        put_both(
            &world,
            &ObjectSpec::default().storage_class("EXPRESS_ONEZONE"),
        );
        let run = world.run(with(Attribute::StorageClass, policy)).await;
        if let Some(kind) = kind {
            assert_failed(&world, &run, kind);
            continue;
        }
        let loss = "storage_class not set: EXPRESS_ONEZONE is no class of destination; it is STANDARD there";
        assert_lost(&world, &run, loss);
    }
}

#[tokio::test]
async fn weaker_encryption_is_a_loss_and_stronger_is_not() {
    let kms = |key: &str| Stored::kms(format!("arn:aws:kms:{key}"));
    let dsse = Stored::Kms {
        key_id: "arn:aws:kms:d".to_owned(),
        bucket_key: false,
        dual_layer: true,
    };
    for (source, default, is_lost, loss) in [
        (
            kms("a"),
            Stored::Aes256,
            false,
            Some("aws:kms became AES256"),
        ),
        // The answers of the small one's copy and of the large one's Complete are.
        (
            kms("a"),
            Stored::Aes256,
            true,
            Some("aws:kms became AES256"),
        ),
        (dsse, kms("b"), false, Some("aws:kms:dsse became aws:kms")),
        (kms("a"), kms("b"), false, None),
        (Stored::Aes256, kms("b"), false, None),
    ] {
        let world = World::new().await;
        for operation in [Operation::CopyObject, Operation::CompleteMultipartUpload] {
            let lost = Effect::ErrorAfterEffect(500, "InternalError");
            world.add_fault(Fault::on(operation).first(u64::from(is_lost)).then(lost));
        }
        let options = BucketOptions {
            encryption: default,
            ..BucketOptions::default()
        };
        world.sandbox.store().create_bucket("target", options);
        put_both(&world, &ObjectSpec::default().encryption(source));
        let mut transfer = copy_all();
        transfer.to.location = "s3://target/".parse().unwrap();
        let run = world.run(transfer.clone()).await;
        match loss {
            Some(loss) => {
                assert_lost(
                    &world,
                    &run,
                    &format!("encryption weaker: {loss}, the default of target"),
                );
            }
            None => assert_eq!(
                (run.outcome.done_objects, run.outcome.objects_with_losses),
                (2, 0)
            ),
        }
        // A difference that the job requests is not a loss.
        transfer.to.encryption = Some(Encryption::S3);
        transfer.when = s3haul::manifest::job::When::Always;
        assert_eq!(world.run(transfer).await.outcome.objects_with_losses, 0);
    }
}

#[tokio::test]
async fn a_lock_that_the_destination_cannot_have() {
    for (policy, kind) in [(Policy::Try, None), (Policy::Require, Some("invalid"))] {
        let world = locked_source().await;
        let run = world.run(from_locked(policy)).await;
        match kind {
            Some(kind) => assert_failed(&world, &run, kind),
            None => assert_lost(&world, &run, "lock not set: destination has no Object Lock"),
        }
    }
}

/// Starts a sandbox whose bucket `locked` has both objects under retention and legal hold.
async fn locked_source() -> World {
    let world = World::new().await;
    let options = BucketOptions {
        object_lock: true,
        ..BucketOptions::default()
    };
    world.sandbox.store().create_bucket("locked", options);
    let until = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let lock = Lock {
        retention: Some(("GOVERNANCE".to_owned(), until)),
        legal_hold: Some(true),
    };
    for (key, size) in BOTH {
        let spec = ObjectSpec::default().lock(lock.clone());
        world.put_object("locked", key, Content::pattern(1, size), &spec);
    }
    world
}

fn from_locked(policy: Policy) -> Transfer {
    let mut transfer = with(Attribute::Lock, policy);
    let endpoint = s3haul::manifest::job::DEFAULT_ENDPOINT.to_owned();
    let location = "s3://locked/".parse().unwrap();
    transfer.from = s3haul::manifest::job::Source::Prefix { endpoint, location };
    transfer
}

/// HEAD omits attributes that the caller may not see. So their absence must be confirmed, not
/// assumed.
#[tokio::test]
async fn a_lock_that_may_not_be_seen() {
    for (policy, kind) in [(Policy::Try, None), (Policy::Require, Some("denied"))] {
        let world = locked_source().await;
        world.deny("locked", Operation::GetObjectRetention, "");
        world.deny("locked", Operation::GetObjectLegalHold, "");
        let run = world.run(from_locked(policy)).await;
        if let Some(kind) = kind {
            assert_failed(&world, &run, kind);
            continue;
        }
        assert_eq!(run.outcome.done_objects, 2, "{:?}", run.receipts);
        let counted: Vec<_> = run
            .outcome
            .losses
            .iter()
            .map(|(loss, n)| (loss.to_string(), n))
            .collect();
        let expected = [
            (
                "lock not readable: s3:GetObjectLegalHold missing on locked".to_owned(),
                2,
            ),
            (
                "lock not readable: s3:GetObjectRetention missing on locked".to_owned(),
                2,
            ),
        ];
        assert_eq!(counted, expected);
        assert_eq!(
            world.calls(Operation::GetObjectRetention),
            1,
            "asked once per bucket"
        );
    }
}

/// s3haul asks a versioned bucket once whether it has Object Lock. A bucket without versions cannot
/// have it.
#[tokio::test]
async fn that_there_is_no_lock_is_asked_once() {
    let buckets = BucketOptions {
        versioning: true,
        ..BucketOptions::default()
    };
    for policy in [Policy::Try, Policy::Require] {
        let world = World::with_buckets(buckets.clone()).await;
        for index in 0..20 {
            let spec = ObjectSpec::default();
            world.put_object(
                SOURCE,
                &format!("k{index}"),
                Content::pattern(index, 10),
                &spec,
            );
        }
        let mut job = world.job(with(Attribute::Lock, policy));
        job.limits.in_flight = Some(1);
        let run = world.try_run_job(&job).await.unwrap();
        assert_eq!(
            (run.outcome.done_objects, run.outcome.objects_with_losses),
            (20, 0),
            "{policy:?}"
        );
        assert_eq!(world.calls(Operation::GetObjectRetention), 1, "{policy:?}");
        assert_eq!(world.calls(Operation::GetObjectLegalHold), 1, "{policy:?}");
    }
}

/// Starts a sandbox whose source bucket has ACLs, with both objects readable by everybody.
async fn public_source() -> World {
    let world = World::new().await;
    world.sandbox.store().create_bucket(
        "public",
        BucketOptions {
            acls: true,
            ..BucketOptions::default()
        },
    );
    let spec = ObjectSpec::default()
        .grant("FULL_CONTROL", s3haul::sandbox::OWNER)
        .grant("READ", "http://acs.amazonaws.com/groups/global/AllUsers");
    for (key, size) in BOTH {
        world.put_object("public", key, Content::pattern(1, size), &spec);
    }
    world
}

#[tokio::test]
async fn acls_where_they_are_disabled_and_where_they_may_not_be_read() {
    let transfer = |policy| {
        let mut transfer = with(Attribute::Acl, policy);
        let endpoint = s3haul::manifest::job::DEFAULT_ENDPOINT.to_owned();
        let location = "s3://public/".parse().unwrap();
        transfer.from = s3haul::manifest::job::Source::Prefix { endpoint, location };
        transfer
    };
    let world = public_source().await;
    assert_lost(
        &world,
        &world.run(transfer(Policy::Try)).await,
        "acl not set: ACLs are disabled on destination",
    );
    let world = public_source().await;
    assert_failed(
        &world,
        &world.run(transfer(Policy::Require)).await,
        "invalid",
    );

    let world = public_source().await;
    world.deny("public", Operation::GetObjectAcl, "");
    let run = world.run(transfer(Policy::Try)).await;
    assert_lost(
        &world,
        &run,
        "acl not readable: s3:GetObjectAcl missing on public",
    );
    let world = public_source().await;
    world.deny("public", Operation::GetObjectAcl, "");
    assert_failed(
        &world,
        &world.run(transfer(Policy::Require)).await,
        "denied",
    );

    // By default, s3haul does not read ACLs, and copies are private on both routes.
    let world = public_source().await;
    let run = world.run(transfer(Policy::Skip)).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.objects_with_losses),
        (2, 0)
    );
    assert_eq!(world.calls(Operation::GetObjectAcl), 0);
    assert!(
        world
            .object(DESTINATION, "small")
            .unwrap()
            .attributes
            .grants
            .is_empty()
    );
}

#[tokio::test]
async fn annotations_are_left_behind_on_both_routes_unless_the_job_says_so() {
    let annotated = ObjectSpec::default().annotation("summary", "text");
    let world = World::new().await;
    put_both(&world, &annotated);
    world.deny(SOURCE, Operation::GetObjectAnnotation, "");
    let run = world.run(copy_all()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.objects_with_losses),
        (2, 0),
        "{:?}",
        run.receipts
    );
    for (key, _) in BOTH {
        let copy = world.object(DESTINATION, key).unwrap();
        assert!(copy.attributes.annotations.is_empty(), "{key}");
    }

    let world = World::new().await;
    put_both(&world, &annotated);
    world.deny(SOURCE, Operation::GetObjectAnnotation, "");
    let run = world.run(with(Attribute::Annotations, Policy::Try)).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.objects_with_losses),
        (2, 2),
        "{:?}",
        run.receipts
    );
    let world = World::new().await;
    put_both(&world, &annotated);
    world.deny(SOURCE, Operation::GetObjectAnnotation, "");
    assert_failed(
        &world,
        &world
            .run(with(Attribute::Annotations, Policy::Require))
            .await,
        "denied",
    );
}

/// An annotation is written to the object that the run has just written, or to none.
#[tokio::test]
async fn annotations_do_not_go_to_somebody_elses_object() {
    let world = World::new().await;
    let annotated = ObjectSpec::default().annotation("summary", "text");
    world.put_with("large", 300 * MIB, &annotated);
    let overwrite = Effect::hook(|store| {
        store.put_object(
            DESTINATION,
            "large",
            Content::pattern(9, 5),
            &ObjectSpec::default(),
        );
    });
    world.add_fault(
        Fault::on(Operation::PutObjectAnnotation)
            .nth(1)
            .then(overwrite),
    );
    let run = world
        .run(with(Attribute::Annotations, Policy::Require))
        .await;
    assert_eq!(run.error(), "precondition-failed");
    let there = world.object(DESTINATION, "large").unwrap();
    assert!(there.attributes.annotations.is_empty());
}

fn key_file(dir: &tempfile::TempDir, name: &str, byte: u8) -> KeySource {
    let path = dir.path().join(name);
    std::fs::write(&path, [byte; 32]).unwrap();
    KeySource::File(path)
}

/// A prefix can have both objects with a customer key and objects without.
#[tokio::test]
async fn a_customer_key_for_some_of_the_objects() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new().await;
    let key = key_file(&dir, "key", b'k');
    let mut into_source = upload_all(dir.path());
    into_source.to.location = "s3://source/encrypted/".parse().unwrap();
    into_source.customer_keys.destination = Some(key.clone());
    assert_eq!(world.run(into_source).await.outcome.done_objects, 1);
    put_both(&world, &ObjectSpec::default());
    let mut transfer = copy_all();
    transfer.customer_keys = CustomerKeys {
        source: Some(key),
        destination: None,
    };
    let run = world.run(transfer.clone()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (3, 0),
        "{:?}",
        run.receipts
    );
    assert_eq!(world.object(DESTINATION, "encrypted/key").unwrap().size, 32);

    // Without the key, or with another one, only the encrypted object fails, and the message says
    // why.
    transfer.when = s3haul::manifest::job::When::Always;
    for other in [None, Some(key_file(&dir, "other", b'x'))] {
        transfer.customer_keys.source = other;
        let run = world.run(transfer.clone()).await;
        assert_eq!((run.outcome.done_objects, run.error()), (2, "invalid"));
        let told = format!("{:?}", run.receipts);
        assert!(told.contains("needs that `customer_key`"), "{told}");
        assert!(
            !told.contains("kkkk") && !told.contains("a2tra2"),
            "a customer key is recorded: {told}"
        );
    }
}

#[tokio::test]
async fn a_customer_key_that_is_none_stops_the_run_before_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new().await;
    put_both(&world, &ObjectSpec::default());
    std::fs::write(dir.path().join("short"), "c2hvcnQ=").unwrap();
    let missing = "S3HAUL_TEST_NO_SUCH_KEY".to_owned();
    for (key, why) in [
        (KeySource::File(dir.path().join("short")), "32 bytes"),
        (KeySource::File(dir.path().join("none")), "No such file"),
        (
            KeySource::Env(missing),
            "S3HAUL_TEST_NO_SUCH_KEY: local-file: the variable is not set",
        ),
    ] {
        let mut transfer = copy_all();
        transfer.customer_keys.destination = Some(key);
        let failure = world
            .try_run_job(&world.job(transfer))
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(
            failure.contains(why) && !failure.contains("c2hv"),
            "{failure}"
        );
        assert_eq!(world.calls(Operation::CopyObject), 0);
    }
}

#[tokio::test]
async fn what_is_set_is_merged_over_what_is_kept_on_both_routes() {
    let world = World::new().await;
    put_both(
        &world,
        &ObjectSpec::default()
            .content_type("text/csv")
            .metadata("owner", "them")
            .metadata("kept", "yes")
            .tag("a", "b"),
    );
    let mut transfer = copy_all();
    transfer.set.metadata = [("owner".to_owned(), "us".to_owned())].into();
    transfer.set.tags = [("run".to_owned(), "1".to_owned())].into();
    transfer.set.cache_control = Some("no-store".to_owned());
    let run = world.run(transfer).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.objects_with_losses),
        (2, 0),
        "{:?}",
        run.receipts
    );
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    for (key, _) in BOTH {
        let copy = world.object(DESTINATION, key).unwrap().attributes;
        assert_eq!(
            copy.metadata,
            [pair("owner", "us"), pair("kept", "yes")].into(),
            "{key}"
        );
        assert_eq!(
            copy.tags,
            [pair("a", "b"), pair("run", "1")].into(),
            "{key}"
        );
        assert_eq!(copy.cache_control.as_deref(), Some("no-store"), "{key}");
        assert_eq!(copy.content_type.as_deref(), Some("text/csv"), "{key}");
    }
}
