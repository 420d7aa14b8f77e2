//! Collects the results of requests for single keys, many of which are in flight at once.

use std::future::Future;

use futures::stream::{FuturesOrdered, FuturesUnordered, StreamExt};

/// The results of the requests in flight.
pub(super) enum PendingAnswers<F: Future> {
    /// In the order of the requests.
    InOrder(FuturesOrdered<F>),
    /// In the order of completion.
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

    /// Returns true if a known result may be used before the pending results.
    pub(super) fn is_passed_by(&self) -> bool {
        match self {
            Self::InOrder(waiting) => waiting.is_empty(),
            Self::AsTheyCome(_) => true,
        }
    }

    /// Waits for the next result. Returns `None` if no request is in flight.
    pub(super) async fn next(&mut self) -> Option<F::Output> {
        match self {
            Self::InOrder(waiting) => waiting.next().await,
            Self::AsTheyCome(waiting) => waiting.next().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::{Either, pending, ready};

    use super::*;

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
