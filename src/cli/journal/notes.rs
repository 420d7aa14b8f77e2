//! Notes that a run writes before it begins: about the run that it resumes or abandons, and about
//! the report that it replaces.

use std::fmt::Write as _;

use tracing::Level;

use crate::cli::{next, tell as tell_note};
use crate::journal::state::RunState;
use crate::journal::unproven::UnprovenCopies;
use crate::journal::{self, Location};
use crate::listing::local::JOURNALS;
use crate::manifest::job::Job;
use crate::report::{ReportHeader, header, last_footer};
use crate::size::{ByteSize, by_number, display_count, display_counted};
use crate::telemetry::{self, Note};

/// Warns that the run is about to replace the report of another run.
pub(super) fn replaces(job: &Job, is_kept: impl Fn(&ReportHeader) -> bool, tell: impl Fn(&str)) {
    let Some(path) = &job.report.json else { return };
    let Some(old) = header(path).filter(|old| !is_kept(old)) else {
        return;
    };
    let time = old.time.map_or_else(
        || "of an earlier run".to_owned(),
        |time| format!("of {time:.0}"),
    );
    let losses = last_footer(path).map_or(0, |footer| footer.objects_with_losses);
    let losses = match losses {
        0 => String::new(),
        losses => format!(
            ", which named {} {} attributes",
            display_count(losses),
            by_number(losses, "copy that lacks", "copies that lack")
        ),
    };
    // Copying a history again would append all its versions again.
    let advice = if losses.is_empty() || !next::repairs_losses_of(job) {
        ""
    } else {
        ". Copies that this run finds equal stay without them; `when: always` (--when always) copies them again. To \
         repair them with `s3haul retry --losses`, keep the report or name another one"
    };
    tell(&format!(
        "{}: replaces the report {time}{losses}{advice}",
        path.display()
    ));
}

/// Logs that a new run begins, and the changes to the job that make it abandon the run in the
/// journal.
pub(super) fn begun(old: &RunState, left: &RunState, changes: &[String]) {
    let began = Note::new(Level::INFO, "run_began", "a new run begins").only_json();
    let (uploads, bytes) = (left.uploads.len() as u64, left.open_bytes());
    let given_up = format!(
        "{} with {} of stored parts",
        display_counted(uploads, "open upload"),
        ByteSize(bytes)
    );
    if changes.is_empty() {
        if uploads > 0 {
            let message = format!("the new run aborts what an earlier one left: {given_up}");
            let note = Note::new(Level::WARN, "uploads_given_up", message)
                .with("open_uploads", uploads)
                .with("open_bytes", bytes);
            tell_note(&note);
        }
        return tell_note(&began);
    }
    let aborts = match uploads {
        0 => String::new(),
        _ => format!(" It aborts what the unfinished run left: {given_up}."),
    };
    let message = format!(
        "the job was changed: {}; a new run begins (`on_change: new-run`).{aborts} What is at the destination is compared \
         and not copied again",
        changes.join("; ")
    );
    let old_run = old.run.as_ref().map(|run| run.run.as_str());
    let note = Note::new(Level::WARN, "job_changed", message)
        .with("changes", changes)
        .with("old_run", old_run)
        .with("open_uploads", uploads)
        .with("open_bytes", bytes);
    tell_note(&note);
    tell_note(&began);
}

/// Logs the progress of the resumed run.
pub(super) fn resumed(state: &RunState) {
    if let Some(run) = &state.run {
        telemetry::name_run(&run.run);
    }
    let began = state
        .began
        .map(|began| format!(" of {began:.0}"))
        .unwrap_or_default();
    let (totals, open, pending) = (
        &state.totals,
        state.open_bytes(),
        state.pending_objects() as u64,
    );
    let mut line = format!(
        "resuming the run{began}: {} ({}) done, {} pending",
        display_counted(totals.done_objects, "object"),
        ByteSize(totals.done_bytes),
        display_count(pending)
    );
    if open > 0 {
        let _ = write!(line, ", {} in open uploads", ByteSize(open));
    }
    let note = Note::new(Level::INFO, "run_resumed", line)
        .with("began", state.began)
        .with("done_objects", totals.done_objects)
        .with("done_bytes", totals.done_bytes)
        .with("pending_objects", pending)
        .with("open_bytes", open);
    tell_note(&note);
}

/// Notes that copies of earlier runs failed their proof.
pub(super) fn unproven(unproven: &UnprovenCopies, tell: impl Fn(&str)) {
    if unproven.is_empty() {
        return;
    }
    let count = unproven.len() as u64;
    let copies = format!(
        "{} {}",
        display_count(count),
        by_number(count, "copy", "copies")
    );
    tell(&format!(
        "{copies} of earlier runs failed their proof and were kept; this run copies those that belong to it again, \
         unless a checksum or ETag now proves them"
    ));
}

/// Adds the copies that failed their proof in other runs of this directory, because a copy with
/// other flags has another journal.
pub(super) async fn unproven_beside(own: &str, unproven: &mut UnprovenCopies) {
    let Ok(entries) = std::fs::read_dir(JOURNALS) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let is_other = entry.file_name() != own && entry.path().is_dir();
        // The run does not depend on other journals, so it ignores one that cannot be read.
        if is_other && let Ok(Some(glance)) = journal::look(Location::Directory(entry.path())).await
        {
            unproven.merge(&glance.state.unproven);
        }
    }
}
