//! Aborts uploads, and proves that they are gone.
//!
//! A 204 to `AbortMultipartUpload` proves little: parts in flight may arrive after it, and some
//! servers answer without effect. `ListParts` proves that the upload is gone if the server supports
//! it, otherwise `ListMultipartUploads` does. If the server supports neither, the caller reports
//! that once, with the ID and the command that the user needs.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::TryStreamExt;
use jiff::Timestamp;
use tokio::time::sleep;

use super::{MultipartUpload, uploads_to};
use crate::bucket::Bucket;
use crate::location::{ObjectKey, S3Uri};
use crate::printable::shell;
use crate::s3::{Attributes, Failure, FailureKind, OpenUpload, Operation};

/// The number of aborts while parts that were in flight still arrive.
const ABORT_ROUNDS: u32 = 8;
/// The number of aborts while the list of uploads still shows the upload: lists may lag behind.
const LISTED_ROUNDS: u32 = 4;
/// The clock difference between server and client up to which an upload counts as created by this
/// run. It is small, because the upload may be another writer's.
const CREATE_TOLERANCE: Duration = Duration::from_secs(10);
/// The clock difference from which a server refuses signed requests.
const MAX_SKEW: Duration = Duration::from_mins(15);

/// The result of an abort that the server did not refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aborted {
    /// The server no longer has the upload.
    Gone,
    /// The server had no such upload under this key.
    NotThere,
    /// The server accepted the abort and does not show whether the upload is gone.
    Unverified(Failure),
    /// The server accepted several aborts and still lists the upload, so that another abort would
    /// change nothing.
    StillListed(Failure),
}

/// An upload that may be left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// The upload ID; `None` if the server never returned it.
    pub id: Option<String>,
    /// The reason why the upload may be left open.
    pub why: String,
    /// True if another attempt to abort it may succeed.
    pub(crate) may_pass: bool,
}

impl Stray {
    fn new(id: &str, why: impl Into<String>) -> Self {
        Self {
            id: Some(id.to_owned()),
            why: why.into(),
            may_pass: false,
        }
    }

    pub(crate) fn failed(id: Option<&str>, failure: &Failure) -> Self {
        let (id, why) = (id.map(str::to_owned), failure.to_string());
        Self {
            id,
            why,
            may_pass: may_pass(failure),
        }
    }

    /// Returns the stray of a Create that the run stopped waiting for.
    pub(crate) fn interrupted() -> Self {
        let why = "the run was stopped before the server answered";
        Self {
            id: None,
            why: why.to_owned(),
            may_pass: true,
        }
    }

    pub(crate) fn unanswered(id: Option<&str>, within: Duration) -> Self {
        let why = format!("no answer within {} s", within.as_secs());
        Self {
            id: id.map(str::to_owned),
            why,
            may_pass: true,
        }
    }

    /// Returns a sentence for the user: the upload, the reason, and the command that shows or
    /// aborts it.
    #[must_use]
    pub fn describe(&self, bucket: &Bucket, key: &ObjectKey) -> String {
        let Self { id, why, .. } = self;
        match id {
            Some(id) => format!(
                "the upload {id} may be left open: {why}; abort it with `{}`",
                command(bucket, "abort", key, Some(id))
            ),
            None => format!(
                "an upload of unknown id may be left open: {why}; `{}` lists it if it exists",
                command(bucket, "list", key, None)
            ),
        }
    }
}

/// Returns true for a failure after which the same request may succeed later.
fn may_pass(failure: &Failure) -> bool {
    failure.kind().may_pass_later() || failure.ends_run() || *failure.kind() == FailureKind::Stopped
}

/// Returns the command that lists or aborts the uploads at a key, with the flags that name the
/// endpoint.
pub(crate) fn command(bucket: &Bucket, verb: &str, key: &ObjectKey, id: Option<&str>) -> String {
    let location = S3Uri {
        bucket: bucket.name().clone(),
        key: key.clone(),
    };
    command_at(&location, &bucket.client().flags(), verb, id)
}

/// Returns this command for a location at the endpoint that these flags name.
pub(crate) fn command_at(
    location: &S3Uri,
    flags: &[String],
    verb: &str,
    id: Option<&str>,
) -> String {
    let location = location.to_string();
    let mut words = vec!["uploads", verb, &location];
    words.extend(flags.iter().map(String::as_str));
    if let Some(id) = id {
        // Without `--`, an ID that begins with `-` would be parsed as a flag.
        words.extend(id.starts_with('-').then_some("--"));
        words.push(id);
    }
    shell::command(words)
}

impl MultipartUpload {
    /// Aborts the upload and frees its parts. Parts that were in flight may arrive after an abort,
    /// so it is repeated until the server shows none. Let requests in flight end before the call.
    ///
    /// # Errors
    /// Returns the failure of S3, an error if nothing shows that the upload is gone, and
    /// [`FailureKind::Transient`] if parts keep arriving.
    pub async fn cancel(&self) -> Result<(), Failure> {
        match self.abort().await? {
            Aborted::Gone | Aborted::NotThere => Ok(()),
            Aborted::Unverified(failure) | Aborted::StillListed(failure) => Err(failure),
        }
    }

    /// Aborts the upload as [`MultipartUpload::cancel`] does. An `Err` means that the upload is
    /// still open; an abort without proof is not an error.
    pub(crate) async fn abort(&self) -> Result<Aborted, Failure> {
        let mut end = Aborted::Gone;
        for round in 0..ABORT_ROUNDS {
            let had_it = self.bucket.abort_upload(&self.key, &self.id).await?;
            if round == 0 && !had_it {
                end = Aborted::NotThere;
            }
            let held = self.bucket.list_parts(&self.key, &self.id, None).await;
            let unread = match held {
                Ok(page) if page.items.is_empty() => None,
                Ok(_) => {
                    sleep(pause(round)).await;
                    continue;
                }
                Err(failure) if failure.details().code == "NoSuchUpload" => return Ok(end),
                Err(failure) if *failure.kind() == FailureKind::Stopped => return Err(failure),
                Err(failure) => Some(failure),
            };
            let (failure, unread) = match (self.is_listed().await, unread) {
                (Ok(true), _) if round + 1 < LISTED_ROUNDS => {
                    sleep(pause(round)).await;
                    continue;
                }
                (Ok(true), _) => {
                    let why = "the server accepts the abort and still lists the upload";
                    return Ok(Aborted::StillListed(
                        self.still_there(FailureKind::ServerFault, why),
                    ));
                }
                (Ok(false), _) => return Ok(end),
                (Err(failure), unread) => (failure, unread),
            };
            if *failure.kind() == FailureKind::Stopped {
                return Err(failure);
            }
            return Ok(match unread {
                // Some servers answer with another 404 code.
                Some(unread) if *unread.kind() == FailureKind::NoSuchUpload => end,
                Some(unread) => Aborted::Unverified(unread),
                // A server may answer with an empty list for an upload that no longer exists, or
                // for an upload without parts that it did not abort.
                None => Aborted::Unverified(failure.noting(
                    "and its list of parts is empty, which an upload without parts shows too",
                )),
            });
        }
        Err(self.still_there(
            FailureKind::Transient,
            "parts keep turning up after the abort",
        ))
    }

    fn still_there(&self, kind: FailureKind, why: &str) -> Failure {
        let (place, message) = (
            self.bucket.place(&self.key),
            format!("{why} (upload {})", self.id),
        );
        Failure::new(kind, Operation::AbortMultipartUpload, place, message)
    }

    /// Returns true if the list of the bucket's uploads contains this one.
    async fn is_listed(&self) -> Result<bool, Failure> {
        Ok(self.entry().await?.is_some())
    }

    /// Returns the entry of this upload in the list of the bucket's uploads.
    pub(crate) async fn entry(&self) -> Result<Option<OpenUpload>, Failure> {
        let mut listed =
            std::pin::pin!(Self::list(&self.bucket, prefix_of(&self.bucket, &self.key)));
        while let Some(open) = listed.try_next().await? {
            if open.upload_id == self.id {
                return Ok(Some(open));
            }
        }
        Ok(None)
    }

    /// Returns true if the server no longer has the upload. If `ListParts` cannot be read, the list
    /// of all uploads decides.
    pub(crate) async fn is_gone(&self) -> Result<bool, Failure> {
        match self.page(None).await {
            Ok(_) => Ok(false),
            Err(failure) if *failure.kind() == FailureKind::NoSuchUpload => Ok(true),
            Err(failure) if may_pass(&failure) => Err(failure),
            Err(failure) => self
                .is_listed()
                .await
                .map(|listed| !listed)
                .map_err(|_| failure),
        }
    }

    /// Aborts the twins of this upload: uploads that earlier attempts to create it left open.
    /// Create is not idempotent, so an attempt whose response was lost may have created an upload
    /// of unknown ID. A twin has this key, no parts, and was created shortly before; another
    /// writer's upload has parts or a later time.
    ///
    /// A twin holds no bytes, so a twin that cannot be aborted does not fail the upload, but is
    /// added to [`MultipartUpload::strays`].
    pub(super) async fn abort_twins(&mut self, began: Timestamp) {
        let now = Timestamp::now();
        let listed: Vec<_> = match uploads_to(&self.bucket, &self.key).try_collect().await {
            Ok(listed) => listed,
            Err(failure) => {
                self.strays.push(Stray::failed(None, &failure));
                return;
            }
        };
        // If the server dates uploads by a clock, that clock decides.
        let ours = listed
            .iter()
            .find(|open| open.upload_id == self.id)
            .and_then(|open| open.initiated);
        let is_clock = ours.is_none_or(|ours| is_within(ours, (began, now), MAX_SKEW));
        let since: Duration = now.duration_since(began).try_into().unwrap_or_default();
        let is_twin = |open: &OpenUpload| match (ours, open.initiated) {
            _ if !is_clock => None,
            (Some(ours), Some(initiated)) => {
                let age = ours.duration_since(initiated);
                Some(!age.is_negative() && age.unsigned_abs() <= since + Duration::from_secs(2))
            }
            _ => began_between(open, (began, now)),
        };
        let candidates = listed.iter().filter(|open| open.upload_id != self.id);
        let candidates = candidates.map(|open| (open, is_twin(open)));
        let strays = end_empty(&self.bucket, &self.key, candidates).await;
        self.strays.extend(strays);
    }

    /// Aborts the uploads of attempts that the server refused, for instance with `SlowDown`, but
    /// that took effect anyway. Sends no request if there was no refusal. Returns the uploads that
    /// may be left open. Returns none if the server does not list uploads, because a refused Create
    /// hardly ever takes effect.
    pub(crate) async fn refused_twins(&self, known: &BTreeSet<String>) -> Vec<Stray> {
        let Some(window) = self.refused else {
            return Vec::new();
        };
        let mut known = known.clone();
        known.insert(self.id.clone());
        after_refusal(&self.bucket, &self.key, window, &known).await
    }

    /// Returns true if a request to create this upload was overtaken by another one and may create
    /// another upload.
    pub(crate) fn has_late_twin(&self) -> bool {
        !self.late.is_empty()
    }

    /// Waits a few seconds for the overtaken requests, and aborts the uploads that they created.
    /// Returns the uploads that may be left open.
    pub(crate) async fn late_twins(&self, known: &BTreeSet<String>) -> Vec<Stray> {
        let mut known = known.clone();
        known.insert(self.id.clone());
        let settled = self.late.iter().cloned();
        let settled = settled.map(|late| late.settled(&self.bucket, &self.key, &known));
        join_all(settled).await.into_iter().flatten().collect()
    }

    /// Returns the uploads that earlier attempts to create this one may have left open.
    #[doc(hidden)]
    #[must_use]
    pub fn strays(&self) -> &[Stray] {
        &self.strays
    }
}

/// Returns the pause before an abort is repeated.
fn pause(round: u32) -> Duration {
    Duration::from_millis(50) * 2_u32.pow(round)
}

/// Returns true if the server may have created an upload between two times of our clock.
pub(crate) fn was_created_between(initiated: Timestamp, from: Timestamp, until: Timestamp) -> bool {
    is_within(initiated, (from, until), CREATE_TOLERANCE)
}

fn is_within(
    initiated: Timestamp,
    (from, until): (Timestamp, Timestamp),
    tolerance: Duration,
) -> bool {
    let early = initiated
        .checked_add(tolerance)
        .is_ok_and(|latest| latest < from);
    let late = until
        .checked_add(tolerance)
        .is_ok_and(|latest| latest < initiated);
    !early && !late
}

/// Returns true if an upload was created between two times of our clock, or `None` if its time does
/// not show that.
fn began_between(open: &OpenUpload, window: (Timestamp, Timestamp)) -> Option<bool> {
    let initiated = open.initiated?;
    if is_within(initiated, window, CREATE_TOLERANCE) {
        return Some(true);
    }
    (!is_within(initiated, window, MAX_SKEW)).then_some(false)
}

/// Aborts the uploads that an unanswered Create to `key` may have created between two times: those
/// without parts whose IDs are not `known`. Returns the uploads that may be left open.
///
/// # Errors
/// Returns the failure of the list.
pub(crate) async fn abort_unknown(
    bucket: &Bucket,
    key: &ObjectKey,
    window: (Timestamp, Timestamp),
    known: &BTreeSet<String>,
) -> Result<Vec<Stray>, Failure> {
    let candidates = unknown(bucket, key, window, known).await?;
    Ok(end_empty(
        bucket,
        key,
        candidates.iter().map(|(open, ours)| (open, *ours)),
    )
    .await)
}

/// Aborts the uploads of a Create that the server refused, like [`abort_unknown`]. A server that
/// refuses the list too causes no warning.
pub(crate) async fn after_refusal(
    bucket: &Bucket,
    key: &ObjectKey,
    window: (Timestamp, Timestamp),
    known: &BTreeSet<String>,
) -> Vec<Stray> {
    match abort_unknown(bucket, key, window, known).await {
        Ok(strays) => strays,
        Err(failure) if failure.refuses_access() => {
            tracing::debug!(%key, %failure, "nothing shows if a refused upload was created");
            Vec::new()
        }
        Err(failure) => vec![Stray::failed(None, &failure)],
    }
}

/// Aborts the uploads of a Create of an earlier run, like [`abort_unknown`]. If the times of the
/// uploads to the key do not fit, creates one more upload to find out whether the server dates
/// uploads by a clock: some servers give every upload the same date.
///
/// # Errors
/// Returns the failure of the list.
pub(crate) async fn abort_forgotten(
    bucket: &Bucket,
    key: &ObjectKey,
    window: (Timestamp, Timestamp),
    known: &BTreeSet<String>,
) -> Result<Vec<Stray>, Failure> {
    let mut candidates = unknown(bucket, key, window, known).await?;
    let mut strays = Vec::new();
    if candidates.iter().any(|(_, ours)| *ours == Some(false))
        && !has_clock(bucket, key, &mut strays).await
    {
        for (_, ours) in &mut candidates {
            *ours = None;
        }
    }
    strays.extend(
        end_empty(
            bucket,
            key,
            candidates.iter().map(|(open, ours)| (open, *ours)),
        )
        .await,
    );
    Ok(strays)
}

/// Returns the uploads to `key` whose IDs are not `known`, each with true if its time is in the
/// window, or `None` if its time does not show that.
async fn unknown(
    bucket: &Bucket,
    key: &ObjectKey,
    window: (Timestamp, Timestamp),
    known: &BTreeSet<String>,
) -> Result<Vec<(OpenUpload, Option<bool>)>, Failure> {
    let listed: Vec<_> = uploads_to(bucket, key).try_collect().await?;
    let unknown = listed
        .into_iter()
        .filter(|open| !known.contains(&open.upload_id));
    Ok(unknown
        .map(|open| (open.clone(), began_between(&open, window)))
        .collect())
}

/// Creates an upload, and returns false if the server dates it differently from the current time.
/// Returns true if the server's clock cannot be determined.
async fn has_clock(bucket: &Bucket, key: &ObjectKey, strays: &mut Vec<Stray>) -> bool {
    let before = Timestamp::now();
    let Ok(upload) = MultipartUpload::initiate(bucket, key, &Attributes::default()).await else {
        return true;
    };
    let listed: Result<Vec<_>, _> = uploads_to(bucket, key).try_collect().await;
    strays.extend(upload.strays.iter().cloned());
    strays.extend(upload.end().await);
    let ours = listed
        .ok()
        .and_then(|listed| listed.into_iter().find(|open| open.upload_id == upload.id));
    let initiated = ours.and_then(|ours| ours.initiated);
    initiated.is_none_or(|initiated| is_within(initiated, (before, Timestamp::now()), MAX_SKEW))
}

/// Aborts the uploads that are ours and hold no part. Returns the uploads that may be ours, and our
/// uploads that may be left open.
async fn end_empty(
    bucket: &Bucket,
    key: &ObjectKey,
    candidates: impl Iterator<Item = (&OpenUpload, Option<bool>)>,
) -> Vec<Stray> {
    let mut strays = Vec::new();
    for (open, ours) in candidates.filter(|(_, ours)| *ours != Some(false)) {
        let id = open.upload_id.as_str();
        let upload = MultipartUpload::open(bucket, key, id);
        match upload.page(None).await {
            // An upload with parts belongs to another process.
            Ok(page) if !page.items.is_empty() => {}
            Ok(_) if ours.is_none() => {
                strays.push(Stray::new(
                    id,
                    "its time does not show whether this run created it",
                ));
            }
            Ok(_) => strays.extend(upload.end().await),
            Err(failure) if *failure.kind() == FailureKind::NoSuchUpload => {}
            // This may be another writer's upload, with parts.
            Err(failure) => strays.push(Stray::failed(Some(id), &failure)),
        }
    }
    strays
}

/// Returns a list prefix that finds the uploads to `key`. In a directory bucket, prefixes end in a
/// slash.
pub(super) fn prefix_of<'k>(bucket: &Bucket, key: &'k ObjectKey) -> &'k str {
    let key = key.as_str();
    let folder = key.rfind('/').map_or("", |slash| &key[..=slash]);
    if bucket.capabilities().directory {
        folder
    } else {
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_ours_by_its_time_or_not_or_nobody_can_tell() {
        let now = Timestamp::now();
        let open = |initiated| OpenUpload {
            key: String::new(),
            upload_id: String::new(),
            initiated,
            storage_class: None,
        };
        let window = (now - Duration::from_secs(5), now);
        for (initiated, expected) in [
            (Some(now), Some(true)),
            (Some(now + Duration::from_secs(9)), Some(true)),
            (Some(now + Duration::from_mins(5)), None),
            (Some(now - Duration::from_mins(5)), None),
            (Some(now - Duration::from_hours(1)), Some(false)),
            (None, None),
        ] {
            assert_eq!(
                began_between(&open(initiated), window),
                expected,
                "{initiated:?}"
            );
        }
    }
}
