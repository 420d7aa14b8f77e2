//! Reads and writes single attributes of an object, paced and retried like every request.

use super::{Bucket, Repeat};
use crate::checksum;
use crate::location::ObjectKey;
use crate::s3::{
    AnnotationEntry, ChecksumAlgorithm, Failure, Grant, Operation, Page, Retention, Tag,
};

impl Bucket {
    /// Returns the tags of an object, as [`Client::get_tags`](crate::s3::Client::get_tags) does.
    /// Returns no tags, and sends no request, if the endpoint does not support tagging.
    pub async fn tags(&self, key: &ObjectKey, version: Option<&str>) -> Result<Vec<Tag>, Failure> {
        if !self.capabilities().tags {
            return Ok(Vec::new());
        }
        self.read(Operation::GetObjectTagging, Some(key), || {
            self.client.get_tags(&self.name, key, version)
        })
        .await
    }

    /// Gives one version of an object exactly these tags. Repeating it changes nothing.
    pub(crate) async fn put_tags(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        tags: &[Tag],
    ) -> Result<(), Failure> {
        let answer = self.call(
            Operation::PutObjectTagging,
            Some(key),
            0,
            Repeat::AtOnce,
            || self.client.put_tags(&self.name, key, version, tags),
        );
        answer.await.map(|answer| answer.value)
    }

    /// Returns the ACL of an object, as [`Client::get_acl`](crate::s3::Client::get_acl) does.
    pub async fn acl(&self, key: &ObjectKey, version: Option<&str>) -> Result<Vec<Grant>, Failure> {
        self.read(Operation::GetObjectAcl, Some(key), || {
            self.client.get_acl(&self.name, key, version)
        })
        .await
    }

    /// Returns the retention of an object, as
    /// [`Client::get_retention`](crate::s3::Client::get_retention) does.
    pub async fn retention(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<Option<Retention>, Failure> {
        let get = || self.client.get_retention(&self.name, key, version);
        self.read(Operation::GetObjectRetention, Some(key), get)
            .await
    }

    /// Returns the legal hold of an object, as
    /// [`Client::get_legal_hold`](crate::s3::Client::get_legal_hold) does.
    pub async fn legal_hold(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<Option<bool>, Failure> {
        let get = || self.client.get_legal_hold(&self.name, key, version);
        self.read(Operation::GetObjectLegalHold, Some(key), get)
            .await
    }

    /// Lists annotations of an object, as
    /// [`Client::list_annotations`](crate::s3::Client::list_annotations) does.
    #[doc(hidden)]
    pub async fn annotations(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        token: Option<&str>,
    ) -> Result<Page<AnnotationEntry>, Failure> {
        let list = || {
            self.client
                .list_annotations(&self.name, key, version, token)
        };
        self.read(Operation::ListObjectAnnotations, Some(key), list)
            .await
    }

    /// Returns an annotation of an object, as
    /// [`Client::get_annotation`](crate::s3::Client::get_annotation) does.
    #[doc(hidden)]
    pub async fn annotation(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        entry: &AnnotationEntry,
    ) -> Result<bytes::Bytes, Failure> {
        let get = || self.client.get_annotation(&self.name, key, version, entry);
        self.read(Operation::GetObjectAnnotation, Some(key), get)
            .await
    }

    /// Adds an annotation to one version if the object still has this `ETag`. Repeating it changes
    /// nothing.
    pub(crate) async fn put_annotation(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        etag: &str,
        name: &str,
        text: bytes::Bytes,
    ) -> Result<(), Failure> {
        let sum = checksum::compute(ChecksumAlgorithm::Crc64Nvme, &text);
        let bytes = text.len() as u64;
        let answer = self.call(
            Operation::PutObjectAnnotation,
            Some(key),
            bytes,
            Repeat::AtOnce,
            || {
                let text = text.clone();
                self.client
                    .put_annotation(&self.name, key, version, etag, name, text, Some(&sum))
            },
        );
        answer.await.map(|answer| answer.value)
    }
}
