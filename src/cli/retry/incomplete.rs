//! Advice about reports that may lack objects, and about jobs whose manifest is not on this
//! machine.

use crate::cli::exit::NEXT_ERROR;
use crate::cli::report::FoundReport;
use crate::cli::{CliError, next, note};
use crate::manifest::ManifestError;
use crate::report::{Footer, ReportHeader};

/// Returns the command that copies the objects that a report does not name.
pub(super) fn again(found: &FoundReport, origin: &ReportHeader) -> String {
    match found {
        FoundReport::Shards(..) => {
            "start the job of the shards again under the name of this run".to_owned()
        }
        FoundReport::File(_) | FoundReport::Stored(_) => format!(
            "run `{}` again in {}",
            origin.command_line(),
            origin.directory.display()
        ),
    }
}

/// Returns the error for an incomplete report without failed objects.
pub(super) fn without_failures(footer: &Footer, found: &FoundReport, again: &str) -> CliError {
    let mut causes = footer.damaged_retries();
    if footer.is_stopped() {
        causes.push(stopped_before_its_end(found, again));
    }
    CliError::Usage(causes.join(NEXT_ERROR))
}

/// Describes a run that was stopped before any object failed.
fn stopped_before_its_end(found: &FoundReport, again: &str) -> String {
    match found {
        FoundReport::Shards(state, _) => format!(
            "no object of this report failed so far, but some shards have not ended: `{}` shows which. Wait for those that \
             are running; if no process is running, {again}",
            next::status(&state.uri.to_string())
        ),
        FoundReport::File(_) | FoundReport::Stored(_) => format!(
            "no object of this report failed, but its run was stopped before its end and may never have listed others; \
             its run is not over; {again}, which resumes it"
        ),
    }
}

/// Notes why an incomplete report may lack objects, or may list copied objects as failed.
pub(super) fn note_causes(footer: &Footer, again: &str) {
    for damaged in footer.damaged_retries() {
        note(&damaged);
    }
    if footer.is_stopped() {
        note(&format!(
            "the run of this report was stopped before its end: this retries the objects that it names as failed or \
             stopped. It may never have listed others: {again} for those"
        ));
    }
}

/// Returns the error for a report without failed objects whose run can be resumed.
pub(super) fn not_over(again: &str) -> CliError {
    CliError::Usage(format!(
        "no object of this report failed so far, but its run is not over; {again}, which resumes it"
    ))
}

/// Adds a remedy if the manifest that a report names is not on this machine.
pub(super) fn without_manifest(error: CliError) -> CliError {
    match error {
        CliError::Manifest(error @ ManifestError::Io { .. }) => CliError::Usage(format!(
            "{error}; the run of this report read it there: run this command in a pod of the same image, or where the \
             manifest is at that path"
        )),
        error => error,
    }
}
