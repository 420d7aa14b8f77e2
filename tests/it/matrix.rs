//! Kept attributes: every attribute, of every size, by every route, with the same result.
//!
//! [`rows`] lists the attributes. Both the test's objects and the table in docs/attributes.md come
//! from it, so the page says exactly what was tested.

mod readme;
mod rows;

use std::time::Duration;

use s3haul::execute::receipt::{Ending, Receipt};
use s3haul::manifest::job::{
    CustomerKeys, Encryption, KeySource, PartSize, Parts, Preset, SetValues, Transfer,
};
use s3haul::sandbox::{
    BucketOptions, Content, Encryption as Stored, ObjectInfo, ObjectSpec, Operation,
};
use s3haul::size::{ByteSize, GIB, MIB};

use crate::world::{DESTINATION, SOURCE, World, copy_all, upload_all};

const SIZES: [u64; 4] = [0, 1, 8 * MIB, 6 * GIB];

/// Thresholds, and the route of an 8 MiB object with each.
const THRESHOLDS: [(u64, &str); 2] = [(256 * MIB, "copy"), (5 * MIB, "multipart-copy")];

async fn world_with_locks_and_acls() -> World {
    let buckets = BucketOptions {
        object_lock: true,
        acls: true,
        ..BucketOptions::default()
    };
    World::with_buckets(buckets).await
}

fn with_threshold(mut transfer: Transfer, threshold: u64) -> Transfer {
    transfer.parts = Parts {
        size: PartSize::Exactly(ByteSize(512 * MIB)),
        threshold: ByteSize(threshold),
        ..Parts::default()
    };
    transfer
}

fn object(world: &World, bucket: &str, key: &str) -> ObjectInfo {
    world
        .object(bucket, key)
        .unwrap_or_else(|| panic!("{bucket}/{key} is not there"))
}

/// Asserts that each receipt has the route for its size.
fn assert_routes(receipts: &[Receipt], of_8_mib: &str) {
    for receipt in receipts {
        let route = match receipt.size {
            0 | 1 => "copy",
            size if size == 8 * MIB => of_8_mib,
            _ => "multipart-copy",
        };
        assert_eq!(receipt.route, Some(route), "{}", receipt.source);
        assert!(matches!(receipt.ending, Ending::Done { .. }), "{receipt:?}");
        assert_eq!(receipt.losses, [], "{}", receipt.source);
    }
}

#[tokio::test]
async fn every_attribute_of_every_size_by_every_route() {
    for (threshold, route) in THRESHOLDS {
        let world = world_with_locks_and_acls().await;
        let mut keys = Vec::new();
        let cases = rows::all()
            .into_iter()
            .map(|row| (row.attribute.name(), (row.cases)()));
        for (attribute, cases) in cases.chain([("checksum", rows::checksums())]) {
            for (case, spec) in cases {
                for size in SIZES {
                    let key = format!("{attribute}/{case}/{size}");
                    world.put_object(SOURCE, &key, Content::pattern(7, size), &spec);
                    keys.push(key);
                }
            }
        }
        let mut transfer = with_threshold(copy_all(), threshold);
        transfer.preserve = Preset::Everything.into();
        let run = world.run(transfer).await;
        assert_eq!(run.receipts.len(), keys.len());
        assert_routes(&run.receipts, route);
        for key in keys {
            let (source, copy) = (
                object(&world, SOURCE, &key),
                object(&world, DESTINATION, &key),
            );
            assert_eq!(copy.attributes, source.attributes, "{key} by {route}");
            assert_eq!(copy.content, source.content, "{key} by {route}");
            let algorithm =
                |info: &ObjectInfo| info.checksum.as_ref().map(|sum| (sum.algorithm, sum.kind));
            assert_eq!(algorithm(&copy), algorithm(&source), "{key} by {route}");
        }
        world.assert_no_upload_is_left();
    }
}

/// Returns the keys of two customers, in files because all tests share the environment.
fn keys(dir: &tempfile::TempDir) -> CustomerKeys {
    let key = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(KeySource::File(path))
    };
    CustomerKeys {
        source: key("source", "0123456789abcdef0123456789abcdef"),
        destination: key(
            "destination",
            "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=\n",
        ),
    }
}

/// The MD5s of the two keys, as S3 returns them.
const SOURCE_KEY: &str = "hRasmdxgYDKV3nvbahU1MA==";
const DESTINATION_KEY: &str = "dT1y7SEiqn6YCJ3QeqwoIw==";

#[tokio::test]
async fn customer_keys_on_either_side_and_on_both() {
    let dir = tempfile::tempdir().unwrap();
    let both = keys(&dir);
    for (threshold, route) in THRESHOLDS {
        for (source, destination) in [(true, false), (false, true), (true, true)] {
            let world = world_with_locks_and_acls().await;
            let customer = |md5: &str| Stored::Customer {
                key_md5: md5.to_owned(),
            };
            let spec = ObjectSpec::default()
                .content_type("text/csv")
                .tag("a", "b")
                .metadata("m", "n");
            let encrypted = if source {
                spec.clone().encryption(customer(SOURCE_KEY))
            } else {
                spec.clone()
            };
            for size in SIZES {
                let store = world.sandbox.store();
                store.put_object(
                    SOURCE,
                    &format!("k{size}"),
                    Content::pattern(7, size),
                    &encrypted,
                );
            }
            let mut transfer = with_threshold(copy_all(), threshold);
            transfer.customer_keys = CustomerKeys {
                source: both.source.clone().filter(|_| source),
                destination: both.destination.clone().filter(|_| destination),
            };
            let run = world.run(transfer).await;
            assert_eq!(
                (run.outcome.done_objects, run.outcome.failed_objects),
                (4, 0),
                "{:?}",
                run.receipts
            );
            assert!(
                run.receipts
                    .iter()
                    .any(|receipt| receipt.route == Some(route))
            );
            for size in SIZES {
                let copy = object(&world, DESTINATION, &format!("k{size}"));
                let expected = if destination {
                    customer(DESTINATION_KEY)
                } else {
                    Stored::Aes256
                };
                assert_eq!(copy.attributes.encryption, expected, "{size} by {route}");
                assert_eq!(copy.content, Content::pattern(7, size));
                assert_eq!(copy.attributes.tags, spec.attributes.tags);
                assert_eq!(copy.attributes.metadata, spec.attributes.metadata);
            }
            let weaker = run
                .receipts
                .iter()
                .filter(|receipt| !receipt.losses.is_empty())
                .count();
            assert_eq!(
                weaker,
                if source && !destination { 4 } else { 0 },
                "{:?}",
                run.receipts[0].losses
            );
            // The proof is as strong as without keys: S3 computes checksums of the plain bytes.
            assert_eq!(run.outcome.proofs, [("crc64nvme".to_owned(), 4)].into());
        }
    }
}

#[tokio::test]
async fn uploads_get_what_the_job_sets_in_one_piece_and_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    for (name, size) in [
        ("empty", 0),
        ("byte", 1),
        ("one-piece", 4 * MIB),
        ("in-parts", 17 * MIB),
    ] {
        std::fs::write(
            dir.path().join(name),
            vec![7; usize::try_from(size).unwrap()],
        )
        .unwrap();
    }
    let key_dir = tempfile::tempdir().unwrap();
    let long: Vec<_> = (0..10)
        .map(|i| (format!("größe-{i}"), "ü".repeat(200)))
        .collect();
    let kms = |dsse| Encryption::Kms {
        key: Some("arn:aws:kms:x".to_owned()),
        bucket_key: None,
        dsse,
    };
    let overrides = SetValues {
        metadata: [("team".to_owned(), "lake".to_owned())].into(),
        tags: [("stage".to_owned(), "roh".to_owned())].into(),
        content_type: Some("text/x".to_owned()),
        content_encoding: Some("gzip".to_owned()),
        content_language: Some("de".to_owned()),
        content_disposition: Some("attachment".to_owned()),
        cache_control: Some("no-store".to_owned()),
    };
    let many_tags = SetValues {
        tags: long.into_iter().collect(),
        ..overrides.clone()
    };
    for (set, encryption, customer) in [
        (overrides.clone(), None, false),
        (many_tags, Some(Encryption::S3), false),
        (overrides.clone(), Some(kms(false)), false),
        (overrides.clone(), Some(kms(true)), false),
        (overrides, None, true),
    ] {
        let world = world_with_locks_and_acls().await;
        let mut transfer = upload_all(dir.path());
        transfer.parts.size = PartSize::Exactly(ByteSize(5 * MIB));
        transfer.set = set.clone();
        transfer.to.storage_class = Some("STANDARD_IA".to_owned());
        transfer.to.encryption = encryption.clone();
        if customer {
            transfer.customer_keys.destination = keys(&key_dir).destination;
        }
        let run = world.run(transfer).await;
        assert_eq!(
            (run.outcome.done_objects, run.outcome.failed_objects),
            (4, 0),
            "{:?}",
            run.receipts
        );
        let routes = |route| {
            run.receipts
                .iter()
                .filter(|receipt| receipt.route == Some(route))
                .count()
        };
        assert_eq!((routes("put"), routes("multipart-upload")), (3, 1));
        for name in ["empty", "byte", "one-piece", "in-parts"] {
            let info = object(&world, DESTINATION, name);
            let found = &info.attributes;
            assert_eq!(
                (&found.metadata, &found.tags),
                (&set.metadata, &set.tags),
                "{name}"
            );
            assert_eq!(
                [
                    &found.content_type,
                    &found.content_encoding,
                    &found.content_language,
                    &found.content_disposition,
                    &found.cache_control
                ],
                [
                    &set.content_type,
                    &set.content_encoding,
                    &set.content_language,
                    &set.content_disposition,
                    &set.cache_control
                ],
                "{name}"
            );
            assert_eq!(found.class(), "STANDARD_IA");
            let expected = match (&encryption, customer) {
                (_, true) => "SSE-C",
                (Some(Encryption::Kms { dsse: true, .. }), _) => "aws:kms:dsse",
                (Some(Encryption::Kms { .. }), _) => "aws:kms",
                _ => "AES256",
            };
            assert_eq!(found.encryption.name(), expected, "{name}");
        }
    }
}

/// Small objects cost HEAD and `CopyObject`; large ones HEAD, tags, Create, parts, and Complete.
/// HEAD is needed for the metadata, headers, lock, encryption, and checksum, which a list does not
/// have. The tags of a large object must be read; `CopyObject` copies those of a small one.
#[tokio::test]
async fn a_thousand_objects_cost_what_they_must() {
    let world = World::new().await;
    let rich = ObjectSpec::default()
        .content_type("text/csv")
        .metadata("owner", "us")
        .tag("a", "b");
    for index in 0..990 {
        let key = format!("small/{index:03}");
        world.put_object(SOURCE, &key, Content::pattern(index, 100), &rich);
    }
    for index in 0..10 {
        let key = format!("large/{index}");
        world.put_object(SOURCE, &key, Content::pattern(index, 300 * MIB), &rich);
    }
    let run = world.run(copy_all()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.losses.iter().count()),
        (1000, 0)
    );
    let parts = run.outcome.parts;
    let expected = [
        (Operation::HeadBucket, 2),
        (Operation::ListObjectsV2, 1 + 1),
        // Each multipart copy gets a HEAD, and its source another one after its tags have been
        // read.
        (Operation::HeadObject, 1000 + 10 + 10),
        (Operation::CopyObject, 990),
        (Operation::GetObjectTagging, 10),
        (Operation::CreateMultipartUpload, 10),
        (Operation::UploadPartCopy, parts),
        (Operation::CompleteMultipartUpload, 10),
    ];
    for (operation, count) in expected {
        assert_eq!(world.calls(operation), count, "{operation:?}");
    }
    assert_eq!(
        world.sandbox.calls().total(),
        expected.iter().map(|(_, count)| count).sum::<u64>(),
        "no other request is sent"
    );
}

/// To merge tags, s3haul must read those of small objects too.
#[tokio::test]
async fn each_more_request_has_its_reason() {
    let world = World::new().await;
    for index in 0..10 {
        let spec = ObjectSpec::default().tag("a", "b");
        world.put_object(
            SOURCE,
            &format!("k{index}"),
            Content::pattern(index, 10),
            &spec,
        );
    }
    let mut merging = copy_all();
    merging.set.tags.insert("run".to_owned(), "1".to_owned());
    world.run(merging).await;
    assert_eq!(
        (
            world.calls(Operation::HeadObject),
            world.calls(Operation::GetObjectTagging)
        ),
        // The source gets another HEAD after its tags have been read.
        (20, 10)
    );
    let info = object(&world, DESTINATION, "k0");
    let tags = [
        ("a".to_owned(), "b".to_owned()),
        ("run".to_owned(), "1".to_owned()),
    ];
    assert_eq!(info.attributes.tags, tags.into());
}

/// `content-only` needs no HEAD if the `ETag` is an MD5: size and `ETag` of the list are the proof.
/// HEAD is needed after a multipart upload (its `ETag` proves nothing about a copy in one piece),
/// with a KMS key (the answer shows another `ETag` for the same bytes), and for an object of
/// several parts (its checksum).
#[tokio::test]
async fn content_alone_is_copied_without_a_look_at_each_object() {
    let world = World::new().await;
    let rich = ObjectSpec::default()
        .content_type("text/csv")
        .metadata("owner", "us")
        .tag("a", "b");
    let store = world.sandbox.store();
    for index in 0..100 {
        store.put_object(
            SOURCE,
            &format!("small/{index}"),
            Content::pattern(index, 10),
            &rich,
        );
    }
    let in_parts = rich.clone().part_sizes([5 * MIB]);
    store.put_object(SOURCE, "in-parts", Content::pattern(1, 6 * MIB), &in_parts);
    let kms = rich.clone().encryption(Stored::kms("arn:aws:kms:x"));
    store.put_object(SOURCE, "kms", Content::pattern(1, 10), &kms);
    store.put_object(SOURCE, "large", Content::pattern(1, 300 * MIB), &rich);
    let mut transfer = copy_all();
    transfer.preserve = Preset::ContentOnly.into();
    let run = world.run(transfer).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.losses.iter().count()),
        (103, 0),
        "{:?}",
        run.receipts
    );
    assert_eq!(world.calls(Operation::HeadObject), 3 + 1);
    assert_eq!(world.calls(Operation::CopyObject), 102);
    assert_eq!(world.calls(Operation::GetObjectTagging), 0);
    assert_eq!(
        run.outcome.proofs,
        [("crc64nvme".to_owned(), 3), ("etag".to_owned(), 100)].into()
    );
    for key in ["small/0", "in-parts", "kms", "large"] {
        let (source, copy) = (
            object(&world, SOURCE, key),
            object(&world, DESTINATION, key),
        );
        assert_eq!(copy.content, source.content, "{key}");
        let bare = &copy.attributes;
        assert_eq!(
            (
                bare.content_type.as_deref(),
                bare.metadata.len(),
                bare.tags.len()
            ),
            (None, 0, 0),
            "{key}"
        );
    }
}

/// The list's `ETag` pins the source. An object that replaces it is copied after a HEAD.
#[tokio::test]
async fn content_alone_is_of_one_version_too() {
    let world = World::new().await;
    world.put("k", 10);
    let swap = s3haul::sandbox::Effect::hook(|store| {
        store.put_object(SOURCE, "k", Content::pattern(2, 20), &ObjectSpec::default());
    });
    let fault = s3haul::sandbox::Fault::on(Operation::CopyObject)
        .nth(1)
        .then(swap);
    world.add_fault(fault);
    let mut transfer = copy_all();
    transfer.preserve = Preset::ContentOnly.into();
    let run = tokio::time::timeout(Duration::from_secs(30), world.run(transfer))
        .await
        .unwrap();
    assert_eq!((run.outcome.done_objects, run.receipts[0].size), (1, 20));
    assert_eq!(
        object(&world, DESTINATION, "k").content,
        Content::pattern(2, 20)
    );
    assert_eq!(world.calls(Operation::HeadObject), 1);
}
