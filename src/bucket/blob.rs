//! Small objects that this crate keeps for itself.

use super::{Bucket, Repeat};
use crate::location::ObjectKey;
use crate::s3::{Failure, Operation};

impl Bucket {
    /// The bytes of an object, in memory.
    pub async fn get_small(&self, key: &ObjectKey) -> Result<bytes::Bytes, Failure> {
        self.read(Operation::GetObject, Some(key), || self.client.get_small(&self.name, key)).await
    }

    /// Removes an object; one that is not there is no failure.
    pub async fn delete_small(&self, key: &ObjectKey) -> Result<(), Failure> {
        self.call(Operation::DeleteObject, Some(key), 0, Repeat::Always, || {
            self.client.delete_small(&self.name, key)
        })
        .await
        .map(|answer| answer.value)
    }
}
