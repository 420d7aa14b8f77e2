//! `uploads`: the open multipart uploads of a bucket. Their parts are billed until someone
//! completes or aborts the upload, and lists of objects do not show them.

mod abort;

use std::future::ready;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use clap::{Args, Subcommand};
use futures::{Stream, TryStreamExt};
use jiff::Timestamp;

use abort::Results;

use super::job_environment::{AccessFlags, bucket_at};
use super::journaled_uploads::{JournaledUploads, MineFlags};
use super::{CliError, EndpointFlags, Exit, Output, note, say_json, say_line, signals};
use crate::bucket::Bucket;
use crate::location::S3Uri;
use crate::multipart::MultipartUpload;
use crate::plan::cost;
use crate::s3::{CompleteSpec, Failure, FailureKind, OpenUpload, Operation, PartDone};
use crate::size::{ByteSize, display_counted, display_duration, parse_duration};

/// Lists, inspects, aborts, or completes open uploads.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  s3haul uploads list s3://lake/tmp/
  s3haul uploads parts s3://lake/tmp/big.bin UPLOAD_ID
  s3haul uploads abort s3://lake/tmp/big.bin UPLOAD_ID
  s3haul uploads abort s3://lake/tmp/ --older-than 7d --dry-run
  s3haul uploads abort s3://lake/ --mine             what runs of s3haul left open, by their journals
  s3haul uploads complete s3://lake/tmp/big.bin UPLOAD_ID")]
pub(super) struct Uploads {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    access: AccessFlags,
    #[command(flatten)]
    endpoint: EndpointFlags,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the unfinished uploads of a bucket or below a prefix.
    List {
        /// s3://bucket or s3://bucket/prefix
        location: S3Uri,
        /// List only uploads that are older than this, for instance 2d or 12h.
        #[arg(long, value_name = "AGE", value_parser = parse_duration)]
        older_than: Option<Duration>,
        #[command(flatten)]
        mine: MineFlags,
    },
    /// List the parts of an upload.
    Parts {
        /// s3://bucket/key
        location: S3Uri,
        /// Upload ID, from `uploads list`.
        upload_id: String,
    },
    /// Abort one upload, or uploads below a prefix by age or by journal.
    Abort {
        /// s3://bucket/key, or a prefix with --older-than or --mine
        location: S3Uri,
        /// Upload ID, from `uploads list`.
        #[arg(conflicts_with_all = ["older_than", "mine"])]
        upload_id: Option<String>,
        /// Abort all uploads below LOCATION that are older than this.
        #[arg(long, value_name = "AGE", value_parser = parse_duration)]
        older_than: Option<Duration>,
        #[command(flatten)]
        mine: MineFlags,
        /// Show what the command would abort, without aborting it.
        #[arg(long)]
        dry_run: bool,
    },
    /// Complete an upload from all the parts that the server lists.
    Complete {
        /// s3://bucket/key
        location: S3Uri,
        /// Upload ID, from `uploads list`.
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

impl Action {
    /// Refuses to abort uploads without a selection.
    fn check(&self) -> Result<(), CliError> {
        let Self::Abort {
            location,
            upload_id: None,
            older_than: None,
            mine,
            ..
        } = self
        else {
            return Ok(());
        };
        if mine.selects_by_journal() {
            return Ok(());
        }
        Err(CliError::Usage(format!(
            "nothing says which uploads to abort: add UPLOAD_ID (`s3haul uploads list {location}` shows them), \
             --older-than AGE (for instance 7d), or --mine (those that a journal of s3haul knows)"
        )))
    }
}

impl Uploads {
    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        let location = self.action.location().clone();
        self.action.check()?;
        let bucket = bucket_at(&location, &self.endpoint, self.access.access()).await?;
        match self.action {
            Action::List {
                older_than, mine, ..
            } => {
                let choice = Choice::of(older_than, &mine, &bucket, &self.endpoint).await?;
                list(&bucket, &location, &choice, output).await
            }
            Action::Parts { upload_id, .. } => parts(&bucket, &location, &upload_id, output).await,
            Action::Abort {
                upload_id: Some(id),
                dry_run,
                ..
            } => {
                let results = Results::new(&bucket, dry_run, output);
                abort::one(&bucket, &location, &id, &results).await
            }
            Action::Abort {
                upload_id: None,
                older_than,
                mine,
                dry_run,
                ..
            } => {
                let choice = Choice::of(older_than, &mine, &bucket, &self.endpoint).await?;
                let results = Results::new(&bucket, dry_run, output);
                abort::all(&bucket, &location, &choice, results).await
            }
            Action::Complete { upload_id, .. } => {
                complete(&bucket, &location, &upload_id, output).await
            }
        }
    }
}

/// Returns the error for an ID that belongs to no open upload.
fn not_open(failure: Failure, location: &S3Uri, id: &str) -> CliError {
    if *failure.kind() != FailureKind::NoSuchUpload {
        return failure.into();
    }
    absent(location, id, &failure.details().code)
}

/// Returns the error for a completed upload whose object is wrong or cannot be checked. This is not
/// a refusal before the first write, and no report records it.
fn not_published(failure: Failure, location: &S3Uri) -> CliError {
    let is_done = *failure.kind() == FailureKind::NotEqual
        || failure.details().operation == Operation::HeadObject;
    if !is_done || failure.is_passing() {
        return failure.into();
    }
    CliError::Failed(format!(
        "{location}: the server says that the upload is completed, and the object is not proven to be what its parts make: \
         {}; compare the object with what was uploaded, and upload it again if it is another one",
        failure.details().message
    ))
}

fn absent(location: &S3Uri, id: &str, code: &str) -> CliError {
    let bucket = &location.bucket;
    CliError::Absent(format!(
        "{location} has no open upload {id} ({code}): it was completed or aborted, or the id is mistyped; \
         `s3haul uploads list s3://{bucket}/` lists those that are open"
    ))
}

/// The time when Amazon S3 was launched, in Unix seconds. An earlier date cannot be the date of an
/// upload.
const S3_BEGAN: i64 = 1_142_294_400;

/// Returns the age by the server's date, if the date is plausible.
fn age(upload: &OpenUpload) -> Option<Duration> {
    let initiated = upload
        .initiated
        .filter(|time| time.as_second() >= S3_BEGAN)?;
    let since = Timestamp::now().duration_since(initiated);
    Some(since.try_into().unwrap_or_default())
}

/// The selection of open uploads.
struct Choice {
    older_than: Option<Duration>,
    mine: Option<JournaledUploads>,
    /// For a selection by age: the uploads that the journals of this environment record.
    beside: JournaledUploads,
    /// The first contradiction between the server's date of an upload and a journal.
    false_date: OnceLock<String>,
}

impl Choice {
    async fn of(
        older_than: Option<Duration>,
        mine: &MineFlags,
        bucket: &Bucket,
        endpoint: &EndpointFlags,
    ) -> Result<Self, CliError> {
        let mine = mine.read(bucket, endpoint).await?;
        let beside = if older_than.is_some() && mine.is_none() {
            JournaledUploads::beside(bucket, endpoint).await
        } else {
            JournaledUploads::default()
        };
        Ok(Self {
            older_than,
            mine,
            beside,
            false_date: OnceLock::new(),
        })
    }

    fn journals(&self) -> &JournaledUploads {
        self.mine.as_ref().unwrap_or(&self.beside)
    }

    /// Returns true for an upload that is old enough, and records contradictory dates of the
    /// server. An upload of unknown age is never old enough. If a journal records the upload, its
    /// age by the journal must be sufficient too.
    fn is_old_enough(&self, upload: &OpenUpload) -> bool {
        let Some(than) = self.older_than else {
            return true;
        };
        if let Some(contradiction) = self.journals().false_date(upload) {
            let _ = self.false_date.set(contradiction);
        }
        let created = self.journals().created(upload);
        let known = created.map(|time| {
            let since = Timestamp::now().duration_since(time);
            since.try_into().unwrap_or(Duration::ZERO)
        });
        age(upload).is_some_and(|age| age.min(known.unwrap_or(age)) > than)
    }

    /// Returns the contradiction found in the server's dates.
    fn false_date(&self) -> Option<&str> {
        self.false_date.get().map(String::as_str)
    }

    /// Notes which journals were read, and which of their uploads below a location were not
    /// searched for.
    fn tell_journals(&self, found: bool, location: &S3Uri) {
        if let Some(mine) = &self.mine {
            note(&mine.describe(found));
            if let Some(elsewhere) = mine.describe_elsewhere(location) {
                note(&elsewhere);
            }
        }
    }

    fn takes(&self, found: &MeasuredUpload) -> bool {
        self.mine
            .as_ref()
            .is_none_or(|mine| mine.knows(&found.upload, found.bytes))
    }

    /// Returns the reason why an upload must not be aborted, if a run is using it.
    fn forbids(&self, found: &MeasuredUpload) -> Option<String> {
        let journal = self.journals().at_work(&found.upload, found.bytes)?;
        Some(format!(
            "the run of the journal {journal} is using it; stop that run first"
        ))
    }
}

/// The number of open uploads whose parts are listed at the same time.
const ASKED_AT_ONCE: usize = 16;

/// An open upload and the size of its parts, or `None` if they cannot be listed, for instance
/// because the upload has just ended.
struct MeasuredUpload {
    upload: OpenUpload,
    bytes: Option<u64>,
}

impl MeasuredUpload {
    async fn of(bucket: &Bucket, upload: OpenUpload) -> Self {
        let sum = async {
            let key = upload.key.parse().ok()?;
            let parts = MultipartUpload::open(bucket, &key, &upload.upload_id);
            parts
                .parts()
                .try_fold(0_u64, async |sum, part| Ok(sum.saturating_add(part.size)))
                .await
                .ok()
        };
        let bytes = sum.await;
        Self { upload, bytes }
    }

    /// Returns the dollars a month, if the list price of Amazon S3 applies.
    fn month(&self, bucket: &Bucket) -> Option<f64> {
        self.list_price()
            .filter(|_| bucket.client().url().is_none())
    }

    /// Returns the dollars a month at the list price of Amazon S3, whose lists name the class of
    /// each upload.
    fn list_price(&self) -> Option<f64> {
        let class = self.upload.storage_class.as_deref()?;
        Some(cost::open_upload_month(self.bytes?, Some(class)))
    }

    fn json(&self, bucket: &Bucket) -> Result<serde_json::Value, CliError> {
        let mut line = serde_json::to_value(&self.upload).map_err(io::Error::from)?;
        line["size"] = self.bytes.into();
        line["dollars_a_month"] = self.month(bucket).into();
        Ok(line)
    }

    fn line(&self, bucket: &Bucket) -> String {
        let Self { upload, bytes } = self;
        let age = age(upload).map_or_else(|| "unknown age".to_owned(), display_duration);
        let begun = upload
            .initiated
            .map(|time| time.to_string())
            .unwrap_or_default();
        let size = bytes.map_or_else(|| "?".to_owned(), |bytes| ByteSize(bytes).to_string());
        format!(
            "{begun}  {age:>10}  {size:>10}  s3://{}/{}  {}",
            bucket.name(),
            upload.key,
            upload.upload_id
        )
    }
}

/// The totals of a list of uploads.
#[derive(Default)]
struct Wasted {
    uploads: u64,
    bytes: u64,
    month: Option<f64>,
}

impl Wasted {
    fn add(&mut self, found: &MeasuredUpload, bucket: &Bucket) {
        self.uploads += 1;
        self.bytes = self.bytes.saturating_add(found.bytes.unwrap_or(0));
        if let Some(month) = found.month(bucket) {
            *self.month.get_or_insert(0.0) += month;
        }
    }

    fn say(&self, noun: &str, what: &str) {
        let price = self
            .month
            .map(|month| format!(", about {} a month", cost::display(month)));
        let text = format!(
            "{}{what}, {}{}",
            display_counted(self.uploads, noun),
            ByteSize(self.bytes),
            price.unwrap_or_default()
        );
        note(&text);
    }
}

/// Returns the selected uploads below a location, each with the size of its parts.
fn found<'a>(
    bucket: &'a Bucket,
    location: &'a S3Uri,
    choice: &'a Choice,
) -> impl Stream<Item = Result<MeasuredUpload, Failure>> + 'a {
    MultipartUpload::list(bucket, location.key.as_str())
        .try_filter(|upload| ready(choice.is_old_enough(upload)))
        .map_ok(|upload| async { Ok(MeasuredUpload::of(bucket, upload).await) })
        .try_buffered(ASKED_AT_ONCE)
        .try_filter(|found| ready(choice.takes(found)))
}

async fn list(
    bucket: &Bucket,
    location: &S3Uri,
    choice: &Choice,
    output: Output,
) -> Result<Exit, CliError> {
    let mut uploads = std::pin::pin!(found(bucket, location, choice));
    let mut wasted = Wasted::default();
    while let Some(found) = uploads.try_next().await? {
        wasted.add(&found, bucket);
        if output.json {
            say_json(&found.json(bucket)?)?;
        } else {
            say_line(&found.line(bucket))?;
        }
    }
    wasted.say("open upload", "");
    choice.tell_journals(wasted.uploads > 0, location);
    if let Some(contradiction) = choice.false_date() {
        note(&format!(
            "the ages come from the server's dates, which are not true: {contradiction}"
        ));
    }
    Ok(Exit::Done)
}

async fn parts(
    bucket: &Bucket,
    location: &S3Uri,
    upload_id: &str,
    output: Output,
) -> Result<Exit, CliError> {
    let upload = MultipartUpload::open(bucket, &location.key, upload_id);
    let parts = upload.parts();
    let mut parts = std::pin::pin!(parts);
    let (mut count, mut bytes) = (0, 0_u64);
    while let Some(part) = parts
        .try_next()
        .await
        .map_err(|failure| not_open(failure, location, upload_id))?
    {
        (count, bytes) = (count + 1, bytes.saturating_add(part.size));
        if output.json {
            say_json(
                &serde_json::json!({ "number": part.number, "size": part.size, "etag": part.etag }),
            )?;
        } else {
            say_line(&format!(
                "{:>5}  {:>12}  {}",
                part.number,
                ByteSize(part.size),
                part.etag
            ))?;
        }
    }
    note(&format!(
        "{}, {}",
        display_counted(count, "part"),
        ByteSize(bytes)
    ));
    Ok(Exit::Done)
}

async fn complete(
    bucket: &Bucket,
    location: &S3Uri,
    upload_id: &str,
    output: Output,
) -> Result<Exit, CliError> {
    let upload = MultipartUpload::open(bucket, &location.key, upload_id);
    let listed = async || -> Result<Vec<PartDone>, CliError> {
        let parts = upload.parts().try_collect().await;
        parts.map_err(|failure| not_open(failure, location, upload_id))
    };
    let parts = listed().await?;
    if parts.is_empty() {
        return Err(CliError::Usage(format!(
            "{location}: the upload has no parts yet; abort it instead"
        )));
    }
    // This list is the only evidence of the parts, so it must be stable.
    if parts != listed().await? {
        let what =
            "the parts of the upload changed between two lists of them; nothing was completed";
        return Err(Failure::new(
            FailureKind::SourceChanged,
            Operation::ListParts,
            location.to_string(),
            what,
        )
        .into());
    }
    let size = parts
        .iter()
        .fold(0_u64, |sum, part| sum.saturating_add(part.size));
    signals::leaves("the upload may be completed or still open; run the same command again");
    let written = upload
        .complete_and_look(
            &parts,
            &CompleteSpec {
                size,
                ..CompleteSpec::default()
            },
        )
        .await
        .map_err(|failure| not_published(failure, location))?;
    if output.json {
        let line = serde_json::json!({ "destination": location.to_string(), "size": size, "parts": parts.len(), "etag": written.etag });
        return say_json(&line);
    }
    say_line(&format!(
        "completed {location}: {} in {}, ETag {}",
        ByteSize(size),
        display_counted(parts.len() as u64, "part"),
        written.etag
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_of_unknown_class_has_no_price() {
        let found = |class: Option<&str>| MeasuredUpload {
            upload: OpenUpload {
                key: "k".to_owned(),
                upload_id: "u".to_owned(),
                initiated: None,
                storage_class: class.map(str::to_owned),
            },
            bytes: Some(100 << 30),
        };
        let price = |class| found(class).list_price().map(cost::display);
        assert_eq!(price(None), None);
        assert_eq!(price(Some("STANDARD")).as_deref(), Some("$2.30"));
        assert_eq!(price(Some("STANDARD_IA")).as_deref(), Some("$1.25"));
    }
}
