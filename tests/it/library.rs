//! The library, used as by another program: multipart uploads and runs.

use futures::TryStreamExt;
use s3haul::location::ObjectKey;
use s3haul::manifest::job::{Job, JournalPlace, OnChange, When};
use s3haul::multipart::MultipartUpload;
use s3haul::run::{Run, RunError};
use s3haul::s3::{
    Attributes, ChecksumAlgorithm, ChecksumKind, CompleteSpec, Encryption, FailureKind, SourcePin,
};
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::MIB;
use tokio_util::sync::CancellationToken;

use crate::world::{DESTINATION, SOURCE, World, copy_all, upload_all};

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

/// Puts a source object, and pins it.
fn source(world: &World, content: Content) -> SourcePin {
    let put = world.put_object(SOURCE, "s", content, &ObjectSpec::default());
    SourcePin {
        bucket: SOURCE.parse().unwrap(),
        key: key("s"),
        version: put.version_id,
        etag: put.etag,
        customer_key: None,
    }
}

fn sized(size: u64) -> CompleteSpec {
    CompleteSpec {
        size,
        ..CompleteSpec::default()
    }
}

#[tokio::test]
async fn parts_from_readers_and_objects_make_one_object_in_any_order() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    let pin = source(&world, Content::pattern(1, 20 * MIB));
    let attributes = Attributes {
        checksum: Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject)),
        ..Attributes::default()
    };
    let upload = MultipartUpload::initiate(&bucket, &key("größe/ключ 1+2"), &attributes)
        .await
        .unwrap();
    let last = upload.upload_part(3, &b"end"[..]).await.unwrap();
    let first = upload
        .copy_part(1, &pin, Some(0..=6 * MIB - 1), 6 * MIB)
        .await
        .unwrap();
    let wrong = upload.upload_part(2, &b"to be replaced"[..]).await.unwrap();
    let second = upload
        .copy_part(2, &pin, Some(8 * MIB..=14 * MIB - 1), 6 * MIB)
        .await
        .unwrap();
    assert_ne!(wrong.etag, second.etag);
    let listed: Vec<_> = upload.parts().try_collect().await.unwrap();
    assert_eq!(listed, [first.clone(), second.clone(), last.clone()]);
    let written = upload
        .complete(&[last, first, second], &sized(12 * MIB + 3))
        .await
        .unwrap();
    let stored = world.object(DESTINATION, "größe/ключ 1+2").unwrap();
    let pattern = Content::pattern(1, 20 * MIB);
    let expected = Content::concat([
        &pattern.slice(0..6 * MIB),
        &pattern.slice(8 * MIB..14 * MIB),
        &Content::bytes(b"end".to_vec()),
    ]);
    assert_eq!((stored.content, stored.etag), (expected, written.etag));
}

#[tokio::test]
async fn one_part_without_a_range_is_a_whole_object() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    let pin = source(&world, Content::pattern(1, 3));
    let upload = MultipartUpload::initiate(&bucket, &key("k"), &Attributes::default())
        .await
        .unwrap();
    let part = upload.copy_part(1, &pin, None, 3).await.unwrap();
    assert!(
        upload
            .complete(&[part], &sized(3))
            .await
            .unwrap()
            .etag
            .ends_with("-1")
    );
    assert_eq!(world.object(DESTINATION, "k").unwrap().size, 3);
}

#[tokio::test]
async fn ten_thousand_parts_are_listed_over_all_pages() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    let size = 5 * MIB;
    let pin = source(&world, Content::pattern(1, size));
    let upload = MultipartUpload::initiate(&bucket, &key("k"), &Attributes::default())
        .await
        .unwrap();
    let copies = (1..=10_000).map(|number| Ok(upload.copy_part(number, &pin, None, size)));
    let parts: Vec<_> = futures::stream::iter(copies)
        .try_buffer_unordered(64)
        .try_collect()
        .await
        .unwrap();
    let listed: Vec<_> = upload
        .parts()
        .map_ok(|part| part.number)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(listed, (1..=10_000).collect::<Vec<_>>());
    assert_eq!(world.calls(Operation::ListParts), 10);
    upload
        .complete(&parts, &sized(10_000 * size))
        .await
        .unwrap();
    assert_eq!(world.object(DESTINATION, "k").unwrap().size, 10_000 * size);
    let beyond = upload
        .copy_part(10_001, &pin, None, size)
        .await
        .unwrap_err();
    assert!(!beyond.kind().is_retryable(), "{beyond}");
}

#[tokio::test]
async fn open_uploads_are_listed_and_cancelled() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    let mut uploads = Vec::new();
    for name in ["a/1", "a/2", "b/ü +"] {
        uploads.push(
            MultipartUpload::initiate(&bucket, &key(name), &Attributes::default())
                .await
                .unwrap(),
        );
    }
    let list = async |prefix| -> Vec<String> {
        MultipartUpload::list(&bucket, prefix)
            .map_ok(|upload| upload.key)
            .try_collect()
            .await
            .unwrap()
    };
    assert_eq!(list("").await, ["a/1", "a/2", "b/ü +"]);
    assert_eq!(list("a/").await, ["a/1", "a/2"]);
    for upload in &uploads {
        upload.upload_part(1, &b"x"[..]).await.unwrap();
        upload.cancel().await.unwrap();
        upload
            .cancel()
            .await
            .expect("cancelling twice is no failure");
    }
    assert_eq!(list("").await, [""; 0]);
    let gone = uploads[0].upload_part(1, &b"x"[..]).await.unwrap_err();
    assert_eq!(*gone.kind(), FailureKind::NoSuchUpload);
}

#[tokio::test]
async fn cancelling_is_repeated_while_parts_turn_up() {
    let world = World::new().await;
    world
        .sandbox
        .store()
        .quirks()
        .late_parts_survive_aborts
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let bucket = world.bucket(DESTINATION).await;
    let upload = MultipartUpload::initiate(&bucket, &key("k"), &Attributes::default())
        .await
        .unwrap();
    let stall = Effect::StallBefore(Some(std::time::Duration::from_millis(300)));
    world.add_fault(Fault::on(Operation::UploadPart).nth(1).then(stall));
    let late = tokio::spawn({
        let upload = upload.clone();
        async move { upload.upload_part(1, &b"late"[..]).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    upload.cancel().await.unwrap();
    let _ = late.await.unwrap();
    upload.cancel().await.unwrap();
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn an_upload_that_someone_aborted_is_not_taken_for_published() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    // What stands at the key has the size of the upload, but is another object.
    world.put_object(
        DESTINATION,
        "k",
        Content::bytes(b"abc".to_vec()),
        &ObjectSpec::default(),
    );
    let upload = MultipartUpload::initiate(&bucket, &key("k"), &Attributes::default())
        .await
        .unwrap();
    let part = upload.upload_part(1, &b"xyz"[..]).await.unwrap();
    upload.cancel().await.unwrap();
    let failure = upload.complete(&[part], &sized(3)).await.unwrap_err();
    assert_eq!(*failure.kind(), FailureKind::NoSuchUpload);
}

#[tokio::test]
async fn a_wrong_size_is_refused_before_it_is_published() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    let upload = MultipartUpload::initiate(&bucket, &key("k"), &Attributes::default())
        .await
        .unwrap();
    let part = upload.upload_part(1, &b"xyz"[..]).await.unwrap();
    upload.complete(&[part], &sized(4)).await.unwrap_err();
    assert!(world.object(DESTINATION, "k").is_none());
}

/// Two requests for one part of an encrypted upload: the part has the `ETag` of the later one.
#[tokio::test]
async fn a_part_that_was_sent_twice_is_named_as_the_server_does() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    let pin = source(&world, Content::pattern(1, 12 * MIB));
    let encryption = Some(Encryption::Kms {
        key: Some("arn:aws:kms:k".to_owned()),
        bucket_key: None,
        dsse: false,
    });
    let attributes = Attributes {
        encryption,
        ..Attributes::default()
    };
    let upload = MultipartUpload::initiate(&bucket, &key("k"), &attributes)
        .await
        .unwrap();
    let half = |number: u64| Some(6 * MIB * (number - 1)..=6 * MIB * number - 1);
    let seen = upload.copy_part(1, &pin, half(1), 6 * MIB).await.unwrap();
    let later = upload.copy_part(1, &pin, half(1), 6 * MIB).await.unwrap();
    assert_ne!(seen.etag, later.etag, "no ETag of these follows from bytes");
    let second = upload.copy_part(2, &pin, half(2), 6 * MIB).await.unwrap();
    upload
        .complete(&[seen, second], &sized(12 * MIB))
        .await
        .unwrap();
    assert_eq!(
        world.object(DESTINATION, "k").unwrap().content,
        Content::pattern(1, 12 * MIB)
    );
}

#[tokio::test]
async fn a_stray_is_found_in_a_directory_bucket() {
    let world = World::new().await;
    let name = "express--usw2-az1--x-s3";
    world.create_bucket(name);
    let bucket = world.bucket(name).await;
    let lost = Fault::on(Operation::CreateMultipartUpload)
        .nth(1)
        .then(Effect::ResetAfter);
    world.add_fault(lost);
    let upload = MultipartUpload::initiate(&bucket, &key("dir/k"), &Attributes::default())
        .await
        .unwrap();
    let open = world.open_uploads(name);
    assert_eq!(
        open.iter()
            .map(|open| open.upload_id.as_str())
            .collect::<Vec<_>>(),
        [upload.id()]
    );
}

/// Puts three objects into the source.
fn three(world: &World) {
    for name in ["a", "b", "c"] {
        let (store, content) = (world.sandbox.store(), Content::pattern(1, 100));
        store.put_object(SOURCE, name, content, &ObjectSpec::default());
    }
}

#[tokio::test]
async fn a_run_from_code_copies_and_keeps_no_journal() {
    let world = World::new().await;
    three(&world);
    let job = world.job(copy_all());
    let outcome = Run::new(&job)
        .credentials(World::credentials())
        .execute()
        .await
        .unwrap();
    assert_eq!((outcome.done_objects, outcome.sessions), (3, 1));
    assert_eq!(world.keys(DESTINATION), ["a", "b", "c"]);
    assert!(!std::path::Path::new(".s3haul/all").exists());
}

#[tokio::test]
async fn a_run_from_code_continues_its_journal() {
    let world = World::new().await;
    three(&world);
    let mut transfer = copy_all();
    // The journal, not the destination, keeps finished objects from being copied again.
    transfer.when = When::Always;
    let mut job = world.job(transfer);
    job.limits.in_flight = Some(1);
    let directory = tempfile::tempdir().unwrap();
    let run = || {
        Run::new(&job)
            .credentials(World::credentials())
            .journal(directory.path())
    };
    let stop = CancellationToken::new();
    let cancel = Effect::hook({
        let stop = stop.clone();
        move |_| stop.cancel()
    });
    let faults = world.sandbox.faults();
    faults.add(Fault::on(Operation::CopyObject).nth(1).then(cancel));
    let first = run().stop(stop).execute().await.unwrap();
    assert!(first.stopped && first.done_objects < 3, "{first:?}");
    let second = run().execute().await.unwrap();
    assert_eq!((second.done_objects, second.sessions), (3, 2));
    assert_eq!(world.calls(Operation::CopyObject), 3);
    let third = run().execute().await.unwrap();
    assert_eq!(
        (third.done_objects, third.sessions),
        (3, 1),
        "a run that ended is not continued"
    );
}

#[tokio::test]
async fn a_run_from_code_refuses_what_only_the_command_does() {
    let world = World::new().await;
    let mut job = world.job(copy_all());
    job.report.json = Some("report.jsonl".into());
    job.journal = JournalPlace::Prefix("s3://destination/journal/".parse().unwrap());
    job.transfers[0].name = String::new();
    let error = Run::new(&job).execute().await.unwrap_err();
    let RunError::Job(mistakes) = &error else {
        panic!("{error}");
    };
    let paths: Vec<_> = mistakes.iter().map(|mistake| &*mistake.path).collect();
    assert_eq!(paths, ["transfers[0].name", "report", "journal"], "{error}");
    assert_eq!(world.sandbox.calls().total(), 0);
}

#[tokio::test]
async fn a_run_from_code_uploads_no_journal() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("data"), "data").unwrap();
    let job = world.job(upload_all(directory.path()));
    for _ in 0..2 {
        Run::new(&job)
            .credentials(World::credentials())
            .journal(directory.path().join("journal"))
            .execute()
            .await
            .unwrap();
        assert_eq!(world.keys(DESTINATION), ["data"]);
    }
}

#[tokio::test]
async fn a_run_from_code_begins_anew_if_the_job_says_so() {
    let world = World::new().await;
    three(&world);
    let directory = tempfile::tempdir().unwrap();
    let mut job = world.job(copy_all());
    job.limits.in_flight = Some(1);
    let stop = CancellationToken::new();
    let cancel = Effect::hook({
        let stop = stop.clone();
        move |_| stop.cancel()
    });
    let faults = world.sandbox.faults();
    faults.add(Fault::on(Operation::CopyObject).nth(1).then(cancel));
    let run = |job: &Job| {
        let (job, directory) = (job.clone(), directory.path().to_owned());
        let stop = stop.clone();
        async move {
            Run::new(&job)
                .credentials(World::credentials())
                .journal(directory)
                .stop(stop)
                .execute()
                .await
        }
    };
    assert!(run(&job).await.unwrap().stopped);
    let changed = |on_change| {
        let mut job = job.clone();
        job.transfers[0].set.cache_control = Some("no-store".to_owned());
        job.on_change = on_change;
        job
    };
    let execute = |job: Job| {
        let directory = directory.path().to_owned();
        async move {
            Run::new(&job)
                .credentials(World::credentials())
                .journal(directory)
                .execute()
                .await
        }
    };
    let refused = execute(changed(OnChange::Fail)).await;
    assert!(matches!(refused, Err(RunError::Journal(_))), "{refused:?}");
    let outcome = execute(changed(OnChange::NewRun)).await.unwrap();
    assert_eq!(outcome.sessions, 1, "{outcome:?}");
    assert_eq!(world.keys(DESTINATION), ["a", "b", "c"]);
}
