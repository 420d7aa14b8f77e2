//! `uploads abort`: aborts open uploads, and prints "aborted" only if the server no longer has the
//! upload.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;

use super::{ASKED_AT_ONCE, Choice, MeasuredUpload, Wasted, absent, found, not_open};
use crate::bucket::Bucket;
use crate::cli::{CliError, Exit, Output, note, say_json, say_line, signals};
use crate::location::{ObjectKey, S3Uri};
use crate::multipart::{Aborted, MultipartUpload};
use crate::probe;
use crate::s3::{Attributes, Capabilities, Failure, FailureKind, OpenUpload};

/// Aborts one upload. Servers may confirm the abort of an upload that does not exist, but a
/// mistyped ID must be an error.
pub(super) async fn one(
    bucket: &Bucket,
    location: &S3Uri,
    id: &str,
    results: &Results<'_>,
) -> Result<Exit, CliError> {
    let upload = MultipartUpload::open(bucket, &location.key, id);
    let is_there = match bucket.list_parts(&location.key, id, None).await {
        Ok(page) if !page.items.is_empty() => true,
        Err(failure) if *failure.kind() == FailureKind::NoSuchUpload => {
            return Err(not_open(failure, location, id));
        }
        Err(failure) if failure.kind().may_pass_later() || failure.ends_run() => {
            return Err(failure.into());
        }
        // The server cannot list parts, or gives this response for every ID. Its list of uploads
        // may tell.
        Ok(_) | Err(_) => upload.entry().await.map_or(true, |entry| entry.is_some()),
    };
    if !is_there {
        return Err(absent(location, id, "not listed"));
    }
    let mut found = MeasuredUpload {
        upload: OpenUpload {
            key: location.key.to_string(),
            upload_id: id.to_owned(),
            initiated: None,
            storage_class: None,
        },
        bytes: None,
    };
    // The size, age, and class are unavailable after the abort.
    if results.output.json {
        if let Ok(Some(entry)) = upload.entry().await {
            found.upload.initiated = entry.initiated;
            found.upload.storage_class = entry.storage_class;
        }
        found = MeasuredUpload::of(bucket, found.upload).await;
    }
    let aborted = if results.dry_run {
        Aborted::Gone
    } else {
        signals::leaves("the upload may be aborted or still open; run the same command again");
        upload.abort().await?
    };
    let why = match aborted {
        Aborted::Gone => {
            let text = if results.dry_run {
                format!("{location} {id}")
            } else {
                location.to_string()
            };
            results.say(&found, &text)?;
            return Ok(Exit::Done);
        }
        Aborted::NotThere => return Err(absent(location, id, "NoSuchUpload")),
        Aborted::Unverified(failure) => unverified(&failure),
        Aborted::StillListed(failure) => failure.to_string(),
    };
    results.say_failed(&found, &why)?;
    Ok(Exit::Failures)
}

fn unverified(failure: &Failure) -> String {
    format!(
        "the server accepted the abort and does not show whether the upload is gone: {failure}; look at the bucket's open \
         uploads with the server's own tools"
    )
}

/// Aborts all selected uploads below a location.
pub(super) async fn all(
    bucket: &Bucket,
    location: &S3Uri,
    choice: &Choice,
    mut results: Results<'_>,
) -> Result<Exit, CliError> {
    let dry_run = results.dry_run;
    // Lists all uploads before it aborts the first, because a list marker may be invalid once its
    // upload is gone.
    let uploads: Vec<MeasuredUpload> = found(bucket, location, choice).try_collect().await?;
    if let Some(contradiction) = choice.false_date() {
        return Err(made_up(contradiction));
    }
    let ages_decide = choice.older_than.is_some() && !uploads.is_empty();
    // Amazon's dates are reliable. On other servers, a new upload shows whether they are.
    if ages_decide
        && !dry_run
        && bucket.client().url().is_some()
        && let Some(contradiction) = check_dates(bucket, location).await
    {
        return Err(made_up(&contradiction));
    }
    let has_found = !uploads.is_empty();
    if !dry_run {
        signals::leaves(
            "uploads that are shown as aborted are gone, others may still be open; run the same command again",
        );
    }
    let ended = futures::stream::iter(uploads).map(|found| {
        let forbidden = choice.forbids(&found);
        async move {
            let outcome = match forbidden {
                Some(why) => Err(why),
                None if dry_run => Ok(Aborted::Gone),
                None => abort(bucket, &found.upload.key, &found.upload.upload_id).await,
            };
            (found, outcome)
        }
    });
    let mut ended = std::pin::pin!(ended.buffered(ASKED_AT_ONCE));
    let mut missing = Vec::new();
    while let Some((found, outcome)) = ended.next().await {
        match outcome {
            Ok(Aborted::NotThere) => missing.push(found),
            outcome => results.record_outcome(&found, outcome)?,
        }
    }
    if !missing.is_empty() {
        let listed = listed_as_they_are(bucket, location).await;
        for found in missing {
            let outcome = not_there(bucket, &found.upload, listed.as_ref()).await;
            results.record_outcome(&found, outcome)?;
        }
    }
    results
        .wasted
        .say("upload", if dry_run { " to abort" } else { " aborted" });
    choice.tell_journals(has_found, location);
    Ok(results.exit)
}

/// Returns the error that refuses to abort by age on a server with false dates.
fn made_up(contradiction: &str) -> CliError {
    CliError::Usage(format!(
        "this server's dates of uploads are not true, so no upload was aborted by its age: {contradiction}; abort uploads by \
         UPLOAD_ID, or those that a journal knows with --mine"
    ))
}

/// Creates an upload below the location, compares the date in the server's list with the current
/// time, and aborts the upload. Returns the contradiction, if there is one.
async fn check_dates(bucket: &Bucket, location: &S3Uri) -> Option<String> {
    let name = format!(
        "{}s3haul-date-check-{:016x}",
        location.key,
        fastrand::u64(..)
    );
    let key: ObjectKey = name.parse().ok()?;
    let created = Timestamp::now();
    let upload = match MultipartUpload::initiate(bucket, &key, &Attributes::default()).await {
        Ok(upload) => upload,
        Err(failure) => {
            note(&format!(
                "the server's dates of uploads were not checked, because none could be created: {failure}"
            ));
            return None;
        }
    };
    let listed: Result<Vec<_>, _> = MultipartUpload::list(bucket, key.as_str())
        .try_collect()
        .await;
    let is_gone = matches!(upload.abort().await, Ok(Aborted::Gone));
    if !is_gone {
        let id = upload.id();
        note(&format!(
            "the upload {id} of {key}, which checked the server's dates, may be left open"
        ));
    }
    let open = listed
        .ok()?
        .into_iter()
        .find(|open| open.upload_id == upload.id())?;
    probe::false_date(&open, created)
}

async fn abort(bucket: &Bucket, key: &str, id: &str) -> Result<Aborted, String> {
    let key = key.parse().map_err(|error| format!("{error}"))?;
    let upload = MultipartUpload::open(bucket, &key, id);
    upload.abort().await.map_err(|failure| failure.to_string())
}

/// Returns the keys of the open uploads by ID. Does not request an encoding, because some servers
/// claim to encode keys and do not.
async fn listed_as_they_are(
    bucket: &Bucket,
    location: &S3Uri,
) -> Result<BTreeMap<String, String>, Failure> {
    let plain = Capabilities {
        encoded_uploads: false,
        ..bucket.capabilities().clone()
    };
    let plain = bucket.assuming(plain);
    let listed = MultipartUpload::list(&plain, location.key.as_str());
    listed
        .map_ok(|open| (open.upload_id, open.key))
        .try_collect()
        .await
}

/// Handles a listed upload that the server then did not find.
async fn not_there(
    bucket: &Bucket,
    upload: &OpenUpload,
    listed: Result<&BTreeMap<String, String>, &Failure>,
) -> Result<Aborted, String> {
    let OpenUpload {
        key, upload_id: id, ..
    } = upload;
    let why = match listed.map(|listed| listed.get(id)) {
        Ok(Some(other)) if other != key => match abort(bucket, other, id).await? {
            Aborted::NotThere => format!("the server lists it as `{other}` and does not find it there either"),
            end => return Ok(end),
        },
        Ok(Some(_)) => {
            "the server lists it under this key and does not find it there: it is still open; abort it with the server's own \
             tools"
                .to_owned()
        }
        Ok(None) => "it is no longer open: another client completed or aborted it".to_owned(),
        Err(failure) => format!("it may still be open: {failure}"),
    };
    Err(format!("not aborted (NoSuchUpload): {why}"))
}

/// Prints the results, and totals them.
pub(super) struct Results<'b> {
    bucket: &'b Bucket,
    dry_run: bool,
    output: Output,
    wasted: Wasted,
    exit: Exit,
}

impl<'b> Results<'b> {
    pub(super) fn new(bucket: &'b Bucket, dry_run: bool, output: Output) -> Self {
        Self {
            bucket,
            dry_run,
            output,
            wasted: Wasted::default(),
            exit: Exit::Done,
        }
    }

    /// Prints that an upload was aborted, or would be.
    fn say(&self, found: &MeasuredUpload, text: &str) -> Result<(), CliError> {
        let (status, word) = if self.dry_run {
            ("would_abort", "would abort")
        } else {
            ("aborted", "aborted")
        };
        if self.output.json {
            let mut line = found.json(self.bucket)?;
            line["status"] = status.into();
            say_json(&line)?;
        } else {
            say_line(&format!("{word} {text}"))?;
        }
        Ok(())
    }

    /// Prints that an upload was not aborted.
    fn say_failed(&self, found: &MeasuredUpload, why: &str) -> Result<(), CliError> {
        if self.output.json {
            let mut line = found.json(self.bucket)?;
            line["status"] = "failed".into();
            line["error"] = why.into();
            say_json(&line)?;
        }
        let OpenUpload { key, upload_id, .. } = &found.upload;
        let bucket = self.bucket.name();
        note(&format!("failed: s3://{bucket}/{key} {upload_id}: {why}"));
        Ok(())
    }

    fn record_outcome(
        &mut self,
        found: &MeasuredUpload,
        outcome: Result<Aborted, String>,
    ) -> Result<(), CliError> {
        let why = match outcome {
            Ok(Aborted::Gone | Aborted::NotThere) => {
                self.wasted.add(found, self.bucket);
                return self.say(found, &found.line(self.bucket));
            }
            Ok(Aborted::Unverified(failure)) => unverified(&failure),
            Ok(Aborted::StillListed(failure)) => failure.to_string(),
            Err(why) => why,
        };
        self.exit = Exit::Failures;
        self.say_failed(found, &why)
    }
}
