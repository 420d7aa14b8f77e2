//! Asking for a part a second time, because the first request hangs.
//!
//! Of ten thousand requests a few take far longer than the rest, and an object is done when the
//! last of its parts is. So a part that is overdue is copied once more; the first answer counts,
//! and nobody waits for the other. That is safe only where both requests leave the very same part
//! behind: the same number, the same range of the same version, on a server that refuses a source
//! that changed and whose `ETag`s follow from the bytes. The second request may still arrive when
//! the object is published, and changes nothing then.
//!
//! A [`LatencyEstimate`] tells what is overdue. All parts but the last are of one size, so their
//! times compare.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;

use futures::future::{Either, select};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::bucket::Answer;
use crate::pace::latency::LatencyEstimate;
use crate::s3::{Failure, PartDone};

/// One part in so many may be asked for twice: a server that is slow as a whole is not helped by
/// more requests.
const ONE_IN: u32 = 20;

/// The requests of one upload.
#[derive(Debug)]
pub(super) struct Hedge {
    /// Parts that were asked for once, by number: when, and how to have one asked for again.
    single: BTreeMap<u32, (Instant, oneshot::Sender<()>)>,
    latency: LatencyEstimate,
    left: u32,
}

impl Hedge {
    /// For an upload of so many parts; none is asked for twice where that is not safe.
    pub(super) const fn new(parts: u32, is_safe: bool) -> Self {
        let left = if is_safe { parts.div_ceil(ONE_IN) } else { 0 };
        Self {
            single: BTreeMap::new(),
            latency: LatencyEstimate::NONE,
            left,
        }
    }

    /// A part is asked for; what is returned tells its request when to do so once more.
    pub(super) fn asked(&mut self, number: u32, now: Instant) -> Option<oneshot::Receiver<()>> {
        if self.left == 0 {
            return None;
        }
        let (again, told) = oneshot::channel();
        self.single.insert(number, (now, again));
        Some(told)
    }

    /// A part was confirmed.
    pub(super) fn answered(&mut self, number: u32, now: Instant) {
        // A part that was asked for twice tells nothing about one request.
        let Some((asked, _)) = self.single.remove(&number) else {
            return;
        };
        self.latency.observe(now.saturating_duration_since(asked));
    }

    /// When the part that has waited longest is overdue, if anything may be asked for again.
    pub(super) fn due(&self) -> Option<Instant> {
        let patience = self.latency.overdue_after().filter(|_| self.left > 0)?;
        self.single
            .values()
            .map(|(asked, _)| *asked)
            .min()
            .map(|asked| asked + patience)
    }

    /// Has the part asked for once more that has waited longest; its number.
    pub(super) fn again(&mut self) -> Option<u32> {
        let (number, _) = self.single.iter().min_by_key(|(_, (asked, _))| *asked)?;
        let number = *number;
        let (_, again) = self.single.remove(&number)?;
        self.left = self.left.saturating_sub(1);
        // A request that is gone was answered meanwhile.
        again.send(()).is_ok().then_some(number)
    }
}

/// One part, whose request is sent once more when `told` says so and there is a `place` for another
/// one. The first good answer counts; the other is dropped.
pub(super) async fn once_or_twice<F, P>(
    told: Option<oneshot::Receiver<()>>,
    place: impl Future<Output = Option<P>>,
    start: impl Fn() -> F,
) -> Result<Answer<PartDone>, Failure>
where
    F: Future<Output = Result<Answer<PartDone>, Failure>>,
{
    let mut first = pin!(start());
    let Some(told) = told else { return first.await };
    let granted = async {
        if told.await.is_ok() {
            place.await
        } else {
            None
        }
    };
    let granted = tokio::select! {
        answer = &mut first => return answer,
        granted = granted => granted,
    };
    let Some(_place) = granted else {
        return first.await;
    };
    // On the heap, because hardly any part needs it and all of them would have room for it.
    let second = Box::pin(start());
    let (answer, other) = match select(first, second).await {
        Either::Left((answer, second)) => (answer, Either::Left(second)),
        Either::Right((answer, first)) => (answer, Either::Right(first)),
    };
    let mut answer = if answer.is_ok() { answer } else { other.await };
    if let Ok(answer) = &mut answer {
        answer.attempts += 1;
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::ready;
    use std::time::Duration;

    use super::*;
    use crate::s3::{FailureKind, Operation};

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    type Told = Vec<Option<oneshot::Receiver<()>>>;

    /// An upload whose first parts took these times, with part 100 under way since `start`.
    fn after(took: impl IntoIterator<Item = u64>, is_safe: bool) -> (Hedge, Instant, Told) {
        let start = Instant::now();
        let mut hedge = Hedge::new(200, is_safe);
        let told = vec![hedge.asked(100, start)];
        for (number, millis) in (1..).zip(took) {
            hedge.asked(number, start);
            hedge.answered(number, start + ms(millis));
        }
        (hedge, start, told)
    }

    #[test]
    fn nothing_is_overdue_before_enough_is_known_or_where_it_is_not_safe() {
        assert_eq!(after([900; 7], true).0.due(), None);
        assert_eq!(after([900; 50], false).0.due(), None);
    }

    #[test]
    fn one_part_in_twenty_is_asked_for_twice_and_none_three_times() {
        let (mut hedge, start, mut told) = after([900; 8], true);
        for number in 101..150 {
            told.push(hedge.asked(number, start + ms(u64::from(number))));
        }
        let mut again = Vec::new();
        while hedge.due().is_some() {
            again.extend(hedge.again());
        }
        assert_eq!(
            again,
            (100..110).collect::<Vec<_>>(),
            "those that wait longest, first"
        );
    }

    fn done(number: u32) -> Answer<PartDone> {
        let value = PartDone {
            number,
            size: 1,
            etag: String::new(),
            checksum: None,
        };
        Answer {
            value,
            attempts: 1,
            maybe_twice: false,
        }
    }

    fn failed() -> Failure {
        Failure::new(
            FailureKind::Transient,
            Operation::UploadPartCopy,
            "b/k",
            "reset",
        )
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_good_answer_counts() {
        // What the first and the second request answer, and after how many seconds.
        for (first, second, expected) in [
            ((60, Ok(done(1))), (1, Ok(done(2))), Some(2)),
            ((5, Ok(done(1))), (60, Ok(done(2))), Some(1)),
            ((60, Ok(done(1))), (1, Err(failed())), Some(1)),
            ((5, Err(failed())), (60, Ok(done(2))), Some(2)),
            ((5, Err(failed())), (60, Err(failed())), None),
        ] {
            let (again, told) = oneshot::channel();
            let requests = RefCell::new(vec![second, first]);
            let request = || {
                let (seconds, answer) = requests.borrow_mut().pop().expect("two requests at most");
                async move {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    answer
                }
            };
            again.send(()).unwrap();
            let answer = once_or_twice(Some(told), ready(Some(())), request).await;
            assert_eq!(
                answer
                    .as_ref()
                    .ok()
                    .map(|answer| (answer.value.number, answer.attempts)),
                expected.map(|number| (number, 2))
            );
        }
    }
}
