//! Requests that hang are sent once more, if two of them have the same effect as one.

use std::time::Duration;

use rstest::rstest;
use s3haul::endpoint::Provider;
use s3haul::execute::receipt::Ending;
use s3haul::journal::{Intent, Location, look};
use s3haul::manifest::job::{Transfer, When};
use s3haul::s3::Attributes;
use s3haul::sandbox::{
    BucketOptions, Content, Effect, Fault, ObjectSpec, Operation, SandboxOptions,
};
use s3haul::size::MIB;

use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, in_parts_of};

const COUNT: u64 = 60;
const COPY: Operation = Operation::CopyObject;
const CREATE: Operation = Operation::CreateMultipartUpload;

fn put_all(world: &World, size: u64) {
    for index in 0..COUNT {
        world.put_object(
            SOURCE,
            &format!("{index:03}"),
            Content::pattern(index, size),
            &ObjectSpec::default(),
        );
    }
}

/// Starts a sandbox in which a run waits ten minutes for a request that hangs.
async fn patient(buckets: BucketOptions) -> World {
    patient_with(SandboxOptions::default(), buckets).await
}

async fn patient_with(options: SandboxOptions, buckets: BucketOptions) -> World {
    let mut world = World::with(options, buckets).await;
    world.retry.silence = Duration::from_mins(10);
    world.retry.patience = Duration::from_mins(10);
    world
}

/// Copies everything in parts of 5 MiB.
fn in_parts() -> Transfer {
    in_parts_of(5 * MIB, copy_all())
}

/// Returns the numbers of requests that were repeated because they hung, and because they failed.
fn repeated(run: &Run) -> (u64, u64) {
    let requests = run.outcome.requests;
    (requests.hedged, requests.retried)
}

#[rstest]
#[case::before_it_took_effect(Effect::StallBefore(None))]
#[case::after_it_took_effect(Effect::StallAfter(None))]
#[tokio::test]
async fn a_copy_that_hangs_is_sent_once_more(
    #[case] effect: Effect,
    #[values(When::Changed, When::Always)] when: When,
) {
    let world = patient(BucketOptions::default()).await;
    put_all(&world, 1000);
    world.add_fault(Fault::on(COPY).nth(40).then(effect));
    let mut transfer = copy_all();
    transfer.when = when;
    let run = world.run(transfer).await;
    assert_eq!(run.outcome.done_objects, COUNT, "{:?}", run.outcome);
    assert_eq!(world.calls(COPY), COUNT + 1);
    assert_eq!(repeated(&run), (1, 0));
    let attempts: u32 = run.receipts.iter().map(|receipt| receipt.attempts).sum();
    assert_eq!(u64::from(attempts), COUNT + 1, "it is accounted for");
    for index in 0..COUNT {
        let key = format!("{index:03}");
        world.assert_equal(&key, &key);
    }
    // Without a condition, s3haul asks once whether the bucket is versioned: two copies would be
    // two versions.
    let asked = u64::from(when == When::Always);
    assert_eq!(world.calls(Operation::GetBucketVersioning), asked);
}

#[tokio::test]
async fn no_copy_is_sent_twice_that_would_leave_two_versions() {
    let buckets = BucketOptions {
        versioning: true,
        ..BucketOptions::default()
    };
    let mut world = patient(buckets).await;
    world.retry.silence = Duration::from_secs(6);
    put_all(&world, 1000);
    let stall = Fault::on(COPY).nth(40).then(Effect::StallBefore(None));
    world.add_fault(stall);
    let mut transfer = copy_all();
    transfer.when = When::Always;
    let run = world.run(transfer).await;
    assert_eq!(run.outcome.done_objects, COUNT, "{:?}", run.outcome);
    assert_eq!(repeated(&run), (0, 1));
    assert_eq!(world.calls(Operation::GetBucketVersioning), 1);
}

#[tokio::test]
async fn reads_that_hang_are_sent_once_more() {
    let world = patient(BucketOptions::default()).await;
    put_all(&world, 6 * MIB);
    let stall = Fault::on(Operation::HeadObject)
        .nth(50)
        .then(Effect::StallBefore(None));
    world.add_fault(stall);
    let run = world.run(in_parts()).await;
    assert_eq!(run.outcome.done_objects, COUNT, "{:?}", run.outcome);
    assert_eq!(repeated(&run), (1, 0));
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn a_server_that_is_slow_as_a_whole_is_not_sent_much_more() {
    let world = patient(BucketOptions::default()).await;
    put_all(&world, 1000);
    for nth in 20..=COUNT {
        let slow = Effect::StallBefore(Some(Duration::from_secs(4)));
        world.add_fault(Fault::on(COPY).nth(nth).then(slow));
    }
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.done_objects, COUNT, "{:?}", run.outcome);
    let (hedged, _) = repeated(&run);
    // Two at first, and one for every 20 answers.
    assert!((1..=5).contains(&hedged), "{hedged} were sent twice");
    assert_eq!(world.calls(COPY), COUNT + hedged);
    assert_eq!(world.keys(DESTINATION).len() as u64, COUNT);
}

#[tokio::test]
async fn an_object_is_found_whose_complete_is_not_answered() {
    let mut world = patient(BucketOptions::default()).await;
    world.retry.complete = Duration::from_mins(10);
    let spec = ObjectSpec::default();
    world.put_with("large", 20 * MIB, &spec);
    let complete = Operation::CompleteMultipartUpload;
    let stall = Fault::on(complete).then(Effect::StallAfter(None));
    world.add_fault(stall);
    let run = world.run(in_parts()).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.outcome);
    assert_eq!(world.calls(complete), 1);
    assert_eq!(run.proof(), "crc64nvme");
    world.assert_equal("large", "large");
    world.assert_no_upload_is_left();
}

/// Starts a sandbox with objects in parts, one of whose Creates has these effects.
async fn with_late_create(versioning: bool, effects: &[Effect]) -> (World, Transfer) {
    let world = patient(BucketOptions {
        versioning,
        ..BucketOptions::default()
    })
    .await;
    put_all(&world, 6 * MIB);
    for effect in effects {
        let late = Fault::on(CREATE).nth(40).then(effect.clone());
        world.add_fault(late);
    }
    (world, in_parts())
}

const LATE: Duration = Duration::from_secs(4);

/// The upload of the losing Create is aborted if its answer names it, or if the answer is lost and
/// a list shows it. Versioned buckets get a second Create too, because only one upload becomes an
/// object.
#[rstest]
#[case::answered_late(&[Effect::StallAfter(Some(LATE))], 1, 0)]
#[case::done_late(&[Effect::Delay(LATE)], 1, 0)]
#[case::done_late_and_reset(&[Effect::Delay(LATE), Effect::ResetAfter], 1, 1)]
#[case::lost_late(&[Effect::Delay(LATE), Effect::ResetBefore], 0, 1)]
#[case::refused_late(&[Effect::Delay(LATE), Effect::SlowDown], 0, 1)]
#[tokio::test]
async fn the_upload_of_a_create_that_was_overtaken_is_aborted(
    #[case] effects: &[Effect],
    #[case] aborts: u64,
    #[case] looks: u64,
    #[values(false, true)] versioning: bool,
) {
    let (world, transfer) = with_late_create(versioning, effects).await;
    let run = world.run(transfer).await;
    assert_eq!(run.outcome.done_objects, COUNT, "{:?}", run.outcome);
    assert_eq!(repeated(&run), (1, 0));
    assert_eq!(world.calls(CREATE), COUNT + 1);
    assert_eq!(world.calls(Operation::CompleteMultipartUpload), COUNT);
    assert_eq!(world.calls(Operation::AbortMultipartUpload), aborts);
    let listed = world.calls(Operation::ListMultipartUploads);
    assert_eq!(listed >= looks, looks > 0 || listed == 0, "{listed}");
    let notes: Vec<_> = run.receipts.iter().flat_map(|one| &one.notes).collect();
    assert!(notes.is_empty(), "{notes:?}");
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn an_object_tells_of_a_create_that_was_overtaken_and_is_never_answered() {
    let (world, transfer) = with_late_create(false, &[Effect::StallAfter(None)]).await;
    let run = world.run(transfer).await;
    assert_eq!(run.outcome.done_objects, COUNT, "{:?}", run.outcome);
    assert_eq!(repeated(&run), (1, 0));
    let notes: Vec<_> = run.receipts.iter().flat_map(|one| &one.notes).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].starts_with("an upload of unknown id may be left open: no answer within "),
        "{notes:?}"
    );
    // The Create took effect, and the list shows its upload.
    world.assert_no_upload_is_left();
}

/// The upload of the first Create has no other owner then.
#[tokio::test]
async fn an_overtaken_create_is_told_of_if_the_other_one_is_answered_wrongly() {
    let (world, transfer) = with_late_create(false, &[Effect::StallAfter(None)]).await;
    let elsewhere = "<InitiateMultipartUploadResult><Bucket>destination</Bucket><Key>elsewhere</Key>\
                     <UploadId>made-up</UploadId></InitiateMultipartUploadResult>";
    let wrong =
        Fault::on(CREATE)
            .nth(COUNT + 1)
            .then(Effect::Answer(200, "application/xml", elsewhere));
    world.add_fault(wrong);
    let run = world.run(transfer).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (COUNT - 1, 1),
        "{:?}",
        run.outcome
    );
    let failed = run
        .receipts
        .iter()
        .find_map(|receipt| match &receipt.ending {
            Ending::Failed { error } => Some(&error.message),
            _ => None,
        });
    let message = failed.unwrap();
    assert!(
        message.contains("the answer is about an upload to `destination/elsewhere`")
            && message.contains("an upload of unknown id may be left open: no answer within "),
        "{message}"
    );
    // The Create took effect, and the list shows its upload.
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn the_next_run_looks_for_the_upload_of_a_create_that_was_never_answered() {
    let (world, transfer) = with_late_create(false, &[Effect::StallBefore(None)]).await;
    let (directory, job) = (tempfile::tempdir().unwrap(), world.job(transfer));
    let open = async || {
        let place = Location::Directory(directory.path().to_owned());
        let state = look(place).await.unwrap().unwrap().state;
        state.uploads.into_values().collect::<Vec<_>>()
    };
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(run.outcome.done_objects, COUNT, "{:?}", run.outcome);
    let [upload] = &open().await[..] else {
        panic!("one Create is on record: {:?}", open().await)
    };
    assert_eq!(upload.created, None, "its id is not known");
    // The Create takes effect after the end of the run.
    let (bucket, key) = (world.bucket(DESTINATION).await, &upload.place.key);
    let late = bucket.create_upload(key, &Attributes::default()).await;
    late.expect("the bucket is there");
    world.session(directory.path(), &job, Intent::Resume).await;
    world.assert_no_upload_is_left();
    assert_eq!(open().await, []);
}

/// The kernel accepts connections that the server never reads from.
#[tokio::test]
async fn requests_on_connections_that_nobody_serves_are_sent_again_on_others() {
    let mut options = SandboxOptions::default();
    options.model.limits.connections = Some(5);
    let world = patient_with(options, BucketOptions::default()).await;
    put_all(&world, 1000);
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.done_objects, COUNT, "{:?}", run.outcome);
    let (_, retried) = repeated(&run);
    assert!(retried >= COUNT / 2, "{retried}");
    assert_eq!(world.calls(COPY), COUNT, "the server saw each once");
    for index in 0..COUNT {
        let key = format!("{index:03}");
        world.assert_equal(&key, &key);
    }
}

/// The second request fails too, or hangs.
#[rstest]
#[case::error(Effect::Error(500, "InternalError"))]
#[case::refusal(Effect::SlowDown)]
#[case::reset(Effect::ResetBefore)]
#[case::silence(Effect::StallBefore(None))]
#[tokio::test]
async fn a_third_request_is_sent_if_the_second_one_does_not_succeed(#[case] effect: Effect) {
    let world = patient(BucketOptions::default()).await;
    put_all(&world, 1000);
    let faults = world.sandbox.faults();
    faults.add(Fault::on(COPY).nth(40).then(Effect::StallBefore(None)));
    faults.add(Fault::on(COPY).nth(COUNT + 1).then(effect));
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.done_objects, COUNT, "{:?}", run.outcome);
    assert_eq!(world.calls(COPY), COUNT + 2);
    assert_eq!(repeated(&run), (2, 0));
}

/// The first request of its kind hangs before anything is known of the time that they take.
#[rstest]
#[case::first_contact(Operation::HeadBucket)]
#[case::list(Operation::ListObjectsV2)]
#[case::head(Operation::HeadObject)]
#[case::tags(Operation::GetObjectTagging)]
#[case::copy(COPY)]
#[case::create(CREATE)]
#[case::part(Operation::UploadPartCopy)]
#[case::complete(Operation::CompleteMultipartUpload)]
#[tokio::test]
async fn the_first_request_of_its_kind_may_hang(#[case] operation: Operation) {
    let mut world = patient(BucketOptions::default()).await;
    world.retry.complete = Duration::from_mins(10);
    let mut spec = ObjectSpec::default();
    spec.attributes.tags = [("team".to_owned(), "data".to_owned())].into();
    for (key, size) in [("small", 1000), ("large", 12 * MIB)] {
        world.put_with(key, size, &spec);
    }
    let stall = Fault::on(operation).nth(1).then(Effect::StallBefore(None));
    world.add_fault(stall);
    let run = world.run(in_parts()).await;
    assert_eq!(run.outcome.done_objects, 2, "{:?}", run.outcome);
    assert!(world.calls(operation) >= 2, "one of them hung");
    assert_eq!(repeated(&run).1, 0, "nobody has waited for it");
    world.assert_no_upload_is_left();
}

/// Another server might publish an upload twice, or lose it.
#[tokio::test]
async fn only_amazon_gets_a_second_complete() {
    let mut world = patient(BucketOptions::default()).await;
    world.provider = Provider::Minio;
    put_all(&world, 6 * MIB);
    let complete = Operation::CompleteMultipartUpload;
    let late = Effect::StallBefore(Some(Duration::from_millis(1500)));
    world.add_fault(Fault::on(complete).nth(40).then(late));
    let run = world.run(in_parts()).await;
    assert_eq!(run.outcome.done_objects, COUNT, "{:?}", run.outcome);
    assert_eq!((world.calls(complete), repeated(&run)), (COUNT, (0, 0)));
}

/// The upload is aborted although the first Abort hangs.
#[rstest]
#[case::before_it_took_effect(Effect::StallBefore(None))]
#[case::after_it_took_effect(Effect::StallAfter(None))]
#[tokio::test]
async fn an_abort_that_hangs_is_sent_once_more(#[case] effect: Effect) {
    let world = patient(BucketOptions::default()).await;
    let (bucket, key) = (world.bucket(DESTINATION).await, "k".parse().unwrap());
    let upload = bucket.create_upload(&key, &Attributes::default()).await;
    let id = upload.unwrap().value.id;
    let abort = Operation::AbortMultipartUpload;
    world.add_fault(Fault::on(abort).nth(1).then(effect));
    assert!(bucket.abort_upload(&key, &id).await.unwrap());
    assert_eq!(world.calls(abort), 2);
    world.assert_no_upload_is_left();
}
