//! Copies inside the server: all sizes by both routes, difficult keys, and second runs.

use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{DEFAULT_ENDPOINT, Source, When};
use s3haul::multipart::MultipartUpload;
use s3haul::s3::{Attributes, CompleteSpec};
use s3haul::size::MIB;

use super::{PART, Server, a_second_later, assert_bytes, bytes, on_server};

#[tokio::test]
async fn every_size_arrives_equal_by_the_route_that_its_size_demands() {
    on_server(async |server| {
        let sizes = [
            ("o0", 0, 0),
            ("o1", 1, 0),
            ("part", PART, 0),
            ("part+1", PART + 1, 2),
            ("o17", 17 * MIB, 4),
        ];
        for (key, size, _) in sizes {
            server.put(key, &bytes(size, size)).await;
        }
        let run = server.run(server.copy_all()).await;
        for (key, size, parts) in sizes {
            let receipt = run.receipt(key);
            let route = if parts == 0 { "copy" } else { "multipart-copy" };
            let expected = if server.capabilities().part_copy {
                (route, parts)
            } else {
                ("copy", 0)
            };
            assert_eq!(
                (receipt.route.unwrap(), receipt.parts, receipt.size),
                (expected.0, expected.1, size),
                "{key}"
            );
            server.assert_equal(key, key).await;
        }
        server.assert_no_upload_is_left().await;
    })
    .await;
}

#[tokio::test]
async fn a_source_that_was_uploaded_in_parts_arrives_equal() {
    on_server(async |server| {
        // The source has another part size than the copy, so ranges cross the boundaries of its
        // parts.
        let body = bytes(1, 13 * MIB);
        let bucket = server.bucket(&server.source).await;
        let key = "parts".parse().unwrap();
        let upload = MultipartUpload::initiate(&bucket, &key, &Attributes::default())
            .await
            .unwrap();
        let mut parts = Vec::new();
        for (number, part) in (1..).zip(body.chunks(usize::try_from(6 * MIB).unwrap())) {
            parts.push(upload.upload_part(number, part).await.unwrap());
        }
        let spec = CompleteSpec {
            size: 13 * MIB,
            ..CompleteSpec::default()
        };
        upload.complete(&parts, &spec).await.unwrap();
        assert_bytes("parts", &server.get(&server.source, "parts").await, &body);
        for (threshold, to) in [(PART, "in-parts/"), (100 * MIB, "at-once/")] {
            let mut transfer = server.copy_all();
            transfer.parts.threshold.0 = threshold;
            transfer.to.location = Server::location(&server.destination, to);
            assert_eq!(server.run(transfer).await.outcome.done_objects, 1);
            server.assert_equal("parts", &format!("{to}parts")).await;
        }
    })
    .await;
}

/// Keys with characters that have a meaning in a URL, a query, or a form.
const ODD_KEYS: [&str; 9] = [
    "with space",
    "a+b",
    "100%",
    "%2F",
    "a%20b",
    "what?versionId=1",
    "ünï/日本 🚀",
    "a&b=c;d#e",
    "quotes'\"<>",
];

#[tokio::test]
async fn odd_keys_arrive_under_their_names_by_both_routes() {
    on_server(async |server| {
        for (seed, key) in (0..).zip(ODD_KEYS) {
            server.put(key, key.as_bytes()).await;
            server
                .put(&format!("large/{key}"), &bytes(seed, PART + 1))
                .await;
        }
        let run = server.run(server.copy_all()).await;
        assert_eq!(run.outcome.done_objects, 2 * ODD_KEYS.len() as u64);
        let source = server.keys(&server.source).await;
        assert_eq!(server.keys(&server.destination).await, source);
        for key in source {
            server.assert_equal(&key, &key).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_second_run_copies_nothing_and_an_overwritten_source_is_copied_again() {
    on_server(async |server| {
        // Some servers list keys in this order of directories instead of the order of bytes.
        let small = server.storable(&["a", "a/b", "a b", "a-b"]).await;
        for (seed, key) in (1..).zip(&small) {
            server.put(key, &bytes(seed, 100)).await;
        }
        server.put("large", &bytes(9, PART + 1)).await;
        a_second_later().await;
        let all = small.len() as u64 + 1;
        assert_eq!(
            server.run(server.copy_all()).await.outcome.done_objects,
            all
        );
        let content_etags = server.capabilities().content_etags;
        let unrecognized = if content_etags {
            0
        } else {
            server.unrecognized().await
        };
        let again = server.run(server.copy_all()).await;
        assert_eq!(
            (again.outcome.done_objects, again.outcome.skipped_objects),
            (unrecognized, all - unrecognized),
            "{:?}",
            again.receipts
        );
        // The new objects have the old sizes, so that sizes do not show the change.
        server.put("a b", &bytes(11, 100)).await;
        server.put("large", &bytes(19, PART + 1)).await;
        server.put("new", b"new").await;
        let changed = if content_etags {
            3
        } else {
            server.unrecognized().await
        };
        assert!((3..=3 + unrecognized).contains(&changed), "{changed}");
        let third = server.run(server.copy_all()).await;
        assert_eq!(
            (third.outcome.done_objects, third.outcome.skipped_objects),
            (changed, all + 1 - changed),
            "{:?}",
            third.receipts
        );
        for key in server.keys(&server.source).await {
            server.assert_equal(&key, &key).await;
        }
    })
    .await;
}

#[tokio::test]
async fn when_missing_leaves_what_is_there() {
    on_server(async |server| {
        let keys = server.storable(&["a", "a/b", "a b", "large"]).await;
        for key in &keys {
            let key = *key;
            server
                .put(key, &bytes(1, if key == "large" { PART + 1 } else { 10 }))
                .await;
            let there = server.sdk.put_object().bucket(&server.destination).key(key);
            there.body(b"mine".to_vec().into()).send().await.unwrap();
        }
        server.put("z", b"z").await;
        let mut transfer = server.copy_all();
        transfer.when = When::Missing;
        let run = server.run(transfer).await;
        assert_eq!(
            (run.outcome.done_objects, run.outcome.skipped_objects),
            (1, keys.len() as u64),
            "{:?}",
            run.receipts
        );
        for key in keys {
            assert_eq!(server.get(&server.destination, key).await, b"mine", "{key}");
        }
    })
    .await;
}

#[tokio::test]
async fn one_object_goes_to_the_key_that_is_named() {
    on_server(async |server| {
        server.put("from/here", &bytes(1, PART + 1)).await;
        let location = Server::location(&server.source, "from/here");
        let mut transfer = server.transfer(Source::Object {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            location,
            version: None,
        });
        transfer.to.location = Server::location(&server.destination, "to/there");
        let run = server.run(transfer).await;
        assert!(matches!(
            run.receipt("to/there").ending,
            Ending::Done { .. }
        ));
        server.assert_equal("from/here", "to/there").await;
    })
    .await;
}
