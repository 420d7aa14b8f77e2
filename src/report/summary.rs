//! The summary that ends a run: the results of its objects, for people.

use std::fmt::Write as _;
use std::time::Duration;

use crate::execute::{Earlier, Outcome};
use crate::plan::decide::Reason;
use crate::plan::unchanged::Unchanged;
use crate::printable::printable;
use crate::size::{ByteSize, display_count as count, display_duration};

/// Causes of failures that the summary names.
const SHOWN_CAUSES: usize = 10;

/// Returns the summary that ends a run, a few lines.
#[must_use]
pub fn summary(outcome: &Outcome) -> String {
    let mut text = String::new();
    totals(&mut text, outcome);
    if let Some(earlier) = outcome.earlier.as_ref().filter(|_| outcome.sessions > 1) {
        let _ = writeln!(text, "{}", of_earlier_sessions(earlier));
    }
    if outcome.old_versions > 0 {
        let _ = writeln!(
            text,
            "{} old versions stay in the bucket and cost money until they are deleted or expire",
            count(outcome.old_versions)
        );
    }
    reasons(&mut text, outcome);
    for empty in &outcome.empty {
        let _ = writeln!(text, "{}", printable(&empty.to_string()));
    }
    failures(&mut text, outcome);
    for hint in &outcome.hints {
        let _ = writeln!(text, "hint: {}", printable(hint));
    }
    if let Some(gave_up) = &outcome.gave_up {
        let _ = writeln!(text, "gave up: {}", printable(&gave_up.reason));
    }
    let requests = outcome.requests;
    let _ = writeln!(
        text,
        "requests{}: {} ({} throttled, {} sent again)",
        if outcome.sessions > 1 {
            " of this session"
        } else {
            ""
        },
        count(requests.requests),
        count(requests.throttled),
        count(requests.retried)
    );
    text
}

/// Adds the line of the totals.
fn totals(text: &mut String, outcome: &Outcome) {
    let how = match (outcome.stopped, outcome.failed_objects) {
        (true, _) if outcome.gave_up.is_some() => "gave up",
        (true, _) => "stopped",
        (false, 0) if outcome.restoring_objects > 0 => "waiting for restores",
        (false, 0) if outcome.has_empty_failure() => "finished with an empty source",
        (false, 0) => "done",
        (false, _) => "finished with failures",
    };
    let took = display_duration(Duration::from_secs_f64(outcome.seconds.max(0.0)));
    let sessions = match outcome.sessions {
        0 | 1 => String::new(),
        sessions => format!(" over {sessions} sessions"),
    };
    let all_in_place =
        outcome.in_place_objects > 0 && outcome.in_place_objects == outcome.done_objects;
    let what = if all_in_place {
        "changed in place"
    } else {
        "copied"
    };
    let _ = write!(
        text,
        "{how} in {took}{sessions}: {} objects {what} and proven ({}",
        count(outcome.done_objects),
        ByteSize(outcome.done_bytes)
    );
    if outcome.parts > 0 {
        let _ = write!(text, " in {} parts", count(outcome.parts));
    }
    let _ = write!(text, ")");
    if outcome.in_place_objects > 0 && !all_in_place {
        let _ = write!(
            text,
            ", {} of them changed in place",
            count(outcome.in_place_objects)
        );
    }
    if outcome.delete_markers > 0 {
        let _ = write!(
            text,
            ", {} delete markers written",
            count(outcome.delete_markers)
        );
    }
    let _ = write!(
        text,
        ", {} left as they are",
        count(outcome.skipped_objects)
    );
    for (number, what) in [
        (
            outcome.restoring_objects,
            "being restored (run the job again when they are readable)",
        ),
        (outcome.archived_objects, "archived and left out"),
        (outcome.failed_objects, "failed"),
        (outcome.stopped_objects, "not done"),
        (outcome.excluded_objects, "excluded"),
        (
            outcome.ignored,
            "ignored (excluded directories, links, special files)",
        ),
        (outcome.objects_with_losses, "with something not kept"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {} {what}", count(number));
        }
    }
    text.push('\n');
}

/// Adds how objects were proven and why they were copied, how others were compared, and what was
/// lost.
fn reasons(text: &mut String, outcome: &Outcome) {
    if !outcome.proofs.is_empty() {
        let proofs: Vec<_> = outcome
            .proofs
            .iter()
            .map(|(proof, number)| format!("{proof} {}", count(*number)))
            .collect();
        let _ = writeln!(text, "proven by: {}", proofs.join(", "));
    }
    // `when: always` is the job's own setting, or that of a retry: as a reason it says nothing.
    let says_something = outcome
        .reasons
        .keys()
        .any(|reason| *reason != Reason::Always);
    if outcome.done_objects > 0 && says_something {
        let reasons: Vec<_> = outcome
            .reasons
            .iter()
            .map(|(reason, number)| format!("{} {reason}", count(*number)))
            .collect();
        let _ = writeln!(text, "copied because: {}", reasons.join(", "));
    }
    for line in comparison(&outcome.unchanged) {
        let _ = writeln!(text, "{line}");
    }
    for (loss, objects) in outcome.losses.iter() {
        let line = format!(
            "{} {} on {} objects: {}",
            loss.attribute,
            loss.lost,
            count(objects),
            loss.reason
        );
        let _ = writeln!(text, "{}", printable(&line));
    }
    if outcome.losses.others() > 0 {
        let _ = writeln!(
            text,
            "{} other losses are in the report",
            count(outcome.losses.others())
        );
    }
}

/// Returns a line about the objects that earlier sessions proved, and about those of them that this
/// session saw.
fn of_earlier_sessions(earlier: &Earlier) -> String {
    let seen = match earlier.seen {
        0 => "not looked at again since".to_owned(),
        seen => format!(
            "{} of them looked at again when this session began",
            count(seen)
        ),
    };
    let objects = count(earlier.objects);
    format!(
        "{objects} of the objects were copied and proven by earlier sessions, until {:.0}; {seen}",
        earlier.until
    )
}

/// Adds what objects failed for: a line per cause.
fn failures(text: &mut String, outcome: &Outcome) {
    let causes = outcome.causes.by_frequency();
    for cause in causes.iter().take(SHOWN_CAUSES) {
        let message = cause.message.trim_end_matches('.');
        let line = format!(
            "{} x {} {}: {message}, for example {}",
            count(cause.objects),
            cause.operation,
            cause.code,
            cause.example
        );
        let _ = writeln!(text, "{}", printable(&line));
    }
    let more =
        causes.len().saturating_sub(SHOWN_CAUSES) as u64 + u64::from(outcome.causes.others() > 0);
    if more > 0 {
        let objects: u64 = causes
            .iter()
            .skip(SHOWN_CAUSES)
            .map(|cause| cause.objects)
            .sum();
        let objects = objects + outcome.causes.others();
        let _ = writeln!(
            text,
            "and {} more kinds of failures ({} objects)",
            count(more),
            count(objects)
        );
    }
}

/// Returns lines that say how unchanged objects were compared, and which of their attributes were
/// not checked.
#[must_use]
pub fn comparison(unchanged: &Unchanged) -> Vec<String> {
    let mut lines = Vec::new();
    let by: Vec<_> = unchanged
        .by
        .iter()
        .map(|(basis, number)| format!("{} by {basis}", count(*number)))
        .collect();
    if !by.is_empty() {
        lines.push(format!("unchanged: {}", by.join(", ")));
    }
    if unchanged.attributes_not_checked > 0 {
        lines.push(format!(
            "{} unchanged objects were not checked for the headers, metadata, tags, or encryption that this job sets; \
             `compare_attributes: true` (--compare-attributes) checks them, `when: always` copies them",
            count(unchanged.attributes_not_checked)
        ));
    }
    if unchanged.other_storage_class > 0 {
        lines.push(format!(
            "{} unchanged objects have another storage class than this job sets, perhaps by a lifecycle rule; \
             `when: always` copies them",
            count(unchanged.other_storage_class)
        ));
    }
    lines
}
