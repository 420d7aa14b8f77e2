//! Finds the journals that the user's arguments refer to.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::{JOURNAL, location};
use crate::cli::job_environment::{JobEnvironment, records_at};
use crate::cli::{CliError, EndpointFlags, load, note};
use crate::journal::{Glance, Location, look};
use crate::listing::local::JOURNALS;
use crate::location::S3Uri;
use crate::manifest::job::JournalPlace;

/// The journals that a command reads.
#[derive(Clone, Debug)]
pub(in crate::cli) enum Named {
    /// All journals below the working directory.
    None,
    /// The journal in this directory.
    Directory(PathBuf),
    /// The journal whose objects lie below this prefix.
    Prefix(S3Uri),
    /// The journal of the job in this manifest.
    JobIn(PathBuf),
}

/// Returns the value of `S3HAUL_JOURNAL`, or `None` if it is unset or empty.
pub(in crate::cli) fn of_environment() -> Result<Option<JournalPlace>, CliError> {
    let text = std::env::var(JOURNAL).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error| CliError::Usage(format!("{JOURNAL}: {error}")))
}

/// Returns the names and the locations of the named journals.
pub(in crate::cli) async fn places(
    named: Named,
    endpoint: &EndpointFlags,
) -> Result<Vec<(String, Location)>, CliError> {
    let of_directory = |path: PathBuf| (path.display().to_string(), Location::Directory(path));
    Ok(match named {
        Named::None => {
            let Ok(entries) = std::fs::read_dir(JOURNALS) else {
                return Ok(Vec::new());
            };
            let mut paths: Vec<PathBuf> = entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            paths.retain(|path| path.is_dir());
            paths.sort();
            paths.into_iter().map(of_directory).collect()
        }
        Named::Directory(path) => vec![of_directory(path)],
        Named::Prefix(uri) => {
            let bucket = records_at(&uri, endpoint).await?;
            vec![(uri.to_string(), Location::Bucket(bucket, uri.key))]
        }
        Named::JobIn(path) => {
            let mut job = load(&path)?;
            if let Some(place) = of_environment()? {
                job.journal = place;
            }
            let mut connections =
                JobEnvironment::ambient().connect(&job, &CancellationToken::new());
            match location(&job, &mut connections).await? {
                Some(Location::Directory(path)) => vec![of_directory(path)],
                Some(bucket @ Location::Bucket(..)) => vec![(path.display().to_string(), bucket)],
                None => {
                    let message = format!("{}: its runs keep no journal", path.display());
                    return Err(CliError::Usage(message));
                }
            }
        }
    })
}

/// Reads journals, and omits locations without one. If the user named none (`is_list`), notes and
/// skips a journal that cannot be read, because it does not concern the others.
///
/// # Errors
/// Fails if a named journal cannot be read, or if none can. Returns the first error, and notes the
/// others.
pub(in crate::cli) async fn glances(
    places: &[(String, Location)],
    is_list: bool,
) -> Result<Vec<(String, Glance)>, CliError> {
    let mut found = Vec::new();
    let mut unread = Vec::new();
    for (place, location) in places {
        match look(location.clone()).await {
            Ok(glance) => found.extend(glance.map(|glance| (place.clone(), glance))),
            Err(error) if is_list => unread.push((place, error)),
            Err(error) => return Err(error.into()),
        }
    }
    let mut unread = unread.into_iter();
    let first = if found.is_empty() {
        unread.next()
    } else {
        None
    };
    for (place, error) in unread {
        note(&format!("the journal {place} cannot be read: {error}"));
    }
    match first {
        Some((_, error)) => Err(error.into()),
        None => Ok(found),
    }
}
