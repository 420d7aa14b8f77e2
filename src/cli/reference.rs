//! Generates docs/command-reference.md from the parser, in a test.

#![expect(clippy::unwrap_used, reason = "a test's helper fails its test")]

use std::fmt::Write as _;

use clap::{Arg, Command};

use super::pages::assert_page_has;

/// Headings that several commands share. The page lists their flags once.
const SHARED: [&str; 2] = ["Endpoint", "Resuming after a stop"];

/// Returns true for arguments of every command, which the tables omit.
fn is_usual(arg: &Arg) -> bool {
    arg.is_hide_set() || matches!(arg.get_id().as_str(), "help" | "version")
}

/// Returns an argument as users type it.
fn spelling(arg: &Arg) -> String {
    let values = arg.get_value_names().unwrap_or_default();
    let value = values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    match (arg.get_short(), arg.get_long()) {
        (_, None) => format!("`{value}`"),
        (short, Some(long)) => {
            let short = short.map_or(String::new(), |short| format!("`-{short}`, "));
            let takes_value = arg.get_action().takes_values();
            let value = if takes_value {
                format!(" {value}")
            } else {
                String::new()
            };
            format!("{short}`--{long}{value}`")
        }
    }
}

/// Returns the help of an argument, with its values, its default, and its variable.
fn meaning(arg: &Arg) -> String {
    let mut text = arg
        .get_long_help()
        .or(arg.get_help())
        .unwrap()
        .to_string()
        .trim_end()
        .replace('\n', " ");
    if !text.ends_with('.') {
        text.push('.');
    }
    let takes_value = arg.get_action().takes_values();
    let values: Vec<_> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if takes_value && !values.is_empty() {
        write!(text, " Values: {}.", values.join(", ")).unwrap();
    }
    if takes_value && let [default] = arg.get_default_values() {
        write!(text, " Default: `{}`.", default.to_string_lossy()).unwrap();
    }
    if let Some(variable) = arg.get_env() {
        write!(text, " Variable: `{}`.", variable.to_string_lossy()).unwrap();
    }
    text.replace('|', "\\|")
}

fn table<'a>(out: &mut String, args: impl Iterator<Item = &'a Arg>) {
    out.push_str("| argument | meaning |\n|---|---|\n");
    for arg in args {
        writeln!(
            out,
            "| {} | {} |",
            spelling(arg).replace('|', "\\|"),
            meaning(arg)
        )
        .unwrap();
    }
}

/// Writes the sections of the subcommands of `command`. `path` is the command as users type it.
fn sections(out: &mut String, command: &Command, path: &str, everywhere: &[&str]) {
    for inner in command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
    {
        let path = format!("{path} {}", inner.get_name());
        write!(out, "\n## {path}\n\n{}.\n", inner.get_about().unwrap()).unwrap();
        let is_own = |arg: &&Arg| !is_usual(arg) && !everywhere.contains(&arg.get_id().as_str());
        let shared = |arg: &Arg| {
            SHARED
                .into_iter()
                .find(|heading| arg.get_help_heading() == Some(heading))
        };
        let own: Vec<_> = inner
            .get_arguments()
            .filter(is_own)
            .filter(|arg| shared(arg).is_none())
            .collect();
        if !own.is_empty() {
            out.push('\n');
            table(out, own.into_iter());
        }
        for heading in SHARED {
            if inner
                .get_arguments()
                .filter(is_own)
                .any(|arg| shared(arg) == Some(heading))
            {
                let anchor = heading.to_lowercase().replace(' ', "-");
                write!(out, "\nAlso the flags of [{heading}](#{anchor}).\n").unwrap();
            }
        }
        if let Some(help) = inner.get_after_help().map(ToString::to_string) {
            for block in help.split("\n\n") {
                match block.split_once("\n  ") {
                    Some((head, lines)) => {
                        let lines = lines.replace("\n  ", "\n");
                        write!(out, "\n{head}\n\n```text\n{lines}\n```\n").unwrap();
                    }
                    None => write!(out, "\n{block}\n").unwrap(),
                }
            }
        }
        sections(out, inner, &path, everywhere);
    }
}

/// Returns the flags under a shared heading, from the first command that has them.
fn under_heading<'a>(command: &'a Command, heading: &str) -> Vec<&'a Arg> {
    let own: Vec<_> = command
        .get_arguments()
        .filter(|arg| arg.get_help_heading() == Some(heading) && !is_usual(arg))
        .collect();
    if !own.is_empty() {
        return own;
    }
    command
        .get_subcommands()
        .map(|inner| under_heading(inner, heading))
        .find(|args| !args.is_empty())
        .unwrap_or_default()
}

fn page(root: &Command) -> String {
    let mut out = String::from("## Flags of every command\n\n");
    table(&mut out, root.get_arguments().filter(|arg| !is_usual(arg)));
    for heading in SHARED {
        write!(out, "\n## {heading}\n\n").unwrap();
        table(&mut out, under_heading(root, heading).into_iter());
    }
    let everywhere: Vec<_> = root
        .get_arguments()
        .map(|arg| arg.get_id().as_str())
        .collect();
    sections(&mut out, root, "s3haul", &everywhere);
    out
}

#[test]
fn the_reference_is_that_of_the_parser() {
    let commands = page(&<super::Cli as clap::CommandFactory>::command());
    assert_page_has("docs/command-reference.md", &[("commands", commands)]);
}
