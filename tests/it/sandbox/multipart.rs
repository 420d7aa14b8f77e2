//! Multipart uploads: parts, copied parts, and Complete with its conditions.

mod copied;

use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use s3haul::sandbox::{
    BucketOptions, Content, LatencyModel, Model, ObjectSpec, SMALLEST_PART, Sandbox, SandboxOptions,
};

use super::{complete, is, listed, refused, start, start_with};

const MIN: u64 = SMALLEST_PART;

async fn create(client: &Client) -> String {
    let upload = client
        .create_multipart_upload()
        .bucket("dst")
        .key("k")
        .send()
        .await
        .unwrap();
    upload.upload_id.unwrap()
}

/// Copies a range of `src/key` as a part, and returns its `ETag`.
async fn copy_part(client: &Client, id: &str, number: i32, range: &str) -> String {
    let copy = client
        .upload_part_copy()
        .bucket("dst")
        .key("k")
        .upload_id(id)
        .part_number(number)
        .copy_source("src/key")
        .copy_source_range(range)
        .send()
        .await
        .unwrap();
    copy.copy_part_result.unwrap().e_tag.unwrap()
}

/// Starts a sandbox whose `src/key` has 10 MiB + 10 real bytes.
async fn start_with_source() -> (Sandbox, Client) {
    let (sandbox, client) = start().await;
    let content = Content::pattern_bytes(1, 2 * MIN + 10);
    sandbox
        .store()
        .put_object("src", "key", content, &ObjectSpec::default());
    (sandbox, client)
}

#[tokio::test]
async fn complete_wants_the_parts_as_they_are() {
    let (sandbox, client) = start_with_source().await;
    let id = create(&client).await;
    let small = copy_part(&client, &id, 1, "bytes=0-99").await;
    let big = copy_part(&client, &id, 5, &format!("bytes=0-{}", MIN - 1)).await;
    let last = copy_part(&client, &id, 7, "bytes=0-0").await;
    let done = |parts: Vec<(i32, String)>| {
        let client = client.clone();
        let id = id.clone();
        async move {
            let parts: Vec<_> = parts
                .iter()
                .map(|(number, tag)| (*number, tag.as_str()))
                .collect();
            complete(&client, "dst", "k", &id, &parts).await
        }
    };
    assert_eq!(refused(done(vec![]).await), is(400, "InvalidRequest"));
    assert_eq!(
        refused(done(vec![(1, small.clone()), (5, big.clone())]).await),
        is(400, "EntityTooSmall")
    );
    assert_eq!(
        refused(done(vec![(5, big.clone()), (1, small.clone())]).await),
        is(400, "InvalidPartOrder")
    );
    assert_eq!(
        refused(done(vec![(5, big.clone()), (5, big.clone())]).await),
        is(400, "InvalidPartOrder")
    );
    assert_eq!(
        refused(done(vec![(5, small.clone())]).await),
        is(400, "InvalidPart")
    );
    assert_eq!(
        refused(done(vec![(6, big.clone())]).await),
        is(400, "InvalidPart")
    );
    let other = client
        .complete_multipart_upload()
        .bucket("dst")
        .key("k")
        .upload_id("nope");
    let other = other.multipart_upload(listed(&[(1, &small)])).send().await;
    assert_eq!(refused(other), is(404, "NoSuchUpload"));
    let sized = client
        .complete_multipart_upload()
        .bucket("dst")
        .key("k")
        .upload_id(&id);
    let sized = sized
        .multipart_upload(listed(&[(5, &big), (7, &last)]))
        .mpu_object_size(7)
        .send()
        .await;
    assert_eq!(refused(sized), is(400, "InvalidRequest"));
    // Without a declared checksum, gaps in the numbers are allowed. A repeated part replaces the
    // earlier one.
    let again = copy_part(&client, &id, 7, "bytes=1-1").await;
    assert_eq!(
        refused(done(vec![(5, big.clone()), (7, last)]).await),
        is(400, "InvalidPart")
    );
    done(vec![(5, big), (7, again)]).await.unwrap();
    assert_eq!(sandbox.store().object("dst", "k").unwrap().size, MIN + 1);
}

#[tokio::test]
async fn parts_are_listed_in_pages() {
    let (_sandbox, client) = start_with_source().await;
    let id = create(&client).await;
    for number in [3, 1, 10_000, 7] {
        copy_part(&client, &id, number, &format!("bytes=0-{number}")).await;
    }
    let mut numbers = Vec::new();
    let mut marker = None;
    loop {
        let page = client
            .list_parts()
            .bucket("dst")
            .key("k")
            .upload_id(&id)
            .max_parts(3)
            .set_part_number_marker(marker)
            .send()
            .await
            .unwrap();
        for part in page.parts() {
            assert_eq!(
                part.size(),
                part.part_number().map(|number| i64::from(number) + 1)
            );
            numbers.push(part.part_number().unwrap());
        }
        if page.is_truncated() != Some(true) {
            break;
        }
        marker = page.next_part_number_marker().map(str::to_owned);
    }
    assert_eq!(numbers, [1, 3, 7, 10_000]);
    // No page leads to itself, or beyond the last part number.
    for (most, marker) in [(0, "0"), (3, "10000"), (3, "2147483647")] {
        let page = client
            .list_parts()
            .bucket("dst")
            .key("k")
            .upload_id(&id)
            .max_parts(most)
            .part_number_marker(marker);
        let page = page.send().await.unwrap();
        assert_eq!(
            (page.parts().len(), page.is_truncated()),
            (0, Some(false)),
            "{most} {marker}"
        );
    }
    client
        .abort_multipart_upload()
        .bucket("dst")
        .key("k")
        .upload_id(&id)
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn complete_on_conditions() {
    let (sandbox, client) = start_with_source().await;
    let existing =
        sandbox
            .store()
            .put_object("dst", "k", Content::bytes("old"), &ObjectSpec::default());
    let id = create(&client).await;
    let part = copy_part(&client, &id, 1, "bytes=0-9").await;
    let call = || {
        let call = client
            .complete_multipart_upload()
            .bucket("dst")
            .key("k")
            .upload_id(&id);
        call.multipart_upload(listed(&[(1, &part)]))
    };
    // A 412 leaves the upload unchanged.
    assert_eq!(
        refused(call().if_none_match("*").send().await),
        is(412, "PreconditionFailed")
    );
    assert_eq!(
        refused(call().if_match("other").send().await),
        is(412, "PreconditionFailed")
    );
    assert_eq!(sandbox.store().open_uploads("dst").len(), 1);
    // The key was deleted after Create.
    sandbox.store().delete_object("dst", "k");
    assert_eq!(
        refused(call().if_none_match("*").send().await),
        is(409, "ConditionalRequestConflict")
    );
    assert_eq!(
        refused(call().if_match(&existing.etag).send().await),
        is(404, "NoSuchKey")
    );
    // The key was written again with the same bytes: the ETag matches, but it is a conflict.
    sandbox
        .store()
        .put_object("dst", "k", Content::bytes("old"), &ObjectSpec::default());
    assert_eq!(
        refused(call().if_match(&existing.etag).send().await),
        is(409, "ConditionalRequestConflict")
    );
    // A new upload has no conflict.
    let id = create(&client).await;
    let part = copy_part(&client, &id, 1, "bytes=0-9").await;
    let call = client
        .complete_multipart_upload()
        .bucket("dst")
        .key("k")
        .upload_id(&id);
    call.multipart_upload(listed(&[(1, &part)]))
        .if_match(&existing.etag)
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_delete_can_win_over_an_upload() {
    let (sandbox, client) = start_with_source().await;
    sandbox
        .store()
        .quirks()
        .deletes_win_over_uploads
        .store(true, std::sync::atomic::Ordering::Relaxed);
    sandbox
        .store()
        .put_object("dst", "k", Content::bytes("old"), &ObjectSpec::default());
    let id = create(&client).await;
    let part = copy_part(&client, &id, 1, "bytes=0-9").await;
    sandbox.store().delete_object("dst", "k");
    complete(&client, "dst", "k", &id, &[(1, &part)])
        .await
        .unwrap();
    assert!(sandbox.store().object("dst", "k").is_none());
}

#[tokio::test]
async fn the_object_is_dated_at_the_initiation() {
    let (sandbox, client) = start_with_source().await;
    let id = create(&client).await;
    let initiated = sandbox.store().open_uploads("dst")[0].initiated;
    let part = copy_part(&client, &id, 1, "bytes=0-9").await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    complete(&client, "dst", "k", &id, &[(1, &part)])
        .await
        .unwrap();
    assert_eq!(
        sandbox.store().object("dst", "k").unwrap().last_modified,
        initiated
    );
}

#[tokio::test]
async fn parts_of_kms_uploads_hide_their_content() {
    let (sandbox, client) = start_with_source().await;
    let key_id = "arn:aws:kms:us-east-1:111122223333:key/1";
    let encryption = s3haul::sandbox::Encryption::kms(key_id);
    sandbox.store().create_bucket(
        "kms",
        BucketOptions {
            encryption,
            ..BucketOptions::default()
        },
    );
    let upload = client
        .create_multipart_upload()
        .bucket("kms")
        .key("k")
        .send()
        .await
        .unwrap();
    assert_eq!(upload.ssekms_key_id(), Some(key_id));
    let id = upload.upload_id().unwrap();
    let mut tags = Vec::new();
    for _ in 0..2 {
        let part = client
            .upload_part_copy()
            .bucket("kms")
            .key("k")
            .upload_id(id)
            .part_number(1);
        let part = part
            .copy_source("src/key")
            .copy_source_range("bytes=0-9")
            .send()
            .await
            .unwrap();
        tags.push(part.copy_part_result.unwrap().e_tag.unwrap());
    }
    assert_ne!(tags[0], tags[1]);
    let done = complete(&client, "kms", "k", id, &[(1, &tags[1])])
        .await
        .unwrap();
    assert!(done.checksum_crc64_nvme().is_none(), "left out with KMS");
    let head = client.head_object().bucket("kms").key("k");
    let head = head
        .checksum_mode(aws_sdk_s3::types::ChecksumMode::Enabled)
        .send()
        .await
        .unwrap();
    assert!(head.checksum_crc64_nvme().is_some());
    assert_eq!(head.server_side_encryption().unwrap().as_str(), "aws:kms");
}

#[tokio::test]
async fn a_server_can_have_opaque_etags() {
    let (sandbox, client) = start_with_source().await;
    sandbox
        .store()
        .quirks()
        .opaque_etags
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let id = create(&client).await;
    let one = copy_part(&client, &id, 1, "bytes=0-9").await;
    let two = copy_part(&client, &id, 1, "bytes=0-9").await;
    assert_ne!(one, two);
    complete(&client, "dst", "k", &id, &[(1, &two)])
        .await
        .unwrap();
    assert!(
        sandbox
            .store()
            .object("dst", "k")
            .unwrap()
            .etag
            .ends_with("-1")
    );
}

#[tokio::test]
async fn a_late_part_can_survive_the_abort() {
    let latency = LatencyModel {
        bytes_per_second: Some(100),
        ..LatencyModel::default()
    };
    let model = Model {
        latency,
        ..Model::default()
    };
    let (sandbox, client) = start_with(SandboxOptions {
        model,
        ..SandboxOptions::default()
    })
    .await;
    sandbox.store().put_object(
        "src",
        "key",
        Content::pattern(1, 50),
        &ObjectSpec::default(),
    );
    let abort = |id: String| {
        client
            .abort_multipart_upload()
            .bucket("dst")
            .key("k")
            .upload_id(id)
            .send()
    };
    let late = async |id: &str| {
        let part = client
            .upload_part_copy()
            .bucket("dst")
            .key("k")
            .upload_id(id)
            .part_number(1);
        let (part, aborted) = tokio::join!(part.copy_source("src/key").send(), async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            abort(id.to_owned()).await
        });
        aborted.unwrap();
        part
    };
    let id = create(&client).await;
    assert_eq!(refused(late(&id).await), is(404, "NoSuchUpload"));
    assert!(sandbox.store().open_uploads("dst").is_empty());

    sandbox
        .store()
        .quirks()
        .late_parts_survive_aborts
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let id = create(&client).await;
    late(&id).await.unwrap();
    assert_eq!(sandbox.store().open_uploads("dst")[0].parts.len(), 1);
    abort(id).await.unwrap();
    assert!(sandbox.store().open_uploads("dst").is_empty());
}

#[tokio::test]
async fn a_lifecycle_rule_is_announced() {
    let (sandbox, client) = start().await;
    sandbox.store().create_bucket(
        "tidy",
        BucketOptions {
            abort_after_days: Some(7),
            ..BucketOptions::default()
        },
    );
    let upload = client
        .create_multipart_upload()
        .bucket("tidy")
        .key("k")
        .send()
        .await
        .unwrap();
    let date = upload.abort_date().unwrap();
    let days = (date.secs()
        - i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap())
        / 86_400;
    assert_eq!(days, 7);
    let list = client
        .list_parts()
        .bucket("tidy")
        .key("k")
        .upload_id(upload.upload_id().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(list.abort_date(), Some(date));
    assert!(list.abort_rule_id().is_some());
}
