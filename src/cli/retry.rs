//! `retry`: copies only the objects that failed in an earlier run.
//!
//! A report begins with the command that wrote it. s3haul parses that command again and loads its
//! manifest, so that corrections since then apply. It then limits each transfer to the objects that
//! failed.
//!
//! The reports of all shards of a run are read as one. The retry keeps its journal and its report
//! below the state prefix, so that the next merge includes the report.

mod earlier;
mod incomplete;
mod losses;
mod own_journal;
mod there;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::job_environment::JobEnvironment;
use super::journal::JournalFlags;
use super::lease;
use super::parse::parse;
use super::report::{FoundReport, from_read_error};
use super::run::{RunOptions, run};
use super::signals::DrainFlags;
use super::{CliError, Command, EndpointFlags, Exit, Output, journal, note, plan, say};
use crate::journal::{Intent, JournalError, look};
use crate::location::S3Uri;
use crate::manifest::job::{
    Chosen, Compare, Job, JournalPlace, ReportPaths, ReportPlace, Source, Transfer, Versions, When,
};
use crate::manifest::moment::Age;
use crate::report::read::{Report, ReportedFailure, read};
use crate::report::{MergeScope, ReportHeader, header};

/// Copies the failed objects of a report again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  s3haul run nightly.yaml --report nightly.jsonl
  s3haul retry nightly.jsonl                        copies what failed; writes nightly.retry-1.jsonl
  s3haul retry nightly.retry-1.jsonl                copies what failed again
  s3haul retry s3://ops/s3haul/nightly/             the same for the latest run that reported there
  s3haul retry s3://ops/s3haul/lake/run-1/          what failed in any shard of a run
  s3haul retry --losses nightly.jsonl               repairs tags and other attributes that were lost")]
pub(super) struct Retry {
    /// Report of an earlier run: a file, s3://bucket/prefix/ for the latest run that reported
    /// there, the directory of one run below it, or the state prefix of a run in shards.
    #[arg(value_name = "REPORT")]
    place: ReportPlace,
    /// Write the new report to a file or below s3://bucket/prefix/. Default: REPORT.retry-N.jsonl
    /// for a file, the prefix of the job's reports for a report in S3, and the state prefix for a
    /// run in shards.
    #[arg(long, value_name = "PLACE")]
    report: Option<ReportPlace>,
    /// Repair the copies that lost attributes, instead of copying the objects that failed.
    #[arg(long)]
    losses: bool,
    /// Show what the command would do, without doing it.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    journal: JournalFlags,
    #[command(flatten)]
    drain: DrainFlags,
    #[command(flatten)]
    endpoint: EndpointFlags,
}

impl Retry {
    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        let place = absolute(self.place)?;
        let directory = std::env::current_dir()?;
        let report = self.report.map(absolute).transpose()?;
        require_other_place(report.as_ref(), &place)?;
        let found = FoundReport::open(&place, &self.endpoint).await?;
        let lines = found.lines(MergeScope::Undone)?;
        let Report {
            origin,
            mut failed,
            mut lost,
            there,
            footer,
            ..
        } = read(lines).boxed().await.map_err(from_read_error)?;
        let unfinished = footer.filter(|footer| !footer.complete);
        let has_failed = !failed.is_empty();
        if !self.losses && self.journal.intent() != Intent::Fresh {
            earlier::leave_out_copied(&mut failed, &place, &origin);
        }
        let repair_losses = losses::hint(&lost, &origin, &place);
        if self.losses && lost.is_empty() {
            return say("no object of this report was copied with losses: nothing to do");
        }
        if let (Some(hint), false, false) = (&repair_losses, self.losses, failed.is_empty()) {
            note(hint);
        }
        let again = incomplete::again(&found, &origin);
        if failed.is_empty() && !self.losses {
            if let Some(footer) = &unfinished {
                return Err(incomplete::without_failures(footer, &found, &again));
            }
            let is_over = match &found {
                // The end records of the shards show whether a merged report is complete.
                FoundReport::Shards(..) => true,
                _ => Box::pin(origin_is_over(&origin)).await?,
            };
            if !is_over {
                return Err(incomplete::not_over(&again));
            }
            let nothing = nothing_to_do(has_failed);
            let hint = repair_losses.map(|hint| format!(". {hint}"));
            return say(&format!("{nothing}{}", hint.unwrap_or_default()));
        }
        let mut job = job_of(&origin)?;
        for change in origin.changes(&job) {
            note(&format!("note: {change}"));
        }
        if self.losses {
            losses::leave_out_histories(&job, &mut lost)?;
            failed = losses::copies_to_repair(&failed, &lost);
        }
        require_same_places(&job, &failed, &place)?;
        // What could not be listed is selected by the ages at the time of the first run.
        if let Some(began) = origin.counted_from.or(origin.time) {
            job.count_from(began);
        }
        let whole = job.clone();
        narrow(&mut job, &failed)?;
        if self.losses {
            losses::repair(&mut job, &lost);
        }
        job.retries = Some(format!("{place} of the run {}", origin.run));
        let beside = found.place_of_retry(&mut job, &place, self.losses)?;
        self.journal.apply_again(&mut job, &directory);
        if let Some(footer) = &unfinished {
            incomplete::note_causes(footer, &again);
        }
        let world = JobEnvironment::ambient();
        if self.dry_run {
            set_report(&mut job, report, beside, None);
            journal::leave_out_own_files(&mut job);
            let exit = Box::pin(plan::show(&job, &world, None, output)).await?;
            losses::say_repairs(&job, output)?;
            return Ok(exit);
        }
        let mut connections = world.connect(&whole, &CancellationToken::new());
        if self.journal.intent() != Intent::ResumeAnyway {
            let looked = Box::pin(there::check_copies(&whole, &mut connections, &there)).await?;
            there::require_copies(&looked, &place, &again)?;
        }
        let resumed = Box::pin(own_journal::choose(&mut job, &mut connections)).await?;
        let resumed = resumed.filter(|_| self.journal.intent() != Intent::Fresh);
        set_report(&mut job, report, beside, resumed.as_deref());
        journal::leave_out_own_files(&mut job);
        // The new report records the same command, so that it can be retried too. Like the others,
        // it names the histories of the whole job.
        let origin = origin.begin(&whole);
        let options = RunOptions {
            intent: self.journal.intent(),
            wait: self.journal.waits(),
            drain: self.drain.time(),
            lease: lease::own_terms(),
            shard: None,
        };
        run(&job, &world, &origin, &options, output).await
    }
}

/// Returns the message of a retry without objects. `has_failed` is true if some failed and were
/// copied since.
fn nothing_to_do(has_failed: bool) -> &'static str {
    if has_failed {
        "later retries copied all objects of this report that failed: nothing to do"
    } else {
        "no object of this report failed: nothing to do"
    }
}

/// Returns an error if the new report would replace the retried one.
fn require_other_place(
    report: Option<&ReportPlace>,
    retried: &ReportPlace,
) -> Result<(), CliError> {
    if report.is_some_and(|report| is_same(report, retried)) {
        return Err(CliError::Usage(format!(
            "--report names {retried}, whose other receipts would be lost; choose another path"
        )));
    }
    Ok(())
}

impl FoundReport {
    /// Returns the place from which the place of the new report is derived. For a run in shards,
    /// also sets the journal of the job.
    fn place_of_retry(
        &self,
        job: &mut Job,
        place: &ReportPlace,
        losses: bool,
    ) -> Result<ReportPlace, CliError> {
        let Self::Shards(state, _) = self else {
            return Ok(place.clone());
        };
        let (reports, journal) = state.of_retry(losses)?;
        job.journal = JournalPlace::Prefix(journal);
        job.report = ReportPaths::default();
        Ok(ReportPlace::Prefix(reports))
    }
}

/// Returns true unless the journal shows that the run of a report can be resumed. A report without
/// failures does not show that: it omits the failure that made the run give up, because the resumed
/// run tries that object again.
async fn origin_is_over(origin: &ReportHeader) -> Result<bool, CliError> {
    let Ok(job) = job_of(origin) else {
        return Ok(true);
    };
    let mut connections = JobEnvironment::ambient().connect(&job, &CancellationToken::new());
    let Some(location) = journal::location(&job, &mut connections).await? else {
        return Ok(true);
    };
    match look(location).await {
        Ok(glance) => Ok(glance.is_none_or(|glance| {
            let run = glance.state.run.as_ref();
            let is_retry = run.is_some_and(|run| run.fingerprint.retries().is_some());
            is_retry || !glance.state.is_unfinished()
        })),
        // The report has a footer, so it is complete even without the journal.
        Err(error @ (JournalError::Corrupt { .. } | JournalError::NewerVersion { .. })) => {
            note(&format!(
                "note: the journal of this run cannot be read, and its report is complete without it: {error}"
            ));
            Ok(true)
        }
        Err(error) => Err(error.into()),
    }
}

/// Changes to the directory in which the run of a report was started, and returns the job of that
/// run. Paths in the command and its manifest are relative to that directory.
pub(super) fn job_of(origin: &ReportHeader) -> Result<Job, CliError> {
    std::env::set_current_dir(&origin.directory).map_err(|error| {
        let directory = origin.directory.display();
        CliError::Usage(format!(
            "the run worked in {directory}, which cannot be entered: {error}"
        ))
    })?;
    job(&origin.command)
}

/// Returns the job that a command line describes.
fn job(command: &[String]) -> Result<Job, CliError> {
    let words: Vec<_> = std::iter::once("s3haul")
        .chain(command.iter().map(String::as_str))
        .map(OsString::from)
        .collect();
    let unfit = |why: String| {
        CliError::Usage(format!(
            "the report comes from `{}`: {why}",
            command.join(" ")
        ))
    };
    let cli = parse(&words).map_err(|refusal| unfit(refusal.text()))?;
    match cli.command {
        Command::Copy(copy) => copy.job(),
        Command::Run(run) if run.is_sandboxed() => {
            Err(unfit("the sandbox that it worked on is gone".to_owned()))
        }
        Command::Run(run) if run.is_from_stdin() => Err(unfit(
            "its manifest came from standard input, which is gone; run a manifest from a file"
                .to_owned(),
        )),
        Command::Run(run) => run.job().map_err(incomplete::without_manifest),
        _ => Err(unfit("that is neither a copy nor a run".to_owned())),
    }
}

/// Refuses a report whose failed lines name a different place than the job does now, because a
/// retry would write elsewhere.
fn require_same_places(
    job: &Job,
    failed: &[ReportedFailure],
    report: &ReportPlace,
) -> Result<(), CliError> {
    for object in failed {
        // `narrow` refuses a transfer that no longer exists.
        let Some(transfer) = job
            .transfers
            .iter()
            .find(|transfer| transfer.name == object.transfer)
        else {
            continue;
        };
        let to = &transfer.to.location;
        let moved = describe_move(transfer, &object.source, &object.destination).or_else(|| {
            let is_below = object.destination.starts_with(&to.to_string());
            (!is_below).then(|| {
                writes_elsewhere(transfer, &object.destination, &format!("writes to {to}"))
            })
        });
        if let Some(what) = moved {
            return Err(CliError::Usage(format!(
                "the report {report}: line {} {what}. Restore the job, or run the job as it is now",
                object.line
            )));
        }
    }
    Ok(())
}

/// Describes how a report line differs, if it names a different bucket than its transfer does now.
pub(super) fn describe_move(
    transfer: &Transfer,
    source: &str,
    destination: &str,
) -> Option<String> {
    let to = &transfer.to.location;
    // For a destination that could not be listed or checked, the report names it on both sides.
    let is_destination =
        source == destination && (source.ends_with('/') || source == to.to_string());
    let from = transfer.from.s3().filter(|_| !is_destination);
    [
        from.map(|(_, from)| (source, from)),
        Some((destination, to)),
    ]
    .into_iter()
    .flatten()
    .find(|(text, now)| !text.starts_with(&format!("s3://{}/", now.bucket)))
    .map(|(text, now)| {
        writes_elsewhere(transfer, text, &format!("names the bucket {}", now.bucket))
    })
}

fn writes_elsewhere(transfer: &Transfer, text: &str, now: &str) -> String {
    format!(
        "names {text}, and transfer `{}` of the job now {now}: the job, or a variable that it names, was changed after the run",
        transfer.name
    )
}

/// Limits the job to the transfers with failures, and each transfer to its failed objects.
fn narrow(job: &mut Job, failed: &[ReportedFailure]) -> Result<(), CliError> {
    let mut by_transfer: BTreeMap<&str, Vec<&ReportedFailure>> = BTreeMap::new();
    for object in failed {
        by_transfer
            .entry(&object.transfer)
            .or_default()
            .push(object);
    }
    let mut transfers = Vec::new();
    for transfer in std::mem::take(&mut job.transfers) {
        let Some(objects) = by_transfer.remove(transfer.name.as_str()) else {
            continue;
        };
        if transfer.from == Source::Stdin {
            let message =
                "standard input cannot be read again: run the command that fed it once more";
            return Err(CliError::Usage(message.to_owned()));
        }
        if let Some(age) = transfer.ages.as_of {
            let message = format!(
                "`{}` copies what was there {} before its run began, which a retry cannot count again; write that time \
                 instead of the age and run the job again",
                transfer.name,
                Age(age)
            );
            return Err(CliError::Usage(message));
        }
        transfers.extend(of_failed(transfer, &objects));
    }
    job.transfers = transfers;
    match by_transfer.keys().next() {
        Some(gone) => Err(CliError::Usage(format!(
            "the report is about a transfer `{gone}`, which the job no longer has; run the job itself"
        ))),
        None => Ok(()),
    }
}

/// Returns the transfer, limited to the failed objects. If a list failed, returns the whole
/// transfer instead, or after it if the whole transfer would not find the failed objects. Both
/// write to the same destination, so the second starts when the first has ended.
fn of_failed(transfer: Transfer, failed: &[&ReportedFailure]) -> Vec<Transfer> {
    // A copy may exist although it failed later, at its proof or its tags. It is newer than its
    // source and has the right size, so a comparison by lists would call it equal.
    let hides_failures = transfer.when == When::Changed && transfer.versions != Versions::All;
    let when = if hides_failures {
        When::Always
    } else {
        transfer.when
    };
    let transfer_as_it_is = transfer.clone();
    let transfer = if hides_failures {
        Transfer {
            compare: Compare::Auto,
            compare_attributes: false,
            ..transfer
        }
    } else {
        transfer
    };
    let chosen: Vec<_> = failed
        .iter()
        .filter_map(|object| chosen(&transfer, object))
        .collect();
    if is_one(&transfer.from) {
        let chosen = Some(chosen).filter(|chosen| !chosen.is_empty());
        return vec![Transfer {
            when,
            chosen,
            ..transfer
        }];
    }
    let is_listed = chosen.len() == failed.len();
    let mut again = Transfer {
        when,
        chosen: Some(chosen),
        ..transfer.clone()
    };
    // The run selected these objects by their age at that time, so their age does not matter now.
    if again.ages.modified_after.is_some() {
        again.set_modified_after(None);
    }
    if again.ages.modified_before.is_some() {
        again.set_modified_before(None);
    }
    // The whole transfer selects by age too, and may leave out what has failed.
    let is_apart = hides_failures || transfer_as_it_is.ages.modified_after.is_some();
    match again.chosen.as_deref() {
        _ if is_listed => vec![again],
        Some([_, ..]) if is_apart => vec![again, transfer_as_it_is],
        _ => vec![transfer_as_it_is],
    }
}

/// Returns true if a source is a single object, and not a prefix or a directory.
fn is_one(from: &Source) -> bool {
    match from {
        Source::Object { .. } | Source::Stdin => true,
        Source::Prefix { .. } => false,
        Source::Files { path, .. } => !path.as_path().is_dir(),
    }
}

/// Returns the failed object as a selection below the transfer's source. Returns `None` for a place
/// that could not be listed, which may be at the destination.
fn chosen(transfer: &Transfer, failed: &ReportedFailure) -> Option<Chosen> {
    let is_of_time = matches!(transfer.versions, Versions::AsOf(_));
    let version = failed.version.clone().filter(|_| is_of_time);
    let key = match &transfer.from {
        Source::Object { location, .. } if is_of_time && failed.source == location.to_string() => {
            location.key.to_string()
        }
        Source::Object { .. } | Source::Stdin => return None,
        Source::Prefix { location, .. } => {
            let failed: S3Uri = failed.source.parse().ok()?;
            let below = failed.key.as_str().strip_prefix(location.key.as_str())?;
            let is_object = failed.bucket == location.bucket
                && !below.is_empty()
                && failed != transfer.to.location;
            is_object.then(|| failed.key.to_string())?
        }
        Source::Files { path, .. } => {
            let failed = Path::new(&failed.source);
            let below = failed.strip_prefix(path.as_path()).ok()?;
            (!failed.is_dir())
                .then(|| below.to_str().map(str::to_owned))
                .flatten()?
        }
    };
    Some(Chosen { key, version })
}

/// Makes a path independent of the working directory.
fn absolute(place: ReportPlace) -> Result<ReportPlace, CliError> {
    Ok(match place {
        ReportPlace::File(path) => ReportPlace::File(std::path::absolute(path)?),
        prefix @ ReportPlace::Prefix(_) => prefix,
    })
}

/// Sets the place of the new report. S3 reports never overwrite each other, so the default is the
/// job's own prefix.
fn set_report(job: &mut Job, report: Option<ReportPlace>, of: ReportPlace, run: Option<&str>) {
    let default = || match of {
        ReportPlace::File(path) => ReportPlace::File(next_report_path(&path, run)),
        ReportPlace::Prefix(uri) => ReportPlace::Prefix(job.report.s3.clone().unwrap_or(uri)),
    };
    let place = report.unwrap_or_else(default);
    job.report.set(place);
}

/// Returns true if both places are the same file.
fn is_same(one: &ReportPlace, other: &ReportPlace) -> bool {
    let (ReportPlace::File(one), ReportPlace::File(other)) = (one, other) else {
        return false;
    };
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Returns the paths that the reports of retries of a report have, next to it.
fn retry_report_paths(report: &Path) -> impl Iterator<Item = PathBuf> {
    let stem = report
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let stem = stem
        .rsplit_once(".retry-")
        .map_or(stem.clone(), |(stem, _)| stem.to_owned());
    (1..).map(move |number| report.with_file_name(format!("{stem}.retry-{number}.jsonl")))
}

/// Returns the path of the new report, next to the retried one: the report that the resumed retry
/// has begun, or else the first free name, so that no report is overwritten.
fn next_report_path(report: &Path, run: Option<&str>) -> PathBuf {
    let is_its = |path: &Path| header(path).is_some_and(|header| Some(header.run.as_str()) == run);
    retry_report_paths(report)
        .find(|path| !path.exists() || is_its(path))
        .unwrap_or_else(|| report.with_extension("retry.jsonl"))
}
