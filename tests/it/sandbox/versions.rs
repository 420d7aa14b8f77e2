//! Versioned buckets: IDs, delete markers, and the null version.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, Delete, ObjectIdentifier, VersioningConfiguration,
};
use s3haul::sandbox::{Content, ObjectSpec, VersionInfo};

use super::{is, refused, start};

async fn set_versioning(client: &Client, bucket: &str, status: BucketVersioningStatus) {
    client
        .put_bucket_versioning()
        .bucket(bucket)
        .versioning_configuration(VersioningConfiguration::builder().status(status).build())
        .send()
        .await
        .unwrap();
}

async fn put_body(client: &Client, body: &'static [u8]) -> Option<String> {
    let put = client
        .put_object()
        .bucket("src")
        .key("k")
        .body(ByteStream::from_static(body))
        .send()
        .await
        .unwrap();
    put.version_id
}

async fn get(client: &Client, version: Option<&str>) -> Vec<u8> {
    let got = client
        .get_object()
        .bucket("src")
        .key("k")
        .set_version_id(version.map(str::to_owned));
    got.send()
        .await
        .unwrap()
        .body
        .collect()
        .await
        .unwrap()
        .to_vec()
}

#[tokio::test]
async fn versions_live_beside_the_null_version() {
    let (sandbox, client) = start().await;
    assert!(
        client
            .get_bucket_versioning()
            .bucket("src")
            .send()
            .await
            .unwrap()
            .status()
            .is_none()
    );
    assert_eq!(put_body(&client, b"before").await, None);
    set_versioning(&client, "src", BucketVersioningStatus::Enabled).await;
    let first = put_body(&client, b"first").await.unwrap();
    let second = put_body(&client, b"second").await.unwrap();
    assert_ne!(first, second);
    assert_eq!(get(&client, None).await, b"second");
    assert_eq!(get(&client, Some(&first)).await, b"first");
    assert_eq!(get(&client, Some("null")).await, b"before");
    set_versioning(&client, "src", BucketVersioningStatus::Suspended).await;
    assert_eq!(
        put_body(&client, b"suspended").await.as_deref(),
        Some("null")
    );
    assert_eq!(get(&client, Some("null")).await, b"suspended");
    assert_eq!(sandbox.store().versions("src", "k").len(), 3);
    let missing = client
        .get_object()
        .bucket("src")
        .key("k")
        .version_id("nope")
        .send()
        .await;
    assert_eq!(refused(missing), is(404, "NoSuchVersion"));
}

#[tokio::test]
async fn a_delete_marker_hides_and_can_be_removed() {
    let (sandbox, client) = start().await;
    set_versioning(&client, "src", BucketVersioningStatus::Enabled).await;
    let version = put_body(&client, b"x").await.unwrap();
    let deleted = client
        .delete_object()
        .bucket("src")
        .key("k")
        .send()
        .await
        .unwrap();
    assert_eq!(deleted.delete_marker(), Some(true));
    let marker = deleted.version_id().unwrap();
    let hidden = client
        .get_object()
        .bucket("src")
        .key("k")
        .send()
        .await
        .unwrap_err();
    assert_eq!(
        hidden
            .raw_response()
            .unwrap()
            .headers()
            .get("x-amz-delete-marker"),
        Some("true")
    );
    assert_eq!(refused::<(), _>(Err(hidden)), is(404, "NoSuchKey"));
    let named = client
        .get_object()
        .bucket("src")
        .key("k")
        .version_id(marker)
        .send()
        .await;
    assert_eq!(refused(named), is(405, "MethodNotAllowed"));
    let copy = || client.copy_object().bucket("dst").key("k");
    assert_eq!(
        refused(copy().copy_source("src/k").send().await),
        is(404, "NoSuchKey")
    );
    let named = copy()
        .copy_source(format!("src/k?versionId={marker}"))
        .send()
        .await;
    assert_eq!(refused(named), is(400, "InvalidRequest"));
    let copied = copy()
        .copy_source(format!("src/k?versionId={version}"))
        .send()
        .await
        .unwrap();
    assert_eq!(copied.copy_source_version_id(), Some(version.as_str()));
    let undone = client
        .delete_object()
        .bucket("src")
        .key("k")
        .version_id(marker)
        .send()
        .await
        .unwrap();
    assert_eq!(undone.delete_marker(), Some(true));
    assert_eq!(get(&client, None).await, b"x");
    client
        .delete_object()
        .bucket("src")
        .key("k")
        .version_id(&version)
        .send()
        .await
        .unwrap();
    assert!(sandbox.store().versions("src", "k").is_empty());
}

#[tokio::test]
async fn many_keys_are_deleted_in_one_call() {
    let (sandbox, client) = start().await;
    for key in ["a", "b", "locked/c"] {
        sandbox
            .store()
            .put_object("src", key, Content::bytes("x"), &ObjectSpec::default());
    }
    sandbox
        .store()
        .deny("src", s3haul::sandbox::Operation::DeleteObject, "locked/");
    let object = |key: &str| ObjectIdentifier::builder().key(key).build().unwrap();
    let delete = Delete::builder()
        .set_objects(Some(["a", "b", "none", "locked/c"].map(object).to_vec()))
        .build()
        .unwrap();
    let outcome = client
        .delete_objects()
        .bucket("src")
        .delete(delete)
        .send()
        .await
        .unwrap();
    assert_eq!(outcome.deleted().len(), 3);
    assert_eq!(outcome.errors()[0].code(), Some("AccessDenied"));
    assert_eq!(sandbox.store().keys("src"), ["locked/c"]);
}

#[tokio::test]
async fn an_upload_takes_the_place_of_its_initiation() {
    let (sandbox, client) = start().await;
    set_versioning(&client, "src", BucketVersioningStatus::Enabled).await;
    let upload = client
        .create_multipart_upload()
        .bucket("src")
        .key("k")
        .send()
        .await
        .unwrap();
    let id = upload.upload_id().unwrap();
    let part = client
        .upload_part()
        .bucket("src")
        .key("k")
        .upload_id(id)
        .part_number(1)
        .body(ByteStream::from_static(b"upload"))
        .send()
        .await
        .unwrap();
    put_body(&client, b"later").await.unwrap();
    super::complete(&client, "src", "k", id, &[(1, part.e_tag().unwrap())])
        .await
        .unwrap();
    assert_eq!(get(&client, None).await, b"later");
    let sizes: Vec<_> = sandbox
        .store()
        .versions("src", "k")
        .into_iter()
        .map(|version| match version {
            VersionInfo::Object(object) => object.size,
            VersionInfo::DeleteMarker(_) => panic!("nothing was deleted"),
        })
        .collect();
    assert_eq!(sizes, [5, 6]);
}
