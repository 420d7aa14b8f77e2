//! `retry --losses`: repairs copies that lost attributes.

use crate::cli::exit::NEXT_ERROR;
use crate::cli::{CliError, Output, next, note, say_line};
use crate::location::S3Uri;
use crate::manifest::job::{
    Attribute, Compare, Job, Policy, ReportPlace, Transfer, Versions, When,
};
use crate::report::ReportHeader;
use crate::report::read::{LostObject, ReportedFailure};
use crate::size::{by_number, display_count, display_counted};

/// Returns a sentence with the command that repairs the copies of a report, or `None` if it could
/// repair none.
pub(super) fn hint(
    lost: &[LostObject],
    origin: &ReportHeader,
    place: &ReportPlace,
) -> Option<String> {
    let histories = origin.histories.as_ref();
    let is_repairable = |lost: &&LostObject| {
        histories.is_none_or(|histories| !histories.contains(&lost.object.transfer))
    };
    let copies = lost.iter().filter(is_repairable).count() as u64;
    (copies > 0).then(|| {
        format!(
            "{} attributes: {} repairs {}",
            lacking(copies),
            next::retry_losses(&place.to_string()),
            by_number(copies, "it", "them")
        )
    })
}

/// Removes copies of transfers with all versions from `lost`, and notes how to repair them: copying
/// them again would append the whole history to the destination again.
///
/// # Errors
/// Fails if no other copy remains.
pub(super) fn leave_out_histories(job: &Job, lost: &mut Vec<LostObject>) -> Result<(), CliError> {
    let is_history = |transfer: &&Transfer| transfer.versions == Versions::All;
    let mut left_out = Vec::new();
    for transfer in job.transfers.iter().filter(is_history) {
        let before = lost.len();
        lost.retain(|lost| lost.object.transfer != transfer.name);
        if lost.len() < before {
            left_out.push(format!(
                "the copies at {to} are of all versions, and a repair would append all versions again; set their tags by \
                 version (`aws s3api put-object-tagging --version-id`), or, if the source still has all versions of \
                 these keys, delete all versions of the keys at {to} permanently and run the job again",
                to = transfer.to.location
            ));
        }
    }
    if lost.is_empty() {
        return Err(CliError::Usage(left_out.join(NEXT_ERROR)));
    }
    for text in left_out {
        note(&text);
    }
    Ok(())
}

/// Returns the copies that lost attributes. Notes that failed objects are not included.
pub(super) fn copies_to_repair(
    failed: &[ReportedFailure],
    lost: &[LostObject],
) -> Vec<ReportedFailure> {
    if !failed.is_empty() {
        note(&format!(
            "{} of this report failed: retry {} without --losses",
            display_counted(failed.len() as u64, "object"),
            by_number(failed.len() as u64, "it", "them")
        ));
    }
    lost.iter().map(|lost| lost.object.clone()).collect()
}

/// Prints the number of copies that need only their tags, which a plan does not count.
pub(super) fn say_repairs(job: &Job, output: Output) -> Result<(), CliError> {
    let repairs = job.transfers.iter().map(|transfer| transfer.repairs.len());
    let repairs = repairs.sum::<usize>() as u64;
    if repairs > 0 && !output.json {
        say_line(&format!(
            "{} only tags: if the copy is still there, its tags are set and it is not copied again",
            lacking(repairs)
        ))?;
    }
    Ok(())
}

/// Changes the job into one that repairs losses: it now requires the lost attributes, and sets tags
/// in place on a copy that lacks only those.
pub(super) fn repair(job: &mut Job, lost: &[LostObject]) {
    for transfer in &mut job.transfers {
        (transfer.when, transfer.compare, transfer.compare_attributes) =
            (When::Always, Compare::Auto, false);
        for LostObject {
            object,
            attributes,
            copy,
        } in lost
            .iter()
            .filter(|lost| lost.object.transfer == transfer.name)
        {
            for attribute in attributes {
                transfer.preserve.set(*attribute, Policy::Require);
            }
            let source = object.source.parse::<S3Uri>().ok();
            let has_all_else = attributes
                .iter()
                .all(|attribute| *attribute == Attribute::Tags);
            if let (Some(source), Some(copy), true) = (source, copy, has_all_else) {
                transfer
                    .repairs
                    .insert(source.key.to_string(), copy.clone());
            }
        }
    }
}

/// Returns the start of a sentence about copies that lack attributes.
fn lacking(copies: u64) -> String {
    let copy = by_number(
        copies,
        "copy of this report lacks",
        "copies of this report lack",
    );
    format!("{} {copy}", display_count(copies))
}
