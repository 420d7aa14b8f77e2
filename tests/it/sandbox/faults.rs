//! Scripted faults as a client sees them, the record of calls, and the latency model.

use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use s3haul::sandbox::{
    Content, Effect, Fault, LatencyModel, Model, ObjectSpec, Operation, RateModel, Sandbox,
    SandboxOptions,
};

use super::{is, refused, start, start_with};

async fn struck(effect: Effect) -> (Sandbox, Client) {
    let (sandbox, client) = start().await;
    sandbox.store().put_object(
        "src",
        "k",
        Content::bytes("123456789"),
        &ObjectSpec::default(),
    );
    sandbox.faults().add(
        Fault::on(Operation::CopyObject)
            .key("k")
            .nth(1)
            .then(effect),
    );
    (sandbox, client)
}

fn copy(client: &Client) -> aws_sdk_s3::operation::copy_object::builders::CopyObjectFluentBuilder {
    client
        .copy_object()
        .bucket("dst")
        .key("k")
        .copy_source("src/k")
}

/// Returns true if the copy was made.
fn is_copied(sandbox: &Sandbox) -> bool {
    sandbox.store().object("dst", "k").is_some()
}

#[tokio::test]
async fn errors_before_and_after_the_effect() {
    let (sandbox, client) = struck(Effect::Error(500, "InternalError")).await;
    assert_eq!(
        refused(copy(&client).send().await),
        is(500, "InternalError")
    );
    assert!(!is_copied(&sandbox));
    copy(&client).send().await.unwrap();
    assert_eq!(sandbox.faults().fired(), 1);

    let (sandbox, client) = struck(Effect::ErrorAfterEffect(503, "ServiceUnavailable")).await;
    assert_eq!(
        refused(copy(&client).send().await),
        is(503, "ServiceUnavailable")
    );
    assert!(is_copied(&sandbox));

    let (sandbox, client) = struck(Effect::SlowDown).await;
    assert_eq!(refused(copy(&client).send().await), is(503, "SlowDown"));
    assert!(!is_copied(&sandbox));
}

#[tokio::test]
async fn errors_inside_of_a_success() {
    let (sandbox, client) = struck(Effect::error_in_200("InternalError")).await;
    assert_eq!(
        refused(copy(&client).send().await),
        is(200, "InternalError")
    );
    assert!(!is_copied(&sandbox));
    let call = &sandbox.calls().of(Operation::CopyObject)[0];
    assert_eq!(
        (call.status, call.code.as_deref()),
        (Some(200), Some("InternalError"))
    );

    let effect = Effect::ErrorIn200 {
        code: "SlowDown",
        after_effect: true,
        blanks: 50,
    };
    let (sandbox, client) = struck(effect).await;
    assert_eq!(refused(copy(&client).send().await), is(200, "SlowDown"));
    assert!(is_copied(&sandbox));
}

#[tokio::test]
async fn blanks_before_the_document_of_a_success() {
    let (_sandbox, client) = struck(Effect::Blanks {
        count: 100,
        before_declaration: false,
    })
    .await;
    assert!(
        copy(&client)
            .send()
            .await
            .unwrap()
            .copy_object_result()
            .is_some()
    );
    // Blanks in front of the XML declaration are not XML, and parsers see no document.
    let (sandbox, client) = struck(Effect::Blanks {
        count: 100,
        before_declaration: true,
    })
    .await;
    assert!(copy(&client).send().await.is_err());
    assert!(is_copied(&sandbox));
}

#[tokio::test]
async fn connections_that_close_without_an_answer() {
    for (effect, done) in [(Effect::ResetBefore, false), (Effect::ResetAfter, true)] {
        let (sandbox, client) = struck(effect).await;
        let error = copy(&client).send().await.unwrap_err();
        assert!(matches!(error, SdkError::DispatchFailure(_)), "{error:?}");
        assert_eq!(is_copied(&sandbox), done);
        assert_eq!(sandbox.calls().of(Operation::CopyObject)[0].status, None);
    }
}

#[tokio::test]
async fn silence_before_and_after_the_effect() {
    for (effect, done) in [
        (Effect::StallBefore(None), false),
        (Effect::StallAfter(None), true),
    ] {
        let (sandbox, client) = struck(effect).await;
        let timeout = tokio::time::timeout(Duration::from_millis(300), copy(&client).send()).await;
        assert!(timeout.is_err());
        assert_eq!(is_copied(&sandbox), done);
    }
    for effect in [
        Effect::StallBefore(Some(Duration::from_millis(200))),
        Effect::StallAfter(Some(Duration::from_millis(200))),
        Effect::Delay(Duration::from_millis(200)),
    ] {
        let (sandbox, client) = struck(effect).await;
        let started = Instant::now();
        copy(&client).send().await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(200));
        assert!(is_copied(&sandbox));
    }
}

#[tokio::test]
async fn answers_cut_short_or_empty() {
    let (sandbox, client) = struck(Effect::TruncateBody).await;
    let error = copy(&client).send().await.unwrap_err();
    assert!(error.code().is_none(), "{error:?}");
    assert!(is_copied(&sandbox));

    let (sandbox, client) = struck(Effect::EmptyBody).await;
    assert!(
        copy(&client)
            .send()
            .await
            .unwrap()
            .copy_object_result()
            .is_none()
    );
    assert!(is_copied(&sandbox));

    // A download that breaks off.
    let (sandbox, client) = start().await;
    sandbox.store().put_object(
        "src",
        "big",
        Content::pattern(1, 3_000_000),
        &ObjectSpec::default(),
    );
    sandbox.faults().add(
        Fault::on(Operation::GetObject)
            .nth(1)
            .then(Effect::TruncateBody),
    );
    let get = || client.get_object().bucket("src").key("big").send();
    let got = get().await.unwrap();
    assert_eq!(got.content_length(), Some(3_000_000));
    assert!(got.body.collect().await.is_err());
    assert_eq!(
        get()
            .await
            .unwrap()
            .body
            .collect()
            .await
            .unwrap()
            .into_bytes()
            .len(),
        3_000_000
    );
}

#[tokio::test]
async fn a_hook_changes_the_source_in_the_middle_of_a_copy() {
    let (sandbox, client) = start().await;
    let old = sandbox.store().put_object(
        "src",
        "k",
        Content::pattern(1, 20 << 20),
        &ObjectSpec::default(),
    );
    let overwrite = Effect::hook(|store| {
        store.put_object(
            "src",
            "k",
            Content::pattern(2, 20 << 20),
            &ObjectSpec::default(),
        );
    });
    sandbox
        .faults()
        .add(Fault::on(Operation::UploadPartCopy).nth(2).then(overwrite));
    let upload = client
        .create_multipart_upload()
        .bucket("dst")
        .key("k")
        .send()
        .await
        .unwrap();
    let part = |number: i32| {
        let from = (number - 1) * (10 << 20);
        let call = client
            .upload_part_copy()
            .bucket("dst")
            .key("k")
            .upload_id(upload.upload_id().unwrap());
        let call = call
            .part_number(number)
            .copy_source("src/k")
            .copy_source_if_match(&old.etag);
        call.copy_source_range(format!("bytes={from}-{}", from + (10 << 20) - 1))
            .send()
    };
    part(1).await.unwrap();
    assert_eq!(refused(part(2).await), is(412, "PreconditionFailed"));
}

#[tokio::test]
async fn an_upload_that_is_refused_hears_the_answer() {
    let (sandbox, client) = start().await;
    sandbox
        .faults()
        .add(Fault::on(Operation::PutObject).then(Effect::SlowDown));
    let body = Content::pattern_bytes(1, 20 << 20).to_bytes();
    for _ in 0..3 {
        let put = client
            .put_object()
            .bucket("src")
            .key("k")
            .body(ByteStream::from(body.clone()))
            .send()
            .await;
        assert_eq!(refused(put), is(503, "SlowDown"));
    }
}

#[tokio::test]
async fn calls_are_recorded() {
    let (sandbox, client) = start().await;
    sandbox.store().put_object(
        "src",
        "a/b",
        Content::pattern(1, 100),
        &ObjectSpec::default(),
    );
    let upload = client
        .create_multipart_upload()
        .bucket("dst")
        .key("x")
        .send()
        .await
        .unwrap();
    let id = upload.upload_id().unwrap();
    let part = client
        .upload_part_copy()
        .bucket("dst")
        .key("x")
        .upload_id(id)
        .part_number(3);
    part.copy_source("src/a/b")
        .copy_source_range("bytes=10-29")
        .send()
        .await
        .unwrap();
    client
        .upload_part()
        .bucket("dst")
        .key("x")
        .upload_id(id)
        .part_number(4)
        .body(ByteStream::from_static(b"12345"))
        .send()
        .await
        .unwrap();
    let _ = client.head_object().bucket("src").key("none").send().await;
    let calls = sandbox.calls().list();
    let seen: Vec<_> = calls
        .iter()
        .map(|call| {
            (
                call.operation,
                call.key.as_str(),
                call.part_number,
                call.copied_bytes,
                call.uploaded_bytes,
                call.status,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (Operation::CreateMultipartUpload, "x", None, 0, 0, Some(200)),
            (Operation::UploadPartCopy, "x", Some(3), 20, 0, Some(200)),
            (Operation::UploadPart, "x", Some(4), 0, 5, Some(200)),
            (Operation::HeadObject, "none", None, 0, 0, Some(404)),
        ]
    );
    assert_eq!(calls[1].upload_id.as_deref(), Some(id));
    assert_eq!(calls[3].code.as_deref(), Some("NoSuchKey"));
    assert_eq!(
        (sandbox.calls().total(), sandbox.calls().max_in_flight()),
        (4, 1)
    );
    assert!(
        calls
            .windows(2)
            .all(|pair| pair[0].answered <= pair[1].answered)
    );
    sandbox.calls().clear();
    assert_eq!(
        (sandbox.calls().total(), sandbox.calls().list().len()),
        (0, 0)
    );
}

#[tokio::test]
async fn calls_at_once_are_counted_and_overlap() {
    let latency = LatencyModel {
        head: Duration::from_millis(300),
        ..LatencyModel::default()
    };
    let model = Model {
        latency,
        limits: RateModel::default(),
    };
    let options = SandboxOptions {
        model,
        record_calls: false,
        ..SandboxOptions::default()
    };
    let (sandbox, client) = start_with(options).await;
    let started = Instant::now();
    futures::future::join_all((0..20).map(|_| client.head_bucket().bucket("src").send())).await;
    assert!(
        (300..3000).contains(&started.elapsed().as_millis()),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(sandbox.calls().max_in_flight(), 20);
    assert_eq!(sandbox.calls().count(Operation::HeadBucket), 20);
    assert!(sandbox.calls().list().is_empty());
}

#[tokio::test]
async fn copies_take_time_by_their_bytes() {
    let latency = LatencyModel {
        bytes_per_second: Some(50_000_000),
        ..LatencyModel::default()
    };
    let model = Model {
        latency,
        limits: RateModel::default(),
    };
    let (sandbox, client) = start_with(SandboxOptions {
        model,
        ..SandboxOptions::default()
    })
    .await;
    sandbox.store().put_object(
        "src",
        "k",
        Content::pattern(1, 20_000_000),
        &ObjectSpec::default(),
    );
    let started = Instant::now();
    copy(&client).send().await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(400));
    // If a client disconnects while it waits, its request has no effect.
    sandbox.store().delete_object("dst", "k");
    assert!(
        tokio::time::timeout(Duration::from_millis(100), copy(&client).send())
            .await
            .is_err()
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!is_copied(&sandbox));
}

#[tokio::test]
async fn more_than_the_rate_is_slowed_down() {
    let limits = RateModel {
        writes_per_second: Some(20),
        ..RateModel::default()
    };
    let model = Model {
        latency: LatencyModel::default(),
        limits,
    };
    let (sandbox, client) = start_with(SandboxOptions {
        model,
        ..SandboxOptions::default()
    })
    .await;
    sandbox
        .store()
        .put_object("src", "k", Content::bytes("x"), &ObjectSpec::default());
    let mut slowed = 0;
    for _ in 0..40 {
        let answer = client
            .copy_object()
            .bucket("dst")
            .key("p/k")
            .copy_source("src/k")
            .send()
            .await;
        slowed += usize::from(answer.is_err());
        if answer.is_err() {
            assert_eq!(refused(answer), is(503, "SlowDown"));
        }
    }
    assert!(slowed > 5, "{slowed} of 40");
    // Reads and other prefixes are not affected.
    client
        .head_object()
        .bucket("src")
        .key("k")
        .send()
        .await
        .unwrap();
    client
        .copy_object()
        .bucket("dst")
        .key("q/k")
        .copy_source("src/k")
        .send()
        .await
        .unwrap();
}
