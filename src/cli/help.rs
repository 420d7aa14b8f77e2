//! The layout of help: flags under headings, and examples that fit the width of the terminal.
//!
//! The headings are listed here and not set on the flags, because commands share structs of flags,
//! and clap applies a heading on one flag to all flags after it.

use clap::{Arg, Command};

use super::out::columns;

/// Headings and their flags. A flag without a heading is an option of the command itself.
const HEADINGS: &[(&str, &[&str])] = &[
    ("New objects", &["storage-class", "preserve"]),
    (
        "Owners and payers",
        &[
            "source-owner",
            "destination-owner",
            "expected-owner",
            "requester-pays",
        ],
    ),
    ("Parts", &["part-size", "part-goal", "threshold", "layout"]),
    ("Proof", &["verify", "prove", "on-mismatch"]),
    (
        "Limits",
        &[
            "requests-per-second",
            "bytes-per-second",
            "in-flight",
            "patience",
            "max-failures",
        ],
    ),
    (
        "Output",
        &[
            "report",
            "verbose",
            "json",
            "quiet",
            "log-format",
            "termination-log",
            "color",
        ],
    ),
];
/// Flags that stay options of the command itself, although their struct has a heading.
const PLAIN: &[&str] = &["dry-run"];
/// Columns if the width is unknown, as in clap.
const USUAL_WIDTH: usize = 100;
/// The maximum width: longer lines are hard to read.
pub(super) const MAX_WIDTH: usize = 110;

/// Groups the flags of a command and its subcommands under headings, and fits its examples into the
/// width of the terminal.
pub(super) fn arrange(command: Command) -> Command {
    let width = width();
    arrange_at(command, width)
}

fn arrange_at(command: Command, width: usize) -> Command {
    let command = command
        .mut_args(under_heading)
        .mut_subcommands(|inner| arrange_at(inner, width));
    match command
        .get_after_help()
        .map(|text| lay_out(&text.to_string(), width))
    {
        Some(text) => command.after_help(text),
        None => command,
    }
}

fn under_heading(arg: Arg) -> Arg {
    let name = arg.get_long().unwrap_or_default().to_owned();
    let heading = HEADINGS
        .iter()
        .find(|(_, names)| names.contains(&name.as_str()));
    match heading {
        Some((heading, _)) => arg.help_heading(*heading),
        None if PLAIN.contains(&name.as_str()) => arg.help_heading(None::<&'static str>),
        None => arg,
    }
}

fn width() -> usize {
    let of_environment = || {
        std::env::var("COLUMNS")
            .ok()
            .and_then(|columns| columns.parse().ok())
    };
    columns()
        .or_else(of_environment)
        .unwrap_or(USUAL_WIDTH)
        .clamp(20, MAX_WIDTH)
}

/// Joins the lines of each paragraph, which clap wraps again. If a remark does not fit beside its
/// example, puts all remarks above their examples.
fn lay_out(text: &str, width: usize) -> String {
    let fits = text
        .lines()
        .filter(|line| remark(line).is_some())
        .all(|line| line.chars().count() <= width);
    let mut out: Vec<String> = Vec::new();
    let mut is_prose = false;
    for line in text.lines() {
        let was_prose = is_prose;
        is_prose = !line.is_empty() && !line.starts_with(' ');
        match (remark(line).filter(|_| !fits), out.last_mut()) {
            (Some((example, remark)), _) => {
                out.extend([format!("  # {remark}"), format!("  {example}")]);
            }
            (None, Some(paragraph)) if is_prose && was_prose => {
                paragraph.push(' ');
                paragraph.push_str(line);
            }
            (None, _) => out.push(line.to_owned()),
        }
    }
    out.join("\n")
}

/// Splits an example from its remark, at three or more spaces.
fn remark(line: &str) -> Option<(&str, &str)> {
    let line = Some(line).filter(|line| line.starts_with("  ") && line.contains("s3haul "))?;
    let (example, remark) = line.trim_start().split_once("   ")?;
    Some((example.trim_end(), remark.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory as _;

    #[test]
    fn examples_fit_narrow_terminals() {
        let text = "Examples:\n  s3haul run j      does it\n  s3haul plan nightly.yaml   shows\n\nExit codes: 0 done,\n1 failed.";
        assert_eq!(lay_out(text, 80), text.replace(",\n1", ", 1"));
        let narrow = "Examples:\n  # does it\n  s3haul run j\n  # shows\n  s3haul plan nightly.yaml\n\nExit codes: 0 done, 1 failed.";
        assert_eq!(lay_out(text, 30), narrow);
    }

    #[test]
    fn flags_of_copy_stand_under_what_they_are_about() {
        let copy = arrange(Cli::command())
            .find_subcommand("copy")
            .unwrap()
            .clone();
        let heading = |name: &str| {
            let arg = copy
                .get_arguments()
                .find(|arg| arg.get_long() == Some(name))
                .unwrap();
            arg.get_help_heading().map(str::to_owned)
        };
        assert_eq!(heading("in-flight").as_deref(), Some("Limits"));
        assert_eq!(heading("metadata").as_deref(), Some("New objects"));
        assert_eq!(heading("part-size").as_deref(), Some("Parts"));
        assert_eq!(heading("dry-run"), None);
        assert_eq!(heading("recursive"), None);
    }
}
