//! The output of `verify`: one line per difference, and a summary.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::cli::{Output, note, say_json, say_line};
use crate::execute::receipt::ErrorRecord;
use crate::report::read::ReportedFailure;
use crate::size::{display_count, display_duration};
use crate::verify::{Counts, Verdict, VerifyFinding};

/// The time between progress lines.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Prints differences, and progress at intervals.
pub(super) struct VerifyConsole {
    output: Output,
    shown: Instant,
    compared: u64,
}

impl VerifyConsole {
    pub(super) fn new(output: Output, began: Instant) -> Self {
        Self {
            output,
            shown: began,
            compared: 0,
        }
    }

    /// Prints an object that the run of a report did not copy.
    pub(super) fn tell_undone(&self, object: &ReportedFailure) {
        self.print(&undone(object));
    }

    /// Prints a finding if it is a difference, and progress at intervals.
    pub(super) fn tell(&mut self, finding: &VerifyFinding) {
        self.compared += 1;
        if self.shown.elapsed() >= LINE_EVERY && !self.output.quiet {
            self.shown = Instant::now();
            note(&format!("{} compared", display_count(self.compared)));
        }
        if !matches!(finding.verdict, Verdict::Equal { .. }) {
            self.print(finding);
        }
    }

    fn print(&self, finding: &VerifyFinding) {
        // A closed pipe is not a failure: the exit code still shows the result.
        let _ = if self.output.json {
            say_json(finding)
        } else {
            say_line(&text(finding))
        };
    }
}

/// Returns the finding about an object that the run of a report did not copy.
fn undone(object: &ReportedFailure) -> VerifyFinding {
    let error = ErrorRecord {
        kind: "not-copied",
        operation: String::new(),
        code: String::new(),
        message: "the run failed to copy it, or was stopped before".to_owned(),
        request_id: None,
        remedy: "`s3haul retry` copies what a report calls failed or stopped".to_owned(),
        ends_run: false,
        may_pass_later: false,
        is_published: false,
    };
    VerifyFinding {
        source: Some(object.source.clone()),
        destination: object.destination.clone(),
        size: object.size,
        verdict: Verdict::Failed { error },
    }
}

fn text(finding: &VerifyFinding) -> String {
    let why = match &finding.verdict {
        Verdict::Different { why, .. } | Verdict::Unprovable { why } => format!(": {why}"),
        Verdict::Failed { error } => {
            let code = match error.code.as_str() {
                "" => String::new(),
                code => format!("{code}: "),
            };
            format!(": {code}{}; {}", error.message, error.remedy)
        }
        Verdict::Equal { .. } | Verdict::Missing | Verdict::Extra => String::new(),
    };
    let source = finding
        .source
        .as_ref()
        .map(|source| format!("{source} -> "))
        .unwrap_or_default();
    format!(
        "{:<10}  {source}{}{why}",
        finding.verdict.name(),
        finding.destination
    )
}

pub(super) fn summary(counts: &Counts, took: Duration) -> String {
    let mut text = format!(
        "compared in {}: {} equal",
        display_duration(took),
        display_count(counts.equal)
    );
    if !counts.proofs.is_empty() {
        let proofs: Vec<_> = counts
            .proofs
            .iter()
            .map(|(proof, count)| format!("{proof} {}", display_count(*count)))
            .collect();
        let _ = write!(text, " ({})", proofs.join(", "));
    }
    for (count, what) in [
        (counts.different, "different"),
        (counts.missing, "missing"),
        (counts.extra, "extra"),
        (counts.unprovable, "unprovable"),
        (counts.failed, "failed"),
        (counts.excluded, "left out"),
    ] {
        if count > 0 {
            let _ = write!(text, ", {} {what}", display_count(count));
        }
    }
    if let Some(missed) = counts.missed_extra() {
        let _ = write!(text, "; {missed}");
    }
    text
}
