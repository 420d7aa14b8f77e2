//! Small objects that this crate keeps for itself.

use super::Bucket;
use crate::location::ObjectKey;
use crate::s3::{Failure, Operation};

impl Bucket {
    /// Returns the bytes of an object, in memory.
    pub async fn get_small(&self, key: &ObjectKey) -> Result<bytes::Bytes, Failure> {
        self.read(Operation::GetObject, Some(key), || {
            self.client.get_small(&self.name, key)
        })
        .await
    }
}
