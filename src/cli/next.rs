//! The command to type next.
//!
//! A command that leaves something to do ends with the words that do it: the arguments of this
//! process, or the report of this run, quoted for a shell. All commands take them from here, so
//! that a path with a blank, or a flag that would start over, is treated alike everywhere.

use super::exit::Exit;
use crate::execute::Outcome;
use crate::multipart::quoted;

/// The marks of a command that cannot be repeated: its standard input or its sandbox is gone.
const GONE: [&str; 2] = ["-", "--sandbox"];

/// Returns a command of s3haul with these words, for a shell.
pub(super) fn command<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    let words = words.into_iter().map(quoted);
    std::iter::once("s3haul".to_owned())
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Returns the words of this process.
fn words() -> Vec<String> {
    let words: Vec<_> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    without_passwords(&words)
}

/// Returns the command of this process with another flag.
pub(super) fn this_with(flag: &str) -> String {
    let words = words();
    command(words.iter().map(String::as_str).chain([flag]))
}

/// Returns the command that resumes what this process began, or `None` if it cannot be repeated.
pub(super) fn this_again() -> Option<String> {
    again(&words())
}

/// Returns a command once more, without the flag that would start over.
fn again(words: &[String]) -> Option<String> {
    if words.iter().any(|word| GONE.contains(&word.as_str())) {
        return None;
    }
    let words = words.iter().map(String::as_str);
    Some(command(words.filter(|word| *word != "--fresh")))
}

/// Returns the words with a placeholder for the user and password of each URL: the command reaches
/// terminals and logs.
fn without_passwords(words: &[String]) -> Vec<String> {
    let follows_proxy = |index: usize| index > 0 && words[index - 1] == "--proxy";
    let shown = |(index, word): (usize, &String)| {
        let schemes = ["http://", "https://", "--proxy="];
        let start = schemes
            .iter()
            .filter_map(|scheme| Some(word.find(scheme)? + scheme.len()))
            .max();
        // A proxy needs no scheme.
        let Some(start) = start.or_else(|| follows_proxy(index).then_some(0)) else {
            return word.clone();
        };
        let (before, url) = word.split_at(start);
        let end = url.find('/').unwrap_or(url.len());
        match url[..end].rfind('@') {
            Some(at) => format!("{before}USER:PASSWORD{}", &url[at..]),
            None => word.clone(),
        }
    };
    words.iter().enumerate().map(shown).collect()
}

/// Returns the command that copies what failed in the run of a report.
pub(super) fn retry(report: &str) -> String {
    command(["retry", report])
}

/// Returns the command that repairs what the copies of a report lack.
pub(super) fn retry_losses(report: &str) -> String {
    command(["retry", "--losses", report])
}

/// Returns lines with what to do after a run, given the command that repeats it and the name of its
/// report.
pub(super) fn after_run(
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
    fn a_password_is_not_repeated() {
        for (typed, shown) in [
            (
                "--proxy http://me:s@p:1/",
                "--proxy http://USER:PASSWORD@p:1/",
            ),
            ("--proxy me:s@p:1", "--proxy USER:PASSWORD@p:1"),
            ("--proxy=me:s@p:1", "--proxy=USER:PASSWORD@p:1"),
            ("--proxy=https://me:s@p", "--proxy=https://USER:PASSWORD@p"),
            (
                "--endpoint-url=http://k:s@h/a@b",
                "--endpoint-url=http://USER:PASSWORD@h/a@b",
            ),
            (
                "copy s3://a/b@c http://h/x@y",
                "copy s3://a/b@c http://h/x@y",
            ),
        ] {
            assert_eq!(without_passwords(&words(typed)), words(shown), "{typed}");
        }
    }

    #[test]
    fn a_run_ends_with_what_to_do() {
        let after = |outcome: &Outcome, exit, report| {
            after_run(outcome, exit, Some("s3haul run j"), report).join("\n")
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
        assert!(after_run(&outcome, Exit::Interrupted, None, Some("r")).is_empty());
    }
}
