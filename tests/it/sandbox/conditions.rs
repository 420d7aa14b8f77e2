//! Conditional reads, copies, and writes.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use s3haul::sandbox::{BucketOptions, Content, ObjectSpec};

use super::{is, refused, start};
use crate::world::aged;

/// The `ETag` of `x`.
const X: &str = "9dd4e461268c8034f5c8564e155c67a6";
const OTHER: &str = "11111111111111111111111111111111";

fn date(seconds_from_now: i64) -> DateTime {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    DateTime::from_secs(i64::try_from(now).unwrap() + seconds_from_now)
}

async fn start_with_source() -> (s3haul::sandbox::Sandbox, Client) {
    let (sandbox, client) = start().await;
    let written = aged(Duration::from_secs(1000));
    sandbox
        .store()
        .put_object("src", "key", Content::bytes("x"), &written);
    (sandbox, client)
}

#[tokio::test]
async fn source_conditions_of_copies() {
    let (_sandbox, client) = start_with_source().await;
    let upload = client
        .create_multipart_upload()
        .bucket("dst")
        .key("k")
        .send()
        .await
        .unwrap();
    let id = upload.upload_id().unwrap();
    let (before, after, future) = (date(-2000), date(-500), date(5000));
    // If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, and whether the copy is
    // made.
    for (matches, none_matches, modified, unmodified, done) in [
        (Some(X), None, None, None, true),
        (
            Some("\"9dd4e461268c8034f5c8564e155c67a6\""),
            None,
            None,
            None,
            true,
        ),
        (Some(OTHER), None, None, None, false),
        (None, Some(OTHER), None, None, true),
        (None, Some(X), None, None, false),
        (None, None, Some(before), None, true),
        (None, None, Some(after), None, false),
        (None, None, Some(future), None, true),
        (None, None, None, Some(after), true),
        (None, None, None, Some(before), false),
        (Some(X), None, None, Some(before), true),
        (None, Some(OTHER), None, Some(before), false),
        (None, Some(X), Some(before), None, false),
    ] {
        let case = format!("{matches:?} {none_matches:?} {modified:?} {unmodified:?}");
        let copy = client
            .copy_object()
            .bucket("dst")
            .key("copy")
            .copy_source("src/key")
            .set_copy_source_if_match(matches.map(str::to_owned))
            .set_copy_source_if_none_match(none_matches.map(str::to_owned))
            .set_copy_source_if_modified_since(modified)
            .set_copy_source_if_unmodified_since(unmodified)
            .send()
            .await;
        let part = client
            .upload_part_copy()
            .bucket("dst")
            .key("k")
            .upload_id(id)
            .part_number(1)
            .copy_source("src/key")
            .set_copy_source_if_match(matches.map(str::to_owned))
            .set_copy_source_if_none_match(none_matches.map(str::to_owned))
            .set_copy_source_if_modified_since(modified)
            .set_copy_source_if_unmodified_since(unmodified)
            .send()
            .await;
        if done {
            copy.unwrap_or_else(|error| panic!("{case}: {error:?}"));
            part.unwrap_or_else(|error| panic!("{case}: {error:?}"));
        } else {
            assert_eq!(refused(copy), is(412, "PreconditionFailed"), "{case}");
            assert_eq!(refused(part), is(412, "PreconditionFailed"), "{case}");
        }
    }
}

#[tokio::test]
async fn a_server_can_ignore_source_conditions() {
    let (sandbox, client) = start_with_source().await;
    sandbox
        .store()
        .quirks()
        .ignore_source_conditions
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let copy = client
        .copy_object()
        .bucket("dst")
        .key("k")
        .copy_source("src/key")
        .copy_source_if_match(OTHER);
    copy.send().await.unwrap();
}

#[tokio::test]
async fn the_error_names_the_condition() {
    let (_sandbox, client) = start_with_source().await;
    let copy = client
        .copy_object()
        .bucket("dst")
        .key("k")
        .copy_source("src/key")
        .copy_source_if_match(OTHER);
    let error = copy.send().await.unwrap_err();
    let body =
        String::from_utf8_lossy(error.raw_response().unwrap().body().bytes().unwrap()).into_owned();
    assert!(
        body.contains("<Condition>x-amz-copy-source-If-Match</Condition>"),
        "{body}"
    );
    assert!(body.contains("<RequestId>"), "{body}");
}

#[tokio::test]
async fn conditions_of_reads() {
    let (_sandbox, client) = start_with_source().await;
    let get = || client.get_object().bucket("src").key("key");
    let head = || client.head_object().bucket("src").key("key");
    get()
        .if_match(X)
        .if_unmodified_since(date(-2000))
        .send()
        .await
        .unwrap();
    get()
        .if_none_match(OTHER)
        .if_modified_since(date(-500))
        .send()
        .await
        .unwrap();
    assert_eq!(
        refused(get().if_match(OTHER).send().await),
        is(412, "PreconditionFailed")
    );
    assert_eq!(
        refused(get().if_unmodified_since(date(-2000)).send().await).0,
        412
    );
    assert_eq!(refused(get().if_none_match(X).send().await).0, 304);
    assert_eq!(
        refused(get().if_modified_since(date(-500)).send().await).0,
        304
    );
    assert_eq!(refused(head().if_match(OTHER).send().await).0, 412);
    assert_eq!(refused(head().if_none_match(X).send().await).0, 304);
}

#[tokio::test]
async fn conditions_of_copies_on_the_destination() {
    let (sandbox, client) = start_with_source().await;
    let copy = || {
        client
            .copy_object()
            .bucket("dst")
            .key("k")
            .copy_source("src/key")
    };
    assert_eq!(
        refused(copy().if_match(X).send().await),
        is(404, "NoSuchKey")
    );
    copy().if_none_match("*").send().await.unwrap();
    assert_eq!(
        refused(copy().if_none_match("*").send().await),
        is(412, "PreconditionFailed")
    );
    copy().if_match(X).send().await.unwrap();
    assert_eq!(
        refused(copy().if_match(OTHER).send().await),
        is(412, "PreconditionFailed")
    );
    assert_eq!(
        refused(copy().if_none_match(X).send().await),
        is(501, "NotImplemented")
    );
    assert_eq!(
        refused(copy().if_match("*").send().await),
        is(501, "NotImplemented")
    );
    assert_eq!(
        refused(copy().if_match(X).if_none_match("*").send().await),
        is(501, "NotImplemented")
    );
    let put = client
        .put_object()
        .bucket("dst")
        .key("k")
        .if_none_match("*")
        .body(ByteStream::from_static(b"y"));
    assert_eq!(refused(put.send().await), is(412, "PreconditionFailed"));
    // A key behind a delete marker counts as absent.
    sandbox.store().create_bucket(
        "ver",
        BucketOptions {
            versioning: true,
            ..BucketOptions::default()
        },
    );
    sandbox
        .store()
        .put_object("ver", "k", Content::bytes("x"), &ObjectSpec::default());
    sandbox.store().delete_object("ver", "k");
    let hidden = || {
        client
            .copy_object()
            .bucket("ver")
            .key("k")
            .copy_source("src/key")
    };
    assert_eq!(
        refused(hidden().if_match(X).send().await),
        is(404, "NoSuchKey")
    );
    hidden().if_none_match("*").send().await.unwrap();
}
