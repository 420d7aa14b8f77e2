//! Lists of more than one page.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use s3haul::multipart::MultipartUpload;
use s3haul::s3::Attributes;

use super::{AT_ONCE, on_server};

#[tokio::test]
async fn a_bucket_of_several_pages_is_copied_whole_and_once() {
    on_server(async |server| {
        let objects: BTreeMap<_, _> = (0..1101)
            .map(|n| (format!("dir{}/object {n}", n % 7), format!("object {n}")))
            .collect();
        stream::iter(&objects)
            .map(|(key, body)| server.put(key, body.as_bytes()))
            .buffer_unordered(AT_ONCE)
            .collect::<()>()
            .await;
        // Times are in whole seconds, and a copy counts as equal only if it is certainly younger
        // than its source.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let run = server.run(server.copy_all()).await;
        assert_eq!(run.outcome.done_objects, 1101);
        let arrived: BTreeMap<_, _> = stream::iter(server.keys(&server.destination).await)
            .map(async |key| {
                let body = server.get(&server.destination, &key).await;
                (key, String::from_utf8(body).unwrap())
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        assert_eq!(arrived, objects);
        let unrecognized = if server.capabilities().content_etags {
            0
        } else {
            server.unrecognized().await
        };
        let again = server.run(server.copy_all()).await;
        assert_eq!(
            (again.outcome.done_objects, again.outcome.skipped_objects),
            (unrecognized, 1101 - unrecognized)
        );
    })
    .await;
}

#[tokio::test]
async fn parts_are_listed_over_all_pages() {
    on_server(async |server| {
        let bucket = server.bucket(&server.destination).await;
        let key = "many parts".parse().unwrap();
        let upload = MultipartUpload::initiate(&bucket, &key, &Attributes::default())
            .await
            .unwrap();
        let sent = stream::iter(1..=1001)
            .map(|number| upload.upload_part(number, &b"x"[..]))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<_>>();
        assert_eq!(sent.await.unwrap().len(), 1001);
        let listed: Vec<_> = upload.parts().try_collect().await.unwrap();
        let mut listed: Vec<_> = listed.iter().map(|part| (part.number, part.size)).collect();
        // SeaweedFS lists a part twice if it was sent again after a lost answer.
        listed.dedup();
        assert_eq!(
            listed,
            (1..=1001).map(|number| (number, 1)).collect::<Vec<_>>()
        );
        upload.cancel().await.unwrap();
        server.assert_no_upload_is_left().await;
    })
    .await;
}

#[tokio::test]
async fn open_uploads_are_listed_by_prefix() {
    on_server(async |server| {
        let bucket = server.bucket(&server.destination).await;
        let mut begun = Vec::new();
        for key in ["in/a b+c", "in/é%2F", "in/é%2F", "out/x"] {
            let key = key.parse().unwrap();
            let upload = MultipartUpload::initiate(&bucket, &key, &Attributes::default())
                .await
                .unwrap();
            begun.push((key.to_string(), upload.id().to_owned()));
        }
        for (prefix, count) in [("in/", 3), ("", 4), ("none/", 0)] {
            let found: Vec<_> = MultipartUpload::list(&bucket, prefix)
                .try_collect()
                .await
                .unwrap();
            assert!(
                found.iter().all(|upload| upload.initiated.is_some()),
                "{found:?}"
            );
            let mut found: Vec<_> = found
                .into_iter()
                .map(|upload| (upload.key, upload.upload_id))
                .collect();
            found.sort();
            let mut expected = begun[..if count == 3 { 3 } else { begun.len() }].to_vec();
            expected.retain(|(key, _)| key.starts_with(prefix));
            expected.sort();
            assert_eq!(found, expected, "{prefix}");
            assert_eq!(found.len(), count, "{prefix}");
        }
    })
    .await;
}
