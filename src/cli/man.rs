//! Manual pages: one per command, with the sections that readers look for.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _};

use super::{Cli, CliError, Exit, say};

/// Prints a manual page, or writes all of them into a directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  s3haul man copy | man -l -                read the page of a command
  s3haul man --dir ~/.local/share/man/man1  install all of them")]
pub(super) struct ManPages {
    /// Command. Default: s3haul itself.
    #[arg(value_name = "COMMAND", num_args = 0..)]
    command: Vec<String>,
    /// Write the pages of all commands to this directory.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

const ENVIRONMENT: &[(&str, &str)] = &[
    ("S3HAUL_JOURNAL", "Location of the journal, as --journal."),
    ("S3HAUL_ADOPT", "Set to 1, the same as --adopt."),
    (
        "S3HAUL_WAIT",
        "Time to wait for a journal that another run holds, as --wait.",
    ),
    (
        "S3HAUL_JOB_UID",
        "The Job that the process belongs to. A process of the same Job takes the journal over at once.",
    ),
    (
        "S3HAUL_DRAIN",
        "Longest time that a run takes to end after a signal, as --drain.",
    ),
    (
        "S3HAUL_LOG",
        "Events to log: a level, or directives such as s3haul=debug,aws=info. Overrides -v.",
    ),
    ("S3HAUL_LOG_FORMAT", "text or json, as --log-format."),
    ("S3HAUL_ON_CHANGE", "fail or new-run, as --on-change."),
    (
        "S3HAUL_TERMINATION_LOG",
        "File for the reason of a failed command, as --termination-log.",
    ),
    (
        "POD_NAME",
        "Name of the pod, for the journal and for log lines in JSON.",
    ),
    (
        "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL",
        "URL of a server other than Amazon S3, as --endpoint-url.",
    ),
    (
        "AWS_PROFILE, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN",
        "Identity and Region, as for the AWS CLI.",
    ),
    (
        "AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE",
        "Files of the AWS CLI.",
    ),
    ("NO_COLOR", "Turns colors off."),
];
const FILES: &[(&str, &str)] = &[
    (
        "./.s3haul/JOB/",
        "The journal of a job, from which a run resumes after a stop.",
    ),
    (
        "/dev/termination-log",
        "The reason of a failed command, if the file exists. Kubernetes shows it.",
    ),
    ("~/.aws/config, ~/.aws/credentials", "Profiles."),
];
const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "All is done."),
    (
        "1",
        "Some objects failed, or a comparison found differences.",
    ),
    (
        "2",
        "The command line or the manifest is wrong; nothing was sent.",
    ),
    (
        "3",
        "Refused before the first write: a bucket, its Region, the credentials, or an object that does not exist.",
    ),
    (
        "4",
        "Interrupted, or the server was unavailable for too long; run the same command again.",
    ),
    (
        "5",
        "Objects are being restored from an archive; run the same command again later.",
    ),
    ("6", "Another run holds the journal; nothing was copied."),
    ("70", "A bug."),
];

impl ManPages {
    pub(super) fn execute(&self) -> Result<Exit, CliError> {
        let mut root = Cli::command().disable_help_subcommand(true);
        root.build();
        if let Some(dir) = &self.dir {
            fs::create_dir_all(dir)?;
            write_all(&root, dir)?;
            return Ok(Exit::Done);
        }
        let mut command = &root;
        for word in &self.command {
            command = command.find_subcommand(word).ok_or_else(|| {
                CliError::Usage(format!(
                    "there is no command `{word}`; `s3haul --help` lists the commands"
                ))
            })?;
        }
        say(page(command)?.trim_end())
    }
}

fn name(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

fn write_all(command: &Command, dir: &Path) -> io::Result<()> {
    fs::write(dir.join(format!("{}.1", name(command))), page(command)?)?;
    command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
        .try_for_each(|inner| write_all(inner, dir))
}

/// Returns the page of a command, as roff.
fn page(command: &Command) -> io::Result<String> {
    let man = clap_mangen::Man::new(command.clone());
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    let help = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    for block in help.split("\n\n") {
        match block.strip_prefix("Examples:\n") {
            Some(examples) => write!(out, ".SH EXAMPLES\n.nf\n{}\n.fi\n", escaped(examples))?,
            // The exit codes have their own section.
            None if block.starts_with("Exit codes:") && name(command) == "s3haul" => {}
            None if block.is_empty() => {}
            None => write!(out, ".PP\n{}\n", escaped(block))?,
        }
    }
    for (title, entries) in [
        ("ENVIRONMENT", ENVIRONMENT),
        ("FILES", FILES),
        ("EXIT STATUS", EXIT_STATUS),
    ] {
        writeln!(out, ".SH \"{title}\"")?;
        for (term, text) in entries {
            write!(out, ".TP\n\\fB{}\\fR\n{}\n", escaped(term), escaped(text))?;
        }
    }
    let others = command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
        .map(name);
    let others: Vec<_> = others
        .chain((name(command) != "s3haul").then_some("s3haul"))
        .collect();
    let others: Vec<_> = others
        .iter()
        .map(|other| format!("\\fB{}\\fR(1)", escaped(other)))
        .collect();
    write!(out, ".SH \"SEE ALSO\"\n{}\n", others.join(", "))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Escapes a text, so that roff does not interpret a backslash, or a dot or apostrophe at the start
/// of a line.
fn escaped(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        if line.starts_with(['.', '\'']) {
            format!("\\&{line}")
        } else {
            line
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}
