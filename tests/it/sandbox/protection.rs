//! Object Lock, archives, and ACLs.

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::StorageClass;
use s3haul::sandbox::{BucketOptions, Content, ObjectSpec};

use super::{is, refused, start};

#[tokio::test]
async fn archived_sources_must_be_restored() {
    let (sandbox, client) = start().await;
    let cold = ObjectSpec::default().storage_class("DEEP_ARCHIVE");
    sandbox
        .store()
        .put_object("src", "cold", Content::bytes("x"), &cold);
    let mut restored = cold.clone();
    restored.attributes.restore = Some("ongoing-request=\"false\", expiry-date=\"x\"".to_owned());
    sandbox
        .store()
        .put_object("src", "restored", Content::bytes("x"), &restored);
    let copy = |key: &str| {
        client
            .copy_object()
            .bucket("dst")
            .key("k")
            .copy_source(format!("src/{key}"))
            .send()
    };
    assert_eq!(refused(copy("cold").await), is(403, "InvalidObjectState"));
    assert_eq!(
        refused(client.get_object().bucket("src").key("cold").send().await),
        is(403, "InvalidObjectState")
    );
    copy("restored").await.unwrap();
    let head = client
        .head_object()
        .bucket("src")
        .key("restored")
        .send()
        .await
        .unwrap();
    assert!(
        head.restore()
            .unwrap()
            .contains("ongoing-request=\"false\"")
    );
}

#[tokio::test]
async fn locks_are_kept_and_never_copied() {
    let (sandbox, client) = start().await;
    sandbox.store().create_bucket(
        "lock",
        BucketOptions {
            object_lock: true,
            ..BucketOptions::default()
        },
    );
    let until = DateTime::from_secs(4_000_000_000);
    let put = |bucket: &str, until| {
        client
            .put_object()
            .bucket(bucket)
            .key("k")
            .object_lock_mode(aws_sdk_s3::types::ObjectLockMode::Governance)
            .object_lock_retain_until_date(until)
            .object_lock_legal_hold_status(aws_sdk_s3::types::ObjectLockLegalHoldStatus::On)
            .send()
    };
    let written = put("lock", until).await.unwrap();
    assert_eq!(
        refused(put("lock", DateTime::from_secs(1)).await),
        is(400, "InvalidArgument")
    );
    assert_eq!(refused(put("src", until).await), is(400, "InvalidRequest"));
    let head = client
        .head_object()
        .bucket("lock")
        .key("k")
        .send()
        .await
        .unwrap();
    assert_eq!(head.object_lock_retain_until_date(), Some(&until));
    assert_eq!(head.object_lock_legal_hold_status().unwrap().as_str(), "ON");
    let delete = client
        .delete_object()
        .bucket("lock")
        .key("k")
        .version_id(written.version_id().unwrap());
    assert_eq!(refused(delete.send().await), is(403, "AccessDenied"));
    client
        .copy_object()
        .bucket("lock")
        .key("copy")
        .copy_source("lock/k")
        .send()
        .await
        .unwrap();
    assert_eq!(
        sandbox
            .store()
            .object("lock", "copy")
            .unwrap()
            .attributes
            .lock,
        s3haul::sandbox::Lock::default()
    );
}

#[tokio::test]
async fn retention_and_holds_are_read_and_changed() {
    let (sandbox, client) = start().await;
    let retention = Some(("GOVERNANCE".to_owned(), 30));
    let options = BucketOptions {
        object_lock: true,
        retention,
        ..BucketOptions::default()
    };
    sandbox.store().create_bucket("lock", options);
    client
        .put_object()
        .bucket("lock")
        .key("k")
        .send()
        .await
        .unwrap();
    let get = || client.get_object_retention().bucket("lock").key("k").send();
    let default = get().await.unwrap().retention.unwrap();
    assert_eq!(default.mode().unwrap().as_str(), "GOVERNANCE");
    let until = DateTime::from_secs(4_000_000_000);
    let put = |mode: &str, until| {
        let retention = aws_sdk_s3::types::ObjectLockRetention::builder()
            .mode(mode.into())
            .retain_until_date(until);
        client
            .put_object_retention()
            .bucket("lock")
            .key("k")
            .retention(retention.build())
    };
    put("GOVERNANCE", until).send().await.unwrap();
    let shorter = || put("GOVERNANCE", DateTime::from_secs(3_900_000_000));
    assert_eq!(refused(shorter().send().await), is(403, "AccessDenied"));
    shorter()
        .bypass_governance_retention(true)
        .send()
        .await
        .unwrap();
    put("COMPLIANCE", until)
        .bypass_governance_retention(true)
        .send()
        .await
        .unwrap();
    assert_eq!(
        refused(shorter().bypass_governance_retention(true).send().await),
        is(403, "AccessDenied")
    );

    let hold = || {
        client
            .get_object_legal_hold()
            .bucket("lock")
            .key("k")
            .send()
    };
    assert_eq!(
        refused(hold().await),
        is(404, "NoSuchObjectLockConfiguration")
    );
    let on = aws_sdk_s3::types::ObjectLockLegalHold::builder()
        .status("ON".into())
        .build();
    client
        .put_object_legal_hold()
        .bucket("lock")
        .key("k")
        .legal_hold(on)
        .send()
        .await
        .unwrap();
    assert_eq!(
        hold()
            .await
            .unwrap()
            .legal_hold
            .unwrap()
            .status
            .unwrap()
            .as_str(),
        "ON"
    );

    let configuration = |bucket: &str| client.get_object_lock_configuration().bucket(bucket).send();
    let rule = configuration("lock")
        .await
        .unwrap()
        .object_lock_configuration
        .unwrap()
        .rule
        .unwrap();
    assert_eq!(rule.default_retention.unwrap().days(), Some(30));
    assert_eq!(
        refused(configuration("src").await),
        is(404, "ObjectLockConfigurationNotFoundError")
    );
    sandbox
        .store()
        .put_object("src", "k", Content::empty(), &ObjectSpec::default());
    let plain = client
        .get_object_retention()
        .bucket("src")
        .key("k")
        .send()
        .await;
    assert_eq!(refused(plain), is(400, "InvalidRequest"));
    let acl = client
        .get_object_acl()
        .bucket("src")
        .key("k")
        .send()
        .await
        .unwrap();
    assert_eq!(
        acl.grants()[0].permission().unwrap().as_str(),
        "FULL_CONTROL"
    );
}

#[tokio::test]
async fn archived_objects_are_restored() {
    let (sandbox, client) = start().await;
    let cold = ObjectSpec::default().storage_class("GLACIER");
    sandbox
        .store()
        .put_object("src", "cold", Content::bytes("x"), &cold);
    sandbox
        .store()
        .put_object("src", "warm", Content::bytes("x"), &ObjectSpec::default());
    let restore = |key: &str| {
        let request = aws_sdk_s3::types::RestoreRequest::builder().days(3).build();
        client
            .restore_object()
            .bucket("src")
            .key(key)
            .restore_request(request)
            .send()
    };
    assert_eq!(
        refused(restore("warm").await),
        is(403, "ObjectAlreadyInActiveTierError")
    );
    restore("cold").await.unwrap();
    assert_eq!(
        refused(restore("cold").await),
        is(409, "RestoreAlreadyInProgress")
    );
    let calls = sandbox
        .calls()
        .of(s3haul::sandbox::Operation::RestoreObject);
    assert_eq!(calls[1].status, Some(202));
    let copy = || {
        client
            .copy_object()
            .bucket("dst")
            .key("k")
            .copy_source("src/cold")
            .send()
    };
    assert_eq!(refused(copy().await), is(403, "InvalidObjectState"));
    sandbox.store().finish_restores("src");
    copy().await.unwrap();
    restore("cold").await.unwrap();
    let head = client
        .head_object()
        .bucket("src")
        .key("cold")
        .send()
        .await
        .unwrap();
    assert!(
        head.restore().unwrap().ends_with(" GMT\""),
        "{:?}",
        head.restore()
    );
    assert_eq!(head.storage_class(), Some(&StorageClass::Glacier));
}
