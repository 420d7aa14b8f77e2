//! The reasons why a report cannot be used, and their remedies.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::report::error::ReportError;
use crate::report::frame::FORMAT;

/// A line of a report, and the command that wrote the report.
#[derive(Clone, Debug)]
pub struct ReportLine {
    /// The report.
    pub place: String,
    /// The number of the line, 1 for the first.
    pub line: usize,
    /// The command that wrote the report.
    pub command: String,
    /// The directory of that command.
    pub directory: PathBuf,
}

/// The reason why a report cannot be used.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It could not be read.
    #[error("cannot read the report {place}: {error}")]
    Io {
        /// The report.
        place: String,
        /// The error of the operating system.
        error: io::Error,
    },
    /// It could not be read from S3.
    #[error(transparent)]
    Store(ReportError),
    /// The file is not a report.
    #[error(
        "{place} is not a report of s3haul: its first line does not say which command wrote it: {error}; name a file that --report \
         or `report.json` wrote"
    )]
    Foreign {
        /// The file.
        place: String,
        /// The mistake.
        error: String,
    },
    /// The report comes from a run with `--sandbox`.
    #[error(
        "the report {place} comes from a run with --sandbox: the buckets that it names were in that process and are gone. Run \
         `{command}` again in {}, without --sandbox for a report of real buckets", directory.display()
    )]
    Sandbox {
        /// The report.
        place: String,
        /// The command that wrote it.
        command: String,
        /// The directory of that command.
        directory: PathBuf,
    },
    /// A later version of s3haul wrote it.
    #[error(
        "the report {place} has format {format}, and this version of s3haul reads up to {FORMAT}; use the version that wrote it, \
         {version}, or a later one"
    )]
    Newer {
        /// The report.
        place: String,
        /// Its format.
        format: u32,
        /// The version that wrote it.
        version: String,
    },
    /// A line was truncated or changed.
    #[error(
        "the report {}: line {} is not a receipt: {error}; the file was truncated or changed. Run `{}` again in {}, which \
         writes the report again", at.place, at.line, at.command, at.directory.display()
    )]
    Torn {
        /// The line.
        at: ReportLine,
        /// The mistake.
        error: String,
    },
    /// A line is repeated.
    #[error(
        "the report {}: line {} repeats line {of}; the file was changed. Run `{}` again in {}, which writes the \
         report again", at.place, at.line, at.command, at.directory.display()
    )]
    Repeated {
        /// The line.
        at: ReportLine,
        /// The number of the equal line before it.
        of: usize,
    },
    /// The footer counts another number of receipts.
    #[error(
        "the report {} has {receipts} receipts in lines 2 to {}, and its footer in line {} counts {counted}: lines were \
         {}. Run `{}` again in {}, which writes the report again", at.place, at.line - 1, at.line,
        if *receipts as u64 > *counted { "added" } else { "removed" }, at.command, at.directory.display()
    )]
    Miscounted {
        /// The footer.
        at: ReportLine,
        /// The number of receipts in the file.
        receipts: usize,
        /// The number of receipts in the footer.
        counted: u64,
    },
    /// A line was changed, but is still a receipt.
    #[error(
        "the report {}: lines 1 to {} are not those that the footer in line {} was written for: the file was changed. Run \
         `{}` again in {}, which writes the report again", .0.place, .0.line - 1, .0.line, .0.command,
        .0.directory.display()
    )]
    Changed(
        /// The footer.
        ReportLine,
    ),
    /// It has no footer.
    #[error(
        "the report {} has no footer after line {}: its run is still in progress or was killed, or the file was \
         truncated. Wait for the run, or run `{}` again in {}: that resumes the run if it has a journal, and completes the report",
        .0.place, .0.line, .0.command, .0.directory.display()
    )]
    Unfinished(
        /// The last line.
        ReportLine,
    ),
    /// It lacks receipts of an earlier session.
    #[error(
        "the report {} lacks receipts of an earlier session of its run (line {}), because the file was moved or another \
         one was named when the run was resumed. Run `{}` again in {} for a whole report", .0.place, .0.line,
        .0.command, .0.directory.display()
    )]
    Gap(
        /// The line that stands in for them.
        ReportLine,
    ),
}
