//! Reads XML as S3 writes it: elements and text only.
//!
//! The SDK's parser allocates ten thousand strings for a list of a thousand keys. This one walks
//! the document once and borrows from it. It supports elements, character references, comments, and
//! declarations. Anything else (a `DOCTYPE`, an element that does not end) makes the document
//! unreadable; a truncated response is unreadable for the same reason.

use std::borrow::Cow;

/// A tag, without its attributes and without the prefix of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum XmlTag<'a> {
    Open(&'a str),
    Close(&'a str),
    /// `<Name/>`
    Empty(&'a str),
}

/// A parser at a position in a document.
#[derive(Clone, Debug)]
pub(super) struct XmlReader<'a> {
    rest: &'a str,
    /// The name of the element that was opened last.
    opened: &'a str,
}

/// The error for a document that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the document is cut off or not what it should be")]
pub(super) struct Unreadable;

impl<'a> XmlReader<'a> {
    pub(super) fn new(document: &'a str) -> Self {
        Self {
            rest: document,
            opened: "",
        }
    }

    /// Returns the number of bytes that are left of the document.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Reads the text up to the next tag, and the tag.
    pub(super) fn next(&mut self) -> Result<(&'a str, XmlTag<'a>), Unreadable> {
        loop {
            let (text, rest) = self.up_to_tag().ok_or(Unreadable)?;
            let rest = rest.get(1..).ok_or(Unreadable)?;
            let comment = rest.strip_prefix('?').map(|_| "?>");
            if let Some(end) = comment.or(rest.strip_prefix("!--").map(|_| "-->")) {
                (_, self.rest) = rest.split_once(end).ok_or(Unreadable)?;
                continue;
            }
            let (tag, rest) = self.tag(rest).ok_or(Unreadable)?;
            self.rest = rest;
            return Ok((text, tag));
        }
    }

    /// Returns the text up to the next tag, and the rest from the tag on.
    fn up_to_tag(&self) -> Option<(&'a str, &'a str)> {
        // Texts are short, so this is faster than the search of the standard library.
        let begin = self.rest.bytes().position(|byte| byte == b'<')?;
        self.rest.split_at_checked(begin)
    }

    /// Returns the tag after a `<`, and the rest after the tag. Reads each byte once.
    fn tag(&mut self, document: &'a str) -> Option<(XmlTag<'a>, &'a str)> {
        let (mut begin, mut name_end, mut last) = (0, None, 0);
        for (at, byte) in document.bytes().enumerate() {
            match byte {
                b'>' => {
                    let is_empty = last == b'/' && at > 1;
                    let end = name_end.unwrap_or(if is_empty { at - 1 } else { at });
                    let (name, rest) = (document.get(begin..end)?, document.get(at + 1..)?);
                    let tag = match document.as_bytes() {
                        [b'>' | b'!', ..] => return None,
                        [b'/', ..] => XmlTag::Close(name),
                        _ if is_empty => XmlTag::Empty(name),
                        _ => {
                            self.opened = name;
                            XmlTag::Open(name)
                        }
                    };
                    return Some((tag, rest));
                }
                b'/' if at == 0 => begin = 1,
                b':' if name_end.is_none() => begin = at + 1,
                _ if byte.is_ascii_whitespace() => {
                    name_end.get_or_insert(at);
                }
                _ => {}
            }
            last = byte;
        }
        None
    }

    /// Returns the text of the element that was opened last, if its end tag follows the text.
    fn leaf(&mut self) -> Option<&'a str> {
        let (text, rest) = self.up_to_tag()?;
        let rest = rest.strip_prefix("</")?.strip_prefix(self.opened)?;
        self.rest = rest.strip_prefix('>')?;
        Some(text)
    }

    /// Returns the text without resolving references.
    fn raw(&mut self) -> Result<&'a str, Unreadable> {
        if let Some(text) = self.leaf() {
            return Ok(text);
        }
        let (text, XmlTag::Close(_)) = self.next()? else {
            return Err(Unreadable);
        };
        Ok(text)
    }

    /// Reads the next child element; `None` at the end of the parent.
    pub(super) fn child(&mut self) -> Result<Option<XmlTag<'a>>, Unreadable> {
        match self.next()?.1 {
            XmlTag::Close(_) => Ok(None),
            tag => Ok(Some(tag)),
        }
    }

    /// Reads the text of the element that was opened last, which has no child elements.
    pub(super) fn text(&mut self) -> Result<Cow<'a, str>, Unreadable> {
        unescape(self.raw()?)
    }

    /// Reads the text of the element that was opened last, without the quotes around it. Removing
    /// the quotes needs no copy.
    pub(super) fn unquoted(&mut self) -> Result<Cow<'a, str>, Unreadable> {
        let raw = self.raw()?;
        let text = raw.strip_prefix("&quot;");
        let text = text.and_then(|text| text.strip_suffix("&quot;"));
        match unescape(text.unwrap_or(raw))? {
            Cow::Borrowed(text) => Ok(text.trim_matches('"').into()),
            Cow::Owned(text) => Ok(text.trim_matches('"').to_owned().into()),
        }
    }

    /// Skips the rest of the element that was opened last.
    pub(super) fn skip(&mut self) -> Result<(), Unreadable> {
        if self.leaf().is_some() {
            return Ok(());
        }
        let mut depth = 1_u32;
        while depth > 0 {
            match self.next()?.1 {
                XmlTag::Open(_) => depth += 1,
                XmlTag::Close(_) => depth -= 1,
                XmlTag::Empty(_) => {}
            }
        }
        Ok(())
    }
}

/// Replaces character references by their characters.
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
        assert_eq!(reader.child(), Ok(Some(XmlTag::Open("Root"))));
        assert_eq!(reader.child(), Ok(Some(XmlTag::Open("A"))));
        assert_eq!(reader.text().unwrap(), "1 < 2");
        assert_eq!(reader.child(), Ok(Some(XmlTag::Empty("B"))));
        assert_eq!(reader.child(), Ok(Some(XmlTag::Open("C"))));
        assert_eq!(reader.skip(), Ok(()));
        assert_eq!(reader.child(), Ok(Some(XmlTag::Open("F"))));
        assert_eq!(reader.text().unwrap(), "");
        assert_eq!(reader.child(), Ok(None));
        assert_eq!(reader.child(), Err(Unreadable), "the document is over");
    }

    #[test]
    fn names_have_no_prefix_and_no_attributes() {
        for (document, tag) in [
            ("<a:B c:d='e:f'>", XmlTag::Open("B")),
            ("</a:B >", XmlTag::Close("B")),
            ("</>", XmlTag::Close("")),
            ("<a:B/>", XmlTag::Empty("B")),
            ("<B c='/' />", XmlTag::Empty("B")),
            ("<B\n>", XmlTag::Open("B")),
            ("<é>", XmlTag::Open("é")),
        ] {
            let read = XmlReader::new(document).next();
            assert_eq!(read, Ok(("", tag)), "{document}");
        }
        for bad in ["<>", "<!A>", "<A", "<", ""] {
            assert_eq!(XmlReader::new(bad).next(), Err(Unreadable), "{bad}");
        }
    }

    #[test]
    fn a_text_ends_with_its_element() {
        for (document, text) in [
            ("<A>1</A>", Some("1")),
            ("<x:A>1</x:A>", Some("1")),
            ("<A>1</A >", Some("1")),
            ("<A>1<A>2</A></A>", None),
            ("<A>1<B/></A>", None),
            ("<A>1</A", None),
        ] {
            let mut reader = XmlReader::new(document);
            reader.child().unwrap();
            assert_eq!(reader.text().ok().as_deref(), text, "{document}");
        }
        for (document, text) in [
            ("<E>&quot;a&quot;</E>", "a"),
            ("<E>\"a\"</E>", "a"),
            ("<E>a&amp;b</E>", "a&b"),
            ("<E>&quot;a&amp;&quot;</E>", "a&"),
            ("<E>&quot;</E>", ""),
            ("<E>&#34;a&quot;</E>", "a"),
        ] {
            let mut reader = XmlReader::new(document);
            reader.child().unwrap();
            assert_eq!(reader.unquoted().unwrap(), text, "{document}");
        }
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
