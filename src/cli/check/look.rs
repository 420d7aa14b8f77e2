//! Checks both sides of a transfer with a few read-only requests.

use std::fs;

use serde::Serialize;

use super::super::{CliError, Output, say_json, say_line};
use crate::bucket::Bucket;
use crate::connections::Connections;
use crate::listing::reach::Reach;
use crate::location::{LocalPath, ObjectKey, S3Uri};
use crate::manifest::job::{Job, Selection, Source, Transfer, Versions};
use crate::manifest::may_read;
use crate::plan::empty::EmptySelection;
use crate::planner::Sides;
use crate::s3::{Failure, FailureKind};

/// The maximum number of `include` prefixes to list until one has an object.
const MAX_PREFIXES: usize = 16;

/// The status of a transfer or of one finding, ordered by severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CheckStatus {
    /// No problem was found.
    #[default]
    Ok,
    /// One aspect was not checked.
    NotChecked,
    /// The run would do less than the author of the job may expect.
    Warning,
    /// The run would fail.
    Failed,
}

impl CheckStatus {
    /// Returns the word that begins a line.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Failed => "FAIL",
            Self::Warning => "warning",
            Self::Ok | Self::NotChecked => "ok",
        }
    }
}

/// A sentence about a transfer.
#[derive(Debug, Serialize)]
pub(super) struct CheckFinding {
    pub(super) status: CheckStatus,
    pub(super) text: String,
    /// True if S3 would refuse the run access.
    #[serde(skip)]
    pub(super) is_access: bool,
}

/// The findings about a transfer.
#[derive(Debug, Default)]
pub(super) struct CheckFindings(pub(super) Vec<CheckFinding>);

impl CheckFindings {
    pub(super) fn add(&mut self, status: CheckStatus, text: impl Into<String>) {
        self.0.push(CheckFinding {
            status,
            text: text.into(),
            is_access: false,
        });
    }

    /// Adds the finding that the source has no objects.
    fn add_empty(&mut self, empty: EmptySelection) {
        let status = if empty.fails {
            CheckStatus::Failed
        } else {
            CheckStatus::Warning
        };
        self.add(status, empty.reason);
    }

    pub(super) fn forbidden(&mut self, text: String) {
        self.0.push(CheckFinding {
            status: CheckStatus::Failed,
            text,
            is_access: true,
        });
    }

    /// Prints the findings about a `journal`, `report`, or `state` at this place.
    pub(super) fn print(&self, kind: &str, place: &str, output: Output) -> Result<(), CliError> {
        if output.json {
            let line = serde_json::json!({
                kind: place, "status": self.status(), "findings": self.0,
            });
            say_json(&line)?;
            return Ok(());
        }
        say_line(&format!("{}  {kind}: {place}", self.status().word()))?;
        for finding in &self.0 {
            say_line(&format!("    {}", finding.text))?;
        }
        Ok(())
    }

    /// Returns the first finding that would make the run fail, if there is one.
    pub(super) fn failure(&self) -> Option<&str> {
        let failed = |finding: &&CheckFinding| finding.status == CheckStatus::Failed;
        self.0.iter().find(failed).map(|finding| &*finding.text)
    }

    /// Returns the status of the transfer.
    pub(super) fn status(&self) -> CheckStatus {
        let worst = self
            .0
            .iter()
            .map(|finding| finding.status)
            .max()
            .unwrap_or_default();
        if worst == CheckStatus::NotChecked {
            CheckStatus::Ok
        } else {
            worst
        }
    }

    /// Returns true if S3 would refuse the run access.
    pub(super) fn is_forbidden(&self) -> bool {
        self.0.iter().any(|finding| finding.is_access)
    }
}

/// Checks a transfer of the job. `probes` is true if a later probe tests writing to the
/// destination.
pub(super) async fn look(
    job: &Job,
    number: usize,
    sides: &Sides,
    connections: &mut Connections,
    probes: bool,
) -> Result<CheckFindings, CliError> {
    let transfer = &*sides.transfer;
    let writer = job.transfers[..number]
        .iter()
        .find(|earlier| may_read(job, transfer, earlier));
    let mut findings = CheckFindings::default();
    let first = match (&transfer.from, &sides.source) {
        (Source::Files { path, .. }, _) => {
            look_at_files(path, transfer, &mut findings);
            None
        }
        (
            Source::Object {
                location, version, ..
            },
            Some(_),
        ) => Some((location.key.clone(), version.as_deref()))
            .filter(|_| transfer.versions == Versions::Current),
        (Source::Prefix { location, .. }, Some(source))
            if transfer.versions == Versions::Current =>
        {
            let key = list_source(location, source, transfer, writer, &mut findings).await?;
            key.map(|key| (key, None))
        }
        _ => None,
    };
    if transfer.versions != Versions::Current {
        findings.add(
            CheckStatus::NotChecked,
            "not checked: listing and reading the versions of the source",
        );
    }
    if let (Some((key, version)), Some(source)) = (first, &sides.source) {
        let signer = connections.as_copies_read(transfer, source).await?;
        head_source(&signer, &key, version, writer.is_some(), &mut findings).await?;
    }
    if sides.lists_destination() && sides.transfer.versions != Versions::All {
        list_destination(sides, &mut findings).await?;
    }
    let place = &transfer.to.location;
    if !probes {
        findings.add(
            CheckStatus::NotChecked,
            format!("not checked: writing to {place}; --probe tries it"),
        );
    }
    Ok(findings)
}

/// Lists the source until one key is found, and returns that key.
async fn list_source(
    location: &S3Uri,
    source: &Bucket,
    transfer: &Transfer,
    writer: Option<&Transfer>,
    findings: &mut CheckFindings,
) -> Result<Option<ObjectKey>, CliError> {
    if transfer.chosen.is_some() {
        return Ok(None);
    }
    let reach = Reach::of_source(&transfer.select, &location.key);
    let reach = if source.capabilities().directory {
        reach.in_whole_directories()
    } else {
        reach
    };
    let prefixes = reach.prefixes();
    for prefix in prefixes.iter().take(MAX_PREFIXES) {
        let found = match first_of(source, prefix, &location.key).await {
            Ok(found) => found,
            Err(failure) if *failure.kind() == FailureKind::Denied => {
                findings.forbidden(format!("may not list {location}: {}", words(&failure)));
                return Ok(None);
            }
            Err(failure) => return Err(failure.into()),
        };
        let Some(key) = found else { continue };
        if let Some(text) = unjudged(location, &key, &transfer.select) {
            findings.add(CheckStatus::NotChecked, text);
        }
        return Ok(Some(key));
    }
    if let Some(writer) = writer {
        let text = format!(
            "not checked: the objects below {location}, which `{}` writes first",
            writer.name
        );
        findings.add(CheckStatus::NotChecked, text);
    } else if prefixes.len() > MAX_PREFIXES {
        let text = format!(
            "no key below {location} begins like the first {MAX_PREFIXES} of {} patterns; not checked: the others; `s3haul \
             plan` lists them",
            prefixes.len()
        );
        findings.add(CheckStatus::NotChecked, text);
    } else if let Some(empty) = EmptySelection::of(transfer, 0) {
        findings.add_empty(empty);
    }
    Ok(None)
}

/// Returns the first key below a prefix. Skips the key of the source prefix itself, because no
/// transfer copies it.
async fn first_of(
    source: &Bucket,
    prefix: &ObjectKey,
    root: &ObjectKey,
) -> Result<Option<ObjectKey>, Failure> {
    let mut found = source.first(prefix.as_str(), None).await?;
    if found
        .as_ref()
        .is_some_and(|object| *object.key == *root.as_str())
    {
        found = source.first(prefix.as_str(), Some(root.as_str())).await?;
    }
    Ok(found.and_then(|object| ObjectKey::new(&object.key).ok()))
}

/// Returns a note if one listed key is not enough to tell whether the filters match anything.
fn unjudged(location: &S3Uri, key: &ObjectKey, select: &Selection) -> Option<String> {
    let Selection {
        include, exclude, ..
    } = select;
    let patterns = Selection {
        include: include.clone(),
        exclude: exclude.clone(),
        ..Selection::default()
    };
    let relative = key
        .as_str()
        .strip_prefix(location.key.as_str())
        .unwrap_or(key.as_str());
    if patterns == *select && !select.rules_out(relative) {
        return None;
    }
    Some(format!(
        "not checked: whether the filters match an object below {location}; `{key}` was the only key listed, and `s3haul \
         plan` lists all"
    ))
}

/// Sends a HEAD for the first object, signed as a copy would be.
async fn head_source(
    signer: &Bucket,
    key: &ObjectKey,
    version: Option<&str>,
    is_written_first: bool,
    findings: &mut CheckFindings,
) -> Result<(), CliError> {
    let place = format!("s3://{}/{key}", signer.name());
    let Err(failure) = signer.head(key, version).await else {
        return Ok(());
    };
    match failure.kind() {
        // The run waits for a missing object, or reports it.
        FailureKind::NotFound => {}
        // Without s3:ListBucket, S3 returns 403 for an object that does not exist yet.
        FailureKind::Denied if is_written_first => findings.add(
            CheckStatus::NotChecked,
            format!("not checked: reading {place}, which an earlier transfer writes first"),
        ),
        FailureKind::Denied => findings.forbidden(format!(
            "may not read {place} with the credentials of `{}`, which sign the copies: {}",
            signer.client().endpoint(),
            words(&failure)
        )),
        _ if failure.is_passing() || failure.ends_run() => return Err(failure.into()),
        _ => findings.add(
            CheckStatus::Warning,
            format!("could not read {place}: {}", words(&failure)),
        ),
    }
    Ok(())
}

async fn list_destination(sides: &Sides, findings: &mut CheckFindings) -> Result<(), CliError> {
    let Sides {
        transfer,
        destination,
        ..
    } = sides;
    let location = &transfer.to.location;
    match destination.first(location.key.as_str(), None).await {
        Err(failure) if *failure.kind() == FailureKind::Denied => {
            let text = format!(
                "may not list {location}, which the run compares with: {}",
                words(&failure)
            );
            findings.forbidden(text);
            Ok(())
        }
        answer => Ok(answer.map(drop)?),
    }
}

/// Checks that a local source is not empty.
fn look_at_files(path: &LocalPath, transfer: &Transfer, findings: &mut CheckFindings) {
    let path = path.as_path();
    let is_empty = if path.is_dir() {
        fs::read_dir(path).map(|mut entries| entries.next().is_none())
    } else {
        // `presence` has already opened a regular file. Opening a pipe here would block.
        Ok(false)
    };
    match is_empty {
        Ok(true) => {
            if let Some(empty) = EmptySelection::of(transfer, 0) {
                findings.add_empty(empty);
            }
        }
        Ok(false) if transfer.select != Selection::default() => findings.add(
            CheckStatus::NotChecked,
            format!(
                "not checked: whether the filters match a file in {}; `s3haul plan` lists all",
                path.display()
            ),
        ),
        Ok(false) => {}
        Err(error) => findings.forbidden(format!("may not read {}: {error}", path.display())),
    }
}

/// Returns the server's error code and message.
fn words(failure: &Failure) -> String {
    let details = failure.details();
    let message = details.message.trim_end_matches('.');
    if message.is_empty() {
        details.code.clone()
    } else {
        format!("{}: {message}", details.code)
    }
}
