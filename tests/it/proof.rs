//! Proofs of a copy, their cost, and copies that are not equal.

mod kept;
mod reading;
mod untold;

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use rstest::rstest;
use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{
    OnMismatch, PartSize, Parts, ProofPolicy, Prove, Provider, Transfer, Verify, When,
};
use s3haul::multipart::MultipartUpload;
use s3haul::s3::{Attributes, ChecksumAlgorithm, ChecksumKind as Kind, CompleteSpec, FailureKind};
use s3haul::sandbox::{
    Algorithm, BucketOptions, ChecksumKind, Content, Effect, Encryption, Fault, ObjectSpec,
    Operation, VersionInfo, When as Which,
};
use s3haul::size::{ByteSize, MIB};

use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, upload_all};

fn unsummed() -> ObjectSpec {
    ObjectSpec::default().without_checksum()
}

/// Returns a transfer of everything with this policy. Objects above 8 MiB are copied in parts of 5
/// MiB.
fn under(proof: ProofPolicy) -> Transfer {
    let parts = Parts {
        size: PartSize::Exactly(ByteSize(5 * MIB)),
        threshold: ByteSize(8 * MIB),
        ..Parts::default()
    };
    Transfer {
        proof,
        parts,
        ..copy_all()
    }
}

const REQUIRE: ProofPolicy = ProofPolicy {
    verify: Verify::RequireChecksum,
    prove: Prove::Answers,
    on_mismatch: OnMismatch::Keep,
};

const READ: ProofPolicy = ProofPolicy {
    prove: Prove::Read,
    ..REQUIRE
};

const REMOVE: ProofPolicy = ProofPolicy {
    verify: Verify::Best,
    prove: Prove::Answers,
    on_mismatch: OnMismatch::Remove,
};

fn message(run: &Run) -> &str {
    match &run.receipts[0].ending {
        Ending::Failed { error } => &error.message,
        other => panic!("it did not fail: {other:?}"),
    }
}

#[rstest]
#[case::crc64(Algorithm::Crc64Nvme)]
#[case::crc32c(Algorithm::Crc32c)]
#[tokio::test]
async fn a_part_that_was_stored_wrong_publishes_nothing(#[case] algorithm: Algorithm) {
    let world = World::new().await;
    world.put_with(
        "k",
        20 * MIB,
        &ObjectSpec::default().checksum(algorithm, ChecksumKind::FullObject),
    );
    let before = Content::bytes(b"before".to_vec());
    world.put_object(DESTINATION, "k", before.clone(), &ObjectSpec::default());
    world.add_fault(
        Fault::on(Operation::UploadPartCopy)
            .nth(3)
            .then(Effect::Corrupt),
    );
    let run = world.run(under(ProofPolicy::default())).await;
    assert_eq!(run.error(), "not-equal");
    assert!(
        message(&run).contains("the parts make the crc"),
        "{}",
        message(&run)
    );
    assert_eq!(
        world.calls(Operation::CompleteMultipartUpload),
        0,
        "it was not left to the server to notice"
    );
    assert_eq!(world.object(DESTINATION, "k").unwrap().content, before);
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn a_copy_that_is_not_equal_is_kept_unless_the_job_says_otherwise() {
    let world = World::new().await;
    world.put("k", 1000);
    world.add_fault(Fault::on(Operation::CopyObject).then(Effect::Corrupt));
    let run = world.run(under(ProofPolicy::default())).await;
    assert_eq!(run.error(), "not-equal");
    assert!(
        message(&run).contains("the copy was kept"),
        "{}",
        message(&run)
    );
    assert_eq!(world.calls(Operation::DeleteObject), 0);
    assert!(world.object(DESTINATION, "k").is_some());
}

#[rstest]
#[case::versioned(true)]
#[case::unversioned(false)]
#[tokio::test]
async fn what_is_removed_is_exactly_what_was_written(#[case] versioning: bool) {
    let options = BucketOptions {
        versioning,
        ..BucketOptions::default()
    };
    let world = World::with_buckets(options).await;
    world.put("k", 1000);
    let before = Content::bytes(b"before".to_vec());
    world.put_object(DESTINATION, "k", before.clone(), &ObjectSpec::default());
    world.add_fault(Fault::on(Operation::CopyObject).then(Effect::Corrupt));
    let run = world.run(under(REMOVE)).await;
    assert_eq!(run.error(), "not-equal");
    assert!(message(&run).contains("was removed"), "{}", message(&run));
    let there = world.object(DESTINATION, "k");
    if versioning {
        assert_eq!(
            there.unwrap().content,
            before,
            "the previous version is current again"
        );
        let versions = world.sandbox.store().versions(DESTINATION, "k");
        assert!(
            matches!(versions.as_slice(), [VersionInfo::Object(_)]),
            "no marker is left: {versions:?}"
        );
    } else {
        assert!(
            there.is_none(),
            "the overwritten object is gone for good, the wrong one too"
        );
    }
}

#[tokio::test]
async fn someone_elses_object_is_not_removed_in_place_of_ours() {
    let world = World::new().await;
    world.put("k", 1000);
    world.add_fault(Fault::on(Operation::CopyObject).then(Effect::Corrupt));
    let theirs = Content::bytes(b"theirs".to_vec());
    let overwrite = Effect::hook({
        let theirs = theirs.clone();
        move |store| {
            drop(store.put_object(DESTINATION, "k", theirs.clone(), &ObjectSpec::default()));
        }
    });
    world.add_fault(Fault::on(Operation::DeleteObject).then(overwrite));
    let run = world.run(under(REMOVE)).await;
    assert!(
        message(&run).contains("could not be removed"),
        "{}",
        message(&run)
    );
    assert_eq!(world.object(DESTINATION, "k").unwrap().content, theirs);
}

#[tokio::test]
async fn without_conditional_deletes_the_bad_copy_stays_and_that_is_reported() {
    let world = World::of_provider(Provider::Minio).await;
    world.put("k", 1000);
    world.add_fault(Fault::on(Operation::CopyObject).then(Effect::Corrupt));
    let run = world.run(under(REMOVE)).await;
    assert!(
        message(&run).contains("delete only an object with its ETag"),
        "{}",
        message(&run)
    );
    assert_eq!(world.calls(Operation::DeleteObject), 0);
}

#[rstest]
#[case::single(1000)]
#[case::parts(20 * MIB)]
#[tokio::test]
async fn a_job_that_demands_a_checksum_fails_what_can_have_none_before_it_writes(
    #[case] size: u64,
) {
    let world = World::new().await;
    world.put_with("k", size, &unsummed());
    let run = world.run(under(REQUIRE)).await;
    assert_eq!(run.error(), "unprovable");
    assert!(message(&run).contains("no checksum"), "{}", message(&run));
    for write in [Operation::CopyObject, Operation::CreateMultipartUpload] {
        assert_eq!(world.calls(write), 0, "{write:?}");
    }
}

#[tokio::test]
async fn a_checksum_that_parts_cannot_make_is_kept_by_a_single_copy_if_it_is_required() {
    let world = World::new().await;
    world.put_with(
        "k",
        20 * MIB,
        &ObjectSpec::default().checksum(Algorithm::Sha256, ChecksumKind::FullObject),
    );
    let run = world.run(under(REQUIRE)).await;
    assert_eq!(
        (run.proof().as_str(), run.receipts[0].route),
        ("sha256", Some("copy"))
    );
}

#[tokio::test]
async fn a_composite_checksum_is_not_demanded_of_other_boundaries() {
    let world = World::new().await;
    let spec = ObjectSpec::default()
        .checksum(Algorithm::Crc32, ChecksumKind::Composite)
        .part_sizes([8 * MIB, 8 * MIB, MIB]);
    world.put_with("k", 17 * MIB, &spec);
    let run = world.run(under(REQUIRE)).await;
    assert!(
        message(&run).contains("layout: source"),
        "{}",
        message(&run)
    );
    let run = world.run(under(ProofPolicy::default())).await;
    assert_eq!(
        run.proof(),
        "part-etags",
        "a composite CRC32 says nothing about one of the whole object"
    );
    let copy = world.object(DESTINATION, "k").unwrap();
    assert_eq!(copy.checksum.unwrap().kind, ChecksumKind::FullObject);
}

#[rstest]
#[case::single(1000)]
#[case::parts(70 * MIB)]
#[tokio::test]
async fn both_sides_are_read_where_the_server_sums_nothing(#[case] size: u64) {
    let world = World::of_provider(Provider::Other).await;
    world
        .sandbox
        .store()
        .quirks()
        .no_checksums
        .store(true, Ordering::Relaxed);
    world.put_with("k", size, &unsummed());
    // With one slot, a read must not wait for the slot that its own object holds.
    let mut job = world.job(under(READ));
    job.limits.in_flight = Some(1);
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.proof(), "read", "{:?}", run.receipts);
    let reads = world.sandbox.calls().of(Operation::GetObject);
    for bucket in [SOURCE, DESTINATION] {
        let count = reads.iter().filter(|call| call.bucket == bucket).count() as u64;
        assert_eq!(count, size.div_ceil(64 * MIB), "{bucket}");
    }
}

#[tokio::test]
async fn uploads_keep_the_same_levels() {
    for (size, proof) in [(1000, "etag"), (20 * MIB, "part-etags")] {
        let world = World::of_provider(Provider::Garage).await;
        world
            .sandbox
            .store()
            .quirks()
            .no_checksums
            .store(true, Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("k"),
            vec![7; usize::try_from(size).unwrap()],
        )
        .unwrap();
        let parts = under(REQUIRE).parts;
        let of = |proof| Transfer {
            proof,
            parts,
            when: When::Always,
            ..upload_all(dir.path())
        };
        assert_eq!(world.run(of(REQUIRE)).await.error(), "unprovable");
        assert!(world.object(DESTINATION, "k").is_none(), "nothing was sent");
        assert_eq!(world.run(of(ProofPolicy::default())).await.proof(), proof);
        assert_eq!(world.calls(Operation::GetObject), 0);
        assert_eq!(world.run(of(READ)).await.proof(), "read");
        assert_eq!(world.calls(Operation::GetObject), 1);
    }
}

#[tokio::test]
async fn an_object_of_parts_is_looked_at_whatever_is_asked_for() {
    // With a KMS key, the answer to Complete does not show the object's checksum.
    for verify in [Verify::Best, Verify::Size] {
        let world = World::new().await;
        let kms = BucketOptions {
            encryption: Encryption::kms("key"),
            ..BucketOptions::default()
        };
        world.sandbox.store().create_bucket("secret", kms);
        world.put("k", 20 * MIB);
        let mut transfer = under(ProofPolicy {
            verify,
            ..ProofPolicy::default()
        });
        transfer.to = crate::world::destination("s3://secret/");
        let run = world.run(transfer).await;
        assert_eq!(
            (run.proof().as_str(), world.calls(Operation::HeadObject)),
            ("crc64nvme", 2),
            "{verify:?}"
        );
    }
}

#[rstest]
#[case::boto3(ChecksumAlgorithm::Crc32, Kind::Composite)]
#[case::sha(ChecksumAlgorithm::Sha256, Kind::Composite)]
#[case::full(ChecksumAlgorithm::Crc64Nvme, Kind::FullObject)]
#[tokio::test]
async fn an_upload_of_someone_else_is_completed_with_its_own_attributes(
    #[case] algorithm: ChecksumAlgorithm,
    #[case] kind: Kind,
) {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    let key = "k".parse().unwrap();
    let attributes = Attributes {
        checksum: Some((algorithm, kind)),
        ..Attributes::default()
    };
    let begun = MultipartUpload::initiate(&bucket, &key, &attributes)
        .await
        .unwrap();
    begun.upload_part(1, &vec![1; 5 << 20][..]).await.unwrap();
    let upload = MultipartUpload::open(&bucket, &key, begun.id());
    assert_eq!(upload.algorithm(), None, "nobody was asked yet");
    let last = upload.upload_part(2, &b"end"[..]).await.unwrap();
    assert_eq!(upload.declared().await.unwrap(), Some((algorithm, kind)));
    assert_eq!(world.calls(Operation::ListParts), 1, "it is asked once");
    let parts: Vec<_> = futures::TryStreamExt::try_collect(upload.parts())
        .await
        .unwrap();
    assert_eq!(parts[1], last);
    // Even if the caller has kept only numbers and ETags.
    let bare: Vec<_> = parts
        .into_iter()
        .map(|part| s3haul::s3::PartDone {
            checksum: None,
            ..part
        })
        .collect();
    let spec = CompleteSpec {
        size: (5 << 20) + 3,
        ..CompleteSpec::default()
    };
    let written = MultipartUpload::open(&bucket, &key, begun.id())
        .complete(&bare, &spec)
        .await
        .unwrap();
    assert_eq!(
        written.checksum.map(|sum| (sum.algorithm, sum.kind)),
        Some((algorithm, kind))
    );
    let other = "other".parse().unwrap();
    let gone = MultipartUpload::open(&bucket, &other, "gone")
        .complete(&bare, &spec)
        .await
        .unwrap_err();
    assert_eq!(*gone.kind(), FailureKind::NoSuchUpload);
}

fn in_parts(age: Duration) -> ObjectSpec {
    ObjectSpec::default()
        .part_sizes([8 * MIB])
        .last_modified(SystemTime::now() - age)
}

/// S3 dates a multipart object to the creation of its upload.
#[tokio::test]
async fn a_change_that_was_under_way_during_the_last_copy_is_seen() {
    let world = World::new().await;
    let size = 20 * MIB;
    let key = |world: &World, seed| {
        world.put_object(
            SOURCE,
            "k",
            Content::pattern(seed, size),
            &in_parts(Duration::from_secs(100)),
        );
    };
    key(&world, 1);
    assert_eq!(world.run(copy_all()).await.outcome.done_objects, 1);
    // The upload was created before that copy and completed after it, so the object's date is older
    // than the copy.
    key(&world, 2);
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    assert_eq!(
        world.object(DESTINATION, "k").unwrap().content,
        Content::pattern(2, size)
    );
}

#[tokio::test]
async fn a_sync_asks_only_for_what_was_copied_soon_after_it_was_written() {
    let world = World::new().await;
    for index in 0..30 {
        let (name, age) = match index % 3 {
            0 => ("old", Duration::from_hours(24)),
            1 => ("fresh", Duration::from_secs(100)),
            _ => ("plain", Duration::from_secs(100)),
        };
        let spec = in_parts(age);
        let spec = if name == "plain" {
            ObjectSpec {
                part_sizes: None,
                ..spec
            }
        } else {
            spec
        };
        let key = format!("{name}{index}");
        world.put_object(SOURCE, &key, Content::pattern(index, 20 * MIB), &spec);
    }
    assert_eq!(world.run(copy_all()).await.outcome.done_objects, 30);
    world.sandbox.calls().clear();
    let run = world.run(copy_all()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.skipped_objects),
        (0, 30)
    );
    let heads = world.sandbox.calls().of(Operation::HeadObject);
    assert!(
        heads.iter().all(|call| call.key.starts_with("fresh")),
        "{heads:?}"
    );
    assert_eq!(heads.len(), 20, "one on each side");
}

#[tokio::test]
async fn the_proof_that_a_fault_leaves_is_still_one() {
    // The answer to Complete is lost: the object at the key must be what the parts make.
    let world = World::new().await;
    world.put("k", 20 * MIB);
    world.add_fault(
        Fault::on(Operation::CompleteMultipartUpload)
            .nth(1)
            .then(Effect::ResetAfter),
    );
    world.add_fault(
        Fault::on(Operation::UploadPartCopy)
            .when(Which::Nth(1))
            .then(Effect::SlowDown),
    );
    let run = world.run(under(REQUIRE)).await;
    assert_eq!(run.proof(), "crc64nvme");
    world.assert_equal("k", "k");
}

/// An uploaded file is proven as the job requires, even if its answer was lost and it is found at
/// the destination.
#[tokio::test]
async fn a_file_whose_answer_was_lost_is_proven_as_the_job_demands() {
    let world = World::of_provider(Provider::Ceph).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "bytes").unwrap();
    let lost = Effect::ErrorAfterEffect(500, "InternalError");
    world.add_fault(Fault::on(Operation::PutObject).nth(1).then(lost));
    let proof = ProofPolicy {
        prove: Prove::Read,
        ..REQUIRE
    };
    let run = world
        .run(Transfer {
            proof,
            ..upload_all(dir.path())
        })
        .await;
    assert_eq!(
        (run.outcome.done_objects, world.calls(Operation::PutObject)),
        (1, 2),
        "{:?}",
        run.receipts
    );
    assert_eq!(run.proof(), "read", "an ETag is not enough");
}
