//! Uploads of local files.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use s3haul::manifest::job::{PartSize, Parts, Provider, When};
use s3haul::sandbox::{Effect, Fault, Operation};
use s3haul::size::{ByteSize, MIB};

use crate::world::{DESTINATION, World, upload_all};

fn pattern(length: u64) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

#[tokio::test]
async fn files_of_every_size_arrive_and_are_proven_by_their_own_sum() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let sizes = [0, 1, 5 * MIB, 16 * MIB, 16 * MIB + 1, 40 * MIB];
    for size in sizes {
        fs::write(dir.path().join(format!("f{size}.html")), pattern(size)).unwrap();
    }
    let run = world.run(upload_all(dir.path())).await;
    assert_eq!(
        run.outcome.proofs,
        [("crc64nvme".to_owned(), sizes.len() as u64)].into(),
        "{:?}",
        run.receipts
    );
    for size in sizes {
        let stored = world.object(DESTINATION, &format!("f{size}.html")).unwrap();
        assert!(
            stored.content.to_bytes() == pattern(size),
            "{size}: other bytes arrived"
        );
        assert_eq!(stored.attributes.content_type.as_deref(), Some("text/html"));
    }
    assert_eq!(world.calls(Operation::PutObject), 4);
    assert_eq!(world.calls(Operation::UploadPart), 2 + 3);
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn a_second_run_sends_nothing() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b/c", "b.txt"] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
        let yesterday = std::time::SystemTime::now() - std::time::Duration::from_hours(24);
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(yesterday)
            .unwrap();
    }
    assert_eq!(
        world.run(upload_all(dir.path())).await.outcome.done_objects,
        3
    );
    let run = world.run(upload_all(dir.path())).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.skipped_objects),
        (0, 3)
    );
    assert_eq!(world.calls(Operation::PutObject), 3);
}

#[tokio::test]
async fn an_unreadable_file_fails_alone_and_by_name() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("fine"), "x").unwrap();
    // Even root cannot read a directory as a file. It replaces the listed file during the upload.
    fs::write(dir.path().join("gone"), "x").unwrap();
    let path = dir.path().join("gone");
    world.add_fault(
        Fault::on(Operation::ListObjectsV2)
            .nth(2)
            .then(Effect::hook(move |_| {
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
            })),
    );
    let run = world.run(upload_all(dir.path())).await;
    assert_eq!(
        run.outcome.done_objects + run.outcome.failed_objects,
        2,
        "{:?}",
        run.receipts
    );
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let run = world.run(upload_all(&dir.path().join("nowhere"))).await;
    assert_eq!(run.error(), "local-file");
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_sent_again() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, pattern(40 * MIB)).unwrap();
    let grown = path.clone();
    world.add_fault(
        Fault::on(Operation::UploadPart)
            .nth(1)
            .then(Effect::hook(move |_| {
                fs::write(&grown, vec![7; 41 << 20]).unwrap();
            })),
    );
    let run = world.run(upload_all(dir.path())).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    let stored = world.object(DESTINATION, "log").unwrap();
    assert!(
        stored.content.to_bytes().iter().all(|byte| *byte == 7) && stored.size == 41 * MIB,
        "the object mixes two versions of the file"
    );
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn a_server_without_checksums_is_held_to_the_md5_of_what_was_sent() {
    let world = World::of_provider(Provider::Other).await;
    world
        .sandbox
        .store()
        .quirks()
        .no_checksums
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("small"), "x").unwrap();
    fs::write(dir.path().join("large"), pattern(20 * MIB)).unwrap();
    let run = world.run(upload_all(dir.path())).await;
    let proofs = [("etag".to_owned(), 1), ("part-etags".to_owned(), 1)].into();
    assert_eq!(run.outcome.proofs, proofs, "{:?}", run.receipts);

    world
        .sandbox
        .store()
        .quirks()
        .opaque_etags
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let mut transfer = upload_all(dir.path());
    transfer.when = When::Always;
    let run = world.run(transfer).await;
    assert_eq!(
        run.outcome.proofs,
        [("size".to_owned(), 2)].into(),
        "ETags that say nothing prove nothing"
    );
}

#[tokio::test]
async fn parts_are_as_the_job_says() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), pattern(11 * MIB)).unwrap();
    let mut transfer = upload_all(dir.path());
    transfer.parts = Parts {
        size: PartSize::Exactly(ByteSize(5 * MIB)),
        threshold: ByteSize(8 * MIB),
        ..Parts::default()
    };
    let run = world.run(transfer).await;
    assert_eq!(
        (run.receipts[0].parts, run.receipts[0].route),
        (3, Some("multipart-upload"))
    );
}

#[tokio::test]
async fn a_directory_does_not_go_into_one_key() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    let mut transfer = upload_all(dir.path());
    transfer.to.location = crate::world::uri("s3://destination/one-key");
    let run = world.run(transfer).await;
    assert_eq!((run.error(), run.outcome.done_objects), ("invalid", 0));
    assert!(world.keys(DESTINATION).is_empty());
}
