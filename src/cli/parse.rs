//! Parses a command line, with rules that clap does not have.
//!
//! A variable that is set and empty counts as unset, as in the AWS CLI. Words of other tools get a
//! separate answer ([`habits`]). Usage lines name the arguments that are required, and not those
//! that the environment happens to set.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ColorChoice, Command, CommandFactory as _, FromArgMatches as _, ValueEnum as _};
use tracing::Level;

use super::{Cli, Exit, habits, help, out, termination};
use crate::telemetry::{self, LogFormat, Note};

/// The variable that sets the format of the log.
pub(super) const LOG_FORMAT: &str = "S3HAUL_LOG_FORMAT";

/// The reason why the command line is not a command.
pub(super) enum Refusal {
    /// One sentence for a word of another tool.
    Habit(String),
    /// Clap's own output, including help and the version.
    Parser(clap::Error),
}

impl Refusal {
    /// Returns the text without colors, for a message about a command line other than this
    /// process's.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Habit(answer) => answer.clone(),
            Self::Parser(error) => error.to_string(),
        }
    }
}

/// Parses a command line; the first word is the name of the program.
pub(super) fn parse(words: &[OsString]) -> Result<Cli, Refusal> {
    let mut command = without_empty_variables(help::arrange(Cli::command())).color(color(words));
    let parsed = command.try_get_matches_from_mut(words);
    let error = match parsed.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches)) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    let words: Vec<String> = words
        .iter()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    match habits::answer(error, &words) {
        Ok(answer) => Err(Refusal::Habit(answer)),
        Err(error) => Err(Refusal::Parser(with_plain_usage(
            error,
            &mut command,
            &words,
        ))),
    }
}

/// Returns the value of `--color`, which must be known before clap's first message.
fn color(words: &[OsString]) -> ColorChoice {
    last_value(words, "--color", |value| {
        ColorChoice::from_str(value, true).ok()
    })
    .unwrap_or(ColorChoice::Auto)
}

/// The output settings for the message that refuses a command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Manner {
    pub(super) log_format: LogFormat,
    pub(super) termination_log: Option<PathBuf>,
}

/// Returns the output settings for a refusal, from the flags and the environment, before they are
/// parsed.
pub(super) fn manner(words: &[OsString]) -> Manner {
    manner_of(words, |name| std::env::var(name).ok())
}

fn manner_of(words: &[OsString], variable: impl Fn(&str) -> Option<String>) -> Manner {
    let format = |text: &str| LogFormat::from_str(text, false).ok();
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let of_variable = |name| variable(name).unwrap_or_default();
    Manner {
        log_format: last_value(words, "--log-format", format)
            .or_else(|| format(&of_variable(LOG_FORMAT)))
            .unwrap_or_default(),
        termination_log: last_value(words, "--termination-log", path)
            .or_else(|| path(&of_variable(termination::VARIABLE))),
    }
}

/// Returns the last valid value of a flag.
fn last_value<T>(words: &[OsString], flag: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    let words = words
        .iter()
        .skip(1)
        .map(|word| word.to_string_lossy())
        .take_while(|word| word != "--");
    let (mut last, mut is_value) = (None, false);
    for word in words {
        let value = if is_value {
            Some(&*word)
        } else {
            word.strip_prefix(flag)
                .and_then(|rest| rest.strip_prefix('='))
        };
        last = value.and_then(&read).or(last);
        is_value = word == flag;
    }
    last
}

/// Prints what clap refuses, and returns the exit code. Help and the version are results.
pub(super) fn tell(error: &clap::Error) -> Exit {
    let is_refusal = error.use_stderr();
    let text = error.render().to_string();
    if is_refusal && telemetry::is_json() {
        let (message, usage) = sentence(error, &text);
        termination::set_reason(&message);
        let note = Note::new(Level::ERROR, "error", message)
            .with("exit", Exit::Usage as i32)
            .with("usage", usage);
        out::tell(&note);
        return Exit::Usage;
    }
    if is_refusal {
        termination::set_reason(&sentence(error, &text).0);
    }
    // Clap chooses the stream, and whether it uses colors.
    let _ = error.print();
    if is_refusal { Exit::Usage } else { Exit::Done }
}

/// Returns the text of a refusal in one line, and the usage line that it contains.
fn sentence(error: &clap::Error, text: &str) -> (String, Option<String>) {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let message = "there is no command, or the command has no arguments; see `s3haul --help`";
        return (message.to_owned(), None);
    }
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (said, rest) = text.split_once("\nUsage:").unwrap_or((text, ""));
    let said = said
        .split("\nFor more information")
        .next()
        .unwrap_or_default();
    let message = one_line(said.strip_prefix("error: ").unwrap_or(said));
    let usage = rest.lines().next().map(one_line);
    (message, usage.filter(|usage| !usage.is_empty()))
}

fn without_empty_variables(command: Command) -> Command {
    let is_empty = |arg: &Arg| {
        arg.get_env()
            .and_then(std::env::var_os)
            .is_some_and(|value| value.is_empty())
    };
    command
        .mut_args(|arg| {
            if is_empty(&arg) {
                arg.env(None::<&'static str>)
            } else {
                arg
            }
        })
        .mut_subcommands(without_empty_variables)
}

/// Replaces the usage line, in which clap lists arguments set by the environment as if they were
/// required.
fn with_plain_usage(
    mut error: clap::Error,
    command: &mut Command,
    words: &[String],
) -> clap::Error {
    if error.get(ContextKind::Usage).is_none() {
        return error;
    }
    let usage = usage(command, words);
    error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
    error
}

/// Returns the usage line of the innermost command among `words`.
fn usage(command: &mut Command, words: &[String]) -> StyledStr {
    let inner = words
        .iter()
        .position(|word| command.find_subcommand(word).is_some());
    if let Some((at, inner)) =
        inner.and_then(|at| Some((at, command.find_subcommand_mut(&words[at])?)))
    {
        return usage(inner, &words[at + 1..]);
    }
    command.render_usage()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_color_counts() {
        for (words, choice) in [
            (&["copy"][..], ColorChoice::Auto),
            (&["copy", "--color", "never"], ColorChoice::Never),
            (&["--color=always", "copy"], ColorChoice::Always),
            (
                &["--color=always", "copy", "--", "--color=never"],
                ColorChoice::Always,
            ),
            (&["--color", "purple"], ColorChoice::Auto),
        ] {
            let words: Vec<OsString> = ["s3haul"].iter().chain(words).map(OsString::from).collect();
            assert_eq!(color(&words), choice, "{words:?}");
        }
    }

    #[test]
    fn the_format_is_known_before_the_command_line_is_read() {
        let words = |words: &[&str]| -> Vec<OsString> {
            ["s3haul"].iter().chain(words).map(OsString::from).collect()
        };
        let json = |path: Option<&str>| Manner {
            log_format: LogFormat::Json,
            termination_log: path.map(PathBuf::from),
        };
        let nothing = |_: &str| None;
        for (line, manner) in [
            (&["run", "--log-format", "json", "--bad"][..], json(None)),
            (
                &["--log-format=json", "--termination-log", "t"],
                json(Some("t")),
            ),
            (&["--log-format", "xml"], Manner::default()),
            (&["--", "--log-format=json"], Manner::default()),
        ] {
            assert_eq!(manner_of(&words(line), nothing), manner, "{line:?}");
        }
        let variable = |name: &str| match name {
            LOG_FORMAT => Some("json".to_owned()),
            _ => Some(String::new()),
        };
        assert_eq!(manner_of(&words(&[]), variable), json(None));
        let text = manner_of(&words(&["--log-format", "text"]), variable);
        assert_eq!(text, Manner::default());
    }
}
