//! Removes what a probe created, and checks what remains.
//!
//! The response to an abort or a delete proves little: a completed upload no longer exists, and a
//! server may report its abort as an error. So the probe first removes everything. It reports as
//! left behind only what a list still shows and a request for that object or upload confirms. The
//! prefix was empty before, so everything below it belongs to the probe, and the lists also find
//! objects of requests that got no response.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::finding::{How, ProbeAnswer, RequestFinding};
use super::scratch::{ProbeWrite, Scratch, UnconfirmedWrite, answer_from, reason};
use crate::bucket::Bucket;
use crate::location::ObjectKey;
use crate::multipart::{self, MultipartUpload};
use crate::printable::shell;
use crate::s3::paging::{Order, PageVerdict, Paging};
use crate::s3::{Capabilities, Failure, FailureKind, ListedVersion, Operation};

/// The maximum number of requests in flight.
const MAX_CONCURRENT: usize = 8;

/// The kinds of leftovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeftoverKind {
    /// An object in a bucket without versions.
    Object,
    /// A version of an object.
    Version,
    /// A delete marker.
    DeleteMarker,
    /// An open upload.
    Upload,
}

impl fmt::Display for LeftoverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Object => "object",
            Self::Version => "version",
            Self::DeleteMarker => "delete marker",
            Self::Upload => "upload",
        })
    }
}

/// Something that the probe created and did not remove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Leftover {
    /// The kind of leftover.
    pub what: LeftoverKind,
    /// The key.
    pub key: String,
    /// The version ID or the upload ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// False if nothing shows whether the removal took effect, or whether the object ever existed.
    pub is_certain: bool,
    /// The reason why it was not removed.
    pub reason: String,
    /// The command that removes the leftover, or shows it if its ID is unknown.
    pub command: String,
}

/// The result of the clean-up.
pub(super) struct Cleaned {
    pub(super) left: Vec<Leftover>,
    pub(super) requests: [RequestFinding; 2],
}

/// An attempt to remove something, and the server's answer.
struct RemovalAttempt {
    made: ProbeWrite,
    answer: Result<(), Failure>,
}

/// Removes everything that was created, and checks that it no longer exists, within `limit`.
pub(super) async fn clean(scratch: Scratch, bucket: &Bucket, limit: Duration) -> Cleaned {
    let deadline = Instant::now() + limit;
    // The server may claim an encoding that it does not apply. The clean-up would not recognize
    // encoded names.
    let capabilities = scratch.bucket.capabilities().clone();
    let plain = Capabilities {
        encoded_lists: false,
        encoded_uploads: false,
        ..capabilities
    };
    let cleaner = Cleaner {
        bucket: bucket.assuming(plain),
        prefix: scratch.prefix.clone(),
        deadline,
    };
    let (uploads, abort, uploads_are_listed) = cleaner
        .remove_uploads(&scratch.uploads, &scratch.completed)
        .await;
    if let Some(end) = scratch.locked_until {
        sleep_until(end).await;
    }
    let (objects, delete) = cleaner.remove_objects(&scratch.objects).await;
    let mut left = [uploads, objects].concat();
    // A list and a HEAD may name the same version. Keeps the certain leftover.
    left.sort_unstable_by(|one, other| other.cmp(one));
    left.dedup_by(|other, one| {
        (other.what, &other.key, &other.id) == (one.what, &one.key, &one.id)
    });
    left.reverse();
    for doubt in scratch.doubts.iter().collect::<BTreeSet<_>>() {
        let is_reported = left.iter().any(|left| left.key == doubt.key.as_str());
        if !is_reported && (doubt.is_late || (doubt.is_upload && !uploads_are_listed)) {
            left.push(cleaner.doubtful(doubt));
        }
    }
    let request = |operation, measured| RequestFinding {
        operation,
        measured,
        is_needed: false,
    };
    let requests = [
        request(Operation::AbortMultipartUpload, abort),
        request(Operation::DeleteObject, delete),
    ];
    Cleaned { left, requests }
}

struct Cleaner {
    bucket: Bucket,
    prefix: String,
    deadline: Instant,
}

impl Cleaner {
    /// Sends a request unless the time limit has passed.
    async fn within<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        timeout_at(self.deadline, request)
            .await
            .unwrap_or_else(|_| {
                let message = "the time for cleaning up is over";
                Err(Failure::new(
                    FailureKind::TimedOut,
                    operation,
                    self.prefix.clone(),
                    message,
                ))
            })
    }

    /// Removes several things, a few at a time.
    async fn remove(&self, what: LeftoverKind, all: Vec<ProbeWrite>) -> Vec<RemovalAttempt> {
        let removals: Vec<_> = all
            .into_iter()
            .map(|made| self.remove_one(what, made))
            .collect();
        stream::iter(removals)
            .buffer_unordered(MAX_CONCURRENT)
            .collect()
            .await
    }

    async fn remove_one(&self, what: LeftoverKind, made: ProbeWrite) -> RemovalAttempt {
        let answer = if what == LeftoverKind::Upload {
            let id = made.id.clone().unwrap_or_default();
            let abort = async { self.bucket.abort_upload(&made.key, &id).await.map(drop) };
            self.within(Operation::AbortMultipartUpload, abort).await
        } else {
            let delete = self
                .bucket
                .delete_object(&made.key, made.id.as_deref(), None);
            self.within(Operation::DeleteObject, delete).await
        };
        RemovalAttempt { made, answer }
    }

    async fn remove_uploads(
        &self,
        open: &[ProbeWrite],
        completed: &[ProbeWrite],
    ) -> (Vec<Leftover>, ProbeAnswer, bool) {
        let mut removed = self.remove(LeftoverKind::Upload, distinct(open)).await;
        let mut listed = self.list_uploads().await;
        let more: Vec<_> = match &listed {
            // These are uploads whose IDs were lost, and uploads that Complete did not end.
            Ok(shown) => shown
                .iter()
                .filter(|made| !open.contains(made))
                .cloned()
                .collect(),
            Err(_) => completed.to_vec(),
        };
        if !more.is_empty() {
            removed.extend(self.remove(LeftoverKind::Upload, more).await);
            listed = self.list_uploads().await;
        }
        let checks: Vec<_> = removed
            .iter()
            .map(|upload| self.left_upload(upload, &listed))
            .collect();
        let left: Vec<_> = stream::iter(checks)
            .buffer_unordered(MAX_CONCURRENT)
            .collect()
            .await;
        let left: Vec<_> = left.into_iter().flatten().collect();
        let answer = removal_answer(&removed, &left);
        (left, answer, listed.is_ok())
    }

    /// Describes an object or upload that may exist although no list shows it.
    fn doubtful(
        &self,
        UnconfirmedWrite {
            key,
            is_upload,
            is_late,
        }: &UnconfirmedWrite,
    ) -> Leftover {
        let (what, command) = if *is_upload {
            (
                LeftoverKind::Upload,
                multipart::command(&self.bucket, "list", key, None),
            )
        } else {
            (
                LeftoverKind::Object,
                self.delete_command(key.as_str(), None),
            )
        };
        let reason = if *is_late {
            "the request that makes it got no answer, and may still take effect"
        } else {
            "the request that makes it got no readable answer, and open uploads cannot be listed"
        };
        let (key, reason) = (key.to_string(), reason.to_owned());
        Leftover {
            what,
            key,
            id: None,
            is_certain: false,
            reason,
            command,
        }
    }

    async fn list_uploads(&self) -> Result<Vec<ProbeWrite>, Failure> {
        let list = MultipartUpload::list(&self.bucket, &self.prefix).try_collect::<Vec<_>>();
        let open = self.within(Operation::ListMultipartUploads, list).await?;
        let made = |open: crate::s3::OpenUpload| {
            let key = ObjectKey::new(&open.key).ok()?;
            Some(ProbeWrite {
                key,
                id: Some(open.upload_id),
            })
        };
        Ok(open.into_iter().filter_map(made).collect())
    }

    /// Checks whether an upload remains, if the list does not show that it is gone.
    async fn left_upload(
        &self,
        RemovalAttempt { made, answer, .. }: &RemovalAttempt,
        listed: &Result<Vec<ProbeWrite>, Failure>,
    ) -> Option<Leftover> {
        let id = made.id.clone().unwrap_or_default();
        let is_shown = match listed {
            Ok(shown) if !shown.iter().any(|open| open.id == made.id) => return None,
            Ok(_) => true,
            Err(_) => false,
        };
        let upload = MultipartUpload::open(&self.bucket, &made.key, &id);
        let parts = upload.parts().try_collect::<Vec<_>>();
        let (is_certain, why) = match (self.within(Operation::ListParts, parts).await, answer) {
            (Err(failure), _) if *failure.kind() == FailureKind::NoSuchUpload => return None,
            // For an upload that no longer exists, some servers return an empty list.
            (Ok(parts), Ok(())) if parts.is_empty() && !is_shown => return None,
            (parts, Err(failure)) => {
                let has_parts = parts.is_ok_and(|parts| !parts.is_empty());
                (
                    is_shown || has_parts || had_no_effect(failure),
                    reason(failure),
                )
            }
            (Ok(_), Ok(())) => (true, still_there(Operation::AbortMultipartUpload)),
            (Err(_), Ok(())) if is_shown => (true, still_there(Operation::AbortMultipartUpload)),
            (Err(failure), Ok(())) => {
                let why = reason(&failure);
                (
                    false,
                    format!(
                        "the server accepts the abort and does not show whether it is gone ({why})"
                    ),
                )
            }
        };
        let command = multipart::command(&self.bucket, "abort", &made.key, Some(&id));
        let key = made.key.to_string();
        Some(Leftover {
            what: LeftoverKind::Upload,
            key,
            id: Some(id),
            is_certain,
            reason: why,
            command,
        })
    }

    async fn remove_objects(&self, known: &[ProbeWrite]) -> (Vec<Leftover>, ProbeAnswer) {
        let mut removed = self.remove(LeftoverKind::Object, distinct(known)).await;
        // Finds versions and delete markers that no response mentioned. Not all servers support the
        // request.
        let versions = self.list_versions().await.unwrap_or_default();
        for (what, is_marker) in [
            (LeftoverKind::Version, false),
            (LeftoverKind::DeleteMarker, true),
        ] {
            let all: Vec<_> = versions
                .iter()
                .filter(|version| version.is_marker == is_marker)
                .filter_map(|version| {
                    let key = ObjectKey::new(&version.key).ok()?;
                    Some(ProbeWrite {
                        key,
                        id: Some(version.id.clone()),
                    })
                })
                .collect();
            removed.extend(self.remove(what, all).await);
        }
        let still_listed = if versions.is_empty() {
            Ok(Vec::new())
        } else {
            self.list_versions().await
        };
        // Without a second list, nothing shows which versions are gone.
        let unlisted: Vec<_> = match &still_listed {
            Ok(_) => Vec::new(),
            Err(failure) => versions
                .iter()
                .filter_map(|version| self.unlisted_version(version, &removed, failure))
                .collect(),
        };
        let versions = still_listed.unwrap_or_default();
        let mut listed = self.list_objects().await;
        if let Ok(keys) = &listed {
            let unknown: Vec<_> = keys
                .iter()
                .filter(|key| !removed.iter().any(|removed| removed.made.key == **key))
                .map(|key| ProbeWrite {
                    key: key.clone(),
                    id: None,
                })
                .collect();
            if !unknown.is_empty() {
                removed.extend(self.remove(LeftoverKind::Object, unknown).await);
                listed = self.list_objects().await;
            }
        }
        let mut left: Vec<_> = versions
            .iter()
            .map(|version| self.left_version(version, &removed))
            .chain(unlisted)
            .collect();
        let shown: BTreeSet<ObjectKey> = match listed {
            Ok(keys) => keys.into_iter().collect(),
            // Without a list, a HEAD checks each object.
            Err(_) => removed
                .iter()
                .map(|removed| removed.made.key.clone())
                .collect(),
        };
        let checks: Vec<_> = shown
            .iter()
            .filter(|key| !versions.iter().any(|version| version.key == key.as_str()))
            .map(|key| self.left_object(key, &removed))
            .collect();
        let objects: Vec<_> = stream::iter(checks)
            .buffer_unordered(MAX_CONCURRENT)
            .collect()
            .await;
        left.extend(objects.into_iter().flatten());
        let answer = removal_answer(&removed, &left);
        (left, answer)
    }

    async fn list_objects(&self) -> Result<Vec<ObjectKey>, Failure> {
        let mut paging = Paging::new(
            Operation::ListObjects,
            self.bucket.name(),
            &self.prefix,
            Order::Short,
        );
        let (mut keys, mut token) = (Vec::new(), None);
        loop {
            let list = self.bucket.list(&self.prefix, None, token.as_deref());
            let mut page = self.within(Operation::ListObjects, list).await?;
            if paging.check(&mut page)? == PageVerdict::Again {
                continue;
            }
            keys.extend(
                page.items
                    .iter()
                    .filter_map(|object| ObjectKey::new(&object.key).ok()),
            );
            token = page.next;
            if token.is_none() {
                return Ok(keys);
            }
        }
    }

    async fn list_versions(&self) -> Result<Vec<ListedVersion>, Failure> {
        let operation = Operation::ListObjectVersions;
        let mut paging = Paging::new(operation, self.bucket.name(), &self.prefix, Order::Short);
        let (mut versions, mut after) = (Vec::new(), None);
        loop {
            let list = self.bucket.list_versions(&self.prefix, after.as_ref());
            let mut page = self.within(operation, list).await?;
            if paging.check(&mut page)? == PageVerdict::Again {
                continue;
            }
            versions.extend(page.items);
            after = page.next;
            if after.is_none() {
                return Ok(versions);
            }
        }
    }

    /// Checks whether an object remains.
    async fn left_object(&self, key: &ObjectKey, removed: &[RemovalAttempt]) -> Option<Leftover> {
        let head = self
            .within(Operation::HeadObject, self.bucket.head(key, None))
            .await;
        let answer = removed
            .iter()
            .rev()
            .find(|removed| removed.made.key == *key)
            .map(|found| &found.answer);
        let (is_certain, why) = match (&head, answer) {
            (Err(failure), _) if *failure.kind() == FailureKind::NotFound => return None,
            // A delete without a response may have taken effect; only HEAD shows whether it has.
            (_, Some(Err(failure))) => (head.is_ok() || had_no_effect(failure), reason(failure)),
            (Ok(_), _) => (true, still_there(Operation::DeleteObject)),
            (Err(failure), _) => {
                let why = reason(failure);
                (
                    false,
                    format!(
                        "the server accepts the delete and does not show whether it is gone ({why})"
                    ),
                )
            }
        };
        let id = head.ok().and_then(|head| head.version);
        let what = if id.is_some() {
            LeftoverKind::Version
        } else {
            LeftoverKind::Object
        };
        let command = self.delete_command(key.as_str(), id.as_deref());
        Some(Leftover {
            what,
            key: key.to_string(),
            id,
            is_certain,
            reason: why,
            command,
        })
    }

    /// Describes a version whose removal is unconfirmed because the second list failed. The version
    /// certainly remains only if the server refused the delete.
    fn unlisted_version(
        &self,
        version: &ListedVersion,
        removed: &[RemovalAttempt],
        listing: &Failure,
    ) -> Option<Leftover> {
        let attempt = removal_of(version, removed)?;
        let left = self.left_version(version, removed);
        Some(match &attempt.answer {
            Err(failure) => Leftover {
                is_certain: had_no_effect(failure),
                ..left
            },
            Ok(()) => Leftover {
                is_certain: false,
                reason: format!(
                    "the server accepts the delete and does not show whether it is gone ({})",
                    reason(listing)
                ),
                ..left
            },
        })
    }

    fn left_version(&self, version: &ListedVersion, removed: &[RemovalAttempt]) -> Leftover {
        let failure =
            removal_of(version, removed).and_then(|removed| removed.answer.as_ref().err());
        // `null` is the version ID of objects in a bucket without versions.
        let id = Some(version.id.clone()).filter(|id| id != "null" || version.is_marker);
        Leftover {
            what: match id {
                _ if version.is_marker => LeftoverKind::DeleteMarker,
                Some(_) => LeftoverKind::Version,
                None => LeftoverKind::Object,
            },
            key: version.key.clone(),
            is_certain: true,
            reason: failure.map_or_else(|| still_there(Operation::DeleteObject), reason),
            command: self.delete_command(&version.key, id.as_deref()),
            id,
        }
    }

    fn delete_command(&self, key: &str, version: Option<&str>) -> String {
        let mut words = vec![
            "aws",
            "s3api",
            "delete-object",
            "--bucket",
            self.bucket.name().as_str(),
        ];
        words.extend(["--key", key]);
        if let Some(version) = version {
            words.extend(["--version-id", version]);
        }
        if let Some(url) = self.bucket.client().url() {
            words.extend(["--endpoint-url", url]);
        }
        shell::line(words)
    }
}

/// Returns true if the server refused a request, so that it had no effect.
fn had_no_effect(failure: &Failure) -> bool {
    failure.is_answer() && !failure.kind().outcome_unknown()
}

fn distinct(all: &[ProbeWrite]) -> Vec<ProbeWrite> {
    all.iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .cloned()
        .collect()
}

/// Returns the last attempt to remove a version.
fn removal_of<'r>(
    version: &ListedVersion,
    removed: &'r [RemovalAttempt],
) -> Option<&'r RemovalAttempt> {
    let is_this_version = |removed: &&RemovalAttempt| {
        removed.made.key.as_str() == version.key && removed.made.id.as_ref() == Some(&version.id)
    };
    removed.iter().rev().find(is_this_version)
}

fn still_there(operation: Operation) -> String {
    format!("the server answers {operation} with success and still shows it")
}

/// Returns the answer about the request that removes objects or uploads.
fn removal_answer(removed: &[RemovalAttempt], left: &[Leftover]) -> ProbeAnswer {
    if removed.is_empty() {
        return ProbeAnswer::moot("there was nothing to remove");
    }
    if let Some(left) = left.iter().find(|left| left.is_certain) {
        let failure = removed
            .iter()
            .find_map(|removed| removed.answer.as_ref().err());
        return match failure {
            Some(failure) if *failure.kind() == FailureKind::Denied => {
                ProbeAnswer::refused(reason(failure))
            }
            Some(failure) => answer_from(failure),
            None => ProbeAnswer::ignored(left.reason.clone()),
        };
    }
    match left.first() {
        Some(left) => ProbeAnswer::unknown(left.reason.clone()),
        None => ProbeAnswer {
            how: How::Kept,
            reason: String::new(),
        },
    }
}
