//! Small objects that this crate keeps for itself: read into memory.

use super::bounds::TooLong;
use super::causes::{find, plain};
use super::requests::failure;
use super::{Client, Failure, FailureKind, Operation};
use crate::location::{BucketName, ObjectKey};
use crate::size::ByteSize;

impl Client {
    /// Returns the bytes of an object.
    pub async fn get_small(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> Result<bytes::Bytes, Failure> {
        let answer = self
            .sdk
            .get_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
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
        // The SDK compares the length with what was announced and the sum with what was stored.
        let body = output
            .body
            .collect()
            .await
            .map_err(|error| match find::<TooLong>(&error) {
                Some(TooLong::Body(most)) => {
                    let message = format!(
                        "the object has more than {}, too many for a journal",
                        ByteSize(*most)
                    );
                    broken(FailureKind::Invalid, message)
                }
                _ => broken(
                    FailureKind::Transient,
                    format!("the answer broke off: {}", plain(&error)),
                ),
            })?;
        Ok(body.into_bytes())
    }
}
