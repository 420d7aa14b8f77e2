//! Tables in the README that are written from what the code says.

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
