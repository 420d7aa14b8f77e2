//! Reports a panic of s3haul in one sentence on standard error.
//!
//! A panic fails one object or one request, and the run continues (`bucket::caught`,
//! `execute::conductor`). The standard message would quote the panic's text, which may hold data
//! from a server, or a secret. This message has what a bug report needs: the version and the code
//! location. A location that panics for each of a million objects is reported once.

use std::collections::BTreeSet;
use std::panic::Location;
use std::sync::Mutex;

use tracing::Level;

use super::out::tell_panic;
use super::termination;
use crate::s3::takes_panic;
use crate::telemetry::Note;

/// The page for bug reports, if the package defines one.
const PAGE: &str = env!("CARGO_PKG_REPOSITORY");

/// Installs the panic hook.
pub(super) fn report() {
    let reported = Mutex::new(BTreeSet::new());
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic
            .location()
            .map_or_else(|| "an unknown place".to_owned(), place);
        // A panic in a credential provider counts as no credentials, and the provider is asked
        // again.
        if takes_panic(&place) {
            return;
        }
        // Neither block on the lock nor unwrap it, because a panic in the hook would abort the
        // process.
        let is_new = reported
            .try_lock()
            .is_ok_and(|mut reported| reported.insert(place.clone()));
        if !is_new {
            return;
        }
        let sentence = sentence(&place);
        termination::set_reason(&sentence);
        let text = format!("error: {sentence}");
        tell_panic(&Note::new(Level::ERROR, "panic", sentence).in_text(text));
    }));
}

fn sentence(place: &str) -> String {
    let to = if PAGE.is_empty() {
        "to those who maintain s3haul"
    } else {
        PAGE
    };
    format!(
        "s3haul {} has a bug: it panicked at {place}; please report this line {to}, with the command that was run",
        env!("CARGO_PKG_VERSION")
    )
}

/// Returns the code location, without the directories of the build machine.
fn place(location: &Location<'_>) -> String {
    let file = location.file();
    // The path of a crate from a registry is `…/registry/src/HOST/name-version/src/lib.rs`.
    let file = file
        .split_once("/registry/src/")
        .and_then(|(_, file)| file.split_once('/'))
        .map_or(file, |(_, file)| file);
    format!("{file}:{}:{}", location.line(), location.column())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::printable::is_printable;
    use crate::telemetry::{LogFormat, set_format};

    const FORGED: &str = "\u{1b}[2J<html>\n2026-01-01T00:00:00Z ERROR forged";

    /// Panics twice at one location, in a separate process, because the hook is global to a
    /// process.
    #[test]
    #[ignore = "the test below runs it"]
    fn panics() {
        let format = if std::env::var_os("AS_JSON").is_some() {
            LogFormat::Json
        } else {
            LogFormat::Text
        };
        set_format(format);
        report();
        for _ in 0..2 {
            let _ = std::panic::catch_unwind(|| panic!("{FORGED}"));
        }
    }

    #[test]
    fn a_panic_is_one_sentence_without_its_text() {
        for as_json in [false, true] {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args([
                "cli::panics::tests::panics",
                "--exact",
                "--ignored",
                "--nocapture",
            ]);
            child
                .env_remove("AS_JSON")
                .envs(as_json.then_some(("AS_JSON", "1")));
            let output = child.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let stderr = String::from_utf8(output.stderr).unwrap();
            let [line] = stderr.lines().collect::<Vec<_>>()[..] else {
                panic!("{stderr}")
            };
            assert!(line.chars().all(is_printable), "{line}");
            assert!(!line.contains("html") && !line.contains("forged"), "{line}");
            let sentence = if as_json {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["message"].as_str().unwrap().to_owned()
            } else {
                line.strip_prefix("error: ").unwrap().to_owned()
            };
            let begin = concat!(
                "s3haul ",
                env!("CARGO_PKG_VERSION"),
                " has a bug: it panicked at src/cli/panics.rs:"
            );
            assert!(
                sentence.starts_with(begin) && sentence.contains("please report"),
                "{sentence}"
            );
        }
    }
}
