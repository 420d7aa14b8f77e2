//! The reasons why a journal cannot be used, or can no longer be written.

use std::io;
use std::time::Duration;

use thiserror::Error;

use super::identity::Writer;
use crate::s3::{Failure, FailureKind};
use crate::size::display_duration;

/// The reason why a journal cannot be used, or can no longer be written. The message names the
/// remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum JournalError {
    /// Another process uses it.
    #[error(
        "the journal {place} is in use by {by}{}; wait for it with --wait, stop it, or name another one with `journal`",
        last_seen(*silence)
    )]
    Held {
        /// The journal.
        place: String,
        /// The writer that holds it.
        by: Box<Writer>,
        /// The age of its last sign of life, in S3.
        silence: Option<Duration>,
    },
    /// Another session took the journal over. This session writes no more, neither here nor at a
    /// destination.
    #[error(
        "the journal {place} was taken over by {by}; this run ends, and the other one continues its work"
    )]
    Fenced {
        /// The journal.
        place: String,
        /// The writer that holds it now.
        by: Box<Writer>,
    },
    /// The journal is damaged, and not only at its end.
    #[error(
        "{place}, line {line}: {what}; restore the journal from a backup, or run the job with --fresh to start over \
         (objects already at the destination are compared, and copied again only if they differ)"
    )]
    Corrupt {
        /// The file or object.
        place: String,
        /// The line, from 1.
        line: usize,
        /// The mistake in it.
        what: String,
    },
    /// A later version of s3haul wrote it.
    #[error(
        "{place} was written by s3haul {tool}, this is {}; use that version, or run the job with --fresh to start over",
        env!("CARGO_PKG_VERSION")
    )]
    NewerVersion {
        /// The file or object.
        place: String,
        /// The version that wrote it.
        tool: String,
    },
    /// It holds an unfinished run, and the job was changed since.
    #[error(
        "the journal holds an unfinished run with other settings: {}; start over with --fresh (objects already \
         at the destination are compared, and copied again only if they differ), or continue with the changed job with \
         --resume-anyway (finished objects stay as they are)",
        changes.join("; ")
    )]
    Changed {
        /// The differences, in words.
        changes: Vec<String>,
    },
    /// It holds an unfinished run of other transfers, so its record says nothing about this job.
    #[error(
        "the journal holds an unfinished run of other transfers: {}; start over with --fresh (objects already at the \
         destination are compared, and copied again only if they differ), or undo the change and finish that run",
        changes.join("; ")
    )]
    OtherTransfers {
        /// The differences, in words.
        changes: Vec<String>,
    },
    /// It holds an unfinished run between other locations, so its record says nothing about this
    /// job.
    #[error(
        "the journal holds an unfinished run between other places: {}; start over with --fresh (objects already at the \
         destination are compared, and copied again only if they differ), or undo the change and finish that run",
        changes.join("; ")
    )]
    OtherPlaces {
        /// The differences, in words.
        changes: Vec<String>,
    },
    /// The destination lacks objects that are on record.
    #[error(
        "the journal no longer matches the destination: {missing} of {of} recorded objects that were checked are not there \
         as they were, for example {example}. They were deleted or replaced, or the name leads to another bucket or \
         server. Start over with --fresh (which compares the destination and copies what is missing), or, if this is \
         intended, continue with --resume-anyway"
    )]
    Untrue {
        /// One of the objects, and what is wrong with it.
        example: String,
        /// The number of objects that are missing or differ.
        missing: u64,
        /// The number of objects that were checked.
        of: u64,
    },
    /// The directory, its lock, or its segment was removed or replaced during the run.
    #[error(
        "the journal {place} was removed or replaced during the run, so its progress could not be recorded; run the same \
         command again: it compares what is at the destination and copies the rest"
    )]
    Gone {
        /// The file that is no longer there.
        place: String,
        /// True if another process may have taken the journal.
        is_taken: bool,
    },
    /// A file is shorter than the bytes written to it, or a file or object was removed. The writer
    /// replaces the journal with a snapshot.
    #[error(
        "the journal file {place} was truncated or removed during the run; run the same command again: it compares what is at \
         the destination and copies the rest"
    )]
    Cut {
        /// The file.
        place: String,
    },
    /// The endpoint ignored the condition of a write, so a second writer could not be kept out.
    #[error(
        "{place}: a journal in S3 needs `If-None-Match` on PutObject, and the endpoint `{endpoint}` ignored it in a test; use a \
         directory or another endpoint"
    )]
    ConditionIgnored {
        /// The journal.
        place: String,
        /// The endpoint's name.
        endpoint: String,
    },
    /// The endpoint is not known to honor conditional writes, so a second writer could not be kept
    /// out.
    #[error(
        "{place}: a journal in S3 needs `If-None-Match` on PutObject, which the endpoint `{endpoint}` is not known to \
         honor; use a directory, another endpoint, or set the endpoint's `provider`"
    )]
    Unconditional {
        /// The journal.
        place: String,
        /// The endpoint's name.
        endpoint: String,
    },
    /// No space is left for it.
    #[error(
        "no space is left for the journal {place}; free some and run the same command again: it continues from there"
    )]
    Full {
        /// The file.
        place: String,
    },
    /// The file system failed.
    #[error("the journal {place}: {message}")]
    Io {
        /// The file or directory.
        place: String,
        /// The system's message.
        message: String,
    },
    /// S3 failed.
    #[error("the journal {place}: {failure}")]
    Store {
        /// The journal.
        place: String,
        /// The failure of the request.
        failure: Failure,
    },
    /// The journal is closed already.
    #[error("the journal is closed")]
    Closed,
}

/// Formats the age of a sign of life.
fn last_seen(silence: Option<Duration>) -> String {
    silence
        .map(|silence| format!(" (last sign of life {} ago)", display_duration(silence)))
        .unwrap_or_default()
}

impl JournalError {
    pub(super) fn io(place: &(impl ToString + ?Sized), error: &io::Error) -> Self {
        let place = place.to_string();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { place },
            _ => Self::Io {
                place,
                message: error.to_string(),
            },
        }
    }

    /// Returns the error for a missing file or object.
    pub(super) fn missing(place: &(impl ToString + ?Sized)) -> Self {
        Self::Corrupt {
            place: place.to_string(),
            line: 1,
            what: "it is not there, but later ones are".to_owned(),
        }
    }

    pub(super) fn store(place: &(impl ToString + ?Sized), failure: Failure) -> Self {
        Self::Store {
            place: place.to_string(),
            failure,
        }
    }

    /// Returns the differences between the job and the unfinished run, for an error about them.
    #[must_use]
    pub fn changes(&self) -> Option<&[String]> {
        match self {
            Self::Changed { changes }
            | Self::OtherTransfers { changes }
            | Self::OtherPlaces { changes } => Some(changes),
            _ => None,
        }
    }

    /// Returns true if another session may be working on this run.
    pub(super) fn leaves_it_to_another(&self) -> bool {
        matches!(
            self,
            Self::Fenced { .. } | Self::Gone { is_taken: true, .. }
        )
    }

    /// Returns true if later sessions cannot find the record of this run.
    #[must_use]
    pub fn leaves_no_record(&self) -> bool {
        matches!(
            self,
            Self::Gone {
                is_taken: false,
                ..
            }
        )
    }

    /// Returns true if nothing is wrong with the journal and the same command may be run again
    /// later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Held { .. }
            | Self::Fenced { .. }
            | Self::Full { .. }
            | Self::Gone { .. }
            | Self::Cut { .. }
            | Self::Io { .. }
            | Self::Closed => true,
            Self::Store { failure, .. } => {
                failure.kind().may_pass_later() || *failure.kind() == FailureKind::Stopped
            }
            Self::Corrupt { .. }
            | Self::NewerVersion { .. }
            | Self::Changed { .. }
            | Self::OtherTransfers { .. }
            | Self::OtherPlaces { .. }
            | Self::Untrue { .. }
            | Self::ConditionIgnored { .. }
            | Self::Unconditional { .. } => false,
        }
    }
}
