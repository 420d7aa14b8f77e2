//! `status`: shows the progress of a run from its journal, or of a run in shards from its state
//! prefix. Only reads.

mod shards;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use futures::FutureExt as _;
use jiff::Timestamp;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::job_environment::JobEnvironment;
use super::journal::{Named, glances, places, reports};
use super::state::{FoundState, runs_near};
use super::{
    CliError, EndpointFlags, Exit, Output, habits, load, next, say, say_json, say_line, signals,
};
use crate::journal::event::{FailedObject, RunInfo};
use crate::journal::state::RunTotals;
use crate::journal::uploads::JournaledUpload;
use crate::journal::{Glance, Life, Location, Writer};
use crate::listing::local::JOURNALS;
use crate::location::{S3Uri, suggestion};
use crate::pace::learned::Learned;
use crate::printable::printable;
use crate::report::{Footer, ReportBucket};
use crate::size::{ByteSize, display_count, display_counted, display_duration, parse_duration};

/// The maximum number of transfers shown with their sources and destinations.
const SHOWN_COPIES: usize = 5;
/// The maximum number of rate lanes shown.
const SHOWN_LANES: usize = 5;

/// Shows the progress of a run.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  s3haul status                              the journals in ./.s3haul
  s3haul status nightly.yaml                 the journal of this job
  s3haul status .s3haul/nightly
  s3haul status s3://ops/s3haul/nightly/ --json      with the report that is kept there
  s3haul status s3://ops/s3haul/lake/run-1/ --watch  a run in shards, until all of them have ended")]
pub(super) struct Status {
    /// Run to show: its journal (a directory or s3://bucket/prefix/), its job manifest, or the
    /// state prefix of a run in shards. Default: all journals below ./.s3haul.
    #[arg(value_name = "RUN")]
    journal: Option<String>,
    /// Refresh a run in shards at this interval (15s if none is given) until all shards have ended.
    /// Exits with 1 if a shard has failed.
    #[arg(long, value_name = "EVERY", num_args = 0..=1, require_equals = true, default_missing_value = "15s", value_parser = interval)]
    watch: Option<Duration>,
    #[command(flatten)]
    endpoint: EndpointFlags,
}

/// Parses the time between two refreshes.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if interval.is_zero() {
        return Err("it must be longer than 0s".to_owned());
    }
    Ok(interval)
}

impl Status {
    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        if let (Some(_), Some(word)) = (self.watch, self.journal.as_deref())
            && parse_duration(word).is_ok()
            && !Path::new(word).exists()
        {
            return Err(CliError::Usage(habits::watch_every(word)));
        }
        if self.watch.is_some() {
            signals::is_view();
        }
        if let Some(uri) = self.prefix()? {
            let mut found = FoundState::at(&uri, &self.endpoint).boxed().await?;
            if let (None, Some(interval)) = (&found, self.watch) {
                found = shards::wait_for(&uri, &self.endpoint, interval, output)
                    .boxed()
                    .await?;
            }
            if let Some(found) = found {
                return shards::show(found, &uri, &self.endpoint, self.watch, output)
                    .boxed()
                    .await;
            }
        }
        if self.watch.is_some() {
            let named = self.journal.as_deref().unwrap_or(JOURNALS);
            let message = format!(
                "--watch is for a run in shards, and {named} is not the state prefix of one; leave --watch out"
            );
            return Err(CliError::Usage(message));
        }
        let locations = self.locations().await?;
        let found = glances(&locations, self.journal.is_none()).await?;
        let report = self.report(&locations).await?;
        if let (true, Some(report)) = (found.is_empty(), &report) {
            return if output.json {
                say_json(&serde_json::json!({ "report_in_s3": report }))
            } else {
                say_line(&report.to_string())
            };
        }
        // Without a named journal, there may be several.
        let is_list = self.journal.is_none() && found.len() > 1;
        for (place, glance) in &found {
            let mut view = View::of(place.clone(), glance, Timestamp::now());
            view.report = report.as_ref();
            view.next = self.next(&view);
            if output.json {
                say_json(&view)?;
            } else if is_list {
                say_line(&view.line())?;
            } else {
                say(view.text().trim_end())?;
            }
        }
        if is_list && !output.json {
            say_line("for more about one of them: s3haul status JOURNAL")?;
        }
        match (found.len(), &self.journal) {
            (0, Some(journal)) if Path::new(journal).is_file() => Err(CliError::Usage(format!(
                "{journal} has not been run here yet: there is no journal of it"
            ))),
            (0, Some(journal)) if journal.starts_with("s3://") => Err(self.absent().await?),
            (0, Some(journal)) => {
                let meant = suggestion(journal)
                    .map(|meant| format!("; {meant}"))
                    .unwrap_or_default();
                Err(CliError::Usage(format!(
                    "there is no journal at {journal}{meant}"
                )))
            }
            (0, None) => Err(CliError::Usage(format!(
                "there is no journal in ./{JOURNALS}; name one, a directory or s3://bucket/prefix/"
            ))),
            _ => Ok(Exit::Done),
        }
    }

    /// Returns the error for an S3 prefix with nothing to show.
    async fn absent(&self) -> Result<CliError, CliError> {
        let Some(uri) = self.prefix()? else {
            return Ok(CliError::Usage("no prefix is named".to_owned()));
        };
        let near = runs_near(&uri, &self.endpoint).boxed().await?;
        let new = if near.is_empty() {
            "; a run that was just started may have written nothing yet, and --watch waits for it"
        } else {
            ""
        };
        Ok(CliError::Usage(format!(
            "there is no journal at {uri}, and no run in shards; name the prefix of a journal, or the state prefix of a \
             run in shards, as --state names it{near}{new}"
        )))
    }

    /// Returns a line with the next command. A named manifest can be run again; a journal records
    /// the command that resumes its run.
    fn next(&self, view: &View<'_>) -> Option<String> {
        let job = self.journal.as_deref();
        let job = job.filter(|path| Path::new(path).is_file());
        let again = job.map(|path| next::command(["run", path]));
        let again = again.or_else(|| view.command.map(str::to_owned));
        match (view.life, view.report, again) {
            (Life::Dead | Life::Stopped, _, Some(again)) => Some(format!("to continue: {again}")),
            (Life::Ended, report, again) if view.totals.failed_objects > 0 => {
                let retry = report.map(|report| next::retry(&report.report));
                let command = retry.or(again)?;
                Some(format!("to copy what failed: {command}"))
            }
            _ => None,
        }
    }

    /// Returns the progress of the report in S3: the report of a named job, or the report at the
    /// prefix of a named journal.
    async fn report(
        &self,
        locations: &[(String, Location)],
    ) -> Result<Option<ReportGlance>, CliError> {
        let job = self
            .journal
            .as_deref()
            .filter(|path| Path::new(path).is_file());
        let reports = match (job, locations) {
            (Some(path), _) => {
                let job = load(Path::new(path))?;
                let mut connections =
                    JobEnvironment::ambient().connect(&job, &CancellationToken::new());
                reports(&job, &mut connections).await?
            }
            (None, [(_, Location::Bucket(bucket, prefix))]) => {
                Some(ReportBucket::new(bucket.clone(), prefix.clone()))
            }
            _ => None,
        };
        let Some(reports) = reports else {
            return Ok(None);
        };
        let Some(stored) = reports.latest().boxed().await? else {
            return Ok(None);
        };
        Ok(Some(ReportGlance {
            report: stored.location().to_string(),
            pieces: stored.pieces(),
            receipts: stored.receipts(),
            footer: stored.footer().await?,
        }))
    }

    /// Returns the S3 prefix that the argument names, if it names one.
    fn prefix(&self) -> Result<Option<S3Uri>, CliError> {
        let Some(uri) = self.journal.as_deref() else {
            return Ok(None);
        };
        if !uri.starts_with("s3://") {
            return Ok(None);
        }
        let uri: S3Uri = uri
            .parse()
            .map_err(|error| CliError::Usage(format!("{error}")))?;
        if !uri.key.is_prefix() {
            let message = format!(
                "a journal and the state of a run are kept below a prefix; write {uri}/ with a slash at the end"
            );
            return Err(CliError::Usage(message));
        }
        Ok(Some(uri))
    }

    async fn locations(&self) -> Result<Vec<(String, Location)>, CliError> {
        let named = match self.journal.as_deref() {
            None => Named::None,
            Some(uri) if uri.starts_with("s3://") => {
                self.prefix()?.map_or(Named::None, Named::Prefix)
            }
            Some(path) if Path::new(path).is_file() => Named::JobIn(path.into()),
            Some(path) => Named::Directory(path.into()),
        };
        places(named, &self.endpoint).await
    }
}

/// The progress of a report in S3.
#[derive(Debug, Serialize)]
struct ReportGlance {
    report: String,
    pieces: usize,
    receipts: u64,
    footer: Option<Footer>,
}

impl std::fmt::Display for ReportGlance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let receipts = display_counted(self.receipts, "receipt");
        let pieces = display_counted(self.pieces as u64, "piece");
        let report = printable(&self.report);
        write!(f, "report   {report}  {receipts} in {pieces}, ")?;
        match &self.footer {
            None => f.write_str("no footer yet: its run is in progress or was killed"),
            Some(footer) if footer.complete => write!(f, "complete, exit code {}", footer.exit),
            Some(footer) => write!(f, "its run was stopped, exit code {}", footer.exit),
        }
    }
}

/// The data of a journal, as `status` shows it.
#[derive(Debug, Serialize)]
struct View<'a> {
    journal: String,
    job: Option<&'a str>,
    run: Option<&'a str>,
    life: Life,
    writer: Option<&'a Writer>,
    /// Seconds since the last sign of life of a run whose journal is in S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_sign_of_life_seconds: Option<u64>,
    began: Option<Timestamp>,
    last: Option<Timestamp>,
    resumed: u32,
    transfers: u64,
    ended_transfers: u64,
    /// The sources and destinations of the first transfers.
    copies: Vec<[&'a str; 2]>,
    #[serde(flatten)]
    totals: &'a RunTotals,
    pending_objects: u64,
    open_uploads: Vec<UploadView<'a>>,
    latest_failures: Vec<&'a FailedObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    learned: Option<&'a Learned>,
    #[serde(rename = "report_in_s3", skip_serializing_if = "Option::is_none")]
    report: Option<&'a ReportGlance>,
    /// The command that resumes the run, from its journal.
    #[serde(skip)]
    command: Option<&'a str>,
    /// The next step, with its command.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(skip)]
    now: Timestamp,
}

/// An open upload. It has no ID if the journal ended before it recorded that the upload was
/// created.
#[derive(Debug, Serialize)]
struct UploadView<'a> {
    destination: String,
    upload_id: Option<&'a str>,
    size: u64,
    parts: u32,
    stored_parts: u32,
    stored_bytes: u64,
    begun: Timestamp,
}

impl<'a> From<&'a JournaledUpload> for UploadView<'a> {
    fn from(open: &'a JournaledUpload) -> Self {
        let begun = open.created.as_ref();
        Self {
            destination: open.place.to_string(),
            upload_id: begun.map(|begun| begun.id.as_str()),
            size: begun.map_or(0, |begun| begun.parts.bytes()),
            parts: begun.map_or(0, |begun| begun.parts.count()),
            stored_parts: begun.map_or(0, |begun| begun.stored.count()),
            stored_bytes: begun.map_or(0, |begun| begun.stored_bytes),
            begun: open.intended,
        }
    }
}

/// Returns the sources and destinations of the first transfers of a run, which the name of a
/// one-off copy does not show.
fn copies(run: &RunInfo) -> Vec<[&str; 2]> {
    let sides = run
        .transfers
        .iter()
        .filter_map(|transfer| run.fingerprint.sides(transfer));
    sides
        .take(SHOWN_COPIES)
        .map(|(from, to)| [from, to])
        .collect()
}

impl<'a> View<'a> {
    fn of(journal: String, glance: &'a Glance, now: Timestamp) -> Self {
        let state = &glance.state;
        let run = state.run.as_ref();
        Self {
            journal,
            job: run.map(|run| run.job.as_str()),
            run: run.map(|run| run.run.as_str()),
            life: glance.life,
            writer: glance.writer.as_ref(),
            last_sign_of_life_seconds: glance.silence.map(|silence| silence.as_secs()),
            began: state.began,
            last: state.last,
            resumed: state.resumed,
            transfers: run.map_or(0, |run| run.transfers.len() as u64),
            ended_transfers: state.ended_transfers.len() as u64,
            copies: run.map(copies).unwrap_or_default(),
            totals: &state.totals,
            pending_objects: state.pending_objects() as u64,
            open_uploads: state.uploads.values().map(UploadView::from).collect(),
            latest_failures: state.failures.iter().collect(),
            learned: state.learned.as_ref().map(|remembered| &remembered.learned),
            report: None,
            command: run.and_then(|run| run.command.as_deref()),
            next: None,
            now,
        }
    }

    fn ago(&self, time: Timestamp) -> String {
        let since: Duration = self.now.duration_since(time).try_into().unwrap_or_default();
        display_duration(since)
    }

    /// Returns the line for this journal in the list of journals.
    fn line(&self) -> String {
        let life = match self.life {
            Life::Running => "running",
            Life::Dead => "dead",
            Life::Stopped => "stopped",
            Life::Ended => "ended",
        };
        let (totals, count) = (self.totals, display_count);
        let last = self
            .last
            .map(|last| format!(", last event {} ago", self.ago(last)))
            .unwrap_or_default();
        let copies = match self.copies.as_slice() {
            [] => String::new(),
            [[from, to], ..] if self.transfers == 1 => format!(", {from} -> {to}"),
            [[from, to], ..] => {
                let others = display_counted(self.transfers - 1, "other transfer");
                format!(", {from} -> {to} and {others}")
            }
        };
        format!(
            "{}: {life}, {} done ({}), {} failed, {} pending{last}{copies}",
            self.journal,
            display_counted(totals.done_objects, "object"),
            ByteSize(totals.done_bytes),
            count(totals.failed_objects),
            count(self.pending_objects),
        )
    }

    /// Adds a line for each open upload.
    fn write_uploads(&self, text: &mut String) {
        for open in &self.open_uploads {
            let age = self.ago(open.begun);
            let Some(id) = open.upload_id else {
                let _ = writeln!(
                    text,
                    "  upload   {}  about to be created {age} ago",
                    printable(&open.destination)
                );
                continue;
            };
            let _ = writeln!(
                text,
                "  upload   {}  {} of {}, {} of {}, created {age} ago  {}",
                printable(&open.destination),
                display_count(open.stored_parts.into()),
                display_counted(open.parts.into(), "part"),
                ByteSize(open.stored_bytes),
                ByteSize(open.size),
                printable(id),
            );
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let count = display_count;
        let life = match self.life {
            Life::Running => "running",
            Life::Dead => "dead: run the same command again to continue",
            Life::Stopped => "stopped: run the same command again to continue",
            Life::Ended => "ended",
        };
        let _ = writeln!(
            text,
            "{} ({}): {life}",
            printable(self.job.unwrap_or("no run yet")),
            printable(&self.journal)
        );
        for [from, to] in &self.copies {
            let _ = writeln!(text, "  {} -> {}", printable(from), printable(to));
        }
        if let (Some(began), Some(last)) = (self.began, self.last) {
            let _ = write!(
                text,
                "  began {} ago, last event {} ago",
                self.ago(began),
                self.ago(last)
            );
            let _ = match self.resumed {
                0 => writeln!(text),
                1 => writeln!(text, ", resumed once"),
                times => writeln!(text, ", resumed {times} times"),
            };
        }
        if let Some(writer) = self.writer {
            let _ = write!(text, "  written by {}", printable(&writer.to_string()));
            let seconds = self.last_sign_of_life_seconds.map(Duration::from_secs);
            let _ = match seconds.filter(|_| matches!(self.life, Life::Running | Life::Dead)) {
                Some(silence) => writeln!(
                    text,
                    ", last sign of life {} ago",
                    display_duration(silence)
                ),
                None => writeln!(text),
            };
        }
        let totals = self.totals;
        let archived = match totals.archived_objects {
            0 => String::new(),
            objects => format!(", {} archived and left out", count(objects)),
        };
        let _ = writeln!(
            text,
            "  {} done ({}), {} unchanged{archived}, {} failed, {} pending; {} of {} over",
            display_counted(totals.done_objects, "object"),
            ByteSize(totals.done_bytes),
            count(totals.skipped_objects),
            count(totals.failed_objects),
            count(self.pending_objects),
            self.ended_transfers,
            display_counted(self.transfers, "transfer"),
        );
        self.write_uploads(&mut text);
        for lane in self
            .learned
            .iter()
            .flat_map(|learned| &learned.lanes)
            .take(SHOWN_LANES)
        {
            let _ = writeln!(
                text,
                "  accepted {}, at the last count",
                printable(&lane.to_string())
            );
        }
        for failed in &self.latest_failures {
            let shown = format!(
                "  failed   {}  {}: {}",
                failed.source, failed.kind, failed.message
            );
            let _ = writeln!(text, "{}", printable(&shown));
        }
        if let Some(report) = self.report {
            let _ = writeln!(text, "  {report}");
        }
        if let Some(next) = &self.next {
            let _ = writeln!(text, "  {}", printable(next));
        }
        text
    }
}

#[cfg(test)]
mod tests;
