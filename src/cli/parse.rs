//! From the words of a command line to a command, with the rules that the parser does not have.
//!
//! A variable that is set and empty counts as unset, as for the AWS CLI. Words of other tools get
//! an answer of their own ([`habits`]). Usage lines name the arguments that are required, and not
//! those that the environment happens to set.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ColorChoice, Command, CommandFactory as _, FromArgMatches as _, ValueEnum as _};

use super::{Cli, habits, help};

/// The reason why there is no command.
pub(super) enum Refusal {
    /// One sentence for a word of another tool.
    Habit(String),
    /// All that the parser says, help and version included.
    Parser(clap::Error),
}

impl Refusal {
    /// Returns the text without colours, for a message about a command line that is not this
    /// process's.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Habit(answer) => answer.clone(),
            Self::Parser(error) => error.to_string(),
        }
    }
}

/// Reads a command line; the first word is the program's name.
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

/// Returns what `--color` says, which must be known before the first message of the parser.
fn color(words: &[OsString]) -> ColorChoice {
    let words = words
        .iter()
        .skip(1)
        .map(|word| word.to_string_lossy())
        .take_while(|word| word != "--");
    let mut choice = ColorChoice::Auto;
    let mut is_value = false;
    for word in words {
        let value = if is_value {
            Some(&*word)
        } else {
            word.strip_prefix("--color=")
        };
        choice = value
            .and_then(|value| ColorChoice::from_str(value, true).ok())
            .unwrap_or(choice);
        is_value = word == "--color";
    }
    choice
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

/// Replaces the usage line, in which the parser lists what the environment sets as if it were
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

/// Returns the usage of the innermost command among `words`.
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
}
