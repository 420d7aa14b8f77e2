//! The manifest of a command: a file, or standard input.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;

use super::CliError;
use crate::endpoint::Environment;
use crate::location::suggestion;
use crate::manifest::job::Job;
use crate::manifest::{self, ManifestError};
use crate::telemetry;

/// A job manifest.
#[derive(Clone, Debug, Args)]
pub(super) struct JobFile {
    /// Job manifest, in YAML; - reads it from standard input.
    #[arg(value_name = "JOB")]
    pub(super) path: PathBuf,
    /// Run the job on an S3 server inside this process, in place of all its endpoints.
    #[cfg(feature = "sandbox")]
    #[arg(long)]
    pub(super) sandbox: bool,
}

impl JobFile {
    pub(super) fn load(&self) -> Result<Job, CliError> {
        let job = self.read()?;
        telemetry::name_job(&job.name);
        Ok(job)
    }

    pub(super) fn read(&self) -> Result<Job, CliError> {
        let environment = Environment::load();
        #[cfg(feature = "sandbox")]
        if self.sandbox {
            return load_in(&self.path, &environment.isolated());
        }
        let mut job = load_in(&self.path, &environment)?;
        super::journal::leave_out_own_files(&mut job);
        Ok(job)
    }
}

/// The name of a manifest that comes from standard input.
const STDIN: &str = "standard-input";

/// Loads the job in a manifest, with the settings from its environment.
pub(super) fn load(path: &Path) -> Result<Job, CliError> {
    load_in(path, &Environment::load())
}

/// Reads a manifest. A pipe may never end, so another thread takes over the other tasks of this
/// one until the manifest is read.
fn load_in(path: &Path, environment: &Environment) -> Result<Job, CliError> {
    tokio::task::block_in_place(|| read_in(path, environment))
}

fn read_in(path: &Path, environment: &Environment) -> Result<Job, CliError> {
    if path != Path::new("-") {
        return Job::load(path, environment)
            .map_err(|error| not_found(path).unwrap_or(error.into()));
    }
    let mut bytes = Vec::new();
    let stdin = io::stdin().lock();
    stdin
        .take(manifest::MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| {
            CliError::Usage(format!(
                "cannot read a manifest from standard input: {error}"
            ))
        })?;
    Ok(Job::read(bytes, STDIN, environment).map_err(ManifestError::from)?)
}

/// Returns an error that suggests the probable manifest, if the named one does not exist.
fn not_found(path: &Path) -> Option<CliError> {
    if path.exists() {
        return None;
    }
    let text = path.to_string_lossy();
    if text.starts_with("s3://") || suggestion(&text).is_some() {
        let message = format!(
            "{text} is not a file, and a manifest is read from a file or from standard input: download it and pipe it in, with - as \
             the job"
        );
        return Some(CliError::Usage(message));
    }
    let found = ["yaml", "yml", "json"].into_iter().find_map(|extension| {
        let [replaced, added] = [
            path.with_extension(extension),
            PathBuf::from(format!("{text}.{extension}")),
        ];
        [replaced, added].into_iter().find(|path| path.is_file())
    })?;
    Some(CliError::Usage(format!(
        "there is no file {text}; did you mean {}?",
        found.display()
    )))
}
