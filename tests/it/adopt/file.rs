//! Adopting the open upload of a file.

use std::fs;

use s3haul::execute::receipt::Ending;
use s3haul::multipart::MultipartUpload;
use s3haul::sandbox::{Content, Operation};
use tempfile::TempDir;

use super::{FILE_PART, adopting, as_the_job_would, open, run_counted, slow_world, stopped_at};
use crate::world::{DESTINATION, in_parts_of, upload_all};

#[tokio::test]
async fn only_the_missing_parts_of_a_file_are_sent() {
    let mut world = slow_world().await;
    world.ceiling = 2;
    let files = TempDir::new().unwrap();
    let path = files.path().join("large");
    let mut bytes = vec![7; usize::try_from(12 * FILE_PART).unwrap()];
    fs::write(&path, &bytes).unwrap();
    let job = adopting(&world, in_parts_of(FILE_PART, upload_all(files.path())));
    stopped_at(&mut world, Operation::UploadPart, &job, None).await;
    let held = open(&world)[0].parts.len() as u64;
    // Each part is compared with the file separately.
    bytes[0] = 8;
    fs::write(&path, &bytes).unwrap();
    let run = run_counted(&world, &job).await;
    assert_eq!(run.proof(), "crc64nvme", "{:?}", run.receipts);
    world.assert_no_upload_is_left();
    assert_eq!(world.calls(Operation::UploadPart), 12 - held + 1);
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 0);
    let sent = world.object(DESTINATION, "large").unwrap();
    assert_eq!(sent.content, Content::bytes(bytes));
}

#[tokio::test]
async fn a_file_that_ends_up_with_other_attributes_is_sent_again() {
    let mut world = slow_world().await;
    world.ceiling = 2;
    let files = TempDir::new().unwrap();
    fs::write(
        files.path().join("large"),
        vec![7; usize::try_from(3 * FILE_PART).unwrap()],
    )
    .unwrap();
    let bucket = world.bucket(DESTINATION).await;
    let upload = MultipartUpload::initiate(&bucket, &"large".parse().unwrap(), &as_the_job_would())
        .await
        .unwrap();
    upload
        .upload_part(2, &vec![7; usize::try_from(FILE_PART).unwrap()][..])
        .await
        .unwrap();
    let run = run_counted(
        &world,
        &adopting(&world, in_parts_of(FILE_PART, upload_all(files.path()))),
    )
    .await;
    assert!(
        matches!(run.receipts[0].ending, Ending::Done { .. }),
        "{:?}",
        run.receipts
    );
    assert_eq!(world.calls(Operation::UploadPart), 2 + 3);
    let sent = world.object(DESTINATION, "large").unwrap();
    assert!(
        sent.attributes.metadata.is_empty() && sent.attributes.tags.is_empty(),
        "{:?}",
        sent.attributes
    );
}
