//! Decides which receipts of a report are about the same object.
//!
//! A transfer that copies histories (`versions: all`) has one receipt for each version of a key.
//! All other transfers have one receipt for each key. Their receipts name the version that was
//! read, or none if the object was not read (because it failed early, was stopped, or was found
//! equal by its list). So the version does not distinguish objects there.

use super::frame::ReportHeader;

/// The identity of an object in a report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjectId {
    /// The transfer's name.
    pub(super) transfer: String,
    /// `s3://bucket/key`, or a path.
    pub(super) source: String,
    /// The version, if each version of a key is an object of its own.
    version: Option<String>,
}

impl ObjectId {
    /// Returns the identity of the key, without the version.
    pub(super) fn of_key(&self) -> Self {
        Self {
            version: None,
            ..self.clone()
        }
    }
}

impl ReportHeader {
    /// Returns the identity of the object of a receipt, from its `transfer`, `source`, and
    /// `source_version`.
    pub(super) fn object(
        &self,
        transfer: String,
        source: String,
        version: Option<String>,
    ) -> ObjectId {
        // Reports of old versions do not say which transfers copy histories.
        let copies_history = self
            .histories
            .as_ref()
            .is_none_or(|histories| histories.contains(&transfer));
        ObjectId {
            transfer,
            source,
            version: version.filter(|_| copies_history),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_tells_objects_apart_only_in_a_history() {
        let header = |histories: Option<&[&str]>| ReportHeader {
            histories: histories.map(|names| names.iter().map(ToString::to_string).collect()),
            ..ReportHeader::default()
        };
        for (header, are_equal) in [
            (header(Some(&[])), true),
            (header(Some(&["other"])), true),
            (header(Some(&["t"])), false),
            // A report of an old version.
            (header(None), false),
        ] {
            let object = |version: Option<&str>| {
                header.object("t".to_owned(), "a".to_owned(), version.map(str::to_owned))
            };
            assert_eq!(object(None) == object(Some("v1")), are_equal, "{header:?}");
            assert_eq!(object(Some("v1")) == object(Some("v2")), are_equal);
            assert_eq!(object(Some("v1")), object(Some("v1")));
        }
    }
}
