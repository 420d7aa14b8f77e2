//! Resuming uploads that an earlier session left open. Finished parts are not copied again,
//! anything that changed meanwhile is copied from the start, and no upload is left.

use std::fs;
use std::path::Path;
use std::time::Duration;

use s3haul::execute::receipt::{Ending, Proof};
use s3haul::journal::Intent;
use s3haul::manifest::job::{Job, PartSize, Transfer, When};
use s3haul::multipart::MultipartUpload;
use s3haul::s3::SourcePin;
use s3haul::sandbox::{Content, Effect, Fault, LatencyModel, ObjectSpec, Operation, UploadInfo};
use s3haul::size::{ByteSize, MIB};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, in_parts_of, upload_all};

const PART: u64 = 8 * MIB;
const PARTS: u64 = 64;
/// Part size of a file. Files have real bytes, so their parts are small.
const FILE_PART: u64 = 5 * MIB;

/// A world with one object of [`PARTS`] parts, and a run that was stopped while it copied the
/// object.
struct Stopped {
    world: World,
    job: Job,
    journal: TempDir,
}

fn copy_large() -> Transfer {
    in_parts_of(PART, copy_all())
}

async fn slow_world() -> World {
    let ms = Duration::from_millis;
    let mut world = World::with_latency(LatencyModel {
        copy: ms(10),
        put: ms(10),
        ..LatencyModel::default()
    })
    .await;
    world.ceiling = 8;
    world
}

fn put_large(world: &World, seed: u64) {
    world.put_object(
        SOURCE,
        "large",
        Content::pattern(seed, PART * PARTS - 7),
        &ObjectSpec::default(),
    );
}

impl Stopped {
    async fn new() -> Self {
        let mut world = slow_world().await;
        put_large(&world, 1);
        let job = world.job(copy_large());
        let journal = TempDir::new().unwrap();
        let run = stopped_at(&mut world, Operation::UploadPartCopy, &job, journal.path()).await;
        assert!(
            matches!(run.receipts[0].ending, Ending::Stopped),
            "{:?}",
            run.receipts
        );
        Self {
            world,
            job,
            journal,
        }
    }

    /// Kills a session after its object was published and before the answer arrived.
    async fn unseen() -> Self {
        let world = slow_world().await;
        put_large(&world, 1);
        let mut transfer = copy_large();
        // Without this, the next session would skip the object because it is at the destination.
        transfer.when = When::Always;
        let (job, journal) = (world.job(transfer), TempDir::new().unwrap());
        let unheard = Fault::on(Operation::CompleteMultipartUpload)
            .nth(1)
            .then(Effect::StallAfter(None));
        world.add_fault(unheard);
        killed_when(&world, &job, journal.path(), |world| {
            world.object(DESTINATION, "large").is_some()
        })
        .await;
        Self {
            world,
            job,
            journal,
        }
    }

    fn open(&self) -> UploadInfo {
        let mut open = self.world.open_uploads(DESTINATION);
        assert_eq!(open.len(), 1, "{open:?}");
        open.remove(0)
    }

    async fn resume(&self) -> Run {
        self.world.sandbox.calls().clear();
        self.world
            .session(self.journal.path(), &self.job, Intent::Resume)
            .await
    }

    /// Asserts that the object is complete, and that the session copied this many parts and created
    /// this many uploads.
    fn assert_done(&self, run: &Run, part_copies: u64, begun: u64) {
        let world = &self.world;
        assert!(
            matches!(run.receipts[0].ending, Ending::Done { .. }),
            "{:?}",
            run.receipts
        );
        assert_eq!(run.proof(), "crc64nvme");
        world.assert_equal("large", "large");
        world.assert_no_upload_is_left();
        assert_eq!(world.calls(Operation::UploadPartCopy), part_copies);
        assert_eq!(world.calls(Operation::CreateMultipartUpload), begun);
    }
}

/// Runs a session that is stopped in an orderly way when it sends the tenth part.
async fn stopped_at(world: &mut World, part: Operation, job: &Job, journal: &Path) -> Run {
    let stop = world.stop.clone();
    world.add_fault(
        Fault::on(part)
            .nth(10)
            .then(Effect::hook(move |_| stop.cancel())),
    );
    let run = world.session(journal, job, Intent::Resume).await;
    assert!(run.outcome.stopped, "{:?}", run.outcome);
    world.stop = CancellationToken::new();
    run
}

/// Runs a session that is dropped as soon as `dead` returns true.
async fn killed_when(world: &World, job: &Job, journal: &Path, dead: impl Fn(&World) -> bool) {
    let killed = async {
        while !dead(world) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        run = world.session(journal, job, Intent::Resume) => panic!("it was not killed: {:?}", run.outcome),
        () = killed => {}
    }
}

#[tokio::test]
async fn finished_parts_are_not_copied_again() {
    let stopped = Stopped::new().await;
    let held = stopped.open().parts.len() as u64;
    assert!((9..20).contains(&held), "{held}");
    let run = stopped.resume().await;
    stopped.assert_done(&run, PARTS - held, 0);
    assert_eq!(run.receipts[0].parts, u32::try_from(PARTS).unwrap());
    assert_eq!(stopped.world.calls(Operation::AbortMultipartUpload), 0);
}

#[tokio::test]
async fn a_run_resumes_however_often_it_is_stopped() {
    let mut stopped = Stopped::new().await;
    let mut held = stopped.open().parts.len();
    // Each session copies ten parts and those in flight at its end. Three sessions leave some parts
    // for the last one.
    for _ in 0..2 {
        stopped_at(
            &mut stopped.world,
            Operation::UploadPartCopy,
            &stopped.job,
            stopped.journal.path(),
        )
        .await;
        let now = stopped.open().parts.len();
        assert!(now > held, "{now} {held}");
        held = now;
    }
    let run = stopped.resume().await;
    stopped.assert_done(&run, PARTS - held as u64, 0);
}

#[tokio::test]
async fn the_recorded_part_size_is_kept() {
    let mut stopped = Stopped::new().await;
    let held = stopped.open().parts.len() as u64;
    stopped.job.transfers[0].parts.size = PartSize::Exactly(ByteSize(2 * PART));
    stopped.world.sandbox.calls().clear();
    let run = stopped
        .world
        .session(stopped.journal.path(), &stopped.job, Intent::ResumeAnyway)
        .await;
    stopped.assert_done(&run, PARTS - held, 0);
}

#[tokio::test]
async fn an_object_with_another_source_is_uploaded_anew() {
    let stopped = Stopped::new().await;
    put_large(&stopped.world, 2);
    let run = stopped.resume().await;
    stopped.assert_done(&run, PARTS, 1);
    assert_eq!(stopped.world.calls(Operation::AbortMultipartUpload), 1);
}

#[tokio::test]
async fn an_object_with_other_attributes_is_uploaded_anew() {
    let mut stopped = Stopped::new().await;
    stopped.job.transfers[0]
        .set
        .metadata
        .insert("team".into(), "blue".into());
    stopped.world.sandbox.calls().clear();
    let run = stopped
        .world
        .session(stopped.journal.path(), &stopped.job, Intent::ResumeAnyway)
        .await;
    assert!(
        matches!(run.receipts[0].ending, Ending::Done { .. }),
        "{:?}",
        run.receipts
    );
    stopped.world.assert_no_upload_is_left();
    assert_eq!(stopped.world.calls(Operation::UploadPartCopy), PARTS);
    let copy = stopped.world.object(DESTINATION, "large").unwrap();
    assert_eq!(
        copy.attributes.metadata.get("team").map(String::as_str),
        Some("blue")
    );
}

#[tokio::test]
async fn an_upload_that_somebody_aborted_is_created_anew() {
    let stopped = Stopped::new().await;
    let upload = stopped.open();
    let bucket = stopped.world.bucket(DESTINATION).await;
    MultipartUpload::open(&bucket, &"large".parse().unwrap(), upload.upload_id)
        .cancel()
        .await
        .unwrap();
    let run = stopped.resume().await;
    stopped.assert_done(&run, PARTS, 1);
}

#[tokio::test]
async fn parts_that_somebody_replaced_are_copied_again() {
    let stopped = Stopped::new().await;
    let open = stopped.open();
    let bucket = stopped.world.bucket(DESTINATION).await;
    let upload = MultipartUpload::open(&bucket, &"large".parse().unwrap(), open.upload_id);
    let pin = SourcePin {
        bucket: SOURCE.parse().unwrap(),
        key: "large".parse().unwrap(),
        version: None,
        etag: stopped.world.object(SOURCE, "large").unwrap().etag,
        customer_key: None,
    };
    let copy = async |number: u32, from: u64, bytes: u64| {
        upload
            .copy_part(number, &pin, Some(from..=from + bytes - 1), bytes)
            .await
            .unwrap()
    };
    let held: Vec<_> = open
        .parts
        .iter()
        .map(|(number, ..)| u32::try_from(*number).unwrap())
        .collect();
    // A part with other bytes, a part with another size, and a part that the object does not have.
    copy(held[0], 20 * PART, PART).await;
    copy(held[1], 0, PART / 2).await;
    copy(9_999, 0, PART).await;
    // A part that arrived after the last record of the journal.
    let missing = (1..=10_000).find(|number| !held.contains(number)).unwrap();
    copy(missing, u64::from(missing - 1) * PART, PART).await;
    let run = stopped.resume().await;
    stopped.assert_done(&run, PARTS - held.len() as u64 - 1 + 2, 0);
}

#[tokio::test]
async fn an_object_that_no_longer_needs_a_copy_leaves_no_upload() {
    let mut stopped = Stopped::new().await;
    stopped.job.transfers[0].when = When::Missing;
    let content = Content::pattern(9, 10);
    stopped
        .world
        .put_object(DESTINATION, "large", content, &ObjectSpec::default());
    stopped.world.sandbox.calls().clear();
    let run = stopped
        .world
        .session(stopped.journal.path(), &stopped.job, Intent::ResumeAnyway)
        .await;
    assert_eq!(
        (run.outcome.failed_objects, run.outcome.done_objects),
        (0, 0),
        "{:?}",
        run.outcome
    );
    stopped.world.assert_no_upload_is_left();
    assert_eq!(stopped.world.calls(Operation::UploadPartCopy), 0);
}

#[tokio::test]
async fn a_fresh_run_aborts_the_uploads_of_the_last_one() {
    let stopped = Stopped::new().await;
    stopped.world.sandbox.store().delete_object(SOURCE, "large");
    stopped.world.sandbox.calls().clear();
    let run = stopped
        .world
        .session(stopped.journal.path(), &stopped.job, Intent::Fresh)
        .await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.outcome);
    stopped.world.assert_no_upload_is_left();
}

#[tokio::test]
async fn an_upload_that_could_not_be_aborted_stays_in_the_journal() {
    let stopped = Stopped::new().await;
    let store = stopped.world.sandbox.store();
    store.delete_object(SOURCE, "large");
    store.deny(DESTINATION, Operation::AbortMultipartUpload, "");
    stopped
        .world
        .session(stopped.journal.path(), &stopped.job, Intent::Fresh)
        .await;
    stopped.open();
    store.allow_all();
    let run = stopped
        .world
        .session(stopped.journal.path(), &stopped.job, Intent::Resume)
        .await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.outcome);
    stopped.world.assert_no_upload_is_left();
}

#[tokio::test]
async fn an_object_that_was_published_unseen_is_recognised() {
    let stopped = Stopped::unseen().await;
    let run = stopped.resume().await;
    stopped.assert_done(&run, 0, 0);
    assert_eq!(stopped.world.calls(Operation::CopyObject), 0);
}

#[tokio::test]
async fn another_object_at_the_key_is_not_taken_for_the_copy() {
    let stopped = Stopped::unseen().await;
    let other = Content::pattern(2, PART * PARTS - 7);
    stopped
        .world
        .put_object(DESTINATION, "large", other, &ObjectSpec::default());
    let run = stopped.resume().await;
    stopped.assert_done(&run, PARTS, 1);
}

#[tokio::test]
async fn an_upload_with_a_lost_id_is_found_and_aborted() {
    let world = slow_world().await;
    put_large(&world, 1);
    // An upload that already has a part belongs to somebody else.
    let bucket = world.bucket(DESTINATION).await;
    let key = "large".parse().unwrap();
    let others = MultipartUpload::initiate(&bucket, &key, &s3haul::s3::Attributes::default())
        .await
        .unwrap();
    others.upload_part(1, &b"theirs"[..]).await.unwrap();
    let (job, journal) = (world.job(copy_large()), TempDir::new().unwrap());
    world.add_fault(
        Fault::on(Operation::CreateMultipartUpload)
            .nth(1)
            .then(Effect::StallAfter(None)),
    );
    killed_when(&world, &job, journal.path(), |world| {
        world.open_uploads(DESTINATION).len() == 2
    })
    .await;
    let stopped = Stopped {
        world,
        job,
        journal,
    };
    let run = stopped.resume().await;
    assert_eq!(
        stopped.open().upload_id,
        others.id(),
        "the upload of somebody else stays"
    );
    others.cancel().await.unwrap();
    stopped.assert_done(&run, PARTS, 1);
}

#[tokio::test]
async fn only_the_parts_of_a_file_that_are_missing_or_changed_are_sent() {
    let mut world = slow_world().await;
    world.ceiling = 2;
    let files = TempDir::new().unwrap();
    let path = files.path().join("large");
    let mut bytes = vec![7; usize::try_from(12 * FILE_PART).unwrap()];
    fs::write(&path, &bytes).unwrap();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut transfer = upload_all(files.path());
    transfer.parts.size = PartSize::Exactly(ByteSize(FILE_PART));
    let (job, journal) = (world.job(transfer), TempDir::new().unwrap());
    stopped_at(&mut world, Operation::UploadPart, &job, journal.path()).await;
    let stopped = Stopped {
        world,
        job,
        journal,
    };
    let held = stopped.open().parts.len() as u64;
    assert!((9..12).contains(&held), "{held}");
    // Changes the bytes but not size and time, so that only reading the file shows it.
    bytes[0] = 8;
    fs::write(&path, &bytes).unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    let run = stopped.resume().await;
    let Ending::Done { proof, .. } = &run.receipts[0].ending else {
        panic!("{:?}", run.receipts)
    };
    assert_eq!(*proof, Proof::Crc64nvme);
    stopped.world.assert_no_upload_is_left();
    assert_eq!(stopped.world.calls(Operation::UploadPart), 12 - held + 1);
    assert_eq!(stopped.world.calls(Operation::CreateMultipartUpload), 0);
    let sent = stopped.world.object(DESTINATION, "large").unwrap();
    assert_eq!(sent.content, Content::bytes(bytes));
}
