//! The command line: parse, call the library, print.
//!
//! Results go to standard output; progress and logs go to standard error. The exit code ([`Exit`])
//! tells a scheduler how the command ended: a failed command can be run again, a refused one must
//! be corrected first.

#![expect(
    clippy::doc_markdown,
    reason = "doc comments are help texts here, read on a terminal"
)]

mod check;
mod color;
mod completions;
mod copy;
mod estimate;
mod exit;
mod flags;
mod habits;
mod help;
mod history;
mod job_environment;
mod job_file;
mod journal;
mod journaled_uploads;
mod lease;
mod lifecycle;
mod man;
mod mistakes;
mod next;
mod out;
#[cfg(test)]
mod pages;
mod panics;
mod parse;
mod plan;
mod presence;
mod progress;
#[cfg(all(test, feature = "sandbox"))]
mod reference;
mod report;
mod retry;
mod run;
#[cfg(feature = "sandbox")]
mod sandbox;
mod select;
mod set;
mod shards;
mod signals;
mod state;
mod status;
mod termination;
mod tidy;
mod unused_flags;
mod uploads;
mod verify;

use std::ffi::OsString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ColorChoice, Parser, Subcommand};

pub use self::exit::Exit;
use self::exit::{CliError, fail};
use self::job_file::{JobFile, load};
pub use self::mistakes::draw;
use self::out::{note, row_up, say, say_json, say_line, tell};
use self::parse::{Manner, Refusal};
pub use self::run::exit_of;
use self::signals::Signals;
use crate::endpoint::{
    DEFAULT_ENDPOINT, Endpoint, EndpointMistake, Environment, Provider, ProxyError, ProxySetting,
    ResolvedEndpoint, Trust,
};
use crate::location::{LocalPath, bare, suggestion};
use crate::manifest;
use crate::s3::end_credential_processes;
use crate::telemetry::{self, LogFormat};

/// Threads that read files. For a directory of small files, Tokio would start its default of 512
/// threads, which cost 100 MiB and more CPU time than the reads themselves. Far fewer keep a disk
/// busy.
const BLOCKING_THREADS: usize = 32;

/// Copies objects between S3 buckets on the server side, and uploads local files.
///
/// Copies large objects with UploadPartCopy, hundreds of parts in parallel, at a rate it learns
/// from the server. Pins each copy to one version of its source, and verifies the copy by the
/// values that S3 computed, without a download.
#[derive(Debug, Parser)]
#[command(
    name = "s3haul",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    max_term_width = help::MAX_WIDTH
)]
#[command(after_help = "\
Examples:
  s3haul copy s3://lake/events/ s3://lake-dr/events/     copy what is missing or changed below a prefix
  s3haul copy ./exports s3://lake/exports/               upload a directory
  s3haul plan nightly.yaml                               show what a job would do
  s3haul run nightly.yaml                                run the job
  s3haul verify nightly.yaml                             compare both sides
  s3haul uploads list s3://lake/                         list unfinished multipart uploads

Exit codes: 0 all done, 1 some objects failed, 2 wrong usage or manifest, 3 refused before the first write,
4 interrupted or waited too long (run it again), 5 waiting for restores from an archive (run it later),
6 another run holds the journal, 70 a bug.")]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Log more to standard error: -v for events, -vv for debug output, -vvv for the SDK too.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Print results as JSON lines.
    #[arg(long, global = true)]
    json: bool,

    /// Do not show progress.
    #[arg(short, long, global = true)]
    quiet: bool,

    /// Format of standard error: text, or json (one object per line).
    #[arg(long, global = true, value_enum, default_value_t, env = parse::LOG_FORMAT)]
    log_format: LogFormat,

    /// If the command fails, write the reason to FILE. Default: /dev/termination-log, if it exists.
    #[arg(long, global = true, value_name = "FILE", env = termination::VARIABLE, value_parser = output_file)]
    termination_log: Option<PathBuf>,

    /// When to color messages. With auto, NO_COLOR and TERM=dumb turn colors off.
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    color: ColorChoice,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy from SRC to DST.
    Copy(Box<copy::Copy>),
    /// Run the transfers of a job manifest.
    Run(run::RunJob),
    /// Copy the failed objects of a report again.
    Retry(retry::Retry),
    /// Show the objects, bytes, parts, and requests of a job, or plan its shards. Copies nothing.
    Plan(plan::PlanJob),
    /// Check a job: the manifest, access to each bucket, and, with --probe, the server's
    /// capabilities.
    Check(check::CheckJob),
    /// Show the progress of a run, from its journal or its state prefix.
    Status(status::Status),
    /// Show the totals of a report, and the objects that failed or are pending.
    Report(report::Reports),
    /// Compare both sides of a job, of SRC and DST, or of a report. Writes nothing.
    Verify(Box<verify::VerifyArgs>),
    /// List, inspect, abort, or complete unfinished multipart uploads.
    Uploads(uploads::Uploads),
    /// Print the JSON schema of the manifest, for editors.
    Schema,
    /// Serve S3 from memory, for experiments and tests.
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::Serve),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of a command, or write all of them into a directory.
    Man(man::ManPages),
    /// Print the version.
    #[command(hide = true)]
    Version,
}

impl Command {
    /// Returns true for a command that may read or write files below the working directory.
    fn has_paths(&self) -> bool {
        #[cfg(feature = "sandbox")]
        if matches!(self, Self::Sandbox(_)) {
            return false;
        }
        !matches!(
            self,
            Self::Schema | Self::Completions { .. } | Self::Man(_) | Self::Version
        )
    }

    fn has_no_manifest(&self) -> bool {
        match self {
            Self::Copy(_) | Self::Uploads(_) | Self::Report(_) => true,
            Self::Verify(verify) => verify.is_of_two_sides(),
            _ => false,
        }
    }
}

/// The server to connect to, and the identity. A setting without a flag comes from the profile, or
/// else from the AWS_* variables.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Endpoint")]
struct EndpointFlags {
    /// URL of a server other than Amazon S3, or of a VPC endpoint.
    #[arg(long, global = true, value_name = "URL")]
    endpoint_url: Option<String>,
    /// Region to sign for. Default: on Amazon S3, the bucket's Region; elsewhere, the Region of the
    /// profile or environment, or us-east-1.
    #[arg(long, global = true)]
    region: Option<String>,
    /// Profile of the shared AWS configuration. Its credentials override those of the environment.
    #[arg(long, global = true)]
    profile: Option<String>,
    /// Put the bucket name in the path (true) or in the host name (false) of URLs.
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    path_style: Option<bool>,
    /// Allow signed requests over plain HTTP to another machine. Anyone on the network path can
    /// read them.
    #[arg(long, global = true)]
    allow_http: bool,
    /// PEM file of CA certificates. Only these are trusted.
    #[arg(long, global = true, value_name = "FILE")]
    ca_bundle: Option<PathBuf>,
    /// URL of an HTTP proxy, or `none`. Default: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, and NO_PROXY.
    #[arg(long, global = true, value_name = "URL")]
    proxy: Option<String>,
    /// Kind of server. It determines which capabilities s3haul relies on.
    #[arg(long, global = true, value_name = "NAME", value_parser = word::<Provider>())]
    provider: Option<Provider>,
    /// Trust the responses of the server (`answers`), or check each object after it is written and
    /// before it counts as equal (`nothing`).
    #[arg(long, global = true, value_name = "HOW", value_parser = word::<Trust>())]
    trust: Option<Trust>,
}

impl EndpointFlags {
    /// Returns each flag, and whether it was given.
    fn flags(&self) -> [unused_flags::Flag; 9] {
        [
            ("--endpoint-url", self.endpoint_url.is_some()),
            ("--path-style", self.path_style.is_some()),
            ("--allow-http", self.allow_http),
            ("--ca-bundle", self.ca_bundle.is_some()),
            ("--proxy", self.proxy.is_some()),
            ("--region", self.region.is_some()),
            ("--profile", self.profile.is_some()),
            ("--provider", self.provider.is_some()),
            ("--trust", self.trust.is_some()),
        ]
    }

    fn endpoint(&self) -> ResolvedEndpoint {
        let endpoint = Endpoint {
            name: DEFAULT_ENDPOINT.to_owned(),
            url: self.endpoint_url.clone(),
            region: self.region.clone(),
            profile: self.profile.clone(),
            path_style: self.path_style,
            allow_http: self.allow_http,
            ca_bundle: self.ca_bundle.clone().map(LocalPath),
            proxy: self.proxy.as_deref().and_then(|text| text.parse().ok()),
            provider: self.provider.unwrap_or_default(),
            trust: self.trust.unwrap_or_default(),
            ..Endpoint::default()
        };
        let mut resolved = endpoint.resolve(&Environment::load());
        // Parsed here and not by clap, whose error would show the text, which may hold a password.
        let mistake = match self.proxy.as_deref().map(str::parse::<ProxySetting>) {
            Some(Err(error)) => Some((format!("--proxy: {error}"), ProxyError::REMEDY)),
            // Other users of the machine can see command lines, and reports store them.
            Some(Ok(ProxySetting::Url(url))) if url.as_str().contains('@') => Some((
                "--proxy: this URL has a user or a password, and every user on this machine can see command lines"
                    .to_owned(),
                "put it into HTTPS_PROXY or HTTP_PROXY",
            )),
            _ => None,
        };
        if let Some((message, remedy)) = mistake {
            let remedy = remedy.to_owned();
            resolved.mistakes.push(EndpointMistake {
                field: Some("proxy"),
                message,
                remedy,
            });
        }
        resolved
    }
}

/// Returns a parser for the words of a manifest enum. Help and completions list all of them.
fn word<T>() -> impl TypedValueParser<Value = T>
where
    T: serde::de::DeserializeOwned + schemars::JsonSchema + Clone + Send + Sync + 'static,
{
    let schema = schemars::schema_for!(T).to_value();
    let variants = schema["oneOf"]
        .as_array()
        .cloned()
        .unwrap_or_else(|| vec![schema.clone()]);
    let names = variants.iter().flat_map(|variant| {
        let several = variant["enum"].as_array().cloned().unwrap_or_default();
        several.into_iter().chain([variant["const"].clone()])
    });
    let names = names
        .filter_map(|name| name.as_str().map(str::to_owned))
        .map(PossibleValue::new);
    PossibleValuesParser::new(names)
        .try_map(|name| serde_json::from_value(serde_json::Value::String(name)))
}

/// Parses the path of an output file, as typed. Refuses an S3 location, which would create a
/// directory called `s3:`.
fn output_file(text: &str) -> Result<PathBuf, String> {
    if text.starts_with("s3://") || suggestion(text).is_some() {
        return Err(
            "this is not a local path; write to a local file, then copy it to S3".to_owned(),
        );
    }
    Ok(text.into())
}

/// Parses a local source, as typed. A path that does not exist may be a misspelled S3 location.
fn local_source(text: &str) -> Result<LocalPath, CliError> {
    let missing = Path::new(text)
        .symlink_metadata()
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if !missing {
        return Ok(LocalPath(text.into()));
    }
    let message = format!("there is no file or directory {text}");
    Err(match suggestion(text).or_else(|| bare(text)) {
        Some(meant) => CliError::Usage(format!("{message}; {meant}")),
        None => CliError::Absent(format!("{message}; check the path")),
    })
}

/// The output settings of all commands.
#[derive(Clone, Copy, Debug, Default)]
struct Output {
    json: bool,
    quiet: bool,
    /// Set if the command has no manifest, so that remedies name flags.
    flags: bool,
}

impl Output {
    /// Returns a remedy that names flags if the user typed flags, or else manifest fields.
    fn spoken(self, remedy: String) -> String {
        if self.flags {
            flags::spoken(&remedy)
        } else {
            remedy
        }
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let Manner {
        log_format,
        termination_log,
    } = parse::manner(&words);
    telemetry::set_format(log_format);
    let (termination_log, exit) = match parse::parse(&words) {
        Ok(mut cli) => {
            let termination_log = cli.termination_log.take();
            // A panic outside the command's task must also end with the exit code of a bug.
            let ended = catch_unwind(AssertUnwindSafe(|| execute(cli)));
            (termination_log, ended.unwrap_or(Exit::Bug))
        }
        Err(Refusal::Habit(answer)) => {
            let error = CliError::Usage(answer);
            let exit = fail(&error, ColorChoice::Never, Output::default());
            (termination_log, exit)
        }
        Err(Refusal::Parser(error)) => match parse::tell(&error) {
            // Help needs no termination log.
            Exit::Done => return Exit::Done.into(),
            exit => (termination_log, exit),
        },
    };
    termination::write(termination_log, exit);
    exit.into()
}

/// Runs a parsed command, and returns its exit code.
fn execute(cli: Cli) -> Exit {
    let Cli {
        command,
        verbose,
        json,
        quiet,
        log_format,
        termination_log: _,
        color,
    } = cli;
    telemetry::set_format(log_format);
    panics::report();
    signals::note_ignored();
    if let Err(message) = telemetry::init(verbose, log_format, color::is_on(color, &io::stderr())) {
        return fail(&CliError::Usage(message), color, Output::default());
    }
    let flags = command.has_no_manifest();
    let output = Output { json, quiet, flags };
    if flags {
        telemetry::speak(flags::spoken);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), color, output),
    };
    let outcome = runtime.block_on(async {
        // Listens before the command does anything, because a signal may arrive at any moment.
        let signals = Signals::listen();
        // Runs in a separate task, so that a panic becomes an exit code and not an abort.
        let command = tokio::spawn(dispatch(command, output));
        let Ok(signals) = signals else {
            return command.await;
        };
        tokio::select! {
            biased;
            ended = command => ended,
            interrupted = signals::interruption(signals) => Ok(Err(interrupted)),
        }
    });
    // Blocked reads of files and pipes must not delay the exit.
    runtime.shutdown_background();
    end_credential_processes();
    match outcome {
        Ok(Ok(exit)) => exit,
        Ok(Err(error)) => fail(&error, color, output),
        Err(_panicked) => Exit::Bug,
    }
}

async fn dispatch(command: Command, output: Output) -> Result<Exit, CliError> {
    if command.has_paths() {
        job_environment::require_directory()?;
    }
    match command {
        Command::Copy(copy) => Box::pin(copy.execute(output)).await,
        Command::Run(run) => Box::pin(run.execute(output)).await,
        Command::Retry(retry) => Box::pin(retry.execute(output)).await,
        Command::Plan(plan) => Box::pin(plan.execute(output)).await,
        Command::Check(check) => Box::pin(check.execute(output)).await,
        Command::Status(status) => Box::pin(status.execute(output)).await,
        Command::Verify(verify) => Box::pin(verify.execute(output)).await,
        Command::Report(reports) => Box::pin(reports.execute(output)).await,
        Command::Uploads(uploads) => Box::pin(uploads.execute(output)).await,
        Command::Schema => {
            let schema =
                serde_json::to_string_pretty(&manifest::schema::json()).map_err(io::Error::from)?;
            say(&schema)
        }
        #[cfg(feature = "sandbox")]
        Command::Sandbox(serve) => serve.execute(output).await,
        Command::Completions { shell } => say(completions::script(shell).trim_end()),
        Command::Man(man) => man.execute(),
        Command::Version => say(concat!("s3haul ", env!("CARGO_PKG_VERSION"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        endpoint: EndpointFlags,
    }

    #[test]
    fn an_endpoint_in_a_message_is_the_one_that_the_command_reads() {
        let all = Endpoint {
            name: DEFAULT_ENDPOINT.to_owned(),
            url: Some("http://127.0.0.1:9".to_owned()),
            region: Some("eu-west-1".to_owned()),
            path_style: Some(false),
            allow_http: true,
            ca_bundle: Some(LocalPath("a b.pem".into())),
            proxy: "http://proxy:3128".parse().ok(),
            provider: Provider::Seaweedfs,
            trust: Trust::Nothing,
            ..Endpoint::default()
        };
        let none = Endpoint {
            name: DEFAULT_ENDPOINT.to_owned(),
            ..Endpoint::default()
        };
        let direct = Endpoint {
            proxy: "none".parse().ok(),
            path_style: Some(true),
            ..none.clone()
        };
        for endpoint in [all, none, direct] {
            let flags = endpoint.flags();
            let typed =
                Typed::try_parse_from(["s3haul".to_owned()].into_iter().chain(flags.clone()))
                    .unwrap();
            assert_eq!(typed.endpoint.endpoint().stated, endpoint, "{flags:?}");
        }
        let secret = Endpoint {
            proxy: "http://user:hunter2@proxy:3128".parse().ok(),
            ..Endpoint::default()
        };
        assert_eq!(secret.flags(), [""; 0]);
    }
}
