//! What is wrong with a manifest, drawn at the line where it stands.
//!
//! A [`Finding`] knows only the field that it is about; that is all that a job from the command
//! line can have. A [`Problem`] has a place in the file too. [`Problems`] is the error of a whole
//! manifest: all of them in the order of the file, because fixing one mistake per run is no way to
//! treat someone who waits for 400 TB.
//!
//! Text from the file goes to terminals and logs, so control characters are made visible and what
//! looks like a secret is blotted out.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Bound, Range};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use thiserror::Error;

use crate::printable::{printable, printable_lines};

/// Something that a job cannot mean, by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The field, for instance `transfers[0].parts.size`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// A mistake in a manifest, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, for instance `transfers[0].parts.size`; empty for the file as a whole.
    pub path: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// What is underlined: bytes of `line`.
    underline: Range<usize>,
}

/// All mistakes of a manifest, in the order of the file. Displays them as plain text; see
/// [`render`](Self::render) for colours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Problems {
    file_name: String,
    text: String,
    list: Vec<Problem>,
}

/// A problem on its way from the stage that finds it, placed by bytes of the source.
#[derive(Clone, Debug)]
pub(super) struct Issue {
    pub at: Range<usize>,
    pub path: String,
    pub message: String,
    pub remedy: String,
}

/// The fields of which something was refused already. What a rule sees there is a default and not
/// what was typed, so it had better say nothing.
#[derive(Debug, Default)]
pub(super) struct Doubts(BTreeSet<String>);

impl Doubts {
    pub(super) fn new<'p>(paths: impl IntoIterator<Item = &'p str>) -> Self {
        Self(paths.into_iter().map(str::to_owned).collect())
    }

    pub(super) fn extend<'p>(&mut self, paths: impl IntoIterator<Item = &'p str>) {
        self.0.extend(paths.into_iter().map(str::to_owned));
    }

    /// Whether the field, or anything inside it, was refused.
    pub(super) fn about(&self, path: &str) -> bool {
        let from = self
            .0
            .range::<str, _>((Bound::Included(path), Bound::Unbounded));
        let mut inside = from.map_while(|refused| refused.strip_prefix(path));
        inside.any(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

/// How much of a text from the file is repeated in a message, in characters.
const MAX_MESSAGE: usize = 400;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path, self.message, self.remedy)
    }
}

impl Problems {
    /// Sorts the issues by place and drops those that are said twice. `secrets` are ranges of
    /// `source` that must not be shown.
    pub(super) fn new(
        file_name: &str,
        source: &str,
        mut issues: Vec<Issue>,
        secrets: &[Range<usize>],
    ) -> Self {
        issues.sort_by_key(|issue| issue.at.start);
        let mut seen = BTreeSet::new();
        issues.retain(|issue| seen.insert((issue.at.start, issue.message.clone())));

        let mut lines = Lines::new(source);
        let list = issues.into_iter().map(|issue| lines.place(issue)).collect();
        Self {
            file_name: file_name.to_owned(),
            text: blot(source, secrets),
            list,
        }
    }

    /// The name of the file, as given.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// The problems in the order of the file; never empty.
    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.list
    }

    /// Every problem with its line, the reason below it and the remedy, and at the end how many
    /// there are.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut lines = Lines::new(&self.text);
        let mut out = String::new();
        for problem in &self.list {
            let text = lines.text(problem.line);
            let end = problem.underline.end.min(text.len());
            let span = problem.underline.start.min(end)..end;
            let snippet = Snippet::source(text)
                .line_start(problem.line)
                .path(self.file_name.as_str())
                .annotation(AnnotationKind::Primary.span(span));
            let message = printable(&problem.message);
            let group = Level::ERROR
                .primary_title(&*message)
                .element(snippet)
                .element(Level::HELP.message(printable(&problem.remedy)));
            // The renderer replaces some of what a terminal obeys, and not all: what has an escape
            // is its own.
            let shown = renderer.render(&[group]);
            let harmless: Vec<_> = shown.split('\u{1b}').map(printable_lines).collect();
            out.push_str(&harmless.join("\u{1b}"));
            out.push_str("\n\n");
        }
        let count = self.list.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        let file_name = printable(&self.file_name);
        out + &format!(
            "{count} {noun} in {file_name}
"
        )
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

/// The lines of a text, found by number or by byte. Made for requests in ascending order: it only
/// goes forward.
struct Lines<'s> {
    source: &'s str,
    number: usize,
    start: usize,
}

impl<'s> Lines<'s> {
    fn new(source: &'s str) -> Self {
        Self {
            source,
            number: 1,
            start: 0,
        }
    }

    /// The line that the cursor is at, without its line break.
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

    fn place(&mut self, issue: Issue) -> Problem {
        self.advance_while(|_, next_start| next_start <= issue.at.start);
        let text = self.current();
        let mut start = (issue.at.start - self.start).min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let end = issue
            .at
            .end
            .saturating_sub(self.start)
            .clamp(start, text.len());
        let end = (end..=text.len())
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(text.len());
        let underlined = text[start..end].trim_end().len();
        Problem {
            path: issue.path,
            line: self.number,
            column: text[..start].chars().count() + 1,
            message: shorten(issue.message),
            remedy: shorten(issue.remedy),
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

/// The source with secrets replaced by asterisks, byte for byte so that places stay where they are:
/// the ranges that are known to be secret, and what stands before the `@` of any
/// `http(s)://user:password@host`.
fn blot(source: &str, secrets: &[Range<usize>]) -> String {
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
        let doubts = Doubts::new(["transfers[1].from", "transfers[10]", "transfers[1].from2.x"]);
        for (path, doubtful) in [
            ("transfers[1].from", true),
            ("transfers[1]", true),
            ("transfers", true),
            ("transfers[10]", true),
            ("transfers[0]", false),
            ("transfers[1].from.s3", false),
            ("transfers[1].fro", false),
        ] {
            assert_eq!(doubts.about(path), doubtful, "{path}");
        }
    }

    #[test]
    fn blotting_keeps_places() {
        let source = "a: hunter2 ü\nurl: http://me:pässword@host/a@b\nto: s3://a@b/";
        let secret = source.find("hunter2").map(|at| at..at + 7).unwrap();
        let blotted = blot(source, std::slice::from_ref(&secret));
        assert_eq!(
            blotted,
            "a: ******* ü\nurl: http://************@host/a@b\nto: s3://a@b/"
        );
        assert_eq!(blotted.len(), source.len());
    }
}
