//! The table in the README, written from the rows of the matrix.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use s3haul::manifest::job::{Attribute, Policy, Preserve};

use super::rows;

const BEGIN: &str = "<!-- kept: begin (written by a test: UPDATE_README=1 cargo test --test it matrix) -->\n";
const END: &str = "<!-- kept: end -->";

fn table() -> String {
    let mut table = String::from(
        "| `preserve` | what | default | read from | how it is set | what may prevent it |\n|---|---|---|---|---|---|\n",
    );
    let defaults = Preserve::default();
    for row in rows::all() {
        let policy = match defaults.of(row.attribute) {
            Policy::Require => "require",
            Policy::Try => "try",
            Policy::Skip => "skip",
            Policy::Replace => "replace",
        };
        let _ = writeln!(
            table,
            "| `{}` | {} | {policy} | {} | {} | {} |",
            row.attribute, row.what, row.read_from, row.set_by, row.prevented_by
        );
    }
    table
}

#[test]
fn the_table_is_that_of_the_matrix() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the marker where the table begins");
    let (committed, after) = rest.split_once(END).expect("the marker where the table ends");
    if std::env::var_os("UPDATE_README").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
        return;
    }
    assert_eq!(committed, table(), "the README is old: run the test with UPDATE_README=1");
}

#[test]
fn every_attribute_has_a_row() {
    let rows: Vec<_> = rows::all().iter().map(|row| row.attribute).collect();
    assert_eq!(rows, Attribute::ALL);
}
