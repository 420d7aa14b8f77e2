//! `--adopt`: going on with uploads whose journal is lost. What can be proven is not copied again,
//! what is somebody else's is left alone, and the object is what it would have been without all
//! that.

mod file;

use std::path::Path;
use std::time::{Duration, SystemTime};

use rstest::rstest;
use s3haul::execute::receipt::{Ending, Receipt};
use s3haul::journal::Intent;
use s3haul::manifest::job::{Job, PartSize, Prove, Transfer, When};
use s3haul::multipart::MultipartUpload;
use s3haul::s3::{Attributes, ChecksumAlgorithm, ChecksumKind, SourcePin};
use s3haul::sandbox::{
    Content, Effect, Fault, LatencyModel, Model, ObjectSpec, Operation, UploadInfo,
};
use s3haul::size::{ByteSize, MIB};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::cli::{at, run as run_command};
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all};

const PART: u64 = 8 * MIB;

const PARTS: u64 = 64;

/// Requests in flight.
const AT_ONCE: u64 = 8;

/// Of a file, whose bytes are real.
const FILE_PART: u64 = 5 * MIB;

async fn world() -> World {
    let ms = Duration::from_millis;
    let latency = LatencyModel {
        copy: ms(10),
        put: ms(10),
        ..LatencyModel::default()
    };
    let model = Model {
        latency,
        ..Model::default()
    };
    let mut world = World::modelled(model).await;
    world.ceiling = u32::try_from(AT_ONCE).unwrap();
    world
}

fn content(seed: u64) -> Content {
    Content::pattern(seed, PART * PARTS - 7)
}

fn put(world: &World, seed: u64) {
    let spec = ObjectSpec::default()
        .content_type("text/x-large")
        .metadata("team", "blue")
        .tag("tier", "gold");
    world
        .sandbox
        .store()
        .put_object(SOURCE, "large", content(seed), &spec);
}

fn in_parts(mut transfer: Transfer, part: u64) -> Transfer {
    transfer.parts.size = PartSize::Exactly(ByteSize(part));
    transfer.parts.threshold = ByteSize(part);
    transfer
}

/// A job that takes up what is open.
fn claiming(world: &World, transfer: Transfer) -> Job {
    let mut job = world.job(transfer);
    job.adopts = true;
    job
}

fn claiming_copy(world: &World) -> Job {
    claiming(world, in_parts(copy_all(), PART))
}

fn open(world: &World) -> Vec<UploadInfo> {
    world.sandbox.store().open_uploads(DESTINATION)
}

/// A run without a journal that is dropped once so many parts are there.
async fn killed(world: &World, job: &Job, parts: usize) {
    let killed = async {
        while open(world)
            .first()
            .is_none_or(|upload| upload.parts.len() < parts)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        run = world.try_run_job(job) => panic!("it was not killed: {:?}", run.map(|run| run.outcome)),
        () = killed => {}
    }
    // What was in flight arrives, or not.
    let mut before = usize::MAX;
    while before != open(world)[0].parts.len() {
        before = open(world)[0].parts.len();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn run(world: &World, job: &Job) -> Run {
    world.sandbox.calls().clear();
    world.try_run_job(job).await.unwrap()
}

fn assert_done(world: &World, run: &Run) {
    assert!(
        matches!(run.receipts[0].ending, Ending::Done { .. }),
        "{:?}",
        run.receipts
    );
    assert_eq!(run.proof(), "crc64nvme");
    world.assert_equal("large", "large");
}

fn assert_noted(receipt: &Receipt, what: &str) {
    assert!(
        receipt.notes.iter().any(|note| note.contains(what)),
        "{what}: {:?}",
        receipt.notes
    );
}

/// An upload to `large` that was begun by hand, with these parts of the source.
async fn begin(
    world: &World,
    attributes: &Attributes,
    part: u64,
    numbers: &[u32],
) -> MultipartUpload {
    let bucket = world.bucket(DESTINATION).await;
    let upload = MultipartUpload::initiate(&bucket, &"large".parse().unwrap(), attributes)
        .await
        .unwrap();
    let pin = SourcePin {
        bucket: SOURCE.parse().unwrap(),
        key: "large".parse().unwrap(),
        version: None,
        etag: world.sandbox.store().object(SOURCE, "large").unwrap().etag,
        customer_key: None,
    };
    for number in numbers {
        let from = u64::from(number - 1) * part;
        upload
            .copy_part(*number, &pin, Some(from..=from + part - 1), part)
            .await
            .unwrap();
    }
    upload
}

fn declared() -> Attributes {
    let checksum = Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject));
    Attributes {
        checksum,
        ..Attributes::default()
    }
}

/// Begun exactly as the job would.
fn as_the_job_would() -> Attributes {
    let mut attributes = declared();
    attributes.headers.content_type = Some("text/x-large".into());
    attributes.metadata.insert("team".into(), "blue".into());
    let (key, value) = ("tier".to_owned(), "gold".to_owned());
    attributes.tags = s3haul::s3::Tags::Exactly(vec![s3haul::s3::Tag { key, value }]);
    attributes
}

#[tokio::test]
async fn after_a_kill_without_a_journal_only_missing_parts_are_copied() {
    let world = world().await;
    put(&world, 1);
    let job = claiming_copy(&world);
    killed(&world, &job, 20).await;
    let held = open(&world)[0].parts.len() as u64;
    let run = run(&world, &job).await;
    assert_done(&world, &run);
    world.assert_no_upload_is_left();
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS - held);
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 0);
    assert_eq!(world.calls(Operation::AbortMultipartUpload), 0);
    assert_noted(&run.receipts[0], "adopted the open upload");
}

#[tokio::test]
async fn without_the_flag_nothing_open_is_touched() {
    let world = world().await;
    put(&world, 1);
    let mut job = claiming_copy(&world);
    killed(&world, &job, 20).await;
    job.adopts = false;
    let run = run(&world, &job).await;
    assert_done(&world, &run);
    assert_eq!(
        (world.calls(Operation::UploadPartCopy), open(&world).len()),
        (PARTS, 1),
        "{:?}",
        run.receipts
    );
    assert_eq!(world.calls(Operation::ListMultipartUploads), 0);
}

#[tokio::test]
async fn a_run_whose_journal_is_lost_goes_on_and_so_does_the_one_after_it() {
    let mut world = world().await;
    put(&world, 1);
    let job = claiming_copy(&world);
    let (lost, kept) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    stopped_at(
        &mut world,
        Operation::UploadPartCopy,
        &job,
        Some(lost.path()),
    )
    .await;
    let begun = open(&world).remove(0);
    stopped_at(
        &mut world,
        Operation::UploadPartCopy,
        &job,
        Some(kept.path()),
    )
    .await;
    let held = open(&world)[0].parts.len();
    assert!(
        open(&world).len() == 1 && held > begun.parts.len(),
        "{held}"
    );
    world.sandbox.calls().clear();
    let run = world.session(kept.path(), &job, Intent::Resume).await;
    assert_done(&world, &run);
    world.assert_no_upload_is_left();
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS - held as u64);
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 0);
    assert_eq!(
        world.calls(Operation::ListMultipartUploads),
        0,
        "the journal knows it by now"
    );
}

/// A session that is stopped in an orderly way when the tenth part is sent.
async fn stopped_at(world: &mut World, part: Operation, job: &Job, journal: Option<&Path>) {
    let stop = world.stop.clone();
    world.sandbox.faults().add(
        Fault::on(part)
            .nth(10)
            .then(Effect::hook(move |_| stop.cancel())),
    );
    let run = match journal {
        Some(journal) => world.session(journal, job, Intent::Resume).await,
        None => world.try_run_job(job).await.unwrap(),
    };
    assert!(run.outcome.stopped, "{:?}", run.outcome);
    world.stop = CancellationToken::new();
}

#[tokio::test]
async fn a_stop_without_a_journal_leaves_what_the_next_run_takes_up() {
    let mut world = world().await;
    put(&world, 1);
    let job = claiming_copy(&world);
    stopped_at(&mut world, Operation::UploadPartCopy, &job, None).await;
    let held = open(&world)[0].parts.len() as u64;
    let run = run(&world, &job).await;
    assert_done(&world, &run);
    world.assert_no_upload_is_left();
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS - held);
}

#[tokio::test]
async fn an_upload_that_is_cut_otherwise_is_somebody_elses() {
    let world = world().await;
    put(&world, 1);
    let theirs = begin(&world, &as_the_job_would(), PART / 2, &[1, 2]).await;
    let run = run(&world, &claiming_copy(&world)).await;
    assert_done(&world, &run);
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS);
    let left = open(&world);
    assert_eq!(
        (left.len(), left[0].upload_id.as_str(), left[0].parts.len()),
        (1, theirs.id(), 2)
    );
    assert_noted(&run.receipts[0], "1 open upload at this key is left alone");
}

#[tokio::test]
async fn an_automatic_part_size_of_an_earlier_run_is_kept() {
    let world = world().await;
    put(&world, 1);
    // Of the object's 512 MiB, parts of 20 MiB: what another machine had chosen.
    let earlier = 20 * MIB;
    begin(&world, &as_the_job_would(), earlier, &[1, 2, 3, 4, 5]).await;
    let mut transfer = in_parts(copy_all(), PART);
    transfer.parts.size = PartSize::Auto;
    let run = run(&world, &claiming(&world, transfer)).await;
    assert_done(&world, &run);
    world.assert_no_upload_is_left();
    let parts = (PART * PARTS - 7).div_ceil(earlier);
    assert_eq!(world.calls(Operation::UploadPartCopy), parts - 5);
    assert_eq!(u64::from(run.receipts[0].parts), parts);
}

#[tokio::test]
async fn of_several_that_with_the_most_parts_is_taken_and_the_others_are_told() {
    let world = world().await;
    put(&world, 1);
    let few = begin(&world, &as_the_job_would(), PART, &[1, 2]).await;
    let most = begin(&world, &as_the_job_would(), PART, &[1, 2, 3, 9]).await;
    let empty = begin(&world, &as_the_job_would(), PART, &[]).await;
    let longer = "large-and-more".parse().unwrap();
    let bucket = world.bucket(DESTINATION).await;
    let other_key = MultipartUpload::initiate(&bucket, &longer, &as_the_job_would())
        .await
        .unwrap();
    let run = run(&world, &claiming_copy(&world)).await;
    assert_done(&world, &run);
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS - 4);
    assert_noted(&run.receipts[0], most.id());
    assert_noted(
        &run.receipts[0],
        "2 open uploads at this key are left alone",
    );
    let mut left: Vec<_> = open(&world)
        .into_iter()
        .map(|upload| upload.upload_id)
        .collect();
    let mut others = [few.id(), empty.id(), other_key.id()];
    left.sort();
    others.sort_unstable();
    assert_eq!(left, others);
}

#[tokio::test]
async fn parts_of_a_source_that_was_replaced_are_not_published() {
    let world = world().await;
    put(&world, 1);
    // The same second, so that no time tells.
    let stale = begin(&world, &as_the_job_would(), PART, &[1, 2, 3]).await;
    let spec = ObjectSpec {
        last_modified: Some(SystemTime::now() - Duration::from_secs(5)),
        ..spec_of(&world)
    };
    world
        .sandbox
        .store()
        .put_object(SOURCE, "large", content(2), &spec);
    let first = run(&world, &claiming_copy(&world)).await;
    assert_done(&world, &first);
    assert_noted(&first.receipts[0], "holds something else; it is left open");
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS - 3 + PARTS);
    assert_eq!(world.calls(Operation::CompleteMultipartUpload), 1);
    assert_eq!(open(&world)[0].upload_id, stale.id());
}

fn spec_of(world: &World) -> ObjectSpec {
    let attributes = world
        .sandbox
        .store()
        .object(SOURCE, "large")
        .unwrap()
        .attributes;
    ObjectSpec {
        attributes: (*attributes).clone(),
        ..ObjectSpec::default()
    }
}

#[tokio::test]
async fn an_upload_older_than_its_source_is_not_looked_into() {
    let world = world().await;
    put(&world, 1);
    let stale = begin(&world, &as_the_job_would(), PART, &[1, 2, 3]).await;
    let spec = ObjectSpec {
        last_modified: Some(SystemTime::now() + Duration::from_secs(5)),
        ..spec_of(&world)
    };
    world
        .sandbox
        .store()
        .put_object(SOURCE, "large", content(2), &spec);
    let run = run(&world, &claiming_copy(&world)).await;
    assert_done(&world, &run);
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS);
    assert_eq!(
        (
            open(&world)[0].upload_id.as_str(),
            open(&world)[0].parts.len()
        ),
        (stale.id(), 3)
    );
    assert_eq!(world.calls(Operation::ListParts), 0);
}

/// Killed when the answer to Complete is awaited, and when the object that came of it is looked at.
#[rstest]
#[case::unheard_of_and_alike("blue", Operation::CompleteMultipartUpload, 1, 0)]
#[case::unheard_of_and_other("red", Operation::CompleteMultipartUpload, 1, PARTS)]
#[case::looked_at_and_alike("blue", Operation::GetObjectTagging, 2, 0)]
#[case::looked_at_and_other("red", Operation::GetObjectTagging, 2, PARTS)]
#[tokio::test]
async fn what_a_killed_session_did_not_come_to_look_at_the_next_one_does(
    #[case] team: &str,
    #[case] stalled: Operation,
    #[case] nth: u64,
    #[case] copied: u64,
) {
    for when in [When::Changed, When::Missing] {
        let world = world().await;
        put(&world, 1);
        // The copy is newer than its source by a second, which is what a list tells of equal
        // objects.
        let hour = SystemTime::now() - Duration::from_hours(1);
        let old = ObjectSpec {
            last_modified: Some(hour),
            ..spec_of(&world)
        };
        world
            .sandbox
            .store()
            .put_object(SOURCE, "large", content(1), &old);
        let mut attributes = as_the_job_would();
        attributes.metadata.insert("team".into(), team.into());
        begin(&world, &attributes, PART, &[1, 2, 3]).await;
        let job = claiming(
            &world,
            Transfer {
                when,
                ..in_parts(copy_all(), PART)
            },
        );
        let journal = TempDir::new().unwrap();
        world.sandbox.calls().clear();
        world
            .sandbox
            .faults()
            .add(Fault::on(stalled).nth(nth).then(Effect::StallAfter(None)));
        let killed = async {
            let published = || world.sandbox.store().object(DESTINATION, "large").is_some();
            while world.calls(stalled) < nth || !published() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            run = world.session(journal.path(), &job, Intent::Resume) => panic!("{:?}", run.receipts),
            () = killed => {}
        }
        world.sandbox.calls().clear();
        let run = world.session(journal.path(), &job, Intent::Resume).await;
        assert_done(&world, &run);
        world.assert_no_upload_is_left();
        assert_eq!(
            world.calls(Operation::UploadPartCopy),
            copied,
            "{when:?}: {:?}",
            run.receipts
        );
        if copied > 0 {
            assert_noted(&run.receipts[0], "other metadata");
        }
    }
}

#[tokio::test]
async fn an_object_that_comes_out_with_other_attributes_is_copied_anew() {
    let world = world().await;
    put(&world, 1);
    let other_team = {
        let mut attributes = as_the_job_would();
        attributes.metadata.insert("team".into(), "red".into());
        attributes
    };
    let other_tags = Attributes {
        tags: s3haul::s3::Tags::Exactly(Vec::new()),
        ..as_the_job_would()
    };
    for (attributes, what) in [(other_team, "other metadata"), (other_tags, "other tags")] {
        world.sandbox.store().delete_object(DESTINATION, "large");
        begin(&world, &attributes, PART, &[1, 2, 3]).await;
        let run = run(&world, &claiming_copy(&world)).await;
        assert_done(&world, &run);
        world.assert_no_upload_is_left();
        assert_noted(&run.receipts[0], what);
        assert_eq!(world.calls(Operation::UploadPartCopy), PARTS - 3 + PARTS);
    }
    // Another class shows before anything is done.
    world.sandbox.store().delete_object(DESTINATION, "large");
    let class = Attributes {
        storage_class: Some("STANDARD_IA".into()),
        ..as_the_job_would()
    };
    begin(&world, &class, PART, &[1]).await;
    let run = run(&world, &claiming_copy(&world)).await;
    assert_done(&world, &run);
    assert_eq!(
        (world.calls(Operation::UploadPartCopy), open(&world).len()),
        (PARTS, 1)
    );
}

#[tokio::test]
async fn what_can_not_be_proven_is_copied_anew_and_told() {
    let world = world().await;
    let spec = ObjectSpec {
        without_checksum: true,
        ..ObjectSpec::default()
    };
    let few = 3;
    world
        .sandbox
        .store()
        .put_object(SOURCE, "large", Content::pattern(1, few * PART), &spec);
    let first = begin(&world, &declared(), PART, &[1, 2]).await;
    let run_of = async |prove| {
        let mut transfer = in_parts(copy_all(), PART);
        transfer.proof.prove = prove;
        run(&world, &claiming(&world, transfer)).await
    };
    let by_answers = run_of(Prove::Answers).await;
    assert!(
        matches!(by_answers.receipts[0].ending, Ending::Done { .. }),
        "{:?}",
        by_answers.receipts
    );
    assert_noted(
        &by_answers.receipts[0],
        "is adopted: the source has no checksum",
    );
    assert_eq!(
        (world.calls(Operation::UploadPartCopy), open(&world).len()),
        (few, 1)
    );
    world.sandbox.store().delete_object(DESTINATION, "large");
    // S3 completes nothing under a condition that was begun before the key was written or deleted.
    first.cancel().await.unwrap();
    begin(&world, &declared(), PART, &[1, 2]).await;
    let by_reading = run_of(Prove::Read).await;
    assert_eq!(by_reading.proof(), "read", "{:?}", by_reading.receipts);
    world.assert_no_upload_is_left();
    assert_eq!(
        world.calls(Operation::UploadPartCopy),
        few - 2,
        "{:?}",
        by_reading.receipts
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_takes_up_what_is_open_if_it_is_asked_to() {
    let world = world().await;
    put(&world, 1);
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
        "--journal",
        "none",
    ];
    let copy = [&copy[..], &["--part-size", "8MiB", "--threshold", "8MiB"]].concat();
    for (says, takes) in [("1", true), ("0", false)] {
        world.sandbox.store().delete_object(DESTINATION, "large");
        begin(&world, &as_the_job_would(), PART, &[1, 2, 3]).await;
        world.sandbox.calls().clear();
        let mut command = at(&world);
        command.env("S3HAUL_ADOPT", says);
        let (exit, _, stderr) = run_command(command, &copy).await;
        assert_eq!(exit, 0, "{stderr}");
        world.assert_equal("large", "large");
        let (copies, left) = if takes { (PARTS - 3, 0) } else { (PARTS, 1) };
        assert_eq!(
            (world.calls(Operation::UploadPartCopy), open(&world).len()),
            (copies, left),
            "{says}"
        );
    }
}
