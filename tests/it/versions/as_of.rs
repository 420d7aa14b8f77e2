//! `as_of`.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::BucketVersioningStatus;
use jiff::Timestamp;
use rstest::rstest;
use s3haul::manifest::job::{Chosen, Source, Transfer, Versions};
use s3haul::s3::FailureKind;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::MIB;

use super::{at, history, one, there, write, writes};
use crate::world::{DESTINATION, SOURCE, World, copy_all, destination};

/// Returns the time half an hour after the version that [`write`] dates `hours`.
fn after(hours: u64) -> Timestamp {
    (at(hours) + Duration::from_mins(30)).try_into().unwrap()
}

fn as_of(hours: u64) -> Transfer {
    Transfer {
        versions: Versions::AsOf(after(hours)),
        ..copy_all()
    }
}

#[tokio::test]
async fn what_a_read_would_have_found_is_copied() {
    for (hours, stays, deleted, late, pages) in [
        (0, "a", "a", "", 1),
        (1, "b", "", "", 1),
        (2, "c", "", "a", 1),
    ] {
        let world = World::versioned().await;
        write(&world, SOURCE, "stays", "abc");
        write(&world, SOURCE, "deleted", "aM");
        world.put_object(
            SOURCE,
            "late",
            Content::bytes("a"),
            &ObjectSpec::default()
                .last_modified(at(2))
                .metadata("name", "a"),
        );
        let run = world.run(as_of(hours)).await;
        assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
        for (key, expected) in [("stays", stays), ("deleted", deleted), ("late", late)] {
            assert_eq!(there(&world, key), expected, "{key} after {hours} hours");
        }
        assert_eq!(world.calls(Operation::ListObjectVersions), pages);
        assert!(
            run.receipts
                .iter()
                .all(|receipt| receipt.source_version.is_some())
        );
        world.sandbox.calls().clear();
        let again = world.run(as_of(hours)).await;
        assert_eq!(
            (writes(&world), again.outcome.done_objects),
            (0, 0),
            "a second run has nothing to do"
        );
    }
}

#[tokio::test]
async fn a_key_whose_versions_span_pages_is_decided_once() {
    let world = World::versioned().await;
    for number in 0..2_300_u64 {
        let spec = ObjectSpec::default()
            .last_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + number))
            .metadata("name", format!("{number}"));
        world.put_object(SOURCE, "k", Content::bytes(number.to_string()), &spec);
    }
    let time = Timestamp::from_second(1_000_000 + 150).unwrap();
    let run = world
        .run(Transfer {
            versions: Versions::AsOf(time),
            ..copy_all()
        })
        .await;
    assert_eq!(
        (there(&world, "k").as_str(), run.receipts.len()),
        ("150", 1),
        "the time itself counts"
    );
    assert_eq!(world.calls(Operation::ListObjectVersions), 3);
}

/// A newer destination proves nothing here: it may be a copy of a later version.
#[tokio::test]
async fn a_later_version_of_the_same_size_is_replaced() {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "ab");
    world.run(copy_all()).await;
    assert_eq!(there(&world, "k"), "b");
    let run = world.run(as_of(0)).await;
    assert_eq!(
        (there(&world, "k").as_str(), run.outcome.done_objects),
        ("ba", 1),
        "{:?}",
        run.receipts
    );
}

/// Equal bytes with other parts have another `ETag`. s3haul sends HEADs to both sides, and copies
/// nothing again.
#[tokio::test]
async fn equal_bytes_in_other_parts_are_not_copied_again() {
    let world = World::versioned().await;
    let spec = ObjectSpec::default()
        .last_modified(at(0))
        .metadata("name", "a");
    world.put_with("large", 300 * MIB, &spec);
    assert_eq!(world.run(as_of(0)).await.outcome.done_objects, 1);
    world.sandbox.calls().clear();
    let again = world.run(as_of(0)).await;
    assert_eq!(
        (again.outcome.skipped_objects, writes(&world)),
        (1, 0),
        "{:?}",
        again.receipts
    );
    assert_eq!(world.calls(Operation::HeadObject), 2);
}

#[tokio::test]
async fn a_bucket_is_taken_back_to_what_it_was() {
    let world = World::versioned().await;
    write(&world, SOURCE, "changed", "ab");
    write(&world, SOURCE, "deleted", "aM");
    write(&world, SOURCE, "same", "a");
    let transfer = Transfer {
        to: destination("s3://source/"),
        ..as_of(0)
    };
    assert_eq!(world.job(transfer.clone()).check(), []);
    let run = world.run(transfer).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.skipped_objects),
        (2, 1),
        "{:?}",
        run.receipts
    );
    for (key, now) in [("changed", "aba"), ("deleted", "aMa"), ("same", "a")] {
        assert_eq!(
            history(&world, SOURCE, key),
            now,
            "{key}: nothing of its history is lost"
        );
    }
}

#[tokio::test]
async fn one_object_is_found_or_said_to_be_missing() {
    let world = World::versioned().await;
    write(&world, SOURCE, "dir/k", "aMb");
    write(&world, SOURCE, "dir/k2", "x");
    let one = |hours| Transfer {
        from: one("dir/k", None),
        ..as_of(hours)
    };
    let run = world.run(one(0)).await;
    assert_eq!((there(&world, "k").as_str(), run.receipts.len()), ("a", 1));
    let run = world.run(one(1)).await;
    assert_eq!(run.error(), "not-found", "it was deleted then");
}

/// While versioning is suspended, each write replaces the version `null`.
#[rstest]
#[case::before_the_copy(false)]
#[case::before_it_is_compared(true)]
#[tokio::test]
async fn an_object_of_that_time_that_is_gone_is_not_replaced_by_a_later_one(
    #[case] is_compared: bool,
) {
    let world = World::versioned().await;
    world
        .set_versioning(SOURCE, BucketVersioningStatus::Suspended)
        .await;
    write(&world, SOURCE, "k", "a");
    let read = if is_compared {
        // The copy of a later state.
        write(&world, DESTINATION, "k", "ab");
        Operation::HeadObject
    } else {
        Operation::CopyObject
    };
    let replace = Effect::hook(|store| {
        let spec = ObjectSpec::default().last_modified(at(1));
        store.put_object(
            SOURCE,
            "k",
            Content::bytes("b"),
            &spec.metadata("name", "b"),
        );
    });
    let before = there(&world, "k");
    world.add_fault(Fault::on(read).nth(1).then(replace));
    let run = world.run(as_of(0)).await;
    assert_eq!(run.error(), "not-found", "{:?}", run.receipts);
    assert_eq!(there(&world, "k"), before);
}

/// While versioning is suspended, a deletion makes the version `null` a delete marker. A HEAD of it
/// gets a 405.
#[tokio::test]
async fn an_object_of_that_time_that_was_deleted_is_gone() {
    let world = World::versioned().await;
    world
        .set_versioning(SOURCE, BucketVersioningStatus::Suspended)
        .await;
    write(&world, SOURCE, "k", "a");
    let delete = Effect::hook(|store| store.delete_object(SOURCE, "k"));
    world.add_fault(Fault::on(Operation::HeadObject).nth(1).then(delete));
    let run = world.run(as_of(0)).await;
    assert_eq!(run.error(), "not-found", "{:?}", run.receipts);
}

/// A retry of failed objects reads the versions of that time, and no other keys.
#[tokio::test]
async fn chosen_keys_are_those_of_that_time() {
    let world = World::versioned().await;
    write(&world, SOURCE, "a", "xy");
    write(&world, SOURCE, "b", "xy");
    let chosen = Chosen {
        key: "b".to_owned(),
        version: None,
    };
    let run = world
        .run(Transfer {
            chosen: Some(vec![chosen]),
            ..as_of(0)
        })
        .await;
    assert_eq!(
        (there(&world, "a").as_str(), there(&world, "b").as_str()),
        ("", "x"),
        "{:?}",
        run.receipts
    );
}

#[tokio::test]
async fn a_bucket_without_a_past_is_refused() {
    let world = World::new().await;
    write(&world, SOURCE, "k", "a");
    let Err(failure) = world.try_run_job(&world.job(as_of(0))).await else {
        panic!("it ran")
    };
    assert_eq!(*failure.kind(), FailureKind::NoVersions);
    assert!(
        failure.to_string().contains("never kept versions"),
        "{failure}"
    );
    assert_eq!(writes(&world), 0);
}

#[test]
fn a_past_is_one_of_s3() {
    let from = Source::Files {
        path: s3haul::location::LocalPath("x".into()),
        symlinks: s3haul::manifest::job::Symlinks::Skip,
    };
    let transfer = Transfer { from, ..as_of(0) };
    let job =
        s3haul::manifest::job::Job::single(transfer, [s3haul::manifest::job::Endpoint::default()]);
    let findings = job.check();
    assert!(
        findings
            .iter()
            .any(|finding| finding.path == "transfers[0].from.as_of"),
        "{findings:?}"
    );
}
