//! Customer keys, enabled ACLs, annotations, and headers that a write may not carry.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, ObjectCannedAcl,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use s3haul::sandbox::{BucketOptions, Content, Encryption, ObjectSpec, Operation};

use super::{is, refused, start};

const KEY: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const MD5: &str = "hRasmdxgYDKV3nvbahU1MA==";

/// The three headers of a customer key.
macro_rules! keyed {
    ($request:expr) => {
        $request
            .sse_customer_algorithm("AES256")
            .sse_customer_key(STANDARD.encode(KEY))
            .sse_customer_key_md5(MD5)
    };
}

macro_rules! from_keyed {
    ($request:expr) => {
        $request
            .copy_source_sse_customer_algorithm("AES256")
            .copy_source_sse_customer_key(STANDARD.encode(KEY))
            .copy_source_sse_customer_key_md5(MD5)
    };
}

#[tokio::test]
async fn an_object_with_a_customer_key_needs_it_every_time() {
    let (sandbox, client) = start().await;
    let put = || {
        client
            .put_object()
            .bucket("src")
            .key("k")
            .body(ByteStream::from_static(b"x"))
    };
    keyed!(put()).send().await.unwrap();
    let info = sandbox.store().object("src", "k").unwrap();
    assert_eq!(
        info.attributes.encryption,
        Encryption::Customer {
            key_md5: MD5.to_owned()
        }
    );
    assert_ne!(
        info.etag, "9dd4e461268c8034f5c8564e155c67a6",
        "no MD5 of the bytes"
    );

    let head = || client.head_object().bucket("src").key("k");
    let found = keyed!(head()).send().await.unwrap();
    assert_eq!(
        (found.sse_customer_key_md5(), found.server_side_encryption()),
        (Some(MD5), None)
    );
    assert_eq!(refused(head().send().await).0, 400);
    let other = head()
        .sse_customer_algorithm("AES256")
        .sse_customer_key(STANDARD.encode([0; 32]));
    assert_eq!(
        refused(
            other
                .sse_customer_key_md5("cLyL08c9mfvBMiMDIPoWCw==")
                .send()
                .await
        )
        .0,
        400
    );
    client
        .put_object()
        .bucket("src")
        .key("plain")
        .send()
        .await
        .unwrap();
    assert_eq!(
        refused(
            keyed!(client.head_object().bucket("src").key("plain"))
                .send()
                .await
        )
        .0,
        400
    );
    let kms = keyed!(put()).server_side_encryption("aws:kms".into());
    assert_eq!(refused(kms.send().await), is(400, "InvalidArgument"));

    let copy = || {
        client
            .copy_object()
            .bucket("dst")
            .key("k")
            .copy_source("src/k")
    };
    assert_eq!(refused(copy().send().await), is(400, "InvalidRequest"));
    from_keyed!(copy()).send().await.unwrap();
    assert_eq!(
        sandbox
            .store()
            .object("dst", "k")
            .unwrap()
            .attributes
            .encryption,
        Encryption::Aes256
    );
}

#[tokio::test]
async fn parts_need_the_key_and_complete_does_where_a_checksum_is_declared() {
    let (_sandbox, client) = start().await;
    let create = client.create_multipart_upload().bucket("dst").key("k");
    let create = keyed!(create)
        .checksum_algorithm(ChecksumAlgorithm::Crc32)
        .send()
        .await
        .unwrap();
    let id = create.upload_id().unwrap();
    let part = || {
        let request = client
            .upload_part()
            .bucket("dst")
            .key("k")
            .upload_id(id)
            .part_number(1);
        request
            .body(ByteStream::from_static(b"x"))
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
    };
    assert_eq!(refused(part().send().await), is(400, "InvalidRequest"));
    let sent = keyed!(part()).send().await.unwrap();
    let list = || client.list_parts().bucket("dst").key("k").upload_id(id);
    assert_eq!(refused(list().send().await), is(400, "InvalidRequest"));
    assert_eq!(keyed!(list()).send().await.unwrap().parts().len(), 1);
    let listed = CompletedPart::builder()
        .part_number(1)
        .set_e_tag(sent.e_tag)
        .set_checksum_crc32(sent.checksum_crc32);
    let parts = CompletedMultipartUpload::builder()
        .parts(listed.build())
        .build();
    let complete = || {
        let request = client
            .complete_multipart_upload()
            .bucket("dst")
            .key("k")
            .upload_id(id);
        request.multipart_upload(parts.clone())
    };
    assert_eq!(refused(complete().send().await), is(400, "InvalidRequest"));
    keyed!(complete()).send().await.unwrap();
}

#[tokio::test]
async fn acls_count_where_they_are_enabled() {
    let (sandbox, client) = start().await;
    sandbox.store().create_bucket(
        "acls",
        BucketOptions {
            acls: true,
            ..BucketOptions::default()
        },
    );
    let put = |key: &str| client.put_object().bucket("acls").key(key);
    put("canned")
        .acl(ObjectCannedAcl::PublicRead)
        .send()
        .await
        .unwrap();
    put("granted")
        .grant_read("id=\"a1\", id=\"a2\"")
        .grant_full_control("id=\"me\"")
        .send()
        .await
        .unwrap();
    let grants = |key: &str| {
        let request = client.get_object_acl().bucket("acls").key(key);
        async move {
            let answer = request.send().await.unwrap();
            let grants = answer.grants().iter();
            grants
                .map(|grant| grant.permission().unwrap().as_str().to_owned())
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(grants("canned").await, ["FULL_CONTROL", "READ"]);
    assert_eq!(grants("granted").await, ["FULL_CONTROL", "READ", "READ"]);
    // A copy is private unless the request says otherwise.
    client
        .copy_object()
        .bucket("acls")
        .key("copy")
        .copy_source("acls/canned")
        .send()
        .await
        .unwrap();
    assert_eq!(grants("copy").await, ["FULL_CONTROL"]);
    sandbox.store().deny("acls", Operation::PutObjectAcl, "");
    let denied = put("k").acl(ObjectCannedAcl::PublicRead).send().await;
    assert_eq!(refused(denied), is(403, "AccessDenied"));
    put("k").send().await.unwrap();
}

#[tokio::test]
async fn a_header_that_may_not_be_sent_costs_the_whole_write() {
    let (sandbox, client) = start().await;
    sandbox.store().deny("dst", Operation::PutObjectTagging, "");
    let put = || client.put_object().bucket("dst").key("k");
    assert_eq!(
        refused(put().tagging("a=b").send().await),
        is(403, "AccessDenied")
    );
    put().send().await.unwrap();
    sandbox.store().put_object(
        "src",
        "k",
        Content::bytes("x"),
        &ObjectSpec::default().tag("a", "b"),
    );
    let copy = client
        .copy_object()
        .bucket("dst")
        .key("k")
        .copy_source("src/k")
        .send()
        .await;
    assert_eq!(refused(copy), is(403, "AccessDenied"));
    let long = put()
        .metadata("a", "x".repeat(2000))
        .cache_control("x".repeat(7000))
        .send()
        .await;
    assert_eq!(refused(long), is(400, "RequestHeaderSectionTooLarge"));
}

#[tokio::test]
async fn annotations_are_written_listed_read_and_copied() {
    let (sandbox, client) = start().await;
    let etag = client
        .put_object()
        .bucket("src")
        .key("k")
        .send()
        .await
        .unwrap()
        .e_tag
        .unwrap();
    let put = |name: &str, text: &'static str| {
        let request = client
            .put_object_annotation()
            .bucket("src")
            .key("k")
            .annotation_name(name);
        request
            .annotation_payload(ByteStream::from_static(text.as_bytes()))
            .checksum_crc64_nvme("AAAAAAAAAAA=")
    };
    put("b & <c>", "größer")
        .object_if_match(&etag)
        .send()
        .await
        .unwrap();
    put("a", "1").send().await.unwrap();
    let stale = put("a", "2").object_if_match("\"0\"").send().await;
    assert_eq!(refused(stale), is(412, "PreconditionFailed"));
    assert_eq!(
        refused(put("aws-x", "1").send().await),
        is(400, "InvalidArgument")
    );
    let listed = client
        .list_object_annotations()
        .bucket("src")
        .key("k")
        .send()
        .await
        .unwrap();
    let names: Vec<_> = listed
        .annotations()
        .iter()
        .map(|entry| (entry.annotation_name(), entry.size()))
        .collect();
    assert_eq!(names, [("a", 1), ("b & <c>", 8)]);
    let get = |bucket: &str| {
        client
            .get_object_annotation()
            .bucket(bucket)
            .key("k")
            .annotation_name("b & <c>")
    };
    let text = get("src")
        .send()
        .await
        .unwrap()
        .annotation_payload
        .collect()
        .await
        .unwrap();
    assert_eq!(text.into_bytes(), "größer");

    let copy = || {
        client
            .copy_object()
            .bucket("dst")
            .key("k")
            .copy_source("src/k")
    };
    copy()
        .annotation_directive("EXCLUDE".into())
        .send()
        .await
        .unwrap();
    assert_eq!(
        refused(get("dst").send().await),
        is(404, "NoSuchAnnotation")
    );
    sandbox
        .store()
        .deny("src", Operation::GetObjectAnnotation, "");
    assert_eq!(refused(copy().send().await), is(403, "AccessDenied"));
    sandbox.store().allow_all();
    copy().send().await.unwrap();
    get("dst").send().await.unwrap();
}

#[tokio::test]
async fn expires_is_any_text() {
    let (sandbox, client) = start().await;
    sandbox
        .store()
        .put_object("src", "k", Content::bytes("x"), &ObjectSpec::default());
    let copy = client
        .copy_object()
        .bucket("dst")
        .key("k")
        .copy_source("src/k");
    let copy = copy
        .metadata_directive("REPLACE".into())
        .customize()
        .mutate_request(|request| {
            request.headers_mut().insert("expires", "never; -1");
        });
    copy.send().await.unwrap();
    let head = client
        .head_object()
        .bucket("dst")
        .key("k")
        .send()
        .await
        .unwrap();
    assert_eq!(head.expires_string(), Some("never; -1"));
}
