//! Logs the lifecycle of a run: its start, its first contact with its buckets, its failures, and
//! its result.

use tracing::Level;

use super::out::tell;
use super::shards::GivenShard;
use super::{Exit, Output, termination};
use crate::execute::receipt::{ErrorRecord, Receipt};
use crate::execute::{Outcome, describe};
use crate::manifest::job::{Job, JournalPlace, Limits};
use crate::report::{ReportHeader, summary};
use crate::size::{display_count, display_counted, display_duration};
use crate::telemetry::{self, Note};

/// The maximum number of transfers in the first line.
const SHOWN_TRANSFERS: usize = 20;

/// Logs the start of a run. In JSON, this is the first line of its log.
pub(super) fn start(job: &Job, origin: &ReportHeader, shard: Option<&GivenShard>) {
    telemetry::name_job(&job.name);
    telemetry::name_run(&origin.run);
    let identities: Vec<_> = origin
        .identity
        .iter()
        .map(|(name, identity)| format!("{name}: {identity}"))
        .collect();
    let pod = telemetry::pod().map(|pod| format!(" in {pod}"));
    let message = format!(
        "s3haul {} runs {} as {}{} ({})",
        origin.version,
        job.name,
        origin.run,
        pod.unwrap_or_default(),
        identities.join("; ")
    );
    let transfers: Vec<_> = job
        .transfers
        .iter()
        .take(SHOWN_TRANSFERS)
        .map(describe)
        .collect();
    let endpoints: serde_json::Map<_, _> = job
        .endpoints
        .iter()
        .map(|(name, endpoint)| {
            let place = endpoint
                .url()
                .map_or_else(|| endpoint.server.to_string(), str::to_owned);
            let endpoint = serde_json::json!({ "url": place, "region": endpoint.region.value });
            (name.clone(), endpoint)
        })
        .collect();
    let mut note = Note::new(Level::INFO, "start", message)
        .only_json()
        .with("version", &origin.version)
        .with("identities", &origin.identity)
        .with("endpoints", endpoints)
        .with("limits", limits(&job.limits))
        .with("transfers", transfers)
        .with("journal", journal_of(job))
        .with("report", job.report.place().map(|place| place.to_string()));
    if let Some(given) = shard {
        note = note
            .with("shard", given.shard)
            .with("shards", given.run.shards)
            .with("pods", given.run.pods);
    }
    tell(&note);
}

/// Logs that all buckets of a run have responded, and the identities that were used.
pub(super) fn connected(origin: &ReportHeader) {
    let note = Note::new(Level::INFO, "connected", "all buckets answer")
        .only_json()
        .with("identities", &origin.identity);
    tell(&note);
}

/// Returns the limits in the manifest's form.
fn limits(limits: &Limits) -> serde_json::Value {
    let Limits {
        requests_per_second,
        bytes_per_second,
        in_flight,
        patience,
        max_failures,
    } = limits;
    serde_json::json!({
        "requests_per_second": requests_per_second,
        "bytes_per_second": bytes_per_second.map(|rate| rate.to_string()),
        "in_flight": in_flight,
        "patience": patience.map(display_duration),
        "max_failures": max_failures.map(|limit| limit.to_string()),
    })
}

/// Returns the location of the journal in the manifest's form.
fn journal_of(job: &Job) -> String {
    match &job.journal {
        JournalPlace::Default => format!("./.s3haul/{}", job.name),
        JournalPlace::Disabled => "none".to_owned(),
        JournalPlace::Directory(path) => path.display().to_string(),
        JournalPlace::Prefix(uri) => uri.to_string(),
    }
}

/// Returns the event `object_failed`.
pub(super) fn failure(receipt: &Receipt, error: &ErrorRecord, output: Output) -> Note {
    let request = error
        .request_id
        .as_ref()
        .map(|id| format!(" [request {id}]"))
        .unwrap_or_default();
    let code = &error.code;
    let message = output.spoken(error.message.trim_end_matches('.').to_owned());
    let Receipt { source, .. } = receipt;
    let operation = &error.operation;
    let remedy = match error.remedy.as_str() {
        "" => String::new(),
        remedy => format!("; {}", output.spoken(remedy.to_owned())),
    };
    let message = format!("failed: {source}: {operation}: {code}: {message}{request}{remedy}");
    Note::new(Level::ERROR, "object_failed", message)
        .with("source", source)
        .with("destination", &receipt.destination)
        .with("operation", operation)
        .with("code", code)
        .with("kind", error.kind)
        .with("request_id", &error.request_id)
}

/// Logs the result of a run and the name of its report as the event `summary`, and sets the reason
/// for its exit code.
pub(super) fn summarize(outcome: &Outcome, exit: Exit, report: Option<&str>) {
    if let Some(reason) = reason(outcome, exit) {
        termination::set_reason(&reason);
    }
    let level = match exit {
        Exit::Done => Level::INFO,
        Exit::Interrupted | Exit::Waiting => Level::WARN,
        _ => Level::ERROR,
    };
    let text = summary(outcome);
    let note = Note::new(level, "summary", text.lines().next().unwrap_or_default())
        .only_json()
        .with("exit", exit as i32)
        .with("report", report)
        .with_fields_of(outcome);
    tell(&note);
}

/// Returns the reason why a run did not succeed, in one sentence.
fn reason(outcome: &Outcome, exit: Exit) -> Option<String> {
    if exit == Exit::Done {
        return None;
    }
    if let Some(gave_up) = &outcome.gave_up {
        return Some(format!("gave up: {}", gave_up.reason));
    }
    if exit == Exit::Waiting {
        let objects = display_counted(outcome.restoring_objects, "object");
        return Some(format!(
            "waiting for the restore of {objects} from an archive; run the job again when they can be read"
        ));
    }
    let causes = outcome.causes.by_frequency();
    if let Some(cause) = causes.first() {
        let failed = display_counted(outcome.failed_objects, "object");
        let others = match causes.len() as u64 - 1 + u64::from(outcome.causes.others() > 0) {
            0 => String::new(),
            others => format!(", and {} more kinds of failures", display_count(others)),
        };
        return Some(format!(
            "{failed} failed: {} x {} {}: {}, for example {}{others}",
            display_count(cause.objects),
            cause.operation,
            cause.code,
            cause.message.trim_end_matches('.'),
            cause.example
        ));
    }
    let empty = outcome.empty.iter().find(|empty| empty.fails)?;
    Some(format!("{}: {}", empty.transfer, empty.reason))
}
