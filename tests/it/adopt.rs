//! `--adopt`: continuing uploads without their journal. What can be proven is not copied again,
//! uploads of others stay untouched, and the object is the same as without adoption.

mod file;

use std::path::Path;
use std::time::{Duration, SystemTime};

use rstest::rstest;
use s3haul::execute::receipt::{Ending, Receipt};
use s3haul::journal::Intent;
use s3haul::manifest::job::{Job, PartSize, Prove, Provider, Transfer, When};
use s3haul::multipart::MultipartUpload;
use s3haul::s3::{Attributes, ChecksumAlgorithm, ChecksumKind, SourcePin};
use s3haul::sandbox::{Content, Effect, Fault, LatencyModel, ObjectSpec, Operation, UploadInfo};
use s3haul::size::MIB;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::liar::Liar;
use crate::world::program::{at, run as run_command};
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, in_parts_of, restate};

const PART: u64 = 8 * MIB;

const PARTS: u64 = 64;

/// Requests in flight.
const AT_ONCE: u64 = 8;

/// Part size of a file. Files have real bytes, so their parts are small.
const FILE_PART: u64 = 5 * MIB;

async fn slow_world() -> World {
    let ms = Duration::from_millis;
    let mut world = World::with_latency(LatencyModel {
        copy: ms(10),
        put: ms(10),
        ..LatencyModel::default()
    })
    .await;
    world.ceiling = u32::try_from(AT_ONCE).unwrap();
    world
}

fn content(seed: u64) -> Content {
    Content::pattern(seed, PART * PARTS - 7)
}

fn put_large(world: &World, seed: u64) {
    let spec = ObjectSpec::default()
        .content_type("text/x-large")
        .metadata("team", "blue")
        .tag("tier", "gold");
    world.put_object(SOURCE, "large", content(seed), &spec);
}

/// Returns a job that adopts open uploads.
fn adopting(world: &World, transfer: Transfer) -> Job {
    let mut job = world.job(transfer);
    job.adopts = true;
    job
}

fn adopting_copy(world: &World) -> Job {
    adopting(world, in_parts_of(PART, copy_all()))
}

fn open(world: &World) -> Vec<UploadInfo> {
    world.open_uploads(DESTINATION)
}

/// Runs a job without a journal, and drops it once the upload has this many parts.
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
    // Waits until no further part arrives.
    let mut before = usize::MAX;
    while before != open(world)[0].parts.len() {
        before = open(world)[0].parts.len();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn run_counted(world: &World, job: &Job) -> Run {
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

/// Creates an upload to `large`, as another program would, with these parts of the source.
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
        etag: world.object(SOURCE, "large").unwrap().etag,
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

/// Returns the attributes with which the job itself creates uploads.
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
    let world = slow_world().await;
    put_large(&world, 1);
    let job = adopting_copy(&world);
    killed(&world, &job, 20).await;
    let held = open(&world)[0].parts.len() as u64;
    let run = run_counted(&world, &job).await;
    assert_done(&world, &run);
    world.assert_no_upload_is_left();
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS - held);
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 0);
    assert_eq!(world.calls(Operation::AbortMultipartUpload), 0);
    assert_noted(&run.receipts[0], "adopted the open upload");
}

#[tokio::test]
async fn without_the_flag_nothing_open_is_touched() {
    let world = slow_world().await;
    put_large(&world, 1);
    let mut job = adopting_copy(&world);
    killed(&world, &job, 20).await;
    job.adopts = false;
    let run = run_counted(&world, &job).await;
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
async fn a_run_with_a_lost_journal_adopts_its_upload_and_the_next_run_resumes() {
    let mut world = slow_world().await;
    put_large(&world, 1);
    let job = adopting_copy(&world);
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

/// Runs a session that is stopped in an orderly way when it sends the tenth part.
async fn stopped_at(world: &mut World, part: Operation, job: &Job, journal: Option<&Path>) {
    let stop = world.stop.clone();
    world.add_fault(
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
async fn a_stop_without_a_journal_leaves_an_upload_for_the_next_run_to_adopt() {
    let mut world = slow_world().await;
    put_large(&world, 1);
    let job = adopting_copy(&world);
    stopped_at(&mut world, Operation::UploadPartCopy, &job, None).await;
    let held = open(&world)[0].parts.len() as u64;
    let run = run_counted(&world, &job).await;
    assert_done(&world, &run);
    world.assert_no_upload_is_left();
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS - held);
}

#[tokio::test]
async fn an_upload_that_is_cut_otherwise_is_somebody_elses() {
    let world = slow_world().await;
    put_large(&world, 1);
    let theirs = begin(&world, &as_the_job_would(), PART / 2, &[1, 2]).await;
    let run = run_counted(&world, &adopting_copy(&world)).await;
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
    let world = slow_world().await;
    put_large(&world, 1);
    // Another machine had chosen parts of 20 MiB for the 512 MiB object.
    let earlier = 20 * MIB;
    begin(&world, &as_the_job_would(), earlier, &[1, 2, 3, 4, 5]).await;
    let mut transfer = in_parts_of(PART, copy_all());
    transfer.parts.size = PartSize::Auto;
    let run = run_counted(&world, &adopting(&world, transfer)).await;
    assert_done(&world, &run);
    world.assert_no_upload_is_left();
    let parts = (PART * PARTS - 7).div_ceil(earlier);
    assert_eq!(world.calls(Operation::UploadPartCopy), parts - 5);
    assert_eq!(u64::from(run.receipts[0].parts), parts);
}

#[tokio::test]
async fn of_several_uploads_the_one_with_the_most_parts_is_adopted_and_the_others_are_noted() {
    let world = slow_world().await;
    put_large(&world, 1);
    let few = begin(&world, &as_the_job_would(), PART, &[1, 2]).await;
    let most = begin(&world, &as_the_job_would(), PART, &[1, 2, 3, 9]).await;
    let empty = begin(&world, &as_the_job_would(), PART, &[]).await;
    let longer = "large-and-more".parse().unwrap();
    let bucket = world.bucket(DESTINATION).await;
    let other_key = MultipartUpload::initiate(&bucket, &longer, &as_the_job_would())
        .await
        .unwrap();
    let run = run_counted(&world, &adopting_copy(&world)).await;
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
    let world = slow_world().await;
    put_large(&world, 1);
    // Both sources have the same second, so that times do not tell them apart.
    let stale = begin(&world, &as_the_job_would(), PART, &[1, 2, 3]).await;
    let spec = ObjectSpec {
        last_modified: Some(SystemTime::now() - Duration::from_secs(5)),
        ..spec_of(&world)
    };
    world.put_object(SOURCE, "large", content(2), &spec);
    let first = run_counted(&world, &adopting_copy(&world)).await;
    assert_done(&world, &first);
    assert_noted(&first.receipts[0], "holds something else; it is left open");
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS - 3 + PARTS);
    assert_eq!(world.calls(Operation::CompleteMultipartUpload), 1);
    assert_eq!(open(&world)[0].upload_id, stale.id());
}

fn spec_of(world: &World) -> ObjectSpec {
    let attributes = world.object(SOURCE, "large").unwrap().attributes;
    ObjectSpec {
        attributes: (*attributes).clone(),
        ..ObjectSpec::default()
    }
}

#[tokio::test]
async fn an_upload_older_than_its_source_is_not_looked_into() {
    let world = slow_world().await;
    put_large(&world, 1);
    let stale = begin(&world, &as_the_job_would(), PART, &[1, 2, 3]).await;
    let spec = ObjectSpec {
        last_modified: Some(SystemTime::now() + Duration::from_secs(5)),
        ..spec_of(&world)
    };
    world.put_object(SOURCE, "large", content(2), &spec);
    let run = run_counted(&world, &adopting_copy(&world)).await;
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

/// The session is killed while it waits for the answer to Complete, or for the HEAD after it.
#[rstest]
#[case::unheard_of_and_alike("blue", Operation::CompleteMultipartUpload, 1, 0)]
#[case::unheard_of_and_other("red", Operation::CompleteMultipartUpload, 1, PARTS)]
#[case::looked_at_and_alike("blue", Operation::GetObjectTagging, 2, 0)]
#[case::looked_at_and_other("red", Operation::GetObjectTagging, 2, PARTS)]
#[tokio::test]
async fn the_next_session_checks_what_a_killed_one_did_not(
    #[case] team: &str,
    #[case] stalled: Operation,
    #[case] nth: u64,
    #[case] copied: u64,
) {
    for when in [When::Changed, When::Missing] {
        let world = slow_world().await;
        put_large(&world, 1);
        // The copy is newer than its source, so a list shows the two as equal.
        let hour = SystemTime::now() - Duration::from_hours(1);
        let old = ObjectSpec {
            last_modified: Some(hour),
            ..spec_of(&world)
        };
        world.put_object(SOURCE, "large", content(1), &old);
        let mut attributes = as_the_job_would();
        attributes.metadata.insert("team".into(), team.into());
        begin(&world, &attributes, PART, &[1, 2, 3]).await;
        let job = adopting(
            &world,
            Transfer {
                when,
                ..in_parts_of(PART, copy_all())
            },
        );
        let journal = TempDir::new().unwrap();
        world.sandbox.calls().clear();
        world.add_fault(Fault::on(stalled).nth(nth).then(Effect::StallAfter(None)));
        let killed = async {
            let published = || world.object(DESTINATION, "large").is_some();
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
async fn an_object_that_ends_up_with_other_attributes_is_copied_again() {
    let world = slow_world().await;
    put_large(&world, 1);
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
        let run = run_counted(&world, &adopting_copy(&world)).await;
        assert_done(&world, &run);
        world.assert_no_upload_is_left();
        assert_noted(&run.receipts[0], what);
        assert_eq!(world.calls(Operation::UploadPartCopy), PARTS - 3 + PARTS);
    }
    // Another storage class shows before any part is sent.
    world.sandbox.store().delete_object(DESTINATION, "large");
    let class = Attributes {
        storage_class: Some("STANDARD_IA".into()),
        ..as_the_job_would()
    };
    begin(&world, &class, PART, &[1]).await;
    let run = run_counted(&world, &adopting_copy(&world)).await;
    assert_done(&world, &run);
    assert_eq!(
        (world.calls(Operation::UploadPartCopy), open(&world).len()),
        (PARTS, 1)
    );
}

#[tokio::test]
async fn an_upload_that_cannot_be_proven_is_noted_and_copied_anew() {
    let world = slow_world().await;
    let spec = ObjectSpec {
        without_checksum: true,
        ..ObjectSpec::default()
    };
    let few = 3;
    world.put_with("large", few * PART, &spec);
    let first = begin(&world, &declared(), PART, &[1, 2]).await;
    let run_of = async |prove| {
        let mut transfer = in_parts_of(PART, copy_all());
        transfer.proof.prove = prove;
        run_counted(&world, &adopting(&world, transfer)).await
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
    // S3 refuses a conditional Complete if the key was written or deleted after the upload was
    // created.
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
async fn the_command_adopts_open_uploads_if_requested() {
    let world = slow_world().await;
    put_large(&world, 1);
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

/// Servers other than Amazon S3 may show no number of tags, or add a charset. An upload of another
/// program has such attributes too.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_server_may_hide_or_add_is_compared() {
    let world = slow_world().await;
    let spec = ObjectSpec::default().content_type("text/x-large");
    world.put_object(SOURCE, "large", content(1), &spec);
    let liar = Liar::uncounted(&world).await;
    let mut job = liar.job(&world, in_parts_of(PART, copy_all()), Provider::Other);
    job.adopts = true;
    restate(&mut job, |endpoint| {
        endpoint.capabilities.checksums = Some(true);
    });
    let of_type = |content_type: &str| {
        let mut attributes = declared();
        attributes.headers.content_type = Some(content_type.into());
        attributes
    };
    let (key, value) = ("theirs".to_owned(), "v".to_owned());
    let tagged = Attributes {
        tags: s3haul::s3::Tags::Exactly(vec![s3haul::s3::Tag { key, value }]),
        ..of_type("text/x-large")
    };
    let charset = of_type("text/x-large;charset=x");
    for (attributes, what) in [(tagged, "other tags"), (charset, "other headers")] {
        world.sandbox.store().delete_object(DESTINATION, "large");
        begin(&world, &attributes, PART, &[1, 2, 3]).await;
        let run = run_counted(&world, &job).await;
        assert_noted(&run.receipts[0], what);
        world.assert_equal("large", "large");
    }
}
