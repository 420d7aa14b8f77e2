//! Copying an object that nobody has looked at: the listing's size and `ETag` are enough for the
//! content alone.
//!
//! The `ETag` pins the source, and where it is the MD5 of the bytes it proves the copy too.
//! Everything else (a server that says no, an `ETag` that comes out differently because a key of
//! KMS is in play) ends in the ordinary way, with a HEAD.

use super::attributes::Wanted;
use super::condition::Refused;
use super::monitor::Event;
use super::object::Copy;
use super::prove::{Expected, FromParts};
use super::published::Publication;
use super::receipt::Ending;
use super::{Draft, Trouble};
use crate::checksum::looks_like_md5;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::manifest::job::{Prove, Verify};
use crate::plan::attributes::Reads;
use crate::plan::condition::Seen;
use crate::plan::decide::Route;
use crate::s3::{FailureKind, Head, SourcePin};

impl Copy<'_> {
    /// Returns the listed `ETag`, if the listing tells all that the copy takes.
    pub(super) fn needs_no_look(&self) -> Option<String> {
        let entry = &self.step.entry;
        let reads = Reads::of(
            &self.work.sides.transfer,
            self.source.capabilities(),
            &self.step.route,
        );
        let archived = matches!(
            entry.storage_class.as_deref(),
            Some("GLACIER" | "DEEP_ARCHIVE")
        );
        // An ETag is not a checksum, HEAD saves most of the reading, and the versions of a history
        // come one after another.
        let proof = self.work.sides.transfer.proof;
        let demanding = proof.verify == Verify::RequireChecksum || proof.prove == Prove::Read;
        let simple = self.step.route == Route::Copy && self.step.turn.is_none();
        let simple = simple
            && self
                .work
                .sides
                .destination
                .capabilities()
                .believes_answers();
        let enough = simple && !reads.head && !archived && !demanding;
        entry
            .etag
            .clone()
            .filter(|etag| enough && looks_like_md5(etag))
    }

    /// Copies the object with this listed `ETag`; `None` when it takes a HEAD after all.
    pub(super) async fn by_listing(
        &mut self,
        etag: &str,
        draft: &mut Draft,
    ) -> Result<Option<Ending>, Trouble> {
        let (work, source, step) = (self.work, self.source, self.step);
        let entry = &step.entry;
        let condition = self.condition(ConditionalWrite::Copy);
        if work.is_taken(&step.key, &self.seen, &condition).await? {
            return Ok(None);
        }
        let mut listed = Head {
            size: entry.size,
            etag: etag.to_owned(),
            ..Head::default()
        };
        let pin = SourcePin {
            bucket: source.name().clone(),
            key: entry.key.clone(),
            version: entry.version.clone(),
            etag: etag.to_owned(),
            customer_key: None,
        };
        draft.pinned(&listed, &step.route, pin.version.clone());
        let mut wanted =
            Wanted::of_copy(work, source, &mut listed, &pin, &step.route, draft).await?;
        let answer = wanted
            .copy_object(source, &pin, entry.size, step, &condition, draft)
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) if *failure.kind() == FailureKind::Stopped || failure.ends_run() => {
                return Err(failure.into());
            }
            Err(failure) => {
                draft.attempts += failure.details().attempts;
                // Refused by an earlier attempt of ours whose answer was lost, or by somebody
                // else's object.
                let refused = work.refused(&condition, &failure);
                let Some(Refused::Taken(skip)) = refused.filter(|_| draft.attempts > 1) else {
                    return Ok(None);
                };
                let head = source.head(&entry.key, entry.version.as_deref()).await?;
                return if head.etag == etag {
                    self.adopt(&head, Some(wanted.asked(&head)), skip, draft)
                        .await
                        .map(Some)
                } else {
                    Ok(None)
                };
            }
        };
        draft.attempts += answer.attempts;
        let written = answer.value;
        self.seen = Seen::Object(written.etag.clone());
        let looked_at = if written.etag == etag {
            listed
        } else {
            let head = source.head(&entry.key, entry.version.as_deref()).await?;
            if head.etag != etag {
                return Err(Trouble::SourceChanged);
            }
            head
        };
        let expected = Expected::of(&looked_at, source.capabilities());
        let asked = Some(wanted.asked(&looked_at));
        let published = Publication {
            written: &written,
            made: &FromParts::default(),
            parts: 0,
            asked,
            slot: None,
        };
        let proof = self
            .prove(expected, &looked_at, &pin, published, draft)
            .await?;
        work.monitor.observe(&Event::BytesCopied {
            id: None,
            bytes: entry.size,
        });
        let ending = Ending::Done {
            proof,
            etag: written.etag,
            destination_version: written.version,
        };
        wanted
            .finish(Some((source, &pin)), &step.key, &ending, draft)
            .await?;
        Ok(Some(ending))
    }
}
