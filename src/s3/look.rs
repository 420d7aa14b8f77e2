//! Compares the response to a write with HEAD of the object.

use super::{Capabilities, Head, Written, is_immutable_version};
use crate::size::{by_number, display_counted};

/// The expected result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedObject {
    /// The size in bytes.
    pub size: u64,
    /// The number of parts that the write published, or 0 for an object written with one request.
    pub parts: u32,
}

impl Written {
    /// Returns the reason why the object that was found cannot be the result of this write, or
    /// `None`. `ETag`s that do not follow from the bytes are compared only on endpoints whose
    /// responses are not trusted, because some servers return unreliable ones.
    #[must_use]
    pub fn contradicted_by(
        &self,
        found: &Head,
        made: ExpectedObject,
        capabilities: &Capabilities,
    ) -> Option<String> {
        let ExpectedObject { size, parts } = made;
        if found.size != size {
            return Some(format!("{} bytes arrived of {size}", found.size));
        }
        let named = |version: &Option<String>| {
            version
                .clone()
                .filter(|version| is_immutable_version(version))
        };
        if let Some((requested, shown)) = named(&self.version).zip(named(&found.version))
            && requested != shown
        {
            return Some(format!(
                "the server shows version {shown} instead of {requested}"
            ));
        }
        let otherwise = |what: &str, shown: &str, answered: &str| {
            Some(format!(
                "the {what} of the object is {shown}, and the answer to its write said {answered}; another writer may have \
                 replaced it"
            ))
        };
        if let Some((answered, shown)) = self.checksum.as_ref().zip(found.checksum.as_ref())
            && (answered.algorithm, answered.kind) == (shown.algorithm, shown.kind)
            && answered.value != shown.value
        {
            return otherwise(&shown.algorithm.to_string(), &shown.value, &answered.value);
        }
        let etags_tell = capabilities.content_etags || !capabilities.believes_answers();
        if etags_tell && !found.etag.is_empty() && found.etag != self.etag {
            return otherwise("ETag", &found.etag, &self.etag);
        }
        if let Some(what) = self.without_effect(found) {
            return Some(what);
        }
        let count = found
            .etag
            .rsplit_once('-')
            .and_then(|(_, count)| count.parse::<u32>().ok());
        let count =
            count.filter(|count| capabilities.content_etags && parts > 0 && *count != parts)?;
        Some(format!(
            "its ETag says {}, {parts} {} published",
            display_counted(count.into(), "part"),
            by_number(parts.into(), "was", "were")
        ))
    }

    /// Returns the reason why the object that was found is older than the write: its `ETag` differs
    /// from that in the response, and its modification time is before the request. Even a server
    /// with unreliable `ETag`s dates the objects that it writes.
    fn without_effect(&self, found: &Head) -> Option<String> {
        let since = self.since.filter(|_| found.etag != self.etag)?;
        let age = match found.modified {
            Some(modified) if modified >= since => return None,
            Some(modified) => format!("of {modified}, which is before the request"),
            None => "without a time of modification".to_owned(),
        };
        Some(format!(
            "the object there is one {age}, its ETag is {}, and the answer to its write said {}: the server answered with \
             success and did not write it",
            found.etag, self.etag
        ))
    }
}
