//! Sends standard input, a stream of unknown length.
//!
//! If the stream ends within its first part, one request sends it; otherwise an upload in parts
//! does. Bytes cannot be read twice, so the object has one round, and no later session can resume
//! its upload.

use super::ObjectTask;
use super::attributes::TargetAttributes;
use super::stream_parts::{StreamParts, part_size};
use super::trouble::Trouble;
use super::upload::local::LocalParts;
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
    pub(super) async fn send_stdin(&mut self) -> Result<Ending, Trouble> {
        let work = self.work;
        let mut wanted = TargetAttributes::of_upload(work, &self.step.key);
        let attributes = wanted.attributes().clone();
        let mut stream = StreamParts::of_stdin();
        let first = stream.read(work).await?;
        if (first.body.len() as u64) < part_size(work, 1) {
            let slot = self.request_slot(SlotKind::Small).await?;
            self.draft.takes(first.body.len() as u64, &Route::Put);
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
            doubt: None,
        };
        let mut session = UploadSession::create_unrecorded(self, &mut wanted, request).await?;
        let parts = LocalParts::of(work, &session, &attributes);
        let source = PartSource::Stream(&mut stream, parts.clone());
        let outcome = match session.send_all(source).await {
            Ok(()) => parts.complete(&mut session, &attributes, self).await,
            Err(trouble) => Err(trouble),
        };
        self.draft.size = session.bytes;
        self.draft.parts = u32::try_from(session.done.len()).unwrap_or(u32::MAX);
        session.end(outcome, self).await
    }
}
