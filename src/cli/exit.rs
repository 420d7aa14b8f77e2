//! Exit codes, and the errors that lead to them.

use std::io;
use std::process::ExitCode;

use clap::ColorChoice;
use tracing::Level;

use super::out::{tell, tell_lines};
use super::{Output, color, flags, mistakes, termination};
use crate::journal::JournalError;
use crate::manifest::{ManifestError, Mistake};
use crate::plan::unlisted::CommonCause;
use crate::report::ReportError;
use crate::s3::Failure;
use crate::shards::store::StateError;
use crate::telemetry::{self, Note};

/// Separates the messages of an error about several mistakes.
pub(super) const NEXT_ERROR: &str = "\nerror: ";

/// The result of a command, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything is done.
    Done = 0,
    /// Finished, but some objects failed.
    Failures = 1,
    /// The command line or the manifest is wrong; nothing was sent.
    Usage = 2,
    /// Refused before the first write, and waiting would not help: a bucket or the credentials
    /// cannot be used.
    Refused = 3,
    /// Interrupted, or waited too long for a server or for credentials; run the same command again.
    Interrupted = 4,
    /// Nothing failed, but some objects are being restored from an archive; run the same command
    /// again later.
    Waiting = 5,
    /// Another run holds the journal; nothing was copied.
    Held = 6,
    /// A bug in s3haul.
    Bug = 70,
}

impl Exit {
    /// All exit codes.
    pub const ALL: [Self; 8] = [
        Self::Done,
        Self::Failures,
        Self::Usage,
        Self::Refused,
        Self::Interrupted,
        Self::Waiting,
        Self::Held,
        Self::Bug,
    ];

    /// Returns the default reason for this exit code, used if the command set none.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Done => "all is done",
            Self::Failures => "some objects failed or differ; the log and the report name them",
            Self::Usage => "the command line or the manifest is wrong",
            Self::Refused => "a bucket, the credentials, or the journal cannot be used",
            Self::Interrupted => "interrupted; run the same command again",
            Self::Waiting => {
                "objects are being restored from an archive; run the same command again later"
            }
            Self::Held => "another run holds the journal",
            Self::Bug => "s3haul has a bug",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<CommonCause> for Exit {
    fn from(cause: CommonCause) -> Self {
        match cause {
            CommonCause::Refused => Self::Refused,
            CommonCause::Passing => Self::Interrupted,
        }
    }
}

/// The reason why a command ended without doing its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{0}")]
    Refused(#[from] Failure),
    /// A write succeeded but did not have its effect.
    #[error("{0}")]
    Failed(String),
    /// An object to copy does not exist.
    #[error("{0}")]
    Absent(String),
    #[error("{0}")]
    Report(#[from] ReportError),
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// A report names objects that the destination does not have.
    #[error("{0}")]
    Untrue(String),
    /// A journal cannot be used, and it is required: the user named it, or it holds an unfinished
    /// run.
    #[error("{0}")]
    Unusable(JournalError),
    /// The journal could no longer be written after the run had started.
    #[error("{0}")]
    Lost(JournalError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    State(#[from] StateError),
    /// The record that a shard has ended could not be written.
    #[error(
        "the end of the shard could not be recorded: {0}; run the same command again, which copies nothing twice"
    )]
    Unrecorded(StateError),
    /// No report of a run in shards can be read.
    #[error("{0}")]
    Unreadable(String),
    /// Another process did not plan the shards in time.
    #[error("{0}")]
    Unplanned(String),
    /// A signal interrupted the command.
    #[error("interrupted; {0}")]
    Interrupted(String),
    /// The user pressed Ctrl-C, the usual way to end a view.
    #[error("interrupted")]
    ViewEnded,
}

impl CliError {
    /// Returns one error for all mistakes in a job, or `None` if there are none.
    pub(super) fn of_mistakes(mistakes: &[Mistake]) -> Option<Self> {
        let lines = mistakes
            .iter()
            .map(|mistake| format!("{}; {}", mistake.message, mistake.remedy));
        (!mistakes.is_empty()).then(|| Self::Usage(lines.collect::<Vec<_>>().join(NEXT_ERROR)))
    }

    /// Returns one error for all mistakes in a job from the command line. `sources` are the sources
    /// of its transfers, as typed.
    pub(super) fn of_flags(mistakes: &[Mistake], sources: &[String]) -> Option<Self> {
        let mistakes: Vec<_> = mistakes
            .iter()
            .map(|mistake| {
                let mut mistake = Mistake {
                    message: flags::spoken(&mistake.message),
                    remedy: flags::spoken(&mistake.remedy),
                    ..mistake.clone()
                };
                // A flag that may be repeated does not say which of its values is wrong.
                if let Some((_, field)) = mistake.path.split_once(".set.")
                    && let Some((kind, name)) = field.split_once('.')
                {
                    let flag = if kind == "tags" {
                        "--tag"
                    } else {
                        "--metadata"
                    };
                    mistake.message = format!("{flag} {name}: {}", mistake.message);
                }
                // Users do not know the names of these transfers, so messages name the sources.
                for (number, source) in (1..).zip(sources) {
                    let name = format!("`copy-{number}`");
                    if mistake.remedy.contains(&name) || mistake.remedy.contains("transfer") {
                        "copy each of them to a separate prefix".clone_into(&mut mistake.remedy);
                    }
                    mistake.message = mistake.message.replace(&name, source);
                }
                mistake
            })
            .collect();
        Self::of_mistakes(&mistakes)
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Manifest(_) => Exit::Usage,
            Self::Journal(JournalError::Held { .. }) => Exit::Held,
            Self::Journal(error) if error.is_passing() => Exit::Interrupted,
            Self::Refused(failure) if failure.is_passing() => Exit::Interrupted,
            // A run is not over until its report is complete.
            Self::Report(ReportError::Store { failure, .. }) if failure.is_passing() => {
                Exit::Interrupted
            }
            Self::State(error) | Self::Unrecorded(error) if error.is_passing() => Exit::Interrupted,
            Self::Lost(_)
            | Self::Interrupted(_)
            | Self::ViewEnded
            | Self::Unplanned(_)
            | Self::Unreadable(_)
            | Self::Report(
                ReportError::Incomplete { kept: true, .. } | ReportError::TakenOver { .. },
            ) => Exit::Interrupted,
            Self::Refused(_)
            | Self::Absent(_)
            | Self::Untrue(_)
            | Self::Report(
                ReportError::Target(_)
                | ReportError::Store { .. }
                | ReportError::Damaged { .. }
                | ReportError::Unconditional { .. },
            )
            | Self::Journal(_)
            | Self::State(_)
            | Self::Unrecorded(_)
            | Self::Unusable(_) => Exit::Refused,
            Self::Report(
                ReportError::Incomplete { .. }
                | ReportError::Footer { .. }
                | ReportError::Changed { .. }
                | ReportError::Unwritten { .. }
                | ReportError::Unmerged { .. }
                | ReportError::Moved { .. },
            )
            | Self::Failed(_)
            | Self::Io(_) => Exit::Failures,
        }
    }
}

/// Reports the error that ends a command, and returns its exit code.
pub(super) fn fail(error: &CliError, choice: ColorChoice, output: Output) -> Exit {
    let exit = error.exit();
    let note =
        |message: String| Note::new(Level::ERROR, "error", message).with("exit", exit as i32);
    match error {
        CliError::Manifest(ManifestError::Mistakes(mistakes)) => {
            let lines = mistakes.as_slice().iter().map(|mistake| {
                let (file, line) = (mistakes.file_name(), mistake.line);
                format!("{file}:{line}: {}; {}", mistake.message, mistake.remedy)
            });
            termination::set_reason(&lines.collect::<Vec<_>>().join(" "));
            if !telemetry::is_json() {
                // `draw` escapes the text that it quotes.
                let text = mistakes::draw(mistakes, color::is_on(choice, &io::stderr()));
                tell_lines(&note(String::new()).in_text(text.trim_end()), true);
                return exit;
            }
            for mistake in mistakes.as_slice() {
                let note = note(format!("{}; {}", mistake.message, mistake.remedy))
                    .with("file", mistakes.file_name())
                    .with("line", mistake.line)
                    .with("column", mistake.column)
                    .with("field", &mistake.path);
                tell(&note);
            }
        }
        CliError::ViewEnded => termination::set_reason(&error.to_string()),
        error => {
            let message = match error {
                CliError::Refused(_) => output.spoken(error.to_string()),
                error => error.to_string(),
            };
            termination::set_reason(&message.replace(NEXT_ERROR, " "));
            if telemetry::is_json() {
                let messages = message.split(NEXT_ERROR);
                messages.for_each(|message| tell(&note(message.to_owned())));
            } else {
                let text = format!("error: {message}");
                let note = note(message).in_text(text);
                match error {
                    CliError::Usage(_) | CliError::Manifest(_) => tell_lines(&note, false),
                    // One line: a line break in text that the error quotes would forge another
                    // line.
                    _ => tell(&note),
                }
            }
        }
    }
    exit
}
