//! Small objects that this crate keeps for itself: read into memory.

use super::verbs::failure;
use super::{Client, Failure, FailureKind, Operation};
use crate::location::{BucketName, ObjectKey};

/// More than this is none of ours.
const MAX_BYTES: i64 = 256 << 20;

impl Client {
    /// The bytes of an object.
    pub async fn get_small(&self, bucket: &BucketName, key: &ObjectKey) -> Result<bytes::Bytes, Failure> {
        let answer = self.sdk.get_object().bucket(bucket.as_str()).key(key.as_str()).send().await;
        let output = answer.map_err(|error| failure(Operation::GetObject, bucket, Some(key), &error))?;
        let broken = |kind, message: String| {
            Failure::new(kind, Operation::GetObject, format!("{bucket}/{key}"), message)
        };
        if output.content_length.is_some_and(|bytes| bytes > MAX_BYTES) {
            return Err(broken(
                FailureKind::Invalid,
                "the object is too large for what it should be".to_owned(),
            ));
        }
        let body = output.body.collect().await;
        // The SDK compares the length with what was announced and the sum with what was stored.
        let body =
            body.map_err(|error| broken(FailureKind::Transient, format!("the answer broke off: {error}")))?;
        Ok(body.into_bytes())
    }
}
