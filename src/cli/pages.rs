//! Compares documentation pages with text generated from the code, for tests.

use std::path::Path;

/// Asserts that a page contains each text between the markers of its name. If `UPDATE_README` is
/// set, writes the texts there instead.
pub(super) fn assert_page_has(page: &str, texts: &[(&str, String)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let committed = std::fs::read_to_string(&path).unwrap();
    let mut written = committed.clone();
    for (name, text) in texts {
        let (begin, end) = (
            format!("<!-- {name}: begin"),
            format!("<!-- {name}: end -->"),
        );
        let from = written
            .find(&begin)
            .and_then(|at| Some(at + written[at..].find('\n')? + 1))
            .unwrap();
        let to = written.find(&end).unwrap();
        written.replace_range(from..to, text);
    }
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(path, &written).unwrap();
        return;
    }
    assert!(
        committed == written,
        "{page} is old: UPDATE_README=1 writes it"
    );
}
