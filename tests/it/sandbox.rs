//! The sandbox, used through the real SDK: it behaves like S3.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod access;
mod basics;
mod checksums;
mod conditions;
mod copies;
mod faults;
mod keys;
mod listing;
mod measuring;
mod multipart;
mod protection;
mod reads;
mod rules;
mod serving;
mod versions;

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::complete_multipart_upload::{
    CompleteMultipartUploadError, CompleteMultipartUploadOutput,
};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use s3haul::sandbox::{BucketOptions, Sandbox, SandboxOptions};

/// Starts a sandbox with the buckets `src` and `dst`, and returns a client of it.
async fn start() -> (Sandbox, Client) {
    start_with(SandboxOptions::default()).await
}

async fn start_with(options: SandboxOptions) -> (Sandbox, Client) {
    let (access_key, secret_key) = (options.access_key.clone(), options.secret_key.clone());
    let sandbox = Sandbox::start(options).await.unwrap();
    for bucket in ["src", "dst"] {
        sandbox
            .store()
            .create_bucket(bucket, BucketOptions::default());
    }
    let client = client(sandbox.url(), &access_key, &secret_key);
    (sandbox, client)
}

fn client(url: &str, access_key: &str, secret_key: &str) -> Client {
    Client::from_conf(config(url, access_key, secret_key).build())
}

fn config(url: &str, access_key: &str, secret_key: &str) -> aws_sdk_s3::config::Builder {
    unsigned(url).credentials_provider(Credentials::new(access_key, secret_key, None, None, "test"))
}

fn unsigned(url: &str) -> aws_sdk_s3::config::Builder {
    aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .endpoint_url(url)
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(
            aws_sdk_s3::config::timeout::TimeoutConfig::builder()
                .operation_attempt_timeout(Duration::from_secs(20))
                .build(),
        )
}

/// Returns status and code of a call, which must fail with an answer.
fn refused<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug>(
    result: Answer<T, E>,
) -> (u16, String) {
    match result {
        Err(SdkError::ServiceError(error)) => (
            error.raw().status().as_u16(),
            error.err().code().unwrap_or_default().to_owned(),
        ),
        other => panic!("expected an error answer, got {other:?}"),
    }
}

/// Returns the expected value of [`refused`].
fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

type Answer<T, E> = Result<T, SdkError<E, HttpResponse>>;

/// Returns the list for Complete, from numbers and `ETag`s.
fn listed(parts: &[(i32, &str)]) -> CompletedMultipartUpload {
    let part = |(number, tag): &(i32, &str)| {
        CompletedPart::builder()
            .part_number(*number)
            .e_tag(*tag)
            .build()
    };
    CompletedMultipartUpload::builder()
        .set_parts(Some(parts.iter().map(part).collect()))
        .build()
}

/// Completes an upload with these parts.
async fn complete(
    client: &Client,
    bucket: &str,
    key: &str,
    upload_id: &str,
    parts: &[(i32, &str)],
) -> Answer<CompleteMultipartUploadOutput, CompleteMultipartUploadError> {
    let call = client
        .complete_multipart_upload()
        .bucket(bucket)
        .key(key)
        .upload_id(upload_id);
    call.multipart_upload(listed(parts)).send().await
}
