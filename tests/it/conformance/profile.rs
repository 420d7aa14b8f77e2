//! Checks that the server does what its profile in [`Capabilities`](s3haul::s3::Capabilities)
//! promises. It may do more; s3haul does not rely on that.

use aws_sdk_s3::types::{ChecksumMode, EncodingType};
use s3haul::checksum::{md5_etag, multipart_etag};
use s3haul::location::ObjectKey;
use s3haul::multipart::MultipartUpload;
use s3haul::s3::{Attributes, Capabilities, CompleteSpec, FailureKind, SourcePin, WriteCondition};

use super::{PART, bytes, on_server};

#[tokio::test]
async fn a_source_that_is_not_the_pinned_one_is_refused() {
    on_server(async |server| {
        let Capabilities {
            copy_conditions,
            part_conditions,
            part_copy,
            ..
        } = server.capabilities();
        if !copy_conditions && !part_conditions {
            return eprintln!(
                "{:?} is not said to check the source",
                server.endpoint.provider
            );
        }
        server.put("from", &bytes(1, PART)).await;
        let (from, to) = (
            server.bucket(&server.source).await,
            server.bucket(&server.destination).await,
        );
        let key: ObjectKey = "from".parse().unwrap();
        let old = from.head(&key, None).await.unwrap();
        server.put("from", &bytes(2, PART)).await;
        let pin = SourcePin {
            bucket: from.name().clone(),
            key: key.clone(),
            version: None,
            etag: old.etag,
            customer_key: None,
        };
        let attributes = Attributes::default();
        if copy_conditions {
            let copy = to
                .copy_object(&pin, PART, &key, &attributes, WriteCondition::None)
                .await;
            assert_eq!(copy.unwrap_err().kind(), &FailureKind::PreconditionFailed);
        }
        if part_copy && part_conditions {
            let upload = MultipartUpload::initiate(&to, &key, &attributes)
                .await
                .unwrap();
            let part = upload.copy_part(1, &pin, Some(0..=99), 100).await;
            assert_eq!(part.unwrap_err().kind(), &FailureKind::PreconditionFailed);
            upload.cancel().await.unwrap();
        }
        assert_eq!(server.keys(&server.destination).await, [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn etags_follow_from_the_bytes() {
    on_server(async |server| {
        if !server.capabilities().content_etags {
            return eprintln!(
                "{:?} is not said to derive ETags from bytes",
                server.endpoint.provider
            );
        }
        let body = bytes(1, PART + 1);
        server.put("from", &body).await;
        let (from, to) = (
            server.bucket(&server.source).await,
            server.bucket(&server.destination).await,
        );
        let key: ObjectKey = "from".parse().unwrap();
        let etag = from.head(&key, None).await.unwrap().etag;
        assert_eq!(etag, md5_etag(&body));
        assert_eq!(server.run(server.copy_all()).await.outcome.done_objects, 1);
        let (first, rest) = body.split_at(usize::try_from(PART).unwrap());
        let (first, rest) = (md5_etag(first), md5_etag(rest));
        let expected = multipart_etag([first.as_str(), rest.as_str()]);
        assert_eq!(Some(to.head(&key, None).await.unwrap().etag), expected);
    })
    .await;
}

#[tokio::test]
async fn checksums_are_stored_and_returned() {
    on_server(async |server| {
        if !server.capabilities().checksums {
            return eprintln!(
                "{:?} is not said to know checksums",
                server.endpoint.provider
            );
        }
        let directory = tempfile::tempdir().unwrap();
        for (name, size) in [("small", 10), ("large", 2 * PART + 1)] {
            std::fs::write(directory.path().join(name), bytes(1, size)).unwrap();
        }
        server.run(server.upload_all(directory.path())).await;
        for key in ["small", "large"] {
            let head = server
                .sdk
                .head_object()
                .bucket(&server.destination)
                .key(key);
            let head = head
                .checksum_mode(ChecksumMode::Enabled)
                .send()
                .await
                .unwrap();
            assert!(head.checksum_crc64_nvme().is_some(), "{key}: {head:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_write_that_demands_something_of_its_key_overwrites_nothing_else() {
    on_server(async |server| {
        server.put("from", b"from").await;
        server.put("key", b"mine").await;
        let bucket = server.bucket(&server.source).await;
        let (from, key): (ObjectKey, ObjectKey) = ("from".parse().unwrap(), "key".parse().unwrap());
        let etag = bucket.head(&from, None).await.unwrap().etag;
        let pin = SourcePin {
            bucket: bucket.name().clone(),
            key: from,
            version: None,
            etag,
            customer_key: None,
        };
        let attributes = Attributes::default();
        let Capabilities {
            if_none_match,
            if_match,
            ..
        } = server.capabilities();
        for (on, condition) in [
            (if_none_match, WriteCondition::Absent),
            (
                if_match,
                WriteCondition::Matches("0123456789abcdef0123456789abcdef".to_owned()),
            ),
        ] {
            let mut refused = Vec::new();
            if on.put {
                let body = b"other"[..].into();
                refused.push(
                    bucket
                        .put_object(&key, body, &attributes, None, condition.clone())
                        .await
                        .unwrap_err(),
                );
            }
            if on.copy {
                let copy = bucket.copy_object(&pin, 4, &key, &attributes, condition.clone());
                refused.push(copy.await.unwrap_err());
            }
            if on.complete {
                let upload = MultipartUpload::initiate(&bucket, &key, &attributes)
                    .await
                    .unwrap();
                let part = upload.upload_part(1, &b"other"[..]).await.unwrap();
                let spec = CompleteSpec {
                    size: 5,
                    condition,
                    ..CompleteSpec::default()
                };
                refused.push(upload.complete(&[part], &spec).await.unwrap_err());
                upload.cancel().await.unwrap();
            }
            for failure in refused {
                assert_eq!(
                    failure.kind(),
                    &FailureKind::PreconditionFailed,
                    "{failure}"
                );
            }
        }
        assert_eq!(server.get(&server.source, "key").await, b"mine");
    })
    .await;
}

#[tokio::test]
async fn lists_are_in_the_order_of_bytes_and_encoded_on_request() {
    on_server(async |server| {
        // In the order of directories, "a/b" would come before "a b" and "a-b".
        let keys = server
            .storable(&["a", "a b", "a-b", "a/b", "a/b c", "a0", "é+%"])
            .await;
        for key in &keys {
            server.put(key, b"x").await;
        }
        let mut pages = server
            .sdk
            .list_objects_v2()
            .bucket(&server.source)
            .max_keys(2)
            .into_paginator()
            .send();
        let mut listed = Vec::new();
        while let Some(page) = pages.next().await {
            listed.extend(
                page.unwrap()
                    .contents()
                    .iter()
                    .map(|object| object.key().unwrap().to_owned()),
            );
        }
        if server.capabilities().ordered_lists {
            assert_eq!(listed, keys);
        }
        listed.sort();
        assert_eq!(listed, keys, "all of them, whatever the order");
        if server.capabilities().encoded_lists {
            let list = server
                .sdk
                .list_objects_v2()
                .bucket(&server.source)
                .encoding_type(EncodingType::Url);
            let list = list.send().await.unwrap();
            assert_eq!(list.encoding_type(), Some(&EncodingType::Url));
            let keys: Vec<_> = list
                .contents()
                .iter()
                .filter_map(|object| object.key())
                .collect();
            assert!(keys.contains(&"%C3%A9%2B%25"), "{keys:?}");
        }
    })
    .await;
}
