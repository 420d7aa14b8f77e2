//! A probe's findings about attributes that are ignored, refused, or required by the job.

use s3haul::manifest::job::{Attribute, Policy, Preserve, Preset};
use s3haul::probe::{How, Needs, ProbeVerdict};
use s3haul::s3::Operation as Request;
use s3haul::sandbox::{BucketOptions, Effect, Fault, Operation};

use super::{assert_clean, attribute, finding, odd, on, probed, request, try_probe};
use crate::world::{DESTINATION, World, copy_all, upload_all};

#[tokio::test]
async fn locked_scratch_objects_are_removed_when_their_lock_ends() {
    let options = BucketOptions {
        object_lock: true,
        ..BucketOptions::default()
    };
    let world = World::with_buckets(options).await;
    let probe = probed(&world).await;
    let lock = attribute(&probe, Attribute::Lock);
    assert_eq!(
        (lock.copy.how, lock.multipart.how, lock.put.how),
        (How::Kept, How::Kept, How::Moot)
    );
    assert_eq!((odd(&probe), probe.left.as_slice()), (vec![], &[][..]));
    assert_clean(&world, DESTINATION);
}

/// A server that ignores locks creates unprotected objects.
#[tokio::test]
async fn a_lock_that_is_ignored_fails_a_job_that_requires_it_and_one_that_is_refused_does_not() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    let preserve = Preserve {
        lock: Policy::Require,
        ..Preserve::default()
    };
    let needs = Needs {
        preserve,
        ..Needs::default()
    };
    let refused = try_probe(&bucket, &needs).await.unwrap();
    let lock = attribute(&refused, Attribute::Lock);
    assert_eq!(
        (lock.copy.how, lock.verdict()),
        (How::Refused, ProbeVerdict::Loses)
    );
    assert!(
        refused.is_good()
            && lock
                .consequence()
                .unwrap()
                .contains("all others are copied"),
        "{lock:?}"
    );
    let ignored = [
        "x-amz-object-lock-mode",
        "x-amz-object-lock-retain-until-date",
    ]
    .as_slice();
    let faults = world.sandbox.faults();
    for operation in [Operation::CopyObject, Operation::CreateMultipartUpload] {
        faults.add(
            Fault::on(operation)
                .key("locked")
                .then(Effect::Ignore(ignored)),
        );
    }
    let ignored = try_probe(&bucket, &needs).await.unwrap();
    let lock = attribute(&ignored, Attribute::Lock);
    assert_eq!(
        (lock.copy.how, lock.verdict()),
        (How::Ignored, ProbeVerdict::Lacks),
        "{lock:?}"
    );
    assert!(
        !ignored.is_good() && odd(&ignored) == ["lock of objects"],
        "{:?}",
        odd(&ignored)
    );
    assert_clean(&world, DESTINATION);
}

#[tokio::test]
async fn a_bucket_that_locks_all_objects_is_not_probed() {
    let retention = Some(("GOVERNANCE".to_owned(), 30));
    let options = BucketOptions {
        object_lock: true,
        retention,
        ..BucketOptions::default()
    };
    let world = World::with_buckets(options).await;
    let failure = try_probe(&world.bucket(DESTINATION).await, &Needs::default())
        .await
        .unwrap_err();
    let told = failure.to_string();
    assert!(
        told.contains("locks each new object") && told.contains("another bucket"),
        "{told}"
    );
    let keys = world.keys(DESTINATION);
    assert!(
        keys.len() == 1 && told.contains("left behind") && told.contains(&keys[0]),
        "{told}"
    );
}

#[tokio::test]
async fn ignored_attributes_are_losses_or_failures_by_the_policy() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    let faults = world.sandbox.faults();
    // Only one fault applies to a request, so it drops both attributes.
    let ignored = ["x-amz-tagging", "x-amz-meta-s3haul"].as_slice();
    for operation in [Operation::CopyObject, Operation::CreateMultipartUpload] {
        faults.add(Fault::on(operation).then(Effect::Ignore(ignored)));
    }
    for (policy, verdict, fails) in [
        (Policy::Try, ProbeVerdict::Loses, false),
        (Policy::Require, ProbeVerdict::Lacks, true),
        (Policy::Skip, ProbeVerdict::Moot, false),
    ] {
        let mut preserve = Preserve::from(Preset::ContentOnly);
        (preserve.tags, preserve.metadata) = (policy, policy);
        let probe = try_probe(
            &bucket,
            &Needs {
                preserve,
                ..Needs::default()
            },
        )
        .await
        .unwrap();
        for name in [Attribute::Tags, Attribute::Metadata] {
            let found = attribute(&probe, name);
            let routes = [found.put.how, found.copy.how, found.multipart.how];
            assert_eq!(routes, [How::Kept, How::Ignored, How::Ignored], "{found:?}");
            assert_eq!(
                (found.verdict(), found.fails()),
                (verdict, fails),
                "{found:?}"
            );
            assert_eq!(
                found.consequence().is_none(),
                policy == Policy::Skip,
                "{found:?}"
            );
        }
        // The profile relies on tags in these requests, whatever this job keeps.
        assert!(finding(&probe, "tag_headers").fails());
        assert!(
            finding(&probe, "tags").verdict() == ProbeVerdict::Agrees,
            "they can be set afterwards"
        );
        assert_eq!(attribute(&probe, Attribute::Headers).copy.how, How::Kept);
    }
    // A job that only uploads sends neither request with tags, except for multipart uploads.
    let directory = tempfile::tempdir().unwrap();
    let probe = try_probe(&bucket, &Needs::of(&[upload_all(directory.path())]))
        .await
        .unwrap();
    assert_eq!(
        attribute(&probe, Attribute::Tags).verdict(),
        ProbeVerdict::Moot
    );
    assert_clean(&world, DESTINATION);
}

#[tokio::test]
async fn an_attribute_that_is_refused_does_not_hide_the_others() {
    let world = World::new().await;
    on(&world.sandbox.store().quirks().no_tags);
    let probe = probed(&world).await;
    let tags = attribute(&probe, Attribute::Tags);
    assert_eq!(
        [tags.put.how, tags.copy.how, tags.multipart.how],
        [How::Refused; 3],
        "{tags:?}"
    );
    for name in [
        Attribute::Metadata,
        Attribute::Headers,
        Attribute::StorageClass,
    ] {
        let found = attribute(&probe, name);
        assert_eq!(
            [found.put.how, found.copy.how, found.multipart.how],
            [How::Kept; 3],
            "{found:?}"
        );
    }
    assert_eq!(
        request(&probe, Request::PutObjectTagging).measured.how,
        How::Refused
    );
    assert!(
        world.sandbox.calls().total() < 160,
        "{}",
        world.sandbox.calls().total()
    );
}

#[tokio::test]
async fn a_class_that_the_job_names_is_part_of_each_request() {
    let world = World::new().await;
    let mut transfer = copy_all();
    transfer.to.storage_class = Some("NO_SUCH_CLASS".to_owned());
    let needs = Needs::of(&[transfer]);
    let probe = try_probe(&world.bucket(DESTINATION).await, &needs)
        .await
        .unwrap();
    let class = attribute(&probe, Attribute::StorageClass);
    assert!(
        class.fails() && class.consequence().unwrap().contains("each object fails"),
        "{class:?}"
    );
    assert!(!attribute(&probe, Attribute::Metadata).fails() && !probe.is_good());
}
