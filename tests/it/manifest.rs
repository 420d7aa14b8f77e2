//! Manifests: the jobs that they become, and the messages about mistakes.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helper fails its test"
)]

mod attributes;
mod examples;
mod history;
mod hostile;
mod meaning;
mod overlap;
mod reference;
mod syntax;

use s3haul::endpoint::Environment;
use s3haul::manifest::ManifestMistakes;
use s3haul::manifest::job::Job;

/// Marks the expected position of a problem in a test's YAML.
const MARK: char = '⟦';

fn env(name: &str) -> Option<String> {
    match name {
        "BUCKET" => Some("lake-prod".to_owned()),
        "IN_FLIGHT" => Some("64".to_owned()),
        "SINCE" | "REPLICATE_SINCE" => Some("2026-01-01T00:00:00Z".to_owned()),
        "EXPORT_DATE" => Some("2026-01-31".to_owned()),
        "REPLICA_ACCOUNT" => Some("111122223333".to_owned()),
        "RGW_URL" => Some("https://rgw.example.internal".to_owned()),
        "EMPTY" => Some(String::new()),
        "TRICK" => Some("a, include: [\"x\"]\nversion: 2".to_owned()),
        _ => None,
    }
}

/// Returns an environment with the variables of [`env`] and the profiles that these tests name.
fn environment() -> Environment {
    let names = [
        "BUCKET",
        "IN_FLIGHT",
        "SINCE",
        "REPLICATE_SINCE",
        "EXPORT_DATE",
        "REPLICA_ACCOUNT",
        "RGW_URL",
        "EMPTY",
        "TRICK",
    ];
    let variables: Vec<_> = names
        .iter()
        .map(|name| (*name, env(name).unwrap()))
        .collect();
    let profiles = "[profile onprem]\n[profile 012]\n[profile p]\n";
    Environment::of(
        variables.iter().map(|(name, value)| (*name, &**value)),
        profiles,
        "",
    )
}

fn parse(text: &str) -> Result<Job, ManifestMistakes> {
    Job::parse(text, "job.yaml", &environment())
}

fn job(text: &str) -> Job {
    parse(text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// Returns a manifest with one plain transfer, followed by `fields` at the top level.
fn with(fields: &str) -> String {
    format!(
        "version: 1\ntransfers:\n  - {{from: {{s3: s3://src/}}, to: {{s3: s3://dst/}}}}\n{fields}"
    )
}

/// Returns a manifest whose only transfer consists of `fields`, indented by four.
fn transfer(fields: &str) -> String {
    format!(
        "version: 1\ntransfers:\n  - name: t\n    {}\n",
        fields.trim().replace('\n', "\n    ")
    )
}

/// Asserts that the manifest has exactly the mistakes in `expected` (path, part of the message,
/// part of the remedy), in this order and at the marks.
#[track_caller]
fn refused(marked: &str, expected: &[(&str, &str, &str)]) {
    let mut places = Vec::new();
    let (mut line, mut column, mut text) = (1, 1, String::new());
    for c in marked.chars() {
        match c {
            MARK => places.push((line, column)),
            '\n' => (line, column) = (line + 1, 1),
            _ => column += 1,
        }
        if c != MARK {
            text.push(c);
        }
    }
    let mistakes = parse(&text).expect_err("should be refused");
    let found: Vec<_> = mistakes
        .as_slice()
        .iter()
        .map(|mistake| (mistake.line, mistake.column))
        .collect();
    assert_eq!(found, places, "places in\n{mistakes}");
    for (mistake, (path, message, remedy)) in mistakes.as_slice().iter().zip(expected) {
        assert_eq!(mistake.path, *path, "path in\n{mistakes}");
        assert!(
            mistake.message.contains(message),
            "no `{message}` in `{}`",
            mistake.message
        );
        assert!(
            mistake.remedy.contains(remedy),
            "no `{remedy}` in `{}`",
            mistake.remedy
        );
    }
    assert_eq!(mistakes.as_slice().len(), expected.len(), "{mistakes}");
}
