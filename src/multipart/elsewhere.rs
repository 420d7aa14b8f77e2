//! Handles uploads that the server created under another bucket or key than requested.
//!
//! Parts of such an upload would produce no object, or the wrong one, so none is sent. The upload
//! is aborted under the name in the answer and under the requested one, and reported if it may stay
//! open.

use futures::stream::{StreamExt, TryStreamExt};

use super::abort::{Stray, command_at};
use super::{Aborted, MultipartUpload};
use crate::location::S3Uri;
use crate::s3::{Elsewhere, Failure, FailureKind, Operation};

/// The most open uploads of a bucket that are searched for one upload.
const LISTED: usize = 10_000;

impl MultipartUpload {
    /// Aborts this upload, which the server created elsewhere, and returns the failure of its
    /// creation.
    pub(super) async fn abort_misplaced(&self, elsewhere: &Elsewhere) -> Failure {
        let Elsewhere { bucket, key } = elsewhere;
        let (requested, id) = (self.bucket.place(&self.key), &self.id);
        let message = format!(
            "the answer is about an upload to `{bucket}/{key}`, but the request was for `{requested}` (upload {id})"
        );
        let failure = Failure::new(
            FailureKind::ServerFault,
            Operation::CreateMultipartUpload,
            requested,
            message,
        );
        let mut notes = Vec::new();
        let here = self.outliving_the_run();
        if let Some(stray) = here.end().await {
            notes.push(stray.describe(&here.bucket, &here.key));
        }
        notes.extend(here.end_at(elsewhere).await);
        notes
            .iter()
            .fold(failure, |failure, note| failure.noting(note))
    }

    /// Searches the bucket for this upload after the server answered that its key has no such
    /// upload, and aborts it there. Returns a sentence if it may be left open.
    pub(crate) async fn end_elsewhere(&self) -> Option<String> {
        // One more entry shows whether the list continues.
        let mut listed = std::pin::pin!(Self::list(&self.bucket, "").take(LISTED + 1));
        let mut seen = 0;
        let found = loop {
            match listed.try_next().await {
                Ok(Some(open)) if open.upload_id == self.id => break open,
                Ok(Some(_)) => seen += 1,
                Ok(None) if seen <= LISTED => return None,
                Ok(None) => {
                    return Some(format!(
                        "the server created the upload {} and has none of this id at its key, and it is not among the \
                         first {LISTED} open uploads of {}: it may be left open under another key",
                        self.id,
                        self.bucket.name()
                    ));
                }
                Err(failure) => {
                    let stray = Stray::failed(Some(&self.id), &failure);
                    return Some(format!(
                        "the server created an upload and has none of this id at its key; {}",
                        stray.describe(&self.bucket, &self.key)
                    ));
                }
            }
        };
        let bucket = self.bucket.name().to_string();
        let key = found.key;
        self.end_at(&Elsewhere { bucket, key }).await
    }

    /// Aborts the upload under another name. Returns a sentence if it may be left open there.
    async fn end_at(&self, Elsewhere { bucket, key }: &Elsewhere) -> Option<String> {
        let Self { id, .. } = self;
        let Ok(location) = format!("s3://{bucket}/{key}").parse::<S3Uri>() else {
            return Some(format!(
                "the upload {id} may be left open under a name that no request can have: abort it with the server's own tools"
            ));
        };
        // Another bucket may have another owner, so s3haul sends it nothing.
        if location.bucket != *self.bucket.name() {
            let flags = self.bucket.client().flags();
            return Some(format!(
                "the upload {id} may be left open; abort it with `{}`",
                command_at(&location, &flags, "abort", Some(id))
            ));
        }
        let there = Self {
            key: location.key,
            ..self.clone()
        };
        let stray = there.end().await?;
        Some(stray.describe(&there.bucket, &there.key))
    }

    /// Aborts the upload under its key. Returns the upload if it may be left open.
    pub(super) async fn end(&self) -> Option<Stray> {
        match self.abort().await {
            Ok(Aborted::Gone | Aborted::NotThere) => None,
            Ok(Aborted::Unverified(failure) | Aborted::StillListed(failure)) | Err(failure) => {
                Some(Stray::failed(Some(&self.id), &failure))
            }
        }
    }
}
