//! The outputs of a run other than objects: its journal and its reports.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::location::{S3Uri, suggestion};

/// The location of the journal, from which an interrupted run resumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JournalPlace {
    /// In `.s3haul/` in the working directory, under the job's name.
    #[default]
    Default,
    /// The run keeps no journal.
    Disabled,
    /// In a directory.
    Directory(PathBuf),
    /// Below a prefix at the default endpoint.
    Prefix(S3Uri),
}

impl std::str::FromStr for JournalPlace {
    type Err = String;

    /// Reads `none`, `s3://bucket/prefix/`, or a directory.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("write a directory, s3://bucket/prefix/, or none".to_owned()),
            "none" => Ok(Self::Disabled),
            _ if suggestion(text).is_some() => {
                let suggestion = suggestion(text)
                    .map(|suggestion| suggestion.to_string())
                    .unwrap_or_default();
                Err(format!(
                    "`{text}` is neither a directory nor an S3 location: {suggestion}"
                ))
            }
            _ if !text.starts_with("s3://") => Ok(Self::Directory(text.into())),
            _ => {
                let uri: S3Uri = text.parse().map_err(|error| format!("{error}"))?;
                if !uri.key.is_prefix() {
                    return Err(format!(
                        "a journal is kept below a prefix; write {uri}/ with a slash at the end"
                    ));
                }
                Ok(Self::Prefix(uri))
            }
        }
    }
}

/// Decides what happens if a job differs from the unfinished run in its journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    /// The command fails and names the differences.
    #[default]
    Fail,
    /// s3haul starts a new run, which aborts the open uploads of the old run and skips equal
    /// objects.
    NewRun,
}

/// The locations of the report. A valid job has at most one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportPaths {
    /// A file with one line of JSON per object.
    pub json: Option<PathBuf>,
    /// A prefix at the default endpoint, below which each run writes the report as numbered
    /// objects.
    pub s3: Option<S3Uri>,
}

impl ReportPaths {
    /// Returns the location of the report, if there is one.
    #[must_use]
    pub fn place(&self) -> Option<ReportPlace> {
        let file = self.json.clone().map(ReportPlace::File);
        file.or_else(|| self.s3.clone().map(ReportPlace::Prefix))
    }

    /// Replaces the location.
    pub fn set(&mut self, place: ReportPlace) {
        *self = match place {
            ReportPlace::File(path) => Self {
                json: Some(path),
                s3: None,
            },
            ReportPlace::Prefix(uri) => Self {
                json: None,
                s3: Some(uri),
            },
        };
    }
}

/// The location of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportPlace {
    /// In a local file.
    File(PathBuf),
    /// Below a prefix at the default endpoint.
    Prefix(S3Uri),
}

impl std::str::FromStr for ReportPlace {
    type Err = String;

    /// Reads a path or `s3://bucket/prefix/`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the path is empty; name a file or s3://bucket/prefix/".to_owned());
        }
        if let Some(suggestion) = suggestion(text) {
            return Err(format!(
                "`{text}` is neither a file nor an S3 location: {suggestion}"
            ));
        }
        if !text.starts_with("s3://") {
            return Ok(Self::File(text.into()));
        }
        report_prefix(text).map(Self::Prefix)
    }
}

impl std::fmt::Display for ReportPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Prefix(uri) => uri.fmt(f),
        }
    }
}

/// Reads the prefix of a report.
fn report_prefix(text: &str) -> Result<S3Uri, String> {
    let uri: S3Uri = text.parse().map_err(|error| format!("{error}"))?;
    if uri.key.is_prefix() {
        Ok(uri)
    } else {
        Err(format!(
            "a report in S3 is kept below a prefix; write {uri}/ with a slash at the end"
        ))
    }
}
