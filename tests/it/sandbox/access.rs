//! Access: signatures, regions, owners, denials, and buckets.

use aws_sdk_s3::config::Region;
use s3haul::sandbox::{BucketOptions, Content, ObjectSpec, Operation, SandboxOptions};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{client, config, is, refused, start, start_with, unsigned};

#[tokio::test]
async fn signatures_are_verified() {
    let (sandbox, _) = start().await;
    let list = |access: &'static str, secret: &'static str| {
        let client = client(sandbox.url(), access, secret);
        async move { client.list_objects_v2().bucket("src").send().await }
    };
    list("sandbox", "sandbox-secret").await.unwrap();
    assert_eq!(
        refused(list("sandbox", "wrong").await),
        is(403, "SignatureDoesNotMatch")
    );
    assert_eq!(
        refused(list("unknown", "sandbox-secret").await),
        is(403, "InvalidAccessKeyId")
    );
    let anonymous = aws_sdk_s3::Client::from_conf(unsigned(sandbox.url()).allow_no_auth().build());
    let answer = anonymous.list_objects_v2().bucket("src").send().await;
    assert_eq!(refused(answer), is(403, "AccessDenied"));
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_refused() {
    let (sandbox, _) = start().await;
    let mut stream = tokio::net::TcpStream::connect(sandbox.url().strip_prefix("http://").unwrap())
        .await
        .unwrap();
    let request = "GET /src?list-type=2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        x-amz-date: 20200101T000000Z\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\n\
        authorization: AWS4-HMAC-SHA256 Credential=sandbox/20200101/us-east-1/s3/aws4_request, \
        SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=00\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("RequestTimeTooSkewed"),
        "{answer}"
    );
}

#[tokio::test]
async fn buckets_are_in_regions() {
    let (sandbox, client) = start().await;
    let far = BucketOptions {
        region: Some("eu-west-1".to_owned()),
        ..BucketOptions::default()
    };
    sandbox.store().create_bucket("far", far);
    let head = client.head_bucket().bucket("src").send().await.unwrap();
    assert_eq!(head.bucket_region(), Some("us-east-1"));
    let redirected = client.head_bucket().bucket("far").send().await.unwrap_err();
    let response = redirected.raw_response().unwrap();
    assert_eq!(response.status().as_u16(), 301);
    assert_eq!(
        response.headers().get("x-amz-bucket-region"),
        Some("eu-west-1")
    );
    let list = client.list_objects_v2().bucket("far").send().await;
    assert_eq!(refused(list), is(301, "PermanentRedirect"));
    let location = client
        .get_bucket_location()
        .bucket("far")
        .send()
        .await
        .unwrap();
    assert_eq!(
        location.location_constraint().unwrap().as_str(),
        "eu-west-1"
    );
    let there = config(sandbox.url(), "sandbox", "sandbox-secret")
        .region(Region::new("eu-west-1"))
        .build();
    let there = aws_sdk_s3::Client::from_conf(there);
    there.list_objects_v2().bucket("far").send().await.unwrap();
    // A copy is sent to the region of its destination; the source may be in any region.
    sandbox
        .store()
        .put_object("src", "k", Content::bytes("x"), &ObjectSpec::default());
    there
        .copy_object()
        .bucket("far")
        .key("k")
        .copy_source("src/k")
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn buckets_are_made_and_removed() {
    let (sandbox, client) = start().await;
    client
        .create_bucket()
        .bucket("new-bucket")
        .send()
        .await
        .unwrap();
    let again = client.create_bucket().bucket("new-bucket").send().await;
    assert_eq!(refused(again), is(409, "BucketAlreadyOwnedByYou"));
    let list = client.list_buckets().send().await.unwrap();
    let names: Vec<_> = list
        .buckets()
        .iter()
        .map(|bucket| bucket.name().unwrap())
        .collect();
    assert_eq!(names, ["dst", "new-bucket", "src"]);
    let page = client.list_buckets().max_buckets(2).send().await.unwrap();
    assert_eq!(
        (page.buckets().len(), page.continuation_token()),
        (2, Some("new-bucket"))
    );
    for most in [-1, 0, 10_001] {
        let page = client.list_buckets().max_buckets(most).send().await;
        assert_eq!(refused(page), is(400, "InvalidArgument"), "{most}");
    }
    sandbox.store().put_object(
        "new-bucket",
        "k",
        Content::bytes("x"),
        &ObjectSpec::default(),
    );
    let delete = || client.delete_bucket().bucket("new-bucket").send();
    assert_eq!(refused(delete().await), is(409, "BucketNotEmpty"));
    sandbox.store().delete_object("new-bucket", "k");
    delete().await.unwrap();
    assert_eq!(refused(delete().await), is(404, "NoSuchBucket"));
    assert_eq!(
        refused(client.head_bucket().bucket("new-bucket").send().await).0,
        404
    );
}

#[tokio::test]
async fn denials_have_the_shape_of_policies() {
    let (sandbox, client) = start().await;
    let store = sandbox.store();
    store.put_object(
        "src",
        "open/k",
        Content::bytes("x"),
        &ObjectSpec::default().tag("a", "b"),
    );
    store.put_object(
        "src",
        "closed/k",
        Content::bytes("x"),
        &ObjectSpec::default(),
    );
    store.deny("src", Operation::GetObject, "closed/");
    store.deny("src", Operation::GetObjectTagging, "");
    store.deny("src", Operation::ListObjectsV2, "");
    store.deny("dst", Operation::PutObject, "");
    let copy = |key: &str| {
        client
            .copy_object()
            .bucket("dst")
            .key("k")
            .copy_source(format!("src/{key}"))
    };
    assert_eq!(
        refused(copy("closed/k").send().await),
        is(403, "AccessDenied")
    );
    // Copies include tags by default, which needs permission to read them. Without tags, no
    // permission is needed.
    assert_eq!(
        refused(copy("open/k").send().await),
        is(403, "AccessDenied")
    );
    copy("open/k")
        .tagging_directive(aws_sdk_s3::types::TaggingDirective::Replace)
        .send()
        .await
        .unwrap();
    let head = client
        .head_object()
        .bucket("src")
        .key("open/k")
        .send()
        .await
        .unwrap();
    assert_eq!(head.tag_count(), None);
    // Without permission to list, a missing key looks like a denied one.
    assert_eq!(
        refused(client.head_object().bucket("src").key("none").send().await).0,
        403
    );
    assert_eq!(
        refused(client.head_object().bucket("dst").key("none").send().await).0,
        404
    );
    assert_eq!(
        refused(client.list_objects_v2().bucket("src").send().await),
        is(403, "AccessDenied")
    );
    assert_eq!(
        refused(client.put_object().bucket("dst").key("k").send().await),
        is(403, "AccessDenied")
    );
    store.allow_all();
    client.list_objects_v2().bucket("src").send().await.unwrap();
}

#[tokio::test]
async fn owners_and_payers_are_checked() {
    let (sandbox, client) = start().await;
    let options = BucketOptions {
        owner: Some("999988887777".to_owned()),
        requester_pays: true,
        ..BucketOptions::default()
    };
    sandbox.store().create_bucket("paid", options);
    sandbox
        .store()
        .put_object("paid", "k", Content::bytes("x"), &ObjectSpec::default());
    let head = || client.head_object().bucket("paid").key("k");
    assert_eq!(refused(head().send().await).0, 403);
    let paid = head().request_payer(aws_sdk_s3::types::RequestPayer::Requester);
    assert!(
        paid.clone()
            .send()
            .await
            .unwrap()
            .request_charged()
            .is_some()
    );
    paid.clone()
        .expected_bucket_owner("999988887777")
        .send()
        .await
        .unwrap();
    assert_eq!(
        refused(paid.expected_bucket_owner("111122223333").send().await).0,
        403
    );
    let copy = || {
        client
            .copy_object()
            .bucket("dst")
            .key("k")
            .copy_source("paid/k")
    };
    assert_eq!(refused(copy().send().await), is(403, "AccessDenied"));
    let copy = || copy().request_payer(aws_sdk_s3::types::RequestPayer::Requester);
    copy()
        .expected_source_bucket_owner("999988887777")
        .send()
        .await
        .unwrap();
    let foreign = copy()
        .expected_source_bucket_owner("111122223333")
        .send()
        .await;
    assert_eq!(refused(foreign), is(403, "AccessDenied"));
}

#[tokio::test]
async fn writes_that_s3_would_refuse() {
    let (_sandbox, client) = start().await;
    let put = || client.put_object().bucket("src").key("k");
    let acl = put()
        .acl(aws_sdk_s3::types::ObjectCannedAcl::PublicRead)
        .send()
        .await;
    assert_eq!(refused(acl), is(400, "AccessControlListNotSupported"));
    put()
        .acl(aws_sdk_s3::types::ObjectCannedAcl::BucketOwnerFullControl)
        .send()
        .await
        .unwrap();
    assert_eq!(
        refused(put().metadata("a", "x".repeat(2048)).send().await),
        is(400, "MetadataTooLarge")
    );
    let class = put()
        .storage_class(aws_sdk_s3::types::StorageClass::from("NONE"))
        .send()
        .await;
    assert_eq!(refused(class), is(400, "InvalidStorageClass"));
    let long = client
        .put_object()
        .bucket("src")
        .key("k".repeat(1025))
        .send()
        .await;
    assert_eq!(refused(long), is(400, "KeyTooLongError"));
}

#[tokio::test]
async fn a_sandbox_that_is_stopped_is_gone() {
    let (sandbox, _) = start_with(SandboxOptions {
        port: 0,
        ..SandboxOptions::default()
    })
    .await;
    let address = sandbox.url().strip_prefix("http://").unwrap().to_owned();
    tokio::net::TcpStream::connect(&address).await.unwrap();
    sandbox.stop().await;
    assert!(tokio::net::TcpStream::connect(&address).await.is_err());
}
