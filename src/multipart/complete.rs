//! Completes an upload, and resolves the outcome of an unanswered Complete.
//!
//! After a timeout, a dropped connection, or a 5xx, the object may or may not exist. s3haul then
//! checks the upload:
//!
//! - If it is open, Complete is sent again.
//! - If it is gone, the object at the key must be the result of this upload. The size alone proves
//!   nothing, because another writer's object may have the same size. The checksum and the `ETag`
//!   that follow from the parts must match if they are known, and so must the number of parts in
//!   the `ETag`. The modification time, by the server's own clock, must always fit.
//!
//! s3haul also checks the upload if Complete has been unanswered for some seconds. If the upload
//! stays open, s3haul sends Amazon S3 a second Complete.

use std::pin::pin;
use std::time::Duration;

use futures::future::OptionFuture;
use futures::stream::TryStreamExt;
use tokio::time::{Instant, sleep};

use super::MultipartUpload;
use crate::awake::AwakeInstant;
use crate::bucket::Bucket;
use crate::checksum;
use crate::s3::look::ExpectedObject;
use crate::s3::{
    Capabilities, ChecksumKind, CompleteSpec, Failure, FailureKind, Head, Operation, PartDone,
    Written,
};

/// The longest pause before a Complete of unknown outcome is sent again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The time after which s3haul looks for the object of an unanswered Complete.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// The longest time between two such checks.
const LONGEST_LOOK: Duration = Duration::from_mins(1);
/// The time per part after which an unanswered Complete is overdue.
const TIME_PER_PART: Duration = Duration::from_millis(5);
/// The least number of times that a Complete of unknown outcome is sent, if the patience allows.
const COMPLETE_ROUNDS: u32 = 4;
/// The note on the failure of an upload that is gone without having created the object.
const NOT_OURS: &str = "the upload is gone, and the object at its key is not the one that its parts make, if there is one";

/// The evidence required to accept an object as the result of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    /// Size and age are enough if nothing is known about the content.
    Any,
    /// The content must match.
    Strong,
}

impl MultipartUpload {
    /// Completes the upload. `parts` are the parts that the caller saw succeed, in any order.
    ///
    /// After a timeout, a dropped connection, or a 5xx, the object may or may not exist. s3haul
    /// then checks the upload: if it is open, Complete is sent again; if it is gone, the object
    /// must be its result.
    ///
    /// # Errors
    /// Returns [`FailureKind::PreconditionFailed`] or [`FailureKind::Conflict`] if another writer
    /// was first, and [`FailureKind::NoSuchUpload`] if the upload is gone and the object is not its
    /// result.
    pub async fn complete(
        &self,
        parts: &[PartDone],
        spec: &CompleteSpec,
    ) -> Result<Written, Failure> {
        let mut parts = parts.to_vec();
        parts.sort_unstable_by_key(|part| part.number);
        let checksum = match spec.checksum {
            Some(declared) => Some(declared),
            None => match self.declared().await {
                // If the upload is gone, it may have been completed before. That is checked below.
                Err(failure) if *failure.kind() == FailureKind::NoSuchUpload => None,
                declared => declared?,
            },
        };
        let is_composite = matches!(checksum, Some((_, ChecksumKind::Composite)));
        if is_composite && parts.iter().any(|part| part.checksum.is_none()) {
            self.fill_in_checksums(&mut parts).await?;
        }
        let spec = CompleteSpec {
            checksum,
            ..spec.clone()
        };
        let began = AwakeInstant::now();
        let (mut round, mut is_renamed) = (1, false);
        loop {
            // The time of earlier rounds counts against the patience of this one.
            let waited = if round > 1 {
                began.elapsed()
            } else {
                Duration::ZERO
            };
            let bucket = self.bucket.after_waiting(waited);
            let (answer, is_twice) = self.complete_watched(&bucket, &parts, &spec).await;
            round += u32::from(is_twice);
            let failure = match answer {
                Ok(written) => return Ok(self.dated(written)),
                Err(failure) => failure.after(round),
            };
            // A part that was sent twice has the `ETag` of the request that finished last.
            if self.kms && !is_renamed && failure.details().code == "InvalidPart" {
                is_renamed = true;
                if self.adopt_etags(&mut parts).await? {
                    continue;
                }
            }
            let kind = failure.kind();
            // The server may refuse this Complete because an earlier one of ours has taken effect
            // in the meantime.
            let may_be_published = matches!(
                kind,
                FailureKind::PreconditionFailed | FailureKind::Conflict | FailureKind::NotFound
            );
            if round > 1
                && may_be_published
                && let Some(written) = self.published(&parts, &spec, Evidence::Strong).await?
            {
                return Ok(written);
            }
            let gone = *failure.kind() == FailureKind::NoSuchUpload;
            if !gone && !failure.kind().outcome_unknown() {
                return Err(failure);
            }
            tracing::debug!(%failure, "the outcome of Complete is not known: looking");
            let looking = Self {
                bucket: self.bucket.after_waiting(began.elapsed()),
                ..self.clone()
            };
            if gone || looking.is_gone().await? {
                let found = looking.published(&parts, &spec, Evidence::Any).await?;
                return found
                    .ok_or_else(|| failure.as_kind(FailureKind::NoSuchUpload).noting(NOT_OURS));
            }
            // One attempt may take minutes, and giving up discards all parts. So the number of
            // rounds counts too.
            let is_over = began.elapsed() >= self.bucket.persistence() && round >= COMPLETE_ROUNDS;
            if is_over
                || began.elapsed() >= self.bucket.patience()
                || !failure.kind().is_retryable()
            {
                return Err(self.bucket.unanswered(failure, began.elapsed()));
            }
            let pause = (Duration::from_millis(100) * 2_u32.pow(round.min(10))).min(LONGEST_PAUSE);
            self.bucket
                .pause(pause, Operation::CompleteMultipartUpload, &self.key)
                .await?;
            round += 1;
        }
    }

    /// Sends Complete, and looks for the object while no response arrives. Also returns true if
    /// Complete was sent twice.
    ///
    /// S3 may need minutes for an upload of many parts, so the request stays in flight. If the
    /// upload is gone and the object exists, only the response was lost. If the upload stays open
    /// for longer than S3 usually needs, Amazon S3 gets a second Complete in parallel: it publishes
    /// an upload only once. The second response counts only if it is a success.
    async fn complete_watched(
        &self,
        bucket: &Bucket,
        parts: &[PartDone],
        spec: &CompleteSpec,
    ) -> (Result<Written, Failure>, bool) {
        let publish = || bucket.complete_upload(&self.key, &self.id, parts, spec);
        let mut answer = pin!(publish());
        let mut second = None;
        let (began, mut pause) = (Instant::now(), FIRST_LOOK);
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let overdue = FIRST_LOOK + TIME_PER_PART.saturating_mul(count);
        let mut may_send_second = bucket.capabilities().refuses_what_it_lacks();
        let mut is_twice = false;
        loop {
            tokio::select! {
                answer = &mut answer => return (answer, is_twice),
                Some(answer) = OptionFuture::from(second.as_mut()) => match answer {
                    Ok(written) => return (Ok(written), is_twice),
                    Err(failure) => {
                        let failure: Failure = failure;
                        tracing::debug!(%failure, "the second Complete failed");
                        second = None;
                        pause = FIRST_LOOK;
                    }
                },
                () = sleep(pause) => pause = (pause * 2).min(LONGEST_LOOK),
            }
            // Boxed, because hardly any Complete needs it. A failed check proves nothing.
            let look = Box::pin(async {
                let is_gone = self.is_gone().await;
                let found = match is_gone {
                    Ok(true) => self.published(parts, spec, Evidence::Strong).await,
                    _ => Ok(None),
                };
                let is_due = may_send_second && began.elapsed() >= overdue;
                let slot = match is_gone {
                    Ok(false) if is_due => {
                        let complete = Operation::CompleteMultipartUpload;
                        bucket.slot_for_repeat(complete, &self.key).await
                    }
                    _ => None,
                };
                (found, slot)
            });
            let (found, slot) = tokio::select! {
                answer = &mut answer => return (answer, is_twice),
                looked = look => looked,
            };
            if let Ok(Some(written)) = found {
                let place = bucket.place(&self.key);
                tracing::info!(object = %place, "CompleteMultipartUpload was not answered, but the object is there");
                return (Ok(written), is_twice);
            }
            if let Some(slot) = slot {
                (may_send_second, is_twice) = (false, true);
                let sent = publish();
                second = Some(Box::pin(async move {
                    let answer = sent.await;
                    drop(slot);
                    answer
                }));
            } else if may_send_second {
                let due = overdue.saturating_sub(began.elapsed());
                pause = pause.min(due.max(FIRST_LOOK));
            }
        }
    }

    /// Completes the upload like [`MultipartUpload::complete`], and sends a HEAD of the key before
    /// and after, because a response does not prove that the object exists and consists of all
    /// parts.
    ///
    /// # Errors
    /// Returns the failures of [`MultipartUpload::complete`] and of HEAD, and
    /// [`FailureKind::NotEqual`] if the object is not the one that was published.
    #[doc(hidden)]
    pub async fn complete_and_look(
        &self,
        parts: &[PartDone],
        spec: &CompleteSpec,
    ) -> Result<Written, Failure> {
        let before = self.bucket.head(&self.key, None).await.ok();
        let written = self.complete(parts, spec).await?;
        let unequal = |what: String| {
            let place = self.bucket.place(&self.key);
            Failure::new(FailureKind::NotEqual, Operation::HeadObject, place, what)
        };
        let found = match self
            .bucket
            .head(&self.key, written.version.as_deref())
            .await
        {
            Ok(found) => found,
            Err(failure) if *failure.kind() == FailureKind::NotFound => {
                let what = "the server answered that the object is published, and there is none";
                return Err(unequal(what.to_owned()));
            }
            Err(failure) => return Err(failure),
        };
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let made = ExpectedObject {
            size: spec.size,
            parts: count,
        };
        let capabilities = self.bucket.capabilities();
        if let Some(what) = written.contradicted_by(&found, made, capabilities) {
            return Err(unequal(what));
        }
        let is_other = written.was_found || found.etag != written.etag;
        if let Some(before) = before.filter(|before| is_other && is_same(before, &found)) {
            let what = format!(
                "the object at the key is the one that was there before, with the ETag {}",
                before.etag
            );
            return Err(unequal(what));
        }
        let predicted = checksum::multipart_etag(parts.iter().map(|part| part.etag.as_str()));
        match predicted.filter(|_| capabilities.content_etags && !found.kms) {
            Some(predicted) if predicted != found.etag => Err(unequal(format!(
                "the ETag is {}, but its parts make {predicted}",
                found.etag
            ))),
            _ => Ok(written),
        }
    }

    /// Fills in missing checksums of parts from S3's list, because Complete of a composite upload
    /// must name all of them.
    async fn fill_in_checksums(&self, parts: &mut [PartDone]) -> Result<(), Failure> {
        let mut held = pin!(self.parts());
        while let Some(part) = held.try_next().await? {
            if let Ok(at) = parts.binary_search_by_key(&part.number, |part| part.number)
                && parts[at].etag == part.etag
                && parts[at].checksum.is_none()
            {
                parts[at].checksum = part.checksum;
            }
        }
        Ok(())
    }

    /// Adopts the `ETag`s that S3 lists, for parts whose `ETag`s do not follow from the bytes.
    /// Returns true if one differed. A part of another size or checksum is not ours.
    async fn adopt_etags(&self, parts: &mut [PartDone]) -> Result<bool, Failure> {
        let mut held = pin!(self.parts());
        let mut is_other = false;
        while let Some(part) = held.try_next().await? {
            let Ok(at) = parts.binary_search_by_key(&part.number, |part| part.number) else {
                continue;
            };
            let ours = &mut parts[at];
            let differs = part.checksum.is_some()
                && ours.checksum.is_some()
                && part.checksum != ours.checksum;
            if part.size == ours.size && !differs && part.etag != ours.etag {
                ours.etag = part.etag;
                is_other = true;
            }
        }
        Ok(is_other)
    }

    /// Adds a lower bound of the object's modification time to the response to Complete. The bound
    /// is the start of the upload, because some servers date the object by it.
    fn dated(&self, written: Written) -> Written {
        Written {
            since: self.since,
            ..written
        }
    }

    /// Returns the object at the key if `evidence` shows that it is the result of this upload.
    async fn published(
        &self,
        parts: &[PartDone],
        spec: &CompleteSpec,
        evidence: Evidence,
    ) -> Result<Option<Written>, Failure> {
        let is_old = |head: &Head| {
            let times = head.modified.zip(self.since);
            times.is_some_and(|(modified, since)| modified < since)
        };
        let is_whole = |head: &Head| head.size >= spec.size || is_old(head);
        let head = match self.bucket.head_written(&self.key, is_whole).await {
            Ok(head) => head,
            Err(failure) if *failure.kind() == FailureKind::NotFound => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let ours = head.size == spec.size
            && !is_old(&head)
            && is_result_of(parts, spec, &head, self.bucket.capabilities(), evidence);
        Ok(ours.then_some(head.written()))
    }
}

/// Returns true if two HEADs of a key show the same object.
fn is_same(before: &Head, found: &Head) -> bool {
    let facts = |head: &Head| (head.etag.clone(), head.modified, head.version.clone());
    facts(before) == facts(found)
}

/// Returns true if an object of the right size and age is the result of these parts. Its checksum
/// and its `ETag` are the evidence.
fn is_result_of(
    parts: &[PartDone],
    spec: &CompleteSpec,
    head: &Head,
    capabilities: &Capabilities,
    evidence: Evidence,
) -> bool {
    if capabilities.part_counts && is_of_other_parts(&head.etag, parts.len()) {
        return false;
    }
    let made = spec.full_checksum.clone().or_else(|| {
        let (algorithm, kind) = spec.checksum?;
        checksum::of_parts(parts, algorithm, kind)
    });
    let sums = made.as_ref().zip(head.checksum.as_ref());
    let sums = sums.filter(|(a, b)| (a.algorithm, a.kind) == (b.algorithm, b.kind));
    let by_checksum = sums.map(|(made, found)| made.value == found.value);
    let etags_tell = capabilities.content_etags && !head.kms;
    let by_etag = match checksum::multipart_etag(parts.iter().map(|part| part.etag.as_str())) {
        Some(made) if etags_tell => Some(made == head.etag),
        None if etags_tell && by_checksum.is_none() => Some(false),
        _ => None,
    };
    match (by_checksum, by_etag) {
        (Some(false), _) | (_, Some(false)) => false,
        (Some(true), _) | (_, Some(true)) => true,
        (None, None) => evidence == Evidence::Any,
    }
}

/// Returns true if the `ETag` shows that the object was written with one request, or from another
/// number of parts. Other `ETag`s prove nothing.
fn is_of_other_parts(etag: &str, count: usize) -> bool {
    let counted = etag.split_once('-').filter(|(digest, number)| {
        !number.is_empty()
            && [digest, number]
                .iter()
                .all(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    let other = counted.and_then(|(_, number)| number.parse::<usize>().ok());
    checksum::looks_like_md5(etag) || other.is_some_and(|other| other != count)
}
