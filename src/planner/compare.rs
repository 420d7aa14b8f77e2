//! Compares a source object with the destination's object at its key.
//!
//! The decisions are pure functions ([`crate::plan::decide`], [`crate::plan::existing`]). This
//! module obtains the input that lists do not show: HEADs, sizes of first parts, tags, ACLs, and
//! hashes of local files.

use super::hash::{self, Hashes, WantedHash};
use super::unfinished::{TagPresence, tag_presence};
use super::{Next, Planned, Sides};
use crate::bucket::Bucket;
use crate::checksum::{looks_like_md5, part_count};
use crate::listing::Entry;
use crate::listing::local::path_of;
use crate::location::ObjectKey;
use crate::manifest::job::{Compare, Source, When};
use crate::plan::condition::DestinationState;
use crate::plan::decide::{
    Basis, Content, Decision, Doubt, Reason, SetAttributes, Side, Skip, by_time, content, decide,
};
use crate::plan::existing::{self, StorageClassMatch};
use crate::plan::in_place::has_acl;
use crate::s3::{ChecksumKind, Failure, FailureKind, Head, Operation, SourcePin};

/// The sides that need a HEAD request to decide about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskedSides {
    /// Only the destination: the key may exist, or its attributes must be compared.
    Destination,
    /// Both sides: the lists do not show whether the objects are equal.
    Both(Doubt),
}

impl Sides {
    /// Compares an entry with the destination's listed object at its key.
    pub(super) fn compare_listed(&self, entry: Entry, key: ObjectKey, there: &Entry) -> Next {
        let mut decision = self.decide(&entry, Some(self.side(there)));
        if matches!(decision, Decision::Skip(_)) && !self.believes_lists() {
            return Next::Ask(entry, key, AskedSides::Destination);
        }
        if let Decision::Skip(Skip::Equal { equal_by, .. }) = decision {
            match self.by_listed_attributes(equal_by, there.storage_class.as_deref()) {
                Some(settled) => decision = settled,
                None => return Next::Ask(entry, key, AskedSides::Destination),
            }
        }
        if let Decision::Ask(doubt) = decision {
            return Next::Ask(entry, key, AskedSides::Both(doubt));
        }
        let destination_state = match (&decision, &there.etag) {
            (Decision::Copy(_), Some(etag)) => DestinationState::Object(etag.clone()),
            // Only copies need the state.
            _ => DestinationState::Unknown,
        };
        Next::Known(self.planned(entry, key, decision, destination_state))
    }

    fn side<'e>(&self, entry: &'e Entry) -> Side<'e> {
        // The caller sets `is_file` for a local file, whose entry has no ETag.
        Side {
            size: entry.size,
            etag: entry
                .etag
                .as_deref()
                .filter(|_| self.etags_follow_from_bytes()),
            modified: entry.modified,
            is_file: false,
        }
    }

    /// Compares an entry with the destination's object by HEAD of the destination and, if
    /// necessary, of the source.
    pub(super) async fn compare_by_head(
        &self,
        mut entry: Entry,
        key: ObjectKey,
        question: AskedSides,
    ) -> Planned {
        if self.is_in_place() {
            return self.ask_in_place(entry, key, false).await;
        }
        // A HEAD that has to wait releases its slot to other requests.
        let destination = self.destination.parking_heads();
        let head = match destination.with_slot(destination.head(&key, None)).await {
            Ok(head) => head,
            Err(failure) if *failure.kind() == FailureKind::NotFound => {
                let decision = self.decide(&entry, None);
                return self.planned(entry, key, decision, DestinationState::Absent);
            }
            // S3 answers 403 for a missing key if the caller may not list the bucket, so the key
            // may or may not exist.
            Err(failure) if *failure.kind() == FailureKind::Denied => {
                let decision = self.decide(&entry, None);
                return self.planned(entry, key, decision, DestinationState::Unknown);
            }
            Err(failure) => return self.failed(&entry, failure),
        };
        if let Err(failure) = self.refresh_from_head(&mut entry).await {
            return self.failed(&entry, failure);
        }
        match self.by_head(&entry, &key, &head, question).await {
            Ok(decision) => self.planned(entry, key, decision, DestinationState::Object(head.etag)),
            Err(failure) => self.failed(&entry, failure),
        }
    }

    /// Replaces the listed properties of a source object with those of HEAD, if lists are not
    /// trusted.
    async fn refresh_from_head(&self, entry: &mut Entry) -> Result<(), Failure> {
        let Some(source) = self
            .source
            .as_ref()
            .filter(|source| !source.capabilities().believes_answers())
        else {
            return Ok(());
        };
        let head = self.look_at_source(source, entry).await?;
        entry.update_from_head(head);
        Ok(())
    }

    /// Decides by HEAD of the destination. If that leaves a doubt, also compares the checksums and
    /// `ETag`s of both sides, or hashes the local file.
    async fn by_head(
        &self,
        entry: &Entry,
        key: &ObjectKey,
        there: &Head,
        question: AskedSides,
    ) -> Result<Decision, Failure> {
        let mut decision = match question {
            AskedSides::Both(doubt) => Decision::Ask(doubt),
            AskedSides::Destination => self.decide(
                entry,
                Some(Side {
                    size: there.size,
                    etag: Some(there.etag.as_str()).filter(|_| self.etags_follow_from_bytes()),
                    modified: there.modified,
                    is_file: false,
                }),
            ),
        };
        if let Decision::Ask(doubt) = decision {
            decision = match &self.source {
                Some(source) => {
                    self.compare_objects(source, entry, key, there, doubt)
                        .await?
                }
                None => self.compare_file(entry, key, there).await?,
            };
        }
        match decision {
            Decision::Skip(Skip::Equal {
                equal_by,
                set_attributes,
            }) => {
                let others = self.by_attributes(equal_by, key, there).await?;
                let is_equal = matches!(others, Decision::Skip(_));
                let is_open = is_equal && set_attributes == SetAttributes::TagsNotCompared;
                Ok(if is_open { decision } else { others })
            }
            // Other attributes can be repaired only by copying again.
            Decision::Copy(Reason::LacksTags) => {
                let others = self.by_attributes(Basis::Time, key, there).await?;
                let differs = matches!(others, Decision::Copy(_));
                Ok(if differs { others } else { decision })
            }
            decision => Ok(decision),
        }
    }

    /// Decides by size, `ETag`, and time, from a list or from HEAD. For an old version, returns a
    /// doubt instead of deciding by times alone: a newer object at the destination may be a copy of
    /// a later version.
    pub(super) fn decide(&self, entry: &Entry, there: Option<Side<'_>>) -> Decision {
        let transfer = &self.transfer;
        let source = Side {
            is_file: self.source.is_none(),
            ..self.side(entry)
        };
        let is_past = entry.version.is_some() && transfer.when == When::Changed;
        match decide(transfer.when, transfer.compare, source, there) {
            Decision::Skip(Skip::Equal {
                equal_by: Basis::Time,
                ..
            })
            | Decision::Copy(Reason::Newer | Reason::SameSecond)
                if is_past =>
            {
                Decision::Ask(Doubt::Content)
            }
            // In this bucket, different ETags prove nothing, and the lists show that the
            // destination is newer.
            Decision::Ask(Doubt::Etags)
                if !is_past
                    && self.believes_lists()
                    && self.destination.hidden_etags().are_usual() =>
            {
                Decision::Skip(Skip::equal(Basis::Time))
            }
            decision => decision,
        }
    }

    /// Sends HEAD for the source, and compares both objects.
    async fn compare_objects(
        &self,
        source: &Bucket,
        entry: &Entry,
        key: &ObjectKey,
        there: &Head,
        doubt: Doubt,
    ) -> Result<Decision, Failure> {
        let here = self.look_at_source(source, entry).await?;
        if let Some(message) = entry.contradicted_by(&here, source.capabilities().content_etags) {
            let place = source.place(&entry.key);
            return Err(Failure::new(
                FailureKind::ServerFault,
                Operation::HeadObject,
                place,
                message,
            ));
        }
        let mut found = content(&here, there, self.etags_follow_from_bytes());
        if found == Content::SamePartCount {
            let here = first_part(source, &entry.key, entry.version.as_deref(), &here);
            let there = first_part(&self.destination, key, None, there);
            let (here, there) = tokio::join!(here, there);
            if here.is_some() && here == there {
                found = Content::Differs(Reason::EtagDiffers);
            }
        }
        if doubt == Doubt::Etags {
            self.destination
                .hidden_etags()
                .note(!matches!(found, Content::Differs(_)));
        }
        let decision = match found {
            Content::Differs(reason) => Decision::Copy(reason),
            Content::Equal(basis) => Decision::Skip(Skip::equal(basis)),
            _ if entry.version.is_some() => Decision::Copy(Reason::Differs),
            _ if doubt == Doubt::Content => by_time(here.modified, there.modified),
            // The lists show that the destination is newer. Their times may be finer than those of
            // HEAD.
            _ => Decision::Skip(Skip::equal(Basis::Time)),
        };
        let Decision::Skip(Skip::Equal { equal_by, .. }) = decision else {
            return Ok(decision);
        };
        let lacks_tags = self.lacks_tags(source, entry, &here, key, there).await?;
        Ok(match lacks_tags {
            Some(true) => Decision::Copy(Reason::LacksTags),
            Some(false) => decision,
            None => Decision::Skip(Skip::Equal {
                equal_by,
                set_attributes: SetAttributes::TagsNotCompared,
            }),
        })
    }

    /// Returns true if an object lacks tags that copies get in a second request, or `None` if they
    /// may not be read. An earlier session may have been killed between the two requests.
    async fn lacks_tags(
        &self,
        source: &Bucket,
        entry: &Entry,
        here: &Head,
        key: &ObjectKey,
        there: &Head,
    ) -> Result<Option<bool>, Failure> {
        if !self.sets_tags_late() || there.tag_count > Some(0) {
            return Ok(Some(false));
        }
        let wanted = if self.transfer.set.tags.is_empty() {
            tag_presence(source, &entry.key, entry.version.as_deref(), here).await?
        } else {
            TagPresence::Tagged
        };
        if matches!(wanted, TagPresence::Untagged | TagPresence::NotShown) {
            return Ok(Some(false));
        }
        let version = there.version.as_deref();
        let found = tag_presence(&self.destination, key, version, there).await?;
        Ok(match (wanted, found) {
            (_, TagPresence::Tagged | TagPresence::NotShown) => Some(false),
            (TagPresence::Tagged, TagPresence::Untagged) => Some(true),
            _ => None,
        })
    }

    /// Compares a local file with an object. Hashes the file in the same way as the destination
    /// computed its checksum or `ETag`.
    async fn compare_file(
        &self,
        entry: &Entry,
        key: &ObjectKey,
        there: &Head,
    ) -> Result<Decision, Failure> {
        let Source::Files { path, .. } = &self.transfer.from else {
            return Ok(by_time(entry.modified, there.modified));
        };
        if entry.size != there.size {
            return Ok(Decision::Copy(Reason::SizeDiffers));
        }
        let checksum = there
            .checksum
            .as_ref()
            .filter(|_| self.transfer.compare == Compare::Checksum);
        let whole = checksum.is_some_and(|checksum| checksum.kind == ChecksumKind::FullObject);
        // Other bytes can have the same 32-bit checksum, but not the same MD5 too.
        let is_weak = checksum.is_some_and(|checksum| checksum.algorithm.is_weak());
        let etag_tells = (!whole || is_weak) && self.etags_follow_from_bytes() && !there.kms;
        let in_parts = part_count(&there.etag).is_some();
        let part_size = if in_parts && !whole && (etag_tells || checksum.is_some()) {
            first_part(&self.destination, key, None, there).await
        } else {
            None
        };
        let want = WantedHash {
            checksum: checksum
                .filter(|_| whole || part_size.is_some())
                .map(|checksum| (checksum.algorithm, checksum.kind)),
            etag: etag_tells && (part_size.is_some() || looks_like_md5(&there.etag)),
            part_size,
        };
        if want.checksum.is_none() && !want.etag {
            return Ok(by_time(entry.modified, there.modified));
        }
        let Hashes {
            bytes,
            checksum: sum,
            etag,
        } = hash::file(&path_of(path, entry), want).await?;
        if bytes != there.size {
            return Ok(Decision::Copy(Reason::SizeDiffers));
        }
        let equal = |basis| Ok(Decision::Skip(Skip::equal(basis)));
        // The parts of the object may have different sizes. If so, a hash over equal parts differs,
        // which proves nothing.
        let differs = |reason| {
            if in_parts && !whole {
                by_time(entry.modified, there.modified)
            } else {
                Decision::Copy(reason)
            }
        };
        let other_md5 = |etag: &String| looks_like_md5(&there.etag) && *etag != there.etag;
        let is_contradicted = is_weak && etag.as_ref().is_some_and(other_md5);
        match (sum, checksum, etag) {
            (Some(sum), Some(checksum), _) if sum.value == checksum.value && !is_contradicted => {
                equal(Basis::Checksum)
            }
            (Some(sum), Some(checksum), _) if whole && sum.value != checksum.value => {
                Ok(differs(Reason::ChecksumDiffers))
            }
            (_, _, Some(etag)) if etag == there.etag => equal(Basis::Etag),
            (_, _, Some(_)) => Ok(differs(Reason::EtagDiffers)),
            _ => Ok(differs(Reason::ChecksumDiffers)),
        }
    }

    /// Decides, by the listed storage class, what to do with an object whose bytes are equal.
    /// Returns `None` if HEAD must show other attributes first.
    fn by_listed_attributes(&self, equal_by: Basis, class: Option<&str>) -> Option<Decision> {
        let transfer = &self.transfer;
        let unlisted = transfer.sets_unlisted_attributes();
        let set_attributes = match existing::class(transfer, class, self.destination.capabilities())
        {
            StorageClassMatch::Differs => return Some(Decision::Copy(Reason::AttributesDiffer)),
            _ if unlisted && transfer.compare_attributes => return None,
            _ if unlisted => SetAttributes::NotChecked,
            StorageClassMatch::MayBeMoved => SetAttributes::OtherStorageClass,
            StorageClassMatch::AsSet => SetAttributes::Kept,
        };
        Some(Decision::Skip(Skip::Equal {
            equal_by,
            set_attributes,
        }))
    }

    /// Decides about an object with equal bytes by HEAD, and by its tags and ACL if the job
    /// compares them.
    async fn by_attributes(
        &self,
        equal_by: Basis,
        key: &ObjectKey,
        there: &Head,
    ) -> Result<Decision, Failure> {
        let transfer = &self.transfer;
        let class = existing::class(
            transfer,
            there.storage_class.as_deref(),
            self.destination.capabilities(),
        );
        let capabilities = self.destination.capabilities();
        if class == StorageClassMatch::Differs
            || existing::unlike(transfer, there, capabilities).is_some()
        {
            return Ok(Decision::Copy(Reason::AttributesDiffer));
        }
        let mut set_attributes = match class {
            StorageClassMatch::MayBeMoved => SetAttributes::OtherStorageClass,
            StorageClassMatch::AsSet | StorageClassMatch::Differs => SetAttributes::Kept,
        };
        if !transfer.set.tags.is_empty() && self.destination.capabilities().tags {
            if transfer.compare_attributes {
                let tags = self
                    .destination
                    .with_slot(self.destination.tags(key, None))
                    .await?;
                if !existing::has_set_tags(transfer, &tags) {
                    return Ok(Decision::Copy(Reason::AttributesDiffer));
                }
            } else {
                set_attributes = SetAttributes::NotChecked;
            }
        }
        if let Some(acl) = transfer.to.acl {
            let shown = if transfer.compare_attributes {
                has_acl(
                    acl,
                    &self
                        .destination
                        .with_slot(self.destination.acl(key, None))
                        .await?,
                )
            } else {
                None
            };
            match shown {
                Some(true) => {}
                Some(false) => return Ok(Decision::Copy(Reason::AttributesDiffer)),
                None => set_attributes = SetAttributes::NotChecked,
            }
        }
        Ok(Decision::Skip(Skip::Equal {
            equal_by,
            set_attributes,
        }))
    }
}

/// Returns the size of the first part of a multipart object, or `None` if the server does not show
/// it.
async fn first_part(
    bucket: &Bucket,
    key: &ObjectKey,
    version: Option<&str>,
    head: &Head,
) -> Option<u64> {
    let pin = SourcePin {
        bucket: bucket.name().clone(),
        key: key.clone(),
        version: version.map(str::to_owned),
        etag: head.etag.clone(),
        customer_key: bucket
            .client()
            .customer_key()
            .filter(|_| head.customer_key)
            .cloned(),
    };
    let part = bucket.with_slot(bucket.head_part(&pin, 1)).await.ok()?;
    let parts = part_count(&head.etag)?;
    // A server that ignores `partNumber` shows the size of the whole object.
    (part.size > 0 && (part.size < head.size || parts == 1)).then_some(part.size)
}
