//! Creates an upload, sends a second request if the first one hangs, and keeps the losing request.
//!
//! `CreateMultipartUpload` is not idempotent: two requests that take effect create two uploads. So
//! a losing request must not be forgotten. Each request runs in its own task. The task of an
//! overtaken request continues after the caller has the first response, because only its own
//! response names the second upload. [`crate::multipart`] waits for that response and aborts the
//! upload.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::task::JoinHandle;

use super::{Answer, Bucket, Repeat};
use crate::location::ObjectKey;
use crate::s3::progress::carried;
use crate::s3::{Attributes, CreatedUpload, Failure, FailureKind, Operation};

/// A Create that was still unanswered when another one had created the upload.
pub(crate) type Overtaken = JoinHandle<Result<CreatedUpload, Failure>>;

/// The requests of one call.
#[derive(Debug, Default)]
struct Creates {
    /// Set once a request has created an upload.
    is_created: bool,
    /// The requests that were unanswered when that request created the upload.
    overtaken: Vec<Overtaken>,
    /// Set if another request, whose response was lost, may have taken effect.
    is_one_lost: bool,
}

/// One request. Dropping it aborts the request, unless another one has created the upload.
#[derive(Debug)]
struct Create {
    task: Option<Overtaken>,
    creates: Arc<Mutex<Creates>>,
}

impl Bucket {
    /// Creates a multipart upload as [`Bucket::create_upload`] does, and sends the request once
    /// more if it hangs. Also returns the overtaken requests, each of which may create another
    /// upload. The response's number of attempts does not include them.
    pub(crate) async fn create_upload_soon(
        &self,
        key: &ObjectKey,
        attributes: &Attributes,
    ) -> Result<(Answer<CreatedUpload>, Vec<Overtaken>), Failure> {
        let creates = Arc::new(Mutex::new(Creates::default()));
        let send = || {
            let (client, bucket) = (self.client.clone(), self.name.clone());
            let (key, attributes) = (key.clone(), attributes.clone());
            let request = async move { client.create_upload(&bucket, &key, &attributes).await };
            Create {
                task: Some(tokio::spawn(carried(request))),
                creates: Arc::clone(&creates),
            }
        };
        let operation = Operation::CreateMultipartUpload;
        let answer = self.call(operation, Some(key), 0, Repeat::AtOnce, send);
        let mut answer = self.or_lost(answer.await, None).await?;
        let mut creates = lock(&creates);
        let overtaken = std::mem::take(&mut creates.overtaken);
        let count = u32::try_from(overtaken.len()).unwrap_or(u32::MAX);
        answer.attempts = answer.attempts.saturating_sub(count);
        answer.maybe_twice = creates.is_one_lost;
        Ok((answer, overtaken))
    }
}

impl Future for Create {
    type Output = Result<CreatedUpload, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(task) = &mut self.task else {
            return Poll::Pending;
        };
        let answer = ready!(Pin::new(task).poll(context));
        self.task = None;
        let answer = match answer {
            Ok(answer) => answer,
            // `Bucket::caught` turns the panic into a failure.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => Err(Failure::new(
                FailureKind::Stopped,
                Operation::CreateMultipartUpload,
                String::new(),
                error.to_string(),
            )),
        };
        let mut creates = lock(&self.creates);
        match &answer {
            Ok(_) => creates.is_created = true,
            Err(failure) => creates.is_one_lost |= failure.may_have_taken_effect(),
        }
        drop(creates);
        Poll::Ready(answer)
    }
}

impl Drop for Create {
    fn drop(&mut self) {
        let Some(task) = self.task.take() else { return };
        let mut creates = lock(&self.creates);
        if creates.is_created {
            creates.overtaken.push(task);
        } else {
            creates.is_one_lost = true;
            task.abort();
        }
    }
}

fn lock(creates: &Mutex<Creates>) -> MutexGuard<'_, Creates> {
    creates.lock().unwrap_or_else(PoisonError::into_inner)
}
