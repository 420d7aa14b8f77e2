//! `verify --report`: compares the objects in the receipts of a run again.

use futures::StreamExt;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::VerifyArgs;
use super::tell::VerifyConsole;
use crate::cli::job_environment::JobEnvironment;
use crate::cli::report::{FoundReport, from_read_error};
use crate::cli::retry::{describe_move, job_of};
use crate::cli::{CliError, note};
use crate::connections::Connections;
use crate::location::S3Uri;
use crate::manifest::job::{ReportPlace, Transfer, Versions};
use crate::pace::gate::spawn_and_join;
use crate::report::MergeScope;
use crate::report::read::{Report, read};
use crate::s3::Failure;
use crate::verify::{self, Counts, VersionLocation};

/// The number of report lines that are compared at the same time.
const MAX_CONCURRENT: usize = 256;

impl VerifyArgs {
    /// Compares the objects in the receipts of a run. A line that is not a receipt is an error.
    pub(super) async fn receipts(
        &self,
        place: &ReportPlace,
        console: &mut VerifyConsole,
    ) -> Result<Counts, CliError> {
        self.refuse_pair_flags(&place.to_string())?;
        let usage = |what: String| CliError::Usage(format!("the report {place}: {what}"));
        let found = FoundReport::open(place, &self.endpoint).await?;
        // Reads the whole report before it compares anything, because a truncated report proves
        // nothing.
        let report = read(found.lines(MergeScope::All)?)
            .await
            .map_err(from_read_error)?;
        let mut lines = found.lines(MergeScope::All)?;
        lines.next().await.map_err(from_read_error)?;
        // Parses the command of the report again, for its endpoints.
        let job = job_of(&report.origin)?;
        for change in report.origin.changes(&job) {
            note(&format!("note: {change}"));
        }
        let mut connections = JobEnvironment::ambient().connect(&job, &CancellationToken::new());
        let mut counts = Counts {
            looked_for_extra: false,
            why_not_extra: Some(
                "a report names only its own objects; verify the job to find others".to_owned(),
            ),
            ..Counts::default()
        };
        let mut running = futures::stream::FuturesUnordered::new();
        let deep = self.deep();
        let footers = usize::from(report.footer.is_some());
        let (mut number, mut following) = (1_usize, lines.next().await.map_err(from_read_error)?);
        while let Some(line) = following {
            number += 1;
            following = lines.next().await.map_err(from_read_error)?;
            if footers > 0 && following.is_none() {
                break;
            }
            // Skips the receipts that a later one replaces, so that each object is compared once.
            if report.superseded.contains(&number) {
                continue;
            }
            let receipt: ReceiptFields = serde_json::from_str(&line)
                .map_err(|error| usage(format!("line {number} is not a receipt: {error}")))?;
            let transfer = job
                .transfers
                .iter()
                .find(|transfer| transfer.name == receipt.transfer);
            let transfer = transfer.ok_or_else(|| {
                usage(format!(
                    "line {number} is about a transfer `{}` that the job no longer has",
                    receipt.transfer
                ))
            })?;
            if let Some(what) = describe_move(transfer, &receipt.source, &receipt.destination) {
                let remedy = "Restore the job, or compare the two places: s3haul verify SRC DST";
                return Err(usage(format!("line {number} {what}. {remedy}")));
            }
            // `report.failed` has these objects, each of them once.
            if matches!(receipt.status.as_str(), "failed" | "stopped") {
                continue;
            }
            match places(&mut connections, transfer, receipt)
                .await
                .map_err(|what| match what {
                    Unfit::Line(what) => usage(format!("line {number} {what}")),
                    Unfit::Bucket(failure) => failure.into(),
                })? {
                Some((source, destination)) => {
                    running.push(spawn_and_join(verify::objects(source, destination, deep)));
                }
                None => counts.excluded += 1,
            }
            while running.len() >= MAX_CONCURRENT
                && let Some(finding) = running.next().await
            {
                counts.add(&finding.verdict);
                console.tell(&finding);
            }
        }
        while let Some(finding) = running.next().await {
            counts.add(&finding.verdict);
            console.tell(&finding);
        }
        for object in &report.failed {
            counts.failed += 1;
            console.tell_undone(object);
        }
        if report.is_incomplete() {
            note_causes(&report);
            counts.failed = counts.failed.max(1);
        }
        Ok(counts)
    }
}

/// Notes why a report is incomplete.
fn note_causes(report: &Report) {
    let Some(footer) = &report.footer else { return };
    for damaged in footer.damaged_retries() {
        note(&format!("error: {damaged}"));
    }
    if footer.is_stopped() {
        note(&format!(
            "error: the run of this report was stopped before its end, so objects that it never listed may be missing: \
             run `{}` again in {}",
            report.origin.command_line(),
            report.origin.directory.display()
        ));
    }
}

/// The fields of a receipt that `verify` uses.
#[derive(Debug, Deserialize)]
struct ReceiptFields {
    transfer: String,
    status: String,
    reason: Option<String>,
    source: String,
    source_version: Option<String>,
    proof: Option<String>,
    destination: String,
    destination_version: Option<String>,
}

/// The reason why a receipt cannot be compared.
enum Unfit {
    /// The line is invalid, for this reason.
    Line(String),
    /// A bucket cannot be used.
    Bucket(Failure),
}

/// Returns the two objects of a receipt, or `None` for files and for objects that the run neither
/// copied nor found equal.
async fn places(
    connections: &mut Connections,
    transfer: &Transfer,
    line: ReceiptFields,
) -> Result<Option<(VersionLocation, VersionLocation)>, Unfit> {
    // An object that was skipped because its key existed need not be equal.
    let is_equal = matches!(
        (line.status.as_str(), line.reason.as_deref()),
        ("done", _) | ("skipped", Some("equal"))
    );
    if !is_equal || transfer.from.s3().is_none() {
        return Ok(None);
    }
    let location = |text: &str| {
        let parsed = text.parse::<S3Uri>();
        parsed
            .map_err(|error| Unfit::Line(format!("names {text}, which is not a location: {error}")))
    };
    let (source, destination) = (location(&line.source)?, location(&line.destination)?);
    // A delete marker has nothing to compare, and the receipt of a version that already existed
    // does not name that version.
    let is_history = transfer.versions == Versions::All;
    if line.proof.as_deref() == Some("delete-marker")
        || (is_history && line.destination_version.is_none())
    {
        return Ok(None);
    }
    let (Some(from), to) = connections
        .of_transfer(transfer)
        .await
        .map_err(Unfit::Bucket)?
    else {
        return Ok(None);
    };
    let source = VersionLocation {
        bucket: from,
        key: source.key,
        version: line.source_version,
    };
    let destination = VersionLocation {
        bucket: to,
        key: destination.key,
        version: line.destination_version,
    };
    Ok(Some((source, destination)))
}
