//! [`MultipartUpload`], used directly as a library.

use futures::TryStreamExt;
use s3haul::location::ObjectKey;
use s3haul::manifest::job::Provider;
use s3haul::multipart::MultipartUpload;
use s3haul::s3::{Attributes, CompleteSpec, FailureKind, SourcePin};

use super::{PART, assert_bytes, bytes, on_server};

#[tokio::test]
async fn sent_and_copied_parts_make_one_object_in_the_order_of_their_numbers() {
    on_server(async |server| {
        let source = bytes(1, 2 * PART);
        server.put("from", &source).await;
        let (from, to) = (
            server.bucket(&server.source).await,
            server.bucket(&server.destination).await,
        );
        let key: ObjectKey = "mixed".parse().unwrap();
        let from_key: ObjectKey = "from".parse().unwrap();
        let head = from.head(&from_key, None).await.unwrap();
        let pin = SourcePin {
            bucket: from.name().clone(),
            key: from_key,
            version: head.version,
            etag: head.etag,
            customer_key: None,
        };
        let upload = MultipartUpload::initiate(&to, &key, &Attributes::default())
            .await
            .unwrap();
        let (second, last) = (bytes(2, PART), bytes(3, 100));
        // Sends the last part first, and part 2 twice: the later one counts.
        let third = upload.upload_part(3, &last[..]).await.unwrap();
        let replaced = upload.upload_part(2, &bytes(9, PART)[..]).await.unwrap();
        let sent = upload.upload_part(2, &second[..]).await.unwrap();
        assert_ne!(replaced.etag, sent.etag);
        let range = 1000..=PART + 999;
        let mut done = vec![third, sent];
        let first = if server.capabilities().part_copy {
            upload.copy_part(1, &pin, Some(range), PART).await.unwrap()
        } else {
            upload
                .upload_part(1, &source[1000..usize::try_from(PART).unwrap() + 1000])
                .await
                .unwrap()
        };
        done.push(first);
        let listed: Vec<_> = upload.parts().try_collect().await.unwrap();
        let mut listed: Vec<_> = listed.iter().map(|part| (part.number, part.size)).collect();
        // SeaweedFS also lists the replaced part.
        listed.dedup();
        assert_eq!(listed, [(1, PART), (2, PART), (3, 100)]);
        let size = 2 * PART + 100;
        let written = upload
            .complete(
                &done,
                &CompleteSpec {
                    size,
                    ..CompleteSpec::default()
                },
            )
            .await
            .unwrap();
        let expected = [
            &source[1000..usize::try_from(PART).unwrap() + 1000],
            &second,
            &last,
        ]
        .concat();
        assert_bytes(
            "mixed",
            &server.get(&server.destination, "mixed").await,
            &expected,
        );
        let head = to.head(&key, None).await.unwrap();
        assert_eq!(head.size, size);
        if server.capabilities().content_etags {
            assert_eq!(head.etag, written.etag);
        }
        server.assert_no_upload_is_left().await;
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_upload_leaves_nothing() {
    on_server(async |server| {
        let bucket = server.bucket(&server.destination).await;
        let key = "cancelled".parse().unwrap();
        let upload = MultipartUpload::initiate(&bucket, &key, &Attributes::default())
            .await
            .unwrap();
        upload.upload_part(1, &bytes(1, PART)[..]).await.unwrap();
        upload.upload_part(2, &b"end"[..]).await.unwrap();
        server.assert_is_open(upload.id()).await;
        upload.cancel().await.unwrap();
        server.assert_no_upload_is_left().await;
        assert_eq!(
            bucket.head(&key, None).await.unwrap_err().kind(),
            &FailureKind::NotFound
        );
        assert_eq!(server.keys(&server.destination).await, [""; 0]);
        upload.cancel().await.expect("what is gone is gone");
        // A server without a profile may answer 500, which is retried for some seconds.
        let late = MultipartUpload::open(&bucket.for_probes(), &key, upload.id());
        let late = late.upload_part(3, &b"late"[..]).await.unwrap_err();
        let is_fault =
            server.endpoint.provider == Provider::Other && *late.kind() == FailureKind::Transient;
        assert!(
            is_fault || *late.kind() == FailureKind::NoSuchUpload,
            "{late}"
        );
        server.assert_no_upload_is_left().await;
        let complete = upload.complete(&[], &CompleteSpec::default()).await;
        assert!(complete.is_err(), "{complete:?}");
    })
    .await;
}

#[tokio::test]
async fn a_part_of_an_unknown_upload_is_refused_as_such() {
    on_server(async |server| {
        let bucket = server.bucket(&server.destination).await;
        let key = "known".parse().unwrap();
        let upload = MultipartUpload::initiate(&bucket, &key, &Attributes::default())
            .await
            .unwrap();
        let mut id = upload.id().to_owned();
        upload.cancel().await.unwrap();
        let last = id.pop().unwrap();
        id.push(if last == '0' { '1' } else { '0' });
        let other = MultipartUpload::open(&bucket, &key, id);
        let parts: Result<Vec<_>, _> = other.parts().try_collect().await;
        assert_eq!(parts.unwrap_err().kind(), &FailureKind::NoSuchUpload);
    })
    .await;
}

impl super::Server {
    async fn assert_is_open(&self, id: &str) {
        let open = self
            .sdk
            .list_multipart_uploads()
            .bucket(&self.destination)
            .send()
            .await
            .unwrap();
        let ids: Vec<_> = open
            .uploads()
            .iter()
            .filter_map(|upload| upload.upload_id())
            .collect();
        assert_eq!(ids, [id]);
    }
}
