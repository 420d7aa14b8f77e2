//! Probes the destinations of a job, and prints what was found.
//!
//! A signal stops a probe cleanly: the probe first removes what it created, and reports what it
//! could not remove.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::super::out::wrapped;
use super::super::{CliError, Exit, Output, say, say_json};
use crate::bucket::Bucket;
use crate::connections::Connections;
use crate::endpoint::Trust;
use crate::location::BucketName;
use crate::manifest::job::{Job, Transfer};
use crate::printable::printable;
use crate::probe::{
    self, AttributeFinding, Claim, How, Leftover, Needs, Probe, ProbeFinding, ProbeVerdict,
    RequestFinding,
};
use crate::s3::OnWrites;

/// Columns of text output.
const WIDTH: usize = 80;

/// Probes each destination bucket once.
pub(super) async fn probe_all(
    job: &Job,
    prefix: Option<&str>,
    connections: &mut Connections,
    stop: &CancellationToken,
    output: Output,
) -> Result<Exit, CliError> {
    let mut exit = Exit::Done;
    let mut destinations: BTreeMap<(&str, &BucketName), Vec<&Transfer>> = BTreeMap::new();
    for transfer in &job.transfers {
        let place = (transfer.to.endpoint.as_str(), &transfer.to.location.bucket);
        destinations.entry(place).or_default().push(transfer);
    }
    for transfers in destinations.into_values() {
        let (_, bucket) = connections.of_transfer(transfers[0]).await?;
        let prefix = prefix.map_or_else(probe::scratch_prefix, str::to_owned);
        let needs = Needs::of(transfers);
        let begun = match Box::pin(probe::begin(&bucket, &prefix)).await {
            Err(_) if stop.is_cancelled() => {
                return Err(interrupted("the probe left nothing behind"));
            }
            begun => begun?,
        };
        let found = match Box::pin(begun.measure(&needs, stop)).await {
            // The error names the leftovers, if there are any.
            Err(failure) if stop.is_cancelled() => {
                return Err(interrupted(&format!("the probe ended early: {failure}")));
            }
            found => found?,
        };
        if output.json {
            say_json(&document(&bucket, &found))?;
        } else {
            say(&text(&bucket, &found))?;
        }
        if found.stopped {
            return Err(interrupted("what the probe left is listed above"));
        }
        if !found.is_good() {
            exit = Exit::Failures;
        }
    }
    Ok(exit)
}

fn interrupted(what: &str) -> CliError {
    CliError::Interrupted(what.to_owned())
}

/// Returns the results of a probe as one JSON document.
fn document(bucket: &Bucket, probe: &Probe) -> Value {
    let status = match probe {
        Probe { stopped: true, .. } => "stopped",
        probe if probe.is_good() => "ok",
        _ => "failed",
    };
    let not_stored: Vec<_> = probe
        .not_stored
        .iter()
        .map(|key| json!({"key": key.key, "reason": key.reason}))
        .collect();
    json!({
        "probe": {
            "endpoint": bucket.client().endpoint(),
            "bucket": bucket.name().to_string(),
            "prefix": probe.prefix,
            "status": status,
            "requests": probe.requests.iter().map(of_request).collect::<Vec<_>>(),
            "findings": probe.findings.iter().map(of_capability).collect::<Vec<_>>(),
            "attributes": probe.attributes.iter().map(of_attribute).collect::<Vec<_>>(),
            "not_stored": not_stored,
            "capabilities": probe.statement(),
            "trust": probe.advised_trust().map(trust_word),
            "doubts": probe.doubts(),
            "false_date": probe.false_date,
            "left": probe.left,
        }
    })
}

/// Adds the fields that all kinds of findings share.
fn judged(
    mut fields: Value,
    verdict: ProbeVerdict,
    fails: bool,
    words: (String, Option<String>),
) -> Value {
    let Value::Object(map) = &mut fields else {
        return fields;
    };
    map.insert("verdict".to_owned(), json!(verdict));
    map.insert("fails".to_owned(), json!(fails));
    let (reason, consequence) = words;
    if !reason.is_empty() {
        map.insert("reason".to_owned(), json!(reason));
    }
    if let Some(consequence) = consequence {
        map.insert("consequence".to_owned(), json!(consequence));
    }
    fields
}

fn of_request(finding: &RequestFinding) -> Value {
    let fields = json!({
        "request": finding.operation.to_string(), "found": finding.word(), "needed": finding.is_needed,
    });
    let words = (finding.reason().to_owned(), finding.consequence());
    judged(fields, finding.verdict(), finding.fails(), words)
}

fn of_capability(finding: &ProbeFinding) -> Value {
    let mut fields = json!({
        "capability": finding.name, "relied_on": finding.stated(), "found": finding.found(),
        "needed": finding.is_needed,
    });
    let writes: Map<_, _> = finding
        .writes()
        .map(|(write, measured)| {
            (
                json!(write).as_str().unwrap_or_default().to_owned(),
                json!(measured.how),
            )
        })
        .collect();
    if !writes.is_empty() {
        fields["writes"] = Value::Object(writes);
    }
    judged(
        fields,
        finding.verdict(),
        finding.fails(),
        (finding.reason(), finding.consequence()),
    )
}

fn of_attribute(finding: &AttributeFinding) -> Value {
    let fields = json!({
        "attribute": finding.attribute, "policy": finding.policy, "named": finding.is_named,
        "put": finding.put.how, "copy": finding.copy.how, "multipart": finding.multipart.how,
    });
    judged(
        fields,
        finding.verdict(),
        finding.fails(),
        (finding.reason(), finding.consequence()),
    )
}

/// Returns the results of a probe as text.
fn text(bucket: &Bucket, probe: &Probe) -> String {
    let endpoint = bucket.client().endpoint();
    let mut lines = vec![
        format!("probe of s3://{}/{}", bucket.name(), probe.prefix),
        format!("(endpoint `{endpoint}`)"),
    ];
    if !probe.stopped {
        lines.extend(tables(probe));
        lines.extend(remarks(probe));
    }
    let statements: Vec<_> = probe.statements().collect();
    if !statements.is_empty() {
        lines.push(String::new());
        lines.extend(wrapped_lines(
            "",
            &format!(
                "to rely on what was found, state it under `endpoints.{endpoint}` of the manifest:"
            ),
        ));
        lines.push("  capabilities:".to_owned());
        lines.extend(
            statements
                .iter()
                .map(|statement| format!("    {statement}")),
        );
    }
    lines.extend(trust(endpoint, probe));
    if let Some(contradiction) = &probe.false_date {
        let message = format!(
            "its dates of uploads are not true, so `s3haul uploads abort --older-than` aborts none: {contradiction}"
        );
        lines.push(String::new());
        lines.extend(wrapped_lines("", &message));
    }
    for left in &probe.left {
        lines.extend(left_behind(left));
    }
    lines
        .iter()
        .map(|line| printable(line.trim_end()))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Returns the advice about `trust`, as lines to paste into the manifest.
fn trust(endpoint: &str, probe: &Probe) -> Vec<String> {
    let Some(trust) = probe.advised_trust() else {
        return Vec::new();
    };
    let doubts = probe.doubts().join(", ");
    let message = format!(
        "the server confirmed what it did not do ({doubts}); to check each object after it is written, state under \
         `endpoints.{endpoint}`:"
    );
    let mut lines = vec![String::new()];
    lines.extend(wrapped_lines("", &message));
    lines.push(format!("  trust: {}", trust_word(trust)));
    lines
}

/// Returns the manifest's word for a `trust` value.
const fn trust_word(trust: Trust) -> &'static str {
    match trust {
        Trust::Answers => "answers",
        Trust::Nothing => "nothing",
    }
}

fn tables(probe: &Probe) -> Vec<String> {
    let row = |name: &str, one: &str, two: &str, mark: &str| {
        format!("  {name:<25}{one:<11}{two:<29}{mark}")
    };
    let mut lines = vec![String::new(), row("request", "found", "", "")];
    for finding in &probe.requests {
        let mark = if finding.fails() { "FAIL" } else { "" };
        lines.push(row(
            &finding.operation.to_string(),
            finding.word(),
            "",
            mark,
        ));
    }
    let row = |name: &str, one: &str, two: &str, mark: &str| {
        format!("  {name:<18}{one:<23}{two:<23}{mark}")
    };
    lines.extend([String::new(), row("capability", "relied on", "found", "")]);
    for finding in &probe.findings {
        let stated = finding.stated().to_string();
        let mark = mark(finding.verdict(), finding.fails());
        lines.push(row(finding.name, &stated, &shown(finding), mark));
    }
    if probe.attributes.is_empty() {
        return lines;
    }
    let row = |name: &str, policy: &str, [put, copy, multipart]: [&str; 3], mark: &str| {
        format!("  {name:<18}{policy:<11}{put:<12}{copy:<12}{multipart:<12}{mark}")
    };
    lines.extend([
        String::new(),
        row("attribute", "policy", ["put", "copy", "multipart"], ""),
    ]);
    for finding in &probe.attributes {
        let measured = finding.routes().map(|(_, measured)| {
            if measured.how == How::Moot {
                "-"
            } else {
                measured.how.word()
            }
        });
        let policy = json!(finding.policy);
        let mark = mark(finding.verdict(), finding.fails());
        lines.push(row(
            finding.attribute.name(),
            policy.as_str().unwrap_or_default(),
            measured,
            mark,
        ));
    }
    lines
}

/// Returns the value that was found, with a question mark if parts of it are unknown.
fn shown(finding: &ProbeFinding) -> String {
    match &finding.claim {
        Claim::Flag { measured, .. } if measured.how == How::Moot => "-".to_owned(),
        Claim::Flag { .. } => finding
            .found()
            .map_or_else(|| "?".to_owned(), |found| found.to_string()),
        Claim::Writes {
            copy,
            put,
            complete,
            ..
        } => {
            let all = [copy, put, complete];
            let (kept, unknown) = (
                all.map(|measured| measured.how == How::Kept),
                all.map(|measured| measured.how == How::Unknown),
            );
            if !kept.contains(&true)
                && all
                    .iter()
                    .all(|measured| matches!(measured.how, How::Unknown | How::Moot))
            {
                return if unknown.contains(&true) { "?" } else { "-" }.to_owned();
            }
            let of = |[copy, put, complete]: [bool; 3]| {
                OnWrites {
                    copy,
                    put,
                    complete,
                }
                .to_string()
            };
            if unknown.contains(&true) {
                format!("{} ?", of(kept))
            } else {
                of(kept)
            }
        }
    }
}

const fn mark(verdict: ProbeVerdict, fails: bool) -> &'static str {
    match verdict {
        ProbeVerdict::Unknown if fails => "FAIL: unknown",
        _ if fails => "FAIL",
        // These need no mark.
        ProbeVerdict::Agrees | ProbeVerdict::Moot => "",
        ProbeVerdict::CanDoMore => "can do more",
        ProbeVerdict::Loses => "lost",
        ProbeVerdict::Lacks => "lacks",
        ProbeVerdict::Unknown => "unknown",
    }
}

/// Returns the findings that differ from what the job relies on, with reasons and consequences,
/// failures first.
fn remarks(probe: &Probe) -> Vec<String> {
    let requests = probe.requests.iter().map(|finding| {
        let words = (finding.reason().to_owned(), finding.consequence());
        (
            finding.fails(),
            finding.verdict(),
            finding.operation.to_string(),
            words,
        )
    });
    let capabilities = probe.findings.iter().map(|finding| {
        let words = (finding.reason(), finding.consequence());
        (
            finding.fails(),
            finding.verdict(),
            finding.name.to_owned(),
            words,
        )
    });
    let attributes = probe.attributes.iter().map(|finding| {
        let words = (finding.reason(), finding.consequence());
        (
            finding.fails(),
            finding.verdict(),
            finding.attribute.name().to_owned(),
            words,
        )
    });
    let mut all: Vec<_> = requests.chain(capabilities).chain(attributes).collect();
    all.sort_by_key(|(fails, ..)| !fails);
    let mut lines = vec![String::new()];
    for (fails, verdict, name, (reason, consequence)) in all {
        let Some(consequence) = consequence.filter(|_| verdict != ProbeVerdict::CanDoMore) else {
            continue;
        };
        let start = if fails { "FAIL " } else { "" };
        let reason = if reason.is_empty() {
            String::new()
        } else {
            format!("{reason}. ")
        };
        lines.extend(wrapped_lines(
            &format!("{start}{name}: "),
            &format!("{reason}{}", sentence(&consequence)),
        ));
    }
    for key in &probe.not_stored {
        let text = format!("{} ({}); objects with such keys fail", key.key, key.reason);
        lines.extend(wrapped_lines("not stored: ", &text));
    }
    if lines.len() == 1 {
        lines.clear();
    }
    lines
}

/// Capitalizes the first letter, unless the text starts with the name s3haul.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    if text.starts_with("s3haul") {
        text.to_owned()
    } else {
        first.into_iter().chain(chars).collect()
    }
}

fn left_behind(left: &Leftover) -> Vec<String> {
    let Leftover {
        what,
        key,
        id,
        is_certain,
        reason,
        command,
    } = left;
    let start = if *is_certain {
        "left behind: "
    } else {
        "may be left behind: "
    };
    let id = id.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
    let mut lines = wrapped_lines(
        start,
        &format!("{what}{id} of {key}: {reason}; remove it with"),
    );
    // Not wrapped, so that it can be copied.
    lines.push(format!("    {command}"));
    lines
}

/// Wraps a text at 80 columns.
fn wrapped_lines(start: &str, text: &str) -> Vec<String> {
    wrapped(start, text, WIDTH, 4)
}
