//! Reads small objects that s3haul itself wrote, such as journal segments.

use std::num::NonZeroU64;

use super::Bucket;
use crate::location::ObjectKey;
use crate::s3::{Failure, Operation, SmallObject};

impl Bucket {
    /// Returns the bytes of an object, in memory.
    pub(crate) async fn get_small(&self, key: &ObjectKey) -> Result<bytes::Bytes, Failure> {
        Ok(self.get_small_object(key).await?.bytes)
    }

    /// Returns an object in memory, with its `ETag`.
    pub(crate) async fn get_small_object(&self, key: &ObjectKey) -> Result<SmallObject, Failure> {
        self.get_in_memory(key, None).await
    }

    /// Returns the first bytes of an object. A server without range support returns all bytes.
    pub(crate) async fn get_start(
        &self,
        key: &ObjectKey,
        most: NonZeroU64,
    ) -> Result<bytes::Bytes, Failure> {
        Ok(self.get_in_memory(key, Some(most)).await?.bytes)
    }

    async fn get_in_memory(
        &self,
        key: &ObjectKey,
        most: Option<NonZeroU64>,
    ) -> Result<SmallObject, Failure> {
        self.read(Operation::GetObject, Some(key), || {
            self.client.get_small_object(&self.name, key, most)
        })
        .await
    }
}
