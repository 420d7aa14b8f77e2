//! `status` of a run in shards, as text and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::sleep;

use crate::cli::out::{self, Screen, wrapped};
use crate::cli::state::{FoundState, StatePrefix, is_empty};
use crate::cli::{CliError, EndpointFlags, Exit, Output, next};
use crate::location::S3Uri;
use crate::printable::printable;
use crate::report::ReportError;
use crate::shards::record::{PlanLease, ShardWeight};
use crate::shards::view::{RunProgress, ShardCounts, ShardFailure, ShardProgress, StateView};
use crate::size::{ByteSize, display_count as count, display_counted, display_duration};

/// The maximum width of a pod's name, so that a line fits into 80 columns.
const HOST_COLUMNS: usize = 24;

/// The indent of the continuation lines of a reason.
const REASON_INDENT: usize = 12;

/// The age from which a plan without a process needs attention.
const NEW_PLAN: SignedDuration = SignedDuration::from_secs(60);

/// The number of consecutive refreshes with failed shards and no unfinished ones after which a
/// watched run counts as ended. The engine may retry a failed shard: with a refresh every 15
/// seconds, this is longer than the back-off of a Job with three retries per index.
const SETTLED: u32 = 8;

/// The document of `status --json`.
#[derive(Debug, Serialize)]
struct StateDocument<'a> {
    state_prefix: String,
    /// The time at which the state was read.
    at: Timestamp,
    #[serde(flatten)]
    view: &'a StateView,
    /// The latest retry, once no shard is running and something has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<String>,
    /// The next step, with its command.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The result of one refresh.
struct ShownState {
    /// The exit code, once all shards have ended.
    exit: Option<Exit>,
    /// False once the reader has closed standard output.
    is_read: bool,
}

/// Shows a run in shards: once, or, with `watch`, at this interval until all shards have ended.
pub(super) async fn show(
    mut found: FoundState,
    uri: &S3Uri,
    endpoint: &EndpointFlags,
    watch: Option<Duration>,
    output: Output,
) -> Result<Exit, CliError> {
    let (mut screen, mut with_failures) = (Screen::default(), 0);
    loop {
        let shown = match &mut found {
            FoundState::Planned(state) => {
                show_planned(state, watch.is_some(), &mut screen, output).await?
            }
            FoundState::Planning(lease) => show_planning(lease, uri, &mut screen, output)?,
        };
        let Some(interval) = watch.filter(|_| shown.is_read) else {
            return Ok(Exit::Done);
        };
        with_failures = match shown.exit {
            None => 0,
            Some(Exit::Done) => return Ok(Exit::Done),
            Some(_) => with_failures + 1,
        };
        if let Some(exit) = shown.exit.filter(|_| with_failures >= SETTLED) {
            return Ok(exit);
        }
        sleep(interval).await;
        if matches!(found, FoundState::Planning(_)) {
            found = FoundState::at(uri, endpoint).await?.unwrap_or(found);
        }
    }
}

/// Waits for a run that has written nothing yet. Returns `None` if the prefix holds something else.
pub(super) async fn wait_for(
    uri: &S3Uri,
    endpoint: &EndpointFlags,
    interval: Duration,
    output: Output,
) -> Result<Option<FoundState>, CliError> {
    let mut is_told = false;
    loop {
        // The plan may have been written since the last check, so the plan is checked last.
        let is_empty = is_empty(uri, endpoint).await?;
        let found = FoundState::at(uri, endpoint).await?;
        if found.is_some() || !is_empty {
            return Ok(found);
        }
        if output.json {
            let at = Timestamp::now();
            let absent = serde_json::json!({
                "state_prefix": uri.to_string(), "at": at, "state": "absent"
            });
            if !Screen::show_json(&absent)? {
                return Ok(None);
            }
        } else if !std::mem::replace(&mut is_told, true) {
            let text = format!("{uri}: nothing is there yet; no process of the run has begun");
            Screen::default().show(&printable(&text))?;
        }
        sleep(interval).await;
    }
}

/// Shows a run that has a plan.
async fn show_planned(
    state: &mut StatePrefix,
    is_watched: bool,
    screen: &mut Screen,
    output: Output,
) -> Result<ShownState, CliError> {
    let seen = state.look().await?;
    let at = Timestamp::now();
    let view = StateView::of(&state.plan, &seen);
    let place = state.uri.to_string();
    // Finding a retry takes requests, and is of little use while shards are running.
    let has_failures = view.shards.failed > 0 || view.totals.failed_objects > 0;
    let retry = if view.state != RunProgress::Running && has_failures {
        last_retry(state).await?
    } else {
        None
    };
    let is_retried = retry.as_ref().is_some_and(|retry| retry.is_complete);
    let next = next_step(&view, &place, is_retried, at);
    let retry = retry.map(|retry| retry.text);
    let is_read = if output.json {
        Screen::show_json(&StateDocument {
            state_prefix: place,
            at,
            view: &view,
            retry,
            next,
        })?
    } else {
        let mut text = text(&view, &place, at, is_watched, out::columns());
        for line in retry.iter().chain(&next) {
            let _ = writeln!(text, "  {}", printable(line));
        }
        screen.show(text.trim_end())?
    };
    let exit = if view.shards.failed > 0 {
        Exit::Failures
    } else {
        Exit::Done
    };
    let exit = (view.state == RunProgress::Ended).then_some(exit);
    Ok(ShownState { exit, is_read })
}

/// The result of the latest retry.
struct LastRetry {
    text: String,
    /// True if the retry completed without failures.
    is_complete: bool,
}

async fn last_retry(state: &StatePrefix) -> Result<Option<LastRetry>, CliError> {
    let (place, footer) = match state.latest_retry().await {
        Ok(Some(latest)) => latest,
        Ok(None) => return Ok(None),
        Err(CliError::Report(ReportError::Damaged { place, what })) => {
            let text = format!(
                "the report of the latest retry is damaged: {place}: {what}; delete it to merge without it"
            );
            let is_complete = false;
            return Ok(Some(LastRetry { text, is_complete }));
        }
        Err(error) => return Err(error),
    };
    let how = match &footer {
        Some(footer) => format!("ended with exit code {}", footer.exit),
        None => "is still running, or was killed".to_owned(),
    };
    Ok(Some(LastRetry {
        text: format!("the latest retry {how}: {place}"),
        is_complete: footer.is_some_and(|footer| footer.exit == 0),
    }))
}

/// Returns a line with the next command.
fn next_step(view: &StateView, place: &str, is_retried: bool, now: Timestamp) -> Option<String> {
    match view.state {
        RunProgress::Ended if view.needs_restart => Some(
            "to continue: fix the cause, and start the job again under the name of this run"
                .to_owned(),
        ),
        RunProgress::Ended if view.shards.failed > 0 && !is_retried => {
            Some(format!("to copy what failed: {}", next::retry(place)))
        }
        RunProgress::Ended => Some(format!("to read the result: {}", next::merge(place))),
        RunProgress::Waiting if is_new(view, now) => None,
        RunProgress::Waiting if is_retried => Some(
            "to continue: the retry copied what had failed, but shards have not listed all of their \
             objects. Start the job again under the name of this run"
                .to_owned(),
        ),
        RunProgress::Waiting => Some(
            "to continue: resume the job if it is suspended. If it has failed, fix the cause first, \
             and start it again under the name of this run (in Kubernetes: delete the Job, and apply \
             it again)"
                .to_owned(),
        ),
        RunProgress::Running if view.shards.silent > 0 => Some(
            "silent shards: check their pods; the next process continues them"
                .to_owned(),
        ),
        RunProgress::Running => None,
    }
}

/// Returns true if the plan has just been written and no process has begun a shard.
fn is_new(view: &StateView, now: Timestamp) -> bool {
    view.shards.not_begun == view.shards.total && now.duration_since(view.planned) < NEW_PLAN
}

/// Shows a run that is being planned.
fn show_planning(
    lease: &PlanLease,
    uri: &S3Uri,
    screen: &mut Screen,
    output: Output,
) -> Result<ShownState, CliError> {
    let host = &lease.by.host;
    let is_read = if output.json {
        let renewed = lease.renewed;
        Screen::show_json(&serde_json::json!({
            "state_prefix": uri.to_string(), "state": "planning", "host": host, "renewed": renewed
        }))?
    } else {
        let age = Timestamp::now().duration_since(lease.renewed);
        let age = display_duration(age.try_into().unwrap_or_default());
        let by = if lease.released {
            "not planned; the next process that starts plans it".to_owned()
        } else {
            format!("{host} plans it, last sign of life {age} ago")
        };
        screen.show(&printable(&format!("{uri}: {by}")))?
    };
    Ok(ShownState {
        exit: None,
        is_read,
    })
}

/// Returns the text of one refresh. Wraps long reasons at this many columns.
fn text(
    view: &StateView,
    place: &str,
    now: Timestamp,
    is_watched: bool,
    columns: Option<usize>,
) -> String {
    let mut text = String::new();
    let ShardCounts { total, failed, .. } = view.shards;
    let state = match (view.state, failed) {
        (RunProgress::Running, _) => "running".to_owned(),
        (RunProgress::Waiting, _) if is_new(view, now) => {
            "planned; no process has begun a shard yet".to_owned()
        }
        (RunProgress::Waiting, _) => "no process is running".to_owned(),
        (RunProgress::Ended, 0) => "done".to_owned(),
        (RunProgress::Ended, failed) => {
            format!("ended, {} failed", display_counted(failed.into(), "shard"))
        }
    };
    let time = if is_watched {
        format!(" at {now:.0}")
    } else {
        String::new()
    };
    let _ = writeln!(
        text,
        "{} ({}): {state}{time}",
        printable(&view.job),
        printable(place)
    );
    let age = now.duration_since(view.planned);
    let ShardWeight { objects, bytes } = view.weight;
    let _ = writeln!(
        text,
        "  planned   {} ago: {}, {}{} ({})",
        display_duration(age.try_into().unwrap_or_default()),
        display_counted(total.into(), "shard"),
        if view.exact { "" } else { "about " },
        display_counted(objects, "object"),
        ByteSize(bytes),
    );
    let _ = writeln!(text, "  shards    {}", shards(&view.shards));
    let totals = &view.totals;
    let _ = writeln!(
        text,
        "  objects   {} copied ({}), {} unchanged, {} failed",
        count(totals.done_objects),
        ByteSize(totals.done_bytes),
        count(totals.skipped_objects),
        count(totals.failed_objects),
    );
    pace(&mut text, view);
    if view.state != RunProgress::Ended {
        let left = (1.0 - view.share_done) * 100.0;
        let time = match view.seconds_left {
            Some(seconds) => format!("about {}", display_duration(Duration::from_secs(seconds))),
            None => "the time is unknown".to_owned(),
        };
        let _ = writeln!(text, "  left      {left:.0}% of the work, {time}");
    }
    details(&mut text, view, columns);
    text
}

fn shards(counts: &ShardCounts) -> String {
    let named = [
        (counts.done, "done"),
        (counts.failed, "failed"),
        (counts.running, "running"),
        (counts.silent, "silent"),
        (counts.stopped, "stopped"),
        (counts.not_begun, "not begun"),
    ];
    let named = named.into_iter().filter(|(number, _)| *number > 0);
    let named: Vec<_> = named
        .map(|(number, what)| format!("{} {what}", count(number.into())))
        .collect();
    named.join(", ")
}

/// Adds the rates and the throttling.
fn pace(text: &mut String, view: &StateView) {
    let rates = &view.rates;
    if view.shards.running > 0 {
        let _ = writeln!(
            text,
            "  rate      {} objects/s, {}/s, {} requests/s, {} in flight",
            count(whole(rates.objects)),
            ByteSize(whole(rates.bytes)),
            count(whole(rates.requests)),
            count(view.in_flight),
        );
    }
    let requests = view.requests;
    if requests.throttled > 0 {
        let now = if view.shards.running > 0 {
            format!(", {} per second now", count(whole(rates.throttled)))
        } else {
            String::new()
        };
        let _ = writeln!(
            text,
            "  throttled {} of {}{now}",
            count(requests.throttled),
            display_counted(requests.requests, "request"),
        );
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive, and a cast saturates"
)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

/// Adds the shards that need attention.
fn details(text: &mut String, view: &StateView, columns: Option<usize>) {
    if !view.slowest.is_empty() {
        let _ = writeln!(text, "  slowest");
    }
    for shard in &view.slowest {
        let left = match shard.seconds_left {
            Some(seconds) => display_duration(Duration::from_secs(seconds)),
            None => "unknown".to_owned(),
        };
        let _ = writeln!(
            text,
            "    {:>5}  {:>3.0}%  {:>7}/s  {:>10}/s  {left:>8}  {}",
            shard.shard,
            shard.share_done * 100.0,
            count(whole(shard.rates.objects)),
            ByteSize(whole(shard.rates.bytes)).to_string(),
            host(shard),
        );
    }
    for shard in &view.silent {
        let silence = display_duration(Duration::from_secs(shard.silent_seconds));
        let _ = writeln!(
            text,
            "  silent    shard {} on {}: no sign of life for {silence}",
            shard.shard,
            host(shard)
        );
    }
    let failed = view.failed.iter().map(|failure| ("failed", ":", failure));
    let again = view
        .again
        .iter()
        .map(|failure| ("again", ", after", failure));
    for (word, link, failure) in failed.chain(again) {
        let start = format!("  {word:<9} shard {}{link} ", failure.shard);
        // A file or a pipe gets each reason on one line, for `grep`.
        let columns = columns.unwrap_or(usize::MAX);
        for line in wrapped(&start, &reason(failure), columns, REASON_INDENT) {
            let _ = writeln!(text, "{line}");
        }
    }
    for (named, all, what) in [
        (view.silent.len(), view.shards.silent, "silent"),
        (view.failed.len(), view.shards.failed, "failed"),
    ] {
        let more = u64::from(all).saturating_sub(named as u64);
        if more > 0 {
            let more = display_counted(more, "more shard");
            let _ = writeln!(text, "  {what:<9} {more}");
        }
    }
}

fn reason(failure: &ShardFailure) -> String {
    let cause = failure
        .cause
        .as_deref()
        .unwrap_or("its log and its report say why");
    format!("exit code {}: {cause}", failure.exit)
}

/// Returns the name of a pod. A long name loses its start, because names differ at their ends.
fn host(shard: &ShardProgress) -> String {
    let name = printable(&shard.host);
    let letters = name.chars().count();
    if letters <= HOST_COLUMNS {
        return name.into_owned();
    }
    let end: String = name.chars().skip(letters + 1 - HOST_COLUMNS).collect();
    format!("…{end}")
}
