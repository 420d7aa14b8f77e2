//! Sets the attributes of an object: reads them from the source before the object is created, sends
//! them with the request that creates it, and sets the rest afterwards.
//!
//! Attributes that HEAD does not show are read first, so that an object without a required
//! attribute fails before anything is published ([`source`]). The request that creates the object
//! carries them; if the server refuses an attribute with the policy `try`, the request is sent
//! again without it ([`attribute_fallback`](crate::plan::attribute_fallback)). Attributes that no
//! header can carry (annotations and long tags) are set once the object exists, before its receipt
//! is written ([`late`]).
//!
//! If a bucket denies a permission, the run remembers the refusal
//! ([`Refusals`](crate::execute::refusals::Refusals)) and sends no such request for later objects.
//! Each receipt still records the loss.

mod late;
mod source;

use jiff::Timestamp;

use super::ObjectTask;
use super::pinned::PinnedSource;
use super::round_failure::RoundFailure;
use crate::bucket::Answer;
use crate::execute::TransferContext;
use crate::execute::receipt::{Draft, Ending};
use crate::execute::replan::Replan;
use crate::location::ObjectKey;
use crate::manifest::job::{Attribute, Policy};
use crate::multipart::MultipartUpload;
use crate::plan::asked::{Asked, SourceTags};
use crate::plan::attribute_fallback::{optional, refused, suspects, without};
use crate::plan::attributes::{self, Reads, take_late_tags, weaker_encryption};
use crate::plan::decide::Route;
use crate::plan::loss::Lost;
use crate::planner::{Sides, Step};
use crate::s3::{
    Attributes, Failure, FailureKind, Head, Operation, Tag, Tags, WriteCondition, Written,
};
use source::{Annotation, SourceAttributes};

/// The attributes of one object, and the attempts to set them.
pub(super) struct TargetAttributes<'w> {
    context: &'w TransferContext,
    /// All attributes that the job requests, the same in every session.
    requested: Attributes,
    /// The requested attributes that a header can carry and that the bucket is not known to refuse.
    possible: Attributes,
    /// The attributes in the next request: `possible`, or fewer after a refusal.
    sent: Attributes,
    /// The search for a refused attribute, while it is in progress.
    elimination: Option<Elimination>,
    /// The tags that are set once the object exists.
    late_tags: Vec<Tag>,
    /// The annotations that are set once the object exists.
    annotations: Vec<Annotation>,
    /// The tags of the source, if S3 copies the tags itself and they were read for comparison.
    carried: Option<Vec<Tag>>,
    /// The request that carries the attributes.
    write: Operation,
}

/// The search for the attribute that the server does not accept.
struct Elimination {
    /// The first refusal.
    refusal: Failure,
    /// The attributes that the next request omits.
    left_out: Vec<Attribute>,
    /// The attributes to omit in each of the following requests.
    next: std::vec::IntoIter<Vec<Attribute>>,
}

impl<'w> TargetAttributes<'w> {
    /// Records the loss of tags that s3haul may not read, for a copy that an earlier session made.
    ///
    /// For a new copy, a refused `CopyObject` shows the missing permission. Here nothing is copied,
    /// so reading the tags is the only test.
    pub(super) async fn record_unreadable_tags(
        &self,
        source: &PinnedSource<'_>,
        draft: &mut Draft,
    ) -> Result<(), RoundFailure> {
        if self.possible.tags != Tags::AsSource || source.head.tag_count.is_some() {
            return Ok(());
        }
        self.source_tags(source, draft).await?;
        Ok(())
    }

    /// Reads the tags of the source, or records their loss and returns `None`.
    async fn source_tags(
        &self,
        source: &PinnedSource<'_>,
        draft: &mut Draft,
    ) -> Result<Option<Vec<Tag>>, Failure> {
        let source = SourceAttributes {
            context: self.context,
            bucket: source.bucket,
            pin: &source.pin,
        };
        let ask = || source.bucket.tags(&source.pin.key, source.version());
        source
            .read_or_record_loss(
                Attribute::Tags,
                source.permission(Operation::GetObjectTagging),
                ask,
                draft,
            )
            .await
    }

    /// Reads the tags for a copy that an earlier run made without them. Returns the source's tags
    /// merged with the tags that the job sets.
    pub(super) async fn tags_of_copy(
        context: &TransferContext,
        source: &PinnedSource<'_>,
        draft: &mut Draft,
    ) -> Result<Vec<Tag>, RoundFailure> {
        let PinnedSource { bucket, head, pin } = source;
        let source = SourceAttributes {
            context,
            bucket,
            pin,
        };
        source.tags(head, draft).await
    }

    /// Reads the attributes for a copy. Completes the source's head with a lock that HEAD did not
    /// show.
    pub(super) async fn of_copy(
        context: &'w TransferContext,
        source: &mut PinnedSource<'_>,
        route: &Route,
        draft: &mut Draft,
    ) -> Result<Self, RoundFailure> {
        let PinnedSource { bucket, head, pin } = source;
        let source = SourceAttributes {
            context,
            bucket,
            pin,
        };
        let (transfer, destination) = (&*context.sides.transfer, &context.sides.destination);
        let capabilities = destination.capabilities();
        draft.forget_attributes();
        // Each read is boxed, because most objects need none of them.
        if head.version.is_some() {
            Box::pin(source.lock(head, draft)).await?;
        }
        let spec = attributes::of_copy(head, transfer, capabilities, route, Timestamp::now())
            .map_err(|loss| source.not_kept(&loss, Operation::HeadObject))?;
        draft.losses.extend(spec.losses);
        draft.notes.extend(spec.note.map(str::to_owned));
        let mut possible = spec.attributes;
        let reads = Reads::of(transfer, capabilities, route);
        // HEAD shows the number of tags only to callers that may read them, so with a count no
        // earlier refusal matters.
        let is_carried = possible.tags == Tags::AsSource;
        let mut carried = None;
        if reads.tags {
            possible.tags = Tags::Exactly(Box::pin(source.tags(head, draft)).await?);
        } else if is_carried
            && head.tag_count.is_none()
            && source.is_known_unreadable(Attribute::Tags, draft)
        {
            // A job that sets tags reads those of the source, see above.
            possible.tags = Tags::Exactly(Vec::new());
        } else if is_carried && !capabilities.refuses_what_it_lacks() {
            carried = Box::pin(source.carried_tags(head.tag_count, draft)).await?;
        }
        if reads.acl {
            Box::pin(source.acl(&mut possible, draft)).await?;
        }
        let annotations = if reads.annotations {
            Box::pin(source.annotations(draft)).await?
        } else {
            Vec::new()
        };
        let requested = possible.clone();
        for attribute in optional(&possible, transfer) {
            if let Some(loss) = context
                .refusals
                .expected_loss(destination, attribute, Lost::NotSet)
            {
                possible = without(&possible, &[attribute], transfer);
                draft.losses.push(loss);
            }
        }
        let write = match route {
            Route::MultipartCopy(_) | Route::MultipartUpload(_) => Operation::CreateMultipartUpload,
            Route::Put => Operation::PutObject,
            // Neither a restore nor a delete marker sets attributes.
            Route::Copy | Route::Restore | Route::DeleteMarker => Operation::CopyObject,
        };
        Ok(Self {
            requested,
            annotations,
            carried,
            write,
            ..Self::new(context, possible)
        })
    }

    /// Returns the attributes of an uploaded file.
    pub(super) fn of_upload(context: &'w TransferContext, key: &ObjectKey) -> Self {
        let capabilities = context.sides.destination.capabilities();
        Self::new(
            context,
            attributes::of_upload(key.file_name(), &context.sides.transfer, capabilities),
        )
    }

    fn new(context: &'w TransferContext, mut possible: Attributes) -> Self {
        let requested = possible.clone();
        let late_tags = take_late_tags(&mut possible, context.sides.destination.capabilities());
        Self {
            context,
            sent: possible.clone(),
            possible,
            requested,
            elimination: None,
            late_tags,
            annotations: Vec::new(),
            carried: None,
            write: Operation::PutObject,
        }
    }

    /// Returns all attributes that the job requests, even if the server does not accept them.
    pub(super) fn requested(&self) -> &Attributes {
        &self.requested
    }

    /// Returns the attributes that are sent with the request that creates the object.
    pub(super) fn to_send(&self) -> &Attributes {
        &self.sent
    }

    /// Returns the tags that are set once the object exists.
    pub(super) fn late_tags(&self) -> &[Tag] {
        &self.late_tags
    }

    /// Returns the attributes that the published object is compared with. `head` describes the
    /// source.
    pub(super) fn asked(&self, head: &Head) -> Asked<'_> {
        let sides = &self.context.sides;
        let customer_key = sides.destination.client().customer_key().is_some();
        let source_tags = match (&self.carried, head.tag_count) {
            (Some(tags), _) => SourceTags::Read(tags),
            (None, Some(count)) => SourceTags::Counted(count),
            (None, None) => SourceTags::Unknown,
        };
        let asked = Asked {
            source_tags,
            ..Asked::of(&self.sent, self.write, customer_key)
        };
        // A change in place destroys the attributes that it does not keep.
        let is_strict = sides.is_in_place() || head.tag_count.is_none();
        let compares_tags = is_strict
            && sides.transfer.preserve.tags == Policy::Require
            && asked.tags().is_some_and(|count| count > 0);
        Asked {
            compares_tags,
            ..asked
        }
    }

    /// Copies the object in one request.
    pub(super) async fn copy_object(
        &mut self,
        source: &PinnedSource<'_>,
        step: &Step,
        condition: &WriteCondition,
        draft: &mut Draft,
    ) -> Result<Answer<Written>, Failure> {
        let PinnedSource { head, pin, .. } = source;
        let size = head.size;
        loop {
            let destination = &self.context.sides.destination;
            let answer = match &step.history {
                Some(history) => {
                    destination
                        .append_copy(pin, size, &step.key, &self.sent, &history.latest)
                        .await
                }
                None => {
                    destination
                        .copy_object(pin, size, &step.key, &self.sent, condition.clone())
                        .await
                }
            };
            match answer {
                Ok(answer) => {
                    self.record_left_out(draft);
                    return Ok(answer);
                }
                Err(failure) => Box::pin(self.omit_next_suspect(source, failure, draft)).await?,
            }
        }
    }

    /// Creates a multipart upload. If an attempt got no response and a later attempt succeeds,
    /// aborts the upload that the earlier attempt may have created. Retries without refused
    /// attributes only if there is a source.
    pub(super) async fn create_with_fallback(
        &mut self,
        source: Option<&PinnedSource<'_>>,
        key: &ObjectKey,
        draft: &mut Draft,
    ) -> Result<MultipartUpload, Failure> {
        let began = Timestamp::now();
        let (mut unanswered_attempts, mut is_refused) = (0, false);
        loop {
            match MultipartUpload::create(&self.context.sides.destination, key, &self.sent).await {
                Ok(upload) => {
                    if source.is_some() {
                        self.record_left_out(draft);
                    }
                    return Ok(match (unanswered_attempts, is_refused) {
                        (1.., _) => upload.without_twins(began).await,
                        (0, true) => upload.after_refusal(began),
                        (0, false) => upload,
                    });
                }
                Err(failure) => {
                    is_refused = true;
                    if failure.may_have_taken_effect() {
                        unanswered_attempts = unanswered_attempts.max(failure.details().attempts);
                    }
                    let Some(source) = source else {
                        return Err(failure);
                    };
                    let dropped = Box::pin(self.omit_next_suspect(source, failure, draft)).await;
                    dropped.map_err(|failure| {
                        let attempts = failure.details().attempts.max(unanswered_attempts);
                        failure.after(attempts)
                    })?;
                }
            }
        }
    }

    /// Omits the next suspected attributes, so that the request can be sent again. Returns the
    /// failure if no attribute is left to suspect.
    async fn omit_next_suspect(
        &mut self,
        source: &PinnedSource<'_>,
        failure: Failure,
        draft: &mut Draft,
    ) -> Result<(), Failure> {
        let transfer = &*self.context.sides.transfer;
        let elimination = match self.elimination.take() {
            Some(elimination) if failure.kind() == elimination.refusal.kind() => elimination,
            // Without the suspected attributes the request still fails, for another reason, so
            // report this failure.
            Some(_) => return Err(failure),
            None => {
                let mut optional = optional(&self.possible, transfer);
                // CopyObject reads the source's tags itself, and a denied read of tags looks like
                // any other denial.
                if *failure.kind() == FailureKind::Denied
                    && self.possible.tags == Tags::AsSource
                    && optional.contains(&Attribute::Tags)
                    && !suspects(&failure, &[Attribute::Tags]).is_empty()
                {
                    match self.source_tags(source, draft).await? {
                        None => {
                            self.possible.tags = Tags::Exactly(Vec::new());
                            self.sent = self.possible.clone();
                            return Ok(());
                        }
                        Some(tags) if tags.is_empty() => {
                            optional.retain(|attribute| *attribute != Attribute::Tags);
                        }
                        Some(_) => {}
                    }
                }
                let next = suspects(&failure, &optional).into_iter();
                Elimination {
                    refusal: failure,
                    left_out: Vec::new(),
                    next,
                }
            }
        };
        let Elimination {
            refusal, mut next, ..
        } = elimination;
        let Some(left_out) = next.next() else {
            return Err(refusal);
        };
        self.sent = without(&self.possible, &left_out, transfer);
        self.elimination = Some(Elimination {
            refusal,
            left_out,
            next,
        });
        Ok(())
    }

    /// Records the omitted attributes as lost, because the server accepted the request without
    /// them.
    fn record_left_out(&mut self, draft: &mut Draft) {
        let Some(Elimination {
            refusal, left_out, ..
        }) = self.elimination.take()
        else {
            if self.context.refusals.expects_losses() {
                let taken = optional(&self.sent, &self.context.sides.transfer);
                let destination = &self.context.sides.destination;
                self.context
                    .refusals
                    .forget(destination, taken, Lost::NotSet);
            }
            return;
        };
        let destination = &self.context.sides.destination;
        for attribute in left_out {
            let loss = refused(attribute, &refusal, destination.name());
            self.context.refusals.remember(destination, &loss);
            draft.losses.push(loss);
        }
    }

    /// Returns an attribute that is set only once the object exists.
    pub(super) fn late_attribute(&self) -> Option<Attribute> {
        match (self.late_tags.is_empty(), self.annotations.is_empty()) {
            (false, _) => Some(Attribute::Tags),
            (true, false) => Some(Attribute::Annotations),
            (true, true) => None,
        }
    }

    /// Sets the attributes that no header carries on the object that was just published.
    pub(super) async fn set_late_attributes(
        &self,
        source: Option<&PinnedSource<'_>>,
        ending: &Ending,
        task: &mut ObjectTask<'_>,
    ) -> Result<(), RoundFailure> {
        let Ending::Done {
            etag,
            destination_version,
            ..
        } = ending
        else {
            return Ok(());
        };
        if self.late_tags.is_empty() && self.annotations.is_empty() {
            return Ok(());
        }
        Box::pin(self.put_late(source, (etag, destination_version.as_deref()), task)).await
    }

    async fn put_late(
        &self,
        source: Option<&PinnedSource<'_>>,
        (etag, version): (&str, Option<&str>),
        task: &mut ObjectTask<'_>,
    ) -> Result<(), RoundFailure> {
        if !self.late_tags.is_empty() {
            task.try_late_tags((etag, version), &self.late_tags).await?;
        }
        let Some(PinnedSource { bucket, pin, .. }) = source else {
            return Ok(());
        };
        let policy = self.context.sides.transfer.preserve.annotations;
        let mut read_late = false;
        for Annotation { entry, text } in &self.annotations {
            let text = if let Some(text) = text {
                Ok(text.clone())
            } else {
                read_late = true;
                bucket
                    .annotation(&pin.key, pin.version.as_deref(), entry)
                    .await
            };
            let outcome = match text {
                Ok(text) => {
                    let at = (etag, version);
                    task.put_late_annotation(at, entry, text).await
                }
                Err(failure) => Err(failure),
            };
            if !task.lose_or_fail(Attribute::Annotations, policy, outcome)? {
                break;
            }
        }
        // Unless the version is immutable, these annotations may belong to an object that has
        // replaced the source.
        if read_late && !pin.is_immutable() {
            let now = bucket.head(&pin.key, pin.version.as_deref()).await?;
            if now.etag != pin.etag {
                return Err(Replan::SourceChanged.into());
            }
        }
        Ok(())
    }
}

impl ObjectTask<'_> {
    /// Sets the tags of an existing object. Returns false, and records a loss, if the server
    /// refuses tags whose policy is `try`.
    pub(super) async fn try_late_tags(
        &mut self,
        at: (&str, Option<&str>),
        tags: &[Tag],
    ) -> Result<bool, RoundFailure> {
        let outcome = self.put_late_tags(at, tags).await;
        if let Err(failure) = &outcome
            && *failure.kind() == FailureKind::NotEqual
        {
            return Err(failure.clone().into());
        }
        // The policy concerns the source's tags. Tags that the job sets are required.
        let Sides {
            transfer, source, ..
        } = &self.context.sides;
        let kept = transfer.set.tags.is_empty() && source.is_some();
        let policy = if kept {
            transfer.preserve.tags
        } else {
            Policy::Require
        };
        Ok(self.lose_or_fail(Attribute::Tags, policy, outcome)?)
    }

    /// Returns true after a success. Otherwise records a loss and returns false, or fails the
    /// object, as the policy says.
    fn lose_or_fail(
        &mut self,
        attribute: Attribute,
        policy: Policy,
        outcome: Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let Err(failure) = outcome else {
            return Ok(true);
        };
        // A temporary failure is not a refusal, so it must not make the object lose the attribute.
        let is_refusal = !failure.kind().is_retryable() && !failure.ends_run();
        if policy == Policy::Try && is_refusal && *failure.kind() != FailureKind::Stopped {
            let loss = refused(attribute, &failure, self.destination().name());
            self.draft.losses.push(loss);
            return Ok(false);
        }
        Err(failure.noting(&format!("the object is there, without its {attribute}")))
    }

    /// Records a loss if the copy is encrypted more weakly than its source.
    pub(super) fn compare_encryption(&mut self, head: &Head, written: &Written) {
        // There is nothing to compare if the job names a customer key for the destination, or if
        // the response does not show the encryption.
        self.draft.losses.extend(weaker_encryption(
            head,
            written.encryption.as_ref(),
            &self.context.sides.transfer,
        ));
    }
}
