//! `layout: source`: copies keep multipart `ETag`s and composite checksums.

use rstest::rstest;
use s3haul::manifest::job::{LayoutChoice, Parts, ProofPolicy, Transfer, Verify};
use s3haul::plan::attributes::Reads;
use s3haul::plan::totals::PlanTotals;
use s3haul::planner::{Planned, Sides};
use s3haul::sandbox::{
    Algorithm, BucketOptions, ChecksumKind, Effect, Encryption, Fault, ObjectSpec, Operation,
};
use s3haul::size::{GIB, MIB};

use crate::world::{DESTINATION, SOURCE, World, copy_all, destination};

fn replayed() -> Transfer {
    Transfer {
        parts: Parts {
            layout: LayoutChoice::Source,
            ..Parts::default()
        },
        ..copy_all()
    }
}

fn sizes(world: &World) -> Vec<u64> {
    let parts = world.object(DESTINATION, "k").unwrap().parts;
    parts.iter().map(|part| part.size).collect()
}

fn etag(world: &World, bucket: &str) -> String {
    world.object(bucket, "k").unwrap().etag
}

#[rstest]
#[case::one_part(vec![7 * MIB], 0)]
#[case::two_small_ones(vec![5 * MIB, 1], 1)]
#[case::even(vec![8 * MIB; 4], 1)]
#[case::with_a_rest(vec![64 * MIB, 64 * MIB, 3], 1)]
#[case::first_too_small(vec![5 * MIB, 6 * MIB, 7 * MIB], 1 + 3)]
#[case::first_too_large(vec![9 * MIB, 5 * MIB, 5 * MIB, MIB], 1 + 4)]
#[tokio::test]
async fn the_etag_is_that_of_the_source(#[case] parts: Vec<u64>, #[case] part_heads: u64) {
    let world = World::new().await;
    world.put_with(
        "k",
        parts.iter().sum(),
        &ObjectSpec::default()
            .part_sizes(parts.clone())
            .without_checksum(),
    );
    let run = world.run(replayed()).await;
    assert_eq!(run.proof(), "etag", "{:?}", run.receipts);
    assert!(
        run.receipts[0].notes.is_empty(),
        "{:?}",
        run.receipts[0].notes
    );
    assert_eq!(
        (etag(&world, DESTINATION), sizes(&world)),
        (etag(&world, SOURCE), parts)
    );
    assert_eq!(
        world.calls(Operation::HeadObject),
        2 + part_heads,
        "no part is asked for that need not be"
    );
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 1);
}

#[tokio::test]
async fn boundaries_that_only_seem_uniform_are_found_out_before_anything_is_published() {
    let world = World::new().await;
    let parts = [8 * MIB, 7 * MIB, 9 * MIB];
    world.put_with("k", 24 * MIB, &ObjectSpec::default().part_sizes(parts));
    // With one slot, the HEADs of parts must not wait for the slot that their own object holds.
    let mut job = world.job(replayed());
    job.limits.in_flight = Some(1);
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.proof(), "crc64nvme", "{:?}", run.receipts);
    assert_eq!(
        (etag(&world, DESTINATION), sizes(&world)),
        (etag(&world, SOURCE), parts.to_vec())
    );
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 2);
    assert_eq!(world.calls(Operation::CompleteMultipartUpload), 1);
    assert_eq!(world.calls(Operation::HeadObject), 2 + 1 + 3 + 1);
    world.assert_no_upload_is_left();
}

#[rstest]
#[case(Algorithm::Sha256, "composite-sha256")]
#[case(Algorithm::Sha1, "composite-sha1")]
#[case(Algorithm::Crc32, "composite-crc32")]
#[case(Algorithm::Crc32c, "composite-crc32c")]
#[tokio::test]
async fn composite_checksums_stay_and_prove(#[case] algorithm: Algorithm, #[case] proof: &str) {
    let world = World::new().await;
    let spec = ObjectSpec::default()
        .checksum(algorithm, ChecksumKind::Composite)
        .part_sizes([6 * MIB, 6 * MIB, MIB]);
    world.put_with("k", 13 * MIB, &spec);
    let demand = ProofPolicy {
        verify: Verify::RequireChecksum,
        ..ProofPolicy::default()
    };
    let run = world
        .run(Transfer {
            proof: demand,
            ..replayed()
        })
        .await;
    assert_eq!(run.proof(), proof, "{:?}", run.receipts);
    let of = |bucket| world.object(bucket, "k").unwrap().checksum;
    assert_eq!(of(DESTINATION), of(SOURCE));
    assert_eq!(etag(&world, DESTINATION), etag(&world, SOURCE));
}

#[tokio::test]
async fn a_composite_checksum_stays_where_a_key_takes_the_etag() {
    let world = World::new().await;
    let kms = BucketOptions {
        encryption: Encryption::kms("key"),
        ..BucketOptions::default()
    };
    world.sandbox.store().create_bucket("secret", kms);
    let spec = ObjectSpec::default()
        .checksum(Algorithm::Sha256, ChecksumKind::Composite)
        .part_sizes([6 * MIB, 6 * MIB, MIB]);
    world.put_with("k", 13 * MIB, &spec);
    let run = world
        .run(Transfer {
            to: destination("s3://secret/"),
            ..replayed()
        })
        .await;
    assert_eq!(run.proof(), "composite-sha256", "{:?}", run.receipts);
    assert!(
        run.receipts[0].notes[0].contains("KMS or customer key"),
        "{:?}",
        run.receipts[0].notes
    );
}

#[tokio::test]
async fn a_plain_etag_stays_by_a_single_copy() {
    let world = World::new().await;
    world.put("k", GIB);
    let run = world.run(replayed()).await;
    assert_eq!(
        (run.receipts[0].route, world.calls(Operation::CopyObject)),
        (Some("copy"), 1)
    );
    assert_eq!(etag(&world, DESTINATION), etag(&world, SOURCE));
}

#[tokio::test]
async fn an_object_that_cannot_be_replayed_is_copied_anyway_with_the_reason() {
    let kms = ObjectSpec::default()
        .encryption(Encryption::kms("key"))
        .part_sizes([6 * MIB]);
    let small = ObjectSpec::default().part_sizes([MIB, 300 * MIB]);
    for (size, spec, why) in [
        (12 * MIB, kms, "a KMS or customer key"),
        (302 * MIB, small, "smaller than a part may be"),
        (6 * GIB, ObjectSpec::default(), "written in one piece"),
        (
            0,
            ObjectSpec::default().part_sizes([MIB]),
            "an empty object",
        ),
    ] {
        let world = World::new().await;
        world.put_with("k", size, &spec);
        let run = world.run(replayed()).await;
        assert_eq!(run.proof(), "crc64nvme", "{:?}", run.receipts);
        let losses = &run.receipts[0].notes;
        assert!(
            losses.len() == 1 && losses[0].starts_with("ETag: ") && losses[0].contains(why),
            "{losses:?}"
        );
        world.assert_equal("k", "k");
    }
}

#[tokio::test]
async fn a_bucket_that_encrypts_with_a_key_is_noticed_at_the_beginning() {
    let world = World::new().await;
    let kms = BucketOptions {
        encryption: Encryption::kms("key"),
        ..BucketOptions::default()
    };
    world.sandbox.store().create_bucket("secret", kms);
    world.put_with(
        "k",
        24 * MIB,
        &ObjectSpec::default().part_sizes([8 * MIB, 8 * MIB]),
    );
    let run = world
        .run(Transfer {
            to: destination("s3://secret/"),
            ..replayed()
        })
        .await;
    assert_eq!(run.proof(), "crc64nvme", "{:?}", run.receipts);
    assert!(
        run.receipts[0].notes[0].contains("KMS or customer key"),
        "{:?}",
        run.receipts[0].notes
    );
    assert_eq!(
        world.calls(Operation::CreateMultipartUpload),
        1,
        "and nothing was copied twice"
    );
}

#[tokio::test]
async fn a_part_that_was_stored_wrong_is_not_taken_for_another_layout_for_ever() {
    for (always, published) in [(false, true), (true, false)] {
        let world = World::new().await;
        world.put_with(
            "k",
            24 * MIB,
            &ObjectSpec::default()
                .part_sizes([8 * MIB, 8 * MIB])
                .without_checksum(),
        );
        let fault = Fault::on(Operation::UploadPartCopy).then(Effect::Corrupt);
        world.add_fault(if always { fault } else { fault.nth(2) });
        let run = world.run(replayed()).await;
        assert_eq!(
            run.outcome.done_objects == 1,
            published,
            "{:?}",
            run.receipts
        );
        assert_eq!(
            world.calls(Operation::CompleteMultipartUpload),
            u64::from(published)
        );
        assert_eq!(world.object(DESTINATION, "k").is_some(), published);
        world.assert_no_upload_is_left();
    }
}

#[tokio::test]
async fn a_sync_of_replayed_objects_asks_for_nothing() {
    let world = World::new().await;
    world.put_with(
        "k",
        24 * MIB,
        &ObjectSpec::default().part_sizes([8 * MIB, 8 * MIB]),
    );
    assert_eq!(world.run(replayed()).await.outcome.done_objects, 1);
    world.sandbox.calls().clear();
    assert_eq!(world.run(replayed()).await.outcome.skipped_objects, 1);
    assert_eq!(
        world.calls(Operation::HeadObject),
        0,
        "the lists show equal ETags"
    );
}

#[tokio::test]
async fn the_plan_counts_the_question_for_the_first_part() {
    let world = World::new().await;
    world.put_with(
        "k",
        24 * MIB,
        &ObjectSpec::default().part_sizes([8 * MIB, 8 * MIB]),
    );
    let (source, destination) = (world.bucket(SOURCE).await, world.bucket(DESTINATION).await);
    let sides = Sides {
        transfer: replayed().into(),
        source: Some(source),
        destination,
    };
    let Some(Planned::Step(step)) = sides.plan().recv().await else {
        panic!("nothing is planned")
    };
    let mut totals = PlanTotals::default();
    let capabilities = sides.destination.capabilities();
    let reads = Reads::of(&sides.transfer, capabilities, &step.route);
    totals.copy(
        step.entry.size,
        &step.route,
        step.reason,
        capabilities,
        reads,
    );
    world.sandbox.calls().clear();
    world.run(replayed()).await;
    for (planned, sent) in [
        (s3haul::s3::Operation::HeadObject, Operation::HeadObject),
        (
            s3haul::s3::Operation::UploadPartCopy,
            Operation::UploadPartCopy,
        ),
    ] {
        assert_eq!(totals.requests[&planned], world.calls(sent), "{planned}");
    }
}
