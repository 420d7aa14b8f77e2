//! Writes the table in docs/attributes.md from the rows of the matrix.

use std::fmt::Write as _;

use s3haul::manifest::job::{Attribute, Policy, Preserve};

use super::rows;
use crate::readme::assert_page_has;

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
    assert_page_has("docs/attributes.md", "kept", &table());
}

#[test]
fn every_attribute_has_a_row() {
    let rows: Vec<_> = rows::all().iter().map(|row| row.attribute).collect();
    assert_eq!(rows, Attribute::ALL);
}
