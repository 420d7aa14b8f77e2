//! `uploads`: the multipart uploads that a bucket has open. Their parts are billed until someone completes or aborts them, and
//! no listing of objects shows them.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use futures::TryStreamExt;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::place::Place;
use super::{CliError, EndpointFlags, Exit, Output, say};
use crate::bucket::Bucket;
use crate::location::S3Uri;
use crate::manifest::job::{DEFAULT_ENDPOINT, Destination, Job, Source, Transfer};
use crate::multipart::{self, MultipartUpload};
use crate::s3::{CompleteSpec, OpenUpload};
use crate::size::{ByteSize, display_count, display_duration, parse_duration};

/// Lists, inspects, aborts or completes open uploads.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  s3haul uploads list s3://lake/tmp/
  s3haul uploads parts s3://lake/tmp/big.bin UPLOAD_ID
  s3haul uploads abort s3://lake/tmp/big.bin UPLOAD_ID
  s3haul uploads abort s3://lake/tmp/ --older-than 7d --dry-run
  s3haul uploads complete s3://lake/tmp/big.bin UPLOAD_ID")]
pub(super) struct Uploads {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    endpoint: EndpointFlags,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the open uploads of a bucket or below a prefix.
    List {
        /// s3://bucket or s3://bucket/prefix
        location: S3Uri,
        /// Only uploads begun longer ago than this, for instance 2d or 12h.
        #[arg(long, value_name = "AGE", value_parser = parse_duration)]
        older_than: Option<std::time::Duration>,
    },
    /// List the parts that an upload has.
    Parts {
        /// s3://bucket/key
        location: S3Uri,
        /// The upload id, from `uploads list`.
        upload_id: String,
    },
    /// Abort one upload, or all below a prefix that are older than an age.
    Abort {
        /// s3://bucket/key, or a prefix with --older-than
        location: S3Uri,
        /// The upload id, from `uploads list`.
        #[arg(required_unless_present = "older_than", conflicts_with = "older_than")]
        upload_id: Option<String>,
        /// All uploads below LOCATION that were begun longer ago than this.
        #[arg(long, value_name = "AGE", value_parser = parse_duration)]
        older_than: Option<std::time::Duration>,
        /// Show what would be aborted, and abort nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Complete an upload from all the parts that S3 holds.
    Complete {
        /// s3://bucket/key
        location: S3Uri,
        /// The upload id, from `uploads list`.
        upload_id: String,
    },
}

impl Action {
    fn location(&self) -> &S3Uri {
        match self {
            Self::List { location, .. }
            | Self::Parts { location, .. }
            | Self::Abort { location, .. }
            | Self::Complete { location, .. } => location,
        }
    }
}

impl Uploads {
    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        let location = self.action.location().clone();
        let bucket = connect(&location, &self.endpoint).await?;
        match self.action {
            Action::List { older_than, .. } => list(&bucket, &location, older_than, output).await,
            Action::Parts { upload_id, .. } => parts(&bucket, &location, &upload_id, output).await,
            Action::Abort { upload_id: Some(id), dry_run, .. } => {
                if dry_run {
                    return say(&format!("would abort {location} {id}"));
                }
                // Aborting what is not there succeeds everywhere; a mistyped id must not.
                bucket.list_parts(&location.key, &id, None).await?;
                MultipartUpload::open(&bucket, &location.key, id).cancel().await?;
                say(&format!("aborted {location}"))
            }
            Action::Abort { upload_id: None, older_than, dry_run, .. } => {
                abort_older(&bucket, &location, older_than, dry_run).await
            }
            Action::Complete { upload_id, .. } => complete(&bucket, &location, &upload_id, output).await,
        }
    }
}

/// The bucket, reached as the flags say.
async fn connect(location: &S3Uri, endpoint: &EndpointFlags) -> Result<Bucket, CliError> {
    let to = Destination {
        endpoint: DEFAULT_ENDPOINT.to_owned(),
        location: location.clone(),
        storage_class: None,
        encryption: None,
    };
    let job = Job::single(Transfer::new("uploads", Source::Stdin, to), [endpoint.endpoint()]);
    let mut connections = Place::ambient().connect(&job, &CancellationToken::new());
    Ok(connections.bucket(DEFAULT_ENDPOINT, &location.bucket).await?)
}

fn age(upload: &OpenUpload) -> Option<std::time::Duration> {
    let since = Timestamp::now().duration_since(upload.initiated?);
    Some(since.try_into().unwrap_or_default())
}

/// An upload whose age is not known is never older than anything.
fn is_older(upload: &OpenUpload, than: Option<std::time::Duration>) -> bool {
    than.is_none_or(|than| age(upload).is_some_and(|age| age > than))
}

async fn list(
    bucket: &Bucket,
    location: &S3Uri,
    older_than: Option<std::time::Duration>,
    output: Output,
) -> Result<Exit, CliError> {
    let prefix = location.key.as_str();
    let uploads = multipart::uploads(bucket, prefix);
    let mut uploads = std::pin::pin!(uploads);
    let mut count = 0;
    while let Some(upload) = uploads.try_next().await? {
        if !is_older(&upload, older_than) {
            continue;
        }
        count += 1;
        if output.json {
            say(&serde_json::to_string(&upload).map_err(io::Error::from)?)?;
        } else {
            let age = age(&upload).map_or_else(|| "unknown age".to_owned(), display_duration);
            let begun = upload.initiated.map(|time| time.to_string()).unwrap_or_default();
            say(&format!("{begun}  {age:>10}  s3://{}/{}  {}", bucket.name(), upload.key, upload.upload_id))?;
        }
    }
    let _ = writeln!(io::stderr().lock(), "{} open uploads", display_count(count));
    Ok(Exit::Done)
}

async fn parts(bucket: &Bucket, location: &S3Uri, upload_id: &str, output: Output) -> Result<Exit, CliError> {
    let upload = MultipartUpload::open(bucket, &location.key, upload_id);
    let parts = upload.parts();
    let mut parts = std::pin::pin!(parts);
    let (mut count, mut bytes) = (0, 0);
    while let Some(part) = parts.try_next().await? {
        (count, bytes) = (count + 1, bytes + part.size);
        if output.json {
            say(&serde_json::json!({ "number": part.number, "size": part.size, "etag": part.etag })
                .to_string())?;
        } else {
            say(&format!("{:>5}  {:>12}  {}", part.number, ByteSize(part.size), part.etag))?;
        }
    }
    let _ = writeln!(io::stderr().lock(), "{} parts, {}", display_count(count), ByteSize(bytes));
    Ok(Exit::Done)
}

async fn abort_older(
    bucket: &Bucket,
    location: &S3Uri,
    older_than: Option<std::time::Duration>,
    dry_run: bool,
) -> Result<Exit, CliError> {
    let found: Vec<OpenUpload> = multipart::uploads(bucket, location.key.as_str()).try_collect().await?;
    let mut exit = Exit::Done;
    for upload in found.iter().filter(|upload| is_older(upload, older_than)) {
        let place = format!("s3://{}/{} {}", bucket.name(), upload.key, upload.upload_id);
        if dry_run {
            say(&format!("would abort {place}"))?;
            continue;
        }
        let key = upload.key.parse().map_err(|error| CliError::Usage(format!("{place}: {error}")))?;
        match MultipartUpload::open(bucket, &key, &upload.upload_id).cancel().await {
            Ok(()) => {
                say(&format!("aborted {place}"))?;
            }
            Err(failure) => {
                let _ = writeln!(io::stderr().lock(), "failed: {failure}");
                exit = Exit::Failures;
            }
        }
    }
    Ok(exit)
}

async fn complete(
    bucket: &Bucket,
    location: &S3Uri,
    upload_id: &str,
    output: Output,
) -> Result<Exit, CliError> {
    let upload = MultipartUpload::open(bucket, &location.key, upload_id);
    let parts: Vec<_> = upload.parts().try_collect().await?;
    if parts.is_empty() {
        return Err(CliError::Usage(format!("{location}: the upload has no parts yet; abort it instead")));
    }
    let size = parts.iter().map(|part| part.size).sum();
    let written = upload.complete(&parts, &CompleteSpec { size, ..CompleteSpec::default() }).await?;
    if output.json {
        let line = serde_json::json!({ "destination": location.to_string(), "size": size, "parts": parts.len(), "etag": written.etag });
        return say(&line.to_string());
    }
    say(&format!("completed {location}: {} in {} parts, ETag {}", ByteSize(size), parts.len(), written.etag))
}
