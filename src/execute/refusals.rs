//! Remembers what the buckets of a run refuse, do not know, or ignore, so that it is asked once and
//! not for each object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// What buckets refused in this run.
#[derive(Debug)]
pub(super) struct Refusals {
    /// The first and the longest interval at which the run asks again for what was refused.
    questions: (Duration, Duration),
    losses: Mutex<BTreeMap<(String, Attribute, Lost), Expected>>,
    /// By bucket, the refusals in a row of an attribute that was answered before.
    in_a_row: Mutex<BTreeMap<(String, Attribute), u32>>,
    /// By bucket, attributes that it was asked for and answered well.
    answered: Mutex<BTreeSet<(String, Attribute)>>,
    /// By bucket, what was asked for by requests of this kind and was there when the object was
    /// looked at.
    kept: Mutex<BTreeSet<(String, Operation, &'static str)>>,
    /// By bucket and request, what HEAD shows of locks: asked once.
    shown: Mutex<HashMap<(String, Operation), AskedOnce<Shown>>>,
    /// By bucket, writing request, and kind, what the bucket makes of an attribute that HEAD does
    /// not show: asked once.
    answers: Mutex<HashMap<Asking, AskedOnce<Answer>>>,
    /// By bucket, true if it takes tags that are set on an object for its content.
    replaces: Mutex<HashMap<String, Once<bool>>>,
    /// By bucket, the tags of objects of which HEAD shows no number.
    uncounted: Mutex<HashMap<String, (Uncounted, Option<NextQuestion>)>>,
    /// Buckets in which the `ETag` of an upload was the MD5 of its bytes, although nothing says that
    /// it must be.
    md5s: Mutex<BTreeSet<String>>,
}

/// A bucket, the request that wrote an object, and the kind of attribute that it was asked for.
type Asking = (String, Operation, &'static str);

/// What is asked once, and waited for by all who want to know.
type Once<T> = Arc<OnceCell<T>>;

/// What is asked once, and when a refusal is asked about again.
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
    /// Returns the answer, or an empty cell for the one who asks. A refusal is forgotten when it is
    /// time to ask again.
    fn get(&mut self, is_refusal: impl Fn(&T) -> bool, questions: (Duration, Duration)) -> Once<T> {
        if self.cell.get().is_some_and(is_refusal) && is_due(&mut self.next, questions) {
            self.cell = Arc::default();
        }
        Arc::clone(&self.cell)
    }

    fn hurry(&mut self, now: Instant) {
        self.next.iter_mut().for_each(|next| next.hurry(now));
    }
}

/// Returns true for the one who asks again about a refusal. The first call begins the interval.
fn is_due(next: &mut Option<NextQuestion>, questions: (Duration, Duration)) -> bool {
    let now = Instant::now();
    next.get_or_insert_with(|| NextQuestion::after(now, questions))
        .is_due(now)
}

/// Locks what is remembered, also if a thread has panicked that held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loss that all objects of a bucket have.
#[derive(Debug)]
struct Expected {
    loss: Loss,
    next: NextQuestion,
}

impl Refusals {
    /// Remembers nothing yet. `questions` are the first and the longest interval at which the run
    /// asks again for what was refused.
    pub(super) fn new(questions: (Duration, Duration)) -> Self {
        Self {
            questions,
            losses: Mutex::default(),
            in_a_row: Mutex::default(),
            answered: Mutex::default(),
            kept: Mutex::default(),
            shown: Mutex::default(),
            answers: Mutex::default(),
            replaces: Mutex::default(),
            uncounted: Mutex::default(),
            md5s: Mutex::default(),
        }
    }

    fn place(bucket: &Bucket) -> String {
        format!("{}/{}", bucket.client().endpoint(), bucket.name())
    }

    /// Takes note that the `ETag` of an upload to this bucket was the MD5 of its bytes.
    pub(super) fn saw_md5(&self, bucket: &Bucket) {
        if !bucket.capabilities().content_etags {
            lock(&self.md5s).insert(Self::place(bucket));
        }
    }

    /// Returns true if the `ETag` of an upload to this bucket was the MD5 of its bytes before.
    pub(super) fn makes_md5s(&self, bucket: &Bucket) -> bool {
        lock(&self.md5s).contains(&Self::place(bucket))
    }

    fn losses(&self) -> MutexGuard<'_, BTreeMap<(String, Attribute, Lost), Expected>> {
        lock(&self.losses)
    }

    /// Returns the loss to expect for an object of this bucket. The one object that is to ask
    /// again has none.
    pub(super) fn get(&self, bucket: &Bucket, attribute: Attribute, lost: Lost) -> Option<Loss> {
        let mut losses = self.losses();
        if losses.is_empty() {
            return None;
        }
        let expected = losses.get_mut(&(Self::place(bucket), attribute, lost))?;
        (!expected.next.is_due(Instant::now())).then(|| expected.loss.clone())
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

    /// Lets the next objects ask for all that was refused, because the cause of other refusals is
    /// gone.
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
            next.iter_mut().for_each(|next| next.hurry(now));
        }
    }

    /// Takes note that a bucket answered the question for an attribute.
    pub(super) fn answered(&self, bucket: &Bucket, attribute: Attribute) {
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

    /// Returns true if the bucket was asked for something that this request has not been seen to
    /// give yet, the object itself among it, or if the tags of each object are compared. Amazon S3
    /// refuses what it cannot do, and needs no look. With `trust: nothing`, what it has kept before
    /// says nothing.
    pub(super) fn is_unproven(&self, bucket: &Bucket, asked: Asked<'_>) -> bool {
        if bucket.capabilities().refuses_what_it_lacks() {
            return false;
        }
        if !bucket.capabilities().believes_answers() || asked.compares_tags {
            return true;
        }
        let place = Self::place(bucket);
        let kept = lock(&self.kept);
        asked
            .kinds()
            .into_iter()
            .any(|kind| !kept.contains(&(place.clone(), asked.write, kind)))
    }

    /// Takes note that the bucket keeps what it was asked for.
    pub(super) fn keeps(&self, bucket: &Bucket, asked: Asked<'_>) {
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

    /// Returns what HEAD shows of locks, to be asked once; a refusal is asked about again.
    pub(super) fn shown(&self, bucket: &Bucket, operation: Operation) -> Once<Shown> {
        let is_refusal = |shown: &Shown| matches!(shown, Shown::Nothing(_));
        lock(&self.shown)
            .entry((Self::place(bucket), operation))
            .or_default()
            .get(is_refusal, self.questions)
    }

    /// Tells, once the first tags were set on an object that was there, if the bucket took them for
    /// its content.
    pub(super) fn replaces(&self, bucket: &Bucket) -> Once<bool> {
        let mut replaces = lock(&self.replaces);
        Arc::clone(replaces.entry(Self::place(bucket)).or_default())
    }

    /// Asks the bucket about an attribute of an object that `asked` has given it. Asks once for
    /// each bucket, request, and kind of attribute if it is kept or ignored, and again if it came out
    /// with another value, if `is_each` is set, or with `trust: nothing`. A refusal is asked about
    /// again at growing intervals.
    ///
    /// # Errors
    /// What may pass: then the next object asks again.
    pub(super) async fn answer(
        &self,
        bucket: &Bucket,
        asked: Asked<'_>,
        question: Question,
        (key, version): (&ObjectKey, Option<&str>),
        is_each: bool,
    ) -> Result<Answer, Failure> {
        let ask = ask(bucket, asked, question.by, key, version);
        if is_each || !bucket.capabilities().believes_answers() {
            return Box::pin(ask).await;
        }
        let once = {
            let place = (Self::place(bucket), asked.write, question.kind);
            lock(&self.answers)
                .entry(place)
                .or_default()
                .get(|answer| *answer == Answer::NotReadable, self.questions)
        };
        let lasting = async {
            match Box::pin(ask).await {
                Ok(Answer::Unlike(Unlike::Other(how))) => {
                    Err(Ok(Answer::Unlike(Unlike::Other(how))))
                }
                Ok(answer) => Ok(answer),
                Err(failure) => Err(Err(failure)),
            }
        };
        match once.get_or_try_init(|| lasting).await {
            Ok(answer) => Ok(answer.clone()),
            Err(answer) => answer,
        }
    }

    /// Takes note of what a source bucket shows of the tags of its objects, where HEAD shows no
    /// number of them.
    pub(super) fn uncounted(&self, bucket: &Bucket, found: Uncounted) {
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

    /// Returns what is known of the tags of objects of which HEAD shows no number. For the one
    /// object that is to ask again about a refusal, that is nothing.
    pub(super) fn known_uncounted(&self, bucket: &Bucket) -> Uncounted {
        let mut uncounted = lock(&self.uncounted);
        let Some((known, next)) = uncounted.get_mut(&Self::place(bucket)) else {
            return Uncounted::default();
        };
        let is_refusal = matches!(known, Uncounted::NotReadable(_));
        if is_refusal && is_due(next, self.questions) {
            return Uncounted::default();
        }
        known.clone()
    }

    /// Returns true if the bucket was seen to keep the tags that `write` carries along.
    pub(super) fn carries_tags(&self, bucket: &Bucket, write: Operation) -> bool {
        let kept = lock(&self.kept);
        kept.contains(&(Self::place(bucket), write, TAGS_OF_SOURCE))
    }
}

/// What a source bucket shows of the tags of objects of which HEAD shows no number.
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

/// True for the answer of a server that does not know what it was asked.
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

/// What HEAD shows of the locks in a bucket.
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
