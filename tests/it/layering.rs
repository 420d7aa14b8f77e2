//! The house rules that no compiler checks: which module may know which.

use std::fs;
use std::path::{Path, PathBuf};

/// From left to right: data flows this way, and a module may use what stands left of it.
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
    "verify",
    "telemetry",
    "cli",
    "main",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
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

/// Text is escaped where it leaves the process, and this knows no other way out.
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
        "pace/width.rs",
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
    for root in ["src", "crates", "tests"] {
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
