//! Reads small objects that s3haul itself wrote, such as journal segments, into memory.

use std::num::NonZeroU64;

use super::bounds::TooLong;
use super::causes::{find, plain};
use super::convert::unquote;
use super::requests::failure;
use super::{Client, Failure, FailureKind, Operation};
use crate::location::{BucketName, ObjectKey};
use crate::size::ByteSize;

/// An object that was read into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallObject {
    /// Its bytes.
    pub bytes: bytes::Bytes,
    /// Its `ETag`, without quotes. Absent if the server gave none.
    pub etag: Option<String>,
}

impl Client {
    /// Returns an object, or its first `most` bytes. A server without range support returns all
    /// bytes.
    pub async fn get_small_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        most: Option<NonZeroU64>,
    ) -> Result<SmallObject, Failure> {
        match self.read_small_object(bucket, key, most).await {
            // The server ignored the range. Only the response to a request without a range may
            // contain all bytes.
            Err(failure) if most.is_some() && *failure.kind() == FailureKind::AnswerTooLong => {
                self.read_small_object(bucket, key, None).await
            }
            answer => answer,
        }
    }

    async fn read_small_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        most: Option<NonZeroU64>,
    ) -> Result<SmallObject, Failure> {
        let answer = self
            .sdk
            .get_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_range(most.map(|most| format!("bytes=0-{}", most.get() - 1)))
            .send()
            .await;
        let output =
            answer.map_err(|error| failure(Operation::GetObject, bucket, Some(key), &error))?;
        let broken = |kind, message: String| {
            Failure::new(
                kind,
                Operation::GetObject,
                format!("{bucket}/{key}"),
                message,
            )
        };
        let etag = output.e_tag.map(unquote).filter(|etag| !etag.is_empty());
        // The SDK checks the length against `Content-Length` and the bytes against the stored
        // checksum.
        let body = output
            .body
            .collect()
            .await
            .map_err(|error| match find::<TooLong>(&error) {
                Some(TooLong::Body(most)) => {
                    let message = format!(
                        "the object is larger than {}, too large for a journal or a report",
                        ByteSize(*most)
                    );
                    broken(FailureKind::Invalid, message)
                }
                Some(longer @ TooLong::Range(_)) => {
                    broken(FailureKind::AnswerTooLong, longer.to_string())
                }
                _ => broken(
                    FailureKind::Transient,
                    format!("the answer broke off: {}", plain(&error)),
                ),
            })?;
        Ok(SmallObject {
            bytes: body.into_bytes(),
            etag,
        })
    }
}
