//! Tables in the README that are written from what the code says, and what it says about the tests.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Asserts that the README holds this table between its markers, or writes it there where `UPDATE_README` is set.
pub(crate) fn assert_readme_has(name: &str, table: &str) {
    let begin = format!("<!-- {name}: begin (written by a test: UPDATE_README=1 cargo test --test it) -->\n");
    let end = format!("<!-- {name}: end -->");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let update = std::env::var_os("UPDATE_README").is_some();
    let mut file = fs::OpenOptions::new().read(true).write(update).open(path).unwrap();
    // Several tables are written at once.
    if update {
        file.lock().unwrap();
    }
    let mut readme = String::new();
    file.read_to_string(&mut readme).unwrap();
    let (before, rest) = readme.split_once(&begin).expect("the marker where the table begins");
    let (committed, after) = rest.split_once(&end).expect("the marker where the table ends");
    if update {
        file.seek(SeekFrom::Start(0)).unwrap();
        file.set_len(0).unwrap();
        file.write_all(format!("{before}{begin}{table}{end}{after}").as_bytes()).unwrap();
    } else {
        assert_eq!(committed, table, "the README is old: run the test with UPDATE_README=1");
    }
}

/// Cargo refuses older ones.
#[test]
fn the_version_of_rust_is_that_of_the_manifest() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    assert!(readme.contains(concat!("With Rust (", env!("CARGO_PKG_RUST_VERSION"), " or newer)")));
}

/// The tests that hold each of the README's guarantees, by number.
fn tests_of_guarantees() -> Vec<(u32, Vec<String>)> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Guarantees\n").expect("the section");
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut guarantees: Vec<(u32, Vec<String>)> = Vec::new();
    for line in section.lines() {
        if let Some((number, _)) = line.split_once(". ")
            && let Ok(number) = number.parse()
        {
            guarantees.push((number, Vec::new()));
        }
        let named = line.split('`').skip(1).step_by(2).filter(|name| name.contains("::"));
        if let Some((_, tests)) = guarantees.last_mut() {
            tests.extend(named.map(str::to_owned));
        }
    }
    guarantees
}

#[test]
fn each_guarantee_names_tests_that_there_are() {
    let guarantees = tests_of_guarantees();
    assert_eq!(guarantees.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    for (number, names) in guarantees {
        assert!(!names.is_empty(), "guarantee {number} names no test");
        for name in names {
            let (path, test) = name.rsplit_once("::").unwrap();
            let file = tests.join(format!("{}.rs", path.replace("::", "/")));
            let module = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
            let begins = module.find(&format!("fn {test}(")).unwrap_or_else(|| panic!("{name} is not there"));
            // Behind an attribute that makes it a test, and not a helper.
            let item = module[..begins].rsplit("\n\n").next().unwrap();
            assert!(item.contains("#[test]") || item.contains("#[tokio::test"), "{name} is no test");
        }
    }
}
