//! `prove: read`: objects without a checksum are read back, and the reads can go wrong.

use rstest::rstest;
use s3haul::sandbox::{Content, Effect, Fault, Operation};
use s3haul::size::MIB;

use super::{READ, under, unsummed};
use crate::world::{DESTINATION, SOURCE, World};

#[rstest]
#[case::empty(0, 0)]
#[case::single(1000, 1)]
#[case::parts(70 * MIB, 2)]
#[tokio::test]
async fn what_no_checksum_proves_is_read_where_the_job_allows_it(
    #[case] size: u64,
    #[case] ranges: u64,
) {
    let world = World::new().await;
    world.put_with("k", size, &unsummed());
    let run = world.run(under(READ)).await;
    assert_eq!(run.proof(), "read", "{:?}", run.receipts);
    let reads = world.sandbox.calls().of(Operation::GetObject);
    assert_eq!(reads.len() as u64, ranges);
    assert!(
        reads.iter().all(|call| call.bucket == SOURCE),
        "S3 has summed the copy itself"
    );
}

#[tokio::test]
async fn what_a_checksum_proves_is_not_read() {
    let world = World::new().await;
    world.put("k", 20 * MIB);
    let run = world.run(under(READ)).await;
    assert_eq!(
        (run.proof().as_str(), world.calls(Operation::GetObject)),
        ("crc64nvme", 0)
    );
}

#[tokio::test]
async fn reading_finds_a_wrong_part_before_it_is_published() {
    let world = World::new().await;
    world.put_with("k", 20 * MIB, &unsummed());
    world.add_fault(
        Fault::on(Operation::UploadPartCopy)
            .nth(2)
            .then(Effect::Corrupt),
    );
    let run = world.run(under(READ)).await;
    assert_eq!(
        (run.error(), world.calls(Operation::CompleteMultipartUpload)),
        ("not-equal", 0)
    );
    assert!(world.object(DESTINATION, "k").is_none());
    world.assert_no_upload_is_left();
}

#[rstest]
#[tokio::test]
async fn a_read_that_breaks_off_is_read_again(
    #[values(
        Effect::TruncateBody,
        Effect::ResetAfter,
        Effect::SlowDown,
        Effect::Error(500, "InternalError")
    )]
    effect: Effect,
) {
    let world = World::new().await;
    world.put_with("k", 3 * MIB, &unsummed());
    world.add_fault(Fault::on(Operation::GetObject).nth(1).then(effect));
    let run = world.run(under(READ)).await;
    assert_eq!(
        (run.proof().as_str(), world.calls(Operation::GetObject)),
        ("read", 2)
    );
}

#[tokio::test]
async fn a_source_that_changes_while_it_is_read_is_planned_again() {
    let world = World::new().await;
    world.put_with("k", 20 * MIB, &unsummed());
    let overwrite = Effect::hook(|store| {
        store.put_object(SOURCE, "k", Content::pattern(9, 20 * MIB), &unsummed());
    });
    world.add_fault(Fault::on(Operation::GetObject).nth(1).then(overwrite));
    let run = world.run(under(READ)).await;
    assert_eq!(run.proof(), "read");
    let copy = world.object(DESTINATION, "k").unwrap();
    assert_eq!(copy.content, Content::pattern(9, 20 * MIB));
}
