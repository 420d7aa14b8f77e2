//! The mistakes in a manifest, with their lines.
//!
//! A [`Mistake`] names the field that it concerns, which is all that a job from the command line
//! can give. A [`ManifestMistake`] also has a position in the file. [`ManifestMistakes`] is the
//! error of a whole manifest: it contains all mistakes in the order of the file, so that users can
//! fix all of them at once. `cli::mistakes` draws them.
//!
//! Text from the file goes to terminals and logs. Therefore control characters are escaped, and
//! values that look like secrets are masked.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Bound, Range};

use thiserror::Error;

use crate::printable::printable;
use crate::size::display_counted;

/// A mistake in a job, at one field.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Mistake {
    /// The field, for instance `transfers[0].parts.size`.
    pub path: String,
    /// The mistake.
    pub message: String,
    /// The remedy.
    pub remedy: String,
}

/// A mistake in a manifest, with its position.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct ManifestMistake {
    /// The field, for instance `transfers[0].parts.size`; empty for the file as a whole.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The mistake.
    pub message: String,
    /// The remedy.
    pub remedy: String,
    /// The bytes of the line to underline.
    underline: Range<usize>,
}

/// A mistake with its line.
#[derive(Clone, Debug)]
pub struct Excerpt<'p> {
    /// The mistake.
    pub mistake: &'p ManifestMistake,
    /// The line, with secrets replaced by asterisks.
    pub line: &'p str,
    /// The bytes of `line` to underline.
    pub underline: Range<usize>,
}

/// All mistakes of a manifest, in the order of the file. Displays one line per mistake; the command
/// draws them at their [`excerpts`](Self::excerpts).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ManifestMistakes {
    file_name: String,
    text: String,
    list: Vec<ManifestMistake>,
    /// Set if checks were skipped that need a field with a mistake.
    checks_follow: bool,
}

/// A mistake with its byte range in the source, before its line is known.
#[derive(Clone, Debug)]
pub(super) struct MistakeAt {
    pub at: Range<usize>,
    pub path: String,
    pub message: String,
    pub remedy: String,
}

/// The fields whose values were already refused. They hold defaults instead of the typed values, so
/// rules must not report them.
#[derive(Debug, Default)]
pub(super) struct RefusedFields {
    paths: BTreeSet<String>,
    /// Set if a transfer is not part of the job, because its source or destination is unreadable.
    has_unread: Cell<bool>,
    /// Set if a check was skipped.
    has_skipped: Cell<bool>,
}

impl RefusedFields {
    pub(super) fn new<'p>(paths: impl IntoIterator<Item = &'p str>) -> Self {
        Self {
            paths: paths.into_iter().map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    pub(super) fn extend<'p>(&mut self, paths: impl IntoIterator<Item = &'p str>) {
        self.paths.extend(paths.into_iter().map(str::to_owned));
    }

    /// Records that a check is skipped, because it needs a field that was refused.
    pub(super) fn skip(&self) {
        self.has_skipped.set(true);
    }

    /// Records that a transfer is left out of the job.
    pub(super) fn leave_out_transfer(&self) {
        self.has_unread.set(true);
        self.skip();
    }

    /// Returns true if the field itself was refused. Records that a check is skipped then.
    pub(super) fn has(&self, path: &str) -> bool {
        let is_refused = self.paths.contains(path);
        if is_refused {
            self.skip();
        }
        is_refused
    }

    /// Returns true if a transfer was left out of the job.
    pub(super) fn has_unread_transfer(&self) -> bool {
        self.has_unread.get()
    }

    /// Returns true if a check was skipped.
    pub(super) fn has_skipped(&self) -> bool {
        self.has_skipped.get()
    }

    /// Returns true if the field, or anything inside it, was refused. Records that a check is
    /// skipped then.
    pub(super) fn about(&self, path: &str) -> bool {
        let from = self
            .paths
            .range::<str, _>((Bound::Included(path), Bound::Unbounded));
        let mut inside = from.map_while(|refused| refused.strip_prefix(path));
        let is_refused = inside.any(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        if is_refused {
            self.skip();
        }
        is_refused
    }
}

/// The maximum number of characters of the file that a message quotes.
const MAX_MESSAGE: usize = 400;

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path, self.message, self.remedy)
    }
}

impl ManifestMistakes {
    /// Sorts the mistakes by position and drops duplicates. `secrets` are ranges of `source` that
    /// must not be shown.
    /// `checks_follow` is true if checks were skipped because of these mistakes.
    pub(super) fn new(
        file_name: &str,
        source: &str,
        mut mistakes: Vec<MistakeAt>,
        secrets: &[Range<usize>],
        checks_follow: bool,
    ) -> Self {
        mistakes.sort_by_key(|mistake| mistake.at.start);
        let mut seen = BTreeSet::new();
        mistakes.retain(|mistake| seen.insert((mistake.at.start, mistake.message.clone())));

        let mut lines = SourceLines::new(source);
        let list = mistakes
            .into_iter()
            .map(|mistake| lines.place(mistake))
            .collect();
        Self {
            file_name: file_name.to_owned(),
            text: mask_secrets(source, secrets),
            list,
            checks_follow,
        }
    }

    /// Returns the name of the file, as given.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Returns the mistakes in the order of the file; never empty.
    #[must_use]
    pub fn as_slice(&self) -> &[ManifestMistake] {
        &self.list
    }

    /// Returns each mistake with its line, for drawing.
    pub fn excerpts(&self) -> impl Iterator<Item = Excerpt<'_>> {
        let mut lines = SourceLines::new(&self.text);
        self.list.iter().map(move |mistake| {
            let line = lines.text(mistake.line);
            let end = mistake.underline.end.min(line.len());
            Excerpt {
                mistake,
                line,
                underline: mistake.underline.start.min(end)..end,
            }
        })
    }

    /// Returns the last line of a list of mistakes: their number, and whether checks were skipped
    /// because of them.
    #[must_use]
    pub fn count(&self) -> String {
        let count = display_counted(self.list.len() as u64, "mistake");
        let follow = match (self.checks_follow, self.list.len()) {
            (false, _) => "",
            (true, 1) => "; correct it, and further checks follow",
            (true, _) => "; correct them, and further checks follow",
        };
        format!("{count} in {}{follow}", printable(&self.file_name))
    }
}

impl fmt::Display for ManifestMistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file_name = printable(&self.file_name);
        for mistake in &self.list {
            let (message, remedy) = (printable(&mistake.message), printable(&mistake.remedy));
            let (line, column) = (mistake.line, mistake.column);
            writeln!(f, "{file_name}:{line}:{column}: {message}; {remedy}")?;
        }
        f.write_str(&self.count())
    }
}

/// Finds the lines of a text by number or by byte. Requests must come in ascending order, because
/// it only moves forward.
struct SourceLines<'s> {
    source: &'s str,
    number: usize,
    start: usize,
}

impl<'s> SourceLines<'s> {
    fn new(source: &'s str) -> Self {
        Self {
            source,
            number: 1,
            start: 0,
        }
    }

    /// Returns the line at the cursor, without its line break.
    fn current(&self) -> &'s str {
        let rest = &self.source[self.start..];
        rest.split('\n')
            .next()
            .unwrap_or(rest)
            .trim_end_matches('\r')
    }

    fn advance_while(&mut self, behind: impl Fn(usize, usize) -> bool) {
        while let Some(length) = self.source[self.start..].find('\n') {
            if !behind(self.number + 1, self.start + length + 1) {
                break;
            }
            self.number += 1;
            self.start += length + 1;
        }
    }

    fn text(&mut self, number: usize) -> &'s str {
        self.advance_while(|next, _| next <= number);
        self.current()
    }

    fn place(&mut self, mistake: MistakeAt) -> ManifestMistake {
        self.advance_while(|_, next_start| next_start <= mistake.at.start);
        let text = self.current();
        let mut start = (mistake.at.start - self.start).min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let end = mistake
            .at
            .end
            .saturating_sub(self.start)
            .clamp(start, text.len());
        let end = (end..=text.len())
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(text.len());
        let underlined = text[start..end].trim_end().len();
        ManifestMistake {
            path: mistake.path,
            line: self.number,
            column: text[..start].chars().count() + 1,
            message: shorten(mistake.message),
            remedy: shorten(mistake.remedy),
            underline: start..start + underlined,
        }
    }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// Replaces secrets in the source with asterisks, byte for byte so that positions stay valid.
/// Secrets are the given ranges, and the text before the `@` of any `http(s)://user:password@host`.
fn mask_secrets(source: &str, secrets: &[Range<usize>]) -> String {
    let mut ranges = secrets.to_vec();
    for (at, _) in source.match_indices("://") {
        let start = at + 3;
        let authority = source[start..]
            .split(|c: char| c.is_whitespace() || "/\"',}".contains(c))
            .next();
        if let Some(user) = authority.and_then(|authority| authority.rfind('@'))
            && source[..at].ends_with(['p', 's'])
        {
            ranges.push(start..start + user);
        }
    }
    let mut bytes = source.as_bytes().to_vec();
    for range in ranges {
        for byte in bytes
            .get_mut(range)
            .into_iter()
            .flatten()
            .filter(|byte| !byte.is_ascii_whitespace())
        {
            *byte = b'*';
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_is_about_a_field_and_what_is_inside() {
        let refused_fields =
            RefusedFields::new(["transfers[1].from", "transfers[10]", "transfers[1].from2.x"]);
        for (path, doubtful) in [
            ("transfers[1].from", true),
            ("transfers[1]", true),
            ("transfers", true),
            ("transfers[10]", true),
            ("transfers[0]", false),
            ("transfers[1].from.s3", false),
            ("transfers[1].fro", false),
        ] {
            assert_eq!(refused_fields.about(path), doubtful, "{path}");
        }
    }

    #[test]
    fn blotting_keeps_places() {
        let source = "a: hunter2 ü\nurl: http://me:pässword@host/a@b\nto: s3://a@b/";
        let secret = source.find("hunter2").map(|at| at..at + 7).unwrap();
        let masked = mask_secrets(source, std::slice::from_ref(&secret));
        assert_eq!(
            masked,
            "a: ******* ü\nurl: http://************@host/a@b\nto: s3://a@b/"
        );
        assert_eq!(masked.len(), source.len());
    }
}
