//! Operations on buckets.

use hyper::StatusCode;
use s3s::dto::{
    Bucket, BucketLocationConstraint, BucketVersioningStatus, CreateBucketInput,
    CreateBucketOutput, DeleteBucketInput, DeleteBucketOutput, GetBucketLocationInput,
    GetBucketLocationOutput, GetBucketVersioningInput, GetBucketVersioningOutput, HeadBucketInput,
    HeadBucketOutput, ListBucketsInput, ListBucketsOutput, Owner, PutBucketVersioningInput,
    PutBucketVersioningOutput,
};
use s3s::{S3Request, S3Response, S3Result};

use super::Service;
use super::fields::timestamp;
use crate::bucket::Versioning;
use crate::refusal::Refusal;
use crate::store::{BucketOptions, OWNER};

/// The most buckets on one page.
const MAX_BUCKETS: i32 = 10_000;

/// Returns the page size that a `ListBuckets` requests.
fn most_buckets(requested: Option<i32>) -> Result<usize, Refusal> {
    let max = requested.unwrap_or(MAX_BUCKETS);
    let size = usize::try_from(max).ok();
    size.filter(|_| (1..=MAX_BUCKETS).contains(&max))
        .ok_or_else(|| {
            Refusal::invalid_argument(
                "max-buckets",
                max,
                "Argument max-buckets must be an integer between 1 and 10000",
            )
        })
}

impl Service {
    pub(super) fn buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let input = request.input;
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let after = input.continuation_token.as_deref();
        let mut buckets: Vec<_> = self
            .store
            .buckets()
            .into_iter()
            .filter(|bucket| bucket.name.starts_with(prefix))
            .filter(|bucket| {
                input
                    .bucket_region
                    .as_ref()
                    .is_none_or(|region| *region == bucket.region)
            })
            .filter(|bucket| after.is_none_or(|after| bucket.name.as_str() > after))
            .collect();
        let max = most_buckets(input.max_buckets)?;
        let truncated = buckets.len() > max;
        buckets.truncate(max);
        Ok(S3Response::new(ListBucketsOutput {
            continuation_token: buckets
                .last()
                .filter(|_| truncated)
                .map(|bucket| bucket.name.clone()),
            buckets: Some(
                buckets
                    .iter()
                    .map(|bucket| Bucket {
                        name: Some(bucket.name.clone()),
                        creation_date: timestamp(bucket.created),
                        bucket_region: Some(bucket.region.clone()),
                    })
                    .collect(),
            ),
            owner: Some(Owner {
                id: Some(OWNER.to_owned()),
                display_name: None,
            }),
            prefix: input.prefix,
        }))
    }

    pub(super) fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let input = request.input;
        let region = input
            .create_bucket_configuration
            .and_then(|configuration| configuration.location_constraint)
            .map(|constraint| constraint.as_str().to_owned());
        let options = BucketOptions {
            region,
            object_lock: input.object_lock_enabled_for_bucket == Some(true),
            ..BucketOptions::default()
        };
        if !self.store.add_bucket(&input.bucket, options) {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                "BucketAlreadyOwnedByYou",
                "Your previous request to create the named bucket succeeded and you already own it.",
            )
            .with("BucketName", &input.bucket)
            .into());
        }
        Ok(S3Response::new(CreateBucketOutput {
            location: Some(format!("/{}", input.bucket)),
        }))
    }

    pub(super) fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        let bucket = self.store.bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput {
            bucket_region: Some(bucket.region.clone()),
            ..HeadBucketOutput::default()
        }))
    }

    pub(super) fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.store.remove_bucket(&request.input.bucket)?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    pub(super) fn location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        let bucket = self.store.bucket(&request.input.bucket)?;
        // S3 reports no location constraint for its first region.
        let constraint = (bucket.region != "us-east-1")
            .then(|| BucketLocationConstraint::from(bucket.region.clone()));
        Ok(S3Response::new(GetBucketLocationOutput {
            location_constraint: constraint,
        }))
    }

    pub(super) fn versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let bucket = self.store.bucket(&request.input.bucket)?;
        let status = match bucket.read().versioning {
            Versioning::Never => None,
            Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
            Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
        };
        Ok(S3Response::new(GetBucketVersioningOutput {
            status: status.map(BucketVersioningStatus::from_static),
            mfa_delete: None,
        }))
    }

    pub(super) fn set_versioning(
        &self,
        request: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        let bucket = self.store.bucket(&request.input.bucket)?;
        let status = request.input.versioning_configuration.status;
        let versioning = match status.as_ref().map(BucketVersioningStatus::as_str) {
            Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
            Some(BucketVersioningStatus::SUSPENDED) if bucket.object_lock => {
                return Err(Refusal::new(
                    StatusCode::CONFLICT,
                    "InvalidBucketState",
                    "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.",
                )
                .into());
            }
            Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
            _ => {
                return Err(Refusal::new(
                    StatusCode::BAD_REQUEST,
                    "IllegalVersioningConfigurationException",
                    "The Versioning element must be specified",
                )
                .into());
            }
        };
        bucket.write().versioning = versioning;
        Ok(S3Response::new(PutBucketVersioningOutput::default()))
    }
}
