//! Planning once more what an earlier session has planned and not finished.
//!
//! Each object is asked for, because its copy may be there and only the news of it was lost. An
//! object with equal bytes may still lack what is set or looked at after the bytes are there; only
//! what surely has the source's bytes is replaced.

use futures::future::{Either, FutureExt, ready};
use futures::stream::{FuturesOrdered, StreamExt};

use super::compare::Question;
use super::steps::{Gone, Outbox};
use super::{Pending, Planned, Sides};
use crate::listing::filter::Filter;
use crate::listing::{Entry, Found};
use crate::location::ObjectKey;
use crate::manifest::job::When;
use crate::pace::gate::by_itself;
use crate::plan::condition::Seen;
use crate::plan::decide::{Content, Decision, Reason, Skip, content};
use crate::s3::{Failure, Head};

impl Sides {
    /// Plans objects once more that an earlier session has planned: each is asked for, because its
    /// copy may be there and only the news of it was lost.
    pub(super) async fn plan_again(
        &self,
        pending: Vec<Pending>,
        filter: &Filter,
        planned: &Outbox,
    ) -> Result<(), Gone> {
        let at_once = self.heads_at_once();
        let mut asked = FuturesOrdered::new();
        for Pending {
            object,
            entry,
            claimed,
        } in pending
        {
            let again = move |answer| Planned::Again(object, Box::new(answer));
            asked.push_back(match self.sift(Found::Entry(entry), filter) {
                Err(other) => Either::Left(ready(again(other))),
                Ok((entry, key)) if self.transfer.when == When::Always && !self.is_in_place() => {
                    let always = Decision::Copy(Reason::Always);
                    Either::Left(ready(again(self.planned(
                        entry,
                        key,
                        always,
                        Seen::Unknown,
                    ))))
                }
                Ok((entry, key)) => {
                    let sides = self.clone();
                    let asked =
                        by_itself(async move { sides.ask_again(entry, key, claimed).await });
                    Either::Right(asked.map(again))
                }
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

    /// Asks about an object that a session was at work on. Where something is set or looked at only
    /// after the bytes are there, equal bytes do not tell whether the session came so far.
    pub(super) async fn ask_again(&self, entry: Entry, key: ObjectKey, claimed: bool) -> Planned {
        if self.is_in_place() {
            return self.ask_in_place(entry, key, true).await;
        }
        match self.ask(entry, key, Question::Destination).await {
            Planned::Skip(entry, key, why @ (Skip::Equal { .. } | Skip::Present)) => {
                let there = if claimed {
                    self.destination
                        .with_slot(self.destination.head(&key, None))
                        .await
                        .map(Some)
                } else {
                    self.unfinished(&entry, &key).await
                };
                let unfinished = match there {
                    // Only what has the source's bytes can be the session's: nothing else may be
                    // replaced.
                    Ok(Some(there)) if why == Skip::Present => self.if_equal(&entry, there).await,
                    other => other,
                };
                match unfinished {
                    Ok(Some(there)) => {
                        self.step(*entry, key, Reason::Always, Seen::Object(there.etag))
                    }
                    Ok(None) => Planned::Skip(entry, key, why),
                    Err(failure) => self.failed(&entry, failure),
                }
            }
            planned => planned,
        }
    }

    /// The object `there` if it surely has the bytes of this entry. Of files nothing is known that
    /// would tell.
    pub(super) async fn if_equal(
        &self,
        entry: &Entry,
        there: Head,
    ) -> Result<Option<Head>, Failure> {
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
