//! `plan`: shows what a job would do, in numbers or step by step.

mod out;
mod time;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use out::{PlanFlags, PlannedPlace};

use super::job_environment::JobEnvironment;
use super::shards;
use super::{CliError, Exit, JobFile, Output, note, presence, say, say_json, say_line};
use crate::bucket::history::LatestVersion;
use crate::connections::Connections;
use crate::endpoint::Provider;
use crate::execute::describe;
use crate::location::S3Uri;
use crate::manifest::job::{Archived, Job, Restore, Transfer};
use crate::manifest::may_read;
use crate::plan::attributes::Reads;
use crate::plan::carried::TagQuestions;
use crate::plan::cost;
use crate::plan::decide::{Reason, Route, Skip};
use crate::plan::empty::EmptySelection;
use crate::plan::parts::Capacity;
use crate::plan::totals::{Estimate, PlanTotals};
use crate::plan::unlisted::UnlistedCounts;
use crate::planner::{Misses, Planned, Sides, Step};
use crate::printable::printable;
use crate::report::{ReportError, Target, comparison};
use crate::s3::{ArchiveState, Operation};
use crate::size::{ByteSize, display_count, display_counted};

/// Shows what a job would do.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  s3haul plan nightly.yaml
  s3haul plan nightly.yaml --out steps.jsonl        one line per object that would be copied
  s3haul plan lake.yaml --shards 512 --out s3://ops/s3haul/lake/    which keys each of 512 processes copies
  s3haul plan nightly.yaml --json | jq 'select(.route==\"multipart-copy\")'")]
pub(super) struct PlanJob {
    #[command(flatten)]
    job: JobFile,
    #[command(flatten)]
    out: PlanFlags,
}

impl PlanJob {
    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        let mut job = self.job.load()?;
        let place = JobEnvironment::of(&self.job, &mut job).await?;
        match self.out.in_shards(place.is_sandbox())? {
            PlannedPlace::State(state, extent) => {
                shards::plan(&job, &place, &state, extent, output).await
            }
            PlannedPlace::File(out) => show(&job, &place, out, output).await,
        }
    }
}

/// One step, as `--json` and `--out` show it.
#[derive(Debug, Serialize)]
struct StepLine<'a> {
    transfer: &'a str,
    source: String,
    destination: String,
    size: u64,
    reason: Reason,
    route: &'static str,
    parts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    part_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_version: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sandbox: bool,
}

impl<'a> StepLine<'a> {
    fn of(sides: &'a Sides, step: &'a Step) -> Self {
        let location = |bucket: &crate::location::BucketName, key: &crate::location::ObjectKey| {
            S3Uri {
                bucket: bucket.clone(),
                key: key.clone(),
            }
            .to_string()
        };
        let source = match &sides.source {
            Some(bucket) => location(bucket.name(), &step.entry.key),
            None => step.entry.key.to_string(),
        };
        let part_size = match &step.route {
            Route::MultipartCopy(layout) | Route::MultipartUpload(layout) => Some(layout.part_size),
            Route::Copy | Route::Put | Route::Restore | Route::DeleteMarker => None,
        };
        Self {
            transfer: &sides.transfer.name,
            source,
            destination: location(sides.destination.name(), &step.key),
            size: step.entry.size,
            reason: step.reason,
            route: step.route.name(),
            parts: step.route.parts(),
            part_size,
            source_version: step.entry.version.as_deref(),
            sandbox: false,
        }
    }
}

/// Plans all transfers and prints their totals.
pub(super) async fn show(
    job: &Job,
    place: &JobEnvironment,
    out: Option<PathBuf>,
    output: Output,
) -> Result<Exit, CliError> {
    let sandbox = place.is_sandbox();
    let out = out
        .map(|path| Target::begin_plan(&path, sandbox))
        .transpose()
        .map_err(ReportError::from)?;
    let mut lines = Lines {
        file: out.map(BufWriter::new),
        json: output.json,
        sandbox,
    };
    let mut connections = place.connect(job, &CancellationToken::new());
    presence::require(job, &mut connections).await?;
    let mut all = PlanTotals::default();
    let mut has_failures = false;
    let mut has_empty_failure = false;
    let mut unlisted = UnlistedCounts::default();
    for (number, transfer) in job.transfers.iter().enumerate() {
        let (source, destination) = connections.of_transfer(transfer).await?;
        let sides = Sides::new(transfer, source, destination);
        let capacity = sides.capacity();
        let mut tally = PlanTally::new(capacity);
        let mut misses = Misses::of(transfer);
        // Lines must come in key order; totals need no order.
        let in_order = lines.file.is_some() || output.json;
        let mut planned = if in_order {
            sides.plan()
        } else {
            sides.plan_in_any_order()
        };
        while let Some(planned) = misses.watch(&sides, planned.recv().await) {
            if let Planned::Unlisted(_, failure) = &planned {
                unlisted.observe(failure);
            }
            tally.observe(&sides, planned, &mut lines)?;
        }
        let PlanTally {
            totals, estimate, ..
        } = &tally;
        all += totals;
        let unknown = writers_of(job, number);
        let empty = empty(transfer, totals, &unknown);
        has_failures |= tally.has_failures;
        has_empty_failure |= empty.as_ref().is_some_and(|empty| empty.fails);
        if output.json {
            say_json(&line_of_transfer(
                transfer,
                totals,
                &unknown,
                &misses,
                empty.as_ref(),
            ))?;
        } else {
            say(&of_transfer(
                transfer,
                totals,
                &misses,
                empty.as_ref(),
                output,
            ))?;
            if !unknown.is_empty() {
                let names = unknown.join(" and ");
                say_line(&format!(
                    "  besides   the objects that {names} writes into its source first"
                ))?;
            }
            let versions = old_versions(&mut connections, &sides).await;
            let estimated = time::line(estimate, capacity, totals, &job.limits);
            let rest = price(transfer, totals, &sides)
                .into_iter()
                .chain(unnamed_provider(job, transfer));
            for line in versions.into_iter().chain(estimated).chain(rest) {
                say_line(&line)?;
            }
        }
    }
    if let Some(mut file) = lines.file {
        file.flush()?;
    }
    say_end(job, &all, connections.pacer().counts().requests, output)?;
    Ok(plan_exit(&all, unlisted, has_failures, has_empty_failure))
}

/// The outputs for the lines about steps.
struct Lines {
    /// The file of `--out`.
    file: Option<BufWriter<File>>,
    /// True if the lines are also printed.
    json: bool,
    /// True if the plan was made in the sandbox.
    sandbox: bool,
}

impl Lines {
    fn write(&mut self, sides: &Sides, step: &Step) -> Result<(), CliError> {
        let line = StepLine {
            sandbox: self.sandbox,
            ..StepLine::of(sides, step)
        };
        if let Some(file) = &mut self.file {
            serde_json::to_writer(&mut *file, &line).map_err(io::Error::from)?;
            file.write_all(b"\n")?;
        }
        if self.json {
            say_json(&line)?;
        }
        Ok(())
    }
}

/// The totals of one transfer's plan.
struct PlanTally {
    totals: PlanTotals,
    estimate: Estimate,
    capacity: Capacity,
    tag_questions: TagQuestions,
    /// True if an object would fail because it is archived.
    has_failures: bool,
}

impl PlanTally {
    fn new(capacity: Capacity) -> Self {
        Self {
            totals: PlanTotals::default(),
            estimate: Estimate::default(),
            capacity,
            tag_questions: TagQuestions::default(),
            has_failures: false,
        }
    }

    /// Counts an entry of the plan and writes its lines.
    fn observe(
        &mut self,
        sides: &Sides,
        planned: Planned,
        lines: &mut Lines,
    ) -> Result<(), CliError> {
        let totals = &mut self.totals;
        match planned {
            Planned::Step(step) => {
                let mut is_held_up = false;
                for step in chain(sides, *step) {
                    is_held_up |= step.route == Route::Restore;
                    if is_held_up {
                        self.hold_up(sides, &step);
                    } else {
                        self.copy(sides, &step);
                    }
                    lines.write(sides, &step)?;
                }
            }
            Planned::Skip(entry, _, Skip::Archived) => {
                totals.archived(entry.size, entry.storage_class.as_deref(), false);
            }
            Planned::Skip(entry, _, why) => totals.skip(entry.size, why),
            Planned::Archived(entry, _) => {
                totals.archived(entry.size, entry.storage_class.as_deref(), false);
                self.has_failures = true;
            }
            Planned::Excluded(_) => totals.excluded_objects += 1,
            // Only a resumed run gets these; a plan resumes nothing.
            Planned::Again(..) => {}
            Planned::Ignored(place, why) => tracing::info!("ignored {place}: {why}"),
            Planned::Failed(_, place, failure) | Planned::Unlisted(place, failure) => {
                totals.impossible_objects += 1;
                note(&format!("failed: {place}: {failure}"));
            }
        }
        Ok(())
    }

    /// Counts an object that can be copied only after it, or an older version of it, is restored.
    fn hold_up(&mut self, sides: &Sides, step: &Step) {
        let archived = sides.transfer.archived;
        let asks = archived == Archived::Restore && step.entry.archive == ArchiveState::Archived;
        self.totals
            .archived(step.entry.size, step.entry.storage_class.as_deref(), asks);
        self.has_failures |= archived == Archived::Fail;
    }

    /// Counts an object to copy.
    fn copy(&mut self, sides: &Sides, step: &Step) {
        let capabilities = sides.destination.capabilities();
        let reads = Reads::of(&sides.transfer, capabilities, &step.route);
        self.totals.copy(
            step.entry.size,
            &step.route,
            step.reason,
            capabilities,
            reads,
        );
        if let Some(source) = &sides.source {
            let both = (source.capabilities(), capabilities);
            let asks = self.tag_questions.asks(&sides.transfer, both, &step.route);
            self.totals
                .request(Operation::GetObjectTagging, u64::from(asks));
        }
        self.totals.in_place_objects += u64::from(sides.is_in_place());
        self.estimate
            .copy(step.entry.size, &step.route, self.capacity);
    }
}

/// Prints the totals of all transfers and the number of requests that the plan sent.
fn say_end(job: &Job, all: &PlanTotals, requests: u64, output: Output) -> Result<(), CliError> {
    if output.json {
        say_json(&serde_json::json!({ "totals": all, "planning_requests": requests }))?;
        return Ok(());
    }
    if job.transfers.len() > 1 {
        say(&format!("in all\n{}", text(all, "")))?;
    }
    say(&format!(
        "nothing was written; {} sent to plan, which a run sends again in addition",
        display_counted(requests, "request")
    ))?;
    Ok(())
}

/// Returns the price of the requests, if the destination is Amazon S3.
fn price(transfer: &Transfer, totals: &PlanTotals, sides: &Sides) -> Option<String> {
    if totals.objects == 0 || sides.destination.client().url().is_some() {
        return None;
    }
    let dollars = cost::display(totals.dollars(transfer.to.storage_class.as_deref()));
    Some(format!(
        "  price     {dollars} for the requests, at AWS's list prices"
    ))
}

/// Returns a hint to name the kind of a server, if leaving it out costs requests and proofs.
fn unnamed_provider(job: &Job, transfer: &Transfer) -> Option<String> {
    let names = transfer
        .from
        .s3()
        .map(|(name, _)| name)
        .into_iter()
        .chain([transfer.to.endpoint.as_str()]);
    let endpoint = names
        .filter_map(|name| job.endpoints.get(name))
        .find(|endpoint| !endpoint.is_aws() && endpoint.stated.provider == Provider::Auto)?;
    Some(format!(
        "  hint      the kind of {} is not named, so s3haul relies on little: it sends more requests and gives weaker \
         proofs. Name it with --provider, or with `provider:` in a manifest",
        endpoint.describe()
    ))
}

/// Returns a note about the old versions of objects that are changed in place.
async fn old_versions(connections: &mut Connections, sides: &Sides) -> Option<String> {
    let note = connections.old_versions(sides.changed_bucket()?).await?;
    Some(format!("  versions  {note}"))
}

/// Returns the numbers of one transfer below its source and destination, the times that it selects
/// by, and hints about its patterns.
fn of_transfer(
    transfer: &Transfer,
    totals: &PlanTotals,
    misses: &Misses,
    empty: Option<&EmptySelection>,
    output: Output,
) -> String {
    let text = text(totals, &output.spoken(fate(transfer, totals)));
    let times = transfer
        .times()
        .into_iter()
        .map(|time| format!("\n  selects   {time}"));
    let hints = misses
        .hints()
        .into_iter()
        .map(|hint| format!("\n  hint      {}", printable(&hint)));
    let empty = empty
        .into_iter()
        .map(|empty| format!("\n  {}", printable(&empty.to_string())));
    let notes: String = times.chain(hints).chain(empty).collect();
    format!(
        "{}\n{text}{notes}",
        printable(&format!("{}: {}", transfer.name, describe(transfer)))
    )
}

/// Returns the numbers of one transfer as JSON.
fn line_of_transfer(
    transfer: &Transfer,
    totals: &PlanTotals,
    unknown: &[&str],
    misses: &Misses,
    empty: Option<&EmptySelection>,
) -> serde_json::Value {
    serde_json::json!({
        "transfer": transfer.name, "totals": totals, "besides": unknown,
        "times": transfer.times(), "hints": misses.hints(),
        "empty": empty.map(|empty| &empty.reason),
    })
}

/// Returns the names of earlier transfers that may write to the source of this one.
fn writers_of(job: &Job, number: usize) -> Vec<&str> {
    let (earlier, transfer) = (&job.transfers[..number], &job.transfers[number]);
    earlier
        .iter()
        .filter(|earlier| may_read(job, transfer, earlier))
        .map(|earlier| earlier.name.as_str())
        .collect()
}

/// Returns the finding about a transfer that selects nothing. Returns `None` if an earlier transfer
/// may still write to its source.
fn empty(transfer: &Transfer, totals: &PlanTotals, writers: &[&str]) -> Option<EmptySelection> {
    let is_empty = writers.is_empty() && totals.has_nothing();
    is_empty
        .then(|| EmptySelection::of(transfer, totals.excluded_objects))
        .flatten()
}

/// Returns the exit code of a plan with these totals. `has_failures` is true if objects would fail
/// because they are archived.
fn plan_exit(
    all: &PlanTotals,
    unlisted: UnlistedCounts,
    has_failures: bool,
    has_empty_failure: bool,
) -> Exit {
    let found = all.objects + all.delete_markers + all.skipped_objects + all.archived_objects;
    let found = found + all.excluded_objects;
    let failed = all.impossible_objects + u64::from(has_failures);
    match unlisted.cause(failed, found, has_empty_failure) {
        Some(cause) => cause.into(),
        None if failed > 0 || has_empty_failure => Exit::Failures,
        None => Exit::Done,
    }
}

/// Describes what the run does with archived objects.
fn fate(transfer: &Transfer, totals: &PlanTotals) -> String {
    match (transfer.archived, transfer.restore) {
        (Archived::Fail, _) => {
            "; they fail: write `archived: restore` or `archived: skip`".to_owned()
        }
        (Archived::Skip, _) => "; they are left out".to_owned(),
        (Archived::Restore, Restore { tier, days }) => {
            let prices = totals.archived_classes.iter().map(|(class, archived)| {
                cost::restore(
                    class,
                    tier,
                    archived.restored_objects,
                    archived.restored_bytes,
                )
            });
            let price = cost::display(prices.sum());
            format!("; restored by tier {tier} for {days} days, {price} at AWS's list prices")
        }
    }
}

/// Returns a step and the steps for newer versions that follow it.
fn chain(sides: &Sides, step: Step) -> impl Iterator<Item = Step> {
    let next = |step: &mut Step| {
        let newer = step
            .history
            .as_mut()
            .and_then(|history| history.newer.take());
        newer.and_then(|newer| newer.next(sides, LatestVersion::Unknown))
    };
    let mut ahead = Some(step);
    std::iter::from_fn(move || {
        let mut step = ahead.take()?;
        ahead = next(&mut step);
        Some(step)
    })
}

/// Returns the totals as text. `fate` describes what the run does with archived objects.
fn text(totals: &PlanTotals, fate: &str) -> String {
    let count = display_count;
    let all_in_place = totals.in_place_objects > 0 && totals.in_place_objects == totals.objects;
    let what = if all_in_place {
        "to change in place:"
    } else {
        "to copy  "
    };
    let mut lines = vec![format!(
        "  {what} {}, {}{}",
        display_counted(totals.objects, "object"),
        ByteSize(totals.bytes),
        if totals.parts > 0 {
            format!(", {}", display_counted(totals.parts, "part"))
        } else {
            String::new()
        }
    )];
    if totals.in_place_objects > 0 && !all_in_place {
        lines.push(format!(
            "  of them, to change in place: {}",
            display_counted(totals.in_place_objects, "object")
        ));
    }
    if totals.delete_markers > 0 {
        lines.push(format!(
            "  to hide   {} with a delete marker",
            display_counted(totals.delete_markers, "key")
        ));
    }
    if !totals.reasons.is_empty() {
        let reasons: Vec<_> = totals
            .reasons
            .iter()
            .map(|(reason, number)| format!("{} {reason}", count(*number)))
            .collect();
        lines.push(format!("  because   {}", reasons.join(", ")));
    }
    if totals.all_requests() > 0 {
        let requests: Vec<_> = totals
            .requests
            .iter()
            .map(|(operation, number)| format!("{operation} {}", count(*number)))
            .collect();
        lines.push(format!(
            "  requests  {} ({})",
            count(totals.all_requests()),
            requests.join(", ")
        ));
    }
    if totals.archived_objects > 0 {
        let classes: Vec<_> = totals
            .archived_classes
            .iter()
            .map(|(class, archived)| format!("{class} {}", count(archived.objects)))
            .collect();
        lines.push(format!(
            "  archived  {}, {} ({}){fate}",
            display_counted(totals.archived_objects, "object"),
            ByteSize(totals.archived_bytes),
            classes.join(", ")
        ));
    }
    for (number, name) in [
        (totals.skipped_objects, "as is"),
        (totals.excluded_objects, "excluded"),
        (totals.impossible_objects, "failed"),
    ] {
        if number > 0 {
            lines.push(format!("  {name:<9} {}", display_counted(number, "object")));
        }
    }
    lines.extend(
        comparison(&totals.unchanged)
            .into_iter()
            .map(|line| format!("  {line}")),
    );
    lines
        .iter()
        .map(|line| printable(line))
        .collect::<Vec<_>>()
        .join("\n")
}
