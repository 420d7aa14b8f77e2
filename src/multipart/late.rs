//! Aborts the uploads of overtaken Creates.
//!
//! A Create that hangs is sent once more. The request that is answered second is *overtaken*; its
//! response may arrive at any later time. A task waits for it and aborts the upload that it names.
//! If the response is lost, only the list of open uploads shows whether there is one. If there is
//! still no response [`PATIENCE`] after the object is done, the receipt says that an upload may be
//! open.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::MultipartUpload;
use super::abort::{Stray, abort_unknown, after_refusal};
use crate::bucket::{Bucket, Overtaken};
use crate::location::ObjectKey;
use crate::s3::{CreatedUpload, Failure};

/// The longest time that a finished object waits for the response to an overtaken Create.
const PATIENCE: Duration = Duration::from_secs(5);

/// An overtaken Create. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct LateCreate {
    /// The outcome of the Create, once it is known.
    ended: watch::Receiver<Option<CreateOutcome>>,
    /// A time just before the first Create was sent, by the wall clock.
    from: Timestamp,
    /// The same time by the monotonic clock.
    began: Instant,
}

/// The outcome of an overtaken Create.
#[derive(Clone, Debug)]
enum CreateOutcome {
    /// The Create created an upload, which was aborted. Holds the upload if it may still be open.
    Created(Option<Stray>),
    /// The server refused the Create.
    Refused,
    /// The response was lost.
    Lost,
}

impl LateCreate {
    /// Starts a task that waits for the response.
    pub(super) fn of(
        create: Overtaken,
        bucket: &Bucket,
        key: &ObjectKey,
        (from, began): (Timestamp, Instant),
    ) -> Self {
        let (outcome_sender, ended) = watch::channel(None);
        let (bucket, key, abort) = (bucket.for_cleanup(), key.clone(), create.abort_handle());
        tokio::spawn(async move {
            let outcome = match timeout(bucket.patience(), create).await {
                Ok(Ok(Ok(created))) => {
                    CreateOutcome::Created(abort_late_upload(&bucket, &key, created).await)
                }
                Ok(Ok(Err(failure))) if !failure.may_have_taken_effect() => CreateOutcome::Refused,
                Ok(Ok(Err(_)) | Err(_)) => CreateOutcome::Lost,
                Err(_) => {
                    abort.abort();
                    CreateOutcome::Lost
                }
            };
            outcome_sender.send_replace(Some(outcome));
        });
        Self { ended, from, began }
    }

    /// Waits for the outcome of the Create. Unless its response names an upload, searches for an
    /// upload that is not `known`. Returns the uploads that may be left open.
    pub(super) async fn settled(
        mut self,
        bucket: &Bucket,
        key: &ObjectKey,
        known: &BTreeSet<String>,
    ) -> Vec<Stray> {
        let deadline = Instant::now() + PATIENCE;
        let ended = match timeout_at(deadline, self.ended.wait_for(Option::is_some)).await {
            Ok(Ok(ended)) => ended.clone(),
            Ok(Err(_)) => Some(CreateOutcome::Lost),
            Err(_) => None,
        };
        let window = (self.from, Timestamp::now());
        match ended {
            Some(CreateOutcome::Created(stray)) => return stray.into_iter().collect(),
            Some(CreateOutcome::Refused) => return after_refusal(bucket, key, window, known).await,
            Some(CreateOutcome::Lost) | None => {}
        }
        let found = abort_unknown(bucket, key, window, known).await;
        let mut strays = found.unwrap_or_else(|failure| vec![Stray::failed(None, &failure)]);
        if ended.is_none() {
            strays.push(Stray::unanswered(None, self.began.elapsed()));
        }
        strays
    }
}

/// Waits for the outcomes of these Creates, and adds a note to `failure` for each upload that may
/// be left open, because the caller has no upload to attach the strays to.
pub(super) async fn note_strays(
    failure: Failure,
    creates: Vec<LateCreate>,
    bucket: &Bucket,
    key: &ObjectKey,
) -> Failure {
    let bucket = bucket.for_cleanup();
    let known = BTreeSet::new();
    let settled = creates
        .into_iter()
        .map(|create| create.settled(&bucket, key, &known));
    let strays = join_all(settled).await.into_iter().flatten();
    strays.fold(failure, |failure, stray| {
        failure.noting(&stray.describe(&bucket, key))
    })
}

/// Aborts the upload of a Create that was answered late. Returns it if it may be left open.
async fn abort_late_upload(
    bucket: &Bucket,
    key: &ObjectKey,
    created: CreatedUpload,
) -> Option<Stray> {
    let upload = MultipartUpload::open(bucket, key, created.id);
    match &created.elsewhere {
        Some(elsewhere) => {
            let failure = Box::pin(upload.abort_misplaced(elsewhere)).await;
            Some(Stray::failed(Some(upload.id()), &failure))
        }
        None => upload.end().await,
    }
}
