//! The reasons why a report is missing or incomplete.

use std::path::PathBuf;

use thiserror::Error;

use super::target::TargetError;
use crate::manifest::job::ReportPlace;
use crate::s3::Failure;

/// The reason why a report is missing or incomplete.
#[derive(Debug, Error)]
pub enum ReportError {
    /// Its file could not be created.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// It lacks receipts.
    #[error(
        "the report {place} lacks receipts: {error}; {}",
        match (kept, place) {
            (true, ReportPlace::File(_)) => {
                "the journal has them: free some space, or put the file back, and run the same command again; it completes the \
                 report and copies nothing twice"
            }
            (true, ReportPlace::Prefix(_)) => {
                "the journal has them: correct the problem there, and run the same command again; it completes the report and \
                 copies nothing twice"
            }
            (false, _) => {
                "they are lost, because no journal is kept; what was copied is at the destination, and the same command run \
                 again reports it as skipped"
            }
        }
    )]
    Incomplete {
        /// The report.
        place: ReportPlace,
        /// The first error.
        error: String,
        /// True if the journal has the receipts, so that the run can still complete the report.
        kept: bool,
    },
    /// It has all receipts, but no footer.
    #[error(
        "the report {place} has all its receipts but no footer, so `retry` and `verify --report` refuse it: {error}; {}",
        match place {
            ReportPlace::File(_) => "free some space and run the same command again",
            ReportPlace::Prefix(_) => "correct the problem there, and run the same command again",
        }
    )]
    Footer {
        /// The report.
        place: ReportPlace,
        /// The error.
        error: String,
    },
    /// Another process truncated its file or wrote to it.
    #[error(
        "the report {}: {}; run the same command again for a whole report, and do not rotate a report before its run has \
         ended", path.display(), super::CHANGED
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Receipts could not be written, and no journal keeps them.
    #[error(
        "the report {place} lacks receipts: {error}; {}, and run the same command again for a whole report: it finds what was \
         copied",
        match place {
            ReportPlace::File(_) => "free some space, or put the file back",
            ReportPlace::Prefix(_) => "correct the problem there",
        }
    )]
    Unwritten {
        /// The report.
        place: ReportPlace,
        /// The first error.
        error: String,
    },
    /// A merged report could not be written.
    #[error(
        "the report {path} could not be written: {error}; free some space, or name another file with --out, and run the same \
         command again", path = path.display()
    )]
    Unmerged {
        /// The path.
        path: PathBuf,
        /// The first error.
        error: String,
    },
    /// The path now leads to another file.
    #[error(
        "the report {} was moved, removed, or replaced during the run; its receipts and its footer are in the file that the \
         run began, at its new path if it still exists. Do not move a report before its run has ended", path.display()
    )]
    Moved {
        /// The path.
        path: PathBuf,
    },
    /// S3 refused a request for a report there.
    #[error("the report {place}: {failure}")]
    Store {
        /// The report.
        place: String,
        /// The failure of the request.
        failure: Failure,
    },
    /// A report in S3 cannot be continued, because its objects do not fit together.
    #[error(
        "the report {place}: {what}; put them back from a backup or from older versions, or run the job with --fresh for a new report"
    )]
    Damaged {
        /// The report.
        place: String,
        /// The mistake.
        what: String,
    },
    /// Another session of the run writes the report in S3.
    #[error(
        "the report {place} was taken over by another session of this run on {host}; this session writes no more of it"
    )]
    TakenOver {
        /// The report.
        place: String,
        /// The machine or pod of the other session.
        host: String,
    },
    /// The endpoint has no conditional writes, or ignored one, so that two sessions could write the
    /// same piece.
    #[error(
        "the report {place}: a report in S3 needs `If-None-Match` on PutObject, which the endpoint `{endpoint}` {}; write the \
         report to a file, use another endpoint, or set the endpoint's `provider`",
        if *ignored { "ignored in a test" } else { "is not known to honor" }
    )]
    Unconditional {
        /// The report.
        place: String,
        /// The endpoint's name.
        endpoint: String,
        /// True if the endpoint ignored the condition.
        ignored: bool,
    },
}

impl ReportError {
    /// Returns the mistake in a damaged report, or any other error unchanged.
    pub(crate) fn into_damage(self) -> Result<String, Self> {
        match self {
            Self::Damaged { what, .. } => Ok(what),
            error => Err(error),
        }
    }
}
