//! Runs one round of a local file.
//!
//! A file is opened once and read with `pread`, so that its parts can be read in parallel, without
//! a shared position and without the whole file in memory. If the size or times of the file changed
//! while it was read, the file is sent again. [`put`](super::put) sends a small file;
//! [`local`](super::upload::local) sends the parts of a large file.

use std::fs::File;
use std::sync::Arc;

use super::ObjectTask;
use super::attributes::TargetAttributes;
use super::local_file::{OpenFile, Stamp, blocking, pread, reserve};
use super::round_failure::RoundFailure;
use super::upload::local::PartSender;
use super::upload::parts::PartSource;
use super::upload::record::UploadFingerprint;
use super::upload::resume::Resumed;
use super::upload::{UploadRequest, UploadSession, adopt};
use crate::execute::receipt::Ending;
use crate::execute::replan::Replan;
use crate::listing::{Entry, local};
use crate::location::LocalPath;
use crate::pace::slots::SlotKind;
use crate::plan::decide::Route;
use crate::plan::parts::PartLayout;
use crate::size::MIB;

/// The size up to which one blocking call opens a file and reads it.
const READ_AT_ONCE: u64 = MIB;

impl<'w> ObjectTask<'w> {
    /// Sends the file in its current state.
    pub(super) async fn file_round(&mut self, root: &LocalPath) -> Result<Ending, RoundFailure> {
        let (context, step) = (self.context, self.step);
        let slot = self.request_slot(SlotKind::Small).await?;
        let path = Arc::new(local::path_of(root, &step.entry));
        // One blocking call opens a small file, reads it, and checks it again, because each call
        // costs a thread switch.
        let mut permit = reserve(
            Arc::clone(&context.memory),
            step.entry.size.min(READ_AT_ONCE),
        )
        .await;
        let opened = blocking(&path, {
            let (path, buffers) = (Arc::clone(&path), context.buffers.clone());
            move || {
                let file = Arc::new(File::open(&*path)?);
                let stamp = Stamp::of(&file)?;
                if stamp.size > READ_AT_ONCE {
                    return Ok((file, stamp, None));
                }
                let body = pread(&file, 0, stamp.size, &buffers)?;
                let now = Stamp::of(&file)?;
                Ok((file, stamp, Some((body, now))))
            }
        });
        let (file, stamp, read) = opened.await?;
        let (memory, buffers) = (Arc::clone(&context.memory), context.buffers.clone());
        let file = OpenFile {
            file,
            path,
            memory,
            buffers,
        };
        let now = Entry {
            size: stamp.size,
            modified: stamp.version().modified,
            ..step.entry.clone()
        };
        if let Some(rule) = context.sides.left_out_now(&step.entry, &now) {
            return Ok(self.draft.leave_out(&rule));
        }
        let route = context
            .sides
            .route(stamp.size, &step.entry.key, &step.key)?;
        self.draft.set_size_and_route(stamp.size, &route);
        let target = TargetAttributes::of_upload(context, &step.key);
        if let Route::MultipartUpload(layout) = route {
            drop((slot, permit, read));
            return self.send_file(file, stamp, layout, target).await;
        }
        let (body, now) = if let Some(read) = read {
            read
        } else {
            drop(permit.take());
            permit = reserve(Arc::clone(&context.memory), stamp.size).await;
            let body = file.read(move |file, buffers| pread(file, 0, stamp.size, buffers));
            (body.await?, file.stamp().await?)
        };
        if now != stamp {
            return Err(Replan::SourceChanged.into());
        }
        let ending = self.put(slot, body, target.to_send()).await;
        drop(permit);
        ending
    }

    /// Sends the parts of a file, and publishes them if the file has not changed meanwhile.
    async fn send_file(
        &mut self,
        file: OpenFile,
        stamp: Stamp,
        layout: PartLayout,
        mut target: TargetAttributes<'w>,
    ) -> Result<Ending, RoundFailure> {
        self.demand_checksum(target.to_send())?;
        let request = UploadRequest {
            fingerprint: UploadFingerprint::of(stamp.version(), target.to_send()),
            layout,
            attributes: target.to_send().clone(),
            checksum: None,
            adoption_obstacle: adopt::unseen_acl(target.to_send()),
        };
        let mut session = match UploadSession::resume(self, &request).await? {
            Some(Resumed::Session(session)) => *session,
            // If an earlier session published the object, nothing proves that the file did not
            // change while it was read, so the file is sent again.
            Some(Resumed::Published(..)) | None => {
                UploadSession::adopt_or_create(self, &mut target, None, request, None).await?
            }
        };
        let attributes = target.to_send();
        self.draft.parts = session.layout.count;
        let parts = PartSender::of(self.context, &session, attributes);
        let outcome = async {
            let source = PartSource::File(file.clone(), parts.clone());
            session.send_all(source).await?;
            if file.stamp().await? != stamp {
                return Err(Replan::SourceChanged.into());
            }
            parts.complete(&mut session, attributes, self).await
        }
        .await;
        let outcome = session.verify_adopted(attributes, outcome, self).await;
        session.end(outcome, self).await
    }
}
