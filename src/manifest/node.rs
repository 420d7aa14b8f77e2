//! The YAML of a manifest as a small tree in which every key and value has its position in the
//! file.
//!
//! The tree is built from the parser's events, because a YAML loader would hide repeated keys,
//! anchors, merge keys, tags, and further documents. All of these are refused: people review a
//! manifest as a diff, so each line must show its meaning. Scalars stay text. The field determines
//! the type of a value, not the notation: `region: no` is not a boolean.

use std::collections::BTreeMap;
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, StrInput};

use super::diagnose::MistakeAt;
use super::env::{VariableMistake, substitute};

/// The maximum nesting depth. No valid manifest reaches it; it bounds recursion on hostile input.
const MAX_DEPTH: usize = 16;

/// A value and its bytes in the source.
#[derive(Debug)]
pub(super) struct Node {
    pub at: Range<usize>,
    pub kind: NodeKind,
}

#[derive(Debug)]
pub(super) enum NodeKind {
    Scalar {
        text: String,
        /// True if the text may be a number, a boolean, or null: it is not quoted, or it contains a
        /// variable.
        bare: bool,
    },
    List(Vec<Node>),
    Map(Vec<MapEntry>),
    /// The value was already refused, so there is nothing more to report.
    Refused,
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct MapEntry {
    pub key: String,
    pub key_at: Range<usize>,
    pub value: Node,
}

impl Node {
    /// Returns true for the values that YAML reads as null: `~`, `null`, or nothing at all.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, NodeKind::Scalar { text, bare: true } if matches!(&**text, "" | "~" | "null"))
    }

    /// Returns the byte range of the node with all its children.
    pub(super) fn extent(&self) -> Range<usize> {
        let last = match &self.kind {
            NodeKind::List(items) => items.last(),
            NodeKind::Map(entries) => entries.last().map(|entry| &entry.value),
            NodeKind::Scalar { .. } | NodeKind::Refused => None,
        };
        self.at.start..last.map_or(self.at.end, |node| node.extent().end.max(self.at.end))
    }
}

/// Reads the single document of `text`. Returns `None` if there is no tree; the mistakes then say
/// why.
pub(super) fn read(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> (Option<Node>, Vec<MistakeAt>) {
    let mut reader = TreeReader {
        parser: Parser::new_from_str(text),
        text,
        offsets: byte_offsets(text),
        env,
        path: String::new(),
        mistakes: Vec::new(),
    };
    let root = reader.document().ok().flatten();
    (root, reader.mistakes)
}

/// The error for a tree that cannot be read further. The reason is in the list of mistakes.
struct Stop;

struct TreeReader<'s> {
    parser: Parser<'s, StrInput<'s>>,
    text: &'s str,
    offsets: Vec<usize>,
    env: &'s dyn Fn(&str) -> Option<String>,
    path: String,
    mistakes: Vec<MistakeAt>,
}

/// Maps characters, which the parser counts, to bytes, which everything else here counts.
fn byte_offsets(text: &str) -> Vec<usize> {
    text.char_indices()
        .map(|(at, _)| at)
        .chain([text.len()])
        .collect()
}

impl<'s> TreeReader<'s> {
    fn document(&mut self) -> Result<Option<Node>, Stop> {
        let mut root = None;
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) if root.is_none() => {}
                Event::DocumentStart(_) => {
                    self.refuse(
                        at,
                        "a second document begins here",
                        "keep one manifest per file",
                    );
                    return Ok(root);
                }
                event => root = Some(self.node(event, at, 0)?),
            }
        }
        match root {
            Some(root) if !root.is_null() => Ok(Some(root)),
            _ => {
                let remedy = "begin with `version: 1` and `transfers:`; examples are in jobs/";
                self.refuse(0..0, "the manifest is empty", remedy);
                Ok(None)
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'s>, Range<usize>), Stop> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((
                event,
                self.byte(span.start.index())..self.byte(span.end.index()),
            )),
            Some(Err(error)) => {
                self.syntax_error(&error);
                Err(Stop)
            }
            None => Ok((Event::StreamEnd, self.text.len()..self.text.len())),
        }
    }

    fn byte(&self, index: usize) -> usize {
        self.offsets.get(index).copied().unwrap_or(self.text.len())
    }

    fn refuse(&mut self, at: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        let (message, remedy) = (message.into(), remedy.into());
        self.mistakes.push(MistakeAt {
            at,
            path: self.path.clone(),
            message,
            remedy,
        });
    }

    fn node(&mut self, event: Event<'s>, at: Range<usize>, depth: usize) -> Result<Node, Stop> {
        if depth > MAX_DEPTH {
            self.too_deep(at);
            return Err(Stop);
        }
        self.refuse_anchors_and_tags(&event, &at);
        match event {
            Event::Scalar(text, style, ..) => Ok(self.scalar(&text, style, at)),
            Event::SequenceStart(..) => self.list(at, depth),
            Event::MappingStart(..) => self.map(at, depth),
            _ => {
                let remedy = "write the value out, or put what transfers share under `defaults:`";
                self.refuse(at.clone(), "aliases (`*name`) are not supported", remedy);
                Ok(Node {
                    at,
                    kind: NodeKind::Refused,
                })
            }
        }
    }

    fn refuse_anchors_and_tags(&mut self, event: &Event<'s>, at: &Range<usize>) {
        let (anchor, tag) = match event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(anchor, tag)
            | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
            _ => (0, false),
        };
        if anchor != 0 {
            let remedy =
                "write the value where it is used, or put what transfers share under `defaults:`";
            self.refuse(at.clone(), "anchors (`&name`) are not supported", remedy);
        }
        if tag {
            let remedy = "remove it; the field decides the type";
            self.refuse(at.clone(), "tags (`!name`) are not supported", remedy);
        }
    }

    fn list(&mut self, at: Range<usize>, depth: usize) -> Result<Node, Stop> {
        let mut items = Vec::new();
        let base = self.path.len();
        loop {
            let (event, item_at) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Node {
                    at: self.composite(&at, item_at.end, '['),
                    kind: NodeKind::List(items),
                });
            }
            self.path.extend(["[", &items.len().to_string(), "]"]);
            items.push(self.node(event, item_at, depth + 1)?);
            self.path.truncate(base);
        }
    }

    fn map(&mut self, at: Range<usize>, depth: usize) -> Result<Node, Stop> {
        let mut entries = Vec::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let base = self.path.len();
        loop {
            let (event, key_at) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Node {
                    at: self.composite(&at, key_at.end, '{'),
                    kind: NodeKind::Map(entries),
                });
            }
            let Event::Scalar(key, style, ..) = &event else {
                self.refuse_composite_key(event, key_at, depth)?;
                continue;
            };
            self.refuse_anchors_and_tags(&event, &key_at);
            let (key, key_at) = (key.clone(), self.scalar_extent(*style, key_at));
            let (event, value_at) = self.next()?;
            let value_at = if value_at.is_empty() && matches!(event, Event::Scalar(..)) {
                key_at.clone()
            } else {
                value_at
            };
            if key == "<<" {
                self.refuse_merge_key(key_at, event, value_at, depth)?;
                continue;
            }
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(&key);
            let value = self.node(event, value_at, depth + 1)?;
            if let Some(first) = seen.get(&*key) {
                let line = self.text[..*first].matches('\n').count() + 1;
                let message =
                    format!("`{key}` appears here a second time; the first is in line {line}");
                self.refuse(key_at, message, "keep one of them");
            } else {
                seen.insert(key.clone().into_owned(), key_at.start);
                entries.push(MapEntry {
                    key: key.into_owned(),
                    key_at,
                    value,
                });
            }
            self.path.truncate(base);
        }
    }

    /// Refuses a key that is a list or a mapping, and reads its value.
    fn refuse_composite_key(
        &mut self,
        key: Event<'s>,
        key_at: Range<usize>,
        depth: usize,
    ) -> Result<(), Stop> {
        self.node(key, key_at.clone(), depth + 1)?;
        let message = "a field's name must be plain text";
        self.refuse(key_at, message, "write `name: value`");
        let (value, value_at) = self.next()?;
        self.node(value, value_at, depth + 1)?;
        Ok(())
    }

    /// Refuses a merge key, and ignores mistakes in its value.
    fn refuse_merge_key(
        &mut self,
        key_at: Range<usize>,
        value: Event<'s>,
        value_at: Range<usize>,
        depth: usize,
    ) -> Result<(), Stop> {
        let before = self.mistakes.len();
        self.node(value, value_at, depth + 1)?;
        self.mistakes.truncate(before);
        let remedy = "put what transfers share under `defaults:`";
        self.refuse(key_at, "merge keys (`<<`) are not supported", remedy);
        Ok(())
    }

    /// Returns the part of a list or mapping to underline: all of it in flow style, otherwise its
    /// first line.
    fn composite(&self, start: &Range<usize>, end: usize, open: char) -> Range<usize> {
        let rest = &self.text[start.start..];
        if rest.starts_with(open) {
            return start.start..end;
        }
        start.start..start.start + rest.find('\n').unwrap_or(rest.len())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, at: Range<usize>) -> Node {
        let at = self.scalar_extent(style, at);
        let (value, mistakes) = substitute(text, self.env);
        let replaced = !mistakes.is_empty() || value != text;
        let failed = !mistakes.is_empty();
        let mut from = at.start;
        for mistake in mistakes {
            let needle = mistake.needle();
            let place = match self.text[from..at.end.max(from)].find(&needle) {
                Some(found) => from + found..from + found + needle.len(),
                None => at.clone(),
            };
            from = place.end.min(at.end);
            self.refuse_variable(place, mistake);
        }
        let bare = replaced || matches!(style, ScalarStyle::Plain);
        let kind = if failed {
            NodeKind::Refused
        } else {
            NodeKind::Scalar { text: value, bare }
        };
        Node { at, kind }
    }

    fn refuse_variable(&mut self, at: Range<usize>, mistake: VariableMistake) {
        match mistake {
            VariableMistake::Unset(name) => {
                let message = format!("the environment variable `{name}` is not set");
                let remedy = format!("set it, or write $${{{name}}} if the text itself is meant");
                self.refuse(at, message, remedy);
            }
            VariableMistake::Malformed(inside) => {
                let message = format!("`${{{inside}` is not a variable");
                let remedy = "write ${NAME}, or $${ for the two characters";
                self.refuse(at, message, remedy);
            }
        }
    }

    /// Trims the range of a scalar, which the parser extends to the next token. A comment or blanks
    /// may follow a quoted scalar; only blanks follow other scalars.
    fn scalar_extent(&self, style: ScalarStyle, at: Range<usize>) -> Range<usize> {
        let source = &self.text[at.clone()];
        let length = match style {
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
                let quote = if style == ScalarStyle::SingleQuoted {
                    b'\''
                } else {
                    b'"'
                };
                let bytes = source.as_bytes();
                let mut close = 1;
                while close < bytes.len() {
                    match bytes[close] {
                        b'\\' if quote == b'"' => close += 1,
                        b if b == quote
                            && quote == b'\''
                            && bytes.get(close + 1) == Some(&quote) =>
                        {
                            close += 1;
                        }
                        b if b == quote => break,
                        _ => {}
                    }
                    close += 1;
                }
                (close + 1).min(bytes.len())
            }
            _ => source.trim_end().len(),
        };
        at.start..at.start + length
    }

    /// Reports a syntax error. The parser's message names the rule, and the remedy guesses the
    /// likely cause.
    fn syntax_error(&mut self, error: &ScanError) {
        let mut at = self.byte(error.marker().index());
        if error.info().contains("recursion limit") {
            return self.too_deep(at..at + 1);
        }
        let line_start = self.text[..at].rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[line_start..].lines().next().unwrap_or_default();
        let blanks = &line[..line.len() - line.trim_start().len()];
        let (before, rest) = self.text.split_at(at);
        let remedy = if let Some(tab) = blanks.find('\t') {
            at = line_start + tab;
            "indent with spaces: YAML allows no tabs there"
        } else if rest.starts_with('*') {
            "a value cannot begin with `*` in YAML: quote the pattern, \"*…\""
        } else if before.ends_with("${") || (before.ends_with('$') && rest.starts_with('{')) {
            "inside { } and [ ] a variable needs quotes: \"${NAME}\""
        } else if rest.starts_with(['@', '`', '%']) {
            "a value cannot begin with this character in YAML: put it in quotes"
        } else {
            "look at the indentation and the quotes of this line and the one above"
        };
        let width = self.text[at..].chars().next().map_or(0, char::len_utf8);
        self.refuse(
            at..at + width,
            format!("not YAML: {}", error.info()),
            remedy,
        );
    }

    fn too_deep(&mut self, at: Range<usize>) {
        self.refuse(
            at,
            "nested too deeply for a manifest",
            "see `s3haul schema` for the fields",
        );
    }
}
