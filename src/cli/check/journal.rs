//! Checks the journal that a run of the job would keep. Only reads.

use std::fs;
use std::path::Path;

use super::super::journal;
use super::super::{CliError, Output};
use super::look::{CheckFindings, CheckStatus};
use crate::connections::Connections;
use crate::journal::fingerprint::Fingerprint;
use crate::journal::{Intent, JournalError, Life, Location, look};
use crate::manifest::job::{Job, JournalPlace};

/// Reads the journal, and prints whether a run could keep it there.
pub(super) async fn check(
    job: &Job,
    connections: &mut Connections,
    output: Output,
) -> Result<CheckFindings, CliError> {
    let mut findings = CheckFindings::default();
    let Some(location) = journal::location(job, connections).await? else {
        return Ok(findings);
    };
    let place = match &location {
        Location::Directory(path) => path.display().to_string(),
        Location::Bucket(bucket, prefix) => format!("s3://{}/{prefix}", bucket.name()),
    };
    match look(location.clone()).await {
        Ok(Some(glance)) => {
            if let Some(writer) = glance.writer.filter(|_| glance.life == Life::Running) {
                findings.add(CheckStatus::Warning, format!("it is in use by {writer}"));
            }
            let fingerprint = Fingerprint::of(job);
            match journal::decide(&glance.state, &fingerprint, Intent::Resume, job.on_change) {
                Err(error) => findings.forbidden(error.to_string()),
                Ok((_, changes)) if !changes.is_empty() => findings.add(
                    CheckStatus::Warning,
                    format!(
                        "holds an unfinished run, and the job was changed: {}; the next run is a new one (`on_change: new-run`)",
                        changes.join("; ")
                    ),
                ),
                Ok(_) if glance.state.is_unfinished() => findings.add(
                    CheckStatus::Ok,
                    "holds an unfinished run, which the next run resumes",
                ),
                Ok(_) => {}
            }
        }
        Ok(None) => {}
        Err(JournalError::Store { failure, .. }) if failure.is_passing() => {
            return Err(failure.into());
        }
        Err(error) => findings.forbidden(error.to_string()),
    }
    match &location {
        Location::Directory(path) => match obstacle(path) {
            // The default journal is optional: the run works without it.
            Some(obstacle) if job.journal == JournalPlace::Default => {
                findings.add(
                    CheckStatus::Warning,
                    format!("the run keeps no journal: {obstacle}"),
                );
            }
            Some(obstacle) => findings.forbidden(obstacle),
            None => {}
        },
        Location::Bucket(bucket, _) if !bucket.capabilities().if_none_match.put => {
            let (place, endpoint) = (place.clone(), bucket.client().endpoint().to_owned());
            findings.forbidden(JournalError::Unconditional { place, endpoint }.to_string());
        }
        Location::Bucket(..) => findings.add(
            CheckStatus::NotChecked,
            format!("not checked: writing to {place}"),
        ),
    }
    findings.print("journal", &place, output)?;
    Ok(findings)
}

/// Returns the reason why a directory cannot be created or written to, if its metadata shows one.
fn obstacle(path: &Path) -> Option<String> {
    let mut parents = path.ancestors().map(|path| {
        if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        }
    });
    let (there, metadata) = parents.find_map(|path| Some((path, fs::metadata(path).ok()?)))?;
    let there = there.display();
    if !metadata.is_dir() {
        return Some(format!("{there} is not a directory"));
    }
    metadata
        .permissions()
        .readonly()
        .then(|| format!("{there} cannot be written to"))
}
