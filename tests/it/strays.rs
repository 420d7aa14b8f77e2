//! No upload stays open without a message, whatever the server does not answer: with and without a
//! journal, by runs and by `uploads abort`. If the server cannot prove an abort, that is reported
//! once, with an ID or a key and a command.

mod aborted;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rstest::rstest;
use s3haul::journal::Intent;
use s3haul::manifest::job::{Job, Transfer};
use s3haul::sandbox::{Effect, Fault, ObjectSpec, Operation};
use s3haul::size::MIB;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::liar::{Asked, Liar, Lie};
use crate::world::{DESTINATION, Run, World, copy_all, in_parts_of, restate};

const PARTS: u64 = 20;

fn in_parts() -> Transfer {
    in_parts_of(5 * MIB, copy_all())
}

async fn world_with_large() -> World {
    let mut world = World::with_copy_latency(Duration::from_millis(5)).await;
    (world.ceiling, world.retry.attempts) = (4, 2);
    world.put("large", PARTS * 5 * MIB);
    world
}

/// Returns a job that goes through a proxy with these answers.
async fn job_with_answers(
    world: &World,
    lie: impl Fn(&Asked) -> Lie + Send + Sync + 'static,
) -> Job {
    let url = Liar::lying(world, lie).await.url;
    let mut job = world.job(in_parts());
    restate(&mut job, |endpoint| endpoint.url = Some(url));
    job
}

/// Runs a job with a journal in this directory, or without one.
async fn session(world: &World, job: &Job, journal: Option<&TempDir>) -> Run {
    match journal {
        Some(directory) => world.session(directory.path(), job, Intent::Resume).await,
        None => world.try_run_job(job).await.unwrap(),
    }
}

fn notes(run: &Run) -> Vec<&str> {
    run.receipts
        .iter()
        .flat_map(|receipt| &receipt.notes)
        .map(String::as_str)
        .collect()
}

fn open(world: &World) -> usize {
    let open = world.open_uploads(DESTINATION);
    // `--older-than` creates an upload to check the server's dates, which this server may refuse to
    // abort.
    open.iter()
        .filter(|open| !open.key.contains("s3haul-date-check"))
        .count()
}

#[rstest]
#[tokio::test]
async fn a_create_that_is_answered_with_nonsense_leaves_nothing(
    #[values(false, true)] journal: bool,
) {
    let world = world_with_large().await;
    let directory = journal.then(|| TempDir::new().unwrap());
    let job = job_with_answers(&world, |asked| {
        if asked.creates_upload() {
            Lie::unreadable()
        } else {
            Lie::Truth
        }
    })
    .await;
    let run = session(&world, &job, directory.as_ref()).await;
    assert_eq!(run.error(), "unreadable-answer");
    assert!(world.calls(Operation::CreateMultipartUpload) > 1);
    assert_eq!(
        world.calls(Operation::AbortMultipartUpload),
        world.calls(Operation::CreateMultipartUpload)
    );
    assert_eq!((open(&world), notes(&run)), (0, vec![]));
}

#[rstest]
#[tokio::test]
async fn an_upload_that_cannot_be_searched_for_is_reported_once_with_its_key(
    #[values(false, true)] journal: bool,
    #[values("refused", "denied", "nonsense")] how: &'static str,
) {
    let world = world_with_large().await;
    let directory = journal.then(|| TempDir::new().unwrap());
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let job = job_with_answers(&world, move |asked| match how {
        _ if asked.creates_upload() && !is_mended.load(Ordering::Relaxed) => Lie::unreadable(),
        "refused" if asked.lists_uploads() => Lie::error(501, "NotImplemented"),
        "denied" if asked.lists_uploads() => Lie::error(403, "AccessDenied"),
        "nonsense" if asked.lists_uploads() => Lie::unreadable(),
        _ => Lie::Truth,
    })
    .await;
    let run = session(&world, &job, directory.as_ref()).await;
    assert_eq!(run.error(), "unreadable-answer");
    let told = notes(&run);
    assert!(
        told.len() == 1 && told[0].contains("an upload of unknown id may be left open"),
        "{told:?}"
    );
    let command = "`s3haul uploads list s3://destination/large --endpoint-url http://127.0.0.1:";
    assert!(told[0].contains(command), "{told:?}");
    mended.store(true, Ordering::Relaxed);
    let run = session(&world, &job, directory.as_ref()).await;
    assert_eq!(
        (run.outcome.done_objects, notes(&run)),
        (1, vec![]),
        "{:?}",
        run.receipts
    );
}

#[tokio::test]
async fn a_twin_that_cannot_be_searched_for_is_reported() {
    let world = world_with_large().await;
    world.add_fault(
        Fault::on(Operation::CreateMultipartUpload)
            .nth(1)
            .then(Effect::EmptyBody),
    );
    world.add_fault(
        Fault::on(Operation::ListMultipartUploads).then(Effect::Error(403, "AccessDenied")),
    );
    let run = world.run(in_parts()).await;
    assert_eq!(
        (run.outcome.done_objects, open(&world)),
        (1, 1),
        "{:?}",
        run.receipts
    );
    assert!(
        notes(&run).len() == 1 && notes(&run)[0].contains("of unknown id"),
        "{:?}",
        notes(&run)
    );
}

#[tokio::test]
async fn a_twin_of_an_attempt_with_other_attributes_is_aborted() {
    let world = world_with_large().await;
    let spec = ObjectSpec::default().tag("a", "b");
    world.put_with("large", PARTS * 5 * MIB, &spec);
    let faults = world.sandbox.faults();
    faults.add(
        Fault::on(Operation::CreateMultipartUpload)
            .nth(1)
            .then(Effect::EmptyBody),
    );
    faults.add(
        Fault::on(Operation::CreateMultipartUpload)
            .nth(2)
            .then(Effect::Error(403, "AccessDenied")),
    );
    let run = world.run(in_parts()).await;
    assert_eq!(
        (run.outcome.done_objects, open(&world)),
        (1, 0),
        "{:?}",
        run.receipts
    );
}

/// Runs a session that is stopped after the server has created an upload whose answer never comes.
async fn stopped_in_create(world: &mut World) -> Run {
    world.stop = CancellationToken::new();
    let create = Fault::on(Operation::CreateMultipartUpload).nth(1);
    world.add_fault(create.then(Effect::StallAfter(None)));
    world.retry.silence = Duration::from_hours(1);
    let job = world.job(in_parts());
    let stopped = async {
        while open(world) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.stop.cancel();
    };
    let (run, ()) = tokio::join!(session(world, &job, None), stopped);
    world.stop = CancellationToken::new();
    world.sandbox.faults().clear();
    run
}

/// A run without a journal that is stopped during Create leaves nothing either.
#[tokio::test(start_paused = true)]
async fn a_stop_in_the_middle_of_create_leaves_nothing() {
    let mut world = world_with_large().await;
    let run = stopped_in_create(&mut world).await;
    assert!(run.outcome.stopped, "{:?}", run.outcome);
    assert_eq!((open(&world), notes(&run)), (0, vec![]));
    assert_eq!(world.calls(Operation::AbortMultipartUpload), 1);
}

/// The next run with `--adopt` continues the upload, if there is one. If it cannot see the upload's
/// content, it says so and copies the object anew.
#[tokio::test]
async fn uploads_left_for_adoption_or_without_a_listable_content_are_reported() {
    let mut world = world_with_large().await;
    world.stop = CancellationToken::new();
    let stop = world.stop.clone();
    let tenth = Fault::on(Operation::UploadPartCopy)
        .nth(10)
        .then(Effect::hook(move |_| stop.cancel()));
    world.add_fault(tenth);
    let mut job = job_with_answers(&world, |asked| match asked {
        _ if asked.lists_parts() => Lie::error(501, "NotImplemented"),
        _ => Lie::Truth,
    })
    .await;
    job.adopts = true;
    let run = world.try_run_job(&job).await.unwrap();
    assert!(
        run.outcome.stopped && open(&world) == 1,
        "{:?}",
        run.outcome
    );
    let id = world.open_uploads(DESTINATION)[0].upload_id.clone();
    let told = notes(&run);
    assert!(
        told.len() == 1 && told[0].starts_with(&format!("the upload {id} is left open")),
        "{told:?}"
    );
    let command = "`s3haul uploads abort s3://destination/large --endpoint-url http://127.0.0.1:";
    assert!(
        told[0].contains("--adopt") && told[0].contains(command),
        "{told:?}"
    );
    world.stop = CancellationToken::new();
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, open(&world)),
        (1, 1),
        "{:?}",
        run.receipts
    );
    let told = notes(&run);
    let says = |words: &str| told.iter().filter(|note| note.contains(words)).count();
    assert_eq!(
        says(&format!(
            "the parts of the open upload {id} cannot be listed"
        )),
        1,
        "{told:?}"
    );
    assert_eq!(
        says(
            "1 open upload at this key is left alone; `s3haul uploads list s3://destination/large --"
        ),
        1
    );
}

/// Stops a run after some parts.
async fn interrupted(world: &mut World, job: &Job, directory: &TempDir) {
    world.stop = CancellationToken::new();
    let stop = world.stop.clone();
    let tenth = Fault::on(Operation::UploadPartCopy)
        .nth(10)
        .then(Effect::hook(move |_| stop.cancel()));
    world.add_fault(tenth);
    let run = world.session(directory.path(), job, Intent::Resume).await;
    assert!(run.outcome.stopped && open(world) == 1, "{:?}", run.outcome);
    world.stop = CancellationToken::new();
    world.sandbox.faults().clear();
    world.sandbox.calls().clear();
}

#[rstest]
#[tokio::test]
async fn without_a_list_of_parts_an_object_starts_over_and_the_list_of_uploads_proves_the_abort(
    #[values("missing", "not found", "nonsense", "denied")] how: &'static str,
) {
    let mut world = world_with_large().await;
    let directory = TempDir::new().unwrap();
    let job = job_with_answers(&world, move |asked| match how {
        _ if !asked.lists_parts() => Lie::Truth,
        "missing" => Lie::error(501, "NotImplemented"),
        "not found" => Lie::error(404, "NoSuchKey"),
        "nonsense" => Lie::unreadable(),
        _ => Lie::error(403, "AccessDenied"),
    })
    .await;
    interrupted(&mut world, &job, &directory).await;
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, open(&world)),
        (1, 0),
        "{:?}",
        run.receipts
    );
    assert_eq!(notes(&run), Vec::<&str>::new());
    assert_eq!(
        world.calls(Operation::UploadPartCopy),
        PARTS,
        "the state of the bucket is unknown"
    );
    assert_eq!(world.calls(Operation::ListMultipartUploads), 1);
    // The next session completes the job and aborts nothing.
    world.sandbox.calls().clear();
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (
            run.outcome.failed_objects,
            world.calls(Operation::AbortMultipartUpload)
        ),
        (0, 0)
    );
}

/// A gateway without a server behind it answers 404 to everything.
#[tokio::test]
async fn a_404_of_a_gateway_proves_no_abort() {
    let mut world = world_with_large().await;
    let directory = TempDir::new().unwrap();
    let is_up = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&is_up);
    let job = job_with_answers(&world, move |asked| {
        let is_about_uploads = asked.aborts() || asked.lists_parts() || asked.lists_uploads();
        if is_about_uploads && !is_mended.load(Ordering::Relaxed) {
            Lie::Instead(404, "<html>default backend</html>".to_owned())
        } else {
            Lie::Truth
        }
    })
    .await;
    interrupted(&mut world, &job, &directory).await;
    let id = world.open_uploads(DESTINATION)[0].upload_id.clone();
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!((run.outcome.done_objects, open(&world)), (1, 1));
    let told = notes(&run);
    let says = format!("the upload {id} may be left open");
    assert!(
        told.len() == 1 && told[0].contains(&says) && told[0].ends_with("the next run tries again"),
        "{told:?}"
    );
    is_up.store(true, Ordering::Relaxed);
    world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(open(&world), 0, "the journal still has it");
}

#[tokio::test]
async fn an_abort_that_no_list_proves_is_reported_once_with_its_id() {
    let mut world = world_with_large().await;
    let directory = TempDir::new().unwrap();
    let job = job_with_answers(&world, |asked| match asked {
        _ if asked.lists_parts() || asked.lists_uploads() => Lie::error(501, "NotImplemented"),
        _ => Lie::Truth,
    })
    .await;
    interrupted(&mut world, &job, &directory).await;
    let id = world.open_uploads(DESTINATION)[0].upload_id.clone();
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, open(&world)),
        (1, 0),
        "{:?}",
        run.receipts
    );
    let told = notes(&run);
    assert!(
        told.len() == 1 && told[0].contains(&format!("the upload {id} may be left open")),
        "{told:?}"
    );
    assert!(
        told[0]
            .contains("abort it with `s3haul uploads abort s3://destination/large --endpoint-url")
    );
    world.sandbox.calls().clear();
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!((run.outcome.failed_objects, notes(&run)), (0, vec![]));
    assert_eq!(
        world.calls(Operation::AbortMultipartUpload),
        0,
        "the journal no longer has it"
    );
}

#[tokio::test]
async fn an_abort_without_effect_is_not_believed() {
    let mut world = world_with_large().await;
    let directory = TempDir::new().unwrap();
    let job = job_with_answers(&world, |asked| match asked {
        _ if asked.lists_parts() => Lie::error(501, "NotImplemented"),
        _ if asked.aborts() => Lie::Instead(204, String::new()),
        _ => Lie::Truth,
    })
    .await;
    interrupted(&mut world, &job, &directory).await;
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, open(&world)),
        (1, 1),
        "{:?}",
        run.receipts
    );
    let told = notes(&run);
    assert!(
        told.len() == 1 && told[0].contains("still lists the upload"),
        "{told:?}"
    );
    assert!(
        told[0].contains("abort it with `s3haul uploads abort s3://destination/large --"),
        "{told:?}"
    );
    world.sandbox.calls().clear();
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.failed_objects, notes(&run)),
        (0, vec![]),
        "it was reported"
    );
    assert_eq!(
        world.calls(Operation::ListMultipartUploads),
        0,
        "the journal no longer has it"
    );
}

/// The server's dates of uploads are wrong, so nobody can tell which one a lost Create made.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_with_unknown_id_and_false_date_is_reported_and_left() {
    let world = world_with_large().await;
    let directory = TempDir::new().unwrap();
    let dated = |asked: &Asked| {
        if asked.lists_uploads() {
            Lie::rewrite(long_ago)
        } else {
            Lie::Truth
        }
    };
    let job = job_with_answers(&world, dated).await;
    let create = Fault::on(Operation::CreateMultipartUpload).nth(1);
    world.add_fault(create.then(Effect::StallAfter(None)));
    let created = async {
        while open(&world) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        run = world.session(directory.path(), &job, Intent::Resume) => panic!("it was not killed: {:?}", run.outcome),
        () = created => {}
    }
    world.sandbox.faults().clear();
    let id = world.open_uploads(DESTINATION)[0].upload_id.clone();
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, open(&world)),
        (1, 1),
        "{:?}",
        run.receipts
    );
    let told = notes(&run);
    let says = format!(
        "the upload {id} may be left open: its time does not show whether this run created it"
    );
    assert!(told.len() == 1 && told[0].starts_with(&says), "{told:?}");
    world.sandbox.calls().clear();
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!((run.outcome.failed_objects, notes(&run)), (0, vec![]));
    assert_eq!(
        world.calls(Operation::ListMultipartUploads),
        0,
        "the journal no longer has it"
    );
}

/// The same for an upload of an attempt whose answer was lost.
#[tokio::test]
async fn a_twin_with_a_false_date_is_reported_and_left() {
    let world = world_with_large().await;
    let dated = |asked: &Asked| {
        if asked.lists_uploads() {
            Lie::rewrite(long_ago)
        } else {
            Lie::Truth
        }
    };
    let job = job_with_answers(&world, dated).await;
    world.add_fault(
        Fault::on(Operation::CreateMultipartUpload)
            .nth(1)
            .then(Effect::EmptyBody),
    );
    let run = session(&world, &job, None).await;
    assert_eq!(
        (run.outcome.done_objects, open(&world)),
        (1, 1),
        "{:?}",
        run.receipts
    );
    let told = notes(&run);
    assert!(
        told.len() == 1 && told[0].contains("its time does not show"),
        "{told:?}"
    );
}

fn long_ago(list: &str) -> String {
    let mut parts = list.split("<Initiated>");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| {
        let rest = part.split_once("</Initiated>").map_or("", |(_, rest)| rest);
        format!("{all}<Initiated>2010-11-10T20:48:33.000Z</Initiated>{rest}")
    })
}
