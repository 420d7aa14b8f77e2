//! Checks, before the first write, that the local sources of a job and the objects that it names
//! individually exist.
//!
//! The most common mistake is a prefix without its slash: `s3://lake/events` names one object,
//! which does not exist. A HEAD of each named object detects the mistake, and one list request
//! distinguishes a mistyped prefix from a mistyped key.

use std::path::Path;
use std::{fs, io};

use super::CliError;
use crate::bucket::Bucket;
use crate::connections::Connections;
use crate::location::S3Uri;
use crate::manifest::job::{Job, Source, Transfer, Versions};
use crate::manifest::may_read;
use crate::s3::paging::{Order, PageVerdict, Paging};
use crate::s3::{Failure, FailureKind, ListedObject, Operation, Page};
use crate::size::display_count;

/// Checks each local source, and each object that a transfer names. Skips an object that an earlier
/// transfer may write, or whose old versions the job copies.
pub(super) async fn require(job: &Job, connections: &mut Connections) -> Result<(), CliError> {
    for (number, transfer) in job.transfers.iter().enumerate() {
        if let Source::Files { path, .. } = &transfer.from
            && let Err(error) = readable(path.as_path())
        {
            let path = path.as_path().display();
            let what = if error.kind() == io::ErrorKind::NotFound {
                format!("there is no file or directory {path}; check the path")
            } else {
                format!("{path} cannot be read: {error}; check the path and its permissions")
            };
            return Err(CliError::Absent(format!(
                "{}{what}",
                prefix_of(job, transfer)
            )));
        }
        let Source::Object {
            location,
            version: None,
            ..
        } = &transfer.from
        else {
            continue;
        };
        let is_written_first = || {
            job.transfers[..number]
                .iter()
                .any(|earlier| may_read(job, transfer, earlier))
        };
        if transfer.versions != Versions::Current || is_written_first() {
            continue;
        }
        if let (Some(source), _) = connections.of_transfer(transfer).await? {
            look(&source, location, &prefix_of(job, transfer)).await?;
        }
    }
    Ok(())
}

/// Checks that a source on this machine exists and can be read.
fn readable(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        fs::read_dir(path).map(drop)
    } else if metadata.is_file() {
        fs::File::open(path).map(drop)
    } else {
        // Opening a pipe would block. The run refuses it with another message.
        Ok(())
    }
}

/// Checks that an object exists. Messages begin with `name`.
async fn look(source: &Bucket, location: &S3Uri, name: &str) -> Result<(), CliError> {
    let Err(failure) = source.head(&location.key, None).await else {
        return Ok(());
    };
    if !matches!(failure.kind(), FailureKind::NotFound | FailureKind::Denied) {
        // The run gets any other failure too, and handles it better than this check could.
        return Ok(());
    }
    let is_missing = *failure.kind() == FailureKind::NotFound;
    let below = format!("{location}/");
    let absent = |what: String| Err(CliError::Absent(format!("{name}{what}")));
    match first_page(source, &format!("{}/", location.key)).await {
        Ok(page) if !page.items.is_empty() => {
            let more = if page.next.is_some() { "+" } else { "" };
            let count = display_count(page.items.len() as u64);
            let noun = if count == "1" && more.is_empty() {
                "object is"
            } else {
                "objects are"
            };
            absent(format!(
                "there is no object {location}; {count}{more} {noun} below it: write {below} (on the command line, --recursive \
                 does the same)"
            ))
        }
        Ok(_) if is_missing => absent(format!(
            "there is no object {location}, and there are none below {below}; check the spelling"
        )),
        // The bucket can be listed, so the 403 concerns only this object, and the run reports it.
        Ok(_) => Ok(()),
        Err(_) if is_missing => absent(format!(
            "there is no object {location}; if it is a prefix, write {below} (s3haul could not list the objects below it)"
        )),
        Err(listed) => absent(format!(
            "{location} cannot be read ({}; {}): without s3:ListBucket, S3 also answers 403 for objects that do not exist; \
             check the key, write {below} if it is a prefix, or get s3:GetObject and s3:ListBucket",
            answer(&failure),
            answer(&listed)
        )),
    }
}

/// Returns the server's error in one line.
fn answer(failure: &Failure) -> String {
    let details = failure.details();
    format!(
        "{}: {}: {}",
        details.operation,
        details.code,
        details.message.trim_end_matches('.')
    )
}

/// Returns the first list page with objects, or the last page if there are none. An empty page with
/// a continuation does not prove that there are none.
async fn first_page(source: &Bucket, prefix: &str) -> Result<Page<ListedObject>, Failure> {
    let mut paging = Paging::new(
        Operation::ListObjects,
        source.name(),
        prefix,
        Order::Unknown,
    );
    let mut token = None;
    loop {
        let mut page = source.list(prefix, None, token.as_deref()).await?;
        if paging.check(&mut page)? == PageVerdict::Again {
            continue;
        }
        if !page.items.is_empty() || page.next.is_none() {
            return Ok(page);
        }
        token = page.next;
    }
}

/// Returns the name of a manifest's transfer as a prefix for messages. A transfer from the command
/// line has no name.
fn prefix_of(job: &Job, transfer: &Transfer) -> String {
    if job.manifest_sha256.is_some() {
        format!("{}: ", transfer.name)
    } else {
        String::new()
    }
}
