//! The S3 API of the sandbox. The `s3s` crate parses and writes the documents, and this module
//! translates between its types and the types of the store. Each family of operations has a
//! submodule.

#![expect(
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "all operations have one signature, and all fields of answers are optional"
)]

mod access;
mod bucket;
mod copy;
mod fields;
mod list;
mod multipart;
mod protection;
mod read;
mod restore;
mod write;

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::HeaderName;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CreateBucketInput,
    CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteBucketInput,
    DeleteBucketOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectTaggingInput,
    DeleteObjectTaggingOutput, DeleteObjectsInput, DeleteObjectsOutput, GetBucketLocationInput,
    GetBucketLocationOutput, GetBucketVersioningInput, GetBucketVersioningOutput,
    GetObjectAclInput, GetObjectAclOutput, GetObjectAttributesInput, GetObjectAttributesOutput,
    GetObjectInput, GetObjectLegalHoldInput, GetObjectLegalHoldOutput,
    GetObjectLockConfigurationInput, GetObjectLockConfigurationOutput, GetObjectOutput,
    GetObjectRetentionInput, GetObjectRetentionOutput, GetObjectTaggingInput,
    GetObjectTaggingOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput,
    ListBucketsInput, ListBucketsOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsInput, ListObjectsOutput,
    ListObjectsV2Input, ListObjectsV2Output, ListPartsInput, ListPartsOutput,
    PutBucketVersioningInput, PutBucketVersioningOutput, PutObjectAclInput, PutObjectAclOutput,
    PutObjectInput, PutObjectLegalHoldInput, PutObjectLegalHoldOutput, PutObjectOutput,
    PutObjectRetentionInput, PutObjectRetentionOutput, PutObjectTaggingInput,
    PutObjectTaggingOutput, RestoreObjectInput, RestoreObjectOutput, UploadPartCopyInput,
    UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result};

use hyper::http::Extensions;

use super::model::LatencyModel;
use super::payload::Payload;
use super::store::Store;

/// Passes the number of copied bytes from an operation to the HTTP layer, for the record of calls.
/// It travels in the extensions of the response.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopiedBytes(pub(super) u64);

/// Passes the order of a listing of versions to the HTTP layer, in the extensions of the response:
/// for each entry, whether it is a delete marker. S3 writes versions and markers in one sequence,
/// but `s3s` writes one kind after the other.
#[derive(Clone, Debug)]
pub(super) struct Interleaved(pub(super) Vec<bool>);

/// Passes the entries of a listing, which are written without `s3s`, to the HTTP layer in the
/// extensions of the response.
#[derive(Clone, Debug)]
pub(super) struct Lines(pub(super) String);

/// Passes an `Expires` that is not a date from the HTTP layer to an operation.
pub(super) const ODD_EXPIRES: HeaderName = HeaderName::from_static("x-sandbox-expires");
/// Passes the source bucket of a copy from the HTTP layer to an operation if `s3s` cannot read its
/// name.
pub(super) const TENANT_SOURCE: HeaderName = HeaderName::from_static("x-sandbox-copy-bucket");

/// Passes a success status other than 200 to the HTTP layer, in the extensions of the response,
/// because `s3s` does not take it from an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct SuccessStatus(pub(super) StatusCode);

/// Tells an operation, in the extensions of the request, to store wrong bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Corrupted;

/// Returns the payload to store: the received one, or a wrong one if a fault requires it.
fn stored(payload: Payload, extensions: &Extensions) -> Payload {
    if extensions.get::<Corrupted>().is_some() {
        payload.content.corrupted().into()
    } else {
        payload
    }
}

/// The operations on a store that `s3s` calls.
#[derive(Debug)]
pub(super) struct Service {
    store: Store,
    latency: Arc<LatencyModel>,
}

impl Service {
    pub(super) fn new(store: Store, latency: Arc<LatencyModel>) -> Self {
        Self { store, latency }
    }

    /// Waits for the time that it takes to move this number of bytes.
    async fn transfer(&self, bytes: u64) {
        let time = self.latency.transfer(bytes);
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
    }
}

macro_rules! operations {
    (
        at_once { $($method:ident => $handler:ident($input:ty) -> $output:ty;)+ }
        waiting { $($slow_method:ident => $slow_handler:ident($slow_input:ty) -> $slow_output:ty;)+ }
    ) => {
        #[async_trait::async_trait]
        impl S3 for Service {
            $(async fn $method(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                self.$handler(request)
            })+
            $(async fn $slow_method(&self, request: S3Request<$slow_input>) -> S3Result<S3Response<$slow_output>> {
                self.$slow_handler(request).await
            })+
        }
    };
}

operations! {
    at_once {
    list_buckets => buckets(ListBucketsInput) -> ListBucketsOutput;
    create_bucket => create_bucket(CreateBucketInput) -> CreateBucketOutput;
    head_bucket => head_bucket(HeadBucketInput) -> HeadBucketOutput;
    delete_bucket => delete_bucket(DeleteBucketInput) -> DeleteBucketOutput;
    get_bucket_location => location(GetBucketLocationInput) -> GetBucketLocationOutput;
    get_bucket_versioning => versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput;
    put_bucket_versioning => set_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput;
    list_objects => list_v1(ListObjectsInput) -> ListObjectsOutput;
    list_objects_v2 => list_v2(ListObjectsV2Input) -> ListObjectsV2Output;
    list_object_versions => list_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput;
    list_multipart_uploads => list_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput;
    list_parts => parts(ListPartsInput) -> ListPartsOutput;
    get_object => get(GetObjectInput) -> GetObjectOutput;
    head_object => head(HeadObjectInput) -> HeadObjectOutput;
    get_object_attributes => attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput;
    get_object_tagging => tags(GetObjectTaggingInput) -> GetObjectTaggingOutput;
    put_object_tagging => set_tags(PutObjectTaggingInput) -> PutObjectTaggingOutput;
    delete_object_tagging => clear_tags(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput;
    get_object_acl => acl(GetObjectAclInput) -> GetObjectAclOutput;
    put_object_acl => set_acl(PutObjectAclInput) -> PutObjectAclOutput;
    get_object_retention => retention(GetObjectRetentionInput) -> GetObjectRetentionOutput;
    put_object_retention => set_retention(PutObjectRetentionInput) -> PutObjectRetentionOutput;
    get_object_legal_hold => legal_hold(GetObjectLegalHoldInput) -> GetObjectLegalHoldOutput;
    put_object_legal_hold => set_legal_hold(PutObjectLegalHoldInput) -> PutObjectLegalHoldOutput;
    get_object_lock_configuration =>
        lock_configuration(GetObjectLockConfigurationInput) -> GetObjectLockConfigurationOutput;
    restore_object => restore(RestoreObjectInput) -> RestoreObjectOutput;
    delete_object => delete(DeleteObjectInput) -> DeleteObjectOutput;
    delete_objects => delete_many(DeleteObjectsInput) -> DeleteObjectsOutput;
    create_multipart_upload => create(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
    complete_multipart_upload => complete(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput;
    abort_multipart_upload => abort(AbortMultipartUploadInput) -> AbortMultipartUploadOutput;
    }
    waiting {
    put_object => put(PutObjectInput) -> PutObjectOutput;
    copy_object => copy(CopyObjectInput) -> CopyObjectOutput;
    upload_part => put_part(UploadPartInput) -> UploadPartOutput;
    upload_part_copy => copy_part(UploadPartCopyInput) -> UploadPartCopyOutput;
    }
}
