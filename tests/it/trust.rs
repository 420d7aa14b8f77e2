//! `trust: nothing`: the additional requests. The module `hostile` tests what they withstand.

use rstest::rstest;
use s3haul::endpoint::Provider;
use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{DEFAULT_ENDPOINT, Job, Limits, Source, Transfer, Trust, When};
use s3haul::plan::decide::Skip;
use s3haul::planner::Sides;
use s3haul::sandbox::{Content, ObjectSpec, Operation};
use s3haul::size::MIB;
use s3haul::verify::{self, Deep, Verdict, VerifyFinding};
use tokio_util::sync::CancellationToken;

use crate::liar::{Asked, Liar, Lie};
use crate::world::program::{at, run as run_command};
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, restate, upload_all, uri};

const OBJECTS: u64 = 3;

async fn world_with_numbered_metadata() -> World {
    let world = World::new().await;
    for number in 0..OBJECTS {
        let spec = ObjectSpec::default().metadata("number", number.to_string());
        world.put_object(
            SOURCE,
            &format!("k{number}"),
            Content::pattern(number, 1000),
            &spec,
        );
    }
    world
}

fn believing(world: &World, transfer: Transfer, trust: Trust) -> Job {
    let mut job = world.job(transfer);
    restate(&mut job, |endpoint| endpoint.trust = trust);
    job
}

/// Runs a job, and counts its HEAD requests.
async fn heads(world: &World, transfer: Transfer, trust: Trust) -> (Run, u64) {
    let before = world.calls(Operation::HeadObject);
    let run = world
        .try_run_job(&believing(world, transfer, trust))
        .await
        .unwrap();
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
    (run, world.calls(Operation::HeadObject) - before)
}

#[tokio::test]
async fn each_object_is_looked_at_before_and_after_it_is_written() {
    for (trust, copied, equal) in [(Trust::Answers, 1, 0), (Trust::Nothing, 3, 2)] {
        let world = world_with_numbered_metadata().await;
        let (run, asked) = heads(&world, copy_all(), trust).await;
        assert_eq!(
            (run.outcome.done_objects, asked),
            (OBJECTS, OBJECTS * copied),
            "{trust:?}"
        );
        // Runs the job again, when both sides are equal by their lists.
        let (run, asked) = heads(&world, copy_all(), trust).await;
        assert_eq!(
            (run.outcome.skipped_objects, asked),
            (OBJECTS, OBJECTS * equal),
            "{trust:?}"
        );
    }
}

#[tokio::test]
async fn a_file_is_looked_at_once() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("small"), vec![1; 1000]).unwrap();
    for (trust, looks) in [(Trust::Answers, 0), (Trust::Nothing, 1)] {
        let world = World::new().await;
        let (run, asked) = heads(&world, upload_all(files.path()), trust).await;
        assert_eq!((run.outcome.done_objects, asked), (1, looks), "{trust:?}");
    }
}

#[tokio::test]
async fn the_key_is_looked_at_although_the_write_has_a_condition() {
    let missing = || Transfer {
        when: When::Missing,
        ..copy_all()
    };
    for (trust, looks) in [(Trust::Answers, 1), (Trust::Nothing, 4)] {
        let world = world_with_numbered_metadata().await;
        let (_, asked) = heads(&world, missing(), trust).await;
        assert_eq!(asked, OBJECTS * looks, "{trust:?}");
        let refused = world.sandbox.calls().of(Operation::CopyObject);
        assert!(
            refused
                .iter()
                .all(|call| call.headers.contains_key("if-none-match")),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn what_a_list_shows_to_be_there_is_looked_at() {
    let world = world_with_numbered_metadata().await;
    world.put_object(
        DESTINATION,
        "k0",
        Content::pattern(9, 1000),
        &ObjectSpec::default(),
    );
    let (run, _) = heads(
        &world,
        Transfer {
            when: When::Missing,
            ..copy_all()
        },
        Trust::Nothing,
    )
    .await;
    let skipped: Vec<_> = run
        .receipts
        .iter()
        .filter(|receipt| receipt.destination.ends_with("k0"))
        .collect();
    assert!(
        matches!(&skipped[..], [receipt] if receipt.ending == Ending::Skipped { reason: Skip::Present })
    );
    assert_eq!(
        (run.outcome.done_objects, run.outcome.skipped_objects),
        (OBJECTS - 1, 1)
    );
}

#[tokio::test]
async fn an_object_in_parts_has_the_proof_that_its_look_shows() {
    let world = World::new().await;
    world.put("large", 11 * MIB);
    let mut transfer = copy_all();
    transfer.parts.threshold = s3haul::size::ByteSize(5 * MIB);
    let (run, asked) = heads(&world, transfer, Trust::Nothing).await;
    assert_eq!((run.proof().as_str(), asked), ("crc64nvme", 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flag_does_the_same() {
    let world = world_with_numbered_metadata().await;
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
        "--trust",
        "nothing",
    ];
    let (exit, _, stderr) = run_command(at(&world), &copy).await;
    assert_eq!(
        (exit, world.calls(Operation::HeadObject)),
        (0, OBJECTS * 3),
        "{stderr}"
    );
    let (exit, stdout, _) = run_command(
        at(&world),
        &[&copy[..], &["--dry-run", "--when", "always"]].concat(),
    )
    .await;
    assert_eq!(exit, 0);
    assert!(
        stdout.contains("HeadObject 9") || stdout.contains("9 HeadObject"),
        "{stdout}"
    );
    let (exit, _, stderr) =
        run_command(at(&world), &["copy", "s3://a/", "s3://b/", "--trust", "me"]).await;
    assert_eq!(exit, 2, "{stderr}");
}

/// Verifies both sides through this server.
async fn verified(world: &World, liar: &Liar, transfer: Transfer, trust: Trust) -> VerifyFinding {
    let mut job = liar.job(world, transfer, Provider::Other);
    restate(&mut job, |endpoint| endpoint.trust = trust);
    let mut connections = world.connections(&job, &CancellationToken::new(), &Limits::default());
    let mut buckets = Vec::new();
    for name in [SOURCE, DESTINATION] {
        let name = name.parse().unwrap();
        buckets.push(connections.bucket(DEFAULT_ENDPOINT, &name).await.unwrap());
    }
    let sides = Sides {
        transfer: job.transfers.remove(0).into(),
        destination: buckets.pop().unwrap(),
        source: buckets.pop(),
    };
    let mut findings = Vec::new();
    verify::transfer(&sides, Deep::No, |finding| findings.push(finding.clone())).await;
    let [finding] = &findings[..] else {
        panic!("{findings:?}")
    };
    finding.clone()
}

fn reads(asked: &Asked) -> bool {
    asked.method == "GET" && asked.header("range").is_some()
}

/// No list shows the size of a named object, so `verify` reads its last byte on each untrusted
/// side.
#[rstest]
#[case::named(true, Trust::Nothing, 2)]
#[case::believed(true, Trust::Answers, 0)]
#[case::listed(false, Trust::Nothing, 0)]
#[tokio::test(flavor = "multi_thread")]
async fn verify_reads_the_last_byte_of_a_named_object(
    #[case] is_named: bool,
    #[case] trust: Trust,
    #[case] asked: usize,
) {
    let world = World::new().await;
    for bucket in [SOURCE, DESTINATION] {
        let (content, spec) = (Content::pattern(1, 1000), ObjectSpec::default());
        world.put_object(bucket, "k", content, &spec);
    }
    let mut transfer = copy_all();
    if is_named {
        transfer.from = Source::Object {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            location: uri("s3://source/k"),
            version: None,
        };
    }
    let liar = Liar::before(&world, |_, answer| answer).await;
    let finding = verified(&world, &liar, transfer.clone(), trust).await;
    assert!(
        matches!(finding.verdict, Verdict::Equal { .. }),
        "{finding:?}"
    );
    assert_eq!(liar.count(reads), asked);
    // HEAD shows half the size on both sides.
    let liar = Liar::lying(&world, |asked| match asked.method.as_str() {
        "HEAD" if asked.path.ends_with("/k") => {
            Lie::Changed(Box::new(|answer| answer.with("content-length: 500")))
        }
        _ => Lie::Truth,
    })
    .await;
    let finding = verified(&world, &liar, transfer, trust).await;
    match finding.verdict {
        Verdict::Failed { error } if trust == Trust::Nothing => {
            assert!(error.message.contains("1000"), "{error:?}");
        }
        Verdict::Equal { .. } if trust == Trust::Answers => {}
        other => panic!("{other:?}"),
    }
}
