//! Arranges and reads the objects of a [`World`] in its store, mostly without requests, and makes
//! requests fail.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use s3haul::sandbox::{
    BucketOptions, Content, Fault, ObjectInfo, ObjectSpec, Operation, UploadInfo,
};

use super::{SOURCE, World};

impl World {
    /// Puts an object of `size` bytes into the source bucket.
    pub(crate) fn put(&self, key: &str, size: u64) {
        self.put_with(key, size, &ObjectSpec::default());
    }

    /// Puts an object of `size` bytes with the attributes of `spec` into the source bucket.
    pub(crate) fn put_with(&self, key: &str, size: u64, spec: &ObjectSpec) {
        self.put_object(SOURCE, key, Content::pattern(1, size), spec);
    }

    /// Puts an object of `size` bytes under each of the keys into the source bucket.
    pub(crate) fn put_all(&self, keys: impl IntoIterator<Item: AsRef<str>>, size: u64) {
        for key in keys {
            self.put(key.as_ref(), size);
        }
    }

    /// Puts `count` objects of `size` bytes, each with its own content, into the source bucket:
    /// `k00000`, `k00001`, and so on.
    pub(crate) fn put_numbered(&self, count: usize, size: u64) {
        for number in 0..count {
            let content = Content::pattern(number as u64, size);
            let key = format!("k{number:05}");
            self.put_object(SOURCE, &key, content, &ObjectSpec::default());
        }
    }

    /// Puts an object of `size` bytes into `bucket`.
    pub(crate) fn put_in(&self, bucket: &str, key: &str, size: u64) {
        let content = Content::pattern(1, size);
        self.put_object(bucket, key, content, &ObjectSpec::default());
    }

    /// Puts an object into `bucket`, which is created if it does not exist.
    pub(crate) fn put_object(
        &self,
        bucket: &str,
        key: &str,
        content: Content,
        spec: &ObjectSpec,
    ) -> ObjectInfo {
        self.sandbox.store().put_object(bucket, key, content, spec)
    }

    /// Creates a bucket with default options.
    pub(crate) fn create_bucket(&self, name: &str) {
        let options = BucketOptions::default();
        self.sandbox.store().create_bucket(name, options);
    }

    /// Returns a client of the API.
    fn client(&self) -> aws_sdk_s3::Client {
        let credentials = Self::credentials();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(self.sandbox.url())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(
                credentials.access_key,
                credentials.secret_key,
                None,
                None,
                "test",
            ))
            .force_path_style(true)
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }

    /// Deletes a version of an object through the API, as a lifecycle rule would.
    pub(crate) async fn delete_version(&self, bucket: &str, key: &str, version: &str) {
        let delete = self.client().delete_object().bucket(bucket).key(key);
        delete.version_id(version).send().await.unwrap();
    }

    /// Changes the versioning of a bucket through the API.
    pub(crate) async fn set_versioning(&self, bucket: &str, status: BucketVersioningStatus) {
        let configuration = VersioningConfiguration::builder().status(status).build();
        self.client()
            .put_bucket_versioning()
            .bucket(bucket)
            .versioning_configuration(configuration)
            .send()
            .await
            .unwrap();
    }

    /// Returns the keys of `bucket` in order.
    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        self.sandbox.store().keys(bucket)
    }

    /// Returns the current version of an object, or `None` if the key has none.
    pub(crate) fn object(&self, bucket: &str, key: &str) -> Option<ObjectInfo> {
        self.sandbox.store().object(bucket, key)
    }

    /// Returns the uploads of `bucket` that are neither completed nor aborted.
    pub(crate) fn open_uploads(&self, bucket: &str) -> Vec<UploadInfo> {
        self.sandbox.store().open_uploads(bucket)
    }

    /// Refuses requests of this kind for keys that begin with `prefix` from now on.
    pub(crate) fn deny(&self, bucket: &str, operation: Operation, prefix: &str) {
        self.sandbox.store().deny(bucket, operation, prefix);
    }

    /// Makes requests fail, or changes their effect. Returns the number of the fault.
    pub(crate) fn add_fault(&self, fault: Fault) -> u64 {
        self.sandbox.faults().add(fault)
    }

    /// Accepts requests that a proxy changed after they were signed.
    pub(crate) fn accept_any_signature(&self) {
        let quirks = self.sandbox.store().quirks();
        quirks.unchecked_signatures.store(true, Ordering::Relaxed);
    }
}

/// Describes an object that was last modified `age` ago.
pub(crate) fn aged(age: Duration) -> ObjectSpec {
    ObjectSpec::default().last_modified(SystemTime::now() - age)
}
