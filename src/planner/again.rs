//! Replans the objects that an earlier session planned but did not finish.
//!
//! s3haul sends HEAD for each object on both sides. The copy may exist although its record was
//! lost, or it may be outdated because the source was rewritten since. A copy with equal bytes may
//! still lack attributes or a proof that s3haul adds after the bytes. With `when: missing`, s3haul
//! replaces an existing object only if it is certainly a copy by this run.

use futures::future::{Either, FutureExt, ready};
use futures::stream::{FuturesOrdered, StreamExt};

use super::compare::AskedSides;
use super::steps::{BatchSender, ReceiverGone};
use super::{MadeBefore, Pending, Planned, Sides};
use crate::listing::filter::Filter;
use crate::listing::{Entry, ListingItem, local};
use crate::location::ObjectKey;
use crate::manifest::job::{Source, When};
use crate::pace::gate::spawn_and_join;
use crate::plan::condition::DestinationState;
use crate::plan::decide::{Basis, Content, Decision, Reason, Skip, content};
use crate::s3::{Failure, Head};

impl Sides {
    /// Plans the pending objects of earlier sessions again. Sends HEAD for each, because its copy
    /// may exist although its record was lost.
    pub(super) async fn plan_again(
        &self,
        pending: Vec<Pending>,
        filter: &Filter,
        planned: &BatchSender,
    ) -> Result<(), ReceiverGone> {
        let at_once = self.heads_at_once();
        let mut asked = FuturesOrdered::new();
        for Pending {
            object,
            entry,
            made,
        } in pending
        {
            let again = move |answer| Planned::Again(object, Box::new(answer));
            asked.push_back(match self.sift(ListingItem::Entry(entry), filter) {
                Err(other) => Either::Left(ready(again(other))),
                Ok((entry, key)) if self.transfer.when == When::Always && !self.is_in_place() => {
                    let always = Decision::Copy(Reason::Always);
                    Either::Left(ready(again(self.planned(
                        entry,
                        key,
                        always,
                        DestinationState::Unknown,
                    ))))
                }
                Ok((entry, key)) => {
                    let sides = self.clone();
                    let asked =
                        spawn_and_join(async move { sides.ask_again(entry, key, &made).await });
                    Either::Right(asked.map(again))
                }
            });
            if asked.len() >= at_once
                && let Some(answer) = asked.next().await
            {
                planned.send(answer).await?;
            }
        }
        while let Some(answer) = asked.next().await {
            planned.send(answer).await?;
        }
        Ok(())
    }

    /// Replans an object that an earlier session was working on. `began` is the source as it was
    /// then. Equal bytes do not show that the session finished the object, because s3haul adds some
    /// attributes and proofs after the bytes.
    pub(crate) async fn ask_again(
        &self,
        began: Entry,
        key: ObjectKey,
        made: &MadeBefore,
    ) -> Planned {
        if self.is_in_place() {
            return self.ask_in_place(began, key, true).await;
        }
        let mut entry = began.clone();
        if let Err(failure) = self.refresh_entry(&mut entry).await {
            return self.failed(&began, failure);
        }
        match self
            .compare_by_head(entry, key, AskedSides::Destination)
            .await
        {
            Planned::Skip(entry, key, why @ (Skip::Equal { .. } | Skip::Present)) => {
                match self.reason_to_redo((&began, &entry), &key, why, made).await {
                    Ok(Some((reason, there))) => {
                        self.step(*entry, key, reason, DestinationState::Object(there.etag))
                    }
                    Ok(None) => Planned::Skip(entry, key, why),
                    Err(failure) => self.failed(&entry, failure),
                }
            }
            planned => planned,
        }
    }

    /// If the object at the key is an outdated or unfinished copy by an earlier session, returns
    /// the reason to copy it again, and its HEAD.
    async fn reason_to_redo(
        &self,
        (began, now): (&Entry, &Entry),
        key: &ObjectKey,
        why: Skip,
        made: &MadeBefore,
    ) -> Result<Option<(Reason, Head)>, Failure> {
        let is_proven = matches!(
            why,
            Skip::Equal {
                equal_by: Basis::Checksum | Basis::Etag,
                ..
            }
        );
        let has_changed = began.differs_from(now);
        if !is_proven && has_changed {
            let there = self.look_at_copy(key).await?;
            let reason = Reason::Newer;
            if self.is_of_an_earlier_session(&there, made) {
                return Ok(Some((reason, there)));
            }
            // Sizes and times do not distinguish a copy of the old source from one of the current
            // source.
            let is_old_copy = why != Skip::Present || self.is_copy_of(began, &there);
            if is_old_copy {
                return Ok(Some((reason, there)));
            }
        }
        let there = if made.adopted {
            Some(self.look_at_copy(key).await?)
        } else {
            self.unfinished(now, key).await?
        };
        let unfinished = match there {
            // With `when: missing`, only an object with the source's bytes may be replaced, because
            // no other object can be the session's copy.
            Some(there) if why == Skip::Present => self.if_equal(now, there).await?,
            other => other,
        };
        Ok(unfinished.map(|there| (Reason::Always, there)))
    }

    async fn look_at_copy(&self, key: &ObjectKey) -> Result<Head, Failure> {
        self.destination
            .with_slot(self.destination.head(key, None))
            .await
    }

    /// Returns true if an object has the `ETag` that results from the parts of an earlier session's
    /// upload.
    fn is_of_an_earlier_session(&self, there: &Head, made: &MadeBefore) -> bool {
        self.destination.capabilities().content_etags
            && !there.kms
            && made.etag.as_ref() == Some(&there.etag)
    }

    /// Returns true if an object certainly has the bytes that the source had in the earlier
    /// session.
    fn is_copy_of(&self, began: &Entry, there: &Head) -> bool {
        let Some(etag) = &began.etag else {
            return false;
        };
        let then = Head {
            size: began.size,
            etag: etag.clone(),
            ..Head::default()
        };
        let content = content(&then, there, self.etags_follow_from_bytes());
        began.size > 0 && matches!(content, Content::Equal(_))
    }

    /// Updates an entry with the current state of its object or file.
    async fn refresh_entry(&self, entry: &mut Entry) -> Result<(), Failure> {
        if let Some(source) = &self.source {
            let head = self.look_at_source(source, entry).await?;
            entry.update_from_head(head);
        } else if let Source::Files { path, .. } = &self.transfer.from {
            (entry.size, entry.modified) = local::look(&local::path_of(path, entry)).await?;
        }
        Ok(())
    }

    /// Returns the object `there` if it certainly has the bytes of this entry. Returns `None` for
    /// files, which have no `ETag` or checksum to compare.
    async fn if_equal(&self, entry: &Entry, there: Head) -> Result<Option<Head>, Failure> {
        let Some(source) = &self.source else {
            return Ok(None);
        };
        let here = source
            .with_slot(source.head(&entry.key, entry.version.as_deref()))
            .await?;
        let content = content(&here, &there, self.etags_follow_from_bytes());
        Ok(matches!(content, Content::Equal(_)).then_some(there))
    }
}
