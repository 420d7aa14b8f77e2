//! Copies that failed their proof and were kept: the next run does not accept them as good.

use std::path::Path;
use std::time::{Duration, SystemTime};

use s3haul::journal::Intent;
use s3haul::manifest::job::{Provider, Transfer, When};
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};

use super::{READ, message, under, unsummed};
use crate::world::program::{journaled, run};
use crate::world::{DESTINATION, World};

/// Starts a sandbox whose lists show no `ETag` of the bytes, and whose first copy is wrong.
async fn world_with_bad_copy() -> World {
    let world = World::of_provider(Provider::Other).await;
    // An old source: a copy of the same second would be copied again anyway.
    let old = ObjectSpec {
        last_modified: Some(SystemTime::now() - Duration::from_hours(1)),
        ..unsummed()
    };
    world.put_with("k", 1000, &old);
    world.add_fault(
        Fault::on(Operation::CopyObject)
            .nth(1)
            .then(Effect::Corrupt),
    );
    world
}

fn assert_good(world: &World) {
    let copy = world.object(DESTINATION, "k").unwrap();
    assert_eq!(copy.content, Content::pattern(1, 1000));
}

#[tokio::test]
async fn a_bad_copy_is_copied_again_by_the_next_run() {
    let world = world_with_bad_copy().await;
    let directory = tempfile::tempdir().unwrap();
    let job = world.job(under(READ));
    let first = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(first.error(), "not-equal");
    assert!(
        message(&first).contains("the next run with this journal copies it again"),
        "{}",
        message(&first)
    );
    let second = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(second.proof(), "read", "{:?}", second.receipts);
    let reason = second.receipts[0].copy_reason.unwrap();
    assert_eq!(reason.to_string(), "failed its proof");
    assert_good(&world);
    // The proven copy is accepted like any other.
    let third = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (third.outcome.done_objects, third.outcome.skipped_objects),
        (0, 1)
    );
}

#[tokio::test]
async fn a_job_that_replaces_nothing_fails_again() {
    let world = world_with_bad_copy().await;
    let directory = tempfile::tempdir().unwrap();
    let missing = world.job(Transfer {
        when: When::Missing,
        ..under(READ)
    });
    for _ in 0..2 {
        let run = world
            .session(directory.path(), &missing, Intent::Resume)
            .await;
        assert_eq!(run.error(), "not-equal", "{:?}", run.receipts);
    }
    assert_eq!(world.calls(Operation::CopyObject), 1);
    let always = world.job(Transfer {
        when: When::Always,
        ..under(READ)
    });
    let run = world
        .session(directory.path(), &always, Intent::Resume)
        .await;
    assert_eq!(run.outcome.done_objects, 1);
    let run = world
        .session(directory.path(), &missing, Intent::Resume)
        .await;
    assert_eq!(run.outcome.skipped_objects, 1, "{:?}", run.receipts);
}

async fn copy(world: &World, directory: &Path, flags: &[&str]) -> (i32, String, String) {
    let command = journaled(world, directory);
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "other",
        "--prove",
        "read",
    ];
    run(command, &[&copy[..], flags].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_off_copy_with_other_flags_knows_it_too() {
    let world = world_with_bad_copy().await;
    let directory = tempfile::tempdir().unwrap();
    let (exit, ..) = copy(&world, directory.path(), &[]).await;
    assert_eq!(exit, 1);
    let (exit, _, stderr) = copy(&world, directory.path(), &["--part-size", "5MiB"]).await;
    assert!(
        exit == 0 && stderr.contains("1 copy of earlier runs failed"),
        "{exit} {stderr}"
    );
    assert_good(&world);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_the_failure_says_what_the_next_run_may_think() {
    let world = world_with_bad_copy().await;
    let directory = tempfile::tempdir().unwrap();
    let (exit, stdout, stderr) = copy(&world, directory.path(), &["--journal", "none"]).await;
    assert!(
        exit == 1
            && format!("{stdout}{stderr}").contains("without a journal, the next run may find"),
        "{exit} {stdout} {stderr}"
    );
}
