//! What a run leaves behind besides objects: its journal and its reports.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::location::{S3Uri, suggestion};

/// Where a run keeps its journal, by which it goes on after a stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JournalPlace {
    /// Below the working directory, under the job's name.
    #[default]
    Usual,
    /// There is none.
    Nowhere,
    /// In a directory.
    Directory(PathBuf),
    /// Below a prefix at the default endpoint.
    Prefix(S3Uri),
}

impl std::str::FromStr for JournalPlace {
    type Err = String;

    /// `none`, `s3://bucket/prefix/`, or a directory.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("write a directory, s3://bucket/prefix/, or none".to_owned()),
            "none" => Ok(Self::Nowhere),
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

/// The consequence of a job that differs from the unfinished run in its journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    /// The command is refused, and names the differences.
    #[default]
    Fail,
    /// A new run begins. It aborts the uploads that the old one left open, and copies nothing again
    /// that is at the destination and equal.
    NewRun,
}

/// Files that receive a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportPaths {
    /// One JSON value per object.
    pub json: Option<PathBuf>,
}
