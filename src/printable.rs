//! Escapes untrusted text before it is shown.
//!
//! Keys, IDs, header values, and messages come from whoever writes to a bucket or operates a
//! server. Terminals execute control characters in such text, log readers split it at line breaks,
//! and bidirectional overrides display it in the wrong order. [`printable`] replaces such
//! characters with their escapes, such as `\n` or `\u{1b}`. It keeps the letters of all scripts. It
//! also keeps backslashes, so the result is ambiguous and meant for people; programs should read
//! the JSON output.
//!
//! Text is escaped when it becomes part of a line, and once more when the line is written
//! ([`printable_lines`], [`printable_json`]). Escaping twice changes nothing.

pub(crate) mod shell;

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns `text` with everything except printable characters escaped, so that it fits on one line.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    replace(text, is_printable, |shown, c| match c.escape_debug() {
        escape if escape.len() > 1 => shown.extend(escape),
        _ => shown.extend(c.escape_unicode()),
    })
}

/// Returns text of several lines with everything except printable characters, line breaks, and tabs
/// escaped.
#[must_use]
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    replace(
        text,
        |c| matches!(c, '\n' | '\t') || is_printable(c),
        |shown, c| shown.push_str(&printable(c.encode_utf8(&mut [0; 4]))),
    )
}

/// Returns a one-line JSON document with everything except printable characters escaped, in the
/// syntax of JSON. Such characters can occur only inside strings.
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    replace(json, is_printable, |shown, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(shown, "\\u{unit:04x}");
        }
    })
}

/// Returns bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    let digits = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    digits.collect()
}

/// Joins words into a phrase, with `last` before the last word: `a`, `a and b`, or `a, b and c`.
#[must_use]
pub fn joined<'t>(words: impl IntoIterator<Item = &'t str>, last: &str) -> String {
    let words: Vec<_> = words.into_iter().collect();
    match words.as_slice() {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [rest @ .., end] => format!("{} {last} {end}", rest.join(", ")),
    }
}

/// Truncates text that is longer than `bytes`, and appends a note.
#[must_use]
pub fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        let whole = text.len();
        text.truncate(text.floor_char_boundary(bytes));
        let _ = write!(text, "… (cut after {} of {whole} bytes)", text.len());
    }
    text
}

/// Returns true if a terminal only displays the character.
#[must_use]
pub fn is_printable(c: char) -> bool {
    match c {
        // The ideographic space of Chinese and Japanese.
        ' '..='~' | '\u{3000}' => true,
        // These letters and marks are invisible.
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}' => {
            false
        }
        // The standard library escapes the characters that Unicode classifies as control, format,
        // separator, or unassigned. It escapes marks only at the start of a text, so test the
        // character after a letter.
        _ => {
            let mut text = [b'a'; 5];
            let end = c.encode_utf8(&mut text[1..]).len();
            std::str::from_utf8(&text[..=end])
                .is_ok_and(|text| text.escape_debug().nth(1) == Some(c))
        }
    }
}

fn replace(
    text: &str,
    keep: impl Fn(char) -> bool,
    escape: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    let Some(first) = text.find(|c| !keep(c)) else {
        return Cow::Borrowed(text);
    };
    let mut shown = String::with_capacity(text.len() + 16);
    shown.push_str(&text[..first]);
    for c in text[first..].chars() {
        if keep(c) {
            shown.push(c);
        } else {
            escape(&mut shown, c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn letters_stay_and_controls_are_escaped() {
        for plain in [
            "",
            "a b~",
            "ü",
            "u\u{308}",
            "日本　語",
            "שלום",
            "नमस्ते",
            "👍🏽",
            "a\\nb",
            "'\"",
        ] {
            assert_eq!(printable(plain), plain);
            assert!(matches!(printable(plain), Cow::Borrowed(_)));
        }
        for (text, shown) in [
            ("a\nb\r\t\0", r"a\nb\r\t\0"),
            ("\u{1b}[31m", r"\u{1b}[31m"),
            ("\u{7f}\u{9b}2J", r"\u{7f}\u{9b}2J"),
            ("\u{202e}gpj.exe", r"\u{202e}gpj.exe"),
            (
                "a\u{200b}\u{feff}\u{2028}\u{a0}",
                r"a\u{200b}\u{feff}\u{2028}\u{a0}",
            ),
            ("\u{3164}\u{34f}\u{e0041}", r"\u{3164}\u{34f}\u{e0041}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn lines_stay_lines_and_json_stays_json() {
        assert_eq!(printable_lines("a\n\tb\u{1b}\r"), "a\n\tb\\u{1b}\\r");
        let value = serde_json::json!({ "key": "ü\n\u{1b}\u{9b}\u{202e}\u{e0041}\u{7f}" });
        let shown = printable_json(&value.to_string()).into_owned();
        assert!(shown.chars().all(is_printable), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(cut("short".to_owned(), 5), "short");
        assert_eq!(cut("日本語".to_owned(), 4), "日… (cut after 3 of 9 bytes)");
    }

    proptest! {
        #[test]
        fn escaping_is_total_and_idempotent(text in any::<String>()) {
            let once = printable(&text).into_owned();
            prop_assert!(once.chars().all(is_printable));
            prop_assert_eq!(printable(&once), once.as_str());
            let quoted = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(serde_json::from_str::<String>(&printable_json(&quoted)).unwrap(), text);
        }
    }
}
