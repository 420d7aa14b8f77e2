//! Sends requests whose bodies come from this machine, and signs the bodies if the bucket requires
//! it.

use std::future::Future;

use super::{Answer, Bucket, Repeat};
use crate::location::ObjectKey;
use crate::s3::{
    Attributes, Checksum, Failure, FailureKind, Operation, PartAnswer, PartDone, WriteCondition,
    Written,
};

impl Bucket {
    /// Writes an object from memory.
    #[doc(hidden)]
    pub async fn put_object(
        &self,
        key: &ObjectKey,
        body: bytes::Bytes,
        attributes: &Attributes,
        checksum: Option<&Checksum>,
        condition: WriteCondition,
    ) -> Result<Answer<Written>, Failure> {
        let signed = self.client.signs_bodies();
        let sent = self
            .put_once(key, &body, attributes, checksum, &condition)
            .await;
        let answer = self.resend_signed_if_denied(signed, sent, |bucket| async move {
            bucket
                .put_once(key, &body, attributes, checksum, &condition)
                .await
        });
        self.or_lost(answer.await, None).await
    }

    async fn put_once(
        &self,
        key: &ObjectKey,
        body: &bytes::Bytes,
        attributes: &Attributes,
        checksum: Option<&Checksum>,
        condition: &WriteCondition,
    ) -> Result<Answer<Written>, Failure> {
        self.call(
            Operation::PutObject,
            Some(key),
            body.len() as u64,
            Repeat::Always,
            || {
                self.client.put_object(
                    &self.name,
                    key,
                    body.clone(),
                    attributes,
                    checksum,
                    condition,
                )
            },
        )
        .await
    }

    /// Sends a part from memory. A second part with the same number replaces the first.
    #[doc(hidden)]
    pub async fn upload_part(
        &self,
        key: &ObjectKey,
        upload_id: &str,
        number: u32,
        body: bytes::Bytes,
        checksum: Option<&Checksum>,
    ) -> Result<Answer<PartDone>, Failure> {
        let sent = self.send_part(key, upload_id, number, body, checksum);
        sent.await.map(|answer| answer.map(|(part, _)| part))
    }

    /// Sends a part as [`Bucket::upload_part`] does. Also returns true if the response has a
    /// checksum.
    pub(crate) async fn send_part(
        &self,
        key: &ObjectKey,
        upload_id: &str,
        number: u32,
        body: bytes::Bytes,
        checksum: Option<&Checksum>,
    ) -> Result<Answer<(PartDone, bool)>, Failure> {
        let signed = self.client.signs_bodies();
        let sent = self
            .upload_once(key, upload_id, number, &body, checksum)
            .await;
        let answer = self.resend_signed_if_denied(signed, sent, |bucket| async move {
            bucket
                .upload_once(key, upload_id, number, &body, checksum)
                .await
        });
        self.or_lost(answer.await, None).await
    }

    async fn upload_once(
        &self,
        key: &ObjectKey,
        upload_id: &str,
        number: u32,
        body: &bytes::Bytes,
        checksum: Option<&Checksum>,
    ) -> Result<Answer<(PartDone, bool)>, Failure> {
        let size = body.len() as u64;
        let answer = self
            .call(
                Operation::UploadPart,
                Some(key),
                size,
                Repeat::Always,
                || {
                    self.client.upload_part(
                        &self.name,
                        key,
                        upload_id,
                        number,
                        body.clone(),
                        checksum,
                    )
                },
            )
            .await?;
        Ok(answer.map(
            |PartAnswer {
                 etag,
                 checksum: echoed,
             }| {
                let is_echoed = echoed.is_some();
                let part = PartDone {
                    number,
                    size,
                    etag,
                    checksum: echoed.or_else(|| checksum.map(|checksum| checksum.value.clone())),
                };
                (part, is_echoed)
            },
        ))
    }

    /// Sends a request `again` with its body signed if the server denied it and the missing
    /// signature may be the reason.
    async fn resend_signed_if_denied<T, F>(
        &self,
        was_signed: bool,
        sent: Result<Answer<T>, Failure>,
        again: impl FnOnce(Self) -> F,
    ) -> Result<Answer<T>, Failure>
    where
        F: Future<Output = Result<Answer<T>, Failure>>,
    {
        let denied = match sent {
            Err(failure) if *failure.kind() == FailureKind::Denied && !was_signed => failure,
            answer => return answer,
        };
        let Some(signed_retry) = self.client.signed_retry().await else {
            return Err(denied);
        };
        tracing::debug!(failure = %denied, "will be sent again with its body signed");
        self.pacer.retried();
        // Boxed, because most requests need no second attempt.
        let signing = Self {
            client: self.client.signing_bodies(),
            ..self.clone()
        };
        let signed = Box::pin(again(signing)).await;
        signed_retry.ended(signed.as_ref().err().map(Failure::kind));
        match signed {
            Err(failure) if *failure.kind() == FailureKind::Denied => Err(denied),
            Err(failure) => Err(failure),
            Ok(answer) => Ok(Answer {
                attempts: answer.attempts + denied.details().attempts,
                ..answer
            }),
        }
    }
}
