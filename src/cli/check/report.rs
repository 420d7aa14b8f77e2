//! Checks the S3 prefix to which a run of the job would report. Only reads.

use futures::FutureExt as _;

use super::super::journal::reports;
use super::super::{CliError, Output};
use super::look::{CheckFindings, CheckStatus};
use crate::connections::Connections;
use crate::manifest::job::Job;
use crate::report::ReportError;

/// Lists the reports below the prefix, and prints whether a run could write one there.
pub(super) async fn check(
    job: &Job,
    connections: &mut Connections,
    output: Output,
) -> Result<CheckFindings, CliError> {
    let mut findings = CheckFindings::default();
    let Some(reports) = reports(job, connections).await? else {
        return Ok(findings);
    };
    let place = reports.to_string();
    match reports.probe("").boxed().await {
        Ok(()) => findings.add(
            CheckStatus::NotChecked,
            format!("not checked: writing to {place}"),
        ),
        Err(ReportError::Store { failure, .. }) if failure.is_passing() => {
            return Err(failure.into());
        }
        Err(error) => findings.forbidden(error.to_string()),
    }
    findings.print("report", &place, output)?;
    Ok(findings)
}
