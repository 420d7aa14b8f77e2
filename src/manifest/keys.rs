//! The manifest's settings for keys: globs that select keys, and rules that map keys to the
//! destination.
//!
//! Both apply to the *relative* key, which is the rest of the key after the source's prefix. So a
//! rule keeps its meaning when the prefix changes. `*` and `?` do not match slashes but `**` does,
//! as in a shell with `globstar` and in `.gitignore`. This module checks and applies globs, and
//! checks templates. [`remap`](crate::plan::remap) renders templates.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};
use thiserror::Error;

use super::literal;

/// A glob over relative keys: `*`, `?`, `[a-z]`, `{a,b}`, `**`, and `\` to escape.
#[derive(Clone)]
pub struct KeyGlob(Arc<Compiled>);

struct Compiled {
    /// The glob as typed.
    text: String,
    /// The compiled glob.
    matcher: GlobMatcher,
    /// See [`KeyGlob::literal_prefixes`].
    literal_prefixes: Vec<String>,
    /// The number of slashes in every matching key, if it is always the same.
    slashes: Option<usize>,
}

/// The reasons why a glob is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GlobError {
    /// The glob matches nothing.
    #[error("an empty pattern matches no key")]
    Empty,
    /// The glob begins with a slash or a scheme. Globs match the key after the source's prefix, and
    /// no such key begins like that.
    #[error("`{0}` cannot match: patterns are compared with the key after the source's prefix")]
    Anchored(String),
    /// The glob names a directory, as in `.gitignore`. In S3, such a key is only a marker object.
    #[error("`{0}` names a directory, and keys have none: it would match only a marker object")]
    Directory(String),
    /// The syntax is wrong.
    #[error("`{pattern}` is not a glob: {reason}")]
    Syntax {
        /// The glob as typed.
        pattern: String,
        /// The mistake.
        reason: String,
    },
}

impl KeyGlob {
    /// Returns true if the glob matches the key after the source's prefix.
    #[must_use]
    pub fn matches(&self, relative_key: &str) -> bool {
        self.0.matcher.is_match(relative_key)
    }

    /// Returns true if the glob certainly matches every key that begins with `prefix` (empty, or
    /// with a trailing slash). Recognizes only patterns that end in `**`; returns false for all
    /// others.
    #[must_use]
    pub fn covers(&self, prefix: &str) -> bool {
        match &*self.0.text {
            "**" | "**/*" => true,
            // After an escape, the stars would be two single ones.
            text if text.ends_with("/**") && !text.contains('\\') => {
                prefix.ends_with('/') && self.matches(prefix)
            }
            _ => false,
        }
    }

    /// Returns the literal prefixes of the glob: every matching key starts with one of them. They
    /// are sorted and disjoint. A glob with alternatives has several: `{a,b}/x*` begins with `a/x`
    /// or `b/x`.
    #[must_use]
    pub fn literal_prefixes(&self) -> &[String] {
        &self.0.literal_prefixes
    }

    /// Returns false if no key that begins with `directory` (empty, or with a trailing slash) can
    /// match. Returns true in doubt.
    #[must_use]
    pub fn reaches_below(&self, directory: &str) -> bool {
        let may_begin =
            |text: &String| text.starts_with(directory) || directory.starts_with(text.as_str());
        let depth = directory.matches('/').count();
        self.0.slashes.is_none_or(|slashes| slashes >= depth)
            && self.0.literal_prefixes.iter().any(may_begin)
    }

    /// Returns true if the glob is flat: it has no slash and no `**`, so it matches keys only at
    /// the top level.
    #[must_use]
    pub fn is_flat(&self) -> bool {
        !self.0.text.contains('/') && !self.0.text.contains("**")
    }

    /// Returns true if a flat glob (see [`Self::is_flat`]) does not match this key, but matches its
    /// last segment.
    #[must_use]
    pub fn matches_name_only(&self, relative_key: &str) -> bool {
        let name = relative_key.rsplit_once('/').map(|(_, name)| name);
        self.is_flat() && name.is_some_and(|name| !name.is_empty() && self.matches(name))
    }

    /// Returns the glob as it was typed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl FromStr for KeyGlob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.starts_with('/') || text.starts_with("./") || text.starts_with("s3://") {
            return Err(GlobError::Anchored(text.to_owned()));
        }
        // `*/` selects all marker objects. The meaning of a final `**/` depends on the glob
        // library, so it is refused.
        if text.ends_with('/') && (!text.ends_with("*/") || text.ends_with("**/")) {
            return Err(GlobError::Directory(text.to_owned()));
        }
        let glob = GlobBuilder::new(text)
            .literal_separator(true)
            .backslash_escape(true)
            .build();
        let glob = glob.map_err(|error| GlobError::Syntax {
            pattern: text.to_owned(),
            reason: error.kind().to_string(),
        })?;
        Ok(Self(Arc::new(Compiled {
            text: text.to_owned(),
            matcher: glob.compile_matcher(),
            literal_prefixes: literal::literal_prefixes(text),
            slashes: literal::slashes(text),
        })))
    }
}

impl fmt::Display for KeyGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.text)
    }
}

impl fmt::Debug for KeyGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0.text, f)
    }
}

impl PartialEq for KeyGlob {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for KeyGlob {}

/// Maps the key after the source's prefix to the key after the destination's prefix: removes
/// `strip_prefix` from the start, rewrites the rest with `rename`, and prepends `add_prefix`. The
/// default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyMap {
    /// The text that every key must begin with.
    pub strip_prefix: Option<String>,
    /// The text to prepend, unchanged. It must include any separating slash.
    pub add_prefix: Option<String>,
    /// The template of the new name.
    pub rename: Option<Template>,
}

impl KeyMap {
    /// Returns true if the map changes no key.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the longest common prefix that all keys produced by this map certainly have.
    #[must_use]
    pub fn fixed_prefix(&self) -> String {
        let mut fixed = self.add_prefix.clone().unwrap_or_default();
        if let Some(Piece::Literal(head)) = self
            .rename
            .as_ref()
            .and_then(|rename| rename.pieces.first())
        {
            fixed.push_str(head);
        }
        fixed
    }
}

/// A name with placeholders, for instance `archive/{dir}{stem}-v1{ext}`. `{{` and `}}` stand for
/// braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

/// A piece of a [`Template`]. For `a/b/c.tar.gz`: `{key}` is all of it, `{dir}` is `a/b/`, `{name}`
/// is `c.tar.gz`, `{stem}` is `c.tar`, `{ext}` is `.gz`. So `{dir}{stem}{ext}` is always `{key}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Literal text.
    Literal(String),
    /// `{key}`: the key after the source's prefix.
    Key,
    /// `{dir}`: everything up to and including the last slash, or nothing without a slash.
    Dir,
    /// `{name}`: everything after the last slash.
    Name,
    /// `{stem}`: the name up to its last dot; a leading dot does not count.
    Stem,
    /// `{ext}`: the rest of the name, including the dot, or nothing without a dot.
    Ext,
    /// `{size}`: the object's size in bytes.
    Size,
}

const PLACEHOLDERS: [(&str, Piece); 6] = [
    ("key", Piece::Key),
    ("dir", Piece::Dir),
    ("name", Piece::Name),
    ("stem", Piece::Stem),
    ("ext", Piece::Ext),
    ("size", Piece::Size),
];

/// The reasons why a template is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// There is no placeholder of that name.
    #[error("there is no placeholder `{{{0}}}`")]
    Unknown(String),
    /// A brace is unbalanced.
    #[error("a `{0}` stands alone")]
    Brace(char),
    /// `{dir}/` or `.{ext}` would double the slash or the dot.
    #[error("`{{{placeholder}}}` brings its own `{mark}`")]
    Doubled {
        /// `dir` or `ext`.
        placeholder: &'static str,
        /// The character that would appear twice.
        mark: char,
    },
    /// Objects with different directories or names would get the same key and overwrite each other.
    #[error("`{0}` gives the same key to different objects, and one would overwrite the other")]
    Collides(String),
    /// A new key may not show where one placeholder ends and the next one begins, so two objects
    /// could get the same key.
    #[error("s3haul cannot tell that `{0}` gives each object a key of its own")]
    Unclear(String),
}

impl Template {
    /// Returns the pieces in order.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Returns the template as it was typed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn push_literal(&mut self, c: char) {
        match self.pieces.last_mut() {
            Some(Piece::Literal(text)) => text.push(c),
            _ => self.pieces.push(Piece::Literal(c.to_string())),
        }
    }

    /// Refuses templates that would produce odd keys, or the same key for several objects.
    fn check(&self) -> Result<(), TemplateError> {
        for pair in self.pieces.windows(2) {
            let (placeholder, mark) = match pair {
                [Piece::Dir, Piece::Literal(text)] if text.starts_with('/') => ("dir", '/'),
                [Piece::Literal(text), Piece::Ext] if text.ends_with('.') => ("ext", '.'),
                _ => continue,
            };
            return Err(TemplateError::Doubled { placeholder, mark });
        }
        let identifies = |pieces: &[Piece]| {
            let has = |piece: Piece| pieces.contains(&piece);
            let has_name = has(Piece::Name) || (has(Piece::Stem) && has(Piece::Ext));
            has(Piece::Key) || (has(Piece::Dir) && has_name)
        };
        if !identifies(&self.pieces) {
            return Err(TemplateError::Collides(self.text.clone()));
        }
        // All other placeholders contain no slash, so a new key can be split at its slashes again.
        let may_have_slashes = |piece: &&Piece| matches!(piece, Piece::Key | Piece::Dir);
        let is_split = self.pieces.iter().filter(may_have_slashes).count() == 1;
        let segments = self.segments();
        let found: Vec<_> = segments.iter().flat_map(|one| readable(one)).collect();
        if is_split && identifies(&found) {
            Ok(())
        } else {
            Err(TemplateError::Unclear(self.text.clone()))
        }
    }

    /// Splits the pieces into segments at slashes. `{dir}` ends with a slash.
    fn segments(&self) -> Vec<Vec<Piece>> {
        let mut segments = Vec::new();
        let mut segment = Vec::new();
        for piece in &self.pieces {
            let Piece::Literal(text) = piece else {
                segment.push(piece.clone());
                if *piece == Piece::Dir {
                    segments.push(std::mem::take(&mut segment));
                }
                continue;
            };
            for (index, text) in text.split('/').enumerate() {
                if index > 0 {
                    segments.push(std::mem::take(&mut segment));
                }
                segment.push(Piece::Literal(text.to_owned()));
            }
        }
        segments.push(segment);
        segments
    }
}

/// Returns the placeholders (not `{size}`) whose values can be recovered from the text of a
/// segment.
fn readable(segment: &[Piece]) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut last = None;
    let mut has_mark = false;
    for piece in segment {
        if let Piece::Literal(text) = piece {
            has_mark |= !text.bytes().all(|byte| byte.is_ascii_digit());
            continue;
        }
        // Only a non-digit shows where a size begins or ends. An extension starts with a dot.
        let is_beside_size = *piece == Piece::Size || last == Some(&Piece::Size);
        if last.is_some() && is_beside_size && *piece != Piece::Ext && !has_mark {
            return Vec::new();
        }
        if *piece != Piece::Size {
            found.push(piece.clone());
        }
        last = Some(piece);
        has_mark = false;
    }
    // The last dot shows where the extension begins. A stem without an extension has no dot, so
    // nothing is ambiguous.
    let is_readable = matches!(found[..], [_] | [Piece::Stem, Piece::Ext]);
    if is_readable { found } else { Vec::new() }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut template = Self {
            text: text.to_owned(),
            pieces: Vec::new(),
        };
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            if !matches!(c, '{' | '}') {
                template.push_literal(c);
            } else if let Some(after) = rest.strip_prefix(c) {
                template.push_literal(c);
                rest = after;
            } else if c == '}' {
                return Err(TemplateError::Brace(c));
            } else {
                let (name, after) = rest.split_once('}').ok_or(TemplateError::Brace(c))?;
                let known = PLACEHOLDERS.iter().find(|(known, _)| *known == name);
                let (_, piece) = known.ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
                template.pieces.push(piece.clone());
                rest = after;
            }
        }
        template.check()?;
        Ok(template)
    }
}
