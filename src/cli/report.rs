//! `report`: what a report says, and how commands find the report that they read.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use futures::FutureExt as _;

use super::place::bucket_at;
use super::{CliError, EndpointFlags, Exit, Output, idle, next, say, say_json};
use crate::location::S3Uri;
use crate::manifest::job::{Access, ReportPlace};
use crate::printable::printable;
use crate::report::overview::{Overview, ReportState, UndoneCause, overview};
use crate::report::read::ReadError;
use crate::report::{Footer, ReportBucket, ReportLines, StoredReport};
use crate::size::{ByteSize, display_count, display_counted};

/// Shows what a report says.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  s3haul report show nightly.jsonl
  s3haul report show s3://ops/s3haul/nightly/        the latest run that reported there
  s3haul report show s3://ops/s3haul/nightly/report-20260301T020000Z-19ca71fb900a83f4/
  s3haul report show nightly.jsonl --first 100 --json")]
pub(super) struct Reports {
    #[command(subcommand)]
    action: ReportAction,
    #[command(flatten)]
    endpoint: EndpointFlags,
}

#[derive(Debug, Subcommand)]
enum ReportAction {
    /// Print the totals of a report, and what is not done, by cause.
    Show {
        /// Report: a file, s3://bucket/prefix/ for the latest run that reported there, or the
        /// directory of one run below it.
        #[arg(value_name = "REPORT")]
        report: ReportPlace,
        /// Name this many objects for each cause.
        #[arg(long, value_name = "NUMBER", default_value_t = 10)]
        first: usize,
    },
}

impl Reports {
    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        let ReportAction::Show { report, first } = self.action;
        let found = FoundReport::open(&report, &self.endpoint).await?;
        let overview = overview(found.lines()?, first).await.map_err(unread)?;
        if output.json {
            say_json(&overview)
        } else {
            say(text(&overview, &report).trim_end())
        }
    }
}

/// A report that a command reads.
#[derive(Debug)]
pub(super) enum FoundReport {
    File(PathBuf),
    Stored(Box<StoredReport>),
}

impl FoundReport {
    /// Finds the report at a place. The flags say how to reach one in S3.
    pub(super) async fn open(
        place: &ReportPlace,
        endpoint: &EndpointFlags,
    ) -> Result<Self, CliError> {
        match place {
            ReportPlace::File(path) => {
                let why = "is a file of this machine";
                let subject = path.display().to_string();
                idle::refuse(&subject, why, &endpoint.flags(), "leave that out")?;
                Ok(Self::File(std::path::absolute(path)?))
            }
            ReportPlace::Prefix(uri) => {
                let stored = reports_at(uri, endpoint).await?.latest().boxed().await?;
                stored.map(|stored| Self::Stored(Box::new(stored))).ok_or_else(|| {
                    CliError::Usage(format!(
                        "there is no report below {uri}; name the prefix that `report.s3` or --report names"
                    ))
                })
            }
        }
    }

    /// Reads it from its start.
    pub(super) fn lines(&self) -> Result<ReportLines, CliError> {
        match self {
            Self::File(path) => ReportLines::of_file(path).map_err(unread),
            Self::Stored(stored) => Ok(ReportLines::of_pieces(stored)),
        }
    }
}

/// Returns the reports below a prefix.
pub(super) async fn reports_at(
    uri: &S3Uri,
    endpoint: &EndpointFlags,
) -> Result<ReportBucket, CliError> {
    let bucket = bucket_at(uri, endpoint, Access::default()).await?;
    Ok(ReportBucket::new(bucket, uri.key.clone()))
}

/// Says why a report cannot be used.
pub(super) fn unread(error: ReadError) -> CliError {
    match error {
        ReadError::Store(error) => error.into(),
        error => CliError::Usage(error.to_string()),
    }
}

/// Returns what is shown of a report.
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
            Some(Footer { time, sessions, .. }) => {
                let sessions = display_counted(u64::from(*sessions), "session");
                format!(", ended {time:.0} after {sessions}")
            }
            None => String::new(),
        };
        let _ = writeln!(text, "  began {began:.0}{end}");
    }
    totals(&mut text, overview);
    for cause in &overview.causes {
        tell_cause(&mut text, cause);
    }
    remedies(&mut text, overview, place);
    text
}

fn state(overview: &Overview) -> String {
    match (overview.state, &overview.damage, &overview.footer) {
        (ReportState::Damaged, Some(damage), _) => format!("damaged: {damage}"),
        (ReportState::Unfinished, ..) => {
            "incomplete: it has no footer, because its run is at work or was killed".to_owned()
        }
        (ReportState::Stopped, ..) => {
            "incomplete: its run was stopped before its end, and may not have listed all objects"
                .to_owned()
        }
        (_, _, Some(footer)) => format!("complete, exit code {}", footer.exit),
        _ => "complete".to_owned(),
    }
}

/// Adds the totals. Those of the footer count each object once.
fn totals(text: &mut String, overview: &Overview) {
    let (count, receipts) = (display_count, &overview.receipts);
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
        count(overview.not_done)
    );
    if losses > 0 {
        let _ = write!(text, ", {} with something not kept", count(losses));
    }
    text.push('\n');
}

fn tell_cause(text: &mut String, cause: &UndoneCause) {
    let mut line = format!("  {} x {}", display_count(cause.objects), cause.status);
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
        let _ = writeln!(text, "      and {} more", display_count(more));
    }
}

/// Adds what can be done.
fn remedies(text: &mut String, overview: &Overview, place: &ReportPlace) {
    let origin = &overview.origin;
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
