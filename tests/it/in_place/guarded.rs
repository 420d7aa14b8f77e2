//! Changes in place lose nobody's overwrite, and change nothing twice.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rstest::rstest;
use s3haul::execute::receipt::Ending;
use s3haul::journal::Intent;
use s3haul::manifest::job::{CannedAcl, Provider, When};
use s3haul::sandbox::{
    BucketOptions, Content, Effect, Fault, LatencyModel, Model, ObjectSpec, Operation,
    SandboxOptions,
};
use s3haul::size::GIB;

use super::{object, onto_itself, receipt, to_class, versioned};
use crate::liar::{Answer, Asked, Liar};
use crate::world::{SOURCE, World};

/// Another writer replaces the object between HEAD and the change.
#[rstest]
#[case::small(10, Operation::CopyObject, false)]
#[case::small_with_versions(10, Operation::CopyObject, true)]
#[case::large(6 * GIB, Operation::CompleteMultipartUpload, false)]
#[case::large_with_versions(6 * GIB, Operation::CompleteMultipartUpload, true)]
#[tokio::test]
async fn an_overwrite_is_changed_and_not_undone(
    #[case] size: u64,
    #[case] operation: Operation,
    #[case] versions: bool,
) {
    let world = if versions {
        versioned().await
    } else {
        World::new().await
    };
    world.put_with("k", size, &ObjectSpec::default().metadata("m", "old"));
    let overwrite = Effect::hook(|store| {
        let spec = ObjectSpec::default().metadata("m", "new");
        store.put_object(SOURCE, "k", Content::pattern(2, 11), &spec);
    });
    world.add_fault(Fault::on(operation).nth(1).then(overwrite));
    let mut transfer = to_class("STANDARD_IA");
    transfer.when = When::Always;
    let run = world.run(transfer).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    let after = object(&world, "k");
    assert_eq!(after.content, Content::pattern(2, 11));
    assert_eq!(
        (
            after.attributes.metadata["m"].as_str(),
            after.attributes.class()
        ),
        ("new", "STANDARD_IA")
    );
    assert!(world.open_uploads(SOURCE).is_empty());
}

#[rstest]
#[case(10, Operation::CopyObject)]
#[case(6 * GIB, Operation::CompleteMultipartUpload)]
#[tokio::test]
async fn an_object_that_is_deleted_meanwhile_stays_deleted(
    #[case] size: u64,
    #[case] operation: Operation,
) {
    let world = World::new().await;
    world.put("k", size);
    let delete = Effect::hook(|store| store.delete_object(SOURCE, "k"));
    world.add_fault(Fault::on(operation).nth(1).then(delete));
    let run = world.run(to_class("STANDARD_IA")).await;
    assert_eq!(run.error(), "not-found");
    assert!(world.object(SOURCE, "k").is_none());
    assert!(world.open_uploads(SOURCE).is_empty());
}

/// The answer to the change is lost. The object, which had parts before, then has another `ETag`.
#[tokio::test]
async fn a_change_whose_answer_is_lost_is_recognised() {
    let world = versioned().await;
    let spec = ObjectSpec::default()
        .part_sizes([6 << 20])
        .metadata("m", "n");
    world.put_with("k", 10 << 20, &spec);
    let lost = Effect::ErrorAfterEffect(500, "InternalError");
    world.add_fault(Fault::on(Operation::CopyObject).nth(1).then(lost));
    let run = world.run(to_class("STANDARD_IA")).await;
    assert!(
        matches!(receipt(&run, "k").ending, Ending::Done { .. }),
        "{:?}",
        run.receipts
    );
    assert_eq!(
        world.sandbox.store().versions(SOURCE, "k").len(),
        2,
        "it was changed once"
    );
}

/// HEAD shows another value than the job sets, because the server adds a charset to it. The change
/// itself shows by its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_a_server_that_adds_a_charset_is_no_reason_to_change_again() {
    let world = versioned().await;
    let yesterday = SystemTime::now() - Duration::from_hours(24);
    let spec = ObjectSpec::default().last_modified(yesterday);
    world.put_with("k", 10, &spec.part_sizes([6]));
    let liar = Liar::before(&world, |asked: &Asked, answer: Answer| {
        if asked.method == "HEAD" && asked.path.starts_with("/source/k") {
            answer.with("content-type: text/html;charset=utf-8")
        } else {
            answer
        }
    })
    .await;
    let lost = Effect::ErrorAfterEffect(500, "InternalError");
    world.add_fault(Fault::on(Operation::CopyObject).nth(1).then(lost));
    let change = onto_itself(|transfer| transfer.set.content_type = Some("text/html".to_owned()));
    let run = liar.run(&world, change, Provider::Other).await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
    assert_eq!(
        world.sandbox.store().versions(SOURCE, "k").len(),
        2,
        "it was changed once"
    );
}

/// With one slot, the HEADs must not wait for copies that wait for HEADs.
#[tokio::test]
async fn one_request_at_a_time_is_enough() {
    let world = versioned().await;
    for key in ["a", "b", "c"] {
        world.put_with(key, 10, &ObjectSpec::default().tag("t", "u"));
    }
    let lost = Effect::ErrorAfterEffect(500, "InternalError");
    world.add_fault(Fault::on(Operation::CopyObject).nth(2).then(lost));
    let mut job = world.job(onto_itself(|transfer| {
        transfer.set.tags = [("x".to_owned(), "y".to_owned())].into();
        transfer.to.acl = Some(CannedAcl::BucketOwnerFullControl);
    }));
    job.limits.in_flight = Some(1);
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.in_place_objects),
        (3, 3),
        "{:?}",
        run.receipts
    );
    assert!(object(&world, "b").attributes.tags.len() == 2);
}

/// Complete fails because its upload is gone. The object at the key already has the bytes that the
/// upload would have made.
#[tokio::test]
async fn an_upload_that_is_gone_has_changed_nothing() {
    let world = World::new().await;
    world.put("huge", 6 * GIB);
    let faults = world.sandbox.faults();
    let failed = Effect::Error(500, "InternalError");
    faults.add(
        Fault::on(Operation::CompleteMultipartUpload)
            .nth(1)
            .then(failed),
    );
    faults.add(
        Fault::on(Operation::ListParts)
            .nth(1)
            .then(Effect::Error(404, "NoSuchUpload")),
    );
    let run = world.run(to_class("STANDARD_IA")).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.in_place_objects),
        (1, 1),
        "{:?}",
        run.receipts
    );
    assert_eq!(object(&world, "huge").attributes.class(), "STANDARD_IA");
}

async fn slow() -> World {
    let ms = Duration::from_millis;
    let latency = LatencyModel {
        copy: ms(15),
        head: ms(1),
        complete: ms(15),
        ..LatencyModel::default()
    };
    let options = SandboxOptions {
        model: Model {
            latency,
            ..Model::default()
        },
        ..SandboxOptions::default()
    };
    let buckets = BucketOptions {
        versioning: true,
        ..BucketOptions::default()
    };
    let mut world = World::with(options, buckets).await;
    world.ceiling = 4;
    world
}

/// Drops a session once it has sent this many requests of a kind. Requests in flight may or may not
/// take effect.
async fn killed(
    world: &World,
    directory: &Path,
    job: &s3haul::manifest::job::Job,
    at: (Operation, u64),
) {
    let (operation, calls) = at;
    let reached = async {
        while world.calls(operation) < calls {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        run = world.session(directory, job, Intent::Resume) => panic!("not killed: {:?}", run.outcome),
        () = reached => {}
    }
}

#[rstest]
#[case(When::Changed)]
#[case(When::Always)]
#[tokio::test]
async fn a_run_that_is_killed_changes_nothing_twice(#[case] when: When) {
    let world = slow().await;
    for index in 0..40 {
        world.put_with(
            &format!("k{index:02}"),
            10,
            &ObjectSpec::default().metadata("m", "n"),
        );
    }
    let directory = tempfile::tempdir().unwrap();
    let mut transfer = onto_itself(|transfer| {
        transfer.set.cache_control = Some("no-store".to_owned());
        transfer.to.acl = Some(CannedAcl::BucketOwnerFullControl);
    });
    transfer.when = when;
    // Objects made within the current second would have the time of their change.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let job = world.job(transfer);
    killed(&world, directory.path(), &job, (Operation::CopyObject, 9)).await;
    killed(&world, directory.path(), &job, (Operation::CopyObject, 25)).await;
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
    for index in 0..40 {
        let key = format!("k{index:02}");
        let after = object(&world, &key).attributes;
        assert_eq!(after.cache_control.as_deref(), Some("no-store"), "{key}");
        assert_eq!(after.metadata.len(), 1, "{key}");
        assert_eq!(
            world.sandbox.store().versions(SOURCE, &key).len(),
            2,
            "{key}"
        );
    }
}

/// The first session leaves an upload, and the second one resumes it. The unchanged object is not
/// taken for the changed one.
#[tokio::test]
async fn a_large_change_that_was_killed_is_resumed() {
    let world = slow().await;
    world.put_with(
        "huge",
        6 * GIB,
        &ObjectSpec::default().metadata("m", "n").tag("t", "u"),
    );
    let directory = tempfile::tempdir().unwrap();
    let job = world.job(to_class("STANDARD_IA"));
    killed(
        &world,
        directory.path(),
        &job,
        (Operation::UploadPartCopy, 12),
    )
    .await;
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.in_place_objects),
        (1, 1),
        "{:?}",
        run.receipts
    );
    assert_eq!(object(&world, "huge").attributes.class(), "STANDARD_IA");
    assert_eq!(world.sandbox.store().versions(SOURCE, "huge").len(), 2);
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 1);
    assert!(world.open_uploads(SOURCE).is_empty());
}

/// A session is killed while its Complete is in flight, and a lifecycle rule aborts its upload. The
/// object has the right checksum, because it is its own source.
#[tokio::test]
async fn an_object_is_not_taken_for_its_own_change() {
    let world = slow().await;
    world.put("huge", 6 * GIB);
    let directory = tempfile::tempdir().unwrap();
    let job = world.job(to_class("STANDARD_IA"));
    let stall = Effect::StallBefore(Some(Duration::from_hours(1)));
    world.add_fault(
        Fault::on(Operation::CompleteMultipartUpload)
            .nth(1)
            .then(stall),
    );
    let killed = async {
        while world.sandbox.faults().fired() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        run = world.session(directory.path(), &job, Intent::Resume) => panic!("not killed: {:?}", run.outcome),
        () = killed => {}
    }
    let bucket = world.bucket(SOURCE).await;
    let [upload] = world.open_uploads(SOURCE).try_into().unwrap();
    bucket
        .abort_upload(&"huge".parse().unwrap(), &upload.upload_id)
        .await
        .unwrap();
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.in_place_objects),
        (1, 1),
        "{:?}",
        run.receipts
    );
    assert_eq!(object(&world, "huge").attributes.class(), "STANDARD_IA");
    assert_eq!(world.sandbox.store().versions(SOURCE, "huge").len(), 2);
}
