//! Text that nobody would write: the parser answers, and quickly.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use s3haul::cli::draw;

use super::parse;

fn seeds() -> Vec<String> {
    let jobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs");
    fs::read_dir(jobs)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect()
}

/// Parses a text. Asserts that the problems can be rendered, are in the order of the file, and
/// point into it.
fn answer(text: &str) -> Result<(), TestCaseError> {
    let Err(mistakes) = parse(text) else {
        return Ok(());
    };
    let list = mistakes.as_slice();
    prop_assert!(!list.is_empty());
    prop_assert!(list.is_sorted_by_key(|mistake| mistake.line));
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for mistake in list {
        let line = text.split('\n').nth(mistake.line - 1);
        prop_assert!(
            line.is_some_and(|line| mistake.column <= line.chars().count() + 1),
            "{mistake:?}"
        );
        prop_assert!(
            !mistake.message.is_empty() && !mistake.remedy.is_empty(),
            "{mistake:?}"
        );
    }
    prop_assert!(draw(&mistakes, false).contains("job.yaml:"));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_gets_an_answer(text in any::<String>()) {
        answer(&text)?;
    }

    #[test]
    fn anything_like_yaml_gets_an_answer(
        text in "([ \t]{0,4}(- |\\? |<<: |&a |\\*a |!!str |---|\\.\\.\\.|[a-zü]{1,4}: |'|\"|\\[|\\]|\\{|\\}|,|\\$\\{X\\}|# |~|\\||>|%|[0-9]{1,3}|\u{feff}|\u{0}|\\\\)\r?\n?){0,40}"
    ) {
        answer(&text)?;
    }

    #[test]
    fn a_damaged_manifest_gets_an_answer(
        seed in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0usize..6, "[ -~\n\tü]{0,6}"), 1..6),
    ) {
        let seeds = seeds();
        let mut chars: Vec<char> = seed.get(&seeds).chars().collect();
        for (at, cut, insert) in damage {
            let at = at.index(chars.len() + 1);
            let end = (at + cut).min(chars.len());
            chars.splice(at..end, insert.chars());
        }
        answer(&chars.into_iter().collect::<String>())?;
    }
}

#[test]
fn a_manifest_of_full_size_is_read_in_little_time() {
    let many = (0..9_000).fold("version: 1\ntransfers:\n".to_owned(), |text, i| {
        text + &format!(
            "- {{from: {{s3: s3://source-bucket/{i}/}}, to: {{s3: s3://destination-bucket/{i}/}}}}\n"
        )
    });
    let wrong = (0..10_000).fold("version: 1\n".to_owned(), |text, i| {
        text + &format!("secret{i}: x\n")
    });
    for text in [
        many,
        wrong,
        "a: ".repeat(300_000),
        "\"".repeat(1 << 20),
        " ".repeat(1 << 20),
    ] {
        assert!(text.len() <= 1 << 20, "{}", text.len());
        let start = Instant::now();
        let shown = parse(&text).map_or_else(
            |mistakes| draw(&mistakes, false).len(),
            |job| job.transfers.len(),
        );
        assert!(
            start.elapsed() < Duration::from_mins(1),
            "{shown} after {:?}",
            start.elapsed()
        );
    }
}
