//! Compares `deploy/` with the product. These tests read all its files, and run none.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helper fails its test"
)]

mod arrays;
mod iam;
mod image;
mod indexed;
mod kubernetes;

use std::path::{Path, PathBuf};

use serde_yaml::Value;

/// Returns the root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: impl AsRef<Path>) -> Value {
    let text = read(&path);
    serde_yaml::from_str(&text)
        .unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// Returns the files of a directory with this extension, relative to the repository.
fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(directory)).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| Path::new(directory).join(entry.unwrap().file_name()))
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

/// Returns the texts of a sequence, or none if the value is no sequence.
fn texts(value: &Value) -> Vec<&str> {
    let items = value.as_sequence().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|item| item.as_str().unwrap()).collect()
}
