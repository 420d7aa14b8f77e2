//! Sends standard input, a stream of unknown length.
//!
//! If the stream ends within its first part, s3haul sends it in one request; otherwise it creates a
//! multipart upload. The bytes cannot be read twice, so the object has one round, and no later
//! session can resume its upload.

use super::ObjectTask;
use super::attributes::TargetAttributes;
use super::round_failure::RoundFailure;
use super::stream_parts::{StreamParts, part_size};
use super::upload::local::PartSender;
use super::upload::parts::PartSource;
use super::upload::record::UploadFingerprint;
use super::upload::{UploadRequest, UploadSession};
use crate::execute::receipt::Ending;
use crate::journal::event::SourceVersion;
use crate::pace::slots::SlotKind;
use crate::plan::decide::Route;
use crate::plan::parts::{PartLayout, UPLOAD_PART};

impl ObjectTask<'_> {
    /// Sends standard input to its end.
    pub(super) async fn send_stdin(&mut self) -> Result<Ending, RoundFailure> {
        let context = self.context;
        let mut target = TargetAttributes::of_upload(context, &self.step.key);
        let attributes = target.to_send().clone();
        let mut stream = StreamParts::of_stdin();
        let first = stream.read(context).await?;
        if (first.body.len() as u64) < part_size(context, 1) {
            let slot = self.request_slot(SlotKind::Small).await?;
            self.draft
                .set_size_and_route(first.body.len() as u64, &Route::Put);
            return self.put(slot, first.body, &attributes).await;
        }
        stream.put_back(first);
        self.demand_checksum(&attributes)?;
        let version = SourceVersion {
            size: 0,
            version: None,
            etag: None,
            modified: None,
        };
        let request = UploadRequest {
            fingerprint: UploadFingerprint::of(version, &attributes),
            layout: PartLayout::uniform(0, UPLOAD_PART, 0),
            attributes: attributes.clone(),
            checksum: None,
            adoption_obstacle: None,
        };
        let mut session = UploadSession::create_unrecorded(self, &mut target, request).await?;
        let parts = PartSender::of(context, &session, &attributes);
        let source = PartSource::Stream(&mut stream, parts.clone());
        let outcome = match session.send_all(source).await {
            Ok(()) => parts.complete(&mut session, &attributes, self).await,
            Err(error) => Err(error),
        };
        self.draft.size = session.bytes;
        self.draft.parts = u32::try_from(session.done.len()).unwrap_or(u32::MAX);
        session.end(outcome, self).await
    }
}
