//! Rules of the code that no compiler checks: the order of modules, sizes, and docs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules in the order of the data flow. A module may use those before it.
const ORDER: &[&str] = &[
    "awake",
    "printable",
    "size",
    "location",
    "endpoint",
    "manifest",
    "s3",
    "checksum",
    "pace",
    "bucket",
    "multipart",
    "listing",
    "plan",
    "probe",
    "connections",
    "planner",
    "journal",
    "execute",
    "report",
    "shards",
    "verify",
    "run",
    "telemetry",
    "cli",
    "main",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    texts(dir, &["rs"], found);
}

/// Finds the files with one of these extensions below a directory.
fn texts(dir: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            texts(&path, extensions, found);
        } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
            found.push(path);
        }
    }
}

fn all() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let module = |path: &Path| {
        let first = path
            .strip_prefix(&root)
            .unwrap()
            .components()
            .next()
            .unwrap();
        first
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned()
    };
    found
        .into_iter()
        .map(|path| {
            (
                module(&path),
                path.clone(),
                fs::read_to_string(path).unwrap(),
            )
        })
        .collect()
}

fn rank(module: &str) -> usize {
    ORDER
        .iter()
        .position(|name| *name == module)
        .unwrap_or_else(|| panic!("{module} has no place in ORDER"))
}

#[test]
fn no_module_uses_one_to_its_right() {
    let mut edges = 0;
    for (module, path, text) in all().into_iter().filter(|(module, ..)| module != "lib") {
        for line in text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
        {
            for used in line.match_indices("crate::").map(|(at, _)| &line[at + 7..]) {
                let used: String = used
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if used.is_empty() || used == module {
                    continue;
                }
                edges += 1;
                assert!(
                    rank(&used) < rank(&module),
                    "{} uses {used}: {line}",
                    path.display()
                );
            }
        }
    }
    assert!(
        edges > 50,
        "the check has lost sight of the code: {edges} edges"
    );
}

#[test]
fn only_s3_knows_the_sdk() {
    for (module, path, text) in all() {
        let knows = text
            .lines()
            .any(|line| line.contains("aws_sdk_s3") && !line.trim_start().starts_with("//"));
        assert!(!knows || module == "s3", "{} names the SDK", path.display());
    }
}

/// Text is escaped where it leaves the process. There must be no other way out.
#[test]
fn only_the_owners_of_the_streams_write_to_them() {
    for (_, path, text) in all() {
        if ["cli/out.rs", "telemetry/line.rs"]
            .iter()
            .any(|owner| path.ends_with(owner))
        {
            continue;
        }
        for word in ["println!", "print!(", "stdout().lock()", "stderr().lock()"] {
            assert!(!text.contains(word), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn pure_modules_have_no_clock_no_runtime_and_no_chance() {
    let pure = [
        "printable.rs",
        "size.rs",
        "location.rs",
        "pace/learned.rs",
        "pace/meter.rs",
        "pace/prefix.rs",
        "pace/rate.rs",
        "pace/recent.rs",
        "pace/concurrency.rs",
        "pace/retry.rs",
        "checksum.rs",
        "journal/event.rs",
        "journal/state.rs",
        "journal/uploads.rs",
        "journal/segment.rs",
        "journal/fingerprint.rs",
    ];
    for (_, path, text) in all() {
        let in_plan = path.ends_with("src/plan.rs") || path.to_str().unwrap().contains("src/plan/");
        if in_plan || pure.iter().any(|name| path.ends_with(name)) {
            for word in [
                "tokio::",
                "Instant::now",
                "Timestamp::now",
                "fastrand",
                "SystemTime::now",
            ] {
                assert!(!text.contains(word), "{} uses {word}", path.display());
            }
        }
    }
}

#[test]
fn files_have_at_most_600_lines_and_say_what_they_are_for() {
    let mut files = Vec::new();
    for root in ["src", "crates", "tests", "examples"] {
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join(root),
            &mut files,
        );
    }
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.lines().count() <= 600,
            "{} has more than 600 lines",
            path.display()
        );
        assert!(
            text.starts_with("//!"),
            "{} does not say what it is for",
            path.display()
        );
    }
}

/// Returns the name of the type that a line defines.
fn type_name(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub").map_or(line, |rest| {
        let rest = rest.trim_start();
        rest.strip_prefix('(')
            .and_then(|rest| rest.split_once(") "))
            .map_or(rest, |(_, rest)| rest)
    });
    let name = ["struct ", "enum ", "trait ", "union "]
        .iter()
        .find_map(|kind| line.strip_prefix(kind))?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
    Some(&name[..end.unwrap_or(name.len())])
}

/// Returns true for a line that begins a function.
fn is_function(line: &str) -> bool {
    let words = line.split_whitespace().take_while(|word| *word != "fn");
    let is_prefix = |word: &str| {
        ["const", "async"].contains(&word) || word.starts_with("pub") || word.ends_with(')')
    };
    line.contains("fn ") && words.into_iter().all(is_prefix)
}

#[test]
fn a_type_name_is_defined_once_in_a_crate() {
    let mut types = 0;
    let mut again = BTreeSet::new();
    for root in ["src", "crates/sandbox/src"] {
        let mut files = Vec::new();
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join(root),
            &mut files,
        );
        let mut known = BTreeSet::new();
        for path in files.iter().filter(|path| !path.ends_with("tests.rs")) {
            let text = fs::read_to_string(path).unwrap();
            // An indented type is local to a function or a test.
            for name in text.lines().filter_map(type_name) {
                if !known.insert(name.to_owned()) {
                    again.insert(name.to_owned());
                }
            }
        }
        types += known.len();
    }
    assert!(types > 500, "only {types} types were found");
    assert!(again.is_empty(), "defined several times: {again:?}");
}

/// Returns true for a line that begins a function of this name outside of any block.
fn defines_at_top_level(line: &str, name: &str) -> bool {
    let is_function = !line.starts_with(char::is_whitespace) && is_function(line);
    let rest = line.split_once("fn ").map_or("", |(_, rest)| rest);
    is_function
        && rest
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('('))
}

/// `World::put` and the constructors of `World` are the fixtures of all modules. A helper of one
/// module has a name that says what is special.
#[test]
fn fixtures_are_defined_once() {
    assert!(defines_at_top_level(
        "pub(crate) async fn world() -> World {",
        "world"
    ));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files.retain(|path| !path.starts_with(root.join("world")));
    assert!(files.len() > 100, "the check has lost sight of the tests");
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        for name in ["put", "world"] {
            let again = text.lines().find(|line| defines_at_top_level(line, name));
            assert_eq!(again, None, "{}: use tests/it/world.rs", path.display());
        }
    }
}

#[test]
fn docs_of_functions_begin_with_a_verb() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for directory in ["src", "crates", "examples", "tests"] {
        sources(&root.join(directory), &mut files);
    }
    let mut functions = 0;
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let (mut first, mut found) = (None, Vec::new());
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[") {
                continue;
            }
            if let Some(doc) = line.strip_prefix("///") {
                first = first.or(Some(doc.trim()));
                continue;
            }
            if let Some(doc) = first.take().filter(|_| is_function(line)) {
                functions += 1;
                let clauses = ["What ", "Whether ", "How ", "Where "];
                found.extend(
                    clauses
                        .iter()
                        .any(|word| doc.starts_with(word))
                        .then_some(doc),
                );
            }
        }
        let name = path.strip_prefix(root).unwrap().display().to_string();
        assert!(found.is_empty(), "{name}: {found:#?}");
    }
    assert!(functions > 1000, "the check has lost sight of the code");
}

#[test]
fn cannot_is_one_word() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let two_words = ["can", "not"].join(" ");
    let mut files = Vec::new();
    for directory in ["src", "crates", "tests", "benches", "examples"] {
        texts(&root.join(directory), &["rs", "md"], &mut files);
    }
    for directory in ["docs", "deploy", "jobs"] {
        texts(&root.join(directory), &["md", "yaml"], &mut files);
    }
    files.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name)));
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains(&two_words),
            "{} has `{two_words}`",
            path.display()
        );
    }
}
