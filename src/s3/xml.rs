//! Reading XML as S3 writes it: elements and text, nothing that a document about data does not
//! need.
//!
//! The SDK's own reader makes of a list of a thousand keys ten thousand texts that nobody asked
//! for. This one walks the document once and borrows from it. It knows elements, character
//! references, comments and declarations; whatever else it meets (a `DOCTYPE`, an element that does
//! not end) makes the document unreadable, which is what an answer that was cut off is, too.

use std::borrow::Cow;

/// A tag. Prefixes of names are left out, attributes too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag<'a> {
    Open(&'a str),
    Close(&'a str),
    /// `<Name/>`
    Empty(&'a str),
}

/// The rest of a document.
#[derive(Clone, Debug)]
pub(super) struct XmlReader<'a> {
    rest: &'a str,
}

/// The document cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the document is cut off or not what it should be")]
pub(super) struct Unreadable;

impl<'a> XmlReader<'a> {
    pub(super) fn new(document: &'a str) -> Self {
        Self { rest: document }
    }

    /// Returns how many bytes are left of the document.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Reads the text up to the next tag, and the tag.
    pub(super) fn next(&mut self) -> Result<(&'a str, Tag<'a>), Unreadable> {
        loop {
            let (text, rest) = self.rest.split_once('<').ok_or(Unreadable)?;
            if let Some(end) = rest
                .strip_prefix('?')
                .map(|_| "?>")
                .or(rest.strip_prefix("!--").map(|_| "-->"))
            {
                (_, self.rest) = rest.split_once(end).ok_or(Unreadable)?;
                continue;
            }
            let (tag, rest) = rest.split_once('>').ok_or(Unreadable)?;
            self.rest = rest;
            let tag = match tag.as_bytes() {
                [] | [b'!', ..] => return Err(Unreadable),
                [b'/', ..] => Tag::Close(name(&tag[1..])),
                [.., b'/'] => Tag::Empty(name(&tag[..tag.len() - 1])),
                _ => Tag::Open(name(tag)),
            };
            return Ok((text, tag));
        }
    }

    /// Reads the next child element; `None` at the end of the parent.
    pub(super) fn child(&mut self) -> Result<Option<Tag<'a>>, Unreadable> {
        match self.next()?.1 {
            Tag::Close(_) => Ok(None),
            tag => Ok(Some(tag)),
        }
    }

    /// Reads the text of the element that was opened last, which has no child elements.
    pub(super) fn text(&mut self) -> Result<Cow<'a, str>, Unreadable> {
        let (text, Tag::Close(_)) = self.next()? else {
            return Err(Unreadable);
        };
        unescape(text)
    }

    /// Passes by what is left of the element that was opened last.
    pub(super) fn skip(&mut self) -> Result<(), Unreadable> {
        let mut depth = 1_u32;
        while depth > 0 {
            match self.next()?.1 {
                Tag::Open(_) => depth += 1,
                Tag::Close(_) => depth -= 1,
                Tag::Empty(_) => {}
            }
        }
        Ok(())
    }
}

fn name(tag: &str) -> &str {
    let name = tag
        .find(|char: char| char.is_ascii_whitespace())
        .map_or(tag, |end| &tag[..end]);
    name.rsplit_once(':').map_or(name, |(_, name)| name)
}

/// Puts characters in the place of their references.
fn unescape(text: &str) -> Result<Cow<'_, str>, Unreadable> {
    let Some((begin, mut rest)) = text.split_once('&') else {
        return Ok(text.into());
    };
    let mut whole = String::with_capacity(text.len());
    whole.push_str(begin);
    loop {
        let (reference, after) = rest.split_once(';').ok_or(Unreadable)?;
        whole.push(match reference {
            "quot" => '"',
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "apos" => '\'',
            _ => {
                let number = reference.strip_prefix('#').ok_or(Unreadable)?;
                let code = match number.strip_prefix(['x', 'X']) {
                    Some(digits) => u32::from_str_radix(digits, 16),
                    None => number.parse(),
                };
                code.ok().and_then(char::from_u32).ok_or(Unreadable)?
            }
        });
        let Some((text, next)) = after.split_once('&') else {
            whole.push_str(after);
            return Ok(whole.into());
        };
        whole.push_str(text);
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_one_by_one() {
        let mut reader = XmlReader::new(
            "\n<?xml version=\"1.0\"?><!-- <a> --><s:Root xmlns:s=\"x\"> <A>1 &lt; 2</A><B/><C x='1'><D>4</D>\n<E/></C><F></F></s:Root>",
        );
        assert_eq!(reader.child(), Ok(Some(Tag::Open("Root"))));
        assert_eq!(reader.child(), Ok(Some(Tag::Open("A"))));
        assert_eq!(reader.text().unwrap(), "1 < 2");
        assert_eq!(reader.child(), Ok(Some(Tag::Empty("B"))));
        assert_eq!(reader.child(), Ok(Some(Tag::Open("C"))));
        assert_eq!(reader.skip(), Ok(()));
        assert_eq!(reader.child(), Ok(Some(Tag::Open("F"))));
        assert_eq!(reader.text().unwrap(), "");
        assert_eq!(reader.child(), Ok(None));
        assert_eq!(reader.child(), Err(Unreadable), "the document is over");
    }

    #[test]
    fn references_become_characters() {
        let all = "&quot;a&amp;b&#x41;&#233;&apos;&#10;&gt;";
        assert_eq!(unescape(all).unwrap(), "\"a&bAé'\n>");
        assert!(matches!(unescape("plain"), Ok(Cow::Borrowed("plain"))));
        for bad in ["a & b", "&nbsp;", "&#xD800;", "&#;", "&", "&lt"] {
            assert_eq!(unescape(bad), Err(Unreadable), "{bad}");
        }
    }

    #[test]
    fn what_is_cut_off_is_unreadable() {
        let document = "<R><A>1</A><B><C>2</C></B></R>";
        for end in 0..document.len() {
            let mut reader = XmlReader::new(&document[..end]);
            assert!(reader.child().and_then(|_| reader.skip()).is_err(), "{end}");
        }
        assert!(XmlReader::new("<!DOCTYPE x><R></R>").next().is_err());
    }
}
