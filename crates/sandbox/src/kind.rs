//! Refuses requests that this kind of bucket or server does not support.
//!
//! A bucket whose name ends in `--x-s3` is a directory bucket, as on AWS. It lists keys in no
//! particular order and only by prefixes that end in a slash, its `ETag`s are random, and it
//! supports neither versions nor tags nor annotations. [`Quirks`] imitate S3-compatible servers
//! that lack features.
//!
//! Requests to directory buckets are signed for the service `s3express`, which the `s3s` crate does
//! not support. The sandbox does not verify the signatures of these requests, nor of uploads whose
//! bodies it does not keep. It only checks that they name an accepted access key.

use hyper::header::{AUTHORIZATION, CONTENT_LENGTH};
use hyper::{HeaderMap, Request};
use s3s::access::{S3Access, S3AccessContext};
use s3s::validation::{AwsNameValidation, NameValidation};
use s3s::{Body, S3Result, s3_error};

use super::bucket::Bucket;
use super::keys::KeyRing;
use super::operation::{Call, Operation};
use super::payload::KEPT;
use super::refusal::Refusal;
use super::store::Quirks;

/// Marks a request whose signature was not verified.
#[derive(Clone, Copy)]
struct Waived;

/// Removes the signature from a request that names an accepted key, if `s3s` cannot verify it
/// (`s3express`) or should not: hashing a payload that is not kept takes more CPU time than the
/// rest of the request.
pub(super) fn waive_signature(request: &mut Request<Body>, keys: &KeyRing, quirks: &Quirks) {
    let Some(signature) = header(request.headers(), AUTHORIZATION.as_str()) else {
        return;
    };
    let named = keys.accepts_key_of(request.headers());
    let is_express = signature.contains("/s3express/aws4_request");
    let passes = Quirks::on(&quirks.virtual_uploads) && is_long_and_hashed(request.headers());
    if named && (is_express || passes || Quirks::on(&quirks.unchecked_signatures)) {
        request.headers_mut().remove(AUTHORIZATION);
        request.extensions_mut().insert(Waived);
    }
}

/// Returns true if [`Payload::digest`](super::payload::Payload::digest) does not keep the body and
/// the signature covers its hash.
fn is_long_and_hashed(headers: &HeaderMap) -> bool {
    let length =
        header(headers, CONTENT_LENGTH.as_str()).and_then(|length| length.parse::<usize>().ok());
    let hash = header(headers, "x-amz-content-sha256").unwrap_or_default();
    length > Some(KEPT) && hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Accepts the bucket names of S3, and names with a tenant prefix as in Ceph (`tenant:bucket`).
pub(super) struct WithTenants;

impl NameValidation for WithTenants {
    fn validate_bucket_name(&self, name: &str) -> bool {
        let bucket = name.split_once(':').map_or(name, |(_, bucket)| bucket);
        AwsNameValidation::new().validate_bucket_name(bucket)
    }
}

/// Accepts signed requests, and requests whose signature [`waive_signature`] removed.
pub(super) struct Signed;

#[async_trait::async_trait]
impl S3Access for Signed {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_some() || context.extensions_mut().get::<Waived>().is_some() {
            return Ok(());
        }
        Err(s3_error!(AccessDenied, "Signature is required"))
    }
}

/// Refuses a request that this server or this bucket does not support.
pub(super) fn check(
    bucket: &Bucket,
    quirks: &Quirks,
    call: &Call,
    query: &str,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    if call.operation == Operation::UploadPartCopy && Quirks::on(&quirks.no_part_copy) {
        return Err(not_implemented("x-amz-copy-source"));
    }
    if Quirks::on(&quirks.no_tags) {
        check_tags(call.operation, headers, false)?;
    }
    if bucket.directory {
        check_directory(call, query, headers)
    } else {
        Ok(())
    }
}

fn check_directory(call: &Call, query: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    use Operation::{
        CopyObject, GetObjectAcl, GetObjectLegalHold, GetObjectRetention, ListMultipartUploads,
        ListObjectVersions, ListObjects, ListObjectsV2, PutBucketVersioning, PutObjectAcl,
        PutObjectLegalHold, PutObjectRetention, RestoreObject,
    };
    check_tags(call.operation, headers, true)?;
    if headers.contains_key("x-amz-website-redirect-location") {
        return Err(not_implemented("x-amz-website-redirect-location"));
    }
    match call.operation {
        ListObjects | ListObjectVersions | PutBucketVersioning | GetObjectAcl | PutObjectAcl
        | GetObjectRetention | PutObjectRetention | GetObjectLegalHold | PutObjectLegalHold
        | RestoreObject => Err(not_implemented("this operation")),
        ListObjectsV2 | ListMultipartUploads
            if !(call.key.is_empty() || call.key.ends_with('/')) =>
        {
            Err(Refusal::invalid_request(
                "This bucket does not support a prefix that does not end in a delimiter",
            ))
        }
        ListObjectsV2
            if query
                .split('&')
                .any(|pair| pair.starts_with("start-after=")) =>
        {
            Err(not_implemented("start-after"))
        }
        CopyObject if header(headers, "x-amz-object-annotation-directive") != Some("EXCLUDE") => {
            Err(not_implemented("x-amz-object-annotation-directive"))
        }
        _ => Ok(()),
    }
}

/// Refuses requests that read, write, or name tags. If `may_deny` is true, a request may have a
/// tagging directive.
fn check_tags(operation: Operation, headers: &HeaderMap, may_deny: bool) -> Result<(), Refusal> {
    use Operation::{DeleteObjectTagging, GetObjectTagging, PutObjectTagging};
    let names_tags = headers.contains_key("x-amz-tagging")
        || (!may_deny && headers.contains_key("x-amz-tagging-directive"));
    if names_tags
        || matches!(
            operation,
            GetObjectTagging | PutObjectTagging | DeleteObjectTagging
        )
    {
        return Err(not_implemented("x-amz-tagging"));
    }
    Ok(())
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn not_implemented(header: &'static str) -> Refusal {
    Refusal::not_implemented(
        "A header you provided implies functionality that is not implemented",
        header,
    )
}
