//! Compares the claims of a list page about itself with its contents and with the request.
//!
//! Without these checks, s3haul would read a page that contradicts itself as a shorter list, and
//! keys would be missing silently. Examples are a gateway that groups keys by its own delimiter, a
//! count of five next to one key, an error after the first keys, and the response to another
//! request. None of these elements is required, because servers omit most of them. Only the claims
//! that a page makes are checked.

use aws_sdk_s3::types::CommonPrefix;
use percent_encoding::percent_decode_str;

use super::convert::decode;
use super::xml::{XmlReader, XmlTag};
use crate::size::display_counted;

/// The claims of a page about itself.
#[derive(Debug, Default, PartialEq)]
pub(super) struct PageClaims {
    /// The prefix that the page claims to list, as it is written there.
    pub(super) prefix: Option<String>,
    /// The page's `KeyCount`.
    pub(super) count: Option<u64>,
    /// The first prefix that stands for a group of keys.
    pub(super) group: Option<String>,
}

impl PageClaims {
    /// Collects the claims of a page that the SDK parsed.
    pub(super) fn of(prefix: Option<&str>, groups: &[CommonPrefix]) -> Self {
        Self {
            prefix: prefix.map(str::to_owned),
            count: None,
            group: groups
                .iter()
                .find_map(|group| group.prefix())
                .map(str::to_owned),
        }
    }

    /// Returns the contradiction between a page of `entries` entries and the request for the keys
    /// below a prefix, or `None`. No request of this crate has a delimiter.
    pub(super) fn contradiction(&self, prefix: &str, entries: usize) -> Option<String> {
        if let Some(group) = &self.group {
            return Some(format!(
                "the list contains `{group}` instead of the keys below it, although the request had no delimiter"
            ));
        }
        let entries = u64::try_from(entries).unwrap_or(u64::MAX);
        if let Some(count) = self.count.filter(|count| *count > entries) {
            return Some(format!(
                "the page contains {}, but its KeyCount says {count}",
                display_counted(entries, "key")
            ));
        }
        let shown = self
            .prefix
            .as_deref()
            .filter(|shown| !shown.trim().is_empty())?;
        (!is_spelling(shown, prefix)).then(|| {
            format!("the list contains the keys below `{shown}`, but the request was for those below `{prefix}`")
        })
    }
}

/// Returns true if a server may write `text` as `shown`. Some servers encode without saying so, and
/// they encode differently.
pub(super) fn is_spelling(shown: &str, text: &str) -> bool {
    shown == text
        || percent_decode_str(shown)
            .decode_utf8()
            .is_ok_and(|plain| plain == text)
        || decode(shown.to_owned(), true).is_ok_and(|plain| plain == text)
}

/// Returns true for a document that begins as something else and contains an error.
pub(super) fn holds_error(document: &str) -> bool {
    if !document.contains("Error>") {
        return false;
    }
    let mut reader = XmlReader::new(document);
    let Ok(Some(XmlTag::Open(root))) = reader.child() else {
        return false;
    };
    while let Ok(Some(tag)) = reader.child() {
        match tag {
            XmlTag::Open("Error") => return root != "Error",
            XmlTag::Open(_) if reader.skip().is_err() => return false,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(prefix: &str) -> PageClaims {
        PageClaims {
            prefix: Some(prefix.to_owned()),
            ..PageClaims::default()
        }
    }

    #[test]
    fn a_prefix_may_be_left_out_or_encoded_and_is_no_other() {
        for (prefix, asked) in [
            ("", "a/"),
            ("\n", "a/"),
            ("a/", "a/"),
            ("a%2Fb+c", "a/b c"),
            ("a%2Fb%20c", "a/b c"),
            ("a+b%20c", "a+b c"),
            ("a+b", "a+b"),
        ] {
            assert_eq!(
                shown(prefix).contradiction(asked, 0),
                None,
                "{prefix} {asked}"
            );
        }
        for (prefix, asked) in [("b/", "a/"), ("a", "a/"), ("a/", ""), ("%FF", "a")] {
            let why = shown(prefix).contradiction(asked, 0).unwrap();
            assert!(
                why.contains(&format!(
                    "`{prefix}`, but the request was for those below `{asked}`"
                )),
                "{why}"
            );
        }
        assert_eq!(PageClaims::default().contradiction("a/", 3), None);
    }

    #[test]
    fn a_count_beyond_the_entries_is_a_contradiction_and_a_smaller_one_is_not() {
        let counted = |count| PageClaims {
            count: Some(count),
            ..PageClaims::default()
        };
        assert_eq!(
            counted(5).contradiction("", 1).unwrap(),
            "the page contains 1 key, but its KeyCount says 5"
        );
        for count in [0, 1] {
            assert_eq!(counted(count).contradiction("", 1), None);
        }
    }

    #[test]
    fn an_error_in_a_document_is_found() {
        for (document, holds) in [
            ("<L><Contents/><Error><Code>x</Code></Error></L>", true),
            ("<L><s:Error xmlns:s='x'></s:Error></L>", true),
            ("<Error><Code>Error</Code></Error>", false),
            ("<L><Contents><Key>&lt;Error></Key></Contents></L>", false),
            ("<L><Owner><Error>x</Error></Owner></L>", false),
            ("<L><Contents>", false),
            ("Error>", false),
        ] {
            assert_eq!(holds_error(document), holds, "{document}");
        }
    }
}
