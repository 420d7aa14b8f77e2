//! Remembers what the buckets of a run refuse, do not know, or ignore, so that it is asked once and
//! not for each object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::Work;
use crate::bucket::Bucket;
use crate::location::ObjectKey;
use crate::manifest::job::Attribute;
use crate::plan::asked::Asked;
use crate::plan::concede::concerns_whole_bucket;
use crate::plan::loss::{Loss, Lost};
use crate::s3::{Failure, FailureKind, Operation, Tag};

/// What buckets refused in this run.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    losses: Mutex<BTreeMap<(String, Attribute, Lost), Loss>>,
    /// By bucket, attributes that it was asked for and answered well.
    answered: Mutex<BTreeSet<(String, Attribute)>>,
    /// By bucket, what was asked for by requests of this kind and was there when the object was
    /// looked at.
    kept: Mutex<BTreeSet<(String, Operation, &'static str)>>,
    /// By bucket and request, what HEAD shows of locks: asked once.
    shown: Mutex<HashMap<(String, Operation), Once<Shown>>>,
    /// By bucket and request, true if the bucket ignores what is asked for and HEAD does not show:
    /// asked once.
    ignored: Mutex<HashMap<(String, Operation), Once<bool>>>,
}

/// What is asked once, and waited for by all who want to know.
type Once<T> = Arc<OnceCell<T>>;

impl Refusals {
    fn place(bucket: &Bucket) -> String {
        format!("{}/{}", bucket.client().endpoint(), bucket.name())
    }

    pub(super) fn get(&self, bucket: &Bucket, attribute: Attribute, lost: Lost) -> Option<Loss> {
        let losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        losses.get(&(Self::place(bucket), attribute, lost)).cloned()
    }

    pub(super) fn remember(&self, bucket: &Bucket, loss: &Loss) {
        if concerns_whole_bucket(loss.attribute) {
            let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
            losses.insert(
                (Self::place(bucket), loss.attribute, loss.lost),
                loss.clone(),
            );
        }
    }

    /// Takes note that a bucket knows the question for an attribute.
    pub(super) fn answered(&self, bucket: &Bucket, attribute: Attribute) {
        if !self.has_answered(bucket, attribute) {
            let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
            answered.insert((Self::place(bucket), attribute));
        }
    }

    pub(super) fn has_answered(&self, bucket: &Bucket, attribute: Attribute) -> bool {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.contains(&(Self::place(bucket), attribute))
    }

    /// Returns true if `write` asked the bucket for something that it has not been seen to keep
    /// yet, the object itself among it. Amazon S3 refuses what it cannot do, and needs no look.
    /// With `trust: nothing`, what it has kept before says nothing.
    pub(super) fn is_unproven(&self, bucket: &Bucket, write: Operation, asked: Asked<'_>) -> bool {
        if bucket.capabilities().refuses_what_it_lacks() {
            return false;
        }
        if !bucket.capabilities().believes_answers() {
            return true;
        }
        let place = Self::place(bucket);
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        asked
            .kinds()
            .into_iter()
            .any(|kind| !kept.contains(&(place.clone(), write, kind)))
    }

    /// Takes note that the bucket keeps what `write` asked for.
    pub(super) fn keeps(&self, bucket: &Bucket, write: Operation, asked: Asked<'_>) {
        if !bucket.capabilities().refuses_what_it_lacks() {
            let place = Self::place(bucket);
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(
                asked
                    .kinds()
                    .into_iter()
                    .map(|kind| (place.clone(), write, kind)),
            );
        }
    }

    pub(super) fn shown(&self, bucket: &Bucket, operation: Operation) -> Once<Shown> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shown.entry((Self::place(bucket), operation)).or_default())
    }

    /// Tells, once the first tags were set on an object that was there, if the bucket took them for
    /// its content.
    pub(super) fn replaces(&self, bucket: &Bucket) -> Once<bool> {
        let mut ignored = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            ignored
                .entry((Self::place(bucket), Operation::PutObjectTagging))
                .or_default(),
        )
    }

    /// Returns true if a bucket ignores an attribute that was asked for and that HEAD does not
    /// show. Asks `by` about this object, once for each bucket, or each time with `trust: nothing`;
    /// what may not be read is not known, and taken to be there.
    ///
    /// # Errors
    /// What may pass: then the next object asks again.
    pub(super) async fn is_ignored(
        &self,
        bucket: &Bucket,
        by: Operation,
        (key, version): (&ObjectKey, Option<&str>),
    ) -> Result<bool, Failure> {
        let once = {
            let mut ignored = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(ignored.entry((Self::place(bucket), by)).or_default())
        };
        let ask = async {
            let has_none = match by {
                Operation::GetObjectRetention => bucket
                    .retention(key, version)
                    .await
                    .map(|retention| retention.is_none()),
                Operation::GetObjectLegalHold => bucket
                    .legal_hold(key, version)
                    .await
                    .map(|hold| hold != Some(true)),
                _ => bucket.tags(key, version).await.map(|tags| tags.is_empty()),
            };
            match has_none {
                Err(failure) if *failure.kind() == FailureKind::Denied => Ok(false),
                Err(failure) if is_no_answer(&failure) => Ok(true),
                has_none => has_none,
            }
        };
        if !bucket.capabilities().believes_answers() {
            return Box::pin(ask).await;
        }
        once.get_or_try_init(|| Box::pin(ask)).await.copied()
    }
}

/// True for the answer of a server that does not know what it was asked.
pub(super) fn is_no_answer(failure: &Failure) -> bool {
    matches!(
        failure.kind(),
        FailureKind::Unsupported
            | FailureKind::NotUnderstood
            | FailureKind::Unreadable
            | FailureKind::Invalid
            | FailureKind::NotFound
    )
}

/// What HEAD shows of the locks in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// All: what it does not show is not there.
    All,
    /// Nothing, and why: for want of a permission, or because the server does not know the
    /// question.
    Nothing(String),
    /// The bucket has no Object Lock.
    NoLocks,
}

impl Work {
    /// Sets the tags of an object that is there. The first time, a server that may take them for
    /// the content of the object, or ignore them, is looked at afterwards.
    pub(super) async fn put_late_tags(
        &self,
        key: &ObjectKey,
        (etag, version): (&str, Option<&str>),
        tags: &[Tag],
    ) -> Result<(), Failure> {
        let destination = &self.sides.destination;
        let place = || destination.place(key);
        let unknown = |message: &str| {
            Failure::new(
                FailureKind::NotUnderstood,
                Operation::PutObjectTagging,
                place(),
                message,
            )
        };
        if destination.capabilities().refuses_what_it_lacks() {
            return destination.put_tags(key, version, tags).await;
        }
        if self.refusals.replaces(destination).get() == Some(&true) {
            return Err(unknown(
                "the server takes tags for the content of an object",
            ));
        }
        destination.put_tags(key, version, tags).await?;
        let replaces = self.refusals.replaces(destination);
        let look = async { Ok::<_, Failure>(destination.head(key, version).await?.etag != etag) };
        let has_replaced = if destination.capabilities().believes_answers() {
            *replaces.get_or_try_init(|| Box::pin(look)).await?
        } else {
            Box::pin(look).await?
        };
        if has_replaced {
            let message = "the server took the tags for the content of the object";
            return Err(self.not_equal(key, message));
        }
        // An object without tags shows nothing about what the bucket keeps of others.
        let is_ignored = if tags.is_empty() {
            !Box::pin(destination.tags(key, version)).await?.is_empty()
        } else {
            let by = Operation::GetObjectTagging;
            self.refusals
                .is_ignored(destination, by, (key, version))
                .await?
        };
        if is_ignored {
            return Err(unknown("the server ignored the tags"));
        }
        Ok(())
    }
}
