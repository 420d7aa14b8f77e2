//! Logs: to standard error, as text or as lines of JSON.
//!
//! `S3HAUL_LOG` takes filter directives (`s3haul=debug,aws=info`) and wins over `-v`. Spans are not used on the path of
//! a request: at thousands of requests a second they cost more than the request.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for log collectors.
    Json,
}

/// Begins logging. `verbosity` 0 shows warnings, 1 information, 2 debugging, 3 the SDK's too.
pub fn init(verbosity: u8, format: LogFormat) {
    let default = match verbosity {
        0 => "s3haul=warn",
        1 => "s3haul=info",
        2 => "s3haul=debug",
        _ => "s3haul=trace,aws=debug",
    };
    let filter = EnvFilter::try_from_env("S3HAUL_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_timer(SystemTime);
    // A second initialisation is a test's; the first one stays.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
