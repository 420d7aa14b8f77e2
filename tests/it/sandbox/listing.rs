//! Lists: order, pages, common prefixes, encoding.

use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, EncodingType, OptionalObjectAttributes};
use s3haul::sandbox::{BucketOptions, Content, Effect, Fault, ObjectSpec, Operation};

use super::{is, refused, start};
use crate::world::{SOURCE, World};

fn put_keys(sandbox: &s3haul::sandbox::Sandbox, keys: &[&str]) {
    for key in keys {
        sandbox.store().put_object(
            "src",
            key,
            Content::bytes(key.to_string()),
            &ObjectSpec::default(),
        );
    }
}

#[tokio::test]
async fn pages_follow_the_byte_order_of_keys() {
    let (sandbox, client) = start().await;
    put_keys(
        &sandbox,
        &["b", "a", "é", "Z", "\u{10000}", "\u{FFFD}", "a/1", "a/2"],
    );
    let expected = ["Z", "a", "a/1", "a/2", "b", "é", "\u{FFFD}", "\u{10000}"];
    let mut token = None;
    let mut keys = Vec::new();
    loop {
        let page = client
            .list_objects_v2()
            .bucket("src")
            .max_keys(3)
            .set_continuation_token(token)
            .send()
            .await
            .unwrap();
        assert_eq!(
            page.key_count(),
            Some(i32::try_from(page.contents().len()).unwrap())
        );
        keys.extend(
            page.contents()
                .iter()
                .map(|object| object.key().unwrap().to_owned()),
        );
        token = page.next_continuation_token().map(str::to_owned);
        assert_eq!(page.is_truncated(), Some(token.is_some()));
        if token.is_none() {
            break;
        }
    }
    assert_eq!(keys, expected);
    assert_eq!(sandbox.calls().count(Operation::ListObjectsV2), 3);
    let after = client
        .list_objects_v2()
        .bucket("src")
        .start_after("a/1")
        .send()
        .await
        .unwrap();
    assert_eq!(after.contents()[0].key(), Some("a/2"));
    let bad = client
        .list_objects_v2()
        .bucket("src")
        .continuation_token("?")
        .send()
        .await;
    assert_eq!(refused(bad), is(400, "InvalidArgument"));
}

#[tokio::test]
async fn an_entry_describes_its_object() {
    let (sandbox, client) = start().await;
    let archived = ObjectSpec::default().storage_class("GLACIER").checksum(
        s3haul::sandbox::Algorithm::Sha256,
        s3haul::sandbox::ChecksumKind::FullObject,
    );
    let mut archived = archived;
    archived.attributes.restore = Some("ongoing-request=\"true\"".to_owned());
    sandbox
        .store()
        .put_object("src", "cold", Content::bytes("x"), &archived);
    let page = client
        .list_objects_v2()
        .bucket("src")
        .optional_object_attributes(OptionalObjectAttributes::RestoreStatus)
        .fetch_owner(true)
        .send()
        .await
        .unwrap();
    let entry = &page.contents()[0];
    assert_eq!(entry.storage_class().unwrap().as_str(), "GLACIER");
    assert_eq!(entry.checksum_algorithm(), [ChecksumAlgorithm::Sha256]);
    assert_eq!(entry.checksum_type(), Some(&ChecksumType::FullObject));
    assert_eq!(
        entry.restore_status().unwrap().is_restore_in_progress(),
        Some(true)
    );
    assert_eq!(entry.owner().unwrap().id(), Some(s3haul::sandbox::OWNER));
    assert_eq!(entry.e_tag(), Some("\"9dd4e461268c8034f5c8564e155c67a6\""));
    let plain = client.list_objects_v2().bucket("src").send().await.unwrap();
    assert!(
        plain.contents()[0].restore_status().is_none() && plain.contents()[0].owner().is_none()
    );
}

#[tokio::test]
async fn prefixes_are_rolled_up_at_the_delimiter() {
    let (sandbox, client) = start().await;
    put_keys(
        &sandbox,
        &["top", "logs/1/a", "logs/1/b", "logs/2/a", "logs/x"],
    );
    let root = client
        .list_objects_v2()
        .bucket("src")
        .delimiter("/")
        .send()
        .await
        .unwrap();
    assert_eq!(root.common_prefixes()[0].prefix(), Some("logs/"));
    assert_eq!(root.contents()[0].key(), Some("top"));
    let mut seen = Vec::new();
    let mut marker = None;
    loop {
        let page = client
            .list_objects()
            .bucket("src")
            .prefix("logs/")
            .delimiter("/")
            .max_keys(1)
            .set_marker(marker)
            .send()
            .await
            .unwrap();
        seen.extend(
            page.common_prefixes()
                .iter()
                .map(|prefix| prefix.prefix().unwrap().to_owned()),
        );
        seen.extend(
            page.contents()
                .iter()
                .map(|object| object.key().unwrap().to_owned()),
        );
        marker = page.next_marker().map(str::to_owned);
        if marker.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["logs/1/", "logs/2/", "logs/x"]);
}

#[tokio::test]
async fn control_characters_need_the_url_encoding() {
    let (sandbox, client) = start().await;
    put_keys(&sandbox, &["a\u{1}b", "c d+e/é"]);
    let plain = client.list_objects_v2().bucket("src").send().await;
    assert!(plain.is_err(), "the document cannot be parsed: {plain:?}");
    let page = client
        .list_objects_v2()
        .bucket("src")
        .encoding_type(EncodingType::Url)
        .prefix("")
        .start_after("a")
        .send()
        .await
        .unwrap();
    let keys: Vec<_> = page
        .contents()
        .iter()
        .map(|object| object.key().unwrap())
        .collect();
    assert_eq!(keys, ["a%01b", "c+d%2Be/%C3%A9"]);
    assert_eq!(page.encoding_type(), Some(&EncodingType::Url));
    // Without the encoding, keys that XML can represent are unchanged.
    let page = client
        .list_objects_v2()
        .bucket("src")
        .prefix("c")
        .send()
        .await
        .unwrap();
    assert_eq!(page.contents()[0].key(), Some("c d+e/é"));
}

#[tokio::test]
async fn versions_are_paged_newest_first_within_a_key() {
    let (sandbox, client) = start().await;
    sandbox.store().create_bucket(
        "ver",
        BucketOptions {
            versioning: true,
            ..BucketOptions::default()
        },
    );
    for key in ["a", "b"] {
        for text in ["1", "2"] {
            sandbox
                .store()
                .put_object("ver", key, Content::bytes(text), &ObjectSpec::default());
        }
    }
    sandbox.store().delete_object("ver", "a");
    let mut seen = Vec::new();
    let (mut key, mut version) = (None, None);
    loop {
        let page = client
            .list_object_versions()
            .bucket("ver")
            .max_keys(2)
            .set_key_marker(key)
            .set_version_id_marker(version)
            .send()
            .await
            .unwrap();
        let versions = page.versions().iter().map(|version| {
            let etag = version.e_tag().unwrap().trim_matches('"').to_owned();
            (
                version.key().unwrap().to_owned(),
                etag,
                version.is_latest().unwrap(),
            )
        });
        let markers = page.delete_markers().iter().map(|marker| {
            (
                marker.key().unwrap().to_owned(),
                "marker".to_owned(),
                marker.is_latest().unwrap(),
            )
        });
        seen.extend(markers.chain(versions));
        (key, version) = (
            page.next_key_marker().map(str::to_owned),
            page.next_version_id_marker().map(str::to_owned),
        );
        if page.is_truncated() != Some(true) {
            break;
        }
    }
    let (one, two) = (
        "c4ca4238a0b923820dcc509a6f75849b",
        "c81e728d9d4c2f636f067f89cc14862c",
    );
    let expected = [
        ("a", "marker", true),
        ("a", two, false),
        ("a", one, false),
        ("b", two, true),
        ("b", one, false),
    ]
    .map(|(key, tag, latest)| (key.to_owned(), tag.to_owned(), latest));
    assert_eq!(seen, expected);
    // A key behind a delete marker is not listed.
    let current = client.list_objects_v2().bucket("ver").send().await.unwrap();
    assert_eq!(current.contents().len(), 1);
}

/// The SDK separates versions and markers; the document has both in one sequence.
#[tokio::test]
async fn versions_and_markers_are_written_as_they_follow_each_other() {
    let world = World::versioned().await;
    let (store, key) = (world.sandbox.store(), "<Version>&");
    let put = || store.put_object(SOURCE, key, Content::bytes("1"), &ObjectSpec::default());
    let first = put();
    store.delete_object(SOURCE, key);
    let second = put();
    store.delete_object(SOURCE, key);
    let page = world
        .bucket(SOURCE)
        .await
        .list_versions("", None)
        .await
        .unwrap();
    let seen: Vec<_> = page
        .items
        .iter()
        .map(|entry| (entry.is_marker, entry.is_latest, entry.key.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            (true, true, key),
            (false, false, key),
            (true, false, key),
            (false, false, key)
        ]
    );
    assert_eq!(Some(&page.items[1].id), second.version_id.as_ref());
    assert_eq!(Some(&page.items[3].id), first.version_id.as_ref());
}

#[tokio::test]
async fn open_uploads_are_paged_by_key_and_initiation() {
    let (sandbox, client) = start().await;
    let mut ids = Vec::new();
    for key in ["b", "a", "a", "c/x", "c/y"] {
        let upload = client
            .create_multipart_upload()
            .bucket("src")
            .key(key)
            .send()
            .await
            .unwrap();
        ids.push(upload.upload_id().unwrap().to_owned());
    }
    let expected = [
        ("a", &ids[1]),
        ("a", &ids[2]),
        ("b", &ids[0]),
        ("c/x", &ids[3]),
        ("c/y", &ids[4]),
    ]
    .map(|(key, id)| (key.to_owned(), id.clone()));
    for size in 1..=6 {
        let mut seen = Vec::new();
        let (mut key, mut id) = (None, None);
        loop {
            let page = client
                .list_multipart_uploads()
                .bucket("src")
                .max_uploads(size)
                .set_key_marker(key)
                .set_upload_id_marker(id)
                .send()
                .await
                .unwrap();
            seen.extend(page.uploads().iter().map(|upload| {
                (
                    upload.key().unwrap().to_owned(),
                    upload.upload_id().unwrap().to_owned(),
                )
            }));
            if page.is_truncated() != Some(true) {
                break;
            }
            key = page.next_key_marker().map(str::to_owned);
            id = page.next_upload_id_marker().map(str::to_owned);
        }
        assert_eq!(seen, expected, "pages of {size}");
    }
    let rolled = client
        .list_multipart_uploads()
        .bucket("src")
        .delimiter("/")
        .prefix("c")
        .send()
        .await
        .unwrap();
    assert_eq!(rolled.common_prefixes()[0].prefix(), Some("c/"));
    assert!(rolled.uploads().is_empty());
    assert_eq!(sandbox.store().open_uploads("src").len(), 5);
}

#[tokio::test]
async fn a_page_of_a_large_bucket_costs_a_page() {
    let (sandbox, client) = start().await;
    for at in 0..50_000 {
        let key = format!("dir{}/{at:06}", at % 50);
        sandbox
            .store()
            .put_object("src", &key, Content::empty(), &ObjectSpec::default());
    }
    let started = std::time::Instant::now();
    for _ in 0..10 {
        let page = client
            .list_objects_v2()
            .bucket("src")
            .delimiter("/")
            .send()
            .await
            .unwrap();
        assert_eq!(page.common_prefixes().len(), 50);
    }
    // In a debug build, a walk over all keys takes far longer.
    assert!(
        started.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    sandbox
        .faults()
        .add(Fault::on(Operation::ListObjectsV2).then(Effect::SlowDown));
    assert_eq!(
        refused(client.list_objects_v2().bucket("src").send().await),
        is(503, "SlowDown")
    );
}
