//! Builds the command to type next.
//!
//! A command that leaves work to do ends with a command line that does it: the arguments of this
//! process, or the report of this run, quoted for a shell. All commands build it here, so that a
//! path with a space, or a flag that would start over, is handled the same way everywhere.

use super::exit::Exit;
use crate::execute::Outcome;
use crate::manifest::job::{Job, Versions};
pub(super) use crate::printable::shell::command;

/// Arguments that make a command unrepeatable: its standard input has been consumed, or its sandbox
/// has ended.
const GONE: [&str; 2] = ["-", "--sandbox"];

/// Returns the arguments of this process.
fn words() -> Vec<String> {
    let words = std::env::args_os().skip(1);
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// Returns the command line of this process with an additional flag.
pub(super) fn this_with(flag: &str) -> String {
    with(&words(), flag)
}

/// Returns a command line with an additional flag.
fn with(words: &[String], flag: &str) -> String {
    let mut words = words.to_vec();
    add_flag(&mut words, flag.to_owned());
    command(words.iter().map(String::as_str))
}

/// Adds a flag to the words of a command. Words after `--` are not flags.
pub(super) fn add_flag(words: &mut Vec<String>, flag: String) {
    let end = words.iter().position(|word| word == "--");
    words.insert(end.unwrap_or(words.len()), flag);
}

/// Returns the command that resumes the work of this process, or `None` if it cannot be repeated.
pub(super) fn this_again() -> Option<String> {
    again(&words())
}

/// Returns a command line without the flag that would start over, or `None` if the command cannot
/// be repeated.
fn again(words: &[String]) -> Option<String> {
    if words.iter().any(|word| GONE.contains(&word.as_str())) {
        return None;
    }
    let words = words.iter().map(String::as_str);
    Some(command(words.filter(|word| *word != "--fresh")))
}

/// Returns the command that copies the failed objects of a report.
pub(super) fn retry(report: &str) -> String {
    command(["retry", report])
}

/// Returns the command that reads the result of a run in shards.
pub(super) fn merge(state_prefix: &str) -> String {
    command(["report", "merge", state_prefix])
}

/// Returns the command that shows the progress of a run in shards.
pub(super) fn status(state_prefix: &str) -> String {
    command(["status", state_prefix])
}

/// Returns the command that compares the copies of a report again.
pub(super) fn verify_report(report: &str) -> String {
    command(["verify", "--report", report])
}

/// Returns the command that repairs the copies of a report that lost attributes.
pub(super) fn retry_losses(report: &str) -> String {
    command(["retry", "--losses", report])
}

/// Returns true if `retry --losses` could repair a copy of the job. It does not repair histories.
pub(super) fn repairs_losses_of(job: &Job) -> bool {
    let mut transfers = job.transfers.iter();
    transfers.any(|transfer| transfer.versions != Versions::All)
}

/// Returns lines with the next steps after a run of `job`. `again` is the command that repeats the
/// run, and `report` the name of its report.
pub(super) fn after_run(
    job: &Job,
    outcome: &Outcome,
    exit: Exit,
    again: Option<&str>,
    report: Option<&str>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let is_over = outcome.is_complete() && exit != Exit::Interrupted;
    match (exit, again) {
        (Exit::Waiting, Some(again)) => {
            lines.push(format!("to copy what is restored by then: {again}"));
        }
        (Exit::Interrupted | Exit::Failures, Some(again)) if !is_over => {
            lines.push(format!("to continue: {again}"));
        }
        _ => {}
    }
    if is_over && outcome.failed_objects > 0 {
        let command = report.map(retry).or_else(|| again.map(str::to_owned));
        lines.extend(command.map(|command| format!("to copy what failed: {command}")));
    }
    if is_over
        && outcome.objects_with_losses > 0
        && repairs_losses_of(job)
        && let Some(report) = report
    {
        let command = retry_losses(report);
        lines.push(format!("to repair what was not kept: {command}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Environment;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_command_is_repeated_without_what_would_start_over() {
        assert_eq!(
            again(&words("run --fresh my;job.yaml")).as_deref(),
            Some("s3haul run 'my;job.yaml'")
        );
        for gone in ["run -", "run job.yaml --sandbox", "copy - s3://a/b"] {
            assert_eq!(again(&words(gone)), None, "{gone}");
        }
    }

    #[test]
    fn another_flag_comes_before_the_words_that_are_none() {
        let with = |line| with(&words(line), "--yes");
        assert_eq!(with("copy a b"), "s3haul copy a b --yes");
        assert_eq!(
            with("copy --json -- -a b"),
            "s3haul copy --json --yes -- -a b"
        );
    }

    fn job(from: &str) -> Job {
        let text =
            format!("{{version: 1, transfers: [{{from: {{{from}}}, to: {{s3: s3://copies/}}}}]}}");
        Job::parse(&text, "j.yaml", &Environment::default()).unwrap()
    }

    #[test]
    fn a_run_ends_with_what_to_do() {
        let current = job("s3: s3://lake/");
        let after = |outcome: &Outcome, exit, report| {
            after_run(&current, outcome, exit, Some("s3haul run j"), report).join("\n")
        };
        let mut outcome = Outcome::default();
        assert_eq!(after(&outcome, Exit::Done, Some("r")), "");
        assert_eq!(
            after(&outcome, Exit::Waiting, None),
            "to copy what is restored by then: s3haul run j"
        );
        (outcome.failed_objects, outcome.objects_with_losses) = (1, 1);
        assert_eq!(
            after(&outcome, Exit::Failures, Some("my r")),
            "to copy what failed: s3haul retry 'my r'\n\
             to repair what was not kept: s3haul retry --losses 'my r'"
        );
        assert_eq!(
            after(&outcome, Exit::Failures, None),
            "to copy what failed: s3haul run j"
        );
        outcome.stopped = true;
        assert_eq!(
            after(&outcome, Exit::Interrupted, Some("r")),
            "to continue: s3haul run j"
        );
        let without_command = after_run(&current, &outcome, Exit::Interrupted, None, Some("r"));
        assert!(without_command.is_empty());
    }

    #[test]
    fn no_command_repairs_the_losses_of_histories() {
        let outcome = Outcome {
            objects_with_losses: 1,
            ..Outcome::default()
        };
        let job = job("s3: s3://lake/, versions: all");
        let lines = after_run(&job, &outcome, Exit::Done, None, Some("r"));
        assert!(lines.is_empty(), "{lines:?}");
    }
}
