//! Formats the summary that ends a run.

use std::fmt::Write as _;
use std::time::Duration;

use crate::execute::{Earlier, Outcome};
use crate::manifest::job::Attribute;
use crate::plan::decide::Reason;
use crate::plan::loss::Loss;
use crate::plan::unchanged::Unchanged;
use crate::printable::printable;
use crate::size::{
    ByteSize, by_number, display_count as count, display_counted as counted, display_duration,
};

/// The maximum number of causes of failures that the summary names.
const SHOWN_CAUSES: usize = 10;

/// Returns the summary that ends a run, as a few lines of text.
#[must_use]
pub fn summary(outcome: &Outcome) -> String {
    let mut text = String::new();
    totals(&mut text, outcome);
    if let Some(earlier) = outcome.earlier.as_ref().filter(|_| outcome.sessions > 1) {
        let _ = writeln!(text, "{}", of_earlier_sessions(earlier));
    }
    recovered(&mut text, outcome);
    if outcome.old_versions > 0 {
        let _ = writeln!(
            text,
            "{} {} in the bucket and {} money until {} deleted or {}",
            counted(outcome.old_versions, "old version"),
            by_number(outcome.old_versions, "stays", "stay"),
            by_number(outcome.old_versions, "costs", "cost"),
            by_number(outcome.old_versions, "it is", "they are"),
            by_number(outcome.old_versions, "expires", "expire")
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
        "requests{}: {} ({} throttled, {} sent again{})",
        if outcome.sessions > 1 {
            " of this session"
        } else {
            ""
        },
        count(requests.requests),
        count(requests.throttled),
        count(requests.retried),
        match requests.hedged {
            0 => String::new(),
            hedged => format!(", {} sent twice because they hung", count(hedged)),
        }
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
        "{how} in {took}{sessions}: {} {what} and proven ({}",
        counted(outcome.done_objects, "object"),
        ByteSize(outcome.done_bytes)
    );
    if outcome.parts > 0 {
        let _ = write!(text, " in {}", counted(outcome.parts, "part"));
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
            ", {} written",
            counted(outcome.delete_markers, "delete marker")
        );
    }
    let _ = write!(text, ", {} unchanged", count(outcome.skipped_objects));
    for (number, what) in [
        (
            outcome.restoring_objects,
            "being restored (run the job again when they are readable)",
        ),
        (outcome.archived_objects, "archived and left out"),
        (outcome.failed_objects, "failed"),
        (outcome.stopped_objects, "pending"),
        (outcome.excluded_objects, "excluded"),
        (
            outcome.ignored,
            "ignored (folder markers, excluded directories, links, special files)",
        ),
        (outcome.objects_with_losses, "with something not kept"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {} {what}", count(number));
        }
    }
    text.push('\n');
}

/// Adds the proofs and the reasons of copied objects, the comparisons of others, and the losses.
fn reasons(text: &mut String, outcome: &Outcome) {
    if !outcome.proofs.is_empty() {
        let proofs: Vec<_> = outcome
            .proofs
            .iter()
            .map(|(proof, number)| format!("{proof} {}", count(*number)))
            .collect();
        let _ = writeln!(text, "proven by: {}", proofs.join(", "));
    }
    // `when: always` is a setting of the job or of a retry, so it explains nothing.
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
            "{} {} on {}: {}",
            loss.attribute,
            loss.lost,
            counted(objects, "object"),
            loss.reason
        );
        let _ = writeln!(text, "{}", printable(&line));
    }
    let is_of_lock = |(loss, _): (&Loss, u64)| loss.attribute == Attribute::Lock;
    if outcome.losses.iter().any(is_of_lock) {
        let _ = writeln!(
            text,
            "hint: `lock: require` under `preserve` (--preserve lock=require) fails an object that would lose its lock"
        );
    }
    if outcome.losses.others() > 0 {
        let _ = writeln!(
            text,
            "{} other {} in the report",
            count(outcome.losses.others()),
            by_number(outcome.losses.others(), "loss is", "losses are")
        );
    }
}

/// Returns a line about the objects that earlier sessions proved, and about the objects among them
/// that this session checked again.
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
        "{objects} of the objects {} copied and proven by earlier sessions, until {:.0}; {seen}",
        by_number(earlier.objects, "was", "were"),
        earlier.until
    )
}

/// Adds the objects that an earlier session copied, or may have copied, without recording it.
fn recovered(text: &mut String, outcome: &Outcome) {
    let (proven, maybe) = (outcome.recovered_objects, outcome.maybe_recovered_objects);
    if proven > 0 {
        let _ = writeln!(
            text,
            "an earlier session copied {} of the objects without recording it; this session proved {}",
            count(proven),
            by_number(proven, "it", "them")
        );
    }
    if maybe > 0 {
        let _ = writeln!(
            text,
            "an earlier session may have copied {} of the unchanged ones; nothing that is stored with {} proves it",
            count(maybe),
            by_number(maybe, "it", "them")
        );
    }
}

/// Adds a line for each cause of failures.
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
            "and {} more {} of failures ({})",
            count(more),
            by_number(more, "kind", "kinds"),
            counted(objects, "object")
        );
    }
}

/// Returns lines about the comparisons of unchanged objects, and about attributes that were not
/// checked.
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
            "{} {} not checked for the headers, metadata, tags, or encryption that this job sets; \
             `compare_attributes: true` (--compare-attributes) checks {them}, `when: always` copies {them}",
            counted(unchanged.attributes_not_checked, "unchanged object"),
            by_number(unchanged.attributes_not_checked, "was", "were"),
            them = by_number(unchanged.attributes_not_checked, "it", "them")
        ));
    }
    if unchanged.other_storage_class > 0 {
        lines.push(format!(
            "{} {} another storage class than this job sets, perhaps by a lifecycle rule; \
             `when: always` copies {}",
            counted(unchanged.other_storage_class, "unchanged object"),
            by_number(unchanged.other_storage_class, "has", "have"),
            by_number(unchanged.other_storage_class, "it", "them")
        ));
    }
    if unchanged.tags_not_compared > 0 {
        lines.push(format!(
            "{} {} not compared by tags, which may not be read; to compare them, grant s3:GetObjectTagging on both sides",
            counted(unchanged.tags_not_compared, "unchanged object"),
            by_number(unchanged.tags_not_compared, "was", "were"),
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::decide::Basis;

    fn outcome() -> Outcome {
        Outcome {
            done_objects: 3,
            done_bytes: 300,
            parts: 1,
            delete_markers: 1,
            skipped_objects: 2,
            recovered_objects: 1,
            maybe_recovered_objects: 2,
            objects_with_losses: 1,
            proofs: [("crc64nvme".to_owned(), 3)].into(),
            reasons: [(Reason::Missing, 2), (Reason::SizeDiffers, 1)].into(),
            sessions: 2,
            seconds: 61.0,
            ..Outcome::default()
        }
    }

    #[test]
    fn it_tells_why_objects_were_copied() {
        insta::assert_snapshot!(summary(&outcome()), @r"
        done in 1m 01s over 2 sessions: 3 objects copied and proven (300B in 1 part), 1 delete marker written, 2 unchanged, 1 with something not kept
        an earlier session copied 1 of the objects without recording it; this session proved it
        an earlier session may have copied 2 of the unchanged ones; nothing that is stored with them proves it
        proven by: crc64nvme 3
        copied because: 2 missing, 1 size differs
        requests of this session: 0 (0 throttled, 0 sent again)
        ");
    }

    #[test]
    fn one_is_one() {
        let mut outcome = Outcome {
            done_objects: 1,
            in_place_objects: 1,
            old_versions: 1,
            reasons: [(Reason::Always, 1)].into(),
            sessions: 1,
            ..Outcome::default()
        };
        outcome.unchanged = Unchanged {
            by: [(Basis::Etag, 1)].into(),
            attributes_not_checked: 1,
            other_storage_class: 1,
            tags_not_compared: 1,
        };
        insta::assert_snapshot!(summary(&outcome), @r"
        done in 0.0s: 1 object changed in place and proven (0B), 0 unchanged
        1 old version stays in the bucket and costs money until it is deleted or expires
        unchanged: 1 by ETag
        1 unchanged object was not checked for the headers, metadata, tags, or encryption that this job sets; `compare_attributes: true` (--compare-attributes) checks it, `when: always` copies it
        1 unchanged object has another storage class than this job sets, perhaps by a lifecycle rule; `when: always` copies it
        1 unchanged object was not compared by tags, which may not be read; to compare them, grant s3:GetObjectTagging on both sides
        requests: 0 (0 throttled, 0 sent again)
        ");
    }
}
