//! Reads and writes the objects of a state prefix.
//!
//! Writes have conditions: `If-None-Match` for an object that is written once, and `If-Match` for
//! an object that only its last writer may replace. If the response of a write is lost, s3haul
//! sends the write again, and the server may refuse it because the first attempt took effect. So
//! s3haul reads the object after a refusal: if it has the same bytes, the write took effect.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use thiserror::Error;

use super::names::PerShard;
use super::record::{FORMAT, StateRecord};
use crate::bucket::Bucket;
use crate::location::{ObjectKey, S3Uri};
use crate::s3::paging::{Order, PageVerdict, Paging};
use crate::s3::{Attributes, Failure, FailureKind, Operation, WriteCondition};

/// The maximum number of objects of one kind that a list may have. There is one for each shard.
const MAX_OBJECTS: u64 = 100_000;
/// The number of objects that are read at once.
const MAX_CONCURRENT: usize = 32;

/// The reason why a state prefix cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// A request failed.
    #[error("the state {place}: {failure}")]
    Store {
        /// The prefix.
        place: String,
        /// The failure.
        failure: Failure,
    },
    /// A key below the prefix would be too long.
    #[error("the state {place}: {what}; use a shorter state prefix")]
    KeyTooLong {
        /// The prefix.
        place: String,
        /// The length and the limit.
        what: String,
    },
    /// An object cannot be parsed, or a record cannot be serialized.
    #[error("{place} cannot be read: {what}; restore it, or use another state prefix")]
    Damaged {
        /// The object.
        place: String,
        /// The mistake in it.
        what: String,
    },
    /// A later version of s3haul wrote the object.
    #[error(
        "{place} has format {format}, and this is s3haul {}, which knows formats up to {FORMAT}; use the version that \
         wrote it, or use another state prefix", env!("CARGO_PKG_VERSION")
    )]
    NewerFormat {
        /// The object.
        place: String,
        /// Its format.
        format: u64,
    },
    /// The endpoint is not known to honor conditional writes, so two processes could write two
    /// plans.
    #[error(
        "{place}: shards need `If-None-Match` on PutObject, which the endpoint `{endpoint}` is not known to honor; use \
         another endpoint, or set the endpoint's `provider`"
    )]
    StateUnconditional {
        /// The prefix.
        place: String,
        /// The endpoint's name.
        endpoint: String,
    },
}

impl StateError {
    /// Returns true if the same command may succeed later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Store { failure, .. } if failure.is_passing())
    }
}

/// A prefix of a bucket that holds the state of a run in shards.
#[derive(Clone, Debug)]
pub struct StateStore {
    bucket: Bucket,
    prefix: ObjectKey,
}

/// An object of a state prefix, as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<T> {
    /// Its content.
    pub record: T,
    /// Its `ETag`. Absent if the server returned none.
    pub etag: Option<String>,
}

/// An object of a state prefix, as a list shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedRecord {
    /// Its `ETag`. Absent if the list shows none.
    pub etag: Option<String>,
    /// The time at which it was written, by the server's clock.
    pub modified: Option<Timestamp>,
}

/// The result of a conditional write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateWrite {
    /// The object is written. Holds its `ETag`, if the server returned one.
    Written(Option<String>),
    /// The condition does not hold: another process was faster.
    Refused,
}

impl StateStore {
    /// Returns the store at a prefix, which is empty or ends in a slash. Stopping the run must not
    /// end the requests of `bucket` ([`Bucket::outliving_the_run`]).
    #[must_use]
    pub fn new(bucket: Bucket, prefix: ObjectKey) -> Self {
        Self { bucket, prefix }
    }

    /// Refuses an endpoint that is not known to honor `If-None-Match`.
    ///
    /// # Errors
    /// [`StateError::StateUnconditional`].
    pub fn demand_conditions(&self) -> Result<(), StateError> {
        if self.bucket.capabilities().if_none_match.put {
            return Ok(());
        }
        Err(StateError::StateUnconditional {
            place: self.to_string(),
            endpoint: self.bucket.client().endpoint().to_owned(),
        })
    }

    /// Returns the condition for replacing the object with this `ETag`, or no condition if the
    /// endpoint does not honor `If-Match`.
    #[must_use]
    pub fn replacing(&self, etag: Option<&str>) -> WriteCondition {
        match etag {
            Some(etag) if self.bucket.capabilities().if_match.put => {
                WriteCondition::Matches(etag.to_owned())
            }
            _ => WriteCondition::None,
        }
    }

    /// Returns the location of an object or of a prefix below the state prefix.
    ///
    /// # Errors
    /// [`StateError::KeyTooLong`].
    pub fn uri(&self, name: &str) -> Result<S3Uri, StateError> {
        Ok(S3Uri {
            bucket: self.bucket.name().clone(),
            key: self.key(name)?,
        })
    }

    fn key(&self, name: &str) -> Result<ObjectKey, StateError> {
        ObjectKey::new(&format!("{}{name}", self.prefix)).map_err(|error| StateError::KeyTooLong {
            place: self.to_string(),
            what: error.to_string(),
        })
    }

    fn store(&self, failure: Failure) -> StateError {
        StateError::Store {
            place: self.to_string(),
            failure,
        }
    }

    /// Reads an object. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// A request failed, or the object cannot be read.
    pub async fn get<T: StateRecord>(&self, name: &str) -> Result<Option<Stored<T>>, StateError> {
        let object = match self.bucket.get_small_object(&self.key(name)?).await {
            Ok(object) => object,
            Err(failure) if *failure.kind() == FailureKind::NotFound => return Ok(None),
            Err(failure) => return Err(self.store(failure)),
        };
        let record = read(&format!("{self}{name}"), &object.bytes)?;
        Ok(Some(Stored {
            record,
            etag: object.etag,
        }))
    }

    /// Writes an object conditionally.
    ///
    /// # Errors
    /// A request failed.
    pub async fn put<T: StateRecord>(
        &self,
        name: &str,
        record: &T,
        condition: WriteCondition,
    ) -> Result<StateWrite, StateError> {
        let (key, bytes) = (self.key(name)?, self.bytes(record)?);
        let attributes = Attributes::default();
        let written = self
            .bucket
            .put_object(&key, bytes.clone(), &attributes, None, condition)
            .await;
        match written {
            Ok(written) => {
                let etag = Some(written.value.etag).filter(|etag| !etag.is_empty());
                return Ok(StateWrite::Written(etag));
            }
            Err(failure)
                if matches!(
                    failure.kind(),
                    FailureKind::PreconditionFailed | FailureKind::Conflict | FailureKind::NotFound
                ) => {}
            Err(failure) => return Err(self.store(failure)),
        }
        match self.bucket.get_small_object(&key).await {
            Ok(found) if found.bytes == bytes => Ok(StateWrite::Written(found.etag)),
            Ok(_) => Ok(StateWrite::Refused),
            Err(failure) if *failure.kind() == FailureKind::NotFound => Ok(StateWrite::Refused),
            Err(failure) => Err(self.store(failure)),
        }
    }

    fn bytes<T: StateRecord>(&self, record: &T) -> Result<Bytes, StateError> {
        let mut bytes = serde_json::to_vec(record).map_err(|error| StateError::Damaged {
            place: self.to_string(),
            what: error.to_string(),
        })?;
        bytes.push(b'\n');
        Ok(bytes.into())
    }

    /// Deletes an object, which need not exist.
    ///
    /// # Errors
    /// Fails if the request fails.
    pub async fn delete(&self, name: &str) -> Result<(), StateError> {
        let deleted = self
            .bucket
            .delete_object(&self.key(name)?, None, None)
            .await;
        deleted.map(drop).map_err(|failure| self.store(failure))
    }

    /// Lists the shards that have an object of this kind.
    ///
    /// # Errors
    /// A request failed.
    pub async fn list(&self, kind: PerShard) -> Result<BTreeMap<u32, ListedRecord>, StateError> {
        let prefix = self.key(kind.prefix())?;
        let order = Order::of_objects(self.bucket.capabilities().ordered_lists);
        let (operation, bucket) = (Operation::ListObjects, self.bucket.name());
        let mut paging =
            Paging::new(operation, bucket, prefix.as_str(), order).at_most(MAX_OBJECTS);
        let (mut found, mut token) = (BTreeMap::new(), None);
        loop {
            let page = self.bucket.list(prefix.as_str(), None, token.as_deref());
            let mut page = page.await.map_err(|failure| self.store(failure))?;
            let turn = paging
                .check(&mut page)
                .map_err(|failure| self.store(failure))?;
            if turn == PageVerdict::Again {
                continue;
            }
            for object in page.items {
                let name = object.key.strip_prefix(self.prefix.as_str());
                let shard = name.and_then(|name| kind.shard_of(name));
                let (etag, modified) = (object.etag, object.modified);
                found.extend(shard.map(|shard| (shard, ListedRecord { etag, modified })));
            }
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(found),
            }
        }
    }

    /// Reads the objects of this kind for many shards. Omits objects that no longer exist.
    ///
    /// # Errors
    /// A request failed, or an object cannot be read.
    pub async fn get_all<T: StateRecord + Send>(
        &self,
        kind: PerShard,
        shards: impl IntoIterator<Item = u32, IntoIter: Send>,
    ) -> Result<BTreeMap<u32, Stored<T>>, StateError> {
        let get = |shard| async move { Ok((shard, self.get(&kind.of(shard)).await?)) };
        let found: Vec<(u32, Option<Stored<T>>)> = stream::iter(shards)
            .map(get)
            .buffer_unordered(MAX_CONCURRENT)
            .try_collect()
            .await?;
        let found = found.into_iter();
        Ok(found
            .filter_map(|(shard, stored)| Some((shard, stored?)))
            .collect())
    }
}

/// Reads the bytes of an object.
fn read<T: StateRecord>(place: &str, bytes: &[u8]) -> Result<T, StateError> {
    #[derive(serde::Deserialize)]
    struct FormatOnly {
        format: u64,
    }
    let damaged = |error: serde_json::Error| StateError::Damaged {
        place: place.to_owned(),
        what: error.to_string(),
    };
    // A later format may lack fields that this format needs, so the format number is read first.
    let FormatOnly { format } = serde_json::from_slice(bytes).map_err(damaged)?;
    if format > u64::from(FORMAT) {
        return Err(StateError::NewerFormat {
            place: place.to_owned(),
            format,
        });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

impl std::fmt::Display for StateStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        S3Uri {
            bucket: self.bucket.name().clone(),
            key: self.prefix.clone(),
        }
        .fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{LeaseTerms, Writer};
    use crate::shards::record::PlanLease;

    #[test]
    fn a_later_format_is_refused_before_its_fields_are_read() {
        let lease = PlanLease {
            format: FORMAT,
            by: Writer::this_process(&LeaseTerms::default()),
            renewed: jiff::Timestamp::UNIX_EPOCH,
            released: false,
        };
        let text = serde_json::to_string(&lease).unwrap();
        assert_eq!(read::<PlanLease>("p", text.as_bytes()), Ok(lease));
        let later = read::<PlanLease>("s3://ops/run/plan.lease", br#"{"format":2}"#);
        let StateError::NewerFormat { place, format } = later.unwrap_err() else {
            panic!("it is a later format");
        };
        assert_eq!((place.as_str(), format), ("s3://ops/run/plan.lease", 2));
        for damaged in ["", "{}", "[1]", r#"{"format":1}"#, r#"{"format":"1"}"#] {
            let error = read::<PlanLease>("p", damaged.as_bytes()).unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{damaged}");
        }
    }
}
