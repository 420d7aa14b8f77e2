//! Remembers what the buckets of a run refuse, do not know, or ignore, so that it is asked once and
//! not for each object.

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
use crate::plan::asked::{Asked, Question, TAGS_OF_SOURCE, Unlike};
use crate::plan::concede::concerns_whole_bucket;
use crate::plan::loss::{Loss, Lost};
use crate::s3::{Failure, FailureKind, Operation};

/// The refusals of buckets in this run.
#[derive(Debug)]
pub(super) struct Refusals {
    /// The first and the longest interval at which the run tests a refusal again.
    questions: (Duration, Duration),
    /// By bucket, the losses that all its objects have.
    losses: Mutex<BTreeMap<(String, Attribute, Lost), Expected>>,
    /// By bucket, the refusals in a row of an attribute that was answered before.
    in_a_row: Mutex<BTreeMap<(String, Attribute), u32>>,
    /// By bucket, the attributes that could be read.
    answered: Mutex<BTreeSet<(String, Attribute)>>,
    /// By bucket, request, and kind, the attributes that were requested and that HEAD showed
    /// afterwards.
    kept: Mutex<BTreeSet<(String, Operation, &'static str)>>,
    /// By bucket and request, the locks that HEAD shows: asked once.
    shown: Mutex<HashMap<(String, Operation), AskedOnce<Shown>>>,
    /// By bucket, writing request, and kind, the bucket's treatment of an attribute that HEAD does
    /// not show: asked once.
    answers: Mutex<HashMap<Asking, AskedOnce<Answer>>>,
    /// By bucket, true if setting tags on an object replaces its content with them.
    tags_replace_content: Mutex<HashMap<String, Once<bool>>>,
    /// By bucket, what is known about tags if HEAD shows no tag count.
    uncounted: Mutex<HashMap<String, (Uncounted, Option<NextQuestion>)>>,
    /// By bucket, true if the `ETag` of an upload is the MD5 of its bytes where no key makes it: its
    /// profile says so, or one was.
    md5s: Mutex<BTreeMap<String, Arc<AtomicBool>>>,
}

/// A bucket, the request that wrote an object, and the kind of attribute that it was asked for.
type Asking = (String, Operation, &'static str);

/// A question that is asked once; all who need the answer wait for it.
type Once<T> = Arc<OnceCell<T>>;

/// A question that is asked once, and the time at which a refusal is tested again.
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
    /// Returns the answer, or an empty cell for the object that asks. Forgets a refusal when it is
    /// time to ask again.
    fn get(&mut self, is_refusal: impl Fn(&T) -> bool, questions: (Duration, Duration)) -> Once<T> {
        if self.cell.get().is_some_and(is_refusal) && take_turn(&mut self.next, questions) {
            self.cell = Arc::default();
        }
        Arc::clone(&self.cell)
    }

    /// Returns true if the answer is a refusal and it is time to ask again.
    fn is_open(
        &mut self,
        is_refusal: impl Fn(&T) -> bool,
        questions: (Duration, Duration),
    ) -> bool {
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

/// Returns true for the object that tests a refusal again. The first call begins the interval.
fn take_turn(next: &mut Option<NextQuestion>, questions: (Duration, Duration)) -> bool {
    let now = Instant::now();
    next.get_or_insert_with(|| NextQuestion::after(now, questions))
        .take_turn(now)
}

/// Locks a memory, even if a thread that held the lock has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loss that all objects of a bucket have.
#[derive(Debug)]
struct Expected {
    loss: Loss,
    next: NextQuestion,
}

/// The outcome of a question that the next object asks again.
enum NotLasting {
    /// The answer is about this object only.
    Answer(Answer),
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
            shown: Mutex::default(),
            answers: Mutex::default(),
            tags_replace_content: Mutex::default(),
            uncounted: Mutex::default(),
            md5s: Mutex::default(),
        }
    }

    fn place(bucket: &Bucket) -> String {
        format!("{}/{}", bucket.client().endpoint(), bucket.name())
    }

    /// Returns a flag that is set if the `ETag` of an upload to this bucket is the MD5 of its bytes.
    /// Whoever sees one that is sets it.
    pub(super) fn md5s(&self, bucket: &Bucket) -> Arc<AtomicBool> {
        let told = bucket.capabilities().content_etags;
        let mut md5s = lock(&self.md5s);
        let flag = md5s
            .entry(Self::place(bucket))
            .or_insert_with(|| Arc::new(AtomicBool::new(told)));
        Arc::clone(flag)
    }

    fn losses(&self) -> MutexGuard<'_, BTreeMap<(String, Attribute, Lost), Expected>> {
        lock(&self.losses)
    }

    /// Returns the loss that an object of this bucket will have. From time to time it elects one
    /// object to ask again, and returns `None` for that.
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

    pub(super) fn remember(&self, bucket: &Bucket, loss: &Loss) {
        if concerns_whole_bucket(loss.attribute) {
            let mut losses = self.losses();
            let expected = losses
                .entry((Self::place(bucket), loss.attribute, loss.lost))
                .or_insert_with(|| Expected {
                    loss: loss.clone(),
                    next: NextQuestion::after(Instant::now(), self.questions),
                });
            expected.loss.clone_from(loss);
        }
    }

    /// Remembers a refused read, unless the attribute could be read before and may be refused for
    /// some objects only.
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

    /// Forgets the loss of attributes that a bucket took or let read.
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

    /// Returns true if some object was refused something that another one may be granted.
    pub(super) fn expects_losses(&self) -> bool {
        !self.losses().is_empty()
    }

    /// Makes the next objects test all refusals again, because the cause of other refusals is gone.
    pub(super) fn ask_again(&self) {
        let now = Instant::now();
        for expected in self.losses().values_mut() {
            expected.next.hurry(now);
        }
        for shown in lock(&self.shown).values_mut() {
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

    /// Records that a bucket answered the request for an attribute.
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

    pub(super) fn has_answered(&self, bucket: &Bucket, attribute: Attribute) -> bool {
        let answered = lock(&self.answered);
        answered.contains(&(Self::place(bucket), attribute))
    }

    /// Returns true if the object must be looked at: its request asks for something that the bucket
    /// has not been seen to keep yet (the object itself included), something that the bucket may not
    /// show is to be asked about again, or the tags of each object are compared. Amazon S3 refuses
    /// what it cannot do, and needs no look. With `trust: nothing`, every object is looked at.
    pub(super) fn needs_look(&self, bucket: &Bucket, asked: Asked<'_>) -> bool {
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
                    .is_some_and(|once| once.is_open(is_not_readable, self.questions))
        })
    }

    /// Notes that the bucket keeps the requested attributes.
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

    /// Returns the cell for the locks that HEAD shows. It is filled once; a refusal is tested again
    /// later.
    pub(super) fn shown(&self, bucket: &Bucket, operation: Operation) -> Once<Shown> {
        let is_refusal = |shown: &Shown| matches!(shown, Shown::Nothing(_));
        lock(&self.shown)
            .entry((Self::place(bucket), operation))
            .or_default()
            .get(is_refusal, self.questions)
    }

    /// Returns the cell that says, once tags were set on the first finished object, whether they
    /// replaced its content.
    pub(super) fn tags_replace_content(&self, bucket: &Bucket) -> Once<bool> {
        let mut replaces = lock(&self.tags_replace_content);
        Arc::clone(replaces.entry(Self::place(bucket)).or_default())
    }

    /// Asks the bucket about an attribute of an object that `asked` has given it. Asks once for
    /// each bucket, request, and kind of attribute if it is kept or ignored, and again if it came
    /// out with another value, if `for_each_object` is set, or with `trust: nothing`. Tests a
    /// refusal again at growing intervals.
    ///
    /// # Errors
    /// A failure that may pass: then the next object asks again.
    pub(super) async fn answer(
        &self,
        bucket: &Bucket,
        asked: Asked<'_>,
        question: Question,
        (key, version): (&ObjectKey, Option<&str>),
        for_each_object: bool,
    ) -> Result<Answer, Failure> {
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
                Ok(answer @ Answer::Unlike(Unlike::Other(_))) => Err(NotLasting::Answer(answer)),
                Ok(answer) => Ok(answer),
                Err(failure) => Err(NotLasting::Failure(failure)),
            }
        };
        match once.get_or_try_init(|| lasting).await {
            Ok(answer) => Ok(answer.clone()),
            Err(NotLasting::Answer(answer)) => Ok(answer),
            Err(NotLasting::Failure(failure)) => Err(failure),
        }
    }

    /// Notes what a source bucket shows of the tags of its objects, if its HEAD shows no tag count.
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

    /// Returns what is known about tags in a bucket whose HEAD shows no tag count. The one object
    /// that tests a refusal again learns nothing.
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

    /// Returns what is known of the tags that `write` carries along to the bucket.
    pub(super) fn carried_tags(&self, bucket: &Bucket, write: Operation) -> CarriedTags {
        let asking = (Self::place(bucket), write, TAGS_OF_SOURCE);
        if !lock(&self.kept).contains(&asking) {
            return CarriedTags::Unknown;
        }
        let mut answers = lock(&self.answers);
        let Some(once) = answers.get_mut(&asking) else {
            return CarriedTags::Kept;
        };
        if once.is_open(is_not_readable, self.questions) {
            CarriedTags::Unknown
        } else if once.cell.get().is_some_and(is_not_readable) {
            CarriedTags::NotReadable
        } else {
            CarriedTags::Kept
        }
    }
}

/// The knowledge about the tags that a write carries along from the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CarriedTags {
    /// They are to be compared.
    Unknown,
    /// The bucket was seen to keep them.
    Kept,
    /// They cannot be compared, because those of the copy may not be read.
    NotReadable,
}

/// The knowledge about tags in a source bucket whose HEAD shows no tag count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Uncounted {
    /// So many objects in a row have none.
    Untagged(u32),
    /// The last one has some.
    Tagged,
    /// HEAD shows the number of tags where there are some.
    Counts,
    /// The server does not know tags.
    NotKnown,
    /// They cannot be read, and why.
    NotReadable(String),
}

impl Default for Uncounted {
    fn default() -> Self {
        Self::Untagged(0)
    }
}

/// The answer of a bucket about an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The object has it.
    Kept,
    /// The caller may not know.
    NotReadable,
    /// The server does not know the question.
    NotKnown,
    /// The object has it otherwise.
    Unlike(Unlike),
}

fn is_not_readable(answer: &Answer) -> bool {
    *answer == Answer::NotReadable
}

/// Asks about an attribute of an object.
async fn ask(
    bucket: &Bucket,
    asked: Asked<'_>,
    by: Operation,
    key: &ObjectKey,
    version: Option<&str>,
) -> Result<Answer, Failure> {
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
        _ => {
            let answer = bucket.tags(key, version).await;
            answer.map(|found| asked.unlike_tags(&found))
        }
    };
    match unlike {
        Ok(None) => Ok(Answer::Kept),
        Ok(Some(unlike)) => Ok(Answer::Unlike(unlike)),
        Err(failure) if *failure.kind() == FailureKind::Denied => Ok(Answer::NotReadable),
        Err(failure) if is_no_answer(&failure) => Ok(Answer::NotKnown),
        Err(failure) => Err(failure),
    }
}

/// Returns true for the answer of a server that does not know what it was asked.
pub(super) fn is_no_answer(failure: &Failure) -> bool {
    matches!(
        failure.kind(),
        FailureKind::Unsupported
            | FailureKind::NotUnderstood
            | FailureKind::Unreadable
            | FailureKind::Invalid
            | FailureKind::NotFound
    )
}

/// The locks in a bucket that HEAD shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// All: what it does not show is not there.
    All,
    /// Nothing, and why: for want of a permission, or because the server does not know the
    /// question.
    Nothing(String),
    /// The bucket has no Object Lock.
    NoLocks,
}
