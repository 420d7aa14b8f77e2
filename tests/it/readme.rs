//! Checks the documentation against the code: tables that are written from it, tests that
//! guarantees name, and links.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Asserts that a page has this table between its markers, or writes it there if `UPDATE_README` is
/// set.
pub(crate) fn assert_page_has(page: &str, name: &str, table: &str) {
    let begin = format!(
        "<!-- {name}: begin (written by a test: UPDATE_README=1 cargo test --test it) -->\n"
    );
    let end = format!("<!-- {name}: end -->");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let update = std::env::var_os("UPDATE_README").is_some();
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(update)
        .open(path)
        .unwrap();
    // Several tests may write to the same page.
    if update {
        file.lock().unwrap();
    }
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    let (before, rest) = text
        .split_once(&begin)
        .expect("the marker where the table begins");
    let (committed, after) = rest
        .split_once(&end)
        .expect("the marker where the table ends");
    if update {
        file.seek(SeekFrom::Start(0)).unwrap();
        file.set_len(0).unwrap();
        file.write_all(format!("{before}{begin}{table}{end}{after}").as_bytes())
            .unwrap();
    } else {
        assert_eq!(
            committed, table,
            "{page} is old: run the test with UPDATE_README=1"
        );
    }
}

/// Cargo refuses older compilers.
#[test]
fn the_version_of_rust_is_that_of_the_manifest() {
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(readme.contains(concat!(
        "You need Rust (",
        env!("CARGO_PKG_RUST_VERSION"),
        " or newer)"
    )));
}

/// Returns the number of each guarantee with the tests that it names.
fn tests_of_guarantees() -> Vec<(u32, Vec<String>)> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guarantees.md"))
        .unwrap();
    let mut guarantees: Vec<(u32, Vec<String>)> = Vec::new();
    for line in page.lines() {
        if let Some((number, _)) = line.split_once(". ")
            && let Ok(number) = number.parse()
        {
            guarantees.push((number, Vec::new()));
        }
        let named = line
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| name.contains("::"));
        if let Some((_, tests)) = guarantees.last_mut() {
            tests.extend(named.map(str::to_owned));
        }
    }
    guarantees
}

#[test]
fn each_guarantee_names_tests_that_there_are() {
    let guarantees = tests_of_guarantees();
    assert_eq!(
        guarantees
            .iter()
            .map(|(number, _)| *number)
            .collect::<Vec<_>>(),
        (1..=8).collect::<Vec<_>>()
    );
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    for (number, names) in guarantees {
        assert!(!names.is_empty(), "guarantee {number} names no test");
        for name in names {
            let (path, test) = name.rsplit_once("::").unwrap();
            let file = tests.join(format!("{}.rs", path.replace("::", "/")));
            let module =
                fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
            let begins = module
                .find(&format!("fn {test}("))
                .unwrap_or_else(|| panic!("{name} is not there"));
            // The function must have the attribute of a test.
            let item = module[..begins].rsplit("\n\n").next().unwrap();
            assert!(
                item.contains("#[test]") || item.contains("#[tokio::test"),
                "{name} is no test"
            );
        }
    }
}

/// Returns the anchors that GitHub derives from the headings of a page.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let top = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "deploy/README.md",
    ]
    .map(|page| root.join(page));
    let mut links = 0;
    for page in docs.chain(top) {
        let text = fs::read_to_string(&page).unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target
                .split_once('#')
                .map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let linked = if file.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(file)
            };
            assert!(linked.exists(), "{} links to {target}", page.display());
            if let Some(anchor) = anchor {
                let there = anchors(&fs::read_to_string(&linked).unwrap());
                assert!(
                    there.iter().any(|a| a == anchor),
                    "{} links to {target}: {there:?}",
                    page.display()
                );
            }
            links += 1;
        }
    }
    assert!(links > 50, "{links} links");
}

/// Appends the source files below a directory, except for those that have only tests.
fn push_sources(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            push_sources(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
}

/// Returns the strings of a source file as they are printed: continued lines are joined, and quotes
/// lose their backslash. Leaves out unit tests and comments.
fn printed_texts(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut text = String::new();
    for line in source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
    {
        let line = if text.ends_with('\\') {
            text.pop();
            line.trim_start()
        } else {
            text.push('\n');
            line
        };
        text.push_str(line);
    }
    text.replace("\\\"", "\"")
}

/// The page quotes messages in lines that begin with `> `, with `…` for values. The text between
/// two values must be in the code.
#[test]
fn troubleshooting_quotes_messages_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    push_sources(&root.join("src"), &mut files);
    let code: String = files
        .iter()
        .map(|file| printed_texts(&fs::read_to_string(file).unwrap()))
        .collect();
    let page = fs::read_to_string(root.join("docs/troubleshooting.md")).unwrap();
    let mut quotes = 0;
    for quote in page.lines().filter_map(|line| line.strip_prefix("> ")) {
        let pieces: Vec<_> = quote
            .split('…')
            .map(|piece| piece.trim_matches([' ', ';', ':', ',', '(', ')']))
            .filter(|piece| piece.chars().any(char::is_alphanumeric))
            .collect();
        let longest = pieces.iter().map(|piece| piece.len()).max();
        assert!(longest >= Some(8), "this quotes next to nothing: {quote}");
        for piece in pieces {
            assert!(
                code.contains(piece),
                "no message has `{piece}`, which docs/troubleshooting.md quotes: {quote}"
            );
        }
        quotes += 1;
    }
    assert!(quotes > 80, "{quotes} messages");
}
