//! `trust: nothing`: what is asked besides, request by request. What it withstands is in `hostile`.

use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{Job, Transfer, Trust, When};
use s3haul::plan::decide::Skip;
use s3haul::sandbox::{Content, ObjectSpec, Operation};
use s3haul::size::MIB;

use crate::cli::{at, run as run_command};
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, restate, upload_all};

const OBJECTS: u64 = 3;

async fn world() -> World {
    let world = World::new().await;
    for number in 0..OBJECTS {
        let spec = ObjectSpec::default().metadata("number", number.to_string());
        world.sandbox.store().put_object(
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

/// Runs a job, and returns the HEAD requests that it takes.
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
        let world = world().await;
        let (run, asked) = heads(&world, copy_all(), trust).await;
        assert_eq!(
            (run.outcome.done_objects, asked),
            (OBJECTS, OBJECTS * copied),
            "{trust:?}"
        );
        // Once more, when both sides are equal by their lists.
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
        let world = world().await;
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
    let world = world().await;
    world.sandbox.store().put_object(
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
    world.sandbox.store().put_object(
        SOURCE,
        "large",
        Content::pattern(1, 11 * MIB),
        &ObjectSpec::default(),
    );
    let mut transfer = copy_all();
    transfer.parts.threshold = s3haul::size::ByteSize(5 * MIB);
    let (run, asked) = heads(&world, transfer, Trust::Nothing).await;
    assert_eq!((run.proof().as_str(), asked), ("crc64nvme", 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flag_does_the_same() {
    let world = world().await;
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
