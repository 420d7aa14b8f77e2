//! Sends requests about single keys, many at a time.
//!
//! The server may refuse such a request with 503 again and again, for minutes. The request then
//! gives its place to requests about other keys, and its slot to any other request. The number of
//! such requests is limited, so that their tasks do not fill memory.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;

/// The time between two checks whether a question is held up.
const LOOK: Duration = Duration::from_millis(250);

/// The answers to questions that are under way.
pub(super) enum PendingAnswers<F: Future> {
    /// In the order of the questions.
    InOrder(FuturesOrdered<F>),
    /// As they come.
    AsTheyCome(FuturesUnordered<F>),
}

impl<F: Future> PendingAnswers<F> {
    pub(super) fn new(in_order: bool) -> Self {
        if in_order {
            Self::InOrder(FuturesOrdered::new())
        } else {
            Self::AsTheyCome(FuturesUnordered::new())
        }
    }

    pub(super) fn push(&mut self, question: F) {
        match self {
            Self::InOrder(waiting) => waiting.push_back(question),
            Self::AsTheyCome(waiting) => waiting.push(question),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::InOrder(waiting) => waiting.len(),
            Self::AsTheyCome(waiting) => waiting.len(),
        }
    }

    /// Returns true if a result that is already known need not wait for the answers.
    pub(super) fn is_passed_by(&self) -> bool {
        match self {
            Self::InOrder(waiting) => waiting.is_empty(),
            Self::AsTheyCome(_) => true,
        }
    }

    /// Waits for the next answer. Returns `None` if nothing is under way.
    pub(super) async fn next(&mut self) -> Option<F::Output> {
        match self {
            Self::InOrder(waiting) => waiting.next().await,
            Self::AsTheyCome(waiting) => waiting.next().await,
        }
    }
}

/// The questions that wait for a server that refuses them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct HeldUp(Arc<(AtomicUsize, Notify)>);

impl HeldUp {
    /// Returns how many of the questions under way are not held up.
    pub(super) fn others(&self, asking: usize) -> usize {
        asking.saturating_sub(self.0.0.load(Ordering::Relaxed))
    }

    /// Waits until another question is held up.
    pub(super) async fn more(&self) {
        self.0.1.notified().await;
    }

    /// Waits for one of the places and asks a question, which gives it back when it is held up.
    pub(super) async fn place<T>(
        &self,
        places: &Semaphore,
        is_held_up: impl Fn() -> bool,
        question: impl Future<Output = T>,
    ) -> T {
        // The semaphore is never closed.
        let place = places.acquire().await;
        let mut question = pin!(question);
        let held_up = async {
            loop {
                sleep(LOOK).await;
                if is_held_up() {
                    break;
                }
            }
        };
        tokio::select! {
            biased;
            answer = &mut question => return answer,
            () = held_up => {}
        }
        drop(place);
        let (count, more) = &*self.0;
        count.fetch_add(1, Ordering::Relaxed);
        more.notify_one();
        let answer = question.await;
        count.fetch_sub(1, Ordering::Relaxed);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use futures::FutureExt;
    use futures::future::{Either, pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_held_up_gives_its_place_to_another_one() {
        let (held_up, places) = (HeldUp::default(), Semaphore::new(1));
        let is_refused = AtomicBool::new(false);
        let mut refused = Box::pin(held_up.place(
            &places,
            || is_refused.load(Ordering::Relaxed),
            pending::<()>(),
        ));
        let mut other = Box::pin(held_up.place(&places, || false, ready(7)));
        assert!((&mut refused).now_or_never().is_none());
        assert!((&mut other).now_or_never().is_none(), "there is one place");
        assert_eq!(held_up.others(2), 2);
        is_refused.store(true, Ordering::Relaxed);
        let answer = tokio::select! {
            () = refused => 0,
            answer = other => answer,
        };
        assert_eq!((answer, held_up.others(1)), (7, 0));
    }

    #[tokio::test]
    async fn answers_come_in_order_or_as_they_come() {
        for (in_order, first) in [(true, None), (false, Some(Some(2)))] {
            let mut answers = PendingAnswers::new(in_order);
            answers.push(Either::Left(pending::<u32>()));
            answers.push(Either::Right(ready(2)));
            assert_eq!((answers.len(), answers.is_passed_by()), (2, !in_order));
            assert_eq!(answers.next().now_or_never(), first);
        }
    }
}
