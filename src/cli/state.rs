//! Finds and reads the state prefix of a run in shards.
//!
//! `status` and the commands that read reports accept a prefix in S3: that of a journal, of
//! reports, or of a run in shards. One list request tells them apart, because only a run in shards
//! has a plan.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::job_environment::records_at;
use super::{CliError, EndpointFlags};
use crate::bucket::Bucket;
use crate::journal::state::RunTotals;
use crate::location::S3Uri;
use crate::report::read::ReadError;
use crate::report::{
    Footer, LaterReport, LaterReports, ReportBucket, ReportError, ReportMerge, ShardReports,
    StoredReport, StoredRuns,
};
use crate::shards::names::{LEASE, PLAN, PerShard, SUMMARY, report_of};
use crate::shards::record::{LiveRecord, PlanLease, ShardEnd, ShardPlan, ShardsSummary};
use crate::shards::store::{ListedRecord, StateError, StateStore, Stored};
use crate::shards::view::{SeenFailure, SeenLive, SeenState};

/// The start of the names `plan.json` and `plan.lease`.
const PLAN_FILES: &str = "plan.";
/// The prefixes of the objects that shards write.
const BEGUN: [&str; 4] = [
    "shards/",
    PerShard::Live.prefix(),
    PerShard::Done.prefix(),
    PerShard::Failed.prefix(),
];
/// The maximum number of unreadable reports that a message names.
const NAMED: usize = 5;
/// The prefix below which `retry` keeps its reports and its journal.
const RETRIES: &str = "retry/";
/// The same for `retry --losses`. These reports do not cover objects that failed.
const REPAIRS: &str = "repair/";
/// The maximum number of shards whose reports are searched at the same time.
const MAX_CONCURRENT: usize = 16;
/// The maximum number of directories to check for runs below a prefix.
const LOOKED_AT_BELOW: usize = 8;

/// A run in shards.
#[derive(Clone, Debug)]
pub(super) struct StatePrefix {
    pub(super) uri: S3Uri,
    pub(super) plan: ShardPlan,
    bucket: Bucket,
    store: StateStore,
    /// The ends of shards that were read, with their `ETag`s. They rarely change, so they are
    /// cached.
    known: BTreeMap<(PerShard, u32), (Option<String>, ShardEnd)>,
}

/// The state of a run in shards, found at its state prefix.
#[derive(Clone, Debug)]
pub(super) enum FoundState {
    /// A run whose plan is complete.
    Planned(Box<StatePrefix>),
    /// A run that is being planned.
    Planning(PlanLease),
}

impl FoundState {
    /// Finds the run in shards with this state prefix. Returns `None` for any other prefix.
    pub(super) async fn at(
        uri: &S3Uri,
        endpoint: &EndpointFlags,
    ) -> Result<Option<Self>, CliError> {
        if !uri.key.is_prefix() {
            return Ok(None);
        }
        let bucket = records_at(uri, endpoint).await?;
        let plan_files = format!("{}{PLAN_FILES}", uri.key);
        if bucket.first(&plan_files, None).await?.is_none() {
            return Ok(None);
        }
        let plan = format!("{}{PLAN}", uri.key);
        let store = StateStore::new(bucket.clone(), uri.key.clone());
        if let Some(Stored { record: plan, .. }) = store.get::<ShardPlan>(PLAN).await? {
            return Ok(Some(Self::Planned(Box::new(StatePrefix {
                uri: uri.clone(),
                plan,
                bucket,
                store,
                known: BTreeMap::new(),
            }))));
        }
        let Some(lease) = store.get::<PlanLease>(LEASE).await? else {
            return Ok(None);
        };
        // Shards begin only once there is a plan. It may have been written just now.
        for begun in BEGUN {
            let begun = format!("{}{begun}", uri.key);
            if bucket.first(&begun, None).await?.is_some()
                && bucket.first(&plan, None).await?.is_none()
            {
                let what = "it is missing, although shards have begun".to_owned();
                let place = format!("s3://{}/{plan}", uri.bucket);
                return Err(StateError::Damaged { place, what }.into());
            }
        }
        Ok(Some(Self::Planning(lease.record)))
    }
}

impl StatePrefix {
    /// Returns the locations of the reports and the journal of a retry.
    pub(super) fn of_retry(&self, losses: bool) -> Result<(S3Uri, S3Uri), CliError> {
        let below = if losses { REPAIRS } else { RETRIES };
        let journal = format!("{below}journal/");
        Ok((self.store.uri(below)?, self.store.uri(&journal)?))
    }

    /// Reads the state of the run: three lists, and the objects of the shards that may have changed
    /// since the last call.
    pub(super) async fn look(&mut self) -> Result<SeenState, CliError> {
        let (mut done, mut failed, mut live) = futures::try_join!(
            self.store.list(PerShard::Done),
            self.store.list(PerShard::Failed),
            self.store.list(PerShard::Live)
        )?;
        done.retain(|shard, _| (*shard as usize) < self.plan.shards.len());
        for others in [&mut failed, &mut live] {
            others.retain(|shard, _| {
                (*shard as usize) < self.plan.shards.len() && !done.contains_key(shard)
            });
        }
        let summary = self.summary_totals(&done, failed.len()).await?;
        let written = |listed: &BTreeMap<u32, ListedRecord>, shard| {
            listed.get(&shard).and_then(|listed| listed.modified)
        };
        let failures = self.ends(PerShard::Failed, failed.clone()).await?;
        let failures = failures.into_iter().map(|(shard, record)| {
            let written = written(&failed, shard);
            (shard, SeenFailure { record, written })
        });
        let failed = failures.collect();
        let done = if summary.is_some() {
            done.into_keys().map(|shard| (shard, None)).collect()
        } else {
            let ends = self.ends(PerShard::Done, done).await?;
            ends.into_iter()
                .map(|(shard, end)| (shard, Some(end)))
                .collect()
        };
        let records = self
            .store
            .get_all::<LiveRecord>(PerShard::Live, live.keys().copied());
        let mut seen = SeenState {
            done,
            failed,
            live: BTreeMap::new(),
            summary,
        };
        let now = self.bucket.client().server_time();
        for (shard, Stored { record, .. }) in records.await? {
            // Uses the server's clock if its list shows a time.
            let written = written(&live, shard);
            let since = now.duration_since(written.unwrap_or(record.written));
            let live = SeenLive {
                record,
                written,
                silence: Duration::try_from(since).unwrap_or_default(),
            };
            seen.live.insert(shard, live);
        }
        Ok(seen)
    }

    /// Returns the totals of a run whose shards have all ended. Reads one summary instead of one
    /// object per shard.
    async fn summary_totals(
        &self,
        done: &BTreeMap<u32, ListedRecord>,
        failed: usize,
    ) -> Result<Option<RunTotals>, CliError> {
        if done.len() + failed < self.plan.shards.len() {
            return Ok(None);
        }
        let summary = self.store.get::<ShardsSummary>(SUMMARY).await?;
        let summary = summary.map(|stored| stored.record);
        // A shard may have run again since the summary was written.
        let is_latest = |summary: &ShardsSummary| {
            (summary.done as usize, summary.failed.len()) == (done.len(), failed)
        };
        Ok(summary.filter(is_latest).map(|summary| summary.totals))
    }

    /// Returns the ends of shards, and reads those that are not cached.
    async fn ends(
        &mut self,
        kind: PerShard,
        listed: BTreeMap<u32, ListedRecord>,
    ) -> Result<BTreeMap<u32, ShardEnd>, CliError> {
        let is_known = |shard: u32, listed: &ListedRecord| {
            let known = self.known.get(&(kind, shard));
            known.is_some_and(|(etag, _)| etag.is_some() && *etag == listed.etag)
        };
        let new: Vec<u32> = listed
            .iter()
            .filter(|(shard, listed)| !is_known(**shard, listed))
            .map(|(shard, _)| *shard)
            .collect();
        for (shard, Stored { record, etag }) in self.store.get_all(kind, new).await? {
            self.known.insert((kind, shard), (etag, record));
        }
        let end = |shard: u32| Some((shard, self.known.get(&(kind, shard))?.1.clone()));
        Ok(listed.into_keys().filter_map(end).collect())
    }

    /// Finds the report of the latest retry, and its footer. Returns `None` if there is none.
    pub(super) async fn latest_retry(&self) -> Result<Option<(S3Uri, Option<Footer>)>, CliError> {
        match self.reports(RETRIES)?.latest().await? {
            Some(report) => Ok(Some((report.location(), report.footer().await?))),
            None => Ok(None),
        }
    }

    fn reports(&self, below: &str) -> Result<ReportBucket, CliError> {
        let uri = self.store.uri(below)?;
        Ok(ReportBucket::new(self.bucket.clone(), uri.key))
    }

    /// Merges the reports of all shards.
    pub(super) async fn merge(&mut self) -> Result<ReportMerge, CliError> {
        let (done, failed) = futures::try_join!(
            self.store.list(PerShard::Done),
            self.store.list(PerShard::Failed)
        )?;
        let done = self.ends(PerShard::Done, done).await?;
        let mut ends = self.ends(PerShard::Failed, failed).await?;
        ends.extend(done);
        let state: &Self = self;
        let has_ranges = state
            .plan
            .shards
            .iter()
            .map(|shard| !shard.ranges.is_empty());
        let shards: Vec<(u32, bool)> = (0..).zip(has_ranges).collect();
        let ends = &ends;
        let reports = |(shard, has_ranges)| async move {
            let runs = state.reports(&report_of(shard))?.runs().await?;
            let unfinished = unfinished(ends.get(&shard), has_ranges, &runs);
            Ok::<_, CliError>(ShardReports {
                shard,
                runs,
                unfinished,
            })
        };
        let shards = stream::iter(shards).map(reports).buffered(MAX_CONCURRENT);
        let shards: Vec<_> = shards.boxed().try_collect().await?;
        let mut lost = lost(&shards, ends);
        let later = self.later().await?;
        let (place, run) = (self.uri.to_string(), &self.plan.by.id);
        let merged = ReportMerge::open(place, run, self.plan.planned, shards, later);
        match merged.await {
            Ok(Some(merged)) => return Ok(merged),
            Ok(None) => {}
            Err(ReadError::Foreign { place, error }) => {
                lost.push(format!("{place} has a damaged header: {error}"));
            }
            Err(ReadError::Store(ReportError::Damaged { place, what })) => {
                lost.push(format!("{place} is damaged: {what}"));
            }
            Err(error) => return Err(super::report::from_read_error(error)),
        }
        let uri = &self.uri;
        if lost.is_empty() {
            return Err(CliError::Usage(format!(
                "no shard of {uri} has a report yet; `s3haul status {uri}` shows how far they are"
            )));
        }
        let others = lost.len().saturating_sub(NAMED);
        lost.truncate(NAMED);
        if others > 0 {
            lost.push(format!("and {others} more"));
        }
        Err(CliError::Unreadable(format!(
            "incomplete: no report of the shards of {uri} can be read: {}; put the reports back from a backup or from \
             older versions",
            lost.join("; ")
        )))
    }

    /// Returns the complete reports of retries, oldest first, and the damaged ones.
    async fn later(&self) -> Result<LaterReports, CliError> {
        let mut later = LaterReports::default();
        for (below, is_of_failures) in [(RETRIES, true), (REPAIRS, false)] {
            let StoredRuns { reports, damaged } = self.reports(below)?.runs().await?;
            for damage in damaged {
                later.damaged.insert(damage.place.to_string(), damage.what);
            }
            for report in reports {
                match report.footer().await {
                    Ok(Some(footer)) if footer.complete => later.reports.push(LaterReport {
                        report,
                        is_of_failures,
                    }),
                    Ok(_) => {}
                    Err(error) => {
                        let place = report.location().to_string();
                        later.damaged.insert(place, error.into_damage()?);
                    }
                }
            }
        }
        later
            .reports
            .sort_by(|one, other| one.report.run().cmp(other.report.run()));
        Ok(later)
    }
}

/// Returns true if a prefix has no objects.
pub(super) async fn is_empty(uri: &S3Uri, endpoint: &EndpointFlags) -> Result<bool, CliError> {
    let bucket = records_at(uri, endpoint).await?;
    Ok(bucket.first(uri.key.as_str(), None).await?.is_none())
}

/// Returns the end of a message about a prefix without a run in shards. It names the runs nearby,
/// if there are any.
pub(super) async fn runs_near(uri: &S3Uri, endpoint: &EndpointFlags) -> Result<String, CliError> {
    let bucket = records_at(uri, endpoint).await?;
    if let Some(around) = enclosing(uri.key.as_str())
        && is_state_prefix(&bucket, around).await
    {
        let run = format!("s3://{}/{around}", uri.bucket);
        return Ok(format!(
            "; this is a part of a run in shards: its state prefix is {run}"
        ));
    }
    let below = runs_below(&bucket, uri.key.as_str()).await;
    if below.is_empty() {
        return Ok(String::new());
    }
    let below: Vec<_> = below
        .iter()
        .map(|key| format!("s3://{}/{key}", uri.bucket))
        .collect();
    Ok(format!("; below it are the runs {}", below.join(", ")))
}

async fn is_state_prefix(bucket: &Bucket, key: &str) -> bool {
    let plan_files = format!("{key}{PLAN_FILES}");
    matches!(bucket.first(&plan_files, None).await, Ok(Some(_)))
}

/// Returns the state prefixes one level below a prefix. Checks only the first directories there.
async fn runs_below(bucket: &Bucket, prefix: &str) -> Vec<String> {
    let (mut runs, mut after) = (Vec::new(), None);
    for _ in 0..LOOKED_AT_BELOW {
        let Ok(Some(object)) = bucket.first(prefix, after.as_deref()).await else {
            break;
        };
        let key = &*object.key;
        let Some((directory, _)) = key
            .strip_prefix(prefix)
            .and_then(|rest| rest.split_once('/'))
        else {
            after = Some(key.to_owned());
            continue;
        };
        let directory = format!("{prefix}{directory}/");
        after = Some(format!("{directory}\u{10ffff}"));
        if is_state_prefix(bucket, &directory).await {
            runs.push(directory);
        }
    }
    runs
}

/// Returns the state prefix that would contain this prefix, by the names of its directories.
fn enclosing(key: &str) -> Option<&str> {
    let name = key.strip_suffix('/')?;
    let (above, last) = name.rsplit_once('/')?;
    let parts = ["shards", "live", "done", "failed", "retry", "repair"];
    if parts.contains(&last) {
        return name.strip_suffix(last);
    }
    enclosing(&key[..=above.len()])
}

/// Names the shards whose latest report was written and cannot be read, and the reasons.
fn lost(shards: &[ShardReports], ends: &BTreeMap<u32, ShardEnd>) -> Vec<String> {
    let lost = shards
        .iter()
        .filter_map(|ShardReports { shard, runs, .. }| {
            let has_run = ends.get(shard).is_some_and(|end| end.run.is_some());
            match runs.latest_damage() {
                Some(damage) => Some(format!(
                    "shard {shard}: its report is damaged: {}",
                    damage.what
                )),
                None if runs.reports.is_empty() && has_run => Some(format!(
                    "shard {shard}: the report of its last run is missing"
                )),
                None => None,
            }
        });
    lost.collect()
}

/// Returns the reason why the report of a shard is incomplete or missing.
fn unfinished(end: Option<&ShardEnd>, has_ranges: bool, runs: &StoredRuns) -> Option<String> {
    let latest = runs.reports.last().map(StoredReport::run);
    let Some(end) = end else {
        return Some(match latest {
            Some(_) => "it has not finished: it is still running, or was stopped".to_owned(),
            None => "no process has started it".to_owned(),
        });
    };
    let cause = end.cause.as_deref().unwrap_or("no cause is known");
    match (end.run.as_deref(), latest) {
        (run, latest) if run.is_some() && run == latest => None,
        // The shard had nothing to report.
        (None, None) if end.exit == 0 && !has_ranges => None,
        (None, _) if end.exit != 0 => {
            Some(format!("it failed with exit code {}: {cause}", end.exit))
        }
        _ if runs.latest_damage().is_some() => None,
        _ => Some("the report of its last run is missing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(exit: i32, run: Option<&str>) -> ShardEnd {
        let text = serde_json::json!({
            "format": 1, "shard": 3, "exit": exit, "run": run, "cause": "access denied",
            "process": {"id": "p", "host": "h", "pid": 1, "since": "2026-01-01T00:00:00Z"},
            "ended": "2026-01-01T00:00:00Z", "seconds": 1.0, "sessions": 1,
            "totals": {}, "requests": {}
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_part_of_a_run_names_its_state_prefix() {
        for part in [
            "shards/",
            "shards/0/",
            "shards/17/journal/",
            "live/",
            "retry/journal/",
        ] {
            assert_eq!(
                enclosing(&format!("a/run/{part}")),
                Some("a/run/"),
                "{part}"
            );
        }
        for other in ["a/run/", "a/", "", "shards/", "a/shards"] {
            assert_eq!(enclosing(other), None, "{other}");
        }
    }

    #[test]
    fn a_shard_without_its_report_is_not_over() {
        let none = StoredRuns::default();
        let why = |end: Option<&ShardEnd>, has_ranges| unfinished(end, has_ranges, &none);
        assert_eq!(why(Some(&end(0, None)), false), None, "nothing to do");
        for (end, has_ranges, expected) in [
            (None, true, "no process has started it"),
            (Some(end(0, None)), true, "is missing"),
            (Some(end(0, Some("r"))), true, "is missing"),
            (Some(end(3, None)), true, "exit code 3: access denied"),
        ] {
            let why = why(end.as_ref(), has_ranges).unwrap();
            assert!(why.contains(expected), "{why}");
        }
    }
}
