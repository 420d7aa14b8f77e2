//! Attributes of copies, which must not depend on the route.

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::types::StorageClass;

use s3haul::manifest::job::{Attribute, SetValues};

use super::{PART, Server, bytes, on_server};

const EXPIRES: &str = "Thu, 01 Jan 2032 00:00:00 GMT";

/// The attributes in a HEAD that a copy keeps.
#[derive(Debug, PartialEq)]
struct Kept {
    content: [Option<String>; 6],
    metadata: Vec<(String, String)>,
    storage_class: Option<String>,
    tags: Vec<(String, String)>,
}

fn rich(server: &Server, key: &str, size: u64) -> PutObjectFluentBuilder {
    let request = server
        .sdk
        .put_object()
        .bucket(&server.source)
        .key(key)
        .body(bytes(size, size).into())
        .content_type("text/csv")
        .content_encoding("zstd")
        .content_language("de")
        .content_disposition("attachment; filename=\"a b.csv\"")
        .cache_control("no-cache")
        .metadata("owner", "data team")
        .metadata("purpose", "a=b; c?d%20+");
    if server.capabilities().tags {
        request.tagging("stage=raw%20%3A%20unsorted&class=A%2BB")
    } else {
        request
    }
}

/// Puts a rich object. Gives it a storage class if the server has one besides the default, and
/// returns whether it has.
async fn put_rich(server: &Server, key: &str, size: u64) -> bool {
    let with_expires = |request: PutObjectFluentBuilder| {
        request.customize().mutate_request(|request| {
            request.headers_mut().insert("expires", EXPIRES);
        })
    };
    let request = rich(server, key, size).storage_class(StorageClass::StandardIa);
    if with_expires(request).send().await.is_ok() {
        return true;
    }
    with_expires(rich(server, key, size)).send().await.unwrap();
    false
}

async fn kept(server: &Server, bucket: &str, key: &str) -> Kept {
    let head: HeadObjectOutput = server
        .sdk
        .head_object()
        .bucket(bucket)
        .key(key)
        .send()
        .await
        .unwrap();
    let mut metadata: Vec<_> = head.metadata.unwrap_or_default().into_iter().collect();
    metadata.sort();
    let mut tags = Vec::new();
    if server.capabilities().tags {
        match server
            .sdk
            .get_object_tagging()
            .bucket(bucket)
            .key(key)
            .send()
            .await
        {
            Ok(answer) => tags.extend(answer.tag_set.into_iter().map(|tag| (tag.key, tag.value))),
            // Ceph answers with this error if an object has no tags.
            Err(error) => {
                assert_eq!(
                    error.raw_response().unwrap().body().bytes(),
                    Some(&[][..]),
                    "{error:?}"
                );
            }
        }
        tags.sort();
    }
    Kept {
        content: [
            head.content_type,
            head.content_encoding,
            head.content_language,
            head.content_disposition,
            head.cache_control,
            head.expires_string,
        ],
        metadata,
        storage_class: head.storage_class.map(|class| class.as_str().to_owned()),
        tags,
    }
}

#[tokio::test]
async fn metadata_headers_tags_and_class_are_kept_by_both_routes() {
    on_server(async |server| {
        let mut has_classes = true;
        for (key, size) in [("small", 10), ("large", PART + 1)] {
            has_classes &= put_rich(server, key, size).await;
        }
        let run = server.run(server.copy_all()).await;
        for key in ["small", "large"] {
            let source = kept(server, &server.source, key).await;
            assert_eq!(source.content[0].as_deref(), Some("text/csv"));
            // rclone cannot store it, so there is nothing to copy.
            assert!(
                source.content[5]
                    .as_deref()
                    .is_none_or(|expires| expires == EXPIRES),
                "{source:?}"
            );
            assert_eq!(source.metadata.len(), 2);
            assert_eq!(
                source.tags.len(),
                if server.capabilities().tags { 2 } else { 0 }
            );
            assert_eq!(
                source.storage_class.as_deref() == Some("STANDARD_IA"),
                has_classes
            );
            let mut copy = kept(server, &server.destination, key).await;
            // rclone adds its own modification time to the metadata.
            copy.metadata
                .retain(|(name, _)| source.metadata.iter().any(|(known, _)| known == name));
            assert_eq!(copy, source, "{key}");
            assert_eq!(run.receipt(key).losses, [], "{key}");
            server.assert_equal(key, key).await;
        }
    })
    .await;
}

/// If a server ignores a requested attribute, s3haul notices: each difference is a loss on the
/// receipt, and nothing else is.
#[tokio::test]
async fn what_is_asked_for_arrives_or_is_a_loss_on_the_receipt() {
    on_server(async |server| {
        let text = |value: &str| Some(value.to_owned());
        let mut transfer = server.copy_all();
        transfer.set = SetValues {
            content_type: text("text/csv"),
            content_encoding: text("zstd"),
            content_language: text("de"),
            content_disposition: text("attachment"),
            cache_control: text("no-cache"),
            metadata: [("owner".to_owned(), "data team".to_owned())].into(),
            ..SetValues::default()
        };
        for (key, size) in [("small", 10), ("large", PART + 1)] {
            server.put(key, &bytes(size, size)).await;
        }
        let run = server.run(transfer).await;
        for key in ["small", "large"] {
            let found = kept(server, &server.destination, key).await;
            let asked = ["text/csv", "zstd", "de", "attachment", "no-cache"].map(Some);
            let is_lost = found.content[..5]
                .iter()
                .zip(asked)
                .any(|(found, asked)| found.as_deref() != asked);
            let lost_headers = is_lost.then_some(Attribute::Headers);
            let has_metadata = found
                .metadata
                .contains(&("owner".to_owned(), "data team".to_owned()));
            let lost_metadata = (!has_metadata).then_some(Attribute::Metadata);
            let lost: Vec<_> = lost_metadata.into_iter().chain(lost_headers).collect();
            let losses: Vec<_> = run
                .receipt(key)
                .losses
                .iter()
                .map(|loss| loss.attribute)
                .collect();
            assert_eq!(losses, lost, "{key} {found:?}");
        }
    })
    .await;
}
