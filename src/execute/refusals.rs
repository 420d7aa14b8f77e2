//! Remembers which attributes and requests the buckets of a run refuse, do not support, or ignore,
//! so that s3haul sends such a request once per bucket and not once per object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::beliefs::{IN_A_ROW, NextQuestion};
use crate::bucket::Bucket;
use crate::location::ObjectKey;
use crate::manifest::job::Attribute;
use crate::plan::asked::{Asked, AttributeQuestion, TAGS_OF_SOURCE, Unlike};
use crate::plan::attribute_fallback::concerns_whole_bucket;
use crate::plan::loss::{Loss, Lost};
use crate::s3::{Failure, FailureKind, Operation};

/// The properties of its buckets that a run remembers.
#[derive(Debug)]
pub(super) struct Refusals {
    /// The first and the longest interval at which the run tests a refusal again.
    questions: (Duration, Duration),
    /// By bucket, the losses that all objects in it have.
    losses: Mutex<BTreeMap<(String, Attribute, Lost), ExpectedLoss>>,
    /// By bucket, the refusals in a row of an attribute that could be read before.
    in_a_row: Mutex<BTreeMap<(String, Attribute), u32>>,
    /// By bucket, the attributes that could be read for at least one object.
    answered: Mutex<BTreeSet<(String, Attribute)>>,
    /// By bucket, request, and kind, the requested attributes that the bucket was seen to keep.
    kept: Mutex<BTreeSet<(String, Operation, &'static str)>>,
    /// By bucket and request, which locks HEAD shows. One object sends the request for all; a
    /// refusal is tested again later.
    locks_shown: Mutex<HashMap<(String, Operation), AskedOnce<Shown>>>,
    /// By bucket, writing request, and kind, whether the server keeps an attribute that HEAD does
    /// not show. One object sends the request for all; a refusal is tested again later.
    answers: Mutex<HashMap<Asking, AskedOnce<AttributeAnswer>>>,
    /// By bucket, true if setting tags on an object replaces its content with the tags.
    tags_replace_content: Mutex<HashMap<String, Once<bool>>>,
    /// By bucket, the state of tags if HEAD shows no tag count, and when to test a refusal again.
    uncounted: Mutex<HashMap<String, (Uncounted, Option<NextQuestion>)>>,
    /// By bucket, true if the `ETag` of an object without an encryption key is the MD5 of its
    /// bytes: the provider profile says so, or such an `ETag` was seen.
    md5s: Mutex<BTreeMap<String, Arc<AtomicBool>>>,
}

/// A bucket, the request that wrote an object, and a kind of attribute.
type Asking = (String, Operation, &'static str);

/// The result of a request that one object sends while other objects wait for it.
type Once<T> = Arc<OnceCell<T>>;

/// A request that one object sends for all, and the time at which a refusal is tested again.
#[derive(Debug)]
struct AskedOnce<T> {
    cell: Once<T>,
    next: Option<NextQuestion>,
}

impl<T> Default for AskedOnce<T> {
    fn default() -> Self {
        Self {
            cell: Arc::default(),
            next: None,
        }
    }
}

impl<T> AskedOnce<T> {
    /// Returns the cell of the answer. The cell is empty for the object that must ask. Forgets a
    /// refusal that is due to be tested again.
    fn get(&mut self, is_refusal: impl Fn(&T) -> bool, questions: (Duration, Duration)) -> Once<T> {
        if self.cell.get().is_some_and(is_refusal) && take_turn(&mut self.next, questions) {
            self.cell = Arc::default();
        }
        Arc::clone(&self.cell)
    }

    /// Returns true if the answer is a refusal that is due to be tested again.
    fn is_due(&mut self, is_refusal: impl Fn(&T) -> bool, questions: (Duration, Duration)) -> bool {
        let now = Instant::now();
        self.cell.get().is_some_and(is_refusal)
            && self
                .next
                .get_or_insert_with(|| NextQuestion::after(now, questions))
                .is_open(now)
    }

    fn hurry(&mut self, now: Instant) {
        if let Some(next) = &mut self.next {
            next.hurry(now);
        }
    }
}

/// Returns true for the one object that must test a refusal again. The first call starts the
/// interval.
fn take_turn(next: &mut Option<NextQuestion>, questions: (Duration, Duration)) -> bool {
    let now = Instant::now();
    next.get_or_insert_with(|| NextQuestion::after(now, questions))
        .take_turn(now)
}

/// Locks a mutex, even if a thread that held it has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loss that all objects of a bucket have, and the time at which it is tested again.
#[derive(Debug)]
struct ExpectedLoss {
    loss: Loss,
    next: NextQuestion,
}

/// A result that is not stored, so that the next object asks again.
enum NotRemembered {
    /// An answer about this object only.
    Answer(AttributeAnswer),
    /// The question failed.
    Failure(Failure),
}

impl Refusals {
    /// Creates an empty memory. `questions` are the first and the longest interval at which the run
    /// tests a refusal again.
    pub(super) fn new(questions: (Duration, Duration)) -> Self {
        Self {
            questions,
            losses: Mutex::default(),
            in_a_row: Mutex::default(),
            answered: Mutex::default(),
            kept: Mutex::default(),
            locks_shown: Mutex::default(),
            answers: Mutex::default(),
            tags_replace_content: Mutex::default(),
            uncounted: Mutex::default(),
            md5s: Mutex::default(),
        }
    }

    fn place(bucket: &Bucket) -> String {
        format!("{}/{}", bucket.client().endpoint(), bucket.name())
    }

    /// Returns a flag that is true if the `ETag`s in this bucket are MD5s of the bytes. The caller
    /// sets it when it sees such an `ETag`.
    pub(super) fn md5s(&self, bucket: &Bucket) -> Arc<AtomicBool> {
        let stated = bucket.capabilities().content_etags;
        let mut md5s = lock(&self.md5s);
        let flag = md5s
            .entry(Self::place(bucket))
            .or_insert_with(|| Arc::new(AtomicBool::new(stated)));
        Arc::clone(flag)
    }

    fn losses(&self) -> MutexGuard<'_, BTreeMap<(String, Attribute, Lost), ExpectedLoss>> {
        lock(&self.losses)
    }

    /// Returns the loss that an object of this bucket will have. From time to time, returns `None`
    /// for one object, which then asks again.
    pub(super) fn expected_loss(
        &self,
        bucket: &Bucket,
        attribute: Attribute,
        lost: Lost,
    ) -> Option<Loss> {
        let mut losses = self.losses();
        if losses.is_empty() {
            return None;
        }
        let expected = losses.get_mut(&(Self::place(bucket), attribute, lost))?;
        (!expected.next.take_turn(Instant::now())).then(|| expected.loss.clone())
    }

    /// Remembers a loss that concerns the whole bucket.
    pub(super) fn remember(&self, bucket: &Bucket, loss: &Loss) {
        if concerns_whole_bucket(loss.attribute) {
            let mut losses = self.losses();
            let expected = losses
                .entry((Self::place(bucket), loss.attribute, loss.lost))
                .or_insert_with(|| ExpectedLoss {
                    loss: loss.clone(),
                    next: NextQuestion::after(Instant::now(), self.questions),
                });
            expected.loss.clone_from(loss);
        }
    }

    /// Remembers a refused read of an attribute. If the bucket has returned the attribute before,
    /// it may refuse some objects only, so [`IN_A_ROW`] refusals in a row are needed.
    pub(super) fn remember_denied(&self, bucket: &Bucket, loss: &Loss) {
        if self.has_answered(bucket, loss.attribute) {
            let mut in_a_row = lock(&self.in_a_row);
            let number = in_a_row
                .entry((Self::place(bucket), loss.attribute))
                .or_default();
            *number += 1;
            if *number < IN_A_ROW {
                return;
            }
        }
        self.remember(bucket, loss);
    }

    /// Forgets the loss of attributes that a bucket accepted or returned.
    pub(super) fn forget(
        &self,
        bucket: &Bucket,
        attributes: impl IntoIterator<Item = Attribute>,
        lost: Lost,
    ) {
        let mut losses = self.losses();
        for attribute in attributes {
            if losses.is_empty() {
                return;
            }
            losses.remove(&(Self::place(bucket), attribute, lost));
        }
    }

    /// Returns true if any loss is remembered.
    pub(super) fn expects_losses(&self) -> bool {
        !self.losses().is_empty()
    }

    /// Makes the next objects test all refusals again, because a cause of refusals has ended.
    pub(super) fn ask_again(&self) {
        let now = Instant::now();
        for expected in self.losses().values_mut() {
            expected.next.hurry(now);
        }
        for shown in lock(&self.locks_shown).values_mut() {
            shown.hurry(now);
        }
        for answer in lock(&self.answers).values_mut() {
            answer.hurry(now);
        }
        for (_, next) in lock(&self.uncounted).values_mut() {
            if let Some(next) = next {
                next.hurry(now);
            }
        }
    }

    /// Records that a bucket returned an attribute.
    pub(super) fn note_answer(&self, bucket: &Bucket, attribute: Attribute) {
        self.forget(bucket, [attribute], Lost::NotReadable);
        {
            let mut in_a_row = lock(&self.in_a_row);
            if !in_a_row.is_empty() {
                in_a_row.remove(&(Self::place(bucket), attribute));
            }
        }
        if !self.has_answered(bucket, attribute) {
            let mut answered = lock(&self.answered);
            answered.insert((Self::place(bucket), attribute));
        }
    }

    /// Returns true if the bucket has returned this attribute of some object.
    pub(super) fn has_answered(&self, bucket: &Bucket, attribute: Attribute) -> bool {
        let answered = lock(&self.answered);
        answered.contains(&(Self::place(bucket), attribute))
    }

    /// Returns true if a new object must be checked with HEAD: the bucket has not yet been seen to
    /// keep something in its request (perhaps only the content), a refused question about it is due
    /// again, or the tags of each object are compared. Amazon S3 refuses whatever it does not
    /// support, so its objects need no check. With `trust: nothing`, every object is checked.
    pub(super) fn needs_head_check(&self, bucket: &Bucket, asked: Asked<'_>) -> bool {
        if bucket.capabilities().refuses_what_it_lacks() {
            return false;
        }
        if !bucket.capabilities().believes_answers() || asked.compares_tags {
            return true;
        }
        let place = Self::place(bucket);
        let kept = lock(&self.kept);
        let mut answers = lock(&self.answers);
        asked.kinds().into_iter().any(|kind| {
            let asking = (place.clone(), asked.write, kind);
            !kept.contains(&asking)
                || answers
                    .get_mut(&asking)
                    .is_some_and(|once| once.is_due(is_not_readable, self.questions))
        })
    }

    /// Records that the bucket keeps the requested attributes.
    pub(super) fn note_kept(&self, bucket: &Bucket, asked: Asked<'_>) {
        if !bucket.capabilities().refuses_what_it_lacks() {
            let place = Self::place(bucket);
            let mut kept = lock(&self.kept);
            kept.extend(
                asked
                    .kinds()
                    .into_iter()
                    .map(|kind| (place.clone(), asked.write, kind)),
            );
        }
    }

    /// Returns the cell that says which locks HEAD shows. The cell is filled once; a refusal is
    /// tested again later.
    pub(super) fn locks_shown(&self, bucket: &Bucket, operation: Operation) -> Once<Shown> {
        let is_refusal = |shown: &Shown| matches!(shown, Shown::Nothing(_));
        lock(&self.locks_shown)
            .entry((Self::place(bucket), operation))
            .or_default()
            .get(is_refusal, self.questions)
    }

    /// Returns the cell that says whether tags replace the content of an object. The cell is filled
    /// when tags are first set on a finished object.
    pub(super) fn tags_replace_content(&self, bucket: &Bucket) -> Once<bool> {
        let mut replaces = lock(&self.tags_replace_content);
        Arc::clone(replaces.entry(Self::place(bucket)).or_default())
    }

    /// Asks the bucket about an attribute that `asked` has set on an object. If the bucket keeps or
    /// ignores the attribute, the answer is remembered for this request and kind of attribute. An
    /// answer that shows another value is not remembered. With `for_each_object`, or with
    /// `trust: nothing`, no answer is remembered. A refusal is tested again at growing intervals.
    ///
    /// # Errors
    /// Fails if the request failed. The next object then asks again.
    pub(super) async fn answer(
        &self,
        bucket: &Bucket,
        asked: Asked<'_>,
        question: AttributeQuestion,
        (key, version): (&ObjectKey, Option<&str>),
        for_each_object: bool,
    ) -> Result<AttributeAnswer, Failure> {
        let ask = ask(bucket, asked, question.by, key, version);
        if for_each_object || !bucket.capabilities().believes_answers() {
            return Box::pin(ask).await;
        }
        let once = {
            let place = (Self::place(bucket), asked.write, question.kind);
            lock(&self.answers)
                .entry(place)
                .or_default()
                .get(is_not_readable, self.questions)
        };
        let lasting = async {
            match Box::pin(ask).await {
                Ok(answer @ AttributeAnswer::Unlike(Unlike::Other(_))) => {
                    Err(NotRemembered::Answer(answer))
                }
                Ok(answer) => Ok(answer),
                Err(failure) => Err(NotRemembered::Failure(failure)),
            }
        };
        match once.get_or_try_init(|| lasting).await {
            Ok(answer) => Ok(answer.clone()),
            Err(NotRemembered::Answer(answer)) => Ok(answer),
            Err(NotRemembered::Failure(failure)) => Err(failure),
        }
    }

    /// Records what one object revealed about tags in a source bucket whose HEAD shows no tag
    /// count.
    pub(super) fn note_uncounted(&self, bucket: &Bucket, found: Uncounted) {
        let mut uncounted = lock(&self.uncounted);
        let (known, _) = uncounted.entry(Self::place(bucket)).or_default();
        *known = match (&*known, found) {
            (Uncounted::Untagged(before), Uncounted::Untagged(more)) => {
                Uncounted::Untagged(before + more)
            }
            (Uncounted::Untagged(_) | Uncounted::Tagged | Uncounted::NotReadable(_), found) => {
                found
            }
            (known, _) => known.clone(),
        };
    }

    /// Returns what is known about tags in a bucket whose HEAD shows no tag count. Returns the
    /// default for the one object that tests a refusal again.
    pub(super) fn known_uncounted(&self, bucket: &Bucket) -> Uncounted {
        let mut uncounted = lock(&self.uncounted);
        let Some((known, next)) = uncounted.get_mut(&Self::place(bucket)) else {
            return Uncounted::default();
        };
        let is_refusal = matches!(known, Uncounted::NotReadable(_));
        if is_refusal && take_turn(next, self.questions) {
            return Uncounted::default();
        }
        known.clone()
    }

    /// Returns what is known about tags that `write` copies from the source to the bucket.
    pub(super) fn carried_tags(&self, bucket: &Bucket, write: Operation) -> CarriedTags {
        let asking = (Self::place(bucket), write, TAGS_OF_SOURCE);
        if !lock(&self.kept).contains(&asking) {
            return CarriedTags::Unknown;
        }
        let mut answers = lock(&self.answers);
        let Some(once) = answers.get_mut(&asking) else {
            return CarriedTags::Kept;
        };
        if once.is_due(is_not_readable, self.questions) {
            return CarriedTags::Unknown;
        }
        match once.cell.get() {
            Some(&AttributeAnswer::NotReadable(permission)) => CarriedTags::NotReadable(permission),
            _ => CarriedTags::Kept,
        }
    }
}

/// The knowledge about a bucket that may or may not keep the tags that a write copies from the
/// source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CarriedTags {
    /// Nothing is known, so the tags must be compared.
    Unknown,
    /// The bucket was seen to keep the tags.
    Kept,
    /// The tags cannot be compared, because the permission to read the copy's tags is missing.
    /// Holds the permission.
    NotReadable(&'static str),
}

/// The state of tags in a source bucket whose HEAD has shown no tag count so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Uncounted {
    /// The last objects had no tags. Holds their number.
    Untagged(u32),
    /// The last object had tags.
    Tagged,
    /// HEAD shows the number of tags if there are any.
    Counts,
    /// The server does not support tags.
    NotKnown,
    /// The tags cannot be read, for this reason.
    NotReadable(String),
}

impl Default for Uncounted {
    fn default() -> Self {
        Self::Untagged(0)
    }
}

/// The answer of a bucket about an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AttributeAnswer {
    /// The object has the attribute.
    Kept,
    /// The permission to read the attribute is missing. Holds the permission.
    NotReadable(&'static str),
    /// The server does not support the request.
    NotKnown,
    /// The object has another value, or none.
    Unlike(Unlike),
}

fn is_not_readable(answer: &AttributeAnswer) -> bool {
    matches!(answer, AttributeAnswer::NotReadable(_))
}

/// Asks about an attribute of an object.
async fn ask(
    bucket: &Bucket,
    asked: Asked<'_>,
    by: Operation,
    key: &ObjectKey,
    version: Option<&str>,
) -> Result<AttributeAnswer, Failure> {
    let unlike = match by {
        Operation::GetObjectRetention => {
            let answer = bucket.retention(key, version).await;
            answer.map(|found| asked.unlike_retention(found.as_ref()))
        }
        Operation::GetObjectLegalHold => {
            let answer = bucket.legal_hold(key, version).await;
            answer.map(|found| asked.unlike_hold(found))
        }
        Operation::GetObjectAcl => {
            let answer = bucket.acl(key, version).await;
            answer.map(|found| asked.unlike_grants(&found))
        }
        Operation::GetObjectTagging => {
            let answer = bucket.tags(key, version).await;
            answer.map(|found| asked.unlike_tags(&found))
        }
        other => {
            let message = "this request asks for no attribute";
            let place = bucket.place(key);
            return Err(Failure::new(FailureKind::Bug, other, place, message));
        }
    };
    match unlike {
        Ok(None) => Ok(AttributeAnswer::Kept),
        Ok(Some(unlike)) => Ok(AttributeAnswer::Unlike(unlike)),
        Err(failure) if *failure.kind() == FailureKind::Denied => {
            let permission = by.permission(version.is_some());
            Ok(AttributeAnswer::NotReadable(permission))
        }
        Err(failure) if failure.is_no_answer() => Ok(AttributeAnswer::NotKnown),
        Err(failure) => Err(failure),
    }
}

/// The locks that HEAD shows in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// HEAD probably shows all locks: an object without a shown lock had none.
    All,
    /// HEAD shows no locks, for this reason: a permission is missing, or the server does not
    /// support the request.
    Nothing(String),
    /// HEAD omitted the lock of an object, so each object needs a request.
    Hidden,
    /// The bucket has no Object Lock.
    NoLocks,
}
