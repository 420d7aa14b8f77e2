//! Sends requests for single attributes of an object that HEAD does not return, or that no request
//! header can carry.

use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types as sdk;

use super::bounds::TooLong;
use super::causes::find;
use super::convert::{quoted, retention};
use super::ids::{IdKind, required_size};
use super::question::{lacking, too_long, unanswered};
use super::requests::{failure, fault, is_empty_success, place};
use super::roots::lacks_tag_set;
use super::{
    AnnotationEntry, Checksum, Client, Failure, FailureKind, Grant, Operation, Page, Permission,
    Retention, Tag,
};
use crate::location::{BucketName, ObjectKey};

impl Client {
    /// Returns the tags of one version of an object.
    pub async fn get_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<Vec<Tag>, Failure> {
        let request = self
            .sdk
            .get_object_tagging()
            .bucket(bucket.as_str())
            .key(key.as_str());
        let request = request.set_version_id(version.map(str::to_owned));
        let answer = request.send().await;
        // Some servers send no tag set for an object without tags.
        let takes_nothing =
            !self.capabilities().sends_empty_tag_sets && self.capabilities().believes_answers();
        let output = match answer {
            Ok(output) => output,
            Err(error)
                if takes_nothing
                    && (is_empty_success(&error)
                        || error.raw_response().is_some_and(lacks_tag_set)) =>
            {
                return Ok(Vec::new());
            }
            // Others answer with this error.
            Err(error)
                if error
                    .code()
                    .is_some_and(|code| code.starts_with("NoSuchTagSet")) =>
            {
                return Ok(Vec::new());
            }
            Err(error) => return Err(unanswered(Operation::GetObjectTagging, bucket, key, &error)),
        };
        Ok(output
            .tag_set
            .into_iter()
            .map(|tag| Tag {
                key: tag.key,
                value: tag.value,
            })
            .collect())
    }

    /// Gives one version of an object exactly these tags.
    pub async fn put_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        tags: &[Tag],
    ) -> Result<(), Failure> {
        let invalid = |error: aws_sdk_s3::error::BuildError| {
            let place = place(bucket, Some(key));
            Failure::new(
                FailureKind::Invalid,
                Operation::PutObjectTagging,
                place,
                error.to_string(),
            )
        };
        let tag = |tag: &Tag| sdk::Tag::builder().key(&tag.key).value(&tag.value).build();
        let tags: Result<Vec<_>, _> = tags.iter().map(tag).collect();
        let tagging = sdk::Tagging::builder()
            .set_tag_set(Some(tags.map_err(invalid)?))
            .build();
        let request = self
            .sdk
            .put_object_tagging()
            .bucket(bucket.as_str())
            .key(key.as_str());
        let request = request
            .set_version_id(version.map(str::to_owned))
            .tagging(tagging.map_err(invalid)?);
        let answer = request.send().await;
        answer.map_err(|error| failure(Operation::PutObjectTagging, bucket, Some(key), &error))?;
        Ok(())
    }

    /// Returns the grants of an ACL; none if the object is private to its owner.
    pub async fn get_acl(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<Vec<Grant>, Failure> {
        let request = self
            .sdk
            .get_object_acl()
            .bucket(bucket.as_str())
            .key(key.as_str());
        let request = request.set_version_id(version.map(str::to_owned));
        let answer = request.send().await;
        let output =
            answer.map_err(|error| unanswered(Operation::GetObjectAcl, bucket, key, &error))?;
        let Some(grants) = output.grants else {
            return Err(lacking(Operation::GetObjectAcl, bucket, key, "grants"));
        };
        let owner = output
            .owner
            .and_then(|owner| owner.id)
            .map(|id| format!("id=\"{id}\""));
        let grants: Option<Vec<Grant>> = grants.into_iter().map(grant).collect();
        let mut grants = grants.ok_or_else(|| {
            let message = "the ACL contains a grant to a grantee that no header can name";
            Failure::new(
                FailureKind::Invalid,
                Operation::GetObjectAcl,
                place(bucket, Some(key)),
                message,
            )
        })?;
        let of_owner = |grant: &Grant| {
            grant.permission == Permission::FullControl && Some(&grant.grantee) == owner.as_ref()
        };
        if grants.iter().all(of_owner) {
            grants.clear();
        }
        Ok(grants)
    }

    /// Returns the retention of one version; `None` if it has none.
    ///
    /// # Errors
    /// [`FailureKind::Unsupported`] if the bucket has no Object Lock, otherwise the failure of the
    /// request.
    pub async fn get_retention(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<Option<Retention>, Failure> {
        let request = self
            .sdk
            .get_object_retention()
            .bucket(bucket.as_str())
            .key(key.as_str());
        let request = request.set_version_id(version.map(str::to_owned));
        let operation = Operation::GetObjectRetention;
        let answer = request.send().await;
        let output = match answer.map_err(|error| unanswered(operation, bucket, key, &error)) {
            Ok(output) => output,
            Err(failure) => return unlocked(failure),
        };
        // S3 returns an error for an object without a retention, so a success must contain one.
        let found = output.retention.and_then(|found| {
            use sdk::ObjectLockRetentionMode::{Compliance, Governance};
            let mode = found
                .mode
                .filter(|mode| matches!(mode, Compliance | Governance))?;
            retention(Some(mode.as_str()), found.retain_until_date)
        });
        match found {
            Some(found) => Ok(Some(found)),
            None => Err(lacking(operation, bucket, key, "a mode and a date")),
        }
    }

    /// Returns the legal hold of one version; `None` if it never had one.
    ///
    /// # Errors
    /// Fails for the same reasons as [`get_retention`](Self::get_retention).
    pub async fn get_legal_hold(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<Option<bool>, Failure> {
        let request = self
            .sdk
            .get_object_legal_hold()
            .bucket(bucket.as_str())
            .key(key.as_str());
        let request = request.set_version_id(version.map(str::to_owned));
        let operation = Operation::GetObjectLegalHold;
        let answer = request.send().await;
        let output = match answer.map_err(|error| unanswered(operation, bucket, key, &error)) {
            Ok(output) => output,
            Err(failure) => return unlocked(failure),
        };
        match output.legal_hold.and_then(|hold| hold.status) {
            Some(sdk::ObjectLockLegalHoldStatus::On) => Ok(Some(true)),
            Some(sdk::ObjectLockLegalHoldStatus::Off) => Ok(Some(false)),
            _ => Err(lacking(operation, bucket, key, "a status")),
        }
    }

    /// Returns one page of the annotations of one version.
    pub async fn list_annotations(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        token: Option<&str>,
    ) -> Result<Page<AnnotationEntry>, Failure> {
        let operation = Operation::ListObjectAnnotations;
        let request = self
            .sdk
            .list_object_annotations()
            .bucket(bucket.as_str())
            .key(key.as_str());
        let request = request.set_version_id(version.map(str::to_owned));
        let answer = request
            .set_continuation_token(token.map(str::to_owned))
            .send()
            .await;
        let output = answer.map_err(|error| unanswered(operation, bucket, key, &error))?;
        let faulty = |message| fault(operation, bucket, Some(key), message);
        let next = IdKind::Token
            .optional(output.next_continuation_token)
            .map_err(faulty)?;
        let items = output
            .annotations
            .unwrap_or_default()
            .into_iter()
            .map(|entry| {
                let size = required_size(Some(entry.size), "size of an annotation")?;
                Ok(AnnotationEntry {
                    name: entry.annotation_name,
                    size,
                })
            });
        Ok(Page {
            items: items.collect::<Result<_, _>>().map_err(faulty)?,
            next,
        })
    }

    /// Returns the text of one annotation, at most 1 MiB. The text has no checksum, so only the
    /// listed size shows that it is complete.
    pub async fn get_annotation(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        entry: &AnnotationEntry,
    ) -> Result<bytes::Bytes, Failure> {
        let (operation, name) = (Operation::GetObjectAnnotation, &entry.name);
        let request = self
            .sdk
            .get_object_annotation()
            .bucket(bucket.as_str())
            .key(key.as_str());
        let request = request
            .set_version_id(version.map(str::to_owned))
            .annotation_name(name);
        let answer = request.send().await;
        let output = answer.map_err(|error| unanswered(operation, bucket, key, &error))?;
        match output.annotation_payload.collect().await {
            Ok(text) => {
                let text = text.into_bytes();
                if text.len() as u64 == entry.size {
                    return Ok(text);
                }
                let (arrived, size) = (text.len(), entry.size);
                let message = format!("annotation {name}: {arrived} bytes arrived of {size}");
                Err(Failure::new(
                    FailureKind::Unreadable,
                    operation,
                    place(bucket, Some(key)),
                    message,
                ))
            }
            Err(error) if find::<TooLong>(&error).is_some() => {
                Err(too_long(operation, bucket, key))
            }
            Err(error) => {
                let message = format!("annotation {name}: {error}");
                Err(Failure::new(
                    FailureKind::Unreadable,
                    operation,
                    place(bucket, Some(key)),
                    message,
                ))
            }
        }
    }

    /// Adds an annotation to one version if the object still has this `ETag`.
    #[expect(clippy::too_many_arguments, reason = "each is a field of the request")]
    pub async fn put_annotation(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        etag: &str,
        name: &str,
        text: bytes::Bytes,
        checksum: Option<&Checksum>,
    ) -> Result<(), Failure> {
        let request = self
            .sdk
            .put_object_annotation()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_version_id(version.map(str::to_owned))
            .object_if_match(quoted(etag))
            .annotation_name(name)
            .annotation_payload(ByteStream::from(text))
            .set_checksum_crc64_nvme(checksum.map(|checksum| checksum.value.clone()));
        let answer = request.send().await;
        answer
            .map_err(|error| failure(Operation::PutObjectAnnotation, bucket, Some(key), &error))?;
        Ok(())
    }
}

/// Returns a grant in the form of a grant header, or `None` if no header can express it.
fn grant(grant: sdk::Grant) -> Option<Grant> {
    let permission = match grant.permission? {
        sdk::Permission::FullControl => Permission::FullControl,
        sdk::Permission::Read => Permission::Read,
        sdk::Permission::ReadAcp => Permission::ReadAcp,
        sdk::Permission::WriteAcp => Permission::WriteAcp,
        _ => return None,
    };
    let grantee = grant.grantee?;
    let grantee = match (grantee.id, grantee.uri) {
        (Some(id), _) => format!("id=\"{id}\""),
        (None, Some(uri)) => format!("uri=\"{uri}\""),
        (None, None) => return None,
    };
    Some(Grant {
        permission,
        grantee,
    })
}

/// Turns the error for an object without a lock into `None`, and the error for a bucket without
/// Object Lock into [`FailureKind::Unsupported`].
fn unlocked<T>(failure: Failure) -> Result<Option<T>, Failure> {
    let details = failure.details();
    match details.code.as_str() {
        "NoSuchObjectLockConfiguration" => Ok(None),
        "ObjectLockConfigurationNotFoundError" => Err(failure.as_kind(FailureKind::Unsupported)),
        "InvalidRequest"
            if details
                .message
                .to_ascii_lowercase()
                .replace(' ', "")
                .contains("objectlock") =>
        {
            Err(failure.as_kind(FailureKind::Unsupported))
        }
        _ => Err(failure),
    }
}
