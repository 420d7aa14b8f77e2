//! Finds what earlier retries of the same report have copied already.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use serde::Deserialize;

use super::retry_report_paths;
use crate::cli::note;
use crate::manifest::job::ReportPlace;
use crate::report::read::{ReceiptStatus, ReportedFailure};
use crate::report::{ReportHeader, header, last_footer};

/// The fields of a receipt that name an object and say what became of it.
#[derive(Deserialize)]
struct RetriedObject {
    transfer: String,
    source: String,
    source_version: Option<String>,
    destination: String,
    status: ReceiptStatus,
}

/// Removes the objects that complete retries of this report have copied since, and says so.
pub(super) fn leave_out_copied(
    failed: &mut Vec<ReportedFailure>,
    report: &ReportPlace,
    origin: &ReportHeader,
) {
    let ReportPlace::File(report) = report else {
        return;
    };
    for later in retry_report_paths(report).take_while(|path| path.exists()) {
        // Another run may have replaced the report, and a retry of its own may be at this place.
        let is_later = header(&later).is_some_and(|header| {
            header.command == origin.command
                && header.directory == origin.directory
                && header.time > origin.time
        });
        if !is_later || !last_footer(&later).is_some_and(|footer| footer.complete) {
            continue;
        }
        let copied = copied_in(&later).unwrap_or_default();
        let before = failed.len();
        failed.retain(|object| {
            let ReportedFailure {
                transfer,
                source,
                version,
                destination,
                ..
            } = object.clone();
            !copied.contains(&(transfer, source, version, destination))
        });
        if failed.len() < before {
            note(&format!(
                "note: what {} reports as copied is left out; --fresh copies it again",
                later.display()
            ));
        }
    }
}

type ObjectKey = (String, String, Option<String>, String);

/// Returns the objects that a report calls copied; `None` if it cannot be read.
fn copied_in(report: &Path) -> Option<HashSet<ObjectKey>> {
    let mut copied = HashSet::new();
    for line in BufReader::new(File::open(report).ok()?).lines() {
        // The header and the footer are no receipts.
        let Ok(object) = serde_json::from_str::<RetriedObject>(&line.ok()?) else {
            continue;
        };
        let RetriedObject {
            transfer,
            source,
            source_version,
            destination,
            status,
        } = object;
        // A failed object may not know its version.
        for version in [None, source_version] {
            let key = (
                transfer.clone(),
                source.clone(),
                version,
                destination.clone(),
            );
            if status == ReceiptStatus::Done {
                copied.insert(key);
            } else {
                copied.remove(&key);
            }
        }
    }
    Some(copied)
}
