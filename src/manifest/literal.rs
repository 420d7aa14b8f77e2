//! Finds the literal prefixes of a glob: every matching key starts with one of them.
//!
//! List requests with these prefixes return all keys that can match, and few others. Braces result
//! in several prefixes: a key that matches `{2025,2026}/x*` begins with `2025/x` or `2026/x`.

use std::iter::Peekable;
use std::str::Chars;

/// The maximum number of prefixes of one glob. The glob is truncated before braces that would
/// exceed this limit.
const MAX_PREFIXES: usize = 256;

/// A literal prefix, possibly still growing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LiteralPrefix {
    /// The text of the prefix so far.
    text: String,
    /// True if a wildcard follows, so that the prefix cannot grow.
    is_closed: bool,
}

/// Returns the literal prefixes of a (valid) glob: every matching key starts with one of them. They
/// are sorted, and none is a prefix of another.
pub(super) fn literal_prefixes(glob: &str) -> Vec<String> {
    let found = sequence(&mut glob.chars().peekable(), false);
    disjoint(found.into_iter().map(|prefix| prefix.text).collect())
}

/// Returns the number of slashes in every key that matches, or `None` if keys of different depth
/// can match.
pub(super) fn slashes(glob: &str) -> Option<usize> {
    // Only `**` crosses slashes. Alternatives in braces may have different numbers of slashes, and
    // a class may contain a slash.
    let is_simple = !glob.contains("**") && !glob.contains(['{', '[']);
    is_simple.then(|| glob.matches('/').count())
}

/// Sorts prefixes and removes those that another one covers.
pub(super) fn disjoint(mut prefixes: Vec<String>) -> Vec<String> {
    prefixes.sort();
    let mut kept: Vec<String> = Vec::new();
    for prefix in prefixes {
        if kept
            .last()
            .is_none_or(|last| !prefix.starts_with(last.as_str()))
        {
            kept.push(prefix);
        }
    }
    kept
}

/// Reads up to the end of the glob. Inside braces, stops before the `,` or `}` that ends the
/// alternative.
fn sequence(chars: &mut Peekable<Chars<'_>>, in_braces: bool) -> Vec<LiteralPrefix> {
    let mut found = vec![LiteralPrefix {
        text: String::new(),
        is_closed: false,
    }];
    while let Some(&c) = chars.peek() {
        if in_braces && matches!(c, ',' | '}') {
            break;
        }
        chars.next();
        match c {
            '\\' => match chars.next() {
                Some(escaped) => push(&mut found, escaped),
                None => close(&mut found),
            },
            '[' => match class(chars) {
                Some(only) => push(&mut found, only),
                None => close(&mut found),
            },
            '{' => found = append(found, &alternatives(chars)),
            '*' | '?' => close(&mut found),
            literal => push(&mut found, literal),
        }
    }
    found
}

/// Reads alternatives up to and including the closing brace.
fn alternatives(chars: &mut Peekable<Chars<'_>>) -> Vec<LiteralPrefix> {
    let mut found = Vec::new();
    loop {
        found.extend(sequence(chars, true));
        if chars.next() != Some(',') {
            return found;
        }
    }
}

/// Reads the rest of a class such as `[a-z]`, and returns its character if it has only one.
fn class(chars: &mut Peekable<Chars<'_>>) -> Option<char> {
    let is_negated = chars.next_if(|c| matches!(c, '!' | '^')).is_some();
    let first = chars.next()?;
    let mut is_only = !is_negated;
    // A `]` in first position is literal.
    for c in chars.by_ref() {
        if c == ']' {
            break;
        }
        is_only = false;
    }
    is_only.then_some(first)
}

fn push(found: &mut [LiteralPrefix], c: char) {
    for prefix in found.iter_mut().filter(|prefix| !prefix.is_closed) {
        prefix.text.push(c);
    }
}

fn close(found: &mut [LiteralPrefix]) {
    for prefix in found {
        prefix.is_closed = true;
    }
}

/// Appends each alternative to each prefix that can grow.
fn append(mut found: Vec<LiteralPrefix>, alternatives: &[LiteralPrefix]) -> Vec<LiteralPrefix> {
    let open = found.iter().filter(|prefix| !prefix.is_closed).count();
    if open.saturating_mul(alternatives.len()) > MAX_PREFIXES {
        close(&mut found);
        return found;
    }
    let (closed, open): (Vec<_>, Vec<_>) = found.into_iter().partition(|prefix| prefix.is_closed);
    let appended = open.iter().flat_map(|LiteralPrefix { text, .. }| {
        alternatives.iter().map(move |alternative| LiteralPrefix {
            text: format!("{text}{}", alternative.text),
            is_closed: alternative.is_closed,
        })
    });
    closed.into_iter().chain(appended).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_the_first_wildcard() {
        for (glob, expected) in [
            ("2026/**/*.parquet", &["2026/"][..]),
            ("x*", &["x"]),
            ("*.csv", &[""]),
            ("**/x", &[""]),
            ("day=?/x", &["day="]),
            ("a/b.txt", &["a/b.txt"]),
            (r"\*\[x\]/y*", &["*[x]/y"]),
            ("[*][[]a]*", &["*[a]"]),
            ("a[]]*", &["a]"]),
            ("a[0-9]b", &["a"]),
            ("a[!b]c", &["a"]),
            ("{a,b}/x*", &["a/x", "b/x"]),
            (
                "{a,ab,b*,c/{d,e}}/x",
                &["a/x", "ab/x", "b", "c/d/x", "c/e/x"],
            ),
            ("x{,y}z", &["xyz", "xz"]),
            (r"{a\,b,c}", &["a,b", "c"]),
            ("a,b", &["a,b"]),
            ("{**/a,b}c", &[""]),
            ("ü{é,*}", &["ü"]),
        ] {
            let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
            assert_eq!(literal_prefixes(glob), expected, "{glob}");
        }
    }

    #[test]
    fn too_many_alternatives_are_cut_off() {
        let digits = "{0,1,2,3,4,5,6,7,8,9}";
        assert_eq!(literal_prefixes(&digits.repeat(2)).len(), 100);
        let cut = literal_prefixes(&format!("a{}", digits.repeat(9)));
        assert_eq!((cut.len(), cut[0].as_str()), (100, "a00"));
    }

    #[test]
    fn depth_is_known_without_double_stars() {
        for (glob, expected) in [
            ("*.csv", Some(0)),
            ("a/*/c", Some(2)),
            ("**/x", None),
            ("{a/b,c}", None),
            ("[/]x", None),
        ] {
            assert_eq!(slashes(glob), expected, "{glob}");
        }
    }
}
