//! Servers and buckets that lack features of S3. s3haul knows the gaps before it needs the feature.
//!
//! Each test makes the sandbox lack what the named server lacks. The tests also show why the
//! profile is needed: with S3's own profile, the same copy goes wrong.

use std::sync::atomic::{AtomicBool, Ordering};

use s3haul::endpoint::capabilities::Overrides;
use s3haul::manifest::job::{DEFAULT_ENDPOINT, Provider, Source, Transfer, When};
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::{GIB, MIB};

use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, destination, restate, uri};

const LARGE: u64 = 300 * MIB;

fn on(quirk: &AtomicBool) {
    quirk.store(true, Ordering::Relaxed);
}

fn put_owned(world: &World, bucket: &str, key: &str, size: u64) {
    let spec = ObjectSpec::default().metadata("owner", "me");
    world.put_object(bucket, key, Content::pattern(1, size), &spec);
}

fn error(run: &Run) -> String {
    serde_json::to_string(&run.receipts[0].ending).unwrap()
}

#[tokio::test]
async fn without_part_copies_a_large_object_is_copied_at_once_or_refused_with_the_remedy() {
    let world = World::of_provider(Provider::Gcs).await;
    on(&world.sandbox.store().quirks().no_part_copy);
    put_owned(&world, SOURCE, "k", 4 * GIB);
    let run = world.run(copy_all()).await;
    assert_eq!(
        (run.receipts[0].route, run.outcome.done_objects),
        (Some("copy"), 1),
        "{:?}",
        run.receipts
    );
    // A server that has neither part copies nor copies of any size.
    put_owned(&world, SOURCE, "k", 6 * GIB);
    let mut job = world.job(copy_all());
    let stated = Overrides {
        part_copy: Some(false),
        ..Overrides::default()
    };
    restate(&mut job, |endpoint| {
        endpoint.provider = Provider::Other;
        endpoint.capabilities = stated;
    });
    let run = world.try_run_job(&job).await.unwrap();
    assert!(error(&run).contains("s3haul copy - DST"), "{}", error(&run));
    assert_eq!(
        world.calls(Operation::CreateMultipartUpload),
        0,
        "it was refused before it was begun"
    );
}

#[tokio::test]
async fn tags_are_not_sent_to_servers_without_tags() {
    for (provider, done) in [(Provider::B2, 2), (Provider::Garage, 2), (Provider::Aws, 0)] {
        let world = World::of_provider(provider).await;
        on(&world.sandbox.store().quirks().no_tags);
        put_owned(&world, SOURCE, "small", 10);
        put_owned(&world, SOURCE, "large", LARGE);
        let mut transfer = copy_all();
        transfer.preserve.tags = s3haul::manifest::job::Policy::Skip;
        let run = world.run(transfer).await;
        let large = run.receipts.iter().filter(|receipt| receipt.size == LARGE);
        assert!(large.clone().count() == 1);
        assert_eq!(
            run.outcome.done_objects.min(2) == 2,
            done == 2,
            "{provider:?}: {:?}",
            run.receipts
        );
    }
}

#[tokio::test]
async fn parts_of_one_size_satisfy_a_server_that_demands_them() {
    let world = World::of_provider(Provider::R2).await;
    let quirks = world.sandbox.store().quirks();
    for quirk in [
        &quirks.equal_parts,
        &quirks.no_tags,
        &quirks.copies_overwrite,
    ] {
        on(quirk);
    }
    put_owned(&world, SOURCE, "k", 5 * GIB + 7);
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    let sizes: Vec<_> = world.object(DESTINATION, "k").unwrap().parts;
    assert!(sizes.len() > 2 && sizes.windows(2).all(|pair| pair[0].size >= pair[1].size));
}

/// R2 honors conditions on the source with CopyObject, but not with UploadPartCopy.
#[tokio::test]
async fn a_source_that_changes_under_unconditional_parts_is_seen_before_it_is_published() {
    for (provider, looks) in [
        (Provider::R2, true),
        (Provider::Ceph, true),
        (Provider::Minio, false),
    ] {
        let world = World::of_provider(provider).await;
        put_owned(&world, SOURCE, "k", LARGE);
        let run = world.run(copy_all()).await;
        assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
        let heads = world.sandbox.calls().of(Operation::HeadObject);
        let of_source = heads.iter().filter(|call| call.bucket == SOURCE).count();
        assert_eq!(of_source, if looks { 2 } else { 1 }, "{provider:?}");
    }
    let world = World::of_provider(Provider::R2).await;
    on(&world.sandbox.store().quirks().ignore_source_conditions);
    put_owned(&world, SOURCE, "k", LARGE);
    let overwrite = Effect::hook(|store| {
        store.put_object(
            SOURCE,
            "k",
            Content::pattern(6, LARGE),
            &ObjectSpec::default(),
        );
    });
    world.add_fault(Fault::on(Operation::UploadPartCopy).nth(3).then(overwrite));
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    let copy = world.object(DESTINATION, "k").unwrap();
    assert_eq!(copy.content, Content::pattern(6, LARGE));
}

#[tokio::test]
async fn ceph_16_is_copied_on_as_it_is() {
    let world = World::of_provider(Provider::Ceph).await;
    let quirks = world.sandbox.store().quirks();
    for quirk in [
        &quirks.ignore_source_conditions,
        &quirks.copies_overwrite,
        &quirks.completes_overwrite,
        &quirks.copies_drop_tags,
        &quirks.no_checksums,
    ] {
        on(quirk);
    }
    let spec = ObjectSpec::default().tag("a", "b");
    for (key, size) in [
        ("small", 10),
        ("large", LARGE),
        ("large 100%", LARGE),
        ("large?versionId=1", LARGE),
    ] {
        world.put_object(SOURCE, key, Content::pattern(2, size), &spec);
    }
    // Ceph 16 answers Complete without an ETag, and answers NoSuchKey for an upload that is gone.
    let faults = world.sandbox.faults();
    faults.add(
        Fault::on(Operation::CompleteMultipartUpload)
            .nth(1)
            .then(Effect::EmptyBody),
    );
    faults.add(
        Fault::on(Operation::ListParts)
            .nth(1)
            .then(Effect::Error(404, "NoSuchKey")),
    );
    let run = world.run(copy_all()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (4, 0),
        "{:?}",
        run.receipts
    );
    for receipt in &run.receipts {
        let route = if receipt.source.ends_with("/large") {
            "multipart-copy"
        } else {
            "copy"
        };
        assert_eq!(
            receipt.route,
            Some(route),
            "{}: a name that it would decode twice",
            receipt.source
        );
        assert!(
            receipt.losses.is_empty(),
            "tags are put on the finished object: {receipt:?}"
        );
    }
    assert!(world.calls(Operation::UploadPartCopy) <= 8);
}

#[tokio::test]
async fn stated_capabilities_are_relied_on() {
    let world = World::of_provider(Provider::Other).await;
    put_owned(&world, SOURCE, "k", 10);
    let mut job = world.job(copy_all());
    let stated = Overrides {
        copy_conditions: Some(true),
        ..Overrides::default()
    };
    restate(&mut job, |endpoint| endpoint.capabilities = stated);
    for (job, looks) in [
        (&job, 1),
        (
            &world.job(Transfer {
                when: When::Always,
                ..copy_all()
            }),
            2,
        ),
    ] {
        world.sandbox.calls().clear();
        world.try_run_job(job).await.unwrap();
        let heads = world.sandbox.calls().of(Operation::HeadObject);
        assert_eq!(
            heads.iter().filter(|call| call.bucket == SOURCE).count(),
            looks
        );
    }
}

const EXPRESS: &str = "express--use1-az4--x-s3";

fn from(bucket: &str) -> Source {
    Source::Prefix {
        endpoint: DEFAULT_ENDPOINT.to_owned(),
        location: uri(&format!("s3://{bucket}/")),
    }
}

/// A directory bucket lists keys without order, has `ETag`s that do not follow from the bytes, and
/// refuses tags.
#[tokio::test]
async fn a_directory_bucket_is_copied_into_and_compared_without_an_order() {
    let world = World::new().await;
    world
        .sandbox
        .store()
        .create_bucket(EXPRESS, s3haul::sandbox::BucketOptions::default());
    for index in 0..40 {
        let spec = ObjectSpec::default().metadata("n", "1").tag("a", "b");
        let yesterday = std::time::SystemTime::now() - std::time::Duration::from_hours(24);
        let spec = spec.last_modified(yesterday);
        let size = if index == 7 { LARGE } else { 10 + index };
        world.put_with(&format!("d/k{index:02}"), size, &spec);
    }
    let transfer = Transfer {
        to: destination(&format!("s3://{EXPRESS}/")),
        ..copy_all()
    };
    let run = world.run(transfer.clone()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (40, 0),
        "{:?}",
        run.receipts
    );
    assert_eq!(
        run.outcome.proofs.get("etag"),
        None,
        "its ETags prove nothing"
    );
    let copy = world.object(EXPRESS, "d/k07").unwrap();
    assert_eq!(
        (copy.content, copy.attributes.tags.len()),
        (Content::pattern(1, LARGE), 0)
    );
    let again = world.run(transfer).await;
    assert_eq!(
        (again.outcome.done_objects, again.outcome.skipped_objects),
        (0, 40),
        "{:?}",
        again.receipts
    );
    // Now copies out of the directory bucket, where s3haul must not ask for tags either.
    world.sandbox.calls().clear();
    let run = world
        .run(Transfer {
            from: from(EXPRESS),
            ..copy_all()
        })
        .await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (40, 0),
        "{:?}",
        run.receipts
    );
    assert_eq!(world.calls(Operation::GetObjectTagging), 0);
}

#[tokio::test]
async fn a_prefix_of_a_directory_bucket_ends_in_a_slash_or_is_refused_in_these_words() {
    let world = World::new().await;
    world
        .sandbox
        .store()
        .create_bucket(EXPRESS, s3haul::sandbox::BucketOptions::default());
    let bucket = world.bucket(EXPRESS).await;
    for failure in [
        bucket.list("logs", None, None).await.unwrap_err(),
        bucket.list_uploads("logs", None).await.unwrap_err(),
    ] {
        assert!(
            failure
                .to_string()
                .contains("write `logs/` instead of `logs`"),
            "{failure}"
        );
    }
    assert!(bucket.list("logs/", None, None).await.is_ok());
}
