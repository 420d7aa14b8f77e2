//! Logs to standard error, as text or as lines of JSON.
//!
//! `S3HAUL_LOG` takes filter directives (`s3haul=debug,aws=info`) and takes precedence over `-v`.
//! Requests have no spans: at thousands of requests per second, the spans would cost more than the
//! requests.
//!
//! All output to standard error goes through one writer ([`line`]), which knows the format.
//!
//! Two rules hold whatever the directives say. First, no secret is logged: the SDK and the HTTP
//! client print requests with all headers at level trace, so events of other crates never pass at
//! that level ([`may_hold_secrets`]). Second, one event is one line: values are escaped
//! ([`crate::printable`]), so that a key with a line break cannot forge an event.

mod json;
mod line;

use std::io;
use std::sync::OnceLock;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::{FormatFields, Writer, debug_fn};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, field::MakeExt as _};

use self::json::JsonLines;
pub(crate) use self::line::{Note, is_json, name_job, name_run, pod, set_format};
pub use self::line::{Screen, draw_above};
use crate::printable::printable;
use crate::s3::LOGS_REQUEST_IDS;

/// The variable that holds the filter directives.
pub const VARIABLE: &str = "S3HAUL_LOG";

/// The format of logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line, for log collectors.
    Json,
}

/// Starts logging. `verbosity` 0 shows warnings, 1 also information, 2 also debug output, and 3
/// also the SDK's events. `colors` applies to text.
///
/// # Errors
/// Fails if `S3HAUL_LOG` is not a valid filter. The message names the mistake.
pub fn init(verbosity: u8, format: LogFormat, colors: bool) -> Result<(), String> {
    let default = match verbosity {
        0 => "s3haul=warn",
        1 => "s3haul=info",
        2 => "s3haul=debug",
        _ => "s3haul=trace,aws=debug",
    };
    let filter = match std::env::var(VARIABLE).unwrap_or_default().trim() {
        "" => EnvFilter::new(default),
        directives => filter(directives)?,
    };
    let safe = filter_fn(|metadata| !may_hold_secrets(metadata));
    let registry = tracing_subscriber::registry().with(filter).with(safe);
    // Only tests initialize twice. The first subscriber stays.
    let _ = match format {
        LogFormat::Text => {
            let layer = tracing_subscriber::fmt::layer()
                .with_timer(SystemTime)
                .with_ansi(colors)
                .with_target(false)
                .fmt_fields(fields())
                .with_writer(|| Above);
            registry.with(layer).try_init()
        }
        LogFormat::Json => registry.with(JsonLines).try_init(),
    };
    Ok(())
}

/// Modules that print secrets at levels above trace, with the most verbose level that is safe.
const INDISCREET: [(&str, Level); 2] = [
    // Quotes lines of the shared credentials file that it cannot parse.
    ("aws_runtime::env_config::normalize", Level::ERROR),
    // The sandbox's S3 server prints requests.
    ("s3s", Level::INFO),
];

/// Returns true for events that may print requests, signatures, or credential files.
fn may_hold_secrets(metadata: &Metadata<'_>) -> bool {
    let (target, level) = (metadata.target(), *metadata.level());
    let is_within = |module: &str| {
        target
            .strip_prefix(module)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    if is_within("s3haul") {
        return false;
    }
    // The SDK prints the request IDs from a server, which may quote the request.
    let quotes_ids = metadata.is_event() && is_within(LOGS_REQUEST_IDS);
    level == Level::TRACE
        || (quotes_ids && level > Level::INFO)
        || INDISCREET
            .iter()
            .any(|(module, most)| is_within(module) && level > *most)
}

/// Rewrites messages that name fields of a manifest, for commands without one.
static WORDS: OnceLock<fn(&str) -> String> = OnceLock::new();

/// Sets the function that rewrites messages for commands without a manifest.
pub(crate) fn speak(words: fn(&str) -> String) {
    let _ = WORDS.set(words);
}

/// Returns a message in the words that the user typed.
fn spoken(message: String) -> String {
    match WORDS.get() {
        Some(words) if message.contains("(`patience`)") => words(&message),
        _ => message,
    }
}

/// Formats the fields of an event on one line, with values escaped.
fn fields() -> impl for<'a> FormatFields<'a> + Send + Sync + 'static {
    debug_fn(|out: &mut Writer<'_>, field, value| {
        let value = format!("{value:?}");
        match field.name() {
            "message" => write!(out, "{}", printable(&spoken(value))),
            name => write!(out, "{name}={}", printable(&value)),
        }
    })
    .delimited(" ")
}

/// Writes to standard error, above the progress bars.
struct Above;

impl io::Write for Above {
    /// Writes a line. The subscriber makes one call per event.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        line::write(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Parses filter directives. A word without `=` that is not a level selects a module and hides all
/// others, so it must look like a module name.
fn filter(directives: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    const MODULES: [&str; 6] = ["s3haul", "aws", "hyper", "rustls", "h2", "tokio"];
    let refuse = |what: String| {
        format!(
            "{VARIABLE}: {what}; write a level (off, error, warn, info, debug, trace) or for instance s3haul=debug,aws=info"
        )
    };
    let words = directives.split(',').map(str::trim);
    let words = words.filter(|word| !word.is_empty());
    let directives = &words.collect::<Vec<_>>().join(",");
    for word in directives
        .split(',')
        .filter(|word| !word.is_empty() && !word.contains(['=', '[']))
    {
        let is_level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        if !is_level && !MODULES.iter().any(|module| word.starts_with(module)) {
            return Err(refuse(format!("`{word}` is not a level")));
        }
    }
    EnvFilter::builder()
        .parse(directives)
        .map_err(|error| refuse(format!("`{directives}`: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_filters_are_told() {
        for good in [
            "info",
            "info,",
            ", s3haul=debug,,warn, ",
            "",
            "DEBUG",
            "s3haul=debug,aws=info",
            "s3haul::pace",
            "aws_config=trace",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["infoo", "verbose,aws=info", "s3haul=loud"] {
            let told = filter(bad).unwrap_err();
            assert!(
                told.contains("S3HAUL_LOG") && told.contains("a level"),
                "{told}"
            );
        }
    }
}
