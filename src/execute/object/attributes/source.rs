//! Reads the attributes of the source that HEAD does not show, before the copy is created.
//!
//! If a server does not support a request, the run sends the request only once per bucket. After
//! that, each receipt records a loss, or the object fails if the attribute is required.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::bucket::Bucket;
use crate::execute::TransferContext;
use crate::execute::object::published::not_compared;
use crate::execute::object::round_failure::RoundFailure;
use crate::execute::receipt::Draft;
use crate::execute::refusals::{CarriedTags, Shown, Uncounted};
use crate::execute::replan::Replan;
use crate::manifest::job::{Attribute, Policy, Transfer};
use crate::plan::attribute_fallback;
use crate::plan::attributes::{merged_tags, set_tags};
use crate::plan::carried::UNTAGGED;
use crate::plan::loss::{Loss, Lost};
use crate::s3::paging::{Order, PageVerdict, Paging};
use crate::s3::{
    AnnotationEntry, Attributes, Failure, FailureKind, Grant, Head, Operation, SourcePin, Tag,
};
use crate::size::display_counted;

/// An annotation of the source.
pub(super) struct Annotation {
    pub(super) entry: AnnotationEntry,
    /// Its text; `None` if the text is read only when the annotation is written.
    pub(super) text: Option<Bytes>,
}

/// The maximum number of bytes of annotations that one object holds in memory until they are
/// written. A single annotation cannot be larger, so at least one annotation is read before
/// anything is published.
const ANNOTATIONS_HELD: usize = 1 << 20;

/// The source side of a copy: one version of one object.
pub(super) struct SourceAttributes<'a> {
    pub(super) context: &'a TransferContext,
    pub(super) bucket: &'a Bucket,
    pub(super) pin: &'a SourcePin,
}

impl SourceAttributes<'_> {
    fn transfer(&self) -> &Transfer {
        &self.context.sides.transfer
    }

    pub(super) fn version(&self) -> Option<&str> {
        self.pin.version.as_deref()
    }

    /// Returns the permission that a request about the source needs. A request that names a version
    /// needs another permission.
    pub(super) fn permission(&self, operation: Operation) -> &'static str {
        operation.permission(self.pin.version.is_some())
    }

    /// Returns the result of `ask`. If the attribute cannot be read and its policy is `try`,
    /// records a loss and returns `None`.
    pub(super) async fn read_or_record_loss<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        attribute: Attribute,
        permission: &str,
        ask: impl Fn() -> F,
        draft: &mut Draft,
    ) -> Result<Option<T>, Failure> {
        let mut answer = ask().await;
        // During an outage, a server may refuse everything. If the attribute could be read before,
        // the refusal counts only if it is repeated after a successful HEAD.
        if let Err(failure) = &answer
            && *failure.kind() == FailureKind::Denied
            && self.transfer().preserve.of(attribute) == Policy::Try
            && self.context.refusals.has_answered(self.bucket, attribute)
        {
            Box::pin(self.bucket.head(&self.pin.key, self.version())).await?;
            answer = ask().await;
        }
        match answer {
            Ok(value) => {
                self.context.refusals.note_answer(self.bucket, attribute);
                Ok(Some(value))
            }
            Err(failure) => {
                self.record_loss(attribute, permission, failure, draft)
                    .await?;
                Ok(None)
            }
        }
    }

    /// Records the loss of an attribute that could not be read and whose policy is `try`.
    ///
    /// # Errors
    /// Returns the failure if the attribute is required, or if the failure has nothing to do with
    /// the attribute.
    async fn record_loss(
        &self,
        attribute: Attribute,
        permission: &str,
        failure: Failure,
        draft: &mut Draft,
    ) -> Result<(), Failure> {
        if self.transfer().preserve.of(attribute) != Policy::Try {
            return Err(failure);
        }
        // A 404 may mean that the object was deleted, or that the server does not support the
        // request.
        let failure = if *failure.kind() == FailureKind::NotFound {
            Box::pin(self.bucket.head(&self.pin.key, self.version())).await?;
            failure.as_kind(FailureKind::NotUnderstood)
        } else {
            failure
        };
        if *failure.kind() != FailureKind::Denied && !failure.is_no_answer() {
            return Err(failure);
        }
        let loss =
            attribute_fallback::unreadable(attribute, permission, &failure, self.bucket.name());
        // If this request succeeded for other objects, the failure concerns this object only.
        let refusals = &self.context.refusals;
        match failure.kind() {
            FailureKind::Denied => refusals.remember_denied(self.bucket, &loss),
            FailureKind::Unsupported => refusals.remember(self.bucket, &loss),
            _ if refusals.has_answered(self.bucket, attribute) => {}
            _ => refusals.remember(self.bucket, &loss),
        }
        draft.losses.push(loss);
        Ok(())
    }

    /// Returns true, and records a loss, if the attribute is known to be unreadable and its policy
    /// is `try`. The caller then sends no request.
    pub(super) fn is_known_unreadable(&self, attribute: Attribute, draft: &mut Draft) -> bool {
        if self.transfer().preserve.of(attribute) != Policy::Try {
            return false;
        }
        let known = self
            .context
            .refusals
            .expected_loss(self.bucket, attribute, Lost::NotReadable);
        draft.losses.extend(known.clone());
        known.is_some()
    }

    /// Reads the source's tags. Returns an error if their number is not the `count` that HEAD
    /// showed: some servers return an empty list for a request that they do not support.
    async fn counted_tags(&self, count: Option<u32>) -> Result<Vec<Tag>, Failure> {
        let (key, version) = (&self.pin.key, self.version());
        let tags = self.bucket.tags(key, version).await?;
        let is_as_counted =
            |count: Option<u32>| count.is_none_or(|count| count as usize == tags.len());
        // Tags may change without a new version.
        if is_as_counted(count)
            || is_as_counted(Box::pin(self.bucket.head(key, version)).await?.tag_count)
        {
            return Ok(tags);
        }
        let place = self.bucket.place(key);
        let message = format!(
            "the answer has {}, but HEAD counts {}",
            display_counted(tags.len() as u64, "tag"),
            count.unwrap_or(0)
        );
        Err(Failure::new(
            FailureKind::NotUnderstood,
            Operation::GetObjectTagging,
            place,
            message,
        ))
    }

    /// Reads the source's tags. Returns `None` for a change in place on a server that does not
    /// support tags, because no tags can be lost there.
    async fn own_tags(&self, count: Option<u32>) -> Result<Option<Vec<Tag>>, Failure> {
        match self.counted_tags(count).await {
            Err(failure)
                if matches!(
                    failure.kind(),
                    FailureKind::Unsupported | FailureKind::NotUnderstood
                ) && count.is_none()
                    && self.context.sides.is_in_place() =>
            {
                Ok(None)
            }
            answer => answer.map(Some),
        }
    }

    /// Returns the source's tags merged with the tags that the job sets. If the source's tags
    /// cannot be read and their policy is `try`, returns only the tags that the job sets. `head`
    /// describes the object whose other attributes the copy gets.
    pub(super) async fn tags(
        &self,
        head: &Head,
        draft: &mut Draft,
    ) -> Result<Vec<Tag>, RoundFailure> {
        let count = head.tag_count;
        if self.is_known_unreadable(Attribute::Tags, draft) {
            return Ok(set_tags(self.transfer()));
        }
        let ask = || self.own_tags(count);
        let permission = self.permission(Operation::GetObjectTagging);
        let Some(Some(kept)) = self
            .read_or_record_loss(Attribute::Tags, permission, ask, draft)
            .await?
        else {
            return Ok(set_tags(self.transfer()));
        };
        self.confirm(head, &kept).await?;
        match merged_tags(kept, self.transfer()) {
            Ok(tags) => Ok(tags),
            Err(loss) if self.transfer().preserve.tags == Policy::Try => {
                draft.losses.push(loss);
                Ok(set_tags(self.transfer()))
            }
            Err(loss) => Err(self.not_kept(&loss, Operation::GetObjectTagging).into()),
        }
    }

    /// Confirms that these tags belong to the object that HEAD showed. Unless the version is
    /// immutable, the tags may belong to an object that has replaced it, perhaps with the same
    /// bytes.
    async fn confirm(&self, head: &Head, tags: &[Tag]) -> Result<(), RoundFailure> {
        let has_none = tags.is_empty() && head.tag_count.is_none_or(|count| count == 0);
        if self.pin.is_immutable() || has_none {
            return Ok(());
        }
        let now = self.bucket.head(&self.pin.key, self.version()).await?;
        let is_same = (&now.etag, now.size, now.modified, now.tag_count)
            == (&head.etag, head.size, head.modified, head.tag_count)
            && (&now.metadata, &now.headers) == (&head.metadata, &head.headers);
        if is_same {
            return Ok(());
        }
        Err(Replan::SourceChanged.into())
    }

    /// Returns true if tags that S3 copies itself must be read, to compare them with the tags of
    /// the copy or to write them back.
    ///
    /// If HEAD shows their number (`count`), comparing the number is enough. Only a change in place
    /// needs the values, because it destroys tags that it does not keep. If HEAD shows no number
    /// and the policy for tags is `try`, s3haul stops reading them once the destination has kept
    /// some, HEAD has shown a number for another object, or many objects in a row had no tags.
    fn reads_carried_tags(&self, count: Option<u32>, draft: &mut Draft) -> bool {
        let Self {
            context, bucket, ..
        } = self;
        let (refusals, destination) = (&context.refusals, &context.sides.destination);
        match count {
            Some(0) => return false,
            Some(_) if !context.sides.is_in_place() => {
                refusals.note_uncounted(bucket, Uncounted::Counts);
                return false;
            }
            _ => {}
        }
        let is_tried = self.transfer().preserve.tags == Policy::Try;
        if !is_tried || !destination.capabilities().believes_answers() {
            return true;
        }
        match refusals.carried_tags(destination, Operation::CopyObject) {
            CarriedTags::Unknown => {}
            CarriedTags::Kept => return false,
            CarriedTags::NotReadable(permission) => {
                let note = not_compared(Attribute::Tags, permission, destination.name());
                draft.notes.push(note);
                return false;
            }
        }
        match refusals.known_uncounted(bucket) {
            Uncounted::Untagged(known) => known < UNTAGGED,
            Uncounted::Tagged => true,
            Uncounted::Counts | Uncounted::NotKnown => false,
            Uncounted::NotReadable(why) => {
                draft.notes.push(why);
                false
            }
        }
    }

    /// Reads the tags that S3 copies itself. Returns `None` if they need not, or cannot, be
    /// compared.
    pub(super) async fn carried_tags(
        &self,
        count: Option<u32>,
        draft: &mut Draft,
    ) -> Result<Option<Vec<Tag>>, RoundFailure> {
        if !self.reads_carried_tags(count, draft) {
            return Ok(None);
        }
        let Self {
            context, bucket, ..
        } = self;
        let refusals = &context.refusals;
        let failure = match self.counted_tags(count).await {
            Ok(tags) => {
                refusals.note_answer(bucket, Attribute::Tags);
                let found = if tags.is_empty() {
                    Uncounted::Untagged(1)
                } else {
                    Uncounted::Tagged
                };
                refusals.note_uncounted(bucket, found);
                return Ok(Some(tags));
            }
            Err(failure) => failure,
        };
        let is_in_place = context.sides.is_in_place();
        let is_tried = self.transfer().preserve.tags == Policy::Try;
        let permission = self.permission(Operation::GetObjectTagging);
        // If this request succeeded for other objects, the failure concerns this object only.
        let is_about_all = count.is_none() && !refusals.has_answered(bucket, Attribute::Tags);
        match failure.kind() {
            FailureKind::Denied if is_in_place => {
                let remedy = "an in-place change keeps the tags, which needs s3:GetObjectTagging; \
                              `preserve: {tags: skip}` removes them";
                Err(failure.noting(remedy).into())
            }
            FailureKind::Denied if is_tried => {
                let why = not_compared(Attribute::Tags, permission, bucket.name());
                refusals.note_uncounted(bucket, Uncounted::NotReadable(why.clone()));
                draft.notes.push(why);
                Ok(None)
            }
            // A server without tags cannot lose any.
            FailureKind::Unsupported | FailureKind::NotUnderstood
                if (is_in_place || is_tried) && is_about_all =>
            {
                refusals.note_uncounted(bucket, Uncounted::NotKnown);
                Ok(None)
            }
            kind if is_tried && failure.is_no_answer() && is_about_all => {
                // The 404 may mean that the object was deleted, and not that the server does not
                // support tags.
                if *kind == FailureKind::NotFound {
                    Box::pin(bucket.head(&self.pin.key, self.version())).await?;
                }
                refusals.note_uncounted(bucket, Uncounted::NotKnown);
                Ok(None)
            }
            _ => {
                self.record_loss(Attribute::Tags, permission, failure, draft)
                    .await?;
                Ok(None)
            }
        }
    }

    /// Reads the ACL. Returns `None` for a change in place on a server without ACLs.
    async fn own_acl(&self) -> Result<Option<Vec<Grant>>, Failure> {
        match self.bucket.acl(&self.pin.key, self.version()).await {
            Err(failure)
                if matches!(failure.kind(), FailureKind::Unsupported | FailureKind::NotUnderstood)
                    && self.context.sides.is_in_place() =>
            {
                Ok(None)
            }
            Err(failure) if *failure.kind() == FailureKind::Denied && self.context.sides.is_in_place() => {
                Err(failure.noting(
                    "an in-place change keeps the ACL, which needs s3:GetObjectAcl; with `to.acl`, it is not read",
                ))
            }
            answer => answer.map(Some),
        }
    }

    /// Puts the grants of the source's ACL into `attributes`.
    pub(super) async fn acl(
        &self,
        attributes: &mut Attributes,
        draft: &mut Draft,
    ) -> Result<(), RoundFailure> {
        if self.is_known_unreadable(Attribute::Acl, draft) {
            return Ok(());
        }
        let answer = || self.own_acl();
        let permission = self.permission(Operation::GetObjectAcl);
        if let Some(Some(grants)) = self
            .read_or_record_loss(Attribute::Acl, permission, answer, draft)
            .await?
        {
            attributes.grants = grants;
        }
        Ok(())
    }

    /// Reads the names of the annotations and the texts of the first ones, so that a missing
    /// permission is noticed before anything is published.
    pub(super) async fn annotations(
        &self,
        draft: &mut Draft,
    ) -> Result<Vec<Annotation>, RoundFailure> {
        if self.is_known_unreadable(Attribute::Annotations, draft) {
            return Ok(Vec::new());
        }
        let operation = Operation::ListObjectAnnotations;
        let mut paging = Paging::new(
            operation,
            self.bucket.name(),
            self.pin.key.as_str(),
            Order::Short,
        );
        let (mut found, mut token, mut held) = (Vec::new(), None, 0);
        loop {
            let permission = self.permission(Operation::ListObjectAnnotations);
            let checked = Mutex::new(&mut paging);
            let (checked, from) = (&checked, token.as_deref());
            let ask = || async move {
                let mut page = self
                    .bucket
                    .annotations(&self.pin.key, self.version(), from)
                    .await?;
                let mut paging = checked.lock().unwrap_or_else(PoisonError::into_inner);
                let again = paging.check(&mut page)? == PageVerdict::Again;
                Ok((page, again))
            };
            let Some((page, again)) = self
                .read_or_record_loss(Attribute::Annotations, permission, ask, draft)
                .await?
            else {
                return Ok(Vec::new());
            };
            for entry in page.items {
                let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
                let fits = held + size <= ANNOTATIONS_HELD;
                let text = if fits {
                    let ask = || {
                        self.bucket
                            .annotation(&self.pin.key, self.version(), &entry)
                    };
                    let permission = self.permission(Operation::GetObjectAnnotation);
                    let text = self
                        .read_or_record_loss(Attribute::Annotations, permission, ask, draft)
                        .await?;
                    let Some(text) = text else {
                        return Ok(Vec::new());
                    };
                    held += text.len();
                    Some(text)
                } else {
                    None
                };
                found.push(Annotation { entry, text });
            }
            if again {
                continue;
            }
            token = page.next;
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    /// Completes the lock that HEAD shows: S3 omits the parts that the caller has no permission to
    /// see. Only versioned buckets have locks. If the lock is required, s3haul requests the missing
    /// parts for each object. If the policy is `try`, s3haul requests them for one object per
    /// bucket, and for every object if that object had a lock or if the server's responses are not
    /// trusted.
    pub(super) async fn lock(
        &self,
        head: &mut Head,
        draft: &mut Draft,
    ) -> Result<(), RoundFailure> {
        let asks = self.transfer().preserve.lock.keeps() && self.bucket.capabilities().locks;
        if !asks || head.version.is_none() {
            return Ok(());
        }
        let (key, version) = (&self.pin.key, self.version());
        if head.lock.retention.is_none() {
            let get = self.bucket.retention(key, version);
            let unshown = self.unshown(Operation::GetObjectRetention, get, draft);
            head.lock.retention = Box::pin(unshown).await?;
        }
        if head.lock.legal_hold.is_none() {
            let get = self.bucket.legal_hold(key, version);
            let unshown = self.unshown(Operation::GetObjectLegalHold, get, draft);
            head.lock.legal_hold = Box::pin(unshown).await?;
        }
        Ok(())
    }

    /// Reads with `get` the part of a lock that HEAD did not show.
    async fn unshown<T>(
        &self,
        operation: Operation,
        get: impl Future<Output = Result<Option<T>, Failure>>,
        draft: &mut Draft,
    ) -> Result<Option<T>, Failure> {
        let cell = self.context.refusals.locks_shown(self.bucket, operation);
        let of = |answer: &Result<Option<T>, Failure>| self.shown(operation, answer);
        if self.transfer().preserve.lock == Policy::Require {
            if cell.get() == Some(&Shown::NoLocks) {
                return Ok(None);
            }
            let answer = get.await;
            if of(&answer) == Some(Shown::NoLocks) {
                // Another object may have set the cell at the same time.
                let _ = cell.set(Shown::NoLocks);
                return Ok(None);
            }
            return answer;
        }
        let mut get = std::pin::pin!(get);
        // The answer about this object, if its task sent the request.
        let mut own = None;
        let ask = async {
            let answer = get.as_mut().await;
            match of(&answer) {
                Some(shown) => {
                    own = Some(answer.ok().flatten());
                    Ok(shown)
                }
                None => answer.map(|_| Shown::All),
            }
        };
        let mut shown = cell.get_or_try_init(|| ask).await?.clone();
        let is_answer = match &shown {
            Shown::All => !self.bucket.capabilities().believes_answers(),
            Shown::Hidden => true,
            Shown::Nothing(_) | Shown::NoLocks => false,
        };
        if is_answer && own.is_none() {
            let answer = get.await;
            match of(&answer) {
                Some(Shown::All | Shown::Hidden) | None => return answer,
                Some(refused) => shown = refused,
            }
        }
        if let Shown::Nothing(reason) = shown {
            draft
                .losses
                .push(Loss::new(Attribute::Lock, Lost::NotReadable, reason));
        }
        Ok(own.flatten())
    }

    /// Derives from an answer whether HEAD shows locks in this bucket. Returns `None` for a failure
    /// with another cause.
    fn shown<T>(&self, operation: Operation, answer: &Result<Option<T>, Failure>) -> Option<Shown> {
        let name = self.bucket.name();
        let failure = match answer {
            Ok(None) => return Some(Shown::All),
            Ok(Some(_)) => return Some(Shown::Hidden),
            Err(failure) => failure,
        };
        match failure.kind() {
            FailureKind::Unsupported | FailureKind::Invalid => Some(Shown::NoLocks),
            FailureKind::Denied => {
                let permission = self.permission(operation);
                Some(Shown::Nothing(format!("{permission} missing on {name}")))
            }
            FailureKind::NotUnderstood | FailureKind::Unreadable => Some(Shown::Nothing(
                attribute_fallback::without_answer(failure, name),
            )),
            _ => None,
        }
    }

    /// Returns the failure for a required attribute that the copy cannot have.
    pub(super) fn not_kept(&self, loss: &Loss, operation: Operation) -> Failure {
        let place = self.bucket.place(&self.pin.key);
        Failure::new(FailureKind::NotKept, operation, place, loss.to_string())
    }
}
