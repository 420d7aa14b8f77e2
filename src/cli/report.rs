//! `report`: shows a report, merges the reports of all shards of a run, and opens the reports that
//! other commands read.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use futures::FutureExt as _;

use super::job_environment::records_at;
use super::shards::state_prefix;
use super::state::{FoundState, StatePrefix, runs_near};
use super::{
    CliError, EndpointFlags, Exit, Output, next, output_file, say, say_json, termination,
    unused_flags,
};
use crate::location::S3Uri;
use crate::manifest::job::ReportPlace;
use crate::printable::printable;
use crate::report::overview::{Overview, ReportState, UndoneCause, overview, overview_and};
use crate::report::read::{ReadError, ReceiptStatus};
use crate::report::{
    Footer, MergeScope, MergedFile, ReportBucket, ReportLines, ReportMerge, StoredReport,
};
use crate::size::{ByteSize, display_count as count, display_counted};

/// The maximum number of unfinished shards to name.
const SHOWN_SHARDS: usize = 10;

/// Shows the contents of a report.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  s3haul report show nightly.jsonl
  s3haul report show s3://ops/s3haul/nightly/        the latest run that reported there
  s3haul report show s3://ops/s3haul/nightly/report-20260301T020000Z-19ca71fb900a83f4/
  s3haul report show nightly.jsonl --first 100 --json
  s3haul report show s3://ops/s3haul/lake/run-1/     a run in shards
  s3haul report merge s3://ops/s3haul/lake/run-1/ --out lake.jsonl")]
pub(super) struct Reports {
    #[command(subcommand)]
    action: ReportAction,
    #[command(flatten)]
    endpoint: EndpointFlags,
}

#[derive(Debug, Subcommand)]
enum ReportAction {
    /// Print the totals of a report, and the objects that failed or are pending, by cause.
    Show {
        /// Report: a file, s3://bucket/prefix/ for the latest run that reported there, the
        /// directory of one run below it, or the state prefix of a run in shards.
        #[arg(value_name = "REPORT")]
        report: ReportPlace,
        /// Number of objects to name for each cause.
        #[arg(long, value_name = "NUMBER", default_value_t = 10)]
        first: usize,
    },
    /// Combine the reports of all shards of a run into one, with one receipt per object, and print
    /// its totals. Exits with 0 only if all shards have ended and nothing failed.
    Merge {
        /// State prefix of the run.
        #[arg(value_name = "STATE", value_parser = state_prefix)]
        state: S3Uri,
        /// Write the report to a file. `retry`, `verify --report`, and `report show` read it.
        #[arg(long, value_name = "FILE", value_parser = output_file)]
        out: Option<PathBuf>,
        /// Number of objects to name for each cause.
        #[arg(long, value_name = "NUMBER", default_value_t = 10)]
        first: usize,
    },
}

impl Reports {
    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        let (report, first) = match self.action {
            ReportAction::Show { report, first } => (report, first),
            ReportAction::Merge { state, out, first } => {
                let found = FoundState::at(&state, &self.endpoint).boxed().await?;
                return merge(found, &state, out, first, output).boxed().await;
            }
        };
        let found = FoundReport::open(&report, &self.endpoint).await?;
        let lines = found.lines(MergeScope::Undone)?;
        let overview = overview(lines, first)
            .boxed()
            .await
            .map_err(from_read_error)?;
        if output.json {
            say_json(&overview)
        } else {
            say(text(&overview, &report).trim_end())
        }
    }
}

/// Merges the reports of a run in shards.
async fn merge(
    found: Option<FoundState>,
    uri: &S3Uri,
    out: Option<PathBuf>,
    first: usize,
    output: Output,
) -> Result<Exit, CliError> {
    let mut state = planned(found, uri)?.ok_or_else(|| {
        let message = format!(
            "there is no run in shards at {uri}: it has no plan.json; name the prefix that --state of its command names"
        );
        CliError::Usage(message)
    })?;
    let merge = state.merge().boxed().await?;
    let mut file = match &out {
        Some(path) => Some(MergedFile::create(path, merge.origin())?),
        None => None,
    };
    let lines = merge.lines(MergeScope::All);
    let write = |line: &str| {
        if let Some(file) = &mut file {
            file.line(line);
        }
    };
    let mut overview = overview_and(lines, first, write)
        .await
        .map_err(from_read_error)?;
    if let Some(file) = file {
        file.finish()?;
    }
    overview.report = uri.to_string();
    let place = ReportPlace::Prefix(uri.clone());
    if output.json {
        say_json(&overview)?;
    } else {
        let mut text = text(&overview, &place);
        if let Some(path) = &out {
            let path = path.display().to_string();
            let _ = writeln!(text, "  written to {}", printable(&path));
            if overview.state == ReportState::Complete && overview.not_done == 0 {
                let command = next::verify_report(&path);
                let _ = writeln!(
                    text,
                    "  to compare both sides again: {}",
                    printable(&command)
                );
            }
        }
        say(text.trim_end())?;
    }
    Ok(end(&overview))
}

/// Returns the exit code of a merge.
fn end(overview: &Overview) -> Exit {
    let exit = overview.footer.as_ref().map(|footer| footer.exit);
    match (overview.state, exit) {
        (ReportState::Complete, Some(0)) => return Exit::Done,
        (ReportState::Complete, Some(5)) => {
            termination::set_reason("objects are being restored; run the job again later");
            return Exit::Waiting;
        }
        (ReportState::Complete, _) => {}
        _ => {
            termination::set_reason(&state(overview));
            return Exit::Interrupted;
        }
    }
    let failed = display_counted(overview.not_done, "object");
    termination::set_reason(&format!("{failed} of all shards are not copied"));
    Exit::Failures
}

/// Returns the run if its shards are planned. Refuses a run that is still being planned.
fn planned(found: Option<FoundState>, uri: &S3Uri) -> Result<Option<Box<StatePrefix>>, CliError> {
    match found {
        None => Ok(None),
        Some(FoundState::Planned(state)) => Ok(Some(state)),
        Some(FoundState::Planning(lease)) => Err(CliError::Usage(format!(
            "the run in shards at {uri} is still being planned by {}, and has no report yet",
            lease.by.host
        ))),
    }
}

/// A report that a command reads.
#[derive(Debug)]
pub(super) enum FoundReport {
    File(PathBuf),
    Stored(Box<StoredReport>),
    /// The reports of all shards of a run.
    Shards(Box<StatePrefix>, Box<ReportMerge>),
}

impl FoundReport {
    /// Opens the report at a place. The flags determine how to reach a report in S3.
    pub(super) async fn open(
        place: &ReportPlace,
        endpoint: &EndpointFlags,
    ) -> Result<Self, CliError> {
        match place {
            ReportPlace::File(path) => {
                let why = "is a file of this machine";
                let subject = path.display().to_string();
                unused_flags::refuse(&subject, why, &endpoint.flags(), "leave that out")?;
                Ok(Self::File(std::path::absolute(path)?))
            }
            ReportPlace::Prefix(uri) => {
                let state = FoundState::at(uri, endpoint).boxed().await?;
                if let Some(mut state) = planned(state, uri)? {
                    let merge = state.merge().boxed().await?;
                    return Ok(Self::Shards(state, Box::new(merge)));
                }
                let stored = reports_at(uri, endpoint).await?.latest().boxed().await?;
                if let Some(stored) = stored {
                    return Ok(Self::Stored(Box::new(stored)));
                }
                let near = runs_near(uri, endpoint).boxed().await?;
                Err(CliError::Usage(format!(
                    "there is no report below {uri}; name the prefix that `report.s3` or --report names, or the state \
                     prefix of a run in shards{near}"
                )))
            }
        }
    }

    /// Reads the report from the start. For a run in shards, `scope` selects the shards.
    pub(super) fn lines(&self, scope: MergeScope) -> Result<ReportLines, CliError> {
        match self {
            Self::Shards(_, merge) => Ok(merge.lines(scope)),
            Self::File(path) => ReportLines::of_file(path).map_err(from_read_error),
            Self::Stored(stored) => Ok(ReportLines::of_pieces(stored)),
        }
    }
}

/// Returns the reports below a prefix.
pub(super) async fn reports_at(
    uri: &S3Uri,
    endpoint: &EndpointFlags,
) -> Result<ReportBucket, CliError> {
    let bucket = records_at(uri, endpoint).await?;
    Ok(ReportBucket::new(bucket, uri.key.clone()))
}

/// Converts the failure to read a report into the error of a command.
pub(super) fn from_read_error(error: ReadError) -> CliError {
    match error {
        ReadError::Store(error) => error.into(),
        error => CliError::Usage(error.to_string()),
    }
}

/// Returns the report as text.
fn text(overview: &Overview, place: &ReportPlace) -> String {
    let mut text = String::new();
    let origin = &overview.origin;
    let job = if origin.job.is_empty() {
        "report"
    } else {
        &origin.job
    };
    let _ = writeln!(
        text,
        "{} ({}): {}",
        printable(job),
        printable(&overview.report),
        printable(&state(overview))
    );
    let sandbox = if origin.is_of_sandbox() {
        ", in a sandbox"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "  {} in {} on {}{sandbox}",
        printable(&origin.command_line()),
        printable(&origin.directory.display().to_string()),
        printable(&origin.host)
    );
    if let Some(began) = origin.time {
        let end = match &overview.footer {
            Some(footer) => times(footer),
            None => String::new(),
        };
        let _ = writeln!(text, "  began {began:.0}{end}");
    }
    totals(&mut text, overview);
    proofs(&mut text, overview);
    incomplete(&mut text, overview);
    for cause in &overview.causes {
        tell_cause(&mut text, cause);
    }
    remedies(&mut text, overview, place);
    text
}

/// Describes when the run ended, or when the last process of a run in shards ended.
fn times(footer: &Footer) -> String {
    let Footer { time, sessions, .. } = footer;
    let counted = display_counted(u64::from(*sessions), "session");
    match (footer.complete, &footer.shards, sessions) {
        (true, None, _) => format!(", ended {time:.0} after {counted}"),
        (false, None, _) => format!(", stopped {time:.0} after {counted}"),
        (true, Some(_), _) => format!(", ended {time:.0} after {counted} of its shards"),
        (false, Some(_), 0) => ", no process of it has ended yet".to_owned(),
        (false, Some(_), _) => {
            format!(", the last of {counted} of its shards ended {time:.0}")
        }
    }
}

fn state(overview: &Overview) -> String {
    match (overview.state, &overview.damage, &overview.footer) {
        (ReportState::Damaged, Some(damage), _) => format!("damaged: {damage}"),
        (ReportState::Unfinished, ..) => {
            "incomplete: it has no footer, because its run is in progress or was killed".to_owned()
        }
        (
            ReportState::Stopped,
            _,
            Some(Footer {
                shards: Some(shards),
                ..
            }),
        ) if shards.incomplete > 0 => {
            let of = display_counted(shards.total.into(), "shard");
            format!(
                "incomplete: {} of {of} not ended",
                count(shards.incomplete.into())
            )
        }
        (
            ReportState::Stopped,
            _,
            Some(Footer {
                shards: Some(shards),
                ..
            }),
        ) if !shards.damaged_retries.is_empty() => {
            "incomplete: the report of a retry is damaged".to_owned()
        }
        (ReportState::Stopped, ..) => {
            "incomplete: its run was stopped before its end, and may not have listed all objects"
                .to_owned()
        }
        (_, _, Some(footer)) => {
            let shards = footer.shards.as_ref();
            let of = shards
                .map(|shards| format!(" of all {}", display_counted(shards.total.into(), "shard")));
            format!(
                "complete{}, exit code {}",
                of.unwrap_or_default(),
                footer.exit
            )
        }
        _ => "complete".to_owned(),
    }
}

/// Adds the totals. The footer, if there is one, counts each object once.
fn totals(text: &mut String, overview: &Overview) {
    let receipts = &overview.receipts;
    let (done, bytes, skipped, losses) = match &overview.footer {
        Some(footer) => (
            footer.done_objects,
            footer.done_bytes,
            footer.skipped_objects,
            footer.objects_with_losses,
        ),
        None => (
            receipts.done,
            receipts.done_bytes,
            receipts.skipped,
            receipts.with_losses,
        ),
    };
    let undone = |status: ReceiptStatus| {
        let causes = overview.causes.iter();
        let objects = causes.filter(|cause| cause.status == status.name());
        objects.map(|cause| cause.objects).sum::<u64>()
    };
    let so_far = if overview.footer.is_some() {
        ""
    } else {
        " so far"
    };
    let _ = write!(
        text,
        "  {} copied ({}){so_far}, {} unchanged, {} pending",
        display_counted(done, "object"),
        ByteSize(bytes),
        count(skipped),
        count(undone(ReceiptStatus::Stopped))
    );
    for (number, what) in [
        (undone(ReceiptStatus::Failed), "failed"),
        (undone(ReceiptStatus::Restoring), "being restored"),
        (losses, "with something not kept"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {} {what}", count(number));
        }
    }
    text.push('\n');
}

/// Adds the proofs of the copies, if all their receipts were read.
fn proofs(text: &mut String, overview: &Overview) {
    let proven: u64 = overview.proofs.values().sum();
    let done = overview.footer.as_ref().map(|footer| footer.done_objects);
    if proven == 0 || done.is_some_and(|done| done != proven) {
        return;
    }
    let proofs = overview.proofs.iter();
    let proofs: Vec<_> = proofs
        .map(|(proof, objects)| format!("{proof} {}", count(*objects)))
        .collect();
    let _ = writeln!(text, "  proven by: {}", printable(&proofs.join(", ")));
}

/// Adds the shards that have not ended, and the retries whose reports are damaged.
fn incomplete(text: &mut String, overview: &Overview) {
    let shards = overview
        .footer
        .as_ref()
        .and_then(|footer| footer.shards.as_ref());
    let Some(shards) = shards else { return };
    for (shard, why) in shards.reasons.iter().take(SHOWN_SHARDS) {
        let _ = writeln!(text, "  shard {shard}: {}", printable(why));
    }
    let shown = shards.reasons.len().min(SHOWN_SHARDS) as u64;
    let more = u64::from(shards.incomplete).saturating_sub(shown);
    if more > 0 {
        let _ = writeln!(text, "  and {}", display_counted(more, "more shard"));
    }
    for damaged in overview.footer.iter().flat_map(Footer::damaged_retries) {
        let _ = writeln!(text, "  {}", printable(&damaged));
    }
}

fn tell_cause(text: &mut String, cause: &UndoneCause) {
    let mut line = format!("  {} x {}", count(cause.objects), cause.status);
    let what = [&cause.operation, &cause.code];
    for word in what.into_iter().filter(|word| !word.is_empty()) {
        let _ = write!(line, " {word}");
    }
    if !cause.message.is_empty() {
        let _ = write!(line, ": {}", cause.message.trim_end_matches('.'));
    }
    if !cause.remedy.is_empty() {
        let _ = write!(line, "; {}", cause.remedy);
    }
    let _ = writeln!(text, "{}", printable(&line));
    for object in &cause.first {
        let _ = writeln!(text, "      {}", printable(object));
    }
    let more = cause.objects - cause.first.len() as u64;
    if more > 0 {
        let _ = writeln!(text, "      and {} more", count(more));
    }
}

/// Adds the next steps.
fn remedies(text: &mut String, overview: &Overview, place: &ReportPlace) {
    let origin = &overview.origin;
    let shards = overview
        .footer
        .as_ref()
        .and_then(|footer| footer.shards.as_ref());
    let state = shards.and_then(|_| origin.state_prefix());
    let is_stopped = overview.footer.as_ref().is_some_and(Footer::is_stopped);
    match (overview.state, state) {
        // The line of each damaged report names the remedy.
        (ReportState::Stopped, _) if !is_stopped => return,
        (ReportState::Stopped, Some(state)) => {
            let line = format!("  to see how far they are: {}", next::status(state));
            let _ = writeln!(text, "{}", printable(&line));
            return;
        }
        (ReportState::Complete, Some(state)) if overview.not_done > 0 => {
            let line = format!("  to copy what failed: {}", next::retry(state));
            let _ = writeln!(text, "{}", printable(&line));
            return;
        }
        _ => {}
    }
    match overview.state {
        ReportState::Unfinished | ReportState::Stopped | ReportState::Damaged => {
            let line = format!(
                "  to complete it: run `{}` again in {}",
                origin.command_line(),
                origin.directory.display()
            );
            let _ = writeln!(text, "{}", printable(&line));
        }
        ReportState::Complete if overview.not_done > 0 => {
            let line = format!("  to copy what failed: {}", next::retry(&place.to_string()));
            let _ = writeln!(text, "{}", printable(&line));
        }
        ReportState::Complete => {}
    }
}
