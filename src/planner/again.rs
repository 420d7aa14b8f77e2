//! Replans the objects that an earlier session planned but did not finish.
//!
//! The copy may exist although its record was lost, or it may be outdated because the source was
//! rewritten since. So s3haul looks for the keys in the destination's list ([`PendingKeys`]). It
//! sends HEAD to both sides only for an object that the list shows and that need not be copied
//! according to the list. If the list proves nothing, it sends HEAD for each key. A copy with equal
//! bytes may still lack attributes or a proof that s3haul adds after the bytes. With `when:
//! missing`, s3haul replaces an existing object only if it is certainly a copy by this run.

use futures::future::{Either, FutureExt, ready};
use futures::stream::{FuturesOrdered, StreamExt};

use super::compare::AskedSides;
use super::steps::{BatchSender, ReceiverGone};
use super::{MadeBefore, Next, Pending, Planned, Sides};
use crate::listing::filter::Filter;
use crate::listing::join::Counterparts;
use crate::listing::{Entry, ListingItem, bucket, local};
use crate::location::ObjectKey;
use crate::manifest::job::{Source, When};
use crate::pace::gate::spawn_and_join;
use crate::plan::condition::DestinationState;
use crate::plan::decide::{Basis, Content, Decision, Reason, Skip, content};
use crate::s3::{ArchiveState, Failure, Head};

/// The maximum number of entries of the destination's list that are read on the way from one
/// pending key to the next. A new list begins near a key that lies further away.
const NEAR: usize = 1000;

/// Finds the pending keys, which come in order, in the destination's list.
struct PendingKeys {
    sides: Sides,
    list: Option<Counterparts>,
}

impl PendingKeys {
    async fn find(&mut self, key: &ObjectKey) -> Result<Option<&Entry>, Failure> {
        let is_near = match &mut self.list {
            Some(list) => list.approach(key.as_str(), NEAR).await?,
            None => false,
        };
        if !is_near {
            self.list = None;
        }
        let list = self.list.get_or_insert_with(|| self.sides.list_near(key));
        list.find(key.as_str()).await
    }
}

impl Sides {
    /// Plans the pending objects of earlier sessions again. Their copies may exist although their
    /// records were lost.
    pub(super) async fn plan_again(
        &self,
        mut pending: Vec<Pending>,
        filter: &Filter,
        planned: &BatchSender,
    ) -> Result<(), ReceiverGone> {
        let at_once = self.heads_at_once();
        let mut asked = FuturesOrdered::new();
        let has_list = self.lists_destination() && self.lists_in_order();
        let mut there = has_list.then(|| PendingKeys {
            sides: self.clone(),
            list: None,
        });
        if has_list {
            pending.sort_by(|one, other| one.entry.key.cmp(&other.entry.key));
        }
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
                Ok((entry, key)) => match self.by_list(entry, key, &mut there).await {
                    Ok(step) => Either::Left(ready(again(step))),
                    Err((entry, key)) => {
                        let sides = self.clone();
                        let asked =
                            spawn_and_join(async move { sides.ask_again(entry, key, &made).await });
                        Either::Right(asked.map(again))
                    }
                },
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

    /// Returns the destination's list from a place shortly before this key.
    fn list_near(&self, key: &ObjectKey) -> Counterparts {
        let mut before = key.to_string();
        before.pop();
        let after = Some(before).filter(|before| !before.is_empty());
        let (destination, reach) = (self.destination.clone(), self.destination_reach());
        Counterparts::of(bucket::objects(destination, reach, after))
    }

    /// Returns the step of a pending object if the destination's list shows that it must be copied,
    /// and the object otherwise. The list is dropped if it fails.
    async fn by_list(
        &self,
        entry: Entry,
        key: ObjectKey,
        there: &mut Option<PendingKeys>,
    ) -> Result<Planned, (Entry, ObjectKey)> {
        // An archived object may be readable by now.
        let Some(list) = there
            .as_mut()
            .filter(|_| entry.archive == ArchiveState::Readable)
        else {
            return Err((entry, key));
        };
        let planned = match list.find(&key).await {
            Ok(None) => {
                let decision = self.decide(&entry, None);
                self.planned(
                    entry.clone(),
                    key.clone(),
                    decision,
                    DestinationState::Absent,
                )
            }
            Ok(Some(found)) => match self.compare_listed(entry.clone(), key.clone(), found) {
                Next::Known(planned) => planned,
                Next::Ask(entry, key, _) => return Err((entry, key)),
            },
            // HEAD of each key says more than a list that fails.
            Err(_) => {
                *there = None;
                return Err((entry, key));
            }
        };
        match planned {
            step @ Planned::Step(_) => Ok(step),
            _ => Err((entry, key)),
        }
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
        let is_readable = began.archive == ArchiveState::Readable;
        let mut first = None;
        if is_readable {
            let asked = self.compare_by_head(began.clone(), key.clone(), AskedSides::Destination);
            match asked.await {
                // The copy sends HEAD to the source anyway.
                planned @ (Planned::Step(_) | Planned::Failed(..)) => return planned,
                planned => first = Some(planned),
            }
        }
        let mut entry = began.clone();
        if let Err(failure) = self.refresh_entry(&mut entry).await {
            return self.failed(&began, failure);
        }
        let planned = match first {
            Some(planned) if !began.differs_from(&entry) => planned,
            _ => {
                self.compare_by_head(entry, key, AskedSides::Destination)
                    .await
            }
        };
        match planned {
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
