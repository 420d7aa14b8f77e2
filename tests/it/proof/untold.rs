//! Checksums whose kind the server does not tell, or on which the manifest does not rely.

use rstest::rstest;
use s3haul::manifest::job::{Provider, Trust};
use s3haul::sandbox::Operation;
use s3haul::size::MIB;

use super::{READ, message, under, unsummed};
use crate::liar::{Answer, Asked, Liar};
use crate::world::{DESTINATION, SOURCE, World, restate};

/// Replaces the checksum that HEAD shows of an object of parts by one that is not of all bytes.
fn sums_of_parts(asked: &Asked, answer: Answer, kind: Option<&str>) -> Answer {
    if asked.method == "POST" && asked.has("uploadId") {
        return answer.replacing("ChecksumCRC64NVME", "Unknown");
    }
    if asked.method != "HEAD" || !asked.path.starts_with(&format!("/{DESTINATION}/")) {
        return answer;
    }
    let answer = answer
        .without("x-amz-checksum-crc64nvme")
        .without("x-amz-checksum-type")
        .with("x-amz-checksum-crc32: AAAAAA==");
    match kind {
        Some(kind) => answer.with(&format!("x-amz-checksum-type: {kind}")),
        None => answer,
    }
}

#[rstest]
#[case::untold(true, None)]
#[case::not_relied_on(false, Some("FULL_OBJECT"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_of_unknown_kind_contradicts_nothing(
    #[case] checksums: bool,
    #[case] kind: Option<&'static str>,
) {
    let world = World::new().await;
    world.put_with("k", 20 * MIB, &unsummed());
    let liar = Liar::before(&world, move |asked, answer| {
        sums_of_parts(asked, answer, kind)
    })
    .await;
    let mut job = liar.job(&world, under(READ), Provider::Other);
    restate(&mut job, |endpoint| {
        endpoint.capabilities.checksums = Some(checksums);
    });
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (1, 0),
        "{}",
        message(&run)
    );
    assert_eq!(run.proof(), "read");
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_that_are_not_relied_on_prove_nothing() {
    for (checksums, proof) in [
        (Some(true), "crc64nvme"),
        (Some(false), "size"),
        (None, "crc64nvme"),
    ] {
        let world = World::of_provider(Provider::Other).await;
        world.put_with("k", 1000, &s3haul::sandbox::ObjectSpec::default());
        let mut job = world.job(s3haul::manifest::job::Transfer {
            proof: s3haul::manifest::job::ProofPolicy::default(),
            ..under(READ)
        });
        restate(&mut job, |endpoint| {
            endpoint.capabilities.checksums = checksums;
        });
        let run = world.try_run_job(&job).await.unwrap();
        assert_eq!(run.proof(), proof, "checksums: {checksums:?}");
    }
}

/// The answer to the copy has a checksum, and HEAD shows none.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_read_if_the_answer_that_has_its_checksum_is_not_believed() {
    for (trust, read) in [
        (Trust::Answers, &[SOURCE][..]),
        (Trust::Nothing, &[SOURCE, DESTINATION]),
    ] {
        let world = World::new().await;
        world.put_with("k", 1000, &unsummed());
        let liar = Liar::before(&world, |asked, answer| {
            if asked.method == "HEAD" {
                answer
                    .without("x-amz-checksum-crc64nvme")
                    .without("x-amz-checksum-type")
            } else {
                answer
            }
        })
        .await;
        let mut job = liar.job(&world, under(READ), Provider::Aws);
        restate(&mut job, |endpoint| endpoint.trust = trust);
        let run = world.try_run_job(&job).await.unwrap();
        assert_eq!(run.proof(), "read", "{:?}", run.receipts);
        let reads = world.sandbox.calls().of(Operation::GetObject);
        let buckets: Vec<_> = reads.iter().map(|call| call.bucket.as_str()).collect();
        assert_eq!(buckets, read, "{trust:?}");
    }
}
